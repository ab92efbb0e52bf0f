//! What the cluster looks like with one worker less.
//!
//! A proof by construction: every pod that has to move is given a place, or the removal is refused
//! with the reason. What this first form does not model (inter-pod affinity, topology spread, host
//! ports) refuses the removal too: it never counts as fine.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Reading;
use capplan_model::ids::{NodeName, PvName};
use capplan_model::kube::{Effect, Node, PersistentVolume, Pod, Resources};
use capplan_model::policy::{Measure, Scope};
use capplan_model::slots::VolumeSlots;
use capplan_model::units::Bytes;

use crate::capacity::NodeUse;
use crate::rules::Facts;

/// The state without one worker.
#[derive(Clone, Debug, PartialEq)]
pub struct Removal {
    /// The worker that goes.
    pub node: NodeName,
    /// Why it cannot, or what speaks against it; empty if nothing does.
    pub blockers: Vec<String>,
    /// Most VolumeAttachments on one of the others afterwards.
    pub most_attachments: u64,
    /// Memory requests of the remaining workers afterwards, as a share.
    pub requested: f64,
    /// Memory limits of the remaining workers afterwards, as a share.
    pub limited: f64,
}

/// Workers whose removal is played: one that can go is enough.
const MOST_CANDIDATES: usize = 20;

struct Receiver<'a> {
    node: &'a Node,
    requests: Resources,
    pods: u64,
    free_slots: u64,
    attachments: u64,
}

/// Plays the removal of each worker, the one with the least to move first (of a large cluster, the
/// first twenty of them); unknown if anything it rests on is.
pub fn removals(facts: &Facts<'_>) -> Reading<Vec<Removal>> {
    let kube = &facts.snapshot.kube;
    let (uses, slots) = match (facts.uses, facts.slots) {
        (Reading::Known(uses), Reading::Known(slots)) => (uses, slots),
        (uses, slots) => return Reading::unknown(uses.why().or(slots.why()).unwrap_or("not read")),
    };
    let needed = [kube.persistent_volumes.why(), kube.claims.why(), kube.volume_attachments.why(), kube.pdbs.why()];
    if let Some(why) = needed.into_iter().flatten().next() {
        return Reading::unknown(why);
    }
    if let Some(one) = slots.iter().find(|one| one.free().is_none()) {
        return Reading::unknown(format!("slots of {}: {}", one.node, one.unknown().unwrap_or("not read")));
    }
    let volumes = facts.snapshot.volumes_by_name().into_known().unwrap_or_default();
    let claims = facts.snapshot.claimed_volumes().into_known().unwrap_or_default();
    let mut pods: BTreeMap<&NodeName, Vec<&Pod>> = BTreeMap::new();
    for pod in kube.pods.items().iter().filter(|pod| !pod.is_terminal() && !pod.belongs_to_node()) {
        if let Some(node) = &pod.node {
            pods.entry(node).or_default().push(pod);
        }
    }
    let slots = slots.iter().map(|one| (&one.node, one)).collect();
    let context = Context { facts, uses, slots, volumes, claims, pods };
    let mut workers: Vec<&NodeUse<'_>> = uses.iter().filter(|one| one.is_in(Scope::Workers)).collect();
    workers.sort_by(|a, b| a.movable_memory().cmp(&b.movable_memory()).then(a.node.name.cmp(&b.node.name)));
    workers.truncate(MOST_CANDIDATES);
    Reading::Known(workers.into_iter().map(|one| context.without(one)).collect())
}

struct Context<'a> {
    facts: &'a Facts<'a>,
    uses: &'a [NodeUse<'a>],
    slots: BTreeMap<&'a NodeName, &'a VolumeSlots>,
    volumes: BTreeMap<&'a PvName, &'a PersistentVolume>,
    claims: BTreeMap<(&'a str, &'a str), &'a PvName>,
    /// Pods that move when their node goes.
    pods: BTreeMap<&'a NodeName, Vec<&'a Pod>>,
}

