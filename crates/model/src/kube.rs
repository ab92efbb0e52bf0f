//! The fields we use of Kubernetes objects.
//!
//! Left out on purpose: environment variables, annotations, container commands, Secrets and
//! ConfigMaps. Nothing that can hold a credential is part of a snapshot.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{NodeName, ObjectName, PvName, VolumeHandle};
use crate::reading::Reading;
use crate::units::{Bytes, MilliCpu};

/// Label that marks a control-plane node (`kubeadm` and k3s set it).
pub const CONTROL_PLANE_LABEL: &str = "node-role.kubernetes.io/control-plane";
/// Node label that overrides the number of volumes proxmox-csi advertises.
///
/// # Source
/// proxmox-csi v0.12.0 and later; values outside 0..=30 fall back to 24.
pub const MAX_VOLUMES_LABEL: &str = "csi.proxmox.sinextra.dev/max-volume-attachments";

/// Labels or selectors, sorted by key.
pub type Labels = BTreeMap<String, String>;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The Kubernetes plane at one instant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kube {
    /// Server version such as `v1.35.7`.
    pub version: Reading<String>,
    /// Nodes.
    pub nodes: Reading<Vec<Node>>,
    /// Heartbeat leases of `kube-node-lease`: node → last renewal.
    pub leases: Reading<BTreeMap<NodeName, Timestamp>>,
    /// Pods of all namespaces.
    pub pods: Reading<Vec<Pod>>,
    /// PersistentVolumes.
    pub persistent_volumes: Reading<Vec<PersistentVolume>>,
    /// PersistentVolumeClaims.
    pub claims: Reading<Vec<Claim>>,
    /// StorageClasses.
    pub storage_classes: Reading<Vec<StorageClass>>,
    /// VolumeAttachments, seen before or after the VM configs were read.
    pub volume_attachments: Reading<Vec<VolumeAttachment>>,
    /// CSINodes.
    pub csi_nodes: Reading<Vec<CsiNode>>,
    /// CSIDrivers.
    pub csi_drivers: Reading<Vec<CsiDriver>>,
    /// CSIStorageCapacities.
    pub csi_storage_capacities: Reading<Vec<CsiStorageCapacity>>,
    /// PodDisruptionBudgets.
    pub pdbs: Reading<Vec<Pdb>>,
    /// Deployments.
    pub deployments: Reading<Vec<Workload>>,
    /// StatefulSets.
    pub stateful_sets: Reading<Vec<Workload>>,
    /// DaemonSets.
    pub daemon_sets: Reading<Vec<Workload>>,
    /// ReplicaSets.
    pub replica_sets: Reading<Vec<Workload>>,
    /// Jobs.
    pub jobs: Reading<Vec<Workload>>,
    /// CronJobs.
    pub cron_jobs: Reading<Vec<Workload>>,
    /// PriorityClasses: name → value.
    pub priority_classes: Reading<Vec<PriorityClass>>,
    /// Namespaces.
    pub namespaces: Reading<Vec<Namespace>>,
    /// Services: their selectors are what the scheduler spreads pods by.
    pub services: Reading<Vec<Service>>,
    /// ResourceQuotas.
    pub quotas: Reading<Vec<Quota>>,
    /// Events about capacity: failed attaches and mounts, evictions, failed scheduling, pressure.
    pub events: Reading<Vec<Event>>,
    /// Actual use by node, from the metrics API.
    pub node_metrics: Reading<Vec<NodeMetrics>>,
    /// Number of Calico IPAM handles; `None` where Calico's resources are not installed.
    pub ipam_handles: Reading<Option<u64>>,
}

/// Amounts of the resources that the scheduler counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// CPU time.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu: MilliCpu,
    /// Memory.
    #[serde(skip_serializing_if = "is_default")]
    pub memory: Bytes,
    /// Local ephemeral storage.
    #[serde(skip_serializing_if = "is_default")]
    pub ephemeral: Bytes,
    /// Extended resources and huge pages by name, in their base unit.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extended: BTreeMap<String, u64>,
}

