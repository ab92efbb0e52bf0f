//! Clusters in short form: input of the demo, of the tests, and of a newcomer.
//!
//! A scenario file says what matters and leaves out what every cluster has. It becomes a snapshot
//! and a history like any other; nothing downstream knows the difference.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error};

use crate::Reading;
use crate::capacity::Dimension;
use crate::change::Change;
use crate::history::{History, Point};
use crate::ids::{ObjectName, VmId};
use crate::kube::{
    Affinity, CONTROL_PLANE_LABEL, Claim, Condition, CsiDriver, CsiNode, CsiNodeDriver, Effect, Kube, LabelSelector, Labels,
    MAX_VOLUMES_LABEL, Namespace, Node, NodeMetrics, Owner, PersistentVolume, Phase, Pod, PodAffinity, PodAffinityTerm,
    Resources, Scheduling, StorageClass, Taint, Toleration, VolumeAttachment,
};
use crate::pve::{Disk, Guest, GuestConfig, GuestKind, Host, HostMemory, Power, Pve, Storage, ThinPool};
use crate::snapshot::{Snapshot, Source};
use crate::units::{Bytes, MilliCpu, count, counts, instant, written as bytes};

/// Format of the file; a newer major is refused.
pub const FORMAT: &str = "capplan.scenario/1";
/// Driver of a scenario's volumes.
const DRIVER: &str = "csi.proxmox.sinextra.dev";
/// Storage of all disks; it is on the first thin pool.
const STORAGE: &str = "local-lvm";

/// A cluster in short form.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// `capplan.scenario/1`.
    #[serde(deserialize_with = "format")]
    pub format: String,
    /// What it shows.
    pub title: String,
    /// The instant it speaks of.
    #[serde(deserialize_with = "instant")]
    pub now: Timestamp,
    /// Hosts.
    #[serde(default)]
    pub hosts: Vec<HostShape>,
    /// Guests that are no nodes.
    #[serde(default)]
    pub guests: Vec<GuestShape>,
    /// Nodes with their VMs.
    #[serde(default)]
    pub nodes: Vec<NodeShape>,
    /// Lists that could not be read: plural name → why.
    #[serde(default)]
    pub unknown: BTreeMap<String, String>,
    /// PersistentVolumes in phase Released.
    #[serde(default, deserialize_with = "count")]
    pub released_volumes: u32,
    /// Samples of the past.
    #[serde(default)]
    pub history: Vec<HistoryShape>,
    /// A captured snapshot to start from instead of a short form: a path, from this file's folder on.
    #[serde(default)]
    pub snapshot: Option<String>,
    /// What happens then, for `capplan simulate`.
    #[serde(default)]
    pub changes: Vec<Change>,
}

/// A host.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HostShape {
    /// Name.
    pub name: String,
    /// Memory.
    #[serde(deserialize_with = "bytes")]
    #[schemars(with = "String")]
    pub memory: Bytes,
    /// Memory available.
    #[serde(deserialize_with = "bytes")]
    #[schemars(with = "String")]
    pub available: Bytes,
    /// Threads.
    pub cpus: u64,
    /// Thin pools.
    #[serde(default)]
    pub pools: Vec<PoolShape>,
}

/// A thin pool.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolShape {
    /// `volume group/logical volume`.
    pub name: String,
    /// Size.
    #[serde(deserialize_with = "bytes")]
    #[schemars(with = "String")]
    pub size: Bytes,
    /// Data in use.
    #[serde(deserialize_with = "bytes")]
    #[schemars(with = "String")]
    pub used: Bytes,
    /// Size of the metadata.
    #[serde(deserialize_with = "bytes")]
    #[schemars(with = "String")]
    pub metadata_size: Bytes,
    /// Metadata in use.
    #[serde(deserialize_with = "bytes")]
    #[schemars(with = "String")]
    pub metadata_used: Bytes,
}

