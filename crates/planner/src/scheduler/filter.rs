//! Filters that look at one node: what keeps a pod off it.

use std::fmt;

use capplan_model::kube::{Effect, Node, Pod, Taint};

use super::class::Class;
use super::cluster::{Cluster, NodeId, NodeRow};
use super::storage::Storage;

/// Why a pod does not go on a node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// The pod's affinity names other nodes.
    NotNamed,
    /// The node is cordoned.
    Unschedulable,
    /// The node has a taint that the pod does not tolerate.
    Taint,
    /// The node does not match the pod's node selector or affinity.
    NodeAffinity,
    /// A host port is taken.
    Ports,
    /// The node runs as many pods as it may.
    Pods,
    /// Too little CPU is left.
    Cpu,
    /// Too little memory is left.
    Memory,
    /// Too little ephemeral storage is left.
    Ephemeral,
    /// Too little of an extended resource is left.
    Extended(String),
    /// A claim that only one pod at a time may use is in use.
    ClaimInUse,
    /// The driver's volume limit of the node is reached.
    VolumeLimit,
    /// A volume cannot be used from the node.
    VolumeElsewhere,
    /// No volume can be found or made on the node.
    NoVolume,
    /// The driver reports too little capacity for the node.
    NoCapacity,
    /// A claim is bound to a volume that does not exist.
    VolumeLost,
    /// The volume's zone is another one.
    VolumeZone,
    /// The node lacks the label of a spread constraint.
    SpreadLabel,
    /// The pods would be spread too unevenly.
    Spread,
    /// No pod that this one has to be with is there.
    Affinity,
    /// A pod that this one has to keep away from is there.
    AntiAffinity,
    /// A pod is there that has to keep away from this one.
    ExistingAntiAffinity,
}

impl Reason {
    /// The scheduler's own words.
    ///
    /// # Source
    /// `ErrReason…` of the plugins in `pkg/scheduler/framework/plugins` (v1.36).
    pub fn scheduler_words(&self) -> String {
        match self {
            Self::NotNamed => "node(s) didn't satisfy plugin(s) [NodeAffinity]",
            Self::Unschedulable => "node(s) were unschedulable",
            Self::Taint => "node(s) had untolerated taint(s)",
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Self::Ports => "node(s) didn't have free ports for the requested pod ports",
            Self::Pods => "Too many pods",
            Self::Cpu => "Insufficient cpu",
            Self::Memory => "Insufficient memory",
            Self::Ephemeral => "Insufficient ephemeral-storage",
            Self::Extended(name) => return format!("Insufficient {name}"),
            Self::ClaimInUse => {
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
            }
            Self::VolumeLimit => "node(s) exceed max volume count",
            Self::VolumeElsewhere => "node(s) didn't match PersistentVolume's node affinity",
            Self::NoVolume => "node(s) didn't find available persistent volumes to bind",
            Self::NoCapacity => "node(s) did not have enough free storage",
            Self::VolumeLost => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
            Self::VolumeZone => "node(s) had no available volume zone",
            Self::SpreadLabel => "node(s) didn't match pod topology spread constraints (missing required label)",
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::Affinity => "node(s) didn't match pod affinity rules",
            Self::AntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
        }
        .to_owned()
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotNamed => "not named by the pod's affinity",
            Self::Unschedulable => "cordoned",
            Self::Taint => "taint",
            Self::NodeAffinity => "node selector or affinity",
            Self::Ports => "host port in use",
            Self::Pods => "pod count",
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Ephemeral => "ephemeral storage",
            Self::Extended(name) => name,
            Self::ClaimInUse => "claim in use by another pod",
            Self::VolumeLimit => "no free volume slot",
            Self::VolumeElsewhere => "volume cannot be used from there",
            Self::NoVolume => "no volume to be had",
            Self::NoCapacity => "too little storage capacity",
            Self::VolumeLost => "volume does not exist",
            Self::VolumeZone => "volume in another zone",
            Self::SpreadLabel => "no label to spread by",
            Self::Spread => "topology spread",
            Self::Affinity => "pod affinity",
            Self::AntiAffinity => "pod anti-affinity",
            Self::ExistingAntiAffinity => "anti-affinity of a pod there",
        })
    }
}

/// Why a pod does not go on a node, in a form that is cheap to keep for every node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    NotNamed,
    Unschedulable,
    Taint,
    NodeAffinity,
    Ports,
    /// What is short, a bit each, and whether even the empty node would be too small.
    Resources {
        short: u32,
        never: bool,
    },
    ClaimInUse,
    VolumeLimit,
    Volumes(super::storage::VolumeConflict),
    VolumeZone,
    SpreadLabel,
    Spread,
    Affinity,
    AntiAffinity,
    ExistingAntiAffinity,
}

