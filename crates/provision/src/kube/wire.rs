//! The API's JSON, as far as we use it, and how it becomes values of the model.
//!
//! Decoding is a fold: each item becomes a model value before the next one is read, so that a page
//! costs its text and its rows and nothing else. Fields that are not named here are skipped by the
//! parser, environment variables and annotations among them.

mod sieve;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use capplan_model::ids::{ObjectName, VolumeHandle};
use capplan_model::kube as model;
use capplan_model::kube::{LabelSelector, Labels, NodeSelector, Phase, Resources};
use capplan_model::units::{Bytes, MilliCpu, quantity};
use jiff::Timestamp;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use self::sieve::{HostPorts, PodConditions, PullPolicy, RestartPolicy, Tolerations};

/// A kind of object we list: where it is listed, how it is spelled, what it becomes.
pub(crate) trait Listed: Sized {
    /// Path of the list below the server's address.
    const PATH: &'static str;
    /// Plural name: of the saved list's file, and what an unknown is called.
    const PLURAL: &'static str;
    /// The API's spelling of one item.
    type Wire: for<'de> Deserialize<'de>;
    /// Turns the API's item into ours; `None` drops it.
    fn from_wire(wire: Self::Wire) -> Option<Self>;
}

/// One page of a list, or a whole saved one.
pub(crate) struct List<T> {
    /// The items that were kept.
    pub items: Vec<T>,
    /// Token of the next page.
    pub next: Option<String>,
    /// Items beyond this page, where the server says.
    pub remaining: Option<u64>,
}

impl<T: Listed> List<T> {
    /// Decodes one page or saved list.
    pub(crate) fn decode(text: &[u8]) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let list = ListSeed(PhantomData).deserialize(&mut deserializer)?;
        deserializer.end()?;
        Ok(list)
    }
}

struct ListSeed<T>(PhantomData<T>);

impl<'de, T: Listed> DeserializeSeed<'de> for ListSeed<T> {
    type Value = List<T>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<List<T>, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Listed> Visitor<'de> for ListSeed<T> {
    type Value = List<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a list of {}", T::PLURAL)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<List<T>, A::Error> {
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        struct ListMeta {
            #[serde(rename = "continue")]
            next: Option<String>,
            remaining_item_count: Option<u64>,
        }
        let (mut items, mut meta) = (None, ListMeta::default());
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match key.as_ref() {
                "items" => items = Some(map.next_value_seed(ItemsSeed(PhantomData))?),
                "metadata" => meta = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let items = items.ok_or_else(|| A::Error::missing_field("items"))?;
        Ok(List { items, next: meta.next.filter(|token| !token.is_empty()), remaining: meta.remaining_item_count })
    }
}

struct ItemsSeed<T>(PhantomData<T>);

impl<'de, T: Listed> DeserializeSeed<'de> for ItemsSeed<T> {
    type Value = Vec<T>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<T>, D::Error> {
        // A list without items is `null` in some client libraries.
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: Listed> Visitor<'de> for ItemsSeed<T> {
    type Value = Vec<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", T::PLURAL)
    }

    fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
        Ok(Vec::new())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<T>, A::Error> {
        let mut items = Vec::new();
        while let Some(wire) = seq.next_element::<T::Wire>()? {
            items.extend(T::from_wire(wire));
        }
        Ok(items)
    }
}

/// Treats `null` like an absent field.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

macro_rules! wire {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        pub(crate) struct $name { $($(#[$field_meta])* #[serde(deserialize_with = "nullable")] $field: $type),* }
    };
}

wire!(Meta {
    name: String,
    namespace: String,
    uid: String,
    creation_timestamp: Option<Timestamp>,
    deletion_timestamp: Option<Timestamp>,
    generation: i64,
    labels: Labels,
    annotations: Annotations,
    owner_references: Vec<OwnerReference>,
});

/// The three annotations we use; all others are skipped unread.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Annotations {
    #[serde(rename = "volume.kubernetes.io/selected-node")]
    selected_node: Option<String>,
    #[serde(rename = "storageclass.kubernetes.io/is-default-class")]
    default_class: Option<String>,
}

wire!(OwnerReference { kind: String, name: String, uid: String, controller: bool });

impl Meta {
    fn owner(&self) -> Option<model::Owner> {
        let owner = self.owner_references.iter().find(|owner| owner.controller)?;
        Some(model::Owner { kind: owner.kind.clone(), name: owner.name.clone(), uid: owner.uid.clone() })
    }
}

/// A map of quantities, read without keeping their text.
#[derive(Default)]
pub(crate) struct Amounts {
    resources: Resources,
    pods: Option<u64>,
    /// Whether CPU is named at all, if only as zero.
    names_cpu: bool,
    /// Whether memory is named at all, if only as zero.
    names_memory: bool,
}

impl<'de> Deserialize<'de> for Amounts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Amount;
        impl Visitor<'_> for Amount {
            type Value = (u64, u64);
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<(u64, u64), E> {
                Ok((quantity(text, 1).map_err(E::custom)?, quantity(text, 1000).unwrap_or(u64::MAX)))
            }
            fn visit_u64<E: Error>(self, number: u64) -> Result<(u64, u64), E> {
                Ok((number, number.saturating_mul(1000)))
            }
            fn visit_f64<E: Error>(self, number: f64) -> Result<(u64, u64), E> {
                self.visit_str(&number.to_string())
            }
        }
        struct AmountSeed;
        impl<'de> DeserializeSeed<'de> for AmountSeed {
            type Value = (u64, u64);
            fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(u64, u64), D::Error> {
                deserializer.deserialize_any(Amount)
            }
        }
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Amounts;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of quantities")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Amounts, A::Error> {
                let mut amounts = Amounts::default();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    let (whole, milli) = map.next_value_seed(AmountSeed)?;
                    match name.as_ref() {
                        "cpu" => {
                            amounts.resources.cpu = MilliCpu(milli);
                            amounts.names_cpu = true;
                        }
                        "memory" => {
                            amounts.resources.memory = Bytes(whole);
                            amounts.names_memory = true;
                        }
                        "ephemeral-storage" => amounts.resources.ephemeral = Bytes(whole),
                        "pods" => amounts.pods = Some(whole),
                        _ => drop(amounts.resources.extended.insert(name.into_owned(), whole)),
                    }
                }
                Ok(amounts)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

