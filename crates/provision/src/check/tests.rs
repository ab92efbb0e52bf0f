//! Every condition, on one small world: it holds there, and does not after each change that it is about.

use std::collections::BTreeMap;
use std::mem::Discriminant;

use capplan_model::ids::{SnapshotId, VmId};
use capplan_model::kube::{
    Claim, Condition as NodeCondition, CsiNode, CsiNodeDriver, NodeMetrics, Owner, PersistentVolume, Service, VolumeAttachment,
    Workload,
};
use capplan_model::plan::Action;
use capplan_model::pve::{GuestConfig, GuestSnapshot, Host, HostMemory, Pve};
use capplan_model::units::Bytes;
use jiff::{SignedDuration, Timestamp};

use super::*;

const DRIVER: &str = "csi.proxmox.sinextra.dev";
const OWNER: &str = "ReplicaSet/a/web";
const AGENT: &str = "DaemonSet/a/agent";
/// A disk that nothing refers to, plugged into VM 204.
const GHOST: &str = "local-lvm:vm-9999-pvc-1";

/// The plan that makes `w6`.
fn plan() -> Plan {
    let mut plan = Plan::empty(Action::None, SnapshotId::default(), Timestamp::UNIX_EPOCH, String::new());
    plan.workers.push(WorkerSpec {
        name: "w6".into(),
        vmid: VmId(206),
        host: "pve1".into(),
        memory: Bytes::gib(8),
        cores: 4,
        address: Some("10.0.20.206/24".into()),
        network: Some("bridge=vmbr0,tag=20".into()),
        ..WorkerSpec::default()
    });
    plan.sealed()
}

fn guest_ref() -> GuestRef {
    GuestRef { host: "pve1".into(), vmid: VmId(204), name: "w4".into(), uuid: Some("u-204".into()) }
}

/// The guest that the plan makes.
fn made() -> GuestRef {
    GuestRef { host: "pve1".into(), vmid: VmId(206), name: "w6".into(), uuid: None }
}

fn taken() -> Timestamp {
    "2026-03-02T06:00:00Z".parse().expect("an instant")
}

fn disk(volume: &str) -> Disk {
    Disk { volume: volume.into(), size: Some(Bytes::gib(20)), ..Disk::default() }
}

fn node_named(name: &str, number: u32) -> Node {
    let ready = NodeCondition {
        kind: "Ready".into(),
        status: "True".into(),
        since: Some(taken() - SignedDuration::from_hours(5)),
        ..NodeCondition::default()
    };
    Node {
        name: name.into(),
        uid: format!("n-{number}"),
        labels: [("zone".to_owned(), "pve1".to_owned())].into(),
        system_uuid: Some(format!("U-{number}")),
        kubelet_version: "v1.34.2".into(),
        internal_ips: vec![format!("10.0.20.{number}")],
        conditions: vec![ready],
        ..Node::default()
    }
}

fn pod_of(owner: &str, name: &str, uid: &str, node: &str) -> Pod {
    let (kind, owner) = (owner.split('/').next().unwrap_or_default(), owner.rsplit('/').next().unwrap_or_default());
    Pod {
        namespace: "a".into(),
        name: name.into(),
        uid: uid.into(),
        node: Some(node.into()),
        phase: Phase::Running,
        owner: Some(Owner { kind: kind.into(), name: owner.into(), ..Owner::default() }),
        created: Some(taken()),
        ..Pod::default()
    }
}

fn guest_named(name: &str, number: u32, config: GuestConfig) -> Guest {
    Guest {
        vmid: VmId(number),
        host: "pve1".into(),
        name: name.into(),
        power: Power::Running,
        config: Reading::Known(GuestConfig {
            uuid: Some(format!("u-{number}")),
            addresses: vec![format!("10.0.20.{number}/24")],
            on_boot: true,
            ..config
        }),
        ha: Reading::Known(false),
        snapshots: Reading::Known(Vec::new()),
        ..Guest::default()
    }
}