/// A guest that is no node.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestShape {
    /// VMID.
    pub vmid: u32,
    /// Name.
    pub name: String,
    /// Host.
    pub host: String,
    /// Memory.
    #[serde(deserialize_with = "bytes")]
    #[schemars(with = "String")]
    pub memory: Bytes,
    /// Virtual CPUs.
    #[serde(default = "one")]
    pub cpus: u64,
    /// Whether it runs.
    #[serde(default)]
    pub running: bool,
    /// Whether it starts with its host.
    #[serde(default)]
    pub on_boot: bool,
    /// Whether it is a template.
    #[serde(default)]
    pub template: bool,
}

/// A node and its VM.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeShape {
    /// Name of node and VM.
    pub name: String,
    /// VMID.
    pub vmid: u32,
    /// Host.
    pub host: String,
    /// Memory of the VM.
    #[serde(deserialize_with = "bytes")]
    #[schemars(with = "String")]
    pub memory: Bytes,
    /// Allocatable memory; otherwise that of the VM less 1.25 GiB.
    #[serde(default, deserialize_with = "some_bytes")]
    #[schemars(with = "Option<String>")]
    pub allocatable: Option<Bytes>,
    /// Virtual CPUs.
    pub cpus: u64,
    /// Whether it is the control plane.
    #[serde(default)]
    pub control_plane: bool,
    /// Whether it is cordoned.
    #[serde(default)]
    pub cordoned: bool,
    /// Taints: `key=value:Effect`.
    #[serde(default)]
    pub taints: Vec<String>,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// Extended resources.
    #[serde(default)]
    pub extended: BTreeMap<String, u64>,
    /// Volumes CSINode advertises.
    #[serde(default = "usual_count")]
    pub advertised: u64,
    /// Volumes attached and plugged.
    #[serde(default, deserialize_with = "count")]
    pub attached: u32,
    /// Volumes plugged without a VolumeAttachment.
    #[serde(default, deserialize_with = "count")]
    pub ghosts: u32,
    /// Volumes that cannot be attached: no free slot.
    #[serde(default, deserialize_with = "count")]
    pub failing: u32,
    /// Whether the VM boots from `scsi1` instead of `scsi0`.
    #[serde(default)]
    pub boots_from_scsi1: bool,
    /// Memory in use, by the metrics API.
    #[serde(default, deserialize_with = "some_bytes")]
    #[schemars(with = "Option<String>")]
    pub memory_used: Option<Bytes>,
    /// Pods.
    #[serde(default)]
    pub pods: Vec<PodShape>,
    /// Pods evicted: one entry a day, today first.
    #[serde(default, deserialize_with = "counts")]
    pub evicted: Vec<u32>,
}

/// Some equal pods.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PodShape {
    /// Name of the workload.
    pub name: String,
    /// How many.
    #[serde(default = "one", deserialize_with = "count")]
    pub count: u64,
    /// Memory request of each.
    #[serde(default, deserialize_with = "bytes")]
    #[schemars(with = "String")]
    pub memory: Bytes,
    /// Memory limit of each.
    #[serde(default, deserialize_with = "bytes")]
    #[schemars(with = "String")]
    pub limit: Bytes,
    /// CPU request of each.
    #[serde(default, deserialize_with = "cpu")]
    #[schemars(with = "String")]
    pub cpu: MilliCpu,
    /// Extended resources of each.
    #[serde(default)]
    pub extended: BTreeMap<String, u64>,
    /// Whether a DaemonSet owns them.
    #[serde(default)]
    pub daemon: bool,
    /// Whether a StatefulSet owns them.
    #[serde(default)]
    pub stateful: bool,
    /// Whether nothing owns them.
    #[serde(default)]
    pub bare: bool,
    /// Block volumes of each, attached and plugged; beyond those of the node's `attached`.
    #[serde(default, deserialize_with = "count")]
    pub volumes: u32,
    /// Labels a node must have.
    #[serde(default)]
    pub node_selector: Labels,
    /// Keys of taints that they tolerate.
    #[serde(default)]
    pub tolerates: Vec<String>,
    /// Whether no two of them may share a node.
    #[serde(default)]
    pub apart: bool,
    /// Priority.
    #[serde(default)]
    pub priority: i32,
    /// Whether they have ended.
    #[serde(default)]
    pub finished: bool,
}

