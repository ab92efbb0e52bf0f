//! No plan, whatever happens between its steps, destroys, detaches or doubles a volume in use.
//!
//! Plans are made on random clusters and played on a world that somebody else changes at random between any two
//! steps. A step is played where `check` says that what it requires holds; then the world is asked whether that was
//! safe.

use capplan_model::history::History;
use capplan_model::ids::SnapshotId;
use capplan_model::ids::{NodeName, PvName};
use capplan_model::kube::VolumeAttachment;
use capplan_model::plan::{Condition, Feasibility, GuestRef, Plan, Step, StepAction};
use capplan_model::policy::Policy;
use capplan_model::pve::{Disk, Guest, OWN_TAG, Power};
use capplan_model::scenario::Scenario;
use capplan_model::{Reading, Snapshot};
use capplan_planner::plan::{Count, Limits, Observation, Removal, Request, plan};
use capplan_provision::check::{Against, Verdict, check};
use fastrand::Rng;

const CASES: u64 = 1500;

/// A cluster of some workers with volumes, ghosts and a spare, of which the snapshot is the truth.
fn cluster(rng: &mut Rng) -> Snapshot {
    let mut text = String::from(
        "format = \"capplan.scenario/1\"\ntitle = \"random\"\nnow = \"2026-03-02T06:00:00Z\"\n\
         [[hosts]]\nname = \"pve1\"\nmemory = \"512GiB\"\navailable = \"200GiB\"\ncpus = 64\n\
         [[guests]]\nvmid = 299\nname = \"w9\"\nhost = \"pve1\"\nmemory = \"16GiB\"\n\
         [[guests]]\nvmid = 9000\nname = \"template\"\nhost = \"pve1\"\nmemory = \"2GiB\"\ntemplate = true\n",
    );
    for number in 1..=rng.u32(3..=4) {
        text.push_str(&format!(
            "[[nodes]]\nname = \"w{number}\"\nvmid = {}\nhost = \"pve1\"\nmemory = \"16GiB\"\ncpus = 8\nghosts = {}\n\
             pods = [{{ name = \"data{number}\", count = {}, memory = \"256MiB\", stateful = true, volumes = 1 }}]\n",
            200 + number,
            rng.u32(0..=1),
            rng.u32(0..=2),
        ));
    }
    let mut snapshot = Scenario::parse(&text).expect("a valid scenario").snapshot();
    for guest in guests(&mut snapshot) {
        // A guest without a UUID is one that a plan has yet to make.
        if let Reading::Known(config) = &mut guest.config {
            config.uuid.get_or_insert_with(|| format!("uuid-{}", guest.vmid));
        }
        if rng.u8(..) < 230 {
            guest.tags = vec![OWN_TAG.to_owned()];
        }
    }
    snapshot
}

fn guests(snapshot: &mut Snapshot) -> impl Iterator<Item = &mut Guest> {
    let known =
        snapshot.pve.iter_mut().filter_map(|pve| if let Reading::Known(all) = &mut pve.guests { Some(all) } else { None });
    known.flatten()
}

fn attachments(snapshot: &mut Snapshot) -> &mut Vec<VolumeAttachment> {
    let Reading::Known(all) = &mut snapshot.kube.volume_attachments else { unreachable!("known") };
    all
}

/// Plugs a volume into a VM, as an attach does.
fn plug(world: &mut Snapshot, node: &str, volume: &PvName, slot: &str) {
    let driver = Policy::built_in().attacher;
    let Some(volid) = world.volumes_of(&driver).get(volume).cloned().flatten() else { return };
    if let Some(guest) = guests(world).find(|guest| guest.name == node)
        && let Reading::Known(config) = &mut guest.config
    {
        config.disks.insert(slot.to_owned(), Disk { volume: volid, ..Disk::default() });
    }
}

/// What somebody else does meanwhile.
fn meddle(world: &mut Snapshot, rng: &mut Rng) {
    let names: Vec<String> = guests(world).map(|guest| guest.name.clone()).collect();
    let name = names[rng.usize(..names.len())].clone();
    let volumes: Vec<PvName> = world.kube.persistent_volumes.items().iter().map(|volume| volume.name.clone()).collect();
    let volume = (!volumes.is_empty()).then(|| volumes[rng.usize(..volumes.len())].clone());
    let driver = Policy::built_in().attacher;
    match (rng.u8(0..12), volume) {
        // An attach under way, one that is done, one that Kubernetes knows of only.
        (0, Some(volume)) => plug(world, &name, &volume, &format!("scsi{}", rng.u8(1..=29))),
        (1, Some(volume)) => {
            plug(world, &name, &volume, &format!("scsi{}", rng.u8(1..=29)));
            attachments(world).push(VolumeAttachment {
                name: format!("m-{}", rng.u32(..)),
                attacher: driver,
                node: NodeName(name),
                volume: Some(volume),
                attached: true,
                ..VolumeAttachment::default()
            });
        }
        (2, _) => drop(attachments(world).pop()),
        (kind, _) => {
            let Some(guest) = guests(world).find(|guest| guest.name == name) else { return };
            let Reading::Known(config) = &mut guest.config else { return };
            match kind {
                3 => guest.name.push('x'),
                4 => config.uuid = Some(format!("other-{}", rng.u32(..))),
                5 => guest.tags.clear(),
                6 => {
                    drop(config.disks.insert("scsi7".into(), Disk { volume: "local-lvm:vm-1-disk-0".into(), ..Disk::default() }))
                }
                7 => drop(config.unused.insert("unused0".into(), "local-lvm:vm-9999-pvc-lost".into())),
                8 => guest.power = if guest.power == Power::Running { Power::Stopped } else { Power::Running },
                9 => drop(config.disks.remove("scsi1")),
                10 => guest.config = Reading::unknown("the host does not answer"),
                _ => guest.lock = Some("backup".into()),
            }
        }
    }
}

