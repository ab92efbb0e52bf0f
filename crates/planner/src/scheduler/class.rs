//! Pods that the scheduler cannot tell apart.
//!
//! What is worked out for one pod of a class holds for all of them, and a selector is matched once a
//! class instead of once a pod.

use std::hash::{Hash, Hasher};
use std::ops::{Index, IndexMut};

use capplan_model::kube::{Pod, PodAffinity, PodAffinityTerm};
use capplan_model::units::signed;
use hashbrown::{HashMap, HashTable};
use rustc_hash::{FxBuildHasher, FxHasher};

use super::cluster::{Cluster, HostPort, NodeId, PodId};
use super::selector::Selector;
use super::storage::ClaimId;

/// Pods that the scheduler cannot tell apart.
#[derive(Clone, Debug)]
pub(super) struct Class {
    /// A pod of the class, whose fields are those of all of them.
    pub example: PodId,
    pub cpu: i64,
    pub memory: i64,
    pub ephemeral: i64,
    pub scored_cpu: i64,
    pub scored_memory: i64,
    /// CPU and memory it counts for while its own node is sought.
    pub arriving: (i64, i64),
    pub extended: Vec<(usize, i64)>,
    pub ports: Vec<HostPort>,
    pub claims: Vec<ClaimId>,
    pub terminating: bool,
    /// Where its pods are: `(node, how many)`, by node.
    pub on: Vec<(NodeId, u32)>,
}

impl Class {
    pub(super) fn of(pod: &Pod, example: PodId, cluster: &mut Cluster<'_>) -> Self {
        let requests = &pod.requests;
        let scored = ((requests.cpu + pod.assumed.cpu).0, (requests.memory + pod.assumed.memory).0);
        let arriving = pod.assumed.on_arrival.map_or(scored, |(cpu, memory)| (cpu.0, memory.0));
        // `fitsRequest` skips resources of which nothing is asked.
        let extended = requests.extended.iter().filter(|(_, amount)| **amount > 0);
        let extended = extended.map(|(name, amount)| (cluster.resource(name), signed(*amount))).collect();
        Self {
            example,
            cpu: signed(requests.cpu.0),
            memory: signed(requests.memory.0),
            ephemeral: signed(requests.ephemeral.0),
            scored_cpu: signed(scored.0),
            scored_memory: signed(scored.1),
            arriving: (signed(arriving.0), signed(arriving.1)),
            extended,
            ports: pod.scheduling.host_ports.iter().map(sanitised).collect(),
            claims: pod.claims.iter().map(|name| cluster.storage.claim(&pod.namespace, name)).collect(),
            terminating: pod.deleting.is_some(),
            on: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, node: NodeId, sign: i64) {
        match self.on.binary_search_by_key(&node, |(one, _)| *one) {
            Ok(place) => {
                let count = &mut self.on[place].1;
                *count = count.saturating_add_signed(if sign > 0 { 1 } else { -1 });
                if *count == 0 {
                    self.on.remove(place);
                }
            }
            Err(place) if sign > 0 => self.on.insert(place, (node, 1)),
            Err(_) => {}
        }
    }

    /// Whether `self` opens a port that is taken on a node with these.
    ///
    /// # Source
    /// `HostPortInfo.CheckConflict`, `k8s.io/kube-scheduler/framework/types.go` (v1.36).
    pub(super) fn conflicts(&self, taken: &[HostPort]) -> bool {
        self.ports.iter().any(|(protocol, address, port)| {
            taken.iter().any(|(other_protocol, other_address, other_port)| {
                protocol == other_protocol
                    && port == other_port
                    && (address == ANY || other_address == ANY || address == other_address)
            })
        })
    }
}

/// The address that stands for all.
const ANY: &str = "0.0.0.0";

fn sanitised((protocol, address, port): &HostPort) -> HostPort {
    let or = |text: &str, usual: &str| if text.is_empty() { usual.to_owned() } else { text.to_owned() };
    (or(protocol, "TCP"), or(address, ANY), *port)
}

/// Terms of a pod towards other pods.
pub(super) fn required_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    part(pod, |affinity| affinity.pod_affinity.as_ref()).map_or(&[], |one| &one.required)
}

pub(super) fn required_anti_affinity(pod: &Pod) -> &[PodAffinityTerm] {
    part(pod, |affinity| affinity.pod_anti_affinity.as_ref()).map_or(&[], |one| &one.required)
}

/// Preferred terms towards other pods, with signed weights: away from them is negative.
pub(super) fn preferred_terms(pod: &Pod) -> impl Iterator<Item = (&PodAffinityTerm, i64)> {
    let towards = part(pod, |affinity| affinity.pod_affinity.as_ref()).map_or(&[][..], |one| &one.preferred);
    let away = part(pod, |affinity| affinity.pod_anti_affinity.as_ref()).map_or(&[][..], |one| &one.preferred);
    let towards = towards.iter().map(|one| (&one.pod_affinity_term, i64::from(one.weight)));
    towards.chain(away.iter().map(|one| (&one.pod_affinity_term, -i64::from(one.weight))))
}