/// Samples of one series.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HistoryShape {
    /// Dimension.
    pub dimension: Dimension,
    /// Node, host, pool or cluster (empty).
    #[serde(default)]
    pub subject: String,
    /// Days before now that the series begins; hourly samples, the last an hour ago.
    #[serde(deserialize_with = "count")]
    pub days: u32,
    /// Value at the beginning.
    #[serde(deserialize_with = "amount")]
    #[schemars(with = "AmountText")]
    pub from: f64,
    /// Value an hour ago.
    #[serde(deserialize_with = "amount")]
    #[schemars(with = "AmountText")]
    pub to: f64,
    /// Height of a daily wave on top.
    #[serde(default, deserialize_with = "amount")]
    #[schemars(with = "AmountText")]
    pub wave: f64,
    /// Limit.
    #[serde(default, deserialize_with = "some_amount")]
    #[schemars(with = "Option<AmountText>")]
    pub limit: Option<f64>,
    /// Samples left out, evenly spread: holes in the series.
    #[serde(default, deserialize_with = "count")]
    pub missing: u32,
    /// Samples with another value.
    #[serde(default)]
    pub set: Vec<SetPoint>,
}

/// A sample with another value.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPoint {
    /// Which sample.
    #[serde(deserialize_with = "count")]
    pub hours_ago: u32,
    /// Its value.
    #[serde(deserialize_with = "amount")]
    #[schemars(with = "AmountText")]
    pub used: f64,
}

/// The scenario is not one we understand; the message names line, column and expectation.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ScenarioError {
    /// What and where.
    pub message: String,
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// [`ScenarioError`] with line and column for a syntax error, an unknown key or a bad value.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        toml::from_str(text).map_err(|error| ScenarioError { message: error.to_string() })
    }

    /// The snapshot it describes.
    pub fn snapshot(&self) -> Snapshot {
        let mut build = Build { scenario: self, kube: empty_kube(), guests: Vec::new(), volumes: 0 };
        for node in &self.nodes {
            build.node(node);
        }
        for index in 0..self.released_volumes {
            build.volume(&format!("pvc-released-{index:04}"), "Released", None);
        }
        let Build { mut kube, mut guests, .. } = build;
        guests.extend(self.guests.iter().map(guest));
        for (plural, why) in &self.unknown {
            forget(&mut kube, plural, why);
        }
        let pve = Pve {
            name: "lab".into(),
            version: Reading::Known("9.1.4".into()),
            quorate: Reading::Known(true),
            hosts: Reading::Known(self.hosts.iter().map(host).collect()),
            guests: Reading::Known(guests),
            pci_mappings: Reading::Known(Vec::new()),
            failed_tasks: Reading::Known(Vec::new()),
            pools_shown: Reading::Known(()),
            replication: Reading::Known(Vec::new()),
            backup_jobs: Reading::Known(Vec::new()),
        };
        let mut snapshot = Snapshot {
            taken: self.now,
            source: Source::Scenario,
            cluster: "00000000-0000-4000-8000-000000000000".into(),
            kube,
            pve: vec![pve],
        };
        snapshot.sort();
        snapshot
    }

    /// The history it describes.
    pub fn history(&self) -> History {
        let mut history = History::default();
        for shape in &self.history {
            let hours = shape.days * 24;
            let hole = hours.checked_div(shape.missing).unwrap_or(u32::MAX);
            let points = (1..=hours).filter(|ago| ago % hole != hole / 2 || ago / hole >= shape.missing).map(|ago| {
                let share = if hours > 1 { f64::from(hours - ago) / f64::from(hours - 1) } else { 1.0 };
                let wave = (f64::from(ago % 24) / 24.0 * std::f64::consts::TAU).sin() * shape.wave;
                let usual = shape.from + (shape.to - shape.from) * share + wave;
                let usual = if shape.wave == 0.0 && shape.from.fract() == 0.0 { usual.round() } else { usual };
                let used = shape.set.iter().find(|set| set.hours_ago == ago).map_or(usual, |set| set.used);
                (self.now - SignedDuration::from_hours(i64::from(ago)), Point { used, limit: shape.limit })
            });
            history.extend_series(shape.dimension, shape.subject.clone(), points.collect::<Vec<_>>());
        }
        history
    }
}

