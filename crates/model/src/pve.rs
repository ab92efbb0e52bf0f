//! The fields we use of Proxmox VE: hosts, guests, disks, storages, thin pools.
//!
//! Left out on purpose: cloud-init passwords, SSH keys, `args`, descriptions.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::ids::{HostName, VmId};
use crate::reading::Reading;
use crate::units::Bytes;

/// SCSI slots that proxmox-csi plugs volumes into: `scsi1` to `scsi29`.
///
/// # Source
/// `attachVolume`, proxmox-csi v0.5.0 to v0.19.1: the loop over lun 1..29 of the VM config.
pub const CSI_SLOTS: std::ops::RangeInclusive<u8> = 1..=29;

/// Guests from this VMID on are placeholders of replicated volumes when they own no memory of ours.
///
/// # Source
/// proxmox-csi, `replicate: true`: placeholder VMs get VMIDs of about 10000 and up.
pub const PLACEHOLDER_VMID: u32 = 10_000;

/// One PVE endpoint: a host alone or a cluster of hosts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pve {
    /// Name given in the configuration, or of the PVE cluster.
    pub name: String,
    /// Version such as `9.2.11`.
    pub version: Reading<String>,
    /// Whether the PVE cluster has quorum; a host alone always has.
    pub quorate: Reading<bool>,
    /// Hosts.
    pub hosts: Reading<Vec<Host>>,
    /// Guests of all hosts, stopped ones and templates included.
    pub guests: Reading<Vec<Guest>>,
    /// PCI resource mappings.
    pub pci_mappings: Reading<Vec<PciMapping>>,
    /// Failed tasks of the recent past.
    pub failed_tasks: Reading<Vec<FailedTask>>,
    /// Whether the pool of a guest would be seen: Proxmox VE leaves it out without a word where the token may not.
    pub pools_shown: Reading<()>,
    /// Replication jobs.
    pub replication: Reading<Vec<ReplicationJob>>,
    /// Backup jobs.
    pub backup_jobs: Reading<Vec<BackupJob>>,
}

/// A job that copies the disks of a guest to another host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicationJob {
    /// `VMID-NUMBER`.
    pub id: String,
    /// Guest.
    pub vmid: VmId,
}

/// A scheduled backup.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupJob {
    /// Its id.
    pub id: String,
    /// Guests that it names; empty if it takes all, or those of a pool.
    pub vmids: Vec<VmId>,
}

/// A PVE node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Host {
    /// Name.
    pub name: HostName,
    /// Whether the PVE cluster sees it.
    pub online: bool,
    /// Memory.
    pub memory: Reading<HostMemory>,
    /// Threads.
    pub cpus: Reading<u64>,
    /// 5-minute load average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Fraction of CPU time spent waiting for IO.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_wait: Option<f64>,
    /// Seconds since boot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uptime: Option<u64>,
    /// `pve-manager` version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// LVM-thin pools.
    pub pools: Reading<Vec<ThinPool>>,
    /// Storages.
    pub storages: Reading<Vec<Storage>>,
}

impl Host {
    /// The thin pool that a storage is on.
    ///
    /// No answer names both; they are one where their sizes are, and no other pool is as large.
    pub fn pool_of(&self, storage: &Storage) -> Option<&ThinPool> {
        let mut pools = self.pools.items().iter().filter(|pool| storage.kind == "lvmthin" && pool.size == storage.total);
        match (pools.next(), pools.next()) {
            (Some(pool), None) => Some(pool),
            _ => None,
        }
    }
}

/// Memory of a host, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HostMemory {
    /// Usable in all.
    pub total: Bytes,
    /// In use.
    pub used: Bytes,
    /// Free.
    pub free: Bytes,
    /// Available without swapping; PVE 9.0 and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported_available: Option<Bytes>,
    /// Swap in use.
    #[serde(default)]
    pub swap_used: Bytes,
    /// Swap in all.
    #[serde(default)]
    pub swap_total: Bytes,
    /// Shared by KSM.
    #[serde(default)]
    pub shared: Bytes,
}

impl HostMemory {
    /// What a new guest may take: `available`, or `free` where PVE does not report it.
    pub fn available(&self) -> Bytes {
        self.reported_available.unwrap_or(self.free)
    }
}

