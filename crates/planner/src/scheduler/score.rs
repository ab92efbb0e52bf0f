//! Scores that look at one node.

use capplan_model::kube::{Effect, Pod};

use super::class::Class;
use super::cluster::{Cluster, NodeId};
use super::filter::tolerates;

/// What is scored of a node without regard to the other ones.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parts {
    /// NodeResourcesFit, 0..=100.
    pub least_allocated: i64,
    /// NodeResourcesBalancedAllocation, 0..=100.
    pub balanced: i64,
    /// ImageLocality, 0..=100.
    pub images: i64,
    /// Taints of effect PreferNoSchedule that are not tolerated.
    pub taints: i64,
    /// Weights of the preferred node affinity terms that match.
    pub preferred: i64,
}

impl Parts {
    pub(super) fn of(pod: &Pod, class: &Class, node: NodeId, cluster: &Cluster<'_>) -> Self {
        let row = &cluster.nodes[node];
        let soft = row.node.taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule && !tolerates(pod, taint));
        let terms = preferred_node_terms(pod).iter().filter(|term| term.weight != 0 && term.preference.matches(&row.node));
        Self {
            least_allocated: least_allocated(class, node, cluster),
            balanced: balanced(class, node, cluster),
            images: images(pod, node, cluster),
            taints: soft.count() as i64,
            preferred: terms.map(|term| i64::from(term.weight)).sum(),
        }
    }
}

/// Preferred node affinity terms of a pod.
pub(super) fn preferred_node_terms(pod: &Pod) -> &[capplan_model::kube::PreferredNodeTerm] {
    let affinity = pod.scheduling.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    affinity.map_or(&[], |affinity| &affinity.preferred)
}

/// Free CPU and memory after the placement, in percent, averaged.
///
/// # Source
/// `leastResourceScorer`, `pkg/scheduler/framework/plugins/noderesources/least_allocated.go` (v1.36),
/// with the default weights of 1 for CPU and memory.
fn least_allocated(class: &Class, node: NodeId, cluster: &Cluster<'_>) -> i64 {
    let load = &cluster.loads[node];
    let (mut score, mut weights) = (0, 0);
    let amounts = [
        (load.scored_cpu.saturating_add(class.arriving.0), load.most_cpu),
        (load.scored_memory.saturating_add(class.arriving.1), load.most_memory),
    ];
    for (requested, most) in amounts.into_iter().filter(|(_, most)| *most != 0) {
        score += if requested > most { 0 } else { (most - requested) * 100 / most };
        weights += 1;
    }
    if weights == 0 { 0 } else { score / weights }
}

/// Whether nothing is asked for, so that there is nothing to balance.
pub(super) fn is_best_effort(class: &Class) -> bool {
    class.cpu == 0 && class.memory == 0
}

/// How much more evenly CPU and memory are used after the placement.
///
/// # Source
/// `balancedResourceScorer`, `pkg/scheduler/framework/plugins/noderesources/balanced_allocation.go`
/// (v1.36).
fn balanced(class: &Class, node: NodeId, cluster: &Cluster<'_>) -> i64 {
    if is_best_effort(class) {
        return 0;
    }
    let load = &cluster.loads[node];
    let evenness = |cpu: i64, memory: i64| {
        let fraction = |used: i64, most: i64| (used as f64 / most as f64).min(1.0);
        let deviation = if load.most_cpu == 0 || load.most_memory == 0 {
            0.0
        } else {
            ((fraction(cpu, load.most_cpu) - fraction(memory, load.most_memory)) / 2.0).abs()
        };
        ((1.0 - deviation) * 100.0) as i64
    };
    let without = evenness(load.cpu, load.memory);
    let with = evenness(load.cpu + class.cpu, load.memory + class.memory);
    50 + (50 + with - without) / 2
}

/// Size below which the images on a node count for nothing.
///
/// # Source
/// `minThreshold`, `pkg/scheduler/framework/plugins/imagelocality` (v1.36).
const LEAST_IMAGES: i64 = 23 * 1024 * 1024;
/// Size a container above which more of them counts for nothing.
///
/// # Source
/// `maxContainerThreshold`, the same.
const MOST_IMAGES: i64 = 1000 * 1024 * 1024;

/// How much of the pod's images is on the node, those on many nodes more than rare ones.
fn images(pod: &Pod, node: NodeId, cluster: &Cluster<'_>) -> i64 {
    if pod.images.is_empty() || cluster.images.is_empty() {
        return 0;
    }
    let all = cluster.node_count() as f64;
    let there = &cluster.nodes[node].node.images;
    let sum: i64 = pod
        .images
        .iter()
        .filter_map(|image| {
            let name = normalised(image);
            let is_there = there.iter().any(|one| one.names.iter().any(|one| one == name.as_ref()));
            let (size, nodes) = is_there.then(|| cluster.images.get(&name)).flatten()?;
            Some((size as f64 * (f64::from(nodes) / all)) as i64)
        })
        .sum();
    let most = MOST_IMAGES * pod.images.len() as i64;
    100 * (sum.clamp(LEAST_IMAGES, most) - LEAST_IMAGES) / (most - LEAST_IMAGES)
}

/// The name with a tag.
fn normalised(name: &str) -> std::borrow::Cow<'_, str> {
    // A colon before the last slash belongs to a registry's port.
    if name.rfind(':') <= name.rfind('/') { format!("{name}:latest").into() } else { name.into() }
}

/// Scales scores so that the largest becomes 100; `reversed` turns them round.
///
/// # Source
/// `DefaultNormalizeScore`, `pkg/scheduler/framework/plugins/helper/normalize_score.go` (v1.36).
pub(super) fn normalise(scores: &mut [i64], reversed: bool) {
    let most = scores.iter().max().copied().unwrap_or(0);
    for score in scores {
        let scaled = if most == 0 { 0 } else { 100 * *score / most };
        *score = if reversed { 100 - scaled } else { scaled };
    }
}
