//! Plays changes: takes pods off their nodes and adds new ones, which want a place then.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::change::{Change, Failure, FailureMode, Manifest, WrittenTaint};
use capplan_model::ids::{HostName, NodeName};
use capplan_model::join::Join;
use capplan_model::kube::{Claim, Effect, Node, Pod, Quota, Taint};
use capplan_model::{Reading, Snapshot};

use super::SimulateError;
use super::arrivals;
use super::growth::Growth;
use super::result::{Displaced, Flagged, PoolGrowth, Reboot};
use super::worker::{self, NewWorker};
use crate::attach::{AttachRefusal, Plugs};
use crate::ground::Ground;
use crate::scheduler::{Cluster, NodeId, PodId, Scheduler};

/// What one run came to.
#[derive(Clone, Debug, Default)]
pub(super) struct Outcome {
    /// Pods that found no place and had one before, or are new.
    pub starved: BTreeSet<String>,
    /// Pods and workers whose volume or VM has no room.
    pub failed: BTreeSet<String>,
    /// Whether anything was left to chance.
    pub had_choice: bool,
    /// Why it is not certain that everything fits.
    pub doubts: BTreeSet<String>,
    /// Storages that new disks draw on.
    pub pools: Vec<PoolGrowth>,
}

/// A volume that the scheduler allows and the plugin cannot attach.
#[derive(Clone, Debug)]
pub(super) struct AttachFailure {
    pub pod: PodId,
    pub node: NodeName,
    pub volume: String,
    pub why: AttachRefusal,
}

/// Plays changes on a cluster.
pub(super) struct Player<'a> {
    pub ground: &'a Ground<'a>,
    pub scheduler: Scheduler<'a>,
    pub plugs: Plugs,
    pub rng: fastrand::Rng,
    /// Pods without a place.
    pub waiting: Vec<PodId>,
    /// Those of them that waited before any change.
    pub waited: BTreeSet<PodId>,
    /// Pods that were placed, in this order.
    pub placed: Vec<PodId>,
    pub origins: BTreeMap<PodId, NodeId>,
    pub ties: BTreeMap<PodId, Vec<NodeId>>,
    /// Pods that end for good.
    pub lost: Vec<String>,
    pub gone: BTreeSet<PodId>,
    /// Pods of DaemonSets that a taint drove from their nodes.
    pub driven_out: BTreeMap<PodId, NodeId>,
    pub nodes_gone: BTreeSet<NodeId>,
    pub powered_off: BTreeSet<NodeName>,
    pub preempted: Vec<Displaced>,
    /// Pods that were pushed aside and where they were before.
    pub victims: BTreeMap<PodId, NodeId>,
    pub flagged: BTreeSet<Flagged>,
    pub undecided: BTreeSet<String>,
    /// What was not read and would be needed: without it nothing is proven either.
    pub unread: BTreeSet<String>,
    pub hosts_failed: BTreeSet<HostName>,
    /// Whether a node was closed that took pods before: they might have gone there.
    pub closed_late: bool,
    /// Nodes that are there and do not run.
    pub down: BTreeSet<NodeId>,
    pub attach_failures: Vec<AttachFailure>,
    pub workers: Vec<NewWorker>,
    pub claims: Vec<Claim>,
    /// Pods that changes added.
    pub additions: Vec<PodId>,
    pub reboots: Vec<Reboot>,
    pub outcome: Outcome,
    /// Whether only the outcome is wanted, and no details.
    pub only_outcome: bool,
    /// How often each node's reboot is played.
    pub reboot_runs: u32,
    /// Whether the affinity of some pod selects namespaces by their labels.
    pub selects_namespaces: bool,
}

impl<'a> Player<'a> {
    pub(super) fn new(ground: &'a Ground<'a>, cluster: Cluster<'a>, plugs: Plugs, seed: u64) -> Self {
        let ours = |pod: &Pod| pod.scheduling.scheduler.is_empty() && !pod.scheduling.gated && pod.deleting.is_none();
        let selects_namespaces = ground.snapshot.kube.namespaces.why().is_some()
            && (0..cluster.pod_count()).any(|pod| crate::scheduler::selects_namespaces(cluster.pod(pod)));
        let waited = (0..cluster.pod_count()).filter(|pod| cluster.node_of(*pod).is_none() && ours(cluster.pod(*pod))).collect();
        let rng = fastrand::Rng::with_seed(seed);
        Self::over(ground, Scheduler::new(cluster), plugs, rng, waited, selects_namespaces)
    }

