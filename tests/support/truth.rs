//! What `truth.json` of a recording says, held against a report.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{findings, row};

const GIB: f64 = (1_u64 << 30) as f64;

/// A number of the report.
#[track_caller]
pub fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// Two figures agree to the last digit the truth shows.
#[track_caller]
fn agrees(what: &str, shown: f64, truth: f64, tolerance: f64) {
    assert!((shown - truth).abs() <= tolerance, "{what}: the report says {shown}, the truth is {truth}");
}

/// The share of the report as the truth's percentage.
#[track_caller]
fn percent(what: &str, shown: &Value, truth: &Value) {
    agrees(what, number(shown) * 100.0, number(truth), 0.05 + 1e-9);
}

#[track_caller]
fn gib(what: &str, shown: f64, truth: &Value, decimals: i32) {
    agrees(what, shown / GIB, number(truth), 0.5 * 10_f64.powi(-decimals) + 1e-9);
}

#[track_caller]
fn count(what: &str, shown: &Value, truth: &Value) {
    assert!(shown.is_u64() && shown == truth, "{what}: the report says {shown}, the truth is {truth}");
}

/// The short names of volumes, as the truth has them: the name of the PersistentVolume.
fn short(volume: &str) -> String {
    match volume.rsplit_once("pvc-") {
        Some((before, id)) => {
            let slot = before.split_once('=').map(|(slot, _)| format!("{slot}=")).unwrap_or_default();
            format!("{slot}pvc-{id}")
        }
        None => volume.to_owned(),
    }
}

fn names(list: &Value) -> Vec<String> {
    let mut names: Vec<String> =
        list.as_array().expect("a list").iter().map(|one| short(one.as_str().expect("a name"))).collect();
    names.sort();
    names
}

fn slots_agree(report: &Value, truth: &Value) {
    let truth = truth.as_object().expect("by node");
    assert_eq!(report["slots"].as_array().map(Vec::len), Some(truth.len()));
    for (node, truth) in truth {
        let shown = row(&report["slots"], "node", node);
        for (ours, theirs) in [
            ("attached", "va_objects"),
            ("counted", "scheduler_volumes"),
            ("advertised", "csinode_count"),
            ("occupied", "plugin_slots_used"),
            ("plugged", "csi_disks_in_config"),
            ("free", "free_effective"),
        ] {
            count(&format!("{node} {ours}"), &shown[ours], &truth[theirs]);
        }
        let occupied = shown["occupied"].as_u64().expect("known");
        assert_eq!(truth["free_slots"], 29 - occupied, "{node}");
        assert_eq!(truth["os_disk_in_plugin_range"], !shown["foreign"].as_array().expect("a list").is_empty(), "{node}");
        for (ours, theirs) in [("ghosts", "ghosts"), ("failing", "va_failing"), ("unused", "unused_disks")] {
            assert_eq!(names(&shown[ours]), names(&truth[theirs]), "{node} {ours}");
        }
        let (objects, attached) = (number(&truth["va_objects"]), number(&truth["va_attached"]));
        assert_eq!(shown["failing"].as_array().map(Vec::len), Some((objects - attached) as usize), "{node}");
    }
}

fn memory_agrees(report: &Value, truth: &Value) {
    for (node, truth) in truth["per_node"].as_object().expect("by node") {
        let shown = row(&report["nodes"], "name", node);
        percent(&format!("{node} requests"), &shown["requested"], &truth["requests_pct"]);
        percent(&format!("{node} limits"), &shown["limited"], &truth["limits_pct"]);
        percent(&format!("{node} CPU requests"), &shown["cpu_requested"], &truth["cpu_requests_pct"]);
        gib(&format!("{node} requests"), number(&shown["requests"]), &truth["requests_gib"], 2);
        gib(&format!("{node} allocatable"), number(&shown["allocatable"]), &truth["allocatable_gib"], 2);
        count(&format!("{node} pods"), &shown["pods"], &truth["pods"]);
    }
    let memory = &report["memory"];
    percent("requests of all nodes", &memory["requests"]["all_nodes"], &truth["requests_pct_all_nodes"]);
    percent("requests of workers", &memory["requests"]["workers"], &truth["requests_pct_workers"]);
    percent("requests of general workers", &memory["requests"]["general"], &truth["requests_pct_untainted_workers"]);
    percent("limits of all nodes", &memory["limits"]["all_nodes"], &truth["limits_pct_all_nodes"]);
    percent("limits of workers", &memory["limits"]["workers"], &truth["limits_pct_workers"]);
    count("terminal pods", &memory["terminal_pods"], &truth["terminal_pods"]);
    gib("phantom requests", number(&memory["phantom"]), &truth["phantom_requests_gib_if_terminal_pods_counted"], 2);
    let general: BTreeSet<&str> = report["nodes"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|node| node["general"] == true)
        .filter_map(|node| node["name"].as_str())
        .collect();
    let untainted = truth["untainted_workers"].as_array().expect("a list");
    assert_eq!(general, untainted.iter().filter_map(Value::as_str).collect());
}

