//! Whether what is left of a plan is still possible: played once more on a fresh reading.

use std::collections::BTreeSet;

use capplan_model::Reading;
use capplan_model::ids::NodeName;
use capplan_model::kube::Pod;
use capplan_model::plan::{Plan, PodMove, StepAction, WorkerSpec};

use super::board::{Board, Choice};
use super::{Scene, newcomer};
use crate::capacity::commitment;
use crate::scheduler::{NodeId, PodId};

/// Why a plan may not be begun, or gone on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Objection {
    /// Something forbids it.
    Forbids(String),
    /// Whether something does was not read.
    Unread(String),
}

impl Objection {
    /// The reason in words.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Forbids(why) | Self::Unread(why) => why,
        }
    }
}

/// What must hold before the first step, beyond what the steps ask for themselves: everything that does not.
pub(crate) fn gate(scene: &Scene<'_>, plan: &Plan) -> Vec<Objection> {
    let snapshot = scene.ground.snapshot;
    let mut found = Vec::new();
    if snapshot.cluster != plan.cluster {
        found.push(Objection::Forbids("this is another cluster than the plan was made for".to_owned()));
    }
    for pve in &snapshot.pve {
        match &pve.quorate {
            Reading::Known(true) => {}
            Reading::Known(false) => {
                found.push(Objection::Forbids(format!("the Proxmox VE cluster {} has no quorum", pve.name)));
            }
            Reading::Unknown { why } => {
                found.push(Objection::Unread(format!("whether {} has a quorum is not known: {why}", pve.name)));
            }
        }
    }
    let kube = &snapshot.kube;
    let system = kube.deployments.items().iter().chain(kube.daemon_sets.items()).filter(|one| one.namespace == "kube-system");
    for one in system.into_iter().filter(|one| one.ready < one.replicas) {
        let why = format!("{} of kube-system has {} of {} pods ready: fix it first", one.name, one.ready, one.replicas);
        found.push(Objection::Forbids(why));
    }
    found.extend(plan.workers.iter().filter_map(|spec| no_room(scene, spec)));
    let nodes = plan.order.iter().map(|order| &order.node);
    for guest in nodes.filter_map(|node| scene.ground.guest(node)) {
        if let Some(lock) = &guest.lock {
            found.push(Objection::Forbids(format!("VM {} ({}) is locked: {lock}", guest.vmid, guest.name)));
        }
    }
    found
}

/// Why a host carries no other worker: by what its running guests may use, and by its pools.
fn no_room(scene: &Scene<'_>, spec: &WorkerSpec) -> Option<Objection> {
    let policy = scene.ground.policy;
    let Some(host) = scene.ground.snapshot.hosts().find(|host| host.name == spec.host) else {
        return Some(Objection::Unread(format!("host {} was not read", spec.host)));
    };
    let (Some(memory), Some(sum)) = (host.memory.known(), commitment(scene.ground.snapshot, host).into_known()) else {
        return Some(Objection::Unread(format!("how much memory running guests of {} may use is not known", host.name)));
    };
    let share = (sum.running + spec.memory).0 as f64 / memory.total.0.max(1) as f64;
    if share > policy.worker.most_committed {
        return Some(Objection::Forbids(format!(
            "running guests would commit {:.0}% of the memory of {}: worker.most_committed allows {:.0}%",
            share * 100.0,
            host.name,
            policy.worker.most_committed * 100.0
        )));
    }
    let storage = host.storages.items().iter().find(|one| Some(&one.name) == spec.storage.as_ref());
    let pool = storage.and_then(|storage| host.pool_of(storage)).or_else(|| match host.pools.items() {
        [only] => Some(only),
        _ => None,
    })?;
    let parts = [("data", pool.used, pool.size), ("metadata", pool.metadata_used, pool.metadata_size)];
    parts.into_iter().find_map(|(what, used, size)| {
        let share = used.0 as f64 / size.0.max(1) as f64;
        (size.0 > 0 && share >= policy.limits.high).then(|| {
            let why = format!("the {what} of {} on {} are {:.0}% used: make room first", pool.name, host.name, share * 100.0);
            Objection::Forbids(why)
        })
    })
}

