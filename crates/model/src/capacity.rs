//! What can run out, and who uses how much of it.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{Bytes, MilliCpu};

/// A limit that can bite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Dimension {
    /// Volumes of the driver per worker, both ledgers.
    VolumeSlots,
    /// VolumeAttachment objects of the driver per worker, as the runbook counts.
    VolumeAttachments,
    /// Memory requests against allocatable memory.
    MemoryRequests,
    /// Memory limits against allocatable memory: overcommit, a risk and no placement limit.
    MemoryLimits,
    /// CPU requests against allocatable CPU.
    Cpu,
    /// Pods against the node's maximum.
    Pods,
    /// An extended resource such as a GPU.
    ExtendedResource,
    /// Memory of the running guests against the host's.
    HostMemoryCommitted,
    /// Memory of all guests, if every stopped one started, against the host's.
    HostMemoryIfAllStarted,
    /// Memory in use on the host, so that limit − used is what is available.
    HostMemoryUsed,
    /// Data of an LVM-thin pool.
    PoolData,
    /// Metadata of an LVM-thin pool.
    PoolMetadata,
    /// File system of a node.
    NodeFilesystem,
    /// Objects that bloat the control plane's datastore.
    ControlPlaneObjects,
    /// Requests against a namespace's quota.
    Quota,
    /// Pods in state Evicted.
    EvictedPods,
}

impl Dimension {
    /// Every dimension, in the order of the report.
    pub const ALL: [Self; 16] = [
        Self::VolumeSlots,
        Self::VolumeAttachments,
        Self::MemoryRequests,
        Self::MemoryLimits,
        Self::Cpu,
        Self::Pods,
        Self::ExtendedResource,
        Self::HostMemoryCommitted,
        Self::HostMemoryIfAllStarted,
        Self::HostMemoryUsed,
        Self::PoolData,
        Self::PoolMetadata,
        Self::NodeFilesystem,
        Self::ControlPlaneObjects,
        Self::Quota,
        Self::EvictedPods,
    ];

    /// The stable name.
    pub fn name(self) -> &'static str {
        match self {
            Self::VolumeSlots => "volume-slots",
            Self::VolumeAttachments => "volume-attachments",
            Self::MemoryRequests => "memory-requests",
            Self::MemoryLimits => "memory-limits",
            Self::Cpu => "cpu",
            Self::Pods => "pods",
            Self::ExtendedResource => "extended-resource",
            Self::HostMemoryCommitted => "host-memory-committed",
            Self::HostMemoryIfAllStarted => "host-memory-if-all-started",
            Self::HostMemoryUsed => "host-memory-used",
            Self::PoolData => "pool-data",
            Self::PoolMetadata => "pool-metadata",
            Self::NodeFilesystem => "node-filesystem",
            Self::ControlPlaneObjects => "control-plane-objects",
            Self::Quota => "quota",
            Self::EvictedPods => "evicted-pods",
        }
    }

    /// The dimension of a stable name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dimension| dimension.name() == name)
    }

    /// The unit of used and limit.
    pub fn unit(self) -> Unit {
        match self {
            Self::MemoryRequests
            | Self::MemoryLimits
            | Self::HostMemoryCommitted
            | Self::HostMemoryIfAllStarted
            | Self::HostMemoryUsed
            | Self::PoolData
            | Self::PoolMetadata
            | Self::NodeFilesystem => Unit::Bytes,
            Self::Cpu => Unit::MilliCpu,
            Self::VolumeSlots
            | Self::VolumeAttachments
            | Self::Pods
            | Self::ExtendedResource
            | Self::ControlPlaneObjects
            | Self::Quota
            | Self::EvictedPods => Unit::Count,
        }
    }

    /// Whether a full limit stops something: a pod from being placed, a guest from starting, a
    /// write from succeeding. Overcommit and what-if figures are shown but never bind.
    pub fn binds(self) -> bool {
        match self {
            Self::VolumeSlots
            | Self::MemoryRequests
            | Self::Cpu
            | Self::Pods
            | Self::ExtendedResource
            | Self::HostMemoryCommitted
            | Self::HostMemoryUsed
            | Self::PoolData
            | Self::PoolMetadata
            | Self::NodeFilesystem
            | Self::ControlPlaneObjects
            | Self::Quota => true,
            Self::VolumeAttachments | Self::MemoryLimits | Self::HostMemoryIfAllStarted | Self::EvictedPods => false,
        }
    }
}

impl fmt::Display for Dimension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Unit of an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// Pieces.
    Count,
    /// Bytes.
    Bytes,
    /// Thousandths of a core.
    MilliCpu,
}

impl Unit {
    /// An amount of this unit in words.
    pub fn show(self, amount: f64) -> String {
        match self {
            Self::Count => format!("{amount:.0}"),
            Self::Bytes => Bytes(amount as u64).to_string(),
            Self::MilliCpu => MilliCpu(amount as u64).to_string(),
        }
    }
}

/// Who uses how much of which limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Usage {
    /// Of what.
    pub dimension: Dimension,
    /// By whom: a node, a host, `host/pool`, a namespace, or empty for the cluster. An extended
    /// resource appends its name: `node:resource`.
    pub subject: String,
    /// Used.
    pub used: f64,
    /// Limit, if there is one.
    pub limit: Option<f64>,
    /// Object the figures come from.
    pub source: &'static str,
}

impl Usage {
    /// Used as a share of the limit.
    pub fn ratio(&self) -> Option<f64> {
        self.limit.filter(|limit| *limit > 0.0).map(|limit| self.used / limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_read_back() {
        for dimension in Dimension::ALL {
            assert_eq!(Dimension::from_name(dimension.name()), Some(dimension));
            let json = serde_json::to_string(&dimension).expect("a unit variant");
            assert_eq!(json, format!("\"{}\"", dimension.name()), "the JSON name is the stable name");
        }
    }
}
