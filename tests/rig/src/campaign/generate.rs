//! Random clusters that are nearly full, with every kind of constraint that the scheduler knows.
//!
//! Everything follows from the seed. What pods ask for is in [`features`].

use std::collections::BTreeSet;

use fastrand::Rng;
use serde_json::{Value, json};

use super::features::{self, Draft, Feature};

/// The driver of Proxmox volumes.
pub(super) const PROXMOX: &str = "csi.proxmox.sinextra.dev";
/// A driver of volumes on a node's own disks, which publishes how much is free there.
pub(super) const TOPOLVM: &str = "topolvm.io";
/// Label by which TopoLVM finds a node.
pub(super) const TOPOLVM_NODE: &str = "topology.topolvm.io/node";
pub(super) const HOSTNAME: &str = "kubernetes.io/hostname";
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
pub(super) const REGION: &str = "topology.kubernetes.io/region";
pub(super) const RACK: &str = "example.com/rack";
pub(super) const GPU: &str = "nvidia.com/gpu";

pub(super) const MIB: i64 = 1 << 20;
pub(super) const GIB: i64 = 1 << 30;

/// Namespaces with their labels; the same in every case, as admission remembers them.
const NAMESPACES: [(&str, &[(&str, &str)]); 4] = [
    ("default", &[]),
    ("team-a", &[("team", "a"), ("env", "prod")]),
    ("team-b", &[("team", "b"), ("env", "prod")]),
    ("data", &[("env", "dev")]),
];
/// Priority classes with their values and policies; the same in every case.
pub(super) const PRIORITIES: [(&str, i64, &str); 5] = [
    ("low", -10, "PreemptLowerPriority"),
    ("medium", 100, "PreemptLowerPriority"),
    ("high", 1000, "PreemptLowerPriority"),
    ("high-never", 1000, "Never"),
    ("leaving", 1_000_000, "Never"),
];
const APPS: [&str; 8] = ["web", "api", "db", "cache", "queue", "ml", "cron", "proxy"];
const IMAGES: [(&str, i64); 4] = [("web", 60), ("api", 250), ("db", 700), ("ml", 3000)];

/// How a node is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It is tainted as the node controller does.
    Tainted,
    /// Its object is deleted.
    Deleted,
}

/// A cluster and what is done to it.
#[derive(Clone, Debug)]
pub struct Case {
    /// What everything follows from.
    pub seed: u64,
    /// The objects of the cluster.
    pub objects: Vec<Value>,
    /// Pods to submit, in order.
    pub additions: Vec<Value>,
    /// Node to drain afterwards.
    pub drained: String,
    /// Node to lose in the end.
    pub lost: String,
    /// How it is lost.
    pub loss: Loss,
    /// Whether the scheduler may take the node of a like pod without looking at the others
    /// (OpportunisticBatching).
    pub batching: bool,
    /// Kinds of constraints that occur.
    pub features: Vec<&'static str>,
}

/// Amounts of resources: millicores, bytes, bytes of ephemeral storage, graphics processors.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Amounts {
    pub(super) cpu: i64,
    pub(super) memory: i64,
    pub(super) storage: i64,
    pub(super) gpus: i64,
}

impl Amounts {
    fn fits_in(&self, free: &Self) -> bool {
        self.cpu <= free.cpu && self.memory <= free.memory && self.storage <= free.storage && self.gpus <= free.gpus
    }
}

/// What the generator remembers of a node.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) labels: Vec<(&'static str, String)>,
    pub(super) taints: Vec<Value>,
    pub(super) free: Amounts,
    pub(super) gpus: i64,
    /// Pods that still fit.
    pods: i64,
    /// Pods that run.
    running: i64,
    ports: BTreeSet<u16>,
    /// Volumes that still fit, of Proxmox and of TopoLVM.
    slots: [i64; 2],
    ready: bool,
}

impl Host {
    pub(super) fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(name, _)| *name == key).map(|(_, value)| value.as_str())
    }
}

/// A controller whose pods are in the cluster.
#[derive(Clone, Debug)]
struct Workload {
    kind: &'static str,
    name: String,
    namespace: &'static str,
    app: &'static str,
}

