//! Puts a recorded cluster into a real API server, through the API and its validation.
//!
//! The server gives every object a new UID and creation time; owner references, claims and volumes
//! are pointed to the new UIDs. The controllers should not run yet: a ReplicaSet whose pods are
//! still to come would make some.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use crate::kube::{Api, Call};
use crate::{Failure, failure, text};

/// How the API names a kind.
struct Kind {
    kind: &'static str,
    /// Path of its group and version.
    group: &'static str,
    plural: &'static str,
    namespaced: bool,
    /// Whether its status is written by itself.
    status: bool,
}

const fn kind(kind: &'static str, group: &'static str, plural: &'static str, namespaced: bool, status: bool) -> Kind {
    Kind { kind, group, plural, namespaced, status }
}

/// In the order in which they are planted: what others point to comes first.
const KINDS: [Kind; 28] = [
    kind("Namespace", "/api/v1", "namespaces", false, false),
    kind("ServiceAccount", "/api/v1", "serviceaccounts", true, false),
    kind("ClusterRole", "/apis/rbac.authorization.k8s.io/v1", "clusterroles", false, false),
    kind("ClusterRoleBinding", "/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings", false, false),
    kind("Role", "/apis/rbac.authorization.k8s.io/v1", "roles", true, false),
    kind("RoleBinding", "/apis/rbac.authorization.k8s.io/v1", "rolebindings", true, false),
    kind("PriorityClass", "/apis/scheduling.k8s.io/v1", "priorityclasses", false, false),
    kind("RuntimeClass", "/apis/node.k8s.io/v1", "runtimeclasses", false, false),
    kind("StorageClass", "/apis/storage.k8s.io/v1", "storageclasses", false, false),
    kind("CSIDriver", "/apis/storage.k8s.io/v1", "csidrivers", false, false),
    kind("Node", "/api/v1", "nodes", false, true),
    kind("CSINode", "/apis/storage.k8s.io/v1", "csinodes", false, false),
    kind("Lease", "/apis/coordination.k8s.io/v1", "leases", true, false),
    kind("PersistentVolumeClaim", "/api/v1", "persistentvolumeclaims", true, true),
    kind("PersistentVolume", "/api/v1", "persistentvolumes", false, true),
    kind("CSIStorageCapacity", "/apis/storage.k8s.io/v1", "csistoragecapacities", true, false),
    kind("Service", "/api/v1", "services", true, false),
    kind("PodDisruptionBudget", "/apis/policy/v1", "poddisruptionbudgets", true, true),
    kind("CronJob", "/apis/batch/v1", "cronjobs", true, false),
    kind("Job", "/apis/batch/v1", "jobs", true, false),
    kind("Deployment", "/apis/apps/v1", "deployments", true, true),
    kind("StatefulSet", "/apis/apps/v1", "statefulsets", true, true),
    kind("DaemonSet", "/apis/apps/v1", "daemonsets", true, true),
    kind("ReplicaSet", "/apis/apps/v1", "replicasets", true, true),
    kind("Pod", "/api/v1", "pods", true, true),
    kind("VolumeAttachment", "/apis/storage.k8s.io/v1", "volumeattachments", false, true),
    kind("Event", "/api/v1", "events", true, false),
    kind("NodeMetrics", "/apis/metrics.k8s.io/v1beta1", "nodes", false, false),
];

/// What becomes of an owner reference whose owner is not part of the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingOwners {
    /// It stays; the garbage collector, if it runs, deletes the object.
    Keep,
    /// It is dropped.
    Drop,
}

impl Kind {
    fn collection(&self, namespace: &str) -> String {
        if self.namespaced {
            format!("{}/namespaces/{namespace}/{}", self.group, self.plural)
        } else {
            format!("{}/{}", self.group, self.plural)
        }
    }
}

/// The objects of a recording: each `*.json` of a folder that is a `List`.
///
/// # Errors
/// The folder or a file cannot be read.
pub fn recorded(folder: &Path) -> Result<Vec<Value>, Failure> {
    let entries = std::fs::read_dir(folder).map_err(failure(format!("cannot list {}", folder.display())))?;
    let mut objects = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json")) {
        let text = std::fs::read(&path).map_err(failure(format!("cannot read {}", path.display())))?;
        let mut list: Value = serde_json::from_slice(&text).map_err(failure(format!("{} is no JSON", path.display())))?;
        if list["kind"].as_str().is_some_and(|kind| kind.ends_with("List"))
            && let Value::Array(items) = list["items"].take()
        {
            objects.extend(items);
        }
    }
    Ok(objects)
}

