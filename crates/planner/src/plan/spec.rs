//! New workers, every choice made: name, VMID, address, template, labels.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use capplan_model::Snapshot;
use capplan_model::ids::{HostName, NodeName, VmId};
use capplan_model::kube::{Effect, MAX_VOLUMES_LABEL, Node, Pod};
use capplan_model::plan::{BlockCode, Blocker, Plan, WorkerSpec};
use capplan_model::pve::{Disk, Guest, GuestConfig, GuestKind};
use capplan_model::slots::PLUGIN_SLOTS;
use capplan_model::units::Bytes;

use super::Scene;
use super::scale_up::Wanted;
use crate::simulate::NewWorker;

/// Labels that the kubelet sets itself.
const KUBELET_LABELS: [&str; 5] =
    ["kubernetes.io/hostname", "kubernetes.io/os", "kubernetes.io/arch", "beta.kubernetes.io/os", "beta.kubernetes.io/arch"];
/// Prefix of the labels that node-feature-discovery sets itself.
const FEATURE_LABELS: &str = "feature.node.kubernetes.io/";
/// What a new worker's network device takes over; model and MAC address are its own.
const NETWORK: [&str; 6] = ["bridge", "tag", "trunks", "firewall", "mtu", "queues"];

/// Every choice of the new workers made.
pub(crate) fn specs(scene: &Scene<'_>, wanted: &Wanted, workers: &[NewWorker], plan: &mut Plan) -> Vec<WorkerSpec> {
    let snapshot = scene.ground.snapshot;
    let mut used = Used::of(snapshot);
    if let Some(why) = snapshot.guests_known().why() {
        plan.undecided.push(format!("which VMIDs and names are free: {why}"));
    }
    let unread: Vec<String> =
        snapshot.guests().filter(|guest| guest.config.why().is_some()).map(|one| one.vmid.to_string()).collect();
    if !unread.is_empty() {
        plan.undecided.push(format!("which addresses are free: the configuration of guests {} is not known", unread.join(", ")));
    }
    let mut specs = Vec::new();
    for (place, worker) in workers.iter().enumerate() {
        let first = place == 0;
        let like = like(scene, wanted);
        let twin = like.as_ref().and_then(|name| scene.ground.guest(name));
        let name = wanted.name.clone().filter(|_| first).unwrap_or_else(|| used.next_name(like.as_ref()));
        let vmid = wanted.vmid.filter(|_| first).unwrap_or_else(|| used.next_vmid(scene));
        let address = wanted.address.clone().filter(|_| first).or_else(|| used.next_address(scene));
        for (what, taken) in [
            (format!("VMID {vmid}"), used.vmids.contains(&vmid)),
            (format!("name {name}"), used.names.contains(name.as_str())),
            (
                format!("address {}", address.as_deref().unwrap_or("")),
                address.as_deref().and_then(bare).is_some_and(|address| used.addresses.contains(&address)),
            ),
        ] {
            if taken {
                plan.blockers.push(gate(format!("{what} is taken already"), &what));
            }
        }
        let gateway = twin.and_then(|twin| twin.config.known()?.gateway.clone());
        if let Some(why) = address.as_deref().and_then(|address| unfit(address, gateway.as_deref())) {
            plan.blockers.push(gate(why, "address"));
        }
        for claim in scene.claims.iter().filter(|claim| claim.subject == format!("host:{}", worker.guest.host)) {
            plan.blockers.push(Blocker { code: BlockCode::Claim, ..gate(format!("claimed by {}", claim.by), &claim.subject) });
        }
        used.take(&name, vmid, address.as_deref());
        let template = template(snapshot, wanted.template, &worker.guest.host, plan);
        let source = snapshot.guests().find(|guest| Some(guest.vmid) == template && guest.host == worker.guest.host);
        specs.push(WorkerSpec {
            gateway: address.as_ref().and(gateway),
            address,
            template,
            seed_slot: source.and_then(|guest| seed_slot(guest.config.known()?)),
            ..as_like(scene, like.as_ref(), name, vmid, worker)
        });
    }
    specs
}

