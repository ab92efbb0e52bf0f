//! Placement against brute force on small clusters, and what holds for every cluster.

use std::collections::BTreeMap;

use capplan_model::change::{Change, Manifest};
use capplan_model::history::History;
use capplan_model::ids::{NodeName, SnapshotId};
use capplan_model::kube::{
    Affinity, Condition, Kube, LabelSelector, Labels, Node, Owner, Phase, Pod, PodAffinity, PodAffinityTerm, Resources,
    TopologySpread,
};
use capplan_model::policy::Policy;
use capplan_model::units::{Bytes, MilliCpu};
use capplan_model::{Reading, Snapshot};
use capplan_planner::drain::drain;
use capplan_planner::scheduler::{Cluster, PodId, Scheduler};
use capplan_planner::simulate::{Simulation, Trials, Verdict, simulate};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Shape {
    memory: u64,
    cpu: u64,
    /// Workload, which is its label too.
    app: u8,
    /// Whether it keeps away from its own workload.
    apart: bool,
    /// The only node it may use, by number; others do not exist.
    pinned: Option<u8>,
    /// Whether it is spread evenly over the nodes.
    spread: bool,
}

fn node(number: usize, memory: u64, cpu: u64) -> Node {
    let name = format!("n{number}");
    Node {
        name: name.as_str().into(),
        labels: Labels::from([("kubernetes.io/hostname".to_owned(), name), ("number".to_owned(), number.to_string())]),
        allocatable: Resources { memory: Bytes(memory), cpu: MilliCpu(cpu), ..Resources::default() },
        max_pods: 110,
        conditions: vec![Condition { kind: "Ready".into(), status: "True".into(), ..Condition::default() }],
        ..Node::default()
    }
}

fn pod(number: usize, shape: &Shape) -> Pod {
    let labels = Labels::from([("app".to_owned(), shape.app.to_string())]);
    let own = LabelSelector { match_labels: labels.clone(), match_expressions: Vec::new() };
    let mut pod = Pod {
        namespace: "apps".into(),
        name: format!("p{number}"),
        owner: Some(Owner { kind: "ReplicaSet".into(), name: shape.app.to_string(), uid: String::new() }),
        requests: Resources { memory: Bytes(shape.memory), cpu: MilliCpu(shape.cpu), ..Resources::default() },
        labels,
        ..Pod::default()
    };
    if let Some(pinned) = shape.pinned {
        pod.scheduling.node_selector.insert("number".into(), pinned.to_string());
    }
    if shape.apart {
        let term = PodAffinityTerm {
            label_selector: Some(own.clone()),
            topology_key: "kubernetes.io/hostname".into(),
            ..PodAffinityTerm::default()
        };
        let apart = PodAffinity { required: vec![term], preferred: Vec::new() };
        pod.scheduling.affinity = Some(Affinity { pod_anti_affinity: Some(apart), ..Affinity::default() });
    }
    if shape.spread {
        pod.scheduling.topology_spread = vec![TopologySpread {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".into(),
            when_unsatisfiable: "DoNotSchedule".into(),
            label_selector: Some(own),
            ..TopologySpread::default()
        }];
    }
    pod
}

fn snapshot(nodes: &[(u64, u64)], pods: Vec<Pod>) -> Snapshot {
    let nodes = nodes.iter().enumerate().map(|(number, (memory, cpu))| node(number, *memory, *cpu)).collect();
    Snapshot { kube: Kube { nodes: Reading::Known(nodes), pods: Reading::Known(pods), ..Kube::default() }, ..Snapshot::default() }
}

/// Whether any assignment satisfies every pod at once.
fn brute_force(nodes: &[(u64, u64)], shapes: &[Shape]) -> bool {
    fn descend(nodes: &[(u64, u64)], shapes: &[Shape], at: &mut Vec<usize>) -> bool {
        let Some(shape) = shapes.get(at.len()) else { return true };
        for (number, (memory, cpu)) in nodes.iter().enumerate() {
            let there = || shapes.iter().zip(at.iter()).filter(|(_, place)| **place == number).map(|(one, _)| one);
            let fits = there().map(|one| one.memory).sum::<u64>() + shape.memory <= *memory
                && there().map(|one| one.cpu).sum::<u64>() + shape.cpu <= *cpu;
            let pinned = shape.pinned.is_none_or(|pinned| usize::from(pinned) == number);
            // Either of two may mind the other.
            let apart = there().all(|one| one.app != shape.app || !(one.apart || shape.apart));
            if fits && pinned && apart {
                at.push(number);
                if descend(nodes, shapes, at) {
                    return true;
                }
                at.pop();
            }
        }
        false
    }
    descend(nodes, shapes, &mut Vec::new())
}

fn played(nodes: &[(u64, u64)], shapes: &[Shape], seed: u64) -> Simulation {
    let pods = shapes.iter().enumerate().map(|(number, shape)| pod(number, shape)).collect();
    let mut empty = snapshot(nodes, Vec::new());
    let trials = Trials { runs: 4, seed };
    let policy = Policy::built_in();
    simulate(
        &mut empty,
        SnapshotId::default(),
        &History::default(),
        &policy,
        &[Change::Submit(Manifest { pods, ..Manifest::default() })],
        trials,
        &|_| {},
    )
    .expect("nodes and pods are known")
}

fn shapes(apart: bool, spread: bool) -> impl Strategy<Value = Vec<Shape>> {
    let one = (1_u64..8, 0_u64..5, 0_u8..3, any::<bool>(), prop::option::weighted(0.2, 0_u8..4), any::<bool>());
    let one = one.prop_map(move |(memory, cpu, app, minds, pinned, even)| Shape {
        memory,
        cpu,
        app,
        apart: apart && minds,
        pinned,
        spread: spread && even,
    });
    prop::collection::vec(one, 1..7)
}