wire!(NodeWire { metadata: Meta, spec: NodeSpec, status: NodeStatus });
wire!(NodeSpec {
    #[serde(rename = "providerID")]
    provider_id: Option<String>,
    taints: Vec<model::Taint>,
    unschedulable: bool,
});
wire!(NodeStatus {
    addresses: Vec<Address>,
    allocatable: Amounts,
    capacity: Amounts,
    conditions: Vec<ConditionWire>,
    node_info: NodeInfo,
    volumes_in_use: Vec<String>,
    volumes_attached: Vec<AttachedVolume>,
    images: Vec<ImageWire>,
});
wire!(Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
});
wire!(NodeInfo {
    kubelet_version: String,
    #[serde(rename = "systemUUID")]
    system_uuid: Option<String>,
    architecture: String,
});
wire!(AttachedVolume { name: String });
wire!(ImageWire { names: Vec<String>, size_bytes: u64 });
wire!(ConditionWire {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    last_transition_time: Option<Timestamp>,
});

impl From<ConditionWire> for model::Condition {
    fn from(wire: ConditionWire) -> Self {
        Self { kind: wire.kind, status: wire.status, reason: wire.reason, since: wire.last_transition_time }
    }
}

impl Listed for model::Node {
    const PATH: &'static str = "/api/v1/nodes";
    const PLURAL: &'static str = "nodes";
    type Wire = NodeWire;
    fn from_wire(wire: NodeWire) -> Option<Self> {
        let NodeWire { metadata, spec, status } = wire;
        Some(Self {
            name: metadata.name.into(),
            uid: metadata.uid,
            created: metadata.creation_timestamp,
            labels: metadata.labels,
            taints: spec.taints,
            unschedulable: spec.unschedulable,
            provider_id: spec.provider_id,
            system_uuid: status.node_info.system_uuid,
            kubelet_version: status.node_info.kubelet_version,
            architecture: status.node_info.architecture,
            internal_ips: status.addresses.into_iter().filter(|one| one.kind == "InternalIP").map(|one| one.address).collect(),
            max_pods: status.allocatable.pods.unwrap_or_default(),
            allocatable: status.allocatable.resources,
            capacity: status.capacity.resources,
            conditions: status.conditions.into_iter().map(Into::into).collect(),
            volumes_in_use: status.volumes_in_use,
            volumes_attached: status.volumes_attached.into_iter().map(|one| one.name).collect(),
            images: status.images.into_iter().map(|one| model::Image { names: one.names, size: Bytes(one.size_bytes) }).collect(),
        })
    }
}

/// A heartbeat lease: node and last renewal.
pub(crate) struct NodeLease(pub(crate) String, pub(crate) Timestamp);
wire!(LeaseWire { metadata: Meta, spec: LeaseSpec });
wire!(LeaseSpec { renew_time: Option<Timestamp> });

impl Listed for NodeLease {
    const PATH: &'static str = "/apis/coordination.k8s.io/v1/leases";
    const PLURAL: &'static str = "leases";
    type Wire = LeaseWire;
    fn from_wire(wire: LeaseWire) -> Option<Self> {
        let renewed = wire.spec.renew_time?;
        (wire.metadata.namespace == "kube-node-lease").then_some(Self(wire.metadata.name, renewed))
    }
}

wire!(PodWire { metadata: Meta, spec: PodSpec, status: PodStatus });
wire!(PodSpec {
    node_name: Option<String>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    overhead: Amounts,
    resources: Requirements,
    node_selector: Labels,
    affinity: Option<model::Affinity>,
    tolerations: Tolerations,
    topology_spread_constraints: Vec<model::TopologySpread>,
    priority: Option<i32>,
    priority_class_name: String,
    preemption_policy: String,
    scheduler_name: String,
    runtime_class_name: String,
    volumes: Vec<Volume>,
    resource_claims: Vec<IgnoredAny>,
    scheduling_gates: Vec<IgnoredAny>,
    scheduling_group: Option<IgnoredAny>,
});
wire!(Container {
    image: String,
    image_pull_policy: PullPolicy,
    resources: Requirements,
    restart_policy: RestartPolicy,
    ports: HostPorts,
});
wire!(Requirements { requests: Amounts, limits: Amounts });
wire!(Volume {
    name: String,
    persistent_volume_claim: Option<ClaimSource>,
    ephemeral: Option<IgnoredAny>,
    empty_dir: Option<IgnoredAny>,
    host_path: Option<IgnoredAny>,
    iscsi: Option<IgnoredAny>,
    rbd: Option<IgnoredAny>,
    aws_elastic_block_store: Option<IgnoredAny>,
    azure_disk: Option<IgnoredAny>,
    gce_persistent_disk: Option<IgnoredAny>,
    cinder: Option<IgnoredAny>,
});
wire!(ClaimSource { claim_name: String });
wire!(PodStatus {
    phase: String,
    reason: String,
    start_time: Option<Timestamp>,
    conditions: PodConditions,
    container_statuses: Vec<ContainerStatus>,
    init_container_statuses: Vec<ContainerStatus>,
});
wire!(ContainerStatus { restart_count: u64, state: ContainerState });
wire!(ContainerState { waiting: Option<Waiting>, terminated: Option<Terminated> });
wire!(Waiting { reason: String });
wire!(Terminated { finished_at: Option<Timestamp> });

