//! The cluster after a plan: what the rules say of it then, and for how long.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::capacity::Dimension;
use capplan_model::history::{Point, Series};
use capplan_model::ids::NodeName;
use capplan_model::kube::{MAX_VOLUMES_LABEL, Node};
use capplan_model::plan::{GuestRef, Plan, StepAction, WorkerSpec};
use capplan_model::policy::{Direction, Measure, Policy, Rule, Scope};
use capplan_model::pve::Guest;
use capplan_model::slots::VolumeSlots;
use capplan_model::units::Bytes;
use capplan_model::{Reading, Snapshot};
use jiff::Timestamp;

use super::Scene;
use super::board::{Board, Landing};
use super::newcomer;
use crate::capacity::{NodeUse, memory_share, node_uses};
use crate::forecast::trend;
use crate::rules::{Facts, Judgement, Verdict, combine, judge_all};
use crate::scheduler::Cluster;
use crate::simulate::{Effects, NewWorker};

/// The cluster once every pod of a plan has moved and the nodes that go are gone.
pub(crate) fn snapshot(scene: &Scene<'_>, plan: &Plan, gone: &[NodeName]) -> Snapshot {
    let split = |pod: &str| pod.split_once('/').map(|(namespace, name)| (namespace.to_owned(), name.to_owned()));
    let moved: BTreeMap<_, _> = plan.moves().filter_map(|one| Some((split(&one.pod)?, one.to.clone()))).collect();
    let effects = Effects {
        moved,
        order: plan.moves().filter_map(|one| split(&one.pod)).collect(),
        nodes_gone: gone.iter().cloned().collect(),
        powered_off: gone.iter().cloned().collect(),
        ..Effects::default()
    };
    let mut after = scene.ground.snapshot.clone();
    // What belongs to a node goes with it.
    if let Reading::Known(pods) = &mut after.kube.pods {
        let moves = |name: &(String, String)| effects.moved.contains_key(name);
        pods.retain(|pod| {
            let stays = pod.node.as_ref().is_none_or(|node| !effects.nodes_gone.contains(node));
            stays || moves(&(pod.namespace.clone(), pod.name.clone()))
        });
    }
    effects.apply(&mut after, &scene.ground.policy.attacher);
    after
}

/// The cluster once new workers joined and pods landed.
pub(crate) fn with_workers(scene: &Scene<'_>, cluster: &Cluster<'_>, landings: &[Landing], workers: &[NewWorker]) -> Snapshot {
    let key = |one: &Landing| {
        let pod = cluster.pod(one.pod);
        (pod.namespace.clone(), pod.name.clone())
    };
    let effects = Effects {
        moved: landings.iter().map(|one| (key(one), Some(cluster.node(one.to).name.clone()))).collect(),
        order: landings.iter().map(key).collect(),
        workers: workers.to_vec(),
        added: workers.iter().flat_map(|worker| worker.daemons.clone()).collect(),
        ..Effects::default()
    };
    let mut after = scene.ground.snapshot.clone();
    effects.apply(&mut after, &scene.ground.policy.attacher);
    after
}

/// How the rules for another worker stand as it is: what an option is held against.
pub(crate) struct Standing<'a> {
    /// Those that hold, as the report judges them, each with its value.
    pub held: Vec<(&'a Rule, String)>,
    /// Those that hold at this instant, for their window or not.
    instant: BTreeSet<&'a str>,
    /// Those that hold now, and of which is not known whether they held for their window.
    open: BTreeSet<&'a str>,
    /// Memory requests of the workers, as a share.
    requested: Option<f64>,
}

/// The value of a rule in words.
fn shown(rule: &Rule, value: f64) -> String {
    format!("{} is {}", rule.when.show(value), rule.when)
}

fn up<'a>(facts: &Facts<'a>) -> Vec<Judgement<'a>> {
    judge_all(facts).into_iter().filter(|one| one.direction == Direction::Up).collect()
}

