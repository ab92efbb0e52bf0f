//! A worker that is not there yet: what it brings, and what it costs its host.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Reading;
use capplan_model::change::AddWorker;
use capplan_model::ids::{HostName, NodeName, VmId};
use capplan_model::kube::{
    CONTROL_PLANE_LABEL, Condition, CsiNode, CsiNodeDriver, MAX_VOLUMES_LABEL, Node, Phase, Pod, Resources, Workload,
};
use capplan_model::pve::{Disk, Guest, GuestConfig, Host, Power};
use capplan_model::units::{Bytes, MilliCpu, total};

use super::SimulateError;
use super::play::Player;
use crate::scheduler::{Cluster, NodeId};

/// Volumes that proxmox-csi advertises where the node's label says nothing or nothing valid.
///
/// # Source
/// `DefaultMaxVolumesPerNode`, proxmox-csi v0.19.1.
const UNLABELLED_VOLUMES: u64 = 24;
/// Largest value of the label.
const MOST_VOLUMES: u64 = 30;
/// Labels that are a node's own and not copied.
const OWN_LABELS: [&str; 2] = ["kubernetes.io/hostname", "csi.proxmox.sinextra.dev/name"];

/// A new worker with its VM.
#[derive(Clone, Debug)]
pub(crate) struct NewWorker {
    pub node: Node,
    pub csi: CsiNode,
    pub guest: Guest,
    /// Pods of DaemonSets that run there first.
    pub daemons: Vec<Pod>,
    /// Why it does not join.
    pub refused: Option<Refusal>,
    /// What about it is not certain.
    pub doubts: Vec<String>,
    /// What its labels would need and is not known.
    pub unread: Vec<String>,
}

impl NewWorker {
    /// Why its host has certainly no room for it.
    pub(super) fn no_room(&self) -> Option<&str> {
        match &self.refused {
            Some(Refusal::NoRoom(why)) => Some(why),
            Some(Refusal::Unknown(_)) | None => None,
        }
    }

    /// Volumes that its CSINode advertises.
    pub(crate) fn advertised(&self) -> Option<u64> {
        self.csi.drivers.first().and_then(|driver| driver.count)
    }

    /// The same under another name and number.
    pub(crate) fn named(mut self, name: &NodeName, vmid: VmId) -> Self {
        self.node.name = name.clone();
        self.node.labels.insert("kubernetes.io/hostname".into(), name.0.clone());
        self.csi.name = name.clone();
        (self.guest.name, self.guest.vmid) = (name.0.clone(), vmid);
        let uuid = format!("new-{name}");
        self.node.system_uuid = Some(uuid.clone());
        if let Reading::Known(config) = &mut self.guest.config {
            (config.name, config.uuid) = (name.0.clone(), Some(uuid));
        }
        for daemon in &mut self.daemons {
            daemon.node = Some(name.clone());
            daemon.name = format!("{}-{name}", daemon.owner.as_ref().map_or("daemon", |owner| owner.name.as_str()));
        }
        self
    }

    /// Adds it to a cluster, with its DaemonSets.
    pub(crate) fn enter(&self, cluster: &mut Cluster<'_>) -> NodeId {
        let node = cluster.add_node(self.node.clone(), Some(&self.csi));
        for pod in &self.daemons {
            let id = cluster.add_pod(pod.clone());
            cluster.bind(id, node);
        }
        node
    }
}

/// Why a worker does not join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Its host has no room.
    NoRoom(String),
    /// Whether its host has room is unknown.
    Unknown(String),
}

