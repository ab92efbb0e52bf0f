//! Plans carried out against real components: every pod moves through the eviction API, every change is read back.

use std::fs::File;
use std::time::{Duration, Instant};

use capplan_model::scenario::Scenario;
use capplan_rig::double::READER;
use capplan_rig::kube::{Api, Call};
use capplan_rig::plant::MissingOwners;
use capplan_rig::{Failure, Rig, objects};
use serde_json::{Value, json};

use crate::support::{STATE, World};
use crate::{Tested, printed_roles, skipped, skipped_without_own_plane, world};

const PATIENCE: Duration = Duration::from_secs(60);
const PODS: &str = "/api/v1/namespaces/default/pods";
const WORKERS: &str = r#"
format = "capplan.scenario/1"
title = "Three workers with room to spare"
now = "2026-03-02T06:00:00Z"

[[hosts]]
name = "pve1"
memory = "128GiB"
available = "60GiB"
cpus = 32
"#;

/// A rig with three workers and a Deployment of four pods that the real scheduler has placed.
fn started() -> Result<(Rig, World), Failure> {
    let mut text = WORKERS.to_owned();
    for number in 1..=3 {
        text.push_str(&format!(
            "\n[[nodes]]\nname = \"w{number}\"\nvmid = 20{number}\nhost = \"pve1\"\nmemory = \"16GiB\"\nallocatable = \"15GiB\"\ncpus = 8\n"
        ));
    }
    let snapshot = Scenario::parse(&text).expect("a valid scenario").snapshot();
    let mut rig = Rig::start()?;
    rig.plant(objects::of(&snapshot), MissingOwners::Drop)?;
    rig.start_double(&snapshot)?;
    rig.start_machines(&["--adopt", "--lease-seconds", "2"])?;
    rig.start_controllers()?;
    let web = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {
        "replicas": 4, "selector": {"matchLabels": {"app": "web"}}, "template": {"metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "registry.example/web:1",
                                     "resources": {"requests": {"memory": "1Gi", "cpu": "100m"}}}]}}}});
    rig.api().call(Call::post("/apis/apps/v1/namespaces/default/deployments", web))?;
    settled(rig.api())?;
    let world = world(&mut rig)?;
    Ok((rig, world))
}

