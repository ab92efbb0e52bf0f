//! One reading of a whole endpoint: hosts, guests, storages, pools, mappings, failed tasks.
//!
//! It never fails: what could not be read is unknown, and says which request failed and why.

use std::collections::BTreeMap;

use capplan_model::ids::{HostName, VmId};
use capplan_model::pve::{FailedTask, Guest, Host, PciMapping, Power, Pve, Storage, ThinPool};
use capplan_model::reading::Reading;
use futures::StreamExt;
use serde_json::Value;

use super::access::Access;
use super::answers::{self, Answers, Failure, ROUNDS, Request};
use super::client::Reader;
use super::config::{guest_config, pending};
use super::error::PveError;
use super::wire::{ClusterStatus, GuestRow, LvmThin, MappingRow, NodeStatus, Options, Resource, StorageRow, TaskRow, Version};

/// Requests in flight at most: pveproxy has 3 workers and pvedaemon 3, which others use, too.
const IN_FLIGHT: usize = 8;

/// Reads everything the endpoint shows; `progress` is told what is being read.
///
/// A failing request makes its part unknown; a part is never empty or partial for that reason.
pub async fn observe(reader: &Reader, progress: &(dyn Fn(&str) + Sync)) -> Pve {
    let mut answers = Answers::default();
    for (round, what) in ROUNDS.iter().zip(["cluster", "hosts", "guests"]) {
        let requests = round(&answers);
        progress(&format!("reading {what} ({} requests)", requests.len()));
        answers.extend(read(reader, requests).await);
    }
    assemble(reader.name(), &answers)
}

async fn read(reader: &Reader, requests: Vec<Request>) -> Vec<(Request, Result<Value, Failure>)> {
    let ask = |request: Request| async move {
        let answer = reader.get(&request.path, request.query).await.map_err(|error| failure(&request, &error));
        (request, answer)
    };
    // The answers come in any order; they are looked up by their request.
    futures::stream::iter(requests).map(ask).buffer_unordered(IN_FLIGHT).collect().await
}

fn failure(request: &Request, error: &PveError) -> Failure {
    let mut why = error.to_string();
    if !why.contains(&request.path) {
        why = format!("GET {}: {why}", request.path);
    }
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        why = format!("{why}: {next}");
        cause = next.source();
    }
    match error {
        PveError::Api { status: 501, .. } => Failure::NotImplemented(why),
        PveError::Connect { .. }
        | PveError::Timeout { .. }
        | PveError::Fingerprint { .. }
        | PveError::Tls { .. }
        | PveError::Unauthorized { .. }
        | PveError::Forbidden { .. }
        | PveError::Api { .. }
        | PveError::Decode { .. } => Failure::Failed(why),
    }
}

fn reading<T>(answer: Result<T, Failure>) -> Reading<T> {
    match answer {
        Ok(value) => Reading::Known(value),
        Err(failure) => Reading::unknown(failure.why()),
    }
}

/// Puts the answers together; the same answers give the same value, to the byte.
pub(super) fn assemble(name: &str, answers: &Answers) -> Pve {
    let version = reading(answers.of::<Version>(&answers::version())).and_then(|version| match version.version {
        Some(version) => Reading::Known(version),
        None => Reading::unknown("GET /version: no version in the answer"),
    });
    let access = answers.of(&answers::permissions()).map_or(Access::Unchecked, Access::Checked);
    let cluster: Result<Vec<ClusterStatus>, Failure> = answers.of(&answers::cluster_status());
    let hosts = answers.hosts();
    let cluster_name = || cluster.as_ref().ok()?.iter().find(|row| row.kind.as_deref() == Some("cluster"))?.name.clone();
    let only_host = || hosts.as_ref().ok().filter(|hosts| hosts.len() == 1)?.keys().next().cloned();
    let name = Some(name.to_owned()).filter(|name| !name.is_empty()).or_else(cluster_name).or_else(only_host).unwrap_or_default();
    if access.is_empty() {
        let why = "the token has no privilege at all: if privileges are separated, both the user and the token need a role";
        return Pve {
            name,
            version,
            quorate: Reading::unknown(why),
            hosts: Reading::unknown(why),
            guests: Reading::unknown(why),
            pci_mappings: Reading::unknown(why),
            failed_tasks: Reading::unknown(why),
        };
    }
    Pve {
        name,
        version,
        quorate: reading(cluster).and_then(quorate),
        guests: reading(hosts.clone()).and_then(|hosts| guests(answers, &hosts, &access)),
        failed_tasks: reading(hosts.clone()).and_then(|hosts| failed_tasks(answers, &hosts, &access)),
        hosts: reading(hosts).map(|hosts| hosts.iter().map(|(name, online)| host(answers, name, *online, &access)).collect()),
        pci_mappings: pci_mappings(answers, &access),
    }
}