struct Build<'a> {
    scenario: &'a Scenario,
    kube: Kube,
    guests: Vec<Guest>,
    volumes: u32,
}

fn push<T>(list: &mut Reading<Vec<T>>, item: T) {
    if let Reading::Known(items) = list {
        items.push(item);
    }
}

impl Build<'_> {
    fn node(&mut self, shape: &NodeShape) {
        let name = &shape.name;
        let uuid = format!("00000000-0000-4000-8000-{:012}", shape.vmid);
        let allocatable = shape.allocatable.unwrap_or(shape.memory.minus(Bytes(crate::units::GIB * 5 / 4)));
        let mut labels = shape.labels.clone();
        labels.insert("kubernetes.io/hostname".into(), name.clone());
        let mut taints: Vec<Taint> = shape.taints.iter().map(|text| taint(text)).collect();
        if shape.control_plane {
            labels.insert(CONTROL_PLANE_LABEL.into(), String::new());
            taints.push(Taint { key: CONTROL_PLANE_LABEL.into(), effect: Effect::NoSchedule, ..Default::default() });
        } else {
            labels.insert(MAX_VOLUMES_LABEL.into(), shape.advertised.to_string());
        }
        let resources = Resources {
            cpu: MilliCpu(shape.cpus.saturating_mul(1000)),
            memory: allocatable,
            ephemeral: Bytes::gib(100),
            extended: shape.extended.clone(),
        };
        push(
            &mut self.kube.nodes,
            Node {
                name: name.as_str().into(),
                uid: uuid.clone(),
                created: Some(self.scenario.now - SignedDuration::from_hours(24 * 365)),
                labels,
                taints,
                unschedulable: shape.cordoned,
                provider_id: Some(format!("proxmox://lab/{}", shape.vmid)),
                system_uuid: Some(uuid.clone()),
                kubelet_version: "v1.35.2".into(),
                capacity: Resources { memory: shape.memory, ..resources.clone() },
                allocatable: resources,
                max_pods: 110,
                conditions: vec![Condition { kind: "Ready".into(), status: "True".into(), ..Default::default() }],
                ..Default::default()
            },
        );
        if let Reading::Known(leases) = &mut self.kube.leases {
            leases.insert(name.as_str().into(), self.scenario.now);
        }
        if let Some(memory) = shape.memory_used {
            push(&mut self.kube.node_metrics, NodeMetrics { name: name.as_str().into(), memory, ..Default::default() });
        }
        let mut disks = BTreeMap::new();
        let os = Disk {
            volume: format!("{STORAGE}:vm-{}-disk-0", shape.vmid),
            size: Some(Bytes::gib(64)),
            discard: true,
            ..Default::default()
        };
        disks.insert(if shape.boots_from_scsi1 { "scsi1" } else { "scsi0" }.to_owned(), os);
        let mut slot = if shape.boots_from_scsi1 { 2 } else { 1 };
        let mut plug = |disks: &mut BTreeMap<String, Disk>, pv: &str| {
            let disk = Disk { volume: format!("{STORAGE}:vm-9999-{pv}"), size: Some(Bytes::gib(8)), ..Default::default() };
            disks.insert(format!("scsi{slot}"), disk);
            slot += 1;
        };
        for _ in 0..shape.attached {
            let pv = self.bound_volume();
            plug(&mut disks, &pv);
            self.attach(name, &pv, None);
        }
        for _ in 0..shape.ghosts {
            let pv = self.bound_volume();
            plug(&mut disks, &pv);
        }
        for _ in 0..shape.failing {
            let pv = self.bound_volume();
            self.attach(name, &pv, Some("rpc error: code = Internal desc = no free lun found"));
        }
        if !shape.control_plane {
            let driver = CsiNodeDriver { name: DRIVER.into(), count: Some(shape.advertised), topology_keys: Vec::new() };
            push(&mut self.kube.csi_nodes, CsiNode { name: name.as_str().into(), drivers: vec![driver] });
        }
        for pods in &shape.pods {
            for pv in self.pods(name, pods) {
                plug(&mut disks, &pv);
            }
        }
        self.evicted(name, &shape.evicted);
        let config = GuestConfig {
            name: name.clone(),
            memory: shape.memory,
            cores: shape.cpus,
            on_boot: true,
            uuid: Some(uuid),
            disks,
            agent: true,
            ..Default::default()
        };
        self.guests.push(Guest {
            vmid: VmId(shape.vmid),
            host: shape.host.as_str().into(),
            name: name.clone(),
            power: Power::Running,
            max_memory: shape.memory,
            cpus: shape.cpus,
            config: Reading::Known(config),
            ha: Reading::Known(false),
            snapshots: Reading::Known(Vec::new()),
            ..Default::default()
        });
    }

    fn bound_volume(&mut self) -> String {
        self.volumes += 1;
        let pv = format!("pvc-{:08}", self.volumes);
        let claim = format!("data-{:08}", self.volumes);
        self.volume(&pv, "Bound", Some(ObjectName::new("apps", &claim)));
        push(
            &mut self.kube.claims,
            Claim {
                namespace: "apps".into(),
                name: claim,
                phase: "Bound".into(),
                volume: Some(pv.as_str().into()),
                requested: Bytes::gib(8),
                access_modes: vec!["ReadWriteOnce".into()],
                ..Default::default()
            },
        );
        pv
    }

    fn volume(&mut self, pv: &str, phase: &str, claim: Option<ObjectName>) {
        push(
            &mut self.kube.persistent_volumes,
            PersistentVolume {
                name: pv.into(),
                driver: DRIVER.into(),
                handle: Some(format!("lab/pve/{STORAGE}/vm-9999-{pv}").into()),
                phase: phase.into(),
                capacity: Bytes::gib(8),
                claim,
                reclaim_policy: "Retain".into(),
                access_modes: vec!["ReadWriteOnce".into()],
                ..Default::default()
            },
        );
    }

    fn attach(&mut self, node: &str, pv: &str, error: Option<&str>) {
        push(
            &mut self.kube.volume_attachments,
            VolumeAttachment {
                name: format!("csi-{node}-{pv}"),
                attacher: DRIVER.into(),
                node: node.into(),
                volume: Some(pv.into()),
                attached: error.is_none(),
                attach_error: error.map(str::to_owned),
                ..Default::default()
            },
        );
    }

    /// Adds pods; answers the volumes that are plugged for them.
    fn pods(&mut self, node: &str, shape: &PodShape) -> Vec<String> {
        let mut volumes = Vec::new();
        let labels = Labels::from([("app".into(), shape.name.clone())]);
        let kind = match shape {
            PodShape { daemon: true, .. } => "DaemonSet",
            PodShape { stateful: true, .. } => "StatefulSet",
            _ => "ReplicaSet",
        };
        for index in 0..shape.count {
            let mut claims = Vec::new();
            for _ in 0..shape.volumes {
                let pv = self.bound_volume();
                self.attach(node, &pv, None);
                claims.push(format!("data-{:08}", self.volumes));
                volumes.push(pv);
            }
            push(
                &mut self.kube.pods,
                Pod {
                    namespace: "apps".into(),
                    name: format!("{}-{node}-{index}", shape.name),
                    node: Some(node.into()),
                    phase: if shape.finished { Phase::Succeeded } else { Phase::Running },
                    owner: (!shape.bare).then(|| Owner { kind: kind.into(), name: shape.name.clone(), uid: shape.name.clone() }),
                    labels: if shape.apart { labels.clone() } else { Labels::new() },
                    claims,
                    scheduling: scheduling(shape, &labels),
                    requests: Resources {
                        cpu: shape.cpu,
                        memory: shape.memory,
                        extended: shape.extended.clone(),
                        ..Default::default()
                    },
                    limits: Resources { memory: shape.limit, ..Default::default() },
                    ..Default::default()
                },
            );
        }
        volumes
    }

    fn evicted(&mut self, node: &str, by_day: &[u32]) {
        for (day, count) in (0_i64..).zip(by_day) {
            for index in 0..*count {
                push(
                    &mut self.kube.pods,
                    Pod {
                        namespace: "apps".into(),
                        name: format!("evicted-{node}-{day}-{index}"),
                        node: Some(node.into()),
                        phase: Phase::Failed,
                        reason: "Evicted".into(),
                        ended: Some(self.scenario.now - SignedDuration::from_hours(24 * day + 1)),
                        ..Default::default()
                    },
                );
            }
        }
    }
}

