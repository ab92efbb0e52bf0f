//! What makes a pod hard to place: a small function for each kind of constraint.
//!
//! Most values are taken from the node that the pod is meant for, so that constraints can be kept.

use serde_json::{Value, json};

use super::generate::{Amounts, Claim, GPU, HOSTNAME, MIB, PROXMOX, RACK, REGION, TOPOLVM, TOPOLVM_NODE, World, ZONE};

/// A pod in the making.
pub(super) struct Draft {
    pub(super) pod: Value,
    pub(super) namespace: String,
    pub(super) app: &'static str,
    /// Index of the node that it is meant for.
    pub(super) host: usize,
    /// Whether it runs there already.
    pub(super) bound: bool,
    /// Whether a controller owns it, which ties it to its namespace.
    pub(super) owned: bool,
    /// At most what it asks for.
    pub(super) need: Amounts,
    pub(super) ports: Vec<u16>,
    /// New volumes of Proxmox and of TopoLVM.
    pub(super) volumes: [i64; 2],
    pub(super) features: Vec<&'static str>,
}

impl Draft {
    pub(super) fn new(namespace: &str, pod: Value, host: usize, bound: bool) -> Self {
        Self {
            pod,
            namespace: namespace.to_owned(),
            app: "agent",
            host,
            bound,
            owned: false,
            need: Amounts::default(),
            ports: Vec::new(),
            volumes: [0, 0],
            features: Vec::new(),
        }
    }

    /// Requests of the first container.
    pub(super) fn ask(&mut self, amounts: Amounts) {
        self.add(amounts);
        self.pod["spec"]["containers"][0]["resources"]["requests"] = requests(amounts);
    }

    /// Requests of the pod as a whole, if it has any: enough for all of its containers.
    pub(super) fn level(&mut self) {
        if self.pod["spec"]["resources"].is_object() {
            let (cpu, memory) = (format!("{}m", self.need.cpu), self.need.memory.to_string());
            self.pod["spec"]["resources"]["requests"] = json!({"cpu": cpu, "memory": memory});
        }
    }

    fn add(&mut self, amounts: Amounts) {
        self.need.cpu += amounts.cpu;
        self.need.memory += amounts.memory;
        self.need.storage += amounts.storage;
        self.need.gpus += amounts.gpus;
    }
}

fn requests(amounts: Amounts) -> Value {
    let mut requests = json!({});
    if amounts.cpu > 0 {
        requests["cpu"] = json!(format!("{}m", amounts.cpu));
    }
    if amounts.memory > 0 {
        requests["memory"] = json!(amounts.memory.to_string());
    }
    if amounts.storage > 0 {
        requests["ephemeral-storage"] = json!(format!("{}Ki", amounts.storage / 1024));
    }
    requests
}

/// One kind of constraint.
pub(super) struct Feature {
    pub(super) group: &'static str,
    pub(super) name: &'static str,
    /// How often it comes, against the others.
    pub(super) weight: u32,
    /// Answers whether it could be added.
    pub(super) add: fn(&mut World, &mut Draft) -> bool,
}

