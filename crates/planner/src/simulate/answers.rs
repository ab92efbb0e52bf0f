//! What there is to tell of a run: where pods went, what found no place and why, what is not certain.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::change::AddWorker;
use capplan_model::ids::NodeName;
use capplan_model::kube::Node;

use super::growth::Growth;
use super::play::Player;
use super::result::{Placed, Unplaceable, WorkersNeeded};
use super::worker;
use crate::attach::AttachRefusal;
use crate::scheduler::{Group, NodeId, PodId, Problem, estimate};

impl Player<'_> {
    /// Where each pod went that is new or had to move.
    pub(super) fn placement(&self) -> Vec<Placed> {
        let cluster = &self.scheduler.cluster;
        let name = |node: NodeId| cluster.node(node).name.clone();
        let mut list: Vec<Placed> = self
            .placed
            .iter()
            .filter_map(|pod| {
                Some(Placed {
                    pod: self.name(*pod),
                    node: name(cluster.node_of(*pod)?),
                    from: self.origins.get(pod).copied().map(name),
                    ties: self.ties.get(pod).map(|ties| ties.iter().copied().map(name).collect()).unwrap_or_default(),
                })
            })
            .collect();
        list.sort_by(|a, b| a.pod.cmp(&b.pod));
        list
    }

    /// What found no place, with the reasons: of the changes, and of those that waited before.
    pub(super) fn unplaceable(&mut self) -> (Vec<Unplaceable>, Vec<Unplaceable>) {
        let (mut new, mut old) = (Vec::new(), Vec::new());
        let mut problems: BTreeMap<usize, Problem> = BTreeMap::new();
        for pod in self.waiting.clone() {
            let class = self.scheduler.cluster.class(pod);
            let problem = match problems.get(&class) {
                Some(problem) => problem.clone(),
                None => problems.entry(class).or_insert(self.scheduler.problem(pod)).clone(),
            };
            let entry = Unplaceable::of_pod(self.scheduler.cluster.pod(pod).object_name(), problem);
            if self.waited.contains(&pod) { old.push(entry) } else { new.push(entry) }
        }
        for one in &self.attach_failures {
            new.push(Unplaceable {
                pod: Some(self.name(one.pod)),
                volume: Some(one.volume.clone()),
                worker: None,
                reasons: vec![match &one.why {
                    AttachRefusal::NoSlot => format!("no free lun found on {}: {}", one.node, self.plugs.describe(&one.node)),
                    AttachRefusal::Elsewhere(other) => {
                        format!("placed on {}, but its volume is in use on {other} (ReadWriteOnce)", one.node)
                    }
                }],
                nodes: 1,
                message: None,
            });
        }
        for (pod, node) in self.on_dead_nodes() {
            new.push(Unplaceable {
                pod: Some(self.name(pod)),
                volume: None,
                worker: None,
                reasons: vec![format!("placed on {}, whose taints it tolerates, but which does not run", node.name)],
                nodes: 1,
                message: None,
            });
        }
        for one in &self.workers {
            if let Some(why) = one.no_room() {
                new.push(Unplaceable {
                    pod: None,
                    volume: None,
                    worker: Some(one.node.name.to_string()),
                    reasons: vec![why.to_owned()],
                    nodes: 0,
                    message: None,
                });
            }
        }
        new.sort_by(|a, b| (&a.pod, &a.volume).cmp(&(&b.pod, &b.volume)));
        old.sort_by(|a, b| a.pod.cmp(&b.pod));
        (new, old)
    }

    /// Why volumes in use elsewhere cannot be attached, by node and volume.
    pub(super) fn refusals(&self) -> BTreeMap<(NodeName, String), String> {
        let failures = self.attach_failures.iter().filter_map(|one| match &one.why {
            AttachRefusal::Elsewhere(other) => {
                Some(((one.node.clone(), one.volume.clone()), format!("volume is already used on node {other}")))
            }
            AttachRefusal::NoSlot => None,
        });
        failures.collect()
    }

    /// How many workers of the policy's size would take what found no place.
    pub(super) fn workers_needed(&self) -> Option<WorkersNeeded> {
        self.starving().next()?;
        let worker = worker::new(self, &AddWorker::default()).ok()?;
        // Only those help that such a worker would take at all.
        let mut scheduler = self.scheduler.clone();
        let id = worker.enter(&mut scheduler.cluster);
        let all = self.starving().count() as u64;
        let takes: Vec<PodId> = self.starving().filter(|pod| scheduler.judge(*pod).feasible.contains(&id)).collect();
        let slots = worker.advertised().unwrap_or(0);
        let mut node = worker.node;
        for daemon in &worker.daemons {
            let left = &mut node.allocatable;
            left.cpu = left.cpu.minus(daemon.requests.cpu);
            left.memory = left.memory.minus(daemon.requests.memory);
            left.ephemeral = left.ephemeral.minus(daemon.requests.ephemeral);
            node.max_pods = node.max_pods.saturating_sub(1);
        }
        let group = |id: &PodId| {
            let pod = self.scheduler.cluster.pod(*id);
            Group { pod, count: 1, volumes: self.plugs.volumes_of(pod).count() as u64 }
        };
        let groups: Vec<Group<'_>> = takes.iter().map(group).collect();
        let estimate = estimate(&node, slots, &groups);
        Some(WorkersNeeded {
            workers: estimate.nodes,
            memory: node.capacity.memory,
            pods: estimate.placed,
            never: all - estimate.placed,
            hosts_take: worker::hosts_take(self, node.capacity.memory),
        })
    }

    /// Whether a new worker stays away because its host's room is not known.
    pub(super) fn worker_unknown(&self) -> bool {
        self.workers.iter().any(|worker| worker.refused.is_some() && worker.no_room().is_none())
    }

    /// Why it is not certain that everything fits, even if everything found a place.
    pub(super) fn doubts(&self, growth: &Growth) -> BTreeSet<String> {
        let mut doubts: BTreeSet<String> = self.undecided.union(&growth.doubts).cloned().collect();
        doubts.extend(self.unread.iter().cloned());
        if !self.flagged.is_empty() {
            doubts.insert("where the pods under `flagged` fit: they use features that are not simulated".to_owned());
        }
        doubts
    }

    /// Pods that the scheduler places on a node that does not run, because they tolerate its taints.
    pub(super) fn on_dead_nodes(&self) -> impl Iterator<Item = (PodId, &Node)> + '_ {
        let cluster = &self.scheduler.cluster;
        let placed = self.placed.iter().filter_map(|pod| Some((*pod, cluster.node_of(*pod)?)));
        placed.filter(|(_, node)| self.down.contains(node)).map(|(pod, node)| (pod, cluster.node(node)))
    }

    /// That too few control-plane nodes are left for the API to answer: then nothing is scheduled again.
    pub(super) fn lost_quorum(&self) -> Option<String> {
        let cluster = &self.scheduler.cluster;
        let voters: Vec<NodeId> = cluster.nodes().filter(|node| cluster.node(*node).runs_control_plane()).collect();
        let removed = self.nodes_gone.iter().filter(|node| cluster.node(**node).runs_control_plane()).count();
        let ready = voters.iter().filter(|node| cluster.node(**node).is_ready()).count();
        let is_down = voters.iter().any(|node| self.down.contains(node));
        let (left, quorum) = (ready, voters.len() / 2 + 1);
        ((is_down || removed > 0) && left < quorum).then(|| {
            format!(
                "what happens without the API: {left} of {} control-plane nodes are left, quorum is {quorum}",
                voters.len() + removed
            )
        })
    }
}
