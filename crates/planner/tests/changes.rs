//! Whatever changes are played, in whatever order, the figures add up.

use std::collections::BTreeSet;
use std::fmt::Write;

use capplan_model::change::{AddPods, AddPvcs, AddTaint, AddWorker, Change, Failure, FailureMode};
use capplan_model::history::History;
use capplan_model::ids::SnapshotId;
use capplan_model::policy::Policy;
use capplan_model::scenario::Scenario;
use capplan_model::units::Bytes;
use capplan_planner::simulate::{Simulation, Trials, Verdict, simulate};
use proptest::prelude::*;

/// Pods of a workload: how many, GiB of memory, volumes each.
type Workload = (u64, u64, u64);

fn scenario(workers: &[Vec<Workload>]) -> Scenario {
    let mut text = "format = 'capplan.scenario/1'\ntitle = 'x'\nnow = '2026-03-02T06:00:00Z'\n\
        [[hosts]]\nname = 'pve1'\nmemory = '512GiB'\navailable = '64GiB'\ncpus = 64\n"
        .to_owned();
    for (number, workloads) in workers.iter().enumerate() {
        let pods: Vec<String> = workloads
            .iter()
            .enumerate()
            .map(|(place, (count, memory, volumes))| {
                format!("{{ name = 'app{place}', count = {count}, memory = '{memory}GiB', volumes = {volumes} }}")
            })
            .collect();
        write!(
            text,
            "[[nodes]]\nname = 'w{number}'\nvmid = 20{number}\nhost = 'pve1'\nmemory = '32GiB'\ncpus = 8\nadvertised = 12\npods = [{}]\n",
            pods.join(", ")
        )
        .expect("a string");
    }
    Scenario::parse(&text).expect("a valid scenario")
}

fn change() -> impl Strategy<Value = Change> {
    let node = || (0_u8..4).prop_map(|number| format!("w{number}"));
    let mode = prop_oneof![Just(FailureMode::Notready), Just(FailureMode::Partition), Just(FailureMode::PowerOff)];
    let taint = prop_oneof![Just("x:NoSchedule"), Just("x:NoExecute"), Just("x-")];
    prop_oneof![
        (0_u32..25).prop_map(|count| Change::AddPvcs(AddPvcs { count, ..AddPvcs::default() })),
        (0_u32..6, 0_u64..9)
            .prop_map(|(count, gib)| { Change::AddPods(AddPods { count, memory: Some(Bytes::gib(gib)), ..AddPods::default() }) }),
        node().prop_map(|name| Change::RemoveNode(name.as_str().into())),
        (node(), mode).prop_map(|(name, mode)| Change::FailNode(Failure { name: name.as_str().into(), mode })),
        node().prop_map(|name| Change::Cordon(name.as_str().into())),
        (node(), taint).prop_map(|(name, taint)| {
            Change::Taint(AddTaint { node: name.as_str().into(), taint: taint.parse().expect("a taint") })
        }),
        Just(Change::ColdBoot),
        Just(Change::AddWorker(AddWorker { memory: Some(Bytes::gib(16)), ..AddWorker::default() })),
    ]
}

fn workers() -> impl Strategy<Value = Vec<Vec<Workload>>> {
    let workload = (1_u64..8, 0_u64..5, 0_u64..3);
    prop::collection::vec(prop::collection::vec(workload, 0..3), 2..5)
}

/// Pods that changes add, and volumes with them.
fn added(changes: &[Change]) -> (u64, u64) {
    changes.iter().fold((0, 0), |(pods, volumes), change| {
        if let Change::AddPvcs(add) = change {
            (pods + u64::from(add.count), volumes + u64::from(add.count))
        } else if let Change::AddPods(add) = change {
            (pods + u64::from(add.count), volumes)
        } else {
            (pods, volumes)
        }
    })
}

/// Volumes of a pod by its name: those of a scenario's are in its workload, a made-up one has none or one.
fn volumes_of(pod: &str, workers: &[Vec<Workload>], simulation: &Simulation) -> u64 {
    let Some(name) = pod.strip_prefix("apps/app") else {
        // Claims of made-up pods are numbered as these are.
        let number = pod.rsplit('-').next().unwrap_or_default();
        return u64::from(with_claims(simulation).contains(number));
    };
    let parts: Vec<&str> = name.split('-').collect();
    let (place, worker) = (parts[0].parse::<usize>().expect("a number"), parts[1][1..].parse::<usize>().expect("a number"));
    workers[worker][place].2
}

/// Numbers of the made-up pods that have a claim.
fn with_claims(simulation: &Simulation) -> BTreeSet<String> {
    let (mut numbers, mut next) = (BTreeSet::new(), 1);
    for change in &simulation.changes {
        let words: Vec<&str> = change.split(' ').collect();
        let count = if words[0] == "add" && words[2] != "worker" { words[1].parse::<u64>().unwrap_or(0) } else { 0 };
        if words.get(2).is_some_and(|word| word.starts_with("PVC")) {
            numbers.extend((next..next + count).map(|number| number.to_string()));
        }
        next += count;
    }
    numbers
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn everything_played_adds_up(
        workers in workers(),
        changes in prop::collection::vec(change(), 1..5),
        seed in 0_u64..9,
    ) {
        let mut snapshot = scenario(&workers).snapshot();
        let (history, policy) = (History::default(), Policy::built_in());
        let trials = Trials { runs: 2, seed };
        let id = SnapshotId::default();
        // A node that is not there, or not any more, is named and nothing is played.
        let Ok(simulation) = simulate(&mut snapshot, id, &history, &policy, &changes, trials, &|_| {}) else { return Ok(()) };

        let placed: BTreeSet<&str> = simulation.placement.iter().map(|one| one.pod.as_str()).collect();
        prop_assert_eq!(placed.len(), simulation.placement.len(), "a pod is placed twice");
        let removed: Vec<&Change> = changes.iter().filter(|one| matches!(one, Change::RemoveNode(_))).collect();
        let there: BTreeSet<&str> = simulation.after.nodes.iter().map(|row| row.name.as_str()).collect();
        for change in removed {
            if let Change::RemoveNode(name) = change {
                prop_assert!(!there.contains(name.as_str()), "{} is still there", name);
            }
        }
        prop_assert!(simulation.placement.iter().all(|one| there.contains(one.node.as_str())), "placed on a node that is gone");

        let waiting: BTreeSet<&str> = simulation
            .unplaceable
            .iter()
            .filter(|one| one.volume.is_none())
            .filter_map(|one| one.pod.as_deref())
            .filter(|pod| !placed.contains(pod))
            .collect();
        let pods = |rows: &[capplan_planner::report::NodeRow]| rows.iter().filter_map(|row| row.pods).sum::<u64>();
        let (new_pods, new_volumes) = added(&changes);
        prop_assert_eq!(pods(&simulation.after.nodes) + waiting.len() as u64, pods(&simulation.before.nodes) + new_pods);

        let attached = |rows: &[capplan_planner::report::SlotRow]| rows.iter().filter_map(|row| row.attached).sum::<u64>();
        let left: u64 = waiting.iter().map(|pod| volumes_of(pod, &workers, &simulation)).sum();
        prop_assert_eq!(attached(&simulation.after.slots) + left, attached(&simulation.before.slots) + new_volumes);
        prop_assert!(simulation.after.slots.iter().all(|row| row.occupied.is_none_or(|occupied| occupied <= 29)));

        if simulation.verdict == Verdict::SchedulerPlaces {
            prop_assert!(simulation.unplaceable.is_empty() && simulation.fits);
        }
    }
}
