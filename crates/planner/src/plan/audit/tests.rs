//! Plans written by hand that are allowed, and what the audit says of each after one change of plan or cluster.

use capplan_model::Reading;
use capplan_model::ids::SnapshotId;
use capplan_model::kube::{
    CONTROL_PLANE_LABEL, Claim, CsiDriver, CsiNode, CsiNodeDriver, Labels, Node, Owner, Phase, Resources, VolumeAttachment,
};
use capplan_model::plan::{BlockCode, Blocker, Cost, NodeOrder};
use capplan_model::policy::Join;
use capplan_model::pve::{Disk, Guest, GuestConfig, Pve};
use capplan_model::units::{Bytes, MilliCpu};
use jiff::Timestamp;

use super::*;

/// The disk of the volume that `p1` uses, on scsi1 of VM 201.
const DISK: &str = "local-lvm:vm-9999-pvc-1";
/// A disk that nothing refers to, on scsi5 of VM 201.
const GHOST: &str = "local-lvm:vm-9999-pvc-7";

fn driver() -> String {
    Policy::built_in().attacher
}

fn node(number: u32) -> Node {
    Node {
        name: format!("w{number}").as_str().into(),
        uid: format!("n{number}"),
        system_uuid: Some(format!("u{number}")),
        allocatable: Resources { memory: Bytes::gib(4), cpu: MilliCpu(2000), ..Resources::default() },
        max_pods: 2,
        ..Node::default()
    }
}

fn pod(name: &str, kind: &str, node: &str, gib: u64) -> Pod {
    Pod {
        namespace: "a".into(),
        name: name.into(),
        uid: format!("uid-{name}"),
        node: Some(node.into()),
        phase: Phase::Running,
        owner: Some(Owner { kind: kind.into(), name: name.into(), ..Owner::default() }),
        requests: Resources { memory: Bytes::gib(gib), cpu: MilliCpu(1000), ..Resources::default() },
        labels: Labels::from([("app".to_owned(), name.to_owned())]),
        ..Pod::default()
    }
}

fn disk(volume: &str) -> Disk {
    Disk { volume: volume.into(), ..Disk::default() }
}

fn vm(number: u32, power: Power) -> Guest {
    let config = GuestConfig {
        uuid: Some(format!("u{number}")),
        disks: [("scsi0".to_owned(), disk(&format!("local-lvm:vm-20{number}-disk-0")))].into(),
        ..GuestConfig::default()
    };
    Guest {
        vmid: VmId(200 + number),
        host: "pve1".into(),
        name: format!("w{number}"),
        power,
        config: Reading::Known(config),
        ..Guest::default()
    }
}

/// w1 with `p1` and its volume, w2 with `p2`, w3 empty, a spare w4, and a template.
fn world() -> Snapshot {
    let mut seen = Snapshot::default();
    let kube = &mut seen.kube;
    kube.nodes = Reading::Known((1..=3).map(node).collect());
    let mut p1 = pod("p1", "StatefulSet", "w1", 2);
    p1.claims.push("data".into());
    kube.pods = Reading::Known(vec![p1, pod("p2", "ReplicaSet", "w2", 2), pod("agent", "DaemonSet", "w1", 0)]);
    kube.persistent_volumes = Reading::Known(vec![volume("pvc-1", "lab/pve1/local-lvm/vm-9999-pvc-1")]);
    kube.claims = Reading::Known(vec![Claim {
        namespace: "a".into(),
        name: "data".into(),
        volume: Some("pvc-1".into()),
        ..Claim::default()
    }]);
    kube.volume_attachments = Reading::Known(vec![attachment("w1", "pvc-1")]);
    kube.pdbs = Reading::Known(Vec::new());
    kube.csi_drivers = Reading::Known(vec![CsiDriver { name: driver(), ..CsiDriver::default() }]);
    let registered = |number: u32| CsiNode {
        name: format!("w{number}").as_str().into(),
        drivers: vec![CsiNodeDriver { name: driver(), count: Some(2), ..CsiNodeDriver::default() }],
    };
    kube.csi_nodes = Reading::Known((1..=3).map(registered).collect());
    let mut guests: Vec<Guest> = (1..=3).map(|number| vm(number, Power::Running)).collect();
    if let Reading::Known(config) = &mut guests[0].config {
        config.disks.extend([("scsi1".to_owned(), disk(DISK)), ("scsi5".to_owned(), disk(GHOST))]);
    }
    guests.push(vm(4, Power::Stopped));
    guests.push(Guest { template: true, name: "template".into(), vmid: VmId(900), ..vm(9, Power::Stopped) });
    seen.pve = vec![Pve { guests: Reading::Known(guests), ..Pve::default() }];
    seen
}

fn volume(name: &str, handle: &str) -> PersistentVolume {
    PersistentVolume {
        name: name.into(),
        driver: driver(),
        handle: Some(handle.into()),
        access_modes: vec!["ReadWriteOnce".into()],
        ..PersistentVolume::default()
    }
}

fn attachment(node: &str, volume: &str) -> VolumeAttachment {
    VolumeAttachment {
        name: "va".into(),
        attacher: driver(),
        node: node.into(),
        volume: Some(volume.into()),
        ..Default::default()
    }
}

fn meant(number: u32) -> GuestRef {
    let name = if number == 9 { "template".to_owned() } else { format!("w{number}") };
    let vmid = if number == 9 { 900 } else { 200 + number };
    GuestRef { host: "pve1".into(), vmid: VmId(vmid), name, uuid: Some(format!("u{number}")) }
}

