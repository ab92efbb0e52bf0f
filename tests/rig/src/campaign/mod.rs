//! Records decisions of the real scheduler on random clusters, for a simulator to be held against.
//!
//! A case is a [generated](generate()) cluster that is nearly full, additions to it, the drain of a
//! node and the loss of another. [`record()`] plays it pod by pod and keeps what the scheduler saw and
//! said; `README.md` of the crate describes the files.

mod features;
mod generate;
mod log;
mod record;

pub use generate::{Case, Loss, generate};
pub use record::{Campaign, Summary, record, record_all};
