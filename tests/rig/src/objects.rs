//! Kubernetes objects made from one of our snapshots, for a server that is to hold what it says.
//!
//! A snapshot keeps what decides about capacity: a pod comes back with one container that asks for
//! all of its requests (two if part of them has no limit), a workload with the template that the snapshot kept.

use std::collections::BTreeMap;

use capplan_model::Reading;
use capplan_model::Snapshot;
use capplan_model::kube::{
    Claim, Condition, CsiDriver, CsiNode, Kube, LabelSelector, Node, NodeMetrics, Owner, Pdb, PersistentVolume, Phase, Pod,
    PriorityClass, Resources, StorageClass, VolumeAttachment, Workload,
};
use serde_json::{Map, Value, json};

/// Image of every container; nothing ever pulls it.
const IMAGE: &str = "registry.example/rig:1";
/// From here on priorities belong to the system's own classes.
///
/// # Source
/// `HighestUserDefinablePriority` in `k8s.io/api/scheduling/v1`.
const HIGHEST_USER_PRIORITY: i32 = 1_000_000_000;

fn known<T>(reading: &Reading<Vec<T>>) -> impl Iterator<Item = &T> {
    reading.known().into_iter().flatten()
}

/// All objects of a snapshot that a server can hold.
pub fn of(snapshot: &Snapshot) -> Vec<Value> {
    let kube = &snapshot.kube;
    let mut objects: Vec<Value> = known(&kube.namespaces)
        .map(|one| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": one.name, "labels": one.labels}}))
        .collect();
    let classes = classes(kube);
    objects.extend(priorities(kube, &classes));
    objects.extend(known(&kube.storage_classes).map(storage_class));
    objects.extend(known(&kube.csi_drivers).map(csi_driver));
    objects.extend(known(&kube.nodes).map(node));
    objects.extend(known(&kube.csi_nodes).map(csi_node));
    objects.extend(known(&kube.claims).map(claim));
    objects.extend(known(&kube.persistent_volumes).map(volume));
    objects.extend(known(&kube.pdbs).map(pdb));
    objects.extend(known(&kube.deployments).filter_map(|one| workload("Deployment", one, &classes)));
    objects.extend(known(&kube.replica_sets).filter_map(|one| workload("ReplicaSet", one, &classes)));
    objects.extend(known(&kube.stateful_sets).filter_map(|one| workload("StatefulSet", one, &classes)));
    objects.extend(known(&kube.daemon_sets).filter_map(|one| workload("DaemonSet", one, &classes)));
    objects.extend(known(&kube.pods).map(|one| pod(one, &classes)));
    objects.extend(known(&kube.volume_attachments).map(attachment));
    objects.extend(known(&kube.node_metrics).map(metrics));
    objects
}

/// Names of priority classes by their value; a snapshot keeps the value of each pod only.
type Classes = BTreeMap<i32, String>;

/// A class for each priority that a pod has: one of the snapshot's, or one made for it.
fn classes(kube: &Kube) -> Classes {
    let mut classes = Classes::from([(0, String::new())]);
    for pod in known(&kube.pods) {
        let value = pod.scheduling.priority;
        classes.entry(value).or_insert_with(|| {
            let class = known(&kube.priority_classes).find(|class| class.value == value);
            class.map_or_else(|| format!("priority-{}", value.to_string().replace('-', "minus-")), |class| class.name.clone())
        });
    }
    classes
}

fn priorities(kube: &Kube, classes: &Classes) -> Vec<Value> {
    let object = |name: &str, value: i32, default: bool, policy: &str| {
        let policy = if policy.is_empty() { "PreemptLowerPriority" } else { policy };
        json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name}, "value": value,
               "globalDefault": default, "preemptionPolicy": policy})
    };
    // The system's own are there already.
    let own: Vec<&PriorityClass> = known(&kube.priority_classes).filter(|class| class.value <= HIGHEST_USER_PRIORITY).collect();
    let made = classes.iter().filter(|(value, name)| {
        **value <= HIGHEST_USER_PRIORITY && !name.is_empty() && own.iter().all(|class| class.name != **name)
    });
    let made: Vec<Value> = made.map(|(value, name)| object(name, *value, false, "")).collect();
    own.iter().map(|one| object(&one.name, one.value, one.global_default, &one.preemption_policy)).chain(made).collect()
}

/// Amounts as the API writes them.
fn amounts(resources: &Resources) -> Map<String, Value> {
    let mut amounts: Map<String, Value> =
        resources.extended.iter().map(|(name, amount)| (name.clone(), json!(amount.to_string()))).collect();
    amounts.insert("cpu".to_owned(), json!(format!("{}m", resources.cpu.0)));
    amounts.insert("memory".to_owned(), json!(resources.memory.0.to_string()));
    if resources.ephemeral.0 > 0 {
        amounts.insert("ephemeral-storage".to_owned(), json!(resources.ephemeral.0.to_string()));
    }
    amounts
}