/// An LVM-thin pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThinPool {
    /// `volume group/logical volume`.
    pub name: String,
    /// Data in use.
    pub used: Bytes,
    /// Size for data.
    pub size: Bytes,
    /// Metadata in use.
    pub metadata_used: Bytes,
    /// Size for metadata.
    pub metadata_size: Bytes,
}

/// A storage as one host sees it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Storage {
    /// Name.
    pub name: String,
    /// Type such as `lvmthin`, `dir` or `nfs`.
    pub kind: String,
    /// Content types.
    pub content: Vec<String>,
    /// Whether several hosts share it.
    pub shared: bool,
    /// Whether it is usable now.
    pub active: bool,
    /// Size.
    pub total: Bytes,
    /// In use.
    pub used: Bytes,
    /// Free.
    pub available: Bytes,
}

/// Whether a guest runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// Running (paused counts: its memory is taken).
    Running,
    /// Stopped.
    Stopped,
    /// PVE does not say.
    #[default]
    Unknown,
}

/// Virtual machine or container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GuestKind {
    /// QEMU virtual machine.
    #[default]
    Qemu,
    /// LXC container.
    Lxc,
}

/// A VM or container.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Guest {
    /// VMID.
    pub vmid: VmId,
    /// VM or container.
    pub kind: GuestKind,
    /// Host it is on.
    pub host: HostName,
    /// Name; empty when PVE did not say.
    pub name: String,
    /// Running or stopped.
    pub power: Power,
    /// `qmpstatus` such as `io-error`, when it differs from running or stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qmp_status: Option<String>,
    /// Whether it is a template.
    pub template: bool,
    /// Configured memory as PVE reports it (`maxmem`).
    pub max_memory: Bytes,
    /// Memory in use inside the guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_used: Option<Bytes>,
    /// Virtual CPUs.
    pub cpus: u64,
    /// Tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Pool that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Lock such as `backup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
    /// Configuration in force now.
    pub config: Reading<GuestConfig>,
    /// Changes that wait for a restart: key → new value, `None` for a removal.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub pending: BTreeMap<String, Option<String>>,
    /// Whether the HA manager manages it: then it starts, stops and moves the guest by itself.
    pub ha: Reading<bool>,
    /// Its snapshots, the current state left out.
    pub snapshots: Reading<Vec<GuestSnapshot>>,
}

/// A snapshot of a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSnapshot {
    /// Name.
    pub name: String,
    /// Volumes that it names, by slot, `unusedN` or `vmstate`.
    pub disks: BTreeMap<String, String>,
}

/// Tag of the VMs that capplan may destroy: those that it made, and those that were given to it.
pub const OWN_TAG: &str = "capplan";

/// Tag of VMs that were workers, are off, and reset themselves when they are started.
pub const SPARE_TAG: &str = "capplan-spare";

impl Guest {
    /// Whether it is a placeholder of a replicated volume and no machine.
    pub fn is_placeholder(&self) -> bool {
        self.vmid.0 >= PLACEHOLDER_VMID
            && self.power != Power::Running
            && self.config.known().is_some_and(|config| config.disks.values().any(Disk::is_csi))
    }

    /// Memory the guest takes when it runs.
    pub fn memory(&self) -> Bytes {
        if self.max_memory > Bytes(0) {
            return self.max_memory;
        }
        self.config.known().map_or(Bytes(0), |config| config.memory)
    }
}

