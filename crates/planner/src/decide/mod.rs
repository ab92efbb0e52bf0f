//! What is to be done next: the options are tried in one order, each on a copy of the cluster, and the first that
//! works is taken. A report's recommendation and the plan of `capplan plan` are this decision.

mod options;

use capplan_model::ids::SnapshotId;
use capplan_model::plan::{Action, Feasibility, Plan, Rejected};
use capplan_model::policy::Direction;
use capplan_model::slots::VolumeSlots;

use self::options::{Applies, Choice};
use crate::capacity::node_uses;
use crate::host_fit::{busy_hosts, described, no_host_fits};
use crate::plan::after::Standing;
use crate::plan::board::Board;
use crate::plan::{Limits, Observation, PlanError, Scene, finished, gated};
use crate::rules::{Facts, Judgement, Verdict, combine, judge_all};

/// Options that search for other places of pods: rebalance, scale up (twice, at worst) or scale down share the time.
const SEARCHES: f64 = 3.0;

/// An option that was tried.
pub(crate) enum Tried {
    /// It can be done, and does what it is for.
    Works(Box<Plan>),
    /// It cannot, or would not help, and why.
    No(String),
    /// The same with a reason for each target.
    Rejected(Vec<Rejected>),
    /// Whether it can is not known.
    Unknown {
        /// What is not known.
        why: String,
        /// The same as a reason for a decision.
        because: String,
    },
    /// The question does not arise.
    NotApplicable,
    /// It could not even be tried.
    Failed(PlanError),
}

/// What the options are tried on.
pub(crate) struct Case<'c, 'a> {
    scene: &'c Scene<'a>,
    board: &'c Board<'a>,
    facts: &'c Facts<'c>,
    judged: &'c [Judgement<'c>],
    standing: &'c Standing<'c>,
    empty: &'c Plan,
}

impl Case<'_, '_> {
    /// Whether the rules ask for another worker.
    fn is_due(&self) -> bool {
        !self.standing.held.is_empty()
    }

    /// Why nothing may be done that makes disks busier.
    fn busy_disks(&self) -> Option<String> {
        let busy = busy_hosts(self.facts.snapshot);
        (!busy.is_empty()).then(|| format!("{}: moving or cloning disks makes that worse", busy.join(", ")))
    }

    /// That no option clears the rules, with the room of the hosts where that is what is missing.
    fn none_clears(&self) -> String {
        match no_host_fits(self.facts) {
            Some(rooms) => format!("another worker is due, but no host can take one: {}", described(&rooms)),
            None => "another worker is due, but no option clears the rules: see what was tried".to_owned(),
        }
    }

    /// An endpoint of Proxmox VE of which hosts or guests were not read.
    fn unread_endpoint(&self) -> Option<String> {
        self.facts.snapshot.pve.iter().find_map(|pve| {
            let (what, why) = [("hosts", pve.hosts.why()), ("guests", pve.guests.why())]
                .into_iter()
                .find_map(|(what, why)| Some((what, why?)))?;
            Some(format!("whether something is wrong there is not known: {what} of Proxmox VE {} were not read: {why}", pve.name))
        })
    }
}

/// Decides what is to be done next on a snapshot with this hash, as a plan with its reasons.
///
/// Nothing is decided that rests on something unknown: then the action is [`Action::InsufficientData`].
///
/// # Errors
/// [`PlanError`] if a plan that was made does not pass its audit.
pub fn decide(seen: &Observation<'_>, id: SnapshotId, limits: Limits) -> Result<Plan, PlanError> {
    let (snapshot, policy) = (seen.snapshot, seen.policy);
    let uses = node_uses(snapshot);
    let slots = VolumeSlots::of_workers(snapshot, &policy.attacher);
    let facts = Facts { snapshot, history: seen.history, policy, uses: &uses, slots: &slots };
    decide_judged(seen, &facts, &judge_all(&facts), id, limits)
}

