//! Steps that make a worker: a clone of the template becomes what the plan says, joins, and proves that it works.

use capplan_model::change::AddWorker;
use capplan_model::ids::NodeName;
use capplan_model::kube::{MAX_VOLUMES_LABEL, StorageClass};
use capplan_model::plan::{Condition, GuestRef, Plan, StepAction, WorkerSpec};
use capplan_model::policy::Seed;
use capplan_model::pve::GuestConfig;

use super::Scene;
use super::board::Board;
use super::steps::{AT_ONCE, Steps};
use crate::simulate::{NewWorker, join_workers};

/// Seconds for a clone in full: 100 GiB at the 30 MB/s that a busy disk leaves.
const CLONE: u64 = 3600;
/// Seconds for a change of a stopped VM, and for its start.
const CHANGE: u64 = 120;
/// Seconds until its storage plugin is registered and its DaemonSets are ready.
///
/// # Source
/// Runbook: about two minutes; five are the usual deadline.
const SETTLE: u64 = 300;

/// Clones a template and makes a worker of it.
pub(crate) fn cloned(scene: &Scene<'_>, spec: &WorkerSpec, all: &[NodeName], steps: &mut Steps) {
    let template = spec.template.and_then(|vmid| {
        scene.ground.snapshot.guests().find(|guest| guest.template && guest.vmid == vmid && guest.host == spec.host)
    });
    let Some(template) = template else { return };
    let guest = GuestRef { host: spec.host.clone(), vmid: spec.vmid, name: spec.name.to_string(), uuid: None };
    let worker = spec.name.clone();
    let source = GuestRef::of(template);
    let is = Condition::GuestIs { guest: guest.clone() };
    steps.add(
        StepAction::CloneGuest { template: source.clone(), worker: worker.clone() },
        vec![
            Condition::OthersHealthy { except: all.to_vec() },
            room(scene, spec),
            Condition::Unused { host: spec.host.clone(), vmid: spec.vmid, address: spec.address.clone() },
            Condition::NodeGone { node: worker.clone() },
            Condition::GuestIs { guest: source },
        ],
        vec![is.clone()],
        CLONE,
    );
    let has = template.config.known();
    if let Some((slot, size)) = has.and_then(GuestConfig::system_disk).and_then(|(slot, disk)| {
        let wanted = spec.disk.filter(|wanted| disk.size.is_none_or(|size| size < *wanted))?;
        Some((slot.to_owned(), wanted))
    }) {
        steps.add(
            StepAction::GrowDisk { guest: guest.clone(), slot: slot.clone(), size },
            vec![is, Condition::GuestStopped { guest: guest.clone() }],
            vec![Condition::DiskSize { guest: guest.clone(), slot, size }],
            CHANGE,
        );
    }
    joins(scene, spec, &guest, all, steps);
}

/// Makes a worker of a VM that is off: sets it, starts it with what it needs to join, and has it prove itself.
pub(crate) fn joins(scene: &Scene<'_>, spec: &WorkerSpec, guest: &GuestRef, all: &[NodeName], steps: &mut Steps) {
    let worker = spec.name.clone();
    let (guest, node) = (guest.clone(), worker.clone());
    let is = Condition::GuestIs { guest: guest.clone() };
    let off = Condition::GuestStopped { guest: guest.clone() };
    let set = Condition::GuestSet { guest: guest.clone(), worker: worker.clone() };
    steps.add(
        StepAction::SetGuest { guest: guest.clone(), worker: worker.clone() },
        vec![is.clone(), off.clone(), Condition::NodeGone { node: node.clone() }],
        vec![set.clone()],
        CHANGE,
    );
    steps.add(
        StepAction::BootWorker { guest: guest.clone(), worker: worker.clone() },
        vec![
            is.clone(),
            off,
            set,
            Condition::NodeGone { node: node.clone() },
            Condition::OthersHealthy { except: all.to_vec() },
            room(scene, spec),
            // A volume that was left in it would be in two machines at once.
            Condition::VolumesGone { node: node.clone(), guest: Some(guest.clone()) },
            Condition::HaUnmanaged { guest: guest.clone() },
        ],
        vec![Condition::GuestRunning { guest: guest.clone() }],
        CHANGE,
    );
    steps.add(
        StepAction::Wait,
        Vec::new(),
        vec![Condition::Joined { guest: guest.clone(), worker: worker.clone() }],
        u64::from(spec.join.deadline_minutes) * 60,
    );
    if spec.join.seed == Seed::Iso {
        steps.add(
            StepAction::DropSeed { guest: guest.clone(), worker: worker.clone() },
            vec![is],
            vec![Condition::SeedGone { guest: guest.clone(), worker: worker.clone() }],
            CHANGE,
        );
    }
    steps.add(
        StepAction::StartWithHost { guest: guest.clone() },
        vec![Condition::Joined { guest: guest.clone(), worker: worker.clone() }],
        vec![Condition::GuestStartsWithHost { guest: guest.clone() }],
        AT_ONCE,
    );
    if !spec.labels.is_empty() {
        steps.add(
            StepAction::Label { node: node.clone(), labels: spec.labels.clone() },
            Vec::new(),
            vec![Condition::Labelled { node: node.clone(), labels: spec.labels.clone() }],
            AT_ONCE,
        );
    }
    let slots = spec.labels.get(MAX_VOLUMES_LABEL).and_then(|text| text.parse().ok());
    steps.add(
        StepAction::Register { node: node.clone(), slots },
        Vec::new(),
        vec![Condition::WorkerReady { node: node.clone(), slots }],
        SETTLE,
    );
    let mut works = vec![Condition::DaemonsReady { node: node.clone(), owners: spec.daemons.clone() }];
    if scene.ground.snapshot.kube.node_metrics.items().iter().any(|one| one.name == spec.like) {
        works.push(Condition::Measured { node: node.clone() });
    }
    steps.add(StepAction::Wait, Vec::new(), works, SETTLE);
    if let Some(class) = probe_class(scene, spec) {
        steps.add(
            StepAction::Probe { guest, worker, class },
            vec![Condition::NodeReady { node: node.clone() }, Condition::Schedulable { node }],
            Vec::new(),
            SETTLE,
        );
    }
}

