//! Volume slots of a worker: the scheduler's ledger and the plugin's, never mixed.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{NodeName, PvName, VmId, VolumeHandle};
use crate::join::{Join, join};
use crate::kube::{CsiNodeDriver, PersistentVolume, Pod, VolumeAttachment};
use crate::pve::{CSI_SLOTS, GuestConfig};
use crate::reading::Reading;
use crate::snapshot::Snapshot;
use crate::volumes::{Use, Volumes, is_owned_by};

/// Slots proxmox-csi can use on a VM: `scsi1` to `scsi29`.
pub const PLUGIN_SLOTS: u64 = (*CSI_SLOTS.end() - *CSI_SLOTS.start() + 1) as u64;

/// Volume slots of one worker, read from both planes.
#[derive(Clone, Debug, PartialEq)]
pub struct VolumeSlots {
    /// The worker.
    pub node: NodeName,
    /// Its VM.
    pub vmid: Reading<VmId>,
    /// `CSINode` allocatable count of the driver; the inner `None` is "no limit".
    pub advertised: Reading<Option<u64>>,
    /// VolumeAttachment objects of the driver on this node, failing and pending ones included.
    pub attached: Reading<Vec<Attachment>>,
    /// Unique volumes the scheduler counts: VolumeAttachments ∪ volumes of live pods bound here.
    pub counted: Reading<BTreeSet<VolumeHandle>>,
    /// What the VM config holds.
    pub config: Reading<ConfigSlots>,
    /// CSI volumes in the config that nothing on this node refers to ([`Volumes::use_of`]): `(slot, volume)`.
    pub ghosts: Reading<Vec<(u8, String)>>,
}

/// One VolumeAttachment of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Attachment {
    /// Volume.
    pub volume: PvName,
    /// Volume as the VM config names it, if the PersistentVolume is known.
    pub volid: Option<String>,
    /// Whether it is attached.
    pub attached: bool,
    /// Whether it waits for its removal.
    pub detaching: bool,
    /// Error of the last attach.
    pub error: Option<String>,
}

/// Disks of a VM on the plugin's slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigSlots {
    /// CSI volumes by slot.
    pub plugged: BTreeMap<u8, String>,
    /// Other disks by slot: an OS disk on `scsi1`, a cloud-init drive.
    pub foreign: BTreeMap<u8, String>,
    /// Detached volumes that still belong to the VM (`unusedN`).
    pub unused: Vec<String>,
}

impl ConfigSlots {
    fn of(config: &GuestConfig, volumes: &Volumes<'_>) -> Self {
        let mut slots = Self { unused: config.unused.values().cloned().collect(), ..Self::default() };
        for (slot, disk) in config.csi_slots() {
            let side = if volumes.is_volume(disk) { &mut slots.plugged } else { &mut slots.foreign };
            side.insert(slot, disk.volume.clone());
        }
        slots
    }

    /// Slots in use, by whatever.
    pub fn occupied(&self) -> u64 {
        (self.plugged.len() + self.foreign.len()) as u64
    }

    /// Slots that CSI volumes can ever use here: 29 less the foreign disks.
    pub fn real(&self) -> u64 {
        PLUGIN_SLOTS - self.foreign.len() as u64
    }
}

impl VolumeSlots {
    /// The slots of every worker, by node name.
    ///
    /// `driver` is both the CSI driver's name and the attacher's: only its volumes count. If nothing in the cluster
    /// has a driver of that name while disks are plugged, attachments and ghosts are unknown.
    pub fn of_workers(snapshot: &Snapshot, driver: &str) -> Reading<Vec<Self>> {
        let volumes = snapshot.volumes_by_name();
        let index = Volumes::of(snapshot);
        let joins = join(snapshot);
        let attachments = match index.doubt_about(driver) {
            Some(why) => Reading::unknown(why),
            None => snapshot.kube.volume_attachments.as_ref().map(|list| attachments_by_node(list, driver)),
        };
        let pods = snapshot.claimants_by_node();
        let claims = snapshot.claimed_volumes();
        let advertised: Reading<BTreeMap<&NodeName, &CsiNodeDriver>> = snapshot.kube.csi_nodes.as_ref().map(|nodes| {
            nodes.iter().filter_map(|node| Some((&node.name, node.drivers.iter().find(|one| one.name == driver)?))).collect()
        });
        snapshot.workers().map(|workers| {
            workers
                .into_iter()
                .map(|node| {
                    let name = &node.name;
                    let mine: Reading<&[&VolumeAttachment]> =
                        attachments.as_ref().map(|all| all.get(name).map_or(&[][..], Vec::as_slice));
                    let (vmid, config) = guest_of(&joins, name);
                    let config = config.map(|config| ConfigSlots::of(config, &index));
                    let ghosts = ghosts(name, &vmid, &config, &mine, &index);
                    Self {
                        node: name.clone(),
                        vmid,
                        advertised: advertised.as_ref().and_then(|all| match all.get(name) {
                            Some(one) => Reading::Known(one.count),
                            None => Reading::unknown(format!("driver {driver} is not registered on {name} (CSINode)")),
                        }),
                        attached: mine.as_ref().map(|mine| listed(mine, volumes.known())),
                        counted: counted(&mine, &pods, &claims, &volumes, name, driver),
                        ghosts,
                        config,
                    }
                })
                .collect()
        })
    }

