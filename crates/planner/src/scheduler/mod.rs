//! kube-scheduler's decisions, without kube-scheduler.
//!
//! Follows v1.36 with its default profile: the filters in its order, the default scores with their
//! weights, preemption. Each function names the source it follows. Tests compare it with recorded
//! decisions of the real one, and with the real one itself.
//!
//! Not modelled: dynamic resource allocation, pod groups, inline volumes of storage systems, nominated
//! pods, resizes in progress (the spec counts), images mounted as volumes, ReplicationControllers as
//! owners that pods are spread by, extenders and changed profiles. A pod that uses one of the first
//! three says so (`scheduling.unmodelled` of the model's pod). In a cluster of more than 100 nodes the real scheduler
//! looks at a part of them only; here all are looked at, so its choice may be another good one.

mod affinity;
mod class;
mod cluster;
mod cycle;
mod estimate;
mod filter;
mod preempt;
mod score;
mod selector;
mod spread;
mod storage;
mod topology;

use std::collections::BTreeMap;
use std::fmt;

use capplan_model::kube::{Pod, Taint};
use capplan_model::units::{Bytes, MilliCpu};
use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

pub(crate) use class::selects_namespaces;
pub use cluster::{Cluster, NodeId, PodId};
pub use estimate::{Estimate, Group, estimate};
pub use filter::Reason;
pub use preempt::Candidate;

use cycle::Cycle;
use filter::Refusal;
use storage::{ClaimId, ClaimRejection};

/// Version of kube-scheduler whose rules these are.
pub const FOLLOWS: &str = "v1.36";

/// A plugin that scores nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Plugin {
    /// Soft taints.
    TaintToleration,
    /// Preferred node affinity.
    NodeAffinity,
    /// Free CPU and memory.
    NodeResourcesFit,
    /// Evenness of CPU and memory.
    NodeResourcesBalancedAllocation,
    /// Soft topology spread.
    PodTopologySpread,
    /// Preferred affinity between pods.
    InterPodAffinity,
    /// Images that are there already.
    ImageLocality,
}

impl Plugin {
    /// Its weight in the default profile.
    pub fn weight(self) -> i64 {
        match self {
            Self::TaintToleration => 3,
            Self::NodeAffinity | Self::PodTopologySpread | Self::InterPodAffinity => 2,
            Self::NodeResourcesFit | Self::NodeResourcesBalancedAllocation | Self::ImageLocality => 1,
        }
    }

    /// Its name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::TaintToleration => "TaintToleration",
            Self::NodeAffinity => "NodeAffinity",
            Self::NodeResourcesFit => "NodeResourcesFit",
            Self::NodeResourcesBalancedAllocation => "NodeResourcesBalancedAllocation",
            Self::PodTopologySpread => "PodTopologySpread",
            Self::InterPodAffinity => "InterPodAffinity",
            Self::ImageLocality => "ImageLocality",
        }
    }
}

/// Why a pod goes nowhere, whatever the nodes are like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// A scheduling gate holds it back.
    Gated,
    /// Another scheduler looks after it.
    OtherScheduler(String),
    /// Its affinity terms name no common node.
    AffinityConflict,
    /// None of the nodes that its affinity names exists.
    NotNamed,
    /// A claim does not exist.
    ClaimMissing(String),
    /// A claim's volume does not exist any more.
    ClaimLost {
        /// The claim.
        claim: String,
        /// The volume it was bound to.
        volume: String,
    },
    /// A claim is being deleted.
    ClaimDeleting(String),
    /// A claim is not bound and does not wait for a pod.
    ClaimUnbound,
}

