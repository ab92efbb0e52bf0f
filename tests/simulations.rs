//! `capplan simulate` from the outside: on recorded clusters against their truth, on scenarios, and the
//! properties that every simulation has.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use support::{Outcome, World, recorded, truth};

fn simulated(world: &World, snapshot: &str, changes: &[&str], code: i32) -> Value {
    let mut arguments = vec!["simulate", "--snapshot", snapshot, "--format", "json"];
    arguments.extend(changes);
    world.run(&arguments).ends(code).json()
}

fn strings<'v>(list: &'v Value, key: &str) -> BTreeSet<&'v str> {
    list.as_array().expect("a list").iter().filter_map(|one| one[key].as_str()).collect()
}

fn gib(value: &Value) -> f64 {
    (value.as_f64().expect("a number") / f64::from(1 << 30) * 100.0).round() / 100.0
}

#[test]
fn the_loss_of_the_worst_worker_has_the_figures_of_the_truth() {
    let world = World::new();
    // In the second one the GPU node takes general pods.
    for (name, by) in [("today", "without_gpu_node"), ("lun-incident", "as_alert_with_gpu_node")] {
        let Some(snapshot) = recorded(&world, name) else { return };
        let truth = &truth(name)["n_minus_1"][by];
        let worst = truth["worst"].as_str().expect("a name");
        let simulation = simulated(&world, &snapshot, &["--fail-node", worst, "--runs", "3"], 3);
        let loss = &simulation["node_loss"][0];
        assert_eq!(loss["node"], worst);
        assert!((gib(&loss["to_move"]) - truth["reschedulable_gib"].as_f64().expect("a number")).abs() < 0.02, "{loss}");
        assert!((gib(&loss["free"]) - truth["free_gib_excluding_lost_node"].as_f64().expect("a number")).abs() < 0.02, "{loss}");
        assert_eq!(loss["fits_by_sum"], truth["really_fits_by_sum"]);
        // What does not fit by sum is proven not to fit.
        assert_eq!((simulation["fits"].as_bool(), simulation["verdict"].as_str()), (Some(false), Some("cannot-fit")));
        assert!(!simulation["unplaceable"].as_array().expect("a list").is_empty());
    }
}