/// A worker that the plan makes: nobody knows its UUID yet.
fn made() -> GuestRef {
    GuestRef { uuid: None, ..meant(5) }
}

fn step(change: StepAction, requires: Vec<Condition>, ensures: Vec<Condition>) -> Step {
    Step { number: 0, title: String::new(), change, requires, ensures, deadline_seconds: 60 }
}

fn evict(name: &str, from: &str, to: &str) -> StepAction {
    StepAction::Evict {
        pod: format!("a/{name}"),
        uid: format!("uid-{name}"),
        owner: String::new(),
        node: from.into(),
        to: Some(to.into()),
        close: Vec::new(),
        wait_seconds: 0,
    }
}

/// A plan of these steps, whose order is that of its evictions.
fn plan(steps: Vec<Step>, workers: Vec<WorkerSpec>) -> Plan {
    let mut plan = Plan::empty(Action::ScaleDown, SnapshotId::default(), Timestamp::UNIX_EPOCH, String::new());
    plan.feasibility = Feasibility::Feasible;
    plan.because.push("it is a test".into());
    let moved = |step: &Step| {
        let StepAction::Evict { pod, uid, owner, node, to, .. } = &step.change else { return None };
        Some(PodMove {
            pod: pod.clone(),
            uid: uid.clone(),
            owner: owner.clone(),
            from: node.clone(),
            to: to.clone(),
            or: Vec::new(),
            close: Vec::new(),
            with: Vec::new(),
            stagger_seconds: 0,
            downtime_seconds: None,
            volumes: Vec::new(),
        })
    };
    let pods = steps.iter().filter_map(moved).collect();
    plan.order.push(NodeOrder { node: "w1".into(), cost: Cost::default(), pods });
    plan.steps = (1..).zip(steps).map(|(number, step)| Step { number, ..step }).collect();
    plan.workers = workers;
    plan
}

/// w1 is emptied, taken out and destroyed.
fn removal() -> Vec<Step> {
    let (guest, node): (GuestRef, NodeName) = (meant(1), "w1".into());
    let is = Condition::GuestIs { guest: guest.clone() };
    let unmanaged = Condition::HaUnmanaged { guest: guest.clone() };
    let free = Condition::VolumesGone { node: node.clone(), guest: Some(guest.clone()) };
    let stopped = Condition::GuestStopped { guest: guest.clone() };
    let disposable = Condition::Disposable { guest: guest.clone(), snapshots: Vec::new() };
    vec![
        step(StepAction::Cordon { node: node.clone() }, vec![], vec![]),
        step(evict("p1", "w1", "w2"), vec![], vec![]),
        step(StepAction::Wait, vec![], vec![Condition::NodeEmpty { node: node.clone() }]),
        step(StepAction::KeepGuestOff { guest: guest.clone() }, vec![is.clone()], vec![]),
        step(StepAction::DeleteNode { node, uid: "n1".into() }, vec![], vec![]),
        step(StepAction::ShutDownGuest { guest: guest.clone() }, vec![is.clone(), unmanaged.clone(), free], vec![]),
        step(StepAction::DestroyGuest { guest, snapshots: Vec::new() }, vec![is, unmanaged, stopped, disposable], vec![]),
    ]
}

fn spec(number: u32) -> WorkerSpec {
    WorkerSpec {
        name: format!("w{number}").as_str().into(),
        vmid: VmId(200 + number),
        host: "pve1".into(),
        memory: Bytes::gib(4),
        cores: 2,
        labels: [(MAX_VOLUMES_LABEL.to_owned(), "1".to_owned())].into(),
        ..WorkerSpec::default()
    }
}

/// w5 is made from a template, and gets both pods.
fn addition() -> Vec<Step> {
    let (guest, worker): (GuestRef, NodeName) = (made(), "w5".into());
    let free = Condition::VolumesGone { node: worker.clone(), guest: Some(guest.clone()) };
    let change = |change| step(change, vec![], vec![]);
    vec![
        change(StepAction::CloneGuest { template: meant(9), worker: worker.clone() }),
        change(StepAction::SetGuest { guest: guest.clone(), worker: worker.clone() }),
        change(StepAction::GrowDisk { guest: guest.clone(), slot: "scsi0".into(), size: Bytes::gib(20) }),
        step(StepAction::BootWorker { guest: guest.clone(), worker: worker.clone() }, vec![free], vec![]),
        change(StepAction::DropSeed { guest: guest.clone(), worker: worker.clone() }),
        change(StepAction::StartWithHost { guest: guest.clone() }),
        change(StepAction::Register { node: worker.clone(), slots: None }),
        change(StepAction::Label { node: worker.clone(), labels: Labels::new() }),
        change(StepAction::Probe { guest: guest.clone(), worker: worker.clone(), class: "proxmox".into() }),
        change(evict("p1", "w1", "w5")),
        change(evict("p2", "w2", "w5")),
    ]
}

/// The spare w4 comes back.
fn waking() -> Vec<Step> {
    let free = Condition::VolumesGone { node: "w4".into(), guest: Some(meant(4)) };
    vec![
        step(StepAction::SetGuest { guest: meant(4), worker: "w4".into() }, vec![], vec![]),
        step(StepAction::BootWorker { guest: meant(4), worker: "w4".into() }, vec![free], vec![]),
    ]
}

fn unplugging() -> Vec<Step> {
    vec![step(StepAction::UnplugGhost { guest: meant(1), slot: "scsi5".into(), volume: GHOST.into() }, vec![], vec![])]
}

/// What the audit says; every sentence once.
fn said(seen: &Snapshot, plan: &Plan) -> Vec<String> {
    audit(seen, &Policy::built_in(), plan).into_iter().map(|one| one.what).collect()
}

