//! Whether a guest may be destroyed, with every disk that Proxmox VE would free with it.
//!
//! A disk goes with its VM only if its name is the VM's, no PersistentVolume of any driver has it as its handle, no
//! VolumeAttachment is about it, no other guest names it anywhere, and all of these were read.

use crate::ids::VmId;
use crate::pve::{Guest, OWN_TAG, Pve};
use crate::reading::Reading;
use crate::snapshot::Snapshot;
use crate::volumes::{Referrer, Use, Volumes, is_owned_by, other_guests, unread_guest};

/// Why a guest must not be destroyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Objection {
    /// Something that the answer depends on was not read.
    #[error("{what} could not be read: {why}")]
    Unread {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// Others are clones of it.
    #[error("it is a template")]
    Template,
    /// Nobody said that capplan may.
    #[error("it has no tag `{OWN_TAG}`: only such VMs are destroyed; `qm set {vmid} --tags {OWN_TAG}` gives it")]
    Untagged {
        /// VMID.
        vmid: VmId,
    },
    /// Its owner protects it.
    #[error("`protection` is set: `qm set {vmid} --protection 0` clears it")]
    Protected {
        /// VMID.
        vmid: VmId,
    },
    /// The HA manager would start it again.
    #[error("the HA manager manages it: `ha-manager remove vm:{vmid}` takes it out")]
    HighlyAvailable {
        /// VMID.
        vmid: VmId,
    },
    /// Proxmox VE refuses to destroy a guest with a replication job.
    #[error("replication job {job} copies it: `pvesr delete {job}` removes the job")]
    Replicated {
        /// Job.
        job: String,
    },
    /// A disk that is not its own: a volume of a claim, another VM's.
    #[error("{volume} on {slot} is not its own: it would be lost, or stay behind attached to nothing")]
    Foreign {
        /// Slot.
        slot: String,
        /// Volume.
        volume: String,
    },
    /// A disk of its own that something else refers to.
    #[error("{volume} on {slot} would be freed with it, and {by}: keep the VM, or give the disk to another owner")]
    Referenced {
        /// Slot.
        slot: String,
        /// Volume.
        volume: String,
        /// Who refers to it.
        by: Referrer,
    },
    /// A snapshot would go with it, and nobody agreed to that.
    #[error("its snapshot {name} would be lost with it: `--with-snapshots` agrees to that")]
    Snapshot {
        /// Its name.
        name: String,
    },
}

/// When the question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Right before the guest is destroyed.
    Now,
    /// Before its node is drained: volumes of claims that are plugged in now are detached by then.
    OnceEmpty,
}

/// Everything that speaks against the destruction of a guest; empty if it may be destroyed.
///
/// `agreed` are the names of the snapshots that may go with it.
pub fn objections(snapshot: &Snapshot, guest: &Guest, agreed: &[String], moment: Moment) -> Vec<Objection> {
    let mut found = Vec::new();
    let unread = |what: &str, why: &str| Objection::Unread { what: what.to_owned(), why: why.to_owned() };
    let config = match &guest.config {
        Reading::Known(config) => config,
        Reading::Unknown { why } => return vec![unread("its configuration", why)],
    };
    let is_mine = |pve: &&Pve| pve.guests.items().iter().any(|one| (&one.host, one.vmid) == (&guest.host, guest.vmid));
    let Some(pve) = snapshot.pve.iter().find(is_mine) else {
        return vec![unread("its Proxmox VE cluster", "it is not among those that were read")];
    };
    if guest.template {
        found.push(Objection::Template);
    }
    if !guest.tags.iter().any(|tag| tag == OWN_TAG) {
        found.push(Objection::Untagged { vmid: guest.vmid });
    }
    if config.protection {
        found.push(Objection::Protected { vmid: guest.vmid });
    }
    match &guest.ha {
        Reading::Known(true) => found.push(Objection::HighlyAvailable { vmid: guest.vmid }),
        Reading::Known(false) => {}
        Reading::Unknown { why } => found.push(unread("whether the HA manager manages it", why)),
    }
    match &pve.replication {
        Reading::Known(jobs) => {
            let mine = jobs.iter().filter(|job| job.vmid == guest.vmid);
            found.extend(mine.map(|job| Objection::Replicated { job: job.id.clone() }));
        }
        Reading::Unknown { why } => found.push(unread("replication jobs", why)),
    }
    match &guest.snapshots {
        Reading::Known(all) => {
            let lost = all.iter().filter(|one| !agreed.contains(&one.name));
            found.extend(lost.map(|one| Objection::Snapshot { name: one.name.clone() }));
        }
        Reading::Unknown { why } => found.push(unread("its snapshots", why)),
    }
    for (what, why) in [
        ("persistentvolumes", snapshot.kube.persistent_volumes.why()),
        ("volumeattachments", snapshot.kube.volume_attachments.why()),
    ] {
        found.extend(why.map(|why| unread(what, why)));
    }
    found.extend(unread_guest(pve, guest).map(|(what, why)| Objection::Unread { what, why }));
    let volumes = Volumes::of(snapshot);
    for (slot, disk, is_plugged) in disks(guest) {
        let own = is_owned_by(&disk.volume, guest.vmid);
        if !own {
            // Of a CD-ROM drive only a disk of the guest's own is freed: an ISO image stays.
            let leaves = moment == Moment::OnceEmpty && is_plugged && volumes.is_volume(&disk);
            if !disk.cdrom && !leaves {
                found.push(Objection::Foreign { slot, volume: disk.volume });
            }
            continue;
        }
        let by = referrer(&volumes, pve, guest, &disk.volume);
        found.extend(by.map(|by| Objection::Referenced { slot, volume: disk.volume, by }));
    }
    found
}

