//! Everything that touches the world: the two clients, observation, and what is kept on disk.
//!
//! The planner is not known here: only values of `capplan-model` pass between them.

pub mod check;
pub mod execute;
pub mod join;
pub mod kube;
pub mod lease;
pub mod limits;
pub mod manifest;
pub mod observe;
pub mod prometheus;
pub mod pve;
pub mod secret;
pub mod store;
mod tls;
pub mod world;
