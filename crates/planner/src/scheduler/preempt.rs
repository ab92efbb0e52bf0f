//! Preemption: which pods would have to go so that a more important one fits.
//!
//! # Source
//! `pkg/scheduler/framework/plugins/defaultpreemption` and `pkg/scheduler/framework/preemption` (v1.36).

use std::cmp::Reverse;

use jiff::Timestamp;

use super::Scheduler;
use super::cluster::{NodeId, PodId};

/// A node that would have room once these pods are gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The node.
    pub node: NodeId,
    /// The pods that go, the most important first.
    pub victims: Vec<PodId>,
    /// How many of them a PodDisruptionBudget would have kept.
    pub violations: usize,
}

impl Scheduler<'_> {
    /// Candidates that the scheduler would choose among: of several it takes any.
    pub fn preempt(&mut self, pod: PodId) -> Vec<Candidate> {
        if self.cluster.pod(pod).scheduling.preemption_policy == "Never" || self.rejection(pod).is_some() {
            return Vec::new();
        }
        let priority = self.priority(pod);
        let nodes: Vec<NodeId> = self.cluster.nodes().collect();
        let mut candidates = Vec::new();
        for node in nodes {
            if self.refusal(pod, node).is_some_and(super::filter::Refusal::is_resolvable) {
                candidates.extend(self.victims(pod, priority, node));
            }
        }
        self.preferred(candidates)
    }

    fn priority(&self, pod: PodId) -> i32 {
        self.cluster.pod(pod).scheduling.priority
    }

    /// Sort key by which the most important pod comes first: priority, then age.
    fn importance(&self, pod: PodId) -> (Reverse<i32>, Started) {
        (Reverse(self.priority(pod)), self.started(pod))
    }

    /// When a pod started; one that has not started yet counts as started now.
    fn started(&self, pod: PodId) -> Started {
        let row = &self.cluster.pods[pod];
        match row.seen.pod().started {
            Some(at) if row.bound == 0 => Started::At(at),
            _ => Started::Now(row.bound),
        }
    }

    fn victims(&mut self, pod: PodId, priority: i32, node: NodeId) -> Option<Candidate> {
        let mut potential: Vec<PodId> =
            self.cluster.pods_on(node).iter().copied().filter(|one| self.priority(*one) < priority).collect();
        if potential.is_empty() {
            return None;
        }
        let mark = self.cluster.mark();
        for one in &potential {
            self.cluster.take(*one);
        }
        if self.refusal(pod, node).is_some() {
            self.cluster.roll_back(mark);
            return None;
        }
        potential.sort_by_key(|one| self.importance(*one));
        let (violating, others) = self.by_budget(&potential);
        let both = !violating.is_empty() && !others.is_empty();
        let (mut victims, mut violations) = (Vec::new(), 0);
        let violating_count = violating.len();
        for (place, one) in violating.into_iter().chain(others).enumerate() {
            self.cluster.bind(one, node);
            if self.refusal(pod, node).is_some() {
                self.cluster.take(one);
                victims.push(one);
                violations += usize::from(place < violating_count);
            }
        }
        self.cluster.roll_back(mark);
        if both {
            victims.sort_by_key(|one| self.importance(*one));
        }
        (!victims.is_empty()).then_some(Candidate { node, victims, violations })
    }

    /// Pods that a budget would keep, and the others.
    fn by_budget(&self, pods: &[PodId]) -> (Vec<PodId>, Vec<PodId>) {
        let mut allowed: Vec<i64> = self.cluster.pdbs.iter().map(|pdb| pdb.disruptions_allowed).collect();
        let is_kept = |pod: &PodId| {
            let pod = self.cluster.pod(*pod);
            let mut kept = false;
            for (pdb, allowed) in self.cluster.pdbs.iter().zip(&mut allowed) {
                let selects = pdb.selector.as_ref().is_some_and(|selector| {
                    !(selector.match_labels.is_empty() && selector.match_expressions.is_empty()) && selector.matches(&pod.labels)
                });
                if pdb.namespace == pod.namespace && !pod.labels.is_empty() && selects {
                    *allowed -= 1;
                    kept |= *allowed < 0;
                }
            }
            kept
        };
        pods.iter().copied().partition(is_kept)
    }

    /// The candidates that are best by the scheduler's five measures, in turn.
    fn preferred(&self, mut candidates: Vec<Candidate>) -> Vec<Candidate> {
        let mut keep = |measure: &dyn Fn(&Candidate) -> (i128, Option<Started>)| {
            let best = candidates.iter().map(measure).min();
            candidates.retain(|one| Some(measure(one)) == best);
        };
        let number = |number: usize| i128::try_from(number).unwrap_or(i128::MAX);
        let priority = |pod: &PodId| i128::from(self.priority(*pod));
        keep(&|one| (number(one.violations), None));
        keep(&|one| (one.victims.first().map_or(0, priority), None));
        keep(&|one| (one.victims.iter().map(|pod| priority(pod) + (1 << 31)).sum(), None));
        keep(&|one| (number(one.victims.len()), None));
        // The latest start wins, of the earliest among each node's most important victims.
        let earliest = |one: &Candidate| {
            let most = one.victims.iter().map(|pod| self.priority(*pod)).max();
            one.victims.iter().filter(|pod| Some(self.priority(**pod)) == most).map(|pod| self.started(*pod)).min()
        };
        let latest = candidates.iter().map(earliest).max();
        candidates.retain(|one| Some(earliest(one)) == latest);
        candidates
    }
}

/// When a pod started, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Started {
    /// At this instant.
    At(Timestamp),
    /// Not yet, or in the simulation: as the so manieth.
    Now(u32),
}
