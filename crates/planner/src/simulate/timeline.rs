//! What happens when after a node is lost: taint, eviction in one burst, forced detach.
//!
//! # Source
//! Kubernetes v1.36: `node-monitor-grace-period` and the attach-detach controller's
//! `maxWaitForUnmountDuration`; taint-based eviction (`pkg/controller/tainteviction`); open-iscsi's and
//! ext4's defaults for consumers of storage controllers that run in pods.

use std::collections::BTreeMap;

use capplan_model::Snapshot;
use capplan_model::change::{Change, FailureMode};
use capplan_model::ids::NodeName;
use capplan_model::kube::{Effect, Node, Pod, Taint};

use super::play::Player;
use super::result::{FailureSubject, TimelineRow, failures};

/// Seconds without a heartbeat until a node counts as unreachable (40 before v1.32).
const GRACE: i64 = 50;
/// Seconds until a volume that was never unmounted is detached by force.
const FORCED_DETACH: i64 = 360;
/// Seconds until an iSCSI session that cannot recover gives up.
const SESSION: i64 = 120;
/// Seconds from an eviction until the containers are gone and sessions notice.
const GONE: i64 = 4;
/// Names listed in one row before the rest is only counted.
const MOST_NAMES: usize = 12;

pub(super) fn of(changes: &[Change], player: &Player<'_>) -> Vec<TimelineRow> {
    let mut rows = Vec::new();
    let mut seen: Vec<NodeName> = Vec::new();
    for (subject, mode) in failures(changes) {
        let (name, nodes) = match subject {
            FailureSubject::Node(node) => (node.to_string(), vec![node.clone()]),
            FailureSubject::Host(host) => (host.to_string(), player.ground.nodes_on(host).into_known().unwrap_or_default()),
        };
        let nodes: Vec<NodeName> = nodes.into_iter().filter(|node| !seen.contains(node)).collect();
        if nodes.is_empty() {
            continue;
        }
        rows.extend(failure(player.ground.snapshot, &name, &nodes, &seen, mode, player));
        seen.extend(nodes);
    }
    rows
}