fn scheduling(shape: &PodShape, labels: &Labels) -> Scheduling {
    let tolerates = |key: &String| Toleration { key: key.clone(), operator: "Exists".into(), ..Default::default() };
    let mut tolerations: Vec<Toleration> = shape.tolerates.iter().map(tolerates).collect();
    if shape.daemon {
        // As the DaemonSet controller makes them: they stay where they are.
        tolerations.push(Toleration { operator: "Exists".into(), ..Default::default() });
    }
    let apart = shape.apart.then(|| Affinity {
        pod_anti_affinity: Some(PodAffinity {
            required: vec![PodAffinityTerm {
                label_selector: Some(LabelSelector { match_labels: labels.clone(), match_expressions: Vec::new() }),
                topology_key: "kubernetes.io/hostname".into(),
                ..Default::default()
            }],
            preferred: Vec::new(),
        }),
        ..Default::default()
    });
    Scheduling {
        node_selector: shape.node_selector.clone(),
        affinity: apart,
        tolerations,
        default_tolerations: !shape.daemon,
        priority: shape.priority,
        ..Default::default()
    }
}

fn empty_kube() -> Kube {
    Kube {
        version: Reading::Known("v1.35.2".into()),
        nodes: Reading::Known(Vec::new()),
        leases: Reading::Known(BTreeMap::new()),
        pods: Reading::Known(Vec::new()),
        persistent_volumes: Reading::Known(Vec::new()),
        claims: Reading::Known(Vec::new()),
        storage_classes: Reading::Known(vec![StorageClass {
            name: "proxmox-lvm".into(),
            provisioner: DRIVER.into(),
            binding_mode: "WaitForFirstConsumer".into(),
            reclaim_policy: "Retain".into(),
            storage: STORAGE.into(),
            is_default: true,
            allowed_topologies: Vec::new(),
        }]),
        volume_attachments: Reading::Known(Vec::new()),
        csi_nodes: Reading::Known(Vec::new()),
        csi_drivers: Reading::Known(vec![CsiDriver { name: DRIVER.into(), attach_required: true, storage_capacity: false }]),
        csi_storage_capacities: Reading::Known(Vec::new()),
        pdbs: Reading::Known(Vec::new()),
        deployments: Reading::Known(Vec::new()),
        stateful_sets: Reading::Known(Vec::new()),
        daemon_sets: Reading::Known(Vec::new()),
        replica_sets: Reading::Known(Vec::new()),
        jobs: Reading::Known(Vec::new()),
        cron_jobs: Reading::Known(Vec::new()),
        priority_classes: Reading::Known(Vec::new()),
        namespaces: Reading::Known(vec![Namespace { name: "apps".into(), ..Default::default() }]),
        services: Reading::Known(Vec::new()),
        quotas: Reading::Known(Vec::new()),
        events: Reading::Known(Vec::new()),
        node_metrics: Reading::Known(Vec::new()),
        ipam_handles: Reading::Known(None),
    }
}

