//! What changes the cluster, each change once: nothing here is tried again on its own.
//!
//! An answer that was lost says nothing about the effect: whoever calls reads the effect back.

use std::collections::BTreeMap;

use http::{Method, Request};
use kube::client::Body;
use serde_json::{Value, json};

use super::client::{KubeError, Reader};
use crate::lease::Guard;

/// A client that may change what `apply` changes.
#[derive(Clone, Debug)]
pub struct Writer {
    reader: Reader,
    guard: Guard,
}

/// What the eviction API said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// It goes.
    Accepted,
    /// It is gone already, or another pod has its name now.
    Gone,
    /// Not now (429): a budget, or the server has too much to do.
    Later {
        /// What the server said.
        why: String,
    },
    /// Never (500 of the budgets): more than one budget selects it.
    Never {
        /// What the server said.
        why: String,
    },
}

impl Writer {
    /// Writes where `reader` reads, as long as `guard` allows it.
    pub fn new(reader: Reader, guard: Guard) -> Self {
        Self { reader, guard }
    }

    /// The client that reads.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Closes a node to new pods, or opens it again.
    ///
    /// # Errors
    /// [`KubeError`]; after one the effect may be there or not.
    pub async fn set_unschedulable(&self, node: &str, unschedulable: bool) -> Result<(), KubeError> {
        self.merge_node(node, &json!({ "spec": { "unschedulable": unschedulable } })).await
    }

    /// Sets labels of a node.
    ///
    /// # Errors
    /// [`KubeError`]; after one the effect may be there or not.
    pub async fn label(&self, node: &str, labels: &BTreeMap<String, String>) -> Result<(), KubeError> {
        self.merge_node(node, &json!({ "metadata": { "labels": labels } })).await
    }

    /// Creates an object below a path such as `/api/v1/namespaces/x/pods`.
    ///
    /// # Errors
    /// [`KubeError`]; after one it may be there or not.
    pub async fn create(&self, path: &str, object: &Value) -> Result<(), KubeError> {
        self.send(Method::POST, path, "application/json", object).await
    }

    /// Replaces an object that is still of the version that it names.
    ///
    /// # Errors
    /// [`KubeError`]: 409 if it is of another version by now.
    pub async fn replace(&self, path: &str, object: &Value) -> Result<(), KubeError> {
        self.send(Method::PUT, path, "application/json", object).await
    }

    /// Deletes an object; whether it was there.
    ///
    /// # Errors
    /// [`KubeError`]; after one it may be there or not.
    pub async fn remove(&self, path: &str) -> Result<bool, KubeError> {
        let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions" });
        match self.send(Method::DELETE, path, "application/json", &options).await {
            Ok(()) => Ok(true),
            Err(KubeError::NotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads an object; `None` if it is not there.
    ///
    /// # Errors
    /// [`KubeError`] if that cannot be read.
    pub async fn read(&self, path: &str) -> Result<Option<Value>, KubeError> {
        match self.reader.get(path).await {
            Ok(body) => {
                let decode = |source| KubeError::Decode { path: path.to_owned(), source };
                serde_json::from_slice(&body).map(Some).map_err(decode)
            }
            Err(KubeError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a Node object if it still has this UID.
    ///
    /// # Errors
    /// [`KubeError`]; after one the effect may be there or not. [`KubeError::NotFound`]: it is gone.
    pub async fn delete_node(&self, node: &str, uid: &str) -> Result<(), KubeError> {
        let options = json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": uid } });
        self.send(Method::DELETE, &format!("/api/v1/nodes/{node}"), "application/json", &options).await
    }

    /// Asks for the eviction of the pod with this UID, and of no other that has its name.
    ///
    /// # Errors
    /// [`KubeError`]; after one the pod may be going or not.
    ///
    /// # Source
    /// `pkg/registry/core/pod/storage/eviction.go` (v1.36): 429 for a budget and for too many requests, 500 if
    /// several budgets select the pod, 409 if the UID differs.
    pub async fn evict(&self, namespace: &str, pod: &str, uid: &str) -> Result<Evicted, KubeError> {
        let eviction = json!({
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": { "namespace": namespace, "name": pod },
            "deleteOptions": { "preconditions": { "uid": uid } },
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
        match self.send(Method::POST, &path, "application/json", &eviction).await {
            Ok(()) => Ok(Evicted::Accepted),
            Err(KubeError::NotFound { .. }) => Ok(Evicted::Gone),
            Err(KubeError::Api { status: 409, message, .. }) if message.contains("UID") => Ok(Evicted::Gone),
            Err(KubeError::Api { status: 429, message, .. }) => Ok(Evicted::Later { why: message }),
            Err(KubeError::Api { status: 500, message, .. }) if message.contains("PodDisruptionBudget") => {
                Ok(Evicted::Never { why: message })
            }
            Err(error) => Err(error),
        }
    }

    async fn merge_node(&self, node: &str, change: &Value) -> Result<(), KubeError> {
        self.send(Method::PATCH, &format!("/api/v1/nodes/{node}"), "application/merge-patch+json", change).await
    }

    async fn send(&self, method: Method, path: &str, content: &str, body: &Value) -> Result<(), KubeError> {
        let request = Request::builder().method(method).uri(path).header("Content-Type", content);
        let request = request.header("Accept", "application/json").body(Body::from(body.to_string().into_bytes()));
        self.guard.check()?;
        self.reader.change(path, request).await.map(drop)
    }
}