/// Exactly this is said of the plan in the world, each by some of its words.
#[track_caller]
fn says(seen: &Snapshot, plan: &Plan, words: &[&str]) {
    let found = said(seen, plan);
    let all = words.iter().all(|word| found.iter().any(|one| one.contains(word)));
    assert!(all && found.len() == words.len(), "{words:?}: {found:#?}");
}

/// What is said after a change of the plan's steps.
#[track_caller]
fn steps(of: fn() -> Vec<Step>, workers: &[u32], change: impl FnOnce(&mut Vec<Step>), words: &[&str]) {
    let mut steps = of();
    change(&mut steps);
    says(&world(), &plan(steps, workers.iter().map(|number| spec(*number)).collect()), words);
}

/// What is said after a change of the cluster.
#[track_caller]
fn cluster(of: fn() -> Vec<Step>, workers: &[u32], change: impl FnOnce(&mut Snapshot), words: &[&str]) {
    let mut seen = world();
    change(&mut seen);
    says(&seen, &plan(of(), workers.iter().map(|number| spec(*number)).collect()), words);
}

fn pod_mut<'s>(seen: &'s mut Snapshot, name: &str) -> &'s mut Pod {
    let Reading::Known(pods) = &mut seen.kube.pods else { unreachable!("known") };
    pods.iter_mut().find(|pod| pod.name == name).expect("it is there")
}

fn node_mut(seen: &mut Snapshot, number: usize) -> &mut Node {
    let Reading::Known(nodes) = &mut seen.kube.nodes else { unreachable!("known") };
    &mut nodes[number - 1]
}

fn guest_mut(seen: &mut Snapshot, number: usize) -> &mut Guest {
    let Reading::Known(guests) = &mut seen.pve[0].guests else { unreachable!("known") };
    &mut guests[number - 1]
}

fn config_mut(seen: &mut Snapshot, number: usize) -> &mut GuestConfig {
    let Reading::Known(config) = &mut guest_mut(seen, number).config else { unreachable!("known") };
    config
}

fn push<T>(list: &mut Reading<Vec<T>>, one: T) {
    let Reading::Known(list) = list else { unreachable!("known") };
    list.push(one);
}

/// A volume of the plugin that a pod claims, and that is not plugged yet.
fn claim_volume(seen: &mut Snapshot, pod: &str, number: u32) {
    let (name, claim) = (format!("pvc-{number}"), format!("data-{number}"));
    push(&mut seen.kube.persistent_volumes, volume(&name, &format!("lab/pve1/local-lvm/vm-9999-{name}")));
    let (namespace, bound) = ("a".to_owned(), Some(name.as_str().into()));
    push(&mut seen.kube.claims, Claim { namespace, name: claim.clone(), volume: bound, ..Claim::default() });
    pod_mut(seen, pod).claims.push(claim);
}

/// Disks of VM 202's own on these slots.
fn occupy(seen: &mut Snapshot, slots: impl IntoIterator<Item = u32>) {
    let disks = slots.into_iter().map(|slot| (format!("scsi{slot}"), disk(&format!("local-lvm:vm-202-disk-{slot}"))));
    config_mut(seen, 2).disks.extend(disks);
}

/// How many volumes the scheduler allows on w2.
fn advertise(seen: &mut Snapshot, count: Option<u64>) {
    let Reading::Known(nodes) = &mut seen.kube.csi_nodes else { unreachable!("known") };
    nodes[1].drivers[0].count = count;
}

#[test]
fn what_is_right_is_allowed() {
    for (of, workers) in
        [(removal as fn() -> Vec<Step>, &[][..]), (addition, &[5][..]), (waking, &[4][..]), (unplugging, &[][..])]
    {
        cluster(of, workers, |_| {}, &[]);
    }
}

#[test]
fn a_plan_says_what_it_is() {
    let good = || plan(removal(), Vec::new());
    let whole = |change: &dyn Fn(&mut Plan), words: &[&str]| {
        let mut plan = good();
        change(&mut plan);
        says(&world(), &plan, words);
    };
    let blocker = || Blocker { node: "w1".into(), code: BlockCode::ControlPlane, subject: "w1".into(), detail: "it is".into() };
    whole(&|plan| plan.blockers.push(blocker()), &["it has blockers, and yet"]);
    whole(&|plan| plan.feasibility = Feasibility::Blocked, &["yet it changes something"]);
    whole(&|plan| plan.because.clear(), &["nothing says why"]);
    whole(&|plan| (plan.action, plan.because) = (Action::None, Vec::new()), &[]);
    whole(&|plan| plan.steps[2].number = 9, &["not numbered in their order"]);
    whole(&|plan| plan.order[0].pods.clear(), &["more or fewer pods", "otherwise than the order says"]);
    let empty = |feasibility, change: &dyn Fn(&mut Plan), words: &[&str]| {
        let mut plan = plan(Vec::new(), Vec::new());
        plan.feasibility = feasibility;
        change(&mut plan);
        says(&world(), &plan, words);
    };
    empty(Feasibility::Undecided, &|_| {}, &["it is undecided, and nothing says why"]);
    empty(Feasibility::Undecided, &|plan| plan.undecided.push("no answer".into()), &[]);
    empty(Feasibility::Blocked, &|_| {}, &[]);
    empty(Feasibility::Blocked, &|plan| plan.because.clear(), &["it is blocked, and nothing says why", "nothing says why"]);
    empty(Feasibility::Blocked, &|plan| (plan.because, plan.blockers) = (Vec::new(), vec![blocker()]), &["nothing says why"]);
    // What only a human does is no change, whatever becomes of the plan.
    let manual = StepAction::Manual { what: "look".into(), command: String::new() };
    let mut by_hand = plan(vec![step(manual, vec![], vec![]), step(StepAction::Wait, vec![], vec![])], Vec::new());
    by_hand.feasibility = Feasibility::Blocked;
    says(&world(), &by_hand, &[]);
}