/// Workers w4 and w5 with a pod each, VMs 204 and 205; VM 206, which the plan made and which joined as w6; VM 207, off,
/// empty, that may be destroyed and is reset when it starts.
fn world() -> Snapshot {
    let mut seen = Snapshot { taken: taken(), ..Snapshot::default() };
    let kube = &mut seen.kube;
    kube.version = Reading::Known("v1.35.2".into());
    kube.nodes = Reading::Known(vec![node_named("w4", 204), node_named("w5", 205), node_named("w6", 206)]);
    kube.pods = Reading::Known(vec![
        pod_of(OWNER, "web-1", "p-1", "w4"),
        pod_of(OWNER, "web-2", "p-2", "w5"),
        pod_of(AGENT, "agent-4", "d-4", "w4"),
        pod_of(AGENT, "agent-5", "d-5", "w5"),
    ]);
    let stays = PersistentVolume { name: "stays".into(), driver: "other.example".into(), ..PersistentVolume::default() };
    kube.persistent_volumes = Reading::Known(vec![stays]);
    kube.claims = Reading::Known(Vec::new());
    kube.volume_attachments = Reading::Known(Vec::new());
    kube.services = Reading::Known(vec![Service {
        namespace: "a".into(),
        name: "web".into(),
        addresses: vec!["10.0.20.90".into()],
        ..Service::default()
    }]);
    kube.replica_sets =
        Reading::Known(vec![Workload { namespace: "a".into(), name: "web".into(), replicas: 2, ..Workload::default() }]);
    let driver = |count| CsiNodeDriver { name: DRIVER.into(), count, ..CsiNodeDriver::default() };
    kube.csi_nodes = Reading::Known(vec![
        CsiNode { name: "w4".into(), drivers: vec![driver(Some(24))] },
        CsiNode { name: "w5".into(), drivers: vec![driver(None)] },
    ]);
    kube.node_metrics = Reading::Known(vec![NodeMetrics { name: "w4".into(), ..NodeMetrics::default() }]);
    let w4 = GuestConfig { disks: [("scsi3".to_owned(), disk(GHOST))].into(), ..GuestConfig::default() };
    let w6 = GuestConfig {
        memory: Bytes::gib(8),
        cores: 4,
        made_by: Some(plan().id),
        net0: Some("virtio=BC:24:11:00:00:06,bridge=vmbr0,tag=20".into()),
        disks: [("scsi0".to_owned(), disk("local-lvm:vm-206-disk-0"))].into(),
        ..GuestConfig::default()
    };
    let image = Disk { cdrom: true, ..disk("local:iso/capplan-spare-207.iso") };
    let w7 = GuestConfig { disks: [("ide2".to_owned(), image)].into(), ..GuestConfig::default() };
    let mut guests = vec![
        guest_named("w4", 204, w4),
        guest_named("w5", 205, GuestConfig::default()),
        Guest { tags: vec![OWN_TAG.into()], ..guest_named("w6", 206, w6) },
        Guest { power: Power::Stopped, tags: vec![OWN_TAG.into(), SPARE_TAG.into()], ..guest_named("w7", 207, w7) },
    ];
    if let Reading::Known(config) = &mut guests[3].config {
        config.on_boot = false;
    }
    let memory = HostMemory { free: Bytes::gib(10), reported_available: Some(Bytes::gib(10)), ..HostMemory::default() };
    let host = Host { name: "pve1".into(), memory: Reading::Known(memory), ..Host::default() };
    seen.pve = vec![Pve {
        guests: Reading::Known(guests),
        hosts: Reading::Known(vec![host]),
        replication: Reading::Known(Vec::new()),
        ..Pve::default()
    }];
    seen
}

fn spare() -> GuestRef {
    GuestRef { host: "pve1".into(), vmid: VmId(207), name: "w7".into(), uuid: Some("u-207".into()) }
}

fn judged(condition: &Condition, seen: &Snapshot) -> Verdict {
    let plan = plan();
    let against = Against { plan: &plan, driver: DRIVER, ready_before: Some(2), evicted: None };
    check(condition, seen, against)
}

// What a change of the world is made with.

fn node<'s>(seen: &'s mut Snapshot, name: &str) -> &'s mut Node {
    let Reading::Known(nodes) = &mut seen.kube.nodes else { unreachable!("known") };
    nodes.iter_mut().find(|one| one.name.as_str() == name).expect("it is there")
}

fn pod<'s>(seen: &'s mut Snapshot, uid: &str) -> &'s mut Pod {
    let Reading::Known(pods) = &mut seen.kube.pods else { unreachable!("known") };
    pods.iter_mut().find(|one| one.uid == uid).expect("it is there")
}

fn guest(seen: &mut Snapshot, vmid: u32) -> &mut Guest {
    let Reading::Known(guests) = &mut seen.pve[0].guests else { unreachable!("known") };
    guests.iter_mut().find(|one| one.vmid.0 == vmid).expect("it is there")
}

fn config(seen: &mut Snapshot, vmid: u32) -> &mut GuestConfig {
    let Reading::Known(config) = &mut guest(seen, vmid).config else { unreachable!("known") };
    config
}

fn push<T>(list: &mut Reading<Vec<T>>, one: T) {
    let Reading::Known(list) = list else { unreachable!("known") };
    list.push(one);
}

fn without_node(seen: &mut Snapshot, name: &str) {
    let Reading::Known(nodes) = &mut seen.kube.nodes else { unreachable!("known") };
    nodes.retain(|one| one.name.as_str() != name);
}

fn without_guest(seen: &mut Snapshot, vmid: u32) {
    let Reading::Known(guests) = &mut seen.pve[0].guests else { unreachable!("known") };
    guests.retain(|one| one.vmid.0 != vmid);
}

fn unready(node: &mut Node) {
    node.conditions[0].status = "False".into();
}

/// The pod is not ready: conditions that are not true are kept.
fn starting(pod: &mut Pod) {
    pod.conditions.push(NodeCondition { kind: "Ready".into(), status: "False".into(), ..NodeCondition::default() });
}

