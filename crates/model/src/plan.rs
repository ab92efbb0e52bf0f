//! A plan: what to do, in which order, why, and what was rejected. Nothing is left to choose.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{HostName, NodeName, SnapshotId, VmId};
use crate::policy::Join;
use crate::pve::Guest;
use crate::snapshot::Snapshot;
use crate::units::Bytes;

/// Format of the file; a newer major is refused.
pub const FORMAT: &str = "capplan.plan/1";

/// What to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Plan {
    /// `capplan.plan/1`.
    pub format: String,
    /// Hash of everything else: `sha256:` and 64 hexadecimal digits.
    pub id: String,
    /// The snapshot it rests on.
    pub based_on: SnapshotId,
    /// The instant that snapshot was taken.
    pub at: Timestamp,
    /// UID of the `kube-system` namespace.
    pub cluster: String,
    /// What to do.
    pub action: Action,
    /// On what: nodes, a host, the new worker's host.
    pub target: Option<String>,
    /// Whether it can be done.
    pub feasibility: Feasibility,
    /// Nodes in the order they are emptied, and their pods in the order they are evicted.
    pub order: Vec<NodeOrder>,
    /// Why it cannot be done; empty if it can.
    pub blockers: Vec<Blocker>,
    /// The new workers.
    pub workers: Vec<WorkerSpec>,
    /// Why, most important first.
    pub because: Vec<String>,
    /// What was considered and not chosen, and why.
    pub rejected: Vec<Rejected>,
    /// What to know before: outages to expect, data that stays behind, alerts.
    pub warnings: Vec<String>,
    /// The few facts that decide it, and the smallest change that would flip it.
    pub explanation: Vec<String>,
    /// What to do, step by step.
    pub steps: Vec<Step>,
    /// How good it is, and how that is known.
    pub optimality: Optimality,
    /// What could not be decided, and why.
    pub undecided: Vec<String>,
}

/// What a plan does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Nothing.
    #[default]
    None,
    /// Empty nodes that stay.
    Drain,
    /// Empty each node in turn; each comes back before the next one goes.
    DrainOrder,
    /// Empty every node of a host.
    Evacuate,
    /// Remove workers.
    ScaleDown,
    /// Add workers.
    ScaleUp,
    /// Get back what is lost: ghosts, forgotten volumes, dead pods.
    Reclaim,
    /// Let the scheduler use the slots that are really there.
    RaiseVolumeLabel,
    /// Move pods from the fullest worker to others.
    Rebalance,
    /// Lower the request that causes the squeeze.
    RightSize,
    /// Move small claims to another storage than the VMs' disks.
    MoveClaims,
    /// Start a stopped worker again.
    WakeSpare,
    /// Add a worker, then remove another.
    Replace,
    /// Change the size of a guest.
    ResizeGuest,
    /// Nothing here helps: the shared disk is the bottleneck.
    IoVeto,
    /// What it would rest on could not be read, or not for long enough.
    InsufficientData,
}

impl Action {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Drain => "drain",
            Self::DrainOrder => "drain-order",
            Self::Evacuate => "evacuate",
            Self::ScaleDown => "scale-down",
            Self::ScaleUp => "scale-up",
            Self::Reclaim => "reclaim",
            Self::RaiseVolumeLabel => "raise-volume-label",
            Self::Rebalance => "rebalance",
            Self::RightSize => "right-size",
            Self::MoveClaims => "move-claims",
            Self::WakeSpare => "wake-spare",
            Self::Replace => "replace",
            Self::ResizeGuest => "resize-guest",
            Self::IoVeto => "io-veto",
            Self::InsufficientData => "insufficient-data",
        }
    }
}

/// Whether a plan can be carried out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Feasibility {
    /// Every intermediate state holds.
    Feasible,
    /// Something forbids it: see the blockers.
    Blocked,
    /// That cannot be said: see what is undecided.
    #[default]
    Undecided,
}

/// A node that is emptied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NodeOrder {
    /// The node.
    pub node: NodeName,
    /// What emptying it costs.
    pub cost: Cost,
    /// Its pods in the order of their eviction, with those of other nodes that make room first.
    pub pods: Vec<PodMove>,
}