impl Context<'_> {
    fn without(&self, gone: &NodeUse<'_>) -> Removal {
        let mut blockers = Vec::new();
        let mut receivers: Vec<Receiver<'_>> = self
            .uses
            .iter()
            .filter(|one| one.is_in(Scope::Workers) && one.node.name != gone.node.name)
            .filter_map(|one| {
                let slots = self.slots.get(&one.node.name)?;
                Some(Receiver {
                    node: one.node,
                    requests: one.requests.clone(),
                    pods: one.pods,
                    free_slots: slots.free()?,
                    attachments: slots.attached.known()?.len() as u64,
                })
            })
            .collect();
        let receivers_before: Vec<String> = receivers
            .iter()
            .filter(|one| one.node.unschedulable || !one.node.is_ready())
            .map(|one| format!("{} is cordoned or not ready", one.node.name))
            .collect();
        blockers.extend(receivers_before);
        if receivers.is_empty() {
            blockers.push("it is the only worker".into());
        }
        blockers.extend(self.tied_to(gone.node, &receivers));
        let mut moving: Vec<&Pod> = self.pods.get(&gone.node.name).cloned().unwrap_or_default();
        moving.sort_by_key(|pod| (std::cmp::Reverse(pod.requests.memory), pod.object_name()));
        for pod in moving {
            if let Some(rule) = unmodelled(pod) {
                blockers.push(format!("{} uses {rule}: its new place cannot be proven", pod.object_name()));
                continue;
            }
            match self.place(pod, &mut receivers) {
                Ok(()) => {}
                Err(why) => blockers.push(format!("{} fits nowhere: {why}", pod.object_name())),
            }
        }
        let allocatable: Bytes = receivers.iter().map(|one| one.node.allocatable.memory).sum();
        let share = |amount: Bytes| if allocatable.0 == 0 { f64::INFINITY } else { amount.0 as f64 / allocatable.0 as f64 };
        let limits: Bytes = self.uses.iter().filter(|one| one.is_in(Scope::Workers)).map(|one| one.limits.memory).sum();
        let removal = Removal {
            node: gone.node.name.clone(),
            most_attachments: receivers.iter().map(|one| one.attachments).max().unwrap_or_default(),
            requested: share(receivers.iter().map(|one| one.requests.memory).sum()),
            limited: share(limits),
            blockers,
        };
        self.against_up_rules(removal)
    }

    /// What only this node has: devices, and volumes that cannot be used from another one.
    fn tied_to(&self, gone: &Node, receivers: &[Receiver<'_>]) -> Vec<String> {
        let devices = gone.allocatable.extended.iter().filter(|(name, amount)| name.contains('/') && **amount > 0);
        let only_here = devices.filter(|(name, _)| {
            receivers.iter().all(|one| one.node.allocatable.extended.get(*name).is_none_or(|amount| *amount == 0))
        });
        let mut tied: Vec<String> = only_here.map(|(name, _)| format!("it is the only worker with {name}")).collect();
        for volume in self.volumes.values().filter(|volume| volume.phase == "Bound") {
            let Some(affinity) = &volume.node_affinity else { continue };
            if affinity.matches(gone) && !receivers.iter().any(|one| affinity.matches(one.node)) {
                let claim = volume.claim.as_ref().map_or_else(String::new, |claim| format!(" of claim {claim}"));
                tied.push(format!("volume {}{claim} can be used from this node only", volume.name));
            }
        }
        tied
    }

    /// Adds every scale-up rule that the state after the removal would meet.
    fn against_up_rules(&self, mut removal: Removal) -> Removal {
        for rule in &self.facts.policy.scale_up.rules {
            let value = match rule.measure {
                Measure::VolumeAttachments => removal.most_attachments as f64,
                Measure::MemoryRequests => removal.requested,
                Measure::MemoryLimits => removal.limited,
                Measure::PlannedVolumes => {
                    let planned = rule.when.holds(self.facts.policy.plan.planned_volumes as f64);
                    let full = rule.with_attachments.is_none_or(|most| most.holds(removal.most_attachments as f64));
                    if planned && full {
                        removal.blockers.push(format!("afterwards it meets `{}`", rule.id));
                    }
                    continue;
                }
                Measure::MemoryLimitsPerNode
                | Measure::AttachFailures
                | Measure::EvictionsPerDay
                | Measure::NoGrowthConfirmed => continue,
            };
            if rule.when.holds(value) {
                let shown = if rule.when.percent { format!("{:.1}%", value * 100.0) } else { format!("{value:.0}") };
                removal.blockers.push(format!("afterwards it meets `{}`: {shown} is {}", rule.id, rule.when));
            }
        }
        removal
    }

    fn place(&self, pod: &Pod, receivers: &mut [Receiver<'_>]) -> Result<(), String> {
        let mut volumes: BTreeSet<&PvName> = BTreeSet::new();
        let mut attachable = 0;
        for claim in &pod.claims {
            let name = self
                .claims
                .get(&(pod.namespace.as_str(), claim.as_str()))
                .ok_or_else(|| format!("claim {claim} is not bound"))?;
            let volume = self.volumes.get(name).ok_or_else(|| format!("volume {name} of claim {claim} is missing"))?;
            if volumes.insert(name) && volume.driver == self.facts.policy.attacher {
                attachable += 1;
            }
        }
        let mut reasons: BTreeMap<&'static str, usize> = BTreeMap::new();
        let mut best: Option<(u64, usize)> = None;
        for (place, one) in receivers.iter().enumerate() {
            match refusal(pod, one, attachable, volumes.iter().filter_map(|name| self.volumes.get(*name).copied())) {
                Some(reason) => *reasons.entry(reason).or_default() += 1,
                None => {
                    let left = one.node.allocatable.memory.minus(one.requests.memory).0;
                    if best.is_none_or(|(most, _)| left > most) {
                        best = Some((left, place));
                    }
                }
            }
        }
        let Some((_, place)) = best else {
            let text: Vec<String> = reasons.into_iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            return Err(format!("{} nodes: {}", receivers.len(), text.join(", ")));
        };
        let one = &mut receivers[place];
        one.requests.add(&pod.requests);
        one.pods += 1;
        one.free_slots = one.free_slots.saturating_sub(attachable);
        one.attachments += attachable;
        Ok(())
    }
}

fn unmodelled(pod: &Pod) -> Option<&'static str> {
    let rules = &pod.scheduling;
    let required =
        |affinity: &Option<capplan_model::kube::PodAffinity>| affinity.as_ref().is_some_and(|one| !one.required.is_empty());
    if rules.affinity.as_ref().is_some_and(|affinity| required(&affinity.pod_affinity) || required(&affinity.pod_anti_affinity)) {
        Some("inter-pod affinity")
    } else if rules.topology_spread.iter().any(|spread| spread.when_unsatisfiable == "DoNotSchedule") {
        Some("topology spread")
    } else if !rules.host_ports.is_empty() {
        Some("host ports")
    } else if !rules.unmodelled.is_empty() || rules.gated {
        Some("resource claims or scheduling gates")
    } else {
        None
    }
}