fn failure(
    snapshot: &Snapshot,
    name: &str,
    nodes: &[NodeName],
    before: &[NodeName],
    mode: FailureMode,
    player: &Player<'_>,
) -> Vec<TimelineRow> {
    let pods: Vec<&Pod> = snapshot
        .kube
        .pods
        .items()
        .iter()
        .filter(|pod| !pod.is_terminal() && !pod.is_mirror() && pod.node.as_ref().is_some_and(|node| nodes.contains(node)))
        .collect();
    let mut rows = Vec::new();
    let mut add = |at: i64, event: &str, what: String, concerns: Vec<String>| {
        rows.push(TimelineRow { at_seconds: at, subject: name.to_owned(), event: event.to_owned(), what, concerns });
    };
    let key = match mode {
        FailureMode::Notready => "node.kubernetes.io/not-ready",
        FailureMode::Partition | FailureMode::PowerOff => "node.kubernetes.io/unreachable",
    };
    add(
        0,
        "failure",
        match mode {
            FailureMode::Notready => "the kubelet reports NotReady; containers run on".to_owned(),
            FailureMode::Partition => "nobody reaches the node; containers run on".to_owned(),
            FailureMode::PowerOff => "power is gone; containers are gone".to_owned(),
        },
        Vec::new(),
    );
    let tainted = if mode == FailureMode::Notready { 0 } else { GRACE };
    add(tainted, "taint", format!("{key} keeps new pods away and starts each pod's toleration"), Vec::new());
    let is_gone = |node: &Node| player.nodes_gone.iter().any(|gone| player.scheduler.cluster.node(*gone).name == node.name);
    let voters: Vec<&Node> =
        snapshot.kube.nodes.items().iter().filter(|node| node.runs_control_plane() && !is_gone(node)).collect();
    let control: Vec<String> =
        voters.iter().filter(|node| nodes.contains(&node.name)).map(|node| node.name.to_string()).collect();
    if !control.is_empty() {
        let runs = |node: &&&Node| node.is_ready() && !nodes.contains(&node.name) && !before.contains(&node.name);
        let (left, voters) = (voters.iter().filter(runs).count(), voters.len());
        let quorum = voters / 2 + 1;
        let what = if left >= quorum {
            format!("{left} of {voters} control-plane nodes are left: quorum is {quorum}, the API stays")
        } else {
            format!("{left} of {voters} control-plane nodes are left, quorum is {quorum}: the API is lost, nothing below happens")
        };
        add(0, "control-plane", what, control);
    }
    let taint = Taint { key: key.into(), effect: Effect::NoExecute, ..Taint::default() };
    let mut bursts: BTreeMap<i64, Vec<&Pod>> = BTreeMap::new();
    for pod in &pods {
        if let Some(seconds) = crate::scheduler::toleration_seconds(pod, &taint) {
            bursts.entry(seconds).or_default().push(pod);
        }
    }
    for (seconds, pods) in &bursts {
        let what = match mode {
            FailureMode::Notready => "deleted in the same second, PodDisruptionBudgets or not; their containers end",
            FailureMode::Partition => {
                "deleted in the same second, PodDisruptionBudgets or not; they stay Terminating, their containers run on"
            }
            FailureMode::PowerOff => "deleted in the same second, PodDisruptionBudgets or not; they stay Terminating",
        };
        let at = tainted.saturating_add(*seconds.max(&0));
        add(at, "eviction", format!("{} pods {what}", pods.len()), names(pods));
        let stateful: Vec<&Pod> = owned_by(pods, "StatefulSet");
        if mode != FailureMode::Notready && !stateful.is_empty() {
            let what = "StatefulSet pods are not made again until the old one is gone: once the node is back, or with the \
                        out-of-service taint after it is certainly off";
            add(at, "stateful", what.to_owned(), names(&stateful));
        }
        let bare: Vec<&Pod> = pods.iter().copied().filter(|pod| pod.owner.is_none()).collect();
        if !bare.is_empty() {
            add(at, "lost", "pods without a controller: nothing makes them again".to_owned(), names(&bare));
        }
        let volumes: Vec<String> = pods.iter().flat_map(|pod| player.plugs.volumes_of(pod)).map(str::to_owned).collect();
        if !volumes.is_empty() {
            match mode {
                FailureMode::Notready => {
                    add(at + GONE, "detach", format!("{} volumes are unmounted and free elsewhere", volumes.len()), volumes);
                }
                FailureMode::Partition => {
                    let what = format!(
                        "{} volumes are detached by force, although containers there may still write: corruption is possible",
                        volumes.len()
                    );
                    add(at + FORCED_DETACH, "force-detach", what, volumes);
                }
                FailureMode::PowerOff => {
                    let what = format!(
                        "{} volumes are detached by force and free elsewhere; at once with the out-of-service taint",
                        volumes.len()
                    );
                    add(at + FORCED_DETACH, "force-detach", what, volumes);
                }
            }
        }
        controllers(mode, at, pods, &mut add);
    }
    rows.sort_by_key(|row| row.at_seconds);
    for row in &mut rows {
        if row.concerns.len() > MOST_NAMES {
            let more = row.concerns.len() - MOST_NAMES;
            row.concerns.truncate(MOST_NAMES);
            row.concerns.push(format!("and {more} more"));
        }
    }
    rows
}

/// Storage controllers that run in pods: what their consumers see.
fn controllers(mode: FailureMode, evicted: i64, pods: &[&Pod], add: &mut impl FnMut(i64, &str, String, Vec<String>)) {
    let controllers: Vec<&Pod> = pods.iter().copied().filter(|pod| is_storage_controller(pod)).collect();
    if controllers.is_empty() {
        return;
    }
    match mode {
        FailureMode::Notready => {
            add(
                evicted + GONE,
                "controllers-gone",
                "storage controllers are gone: their targets close".into(),
                names(&controllers),
            );
            let what = format!(
                "consumers elsewhere lose their sessions after {SESSION} s and go read-only, unless the controllers run again before"
            );
            add(evicted + GONE + 1 + SESSION, "read-only", what, names(&controllers));
        }
        FailureMode::Partition => {
            add(
                evicted,
                "controllers-cut",
                "storage controllers run on, but who reaches them depends on the path".into(),
                names(&controllers),
            );
        }
        FailureMode::PowerOff => {
            add(0, "controllers-gone", "storage controllers are gone without closing their sessions".into(), names(&controllers));
            let what =
                "consumers elsewhere go read-only: ping 5 s, timeout 5 s, recovery 120 s; a longer toleration does not help";
            add(SESSION + 10, "read-only", what.into(), names(&controllers));
        }
    }
}

/// Whether the pod serves the volumes of others: by label, never by name.
fn is_storage_controller(pod: &Pod) -> bool {
    let is = |key: &str, value: &str| pod.labels.get(key).is_some_and(|one| one == value);
    is("openebs.io/controller", "jiva-controller") || is("openebs.io/component", "jiva-controller")
}

fn owned_by<'p>(pods: &[&'p Pod], kind: &str) -> Vec<&'p Pod> {
    pods.iter().copied().filter(|pod| pod.owner.as_ref().is_some_and(|owner| owner.kind == kind)).collect()
}

fn names(pods: &[&Pod]) -> Vec<String> {
    pods.iter().map(|pod| pod.object_name().0).collect()
}
