//! Writes what was played into the snapshot, so that everything else sees the cluster afterwards.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Reading;
use capplan_model::Snapshot;
use capplan_model::ids::{HostName, NodeName, ObjectName, PvName, VmId, VolumeHandle};
use capplan_model::join::{Join, join};
use capplan_model::kube::{Claim, Node, PersistentVolume, Phase, Pod, VolumeAttachment};
use capplan_model::pve::{CSI_SLOTS, Disk, Guest, GuestConfig, Power};

use super::play::Player;
use super::worker::NewWorker;
use crate::attach::new_volume;

/// What was played, as values of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effects {
    /// Where listed pods are now; `None` is nowhere.
    pub moved: BTreeMap<(String, String), Option<NodeName>>,
    /// Listed pods that are gone.
    pub gone: BTreeSet<(String, String)>,
    /// New pods, with their nodes.
    pub added: Vec<Pod>,
    /// Pods in the order in which they were placed.
    pub order: Vec<(String, String)>,
    pub nodes: Vec<Node>,
    pub nodes_gone: BTreeSet<NodeName>,
    pub powered_off: BTreeSet<NodeName>,
    pub workers: Vec<NewWorker>,
    pub claims: Vec<Claim>,
    /// Why volumes cannot be attached to nodes.
    pub refused: BTreeMap<(NodeName, String), String>,
}

/// Namespaces and names.
type Keys = BTreeSet<(String, String)>;

/// What the plugin says of a VM without a free slot.
const NO_LUN: &str = "rpc error: code = Internal desc = no free lun found";

fn key(pod: &Pod) -> (String, String) {
    (pod.namespace.clone(), pod.name.clone())
}

fn claims_of(pod: &Pod) -> impl Iterator<Item = (String, String)> + '_ {
    pod.claims.iter().map(|claim| (pod.namespace.clone(), claim.clone()))
}

impl Effects {
    pub(super) fn of(player: &Player<'_>) -> Self {
        let cluster = &player.scheduler.cluster;
        let mut effects = Self {
            order: player.placed.iter().map(|pod| key(cluster.pod(*pod))).collect(),
            nodes_gone: player.nodes_gone.iter().map(|node| cluster.node(*node).name.clone()).collect(),
            powered_off: player.powered_off.clone(),
            workers: player
                .workers
                .iter()
                .filter(|worker| worker.refused.is_none())
                // As later changes left it.
                .filter_map(|worker| {
                    let node = cluster.node(cluster.node_named(&worker.node.name)?).clone();
                    Some(NewWorker { node, ..worker.clone() })
                })
                .collect(),
            refused: player.refusals(),
            claims: player.claims.clone(),
            ..Self::default()
        };
        for id in 0..cluster.pod_count() {
            let pod = cluster.pod(id);
            let now = cluster.node_of(id).map(|node| &cluster.node(node).name);
            if player.gone.contains(&id) {
                effects.gone.insert(key(pod));
            } else if cluster.is_added(id) {
                // Others were only tried.
                if now.is_none() && !player.additions.contains(&id) {
                    continue;
                }
                let phase = if now.is_some() { Phase::Running } else { Phase::Pending };
                effects.added.push(Pod { node: now.cloned(), phase, ..pod.clone() });
            } else if pod.node.as_ref() != now {
                effects.moved.insert(key(pod), now.cloned());
            }
        }
        effects.nodes = cluster.altered_nodes().cloned().collect();
        effects
    }

    /// Makes the snapshot that of the cluster afterwards.
    pub(crate) fn apply(self, snapshot: &mut Snapshot, driver: &str) {
        for worker in &self.workers {
            let endpoint =
                snapshot.pve.iter_mut().find(|pve| pve.hosts.items().iter().any(|host| host.name == worker.guest.host));
            if let Some(Reading::Known(guests)) = endpoint.map(|pve| &mut pve.guests) {
                guests.push(worker.guest.clone());
            }
        }
        if let Reading::Known(nodes) = &mut snapshot.kube.nodes {
            nodes.extend(self.workers.iter().map(|worker| worker.node.clone()));
        }
        let mut machines = machines(snapshot);
        if let Reading::Known(nodes) = &mut snapshot.kube.nodes {
            for node in nodes.iter_mut() {
                if let Some(altered) = self.nodes.iter().find(|one| one.name == node.name) {
                    *node = altered.clone();
                }
            }
            nodes.retain(|node| !self.nodes_gone.contains(&node.name));
        }
        if let Reading::Known(csi_nodes) = &mut snapshot.kube.csi_nodes {
            csi_nodes.retain(|node| !self.nodes_gone.contains(&node.name));
            csi_nodes.extend(self.workers.iter().map(|worker| worker.csi.clone()));
        }
        for node in &self.powered_off {
            if let Some(guest) = guest_mut(snapshot, machines.get(node)) {
                guest.power = Power::Stopped;
            }
        }
        machines.retain(|node, _| !self.nodes_gone.contains(node));
        let touched = self.touched_claims(snapshot);
        let before = uses(snapshot, &touched);
        if let Reading::Known(pods) = &mut snapshot.kube.pods {
            if !self.moved.is_empty() || !self.gone.is_empty() {
                pods.retain_mut(|pod| {
                    let name = key(pod);
                    if let Some(now) = self.moved.get(&name) {
                        pod.node.clone_from(now);
                        pod.phase = if now.is_some() { Phase::Running } else { Phase::Pending };
                    }
                    !self.gone.contains(&name)
                });
            }
            pods.extend(self.added.iter().cloned());
        }
        if let Reading::Known(claims) = &mut snapshot.kube.claims {
            claims.extend(self.claims.iter().cloned());
        }
        provision(snapshot, driver, &touched);
        self.attach(snapshot, driver, &machines, &touched, &before);
    }

