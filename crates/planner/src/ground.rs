//! What every question about a cluster rests on.

use std::collections::BTreeMap;

use capplan_model::ids::{HostName, NodeName};
use capplan_model::join::{Join, join};
use capplan_model::policy::Policy;
use capplan_model::pve::Guest;
use capplan_model::{Reading, Snapshot};

/// A snapshot, a policy, and which VM is which node.
pub(crate) struct Ground<'a> {
    pub snapshot: &'a Snapshot,
    pub policy: &'a Policy,
    /// The VM of each node.
    pub joins: Reading<BTreeMap<&'a NodeName, Join<'a>>>,
}

impl<'a> Ground<'a> {
    pub(crate) fn of(snapshot: &'a Snapshot, policy: &'a Policy) -> Self {
        Self { snapshot, policy, joins: join(snapshot) }
    }

    /// The VM of a node.
    pub(crate) fn guest(&self, node: &NodeName) -> Option<&'a Guest> {
        match self.joins.known()?.get(node)? {
            Join::Guest(guest) => Some(*guest),
            Join::Missing | Join::Ambiguous { .. } => None,
        }
    }

    /// Nodes whose VM is on a host.
    pub(crate) fn nodes_on(&self, host: &HostName) -> Reading<Vec<NodeName>> {
        self.joins.as_ref().map(|joins| {
            let is_on = |node: &&NodeName| self.guest(node).is_some_and(|guest| guest.host == *host);
            joins.keys().copied().filter(is_on).cloned().collect()
        })
    }
}
