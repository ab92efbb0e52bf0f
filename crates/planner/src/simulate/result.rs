//! What a simulation tells, as typed values.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Snapshot;
use capplan_model::capacity::Unit;
use capplan_model::change::{Change, FailureMode};
use capplan_model::ids::{HostName, NodeName, ObjectName, SnapshotId};
use capplan_model::units::Bytes;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::Trials;
use super::play::{Outcome, Player};
use super::proof;
use crate::capacity::node_uses;
use crate::ground::Ground;
use crate::loss::losses as all_losses;
use crate::report::{NodeLossRow, NodeRow, SlotRow, State, Unknown};
use crate::scheduler::{FOLLOWS, Problem};

/// Format of the JSON; its schema is published with it.
pub const FORMAT: &str = "capplan.simulation/1";

/// What would happen.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Simulation {
    /// `capplan.simulation/1`.
    pub format: String,
    /// The instant the snapshot was taken.
    pub at: Timestamp,
    /// Hash of the snapshot.
    pub snapshot: SnapshotId,
    /// UID of the `kube-system` namespace.
    pub cluster: String,
    /// Version of kube-scheduler whose rules are followed.
    pub scheduler: String,
    /// The changes in words, in their order.
    pub changes: Vec<String>,
    /// Whether everything finds a place in every run, and every volume can be attached.
    pub fits: bool,
    /// What is known about that.
    pub verdict: Verdict,
    /// Share of the runs in which everything found a place; with reboots, of the worst of them.
    pub probability: f64,
    /// Number of runs.
    pub runs: u32,
    /// Seed of the first run.
    pub seed: u64,
    /// Why the verdict is what it is.
    pub because: Vec<String>,
    /// Pods and volumes that find no place, with the reasons.
    pub unplaceable: Vec<Unplaceable>,
    /// How many more fit.
    pub until_refusal: Option<UntilRefusal>,
    /// Workers that would take what found no place.
    pub workers_needed: Option<WorkersNeeded>,
    /// Where new volumes go, at best and at worst.
    pub spread: Option<VolumeSpread>,
    /// Storages that new volumes and new workers' disks draw on.
    pub pools: Vec<PoolGrowth>,
    /// Where each pod that is new or had to move goes, in the first run.
    pub placement: Vec<Placed>,
    /// Pods that end for good: nothing makes them again.
    pub lost: Vec<String>,
    /// Pods that more important ones push aside, in the first run.
    pub preempted: Vec<Displaced>,
    /// Pods that waited before and still do.
    pub still_pending: Vec<Unplaceable>,
    /// How often each pod finds no place, where that differs between the runs or after a cold boot.
    pub starving: Vec<Starving>,
    /// Each node's reboot, played on its own.
    pub reboots: Vec<Reboot>,
    /// What happens when, after a failure.
    pub timeline: Vec<TimelineRow>,
    /// The loss of each node that goes, by memory requests alone.
    pub node_loss: Vec<NodeLossRow>,
    /// Features of the pods at hand that are not simulated: their place is not proven.
    pub flagged: Vec<Flagged>,
    /// The state before.
    pub before: State,
    /// The state after, as the first run left it.
    pub after: State,
    /// What differs between them.
    pub difference: Vec<Difference>,
    /// What could not be read, and why.
    pub unknown: Vec<Unknown>,
    /// What could not be decided for that reason.
    pub undecided: Vec<String>,
}

/// What is known about whether everything fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The scheduler finds a place for everything, however it breaks ties (in every run tried).
    SchedulerPlaces,
    /// An assignment exists, but the scheduler does not find one in every run.
    FitsIfPlaced,
    /// No assignment was found, and none was ruled out.
    #[default]
    Undecided,
    /// No assignment exists: proven.
    CannotFit,
}