/// What a pod's containers take together.
///
/// # Source
/// `PodRequests` and `PodLimits`, `k8s.io/component-helpers/resource` (v1.36): containers and
/// restartable init containers run together; each init container runs with the restartable ones
/// before it.
fn together(spec: &PodSpec, of: impl Fn(&Requirements) -> Cow<'_, Resources>) -> Resources {
    let mut together = Resources::default();
    for container in &spec.containers {
        together.add(&of(&container.resources));
    }
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in &spec.init_containers {
        let own = of(&container.resources);
        let mut now = sidecars.clone();
        now.add(&own);
        if container.restart_policy == RestartPolicy::Always {
            together.add(&own);
            sidecars.add(&own);
        }
        peak.raise_to(&now);
    }
    together.raise_to(&peak);
    together
}

/// Requests that are left out are as the limits, where these are given; pod-level ones only if no
/// container names the resource.
///
/// # Source
/// `SetDefaults_Pod`, `pkg/apis/core/v1/defaults.go` (v1.36). The API server leaves it to the pods that
/// templates make.
fn default_requests(spec: &mut PodSpec) {
    let containers = || spec.containers.iter().chain(&spec.init_containers);
    let names_cpu = containers().any(|one| one.resources.requests.names_cpu || one.resources.limits.names_cpu);
    let names_memory = containers().any(|one| one.resources.requests.names_memory || one.resources.limits.names_memory);
    let fill = |one: &mut Requirements, cpu: bool, memory: bool| {
        let Requirements { requests, limits } = one;
        if cpu && limits.names_cpu && !requests.names_cpu {
            (requests.resources.cpu, requests.names_cpu) = (limits.resources.cpu, true);
        }
        if memory && limits.names_memory && !requests.names_memory {
            (requests.resources.memory, requests.names_memory) = (limits.resources.memory, true);
        }
        if requests.resources.ephemeral == Bytes(0) {
            requests.resources.ephemeral = limits.resources.ephemeral;
        }
        for (name, amount) in &limits.resources.extended {
            requests.resources.extended.entry(name.clone()).or_insert(*amount);
        }
    };
    for container in spec.containers.iter_mut().chain(&mut spec.init_containers) {
        fill(&mut container.resources, true, true);
    }
    fill(&mut spec.resources, !names_cpu, !names_memory);
}

/// What a pod takes: pod-level amounts, where set, replace the sum of its containers; overhead comes
/// on top of requests.
fn effective(spec: &PodSpec, of: impl Fn(&Requirements) -> Cow<'_, Resources>, side: Side) -> Resources {
    let mut all = together(spec, of);
    let pod_level = match side {
        Side::Requests => &spec.resources.requests,
        Side::Limits => &spec.resources.limits,
    };
    if pod_level.names_cpu {
        all.cpu = pod_level.resources.cpu;
    }
    if pod_level.names_memory {
        all.memory = pod_level.resources.memory;
    }
    for (name, amount) in pod_level.resources.extended.iter().filter(|(name, _)| name.starts_with("hugepages-")) {
        all.extended.insert(name.clone(), *amount);
    }
    if side == Side::Requests {
        all.add(&spec.overhead.resources);
    }
    all
}

/// Which amounts of a container.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Requests,
    Limits,
}

/// CPU that the scheduler assumes of a container that names none, when it scores.
const ASSUMED_CPU: MilliCpu = MilliCpu(100);
/// Memory that the scheduler assumes of a container that names none, when it scores.
const ASSUMED_MEMORY: Bytes = Bytes(200 * 1024 * 1024);

/// What the scheduler's assumptions add to `requests`.
fn assumed(spec: &PodSpec, requests: &Resources) -> model::Assumed {
    let complete = |one: &Container| one.resources.requests.names_cpu && one.resources.requests.names_memory;
    let pod_level = spec.resources.requests.names_cpu || spec.resources.requests.names_memory;
    if !pod_level && spec.containers.iter().chain(&spec.init_containers).all(complete) {
        return model::Assumed::default();
    }
    let filled = |one: &Requirements| {
        let own = &one.requests;
        Resources {
            cpu: if own.names_cpu { own.resources.cpu } else { ASSUMED_CPU },
            memory: if own.names_memory { own.resources.memory } else { ASSUMED_MEMORY },
            ..Resources::default()
        }
    };
    let placed = effective(spec, |one| Cow::Owned(filled(one)), Side::Requests);
    let mut arriving = together(spec, |one| Cow::Owned(filled(one)));
    arriving.add(&spec.overhead.resources);
    model::Assumed {
        cpu: MilliCpu(placed.cpu.0.saturating_sub(requests.cpu.0)),
        memory: placed.memory.minus(requests.memory),
        on_arrival: pod_level.then_some((arriving.cpu, arriving.memory)),
    }
}

fn phase(text: &str) -> Phase {
    match text {
        "Running" => Phase::Running,
        "Succeeded" => Phase::Succeeded,
        "Failed" => Phase::Failed,
        "Unknown" => Phase::Unknown,
        _ => Phase::Pending,
    }
}

