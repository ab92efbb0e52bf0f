//! What fits over a range: one simulation a cell.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use capplan_model::change::{AddPods, AddPvcs, AddWorker, Change};
use capplan_model::ids::NodeName;
use capplan_model::policy::{Policy, Scope};
use capplan_model::slots::VolumeSlots;
use capplan_model::units::{Bytes, MilliCpu};
use capplan_model::{Reading, Snapshot};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::Serialize;

use super::arrivals;
use super::play::Player;
use super::{SimulateError, Trials};
use crate::attach::Plugs;
use crate::capacity::node_uses;
use crate::ground::Ground;
use crate::scheduler::Cluster;

/// Format of the JSON; its schema is published with it.
const FORMAT: &str = "capplan.sweep/1";
/// Most cells of a table.
const MOST_CELLS: u32 = 20_000;
const TOO_MANY: &str = "it has too many cells: take a larger step";

/// What fits over a range of one or two amounts.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Sweep {
    /// `capplan.sweep/1`.
    pub format: String,
    /// The changes that come first in every cell, in words.
    pub changes: Vec<String>,
    /// The amounts that vary: rows, then columns.
    pub axes: Vec<Axis>,
    /// One cell for each combination, row by row.
    pub cells: Vec<Cell>,
    /// Runs a cell.
    pub runs: u32,
    /// Seed of the first run.
    pub seed: u64,
    /// What could not be decided in some cell.
    pub undecided: Vec<String>,
}

/// An amount that varies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Axis {
    /// Of what.
    pub kind: AxisKind,
    /// The amounts, ascending.
    pub values: Vec<u32>,
}

/// What varies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AxisKind {
    /// Number of workers in all: the lightest leave first, new ones are like the first general one.
    Workers,
    /// Number of new claims with their pods.
    Pvcs,
    /// Number of new pods of the size given by `--add-pods`, or of 1 CPU and 1 GiB.
    Pods,
}

impl AxisKind {
    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Workers => "workers",
            Self::Pvcs => "pvcs",
            Self::Pods => "pods",
        }
    }
}

/// One combination.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Cell {
    /// The amounts, in the order of the axes.
    pub at: Vec<u32>,
    /// Share of the runs in which everything fits; `null` if that is not certain.
    pub probability: Option<f64>,
    /// Pods and workers without a place, in the first run.
    pub unplaceable: usize,
}

/// The text is not a sweep.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a sweep such as `workers 3..8 x pvcs 0..60` or `pvcs 0..60:5`: {why}")]
pub struct SweepError {
    text: String,
    why: String,
}

/// One or two axes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Axes(pub Vec<Axis>);

impl FromStr for Axes {
    type Err = SweepError;

    fn from_str(text: &str) -> Result<Self, SweepError> {
        let error = |why: &str| SweepError { text: text.to_owned(), why: why.to_owned() };
        let mut axes = Vec::new();
        let spaced = text.replace(['×', '*'], " x ");
        for part in spaced.split(" x ") {
            let words: Vec<&str> = part.split_whitespace().collect();
            let [name, range] = words.as_slice() else { return Err(error("each axis is a name and a range")) };
            let kind = match *name {
                "workers" => AxisKind::Workers,
                "pvcs" => AxisKind::Pvcs,
                "pods" => AxisKind::Pods,
                _ => return Err(error("the names are workers, pvcs and pods")),
            };
            let (ends, step) = range.split_once(':').unwrap_or((range, "1"));
            let number = |text: &str| text.parse::<u32>().ok();
            let range = ends.split_once("..").and_then(|(from, to)| Some((number(from)?, number(to)?, number(step)?)));
            match range {
                Some((from, to, step)) if from <= to && step > 0 => {
                    if (to - from) / step >= MOST_CELLS {
                        return Err(error(TOO_MANY));
                    }
                    let values = (from..=to).step_by(step as usize).collect();
                    axes.push(Axis { kind, values });
                }
                _ => return Err(error("a range is FROM..TO or FROM..TO:STEP")),
            }
        }
        if axes.len() > 2 || (axes.len() == 2 && axes[0].kind == axes[1].kind) {
            return Err(error("one or two different amounts can vary"));
        }
        if axes.iter().map(|axis| axis.values.len()).product::<usize>() > MOST_CELLS as usize {
            return Err(error(TOO_MANY));
        }
        Ok(Self(axes))
    }
}