/// The cost of emptying a node: what the order of nodes follows.
///
/// # Source
/// `10·controllers + 5·singletons + 3·primaries + volumes + memory/4 GiB + role`: the drain order of the
/// scale runbook's model. Nodes with storage controllers come last whatever they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Cost {
    /// Storage controllers whose volumes are used from other nodes.
    pub controllers_with_remote_consumers: u64,
    /// Pods of which there is only one, with a volume that one node at a time may use.
    pub singleton_rwo: u64,
    /// Primaries of databases that an operator switches over.
    pub single_primary: u64,
    /// Volumes that are detached and attached again.
    pub pvc_reattach: u64,
    /// Memory that the moving pods request.
    pub memory: Bytes,
    /// Weight of the node's role, from the policy.
    pub role: f64,
    /// The sum.
    pub total: f64,
}

impl Cost {
    /// The same with its sum.
    #[must_use]
    pub fn summed(mut self) -> Self {
        let gib = self.memory.0 as f64 / f64::from(1 << 30);
        self.total = 10.0 * self.controllers_with_remote_consumers as f64
            + 5.0 * self.singleton_rwo as f64
            + 3.0 * self.single_primary as f64
            + self.pvc_reattach as f64
            + gib / 4.0
            + self.role;
        // Few digits read back as they were written, whatever reads them.
        self.total = (self.total * 1000.0).round() / 1000.0;
        self
    }
}

/// A pod that is evicted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PodMove {
    /// `namespace/name`.
    pub pod: String,
    /// UID: a StatefulSet's next pod has the same name. Empty where it is a successor that this plan makes:
    /// then any pod of the owner on that node is meant.
    pub uid: String,
    /// What makes its successor: `Kind/namespace/name`.
    pub owner: String,
    /// Where it is.
    pub from: NodeName,
    /// Where its successor is expected; `None` if nothing makes one.
    pub to: Option<NodeName>,
    /// Other nodes that the scheduler likes as much.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub or: Vec<NodeName>,
    /// Nodes to close while it looks for a place, so that it goes where it is expected.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub close: Vec<NodeName>,
    /// Other pods that use a volume of it, and leave with it: none is ready before all of them have left.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
    /// Seconds to wait after the eviction before it.
    pub stagger_seconds: u64,
    /// Volumes that are detached from one VM and attached to another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Seconds without service, at best and at worst, if it is the only one of its kind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_seconds: Option<(u64, u64)>,
}

/// Why a node cannot be emptied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct Blocker {
    /// The node.
    pub node: NodeName,
    /// The kind.
    pub code: BlockCode,
    /// The pod, volume, budget or node that blocks.
    pub subject: String,
    /// What about it, and the way out.
    pub detail: String,
}

/// Kinds of blockers. The names are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BlockCode {
    /// The node runs the control plane.
    ControlPlane,
    /// A pod needs a device that no other node has.
    Gpu,
    /// Data is on the node's own disk.
    LocalPath,
    /// A budget allows no disruption.
    PdbZero,
    /// Two budgets select one pod: the eviction API answers with an error for ever.
    PdbMultiple,
    /// Nothing makes the pod again.
    Unmanaged,
    /// The pod's image cannot be had on another node.
    ImageUnportable,
    /// Somebody claims the node or something on it.
    Claim,
    /// Outside the maintenance window.
    Window,
    /// A pod finds no place.
    NoCapacity,
    /// The control plane would lose its quorum.
    Quorum,
    /// The cluster is not in a state to be changed.
    GateFailed,
}

impl BlockCode {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::ControlPlane => "control-plane",
            Self::Gpu => "gpu",
            Self::LocalPath => "local-path",
            Self::PdbZero => "pdb-zero",
            Self::PdbMultiple => "pdb-multiple",
            Self::Unmanaged => "unmanaged",
            Self::ImageUnportable => "image-unportable",
            Self::Claim => "claim",
            Self::Window => "window",
            Self::NoCapacity => "no-capacity",
            Self::Quorum => "quorum",
            Self::GateFailed => "gate-failed",
        }
    }
}

