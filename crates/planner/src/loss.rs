//! The loss of a worker, by the sum of memory requests.

use capplan_model::ids::NodeName;
use capplan_model::policy::Scope;
use capplan_model::units::Bytes;

use crate::capacity::NodeUse;

/// What the loss of a worker would mean by memory requests alone.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeLoss {
    /// The worker.
    pub node: NodeName,
    /// Memory requests of its pods that move.
    pub to_move: Bytes,
    /// Unrequested memory of the other general workers.
    pub free: Bytes,
}

impl NodeLoss {
    /// Memory that is missing.
    pub fn short(&self) -> Bytes {
        self.to_move.minus(self.free)
    }
}

/// The loss of each general worker, the one that leaves most without a place first.
///
/// A sum only: that it fits by sum does not say that every pod finds a node.
pub fn losses(uses: &[NodeUse<'_>]) -> Vec<NodeLoss> {
    let general = || uses.iter().filter(|one| one.is_in(Scope::General));
    let free: Bytes = general().map(NodeUse::free_memory).sum();
    let mut losses: Vec<NodeLoss> = general()
        .map(|one| NodeLoss { node: one.node.name.clone(), to_move: one.movable_memory(), free: free.minus(one.free_memory()) })
        .collect();
    losses.sort_by(|a, b| b.short().cmp(&a.short()).then(b.to_move.cmp(&a.to_move)).then(a.node.cmp(&b.node)));
    losses
}