/// Identity of an object across servers.
type Name = (String, String, String);

fn name_of(object: &Value) -> Name {
    (text(object, "/kind").to_owned(), text(object, "/metadata/namespace").to_owned(), text(object, "/metadata/name").to_owned())
}

/// Plants the objects and answers how many.
///
/// # Errors
/// The server refuses one: a recording that the real API would not take is no recording.
pub fn plant(api: &Api, objects: Vec<Value>, missing: MissingOwners) -> Result<usize, Failure> {
    let mut by_kind: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let accounts = accounts(&objects);
    let namespaces = namespaces(&objects);
    for object in objects.into_iter().chain(namespaces).chain(accounts) {
        by_kind.entry(text(&object, "/kind").to_owned()).or_default().push(object);
    }
    if let Some(unknown) = by_kind.keys().find(|name| KINDS.iter().all(|kind| kind.kind != *name)) {
        return Err(Failure::new(format!("the rig does not know how to plant a {unknown}")));
    }
    let mut uids = existing(api)?;
    let mut planted = 0;
    for kind in &KINDS {
        let Some(objects) = by_kind.remove(kind.kind) else { continue };
        if kind.kind == "NodeMetrics" {
            serve(api, kind)?;
        }
        planted += objects.len();
        plant_kind(api, kind, objects, &mut uids, missing)?;
    }
    Ok(planted)
}

/// UIDs of what is there already: system namespaces and priority classes, accounts of an earlier call.
fn existing(api: &Api) -> Result<BTreeMap<Name, String>, Failure> {
    let mut uids = BTreeMap::new();
    for kind in KINDS.iter().filter(|kind| ["Namespace", "PriorityClass", "ServiceAccount"].contains(&kind.kind)) {
        for object in api.list(&format!("{}/{}", kind.group, kind.plural))? {
            let name = |pointer: &str| text(&object, pointer).to_owned();
            uids.insert((kind.kind.to_owned(), name("/metadata/namespace"), name("/metadata/name")), name("/metadata/uid"));
        }
    }
    Ok(uids)
}

/// Accounts the pods run under, and each namespace's default one: admission refuses a pod whose
/// account is missing, and the controller that makes the default ones does not run yet.
fn accounts(objects: &[Value]) -> Vec<Value> {
    let mut names: BTreeSet<(&str, &str)> = BTreeSet::from([("default", "default")]);
    for object in objects {
        let (kind, namespace) = (text(object, "/kind"), text(object, "/metadata/namespace"));
        match (kind, text(object, "/spec/serviceAccountName")) {
            ("Namespace", _) => {
                names.insert((text(object, "/metadata/name"), "default"));
            }
            ("Pod", account) if !account.is_empty() => {
                names.insert((namespace, account));
            }
            _ if !namespace.is_empty() => {
                names.insert((namespace, "default"));
            }
            _ => {}
        }
    }
    let object = |(namespace, name)| json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": namespace, "name": name}});
    names.into_iter().map(object).collect()
}

/// Namespaces that objects are in and that the world does not bring along.
fn namespaces(objects: &[Value]) -> Vec<Value> {
    let used: BTreeSet<&str> =
        objects.iter().map(|object| text(object, "/metadata/namespace")).filter(|name| !name.is_empty()).collect();
    let known: BTreeSet<&str> = objects
        .iter()
        .filter(|object| text(object, "/kind") == "Namespace")
        .map(|object| text(object, "/metadata/name"))
        .collect();
    used.difference(&known).map(|name| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})).collect()
}