fn host_agrees(report: &Value, truth: &Value) {
    let host = row(&report["hosts"], "name", "pve");
    let memory = &host["memory"];
    gib("host memory", number(&memory["total"]), &truth["mem_total_gib"], 1);
    gib("available on the host", number(&memory["available"]), &truth["mem_free_gib"], 1);
    gib("memory of running guests", number(&memory["committed"]), &truth["running_vm_configured_gib"], 1);
    let (total, committed) = (number(&memory["total"]), number(&memory["committed"]));
    agrees("commitment", committed / total, number(&truth["commit_ratio"]), 0.0005);
    agrees("commitment with a worker more", (committed + 32.0 * GIB) / total, number(&truth["commit_ratio_plus_32gib"]), 0.0005);
    assert_eq!(host["takes_worker"], truth["free_ge_34gib"]);
    let pool = row(&host["pools"], "name", "pve/data");
    let full = |fill: &Value| number(&fill["used"]) / number(&fill["size"]) * 100.0;
    agrees("thin pool data", full(&pool["data"]), number(&truth["thin_used_pct"]), 0.05);
    agrees("thin pool metadata", full(&pool["metadata"]), number(&truth["thin_meta_pct"]), 0.05);
    let free = number(&pool["data"]["size"]) - number(&pool["data"]["used"]);
    gib("thin pool free", free, &truth["thin_free_gib"], 0);
}

fn triggers_agree(report: &Value, truth: &Value) {
    let rule = |id: &str| row(&report["rules"], "id", id);
    let verdict = |holds: &Value| if holds == true { "met" } else { "not-met" };
    let (up, down) = (&truth["up"], &truth["down"]);
    count_as_float("most volume attachments", &rule("slots-high")["evidence"]["value"], &truth["max_va_objects"]);
    for (id, when, holds) in [
        ("slots-high", "instant", &up["va_ge_25_now"]),
        ("slots-high", "sustained", &up["va_ge_25_sustained_7d"]),
        ("slots-low", "instant", &down["max_va_le_20_now"]),
        ("slots-low", "sustained", &down["max_va_le_20_30d"]),
        ("slot-cap-incident", "instant", &up["lun_exhausted_event"]),
        ("evictions-high", "sustained", &up["evictions_gt_20_per_day_3_days"]),
        ("memory-requests-high", "instant", &up["mem_requests_gt_90_now_workers_only"]),
        ("memory-requests-high", "sustained", &up["mem_requests_gt_90_sustained_7d_workers_only"]),
        ("memory-requests-low", "sustained", &down["mem_requests_lt_70_30d_workers_only"]),
        ("memory-limits-low", "sustained", &down["mem_limits_lt_95_30d_workers_only"]),
    ] {
        assert_eq!(rule(id)[when], verdict(holds), "{id} {when}");
    }
    for (id, scope, when, holds) in [
        ("memory-requests-high", "all-nodes", "instant", &up["mem_requests_gt_90_now"]),
        ("memory-requests-high", "all-nodes", "sustained", &up["mem_requests_gt_90_sustained_7d"]),
        ("memory-requests-high", "workers", "instant", &up["mem_requests_gt_90_now_workers_only"]),
        ("memory-requests-high", "workers", "sustained", &up["mem_requests_gt_90_sustained_7d_workers_only"]),
        ("memory-requests-high", "general", "instant", &up["mem_requests_gt_90_now_untainted_workers"]),
        ("memory-requests-low", "all-nodes", "instant", &down["mem_requests_lt_70_now"]),
        ("memory-requests-low", "all-nodes", "sustained", &down["mem_requests_lt_70_30d"]),
        ("memory-requests-low", "workers", "sustained", &down["mem_requests_lt_70_30d_workers_only"]),
        ("memory-limits-low", "all-nodes", "instant", &down["mem_limits_lt_95_now"]),
        ("memory-limits-low", "all-nodes", "sustained", &down["mem_limits_lt_95_30d"]),
        ("memory-limits-low", "workers", "sustained", &down["mem_limits_lt_95_30d_workers_only"]),
    ] {
        assert_eq!(rule(id)["evidence"]["by_scope"][scope][when], verdict(holds), "{id} {scope} {when}");
    }
    let days: Vec<String> =
        up["evicted_pods_by_day_ago_0_to_3"].as_array().expect("a list").iter().take(3).map(|day| day.to_string()).collect();
    let note = rule("evictions-high")["evidence"]["note"].as_str().expect("by day").to_owned();
    assert!(note.contains(&format!("latest first: {} ", days.join(", "))), "{note}");
    for one in ["slots-high", "memory-requests-high", "slots-low", "memory-requests-low", "memory-limits-low"] {
        assert_eq!(rule(one)["evidence"]["coverage"], 1.0, "the recording has no gap: {one}");
    }
}

#[track_caller]
fn count_as_float(what: &str, shown: &Value, truth: &Value) {
    agrees(what, number(shown), number(truth), 0.0);
}

/// The report of a recorded cluster, with its history, shows every number of the truth.
pub fn report_agrees(report: &Value, truth: &Value, name: &str) {
    slots_agree(report, &truth["storage"]);
    memory_agrees(report, &truth["memory"]);
    host_agrees(report, &truth["host"]);
    triggers_agree(report, &truth["triggers"]);
    let losses = if name == "today" { "without_gpu_node" } else { "as_alert_with_gpu_node" };
    let loss = &truth["n_minus_1"][losses];
    let shown = row(&report["node_loss"], "node", loss["worst"].as_str().expect("a node"));
    gib("pods to move", number(&shown["to_move"]), &loss["reschedulable_gib"], 2);
    gib("free on the others", number(&shown["free"]), &loss["free_gib_excluding_lost_node"], 2);
    assert_eq!(shown["fits_by_sum"], loss["really_fits_by_sum"]);
    assert_eq!(truth["va_on_missing_nodes"].as_array().map(Vec::len), Some(0));
    assert!(findings(report).iter().all(|(code, _)| *code != "attachment-on-missing-node"));
    assert_eq!(report["nodes"].as_array().map(Vec::len), truth["counts"]["nodes"].as_u64().map(|nodes| nodes as usize));
}