#[test]
fn a_pod_is_evicted_only_as_it_was_seen_and_where_it_may_be() {
    let one = |change: &dyn Fn(&mut Vec<Step>), words: &[&str]| steps(removal, &[], change, words);
    let other = |part: &'static str| {
        move |steps: &mut Vec<Step>| {
            let StepAction::Evict { pod, uid, node, to, .. } = &mut steps[1].change else { unreachable!("an eviction") };
            match part {
                "pod" => *pod = "a/p9".into(),
                "uid" => *uid = "another".into(),
                "node" => *node = "w2".into(),
                "itself" => *to = Some("w1".into()),
                "nowhere" => *to = None,
                _ => *to = Some(part.into()),
            }
        }
    };
    one(&other("pod"), &["a/p9 is not the pod that was seen", "a/p1 is still on w1"]);
    one(&other("uid"), &["a/p1 is not the pod that was seen", "a/p1 is still on w1"]);
    one(&other("node"), &["a/p1 is not on w2 then", "a/p1 goes where it is"]);
    one(&other("itself"), &["a/p1 goes where it is", "which is closed", "a/p1 is still on w1"]);
    one(&other("nowhere"), &["nothing says where a/p1 goes", "a/p1 is still on w1"]);
    one(&other("w9"), &["w9, which does not exist"]);
    one(&other("w3"), &[]);
    one(&|steps| steps.swap(0, 1), &[]);
    // One that moved before has a successor, whose UID nobody knows.
    let moved_on = |uid: &str| {
        let (uid, mut last) = (uid.to_owned(), evict("p1", "w2", "w3"));
        if let StepAction::Evict { uid: own, .. } = &mut last {
            *own = uid;
        }
        move |steps: &mut Vec<Step>| steps.insert(2, step(last.clone(), vec![], vec![]))
    };
    one(&moved_on(""), &[]);
    one(&moved_on("uid-p1"), &["a/p1 is not the pod that was seen"]);

    // What the order says, part by part.
    for part in 0..4 {
        let mut plan = plan(removal(), Vec::new());
        let order = &mut plan.order[0].pods[0];
        match part {
            0 => order.pod = "a/p2".into(),
            1 => order.uid = "another".into(),
            2 => order.to = Some("w3".into()),
            _ => order.from = "w2".into(),
        }
        says(&world(), &plan, &["otherwise than the order says"]);
    }

    let one = |change: &dyn Fn(&mut Snapshot), words: &[&str]| cluster(removal, &[], change, words);
    one(&|seen| pod_mut(seen, "p1").owner = None, &["a/p1 must not be evicted"]);
    one(&|seen| node_mut(seen, 2).unschedulable = true, &["w2, which is closed"]);
    one(&|seen| pod_mut(seen, "p1").phase = Phase::Succeeded, &["a/p1 is not the pod that was seen"]);
    steps(
        removal,
        &[],
        |steps| steps.insert(1, step(evict("agent", "w1", "w2"), vec![], vec![])),
        &["a/agent must not be evicted", "too little cpu"],
    );
    // A pod that is on its way out is no reason to wait; one that came is.
    one(
        &|seen| {
            let leaving = Pod { deleting: Some(Timestamp::UNIX_EPOCH), ..pod("p3", "ReplicaSet", "w1", 0) };
            push(&mut seen.kube.pods, leaving);
        },
        &[],
    );
    one(&|seen| push(&mut seen.kube.pods, pod("p3", "ReplicaSet", "w1", 0)), &["a/p3 is still on w1"]);
}

#[test]
fn a_budget_that_forbids_an_eviction_is_heard() {
    use capplan_model::kube::{Condition as PodCondition, LabelSelector};

    let selector =
        |app: &str| Some(LabelSelector { match_labels: [("app".to_owned(), app.to_owned())].into(), ..Default::default() });
    let budget = |app: &str, allowed, observed| {
        let (namespace, name) = ("a".to_owned(), "budget".to_owned());
        Pdb { namespace, name, selector: selector(app), observed, disruptions_allowed: allowed, ..Pdb::default() }
    };
    let one = |change: &dyn Fn(&mut Snapshot), words: &[&str]| cluster(removal, &[], change, words);
    let forbids = &["a budget forbids to evict a/p1"][..];
    one(&|seen| push(&mut seen.kube.pdbs, budget("p1", 1, true)), &[]);
    one(&|seen| push(&mut seen.kube.pdbs, budget("p2", 0, true)), &[]);
    one(&|seen| push(&mut seen.kube.pdbs, budget("p1", 0, true)), forbids);
    one(&|seen| push(&mut seen.kube.pdbs, budget("p1", 1, false)), forbids);
    // The API server refuses to evict a pod that two budgets are about.
    one(&|seen| seen.kube.pdbs = Reading::Known(vec![budget("p1", 1, true), budget("p1", 1, true)]), forbids);
    let broken = |seen: &mut Snapshot| {
        push(&mut seen.kube.pdbs, Pdb { unhealthy_policy: "AlwaysAllow".into(), ..budget("p1", 0, true) });
        let unready = PodCondition { kind: "Ready".into(), status: "False".into(), ..PodCondition::default() };
        pod_mut(seen, "p1").conditions.push(unready);
    };
    one(&broken, &[]);
    // The primary of a database is switched over first, if it has somebody to take its place.
    let primary = |seen: &mut Snapshot| {
        push(&mut seen.kube.pdbs, budget("p1", 0, true));
        let labels = [("cnpg.io/cluster", "db"), ("cnpg.io/instanceRole", "primary")];
        pod_mut(seen, "p1").labels.extend(labels.map(|(key, value)| (key.to_owned(), value.to_owned())));
    };
    one(&primary, forbids);
    one(
        &|seen| {
            primary(seen);
            let standby = Pod { owner: pod_mut(seen, "p1").owner.clone(), ..pod("standby", "StatefulSet", "w3", 0) };
            push(&mut seen.kube.pods, standby);
        },
        &[],
    );
}