impl<'a> Standing<'a> {
    pub(crate) fn of(scene: &Scene<'a>) -> Self {
        let (snapshot, policy) = (scene.ground.snapshot, scene.ground.policy);
        let uses = node_uses(snapshot);
        let facts = Facts { snapshot, history: scene.history, policy, uses: &uses, slots: scene.slots };
        Self::judged(policy, &judge_all(&facts), &uses)
    }

    /// The same of rules that are judged already.
    pub(crate) fn judged(policy: &'a Policy, judged: &[Judgement<'_>], uses: &Reading<Vec<NodeUse<'_>>>) -> Self {
        let (mut held, mut instant, mut open) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let judged: Vec<&Judgement<'_>> = judged.iter().filter(|one| one.direction == Direction::Up).collect();
        for one in &judged {
            let Some(rule) = policy.scale_up.rules.iter().find(|rule| rule.id == one.rule.id) else { continue };
            if one.sustained == Verdict::Met {
                held.push((rule, shown(rule, one.evidence.value.unwrap_or_default())));
            }
            if one.instant == Verdict::Met {
                instant.insert(rule.id.as_str());
                open.extend((one.sustained == Verdict::InsufficientData).then_some(rule.id.as_str()));
            }
        }
        if combine(&policy.scale_up, &judged) != Verdict::Met {
            held.clear();
        }
        Self { held, instant, open, requested: requested(uses) }
    }

    /// A rule that is met and measures something else: what an option for these measures alone leaves as it is.
    pub(crate) fn met_beside(&self, measures: &[Measure]) -> Option<&'a Rule> {
        self.held.iter().map(|(rule, _)| *rule).find(|rule| !measures.contains(&rule.measure))
    }

    /// Whether a rule about the measure holds.
    pub(crate) fn rule(&self, measure: Measure) -> Option<&'a Rule> {
        self.held.iter().map(|(rule, _)| *rule).find(|rule| rule.measure == measure)
    }

    /// What a state leaves to be done: rules that held and still do, and rules that did not and now do.
    ///
    /// What rests on the past alone cannot be undone by any state: failed attaches are held against the slots
    /// that are free then, evictions against the memory that pods ask for.
    pub(crate) fn left(&self, scene: &Scene<'_>, mut state: Snapshot) -> Vec<(String, String)> {
        let policy = scene.ground.policy;
        attach_waiting(&mut state, &policy.attacher);
        let uses = node_uses(&state);
        let slots = VolumeSlots::of_workers(&state, &policy.attacher);
        let facts = Facts { snapshot: &state, history: scene.history, policy, uses: &uses, slots: &slots };
        let mut left = Vec::new();
        for one in up(&facts).into_iter().filter(|one| one.instant == Verdict::Met) {
            // What is open is no reason to act, but it is no state to plan for either.
            let holds = self.held.iter().any(|(rule, _)| rule.id == one.rule.id) || self.open.contains(one.rule.id.as_str());
            let is_new = !self.instant.contains(one.rule.id.as_str());
            let eased = one.rule.measure == Measure::EvictionsPerDay
                && requested(&uses).zip(self.requested).is_some_and(|(after, before)| after < before);
            if (holds && !eased) || is_new {
                left.push((
                    one.rule.id.clone(),
                    format!("holds afterwards: {}", shown(one.rule, one.evidence.value.unwrap_or_default())),
                ));
            }
        }
        if left.is_empty() {
            left.extend(met_later(scene, &facts));
        }
        left
    }
}

fn requested(uses: &Reading<Vec<NodeUse<'_>>>) -> Option<f64> {
    memory_share(uses.known()?, Scope::Workers).requested()
}

