//! What to do: which nodes are emptied in which order, where pods land, and what forbids it.
//!
//! Everything is tried on a copy of the cluster first, state by state, with the scheduler's and the storage
//! plugin's rules; where that does not find a way, an integer program says which other pods have to
//! make room, or that no way exists.

mod after;
mod blockers;
mod board;
mod cost;
mod drain;
mod inventory;
mod reshuffle;
mod scale_down;
mod steps;

use capplan_model::history::History;
use capplan_model::ids::{HostName, NodeName, SnapshotId};
use capplan_model::plan::{Action, Plan, PresenceClaim};
use capplan_model::policy::Policy;
use capplan_model::slots::VolumeSlots;
use capplan_model::{Reading, Snapshot};

use crate::attach::Plugs;
use crate::ground::Ground;
use crate::scheduler::{Cluster, Scheduler};
use board::Board;
use inventory::Inventory;

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// Empty these nodes; they stay.
    Drain(Vec<NodeName>),
    /// Empty these nodes one after the other, each coming back before the next goes; all workers if none
    /// is named.
    DrainOrder(Vec<NodeName>),
    /// Empty every node of a host.
    Evacuate(HostName),
    /// Remove workers.
    ScaleDown {
        /// How many.
        count: Count,
        /// Why it is done although the rules for it do not hold.
        anyway: Option<String>,
    },
}

/// How many workers are removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// So many.
    Exactly(u64),
    /// As many as possible.
    Most,
}

/// How long and from which seed.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Seconds that the solver may take in all.
    pub seconds: f64,
    /// Seed of the ties.
    pub seed: u64,
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
}

/// What a plan rests on.
pub(in crate::plan) struct Scene<'a> {
    pub ground: &'a Ground<'a>,
    pub history: &'a History,
    pub inventory: Inventory<'a>,
    /// What somebody claims.
    pub claims: Vec<PresenceClaim>,
    pub limits: Limits,
}

/// Makes a plan.
///
/// # Errors
/// [`PlanError`] if a node or host does not exist, or if nodes or pods are unknown.
pub fn plan(
    snapshot: &Snapshot,
    id: SnapshotId,
    history: &History,
    policy: &Policy,
    claims: &[PresenceClaim],
    request: &Request,
    limits: Limits,
) -> Result<Plan, PlanError> {
    let ground = Ground::of(snapshot, policy);
    let slots = VolumeSlots::of_workers(snapshot, &policy.attacher);
    let cluster = match Cluster::of(snapshot) {
        Reading::Known(cluster) => cluster,
        Reading::Unknown { why } => return Err(PlanError::Unknown { what: "the cluster".into(), why }),
    };
    let plugs = Plugs::of(snapshot, &policy.attacher, &slots);
    let board = Board::new(Scheduler::new(cluster), plugs);
    let scene =
        Scene { ground: &ground, history, inventory: Inventory::of(snapshot), claims: in_force(claims, snapshot), limits };
    let empty = |action| Plan::empty(action, id.clone(), snapshot.taken, snapshot.cluster.clone());
    let plan = match request {
        Request::Drain(names) => drain::together(&scene, board, names, empty(Action::Drain))?,
        Request::DrainOrder(names) => drain::in_turn(&scene, board, names, empty(Action::DrainOrder))?,
        Request::ScaleDown { count, anyway } => {
            scale_down::plan(&scene, board, *count, anyway.as_deref(), empty(Action::ScaleDown))
        }
        Request::Evacuate(host) => drain::host(&scene, board, host, empty(Action::Evacuate))?,
    };
    Ok(plan.sealed())
}

/// Claims that hold at the instant of the snapshot.
fn in_force(claims: &[PresenceClaim], snapshot: &Snapshot) -> Vec<PresenceClaim> {
    claims.iter().filter(|claim| claim.until.is_none_or(|until| until > snapshot.taken)).cloned().collect()
}