/// A host alone has no `cluster` row, and decides alone.
fn quorate(rows: Vec<ClusterStatus>) -> Reading<bool> {
    match rows.iter().find(|row| row.kind.as_deref() == Some("cluster")) {
        Some(cluster) => match cluster.quorate {
            Some(quorate) => Reading::Known(quorate),
            None => Reading::unknown("GET /cluster/status: no word on quorum"),
        },
        None if rows.is_empty() => Reading::unknown("GET /cluster/status: the list is empty"),
        None => Reading::Known(true),
    }
}

fn host(answers: &Answers, name: &str, online: bool, access: &Access) -> Host {
    if !online {
        let why = format!("host {name} is offline");
        return Host {
            name: name.into(),
            online,
            memory: Reading::unknown(&why),
            cpus: Reading::unknown(&why),
            pools: Reading::unknown(&why),
            storages: Reading::unknown(&why),
            ..Default::default()
        };
    }
    let request = answers::status(name);
    let lacks = |what: &str| format!("GET {}: no {what} in the answer", request.path);
    let status: Reading<NodeStatus> = reading(answers.of(&request));
    let memory =
        status.as_ref().and_then(|status| status.host_memory().map_or_else(|| Reading::unknown(lacks("memory")), Reading::Known));
    let cpus = status.as_ref().and_then(|status| {
        let cpus = status.cpuinfo.as_ref().and_then(|processors| processors.cpus);
        cpus.map_or_else(|| Reading::unknown(lacks("number of CPUs")), Reading::Known)
    });
    let status = status.into_known().unwrap_or_default();
    Host {
        name: name.into(),
        online,
        memory,
        cpus,
        load: status.loadavg.get(1).copied(),
        io_wait: status.wait,
        uptime: status.uptime,
        version: status.version(),
        pools: reading(answers.of(&answers::thin_pools(name))).and_then(|rows: Vec<LvmThin>| pools(&rows, name)),
        storages: reading(answers.of(&answers::storages(name))).and_then(|rows: Vec<StorageRow>| {
            if let Some(why) = access.doubt(&["Datastore.Audit"], &["/", "/storage"], rows.len()) {
                return Reading::unknown(format!("GET {}: {why}", answers::storages(name).path));
            }
            let mut storages: Vec<Storage> = rows.into_iter().map(Storage::from).collect();
            storages.sort_by(|one, other| one.name.cmp(&other.name));
            Reading::Known(storages)
        }),
    }
}

fn pools(rows: &[LvmThin], host: &str) -> Reading<Vec<ThinPool>> {
    let mut pools = Vec::new();
    for row in rows {
        match row.pool() {
            Some(pool) => pools.push(pool),
            None => {
                let path = answers::thin_pools(host).path;
                let name = row.lv.as_deref().unwrap_or("without a name");
                return Reading::unknown(format!("GET {path}: pool {name} has no figures"));
            }
        }
    }
    pools.sort_by(|one, other| one.name.cmp(&other.name));
    Reading::Known(pools)
}