/// Attaches what waits for a slot where one is free.
fn attach_waiting(state: &mut Snapshot, attacher: &str) {
    let slots = VolumeSlots::of_workers(state, attacher);
    let mut free: BTreeMap<NodeName, u64> = BTreeMap::new();
    for one in slots.known().into_iter().flatten() {
        if let Some(config) = one.config.known() {
            free.insert(one.node.clone(), config.real().saturating_sub(config.plugged.len() as u64));
        }
    }
    if let Reading::Known(attachments) = &mut state.kube.volume_attachments {
        for one in attachments.iter_mut().filter(|one| one.attacher == attacher && !one.attached && one.attach_error.is_some()) {
            if let Some(free) = free.get_mut(&one.node).filter(|free| **free > 0) {
                *free -= 1;
                (one.attached, one.attach_error) = (true, None);
            }
        }
    }
    if let Reading::Known(events) = &mut state.kube.events {
        events.clear();
    }
}

/// Rules for another worker that hold in a state, with their values.
pub(crate) fn up_rules_met(scene: &Scene<'_>, after: &Snapshot) -> Vec<(String, String)> {
    let policy = scene.ground.policy;
    let uses = node_uses(after);
    let slots = VolumeSlots::of_workers(after, &policy.attacher);
    let facts = Facts { snapshot: after, history: scene.history, policy, uses: &uses, slots: &slots };
    let mut met = Vec::new();
    for one in up(&facts).into_iter().filter(|one| one.instant == Verdict::Met) {
        met.push((one.rule.id.clone(), format!("holds afterwards: {}", shown(one.rule, one.evidence.value.unwrap_or_default()))));
    }
    if met.is_empty() {
        met.extend(met_later(scene, &facts));
    }
    met
}

/// Rules that hold before the horizon of the policy ends, by the trends of the whole cluster.
fn met_later(scene: &Scene<'_>, facts: &Facts<'_>) -> Vec<(String, String)> {
    let days = f64::from(facts.policy.safety.horizon_days);
    let workers: Vec<&Node> = facts.snapshot.workers().into_known().unwrap_or_default();
    let allocatable = workers.iter().map(|node| node.allocatable.memory).sum::<Bytes>().0;
    let mut list = Vec::new();
    for rule in &facts.policy.scale_up.rules {
        let (dimension, per) = match rule.measure {
            Measure::VolumeAttachments => (Dimension::VolumeAttachments, workers.len() as f64),
            Measure::MemoryRequests => (Dimension::MemoryRequests, allocatable as f64),
            Measure::MemoryLimits
            | Measure::MemoryLimitsPerNode
            | Measure::AttachFailures
            | Measure::EvictionsPerDay
            | Measure::PlannedVolumes
            | Measure::NoGrowthConfirmed => continue,
        };
        let Some(per_day) = growth(scene, dimension, facts.snapshot.taken) else { continue };
        let now = judge_all(facts).into_iter().find(|one| one.rule.id == rule.id).and_then(|one| one.evidence.value);
        let Some(now) = now.filter(|_| per > 0.0) else { continue };
        let then = now + per_day * days / per;
        if rule.when.holds(then) {
            list.push((rule.id.clone(), format!("holds in {days:.0} days by the trend: {}", shown(rule, then))));
        }
    }
    list
}

/// Growth of a dimension per day over all its subjects, if there is a trend.
fn growth(scene: &Scene<'_>, dimension: Dimension, now: Timestamp) -> Option<f64> {
    let mut sums: BTreeMap<Timestamp, f64> = BTreeMap::new();
    for (_, series) in scene.history.subjects(dimension) {
        for (at, point) in series {
            *sums.entry(*at).or_default() += point.used;
        }
    }
    let sums: Series = sums.into_iter().map(|(at, used)| (at, Point { used, limit: None })).collect();
    let trend = trend(&sums, now)?;
    (trend.is_significant() && trend.per_day > 0.0).then_some(trend.per_day)
}

