//! The storage plugin's side of a placement: a disk slot of the VM for each volume.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::ids::{NodeName, PvName};
use capplan_model::kube::{Claim, Pod};
use capplan_model::pve::GuestConfig;
use capplan_model::slots::{PLUGIN_SLOTS, VolumeSlots};
use capplan_model::{Reading, Snapshot};

use crate::scheduler::{Cluster, NodeId, PodId};

/// Name of the volume that is made for a claim: no namespace has a dot.
pub(crate) fn new_volume(claim: &Claim) -> String {
    format!("pvc-{}.{}", claim.namespace, claim.name)
}

/// A volume of a VM.
#[derive(Clone, Debug, Default)]
struct Seat {
    /// Pods there that use it.
    users: u32,
    /// Whether it takes a slot, or one is kept for it.
    plugged: bool,
    /// Whether there is a VolumeAttachment.
    attached: bool,
    /// Whether that is being deleted.
    detaching: bool,
}

/// Slots of one VM.
#[derive(Clone, Debug)]
struct Plug {
    /// Free slots; `None` is unknown.
    free: Option<u64>,
    /// Volumes that are there.
    there: BTreeMap<String, Seat>,
    /// Whether its VolumeAttachments are known.
    listed: bool,
    occupied: Option<u64>,
    advertised: Option<u64>,
}

impl Plug {
    /// Takes a slot for a volume; `None` is unknown.
    fn plug(&mut self, volume: &str) -> Option<bool> {
        let seat = self.there.entry(volume.to_owned()).or_default();
        match &mut self.free {
            _ if seat.plugged => Some(true),
            Some(0) => Some(false),
            Some(free) => {
                *free -= 1;
                seat.plugged = true;
                Some(true)
            }
            None => None,
        }
    }
}

/// Disk slots of all workers' VMs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plugs {
    nodes: BTreeMap<NodeName, Plug>,
    /// Volume of each claim of the plugin's, by `namespace/name`.
    volumes: BTreeMap<String, String>,
    classes: Vec<String>,
    /// Volumes that several nodes may use at once.
    shared: BTreeSet<String>,
    /// Where each volume is used by pods.
    used_on: BTreeMap<String, BTreeSet<NodeName>>,
}

/// What came of attaching a pod's volumes.
#[derive(Debug, Default)]
pub(crate) struct Attached {
    /// Volumes that cannot be attached.
    pub refused: Vec<(String, AttachRefusal)>,
    /// Whether the slots of the VM are unknown, so that nothing is certain.
    pub unknown: bool,
}

/// Why a volume cannot be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AttachRefusal {
    /// The VM has no free slot.
    NoSlot,
    /// It is attached to this other node, whose pod still uses it.
    Elsewhere(NodeName),
}

