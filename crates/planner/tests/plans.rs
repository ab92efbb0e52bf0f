//! Plans against brute force on small clusters, and what holds for every plan.

use std::fmt::Write;

use capplan_model::history::History;
use capplan_model::ids::{NodeName, SnapshotId, VmId};
use capplan_model::kube::{
    Affinity, Condition, Kube, LabelSelector, Labels, Node, Owner, Pdb, Phase, Pod, PodAffinity, PodAffinityTerm, Resources,
    Workload,
};
use capplan_model::plan::{Action, BlockCode, Feasibility, OptimalityStatus, Plan, Step, StepAction};
use capplan_model::policy::Policy;
use capplan_model::pve::{Guest, Power, ThinPool};
use capplan_model::scenario::Scenario;
use capplan_model::units::{Bytes, MilliCpu};
use capplan_model::{Reading, Snapshot};
use capplan_planner::decide::decide;
use capplan_planner::plan::{Count, Limits, Observation, Removal, Request, Wanted, audit, end_state, gate, plan};
use proptest::prelude::*;

/// What a pod takes, where it is, and what it minds.
#[derive(Clone, Debug)]
struct Shape {
    memory: u64,
    app: u8,
    /// Whether it keeps away from its own workload.
    apart: bool,
    /// Nodes it may use, by number, one bit each.
    allowed: u8,
    home: usize,
}

const MEMORY: u64 = 10;

fn shapes(nodes: usize) -> impl Strategy<Value = Vec<Shape>> {
    let one = (1_u64..7, 0_u8..3, prop::bool::weighted(0.3), prop::option::weighted(0.3, 1_u8..16), 0..nodes);
    let one = one.prop_map(|(memory, app, apart, allowed, home)| {
        // Where it is it may be.
        let allowed = allowed.unwrap_or(15) | 1 << home;
        Shape { memory, app, apart, allowed, home }
    });
    prop::collection::vec(one, 1..9).prop_map(move |shapes| {
        // Those that do not fit where they are supposed to be are left out.
        let mut kept: Vec<Shape> = Vec::new();
        for one in shapes {
            let there: Vec<&Shape> = kept.iter().filter(|other| other.home == one.home).collect();
            let memory: u64 = there.iter().map(|other| other.memory).sum();
            if memory + one.memory <= MEMORY && there.iter().all(|other| !minds(other, &one)) {
                kept.push(one);
            }
        }
        kept
    })
}

fn minds(one: &Shape, other: &Shape) -> bool {
    one.app == other.app && (one.apart || other.apart)
}

fn snapshot(nodes: usize, shapes: &[Shape]) -> Snapshot {
    let node = |number: usize| {
        let name = format!("n{number}");
        let mut labels = Labels::from([("kubernetes.io/hostname".to_owned(), name.clone())]);
        // One label for each set of nodes that a pod may ask for.
        labels.extend((0..16_u8).filter(|set| set & 1 << number != 0).map(|set| (format!("set{set}"), "yes".to_owned())));
        Node {
            name: name.into(),
            labels,
            allocatable: Resources { memory: Bytes(MEMORY), cpu: MilliCpu(4000), ..Resources::default() },
            max_pods: 110,
            conditions: vec![Condition { kind: "Ready".into(), status: "True".into(), ..Condition::default() }],
            ..Node::default()
        }
    };
    let pod = |(number, shape): (usize, &Shape)| {
        let labels = Labels::from([("app".to_owned(), shape.app.to_string())]);
        let own = LabelSelector { match_labels: labels.clone(), match_expressions: Vec::new() };
        let mut pod = Pod {
            namespace: "apps".into(),
            name: format!("p{number}"),
            uid: format!("uid{number}"),
            node: Some(format!("n{}", shape.home).into()),
            phase: Phase::Running,
            owner: Some(Owner { kind: "ReplicaSet".into(), name: format!("r{}", shape.app), uid: String::new() }),
            requests: Resources { memory: Bytes(shape.memory), ..Resources::default() },
            labels,
            ..Pod::default()
        };
        if shape.allowed != 15 {
            pod.scheduling.node_selector.insert(format!("set{}", shape.allowed), "yes".into());
        }
        if shape.apart {
            let term = PodAffinityTerm {
                label_selector: Some(own),
                topology_key: "kubernetes.io/hostname".into(),
                ..PodAffinityTerm::default()
            };
            let apart = PodAffinity { required: vec![term], preferred: Vec::new() };
            pod.scheduling.affinity = Some(Affinity { pod_anti_affinity: Some(apart), ..Affinity::default() });
        }
        pod
    };
    let kube = Kube {
        nodes: Reading::Known((0..nodes).map(node).collect()),
        pods: Reading::Known(shapes.iter().enumerate().map(pod).collect()),
        pdbs: Reading::Known(Vec::new()),
        persistent_volumes: Reading::Known(Vec::new()),
        claims: Reading::Known(Vec::new()),
        volume_attachments: Reading::Known(Vec::new()),
        csi_nodes: Reading::Known(Vec::new()),
        ..Kube::default()
    };
    Snapshot { kube, ..Snapshot::default() }
}