/// The truth about what a step is going to do.
fn assert_safe(world: &Snapshot, step: &Step, seed: u64) {
    let driver = Policy::built_in().attacher;
    let of = |meant: &GuestRef| {
        let found = world.guests().find(|guest| guest.host == meant.host && guest.vmid == meant.vmid);
        found.unwrap_or_else(|| unreachable!("seed {seed}: {step:?} on a guest that is not there"))
    };
    let is_meant = |guest: &Guest, meant: &GuestRef| {
        let config = guest.config.known().expect("read");
        assert!(guest.name == meant.name && (meant.uuid.is_none() || config.uuid == meant.uuid), "seed {seed}: {step:?}");
    };
    let empty = |guest: &Guest| {
        let config = guest.config.known().expect("read");
        assert!(!config.disks.values().any(Disk::is_csi), "seed {seed}: {step:?} with {:?}", config.disks);
    };
    let unattached = |node: &str| {
        let one = world.kube.volume_attachments.items().iter().find(|one| one.node.as_str() == node);
        assert!(one.is_none(), "seed {seed}: {step:?} with {one:?}");
    };
    match &step.change {
        StepAction::DestroyGuest { guest: meant } => {
            let guest = of(meant);
            is_meant(guest, meant);
            empty(guest);
            let config = guest.config.known().expect("read");
            let own = |volume: &String| volume.contains(&format!("vm-{}-", meant.vmid));
            assert!(config.disks.values().all(|disk| disk.cdrom || own(&disk.volume)), "seed {seed}: {config:?}");
            assert!(config.unused.values().all(own), "seed {seed}: {config:?}");
            assert!(guest.power == Power::Stopped && guest.tags.iter().any(|tag| tag == OWN_TAG), "seed {seed}: {guest:?}");
        }
        StepAction::ShutDownGuest { guest: meant } | StepAction::BootWorker { guest: meant, .. } => {
            let guest = of(meant);
            is_meant(guest, meant);
            empty(guest);
            unattached(&meant.name);
        }
        StepAction::DeleteNode { node, .. } => unattached(node.as_str()),
        StepAction::UnplugGhost { guest: meant, slot, volume } => {
            let guest = of(meant);
            is_meant(guest, meant);
            assert_eq!(guest.config.known().and_then(|config| config.disks.get(slot)).map(|disk| &disk.volume), Some(volume));
            let ours = world.volumes_of(&driver);
            let volid = |one: &VolumeAttachment| one.volume.as_ref().and_then(|name| ours.get(name)).cloned().flatten();
            let held = world.kube.volume_attachments.items().iter().find(|one| volid(one).as_ref() == Some(volume));
            assert!(held.is_none(), "seed {seed}: {step:?} with {held:?}");
        }
        StepAction::SetGuest { guest: meant, .. }
        | StepAction::KeepGuestOff { guest: meant }
        | StepAction::DisarmGuest { guest: meant, .. } => {
            is_meant(of(meant), meant);
        }
        StepAction::Cordon { .. }
        | StepAction::Uncordon { .. }
        | StepAction::Evict { .. }
        | StepAction::CloneGuest { .. }
        | StepAction::GrowDisk { .. }
        | StepAction::StartWithHost { .. }
        | StepAction::Register { .. }
        | StepAction::DropSeed { .. }
        | StepAction::Probe { .. }
        | StepAction::Label { .. }
        | StepAction::Wait
        | StepAction::Manual { .. } => {}
    }
}