fn refusal<'v>(
    pod: &Pod,
    one: &Receiver<'_>,
    attachable: u64,
    mut volumes: impl Iterator<Item = &'v PersistentVolume>,
) -> Option<&'static str> {
    let rules = &pod.scheduling;
    let (allocatable, taken, wanted) = (&one.node.allocatable, &one.requests, &pod.requests);
    let extended = |name: &String, amount: &u64| {
        let most = allocatable.extended.get(name).copied().unwrap_or_default();
        most.saturating_sub(taken.extended.get(name).copied().unwrap_or_default()) >= *amount
    };
    let tolerated = |taint: &capplan_model::kube::Taint| {
        taint.effect == Effect::PreferNoSchedule || rules.tolerations.iter().any(|toleration| toleration.covers(taint))
    };
    if one.node.unschedulable || !one.node.is_ready() {
        Some("cordoned or not ready")
    } else if !one.node.taints.iter().all(tolerated) {
        Some("taint")
    } else if !rules.node_selector.iter().all(|(key, value)| one.node.labels.get(key) == Some(value))
        || !rules
            .affinity
            .as_ref()
            .and_then(|affinity| affinity.node_affinity.as_ref()?.required.as_ref())
            .is_none_or(|selector| selector.matches(one.node))
    {
        Some("node selector or affinity")
    } else if !volumes.all(|volume| volume.node_affinity.as_ref().is_none_or(|selector| selector.matches(one.node))) {
        Some("volume elsewhere")
    } else if attachable > one.free_slots {
        Some("no free volume slot")
    } else if taken.memory + wanted.memory > allocatable.memory {
        Some("memory")
    } else if taken.cpu + wanted.cpu > allocatable.cpu {
        Some("cpu")
    } else if wanted.ephemeral > Bytes(0) && taken.ephemeral + wanted.ephemeral > allocatable.ephemeral {
        Some("ephemeral storage")
    } else if one.pods + 1 > one.node.max_pods {
        Some("pod count")
    } else if !wanted.extended.iter().all(|(name, amount)| extended(name, amount)) {
        Some("extended resource")
    } else {
        None
    }
}

/// What the loss of a worker would mean by memory requests alone.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeLoss {
    /// The worker.
    pub node: NodeName,
    /// Memory requests of its pods that move.
    pub to_move: Bytes,
    /// Unrequested memory of the other general workers.
    pub free: Bytes,
}

impl NodeLoss {
    /// Memory that is missing.
    pub fn short(&self) -> Bytes {
        self.to_move.minus(self.free)
    }
}

/// The loss of each general worker, the one that leaves most without a place first.
///
/// A sum only: that it fits by sum does not say that every pod finds a node.
pub fn losses(uses: &[NodeUse<'_>]) -> Vec<NodeLoss> {
    let general = || uses.iter().filter(|one| one.is_in(Scope::General));
    let free: Bytes = general().map(NodeUse::free_memory).sum();
    let mut losses: Vec<NodeLoss> = general()
        .map(|one| NodeLoss { node: one.node.name.clone(), to_move: one.movable_memory(), free: free.minus(one.free_memory()) })
        .collect();
    losses.sort_by(|a, b| b.short().cmp(&a.short()).then(b.to_move.cmp(&a.to_move)).then(a.node.cmp(&b.node)));
    losses
}