    /// Claims of the pods that moved, went, or are new: no other attachment changes.
    fn touched_claims(&self, snapshot: &Snapshot) -> Keys {
        let mut touched: Keys = self.added.iter().flat_map(claims_of).collect();
        if !self.moved.is_empty() || !self.gone.is_empty() {
            let pods = snapshot.kube.pods.items().iter().filter(|pod| !pod.claims.is_empty());
            let pods = pods.filter(|pod| self.moved.contains_key(&key(pod)) || self.gone.contains(&key(pod)));
            touched.extend(pods.flat_map(claims_of));
        }
        touched
    }

    /// Detaches what no pod uses any more where it was, and attaches what is new where it is.
    fn attach(
        &self,
        snapshot: &mut Snapshot,
        driver: &str,
        machines: &BTreeMap<NodeName, Place>,
        touched: &Keys,
        before: &BTreeSet<(NodeName, PvName)>,
    ) {
        let after = uses(snapshot, touched);
        let ours: BTreeMap<PvName, Option<String>> =
            snapshot.volumes_of(driver).into_iter().map(|(name, volid)| (name.clone(), volid)).collect();
        let left: BTreeSet<&(NodeName, PvName)> = before.difference(&after).collect();
        let mut there: BTreeSet<(NodeName, PvName)> = BTreeSet::new();
        if let Reading::Known(attachments) = &mut snapshot.kube.volume_attachments {
            attachments.retain(|one| {
                let place = one.volume.clone().map(|volume| (one.node.clone(), volume));
                !self.nodes_gone.contains(&one.node) && place.is_none_or(|place| !left.contains(&place))
            });
            let places = attachments.iter().filter(|one| one.attacher == driver);
            there = places.filter_map(|one| Some((one.node.clone(), one.volume.clone()?))).collect();
        }
        for (node, volume) in left {
            let volid = ours.get(volume).cloned().flatten();
            if let Some(config) = config_mut(snapshot, machines.get(node)) {
                config.disks.retain(|_, disk| Some(&disk.volume) != volid.as_ref());
            }
        }
        let order: BTreeMap<&(String, String), usize> = self.order.iter().enumerate().map(|(place, key)| (key, place)).collect();
        let mut fresh: Vec<(usize, NodeName, PvName)> = Vec::new();
        for (pod, node, volume) in users(snapshot, touched) {
            let place = (node.clone(), volume.clone());
            if ours.contains_key(volume) && !before.contains(&place) && there.insert(place) {
                let at = order.get(&key(pod)).copied().unwrap_or(usize::MAX);
                fresh.push((at, node.clone(), volume.clone()));
            }
        }
        fresh.sort();
        for (_, node, volume) in fresh {
            let volid = ours.get(&volume).cloned().flatten().unwrap_or_else(|| format!("new:vm-9999-{volume}"));
            let why = self.refused.get(&(node.clone(), volume.0.clone()));
            let plugged = match config_mut(snapshot, machines.get(&node)) {
                _ if why.is_some() => false,
                Some(config) => {
                    let free = CSI_SLOTS.map(|slot| format!("scsi{slot}")).find(|slot| !config.disks.contains_key(slot));
                    let found = free.is_some();
                    if let Some(slot) = free {
                        config.disks.insert(slot, Disk { volume: volid, ..Disk::default() });
                    }
                    found
                }
                // The VM's slots are unknown: that the volume is attached is all that can be said.
                None => true,
            };
            if let Reading::Known(attachments) = &mut snapshot.kube.volume_attachments {
                attachments.push(VolumeAttachment {
                    name: format!("capplan-{node}-{volume}"),
                    attacher: driver.to_owned(),
                    node,
                    volume: Some(volume),
                    attached: plugged,
                    attach_error: (!plugged).then(|| why.map_or(NO_LUN, String::as_str).to_owned()),
                    ..VolumeAttachment::default()
                });
            }
        }
    }
}