impl Listed for model::Pod {
    const PATH: &'static str = "/api/v1/pods";
    const PLURAL: &'static str = "pods";
    type Wire = PodWire;
    fn from_wire(wire: PodWire) -> Option<Self> {
        let PodWire { metadata, mut spec, status } = wire;
        default_requests(&mut spec);
        let requests = effective(&spec, |one| Cow::Borrowed(&one.requests.resources), Side::Requests);
        let limits = effective(&spec, |one| Cow::Borrowed(&one.limits.resources), Side::Limits);
        let assumed = assumed(&spec, &requests);
        let owner = metadata.owner();
        let phase = phase(&status.phase);
        let statuses = || status.container_statuses.iter().chain(&status.init_container_statuses);
        let terminal = matches!(phase, Phase::Succeeded | Phase::Failed);
        let ended = terminal
            .then(|| {
                let finished = statuses().filter_map(|one| one.state.terminated.as_ref()?.finished_at).max();
                let disrupted =
                    status.conditions.kept.iter().find(|one| one.kind == "DisruptionTarget").and_then(|one| one.since);
                // A pod evicted by its kubelet may keep no time at all but that of its creation.
                disrupted.or(finished).or(status.conditions.changed).or(metadata.creation_timestamp)
            })
            .flatten();
        let waiting = statuses().find_map(|one| one.state.waiting.as_ref()).map(|one| one.reason.clone()).unwrap_or_default();
        let restarts = statuses().map(|one| one.restart_count).sum();
        let mut claims = Vec::new();
        let mut local = model::LocalData::default();
        for volume in &spec.volumes {
            if let Some(claim) = &volume.persistent_volume_claim {
                claims.push(claim.claim_name.clone());
            }
            if volume.ephemeral.is_some() && !metadata.name.is_empty() {
                claims.push(format!("{}-{}", metadata.name, volume.name));
            }
            local.empty_dir |= volume.empty_dir.is_some();
            local.host_path |= volume.host_path.is_some();
        }
        let mut unmodelled = unmodelled(&spec);
        if metadata.name.is_empty() && spec.volumes.iter().any(|volume| volume.ephemeral.is_some()) {
            unmodelled.push("a template's generic ephemeral volume".to_owned());
        }
        let containers = || spec.containers.iter().chain(&spec.init_containers);
        let images = containers().map(|one| one.image.clone()).collect();
        let never_pulled =
            containers().filter(|one| one.image_pull_policy == PullPolicy::Never).map(|one| one.image.clone()).collect();
        let host_ports = containers().flat_map(|one| one.ports.0.iter().cloned()).collect();
        let (tolerations, default_tolerations) = spec.tolerations.split();
        Some(Self {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            node: spec.node_name.filter(|name| !name.is_empty()).map(Into::into),
            phase,
            reason: status.reason,
            owner,
            labels: metadata.labels,
            created: metadata.creation_timestamp,
            deleting: metadata.deletion_timestamp,
            started: status.start_time,
            ended,
            requests,
            assumed,
            limits,
            claims,
            local,
            waiting,
            restarts,
            conditions: status.conditions.kept,
            images,
            never_pulled,
            scheduling: model::Scheduling {
                node_selector: spec.node_selector,
                affinity: spec.affinity,
                tolerations,
                default_tolerations,
                topology_spread: spec.topology_spread_constraints,
                host_ports,
                priority: spec.priority.unwrap_or_default(),
                // A pod's class is resolved by admission; a template's is not yet.
                priority_class: if spec.priority.is_some() { String::new() } else { spec.priority_class_name },
                preemption_policy: if spec.preemption_policy == "PreemptLowerPriority" {
                    String::new()
                } else {
                    spec.preemption_policy
                },
                scheduler: if spec.scheduler_name == "default-scheduler" { String::new() } else { spec.scheduler_name },
                gated: !spec.scheduling_gates.is_empty(),
                unmodelled,
            },
        })
    }
}

/// Features of a pod that the simulator does not model.
fn unmodelled(spec: &PodSpec) -> Vec<String> {
    let inline = |test: fn(&Volume) -> bool| spec.volumes.iter().any(test);
    // Admission writes the overhead of a RuntimeClass into the pod; in a template it is still missing.
    let unresolved = !spec.runtime_class_name.is_empty() && spec.overhead.resources == Resources::default();
    [
        (!spec.resource_claims.is_empty(), "resourceClaims"),
        (spec.scheduling_group.is_some(), "schedulingGroup"),
        (unresolved && spec.priority.is_none(), "runtimeClassName"),
        (inline(|one| one.iscsi.is_some()), "inline iscsi volume"),
        (inline(|one| one.rbd.is_some()), "inline rbd volume"),
        (inline(|one| one.aws_elastic_block_store.is_some()), "inline awsElasticBlockStore volume"),
        (inline(|one| one.azure_disk.is_some()), "inline azureDisk volume"),
        (inline(|one| one.gce_persistent_disk.is_some()), "inline gcePersistentDisk volume"),
        (inline(|one| one.cinder.is_some()), "inline cinder volume"),
    ]
    .into_iter()
    .filter(|(used, _)| *used)
    .map(|(_, name)| name.to_owned())
    .collect()
}

wire!(PvWire { metadata: Meta, spec: PvSpec, status: PvStatus });
wire!(PvSpec {
    capacity: StorageAmount,
    csi: Option<CsiSource>,
    claim_ref: Option<Reference>,
    storage_class_name: String,
    persistent_volume_reclaim_policy: String,
    access_modes: Vec<String>,
    node_affinity: Option<VolumeNodeAffinity>,
    volume_mode: String,
    local: Option<IgnoredAny>,
    host_path: Option<IgnoredAny>,
    nfs: Option<IgnoredAny>,
    iscsi: Option<IgnoredAny>,
});
wire!(PvStatus { phase: String, last_phase_transition_time: Option<Timestamp> });
wire!(CsiSource { driver: String, volume_handle: String });
wire!(Reference { kind: String, namespace: String, name: String });
wire!(VolumeNodeAffinity { required: Option<NodeSelector> });

