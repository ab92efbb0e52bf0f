//! Which disks are volumes of this cluster, and who refers to a disk.
//!
//! The only place that knows how disks, volume handles and attachments are named. A disk is identified by the last
//! component of its name (`vm-204-disk-1`), whatever storage or folder stands before it: two storages of Proxmox VE
//! may show the same logical volume, so that a different storage proves nothing.
//!
//! Nothing here asks the policy. A setting that is wrong must not make a volume in use look unused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{NodeName, PvName, VmId};
use crate::kube::{PersistentVolume, Pod, VolumeAttachment};
use crate::pve::{Disk, Guest, Pve};
use crate::reading::Reading;
use crate::snapshot::Snapshot;

/// Suffixes of image files; the same disk is named with and without them.
///
/// # Source
/// `PVE::Storage::Plugin::parse_name_dir`: raw, qcow2, vmdk and subvol.
const SUFFIXES: [&str; 4] = [".raw", ".qcow2", ".vmdk", ".subvol"];

/// The last component of the name of a disk, without the suffix of a file.
///
/// ```
/// use capplan_model::volumes::disk_name;
///
/// assert_eq!(disk_name("local-lvm:vm-204-disk-1"), "vm-204-disk-1");
/// assert_eq!(disk_name("store:9999/vm-9999-pvc-1.raw"), "vm-9999-pvc-1");
/// assert_eq!(disk_name("lab/pve1/local-lvm/vm-9999-pvc-1"), "vm-9999-pvc-1");
/// ```
pub fn disk_name(volume: &str) -> &str {
    let last = volume.rsplit(['/', ':']).next().unwrap_or(volume);
    SUFFIXES.iter().find_map(|suffix| last.strip_suffix(suffix)).unwrap_or(last)
}

/// Whether Proxmox VE takes a disk for the guest's own: it frees such a disk when the guest is destroyed, and keeps
/// it as `unusedN` when it is detached.
///
/// # Source
/// `PVE::Storage::parse_volname`: the owner of `vm-ID-…` and `base-ID-…` is the guest ID.
pub fn is_owned_by(volume: &str, vmid: VmId) -> bool {
    let name = disk_name(volume);
    ["vm", "base"].iter().any(|kind| name.starts_with(&format!("{kind}-{vmid}-")))
}

/// Whether a disk is called after a PersistentVolume, as the storage plugin names its disks: what is known of a volume
/// whose object is gone.
pub fn is_called_after(disk: &str, volume: &str) -> bool {
    !volume.is_empty() && disk.contains(volume)
}

/// Whether a text of a configuration names a disk, in any of its components.
fn mentions(text: &str, name: &str) -> bool {
    text.split(['/', ':', ',', '=', ' ']).any(|part| !part.is_empty() && disk_name(part) == name)
}

/// Where in a guest's configuration a disk is named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Place {
    /// A slot or `unusedN` of the configuration in force.
    Config(String),
    /// A change that waits for a restart.
    Pending(String),
    /// A snapshot section.
    Snapshot(String),
}

/// Who refers to a disk.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Referrer {
    /// A PersistentVolume has the disk as its handle.
    PersistentVolume(PvName),
    /// A VolumeAttachment is about the disk.
    Attachment {
        /// Name of the object.
        name: String,
        /// Node that it is for.
        node: NodeName,
    },
    /// A pod uses a claim whose volume is the disk.
    Pod(String),
    /// A guest's configuration names the disk.
    Guest {
        /// VMID.
        vmid: VmId,
        /// Name.
        name: String,
        /// Where.
        place: Place,
    },
}

impl fmt::Display for Referrer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PersistentVolume(name) => write!(f, "PersistentVolume {name} has it as its handle"),
            Self::Attachment { name, node } => write!(f, "VolumeAttachment {name} attaches it to {node}"),
            Self::Pod(name) => write!(f, "pod {name} uses it"),
            Self::Guest { vmid, name, place } => {
                write!(f, "guest {vmid} ({name}) names it ")?;
                match place {
                    Place::Config(slot) => write!(f, "as {slot}"),
                    Place::Pending(slot) => write!(f, "as {slot}, which waits for a restart"),
                    Place::Snapshot(snapshot) => write!(f, "in its snapshot {snapshot}"),
                }
            }
        }
    }
}

