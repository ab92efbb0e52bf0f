//! One scheduling cycle: which nodes a pod may go on, and which one is best.
//!
//! What was worked out for a class of pods is kept and follows the moves of the cluster, so that the
//! next pod of the class costs little more than looking at the nodes that changed.

use super::affinity::{InterPod, Preferences};
use super::cluster::{Cluster, NodeId, PodId};
use super::filter::{self, Refusal};
use super::score::{self, Parts};
use super::spread::{HardSpread, SoftSpread};
use super::{Plugin, Rejection};

/// What a node's own filters say.
#[derive(Clone, Copy, Debug)]
enum Local {
    Unknown,
    Known(Option<Refusal>),
}

/// What is known for a class of pods.
#[derive(Clone, Debug)]
pub(super) struct Cycle {
    class: usize,
    epoch: u64,
    storage: u64,
    /// Moves followed so far.
    seen: usize,
    rejection: Option<Rejection>,
    /// The only nodes looked at, if the pod names them.
    named: Option<Vec<NodeId>>,
    /// What the node alone says, whatever is on it.
    fixed: Vec<Local>,
    /// What is on the node says.
    loaded: Vec<Local>,
    spread: HardSpread,
    pods: InterPod,
    scoring: Option<Scoring>,
}

#[derive(Clone, Debug)]
struct Scoring {
    parts: Vec<Option<Parts>>,
    spread: SoftSpread,
    preferences: Preferences,
    seen: usize,
}

impl Cycle {
    pub(super) fn of(pod: PodId, cluster: &mut Cluster<'_>) -> Self {
        let class = cluster.pods[pod].class;
        let seen = cluster.pods[pod].seen.clone();
        let pod = seen.pod();
        let (rejection, named) = super::prefilter(pod, &cluster.classes[class].claims, cluster);
        let spread = HardSpread::of(pod, cluster);
        let pods = InterPod::of(pod, cluster);
        let nodes = cluster.nodes.len();
        Self {
            class,
            epoch: cluster.epoch,
            storage: cluster.storage.version,
            seen: cluster.moves.len(),
            rejection,
            named,
            fixed: vec![Local::Unknown; nodes],
            loaded: vec![Local::Unknown; nodes],
            spread,
            pods,
            scoring: None,
        }
    }

    /// Whether it still speaks of the cluster as it is, once it has followed the moves.
    pub(super) fn follow(&mut self, cluster: &Cluster<'_>) -> bool {
        let claims = !cluster.classes[self.class].claims.is_empty();
        if self.epoch != cluster.epoch || (claims && self.storage != cluster.storage.version) {
            return false;
        }
        let moves = &cluster.moves[self.seen..];
        if moves.is_empty() {
            return true;
        }
        let pod = cluster.pod(cluster.classes[self.class].example);
        for one in moves {
            self.loaded[one.node] = Local::Unknown;
        }
        self.spread.follow(pod, moves, cluster);
        self.pods.follow(pod, moves, cluster);
        self.seen = cluster.moves.len();
        true
    }

    pub(super) fn rejection(&self) -> Option<&Rejection> {
        self.rejection.as_ref()
    }

    /// Why the pod does not go on the node; `None` if it may.
    pub(super) fn refusal(&mut self, node: NodeId, cluster: &Cluster<'_>) -> Option<Refusal> {
        let class = &cluster.classes[self.class];
        let fixed = match self.fixed[node] {
            Local::Known(fixed) => fixed,
            Local::Unknown => {
                let pod = cluster.pod(class.example);
                let fixed = if self.named.as_ref().is_some_and(|named| !named.contains(&node)) {
                    Some(Refusal::NotNamed)
                } else {
                    filter::of_node(pod, &cluster.nodes[node].node)
                };
                self.fixed[node] = Local::Known(fixed);
                fixed
            }
        };
        if fixed.is_some() {
            return fixed;
        }
        let loaded = match self.loaded[node] {
            Local::Known(loaded) => loaded,
            Local::Unknown => {
                let loaded = filter::of_load(class, node, cluster);
                self.loaded[node] = Local::Known(loaded);
                loaded
            }
        };
        loaded.or_else(|| self.spread.refusal(node, cluster)).or_else(|| self.pods.refusal(node, cluster))
    }

    /// Nodes the pod may go on.
    pub(super) fn feasible(&mut self, cluster: &Cluster<'_>) -> Vec<NodeId> {
        if self.rejection.is_some() {
            return Vec::new();
        }
        (0..cluster.nodes.len()).filter(|node| !cluster.nodes[*node].gone && self.refusal(*node, cluster).is_none()).collect()
    }

    fn scoring(&mut self, cluster: &mut Cluster<'_>) -> &mut Scoring {
        let seen = cluster.pods[cluster.classes[self.class].example].seen.clone();
        let pod = seen.pod();
        if let Some(scoring) = &mut self.scoring {
            let moves = &cluster.moves[scoring.seen..];
            for one in moves {
                scoring.parts[one.node] = None;
            }
            scoring.spread.follow(pod, moves, cluster);
            scoring.preferences.follow(pod, moves, cluster);
            scoring.seen = cluster.moves.len();
        }
        self.scoring.get_or_insert_with(|| Scoring {
            parts: vec![None; cluster.nodes.len()],
            spread: SoftSpread::of(pod, cluster),
            preferences: Preferences::of(pod, cluster),
            seen: cluster.moves.len(),
        })
    }

    /// Weighted scores of the nodes by plugin; each of `0..=100` times its weight.
    ///
    /// # Source
    /// Weights of `getDefaultPlugins`, `pkg/scheduler/apis/config/v1/default_plugins.go` (v1.36).
    pub(super) fn scores(&mut self, feasible: &[NodeId], cluster: &mut Cluster<'_>) -> Vec<(Plugin, Vec<i64>)> {
        let class = self.class;
        let scoring = self.scoring(cluster);
        let pod = cluster.pod(cluster.classes[class].example);
        let parts: Vec<Parts> = feasible
            .iter()
            .map(|node| *scoring.parts[*node].get_or_insert_with(|| Parts::of(pod, &cluster.classes[class], *node, cluster)))
            .collect();
        let column = |part: fn(&Parts) -> i64| parts.iter().map(part).collect::<Vec<i64>>();
        let normalised = |part: fn(&Parts) -> i64, reversed: bool| {
            let mut scores = column(part);
            score::normalise(&mut scores, reversed);
            scores
        };
        let mut scores = vec![
            (Plugin::TaintToleration, normalised(|parts| parts.taints, true)),
            (Plugin::NodeResourcesFit, column(|parts| parts.least_allocated)),
            (Plugin::ImageLocality, column(|parts| parts.images)),
        ];
        if !score::is_best_effort(&cluster.classes[class]) {
            scores.push((Plugin::NodeResourcesBalancedAllocation, column(|parts| parts.balanced)));
        }
        if !score::preferred_node_terms(pod).is_empty() {
            scores.push((Plugin::NodeAffinity, normalised(|parts| parts.preferred, false)));
        }
        if !scoring.spread.is_empty() {
            scores.push((Plugin::PodTopologySpread, scoring.spread.scores(feasible, cluster)));
        }
        if !scoring.preferences.is_empty() {
            scores.push((Plugin::InterPodAffinity, scoring.preferences.scores(feasible, cluster)));
        }
        for (plugin, column) in &mut scores {
            column.iter_mut().for_each(|score| *score *= plugin.weight());
        }
        scores
    }
}
