//! Right-size: requests are lowered to what is used.

use std::collections::BTreeMap;

use capplan_model::ids::NodeName;
use capplan_model::plan::{Action, Feasibility, Plan};
use capplan_model::policy::Measure;
use capplan_model::units::{Bytes, total};

use super::{Applies, Choice};
use crate::capacity::memory_share;
use crate::decide::{Case, Tried};
use crate::plan::steps::Steps;

pub(super) const OPTION: Choice = Choice { action: Action::RightSize, applies: Applies::Due, moves_disks: false, attempt };
/// Workloads named as candidates for smaller requests.
const MOST_NAMED: usize = 3;

/// Names the workloads with the largest requests if what is used leaves enough to give back.
fn attempt(case: &Case<'_, '_>) -> Tried {
    let Some(rule) = case.standing.rule(Measure::MemoryRequests) else {
        return Tried::No("memory requests are not what is short".to_owned());
    };
    // Evictions are the kubelets' answer to the same pressure; what else is met stays so.
    if let Some(other) = case.standing.met_beside(&[Measure::MemoryRequests, Measure::EvictionsPerDay]) {
        return Tried::No(format!("`{}` would still be met", other.id));
    }
    let Some(uses) = case.facts.uses.known() else { return Tried::No("requests are unknown".to_owned()) };
    let share = memory_share(uses, rule.scope);
    let members: Vec<_> = uses.iter().filter(|one| one.is_in(rule.scope)).collect();
    let allocatable = members.iter().map(|one| one.node.allocatable.memory).sum::<Bytes>().0;
    let requested = members.iter().map(|one| one.requests.memory).sum::<Bytes>().0;
    let excess = requested.saturating_sub((rule.when.value * allocatable as f64) as u64);
    let metrics: BTreeMap<&NodeName, Bytes> =
        case.scene.ground.snapshot.kube.node_metrics.items().iter().map(|one| (&one.name, one.memory)).collect();
    let used: Option<Vec<u64>> = members.iter().map(|one| metrics.get(&one.node.name).map(|used| used.0)).collect();
    let Some(used) = used.map(total) else {
        return Tried::No("what is really used is not known: no metrics were read".to_owned());
    };
    if used.saturating_add(excess) > requested {
        let percent = used as f64 / requested.max(1) as f64 * 100.0;
        return Tried::No(format!("{percent:.0}% of what is requested is used: there is too little to give back"));
    }
    let mut workloads: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    let pods = case.scene.ground.snapshot.kube.pods.items().iter().filter(|pod| !pod.is_terminal() && !pod.belongs_to_node());
    for pod in pods {
        let owner = pod.owner.as_ref().map_or(pod.name.as_str(), |owner| owner.name.as_str());
        let entry = workloads.entry(format!("{}/{owner}", pod.namespace)).or_default();
        *entry = (entry.0 + pod.requests.memory.0, entry.1 + 1);
    }
    let mut largest: Vec<(String, (u64, u64))> = workloads.into_iter().collect();
    largest.sort_by(|a, b| b.1.0.cmp(&a.1.0).then(a.0.cmp(&b.0)));
    let named: Vec<String> = largest
        .iter()
        .take(MOST_NAMED)
        .map(|(name, (memory, pods))| format!("{name} ({} in {pods} pods)", Bytes(*memory)))
        .collect();
    let mut list = Steps::default();
    list.add_manual(
        format!("lower memory requests by {} in all; the largest: {}", Bytes(excess), named.join(", ")),
        "kubectl top pods -A --sort-by=memory".to_owned(),
    );
    Tried::Works(Box::new(Plan {
        action: OPTION.action,
        target: largest.first().map(|(name, _)| name.clone()),
        feasibility: Feasibility::Feasible,
        because: vec![format!(
            "{} are requested ({:.1}%), {} are used: {} less would clear the rule",
            Bytes(requested),
            share.requested().unwrap_or_default() * 100.0,
            Bytes(used),
            Bytes(excess)
        )],
        steps: list.done(),
        ..case.empty.clone()
    }))
}