/// Somebody works on something right now.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresenceClaim {
    /// `node:NAME`, `host:NAME`, `pvc:[NAMESPACE/]NAME`, `service:[NAMESPACE/]NAME` or `db:[NAMESPACE/]NAME`.
    pub subject: String,
    /// Who.
    pub by: String,
    /// Until when it holds; without it, until it is taken away.
    #[serde(default)]
    pub until: Option<Timestamp>,
}

/// A new worker, every choice made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WorkerSpec {
    /// Name of the VM and of the node.
    pub name: NodeName,
    /// VMID.
    pub vmid: VmId,
    /// Address with its prefix length, if the worker it is like has a fixed one.
    pub address: Option<String>,
    /// Gateway, with a fixed address.
    pub gateway: Option<String>,
    /// Host.
    pub host: HostName,
    /// Template or worker that is cloned.
    pub template: Option<VmId>,
    /// Worker it is like.
    pub like: NodeName,
    /// Memory.
    pub memory: Bytes,
    /// Virtual CPUs.
    pub cores: u64,
    /// Storage of its disks.
    pub storage: Option<String>,
    /// Size of its system disk.
    pub disk: Option<Bytes>,
    /// Labels it needs before the storage plugin registers.
    pub labels: BTreeMap<String, String>,
    /// Taints, as `key=value:effect`.
    pub taints: Vec<String>,
    /// Provider ID, if the worker that it is like has one of Proxmox VE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// Version of the kubelet that the worker it is like runs.
    #[serde(default)]
    pub kubelet_version: String,
    /// Bridge, VLAN and the like of its network device, without model and MAC address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// DNS servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nameserver: Option<String>,
    /// DNS search domains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub searchdomain: Option<String>,
    /// Pool of Proxmox VE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Where the cloud-init drive of the template is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed_slot: Option<String>,
    /// DaemonSets that run a pod on it, as `DaemonSet/namespace/name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub daemons: Vec<String>,
    /// How it joins.
    #[serde(default)]
    pub join: Join,
}

/// The guest that is meant: a VMID alone names another guest on a host of another PVE cluster, or after it
/// was given to somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestRef {
    /// Host it is on.
    pub host: HostName,
    /// VMID.
    pub vmid: VmId,
    /// Its name.
    pub name: String,
    /// Its SMBIOS UUID; without it, the guest that this plan makes is meant, which its description says.
    pub uuid: Option<String>,
}

impl GuestRef {
    /// Names a guest.
    pub fn of(guest: &Guest) -> Self {
        let uuid = guest.config.known().and_then(|config| config.uuid.clone());
        Self { host: guest.host.clone(), vmid: guest.vmid, name: guest.name.clone(), uuid }
    }

    /// The guest of a snapshot that is meant; none if anything of it differs.
    pub fn find<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Guest> {
        snapshot.guests().find(|guest| Self::of(guest) == *self)
    }
}

impl fmt::Display for GuestRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VM {} ({}) on {}", self.vmid, self.name, self.host)
    }
}

/// Something that was considered and not chosen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Rejected {
    /// What.
    pub action: Action,
    /// On what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Why not.
    pub why: String,
}

impl Rejected {
    /// An action as a whole.
    pub fn action(action: Action, why: impl Into<String>) -> Self {
        Self { action, target: None, why: why.into() }
    }

    /// An action on something.
    pub fn of(action: Action, target: impl fmt::Display, why: impl Into<String>) -> Self {
        Self { action, target: Some(target.to_string()), why: why.into() }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let action = if self.action == Action::None { "nothing" } else { self.action.name() };
        match &self.target {
            Some(target) => write!(f, "{action} of {target}: {}", self.why),
            None => write!(f, "{action}: {}", self.why),
        }
    }
}

