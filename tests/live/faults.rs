//! What breaks at night: parts of either plane, the tool itself, the disk under its state.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use capplan_rig::control_plane::Component;
use capplan_rig::plant::MissingOwners;
use capplan_rig::prometheus::OpenMetrics;
use capplan_rig::small_disk::SmallDisk;
use capplan_rig::{Rig, objects};
use serde_json::{Value, json};

use crate::support::{Outcome, STATE, World, unknowns};
use crate::{Tested, printed_roles, scenario, skipped, skipped_without_own_plane, world};

const JSON: [&str; 4] = ["report", "--format", "json", "--no-history"];
/// The instant of the scenario, and the end of the samples below.
const NOW: &str = "2026-03-02T06:00:00Z";
const NOW_SECONDS: f64 = 1_772_431_200.0;

fn started() -> Result<(Rig, World), capplan_rig::Failure> {
    let mut rig = Rig::start()?;
    let snapshot = scenario("demo");
    rig.plant(objects::of(&snapshot), MissingOwners::Drop)?;
    rig.start_double(&snapshot)?;
    let mut world = world(&mut rig)?;
    world.set("CAPPLAN_NOW", NOW);
    Ok((rig, world))
}

#[test]
fn a_part_that_died_is_named_and_its_return_is_enough() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world) = started()?;
    let before = world.run(&JSON).done().json();

    rig.double()?.kill();
    let without = world.run(&JSON);
    let said = format!("{}{}", without.out, without.err);
    assert!(said.contains(&rig.double()?.url), "{said}");
    rig.double()?.restart()?;
    assert_eq!(world.run(&JSON).done().json(), before);

    rig.plane()?.kill(Component::ApiServer);
    let without = world.run(&JSON);
    let said = format!("{}{}", without.out, without.err);
    assert!(said.contains("cannot reach the Kubernetes API server") && !said.contains("panicked"), "{said}");
    rig.plane()?.kill(Component::Etcd);
    for component in [Component::Etcd, Component::ApiServer] {
        rig.plane()?.start(component)?;
    }
    assert_eq!(world.run(&JSON).done().json(), before);
    Ok(())
}

#[test]
fn answers_that_pve_gives_in_trouble_are_named_and_never_zero() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (mut rig, world) = started()?;
    let calm = world.run(&JSON).done().json();
    let before = unknowns(&calm);
    for (status, message) in [(500, "got timeout"), (595, "No route to host"), (596, "Connection timed out")] {
        rig.double()?.fail(&json!({"method": "GET", "path": "/nodes/{node}/status", "status": status, "message": message}))?;
        let report = world.run(&JSON).done().json();
        let named = report["unknown"].to_string();
        assert!(named.contains("host pve1: memory") && named.contains(message), "{status}: {named}");
        assert!(report["hosts"][0]["memory"]["available"].is_null(), "{}", report["hosts"][0]);
        rig.double()?.heal()?;
    }
    // Once is no trouble: the read is tried again.
    for rule in [json!({"status": 596, "message": "Connection timed out"}), json!({"reset": true})] {
        let mut rule = rule;
        rule["method"] = json!("GET");
        rule["path"] = json!("/nodes/{node}/status");
        rule["times"] = json!(1);
        rig.double()?.fail(&rule)?;
        assert_eq!(unknowns(&world.run(&JSON).done().json()), before, "{rule}");
        rig.double()?.heal()?;
    }
    rig.double()?.control().post("/network", &json!({"latency": 0.2}))?;
    let start = Instant::now();
    assert_eq!(unknowns(&world.run(&JSON).done().json()), before);
    // Requests follow each other in at least four rounds.
    assert!(start.elapsed() > Duration::from_millis(600), "{:?}", start.elapsed());
    Ok(())
}

#[test]
fn answers_that_the_api_server_gives_in_trouble_are_tried_again_or_named() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, mut world) = started()?;
    rig.plant(printed_roles(), MissingOwners::Drop)?;
    rig.start_gate()?;
    world.set("KUBECONFIG", rig.account("capplan")?.display().to_string());
    let calm = world.run(&JSON).done().json();
    let pods = |rule: Value| {
        let mut rule = rule;
        rule["method"] = json!("GET");
        rule["path"] = json!("/api/v1/pods");
        rule
    };
    // Once is no trouble: the read is tried again.
    for rule in [
        json!({"status": 429, "retry_after": 1, "message": "too many requests, please try again later", "times": 1}),
        json!({"status": 500, "message": "etcdserver: leader changed", "times": 1}),
        json!({"reset": true, "times": 1}),
        json!({"delay": 1.5}),
    ] {
        rig.gate()?.fail(&pods(rule.clone()))?;
        let report = world.run(&JSON).done().json();
        assert_eq!(report["nodes"], calm["nodes"], "{rule}");
        assert_eq!(unknowns(&report), unknowns(&calm), "{rule}");
        rig.gate()?.heal()?;
    }
    for (status, message) in [(429, "too many requests"), (500, "etcdserver: request timed out")] {
        rig.gate()?.fail(&pods(json!({"status": status, "message": message})))?;
        let report = world.run(&JSON).done().json();
        assert!(unknowns(&report).contains(&"pods"), "{status}: {:?}", unknowns(&report));
        assert!(report["unknown"].to_string().contains(message), "{}", report["unknown"]);
        assert!(report["memory"]["requests"]["workers"].is_null(), "{}", report["memory"]);
        rig.gate()?.heal()?;
    }
    let seen = rig.gate()?.requests()?;
    assert!(seen.iter().all(|request| request["method"] == "GET"), "{seen:?}");
    Ok(())
}