/// Lets a worker of a plan join on a board; `None` if it cannot.
pub(crate) fn enter(scene: &Scene<'_>, board: &mut Board<'_>, spec: &WorkerSpec) -> Option<NewWorker> {
    let add = AddWorker {
        count: 1,
        memory: Some(spec.memory),
        cores: Some(spec.cores),
        like: Some(spec.like.clone()),
        host: Some(spec.host.clone()),
        labels: spec.labels.clone(),
    };
    let joined = join_workers(scene.ground, board.scheduler.cluster.clone(), board.plugs.clone(), &add).ok()?;
    let worker = joined.workers.into_iter().next()?.named(&spec.name, spec.vmid);
    worker.enter(&mut board.scheduler.cluster);
    board.plugs.add_node(&worker.node.name, &worker.guest.config, worker.advertised());
    Some(worker)
}

fn room(scene: &Scene<'_>, spec: &WorkerSpec) -> Condition {
    let available = spec.memory + scene.ground.policy.worker.host_reserve;
    Condition::HostMemory { host: spec.host.clone(), available }
}

/// The StorageClass that a new worker is tried with: the policy's, or the one that most volumes of the plugin have.
fn probe_class(scene: &Scene<'_>, spec: &WorkerSpec) -> Option<String> {
    let probe = spec.join.probe.enabled.then_some(&spec.join.probe)?;
    if let Some(class) = &probe.class {
        return Some(class.clone());
    }
    let kube = &scene.ground.snapshot.kube;
    // One that retains would leave a volume behind with each worker.
    let is_fit = |class: &&StorageClass| class.provisioner == scene.ground.policy.attacher && class.reclaim_policy == "Delete";
    let classes = kube.storage_classes.items().iter().filter(is_fit);
    let count = |name: &str| kube.persistent_volumes.items().iter().filter(|volume| volume.storage_class == name).count();
    classes.map(|class| &class.name).max_by_key(|name| (count(name), std::cmp::Reverse(*name))).cloned()
}

/// What a plan that adds workers leaves to say.
pub(crate) fn remarks(scene: &Scene<'_>, plan: &mut Plan) {
    for spec in plan.workers.iter().filter(|spec| spec.template.is_some() && spec.pool.is_none()) {
        let mut all = scene.ground.snapshot.pve.iter();
        let pve = all.find(|pve| pve.hosts.items().iter().any(|host| host.name == spec.host));
        if let Some(why) = pve.and_then(|pve| pve.pools_shown.why()) {
            plan.warnings.push(format!("whether {} is in a pool is not known, the new worker joins none: {why}", spec.like));
        }
    }
    if plan.workers.iter().any(|spec| !spec.join.distribution.has_tokens()) {
        plan.warnings.push("the credential that it joins with is one that you give: CAPPLAN_JOIN_CREDENTIAL".to_owned());
    }
    let probed = plan.steps.iter().any(|step| matches!(step.change, StepAction::Probe { .. }));
    if !probed && !plan.steps.is_empty() {
        plan.warnings.push("no pod with a volume is tried on it: that volumes can be attached there is not proven".to_owned());
    }
}