/// `{"storage": "10Gi"}`.
#[derive(Default)]
pub(crate) struct StorageAmount(Bytes);

impl<'de> Deserialize<'de> for StorageAmount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let amounts = Amounts::deserialize(deserializer)?;
        Ok(Self(Bytes(amounts.resources.extended.get("storage").copied().unwrap_or_default())))
    }
}

impl Listed for model::PersistentVolume {
    const PATH: &'static str = "/api/v1/persistentvolumes";
    const PLURAL: &'static str = "persistentvolumes";
    type Wire = PvWire;
    fn from_wire(wire: PvWire) -> Option<Self> {
        let PvWire { metadata, spec, status } = wire;
        let kind = [("local", &spec.local), ("hostPath", &spec.host_path), ("nfs", &spec.nfs), ("iscsi", &spec.iscsi)]
            .into_iter()
            .find(|(_, source)| source.is_some())
            .map_or("other", |(kind, _)| kind);
        let kind = if spec.csi.is_some() { String::new() } else { kind.to_owned() };
        let (driver, handle) =
            spec.csi.map_or_else(Default::default, |csi| (csi.driver, Some(VolumeHandle::from(csi.volume_handle))));
        Some(Self {
            name: metadata.name.into(),
            driver,
            handle,
            kind,
            phase: status.phase,
            phase_since: status.last_phase_transition_time,
            capacity: spec.capacity.0,
            claim: spec.claim_ref.map(|claim| ObjectName::new(&claim.namespace, &claim.name)),
            storage_class: spec.storage_class_name,
            reclaim_policy: spec.persistent_volume_reclaim_policy,
            access_modes: spec.access_modes,
            node_affinity: spec.node_affinity.and_then(|affinity| affinity.required),
            labels: metadata.labels,
            block: spec.volume_mode == "Block",
            deleting: metadata.deletion_timestamp,
        })
    }
}

wire!(ClaimWire { metadata: Meta, spec: ClaimSpec, status: PhaseStatus });
wire!(ClaimSpec {
    access_modes: Vec<String>,
    resources: ClaimResources,
    selector: Option<LabelSelector>,
    storage_class_name: String,
    volume_mode: String,
    volume_name: String,
});
wire!(ClaimResources { requests: StorageAmount });
wire!(PhaseStatus { phase: String });

impl Listed for model::Claim {
    const PATH: &'static str = "/api/v1/persistentvolumeclaims";
    const PLURAL: &'static str = "persistentvolumeclaims";
    type Wire = ClaimWire;
    fn from_wire(wire: ClaimWire) -> Option<Self> {
        let ClaimWire { metadata, spec, status } = wire;
        Some(Self {
            namespace: metadata.namespace,
            name: metadata.name,
            phase: status.phase,
            volume: Some(spec.volume_name).filter(|name| !name.is_empty()).map(Into::into),
            storage_class: spec.storage_class_name,
            requested: spec.resources.requests.0,
            access_modes: spec.access_modes,
            selected_node: metadata.annotations.selected_node.map(Into::into),
            selector: spec.selector,
            block: spec.volume_mode == "Block",
            deleting: metadata.deletion_timestamp,
            created: metadata.creation_timestamp,
        })
    }
}

wire!(StorageClassWire {
    metadata: Meta,
    provisioner: String,
    reclaim_policy: String,
    volume_binding_mode: String,
    parameters: StorageParameters,
    allowed_topologies: Vec<TopologyTerm>,
});
wire!(StorageParameters { storage: String });
wire!(TopologyTerm { match_label_expressions: Vec<TopologyRequirement> });
wire!(TopologyRequirement { key: String, values: Vec<String> });

impl Listed for model::StorageClass {
    const PATH: &'static str = "/apis/storage.k8s.io/v1/storageclasses";
    const PLURAL: &'static str = "storageclasses";
    type Wire = StorageClassWire;
    fn from_wire(wire: StorageClassWire) -> Option<Self> {
        Some(Self {
            name: wire.metadata.name,
            provisioner: wire.provisioner,
            binding_mode: wire.volume_binding_mode,
            reclaim_policy: wire.reclaim_policy,
            storage: wire.parameters.storage,
            is_default: wire.metadata.annotations.default_class.as_deref() == Some("true"),
            allowed_topologies: wire
                .allowed_topologies
                .into_iter()
                .map(|term| term.match_label_expressions.into_iter().map(|one| (one.key, one.values.join(","))).collect())
                .collect(),
        })
    }
}

wire!(AttachmentWire { metadata: Meta, spec: AttachmentSpec, status: AttachmentStatus });
wire!(AttachmentSpec { attacher: String, node_name: String, source: AttachmentSource });
wire!(AttachmentSource { persistent_volume_name: Option<String> });
wire!(AttachmentStatus { attached: bool, attach_error: Option<VolumeError>, detach_error: Option<VolumeError> });
wire!(VolumeError { message: String });

impl Listed for model::VolumeAttachment {
    const PATH: &'static str = "/apis/storage.k8s.io/v1/volumeattachments";
    const PLURAL: &'static str = "volumeattachments";
    type Wire = AttachmentWire;
    fn from_wire(wire: AttachmentWire) -> Option<Self> {
        let AttachmentWire { metadata, spec, status } = wire;
        Some(Self {
            name: metadata.name,
            attacher: spec.attacher,
            node: spec.node_name.into(),
            volume: spec.source.persistent_volume_name.map(Into::into),
            attached: status.attached,
            attach_error: status.attach_error.map(|error| error.message),
            detach_error: status.detach_error.map(|error| error.message),
            created: metadata.creation_timestamp,
            deleting: metadata.deletion_timestamp,
            vanished: false,
        })
    }
}

