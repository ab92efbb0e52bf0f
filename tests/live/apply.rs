//! Plans carried out against real components: every pod moves through the eviction API, every change is read back.

use std::fs::File;
use std::process::Stdio;
use std::time::{Duration, Instant};

use capplan_model::scenario::Scenario;
use capplan_rig::double::READER;
use capplan_rig::kube::{Api, Call};
use capplan_rig::plant::MissingOwners;
use capplan_rig::small_disk::SmallDisk;
use capplan_rig::{Failure, Rig, objects};
use serde_json::{Value, json};

use crate::support::{Outcome, STATE, World};
use crate::{Tested, is_full, kube_faults, printed_roles, pve_faults, skipped, skipped_without_own_plane, world};

const PATIENCE: Duration = Duration::from_secs(60);
const PODS: &str = "/api/v1/namespaces/default/pods";
const WORKERS: &str = r#"
format = "capplan.scenario/1"
title = "Three workers with room to spare"
now = "2026-03-02T06:00:00Z"

[[hosts]]
name = "pve1"
memory = "256GiB"
available = "60GiB"
cpus = 32
"#;

/// A rig with so many workers and a Deployment of four pods that the real scheduler has placed.
pub(crate) fn started(workers: u32) -> Result<(Rig, World), Failure> {
    let mut text = WORKERS.to_owned();
    for number in 1..=workers {
        let vmid = 200 + number;
        text.push_str(&format!(
            "\n[[nodes]]\nname = \"w{number}\"\nvmid = {vmid}\nhost = \"pve1\"\nmemory = \"8GiB\"\nallocatable = \"7GiB\"\ncpus = 8\n"
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
    let (rig, world) = started(3)?;
    let before = settled(rig.api())?;
    let there: Vec<&String> = before.iter().filter(|(node, _)| node == "w1").map(|(_, uid)| uid).collect();
    let file = planned(&world, &["drain", "w1"]);
    world.run(&["apply", &file, "--dry-run"]).done().says(&["nothing was changed"]);
    assert_eq!(settled(rig.api())?, before);
    world.run(&["apply", &file]).ends(4).says(&["nobody is there to confirm it", "--yes"]);
    let told = world.run(&["apply", &file, "--yes", "--output", "json"]).done().out;
    let events: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let schema: Value = serde_json::from_str(&world.run(&["schema", "events"]).done().out).expect("JSON");
    let schema = jsonschema::validator_for(&schema).expect("a schema");
    assert!(events.iter().all(|event| schema.is_valid(event)), "{told}");
    let named = |event: Option<&Value>| event.map(|one| one["event"].as_str().unwrap_or_default().to_owned());
    assert_eq!((named(events.first()), named(events.last())), (Some("run".into()), Some("finished".into())), "{told}");
    let after = settled(rig.api())?;
    assert!(after.iter().all(|(node, _)| node != "w1"), "{after:?}");
    let moved = before.iter().filter(|pod| !after.contains(pod)).count();
    assert_eq!(moved, there.len(), "no pod but those of w1 moved: {before:?} {after:?}");
    let runs = world.run(&["runs"]).done();
    assert!(runs.out.contains("finished") && runs.out.contains("drain"), "{}", runs.out);
    world.run(&["apply", &file, "--yes"]).done().says(&["nothing to do", "carried this plan out"]);
    assert_eq!(settled(rig.api())?, after);
    Ok(())
}

#[test]
fn a_worker_that_is_removed_is_empty_gone_off_and_stays_off() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (mut rig, world) = started(3)?;
    let (gone, vmid) = next_out(&rig)?;
    let remove = |more: &str| {
        let remove = ["apply", "remove-worker", &gone, "--override", "test", "--yes", more];
        world.run(&remove.map(str::to_owned).iter().map(String::as_str).filter(|one| !one.is_empty()).collect::<Vec<_>>())
    };
    remove("--destroy").ends(4).says(&["it has no tag `capplan`", "nothing was changed"]);
    let refused = remove("").ends(4);
    let vm = format!("/vms/{vmid}");
    let lacking =
        [format!("VM.PowerMgmt on {vm}"), format!("VM.Config.CDROM on {vm}"), "AllocateTemplate on /storage/local".to_owned()];
    refused.says(&lacking.each_ref().map(String::as_str));
    rig.double()?.grant(&[
        ("/", &READER),
        (&vm, &["VM.Audit", "VM.PowerMgmt", "VM.Config.Options", "VM.Config.CDROM", "VM.Config.Cloudinit"]),
        ("/storage/local", &["Datastore.Audit", "Datastore.AllocateTemplate"]),
    ])?;
    remove("--keep-as-spare").done();
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
pub(crate) fn lines(world: &World) -> usize {
    let runs = std::fs::read_dir(world.path(STATE).join("runs")).into_iter().flatten().flatten();
    let newest = runs.map(|one| one.path()).filter(|path| path.is_dir()).max().map(|path| path.join("journal.jsonl"));
    newest.and_then(|path| std::fs::read_to_string(path).ok()).map_or(0, |text| text.matches('\n').count())
}

#[test]
fn a_drain_that_is_killed_after_any_line_of_its_journal_is_done_once_by_resume() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (rig, world) = started(3)?;
    let mut killed = 0;
    for point in (1..).step_by(if is_full() { 1 } else { 3 }) {
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
    assert!(killed >= if is_full() { 6 } else { 2 }, "{killed}");
    println!("killed at {killed} points");
    Ok(())
}

#[test]
fn a_write_that_fails_or_whose_answer_is_lost_has_its_effect_once() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, mut world) = started(3)?;
    rig.plant(printed_roles(), MissingOwners::Drop)?;
    rig.start_gate()?;
    // The account that `doctor` proposes, which is all that is needed.
    world.set("KUBECONFIG", rig.account("capplan-apply")?.display().to_string());
    for fault in kube_faults() {
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

/// A worker to take out, with pods if any has some, and its VMID.
pub(crate) fn next_out(rig: &Rig) -> Result<(String, u32), Failure> {
    let pods = settled(rig.api())?;
    let nodes = rig.api().list("/api/v1/nodes")?;
    let names = nodes.iter().filter_map(|node| node["metadata"]["name"].as_str().map(str::to_owned));
    let name = names.max_by_key(|name| pods.iter().filter(|(at, _)| at == name).count()).expect("a worker is left");
    let number: u32 = name.trim_start_matches('w').parse().expect("a number");
    Ok((name, 200 + number))
}

/// Lets the tool destroy a VM: the privileges on it, and the tag.
pub(crate) fn give_up_to_destroy(rig: &mut Rig, vmid: u32) -> Tested {
    let privileges: &[&str] = &["VM.Audit", "VM.PowerMgmt", "VM.Config.Options", "VM.Allocate"];
    rig.double()?.grant(&[("/", &READER), (&format!("/vms/{vmid}"), privileges)])?;
    let config = format!("/nodes/pve1/qemu/{vmid}/config");
    rig.double()?.operator().clone().change(http::Method::PUT, &config, &[("tags", "capplan")]).map(drop)
}

/// Requests of a method to a path's end that were answered well.
pub(crate) fn done(requests: &[Value], method: &str, end: &str) -> usize {
    let is = |one: &&Value| {
        one["method"] == method
            && one["path"].as_str().is_some_and(|path| path.ends_with(end))
            && one["status"].as_u64().is_some_and(|status| status < 300)
    };
    requests.iter().filter(is).count()
}

#[test]
fn a_removal_that_is_killed_after_any_line_takes_one_worker_out_once() -> Tested {
    if skipped() {
        return Ok(());
    }
    const MOST: u32 = 24;
    let (mut rig, world) = started(MOST)?;
    let (mut killed, mut ended) = (0, false);
    for point in (1..MOST as usize - 1).step_by(if is_full() { 1 } else { 3 }) {
        let (node, vmid) = next_out(&rig)?;
        give_up_to_destroy(&mut rig, vmid)?;
        let remove = ["apply", "remove-worker", &node, "--destroy", "--override", "test", "--yes"];
        let runs = || std::fs::read_dir(world.path(STATE).join("runs")).map_or(0, Iterator::count);
        let before = runs().max(1);
        let said = File::create(world.path("said")).expect("a file of ours");
        let mut child = world.command(&remove).stderr(said).spawn().expect("it starts");
        while !(runs() > before && lines(&world) >= point) && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        ended = child.try_wait().expect("a child").is_some();
        drop(child.kill());
        child.wait().expect("a child");
        if point % 2 == 0 {
            rig.double()?.kill();
            rig.double()?.restart()?;
            // Our own connections died with it: the first request only finds that out.
            drop(rig.double()?.guests());
            drop(rig.double()?.operator().clone().change(http::Method::GET, "/version", &[]));
        }
        let said = std::fs::read_to_string(world.path("said")).expect("a file of ours");
        if !ended {
            killed += 1;
            let begun = lines(&world) > 0 && runs() > before;
            let again = if begun { vec!["resume"] } else { remove.to_vec() };
            world.run(&again).done();
        }
        let nodes = rig.api().list("/api/v1/nodes")?;
        assert!(nodes.iter().all(|one| one["metadata"]["name"] != node.as_str()), "point {point}: {node} is there: {said}");
        assert!(nodes.iter().all(|one| one["spec"]["unschedulable"] != true), "point {point}: a node is closed: {said}");
        assert!(settled(rig.api())?.iter().all(|(at, _)| *at != node));
        let guests = rig.double()?.guests()?;
        assert!(guests.iter().all(|one| one["vmid"] != vmid), "point {point}: {vmid} is there: {said}");
        let requests = rig.double()?.requests()?;
        for (method, end) in [("POST", "/status/shutdown"), ("DELETE", "")] {
            let times = done(&requests, method, &format!("/qemu/{vmid}{end}"));
            // A host whose API dies takes the task along that it had accepted.
            assert!(times <= 1 + usize::from(point % 2 == 0), "point {point}: {method} {end} {times} times: {said}");
        }
        if ended {
            break;
        }
    }
    assert!(ended && killed >= if is_full() { 12 } else { 4 }, "killed at {killed} points");
    assert_eq!(rig.double()?.violations()?, Vec::<Value>::new());
    println!("killed at {killed} points");
    Ok(())
}

#[test]
fn a_removal_meets_every_way_in_which_proxmox_fails_and_is_done_in_the_end() -> Tested {
    if skipped() {
        return Ok(());
    }
    let requests = [("PUT", "config"), ("POST", "status/shutdown"), ("DELETE", "")];
    let faults = pve_faults();
    let (mut rig, world) = started(2 + u32::try_from(requests.len() * faults.len()).expect("few"))?;
    let mut resumed = 0;
    for (number, (method, end)) in requests.into_iter().enumerate() {
        // A change of options is no task. Each fault is met once; in the whole matrix, by each change.
        let chosen = faults.iter().enumerate().filter(|(place, _)| is_full() || (place + number) % requests.len() == 0);
        for (_, fault) in chosen.filter(|(_, fault)| fault["task"].is_null() || method != "PUT") {
            let (node, vmid) = next_out(&rig)?;
            give_up_to_destroy(&mut rig, vmid)?;
            let path = format!("/nodes/pve1/qemu/{vmid}/{end}");
            let mut rule = fault.clone();
            (rule["method"], rule["path"], rule["times"]) = (json!(method), json!(path.trim_end_matches('/')), json!(1));
            rig.double()?.fail(&rule)?;
            let first = world.run(&["apply", "remove-worker", &node, "--destroy", "--override", "test", "--yes"]);
            if first.code != 0 {
                let told = format!("{rule}: {}", first.err);
                assert!(first.code == 5 && first.err.contains("capplan resume") && first.err.contains("not online"), "{told}");
                resumed += 1;
                world.run(&["resume"]).done();
            }
            rig.double()?.heal()?;
            let nodes = rig.api().list("/api/v1/nodes")?;
            assert!(nodes.iter().all(|one| one["metadata"]["name"] != node.as_str()), "{rule}: {node} is there");
            assert!(rig.double()?.guests()?.iter().all(|one| one["vmid"] != vmid), "{rule}: {vmid} is there");
            let seen = rig.double()?.requests()?;
            assert!(done(&seen, "DELETE", &format!("/qemu/{vmid}")) <= 2, "{rule}");
        }
    }
    assert_eq!(resumed, if is_full() { 2 } else { 1 }, "a task that failed stops the run, and nothing else does");
    Ok(())
}

#[test]
fn what_is_not_as_planned_is_refused_and_nothing_is_left_closed() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (mut rig, mut world) = started(3)?;
    let (node, vmid) = next_out(&rig)?;
    give_up_to_destroy(&mut rig, vmid)?;
    let operator = rig.double()?.operator().clone();
    let config = format!("/nodes/pve1/qemu/{vmid}/config");
    let set = |key: &str, value: &str| operator.change(http::Method::PUT, &config, &[(key, value)]).map(drop);
    let file = planned(&world, &["scale-down", "--node", &node, "--destroy", "--override", "test"]);
    let calm = |rig: &mut Rig| -> Tested {
        let nodes = rig.api().list("/api/v1/nodes")?;
        assert!(nodes.len() == 3 && nodes.iter().all(|one| one["spec"]["unschedulable"] != true), "{nodes:?}");
        assert_eq!(rig.double()?.guest(vmid)?["power"], "running");
        Ok(())
    };

    // Another is at work.
    std::fs::create_dir_all(world.path(STATE).join("runs")).expect("a folder of ours");
    let lock = File::create(world.path(STATE).join("runs/lock")).expect("a file of ours");
    lock.lock().expect("nobody has it");
    world.run(&["apply", &file, "--yes"]).ends(4).says(&["another capplan is at work"]);
    drop(lock);

    // So is another on another machine.
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    let held = |seconds: i64| {
        let renewed = jiff::Timestamp::now() - jiff::SignedDuration::from_secs(seconds);
        json!({"spec": {"holderIdentity": "me@elsewhere:/state", "leaseDurationSeconds": 40,
                        "renewTime": renewed.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()}})
    };
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "capplan"}});
    rig.api().call(Call::post(leases, lease))?;
    rig.api().call(Call::patch(format!("{leases}/capplan"), held(1)))?;
    world.run(&["apply", &file, "--yes"]).ends(4).says(&["me@elsewhere:/state", "Nothing was changed"]);
    calm(&mut rig)?;
    // One that was not renewed has run out.
    rig.api().call(Call::patch(format!("{leases}/capplan"), held(200)))?;

    // The VM has another name, as after its VMID was given to another.
    set("name", "somebody-else")?;
    world.run(&["apply", &file, "--yes"]).ends(4).says(&["nothing was changed", "plan again"]);
    set("name", &node)?;
    // As it was it could be carried out.
    world.run(&["apply", &file, "--yes", "--dry-run"]).done();
    calm(&mut rig)?;

    // A pod came that the plan does not know.
    let stranger = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "stranger"},
        "spec": {"nodeName": node, "containers": [{"name": "all", "image": "registry.example/rig:1"}]}});
    rig.api().call(Call::post(PODS, stranger))?;
    world.run(&["apply", &file, "--yes"]).ends(4).says(&["default/stranger", "nothing was changed"]);
    rig.api().call(Call::delete(format!("{PODS}/stranger?gracePeriodSeconds=0")))?;
    settled(rig.api())?;
    calm(&mut rig)?;

    // It is renamed while the plan runs: pods have moved, nothing of the VM was touched.
    let mut child = world.command(&["apply", &file, "--yes"]).stderr(Stdio::null()).spawn().expect("it starts");
    while lines(&world) < 2 && child.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(child.kill());
    child.wait().expect("a child");
    set("name", "somebody-else")?;
    world.run(&["resume"]).ends(5).says(&["given up", "plan again"]);
    set("name", &node)?;
    calm(&mut rig)?;
    assert!(world.run(&["runs"]).done().out.contains("given up"));

    // No room for the plan: nothing is done without its journal.
    let disk = SmallDisk::mount(&world.path("state"), 4)?;
    world.set("CAPPLAN_STATE_DIR", disk.folder.display().to_string());
    let full = world.command_through(disk.command(env!("CARGO_BIN_EXE_capplan")), &["apply", &file, "--yes"]);
    let full = Outcome::of(full);
    assert!(full.code != 0 && !full.err.contains("panicked"), "{full:?}");
    calm(&mut rig)?;

    // No secret is in anything that was written.
    let secret = rig.double()?.token();
    let secret = secret.rsplit('=').next().unwrap_or_default();
    for name in world.files().into_iter().filter(|name| !name.contains("kube")) {
        let text = std::fs::read(world.path(&name)).unwrap_or_default();
        assert!(!text.windows(secret.len()).any(|part| part == secret.as_bytes()), "the token is in {name}");
    }
    Ok(())
}