impl Rejection {
    /// The scheduler's own words.
    pub fn scheduler_words(&self) -> String {
        match self {
            Self::Gated => "Scheduling is blocked due to non-empty scheduling gates".to_owned(),
            Self::OtherScheduler(name) => format!("looked after by {name}"),
            Self::AffinityConflict => "pod affinity terms conflict".to_owned(),
            Self::NotNamed => "node(s) didn't satisfy plugin NodeAffinity".to_owned(),
            Self::ClaimMissing(claim) => format!("persistentvolumeclaim \"{claim}\" not found"),
            Self::ClaimLost { claim, volume } => {
                format!("persistentvolumeclaim \"{claim}\" bound to non-existent persistentvolume \"{volume}\"")
            }
            Self::ClaimDeleting(claim) => format!("persistentvolumeclaim \"{claim}\" is being deleted"),
            Self::ClaimUnbound => "pod has unbound immediate PersistentVolumeClaims".to_owned(),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gated => f.write_str("held back by a scheduling gate"),
            Self::OtherScheduler(name) => write!(f, "scheduled by {name}, which is not simulated"),
            Self::AffinityConflict => f.write_str("its node affinity terms contradict each other"),
            Self::NotNamed => f.write_str("its node affinity names no node that exists"),
            Self::ClaimMissing(claim) => write!(f, "claim {claim} does not exist"),
            Self::ClaimLost { claim, volume } => write!(f, "volume {volume} of claim {claim} does not exist"),
            Self::ClaimDeleting(claim) => write!(f, "claim {claim} is being deleted"),
            Self::ClaimUnbound => f.write_str("a claim is not bound, and no class that waits for pods makes its volume"),
        }
    }
}

/// What speaks for the whole pod, and the nodes that its affinity names, if it does.
///
/// # Source
/// `PreFilter` of NodeAffinity, VolumeRestrictions and VolumeBinding, in this order (v1.36).
fn prefilter(pod: &Pod, claims: &[ClaimId], cluster: &Cluster<'_>) -> (Option<Rejection>, Option<Vec<NodeId>>) {
    if pod.scheduling.gated {
        return (Some(Rejection::Gated), None);
    }
    if !pod.scheduling.scheduler.is_empty() {
        return (Some(Rejection::OtherScheduler(pod.scheduling.scheduler.clone())), None);
    }
    let named = match named_nodes(pod) {
        Some(names) if names.is_empty() => return (Some(Rejection::AffinityConflict), None),
        names => names.map(|names| {
            let ids = cluster.nodes().filter(|node| names.contains(&cluster.node(*node).name.as_str()));
            ids.collect::<Vec<_>>()
        }),
    };
    let rejection = cluster.storage.rejection(claims).map(|rejection| match rejection {
        ClaimRejection::Missing(claim) => Rejection::ClaimMissing(claim),
        ClaimRejection::Lost { claim, volume } => Rejection::ClaimLost { claim, volume },
        ClaimRejection::Deleting(claim) => Rejection::ClaimDeleting(claim),
        ClaimRejection::Unbound => Rejection::ClaimUnbound,
    });
    (rejection, named)
}

/// Nodes that every required affinity term names by `metadata.name`; `None` if one of them does not.
fn named_nodes(pod: &Pod) -> Option<Vec<&str>> {
    let affinity = pod.scheduling.affinity.as_ref()?.node_affinity.as_ref()?.required.as_ref()?;
    let mut all: Vec<&str> = Vec::new();
    for term in &affinity.node_selector_terms {
        let by_name = term.match_fields.iter().filter(|one| one.key == "metadata.name" && one.operator == "In");
        let names = by_name.map(|one| one.values.iter().map(String::as_str).collect::<Vec<_>>()).reduce(|mut names, others| {
            names.retain(|name| others.contains(name));
            names
        });
        all.extend(names?);
    }
    (!affinity.node_selector_terms.is_empty()).then_some(all)
}