/// All kinds of constraints of pods.
pub(super) fn table() -> Vec<Feature> {
    let feature = |group, name, add| Feature { group, name, weight: 1, add };
    let often = |group, name, add| Feature { group, name, weight: 3, add };
    vec![
        feature("node", "node-selector", node_selector),
        feature("node", "node-affinity-in", affinity_in),
        feature("node", "node-affinity-not-in", affinity_not_in),
        feature("node", "node-affinity-exists", affinity_exists),
        feature("node", "node-affinity-does-not-exist", affinity_does_not_exist),
        feature("node", "node-affinity-gt", affinity_gt),
        feature("node", "node-affinity-lt", affinity_lt),
        feature("node", "node-affinity-name", affinity_name),
        feature("node", "node-affinity-several-terms", affinity_several_terms),
        often("node", "node-affinity-preferred", affinity_preferred),
        feature("taint", "toleration-equal", toleration_equal),
        feature("taint", "toleration-exists", toleration_exists),
        feature("taint", "toleration-everything", toleration_everything),
        feature("taint", "toleration-seconds", toleration_seconds),
        feature("taint", "toleration-prefer", toleration_prefer),
        feature("port", "host-port-tcp", host_port_tcp),
        feature("port", "host-port-udp", host_port_udp),
        feature("port", "host-port-address", host_port_address),
        feature("pod", "pod-affinity-host", pod_affinity_host),
        feature("pod", "pod-affinity-zone", pod_affinity_zone),
        feature("pod", "pod-affinity-self", pod_affinity_self),
        feature("pod", "pod-affinity-preferred", pod_affinity_preferred),
        feature("pod", "pod-affinity-several", pod_affinity_several),
        often("pod", "pod-anti-affinity-host", pod_anti_affinity_host),
        feature("pod", "pod-anti-affinity-self", pod_anti_affinity_self),
        feature("pod", "pod-anti-affinity-zone", pod_anti_affinity_zone),
        feature("pod", "pod-anti-affinity-preferred", pod_anti_affinity_preferred),
        feature("pod", "pod-affinity-namespaces", pod_affinity_namespaces),
        feature("pod", "pod-affinity-namespace-selector", pod_affinity_namespace_selector),
        feature("pod", "pod-affinity-match-label-keys", pod_affinity_match_label_keys),
        feature("pod", "pod-affinity-mismatch-label-keys", pod_affinity_mismatch_label_keys),
        often("spread", "spread-do-not-schedule", spread_do_not_schedule),
        feature("spread", "spread-schedule-anyway", spread_schedule_anyway),
        feature("spread", "spread-min-domains", spread_min_domains),
        feature("spread", "spread-node-affinity-policy", spread_node_affinity_policy),
        feature("spread", "spread-node-taints-policy", spread_node_taints_policy),
        feature("spread", "spread-match-label-keys", spread_match_label_keys),
        feature("spread", "spread-several", spread_several),
        feature("resource", "init-container", init_container),
        feature("resource", "sidecar", sidecar),
        feature("resource", "overhead", overhead),
        feature("resource", "runtime-node-selector", runtime_node_selector),
        feature("resource", "pod-level-resources", pod_level_resources),
        feature("resource", "container-without-requests", container_without_requests),
        feature("resource", "several-containers", several_containers),
        often("resource", "extended-resource", extended_resource),
        feature("volume", "volume-zoned", volume_zoned),
        feature("volume", "volume-regional", volume_regional),
        feature("volume", "volume-second-driver", volume_second_driver),
        feature("volume", "volume-local", volume_local),
        feature("volume", "volume-zone-label", volume_zone_label),
        feature("volume", "volume-several", volume_several),
        feature("volume", "volume-shared", volume_shared),
        often("volume", "volume-read-write-once-pod", volume_once_pod),
        often("volume", "claim-wait-for-first-consumer", claim_waits),
        feature("volume", "claim-allowed-topologies", claim_allowed_topologies),
        feature("volume", "claim-storage-capacity", claim_storage_capacity),
        feature("volume", "claim-static-local", claim_static_local),
        feature("volume", "claim-immediate-unbound", claim_immediate),
        feature("volume", "claim-missing", claim_missing),
        feature("volume", "claim-lost", claim_lost),
        feature("volume", "volume-inline-disk", inline_disk),
        feature("priority", "priority-low", priority_low),
        feature("priority", "priority-medium", priority_medium),
        often("priority", "priority-high", priority_high),
        feature("priority", "priority-never-preempts", priority_never),
        feature("priority", "scheduling-gate", scheduling_gate),
    ]
}

/// Appends to an array, which it makes if there is none.
fn push(array: &mut Value, element: Value) {
    if let Value::Array(elements) = array {
        elements.push(element);
    } else {
        *array = json!([element]);
    }
}

// Nodes.