/// Where a VM is in the snapshot: which endpoint, which guest.
type Place = (usize, usize);

/// Each node's VM.
fn machines(snapshot: &Snapshot) -> BTreeMap<NodeName, Place> {
    // VMIDs are unique within one PVE cluster only.
    let mut places: BTreeMap<(&HostName, VmId), Place> = BTreeMap::new();
    for (endpoint, pve) in snapshot.pve.iter().enumerate() {
        for (guest, one) in pve.guests.items().iter().enumerate() {
            places.insert((&one.host, one.vmid), (endpoint, guest));
        }
    }
    let joins = join(snapshot).into_known().unwrap_or_default();
    let guests = joins.into_iter().filter_map(|(node, join)| match join {
        Join::Guest(guest) => Some((node.clone(), *places.get(&(&guest.host, guest.vmid))?)),
        Join::Missing | Join::Ambiguous { .. } => None,
    });
    guests.collect()
}

fn guest_mut<'s>(snapshot: &'s mut Snapshot, place: Option<&Place>) -> Option<&'s mut Guest> {
    let (endpoint, guest) = *place?;
    match &mut snapshot.pve.get_mut(endpoint)?.guests {
        Reading::Known(guests) => guests.get_mut(guest),
        Reading::Unknown { .. } => None,
    }
}

fn config_mut<'s>(snapshot: &'s mut Snapshot, place: Option<&Place>) -> Option<&'s mut GuestConfig> {
    match &mut guest_mut(snapshot, place)?.config {
        Reading::Known(config) => Some(config),
        Reading::Unknown { .. } => None,
    }
}

/// Pods that use one of the claims, with their nodes and the claims' volumes.
fn users<'s>(snapshot: &'s Snapshot, claims: &Keys) -> Vec<(&'s Pod, &'s NodeName, &'s PvName)> {
    if claims.is_empty() {
        return Vec::new();
    }
    let volumes = snapshot.claimed_volumes().into_known().unwrap_or_default();
    let mut users = Vec::new();
    for pod in snapshot.kube.pods.items().iter().filter(|pod| !pod.claims.is_empty() && !pod.is_terminal()) {
        let Some(node) = &pod.node else { continue };
        for claim in claims_of(pod).filter(|claim| claims.contains(claim)) {
            if let Some(volume) = volumes.get(&(claim.0.as_str(), claim.1.as_str())) {
                users.push((pod, node, *volume));
            }
        }
    }
    users
}

/// Which volumes of the claims the pods of each node use.
fn uses(snapshot: &Snapshot, claims: &Keys) -> BTreeSet<(NodeName, PvName)> {
    users(snapshot, claims).into_iter().map(|(_, node, volume)| (node.clone(), volume.clone())).collect()
}

/// Makes the volumes of those claims that waited for the pods that are placed now.
fn provision(snapshot: &mut Snapshot, driver: &str, touched: &Keys) {
    let live = snapshot.kube.pods.items().iter().filter(|pod| pod.node.is_some() && !pod.is_terminal());
    let placed: Keys = live.flat_map(claims_of).filter(|claim| touched.contains(claim)).collect();
    let classes: BTreeMap<String, (String, String)> = snapshot
        .kube
        .storage_classes
        .items()
        .iter()
        .filter(|class| class.provisioner == driver)
        .map(|class| (class.name.clone(), (class.storage.clone(), class.reclaim_policy.clone())))
        .collect();
    let (Reading::Known(claims), Reading::Known(volumes)) = (&mut snapshot.kube.claims, &mut snapshot.kube.persistent_volumes)
    else {
        return;
    };
    for claim in claims.iter_mut().filter(|claim| claim.volume.is_none()) {
        let Some((storage, reclaim)) = classes.get(&claim.storage_class) else { continue };
        if !placed.contains(&(claim.namespace.clone(), claim.name.clone())) {
            continue;
        }
        let name = new_volume(claim);
        let storage = if storage.is_empty() { "local-lvm" } else { storage };
        volumes.push(PersistentVolume {
            name: name.as_str().into(),
            driver: driver.to_owned(),
            handle: Some(VolumeHandle(format!("new/new/{storage}/vm-9999-{name}"))),
            phase: "Bound".into(),
            capacity: claim.requested,
            claim: Some(ObjectName::new(&claim.namespace, &claim.name)),
            storage_class: claim.storage_class.clone(),
            reclaim_policy: reclaim.clone(),
            access_modes: claim.access_modes.clone(),
            ..PersistentVolume::default()
        });
        claim.volume = Some(name.into());
        claim.phase = "Bound".into();
    }
}
