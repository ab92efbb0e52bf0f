//! The release binary as a process: what a run takes.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a run took.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    pub cpu: f64,
    pub wall: f64,
    pub peak_mib: f64,
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

/// Runs the binary, which must end with one of these codes.
pub fn run(arguments: &[&str], codes: &[i32]) -> Cost {
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
    assert!(status.code().is_some_and(|code| codes.contains(&code)), "{arguments:?}");
    Cost { cpu: children_cpu() - before, wall: start.elapsed().as_secs_f64(), peak_mib: peak }
}

/// The least that several runs took.
pub fn best(arguments: &[&str], codes: &[i32], runs: usize) -> Cost {
    let runs: Vec<Cost> = (0..runs).map(|_| run(arguments, codes)).collect();
    let least = |value: fn(&Cost) -> f64| runs.iter().map(value).fold(f64::INFINITY, f64::min);
    Cost { cpu: least(|cost| cost.cpu), wall: least(|cost| cost.wall), peak_mib: least(|cost| cost.peak_mib) }
}
