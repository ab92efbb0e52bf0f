//! Pods as people write them down: manifests in YAML or JSON.

use capplan_model::kube::Pod;
use serde_json::Value;

use crate::kube::template_pod;

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is neither YAML nor JSON.
    #[error("it is not valid YAML: {0}")]
    Syntax(String),
    /// An object of a kind that makes no pods.
    #[error("object {place} is a {kind}, which makes no pods")]
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
}

/// Most pods of one workload: more are a slip of the finger.
const MOST_REPLICAS: u64 = 100_000;

/// The pods that a manifest makes: those in it, and the replicas of its workloads.
///
/// # Errors
/// [`ManifestError`] if it is not valid or holds a kind that makes no pods.
pub fn pods(text: &str) -> Result<Vec<Pod>, ManifestError> {
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
    let mut pods = Vec::new();
    for (place, mut object) in objects.into_iter().enumerate() {
        let kind = object["kind"].as_str().unwrap_or("object without a kind").to_owned();
        let metadata = object["metadata"].clone();
        let name = metadata["name"].as_str().unwrap_or("pod").to_owned();
        let namespace = metadata["namespace"].as_str().unwrap_or("default").to_owned();
        let replicas = match kind.as_str() {
            "Pod" => None,
            "Deployment" | "StatefulSet" | "ReplicaSet" => Some(object["spec"]["replicas"].as_u64().unwrap_or(1)),
            "Job" => Some(object["spec"]["parallelism"].as_u64().unwrap_or(1)),
            "CronJob" => {
                object["spec"]["template"] = object["spec"]["jobTemplate"]["spec"]["template"].clone();
                Some(1)
            }
            _ => return Err(ManifestError::Kind { place: place + 1, kind }),
        };
        let template = if replicas.is_some() { object["spec"]["template"].take() } else { object };
        let pod =
            template_pod(template).map_err(|source| ManifestError::Object { place: place + 1, kind: kind.clone(), source })?;
        for number in 0..replicas.unwrap_or(1).min(MOST_REPLICAS) {
            let mut copy = pod.clone();
            copy.namespace.clone_from(&namespace);
            copy.name = if replicas.is_some() { format!("{name}-{number}") } else { name.clone() };
            if replicas.is_some() {
                let owner = capplan_model::kube::Owner { kind: kind.clone(), name: name.clone(), uid: String::new() };
                copy.owner = Some(owner);
            }
            pods.push(copy);
        }
    }
    Ok(pods)
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
        let pods = pods(text).expect("valid");
        let names: Vec<String> = pods.iter().map(|pod| pod.object_name().0).collect();
        assert_eq!(names, ["apps/web-0", "apps/web-1", "default/one"]);
        assert_eq!((pods[0].requests.cpu.0, pods[0].labels["app"].as_str()), (250, "web"));
        assert_eq!(pods[2].scheduling.priority_class, "high");
    }

    #[test]
    fn what_makes_no_pods_is_named() {
        let error = pods("kind: Service\nmetadata: {name: x}").expect_err("a Service makes no pods");
        assert_eq!(error.to_string(), "object 1 is a Service, which makes no pods");
        assert!(pods("a: [").is_err());
        assert!(matches!(pods("kind: Pod\nspec: {containers: 3}"), Err(ManifestError::Object { place: 1, .. })));
    }
}