impl Resources {
    /// Adds another amount to this one.
    pub fn add(&mut self, other: &Self) {
        self.cpu += other.cpu;
        self.memory += other.memory;
        self.ephemeral += other.ephemeral;
        for (name, amount) in &other.extended {
            let sum = self.extended.entry(name.clone()).or_default();
            *sum = sum.saturating_add(*amount);
        }
    }

    /// Raises each amount to at least that of `other`.
    pub fn raise_to(&mut self, other: &Self) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral = self.ephemeral.max(other.ephemeral);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
    }
}

/// A Kubernetes Node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    /// Name.
    pub name: NodeName,
    /// UID of the object.
    pub uid: String,
    /// When the object was created.
    pub created: Option<Timestamp>,
    /// Labels.
    pub labels: Labels,
    /// Taints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub taints: Vec<Taint>,
    /// Whether the node is cordoned.
    #[serde(skip_serializing_if = "is_default")]
    pub unschedulable: bool,
    /// `spec.providerID`, such as `proxmox://region/201`.
    pub provider_id: Option<String>,
    /// `status.nodeInfo.systemUUID`.
    pub system_uuid: Option<String>,
    /// `status.nodeInfo.kubeletVersion`.
    pub kubelet_version: String,
    /// Internal IP addresses.
    pub internal_ips: Vec<String>,
    /// `status.capacity`.
    pub capacity: Resources,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// `status.allocatable.pods`.
    pub max_pods: u64,
    /// Conditions by type.
    pub conditions: Vec<Condition>,
    /// `status.volumesInUse`: unique names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes_in_use: Vec<String>,
    /// `status.volumesAttached`: unique names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes_attached: Vec<String>,
    /// Images on the node as `(names, size)`; the kubelet lists at most 50 by default.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Image>,
    /// `status.nodeInfo.architecture`.
    pub architecture: String,
}

/// An image that a node reports.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// Names by tag and digest.
    pub names: Vec<String>,
    /// Size on disk.
    pub size: Bytes,
}

/// Key of the taint that the node controller puts on a cordoned node (`TaintNodeUnschedulable`).
pub const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Seconds for which a node that came back is left alone.
///
/// # Source
/// Runbook: never drain while another node was rebooted less than an hour ago.
const SETTLING: i64 = 3600;

impl Taint {
    /// The taint of a cordoned node.
    pub fn unschedulable() -> Self {
        Self { key: UNSCHEDULABLE_TAINT.into(), effect: Effect::NoSchedule, ..Self::default() }
    }
}

impl Node {
    /// Closes the node to new pods, as `kubectl cordon` and the node controller do.
    pub fn cordon(&mut self) {
        self.unschedulable = true;
        if !self.taints.iter().any(|one| one.key == UNSCHEDULABLE_TAINT) {
            self.taints.push(Taint::unschedulable());
        }
    }

    /// Opens it again.
    pub fn uncordon(&mut self) {
        self.unschedulable = false;
        self.taints.retain(|one| one.key != UNSCHEDULABLE_TAINT);
    }

    /// Whether the node runs the control plane and is closed to general pods.
    pub fn is_control_plane(&self) -> bool {
        self.runs_control_plane()
            && self.taints.iter().any(|taint| taint.key == CONTROL_PLANE_LABEL && taint.effect != Effect::PreferNoSchedule)
    }

    /// Whether the node runs the control plane, closed to general pods or not.
    pub fn runs_control_plane(&self) -> bool {
        self.labels.contains_key(CONTROL_PLANE_LABEL)
    }

    /// Whether a pod without tolerations may be scheduled here: not cordoned, no hard taint, Ready.
    pub fn takes_general_pods(&self) -> bool {
        !self.is_control_plane()
            && !self.unschedulable
            && self.is_ready()
            && self.taints.iter().all(|taint| taint.effect == Effect::PreferNoSchedule)
    }

    /// Whether the Ready condition is True.
    pub fn is_ready(&self) -> bool {
        self.condition("Ready").is_some_and(|condition| condition.status == "True")
    }