impl Plugs {
    pub(crate) fn of(snapshot: &Snapshot, driver: &str, slots: &Reading<Vec<VolumeSlots>>) -> Self {
        let kube = &snapshot.kube;
        let mut plugs = Self {
            classes: kube
                .storage_classes
                .items()
                .iter()
                .filter(|class| class.provisioner == driver)
                .map(|class| class.name.clone())
                .collect(),
            ..Self::default()
        };
        let ours = snapshot.volumes_of(driver);
        for claim in kube.claims.items() {
            match &claim.volume {
                Some(volume) if ours.contains_key(volume) => {
                    plugs.volumes.insert(format!("{}/{}", claim.namespace, claim.name), volume.0.clone());
                }
                Some(_) => {}
                None => plugs.add_claim(claim),
            }
        }
        plugs.shared = kube
            .persistent_volumes
            .items()
            .iter()
            .filter(|volume| volume.access_modes.iter().any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany"))
            .map(|volume| volume.name.0.clone())
            .collect();
        let by_volid: BTreeMap<&str, &PvName> =
            ours.iter().filter_map(|(name, volid)| Some((volid.as_deref()?, *name))).collect();
        for one in slots.known().into_iter().flatten() {
            let config = one.config.known();
            let mut there: BTreeMap<String, Seat> = BTreeMap::new();
            for volid in config.into_iter().flat_map(|config| config.plugged.values()) {
                if let Some(volume) = by_volid.get(volid.as_str()) {
                    there.insert(volume.0.clone(), Seat { plugged: true, ..Seat::default() });
                }
            }
            let attachments = one.attached.known().into_iter().flatten();
            let mut coming = Vec::new();
            for attachment in attachments {
                let seat = there.entry(attachment.volume.0.clone()).or_default();
                (seat.attached, seat.detaching) = (true, attachment.detaching);
                if !attachment.detaching {
                    coming.push(attachment.volume.0.clone());
                }
            }
            let occupied = config.map(capplan_model::slots::ConfigSlots::occupied);
            let mut plug = Plug {
                free: occupied.map(|occupied| PLUGIN_SLOTS.saturating_sub(occupied)),
                there,
                listed: one.attached.known().is_some(),
                occupied,
                advertised: one.advertised.known().copied().flatten(),
            };
            // What is being attached takes the next free slot.
            for volume in coming {
                plug.plug(&volume);
            }
            plugs.nodes.insert(one.node.clone(), plug);
        }
        for pod in kube.pods.items().iter().filter(|pod| !pod.is_terminal() && !pod.claims.is_empty()) {
            let Some(node) = &pod.node else { continue };
            for volume in plugs.volumes_of(pod).map(str::to_owned).collect::<Vec<_>>() {
                let Some(plug) = plugs.nodes.get_mut(node) else { continue };
                plug.plug(&volume);
                plug.there.entry(volume.clone()).or_default().users += 1;
                plugs.used_on.entry(volume).or_default().insert(node.clone());
            }
        }
        plugs
    }

    /// A worker that is not there yet.
    pub(crate) fn add_node(&mut self, node: &NodeName, config: &Reading<GuestConfig>, advertised: Option<u64>) {
        let occupied = config.known().map(|config| config.csi_slots().count() as u64);
        let free = occupied.map(|occupied| PLUGIN_SLOTS.saturating_sub(occupied));
        let plug = Plug { free, there: BTreeMap::new(), listed: true, occupied, advertised };
        self.nodes.insert(node.clone(), plug);
    }

    /// A claim whose volume the plugin will make.
    pub(crate) fn add_claim(&mut self, claim: &Claim) {
        if self.classes.contains(&claim.storage_class) {
            self.volumes.insert(format!("{}/{}", claim.namespace, claim.name), new_volume(claim));
        }
    }

    /// Takes a pod off its node, with its volumes; answers the node.
    pub(crate) fn lift(&mut self, cluster: &mut Cluster<'_>, pod: PodId) -> Option<NodeId> {
        let node = cluster.node_of(pod)?;
        self.detach(cluster.pod(pod), &cluster.node(node).name);
        cluster.take(pod);
        cluster.detach(pod, node);
        Some(node)
    }

    /// Puts a pod on a node, with its volumes.
    pub(crate) fn put(&mut self, cluster: &mut Cluster<'_>, pod: PodId, node: NodeId) -> Attached {
        cluster.bind(pod, node);
        self.attach(cluster.pod(pod), &cluster.node(node).name)
    }

    /// The other node where a pod uses one of this pod's volumes that only one node may use.
    pub(crate) fn is_used_elsewhere(&self, pod: &Pod, node: &NodeName) -> Option<&NodeName> {
        self.volumes_of(pod).find_map(|volume| self.elsewhere(volume, node))
    }

    /// Another node, if a volume that only one may use is in use there.
    fn elsewhere(&self, volume: &str, node: &NodeName) -> Option<&NodeName> {
        let nodes = self.used_on.get(volume).filter(|_| !self.shared.contains(volume))?;
        nodes.iter().find(|other| *other != node)
    }

    /// Whether every volume of a pod can be attached; `None` is unknown.
    pub(crate) fn can_attach(&self, pod: &Pod, node: &NodeName) -> Option<bool> {
        if self.is_used_elsewhere(pod, node).is_some() {
            return Some(false);
        }
        let fresh: BTreeSet<&str> = self.volumes_of(pod).filter(|volume| !self.is_plugged(volume, node)).collect();
        if fresh.is_empty() { Some(true) } else { self.free(node).map(|free| free >= fresh.len() as u64) }
    }

    /// Attaches the volumes of a pod.
    pub(crate) fn attach(&mut self, pod: &Pod, node: &NodeName) -> Attached {
        let mut attached = Attached::default();
        for volume in self.volumes_of(pod).map(str::to_owned).collect::<Vec<_>>() {
            if let Some(other) = self.elsewhere(&volume, node) {
                attached.refused.push((volume, AttachRefusal::Elsewhere(other.clone())));
                continue;
            }
            let Some(plug) = self.nodes.get_mut(node) else {
                attached.unknown = true;
                continue;
            };
            match plug.plug(&volume) {
                Some(true) => {}
                Some(false) => attached.refused.push((volume.clone(), AttachRefusal::NoSlot)),
                None => attached.unknown = true,
            }
            plug.there.entry(volume.clone()).or_default().users += 1;
            self.used_on.entry(volume).or_default().insert(node.clone());
        }
        attached
    }

    /// Detaches the volumes of a pod that no other pod there uses.
    fn detach(&mut self, pod: &Pod, node: &NodeName) {
        let volumes: Vec<String> = self.volumes_of(pod).map(str::to_owned).collect();
        let Some(plug) = self.nodes.get_mut(node) else { return };
        for volume in volumes {
            let Some(seat) = plug.there.get_mut(&volume) else { continue };
            seat.users = seat.users.saturating_sub(1);
            if seat.users > 0 {
                continue;
            }
            let plugged = seat.plugged;
            plug.there.remove(&volume);
            if let Some(free) = plug.free.as_mut().filter(|_| plugged) {
                *free += 1;
            }
            // One that waits for a slot takes it.
            let waits = |seat: &Seat| !seat.plugged && (seat.users > 0 || seat.attached && !seat.detaching);
            if let Some(next) = plug.there.iter().find(|(_, seat)| waits(seat)).map(|(name, _)| name.clone()) {
                plug.plug(&next);
            }
            if let Some(nodes) = self.used_on.get_mut(&volume) {
                nodes.remove(node);
            }
        }
    }

    /// Volumes attached to a node, or about to be; `None` is unknown.
    pub(crate) fn attachments(&self, node: &NodeName) -> Option<u64> {
        let plug = self.nodes.get(node).filter(|plug| plug.listed)?;
        Some(plug.there.values().filter(|seat| seat.attached || seat.users > 0).count() as u64)
    }

    /// Whether a volume has a slot on a node.
    pub(crate) fn is_plugged(&self, volume: &str, node: &NodeName) -> bool {
        self.nodes.get(node).is_some_and(|plug| plug.there.get(volume).is_some_and(|seat| seat.plugged))
    }

    /// Every volume that is on some node.
    pub(crate) fn all(&self) -> BTreeSet<&str> {
        self.nodes.values().flat_map(|plug| plug.there.keys()).map(String::as_str).collect()
    }

    /// Free slots of a node's VM; `None` is unknown or no worker.
    pub(crate) fn free(&self, node: &NodeName) -> Option<u64> {
        self.nodes.get(node)?.free
    }

    /// Those of a pod's volumes that are the plugin's.
    pub(crate) fn volumes_of(&self, pod: &Pod) -> impl Iterator<Item = &str> {
        pod.claims.iter().filter_map(|claim| self.volumes.get(&format!("{}/{claim}", pod.namespace))).map(String::as_str)
    }

    /// The slots of a node's VM in words.
    pub(crate) fn describe(&self, node: &NodeName) -> String {
        let Some(plug) = self.nodes.get(node) else { return "unknown".to_owned() };
        let count = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
        format!(
            "its VM held {} disks on the {PLUGIN_SLOTS} slots before, the scheduler allows {} volumes",
            count(plug.occupied),
            count(plug.advertised)
        )
    }
}
