//! Findings about volumes and their slots.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::slots::{PLUGIN_SLOTS, VolumeSlots};
use capplan_model::units::{Bytes, total};
use capplan_model::volumes::Volumes;
use jiff::SignedDuration;

use super::{Finding, Severity, count, some};
use crate::rules::{Facts, NO_FREE_SLOT};

/// Longest that a detach takes when nothing is wrong: the force-detach timeout.
///
/// # Source
/// `maxWaitForUnmountDuration`, kube-controller-manager's attach-detach controller: 6 minutes.
const DETACH_MINUTES: i64 = 6;

/// Days that a policy can look back: a hundred years.
const MOST_DAYS: i64 = 36_500;

pub(super) fn find(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    if let Some(slots) = facts.slots.known() {
        for one in slots {
            of_worker(facts, one, findings);
        }
        counts_differ(slots, findings);
        arithmetic(slots, findings);
    }
    attacher(facts, findings);
    two_guests(facts, findings);
    missing_nodes(facts, findings);
    released(facts, findings);
}

fn of_worker(facts: &Facts<'_>, one: &VolumeSlots, findings: &mut Vec<Finding>) {
    let node = one.node.as_str();
    if let Some(ghosts) = one.ghosts.known().filter(|ghosts| !ghosts.is_empty()) {
        let full = one.free() == Some(0);
        let list = some(ghosts.iter().map(|(slot, volume)| format!("scsi{slot}={volume}")));
        findings.push(Finding::new(
            "ghost-volume",
            if full { Severity::Critical } else { Severity::Warning },
            node,
            format!("{} in the VM config without a VolumeAttachment: {list}", count(ghosts.len(), "CSI volume")),
            "check that no pod uses the volume and no other VM has it plugged, look again after a minute, then detach it from this VM \
             (`qm set VMID --delete scsiN` keeps the data); each one takes a slot that the scheduler cannot see",
        ));
    }
    if let Some(phantom) = one.phantom().filter(|phantom| *phantom > 0) {
        let (advertised, real) = (one.advertised.known().copied().flatten().unwrap_or_default(), one.real().unwrap_or_default());
        let foreign =
            one.config.known().map(|config| some(config.foreign.iter().map(|(slot, disk)| format!("scsi{slot}={disk}"))));
        let foreign = foreign.filter(|text| !text.is_empty()).map_or_else(String::new, |text| format!(" (taken: {text})"));
        findings.push(Finding::new(
            "phantom-slots",
            Severity::Warning,
            node,
            format!("advertises {advertised}, the plugin can use {real}{foreign}: {phantom} will fail to attach for ever"),
            format!(
                "set the label csi.proxmox.sinextra.dev/max-volume-attachments={real} on the node and restart its CSI node plugin"
            ),
        ));
    }
    if let Some(why) = one.advertised.why().filter(|_| facts.snapshot.kube.csi_nodes.known().is_some()) {
        findings.push(Finding::new(
            "csi-driver-missing",
            Severity::Warning,
            node,
            why,
            "check the CSI node plugin's pod on this node and the node's topology labels",
        ));
    }
    if let Some(attached) = one.attached.known() {
        for failing in attached.iter().filter(|attachment| attachment.error.is_some()) {
            let error = failing.error.as_deref().unwrap_or_default();
            let advice = if error.contains(NO_FREE_SLOT) {
                "no slot is free on this VM: move a pod with volumes away, remove ghosts, or add a worker"
            } else {
                "read the VM's task log in PVE: the plugin's own message may hide the cause"
            };
            findings.push(Finding::new(
                "attach-failing",
                Severity::Critical,
                node,
                format!("{}: {error}", failing.volume),
                advice,
            ));
        }
    }
    if let Some(config) = one.config.known().filter(|config| !config.unused.is_empty()) {
        findings.push(Finding::new(
            "unused-disks",
            Severity::Info,
            node,
            format!("{}: {}", count(config.unused.len(), "detached volume"), some(config.unused.iter().cloned())),
            "they hold pool space; list what is on them before anything is destroyed: `unusedN` of a CSI volume is data",
        ));
    }
    let long_ago = facts.snapshot.taken - SignedDuration::from_mins(DETACH_MINUTES);
    let pending = facts.snapshot.kube.volume_attachments.items().iter().filter(|attachment| {
        attachment.node == one.node
            && attachment.attacher == facts.policy.attacher
            && attachment.deleting.is_some_and(|at| at < long_ago)
    });
    let pending: Vec<String> = pending
        .map(|attachment| attachment.volume.as_ref().map_or_else(|| attachment.name.clone(), ToString::to_string))
        .collect();
    if !pending.is_empty() {
        findings.push(Finding::new(
            "detach-pending",
            Severity::Warning,
            node,
            format!("{} for more than {DETACH_MINUTES} minutes: {}", count(pending.len(), "detach pending"), some(pending)),
            "find the pod or the failed unplug that holds it; never remove the finalizer while the VM runs: it leaves a ghost",
        ));
    }
}