impl Verdict {
    /// The verdict, given that something is not certain, or that something it rests on was not read: then
    /// nothing is proven either.
    pub(super) fn with_doubts(self, doubts: bool, unread: bool) -> Self {
        match self {
            Self::SchedulerPlaces | Self::FitsIfPlaced if doubts || unread => Self::Undecided,
            Self::CannotFit if unread => Self::Undecided,
            Self::SchedulerPlaces | Self::FitsIfPlaced | Self::Undecided | Self::CannotFit => self,
        }
    }

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SchedulerPlaces => "scheduler-places",
            Self::FitsIfPlaced => "fits-if-placed",
            Self::CannotFit => "cannot-fit",
            Self::Undecided => "undecided",
        }
    }
}

/// Something that finds no place.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Unplaceable {
    /// The pod, as `namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The volume, if it is one that cannot be attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<String>,
    /// The worker, if it is one that no host has room for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Why, a reason for each group of nodes: `3 memory (needs 4.0 GiB, most free 3.1 GiB)`.
    pub reasons: Vec<String>,
    /// Number of nodes the reasons speak of.
    pub nodes: usize,
    /// What kube-scheduler would say, up to what preemption adds; `null` if it is not its matter.
    pub message: Option<String>,
}

/// How many more fit.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct UntilRefusal {
    /// How many copies fit from the present state on, before the first is refused, without pushing others aside. For volumes, those
    /// that parked workloads hold on to are counted as attached.
    pub count: u64,
    /// The dimension that refuses the next one.
    pub dimension: String,
    /// How many fit as long as every parked workload stays parked.
    pub while_parked: u64,
    /// Bound volumes of parked workloads, which attach again when these wake.
    pub latent: u64,
    /// Whether the number is exact; otherwise it depends on how ties are broken, or more fit.
    pub exact: bool,
    /// Copies by node.
    pub by_node: BTreeMap<NodeName, u64>,
}

/// Workers that would take what found no place: a least number, by amounts alone.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct WorkersNeeded {
    /// How many.
    pub workers: u64,
    /// Memory of each VM.
    pub memory: Bytes,
    /// Pods they take.
    pub pods: u64,
    /// Pods that such a worker never takes.
    pub never: u64,
    /// How many such workers the hosts have memory for; `null` if that is unknown.
    pub hosts_take: Option<u64>,
}

/// Where new volumes go, at best and at worst.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct VolumeSpread {
    /// Volumes by node when they are spread as evenly as the free slots allow.
    pub best: BTreeMap<NodeName, u64>,
    /// Most VolumeAttachments on one worker then.
    pub best_most: u64,
    /// The worker where it is worst if all of them go there.
    pub worst_node: Option<NodeName>,
    /// Its VolumeAttachments then, if it can take them all; what it can take otherwise.
    pub worst_most: u64,
    /// How many of them it can take.
    pub worst_fits: u64,
}

/// How a storage grows.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct PoolGrowth {
    /// `host/volume group/logical volume` of a thin pool, otherwise `host/storage`, or a shared storage.
    pub name: String,
    /// Used now.
    pub used: Bytes,
    /// Sizes of the new volumes.
    pub volumes: Bytes,
    /// Sizes of the new workers' disks.
    pub disks: Bytes,
    /// Used once all of them are written full.
    pub used_after: Bytes,
    /// Size.
    pub size: Bytes,
}

/// Where a pod goes.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Placed {
    /// The pod, as `namespace/name`.
    pub pod: String,
    /// The node.
    pub node: NodeName,
    /// Where it was before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<NodeName>,
    /// Nodes the scheduler might as well have taken.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ties: Vec<NodeName>,
}

/// A pod that a more important one pushes aside.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Displaced {
    /// The pod.
    pub pod: String,
    /// The node it is pushed from.
    pub node: NodeName,
    /// The pod that takes its place.
    pub by: String,
    /// Whether a PodDisruptionBudget would have kept it.
    pub against_budget: bool,
}

/// How often a pod finds no place.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Starving {
    /// The pod.
    pub pod: String,
    /// Share of the runs in which it finds no place.
    pub probability: f64,
}

