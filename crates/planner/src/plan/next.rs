//! The best next action: every lever is tried on a copy, the cheapest one that clears the rules is taken.

use capplan_model::Reading;
use capplan_model::plan::{Action, Feasibility, Plan, Rejected};
use capplan_model::policy::Direction;
use capplan_model::slots::VolumeSlots;

use super::after::Standing;
use super::board::Board;
use super::levers::{self, Tried};
use super::scale_up::{self, Standard, Wanted};
use super::spare;
use super::{PlanError, Removal, Scene, scale_down};
use crate::capacity::node_uses;
use crate::decide::{self, decide};
use crate::rules::{Facts, Judgement, Verdict, judge_all};

/// Share of its time that a host's CPUs wait for disks, from which nothing is planned that makes them busier.
///
/// # Source
/// Field notes: alert at 30 % for 10 minutes; six incidents in six weeks, none of which a worker relieved.
pub(super) const BUSY_IO: f64 = 0.30;
/// Plans the best next action.
pub(super) fn plan(scene: &Scene<'_>, board: &Board<'_>, empty: Plan) -> Result<Plan, PlanError> {
    let (snapshot, policy) = (scene.ground.snapshot, scene.ground.policy);
    let uses = node_uses(snapshot);
    let slots = VolumeSlots::of_workers(snapshot, &policy.attacher);
    let facts = Facts { snapshot, history: scene.history, policy, uses: &uses, slots: &slots };
    let judged = judge_all(&facts);
    let advice = decide(&facts, &judged);
    let empty = Plan { explanation: judged.iter().map(told).collect(), ..empty };
    let standing = Standing::of(scene);
    if standing.held.is_empty() {
        return Ok(match advice.action {
            decide::Action::ScaleDown => {
                let one = Removal::default();
                let mut plan = scale_down::plan(scene, board.clone(), &one, Plan { action: Action::ScaleDown, ..empty })?;
                plan.because.splice(0..0, advice.because);
                plan
            }
            decide::Action::Reclaim => reclaim(scene, &slots, advice, empty),
            decide::Action::InsufficientData => simple(Action::InsufficientData, advice, empty),
            decide::Action::None | decide::Action::ScaleUp => match levers::raise_label(&slots, &empty) {
                Tried::Works(mut plan) => {
                    plan.rejected.extend(advice.rejected);
                    *plan
                }
                Tried::Rejected(_) => simple(Action::None, advice, empty),
            },
        });
    }
    let mut plan = choose(scene, board, &standing, &facts, &slots, &empty)?;
    plan.because.splice(0..0, standing.held.iter().map(|(rule, why)| format!("`{}` holds: {why}", rule.id)));
    Ok(plan)
}

/// Where a rule stands: what decides, and what would flip it.
fn told(one: &Judgement<'_>) -> String {
    let way = if one.direction == Direction::Up { "up" } else { "down" };
    let value = one.evidence.value.map_or_else(|| "unknown".to_owned(), |value| one.rule.when.show(value));
    let verdict = match one.sustained {
        Verdict::Met => "holds".to_owned(),
        Verdict::NotMet => match one.instant {
            Verdict::Met => "holds now, and did not throughout its window".to_owned(),
            Verdict::NotMet | Verdict::InsufficientData => "does not hold".to_owned(),
        },
        Verdict::InsufficientData => format!("is open: {:.0}% of its window are sampled", one.evidence.coverage * 100.0),
    };
    let days = one.rule.window.as_hours() / 24;
    let window = if days == 0 { String::new() } else { format!(" for {days} days") };
    format!("scale-{way} rule `{}` {verdict}: {value} now, it turns at {}{window}", one.rule.id, one.rule.when)
}

/// A plan without steps.
fn simple(action: Action, advice: decide::Recommendation, empty: Plan) -> Plan {
    let feasibility = if action == Action::InsufficientData {
        Feasibility::Undecided
    } else if advice.blocked {
        Feasibility::Blocked
    } else {
        Feasibility::Feasible
    };
    let undecided = if action == Action::InsufficientData { advice.because.clone() } else { Vec::new() };
    Plan { action, feasibility, target: advice.target, because: advice.because, rejected: advice.rejected, undecided, ..empty }
}

