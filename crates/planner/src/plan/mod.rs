//! What to do: which nodes are emptied in which order, where pods land, and what forbids it.
//!
//! Everything is tried on a copy of the cluster first, state by state, with the scheduler's and the storage
//! plugin's rules; where that does not find a way, an integer program says which other pods have to
//! make room, or that no way exists.

pub(crate) mod after;
mod audit;
pub(crate) mod blockers;
pub(crate) mod board;
mod cost;
mod drain;
pub(crate) mod even;
mod inventory;
mod newcomer;
mod rehearse;
mod replace;
mod reshuffle;
pub(crate) mod scale_down;
pub(crate) mod scale_up;
pub(crate) mod spare;
mod spec;
pub(crate) mod steps;

use std::cell::Cell;

use capplan_model::history::History;
use capplan_model::ids::{HostName, NodeName, SnapshotId};
use capplan_model::plan::{Action, Feasibility, Plan, PresenceClaim};
use capplan_model::policy::Policy;
use capplan_model::pve::Guest;
use capplan_model::slots::VolumeSlots;
use capplan_model::{Reading, Snapshot};

use crate::attach::Plugs;
use crate::ground::Ground;
use crate::scheduler::{Cluster, Scheduler};
use board::Board;
use inventory::Inventory;
use rehearse::Objection;

pub use audit::{Violation, audit};
use scale_up::Standard;
pub use scale_up::Wanted;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Add workers.
    ScaleUp(Box<Wanted>),
    /// Empty these nodes; they stay.
    Drain(Vec<NodeName>),
    /// Empty these nodes one after the other, each coming back before the next goes; all workers if none
    /// is named.
    DrainOrder(Vec<NodeName>),
    /// Empty every node of a host.
    Evacuate(HostName),
    /// Remove workers.
    ScaleDown(Removal),
    /// Make a worker again of a VM that was one and is off.
    Wake(NodeName),
    /// Add a worker like this one, then remove this one.
    Replace(Removal),
}

/// Which workers are removed, and what becomes of them. By default one, whose VM stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Removal {
    /// How many.
    pub count: Count,
    /// This one and no other.
    pub node: Option<NodeName>,
    /// Why it is done although the rules for it do not hold.
    pub anyway: Option<String>,
    /// Whether their VMs are destroyed; otherwise they stay, and stay off.
    pub destroy: bool,
    /// Whether the snapshots of a VM may be lost with it.
    pub with_snapshots: bool,
}

impl Removal {
    /// Names of the snapshots of a guest that may be lost with it.
    fn agreed_snapshots(&self, guest: &Guest) -> Vec<String> {
        if self.with_snapshots { guest.snapshots.items().iter().map(|one| one.name.clone()).collect() } else { Vec::new() }
    }
}

/// How many workers are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Exactly(u64),
    /// As many as possible.
    Most,
}

impl Default for Count {
    fn default() -> Self {
        Self::Exactly(1)
    }
}

/// How long and from which seed. The default is what a report and a plan decide with, so that they decide the same.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Seconds that the solver may take in all.
    pub seconds: f64,
    /// Seed of the ties.
    pub seed: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { seconds: 30.0, seed: 1 }
    }
}

/// Why nothing can be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
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
    /// No spare of that name.
    #[error("{name} is no VM that is off and no node; spares: {known}")]
    NoSpare {
        /// The name.
        name: String,
        /// Those that exist.
        known: String,
    },
    /// The node is no worker.
    #[error("{name} runs the control plane: a worker cannot be like it")]
    NotAWorker {
        /// Its name.
        name: String,
    },
    /// The plan that was made is not allowed: a bug.
    #[error("the plan does not pass its audit: this is a bug of capplan, and nothing was done")]
    Audit(#[source] Violation),
}

/// What a plan rests on.
pub(crate) struct Scene<'a> {
    pub ground: &'a Ground<'a>,
    pub history: &'a History,
    pub inventory: Inventory<'a>,
    pub slots: &'a Reading<Vec<VolumeSlots>>,
    /// What somebody claims.
    pub claims: Vec<PresenceClaim>,
    pub limits: Limits,
    /// Seconds that the solver may take for what is tried now.
    pub seconds: Cell<f64>,
}

/// What is seen, and what a plan is made on.
pub struct Observation<'a> {
    /// The cluster.
    pub snapshot: &'a Snapshot,
    /// Its past.
    pub history: &'a History,
    /// When to act.
    pub policy: &'a Policy,
    /// What others work on.
    pub claims: &'a [PresenceClaim],
}

impl Observation<'_> {
    pub(crate) fn with<T>(
        &self,
        limits: Limits,
        then: impl FnOnce(&Scene<'_>, Board<'_>) -> Result<T, PlanError>,
    ) -> Result<T, PlanError> {
        let (snapshot, policy) = (self.snapshot, self.policy);
        let ground = Ground::of(snapshot, policy);
        let slots = VolumeSlots::of_workers(snapshot, &policy.attacher);
        let cluster = match Cluster::of(snapshot) {
            Reading::Known(cluster) => cluster,
            Reading::Unknown { why } => return Err(PlanError::Unknown { what: "the cluster".into(), why }),
        };
        let claims = in_force(self.claims, snapshot);
        let (scene, board) = stage(&ground, cluster, self.history, &slots, claims, limits);
        then(&scene, board)
    }
}

/// For what needs no search.
const NO_SEARCH: Limits = Limits { seconds: 0.0, seed: 1 };