/// A claim that pods may share.
#[derive(Clone, Debug)]
pub(super) struct Claim {
    pub(super) namespace: String,
    pub(super) name: String,
    /// Index of the node where it is used.
    pub(super) host: usize,
    pub(super) once_pod: bool,
}

/// The world under construction.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) hosts: Vec<Host>,
    pub(super) objects: Vec<Value>,
    pub(super) claims: Vec<Claim>,
    pub(super) features: BTreeSet<&'static str>,
    /// Average request of a pod.
    pub(super) mean: Amounts,
    /// Claims and volumes so far.
    pub(super) volumes: usize,
    workloads: Vec<Workload>,
    /// Groups of features that this case has more of.
    favoured: Vec<&'static str>,
}

impl World {
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    /// One of these; there is always one.
    pub(super) fn pick<T: Clone>(&mut self, among: &[T]) -> T {
        among[self.rng.usize(0..among.len())].clone()
    }

    pub(super) fn app(&mut self) -> &'static str {
        self.pick(&APPS)
    }

    pub(super) fn has(&mut self, feature: &'static str) {
        self.features.insert(feature);
    }
}

/// The case of a seed.
pub fn generate(seed: u64) -> Case {
    let mut rng = Rng::with_seed(seed);
    let nodes = rng.usize(3..=30);
    // More small clusters than large ones.
    let pods = (20.0 * 30f64.powf(rng.f64().powf(1.7))).round();
    let additions = rng.usize(10..=40);
    let groups = ["node", "taint", "port", "pod", "spread", "resource", "volume", "priority"];
    let favoured = (0..rng.usize(1..=3)).map(|_| groups[rng.usize(0..groups.len())]).collect();
    let mut world = World {
        rng,
        hosts: Vec::new(),
        objects: Vec::new(),
        claims: Vec::new(),
        features: BTreeSet::new(),
        mean: Amounts::default(),
        volumes: 0,
        workloads: Vec::new(),
        favoured,
    };
    catalogue(&mut world);
    #[expect(clippy::cast_possible_truncation, reason = "at most 600")]
    let expected = pods as i64 + i64::try_from(additions).unwrap_or_default() / 2;
    cluster(&mut world, nodes, expected);
    sizes(&mut world, expected);
    storage(&mut world);
    workloads(&mut world);
    budgets(&mut world);
    daemons(&mut world);
    mirror(&mut world);
    for number in 0..expected - i64::try_from(additions).unwrap_or_default() / 2 {
        existing(&mut world, number);
    }
    unused_volumes(&mut world);
    attachments(&mut world);
    let additions = (0..additions).map(|number| addition(&mut world, number)).collect();
    let drained = populous(&mut world, nodes);
    let lost = populous(&mut world, drained);
    let names = |index: usize| world.hosts[index].name.clone();
    Case {
        seed,
        additions,
        drained: names(drained),
        lost: names(lost),
        loss: if seed.is_multiple_of(2) { Loss::Deleted } else { Loss::Tainted },
        batching: seed.is_multiple_of(7),
        features: world.features.into_iter().collect(),
        objects: world.objects,
    }
}

/// Namespaces, priorities, runtimes: what stays the same in every case.
fn catalogue(world: &mut World) {
    for (name, labels) in NAMESPACES {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        world.objects.push(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}));
    }
    for (name, value, policy) in PRIORITIES {
        world.objects.push(json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                                  "value": value, "preemptionPolicy": policy}));
    }
    world
        .objects
        .push(json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "kata"}, "handler": "kata",
                              "overhead": {"podFixed": {"cpu": "250m", "memory": "160Mi"}}}));
    world
        .objects
        .push(json!({"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": {"name": "gvisor"}, "handler": "runsc",
                              "scheduling": {"nodeSelector": {"example.com/runtime": "gvisor"}}}));
}

