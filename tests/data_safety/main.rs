//! No plan, whatever happens between its steps, destroys, detaches or doubles a volume in use.
//!
//! Plans are made on random clusters and played on a world that somebody else changes at random between any two
//! steps. The world has a model of its own and shares no code with what is tested: it is read anew before each step,
//! as the answers of the two APIs. A step is played where `check` says that what it requires holds; then the world is
//! asked whether that was safe.

mod world;

use std::collections::BTreeMap;
use std::path::Path;

use capplan_model::Snapshot;
use capplan_model::history::History;
use capplan_model::ids::SnapshotId;
use capplan_model::plan::{Condition, Feasibility, GuestRef, Plan, Step, StepAction};
use capplan_model::policy::Policy;
use capplan_planner::decide::decide;
use capplan_planner::plan::{Count, Limits, Observation, Removal, Request, plan};
use capplan_provision::check::{Against, Verdict, check};
use capplan_provision::observe::from_lists;
use fastrand::Rng;
use jiff::Timestamp;
use world::{DRIVER, TAG, Vm, World, owner};

/// Cases that are played; all of them with `CAPPLAN_MATRIX=full`.
const CASES: (u64, u64) = (800, 20_000);

fn read(world: &World, folder: &Path) -> Snapshot {
    world.save(folder);
    from_lists(folder, "2026-11-30T09:00:00Z".parse::<Timestamp>().expect("an instant"))
}