wire!(CsiNodeWire { metadata: Meta, spec: CsiNodeSpec });
wire!(CsiNodeSpec { drivers: Vec<CsiNodeDriverWire> });
wire!(CsiNodeDriverWire { name: String, allocatable: DriverCount, topology_keys: Vec<String> });
wire!(DriverCount { count: Option<u64> });

impl Listed for model::CsiNode {
    const PATH: &'static str = "/apis/storage.k8s.io/v1/csinodes";
    const PLURAL: &'static str = "csinodes";
    type Wire = CsiNodeWire;
    fn from_wire(wire: CsiNodeWire) -> Option<Self> {
        let drivers = wire.spec.drivers.into_iter();
        Some(Self {
            name: wire.metadata.name.into(),
            drivers: drivers
                .map(|one| model::CsiNodeDriver {
                    name: one.name,
                    count: one.allocatable.count,
                    topology_keys: one.topology_keys,
                })
                .collect(),
        })
    }
}

wire!(CsiDriverWire { metadata: Meta, spec: CsiDriverSpec });
wire!(CsiDriverSpec { attach_required: Option<bool>, storage_capacity: bool });

impl Listed for model::CsiDriver {
    const PATH: &'static str = "/apis/storage.k8s.io/v1/csidrivers";
    const PLURAL: &'static str = "csidrivers";
    type Wire = CsiDriverWire;
    fn from_wire(wire: CsiDriverWire) -> Option<Self> {
        Some(Self {
            name: wire.metadata.name,
            attach_required: wire.spec.attach_required.unwrap_or(true),
            storage_capacity: wire.spec.storage_capacity,
        })
    }
}

wire!(StorageCapacityWire {
    metadata: Meta,
    storage_class_name: String,
    node_topology: Option<LabelSelector>,
    capacity: Option<String>,
    maximum_volume_size: Option<String>,
});

impl Listed for model::CsiStorageCapacity {
    const PATH: &'static str = "/apis/storage.k8s.io/v1/csistoragecapacities";
    const PLURAL: &'static str = "csistoragecapacities";
    type Wire = StorageCapacityWire;
    fn from_wire(wire: StorageCapacityWire) -> Option<Self> {
        let bytes = |text: Option<String>| text.and_then(|text| Bytes::parse(&text).ok());
        Some(Self {
            name: ObjectName::new(&wire.metadata.namespace, &wire.metadata.name),
            storage_class: wire.storage_class_name,
            topology: wire.node_topology,
            capacity: bytes(wire.capacity),
            maximum_volume: bytes(wire.maximum_volume_size),
        })
    }
}

wire!(PdbWire { metadata: Meta, spec: PdbSpec, status: PdbStatus });
wire!(PdbSpec {
    selector: Option<LabelSelector>,
    min_available: Option<IntOrString>,
    max_unavailable: Option<IntOrString>,
    unhealthy_pod_eviction_policy: String,
});
wire!(PdbStatus {
    disruptions_allowed: i64,
    current_healthy: i64,
    desired_healthy: i64,
    expected_pods: i64,
    observed_generation: i64,
});

#[derive(Deserialize)]
#[serde(untagged)]
enum IntOrString {
    Int(i64),
    String(String),
}

impl From<IntOrString> for String {
    fn from(value: IntOrString) -> Self {
        match value {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(text) => text,
        }
    }
}

impl Listed for model::Pdb {
    const PATH: &'static str = "/apis/policy/v1/poddisruptionbudgets";
    const PLURAL: &'static str = "poddisruptionbudgets";
    type Wire = PdbWire;
    fn from_wire(wire: PdbWire) -> Option<Self> {
        let PdbWire { metadata, spec, status } = wire;
        Some(Self {
            namespace: metadata.namespace,
            name: metadata.name,
            selector: spec.selector,
            min_available: spec.min_available.map(Into::into),
            max_unavailable: spec.max_unavailable.map(Into::into),
            unhealthy_policy: spec.unhealthy_pod_eviction_policy,
            disruptions_allowed: status.disruptions_allowed,
            current_healthy: status.current_healthy,
            desired_healthy: status.desired_healthy,
            expected_pods: status.expected_pods,
            observed: status.observed_generation >= metadata.generation,
        })
    }
}

wire!(WorkloadWire { metadata: Meta, spec: WorkloadSpec, status: WorkloadStatus });
wire!(WorkloadSpec {
    replicas: Option<u64>,
    parallelism: Option<u64>,
    suspend: bool,
    selector: Option<LabelSelector>,
    template: Option<TemplateWire>,
    job_template: Option<JobTemplate>,
    volume_claim_templates: Vec<ClaimTemplate>,
});
wire!(TemplateWire { metadata: Meta, spec: PodSpec });
wire!(JobTemplate { spec: JobTemplateSpec });
wire!(JobTemplateSpec { template: TemplateWire });
wire!(ClaimTemplate { metadata: Meta });
wire!(WorkloadStatus {
    replicas: u64,
    ready_replicas: u64,
    terminating_replicas: Option<u64>,
    observed_generation: Option<i64>,
    desired_number_scheduled: Option<u64>,
    current_number_scheduled: u64,
    number_ready: u64,
    active: u64,
    ready: u64,
    current_revision: String,
    update_revision: String,
});