fn holds(nodes: usize, shapes: &[Shape], at: &[usize]) -> bool {
    (0..nodes).all(|node| {
        let there: Vec<&Shape> = shapes.iter().zip(at).filter(|(_, place)| **place == node).map(|(one, _)| one).collect();
        let memory: u64 = there.iter().map(|one| one.memory).sum();
        let apart = there.iter().enumerate().all(|(place, one)| there[place + 1..].iter().all(|other| !minds(one, other)));
        memory <= MEMORY && apart && there.iter().all(|one| one.allowed & 1 << node != 0)
    })
}

/// Fewest moves of any arrangement that uses only the nodes of `open`.
fn brute_force(nodes: usize, shapes: &[Shape], open: &[usize]) -> Option<usize> {
    let ways = open.len().pow(u32::try_from(shapes.len()).expect("few pods"));
    let arrangement = |mut way: usize| -> Vec<usize> {
        shapes
            .iter()
            .map(|_| {
                let place = open[way % open.len()];
                way /= open.len();
                place
            })
            .collect()
    };
    let moves = |at: &[usize]| shapes.iter().zip(at).filter(|(one, place)| one.home != **place).count();
    (0..ways).map(arrangement).filter(|at| holds(nodes, shapes, at)).map(|at| moves(&at)).min()
}

/// The most nodes that can be empty, and the fewest moves for that.
fn brute_force_most(nodes: usize, shapes: &[Shape]) -> (usize, usize) {
    let sets = (1_usize..1 << nodes).map(|set| (0..nodes).filter(|node| set & 1 << node != 0).collect::<Vec<_>>());
    let found = sets.filter_map(|open| Some((nodes - open.len(), brute_force(nodes, shapes, &open)?)));
    found.max_by_key(|(closed, moves)| (*closed, std::cmp::Reverse(*moves))).expect("as it is it holds")
}

fn planned(snapshot: &Snapshot, history: &History, policy: &Policy, request: &Request, limits: Limits) -> Plan {
    let seen = Observation { snapshot, history, policy, claims: &[] };
    plan(&seen, SnapshotId::default(), request, limits).expect("known")
}

/// The next step.
fn decided(snapshot: &Snapshot, history: &History, policy: &Policy, limits: Limits) -> Plan {
    let seen = Observation { snapshot, history, policy, claims: &[] };
    decide(&seen, SnapshotId::default(), limits).expect("known")
}

fn drained(nodes: usize, shapes: &[Shape], seed: u64) -> Plan {
    let request = Request::Drain(vec![NodeName::from("n0")]);
    let limits = Limits { seconds: 20.0, seed };
    planned(&snapshot(nodes, shapes), &History::default(), &Policy::built_in(), &request, limits)
}

/// As many workers as possible are removed; no rule speaks against it.
fn consolidated(nodes: usize, shapes: &[Shape]) -> Plan {
    let text = capplan_model::policy::BUILT_IN.replace("\"> 90%\"", "\"> 100%\"").replace("\">= 25\"", "\">= 64\"");
    let policy = Policy::parse(&text).expect("a policy");
    let request = Request::ScaleDown(Removal { count: Count::Most, anyway: Some("test".into()), ..Removal::default() });
    let limits = Limits { seconds: 20.0, seed: 1 };
    planned(&snapshot(nodes, shapes), &History::default(), &policy, &request, limits)
}