fn part<'p>(
    pod: &'p Pod,
    which: impl Fn(&'p capplan_model::kube::Affinity) -> Option<&'p PodAffinity>,
) -> Option<&'p PodAffinity> {
    pod.scheduling.affinity.as_ref().and_then(which)
}

/// Topology keys of a pod's terms towards other pods.
pub(super) fn topology_keys(pod: &Pod) -> impl Iterator<Item = &str> {
    let required = required_affinity(pod).iter().chain(required_anti_affinity(pod));
    required.chain(preferred_terms(pod).map(|(term, _)| term)).map(|term| term.topology_key.as_str())
}

/// Whether terms of the pod select namespaces by their labels.
pub(crate) fn selects_namespaces(pod: &Pod) -> bool {
    let required = required_affinity(pod).iter().chain(required_anti_affinity(pod));
    let mut terms = required.chain(preferred_terms(pod).map(|(term, _)| term));
    terms.any(|term| term.namespace_selector.is_some())
}

fn minds_pods(pod: &Pod) -> bool {
    pod.scheduling.affinity.as_ref().is_some_and(|one| one.pod_affinity.is_some() || one.pod_anti_affinity.is_some())
}

/// All classes, found by content.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    list: Vec<Class>,
    table: HashTable<usize>,
    /// Classes by a hash of each of their labels: a superset, to be matched again.
    by_label: HashMap<u64, Vec<usize>, FxBuildHasher>,
    /// Classes with terms towards other pods.
    pub affine: Vec<usize>,
}

impl Classes {
    /// A hash that parts most classes: `alike` tells the rest.
    pub(super) fn hash(pod: &Pod) -> u64 {
        let mut hasher = FxHasher::default();
        pod.namespace.hash(&mut hasher);
        pod.claims.hash(&mut hasher);
        match &pod.owner {
            // Pods of a DaemonSet differ in the node that their affinity names.
            Some(owner) => (&owner.name, &pod.scheduling.affinity).hash(&mut hasher),
            None => (&pod.labels, &pod.requests, &pod.scheduling).hash(&mut hasher),
        }
        hasher.finish()
    }

    /// Whether the scheduler cannot tell the two apart.
    pub(super) fn alike(a: &Pod, b: &Pod) -> bool {
        a.namespace == b.namespace
            && a.labels == b.labels
            && a.owner == b.owner
            && a.claims == b.claims
            && a.requests == b.requests
            && a.assumed == b.assumed
            && a.images == b.images
            && a.scheduling == b.scheduling
            && a.deleting.is_some() == b.deleting.is_some()
    }

    pub(super) fn find<'p>(&self, hash: u64, pod: &Pod, example: impl Fn(PodId) -> &'p Pod) -> Option<usize> {
        self.table.find(hash, |class| Self::alike(pod, example(self.list[*class].example))).copied()
    }

    pub(super) fn insert<'p>(&mut self, hash: u64, class: Class, pod: &Pod, example: impl Fn(PodId) -> &'p Pod) -> usize {
        let id = self.list.len();
        self.list.push(class);
        let list = &self.list;
        self.table.insert_unique(hash, id, |class| {
            // The newest class's example is not in the table of pods yet.
            if *class == id { hash } else { Self::hash(example(list[*class].example)) }
        });
        for (key, value) in &pod.labels {
            self.by_label.entry(label_hash(key, value)).or_default().push(id);
        }
        if minds_pods(pod) {
            self.affine.push(id);
        }
        id
    }

    /// Classes that have pods somewhere and may match `selector`: a superset, to be matched again.
    pub(super) fn candidates(&self, selector: &Selector) -> Candidates<'_> {
        let lists = selector.labels().map(|(key, value)| self.by_label.get(&label_hash(key, value)));
        // No class with one of the labels: no candidate.
        match lists.map(|list| list.map_or(&[][..], Vec::as_slice)).min_by_key(|list| list.len()) {
            Some(list) => Candidates::Some(list.iter()),
            None => Candidates::All(0..self.list.len()),
        }
    }
}

/// Classes to look at.
pub(super) enum Candidates<'c> {
    Some(std::slice::Iter<'c, usize>),
    All(std::ops::Range<usize>),
}

impl Iterator for Candidates<'_> {
    type Item = usize;
    fn next(&mut self) -> Option<usize> {
        match self {
            Self::Some(list) => list.next().copied(),
            Self::All(range) => range.next(),
        }
    }
}

fn label_hash(key: &str, value: &str) -> u64 {
    let mut hasher = FxHasher::default();
    key.hash(&mut hasher);
    value.hash(&mut hasher);
    hasher.finish()
}

impl Index<usize> for Classes {
    type Output = Class;
    fn index(&self, class: usize) -> &Class {
        &self.list[class]
    }
}

impl IndexMut<usize> for Classes {
    fn index_mut(&mut self, class: usize) -> &mut Class {
        &mut self.list[class]
    }
}
