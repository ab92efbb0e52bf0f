//! Everything the user is told, as typed values. Numbers keep their unit until they are rendered.

mod build;
mod recommendation;

use std::collections::BTreeMap;

use capplan_model::capacity::Unit;
use capplan_model::ids::{HostName, NodeName, SnapshotId, VmId};
use capplan_model::units::{Bytes, MilliCpu};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

pub use build::{build, state};
pub use capplan_model::plan::{Action, Feasibility};
pub use recommendation::Recommendation;

pub use crate::findings::{Finding, Severity};
pub use crate::rules::Verdict;

/// Format of the JSON; its schema is published with it.
pub const FORMAT: &str = "capplan.report/1";

/// The report.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Report {
    /// `capplan.report/1`.
    pub format: String,
    /// The instant the report speaks of: when the snapshot was taken.
    pub at: Timestamp,
    /// Hash of the snapshot it rests on.
    pub snapshot: SnapshotId,
    /// UID of the `kube-system` namespace.
    pub cluster: String,
    /// Versions seen: `kubernetes`, `proxmox NAME`.
    pub versions: BTreeMap<String, String>,
    /// The next step.
    pub recommendation: Recommendation,
    /// The limit that bites first; `null` if no limit could be read.
    pub binding: Option<Binding>,
    /// Every dimension with its worst holder.
    pub dimensions: Vec<DimensionRow>,
    /// Memory of the cluster by three denominators.
    pub memory: Memory,
    /// What the loss of each general worker would mean by memory requests alone, worst first.
    pub node_loss: Vec<NodeLossRow>,
    /// The slot ledger, one row a worker.
    pub slots: Vec<SlotRow>,
    /// The rules with their verdicts.
    pub rules: Vec<RuleRow>,
    /// What is wrong or about to be, worst first.
    pub findings: Vec<Finding>,
    /// Nodes with their VMs: the shape table.
    pub nodes: Vec<NodeRow>,
    /// Hosts.
    pub hosts: Vec<HostRow>,
    /// Series worth drawing.
    pub charts: Vec<Chart>,
    /// What the history holds.
    pub history: HistoryRow,
    /// What could not be read, and why.
    pub unknown: Vec<Unknown>,
}

/// The state of a cluster: the part of the report that a change may alter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct State {
    /// The slot ledger, one row a worker.
    pub slots: Vec<SlotRow>,
    /// Memory of the cluster by three denominators.
    pub memory: Memory,
    /// The rules with their verdicts.
    pub rules: Vec<RuleRow>,
    /// Every dimension with its worst holder.
    pub dimensions: Vec<DimensionRow>,
    /// Nodes.
    pub nodes: Vec<NodeRow>,
    /// Hosts.
    pub hosts: Vec<HostRow>,
}

/// The limit that bites first.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Binding {
    /// Dimension.
    pub dimension: String,
    /// Node, host, pool or namespace.
    pub holder: String,
    /// Used.
    pub used: f64,
    /// Limit.
    pub limit: f64,
    /// Unit of both.
    pub unit: Unit,
    /// Used as a share of the limit.
    pub ratio: f64,
    /// When it is reached at the present trend.
    pub forecast: Option<Forecast>,
    /// Why it is this one.
    pub because: String,
}

/// When a limit is reached.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Forecast {
    /// Growth per day, in the dimension's unit.
    pub per_day: f64,
    /// Days of history it rests on.
    pub days: usize,
    /// Expected date; `null` if it does not grow.
    pub expected: Option<Timestamp>,
    /// Earliest date of the 95 % interval.
    pub earliest: Option<Timestamp>,
    /// Latest date of the 95 % interval.
    pub latest: Option<Timestamp>,
}

