//! Both planes at one instant, and the text form every command accepts.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{HostName, NodeName, PvName, SnapshotId, VmId, VolumeHandle};
use crate::kube::{Kube, Node, PersistentVolume, Pod};
use crate::pve::{Guest, Host, Pve};
use crate::reading::Reading;
use crate::units::instant;

/// Format of the file; a newer major is refused.
pub const FORMAT: &str = "capplan.snapshot/1";

/// Bytes that are hashed and handed on at once.
const BUFFER: usize = 1 << 16;

/// Where a snapshot came from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// Read from the two APIs.
    #[default]
    Live,
    /// Built from saved lists.
    Lists,
    /// Written by hand as a scenario.
    Scenario,
}

/// Both planes at one instant. Immutable once built; redacted by construction, since the types
/// have no place for a secret.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// When it was taken.
    #[serde(deserialize_with = "instant")]
    pub taken: Timestamp,
    /// Where it came from.
    pub source: Source,
    /// UID of the `kube-system` namespace: tells clusters apart.
    pub cluster: String,
    /// The Kubernetes plane.
    pub kube: Kube,
    /// The Proxmox VE plane, one entry an endpoint.
    pub pve: Vec<Pve>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
}

#[derive(Serialize, Deserialize)]
struct Trailer {
    id: SnapshotId,
}

/// Why a snapshot could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// No header line of ours.
    #[error("not a capplan snapshot")]
    NotASnapshot,
    /// A newer or foreign format.
    #[error("format is `{found}`, this capplan reads `{FORMAT}`")]
    Format {
        /// What the header says.
        found: String,
    },
    /// The content does not match the header's hash.
    #[error("content does not match its hash: the file is truncated or was changed")]
    Hash,
    /// The content is not what the format says.
    #[error("content is not valid")]
    Content(#[source] serde_json::Error),
}

impl Snapshot {
    /// Puts every list in the order of its names, so that equal clusters give equal bytes.
    pub fn sort(&mut self) {
        fn by<T, K: Ord>(list: &mut Reading<Vec<T>>, key: impl Fn(&T) -> K) {
            if let Reading::Known(items) = list {
                items.sort_by_cached_key(key);
            }
        }
        let kube = &mut self.kube;
        by(&mut kube.nodes, |node| node.name.clone());
        if let Reading::Known(pods) = &mut kube.pods {
            sort_pods(pods);
        }
        by(&mut kube.persistent_volumes, |volume| volume.name.clone());
        by(&mut kube.claims, |claim| (claim.namespace.clone(), claim.name.clone()));
        by(&mut kube.storage_classes, |class| class.name.clone());
        by(&mut kube.volume_attachments, |attachment| attachment.name.clone());
        by(&mut kube.csi_nodes, |node| node.name.clone());
        by(&mut kube.csi_drivers, |driver| driver.name.clone());
        by(&mut kube.csi_storage_capacities, |capacity| capacity.name.clone());
        by(&mut kube.pdbs, |pdb| (pdb.namespace.clone(), pdb.name.clone()));
        for list in [
            &mut kube.deployments,
            &mut kube.stateful_sets,
            &mut kube.daemon_sets,
            &mut kube.replica_sets,
            &mut kube.jobs,
            &mut kube.cron_jobs,
        ] {
            by(list, |workload| (workload.namespace.clone(), workload.name.clone()));
        }
        by(&mut kube.priority_classes, |class| class.name.clone());
        by(&mut kube.namespaces, |namespace| namespace.name.clone());
        by(&mut kube.services, |service| (service.namespace.clone(), service.name.clone()));
        by(&mut kube.quotas, |quota| (quota.namespace.clone(), quota.name.clone()));
        by(&mut kube.events, |event| (event.subject.clone(), event.reason.clone(), event.message.clone(), event.last_seen));
        by(&mut kube.node_metrics, |metrics| metrics.name.clone());
        self.pve.sort_by(|a, b| a.name.cmp(&b.name));
        for pve in &mut self.pve {
            by(&mut pve.hosts, |host| host.name.clone());
            by(&mut pve.guests, |guest| guest.vmid);
            by(&mut pve.pci_mappings, |mapping| mapping.id.clone());
            by(&mut pve.failed_tasks, |task| (task.at, task.host.clone(), task.vmid, task.kind.clone()));
            if let Reading::Known(hosts) = &mut pve.hosts {
                for host in hosts {
                    by(&mut host.pools, |pool| pool.name.clone());
                    by(&mut host.storages, |storage| storage.name.clone());
                }
            }
        }
    }

