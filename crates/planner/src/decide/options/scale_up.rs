//! Scale up: new workers join.

use capplan_model::plan::{Action, Feasibility, Plan};

use super::{Applies, Choice};
use crate::decide::{Case, Tried};
use crate::host_fit::{described, no_host_fits};
use crate::plan::PlanError;
use crate::plan::scale_up::{self, Standard, Wanted};

pub(super) const OPTION: Choice = Choice { action: Action::ScaleUp, applies: Applies::Always, moves_disks: true, attempt };

/// One worker although it clears no rule: what comes next has a place then.
///
/// # Source
/// Scale runbook: "add a worker" is its answer to a full worker, whatever can be moved.
pub(super) const RELIEF: Choice = Choice { applies: Applies::Due, attempt: attempt_relief, ..OPTION };

/// The least memory in new workers with which every rule is cleared.
fn attempt(case: &Case<'_, '_>) -> Tried {
    if !case.is_due() {
        let full = no_host_fits(case.facts).map(|rooms| format!("; none could be added either: {}", described(&rooms)));
        return Tried::No(format!("no rule for it holds{}", full.unwrap_or_default()));
    }
    let up = match plan(case, Standard::Clears) {
        Ok(up) => up,
        Err(error) => return Tried::Failed(error),
    };
    if adds_workers(&up) {
        return Tried::Works(Box::new(up));
    }
    // One worker of the usual size is what the reader expects to hear of.
    let usual = format!("1 × {}", case.scene.ground.policy.worker.memory);
    let of_usual = up.rejected.iter().find(|one| one.target.as_ref() == Some(&usual)).map(|one| &one.why);
    let why = of_usual.or(up.undecided.first()).or(up.blockers.first().map(|one| &one.detail));
    let why = why.cloned().unwrap_or_else(|| "no number of workers would do".to_owned());
    if up.feasibility == Feasibility::Undecided {
        let because = format!("another worker is due, but whether a host can take it is not known: {why}");
        return Tried::Unknown { why, because };
    }
    Tried::No(why)
}

/// Nobody needs one more empty worker.
fn attempt_relief(case: &Case<'_, '_>) -> Tried {
    let mut attached = case.facts.slots.known().into_iter().flatten().filter_map(|one| one.attached.known());
    if attached.any(Vec::is_empty) {
        return Tried::NotApplicable;
    }
    match plan(case, Standard::Asked) {
        Ok(up) if adds_workers(&up) => Tried::Works(Box::new(up)),
        Ok(_) => Tried::NotApplicable,
        Err(error) => Tried::Failed(error),
    }
}

fn plan(case: &Case<'_, '_>, standard: Standard) -> Result<Plan, PlanError> {
    let empty = Plan { action: OPTION.action, ..case.empty.clone() };
    scale_up::plan(case.scene, case.board, &Wanted::default(), standard, empty)
}

fn adds_workers(up: &Plan) -> bool {
    !up.workers.is_empty() && up.feasibility != Feasibility::Blocked
}