fn plant_kind(
    api: &Api,
    kind: &Kind,
    objects: Vec<Value>,
    uids: &mut BTreeMap<Name, String>,
    missing: MissingOwners,
) -> Result<(), Failure> {
    let mut creations = Vec::new();
    let mut after = Vec::new();
    let mut created = Vec::new();
    for mut object in objects {
        let name = name_of(&object);
        let path = format!("{}/{}", kind.collection(&name.1), name.2);
        let status = with_time_of_eviction(object["status"].take(), &object);
        if kind.status && status.is_object() {
            after.push(Call::patch(format!("{path}/status"), json!({"status": fit_status(kind, status, &object)})));
        }
        if kind.kind == "Node" {
            // Admission taints every new node; the recorded taints are what stands.
            after.push(Call::patch(&path, json!({"spec": {"taints": object["spec"]["taints"]}})));
        }
        if !text(&object, "/metadata/deletionTimestamp").is_empty() {
            after.push(Call::delete(&path));
        }
        let stripped = strip(kind, object, uids, missing);
        if uids.contains_key(&name) {
            after.push(Call::patch(path, json!({"metadata": {"labels": stripped["metadata"]["labels"]}})));
        } else {
            creations.push(Call::post(kind.collection(&name.1), stripped));
            created.push(name);
        }
    }
    for (name, answer) in created.into_iter().zip(api.create_all(creations)?) {
        uids.insert(name, text(&answer, "/metadata/uid").to_owned());
    }
    api.call_all(after).map(drop)
}

/// What tests make besides what is planted.
const MADE: [Kind; 3] = [
    kind("Secret", "/api/v1", "secrets", true, false),
    kind("CertificateSigningRequest", "/apis/certificates.k8s.io/v1", "certificatesigningrequests", false, false),
    kind("CustomResourceDefinition", "/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", false, false),
];

/// Paths of all objects of the kinds that the rig and its tests make, in the order in which they are planted.
pub fn paths(api: &Api) -> Vec<String> {
    let mut paths = Vec::new();
    for kind in KINDS.iter().chain(&MADE) {
        // A kind that is not served has no objects.
        for object in api.list(&format!("{}/{}", kind.group, kind.plural)).unwrap_or_default() {
            let (namespace, name) = (text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
            // The controllers keep accounts and secrets of their own there.
            let ours = ["capplan", "bootstrap-token-"].iter().any(|start| name.starts_with(start));
            if namespace != "kube-system" || ours {
                paths.push(format!("{}/{name}", kind.collection(namespace)));
            }
        }
    }
    paths
}

/// Takes out everything that was not there `before`, the last first, without waiting for anybody's
/// finalizer, and waits until it is gone.
pub fn uproot(api: &Api, before: &[String]) {
    let before: BTreeSet<&String> = before.iter().collect();
    let start = Instant::now();
    loop {
        let new: Vec<String> = paths(api).into_iter().filter(|path| !before.contains(path)).collect();
        if new.is_empty() || start.elapsed() > Duration::from_secs(60) {
            return;
        }
        for path in new.iter().rev() {
            // What went with its namespace or its owner needs no more.
            drop(api.call(Call::delete(format!("{path}?gracePeriodSeconds=0"))));
            drop(api.call(Call::patch(path, json!({"metadata": {"finalizers": null}}))));
        }
    }
}

/// What a client may send: without the fields that are the server's, with the new UIDs.
fn strip(kind: &Kind, mut object: Value, uids: &BTreeMap<Name, String>, missing: MissingOwners) -> Value {
    let namespace = text(&object, "/metadata/namespace").to_owned();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for field in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "generation",
            "managedFields",
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generateName",
        ] {
            metadata.remove(field);
        }
        if let Some(Value::Array(owners)) = metadata.get_mut("ownerReferences") {
            owners.retain_mut(|owner| {
                let name =
                    |namespace: &str| (text(owner, "/kind").to_owned(), namespace.to_owned(), text(owner, "/name").to_owned());
                let uid = uids.get(&name(&namespace)).or_else(|| uids.get(&name("")));
                let found = uid.is_some();
                if let Some(uid) = uid.cloned() {
                    owner["uid"] = json!(uid);
                }
                found || missing == MissingOwners::Keep
            });
        }
    }
    let is_mirror = object["metadata"]["annotations"]["kubernetes.io/config.mirror"].is_string();
    let spec = object["spec"].as_object_mut();
    match (kind.kind, spec) {
        ("PersistentVolume", Some(spec)) => {
            if let Some(Value::Object(claim)) = spec.get_mut("claimRef") {
                point(claim, uids);
            }
        }
        ("Pod", Some(spec)) => {
            // Admission works it out from the class.
            spec.remove("priority");
            if is_mirror {
                // The server refuses a mirror pod with an account.
                spec.remove("serviceAccount");
                spec.remove("serviceAccountName");
                if let Some(Value::Array(volumes)) = spec.get_mut("volumes") {
                    volumes.retain(|volume| !text(volume, "/name").starts_with("kube-api-access"));
                }
            }
        }
        ("CronJob", Some(spec)) => {
            // Required by the server, and looked at by nobody here.
            if let Some(Value::Object(pod)) = spec.get_mut("jobTemplate").and_then(|job| job.pointer_mut("/spec/template/spec")) {
                pod.entry("restartPolicy").or_insert_with(|| json!("OnFailure"));
            }
        }
        _ => {}
    }
    object
}