/// Like [`amounts`], without those that are zero: a request of zero is a request.
fn asked(resources: &Resources) -> Map<String, Value> {
    let mut amounts = amounts(resources);
    amounts.retain(|_, amount| amount != "0" && amount != "0m");
    amounts
}

fn owners(owner: Option<&Owner>) -> Value {
    let version = |kind: &str| match kind {
        "Job" | "CronJob" => "batch/v1",
        "Node" | "ReplicationController" => "v1",
        _ => "apps/v1",
    };
    owner.map_or(json!([]), |owner| {
        json!([{"apiVersion": version(&owner.kind), "kind": owner.kind, "name": owner.name, "uid": owner.uid, "controller": true}])
    })
}

fn conditions(conditions: &[Condition]) -> Vec<Value> {
    let one = |one: &Condition| {
        let mut condition = json!({"type": one.kind, "status": one.status, "lastTransitionTime": one.since});
        if !one.reason.is_empty() {
            condition["reason"] = json!(one.reason);
        }
        condition
    };
    conditions.iter().map(one).collect()
}

fn node(node: &Node) -> Value {
    let with_pods = |resources: &Resources| {
        let mut amounts = amounts(resources);
        amounts.insert("pods".to_owned(), json!(node.max_pods.to_string()));
        amounts
    };
    let attached: Vec<Value> = node.volumes_attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
    json!({
        "apiVersion": "v1", "kind": "Node",
        // Kubelets ask the controller manager to attach for them.
        "metadata": {"name": node.name, "labels": node.labels,
                     "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
        "spec": {"providerID": node.provider_id, "unschedulable": node.unschedulable, "taints": node.taints},
        "status": {
            "capacity": with_pods(&node.capacity), "allocatable": with_pods(&node.allocatable),
            "conditions": conditions(&node.conditions),
            "addresses": node.internal_ips.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect::<Vec<_>>(),
            "volumesInUse": node.volumes_in_use, "volumesAttached": attached,
            "images": node.images.iter().map(|image| json!({"names": image.names, "sizeBytes": image.size.0})).collect::<Vec<_>>(),
            "nodeInfo": {
                "systemUUID": node.system_uuid.clone().unwrap_or_default(), "kubeletVersion": node.kubelet_version,
                "architecture": node.architecture, "machineID": "", "bootID": "", "kernelVersion": "", "osImage": "",
                "containerRuntimeVersion": "", "kubeProxyVersion": "", "operatingSystem": "linux",
            },
        },
    })
}

fn csi_node(node: &CsiNode) -> Value {
    let driver = |driver: &capplan_model::kube::CsiNodeDriver| {
        json!({"name": driver.name, "nodeID": node.name, "topologyKeys": driver.topology_keys,
               "allocatable": driver.count.map(|count| json!({"count": count}))})
    };
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": node.name},
           "spec": {"drivers": node.drivers.iter().map(driver).collect::<Vec<_>>()}})
}

fn csi_driver(driver: &CsiDriver) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": {"name": driver.name},
           "spec": {"attachRequired": driver.attach_required, "storageCapacity": driver.storage_capacity}})
}

fn storage_class(class: &StorageClass) -> Value {
    let topologies: Vec<Value> = class
        .allowed_topologies
        .iter()
        .map(|labels| json!({"matchLabelExpressions": labels.iter().map(|(key, value)| json!({"key": key, "values": [value]})).collect::<Vec<_>>()}))
        .collect();
    let mut object = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class.name},
        "provisioner": class.provisioner, "volumeBindingMode": class.binding_mode, "reclaimPolicy": class.reclaim_policy,
    });
    if !class.storage.is_empty() {
        object["parameters"] = json!({"storage": class.storage});
    }
    if class.is_default {
        object["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    }
    if !topologies.is_empty() {
        object["allowedTopologies"] = json!(topologies);
    }
    object
}

fn claim(claim: &Claim) -> Value {
    let mut annotations = Map::new();
    if let Some(node) = &claim.selected_node {
        annotations.insert("volume.kubernetes.io/selected-node".to_owned(), json!(node));
    }
    if claim.volume.is_some() {
        // Without it the volume controller would bind the claim once more.
        annotations.insert("pv.kubernetes.io/bind-completed".to_owned(), json!("yes"));
    }
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"namespace": claim.namespace, "name": claim.name, "annotations": annotations},
        "spec": {
            "accessModes": claim.access_modes, "storageClassName": claim.storage_class, "volumeName": claim.volume,
            "resources": {"requests": {"storage": claim.requested.0.to_string()}},
        },
        "status": {"phase": claim.phase, "accessModes": claim.access_modes, "capacity": {"storage": claim.requested.0.to_string()}},
    })
}