    /// Writes the snapshot: a line with the format, a line with the content, a line with its hash.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn write(&self, out: &mut impl Write) -> std::io::Result<SnapshotId> {
        serde_json::to_writer(&mut *out, &Header { format: FORMAT.to_owned() })?;
        out.write_all(b"\n")?;
        let mut hashed = BufWriter::with_capacity(BUFFER, Hashed { digest: Sha256::new(), out: &mut *out });
        serde_json::to_writer(&mut hashed, self)?;
        let id = hashed.into_inner().map_err(std::io::IntoInnerError::into_error)?.id();
        out.write_all(b"\n")?;
        serde_json::to_writer(&mut *out, &Trailer { id: id.clone() })?;
        out.write_all(b"\n")?;
        Ok(id)
    }

    /// Reads what [`Snapshot::write`] wrote.
    ///
    /// # Errors
    /// [`SnapshotError`] if the header, the hash or the content is not right.
    pub fn read(text: &[u8]) -> Result<(Self, SnapshotId), SnapshotError> {
        let (header, rest) = line(text).ok_or(SnapshotError::NotASnapshot)?;
        let header: Header = serde_json::from_slice(header).map_err(|_| SnapshotError::NotASnapshot)?;
        if header.format != FORMAT {
            return Err(SnapshotError::Format { found: header.format });
        }
        let (content, rest) = line(rest).ok_or(SnapshotError::Hash)?;
        let (trailer, rest) = line(rest).ok_or(SnapshotError::Hash)?;
        let Trailer { id } = serde_json::from_slice(trailer).map_err(|_| SnapshotError::Hash)?;
        let mut hashed = Hashed { digest: Sha256::new(), out: std::io::sink() };
        if !rest.is_empty() || hashed.write_all(content).is_err() || hashed.id() != id {
            return Err(SnapshotError::Hash);
        }
        let snapshot = serde_json::from_slice(content).map_err(SnapshotError::Content)?;
        Ok((snapshot, id))
    }

    /// Hash of the content.
    pub fn id(&self) -> SnapshotId {
        self.write(&mut std::io::sink()).expect("a sink takes every write, and every value can be written")
    }

    /// Everything that could not be read: `(what, why)`.
    pub fn unknowns(&self) -> Vec<(String, String)> {
        fn note<T>(list: &mut Vec<(String, String)>, what: impl Into<String>, reading: &Reading<T>) {
            if let Some(why) = reading.why() {
                list.push((what.into(), why.to_owned()));
            }
        }
        let mut list = Vec::new();
        let kube = &self.kube;
        note(&mut list, "kubernetes version", &kube.version);
        note(&mut list, "nodes", &kube.nodes);
        note(&mut list, "leases", &kube.leases);
        note(&mut list, "pods", &kube.pods);
        note(&mut list, "persistentvolumes", &kube.persistent_volumes);
        note(&mut list, "persistentvolumeclaims", &kube.claims);
        note(&mut list, "storageclasses", &kube.storage_classes);
        note(&mut list, "volumeattachments", &kube.volume_attachments);
        note(&mut list, "csinodes", &kube.csi_nodes);
        note(&mut list, "csidrivers", &kube.csi_drivers);
        note(&mut list, "csistoragecapacities", &kube.csi_storage_capacities);
        note(&mut list, "poddisruptionbudgets", &kube.pdbs);
        note(&mut list, "deployments", &kube.deployments);
        note(&mut list, "statefulsets", &kube.stateful_sets);
        note(&mut list, "daemonsets", &kube.daemon_sets);
        note(&mut list, "replicasets", &kube.replica_sets);
        note(&mut list, "jobs", &kube.jobs);
        note(&mut list, "cronjobs", &kube.cron_jobs);
        note(&mut list, "priorityclasses", &kube.priority_classes);
        note(&mut list, "namespaces", &kube.namespaces);
        note(&mut list, "services", &kube.services);
        note(&mut list, "resourcequotas", &kube.quotas);
        note(&mut list, "events", &kube.events);
        note(&mut list, "node metrics", &kube.node_metrics);
        note(&mut list, "ipamhandles", &kube.ipam_handles);
        if self.pve.is_empty() {
            list.push(("proxmox".into(), "no Proxmox VE endpoint was read".into()));
        }
        for pve in &self.pve {
            let at = |what: &str| format!("proxmox {}: {what}", pve.name);
            note(&mut list, at("version"), &pve.version);
            note(&mut list, at("quorum"), &pve.quorate);
            note(&mut list, at("hosts"), &pve.hosts);
            note(&mut list, at("guests"), &pve.guests);
            note(&mut list, at("PCI mappings"), &pve.pci_mappings);
            note(&mut list, at("failed tasks"), &pve.failed_tasks);
            for host in pve.hosts.items() {
                note(&mut list, format!("host {}: memory", host.name), &host.memory);
                note(&mut list, format!("host {}: cpus", host.name), &host.cpus);
                note(&mut list, format!("host {}: thin pools", host.name), &host.pools);
                note(&mut list, format!("host {}: storages", host.name), &host.storages);
            }
            for guest in pve.guests.items() {
                note(&mut list, format!("guest {} ({}): config", guest.vmid, guest.name), &guest.config);
            }
        }
        list
    }

    /// All hosts of all endpoints whose host list is known.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.pve.iter().flat_map(|pve| pve.hosts.items())
    }

    /// All guests of all endpoints whose guest list is known.
    pub fn guests(&self) -> impl Iterator<Item = &Guest> {
        self.pve.iter().flat_map(|pve| pve.guests.items())
    }

    /// The guest that has this VMID on this host.
    pub fn guest_at(&self, host: &HostName, vmid: VmId) -> Option<&Guest> {
        self.guests().find(|guest| guest.host == *host && guest.vmid == vmid)
    }

    /// Whether the guests of every endpoint are known.
    pub fn guests_known(&self) -> Reading<()> {
        if self.pve.is_empty() {
            return Reading::unknown("no Proxmox VE endpoint was read");
        }
        self.pve.iter().find_map(|pve| pve.guests.why()).map_or(Reading::Known(()), Reading::unknown)
    }

    /// Whether the guests of one host are known: those of its endpoint.
    pub fn guests_of(&self, host: &HostName) -> Reading<Vec<&Guest>> {
        let endpoint = self.pve.iter().find(|pve| pve.hosts.items().iter().any(|one| one.name == *host));
        match endpoint {
            Some(pve) => pve.guests.as_ref().map(|guests| guests.iter().filter(|guest| guest.host == *host).collect()),
            None => Reading::unknown(format!("host {host} is not among the hosts read")),
        }
    }

    /// Live pods with claims, by the node they are bound to.
    pub fn claimants_by_node(&self) -> Reading<BTreeMap<&NodeName, Vec<&Pod>>> {
        self.kube.pods.as_ref().map(|pods| {
            let mut by_node: BTreeMap<&NodeName, Vec<&Pod>> = BTreeMap::new();
            for pod in pods.iter().filter(|pod| !pod.claims.is_empty() && !pod.is_terminal()) {
                if let Some(node) = &pod.node {
                    by_node.entry(node).or_default().push(pod);
                }
            }
            by_node
        })
    }

    /// PersistentVolumes by name.
    pub fn volumes_by_name(&self) -> Reading<BTreeMap<&PvName, &PersistentVolume>> {
        self.kube.persistent_volumes.as_ref().map(|volumes| volumes.iter().map(|volume| (&volume.name, volume)).collect())
    }

    /// PersistentVolumes of a CSI driver, each with its name in Proxmox VE, if it has one; none where
    /// volumes are unknown.
    pub fn volumes_of(&self, driver: &str) -> BTreeMap<&PvName, Option<String>> {
        let volumes = self.kube.persistent_volumes.items().iter().filter(|volume| volume.driver == driver);
        volumes.map(|volume| (&volume.name, volume.handle.as_ref().and_then(VolumeHandle::volid))).collect()
    }

    /// Volume of each bound claim, by the claim's namespace and name.
    pub fn claimed_volumes(&self) -> Reading<BTreeMap<(&str, &str), &PvName>> {
        self.kube.claims.as_ref().map(|claims| {
            let bound = claims.iter();
            bound.filter_map(|claim| Some(((claim.namespace.as_str(), claim.name.as_str()), claim.volume.as_ref()?))).collect()
        })
    }

    /// Nodes that run workloads.
    pub fn workers(&self) -> Reading<Vec<&Node>> {
        self.kube.nodes.as_ref().map(|nodes| nodes.iter().filter(|node| !node.is_control_plane()).collect())
    }
}