/// A label of the node that the pod is meant for; sometimes of another.
fn label(world: &mut World, draft: &Draft, keys: &[&'static str]) -> Option<(&'static str, String)> {
    let host = if world.chance(85) { draft.host } else { world.rng.usize(0..world.hosts.len()) };
    let key = world.pick(keys);
    world.hosts[host].label(key).map(|value| (key, value.to_owned()))
}

const NODE_KEYS: [&str; 5] = [ZONE, RACK, "example.com/disk", "example.com/pool", "kubernetes.io/arch"];

fn node_selector(world: &mut World, draft: &mut Draft) -> bool {
    let Some((key, value)) = label(world, draft, &NODE_KEYS) else { return false };
    draft.pod["spec"]["nodeSelector"][key] = json!(value);
    true
}

/// Adds to every term of the required node affinity.
fn require(draft: &mut Draft, field: &str, expression: &Value) -> bool {
    let terms =
        &mut draft.pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    if terms.is_null() {
        *terms = json!([{}]);
    }
    for term in terms.as_array_mut().into_iter().flatten() {
        push(&mut term[field], expression.clone());
    }
    true
}

fn expression(key: &str, operator: &str, values: &[String]) -> Value {
    if values.is_empty() {
        json!({"key": key, "operator": operator})
    } else {
        json!({"key": key, "operator": operator, "values": values})
    }
}

fn affinity_in(world: &mut World, draft: &mut Draft) -> bool {
    let (Some((key, value)), other) = (label(world, draft, &NODE_KEYS), world.pick(&["pve-1", "rack-1", "ssd"])) else {
        return false;
    };
    require(draft, "matchExpressions", &expression(key, "In", &[value, other.to_owned()]))
}

fn affinity_not_in(world: &mut World, draft: &mut Draft) -> bool {
    let host = world.rng.usize(0..world.hosts.len());
    let key = world.pick(&NODE_KEYS);
    let Some(value) = world.hosts[host].label(key).map(str::to_owned) else { return false };
    require(draft, "matchExpressions", &expression(key, "NotIn", &[value]))
}

fn affinity_exists(world: &mut World, draft: &mut Draft) -> bool {
    let Some((key, _)) = label(world, draft, &["example.com/pool", "example.com/runtime", RACK]) else { return false };
    require(draft, "matchExpressions", &expression(key, "Exists", &[]))
}

fn affinity_does_not_exist(world: &mut World, draft: &mut Draft) -> bool {
    let key = world.pick(&["example.com/pool", "example.com/runtime", ZONE]);
    if world.hosts[draft.host].label(key).is_some() && world.chance(70) {
        return false;
    }
    require(draft, "matchExpressions", &expression(key, "DoesNotExist", &[]))
}

fn affinity_gt(world: &mut World, draft: &mut Draft) -> bool {
    let bound = world.rng.u8(1..6).to_string();
    require(draft, "matchExpressions", &expression("example.com/cpu-generation", "Gt", &[bound]))
}

fn affinity_lt(world: &mut World, draft: &mut Draft) -> bool {
    let bound = world.rng.u8(5..10).to_string();
    require(draft, "matchExpressions", &expression("example.com/cpu-generation", "Lt", &[bound]))
}

/// Pins a pod to a node as the DaemonSet controller does.
pub(super) fn pinned(draft: &mut Draft, name: &str) {
    require(draft, "matchFields", &expression("metadata.name", "In", &[name.to_owned()]));
}

fn affinity_name(world: &mut World, draft: &mut Draft) -> bool {
    let name = world.hosts[draft.host].name.clone();
    let operator = world.pick(&["In", "NotIn"]);
    require(draft, "matchFields", &expression("metadata.name", operator, &[name]))
}

fn affinity_several_terms(world: &mut World, draft: &mut Draft) -> bool {
    let (Some((key, value)), Some((other, second))) = (label(world, draft, &NODE_KEYS), label(world, draft, &NODE_KEYS)) else {
        return false;
    };
    let terms =
        &mut draft.pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    push(terms, json!({"matchExpressions": [expression(key, "In", &[value])]}));
    push(
        terms,
        json!({"matchExpressions": [expression(other, "In", &[second]), expression("kubernetes.io/arch", "Exists", &[])]}),
    );
    true
}

fn affinity_preferred(world: &mut World, draft: &mut Draft) -> bool {
    for _ in 0..world.rng.usize(1..=3) {
        let Some((key, value)) = label(world, draft, &NODE_KEYS) else { continue };
        let operator = world.pick(&["In", "In", "NotIn"]);
        let weight = world.rng.u8(1..=100);
        push(
            &mut draft.pod["spec"]["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"],
            json!({"weight": weight, "preference": {"matchExpressions": [expression(key, operator, &[value])]}}),
        );
    }
    draft.pod["spec"]["affinity"]["nodeAffinity"].is_object()
}

// Taints.

pub(super) fn tolerate(draft: &mut Draft, toleration: Value) -> bool {
    push(&mut draft.pod["spec"]["tolerations"], toleration);
    true
}

/// What the DaemonSet controller lets its pods tolerate.
pub(super) fn daemon_tolerations(draft: &mut Draft) {
    for (key, effect) in [
        ("not-ready", "NoExecute"),
        ("unreachable", "NoExecute"),
        ("disk-pressure", "NoSchedule"),
        ("memory-pressure", "NoSchedule"),
        ("pid-pressure", "NoSchedule"),
        ("unschedulable", "NoSchedule"),
    ] {
        tolerate(draft, json!({"key": format!("node.kubernetes.io/{key}"), "operator": "Exists", "effect": effect}));
    }
}

fn toleration_equal(world: &mut World, draft: &mut Draft) -> bool {
    let value = world.pick(&["gpu", "db"]);
    tolerate(draft, json!({"key": "example.com/dedicated", "operator": "Equal", "value": value, "effect": "NoSchedule"}))
}

fn toleration_exists(world: &mut World, draft: &mut Draft) -> bool {
    let key = world.pick(&["example.com/dedicated", "node.kubernetes.io/unschedulable", "node.kubernetes.io/not-ready"]);
    tolerate(draft, json!({"key": key, "operator": "Exists"}))
}

fn toleration_everything(_: &mut World, draft: &mut Draft) -> bool {
    tolerate(draft, json!({"operator": "Exists"}))
}

fn toleration_seconds(world: &mut World, draft: &mut Draft) -> bool {
    let seconds = world.rng.u32(30..600);
    tolerate(
        draft,
        json!({"key": "example.com/maintenance", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds}),
    )
}

fn toleration_prefer(_: &mut World, draft: &mut Draft) -> bool {
    tolerate(draft, json!({"key": "example.com/busy", "operator": "Exists", "effect": "PreferNoSchedule"}))
}

// Ports.

fn host_port(world: &mut World, draft: &mut Draft, protocol: &str, address: Option<&str>) -> bool {
    let port = world.pick(&[80, 443, 8080, 9100]);
    if draft.ports.contains(&port) {
        return false;
    }
    let mut entry = json!({"containerPort": port, "hostPort": port, "protocol": protocol});
    if let Some(address) = address {
        entry["hostIP"] = json!(address);
    }
    push(&mut draft.pod["spec"]["containers"][0]["ports"], entry);
    draft.ports.push(port);
    true
}

fn host_port_tcp(world: &mut World, draft: &mut Draft) -> bool {
    host_port(world, draft, "TCP", None)
}

fn host_port_udp(world: &mut World, draft: &mut Draft) -> bool {
    host_port(world, draft, "UDP", None)
}

fn host_port_address(world: &mut World, draft: &mut Draft) -> bool {
    let address = world.pick(&["127.0.0.1", "10.0.0.1", "0.0.0.0"]);
    host_port(world, draft, "TCP", Some(address))
}

// Other pods.

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn term(app: &str, topology: &str) -> Value {
    json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": topology})
}

fn near(draft: &mut Draft, term: Value) -> bool {
    push(&mut draft.pod["spec"]["affinity"]["podAffinity"][REQUIRED], term);
    true
}

fn apart(draft: &mut Draft, term: Value) -> bool {
    push(&mut draft.pod["spec"]["affinity"]["podAntiAffinity"][REQUIRED], term);
    true
}

fn pod_affinity_host(world: &mut World, draft: &mut Draft) -> bool {
    let app = world.app();
    near(draft, term(app, HOSTNAME))
}

fn pod_affinity_zone(world: &mut World, draft: &mut Draft) -> bool {
    let (app, key) = (world.app(), world.pick(&[ZONE, RACK, REGION]));
    near(draft, term(app, key))
}

fn pod_affinity_self(world: &mut World, draft: &mut Draft) -> bool {
    let key = world.pick(&[HOSTNAME, ZONE, RACK]);
    let mut term = term(draft.app, key);
    // The first of its kind may go anywhere.
    let kind = format!("group-{}", world.rng.u8(0..4));
    draft.pod["metadata"]["labels"]["group"] = json!(kind);
    term["labelSelector"]["matchLabels"]["group"] = json!(kind);
    near(draft, term)
}

fn pod_affinity_preferred(world: &mut World, draft: &mut Draft) -> bool {
    let (app, key, weight) = (world.app(), world.pick(&[HOSTNAME, ZONE, RACK]), world.rng.u8(1..=100));
    push(
        &mut draft.pod["spec"]["affinity"]["podAffinity"][PREFERRED],
        json!({"weight": weight, "podAffinityTerm": term(app, key)}),
    );
    true
}

fn pod_affinity_several(world: &mut World, draft: &mut Draft) -> bool {
    let (one, other) = (world.app(), world.app());
    near(draft, term(one, ZONE)) && apart(draft, term(other, HOSTNAME)) && near(draft, term(other, REGION))
}

fn pod_anti_affinity_host(world: &mut World, draft: &mut Draft) -> bool {
    let (app, tier) = (world.app(), world.pick(&["front", "back"]));
    let mut term = term(app, HOSTNAME);
    term["labelSelector"]["matchLabels"]["tier"] = json!(tier);
    apart(draft, term)
}

fn pod_anti_affinity_self(_: &mut World, draft: &mut Draft) -> bool {
    let labels = draft.pod["metadata"]["labels"].clone();
    apart(draft, json!({"labelSelector": {"matchLabels": labels}, "topologyKey": HOSTNAME}))
}

fn pod_anti_affinity_zone(world: &mut World, draft: &mut Draft) -> bool {
    let (app, key) = (world.app(), world.pick(&[ZONE, RACK]));
    // A narrow one: two of these could keep an application from the whole cluster.
    let labels = json!({"app": app, "tier": "back", "pod-template-hash": "v2"});
    apart(draft, json!({"labelSelector": {"matchLabels": labels}, "topologyKey": key}))
}

fn pod_anti_affinity_preferred(world: &mut World, draft: &mut Draft) -> bool {
    let (app, key, weight) = (world.app(), world.pick(&[HOSTNAME, ZONE, RACK]), world.rng.u8(1..=100));
    push(
        &mut draft.pod["spec"]["affinity"]["podAntiAffinity"][PREFERRED],
        json!({"weight": weight, "podAffinityTerm": term(app, key)}),
    );
    true
}

fn pod_affinity_namespaces(world: &mut World, draft: &mut Draft) -> bool {
    let mut term = term(world.app(), ZONE);
    term["namespaces"] = json!([world.pick(&["team-a", "team-b", "data"]), "default"]);
    if world.chance(50) {
        near(draft, term)
    } else {
        apart(
            draft,
            json!({"topologyKey": HOSTNAME, "namespaces": term["namespaces"],
        "labelSelector": term["labelSelector"]}),
        )
    }
}

fn pod_affinity_namespace_selector(world: &mut World, draft: &mut Draft) -> bool {
    let mut term = term(world.app(), HOSTNAME);
    let selectors = [
        json!({}),
        json!({"matchLabels": {"env": "prod"}}),
        json!({"matchExpressions": [{"key": "team", "operator": "Exists"}]}),
    ];
    term["namespaceSelector"] = world.pick(&selectors);
    if world.chance(30) {
        term["namespaces"] = json!(["data"]);
    }
    if world.chance(50) { near(draft, term) } else { apart(draft, term) }
}

fn pod_affinity_match_label_keys(world: &mut World, draft: &mut Draft) -> bool {
    let mut term = term(draft.app, world.pick(&[HOSTNAME, ZONE]));
    term["matchLabelKeys"] = json!(["pod-template-hash", "tier"]);
    if world.chance(50) {
        near(draft, term)
    } else {
        term["topologyKey"] = json!(HOSTNAME);
        apart(draft, term)
    }
}

fn pod_affinity_mismatch_label_keys(world: &mut World, draft: &mut Draft) -> bool {
    let mut term = term(draft.app, HOSTNAME);
    term["mismatchLabelKeys"] = json!(["pod-template-hash"]);
    if world.chance(40) { near(draft, term) } else { apart(draft, term) }
}

// Spreading.

/// Pods that a pod is spread among.
fn alike(world: &mut World, draft: &Draft) -> Value {
    let tier = draft.pod["metadata"]["labels"]["tier"].clone();
    let selectors = [
        json!({"matchLabels": {"app": draft.app}}),
        json!({"matchLabels": {"tier": tier}}),
        json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
    ];
    world.pick(&selectors)
}

fn spread(world: &mut World, draft: &mut Draft, key: &str, skew: u8, when: &str, more: &[(&str, Value)]) -> bool {
    let constraints = draft.pod["spec"]["topologySpreadConstraints"].as_array();
    // The server takes a key and an action once.
    if constraints.into_iter().flatten().any(|one| one["topologyKey"] == key && one["whenUnsatisfiable"] == when) {
        return false;
    }
    let mut constraint = json!({"topologyKey": key, "maxSkew": skew, "whenUnsatisfiable": when,
                                "labelSelector": alike(world, draft)});
    for (field, value) in more {
        constraint[*field] = value.clone();
    }
    push(&mut draft.pod["spec"]["topologySpreadConstraints"], constraint);
    true
}

const MUST: &str = "DoNotSchedule";
const SHOULD: &str = "ScheduleAnyway";

fn spread_do_not_schedule(world: &mut World, draft: &mut Draft) -> bool {
    let (key, skew) = (world.pick(&[HOSTNAME, ZONE, RACK]), world.rng.u8(1..=4));
    spread(world, draft, key, skew, MUST, &[])
}

fn spread_schedule_anyway(world: &mut World, draft: &mut Draft) -> bool {
    let (key, skew) = (world.pick(&[HOSTNAME, ZONE, RACK]), world.rng.u8(1..=3));
    spread(world, draft, key, skew, SHOULD, &[])
}

fn spread_min_domains(world: &mut World, draft: &mut Draft) -> bool {
    let (domains, skew) = (world.rng.u8(2..=4), world.rng.u8(1..=8));
    spread(world, draft, ZONE, skew, MUST, &[("minDomains", json!(domains))])
}

fn spread_node_affinity_policy(world: &mut World, draft: &mut Draft) -> bool {
    let (policy, when, key) = (world.pick(&["Honor", "Ignore"]), world.pick(&[MUST, SHOULD]), world.pick(&[HOSTNAME, ZONE]));
    let skew = world.rng.u8(1..=4);
    node_selector(world, draft);
    spread(world, draft, key, skew, when, &[("nodeAffinityPolicy", json!(policy))])
}

fn spread_node_taints_policy(world: &mut World, draft: &mut Draft) -> bool {
    let (policy, when, key) =
        (world.pick(&["Honor", "Honor", "Ignore"]), world.pick(&[MUST, SHOULD]), world.pick(&[HOSTNAME, ZONE]));
    let skew = world.rng.u8(1..=4);
    spread(world, draft, key, skew, when, &[("nodeTaintsPolicy", json!(policy))])
}

fn spread_match_label_keys(world: &mut World, draft: &mut Draft) -> bool {
    let (when, key, skew) = (world.pick(&[MUST, SHOULD]), world.pick(&[HOSTNAME, ZONE, RACK]), world.rng.u8(1..=3));
    spread(world, draft, key, skew, when, &[("matchLabelKeys", json!(["pod-template-hash"]))])
}

fn spread_several(world: &mut World, draft: &mut Draft) -> bool {
    let skew = world.rng.u8(1..=4);
    spread(world, draft, HOSTNAME, skew + 1, MUST, &[])
        | spread(world, draft, ZONE, skew, MUST, &[])
        | spread(world, draft, RACK, skew, SHOULD, &[])
}

// Resources.

/// A share of what the average pod asks for.
fn share(world: &mut World, tenths: i64) -> Amounts {
    let factor = world.rng.i64(1..=tenths);
    Amounts { cpu: world.mean.cpu * factor / 10, memory: world.mean.memory * factor / 10, ..Amounts::default() }
}

fn container(world: &mut World, draft: &mut Draft, list: &str, name: &str, always: bool) -> bool {
    let amounts = share(world, 15);
    draft.add(amounts);
    let number = draft.pod["spec"][list].as_array().map_or(0, Vec::len);
    let mut container = json!({"name": format!("{name}-{number}"), "image": "registry.example.com/api:v1",
                               "resources": {"requests": requests(amounts)}});
    if always {
        container["restartPolicy"] = json!("Always");
    }
    push(&mut draft.pod["spec"][list], container);
    true
}

fn init_container(world: &mut World, draft: &mut Draft) -> bool {
    container(world, draft, "initContainers", "init", false)
}

fn sidecar(world: &mut World, draft: &mut Draft) -> bool {
    container(world, draft, "initContainers", "sidecar", true) && (world.chance(50) || init_container(world, draft))
}

fn several_containers(world: &mut World, draft: &mut Draft) -> bool {
    container(world, draft, "containers", "more", false)
}

fn container_without_requests(_: &mut World, draft: &mut Draft) -> bool {
    push(&mut draft.pod["spec"]["containers"], json!({"name": "plain", "image": "registry.example.com/db:v1"}));
    true
}

fn overhead(_: &mut World, draft: &mut Draft) -> bool {
    if draft.pod["spec"]["runtimeClassName"].is_string() {
        return false;
    }
    draft.pod["spec"]["runtimeClassName"] = json!("kata");
    draft.add(Amounts { cpu: 250, memory: 160 * MIB, ..Amounts::default() });
    true
}

fn runtime_node_selector(_: &mut World, draft: &mut Draft) -> bool {
    if draft.pod["spec"]["runtimeClassName"].is_string() {
        return false;
    }
    draft.pod["spec"]["runtimeClassName"] = json!("gvisor");
    true
}

/// Requests of the pod as a whole: never less than its containers ask for.
fn pod_level_resources(world: &mut World, draft: &mut Draft) -> bool {
    if draft.pod["spec"]["resources"].is_object() {
        return false;
    }
    draft.add(share(world, 8));
    draft.pod["spec"]["resources"] = json!({});
    true
}

fn extended_resource(world: &mut World, draft: &mut Draft) -> bool {
    let count = world.pick(&[1, 1, 1, 2]);
    if world.hosts[draft.host].gpus < count {
        // The pod is meant for a node that has some.
        let Some(host) = (0..world.hosts.len()).find(|host| world.hosts[*host].free.gpus >= count) else { return false };
        if draft.bound && !draft.features.is_empty() {
            return false;
        }
        draft.host = host;
    }
    draft.add(Amounts { gpus: count, ..Amounts::default() });
    for kind in ["requests", "limits"] {
        draft.pod["spec"]["containers"][0]["resources"][kind][GPU] = json!(count.to_string());
    }
    true
}

// Volumes.

/// Lets the pod use a claim.
fn mount(draft: &mut Draft, claim: &str) {
    let number = draft.pod["spec"]["volumes"].as_array().map_or(0, Vec::len);
    push(
        &mut draft.pod["spec"]["volumes"],
        json!({"name": format!("data-{number}"), "persistentVolumeClaim": {"claimName": claim}}),
    );
}

/// A claim of the pod's namespace, unbound.
fn claim(world: &mut World, draft: &Draft, class: &str, gibibytes: i64, mode: &str) -> (String, Value) {
    world.volumes += 1;
    let name = format!("claim-{:03}", world.volumes);
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name, "namespace": draft.namespace},
        "spec": {"accessModes": [mode], "storageClassName": class, "resources": {"requests": {"storage": format!("{gibibytes}Gi")}}},
        "status": {"phase": "Pending"},
    });
    (name, claim)
}