/// Works out a new worker.
pub(super) fn new(player: &Player<'_>, add: &AddWorker) -> Result<NewWorker, SimulateError> {
    let (snapshot, policy) = (player.ground.snapshot, player.ground.policy);
    let like = model_of(player, add)?;
    let memory = add.memory.unwrap_or(policy.worker.memory);
    let twin = player.ground.guest(&like.name);
    // The new VM loses as much to kernel and reservations as the one it is like.
    let twin_memory = twin.map_or(like.capacity.memory, Guest::memory);
    let reserved = twin_memory.minus(like.allocatable.memory);
    let cores = add.cores.unwrap_or(like.capacity.cpu.0 / 1000);
    let taken = like.capacity.cpu.0.saturating_sub(like.allocatable.cpu.0);
    let number = player.workers.len() + 1;
    let name = NodeName(format!("new-worker-{number}"));
    let mut labels = labels_of(&like, &name, add);
    let volumes = labels.get(MAX_VOLUMES_LABEL).and_then(|text| text.parse::<u64>().ok());
    let volumes = volumes.filter(|count| *count <= MOST_VOLUMES).unwrap_or(UNLABELLED_VOLUMES);
    let mut allocatable = like.allocatable.clone();
    allocatable.memory = memory.minus(reserved);
    allocatable.cpu = MilliCpu(cores.saturating_mul(1000).saturating_sub(taken));
    // A device passed through to one VM is not there for a second one.
    allocatable.extended.retain(|name, _| !name.contains('/'));
    let mut capacity = allocatable.clone();
    (capacity.memory, capacity.cpu) = (memory, MilliCpu(cores.saturating_mul(1000)));
    let topology_keys = snapshot
        .kube
        .csi_nodes
        .items()
        .iter()
        .find(|node| node.name == like.name)
        .and_then(|node| node.drivers.iter().find(|driver| driver.name == policy.attacher))
        .map(|driver| driver.topology_keys.clone())
        .unwrap_or_default();
    let daemons = daemons(player, &like.name, &name);
    let (host, mut refused) = host_for(player, add.host.as_ref(), memory, cores)?;
    let mut unread = Vec::new();
    if refused.is_none() && twin.is_some_and(|twin| twin.host != host) {
        for key in topology_keys.iter().filter(|key| !add.labels.contains_key(*key)) {
            match zone_of(player, &host, key) {
                Some(zone) => drop(labels.insert(key.clone(), zone)),
                None => {
                    labels.remove(key);
                    unread.push(format!("which {key} {name} has: no node of {host} shows it"));
                }
            }
        }
    }
    let doubts = unsure_daemons(player, &name, add);
    if refused.is_none() {
        refused = too_small(&daemons, &allocatable);
    }
    let driver = CsiNodeDriver { name: policy.attacher.clone(), count: Some(volumes), topology_keys };
    let node = Node {
        name: name.clone(),
        uid: String::new(),
        created: None,
        labels,
        taints: like.taints.iter().filter(|taint| !taint.key.starts_with("node.kubernetes.io/")).cloned().collect(),
        unschedulable: false,
        provider_id: None,
        system_uuid: Some(format!("new-worker-{number}")),
        kubelet_version: like.kubelet_version.clone(),
        internal_ips: Vec::new(),
        capacity,
        allocatable,
        max_pods: like.max_pods,
        conditions: like.conditions.iter().map(healthy).collect(),
        volumes_in_use: Vec::new(),
        volumes_attached: Vec::new(),
        images: Vec::new(),
        architecture: like.architecture.clone(),
    };
    let vmid = VmId(free_vmid(player, number));
    let config = match twin {
        Some(twin) => twin.config.as_ref().map(|config| GuestConfig {
            name: name.0.clone(),
            memory,
            cores,
            uuid: Some(format!("new-worker-{number}")),
            disks: own_disks(config, vmid),
            ..GuestConfig::default()
        }),
        None => Reading::unknown(format!("no VM is known to be {}", like.name)),
    };
    let guest = Guest {
        vmid,
        host,
        name: name.0.clone(),
        power: Power::Running,
        max_memory: memory,
        cpus: cores,
        config,
        ..Guest::default()
    };
    Ok(NewWorker { csi: CsiNode { name, drivers: vec![driver] }, node, guest, daemons, refused, doubts, unread })
}

/// The node that a new worker is like: the one that is named, or a general one.
fn model_of(player: &Player<'_>, add: &AddWorker) -> Result<Node, SimulateError> {
    let cluster = &player.scheduler.cluster;
    let Some(name) = &add.like else {
        let nodes = || cluster.nodes().map(|node| cluster.node(node));
        let general = nodes().find(|node| node.takes_general_pods());
        return general
            .or_else(|| nodes().find(|node| !node.is_control_plane()))
            .cloned()
            .ok_or_else(|| SimulateError::Change("there is no worker that a new one could be like: its size is unknown".into()));
    };
    let node = cluster.node(player.node(name)?);
    if node.is_control_plane() {
        return Err(SimulateError::Change(format!("{name} runs the control plane: a worker cannot be like it")));
    }
    Ok(node.clone())
}

fn labels_of(like: &Node, name: &NodeName, add: &AddWorker) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = like
        .labels
        .iter()
        .filter(|(key, _)| !OWN_LABELS.contains(&key.as_str()) && key.as_str() != CONTROL_PLANE_LABEL)
        .filter(|(key, _)| add.like.is_some() || key.as_str() != MAX_VOLUMES_LABEL)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert("kubernetes.io/hostname".into(), name.0.clone());
    labels.extend(add.labels.clone());
    labels
}

/// A condition as a node has it that is well.
fn healthy(condition: &Condition) -> Condition {
    let status = if condition.kind == "Ready" { "True" } else { "False" };
    Condition { status: status.into(), reason: String::new(), ..condition.clone() }
}

