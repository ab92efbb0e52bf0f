//! A rig for end-to-end tests: real Kubernetes, an independent Proxmox VE double, machines that
//! boot and join, and a real Prometheus, all on loopback addresses.
//!
//! Nothing here is part of the product; `README.md` beside this crate has a picture of the parts.

use std::fmt;

pub mod campaign;
pub mod components;
pub mod control;
pub mod control_plane;
pub mod double;

pub mod gate;
pub mod kube;
pub mod machines;
pub mod objects;
pub mod operator;
pub mod placement;
pub mod plant;
pub mod process;
pub mod prometheus;
mod rig;
pub mod small_disk;
mod supervisor;

pub use rig::{KUBECONFIG_VARIABLE, Rig};

/// Why the rig could not do something; for people who read the output of a test.
pub struct Failure(String);

impl Failure {
    /// A failure with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// The elements of an array.
pub(crate) fn elements(value: serde_json::Value) -> Option<Vec<serde_json::Value>> {
    if let serde_json::Value::Array(elements) = value { Some(elements) } else { None }
}

/// The text at a JSON pointer; empty if there is none.
pub(crate) fn text<'a>(value: &'a serde_json::Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default()
}

/// Says what failed before saying why.
pub(crate) fn failure<E: std::error::Error>(what: impl Into<String>) -> impl FnOnce(E) -> Failure {
    let what = what.into();
    move |error| {
        let mut text = format!("{what}: {error}");
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            if !text.contains(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            source = cause.source();
        }
        Failure(text)
    }
}
