//! Runs the release binary on generated clusters and prints a table: CPU seconds, wall seconds, peak
//! memory; then the history's load time.
//!
//! `CAPPLAN_TEST_DATA` names the folder with the generator (`tools/bench/gen_cluster.py`).

#[path = "support/process.rs"]
mod process;
mod support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use capplan_model::capacity::Dimension;
use capplan_model::history::Sample;
use capplan_provision::store::history::Archive;
use jiff::Timestamp;

/// Runs of each measurement; the smallest counts, as the machine is shared.
const RUNS: usize = 5;

fn megabytes(folder: &Path) -> f64 {
    let entries = fs::read_dir(folder).expect("generated").filter_map(Result::ok);
    let lists = entries.filter(|entry| entry.file_name() != "services.json" && entry.file_name() != "expect.json");
    lists.filter_map(|entry| entry.metadata().ok()).map(|file| file.len() as f64).sum::<f64>() / 1e6
}

fn clusters(data: &Path, folder: &Path) {
    println!("| nodes × pods | command | input MB | CPU s | wall s | MB per CPU s | peak MiB |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    for nodes in [20, 100, 1000, 5000] {
        let lists = support::lists(data, folder, nodes, 30, 10);
        let snapshot = folder.join(format!("{nodes}.snapshot"));
        let (lists, snapshot) = (lists.to_string_lossy(), snapshot.to_string_lossy());
        copies_are_right(&lists);
        for (command, arguments) in [
            ("lists to snapshot", vec!["snapshot", "--from-lists", &lists, "-o", &snapshot]),
            ("report from snapshot", vec!["report", "--snapshot", &snapshot, "--no-history"]),
            ("lists to copies that fit", vec!["simulate", "--from-lists", &lists, "--add-pods", "1x1,2Gi"]),
        ] {
            let cost = process::best(&arguments, &[0], RUNS);
            let size = if command.starts_with("lists") {
                megabytes(Path::new(&*lists))
            } else {
                fs::metadata(&*snapshot).expect("written").len() as f64 / 1e6
            };
            println!(
                "| {nodes} × {} | {command} | {size:.1} | {:.2} | {:.3} | {:.0} | {:.0} |",
                nodes * 30,
                cost.cpu,
                cost.wall,
                size / cost.cpu.max(0.01),
                cost.peak_mib
            );
        }
    }
}

/// That the number of copies is the one the generator knows in closed form.
fn copies_are_right(lists: &str) {
    let expected: serde_json::Value =
        serde_json::from_slice(&fs::read(Path::new(lists).join("expect.json")).expect("generated")).expect("JSON");
    for (size, copies) in expected["copies"].as_object().expect("by size") {
        let requests = format!("1x{}", size.replace('_', ","));
        let printed = Command::new(env!("CARGO_BIN_EXE_capplan"))
            .args(["simulate", "--from-lists", lists, "--add-pods", &requests, "--format", "json"])
            .env("CAPPLAN_STATE_DIR", std::env::temp_dir().join("capplan-bench-state"))
            .output()
            .expect("the binary starts");
        let simulation: serde_json::Value = serde_json::from_slice(&printed.stdout).expect("JSON");
        assert_eq!(simulation["until_refusal"]["count"], *copies, "{lists}: {size}");
    }
}

/// Ten years of hourly samples of 20 series.
fn history(folder: &Path) {
    let folder = folder.join("history");
    drop(fs::remove_dir_all(&folder));
    let hours = 10 * 365 * 24;
    let samples: Vec<Sample> = (0..20)
        .flat_map(|node| {
            (0..hours).map(move |hour| Sample {
                at: Timestamp::from_second(1_500_000_000 + hour * 3600).expect("in range"),
                dimension: Dimension::MemoryRequests,
                subject: format!("node-{node}"),
                used: (hour % 977) as f64 * 1e7,
                limit: Some(3.2e10),
            })
        })
        .collect();
    Archive::open(&folder).and_then(|archive| archive.append(&samples, "bench")).expect("writable");
    drop(samples);
    let loads = (0..RUNS).map(|_| {
        let start = Instant::now();
        let loaded = Archive::load(&folder).expect("readable");
        (start.elapsed().as_secs_f64(), loaded.history.len())
    });
    let (seconds, rows) = loads.min_by(|a, b| a.0.total_cmp(&b.0)).expect("several runs");
    println!("\nhistory: {rows} samples load in {seconds:.2} s");
}

fn main() {
    support::measure(clusters, history);
}