const PODS: u32 = 1;
const CPU: u32 = 2;
const MEMORY: u32 = 4;
const EPHEMERAL: u32 = 8;
/// First bit of the extended resources, in the order of the class's list.
const EXTENDED: u32 = 16;

impl Refusal {
    /// Whether taking pods away from the node could help.
    ///
    /// # Source
    /// `Unschedulable` against `UnschedulableAndUnresolvable` of each plugin's `Filter` (v1.36).
    pub(super) fn is_resolvable(self) -> bool {
        match self {
            Self::Resources { never, .. } => !never,
            Self::Ports
            | Self::ClaimInUse
            | Self::VolumeLimit
            | Self::Spread
            | Self::AntiAffinity
            | Self::ExistingAntiAffinity => true,
            Self::NotNamed
            | Self::Unschedulable
            | Self::Taint
            | Self::NodeAffinity
            | Self::Volumes(_)
            | Self::VolumeZone
            | Self::SpreadLabel
            | Self::Affinity => false,
        }
    }

    pub(super) fn reasons(self, class: &Class, cluster: &Cluster<'_>) -> Vec<Reason> {
        match self {
            Self::NotNamed => vec![Reason::NotNamed],
            Self::Unschedulable => vec![Reason::Unschedulable],
            Self::Taint => vec![Reason::Taint],
            Self::NodeAffinity => vec![Reason::NodeAffinity],
            Self::Ports => vec![Reason::Ports],
            Self::Resources { short, .. } => {
                let named = [(PODS, Reason::Pods), (CPU, Reason::Cpu), (MEMORY, Reason::Memory), (EPHEMERAL, Reason::Ephemeral)];
                let extended = class.extended.iter().enumerate();
                let extended = extended.filter(|(place, _)| short & extended_bit(*place) != 0);
                let names = extended.map(|(_, (resource, _))| Reason::Extended(cluster.resources[*resource].clone()));
                named.into_iter().filter(|(bit, _)| short & bit != 0).map(|(_, reason)| reason).chain(names).collect()
            }
            Self::ClaimInUse => vec![Reason::ClaimInUse],
            Self::VolumeLimit => vec![Reason::VolumeLimit],
            Self::Volumes(conflict) => [
                (conflict.elsewhere, Reason::VolumeElsewhere),
                (conflict.unavailable, Reason::NoVolume),
                (conflict.full, Reason::NoCapacity),
                (conflict.lost, Reason::VolumeLost),
            ]
            .into_iter()
            .filter(|(holds, _)| *holds)
            .map(|(_, reason)| reason)
            .collect(),
            Self::VolumeZone => vec![Reason::VolumeZone],
            Self::SpreadLabel => vec![Reason::SpreadLabel],
            Self::Spread => vec![Reason::Spread],
            Self::Affinity => vec![Reason::Affinity],
            Self::AntiAffinity => vec![Reason::AntiAffinity],
            Self::ExistingAntiAffinity => vec![Reason::ExistingAntiAffinity],
        }
    }
}

/// Bit of an extended resource; those beyond the 28th share the last one.
fn extended_bit(place: usize) -> u32 {
    EXTENDED << place.min(27)
}

/// Whether the pod tolerates the taint.
pub(super) fn tolerates(pod: &Pod, taint: &Taint) -> bool {
    // The pair that DefaultTolerationSeconds adds.
    let default = pod.scheduling.default_tolerations
        && taint.effect == Effect::NoExecute
        && (taint.key == "node.kubernetes.io/not-ready" || taint.key == "node.kubernetes.io/unreachable");
    default || pod.scheduling.tolerations.iter().any(|toleration| toleration.covers(taint))
}

/// Whether a taint keeps the pod off the node.
pub(super) fn is_kept_off(pod: &Pod, node: &Node) -> bool {
    node.taints.iter().any(|taint| taint.effect != Effect::PreferNoSchedule && !tolerates(pod, taint))
}

/// Whether the node matches the pod's node selector and required node affinity.
pub(super) fn is_selected(pod: &Pod, node: &Node) -> bool {
    let rules = &pod.scheduling;
    let required = rules.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()?.required.as_ref());
    rules.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        && required.is_none_or(|selector| selector.matches(node))
}

