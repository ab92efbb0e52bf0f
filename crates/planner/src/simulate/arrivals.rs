//! Pods and claims that a change adds, as admission would leave them.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Snapshot;
use capplan_model::change::{AddPods, AddPvcs, AddWorker, Change};
use capplan_model::kube::{
    Affinity, Claim, Kube, Owner, Phase, Pod, PodAffinityTerm, Requirement, Resources, StorageClass, Workload,
};
use capplan_model::policy::Policy;
use capplan_model::units::Bytes;

use super::SimulateError;

/// Namespace of pods that are made up.
const NAMESPACE: &str = "capplan-simulation";
/// Size of a new claim when none is given.
const USUAL_SIZE: Bytes = Bytes::gib(1);

/// Equal new pods, numbered from the one after `before`.
pub(super) fn plain(add: &AddPods, before: usize) -> Vec<Pod> {
    let requests = Resources {
        cpu: add.cpu.unwrap_or_default(),
        memory: add.memory.unwrap_or_default(),
        extended: add.extended.clone(),
        ..Resources::default()
    };
    (before + 1..=before + add.count as usize).map(|number| made_up(&format!("pod-{number}"), requests.clone())).collect()
}

/// A pod of nobody's, with the tolerations that admission gives every pod.
pub(super) fn made_up(name: &str, requests: Resources) -> Pod {
    let mut pod = Pod {
        namespace: NAMESPACE.into(),
        name: name.into(),
        // Something would make it again: it is no bare pod.
        owner: Some(Owner { kind: "Simulation".into(), name: "capplan".into(), uid: String::new() }),
        requests,
        ..Pod::default()
    };
    pod.scheduling.default_tolerations = true;
    pod
}

/// A pod of a manifest or template as admission would leave it: priority, tolerations, and the label
/// keys of affinity terms resolved.
///
/// # Source
/// Admission plugins Priority and DefaultTolerationSeconds; `applyMatchLabelKeysAndMismatchLabelKeys`,
/// `pkg/registry/core/pod/strategy.go` (v1.36).
pub(super) fn admitted(pod: &Pod, kube: &Kube) -> Pod {
    let mut pod = pod.clone();
    (pod.node, pod.phase, pod.deleting, pod.started) = (None, Phase::Pending, None, None);
    if pod.namespace.is_empty() {
        pod.namespace = "default".into();
    }
    let rules = &mut pod.scheduling;
    let classes = kube.priority_classes.items();
    let named = classes.iter().find(|class| class.name == rules.priority_class);
    let usual = || classes.iter().find(|class| class.global_default && rules.priority_class.is_empty());
    if let Some(class) = named.or_else(usual).filter(|_| rules.priority == 0) {
        rules.priority = class.value;
        if rules.preemption_policy.is_empty() {
            rules.preemption_policy = class.preemption_policy.clone();
        }
    }
    if named.is_none() && !rules.priority_class.is_empty() {
        let known = ["system-cluster-critical", "system-node-critical"].iter().position(|name| *name == rules.priority_class);
        match known {
            // The two classes every cluster has.
            Some(place) => rules.priority = 2_000_000_000 + i32::try_from(place).unwrap_or(0) * 1_000,
            None => rules.unmodelled.push(format!("priorityClassName {} that does not exist", rules.priority_class)),
        }
    }
    rules.priority_class = String::new();
    rules.default_tolerations = true;
    if let Some(affinity) = &mut rules.affinity {
        let labels = pod.labels.clone();
        for term in terms_mut(affinity) {
            let Some(selector) = &mut term.label_selector else { continue };
            for (keys, operator) in [(&term.match_label_keys, "In"), (&term.mismatch_label_keys, "NotIn")] {
                for (key, value) in keys.iter().filter_map(|key| Some((key, labels.get(key)?))) {
                    let values = vec![value.clone()];
                    selector.match_expressions.push(Requirement { key: key.clone(), operator: operator.into(), values });
                }
            }
        }
    }
    pod
}

fn terms_mut(affinity: &mut Affinity) -> impl Iterator<Item = &mut PodAffinityTerm> {
    let both = affinity.pod_affinity.iter_mut().chain(&mut affinity.pod_anti_affinity);
    both.flat_map(|one| one.required.iter_mut().chain(one.preferred.iter_mut().map(|term| &mut term.pod_affinity_term)))
}

/// A claim of a manifest as admission would leave it: with the default class, if it names none.
pub(super) fn admitted_claim(claim: &Claim, kube: &Kube) -> Claim {
    let mut claim = claim.clone();
    if claim.storage_class.is_empty()
        && let Some(class) = kube.storage_classes.items().iter().find(|class| class.is_default)
    {
        claim.storage_class.clone_from(&class.name);
    }
    (claim.phase, claim.volume) = ("Pending".into(), None);
    claim
}

