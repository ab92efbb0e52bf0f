//! The levers, each tried on a copy: what becomes of the rules, and the steps it would take.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Reading;
use capplan_model::ids::NodeName;
use capplan_model::kube::{CONTROL_PLANE_LABEL, MAX_VOLUMES_LABEL, PersistentVolume, Pod};
use capplan_model::plan::{Action, Condition, Feasibility, GuestRef, Optimality, Plan, StepAction};
use capplan_model::policy::Measure;
use capplan_model::slots::VolumeSlots;
use capplan_model::units::{Bytes, total};
use capplan_model::volumes::{Use, Volumes};

use super::after::Standing;
use super::blockers::unsafe_to_move;
use super::board::Board;
use super::spare::spares;
use super::{Scene, after, even, scale_down, scale_up, steps};
use crate::capacity::memory_share;
use crate::rules::Facts;

/// A lever that was tried.
pub(super) enum Tried {
    /// It clears every rule.
    Works(Box<Plan>),
    /// It does not, and why.
    Rejected(String),
}

/// Least part of a guest's memory that must be unused before it is called oversized.
const UNUSED: f64 = 0.5;
/// Largest claim that is small.
const SMALL_CLAIM: Bytes = Bytes(5 << 30);
/// Words in the name or the image of a pod whose files are a database's.
///
/// # Source
/// Field notes: embedded databases do not survive on NFS; these are the ones met there, and their kin.
const DATABASES: [&str; 14] = [
    "postgres",
    "pg-",
    "mysql",
    "maria",
    "mongo",
    "redis",
    "valkey",
    "clickhouse",
    "sqlite",
    "etcd",
    "elastic",
    "influx",
    "dolt",
    "vault",
];
/// Workloads named as candidates for smaller requests.
const MOST_NAMED: usize = 3;

/// A step that only a human makes.
pub(super) fn manual(list: &mut steps::Steps, what: String, command: String) {
    list.add(StepAction::Manual { what, command }, Vec::new(), Vec::new(), 0);
}

/// Tells the scheduler how many volumes a worker takes.
pub(super) fn label(list: &mut steps::Steps, node: &NodeName, slots: u64) {
    let (node, labels) = (node.clone(), BTreeMap::from([(MAX_VOLUMES_LABEL.to_owned(), slots.to_string())]));
    list.add(
        StepAction::Label { node: node.clone(), labels: labels.clone() },
        Vec::new(),
        vec![Condition::Labelled { node: node.clone(), labels }],
        30,
    );
    list.add(
        StepAction::Manual {
            what: format!("restart the storage plugin's pod on {node}: it reads the label when it registers"),
            command: format!("kubectl delete pod -n csi-proxmox --field-selector spec.nodeName={node}"),
        },
        Vec::new(),
        vec![Condition::WorkerReady { node, slots: Some(slots) }],
        300,
    );
}

