//! What was seen of a cluster and what is to be done about it: values only.
//!
//! Nothing here does I/O, reads a clock or knows how an API spells its JSON. Every other crate
//! imports this one; this one imports none of ours.

mod anonymous;
pub mod capacity;
pub mod change;
pub mod disposal;
pub mod history;
pub mod ids;
pub mod join;
pub mod kube;
pub mod plan;
pub mod policy;
pub mod pve;
pub mod reading;
pub mod run;
pub mod scenario;
pub mod slots;
pub mod snapshot;
pub mod units;
pub mod volumes;

pub use reading::Reading;
pub use snapshot::Snapshot;
