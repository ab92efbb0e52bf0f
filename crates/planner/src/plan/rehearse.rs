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

/// What must hold before the first step, beyond what the steps ask for themselves.
pub(super) fn gate(scene: &Scene<'_>, plan: &Plan) -> Result<(), String> {
    let snapshot = scene.ground.snapshot;
    if snapshot.cluster != plan.cluster {
        return Err("this is another cluster than the plan was made for".to_owned());
    }
    for pve in &snapshot.pve {
        match &pve.quorate {
            Reading::Known(true) => {}
            Reading::Known(false) => return Err(format!("the Proxmox VE cluster {} has no quorum", pve.name)),
            Reading::Unknown { why } => return Err(format!("whether {} has a quorum is not known: {why}", pve.name)),
        }
    }
    let kube = &snapshot.kube;
    let system = kube.deployments.items().iter().chain(kube.daemon_sets.items()).filter(|one| one.namespace == "kube-system");
    if let Some(one) = system.into_iter().find(|one| one.ready < one.replicas) {
        return Err(format!("{} of kube-system has {} of {} pods ready: mend it first", one.name, one.ready, one.replicas));
    }
    for spec in &plan.workers {
        room(scene, spec)?;
    }
    let nodes = plan.order.iter().map(|order| &order.node);
    for guest in nodes.filter_map(|node| scene.ground.guest(node)) {
        if let Some(lock) = &guest.lock {
            return Err(format!("VM {} ({}) is locked: {lock}", guest.vmid, guest.name));
        }
    }
    Ok(())
}

/// Whether a host carries another worker: by what its running guests may use, and by its pools.
fn room(scene: &Scene<'_>, spec: &WorkerSpec) -> Result<(), String> {
    let policy = scene.ground.policy;
    let Some(host) = scene.ground.snapshot.hosts().find(|host| host.name == spec.host) else {
        return Err(format!("host {} was not read", spec.host));
    };
    let (Some(memory), Some(sum)) = (host.memory.known(), commitment(scene.ground.snapshot, host).into_known()) else {
        return Err(format!("how much memory running guests of {} may use is not known", host.name));
    };
    let share = (sum.running + spec.memory).0 as f64 / memory.total.0.max(1) as f64;
    if share > policy.worker.most_committed {
        return Err(format!(
            "running guests would commit {:.0}% of the memory of {}: worker.most_committed allows {:.0}%",
            share * 100.0,
            host.name,
            policy.worker.most_committed * 100.0
        ));
    }
    let storage = host.storages.items().iter().find(|one| Some(&one.name) == spec.storage.as_ref());
    let pool = storage.and_then(|storage| host.pool_of(storage)).or_else(|| match host.pools.items() {
        [only] => Some(only),
        _ => None,
    });
    let Some(pool) = pool else { return Ok(()) };
    for (what, used, size) in [("data", pool.used, pool.size), ("metadata", pool.metadata_used, pool.metadata_size)] {
        let share = used.0 as f64 / size.0.max(1) as f64;
        if size.0 > 0 && share >= policy.limits.high {
            return Err(format!("the {what} of {} on {} are {:.0}% used: make room first", pool.name, host.name, share * 100.0));
        }
    }
    Ok(())
}

/// Plays the steps from `from` on; the error says what does not fit any more.
pub(super) fn rehearse(scene: &Scene<'_>, mut board: Board<'_>, plan: &Plan, from: u64) -> Result<(), String> {
    let evicts = |change: &StepAction| matches!(change, StepAction::Evict { .. });
    let done = plan.steps.iter().filter(|step| step.number < from && evicts(&step.change)).count();
    let left: Vec<&PodMove> = plan.moves().skip(done).collect();
    for step in plan.steps.iter().filter(|step| step.number < from) {
        close(&mut board, &step.change);
    }
    strangers(&board, plan, &left)?;
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
            return Err(format!("{worker} could not join any more: plan again"));
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
            return Err(format!("{} would find no place any more: plan again", one.pod));
        }
    }
    match board.unknown.first() {
        Some(node) => Err(format!("the slots of {} are not known", board.scheduler.cluster.node(*node).name)),
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

/// A pod on a node that is being emptied that the plan does not know.
fn strangers(board: &Board<'_>, plan: &Plan, left: &[&PodMove]) -> Result<(), String> {
    let cluster = &board.scheduler.cluster;
    let emptied = plan.order.iter().filter_map(|order| cluster.node_named(&order.node)).filter(|node| is_shut(board, *node));
    for node in emptied.collect::<BTreeSet<_>>() {
        let pods = cluster.pods_on(node).iter().map(|pod| cluster.pod(*pod));
        let mut strangers = pods.filter(|pod| !pod.belongs_to_node() && pod.deleting.is_none());
        let stranger = strangers.find(|pod| !left.iter().any(|one| one.from == cluster.node(node).name && is_meant(pod, one)));
        if let Some(pod) = stranger {
            return Err(format!("{} is on {} and no part of the plan: plan again", pod.object_name(), cluster.node(node).name));
        }
    }
    Ok(())
}