impl fmt::Display for Axes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |axis: &Axis| {
            format!("{} {}..{}", axis.kind.name(), axis.values.first().unwrap_or(&0), axis.values.last().unwrap_or(&0))
        };
        f.write_str(&self.0.iter().map(one).collect::<Vec<_>>().join(" x "))
    }
}

/// Plays `changes` and one more for each combination of the axes.
///
/// # Errors
/// As [`super::simulate`]; also when fewer workers are wanted than could be removed.
pub fn sweep(
    snapshot: &Snapshot,
    policy: &Policy,
    changes: &[Change],
    axes: &Axes,
    trials: Trials,
    progress: &(dyn Fn(u32) + Sync),
) -> Result<Sweep, SimulateError> {
    let cluster = match Cluster::of(snapshot) {
        Reading::Known(cluster) => cluster,
        Reading::Unknown { why } => return Err(SimulateError::Unknown { what: "the cluster".into(), why }),
    };
    let slots = VolumeSlots::of_workers(snapshot, &policy.attacher);
    let plugs = Plugs::of(snapshot, &policy.attacher, &slots);
    let ground = Ground::of(snapshot, policy);
    let combinations: Vec<Vec<u32>> = match axes.0.as_slice() {
        [one] => one.values.iter().map(|value| vec![*value]).collect(),
        [rows, columns] => {
            let pairs = rows.values.iter().flat_map(|row| columns.values.iter().map(move |column| vec![*row, *column]));
            pairs.collect()
        }
        _ => Vec::new(),
    };
    if changes.contains(&Change::RebootEach) {
        return Err(SimulateError::Change("each node's reboot is a table of its own: it cannot be swept over".into()));
    }
    let mut base = changes.to_vec();
    let mut varied = Vec::new();
    for axis in &axes.0 {
        varied.push(Varied::take(axis.kind, &mut base, snapshot)?);
    }
    let done = std::sync::atomic::AtomicU32::new(0);
    let cells: Result<Vec<(Cell, BTreeSet<String>)>, SimulateError> = combinations
        .into_par_iter()
        .map(|at| {
            let mut all = base.clone();
            for (varied, value) in varied.iter().zip(&at) {
                all.extend(varied.at(*value)?);
            }
            let (mut good, mut unplaceable, mut unread, mut doubts) = (0, 0, false, BTreeSet::new());
            for run in 0..trials.runs {
                let mut player = Player::new(&ground, cluster.clone(), plugs.clone(), trials.seed_of(run));
                player.only_outcome = true;
                player.play_all(&all)?;
                let bad = player.outcome.starved.len() + player.outcome.failed.len();
                good += u32::from(bad == 0);
                unread |= !player.unread.is_empty() || player.worker_unknown();
                doubts.append(&mut player.outcome.doubts);
                if run == 0 {
                    unplaceable = bad;
                }
            }
            progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1);
            let probability = f64::from(good) / f64::from(trials.runs.max(1));
            let certain = doubts.is_empty() || (good == 0 && !unread);
            Ok((Cell { at, probability: certain.then_some(probability), unplaceable }, doubts))
        })
        .collect();
    let (cells, doubts): (Vec<Cell>, Vec<BTreeSet<String>>) = cells?.into_iter().unzip();
    Ok(Sweep {
        format: FORMAT.to_owned(),
        changes: base.iter().map(|change| arrivals::in_words(snapshot, policy, change)).collect(),
        axes: axes.0.clone(),
        cells,
        runs: trials.runs,
        seed: trials.seed,
        undecided: doubts.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect(),
    })
}