/// Points a volume to the claim's new UID. A claim that is gone keeps the old one, as a released volume does.
fn point(claim: &mut Map<String, Value>, uids: &BTreeMap<Name, String>) {
    let field = |name: &str| claim.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let name = ("PersistentVolumeClaim".to_owned(), field("namespace"), field("name"));
    claim.remove("resourceVersion");
    if let Some(uid) = uids.get(&name) {
        claim.insert("uid".to_owned(), json!(uid));
    }
}

/// A status that speaks of the new generation as the old one spoke of the old.
fn fit_status(kind: &Kind, mut status: Value, object: &Value) -> Value {
    let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
    if let (Some(observed), Some(generation)) = (status["observedGeneration"].as_i64(), generation) {
        // A new object has generation 1.
        status["observedGeneration"] = json!(if observed >= generation { 1 } else { 0 });
    }
    if kind.kind == "Node"
        && let Some(fields) = status.as_object_mut()
    {
        fields.remove("daemonEndpoints");
    }
    status
}

/// An evicted pod keeps when that was, as the kubelet's condition: its creation time will be another.
fn with_time_of_eviction(mut status: Value, object: &Value) -> Value {
    if status["reason"] == "Evicted" && status["conditions"].is_null() {
        status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet",
                                       "lastTransitionTime": object["metadata"]["creationTimestamp"]}]);
    }
    status
}

/// Lets the server serve a kind that an add-on serves elsewhere, and waits until it does.
fn serve(api: &Api, kind: &Kind) -> Result<(), Failure> {
    let (group, version) = kind.group.trim_start_matches("/apis/").split_once('/').unwrap_or_default();
    let name = format!("{}.{group}", kind.plural);
    let known = api.list("/apis/apiextensions.k8s.io/v1/customresourcedefinitions")?;
    if known.iter().any(|one| text(one, "/metadata/name") == name) {
        return Ok(());
    }
    let definition = json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        // The server guards *.k8s.io groups: this says that nobody approved it, which is true.
        "metadata": {"name": name, "annotations": {"api-approved.kubernetes.io": "unapproved, tests only"}},
        "spec": {
            "group": group, "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
            "names": {"plural": kind.plural, "singular": kind.kind.to_lowercase(), "kind": kind.kind},
            "versions": [{"name": version, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}],
        },
    });
    api.call(Call::post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition))?;
    let start = Instant::now();
    while api.list(&kind.collection("default")).is_err() {
        if start.elapsed() > Duration::from_secs(20) {
            return Err(Failure::new(format!("{name} is not served after 20 s")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// Installs Calico's `IPAMHandle` and makes `count` of them.
///
/// # Errors
/// The server refuses.
pub fn plant_ipam_handles(api: &Api, count: usize) -> Result<(), Failure> {
    const HANDLES: Kind = kind("IPAMHandle", "/apis/crd.projectcalico.org/v1", "ipamhandles", false, false);
    serve(api, &HANDLES)?;
    let object = |number| {
        json!({"apiVersion": "crd.projectcalico.org/v1", "kind": "IPAMHandle", "metadata": {"name": format!("k8s-pod-network.{number}")},
               "spec": {"handleID": format!("k8s-pod-network.{number}"), "block": {}}})
    };
    api.call_all((0..count).map(|number| Call::post(HANDLES.collection(""), object(number))).collect()).map(drop)
}