/// Steps that give lost slots and forgotten disks back.
pub(super) fn reclaim_steps(scene: &Scene<'_>, slots: &Reading<Vec<VolumeSlots>>) -> (Vec<String>, steps::Steps) {
    let mut list = steps::Steps::default();
    let mut nodes = Vec::new();
    let volumes = Volumes::of(scene.ground.snapshot);
    for one in slots.known().into_iter().flatten() {
        let Some(guest) = scene.ground.guest(&one.node).map(GuestRef::of) else { continue };
        for (slot, volume) in one.ghosts.known().into_iter().flatten() {
            let (slot, volume) = (format!("scsi{slot}"), volume.clone());
            if let Use::Elsewhere(by) = volumes.use_of(&one.node, &volume) {
                let what = format!("find out whether {guest} writes to {volume} on {slot}, and detach it there: {by}");
                manual(&mut list, what, format!("qm set {} --delete {slot}", guest.vmid));
                continue;
            }
            list.add(
                StepAction::UnplugGhost { guest: guest.clone(), slot: slot.clone(), volume: volume.clone() },
                vec![
                    Condition::GuestIs { guest: guest.clone() },
                    Condition::Ghost { guest: guest.clone(), slot: slot.clone(), volume },
                ],
                vec![Condition::SlotEmpty { guest: guest.clone(), slot }],
                120,
            );
        }
        if one.phantom().is_some_and(|phantom| phantom > 0)
            && let Some(real) = one.config.known().map(|config| config.real())
        {
            label(&mut list, &one.node, real);
        }
        if one.ghosts.known().is_some_and(|ghosts| !ghosts.is_empty()) || one.phantom().is_some_and(|phantom| phantom > 0) {
            nodes.push(one.node.to_string());
        }
    }
    for guest in spares(scene).into_iter().filter(|guest| guest.config.known().is_some_and(|config| config.on_boot)) {
        let guest = GuestRef::of(guest);
        list.add(
            StepAction::KeepGuestOff { guest: guest.clone() },
            vec![Condition::GuestIs { guest: guest.clone() }, Condition::GuestStopped { guest: guest.clone() }],
            vec![Condition::GuestStaysOff { guest }],
            30,
        );
    }
    for one in slots.known().into_iter().flatten() {
        let Some((config, vmid)) = one.config.known().zip(one.vmid.known()) else { continue };
        if !config.unused.is_empty() {
            manual(
                &mut list,
                format!("look at {} detached volumes of VM {vmid} ({}): they hold pool space", config.unused.len(), one.node),
                format!("qm config {vmid} | grep ^unused"),
            );
        }
    }
    let snapshot = scene.ground.snapshot;
    let released: Vec<&PersistentVolume> =
        snapshot.kube.persistent_volumes.items().iter().filter(|volume| volume.phase == "Released").collect();
    if !released.is_empty() {
        let names: Vec<String> = released.iter().map(|volume| volume.name.to_string()).collect();
        manual(
            &mut list,
            format!("look at {} Released volumes: their disks still fill the pool", released.len()),
            format!("kubectl get pv {}", names.join(" ")),
        );
    }
    let failed =
        snapshot.kube.pods.items().iter().filter(|pod| pod.phase == capplan_model::kube::Phase::Failed && pod.owner.is_some());
    let failed: Vec<String> = failed.map(|pod| pod.object_name().0).collect();
    if !failed.is_empty() {
        manual(
            &mut list,
            format!("delete {} failed pods that are kept as records", failed.len()),
            "kubectl get pods -A --field-selector status.phase=Failed".to_owned(),
        );
    }
    (nodes, list)
}

/// Whether giving lost slots back clears the rules.
pub(super) fn try_reclaim(scene: &Scene<'_>, standing: &Standing<'_>, slots: &Reading<Vec<VolumeSlots>>, empty: &Plan) -> Tried {
    let (nodes, list) = reclaim_steps(scene, slots);
    if nodes.is_empty() {
        return Tried::Rejected("no slot is lost to ghosts or phantoms".to_owned());
    }
    let mut state = scene.ground.snapshot.clone();
    for pve in &mut state.pve {
        let Reading::Known(guests) = &mut pve.guests else { continue };
        for guest in guests {
            let ghosts = slots.known().into_iter().flatten().filter(|one| one.vmid.known() == Some(&guest.vmid));
            let ghosts: BTreeSet<String> =
                ghosts.flat_map(|one| one.ghosts.known().into_iter().flatten()).map(|(_, volume)| volume.clone()).collect();
            if let Reading::Known(config) = &mut guest.config {
                config.disks.retain(|_, disk| !ghosts.contains(&disk.volume));
            }
        }
    }
    match standing.left(scene, state).first() {
        None => Tried::Works(Box::new(Plan {
            action: Action::Reclaim,
            target: Some(nodes.join(", ")),
            feasibility: Feasibility::Feasible,
            because: vec!["cleaning up alone clears every rule".to_owned()],
            steps: list.done(),
            ..empty.clone()
        })),
        Some((rule, why)) => Tried::Rejected(format!("worth doing on {}, but `{rule}` {why}", nodes.join(", "))),
    }
}

