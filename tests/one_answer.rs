//! One snapshot, one answer: a report recommends what `capplan plan` decides, and a plan that is called feasible is one
//! that `capplan apply` would begin.

mod support;

use std::path::Path;

use capplan_model::history::History;
use capplan_model::ids::SnapshotId;
use capplan_model::plan::{Action, Feasibility, Plan};
use capplan_model::policy::Policy;
use capplan_model::pve::{Guest, Host, ThinPool};
use capplan_model::scenario::Scenario;
use capplan_model::units::Bytes;
use capplan_model::{Reading, Snapshot};
use capplan_planner::decide::decide;
use capplan_planner::plan::{Count, Limits, Observation, Removal, Request, Wanted, gate, plan};
use capplan_planner::report::build;
use capplan_provision::store;
use support::{World, recorded, scenarios};

/// What goes wrong beside the rules: cases in which the three commands once differed.
type Trouble = (&'static str, fn(&mut Snapshot));

const TROUBLES: [Trouble; 9] = [
    ("as it is", |_| {}),
    ("busy disks", |seen| hosts(seen, |host| host.io_wait = Some(0.42))),
    ("a full pool", |seen| pools(seen, |pool| pool.used = Bytes(pool.size.0 / 100 * 93))),
    ("full metadata of a pool", |seen| pools(seen, |pool| pool.metadata_used = Bytes(pool.metadata_size.0 / 100 * 92))),
    ("committed memory", |seen| guests(seen, |guest| guest.max_memory = Bytes(guest.max_memory.0 * 2))),
    ("no quorum", |seen| seen.pve.iter_mut().for_each(|pve| pve.quorate = Reading::Known(false))),
    ("an unread quorum", |seen| seen.pve.iter_mut().for_each(|pve| pve.quorate = Reading::unknown("not read"))),
    ("unread hosts", |seen| seen.pve.iter_mut().for_each(|pve| pve.hosts = Reading::unknown("not read"))),
    ("unread guests", |seen| seen.pve.iter_mut().for_each(|pve| pve.guests = Reading::unknown("not read"))),
];

fn each<T>(reading: &mut Reading<Vec<T>>, change: impl FnMut(&mut T)) {
    if let Reading::Known(list) = reading {
        list.iter_mut().for_each(change);
    }
}

fn hosts(seen: &mut Snapshot, change: fn(&mut Host)) {
    seen.pve.iter_mut().for_each(|pve| each(&mut pve.hosts, change));
}

fn pools(seen: &mut Snapshot, change: fn(&mut ThinPool)) {
    seen.pve.iter_mut().for_each(|pve| each(&mut pve.hosts, |host| each(&mut host.pools, change)));
}

fn guests(seen: &mut Snapshot, change: fn(&mut Guest)) {
    seen.pve.iter_mut().for_each(|pve| each(&mut pve.guests, change));
}

/// Whether a plan that is called feasible may be begun on the snapshot that it was made on.
fn may_begin(name: &str, seen: &Observation<'_>, made: &Plan) {
    if made.feasibility == Feasibility::Feasible && !made.steps.is_empty() {
        let allowed = gate(seen, made);
        assert!(allowed.is_ok(), "{name}: {:?} is called feasible: {allowed:?}", made.action);
    }
    if made.feasibility != Feasibility::Feasible {
        let why = made.blockers.len() + made.undecided.len() + made.because.len();
        assert!(why > 0 && made.steps.is_empty(), "{name}: {:?} says no reason, or has steps", made.action);
    }
}

fn one_answer(name: &str, snapshot: &Snapshot, history: &History) {
    let policy = Policy::built_in();
    let seen = Observation { snapshot, history, policy: &policy, claims: &[] };
    let decided = decide(&seen, SnapshotId::default(), Limits::default()).expect("a decision");
    let report = build(snapshot, SnapshotId::default(), history, &policy, Vec::new());
    let next = &report.recommendation;
    assert_eq!(next.action, decided.action, "{name}");
    assert_eq!(
        (&next.target, next.feasibility, &next.because),
        (&decided.target, decided.feasibility, &decided.because),
        "{name}"
    );
    may_begin(name, &seen, &decided);
    let unread = snapshot.pve.iter().any(|pve| pve.hosts.known().is_none() || pve.guests.known().is_none());
    let says_nothing_to_do = decided.action == Action::None && decided.feasibility == Feasibility::Feasible;
    assert!(!unread || !says_nothing_to_do, "{name}: nothing to do over something that was not read");
    let removal = |destroy| Removal { count: Count::Exactly(1), anyway: Some("asked".to_owned()), destroy, ..Removal::default() };
    let mut asked = vec![
        Request::ScaleUp(Box::new(Wanted { count: Some(1), ..Wanted::default() })),
        Request::ScaleDown(removal(false)),
        Request::ScaleDown(removal(true)),
    ];
    asked.extend(snapshot.kube.nodes.items().iter().take(2).map(|node| Request::Drain(vec![node.name.clone()])));
    for request in asked {
        if let Ok(made) = plan(&seen, SnapshotId::default(), &request, Limits { seconds: 2.0, seed: 1 }) {
            may_begin(&format!("{name}, {request:?}"), &seen, &made);
        }
    }
}

#[test]
fn report_plan_and_apply_agree_on_every_scenario_whatever_is_wrong_beside_the_rules() {
    for path in scenarios() {
        let text = std::fs::read_to_string(&path).expect("readable");
        let scenario = Scenario::parse(&text).expect("a scenario");
        for (trouble, change) in TROUBLES {
            let mut snapshot = scenario.snapshot();
            change(&mut snapshot);
            one_answer(&format!("{} with {trouble}", path.display()), &snapshot, &scenario.history());
        }
    }
}

#[test]
fn report_plan_and_apply_agree_on_every_recording() {
    let world = World::new();
    for name in ["today", "lun-incident"] {
        let Some(file) = recorded(&world, name) else { return };
        let (snapshot, _) = store::snapshot::load(Path::new(&file)).expect("just written");
        for (trouble, change) in TROUBLES {
            let mut snapshot = snapshot.clone();
            change(&mut snapshot);
            one_answer(&format!("{name} with {trouble}"), &snapshot, &History::default());
        }
    }
}