#[test]
fn a_node_holds_what_comes_up_to_its_last_unit_and_no_more() {
    // w2 is full to the last unit of each once `p1` is there.
    let one = |change: &dyn Fn(&mut Snapshot), words: &[&str]| cluster(removal, &[], change, words);
    one(&|seen| node_mut(seen, 2).allocatable.memory = Bytes(Bytes::gib(4).0 - 1), &["too little memory"]);
    one(&|seen| node_mut(seen, 2).allocatable.cpu = MilliCpu(1999), &["too little cpu"]);
    one(&|seen| node_mut(seen, 2).max_pods = 1, &["too little pods"]);
    // A pod that asks for none of what is short may come.
    one(
        &|seen| {
            node_mut(seen, 2).allocatable.memory = Bytes::gib(1);
            pod_mut(seen, "p1").requests.memory = Bytes(0);
        },
        &[],
    );
    one(
        &|seen| {
            node_mut(seen, 2).allocatable.cpu = MilliCpu(1);
            pod_mut(seen, "p1").requests.cpu = MilliCpu(0);
        },
        &[],
    );
    // What ended takes no room.
    one(&|seen| push(&mut seen.kube.pods, Pod { phase: Phase::Failed, ..pod("job", "Job", "w2", 4) }), &[]);

    // Slots: 29 in all, of which its own disk is none; `p1` needs one.
    one(&|seen| occupy(seen, 1..=28), &[]);
    one(&|seen| occupy(seen, 1..=29), &["too little volume slots"]);
    one(
        &|seen| {
            occupy(seen, 1..=29);
            pod_mut(seen, "p1").claims.clear();
        },
        &[],
    );
    // Volumes in use that are plugged are on their slots already.
    let with_volumes = |count: u32| {
        move |seen: &mut Snapshot| {
            for number in 10..10 + count {
                claim_volume(seen, "p2", number);
                config_mut(seen, 2).disks.insert(format!("scsi{number}"), disk(&format!("local-lvm:vm-9999-pvc-{number}")));
            }
        }
    };
    one(&with_volumes(1), &[]);
    // The scheduler allows two volumes on w2.
    one(&with_volumes(2), &["too little volumes allowed"]);
    one(
        &|seen| {
            with_volumes(2)(seen);
            advertise(seen, None);
        },
        &[],
    );
    // Ten of volumes in use, and others up to this slot: with 18 one is left, with 19 none.
    let up_to = |last: u32| {
        move |seen: &mut Snapshot| {
            with_volumes(10)(seen);
            advertise(seen, None);
            occupy(seen, (1..=9).chain(20..=last));
        }
    };
    one(&up_to(28), &[]);
    one(&up_to(29), &["too little volume slots"]);
    // One that is in use and not plugged yet needs a slot, whatever else is plugged.
    one(
        &|seen| {
            with_volumes(1)(seen);
            config_mut(seen, 2).disks.insert("scsi10".into(), disk("local-lvm:vm-9999-pvc-99"));
            occupy(seen, (1..=9).chain(11..=28));
        },
        &["too little volume slots"],
    );
    // Two pods that share a volume take one slot together, and it is free once both are gone.
    let sharing = |seen: &mut Snapshot| {
        let mut second = pod("p3", "StatefulSet", "w1", 0);
        second.claims.push("data".into());
        second.requests.cpu = MilliCpu(0);
        push(&mut seen.kube.pods, second);
        node_mut(seen, 2).max_pods = 9;
    };
    let both = || {
        let mut steps = removal();
        steps.insert(2, step(evict("p3", "w1", "w2"), vec![], vec![]));
        steps
    };
    cluster(both, &[], sharing, &[]);
    cluster(
        both,
        &[],
        |seen| {
            sharing(seen);
            occupy(seen, 1..=28);
        },
        &[],
    );
    // Another pod that keeps the volume elsewhere is a mistake, unless several nodes may use the volume.
    let kept = |seen: &mut Snapshot| {
        sharing(seen);
        pod_mut(seen, "p3").node = Some("w3".into());
    };
    one(&kept, &["a/p1 goes to w2, but a/p3 uses its volume elsewhere"]);
    one(
        &|seen| {
            kept(seen);
            let Reading::Known(volumes) = &mut seen.kube.persistent_volumes else { unreachable!("known") };
            volumes[0].access_modes = vec!["ReadWriteMany".into()];
        },
        &[],
    );
    one(
        &|seen| {
            kept(seen);
            let Reading::Known(volumes) = &mut seen.kube.persistent_volumes else { unreachable!("known") };
            volumes[0].driver = "nfs.example".into();
        },
        &[],
    );
}

