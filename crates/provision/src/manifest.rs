//! Pods as people write them down: manifests in YAML or JSON.

use capplan_model::change::{MOST_PODS, Manifest};
use capplan_model::kube::{Claim, Owner};
use serde_json::Value;

use crate::kube::{claim, template_pod};

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is neither YAML nor JSON.
    #[error("it is not valid YAML: {0}")]
    Syntax(String),
    /// An object of a kind that makes neither pods nor claims.
    #[error("object {place} is a {kind}, which makes neither pods nor claims")]
    Kind {
        /// Which object, from 1.
        place: usize,
        /// Its kind.
        kind: String,
    },
    /// An object that is not what its kind says.
    #[error("object {place} ({kind}) is not valid")]
    Object {
        /// Which object, from 1.
        place: usize,
        /// Its kind.
        kind: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A number that is none.
    #[error("object {place} ({kind}): {field} is `{value}`, not a whole number")]
    Count {
        /// Which object, from 1.
        place: usize,
        /// Its kind.
        kind: String,
        /// Which field.
        field: &'static str,
        /// What is there.
        value: String,
    },
    /// A pod or template without containers.
    #[error("object {place} ({kind}) has no containers")]
    Containers {
        /// Which object, from 1.
        place: usize,
        /// Its kind.
        kind: String,
    },
    /// A workload of more replicas than any cluster holds.
    #[error("object {place} ({kind}) has {replicas} replicas: at most {MOST_PODS} can be simulated")]
    Replicas {
        /// Which object, from 1.
        place: usize,
        /// Its kind.
        kind: String,
        /// How many it wants.
        replicas: u64,
    },
}

/// Kinds that make no pods, beside which workloads are commonly written down.
const HARMLESS: [&str; 21] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "CustomResourceDefinition",
    "Endpoints",
    "EndpointSlice",
    "HorizontalPodAutoscaler",
    "HTTPRoute",
    "Ingress",
    "IngressClass",
    "Lease",
    "MutatingWebhookConfiguration",
    "Namespace",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "Role",
    "RoleBinding",
    "Secret",
    "Service",
    "ServiceAccount",
    "ValidatingWebhookConfiguration",
];