/// A dimension in one scope, with its worst holder.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct DimensionRow {
    /// Dimension.
    pub name: String,
    /// `node`, `host`, `pool`, `namespace`, `cluster`, or the nodes summed: `all-nodes`, `workers`,
    /// `general`.
    pub scope: String,
    /// Used; `null` if unknown.
    pub used: Option<f64>,
    /// Limit; `null` if unknown or if there is none.
    pub limit: Option<f64>,
    /// Unit of both.
    pub unit: Unit,
    /// Who uses most of it.
    pub holder: String,
    /// Used as a share of the limit.
    pub ratio: Option<f64>,
    /// Objects the figures come from.
    pub source: String,
    /// Seconds between the reading and the report.
    pub age_seconds: i64,
    /// When the limit is reached at the present trend.
    pub forecast: Option<Forecast>,
    /// Why it is unknown, or how to read it.
    pub note: Option<String>,
}

/// Memory of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Memory {
    /// Requests as a share of allocatable.
    pub requests: Shares,
    /// Limits as a share of allocatable.
    pub limits: Shares,
    /// Number of finished pods, which do not count.
    pub terminal_pods: Option<u64>,
    /// Memory requests they list.
    pub phantom: Option<Bytes>,
    /// Ids of the rules whose verdict depends on the denominator.
    pub disagree: Vec<String>,
}

/// One share by three denominators; `null` if unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Shares {
    /// Every node, control plane included.
    pub all_nodes: Option<f64>,
    /// Workers.
    pub workers: Option<f64>,
    /// Workers that a pod without tolerations may use.
    pub general: Option<f64>,
}

/// The loss of a worker.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct NodeLossRow {
    /// The worker.
    pub node: NodeName,
    /// Memory requests that move.
    pub to_move: Bytes,
    /// Unrequested memory of the other general workers.
    pub free: Bytes,
    /// Whether it fits by sum; that is necessary, not sufficient.
    pub fits_by_sum: bool,
}

/// The slot ledger of one worker; `null` is unknown.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct SlotRow {
    /// Worker.
    pub node: NodeName,
    /// Its VM.
    pub vmid: Option<VmId>,
    /// What CSINode advertises; `null` too if it sets no limit.
    pub advertised: Option<u64>,
    /// What the plugin can use: 29 less the foreign disks on scsi1 to scsi29.
    pub real: Option<u64>,
    /// VolumeAttachment objects of the driver.
    pub attached: Option<u64>,
    /// Volumes the scheduler counts: VolumeAttachments and volumes of the pods bound here.
    pub counted: Option<u64>,
    /// CSI disks in the VM config.
    pub plugged: Option<u64>,
    /// Slots in use by whatever.
    pub occupied: Option<u64>,
    /// Other disks on the plugin's slots: `scsiN=volume`.
    pub foreign: Option<Vec<String>>,
    /// CSI disks without a VolumeAttachment: `scsiN=volume`.
    pub ghosts: Option<Vec<String>>,
    /// Advertised slots that do not exist.
    pub phantom: Option<u64>,
    /// Volumes whose VolumeAttachment waits for its removal.
    pub pending_detach: Option<Vec<String>>,
    /// Volumes that cannot be attached.
    pub failing: Option<Vec<String>>,
    /// Detached volumes of the VM.
    pub unused: Option<Vec<String>>,
    /// Room that both ledgers still have.
    pub free: Option<u64>,
    /// Every difference between the ledgers, with its reason.
    pub mismatches: Vec<String>,
    /// Why something is unknown.
    pub why: Option<String>,
}

/// A rule with its verdicts.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RuleRow {
    /// Stable id.
    pub id: String,
    /// `up` or `down`.
    pub direction: String,
    /// Nodes it is about, for shares of memory.
    pub scope: Option<String>,
    /// The threshold as written.
    pub when: String,
    /// Days it must have held; 0 is now.
    pub window_days: f64,
    /// Whether it holds now.
    pub instant: Verdict,
    /// Whether it held throughout its window.
    pub sustained: Verdict,
    /// What that rests on.
    pub evidence: RuleEvidence,
}

/// What a verdict rests on.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct RuleEvidence {
    /// The measure now; shares as fractions.
    pub value: Option<f64>,
    /// Samples of the window.
    pub samples: usize,
    /// Share of the window they cover.
    pub coverage: f64,
    /// Earliest sample that speaks against it.
    pub first_contrary: Option<Contrary>,
    /// Days it has held without a contrary sample.
    pub held_days: Option<f64>,
    /// For shares of memory: the same by each denominator (`all-nodes`, `workers`, `general`).
    pub by_scope: BTreeMap<String, ScopeRow>,
    /// In words.
    pub note: Option<String>,
}