/// Configuration of a guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GuestConfig {
    /// Name.
    pub name: String,
    /// Memory.
    pub memory: Bytes,
    /// Balloon target; `None` is automatic, zero is no balloon device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<Bytes>,
    /// Cores × sockets.
    pub cores: u64,
    /// Whether it starts with its host.
    pub on_boot: bool,
    /// SMBIOS UUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Disks by slot (`scsi0`, `virtio1`, `ide2` …), CD-ROM drives included.
    pub disks: BTreeMap<String, Disk>,
    /// Detached volumes by key (`unused0` …).
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub unused: BTreeMap<String, String>,
    /// PCI devices passed through.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub host_pci: Vec<String>,
    /// Static addresses of `ipconfigN`, with their prefix lengths where these are written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Gateway of the first of them that has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// First network device as written: model, MAC address, bridge, VLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub net0: Option<String>,
    /// DNS servers that cloud-init is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nameserver: Option<String>,
    /// DNS search domains that cloud-init is told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub searchdomain: Option<String>,
    /// Files that replace generated cloud-init data, as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cicustom: Option<String>,
    /// Id of the plan that made it, which capplan writes into its description.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_by: Option<String>,
    /// Startup order as written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup: Option<String>,
    /// SCSI controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scsi_hardware: Option<String>,
    /// Whether the QEMU guest agent is enabled.
    pub agent: bool,
    /// Whether its owner protects it and its disks from being removed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub protection: bool,
    /// Hash that guards against concurrent edits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl GuestConfig {
    /// Where its cloud-init drive is: `ide2`, say.
    pub fn cloud_init_slot(&self) -> Option<&str> {
        let is_drive = |disk: &Disk| disk.cdrom && disk.volume.contains("cloudinit");
        self.disks.iter().find(|(_, disk)| is_drive(disk)).map(|(slot, _)| slot.as_str())
    }

    /// The system disk and where it is: the first disk that is neither a CD-ROM nor a volume of a claim.
    pub fn system_disk(&self) -> Option<(&str, &Disk)> {
        let is_firmware = |slot: &str| slot.starts_with("efidisk") || slot.starts_with("tpmstate");
        let mut disks = self.disks.iter().filter(|(slot, disk)| !disk.cdrom && !disk.is_csi() && !is_firmware(slot));
        disks.next().map(|(slot, disk)| (slot.as_str(), disk))
    }

    /// Disks on the slots that proxmox-csi uses, lowest first.
    pub fn csi_slots(&self) -> impl Iterator<Item = (u8, &Disk)> {
        CSI_SLOTS.filter_map(|slot| Some((slot, self.disks.get(&format!("scsi{slot}"))?)))
    }
}

/// A disk of a guest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Disk {
    /// `storage:volume`, or a path for a raw device.
    pub volume: String,
    /// Size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// Whether it is a CD-ROM or cloud-init drive.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cdrom: bool,
    /// Whether it gives freed blocks back to the pool.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub discard: bool,
}

impl Disk {
    /// Whether proxmox-csi made it: a volume named `vm-<owner>-pvc-…`.
    ///
    /// # Source
    /// proxmox-csi names volumes `vm-9999-<pv name>`; PVs are named `pvc-<uuid>` by the provisioner
    /// (replicated ones belong to a placeholder VM instead of 9999).
    pub fn is_csi(&self) -> bool {
        let (_storage, volume) = self.volume.split_once(':').unwrap_or(("", &self.volume));
        let file = volume.rsplit('/').next().unwrap_or(volume);
        let Some((owner, rest)) = file.strip_prefix("vm-").and_then(|rest| rest.split_once('-')) else {
            return false;
        };
        owner == "9999" || (rest.starts_with("pvc-") && owner.parse::<u32>().is_ok_and(|id| id >= PLACEHOLDER_VMID))
    }
}

/// A PCI resource mapping.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PciMapping {
    /// Name.
    pub id: String,
    /// Hosts that have a device of it.
    pub hosts: Vec<HostName>,
}

/// A task that did not end well.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailedTask {
    /// Host.
    pub host: HostName,
    /// Type such as `qmconfig` or `vzdump`.
    pub kind: String,
    /// Guest, if it was about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vmid: Option<VmId>,
    /// End (or start) of the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Exit text.
    pub status: String,
    /// User that started it.
    pub user: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csi_disks_are_told_from_foreign_ones() {
        let disk = |volume: &str| Disk { volume: volume.into(), ..Default::default() };
        assert!(disk("local-lvm:vm-9999-pvc-205da98f").is_csi());
        assert!(disk("store:9999/vm-9999-pvc-205da98f.raw").is_csi());
        assert!(disk("zfs:vm-10003-pvc-205da98f").is_csi());
        for foreign in ["local-lvm:vm-201-disk-0", "store:201/vm-201-cloudinit.qcow2", "/dev/sdb", "none", ""] {
            assert!(!disk(foreign).is_csi(), "{foreign}");
        }
    }

    #[test]
    fn only_scsi1_to_scsi29_count_as_csi_slots() {
        let disks = ["scsi0", "scsi1", "scsi29", "scsi30", "ide2", "virtio1"].map(|slot| (slot.to_owned(), Disk::default()));
        let config = GuestConfig { disks: disks.into(), ..Default::default() };
        assert_eq!(config.csi_slots().map(|(slot, _)| slot).collect::<Vec<_>>(), [1, 29]);
    }
}