/// What a step does to the world, and what follows of itself.
fn act(world: &mut Snapshot, step: &Step) {
    let guest = |world: &mut Snapshot, meant: &GuestRef, change: &dyn Fn(&mut Guest)| {
        guests(world).filter(|guest| guest.host == meant.host && guest.vmid == meant.vmid).for_each(change);
    };
    let nodes = |world: &mut Snapshot, change: &mut dyn FnMut(&mut Vec<capplan_model::kube::Node>)| {
        if let Reading::Known(nodes) = &mut world.kube.nodes {
            change(nodes);
        }
    };
    match &step.change {
        StepAction::Cordon { node } => {
            nodes(world, &mut |all| all.iter_mut().filter(|one| one.name == *node).for_each(|one| one.unschedulable = true))
        }
        StepAction::DeleteNode { node, .. } => nodes(world, &mut |all| all.retain(|one| one.name != *node)),
        StepAction::Evict { pod, node, .. } => {
            // Its volumes are detached with it.
            let mine: Vec<PvName> =
                attachments(world).iter().filter(|one| one.node == *node).filter_map(|one| one.volume.clone()).collect();
            if let Reading::Known(pods) = &mut world.kube.pods {
                pods.retain(|one| one.object_name().0 != *pod);
            }
            let left = world.kube.pods.items().iter().any(|one| one.node.as_ref() == Some(node) && !one.belongs_to_node());
            if !left {
                let driver = Policy::built_in().attacher;
                let volids: Vec<String> =
                    mine.iter().filter_map(|name| world.volumes_of(&driver).get(name).cloned().flatten()).collect();
                attachments(world).retain(|one| one.node != *node);
                for guest in guests(world).filter(|guest| guest.name == node.as_str()) {
                    if let Reading::Known(config) = &mut guest.config {
                        config.disks.retain(|_, disk| !volids.contains(&disk.volume));
                    }
                }
            }
        }
        StepAction::KeepGuestOff { guest: meant } => guest(world, meant, &|one| {
            if let Reading::Known(config) = &mut one.config {
                config.on_boot = false;
            }
        }),
        StepAction::ShutDownGuest { guest: meant } => guest(world, meant, &|one| one.power = Power::Stopped),
        StepAction::BootWorker { guest: meant, .. } => guest(world, meant, &|one| one.power = Power::Running),
        StepAction::UnplugGhost { guest: meant, slot, .. } => guest(world, meant, &|one| {
            if let Reading::Known(config) = &mut one.config {
                config.disks.remove(slot);
            }
        }),
        StepAction::SetGuest { .. }
        | StepAction::DestroyGuest { .. }
        | StepAction::DisarmGuest { .. }
        | StepAction::Uncordon { .. }
        | StepAction::CloneGuest { .. }
        | StepAction::GrowDisk { .. }
        | StepAction::StartWithHost { .. }
        | StepAction::Register { .. }
        | StepAction::DropSeed { .. }
        | StepAction::Probe { .. }
        | StepAction::Label { .. }
        | StepAction::Wait
        | StepAction::Manual { .. } => {}
    }
}

/// Whether everything that a step requires holds. What a clone would have to be first is left out: nobody makes it here.
fn allowed(world: &Snapshot, plan: &Plan, step: &Step) -> bool {
    let driver = Policy::built_in().attacher;
    let against = Against { plan, driver: &driver, ready_before: Some(0), evicted: None };
    let tried = |one: &&Condition| !matches!(one, Condition::GuestSet { .. } | Condition::OthersHealthy { .. });
    step.requires.iter().filter(tried).all(|one| check(one, world, against) == Verdict::Holds)
}

#[test]
fn no_interleaving_destroys_detaches_or_doubles_a_volume_in_use() {
    let mut policy = Policy::built_in();
    policy.plan.no_growth_confirmed = true;
    let (mut played, mut kinds) = (0, std::collections::BTreeMap::<String, u32>::new());
    for seed in 0..CASES {
        let mut rng = Rng::with_seed(seed);
        let mut world = cluster(&mut rng);
        let removal = Removal { count: Count::Exactly(1), node: None, anyway: Some("test".into()), destroy: rng.bool() };
        let request = match rng.u8(0..4) {
            0 => Request::Wake("w9".into()),
            1 => Request::Next,
            _ => Request::ScaleDown(removal),
        };
        let history = History::default();
        let seen = Observation { snapshot: &world, history: &history, policy: &policy, claims: &[] };
        let limits = Limits { seconds: 0.0, seed };
        let Ok(made) = plan(&seen, SnapshotId::default(), &request, limits) else { continue };
        if made.feasibility != Feasibility::Feasible {
            continue;
        }
        // Somebody meddles often, rarely, or never: then the whole plan is played.
        let often = [0, 20, 90][rng.usize(0..3)];
        for step in &made.steps {
            while rng.u8(..) < often {
                meddle(&mut world, &mut rng);
            }
            if !allowed(&world, &made, step) {
                // A wait does nothing; anything else stops here.
                if matches!(step.change, StepAction::Wait) { continue } else { break }
            }
            assert_safe(&world, step, seed);
            act(&mut world, step);
            let kind = format!("{:?}", step.change);
            *kinds.entry(kind.split([' ', '{']).next().unwrap_or_default().to_owned()).or_default() += 1;
            played += 1;
        }
    }
    println!("{played} steps: {kinds:?}");
    for kind in ["DestroyGuest", "ShutDownGuest", "BootWorker", "DeleteNode", "UnplugGhost"] {
        assert!(kinds.get(kind).is_some_and(|count| *count >= 20), "{kind} was hardly tried: {kinds:?}");
    }
}
