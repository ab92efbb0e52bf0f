//! Whether what a step asks for holds, on one fresh reading of both planes.

use std::collections::BTreeMap;

use capplan_model::disposal::{Moment, Objection, objections};
use capplan_model::ids::NodeName;
use capplan_model::kube::{Node, Phase, Pod};
use capplan_model::plan::{Condition, GuestRef, Plan, WorkerSpec};
use capplan_model::policy::Seed;
use capplan_model::pve::{Disk, Guest, OWN_TAG, Power, SPARE_TAG};
use capplan_model::volumes::{Use, Volumes, is_owned_by};
use capplan_model::{Reading, Snapshot};

use crate::join::{seed_volume, spare_volume};

/// Whether a condition holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Holds,
    /// It does not, and why.
    Not(String),
    /// It does not, and waiting does not help: something else is there than was meant.
    Never(String),
    /// What it rests on could not be read: neither yes nor no.
    Unknown(String),
}

/// What a condition needs beyond the reading.
#[derive(Clone, Copy, Debug)]
pub struct Against<'a> {
    /// The plan: what it makes is known by its id.
    pub plan: &'a Plan,
    /// The storage plugin's driver.
    pub driver: &'a str,
    /// Pods of the evicted pod's owner that were ready before, if the step evicts one.
    pub ready_before: Option<u64>,
    /// UID of the pod that the step evicts.
    pub evicted: Option<&'a str>,
}

/// A reading, with `?` for what is unknown.
type Checked = Result<Verdict, String>;

fn known<T>(reading: &Reading<T>) -> Result<&T, String> {
    match reading {
        Reading::Known(value) => Ok(value),
        Reading::Unknown { why } => Err(why.clone()),
    }
}

fn when(holds: bool, why: impl FnOnce() -> String) -> Checked {
    Ok(if holds { Verdict::Holds } else { Verdict::Not(why()) })
}

/// Judges one condition.
pub fn check(condition: &Condition, seen: &Snapshot, against: Against<'_>) -> Verdict {
    judge(condition, seen, against).unwrap_or_else(Verdict::Unknown)
}