/// The workers that vary.
struct Workers {
    /// In the order in which they would be removed, the lightest first: those with devices last.
    lightest: Vec<NodeName>,
    /// Those that the changes before add.
    added: usize,
}

impl Workers {
    /// The workers after the changes that come first in every cell.
    fn after(snapshot: &Snapshot, changes: &[Change]) -> Result<Self, SimulateError> {
        let gone = |name: &NodeName| changes.iter().any(|change| matches!(change, Change::RemoveNode(node) if node == name));
        let added = changes.iter().filter_map(|change| if let Change::AddWorker(add) = change { Some(add.count) } else { None });
        let lightest = lightest(snapshot)?.into_iter().filter(|name| !gone(name)).collect();
        Ok(Self { lightest, added: added.sum::<u32>() as usize })
    }

    /// The changes that make them so many.
    fn at(&self, value: u32) -> Result<Vec<Change>, SimulateError> {
        let (now, wanted) = (self.lightest.len() + self.added, value as usize);
        if wanted > now {
            let count = value - now as u32;
            return Ok(vec![Change::AddWorker(AddWorker { count, ..AddWorker::default() })]);
        }
        let less = now - wanted;
        if less > self.lightest.len() {
            return Err(SimulateError::Change(format!(
                "{value} workers are fewer than those that the changes before add: they are not removed again"
            )));
        }
        Ok(self.lightest.iter().take(less).cloned().map(Change::RemoveNode).collect())
    }
}

fn lightest(snapshot: &Snapshot) -> Result<Vec<NodeName>, SimulateError> {
    match node_uses(snapshot) {
        Reading::Known(uses) => {
            let mut workers: Vec<_> = uses.iter().filter(|one| one.is_in(Scope::Workers)).collect();
            workers.sort_by_key(|one| {
                let devices = one.node.allocatable.extended.keys().any(|name| name.contains('/'));
                (devices, one.movable_memory(), one.node.name.clone())
            });
            Ok(workers.into_iter().map(|one| one.node.name.clone()).collect())
        }
        Reading::Unknown { why } => Err(SimulateError::Unknown { what: "the workers".into(), why }),
    }
}

/// What an axis varies.
enum Varied {
    Workers(Workers),
    Pvcs(AddPvcs),
    Pods(AddPods),
}

impl Varied {
    /// Takes the last change that is like what varies out of those that come first: it says how large one
    /// is, and is played with the cell's amount.
    fn take(kind: AxisKind, base: &mut Vec<Change>, snapshot: &Snapshot) -> Result<Self, SimulateError> {
        let like = |change: &Change| match kind {
            AxisKind::Workers => false,
            AxisKind::Pvcs => matches!(change, Change::AddPvcs(_)),
            AxisKind::Pods => matches!(change, Change::AddPods(_)),
        };
        let given = base.iter().rposition(like).map(|place| base.remove(place));
        Ok(match kind {
            AxisKind::Workers => Self::Workers(Workers::after(snapshot, base)?),
            AxisKind::Pvcs => Self::Pvcs(if let Some(Change::AddPvcs(add)) = given { add } else { AddPvcs::default() }),
            AxisKind::Pods => Self::Pods(if let Some(Change::AddPods(add)) = given {
                add
            } else {
                AddPods { cpu: Some(MilliCpu(1000)), memory: Some(Bytes::gib(1)), ..AddPods::default() }
            }),
        })
    }

    /// The changes of a cell.
    fn at(&self, value: u32) -> Result<Vec<Change>, SimulateError> {
        match self {
            Self::Workers(workers) => workers.at(value),
            Self::Pvcs(_) | Self::Pods(_) if value == 0 => Ok(Vec::new()),
            Self::Pvcs(add) => Ok(vec![Change::AddPvcs(AddPvcs { count: value, ..add.clone() })]),
            Self::Pods(add) => Ok(vec![Change::AddPods(AddPods { count: value, ..add.clone() })]),
        }
    }
}