fn volume(volume: &PersistentVolume) -> Value {
    let mut spec = json!({
        "capacity": {"storage": volume.capacity.0.to_string()}, "accessModes": volume.access_modes,
        "persistentVolumeReclaimPolicy": volume.reclaim_policy, "storageClassName": volume.storage_class,
    });
    match (&volume.handle, volume.kind.as_str()) {
        (Some(handle), _) => spec["csi"] = json!({"driver": volume.driver, "volumeHandle": handle}),
        (None, "local") => spec["local"] = json!({"path": "/mnt/rig"}),
        (None, "nfs") => spec["nfs"] = json!({"server": "nfs.example", "path": "/rig"}),
        (None, _) => spec["hostPath"] = json!({"path": "/mnt/rig"}),
    }
    if let Some(affinity) = &volume.node_affinity {
        spec["nodeAffinity"] = json!({"required": affinity});
    }
    if let Some((namespace, name)) = volume.claim.as_ref().and_then(|claim| claim.0.split_once('/')) {
        spec["claimRef"] = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name});
    }
    json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": volume.name}, "spec": spec,
           "status": {"phase": volume.phase, "lastPhaseTransitionTime": volume.phase_since}})
}

fn selector(selector: Option<&LabelSelector>) -> Value {
    selector.map_or(Value::Null, |selector| json!(selector))
}

fn pdb(pdb: &Pdb) -> Value {
    // A whole number or a percentage.
    let amount =
        |text: &Option<String>| text.as_ref().map(|text| text.parse::<i64>().map_or(json!(text), |number| json!(number)));
    let mut spec = json!({"selector": selector(pdb.selector.as_ref())});
    for (name, value) in [("minAvailable", amount(&pdb.min_available)), ("maxUnavailable", amount(&pdb.max_unavailable))] {
        if let Some(value) = value {
            spec[name] = value;
        }
    }
    if !pdb.unhealthy_policy.is_empty() {
        spec["unhealthyPodEvictionPolicy"] = json!(pdb.unhealthy_policy);
    }
    json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"namespace": pdb.namespace, "name": pdb.name, "generation": 1}, "spec": spec,
        "status": {
            "disruptionsAllowed": pdb.disruptions_allowed, "currentHealthy": pdb.current_healthy,
            "desiredHealthy": pdb.desired_healthy, "expectedPods": pdb.expected_pods,
            "observedGeneration": u8::from(pdb.observed),
        },
    })
}

/// The spec of a pod or of a template.
fn pod_spec(pod: &Pod, classes: &Classes) -> Value {
    let ports: Vec<Value> = pod
        .scheduling
        .host_ports
        .iter()
        .map(
            |(protocol, address, port)| json!({"protocol": protocol, "hostIP": address, "hostPort": port, "containerPort": port}),
        )
        .collect();
    let volumes: Vec<Value> = pod
        .claims
        .iter()
        .enumerate()
        .map(|(number, claim)| json!({"name": format!("claim-{number}"), "persistentVolumeClaim": {"claimName": claim}}))
        .collect();
    let image = pod.images.first().map_or(IMAGE, String::as_str);
    let (limited, rest) = split(pod);
    let mut containers = vec![json!({"name": "all", "image": image, "ports": ports,
                                     "resources": {"requests": asked(&limited), "limits": asked(&limits(pod))}})];
    if rest != Resources::default() {
        containers.push(json!({"name": "unlimited", "image": image, "resources": {"requests": asked(&rest)}}));
    }
    let mut spec = json!({
        "containers": containers,
        "volumes": volumes,
        "nodeSelector": pod.scheduling.node_selector,
        "tolerations": pod.scheduling.tolerations,
        "topologySpreadConstraints": pod.scheduling.topology_spread,
        "terminationGracePeriodSeconds": 0,
    });
    if let Some(affinity) = &pod.scheduling.affinity {
        spec["affinity"] = json!(affinity);
    }
    if !pod.scheduling.scheduler.is_empty() {
        spec["schedulerName"] = json!(pod.scheduling.scheduler);
    }
    if !pod.scheduling.preemption_policy.is_empty() {
        spec["preemptionPolicy"] = json!(pod.scheduling.preemption_policy);
    }
    let class = match pod.scheduling.priority {
        // Without a snapshot of the system's classes, by their values in `k8s.io/api/scheduling/v1`.
        2_000_001_000 => Some("system-node-critical"),
        system if system > HIGHEST_USER_PRIORITY => Some("system-cluster-critical"),
        value => classes.get(&value).map(String::as_str),
    };
    if let Some(class) = class.filter(|name| !name.is_empty()) {
        spec["priorityClassName"] = json!(class);
    }
    spec
}