/// Whether every node is selected, because nothing is asked for.
pub(super) fn selects_all(pod: &Pod) -> bool {
    let rules = &pod.scheduling;
    rules.node_selector.is_empty()
        && rules.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()?.required.as_ref()).is_none()
}

/// Filters whose answer depends on the node alone.
pub(super) fn of_node(pod: &Pod, node: &Node) -> Option<Refusal> {
    let cordoned = Taint::unschedulable();
    if node.unschedulable && !tolerates(pod, &cordoned) {
        Some(Refusal::Unschedulable)
    } else if is_kept_off(pod, node) {
        Some(Refusal::Taint)
    } else if !is_selected(pod, node) {
        Some(Refusal::NodeAffinity)
    } else {
        None
    }
}

/// Filters whose answer depends on what is on the node.
pub(super) fn of_load(class: &Class, node: NodeId, cluster: &Cluster<'_>) -> Option<Refusal> {
    let row = &cluster.nodes[node];
    if !class.ports.is_empty() && class.conflicts(&row.ports) {
        return Some(Refusal::Ports);
    }
    if let Some(refusal) = resources(class, node, cluster) {
        return Some(refusal);
    }
    if class.claims.is_empty() {
        return None;
    }
    if cluster.storage.is_held(&class.claims) {
        return Some(Refusal::ClaimInUse);
    }
    if exceeds_limit(class, node, cluster) {
        return Some(Refusal::VolumeLimit);
    }
    let conflict = cluster.storage.conflict(&class.claims, &row.node);
    if conflict != Default::default() {
        return Some(Refusal::Volumes(conflict));
    }
    (!cluster.storage.zone_agrees(&class.claims, &row.node)).then_some(Refusal::VolumeZone)
}

/// What is short on the node.
///
/// # Source
/// `fitsRequest`, `pkg/scheduler/framework/plugins/noderesources/fit.go` (v1.36).
fn resources(class: &Class, node: NodeId, cluster: &Cluster<'_>) -> Option<Refusal> {
    let load = &cluster.loads[node];
    let (mut short, mut never) = (0, false);
    let mut check = |bit: u32, wanted: i64, taken: i64, most: i64| {
        if wanted > 0 && wanted > most - taken {
            short |= bit;
            never |= wanted > most;
        }
    };
    check(CPU, class.cpu, load.cpu, load.most_cpu);
    check(MEMORY, class.memory, load.memory, load.most_memory);
    check(EPHEMERAL, class.ephemeral, load.ephemeral, load.most_ephemeral);
    if !class.extended.is_empty() {
        let row = &cluster.nodes[node];
        for (place, (resource, wanted)) in class.extended.iter().enumerate() {
            check(extended_bit(place), *wanted, row.extended[*resource], row.most_extended[*resource]);
        }
    }
    if load.pods + 1 > load.most_pods {
        short |= PODS;
    }
    (short != 0).then_some(Refusal::Resources { short, never })
}

/// Whether the pod's volumes are more than a driver allows on the node.
///
/// A volume that no pod here uses but that is attached counts twice, as attached and as new.
///
/// # Source
/// `CSILimits.Filter`, `pkg/scheduler/framework/plugins/nodevolumelimits/csi.go` (v1.36).
fn exceeds_limit(class: &Class, node: NodeId, cluster: &Cluster<'_>) -> bool {
    let row = &cluster.nodes[node];
    if row.limits.is_empty() {
        return false;
    }
    let is_used = |key: usize| row.volumes.iter().any(|(one, _)| *one == key);
    let mut fresh: Vec<usize> = class.claims.iter().filter_map(|claim| cluster.storage.key(*claim)).collect();
    fresh.sort_unstable();
    fresh.dedup();
    fresh.retain(|key| !is_used(*key));
    row.limits.iter().any(|(driver, limit)| {
        let of_driver = |key: &usize| cluster.storage.driver_of(*key) == *driver;
        let new = fresh.iter().filter(|key| of_driver(key)).count() as u64;
        new > 0 && counted(row, *driver, &cluster.storage) + new > *limit
    })
}

/// Volumes of a driver that the scheduler counts on a node: those of its pods, and others attached.
pub(super) fn counted(row: &NodeRow<'_>, driver: usize, storage: &Storage<'_>) -> u64 {
    let of_driver = |key: usize| storage.driver_of(key) == driver;
    let used = row.volumes.iter().filter(|(key, _)| of_driver(*key)).count();
    let is_used = |key: usize| row.volumes.iter().any(|(one, _)| *one == key);
    let attached = row.attached.iter().filter(|key| of_driver(**key) && !is_used(**key)).count();
    (used + attached) as u64
}