/// One change, what it needs, and what shows that it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Number from 1.
    pub number: u64,
    /// The step in words, for who reads the file. It is written from the rest of the step and never read back: a file
    /// cannot call a step something else than it is.
    #[serde(default)]
    pub title: String,
    /// The change.
    #[serde(rename = "do")]
    pub change: StepAction,
    /// What must hold before, on a fresh reading.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<Condition>,
    /// What shows that it is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ensures: Vec<Condition>,
    /// Seconds to wait for that.
    pub deadline_seconds: u64,
}

impl Step {
    /// The step in words.
    pub fn words(&self) -> String {
        match &self.change {
            StepAction::Cordon { node } => format!("cordon {node}"),
            StepAction::Uncordon { node } => format!("uncordon {node}"),
            StepAction::Evict { pod, to: Some(to), .. } => format!("evict {pod} to {to}"),
            StepAction::Evict { pod, to: None, .. } => format!("evict {pod}"),
            StepAction::CloneGuest { template, worker } => format!("clone {template} to {worker}"),
            StepAction::SetGuest { guest, .. } => format!("set memory, cores and network of {guest}"),
            StepAction::GrowDisk { guest, slot, size } => format!("grow {slot} of {guest} to {size}"),
            StepAction::BootWorker { guest, .. } => format!("start {guest} with what it needs to join"),
            StepAction::Register { node, .. } => format!("wait until the storage plugin of {node} is registered"),
            StepAction::DropSeed { worker, .. } => format!("delete the token and the image that {worker} joined with"),
            StepAction::Probe { worker, class, .. } => {
                format!("run a pod with a volume of {class} on {worker}, and remove both")
            }
            StepAction::DeleteNode { node, .. } => format!("delete the Node object of {node}"),
            StepAction::ShutDownGuest { guest } => format!("shut down {guest}"),
            StepAction::KeepGuestOff { guest } => format!("keep {guest} from starting with its host"),
            StepAction::DisarmGuest { guest, .. } => {
                format!("make the credentials of {guest} useless: it resets itself when it is started")
            }
            StepAction::StartWithHost { guest } => format!("let {guest} start with its host"),
            StepAction::DestroyGuest { guest, snapshots } if snapshots.is_empty() => {
                format!("destroy {guest} with its own disks")
            }
            StepAction::DestroyGuest { guest, snapshots } => {
                format!("destroy {guest} with its own disks and its snapshots {}", snapshots.join(", "))
            }
            StepAction::Label { node, labels } => {
                let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("label {node} with {}", labels.join(", "))
            }
            StepAction::UnplugGhost { guest, slot, volume } => {
                format!("unplug ghost {volume} from {slot} of {guest}: its data stays")
            }
            StepAction::Wait => self.awaited(),
            StepAction::Manual { what, command } if what.is_empty() => format!("by hand: {command}"),
            StepAction::Manual { what, .. } => format!("by hand: {what}"),
        }
    }

    /// The guest that a step is about: the one that it changes, or that of the node that it deletes.
    pub fn guest(&self) -> Option<&GuestRef> {
        let of_node = self.requires.iter().find_map(|condition| {
            let Condition::VolumesGone { guest, .. } = condition else { return None };
            guest.as_ref().filter(|_| matches!(self.change, StepAction::DeleteNode { .. }))
        });
        self.change.guest().or(of_node)
    }

    /// What a step that changes nothing waits for.
    fn awaited(&self) -> String {
        let known = self.ensures.iter().find_map(|condition| {
            if let Condition::Joined { worker, .. } = condition {
                Some(format!("wait until {worker} has joined"))
            } else if let Condition::NodeEmpty { node } = condition {
                Some(format!("wait until {node} is empty and its VM holds no volume"))
            } else if let Condition::DaemonsReady { node, .. } = condition {
                Some(format!("wait until DaemonSets run on {node}"))
            } else {
                None
            }
        });
        known.unwrap_or_else(|| "wait".to_owned())
    }
}