/// A pod of a workload's template.
fn of_workload(workload: &Workload, kind: &str, number: usize, kube: &Kube) -> Option<Pod> {
    let mut pod = workload.template.as_deref()?.clone();
    pod.namespace.clone_from(&workload.namespace);
    pod.name = format!("{}-{number}", workload.name);
    // Pods of a Deployment belong to a ReplicaSet, whose name is of no consequence for a new one.
    let kind = if kind == "Deployment" { "ReplicaSet" } else { kind };
    pod.owner = Some(Owner { kind: kind.into(), name: workload.name.clone(), uid: workload.uid.clone() });
    let stateful = workload.claim_templates.iter().map(|template| format!("{template}-{}-{number}", workload.name));
    pod.claims.extend(stateful);
    Some(admitted(&pod, kube))
}

fn workloads(kube: &Kube) -> impl Iterator<Item = (&'static str, &Workload)> {
    let deployments = kube.deployments.items().iter().map(|one| ("Deployment", one));
    deployments.chain(kube.stateful_sets.items().iter().map(|one| ("StatefulSet", one)))
}

/// One pod of each workload that has no replicas now.
pub(super) fn parked(kube: &Kube) -> Vec<Pod> {
    let exists: BTreeSet<(&str, &str)> =
        kube.claims.items().iter().map(|claim| (claim.namespace.as_str(), claim.name.as_str())).collect();
    let asleep = workloads(kube).filter(|(_, workload)| workload.replicas == 0);
    let mut pods: Vec<Pod> = asleep.filter_map(|(kind, workload)| of_workload(workload, kind, 0, kube)).collect();
    for pod in &mut pods {
        let (namespace, stateful) = (pod.namespace.clone(), pod.owner.as_ref().is_some_and(|owner| owner.kind == "StatefulSet"));
        let before = pod.claims.len();
        // A StatefulSet makes missing claims itself, of a size and class that are not known here.
        pod.claims.retain(|claim| !stateful || exists.contains(&(namespace.as_str(), claim.as_str())));
        if pod.claims.len() < before {
            pod.scheduling.unmodelled.push("a claim template without a claim yet".to_owned());
        }
    }
    pods
}

/// Claims of parked workloads that are bound to volumes of `driver` and that no running pod uses:
/// `namespace/name`.
pub(super) fn latent(snapshot: &Snapshot, driver: &str) -> BTreeSet<String> {
    let kube = &snapshot.kube;
    let ours = snapshot.volumes_of(driver);
    let live = kube.pods.items().iter().filter(|pod| !pod.is_terminal() && pod.node.is_some());
    let used: BTreeSet<String> =
        live.flat_map(|pod| pod.claims.iter().map(|claim| format!("{}/{claim}", pod.namespace))).collect();
    let bound: BTreeSet<String> = kube
        .claims
        .items()
        .iter()
        .filter(|claim| claim.phase == "Bound" && claim.volume.as_ref().is_some_and(|volume| ours.contains_key(volume)))
        .map(|claim| format!("{}/{}", claim.namespace, claim.name))
        .collect();
    let wanted = parked(kube).into_iter().flat_map(|pod| {
        let namespace = pod.namespace.clone();
        pod.claims.into_iter().map(move |claim| format!("{namespace}/{claim}")).collect::<Vec<_>>()
    });
    wanted.filter(|claim| bound.contains(claim) && !used.contains(claim)).collect()
}

/// New pods, each with a claim of its own, numbered from the one after `before`.
pub(super) fn with_claims(
    snapshot: &Snapshot,
    policy: &Policy,
    add: &AddPvcs,
    before: usize,
) -> Result<Vec<(Pod, Claim)>, SimulateError> {
    let kube = &snapshot.kube;
    let class = storage_class(kube, policy, add.storage_class.as_deref())?;
    let template = match &add.pods_from {
        Some(name) => Some(find_workload(kube, name)?),
        None => None,
    };
    let mut list = Vec::new();
    for number in before + 1..=before + add.count as usize {
        let mut pod = match template {
            Some((kind, workload)) => {
                let mut pod = of_workload(workload, kind, number, kube)
                    .ok_or_else(|| SimulateError::NoWorkload { name: add.pods_from.clone().unwrap_or_default() })?;
                pod.name = format!("{}-capplan-{number}", workload.name);
                // Its own volumes cannot be in two places: the new claim stands for them.
                pod.claims.clear();
                pod
            }
            None => made_up(&format!("pod-{number}"), Resources::default()),
        };
        let claim = format!("capplan-{}-{number}", pod.name);
        pod.claims.push(claim.clone());
        let claim = Claim {
            namespace: pod.namespace.clone(),
            name: claim,
            phase: "Pending".into(),
            storage_class: class.clone(),
            requested: add.size.unwrap_or(USUAL_SIZE),
            access_modes: vec!["ReadWriteOnce".into()],
            ..Claim::default()
        };
        list.push((pod, claim));
    }
    Ok(list)
}