#[test]
fn the_archives_of_a_host_are_imported_with_their_gaps() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (mut rig, world) = started()?;
    let points: Vec<Value> = (0..1440)
        .map(|step| {
            let at = NOW_SECONDS as i64 - step * 1800;
            // Before its first data, and in gaps, a point has a time and nothing else.
            if step % 10 == 3 {
                json!({"time": at})
            } else {
                json!({"time": at, "memtotal": 206_158_430_208_u64, "memused": 1.5e11 + step as f64, "memavailable": 5e10, "maxcpu": 32})
            }
        })
        .collect();
    rig.double()?.control().patch("/nodes/pve1", &json!({"rrddata": {"MAX": {"month": points}}}))?;
    let import = world.run(&["history", "import"]).done();
    assert!(import.err.contains("added "), "{}", import.err);
    let shown = world.run(&["history", "export"]).done().out;
    let rows: Vec<&str> = shown.lines().filter(|line| line.contains("pve1")).collect();
    // 1,440 half hours, a tenth of them without data; a sample is one of an hour.
    assert!(rows.len() > 600 && rows.len() <= 1_296, "{} rows: {:?}", rows.len(), rows.first());
    assert!(rows.iter().all(|row| !row.contains(",0,")), "a gap is no zero");
    Ok(())
}

/// Thirty days of two workers, an hour a step.
fn month() -> OpenMetrics {
    let mut samples = OpenMetrics::default();
    for hour in 0..720 {
        let at = NOW_SECONDS - f64::from(hour) * 3600.0;
        for node in ["worker-1", "worker-2", "worker-3"] {
            for volume in 0..10 {
                let labels =
                    format!("attacher=\"csi.proxmox.sinextra.dev\",node=\"{node}\",volumeattachment=\"{node}-{volume}\"");
                samples.point("kube_volumeattachment_info", &labels, at, 1.0);
            }
            let labels = format!("node=\"{node}\",resource=\"memory\",unit=\"byte\"");
            samples.point("kube_node_status_allocatable", &labels, at, 3e10);
        }
    }
    samples
}

