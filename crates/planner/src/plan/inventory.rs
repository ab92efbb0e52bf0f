//! What a pod is to its workload, its volumes and its budgets.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Snapshot;
use capplan_model::ids::PvName;
use capplan_model::kube::{Claim, Owner, Pdb, PersistentVolume, Pod};

/// Labels that mark a storage controller: the pod that serves a volume to others.
///
/// # Source
/// OpenEBS Jiva: `openebs.io/component=jiva-controller` (CSI) and `openebs.io/controller=jiva-controller`
/// (before), which also name the volume in `openebs.io/persistent-volume`; Longhorn:
/// `longhorn.io/component=instance-manager`.
const CONTROLLER_LABELS: [(&str, &str); 3] = [
    ("openebs.io/component", "jiva-controller"),
    ("openebs.io/controller", "jiva-controller"),
    ("longhorn.io/component", "instance-manager"),
];
/// Label that names the volume a storage controller serves.
const CONTROLLER_VOLUME: &str = "openebs.io/persistent-volume";
/// Label of a pod that CloudNativePG manages, with the cluster's name.
///
/// # Source
/// CloudNativePG, "Labels and annotations": `cnpg.io/cluster`, `cnpg.io/instanceRole` (`role` before 1.20).
const DATABASE: &str = "cnpg.io/cluster";
const DATABASE_ROLES: [&str; 2] = ["cnpg.io/instanceRole", "role"];

/// What pods are to each other.
pub(crate) struct Inventory<'a> {
    copies: BTreeMap<(&'a str, &'a str, &'a str), u64>,
    claims: BTreeMap<(&'a str, &'a str), &'a Claim>,
    volumes: BTreeMap<&'a PvName, &'a PersistentVolume>,
    /// Budgets by namespace.
    budgets: BTreeMap<&'a str, Vec<&'a Pdb>>,
    /// Pods by the volume they use.
    users: BTreeMap<&'a PvName, Vec<&'a Pod>>,
    /// Images that some pod could not pull.
    unpullable: BTreeSet<&'a str>,
}

fn key(pod: &Pod) -> Option<(&str, &str, &str)> {
    let owner = pod.owner.as_ref()?;
    Some((&pod.namespace, &owner.kind, &owner.name))
}

impl<'a> Inventory<'a> {
    pub(crate) fn of(snapshot: &'a Snapshot) -> Self {
        let kube = &snapshot.kube;
        let mut inventory = Self {
            copies: BTreeMap::new(),
            claims: kube.claims.items().iter().map(|one| ((one.namespace.as_str(), one.name.as_str()), one)).collect(),
            volumes: kube.persistent_volumes.items().iter().map(|one| (&one.name, one)).collect(),
            budgets: BTreeMap::new(),
            users: BTreeMap::new(),
            unpullable: BTreeSet::new(),
        };
        for pdb in kube.pdbs.items() {
            inventory.budgets.entry(&pdb.namespace).or_default().push(pdb);
        }
        for pod in kube.pods.items().iter().filter(|pod| !pod.is_terminal()) {
            if let Some(key) = key(pod) {
                *inventory.copies.entry(key).or_default() += 1;
            }
            let names = pod.claims.iter().filter_map(|claim| inventory.claim(pod, claim)?.volume.as_ref());
            for name in names.collect::<Vec<_>>() {
                inventory.users.entry(name).or_default().push(pod);
            }
            if matches!(pod.waiting.as_str(), "ErrImagePull" | "ImagePullBackOff") {
                inventory.unpullable.extend(pod.images.iter().map(String::as_str));
            }
        }
        inventory
    }

    /// A claim that a pod mounts.
    pub(crate) fn claim(&self, pod: &Pod, name: &str) -> Option<&'a Claim> {
        self.claims.get(&(pod.namespace.as_str(), name)).copied()
    }

    /// The volumes that a pod mounts.
    pub(crate) fn volumes(&self, pod: &Pod) -> impl Iterator<Item = &'a PersistentVolume> {
        let names = pod.claims.iter().filter_map(|claim| self.claim(pod, claim)?.volume.as_ref());
        names.filter_map(|name| self.volumes.get(name).copied())
    }

    /// The volumes of a pod that a driver attaches to its node's VM.
    pub(crate) fn attachable(&self, pod: &Pod, driver: &str) -> BTreeSet<&'a PvName> {
        self.volumes(pod).filter(|volume| volume.driver == driver).map(|volume| &volume.name).collect()
    }

    /// Whether one of its volumes may be used from one node at a time only.
    pub(crate) fn has_rwo(&self, pod: &Pod) -> bool {
        self.volumes(pod).any(|volume| volume.is_single_node())
    }

    /// Whether it is the only pod of its workload.
    pub(crate) fn is_single(&self, pod: &Pod) -> bool {
        let is_job = |owner: &Owner| owner.kind == "Job";
        !pod.owner.as_ref().is_some_and(is_job)
            && key(pod).and_then(|key| self.copies.get(&key)).is_none_or(|copies| *copies == 1)
    }

    /// Whether an operator makes another instance the primary before this one goes.
    pub(crate) fn is_switched_over(&self, pod: &Pod) -> bool {
        pod.labels.contains_key(DATABASE) && self.is_primary(pod) && !self.is_single(pod)
    }

    /// Whether it is the primary instance of a database that an operator manages.
    pub(crate) fn is_primary(&self, pod: &Pod) -> bool {
        pod.labels.contains_key(DATABASE)
            && DATABASE_ROLES.iter().any(|label| pod.labels.get(*label).is_some_and(|role| role == "primary"))
    }

    /// Whether other pods reach a volume through it.
    pub(crate) fn is_storage_controller(pod: &Pod) -> bool {
        CONTROLLER_LABELS.iter().any(|(key, value)| pod.labels.get(*key).is_some_and(|label| label == value))
    }

    /// Pods that use the volume which a storage controller serves.
    pub(crate) fn consumers(&self, controller: &Pod) -> &[&'a Pod] {
        let name = controller.labels.get(CONTROLLER_VOLUME).map(|name| PvName(name.clone()));
        name.and_then(|name| self.users.get(&name)).map_or(&[], Vec::as_slice)
    }

    /// Budgets that protect a pod.
    pub(crate) fn budgets(&self, pod: &Pod) -> Vec<&'a Pdb> {
        let mine = self.budgets.get(pod.namespace.as_str()).into_iter().flatten();
        mine.filter(|pdb| pdb.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels))).copied().collect()
    }

    /// Live pods that use a volume.
    pub(crate) fn users(&self, volume: &PvName) -> &[&'a Pod] {
        self.users.get(volume).map_or(&[], Vec::as_slice)
    }

    /// Other live pods that use a volume.
    pub(crate) fn other_users(&self, volume: &PvName, pod: &Pod) -> impl Iterator<Item = &'a Pod> {
        let users = self.users.get(volume).into_iter().flatten().copied();
        users.filter(move |user| user.uid != pod.uid || user.name != pod.name)
    }

    /// Whether some pod waits because it cannot pull this image.
    pub(crate) fn is_unpullable(&self, image: &str) -> bool {
        self.unpullable.contains(image)
    }
}
