//! Recorded decisions of the real kube-scheduler, made again.
//!
//! `CAPPLAN_ORACLE` points to a folder of cases; without it, `scheduler-oracle/cases` of the test data
//! is used. `--nocapture` shows how many decisions of each kind agree.

mod support;

use std::fs;
use std::path::PathBuf;

use support::replay::{Tally, replay};

fn cases() -> Option<Vec<PathBuf>> {
    let folder = match std::env::var_os("CAPPLAN_ORACLE") {
        Some(folder) => PathBuf::from(folder),
        None => support::data()?.join("scheduler-oracle/cases"),
    };
    let entries = fs::read_dir(&folder).expect("a folder of cases");
    let mut cases: Vec<PathBuf> = entries.map(|one| one.expect("readable").path()).collect();
    cases.retain(|case| case.join("result.json").exists());
    cases.sort();
    assert!(!cases.is_empty(), "no cases in {}", folder.display());
    Some(cases)
}

#[test]
fn recorded_decisions_of_the_real_scheduler_are_made_again() {
    let Some(cases) = cases() else { return };
    let mut tally = Tally::default();
    let mut decisions = 0;
    for case in &cases {
        decisions += replay(case, &mut tally);
    }
    tally.conclude(cases.len(), decisions);
}
