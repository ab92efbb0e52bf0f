//! What the real scheduler does with a world: submit pods, drain or lose a node, and read where
//! everything went, or why not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use capplan_model::Snapshot;
use serde_json::{Value, json};

use crate::kube::{Api, Call};
use crate::plant::MissingOwners;
use crate::{Failure, Rig, elements, objects, text};

/// How long the world must not change before it counts as settled.
const QUIET: Duration = Duration::from_millis(400);
const POLL: Duration = Duration::from_millis(50);

/// A change of the world.
#[derive(Clone, Debug)]
pub enum Move {
    /// Creates these pods, one after the other, as they are.
    Submit(Vec<Value>),
    /// Marks a node unschedulable.
    Cordon(String),
    /// Cordons a node and evicts its pods through the eviction API, in the order of their names. A pod
    /// of a controller that does not run is submitted again, as its controller would.
    Drain(String),
    /// The node is gone: it is tainted as the node controller does, its pods are deleted and
    /// submitted again.
    Lose(String),
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// On this node.
    Bound(String),
    /// The scheduler found no node; its own words, such as
    /// `0/6 nodes are available: 1 node(s) exceed max volume count, …`.
    Unschedulable(String),
    /// Not looked at by the scheduler: a scheduling gate, or another scheduler's pod.
    Waiting,
}

/// The world after a change.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    /// Every pod that is not terminal, by `namespace/name`.
    pub pods: BTreeMap<String, Fate>,
    /// Pods that an eviction was refused for, with the server's words.
    pub refused: BTreeMap<String, String>,
}

pub(crate) fn full_name(pod: &Value) -> String {
    format!("{}/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name"))
}

fn is_terminal(pod: &Value) -> bool {
    ["Succeeded", "Failed"].contains(&text(pod, "/status/phase"))
}

fn fate(pod: &Value) -> Option<Fate> {
    let node = text(pod, "/spec/nodeName");
    if !node.is_empty() {
        return Some(Fate::Bound(node.to_owned()));
    }
    if text(pod, "/spec/schedulerName") != "default-scheduler" {
        return Some(Fate::Waiting);
    }
    let scheduled = pod["status"]["conditions"].as_array()?.iter().find(|one| one["type"] == "PodScheduled")?;
    match scheduled["reason"].as_str() {
        Some("SchedulingGated") => Some(Fate::Waiting),
        // A victim is still to leave the nominated node.
        _ if !text(pod, "/status/nominatedNodeName").is_empty() => None,
        _ => Some(Fate::Unschedulable(text(scheduled, "/message").to_owned())),
    }
}

/// Loads a snapshot into a control plane of its own, makes the changes, and answers where everything is
/// and why the rest is nowhere.
///
/// # Errors
/// The rig does not come up, or as [`play`].
pub fn of(snapshot: &Snapshot, moves: &[Move], patience: Duration) -> Result<Placement, Failure> {
    let mut rig = Rig::start()?;
    rig.plant(objects::of(snapshot), MissingOwners::Drop)?;
    rig.start_scheduler()?;
    play(rig.api(), moves, patience)
}

/// Makes the changes, waits until the world is settled, and reads it.
///
/// # Errors
/// The server refuses, or the world does not settle in time.
pub fn play(api: &Api, moves: &[Move], patience: Duration) -> Result<Placement, Failure> {
    let mut refused = BTreeMap::new();
    for one in moves {
        match one {
            Move::Submit(pods) => {
                for pod in pods {
                    submit(api, pod)?;
                }
            }
            Move::Cordon(node) => cordon(api, node)?,
            Move::Drain(node) => {
                cordon(api, node)?;
                for pod in pods_of(api, node)? {
                    if let Err(why) = evict(api, &pod) {
                        refused.insert(full_name(&pod), why.to_string());
                    } else {
                        submit(api, &again(&pod))?;
                    }
                }
            }
            Move::Lose(node) => lose(api, node)?,
        }
    }
    Ok(Placement { pods: settle(api, patience)?, refused })
}

fn submit(api: &Api, pod: &Value) -> Result<(), Failure> {
    let namespace = text(pod, "/metadata/namespace");
    api.call(Call::post(format!("/api/v1/namespaces/{namespace}/pods"), pod.clone())).map(drop)
}

fn cordon(api: &Api, node: &str) -> Result<(), Failure> {
    api.call(Call::patch(format!("/api/v1/nodes/{node}"), json!({"spec": {"unschedulable": true}}))).map(drop)
}

/// The pods of a node that a drain moves: no finished ones, none of DaemonSets, no mirrors.
pub(crate) fn pods_of(api: &Api, node: &str) -> Result<Vec<Value>, Failure> {
    let mut pods = api.list(&format!("/api/v1/pods?fieldSelector=spec.nodeName={node}"))?;
    pods.retain(|pod| {
        let owner = text(pod, "/metadata/ownerReferences/0/kind");
        !is_terminal(pod) && !["DaemonSet", "Node"].contains(&owner)
    });
    pods.sort_by_key(full_name);
    Ok(pods)
}

pub(crate) fn pod_path(pod: &Value) -> String {
    format!("/api/v1/namespaces/{}/pods/{}", text(pod, "/metadata/namespace"), text(pod, "/metadata/name"))
}

fn evict(api: &Api, pod: &Value) -> Result<(), Failure> {
    let eviction = json!({
        "apiVersion": "policy/v1", "kind": "Eviction",
        "metadata": {"namespace": text(pod, "/metadata/namespace"), "name": text(pod, "/metadata/name")},
        "deleteOptions": {"gracePeriodSeconds": 0},
    });
    api.call(Call::post(format!("{}/eviction", pod_path(pod)), eviction)).map(drop)
}

