//! Findings about limits, rules and counts.

use std::collections::BTreeMap;

use capplan_model::capacity::{Dimension, Usage};
use capplan_model::policy::{Direction, Measure};
use capplan_model::units::Bytes;

use super::{Finding, Severity, some};
use crate::capacity::is_evicted;
use crate::loss::losses;
use crate::rules::{Facts, Judgement, Verdict};

pub(super) fn find(facts: &Facts<'_>, usages: &[Usage], judgements: &[Judgement<'_>], findings: &mut Vec<Finding>) {
    limits(facts, usages, findings);
    if let Some(uses) = facts.uses.known() {
        if let Some(loss) = losses(uses).into_iter().find(|loss| loss.to_move > loss.free) {
            findings.push(Finding::new(
                "n-minus-one-short",
                Severity::Warning,
                loss.node.as_str(),
                format!(
                    "if it is lost, {} of memory requests must fit into {} on the other general workers",
                    loss.to_move, loss.free
                ),
                "right-size the largest requests, add a worker, or let general pods use more nodes",
            ));
        }
        let (pods, phantom) =
            uses.iter().fold((0, Bytes(0)), |(pods, phantom), one| (pods + one.terminal, phantom + one.phantom));
        if pods > 0 {
            findings.push(Finding::new(
                "terminal-pods",
                Severity::Info,
                "cluster",
                format!("{pods} finished pods list {phantom} of memory requests that hold nothing and are not counted"),
                "a sum that includes them (a plain PromQL sum, say) reads too high by that much",
            ));
        }
    }
    evicted(facts, findings);
    for one in judgements {
        disagreement(one, findings);
        out_of_reach(one, findings);
    }
}

fn limits(facts: &Facts<'_>, usages: &[Usage], findings: &mut Vec<Finding>) {
    // One finding a dimension and severity: on a large cluster the list of holders would be endless.
    let mut full: BTreeMap<Dimension, Vec<&Usage>> = BTreeMap::new();
    let mut high: BTreeMap<Dimension, Vec<&Usage>> = BTreeMap::new();
    for usage in usages.iter().filter(|usage| usage.dimension.binds()) {
        match usage.ratio() {
            Some(ratio) if ratio >= 1.0 => full.entry(usage.dimension).or_default().push(usage),
            Some(ratio) if ratio >= facts.policy.limits.high => high.entry(usage.dimension).or_default().push(usage),
            _ => {}
        }
    }
    for (code, severity, found) in [("limit-full", Severity::Critical, full), ("limit-high", Severity::Warning, high)] {
        for (dimension, mut holders) in found {
            // A device that is handed out whole is meant to be full.
            let severity = if dimension == Dimension::ExtendedResource { Severity::Info } else { severity };
            holders.sort_by(|a, b| {
                b.ratio().partial_cmp(&a.ratio()).unwrap_or(std::cmp::Ordering::Equal).then(a.subject.cmp(&b.subject))
            });
            let unit = dimension.unit();
            let list = some(holders.iter().map(|usage| {
                let limit = usage.limit.map_or_else(|| "?".to_owned(), |limit| unit.show(limit));
                format!(
                    "{} {} of {limit} ({:.1}%)",
                    usage.subject,
                    unit.show(usage.used),
                    usage.ratio().unwrap_or_default() * 100.0
                )
            }));
            findings.push(Finding::new(code, severity, dimension.name(), list, advice(dimension)));
        }
    }
}

fn advice(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::VolumeSlots | Dimension::VolumeAttachments => {
            "spread volumes over the workers, remove ghosts, or add a worker; the total is rarely the problem, the fullest worker is"
        }
        Dimension::MemoryRequests | Dimension::MemoryLimits => {
            "right-size the largest requests first (compare with actual use), then add a worker"
        }
        Dimension::Cpu => "right-size CPU requests; they block scheduling long before the CPU is busy",
        Dimension::Pods => "raise maxPods of the kubelet or add a worker",
        Dimension::ExtendedResource => "no further pod of this kind fits on its node",
        Dimension::HostMemoryCommitted | Dimension::HostMemoryUsed | Dimension::HostMemoryIfAllStarted => {
            "shrink an oversized guest (the control plane, often) or move one to another host; ballooning returns nothing when balloon = memory"
        }
        Dimension::PoolData => {
            "delete Released volumes and old snapshots, enable discard; a full pool stops every guest on it at once"
        }
        Dimension::PoolMetadata => "extend it with `lvextend --poolmetadatasize`: full metadata makes the pool read-only",
        Dimension::NodeFilesystem => "prune images and logs before the kubelet evicts pods",
        Dimension::ControlPlaneObjects => "find the owner that leaks them and upgrade it; the datastore slows down for everyone",
        Dimension::Quota => "raise the quota before the next DaemonSet or node needs it",
        Dimension::EvictedPods => "find the pressure that evicts them",
    }
}

fn evicted(facts: &Facts<'_>, findings: &mut Vec<Finding>) {
    let day_ago = facts.snapshot.taken - jiff::SignedDuration::from_hours(24);
    let pods = facts.snapshot.kube.pods.items();
    let mut by_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| is_evicted(pod) && pod.ended.is_some_and(|ended| ended > day_ago)) {
        *by_node.entry(pod.node.as_ref().map_or("no node", |node| node.as_str())).or_default() += 1;
    }
    let total: usize = by_node.values().sum();
    if total > 0 {
        let list = some(by_node.iter().map(|(node, count)| format!("{count} on {node}")));
        findings.push(Finding::new(
            "evicted-pods",
            Severity::Warning,
            "cluster",
            format!("{total} in the last day: {list}"),
            "look for memory or disk pressure on these nodes; more capacity helps only against the first",
        ));
    }
}

fn disagreement(one: &Judgement<'_>, findings: &mut Vec<Finding>) {
    if !one.scopes_disagree() {
        return;
    }
    let list: Vec<String> = one
        .by_scope
        .iter()
        .map(|by| {
            let holds = if by.instant == Verdict::Met { "holds" } else { "does not hold" };
            format!("{:.1}% of {} ({holds})", by.value * 100.0, by.scope.name())
        })
        .collect();
    findings.push(Finding::new(
        "denominators-disagree",
        Severity::Warning,
        one.rule.id.as_str(),
        format!("{} is {}", one.rule.when, list.join(", ")),
        "the rule is judged by its own scope; nodes that a general pod cannot use do not help one that needs a place",
    ));
}

fn out_of_reach(one: &Judgement<'_>, findings: &mut Vec<Finding>) {
    let limits = matches!(one.rule.measure, Measure::MemoryLimits | Measure::MemoryLimitsPerNode);
    if one.direction != Direction::Down || !limits {
        return;
    }
    // More than a third above the threshold is how the cluster is run, not how it is loaded today.
    if let Some(value) = one.evidence.value.filter(|value| *value > one.rule.when.value * 4.0 / 3.0) {
        findings.push(Finding::new(
            "rule-out-of-reach",
            Severity::Info,
            one.rule.id.as_str(),
            format!(
                "needs {}, is {:.0}%: this cluster runs overcommitted, so the rule never lets a worker go",
                one.rule.when,
                value * 100.0
            ),
            "accept that no scale-down is recommended, lower the limits, or change the rule in a policy file of your own",
        ));
    }
}
