//! Findings about guests and hosts.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Reading;
use capplan_model::ids::{NodeName, VmId};
use capplan_model::join::Join;
use capplan_model::pve::{Disk, Guest, GuestKind, Power};
use capplan_model::units::Bytes;
use jiff::SignedDuration;

use super::{Finding, Severity, count, some};
use crate::host_fit::no_host_fits;
use crate::rules::Facts;

/// Days of failed tasks that are still news.
const TASK_DAYS: i64 = 7;
/// Share of its memory below which a control-plane VM is called oversized.
const OVERSIZED: f64 = 0.4;

pub(super) fn find(facts: &Facts<'_>, joins: &Reading<BTreeMap<&NodeName, Join<'_>>>, findings: &mut Vec<Finding>) {
    if let Some(joins) = joins.known() {
        zombies(facts, joins, findings);
        tasks(facts, joins, findings);
        oversized(facts, joins, findings);
        discard(joins, findings);
    }
    for guest in facts.snapshot.guests().filter(|guest| guest.qmp_status.as_deref() == Some("io-error")) {
        findings.push(Finding::new(
            "guest-io-error",
            Severity::Critical,
            format!("{} ({})", guest.vmid, guest.name),
            "QEMU paused it because its storage failed",
            "free or repair the storage, then resume the VM; a healthy SMART report does not clear it",
        ));
    }
    hosts(facts, findings);
}

/// A guest's name without its trailing number: `k8s-node3` → `k8s-node`.
fn family(name: &str) -> &str {
    name.trim_end_matches(|c: char| c.is_ascii_digit()).trim_end_matches('-')
}

fn zombies(facts: &Facts<'_>, joins: &BTreeMap<&NodeName, Join<'_>>, findings: &mut Vec<Finding>) {
    // A guest that may be a node (ambiguous) is no zombie until someone says which it is.
    let mut known: BTreeSet<(&str, VmId)> = BTreeSet::new();
    for join in joins.values() {
        match join {
            Join::Guest(guest) => drop(known.insert((guest.host.as_str(), guest.vmid))),
            Join::Ambiguous { candidates, .. } => known.extend(candidates.iter().map(|guest| (guest.host.as_str(), guest.vmid))),
            Join::Missing => {}
        }
    }
    let families: BTreeSet<&str> = joins.keys().map(|node| family(node.as_str())).collect();
    let strangers = facts.snapshot.guests().filter(|guest| {
        guest.kind == GuestKind::Qemu
            && !guest.template
            && !guest.is_placeholder()
            && !known.contains(&(guest.host.as_str(), guest.vmid))
    });
    for guest in strangers {
        let config = guest.config.known();
        let on_boot = config.is_some_and(|config| config.on_boot);
        let looks_like_node = families.contains(family(&guest.name)) && guest.name != family(&guest.name);
        let has_volumes = config.is_some_and(|config| config.disks.values().any(Disk::is_csi));
        let subject = format!("{} ({})", guest.vmid, guest.name);
        let advice = "destroy it, or at least `qm set VMID --onboot 0`: after a power cut it rejoins with stale credentials";
        match guest.power {
            Power::Stopped if on_boot => findings.push(Finding::new(
                "zombie-guest",
                if looks_like_node || has_volumes { Severity::Critical } else { Severity::Info },
                subject,
                format!(
                    "stopped, onboot=1 and no Node on {}{}",
                    guest.host,
                    if has_volumes { "; CSI volumes are in its config" } else { "" }
                ),
                if looks_like_node || has_volumes {
                    advice
                } else {
                    "it starts with its host: count its memory, or set onboot=0"
                },
            )),
            Power::Running if looks_like_node || has_volumes => findings.push(Finding::new(
                "guest-without-node",
                Severity::Critical,
                subject,
                format!(
                    "runs on {} and is no Node{}",
                    guest.host,
                    if has_volumes { "; CSI volumes are in its config" } else { "" }
                ),
                "it holds memory and perhaps volumes without serving a pod: let it join, or shut it down",
            )),
            Power::Stopped if has_volumes => findings.push(Finding::new(
                "guest-without-node",
                Severity::Critical,
                subject,
                format!("stopped on {}, no Node, and CSI volumes are in its config", guest.host),
                "detach the volumes from its config before it is ever started or destroyed",
            )),
            Power::Running | Power::Stopped | Power::Unknown => {}
        }
    }
}