/// Whether a disk on a slot of the storage plugin is in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// Nothing refers to it: it was left behind.
    Ghost,
    /// Nothing on this node refers to it, but something elsewhere does: it was left behind here, and somebody has to
    /// find out which machine writes to it.
    Elsewhere(Referrer),
    /// Something on this node refers to it.
    InUse(Referrer),
    /// That cannot be said, and why.
    Unknown(String),
}

/// Volumes and their users of a snapshot, by the disks that they are on.
#[derive(Debug)]
pub struct Volumes<'s> {
    snapshot: &'s Snapshot,
    by_disk: BTreeMap<&'s str, Vec<&'s PersistentVolume>>,
    /// Names of the PersistentVolumes that are there.
    names: BTreeSet<&'s PvName>,
    attachments: BTreeMap<&'s PvName, Vec<&'s VolumeAttachment>>,
    /// VolumeAttachments whose PersistentVolume is gone.
    orphans: Vec<&'s VolumeAttachment>,
    users: BTreeMap<&'s PvName, Vec<&'s Pod>>,
}

impl<'s> Volumes<'s> {
    /// Indexes a snapshot.
    pub fn of(snapshot: &'s Snapshot) -> Self {
        let kube = &snapshot.kube;
        let volumes = kube.persistent_volumes.items();
        let mut by_disk: BTreeMap<&str, Vec<&PersistentVolume>> = BTreeMap::new();
        for volume in volumes {
            if let Some(handle) = &volume.handle {
                by_disk.entry(disk_name(handle.as_str())).or_default().push(volume);
            }
        }
        let names: BTreeSet<&PvName> = volumes.iter().map(|volume| &volume.name).collect();
        let mut attachments: BTreeMap<&PvName, Vec<&VolumeAttachment>> = BTreeMap::new();
        let mut orphans = Vec::new();
        for one in kube.volume_attachments.items() {
            match &one.volume {
                Some(name) if names.contains(name) => attachments.entry(name).or_default().push(one),
                Some(_) | None => orphans.push(one),
            }
        }
        let claimed = snapshot.claimed_volumes().into_known().unwrap_or_default();
        let mut users: BTreeMap<&PvName, Vec<&Pod>> = BTreeMap::new();
        for pod in kube.pods.items().iter().filter(|pod| pod.node.is_some() && !pod.is_terminal()) {
            for claim in &pod.claims {
                if let Some(name) = claimed.get(&(pod.namespace.as_str(), claim.as_str())) {
                    users.entry(*name).or_default().push(pod);
                }
            }
        }
        Self { snapshot, by_disk, names, attachments, orphans, users }
    }

    /// PersistentVolumes of any driver that have a disk as their handle.
    pub fn on(&self, volume: &str) -> &[&'s PersistentVolume] {
        self.by_disk.get(disk_name(volume)).map_or(&[], Vec::as_slice)
    }

    /// Whether a disk is a volume: a PersistentVolume names it, or the storage plugin's names say so.
    pub fn is_volume(&self, disk: &Disk) -> bool {
        disk.is_csi() || !self.on(&disk.volume).is_empty()
    }

    /// What uses a disk that is plugged into the VM of `node`.
    ///
    /// A disk is a ghost only if no VolumeAttachment of any attacher and no claim of a pod that is on a node resolves
    /// to it, and everything that could was read.
    pub fn use_of(&self, node: &NodeName, volume: &str) -> Use {
        let kube = &self.snapshot.kube;
        let lists = [
            ("volumeattachments", kube.volume_attachments.why()),
            ("persistentvolumes", kube.persistent_volumes.why()),
            ("persistentvolumeclaims", kube.claims.why()),
            ("pods", kube.pods.why()),
        ];
        if let Some((what, why)) = lists.into_iter().find_map(|(what, why)| Some((what, why?))) {
            return Use::Unknown(format!("{what}: {why}"));
        }
        let mut referrers = self.referrers(volume);
        referrers.sort_by_key(|(at, _)| *at != node);
        if let Some((at, by)) = referrers.into_iter().next() {
            return if at == node { Use::InUse(by) } else { Use::Elsewhere(by) };
        }
        if let Some(one) = self.orphans.iter().find(|one| one.node == *node && !one.vanished) {
            return Use::Unknown(format!("which disk VolumeAttachment {} is about: its PersistentVolume is gone", one.name));
        }
        Use::Ghost
    }

