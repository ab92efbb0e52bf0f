//! The Kubernetes plane: a client that only reads, the API's JSON, and saved lists.

pub mod client;
pub mod lists;
pub mod observe;
mod stream;
mod wire;

pub use client::{Connection, KubeError, Reader};