    /// With nothing played yet.
    pub(super) fn over(
        ground: &'a Ground<'a>,
        scheduler: Scheduler<'a>,
        plugs: Plugs,
        rng: fastrand::Rng,
        waited: BTreeSet<PodId>,
        selects_namespaces: bool,
    ) -> Self {
        Self {
            ground,
            scheduler,
            plugs,
            rng,
            waiting: waited.iter().copied().collect(),
            waited,
            placed: Vec::new(),
            origins: BTreeMap::new(),
            ties: BTreeMap::new(),
            lost: Vec::new(),
            gone: BTreeSet::new(),
            driven_out: BTreeMap::new(),
            nodes_gone: BTreeSet::new(),
            powered_off: BTreeSet::new(),
            preempted: Vec::new(),
            victims: BTreeMap::new(),
            flagged: BTreeSet::new(),
            undecided: BTreeSet::new(),
            unread: BTreeSet::new(),
            hosts_failed: BTreeSet::new(),
            closed_late: false,
            down: BTreeSet::new(),
            attach_failures: Vec::new(),
            workers: Vec::new(),
            claims: Vec::new(),
            additions: Vec::new(),
            reboots: Vec::new(),
            outcome: Outcome::default(),
            only_outcome: false,
            reboot_runs: 1,
            selects_namespaces,
        }
    }

    pub(super) fn play_all(&mut self, changes: &[Change]) -> Result<(), SimulateError> {
        for change in changes {
            self.play(change)?;
        }
        for pod in self.waiting.clone() {
            if !self.waited.contains(&pod) {
                self.outcome.starved.insert(self.name(pod));
            }
        }
        let dead: Vec<String> = self.on_dead_nodes().map(|(pod, _)| self.name(pod)).collect();
        self.outcome.starved.extend(dead);
        self.undecided.extend(self.lost_quorum());
        // One that waited for a slot may have got it since.
        let plugs = &self.plugs;
        self.attach_failures.retain(|one| one.why != AttachRefusal::NoSlot || !plugs.is_plugged(&one.volume, &one.node));
        let failures: Vec<String> = self.attach_failures.iter().map(|one| self.name(one.pod)).collect();
        self.outcome.failed.extend(failures);
        let refused = self.workers.iter().filter(|one| one.no_room().is_some()).map(|one| one.node.name.to_string());
        self.outcome.failed.extend(refused);
        let growth = Growth::of(self);
        self.outcome.doubts = self.doubts(&growth);
        self.outcome.pools = growth.pools.into_values().collect();
        Ok(())
    }

    fn play(&mut self, change: &Change) -> Result<(), SimulateError> {
        if let Some(excess) = change.excess() {
            return Err(SimulateError::Change(excess));
        }
        match change {
            Change::AddPvcs(add) => {
                for (pod, claim) in arrivals::with_claims(self.ground.snapshot, self.ground.policy, add, self.additions.len())? {
                    self.add_claim(claim);
                    self.submit(pod);
                }
            }
            Change::AddPods(add) => arrivals::plain(add, self.additions.len()).into_iter().for_each(|pod| self.submit(pod)),
            Change::Submit(manifest) => self.submit_manifest(manifest),
            Change::AddWorker(add) => {
                for _ in 0..add.count {
                    let worker = worker::new(self, add)?;
                    worker::join(self, worker);
                }
            }
            Change::RemoveNode(name) => {
                let node = self.node(name)?;
                let blocked = blocked(self.ground.snapshot, &self.scheduler.cluster, node).into_iter();
                self.undecided.extend(blocked.map(|why| format!("whether {name} can be drained: {why}")));
                self.evict(node, &Leave::WithTheNode);
                self.remove(node);
                self.victims.retain(|_, home| *home != node);
                self.powered_off.insert(name.clone());
            }
            Change::FailNode(failure) => self.fail(&failure.name, failure.mode)?,
            Change::FailHost(failure) => {
                let nodes = self.nodes_on(failure)?;
                self.hosts_failed.insert(failure.name.clone());
                for name in nodes {
                    self.fail(&name, failure.mode)?;
                }
            }
            Change::Cordon(name) => {
                let node = self.node(name)?;
                self.cordon(node);
            }
            Change::Taint(add) => {
                let node = self.node(&add.node)?;
                self.taint(node, &add.taint);
            }
            Change::ColdBoot => self.cold_boot(),
            Change::RebootEach => {
                if !self.only_outcome {
                    self.reboot_each();
                }
            }
            Change::WakeParked => {
                let kube = &self.ground.snapshot.kube;
                for (what, why) in [("deployments", kube.deployments.why()), ("statefulsets", kube.stateful_sets.why())] {
                    self.unread.extend(why.map(|_| format!("what is parked: {what} could not be read")));
                }
                for pod in arrivals::parked(kube) {
                    self.submit(pod);
                }
            }
        }
        self.settle();
        Ok(())
    }