/// A spare as the worker that it becomes: its own machine, and for the rest like another worker.
pub(crate) fn of_spare(scene: &Scene<'_>, spare: &Guest, worker: &NewWorker) -> WorkerSpec {
    let like = like(scene, &Wanted::default());
    let config = spare.config.known();
    let own = |value: fn(&GuestConfig) -> Option<String>| config.and_then(value);
    WorkerSpec {
        address: own(|config| config.addresses.first().cloned()),
        gateway: own(|config| config.gateway.clone()),
        network: own(|config| network(config.net0.as_deref()?)),
        nameserver: own(|config| config.nameserver.clone()),
        searchdomain: own(|config| config.searchdomain.clone()),
        seed_slot: own(seed_slot),
        storage: None,
        disk: None,
        pool: spare.pool.clone(),
        ..as_like(scene, like.as_ref(), NodeName(spare.name.clone()), spare.vmid, worker)
    }
}

/// What a new worker takes over from the one that it is like.
fn as_like(scene: &Scene<'_>, like: Option<&NodeName>, name: NodeName, vmid: VmId, worker: &NewWorker) -> WorkerSpec {
    let twin = like.and_then(|name| scene.ground.guest(name));
    let config = twin.and_then(|twin| twin.config.known());
    let node = like.and_then(|name| scene.ground.snapshot.kube.nodes.items().iter().find(|node| node.name == *name));
    let system = config.and_then(GuestConfig::system_disk).map(|(_, disk)| disk);
    let mut labels = worker.node.labels.clone();
    labels.retain(|key, _| !KUBELET_LABELS.contains(&key.as_str()) && !key.starts_with(FEATURE_LABELS));
    // Never more slots than its VM will have: the other's label may promise too much.
    let foreign = worker.guest.config.known().map_or(0, |config| config.csi_slots().count() as u64);
    if let Some(value) = labels.get_mut(MAX_VOLUMES_LABEL) {
        *value = value.parse::<u64>().map_or(0, |count| count.min(PLUGIN_SLOTS - foreign)).to_string();
    }
    // What names the worker that it is like names the new one now.
    for value in labels.values_mut().filter(|value| like.is_some_and(|like| like.as_str() == value.as_str())) {
        value.clone_from(&name.0);
    }
    let effect = |effect: Effect| match effect {
        Effect::NoSchedule => "NoSchedule",
        Effect::PreferNoSchedule => "PreferNoSchedule",
        Effect::NoExecute => "NoExecute",
    };
    let taints = worker.node.taints.iter().map(|taint| format!("{}={}:{}", taint.key, taint.value, effect(taint.effect)));
    WorkerSpec {
        provider_id: node.and_then(|node| provider_id(node, vmid)),
        kubelet_version: node.map(|node| node.kubelet_version.clone()).unwrap_or_default(),
        network: config.and_then(|config| network(config.net0.as_deref()?)),
        nameserver: config.and_then(|config| config.nameserver.clone()),
        searchdomain: config.and_then(|config| config.searchdomain.clone()),
        pool: twin.and_then(|twin| twin.pool.clone()),
        join: scene.ground.policy.join.clone(),
        daemons: worker.daemons.iter().filter_map(Pod::owner_name).collect(),
        name,
        vmid,
        host: worker.guest.host.clone(),
        like: like.cloned().unwrap_or_default(),
        // Proxmox VE counts in MiB.
        memory: Bytes(worker.guest.max_memory.0 >> 20 << 20),
        cores: worker.guest.cpus,
        storage: system.and_then(|disk| Some(disk.volume.split_once(':')?.0.to_owned())),
        disk: system.and_then(|disk| disk.size),
        labels,
        taints: taints.collect(),
        ..WorkerSpec::default()
    }
}

/// `proxmox://region/VMID` of a new worker, where others have one.
fn provider_id(like: &Node, vmid: VmId) -> Option<String> {
    let (region, _) = like.provider_id.as_deref()?.strip_prefix("proxmox://")?.rsplit_once('/')?;
    Some(format!("proxmox://{region}/{vmid}"))
}

