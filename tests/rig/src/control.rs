//! JSON over plain HTTP, for the control APIs of the rig's own parts.

use std::sync::{Arc, Mutex, PoisonError};

use reqwest::{Client, Method};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::{Failure, failure};

/// A control API on loopback.
#[derive(Clone, Debug)]
pub struct Control {
    address: String,
    client: Client,
    runtime: Arc<Mutex<Runtime>>,
}

impl Control {
    /// A client for `http://127.0.0.1:port`.
    ///
    /// # Errors
    /// No runtime can be made.
    pub fn new(address: &str) -> Result<Self, Failure> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failure("cannot start a runtime"))?;
        drop(rustls::crypto::ring::default_provider().install_default());
        let client = Client::builder().no_proxy().build().map_err(failure("cannot make a client"))?;
        Ok(Self { address: address.to_owned(), client, runtime: Arc::new(Mutex::new(runtime)) })
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let what = format!("{method} {}{path}", self.address);
        let mut request = self.client.request(method, format!("{}{path}", self.address));
        if let Some(body) = body {
            request = request.json(body);
        }
        self.runtime.lock().unwrap_or_else(PoisonError::into_inner).block_on(async {
            let answer = request.send().await.map_err(failure(what.clone()))?;
            let status = answer.status();
            let text = answer.text().await.map_err(failure(what.clone()))?;
            if !status.is_success() {
                return Err(Failure::new(format!("{what}: {status}: {text}")));
            }
            serde_json::from_str(if text.is_empty() { "null" } else { &text }).map_err(failure(what))
        })
    }

    /// Reads.
    ///
    /// # Errors
    /// No answer, or not a good one.
    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::GET, path, None)
    }

    /// Adds.
    ///
    /// # Errors
    /// No answer, or not a good one.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::POST, path, Some(body))
    }

    /// Replaces.
    ///
    /// # Errors
    /// No answer, or not a good one.
    pub fn put(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::PUT, path, Some(body))
    }

    /// Changes.
    ///
    /// # Errors
    /// No answer, or not a good one.
    pub fn patch(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.send(Method::PATCH, path, Some(body))
    }

    /// Removes.
    ///
    /// # Errors
    /// No answer, or not a good one.
    pub fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.send(Method::DELETE, path, None)
    }
}
