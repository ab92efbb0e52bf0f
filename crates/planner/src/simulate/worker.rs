//! A worker that is not there yet: what it brings, and what it costs its host.

use std::collections::BTreeMap;

use capplan_model::Reading;
use capplan_model::change::AddWorker;
use capplan_model::ids::{HostName, NodeName, VmId};
use capplan_model::join::{Join, join as join_planes};
use capplan_model::kube::{CONTROL_PLANE_LABEL, CsiNode, CsiNodeDriver, MAX_VOLUMES_LABEL, Node, Phase, Pod};
use capplan_model::pve::{Disk, Guest, GuestConfig, Host, Power};
use capplan_model::units::{Bytes, MilliCpu};

use super::SimulateError;
use super::play::Player;

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
pub(super) struct NewWorker {
    pub node: Node,
    pub csi: CsiNode,
    pub guest: Guest,
    /// Pods of DaemonSets that run there first.
    pub daemons: Vec<Pod>,
    /// Why it does not join.
    pub refused: Option<Refusal>,
}

impl NewWorker {
    /// Why its host has certainly no room for it.
    pub(super) fn no_room(&self) -> Option<&str> {
        match &self.refused {
            Some(Refusal::NoRoom(why)) => Some(why),
            Some(Refusal::Unknown(_)) | None => None,
        }
    }
}

/// Why a worker does not join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Its host has no room.
    NoRoom(String),
    /// Whether its host has room is unknown.
    Unknown(String),
}