/// The scheduler is told of slots that are there and that it does not know of.
pub(super) fn raise_label(slots: &Reading<Vec<VolumeSlots>>, empty: &Plan) -> Tried {
    let mut list = steps::Steps::default();
    let mut nodes = Vec::new();
    for one in slots.known().into_iter().flatten() {
        let (Some(Some(advertised)), Some(counted), Some(config)) =
            (one.advertised.known(), one.counted.known(), one.config.known())
        else {
            continue;
        };
        let real = config.real();
        let full = counted.len() as u64 >= *advertised;
        if full && *advertised < real && config.occupied() < capplan_model::slots::PLUGIN_SLOTS {
            nodes.push(one.node.to_string());
            label(&mut list, &one.node, real);
        }
    }
    if nodes.is_empty() {
        return Tried::Rejected("no worker is full by its label only".to_owned());
    }
    Tried::Works(Box::new(Plan {
        action: Action::RaiseVolumeLabel,
        target: Some(nodes.join(", ")),
        feasibility: Feasibility::Feasible,
        because: vec![format!("the scheduler takes {} for full, its VM has free slots", nodes.join(", "))],
        steps: list.done(),
        ..empty.clone()
    }))
}

/// Volumes are moved off the fullest workers.
pub(super) fn rebalance(scene: &Scene<'_>, board: &Board<'_>, standing: &Standing<'_>, empty: &Plan) -> Tried {
    let by_attachments = [Measure::VolumeAttachments, Measure::PlannedVolumes, Measure::AttachFailures];
    if !by_attachments.iter().any(|measure| standing.rule(*measure).is_some()) {
        return Tried::Rejected("where pods are does not change what they ask for in all".to_owned());
    }
    let Some(most) = scale_down::most_attached(scene) else {
        return Tried::Rejected("the policy has no rule about attachments".to_owned());
    };
    let mut trial = board.clone();
    let found = even::even_out(scene, &mut trial, most);
    if let Some(why) = unsafe_to_move(scene, &trial) {
        return Tried::Rejected(why);
    }
    let (landings, bound) = match found {
        Ok(found) => found,
        Err(why) => return Tried::Rejected(why),
    };
    if landings.is_empty() {
        return Tried::Rejected("no pod that may move has a volume on the fullest workers".to_owned());
    }
    let state = after::with_workers(scene, &trial.scheduler.cluster, &landings, &[]);
    if let Some((rule, why)) = standing.left(scene, state).first() {
        return Tried::Rejected(format!("with {} pods moved `{rule}` {why}", landings.len()));
    }
    if let Some((lost, why)) = scale_down::losses_not_survived(scene, &mut trial, &[]).first() {
        return Tried::Rejected(format!("with {} pods moved, {lost}: {why}", landings.len()));
    }
    let mut plan = Plan {
        action: Action::Rebalance,
        feasibility: Feasibility::Feasible,
        because: vec![format!("{} pods moved bring every worker to {most} volumes or fewer", landings.len())],
        optimality: Optimality::of(landings.len() as u64, bound, "fewest moves that take volumes off the fullest workers"),
        ..empty.clone()
    };
    scale_up::moves(scene, &trial, &landings, &mut plan);
    plan.target = Some(plan.order.iter().map(|one| one.node.to_string()).collect::<Vec<_>>().join(", "));
    let mut list = steps::Steps::default();
    steps::of_moves(&plan, &mut list);
    plan.steps = list.done();
    Tried::Works(Box::new(plan))
}

