//! What is kept on disk: snapshots, history, and the journals of runs.

pub mod files;
pub mod history;
pub mod journal;
pub mod snapshot;
