//! The Proxmox VE plane: a client that only reads, what it makes of the answers, and one that changes.
//!
//! [`Reader`] sends nothing but GET; commands that only look hold no [`Writer`].

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
mod writer;

pub(crate) use client::is_loopback;
pub(crate) use config::{MARK, property};

pub use check::{Lacking, check, clocks, missing_privileges, samples};
pub use client::{Endpoint, Reader, Trust};
pub use error::{EndpointError, PveError};
pub use files::from_files;
pub use history::{Consolidation, RrdPoint, StoragePoint, Timeframe, rrd, rrd_storage};
pub use observe::{observe, observe_guest};
pub use writer::{TaskState, Writer};
