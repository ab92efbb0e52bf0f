//! A worker is taken out and comes back, and either is killed or disturbed at each of its changes.
//!
//! Which changes there are is not written down here: an undisturbed run is recorded.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::Duration;

use capplan_rig::{Failure, Rig};
use serde_json::{Value, json};

use crate::harm::Running;
use crate::newcomer::{ADD, joined, lose, meet, pushed_through, started, tidy};
use crate::support::World;
use crate::{Tested, is_full, kube_faults, pve_faults, skipped_without_own_plane};

/// What a run does with the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Course {
    Out,
    Back,
}

const OUT: [&str; 6] = ["apply", "remove-worker", "w3", "--override", "test", "--yes"];
const BACK: [&str; 4] = ["apply", "re-add", "w3", "--yes"];

impl Course {
    fn command(self) -> &'static [&'static str] {
        match self {
            Self::Out => &OUT,
            Self::Back => &BACK,
        }
    }
}

/// A change: of which API, its method and path, and which of its kind it is.
#[derive(Clone, Debug)]
struct Change {
    pve: bool,
    method: String,
    path: String,
    number: usize,
}

/// How many requests each API has had.
fn mark(rig: &mut Rig) -> Result<(usize, usize), Failure> {
    Ok((rig.double()?.requests()?.len(), rig.gate()?.requests()?.len()))
}

/// The changes since then. Names that follow from a plan's id are made to fit every plan.
fn changes(rig: &mut Rig, since: (usize, usize)) -> Result<Vec<Change>, Failure> {
    let mut found: Vec<Change> = Vec::new();
    let mut counts: BTreeMap<(bool, String, String), usize> = BTreeMap::new();
    let (double, gate) = (rig.double()?.requests()?, rig.gate()?.requests()?);
    let double = double[since.0..].iter().filter(|one| one["user"].as_str().is_some_and(|user| user.starts_with("capplan")));
    for (pve, one) in double.map(|one| (true, one)).chain(gate[since.1..].iter().map(|one| (false, one))) {
        let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        let (method, mut path) = (text("method"), text("path"));
        // Looking is no change, and the lease and the questions for privileges are none of the worker's.
        if method == "GET" || path.contains("/leases/") || path.contains("accessreviews") || path.ends_with("/leases") {
            continue;
        }
        if pve && path.contains("/content/") {
            path = "/nodes/{node}/storage/{storage}/content/{volume}".to_owned();
        }
        if let Some((before, _)) = path.split_once("/secrets/bootstrap-token-") {
            path = format!("{before}/secrets/.*");
        }
        if let Some((before, _)) = path.split_once("/pods/") {
            path = format!("{before}/pods/.*");
        }
        let count = counts.entry((pve, method.clone(), path.clone())).or_default();
        found.push(Change { pve, method, path, number: *count });
        *count += 1;
    }
    Ok(found)
}

/// The worker is out: off, empty, its Node gone, and reset whenever it is started.
fn is_out(rig: &mut Rig) -> Tested {
    let nodes = rig.api().list("/api/v1/nodes")?;
    assert!(nodes.iter().all(|node| node["metadata"]["name"] != "w3"), "w3 is there");
    assert!(nodes.iter().all(|node| node["spec"]["unschedulable"] != true), "a node is closed");
    let guest = rig.double()?.guest(203)?;
    assert_eq!((&guest["power"], &guest["config"]["onboot"]), (&json!("stopped"), &json!(0)), "{guest}");
    assert_eq!(guest["config"]["tags"], "capplan;capplan-spare");
    assert!(guest["config"]["ide2"].as_str().is_some_and(|drive| drive.contains("capplan-spare-203")), "{guest}");
    tidy(rig)
}

fn holds(rig: &mut Rig, course: Course, point: &str, said: &str) -> Tested {
    let looked = if course == Course::Out { is_out(rig) } else { joined(rig, "w3", 203) };
    looked.map_err(|failure| Failure::new(format!("{point}: {failure}; {said}")))?;
    assert_eq!(rig.double()?.guests()?.iter().filter(|guest| guest["name"] == "w3").count(), 1, "{point}");
    Ok(())
}