#[test]
fn what_leaves_makes_room() {
    // p2 leaves w2 for w3 first; then w2 has room for p1 alone.
    let order = || {
        let mut steps = removal();
        steps.insert(1, step(evict("p2", "w2", "w3"), vec![], vec![]));
        steps
    };
    let small = |seen: &mut Snapshot| {
        node_mut(seen, 2).allocatable = Resources { memory: Bytes::gib(2), cpu: MilliCpu(1000), ..Resources::default() };
        node_mut(seen, 2).max_pods = 1;
    };
    cluster(order, &[], small, &[]);
    cluster(removal, &[], small, &["too little memory"]);
    let slots = |seen: &mut Snapshot| {
        small(seen);
        advertise(seen, Some(1));
        claim_volume(seen, "p2", 2);
    };
    cluster(order, &[], slots, &[]);
}

#[test]
fn a_node_is_deleted_closed_and_empty_and_a_guest_stopped_only_then() {
    let one = |change: &dyn Fn(&mut Vec<Step>), words: &[&str]| steps(removal, &[], change, words);
    let before = "w1 is deleted before it is closed and empty";
    one(&|steps| drop(steps.remove(0)), &[before]);
    one(&|steps| steps[2].ensures.clear(), &[before, "belongs to no node that this plan took out"]);
    one(
        &|steps| steps[4].change = StepAction::DeleteNode { node: "w1".into(), uid: "n2".into() },
        &["not the node that was seen"],
    );
    one(
        &|steps| steps[4].change = StepAction::DeleteNode { node: "w9".into(), uid: "n9".into() },
        &[
            "there is no node w9",
            "w9 is not the node that was seen",
            "w9 is deleted before",
            "VM 201 (w1) on pve1 belongs to no node that this plan took out",
            "VM 201 (w1) on pve1 belongs to no node that this plan took out",
        ],
    );
    one(
        &|steps| steps.insert(3, step(StepAction::Uncordon { node: "w1".into() }, vec![], vec![])),
        &[before, "belongs to no node that this plan took out"],
    );
    one(&|steps| steps[0].change = StepAction::Cordon { node: "w9".into() }, &["there is no node w9", before]);
    steps(
        unplugging,
        &[],
        |steps| steps.push(step(StepAction::Uncordon { node: "w9".into() }, vec![], vec![])),
        &["there is no node w9"],
    );
    cluster(removal, &[], |seen| node_mut(seen, 1).unschedulable = true, &[]);
    let master = |seen: &mut Snapshot| drop(node_mut(seen, 1).labels.insert(CONTROL_PLANE_LABEL.into(), String::new()));
    cluster(removal, &[], master, &["w1 runs the control plane"]);

    // Whose guest it is, and what makes sure of it, for each step that needs it.
    let no_node = "belongs to no node that this plan took out";
    for place in [3, 5, 6] {
        let mut plan = plan(removal(), Vec::new());
        let (StepAction::KeepGuestOff { guest } | StepAction::ShutDownGuest { guest } | StepAction::DestroyGuest { guest, .. }) =
            &mut plan.steps[place].change
        else {
            unreachable!("a step about a guest")
        };
        *guest = meant(2);
        assert!(said(&world(), &plan).iter().any(|what| what.contains(no_node)), "{place}");
        for lacking in 0..removal()[place].requires.len() {
            let words = [
                (3, 0, "is the one that was meant"),
                (5, 0, "is the one that was meant"),
                (5, 1, "the HA manager does not manage"),
                (5, 2, "holds no volume"),
                (6, 0, "is the one that was meant"),
                (6, 1, "the HA manager does not manage"),
                (6, 2, "may be destroyed"),
                (6, 3, "may be destroyed"),
            ];
            let expected = words.iter().find(|one| (one.0, one.1) == (place, lacking)).expect("listed").2;
            one(&|steps| drop(steps[place].requires.remove(lacking)), &[expected]);
        }
    }
    // Its volumes, not those of another guest.
    one(
        &|steps| steps[5].requires[2] = Condition::VolumesGone { node: "w1".into(), guest: Some(meant(2)) },
        &["holds no volume"],
    );
    // Snapshots that go are those that the step names.
    one(
        &|steps| steps[6].change = StepAction::DestroyGuest { guest: meant(1), snapshots: vec!["before".into()] },
        &["may be destroyed"],
    );
    // It is shut down only once its node is gone.
    one(&|steps| steps.swap(4, 5), &[no_node]);
    // It is disarmed like it is shut down, without its power being touched.
    let disarm = |steps: &mut Vec<Step>| {
        let join = Join::default();
        steps[5].change = StepAction::DisarmGuest { guest: meant(1), slot: "ide2".into(), join };
        steps[5].requires.truncate(1);
    };
    one(&disarm, &[]);
    one(
        &|steps| {
            disarm(steps);
            steps[5].requires.clear();
        },
        &["is the one that was meant"],
    );
    // A destroy needs the UUID of what it destroys.
    let nameless = |steps: &mut Vec<Step>| {
        let guest = GuestRef { uuid: None, ..meant(1) };
        steps[6].change = StepAction::DestroyGuest { guest: guest.clone(), snapshots: Vec::new() };
        steps[6].requires = vec![
            Condition::GuestIs { guest: guest.clone() },
            Condition::HaUnmanaged { guest: guest.clone() },
            Condition::GuestStopped { guest: guest.clone() },
            Condition::Disposable { guest, snapshots: Vec::new() },
        ];
    };
    one(&nameless, &[no_node, "may be destroyed"]);
    let mut seen = world();
    config_mut(&mut seen, 1).uuid = None;
    let mut steps = removal();
    nameless(&mut steps);
    assert!(said(&seen, &plan(steps, Vec::new())).iter().any(|what| what.contains("may be destroyed")));

    // A spare may be kept off without more: it is off, and that is made sure of.
    let keep = |guest: GuestRef, requires: &[&dyn Fn(GuestRef) -> Condition]| {
        let requires = requires.iter().map(|one| one(guest.clone())).collect();
        plan(vec![step(StepAction::KeepGuestOff { guest }, requires, vec![])], Vec::new())
    };
    let is = |guest| Condition::GuestIs { guest };
    let stopped = |guest| Condition::GuestStopped { guest };
    says(&world(), &keep(meant(4), &[&is, &stopped]), &[]);
    says(&world(), &keep(meant(4), &[&is]), &[no_node]);
    says(&world(), &keep(meant(2), &[&is, &stopped]), &[no_node]);
    let mut shut = keep(meant(4), &[&is, &stopped, &|guest| Condition::HaUnmanaged { guest }]);
    shut.steps[0].requires.push(Condition::VolumesGone { node: "w4".into(), guest: Some(meant(4)) });
    shut.steps[0].change = StepAction::ShutDownGuest { guest: meant(4) };
    says(&world(), &shut, &[no_node]);
}