/// One node's reboot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Reboot {
    /// The node.
    pub node: NodeName,
    /// Whether all its pods are certain to find a place while it is away.
    pub fits: bool,
    /// Share of the runs in which they do.
    pub probability: f64,
    /// What is known about that.
    pub verdict: Verdict,
    /// Why.
    pub because: Vec<String>,
    /// Pods that have to move.
    pub pods: usize,
    /// Pods that find no place, with the reasons.
    pub unplaceable: Vec<Unplaceable>,
    /// What keeps pods from being evicted: PodDisruptionBudgets that allow no disruption.
    pub blocked: Vec<String>,
    /// Pods that end for good: nothing makes them again.
    pub lost: Vec<String>,
}

/// Something that happens after a failure.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct TimelineRow {
    /// Seconds after the failure.
    pub at_seconds: i64,
    /// What fails.
    pub subject: String,
    /// Stable code of the event.
    pub event: String,
    /// What happens.
    pub what: String,
    /// Pods or volumes it happens to.
    pub concerns: Vec<String>,
}

/// A feature that is not simulated.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
pub struct Flagged {
    /// The pod.
    pub pod: String,
    /// The feature.
    pub feature: String,
}

/// One figure that differs.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Difference {
    /// Node, host, or empty for the cluster.
    pub subject: String,
    /// What.
    pub figure: String,
    /// Before; `null` if it was not there or is unknown.
    pub before: Option<f64>,
    /// After; `null` if it is not there or unknown.
    pub after: Option<f64>,
    /// Unit of both; a share is a fraction.
    pub unit: FigureUnit,
}

/// Unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FigureUnit {
    /// Pieces.
    Count,
    /// Bytes.
    Bytes,
    /// A fraction of a limit.
    Share,
}

impl From<Unit> for FigureUnit {
    fn from(unit: Unit) -> Self {
        match unit {
            Unit::Count | Unit::MilliCpu => Self::Count,
            Unit::Bytes => Self::Bytes,
        }
    }
}

impl Simulation {
    pub(super) fn empty(snapshot: &Snapshot, id: SnapshotId, changes: Vec<String>, trials: Trials) -> Self {
        Self {
            format: FORMAT.to_owned(),
            at: snapshot.taken,
            snapshot: id,
            cluster: snapshot.cluster.clone(),
            scheduler: FOLLOWS.to_owned(),
            changes,
            fits: true,
            verdict: Verdict::SchedulerPlaces,
            probability: 1.0,
            runs: 1,
            seed: trials.seed,
            because: Vec::new(),
            unplaceable: Vec::new(),
            until_refusal: None,
            workers_needed: None,
            spread: None,
            pools: Vec::new(),
            placement: Vec::new(),
            lost: Vec::new(),
            preempted: Vec::new(),
            still_pending: Vec::new(),
            starving: Vec::new(),
            reboots: Vec::new(),
            timeline: Vec::new(),
            node_loss: Vec::new(),
            flagged: Vec::new(),
            before: State::default(),
            after: State::default(),
            difference: Vec::new(),
            unknown: Vec::new(),
            undecided: Vec::new(),
        }
    }

