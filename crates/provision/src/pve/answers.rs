//! The answers to a set of requests, and which requests an observation needs.
//!
//! No I/O: the requests of a round follow from the answers before it, wherever those come from.

use std::collections::BTreeMap;

use capplan_model::pve::GuestKind;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::client::segment;
use super::wire::{ClusterStatus, GuestRow, NodeRow, Resource, SnapshotRow};

/// One GET.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Request {
    /// Such as `/nodes`, segments encoded.
    pub(super) path: String,
    /// Parameters.
    pub(super) query: &'static [(&'static str, &'static str)],
}

impl Request {
    fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), query: &[] }
    }
}

/// Why there is no answer; the texts name request and cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// It was not saved (files only).
    Missing(String),
    /// The host does not know the request (501).
    NotImplemented(String),
    /// Anything else.
    Failed(String),
}

impl Failure {
    /// The text.
    pub(super) fn why(self) -> String {
        match self {
            Self::Missing(why) | Self::NotImplemented(why) | Self::Failed(why) => why,
        }
    }
}

/// What came back, by request.
#[derive(Debug, Default)]
pub(super) struct Answers(BTreeMap<Request, Result<Value, Failure>>);

impl Answers {
    /// Adds the answers of a round.
    pub(super) fn extend(&mut self, answers: impl IntoIterator<Item = (Request, Result<Value, Failure>)>) {
        self.0.extend(answers);
    }

    /// The decoded answer to a request.
    pub(super) fn of<T: DeserializeOwned>(&self, request: &Request) -> Result<T, Failure> {
        match self.0.get(request) {
            Some(Ok(value)) => T::deserialize(value)
                .map_err(|error| Failure::Failed(format!("GET {}: unexpected answer: {error}", request.path))),
            Some(Err(failure)) => Err(failure.clone()),
            None => Err(Failure::Failed(format!("GET {}: was not asked", request.path))),
        }
    }

    /// Hosts and whether they are online, by name.
    pub(super) fn hosts(&self) -> Result<BTreeMap<String, bool>, Failure> {
        let rows: Vec<NodeRow> = match self.of(&nodes()) {
            Err(Failure::Missing(why)) => {
                let rows: Vec<Resource> = self.of(&cluster_resources()).map_err(|_| Failure::Missing(why))?;
                let rows = rows.into_iter().filter(|row| row.kind.as_deref() == Some("node"));
                rows.map(|row| NodeRow { node: row.node, status: row.status, ssl_fingerprint: None }).collect()
            }
            rows => rows?,
        };
        let seen: Vec<ClusterStatus> = self.of(&cluster_status()).unwrap_or_default();
        let mut hosts = BTreeMap::new();
        for row in rows {
            let Some(name) = row.node else {
                return Err(Failure::Failed("GET /nodes: a host without a name".to_owned()));
            };
            // `unknown` is a host that has no statistics yet, or is gone: the cluster knows which.
            let online = match row.status.as_deref() {
                Some("online") => true,
                Some("offline") => false,
                _ => seen.iter().find(|one| one.name.as_deref() == Some(&name)).and_then(|one| one.online).unwrap_or(true),
            };
            hosts.insert(name, online);
        }
        if hosts.is_empty() {
            return Err(Failure::Failed("GET /nodes: the list is empty".to_owned()));
        }
        Ok(hosts)
    }

    /// Guests of a host that is online, VMs and containers.
    pub(super) fn guests_of(&self, host: &str) -> Result<Vec<(GuestKind, GuestRow)>, Failure> {
        let vms: Vec<GuestRow> = self.of(&qemu(host))?;
        let containers: Vec<GuestRow> = match self.of(&lxc(host)) {
            // A host that knows no containers has none.
            Err(Failure::NotImplemented(_) | Failure::Missing(_)) => Vec::new(),
            containers => containers?,
        };
        let rows = vms.into_iter().map(|row| (GuestKind::Qemu, row));
        Ok(rows.chain(containers.into_iter().map(|row| (GuestKind::Lxc, row))).collect())
    }

    /// Guests of all hosts that are online: host, kind and VMID.
    fn online_guests(&self) -> Vec<(String, GuestKind, u64)> {
        let online = self.hosts().unwrap_or_default().into_iter().filter(|(_, online)| *online);
        let mut guests = Vec::new();
        for (host, _) in online {
            let rows = self.guests_of(&host).unwrap_or_default().into_iter();
            guests.extend(rows.filter_map(|(kind, row)| Some((host.clone(), kind, row.vmid?))));
        }
        guests
    }

    /// Names of a guest's snapshots, the current state left out.
    pub(super) fn snapshots_of(&self, host: &str, kind: GuestKind, vmid: u64) -> Result<Vec<String>, Failure> {
        let request = snapshots(host, kind, vmid);
        let rows: Vec<SnapshotRow> = self.of(&request)?;
        let name = |row: SnapshotRow| {
            row.name.ok_or_else(|| Failure::Failed(format!("GET {}: a snapshot without a name", request.path)))
        };
        let names: Vec<String> = rows.into_iter().map(name).collect::<Result<_, _>>()?;
        Ok(names.into_iter().filter(|name| name != "current").collect())
    }
}

