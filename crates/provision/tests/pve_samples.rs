//! Recorded answers of real hosts decode, and whole recorded clusters read as what they are.
//!
//! The recordings are not part of this repository: `CAPPLAN_TEST_DATA` names their folder.

use std::path::{Path, PathBuf};

use capplan_model::ids::VmId;
use capplan_model::pve::{Guest, PciMapping, Power, Pve};
use capplan_model::units::Bytes;
use capplan_provision::pve::from_files;
use capplan_provision::pve::wire::{
    ClusterStatus, GuestRow, LvmThin, MappingRow, NodeRow, NodeStatus, Options, PendingRow, Resource, RrdRow, StorageRow,
    TaskRow, Version,
};
use serde::de::DeserializeOwned;
use serde_json::Value;

fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("CAPPLAN_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CAPPLAN_TEST_DATA is not set");
        println!("skipped: CAPPLAN_TEST_DATA is not set");
    }
    folder
}

fn json(path: &Path) -> Value {
    let name = path.to_string_lossy();
    let bytes = std::fs::read(path).expect(&name);
    serde_json::from_slice(&bytes).expect(&name)
}

fn read<T: DeserializeOwned>(folder: &Path, name: &str) -> T {
    let body = json(&folder.join("pve/samples").join(name))["response"]["body"]["data"].take();
    serde_json::from_value(body).expect(name)
}

/// Decodes `data` as the answer to `path`; false if the path is not one that is read.
fn decode(path: &str, data: Value) -> Result<bool, serde_json::Error> {
    fn is<T: DeserializeOwned>(data: Value) -> Result<bool, serde_json::Error> {
        serde_json::from_value::<T>(data).map(|_| true)
    }
    match path.trim_start_matches('/').split('/').collect::<Vec<_>>()[..] {
        ["version"] => is::<Version>(data),
        ["cluster", "status"] => is::<Vec<ClusterStatus>>(data),
        ["cluster", "resources"] => is::<Vec<Resource>>(data),
        ["cluster", "mapping", "pci"] => is::<Vec<MappingRow>>(data),
        ["nodes"] => is::<Vec<NodeRow>>(data),
        ["nodes", _, "status"] => is::<NodeStatus>(data),
        ["nodes", _, "storage"] => is::<Vec<StorageRow>>(data),
        ["nodes", _, "disks", "lvmthin"] => is::<Vec<LvmThin>>(data),
        ["nodes", _, "qemu" | "lxc"] => is::<Vec<GuestRow>>(data),
        ["nodes", _, "qemu" | "lxc", _, "config"] => is::<Options>(data),
        ["nodes", _, "qemu" | "lxc", _, "status", "current"] => is::<GuestRow>(data),
        ["nodes", _, "qemu" | "lxc", _, "pending"] => is::<Vec<PendingRow>>(data),
        ["nodes", _, "tasks"] => is::<Vec<TaskRow>>(data),
        ["nodes", _, "rrddata"] | ["nodes", _, "storage" | "qemu", _, "rrddata"] => is::<Vec<RrdRow>>(data),
        _ => Ok(false),
    }
}

#[test]
fn every_recorded_answer_to_a_read_decodes() {
    let Some(folder) = data() else { return };
    let mut decoded = 0;
    for entry in std::fs::read_dir(folder.join("pve/samples")).expect("the samples") {
        let path = entry.expect("readable").path();
        let mut sample = json(&path);
        if sample["request"]["method"] != "GET" || sample["response"]["status"] != 200 {
            continue;
        }
        let asked = sample["request"]["path"].as_str().expect("a path").to_owned();
        let data = sample["response"]["body"]["data"].take();
        let name = path.to_string_lossy();
        decoded += usize::from(decode(&asked, data).expect(&name));
    }
    assert!(decoded >= 45, "only {decoded} samples were of paths that are read");
}

#[test]
fn recorded_answers_have_the_recorded_values() {
    let Some(folder) = data() else { return };
    assert_eq!(read::<Version>(&folder, "001-version.json").version.as_deref(), Some("9.2.11"));
    let nodes: Vec<NodeRow> = read(&folder, "003-nodes.json");
    assert!(nodes[0].ssl_fingerprint.as_deref().is_some_and(|text| text.starts_with("D5:4E:C7:03")), "{nodes:?}");
    let memory = read::<NodeStatus>(&folder, "004-node-status.json").host_memory().expect("sizes");
    assert_eq!((memory.total, memory.available()), (Bytes(25_276_502_016), Bytes(23_134_961_664)));
    let pool = read::<Vec<LvmThin>>(&folder, "401-lvmthin-sample.json")[0].pool().expect("figures");
    assert_eq!((pool.name.as_str(), pool.size, pool.metadata_used), ("pve/data", Bytes(374_521_823_232), Bytes(59_673_201)));
    let current: GuestRow = read(&folder, "104-status-current-running.json");
    assert_eq!((current.status.as_deref(), current.tags.as_deref()), (Some("running"), Some("capplan;k8s")));
    let pending: Vec<PendingRow> = read(&folder, "112-pending.json");
    let cores = pending.iter().find(|row| row.key.as_deref() == Some("cores")).expect("cores");
    assert_eq!((cores.value.as_deref(), cores.pending.as_deref()), (Some("4"), Some("2")));
    let mapping = PciMapping::from(read::<Vec<MappingRow>>(&folder, "701-mapping-pci-configured.json").remove(0));
    assert_eq!((mapping.id.as_str(), mapping.hosts), ("gpu0", vec!["pve1".into()]));
    let task = read::<Vec<TaskRow>>(&folder, "312-task-list-errors.json").remove(0).failed(&"pve1".into()).expect("failed");
    assert_eq!((task.kind.as_str(), task.vmid, task.user.as_str()), ("qmstart", Some(VmId(777)), "capplan@pve"));
    let points: Vec<RrdRow> = read(&folder, "203-rrd-node-hour.json");
    assert_eq!((points.len(), points[0].memtotal), (60, Some(33_568_288_768.0)));
}