#[test]
fn an_import_that_is_killed_at_any_point_loses_nothing_and_is_simply_run_again() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (mut rig, mut world) = started()?;
    let prometheus = rig.start_prometheus(&month())?.url.clone();
    world.set("CAPPLAN_PROMETHEUS_URL", &prometheus);
    let whole = {
        let mut calm = crate::world(&mut rig)?;
        calm.set("CAPPLAN_NOW", NOW).set("CAPPLAN_PROMETHEUS_URL", &prometheus);
        let start = Instant::now();
        calm.run(&["history", "import"]).done();
        (calm.run(&["history", "export"]).done().out, start.elapsed())
    };
    assert!(whole.0.lines().count() > 2_000, "{}", whole.0.lines().count());
    // Later and later, until it is through: how long that takes depends on what else the machine does.
    const POINTS: u32 = 40;
    let (mut killed, mut through) = (0, 0);
    for point in 0..POINTS * 4 {
        let mut command = world.command(&["history", "import"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
        std::thread::sleep(whole.1 * point / POINTS);
        drop(child.kill());
        let was_killed = child.wait().expect("it ended").code().is_none();
        (killed, through) = if was_killed { (killed + 1, 0) } else { (killed, through + 1) };
        let shown = world.run(&["history", "show"]);
        assert!([0, 6].contains(&shown.code) && !shown.err.contains("panicked"), "killed at {point}: {shown:?}");
        if through == 3 {
            break;
        }
    }
    assert!(killed >= 5 && through == 3, "killed {killed} times, through {through} times in a row");
    world.run(&["history", "import"]).done();
    assert_eq!(world.run(&["history", "export"]).done().out, whole.0);
    let left: Vec<String> = world.files().into_iter().filter(|file| file.starts_with(STATE) && file.contains("tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn a_full_disk_under_the_state_is_named_and_what_was_there_stays() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (mut rig, mut world) = started()?;
    let prometheus = rig.start_prometheus(&month())?.url.clone();
    let disk = SmallDisk::mount(&world.path("state"), 48)?;
    world.set("CAPPLAN_STATE_DIR", disk.folder.display().to_string());
    let run = |world: &World, arguments: &[&str]| {
        Outcome::of(world.command_through(disk.command(env!("CARGO_BIN_EXE_capplan")), arguments))
    };

    // A report keeps its own sample: that much fits.
    run(&world, &["report"]).done();
    let before = run(&world, &["history", "export"]).done().out;
    assert!(before.lines().count() > 3, "{before}");
    let mut filler = disk.command("sh");
    filler.args(["-c", "head -c 1000000 /dev/zero > \"$0\"/filler; true"]).arg(&disk.folder).stderr(Stdio::null());
    drop(filler.status());

    world.set("CAPPLAN_PROMETHEUS_URL", prometheus);
    let full = run(&world, &["history", "import"]).ends(1);
    assert!(full.err.contains("No space left on device"), "{}", full.err);
    assert!(full.err.contains(&disk.folder.display().to_string()) && full.err.contains("hint: "), "{}", full.err);
    assert_eq!(run(&world, &["history", "export"]).done().out, before);
    let report = run(&world, &["report", "--format", "json"]);
    assert!(!report.err.contains("panicked") && report.code == 0, "a report is more than its sample: {report:?}");
    assert!(report.out.contains("No space left on device"), "{}", report.out);

    let mut empty = disk.command("rm");
    empty.arg(disk.folder.join("filler"));
    assert!(empty.status().is_ok_and(|status| status.success()));
    run(&world, &["history", "import"]).done();
    Ok(())
}

#[test]
fn a_request_that_the_real_api_would_refuse_fails_the_test_that_sends_it() -> Tested {
    if skipped() {
        return Ok(());
    }
    for (path, form, why) in [
        ("/nodes/pve1/qemu/201/config", ("memori", "1"), "memori"),
        ("/nodes/pve1/qemu/201/config", ("cores", "many"), "cores"),
        ("/nodes/pve1/qemu/201/konfig", ("cores", "1"), "no such path"),
    ] {
        let (mut rig, _) = started()?;
        drop(rig.double()?.operator().change(http::Method::POST, path, &[form]));
        let violations = rig.double()?.violations()?;
        assert!(violations.len() == 1 && violations[0]["violations"].to_string().contains(why), "{why}: {violations:?}");
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(rig)));
        assert!(ended.is_err(), "the end of the rig tells of {why}");
    }
    Ok(())
}

/// What a test that is killed looks like from outside.
#[test]
#[ignore = "run, and killed, by the test below"]
fn holds_a_rig_until_it_is_killed() -> Tested {
    let rig = Rig::start()?;
    println!("holding {}", rig.folder().display());
    std::thread::sleep(Duration::from_secs(120));
    Ok(())
}

#[test]
fn a_rig_whose_test_is_killed_ends_with_it_and_the_next_one_sweeps_its_folder() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let mut held = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "faults::holds_a_rig_until_it_is_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs once more");
    let lines = BufReader::new(held.stdout.take().expect("piped")).lines();
    let folder = lines.map_while(Result::ok).find_map(|line| line.strip_prefix("holding ").map(str::to_owned));
    let folder = folder.expect("it says where");
    assert!(processes_of(&folder) >= 2, "etcd and the API server run");
    held.kill().expect("it runs");
    drop(held.wait());
    let start = Instant::now();
    while processes_of(&folder) > 0 {
        assert!(start.elapsed() < Duration::from_secs(10), "processes outlive their test");
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(Rig::start()?);
    assert!(!Path::new(&folder).exists(), "the next rig sweeps {folder}");
    Ok(())
}

/// How many processes name the folder on their command line.
fn processes_of(folder: &str) -> usize {
    let lines = std::fs::read_dir("/proc").expect("Linux").flatten().map(|process| {
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).into_owned()
    });
    lines.filter(|line| line.contains(folder)).count()
}

#[test]
fn two_rigs_run_side_by_side_and_leave_nothing_behind() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let folders: Vec<std::path::PathBuf> = {
        let (one, two) = (Rig::start()?, Rig::start()?);
        let names = |rig: &Rig| rig.api().list("/api/v1/namespaces").map(|list| list.len());
        assert!(names(&one)? >= 4 && names(&two)? >= 4);
        let uid = |rig: &Rig| rig.api().get("/api/v1/namespaces/kube-system").map(|one| one["metadata"]["uid"].clone());
        assert_ne!(uid(&one)?, uid(&two)?);
        vec![one.folder().to_owned(), two.folder().to_owned()]
    };
    for folder in folders {
        assert!(!folder.exists(), "{}", folder.display());
        assert_eq!(processes_of(&folder.to_string_lossy()), 0);
    }
    Ok(())
}
