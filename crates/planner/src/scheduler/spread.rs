//! Topology spread: pods of a kind evenly over zones or nodes.
//!
//! # Source
//! `pkg/scheduler/framework/plugins/podtopologyspread` (v1.36).

use capplan_model::kube::{LabelSelector, Labels, Pod, TopologySpread};

use super::class::Class;
use super::cluster::{Cluster, Move, NodeId};
use super::filter::{Refusal, is_kept_off, is_selected, selects_all};
use super::selector::Selector;
use super::storage::equal_to;
use super::topology::NOWHERE;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// One constraint with its counts.
#[derive(Clone, Debug)]
struct Constraint {
    topology: usize,
    selector: Selector,
    max_skew: i64,
    min_domains: usize,
    /// Nodes whose pods count; `None` means all that have the labels.
    included: Option<Vec<bool>>,
    /// Matching pods by domain.
    counts: Vec<i64>,
    /// Included nodes by domain.
    present: Vec<u32>,
}

impl Constraint {
    fn of(spread: &TopologySpread, selector: Selector, pod: &Pod, cluster: &mut Cluster<'_>) -> Self {
        let topology = cluster.topologies.find(&spread.topology_key, &cluster.nodes);
        let honours = |policy: &Option<String>, usual: bool| policy.as_deref().map_or(usual, |policy| policy == "Honor");
        let by_affinity = honours(&spread.node_affinity_policy, true) && !selects_all(pod);
        let by_taints = honours(&spread.node_taints_policy, false);
        let included = (by_affinity || by_taints).then(|| {
            let counts = |node: &capplan_model::kube::Node| {
                (!by_affinity || is_selected(pod, node)) && (!by_taints || !is_kept_off(pod, node))
            };
            cluster.nodes.iter().map(|row| counts(&row.node)).collect()
        });
        Self {
            topology,
            selector,
            max_skew: i64::from(spread.max_skew),
            min_domains: spread.min_domains.map_or(1, |least| usize::try_from(least).unwrap_or(1)),
            included,
            counts: Vec::new(),
            present: Vec::new(),
        }
    }

    fn includes(&self, node: NodeId) -> bool {
        self.included.as_ref().is_none_or(|included| included[node])
    }

    fn counts_class(&self, pod: &Pod, class: &Class, cluster: &Cluster<'_>) -> bool {
        let other = cluster.pod(class.example);
        !class.terminating && other.namespace == pod.namespace && self.selector.matches(&other.labels)
    }
}

/// Whether the node has the label of each constraint.
fn has_labels(constraints: &[Constraint], node: NodeId, cluster: &Cluster<'_>) -> bool {
    constraints.iter().all(|one| cluster.topologies[one.topology].of[node] != NOWHERE)
}

/// Constraints that must hold.
#[derive(Clone, Debug, Default)]
pub(super) struct HardSpread {
    constraints: Vec<Constraint>,
    /// Whether the pod itself is counted, by constraint.
    own: Vec<i64>,
    /// Least count among the domains, by constraint.
    least: Vec<i64>,
}

impl HardSpread {
    pub(super) fn of(pod: &Pod, cluster: &mut Cluster<'_>) -> Self {
        let hard = pod.scheduling.topology_spread.iter().filter(|one| one.when_unsatisfiable != "ScheduleAnyway");
        let mut constraints: Vec<Constraint> =
            hard.map(|one| Constraint::of(one, Selector::of_spread(one, pod), pod, cluster)).collect();
        for place in 0..constraints.len() {
            let domains = cluster.topologies[constraints[place].topology].len();
            let (mut counts, mut present) = (vec![0; domains], vec![0; domains]);
            let counted = |node: NodeId| constraints[place].includes(node) && has_labels(&constraints, node, cluster);
            let domain = |node: NodeId| cluster.topologies[constraints[place].topology].of[node] as usize;
            for node in cluster.nodes().filter(|node| counted(*node)) {
                present[domain(node)] += 1;
            }
            if !constraints[place].selector.is_empty() {
                for class in cluster.classes.candidates(&constraints[place].selector) {
                    let class = &cluster.classes[class];
                    if class.on.is_empty() || !constraints[place].counts_class(pod, class, cluster) {
                        continue;
                    }
                    for (node, count) in class.on.iter().filter(|(node, _)| counted(*node)) {
                        counts[domain(*node)] += i64::from(*count);
                    }
                }
            }
            (constraints[place].counts, constraints[place].present) = (counts, present);
        }
        let own = constraints.iter().map(|one| i64::from(one.selector.matches(&pod.labels))).collect();
        let mut spread = Self { least: Vec::new(), constraints, own };
        spread.settle();
        spread
    }

