//! What must never be lost is not lost: disks that something else refers to, guests that somebody protects, and
//! whatever changes between the last look and the change.

use std::fs::File;
use std::process::Child;
use std::time::{Duration, Instant};

use capplan_rig::kube::Call;
use capplan_rig::operator::Operator;
use capplan_rig::plant::MissingOwners;
use capplan_rig::{Failure, Rig};
use serde_json::{Value, json};

use crate::apply::{done, give_up_to_destroy, next_out, started};
use crate::support::World;
use crate::{Tested, printed_roles, skipped, skipped_without_own_plane};

const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/capplan";

fn remove(node: &str) -> [&str; 7] {
    ["apply", "remove-worker", node, "--destroy", "--override", "test", "--yes"]
}

/// A disk that the VM owns and has detached: `unused0`.
fn left_behind(operator: &Operator, vmid: u32) -> Result<String, Failure> {
    operator.configure("pve1", vmid, &[("scsi5", "local-lvm:1")])?;
    operator.configure("pve1", vmid, &[("delete", "scsi5")])?;
    let config = operator.get(&format!("/nodes/pve1/qemu/{vmid}/config"))?;
    Ok(config["unused0"].as_str().expect("it is kept").to_owned())
}

#[test]
fn a_destroy_is_refused_before_step_1_for_whatever_would_be_lost() -> Tested {
    if skipped() {
        return Ok(());
    }
    let (mut rig, world) = started(3)?;
    let (node, vmid) = next_out(&rig)?;
    give_up_to_destroy(&mut rig, vmid)?;
    let operator = rig.double()?.operator().clone();
    let other = if vmid == 201 { 202 } else { 201 };
    let disk = left_behind(&operator, vmid)?;
    let name = disk.split_once(':').expect("a storage").1.to_owned();
    let before = rig.double()?.requests()?.len();

    // A volume of whatever driver has it as its handle, and nobody uses it right now.
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "archive"}, "spec": {
        "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
        "csi": {"driver": "other.example", "volumeHandle": format!("pve/pve/local-lvm/{name}")}}});
    rig.api().call(Call::post("/api/v1/persistentvolumes", volume))?;
    world.run(&remove(&node)).ends(4).says(&[&disk, "PersistentVolume archive has it as its handle", "nothing was changed"]);
    rig.api().call(Call::delete("/api/v1/persistentvolumes/archive"))?;

    // Another guest names it: in force, or in a snapshot.
    operator.configure("pve1", other, &[("scsi7", &disk)])?;
    world.run(&remove(&node)).ends(4).says(&[&disk, &format!("guest {other}"), "as scsi7", "nothing was changed"]);
    operator.configure("pve1", other, &[("delete", "scsi7")])?;
    rig.double()?.change(other, &json!({"snapshots": {"before": {"scsi7": disk}}}))?;
    world.run(&remove(&node)).ends(4).says(&[&disk, "in its snapshot before", "nothing was changed"]);
    rig.double()?.change(other, &json!({"snapshots": {}}))?;

    // Its owner protects it; the HA manager manages it, whether it has looked already or not; it has snapshots.
    operator.configure("pve1", vmid, &[("protection", "1")])?;
    world.run(&remove(&node)).ends(4).says(&[&format!("qm set {vmid} --protection 0"), "nothing was changed"]);
    operator.configure("pve1", vmid, &[("protection", "0")])?;
    for state in ["started", "not looked at"] {
        rig.double()?.change(vmid, &json!({"ha": state}))?;
        world.run(&remove(&node)).ends(4).says(&[&format!("ha-manager remove vm:{vmid}"), "nothing was changed"]);
        // Without a destroy as well: a shutdown of it is a request to its manager.
        let keep = ["apply", "remove-worker", &node, "--override", "test", "--yes"];
        world.run(&keep).ends(4).says(&[&format!("ha-manager remove vm:{vmid}"), "nothing was changed"]);
    }
    rig.double()?.change(vmid, &json!({"ha": null}))?;
    rig.double()?.change(vmid, &json!({"snapshots": {"upgrade": {"scsi0": format!("local-lvm:vm-{vmid}-disk-0")}}}))?;
    world.run(&remove(&node)).ends(4).says(&["snapshot upgrade", "--with-snapshots", "nothing was changed"]);

    // Nothing of all that reached the VM, nor its node.
    let requests = rig.double()?.requests()?;
    let ours = || requests[before..].iter().filter(|one| one["user"].as_str().is_some_and(|user| user.starts_with("capplan")));
    assert!(ours().count() > 0, "{:?}", requests.last());
    let changes: Vec<&Value> = ours().filter(|one| one["method"] != "GET").collect();
    assert!(changes.is_empty(), "{changes:?}");
    assert_eq!(rig.api().list("/api/v1/nodes")?.len(), 3);

    // Told so, the snapshot goes with it; everything that is its own does, and nothing else.
    let agreed = ["apply", "remove-worker", &node, "--destroy", "--with-snapshots", "--override", "test", "--yes"];
    world.run(&agreed).done();
    assert!(rig.double()?.guests()?.iter().all(|guest| guest["vmid"] != vmid));
    let content = operator.get("/nodes/pve1/storage/local-lvm/content")?;
    let left = content.as_array().into_iter().flatten().filter_map(|one| one["volid"].as_str());
    let left: Vec<&str> = left.filter(|volume| volume.contains(&format!("vm-{vmid}-"))).collect();
    assert!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn a_run_that_is_interrupted_says_resume_and_goes_by_the_clock() -> Tested {
    use rustix::process::{Pid, Signal, kill_process};

    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, mut world, mut child, vmid) = at_the_last_step(8.0)?;
    kill_process(Pid::from_child(&child.0), Signal::INT).expect("a child of ours");
    let (code, said) = ended(&mut child, &world);
    assert_eq!(code, Some(5), "{said}");
    let hint = said.lines().find(|line| line.contains("interrupted by SIGINT")).expect("it says so");
    assert!(hint.contains("step") && said.contains("capplan resume 2"), "{said}");
    assert_eq!(done(&rig.double()?.requests()?, "DELETE", &format!("/qemu/{vmid}")), 0);
    // Its lease is given back, so nobody has to wait; an instant of a recording does not make a gate pass.
    assert_eq!(rig.api().get(LEASE)?["spec"]["holderIdentity"], Value::Null);
    rig.gate()?.heal()?;
    world.set("CAPPLAN_NOW", "2020-01-01T00:00:00Z");
    world.run(&["resume"]).done().says(&["CAPPLAN_NOW is not used here"]);
    assert!(rig.double()?.guests()?.iter().all(|guest| guest["vmid"] != vmid));
    assert!(world.run(&["doctor"]).err.contains("CAPPLAN_NOW is not used here"));
    Ok(())
}