fn judge(condition: &Condition, seen: &Snapshot, against: Against<'_>) -> Checked {
    match condition {
        Condition::OthersHealthy { except } => {
            let others = nodes(seen)?.iter().filter(|node| !except.contains(&node.name));
            let unwell = others.filter_map(|node| Some(format!("{} {}", node.name, node.unrest(seen.taken)?))).next();
            Ok(unwell.map_or(Verdict::Holds, Verdict::Not))
        }
        Condition::NodeIs { node, uid } => match find(seen, node)? {
            Some(found) => when(found.uid == *uid, || format!("{node} is another object than the plan was made for")),
            None => Ok(Verdict::Not(format!("there is no node {node}"))),
        },
        Condition::NodeGone { node } => when(find(seen, node)?.is_none(), || format!("{node} is still there")),
        Condition::Cordoned { node } => on(seen, node, |one| one.unschedulable, "is open"),
        Condition::Schedulable { node } => on(seen, node, |one| !one.unschedulable, "is cordoned"),
        Condition::NodeReady { node } => on(seen, node, Node::is_ready, "is not ready"),
        Condition::Labelled { node, labels } => {
            let Some(found) = find(seen, node)? else { return Ok(Verdict::Not(format!("there is no node {node}"))) };
            let lacks = labels.iter().find(|(key, value)| found.labels.get(*key) != Some(value));
            Ok(lacks.map_or(Verdict::Holds, |(key, value)| Verdict::Not(format!("{node} has no label {key}={value}"))))
        }
        Condition::PodIs { pod, uid, owner, node } => {
            let here = |one: &&Pod| one.node.as_ref() == Some(node) && one.deleting.is_none() && !one.is_terminal();
            let mut pods = pods(seen)?.iter().filter(here);
            let found = pods.any(|one| if uid.is_empty() { owned(one, owner) } else { named(one, pod) && one.uid == *uid });
            when(found, || format!("{pod} is not on {node} any more, or is another pod"))
        }
        Condition::PodGone { pod, uid } => {
            let uid = if uid.is_empty() { against.evicted.unwrap_or_default() } else { uid };
            // One that has ended holds nothing any more: a Job's record.
            let there = pods(seen)?.iter().any(|one| named(one, pod) && one.uid == uid && !one.is_terminal());
            when(!there, || format!("{pod} is still there"))
        }
        // Where it went is for the executor to compare: the scheduler has the last word.
        Condition::SuccessorReady { owner, on: _ } => successor(seen, owner, against),
        Condition::NodeEmpty { node } => {
            let stays = |one: &&Pod| one.node.as_ref() == Some(node) && !one.is_terminal() && !one.belongs_to_node();
            match pods(seen)?.iter().find(stays) {
                Some(pod) => Ok(Verdict::Not(format!("{} is still on {node}", pod.object_name()))),
                None => Ok(Verdict::Holds),
            }
        }
        Condition::VolumesGone { node, guest } => volumes_gone(seen, node, guest.as_ref(), against),
        Condition::GuestIs { guest } => with_guest(seen, guest, against, |_| Ok(Verdict::Holds)),
        Condition::Disarmed { guest, storage } => with_guest(seen, guest, against, |one| {
            let volume = spare_volume(storage, guest.vmid);
            let plugged = known(&one.config)?.disks.values().any(|disk| disk.volume == volume);
            let tagged = one.tags.iter().any(|tag| tag == SPARE_TAG);
            when(plugged && tagged, || format!("{guest} would join again as it is"))
        }),
        Condition::GuestRunning { guest } => {
            with_guest(seen, guest, against, |one| when(one.power == Power::Running, || format!("{guest} is not running")))
        }
        Condition::GuestSet { guest, worker } => {
            let spec = spec(against, worker)?;
            with_guest(seen, guest, against, |one| Ok(unset(one, spec)?.map_or(Verdict::Holds, Verdict::Not)))
        }
        Condition::DiskSize { guest, slot, size } => with_guest(seen, guest, against, |one| {
            let now = known(&one.config)?.disks.get(slot).and_then(|disk| disk.size);
            when(now.is_some_and(|now| now >= *size), || format!("{slot} of {guest} is not {size} large"))
        }),
        Condition::Joined { guest, worker } => with_guest(seen, guest, against, |one| joined(seen, one, worker)),
        Condition::SeedGone { guest, worker } => {
            let volume = seed_volume(&against.plan.id, spec(against, worker)?);
            with_guest(seen, guest, against, |one| {
                let holds = |disks: &BTreeMap<String, Disk>| disks.values().any(|disk| disk.volume == volume);
                let waits = one.pending.values().flatten().any(|value| value.contains("none,media=cdrom"));
                when(!holds(&known(&one.config)?.disks) && !waits, || format!("{volume} is still in {guest}"))
            })
        }
        Condition::DaemonsReady { node, owners } => {
            let pods = pods(seen)?;
            let ready = |owner: &&String| serving(pods, owner).any(|pod| pod.node.as_ref() == Some(node));
            let lacks = owners.iter().find(|owner| !ready(owner));
            Ok(lacks.map_or(Verdict::Holds, |owner| Verdict::Not(format!("{owner} is not ready on {node}"))))
        }
        Condition::Measured { node } => {
            let there = known(&seen.kube.node_metrics)?.iter().any(|one| one.name == *node);
            when(there, || format!("the metrics API does not know {node}"))
        }
        Condition::GuestStopped { guest } => {
            with_guest(seen, guest, against, |one| when(one.power == Power::Stopped, || format!("{guest} is running")))
        }
        Condition::Disposable { guest, snapshots } => with_guest(seen, guest, against, |one| {
            // A backup, say: it is over some time.
            if let Some(lock) = &one.lock {
                return Err(format!("{guest} is locked: {lock}"));
            }
            let all = objections(seen, one, snapshots, Moment::Now);
            let worst = all.iter().find(|one| !matches!(one, Objection::Unread { .. })).or(all.first());
            match worst {
                None => Ok(Verdict::Holds),
                Some(one @ Objection::Unread { .. }) => Err(format!("{guest}: {one}")),
                Some(one) => Ok(Verdict::Not(format!("{guest}: {one}"))),
            }
        }),
        Condition::HaUnmanaged { guest } => with_guest(seen, guest, against, |one| {
            let way = format!("the HA manager manages {guest}: `ha-manager remove vm:{}` takes it out", guest.vmid);
            when(!*known(&one.ha)?, || way)
        }),
        Condition::GuestGone { guest } => {
            let guests = seen.guests_known();
            known(&guests)?;
            // One that went to another host is not gone.
            let is = |one: &&Guest| {
                let uuid = one.config.known().and_then(|config| config.uuid.as_ref());
                (one.host == guest.host && one.vmid == guest.vmid) || (uuid.is_some() && uuid == guest.uuid.as_ref())
            };
            let there = seen.guests().find(is);
            when(there.is_none(), || format!("{} is still there", there.map_or_else(|| guest.clone(), GuestRef::of)))
        }
        Condition::GuestStaysOff { guest } => with_guest(seen, guest, against, |one| {
            let config = known(&one.config)?;
            when(!config.on_boot, || format!("{guest} starts with its host"))
        }),
        Condition::GuestStartsWithHost { guest } => with_guest(seen, guest, against, |one| {
            when(known(&one.config)?.on_boot, || format!("{guest} does not start with its host"))
        }),
        Condition::HostMemory { host, available } => {
            let Some(found) = seen.hosts().find(|one| one.name == *host) else {
                return Err(format!("host {host} was not read"));
            };
            let now = known(&found.memory)?.available();
            when(now >= *available, || format!("{host} has {now} available, {available} are needed"))
        }
        Condition::Unused { host, vmid, address } => {
            let guests = seen.guests_known();
            known(&guests)?;
            if let Some(guest) = seen.guest_at(host, *vmid) {
                return Ok(Verdict::Not(format!("VMID {vmid} is taken by {}", guest.name)));
            }
            let Some(address) = address.as_deref().and_then(|text| text.split('/').next()) else { return Ok(Verdict::Holds) };
            let node = nodes(seen)?.iter().find(|node| node.internal_ips.iter().any(|ip| ip == address));
            if let Some(node) = node {
                return Ok(Verdict::Not(format!("{address} is an address of {}", node.name)));
            }
            let services = known(&seen.kube.services)?;
            if let Some(one) = services.iter().find(|one| one.addresses.iter().any(|own| own == address)) {
                return Ok(Verdict::Not(format!("{address} is an address of the Service {}/{}", one.namespace, one.name)));
            }
            for guest in seen.guests() {
                let config = known(&guest.config).map_err(|why| format!("whether {} has {address}: {why}", guest.name))?;
                if config.addresses.iter().any(|own| own.split('/').next() == Some(address)) {
                    return Ok(Verdict::Not(format!("{address} is an address of VM {} ({})", guest.vmid, guest.name)));
                }
            }
            Ok(Verdict::Holds)
        }
        Condition::WorkerReady { node, slots } => {
            let Some(found) = find(seen, node)? else { return Ok(Verdict::Not(format!("there is no node {node}"))) };
            if !found.is_ready() {
                return Ok(Verdict::Not(format!("{node} is not ready")));
            }
            let csi = known(&seen.kube.csi_nodes)?.iter().find(|one| one.name == *node);
            let driver = csi.and_then(|one| one.drivers.iter().find(|one| one.name == against.driver));
            match (driver, slots) {
                (None, _) => Ok(Verdict::Not(format!("{} is not registered on {node}", against.driver))),
                (Some(driver), Some(slots)) => when(driver.count == Some(*slots), || {
                    let count = driver.count.map_or_else(|| "no limit".to_owned(), |count| count.to_string());
                    format!("{node} advertises {count} volumes, {slots} are expected")
                }),
                (Some(_), None) => Ok(Verdict::Holds),
            }
        }
        Condition::Ghost { guest, slot, volume } => with_guest(seen, guest, against, |one| {
            let disk = known(&one.config)?.disks.get(slot);
            let volumes = Volumes::of(seen);
            if disk.is_none_or(|disk| disk.volume != *volume || !volumes.is_volume(disk)) || one.pending.contains_key(slot) {
                return Ok(Verdict::Not(format!("{volume} is not on {slot} of {guest} any more")));
            }
            if is_owned_by(volume, guest.vmid) {
                return Ok(Verdict::Not(format!("{volume} is a disk of {guest} itself: it is no ghost")));
            }
            match volumes.use_of(&NodeName(guest.name.clone()), volume) {
                Use::Ghost => Ok(Verdict::Holds),
                Use::Elsewhere(by) | Use::InUse(by) => Ok(Verdict::Not(format!("{volume}: {by}: it is no ghost"))),
                Use::Unknown(why) => Err(format!("whether {volume} is in use: {why}")),
            }
        }),
        Condition::SlotEmpty { guest, slot } => with_guest(seen, guest, against, |one| {
            let config = known(&one.config)?;
            // A removal that waits for a restart is none yet.
            let waits = one.pending.contains_key(slot);
            when(!config.disks.contains_key(slot) && !waits, || format!("{slot} of {guest} still holds a disk"))
        }),
    }
}

