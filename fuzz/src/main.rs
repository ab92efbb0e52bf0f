//! `capplan-fuzz`: executes targets on mutated inputs, and prints a table.

use std::process::ExitCode;
use std::time::Duration;

use capplan_fuzz::targets::{TARGETS, Target};
use capplan_fuzz::{quiet, run};
use clap::Parser;

/// Mutated inputs for every reader, and mutated clusters for report, simulate and plan
#[derive(Parser)]
struct Arguments {
    /// Targets; all of them if none is named
    targets: Vec<String>,
    /// Executions of each reader
    #[arg(long, default_value_t = 20_000)]
    readers: u64,
    /// Executions of the whole program
    #[arg(long, default_value_t = 200)]
    clusters: u64,
    /// Seconds that a target may take at most
    #[arg(long, default_value_t = 36_000)]
    seconds: u64,
    /// Seed: the same one gives the same inputs
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(unknown) = arguments.targets.iter().find(|name| !TARGETS.iter().any(|target| target.name == name.as_str())) {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        eprintln!("there is no target {unknown}; there are {}", names.join(", "));
        return ExitCode::from(2);
    }
    quiet();
    let chosen = |target: &&Target| arguments.targets.is_empty() || arguments.targets.iter().any(|name| name == target.name);
    println!("{:<12} {:>12} {:>7} {:>9} {:>10} {:>9}", "target", "executions", "valid", "seconds", "slowest ms", "failures");
    let mut failed = false;
    for target in TARGETS.iter().filter(chosen) {
        let executions = if target.is_whole { arguments.clusters } else { arguments.readers };
        let outcome = run(target, executions, Duration::from_secs(arguments.seconds), arguments.seed);
        println!(
            "{:<12} {:>12} {:>6.1}% {:>9.1} {:>10.1} {:>9}",
            target.name,
            outcome.executions,
            100.0 * outcome.valid as f64 / outcome.executions.max(1) as f64,
            outcome.took.as_secs_f64(),
            outcome.slowest.as_secs_f64() * 1000.0,
            outcome.failures.len()
        );
        for (path, why) in &outcome.failures {
            failed = true;
            println!("  {}: {}", path.display(), why.lines().collect::<Vec<_>>().join(" "));
        }
    }
    ExitCode::from(u8::from(failed))
}