/// The change of a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", rename_all_fields = "snake_case", tag = "kind")]
pub enum StepAction {
    /// Closes a node to new pods.
    Cordon {
        /// The node.
        node: NodeName,
    },
    /// Opens it again.
    Uncordon {
        /// The node.
        node: NodeName,
    },
    /// Evicts a pod through the eviction API.
    Evict {
        /// `namespace/name`.
        pod: String,
        /// Its UID; empty where any pod of the owner on that node is meant.
        uid: String,
        /// What makes its successor: `Kind/namespace/name`.
        owner: String,
        /// Where it is.
        node: NodeName,
        /// Where its successor is expected.
        to: Option<NodeName>,
        /// Nodes that are closed before it, and opened again once its successor has a place.
        close: Vec<NodeName>,
        /// Seconds to wait before.
        wait_seconds: u64,
    },
    /// Clones a template, with its disks in full.
    CloneGuest {
        /// The template.
        template: GuestRef,
        /// The worker that it becomes: one of the plan's.
        worker: NodeName,
    },
    /// Gives a clone what the plan says: memory, cores, network, tag, starts with its host.
    SetGuest {
        /// The guest.
        guest: GuestRef,
        /// The worker that it becomes.
        worker: NodeName,
    },
    /// Makes a disk larger.
    GrowDisk {
        /// The guest.
        guest: GuestRef,
        /// Slot, such as `scsi0`.
        slot: String,
        /// Its size then.
        size: Bytes,
    },
    /// Makes the credential with which a worker joins, hands it to its VM, and starts that.
    BootWorker {
        /// The guest.
        guest: GuestRef,
        /// The worker that it becomes.
        worker: NodeName,
    },
    /// Waits until the storage plugin is registered on a worker; has it register once more if that was before the
    /// node had its label.
    Register {
        /// The worker.
        node: NodeName,
        /// Slots that it must advertise.
        slots: Option<u64>,
    },
    /// Deletes the credential, and the image that was handed over.
    DropSeed {
        /// The guest.
        guest: GuestRef,
        /// The worker that it became.
        worker: NodeName,
    },
    /// Runs a pod with a volume on a worker, looks whether the volume is in its VM, and removes both.
    Probe {
        /// The guest.
        guest: GuestRef,
        /// The worker.
        worker: NodeName,
        /// StorageClass.
        class: String,
    },
    /// Deletes the Node object.
    DeleteNode {
        /// The node.
        node: NodeName,
        /// Its UID.
        uid: String,
    },
    /// Shuts a guest down.
    ShutDownGuest {
        /// The guest.
        guest: GuestRef,
    },
    /// Keeps a guest from starting with its host.
    KeepGuestOff {
        /// The guest.
        guest: GuestRef,
    },
    /// Makes the credentials of a worker that is off useless: it is given an image that resets it whenever it
    /// is started, and a tag that says so.
    DisarmGuest {
        /// The guest.
        guest: GuestRef,
        /// Drive that the image is put into.
        slot: String,
        /// How it had joined.
        join: Join,
    },
    /// Lets a guest start with its host.
    StartWithHost {
        /// The guest.
        guest: GuestRef,
    },
    /// Destroys a guest with its own disks.
    DestroyGuest {
        /// The guest.
        guest: GuestRef,
        /// Snapshots that may be lost with it, by name: no others may exist then.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        snapshots: Vec<String>,
    },
    /// Sets labels of a node.
    Label {
        /// The node.
        node: NodeName,
        /// The labels.
        labels: BTreeMap<String, String>,
    },
    /// Takes a volume out of a VM's config that no VolumeAttachment names: its slot is free again, its data
    /// stays.
    UnplugGhost {
        /// The guest.
        guest: GuestRef,
        /// Slot, such as `scsi15`.
        slot: String,
        /// The volume that must be there.
        volume: String,
    },
    /// Changes nothing: waits for what the step ensures.
    Wait,
    /// What only a human does. It is done when a human says so, and never by itself.
    Manual {
        /// What to do and why, in words.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        what: String,
        /// The command.
        command: String,
    },
}