/// The pod as its controller would make it once more, under a new name.
fn again(pod: &Value) -> Value {
    let mut metadata = json!({
        "namespace": pod["metadata"]["namespace"],
        "name": format!("{}-again", text(pod, "/metadata/name")),
        "labels": pod["metadata"]["labels"],
        "ownerReferences": pod["metadata"]["ownerReferences"],
    });
    if metadata["ownerReferences"].is_null() {
        metadata["ownerReferences"] = json!([]);
    }
    let mut spec = pod["spec"].clone();
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("nodeName");
        // Admission works it out from the class.
        fields.remove("priority");
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

fn lose(api: &Api, node: &str) -> Result<(), Failure> {
    let path = format!("/api/v1/nodes/{node}");
    let mut taints = elements(api.get(&path)?["spec"]["taints"].take()).unwrap_or_default();
    // What the node controller adds once a node is silent for the grace period.
    for effect in ["NoSchedule", "NoExecute"] {
        taints.push(json!({"key": "node.kubernetes.io/unreachable", "effect": effect}));
    }
    api.call(Call::patch(&path, json!({"spec": {"taints": taints}})))?;
    let pods = pods_of(api, node)?;
    for pod in &pods {
        api.call(Call::delete(format!("{}?gracePeriodSeconds=0", pod_path(pod))))?;
    }
    pods.iter().try_for_each(|pod| submit(api, &again(pod)))
}

/// Waits until the scheduler has looked at every pod and nothing changes any more.
fn settle(api: &Api, patience: Duration) -> Result<BTreeMap<String, Fate>, Failure> {
    let start = Instant::now();
    let mut last = (Instant::now(), BTreeMap::new());
    loop {
        provision(api)?;
        let pods = api.list("/api/v1/pods")?;
        let open: Vec<&Value> = pods.iter().filter(|pod| !is_terminal(pod)).collect();
        let fates: BTreeMap<String, Option<Fate>> = open.iter().map(|pod| (full_name(pod), fate(pod))).collect();
        if fates != last.1 {
            last = (Instant::now(), fates);
        } else if last.1.values().all(Option::is_some) && last.0.elapsed() > QUIET {
            return Ok(last.1.into_iter().filter_map(|(name, fate)| Some((name, fate?))).collect());
        }
        if start.elapsed() > patience {
            let undecided: Vec<&String> = last.1.iter().filter(|(_, fate)| fate.is_none()).map(|(name, _)| name).collect();
            return Err(Failure::new(format!("not settled after {} s; undecided: {undecided:?}", patience.as_secs())));
        }
        std::thread::sleep(POLL);
    }
}

/// Plays the provisioners: once the scheduler has chosen a node for a claim that waits for its first
/// consumer, a volume of that node's topology appears and is bound.
fn provision(api: &Api) -> Result<(), Failure> {
    for claim in api.list("/api/v1/persistentvolumeclaims")? {
        provision_for(api, &claim)?;
    }
    Ok(())
}

/// Drivers whose volumes are provisioned, and the labels of nodes that their volumes keep to.
const TOPOLOGIES: [(&str, &[&str]); 2] = [
    ("csi.proxmox.sinextra.dev", &["topology.kubernetes.io/region", "topology.kubernetes.io/zone"]),
    ("topolvm.io", &["topology.topolvm.io/node"]),
];

/// Makes the volume of a claim if the scheduler has chosen its node. A label that the node lacks binds
/// the volume to nothing.
///
/// # Errors
/// The API refuses.
pub fn provision_for(api: &Api, claim: &Value) -> Result<(), Failure> {
    const NODE: &str = "/metadata/annotations/volume.kubernetes.io~1selected-node";
    let (node, uid) = (text(claim, NODE), text(claim, "/metadata/uid"));
    let class = text(claim, "/spec/storageClassName");
    if node.is_empty() || !text(claim, "/spec/volumeName").is_empty() || class.is_empty() {
        return Ok(());
    }
    let class = api.get(&format!("/apis/storage.k8s.io/v1/storageclasses/{class}"))?;
    let Some((driver, keys)) = TOPOLOGIES.iter().find(|(driver, _)| text(&class, "/provisioner") == *driver) else {
        return Ok(());
    };
    let name = format!("pvc-{uid}");
    if api.get(&format!("/api/v1/persistentvolumes/{name}")).is_ok() {
        return Ok(());
    }
    let labels = api.get(&format!("/api/v1/nodes/{node}"))?["metadata"]["labels"].take();
    let reachable: Vec<Value> = keys
        .iter()
        .filter(|key| labels[**key].is_string())
        .map(|key| json!({"key": key, "operator": "In", "values": [labels[*key]]}))
        .collect();
    let place = |key: &str| labels[key].as_str().unwrap_or("pve").to_owned();
    let (region, zone) = (place("topology.kubernetes.io/region"), place("topology.kubernetes.io/zone"));
    let storage = class["parameters"]["storage"].as_str().unwrap_or("local-lvm");
    let mut volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "capacity": claim["spec"]["resources"]["requests"], "accessModes": claim["spec"]["accessModes"],
            "storageClassName": class["metadata"]["name"], "persistentVolumeReclaimPolicy": class["reclaimPolicy"],
            "csi": {"driver": driver, "volumeHandle": format!("{region}/{zone}/{storage}/vm-9999-{name}")},
            "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim["metadata"]["namespace"],
                         "name": claim["metadata"]["name"], "uid": uid},
        },
    });
    if !reachable.is_empty() {
        volume["spec"]["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": reachable}]}});
    }
    api.call(Call::post("/api/v1/persistentvolumes", volume)).map(drop)
}
