//! The Proxmox VE plane: a client that only reads, and what it makes of the answers.
//!
//! Nothing here changes anything on a host: [`Reader`] knows no method but GET.

mod access;
mod answers;
mod check;
mod client;
mod config;
mod error;
mod files;
mod history;
mod observe;
mod tls;
pub mod wire;

pub use check::{check, clocks, missing_privileges, samples};
pub use client::{Endpoint, Reader, Trust};
pub use error::{EndpointError, PveError};
pub use files::from_files;
pub use history::{Consolidation, RrdPoint, StoragePoint, Timeframe, rrd, rrd_storage};
pub use observe::observe;
