//! Inter-pod affinity: pods that want to be together or apart.
//!
//! # Source
//! `pkg/scheduler/framework/plugins/interpodaffinity` (v1.36).

use capplan_model::kube::{Pod, PodAffinityTerm};

use super::class::{preferred_terms, required_affinity, required_anti_affinity};
use super::cluster::{Cluster, Move, NodeId};
use super::filter::Refusal;
use super::selector::{Selector, speaks_of};
use super::topology::NOWHERE;

/// Weight of required affinity terms of the pods that are there, when nodes are scored.
///
/// # Source
/// `DefaultHardPodAffinitySymmetricWeight`, `pkg/scheduler/apis/config/v1/defaults.go` (v1.36).
const HARD_WEIGHT: i64 = 1;

/// Where pods are: `(node, how many)`.
trait Places: Iterator<Item = (NodeId, i64)> + Clone {}
impl<T: Iterator<Item = (NodeId, i64)> + Clone> Places for T {}

fn places<'c>(class: usize, cluster: &'c Cluster<'_>) -> impl Places + use<'c> {
    cluster.classes[class].on.iter().map(|(node, count)| (*node, i64::from(*count)))
}

/// Sums by domain, for each topology key.
#[derive(Clone, Debug, Default)]
struct Sums(Vec<(usize, Vec<i64>)>);

impl Sums {
    fn add(&mut self, topology: usize, on: impl Places, weight: i64, cluster: &Cluster<'_>) {
        let of = &cluster.topologies[topology];
        let place = match self.0.iter().position(|(one, _)| *one == topology) {
            Some(place) => place,
            None => {
                self.0.push((topology, Vec::new()));
                self.0.len() - 1
            }
        };
        let sums = &mut self.0[place].1;
        sums.resize(of.len(), 0);
        for (node, count) in on.filter(|(node, _)| of.of[*node] != NOWHERE) {
            sums[of.of[node] as usize] += weight * count;
        }
    }

    fn at(&self, topology: usize, node: NodeId, cluster: &Cluster<'_>) -> i64 {
        let sums = self.0.iter().find(|(one, _)| *one == topology).map(|(_, sums)| sums);
        let domain = cluster.topologies[topology].of[node];
        if domain == NOWHERE { 0 } else { sums.and_then(|sums| sums.get(domain as usize)).copied().unwrap_or(0) }
    }

    /// All topologies' sums at a node, one after the other.
    fn all_at<'s>(&'s self, node: NodeId, cluster: &'s Cluster<'_>) -> impl Iterator<Item = i64> + 's {
        self.0.iter().filter_map(move |(topology, sums)| {
            let domain = cluster.topologies[*topology].of[node];
            if domain == NOWHERE { None } else { sums.get(domain as usize).copied() }
        })
    }

    fn is_zero(&self) -> bool {
        self.0.iter().all(|(_, sums)| sums.iter().all(|sum| *sum == 0))
    }
}

/// A term with what is looked up once.
#[derive(Clone, Debug)]
struct Term {
    term: PodAffinityTerm,
    selector: Selector,
    topology: usize,
}

impl Term {
    fn of(term: &PodAffinityTerm, cluster: &mut Cluster<'_>) -> Self {
        let topology = cluster.topologies.find(&term.topology_key, &cluster.nodes);
        Self { term: term.clone(), selector: Selector::of_term(term), topology }
    }
}

/// What pods ask of each other, from the view of one of them.
#[derive(Clone, Debug, Default)]
pub(super) struct InterPod {
    affinity: Vec<Term>,
    anti_affinity: Vec<Term>,
    /// Pods that match every affinity term.
    together: Sums,
    /// Pods that match an anti-affinity term.
    apart: Sums,
    /// Pods that keep away from this one.
    existing: Sums,
    /// Whether the pod matches its own affinity terms, and may be the first of them.
    is_own: bool,
}

impl InterPod {
    pub(super) fn of(pod: &Pod, cluster: &mut Cluster<'_>) -> Self {
        let affinity: Vec<Term> = required_affinity(pod).iter().map(|term| Term::of(term, cluster)).collect();
        let anti_affinity: Vec<Term> = required_anti_affinity(pod).iter().map(|term| Term::of(term, cluster)).collect();
        let mut state = Self { affinity, anti_affinity, ..Self::default() };
        state.is_own = state.matches_all(pod, pod, cluster);
        for place in 0..cluster.classes.affine.len() {
            let class = cluster.classes.affine[place];
            state.count_existing(pod, class, places(class, cluster), cluster);
        }
        if let Some(first) = state.affinity.first() {
            for class in cluster.classes.candidates(&first.selector) {
                state.count_together(pod, class, places(class, cluster), cluster);
            }
        }
        for place in 0..state.anti_affinity.len() {
            for class in cluster.classes.candidates(&state.anti_affinity[place].selector) {
                state.count_apart(place, pod, class, places(class, cluster), cluster);
            }
        }
        state
    }

    fn matches_all(&self, pod: &Pod, other: &Pod, cluster: &Cluster<'_>) -> bool {
        !self.affinity.is_empty()
            && self.affinity.iter().all(|one| speaks_of(&one.term, &pod.namespace, other, &cluster.namespaces))
    }