    /// Why nothing else is to be changed while this node is as it is; `None` if it is well.
    pub fn unrest(&self, at: Timestamp) -> Option<String> {
        let ready_for = self.condition("Ready").and_then(|one| one.since).map(|since| at.duration_since(since).as_secs());
        if self.unschedulable {
            Some("is cordoned: finish what is going on there first".to_owned())
        } else if !self.is_ready() {
            Some("is not ready: mend it first".to_owned())
        } else {
            let seconds = ready_for.filter(|seconds| (0..SETTLING).contains(seconds))?;
            Some(format!("became ready {} min ago: wait until an hour has passed", seconds / 60))
        }
    }

    /// A condition by its type.
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions.iter().find(|condition| condition.kind == kind)
    }
}

/// A taint of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value; empty if none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// What it keeps away.
    pub effect: Effect,
    /// When the node controller added it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Timestamp>,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Effect {
    /// Not scheduled here.
    #[default]
    NoSchedule,
    /// Scheduled elsewhere if possible.
    PreferNoSchedule,
    /// Not scheduled here and evicted.
    NoExecute,
}

/// A status condition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Condition {
    /// Type, such as `Ready`.
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// Reason, if any.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Last change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// Phase of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Accepted, not yet running.
    #[default]
    Pending,
    /// Bound and started.
    Running,
    /// Ended well; holds no capacity.
    Succeeded,
    /// Ended badly or evicted; holds no capacity.
    Failed,
    /// The node does not answer.
    Unknown,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Node it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeName>,
    /// Phase.
    pub phase: Phase,
    /// `status.reason`, such as `Evicted`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Controlling owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// Creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Deletion requested at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleting: Option<Timestamp>,
    /// `status.startTime`: when its kubelet took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it ended or was evicted, for terminal pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Timestamp>,
    /// Effective requests: max(containers + sidecars, init containers) + overhead.
    pub requests: Resources,
    /// What the scheduler adds to the requests when it scores nodes.
    #[serde(skip_serializing_if = "is_default")]
    pub assumed: Assumed,
    /// Effective limits by the same rule; a container without a limit counts as zero.
    #[serde(skip_serializing_if = "is_default")]
    pub limits: Resources,
    /// Claims it mounts, in its namespace, generic ephemeral ones included.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claims: Vec<String>,
    /// Data on the node that goes with the pod.
    #[serde(skip_serializing_if = "is_default")]
    pub local: LocalData,
    /// What the scheduler looks at beyond resources.
    #[serde(skip_serializing_if = "is_default")]
    pub scheduling: Scheduling,
    /// Why a container waits, such as `ContainerCreating`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub waiting: String,
    /// Sum of the container restarts.
    #[serde(skip_serializing_if = "is_default")]
    pub restarts: u64,
    /// Conditions that are not True, and `DisruptionTarget`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// Images, one a container, those of init containers last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Those of them that are never pulled: they must be on the node.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub never_pulled: Vec<String>,
}

/// What the scheduler assumes of containers that request nothing, when it scores nodes by what is
/// left. It never decides whether a pod fits.
///
/// # Source
/// `DefaultMilliCPURequest` (100m) and `DefaultMemoryRequest` (200 MiB) a container,
/// `pkg/scheduler/util/pod_resources.go`; `pkg/scheduler/framework/plugins/noderesources` (v1.36).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Assumed {
    /// CPU beyond the requests.
    #[serde(skip_serializing_if = "is_default")]
    pub cpu: MilliCpu,
    /// Memory beyond the requests.
    #[serde(skip_serializing_if = "is_default")]
    pub memory: Bytes,
    /// CPU and memory that the pod counts for while its own node is sought, if it has pod-level
    /// requests: the scorer leaves these out then (`NewFit` does not enable them), and counts them
    /// once the pod is on a node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_arrival: Option<(MilliCpu, Bytes)>,
}