/// The truth about what a step is going to do.
fn assert_safe(world: &World, step: &Step, seed: u64) {
    let of = |meant: &GuestRef| {
        let found = world.vms.iter().find(|vm| vm.id == meant.vmid.0);
        let vm = found.unwrap_or_else(|| unreachable!("seed {seed}: {step:?} on a guest that is not there"));
        assert!(vm.name == meant.name && Some(&vm.uuid) == meant.uuid.as_ref(), "seed {seed}: {step:?} on {vm:?}");
        vm
    };
    // Nothing that is a volume of somebody's is plugged in.
    let empty = |vm: &Vm| {
        let slots = vm.slots.iter().filter(|(slot, _)| slot.starts_with("scsi"));
        let held = slots.into_iter().find(|(_, disk)| world.volumes.iter().any(|volume| volume.disk == **disk));
        assert!(held.is_none(), "seed {seed}: {step:?} with {held:?}");
    };
    let unattached = |node: &str| {
        let one = world.attachments.iter().find(|one| one.node == node);
        assert!(one.is_none(), "seed {seed}: {step:?} with {one:?}");
    };
    match &step.change {
        StepAction::DestroyGuest { guest, snapshots } => {
            let vm = of(guest);
            empty(vm);
            assert!(!vm.running && !vm.template && vm.lock.is_none(), "seed {seed}: {vm:?}");
            assert!(vm.tags == TAG && !vm.protected && !vm.managed && !vm.replicated, "seed {seed}: {vm:?}");
            assert!(vm.snapshots.keys().all(|name| snapshots.contains(name)), "seed {seed}: {vm:?} with {snapshots:?}");
            for disk in vm.own() {
                let used = world.used_by(&disk, vm.id);
                assert!(used.is_none(), "seed {seed}: {disk} of {vm:?} is used by {used:?}");
            }
        }
        StepAction::ShutDownGuest { guest } | StepAction::BootWorker { guest, .. } => {
            let vm = of(guest);
            empty(vm);
            unattached(&vm.name);
            assert!(!vm.managed, "seed {seed}: {vm:?}");
        }
        StepAction::DeleteNode { node, .. } => {
            unattached(node.as_str());
            assert!(world.pods.iter().all(|pod| pod.node != node.as_str()), "seed {seed}: {step:?}");
        }
        StepAction::UnplugGhost { guest, slot, volume } => {
            let vm = of(guest);
            assert_eq!(vm.slots.get(slot), Some(volume), "seed {seed}");
            let mine = |name: &str| world.volumes.iter().any(|one| one.name == name && one.disk == *volume);
            let held = world.attachments.iter().find(|one| mine(&one.volume));
            assert!(held.is_none(), "seed {seed}: {step:?} with {held:?}");
            let claims: Vec<&str> =
                world.volumes.iter().filter(|one| one.disk == *volume).map(|one| one.claim.as_str()).collect();
            let pod = world.pods.iter().find(|pod| pod.claims.iter().any(|claim| claims.contains(&claim.as_str())));
            assert!(pod.is_none(), "seed {seed}: {step:?} with {pod:?}");
        }
        StepAction::SetGuest { guest, .. } | StepAction::KeepGuestOff { guest } | StepAction::DisarmGuest { guest, .. } => {
            of(guest);
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
fn act(world: &mut World, step: &Step) {
    match &step.change {
        StepAction::Cordon { node } => {
            world.nodes.iter_mut().filter(|one| one.name == node.as_str()).for_each(|one| one.cordoned = true);
        }
        StepAction::DeleteNode { node, .. } => world.nodes.retain(|one| one.name != node.as_str()),
        StepAction::Evict { pod, node, .. } => {
            let name = pod.rsplit('/').next().unwrap_or_default();
            let Some(place) = world.pods.iter().position(|one| one.name == name) else { return };
            // Its successor runs elsewhere, and its volumes are detached with it.
            let gone = world.pods.remove(place);
            let mine = world.volumes.iter().filter(|volume| gone.claims.contains(&volume.claim));
            let disks: Vec<(String, String)> = mine.map(|volume| (volume.name.clone(), volume.disk.clone())).collect();
            for (volume, disk) in disks {
                world.attachments.retain(|one| one.node != node.as_str() || one.volume != volume);
                for vm in world.vms.iter_mut().filter(|vm| vm.name == node.as_str()) {
                    let slot = vm.slots.iter().find(|(slot, held)| slot.starts_with("scsi") && **held == disk);
                    if let Some(slot) = slot.map(|(slot, _)| slot.clone()) {
                        vm.take_out(&slot);
                    }
                }
            }
        }
        StepAction::KeepGuestOff { guest } => world.vm(guest.vmid.0).on_boot = false,
        StepAction::ShutDownGuest { guest } => world.vm(guest.vmid.0).running = false,
        StepAction::BootWorker { guest, .. } => world.vm(guest.vmid.0).running = true,
        StepAction::UnplugGhost { guest, slot, .. } => world.vm(guest.vmid.0).take_out(slot),
        StepAction::DestroyGuest { guest, .. } => {
            let own = world.vm(guest.vmid.0).own();
            world.vms.retain(|vm| vm.id != guest.vmid.0);
            world.disks.retain(|disk| !own.contains(disk));
            assert!(own.iter().all(|disk| owner(disk) == Some(guest.vmid.0)));
        }
        StepAction::SetGuest { .. }
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
fn allowed(seen: &Snapshot, plan: &Plan, step: &Step, driver: &str) -> bool {
    let against = Against { plan, driver, ready_before: Some(0), evicted: None };
    let tried = |one: &&Condition| !matches!(one, Condition::GuestSet { .. } | Condition::OthersHealthy { .. });
    step.requires.iter().filter(tried).all(|one| check(one, seen, against) == Verdict::Holds)
}

/// What is asked for: most often a removal, with every choice that it has. `None` is the next step.
fn request(rng: &mut Rng) -> Option<Request> {
    let (destroy, with_snapshots) = (rng.u8(..) < 180, rng.bool());
    match rng.u8(0..5) {
        0 => Some(Request::Wake("w9".into())),
        1 => None,
        _ => Some(Request::ScaleDown(Removal {
            count: Count::Exactly(1),
            node: None,
            anyway: Some("test".into()),
            destroy,
            with_snapshots,
        })),
    }
}

#[test]
fn no_interleaving_destroys_detaches_or_doubles_a_volume_in_use() {
    // Hundreds of thousands of small files: in memory where the system has a place for that.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.expect("a temporary folder");
    let folder = folder.path().join("world");
    let cases = if std::env::var("CAPPLAN_MATRIX").as_deref() == Ok("full") { CASES.1 } else { CASES.0 };
    let (mut played, mut refused, mut kinds) = (0, 0, BTreeMap::<String, u32>::new());
    for seed in 0..cases {
        let mut rng = Rng::with_seed(seed);
        let mut policy = Policy::built_in();
        policy.plan.no_growth_confirmed = true;
        // A setting that is wrong must do no harm either.
        if seed % 16 == 15 {
            policy.attacher = "csi.proxmox.sinextra.de".into();
        }
        let mut world = World::random(&mut rng);
        if rng.u8(0..4) == 0 {
            world.meddle(&mut rng);
        }
        let history = History::default();
        let before = read(&world, &folder);
        let seen = Observation { snapshot: &before, history: &history, policy: &policy, claims: &[] };
        let limits = Limits { seconds: 0.0, seed };
        let made = match request(&mut rng) {
            None => decide(&seen, SnapshotId::default(), limits),
            Some(request) => plan(&seen, SnapshotId::default(), &request, limits),
        };
        let Ok(made) = made else { continue };
        if made.feasibility != Feasibility::Feasible {
            continue;
        }
        // Somebody meddles often, rarely, or never: then the whole plan is played.
        let often = [0, 10, 50][rng.usize(0..3)];
        for step in &made.steps {
            while rng.u8(..) < often {
                world.meddle(&mut rng);
            }
            if !allowed(&read(&world, &folder), &made, step, &policy.attacher) {
                // A wait does nothing; anything else stops here.
                if matches!(step.change, StepAction::Wait) {
                    continue;
                }
                refused += 1;
                break;
            }
            assert_safe(&world, step, seed);
            let harm = world.harm();
            act(&mut world, step);
            // What somebody else broke before is not ours.
            assert!(harm.is_some() || world.harm().is_none(), "seed {seed}: {step:?}: {:?}", world.harm());
            let kind = format!("{:?}", step.change);
            *kinds.entry(kind.split([' ', '{']).next().unwrap_or_default().to_owned()).or_default() += 1;
            played += 1;
        }
    }
    println!("{played} steps, {refused} refused: {kinds:?}, attacher {DRIVER}");
    for kind in ["DestroyGuest", "ShutDownGuest", "BootWorker", "DeleteNode", "UnplugGhost"] {
        assert!(kinds.get(kind).is_some_and(|count| *count >= 20), "{kind} was hardly tried: {kinds:?}");
    }
}