fn cluster(folder: &Path, name: &str) -> Pve {
    from_files(&folder.join("clusters").join(name).join("pve"))
}

fn guest(pve: &Pve, vmid: u32) -> &Guest {
    pve.guests.items().iter().find(|guest| guest.vmid == VmId(vmid)).expect("the guest")
}

#[test]
fn the_recorded_cluster_of_the_incident_is_read_from_its_files() {
    let Some(folder) = data() else { return };
    let pve = cluster(&folder, "lun-incident");
    let hosts = pve.hosts.known().expect("hosts");
    assert_eq!((hosts.len(), hosts[0].name.as_str()), (1, "pve"));
    assert_eq!(hosts[0].memory.known().map(|memory| memory.total), Some(Bytes(286_662_443_008)));
    let config = guest(&pve, 201).config.known().expect("the config");
    let slots: Vec<_> = config.csi_slots().collect();
    assert_eq!(slots.len(), 29, "no slot is left");
    assert!(slots[0].0 == 1 && !slots[0].1.is_csi(), "the OS disk is on scsi1: {slots:?}");
    assert_eq!(slots.iter().filter(|(_, disk)| disk.is_csi()).count(), 28);
}

#[test]
fn the_recorded_cluster_of_today_is_read_from_its_files() {
    let Some(folder) = data() else { return };
    let pve = cluster(&folder, "today");
    assert_eq!((pve.name.as_str(), pve.version.known().map(String::as_str)), ("pve", Some("8.4.1")));
    let host = &pve.hosts.known().expect("hosts")[0];
    assert_eq!(
        (host.online, host.cpus.known(), host.load, host.version.as_deref()),
        (true, Some(&44), Some(15.88), Some("8.4.1"))
    );
    let pool = &host.pools.known().expect("pools")[0];
    assert_eq!((pool.name.as_str(), pool.size, pool.used), ("pve/data", Bytes(11_588_852_556_759), Bytes(6_953_311_534_055)));
    assert_eq!((pool.metadata_size, pool.metadata_used), (Bytes(17_045_651_456), Bytes(2_642_075_975)));
    assert_eq!(host.storages.known().map(Vec::len), Some(2));
    assert_eq!(pve.guests.known().map(Vec::len), Some(16));
    let worker = guest(&pve, 205);
    assert_eq!((worker.name.as_str(), worker.power, worker.max_memory), ("k8s-node5", Power::Running, Bytes::gib(32)));
    assert_eq!(worker.config.known().expect("the config").addresses, ["10.0.20.105/22"]);
    let disk = &worker.config.known().expect("the config").disks["scsi0"];
    assert!(!disk.discard && disk.size == Some(Bytes::gib(256)), "in force until the restart: {disk:?}");
    assert!(worker.pending["scsi0"].as_deref().is_some_and(|value| value.contains("discard=on")), "{:?}", worker.pending);
    assert_eq!(worker.pending.len(), 1, "{:?}", worker.pending);
    assert!(guest(&pve, 2000).template && guest(&pve, 2000).power == Power::Stopped);
    assert_eq!(pve.failed_tasks.known().map(Vec::len), Some(0), "the recorded tasks went well");
    assert_eq!(pve.quorate.why().map(|why| why.starts_with("cluster_status.json is not in")), Some(true));
    assert!(pve.pci_mappings.known().is_none());
}

#[test]
fn a_missing_file_is_named_and_bare_data_is_read() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pve = from_files(folder.path());
    assert!(pve.hosts.why().is_some_and(|why| why.starts_with("nodes.json is not in")), "{:?}", pve.hosts);
    assert!(pve.version.why().is_some_and(|why| why.starts_with("version.json is not in")), "{:?}", pve.version);
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("writable");
    write("version.json", r#"{"version":"9.2.11","release":"9.2"}"#);
    write("nodes.json", r#"[{"node":"pve","status":"online"}]"#);
    write("nodes_pve_qemu.json", r#"{"data":[{"vmid":101,"status":"stopped","maxmem":1024}]}"#);
    write("nodes_pve_status.json", "nonsense");
    let pve = from_files(folder.path());
    assert_eq!(pve.version.known().map(String::as_str), Some("9.2.11"));
    assert!(pve.hosts.items()[0].memory.why().is_some_and(|why| why.contains("nodes_pve_status.json is not JSON")));
    let guest = guest(&pve, 101);
    assert_eq!(guest.max_memory, Bytes(1024));
    assert!(
        guest.config.why().is_some_and(|why| why.starts_with("nodes_pve_qemu_101_config.json is not in")),
        "{:?}",
        guest.config
    );
}
