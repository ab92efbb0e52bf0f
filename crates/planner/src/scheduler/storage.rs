//! Claims and volumes: where a pod may go with them, and what binding them does.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use capplan_model::ids::{NodeName, VolumeHandle};
use capplan_model::kube::{
    Claim, CsiNode, CsiStorageCapacity, Kube, LabelSelector, Labels, Node, NodeSelector, NodeSelectorTerm, PersistentVolume,
    Requirement, StorageClass,
};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// Place of a claim.
pub(super) type ClaimId = usize;
/// A volume as volume limits count it: one `(driver, handle)`.
pub(super) type VolumeKey = usize;

#[derive(Clone, Debug)]
struct ClaimRow<'a> {
    /// `None`: a pod names it, but it does not exist.
    claim: Option<Cow<'a, Claim>>,
    name: String,
    /// The volume it is bound to, or that it will be bound to by name.
    volume: Option<usize>,
    /// Whether it is bound for good.
    bound: bool,
    key: Option<VolumeKey>,
    /// Number of bound pods that use it.
    users: i64,
    /// Whether the simulation added it: its volume is made in time, wherever its pod goes.
    added: bool,
}

#[derive(Clone, Debug)]
struct VolumeRow<'a> {
    volume: Cow<'a, PersistentVolume>,
    /// A claim of the simulation took it.
    taken: bool,
}

/// Why a pod cannot go anywhere because of its claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ClaimRejection {
    Missing(String),
    Lost { claim: String, volume: String },
    Deleting(String),
    Unbound,
}

/// What the claims of a pod lack on a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct VolumeConflict {
    /// A bound volume cannot be used from there.
    pub elsewhere: bool,
    /// No volume can be found or made there.
    pub unavailable: bool,
    /// Too little capacity is reported there.
    pub full: bool,
    /// A claim is bound to a volume that does not exist.
    pub lost: bool,
}

/// Bindings that a placement made: `(claim, volume)`, and how many volumes were made for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Bindings {
    made: Vec<(ClaimId, Option<VolumeKey>)>,
    volumes: usize,
}

impl Bindings {
    pub(super) fn is_empty(&self) -> bool {
        self.made.is_empty()
    }
}

/// A choice for a claim that waits for its first consumer.
enum Choice {
    Volume(ClaimId, usize),
    Provision(ClaimId),
}

/// Claims and volumes.
#[derive(Clone, Debug)]
pub(super) struct Storage<'a> {
    claims: Vec<ClaimRow<'a>>,
    claim_names: HashMap<(String, String), ClaimId, FxBuildHasher>,
    volumes: Vec<VolumeRow<'a>>,
    volume_names: HashMap<&'a str, usize, FxBuildHasher>,
    /// Volumes that a claim might take, by class.
    available: HashMap<&'a str, Vec<usize>, FxBuildHasher>,
    classes: HashMap<&'a str, &'a StorageClass, FxBuildHasher>,
    drivers: Vec<String>,
    keys: HashMap<(usize, String), VolumeKey, FxBuildHasher>,
    key_drivers: Vec<usize>,
    csi_nodes: HashMap<NodeName, Cow<'a, CsiNode>, FxBuildHasher>,
    /// Drivers whose capacity is tracked.
    tracked: BTreeSet<&'a str>,
    capacities: &'a [CsiStorageCapacity],
    /// Changes whenever a claim or volume does.
    pub version: u64,
}

/// Labels that tie a volume to a zone or region, and the newer spelling of each.
///
/// # Source
/// `topologyLabels`, `pkg/scheduler/framework/plugins/volumezone` (v1.36).
const ZONE_LABELS: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];
/// Provisioner of classes whose volumes are made by hand.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