impl Pod {
    /// Whether the pod has ended and holds no capacity any more.
    pub fn is_terminal(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// `namespace/name`.
    pub fn object_name(&self) -> ObjectName {
        ObjectName::new(&self.namespace, &self.name)
    }

    /// What makes its successor: `Kind/namespace/name`, as plans name it; `None` without an owner.
    pub fn owner_name(&self) -> Option<String> {
        let owner = self.owner.as_ref()?;
        Some(format!("{}/{}/{}", owner.kind, self.namespace, owner.name))
    }

    /// Whether a DaemonSet owns it.
    pub fn is_daemon(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.kind == "DaemonSet")
    }

    /// Whether the kubelet runs it from a file (a mirror of a static pod).
    pub fn is_mirror(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.kind == "Node")
    }

    /// Whether it is part of its node and never moves: a DaemonSet's or the kubelet's own.
    pub fn belongs_to_node(&self) -> bool {
        self.is_daemon() || self.is_mirror()
    }
}

/// Data of a pod that lives on its node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LocalData {
    /// Has an `emptyDir`.
    #[serde(skip_serializing_if = "is_default")]
    pub empty_dir: bool,
    /// Has a `hostPath`.
    #[serde(skip_serializing_if = "is_default")]
    pub host_path: bool,
}

/// The controlling owner of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// Kind, such as `ReplicaSet`.
    pub kind: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
}

/// What the scheduler looks at beyond resources. Spelled as the API spells it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Scheduling {
    /// Labels the node must have.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: Labels,
    /// Node and pod affinity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub affinity: Option<Affinity>,
    /// Tolerations, but for the two of `default_tolerations`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tolerations: Vec<Toleration>,
    /// Whether the pod tolerates a node that is not ready or unreachable for 300 s each, as the
    /// DefaultTolerationSeconds admission plugin makes nearly every pod do.
    #[serde(skip_serializing_if = "is_default")]
    pub default_tolerations: bool,
    /// Topology spread constraints.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topology_spread: Vec<TopologySpread>,
    /// Host ports as `(protocol, address, port)`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_ports: Vec<(String, String, u16)>,
    /// Priority.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i32,
    /// PriorityClass of a template, whose priority is not resolved yet.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub priority_class: String,
    /// `Never` or `PreemptLowerPriority`; empty for the default.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub preemption_policy: String,
    /// Scheduler, if not `default-scheduler`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub scheduler: String,
    /// Whether a scheduling gate holds it back.
    #[serde(skip_serializing_if = "is_default")]
    pub gated: bool,
    /// Features the simulator does not model, such as `resourceClaims`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unmodelled: Vec<String>,
}

/// A toleration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Toleration {
    /// Key; empty matches all.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// `Equal` (also when empty) or `Exists`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub operator: String,
    /// Value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Effect; `None` matches all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effect: Option<Effect>,
    /// Seconds until a NoExecute taint evicts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub toleration_seconds: Option<i64>,
}

impl Toleration {
    /// Whether this toleration covers `taint`.
    ///
    /// # Source
    /// `ToleratesTaint` in `k8s.io/component-helpers/scheduling/corev1` (v1.36).
    pub fn covers(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match self.operator.as_str() {
                "Exists" => true,
                _ => !self.key.is_empty() && self.value == taint.value,
            }
    }
}

/// Affinity of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Affinity {
    /// To nodes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeAffinity>,
    /// To pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_affinity: Option<PodAffinity>,
    /// Away from pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_anti_affinity: Option<PodAffinity>,
}

/// Affinity to nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeAffinity {
    /// Must hold: any of the terms.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution", skip_serializing_if = "Option::is_none")]
    pub required: Option<NodeSelector>,
    /// Scored.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", skip_serializing_if = "Vec::is_empty")]
    pub preferred: Vec<PreferredNodeTerm>,
}

/// Terms of which one must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSelector {
    /// The terms, joined by "or".
    pub node_selector_terms: Vec<NodeSelectorTerm>,
}

/// Requirements that must all hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeSelectorTerm {
    /// On labels.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
    /// On fields (`metadata.name`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_fields: Vec<Requirement>,
}