/// DaemonSets that select labels given for the new worker: whether they run there is not worked out.
fn unsure_daemons(player: &Player<'_>, name: &NodeName, add: &AddWorker) -> Vec<String> {
    let selects = |daemon: &&Workload| {
        let selector = daemon.template.as_ref().map(|pod| &pod.scheduling.node_selector);
        selector.is_some_and(|selector| selector.keys().any(|key| add.labels.contains_key(key)))
    };
    let unsure = player.ground.snapshot.kube.daemon_sets.items().iter().filter(selects);
    unsure
        .map(|daemon| format!("what DaemonSet {}/{} takes of {name}, whose labels it selects", daemon.namespace, daemon.name))
        .collect()
}

/// Why a worker cannot even hold its own DaemonSets.
fn too_small(daemons: &[Pod], allocatable: &Resources) -> Option<Refusal> {
    let memory: Bytes = daemons.iter().map(|pod| pod.requests.memory).sum();
    let cpu = daemons.iter().map(|pod| pod.requests.cpu).sum::<MilliCpu>();
    (memory > allocatable.memory || cpu > allocatable.cpu).then(|| {
        let has = format!("it has {} and {}", allocatable.memory, allocatable.cpu);
        Refusal::NoRoom(format!("its DaemonSets need {memory} memory and {cpu}, {has}"))
    })
}

/// Disks of the VM that a new one is like, but for volumes of claims and devices passed through.
fn own_disks(twin: &GuestConfig, vmid: VmId) -> BTreeMap<String, Disk> {
    let own = twin.disks.iter().filter(|(_, disk)| !disk.is_csi());
    let copies = own.enumerate().filter_map(|(number, (slot, disk))| {
        let (storage, _) = disk.volume.split_once(':')?;
        let volume = format!("{storage}:vm-{vmid}-disk-{number}");
        Some((slot.clone(), Disk { volume, ..disk.clone() }))
    });
    copies.collect()
}

fn free_vmid(player: &Player<'_>, number: usize) -> u32 {
    let taken: BTreeSet<u32> = player.ground.snapshot.guests().map(|guest| guest.vmid.0).collect();
    let most = taken.iter().copied().filter(|vmid| *vmid < 9000).max().unwrap_or(100);
    (most + 1..).filter(|vmid| !taken.contains(vmid)).nth(number - 1).unwrap_or(most)
}

/// Value of a topology label on a host: that of a node there.
fn zone_of(player: &Player<'_>, host: &HostName, key: &str) -> Option<String> {
    let nodes = player.ground.snapshot.kube.nodes.items().iter();
    let mut there = nodes.filter(|node| player.ground.guest(&node.name).is_some_and(|guest| guest.host == *host));
    there.find_map(|node| node.labels.get(key).cloned())
}

/// What every DaemonSet would run there: what it runs on the worker it is like.
fn daemons(player: &Player<'_>, like: &NodeName, name: &NodeName) -> Vec<Pod> {
    let cluster = &player.scheduler.cluster;
    let Some(node) = cluster.node_named(like) else { return Vec::new() };
    let pods = cluster.pods_on(node).iter().map(|pod| cluster.pod(*pod)).filter(|pod| pod.is_daemon());
    let copies = pods.map(|pod| Pod {
        name: format!("{}-{name}", pod.owner.as_ref().map_or("daemon", |owner| owner.name.as_str())),
        uid: String::new(),
        phase: Phase::Running,
        node: Some(name.clone()),
        claims: Vec::new(),
        ..pod.clone()
    });
    copies.collect()
}

/// How many workers of this size the hosts have memory for, their reserves kept; `None` is unknown.
pub(super) fn hosts_take(player: &Player<'_>, memory: Bytes) -> Option<u64> {
    let ground = player.ground;
    let hosts = ground.snapshot.hosts().filter(|host| host.online && !player.hosts_failed.contains(&host.name));
    let reserve = ground.policy.worker.host_reserve;
    let each = hosts.map(|host| Some(host.memory.known()?.available().minus(reserve).0 / memory.0.max(1)));
    let unread = ground.snapshot.pve.is_empty() || ground.snapshot.pve.iter().any(|pve| pve.hosts.why().is_some());
    each.collect::<Option<Vec<u64>>>().filter(|_| !unread).map(total)
}

