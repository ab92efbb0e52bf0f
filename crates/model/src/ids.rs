//! Names of things, one type each, so that a host never passes for a node.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
        )]
        #[serde(transparent)]
        pub struct $type(pub String);

        impl $type {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<&str> for $type {
            fn from(name: &str) -> Self {
                Self(name.to_owned())
            }
        }

        impl From<String> for $type {
            fn from(name: String) -> Self {
                Self(name)
            }
        }
    };
}

name!(
    /// Name of a Kubernetes Node.
    NodeName
);
name!(
    /// Name of a Proxmox VE node, unique over all endpoints (prefixed by the endpoint if need be).
    HostName
);
name!(
    /// Name of a PersistentVolume.
    PvName
);
name!(
    /// `namespace/name` of a namespaced object.
    ObjectName
);
name!(
    /// The `volumeHandle` of a CSI volume, such as `region/zone/storage/vm-9999-pvc-…`.
    VolumeHandle
);
name!(
    /// Hash of a snapshot's content: `sha256:` and 64 hexadecimal digits.
    SnapshotId
);

impl ObjectName {
    /// Joins a namespace and a name.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(format!("{namespace}/{name}"))
    }
}

impl VolumeHandle {
    /// The volume as a VM config names it: `storage:volume`.
    ///
    /// # Source
    /// proxmox-csi writes handles as `region/zone/storage/disk`; `disk` itself may contain a slash
    /// on file storages (`9999/vm-9999-pvc-….raw`).
    pub fn volid(&self) -> Option<String> {
        let mut parts = self.0.splitn(4, '/');
        let (_region, _zone) = (parts.next()?, parts.next()?);
        let (storage, disk) = (parts.next()?, parts.next()?);
        Some(format!("{storage}:{disk}"))
    }
}

/// Number of a Proxmox VE guest, unique within one PVE cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct VmId(pub u32);

impl fmt::Display for VmId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_names_the_volume_as_the_vm_config_does() {
        let handle = VolumeHandle::from("pve/pve/local-lvm/vm-9999-pvc-1");
        assert_eq!(handle.volid().as_deref(), Some("local-lvm:vm-9999-pvc-1"));
        let file = VolumeHandle::from("r/z/store/9999/vm-9999-pvc-1.raw");
        assert_eq!(file.volid().as_deref(), Some("store:9999/vm-9999-pvc-1.raw"));
        assert_eq!(VolumeHandle::from("nfs-volume").volid(), None);
    }
}