fn guest_nodes<'a>(joins: &'a BTreeMap<&NodeName, Join<'a>>) -> impl Iterator<Item = (&'a NodeName, &'a Guest)> {
    joins.iter().filter_map(|(node, join)| match join {
        Join::Guest(guest) => Some((*node, *guest)),
        Join::Missing | Join::Ambiguous { .. } => None,
    })
}

fn tasks(facts: &Facts<'_>, joins: &BTreeMap<&NodeName, Join<'_>>, findings: &mut Vec<Finding>) {
    let recent = facts.snapshot.taken - SignedDuration::from_hours(24 * TASK_DAYS);
    for (node, guest) in guest_nodes(joins) {
        let failed: Vec<_> = facts
            .snapshot
            .pve
            .iter()
            .filter(|pve| pve.hosts.items().iter().any(|host| host.name == guest.host))
            .flat_map(|pve| pve.failed_tasks.items())
            .filter(|task| task.kind == "qmconfig" && task.vmid == Some(guest.vmid) && task.at.is_some_and(|at| at >= recent))
            .collect();
        if let Some(last) = failed.iter().max_by_key(|task| task.at) {
            findings.push(Finding::new(
                "csi-task-failed",
                Severity::Warning,
                node.as_str(),
                format!(
                    "{} in {TASK_DAYS} days, the last by {}: {}",
                    count(failed.len(), "failed qmconfig task"),
                    last.user,
                    last.status
                ),
                "the CSI plugin may report success all the same: compare the VM config with what QEMU has (`info block`)",
            ));
        }
    }
}

fn oversized(facts: &Facts<'_>, joins: &BTreeMap<&NodeName, Join<'_>>, findings: &mut Vec<Finding>) {
    let (Some(uses), Some(metrics)) = (facts.uses.known(), facts.snapshot.kube.node_metrics.known()) else { return };
    for (node, guest) in guest_nodes(joins) {
        let Some(one) = uses.iter().find(|one| one.node.name == *node && one.node.is_control_plane()) else { continue };
        let Some(used) = metrics.iter().find(|one| one.name == *node).map(|one| one.memory) else { continue };
        let needed = used.max(one.requests.memory);
        if guest.memory() > Bytes(0) && (needed.0 as f64) < OVERSIZED * guest.memory().0 as f64 {
            findings.push(Finding::new(
                "control-plane-oversized",
                Severity::Info,
                node.as_str(),
                format!("its VM has {}, it uses {used} and requests {}", guest.memory(), one.requests.memory),
                format!(
                    "half of its memory would free {} on {} (takes a restart of the VM)",
                    Bytes(guest.memory().0 / 2),
                    guest.host
                ),
            ));
        }
    }
}

fn discard(joins: &BTreeMap<&NodeName, Join<'_>>, findings: &mut Vec<Finding>) {
    let without: Vec<String> = guest_nodes(joins)
        .filter_map(|(node, guest)| {
            let config = guest.config.known()?;
            let mut own =
                config.disks.iter().filter(|(_, disk)| !disk.is_csi() && !disk.cdrom && disk.size > Some(Bytes::gib(8)));
            own.any(|(_, disk)| !disk.discard).then(|| node.to_string())
        })
        .collect();
    if !without.is_empty() {
        findings.push(Finding::new(
            "disk-without-discard",
            Severity::Info,
            "cluster",
            format!("no `discard=on` in force on a disk of {}", some(without)),
            "set discard=on and restart the VM: otherwise the thin pool never gets freed blocks back",
        ));
    }
}

fn hosts(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    for host in facts.snapshot.hosts() {
        if let Some(memory) = host.memory.known().filter(|memory| memory.swap_total > Bytes(0)) {
            let share = memory.swap_used.0 as f64 / memory.swap_total.0 as f64;
            if share > 0.5 {
                findings.push(Finding::new(
                    "host-swapping",
                    Severity::Warning,
                    host.name.as_str(),
                    format!("{} of {} swap in use", memory.swap_used, memory.swap_total),
                    "the host is short of memory: stop or shrink a guest before adding one",
                ));
            }
        }
    }
    if let Some(rooms) = no_host_fits(facts) {
        findings.push(Finding::new(
            "host-cannot-take-worker",
            Severity::Warning,
            some(rooms.iter().map(|room| room.host.to_string())),
            some(rooms.iter().map(|room| room.describe())),
            "stop or shrink a guest, add memory, or plan a smaller worker (`worker.memory` in the policy)",
        ));
    }
}
