//! Plans on generated clusters: how few nodes are enough, drains, and what each takes.
//!
//! `CAPPLAN_TEST_DATA=… cargo bench --bench plan [--features highs]`

#[path = "support/process.rs"]
mod process;
mod support;

use std::path::Path;
use std::process::Command;

/// Runs of each measurement; the smallest counts, as the machine is shared.
const RUNS: usize = 3;
/// Feasible, blocked by something of the generated lists, or undecided: these hold no VolumeAttachments.
const CODES: [i32; 3] = [0, 3, 6];

/// A policy whose rules to scale up never hold: the question is what fits.
fn policy(folder: &Path) -> String {
    let file = folder.join("any-load.toml");
    let text = capplan_model::policy::BUILT_IN.replace("\"> 90%\"", "\"> 100%\"").replace("\">= 25\"", "\">= 64\"");
    std::fs::write(&file, text).expect("writable");
    file.to_string_lossy().into_owned()
}

/// `because` and the moves of a plan, with what is known of them.
fn told(arguments: &[&str]) -> String {
    let printed =
        Command::new(env!("CARGO_BIN_EXE_capplan")).args(arguments).args(["--format", "json"]).output().expect("it starts");
    let plan: serde_json::Value = serde_json::from_slice(&printed.stdout).expect("JSON");
    let found = &plan["optimality"];
    format!(
        "{} nodes emptied, {} moves (at least {}), {}",
        plan["order"].as_array().map_or(0, |order| order
            .iter()
            .filter_map(|one| one["node"].as_str())
            .collect::<std::collections::BTreeSet<_>>()
            .len()),
        found["objective"],
        found["bound"],
        found["status"].as_str().unwrap_or("?")
    )
}

fn row(what: &str, arguments: &[&str], runs: usize) {
    let cost = process::best(arguments, &CODES, runs);
    println!("| {what} | {} | {:.2} | {:.2} | {:.0} |", told(arguments), cost.cpu, cost.wall, cost.peak_mib);
}

fn clusters(data: &Path, folder: &Path) {
    let policy = policy(folder);
    println!("solver: {}\n", capplan_planner::place::SOLVER);
    println!("| request | result | CPU s | wall s | peak MiB |");
    println!("|---|---|---:|---:|---:|");
    for (nodes, pods, replicas) in [(6, 33, 2), (20, 30, 3), (40, 25, 3), (50, 30, 3), (100, 30, 10), (1000, 30, 10)] {
        let lists = support::lists(data, folder, nodes, pods, replicas);
        let lists = lists.to_string_lossy();
        let arguments = [
            "plan",
            "scale-down",
            "--count",
            "max",
            "--override",
            "bench",
            "--policy",
            &policy,
            "--time-limit",
            "60",
            "--from-lists",
            &lists,
        ];
        row(&format!("fewest nodes of {nodes} × {}", nodes * pods), &arguments, if nodes > 50 { 1 } else { RUNS });
    }
    for (nodes, pods, replicas, drained) in [
        (6, 33, 2, vec![0]),
        (20, 30, 3, vec![0, 1, 2]),
        (100, 30, 10, vec![0, 1, 2, 3, 4, 5, 6, 8, 9, 10]),
        (5000, 30, 10, vec![0, 11, 222, 333, 444, 555, 666, 777, 1888, 4999]),
    ] {
        let lists = support::lists(data, folder, nodes, pods, replicas);
        let lists = lists.to_string_lossy();
        let names: Vec<String> = drained.iter().map(|node| format!("node-{node:05}")).collect();
        let mut arguments = vec!["plan", "drain", "--from-lists", &lists];
        arguments.extend(names.iter().map(String::as_str));
        row(&format!("drain {} of {nodes} × {}", names.len(), nodes * pods), &arguments, RUNS);
    }
}

fn main() {
    support::measure(clusters, |_| {});
}