/// Seconds until a NoExecute taint evicts the pod: zero for one that does not tolerate it, `None` for
/// one that tolerates it for ever.
pub fn toleration_seconds(pod: &Pod, taint: &Taint) -> Option<i64> {
    /// Seconds of the two tolerations that the DefaultTolerationSeconds admission plugin adds.
    const DEFAULT: i64 = 300;
    let mut covering = pod.scheduling.tolerations.iter().filter(|one| one.covers(taint)).peekable();
    if covering.peek().is_none() {
        return Some(if filter::tolerates(pod, taint) { DEFAULT } else { 0 });
    }
    // The shortest of the tolerations that name a time counts; one without a time is for ever.
    let shortest = covering.filter_map(|one| one.toleration_seconds).min();
    shortest.map(|seconds| seconds.max(0))
}

/// Whether a NoExecute taint never evicts the pod.
pub fn tolerates_for_ever(pod: &Pod, taint: &Taint) -> bool {
    toleration_seconds(pod, taint).is_none()
}

/// How a pod fares on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Why it goes nowhere whatever the nodes are like.
    pub rejection: Option<Rejection>,
    /// Nodes it may go on.
    pub feasible: Vec<NodeId>,
    /// Weighted scores of the feasible nodes, by plugin.
    pub scores: BTreeMap<Plugin, Vec<i64>>,
    /// Why not, for each of the other nodes.
    pub refused: BTreeMap<NodeId, Vec<Reason>>,
}

impl Judgement {
    /// Final scores of the feasible nodes.
    pub fn totals(&self) -> Vec<i64> {
        (0..self.feasible.len()).map(|place| self.scores.values().map(|column| column[place]).sum()).collect()
    }

    /// The nodes with the highest score: the scheduler takes any of them.
    pub fn best(&self) -> Vec<NodeId> {
        let totals = self.totals();
        let most = totals.iter().max();
        self.feasible.iter().zip(&totals).filter(|(_, total)| Some(*total) == most).map(|(node, _)| *node).collect()
    }

    /// How many nodes give each reason.
    pub fn counts(&self) -> BTreeMap<&Reason, usize> {
        let mut counts = BTreeMap::new();
        for reason in self.refused.values().flatten() {
            *counts.entry(reason).or_default() += 1;
        }
        counts
    }
}

/// Classes whose judgement is kept.
const KEPT: usize = 64;

/// The scheduler with its picture of a cluster.
#[derive(Clone, Debug)]
pub struct Scheduler<'a> {
    /// The cluster.
    pub cluster: Cluster<'a>,
    cycles: IndexMap<usize, Cycle, FxBuildHasher>,
}

impl<'a> Scheduler<'a> {
    /// A scheduler that starts from `cluster`.
    pub fn new(cluster: Cluster<'a>) -> Self {
        Self { cluster, cycles: IndexMap::default() }
    }

    fn cycle(&mut self, pod: PodId) -> (&mut Cycle, &mut Cluster<'a>) {
        let class = self.cluster.pods[pod].class;
        let fresh = match self.cycles.get_mut(&class) {
            Some(cycle) => cycle.follow(&self.cluster),
            None => false,
        };
        if !fresh {
            if self.cycles.len() >= KEPT {
                self.cycles.shift_remove_index(0);
            }
            self.cycles.insert(class, Cycle::of(pod, &mut self.cluster));
        }
        (&mut self.cycles[&class], &mut self.cluster)
    }

    fn refusal(&mut self, pod: PodId, node: NodeId) -> Option<Refusal> {
        let (cycle, cluster) = self.cycle(pod);
        cycle.refusal(node, cluster)
    }

    /// Why the pod goes nowhere, whatever the nodes are like.
    pub fn rejection(&mut self, pod: PodId) -> Option<Rejection> {
        self.cycle(pod).0.rejection().cloned()
    }

    /// Nodes the pod may go on.
    pub fn feasible(&mut self, pod: PodId) -> Vec<NodeId> {
        let (cycle, cluster) = self.cycle(pod);
        cycle.feasible(cluster)
    }