fn forget(kube: &mut Kube, plural: &str, why: &str) {
    match plural {
        "nodes" => kube.nodes = Reading::unknown(why),
        "pods" => kube.pods = Reading::unknown(why),
        "persistentvolumes" => kube.persistent_volumes = Reading::unknown(why),
        "persistentvolumeclaims" => kube.claims = Reading::unknown(why),
        "volumeattachments" => kube.volume_attachments = Reading::unknown(why),
        "csinodes" => kube.csi_nodes = Reading::unknown(why),
        "poddisruptionbudgets" => kube.pdbs = Reading::unknown(why),
        _ => {}
    }
}

fn storage_of(pool: &PoolShape) -> Storage {
    Storage {
        name: STORAGE.into(),
        kind: "lvmthin".into(),
        content: vec!["images".into()],
        active: true,
        total: pool.size,
        used: pool.used,
        available: pool.size.minus(pool.used),
        ..Storage::default()
    }
}

fn host(shape: &HostShape) -> Host {
    Host {
        name: shape.name.as_str().into(),
        online: true,
        memory: Reading::Known(HostMemory {
            total: shape.memory,
            used: shape.memory.minus(shape.available),
            free: shape.available,
            reported_available: Some(shape.available),
            ..Default::default()
        }),
        cpus: Reading::Known(shape.cpus),
        pools: Reading::Known(
            shape
                .pools
                .iter()
                .map(|pool| ThinPool {
                    name: pool.name.clone(),
                    used: pool.used,
                    size: pool.size,
                    metadata_used: pool.metadata_used,
                    metadata_size: pool.metadata_size,
                })
                .collect(),
        ),
        storages: Reading::Known(shape.pools.first().map(storage_of).into_iter().collect()),
        ..Default::default()
    }
}

