//! The scheduler's picture of a cluster: nodes with what is taken on them, pods by class, and a log
//! of every change, so that a trial can be rolled back and a judgement kept up to date.

use std::borrow::Cow;

use capplan_model::ids::NodeName;
use capplan_model::kube::{Labels, Node, Pod};
use capplan_model::units::signed;
use capplan_model::{Reading, Snapshot};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

use super::class::{Class, Classes, topology_keys};
use super::storage::{Bindings, Storage, VolumeKey};
use super::topology::Topologies;

/// Place of a node in the cluster.
pub type NodeId = usize;
/// Place of a pod in the cluster.
pub type PodId = usize;

/// A pod as it was listed, or one that a change adds.
#[derive(Clone, Debug)]
pub(super) enum Seen<'a> {
    Listed(&'a Pod),
    Added(Box<Pod>),
}

impl Seen<'_> {
    pub(super) fn pod(&self) -> &Pod {
        match self {
            Self::Listed(pod) => pod,
            Self::Added(pod) => pod,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct PodRow<'a> {
    pub seen: Seen<'a>,
    pub class: usize,
    pub node: Option<NodeId>,
    /// Order of binding among pods without a start time: later ones started later.
    pub bound: u32,
}

/// What is taken of a node's resources, and what there is. Signed: a node may hold more than it
/// allows, after its allocatable amounts shrank.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    pub pods: i64,
    /// CPU with what the scheduler assumes of containers that request none.
    pub scored_cpu: i64,
    /// Memory likewise.
    pub scored_memory: i64,
    pub most_cpu: i64,
    pub most_memory: i64,
    pub most_ephemeral: i64,
    pub most_pods: i64,
}

/// A port on the host: `(protocol, address, port)`.
pub(super) type HostPort = (String, String, u16);

#[derive(Clone, Debug)]
pub(super) struct NodeRow<'a> {
    pub node: Cow<'a, Node>,
    /// Removed: it is no candidate and in no topology.
    pub gone: bool,
    pub pods: Vec<PodId>,
    /// Extended resources in use, by resource.
    pub extended: Vec<i64>,
    /// Extended resources allocatable, by resource.
    pub most_extended: Vec<i64>,
    pub ports: Vec<HostPort>,
    /// Volumes of the pods here, with the number of pods that use each.
    pub volumes: Vec<(VolumeKey, u32)>,
    /// Volumes with a VolumeAttachment to this node.
    pub attached: Vec<VolumeKey>,
    /// Advertised limits: `(driver, count)`.
    pub limits: Vec<(usize, u64)>,
}

/// A pod came to a node or left it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Move {
    pub node: NodeId,
    pub class: usize,
    pub sign: i64,
}

#[derive(Clone, Debug)]
enum Undo {
    Unplace(PodId),
    Place(PodId, NodeId, u32),
    Unbind(Bindings),
    Detach(NodeId, VolumeKey),
    Node(NodeId, Box<Node>, bool),
}

/// The scheduler's picture of a cluster.
#[derive(Clone, Debug)]
pub struct Cluster<'a> {
    pub(super) nodes: Vec<NodeRow<'a>>,
    pub(super) loads: Vec<Load>,
    pub(super) pods: Vec<PodRow<'a>>,
    pub(super) classes: Classes,
    pub(super) resources: Vec<String>,
    pub(super) storage: Storage<'a>,
    pub(super) topologies: Topologies,
    pub(super) images: Images,
    pub(super) namespaces: HashMap<&'a str, &'a Labels, FxBuildHasher>,
    pub(super) spreading: Spreading<'a>,
    pub(super) pdbs: &'a [capplan_model::kube::Pdb],
    names: HashMap<NodeName, NodeId, FxBuildHasher>,
    /// Every arrival and departure, in order; only ever appended to.
    pub(super) moves: Vec<Move>,
    /// Changes whenever a node does, and with it what was judged about nodes.
    pub(super) epoch: u64,
    undo: Vec<Undo>,
    bound: u32,
    listed_nodes: usize,
}

/// Selectors by which pods without spread constraints of their own are spread.
#[derive(Clone, Debug, Default)]
pub(super) struct Spreading<'a> {
    pub services: HashMap<&'a str, Vec<&'a Labels>, FxBuildHasher>,
    /// Selectors of ReplicaSets and StatefulSets by `(kind, namespace, name)`.
    pub owners: HashMap<(&'a str, &'a str, &'a str), &'a capplan_model::kube::LabelSelector, FxBuildHasher>,
}

/// Images that nodes report: size, and on how many nodes.
#[derive(Clone, Debug, Default)]
pub(super) struct Images {
    by_name: HashMap<String, (u64, u32), FxBuildHasher>,
}

