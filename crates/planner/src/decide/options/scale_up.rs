//! Scale up: new workers join.

use capplan_model::plan::{Action, Feasibility, Plan};

use crate::decide::{Case, Tried};
use crate::host_fit::host_rooms;
use crate::plan::PlanError;
use crate::plan::scale_up::{self, Standard, Wanted};

const ACTION: Action = Action::ScaleUp;

/// The least memory in new workers with which every rule is cleared.
pub(super) fn attempt(case: &Case<'_, '_>) -> Result<Tried, PlanError> {
    if !case.is_due() {
        let rooms = host_rooms(case.facts);
        let blocked = !rooms.is_empty() && rooms.iter().all(|room| room.available.known().is_some() && !room.fits());
        let rooms: Vec<String> = rooms.iter().map(|room| room.describe()).collect();
        let could = if blocked { format!("; none could be added either: {}", rooms.join("; ")) } else { String::new() };
        return Ok(Tried::no(ACTION, format!("no rule for it holds{could}")));
    }
    if let Some(why) = case.busy_disks() {
        return Ok(Tried::no(ACTION, why));
    }
    let up = plan(case, Standard::Clears)?;
    if !up.workers.is_empty() && up.feasibility != Feasibility::Blocked {
        return Ok(Tried::Works(Box::new(up)));
    }
    // One worker of the usual size is what the reader expects to hear of.
    let usual = format!("1 × {}", case.scene.ground.policy.worker.memory);
    let why = up.rejected.iter().find(|one| one.target.as_ref() == Some(&usual)).map(|one| one.why.clone());
    let mut why = why.or_else(|| up.undecided.first().cloned());
    why = why.or_else(|| up.blockers.first().map(|one| one.detail.clone()));
    let why = why.unwrap_or_else(|| "no number of workers would do".to_owned());
    if up.feasibility == Feasibility::Undecided {
        let because = format!("another worker is due, but whether a host can take it is not known: {why}");
        return Ok(Tried::Unknown { action: ACTION, why, because });
    }
    Ok(Tried::no(ACTION, why))
}

/// One worker although it clears no rule: what comes next has a place then. Nobody needs one more empty worker.
///
/// # Source
/// Scale runbook: "add a worker" is its answer to a full worker, whatever can be moved.
pub(super) fn attempt_relief(case: &Case<'_, '_>) -> Result<Tried, PlanError> {
    let has_empty_worker =
        case.facts.slots.known().into_iter().flatten().filter_map(|one| one.attached.known()).any(Vec::is_empty);
    if !case.is_due() || case.busy_disks().is_some() || has_empty_worker {
        return Ok(Tried::NotApplicable);
    }
    let up = plan(case, Standard::Asked)?;
    let works = !up.workers.is_empty() && up.feasibility != Feasibility::Blocked;
    Ok(if works { Tried::Works(Box::new(up)) } else { Tried::NotApplicable })
}

fn plan(case: &Case<'_, '_>, standard: Standard) -> Result<Plan, PlanError> {
    scale_up::plan(case.scene, case.board, &Wanted::default(), standard, Plan { action: ACTION, ..case.empty.clone() })
}