/// Plays the steps from `from` on; the error says what does not fit any more.
pub(crate) fn rehearse(scene: &Scene<'_>, mut board: Board<'_>, plan: &Plan, from: u64) -> Result<(), Objection> {
    let evicts = |change: &StepAction| matches!(change, StepAction::Evict { .. });
    let done = plan.steps.iter().filter(|step| step.number < from && evicts(&step.change)).count();
    let left: Vec<&PodMove> = plan.moves().skip(done).collect();
    for step in plan.steps.iter().filter(|step| step.number < from) {
        close(&mut board, &step.change);
    }
    no_unplanned_pod(&board, plan, &left)?;
    let mut rng = fastrand::Rng::with_seed(scene.limits.seed);
    let mut moved: BTreeSet<PodId> = BTreeSet::new();
    let mut next = left.iter();
    for step in plan.steps.iter().filter(|step| step.number >= from) {
        close(&mut board, &step.change);
        if let StepAction::BootWorker { worker, .. } = &step.change
            && board.scheduler.cluster.node_named(worker).is_none()
            && let Some(spec) = plan.worker(worker)
            && newcomer::enter(scene, &mut board, spec).is_none()
        {
            return Err(Objection::Forbids(format!("{worker} could not join any more: plan again")));
        }
        let Some(one) = evicts(&step.change).then(|| next.next()).flatten() else { continue };
        let Some(pod) = find(&board, one, &moved) else { continue };
        if !moved.insert(pod) {
            continue;
        }
        // Those that share a volume with it leave with it.
        let partners = left.iter().filter(|other| one.with.contains(&other.pod));
        let mut together = vec![pod];
        for partner in partners {
            together.extend(find(&board, partner, &moved).filter(|partner| moved.insert(*partner)));
        }
        let shut: Vec<NodeId> = one
            .close
            .iter()
            .filter_map(|node| board.scheduler.cluster.node_named(node))
            .filter(|node| !is_shut(&board, *node))
            .collect();
        shut.iter().for_each(|node| board.cordon(*node));
        let landed = board.relocate(&together, &mut Choice::Scheduler(&mut rng));
        shut.iter().for_each(|node| board.uncordon(*node));
        if landed.is_none() {
            return Err(Objection::Forbids(format!("{} would find no place any more: plan again", one.pod)));
        }
    }
    match board.unknown.first() {
        Some(node) => Err(Objection::Unread(format!("the slots of {} are not known", board.scheduler.cluster.node(*node).name))),
        None => Ok(()),
    }
}

fn is_shut(board: &Board<'_>, node: NodeId) -> bool {
    board.scheduler.cluster.node(node).unschedulable
}

fn close(board: &mut Board<'_>, change: &StepAction) {
    let named = |board: &Board<'_>, node: &NodeName| board.scheduler.cluster.node_named(node);
    if let StepAction::Cordon { node } = change
        && let Some(id) = named(board, node)
    {
        board.cordon(id);
    }
    if let StepAction::Uncordon { node } = change
        && let Some(id) = named(board, node)
    {
        board.uncordon(id);
    }
}

fn is_meant(pod: &Pod, one: &PodMove) -> bool {
    if one.uid.is_empty() { pod.owner_name().as_ref() == Some(&one.owner) } else { pod.uid == one.uid }
}

fn find(board: &Board<'_>, one: &PodMove, moved: &BTreeSet<PodId>) -> Option<PodId> {
    let cluster = &board.scheduler.cluster;
    let node = cluster.node_named(&one.from)?;
    let mut mine = cluster.pods_on(node).iter().copied().filter(|pod| !moved.contains(pod));
    mine.find(|pod| is_meant(cluster.pod(*pod), one))
}

/// Objects to a pod that the plan does not know on a node that is being emptied.
fn no_unplanned_pod(board: &Board<'_>, plan: &Plan, left: &[&PodMove]) -> Result<(), Objection> {
    let cluster = &board.scheduler.cluster;
    let emptied = plan.order.iter().filter_map(|order| cluster.node_named(&order.node)).filter(|node| is_shut(board, *node));
    for node in emptied.collect::<BTreeSet<_>>() {
        let pods = cluster.pods_on(node).iter().map(|pod| cluster.pod(*pod));
        let mut movable = pods.filter(|pod| !pod.belongs_to_node() && pod.deleting.is_none());
        let unplanned = movable.find(|pod| !left.iter().any(|one| one.from == cluster.node(node).name && is_meant(pod, one)));
        if let Some(pod) = unplanned {
            let (pod, node) = (pod.object_name(), &cluster.node(node).name);
            return Err(Objection::Forbids(format!("{pod} is on {node} and no part of the plan: plan again")));
        }
    }
    Ok(())
}