/// What a manifest makes: pods and claims written down, replicas of workloads with their claims.
///
/// # Errors
/// [`ManifestError`] if it is not valid or makes neither.
pub fn read(text: &str) -> Result<Manifest, ManifestError> {
    let documents: Vec<Option<Value>> =
        serde_saphyr::from_multiple(text).map_err(|error| ManifestError::Syntax(error.to_string()))?;
    let mut objects: Vec<Value> = Vec::new();
    for mut document in documents.into_iter().flatten() {
        let items = if document.is_array() { Some(document.take()) } else { document.get_mut("items").map(Value::take) };
        match items {
            Some(Value::Array(items)) => objects.extend(items),
            Some(_) | None => objects.push(document),
        }
    }
    let mut made = Manifest::default();
    let mut harmless = None;
    for (place, mut object) in objects.into_iter().enumerate() {
        if object["kind"] == "CronJob" {
            // It makes Jobs.
            let suspended = object["spec"]["suspend"] == true;
            object["spec"] = object.pointer_mut("/spec/jobTemplate/spec").map(Value::take).unwrap_or_default();
            if let Some(job) = object["spec"].as_object_mut().filter(|_| suspended) {
                job.insert("suspend".to_owned(), Value::Bool(true));
            }
        }
        let kind = object["kind"].as_str().unwrap_or("object without a kind").to_owned();
        let invalid = |source| ManifestError::Object { place: place + 1, kind: kind.clone(), source };
        let name = object["metadata"]["name"].as_str().unwrap_or("pod").to_owned();
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
        let number = |value: &Value, field: &'static str| {
            let error = || ManifestError::Count { place: place + 1, kind: kind.clone(), field, value: value.to_string() };
            if value.is_null() { Ok(None) } else { value.as_u64().map(Some).ok_or_else(error) }
        };
        let in_namespace = |claim: Claim| Claim { namespace: namespace.clone(), ..claim };
        let replicas = match kind.as_str() {
            "Pod" => None,
            "PersistentVolumeClaim" => {
                made.claims.push(in_namespace(claim(object).map_err(invalid)?));
                continue;
            }
            "Deployment" | "StatefulSet" | "ReplicaSet" => {
                Some(number(&object["spec"]["replicas"], "spec.replicas")?.unwrap_or(1))
            }
            "Job" | "CronJob" if object["spec"]["suspend"] == true => Some(0),
            "Job" | "CronJob" => {
                let most = number(&object["spec"]["completions"], "spec.completions")?.unwrap_or(u64::MAX);
                Some(number(&object["spec"]["parallelism"], "spec.parallelism")?.unwrap_or(1).min(most))
            }
            known if HARMLESS.contains(&known) && is_builtin(&object) => {
                harmless.get_or_insert((place + 1, kind));
                continue;
            }
            _ if object["kind"].is_null() => return Err(ManifestError::Kind { place: place + 1, kind }),
            _ => {
                made.not_simulated.push(format!("{kind} {namespace}/{name}"));
                continue;
            }
        };
        let mut templates = Vec::new();
        for template in object["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten() {
            templates.push(in_namespace(claim(template.clone()).map_err(invalid)?));
        }
        let mut template =
            if replicas.is_some() { object.pointer_mut("/spec/template").map(Value::take).unwrap_or_default() } else { object };
        if template["spec"]["containers"].as_array().is_some_and(Vec::is_empty) || template["spec"]["containers"].is_null() {
            return Err(ManifestError::Containers { place: place + 1, kind });
        }
        let ephemeral = ephemeral_claims(&mut template).map_err(invalid)?;
        let mut pod = template_pod(template).map_err(invalid)?;
        if pod.node.take().is_some() {
            pod.scheduling.unmodelled.push("a node named by spec.nodeName".to_owned());
        }
        let count = replicas.unwrap_or(1);
        if count > u64::from(MOST_PODS) {
            return Err(ManifestError::Replicas { place: place + 1, kind, replicas: count });
        }
        for number in 0..count {
            let mut copy = pod.clone();
            copy.namespace.clone_from(&namespace);
            copy.name = if replicas.is_some() { format!("{name}-{number}") } else { name.clone() };
            if replicas.is_some() {
                copy.owner = Some(Owner { kind: kind.clone(), name: name.clone(), uid: String::new() });
            }
            for template in &templates {
                let claim = Claim { name: format!("{}-{name}-{number}", template.name), ..template.clone() };
                copy.claims.push(claim.name.clone());
                made.claims.push(claim);
            }
            for claim in &ephemeral {
                let claim = in_namespace(Claim { name: format!("{}-{}", copy.name, claim.name), ..claim.clone() });
                copy.claims.push(claim.name.clone());
                made.claims.push(claim);
            }
            made.pods.push(copy);
        }
    }
    match harmless {
        Some((place, kind)) if made == Manifest::default() => Err(ManifestError::Kind { place, kind }),
        Some(_) | None => Ok(made),
    }
}

/// Whether an object is of Kubernetes itself: operators have a `Service` of their own.
fn is_builtin(object: &Value) -> bool {
    let version = object["apiVersion"].as_str().unwrap_or("v1");
    let group = version.split_once('/').map_or("", |(group, _)| group);
    !group.contains('.') || group.ends_with(".k8s.io")
}

