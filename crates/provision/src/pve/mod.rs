//! The Proxmox VE plane.
