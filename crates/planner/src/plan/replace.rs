//! One worker for another: the new one joins first, then the old one is emptied and goes.

use capplan_model::Reading;
use capplan_model::ids::NodeName;
use capplan_model::plan::{Condition, Feasibility, Plan};

use super::board::Board;
use super::scale_up::Standard;
use super::{Limits, Observation, PlanError, Removal, Scene, Wanted, after, drain, scale_down, scale_up};

/// Plans both in one: the second half on the cluster as the first one leaves it.
///
/// # Errors
/// [`PlanError`] if the node does not exist or is no worker.
pub(crate) fn plan(
    seen: &Observation<'_>,
    scene: &Scene<'_>,
    board: &Board<'_>,
    removal: &Removal,
    limits: Limits,
    empty: Plan,
) -> Result<Plan, PlanError> {
    let Some(old) = &removal.node else { return Err(PlanError::NoNode { name: String::new(), known: String::new() }) };
    drain::find(&board.scheduler.cluster, old)?;
    let memory = scene.ground.guest(old).map(|guest| guest.memory());
    let wanted = Wanted { count: Some(1), like: Some(old.clone()), memory, ..Wanted::default() };
    let mut first = scale_up::plan(scene, board, &wanted, Standard::Asked, empty.clone())?;
    first.target = Some(old.to_string());
    if first.feasibility != Feasibility::Feasible {
        return Ok(first);
    }
    let names: Vec<NodeName> = first.workers.iter().map(|spec| spec.name.clone()).collect();
    let mut there = after::end_state(scene, board, &first);
    // It has proven itself by then; that it has just come is no reason to wait.
    if let Reading::Known(nodes) = &mut there.kube.nodes {
        let new = nodes.iter_mut().filter(|node| names.contains(&node.name));
        new.flat_map(|node| &mut node.conditions).for_each(|condition| condition.since = None);
    }
    let later = Observation { snapshot: &there, ..*seen };
    let anyway = Some(removal.anyway.clone().unwrap_or_else(|| format!("{} takes its place", names[0])));
    let removal = Removal { anyway, ..removal.clone() };
    let second = later.with(limits, |scene, board| scale_down::plan(scene, board, &removal, empty.clone()))?;
    if second.feasibility != Feasibility::Feasible {
        return Ok(Plan { target: first.target, workers: first.workers, ..second });
    }
    let mut plan = Plan { workers: first.workers, ..first };
    plan.because.extend(second.because);
    plan.warnings.splice(0..0, second.warnings);
    plan.rejected.extend(second.rejected);
    plan.optimality = second.optimality;
    plan.order.extend(second.order);
    for mut step in second.steps {
        step.number = plan.steps.len() as u64 + 1;
        for condition in &mut step.requires {
            // The new one has just come.
            if let Condition::OthersHealthy { except } = condition {
                except.extend(names.clone());
            }
        }
        plan.steps.push(step);
    }
    Ok(plan)
}