/// Plays the moves of a plan by hand: every state on the way must hold.
fn replay(nodes: usize, shapes: &[Shape], plan: &Plan) {
    let mut at: Vec<usize> = shapes.iter().map(|one| one.home).collect();
    for one in plan.moves() {
        let number: usize = one.pod.strip_prefix("apps/p").and_then(|text| text.parse().ok()).expect("a pod of ours");
        let place = |name: &NodeName| -> usize { name.as_str().trim_start_matches('n').parse().expect("a node of ours") };
        assert_eq!(place(&one.from), at[number], "{one:?}");
        at[number] = place(one.to.as_ref().expect("every pod is made again"));
        assert_ne!(at[number], 0, "it lands on the node that is emptied");
        assert!(holds(nodes, shapes, &at), "{one:?} of {:?}", plan.order);
    }
    assert!(at.iter().all(|place| *place != 0), "the node is not empty");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_drain_is_possible_exactly_if_some_arrangement_is_and_moves_the_fewest_pods(
        (nodes, shapes) in (2_usize..5).prop_flat_map(|nodes| (Just(nodes), shapes(nodes))),
        seed in 0_u64..1000,
    ) {
        let open: Vec<usize> = (1..nodes).collect();
        let best = brute_force(nodes, &shapes, &open);
        let plan = drained(nodes, &shapes, seed);
        prop_assert!(plan.undecided.is_empty() || plan.feasibility == Feasibility::Undecided);
        match (plan.feasibility, best) {
            (Feasibility::Feasible, Some(best)) => {
                replay(nodes, &shapes, &plan);
                let moves = plan.moves().count();
                prop_assert!(moves >= best);
                if plan.optimality.status == OptimalityStatus::Optimal {
                    prop_assert_eq!(moves, best, "{:?}", plan.order);
                } else {
                    // The bound is one.
                    prop_assert!(plan.optimality.bound.expect("known") <= best as f64);
                }
                prop_assert!(!plan.steps.is_empty());
            }
            (Feasibility::Blocked, None) => {
                prop_assert!(plan.blockers.iter().all(|one| one.code == BlockCode::NoCapacity));
                prop_assert!(!plan.explanation.is_empty());
                prop_assert_eq!(plan.moves().count(), 0);
                prop_assert!(plan.steps.is_empty());
            }
            // An arrangement may exist that no order of moves leads to.
            (Feasibility::Undecided, Some(_)) => {}
            (found, best) => prop_assert!(false, "{found:?} where brute force says {best:?}: {plan:?}"),
        }
    }

    #[test]
    fn as_many_workers_go_as_brute_force_finds_with_the_fewest_moves(
        (nodes, shapes) in (2_usize..4).prop_flat_map(|nodes| (Just(nodes), shapes(nodes))),
    ) {
        let (closed, moves) = brute_force_most(nodes, &shapes);
        let plan = consolidated(nodes, &shapes);
        let gone = plan.order.len();
        if plan.feasibility == Feasibility::Undecided && closed > 0 {
            // An arrangement may exist that no order of moves leads to.
            return Ok(());
        }
        prop_assert_eq!(gone, closed, "{:?}", plan);
        if closed > 0 && plan.optimality.status == OptimalityStatus::Optimal {
            prop_assert_eq!(plan.moves().count(), moves, "{:?}", plan.order);
        }
    }

    #[test]
    fn a_plan_is_the_same_every_time((nodes, shapes) in (2_usize..5).prop_flat_map(|nodes| (Just(nodes), shapes(nodes)))) {
        prop_assert_eq!(drained(nodes, &shapes, 1), drained(nodes, &shapes, 1));
    }
}

#[test]
fn other_pods_make_room_where_none_is_left() {
    let pod = |memory, home| Shape { memory, app: 0, apart: false, allowed: 15, home };
    // The large one fits beside neither of the others; beside none it does.
    let shapes = [pod(7, 0), pod(4, 1), pod(4, 2)];
    let plan = drained(3, &shapes, 1);
    replay(3, &shapes, &plan);
    assert_eq!((plan.feasibility, plan.moves().count()), (Feasibility::Feasible, 2));
    assert_eq!((plan.optimality.status, plan.optimality.bound), (OptimalityStatus::Optimal, Some(2.0)));
    // A node smaller, and nothing helps.
    let shapes = [pod(7, 0), pod(4, 1)];
    let plan = drained(2, &shapes, 1);
    assert_eq!((plan.feasibility, plan.optimality.status), (Feasibility::Blocked, OptimalityStatus::Infeasible));
    assert_eq!(plan.explanation, ["with 1 B memory less requested on n1 it would fit"]);
}