/// Nodes with their labels, taints, images and CSI drivers.
fn cluster(world: &mut World, nodes: usize, expected: i64) {
    let zones = world.rng.usize(1..=4);
    let few_pods = world.chance(25);
    let few_slots = world.chance(50);
    let gpu_nodes = world.pick(&[10, 30, 70]);
    let flavours = [(4, 2), (8, 4), (8, 8), (16, 4), (32, 8)];
    let flavours = [world.pick(&flavours), world.pick(&flavours)];
    for index in 0..nodes {
        let (cores, ratio) = world.pick(&flavours);
        let name = format!("node-{index:02}");
        let mut host = Host {
            labels: labels(world, &name, index, zones),
            name,
            taints: Vec::new(),
            free: Amounts {
                cpu: cores * 1000 - world.pick(&[0, 0, 100, 250]),
                memory: cores * ratio * GIB - world.rng.i64(0..800) * MIB,
                storage: world.pick(&[20, 40, 100]) * GIB,
                gpus: if world.chance(gpu_nodes) { world.pick(&[1, 2, 4]) } else { 0 },
            },
            gpus: 0,
            pods: 110,
            running: 0,
            ports: BTreeSet::new(),
            slots: [world.rng.i64(2..=28), world.rng.i64(2..=10)],
            ready: !world.chance(4),
        };
        if few_pods {
            let each = expected / i64::try_from(nodes).unwrap_or(1);
            host.pods = (each + world.rng.i64(1..=4)).min(110);
        }
        if few_slots {
            host.slots[0] = world.rng.i64(2..=4);
        }
        host.gpus = host.free.gpus;
        let unschedulable = taints(world, &mut host);
        node(world, &host, unschedulable);
        drivers(world, &host);
        world.hosts.push(host);
    }
}

fn labels(world: &mut World, name: &str, index: usize, zones: usize) -> Vec<(&'static str, String)> {
    let mut labels = vec![
        (HOSTNAME, name.to_owned()),
        ("kubernetes.io/arch", world.pick(&["amd64", "amd64", "amd64", "arm64"]).to_owned()),
        (TOPOLVM_NODE, name.to_owned()),
        ("example.com/cpu-generation", world.rng.u8(1..=9).to_string()),
        ("example.com/disk", world.pick(&["nvme", "ssd", "hdd"]).to_owned()),
    ];
    if world.chance(94) {
        labels.push((ZONE, format!("pve-{}", index % zones + 1)));
        labels.push((REGION, "cluster-1".to_owned()));
    } else {
        world.has("node-without-zone");
    }
    if world.chance(85) {
        labels.push((RACK, format!("rack-{}", world.rng.u8(1..=3))));
    } else {
        world.has("node-without-rack");
    }
    if world.chance(40) {
        labels.push(("example.com/pool", world.pick(&["a", "b"]).to_owned()));
    }
    if world.chance(40) {
        labels.push(("example.com/runtime", "gvisor".to_owned()));
    }
    labels
}

/// Taints of a node, and whether it is cordoned.
fn taints(world: &mut World, host: &mut Host) -> bool {
    let taint = |key: &str, value: &str, effect: &str| json!({"key": key, "value": value, "effect": effect});
    if world.chance(12) {
        host.taints.push(taint("example.com/dedicated", world.pick(&["gpu", "db"]), "NoSchedule"));
        world.has("taint-no-schedule");
    }
    if world.chance(12) {
        host.taints.push(taint("example.com/busy", "yes", "PreferNoSchedule"));
        world.has("taint-prefer-no-schedule");
    }
    if world.chance(5) {
        host.taints.push(taint("example.com/maintenance", "soon", "NoExecute"));
        world.has("taint-no-execute");
    }
    let unschedulable = world.chance(5);
    if unschedulable {
        host.taints.push(json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"}));
        world.has("cordoned-node");
    }
    if !host.ready {
        for effect in ["NoSchedule", "NoExecute"] {
            host.taints.push(json!({"key": "node.kubernetes.io/not-ready", "effect": effect}));
        }
        world.has("not-ready-node");
    }
    unschedulable
}

fn node(world: &mut World, host: &Host, unschedulable: bool) {
    let labels: serde_json::Map<String, Value> =
        host.labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
    let mut resources = json!({
        "cpu": format!("{}m", host.free.cpu), "memory": format!("{}Mi", host.free.memory / MIB),
        "ephemeral-storage": host.free.storage.to_string(), "pods": host.pods.to_string(),
    });
    if host.gpus > 0 {
        resources[GPU] = json!(host.gpus.to_string());
    }
    let mut images = Vec::new();
    for (name, size) in IMAGES {
        if world.chance(30) {
            images.push(json!({"names": [format!("registry.example.com/{name}:v1")], "sizeBytes": size * MIB}));
            world.has("images");
        }
    }
    let mut spec = json!({"taints": host.taints});
    if unschedulable {
        spec["unschedulable"] = json!(true);
    }
    let ready = if host.ready { ("True", "KubeletReady") } else { ("False", "KubeletNotReady") };
    world.objects.push(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": host.name, "labels": labels}, "spec": spec,
        "status": {
            "capacity": resources, "allocatable": resources, "images": images,
            "conditions": [{"type": "Ready", "status": ready.0, "reason": ready.1}],
        },
    }));
}