    /// Draws the conclusion from all runs; details are those of the first.
    pub(super) fn conclude(&mut self, first: &mut Player<'_>, outcomes: &[Outcome]) {
        let runs = outcomes.len();
        let good = outcomes.iter().filter(|one| one.starved.is_empty() && one.failed.is_empty()).count();
        self.runs = u32::try_from(runs).unwrap_or(u32::MAX);
        self.probability = good as f64 / runs as f64;
        self.probability = first.reboots.iter().map(|one| one.probability).fold(self.probability, f64::min);
        self.placement = first.placement();
        self.lost = first.lost.clone();
        self.preempted = first.preempted.clone();
        self.flagged = first.flagged.iter().cloned().collect();
        self.pools = first.outcome.pools.clone();
        let doubts: BTreeSet<&String> = outcomes.iter().flat_map(|one| &one.doubts).collect();
        self.undecided = doubts.into_iter().cloned().collect();
        (self.unplaceable, self.still_pending) = first.unplaceable();
        self.workers_needed = first.workers_needed();
        let mut starved: BTreeMap<&str, usize> = BTreeMap::new();
        for one in outcomes {
            for pod in one.starved.iter().chain(&one.failed) {
                *starved.entry(pod).or_default() += 1;
            }
        }
        if runs > 1 {
            let starving =
                starved.iter().map(|(pod, count)| Starving { pod: (*pod).to_owned(), probability: *count as f64 / runs as f64 });
            self.starving = starving.collect();
            self.starving.sort_by(|a, b| b.probability.total_cmp(&a.probability).then(a.pod.cmp(&b.pod)));
        }
        self.verdict = if good == runs && self.unplaceable.is_empty() {
            let text = match runs {
                1 if first.outcome.had_choice => "every pod found a place in the one run made".to_owned(),
                1 => "every pod found a place, and there was no tie to break".to_owned(),
                runs => format!("every pod found a place in all {runs} runs"),
            };
            let only_reboots = !first.reboots.is_empty() && first.placed.is_empty();
            self.because.extend((!only_reboots).then_some(text));
            Verdict::SchedulerPlaces
        } else if good > 0 {
            self.because.push(format!("every pod found a place in {good} of {runs} runs"));
            Verdict::FitsIfPlaced
        } else {
            let (verdict, because) = proof::search(first);
            self.because.extend(because);
            verdict
        };
        self.verdict = self.verdict.with_doubts(!self.undecided.is_empty(), !first.unread.is_empty());
        let worst = first.reboots.iter().map(|one| one.verdict).max();
        if let Some(worst) = worst.filter(|worst| *worst != Verdict::SchedulerPlaces) {
            let bad = first.reboots.iter().filter(|one| !one.fits).count();
            self.because.push(format!(
                "{bad} of {} nodes cannot be away with certainty that everything finds a place",
                first.reboots.len()
            ));
            self.verdict = self.verdict.max(worst);
        }
        if !self.lost.is_empty() {
            self.because.push(format!("pods that nothing makes again end for good: {}", self.lost.len()));
        }
        self.fits = self.verdict == Verdict::SchedulerPlaces;
    }

    /// Sets the two states side by side.
    pub(super) fn compare(&mut self, before: State, after: State) {
        self.difference = differences(&before, &after);
        (self.before, self.after) = (before, after);
    }
}

fn by_name<T>(rows: &[T], name: fn(&T) -> &NodeName) -> BTreeMap<&NodeName, &T> {
    rows.iter().map(|row| (name(row), row)).collect()
}