    /// Attachments and pods that resolve to a disk, and their nodes. Those whose PersistentVolume is gone are matched by
    /// name: the plugin names disks after volumes.
    fn referrers(&self, volume: &str) -> Vec<(&'s NodeName, Referrer)> {
        let name = disk_name(volume);
        let called_after = |volume: &PvName| is_called_after(name, volume.as_str());
        let mine = self.on(volume);
        let attached = mine.iter().filter_map(|one| self.attachments.get(&one.name)).flatten();
        let orphans = self.orphans.iter().filter(|one| one.volume.as_ref().is_some_and(called_after));
        let attached = attached.chain(orphans);
        let attached = attached.map(|one| (&one.node, Referrer::Attachment { name: one.name.clone(), node: one.node.clone() }));
        let using = mine.iter().filter_map(|one| self.users.get(&one.name)).flatten();
        let nameless = self.users.iter().filter(|(volume, _)| !self.names.contains(*volume) && called_after(volume));
        let using = using.chain(nameless.flat_map(|(_, pods)| pods));
        let using = using.filter_map(|pod| Some((pod.node.as_ref()?, Referrer::Pod(pod.object_name().0))));
        attached.chain(using).collect()
    }

    /// Why nothing can be said of the volumes of a CSI driver, although disks are plugged: nothing in the cluster
    /// has a driver of that name, so that the policy's `attacher` is probably mistyped.
    pub fn doubt_about(&self, driver: &str) -> Option<String> {
        let kube = &self.snapshot.kube;
        let drivers = kube.csi_drivers.items().iter().map(|one| one.name.as_str());
        let registered = kube.csi_nodes.items().iter().flat_map(|one| one.drivers.iter().map(|driver| driver.name.as_str()));
        let used = kube.persistent_volumes.items().iter().map(|volume| volume.driver.as_str());
        let mut known: Vec<&str> = drivers.chain(registered).chain(used).filter(|name| !name.is_empty()).collect();
        // Where volumes are unknown, everything that follows from them is.
        if known.contains(&driver) || kube.persistent_volumes.known().is_none() {
            return None;
        }
        let guests = self.snapshot.guests().filter_map(|guest| guest.config.known());
        let plugged = guests.flat_map(|config| config.csi_slots()).filter(|(_, disk)| self.is_volume(disk)).count();
        if plugged == 0 {
            return None;
        }
        known.sort_unstable();
        known.dedup();
        let found = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let unread = kube.csi_drivers.why().or(kube.csi_nodes.why());
        let unread = unread.map(|why| format!("; not all of them were read: {why}"));
        Some(format!(
            "policy key `attacher` is `{driver}`, but no CSIDriver, CSINode or PersistentVolume has a driver of that name, \
             and {plugged} volumes are plugged into VMs; drivers found: {found}{}",
            unread.unwrap_or_default()
        ))
    }
}

/// Guests of the same Proxmox VE cluster, other than `owner`, that name a disk: in force, pending, or in a snapshot.
pub fn other_guests(pve: &Pve, owner: &Guest, volume: &str) -> Option<Referrer> {
    let name = disk_name(volume);
    others(pve, owner).find_map(|guest| {
        let place = named_in(guest, name)?;
        Some(Referrer::Guest { vmid: guest.vmid, name: guest.name.clone(), place })
    })
}

/// Guests of the same Proxmox VE cluster, other than `owner`, of which something was not read: one of them might name
/// a disk.
pub fn unread_guest(pve: &Pve, owner: &Guest) -> Option<(String, String)> {
    if let Reading::Unknown { why } = &pve.guests {
        return Some(("guests".to_owned(), why.clone()));
    }
    others(pve, owner).find_map(|guest| {
        let what = |part: &str| format!("{part} of guest {} ({})", guest.vmid, guest.name);
        let config = guest.config.why().map(|why| (what("configuration"), why.to_owned()));
        config.or_else(|| guest.snapshots.why().map(|why| (what("snapshots"), why.to_owned())))
    })
}