/// CSI drivers of a node, with how many volumes each attaches.
fn drivers(world: &mut World, host: &Host) {
    let mut drivers = Vec::new();
    let mut driver = |name: &str, keys: &[&str], count: i64| {
        drivers.push(json!({"name": name, "nodeID": host.name, "topologyKeys": keys, "allocatable": {"count": count}}));
    };
    if host.label(ZONE).is_some() {
        driver(PROXMOX, &[REGION, ZONE], host.slots[0]);
    }
    driver(TOPOLVM, &[TOPOLVM_NODE], host.slots[1]);
    world.objects.push(json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": host.name},
                              "spec": {"drivers": drivers}}));
}

/// How much pods ask for, so that they nearly fill the nodes in one or two dimensions.
fn sizes(world: &mut World, expected: i64) {
    let mut fill = || if world.rng.u32(0..100) < 45 { world.rng.f64() * 0.3 + 0.7 } else { world.rng.f64() * 0.5 + 0.1 };
    let (cpu, memory, storage) = (fill(), fill(), fill());
    let sum = |of: fn(&Amounts) -> i64| world.hosts.iter().map(|host| of(&host.free)).sum::<i64>();
    // A third of the pods asks for nothing in one dimension or the other.
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a size drawn at random needs no precision")]
    let mean = |total: i64, fill: f64, share: f64| (total as f64 * fill / share / expected as f64) as i64;
    world.mean = Amounts {
        cpu: mean(sum(|free| free.cpu), cpu, 0.9).max(10),
        memory: mean(sum(|free| free.memory), memory, 0.9).max(16 * MIB),
        storage: mean(sum(|free| free.storage), storage, 0.35).max(MIB),
        gpus: 0,
    };
}

/// Storage classes, drivers, what is free where, and local volumes that nobody claims yet.
fn storage(world: &mut World) {
    let class = |name: &str, provisioner: &str, mode: &str| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}, "provisioner": provisioner,
               "volumeBindingMode": mode, "reclaimPolicy": "Delete"})
    };
    let mut zoned = class("proxmox-zoned", PROXMOX, "WaitForFirstConsumer");
    zoned["allowedTopologies"] =
        json!([{"matchLabelExpressions": [{"key": ZONE, "values": ["pve-1", world.pick(&["pve-2", "pve-9"])]}]}]);
    let driver = |name: &str, capacity: bool| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": name},
               "spec": {"attachRequired": true, "podInfoOnMount": true, "storageCapacity": capacity}})
    };
    world.objects.extend([
        driver(PROXMOX, false),
        driver(TOPOLVM, true),
        class("proxmox", PROXMOX, "WaitForFirstConsumer"),
        zoned,
        class("proxmox-now", PROXMOX, "Immediate"),
        class("topolvm", TOPOLVM, "WaitForFirstConsumer"),
        class("local", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"),
    ]);
    for index in 0..world.hosts.len() {
        let name = world.hosts[index].name.clone();
        if world.chance(70) {
            let mut capacity = json!({
                "apiVersion": "storage.k8s.io/v1", "kind": "CSIStorageCapacity",
                "metadata": {"name": format!("topolvm-{name}"), "namespace": "default"}, "storageClassName": "topolvm",
                "nodeTopology": {"matchLabels": {TOPOLVM_NODE: name}}, "capacity": format!("{}Gi", world.rng.u32(1..60)),
            });
            if world.chance(30) {
                capacity["maximumVolumeSize"] = json!(format!("{}Gi", world.rng.u32(1..30)));
            }
            world.objects.push(capacity);
            world.has("storage-capacity");
        }
        if world.chance(30) {
            let size = world.pick(&[10, 20, 50]);
            features::local_volume(world, index, size, None);
        }
    }
}