fn nodes(seen: &Snapshot) -> Result<&[Node], String> {
    known(&seen.kube.nodes).map(Vec::as_slice)
}

fn pods(seen: &Snapshot) -> Result<&[Pod], String> {
    known(&seen.kube.pods).map(Vec::as_slice)
}

fn find<'a>(seen: &'a Snapshot, node: &NodeName) -> Result<Option<&'a Node>, String> {
    Ok(nodes(seen)?.iter().find(|one| one.name == *node))
}

fn on(seen: &Snapshot, node: &NodeName, test: impl FnOnce(&Node) -> bool, otherwise: &str) -> Checked {
    match find(seen, node)? {
        Some(found) => when(test(found), || format!("{node} {otherwise}")),
        None => Ok(Verdict::Not(format!("there is no node {node}"))),
    }
}

fn named(pod: &Pod, name: &str) -> bool {
    name.split_once('/').is_some_and(|(namespace, name)| pod.namespace == namespace && pod.name == name)
}

/// Whether a pod belongs to `Kind/namespace/name`.
pub(crate) fn owned(pod: &Pod, owner: &str) -> bool {
    pod.owner_name().as_deref() == Some(owner)
}

/// Pods of an owner that serve: running, ready, and not on their way out.
pub(crate) fn serving<'a>(pods: &'a [Pod], owner: &str) -> impl Iterator<Item = &'a Pod> {
    let ready = |pod: &&Pod| {
        pod.phase == Phase::Running && pod.deleting.is_none() && pod.conditions.iter().all(|one| one.kind != "Ready")
    };
    pods.iter().filter(move |pod| owned(pod, owner)).filter(ready)
}

