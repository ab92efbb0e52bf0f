//! One reading of a whole endpoint: hosts, guests, storages, pools, mappings, failed tasks.
//!
//! It never fails: what could not be read is unknown, and says which request failed and why.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::ids::{HostName, VmId};
use capplan_model::pve::{
    BackupJob, FailedTask, Guest, GuestKind, GuestSnapshot, Host, PciMapping, Power, Pve, ReplicationJob, Storage, ThinPool,
};
use capplan_model::reading::Reading;
use futures::StreamExt;
use serde_json::Value;

use super::access::Access;
use super::answers::{self, Answers, Failure, ROUNDS, Request};
use super::client::Reader;
use super::config::{guest_config, pending, volumes};
use super::error::PveError;
use super::wire::{
    BackupRow, ClusterStatus, GuestRow, HaResource, LvmThin, MappingRow, NodeStatus, Options, ReplicationRow, Resource,
    StorageRow, TaskRow, Version, is_true, split_list,
};

/// Requests in flight at most: pveproxy has 3 workers and pvedaemon 3, which others use, too.
const IN_FLIGHT: usize = 8;

/// Reads everything the endpoint shows; `progress` is told what is being read.
///
/// A failing request makes its part unknown; a part is never empty or partial for that reason.
pub async fn observe(reader: &Reader, progress: &(dyn Fn(&str) + Sync)) -> Pve {
    rounds(reader, ROUNDS.len(), progress).await
}

/// Reads the hosts with their pools and storages, and no guest's configuration: guests stay unknown.
pub(super) async fn observe_hosts(reader: &Reader) -> Reading<Vec<Host>> {
    const WITHOUT_GUESTS: usize = 2;
    rounds(reader, WITHOUT_GUESTS, &|_| {}).await.hosts
}

async fn rounds(reader: &Reader, count: usize, progress: &(dyn Fn(&str) + Sync)) -> Pve {
    let mut answers = Answers::default();
    for (round, what) in ROUNDS.iter().zip(["cluster", "hosts", "guests", "snapshots"]).take(count) {
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
        | PveError::TooLarge { .. }
        | PveError::Fingerprint { .. }
        | PveError::Tls { .. }
        | PveError::Unauthorized { .. }
        | PveError::Forbidden { .. }
        | PveError::Api { .. }
        | PveError::Decode { .. }
        | PveError::Lost(_) => Failure::Failed(why),
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
            pools_shown: Reading::unknown(why),
            replication: Reading::unknown(why),
            backup_jobs: Reading::unknown(why),
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
        pools_shown: match access.doubt(&["Pool.Audit"], &["/", "/pool"], 0) {
            Some(why) => Reading::unknown(format!("GET {}: {why}", answers::cluster_resources().path)),
            None => Reading::Known(()),
        },
        replication: reading(answers.of::<Vec<ReplicationRow>>(&answers::replication())).and_then(|rows| {
            // A row that names no guest may be about any of them.
            let jobs: Option<Vec<ReplicationJob>> = rows.into_iter().map(ReplicationRow::job).collect();
            jobs.map_or_else(|| Reading::unknown("GET /cluster/replication: a job without a guest"), Reading::Known)
        }),
        backup_jobs: reading(answers.of::<Vec<BackupRow>>(&answers::backup_jobs()))
            .map(|rows| rows.into_iter().map(BackupJob::from).collect()),
    }
}

/// Ids of the guests that the HA manager manages: `vm:VMID` or `ct:VMID`.
fn ha_resources(answers: &Answers) -> Reading<BTreeSet<String>> {
    reading(answers.of::<Vec<HaResource>>(&answers::ha_resources()))
        .map(|rows| rows.into_iter().filter_map(|row| row.sid).collect())
}

/// Whether the HA manager manages a guest: by any of the three places that tell.
fn is_managed(managed: &Reading<BTreeSet<String>>, kind: GuestKind, vmid: VmId, rows: &[&GuestRow]) -> Reading<bool> {
    let sid = match kind {
        GuestKind::Qemu => format!("vm:{vmid}"),
        GuestKind::Lxc => format!("ct:{vmid}"),
    };
    let listed = managed.known().is_some_and(|all| all.contains(&sid));
    let by_row =
        rows.iter().any(|row| row.ha_managed == Some(true) || row.hastate.as_ref().is_some_and(|state| !state.is_empty()));
    if listed || by_row {
        return Reading::Known(true);
    }
    if managed.known().is_some() || rows.iter().any(|row| row.ha_managed == Some(false)) {
        return Reading::Known(false);
    }
    Reading::unknown(managed.why().unwrap_or("not read"))
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
            if let Some(why) = access.doubt(&["Datastore.Audit", "Datastore.AllocateSpace"], &["/", "/storage"], rows.len()) {
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
    let gathered: BTreeMap<VmId, &Resource> = resources.items().iter().filter_map(|row| Some((row.guest.vmid()?, row))).collect();
    let managed = ha_resources(answers);
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
            if let Some(resource) = gathered.get(&vmid) {
                // What `pvestatd` gathered up to 10 s ago; the host's own list knows better.
                resource.guest.describe(&mut guest);
                guest.pool.clone_from(&resource.pool);
            }
            row.describe(&mut guest);
            let rows: Vec<&GuestRow> = gathered.get(&vmid).map(|resource| &resource.guest).into_iter().chain([&row]).collect();
            read_guest(answers, &rows, &managed, &mut guest);
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
        let ha = is_managed(&managed, kind, vmid, &[&row.guest]);
        let snapshots = Reading::unknown(format!("host {host} is offline"));
        let mut guest = Guest { vmid, kind, host, config, ha, snapshots, ..Default::default() };
        row.guest.describe(&mut guest);
        guests.entry(vmid).or_insert(guest);
    }
    match access.doubt(&["VM.Audit"], &["/", "/vms"], guests.len()) {
        Some(why) => Reading::unknown(why),
        None => Reading::Known(guests.into_values().collect()),
    }
}