/// A cluster of workers of 32 GiB on one host, with a steady history: `(GiB of memory a pod, pods, volumes)`
/// of each worker.
fn steady(workers: &[(u64, u64, u64)], available: u64) -> Scenario {
    let mut text = format!(
        "format = 'capplan.scenario/1'\ntitle = 'x'\nnow = '2026-03-02T06:00:00Z'\n\
         [[hosts]]\nname = 'pve1'\nmemory = '512GiB'\navailable = '{available}GiB'\ncpus = 64\n"
    );
    for (number, (memory, pods, volumes)) in workers.iter().enumerate() {
        let with = (*volumes).min(*pods);
        write!(
            text,
            "[[nodes]]\nname = 'w{number}'\nvmid = 20{number}\nhost = 'pve1'\nmemory = '32GiB'\nallocatable = '30GiB'\ncpus = 8\n\
             advertised = 28\npods = [{{ name = 'a{number}', count = {with}, memory = '{memory}GiB', limit = '{memory}GiB', volumes = 1 }}, \
             {{ name = 'b{number}', count = {}, memory = '{memory}GiB', limit = '{memory}GiB' }}]\n",
            pods - with
        )
        .expect("a string");
        let gib = memory * pods;
        for (dimension, value, limit) in [
            ("volume-attachments", with.to_string(), "28".to_owned()),
            ("memory-requests", format!("'{gib}GiB'"), "'30GiB'".to_owned()),
            ("memory-limits", format!("'{gib}GiB'"), "'30GiB'".to_owned()),
        ] {
            write!(
                text,
                "[[history]]\ndimension = '{dimension}'\nsubject = 'w{number}'\ndays = 30\nfrom = {value}\nto = {value}\nlimit = {limit}\n"
            )
            .expect("a string");
        }
    }
    Scenario::parse(&text).expect("a valid scenario")
}

/// Workers that are loaded any way, or that are all nearly full.
fn loads() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
    let any = (1_u64..3, 0_u64..29, 0_u64..29).prop_map(|(memory, pods, volumes)| (memory, pods.min(29 / memory), volumes));
    let full = (1_u64..3, 0_u64..20).prop_map(|(memory, volumes)| (memory, 29 / memory, volumes));
    prop_oneof![2 => prop::collection::vec(any, 2..9), 1 => prop::collection::vec(full, 2..9)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_next_action_never_calls_for_its_opposite_and_is_done_once(
        workers in loads(),
        available in prop_oneof![Just(20_u64), Just(80)],
    ) {
        let scenario = steady(&workers, available);
        let (before, history) = (scenario.snapshot(), scenario.history());
        let mut policy = Policy::built_in();
        policy.plan.no_growth_confirmed = true;
        let limits = Limits { seconds: 5.0, seed: 1 };
        let first = decided(&before, &history, &policy, limits);
        if first.feasibility != Feasibility::Feasible || first.action == Action::None {
            return Ok(());
        }
        let seen = Observation { snapshot: &before, history: &history, policy: &policy, claims: &[] };
        let after = end_state(&seen, &first).expect("known");
        let second = decided(&after, &history, &policy, limits);
        let is_human = |step: &Step| matches!(step.change, StepAction::Manual { .. });
        if !first.steps.iter().any(is_human) {
            let told = (first.action, &first.target, &second.because, &second.target);
            prop_assert_eq!(second.action, Action::None, "{:?}", told);
        }
    }
}

#[test]
fn a_worker_is_begun_only_where_its_host_carries_it() {
    let mut before = steady(&[(1, 4, 2), (1, 4, 2)], 80).snapshot();
    let policy = Policy::built_in();
    let source = before.guests().next().expect("a worker").clone();
    let template = Guest { template: true, vmid: VmId(9000), name: "template".into(), power: Power::Stopped, ..source };
    if let Reading::Known(guests) = &mut before.pve[0].guests {
        guests.push(template);
    }
    let history = History::default();
    let wanted = Wanted { count: Some(1), memory: Some(Bytes::gib(8)), ..Wanted::default() };
    let plan = planned(&before, &history, &policy, &Request::ScaleUp(Box::new(wanted)), Limits { seconds: 5.0, seed: 1 });
    assert_eq!(plan.feasibility, Feasibility::Feasible, "{:?} {:?}", plan.blockers, plan.undecided);
    let gated =
        |seen: &Snapshot, policy: &Policy| gate(&Observation { snapshot: seen, history: &history, policy, claims: &[] }, &plan);
    assert_eq!(gated(&before, &policy), Ok(()));
    let mut strict = policy.clone();
    strict.worker.most_committed = 0.01;
    let why = gated(&before, &strict).expect_err("too much");
    assert!(why.contains("would commit"), "{why}");
    let mut full = before.clone();
    if let Reading::Known(hosts) = &mut full.pve[0].hosts {
        let pool = ThinPool {
            name: "pve/data".into(),
            used: Bytes::gib(10),
            size: Bytes::gib(100),
            metadata_used: Bytes::gib(95),
            metadata_size: Bytes::gib(100),
        };
        hosts[0].pools = Reading::Known(vec![pool]);
    }
    let why = gated(&full, &policy).expect_err("no room for metadata");
    assert!(why.contains("the metadata of pve/data") && why.contains("95%"), "{why}");
}