fn differences(before: &State, after: &State) -> Vec<Difference> {
    let mut list = Vec::new();
    let mut add = |subject: &str, figure: &str, before: Option<f64>, after: Option<f64>, unit: FigureUnit| {
        if before != after {
            list.push(Difference { subject: subject.to_owned(), figure: figure.to_owned(), before, after, unit });
        }
    };
    let (nodes_were, nodes_are) = (by_name(&before.nodes, |row| &row.name), by_name(&after.nodes, |row| &row.name));
    let (slots_were, slots_are) = (by_name(&before.slots, |row| &row.node), by_name(&after.slots, |row| &row.node));
    let names: BTreeSet<&NodeName> = nodes_were.keys().chain(nodes_are.keys()).copied().collect();
    for name in names {
        let (one, other) = (nodes_were.get(name).copied(), nodes_are.get(name).copied());
        let figure = |of: fn(&NodeRow) -> Option<f64>| (one.and_then(of), other.and_then(of));
        let (was, is) = figure(|row| row.pods.map(|pods| pods as f64));
        add(name.as_str(), "pods", was, is, FigureUnit::Count);
        let (was, is) = figure(|row| row.requests.map(|bytes| bytes.0 as f64));
        add(name.as_str(), "memory requests", was, is, FigureUnit::Bytes);
        let (was, is) = figure(|row| row.requested);
        add(name.as_str(), "memory requested", was, is, FigureUnit::Share);
        let (was, is) = figure(|row| row.cpu_requested);
        add(name.as_str(), "cpu requested", was, is, FigureUnit::Share);
        let (one, other) = (slots_were.get(name).copied(), slots_are.get(name).copied());
        let figure = |of: fn(&SlotRow) -> Option<u64>| {
            (one.and_then(of).map(|count| count as f64), other.and_then(of).map(|count| count as f64))
        };
        let (was, is) = figure(|row| row.attached);
        add(name.as_str(), "volume attachments", was, is, FigureUnit::Count);
        let (was, is) = figure(|row| row.free);
        add(name.as_str(), "free volume slots", was, is, FigureUnit::Count);
    }
    for row in &before.hosts {
        let Some(other) = after.hosts.iter().find(|other| other.name == row.name) else { continue };
        let bytes = |amount: Option<Bytes>| amount.map(|amount| amount.0 as f64);
        add(row.name.as_str(), "memory committed", bytes(row.memory.committed), bytes(other.memory.committed), FigureUnit::Bytes);
        let count = |amount: Option<u64>| amount.map(|amount| amount as f64);
        add(row.name.as_str(), "vCPUs", count(row.vcpus), count(other.vcpus), FigureUnit::Count);
    }
    for (name, was, is) in [
        ("memory requests of all nodes", before.memory.requests.all_nodes, after.memory.requests.all_nodes),
        ("memory requests of workers", before.memory.requests.workers, after.memory.requests.workers),
        ("memory requests of general workers", before.memory.requests.general, after.memory.requests.general),
    ] {
        add("", name, was, is, FigureUnit::Share);
    }
    list
}

/// The loss of each node that a change takes away, by memory requests alone.
pub(super) fn losses(ground: &Ground<'_>, changes: &[Change]) -> Vec<NodeLossRow> {
    let gone: BTreeSet<NodeName> = changes.iter().flat_map(|change| super::play::taken_away(ground, change)).collect();
    if gone.is_empty() {
        return Vec::new();
    }
    let uses = node_uses(ground.snapshot);
    let all = uses.known().map(|uses| all_losses(uses)).unwrap_or_default();
    all.into_iter()
        .filter(|loss| gone.contains(&loss.node))
        .map(|loss| NodeLossRow {
            fits_by_sum: loss.to_move <= loss.free,
            node: loss.node,
            to_move: loss.to_move,
            free: loss.free,
        })
        .collect()
}

/// Where the change takes nodes by failing: for the timeline.
pub(super) fn failures(changes: &[Change]) -> impl Iterator<Item = (FailureSubject<'_>, FailureMode)> {
    changes.iter().filter_map(|change| match change {
        Change::FailNode(one) => Some((FailureSubject::Node(&one.name), one.mode)),
        Change::FailHost(one) => Some((FailureSubject::Host(&one.name), one.mode)),
        Change::AddPvcs(_)
        | Change::AddPods(_)
        | Change::Submit(_)
        | Change::AddWorker(_)
        | Change::RemoveNode(_)
        | Change::Cordon(_)
        | Change::Taint(_)
        | Change::ColdBoot
        | Change::RebootEach
        | Change::WakeParked => None,
    })
}

/// What fails.
pub(super) enum FailureSubject<'a> {
    Node(&'a NodeName),
    Host(&'a HostName),
}

impl Unplaceable {
    pub(super) fn of_pod(pod: ObjectName, problem: Problem) -> Self {
        Self {
            pod: Some(pod.0),
            volume: None,
            worker: None,
            reasons: problem.reasons,
            nodes: problem.nodes,
            message: problem.message,
        }
    }
}