/// Fills in what the answers about one guest say. `rows` are those of the lists, the freshest last.
fn read_guest(answers: &Answers, rows: &[&GuestRow], managed: &Reading<BTreeSet<String>>, guest: &mut Guest) {
    let (host, kind, vmid) = (guest.host.0.clone(), guest.kind, u64::from(guest.vmid.0));
    let host = plain(&host);
    let now: Reading<Options> = reading(answers.of(&answers::config_now(host, kind, vmid)));
    let merged: Result<Options, Failure> = answers.of(&answers::config_merged(host, kind, vmid));
    if let (Reading::Known(now), Ok(merged)) = (&now, merged) {
        guest.pending = pending(now, &merged);
    }
    let mut rows: Vec<&GuestRow> = rows.to_vec();
    // Without this answer the list's word on power and memory stands.
    let current = answers.of::<GuestRow>(&answers::status_current(host, kind, vmid)).ok();
    if let Some(current) = &current {
        current.describe(guest);
        rows.push(current);
    }
    guest.ha = is_managed(managed, kind, guest.vmid, &rows);
    if let Reading::Known(options) = &now {
        // The lists are up to 10 s old: what the configuration itself says counts, and what it does not say is not so.
        let value = |key: &str| options.0.get(key).filter(|text| !text.is_empty());
        guest.tags = value("tags").map(|text| split_list(text)).unwrap_or_default();
        guest.lock = value("lock").cloned();
        guest.template = value("template").is_some_and(|text| is_true(text));
    }
    guest.config = now.map(|options| guest_config(&options, kind, guest.cpus));
    if let Some(config) = guest.config.known().filter(|config| !config.name.is_empty()) {
        guest.name.clone_from(&config.name);
    }
    guest.snapshots = reading(answers.snapshots_of(host, kind, vmid)).and_then(|names| {
        let section = |name: String| {
            let options: Options = answers.of(&answers::snapshot_config(host, kind, vmid, &name))?;
            Ok(GuestSnapshot { disks: volumes(&options, kind), name })
        };
        reading(names.into_iter().map(section).collect())
    });
}

/// The name of a host at its endpoint: one that several endpoints have is prefixed by the endpoint's.
fn plain(host: &str) -> &str {
    host.split_once('/').map_or(host, |(_, plain)| plain)
}

/// Reads one guest again, by itself: snapshots first, then its status, its configuration last.
///
/// # Errors
/// [`PveError`] if it is not there, or its configuration or status cannot be read.
pub async fn observe_guest(reader: &Reader, guest: &Guest) -> Result<Guest, PveError> {
    let (host, vmid) = (plain(guest.host.as_str()), u64::from(guest.vmid.0));
    let mut answers = Answers::default();
    answers.extend(read(reader, vec![answers::snapshots(host, guest.kind, vmid), answers::ha_resources()]).await);
    let sections = answers::of_snapshots(&answers, host, guest.kind, vmid);
    answers.extend(read(reader, sections).await);
    for request in [
        answers::status_current(host, guest.kind, vmid),
        answers::config_merged(host, guest.kind, vmid),
        answers::config_now(host, guest.kind, vmid),
    ] {
        let answer: Value = reader.get(&request.path, request.query).await?;
        answers.extend([(request, Ok(answer))]);
    }
    let mut fresh =
        Guest { vmid: guest.vmid, kind: guest.kind, host: guest.host.clone(), cpus: guest.cpus, ..Default::default() };
    fresh.pool.clone_from(&guest.pool);
    read_guest(&answers, &[], &ha_resources(&answers), &mut fresh);
    Ok(fresh)
}

fn failed_tasks(answers: &Answers, hosts: &BTreeMap<String, bool>, access: &Access) -> Reading<Vec<FailedTask>> {
    let mut tasks = Vec::new();
    for host in hosts.iter().filter(|(_, online)| **online).map(|(host, _)| host) {
        let rows: Vec<TaskRow> = match answers.of(&answers::tasks(host)) {
            Ok(rows) => rows,
            Err(failure) => return Reading::unknown(failure.why()),
        };
        let path = format!("/nodes/{host}");
        if let Some(why) = access.doubt(&["Sys.Audit"], &["/", "/nodes", &path], rows.len()) {
            return Reading::unknown(format!("GET {}: {why}", answers::tasks(host).path));
        }
        let host = HostName::from(host.as_str());
        tasks.extend(rows.into_iter().filter_map(|row| row.failed(&host)));
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
mod tests;
