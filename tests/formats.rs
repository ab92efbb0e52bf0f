//! A sample of every version of every format on disk is kept and read.

use std::path::{Path, PathBuf};

use capplan::render::json;
use capplan_model::scenario::Scenario;
use capplan_provision::store::{history::Archive, snapshot};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn demo() -> Scenario {
    let text = std::fs::read_to_string(file("scenarios/demo.toml")).expect("readable");
    Scenario::parse(&text).expect("a valid scenario")
}

#[test]
fn the_published_schemas_are_those_of_the_types() {
    for (format, name) in [
        (json::Format::Report, "report"),
        (json::Format::Simulation, "simulation"),
        (json::Format::Sweep, "sweep"),
        (json::Format::Plan, "plan"),
        (json::Format::Scenario, "scenario"),
        (json::Format::Journal, "journal"),
        (json::Format::Events, "events"),
    ] {
        let schema = json::schema(format).expect("a schema");
        let path = file(&format!("schemas/capplan.{name}.1.json"));
        if std::env::var_os("UPDATE_REPORTS").is_some() {
            std::fs::write(&path, &schema).expect("writable");
        }
        let published = std::fs::read_to_string(path).expect("readable");
        assert_eq!(published, schema, "run UPDATE_REPORTS=1 cargo test --test formats");
    }
}

#[test]
fn a_snapshot_of_version_one_is_read() {
    let (read, _) = snapshot::load(&file("tests/fixtures/capplan.snapshot.1")).expect("readable");
    assert_eq!(read.kube.nodes.known().map(Vec::len), Some(5));
    assert_eq!(read.guests().count(), 9);
    assert_eq!(read.kube.volume_attachments.known().map(Vec::len), Some(53));
}

#[test]
fn a_history_of_version_one_is_read() {
    let loaded = Archive::load(&file("tests/fixtures/capplan.history.1")).expect("readable");
    assert_eq!(loaded.unreadable, []);
    assert_eq!(loaded.history.len(), 11_508);
}

/// Writes the samples; run by hand when a new major version is made, never for an old one.
#[test]
#[ignore = "writes the samples of the current version"]
fn write_the_samples() {
    let scenario = demo();
    snapshot::save(&scenario.snapshot(), &file("tests/fixtures/capplan.snapshot.1")).expect("writable");
    let samples: Vec<_> = scenario.history().samples().collect();
    Archive::open(&file("tests/fixtures/capplan.history.1"))
        .and_then(|archive| archive.append(&samples, "sample"))
        .expect("writable");
    std::fs::remove_file(file("tests/fixtures/capplan.history.1/.lock")).expect("made by open");
}