fn small_nodes() -> impl Strategy<Value = Vec<(u64, u64)>> {
    prop::collection::vec((1_u64..14, 1_u64..9), 1..4)
}

/// The placement holds what it promises: room for everything, pins and distances kept.
fn is_valid(nodes: &[(u64, u64)], shapes: &[Shape], simulation: &Simulation) -> bool {
    let places: BTreeMap<&str, &NodeName> = simulation.placement.iter().map(|one| (one.pod.as_str(), &one.node)).collect();
    (0..nodes.len()).all(|number| {
        let here: Vec<&Shape> = shapes
            .iter()
            .enumerate()
            .filter(|(place, _)| {
                places.get(format!("apps/p{place}").as_str()).is_some_and(|node| node.as_str() == format!("n{number}"))
            })
            .map(|(_, shape)| shape)
            .collect();
        let apart = here
            .iter()
            .enumerate()
            .all(|(place, one)| here[place + 1..].iter().all(|other| one.app != other.app || !(one.apart || other.apart)));
        here.iter().map(|one| one.memory).sum::<u64>() <= nodes[number].0
            && here.iter().map(|one| one.cpu).sum::<u64>() <= nodes[number].1
            && here.iter().all(|one| one.pinned.is_none_or(|pinned| usize::from(pinned) == number))
            && apart
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_verdict_is_what_brute_force_finds(nodes in small_nodes(), shapes in shapes(true, false), seed in 0_u64..9) {
        let simulation = played(&nodes, &shapes, seed);
        let possible = brute_force(&nodes, &shapes);
        match simulation.verdict {
            Verdict::SchedulerPlaces | Verdict::FitsIfPlaced => prop_assert!(possible, "{:?}", simulation.because),
            Verdict::CannotFit => prop_assert!(!possible, "{:?}", simulation.because),
            Verdict::Undecided => prop_assert!(shapes.iter().any(|shape| shape.apart), "amounts alone are always decided"),
        }
        prop_assert_eq!(simulation.fits, simulation.verdict == Verdict::SchedulerPlaces);
        prop_assert!(is_valid(&nodes, &shapes, &simulation));
        if simulation.fits {
            prop_assert_eq!(simulation.placement.len(), shapes.len());
        }
        prop_assert_eq!(simulation.placement.len() + simulation.unplaceable.len(), shapes.len());
    }

    #[test]
    fn another_node_never_takes_a_place_away(nodes in small_nodes(), more in (1_u64..14, 1_u64..9), shapes in shapes(true, false)) {
        let before = snapshot(&nodes, Vec::new());
        let mut larger = nodes.clone();
        larger.push(more);
        let after = snapshot(&larger, Vec::new());
        for (number, shape) in shapes.iter().enumerate() {
            let feasible = |snapshot: &Snapshot| {
                let mut scheduler = Scheduler::new(Cluster::of(snapshot).into_known().expect("known"));
                let pod = scheduler.cluster.add_pod(pod(number, shape));
                scheduler.feasible(pod)
            };
            let (was, is) = (feasible(&before), feasible(&after));
            prop_assert!(was.iter().all(|node| is.contains(node)));
        }
    }

    #[test]
    fn what_is_kept_is_what_would_be_worked_out_anew(
        nodes in small_nodes(),
        shapes in shapes(true, true),
        steps in prop::collection::vec((0_usize..6, 0_usize..3, any::<bool>()), 0..30),
    ) {
        let empty = snapshot(&nodes, Vec::new());
        let mut scheduler = Scheduler::new(Cluster::of(&empty).into_known().expect("known"));
        let pods: Vec<PodId> =
            shapes.iter().enumerate().map(|(number, shape)| scheduler.cluster.add_pod(pod(number, shape))).collect();
        for (which, node, place) in steps {
            let pod = pods[which % pods.len()];
            if place && scheduler.cluster.node_of(pod).is_none() {
                scheduler.cluster.bind(pod, node % nodes.len());
            } else {
                scheduler.cluster.take(pod);
            }
            for pod in &pods {
                let kept = scheduler.judge(*pod);
                let anew = Scheduler::new(scheduler.cluster.clone()).judge(*pod);
                prop_assert_eq!(kept, anew);
            }
        }
    }

    #[test]
    fn a_trial_leaves_everything_as_it_was(nodes in small_nodes(), shapes in shapes(true, true)) {
        let mut pods: Vec<Pod> = shapes.iter().enumerate().map(|(number, shape)| pod(number, shape)).collect();
        for (number, pod) in pods.iter_mut().enumerate() {
            pod.node = Some(format!("n{}", number % nodes.len()).into());
            pod.phase = Phase::Running;
        }
        let full = snapshot(&nodes, pods);
        let mut scheduler = Scheduler::new(Cluster::of(&full).into_known().expect("known"));
        let places = |scheduler: &Scheduler<'_>| -> Vec<_> {
            (0..scheduler.cluster.pod_count()).map(|pod| scheduler.cluster.node_of(pod)).collect()
        };
        let before = places(&scheduler);
        let judged: Vec<_> = (0..shapes.len()).map(|pod| scheduler.judge(pod)).collect();
        let nodes: Vec<_> = scheduler.cluster.nodes().collect();
        for node in nodes {
            drain(&mut scheduler, node);
            scheduler.preempt(0);
        }
        prop_assert_eq!(places(&scheduler), before);
        let again: Vec<_> = (0..shapes.len()).map(|pod| scheduler.judge(pod)).collect();
        prop_assert_eq!(again, judged);
    }
}