#[test]
fn the_gpu_nodes_removal_leaves_exactly_the_pods_of_the_truth_without_a_place() {
    let world = World::new();
    let Some(snapshot) = recorded(&world, "today") else { return };
    let truth = truth("today");
    let simulation = simulated(&world, &snapshot, &["--remove-node", "k8s-node1"], 3);
    let left = strings(&simulation["unplaceable"], "pod");
    let expected: BTreeSet<&str> = truth["drain"]["k8s-node1"]["tsc_default"]["unplaced"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    assert_eq!(left, expected);
    assert_eq!(simulation["verdict"], "cannot-fit");
    // The node and its slots are gone, and so is the memory of its VM.
    assert!(!strings(&simulation["after"]["nodes"], "name").contains("k8s-node1"));
    assert!(!strings(&simulation["after"]["slots"], "node").contains("k8s-node1"));
    let committed = |state: &str| simulation[state]["hosts"][0]["memory"]["committed"].as_u64().expect("known");
    assert_eq!(committed("before") - committed("after"), 48 << 30);
}

#[test]
fn every_drain_that_the_truth_calls_impossible_is_refused_with_a_reason_a_pod() {
    let world = World::new();
    let Some(snapshot) = recorded(&world, "today") else { return };
    let truth = truth("today");
    for (node, drain) in truth["drain"].as_object().expect("by node") {
        let simulation = simulated(&world, &snapshot, &["--remove-node", node, "--runs", "2"], 3);
        assert_eq!(drain["tsc_default"]["all_pods_fit"], false);
        assert_eq!(simulation["fits"], false, "{node}");
        for one in simulation["unplaceable"].as_array().expect("a list") {
            let reasons = one["reasons"].as_array().expect("a list");
            assert!(!reasons.is_empty() && one["message"].as_str().is_some_and(|text| text.starts_with("0/")), "{one}");
        }
    }
}

#[test]
fn free_slots_add_up_to_the_first_refusal() {
    let world = World::new();
    for (name, free) in [("today", 48), ("lun-incident", 37)] {
        let Some(snapshot) = recorded(&world, name) else { return };
        let simulation = simulated(&world, &snapshot, &["--add-pvcs", "5", "--size", "10Gi"], 0);
        let until = &simulation["until_refusal"];
        assert_eq!((until["while_parked"].as_u64(), until["dimension"].as_str()), (Some(free), Some("volume-slots")));
        // Volumes of parked workloads come back when these wake.
        let (count, latent) = (until["count"].as_u64().expect("a number"), until["latent"].as_u64().expect("a number"));
        assert!(count < free && free - count <= latent, "{until}");
        assert_eq!((simulation["fits"].as_bool(), simulation["verdict"].as_str()), (Some(true), Some("scheduler-places")));
        assert_eq!(simulation["placement"].as_array().map(Vec::len), Some(5));
        // Exactly at the edge: all of them fit, one more does not.
        let all = free.to_string();
        simulated(&world, &snapshot, &["--add-pvcs", &all, "--runs", "1"], 0);
        let more = simulated(&world, &snapshot, &["--add-pvcs", &(free + 1).to_string(), "--runs", "1"], 3);
        assert_eq!(more["unplaceable"].as_array().map(Vec::len), Some(1), "{}", more["unplaceable"]);
        assert_eq!(more["verdict"], "cannot-fit", "{}", more["because"]);
    }
}

#[test]
fn the_pod_of_the_lun_incident_meets_the_same_fate_again() {
    let world = World::new();
    let Some(snapshot) = recorded(&world, "lun-incident") else { return };
    let truth = truth("lun-incident");
    let failing = truth["storage"]["k8s-node1"]["va_failing"][0].as_str().expect("a volume");
    // The state before: the pod waits, and its volume is nowhere yet.
    let (mut before, _) = capplan_provision::store::snapshot::load(snapshot.as_ref()).expect("readable");
    let kube = &mut before.kube;
    let claim = kube
        .persistent_volumes
        .items()
        .iter()
        .find(|volume| volume.name.as_str() == failing)
        .and_then(|volume| volume.claim.clone())
        .expect("bound");
    if let capplan_model::Reading::Known(attachments) = &mut kube.volume_attachments {
        attachments.retain(|one| one.volume.as_ref().is_none_or(|volume| volume.as_str() != failing));
    }
    let mut waiting = Vec::new();
    if let capplan_model::Reading::Known(pods) = &mut kube.pods {
        for pod in pods.iter_mut().filter(|pod| !pod.is_terminal()) {
            if pod.claims.iter().any(|name| claim.0 == format!("{}/{name}", pod.namespace)) {
                waiting.push(pod.object_name().0);
                pod.node = None;
                pod.phase = capplan_model::kube::Phase::Pending;
            }
        }
    }
    assert_eq!(waiting.len(), 1, "one pod mounts it");
    let path = world.path("before.snapshot").display().to_string();
    capplan_provision::store::snapshot::save(&before, path.as_ref()).expect("writable");
    // With one of the others closed there is memory for it on the first worker only.
    let simulation = simulated(&world, &path, &["--cordon", "k8s-node2"], 3);
    let one = &simulation["unplaceable"][0];
    assert_eq!(
        (one["pod"].as_str(), one["volume"].as_str()),
        (Some(waiting[0].as_str()), Some(failing)),
        "{} {} {}",
        simulation["unplaceable"],
        simulation["still_pending"],
        simulation["placement"]
    );
    let reason = one["reasons"][0].as_str().expect("a reason");
    assert!(reason.starts_with("no free lun found on k8s-node1: its VM held 29 disks on the 29 slots"), "{reason}");
    // The scheduler saw room: it counts 27 of 28.
    assert!(simulation["placement"].to_string().contains(&waiting[0]));
}

#[test]
fn a_worker_that_no_host_has_memory_for_is_refused_and_one_that_fits_takes_pods() {
    let world = World::new();
    let Some(today) = recorded(&world, "today") else { return };
    let simulation = simulated(&world, &today, &["--add-worker"], 3);
    assert_eq!(simulation["unplaceable"][0]["worker"], "new-worker-1");
    assert!(simulation["unplaceable"][0]["reasons"][0].as_str().expect("a reason").contains("25.4 GiB available"));
    let small = simulated(&world, &today, &["--add-worker", "--memory", "16Gi", "--cores", "4"], 0);
    let row = |state: &Value, list: &str, key: &str| {
        let rows = state[list].as_array().expect("a list").clone();
        rows.into_iter().find(|row| row[key] == "new-worker-1").expect("the new worker")
    };
    // Without the label a new node advertises the plugin's default.
    assert_eq!(row(&small["after"], "slots", "node")["advertised"], 24);
    let node = row(&small["after"], "nodes", "name");
    assert_eq!(gib(&node["vm_memory"]), 16.0);
    let daemons = node["requests"].as_u64().expect("known");
    assert!(daemons > 1 << 30, "its DaemonSets take their part: {daemons}");
    let like = simulated(&world, &today, &["--add-worker", "--memory", "16Gi", "--like", "k8s-node2"], 0);
    assert_eq!(row(&like["after"], "slots", "node")["advertised"], 28);
}

#[test]
fn changes_are_played_in_the_order_of_the_command_line() {
    let world = World::new();
    let arguments = |changes: &[&str]| {
        let mut all = vec!["simulate", "--demo", "--format", "json", "--runs", "1"];
        all.extend(changes);
        world.run(&all).json()
    };
    let one = arguments(&["--cordon", "k8s-node3", "--remove-node", "k8s-node2"]);
    let other = arguments(&["--remove-node", "k8s-node2", "--cordon", "k8s-node3"]);
    assert_eq!(one["changes"][0], "cordon k8s-node3");
    assert_eq!(other["changes"][0], "remove k8s-node2");
    assert!(one["unplaceable"].as_array().map(Vec::len) > other["unplaceable"].as_array().map(Vec::len));
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_the_input_is_not_touched() {
    let world = World::new();
    let snapshot = world.path("demo.snapshot").display().to_string();
    let scenario = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/incident-lun-cap.toml");
    let text = |seed: &str| world.run(&["simulate", "--scenario", scenario, "--seed", seed]).ends(3).out;
    assert_eq!(text("7"), text("7"));
    let demo = capplan_model::scenario::Scenario::parse(include_str!("../scenarios/demo.toml")).expect("valid").snapshot();
    capplan_provision::store::snapshot::save(&demo, snapshot.as_ref()).expect("writable");
    let before = std::fs::read(&snapshot).expect("readable");
    world.run(&["simulate", "--snapshot", &snapshot, "--cold-boot", "--runs", "4"]);
    assert_eq!(std::fs::read(&snapshot).expect("readable"), before);
}

#[test]
fn the_incidents_come_out_as_they_did() {
    let world = World::new();
    let run = |name: &str, code: i32| {
        let path = format!("{}/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        world.run(&["simulate", "--scenario", &path, "--format", "json", "--runs", "50"]).ends(code).json()
    };
    let lun = run("incident-lun-cap", 3);
    assert!(lun["unplaceable"].to_string().contains("no free lun found on k8s-node1"));
    assert_eq!(lun["node_loss"][0]["fits_by_sum"], true, "memory was not what was short");
    let gpu = run("incident-gpu-starvation", 3);
    let starving: BTreeMap<&str, f64> = gpu["starving"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (one["pod"].as_str().expect("a name"), one["probability"].as_f64().expect("a share")))
        .collect();
    assert!(starving.get("apps/vision-k8s-gpu1-0").is_some_and(|share| *share > 0.0 && *share < 1.0), "{starving:?}");
    assert_eq!(gpu["verdict"], "fits-if-placed");
    let alarm = run("incident-n-minus-1", 0);
    assert_eq!((alarm["fits"].as_bool(), alarm["verdict"].as_str()), (Some(true), Some("scheduler-places")));
}

#[test]
fn a_sweep_turns_where_single_simulations_do() {
    let world = World::new();
    let Some(snapshot) = recorded(&world, "today") else { return };
    let sweep = world
        .run(&["simulate", "--snapshot", &snapshot, "--sweep", "workers 4..6 x pvcs 40..50:2", "--format", "json"])
        .done()
        .json();
    let fits: BTreeMap<(u64, u64), bool> = sweep["cells"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|cell| ((cell["at"][0].as_u64().expect("n"), cell["at"][1].as_u64().expect("n")), cell["probability"] == 1.0))
        .collect();
    assert_eq!(fits.len(), 18);
    assert!(fits[&(5, 48)] && !fits[&(5, 50)], "48 slots are free");
    assert!(!fits[&(4, 40)] && !fits[&(6, 40)], "one worker less leaves pods over, one more has no memory on the host");
}

#[test]
fn new_disks_are_held_against_the_pool_that_they_are_on() {
    let world = World::new();
    let grown = |changes: &[&str], code: i32| {
        let mut arguments = vec!["simulate", "--demo", "--format", "json"];
        arguments.extend(changes);
        world.run(&arguments).ends(code).json()
    };
    let simulation = grown(&["--add-worker", "--memory", "16Gi", "--add-pvcs", "2", "--size", "10Gi"], 0);
    let pool = &simulation["pools"][0];
    assert_eq!(pool["name"], "pve1/pve/data");
    assert_eq!((gib(&pool["volumes"]), gib(&pool["disks"])), (20.0, 64.0), "two volumes, and a disk as the other workers have");
    assert!((gib(&pool["used_after"]) - gib(&pool["used"]) - 84.0).abs() < 0.01);
    let simulation = grown(&["--add-pvcs", "2", "--size", "1Ti"], 6);
    assert_eq!((&simulation["verdict"], &simulation["fits"]), (&"undecided".into(), &false.into()));
    assert!(simulation["undecided"][0].as_str().is_some_and(|why| why.contains("pve1/pve/data holds the new disks")));
}

#[test]
fn volumes_of_other_drivers_take_no_slots() {
    let world = World::new();
    let Some(snapshot) = recorded(&world, "today") else { return };
    // Its class does not wait for the pod: the volume is there before.
    let simulation = simulated(&world, &snapshot, &["--add-pvcs", "60", "--storage-class", "nfs-truenas"], 0);
    assert_eq!(simulation["verdict"], "scheduler-places", "{}", simulation["undecided"]);
    assert_eq!((&simulation["spread"], &simulation["pools"]), (&Value::Null, &json!([])));
    assert_eq!(simulation["until_refusal"]["dimension"], "pods");
    assert_eq!(simulation["before"]["slots"], simulation["after"]["slots"]);
    let planned = |rule: &&Value| rule["id"] == "planned-volumes";
    let rules = simulation["after"]["rules"].as_array().expect("a list");
    assert!(rules.iter().find(planned).is_some_and(|rule| rule["evidence"]["value"] == 0.0), "no block volumes are planned");
}

#[test]
fn without_proxmox_no_volume_and_no_worker_is_certain() {
    let world = World::new();
    let lists = world.path("lists");
    std::fs::create_dir_all(&lists).expect("writable");
    let driver = "csi.proxmox.sinextra.dev";
    let amounts = json!({ "cpu": "8", "memory": "31Gi", "pods": "110" });
    let ready = json!([{ "type": "Ready", "status": "True" }]);
    for (name, items) in [
        (
            "nodes",
            json!([{
                "metadata": { "name": "w1" },
                "status": { "capacity": amounts, "allocatable": amounts, "conditions": ready },
            }]),
        ),
        (
            "storageclasses",
            json!([{ "metadata": { "name": "block" }, "provisioner": driver, "parameters": { "storage": "lvm" } }]),
        ),
        (
            "csinodes",
            json!([{
                "metadata": { "name": "w1" },
                "spec": { "drivers": [{ "name": driver, "nodeID": "w1", "allocatable": { "count": 29 } }] },
            }]),
        ),
        ("pods", json!([])),
        ("persistentvolumes", json!([])),
        ("persistentvolumeclaims", json!([])),
        ("volumeattachments", json!([])),
    ] {
        let list = json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items });
        std::fs::write(lists.join(format!("{name}.json")), list.to_string()).expect("writable");
    }
    let lists = lists.display().to_string();
    let run = |changes: &[&str], code: i32| {
        let mut arguments = vec!["simulate", "--from-lists", &lists, "--format", "json"];
        arguments.extend(changes);
        world.run(&arguments).ends(code).json()
    };
    assert_eq!(run(&["--add-pods", "2x1,1Gi"], 0)["verdict"], "scheduler-places", "pods alone are");
    for changes in [&["--add-pvcs", "2"][..], &["--add-worker"]] {
        let simulation = run(changes, 6);
        assert_eq!((&simulation["verdict"], &simulation["fits"]), (&"undecided".into(), &false.into()), "{changes:?}");
        assert_ne!(simulation["undecided"], json!([]));
        assert_eq!((&simulation["until_refusal"], &simulation["spread"]), (&Value::Null, &Value::Null));
    }
    let sweep = run(&["--sweep", "pvcs 0..40:20"], 0);
    let odds: Vec<&Value> = sweep["cells"].as_array().expect("a list").iter().map(|cell| &cell["probability"]).collect();
    assert_eq!(odds, [&json!(1.0), &Value::Null, &json!(0.0)], "40 are too many for the scheduler alone");
}

/// Workers of 32 GiB on `pve1`, each with these pods, as a scenario file.
fn workers(world: &World, name: &str, pods: &[&str]) -> String {
    let mut text = "format = 'capplan.scenario/1'\ntitle = 'x'\nnow = '2026-03-02T06:00:00Z'\n\
        [[hosts]]\nname = 'pve1'\nmemory = '256GiB'\navailable = '100GiB'\ncpus = 32\n"
        .to_owned();
    for (place, pods) in pods.iter().enumerate() {
        let number = place + 1;
        text += &format!(
            "[[nodes]]\nname = 'w{number}'\nvmid = 20{number}\nhost = 'pve1'\nmemory = '32GiB'\nallocatable = '30GiB'\n\
             cpus = 8\npods = [{pods}]\n"
        );
    }
    let path = world.path(&format!("{name}.toml"));
    std::fs::write(&path, text).expect("writable");
    path.display().to_string()
}

fn played(world: &World, scenario: &str, changes: &[&str], code: i32) -> Value {
    run(world, scenario, changes).ends(code).json()
}

fn run(world: &World, scenario: &str, changes: &[&str]) -> Outcome {
    let mut arguments = vec!["simulate", "--scenario", scenario, "--format", "json"];
    arguments.extend(changes);
    world.run(&arguments)
}

#[test]
fn a_pod_that_moves_twice_is_placed_and_counted_once() {
    let world = World::new();
    let pods = ["{ name = 'p', memory = '10GiB' }", "{ name = 'q', memory = '10GiB' }", "{ name = 'r', memory = '4GiB' }", ""];
    let scenario = workers(&world, "twice", &pods);
    let simulation = played(&world, &scenario, &["--remove-node", "w1", "--remove-node", "w2", "--runs", "8"], 0);
    let placed = simulation["placement"].as_array().expect("a list").len();
    assert_eq!(placed, strings(&simulation["placement"], "pod").len(), "{}", simulation["placement"]);
    // The same pods fill what is left to the last GiB: counted twice, they would not fit.
    let pods = ["{ name = 'p', memory = '16GiB' }", "{ name = 'q', memory = '4GiB' }", "{ name = 'r', memory = '10GiB' }"];
    let scenario = workers(&world, "full", &pods);
    played(&world, &scenario, &["--remove-node", "w1", "--remove-node", "w2", "--runs", "8"], 0);
}

#[test]
fn volumes_that_leave_a_node_free_their_slots_in_both_ledgers() {
    let world = World::new();
    let full = "{ name = 'db', count = 20, volumes = 1 }";
    let scenario = workers(&world, "full-slots", &[full, full]);
    let text = std::fs::read_to_string(&scenario).expect("readable").replace("cpus = 8\n", "cpus = 8\nadvertised = 20\n");
    std::fs::write(&scenario, text).expect("writable");
    let simulation = played(&world, &scenario, &["--cold-boot", "--runs", "5"], 0);
    assert_eq!(simulation["verdict"], "scheduler-places", "{}", simulation["because"]);
    // Taken off and put back again: as much room as before.
    let changes = ["--taint", "w1", "x:NoExecute", "--taint", "w1", "x-", "--add-pvcs", "1"];
    let simulation = played(&world, &scenario, &changes, 3);
    assert_eq!(simulation["until_refusal"]["count"], 0);
}

#[test]
fn two_additions_are_two() {
    let world = World::new();
    let scenario = workers(&world, "names", &["", ""]);
    let simulation = played(&world, &scenario, &["--add-pvcs", "3", "--add-pvcs", "4"], 0);
    assert_eq!(strings(&simulation["placement"], "pod").len(), 7);
    let attached: u64 =
        simulation["after"]["slots"].as_array().expect("a list").iter().filter_map(|row| row["attached"].as_u64()).sum();
    assert_eq!(attached, 7);
}

#[test]
fn a_failed_host_takes_its_new_workers_along_and_gets_no_more() {
    let world = World::new();
    let scenario = workers(&world, "host", &["{ name = 'p', memory = '1GiB' }"]);
    let simulation = played(&world, &scenario, &["--add-worker", "--fail-host", "pve1"], 3);
    assert_eq!(strings(&simulation["placement"], "node"), BTreeSet::new());
    let simulation = played(&world, &scenario, &["--fail-host", "pve1", "--add-worker"], 3);
    assert_eq!(strings(&simulation["placement"], "node"), BTreeSet::new());
    // One that joined and went again is not there afterwards.
    let simulation = played(&world, &scenario, &["--add-worker", "--remove-node", "new-worker-1"], 0);
    assert!(!strings(&simulation["after"]["nodes"], "name").contains("new-worker-1"));
    assert_eq!(simulation["before"]["slots"], simulation["after"]["slots"]);
}

#[test]
fn a_worker_holds_its_own_daemons_and_starts_on_its_host() {
    let world = World::new();
    let scenario = workers(&world, "small", &["{ name = 'agent', memory = '3GiB', cpu = '500m', daemon = true }"]);
    for (size, why) in [(["--memory", "4Gi"], "DaemonSets"), (["--cores", "33"], "32 threads")] {
        let mut changes = vec!["--add-worker"];
        changes.extend(size);
        let simulation = played(&world, &scenario, &changes, 3);
        assert_eq!(simulation["verdict"], "cannot-fit");
        assert!(simulation["because"][0].as_str().is_some_and(|text| text.contains(why)), "{}", simulation["because"]);
    }
    assert_eq!(played(&world, &scenario, &["--add-worker", "--memory", "8Gi"], 0)["fits"], true);
}

#[test]
fn a_taint_that_goes_again_brings_daemons_back() {
    let world = World::new();
    let Some(snapshot) = recorded(&world, "today") else { return };
    let pods = |state: &Value| -> u64 {
        state["nodes"].as_array().expect("a list").iter().map(|node| node["pods"].as_u64().expect("a number")).sum()
    };
    let away = ["--taint", "k8s-node1", "x=y:NoExecute", "--format", "json"];
    let mut arguments = vec!["simulate", "--snapshot", &snapshot];
    arguments.extend(away);
    let gone = world.run(&arguments).json();
    arguments.extend(["--taint", "k8s-node1", "x-"]);
    let back = world.run(&arguments).json();
    assert!(pods(&gone["after"]) < pods(&gone["before"]), "some of its daemons do not tolerate the taint");
    assert_eq!(pods(&back["after"]), pods(&back["before"]));
}

#[test]
fn no_proof_holds_pods_back_from_where_they_might_have_gone() {
    let world = World::new();
    let scenario = workers(&world, "late", &["", ""]);
    // The first may go to w1 before it is closed, or to w2 and leave nothing for the second one.
    let changes = ["--add-pods", "1x1m,16Gi", "--cordon", "w1", "--add-pods", "1x1m,20Gi", "--runs", "1"];
    let verdicts: BTreeSet<String> = ["1", "2", "3", "4", "5", "6"]
        .iter()
        .map(|seed| {
            let seeded = [&changes[..], &["--seed", seed]].concat();
            run(&world, &scenario, &seeded).json()["verdict"].as_str().expect("a verdict").to_owned()
        })
        .collect();
    assert_eq!(verdicts, BTreeSet::from(["scheduler-places".to_owned(), "undecided".to_owned()]));
    // One that pushes another aside fits although the first look finds no room.
    let pods = ["{ name = 'low', memory = '20GiB' }", "{ name = 'high', memory = '20GiB', priority = 10 }"];
    let scenario = workers(&world, "pushed", &pods);
    let simulation = played(&world, &scenario, &["--remove-node", "w2"], 3);
    assert_eq!(simulation["preempted"][0]["pod"], "apps/low-w1-0", "{}", simulation["preempted"]);
    assert_eq!(simulation["verdict"], "cannot-fit", "40 GiB do not fit 30, whoever goes first: {}", simulation["because"]);
}

#[test]
fn what_could_be_pushed_aside_may_stay_where_it_is() {
    let world = World::new();
    let pods = ["{ name = 'home', memory = '6GiB' }", "{ name = 'low', memory = '10GiB' }", ""];
    let scenario = workers(&world, "homes", &pods);
    let manifest = world.path("two.yaml");
    let pod = |name: &str, priority: u32, memory: &str| {
        format!(
            "kind: Pod\nmetadata: {{name: {name}}}\nspec: {{priority: {priority}, containers: [{{name: c, image: i, \
             resources: {{requests: {{memory: {memory}}}}}}}]}}\n---\n"
        )
    };
    // Both want much room; `home` does not count against it: its node is closed to others, not to itself.
    std::fs::write(&manifest, pod("a", 200, "28Gi") + &pod("b", 100, "25Gi")).expect("writable");
    let path = manifest.display().to_string();
    let changes = ["--cordon", "w1", "--add-pods", &path];
    let simulation = played(&world, &scenario, &changes, 3);
    assert_eq!(simulation["verdict"], "cannot-fit", "`low` finds no place: {}", simulation["because"]);
    std::fs::write(&manifest, pod("a", 200, "19Gi") + &pod("b", 100, "20Gi")).expect("writable");
    let simulation = run(&world, &scenario, &changes).json();
    assert_ne!(simulation["verdict"], "cannot-fit", "`low` fits beside `b`: {}", simulation["because"]);
}

#[test]
fn what_is_over_its_limit_already_is_no_proof() {
    let world = World::new();
    // 34 GiB on 30: the node's own pods stay, whatever comes.
    let pods = ["{ name = 'own', count = 2, memory = '17GiB' }", "{ name = 'low', memory = '10GiB' }", ""];
    let scenario = workers(&world, "over", &pods);
    let manifest = world.path("high.yaml");
    let text = "kind: Pod\nmetadata: {name: a}\nspec: {priority: 10, containers: [{name: c, image: i, resources: \
        {requests: {memory: 29Gi}}}]}\n---\nkind: Pod\nmetadata: {name: b}\nspec: {priority: 10, containers: [{name: c, \
        image: i, resources: {requests: {memory: 19Gi}}}]}\n";
    std::fs::write(&manifest, text).expect("writable");
    let path = manifest.display().to_string();
    for seed in ["1", "2", "3"] {
        let changes = ["--cordon", "w1", "--add-pods", &path, "--runs", "1", "--seed", seed];
        assert_ne!(run(&world, &scenario, &changes).json()["verdict"], "cannot-fit");
    }
}

#[test]
fn workers_that_would_help_are_those_that_would() {
    let world = World::new();
    let full = "{ name = 'web', count = 2, memory = '14GiB' }";
    let scenario = workers(&world, "help", &[full, full]);
    let needed = &played(&world, &scenario, &["--remove-node", "w1"], 3)["workers_needed"];
    assert_eq!((&needed["workers"], &needed["pods"], &needed["hosts_take"]), (&json!(1), &json!(2), &json!(3)));
    let manifest = world.path("tied.yaml");
    let text = "kind: Pod\nmetadata: {name: a}\nspec: {nodeSelector: {disk: ssd}, containers: [{name: c, image: i}]}\n";
    std::fs::write(&manifest, text).expect("writable");
    let simulation = played(&world, &scenario, &["--add-pods", &manifest.display().to_string()], 3);
    assert_eq!(simulation["workers_needed"]["pods"], 0, "a new worker has no such label");
}

#[test]
fn a_worker_goes_where_its_threads_are() {
    let world = World::new();
    let text = "format = 'capplan.scenario/1'\ntitle = 'x'\nnow = '2026-03-02T06:00:00Z'\n\
        [[hosts]]\nname = 'small'\nmemory = '128GiB'\navailable = '90GiB'\ncpus = 8\n\
        [[hosts]]\nname = 'large'\nmemory = '128GiB'\navailable = '60GiB'\ncpus = 32\n\
        [[nodes]]\nname = 'w1'\nvmid = 201\nhost = 'small'\nmemory = '32GiB'\ncpus = 4\n";
    let scenario = world.path("threads.toml").display().to_string();
    std::fs::write(&scenario, text).expect("writable");
    assert_eq!(played(&world, &scenario, &["--add-worker", "--cores", "16", "--memory", "16Gi"], 0)["fits"], true);
    assert_eq!(played(&world, &scenario, &["--add-worker", "--cores", "33"], 3)["verdict"], "cannot-fit");
}

#[test]
fn the_last_control_plane_node_is_no_node_like_others() {
    let world = World::new();
    let simulation = world.run(&["simulate", "--demo", "--fail-node", "k8s-control", "--format", "json"]).ends(6).json();
    assert_eq!(simulation["verdict"], "undecided");
    assert!(simulation["undecided"][0].as_str().is_some_and(|why| why.contains("without the API")));
    let arguments = ["simulate", "--demo", "--remove-node", "k8s-control", "--fail-host", "pve1", "--format", "json"];
    assert_eq!(world.run(&arguments).json()["fits"], false);
}

#[test]
fn the_number_until_the_first_refusal_is_where_playing_it_turns() {
    let world = World::new();
    let until = |count: &str, code| {
        let arguments = ["simulate", "--demo", "--add-pvcs", count, "--runs", "4", "--format", "json"];
        world.run(&arguments).ends(code).json()["until_refusal"]["count"].as_u64().expect("a number")
    };
    let count = until("1", 0);
    assert_eq!((until(&count.to_string(), 0), until(&(count + 1).to_string(), 3)), (count, count));
}

#[test]
fn a_failure_has_its_timeline() {
    let world = World::new();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/incident-lun-cap.toml");
    for (mode, expected) in [
        ("notready", vec![("failure", 0), ("taint", 0), ("eviction", 300), ("detach", 304)]),
        ("partition", vec![("failure", 0), ("taint", 50), ("eviction", 350), ("stateful", 350), ("force-detach", 710)]),
        ("power-off", vec![("failure", 0), ("taint", 50), ("eviction", 350), ("stateful", 350), ("force-detach", 710)]),
    ] {
        let arguments = ["simulate", "--scenario", path, "--fail-node", "k8s-node4", "--mode", mode, "--format", "json"];
        let simulation = world.run(&arguments).json();
        let rows: Vec<(&str, i64)> = simulation["timeline"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|row| (row["event"].as_str().expect("a code"), row["at_seconds"].as_i64().expect("seconds")))
            .collect();
        assert_eq!(rows, expected, "{mode}");
    }
}

#[test]
fn what_names_nothing_is_refused_by_name_and_changes_nothing() {
    let world = World::new();
    for (changes, code, texts) in [
        (&["--fail-node", "nowhere"][..], 2, &["there is no node nowhere", "k8s-node1"][..]),
        (&["--fail-host", "nowhere"], 2, &["there is no host nowhere", "pve1"]),
        (&["--add-pvcs", "1", "--storage-class", "no"], 2, &["there is no StorageClass no"]),
        (&["--add-pvcs", "1", "--pods-from", "deploy/no"], 2, &["there is no workload deploy/no"]),
        (&["--add-pods", "no-such-file.yaml"], 2, &["neither a file nor COUNTxREQUESTS"]),
        (&["--add-pods", "3xbanana"], 2, &["`banana`"]),
        (&["--taint", "k8s-node1", "x"], 2, &["`x` is not a taint"]),
        (&["--sweep", "nodes 1..2"], 2, &["is not a sweep"]),
        (&["--sweep", "pvcs 5..2"], 2, &["FROM..TO"]),
        (&["--sweep", "pvcs 0..4000000000"], 2, &["too many cells"]),
        (&["--add-pvcs", "4000000000"], 2, &["at most 150000"]),
        (&["--add-worker", "--count", "1000000"], 2, &["at most 5000"]),
        (&["--size", "1Gi"], 2, &["--add-pvcs"]),
        (&[], 2, &["nothing is to change", "hint"]),
    ] {
        let mut arguments = vec!["simulate", "--demo"];
        arguments.extend(changes);
        world.run(&arguments).ends(code).says(texts);
    }
}

#[test]
fn the_json_is_what_the_published_schemas_say() {
    let world = World::new();
    let check = |name: &str, instance: &Value| {
        let path = format!("{}/schemas/capplan.{name}.1.json", env!("CARGO_MANIFEST_DIR"));
        let schema: Value = serde_json::from_slice(&std::fs::read(path).expect("published")).expect("JSON");
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let errors: Vec<String> =
            validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path)).collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
    };
    for changes in [
        &["--add-pvcs", "3"][..],
        &["--fail-host", "pve1", "--mode", "partition"],
        &["--add-worker", "--count", "2", "--add-pods", "12x500m,1Gi"],
        &["--reboot-each", "--cold-boot", "--wake-parked"],
    ] {
        let mut arguments = vec!["simulate", "--demo", "--format", "json", "--runs", "2"];
        arguments.extend(changes);
        check("simulation", &world.run(&arguments).json());
    }
    check("sweep", &world.run(&["simulate", "--demo", "--sweep", "pvcs 0..40:4", "--format", "json"]).done().json());
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios")).expect("readable") {
        let path = entry.expect("readable").path();
        let text = std::fs::read_to_string(&path).expect("readable");
        let scenario: toml::Value = toml::from_str(&text).expect("TOML");
        check("scenario", &serde_json::to_value(scenario).expect("representable"));
    }
}