/// Kills a run at a change, before or after it, and goes on.
fn killed(rig: &mut Rig, world: &World, course: Course, change: &Change, after: bool) -> Result<String, Failure> {
    lose(rig, &change.method, &change.path, change.number, after, change.pve)?;
    let said = File::create(world.path("said")).expect("a file of ours");
    let mut child = Running(world.command(course.command()).stderr(said).spawn().expect("it starts"));
    let printed = || std::fs::read_to_string(world.path("said")).expect("a file of ours");
    while !printed().contains("; again in ") && child.0.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(2));
    }
    let ended = child.0.try_wait().expect("a child").is_some();
    drop(child);
    assert!(!ended, "{course:?} {change:?}, after {after}, was not reached: {}", printed());
    rig.double()?.heal()?;
    rig.gate()?.heal()?;
    world.run(&["resume"]).done();
    Ok(printed())
}

/// Meets a fault at a change, and is pushed through: how often it stopped.
fn disturbed(rig: &mut Rig, world: &World, course: Course, change: &Change, fault: &Value) -> Result<(usize, String), Failure> {
    meet(rig, &change.method, &change.path, change.number, fault, change.pve)?;
    let outcome = pushed_through(world, course.command());
    rig.double()?.heal()?;
    rig.gate()?.heal()?;
    Ok(outcome)
}

#[test]
fn a_worker_goes_and_comes_back_once_wherever_that_is_killed_or_disturbed() -> Tested {
    // An hour and more; a removal that destroys, and an addition, are killed and disturbed in every run.
    if skipped_without_own_plane() || !is_full() {
        return Ok(());
    }
    let (mut rig, world, _provisioner) = started()?;
    world.run(&ADD).done();
    let mut courses = Vec::new();
    for course in [Course::Out, Course::Back] {
        let since = mark(&mut rig)?;
        world.run(course.command()).done();
        holds(&mut rig, course, "undisturbed", "")?;
        let found = changes(&mut rig, since)?;
        assert!(found.len() >= 5, "{course:?}: {found:?}");
        courses.push((course, found));
    }
    let pve = pve_faults();
    let kube = kube_faults();
    let most = courses.iter().map(|(_, found)| found.len()).max().unwrap_or_default();
    let only: Option<usize> = std::env::var("CAPPLAN_MATRIX_EVERY").ok().and_then(|text| text.parse().ok());
    let (mut kills, mut faults, mut round) = (0, 0, 0);
    for place in 0..most {
        for way in 0..2 + pve.len() {
            round += 1;
            if only.is_some_and(|every| round % every != 1 % every) {
                continue;
            }
            let is_tried = |change: &Change| way < 2 + if change.pve { pve.len() } else { kube.len() };
            if !courses.iter().any(|(_, found)| found.get(place).is_some_and(is_tried)) {
                continue;
            }
            // The other course is undisturbed where it has no such change or no such fault.
            for (course, found) in &courses {
                let Some(change) = found.get(place) else {
                    world.run(course.command()).done();
                    continue;
                };
                let list = if change.pve { &pve[..] } else { &kube[..] };
                let point = format!("{course:?} {change:?}, way {way}");
                let said = match (way, way.checked_sub(2).and_then(|number| list.get(number))) {
                    (0 | 1, _) => {
                        kills += 1;
                        killed(&mut rig, &world, *course, change, way == 1)?
                    }
                    (_, Some(fault)) => {
                        faults += 1;
                        let (stops, said) = disturbed(&mut rig, &world, *course, change, fault)?;
                        let is_failed = fault["task"].as_str().is_some_and(|task| !task.starts_with("WARNINGS"));
                        assert!(stops <= usize::from(is_failed), "{point}: {stops} stops: {said}");
                        said
                    }
                    (_, None) => {
                        world.run(course.command()).done();
                        String::new()
                    }
                };
                holds(&mut rig, *course, &point, &said)?;
                println!("{point}");
            }
        }
    }
    println!("killed at {kills} points, disturbed at {faults}");
    assert_eq!(rig.double()?.violations()?, Vec::<Value>::new());
    Ok(())
}