impl<'a> Storage<'a> {
    pub(super) fn of(kube: &'a Kube) -> Self {
        let volumes = kube.persistent_volumes.items();
        let mut available: HashMap<&str, Vec<usize>, FxBuildHasher> = HashMap::default();
        for (place, volume) in volumes.iter().enumerate() {
            if volume.phase == "Available" || volume.phase == "Pending" {
                available.entry(&volume.storage_class).or_default().push(place);
            }
        }
        let mut storage = Self {
            claims: Vec::new(),
            claim_names: HashMap::default(),
            volumes: volumes.iter().map(|volume| VolumeRow { volume: Cow::Borrowed(volume), taken: false }).collect(),
            volume_names: volumes.iter().enumerate().map(|(place, volume)| (volume.name.as_str(), place)).collect(),
            available,
            classes: kube.storage_classes.items().iter().map(|class| (class.name.as_str(), class)).collect(),
            drivers: Vec::new(),
            keys: HashMap::default(),
            key_drivers: Vec::new(),
            csi_nodes: kube.csi_nodes.items().iter().map(|node| (node.name.clone(), Cow::Borrowed(node))).collect(),
            tracked: kube.csi_drivers.items().iter().filter(|one| one.storage_capacity).map(|one| one.name.as_str()).collect(),
            capacities: kube.csi_storage_capacities.items(),
            version: 0,
        };
        for claim in kube.claims.items() {
            storage.insert_claim(Cow::Borrowed(claim));
        }
        storage
    }

    fn driver(&mut self, name: &str) -> usize {
        match self.drivers.iter().position(|one| one == name) {
            Some(place) => place,
            None => {
                self.drivers.push(name.to_owned());
                self.drivers.len() - 1
            }
        }
    }

    pub(super) fn driver_named(&self, name: &str) -> Option<usize> {
        self.drivers.iter().position(|one| one == name)
    }

    pub(super) fn driver_name(&self, driver: usize) -> &str {
        &self.drivers[driver]
    }

    fn intern(&mut self, driver: &str, handle: String) -> VolumeKey {
        let driver = self.driver(driver);
        let drivers = &mut self.key_drivers;
        *self.keys.entry((driver, handle)).or_insert_with(|| {
            drivers.push(driver);
            drivers.len() - 1
        })
    }

    pub(super) fn limits(&mut self, node: &CsiNode) -> Vec<(usize, u64)> {
        node.drivers.iter().filter_map(|one| Some((self.driver(&one.name), one.count?))).collect()
    }

    pub(super) fn add_csi_node(&mut self, node: CsiNode) {
        self.csi_nodes.insert(node.name.clone(), Cow::Owned(node));
    }

