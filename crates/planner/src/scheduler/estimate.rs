//! How many new nodes of a kind some pods need: first fit, the largest pods first.

use capplan_model::kube::{Node, Pod};

use super::class::required_anti_affinity;
use super::filter;

/// What an estimate came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// New nodes.
    pub nodes: u64,
    /// Pods that find a place on them.
    pub placed: u64,
    /// Pods that such a node never takes.
    pub never: u64,
}

/// Equal pods, and how many of them.
#[derive(Clone, Copy, Debug)]
pub struct Group<'a> {
    /// One of them.
    pub pod: &'a Pod,
    /// How many.
    pub count: u64,
    /// Volumes of each, of the driver whose slots a new node has.
    pub volumes: u64,
}

/// What is left on nodes that are equally full.
#[derive(Clone, Debug, PartialEq)]
struct Open {
    left: Vec<u64>,
    nodes: u64,
}

/// Estimates how many nodes like `node`, of which DaemonSets already have their part, take `groups`.
///
/// `slots` is the number of volumes that such a node takes. Nodes that are equally full are one entry,
/// so the cost grows with the kinds of pods and not with their number. Topology spread and affinity to
/// other pods are left out: the estimate is a least number. Pods that keep away from their own kind take
/// a node each.
pub fn estimate(node: &Node, slots: u64, groups: &[Group<'_>]) -> Estimate {
    let extended: Vec<&String> = node.allocatable.extended.keys().collect();
    let amounts = |pod: &Pod, volumes: u64| -> Vec<u64> {
        let requests = &pod.requests;
        let mut list = vec![requests.cpu.0, requests.memory.0, requests.ephemeral.0, 1, volumes];
        list.extend(extended.iter().map(|name| requests.extended.get(*name).copied().unwrap_or(0)));
        list
    };
    let allocatable = &node.allocatable;
    let mut most = vec![allocatable.cpu.0, allocatable.memory.0, allocatable.ephemeral.0, node.max_pods, slots];
    most.extend(extended.iter().map(|name| allocatable.extended[*name]));
    // The share of a node that a pod takes, CPU and memory together.
    let size = |pod: &Pod| {
        let share = |part: u64, all: u64| if all == 0 { 0.0 } else { part as f64 / all as f64 };
        share(pod.requests.cpu.0, most[0]) + share(pod.requests.memory.0, most[1])
    };
    let mut order: Vec<&Group<'_>> = groups.iter().collect();
    order.sort_by(|a, b| size(b.pod).total_cmp(&size(a.pod)));
    let mut open: Vec<Open> = Vec::new();
    let mut estimate = Estimate::default();
    for group in order {
        let wanted = amounts(group.pod, group.volumes);
        let alone = required_anti_affinity(group.pod).iter().any(|term| {
            term.topology_key == "kubernetes.io/hostname"
                && term.label_selector.as_ref().is_some_and(|selector| selector.matches(&group.pod.labels))
        });
        let times = |left: &[u64]| -> u64 {
            let each = wanted.iter().zip(left).filter(|(wanted, _)| **wanted > 0).map(|(wanted, left)| left / wanted);
            let least = each.min().unwrap_or(u64::MAX);
            if alone { least.min(1) } else { least }
        };
        let unknown =
            group.pod.requests.extended.iter().any(|(name, amount)| *amount > 0 && !allocatable.extended.contains_key(name));
        if unknown || times(&most) == 0 || filter::of_node(group.pod, node).is_some() {
            estimate.never += group.count;
            continue;
        }
        let mut remaining = group.count;
        let mut next: Vec<Open> = Vec::new();
        let mut add = |left: Vec<u64>, nodes: u64| {
            if nodes > 0 {
                match next.iter_mut().find(|one| one.left == left) {
                    Some(one) => one.nodes += nodes,
                    None => next.push(Open { left, nodes }),
                }
            }
        };
        let minus = |left: &[u64], copies: u64| -> Vec<u64> {
            left.iter().zip(&wanted).map(|(left, wanted)| left - wanted * copies).collect()
        };
        let fresh = Open { left: most.clone(), nodes: u64::MAX };
        for (place, one) in open.iter().chain([&fresh]).enumerate() {
            let is_fresh = place == open.len();
            let copies = times(&one.left).min(remaining.max(1));
            let full = remaining.checked_div(copies).unwrap_or(0).min(one.nodes);
            remaining -= full * copies;
            let part = if copies > 0 && full < one.nodes { remaining.min(copies) } else { 0 };
            remaining -= part;
            if full > 0 {
                add(minus(&one.left, copies), full);
            }
            if part > 0 {
                add(minus(&one.left, part), 1);
            }
            let touched = full + u64::from(part > 0);
            if is_fresh {
                estimate.nodes += touched;
            } else {
                add(one.left.clone(), one.nodes - touched);
            }
        }
        estimate.placed += group.count - remaining;
        open = next;
    }
    estimate
}

#[cfg(test)]
mod tests {
    use super::*;
    use capplan_model::kube::Resources;
    use capplan_model::units::{Bytes, MilliCpu};

    fn amounts(cpu: u64, memory: u64) -> Resources {
        Resources { cpu: MilliCpu(cpu), memory: Bytes(memory), ..Resources::default() }
    }

    fn group(pod: &Pod, count: u64) -> Group<'_> {
        Group { pod, count, volumes: 0 }
    }

    #[test]
    fn the_cluster_autoscalers_own_case_has_its_published_answer() {
        let node = Node { allocatable: amounts(1000, 5000), max_pods: 100, ..Node::default() };
        let small = Pod { requests: amounts(50, 100), ..Pod::default() };
        let large = Pod { requests: amounts(95, 190), ..Pod::default() };
        let estimate = estimate(&node, 0, &[group(&small, 50_000), group(&large, 1_000)]);
        assert_eq!(estimate, Estimate { nodes: 2_595, placed: 51_000, never: 0 });
    }

    #[test]
    fn a_pod_larger_than_the_node_never_fits_and_a_remainder_shares_a_node() {
        let node = Node { allocatable: amounts(1000, 1000), max_pods: 10, ..Node::default() };
        let huge = Pod { requests: amounts(1001, 1), ..Pod::default() };
        let half = Pod { requests: amounts(500, 100), ..Pod::default() };
        let tiny = Pod { requests: amounts(100, 100), ..Pod::default() };
        let estimate = estimate(&node, 0, &[group(&huge, 2), group(&half, 3), group(&tiny, 7)]);
        // Two halves; one half and five tiny ones; two tiny ones.
        assert_eq!(estimate, Estimate { nodes: 3, placed: 10, never: 2 });
    }
}