/// A weighted preference for nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct PreferredNodeTerm {
    /// 1 to 100.
    pub weight: i32,
    /// The term.
    pub preference: NodeSelectorTerm,
}

/// One requirement on a label or field.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct Requirement {
    /// Label or field.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt` or `Lt`.
    pub operator: String,
    /// Values.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl Requirement {
    /// Whether `value`, the label's value on the object if it has one, meets the requirement.
    pub fn holds(&self, value: Option<&str>) -> bool {
        let listed = || value.is_some_and(|value| self.values.iter().any(|one| one == value));
        let number = |text: Option<&str>| text.and_then(|text| text.parse::<i64>().ok());
        let bound = || number(self.values.first().map(String::as_str));
        match self.operator.as_str() {
            "In" => listed(),
            "NotIn" => !listed(),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            "Gt" => number(value).zip(bound()).is_some_and(|(value, bound)| value > bound),
            "Lt" => number(value).zip(bound()).is_some_and(|(value, bound)| value < bound),
            _ => false,
        }
    }
}

impl NodeSelector {
    /// Whether any term matches `node`.
    pub fn matches(&self, node: &Node) -> bool {
        self.node_selector_terms.iter().any(|term| term.matches(node))
    }
}

impl NodeSelectorTerm {
    /// Whether every requirement holds for `node`. A term without requirements matches nothing.
    pub fn matches(&self, node: &Node) -> bool {
        !(self.match_expressions.is_empty() && self.match_fields.is_empty())
            && self.match_expressions.iter().all(|one| one.holds(node.labels.get(&one.key).map(String::as_str)))
            && self.match_fields.iter().all(|one| one.key == "metadata.name" && one.holds(Some(node.name.as_str())))
    }
}

/// Affinity to or away from pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct PodAffinity {
    /// Must hold.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution", skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<PodAffinityTerm>,
    /// Scored.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", skip_serializing_if = "Vec::is_empty")]
    pub preferred: Vec<WeightedPodTerm>,
}

/// Which pods, and over which topology.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PodAffinityTerm {
    /// Pods meant; `None` matches none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<LabelSelector>,
    /// Node label that defines "together".
    pub topology_key: String,
    /// Namespaces; empty means the pod's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<String>,
    /// Namespaces by label; empty selector means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
    /// Label keys whose values must match the pod's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_label_keys: Vec<String>,
    /// Label keys whose values must differ.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mismatch_label_keys: Vec<String>,
}

/// A weighted preference for pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WeightedPodTerm {
    /// 1 to 100.
    pub weight: i32,
    /// The term.
    pub pod_affinity_term: PodAffinityTerm,
}

/// A label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    /// Equalities.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: Labels,
    /// Requirements.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

impl LabelSelector {
    /// Whether `labels` satisfy the selector; an empty selector matches everything.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|one| one.holds(labels.get(&one.key).map(String::as_str)))
    }
}

/// A topology spread constraint.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopologySpread {
    /// Largest allowed difference.
    pub max_skew: i32,
    /// Node label of the domain.
    pub topology_key: String,
    /// `DoNotSchedule` or `ScheduleAnyway`.
    pub when_unsatisfiable: String,
    /// Pods counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label_selector: Option<LabelSelector>,
    /// Least number of domains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_domains: Option<i32>,
    /// `Honor` or `Ignore`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity_policy: Option<String>,
    /// `Honor` or `Ignore`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_taints_policy: Option<String>,
    /// Label keys whose values must match the pod's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub match_label_keys: Vec<String>,
}