fn others<'p>(pve: &'p Pve, owner: &Guest) -> impl Iterator<Item = &'p Guest> {
    let (host, vmid) = (owner.host.clone(), owner.vmid);
    pve.guests.items().iter().filter(move |guest| (&guest.host, guest.vmid) != (&host, vmid))
}

fn named_in(guest: &Guest, name: &str) -> Option<Place> {
    let config = guest.config.known();
    let slots = config.into_iter().flat_map(|config| config.disks.iter().map(|(slot, disk)| (slot, &disk.volume)));
    let unused = config.into_iter().flat_map(|config| &config.unused);
    if let Some((slot, _)) = slots.chain(unused).find(|(_, volume)| mentions(volume, name)) {
        return Some(Place::Config(slot.clone()));
    }
    let mut pending = guest.pending.iter();
    if let Some((key, _)) = pending.find(|(_, value)| value.as_ref().is_some_and(|value| mentions(value, name))) {
        return Some(Place::Pending(key.clone()));
    }
    let mut snapshots = guest.snapshots.items().iter();
    let found = snapshots.find(|one| one.disks.values().any(|volume| mentions(volume, name)));
    found.map(|one| Place::Snapshot(one.name.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeHandle;
    use crate::kube::{Claim, CsiDriver};
    use crate::pve::{GuestConfig, GuestSnapshot};

    const DRIVER: &str = "csi.proxmox.sinextra.dev";
    const DISK: &str = "local-lvm:vm-9999-pvc-1";

    fn node() -> NodeName {
        "w1".into()
    }

    /// A volume `pvc-1` on [`DISK`], its claim, and nobody that uses it.
    fn world() -> Snapshot {
        let mut snapshot = Snapshot::default();
        let volume = PersistentVolume {
            name: "pvc-1".into(),
            driver: DRIVER.into(),
            handle: Some(VolumeHandle::from("lab/pve1/local-lvm/vm-9999-pvc-1")),
            ..Default::default()
        };
        let claim = Claim { namespace: "a".into(), name: "data".into(), volume: Some("pvc-1".into()), ..Default::default() };
        snapshot.kube.persistent_volumes = Reading::Known(vec![volume]);
        snapshot.kube.claims = Reading::Known(vec![claim]);
        snapshot.kube.volume_attachments = Reading::Known(vec![]);
        snapshot.kube.pods = Reading::Known(vec![]);
        snapshot.kube.csi_drivers = Reading::Known(vec![]);
        snapshot.kube.csi_nodes = Reading::Known(vec![]);
        snapshot
    }

    fn attachment(attacher: &str, node: &str, volume: Option<&str>) -> VolumeAttachment {
        VolumeAttachment {
            name: "va-1".into(),
            attacher: attacher.into(),
            node: node.into(),
            volume: volume.map(PvName::from),
            ..Default::default()
        }
    }

    fn pod(node: Option<&str>) -> Pod {
        Pod {
            namespace: "a".into(),
            name: "db".into(),
            node: node.map(NodeName::from),
            claims: vec!["data".into()],
            ..Default::default()
        }
    }

    #[test]
    fn names_are_compared_by_their_last_component_without_the_suffix_of_a_file() {
        for name in ["vm-1-disk-0", "l:vm-1-disk-0", "store:1/vm-1-disk-0.qcow2", "r/z/store/1/vm-1-disk-0.raw"] {
            assert_eq!(disk_name(name), "vm-1-disk-0", "{name}");
        }
        assert!(is_owned_by("store:2000/base-2000-disk-0.qcow2/204/vm-204-disk-0.qcow2", VmId(204)));
        assert!(is_owned_by("l:base-204-disk-0", VmId(204)));
        for other in ["l:vm-2041-disk-0", "l:vm-20-disk-0", "l:xvm-204-disk-0", "vm-204:disk", ""] {
            assert!(!is_owned_by(other, VmId(204)), "{other}");
        }
        assert!(mentions("store:204/base-204-disk-0.qcow2/300/vm-300-disk-0.qcow2,size=4G", "base-204-disk-0"));
        assert!(mentions("local-lvm:vm-204-disk-1,discard=on", "vm-204-disk-1"));
        assert!(!mentions("local-lvm:vm-204-disk-10,size=1G", "vm-204-disk-1"));
        assert!(!mentions("", ""));
    }

    #[test]
    fn a_disk_is_a_ghost_only_if_nothing_refers_to_it() {
        let snapshot = world();
        assert_eq!(Volumes::of(&snapshot).use_of(&node(), DISK), Use::Ghost);
        // An attachment of any attacher, for any node, vanished or not.
        for attacher in [DRIVER, "", "other.example"] {
            for place in ["w1", "w2"] {
                for vanished in [false, true] {
                    let mut snapshot = world();
                    let one = VolumeAttachment { vanished, ..attachment(attacher, place, Some("pvc-1")) };
                    snapshot.kube.volume_attachments = Reading::Known(vec![one]);
                    let found = Volumes::of(&snapshot).use_of(&node(), DISK);
                    let by = Referrer::Attachment { name: "va-1".into(), node: place.into() };
                    assert_eq!(found, if place == "w1" { Use::InUse(by) } else { Use::Elsewhere(by) }, "{attacher} {vanished}");
                }
            }
        }
        // A pod on a node; one that has ended or is nowhere uses nothing.
        let by = || Referrer::Pod("a/db".into());
        for (pod, expected) in [
            (pod(Some("w1")), Use::InUse(by())),
            (pod(Some("w2")), Use::Elsewhere(by())),
            (pod(None), Use::Ghost),
            (Pod { phase: crate::kube::Phase::Succeeded, ..pod(Some("w1")) }, Use::Ghost),
            (Pod { claims: vec!["other".into()], ..pod(Some("w1")) }, Use::Ghost),
            (Pod { namespace: "b".into(), ..pod(Some("w1")) }, Use::Ghost),
        ] {
            let mut snapshot = world();
            snapshot.kube.pods = Reading::Known(vec![pod.clone()]);
            assert_eq!(Volumes::of(&snapshot).use_of(&node(), DISK), expected, "{pod:?}");
        }
        // What is here decides, whatever is elsewhere as well.
        let mut snapshot = world();
        snapshot.kube.volume_attachments = Reading::Known(vec![attachment(DRIVER, "w2", Some("pvc-1"))]);
        snapshot.kube.pods = Reading::Known(vec![pod(Some("w2")), pod(Some("w1"))]);
        assert_eq!(Volumes::of(&snapshot).use_of(&node(), DISK), Use::InUse(by()));
    }

    #[test]
    fn a_disk_is_a_volume_by_its_handle_or_by_its_name_and_its_own_name_proves_nothing() {
        let mut snapshot = world();
        let is = |snapshot: &Snapshot, volume: &str| {
            Volumes::of(snapshot).is_volume(&Disk { volume: volume.into(), ..Disk::default() })
        };
        assert!(is(&snapshot, DISK) && is(&snapshot, "other:vm-9999-pvc-2"));
        assert!(!is(&snapshot, "local-lvm:vm-201-disk-0") && !is(&snapshot, "none"));
        let fixed = PersistentVolume {
            name: "archive".into(),
            driver: "other.example".into(),
            handle: Some(VolumeHandle::from("lab/pve1/local-lvm/vm-201-disk-0")),
            ..PersistentVolume::default()
        };
        snapshot.kube.persistent_volumes = Reading::Known(vec![fixed]);
        assert!(is(&snapshot, "local-lvm:vm-201-disk-0") && !is(&snapshot, "local-lvm:vm-201-disk-1"));
        // What is attached or used is found by the handle: the volume is called otherwise than its disk.
        let used = |snapshot: &Snapshot| Volumes::of(snapshot).use_of(&node(), "local-lvm:vm-201-disk-0");
        assert_eq!(used(&snapshot), Use::Ghost);
        snapshot.kube.volume_attachments = Reading::Known(vec![attachment(DRIVER, "w1", Some("archive"))]);
        assert!(matches!(used(&snapshot), Use::InUse(Referrer::Attachment { .. })));
    }

    #[test]
    fn an_object_whose_volume_is_gone_is_matched_by_the_name_of_the_disk() {
        let mut snapshot = world();
        snapshot.kube.persistent_volumes = Reading::Known(vec![]);
        assert_eq!(Volumes::of(&snapshot).use_of(&node(), DISK), Use::Ghost);
        snapshot.kube.volume_attachments = Reading::Known(vec![attachment(DRIVER, "w2", Some("pvc-1"))]);
        assert!(matches!(Volumes::of(&snapshot).use_of(&node(), DISK), Use::Elsewhere(_)));
        snapshot.kube.volume_attachments = Reading::Known(vec![]);
        snapshot.kube.pods = Reading::Known(vec![pod(Some("w1"))]);
        assert!(matches!(Volumes::of(&snapshot).use_of(&node(), DISK), Use::InUse(Referrer::Pod(_))));
        // Which disk it is about cannot be told: nothing on that node is a ghost. On another node it says nothing.
        snapshot.kube.pods = Reading::Known(vec![]);
        for volume in [None, Some("static-1")] {
            snapshot.kube.volume_attachments = Reading::Known(vec![attachment(DRIVER, "w1", volume)]);
            assert!(matches!(Volumes::of(&snapshot).use_of(&node(), DISK), Use::Unknown(_)), "{volume:?}");
            assert_eq!(Volumes::of(&snapshot).use_of(&"w2".into(), DISK), Use::Ghost);
        }
        let gone = VolumeAttachment { vanished: true, ..attachment(DRIVER, "w1", None) };
        snapshot.kube.volume_attachments = Reading::Known(vec![gone]);
        assert_eq!(Volumes::of(&snapshot).use_of(&node(), DISK), Use::Ghost);
        // A pod whose volume is another's, there or not, uses another disk.
        let mut other = world();
        other.kube.pods = Reading::Known(vec![pod(Some("w1"))]);
        assert_eq!(Volumes::of(&other).use_of(&node(), "local-lvm:vm-9999-pvc-2"), Use::Ghost);
        other.kube.persistent_volumes = Reading::Known(vec![]);
        assert_eq!(Volumes::of(&other).use_of(&node(), "local-lvm:vm-9999-pvc-2"), Use::Ghost);
        // The name says nothing of a volume that is there, and is on another disk.
        let mut moved = world();
        moved.kube.pods = Reading::Known(vec![pod(Some("w1"))]);
        let handle = Some(VolumeHandle::from("lab/pve1/local-lvm/vm-9999-moved"));
        let elsewhere = PersistentVolume { name: "pvc-1".into(), handle, ..PersistentVolume::default() };
        moved.kube.persistent_volumes = Reading::Known(vec![elsewhere]);
        assert_eq!(Volumes::of(&moved).use_of(&node(), DISK), Use::Ghost);
        // An attachment whose volume has an empty name is about no disk by its name.
        snapshot.kube.volume_attachments = Reading::Known(vec![attachment(DRIVER, "w2", Some(""))]);
        assert_eq!(Volumes::of(&snapshot).use_of(&node(), DISK), Use::Ghost);
    }

    #[test]
    fn a_list_that_was_not_read_makes_no_ghost() {
        type Forget = fn(&mut Snapshot);
        let lists: [Forget; 4] = [
            |snapshot| snapshot.kube.volume_attachments = Reading::unknown("no answer"),
            |snapshot| snapshot.kube.persistent_volumes = Reading::unknown("no answer"),
            |snapshot| snapshot.kube.claims = Reading::unknown("no answer"),
            |snapshot| snapshot.kube.pods = Reading::unknown("no answer"),
        ];
        for forget in lists {
            let mut snapshot = world();
            forget(&mut snapshot);
            let found = Volumes::of(&snapshot).use_of(&node(), DISK);
            assert!(matches!(&found, Use::Unknown(why) if why.contains("no answer")), "{found:?}");
        }
    }

    #[test]
    fn an_attacher_that_nothing_carries_is_doubted_while_disks_are_plugged() {
        let mut snapshot = world();
        let config = GuestConfig {
            disks: [("scsi1".to_owned(), Disk { volume: DISK.into(), ..Disk::default() })].into(),
            ..Default::default()
        };
        let guest = Guest { config: Reading::Known(config), ..Default::default() };
        snapshot.pve = vec![Pve { guests: Reading::Known(vec![guest]), ..Default::default() }];
        let doubt = |snapshot: &Snapshot, driver: &str| Volumes::of(snapshot).doubt_about(driver);
        assert_eq!(doubt(&snapshot, DRIVER), None, "a PersistentVolume has it");
        let why = doubt(&snapshot, "csi.proxmox.sinextra.de").expect("mistyped");
        assert!(why.contains("`attacher`") && why.contains(DRIVER) && why.contains("1 volumes"), "{why}");
        snapshot.kube.csi_nodes = Reading::unknown("no answer");
        assert!(doubt(&snapshot, "x").is_some_and(|why| why.contains("no answer")));
        snapshot.kube.csi_drivers = Reading::Known(vec![CsiDriver { name: "x".into(), ..Default::default() }]);
        assert_eq!(doubt(&snapshot, "x"), None, "a CSIDriver has it");
        let mut unread = snapshot.clone();
        unread.kube.persistent_volumes = Reading::unknown("no answer");
        assert_eq!(doubt(&unread, "y"), None, "volumes are unknown anyway");
        assert!(doubt(&snapshot, "y").is_some());
        snapshot.pve.clear();
        assert_eq!(doubt(&snapshot, "y"), None, "nothing is plugged");
    }

    #[test]
    fn another_guest_names_a_disk_in_force_pending_or_in_a_snapshot() {
        let owner = Guest { vmid: VmId(204), ..Default::default() };
        let other = |change: &dyn Fn(&mut Guest)| {
            let mut guest = Guest {
                vmid: VmId(205),
                name: "w5".into(),
                config: Reading::Known(GuestConfig::default()),
                snapshots: Reading::Known(vec![]),
                ..Default::default()
            };
            change(&mut guest);
            Pve { guests: Reading::Known(vec![owner.clone(), guest]), ..Default::default() }
        };
        let disk = "local-lvm:vm-204-disk-1";
        let place = |change: &dyn Fn(&mut Guest)| {
            let Referrer::Guest { place, vmid: VmId(205), .. } = other_guests(&other(change), &owner, disk)? else { return None };
            Some(place)
        };
        let config = |guest: &mut Guest, change: &dyn Fn(&mut GuestConfig)| {
            if let Reading::Known(config) = &mut guest.config {
                change(config);
            }
        };
        let plugged = Disk { volume: disk.into(), ..Disk::default() };
        assert_eq!(place(&|_| {}), None);
        let slot = place(&|guest| config(guest, &|one| drop(one.disks.insert("scsi5".into(), plugged.clone()))));
        assert_eq!(slot, Some(Place::Config("scsi5".into())));
        let unused = place(&|guest| config(guest, &|one| drop(one.unused.insert("unused0".into(), disk.into()))));
        assert_eq!(unused, Some(Place::Config("unused0".into())));
        let pending = place(&|guest| drop(guest.pending.insert("scsi6".into(), Some(format!("{disk},size=1G")))));
        assert_eq!(pending, Some(Place::Pending("scsi6".into())));
        let section = place(&|guest| {
            let disks = [("scsi1".to_owned(), disk.to_owned())].into();
            guest.snapshots = Reading::Known(vec![GuestSnapshot { name: "before".into(), disks }]);
        });
        assert_eq!(section, Some(Place::Snapshot("before".into())));

        assert_eq!(unread_guest(&other(&|_| {}), &owner), None);
        for (change, what) in [
            (&|guest: &mut Guest| guest.config = Reading::unknown("x") as _, "configuration of guest 205"),
            (&|guest: &mut Guest| guest.snapshots = Reading::unknown("x") as _, "snapshots of guest 205"),
        ] as [(&dyn Fn(&mut Guest), &str); 2]
        {
            let found = unread_guest(&other(change), &owner).expect("not read");
            assert!(found.0.contains(what) && found.1 == "x", "{found:?}");
        }
        let silent = Pve { guests: Reading::unknown("x"), ..Default::default() };
        assert!(unread_guest(&silent, &owner).is_some());
    }
}