/// Marks a claim as bound to a volume.
fn bind(claim: &mut Value, volume: &str, phase: &str) {
    claim["metadata"]["annotations"] =
        json!({"pv.kubernetes.io/bind-completed": "yes", "pv.kubernetes.io/bound-by-controller": "yes"});
    claim["spec"]["volumeName"] = json!(volume);
    claim["status"] = json!({"phase": phase});
    if phase == "Bound" {
        claim["status"]["accessModes"] = claim["spec"]["accessModes"].clone();
        claim["status"]["capacity"] = claim["spec"]["resources"]["requests"].clone();
    }
}

/// Terms that keep a volume where these labels are.
fn reachable(labels: &[(&str, String)]) -> Value {
    let expressions: Vec<Value> = labels.iter().map(|(key, value)| expression(key, "In", std::slice::from_ref(value))).collect();
    json!({"required": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}})
}

/// A claim with its volume, both bound, that the pod uses.
fn bound(world: &mut World, draft: &mut Draft, class: &str, driver: &str, keys: &[&'static str], mode: &str) -> Option<String> {
    let labels: Vec<(&str, String)> =
        keys.iter().filter_map(|key| Some((*key, world.hosts[draft.host].label(key)?.to_owned()))).collect();
    if labels.len() < keys.len() {
        return None;
    }
    let size = world.pick(&[1, 5, 8, 20]);
    let (name, mut claim) = claim(world, draft, class, size, mode);
    let volume = format!("pv-{name}");
    bind(&mut claim, &volume, "Bound");
    let mut object = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume},
        "spec": {
            "capacity": claim["spec"]["resources"]["requests"], "accessModes": [mode], "storageClassName": class,
            "persistentVolumeReclaimPolicy": "Delete",
            "csi": {"driver": driver, "volumeHandle": format!("cluster-1/pve-1/local-lvm/vm-9999-{volume}")},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": draft.namespace, "name": name},
        },
        "status": {"phase": "Bound"},
    });
    if !labels.is_empty() {
        object["spec"]["nodeAffinity"] = reachable(&labels);
    }
    world.objects.extend([claim, object]);
    mount(draft, &name);
    draft.volumes[usize::from(driver == TOPOLVM)] += 1;
    if draft.bound {
        world.claims.push(Claim {
            namespace: draft.namespace.clone(),
            name: name.clone(),
            host: draft.host,
            once_pod: mode == "ReadWriteOncePod",
        });
    }
    Some(volume)
}

