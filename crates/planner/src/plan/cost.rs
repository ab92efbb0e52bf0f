//! What it costs to empty a node, and in which order its pods leave.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use capplan_model::kube::Pod;
use capplan_model::plan::Cost;

use super::Scene;
use super::inventory::Inventory;
use crate::scheduler::{Cluster, NodeId, PodId};

/// Pods that have to leave a node when it is emptied.
pub(crate) fn leaving(cluster: &Cluster<'_>, node: NodeId) -> Vec<PodId> {
    let leaves = |pod: &Pod| !pod.belongs_to_node() && pod.deleting.is_none();
    cluster.pods_on(node).iter().copied().filter(|pod| leaves(cluster.pod(*pod))).collect()
}

/// The cost of emptying a node.
pub(crate) fn cost(scene: &Scene<'_>, cluster: &Cluster<'_>, node: NodeId) -> Cost {
    let name = &cluster.node(node).name;
    let inventory = &scene.inventory;
    let pods: Vec<&Pod> = leaving(cluster, node).into_iter().map(|pod| cluster.pod(pod)).collect();
    let remote = |pod: &&&Pod| {
        Inventory::is_storage_controller(pod) && inventory.consumers(pod).iter().any(|user| user.node.as_ref() != Some(name))
    };
    let volumes: BTreeSet<_> = pods.iter().flat_map(|pod| inventory.attachable(pod, &scene.ground.policy.attacher)).collect();
    let roles = scene.ground.policy.drain.roles.iter().filter(|role| role.node == name.as_str());
    Cost {
        controllers_with_remote_consumers: pods.iter().filter(remote).count() as u64,
        singleton_rwo: pods.iter().filter(|pod| inventory.is_single(pod) && inventory.has_rwo(pod)).count() as u64,
        single_primary: pods.iter().filter(|pod| inventory.is_primary(pod)).count() as u64,
        pvc_reattach: volumes.len() as u64,
        memory: pods.iter().map(|pod| pod.requests.memory).sum(),
        role: roles.map(|role| role.weight).fold(0.0, |sum, weight| sum + weight),
        total: 0.0,
    }
    .summed()
}

/// Whether a node serves volumes to others: it comes last.
pub(crate) fn serves_volumes(cluster: &Cluster<'_>, node: NodeId) -> bool {
    cluster.pods_on(node).iter().any(|pod| Inventory::is_storage_controller(cluster.pod(*pod)))
}

/// When a pod leaves its node: what is easily made again first, who serves volumes to others last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Turn {
    Stateless,
    Stateful,
    Primary,
    StorageController,
}

/// The turn of a pod.
pub(crate) fn turn(scene: &Scene<'_>, pod: &Pod) -> Turn {
    if Inventory::is_storage_controller(pod) {
        Turn::StorageController
    } else if scene.inventory.is_primary(pod) {
        Turn::Primary
    } else if pod.claims.is_empty() {
        Turn::Stateless
    } else {
        Turn::Stateful
    }
}

/// The pods of a node in the order of their eviction, those together that share a volume which one node at
/// a time may use. Within a turn the largest go first: they are the hardest to place.
pub(crate) fn in_order(scene: &Scene<'_>, cluster: &Cluster<'_>, node: NodeId, largest_first: bool) -> Vec<Vec<PodId>> {
    let mut pods: Vec<PodId> = leaving(cluster, node).into_iter().filter(|pod| cluster.pod(*pod).owner.is_some()).collect();
    pods.sort_by_cached_key(|id| {
        let pod = cluster.pod(*id);
        let turn = if largest_first { Turn::Stateless } else { turn(scene, pod) };
        (turn, Reverse(pod.requests.memory), Reverse(pod.requests.cpu), pod.object_name())
    });
    let mut groups: Vec<Vec<PodId>> = Vec::new();
    let mut taken: BTreeSet<PodId> = BTreeSet::new();
    for id in &pods {
        if !taken.insert(*id) {
            continue;
        }
        let mut group = vec![*id];
        let mut next = 0;
        while let Some(pod) = group.get(next).map(|id| cluster.pod(*id)) {
            let single = scene.inventory.volumes(pod).filter(|one| one.is_single_node());
            let shares: BTreeSet<(&str, &str)> = single
                .flat_map(|volume| scene.inventory.other_users(&volume.name, pod))
                .map(|user| (user.namespace.as_str(), user.name.as_str()))
                .collect();
            if !shares.is_empty() {
                let joins = |id: &&PodId| {
                    let pod = cluster.pod(**id);
                    shares.contains(&(pod.namespace.as_str(), pod.name.as_str()))
                };
                let more: Vec<PodId> = pods.iter().filter(joins).copied().filter(|id| !taken.contains(id)).collect();
                taken.extend(&more);
                group.extend(more);
            }
            next += 1;
        }
        groups.push(group);
    }
    groups
}
