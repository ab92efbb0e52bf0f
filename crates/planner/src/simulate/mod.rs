//! What would happen: changes played on a copy of the cluster.
//!
//! The pods that a change sets free or adds are placed one after the other as the scheduler would, with
//! the clusters' own ties broken at random from a seed. Then the storage plugin has its say: a volume
//! that the scheduler allows on a node still needs a free disk slot of its VM.

mod answers;
mod arrivals;
mod effects;
mod growth;
mod play;
mod proof;
mod reboots;
mod refusal;
mod result;
mod settle;
mod sweep;
mod timeline;
mod worker;

use capplan_model::change::Change;
use capplan_model::history::History;
use capplan_model::ids::SnapshotId;
use capplan_model::policy::Policy;
use capplan_model::slots::VolumeSlots;
use capplan_model::{Reading, Snapshot};

use crate::attach::Plugs;
use crate::ground::Ground;
use crate::report::{Unknown, state};
use crate::scheduler::Cluster;
use play::{Outcome, Player};

pub(crate) use effects::Effects;
pub(crate) use proof::shown_amount;
pub(crate) use worker::{NewWorker, Refusal};

pub use result::{
    Difference, Displaced, FORMAT, FigureUnit, Flagged, Placed, PoolGrowth, Reboot, Simulation, Starving, TimelineRow,
    Unplaceable, UntilRefusal, Verdict, VolumeSpread, WorkersNeeded,
};
pub use sweep::{Axes, Axis, AxisKind, Cell, Sweep, SweepError, sweep};

/// How often and from which seed.
#[derive(Clone, Copy, Debug)]
pub struct Trials {
    /// Number of runs; each breaks ties its own way.
    pub runs: u32,
    /// Seed of the first run; the others follow from it.
    pub seed: u64,
}

impl Trials {
    fn seed_of(self, run: u32) -> u64 {
        self.seed.wrapping_add(u64::from(run))
    }
}

/// Why nothing can be simulated.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SimulateError {
    /// Something that everything rests on was not read.
    #[error("{what} is unknown: {why}")]
    Unknown {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// No node of that name.
    #[error("there is no node {name}; there are {known}")]
    NoNode {
        /// The name.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// No host of that name.
    #[error("there is no host {name}; there are {known}")]
    NoHost {
        /// The name.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// No workload of that name.
    #[error("there is no workload {name}; write deploy/NAME, sts/NAME or NAMESPACE/deploy/NAME")]
    NoWorkload {
        /// The name.
        name: String,
    },
    /// No StorageClass, or several.
    #[error("{0}")]
    StorageClass(String),
    /// A change that makes no sense here.
    #[error("{0}")]
    Change(String),
}

/// Plays `changes` on `snapshot`, which becomes the cluster afterwards.
///
/// `progress` is told how many runs are done; it may be called from several threads.
///
/// # Errors
/// [`SimulateError`] if a change names something that does not exist, or if nodes or pods are unknown.
pub fn simulate(
    snapshot: &mut Snapshot,
    id: SnapshotId,
    history: &History,
    policy: &Policy,
    changes: &[Change],
    trials: Trials,
    progress: &(dyn Fn(u32) + Sync),
) -> Result<Simulation, SimulateError> {
    let mut policy = policy.clone();
    for change in changes {
        if let Change::AddPvcs(add) = change
            && arrivals::take_slots(snapshot, &policy, add)
        {
            policy.plan.planned_volumes += u64::from(add.count);
        }
    }
    let slots = VolumeSlots::of_workers(snapshot, &policy.attacher);
    let before = state(snapshot, history, &policy, &slots);
    let words = changes.iter().map(|change| arrivals::in_words(snapshot, &policy, change)).collect();
    let mut simulation = Simulation::empty(snapshot, id, words, trials);
    let unknowns = snapshot.unknowns().into_iter();
    simulation.unknown = unknowns.map(|(what, why)| Unknown { what, why }).collect();
    let effects = {
        let cluster = match Cluster::of(snapshot) {
            Reading::Known(cluster) => cluster,
            Reading::Unknown { why } => return Err(SimulateError::Unknown { what: "the cluster".into(), why }),
        };
        let plugs = Plugs::of(snapshot, &policy.attacher, &slots);
        let ground = Ground::of(snapshot, &policy);
        // A large cluster is copied only if it is needed again.
        let again = (trials.runs > 1).then(|| cluster.clone());
        let mut first = Player::new(&ground, cluster, plugs.clone(), trials.seed);
        first.reboot_runs = trials.runs.max(1);
        first.play_all(changes)?;
        progress(1);
        let mut outcomes = vec![first.outcome.clone()];
        if let Some(cluster) = again.filter(|_| first.outcome.had_choice) {
            outcomes.extend(others(&ground, &cluster, &plugs, changes, trials, progress)?);
        }
        simulation.conclude(&mut first, &outcomes);
        let more = refusal::more(snapshot, &policy, changes, &mut first)?;
        (simulation.until_refusal, simulation.spread) = (more.until_refusal, more.spread);
        simulation.undecided.extend(more.doubt);
        if let Some(until) = &simulation.until_refusal
            && let Some(Change::AddPvcs(add)) = changes.iter().rev().find(|change| matches!(change, Change::AddPvcs(_)))
            && (until.count + 1..=until.while_parked).contains(&u64::from(add.count))
        {
            simulation
                .because
                .push(format!("only as long as parked workloads stay parked: with their volumes {} fit", until.count));
        }
        simulation.reboots = std::mem::take(&mut first.reboots);
        simulation.timeline = timeline::of(changes, &first);
        simulation.node_loss = result::losses(&ground, changes);
        Effects::of(&first)
    };
    effects.apply(snapshot, &policy.attacher);
    let slots = VolumeSlots::of_workers(snapshot, &policy.attacher);
    let after = state(snapshot, history, &policy, &slots);
    simulation.compare(before, after);
    Ok(simulation)
}

/// The runs after the first, in parallel.
fn others(
    ground: &Ground<'_>,
    cluster: &Cluster<'_>,
    plugs: &Plugs,
    changes: &[Change],
    trials: Trials,
    progress: &(dyn Fn(u32) + Sync),
) -> Result<Vec<Outcome>, SimulateError> {
    use rayon::prelude::*;
    let done = std::sync::atomic::AtomicU32::new(1);
    (1..trials.runs)
        .into_par_iter()
        .map(|run| {
            let mut player = Player::new(ground, cluster.clone(), plugs.clone(), trials.seed_of(run));
            player.only_outcome = true;
            player.play_all(changes)?;
            progress(done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1);
            Ok(player.outcome)
        })
        .collect()
}

/// New workers as they would join, what their disks take of the storages, and what is not certain.
pub(crate) struct Joined {
    pub workers: Vec<NewWorker>,
    pub pools: Vec<PoolGrowth>,
    pub doubts: Vec<String>,
}

/// Works out new workers without placing anything on them.
pub(crate) fn join_workers(
    ground: &Ground<'_>,
    cluster: Cluster<'_>,
    plugs: Plugs,
    add: &capplan_model::change::AddWorker,
) -> Result<Joined, SimulateError> {
    let mut player = Player::new(ground, cluster, plugs, 1);
    player.waiting.clear();
    player.play_all(&[Change::AddWorker(add.clone())])?;
    let doubts = player.outcome.doubts.into_iter().collect();
    Ok(Joined { workers: player.workers, pools: player.outcome.pools, doubts })
}