    /// The first node from `start` on, round the list and without `except`, that the pod may go on.
    pub fn first_fit(&mut self, pod: PodId, start: NodeId, except: NodeId) -> Option<NodeId> {
        let (cycle, cluster) = self.cycle(pod);
        if cycle.rejection().is_some() {
            return None;
        }
        let nodes = cluster.nodes.len();
        let mut round = (start..nodes).chain(0..start.min(nodes)).filter(|node| *node != except);
        round.find(|node| !cluster.nodes[*node].gone && cycle.refusal(*node, cluster).is_none())
    }

    /// The nodes the scheduler would choose among, all with the highest score.
    pub fn best(&mut self, pod: PodId) -> Vec<NodeId> {
        let (cycle, cluster) = self.cycle(pod);
        let feasible = cycle.feasible(cluster);
        // The scheduler scores nothing if there is no choice.
        if feasible.len() <= 1 {
            return feasible;
        }
        let mut totals = vec![0; feasible.len()];
        for (_, column) in cycle.scores(&feasible, cluster) {
            totals.iter_mut().zip(column).for_each(|(total, score)| *total += score);
        }
        let most = totals.iter().max().copied();
        feasible.into_iter().zip(totals).filter(|(_, total)| Some(*total) == most).map(|(node, _)| node).collect()
    }

    /// How the pod fares on every node.
    pub fn judge(&mut self, pod: PodId) -> Judgement {
        let (cycle, cluster) = self.cycle(pod);
        let rejection = cycle.rejection().cloned();
        let class = cluster.pods[pod].class;
        let (mut feasible, mut refused) = (Vec::new(), BTreeMap::new());
        if rejection.is_none() {
            for node in cluster.nodes() {
                match cycle.refusal(node, cluster) {
                    Some(refusal) => drop(refused.insert(node, refusal.reasons(&cluster.classes[class], cluster))),
                    None => feasible.push(node),
                }
            }
        }
        let scores = if feasible.len() > 1 { cycle.scores(&feasible, cluster).into_iter().collect() } else { BTreeMap::new() };
        Judgement { rejection, feasible, scores, refused }
    }
}

/// Why something finds no place, in groups of nodes.
#[derive(Clone, Debug, Default)]
pub struct Problem {
    /// How many nodes give which reason, and what is missing.
    pub reasons: Vec<String>,
    /// Nodes looked at.
    pub nodes: usize,
    /// The scheduler's own message.
    pub message: Option<String>,
}

impl Scheduler<'_> {
    /// Why a pod finds no place.
    pub fn problem(&mut self, pod: PodId) -> Problem {
        let judgement = self.judge(pod);
        let nodes = self.cluster.node_count();
        if let Some(rejection) = &judgement.rejection {
            let message = format!("0/{nodes} nodes are available: {}.", rejection.scheduler_words());
            return Problem { reasons: vec![rejection.to_string()], nodes, message: Some(message) };
        }
        let mut groups: BTreeMap<&Reason, Vec<NodeId>> = BTreeMap::new();
        for (node, reasons) in &judgement.refused {
            for reason in reasons {
                groups.entry(reason).or_default().push(*node);
            }
        }
        let mut words: Vec<String> =
            groups.iter().map(|(reason, nodes)| format!("{} {}", nodes.len(), reason.scheduler_words())).collect();
        words.sort();
        let message = Some(format!("0/{nodes} nodes are available: {}.", words.join(", ")));
        let mut groups: Vec<(&Reason, Vec<NodeId>)> = groups.into_iter().collect();
        groups.sort_by_key(|(reason, nodes)| (std::cmp::Reverse(nodes.len()), (*reason).clone()));
        let reasons = groups
            .into_iter()
            .map(|(reason, nodes)| format!("{} {reason}{}", nodes.len(), self.cluster.shortfall(pod, reason, &nodes)))
            .collect();
        Problem { reasons, nodes, message }
    }
}