fn volume_zoned(world: &mut World, draft: &mut Draft) -> bool {
    bound(world, draft, "proxmox", PROXMOX, &[REGION, ZONE], "ReadWriteOnce").is_some()
}

/// The volume of a pod that is gone.
pub(super) fn unused_volume(world: &mut World, draft: &mut Draft) {
    volume_zoned(world, draft);
}

fn volume_regional(world: &mut World, draft: &mut Draft) -> bool {
    bound(world, draft, "proxmox", PROXMOX, &[REGION], "ReadWriteOnce").is_some()
}

fn volume_second_driver(world: &mut World, draft: &mut Draft) -> bool {
    bound(world, draft, "topolvm", TOPOLVM, &[TOPOLVM_NODE], "ReadWriteOnce").is_some()
}

fn volume_several(world: &mut World, draft: &mut Draft) -> bool {
    let count = world.rng.usize(2..=4);
    (0..count).all(|_| volume_zoned(world, draft))
}

/// A volume whose label names its zone, as older plugins made them.
fn volume_zone_label(world: &mut World, draft: &mut Draft) -> bool {
    let Some(zone) = world.hosts[draft.host].label(ZONE).map(str::to_owned) else { return false };
    let Some(volume) = bound(world, draft, "proxmox", PROXMOX, &[], "ReadWriteOnce") else { return false };
    for object in world.objects.iter_mut().rev().take(1).filter(|object| object["metadata"]["name"] == volume) {
        object["metadata"]["labels"] = json!({ZONE: zone});
    }
    true
}