/// Controllers and Services, whose pods the scheduler spreads by default.
fn workloads(world: &mut World) {
    for number in 0..world.rng.usize(3..=8) {
        let kind = world.pick(&["ReplicaSet", "ReplicaSet", "StatefulSet"]);
        let (app, (namespace, _)) = (world.app(), world.pick(&NAMESPACES));
        let name = format!("{app}-{number}");
        let labels = json!({"app": app, "owner": name});
        let mut object = json!({
            "apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": namespace},
            "spec": {"replicas": 3, "selector": {"matchLabels": labels},
                     "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "registry.example.com/web:v1"}]}}},
        });
        if kind == "StatefulSet" {
            object["spec"]["serviceName"] = json!(app);
        }
        world.objects.push(object);
        world.workloads.push(Workload { kind, name, namespace, app });
    }
    for number in 0..world.rng.usize(1..=4) {
        let (app, (namespace, _)) = (world.app(), world.pick(&NAMESPACES));
        world.objects.push(json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("{app}-{number}"), "namespace": namespace},
            "spec": {"clusterIP": "None", "selector": {"app": app}, "ports": [{"port": 80}]},
        }));
        world.has("service");
    }
}

/// Disruption budgets, some of which allow nothing any more.
fn budgets(world: &mut World) {
    for number in 0..world.rng.usize(0..=4) {
        let (app, (namespace, _), allowed) = (world.app(), world.pick(&NAMESPACES), world.pick(&[0, 0, 1, 2]));
        world.objects.push(json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
            "metadata": {"name": format!("{app}-{number}"), "namespace": namespace, "generation": 1},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": app}}},
            "status": {"observedGeneration": 1, "disruptionsAllowed": allowed, "currentHealthy": 1 + allowed, "desiredHealthy": 1,
                       "expectedPods": 1 + allowed},
        }));
        world.has("disruption-budget");
    }
}

/// A DaemonSet with a pod on most nodes.
fn daemons(world: &mut World) {
    if !world.chance(50) {
        return;
    }
    let labels = json!({"app": "agent", "owner": "agent"});
    world.objects.push(json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent", "namespace": "default"},
        "spec": {"selector": {"matchLabels": labels},
                 "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "registry.example.com/api:v1"}]}}},
    }));
    for index in 0..world.hosts.len() {
        let mut draft = blank("default", format!("agent-{index:02}"), index, true);
        draft.pod["metadata"]["labels"] = labels.clone();
        own(&mut draft, "DaemonSet", "agent");
        draft.ask(Amounts { cpu: 20, memory: 32 * MIB, ..Amounts::default() });
        features::pinned(&mut draft, &world.hosts[index].name.clone());
        features::daemon_tolerations(&mut draft);
        draft.pod["status"] = json!({"phase": "Running", "startTime": time(60 + i64::try_from(index).unwrap_or_default())});
        if place(world, &mut draft) {
            world.has("daemon-set");
            world.objects.push(draft.pod);
        }
    }
}