pub(super) fn version() -> Request {
    Request::new("/version")
}

pub(super) fn permissions() -> Request {
    Request::new("/access/permissions")
}

pub(super) fn cluster_status() -> Request {
    Request::new("/cluster/status")
}

pub(super) fn cluster_resources() -> Request {
    Request::new("/cluster/resources")
}

pub(super) fn nodes() -> Request {
    Request::new("/nodes")
}

pub(super) fn pci_mappings() -> Request {
    Request::new("/cluster/mapping/pci")
}

/// Guests that the HA manager manages.
pub(super) fn ha_resources() -> Request {
    Request::new("/cluster/ha/resources")
}

/// Replication jobs.
pub(super) fn replication() -> Request {
    Request::new("/cluster/replication")
}

/// Backup jobs.
pub(super) fn backup_jobs() -> Request {
    Request::new("/cluster/backup")
}

pub(super) fn status(host: &str) -> Request {
    Request::new(format!("/nodes/{}/status", segment(host)))
}

pub(super) fn storages(host: &str) -> Request {
    Request::new(format!("/nodes/{}/storage", segment(host)))
}

pub(super) fn thin_pools(host: &str) -> Request {
    Request::new(format!("/nodes/{}/disks/lvmthin", segment(host)))
}

pub(super) fn qemu(host: &str) -> Request {
    Request::new(format!("/nodes/{}/qemu", segment(host)))
}

pub(super) fn lxc(host: &str) -> Request {
    Request::new(format!("/nodes/{}/lxc", segment(host)))
}

/// Failed tasks that are over; PVE keeps about the last thousand tasks of a host.
pub(super) fn tasks(host: &str) -> Request {
    let query = &[("errors", "1"), ("limit", "500"), ("source", "archive")];
    Request { path: format!("/nodes/{}/tasks", segment(host)), query }
}

fn guest(host: &str, kind: GuestKind, vmid: u64, rest: &str) -> String {
    let kind = match kind {
        GuestKind::Qemu => "qemu",
        GuestKind::Lxc => "lxc",
    };
    format!("/nodes/{}/{kind}/{vmid}/{rest}", segment(host))
}

/// Configuration that is in force.
pub(super) fn config_now(host: &str, kind: GuestKind, vmid: u64) -> Request {
    Request { path: guest(host, kind, vmid, "config"), query: &[("current", "1")] }
}

/// Configuration with pending changes merged in.
pub(super) fn config_merged(host: &str, kind: GuestKind, vmid: u64) -> Request {
    Request::new(guest(host, kind, vmid, "config"))
}

pub(super) fn status_current(host: &str, kind: GuestKind, vmid: u64) -> Request {
    Request::new(guest(host, kind, vmid, "status/current"))
}

/// Snapshots of a guest, the current state among them.
pub(super) fn snapshots(host: &str, kind: GuestKind, vmid: u64) -> Request {
    Request::new(guest(host, kind, vmid, "snapshot"))
}

/// Configuration of a guest as a snapshot keeps it.
pub(super) fn snapshot_config(host: &str, kind: GuestKind, vmid: u64, name: &str) -> Request {
    Request::new(guest(host, kind, vmid, &format!("snapshot/{}/config", segment(name))))
}

/// What is asked of one guest, but for its snapshots' configurations.
pub(super) fn of_guest(host: &str, kind: GuestKind, vmid: u64) -> Vec<Request> {
    let mut requests = vec![snapshots(host, kind, vmid), config_now(host, kind, vmid)];
    if kind == GuestKind::Qemu {
        requests.extend([config_merged(host, kind, vmid), status_current(host, kind, vmid)]);
    }
    requests
}

/// What is asked of the snapshots of one guest.
pub(super) fn of_snapshots(answers: &Answers, host: &str, kind: GuestKind, vmid: u64) -> Vec<Request> {
    let names = answers.snapshots_of(host, kind, vmid).unwrap_or_default();
    names.iter().map(|name| snapshot_config(host, kind, vmid, name)).collect()
}

/// The rounds of an observation, each made of the answers of those before it.
pub(super) const ROUNDS: [fn(&Answers) -> Vec<Request>; 4] = [
    |_| {
        let cluster = [version(), permissions(), cluster_status(), cluster_resources(), nodes(), pci_mappings()];
        cluster.into_iter().chain([ha_resources(), replication(), backup_jobs()]).collect()
    },
    |answers| {
        let online = answers.hosts().unwrap_or_default().into_iter().filter(|(_, online)| *online);
        let requests =
            online.map(|(host, _)| [status(&host), storages(&host), thin_pools(&host), qemu(&host), lxc(&host), tasks(&host)]);
        requests.flatten().collect()
    },
    |answers| {
        let guests = answers.online_guests().into_iter();
        guests.flat_map(|(host, kind, vmid)| of_guest(&host, kind, vmid)).collect()
    },
    |answers| {
        let guests = answers.online_guests().into_iter();
        guests.flat_map(|(host, kind, vmid)| of_snapshots(answers, &host, kind, vmid)).collect()
    },
];