#[test]
fn a_volume_in_use_on_another_node_is_refused_although_the_scheduler_sees_room() {
    let world = World::new();
    let manifest = world.write(
        "second.yaml",
        "
kind: Pod
metadata: {name: second, namespace: apps}
spec:
  nodeSelector: {kubernetes.io/hostname: k8s-node1}
  containers: [{name: c, image: x}]
  volumes: [{name: data, persistentVolumeClaim: {claimName: data-00000018}}]
",
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/incident-lun-cap.toml");
    let simulation = world.run(&["simulate", "--scenario", path, "--add-pods", &manifest, "--format", "json"]).ends(3).json();
    let reason = simulation["unplaceable"][0]["reasons"][0].as_str().expect("a reason");
    assert_eq!(reason, "placed on k8s-node1, but its volume is in use on k8s-node2 (ReadWriteOnce)");
}

#[test]
fn a_manifest_is_placed_and_what_is_not_simulated_is_flagged() {
    let world = World::new();
    let manifest = world.write(
        "pods.yaml",
        "
kind: Deployment
metadata: {name: web, namespace: apps}
spec:
  replicas: 3
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: web, resources: {requests: {cpu: 250m, memory: 64Mi}}}]}
",
    );
    let fits = world.run(&["simulate", "--demo", "--add-pods", &manifest, "--format", "json"]).done().json();
    assert_eq!(strings(&fits["placement"], "pod"), BTreeSet::from(["apps/web-0", "apps/web-1", "apps/web-2"]));
    let devices = world.write(
        "device.yaml",
        "{kind: Pod, metadata: {name: device}, spec: {containers: [{name: c, image: x}], resourceClaims: [{name: gpu}]}}",
    );
    let flagged = world.run(&["simulate", "--demo", "--add-pods", &devices, "--format", "json"]).ends(6).json();
    assert_eq!((flagged["fits"].as_bool(), flagged["verdict"].as_str()), (Some(false), Some("undecided")));
    assert_eq!(flagged["flagged"][0]["feature"], "resourceClaims");
}

#[test]
fn unknown_is_never_a_yes() {
    let world = World::new();
    let scenario = |unknown: &str| {
        let text = include_str!("../scenarios/incident-n-minus-1.toml");
        world.write("unknown.toml", text.replace("[[hosts]]", &format!("[unknown]\n{unknown} = \"forbidden\"\n\n[[hosts]]")))
    };
    let path = scenario("volumeattachments");
    let outcome = world.run(&["simulate", "--scenario", &path, "--add-pvcs", "1"]).ends(6);
    assert!(outcome.out.contains("volumeattachments"), "{}", outcome.out);
    let path = scenario("pods");
    world.run(&["simulate", "--scenario", &path, "--add-pvcs", "1"]).ends(6).says(&["unknown", "forbidden"]);
}