/// A static pod that its kubelet mirrors.
fn mirror(world: &mut World) {
    let host = world.rng.usize(0..world.hosts.len());
    let name = world.hosts[host].name.clone();
    let mut draft = blank("default", format!("static-{name}"), host, true);
    draft.pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "0", "kubernetes.io/config.source": "file"});
    draft.pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": "0", "controller": true}]);
    draft.pod["spec"]["tolerations"] = json!([{"operator": "Exists", "effect": "NoExecute"}]);
    draft.ask(Amounts { cpu: 50, memory: 64 * MIB, ..Amounts::default() });
    draft.pod["status"] = json!({"phase": "Running", "startTime": time(0)});
    if world.chance(40) && place(world, &mut draft) {
        world.has("mirror-pod");
        world.objects.push(draft.pod);
    }
}

/// A pod with one container and nothing special.
fn blank(namespace: &str, name: String, host: usize, bound: bool) -> Draft {
    Draft::new(
        namespace,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": {}},
            "spec": {
                "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "enableServiceLinks": false,
                "containers": [{"name": "main", "image": "registry.example.com/web:v1", "resources": {"requests": {}}}],
            },
        }),
        host,
        bound,
    )
}

fn own(draft: &mut Draft, kind: &str, name: &str) {
    draft.owned = true;
    draft.pod["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "apps/v1", "kind": kind, "name": name, "uid": "0", "controller": true}]);
}

/// A pod of a random workload, size and mix of constraints.
fn pod(world: &mut World, name: String, host: usize, bound: bool) -> Draft {
    let workload = if world.chance(55) { Some(world.pick(&world.workloads.clone())) } else { None };
    let namespace = workload.as_ref().map_or_else(|| world.pick(&NAMESPACES).0, |workload| workload.namespace);
    let mut draft = blank(namespace, name, host, bound);
    let hash = world.pick(&["v1", "v2"]);
    let tier = world.pick(&["front", "back"]);
    draft.app = workload.as_ref().map_or_else(|| world.app(), |workload| workload.app);
    draft.pod["metadata"]["labels"] = json!({"app": draft.app, "tier": tier, "pod-template-hash": hash});
    if let Some(workload) = workload {
        draft.pod["metadata"]["labels"]["owner"] = json!(workload.name);
        own(&mut draft, workload.kind, &workload.name);
        world.has(if workload.kind == "StatefulSet" { "stateful-set" } else { "replica-set" });
    }
    let image = world.pick(&IMAGES).0;
    draft.pod["spec"]["containers"][0]["image"] = json!(format!("registry.example.com/{image}:v1"));
    size(world, &mut draft);
    let table = features::table();
    let weight = |feature: &Feature, favoured: &[&str]| feature.weight * if favoured.contains(&feature.group) { 4 } else { 1 };
    let total: u32 = table.iter().map(|one| weight(one, &world.favoured)).sum();
    for _ in 0..world.pick(if bound { &[0, 0, 1, 1, 1, 2, 2, 3][..] } else { &[0, 1, 1, 1, 2, 2, 3, 4] }) {
        let mut at = world.rng.u32(0..total);
        for feature in &table {
            let weight = weight(feature, &world.favoured);
            if at < weight {
                if !draft.features.contains(&feature.name) && (feature.add)(world, &mut draft) {
                    draft.features.push(feature.name);
                }
                break;
            }
            at -= weight;
        }
    }
    draft.level();
    // Most pods tolerate where they run.
    if bound {
        for taint in world.hosts[host].taints.clone() {
            if taint["effect"] == "NoExecute" || world.chance(70) {
                features::tolerate(&mut draft, json!({"key": taint["key"], "operator": "Exists", "effect": taint["effect"]}));
            }
        }
    }
    draft
}

/// Requests around the average: many small ones, few large ones, some without.
fn size(world: &mut World, draft: &mut Draft) {
    let mean = world.mean;
    let mut draw = |mean: i64, asked: u32| {
        let factor = world.pick(&[2, 4, 6, 8, 10, 10, 12, 20]) * world.rng.i64(80..120);
        if world.chance(asked) { mean / 100 * factor / 9 } else { 0 }
    };
    let amounts = Amounts { cpu: draw(mean.cpu, 90), memory: draw(mean.memory, 90), storage: draw(mean.storage, 35), gpus: 0 };
    draft.ask(amounts);
}

/// A host with room for an average pod, if one of a few has it.
fn roomy(world: &mut World) -> usize {
    let mut host = world.rng.usize(0..world.hosts.len());
    for _ in 0..6 {
        let one = &world.hosts[host];
        if one.ready && one.pods > 0 && world.mean.fits_in(&one.free) {
            break;
        }
        host = world.rng.usize(0..world.hosts.len());
    }
    host
}

/// Of three hosts the one with the most pods, and not this one.
fn populous(world: &mut World, not: usize) -> usize {
    let others: Vec<usize> = (0..world.hosts.len()).filter(|host| *host != not).collect();
    let three = [world.pick(&others), world.pick(&others), world.pick(&others)];
    three.into_iter().max_by_key(|host| world.hosts[*host].running).unwrap_or_default()
}

/// Counts a pod where it runs; false if it does not fit there.
fn place(world: &mut World, draft: &mut Draft) -> bool {
    let host = &mut world.hosts[draft.host];
    let slots = [host.slots[0] - draft.volumes[0], host.slots[1] - draft.volumes[1]];
    let no_slot = slots.iter().zip(draft.volumes).any(|(left, used)| used > 0 && *left < 0);
    if host.pods < 1 || !draft.need.fits_in(&host.free) || no_slot || draft.ports.iter().any(|port| host.ports.contains(port)) {
        return false;
    }
    host.pods -= 1;
    host.running += 1;
    host.slots = slots;
    host.ports.extend(&draft.ports);
    host.free = Amounts {
        cpu: host.free.cpu - draft.need.cpu,
        memory: host.free.memory - draft.need.memory,
        storage: host.free.storage - draft.need.storage,
        gpus: host.free.gpus - draft.need.gpus,
    };
    draft.pod["spec"]["nodeName"] = json!(host.name);
    true
}

/// A pod that is there already: most run, some are finished, leaving, waiting or another scheduler's.
fn existing(world: &mut World, number: i64) {
    let host = roomy(world);
    let mut draft = pod(world, format!("run-{number:03}"), host, true);
    if world.chance(2) {
        draft.pod["spec"]["schedulerName"] = json!("another-scheduler");
        world.has("other-scheduler");
        return keep(world, draft);
    }
    if world.chance(3) {
        // What is finished holds nothing.
        let phase = world.pick(&["Succeeded", "Failed"]);
        draft.pod["spec"]["nodeName"] = json!(world.hosts[host].name);
        draft.pod["spec"]["restartPolicy"] = json!("Never");
        draft.pod["status"] = json!({"phase": phase, "startTime": time(3600 + number)});
        world.has(if phase == "Failed" { "failed-pod" } else { "succeeded-pod" });
        return keep(world, draft);
    }
    if !place(world, &mut draft) {
        return;
    }
    draft.pod["status"] = json!({"phase": "Running", "startTime": time(3600 + number)});
    if world.chance(3) {
        // Nobody takes it out: its priority is above every preemptor's, who would wait for it in vain.
        draft.pod["metadata"]["deletionTimestamp"] = json!(time(3600 + number));
        draft.pod["metadata"]["finalizers"] = json!(["example.com/wait"]);
        draft.pod["spec"]["priorityClassName"] = json!("leaving");
        draft.pod["spec"]["preemptionPolicy"] = json!("Never");
        world.has("terminating-pod");
    }
    keep(world, draft);
}

/// A start time of its own for each pod; what comes with the node starts first.
fn time(number: i64) -> String {
    format!("2026-01-01T{:02}:{:02}:{:02}Z", number / 3600, number / 60 % 60, number % 60)
}

fn keep(world: &mut World, draft: Draft) {
    // A gate is for pods that are still to come.
    let mut pod = draft.pod;
    if let Some(spec) = pod["spec"].as_object_mut() {
        spec.remove("schedulingGates");
    }
    world.features.extend(draft.features.into_iter().filter(|name| *name != "scheduling-gate"));
    world.objects.push(pod);
}

/// A pod to submit.
fn addition(world: &mut World, number: usize) -> Value {
    let host = world.rng.usize(0..world.hosts.len());
    let draft = pod(world, format!("new-{number:03}"), host, false);
    world.features.extend(draft.features);
    draft.pod
}

/// Volumes whose pods are gone and whose claims stay.
fn unused_volumes(world: &mut World) {
    for _ in 0..world.rng.usize(0..=4) {
        let (host, (namespace, _)) = (world.rng.usize(0..world.hosts.len()), world.pick(&NAMESPACES));
        features::unused_volume(world, &mut blank(namespace, "gone".to_owned(), host, false));
    }
}

/// Attachments of the volumes that are in use, and of some that are not any more.
fn attachments(world: &mut World) {
    let volumes: Vec<(String, String)> = world
        .objects
        .iter()
        .filter(|object| object["kind"] == "PersistentVolume" && object["spec"]["csi"].is_object())
        .filter_map(|volume| {
            Some((volume["metadata"]["name"].as_str()?.to_owned(), volume["spec"]["csi"]["driver"].as_str()?.to_owned()))
        })
        .collect();
    for (volume, driver) in volumes {
        let used = world.claims.iter().find(|claim| format!("pv-{}", claim.name) == volume).map(|claim| claim.host);
        let attached = world.chance(85);
        let host = match used {
            Some(host) if world.chance(80) => host,
            None if world.chance(80) => world.rng.usize(0..world.hosts.len()),
            _ => continue,
        };
        world.has(if used.is_some() { "attachment" } else { "attachment-without-pod" });
        if !attached {
            world.has("attachment-not-attached");
        }
        world.objects.push(json!({
            "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment", "metadata": {"name": format!("csi-{volume}")},
            "spec": {"attacher": driver, "nodeName": world.hosts[host].name, "source": {"persistentVolumeName": volume}},
            "status": {"attached": attached},
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_case_again() {
        let (one, other) = (generate(7), generate(7));
        assert_eq!(one.objects, other.objects);
        assert_eq!(one.additions, other.additions);
        assert_ne!(one.objects, generate(8).objects);
    }

    #[test]
    fn every_kind_of_constraint_occurs() {
        let present: BTreeSet<&str> = (0..50).flat_map(|seed| generate(seed).features).collect();
        let pods = features::table();
        let missing: Vec<&str> =
            pods.iter().map(|feature| feature.name).chain(OF_THE_CLUSTER).filter(|name| !present.contains(name)).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn clusters_have_the_announced_sizes() {
        for seed in 0..50 {
            let case = generate(seed);
            let count = |kind: &str| case.objects.iter().filter(|object| object["kind"] == kind).count();
            assert!((3..=30).contains(&count("Node")), "seed {seed}");
            assert!(count("Pod") <= 660, "seed {seed}");
            assert!((10..=40).contains(&case.additions.len()), "seed {seed}");
            assert_ne!(case.drained, case.lost, "seed {seed}");
        }
    }

    /// Preemption prefers victims that started last: among equals its choice would not follow from the case.
    #[test]
    fn no_two_running_pods_started_at_once() {
        for seed in 0..50 {
            let objects = generate(seed).objects;
            let running: Vec<&Value> =
                objects.iter().filter(|one| one["kind"] == "Pod" && one["spec"]["nodeName"].is_string()).collect();
            let times: BTreeSet<&str> = running.iter().filter_map(|pod| pod["status"]["startTime"].as_str()).collect();
            assert_eq!(times.len(), running.len(), "seed {seed}");
        }
    }

    /// What is not a matter of a single pod's constraints.
    const OF_THE_CLUSTER: [&str; 21] = [
        "attachment",
        "attachment-not-attached",
        "attachment-without-pod",
        "cordoned-node",
        "daemon-set",
        "disruption-budget",
        "failed-pod",
        "images",
        "mirror-pod",
        "node-without-rack",
        "node-without-zone",
        "not-ready-node",
        "other-scheduler",
        "replica-set",
        "service",
        "stateful-set",
        "storage-capacity",
        "succeeded-pod",
        "taint-no-schedule",
        "taint-prefer-no-schedule",
        "terminating-pod",
    ];
}
