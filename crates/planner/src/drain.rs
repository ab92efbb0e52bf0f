//! Whether everything on a node fits elsewhere.

use capplan_model::ids::ObjectName;

use crate::scheduler::{NodeId, PodId, Scheduler};

/// What a drain of one node comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drain {
    /// Pods that have to move.
    pub pods: usize,
    /// Those that find no place on the other nodes.
    pub left: Vec<ObjectName>,
}

/// Looks for a place for every pod of a node but those of DaemonSets and of its kubelet.
///
/// First fit, the largest pods first, each one counted before the next: an empty `left` is a proof that
/// the node can be drained; a pod in it is no proof that no other arrangement exists. The cluster is as
/// before afterwards.
pub fn drain(scheduler: &mut Scheduler<'_>, node: NodeId) -> Drain {
    let mut pods: Vec<PodId> =
        scheduler.cluster.pods_on(node).iter().copied().filter(|pod| !scheduler.cluster.pod(*pod).belongs_to_node()).collect();
    pods.sort_by_key(|pod| std::cmp::Reverse(scheduler.cluster.pod(*pod).requests.memory));
    let mark = scheduler.cluster.mark();
    for pod in &pods {
        scheduler.cluster.take(*pod);
    }
    let mut drain = Drain { pods: pods.len(), left: Vec::new() };
    let mut start = node + 1;
    for pod in pods {
        match scheduler.first_fit(pod, start, node) {
            Some(place) => {
                scheduler.cluster.bind(pod, place);
                // The next pod starts where this one found room: what was full stays full.
                start = place;
            }
            None => drain.left.push(scheduler.cluster.pod(pod).object_name()),
        }
    }
    scheduler.cluster.roll_back(mark);
    drain
}
