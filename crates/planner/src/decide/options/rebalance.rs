//! Rebalance: pods with volumes move off the fullest workers.

use capplan_model::plan::{Action, Feasibility, Optimality, Plan};

use super::{ABOUT_ATTACHMENTS, Applies, Choice};
use crate::decide::{Case, Tried};
use crate::plan::blockers::unsafe_to_move;
use crate::plan::steps::{self, Steps};
use crate::plan::{after, even, scale_down, scale_up};

pub(super) const OPTION: Choice = Choice { action: Action::Rebalance, applies: Applies::Due, moves_disks: true, attempt };

/// The fewest moves after which no worker has more volumes attached than the rules allow.
fn attempt(case: &Case<'_, '_>) -> Tried {
    if !ABOUT_ATTACHMENTS.iter().any(|measure| case.standing.rule(*measure).is_some()) {
        return Tried::No("where pods are does not change what they ask for in all".to_owned());
    }
    let Some(most) = scale_down::most_attached(case.scene) else {
        return Tried::No("the policy has no rule about attachments".to_owned());
    };
    let mut trial = case.board.clone();
    let found = even::even_out(case.scene, &mut trial, most);
    if let Some(why) = unsafe_to_move(case.scene, &trial) {
        return Tried::No(why);
    }
    let (landings, bound) = match found {
        Ok(found) => found,
        Err(why) => return Tried::No(why),
    };
    if landings.is_empty() {
        return Tried::No("no pod that may move has a volume on the fullest workers".to_owned());
    }
    let state = after::with_workers(case.scene, &trial.scheduler.cluster, &landings, &[]);
    if let Some((rule, why)) = case.standing.left(case.scene, state).first() {
        return Tried::No(format!("with {} pods moved `{rule}` {why}", landings.len()));
    }
    if let Some((lost, why)) = scale_down::losses_not_survived(case.scene, &mut trial, &[]).first() {
        return Tried::No(format!("with {} pods moved, {lost}: {why}", landings.len()));
    }
    let mut plan = Plan {
        action: OPTION.action,
        feasibility: Feasibility::Feasible,
        because: vec![format!("{} pods moved bring every worker to {most} volumes or fewer", landings.len())],
        optimality: Optimality::of(landings.len() as u64, bound, "fewest moves that take volumes off the fullest workers"),
        ..case.empty.clone()
    };
    scale_up::moves(case.scene, &trial, &landings, &mut plan);
    plan.target = Some(plan.order.iter().map(|one| one.node.to_string()).collect::<Vec<_>>().join(", "));
    let mut list = Steps::default();
    steps::of_moves(&plan, &mut list);
    plan.steps = list.done();
    Tried::Works(Box::new(plan))
}