/// What a plan rests on, and the board that it is tried on.
fn stage<'a>(
    ground: &'a Ground<'a>,
    cluster: Cluster<'a>,
    history: &'a History,
    slots: &'a Reading<Vec<VolumeSlots>>,
    claims: Vec<PresenceClaim>,
    limits: Limits,
) -> (Scene<'a>, Board<'a>) {
    let snapshot = ground.snapshot;
    let board = Board::new(Scheduler::new(cluster), Plugs::of(snapshot, &ground.policy.attacher, slots));
    let inventory = Inventory::of(snapshot);
    let scene = Scene { ground, history, inventory, slots, claims, limits, seconds: Cell::new(limits.seconds) };
    (scene, board)
}

/// Makes a plan on a snapshot with this hash.
///
/// # Errors
/// [`PlanError`] if a node or host does not exist, or if nodes or pods are unknown.
pub fn plan(seen: &Observation<'_>, id: SnapshotId, request: &Request, limits: Limits) -> Result<Plan, PlanError> {
    let empty = |action| Plan::empty(action, id.clone(), seen.snapshot.taken, seen.snapshot.cluster.clone());
    let plan = seen.with(limits, |scene, board| match request {
        Request::ScaleUp(wanted) => scale_up::plan(scene, &board, wanted, Standard::Asked, empty(Action::ScaleUp)),
        Request::Drain(names) => drain::together(scene, board, names, empty(Action::Drain)),
        Request::DrainOrder(names) => drain::in_turn(scene, board, names, empty(Action::DrainOrder)),
        Request::ScaleDown(removal) => scale_down::plan(scene, board, removal, empty(Action::ScaleDown)),
        Request::Evacuate(host) => drain::host(scene, board, host, empty(Action::Evacuate)),
        Request::Wake(name) => spare::asked(scene, &board, name, empty(Action::WakeSpare)),
        Request::Replace(removal) => replace::plan(seen, scene, &board, removal, limits, empty(Action::Replace)),
    })?;
    let plan = seen.with(NO_SEARCH, |scene, board| Ok(gated(scene, &board, plan)))?;
    finished(seen, plan)
}

/// The plan as far as the gates let it be begun: one that `apply` would refuse is not feasible, and says why.
pub(crate) fn gated(scene: &Scene<'_>, board: &Board<'_>, mut plan: Plan) -> Plan {
    if plan.feasibility != Feasibility::Feasible || plan.steps.is_empty() {
        return plan;
    }
    for one in objections(scene, board.clone(), &plan) {
        match one {
            Objection::Forbids(why) => plan.blockers.push(spec::gate(why, plan.action.name())),
            Objection::Unread(why) => plan.undecided.push(why),
        }
    }
    if !plan.blockers.is_empty() {
        plan.feasibility = Feasibility::Blocked;
    } else if !plan.undecided.is_empty() {
        plan.feasibility = Feasibility::Undecided;
    }
    if plan.feasibility != Feasibility::Feasible {
        plan.steps.clear();
    }
    plan
}

/// Why a plan may not be begun on this reading.
fn objections(scene: &Scene<'_>, board: Board<'_>, plan: &Plan) -> Vec<Objection> {
    let mut found = rehearse::gate(scene, plan);
    if found.is_empty() {
        found.extend(rehearse::rehearse(scene, board, plan, 1).err());
    }
    found
}

/// A plan that passed its audit, with its id.
pub(crate) fn finished(seen: &Observation<'_>, plan: Plan) -> Result<Plan, PlanError> {
    match audit(seen.snapshot, seen.policy, &plan).into_iter().next() {
        Some(violation) => Err(PlanError::Audit(violation)),
        None => Ok(plan.sealed()),
    }
}

/// The cluster once every step of a plan is done; what only a human does is not.
///
/// # Errors
/// [`PlanError`] if nodes or pods are unknown.
pub fn end_state(seen: &Observation<'_>, plan: &Plan) -> Result<Snapshot, PlanError> {
    seen.with(NO_SEARCH, |scene, board| Ok(after::end_state(scene, &board, plan)))
}

/// Whether a plan may be begun on this reading: the planes are well, it is still allowed, and still possible.
///
/// # Errors
/// Why not.
pub fn gate(seen: &Observation<'_>, plan: &Plan) -> Result<(), String> {
    let found = seen.with(NO_SEARCH, |scene, board| Ok(objections(scene, board, plan))).map_err(|error| error.to_string())?;
    if let Some(one) = found.first() {
        return Err(one.text().to_owned());
    }
    audit(seen.snapshot, seen.policy, plan).into_iter().next().map_or(Ok(()), |violation| Err(violation.to_string()))
}

/// Whether what is left of a plan, from a step on, is still possible on this reading.
///
/// # Errors
/// What does not fit any more, or is not known.
pub fn rehearse(seen: &Observation<'_>, plan: &Plan, from: u64) -> Result<(), String> {
    let played = seen.with(NO_SEARCH, |scene, board| Ok(rehearse::rehearse(scene, board, plan, from)));
    played.map_err(|error| error.to_string())?.map_err(|one| one.text().to_owned())
}

/// Claims that hold at the instant of the snapshot.
fn in_force(claims: &[PresenceClaim], snapshot: &Snapshot) -> Vec<PresenceClaim> {
    claims.iter().filter(|claim| claim.until.is_none_or(|until| until > snapshot.taken)).cloned().collect()
}