/// A change in words, with what it leaves to us.
pub(super) fn in_words(snapshot: &Snapshot, policy: &Policy, change: &Change) -> String {
    if let Change::AddPvcs(add) = change {
        let storage_class = storage_class(&snapshot.kube, policy, add.storage_class.as_deref()).ok();
        return Change::AddPvcs(AddPvcs { size: Some(add.size.unwrap_or(USUAL_SIZE)), storage_class, ..add.clone() }).to_string();
    }
    if let Change::AddWorker(add) = change {
        let memory = Some(add.memory.unwrap_or(policy.worker.memory));
        return Change::AddWorker(AddWorker { memory, ..add.clone() }).to_string();
    }
    change.to_string()
}

/// Whether new claims get volumes of the plugin's, which take slots.
pub(super) fn take_slots(snapshot: &Snapshot, policy: &Policy, add: &AddPvcs) -> bool {
    let class = storage_class(&snapshot.kube, policy, add.storage_class.as_deref());
    class.is_ok_and(|name| {
        snapshot.kube.storage_classes.items().iter().any(|class| class.name == name && class.provisioner == policy.attacher)
    })
}

/// Why it is not certain where a new claim's volume is made: its class does not wait for the pod, and the
/// driver has several places to choose from.
pub(super) fn made_anywhere(snapshot: &Snapshot, claim: &Claim) -> Option<String> {
    let kube = &snapshot.kube;
    let class = kube.storage_classes.items().iter().find(|class| class.name == claim.storage_class)?;
    if class.binding_mode == "WaitForFirstConsumer" {
        return None;
    }
    let labels: BTreeMap<_, _> = kube.nodes.items().iter().map(|node| (&node.name, &node.labels)).collect();
    let places: BTreeSet<Vec<Option<&String>>> = kube
        .csi_nodes
        .items()
        .iter()
        .filter_map(|node| {
            let driver = node.drivers.iter().find(|driver| driver.name == class.provisioner)?;
            let labels = labels.get(&node.name)?;
            Some(driver.topology_keys.iter().map(|key| labels.get(key)).collect())
        })
        .collect();
    (places.len() > 1).then(|| {
        format!(
            "where volumes of StorageClass {} are made: it does not wait for their pods, and there are {} zones",
            class.name,
            places.len()
        )
    })
}

/// The class of new claims: the one named, or the driver's default or only one.
fn storage_class(kube: &Kube, policy: &Policy, named: Option<&str>) -> Result<String, SimulateError> {
    if let Some(why) = kube.storage_classes.why() {
        return Err(SimulateError::Unknown { what: "storageclasses".into(), why: why.to_owned() });
    }
    let classes = kube.storage_classes.items();
    let names = |list: &[&StorageClass]| list.iter().map(|class| class.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = named {
        let all: Vec<&StorageClass> = classes.iter().collect();
        return match classes.iter().find(|class| class.name == name) {
            Some(class) => Ok(class.name.clone()),
            None => Err(SimulateError::StorageClass(format!("there is no StorageClass {name}; there are {}", names(&all)))),
        };
    }
    let of_driver: Vec<&StorageClass> = classes.iter().filter(|class| class.provisioner == policy.attacher).collect();
    let usual = of_driver.iter().find(|class| class.is_default);
    // Classes that differ in what they do to a disk do not differ in where it may be.
    let alike =
        of_driver.iter().map(|class| (&class.binding_mode, &class.allowed_topologies)).collect::<BTreeSet<_>>().len() == 1;
    match (usual, of_driver.as_slice()) {
        (Some(class), _) => Ok(class.name.clone()),
        (None, [first, ..]) if alike => Ok(first.name.clone()),
        (None, []) => Err(SimulateError::StorageClass(format!("no StorageClass is provisioned by {}", policy.attacher))),
        (None, several) => Err(SimulateError::StorageClass(format!(
            "several StorageClasses are provisioned by {}: choose one of {} with --storage-class",
            policy.attacher,
            names(several)
        ))),
    }
}

/// `[NAMESPACE/]KIND/NAME`.
fn find_workload<'k>(kube: &'k Kube, text: &str) -> Result<(&'static str, &'k Workload), SimulateError> {
    let error = || SimulateError::NoWorkload { name: text.to_owned() };
    let parts: Vec<&str> = text.split('/').collect();
    let (namespace, kind, name) = match parts.as_slice() {
        [kind, name] => (None, *kind, *name),
        [namespace, kind, name] => (Some(*namespace), *kind, *name),
        _ => return Err(error()),
    };
    let kinds = BTreeMap::from([
        ("deploy", "Deployment"),
        ("deployment", "Deployment"),
        ("sts", "StatefulSet"),
        ("statefulset", "StatefulSet"),
    ]);
    let kind = *kinds.get(kind).ok_or_else(error)?;
    let mut found = workloads(kube).filter(|(one, workload)| {
        *one == kind && workload.name == name && namespace.is_none_or(|namespace| workload.namespace == namespace)
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        (Some((_, first)), Some((_, second))) => Err(SimulateError::Change(format!(
            "{text} is in {} and in {}: write the namespace before it",
            first.namespace, second.namespace
        ))),
        (None, _) => Err(error()),
    }
}