/// A volume on a node's own disk; free to be claimed unless a claim is named.
pub(super) fn local_volume(world: &mut World, host: usize, gibibytes: i64, claim: Option<(&str, &str)>) -> String {
    world.volumes += 1;
    let (name, node) = (format!("local-{:03}", world.volumes), world.hosts[host].name.clone());
    let mut volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": format!("{gibibytes}Gi")}, "accessModes": ["ReadWriteOnce"], "storageClassName": "local",
            "persistentVolumeReclaimPolicy": "Retain", "local": {"path": format!("/mnt/{name}")},
            "nodeAffinity": reachable(&[(HOSTNAME, node)]),
        },
        "status": {"phase": if claim.is_some() { "Bound" } else { "Available" }},
    });
    if let Some((namespace, name)) = claim {
        volume["spec"]["claimRef"] =
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name});
    }
    world.objects.push(volume);
    name
}

fn volume_local(world: &mut World, draft: &mut Draft) -> bool {
    let (name, mut claim) = claim(world, draft, "local", 10, "ReadWriteOnce");
    let volume = local_volume(world, draft.host, 10, Some((&draft.namespace, &name)));
    bind(&mut claim, &volume, "Bound");
    world.objects.push(claim);
    mount(draft, &name);
    true
}

/// Uses a claim that another pod uses already.
fn share_claim(world: &mut World, draft: &mut Draft, once_pod: bool) -> bool {
    let usable = |claim: &&Claim| {
        claim.once_pod == once_pod
            && if draft.bound {
                claim.host == draft.host && claim.namespace == draft.namespace
            } else {
                claim.namespace == draft.namespace || !draft.owned && draft.pod["spec"]["volumes"].is_null()
            }
    };
    let claims: Vec<Claim> = world.claims.iter().filter(usable).cloned().collect();
    if claims.is_empty() {
        return false;
    }
    let claim = world.pick(&claims);
    draft.pod["metadata"]["namespace"] = json!(claim.namespace);
    draft.namespace = claim.namespace;
    mount(draft, &claim.name);
    true
}