/// Tries the levers, the cheapest and least risky first.
fn choose(
    scene: &Scene<'_>,
    board: &Board<'_>,
    standing: &Standing<'_>,
    facts: &Facts<'_>,
    slots: &Reading<Vec<VolumeSlots>>,
    empty: &Plan,
) -> Result<Plan, PlanError> {
    let busy: Vec<String> = scene
        .ground
        .snapshot
        .hosts()
        .filter_map(|host| Some((host, host.io_wait.filter(|share| *share >= BUSY_IO)?)))
        .map(|(host, share)| format!("{} waits for its disks {:.0}% of the time", host.name, share * 100.0))
        .collect();
    let mut tried: Vec<(Action, Tried)> = Vec::new();
    tried.push((Action::Reclaim, levers::try_reclaim(scene, standing, slots, empty)));
    if busy.is_empty() {
        tried.push((Action::Rebalance, levers::rebalance(scene, board, standing, empty)));
        tried.push((Action::WakeSpare, spare::wake(scene, board, standing, empty)));
        let up = scale_up::plan(
            scene,
            board,
            &Wanted::default(),
            Standard::Clears,
            Plan { action: Action::ScaleUp, ..empty.clone() },
        )?;
        tried.push((
            Action::ScaleUp,
            if up.workers.is_empty() || up.feasibility == Feasibility::Blocked {
                // One worker of the usual size is what the reader expects to hear of.
                let usual = format!("1 × {}", scene.ground.policy.worker.memory);
                let why = up.rejected.iter().find(|one| one.target.as_ref() == Some(&usual)).map(|one| one.why.clone());
                let why = why.or_else(|| up.undecided.first().cloned());
                Tried::Rejected(why.unwrap_or_else(|| "no number of workers would do".to_owned()))
            } else {
                Tried::Works(Box::new(up))
            },
        ));
    }
    tried.push((Action::RightSize, levers::right_size(scene, standing, facts, empty)));
    tried.push((Action::MoveClaims, levers::move_claims(scene, standing, slots, empty)));
    tried.push((Action::ResizeGuest, levers::resize_guest(scene, empty)));
    let mut chosen: Option<Plan> = None;
    let mut not_chosen = Vec::new();
    for (action, tried) in tried {
        match (tried, &chosen) {
            (Tried::Works(plan), None) => chosen = Some(*plan),
            (Tried::Works(plan), Some(better)) => not_chosen.push(Rejected {
                action,
                target: plan.target.clone(),
                why: format!("it would do as well; {} costs less or risks less", better.action.name()),
            }),
            (Tried::Rejected(why), _) => not_chosen.push(Rejected::action(action, why)),
        }
    }
    // The runbook's answer where nothing clears the rules: what comes next has a place then.
    if chosen.is_none() && busy.is_empty() && !has_empty_worker(slots) {
        let up =
            scale_up::plan(scene, board, &Wanted::default(), Standard::Asked, Plan { action: Action::ScaleUp, ..empty.clone() })?;
        chosen = Some(up).filter(|up| !up.workers.is_empty() && up.feasibility != Feasibility::Blocked);
    }
    let mut plan = chosen.unwrap_or_else(|| {
        let (action, because) = if busy.is_empty() {
            (Action::None, "no lever clears the rules: see what was tried".to_owned())
        } else {
            (Action::IoVeto, "nothing here helps: the shared disk is the bottleneck".to_owned())
        };
        Plan { action, feasibility: Feasibility::Blocked, because: vec![because], ..empty.clone() }
    });
    if !busy.is_empty() {
        let why = format!("{}: moving or cloning disks makes that worse", busy.join(", "));
        for action in [Action::Rebalance, Action::WakeSpare, Action::ScaleUp] {
            not_chosen.push(Rejected::action(action, &why));
        }
        plan.warnings.extend(busy);
    }
    not_chosen.push(Rejected::action(Action::None, "a rule for another worker holds"));
    not_chosen.push(Rejected::action(Action::ScaleDown, "a rule for another worker holds"));
    plan.rejected.splice(0..0, not_chosen);
    Ok(plan)
}

/// Whether some worker has no volume yet: what comes next has a place already.
fn has_empty_worker(slots: &Reading<Vec<VolumeSlots>>) -> bool {
    slots.known().into_iter().flatten().filter_map(|one| one.attached.known()).any(Vec::is_empty)
}

fn reclaim(scene: &Scene<'_>, slots: &Reading<Vec<VolumeSlots>>, advice: decide::Recommendation, empty: Plan) -> Plan {
    let (_, list) = levers::reclaim_steps(scene, slots);
    Plan { steps: list.done(), ..simple(Action::Reclaim, advice, empty) }
}
