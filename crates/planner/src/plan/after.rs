//! The cluster after a plan: what the rules say of it then, and for how long.

use std::collections::BTreeMap;

use capplan_model::Snapshot;
use capplan_model::capacity::Dimension;
use capplan_model::history::{Point, Series};
use capplan_model::ids::NodeName;
use capplan_model::kube::Node;
use capplan_model::plan::Plan;
use capplan_model::policy::{Direction, Measure};
use capplan_model::slots::VolumeSlots;
use jiff::Timestamp;

use super::Scene;
use crate::capacity::node_uses;
use crate::forecast::trend;
use crate::rules::{Facts, Verdict, judge_all};
use crate::simulate::Effects;

/// The cluster once every pod of a plan has moved and the nodes that go are gone.
pub(super) fn snapshot(scene: &Scene<'_>, plan: &Plan, gone: &[NodeName]) -> Snapshot {
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
    if let capplan_model::Reading::Known(pods) = &mut after.kube.pods {
        let moves = |name: &(String, String)| effects.moved.contains_key(name);
        pods.retain(|pod| {
            let stays = pod.node.as_ref().is_none_or(|node| !effects.nodes_gone.contains(node));
            stays || moves(&(pod.namespace.clone(), pod.name.clone()))
        });
    }
    effects.apply(&mut after, &scene.ground.policy.attacher);
    after
}

/// Rules for another worker that hold in a state, with their values.
pub(super) fn up_rules_met(scene: &Scene<'_>, after: &Snapshot) -> Vec<(String, String)> {
    let policy = scene.ground.policy;
    let uses = node_uses(after);
    let slots = VolumeSlots::of_workers(after, &policy.attacher);
    let facts = Facts { snapshot: after, history: scene.history, policy, uses: &uses, slots: &slots };
    let mut met = Vec::new();
    for one in judge_all(&facts).into_iter().filter(|one| one.direction == Direction::Up && one.instant == Verdict::Met) {
        let value = one.evidence.value.unwrap_or_default();
        let shown = if one.rule.when.percent { format!("{:.1}%", value * 100.0) } else { format!("{value:.0}") };
        met.push((one.rule.id.clone(), format!("afterwards it holds: {shown} is {}", one.rule.when)));
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
    let allocatable: u64 = workers.iter().map(|node| node.allocatable.memory.0).sum();
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
            let shown = if rule.when.percent { format!("{:.1}%", then * 100.0) } else { format!("{then:.0}") };
            list.push((rule.id.clone(), format!("in {days:.0} days it holds by the trend: {shown} is {}", rule.when)));
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
