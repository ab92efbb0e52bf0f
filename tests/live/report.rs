//! A recorded cluster, loaded into the real API server and the double, gives the recorded report.

use std::collections::BTreeSet;

use capplan_provision::store::snapshot;
use capplan_rig::plant::{MissingOwners, recorded};
use capplan_rig::prometheus::OpenMetrics;
use capplan_rig::{Rig, objects};
use serde_json::Value;

use crate::support::truth::report_agrees;
use crate::support::{Cluster, data};
use crate::{Tested, skipped_without_own_plane, world};

const JSON: [&str; 3] = ["report", "--format", "json"];

/// Where the rig differs by design, and why.
const BY_DESIGN: [(&str, &str); 4] = [
    ("/cluster", "the identity is the UID of kube-system, which every server makes anew"),
    ("/snapshot", "the hash of a snapshot with other UIDs and creation times"),
    ("/unknown", "the recording's PVE token lacks Mapping.Audit, the rig's has it"),
    ("/versions/kubernetes", "the real server's own version"),
];

/// Paths at which two values differ.
fn differences(a: &Value, b: &Value, at: &str, found: &mut BTreeSet<String>) {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let missing = Value::Null;
                differences(a.get(key).unwrap_or(&missing), b.get(key).unwrap_or(&missing), &format!("{at}/{key}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().for_each(|(n, (a, b))| differences(a, b, &format!("{at}/{n}"), found));
        }
        _ if a == b => {}
        _ => {
            println!("{at}: recorded {a}, live {b}");
            found.insert(at.to_owned());
        }
    }
}

/// What is put into the API server.
#[derive(Clone, Copy, PartialEq)]
enum Planted {
    /// The recorded lists, as the recorded server sent them.
    Lists,
    /// Objects made of our snapshot of them.
    Snapshot,
}

fn the_live_report_is_the_recorded_one(name: &'static str, what: Planted) -> Tested {
    let Some(data) = data() else { return Ok(()) };
    if skipped_without_own_plane() {
        return Ok(());
    }
    let cluster = Cluster::start(&data, name, &[]);
    let recording = cluster.world();
    let mut expected = recording.run(&[&JSON[..], &["--no-history"]].concat()).done().json();
    // The recorded token lacks Pool.Audit, so which pool a new worker joins is known live only.
    if let Some(warnings) = expected["recommendation"]["warnings"].as_array_mut() {
        warnings.retain(|one| !one.as_str().is_some_and(|text| text.contains("is in a pool is not known")));
    }
    recording.run(&["snapshot", "-o", "one.snapshot"]).done();
    let (snapshot, _) = snapshot::load(&recording.path("work/one.snapshot")).expect("just written");

    let mut rig = Rig::start()?;
    // Jobs were not recorded: their finished pods keep pointing to them.
    let objects = if what == Planted::Lists { recorded(cluster.folder())? } else { objects::of(&snapshot) };
    let planted = rig.plant(objects, MissingOwners::Keep)?;
    assert!(planted > 1_000, "{planted}");
    rig.start_double(&snapshot)?;
    let now = cluster.read("build_notes.json")["now"].as_str().expect("an instant").to_owned();
    let mut world = world(&mut rig)?;
    world.set("CAPPLAN_NOW", now);
    let live = world.run(&[&JSON[..], &["--no-history"]].concat()).done().json();
    let mut found = BTreeSet::new();
    differences(&expected, &live, "", &mut found);
    let expected: BTreeSet<String> = BY_DESIGN.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(found, expected);

    if what == Planted::Lists {
        // What would happen is read from the cluster itself as well.
        let simulate = ["simulate", "--add-pvcs", "5", "--runs", "2", "--format", "json"];
        let (recorded, live) = (recording.run(&simulate).done().json(), world.run(&simulate).done().json());
        for part in ["fits", "verdict", "until_refusal", "spread", "placement", "unplaceable", "after"] {
            assert_eq!(live[part], recorded[part], "{part}");
        }
    }
    if what == Planted::Snapshot {
        return Ok(());
    }
    let prometheus = rig.start_prometheus(&OpenMetrics::recorded(cluster.folder())?)?.url.clone();
    world.set("CAPPLAN_PROMETHEUS_URL", prometheus);
    let import = world.run(&["history", "import"]).done();
    assert!(import.err.contains("added 1"), "{}", import.err);
    let report = world.run(&JSON).done().json();
    report_agrees(&report, &cluster.read("truth.json"), name);
    assert_eq!(rig.double()?.violations()?, [] as [Value; 0]);
    let requests = rig.double()?.requests()?;
    assert!(requests.len() > 50 && requests.iter().all(|request| request["method"] == "GET"), "{}", requests.len());
    Ok(())
}

#[test]
fn today_live_is_today_recorded() -> Tested {
    the_live_report_is_the_recorded_one("today", Planted::Lists)
}

#[test]
fn the_lun_incident_live_is_the_one_recorded() -> Tested {
    the_live_report_is_the_recorded_one("lun-incident", Planted::Lists)
}

#[test]
fn a_snapshot_of_today_put_into_both_planes_is_today() -> Tested {
    the_live_report_is_the_recorded_one("today", Planted::Snapshot)
}
