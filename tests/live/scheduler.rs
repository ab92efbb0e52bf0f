//! The real scheduler's choices, as part 3 of the product is measured by them.

use std::time::Duration;

use capplan_rig::kube::Call;
use capplan_rig::placement::{self, Fate, Move, play};
use capplan_rig::plant::MissingOwners;
use capplan_rig::{Rig, objects};
use serde_json::{Value, json};

use crate::{Tested, scenario, skipped_without_own_plane};

const PATIENCE: Duration = Duration::from_secs(60);

fn pod(name: &str, memory: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "default", "name": name},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "all", "image": "registry.example/rig:1", "resources": {"requests": {"memory": memory}}}]},
    })
}

#[test]
fn the_scheduler_places_what_fits_and_says_why_the_rest_does_not() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let snapshot = scenario("slots-25");
    let submit = Move::Submit(vec![pod("small", "1Gi"), pod("huge", "100Gi")]);
    let placement = placement::of(&snapshot, std::slice::from_ref(&submit), PATIENCE)?;
    assert!(matches!(&placement.pods["default/small"], Fate::Bound(node) if ["w1", "w2"].contains(&node.as_str())));
    let Fate::Unschedulable(why) = &placement.pods["default/huge"] else { panic!("{:?}", placement.pods) };
    assert!(why.contains("nodes are available") && why.contains("Insufficient memory"), "{why}");

    // 30 of 30 GiB are asked for on one node then, and the small pod is one too many.
    let placement = placement::of(&snapshot, &[submit, Move::Drain("w1".to_owned())], PATIENCE)?;
    assert!(placement.refused.is_empty(), "{:?}", placement.refused);
    let unplaced: Vec<&String> = placement
        .pods
        .iter()
        .filter(|(name, _)| *name != "default/huge")
        .filter_map(|(_, fate)| match fate {
            Fate::Bound(node) => {
                assert_eq!(node, "w2");
                None
            }
            Fate::Unschedulable(why) => Some(why),
            Fate::Waiting => panic!("the scheduler is to decide"),
        })
        .collect();
    assert_eq!(unplaced.len(), 1, "{:?}", placement.pods);
    assert!(unplaced[0].contains("1 Insufficient memory, 1 node(s) were unschedulable"), "{unplaced:?}");
    Ok(())
}

#[test]
fn the_scheduler_stops_at_the_advertised_count_of_volumes() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let mut rig = Rig::start()?;
    rig.plant(objects::of(&scenario("slots-25")), MissingOwners::Drop)?;
    rig.start_scheduler()?;
    let api = rig.api();
    let labels = json!({"topology.kubernetes.io/region": "lab", "topology.kubernetes.io/zone": "pve1"});
    api.call(Call::patch("/api/v1/nodes/w1", json!({"metadata": {"labels": labels}})))?;
    api.call(Call::post(
        "/apis/storage.k8s.io/v1/storageclasses",
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "proxmox"},
               "provisioner": "csi.proxmox.sinextra.dev", "volumeBindingMode": "WaitForFirstConsumer",
               "reclaimPolicy": "Delete", "parameters": {"storage": "local-lvm"}}),
    ))?;
    let mut pods = Vec::new();
    for number in 0..4 {
        let name = format!("data-{number}");
        let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
                           "spec": {"storageClassName": "proxmox", "accessModes": ["ReadWriteOnce"],
                                    "resources": {"requests": {"storage": "1Gi"}}}});
        api.call(Call::post("/api/v1/namespaces/default/persistentvolumeclaims", claim))?;
        let mut pod = pod(&name, "64Mi");
        pod["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": name}}]);
        pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": "w1"});
        pods.push(pod);
    }
    // 25 of 28 are attached: three more are allowed, the fourth is not.
    let placement = play(api, &[Move::Submit(pods)], PATIENCE)?;
    let fates: Vec<&Fate> = placement.pods.iter().filter(|(name, _)| name.contains("data-")).map(|(_, fate)| fate).collect();
    assert_eq!(fates.iter().filter(|fate| ***fate == Fate::Bound("w1".to_owned())).count(), 3, "{fates:?}");
    let refused = fates.iter().find_map(|fate| match fate {
        Fate::Unschedulable(why) => Some(why.clone()),
        Fate::Bound(_) | Fate::Waiting => None,
    });
    assert!(refused.is_some_and(|why| why.contains("node(s) exceed max volume count")), "{fates:?}");

    // A lost node takes its pods with it, and their volumes keep them from going elsewhere.
    let placement = play(api, &[Move::Lose("w1".to_owned())], PATIENCE)?;
    let moved: Vec<&Fate> = placement.pods.iter().filter(|(name, _)| name.ends_with("-again")).map(|(_, fate)| fate).collect();
    assert_eq!(moved.len(), 4, "{:?}", placement.pods);
    assert_eq!(moved.iter().filter(|fate| ***fate == Fate::Bound("w2".to_owned())).count(), 1, "{:?}", placement.pods);
    Ok(())
}
