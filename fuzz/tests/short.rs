//! A short seeded run of every target, with overflow checks: everything in the corpus, and some mutations of it.

use std::time::Duration;

use capplan_fuzz::targets::TARGETS;
use capplan_fuzz::{quiet, run};

#[test]
fn no_reader_and_no_command_breaks_on_what_was_found_and_on_some_more() {
    quiet();
    for target in TARGETS {
        let executions = if target.is_whole { 150 } else { 1_500 };
        let outcome = run(&target, executions, Duration::from_secs(60), 1);
        println!("{}: {} executions, {} valid, {:?}", target.name, outcome.executions, outcome.valid, outcome.took);
        for (path, why) in &outcome.failures {
            println!("{}: {}: {why}", target.name, path.display());
        }
        // The words of a panic are kept away from the terminal, so the reason is printed above.
        assert!(outcome.failures.is_empty() && outcome.valid > 0, "{}", target.name);
    }
}