/// All guests or none: a partial sum of memory must not pass for the whole.
fn guests(answers: &Answers, hosts: &BTreeMap<String, bool>, access: &Access) -> Reading<Vec<Guest>> {
    let resources: Reading<Vec<Resource>> = reading(answers.of(&answers::cluster_resources()));
    let mut guests: BTreeMap<VmId, Guest> = BTreeMap::new();
    let listed = |vmid: Option<VmId>, path: &str| vmid.ok_or_else(|| format!("GET {path}: a guest without a VMID"));
    for (host, online) in hosts {
        if !online {
            if let Some(why) = resources.why() {
                return Reading::unknown(format!("guests of host {host}, which is offline: {why}"));
            }
            continue;
        }
        let rows = match answers.guests_of(host) {
            Ok(rows) => rows,
            Err(failure) => return Reading::unknown(failure.why()),
        };
        for (kind, row) in rows {
            let vmid = match listed(row.vmid(), &answers::qemu(host).path) {
                Ok(vmid) => vmid,
                Err(why) => return Reading::unknown(why),
            };
            let mut guest = Guest { vmid, kind, host: HostName::from(host.as_str()), ..Default::default() };
            if let Some(resource) = resources.items().iter().find(|one| one.guest.vmid() == Some(vmid)) {
                // What `pvestatd` gathered up to 10 s ago; the host's own list knows better.
                resource.guest.describe(&mut guest);
            }
            row.describe(&mut guest);
            read_guest(answers, &row, &mut guest);
            // A guest that migrates meanwhile is seen on two hosts: it is the one that runs.
            let is_better = guests.get(&vmid).is_none_or(|other| other.power != Power::Running);
            if is_better {
                guests.insert(vmid, guest);
            }
        }
    }
    let offline = |row: &&Resource| row.node.as_ref().and_then(|node| hosts.get(node)) == Some(&false);
    for row in resources.items().iter().filter(offline) {
        let Some(kind) = row.guest_kind() else { continue };
        let vmid = match listed(row.guest.vmid(), "/cluster/resources") {
            Ok(vmid) => vmid,
            Err(why) => return Reading::unknown(why),
        };
        let host = HostName(row.node.clone().unwrap_or_default());
        let config = Reading::unknown(format!("host {host} is offline"));
        let mut guest = Guest { vmid, kind, host, config, ..Default::default() };
        row.guest.describe(&mut guest);
        guests.entry(vmid).or_insert(guest);
    }
    match access.doubt(&["VM.Audit"], &["/", "/vms"], guests.len()) {
        Some(why) => Reading::unknown(why),
        None => Reading::Known(guests.into_values().collect()),
    }
}

fn read_guest(answers: &Answers, row: &GuestRow, guest: &mut Guest) {
    let (host, kind, vmid) = (guest.host.as_str(), guest.kind, row.vmid.unwrap_or_default());
    let now: Reading<Options> = reading(answers.of(&answers::config_now(host, kind, vmid)));
    let merged: Result<Options, Failure> = answers.of(&answers::config_merged(host, kind, vmid));
    if let (Reading::Known(now), Ok(merged)) = (&now, merged) {
        guest.pending = pending(now, &merged);
    }
    // Without this answer the list's word on power and memory stands.
    if let Ok(current) = answers.of::<GuestRow>(&answers::status_current(host, kind, vmid)) {
        current.describe(guest);
    }
    if let Some(lock) = now.known().and_then(|options| options.0.get("lock")).filter(|_| guest.lock.is_none()) {
        guest.lock = Some(lock.clone());
    }
    guest.config = now.map(|options| guest_config(&options, kind, guest.cpus));
    if let Some(config) = guest.config.known().filter(|_| guest.name.is_empty()) {
        guest.name.clone_from(&config.name);
    }
}

fn failed_tasks(answers: &Answers, hosts: &BTreeMap<String, bool>, access: &Access) -> Reading<Vec<FailedTask>> {
    let mut tasks = Vec::new();
    let mut rows_read = 0;
    for host in hosts.iter().filter(|(_, online)| **online).map(|(host, _)| host) {
        let rows: Vec<TaskRow> = match answers.of(&answers::tasks(host)) {
            Ok(rows) => rows,
            Err(failure) => return Reading::unknown(failure.why()),
        };
        rows_read += rows.len();
        let host = HostName::from(host.as_str());
        tasks.extend(rows.into_iter().filter_map(|row| row.failed(&host)));
    }
    if let Some(why) = access.doubt(&["Sys.Audit"], &["/", "/nodes"], rows_read) {
        return Reading::unknown(format!("failed tasks: {why}"));
    }
    tasks.sort_by(|one, other| {
        (one.at, &one.host, &one.kind, one.vmid, &one.status).cmp(&(
            other.at,
            &other.host,
            &other.kind,
            other.vmid,
            &other.status,
        ))
    });
    Reading::Known(tasks)
}