/// Requests are lowered to what is used.
pub(super) fn right_size(scene: &Scene<'_>, standing: &Standing<'_>, facts: &Facts<'_>, empty: &Plan) -> Tried {
    let Some(rule) = standing.rule(Measure::MemoryRequests) else {
        return Tried::Rejected("memory requests are not what is short".to_owned());
    };
    let Some(uses) = facts.uses.known() else { return Tried::Rejected("requests are unknown".to_owned()) };
    let share = memory_share(uses, rule.scope);
    let members: Vec<_> = uses.iter().filter(|one| one.is_in(rule.scope)).collect();
    let allocatable = members.iter().map(|one| one.node.allocatable.memory).sum::<Bytes>().0;
    let requested = members.iter().map(|one| one.requests.memory).sum::<Bytes>().0;
    let excess = requested.saturating_sub((rule.when.value * allocatable as f64) as u64);
    let metrics: BTreeMap<&NodeName, Bytes> =
        scene.ground.snapshot.kube.node_metrics.items().iter().map(|one| (&one.name, one.memory)).collect();
    let used: Option<Vec<u64>> = members.iter().map(|one| metrics.get(&one.node.name).map(|used| used.0)).collect();
    let Some(used) = used.map(total) else {
        return Tried::Rejected("what is really used is not known: no metrics were read".to_owned());
    };
    if used.saturating_add(excess) > requested {
        let percent = used as f64 / requested.max(1) as f64 * 100.0;
        return Tried::Rejected(format!("{percent:.0}% of what is requested is used: there is too little to give back"));
    }
    let mut workloads: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let pods = scene.ground.snapshot.kube.pods.items().iter().filter(|pod| !pod.is_terminal() && !pod.belongs_to_node());
    for pod in pods {
        let owner = pod.owner.as_ref().map_or(pod.name.as_str(), |owner| owner.name.as_str());
        let entry = workloads.entry(format!("{}/{owner}", pod.namespace)).or_default();
        *entry = (entry.0 + pod.requests.memory.0, entry.1 + 1);
    }
    let mut largest: Vec<(String, (u64, u64))> = workloads.into_iter().collect();
    largest.sort_by(|a, b| b.1.0.cmp(&a.1.0).then(a.0.cmp(&b.0)));
    let named: Vec<String> = largest
        .iter()
        .take(MOST_NAMED)
        .map(|(name, (memory, pods))| format!("{name} ({} in {pods} pods)", Bytes(*memory)))
        .collect();
    let mut list = steps::Steps::default();
    manual(
        &mut list,
        format!("lower memory requests by {} in all; the largest: {}", Bytes(excess), named.join(", ")),
        "kubectl top pods -A --sort-by=memory".to_owned(),
    );
    Tried::Works(Box::new(Plan {
        action: Action::RightSize,
        target: largest.first().map(|(name, _)| name.clone()),
        feasibility: Feasibility::Feasible,
        because: vec![format!(
            "{} are requested ({:.1}%), {} are used: {} less would clear the rule",
            Bytes(requested),
            share.requested().unwrap_or_default() * 100.0,
            Bytes(used),
            Bytes(excess)
        )],
        steps: list.done(),
        ..empty.clone()
    }))
}