/// Bridge, VLAN and the like of a network device.
fn network(net: &str) -> Option<String> {
    let kept = |part: &&str| part.split_once('=').is_some_and(|(key, _)| NETWORK.contains(&key));
    let kept: Vec<&str> = net.split(',').filter(kept).collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// The drive that a seed is put into: that of cloud-init, another that is empty or holds one of ours, or a new one.
pub(crate) fn seed_slot(config: &GuestConfig) -> Option<String> {
    let with =
        |test: fn(&Disk) -> bool| config.disks.iter().find(|(_, disk)| disk.cdrom && test(disk)).map(|(slot, _)| slot.clone());
    let ours = with(|disk| disk.volume.contains(":iso/capplan-"));
    let empty = || with(|disk| disk.volume == "none");
    let new = || ["ide2", "ide0", "ide1", "ide3"].into_iter().find(|slot| !config.disks.contains_key(*slot));
    ours.or_else(|| config.cloud_init_slot().map(str::to_owned)).or_else(empty).or_else(|| new().map(str::to_owned))
}

/// The worker that a new one is like: the one that is named, or one that any pod may use and that has no
/// device of its own.
pub(crate) fn like(scene: &Scene<'_>, wanted: &Wanted) -> Option<NodeName> {
    let nodes = scene.ground.snapshot.kube.nodes.items();
    let workers = nodes.iter().filter(|node| !node.runs_control_plane());
    let is_plain = |node: &Node| {
        node.taints.is_empty() && !node.allocatable.extended.iter().any(|(name, amount)| name.contains('/') && *amount > 0)
    };
    let best = workers.min_by_key(|node| (!node.takes_general_pods(), !is_plain(node)));
    wanted.like.clone().or_else(|| best.map(|node| node.name.clone()))
}

/// The template to clone on a host: the only one with a cloud-init drive, or the only one of these that is
/// named for Kubernetes.
fn template(snapshot: &Snapshot, wanted: Option<VmId>, host: &HostName, plan: &mut Plan) -> Option<VmId> {
    let templates: Vec<&Guest> =
        snapshot.guests().filter(|guest| guest.template && guest.kind == GuestKind::Qemu && guest.host == *host).collect();
    if let Some(vmid) = wanted {
        if templates.iter().any(|guest| guest.vmid == vmid) {
            return Some(vmid);
        }
        plan.blockers.push(gate(format!("VM {vmid} is no template on {host}"), "template"));
        return None;
    }
    let has_drive = |guest: &&&Guest| guest.config.known().is_some_and(|config| config.cloud_init_slot().is_some());
    let with_drive: Vec<&Guest> = templates.iter().filter(has_drive).copied().collect();
    let from = if with_drive.is_empty() { templates } else { with_drive };
    let for_kubernetes = |guest: &&&Guest| {
        let name = guest.name.to_lowercase();
        ["k8s", "kube", "k3s"].iter().any(|word| name.contains(word) && !name.contains(&format!("non-{word}")))
    };
    let named: Vec<&Guest> = from.iter().filter(for_kubernetes).copied().collect();
    match (&from[..], &named[..]) {
        ([one], _) | (_, [one]) => Some(one.vmid),
        ([], _) => {
            plan.undecided.push(format!("what to clone: {host} has no template; name one with --template"));
            None
        }
        _ => {
            let names: Vec<String> = from.iter().map(|guest| format!("{} ({})", guest.name, guest.vmid)).collect();
            plan.undecided
                .push(format!("what to clone: {host} has several templates, name one with --template: {}", names.join(", ")));
            None
        }
    }
}

/// The address without its prefix length.
fn bare(address: &str) -> Option<Ipv4Addr> {
    address.split('/').next()?.trim().parse().ok()
}

/// Why an address cannot be a machine's: it is the network's own, that of all its machines, or beyond its gateway.
fn unfit(address: &str, gateway: Option<&str>) -> Option<String> {
    let (text, prefix) = address.split_once('/')?;
    let (one, bits) = (u32::from(text.parse::<Ipv4Addr>().ok()?), prefix.parse::<u32>().ok().filter(|bits| *bits < 31)?);
    let hosts = u32::MAX >> bits;
    if one & hosts == 0 || one & hosts == hosts {
        return Some(format!("{text} is no address of a machine in a network of /{bits}"));
    }
    let gateway = u32::from(gateway?.parse::<Ipv4Addr>().ok()?);
    if gateway == one {
        return Some(format!("{text} is the gateway"));
    }
    (gateway & !hosts != one & !hosts).then(|| format!("{text}/{bits} does not reach the gateway {}", Ipv4Addr::from(gateway)))
}

/// Names and numbers that are taken, also by guests that are stopped.
struct Used {
    vmids: BTreeSet<VmId>,
    names: BTreeSet<String>,
    addresses: BTreeSet<Ipv4Addr>,
}

impl Used {
    fn of(snapshot: &Snapshot) -> Self {
        let nodes = snapshot.kube.nodes.items();
        let configured = snapshot.guests().filter_map(|guest| guest.config.known()).flat_map(|config| &config.addresses);
        let internal = nodes.iter().flat_map(|node| &node.internal_ips);
        let balanced = snapshot.kube.services.items().iter().flat_map(|service| &service.addresses);
        Self {
            vmids: snapshot.guests().map(|guest| guest.vmid).collect(),
            names: snapshot
                .guests()
                .map(|guest| guest.name.clone())
                .chain(nodes.iter().map(|node| node.name.0.clone()))
                .collect(),
            addresses: configured.chain(internal).chain(balanced).filter_map(|address| bare(address)).collect(),
        }
    }

    fn take(&mut self, name: &NodeName, vmid: VmId, address: Option<&str>) {
        self.vmids.insert(vmid);
        self.names.insert(name.0.clone());
        self.addresses.extend(address.and_then(bare));
    }

    /// The next number after the name of the worker that it is like.
    fn next_name(&self, like: Option<&NodeName>) -> NodeName {
        let like = like.map_or("worker", NodeName::as_str);
        let stem = like.trim_end_matches(|c: char| c.is_ascii_digit());
        let stem = if stem.len() == like.len() { format!("{like}-") } else { stem.to_owned() };
        let numbers = self.names.iter().filter_map(|name| name.strip_prefix(&stem)?.parse::<u32>().ok());
        let next = numbers.max().unwrap_or(0).saturating_add(1);
        NodeName(format!("{stem}{next}"))
    }

    /// The first free VMID after those of the workers.
    fn next_vmid(&self, scene: &Scene<'_>) -> VmId {
        let nodes = scene.ground.snapshot.kube.nodes.items();
        if let Some(range) = scene.ground.policy.join.vmids {
            // None that is free: the last one, which is taken, blocks.
            return VmId((range.first..=range.last).find(|vmid| !self.vmids.contains(&VmId(*vmid))).unwrap_or(range.last));
        }
        let most = nodes.iter().filter_map(|node| scene.ground.guest(&node.name)).map(|guest| guest.vmid.0).max();
        let free = (most.unwrap_or(100) + 1..).find(|vmid| !self.vmids.contains(&VmId(*vmid)));
        VmId(free.unwrap_or(u32::MAX))
    }

    /// The first free address after those of the workers, with the prefix length that most of them have.
    fn next_address(&self, scene: &Scene<'_>) -> Option<String> {
        let nodes = scene.ground.snapshot.kube.nodes.items();
        let workers = nodes.iter().filter(|node| !node.is_control_plane());
        let configs = workers.filter_map(|node| scene.ground.guest(&node.name)?.config.known());
        let mut most: Option<Ipv4Addr> = None;
        let mut prefixes: BTreeMap<&str, usize> = BTreeMap::new();
        for address in configs.filter_map(|config| config.addresses.first()) {
            most = most.max(bare(address));
            *prefixes.entry(address.split_once('/').map_or("", |(_, prefix)| prefix)).or_default() += 1;
        }
        let (prefix, _) = prefixes.into_iter().max_by_key(|(_, count)| *count)?;
        if let Some(range) = scene.ground.policy.join.addresses {
            let all = (u32::from(range.first)..=u32::from(range.last)).map(Ipv4Addr::from);
            let free = all.clone().find(|address| !self.addresses.contains(address)).unwrap_or(range.last);
            return Some(if prefix.is_empty() { free.to_string() } else { format!("{free}/{prefix}") });
        }
        let first = u32::from(most?).checked_add(1)?;
        // Never the network's own address, nor that of all its machines, nor one beyond it.
        let bits: u32 = prefix.parse().ok().filter(|bits| *bits <= 30).unwrap_or(24);
        let hosts = u32::MAX >> bits;
        let inside = |address: &u32| address & !hosts == (first - 1) & !hosts && address & hosts != hosts && address & hosts != 0;
        let free = (first..).take_while(inside).map(Ipv4Addr::from).find(|address| !self.addresses.contains(address))?;
        Some(if prefix.is_empty() { free.to_string() } else { format!("{free}/{prefix}") })
    }
}

pub(crate) fn gate(detail: String, subject: &str) -> Blocker {
    Blocker { node: NodeName::default(), code: BlockCode::GateFailed, subject: subject.to_owned(), detail }
}
