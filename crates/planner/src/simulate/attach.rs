//! The storage plugin's side of a placement: a disk slot of the VM for each volume.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::ids::{NodeName, PvName};
use capplan_model::kube::{Claim, Pod};
use capplan_model::pve::GuestConfig;
use capplan_model::slots::{PLUGIN_SLOTS, VolumeSlots};
use capplan_model::{Reading, Snapshot};

use crate::scheduler::{Cluster, NodeId, PodId};

/// Slots of one VM.
#[derive(Clone, Debug)]
struct Plug {
    /// Free slots; `None` is unknown.
    free: Option<u64>,
    /// Volumes that are there, with the pods that use each.
    there: BTreeMap<String, u32>,
    occupied: Option<u64>,
    advertised: Option<u64>,
}

/// Disk slots of all workers' VMs.
#[derive(Clone, Debug, Default)]
pub(super) struct Plugs {
    nodes: BTreeMap<NodeName, Plug>,
    /// Volume of each claim of the plugin's, by `namespace/name`.
    volumes: BTreeMap<String, String>,
    classes: Vec<String>,
    /// Volumes that several nodes may use at once.
    shared: BTreeSet<String>,
}

/// What came of attaching a pod's volumes.
#[derive(Debug, Default)]
pub(super) struct Attached {
    /// Volumes that cannot be attached.
    pub refused: Vec<(String, AttachRefusal)>,
    /// Whether the slots of the VM are unknown, so that nothing is certain.
    pub unknown: bool,
}

impl Attached {
    /// Whether every volume is certain to be attached.
    pub(super) fn is_certain(&self) -> bool {
        self.refused.is_empty() && !self.unknown
    }
}

/// Why a volume cannot be attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum AttachRefusal {
    /// The VM has no free slot.
    NoSlot,
    /// It is attached to this other node, whose pod still uses it.
    Elsewhere(NodeName),
}

impl Plugs {
    pub(super) fn of(snapshot: &Snapshot, driver: &str, slots: &Reading<Vec<VolumeSlots>>) -> Self {
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
            let mut there: BTreeMap<String, u32> = BTreeMap::new();
            for volid in config.into_iter().flat_map(|config| config.plugged.values()) {
                if let Some(volume) = by_volid.get(volid.as_str()) {
                    there.insert(volume.0.clone(), 0);
                }
            }
            for attachment in one.attached.known().into_iter().flatten() {
                there.insert(attachment.volume.0.clone(), 0);
            }
            let occupied = config.map(capplan_model::slots::ConfigSlots::occupied);
            let plug = Plug {
                free: occupied.map(|occupied| PLUGIN_SLOTS.saturating_sub(occupied)),
                there,
                occupied,
                advertised: one.advertised.known().copied().flatten(),
            };
            plugs.nodes.insert(one.node.clone(), plug);
        }
        for pod in kube.pods.items().iter().filter(|pod| !pod.is_terminal() && !pod.claims.is_empty()) {
            let Some(plug) = pod.node.as_ref().and_then(|node| plugs.nodes.get_mut(node)) else { continue };
            for claim in &pod.claims {
                if let Some(volume) = plugs.volumes.get(&format!("{}/{claim}", pod.namespace))
                    && let Some(users) = plug.there.get_mut(volume)
                {
                    *users += 1;
                }
            }
        }
        plugs
    }

    /// A worker that is not there yet.
    pub(super) fn add_node(&mut self, node: &NodeName, config: &Reading<GuestConfig>, advertised: Option<u64>) {
        let occupied = config.known().map(|config| config.csi_slots().count() as u64);
        let free = occupied.map(|occupied| PLUGIN_SLOTS.saturating_sub(occupied));
        let plug = Plug { free, there: BTreeMap::new(), occupied, advertised };
        self.nodes.insert(node.clone(), plug);
    }

    /// A claim whose volume the plugin will make.
    pub(super) fn add_claim(&mut self, claim: &Claim) {
        if self.classes.contains(&claim.storage_class) {
            let name = format!("{}/{}", claim.namespace, claim.name);
            self.volumes.insert(name.clone(), format!("new volume of claim {name}"));
        }
    }

    /// Takes a pod off its node, with its volumes; answers the node.
    pub(super) fn lift(&mut self, cluster: &mut Cluster<'_>, pod: PodId) -> Option<NodeId> {
        let node = cluster.node_of(pod)?;
        self.detach(cluster.pod(pod), &cluster.node(node).name);
        cluster.take(pod);
        Some(node)
    }

    /// Puts a pod on a node, with its volumes.
    pub(super) fn put(&mut self, cluster: &mut Cluster<'_>, pod: PodId, node: NodeId) -> Attached {
        cluster.bind(pod, node);
        self.attach(cluster.pod(pod), &cluster.node(node).name)
    }

    /// Attaches the volumes of a pod.
    pub(super) fn attach(&mut self, pod: &Pod, node: &NodeName) -> Attached {
        let mut attached = Attached::default();
        for volume in self.volumes_of(pod).map(str::to_owned).collect::<Vec<_>>() {
            let used_on = |plug: &Plug| plug.there.get(&volume).is_some_and(|users| *users > 0);
            if !self.shared.contains(&volume)
                && let Some((other, _)) = self.nodes.iter().find(|(name, plug)| *name != node && used_on(plug))
            {
                attached.refused.push((volume, AttachRefusal::Elsewhere(other.clone())));
                continue;
            }
            let Some(plug) = self.nodes.get_mut(node) else {
                attached.unknown = true;
                continue;
            };
            if let Some(users) = plug.there.get_mut(&volume) {
                *users += 1;
                continue;
            }
            match &mut plug.free {
                Some(0) => attached.refused.push((volume, AttachRefusal::NoSlot)),
                Some(free) => {
                    *free -= 1;
                    plug.there.insert(volume, 1);
                }
                None => {
                    attached.unknown = true;
                    plug.there.insert(volume, 1);
                }
            }
        }
        attached
    }

    /// Detaches the volumes of a pod that no other pod there uses.
    fn detach(&mut self, pod: &Pod, node: &NodeName) {
        let volumes: Vec<String> = self.volumes_of(pod).map(str::to_owned).collect();
        let Some(plug) = self.nodes.get_mut(node) else { return };
        for volume in volumes {
            if let Some(users) = plug.there.get_mut(&volume) {
                *users = users.saturating_sub(1);
                if *users == 0 {
                    plug.there.remove(&volume);
                    if let Some(free) = &mut plug.free {
                        *free += 1;
                    }
                }
            }
        }
    }

    /// Free slots of a node's VM; `None` is unknown or no worker.
    pub(super) fn free(&self, node: &NodeName) -> Option<u64> {
        self.nodes.get(node)?.free
    }

    /// Those of a pod's volumes that are the plugin's.
    pub(super) fn volumes_of(&self, pod: &Pod) -> impl Iterator<Item = &str> {
        pod.claims.iter().filter_map(|claim| self.volumes.get(&format!("{}/{claim}", pod.namespace))).map(String::as_str)
    }

    /// The slots of a node's VM in words.
    pub(super) fn describe(&self, node: &NodeName) -> String {
        let Some(plug) = self.nodes.get(node) else { return "unknown".to_owned() };
        let count = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
        format!(
            "its VM held {} disks on the {PLUGIN_SLOTS} slots before, the scheduler allows {} volumes",
            count(plug.occupied),
            count(plug.advertised)
        )
    }
}
