//! Places pods that wait, as the scheduler and the storage plugin would.

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeSet, VecDeque};

use super::play::{AttachFailure, Player};
use super::result::{Displaced, Flagged};
use crate::scheduler::PodId;

impl Player<'_> {
    /// Places what waits: the most important first, otherwise in random order, until nothing moves.
    pub(super) fn settle(&mut self) {
        loop {
            let mut order = std::mem::take(&mut self.waiting);
            if order.len() > 1 {
                self.outcome.had_choice |= order.iter().any(|pod| !self.waited.contains(pod));
                self.rng.shuffle(&mut order);
            }
            order.sort_by_key(|pod| (Reverse(self.scheduler.cluster.pod(*pod).scheduling.priority), !self.waited.contains(pod)));
            let mut queue = VecDeque::from(order);
            let mut moved = false;
            // Where one pod found no place, its like find none until something moves.
            let mut refused: BTreeSet<usize> = BTreeSet::new();
            while let Some(pod) = queue.pop_front() {
                self.inspect(pod);
                let class = self.scheduler.cluster.class(pod);
                let placed = if refused.contains(&class) { None } else { self.place(pod) };
                match placed {
                    Some(victims) => {
                        moved = true;
                        refused.clear();
                        queue.extend(victims);
                    }
                    None => {
                        refused.insert(class);
                        self.waiting.push(pod);
                    }
                }
            }
            // A pod that wants to be with another one may find it there now.
            if !moved || self.waiting.is_empty() {
                return;
            }
        }
    }

    /// Places a pod; answers those it pushed aside that want a new place.
    pub(super) fn place(&mut self, id: PodId) -> Option<Vec<PodId>> {
        let best = self.scheduler.best(id);
        let (node, victims) = match best.len() {
            0 => {
                let candidates = self.scheduler.preempt(id);
                if candidates.is_empty() {
                    return None;
                }
                self.outcome.had_choice |= candidates.len() > 1;
                let candidate = candidates[self.rng.usize(..candidates.len())].clone();
                let by = self.name(id);
                let mut again = Vec::new();
                for (place, victim) in candidate.victims.iter().copied().enumerate() {
                    let pod = self.scheduler.cluster.pod(victim);
                    let name = pod.object_name().0;
                    let (bare, at) = (pod.owner.is_none(), self.scheduler.cluster.node(candidate.node).name.clone());
                    self.plugs.lift(&mut self.scheduler.cluster, victim);
                    self.forget(&BTreeSet::from([victim]));
                    if bare {
                        self.gone.insert(victim);
                        self.lost.push(name.clone());
                    } else {
                        let listed = !self.scheduler.cluster.is_added(victim) && !self.waited.contains(&victim);
                        if listed && let Entry::Vacant(origin) = self.origins.entry(victim) {
                            origin.insert(candidate.node);
                            self.victims.insert(victim, candidate.node);
                        }
                        again.push(victim);
                    }
                    let against_budget = place < candidate.violations;
                    self.preempted.push(Displaced { pod: name, node: at, by: by.clone(), against_budget });
                }
                (candidate.node, again)
            }
            1 => (best[0], Vec::new()),
            several => {
                self.outcome.had_choice = true;
                let node = best[self.rng.usize(..several)];
                if !self.only_outcome {
                    self.ties.insert(id, best.iter().copied().filter(|one| *one != node).collect());
                }
                (node, Vec::new())
            }
        };
        self.placed.push(id);
        let name = self.scheduler.cluster.node(node).name.clone();
        let attached = self.plugs.put(&mut self.scheduler.cluster, id, node);
        if attached.unknown {
            self.undecided.insert(format!("whether volumes can be attached on {name}: the slots of its VM are unknown"));
        }
        for (volume, why) in attached.refused {
            self.attach_failures.push(AttachFailure { pod: id, node: name.clone(), volume, why });
        }
        Some(victims)
    }

    /// Notes what about a pod is not simulated or not known.
    pub(super) fn inspect(&mut self, id: PodId) {
        let pod = self.scheduler.cluster.pod(id);
        for feature in &pod.scheduling.unmodelled {
            self.flagged.insert(Flagged { pod: pod.object_name().0, feature: feature.clone() });
        }
        if !pod.claims.is_empty() {
            let kube = &self.ground.snapshot.kube;
            for (what, why) in [
                ("persistentvolumeclaims", kube.claims.why()),
                ("persistentvolumes", kube.persistent_volumes.why()),
                ("storageclasses", kube.storage_classes.why()),
                ("volumeattachments", kube.volume_attachments.why()),
                ("csinodes", kube.csi_nodes.why()),
            ] {
                if why.is_some() {
                    self.unread.insert(format!("where pods with volumes fit: {what} could not be read"));
                }
            }
            let tracked = kube.csi_drivers.items().iter().any(|driver| driver.storage_capacity);
            if tracked && kube.csi_storage_capacities.why().is_some() {
                self.unread.insert("where pods with volumes fit: csistoragecapacities could not be read".to_owned());
            }
        }
        if self.selects_namespaces && self.ground.snapshot.kube.namespaces.why().is_some() {
            self.unread.insert("which pods affinity terms mean: namespaces could not be read".to_owned());
        }
    }

    /// Forgets where pods were placed that are not there any more.
    pub(super) fn forget(&mut self, pods: &BTreeSet<PodId>) {
        self.placed.retain(|one| !pods.contains(one));
        self.attach_failures.retain(|one| !pods.contains(&one.pod));
        self.victims.retain(|one, _| !pods.contains(one));
    }
}
