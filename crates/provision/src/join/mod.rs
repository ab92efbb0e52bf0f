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
pub use user_data::{Facts, UserDataError, doubts, user_data};

use capplan_model::ids::VmId;
use capplan_model::plan::WorkerSpec;
use capplan_model::policy::Distribution;

use crate::secret::Secret;

/// The image that a plan hands to a worker, as Proxmox VE names it. The same after a crash.
pub(crate) fn seed_volume(plan: &str, spec: &WorkerSpec) -> String {
    format!("{}:iso/capplan-{}-{}.iso", spec.join.storage, spec.vmid, Token::id(plan, &spec.name))
}

/// The image that a spare boots with, as Proxmox VE names it.
pub(crate) fn spare_volume(storage: &str, vmid: VmId) -> String {
    format!("{storage}:iso/capplan-spare-{vmid}.iso")
}

/// User data that take a worker's credentials away, each time that it boots: `bootcmd` runs before the network
/// is online, and what joins waits for that.
///
/// # Source
/// cloud-init's `cloud-init.service` is ordered before `network-online.target`; the kubelet's unit of the Debian
/// and RPM packages, and k3s', come after it.
pub(crate) fn reset_data(distribution: Distribution) -> &'static str {
    match distribution {
        Distribution::Kubeadm => "#cloud-config\nbootcmd:\n- [kubeadm, reset, --force]\n",
        // An agent has no unit `k3s`, a server no `k3s-agent`: a missing one must not keep the other.
        Distribution::K3s | Distribution::K3sServer => concat!(
            "#cloud-config\nbootcmd:\n",
            "- [systemctl, disable, --now, k3s-agent]\n",
            "- [systemctl, disable, --now, k3s]\n",
            "- rm -rf /var/lib/rancher/k3s/agent /var/lib/rancher/k3s/server /etc/rancher/node /etc/rancher/k3s",
            " /etc/systemd/system/k3s*.service.env\n",
        ),
        Distribution::Microk8s => "#cloud-config\nbootcmd:\n- [snap, disable, microk8s]\n",
    }
}

/// What the user gives for workers that join.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// A template of the user data, instead of the one for the distribution.
    pub template: Option<String>,
    /// The credential, where none can be made.
    pub credential: Option<Secret>,
}