fn workload(wire: WorkloadWire) -> model::Workload {
    let WorkloadWire { metadata, spec, status } = wire;
    let template = spec.template.or_else(|| spec.job_template.map(|job| job.spec.template)).and_then(|template| {
        let pod = PodWire { metadata: template.metadata, spec: template.spec, status: PodStatus::default() };
        <model::Pod as Listed>::from_wire(pod).map(Box::new)
    });
    model::Workload {
        owner: metadata.owner(),
        observed: status.observed_generation.is_none_or(|seen| seen >= metadata.generation),
        namespace: metadata.namespace,
        name: metadata.name,
        uid: metadata.uid,
        // A Deployment without `replicas` wants one; a DaemonSet wants what its status says.
        replicas: status.desired_number_scheduled.or(spec.replicas).or(spec.parallelism).unwrap_or(1),
        ready: status.ready_replicas + status.number_ready + status.ready,
        current: status.replicas + status.current_number_scheduled + status.active,
        terminating: status.terminating_replicas,
        suspended: spec.suspend,
        updating: status.current_revision != status.update_revision,
        selector: spec.selector,
        template,
        claim_templates: spec.volume_claim_templates.into_iter().map(|one| one.metadata.name).collect(),
    }
}

macro_rules! workload {
    ($($type:ident, $path:literal, $plural:literal, $template:literal;)*) => {$(
        /// A workload of this kind.
        pub(crate) struct $type(pub(crate) model::Workload);
        impl Listed for $type {
            const PATH: &'static str = $path;
            const PLURAL: &'static str = $plural;
            type Wire = WorkloadWire;
            fn from_wire(wire: WorkloadWire) -> Option<Self> {
                let mut workload = workload(wire);
                if !$template {
                    workload.template = None;
                }
                Some(Self(workload))
            }
        }
    )*};
}
// A ReplicaSet's and a Job's template repeats that of its owner and of its pods.
workload! {
    Deployment, "/apis/apps/v1/deployments", "deployments", true;
    StatefulSet, "/apis/apps/v1/statefulsets", "statefulsets", true;
    DaemonSet, "/apis/apps/v1/daemonsets", "daemonsets", true;
    ReplicaSet, "/apis/apps/v1/replicasets", "replicasets", false;
    Job, "/apis/batch/v1/jobs", "jobs", false;
    CronJob, "/apis/batch/v1/cronjobs", "cronjobs", true;
}

wire!(PriorityClassWire { metadata: Meta, value: i32, global_default: bool, preemption_policy: String });

impl Listed for model::PriorityClass {
    const PATH: &'static str = "/apis/scheduling.k8s.io/v1/priorityclasses";
    const PLURAL: &'static str = "priorityclasses";
    type Wire = PriorityClassWire;
    fn from_wire(wire: PriorityClassWire) -> Option<Self> {
        let policy = wire.preemption_policy;
        Some(Self {
            name: wire.metadata.name,
            value: wire.value,
            global_default: wire.global_default,
            preemption_policy: if policy == "PreemptLowerPriority" { String::new() } else { policy },
        })
    }
}

wire!(NamespaceWire { metadata: Meta });

impl Listed for model::Namespace {
    const PATH: &'static str = "/api/v1/namespaces";
    const PLURAL: &'static str = "namespaces";
    type Wire = NamespaceWire;
    fn from_wire(wire: NamespaceWire) -> Option<Self> {
        Some(Self { name: wire.metadata.name, uid: wire.metadata.uid, labels: wire.metadata.labels })
    }
}

