//! Wake a spare: a stopped VM that was a worker becomes one again.

use capplan_model::plan::Action;

use crate::decide::{Case, Tried};
use crate::plan::{after, spare};

const ACTION: Action = Action::WakeSpare;

/// The first spare with which no rule asks for another worker any more.
pub(super) fn attempt(case: &Case<'_, '_>) -> Tried {
    if !case.is_due() {
        return Tried::NotApplicable;
    }
    if let Some(why) = case.busy_disks() {
        return Tried::no(ACTION, why);
    }
    let mut why = "there is no stopped VM that was a worker".to_owned();
    for one in spare::spares(case.scene) {
        let worker = match spare::as_worker(case.scene, case.board, one) {
            Ok(worker) => worker,
            Err(not) => {
                why = not;
                continue;
            }
        };
        let state = after::with_workers(case.scene, &case.board.scheduler.cluster, &[], std::slice::from_ref(&worker));
        if let Some((rule, text)) = case.standing.left(case.scene, state).first() {
            why = format!("with {} ({}) `{rule}` {text}", one.name, one.vmid);
            continue;
        }
        return Tried::Works(Box::new(spare::woken(case.scene, one, &worker, case.empty.clone())));
    }
    Tried::no(ACTION, why)
}