    /// Slots CSI volumes can ever use: 29 less the foreign disks.
    pub fn real(&self) -> Option<u64> {
        self.config.known().map(ConfigSlots::real)
    }

    /// Advertised slots that do not exist.
    pub fn phantom(&self) -> Option<u64> {
        let advertised = (*self.advertised.known()?)?;
        Some(advertised.saturating_sub(self.real()?))
    }

    /// Volumes that both planes still have room for.
    ///
    /// The smaller of what the scheduler allows (`advertised − counted`) and what the plugin can
    /// plug (`29 − occupied`), never below zero.
    pub fn free(&self) -> Option<u64> {
        let plugin = PLUGIN_SLOTS.saturating_sub(self.config.known()?.occupied());
        let counted = self.counted.known()?.len() as u64;
        Some(match self.advertised.known()? {
            Some(advertised) => advertised.saturating_sub(counted).min(plugin),
            None => plugin,
        })
    }

    /// Slots usable at best: the smaller of advertised and real.
    pub fn limit(&self) -> Option<u64> {
        let real = self.real()?;
        Some((*self.advertised.known()?).map_or(real, |advertised| advertised.min(real)))
    }

    /// The first thing that keeps the ledger from being known, if any.
    pub fn unknown(&self) -> Option<&str> {
        self.config.why().or(self.counted.why()).or(self.advertised.why())
    }
}

fn attachments_by_node<'a>(list: &'a [VolumeAttachment], driver: &str) -> BTreeMap<&'a NodeName, Vec<&'a VolumeAttachment>> {
    let mut by_node: BTreeMap<&NodeName, Vec<&VolumeAttachment>> = BTreeMap::new();
    for attachment in list.iter().filter(|one| one.attacher == driver) {
        by_node.entry(&attachment.node).or_default().push(attachment);
    }
    by_node
}

fn guest_of<'a>(joins: &Reading<BTreeMap<&NodeName, Join<'a>>>, node: &NodeName) -> (Reading<VmId>, Reading<&'a GuestConfig>) {
    match joins {
        Reading::Unknown { why } => (Reading::unknown(why), Reading::unknown(why)),
        Reading::Known(joins) => match joins.get(node) {
            Some(Join::Guest(guest)) => (Reading::Known(guest.vmid), guest.config.as_ref()),
            Some(Join::Ambiguous { why, .. }) => (Reading::unknown(why), Reading::unknown(why)),
            Some(Join::Missing) | None => {
                let why = format!("no VM matches node {node}");
                (Reading::unknown(&why), Reading::unknown(why))
            }
        },
    }
}

fn listed(mine: &[&VolumeAttachment], volumes: Option<&BTreeMap<&PvName, &PersistentVolume>>) -> Vec<Attachment> {
    mine.iter()
        .filter(|one| !one.vanished)
        .map(|one| {
            let volume = one.volume.clone().unwrap_or_default();
            let handle = volumes.and_then(|volumes| volumes.get(&volume)).and_then(|volume| volume.handle.as_ref());
            Attachment {
                volid: handle.and_then(VolumeHandle::volid),
                volume,
                attached: one.attached,
                detaching: one.deleting.is_some(),
                error: one.attach_error.clone().filter(|_| !one.attached),
            }
        })
        .collect()
}