/// The requests as those of a container with the pod's limits, and of one without: a limit below the request
/// comes from a container that has none, and the server refuses both in one.
fn split(pod: &Pod) -> (Resources, Resources) {
    let (mut limited, mut rest) = (pod.requests.clone(), Resources::default());
    let part = |request: &mut u64, rest: &mut u64, limit: u64| {
        if limit > 0 && limit < *request {
            (*rest, *request) = (*request - limit, limit);
        }
    };
    part(&mut limited.cpu.0, &mut rest.cpu.0, pod.limits.cpu.0);
    part(&mut limited.memory.0, &mut rest.memory.0, pod.limits.memory.0);
    part(&mut limited.ephemeral.0, &mut rest.ephemeral.0, pod.limits.ephemeral.0);
    (limited, rest)
}

/// The limits; what may not be overcommitted has its request as its limit.
fn limits(pod: &Pod) -> Resources {
    Resources { extended: pod.requests.extended.clone(), ..pod.limits.clone() }
}

fn pod(pod: &Pod, classes: &Classes) -> Value {
    let mut spec = pod_spec(pod, classes);
    if let Some(node) = &pod.node {
        spec["nodeName"] = json!(node);
    }
    let phase = match pod.phase {
        Phase::Pending => "Pending",
        Phase::Running => "Running",
        Phase::Succeeded => "Succeeded",
        Phase::Failed => "Failed",
        Phase::Unknown => "Unknown",
    };
    let mut status = json!({"phase": phase});
    if pod.phase == Phase::Running {
        status["conditions"] = json!([{"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]);
    }
    if !pod.reason.is_empty() {
        status["reason"] = json!(pod.reason);
    }
    json!({"apiVersion": "v1", "kind": "Pod",
           "metadata": {"namespace": pod.namespace, "name": pod.name, "labels": pod.labels, "ownerReferences": owners(pod.owner.as_ref())},
           "spec": spec, "status": status})
}

/// A workload whose template and selector the snapshot kept.
fn workload(kind: &str, workload: &Workload, classes: &Classes) -> Option<Value> {
    let template = workload.template.as_deref()?;
    let selector = workload.selector.as_ref()?;
    let mut spec =
        json!({"selector": selector, "template": {"metadata": {"labels": template.labels}, "spec": pod_spec(template, classes)}});
    let mut status = json!({"observedGeneration": u8::from(workload.observed)});
    match kind {
        "DaemonSet" => {
            for (name, value) in [
                ("desiredNumberScheduled", workload.replicas),
                ("currentNumberScheduled", workload.current),
                ("numberReady", workload.ready),
                ("numberMisscheduled", 0),
            ] {
                status[name] = json!(value);
            }
        }
        _ => {
            spec["replicas"] = json!(workload.replicas);
            status["replicas"] = json!(workload.current);
            status["readyReplicas"] = json!(workload.ready.min(workload.current));
        }
    }
    if kind == "StatefulSet" {
        spec["serviceName"] = json!(workload.name);
    }
    Some(json!({
        "apiVersion": "apps/v1", "kind": kind,
        "metadata": {"namespace": workload.namespace, "name": workload.name, "generation": 1, "ownerReferences": owners(workload.owner.as_ref())},
        "spec": spec, "status": status,
    }))
}

fn attachment(attachment: &VolumeAttachment) -> Value {
    let mut status = json!({"attached": attachment.attached});
    for (name, message) in [("attachError", &attachment.attach_error), ("detachError", &attachment.detach_error)] {
        if let Some(message) = message {
            status[name] = json!({"message": message});
        }
    }
    let finalizer = format!("external-attacher/{}", attachment.attacher.replace('.', "-"));
    let mut object = json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
        "metadata": {"name": attachment.name, "finalizers": [finalizer]},
        "spec": {"attacher": attachment.attacher, "nodeName": attachment.node,
                 "source": {"persistentVolumeName": attachment.volume}},
        "status": status,
    });
    if attachment.deleting.is_some() {
        object["metadata"]["deletionTimestamp"] = json!(attachment.deleting);
    }
    object
}

fn metrics(metrics: &NodeMetrics) -> Value {
    json!({"apiVersion": "metrics.k8s.io/v1beta1", "kind": "NodeMetrics", "metadata": {"name": metrics.name},
           "usage": {"cpu": format!("{}m", metrics.cpu.0), "memory": metrics.memory.0.to_string()}})
}
