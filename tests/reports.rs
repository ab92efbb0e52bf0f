//! Every scenario prints what `reports/` holds. `UPDATE_REPORTS=1` writes it anew: review the diff.

mod support;

use std::fs;
use std::path::Path;

use capplan::render::{simulation, text};
use capplan::ui::plain;
use capplan_model::policy::Policy;
use capplan_model::scenario::Scenario;
use capplan_planner::report::build;
use capplan_planner::simulate::{Trials, simulate};
use support::scenarios;

/// What a scenario prints without colours: its report, or what its changes would do.
fn printed(path: &Path) -> String {
    let source = fs::read_to_string(path).expect("readable");
    let scenario = Scenario::parse(&source).expect("a valid scenario");
    let (mut snapshot, history, policy) = (scenario.snapshot(), scenario.history(), Policy::built_in());
    let id = snapshot.id();
    let page = if scenario.changes.is_empty() {
        text::report(&build(&snapshot, id, &history, &policy, Vec::new()))
    } else {
        let trials = Trials { runs: 20, seed: 1 };
        let simulation = simulate(&mut snapshot, id, &history, &policy, &scenario.changes, trials, &|_| {});
        simulation::text(&simulation.expect("names only what exists"))
    };
    plain(&page)
}

#[test]
fn every_scenario_prints_its_committed_report() {
    let update = std::env::var_os("UPDATE_REPORTS").is_some();
    let mut differing = Vec::new();
    for path in scenarios() {
        let name = path.file_stem().expect("has a name").to_string_lossy().into_owned();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports").join(format!("{name}.txt"));
        let printed = printed(&path);
        if update {
            fs::write(&golden, &printed).expect("writable");
        } else if fs::read_to_string(&golden).unwrap_or_default() != printed {
            differing.push(name);
        }
    }
    assert!(differing.is_empty(), "these differ, run UPDATE_REPORTS=1 cargo test --test reports and review: {differing:?}");
}

#[test]
fn every_report_fits_eighty_columns() {
    for path in scenarios() {
        let printed = printed(&path);
        let long: Vec<&str> = printed.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(long.is_empty(), "{}: {long:#?}", path.display());
    }
}