/// Waits until four pods run; answers their nodes and UIDs.
fn settled(api: &Api) -> Result<Vec<(String, String)>, Failure> {
    let start = Instant::now();
    loop {
        let text = |pod: &Value, pointer: &str| pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        let pods = api.list(PODS)?;
        let ready = |pod: &&Value| {
            pod["metadata"]["deletionTimestamp"].is_null()
                && pod["status"]["conditions"]
                    .as_array()
                    .is_some_and(|list| list.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
        };
        let running: Vec<_> =
            pods.iter().filter(ready).map(|pod| (text(pod, "/spec/nodeName"), text(pod, "/metadata/uid"))).collect();
        if running.len() == 4 && pods.len() == 4 {
            return Ok(running);
        }
        if start.elapsed() > PATIENCE {
            return Err(Failure::new(format!("not after {} s: four pods run: {pods:?}", PATIENCE.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Plans, and answers the plan's file.
fn planned(world: &World, arguments: &[&str]) -> String {
    let file = world.path("plan.json").display().to_string();
    let arguments: Vec<&str> = ["plan"].into_iter().chain(arguments.iter().copied()).chain(["-o", file.as_str()]).collect();
    world.run(&arguments).done();
    file
}

#[test]
fn a_drain_moves_every_pod_once_and_a_second_one_has_nothing_to_do() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (rig, world) = started()?;
    let before = settled(rig.api())?;
    let there: Vec<&String> = before.iter().filter(|(node, _)| node == "w1").map(|(_, uid)| uid).collect();
    let file = planned(&world, &["drain", "w1"]);
    world.run(&["apply", &file, "--dry-run"]).done().says(&["nothing was changed"]);
    assert_eq!(settled(rig.api())?, before);
    world.run(&["apply", &file]).ends(4).says(&["nobody is there to confirm it", "--yes"]);
    world.run(&["apply", &file, "--yes"]).done();
    let after = settled(rig.api())?;
    assert!(after.iter().all(|(node, _)| node != "w1"), "{after:?}");
    let moved = before.iter().filter(|pod| !after.contains(pod)).count();
    assert_eq!(moved, there.len(), "no pod but those of w1 moved: {before:?} {after:?}");
    let runs = world.run(&["runs"]).done();
    assert!(runs.out.contains("finished") && runs.out.contains("drain"), "{}", runs.out);
    // The same plan again is about pods that are gone; a new one has nothing to evict.
    if !there.is_empty() {
        world.run(&["apply", &file, "--yes"]).ends(4).says(&["nothing was changed"]);
    }
    assert_eq!(settled(rig.api())?, after);
    Ok(())
}

#[test]
fn a_worker_that_is_removed_is_empty_gone_off_and_stays_off() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (mut rig, world) = started()?;
    let file = planned(&world, &["scale-down", "--override", "test"]);
    let plan: Value = serde_json::from_str(&std::fs::read_to_string(&file).expect("just written")).expect("JSON");
    let gone = plan["target"].as_str().expect("a worker").to_owned();
    let vmid: u32 = format!("20{}", gone.trim_start_matches('w')).parse().expect("a number");
    let refused = world.run(&["apply", &file, "--yes"]).ends(4);
    let vm = format!("/vms/{vmid}");
    let lacking = [format!("VM.PowerMgmt on {vm}"), format!("VM.Config.Options on {vm}"), "nothing was changed".to_owned()];
    refused.says(&lacking.each_ref().map(String::as_str));
    rig.double()?.grant(&[("/", &READER), (&vm, &["VM.Audit", "VM.PowerMgmt", "VM.Config.Options"])])?;
    world.run(&["apply", &file, "--yes"]).done();
    assert!(settled(rig.api())?.iter().all(|(node, _)| *node != gone));
    let nodes = rig.api().list("/api/v1/nodes")?;
    assert!(nodes.iter().all(|node| node["metadata"]["name"] != gone.as_str()), "{gone} is still there");
    let guest = rig.double()?.guest(vmid)?;
    assert_eq!((guest["power"].as_str(), &guest["config"]["onboot"]), (Some("stopped"), &json!(0)), "{guest}");
    assert_eq!(rig.double()?.violations()?, Vec::<Value>::new());
    Ok(())
}

/// Opens every worker and answers the one with the most pods, with the UIDs of those.
fn fullest(rig: &Rig) -> Result<(String, Vec<String>), Failure> {
    for node in ["w1", "w2", "w3"] {
        rig.api().call(Call::patch(format!("/api/v1/nodes/{node}"), json!({"spec": {"unschedulable": null}})))?;
    }
    let pods = settled(rig.api())?;
    let on = |node: &str| pods.iter().filter(|(at, _)| at == node).map(|(_, uid)| uid.clone()).collect::<Vec<_>>();
    let node = ["w1", "w2", "w3"].into_iter().max_by_key(|node| on(node).len()).expect("three").to_owned();
    let there = on(&node);
    Ok((node, there))
}

/// The node is empty and closed, the others are open, and no pod moved but those that had to.
fn drained(rig: &Rig, node: &str, before: &[(String, String)], there: &[String]) -> Tested {
    let after = settled(rig.api())?;
    let is = |holds: bool, what: &str| if holds { Ok(()) } else { Err(Failure::new(format!("{what}: {before:?} {after:?}"))) };
    is(after.iter().all(|(at, _)| at != node), "not empty")?;
    is(before.iter().all(|pod| there.contains(&pod.1) || after.contains(pod)), "another pod moved")?;
    for one in rig.api().list("/api/v1/nodes")? {
        is((one["spec"]["unschedulable"] == true) == (one["metadata"]["name"] == node), "a node is closed or open")?;
    }
    Ok(())
}

/// Lines of the newest journal.
fn lines(world: &World) -> usize {
    let runs = std::fs::read_dir(world.path(STATE).join("runs")).into_iter().flatten().flatten();
    let newest = runs.map(|one| one.path()).filter(|path| path.is_dir()).max().map(|path| path.join("journal.jsonl"));
    newest.and_then(|path| std::fs::read_to_string(path).ok()).map_or(0, |text| text.matches('\n').count())
}

#[test]
fn a_drain_that_is_killed_after_any_line_of_its_journal_is_done_once_by_resume() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (rig, world) = started()?;
    let mut killed = 0;
    for point in 1.. {
        let (node, there) = fullest(&rig)?;
        let before = settled(rig.api())?;
        let file = planned(&world, &["drain", &node]);
        let done = std::fs::read_dir(world.path(STATE).join("runs")).map_or(0, Iterator::count);
        let said = File::create(world.path("said")).expect("a file of ours");
        let mut child = world.command(&["apply", &file, "--yes"]).stderr(said).spawn().expect("it starts");
        // A new run has a new folder; until then the newest journal is another one's.
        let begun = || std::fs::read_dir(world.path(STATE).join("runs")).map_or(0, Iterator::count) > done.max(1);
        while !(begun() && lines(&world) >= point) && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        let ended = child.try_wait().expect("a child").is_some();
        drop(child.kill());
        child.wait().expect("a child");
        if !ended {
            killed += 1;
            let unfinished = world.run(&["runs"]).done().out.contains("unfinished");
            if unfinished {
                world.run(&["apply", &file, "--yes"]).ends(4).says(&["is not finished", "capplan resume"]);
                world.run(&["resume"]).done();
            } else if lines(&world) == 0 {
                // Killed before the first line was whole: nothing was done.
                world.run(&["apply", &file, "--yes"]).done();
            }
        }
        let said = std::fs::read_to_string(world.path("said")).expect("a file of ours");
        drained(&rig, &node, &before, &there).map_err(|failure| Failure::new(format!("point {point}: {failure}; {said}")))?;
        if ended {
            break;
        }
        assert!(point < 60, "a drain writes few lines");
    }
    // Begun, and at least started and ensured for the cordon, an eviction and the wait.
    assert!(killed >= 6, "{killed}");
    println!("killed at {killed} points");
    Ok(())
}

#[test]
fn a_write_that_fails_or_whose_answer_is_lost_has_its_effect_once() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, mut world) = started()?;
    rig.plant(printed_roles(), MissingOwners::Drop)?;
    rig.start_gate()?;
    // The account that `doctor` proposes, which is all that is needed.
    world.set("KUBECONFIG", rig.account("capplan-apply")?.display().to_string());
    let faults = [
        json!({"status": 409, "message": "the object has been modified"}),
        json!({"status": 429, "message": "too many requests", "retry_after": 1}),
        json!({"status": 500, "message": "etcdserver: leader changed"}),
        json!({"reset": true}),
        json!({"reset": true, "after": true}),
    ];
    for fault in faults {
        for (method, path) in [("PATCH", "/api/v1/nodes/.*"), ("POST", "/api/v1/.*/eviction")] {
            let (node, there) = fullest(&rig)?;
            let before = settled(rig.api())?;
            let file = planned(&world, &["drain", &node]);
            let mut rule = fault.clone();
            (rule["method"], rule["path"], rule["times"]) = (json!(method), json!(path), json!(1));
            rig.gate()?.fail(&rule)?;
            world.run(&["apply", &file, "--yes"]).done();
            drained(&rig, &node, &before, &there)?;
            rig.gate()?.heal()?;
        }
    }
    Ok(())
}
