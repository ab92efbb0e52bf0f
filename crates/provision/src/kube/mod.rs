//! The Kubernetes plane.