impl StepAction {
    /// The guest that is changed, or whose node is; none if the change is about no guest.
    pub fn guest(&self) -> Option<&GuestRef> {
        match self {
            Self::SetGuest { guest, .. }
            | Self::GrowDisk { guest, .. }
            | Self::BootWorker { guest, .. }
            | Self::DropSeed { guest, .. }
            | Self::Probe { guest, .. }
            | Self::ShutDownGuest { guest }
            | Self::KeepGuestOff { guest }
            | Self::DisarmGuest { guest, .. }
            | Self::StartWithHost { guest }
            | Self::DestroyGuest { guest, .. }
            | Self::UnplugGhost { guest, .. } => Some(guest),
            Self::CloneGuest { template, .. } => Some(template),
            Self::Cordon { .. }
            | Self::Uncordon { .. }
            | Self::Evict { .. }
            | Self::Register { .. }
            | Self::DeleteNode { .. }
            | Self::Label { .. }
            | Self::Wait
            | Self::Manual { .. } => None,
        }
    }
}

/// Something that holds or does not, on a fresh reading.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", rename_all_fields = "snake_case", tag = "kind")]
pub enum Condition {
    /// No other node is cordoned, not ready, or came back less than an hour ago.
    OthersHealthy {
        /// All but these.
        except: Vec<NodeName>,
    },
    /// The node exists with this UID.
    NodeIs {
        /// The node.
        node: NodeName,
        /// Its UID.
        uid: String,
    },
    /// The node does not exist.
    NodeGone {
        /// The node.
        node: NodeName,
    },
    /// The node is closed to new pods.
    Cordoned {
        /// The node.
        node: NodeName,
    },
    /// The node takes new pods.
    Schedulable {
        /// The node.
        node: NodeName,
    },
    /// The node is ready.
    NodeReady {
        /// The node.
        node: NodeName,
    },
    /// The pod with this UID is on the node; without a UID, some pod of the owner.
    PodIs {
        /// `namespace/name`.
        pod: String,
        /// Its UID.
        uid: String,
        /// `Kind/namespace/name`.
        owner: String,
        /// The node.
        node: NodeName,
    },
    /// The pod with this UID is gone.
    PodGone {
        /// `namespace/name`.
        pod: String,
        /// Its UID.
        uid: String,
    },
    /// As many pods of the owner are ready as before, without the one that was evicted.
    SuccessorReady {
        /// `Kind/namespace/name`.
        owner: String,
        /// Where the newest is expected; the scheduler may decide otherwise.
        on: Vec<NodeName>,
    },
    /// Only pods that belong to the node are on it.
    NodeEmpty {
        /// The node.
        node: NodeName,
    },
    /// No VolumeAttachment names the node, and its VM holds no volume of a claim.
    VolumesGone {
        /// The node.
        node: NodeName,
        /// Its VM, if that is known.
        guest: Option<GuestRef>,
    },
    /// The guest is the one that was meant: same host, VMID, name and UUID.
    GuestIs {
        /// The guest.
        guest: GuestRef,
    },
    /// The guest is stopped.
    GuestStopped {
        /// The guest.
        guest: GuestRef,
    },
    /// The guest may be destroyed: see [`crate::disposal::objections`].
    Disposable {
        /// The guest.
        guest: GuestRef,
        /// Snapshots that may be lost with it, by name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        snapshots: Vec<String>,
    },
    /// The HA manager does not manage the guest: it would start it again, or stop it in a way of its own.
    HaUnmanaged {
        /// The guest.
        guest: GuestRef,
    },
    /// No guest has this VMID on that host.
    GuestGone {
        /// The guest.
        guest: GuestRef,
    },
    /// The guest does not start with its host.
    GuestStaysOff {
        /// The guest.
        guest: GuestRef,
    },
    /// The guest starts with its host.
    GuestStartsWithHost {
        /// The guest.
        guest: GuestRef,
    },
    /// The host has this much memory available.
    HostMemory {
        /// The host.
        host: HostName,
        /// At least.
        available: Bytes,
    },
    /// No guest that this host's PVE cluster knows has this VMID, and nothing this address.
    Unused {
        /// Host.
        host: HostName,
        /// VMID.
        vmid: VmId,
        /// Address.
        address: Option<String>,
    },
    /// The node is ready, and the storage plugin runs there with this many slots.
    WorkerReady {
        /// The node.
        node: NodeName,
        /// Slots advertised.
        slots: Option<u64>,
    },
    /// The slot holds this volume, and no VolumeAttachment names it, read twice, a minute apart.
    Ghost {
        /// The guest.
        guest: GuestRef,
        /// Slot.
        slot: String,
        /// The volume.
        volume: String,
    },
    /// The slot of the VM is empty.
    SlotEmpty {
        /// The guest.
        guest: GuestRef,
        /// Slot.
        slot: String,
    },
    /// The node has the labels.
    Labelled {
        /// The node.
        node: NodeName,
        /// The labels.
        labels: BTreeMap<String, String>,
    },
    /// The guest resets itself when it is started.
    Disarmed {
        /// The guest.
        guest: GuestRef,
        /// Storage of its image.
        storage: String,
    },
    /// The guest runs.
    GuestRunning {
        /// The guest.
        guest: GuestRef,
    },
    /// The guest has what the plan says of the worker that it becomes.
    GuestSet {
        /// The guest.
        guest: GuestRef,
        /// The worker.
        worker: NodeName,
    },
    /// The disk is at least so large.
    DiskSize {
        /// The guest.
        guest: GuestRef,
        /// Slot.
        slot: String,
        /// Size.
        size: Bytes,
    },
    /// The VM runs the node of this name, which is ready.
    Joined {
        /// The guest.
        guest: GuestRef,
        /// The worker.
        worker: NodeName,
    },
    /// The image that it was handed is out of the drive.
    SeedGone {
        /// The guest.
        guest: GuestRef,
        /// The worker.
        worker: NodeName,
    },
    /// Pods of these DaemonSets are ready on the node.
    DaemonsReady {
        /// The node.
        node: NodeName,
        /// `DaemonSet/namespace/name`.
        owners: Vec<String>,
    },
    /// The metrics API knows the node.
    Measured {
        /// The node.
        node: NodeName,
    },
}