/// A volume whose handle is the disk `GHOST`.
fn volume_on_it() -> PersistentVolume {
    PersistentVolume {
        name: "pvc-1".into(),
        driver: DRIVER.into(),
        handle: Some("lab/pve1/local-lvm/vm-9999-pvc-1".into()),
        ..PersistentVolume::default()
    }
}

fn attachment(node: &str, volume: Option<&str>) -> VolumeAttachment {
    VolumeAttachment {
        name: "va-1".into(),
        attacher: DRIVER.into(),
        node: node.into(),
        volume: volume.map(Into::into),
        attached: true,
        ..VolumeAttachment::default()
    }
}

/// What is expected, with words of the reason.
enum Is {
    Held,
    Not(&'static str),
    Never(&'static str),
    Unknown(&'static str),
}
use Is::{Held, Never, Not, Unknown};

type Change = fn(&mut Snapshot);
const AS_IT_IS: Change = |_| {};

/// A condition, and what it is after each change.
struct Case(Condition, Vec<(Change, Is)>);

fn is<const N: usize>(condition: Condition, changes: [(Change, Is); N]) -> Case {
    Case(condition, changes.into())
}

fn cases() -> Vec<Case> {
    let (w4, w5): (NodeName, NodeName) = ("w4".into(), "w5".into());
    let is_pod = |pod: &str, uid: &str, owner: &str| Condition::PodIs {
        pod: pod.into(),
        uid: uid.into(),
        owner: owner.into(),
        node: "w4".into(),
    };
    let gone_pod = |pod: &str, uid: &str| Condition::PodGone { pod: pod.into(), uid: uid.into() };
    let unused = |vmid: u32, address: Option<&str>| Condition::Unused {
        host: "pve1".into(),
        vmid: VmId(vmid),
        address: address.map(str::to_owned),
    };
    let ghost = |slot: &str, volume: &str| Condition::Ghost { guest: guest_ref(), slot: slot.into(), volume: volume.into() };
    let size = |size| Condition::DiskSize { guest: guest_ref(), slot: "scsi3".into(), size };
    let host = |name: &str, gib| Condition::HostMemory { host: name.into(), available: Bytes::gib(gib) };
    let worker = |node: &str, slots| Condition::WorkerReady { node: node.into(), slots };
    let disposable = |snapshots: &[&str]| Condition::Disposable {
        guest: spare(),
        snapshots: snapshots.iter().map(|one| (*one).into()).collect(),
    };
    vec![
        is(
            Condition::OthersHealthy { except: vec![w4.clone()] },
            [
                (AS_IT_IS, Held),
                (|seen| unready(node(seen, "w4")), Held),
                (|seen| unready(node(seen, "w5")), Not("w5 is not ready")),
                (|seen| node(seen, "w5").unschedulable = true, Not("w5 is cordoned")),
                (|seen| node(seen, "w5").conditions[0].since = Some(taken() - SignedDuration::from_mins(20)), Not("20 min ago")),
            ],
        ),
        is(
            Condition::NodeIs { node: w4.clone(), uid: "n-204".into() },
            [
                (AS_IT_IS, Held),
                (|seen| node(seen, "w4").uid = "n-2".into(), Not("another object")),
                (|seen| without_node(seen, "w4"), Not("there is no node w4")),
            ],
        ),
        is(
            Condition::NodeGone { node: w4.clone() },
            [(AS_IT_IS, Not("w4 is still there")), (|seen| without_node(seen, "w4"), Held)],
        ),
        is(
            Condition::Cordoned { node: w4.clone() },
            [
                (AS_IT_IS, Not("w4 is open")),
                (|seen| node(seen, "w4").unschedulable = true, Held),
                (|seen| without_node(seen, "w4"), Not("there is no node w4")),
            ],
        ),
        is(
            Condition::Schedulable { node: w4.clone() },
            [(AS_IT_IS, Held), (|seen| node(seen, "w4").unschedulable = true, Not("w4 is cordoned"))],
        ),
        is(
            Condition::NodeReady { node: w4.clone() },
            [(AS_IT_IS, Held), (|seen| unready(node(seen, "w4")), Not("w4 is not ready"))],
        ),
        is(
            Condition::Labelled { node: w4.clone(), labels: [("zone".to_owned(), "pve1".to_owned())].into() },
            [
                (AS_IT_IS, Held),
                (|seen| drop(node(seen, "w4").labels.insert("zone".into(), "pve2".into())), Not("no label zone=pve1")),
                (|seen| node(seen, "w4").labels.clear(), Not("no label zone=pve1")),
                (|seen| without_node(seen, "w4"), Not("there is no node w4")),
            ],
        ),
        is(
            is_pod("a/web-1", "p-1", OWNER),
            [
                (AS_IT_IS, Held),
                (|seen| pod(seen, "p-1").node = Some("w5".into()), Not("not on w4 any more")),
                (|seen| pod(seen, "p-1").deleting = Some(taken()), Not("not on w4 any more")),
                (|seen| pod(seen, "p-1").phase = Phase::Succeeded, Not("not on w4 any more")),
                (|seen| pod(seen, "p-1").uid = "p-9".into(), Not("another pod")),
                (|seen| pod(seen, "p-1").namespace = "b".into(), Not("another pod")),
                (|seen| pod(seen, "p-1").name = "web-9".into(), Not("another pod")),
            ],
        ),
        is(is_pod("web-1", "p-1", OWNER), [(AS_IT_IS, Not("another pod"))]),
        is(
            is_pod("a/web-1", "", OWNER),
            [
                (AS_IT_IS, Held),
                (|seen| pod(seen, "p-1").name = "web-9".into(), Held),
                (|seen| pod(seen, "p-1").owner = None, Not("another pod")),
            ],
        ),
        is(
            gone_pod("a/web-1", "p-1"),
            [
                (AS_IT_IS, Not("a/web-1 is still there")),
                (|seen| pod(seen, "p-1").phase = Phase::Failed, Held),
                (|seen| pod(seen, "p-1").uid = "p-9".into(), Held),
                (|seen| pod(seen, "p-1").name = "web-9".into(), Held),
            ],
        ),
        is(gone_pod("a/web-1", ""), [(AS_IT_IS, Held)]),
        is(
            Condition::SuccessorReady { owner: OWNER.into(), on: Vec::new() },
            [
                (AS_IT_IS, Held),
                (|seen| starting(pod(seen, "p-2")), Not("1 of 2 pods")),
                (|seen| pod(seen, "p-2").phase = Phase::Pending, Not("1 of 2 pods")),
                (|seen| pod(seen, "p-2").deleting = Some(taken()), Not("1 of 2 pods")),
                (|seen| pod(seen, "p-2").owner = None, Not("1 of 2 pods")),
                // It was made smaller meanwhile, or is gone; one that is not read wants what it had.
                (
                    |seen| {
                        pod(seen, "p-2").phase = Phase::Failed;
                        let Reading::Known(sets) = &mut seen.kube.replica_sets else { unreachable!("known") };
                        sets[0].replicas = 1;
                    },
                    Held,
                ),
                (
                    |seen| {
                        pod(seen, "p-2").phase = Phase::Failed;
                        let Reading::Known(sets) = &mut seen.kube.replica_sets else { unreachable!("known") };
                        (sets[0].replicas, sets[0].namespace) = (1, "b".into());
                        pod(seen, "p-1").phase = Phase::Failed;
                    },
                    Held,
                ),
                (
                    |seen| {
                        pod(seen, "p-2").phase = Phase::Failed;
                        seen.kube.replica_sets = Reading::unknown("no answer");
                    },
                    Not("1 of 2 pods"),
                ),
            ],
        ),
        is(
            Condition::NodeEmpty { node: w4.clone() },
            [
                (AS_IT_IS, Not("a/web-1 is still on w4")),
                (|seen| pod(seen, "p-1").node = Some("w5".into()), Held),
                (|seen| pod(seen, "p-1").phase = Phase::Succeeded, Held),
                (|seen| pod(seen, "p-1").deleting = Some(taken()), Not("a/web-1 is still on w4")),
            ],
        ),
        is(
            Condition::VolumesGone { node: w4.clone(), guest: Some(guest_ref()) },
            [
                (AS_IT_IS, Not("vm-9999-pvc-1 is still in")),
                (|seen| config(seen, 204).disks.clear(), Held),
                // A disk that a PersistentVolume names is a volume, whatever its name.
                (
                    |seen| {
                        config(seen, 204).disks = [("scsi3".to_owned(), disk("local-lvm:vm-204-disk-9"))].into();
                        let handle = Some("lab/pve1/local-lvm/vm-204-disk-9".into());
                        push(&mut seen.kube.persistent_volumes, PersistentVolume { handle, ..volume_on_it() });
                    },
                    Not("vm-204-disk-9 is still in"),
                ),
                (|seen| config(seen, 204).disks = [("scsi0".to_owned(), disk("local-lvm:vm-204-disk-0"))].into(), Held),
                (
                    |seen| {
                        config(seen, 204).disks.clear();
                        push(&mut seen.kube.volume_attachments, attachment("w4", Some("elsewhere")));
                    },
                    Not("elsewhere is attached to w4"),
                ),
                (
                    |seen| {
                        config(seen, 204).disks.clear();
                        push(&mut seen.kube.volume_attachments, attachment("w5", Some("elsewhere")));
                    },
                    Held,
                ),
                (
                    |seen| {
                        config(seen, 204).disks.clear();
                        seen.kube.persistent_volumes = Reading::unknown("no answer");
                    },
                    Unknown("no answer"),
                ),
                (|seen| guest(seen, 204).name = "other".into(), Never("not the guest that was meant")),
            ],
        ),
        is(Condition::VolumesGone { node: w4.clone(), guest: None }, [(AS_IT_IS, Unknown("which VM w4 is"))]),
        is(
            Condition::GuestIs { guest: guest_ref() },
            [
                (AS_IT_IS, Held),
                (|seen| guest(seen, 204).name = "w9".into(), Never("not the guest that was meant")),
                (|seen| config(seen, 204).uuid = Some("u-9".into()), Never("not the guest that was meant")),
                (|seen| config(seen, 204).uuid = None, Never("not the guest that was meant")),
                (|seen| guest(seen, 204).host = "pve2".into(), Never("is not there")),
                (|seen| without_guest(seen, 204), Never("is not there")),
                (|seen| guest(seen, 204).config = Reading::unknown("no answer"), Unknown("no answer")),
                // A lock is nothing against a guest that has a UUID; conditions that mind it ask for it.
                (|seen| guest(seen, 204).lock = Some("backup".into()), Held),
            ],
        ),
        is(
            Condition::GuestIs { guest: made() },
            [
                (AS_IT_IS, Held),
                (|seen| without_guest(seen, 206), Not("is not there")),
                (|seen| guest(seen, 206).lock = Some("clone".into()), Not("is being cloned")),
                (|seen| guest(seen, 206).lock = Some("backup".into()), Unknown("is locked: backup")),
                (|seen| guest(seen, 206).name = "w9".into(), Never("not the guest that was meant")),
                (|seen| config(seen, 206).made_by = Some("sha256:another".into()), Never("not the guest that was meant")),
                (|seen| config(seen, 206).made_by = None, Never("not the guest that was meant")),
            ],
        ),
        is(
            Condition::Disarmed { guest: spare(), storage: "local".into() },
            [
                (AS_IT_IS, Held),
                (|seen| config(seen, 207).disks.clear(), Not("would join again")),
                (|seen| guest(seen, 207).tags = vec![OWN_TAG.into()], Not("would join again")),
            ],
        ),
        is(Condition::Disarmed { guest: spare(), storage: "other".into() }, [(AS_IT_IS, Not("would join again"))]),
        is(
            Condition::GuestRunning { guest: guest_ref() },
            [
                (AS_IT_IS, Held),
                (|seen| guest(seen, 204).power = Power::Stopped, Not("is not running")),
                (|seen| guest(seen, 204).power = Power::Unknown, Not("is not running")),
            ],
        ),
        is(
            Condition::GuestStopped { guest: guest_ref() },
            [
                (AS_IT_IS, Not("is running")),
                (|seen| guest(seen, 204).power = Power::Stopped, Held),
                (|seen| guest(seen, 204).power = Power::Unknown, Not("is running")),
            ],
        ),
        is(
            Condition::GuestSet { guest: made(), worker: "w6".into() },
            [
                (AS_IT_IS, Held),
                (|seen| config(seen, 206).memory = Bytes::gib(4), Not("lacks memory")),
                (|seen| config(seen, 206).cores = 2, Not("lacks cores")),
                (|seen| guest(seen, 206).tags.clear(), Not("lacks its tag")),
                (|seen| config(seen, 206).addresses = vec!["10.0.20.9/24".into()], Not("lacks its address")),
                (|seen| config(seen, 206).addresses.clear(), Not("lacks its address")),
                (|seen| config(seen, 206).net0 = Some("virtio=BC:24:11:00:00:06,bridge=vmbr1,tag=20".into()), Not("its network")),
                (|seen| config(seen, 206).net0 = None, Not("its network")),
                (|seen| drop(guest(seen, 206).pending.insert("memory".into(), Some("8192".into()))), Not("waits for one")),
            ],
        ),
        is(Condition::GuestSet { guest: made(), worker: "w8".into() }, [(AS_IT_IS, Unknown("what w8 is to be"))]),
        is(size(Bytes::gib(20)), [(AS_IT_IS, Held), (|seen| config(seen, 204).disks.clear(), Not("is not 20.0 GiB large"))]),
        is(size(Bytes::gib(21)), [(AS_IT_IS, Not("is not 21.0 GiB large"))]),
        is(
            Condition::Joined { guest: made(), worker: "w6".into() },
            [
                (AS_IT_IS, Held),
                (|seen| unready(node(seen, "w6")), Not("joined and is not ready")),
                (|seen| without_node(seen, "w6"), Not("there is no node w6 yet")),
                (|seen| node(seen, "w6").system_uuid = Some("another".into()), Never("another machine than VM 206")),
                (|seen| node(seen, "w6").system_uuid = None, Never("another machine than VM 206")),
                (|seen| node(seen, "w6").name = "ubuntu".into(), Never("joined as ubuntu, not as w6")),
                (|seen| node(seen, "w6").kubelet_version = "v1.36.0".into(), Never("its kubelet is v1.36.0")),
                (|seen| node(seen, "w6").kubelet_version = "v1.31.9".into(), Never("its kubelet is v1.31.9")),
                (|seen| node(seen, "w6").kubelet_version = "v1.32.0".into(), Held),
                (|seen| node(seen, "w6").kubelet_version = "v1.35.9".into(), Held),
            ],
        ),
        is(
            Condition::SeedGone { guest: made(), worker: "w6".into() },
            [
                (AS_IT_IS, Held),
                (
                    |seen| {
                        let volume = seed_volume(&plan().id, &plan().workers[0]);
                        config(seen, 206).disks.insert("ide2".into(), Disk { cdrom: true, ..disk(&volume) });
                    },
                    Not("is still in"),
                ),
                (
                    |seen| drop(guest(seen, 206).pending.insert("ide2".into(), Some("none,media=cdrom".into()))),
                    Not("is still in"),
                ),
                (|seen| drop(guest(seen, 206).pending.insert("cores".into(), Some("8".into()))), Held),
            ],
        ),
        is(
            Condition::DaemonsReady { node: w4.clone(), owners: vec![AGENT.into()] },
            [
                (AS_IT_IS, Held),
                (|seen| starting(pod(seen, "d-4")), Not("DaemonSet/a/agent is not ready on w4")),
                (|seen| pod(seen, "d-4").node = Some("w5".into()), Not("is not ready on w4")),
            ],
        ),
        is(
            Condition::DaemonsReady { node: w4.clone(), owners: vec![AGENT.into(), "DaemonSet/a/other".into()] },
            [(AS_IT_IS, Not("DaemonSet/a/other is not ready"))],
        ),
        is(Condition::Measured { node: w4.clone() }, [(AS_IT_IS, Held)]),
        is(Condition::Measured { node: w5.clone() }, [(AS_IT_IS, Not("does not know w5"))]),
        is(
            disposable(&[]),
            [
                (AS_IT_IS, Held),
                (|seen| guest(seen, 207).lock = Some("backup".into()), Unknown("is locked: backup")),
                (|seen| guest(seen, 207).tags = vec![SPARE_TAG.into()], Not("has no tag `capplan`")),
                (|seen| guest(seen, 207).ha = Reading::unknown("no answer"), Unknown("no answer")),
                // What forbids it is said rather than what is not known.
                (
                    |seen| {
                        guest(seen, 207).ha = Reading::unknown("no answer");
                        config(seen, 207).protection = true;
                    },
                    Not("`protection` is set"),
                ),
                (
                    |seen| {
                        let one = GuestSnapshot { name: "before".into(), disks: BTreeMap::new() };
                        guest(seen, 207).snapshots = Reading::Known(vec![one]);
                    },
                    Not("snapshot before"),
                ),
                (|seen| without_guest(seen, 207), Never("is not there")),
            ],
        ),
        is(
            disposable(&["before"]),
            [(
                (|seen| {
                    let one = GuestSnapshot { name: "before".into(), disks: BTreeMap::new() };
                    guest(seen, 207).snapshots = Reading::Known(vec![one]);
                }),
                Held,
            )],
        ),
        is(
            Condition::HaUnmanaged { guest: guest_ref() },
            [
                (AS_IT_IS, Held),
                (|seen| guest(seen, 204).ha = Reading::Known(true), Not("ha-manager remove vm:204")),
                (|seen| guest(seen, 204).ha = Reading::unknown("no answer"), Unknown("no answer")),
            ],
        ),
        is(
            Condition::GuestGone { guest: guest_ref() },
            [
                (AS_IT_IS, Not("VM 204 (w4) on pve1 is still there")),
                (|seen| without_guest(seen, 204), Held),
                // One that went to another host is not gone; nor is its VMID, whoever has it now.
                (|seen| guest(seen, 204).host = "pve2".into(), Not("on pve2 is still there")),
                (|seen| config(seen, 204).uuid = Some("u-9".into()), Not("is still there")),
                (
                    |seen| {
                        guest(seen, 204).host = "pve2".into();
                        config(seen, 204).uuid = Some("u-9".into());
                    },
                    Held,
                ),
                (|seen| guest(seen, 204).vmid = VmId(299), Not("VM 299 (w4) on pve1 is still there")),
                (|seen| seen.pve[0].guests = Reading::unknown("no answer"), Unknown("no answer")),
            ],
        ),
        is(
            // Nobody knows the UUID of a guest that was made: others without one are not it.
            Condition::GuestGone { guest: made() },
            [
                (AS_IT_IS, Not("is still there")),
                (
                    |seen| {
                        without_guest(seen, 206);
                        config(seen, 205).uuid = None;
                    },
                    Held,
                ),
            ],
        ),
        is(
            Condition::GuestStaysOff { guest: guest_ref() },
            [(AS_IT_IS, Not("starts with its host")), (|seen| config(seen, 204).on_boot = false, Held)],
        ),
        is(
            Condition::GuestStartsWithHost { guest: guest_ref() },
            [(AS_IT_IS, Held), (|seen| config(seen, 204).on_boot = false, Not("does not start with its host"))],
        ),
        is(host("pve1", 10), [(AS_IT_IS, Held)]),
        is(host("pve1", 11), [(AS_IT_IS, Not("11.0 GiB are needed"))]),
        is(host("pve2", 1), [(AS_IT_IS, Unknown("host pve2 was not read"))]),
        is(unused(300, None), [(AS_IT_IS, Held)]),
        is(unused(204, None), [(AS_IT_IS, Not("VMID 204 is taken by w4"))]),
        is(
            unused(300, Some("10.0.20.99/24")),
            [
                (AS_IT_IS, Held),
                (|seen| node(seen, "w4").internal_ips = vec!["10.0.20.99".into()], Not("an address of w4")),
                (
                    |seen| {
                        let Reading::Known(services) = &mut seen.kube.services else { unreachable!("known") };
                        services[0].addresses = vec!["10.0.20.99".into()];
                    },
                    Not("the Service a/web"),
                ),
                (|seen| config(seen, 207).addresses = vec!["10.0.20.99/16".into()], Not("VM 207 (w7)")),
                (|seen| guest(seen, 207).config = Reading::unknown("no answer"), Unknown("whether w7 has 10.0.20.99")),
                (|seen| seen.kube.services = Reading::unknown("no answer"), Unknown("no answer")),
            ],
        ),
        is(
            worker("w4", Some(24)),
            [
                (AS_IT_IS, Held),
                (|seen| unready(node(seen, "w4")), Not("w4 is not ready")),
                (|seen| without_node(seen, "w4"), Not("there is no node w4")),
                (|seen| seen.kube.csi_nodes = Reading::unknown("no answer"), Unknown("no answer")),
                (
                    |seen| {
                        let Reading::Known(nodes) = &mut seen.kube.csi_nodes else { unreachable!("known") };
                        nodes[0].drivers[0].name = "other.example".into();
                    },
                    Not("is not registered on w4"),
                ),
            ],
        ),
        is(worker("w4", Some(28)), [(AS_IT_IS, Not("advertises 24 volumes, 28 are expected"))]),
        is(worker("w5", Some(24)), [(AS_IT_IS, Not("advertises no limit volumes"))]),
        is(worker("w5", None), [(AS_IT_IS, Held)]),
        is(worker("w6", None), [(AS_IT_IS, Not("is not registered on w6"))]),
        is(
            ghost("scsi3", GHOST),
            [
                (AS_IT_IS, Held),
                (|seen| config(seen, 204).disks.clear(), Not("not on scsi3")),
                (|seen| drop(guest(seen, 204).pending.insert("scsi3".into(), None)), Not("not on scsi3")),
                (|seen| push(&mut seen.kube.persistent_volumes, volume_on_it()), Held),
                (
                    |seen| {
                        push(&mut seen.kube.persistent_volumes, volume_on_it());
                        push(&mut seen.kube.volume_attachments, attachment("w4", Some("pvc-1")));
                    },
                    Not("it is no ghost"),
                ),
                (
                    |seen| {
                        push(&mut seen.kube.persistent_volumes, volume_on_it());
                        push(&mut seen.kube.volume_attachments, attachment("w5", Some("pvc-1")));
                    },
                    Not("it is no ghost"),
                ),
                (
                    |seen| {
                        push(&mut seen.kube.persistent_volumes, volume_on_it());
                        let claim = Claim {
                            namespace: "a".into(),
                            name: "data".into(),
                            volume: Some("pvc-1".into()),
                            ..Claim::default()
                        };
                        push(&mut seen.kube.claims, claim);
                        pod(seen, "p-1").claims.push("data".into());
                    },
                    Not("it is no ghost"),
                ),
                (|seen| seen.kube.claims = Reading::unknown("no answer"), Unknown("whether local-lvm:vm-9999-pvc-1 is in use")),
            ],
        ),
        is(ghost("scsi4", GHOST), [(AS_IT_IS, Not("not on scsi4"))]),
        is(ghost("scsi3", "local-lvm:vm-9999-pvc-2"), [(AS_IT_IS, Not("not on scsi3"))]),
        is(
            // One that a PersistentVolume names, and that is the VM's own: Proxmox VE would keep it as unused.
            ghost("scsi3", "local-lvm:vm-204-disk-9"),
            [(
                (|seen| {
                    config(seen, 204).disks = [("scsi3".to_owned(), disk("local-lvm:vm-204-disk-9"))].into();
                    let handle = Some("lab/pve1/local-lvm/vm-204-disk-9".into());
                    push(&mut seen.kube.persistent_volumes, PersistentVolume { handle, ..volume_on_it() });
                }),
                Not("is a disk of VM 204 (w4) on pve1 itself"),
            )],
        ),
        is(
            ghost("scsi0", "local-lvm:data-1"),
            [(
                // Somebody else's disk that no PersistentVolume names is no volume.
                (|seen| drop(config(seen, 204).disks.insert("scsi0".into(), disk("local-lvm:data-1")))),
                Not("not on scsi0"),
            )],
        ),
        is(
            Condition::SlotEmpty { guest: guest_ref(), slot: "scsi3".into() },
            [
                (AS_IT_IS, Not("scsi3 of VM 204 (w4) on pve1 still holds a disk")),
                (|seen| config(seen, 204).disks.clear(), Held),
                (
                    |seen| {
                        config(seen, 204).disks.clear();
                        guest(seen, 204).pending.insert("scsi3".into(), None);
                    },
                    Not("still holds a disk"),
                ),
            ],
        ),
    ]
}

#[test]
fn every_condition_holds_where_it_should_and_nowhere_else() {
    let mut kinds: Vec<Discriminant<Condition>> = Vec::new();
    for Case(condition, changes) in cases() {
        for (number, (change, expected)) in changes.into_iter().enumerate() {
            let mut seen = world();
            change(&mut seen);
            let verdict = judged(&condition, &seen);
            let (is, why) = match (&verdict, expected) {
                (Verdict::Holds, Held) => (true, ""),
                (Verdict::Not(why), Not(words))
                | (Verdict::Never(why), Never(words))
                | (Verdict::Unknown(why), Unknown(words)) => (why.contains(words), words),
                (_, Held) => (false, "it holds"),
                (_, Not(words) | Never(words) | Unknown(words)) => (false, words),
            };
            assert!(is, "{condition:?}, change {number}: {verdict:?}, expected: {why}");
        }
        kinds.push(std::mem::discriminant(&condition));
    }
    let count = kinds.iter().collect::<std::collections::HashSet<_>>().len();
    let schema = serde_json::to_value(schemars::schema_for!(Condition)).expect("JSON");
    let all = schema["oneOf"].as_array().map_or(0, Vec::len);
    assert_eq!(count, all, "every kind of condition has a case");
}

#[test]
fn what_was_not_read_never_holds() {
    // Nothing was read; and the same where an API answered that there is nothing to see.
    let silent = Pve { guests: Reading::unknown("no answer"), hosts: Reading::unknown("no answer"), ..Default::default() };
    let mut unread = Snapshot { pve: vec![silent], ..Default::default() };
    unread.kube.nodes = Reading::unknown("no answer");
    unread.kube.pods = Reading::unknown("no answer");
    unread.kube.volume_attachments = Reading::unknown("no answer");
    for Case(condition, _) in cases() {
        assert!(matches!(judged(&condition, &unread), Verdict::Unknown(_)), "{condition:?}");
    }
}

#[test]
fn without_a_count_from_before_no_successor_is_known_to_be_ready() {
    let plan = plan();
    let asked = |ready_before, evicted| {
        let against = Against { plan: &plan, driver: DRIVER, ready_before, evicted };
        check(&Condition::SuccessorReady { owner: OWNER.into(), on: Vec::new() }, &world(), against)
    };
    assert!(matches!(asked(None, None), Verdict::Unknown(_)));
    assert_eq!(asked(Some(2), None), Verdict::Holds);
    // The evicted one counts no more, although it still runs.
    assert!(matches!(asked(Some(2), Some("p-1")), Verdict::Not(_)));
    assert_eq!(asked(Some(1), Some("p-1")), Verdict::Holds);
    let against = Against { plan: &plan, driver: DRIVER, ready_before: None, evicted: Some("p-1") };
    let gone = Condition::PodGone { pod: "a/web-1".into(), uid: String::new() };
    assert!(matches!(check(&gone, &world(), against), Verdict::Not(_)), "the evicted pod is the one that is meant");
}

#[test]
fn the_newest_pod_that_serves_says_where_its_owner_went() {
    let mut seen = world();
    pod(&mut seen, "p-2").created = Some(taken() + SignedDuration::from_secs(1));
    assert_eq!(newest(&seen, OWNER), Some(&"w5".into()));
    pod(&mut seen, "p-2").deleting = Some(taken());
    assert_eq!(newest(&seen, OWNER), Some(&"w4".into()));
    assert_eq!(newest(&seen, "ReplicaSet/a/other"), None);
}

#[test]
fn a_stateful_set_that_was_made_smaller_has_fewer_pods_that_are_ready() {
    let mut seen = world();
    for uid in ["p-1", "p-2"] {
        pod(&mut seen, uid).owner = Some(Owner { kind: "StatefulSet".into(), name: "db".into(), ..Owner::default() });
    }
    starting(pod(&mut seen, "p-2"));
    let ready = Condition::SuccessorReady { owner: "StatefulSet/a/db".into(), on: Vec::new() };
    assert!(matches!(judged(&ready, &seen), Verdict::Not(_)));
    let smaller = Workload { namespace: "a".into(), name: "db".into(), replicas: 1, ..Workload::default() };
    seen.kube.stateful_sets = Reading::Known(vec![smaller]);
    assert_eq!(judged(&ready, &seen), Verdict::Holds);
}

#[test]
fn a_worker_has_its_startup_order_and_its_snippet() {
    let mut seen = world();
    let lacks = |seen: &mut Snapshot, spec: &WorkerSpec| unset(guest(seen, 206), spec).expect("it was read");
    let mut ordered = plan().workers.remove(0);
    ordered.join.startup = Some("order=3".into());
    for (startup, lacking) in [(None, true), (Some("order=4"), true), (Some("order=3"), false)] {
        config(&mut seen, 206).startup = startup.map(str::to_owned);
        let expected = lacking.then(|| "VM 206 lacks startup".to_owned());
        assert_eq!(lacks(&mut seen, &ordered), expected, "{startup:?}");
    }
    ordered.join.seed = Seed::Vendor;
    for (snippet, lacking) in [(None, true), (Some("user=local:a"), true), (Some("vendor=local:a"), false)] {
        config(&mut seen, 206).cicustom = snippet.map(str::to_owned);
        let expected = lacking.then(|| "VM 206 lacks cicustom".to_owned());
        assert_eq!(lacks(&mut seen, &ordered), expected, "{snippet:?}");
    }
}