/// Small claims that are no database move to another storage than the VMs' slots.
pub(super) fn move_claims(scene: &Scene<'_>, standing: &Standing<'_>, slots: &Reading<Vec<VolumeSlots>>, empty: &Plan) -> Tried {
    let Some(most) = scale_down::most_attached(scene).filter(|_| standing.rule(Measure::VolumeAttachments).is_some()) else {
        return Tried::Rejected("attachments are not what is short".to_owned());
    };
    let is_database = |pod: &Pod| {
        let names = std::iter::once(&pod.name).chain(&pod.images).map(|name| name.to_lowercase());
        names.into_iter().any(|name| DATABASES.iter().any(|word| name.contains(word)))
    };
    let mut list = steps::Steps::default();
    let mut moved = Vec::new();
    for one in slots.known().into_iter().flatten() {
        let attached = one.attached.known().map_or(0, Vec::len) as u64;
        let excess = usize::try_from(attached.saturating_sub(most)).unwrap_or(0);
        if excess == 0 {
            continue;
        }
        let here = scene
            .ground
            .snapshot
            .kube
            .pods
            .items()
            .iter()
            .filter(|pod| pod.node.as_ref() == Some(&one.node) && !pod.is_terminal());
        let mut small: Vec<(Bytes, String)> = here
            .filter(|pod| !is_database(pod))
            .flat_map(|pod| scene.inventory.volumes(pod).map(move |volume| (pod, volume)))
            .filter(|(_, volume)| volume.driver == scene.ground.policy.attacher && volume.capacity <= SMALL_CLAIM)
            .filter_map(|(_, volume)| Some((volume.capacity, volume.claim.as_ref()?.0.clone())))
            .collect();
        small.sort();
        small.dedup();
        if small.len() < excess {
            return Tried::Rejected(format!(
                "{} has {} small claims that are no database's, {excess} would have to go",
                one.node,
                small.len()
            ));
        }
        for (size, claim) in small.into_iter().take(excess) {
            manual(
                &mut list,
                format!(
                    "move claim {claim} ({size}) of {} to a storage without slots, after a look for an embedded database",
                    one.node
                ),
                format!("kubectl get pvc {claim}"),
            );
            moved.push(claim);
        }
    }
    if moved.is_empty() {
        return Tried::Rejected("no worker has more volumes than it may".to_owned());
    }
    Tried::Works(Box::new(Plan {
        action: Action::MoveClaims,
        target: Some(moved.join(", ")),
        feasibility: Feasibility::Feasible,
        because: vec![format!("{} small claims on another storage bring every worker to {most} volumes or fewer", moved.len())],
        steps: list.done(),
        ..empty.clone()
    }))
}

/// A guest that uses little of its memory gives some back, so that a worker fits.
pub(super) fn resize_guest(scene: &Scene<'_>, empty: &Plan) -> Tried {
    let snapshot = scene.ground.snapshot;
    let needed = scene.ground.policy.worker.memory + scene.ground.policy.worker.host_reserve;
    let masters = snapshot.kube.nodes.items().iter().filter(|node| node.labels.contains_key(CONTROL_PLANE_LABEL));
    let masters: BTreeSet<_> = masters.filter_map(|node| scene.ground.guest(&node.name)).map(|guest| guest.vmid).collect();
    let metrics: BTreeMap<&NodeName, Bytes> =
        snapshot.kube.node_metrics.items().iter().map(|one| (&one.name, one.memory)).collect();
    for node in snapshot.kube.nodes.items() {
        let Some(guest) = scene.ground.guest(&node.name).filter(|guest| masters.contains(&guest.vmid)) else { continue };
        // What runs inside; PVE's own figure for a guest counts what was ever touched.
        let Some(used) = metrics.get(&node.name).copied().or(guest.memory_used) else { continue };
        let smaller = Bytes((used.0 * 2).next_multiple_of(1 << 30)).max(Bytes(4 << 30));
        let freed = guest.memory().minus(smaller);
        let host = snapshot.hosts().find(|host| host.name == guest.host);
        let Some(available) = host.and_then(|host| host.memory.known()).map(|memory| memory.available()) else { continue };
        if (used.0 as f64) > guest.memory().0 as f64 * UNUSED || available + freed < needed {
            continue;
        }
        let mut list = steps::Steps::default();
        manual(
            &mut list,
            format!(
                "shrink VM {} ({}) from {} to {smaller}, in a quiet hour: it restarts",
                guest.vmid,
                guest.name,
                guest.memory()
            ),
            format!("qm set {} --memory {}", guest.vmid, smaller.0 >> 20),
        );
        manual(&mut list, "then plan again: a worker fits".to_owned(), "capplan plan scale-up".to_owned());
        return Tried::Works(Box::new(Plan {
            action: Action::ResizeGuest,
            target: Some(format!("{} ({})", guest.name, guest.vmid)),
            feasibility: Feasibility::Feasible,
            because: vec![format!(
                "{} uses {used} of its {}: {freed} more on {} make room for a worker of {}",
                guest.name,
                guest.memory(),
                guest.host,
                scene.ground.policy.worker.memory
            )],
            steps: list.done(),
            ..empty.clone()
        }));
    }
    Tried::Rejected("no control plane has so much memory unused that a worker would fit".to_owned())
}