fn counted(
    mine: &Reading<&[&VolumeAttachment]>,
    pods: &Reading<BTreeMap<&NodeName, Vec<&Pod>>>,
    claims: &Reading<BTreeMap<(&str, &str), &PvName>>,
    volumes: &Reading<BTreeMap<&PvName, &PersistentVolume>>,
    node: &NodeName,
    driver: &str,
) -> Reading<BTreeSet<VolumeHandle>> {
    let (mine, pods, claims, volumes) = match (mine, pods, claims, volumes) {
        (Reading::Known(mine), Reading::Known(pods), Reading::Known(claims), Reading::Known(volumes)) => {
            (mine, pods, claims, volumes)
        }
        _ => {
            let why = mine.why().or(pods.why()).or(claims.why()).or(volumes.why());
            return Reading::unknown(why.unwrap_or("not read"));
        }
    };
    // A VolumeAttachment whose PersistentVolume is gone still counts: by its name.
    let handle = |name: &PvName| {
        volumes.get(name).and_then(|volume| volume.handle.clone()).unwrap_or_else(|| VolumeHandle(format!("pv:{name}")))
    };
    let mut counted: BTreeSet<VolumeHandle> =
        mine.iter().filter(|one| !one.vanished).filter_map(|one| one.volume.as_ref()).map(handle).collect();
    for pod in pods.get(node).into_iter().flatten() {
        for claim in &pod.claims {
            let volume = claims.get(&(pod.namespace.as_str(), claim.as_str())).and_then(|name| volumes.get(name));
            if let Some(volume) = volume.filter(|volume| volume.driver == driver) {
                counted.insert(handle(&volume.name));
            }
        }
    }
    Reading::Known(counted)
}

fn ghosts(
    node: &NodeName,
    vmid: &Reading<VmId>,
    config: &Reading<ConfigSlots>,
    mine: &Reading<&[&VolumeAttachment]>,
    volumes: &Volumes<'_>,
) -> Reading<Vec<(u8, String)>> {
    let (Reading::Known(config), Reading::Known(vmid), Reading::Known(_)) = (config, vmid, mine) else {
        return Reading::unknown(config.why().or(vmid.why()).or(mine.why()).unwrap_or("not read"));
    };
    let mut ghosts = Vec::new();
    for (slot, volume) in &config.plugged {
        match volumes.use_of(node, volume) {
            // A disk of the VM's own may be mounted by the VM itself, whoever else names it.
            Use::Ghost | Use::Elsewhere(_) if !is_owned_by(volume, *vmid) => ghosts.push((*slot, volume.clone())),
            Use::Ghost | Use::Elsewhere(_) | Use::InUse(_) => {}
            Use::Unknown(why) => return Reading::unknown(why),
        }
    }
    Reading::Known(ghosts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(advertised: Option<u64>, counted: u64, plugged: u8, foreign: u8) -> VolumeSlots {
        let config = ConfigSlots {
            foreign: (1..=foreign).map(|slot| (slot, "os".into())).collect(),
            plugged: (foreign + 1..=foreign + plugged).map(|slot| (slot, format!("v{slot}"))).collect(),
            unused: vec![],
        };
        VolumeSlots {
            node: "w".into(),
            vmid: Reading::Known(VmId(1)),
            advertised: Reading::Known(advertised),
            attached: Reading::Known(vec![]),
            counted: Reading::Known((0..counted).map(|n| VolumeHandle(n.to_string())).collect()),
            config: Reading::Known(config),
            ghosts: Reading::Known(vec![]),
        }
    }

    #[test]
    fn the_two_ledgers_are_compared_and_never_subtracted_from_each_other() {
        // 28 advertised, 18 counted, 19 occupied: min(10, 10), not 28 − 19.
        assert_eq!(slots(Some(28), 18, 19, 0).free(), Some(10));
        // Ten ghosts: the scheduler sees 15 free, the plugin 6.
        assert_eq!(slots(Some(28), 13, 23, 0).free(), Some(6));
        assert_eq!(slots(Some(24), 24, 24, 0).free(), Some(0));
        assert_eq!(slots(Some(24), 26, 26, 0).free(), Some(0), "never below zero");
        assert_eq!(slots(None, 3, 3, 0).free(), Some(26), "no advertised limit leaves the plugin's");
    }

    #[test]
    fn a_foreign_disk_takes_a_slot_and_makes_a_label_of_29_a_phantom() {
        let slots = slots(Some(29), 0, 0, 1);
        assert_eq!((slots.real(), slots.phantom(), slots.limit()), (Some(28), Some(1), Some(28)));
    }

    #[test]
    fn an_unknown_side_makes_free_unknown() {
        let mut one = slots(Some(28), 1, 1, 0);
        one.config = Reading::unknown("VM.Audit is missing");
        assert_eq!((one.free(), one.unknown()), (None, Some("VM.Audit is missing")));
    }
}