/// A PersistentVolume.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PersistentVolume {
    /// Name.
    pub name: PvName,
    /// CSI driver; empty if it is not a CSI volume.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// CSI volume handle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handle: Option<VolumeHandle>,
    /// Kind of a volume without CSI: `local`, `hostPath`, `nfs`, `iscsi` or `other`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// `Bound`, `Released`, `Available` or `Failed`.
    pub phase: String,
    /// When the phase last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phase_since: Option<Timestamp>,
    /// Capacity.
    pub capacity: Bytes,
    /// The claim.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim: Option<ObjectName>,
    /// StorageClass.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub storage_class: String,
    /// `Retain` or `Delete`.
    pub reclaim_policy: String,
    /// Access modes.
    pub access_modes: Vec<String>,
    /// Nodes it can be used from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_affinity: Option<NodeSelector>,
    /// Labels: its zone and region, and what a claim may select it by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Labels,
    /// Whether it is a block device instead of a file system.
    #[serde(skip_serializing_if = "is_default")]
    pub block: bool,
    /// Deletion requested at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleting: Option<Timestamp>,
}

impl PersistentVolume {
    /// Whether it may be used from one node at a time only: `ReadWriteOnce` or `ReadWriteOncePod`; so is one that
    /// names no mode.
    pub fn is_single_node(&self) -> bool {
        self.access_modes.iter().all(|mode| mode.starts_with("ReadWriteOnce"))
    }
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Claim {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `Pending`, `Bound` or `Lost`.
    pub phase: String,
    /// Bound volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<PvName>,
    /// StorageClass.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub storage_class: String,
    /// Requested size.
    pub requested: Bytes,
    /// Access modes.
    pub access_modes: Vec<String>,
    /// `volume.kubernetes.io/selected-node`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selected_node: Option<NodeName>,
    /// Volumes it may be bound to, if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// Whether it asks for a block device instead of a file system.
    #[serde(skip_serializing_if = "is_default")]
    pub block: bool,
    /// Deletion requested at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleting: Option<Timestamp>,
    /// Creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
}

/// A StorageClass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageClass {
    /// Name.
    pub name: String,
    /// Driver.
    pub provisioner: String,
    /// `Immediate` or `WaitForFirstConsumer`.
    pub binding_mode: String,
    /// `Retain` or `Delete`.
    pub reclaim_policy: String,
    /// PVE storage of the volumes (`parameters.storage`).
    #[serde(skip_serializing_if = "String::is_empty")]
    pub storage: String,
    /// Whether it is the default class.
    #[serde(skip_serializing_if = "is_default")]
    pub is_default: bool,
    /// Topologies volumes may be made in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowed_topologies: Vec<Labels>,
}

/// A VolumeAttachment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VolumeAttachment {
    /// Name.
    pub name: String,
    /// Driver that attaches.
    pub attacher: String,
    /// Node.
    pub node: NodeName,
    /// Volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<PvName>,
    /// `status.attached`.
    pub attached: bool,
    /// `status.attachError.message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attach_error: Option<String>,
    /// `status.detachError.message`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detach_error: Option<String>,
    /// Creation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Deletion requested at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deleting: Option<Timestamp>,
    /// Gone again when the list was read a second time, after the VM configs.
    #[serde(skip_serializing_if = "is_default")]
    pub vanished: bool,
}

/// A CSINode.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsiNode {
    /// Node.
    pub name: NodeName,
    /// Drivers registered there.
    pub drivers: Vec<CsiNodeDriver>,
}

/// A driver on a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsiNodeDriver {
    /// Name.
    pub name: String,
    /// `allocatable.count`; `None` is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
    /// Topology keys.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub topology_keys: Vec<String>,
}

/// A CSIDriver.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsiDriver {
    /// Name.
    pub name: String,
    /// `spec.attachRequired`.
    pub attach_required: bool,
    /// `spec.storageCapacity`.
    #[serde(skip_serializing_if = "is_default")]
    pub storage_capacity: bool,
}

/// A CSIStorageCapacity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CsiStorageCapacity {
    /// `namespace/name`.
    pub name: ObjectName,
    /// StorageClass.
    pub storage_class: String,
    /// Nodes it speaks of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<LabelSelector>,
    /// Free capacity; `None` is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Bytes>,
    /// Largest volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maximum_volume: Option<Bytes>,
}

