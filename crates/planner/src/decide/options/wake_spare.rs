//! Wake a spare: a stopped VM that was a worker becomes one again.

use capplan_model::plan::Action;

use super::{Applies, Choice};
use crate::decide::{Case, Tried};
use crate::plan::{after, spare};

pub(super) const OPTION: Choice = Choice { action: Action::WakeSpare, applies: Applies::Due, moves_disks: true, attempt };

/// The first spare with which no rule asks for another worker any more.
fn attempt(case: &Case<'_, '_>) -> Tried {
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
    Tried::No(why)
}
