//! The cluster while a plan is made: pods leave and land one after the other, each state a real one.

use std::collections::BTreeSet;

use capplan_model::kube::Node;

use crate::attach::Plugs;
use crate::scheduler::{NodeId, PodId, Scheduler};

/// Where a pod lands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Landing {
    pub pod: PodId,
    pub from: NodeId,
    pub to: NodeId,
    /// Nodes that the scheduler likes as much.
    pub or: Vec<NodeId>,
    /// Nodes to close meanwhile, so that it lands there.
    pub close: Vec<NodeId>,
    /// Those that leave together with it, itself included.
    pub together: Vec<PodId>,
}

/// How a place is chosen among those that a pod may take.
pub(crate) enum Choice<'r> {
    /// As the scheduler does; ties by chance.
    Scheduler(&'r mut fastrand::Rng),
    /// The fullest one, which keeps the others open: the scheduler has to be led there.
    Fullest,
}

/// The scheduler's and the storage plugin's picture together.
#[derive(Clone)]
pub(crate) struct Board<'a> {
    pub scheduler: Scheduler<'a>,
    pub plugs: Plugs,
    /// Nodes whose slots would have to be known.
    pub unknown: BTreeSet<NodeId>,
    /// Nodes that are being emptied: some pods tolerate that they are closed.
    emptied: BTreeSet<NodeId>,
}

impl<'a> Board<'a> {
    pub(crate) fn new(scheduler: Scheduler<'a>, plugs: Plugs) -> Self {
        Self { scheduler, plugs, unknown: BTreeSet::new(), emptied: BTreeSet::new() }
    }

    /// Closes a node to new pods.
    pub(crate) fn cordon(&mut self, node: NodeId) {
        self.emptied.insert(node);
        self.scheduler.cluster.alter_node(node, Node::cordon);
    }

    /// Opens it again.
    pub(crate) fn uncordon(&mut self, node: NodeId) {
        self.emptied.remove(&node);
        self.scheduler.cluster.alter_node(node, Node::uncordon);
    }

    /// Whether the pod's volumes can be attached; one whose slots are unknown is noted and counts as one
    /// that can.
    fn attaches(&mut self, pod: PodId, node: NodeId) -> bool {
        let name = &self.scheduler.cluster.node(node).name;
        match self.plugs.can_attach(self.scheduler.cluster.pod(pod), name) {
            Some(can) => can,
            None => {
                self.unknown.insert(node);
                true
            }
        }
    }

    /// Moves pods that have to land on one node together; most often it is a single one.
    ///
    /// All leave first, then each lands. `None` if no node takes them: they are where they were then.
    pub(crate) fn relocate(&mut self, together: &[PodId], choice: &mut Choice<'_>) -> Option<Vec<Landing>> {
        let mark = self.scheduler.cluster.mark();
        let before = (together.len() > 1).then(|| self.plugs.clone());
        let from: Vec<NodeId> = together.iter().filter_map(|pod| self.plugs.lift(&mut self.scheduler.cluster, *pod)).collect();
        let landed = match (together, &from[..]) {
            ([pod], [home]) => self.land(*pod, *home, choice).map(|landing| vec![landing]),
            _ => self.land_together(together, &from),
        };
        if landed.is_none() {
            self.go_back(mark, before, together);
        }
        landed
    }

    /// Puts pods back where they were, with their volumes.
    fn go_back(&mut self, mark: usize, before: Option<Plugs>, pods: &[PodId]) {
        let cluster = &mut self.scheduler.cluster;
        cluster.roll_back(mark);
        match before {
            Some(plugs) => self.plugs = plugs,
            None => {
                for pod in pods {
                    if let Some(home) = cluster.node_of(*pod) {
                        self.plugs.attach(cluster.pod(*pod), &cluster.node(home).name);
                    }
                }
            }
        }
    }

    fn land(&mut self, pod: PodId, from: NodeId, choice: &mut Choice<'_>) -> Option<Landing> {
        match choice {
            Choice::Scheduler(rng) => {
                let best: Vec<NodeId> =
                    self.scheduler.best(pod).into_iter().filter(|node| !self.emptied.contains(node)).collect();
                if !best.is_empty() && best.iter().all(|node| self.attaches(pod, *node)) {
                    let to = best[rng.usize(..best.len())];
                    let or = best.into_iter().filter(|node| *node != to).collect();
                    self.plugs.put(&mut self.scheduler.cluster, pod, to);
                    return Some(Landing { pod, from, to, or, close: Vec::new(), together: vec![pod] });
                }
                // The storage plugin refuses some of the best: these have to be closed meanwhile.
                let to = self.ranked(pod).into_iter().map(|(_, node)| node).find(|node| self.attaches(pod, *node))?;
                self.land_at(pod, from, to)
            }
            Choice::Fullest => {
                let mut open = self.scheduler.feasible(pod);
                open.retain(|node| !self.emptied.contains(node));
                open.sort_by_key(|node| (self.scheduler.cluster.free(*node, "memory"), *node));
                let to = open.into_iter().find(|node| self.attaches(pod, *node))?;
                self.land_at(pod, from, to)
            }
        }
    }

    /// Nodes that take the pod, the one with the highest score first.
    fn ranked(&mut self, pod: PodId) -> Vec<(i64, NodeId)> {
        let judgement = self.scheduler.judge(pod);
        // The scheduler scores nothing if there is no choice.
        let totals = if judgement.feasible.len() > 1 { judgement.totals() } else { vec![0; judgement.feasible.len()] };
        let mut ranked: Vec<(i64, NodeId)> = totals.into_iter().zip(judgement.feasible).collect();
        ranked.retain(|(_, node)| !self.emptied.contains(node));
        ranked.sort_by_key(|(total, node)| (std::cmp::Reverse(*total), *node));
        ranked
    }

    /// Lets a pod that is nowhere land on a node that takes it.
    fn land_at(&mut self, pod: PodId, from: NodeId, to: NodeId) -> Option<Landing> {
        let ranked = self.ranked(pod);
        let (score, _) = *ranked.iter().find(|(_, node)| *node == to)?;
        if !self.attaches(pod, to) {
            return None;
        }
        let close = ranked.into_iter().filter(|(total, node)| *total >= score && *node != to).map(|(_, node)| node).collect();
        self.plugs.put(&mut self.scheduler.cluster, pod, to);
        Some(Landing { pod, from, to, or: Vec::new(), close, together: vec![pod] })
    }

    /// Moves a pod to a node, if that takes it now.
    pub(crate) fn move_to(&mut self, pod: PodId, to: NodeId) -> Option<Landing> {
        let mark = self.scheduler.cluster.mark();
        let from = self.plugs.lift(&mut self.scheduler.cluster, pod)?;
        let landed = self.land_at(pod, from, to);
        if landed.is_none() {
            self.go_back(mark, None, &[pod]);
        }
        landed
    }

    fn land_together(&mut self, together: &[PodId], from: &[NodeId]) -> Option<Vec<Landing>> {
        let first = *together.first()?;
        for (_, node) in self.ranked(first) {
            let mark = self.scheduler.cluster.mark();
            let before = self.plugs.clone();
            let landed: Option<Vec<Landing>> =
                together.iter().zip(from).map(|(pod, from)| self.land_at(*pod, *from, node)).collect();
            if let Some(mut landed) = landed {
                landed.iter_mut().for_each(|one| one.together = together.to_vec());
                return Some(landed);
            }
            self.scheduler.cluster.roll_back(mark);
            self.plugs = before;
        }
        None
    }
}
