//! A plain client of the API server for the rig itself: JSON in, JSON out.

use std::path::Path;
use std::sync::Arc;

use futures::StreamExt;
use http::{Method, Request};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{Failure, elements, failure};

/// Requests under way at once when many objects are written.
const PARALLEL: usize = 24;

/// An API server and a credential.
#[derive(Clone)]
pub struct Api {
    client: kube::Client,
    runtime: Arc<Runtime>,
}

impl std::fmt::Debug for Api {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Api")
    }
}

/// One request: method, path with query, and body.
#[derive(Clone, Debug)]
pub struct Call {
    /// GET, POST, PUT, PATCH or DELETE; a PATCH is a JSON merge patch.
    pub method: Method,
    /// Such as `/api/v1/nodes`.
    pub path: String,
    /// Null for none.
    pub body: Value,
}

impl Call {
    /// Reads.
    pub fn get(path: impl Into<String>) -> Self {
        Self { method: Method::GET, path: path.into(), body: Value::Null }
    }

    /// Creates in a collection.
    pub fn post(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::POST, path: path.into(), body }
    }

    /// Merges into an object.
    pub fn patch(path: impl Into<String>, body: Value) -> Self {
        Self { method: Method::PATCH, path: path.into(), body }
    }

    /// Deletes.
    pub fn delete(path: impl Into<String>) -> Self {
        Self { method: Method::DELETE, path: path.into(), body: Value::Null }
    }

    fn request(self) -> Result<Request<Vec<u8>>, Failure> {
        let kind = if self.method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = if self.body.is_null() { Vec::new() } else { self.body.to_string().into_bytes() };
        Request::builder()
            .method(self.method)
            .uri(&self.path)
            .header("Content-Type", kind)
            .body(body)
            .map_err(failure(format!("{} is no path", self.path)))
    }
}

impl Api {
    /// A client for the current context of a kubeconfig.
    ///
    /// # Errors
    /// The file cannot be used.
    pub fn new(kubeconfig: &Path) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = Arc::new(runtime.map_err(failure("cannot start a runtime"))?);
        let shown = kubeconfig.display();
        let config = Kubeconfig::read_from(kubeconfig).map_err(failure(format!("cannot read {shown}")))?;
        let client = runtime.block_on(async {
            let mut config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default())
                .await
                .map_err(failure(format!("cannot use {shown}")))?;
            config.default_retry = false;
            kube::Client::try_from(config).map_err(failure(format!("cannot use {shown}")))
        })?;
        Ok(Self { client, runtime })
    }

    async fn send(&self, call: Call) -> Result<Value, Failure> {
        let what = format!("{} {}", call.method, call.path);
        self.client.request(call.request()?).await.map_err(|error| {
            if let kube::Error::Api(status) = &error {
                // The Debug form of a status, which kube shows, is a page long.
                return Failure::new(format!("{what}: {} {}", status.code, status.message));
            }
            failure(what)(error)
        })
    }

    /// Sends one request.
    ///
    /// # Errors
    /// The server cannot be reached or refuses; its message is in the text.
    pub fn call(&self, call: Call) -> Result<Value, Failure> {
        self.runtime.block_on(self.send(call))
    }

    /// Sends many requests, several at once, and answers in their order.
    ///
    /// # Errors
    /// All refusals, a line each.
    pub fn call_all(&self, calls: Vec<Call>) -> Result<Vec<Value>, Failure> {
        self.all(calls.into_iter().map(|call| self.send(call)))
    }

    /// Creates many objects; one that a controller made in the meantime is answered as it is.
    ///
    /// # Errors
    /// As [`Api::call_all`].
    pub fn create_all(&self, calls: Vec<Call>) -> Result<Vec<Value>, Failure> {
        self.all(calls.into_iter().map(|call| self.create(call)))
    }

    async fn create(&self, call: Call) -> Result<Value, Failure> {
        let path = format!("{}/{}", call.path, call.body["metadata"]["name"].as_str().unwrap_or_default());
        match self.send(call).await {
            Err(failure) if failure.to_string().contains(": 409 ") => self.send(Call::get(path)).await,
            answer => answer,
        }
    }

    fn all(&self, work: impl Iterator<Item = impl Future<Output = Result<Value, Failure>>>) -> Result<Vec<Value>, Failure> {
        self.runtime.block_on(async {
            let answers = futures::stream::iter(work).buffered(PARALLEL).collect::<Vec<_>>().await;
            let (values, refusals): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
            if refusals.is_empty() {
                return Ok(values.into_iter().flatten().collect());
            }
            let lines: Vec<String> = refusals.into_iter().filter_map(|one| Some(one.err()?.to_string())).collect();
            Err(Failure::new(lines.join("\n")))
        })
    }

    /// Reads a path.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.call(Call::get(path))
    }

    /// The items of a collection.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let mut list = self.get(path)?;
        elements(list["items"].take()).ok_or_else(|| Failure::new(format!("{path} is no list")))
    }

    /// The answer of a path that is not JSON, such as `/readyz`.
    ///
    /// # Errors
    /// As [`Api::call`].
    pub fn text(&self, path: &str) -> Result<String, Failure> {
        let request = Call::get(path).request()?;
        self.runtime.block_on(self.client.request_text(request)).map_err(failure(format!("GET {path}")))
    }
}