impl Images {
    fn add(&mut self, node: &Node, sign: i32) {
        for image in &node.images {
            for name in &image.names {
                let entry = self.by_name.entry_ref(name.as_str()).or_insert((image.size.0, 0));
                entry.1 = entry.1.saturating_add_signed(sign);
            }
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<(u64, u32)> {
        self.by_name.get(name).copied()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

impl<'a> Cluster<'a> {
    /// Builds the picture; unknown if the nodes or the pods are.
    ///
    /// Other lists that could not be read leave it incomplete: a simulation lists them as unknown.
    pub fn of(snapshot: &'a Snapshot) -> Reading<Self> {
        let kube = &snapshot.kube;
        let (nodes, pods) = match (&kube.nodes, &kube.pods) {
            (Reading::Known(nodes), Reading::Known(pods)) => (nodes, pods),
            (nodes, pods) => return Reading::unknown(nodes.why().or(pods.why()).unwrap_or("not read")),
        };
        let mut spreading = Spreading::default();
        for service in kube.services.items().iter().filter(|service| !service.selector.is_empty()) {
            spreading.services.entry(&service.namespace).or_default().push(&service.selector);
        }
        for (kind, list) in [("ReplicaSet", &kube.replica_sets), ("StatefulSet", &kube.stateful_sets)] {
            for owner in list.items() {
                if let Some(selector) = &owner.selector {
                    spreading.owners.insert((kind, &owner.namespace, &owner.name), selector);
                }
            }
        }
        let mut cluster = Self {
            nodes: Vec::with_capacity(nodes.len()),
            loads: Vec::with_capacity(nodes.len()),
            pods: Vec::with_capacity(pods.len()),
            classes: Classes::default(),
            resources: Vec::new(),
            storage: Storage::of(kube),
            topologies: Topologies::default(),
            images: Images::default(),
            namespaces: kube.namespaces.items().iter().map(|one| (one.name.as_str(), &one.labels)).collect(),
            spreading,
            pdbs: kube.pdbs.items(),
            names: HashMap::default(),
            moves: Vec::new(),
            epoch: 0,
            undo: Vec::new(),
            bound: 0,
            listed_nodes: nodes.len(),
        };
        for node in nodes {
            cluster.insert_node(Cow::Borrowed(node));
        }
        for csi_node in kube.csi_nodes.items() {
            if let Some(node) = cluster.names.get(&csi_node.name).copied() {
                cluster.nodes[node].limits = cluster.storage.limits(csi_node);
            }
        }
        for (node, keys) in cluster.storage.attachments(kube) {
            if let Some(node) = cluster.names.get(node).copied() {
                cluster.nodes[node].attached = keys;
            }
        }
        for pod in pods.iter().filter(|pod| !pod.is_terminal()) {
            let id = cluster.insert_pod(Seen::Listed(pod));
            let Some(node) = pod.node.as_ref().and_then(|name| cluster.names.get(name).copied()) else { continue };
            cluster.place(id, node, 0);
        }
        cluster.undo.clear();
        cluster.moves.clear();
        Reading::Known(cluster)
    }

    /// Nodes that are still there.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        (0..self.nodes.len()).filter(|node| !self.nodes[*node].gone)
    }

    /// Number of nodes that are still there.
    pub fn node_count(&self) -> usize {
        self.nodes.iter().filter(|row| !row.gone).count()
    }

    /// Node of that name, if it is still there.
    pub fn node_named(&self, name: &NodeName) -> Option<NodeId> {
        self.names.get(name).copied().filter(|node| !self.nodes[*node].gone)
    }

    /// The node.
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node].node
    }

    /// The pod.
    pub fn pod(&self, pod: PodId) -> &Pod {
        self.pods[pod].seen.pod()
    }

    /// Which class the pod belongs to: the scheduler cannot tell pods of one class apart.
    pub fn class(&self, pod: PodId) -> usize {
        self.pods[pod].class
    }

    /// Where the pod is.
    pub fn node_of(&self, pod: PodId) -> Option<NodeId> {
        self.pods[pod].node
    }

    /// The pods on a node.
    pub fn pods_on(&self, node: NodeId) -> &[PodId] {
        &self.nodes[node].pods
    }

    /// Whether a change added the pod.
    pub fn is_added(&self, pod: PodId) -> bool {
        matches!(self.pods[pod].seen, Seen::Added(_))
    }

    /// Nodes that a change altered and that are still there, without those it added.
    pub fn altered_nodes(&self) -> impl Iterator<Item = &Node> {
        let kept = self.nodes.iter().take(self.listed_nodes).filter(|row| !row.gone);
        kept.filter_map(|row| match &row.node {
            Cow::Owned(node) => Some(node),
            Cow::Borrowed(_) => None,
        })
    }

    /// Number of pods seen so far, wherever they are.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    fn insert_node(&mut self, node: Cow<'a, Node>) -> NodeId {
        let id = self.nodes.len();
        self.images.add(&node, 1);
        self.topologies.insert(&node);
        self.names.insert(node.name.clone(), id);
        self.loads.push(Load {
            most_cpu: signed(node.allocatable.cpu.0),
            most_memory: signed(node.allocatable.memory.0),
            most_ephemeral: signed(node.allocatable.ephemeral.0),
            most_pods: signed(node.max_pods),
            ..Load::default()
        });
        let mut row = NodeRow {
            node,
            gone: false,
            pods: Vec::new(),
            extended: vec![0; self.resources.len()],
            most_extended: vec![0; self.resources.len()],
            ports: Vec::new(),
            volumes: Vec::new(),
            attached: Vec::new(),
            limits: Vec::new(),
        };
        let extended: Vec<(String, u64)> =
            row.node.allocatable.extended.iter().map(|(name, amount)| (name.clone(), *amount)).collect();
        for (name, amount) in extended {
            let resource = self.resource(&name);
            row.most_extended.resize(self.resources.len(), 0);
            row.extended.resize(self.resources.len(), 0);
            row.most_extended[resource] = signed(amount);
        }
        self.nodes.push(row);
        id
    }