/// The cluster once every step of a plan is done, as far as a step is not a human's.
pub(crate) fn end_state(scene: &Scene<'_>, board: &Board<'_>, plan: &Plan) -> Snapshot {
    let steps = || plan.steps.iter().map(|step| &step.change);
    let gone: Vec<NodeName> = steps()
        .filter_map(|change| if let StepAction::DeleteNode { node, .. } = change { Some(node.clone()) } else { None })
        .collect();
    let mut after = snapshot(scene, plan, &gone);
    for change in steps() {
        match change {
            StepAction::Cordon { node } => alter(&mut after, node, Node::cordon),
            StepAction::Uncordon { node } => alter(&mut after, node, Node::uncordon),
            StepAction::Label { node, labels } => {
                alter(&mut after, node, |node| node.labels.extend(labels.clone()));
                if let (Some(value), Reading::Known(nodes)) = (labels.get(MAX_VOLUMES_LABEL), &mut after.kube.csi_nodes) {
                    let drivers = nodes.iter_mut().filter(|one| one.name == *node).flat_map(|one| &mut one.drivers);
                    let ours = drivers.filter(|driver| driver.name == scene.ground.policy.attacher);
                    ours.for_each(|driver| driver.count = value.parse().ok());
                }
            }
            StepAction::UnplugGhost { guest, slot, .. } => guest_mut(&mut after, guest, |guest| {
                if let Reading::Known(config) = &mut guest.config {
                    config.disks.remove(slot);
                }
            }),
            StepAction::KeepGuestOff { guest } => guest_mut(&mut after, guest, |guest| {
                if let Reading::Known(config) = &mut guest.config {
                    config.on_boot = false;
                }
            }),
            StepAction::BootWorker { worker, .. } => {
                if let Some(spec) = plan.worker(worker) {
                    add_worker(scene, board, spec, &mut after);
                }
            }
            StepAction::Evict { .. }
            | StepAction::CloneGuest { .. }
            | StepAction::SetGuest { .. }
            | StepAction::GrowDisk { .. }
            | StepAction::DropSeed { .. }
            | StepAction::Probe { .. }
            | StepAction::StartWithHost { .. }
            | StepAction::Register { .. }
            | StepAction::DisarmGuest { .. }
            | StepAction::DeleteNode { .. }
            | StepAction::ShutDownGuest { .. }
            | StepAction::DestroyGuest { .. }
            | StepAction::Wait
            | StepAction::Manual { .. } => {}
        }
    }
    attach_waiting(&mut after, &scene.ground.policy.attacher);
    after.sort();
    after
}

fn alter(state: &mut Snapshot, name: &NodeName, alter: impl FnOnce(&mut Node)) {
    if let Reading::Known(nodes) = &mut state.kube.nodes
        && let Some(node) = nodes.iter_mut().find(|node| node.name == *name)
    {
        alter(node);
    }
}

fn guest_mut(state: &mut Snapshot, meant: &GuestRef, alter: impl FnOnce(&mut Guest)) {
    let guests = state.pve.iter_mut().filter_map(|pve| match &mut pve.guests {
        Reading::Known(guests) => Some(guests),
        Reading::Unknown { .. } => None,
    });
    if let Some(guest) = guests.flatten().find(|guest| GuestRef::of(guest) == *meant) {
        alter(guest);
    }
}

/// Lets a worker join under the name that the plan gives it.
fn add_worker(scene: &Scene<'_>, board: &Board<'_>, spec: &WorkerSpec, after: &mut Snapshot) {
    let Some(worker) = newcomer::enter(scene, &mut board.clone(), spec) else { return };
    // A spare is the machine that it was.
    for pve in &mut after.pve {
        if let Reading::Known(guests) = &mut pve.guests {
            guests.retain(|guest| guest.host != spec.host || guest.vmid != spec.vmid);
        }
    }
    let added = worker.daemons.clone();
    Effects { added, workers: vec![worker], ..Effects::default() }.apply(after, &scene.ground.policy.attacher);
}