fn successor(seen: &Snapshot, owner: &str, against: Against<'_>) -> Checked {
    let before = against.ready_before.ok_or_else(|| format!("how many pods of {owner} were ready before is not known"))?;
    let now = serving(pods(seen)?, owner).filter(|pod| Some(pod.uid.as_str()) != against.evicted).count() as u64;
    // One that was made smaller meanwhile has fewer; one that is gone has none.
    let before = wanted(seen, owner).map_or(before, |wanted| before.min(wanted));
    when(now >= before, || format!("{now} of {before} pods of {owner} are ready"))
}

/// How many pods an owner wants now, if it is known and of a kind that says so.
///
/// A ReplicaSet that a rollout leaves behind wants none; what follows it is another owner.
fn wanted(seen: &Snapshot, owner: &str) -> Option<u64> {
    let mut parts = owner.splitn(3, '/');
    let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
    let all = match kind {
        "ReplicaSet" => &seen.kube.replica_sets,
        "StatefulSet" => &seen.kube.stateful_sets,
        _ => return None,
    };
    let found = all.known()?.iter().find(|one| one.namespace == namespace && one.name == name);
    Some(found.map_or(0, |one| one.replicas))
}

/// Where the newest serving pod of an owner is.
pub(crate) fn newest<'a>(seen: &'a Snapshot, owner: &str) -> Option<&'a NodeName> {
    let serving = serving(pods(seen).ok()?, owner);
    serving.max_by_key(|pod| (pod.created, &pod.uid))?.node.as_ref()
}

/// Judges the guest that is meant, if that is the one that is there.
fn with_guest(seen: &Snapshot, meant: &GuestRef, against: Against<'_>, test: impl FnOnce(&Guest) -> Checked) -> Checked {
    let guests = seen.guests_known();
    known(&guests)?;
    let found = seen.guest_at(&meant.host, meant.vmid);
    let is_made = meant.uuid.is_none();
    let Some(found) = found else {
        let why = format!("{meant} is not there");
        return Ok(if is_made { Verdict::Not(why) } else { Verdict::Never(why) });
    };
    let config = known(&found.config)?;
    // While it is cloned, neither name nor description are its own.
    if is_made && found.lock.as_deref() == Some("clone") {
        return Ok(Verdict::Not(format!("{meant} is being cloned")));
    }
    if let Some(lock) = found.lock.as_deref().filter(|_| is_made) {
        // A backup, say: it is over some time, and says nothing of the VM.
        return Err(format!("{meant} is locked: {lock}"));
    }
    let now = GuestRef::of(found);
    let same = if is_made {
        now.name == meant.name && config.made_by.as_deref() == Some(against.plan.id.as_str())
    } else {
        now == *meant
    };
    if same {
        return test(found);
    }
    Ok(Verdict::Never(format!("{now} is not the guest that was meant, which was {meant}")))
}