#[test]
fn a_worker_is_made_where_nothing_is_and_holds_what_it_is_told_to() {
    let neither = "is neither made by this plan nor a spare";
    let one = |change: &dyn Fn(&mut Vec<Step>), words: &[&str]| steps(addition, &[5], change, words);
    one(
        &|steps| drop(steps.remove(3)),
        &["there is no node w5", "there is no node w5", "there is no node w5", "does not exist", "does not exist"],
    );
    one(&|steps| steps[3].requires.clear(), &["holds no volume"]);
    one(&|steps| steps[3].requires[0] = Condition::VolumesGone { node: "w5".into(), guest: None }, &["holds no volume"]);
    one(&|steps| steps[0].change = StepAction::CloneGuest { template: meant(3), worker: "w5".into() }, &["is no template there"]);
    one(
        &|steps| steps[0].change = StepAction::CloneGuest { template: meant(7), worker: "w5".into() },
        &["VM 207 (w7) on pve1 is no template there"],
    );
    for place in [1, 2, 3, 4, 5] {
        let mut plan = plan(addition(), vec![spec(5)]);
        let (StepAction::SetGuest { guest, .. }
        | StepAction::GrowDisk { guest, .. }
        | StepAction::BootWorker { guest, .. }
        | StepAction::DropSeed { guest, .. }
        | StepAction::StartWithHost { guest }) = &mut plan.steps[place].change
        else {
            unreachable!("a step about a guest")
        };
        *guest = meant(2);
        assert!(said(&world(), &plan).iter().any(|what| what.contains(neither)), "{place}");
    }
    // The plan makes no such worker.
    for (place, change) in [
        (0, StepAction::CloneGuest { template: meant(9), worker: "w6".into() }),
        (1, StepAction::SetGuest { guest: made(), worker: "w6".into() }),
        (4, StepAction::DropSeed { guest: made(), worker: "w6".into() }),
        (3, StepAction::BootWorker { guest: made(), worker: "w6".into() }),
    ] {
        let mut plan = plan(addition(), vec![spec(5)]);
        plan.steps[place].change = change;
        assert!(said(&world(), &plan).iter().any(|what| what.contains("w6 is none of its workers")), "{place}");
    }
    // A name or a number that is taken.
    let one = |change: &dyn Fn(&mut Snapshot), words: &[&str]| cluster(addition, &[5], change, words);
    one(&|seen| guest_mut(seen, 4).vmid = VmId(205), &["VMID 205 is taken"]);
    one(&|seen| guest_mut(seen, 4).name = "w5".into(), &["the name w5 is taken"]);
    one(&|seen| guest_mut(seen, 5).host = "pve2".into(), &["is no template there"]);
    let mut elsewhere = plan(addition(), vec![spec(5)]);
    elsewhere.workers[0].host = "pve2".into();
    assert!(said(&world(), &elsewhere).iter().any(|what| what.contains("is no template there")));
    one(
        &|seen| {
            let Reading::Known(nodes) = &mut seen.kube.nodes else { unreachable!("known") };
            nodes[2].name = "w5".into();
        },
        &["the name w5 is taken"],
    );
    // It is full to the last unit with both pods.
    let small = |change: fn(&mut WorkerSpec), words: &[&str]| {
        let mut spec = spec(5);
        change(&mut spec);
        says(&world(), &plan(addition(), vec![spec]), words);
    };
    small(|spec| spec.memory = Bytes(Bytes::gib(4).0 - 1), &["too little memory"]);
    small(|spec| spec.cores = 1, &["too little cpu"]);
    small(|spec| drop(spec.labels.insert(MAX_VOLUMES_LABEL.into(), "0".into())), &["too little volumes allowed"]);
    small(|spec| spec.labels.clear(), &[]);
    // Without a label the scheduler allows any number; the plugin has 29 slots there as well.
    let mut greedy = world();
    (10..39).for_each(|number| claim_volume(&mut greedy, "p2", number));
    let unlabelled = plan(addition(), vec![WorkerSpec { labels: Labels::new(), ..spec(5) }]);
    says(&greedy, &unlabelled, &["a/p2 goes to w5, which has too little volume slots"]);

    // A spare is off and no node, and one of the plan's workers.
    let one = |change: &dyn Fn(&mut Snapshot), words: &[&str]| cluster(waking, &[4], change, words);
    let twice = [neither, neither];
    one(&|seen| guest_mut(seen, 4).power = Power::Running, &twice);
    one(&|seen| guest_mut(seen, 4).template = true, &twice);
    one(&|seen| node_mut(seen, 3).name = "w4".into(), &twice);
    says(&world(), &plan(waking(), vec![WorkerSpec { vmid: VmId(209), ..spec(4) }]), &twice);
    says(&world(), &plan(waking(), vec![WorkerSpec { host: "pve2".into(), ..spec(4) }]), &twice);
    // One that the plan makes has no UUID yet.
    let mut known = plan(addition(), vec![spec(5)]);
    known.steps[2].change = StepAction::GrowDisk { guest: meant(5), slot: "scsi0".into(), size: Bytes::gib(20) };
    says(&world(), &known, &[neither]);
    // Nor is it there before it is made.
    steps(addition, &[5], |steps| steps.swap(0, 2), &[neither, neither]);
    for (place, change) in [
        (6, StepAction::Register { node: "w9".into(), slots: None }),
        (7, StepAction::Label { node: "w9".into(), labels: Labels::new() }),
        (8, StepAction::Probe { guest: made(), worker: "w9".into(), class: "proxmox".into() }),
    ] {
        steps(addition, &[5], |steps| steps[place].change = change, &["there is no node w9"]);
    }
}