/// A PodDisruptionBudget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pdb {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Pods it protects; `None` selects none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// `spec.minAvailable` as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_available: Option<String>,
    /// `spec.maxUnavailable` as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unavailable: Option<String>,
    /// `spec.unhealthyPodEvictionPolicy`; empty is `IfHealthyBudget`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub unhealthy_policy: String,
    /// `status.disruptionsAllowed`.
    pub disruptions_allowed: i64,
    /// `status.currentHealthy`.
    pub current_healthy: i64,
    /// `status.desiredHealthy`.
    pub desired_healthy: i64,
    /// `status.expectedPods`.
    pub expected_pods: i64,
    /// Whether the status speaks of the current spec.
    pub observed: bool,
}

/// A Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or CronJob.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Workload {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Controlling owner.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Wanted replicas (parallelism of a Job, desired number of a DaemonSet).
    pub replicas: u64,
    /// Ready replicas.
    pub ready: u64,
    /// Pods its status speaks of.
    pub current: u64,
    /// `status.terminatingReplicas`; `None` on servers that do not report it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<u64>,
    /// Whether a CronJob or Job is suspended.
    #[serde(skip_serializing_if = "is_default")]
    pub suspended: bool,
    /// Whether the controller has seen the current generation.
    pub observed: bool,
    /// Whether an update is unfinished (StatefulSet revisions differ).
    #[serde(skip_serializing_if = "is_default")]
    pub updating: bool,
    /// Selector of its pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<LabelSelector>,
    /// The pods it makes: requests, claims, scheduling, images.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<Box<Pod>>,
    /// Names of a StatefulSet's claim templates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub claim_templates: Vec<String>,
}

/// A PriorityClass.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PriorityClass {
    /// Name.
    pub name: String,
    /// Value.
    pub value: i32,
    /// Whether pods without a class get it.
    #[serde(skip_serializing_if = "is_default")]
    pub global_default: bool,
    /// `Never` or empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub preemption_policy: String,
}

/// A namespace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespace {
    /// Name.
    pub name: String,
    /// UID.
    pub uid: String,
    /// Labels.
    pub labels: Labels,
}

/// A Service, as far as the scheduler looks at it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Labels of its pods; empty if it selects none.
    pub selector: Labels,
    /// Addresses outside of the cluster that are its own: of load balancers, and external ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// A ResourceQuota.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quota {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Resource → (used, hard), in thousandths for CPU and base units otherwise.
    pub resources: BTreeMap<String, (u64, u64)>,
}

/// An event about capacity.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// `Kind/namespace/name` of the object it is about.
    pub subject: String,
    /// Reason.
    pub reason: String,
    /// Message.
    pub message: String,
    /// How often it was seen.
    pub count: u64,
    /// Last seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<Timestamp>,
}

/// Actual use of a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeMetrics {
    /// Node.
    pub name: NodeName,
    /// CPU in use.
    pub cpu: MilliCpu,
    /// Memory in use.
    pub memory: Bytes,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taint(key: &str, value: &str, effect: Effect) -> Taint {
        Taint { key: key.into(), value: value.into(), effect, time_added: None }
    }

    #[test]
    fn a_toleration_covers_what_the_scheduler_says_it_covers() {
        let gpu = taint("gpu", "true", Effect::NoSchedule);
        let all = Toleration { operator: "Exists".into(), ..Default::default() };
        let exact = Toleration { key: "gpu".into(), value: "true".into(), ..Default::default() };
        let other_value = Toleration { key: "gpu".into(), value: "no".into(), ..Default::default() };
        let other_effect = Toleration { effect: Some(Effect::NoExecute), ..exact.clone() };
        assert!(all.covers(&gpu) && exact.covers(&gpu));
        assert!(!other_value.covers(&gpu) && !other_effect.covers(&gpu));
    }

    #[test]
    fn a_labelled_control_plane_without_taint_is_a_worker() {
        let mut node = Node { labels: [(CONTROL_PLANE_LABEL.into(), String::new())].into(), ..Default::default() };
        assert!(!node.is_control_plane());
        node.taints.push(taint(CONTROL_PLANE_LABEL, "", Effect::NoSchedule));
        assert!(node.is_control_plane());
    }
}
