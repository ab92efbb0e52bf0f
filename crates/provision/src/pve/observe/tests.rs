//! From answers to the model's value.

use capplan_model::pve::{GuestKind, Power};
use capplan_model::units::Bytes;
use serde_json::json;

use super::*;

/// Two hosts, `b` offline, with a VM and a container on `a` and a VM on `b`.
fn cluster() -> BTreeMap<&'static str, Result<Value, Failure>> {
    BTreeMap::from(
        [
            ("/version", json!({"version": "9.2.11"})),
            ("/access/permissions", json!({"/": {"Sys.Audit": 1, "VM.Audit": 1, "Datastore.Audit": 1, "Mapping.Audit": 1}})),
            (
                "/cluster/status",
                json!([{"type": "cluster", "name": "lab", "quorate": 1}, {"type": "node", "name": "a", "online": 1}]),
            ),
            (
                "/cluster/resources",
                json!([
                    {"type": "node", "node": "a", "status": "online"},
                    {"type": "qemu", "node": "a", "vmid": 101, "status": "running", "tags": "k8s;x", "lock": "backup"},
                    {"type": "qemu", "node": "b", "vmid": 102, "name": "far", "status": "unknown", "maxmem": 4096, "maxcpu": 2},
                ]),
            ),
            ("/nodes", json!([{"node": "b", "status": "offline"}, {"node": "a", "status": "online"}])),
            ("/cluster/mapping/pci", json!([{"id": "gpu0", "map": ["id=1:2,node=b,path=0", "id=1:2,node=a,path=0"]}])),
            (
                "/nodes/a/status",
                json!({"memory": {"total": 10, "used": 4, "free": 6}, "cpuinfo": {"cpus": 8}, "loadavg": ["1", "2.5", "3"]}),
            ),
            (
                "/nodes/a/storage",
                json!([{"storage": "z", "total": 9}, {"storage": "local", "content": "iso,backup", "active": 1}]),
            ),
            (
                "/nodes/a/disks/lvmthin",
                json!([{"vg": "pve", "lv": "data", "lv_size": 9, "used": 5, "metadata_size": 3, "metadata_used": 1}]),
            ),
            ("/nodes/a/qemu", json!([{"vmid": 101, "name": "one", "status": "running", "cpus": 4, "maxmem": 2048, "mem": 7}])),
            ("/nodes/a/lxc", json!([{"vmid": "105", "name": "ct", "status": "stopped", "cpus": 2, "maxmem": 512, "mem": 0}])),
            (
                "/nodes/a/tasks",
                json!([{"type": "qmconfig", "id": "101", "status": "no free lun found", "endtime": 1_787_215_501}]),
            ),
            ("/nodes/a/qemu/101/config?current=1", json!({"name": "one", "memory": "4096", "scsi1": "l:vm-9999-pvc-1,size=1G"})),
            (
                "/nodes/a/qemu/101/config",
                json!({"name": "one", "memory": "8192", "scsi1": "l:vm-9999-pvc-1,size=1G", "cipassword": "x"}),
            ),
            ("/nodes/a/qemu/101/status/current", json!({"vmid": 101, "status": "running", "qmpstatus": "io-error", "mem": 8})),
            (
                "/nodes/a/lxc/105/config?current=1",
                json!({"hostname": "ct", "rootfs": "l:vm-105-disk-0,size=8G", "lxc": [["a", "b"]]}),
            ),
        ]
        .map(|(path, value)| (path, Ok(value))),
    )
}

fn plane(with: &BTreeMap<&'static str, Result<Value, Failure>>) -> Pve {
    let mut answers = Answers::default();
    for round in ROUNDS {
        let requests = round(&answers);
        answers.extend(requests.into_iter().map(|request| {
            let query = if request.query.contains(&("current", "1")) { "?current=1" } else { "" };
            let missing = || Err(Failure::Failed(format!("GET {}: refused", request.path)));
            let answer = with.get(format!("{}{query}", request.path).as_str()).cloned().unwrap_or_else(missing);
            (request, answer)
        }));
    }
    assemble("", &answers)
}