#[test]
fn only_a_disk_that_nothing_refers_to_is_unplugged() {
    let one = |change: &dyn Fn(&mut Snapshot), words: &[&str]| cluster(unplugging, &[], change, words);
    let no_disk = "is no disk on scsi5 of VM 201 (w1) on pve1";
    one(&|seen| drop(config_mut(seen, 1).disks.remove("scsi5")), &[no_disk]);
    one(&|seen| drop(config_mut(seen, 1).disks.insert("scsi5".into(), disk("local-lvm:vm-9999-pvc-8"))), &[no_disk]);
    one(&|seen| drop(config_mut(seen, 1).disks.insert("scsi5".into(), Disk { cdrom: true, ..disk(GHOST) })), &[no_disk]);
    one(&|seen| guest_mut(seen, 1).name = "other".into(), &[no_disk]);
    one(&|seen| guest_mut(seen, 1).config = Reading::unknown("no answer"), &[no_disk]);

    let unread = "was not read";
    one(&|seen| seen.kube.volume_attachments = Reading::unknown("no answer"), &[unread]);
    one(&|seen| seen.kube.persistent_volumes = Reading::unknown("no answer"), &[unread]);
    one(&|seen| seen.kube.claims = Reading::unknown("no answer"), &[unread]);
    one(&|seen| seen.kube.pods = Reading::unknown("no answer"), &[unread]);

    // A volume on it alone refers to nothing that uses it.
    let named = |seen: &mut Snapshot| push(&mut seen.kube.persistent_volumes, volume("v7", "x/y/z/vm-9999-pvc-7"));
    one(&named, &[]);
    let attached = "is attached: unplugging it takes it from a pod";
    // Of whatever attacher, to whatever node; by the handle, or by the name where the volume's object is gone.
    let foreign = |node: &str, volume: &str| VolumeAttachment { attacher: "other.example".into(), ..attachment(node, volume) };
    one(
        &|seen| {
            named(seen);
            push(&mut seen.kube.volume_attachments, foreign("w3", "v7"));
        },
        &[attached],
    );
    one(&|seen| push(&mut seen.kube.volume_attachments, foreign("w1", "pvc-7")), &[attached]);
    one(&|seen| push(&mut seen.kube.volume_attachments, foreign("w1", "")), &[]);
    one(&|seen| push(&mut seen.kube.volume_attachments, foreign("w1", "pvc-8")), &[]);
    one(
        &|seen| {
            // A volume of that name is on another disk: the name proves nothing then.
            push(&mut seen.kube.persistent_volumes, volume("pvc-7", "x/y/z/vm-9999-elsewhere"));
            push(&mut seen.kube.volume_attachments, foreign("w1", "pvc-7"));
        },
        &[],
    );
    // With the suffix of a file.
    let file = |seen: &mut Snapshot| {
        push(&mut seen.kube.persistent_volumes, volume("v7", "x/y/z/9999/vm-9999-pvc-7.raw"));
        push(&mut seen.kube.volume_attachments, foreign("w3", "v7"));
    };
    one(&file, &[attached]);

    // A pod uses it, attached or not.
    let used = |seen: &mut Snapshot| {
        named(seen);
        let (namespace, bound) = ("a".to_owned(), Some("v7".into()));
        push(&mut seen.kube.claims, Claim { namespace, name: "seven".into(), volume: bound, ..Claim::default() });
    };
    let user = || Pod { claims: vec!["seven".into()], ..pod("p7", "ReplicaSet", "w3", 0) };
    one(
        &|seen| {
            used(seen);
            push(&mut seen.kube.pods, user());
        },
        &["is used by a/p7"],
    );
    for harmless in [
        Pod { node: None, ..user() },
        Pod { phase: Phase::Succeeded, ..user() },
        Pod { namespace: "b".into(), ..user() },
        Pod { claims: vec!["eight".into()], ..user() },
    ] {
        one(
            &|seen| {
                used(seen);
                push(&mut seen.kube.pods, harmless.clone());
            },
            &[],
        );
    }
    // A disk of the VM itself, or one without a name.
    for own in ["local-lvm:vm-201-pvc-7", "local-lvm:"] {
        let mut seen = world();
        config_mut(&mut seen, 1).disks.insert("scsi5".into(), disk(own));
        let change = StepAction::UnplugGhost { guest: meant(1), slot: "scsi5".into(), volume: own.into() };
        says(&seen, &plan(vec![step(change, vec![], vec![])], Vec::new()), &["is a disk of VM 201 (w1) on pve1 itself"]);
    }
}
