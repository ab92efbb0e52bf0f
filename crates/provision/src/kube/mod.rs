//! The Kubernetes plane: a client that only reads, one that changes, the API's JSON, and saved lists.

pub mod client;
pub mod lists;
pub mod observe;
mod stream;
mod wire;
pub mod writer;

pub use client::{Connection, KubeError, Reader};
pub use writer::{Evicted, Writer};

/// Reads one pod, or the template of one, from its API object.
pub(crate) fn template_pod(object: serde_json::Value) -> Result<capplan_model::kube::Pod, serde_json::Error> {
    // As a list of one: the reading of pods is the same for all.
    let list = serde_json::to_vec(&serde_json::json!({ "items": [object] }))?;
    let mut pods = lists::pods(&list)?;
    pods.pop().ok_or_else(|| serde::de::Error::custom("no pod"))
}

/// Reads one claim from its API object.
pub(crate) fn claim(object: serde_json::Value) -> Result<capplan_model::kube::Claim, serde_json::Error> {
    let list = serde_json::to_vec(&serde_json::json!({ "items": [object] }))?;
    let list = wire::List::<capplan_model::kube::Claim>::decode(&list)?;
    list.items.into_iter().next().ok_or_else(|| serde::de::Error::custom("no claim"))
}
