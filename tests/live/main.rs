//! The whole program against real components: Kubernetes, Prometheus and a Proxmox VE double.
//!
//! Everything is started by the rig under `tests/rig`, on loopback addresses, and ends with it.

#[path = "../support/mod.rs"]
mod support;

mod access;
mod apply;
mod attach;
mod campaign;
mod cycles;
mod faults;
mod harm;
mod join;
mod newcomer;
mod report;
mod scheduler;

use capplan_model::Snapshot;
use capplan_model::scenario::Scenario;
use capplan_rig::{Failure, Rig, components};
use serde_json::{Value, json};
use support::World;

/// What a test on the rig answers: a failure of the rig is shown as it is.
type Tested = Result<(), Failure>;

/// Says why the tests of this folder are skipped, if they are; where `CI` is `true` they never are.
fn skipped() -> bool {
    let missing = components::missing();
    if missing.is_empty() {
        return false;
    }
    let why = missing.join("; ");
    assert!(std::env::var("CI").as_deref() != Ok("true"), "{why}");
    println!("skipped: {why}");
    true
}

/// The same, and for a test that needs a control plane of the rig's own: one that it may end, or that stands still.
fn skipped_without_own_plane() -> bool {
    if std::env::var_os(capplan_rig::KUBECONFIG_VARIABLE).is_some() {
        println!("skipped: it needs a control plane of its own, and {} names another", capplan_rig::KUBECONFIG_VARIABLE);
        return true;
    }
    skipped()
}

/// Whether all points of the matrices are tried, which takes two hours; otherwise some of each kind.
fn is_full() -> bool {
    std::env::var("CAPPLAN_MATRIX").as_deref() == Ok("full")
}

/// Every way in which Proxmox VE fails at a change.
fn pve_faults() -> [Value; 6] {
    [
        json!({"status": 500, "message": "can't lock file '/var/lock/qemu-server/lock-203.conf' - got timeout"}),
        json!({"status": 595, "message": "No route to host"}),
        json!({"status": 596, "message": "Connection timed out", "after": true}),
        json!({"reset": true, "after": true}),
        json!({"task": "storage 'local-lvm' is not online"}),
        json!({"task": "WARNINGS: 1"}),
    ]
}

/// Every way in which the API server fails at a change.
fn kube_faults() -> [Value; 5] {
    [
        json!({"status": 409, "message": "the object has been modified"}),
        json!({"status": 429, "message": "too many requests", "retry_after": 1}),
        json!({"status": 500, "message": "etcdserver: leader changed"}),
        json!({"reset": true}),
        json!({"reset": true, "after": true}),
    ]
}

/// A small cluster in the short form of our scenarios, as a snapshot.
fn scenario(name: &str) -> Snapshot {
    let path = format!("{}/scenarios/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("part of the repository");
    Scenario::parse(&text).expect("a valid scenario").snapshot()
}

/// The objects that `capplan doctor --print-roles --apply` prints for `kubectl apply`.
fn printed_roles() -> Vec<Value> {
    let printed = World::new().run(&["doctor", "--print-roles", "--apply"]).done().out;
    let documents: Vec<Option<Value>> = serde_saphyr::from_multiple(&printed).expect("YAML");
    documents.into_iter().flatten().collect()
}

/// A world that is configured for a rig with a double, with the rights of an administrator.
fn world(rig: &mut Rig) -> Result<World, Failure> {
    let mut world = World::new();
    world.set("KUBECONFIG", rig.kubeconfig().display().to_string());
    let double = rig.double()?;
    world
        .set("CAPPLAN_PVE_URL", &double.url)
        .set("CAPPLAN_PVE_TOKEN", double.token())
        .set("CAPPLAN_PVE_FINGERPRINT", &double.fingerprint);
    Ok(world)
}