    /// Place of an extended resource, which it gets when it is first met.
    pub(super) fn resource(&mut self, name: &str) -> usize {
        if let Some(place) = self.resources.iter().position(|one| one == name) {
            return place;
        }
        self.resources.push(name.to_owned());
        for row in &mut self.nodes {
            row.extended.push(0);
            row.most_extended.push(0);
        }
        self.resources.len() - 1
    }

    fn insert_pod(&mut self, seen: Seen<'a>) -> PodId {
        let id = self.pods.len();
        // Pods of a workload follow each other in a list.
        let last = self.pods.last().map(|row| row.class);
        let alike = |class: usize| Classes::alike(seen.pod(), self.pods[self.classes[class].example].seen.pod());
        let class = match last.filter(|class| alike(*class)) {
            Some(class) => class,
            None => self.class_of(&seen, id),
        };
        self.pods.push(PodRow { seen, class, node: None, bound: 0 });
        id
    }

    fn class_of(&mut self, seen: &Seen<'a>, id: PodId) -> usize {
        let hash = Classes::hash(seen.pod());
        let pods = &self.pods;
        if let Some(class) = self.classes.find(hash, seen.pod(), |example| pods[example].seen.pod()) {
            return class;
        }
        let class = Class::of(seen.pod(), id, self);
        for key in topology_keys(seen.pod()) {
            self.topologies.find(key, &self.nodes);
        }
        let pods = &self.pods;
        self.classes.insert(hash, class, seen.pod(), |example| pods[example].seen.pod())
    }

    /// Adds a node, empty.
    pub fn add_node(&mut self, node: Node, csi: Option<&capplan_model::kube::CsiNode>) -> NodeId {
        self.epoch += 1;
        let id = self.insert_node(Cow::Owned(node));
        if let Some(csi) = csi {
            self.nodes[id].limits = self.storage.limits(csi);
            self.storage.add_csi_node(csi.clone());
        }
        id
    }

    /// Adds a pod that is nowhere yet.
    pub fn add_pod(&mut self, pod: Pod) -> PodId {
        self.insert_pod(Seen::Added(Box::new(pod)))
    }

    /// Adds a claim that is not bound yet.
    pub fn add_claim(&mut self, claim: capplan_model::kube::Claim) {
        self.storage.add_claim(claim);
    }

    /// Changes a node: cordons or taints it.
    pub fn alter_node(&mut self, node: NodeId, alter: impl FnOnce(&mut Node)) {
        self.epoch += 1;
        let row = &mut self.nodes[node];
        self.undo.push(Undo::Node(node, Box::new(row.node.as_ref().clone()), row.gone));
        alter(row.node.to_mut());
    }

    /// Takes a node out; its pods have to be taken away before.
    pub fn remove_node(&mut self, node: NodeId) {
        self.epoch += 1;
        let row = &mut self.nodes[node];
        self.undo.push(Undo::Node(node, Box::new(row.node.as_ref().clone()), row.gone));
        row.gone = true;
        self.images.add(&row.node, -1);
        self.topologies.forget(node);
    }