/// Takes the generic ephemeral volumes out of a pod: claims named by their volumes.
fn ephemeral_claims(pod: &mut Value) -> Result<Vec<Claim>, serde_json::Error> {
    let mut claims = Vec::new();
    for volume in pod["spec"]["volumes"].as_array_mut().into_iter().flatten() {
        let Some(mut ephemeral) = volume.as_object_mut().and_then(|volume| volume.remove("ephemeral")) else { continue };
        let name = volume["name"].as_str().unwrap_or_default().to_owned();
        let template = ephemeral.get_mut("volumeClaimTemplate").map(Value::take).unwrap_or_default();
        claims.push(Claim { name, ..claim(template)? });
    }
    Ok(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deployment_makes_its_replicas_and_a_pod_itself() {
        let text = "
kind: Deployment
metadata: {name: web, namespace: apps}
spec:
  replicas: 2
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: web, resources: {requests: {cpu: 250m, memory: 64Mi}}}]}
---
kind: Pod
metadata: {name: one}
spec: {containers: [{name: c, image: one}], priorityClassName: high}
";
        let pods = read(text).expect("valid").pods;
        let names: Vec<String> = pods.iter().map(|pod| pod.object_name().0).collect();
        assert_eq!(names, ["apps/web-0", "apps/web-1", "default/one"]);
        assert_eq!((pods[0].requests.cpu.0, pods[0].labels["app"].as_str()), (250, "web"));
        assert_eq!(pods[2].scheduling.priority_class, "high");
    }

    #[test]
    fn too_many_replicas_are_refused_and_not_cut_off() {
        let text = "kind: Deployment\nspec: {replicas: 150001, template: {spec: {containers: [{name: c, image: i}]}}}";
        assert!(matches!(read(text), Err(ManifestError::Replicas { replicas: 150_001, .. })));
    }

    #[test]
    fn a_stateful_set_brings_its_claims() {
        let text = "
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  template: {spec: {containers: [{name: c, image: db}]}}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 5Gi}}}
";
        let made = read(text).expect("valid");
        let claims: Vec<(&str, u64)> = made.claims.iter().map(|one| (one.name.as_str(), one.requested.0)).collect();
        assert_eq!(claims, [("data-db-0", 5 << 30), ("data-db-1", 5 << 30)]);
        assert_eq!(made.pods[1].claims, ["data-db-1"]);
    }

    #[test]
    fn limits_are_requests_where_these_are_left_out() {
        let text = "
kind: Pod
metadata: {name: a}
spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 0.5}, limits: {cpu: 2, memory: 1Gi, nvidia.com/gpu: 1}}}]}
---
kind: Pod
metadata: {name: b}
spec: {resources: {limits: {cpu: 3, memory: 2Gi}}, containers: [{name: c, image: i, resources: {requests: {cpu: 1}}}]}
";
        let pods = read(text).expect("valid").pods;
        let amounts: Vec<(u64, u64)> = pods.iter().map(|pod| (pod.requests.cpu.0, pod.requests.memory.0 >> 20)).collect();
        assert_eq!(amounts, [(500, 1024), (1000, 2048)]);
        assert_eq!(pods[0].requests.extended["nvidia.com/gpu"], 1);
    }

    #[test]
    fn generic_ephemeral_volumes_bring_their_claims() {
        let text = "
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  template:
    spec:
      containers: [{name: c, image: i}]
      volumes: [{name: scratch, ephemeral: {volumeClaimTemplate: {spec: {resources: {requests: {storage: 2Gi}}}}}}]
";
        let made = read(text).expect("valid");
        let claims: Vec<(&str, u64)> = made.claims.iter().map(|one| (one.name.as_str(), one.requested.0 >> 30)).collect();
        assert_eq!(claims, [("web-0-scratch", 2), ("web-1-scratch", 2)]);
        assert_eq!(made.pods[1].claims, ["web-1-scratch"]);
    }

    #[test]
    fn what_cannot_be_counted_is_refused_and_what_is_not_simulated_is_kept() {
        let pod = "{spec: {containers: [{name: c, image: i}]}}";
        for (spec, field) in [("replicas: -1", "replicas"), ("replicas: 2.5", "replicas"), ("replicas: '3'", "replicas")] {
            let error = read(&format!("kind: Deployment\nspec: {{{spec}, template: {pod}}}")).expect_err("no number");
            assert!(error.to_string().contains(field), "{error}");
        }
        assert!(matches!(read("kind: Pod\nmetadata: {name: x}"), Err(ManifestError::Containers { .. })));
        let job = |spec: &str| read(&format!("kind: Job\nspec: {{{spec}, template: {pod}}}")).expect("valid").pods.len();
        assert_eq!((job("parallelism: 4, completions: 2"), job("parallelism: 4, suspend: true")), (2, 0));
        let made = read(&format!(
            "kind: Service\n---\nkind: DaemonSet\nmetadata: {{name: agent}}\n---\nkind: Pod\n{}",
            &pod[1..pod.len() - 1]
        ));
        let made = made.expect("valid");
        assert_eq!((made.pods.len(), made.not_simulated), (1, vec!["DaemonSet default/agent".to_owned()]));
    }

    #[test]
    fn what_makes_no_pods_is_named() {
        let error = read("kind: Service\nmetadata: {name: x}").expect_err("a Service makes no pods");
        assert_eq!(error.to_string(), "object 1 is a Service, which makes neither pods nor claims");
        assert!(read("a: [").is_err());
        assert!(matches!(read("kind: Pod\nspec: {containers: 3}"), Err(ManifestError::Object { place: 1, .. })));
    }
}
