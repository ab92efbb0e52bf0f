//! Reclaim: ghosts, phantom slots and forgotten disks give back what they hold.

use std::collections::BTreeSet;

use capplan_model::Reading;
use capplan_model::kube::{PersistentVolume, Phase};
use capplan_model::plan::{Action, Condition, Feasibility, GuestRef, Plan, StepAction};
use capplan_model::slots::VolumeSlots;
use capplan_model::volumes::{Use, Volumes};

use super::{Applies, Choice};
use crate::decide::{Case, Tried};
use crate::plan::Scene;
use crate::plan::spare::spares;
use crate::plan::steps::Steps;

pub(super) const OPTION: Choice = Choice { action: Action::Reclaim, applies: Applies::Always, moves_disks: false, attempt };

/// For the case that no other option is left.
pub(super) const ANYWAY: Choice = Choice { applies: Applies::Due, attempt: attempt_anyway, ..OPTION };

/// Where slots are lost, and how many: `(nodes, why)`.
pub(in crate::decide) fn lost_slots(slots: &Reading<Vec<VolumeSlots>>) -> Option<(String, String)> {
    let slots = slots.known()?;
    let ghosts = |one: &VolumeSlots| one.ghosts.known().map_or(0, |ghosts| ghosts.len() as u64);
    let lost: Vec<(&VolumeSlots, u64, u64)> = slots
        .iter()
        .map(|one| (one, ghosts(one), one.phantom().unwrap_or_default()))
        .filter(|(_, ghosts, phantom)| ghosts + phantom > 0)
        .collect();
    if lost.is_empty() {
        return None;
    }
    let target: Vec<String> = lost.iter().map(|(one, ..)| one.node.to_string()).collect();
    let text: Vec<String> = lost
        .iter()
        .map(|(one, ghosts, phantom)| match (ghosts, phantom) {
            (ghosts, 0) => format!("{ghosts} ghost{} on {}", if *ghosts == 1 { "" } else { "s" }, one.node),
            (0, phantom) => format!("{phantom} phantom slot{} on {}", if *phantom == 1 { "" } else { "s" }, one.node),
            (ghosts, phantom) => format!("{ghosts} ghosts and {phantom} phantom slots on {}", one.node),
        })
        .collect();
    Some((target.join(", "), format!("slots are lost: {}", text.join(", "))))
}

/// Reclaims if that clears every rule that is met, or if no rule is met and slots are lost.
fn attempt(case: &Case<'_, '_>) -> Tried {
    let Some((target, why)) = lost_slots(case.facts.slots) else {
        return if case.is_due() { Tried::No("no slot is lost to ghosts or phantoms".to_owned()) } else { Tried::NotApplicable };
    };
    if !case.is_due() {
        return Tried::Works(Box::new(plan(case, target, vec![why, "no rule for another worker holds".to_owned()])));
    }
    match case.standing.left(case.scene, without_ghosts(case)).first() {
        None => {
            let because = vec![why, "cleaning up alone clears every rule".to_owned()];
            Tried::Works(Box::new(plan(case, target, because)))
        }
        Some((rule, still)) => Tried::No(format!("{why}; worth doing, but `{rule}` {still}")),
    }
}

/// Reclaims although rules are still met afterwards.
fn attempt_anyway(case: &Case<'_, '_>) -> Tried {
    match lost_slots(case.facts.slots) {
        Some((target, why)) => {
            let because = vec![case.none_clears(), why];
            Tried::Works(Box::new(plan(case, target, because)))
        }
        None => Tried::NotApplicable,
    }
}

fn plan(case: &Case<'_, '_>, target: String, because: Vec<String>) -> Plan {
    let steps = steps(case.scene, case.facts.slots).done();
    Plan { action: OPTION.action, target: Some(target), feasibility: Feasibility::Feasible, because, steps, ..case.empty.clone() }
}

/// The cluster without its ghosts.
fn without_ghosts(case: &Case<'_, '_>) -> capplan_model::Snapshot {
    let mut state = case.scene.ground.snapshot.clone();
    for pve in &mut state.pve {
        let Reading::Known(guests) = &mut pve.guests else { continue };
        for guest in guests {
            let ghosts = case.facts.slots.known().into_iter().flatten().filter(|one| one.vmid.known() == Some(&guest.vmid));
            let ghosts: BTreeSet<String> =
                ghosts.flat_map(|one| one.ghosts.known().into_iter().flatten()).map(|(_, volume)| volume.clone()).collect();
            if let Reading::Known(config) = &mut guest.config {
                config.disks.retain(|_, disk| !ghosts.contains(&disk.volume));
            }
        }
    }
    state
}

/// Steps that give lost slots and forgotten disks back.
fn steps(scene: &Scene<'_>, slots: &Reading<Vec<VolumeSlots>>) -> Steps {
    let mut list = Steps::default();
    let volumes = Volumes::of(scene.ground.snapshot);
    for one in slots.known().into_iter().flatten() {
        let Some(guest) = scene.ground.guest(&one.node).map(GuestRef::of) else { continue };
        for (slot, volume) in one.ghosts.known().into_iter().flatten() {
            let (slot, volume) = (format!("scsi{slot}"), volume.clone());
            if let Use::Elsewhere(by) = volumes.use_of(&one.node, &volume) {
                let what = format!("find out whether {guest} writes to {volume} on {slot}, and detach it there: {by}");
                list.add_manual(what, format!("qm set {} --delete {slot}", guest.vmid));
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
            list.add_volume_label(&one.node, real);
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
            list.add_manual(
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
        list.add_manual(
            format!("look at {} Released volumes: their disks still fill the pool", released.len()),
            format!("kubectl get pv {}", names.join(" ")),
        );
    }
    let failed = snapshot.kube.pods.items().iter().filter(|pod| pod.phase == Phase::Failed && pod.owner.is_some());
    let failed: Vec<String> = failed.map(|pod| pod.object_name().0).collect();
    if !failed.is_empty() {
        list.add_manual(
            format!("delete {} failed pods that are kept as records", failed.len()),
            "kubectl get pods -A --field-selector status.phase=Failed".to_owned(),
        );
    }
    list
}