    fn settle(&mut self) {
        self.least = self
            .constraints
            .iter()
            .map(|one| {
                let present = || one.present.iter().enumerate().filter(|(_, nodes)| **nodes > 0);
                if present().count() < one.min_domains {
                    return 0;
                }
                present().map(|(domain, _)| one.counts[domain]).min().unwrap_or(i64::from(i32::MAX))
            })
            .collect();
    }

    /// Follows pods that came or went.
    pub(super) fn follow(&mut self, pod: &Pod, moves: &[Move], cluster: &Cluster<'_>) {
        if self.constraints.is_empty() {
            return;
        }
        let mut changed = false;
        for one in moves {
            if !has_labels(&self.constraints, one.node, cluster) {
                continue;
            }
            for constraint in &mut self.constraints {
                let counted = constraint.includes(one.node)
                    && !constraint.selector.is_empty()
                    && constraint.counts_class(pod, &cluster.classes[one.class], cluster);
                if counted {
                    let domain = cluster.topologies[constraint.topology].of[one.node] as usize;
                    constraint.counts[domain] += one.sign;
                    changed = true;
                }
            }
        }
        if changed {
            self.settle();
        }
    }

    pub(super) fn refusal(&self, node: NodeId, cluster: &Cluster<'_>) -> Option<Refusal> {
        for (place, constraint) in self.constraints.iter().enumerate() {
            let domain = cluster.topologies[constraint.topology].of[node];
            if domain == NOWHERE {
                return Some(Refusal::SpreadLabel);
            }
            // A domain none of whose nodes is included counts no pods.
            let skew = constraint.counts[domain as usize] + self.own[place] - self.least[place];
            if skew > constraint.max_skew {
                return Some(Refusal::Spread);
            }
        }
        None
    }
}

/// Constraints that are scored.
#[derive(Clone, Debug, Default)]
pub(super) struct SoftSpread {
    constraints: Vec<Constraint>,
    /// Whether the topology is the node itself, by constraint.
    by_node: Vec<bool>,
    /// Whether nodes that lack a label are left out.
    all_labels: bool,
    /// Matching pods by node, for constraints over nodes; empty for others.
    on_node: Vec<Vec<i64>>,
    /// Matching pods on nodes that lack the label, which are a domain of their own.
    without: Vec<i64>,
}

impl SoftSpread {
    pub(super) fn of(pod: &Pod, cluster: &mut Cluster<'_>) -> Self {
        let own = &pod.scheduling.topology_spread;
        let constraints: Vec<Constraint> = if own.is_empty() {
            match default_selector(pod, cluster) {
                Some(selector) => {
                    system_defaults().iter().map(|one| Constraint::of(one, selector.clone(), pod, cluster)).collect()
                }
                None => Vec::new(),
            }
        } else {
            own.iter()
                .filter(|one| one.when_unsatisfiable == "ScheduleAnyway")
                .map(|one| Constraint::of(one, Selector::of_spread(one, pod), pod, cluster))
                .collect()
        };
        let all_labels = !own.is_empty();
        let by_node: Vec<bool> = constraints.iter().map(|one| cluster.topologies[one.topology].key == HOSTNAME).collect();
        let nodes = cluster.nodes.len();
        let mut spread = Self {
            on_node: by_node.iter().map(|by_node| vec![0; if *by_node { nodes } else { 0 }]).collect(),
            without: vec![0; constraints.len()],
            by_node,
            all_labels,
            constraints,
        };
        for place in 0..spread.constraints.len() {
            spread.constraints[place].counts = vec![0; cluster.topologies[spread.constraints[place].topology].len()];
            if spread.constraints[place].selector.is_empty() {
                continue;
            }
            let classes: Vec<usize> = cluster.classes.candidates(&spread.constraints[place].selector).collect();
            for class in classes {
                let class = &cluster.classes[class];
                if class.on.is_empty() || !spread.constraints[place].counts_class(pod, class, cluster) {
                    continue;
                }
                for (node, count) in &class.on {
                    spread.count(place, *node, i64::from(*count), cluster);
                }
            }
        }
        spread
    }

