//! Which domain of a topology key each node is in.

use capplan_model::kube::Node;

/// Domain of a node that does not have the label.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Domains of one node label.
#[derive(Clone, Debug)]
pub(super) struct Topology {
    pub key: String,
    values: indexmap::IndexSet<String, rustc_hash::FxBuildHasher>,
    /// Domain of each node.
    pub of: Vec<u32>,
}

impl Topology {
    /// Number of domains; some may have lost all their nodes.
    pub(super) fn len(&self) -> usize {
        self.values.len()
    }

    fn domain(&mut self, node: &Node) -> u32 {
        match node.labels.get(&self.key) {
            Some(value) => match self.values.get_index_of(value.as_str()) {
                Some(place) => place as u32,
                None => self.values.insert_full(value.clone()).0 as u32,
            },
            None => NOWHERE,
        }
    }
}

/// The topology keys that were asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Topologies {
    list: Vec<Topology>,
}

impl Topologies {
    /// Place of `key`, whose domains are worked out when it is first asked for.
    pub(super) fn find(&mut self, key: &str, nodes: &[super::cluster::NodeRow<'_>]) -> usize {
        if let Some(place) = self.place(key) {
            return place;
        }
        let mut topology = Topology { key: key.to_owned(), values: indexmap::IndexSet::default(), of: Vec::new() };
        for row in nodes {
            let domain = if row.gone { NOWHERE } else { topology.domain(&row.node) };
            topology.of.push(domain);
        }
        self.list.push(topology);
        self.list.len() - 1
    }

    /// Place of `key`, if it was asked for before.
    pub(super) fn place(&self, key: &str) -> Option<usize> {
        self.list.iter().position(|one| one.key == key)
    }

    pub(super) fn insert(&mut self, node: &Node) {
        for topology in &mut self.list {
            let domain = topology.domain(node);
            topology.of.push(domain);
        }
    }

    pub(super) fn forget(&mut self, node: usize) {
        for topology in &mut self.list {
            topology.of[node] = NOWHERE;
        }
    }

    pub(super) fn restore(&mut self, node: usize, before: &Node) {
        for topology in &mut self.list {
            topology.of[node] = topology.domain(before);
        }
    }
}

impl std::ops::Index<usize> for Topologies {
    type Output = Topology;
    fn index(&self, place: usize) -> &Topology {
        &self.list[place]
    }
}