/// Who else refers to a disk of the guest's own.
fn referrer(volumes: &Volumes<'_>, pve: &Pve, guest: &Guest, volume: &str) -> Option<Referrer> {
    if let Some(one) = volumes.on(volume).first() {
        return Some(Referrer::PersistentVolume(one.name.clone()));
    }
    // An attachment whose PersistentVolume is gone, by the name of the disk.
    if let Use::InUse(by) | Use::Elsewhere(by) = volumes.use_of(&guest.name.as_str().into(), volume) {
        return Some(by);
    }
    other_guests(pve, guest, volume)
}

/// Every disk that a guest names: plugged in, detached, pending, or in a snapshot. The flag says whether it is plugged
/// in now.
fn disks(guest: &Guest) -> Vec<(String, crate::pve::Disk, bool)> {
    let disk = |volume: &str| crate::pve::Disk { volume: volume.to_owned(), ..Default::default() };
    let mut all = Vec::new();
    if let Some(config) = guest.config.known() {
        all.extend(config.disks.iter().map(|(slot, disk)| (slot.clone(), disk.clone(), true)));
        all.extend(config.unused.iter().map(|(slot, volume)| (slot.clone(), disk(volume), false)));
    }
    for (key, value) in &guest.pending {
        let is_disk = |prefix: &&str| key.strip_prefix(*prefix).is_some_and(|rest| rest.parse::<u32>().is_ok());
        let kinds = ["scsi", "virtio", "sata", "ide", "efidisk", "tpmstate", "unused"];
        if let Some(value) = value.as_ref().filter(|_| kinds.iter().any(is_disk)) {
            let volume = value.split(',').next().unwrap_or_default();
            let volume = volume.strip_prefix("file=").unwrap_or(volume);
            let cdrom = value.contains("media=cdrom");
            all.push((format!("{key} (pending)"), crate::pve::Disk { cdrom, ..disk(volume) }, false));
        }
    }
    for snapshot in guest.snapshots.items() {
        for (slot, volume) in &snapshot.disks {
            // What a snapshot names and the VM does not own is not freed; it is named all the same.
            let cdrom = volume == "none" || volume.contains(":iso/");
            all.push((format!("{slot} of snapshot {}", snapshot.name), crate::pve::Disk { cdrom, ..disk(volume) }, false));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VolumeHandle;
    use crate::kube::{PersistentVolume, VolumeAttachment};
    use crate::pve::{Disk, GuestConfig, GuestSnapshot, ReplicationJob};

    /// VM 204 with a disk of its own, which may be destroyed; and VM 205, of which everything was read.
    fn world() -> Snapshot {
        let disk = Disk { volume: "local-lvm:vm-204-disk-0".into(), ..Disk::default() };
        let config = GuestConfig { disks: [("scsi0".to_owned(), disk)].into(), ..Default::default() };
        let guest = Guest {
            vmid: VmId(204),
            name: "w4".into(),
            config: Reading::Known(config),
            tags: vec![OWN_TAG.into()],
            ha: Reading::Known(false),
            snapshots: Reading::Known(vec![]),
            ..Default::default()
        };
        let other = Guest {
            vmid: VmId(205),
            name: "w5".into(),
            config: Reading::Known(GuestConfig::default()),
            snapshots: Reading::Known(vec![]),
            ..Default::default()
        };
        let pve = Pve { guests: Reading::Known(vec![guest, other]), replication: Reading::Known(vec![]), ..Default::default() };
        let mut snapshot = Snapshot { pve: vec![pve], ..Default::default() };
        snapshot.kube.persistent_volumes = Reading::Known(vec![]);
        snapshot.kube.volume_attachments = Reading::Known(vec![]);
        snapshot.kube.claims = Reading::Known(vec![]);
        snapshot.kube.pods = Reading::Known(vec![]);
        snapshot
    }

    fn guest(snapshot: &mut Snapshot, place: usize) -> &mut Guest {
        let Some(Reading::Known(guests)) = snapshot.pve.first_mut().map(|pve| &mut pve.guests) else { unreachable!("known") };
        &mut guests[place]
    }

    fn config(snapshot: &mut Snapshot, place: usize) -> &mut GuestConfig {
        let Reading::Known(config) = &mut guest(snapshot, place).config else { unreachable!("known") };
        config
    }

    fn asked(snapshot: &Snapshot, agreed: &[&str], moment: Moment) -> Vec<Objection> {
        let agreed: Vec<String> = agreed.iter().map(|name| (*name).to_owned()).collect();
        let guest = snapshot.guests().find(|guest| guest.vmid == VmId(204)).expect("it is there");
        objections(snapshot, guest, &agreed, moment)
    }

    /// Exactly one objection stands after this change, at both moments.
    fn one(change: impl Fn(&mut Snapshot)) -> Objection {
        let mut snapshot = world();
        change(&mut snapshot);
        let (now, later) = (asked(&snapshot, &[], Moment::Now), asked(&snapshot, &[], Moment::OnceEmpty));
        assert_eq!(now, later);
        assert_eq!(now.len(), 1, "{now:?}");
        now.into_iter().next().expect("one")
    }

    fn disk(volume: &str) -> Disk {
        Disk { volume: volume.into(), ..Disk::default() }
    }

    fn volume(handle: &str) -> PersistentVolume {
        let (name, handle) = ("static".into(), Some(VolumeHandle::from(handle)));
        PersistentVolume { name, driver: "any.example".into(), handle, ..Default::default() }
    }

    #[test]
    fn a_guest_with_its_own_disks_and_nothing_that_refers_to_them_may_be_destroyed() {
        let mut snapshot = world();
        config(&mut snapshot, 0).disks.extend([
            ("scsi1".to_owned(), disk("store:204/vm-204-disk-1.qcow2")),
            ("scsi2".to_owned(), disk("store:2000/base-2000-disk-0.qcow2/204/vm-204-disk-2.qcow2")),
            ("ide2".to_owned(), Disk { cdrom: true, ..disk("local-lvm:vm-204-cloudinit") }),
            ("ide3".to_owned(), Disk { cdrom: true, ..disk("local:iso/debian.iso") }),
        ]);
        config(&mut snapshot, 0).unused.insert("unused0".into(), "local-lvm:vm-204-disk-7".into());
        guest(&mut snapshot, 0).pending.insert("scsi3".into(), Some("local-lvm:vm-204-disk-3,size=1G".into()));
        guest(&mut snapshot, 0).pending.insert("cores".into(), Some("4".into()));
        guest(&mut snapshot, 0).pending.insert("scsihw".into(), Some("virtio-scsi-pci".into()));
        guest(&mut snapshot, 0).pending.insert("ide0".into(), Some("local:iso/other.iso,media=cdrom".into()));
        assert_eq!(asked(&snapshot, &[], Moment::Now), []);
        assert_eq!(asked(&snapshot, &[], Moment::OnceEmpty), []);
        let sections = [("scsi0", "local-lvm:vm-204-disk-0"), ("ide2", "none"), ("ide3", "local:iso/debian.iso")];
        let disks = sections.map(|(slot, volume)| (slot.to_owned(), volume.to_owned())).into();
        guest(&mut snapshot, 0).snapshots = Reading::Known(vec![GuestSnapshot { name: "s".into(), disks }]);
        assert_eq!(asked(&snapshot, &["s"], Moment::Now), []);
    }

    #[test]
    fn a_disk_that_is_not_its_own_is_named_wherever_it_is() {
        for other in [
            "local-lvm:vm-9999-pvc-205da98f",
            "local-lvm:vm-2041-disk-0",
            "local-lvm:vm-20-disk-0",
            "store:2000/base-2000-disk-0.qcow2/204/vm-204-disk-0.qcow2x/../vm-1-disk-0",
            "/dev/disk/by-id/ata-1",
            "",
        ] {
            let foreign = |change: &dyn Fn(&mut Snapshot)| {
                let mut snapshot = world();
                change(&mut snapshot);
                let found = asked(&snapshot, &["s"], Moment::Now);
                assert!(matches!(&found[..], [Objection::Foreign { volume, .. }] if volume == other), "{other}: {found:?}");
            };
            foreign(&|snapshot| drop(config(snapshot, 0).disks.insert("scsi5".into(), disk(other))));
            foreign(&|snapshot| drop(config(snapshot, 0).unused.insert("unused0".into(), other.into())));
            foreign(&|snapshot| drop(guest(snapshot, 0).pending.insert("scsi5".into(), Some(format!("file={other},size=1G")))));
            foreign(&|snapshot| {
                let disks = [("scsi5".to_owned(), other.to_owned())].into();
                guest(snapshot, 0).snapshots = Reading::Known(vec![GuestSnapshot { name: "s".into(), disks }]);
            });
        }
    }

    #[test]
    fn a_volume_of_a_claim_leaves_before_its_guest_unless_it_is_detached_already_or_stays_as_unused() {
        let mut snapshot = world();
        config(&mut snapshot, 0).disks.insert("scsi1".into(), disk("local-lvm:vm-9999-pvc-1"));
        config(&mut snapshot, 0).disks.insert("scsi2".into(), disk("local-lvm:vm-3000-data"));
        snapshot.kube.persistent_volumes = Reading::Known(vec![volume("r/z/local-lvm/vm-3000-data")]);
        assert_eq!(asked(&snapshot, &[], Moment::OnceEmpty), []);
        assert_eq!(asked(&snapshot, &[], Moment::Now).len(), 2);
        // Proxmox VE keeps a disk of the VM's own as `unusedN` when it is detached: it never leaves.
        let static_volume = |snapshot: &mut Snapshot, slot: &str| {
            snapshot.kube.persistent_volumes = Reading::Known(vec![volume("pve/pve/local-lvm/vm-204-disk-1")]);
            config(snapshot, 0).disks.insert(slot.into(), disk("local-lvm:vm-204-disk-1"));
        };
        let found = one(|snapshot| static_volume(snapshot, "scsi3"));
        assert!(matches!(found, Objection::Referenced { by: Referrer::PersistentVolume(_), .. }), "{found}");
        let found = one(|snapshot| {
            config(snapshot, 0).unused.insert("unused0".into(), "local-lvm:vm-204-disk-1".into());
            // The storage's name in the handle proves nothing.
            snapshot.kube.persistent_volumes = Reading::Known(vec![volume("pve/pve/other-lvm/vm-204-disk-1")]);
        });
        assert!(matches!(found, Objection::Referenced { by: Referrer::PersistentVolume(_), .. }), "{found}");
    }

    #[test]
    fn a_disk_that_something_else_refers_to_is_kept() {
        let attached = one(|snapshot| {
            let one = VolumeAttachment { name: "va".into(), volume: Some("vm-204-disk-0".into()), ..Default::default() };
            snapshot.kube.volume_attachments = Reading::Known(vec![one]);
        });
        assert!(matches!(attached, Objection::Referenced { by: Referrer::Attachment { .. }, .. }), "{attached}");
        let named = one(|snapshot| drop(config(snapshot, 1).disks.insert("scsi9".into(), disk("local-lvm:vm-204-disk-0"))));
        assert!(named.to_string().contains("guest 205 (w5) names it as scsi9"), "{named}");
        // A linked clone of its disk.
        let clone = "store:204/base-204-disk-1.qcow2/205/vm-205-disk-0.qcow2";
        let named = one(|snapshot| {
            config(snapshot, 0).disks.insert("scsi1".into(), disk("store:204/base-204-disk-1.qcow2"));
            config(snapshot, 1).disks.insert("scsi0".into(), disk(clone));
        });
        assert!(matches!(named, Objection::Referenced { .. }), "{named}");
    }

    #[test]
    fn what_forbids_it_is_named_with_the_way_out() {
        assert_eq!(one(|snapshot| guest(snapshot, 0).template = true), Objection::Template);
        let untagged = one(|snapshot| guest(snapshot, 0).tags = vec!["capplan-old".into()]);
        assert!(untagged.to_string().contains("qm set 204 --tags capplan"), "{untagged}");
        let protected = one(|snapshot| config(snapshot, 0).protection = true);
        assert!(protected.to_string().contains("qm set 204 --protection 0"), "{protected}");
        let managed = one(|snapshot| guest(snapshot, 0).ha = Reading::Known(true));
        assert!(managed.to_string().contains("ha-manager remove vm:204"), "{managed}");
        let job = |vmid| ReplicationJob { id: format!("{vmid}-0"), vmid: VmId(vmid) };
        let copied = one(|snapshot| snapshot.pve[0].replication = Reading::Known(vec![job(204), job(205)]));
        assert!(copied.to_string().contains("pvesr delete 204-0"), "{copied}");
        let kept = |snapshot: &mut Snapshot| {
            let disks = [("scsi0".to_owned(), "local-lvm:vm-204-disk-0".to_owned())].into();
            guest(snapshot, 0).snapshots = Reading::Known(vec![GuestSnapshot { name: "before".into(), disks }]);
        };
        assert_eq!(one(kept), Objection::Snapshot { name: "before".into() });
        let mut snapshot = world();
        kept(&mut snapshot);
        assert_eq!(asked(&snapshot, &["before"], Moment::Now), []);
        assert_eq!(asked(&snapshot, &["older"], Moment::Now).len(), 1);
    }

    #[test]
    fn what_another_cluster_of_proxmox_ve_says_is_about_another_guest() {
        let mut snapshot = world();
        let mut other = snapshot.pve[0].clone();
        if let Reading::Known(guests) = &mut other.guests {
            guests.iter_mut().for_each(|guest| guest.host = "elsewhere".into());
        }
        other.replication = Reading::Known(vec![ReplicationJob { id: "204-0".into(), vmid: VmId(204) }]);
        snapshot.pve.insert(0, other);
        let guest = snapshot.pve[1].guests.items().first().expect("it is there").clone();
        assert_eq!(objections(&snapshot, &guest, &[], Moment::Now), []);
        let theirs = snapshot.pve[0].guests.items().first().expect("it is there").clone();
        assert!(matches!(&objections(&snapshot, &theirs, &[], Moment::Now)[..], [Objection::Replicated { .. }]));
    }

    #[test]
    fn what_was_not_read_forbids_it() {
        type Forget = fn(&mut Snapshot);
        let parts: [Forget; 9] = [
            |snapshot| guest(snapshot, 0).config = Reading::unknown("no answer"),
            |snapshot| guest(snapshot, 0).ha = Reading::unknown("no answer"),
            |snapshot| guest(snapshot, 0).snapshots = Reading::unknown("no answer"),
            |snapshot| guest(snapshot, 1).config = Reading::unknown("no answer"),
            |snapshot| guest(snapshot, 1).snapshots = Reading::unknown("no answer"),
            |snapshot| snapshot.pve[0].replication = Reading::unknown("no answer"),
            |snapshot| snapshot.kube.persistent_volumes = Reading::unknown("no answer"),
            |snapshot| snapshot.kube.volume_attachments = Reading::unknown("no answer"),
            |snapshot| snapshot.pve[0].guests = Reading::unknown("no answer"),
        ];
        let known = world();
        let meant = known.guests().next().expect("it is there").clone();
        for (number, forget) in parts.iter().enumerate() {
            let mut snapshot = world();
            forget(&mut snapshot);
            let asked = snapshot.guests().find(|guest| guest.vmid == meant.vmid).unwrap_or(&meant);
            let found = objections(&snapshot, asked, &[], Moment::Now);
            assert!(matches!(&found[..], [Objection::Unread { .. }]), "{number}: {found:?}");
        }
    }
}
