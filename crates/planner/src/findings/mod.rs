//! What is wrong or about to be, each with a stable code, evidence and advice.

mod guests;
mod limits;
mod nodes;
mod volumes;

use std::collections::BTreeMap;

use capplan_model::Reading;
use capplan_model::capacity::Usage;
use capplan_model::ids::NodeName;
use capplan_model::join::Join;
use schemars::JsonSchema;
use serde::Serialize;

use crate::rules::{Facts, Judgement};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is broken or one step from it.
    Critical,
    /// It will hurt if left alone.
    Warning,
    /// Worth knowing.
    Info,
}

/// One thing found.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
pub struct Finding {
    /// Stable code, such as `ghost-volume`.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// The node, guest, volume, host or dimension it is about.
    pub subject: String,
    /// What was seen, with the figures.
    pub evidence: String,
    /// What to do about it.
    pub advice: String,
}

impl Finding {
    fn new(
        code: &str,
        severity: Severity,
        subject: impl Into<String>,
        evidence: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        debug_assert!(CODES.iter().any(|(known, _)| *known == code), "{code} is not in the table of codes");
        Self { code: code.to_owned(), severity, subject: subject.into(), evidence: evidence.into(), advice: advice.into() }
    }
}

/// Every code and what it says. Codes are API: they are added, never changed.
pub const CODES: [(&str, &str); 34] = [
    ("ambiguous-guest", "several VMs could be one node: nothing is concluded about it"),
    ("attach-failing", "a volume cannot be attached"),
    ("attacher-unknown", "the policy's attacher is no driver of this cluster"),
    ("attachment-on-missing-node", "a VolumeAttachment names a node that does not exist"),
    ("control-plane-oversized", "the control-plane VM holds memory that it does not use"),
    ("csi-driver-missing", "the CSI driver is not registered on a worker"),
    ("csi-task-failed", "a PVE task that plugs or unplugs volumes failed"),
    ("csinode-count-differs", "a worker advertises another number of volumes than its peers"),
    ("denominators-disagree", "a rule's verdict depends on which nodes are counted"),
    ("detach-pending", "a VolumeAttachment has waited for its removal for long"),
    ("disk-without-discard", "a VM disk never gives freed blocks back to the thin pool"),
    ("evicted-pods", "kubelets evicted pods in the last day"),
    ("ghost-volume", "a VM has a CSI volume plugged that no VolumeAttachment knows"),
    ("gpu-single-node", "one node holds every device of an extended resource in use"),
    ("guest-io-error", "a VM is paused by an IO error"),
    ("guest-without-node", "a VM that looks like a node, or holds CSI volumes, is no node"),
    ("host-cannot-take-worker", "no host has memory for another worker"),
    ("host-swapping", "a host uses most of its swap"),
    ("limit-full", "a limit is reached"),
    ("limit-high", "a limit is nearly reached"),
    ("n-minus-one-short", "the pods of one lost worker would not fit on the others"),
    ("node-cordoned", "a node has been cordoned for too long"),
    ("node-heartbeat-stale", "a Ready node has stopped renewing its lease"),
    ("node-not-ready", "a node is not ready"),
    ("node-pressure", "a node reports pressure"),
    ("node-without-guest", "a node has no VM"),
    ("phantom-slots", "a worker advertises slots that do not exist"),
    ("released-volumes", "volumes without a claim still hold space"),
    ("rule-out-of-reach", "a scale-down rule cannot be met as the cluster is run"),
    ("slot-arithmetic", "the runbook's number of slots is not the real one"),
    ("terminal-pods", "finished pods are listed with requests that do not count"),
    ("unused-disks", "detached volumes still belong to a VM"),
    ("volume-on-two-guests", "one volume is in the config of two VMs"),
    ("zombie-guest", "a stopped VM starts with its host and is no node"),
];

/// Finds everything, worst first, then by code and subject.
pub fn find(
    facts: &Facts<'_>,
    joins: &Reading<BTreeMap<&NodeName, Join<'_>>>,
    usages: &[Usage],
    judgements: &[Judgement<'_>],
) -> Vec<Finding> {
    let mut findings = Vec::new();
    volumes::find(facts, &mut findings);
    nodes::find(facts, joins, &mut findings);
    guests::find(facts, joins, &mut findings);
    limits::find(facts, usages, judgements, &mut findings);
    findings.sort_by(|a, b| (a.severity, &a.code, &a.subject).cmp(&(b.severity, &b.code, &b.subject)));
    findings
}

/// `1 thing`, `2 things`.
fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// The first few of a list, and how many more there are.
fn some(list: impl IntoIterator<Item = String>) -> String {
    const SHOWN: usize = 5;
    let all: Vec<String> = list.into_iter().collect();
    let shown = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN { format!("{shown} and {} more", all.len() - SHOWN) } else { shown }
}