impl Cluster<'_> {
    /// How much is missing, in words, where a reason is about an amount.
    pub fn shortfall(&self, pod: PodId, reason: &Reason, nodes: &[NodeId]) -> String {
        let class = &self.classes[self.pods[pod].class];
        let most = |free: &dyn Fn(NodeId) -> i64| nodes.iter().map(|node| free(*node)).max().unwrap_or(0).max(0).unsigned_abs();
        match reason {
            Reason::Memory => {
                let free = most(&|node| self.loads[node].most_memory - self.loads[node].memory);
                format!(" (needs {}, most free {})", Bytes(class.memory.unsigned_abs()), Bytes(free))
            }
            Reason::Cpu => {
                let free = most(&|node| self.loads[node].most_cpu - self.loads[node].cpu);
                format!(" (needs {}, most free {})", MilliCpu(class.cpu.unsigned_abs()), MilliCpu(free))
            }
            Reason::Ephemeral => {
                let free = most(&|node| self.loads[node].most_ephemeral - self.loads[node].ephemeral);
                format!(" (needs {}, most free {})", Bytes(class.ephemeral.unsigned_abs()), Bytes(free))
            }
            Reason::Extended(name) => {
                let Some((resource, wanted)) = class.extended.iter().find(|(one, _)| self.resources[*one] == *name) else {
                    return String::new();
                };
                let free = most(&|node| self.nodes[node].most_extended[*resource] - self.nodes[node].extended[*resource]);
                format!(" (needs {wanted}, most free {free})")
            }
            Reason::NotNamed
            | Reason::Unschedulable
            | Reason::Taint
            | Reason::NodeAffinity
            | Reason::Ports
            | Reason::Pods
            | Reason::ClaimInUse
            | Reason::VolumeLimit
            | Reason::VolumeElsewhere
            | Reason::NoVolume
            | Reason::NoCapacity
            | Reason::VolumeLost
            | Reason::VolumeZone
            | Reason::SpreadLabel
            | Reason::Spread
            | Reason::Affinity
            | Reason::AntiAffinity
            | Reason::ExistingAntiAffinity => String::new(),
        }
    }

    /// What is left of a dimension on a node: `cpu` (thousandths), `memory`, `ephemeral storage`, `pods`
    /// or an extended resource.
    pub fn free(&self, node: NodeId, dimension: &str) -> u64 {
        let load = &self.loads[node];
        let left = match dimension {
            "cpu" => load.most_cpu - load.cpu,
            "memory" => load.most_memory - load.memory,
            "ephemeral storage" => load.most_ephemeral - load.ephemeral,
            "pods" => load.most_pods - load.pods,
            name => self
                .resources
                .iter()
                .position(|one| one == name)
                .map_or(0, |resource| self.nodes[node].most_extended[resource] - self.nodes[node].extended[resource]),
        };
        left.max(0).unsigned_abs()
    }

    /// Volumes of a driver that the scheduler still allows on a node; `None` if it sets no limit.
    pub fn free_volumes(&self, node: NodeId, driver: &str) -> Option<u64> {
        let row = &self.nodes[node];
        let driver = self.storage.driver_named(driver)?;
        let (_, limit) = row.limits.iter().find(|(one, _)| *one == driver)?;
        Some(limit.saturating_sub(filter::counted(row, driver, &self.storage)))
    }

    /// Volumes of a pod by the driver that attaches them, where some node limits that driver's.
    pub fn volumes_by_driver(&self, pod: PodId) -> BTreeMap<&str, u64> {
        let mut counts = BTreeMap::new();
        let claims = &self.classes[self.pods[pod].class].claims;
        let keys: std::collections::BTreeSet<_> = claims.iter().filter_map(|claim| self.storage.key(*claim)).collect();
        for key in keys {
            let driver = self.storage.driver_of(key);
            if self.nodes.iter().any(|row| row.limits.iter().any(|(one, _)| *one == driver)) {
                *counts.entry(self.storage.driver_name(driver)).or_default() += 1;
            }
        }
        counts
    }

    /// Terms by which a pod must keep away from others: the node label that says what "away" means, and
    /// whom the term speaks of.
    pub fn keeps_away(&self, pod: PodId) -> Vec<(String, impl Fn(&Pod) -> bool + '_)> {
        let own = self.pod(pod);
        let terms = class::required_anti_affinity(own).iter();
        let speaks_of = |term: &'_ capplan_model::kube::PodAffinityTerm| {
            let term = term.clone();
            move |other: &Pod| selector::speaks_of(&term, &own.namespace, other, &self.namespaces)
        };
        terms.map(|term| (term.topology_key.clone(), speaks_of(term))).collect()
    }

    /// Constraints by which a pod must be spread: the node label of a domain, by how many domains may differ,
    /// and whom the constraint counts.
    pub fn spreads(&self, pod: PodId) -> Vec<(String, i64, impl Fn(&Pod) -> bool + '_)> {
        let own = self.pod(pod);
        let hard = own.scheduling.topology_spread.iter().filter(|one| one.when_unsatisfiable != "ScheduleAnyway");
        let counts = |one: &'_ capplan_model::kube::TopologySpread| {
            let selector = selector::Selector::of_spread(one, own);
            move |other: &Pod| other.namespace == own.namespace && selector.matches(&other.labels)
        };
        hard.map(|one| (one.topology_key.clone(), i64::from(one.max_skew), counts(one))).collect()
    }

    /// Whether two pods open the same port of their node.
    pub fn share_port(&self, pod: PodId, other: PodId) -> bool {
        self.classes[self.pods[pod].class].conflicts(&self.classes[self.pods[other].class].ports)
    }

    /// Whether one copy of the pod leaves the others as much as it found, but for amounts: nothing of it
    /// depends on where other pods of its kind are.
    pub fn is_independent(&self, pod: PodId) -> bool {
        let rules = &self.pod(pod).scheduling;
        let class = &self.classes[self.pods[pod].class];
        let minds = rules.affinity.as_ref().is_some_and(|affinity| {
            let terms = |one: &Option<capplan_model::kube::PodAffinity>| one.as_ref().is_some_and(|one| !one.required.is_empty());
            terms(&affinity.pod_affinity) || terms(&affinity.pod_anti_affinity)
        });
        !minds && class.ports.is_empty() && rules.topology_spread.iter().all(|one| one.when_unsatisfiable == "ScheduleAnyway")
    }

    /// How many copies of an independent pod fit on a node that takes one, each with volumes of its own, and
    /// the dimension that refuses the next one.
    pub fn copies(&self, pod: PodId, node: NodeId) -> (u64, &'static str) {
        let class = &self.classes[self.pods[pod].class];
        let (load, row) = (&self.loads[node], &self.nodes[node]);
        let times = |wanted: i64, free: i64| if wanted > 0 { (free.max(0) / wanted).unsigned_abs() } else { u64::MAX };
        let mut least = (times(1, load.most_pods - load.pods), "pods");
        let mut consider = |count: u64, dimension: &'static str| {
            if count < least.0 {
                least = (count, dimension);
            }
        };
        consider(times(class.cpu, load.most_cpu - load.cpu), "cpu");
        consider(times(class.memory, load.most_memory - load.memory), "memory-requests");
        consider(times(class.ephemeral, load.most_ephemeral - load.ephemeral), "ephemeral-storage");
        for (resource, wanted) in &class.extended {
            consider(times(*wanted, row.most_extended[*resource] - row.extended[*resource]), "extended-resource");
        }
        let keys: Vec<usize> = class.claims.iter().filter_map(|claim| self.storage.key(*claim)).collect();
        for (driver, limit) in &row.limits {
            let wanted = keys.iter().filter(|key| self.storage.driver_of(**key) == *driver).count() as u64;
            let free = limit.saturating_sub(filter::counted(row, *driver, &self.storage));
            if let Some(count) = free.checked_div(wanted) {
                consider(count, "volume-slots");
            }
        }
        least
    }
}