/// The host that is named, or the one that has room for certain with most memory available; and why it has no
/// room.
fn host_for(
    player: &Player<'_>,
    named: Option<&HostName>,
    memory: Bytes,
    cores: u64,
) -> Result<(HostName, Option<Refusal>), SimulateError> {
    let hosts: Vec<&Host> = player.ground.snapshot.hosts().filter(|host| host.online).collect();
    let known = hosts.iter().map(|host| host.name.to_string()).collect::<Vec<_>>().join(", ");
    let taken = |host: &Host| -> Bytes {
        let mine = player.workers.iter().filter(|worker| worker.guest.host == host.name && worker.refused.is_none());
        let there = mine.filter(|worker| player.scheduler.cluster.node_named(&worker.node.name).is_some());
        there.map(|worker| worker.guest.max_memory).sum()
    };
    // VMs of workers that a change before this one took away leave theirs behind: what they used of it.
    // That is at least what runs inside, and at most all of their memory.
    let gone = |host: &Host| -> Vec<&Guest> {
        let guests = player.powered_off.iter().filter_map(|name| player.ground.guest(name));
        guests.filter(|guest| guest.host == host.name && guest.power == Power::Running).collect()
    };
    let with = |host: &Host, freed: Bytes| {
        host.memory.known().map(|memory| (memory.available() + freed).min(memory.total).minus(taken(host)))
    };
    let available =
        |host: &Host| with(host, gone(host).iter().map(|guest| guest.memory_used.unwrap_or_default().min(guest.memory())).sum());
    let at_most = |host: &Host| with(host, gone(host).iter().map(|guest| guest.memory()).sum());
    let has_threads = |host: &Host| host.cpus.known().is_none_or(|most| cores <= *most);
    let needed = memory + player.ground.policy.worker.host_reserve;
    let is_certain =
        |host: &Host| host.cpus.known().is_some_and(|most| cores <= *most) && available(host).is_some_and(|free| free >= needed);
    let open: Vec<&Host> = hosts.iter().copied().filter(|host| !player.hosts_failed.contains(&host.name)).collect();
    let host = match named {
        Some(name) => *hosts
            .iter()
            .find(|host| host.name == *name)
            .ok_or_else(|| SimulateError::NoHost { name: name.to_string(), known })?,
        None => match open
            .iter()
            .max_by_key(|host| (is_certain(host), has_threads(host), available(host), std::cmp::Reverse(&host.name)))
        {
            Some(host) => *host,
            None => {
                let why = "no online host is known".to_owned();
                return Ok((HostName::default(), Some(Refusal::Unknown(why))));
            }
        },
    };
    // One that is not known may have room.
    let may = |host: &Host| {
        host.memory.why().is_some()
            || host.cpus.why().is_some()
            || has_threads(host) && at_most(host).is_some_and(|most| most >= needed)
    };
    let unknown = named.is_none() && open.iter().any(|host| may(host));
    let unread = player.ground.snapshot.pve.iter().find_map(|pve| pve.hosts.why()).filter(|_| named.is_none());
    let no_room = |why: String| match unread {
        _ if unknown => Refusal::Unknown(format!("{why}; whether another host has room is unknown")),
        Some(hosts) => Refusal::Unknown(format!("{why}; other hosts are unknown: {hosts}")),
        None => Refusal::NoRoom(why),
    };
    let refused = if player.hosts_failed.contains(&host.name) {
        Some(Refusal::NoRoom(format!("{} is down", host.name)))
    } else if let Some(most) = host.cpus.known().copied().filter(|most| cores > *most) {
        Some(no_room(format!("{} has {most} threads, the worker needs {cores}: a VM cannot start with more", host.name)))
    } else {
        match available(host) {
            Some(free) if free >= needed => {
                host.cpus.why().map(|why| Refusal::Unknown(format!("the threads of {} are unknown: {why}", host.name)))
            }
            Some(free) if at_most(host).is_some_and(|most| most >= needed) => Some(Refusal::Unknown(format!(
                "{} has {free} available and what the VMs before leave behind, the worker needs {needed}",
                host.name
            ))),
            Some(free) => Some(no_room(format!(
                "{} has {free} available, the worker needs {needed} ({memory} and a reserve of {})",
                host.name, player.ground.policy.worker.host_reserve
            ))),
            None => {
                let why = host.memory.why().unwrap_or("not read");
                Some(Refusal::Unknown(format!("the memory of {} is unknown: {why}", host.name)))
            }
        }
    };
    Ok((host.name.clone(), refused))
}

/// Lets a worker join; one that no host is known to have room for stays away.
pub(super) fn join(player: &mut Player<'_>, worker: NewWorker) {
    player.undecided.extend(worker.doubts.iter().cloned());
    player.unread.extend(worker.unread.iter().cloned());
    if let Some(Refusal::Unknown(why)) = &worker.refused {
        player.undecided.insert(format!("whether a host has room for {}: {why}", worker.node.name));
    }
    if worker.refused.is_none() {
        worker.enter(&mut player.scheduler.cluster);
        player.plugs.add_node(&worker.node.name, &worker.guest.config, worker.advertised());
    }
    player.workers.push(worker);
}
