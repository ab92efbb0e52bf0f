//! How a VM is told to join: a credential that is made for it, user data around it, and an image to boot with.
//!
//! A secret lives in this process and in the image, and nowhere else: it is never read back.

mod cluster;
mod seed;
mod token;
mod user_data;

pub use cluster::{ClusterInfo, ClusterInfoError};
pub use seed::{SeedParts, image};
pub use token::Token;
pub use user_data::{Facts, UserDataError, user_data};

use capplan_model::plan::WorkerSpec;

use crate::secret::Secret;

/// The image that a plan hands to a worker, as Proxmox VE names it. The same after a crash.
pub(crate) fn seed_volume(plan: &str, spec: &WorkerSpec) -> String {
    format!("{}:iso/capplan-{}-{}.iso", spec.join.storage, spec.vmid, Token::id(plan, &spec.name))
}

/// What the user gives for workers that join.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// A template of the user data, instead of the one for the distribution.
    pub template: Option<String>,
    /// The credential, where none can be made.
    pub credential: Option<Secret>,
}
