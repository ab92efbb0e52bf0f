//! Scale down: the cheapest worker leaves, where every rule for it held and nothing speaks against it.

use capplan_model::plan::{Action, Feasibility, Plan, Rejected};
use capplan_model::policy::Direction;

use super::{Applies, Choice, lost_slots};
use crate::decide::{Case, Tried};
use crate::plan::{Removal, scale_down};
use crate::rules::{Judgement, Verdict, combine};

pub(super) const OPTION: Choice = Choice { action: Action::ScaleDown, applies: Applies::Always, moves_disks: false, attempt };

/// Removes one worker.
fn attempt(case: &Case<'_, '_>) -> Tried {
    if case.is_due() {
        return Tried::No("a rule for another worker holds".to_owned());
    }
    if lost_slots(case.facts.slots).is_some() {
        return Tried::No("not while slots are lost".to_owned());
    }
    let down: Vec<&Judgement<'_>> = case.judged.iter().filter(|one| one.direction == Direction::Down).collect();
    let combined = combine(&case.facts.policy.scale_down, &down);
    let decisive = down.iter().filter(|one| one.sustained == combined);
    let why: Vec<String> = match combined {
        Verdict::Met => Vec::new(),
        Verdict::NotMet => decisive.map(|one| one.contrary(case.facts.snapshot.taken)).collect(),
        Verdict::InsufficientData => decisive.map(|one| one.open()).collect(),
    };
    if combined != Verdict::Met {
        return Tried::No(why.join("; "));
    }
    if let Some(why) = scale_down::settling(case.facts) {
        return Tried::No(format!("every rule for it holds, but {why}"));
    }
    if let Some(why) = unread(case) {
        return Tried::No(format!("every rule for it holds, but what it rests on is unknown: {why}"));
    }
    let empty = Plan { action: OPTION.action, ..case.empty.clone() };
    let mut plan = match scale_down::plan(case.scene, case.board.clone(), &Removal::default(), empty) {
        Ok(plan) => plan,
        Err(error) => return Tried::Failed(error),
    };
    if plan.feasibility == Feasibility::Feasible {
        let target = plan.target.clone().unwrap_or_default();
        let mut because: Vec<String> = down.iter().map(|one| one.held()).collect();
        because.push(format!("without {target} every pod has a place, and no rule for another worker holds then"));
        plan.because.splice(0..0, because);
        return Tried::Works(Box::new(plan));
    }
    let mut rejected = plan.rejected;
    let named = rejected.iter().filter_map(|one| one.target.clone()).collect::<Vec<_>>();
    let others = plan.blockers.into_iter().filter(|one| !named.iter().any(|name| name == one.node.as_str()));
    rejected.extend(others.map(|one| Rejected::of(OPTION.action, &one.node, one.detail)));
    rejected.extend(plan.undecided.into_iter().map(|why| Rejected::action(OPTION.action, why)));
    Tried::Rejected(rejected)
}

/// What a removal rests on that was not read.
fn unread(case: &Case<'_, '_>) -> Option<String> {
    let kube = &case.facts.snapshot.kube;
    let needed = [
        kube.persistent_volumes.why(),
        kube.claims.why(),
        kube.volume_attachments.why(),
        kube.pdbs.why(),
        case.facts.slots.why(),
    ];
    let slots = || case.facts.slots.known().into_iter().flatten().find(|one| one.free().is_none());
    needed
        .into_iter()
        .flatten()
        .next()
        .map(str::to_owned)
        .or_else(|| slots().map(|one| format!("slots of {}: {}", one.node, one.unknown().unwrap_or("not read"))))
}