/// How good a plan is, and how that is known.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Optimality {
    /// What is known.
    pub status: OptimalityStatus,
    /// Number of pods that move; `None` if nothing was optimised.
    pub objective: Option<f64>,
    /// No plan moves fewer.
    pub bound: Option<f64>,
    /// `(objective − bound) / objective`.
    pub gap: Option<f64>,
    /// What was minimised, most important first, and by what means.
    pub note: String,
}

/// What is known about the optimum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OptimalityStatus {
    /// Proven best.
    Optimal,
    /// Good, with a gap to the bound.
    Feasible,
    /// Proven impossible.
    Infeasible,
    /// Nothing was found within the limits, and nothing ruled out.
    Unknown,
    /// There was nothing to optimise.
    #[default]
    NotApplicable,
}

impl Optimality {
    /// Of a plan with this many moves, of which at least `bound` are needed.
    pub fn of(objective: u64, bound: u64, note: impl Into<String>) -> Self {
        let bound = bound.min(objective);
        let status = if bound == objective { OptimalityStatus::Optimal } else { OptimalityStatus::Feasible };
        let gap = if objective == 0 { 0.0 } else { (objective - bound) as f64 / objective as f64 };
        let gap = (gap * 10_000.0).round() / 10_000.0;
        Self { status, objective: Some(objective as f64), bound: Some(bound as f64), gap: Some(gap), note: note.into() }
    }
}

/// Why a file is no plan that can be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not JSON, or not a plan.
    #[error("not a capplan plan")]
    Content(#[source] serde_json::Error),
    /// A format this version does not read.
    #[error("format is {found}, this capplan reads {FORMAT}")]
    Format {
        /// What the file says.
        found: String,
    },
    /// It was changed after it was made.
    #[error("the plan does not match its id: it was changed, make a new one")]
    Changed,
}