fn guest(shape: &GuestShape) -> Guest {
    let config = GuestConfig {
        name: shape.name.clone(),
        memory: shape.memory,
        cores: shape.cpus,
        on_boot: shape.on_boot,
        ..Default::default()
    };
    Guest {
        vmid: VmId(shape.vmid),
        kind: GuestKind::Qemu,
        host: shape.host.as_str().into(),
        name: shape.name.clone(),
        power: if shape.running { Power::Running } else { Power::Stopped },
        template: shape.template,
        max_memory: shape.memory,
        cpus: shape.cpus,
        config: Reading::Known(config),
        ha: Reading::Known(false),
        snapshots: Reading::Known(Vec::new()),
        ..Default::default()
    }
}

/// `key=value:Effect`; an unknown effect is the strictest.
fn taint(text: &str) -> Taint {
    let (pair, effect) = text.rsplit_once(':').unwrap_or((text, "NoSchedule"));
    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
    let effect = match effect {
        "PreferNoSchedule" => Effect::PreferNoSchedule,
        "NoSchedule" => Effect::NoSchedule,
        _ => Effect::NoExecute,
    };
    Taint { key: key.into(), value: value.into(), effect, time_added: None }
}

fn one() -> u64 {
    1
}

fn usual_count() -> u64 {
    28
}

fn format<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let found = String::deserialize(deserializer)?;
    if found == FORMAT { Ok(found) } else { Err(D::Error::custom(format!("format is `{found}`, this capplan reads `{FORMAT}`"))) }
}

fn some_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
    bytes(deserializer).map(Some)
}

fn cpu<'de, D: Deserializer<'de>>(deserializer: D) -> Result<MilliCpu, D::Error> {
    let text = String::deserialize(deserializer)?;
    MilliCpu::parse(&text).map_err(|_| D::Error::custom(format!("`{text}` is not an amount of CPU such as `500m`")))
}

/// A number, or a size in words.
#[derive(JsonSchema)]
#[schemars(untagged)]
#[expect(dead_code, reason = "stands for what `amount` reads, in the schema")]
enum AmountText {
    Number(f64),
    Size(String),
}

fn amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Amount {
        Number(f64),
        Text(String),
    }
    match Amount::deserialize(deserializer)? {
        Amount::Number(number) => Ok(number),
        Amount::Text(text) => match Bytes::parse(&text) {
            Ok(bytes) => Ok(bytes.0 as f64),
            Err(_) => Err(D::Error::custom(format!("`{text}` is not a number or a size such as `32GiB`"))),
        },
    }
}

fn some_amount<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    amount(deserializer).map(Some)
}