fn pci_mappings(answers: &Answers, access: &Access) -> Reading<Vec<PciMapping>> {
    reading(answers.of(&answers::pci_mappings())).and_then(|rows: Vec<MappingRow>| {
        let privileges = ["Mapping.Audit", "Mapping.Use", "Mapping.Modify"];
        if let Some(why) = access.doubt(&privileges, &["/", "/mapping", "/mapping/pci"], rows.len()).filter(|_| rows.is_empty()) {
            return Reading::unknown(format!("GET {}: {why}", answers::pci_mappings().path));
        }
        let mut mappings: Vec<PciMapping> = rows.into_iter().map(PciMapping::from).collect();
        mappings.sort_by(|one, other| one.id.cmp(&other.id));
        Reading::Known(mappings)
    })
}

#[cfg(test)]
mod tests {
    use capplan_model::pve::{GuestKind, Power};
    use capplan_model::units::Bytes;
    use serde_json::json;

    use super::*;

    /// Two hosts, `b` offline, with a VM and a container on `a` and a VM on `b`.
    fn cluster() -> BTreeMap<&'static str, Result<Value, Failure>> {
        BTreeMap::from([
            ("/version", json!({"version": "9.2.11"})),
            ("/access/permissions", json!({"/": {"Sys.Audit": 1, "VM.Audit": 1, "Datastore.Audit": 1, "Mapping.Audit": 1}})),
            ("/cluster/status", json!([{"type": "cluster", "name": "lab", "quorate": 1}, {"type": "node", "name": "a", "online": 1}])),
            ("/cluster/resources", json!([
                {"type": "node", "node": "a", "status": "online"},
                {"type": "qemu", "node": "a", "vmid": 101, "status": "running", "tags": "k8s;x", "lock": "backup"},
                {"type": "qemu", "node": "b", "vmid": 102, "name": "far", "status": "unknown", "maxmem": 4096, "maxcpu": 2},
            ])),
            ("/nodes", json!([{"node": "b", "status": "offline"}, {"node": "a", "status": "online"}])),
            ("/cluster/mapping/pci", json!([{"id": "gpu0", "map": ["id=1:2,node=b,path=0", "id=1:2,node=a,path=0"]}])),
            ("/nodes/a/status", json!({"memory": {"total": 10, "used": 4, "free": 6}, "cpuinfo": {"cpus": 8}, "loadavg": ["1", "2.5", "3"]})),
            ("/nodes/a/storage", json!([{"storage": "z", "total": 9}, {"storage": "local", "content": "iso,backup", "active": 1}])),
            ("/nodes/a/disks/lvmthin", json!([{"vg": "pve", "lv": "data", "lv_size": 9, "used": 5, "metadata_size": 3, "metadata_used": 1}])),
            ("/nodes/a/qemu", json!([{"vmid": 101, "name": "one", "status": "running", "cpus": 4, "maxmem": 2048, "mem": 7}])),
            ("/nodes/a/lxc", json!([{"vmid": "105", "name": "ct", "status": "stopped", "cpus": 2, "maxmem": 512, "mem": 0}])),
            ("/nodes/a/tasks", json!([{"type": "qmconfig", "id": "101", "status": "no free lun found", "endtime": 1_787_215_501}])),
            ("/nodes/a/qemu/101/config?current=1", json!({"name": "one", "memory": "4096", "scsi1": "l:vm-9999-pvc-1,size=1G"})),
            ("/nodes/a/qemu/101/config", json!({"name": "one", "memory": "8192", "scsi1": "l:vm-9999-pvc-1,size=1G", "cipassword": "x"})),
            ("/nodes/a/qemu/101/status/current", json!({"vmid": 101, "status": "running", "qmpstatus": "io-error", "mem": 8})),
            ("/nodes/a/lxc/105/config?current=1", json!({"hostname": "ct", "rootfs": "l:vm-105-disk-0,size=8G", "lxc": [["a", "b"]]})),
        ].map(|(path, value)| (path, Ok(value))))
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
        assert_eq!((one.tags.join(" "), one.lock.as_deref(), one.cpus), ("k8s x".to_owned(), Some("backup"), 4));
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
}