fn spec<'p>(against: Against<'p>, worker: &NodeName) -> Result<&'p WorkerSpec, String> {
    against.plan.worker(worker).ok_or_else(|| format!("what {worker} is to be"))
}

/// What a guest lacks of the worker that it becomes.
fn unset(guest: &Guest, spec: &WorkerSpec) -> Result<Option<String>, String> {
    let config = known(&guest.config)?;
    let parts = |net: Option<&str>| net.unwrap_or_default().split(',').map(str::to_owned).collect::<Vec<_>>();
    let net = parts(config.net0.as_deref());
    let lacks = [
        ("memory", config.memory.0 >> 20 == spec.memory.0 >> 20),
        ("cores", config.cores == spec.cores),
        ("its tag", config.made_by.is_none() || guest.tags.iter().any(|tag| tag == OWN_TAG)),
        ("its address", spec.address.is_none() || config.addresses.first() == spec.address.as_ref()),
        ("its network", spec.network.is_none() || parts(spec.network.as_deref()).iter().all(|part| net.contains(part))),
        ("startup", spec.join.startup.is_none() || config.startup == spec.join.startup),
        ("cicustom", spec.join.seed == Seed::Iso || config.cicustom.as_deref().is_some_and(|text| text.starts_with("vendor="))),
        ("a restart, for what waits for one", guest.pending.is_empty()),
    ];
    Ok(lacks.into_iter().find(|(_, holds)| !holds).map(|(what, _)| format!("VM {} lacks {what}", guest.vmid)))
}

/// Why a kubelet does not go with an API server, by their versions such as `v1.35.2`.
///
/// # Source
/// Kubernetes version skew policy: a kubelet is never newer than the API server, and at most three minors older.
pub(crate) fn skewed(kubelet: &str, server: &str) -> Option<String> {
    let minor = |version: &str| version.trim_start_matches('v').split('.').nth(1)?.parse::<i64>().ok();
    let (ours, theirs) = (minor(kubelet)?, minor(server)?);
    (ours > theirs || theirs - ours > 3).then(|| format!("its kubelet is {kubelet}, the API server {server}"))
}

/// Whether a VM runs the node of this name. One of another name, or another VM of this one, never becomes it.
fn joined(seen: &Snapshot, guest: &Guest, worker: &NodeName) -> Checked {
    let uuid = known(&guest.config)?.uuid.as_deref().ok_or("the UUID of the VM")?;
    let runs_here = |node: &Node| node.system_uuid.as_deref().is_some_and(|own| own.eq_ignore_ascii_case(uuid));
    if let Some(other) = nodes(seen)?.iter().find(|node| runs_here(node) && node.name != *worker) {
        return Ok(Verdict::Never(format!("VM {} joined as {}, not as {worker}", guest.vmid, other.name)));
    }
    match find(seen, worker)? {
        None => {
            Ok(Verdict::Not(format!("there is no node {worker} yet; its console and /var/log/cloud-init-output.log say why")))
        }
        Some(node) if !runs_here(node) => Ok(Verdict::Never(format!("{worker} is another machine than VM {}", guest.vmid))),
        Some(node) if let Some(why) = seen.kube.version.known().and_then(|server| skewed(&node.kubelet_version, server)) => {
            Ok(Verdict::Never(format!("{worker} must not stay, drain and delete it: {why}")))
        }
        Some(node) => when(node.is_ready(), || format!("{worker} has joined and is not ready yet")),
    }
}

fn volumes_gone(seen: &Snapshot, node: &NodeName, guest: Option<&GuestRef>, against: Against<'_>) -> Checked {
    if let Some(one) = known(&seen.kube.volume_attachments)?.iter().find(|one| one.node == *node) {
        let volume = one.volume.as_ref().map_or("a volume", |volume| volume.as_str());
        return Ok(Verdict::Not(format!("{volume} is attached to {node}")));
    }
    let Some(guest) = guest else { return Err(format!("which VM {node} is")) };
    with_guest(seen, guest, against, |one| {
        let volumes = Volumes::of(seen);
        known(&seen.kube.persistent_volumes)?;
        let is_held = |disk: &&Disk| volumes.is_volume(disk);
        let volume = known(&one.config)?.disks.values().find(is_held).map(|disk| disk.volume.clone());
        Ok(volume.map_or(Verdict::Holds, |volume| Verdict::Not(format!("{volume} is still in {guest}"))))
    })
}

#[cfg(test)]
mod tests;