    pub(super) fn node(&self, name: &NodeName) -> Result<NodeId, SimulateError> {
        let cluster = &self.scheduler.cluster;
        cluster.node_named(name).ok_or_else(|| SimulateError::NoNode {
            name: name.to_string(),
            known: cluster.nodes().map(|node| cluster.node(node).name.to_string()).collect::<Vec<_>>().join(", "),
        })
    }

    pub(super) fn name(&self, pod: PodId) -> String {
        self.scheduler.cluster.pod(pod).object_name().0
    }

    fn nodes_on(&mut self, failure: &Failure<HostName>) -> Result<Vec<NodeName>, SimulateError> {
        if !self.ground.snapshot.hosts().any(|host| host.name == failure.name) {
            let known = self.ground.snapshot.hosts().map(|host| host.name.to_string()).collect::<Vec<_>>().join(", ");
            return Err(SimulateError::NoHost { name: failure.name.to_string(), known });
        }
        let mut nodes = match self.ground.nodes_on(&failure.name) {
            Reading::Known(nodes) => nodes,
            Reading::Unknown { why } => {
                return Err(SimulateError::Unknown { what: format!("which nodes are on {}", failure.name), why });
            }
        };
        let new = self.workers.iter().filter(|worker| worker.refused.is_none() && worker.guest.host == failure.name);
        nodes.extend(new.map(|worker| worker.node.name.clone()));
        nodes.retain(|name| self.scheduler.cluster.node_named(name).is_some());
        for (node, join) in self.ground.joins.known().into_iter().flatten() {
            let somewhere = match join {
                Join::Guest(_) => continue,
                Join::Missing => true,
                Join::Ambiguous { candidates, .. } => candidates.iter().any(|guest| guest.host == failure.name),
            };
            if somewhere && self.scheduler.cluster.node_named(node).is_some() {
                self.undecided.insert(format!("whether {node} is on {}: which VM it is, is not known", failure.name));
            }
        }
        Ok(nodes)
    }

    fn add_claim(&mut self, claim: Claim) {
        self.scheduler.cluster.add_claim(claim.clone());
        self.plugs.add_claim(&claim);
        self.undecided.extend(arrivals::made_anywhere(self.ground.snapshot, &claim));
        self.claims.push(claim);
    }

    /// Adds what a manifest makes.
    fn submit_manifest(&mut self, manifest: &Manifest) {
        let kube = &self.ground.snapshot.kube;
        let names_priority = manifest.pods.iter().any(|pod| !pod.scheduling.priority_class.is_empty());
        if names_priority && kube.priority_classes.why().is_some() {
            self.unread.insert("which pods are more important: priorityclasses could not be read".to_owned());
        }
        let what = |object: &String| format!("what {object} makes: it is not simulated");
        self.undecided.extend(manifest.not_simulated.iter().map(what));
        let spaces: BTreeSet<&str> = manifest.pods.iter().map(|pod| pod.namespace.as_str()).collect();
        let quotas = kube.quotas.items().iter().filter(|quota| spaces.contains(quota.namespace.as_str()));
        let what = |quota: &Quota| format!("whether ResourceQuota {}/{} allows them", quota.namespace, quota.name);
        self.undecided.extend(quotas.map(what));
        let listed: BTreeSet<(&str, &str)> =
            kube.claims.items().iter().map(|one| (one.namespace.as_str(), one.name.as_str())).collect();
        let is_new = |claim: &&Claim| !listed.contains(&(claim.namespace.as_str(), claim.name.as_str()));
        for claim in manifest.claims.iter().filter(is_new).collect::<Vec<_>>() {
            self.add_claim(arrivals::admitted_claim(claim, &self.ground.snapshot.kube));
        }
        for pod in &manifest.pods {
            self.submit(arrivals::admitted(pod, &self.ground.snapshot.kube));
        }
    }

