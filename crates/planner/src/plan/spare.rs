//! Workers that are off: which there are, and how one becomes a worker again.

use std::collections::BTreeSet;

use capplan_model::change::AddWorker;
use capplan_model::ids::NodeName;
use capplan_model::kube::Node;
use capplan_model::plan::{Action, Feasibility, GuestRef, Plan};
use capplan_model::pve::{Guest, GuestKind, Power, SPARE_TAG};
use capplan_model::volumes::Volumes;

use super::board::Board;
use super::scale_down::ha_forbids;
use super::scale_up::Wanted;
use super::spec::{self, gate};
use super::{PlanError, Scene, newcomer, steps};
use crate::simulate::{NewWorker, Refusal, join_workers};

/// Stopped VMs that were workers: named like one or tagged so, and no node.
pub(crate) fn spares<'s>(scene: &Scene<'s>) -> Vec<&'s Guest> {
    let nodes: Vec<&Node> = scene.ground.snapshot.workers().into_known().unwrap_or_default();
    let stem = |name: &str| name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    let stems: BTreeSet<String> = nodes.iter().map(|node| stem(node.name.as_str())).filter(|stem| !stem.is_empty()).collect();
    let is_spare = |guest: &&Guest| {
        guest.kind == GuestKind::Qemu
            && !guest.template
            && guest.power == Power::Stopped
            && (guest.tags.iter().any(|tag| tag == SPARE_TAG)
                || stem(&guest.name) != guest.name && stems.contains(&stem(&guest.name)))
            && nodes.iter().all(|node| node.name.as_str() != guest.name)
    };
    scene.ground.snapshot.guests().filter(is_spare).collect()
}

/// A spare as the worker that it would be, or why it cannot be one.
pub(crate) fn as_worker(scene: &Scene<'_>, board: &Board<'_>, spare: &Guest) -> Result<NewWorker, String> {
    let words = format!("{} ({})", spare.name, spare.vmid);
    // A volume that was left in it would be in two machines at once.
    let Some(config) = spare.config.known() else { return Err(format!("{words}: its configuration is not known")) };
    let volumes = Volumes::of(scene.ground.snapshot);
    if let Some((slot, disk)) = config.disks.iter().find(|(_, disk)| volumes.is_volume(disk)) {
        return Err(format!("{words} still has volume {} on {slot}: take it out first", disk.volume));
    }
    match ha_forbids(spare) {
        Ok(None) => {}
        Ok(Some(why)) | Err(why) => return Err(format!("{words}: {why}")),
    }
    let add = AddWorker {
        count: 1,
        memory: Some(spare.memory()),
        cores: (spare.cpus > 0).then_some(spare.cpus),
        host: Some(spare.host.clone()),
        like: spec::like(scene, &Wanted::default()),
        ..AddWorker::default()
    };
    let joined = join_workers(scene.ground, board.scheduler.cluster.clone(), board.plugs.clone(), &add);
    let worker = joined.map_err(|error| error.to_string())?.workers.into_iter().next();
    let worker = worker.ok_or_else(|| format!("{words} cannot join"))?;
    match &worker.refused {
        Some(Refusal::NoRoom(text) | Refusal::Unknown(text)) => Err(format!("{words}: {text}")),
        None => Ok(worker),
    }
}

/// The steps that make a worker of it again.
pub(crate) fn woken(scene: &Scene<'_>, spare: &Guest, worker: &NewWorker, plan: Plan) -> Plan {
    let worker = spec::of_spare(scene, spare, worker);
    let mut list = steps::Steps::default();
    newcomer::joins(scene, &worker, &GuestRef::of(spare), std::slice::from_ref(&worker.name), &mut list);
    let mut plan = Plan {
        action: Action::WakeSpare,
        target: Some(format!("{} ({})", spare.name, spare.vmid)),
        feasibility: Feasibility::Feasible,
        because: vec![format!("{} is there already: {} of memory and no disk to clone", spare.name, spare.memory())],
        steps: list.done(),
        workers: vec![worker],
        ..plan
    };
    newcomer::remarks(scene, &mut plan);
    plan
}

/// The spare of this name becomes a worker again, because it is asked for.
pub(crate) fn asked(scene: &Scene<'_>, board: &Board<'_>, name: &NodeName, mut plan: Plan) -> Result<Plan, PlanError> {
    let is_node = scene.ground.snapshot.kube.nodes.items().iter().any(|node| node.name == *name);
    let is_meant = |guest: &&Guest| {
        guest.name == name.as_str() && guest.kind == GuestKind::Qemu && !guest.template && guest.power == Power::Stopped
    };
    let mut found = scene.ground.snapshot.guests().filter(is_meant);
    let (Some(spare), None, false) = (found.next(), found.next(), is_node) else {
        let known = spares(scene).iter().map(|guest| guest.name.clone()).collect::<Vec<_>>().join(", ");
        let known = if known.is_empty() { "none".to_owned() } else { known };
        return Err(PlanError::NoSpare { name: name.to_string(), known });
    };
    match as_worker(scene, board, spare) {
        Ok(worker) => Ok(woken(scene, spare, &worker, plan)),
        Err(why) => {
            plan.feasibility = Feasibility::Blocked;
            plan.because.push(why.clone());
            plan.blockers.push(gate(why, name.as_str()));
            Ok(plan)
        }
    }
}