wire!(ServiceWire { metadata: Meta, spec: ServiceSpec, status: ServiceStatus });
wire!(ServiceSpec { selector: Labels, #[serde(rename = "externalIPs")] external_ips: Vec<String>, #[serde(rename = "loadBalancerIP")] load_balancer_ip: Option<String> });
wire!(ServiceStatus { load_balancer: LoadBalancer });
wire!(LoadBalancer { ingress: Vec<Ingress> });
wire!(Ingress { ip: Option<String> });

impl Listed for model::Service {
    const PATH: &'static str = "/api/v1/services";
    const PLURAL: &'static str = "services";
    type Wire = ServiceWire;
    fn from_wire(wire: ServiceWire) -> Option<Self> {
        let balanced = wire.status.load_balancer.ingress.into_iter().filter_map(|one| one.ip);
        let mut addresses: Vec<String> = balanced.chain(wire.spec.external_ips).chain(wire.spec.load_balancer_ip).collect();
        addresses.sort();
        addresses.dedup();
        Some(Self { namespace: wire.metadata.namespace, name: wire.metadata.name, selector: wire.spec.selector, addresses })
    }
}

wire!(QuotaWire { metadata: Meta, status: QuotaStatus });
wire!(QuotaStatus { hard: BTreeMap<String, String>, used: BTreeMap<String, String> });

impl Listed for model::Quota {
    const PATH: &'static str = "/api/v1/resourcequotas";
    const PLURAL: &'static str = "resourcequotas";
    type Wire = QuotaWire;
    fn from_wire(wire: QuotaWire) -> Option<Self> {
        let amount = |name: &str, text: &str| quantity(text, if name.ends_with("cpu") { 1000 } else { 1 }).ok();
        let resources = wire.status.hard.iter().filter_map(|(name, hard)| {
            let used = wire.status.used.get(name)?;
            Some((name.clone(), (amount(name, used)?, amount(name, hard)?)))
        });
        Some(Self { resources: resources.collect(), namespace: wire.metadata.namespace, name: wire.metadata.name })
    }
}

/// Reasons of events that speak of capacity. Others are dropped unread: they may quote anything.
const EVENT_REASONS: [&str; 14] = [
    "Evicted",
    "EvictionThresholdMet",
    "FailedAttachVolume",
    "FailedCreate",
    "FailedMount",
    "FailedScheduling",
    "FreeDiskSpaceFailed",
    "ImageGCFailed",
    "NodeNotReady",
    "OOMKilling",
    "ProvisioningFailed",
    "SystemOOM",
    "TaintManagerEviction",
    "VolumeResizeFailed",
];

wire!(EventWire {
    involved_object: Reference,
    reason: String,
    message: String,
    count: u64,
    last_timestamp: Option<Timestamp>,
    event_time: Option<Timestamp>,
    series: Option<EventSeries>,
});
wire!(EventSeries { count: u64, last_observed_time: Option<Timestamp> });

impl Listed for model::Event {
    const PATH: &'static str = "/api/v1/events";
    const PLURAL: &'static str = "events";
    type Wire = EventWire;
    fn from_wire(wire: EventWire) -> Option<Self> {
        EVENT_REASONS.contains(&wire.reason.as_str()).then(|| {
            let object = wire.involved_object;
            let series = wire.series.unwrap_or_default();
            Self {
                subject: format!("{}/{}/{}", object.kind, object.namespace, object.name),
                reason: wire.reason,
                message: wire.message,
                count: wire.count.max(series.count).max(1),
                last_seen: wire.last_timestamp.or(series.last_observed_time).or(wire.event_time),
            }
        })
    }
}

wire!(MetricsWire { metadata: Meta, usage: Amounts });

impl Listed for model::NodeMetrics {
    const PATH: &'static str = "/apis/metrics.k8s.io/v1beta1/nodes";
    const PLURAL: &'static str = "nodemetrics";
    type Wire = MetricsWire;
    fn from_wire(wire: MetricsWire) -> Option<Self> {
        Some(Self { name: wire.metadata.name.into(), cpu: wire.usage.resources.cpu, memory: wire.usage.resources.memory })
    }
}

/// A Calico IPAM handle: only counted.
pub(crate) struct IpamHandle;

impl Listed for IpamHandle {
    const PATH: &'static str = "/apis/crd.projectcalico.org/v1/ipamhandles";
    const PLURAL: &'static str = "ipamhandles";
    type Wire = IgnoredAny;
    fn from_wire(_: IgnoredAny) -> Option<Self> {
        Some(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: &str) -> model::Pod {
        let text = format!(
            r#"{{"metadata":{{}},"items":[{{"metadata":{{"name":"p","namespace":"n"}},"spec":{spec},"status":{{"phase":"Running"}}}}]}}"#
        );
        List::decode(text.as_bytes()).expect("valid").items.remove(0)
    }

    #[test]
    fn requests_follow_the_scheduler_with_init_containers_sidecars_and_overhead() {
        let both = pod(
            r#"{"containers":[{"resources":{"requests":{"memory":"1Gi","cpu":"500m"}}},{"resources":{"requests":{"memory":"1Gi"}}}],
                "initContainers":[{"resources":{"requests":{"memory":"3Gi"}}}],"overhead":{"memory":"1Gi"}}"#,
        );
        assert_eq!((both.requests.memory, both.requests.cpu), (Bytes::gib(4), MilliCpu(500)), "the init peak of 3 plus overhead");
        let sidecar = pod(r#"{"containers":[{"resources":{"requests":{"memory":"2Gi"}}}],
                "initContainers":[{"restartPolicy":"Always","resources":{"requests":{"memory":"1Gi"}}},{"resources":{"requests":{"memory":"1Gi"}}}]}"#);
        assert_eq!(sidecar.requests.memory, Bytes::gib(3), "the sidecar runs beside the containers");
        let pod_level =
            pod(r#"{"containers":[{"resources":{"requests":{"memory":"2Gi"}}}],"resources":{"requests":{"memory":"5Gi"}}}"#);
        assert_eq!(pod_level.requests.memory, Bytes::gib(5));
    }

    #[test]
    fn extended_resources_are_read_in_any_canonical_form() {
        let gpu = pod(r#"{"containers":[{"resources":{"requests":{"x.example/gpumem":"5k","nvidia.com/gpu":"1"}}}]}"#);
        assert_eq!(gpu.requests.extended, [("nvidia.com/gpu".to_owned(), 1), ("x.example/gpumem".to_owned(), 5000)].into());
    }

    #[test]
    fn a_generic_ephemeral_volume_is_a_claim_of_the_pods_name() {
        let ephemeral =
            pod(r#"{"volumes":[{"name":"scratch","ephemeral":{"volumeClaimTemplate":{}}},{"name":"d","emptyDir":{}}]}"#);
        assert_eq!((ephemeral.claims, ephemeral.local.empty_dir), (vec!["p-scratch".to_owned()], true));
    }

    #[test]
    fn a_bad_quantity_fails_the_list_and_is_not_zero() {
        let text = r#"{"items":[{"spec":{"containers":[{"resources":{"requests":{"memory":"many"}}}]}}]}"#;
        let Err(error) = List::<model::Pod>::decode(text.as_bytes()) else { unreachable!("`many` is no quantity") };
        assert!(error.to_string().contains("many"), "{error}");
    }

    #[test]
    fn events_about_anything_but_capacity_are_dropped() {
        let text = r#"{"items":[{"reason":"Pulled","message":"secret"},{"reason":"Evicted","message":"low","count":2}]}"#;
        let events = List::<model::Event>::decode(text.as_bytes()).expect("valid").items;
        assert_eq!(events.iter().map(|event| (event.reason.as_str(), event.count)).collect::<Vec<_>>(), [("Evicted", 2)]);
    }

    #[test]
    fn a_cut_page_is_an_error() {
        assert!(List::<model::Pod>::decode(br#"{"items":[{"metadata":{"name":"p"}}"#).is_err());
        assert!(List::<model::Pod>::decode(br#"{"metadata":{}}"#).is_err(), "no items is not an empty list");
    }
}