#[test]
fn a_plan_is_begun_only_where_both_planes_are_well_and_it_is_still_possible() {
    let scenario = steady(&[(1, 4, 2), (1, 4, 2), (1, 4, 2)], 80);
    let (before, policy, history) = (scenario.snapshot(), Policy::built_in(), scenario.history());
    let removal = Removal { anyway: Some("test".into()), ..Removal::default() };
    let plan = planned(&before, &history, &policy, &Request::ScaleDown(removal), Limits { seconds: 5.0, seed: 1 });
    let gated = |change: &dyn Fn(&mut capplan_model::Snapshot)| {
        let mut seen = before.clone();
        change(&mut seen);
        gate(&Observation { snapshot: &seen, history: &history, policy: &policy, claims: &[] }, &plan)
    };
    assert_eq!(gated(&|_| {}), Ok(()));
    let gone = plan.order[0].node.clone();
    type Change<'c> = Box<dyn Fn(&mut capplan_model::Snapshot) + 'c>;
    let cases: [(&str, Change<'_>); 6] = [
        ("another cluster", Box::new(|seen| seen.cluster = "other".into())),
        ("has no quorum", Box::new(|seen| seen.pve[0].quorate = Reading::Known(false))),
        ("is not known", Box::new(|seen| seen.pve[0].quorate = Reading::unknown("no answer"))),
        (
            "coredns of kube-system has 1 of 2 pods ready",
            Box::new(|seen| {
                let dns = Workload {
                    namespace: "kube-system".into(),
                    name: "coredns".into(),
                    replicas: 2,
                    ready: 1,
                    ..Workload::default()
                };
                seen.kube.deployments = Reading::Known(vec![dns]);
            }),
        ),
        (
            "is locked: backup",
            Box::new(|seen| {
                if let Reading::Known(guests) = &mut seen.pve[0].guests {
                    guests
                        .iter_mut()
                        .filter(|guest| guest.name == gone.as_str())
                        .for_each(|one| one.lock = Some("backup".into()));
                }
            }),
        ),
        (
            "not the pod that was seen",
            Box::new(|seen| {
                if let Reading::Known(pods) = &mut seen.kube.pods {
                    pods.iter_mut().for_each(|pod| pod.uid.push('x'));
                }
            }),
        ),
    ];
    for (words, change) in cases {
        let why = gated(&*change).expect_err(words);
        assert!(why.contains(words), "{words}: {why}");
    }
    // Another pod took the room in the meantime.
    let full = gated(&|seen| {
        if let Reading::Known(nodes) = &mut seen.kube.nodes {
            nodes.iter_mut().filter(|node| node.name != gone).for_each(|node| node.allocatable.memory.0 /= 100);
        }
    });
    assert!(full.is_err(), "{full:?}");
}

#[test]
fn each_check_of_the_audit_notices_what_it_is_for() {
    let scenario = steady(&[(1, 4, 2), (1, 4, 2), (1, 4, 2)], 80);
    let (before, policy) = (scenario.snapshot(), Policy::built_in());
    let limits = Limits { seconds: 5.0, seed: 1 };
    let request = Request::ScaleDown(Removal { anyway: Some("test".into()), ..Removal::default() });
    let good = planned(&before, &scenario.history(), &policy, &request, limits);
    assert_eq!((good.feasibility, good.moves().count()), (Feasibility::Feasible, 4), "{good:?}");
    assert_eq!(audit(&before, &policy, &good), []);
    let gone = good.order[0].node.clone();
    let other =
        before.kube.nodes.items().iter().map(|node| node.name.clone()).find(|node| *node != gone).expect("there are three");
    let position = |plan: &Plan, test: &dyn Fn(&StepAction) -> bool| {
        plan.steps.iter().position(|step| test(&step.change)).expect("there is such a step")
    };
    let evicts = |change: &StepAction| matches!(change, StepAction::Evict { .. });
    let deletes = |change: &StepAction| matches!(change, StepAction::DeleteNode { .. });
    let stops = |change: &StepAction| matches!(change, StepAction::ShutDownGuest { .. });
    let renumber = |plan: &mut Plan| (1..).zip(&mut plan.steps).for_each(|(number, step)| step.number = number);
    /// Changes where an eviction leads, in both places that say it.
    fn lead(plan: &mut Plan, step: usize, to: &NodeName) {
        plan.order[0].pods[0].to = Some(to.clone());
        if let StepAction::Evict { to: target, .. } = &mut plan.steps[step].change {
            *target = Some(to.clone());
        }
    }
    type Mutation<'m> = (&'m str, Box<dyn Fn(&mut Plan) + 'm>);
    let mutations: Vec<Mutation<'_>> = vec![
        ("yet it changes something", Box::new(|plan| plan.feasibility = Feasibility::Blocked)),
        ("not numbered", Box::new(|plan| plan.steps[1].number = 7)),
        ("nothing says why", Box::new(|plan| plan.because.clear())),
        ("more or fewer pods", Box::new(|plan| drop(plan.order[0].pods.pop()))),
        ("otherwise than the order says", Box::new(|plan| plan.order[0].pods.swap(0, 1))),
        (
            "which is closed",
            Box::new(|plan| {
                let step = position(plan, &evicts);
                lead(plan, step, &gone);
            }),
        ),
        (
            "which does not exist",
            Box::new(|plan| {
                let step = position(plan, &evicts);
                lead(plan, step, &"nowhere".into());
            }),
        ),
        (
            "is still on",
            Box::new(|plan| {
                let step = position(plan, &evicts);
                plan.steps.remove(step);
                plan.order[0].pods.remove(0);
                renumber(plan);
            }),
        ),
        (
            "before it is closed and empty",
            Box::new(|plan| {
                let step = position(plan, &deletes);
                let step = plan.steps.remove(step);
                plan.steps.insert(0, step);
                renumber(plan);
            }),
        ),
        (
            "is not the node that was seen",
            Box::new(|plan| {
                let step = position(plan, &deletes);
                if let StepAction::DeleteNode { uid, .. } = &mut plan.steps[step].change {
                    *uid = "another".into();
                }
            }),
        ),
        (
            "is not the pod that was seen",
            Box::new(|plan| {
                let step = position(plan, &evicts);
                plan.order[0].pods[0].uid = "another".into();
                if let StepAction::Evict { uid, .. } = &mut plan.steps[step].change {
                    *uid = "another".into();
                }
            }),
        ),
        (
            "belongs to no node that this plan took out",
            Box::new(|plan| {
                let step = position(plan, &stops);
                if let StepAction::ShutDownGuest { guest } = &mut plan.steps[step].change {
                    guest.name = other.0.clone();
                }
            }),
        ),
        (
            "is the one that was meant",
            Box::new(|plan| {
                let step = position(plan, &stops);
                plan.steps[step].requires.clear();
            }),
        ),
        (
            "holds no volume",
            Box::new(|plan| {
                let step = position(plan, &stops);
                plan.steps[step].requires.truncate(1);
            }),
        ),
    ];
    for (expected, mutate) in mutations {
        let mut plan = good.clone();
        mutate(&mut plan);
        let found: Vec<String> = audit(&before, &policy, &plan).iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|text| text.contains(expected)), "{expected}: {found:?}");
    }
    // The cluster is another one: no room, a budget, a pod that shares the volume.
    let mut smaller = before.clone();
    if let Reading::Known(nodes) = &mut smaller.kube.nodes {
        nodes.iter_mut().for_each(|node| node.allocatable.memory = Bytes::gib(4));
    }
    assert!(audit(&smaller, &policy, &good).iter().any(|one| one.what.contains("too little memory")));
    let mut guarded = before.clone();
    let everything = Pdb { namespace: "apps".into(), selector: Some(LabelSelector::default()), observed: true, ..Pdb::default() };
    guarded.kube.pdbs = Reading::Known(vec![everything]);
    assert!(audit(&guarded, &policy, &good).iter().any(|one| one.what.contains("a budget forbids")));
    let mut full = before.clone();
    for guest in full
        .pve
        .iter_mut()
        .filter_map(|pve| if let Reading::Known(guests) = &mut pve.guests { Some(guests) } else { None })
        .flatten()
    {
        if let Reading::Known(config) = &mut guest.config {
            for slot in 1..=29 {
                config.disks.entry(format!("scsi{slot}")).or_default();
            }
        }
    }
    assert!(audit(&full, &policy, &good).iter().any(|one| one.what.contains("too little volume slots")));
}