    /// Volumes with a VolumeAttachment, by node.
    pub(super) fn attachments(&mut self, kube: &'a Kube) -> BTreeMap<&'a NodeName, Vec<VolumeKey>> {
        let mut by_node: BTreeMap<&NodeName, Vec<VolumeKey>> = BTreeMap::new();
        for one in kube.volume_attachments.items().iter().filter(|one| !one.vanished && !one.attacher.is_empty()) {
            let volume = one.volume.as_ref().and_then(|name| self.volume_names.get(name.as_str()).copied());
            let Some(handle) = volume.and_then(|volume| self.volumes[volume].volume.handle.clone()) else { continue };
            let key = self.intern(&one.attacher, handle.0);
            let keys = by_node.entry(&one.node).or_default();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        by_node
    }

    fn insert_claim(&mut self, claim: Cow<'a, Claim>) {
        let volume = claim.volume.as_ref().and_then(|name| self.volume_names.get(name.as_str()).copied());
        let key = match volume.map(|volume| self.volumes[volume].volume.clone()) {
            Some(volume) => volume.handle.as_ref().map(|handle| self.intern(&volume.driver, handle.0.clone())),
            None => self
                .classes
                .get(claim.storage_class.as_str())
                .copied()
                .map(|class| self.intern(&class.provisioner, format!("claim {}/{}", claim.namespace, claim.name))),
        };
        let bound = claim.phase == "Bound" && claim.volume.is_some();
        let id = self.claim(&claim.namespace, &claim.name);
        let row = &mut self.claims[id];
        (row.volume, row.bound, row.key, row.claim) = (volume, bound, key, Some(claim));
    }

    pub(super) fn add_claim(&mut self, claim: Claim) {
        self.version += 1;
        let id = self.claim(&claim.namespace, &claim.name);
        self.insert_claim(Cow::Owned(claim));
        self.claims[id].added = true;
    }

    /// Place of a claim, which need not exist.
    pub(super) fn claim(&mut self, namespace: &str, name: &str) -> ClaimId {
        let claims = &mut self.claims;
        *self.claim_names.entry((namespace.to_owned(), name.to_owned())).or_insert_with(|| {
            claims.push(ClaimRow {
                claim: None,
                name: name.to_owned(),
                volume: None,
                bound: false,
                key: None,
                users: 0,
                added: false,
            });
            claims.len() - 1
        })
    }

    pub(super) fn key(&self, claim: ClaimId) -> Option<VolumeKey> {
        self.claims[claim].key
    }

    pub(super) fn driver_of(&self, key: VolumeKey) -> usize {
        self.key_drivers[key]
    }

    pub(super) fn use_claim(&mut self, claim: ClaimId, sign: i64) {
        self.claims[claim].users += sign;
        self.version += 1;
    }

    /// Whether another pod uses a claim that only one pod at a time may use.
    pub(super) fn is_held(&self, claims: &[ClaimId]) -> bool {
        claims.iter().map(|claim| &self.claims[*claim]).any(|row| {
            row.users > 0
                && row.claim.as_ref().is_some_and(|claim| claim.access_modes.iter().any(|mode| mode == "ReadWriteOncePod"))
        })
    }

    /// Why the pod cannot go anywhere.
    ///
    /// # Source
    /// `PreFilter` of VolumeRestrictions and VolumeBinding, in this order,
    /// `pkg/scheduler/framework/plugins` (v1.36).
    pub(super) fn rejection(&self, claims: &[ClaimId]) -> Option<ClaimRejection> {
        let rows = || claims.iter().map(|claim| &self.claims[*claim]);
        if let Some(row) = rows().find(|row| row.claim.is_none()) {
            return Some(ClaimRejection::Missing(row.name.clone()));
        }
        for row in rows() {
            let Some(claim) = &row.claim else { continue };
            if claim.phase == "Lost" {
                let volume = claim.volume.as_ref().map(|name| name.0.clone()).unwrap_or_default();
                return Some(ClaimRejection::Lost { claim: row.name.clone(), volume });
            }
            if claim.deleting.is_some() {
                return Some(ClaimRejection::Deleting(row.name.clone()));
            }
        }
        rows().any(|row| !row.bound && !self.waits(row)).then_some(ClaimRejection::Unbound)
    }

    /// Whether an unbound claim's volume is found or made for its pod: it waits for its first consumer, or
    /// it is a new one, which has its volume before its pod is placed.
    fn waits(&self, row: &ClaimRow<'_>) -> bool {
        row.claim.as_ref().is_some_and(|claim| {
            let class = self.classes.get(claim.storage_class.as_str());
            claim.volume.is_none() && class.is_some_and(|class| row.added || class.binding_mode == "WaitForFirstConsumer")
        })
    }

    /// What the claims lack on a node.
    ///
    /// # Source
    /// `FindPodVolumes`, `pkg/scheduler/framework/plugins/volumebinding/binder.go` (v1.36).
    pub(super) fn conflict(&self, claims: &[ClaimId], node: &Node) -> VolumeConflict {
        let mut conflict = VolumeConflict::default();
        for row in claims.iter().map(|claim| &self.claims[*claim]).filter(|row| row.bound) {
            match row.volume {
                // The search for the others ends at the first that is missing or elsewhere.
                None => {
                    conflict.lost = true;
                    break;
                }
                Some(volume) if !reaches(&self.volumes[volume].volume, node) => {
                    conflict.elsewhere = true;
                    break;
                }
                Some(_) => {}
            }
        }
        if let Err((unavailable, full)) = self.choose(claims, node) {
            (conflict.unavailable, conflict.full) = (unavailable, full);
        }
        conflict
    }

    /// Finds or makes a volume for each claim that waits: what would be done, or
    /// `(no volume to be had, too little capacity)`.
    fn choose(&self, claims: &[ClaimId], node: &Node) -> Result<Vec<Choice>, (bool, bool)> {
        let waiting = claims.iter().copied().filter(|claim| !self.claims[*claim].bound && self.waits(&self.claims[*claim]));
        let (mut searching, mut made) = (Vec::new(), Vec::new());
        for claim in waiting {
            match self.claims[claim].claim.as_ref().and_then(|claim| claim.selected_node.as_ref()) {
                Some(selected) if *selected != node.name => return Err((true, false)),
                Some(_) => made.push(claim),
                None => searching.push(claim),
            }
        }
        let requested = |claim: ClaimId| self.claims[claim].claim.as_ref().map_or(0, |claim| claim.requested.0);
        searching.sort_by_key(|claim| requested(*claim));
        let (mut choices, mut taken) = (Vec::new(), Vec::new());
        for claim in searching {
            match self.smallest(claim, node, &taken) {
                Some(volume) => {
                    taken.push(volume);
                    choices.push(Choice::Volume(claim, volume));
                }
                None => made.push(claim),
            }
        }
        for claim in made {
            let row = &self.claims[claim];
            let class = row.claim.as_ref().and_then(|claim| self.classes.get(claim.storage_class.as_str()));
            let Some(class) = class else { return Err((true, false)) };
            if class.provisioner.is_empty() || class.provisioner == NO_PROVISIONER || !allows(class, &node.labels) {
                return Err((true, false));
            }
            if !self.has_room(class, requested(claim), node) {
                return Err((false, true));
            }
            choices.push(Choice::Provision(claim));
        }
        Ok(choices)
    }

    /// The smallest volume for a claim on a node.
    ///
    /// # Source
    /// `FindMatchingVolume`, `k8s.io/component-helpers/storage/volume/pv_helpers.go` (v1.36).
    fn smallest(&self, id: ClaimId, node: &Node, taken: &[usize]) -> Option<usize> {
        let claim = self.claims[id].claim.as_ref()?;
        let candidates = self.available.get(claim.storage_class.as_str())?.iter().copied();
        let mut best: Option<(u64, usize)> = None;
        for place in candidates.filter(|place| !taken.contains(place) && !self.volumes[*place].taken) {
            let volume = &self.volumes[place].volume;
            let reserved = volume.claim.as_ref();
            let is_mine = reserved.is_some_and(|name| name.0 == format!("{}/{}", claim.namespace, claim.name));
            if (reserved.is_some() && !is_mine)
                || volume.capacity < claim.requested
                || volume.block != claim.block
                || volume.deleting.is_some()
            {
                continue;
            }
            if is_mine {
                return reaches(volume, node).then_some(place);
            }
            let fits = volume.phase == "Available"
                && claim.selector.as_ref().is_none_or(|selector| selector.matches(&volume.labels))
                && reaches(volume, node)
                && claim.access_modes.iter().all(|mode| volume.access_modes.contains(mode));
            if fits && best.is_none_or(|(size, _)| volume.capacity.0 < size) {
                best = Some((volume.capacity.0, place));
            }
        }
        best.map(|(_, place)| place)
    }

    /// Whether a driver that tracks its capacity reports enough of it for the node.
    fn has_room(&self, class: &StorageClass, requested: u64, node: &Node) -> bool {
        !self.tracked.contains(class.provisioner.as_str())
            || self.capacities.iter().any(|one| {
                one.storage_class == class.name
                    && one.maximum_volume.or(one.capacity).is_some_and(|most| most.0 >= requested)
                    && one.topology.as_ref().is_some_and(|selector| selector.matches(&node.labels))
            })
    }

    /// Whether the volumes' zone labels agree with the node's.
    ///
    /// # Source
    /// `pkg/scheduler/framework/plugins/volumezone` (v1.36).
    pub(super) fn zone_agrees(&self, claims: &[ClaimId], node: &Node) -> bool {
        let mut volumes = claims.iter().filter_map(|claim| Some(&self.volumes[self.claims[*claim].volume?].volume));
        if !ZONE_LABELS.iter().any(|(key, _)| node.labels.contains_key(*key)) {
            return true;
        }
        volumes.all(|volume| {
            ZONE_LABELS.iter().filter_map(|(key, newer)| Some((key, newer, volume.labels.get(*key)?))).all(
                |(key, newer, zones)| {
                    let own = node.labels.get(*key).or_else(|| node.labels.get(*newer));
                    own.is_some_and(|own| zones.split("__").any(|zone| zone == own))
                },
            )
        })
    }

    /// Binds the claims that wait, as the scheduler and the provisioner would on this node.
    pub(super) fn bind(&mut self, claims: &[ClaimId], node: &Node) -> Bindings {
        let mut bindings = Bindings::default();
        if claims.iter().all(|claim| self.claims[*claim].bound) {
            return bindings;
        }
        let choices = self.choose(claims, node).unwrap_or_default();
        for choice in choices {
            let (claim, volume) = match choice {
                Choice::Volume(claim, volume) => (claim, volume),
                Choice::Provision(claim) => {
                    let Some(volume) = self.provisioned(claim, node) else { continue };
                    self.volumes.push(VolumeRow { volume: Cow::Owned(volume), taken: true });
                    bindings.volumes += 1;
                    (claim, self.volumes.len() - 1)
                }
            };
            self.volumes[volume].taken = true;
            let handle = self.volumes[volume].volume.handle.clone();
            let driver = self.volumes[volume].volume.driver.clone();
            bindings.made.push((claim, self.claims[claim].key));
            // A volume that is made keeps the key that its claim was counted by.
            if let Some(handle) = handle {
                self.claims[claim].key = Some(self.intern(&driver, handle.0));
            } else if driver.is_empty() {
                self.claims[claim].key = None;
            }
            let row = &mut self.claims[claim];
            (row.volume, row.bound) = (Some(volume), true);
            self.version += 1;
        }
        bindings
    }

    /// The volume that a driver makes for a claim on a node: it can be used wherever the driver's
    /// topology keys have the same values.
    fn provisioned(&self, claim: ClaimId, node: &Node) -> Option<PersistentVolume> {
        let claim = self.claims[claim].claim.as_ref()?;
        let class = self.classes.get(claim.storage_class.as_str())?;
        let driver = self.csi_nodes.get(&node.name)?.drivers.iter().find(|one| one.name == class.provisioner);
        let keys = driver.map_or(&[][..], |driver| &driver.topology_keys);
        let same = keys.iter().filter_map(|key| {
            let value = node.labels.get(key)?.clone();
            Some(Requirement { key: key.clone(), operator: "In".into(), values: vec![value] })
        });
        let term = NodeSelectorTerm { match_expressions: same.collect(), match_fields: Vec::new() };
        let name = format!("pvc-{}-{}", claim.namespace, claim.name);
        Some(PersistentVolume {
            name: name.as_str().into(),
            driver: class.provisioner.clone(),
            handle: Some(VolumeHandle(format!("claim {}/{}", claim.namespace, claim.name))),
            phase: "Bound".into(),
            capacity: claim.requested,
            storage_class: class.name.clone(),
            reclaim_policy: class.reclaim_policy.clone(),
            access_modes: claim.access_modes.clone(),
            node_affinity: (!term.match_expressions.is_empty()).then(|| NodeSelector { node_selector_terms: vec![term] }),
            ..Default::default()
        })
    }

    /// Frees the claims that were bound here.
    pub(super) fn forget_bindings(&mut self) {
        let made = |row: &ClaimRow<'_>| row.bound && row.users == 0 && row.claim.as_ref().is_some_and(|one| one.volume.is_none());
        let ids: Vec<ClaimId> = (0..self.claims.len()).filter(|claim| made(&self.claims[*claim])).collect();
        for id in ids {
            let row = &mut self.claims[id];
            (row.bound, row.key) = (false, None);
            if let Some(volume) = row.volume.take() {
                // A volume that was made for the claim is for no other one.
                self.volumes[volume].taken = matches!(self.volumes[volume].volume, Cow::Owned(_));
            }
            let Some(claim) = self.claims[id].claim.clone() else { continue };
            self.insert_claim(claim);
        }
        self.version += 1;
    }

    pub(super) fn unbind(&mut self, bindings: Bindings) {
        for (claim, key) in bindings.made {
            let row = &mut self.claims[claim];
            if let Some(volume) = row.volume.take() {
                self.volumes[volume].taken = false;
            }
            (row.bound, row.key) = (false, key);
        }
        self.volumes.truncate(self.volumes.len() - bindings.volumes);
        self.version += 1;
    }
}

fn reaches(volume: &PersistentVolume, node: &Node) -> bool {
    volume.node_affinity.as_ref().is_none_or(|selector| selector.matches(node))
}

fn allows(class: &StorageClass, labels: &Labels) -> bool {
    class.allowed_topologies.is_empty()
        || class.allowed_topologies.iter().any(|term| {
            term.iter().all(|(key, values)| labels.get(key).is_some_and(|own| values.split(',').any(|one| one == own)))
        })
}

/// A selector of exactly these labels.
pub(super) fn equal_to(labels: &Labels) -> LabelSelector {
    LabelSelector { match_labels: labels.clone(), match_expressions: Vec::new() }
}