/// Sorts pods by namespace and name, moving each at most once: they are large, and there are many.
fn sort_pods(pods: &mut [Pod]) {
    if pods.is_sorted_by(|a, b| (&a.namespace, &a.name) <= (&b.namespace, &b.name)) {
        return;
    }
    let mut order: Vec<usize> = (0..pods.len()).collect();
    order.sort_by(|a, b| {
        let (a, b) = (&pods[*a], &pods[*b]);
        (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name))
    });
    // Follow each cycle of the permutation; `order[place]` says which pod belongs there.
    for start in 0..order.len() {
        let mut place = start;
        while order[place] != start {
            let next = order[place];
            pods.swap(place, next);
            order[place] = place;
            place = next;
        }
        order[place] = place;
    }
}

/// The text up to the next line break, and what follows it.
fn line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    Some((&text[..end], &text[end + 1..]))
}

/// Hashes what passes through.
struct Hashed<W> {
    digest: Sha256,
    out: W,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.digest.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

impl<W> Hashed<W> {
    fn id(self) -> SnapshotId {
        let digits: Vec<String> = self.digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        SnapshotId(format!("sha256:{}", digits.concat()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(snapshot: &Snapshot) -> Vec<u8> {
        let mut text = Vec::new();
        snapshot.write(&mut text).expect("a Vec takes every write");
        text
    }

    #[test]
    fn a_snapshot_reads_back_as_written_and_equal_ones_give_equal_bytes() {
        let mut snapshot = Snapshot { cluster: "c".into(), ..Default::default() };
        snapshot.kube.nodes = Reading::Known(vec![Node { name: "a".into(), ..Default::default() }]);
        let text = written(&snapshot);
        let (read, id) = Snapshot::read(&text).expect("just written");
        assert_eq!((&read, &id), (&snapshot, &snapshot.id()));
        assert_eq!(written(&read), text);
    }

    #[test]
    fn pods_are_sorted_from_any_order() {
        let names = ["b/2", "a/3", "c/1", "a/1", "b/1", "a/2"];
        let pod = |text: &&str| {
            let (namespace, name) = text.split_once('/').expect("has a slash");
            Pod { namespace: namespace.into(), name: name.into(), ..Default::default() }
        };
        for rotation in 0..names.len() {
            let mut pods: Vec<Pod> = names.iter().map(pod).collect();
            pods.rotate_left(rotation);
            sort_pods(&mut pods);
            let sorted: Vec<String> = pods.iter().map(|pod| pod.object_name().0).collect();
            assert_eq!(sorted, ["a/1", "a/2", "a/3", "b/1", "b/2", "c/1"]);
        }
    }

    #[test]
    fn every_truncation_and_every_changed_byte_is_noticed() {
        let text = written(&Snapshot::default());
        for end in 0..text.len() {
            assert!(Snapshot::read(&text[..end]).is_err(), "cut at {end}");
        }
        let header = text.iter().position(|byte| *byte == b'\n').expect("has a header");
        for place in header..text.len() {
            let mut changed = text.clone();
            changed[place] ^= 1;
            assert!(Snapshot::read(&changed).is_err(), "changed at {place}");
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let text = b"{\"format\":\"capplan.snapshot/2\"}\n{}\n{}\n";
        let error = Snapshot::read(text).expect_err("newer");
        assert!(error.to_string().contains("capplan.snapshot/2"), "{error}");
    }
}
