//! What is kept on disk: snapshots and history.

pub mod history;
pub mod snapshot;
