//! Prometheus range queries.