/// A share of memory by one denominator.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct ScopeRow {
    /// The share now, as a fraction.
    pub value: f64,
    /// Whether the threshold holds now.
    pub instant: Verdict,
    /// Whether it held throughout the window.
    pub sustained: Verdict,
}

/// A sample that speaks against a rule.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Contrary {
    /// When.
    pub at: Timestamp,
    /// The measure then.
    pub value: f64,
}

/// A node and its VM.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct NodeRow {
    /// Node.
    pub name: NodeName,
    /// `control-plane` or `worker`.
    pub role: String,
    /// Whether a pod without tolerations may be scheduled here.
    pub general: bool,
    /// Whether it is cordoned.
    pub cordoned: bool,
    /// Whether it is Ready.
    pub ready: bool,
    /// VM.
    pub vmid: Option<VmId>,
    /// Host of the VM.
    pub host: Option<HostName>,
    /// Kubelet version.
    pub kubelet: String,
    /// Allocatable CPU.
    pub cpu: MilliCpu,
    /// Memory of the VM.
    pub vm_memory: Option<Bytes>,
    /// Allocatable memory.
    pub allocatable: Bytes,
    /// Memory requests.
    pub requests: Option<Bytes>,
    /// Memory requests as a share of allocatable.
    pub requested: Option<f64>,
    /// Memory limits as a share of allocatable.
    pub limited: Option<f64>,
    /// CPU requests as a share of allocatable.
    pub cpu_requested: Option<f64>,
    /// Memory in use, by the metrics API.
    pub used: Option<Bytes>,
    /// Pods that hold capacity.
    pub pods: Option<u64>,
}

/// A host.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct HostRow {
    /// Name.
    pub name: HostName,
    /// Whether it is online.
    pub online: bool,
    /// Memory.
    pub memory: HostMemoryRow,
    /// Threads.
    pub cpus: Option<u64>,
    /// Virtual CPUs of the running guests.
    pub vcpus: Option<u64>,
    /// Running guests.
    pub guests_running: Option<u64>,
    /// Thin pools; `null` is unknown.
    pub pools: Option<Vec<PoolRow>>,
    /// Whether a new worker of the policy's size fits now, and why not.
    pub takes_worker: Option<bool>,
}

/// Memory of a host; `null` is unknown.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct HostMemoryRow {
    /// Total.
    pub total: Option<Bytes>,
    /// Of the running guests.
    pub committed: Option<Bytes>,
    /// Of all guests, if every one started.
    pub committed_if_all_started: Option<Bytes>,
    /// Available now.
    pub available: Option<Bytes>,
    /// Swap in use.
    pub swap_used: Option<Bytes>,
}

/// A thin pool.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PoolRow {
    /// `volume group/logical volume`.
    pub name: String,
    /// Data.
    pub data: Fill,
    /// Metadata.
    pub metadata: Fill,
}

/// How full something is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Fill {
    /// Used.
    pub used: Bytes,
    /// Size.
    pub size: Bytes,
}

/// A series worth drawing.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Chart {
    /// Title.
    pub title: String,
    /// Unit of the values; a share is a fraction.
    pub unit: ChartUnit,
    /// Lines by name: `(seconds since 1970, value)`.
    pub lines: BTreeMap<String, Vec<(i64, f64)>>,
    /// Thresholds by name.
    pub thresholds: BTreeMap<String, f64>,
}

/// Unit of a chart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChartUnit {
    /// Pieces.
    Count,
    /// Fractions of a limit.
    Share,
}

/// What the history holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct HistoryRow {
    /// Samples in all.
    pub samples: usize,
    /// First one.
    pub first: Option<Timestamp>,
    /// Last one.
    pub last: Option<Timestamp>,
}

/// Something that could not be read.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Unknown {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}