fn volume_shared(world: &mut World, draft: &mut Draft) -> bool {
    share_claim(world, draft, false)
}

/// A volume for one pod alone; a pod that is still to come finds it taken.
fn volume_once_pod(world: &mut World, draft: &mut Draft) -> bool {
    let taken = !draft.bound && share_claim(world, draft, true);
    taken || bound(world, draft, "proxmox", PROXMOX, &[REGION, ZONE], "ReadWriteOncePod").is_some()
}

/// A claim without a volume, of a pod that is still to come.
fn unbound(world: &mut World, draft: &mut Draft, class: &str, gibibytes: i64) -> bool {
    if draft.bound {
        return false;
    }
    let (name, claim) = claim(world, draft, class, gibibytes, "ReadWriteOnce");
    world.objects.push(claim);
    mount(draft, &name);
    true
}

fn claim_waits(world: &mut World, draft: &mut Draft) -> bool {
    unbound(world, draft, "proxmox", 5)
}

fn claim_allowed_topologies(world: &mut World, draft: &mut Draft) -> bool {
    unbound(world, draft, "proxmox-zoned", 5)
}

fn claim_storage_capacity(world: &mut World, draft: &mut Draft) -> bool {
    let size = world.rng.i64(1..50);
    unbound(world, draft, "topolvm", size)
}