/// Works out a new worker.
pub(super) fn new(player: &Player<'_>, add: &AddWorker) -> Result<NewWorker, SimulateError> {
    let (snapshot, policy) = (player.snapshot, player.policy);
    let cluster = &player.scheduler.cluster;
    let like = match &add.like {
        Some(name) => cluster.node(player.node(name)?).clone(),
        None => {
            let mut general = cluster.nodes().map(|node| cluster.node(node)).filter(|node| node.takes_general_pods());
            let first = general.next().or_else(|| cluster.nodes().map(|node| cluster.node(node)).find(|n| !n.is_control_plane()));
            first.cloned().ok_or_else(|| {
                SimulateError::Change("there is no worker that a new one could be like: its size is unknown".into())
            })?
        }
    };
    let memory = add.memory.unwrap_or(policy.worker.memory);
    let joins = join_planes(snapshot);
    let twin = joins.known().and_then(|joins| match joins.get(&like.name)? {
        Join::Guest(guest) => Some(*guest),
        Join::Missing | Join::Ambiguous { .. } => None,
    });
    // The new VM loses as much to kernel and reservations as the one it is like.
    let twin_memory = twin.map_or(like.capacity.memory, Guest::memory);
    let reserved = twin_memory.minus(like.allocatable.memory);
    let cores = add.cores.unwrap_or(like.capacity.cpu.0 / 1000);
    let taken = like.capacity.cpu.0.saturating_sub(like.allocatable.cpu.0);
    let number = player.workers.len() + 1;
    let name = NodeName(format!("new-worker-{number}"));
    let mut labels: BTreeMap<String, String> = like
        .labels
        .iter()
        .filter(|(key, _)| !OWN_LABELS.contains(&key.as_str()) && key.as_str() != CONTROL_PLANE_LABEL)
        .filter(|(key, _)| add.like.is_some() || key.as_str() != MAX_VOLUMES_LABEL)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    labels.insert("kubernetes.io/hostname".into(), name.0.clone());
    labels.extend(add.labels.clone());
    let volumes = labels.get(MAX_VOLUMES_LABEL).and_then(|text| text.parse::<u64>().ok());
    let volumes = volumes.filter(|count| *count <= MOST_VOLUMES).unwrap_or(UNLABELLED_VOLUMES);
    let mut allocatable = like.allocatable.clone();
    allocatable.memory = memory.minus(reserved);
    allocatable.cpu = MilliCpu((cores * 1000).saturating_sub(taken));
    // A device passed through to one VM is not there for a second one.
    allocatable.extended.retain(|name, _| !name.contains('/'));
    let mut capacity = allocatable.clone();
    (capacity.memory, capacity.cpu) = (memory, MilliCpu(cores * 1000));
    let topology_keys = snapshot
        .kube
        .csi_nodes
        .items()
        .iter()
        .find(|node| node.name == like.name)
        .and_then(|node| node.drivers.iter().find(|driver| driver.name == policy.attacher))
        .map(|driver| driver.topology_keys.clone())
        .unwrap_or_default();
    let driver = CsiNodeDriver { name: policy.attacher.clone(), count: Some(volumes), topology_keys };
    let daemons = daemons(player, &like.name, &name);
    let node = Node {
        name: name.clone(),
        uid: String::new(),
        created: None,
        labels,
        taints: Vec::new(),
        unschedulable: false,
        provider_id: None,
        system_uuid: Some(format!("new-worker-{number}")),
        kubelet_version: like.kubelet_version.clone(),
        internal_ips: Vec::new(),
        capacity,
        allocatable,
        max_pods: like.max_pods,
        conditions: like.conditions.clone(),
        volumes_in_use: Vec::new(),
        volumes_attached: Vec::new(),
        images: Vec::new(),
        architecture: like.architecture.clone(),
    };
    let (host, refused) = host_for(player, add.host.as_ref(), memory)?;
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
    Ok(NewWorker { csi: CsiNode { name, drivers: vec![driver] }, node, guest, daemons, refused })
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
    let taken = player.snapshot.guests().map(|guest| guest.vmid.0);
    let most = taken.filter(|vmid| *vmid < 9000).max().unwrap_or(100);
    most + u32::try_from(number).unwrap_or(1)
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

/// The host with most memory available, or the one that is named; and why it has no room.
fn host_for(player: &Player<'_>, named: Option<&HostName>, memory: Bytes) -> Result<(HostName, Option<Refusal>), SimulateError> {
    let hosts: Vec<&Host> = player.snapshot.hosts().filter(|host| host.online).collect();
    let known = hosts.iter().map(|host| host.name.to_string()).collect::<Vec<_>>().join(", ");
    let taken = |host: &Host| -> Bytes {
        let mine = player.workers.iter().filter(|worker| worker.guest.host == host.name);
        mine.map(|worker| worker.guest.max_memory).sum()
    };
    // VMs of workers that a change before this one took away leave theirs behind.
    let freed = |host: &Host| -> Bytes {
        let joins = join_planes(player.snapshot);
        let guest = |name: &NodeName| match joins.known().and_then(|joins| joins.get(name).cloned()) {
            Some(Join::Guest(guest)) if guest.host == host.name => Some(guest.memory()),
            _ => None,
        };
        player.powered_off.iter().filter_map(guest).sum()
    };
    let available = |host: &Host| host.memory.known().map(|memory| (memory.available() + freed(host)).minus(taken(host)));
    let host = match named {
        Some(name) => *hosts
            .iter()
            .find(|host| host.name == *name)
            .ok_or_else(|| SimulateError::NoHost { name: name.to_string(), known })?,
        None => match hosts.iter().max_by_key(|host| (available(host), std::cmp::Reverse(host.name.clone()))) {
            Some(host) => *host,
            None => {
                let why = "no online host is known".to_owned();
                return Ok((HostName::default(), Some(Refusal::Unknown(why))));
            }
        },
    };
    let needed = memory + player.policy.worker.host_reserve;
    let refused = match available(host) {
        Some(free) if free >= needed => None,
        Some(free) => Some(Refusal::NoRoom(format!(
            "{} has {free} available, the worker needs {needed} ({memory} and a reserve of {})",
            host.name, player.policy.worker.host_reserve
        ))),
        None => {
            let why = host.memory.why().unwrap_or("not read");
            Some(Refusal::Unknown(format!("the memory of {} is unknown: {why}", host.name)))
        }
    };
    Ok((host.name.clone(), refused))
}

/// Lets a worker join; one that no host is known to have room for stays away.
pub(super) fn join(player: &mut Player<'_>, worker: NewWorker) {
    if let Some(Refusal::Unknown(why)) = &worker.refused {
        player.undecided.insert(format!("whether a host has room for {}: {why}", worker.node.name));
    }
    if worker.refused.is_none() {
        let node = player.scheduler.cluster.add_node(worker.node.clone(), Some(&worker.csi));
        let advertised = worker.csi.drivers.first().and_then(|driver| driver.count);
        player.plugs.add_node(&worker.node.name, &worker.guest.config, advertised);
        for pod in &worker.daemons {
            let id = player.scheduler.cluster.add_pod(pod.clone());
            player.scheduler.cluster.bind(id, node);
        }
    }
    player.workers.push(worker);
}