/// The same where the rules are judged already, on these facts.
pub(crate) fn decide_judged(
    seen: &Observation<'_>,
    facts: &Facts<'_>,
    judged: &[Judgement<'_>],
    id: SnapshotId,
    limits: Limits,
) -> Result<Plan, PlanError> {
    let (snapshot, policy) = (seen.snapshot, seen.policy);
    let explanation = judged.iter().map(|one| one.standing()).collect();
    let empty = Plan { explanation, ..Plan::empty(Action::None, id, snapshot.taken, snapshot.cluster.clone()) };
    let up: Vec<&Judgement<'_>> = judged.iter().filter(|one| one.direction == Direction::Up).collect();
    let plan = if combine(&policy.scale_up, &up) == Verdict::InsufficientData {
        let open = up.iter().filter(|one| one.sustained == Verdict::InsufficientData).map(|one| one.open());
        let lost = options::lost_slots(facts.slots).map(|(_, why)| format!("in any case: {why}"));
        insufficient(open.chain(lost).collect(), empty)
    } else {
        let decided = seen.with(limits, |scene, board| {
            let standing = Standing::judged(policy, judged, facts.uses);
            scene.seconds.set(limits.seconds / SEARCHES);
            choose(&Case { scene, board: &board, facts, judged, standing: &standing, empty: &empty })
        });
        match decided {
            Err(PlanError::Unknown { what, why }) => insufficient(vec![format!("{what} is unknown: {why}")], empty),
            decided => decided?,
        }
    };
    finished(seen, plan)
}

/// A decision that cannot be made, and why.
fn insufficient(because: Vec<String>, empty: Plan) -> Plan {
    let (action, feasibility) = (Action::InsufficientData, Feasibility::Undecided);
    Plan { action, feasibility, undecided: because.clone(), because, ..empty }
}

/// Tries the options; those that are not chosen are listed with their reason.
fn choose(case: &Case<'_, '_>) -> Result<Plan, PlanError> {
    let mut chosen: Option<Plan> = None;
    let (mut rejected, mut unknown) = (Vec::new(), Vec::new());
    for option in options::OPTIONS {
        match (tried(case, &option), &chosen) {
            (Tried::Works(plan), None) => chosen = Some(*plan),
            (Tried::Works(plan), Some(better)) => {
                let why = format!("it would do as well; {} costs less or risks less", better.action.name());
                rejected.push(Rejected { action: plan.action, target: plan.target, why });
            }
            (Tried::No(why), _) => rejected.push(Rejected::action(option.action, why)),
            (Tried::Rejected(reasons), _) => rejected.extend(reasons),
            (Tried::Unknown { why, because }, _) => {
                rejected.push(Rejected::action(option.action, format!("not known: {why}")));
                unknown.push(because);
            }
            (Tried::NotApplicable, _) => {}
            (Tried::Failed(error), _) => return Err(error),
        }
    }
    if chosen.is_none() && !unknown.is_empty() {
        chosen = Some(insufficient(unknown, case.empty.clone()));
    }
    for option in options::LAST_RESORTS {
        if chosen.is_some() {
            break;
        }
        match tried(case, &option) {
            Tried::Works(plan) => chosen = Some(*plan),
            Tried::Failed(error) => return Err(error),
            Tried::No(_) | Tried::Rejected(_) | Tried::Unknown { .. } | Tried::NotApplicable => {}
        }
    }
    let mut plan = chosen.unwrap_or_else(|| case.empty.clone());
    if case.is_due() {
        let met = case.judged.iter().filter(|one| one.direction == Direction::Up && one.sustained == Verdict::Met);
        let met: Vec<String> = met.map(Judgement::held).collect();
        // That nothing can be done comes before why something should be.
        let at = usize::from(plan.feasibility == Feasibility::Blocked);
        plan.because.splice(at..at, met);
        rejected.push(Rejected::action(Action::None, "a rule for another worker holds"));
        plan.warnings.extend(busy_hosts(case.facts.snapshot));
    }
    rejected.append(&mut plan.rejected);
    plan.rejected = rejected;
    Ok(plan)
}

/// Tries an option where it applies; one that the gates would refuse does not work.
fn tried(case: &Case<'_, '_>, option: &Choice) -> Tried {
    let applies = match option.applies {
        Applies::Due => case.is_due(),
        Applies::Calm => !case.is_due(),
        Applies::Always => true,
    };
    if !applies {
        return Tried::NotApplicable;
    }
    if let Some(why) = case.busy_disks().filter(|_| option.moves_disks && case.is_due()) {
        return Tried::No(why);
    }
    let plan = match (option.attempt)(case) {
        Tried::Works(plan) => gated(case.scene, case.board, *plan),
        other @ (Tried::No(_) | Tried::Rejected(_) | Tried::Unknown { .. } | Tried::NotApplicable | Tried::Failed(_)) => {
            return other;
        }
    };
    match plan.blockers.first().filter(|_| plan.feasibility == Feasibility::Blocked) {
        Some(one) => {
            let why = one.detail.clone();
            Tried::Rejected(vec![Rejected { action: plan.action, target: plan.target, why }])
        }
        None => Tried::Works(Box::new(plan)),
    }
}