    fn count_existing(&mut self, pod: &Pod, class: usize, on: impl Places, cluster: &Cluster<'_>) {
        let other = cluster.pod(cluster.classes[class].example);
        for term in required_anti_affinity(other) {
            if speaks_of(term, &other.namespace, pod, &cluster.namespaces)
                && let Some(topology) = cluster.topologies.place(&term.topology_key)
            {
                self.existing.add(topology, on.clone(), 1, cluster);
            }
        }
    }

    fn count_together(&mut self, pod: &Pod, class: usize, on: impl Places, cluster: &Cluster<'_>) {
        let other = cluster.pod(cluster.classes[class].example);
        if self.matches_all(pod, other, cluster) {
            for one in &self.affinity {
                self.together.add(one.topology, on.clone(), 1, cluster);
            }
        }
    }

    fn count_apart(&mut self, place: usize, pod: &Pod, class: usize, on: impl Places, cluster: &Cluster<'_>) {
        let one = &self.anti_affinity[place];
        let other = cluster.pod(cluster.classes[class].example);
        if speaks_of(&one.term, &pod.namespace, other, &cluster.namespaces) {
            self.apart.add(one.topology, on, 1, cluster);
        }
    }

    /// Follows pods that came or went.
    pub(super) fn follow(&mut self, pod: &Pod, moves: &[Move], cluster: &Cluster<'_>) {
        for one in moves.iter().filter(|one| !cluster.nodes[one.node].gone) {
            self.count_existing(pod, one.class, std::iter::once((one.node, one.sign)), cluster);
            if !self.affinity.is_empty() {
                self.count_together(pod, one.class, std::iter::once((one.node, one.sign)), cluster);
            }
            for place in 0..self.anti_affinity.len() {
                self.count_apart(place, pod, one.class, std::iter::once((one.node, one.sign)), cluster);
            }
        }
    }

    pub(super) fn refusal(&self, node: NodeId, cluster: &Cluster<'_>) -> Option<Refusal> {
        let mut all_there = true;
        for one in &self.affinity {
            if cluster.topologies[one.topology].of[node] == NOWHERE {
                return Some(Refusal::Affinity);
            }
            all_there &= self.together.at(one.topology, node, cluster) > 0;
        }
        // The first of pods that want to be together may go anywhere.
        let is_first = || self.is_own && self.together.is_zero();
        if !(all_there || is_first()) {
            return Some(Refusal::Affinity);
        }
        if self.anti_affinity.iter().any(|one| self.apart.at(one.topology, node, cluster) > 0) {
            return Some(Refusal::AntiAffinity);
        }
        self.existing.all_at(node, cluster).any(|count| count > 0).then_some(Refusal::ExistingAntiAffinity)
    }
}

/// Preferences, as sums by domain.
#[derive(Clone, Debug, Default)]
pub(super) struct Preferences {
    own: Vec<(Term, i64)>,
    sums: Sums,
}

impl Preferences {
    pub(super) fn of(pod: &Pod, cluster: &mut Cluster<'_>) -> Self {
        let own = preferred_terms(pod).map(|(term, weight)| (Term::of(term, cluster), weight)).collect();
        let mut state = Self { own, sums: Sums::default() };
        for place in 0..state.own.len() {
            for class in cluster.classes.candidates(&state.own[place].0.selector) {
                state.count_own(place, pod, class, places(class, cluster), cluster);
            }
        }
        for place in 0..cluster.classes.affine.len() {
            let class = cluster.classes.affine[place];
            state.count_existing(pod, class, places(class, cluster), cluster);
        }
        state
    }

    fn count_own(&mut self, place: usize, pod: &Pod, class: usize, on: impl Places, cluster: &Cluster<'_>) {
        let (one, weight) = &self.own[place];
        let other = cluster.pod(cluster.classes[class].example);
        if speaks_of(&one.term, &pod.namespace, other, &cluster.namespaces) {
            self.sums.add(one.topology, on, *weight, cluster);
        }
    }

    fn count_existing(&mut self, pod: &Pod, class: usize, on: impl Places, cluster: &Cluster<'_>) {
        let other = cluster.pod(cluster.classes[class].example);
        let hard = required_affinity(other).iter().map(|term| (term, HARD_WEIGHT));
        for (term, weight) in hard.chain(preferred_terms(other)) {
            if speaks_of(term, &other.namespace, pod, &cluster.namespaces)
                && let Some(topology) = cluster.topologies.place(&term.topology_key)
            {
                self.sums.add(topology, on.clone(), weight, cluster);
            }
        }
    }

    /// Follows pods that came or went.
    pub(super) fn follow(&mut self, pod: &Pod, moves: &[Move], cluster: &Cluster<'_>) {
        for one in moves.iter().filter(|one| !cluster.nodes[one.node].gone) {
            for place in 0..self.own.len() {
                self.count_own(place, pod, one.class, std::iter::once((one.node, one.sign)), cluster);
            }
            self.count_existing(pod, one.class, std::iter::once((one.node, one.sign)), cluster);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sums.0.is_empty()
    }

    /// Scores of the nodes, normalised to 0..=100.
    pub(super) fn scores(&self, feasible: &[NodeId], cluster: &Cluster<'_>) -> Vec<i64> {
        let mut scores: Vec<i64> = feasible.iter().map(|node| self.sums.all_at(*node, cluster).sum()).collect();
        let (least, most) = (scores.iter().min().copied().unwrap_or(0), scores.iter().max().copied().unwrap_or(0));
        for score in &mut scores {
            *score = if most > least { (100.0 * ((*score - least) as f64 / (most - least) as f64)) as i64 } else { 0 };
        }
        scores
    }
}