    fn count(&mut self, place: usize, node: NodeId, count: i64, cluster: &Cluster<'_>) {
        if cluster.nodes[node].gone {
            return;
        }
        if self.by_node[place] {
            self.on_node[place][node] += count;
        }
        if self.all_labels && !has_labels(&self.constraints, node, cluster) {
            return;
        }
        let constraint = &mut self.constraints[place];
        if !constraint.includes(node) {
            return;
        }
        match cluster.topologies[constraint.topology].of[node] {
            NOWHERE => self.without[place] += count,
            domain => constraint.counts[domain as usize] += count,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.constraints.is_empty()
    }

    /// Follows pods that came or went.
    pub(super) fn follow(&mut self, pod: &Pod, moves: &[Move], cluster: &Cluster<'_>) {
        for one in moves {
            for place in 0..self.constraints.len() {
                let constraint = &self.constraints[place];
                if !constraint.selector.is_empty() && constraint.counts_class(pod, &cluster.classes[one.class], cluster) {
                    self.count(place, one.node, one.sign, cluster);
                }
            }
        }
    }

    /// Scores of the nodes, normalised to 0..=100.
    pub(super) fn scores(&self, feasible: &[NodeId], cluster: &Cluster<'_>) -> Vec<i64> {
        let ignored = |node: NodeId| self.all_labels && !has_labels(&self.constraints, node, cluster);
        let ignoring = self.all_labels && feasible.iter().any(|node| ignored(*node));
        let weights: Vec<f64> = self
            .constraints
            .iter()
            .enumerate()
            .map(|(place, one)| {
                let size = if self.by_node[place] {
                    feasible.iter().filter(|node| !ignoring || !ignored(**node)).count()
                } else {
                    let of = &cluster.topologies[one.topology].of;
                    let (mut seen, mut size, mut without) = (vec![false; one.counts.len()], 0, 0);
                    for node in feasible.iter().filter(|node| !ignoring || !ignored(**node)) {
                        match of[*node] {
                            // Nodes without the label are a domain of their own here.
                            NOWHERE => without = 1,
                            domain => {
                                size += usize::from(!seen[domain as usize]);
                                seen[domain as usize] = true;
                            }
                        }
                    }
                    size + without
                };
                ((size + 2) as f64).ln()
            })
            .collect();
        let raw = |node: NodeId| -> i64 {
            let mut score = 0.0;
            for (place, constraint) in self.constraints.iter().enumerate() {
                let domain = cluster.topologies[constraint.topology].of[node];
                if domain == NOWHERE {
                    continue;
                }
                let count = if self.by_node[place] { self.on_node[place][node] } else { constraint.counts[domain as usize] };
                score += count as f64 * weights[place] + (constraint.max_skew - 1) as f64;
            }
            score.round() as i64
        };
        let mut scores: Vec<i64> = feasible.iter().map(|node| if ignoring && ignored(*node) { -1 } else { raw(*node) }).collect();
        let kept = || scores.iter().filter(|score| **score >= 0);
        let (least, most) = (kept().min().copied().unwrap_or(0), kept().max().copied().unwrap_or(0));
        for score in &mut scores {
            *score = match *score {
                -1 => 0,
                _ if most == 0 => 100,
                score => 100 * (most + least - score) / most,
            };
        }
        scores
    }
}

/// The constraints of pods that have none, which are scored only.
fn system_defaults() -> [TopologySpread; 2] {
    [(HOSTNAME, 3), (ZONE, 5)].map(|(key, max_skew)| TopologySpread {
        max_skew,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        ..TopologySpread::default()
    })
}

/// What the Services and the owner of a pod select, together; `None` if nothing selects it.
///
/// # Source
/// `DefaultSelector`, `pkg/scheduler/framework/plugins/helper/spread.go` (v1.36).
fn default_selector(pod: &Pod, cluster: &Cluster<'_>) -> Option<Selector> {
    let mut merged = Labels::new();
    for selector in cluster.spreading.services.get(pod.namespace.as_str()).into_iter().flatten() {
        if selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value)) {
            merged.extend(selector.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
    }
    let owner = pod
        .owner
        .as_ref()
        .and_then(|owner| cluster.spreading.owners.get(&(owner.kind.as_str(), pod.namespace.as_str(), owner.name.as_str())));
    let all: Vec<LabelSelector> = [(!merged.is_empty()).then(|| equal_to(&merged)), owner.map(|selector| (*selector).clone())]
        .into_iter()
        .flatten()
        .collect();
    let selector = Selector::of_all(all);
    (!selector.is_empty()).then_some(selector)
}