fn claim_static_local(world: &mut World, draft: &mut Draft) -> bool {
    let size = world.pick(&[5, 15, 40]);
    unbound(world, draft, "local", size)
}

fn claim_immediate(world: &mut World, draft: &mut Draft) -> bool {
    unbound(world, draft, "proxmox-now", 5)
}

fn claim_missing(_: &mut World, draft: &mut Draft) -> bool {
    if draft.bound {
        return false;
    }
    mount(draft, "absent");
    true
}

/// A claim whose volume is gone.
fn claim_lost(world: &mut World, draft: &mut Draft) -> bool {
    if draft.bound {
        return false;
    }
    let (name, mut claim) = claim(world, draft, "proxmox", 5, "ReadWriteOnce");
    bind(&mut claim, &format!("pv-gone-{name}"), "Lost");
    world.objects.push(claim);
    mount(draft, &name);
    true
}

/// A disk that is named in the pod itself and that no other pod of the node may use.
fn inline_disk(world: &mut World, draft: &mut Draft) -> bool {
    let number = world.rng.u8(0..3);
    let volume = json!({"name": "disk", "iscsi": {"targetPortal": "192.0.2.20:3260", "iqn": format!("iqn.2026-01.com.example:disk-{number}"),
                                                  "lun": 0, "fsType": "ext4"}});
    push(&mut draft.pod["spec"]["volumes"], volume);
    true
}

// Priorities.

fn priority(draft: &mut Draft, class: &str) -> bool {
    if draft.pod["spec"]["priorityClassName"].is_string() {
        return false;
    }
    draft.pod["spec"]["priorityClassName"] = json!(class);
    true
}

fn priority_low(_: &mut World, draft: &mut Draft) -> bool {
    priority(draft, "low")
}

fn priority_medium(_: &mut World, draft: &mut Draft) -> bool {
    priority(draft, "medium")
}

fn priority_high(_: &mut World, draft: &mut Draft) -> bool {
    // Where all are high there is nobody to preempt.
    !draft.bound && priority(draft, "high")
}

fn priority_never(_: &mut World, draft: &mut Draft) -> bool {
    !draft.bound && priority(draft, "high-never")
}

fn scheduling_gate(world: &mut World, draft: &mut Draft) -> bool {
    if draft.bound {
        return false;
    }
    let gate = world.pick(&["example.com/quota", "example.com/backup"]);
    draft.pod["spec"]["schedulingGates"] = json!([{"name": gate}]);
    true
}