#[test]
fn a_cluster_is_read_whole_and_in_order() {
    let pve = plane(&cluster());
    assert_eq!((pve.name.as_str(), pve.quorate.known()), ("lab", Some(&true)));
    let hosts = pve.hosts.known().expect("hosts");
    assert_eq!(hosts.iter().map(|host| (host.name.as_str(), host.online)).collect::<Vec<_>>(), [("a", true), ("b", false)]);
    assert_eq!((hosts[0].load, hosts[0].cpus.known()), (Some(2.5), Some(&8)));
    let storages: Vec<&str> = hosts[0].storages.items().iter().map(|storage| storage.name.as_str()).collect();
    assert_eq!(storages, ["local", "z"]);
    assert_eq!(hosts[0].pools.items()[0].name, "pve/data");
    assert_eq!(hosts[1].memory.why(), Some("host b is offline"));
    let guests = pve.guests.known().expect("guests");
    assert_eq!(guests.iter().map(|guest| guest.vmid.0).collect::<Vec<_>>(), [101, 102, 105]);
    let one = &guests[0];
    assert_eq!((one.power, one.qmp_status.as_deref(), one.memory_used), (Power::Running, Some("io-error"), Some(Bytes(8))));
    // What the gathered row still says of tags and a lock is not so any more: the configuration has neither.
    assert_eq!((one.tags.join(" "), one.lock.as_deref(), one.cpus), (String::new(), None, 4));
    assert_eq!(one.config.known().map(|config| config.memory), Some(Bytes::gib(4)), "what is in force");
    assert_eq!(one.pending, BTreeMap::from([("memory".to_owned(), Some("8192".to_owned()))]));
    let far = &guests[1];
    assert_eq!((far.host.as_str(), far.power, far.max_memory, far.cpus), ("b", Power::Unknown, Bytes(4096), 2));
    assert_eq!(far.config.why(), Some("host b is offline"));
    let container = &guests[2];
    assert_eq!((container.kind, container.power, container.memory_used), (GuestKind::Lxc, Power::Stopped, None));
    assert_eq!(container.config.known().map(|config| config.cores), Some(2), "all that it may use");
    assert_eq!(pve.pci_mappings.items()[0].hosts, ["a".into(), "b".into()]);
    assert_eq!(pve.failed_tasks.items()[0].status, "no free lun found");
}

#[test]
fn each_request_that_fails_makes_its_part_unknown_and_no_other_empty() {
    for path in cluster().into_keys() {
        let mut without = cluster();
        without.remove(path);
        let pve = plane(&without);
        let request = format!("GET {}: refused", path.trim_end_matches("?current=1"));
        let hosts = pve.hosts.items();
        let host = hosts.first();
        let unknown = [
            pve.version.why(),
            pve.quorate.why(),
            pve.hosts.why(),
            pve.guests.why(),
            pve.pci_mappings.why(),
            pve.failed_tasks.why(),
            host.and_then(|host| host.memory.why()),
            host.and_then(|host| host.pools.why()),
            host.and_then(|host| host.storages.why()),
            pve.guests.items().iter().find_map(|guest| guest.config.why().filter(|why| !why.contains("offline"))),
        ];
        let harmless = ["/access/permissions", "/nodes/a/qemu/101/config", "/nodes/a/qemu/101/status/current"];
        let told = unknown.iter().flatten().any(|why| why.contains(&request));
        assert_eq!(told, !harmless.contains(&path), "{path}: {unknown:?}");
        if matches!(path, "/nodes/a/qemu" | "/nodes/a/lxc" | "/cluster/resources" | "/nodes") {
            assert!(pve.guests.why().is_some_and(|why| why.contains(&request)), "{path}: {:?}", pve.guests);
        }
    }
}

#[test]
fn a_host_without_containers_support_has_none() {
    let mut without = cluster();
    without.insert("/nodes/a/lxc", Err(Failure::NotImplemented("GET /nodes/a/lxc: not implemented".into())));
    assert_eq!(plane(&without).guests.known().map(Vec::len), Some(2));
}

#[test]
fn lists_are_unknown_where_the_token_may_not_see_all() {
    let mut blind = cluster();
    blind.insert("/access/permissions", Ok(json!({"/nodes": {"Sys.Audit": 1}, "/vms/101": {"VM.Audit": 1}})));
    let pve = plane(&blind);
    assert_eq!(pve.guests.why(), Some("token lacks VM.Audit on /vms: PVE leaves out what it may not see"));
    assert!(pve.hosts.items()[0].storages.why().is_some_and(|why| why.contains("Datastore.Audit on /storage")));
    assert!(pve.hosts.items()[0].memory.known().is_some());
    blind.insert("/access/permissions", Ok(json!({})));
    let pve = plane(&blind);
    for why in [pve.quorate.why(), pve.hosts.why(), pve.guests.why(), pve.pci_mappings.why(), pve.failed_tasks.why()] {
        assert!(why.is_some_and(|why| why.contains("no privilege at all")), "{why:?}");
    }
    let mut unchecked = cluster();
    unchecked.remove("/access/permissions");
    assert_eq!(plane(&unchecked).guests.known().map(Vec::len), Some(3));
    unchecked.insert("/nodes/a/storage", Ok(json!([])));
    assert!(plane(&unchecked).hosts.items()[0].storages.why().is_some_and(|why| why.contains("empty")));
}

#[test]
fn a_host_alone_is_quorate_and_gives_its_name() {
    let mut alone = cluster();
    alone.insert("/cluster/status", Ok(json!([{"type": "node", "name": "a", "online": 1}])));
    alone.insert("/nodes", Ok(json!([{"node": "a", "status": "unknown"}])));
    let pve = plane(&alone);
    assert_eq!((pve.name.as_str(), pve.quorate.known()), ("a", Some(&true)));
    assert!(pve.hosts.items()[0].online, "unknown is a host without statistics");
    alone.insert("/cluster/status", Ok(json!([])));
    assert_eq!(plane(&alone).quorate.known(), None);
}