    /// Adds a pod that wants a place.
    fn submit(&mut self, pod: Pod) {
        self.selects_namespaces |= crate::scheduler::selects_namespaces(&pod);
        let id = self.scheduler.cluster.add_pod(pod);
        self.additions.push(id);
        self.waiting.push(id);
    }

    /// Takes pods off a node. Those that a controller makes again want a place.
    pub(super) fn evict(&mut self, node: NodeId, leave: &Leave<'_>) {
        let mut pods = self.scheduler.cluster.pods_on(node).to_vec();
        pods.sort_by_key(|pod| self.name(*pod));
        let mut left = BTreeSet::new();
        for id in pods {
            let pod = self.scheduler.cluster.pod(id);
            let stays = match leave {
                Leave::WithTheNode => false,
                Leave::Rebooting => pod.belongs_to_node(),
                // What nothing makes again is still known to its kubelet.
                Leave::ColdBoot => pod.belongs_to_node() || pod.owner.is_none(),
                Leave::Intolerant(taint) => pod.is_mirror() || crate::scheduler::tolerates_for_ever(pod, taint),
            };
            if stays {
                continue;
            }
            // What is being deleted has its successor already, or gets it in its place.
            let replaced = pod.deleting.is_some() && pod.owner.as_ref().is_none_or(|owner| owner.kind != "StatefulSet");
            let (tied, bare) = (pod.belongs_to_node() || replaced, pod.owner.is_none());
            let name = pod.object_name().0;
            self.plugs.lift(&mut self.scheduler.cluster, id);
            left.insert(id);
            if tied {
                if matches!(leave, Leave::Intolerant(_)) && !replaced {
                    self.driven_out.insert(id, node);
                }
                self.gone.insert(id);
            } else if bare {
                self.gone.insert(id);
                self.lost.push(name);
            } else {
                if !self.scheduler.cluster.is_added(id) {
                    self.origins.entry(id).or_insert(node);
                }
                self.waiting.push(id);
            }
        }
        self.forget(&left);
    }

    fn remove(&mut self, node: NodeId) {
        self.scheduler.cluster.remove_node(node);
        self.nodes_gone.insert(node);
    }

    pub(super) fn cordon(&mut self, node: NodeId) {
        self.closed_late |= !self.placed.is_empty();
        self.scheduler.cluster.alter_node(node, Node::cordon);
    }

    fn taint(&mut self, node: NodeId, taint: &WrittenTaint) {
        match taint {
            WrittenTaint::Set(taint) => {
                self.closed_late |= !self.placed.is_empty();
                self.scheduler.cluster.alter_node(node, |node| {
                    node.taints.retain(|one| one.key != taint.key || one.effect != taint.effect);
                    node.taints.push(taint.clone());
                });
                if taint.effect == Effect::NoExecute {
                    self.evict(node, &Leave::Intolerant(taint));
                }
            }
            WrittenTaint::Remove(key, effect) => {
                self.scheduler.cluster.alter_node(node, |node| {
                    node.taints.retain(|one| one.key != *key || effect.is_some_and(|effect| effect != one.effect));
                });
                // Their DaemonSets make those that had to go again.
                let cluster = &self.scheduler.cluster;
                let hard = |taint: &&Taint| taint.effect != Effect::PreferNoSchedule;
                let may_return = |pod: &PodId| {
                    let mut taints = cluster.node(node).taints.iter().filter(hard);
                    taints.all(|taint| crate::scheduler::tolerates_for_ever(cluster.pod(*pod), taint))
                };
                let back = self.driven_out.extract_if(.., |pod, from| *from == node && may_return(pod)).map(|(pod, _)| pod);
                for pod in back.collect::<Vec<_>>() {
                    self.gone.remove(&pod);
                    self.waiting.push(pod);
                }
            }
        }
    }

