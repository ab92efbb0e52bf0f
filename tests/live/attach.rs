//! Volumes go through both planes: the real controllers want them attached, the attacher plugs them in.

use std::time::{Duration, Instant};

use capplan_rig::kube::{Api, Call};
use capplan_rig::plant::MissingOwners;
use capplan_rig::{Failure, Rig, objects};
use serde_json::{Value, json};

use crate::support::{row, unknowns};
use crate::{Tested, scenario, skipped, skipped_without_own_plane, world};

const PATIENCE: Duration = Duration::from_secs(60);
const ATTACHMENTS: &str = "/apis/storage.k8s.io/v1/volumeattachments";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn wait<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>, Failure>) -> Result<T, Failure> {
    let start = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            return Err(Failure::new(format!("not after {} s: {what}", PATIENCE.as_secs())));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A claim with a volume bound to it, made as proxmox-csi makes one, and a pod that uses it on a node.
fn run_pod(rig: &mut Rig, name: &str, node: &str) -> Result<(), Failure> {
    let pv = format!("pvc-{name}");
    rig.double()?.operator().change(
        http::Method::POST,
        "/nodes/pve1/storage/local-lvm/content",
        &[("vmid", "9999"), ("filename", &format!("vm-9999-{pv}")), ("size", "1G")],
    )?;
    let api = rig.api();
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
                       "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "", "volumeName": pv,
                                "resources": {"requests": {"storage": "1Gi"}}}});
    let claim = api.call(Call::post("/api/v1/namespaces/default/persistentvolumeclaims", claim))?;
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": pv},
        "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
                 "csi": {"driver": "csi.proxmox.sinextra.dev", "volumeHandle": format!("lab/pve1/local-lvm/vm-9999-{pv}")},
                 "claimRef": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": "default", "name": name,
                              "uid": claim["metadata"]["uid"]}}});
    api.call(Call::post("/api/v1/persistentvolumes", volume))?;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": name},
        "spec": {"nodeName": node, "tolerations": [{"operator": "Exists"}],
                 "containers": [{"name": "all", "image": "registry.example/rig:1"}],
                 "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": name}}]}});
    api.call(Call::post(PODS, pod)).map(drop)
}

/// The VolumeAttachment of a volume.
fn attachment(api: &Api, name: &str) -> Result<Option<Value>, Failure> {
    let pv = format!("pvc-{name}");
    Ok(api.list(ATTACHMENTS)?.into_iter().find(|one| one["spec"]["source"]["persistentVolumeName"] == pv))
}

/// Slots of a VM that hold a volume.
fn slots(rig: &mut Rig, vmid: u32, name: &str) -> Result<Vec<String>, Failure> {
    let config = rig.double()?.guest(vmid)?["config"].clone();
    let disks = config.as_object().expect("options").iter();
    let holds = |value: &Value| value.as_str().is_some_and(|text| text.starts_with(&format!("local-lvm:vm-9999-pvc-{name}")));
    Ok(disks.filter(|(key, value)| key.starts_with("scsi") && holds(value)).map(|(key, _)| key.clone()).collect())
}

fn phase(api: &Api, name: &str) -> Result<String, Failure> {
    Ok(api.get(&format!("{PODS}/{name}"))?["status"]["phase"].as_str().unwrap_or_default().to_owned())
}

fn mode(api: &Api, node: &str, mode: Option<&str>) -> Result<(), Failure> {
    let change = json!({"metadata": {"annotations": {"rig.capplan.test/attacher": mode}}});
    api.call(Call::patch(format!("/api/v1/nodes/{node}"), change)).map(drop)
}

/// A rig with two workers of a host: `w1` has 25 volumes attached, `w2` has 10.
fn started(grace: Duration) -> Result<Rig, Failure> {
    let mut rig = Rig::start_with_grace(grace)?;
    let snapshot = scenario("slots-25");
    // The scenario's attachments belong to no pods: the real controller would detach them.
    let all = objects::of(&snapshot).into_iter().filter(|one| one["kind"] != "VolumeAttachment");
    rig.plant(all.collect(), MissingOwners::Drop)?;
    rig.start_double(&snapshot)?;
    rig.start_machines(&["--adopt", "--lease-seconds", "2"])?;
    rig.start_controllers()?;
    Ok(rig)
}

