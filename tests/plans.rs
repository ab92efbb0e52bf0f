//! `capplan plan` from the outside: on recorded clusters against their truth, and on the embedded example.

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::{World, data, recorded, truth};

fn planned(world: &World, snapshot: &str, what: &[&str], code: i32) -> Value {
    let mut arguments = vec!["plan"];
    arguments.extend(what);
    arguments.extend(["--snapshot", snapshot, "--format", "json"]);
    world.run(&arguments).ends(code).json()
}

/// Subjects of the blockers of a kind.
fn subjects<'v>(plan: &'v Value, code: &str) -> BTreeSet<&'v str> {
    let blockers = plan["blockers"].as_array().expect("a list").iter();
    blockers.filter(|one| one["code"] == code).filter_map(|one| one["subject"].as_str()).collect()
}

#[test]
fn every_drain_of_the_recordings_is_refused_for_the_reason_of_the_truth() {
    let world = World::new();
    for name in ["today", "lun-incident"] {
        let Some(snapshot) = recorded(&world, name) else { return };
        let truth = truth(name);
        assert_eq!(truth["safe_to_drain"].as_array().map(Vec::len), Some(0));
        for (node, drain) in truth["drain"].as_object().expect("by node") {
            let plan = planned(&world, &snapshot, &["drain", node], 3);
            assert_eq!((plan["feasibility"].as_str(), plan["target"].as_str()), (Some("blocked"), Some(node.as_str())));
            let named = drain["blockers"].as_array().expect("a list").iter().filter_map(Value::as_str);
            let gpu: BTreeSet<&str> = named.filter_map(|text| text.strip_prefix("GPU pod ")).collect();
            assert_eq!(subjects(&plan, "gpu"), gpu, "{name} {node}");
            // Where nothing else blocks, it is room that is missing, and that is proven.
            if gpu.is_empty() {
                assert_eq!(plan["optimality"]["status"], "infeasible", "{name} {node}");
                assert!(!subjects(&plan, "no-capacity").is_empty(), "{name} {node}");
                let explanation = plan["explanation"][0].as_str().expect("an explanation");
                assert!(explanation.contains("GiB memory"), "{explanation}");
            }
            let codes: BTreeSet<&str> =
                plan["blockers"].as_array().expect("a list").iter().filter_map(|one| one["code"].as_str()).collect();
            // Ghosts are in the way of an empty VM: the runbook's rule, which the truth does not look at.
            assert!(codes.iter().all(|code| ["gpu", "no-capacity", "gate-failed"].contains(code)), "{name} {node}: {codes:?}");
            for subject in subjects(&plan, "gate-failed") {
                assert!(subject.contains("vm-9999-pvc-"), "{name} {node}: {subject}");
            }
            assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0));
            // What the truth calls a blip costs most: single pods with a volume, and database primaries.
            let single = plan["order"][0]["cost"]["singleton_rwo"].as_u64().expect("a number");
            assert!(single <= drain["stateful_blips"].as_array().expect("a list").len() as u64);
            assert_eq!(plan["order"][0]["cost"]["pvc_reattach"], drain["block_volumes_to_move"], "{name} {node}");
        }
    }
}

