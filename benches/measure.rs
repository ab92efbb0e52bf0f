//! Runs the release binary on generated clusters and prints a table: CPU seconds, wall seconds, peak
//! memory; then the history's load time.
//!
//! `CAPPLAN_TEST_DATA` names the folder with the generator (`tools/bench/gen_cluster.py`).

mod support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use capplan_model::capacity::Dimension;
use capplan_model::history::Sample;
use capplan_provision::store::history::Archive;
use jiff::Timestamp;

/// Runs of each measurement; the smallest counts, as the machine is shared.
const RUNS: usize = 5;

/// What a run took.
#[derive(Clone, Copy, Debug)]
struct Cost {
    cpu: f64,
    wall: f64,
    peak_mib: f64,
}

/// CPU seconds of all children waited for so far (`cutime` + `cstime`, in ticks of 10 ms).
fn children_cpu() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("has a name").split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().expect("a number");
    (ticks(13) + ticks(14)) / 100.0
}

fn peak_of(pid: u32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<f64>().ok()? / 1024.0)
}

fn run(arguments: &[&str]) -> Cost {
    let before = children_cpu();
    let start = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_capplan"))
        .args(arguments)
        .env("CAPPLAN_NOW", "2024-05-02T08:00:00Z")
        .env("CAPPLAN_STATE_DIR", std::env::temp_dir().join("capplan-bench-state"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut peak = 0.0_f64;
    let status = loop {
        peak = peak_of(child.id()).map_or(peak, |now| peak.max(now));
        if let Some(status) = child.try_wait().expect("a child of ours") {
            break status;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(status.success(), "{arguments:?}");
    Cost { cpu: children_cpu() - before, wall: start.elapsed().as_secs_f64(), peak_mib: peak }
}

fn best(arguments: &[&str]) -> Cost {
    let runs: Vec<Cost> = (0..RUNS).map(|_| run(arguments)).collect();
    let least = |value: fn(&Cost) -> f64| runs.iter().map(value).fold(f64::INFINITY, f64::min);
    Cost { cpu: least(|cost| cost.cpu), wall: least(|cost| cost.wall), peak_mib: least(|cost| cost.peak_mib) }
}

fn megabytes(folder: &Path) -> f64 {
    let entries = fs::read_dir(folder).expect("generated").filter_map(Result::ok);
    let lists = entries.filter(|entry| entry.file_name() != "services.json" && entry.file_name() != "expect.json");
    lists.filter_map(|entry| entry.metadata().ok()).map(|file| file.len() as f64).sum::<f64>() / 1e6
}

fn clusters(data: &Path, folder: &Path) {
    println!("| nodes × pods | command | input MB | CPU s | wall s | MB per CPU s | peak MiB |");
    println!("|---|---|---:|---:|---:|---:|---:|");
    for nodes in [20, 100, 1000, 5000] {
        let lists = support::lists(data, folder, nodes);
        let snapshot = folder.join(format!("{nodes}.snapshot"));
        let (lists, snapshot) = (lists.to_string_lossy(), snapshot.to_string_lossy());
        copies_are_right(&lists);
        for (command, arguments) in [
            ("lists to snapshot", vec!["snapshot", "--from-lists", &lists, "-o", &snapshot]),
            ("report from snapshot", vec!["report", "--snapshot", &snapshot, "--no-history"]),
            ("lists to copies that fit", vec!["simulate", "--from-lists", &lists, "--add-pods", "1x1,2Gi"]),
        ] {
            let cost = best(&arguments);
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