#[test]
fn a_pods_volume_is_plugged_into_the_lowest_free_slot_and_unplugged_with_it() -> Tested {
    if skipped() {
        return Ok(());
    }
    let mut rig = started(Duration::from_secs(50))?;
    let api = rig.api().clone();
    run_pod(&mut rig, "one", "w2")?;
    wait("the pod runs", || Ok((phase(&api, "one")? == "Running").then_some(())))?;
    // 10 of the scenario's volumes are on scsi1 to scsi10.
    assert_eq!(slots(&mut rig, 202, "one")?, ["scsi11"]);
    let found = attachment(&api, "one")?.expect("attached");
    assert_eq!(found["status"]["attached"], true);
    assert_eq!(found["status"]["attachmentMetadata"]["lun"], "11");
    let node = api.get("/api/v1/nodes/w2")?;
    assert!(node["status"]["volumesInUse"].to_string().contains("pvc-one"), "{}", node["status"]["volumesInUse"]);

    api.call(Call::delete(format!("{PODS}/one")))?;
    wait("the volume is detached", || Ok(attachment(&api, "one")?.is_none().then_some(())))?;
    assert_eq!(slots(&mut rig, 202, "one")?, [] as [String; 0]);

    // A ghost: the attachment goes, the disk stays.
    mode(&api, "w2", Some("ghost"))?;
    run_pod(&mut rig, "two", "w2")?;
    wait("the pod runs", || Ok((phase(&api, "two")? == "Running").then_some(())))?;
    api.call(Call::delete(format!("{PODS}/two")))?;
    wait("the attachment goes", || Ok(attachment(&api, "two")?.is_none().then_some(())))?;
    assert_eq!(slots(&mut rig, 202, "two")?, ["scsi11"]);
    let report = world(&mut rig)?.run(&["report", "--format", "json", "--no-history"]).done().json();
    let w2 = row(&report["slots"], "node", "w2");
    assert!(w2["ghosts"].to_string().contains("pvc-two"), "{w2}");
    assert!(unknowns(&report).iter().all(|what| !what.contains("slots")), "{:?}", unknowns(&report));

    // A silent hot-plug failure: attached, says Kubernetes; the VM has no such disk.
    mode(&api, "w2", Some("silent-hotplug"))?;
    run_pod(&mut rig, "three", "w2")?;
    wait("it is called attached", || Ok(attachment(&api, "three")?.filter(|one| one["status"]["attached"] == true)))?;
    assert_eq!(slots(&mut rig, 202, "three")?, [] as [String; 0]);
    let report = world(&mut rig)?.run(&["report", "--format", "json", "--no-history"]).done().json();
    assert!(
        report["findings"].to_string().contains("duplicate property"),
        "the failed task is a finding: {}",
        report["findings"]
    );
    mode(&api, "w2", None)?;

    assert_eq!(rig.double()?.violations()?, [] as [Value; 0]);
    Ok(())
}

#[test]
fn the_thirtieth_volume_finds_no_free_slot() -> Tested {
    if skipped() {
        return Ok(());
    }
    let mut rig = started(Duration::from_secs(50))?;
    let api = rig.api().clone();
    // 25 slots of w1 are taken: four more fit.
    for number in 0..5 {
        run_pod(&mut rig, &format!("pod-{number}"), "w1")?;
    }
    let refused = wait("one is refused", || {
        let all = api.list(ATTACHMENTS)?;
        Ok(all.into_iter().find(|one| one["status"]["attachError"].is_object()))
    })?;
    assert_eq!(refused["status"]["attachError"]["message"], "rpc error: code = Internal desc = no free lun found");
    wait("the others run", || {
        let running = (0..5).filter(|number| phase(&api, &format!("pod-{number}")).is_ok_and(|phase| phase == "Running")).count();
        Ok((running == 4).then_some(()))
    })?;
    let report = world(&mut rig)?.run(&["report", "--format", "json", "--no-history"]).done().json();
    assert!(report["findings"].to_string().contains("no free lun found"), "{}", report["findings"]);
    Ok(())
}

#[test]
fn a_machine_without_power_is_a_node_that_is_not_ready() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let mut rig = started(Duration::from_secs(8))?;
    let api = rig.api().clone();
    let ready = |api: &Api, name: &str| -> Result<String, Failure> {
        let node = api.get(&format!("/api/v1/nodes/{name}"))?;
        Ok(row(&node["status"]["conditions"], "type", "Ready")["status"].as_str().unwrap_or_default().to_owned())
    };
    rig.double()?.control().patch("/guests/202", &json!({"power": "stopped"}))?;
    wait("w2 is not heard of", || Ok((ready(&api, "w2")? == "Unknown").then_some(())))?;
    assert_eq!(ready(&api, "w1")?, "True");
    let taints = wait("w2 is tainted", || Ok(api.get("/api/v1/nodes/w2")?["spec"]["taints"].as_array().cloned()))?;
    assert!(taints.iter().any(|taint| taint["key"] == "node.kubernetes.io/unreachable"), "{taints:?}");
    rig.double()?.control().patch("/guests/202", &json!({"power": "running"}))?;
    wait("w2 is back", || Ok((ready(&api, "w2")? == "True").then_some(())))
}