impl Plan {
    /// A plan that does nothing yet.
    pub fn empty(action: Action, based_on: SnapshotId, at: Timestamp, cluster: String) -> Self {
        Self {
            format: FORMAT.to_owned(),
            id: String::new(),
            based_on,
            at,
            cluster,
            action,
            target: None,
            feasibility: Feasibility::Undecided,
            order: Vec::new(),
            blockers: Vec::new(),
            workers: Vec::new(),
            because: Vec::new(),
            rejected: Vec::new(),
            warnings: Vec::new(),
            explanation: Vec::new(),
            steps: Vec::new(),
            optimality: Optimality::default(),
            undecided: Vec::new(),
        }
    }

    /// The new worker of this name.
    pub fn worker(&self, name: &NodeName) -> Option<&WorkerSpec> {
        self.workers.iter().find(|spec| spec.name == *name)
    }

    /// The same with the id of its content.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.id = self.content_id();
        self
    }

    fn content_id(&self) -> String {
        let mut content = Self { id: String::new(), ..self.clone() };
        // Titles are written from the rest.
        content.steps.iter_mut().for_each(|step| step.title.clear());
        let text = serde_json::to_vec(&content).expect("every value of a plan can be written");
        let digits: Vec<String> = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sha256:{}", digits.concat())
    }

    /// Reads a plan file.
    ///
    /// # Errors
    /// [`PlanError`] if it is none, of a newer format, or was changed.
    pub fn read(text: &[u8]) -> Result<Self, PlanError> {
        #[derive(Deserialize)]
        struct Head {
            format: String,
        }
        let head: Head = serde_json::from_slice(text).map_err(PlanError::Content)?;
        if head.format != FORMAT {
            return Err(PlanError::Format { found: head.format });
        }
        let mut plan: Self = serde_json::from_slice(text).map_err(PlanError::Content)?;
        plan.steps.iter_mut().for_each(|step| step.title = step.words());
        if plan.content_id() == plan.id { Ok(plan) } else { Err(PlanError::Changed) }
    }

    /// Every pod that moves, in its order.
    pub fn moves(&self) -> impl Iterator<Item = &PodMove> {
        self.order.iter().flat_map(|node| &node.pods)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan::empty(Action::Drain, SnapshotId::from("sha256:0"), Timestamp::UNIX_EPOCH, "c".into()).sealed()
    }

    #[test]
    fn a_plan_reads_back_and_a_changed_one_is_refused() {
        let text = serde_json::to_string(&plan()).expect("written");
        assert_eq!(Plan::read(text.as_bytes()).expect("just written"), plan());
        let changed = text.replace("\"drain\"", "\"evacuate\"");
        assert!(matches!(Plan::read(changed.as_bytes()), Err(PlanError::Changed)));
        let newer = text.replace("capplan.plan/1", "capplan.plan/2");
        assert!(matches!(Plan::read(newer.as_bytes()), Err(PlanError::Format { .. })));
    }

    #[test]
    fn a_file_cannot_call_a_step_something_else_than_it_is() {
        let guest = GuestRef { host: "pve1".into(), vmid: VmId(204), name: "w4".into(), uuid: Some("u".into()) };
        let change = StepAction::DestroyGuest { guest, snapshots: vec!["before".into()] };
        let mut lying = plan();
        let (requires, ensures) = (Vec::new(), Vec::new());
        lying.steps =
            vec![Step { number: 1, title: "cordon \u{1b}[2Jw4".into(), change, requires, ensures, deadline_seconds: 1 }];
        let lying = lying.sealed();
        let read = Plan::read(&serde_json::to_vec(&lying).expect("written")).expect("its id does not speak of titles");
        assert_eq!(read.steps[0].title, "destroy VM 204 (w4) on pve1 with its own disks and its snapshots before");
        // What is read back is what was written, once more.
        assert_eq!(Plan::read(&serde_json::to_vec(&read).expect("written")).expect("unchanged"), read);
    }

    #[test]
    fn the_cost_is_the_sum_of_its_parts() {
        let cost = Cost {
            controllers_with_remote_consumers: 1,
            singleton_rwo: 2,
            single_primary: 1,
            pvc_reattach: 3,
            memory: Bytes(8 << 30),
            role: 1.5,
            total: 0.0,
        };
        assert!((cost.summed().total - 29.5).abs() < 1e-9);
    }
}