    /// Puts a pod on a node, binding the claims that wait for it.
    pub fn bind(&mut self, pod: PodId, node: NodeId) {
        let bindings = self.storage.bind(&self.classes[self.pods[pod].class].claims, self.nodes[node].node.as_ref());
        if !bindings.is_empty() {
            self.undo.push(Undo::Unbind(bindings));
        }
        self.bound += 1;
        self.place(pod, node, self.bound);
        self.undo.push(Undo::Unplace(pod));
    }

    /// Takes a pod off its node, if it is on one.
    pub fn take(&mut self, pod: PodId) {
        let row = &self.pods[pod];
        let (node, bound) = (row.node, row.bound);
        if let Some(node) = node {
            self.unplace(pod);
            self.undo.push(Undo::Place(pod, node, bound));
        }
    }

    /// Detaches those volumes of a pod that left the node, and that no other pod uses there.
    pub fn detach(&mut self, pod: PodId, node: NodeId) {
        let claims = &self.classes[self.pods[pod].class].claims;
        let keys: Vec<VolumeKey> = claims.iter().filter_map(|claim| self.storage.key(*claim)).collect();
        let row = &mut self.nodes[node];
        for key in keys.into_iter().filter(|key| row.volumes.iter().all(|(one, _)| one != key)) {
            if let Some(place) = row.attached.iter().position(|one| *one == key) {
                row.attached.swap_remove(place);
                self.undo.push(Undo::Detach(node, key));
            }
        }
    }

    /// Makes claims free again that were bound by placing pods here, so that these may go elsewhere.
    /// Their pods have to be taken away before; there is no way back.
    pub fn forget_bindings(&mut self) {
        self.storage.forget_bindings();
        self.epoch += 1;
    }

    /// A point to roll back to.
    pub fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Undoes everything since `mark`.
    pub fn roll_back(&mut self, mark: usize) {
        while self.undo.len() > mark {
            match self.undo.pop() {
                Some(Undo::Unplace(pod)) => self.unplace(pod),
                Some(Undo::Place(pod, node, bound)) => self.place(pod, node, bound),
                Some(Undo::Unbind(bindings)) => self.storage.unbind(bindings),
                Some(Undo::Detach(node, key)) => self.nodes[node].attached.push(key),
                Some(Undo::Node(node, before, was_gone)) => {
                    self.epoch += 1;
                    let row = &mut self.nodes[node];
                    if row.gone && !was_gone {
                        row.gone = false;
                        self.images.add(&before, 1);
                        self.topologies.restore(node, &before);
                    }
                    row.node = Cow::Owned(*before);
                }
                None => return,
            }
        }
    }

    fn place(&mut self, pod: PodId, node: NodeId, bound: u32) {
        let row = &mut self.pods[pod];
        row.node = Some(node);
        row.bound = bound;
        let class = row.class;
        self.nodes[node].pods.push(pod);
        self.count(class, node, 1);
    }

    fn unplace(&mut self, pod: PodId) {
        let row = &mut self.pods[pod];
        let Some(node) = row.node.take() else { return };
        let class = row.class;
        self.nodes[node].pods.retain(|one| *one != pod);
        self.count(class, node, -1);
    }

    fn count(&mut self, id: usize, node: NodeId, sign: i64) {
        let class = &mut self.classes[id];
        class.add(node, sign);
        let (load, row) = (&mut self.loads[node], &mut self.nodes[node]);
        let add = |sum: &mut i64, amount: i64| *sum = sum.saturating_add(sign * amount);
        add(&mut load.cpu, class.cpu);
        add(&mut load.memory, class.memory);
        add(&mut load.ephemeral, class.ephemeral);
        add(&mut load.scored_cpu, class.scored_cpu);
        add(&mut load.scored_memory, class.scored_memory);
        load.pods += sign;
        for (resource, amount) in &class.extended {
            add(&mut row.extended[*resource], *amount);
        }
        for port in &class.ports {
            if sign > 0 {
                row.ports.push(port.clone());
            } else if let Some(place) = row.ports.iter().position(|one| one == port) {
                row.ports.swap_remove(place);
            }
        }
        for claim in &class.claims {
            self.storage.use_claim(*claim, sign);
            if let Some(key) = self.storage.key(*claim) {
                match row.volumes.iter().position(|(one, _)| *one == key) {
                    Some(place) => {
                        let users = &mut row.volumes[place].1;
                        *users = users.saturating_add_signed(if sign > 0 { 1 } else { -1 });
                        if *users == 0 {
                            row.volumes.swap_remove(place);
                        }
                    }
                    None if sign > 0 => row.volumes.push((key, 1)),
                    None => {}
                }
            }
        }
        self.moves.push(Move { node, class: id, sign });
    }
}