    /// The state some minutes after the failure: the node is tainted, its pods are deleted and wanted
    /// elsewhere.
    fn fail(&mut self, name: &NodeName, mode: FailureMode) -> Result<(), SimulateError> {
        let node = self.node(name)?;
        let key = match mode {
            FailureMode::Notready => "node.kubernetes.io/not-ready",
            FailureMode::Partition | FailureMode::PowerOff => "node.kubernetes.io/unreachable",
        };
        let taint = |effect| Taint { key: key.into(), effect, ..Taint::default() };
        self.scheduler.cluster.alter_node(node, |node| {
            node.taints.extend([taint(Effect::NoSchedule), taint(Effect::NoExecute)]);
            for condition in node.conditions.iter_mut().filter(|condition| condition.kind == "Ready") {
                condition.status = if mode == FailureMode::Notready { "False" } else { "Unknown" }.into();
            }
        });
        self.down.insert(node);
        self.victims.retain(|_, home| *home != node);
        self.evict(node, &Leave::Intolerant(&taint(Effect::NoExecute)));
        if mode == FailureMode::PowerOff {
            self.powered_off.insert(name.clone());
        }
        Ok(())
    }

    fn cold_boot(&mut self) {
        let nodes: Vec<NodeId> = self.scheduler.cluster.nodes().collect();
        for node in nodes {
            self.evict(node, &Leave::ColdBoot);
        }
        self.outcome.had_choice = true;
    }

    /// Pods that still want a place and did not wait before.
    pub(super) fn starving(&self) -> impl Iterator<Item = PodId> + '_ {
        self.waiting.iter().copied().filter(|pod| !self.waited.contains(pod))
    }

    /// Every pod that had to find a place because of the changes; not those pushed aside by others.
    pub(super) fn seekers(&self) -> Vec<PodId> {
        let placed = self.placed.iter().copied().filter(|pod| !self.waited.contains(pod));
        placed.chain(self.starving()).filter(|pod| !self.victims.contains_key(pod)).collect()
    }

    /// The same cluster with none of the seekers placed and nobody pushed aside, to try another way.
    pub(super) fn cleared(&self) -> (Scheduler<'a>, Plugs) {
        let (mut scheduler, mut plugs) = (self.scheduler.clone(), self.plugs.clone());
        for pod in self.placed.iter().chain(self.victims.keys()) {
            plugs.lift(&mut scheduler.cluster, *pod);
        }
        scheduler.cluster.forget_bindings();
        for (pod, node) in &self.victims {
            plugs.put(&mut scheduler.cluster, *pod, *node);
        }
        (scheduler, plugs)
    }
}

/// Which pods leave a node.
pub(super) enum Leave<'a> {
    /// All of them.
    WithTheNode,
    /// Those that are not part of it.
    Rebooting,
    /// Those that are not part of it and that a controller makes again.
    ColdBoot,
    /// Those that do not tolerate this taint for ever.
    Intolerant(&'a Taint),
}

/// Nodes that a change takes away.
pub(super) fn taken_away(ground: &Ground<'_>, change: &Change) -> Vec<NodeName> {
    match change {
        Change::RemoveNode(node) => vec![node.clone()],
        Change::FailNode(one) => vec![one.name.clone()],
        Change::FailHost(one) => ground.nodes_on(&one.name).into_known().unwrap_or_default(),
        Change::RebootEach => {
            ground.snapshot.workers().into_known().unwrap_or_default().into_iter().map(|node| node.name.clone()).collect()
        }
        Change::AddPvcs(_)
        | Change::AddPods(_)
        | Change::Submit(_)
        | Change::AddWorker(_)
        | Change::Cordon(_)
        | Change::Taint(_)
        | Change::ColdBoot
        | Change::WakeParked => Vec::new(),
    }
}

/// Budgets that allow no disruption of pods on a node.
pub(super) fn blocked(snapshot: &Snapshot, cluster: &Cluster<'_>, node: NodeId) -> Vec<String> {
    let mut list = BTreeSet::new();
    for pod in cluster.pods_on(node).iter().map(|pod| cluster.pod(*pod)).filter(|pod| !pod.belongs_to_node()) {
        let mine = snapshot.kube.pdbs.items().iter().filter(|pdb| {
            pdb.namespace == pod.namespace && pdb.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels))
        });
        for pdb in mine.filter(|pdb| pdb.disruptions_allowed <= 0) {
            list.insert(format!("PDB {}/{} allows no disruption of {}", pdb.namespace, pdb.name, pod.object_name()));
        }
    }
    if let Some(why) = snapshot.kube.pdbs.why() {
        list.insert(format!("poddisruptionbudgets are unknown: {why}"));
    }
    list.into_iter().collect()
}