/// A run in the background, which ends with its test.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A rig whose tool talks through the gate, a worker that it may destroy, and a removal that has come to its last step,
/// where a list of Kubernetes takes long.
fn at_the_last_step(delay: f64) -> Result<(Rig, World, Running, u32), Failure> {
    let (mut rig, mut world) = started(3)?;
    rig.plant(printed_roles(), MissingOwners::Drop)?;
    rig.start_gate()?;
    world.set("KUBECONFIG", rig.account("capplan-apply")?.display().to_string());
    let (node, vmid) = next_out(&rig)?;
    give_up_to_destroy(&mut rig, vmid)?;
    let said = File::create(world.path("said")).expect("a file of ours");
    let mut child = Running(world.command(&remove(&node)).stderr(said).spawn().expect("it starts"));
    let told = |word: &str| std::fs::read_to_string(world.path("said")).expect("a file of ours").contains(word);
    let begun = Instant::now();
    let mut slow = false;
    while !told("] destroy VM") {
        if told("] shut down VM") && !slow {
            slow = true;
            rig.gate()?.fail(&json!({"method": "GET", "path": "/api/v1/persistentvolumes", "times": 50, "delay": delay}))?;
        }
        assert!(child.0.try_wait().expect("a child").is_none(), "it ended early");
        assert!(begun.elapsed() < Duration::from_secs(120), "it never came to the last step");
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok((rig, world, child, vmid))
}

/// How a child ended, and what it said.
fn ended(child: &mut Running, world: &World) -> (Option<i32>, String) {
    let status = child.0.wait().expect("a child");
    (status.code(), std::fs::read_to_string(world.path("said")).expect("a file of ours"))
}

#[test]
fn what_changes_between_the_reading_and_the_destroy_stops_it() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world, mut child, vmid) = at_the_last_step(3.0)?;
    // The configuration was read by now, and the slow list still is.
    std::thread::sleep(Duration::from_millis(1500));
    let operator = rig.double()?.operator().clone();
    operator.change(http::Method::PUT, &format!("/nodes/pve1/qemu/{vmid}/config"), &[("delete", "tags")])?;
    operator.configure("pve1", vmid, &[("scsi9", "local-lvm:1")])?;
    let (code, said) = ended(&mut child, &world);
    assert!(code == Some(5) && said.contains("no tag `capplan`"), "{code:?}: {said}");
    let config = rig.double()?.guest(vmid)?["config"].clone();
    assert!(config["scsi9"].is_string() && config["scsi0"].is_string(), "{config}");
    assert_eq!(done(&rig.double()?.requests()?, "DELETE", &format!("/qemu/{vmid}")), 0);
    Ok(())
}

#[test]
fn a_lease_that_is_lost_right_before_a_destroy_stops_it() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world, mut child, vmid) = at_the_last_step(8.0)?;
    let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string();
    let other = json!({"spec": {"holderIdentity": "me@elsewhere:/state", "renewTime": now}});
    rig.api().call(Call::patch(LEASE, other))?;
    let (code, said) = ended(&mut child, &world);
    assert!(code == Some(5) && said.contains("lease capplan of kube-system is lost"), "{code:?}: {said}");
    assert_eq!(done(&rig.double()?.requests()?, "DELETE", &format!("/qemu/{vmid}")), 0);
    assert_eq!(rig.api().get(LEASE)?["spec"]["holderIdentity"], "me@elsewhere:/state", "another's lease is not given back");
    // Once the other has given it back, the run goes on.
    rig.gate()?.heal()?;
    rig.api().call(Call::patch(LEASE, json!({"spec": {"holderIdentity": null}})))?;
    world.run(&["resume"]).done();
    assert!(rig.double()?.guests()?.iter().all(|guest| guest["vmid"] != vmid));
    Ok(())
}