/// A setting that nothing in the cluster confirms must not decide what is in use.
fn attacher(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    if let Some(why) = Volumes::of(facts.snapshot).doubt_about(&facts.policy.attacher) {
        findings.push(Finding::new(
            "attacher-unknown",
            Severity::Critical,
            "policy",
            why,
            "set `attacher` in the policy to the name of the driver that `kubectl get csidrivers` shows for Proxmox VE; until then \
             attachments and ghosts are unknown",
        ));
    }
}

fn counts_differ(slots: &[VolumeSlots], findings: &mut Vec<Finding>) {
    let counts: Vec<(&VolumeSlots, u64)> =
        slots.iter().filter_map(|one| Some((one, one.advertised.known().copied().flatten()?))).collect();
    let mut votes: BTreeMap<u64, usize> = BTreeMap::new();
    for (_, advertised) in &counts {
        *votes.entry(*advertised).or_default() += 1;
    }
    // The peers' count is the most common one; of two equally common, the larger.
    let Some((usual, _)) = votes.iter().max_by_key(|(advertised, votes)| (**votes, **advertised)) else { return };
    for (one, advertised) in counts.iter().filter(|(_, advertised)| advertised != usual) {
        findings.push(Finding::new(
            "csinode-count-differs",
            Severity::Warning,
            one.node.as_str(),
            format!("CSINode advertises {advertised}, its peers {usual}"),
            "set the label csi.proxmox.sinextra.dev/max-volume-attachments as on the peers and restart the CSI node plugin there \
             (without the label the driver advertises 24)",
        ));
    }
}

fn arithmetic(slots: &[VolumeSlots], findings: &mut Vec<Finding>) {
    let hard = PLUGIN_SLOTS * slots.len() as u64;
    let advertised: Option<Vec<u64>> = slots.iter().map(|one| one.advertised.known().copied().flatten()).collect();
    let usable: Option<Vec<u64>> = slots.iter().map(VolumeSlots::limit).collect();
    let (Some(advertised), Some(usable)) = (advertised, usable) else { return };
    let (schedulable, usable) = (total(advertised), total(usable));
    if usable != hard || schedulable != hard {
        findings.push(Finding::new(
            "slot-arithmetic",
            Severity::Info,
            "cluster",
            format!(
                "{} × {PLUGIN_SLOTS} = {hard} slots by the runbook's arithmetic, but the scheduler stops at {schedulable} and {usable} are usable",
                slots.len()
            ),
            "plan with the usable number; the runbook's is an upper bound that nobody reaches",
        ));
    }
}

fn two_guests(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    // Storages of separate endpoints share their names, not their volumes.
    let mut holders: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for pve in &facts.snapshot.pve {
        for guest in pve.guests.items().iter().filter(|guest| !guest.is_placeholder()) {
            for disk in guest.config.known().into_iter().flat_map(|config| config.disks.values()).filter(|disk| disk.is_csi()) {
                holders.entry((&pve.name, &disk.volume)).or_default().push(format!("{} ({})", guest.vmid, guest.name));
            }
        }
    }
    for ((_, volume), guests) in holders.into_iter().filter(|(_, guests)| guests.len() > 1) {
        findings.push(Finding::new(
            "volume-on-two-guests",
            Severity::Critical,
            volume,
            format!("in the config of {}", guests.join(" and ")),
            "find out which VM mounts it (VolumeAttachment, pod) before either VM restarts; then detach it from the other: \
             two writers destroy the file system",
        ));
    }
}

fn missing_nodes(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let Some(nodes) = facts.snapshot.kube.nodes.known() else { return };
    let names: BTreeSet<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
    let mut orphans: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for one in
        facts.snapshot.kube.volume_attachments.items().iter().filter(|one| !one.vanished && !names.contains(one.node.as_str()))
    {
        orphans
            .entry(one.node.as_str())
            .or_default()
            .push(one.volume.as_ref().map_or_else(|| one.name.clone(), ToString::to_string));
    }
    for (node, volumes) in orphans {
        findings.push(Finding::new(
            "attachment-on-missing-node",
            Severity::Warning,
            node,
            format!("{} on a node that does not exist: {}", count(volumes.len(), "VolumeAttachment"), some(volumes)),
            "make sure the VM is stopped and the volumes are gone from its config; only then remove the VolumeAttachments",
        ));
    }
}

fn released(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let old = facts.snapshot.taken - SignedDuration::from_hours(24 * facts.policy.limits.released_days.clamp(0, MOST_DAYS));
    let volumes: Vec<_> = facts
        .snapshot
        .kube
        .persistent_volumes
        .items()
        .iter()
        .filter(|volume| volume.phase == "Released" && volume.phase_since.is_none_or(|since| since <= old))
        .collect();
    if volumes.is_empty() {
        return;
    }
    let size: Bytes = volumes.iter().map(|volume| volume.capacity).sum();
    findings.push(Finding::new(
        "released-volumes",
        Severity::Info,
        "cluster",
        format!(
            "{} without a claim, {size} of capacity: {}",
            count(volumes.len(), "Released volume"),
            some(volumes.iter().map(|volume| volume.name.to_string()))
        ),
        "with `Retain` nothing gives the space back: look at each, then delete the PersistentVolume and its disk by hand",
    ));
}
