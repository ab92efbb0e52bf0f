//! Findings about nodes.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Reading;
use capplan_model::ids::NodeName;
use capplan_model::join::Join;
use capplan_model::kube::{Node, UNSCHEDULABLE_TAINT};

use super::{Finding, Severity, some};
use crate::rules::Facts;

/// A lease older than this is stale: twice the largest default grace period.
///
/// # Source
/// kubelet renews every 10 s; node-monitor-grace-period is 50 s (40 s before v1.32).
const STALE_LEASE_SECONDS: i64 = 100;

pub(super) fn find(facts: &Facts<'_>, joins: &Reading<BTreeMap<&NodeName, Join<'_>>>, findings: &mut Vec<Finding>) {
    let Some(nodes) = facts.snapshot.kube.nodes.known() else { return };
    for node in nodes {
        health(facts, node, findings);
        cordoned(facts, node, findings);
    }
    for (node, join) in joins.known().into_iter().flatten() {
        match join {
            Join::Guest(_) => {}
            Join::Missing => findings.push(Finding::new(
                "node-without-guest",
                Severity::Warning,
                node.as_str(),
                "no VM has its SMBIOS UUID, name or VMID",
                "if it runs elsewhere, add that Proxmox VE endpoint to the configuration; if its VM is gone, delete the Node",
            )),
            Join::Ambiguous { candidates, why } => findings.push(Finding::new(
                "ambiguous-guest",
                Severity::Critical,
                node.as_str(),
                format!(
                    "{why}: {}",
                    some(candidates.iter().map(|guest| format!("{} ({}, on {})", guest.vmid, guest.name, guest.host)))
                ),
                "rename or remove the VM that is not the node; until then its slots are unknown and nothing is done to it",
            )),
        }
    }
    single_device(facts, nodes, findings);
}

fn health(facts: &Facts<'_>, node: &Node, findings: &mut Vec<Finding>) {
    let name = node.name.as_str();
    if !node.is_ready() {
        let reason = node.condition("Ready").map_or("no Ready condition", |condition| condition.reason.as_str());
        findings.push(Finding::new(
            "node-not-ready",
            Severity::Critical,
            name,
            reason,
            "look at the VM in PVE first (running? io-error?), then at the kubelet",
        ));
    } else if let Some(renewed) = facts.snapshot.kube.leases.known().and_then(|leases| leases.get(&node.name)) {
        let age = facts.snapshot.taken.duration_since(*renewed).as_secs();
        if age > STALE_LEASE_SECONDS {
            findings.push(Finding::new(
                "node-heartbeat-stale",
                Severity::Warning,
                name,
                format!("Ready, but its lease was last renewed {age} s before"),
                "compare the clocks; if they agree, the kubelet or the API server is stalling",
            ));
        }
    }
    let pressures = ["MemoryPressure", "DiskPressure", "PIDPressure"];
    for kind in pressures.into_iter().filter(|kind| node.condition(kind).is_some_and(|condition| condition.status == "True")) {
        findings.push(Finding::new(
            "node-pressure",
            Severity::Critical,
            name,
            kind,
            "the kubelet evicts pods and the node takes no new ones until it is relieved",
        ));
    }
}

fn cordoned(facts: &Facts<'_>, node: &Node, findings: &mut Vec<Finding>) {
    if !node.unschedulable {
        return;
    }
    let since = node.taints.iter().find(|taint| taint.key == UNSCHEDULABLE_TAINT).and_then(|taint| taint.time_added);
    let hours = since.map(|since| facts.snapshot.taken.duration_since(since).as_hours());
    let limit = facts.policy.limits.cordoned_hours;
    if hours.is_some_and(|hours| hours < limit) {
        return;
    }
    let evidence = hours.map_or_else(
        || "cordoned; since when is not recorded".to_owned(),
        |hours| format!("cordoned for {hours} h, more than {limit} h"),
    );
    findings.push(Finding::new(
        "node-cordoned",
        Severity::Warning,
        node.name.as_str(),
        evidence,
        "finish the maintenance or uncordon it: its capacity is missing, and nothing else may be drained meanwhile",
    ));
}

/// Extended resources that pods use and one node alone has.
fn single_device(facts: &Facts<'_>, nodes: &[Node], findings: &mut Vec<Finding>) {
    let Some(pods) = facts.snapshot.kube.pods.known() else { return };
    let wanted: BTreeSet<&String> = pods
        .iter()
        .filter(|pod| !pod.is_terminal())
        .flat_map(|pod| pod.requests.extended.keys())
        .filter(|name| name.contains('/'))
        .collect();
    let mut by_node: BTreeMap<&NodeName, Vec<String>> = BTreeMap::new();
    for resource in wanted {
        let mut holders = nodes.iter().filter(|node| node.allocatable.extended.get(resource).is_some_and(|amount| *amount > 0));
        if let (Some(only), None) = (holders.next(), holders.next()) {
            by_node.entry(&only.name).or_default().push(resource.clone());
        }
    }
    for (node, resources) in by_node {
        let uses = |pod: &&capplan_model::kube::Pod| {
            !pod.is_terminal() && resources.iter().any(|one| pod.requests.extended.contains_key(one))
        };
        let users: Vec<String> = pods.iter().filter(uses).map(|pod| pod.object_name().to_string()).collect();
        findings.push(Finding::new(
            "gpu-single-node",
            Severity::Warning,
            node.as_str(),
            format!("the only node with {}; used by {}", resources.join(", "), some(users)),
            "its pods stop with it and cannot be moved: never a candidate for removal; keep other pods off it with a taint",
        ));
    }
}