#[test]
fn what_the_truth_notes_is_a_warning_and_no_blocker() {
    let world = World::new();
    let Some(snapshot) = recorded(&world, "today") else { return };
    let truth = truth("today");
    for (node, drain) in truth["drain"].as_object().expect("by node") {
        let plan = planned(&world, &snapshot, &["drain", node], 3);
        let warnings: Vec<&str> = plan["warnings"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        for note in drain["notes"].as_array().expect("a list").iter().filter_map(Value::as_str) {
            match note.strip_prefix("CronJobs pinned to this hostname: ") {
                Some(jobs) => {
                    let warning = warnings.iter().find(|text| text.starts_with("CronJobs")).expect("a warning");
                    assert!(jobs.split(", ").all(|job| warning.contains(job)), "{warning}");
                }
                None => assert!(warnings.iter().any(|text| text.contains("pg-cluster-1: its operator")), "{note}: {warnings:?}"),
            }
        }
    }
    let control = planned(&world, &snapshot, &["drain", "k8s-master"], 3);
    assert_eq!(subjects(&control, "control-plane"), BTreeSet::from(["k8s-master"]));
    assert_eq!(subjects(&control, "quorum"), BTreeSet::from(["k8s-master"]));
}

#[test]
fn a_host_is_emptied_of_all_its_nodes_or_none() {
    let world = World::new();
    let Some(snapshot) = recorded(&world, "today") else { return };
    let plan = planned(&world, &snapshot, &["evacuate", "pve"], 3);
    assert_eq!((plan["action"].as_str(), plan["target"].as_str()), (Some("evacuate"), Some("pve")));
    assert_eq!(plan["order"].as_array().map(Vec::len), Some(6));
    world.run(&["plan", "evacuate", "nowhere", "--snapshot", &snapshot]).ends(2);
    world.run(&["plan", "drain", "nowhere", "--snapshot", &snapshot]).ends(2);
}

/// The plan of the next action for one of the scenarios.
fn next(world: &World, name: &str, code: i32) -> Value {
    let path = format!("{}/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    world.run(&["plan", "--scenario", &path, "--format", "json"]).ends(code).json()
}

#[test]
fn the_next_action_turns_where_the_runbook_says() {
    let world = World::new();
    assert_eq!(next(&world, "slots-24", 0)["action"], "none");
    // What to clone is not known: a scenario has no template.
    let plan = next(&world, "slots-25", 6);
    assert_eq!((plan["action"].as_str(), plan["workers"][0]["name"].as_str()), (Some("scale-up"), Some("w3")));
    assert!(plan["undecided"][0].as_str().is_some_and(|text| text.starts_with("what to clone")), "{}", plan["undecided"]);
    assert_eq!(next(&world, "requests-90.0", 0)["action"], "none");
    assert_eq!(next(&world, "requests-90.1", 6)["action"], "scale-up");
    assert_eq!(next(&world, "host-34.0", 6)["action"], "scale-up");
    let refused = next(&world, "host-33.9", 3);
    assert_eq!(refused["action"], "none");
    let rejected = refused["rejected"].as_array().expect("a list").iter().find(|one| one["action"] == "scale-up").expect("told");
    assert!(rejected["why"].as_str().is_some_and(|why| why.contains("33.9 GiB available")), "{rejected}");
    assert_eq!(next(&world, "coverage-94", 6)["action"], "insufficient-data");
    assert_eq!(next(&world, "incident-lun-cap", 0)["action"], "reclaim");
}

#[test]
fn the_incident_is_answered_by_the_smallest_worker_that_clears_every_rule() {
    let world = World::new();
    let Some(snapshot) = recorded(&world, "lun-incident") else { return };
    // The saved lists do not tell whether Proxmox VE has its quorum: no plan on them can be called feasible.
    let plan = planned(&world, &snapshot, &["--time-limit", "10"], 6);
    assert_eq!((plan["action"].as_str(), plan["feasibility"].as_str()), (Some("scale-up"), Some("undecided")));
    assert!(plan["undecided"][0].as_str().is_some_and(|why| why.contains("has a quorum")), "{}", plan["undecided"]);
    let worker = &plan["workers"][0];
    assert_eq!((worker["name"].as_str(), worker["vmid"].as_u64()), (Some("k8s-node5"), Some(205)));
    assert_eq!((worker["address"].as_str(), worker["gateway"].as_str()), (Some("10.0.20.105/24"), Some("10.0.20.1")));
    assert_eq!(worker["labels"]["csi.proxmox.sinextra.dev/max-volume-attachments"], "28");
    // Half the memory would leave the requests above 90 %; volumes leave the fullest worker.
    assert_eq!(worker["memory"].as_u64(), Some(32 << 30));
    assert!(plan["order"].as_array().expect("a list").iter().all(|one| one["node"] == "k8s-node1"), "{}", plan["order"]);
    // A name, a number or an address that is taken is refused.
    for taken in [["--vmid", "105"], ["--name", "k8s-node2"], ["--ip", "10.0.20.102/24"], ["--ip", "10.0.20.1/24"]] {
        let mut arguments = vec!["scale-up"];
        arguments.extend(taken);
        assert_eq!(planned(&world, &snapshot, &arguments, 3)["steps"].as_array().map(Vec::len), Some(0), "{taken:?}");
    }
}

#[test]
fn a_plan_is_a_file_with_its_text_beside_it() {
    let world = World::new();
    let file = world.path("plan.json").display().to_string();
    world.run(&["plan", "drain-order", "--demo", "-o", &file]);
    let text = std::fs::read_to_string(&file).expect("written");
    let plan = capplan_model::plan::Plan::read(text.as_bytes()).expect("a plan");
    assert_eq!(plan.action, capplan_model::plan::Action::DrainOrder);
    let beside = std::fs::read_to_string(world.path("plan.txt")).expect("written");
    assert!(beside.contains("capplan plan drain-order") && !beside.contains('\u{1b}'));
    assert!(data().is_none() || !text.is_empty());
}

#[test]
fn a_mistyped_attacher_makes_no_ghost_and_nothing_is_planned_on_it() {
    let world = World::new();
    let right = world.run(&["policy"]).done().out;
    let wrong = right.replace("attacher = \"csi.proxmox.sinextra.dev\"", "attacher = \"csi.proxmox.sinextra.dve\"");
    assert_ne!(right, wrong);
    let policy = world.write("policy.toml", wrong);
    let report = world.run(&["report", "--demo", "--policy", &policy, "--format", "json"]).done().json();
    let codes: BTreeSet<&str> =
        report["findings"].as_array().expect("a list").iter().filter_map(|one| one["code"].as_str()).collect();
    assert!(codes.contains("attacher-unknown"), "{codes:?}");
    let named = report["findings"].to_string();
    assert!(named.contains("csi.proxmox.sinextra.dve") && named.contains("attacher"), "{named}");
    for what in [&["next"][..], &["drain", "k8s-node1"], &["scale-down"]] {
        let mut arguments = vec!["plan"];
        arguments.extend(what.iter().filter(|word| **word != "next"));
        arguments.extend(["--demo", "--policy", &policy, "--format", "json"]);
        let outcome = world.run(&arguments);
        let plan: Value = outcome.json();
        let steps = plan["steps"].as_array().expect("a list");
        assert!(steps.iter().all(|step| step["do"]["kind"] != "unplug-ghost"), "{what:?}: {steps:?}");
    }
    // The right policy raises no such doubt.
    let report = world.run(&["report", "--demo", "--format", "json"]).done().json();
    assert!(report["findings"].as_array().expect("a list").iter().all(|one| one["code"] != "attacher-unknown"));
}
