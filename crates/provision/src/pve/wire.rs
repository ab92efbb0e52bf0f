//! The answers of the API as they come, and the model's values made of them.
//!
//! Lenient on purpose: numbers may be strings, booleans 0 or 1, and any field may be missing,
//! since PVE leaves out what it does not know. Whole lists are never dropped for one odd field.

use std::collections::BTreeMap;

use capplan_model::ids::{HostName, VmId};
use capplan_model::pve::{
    BackupJob, FailedTask, Guest, GuestKind, HostMemory, PciMapping, Power, ReplicationJob, Storage, ThinPool,
};
use capplan_model::units::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::config::properties;

fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.as_u64().or_else(|| as_number(&value).filter(|number| *number >= 0.0).map(|number| number as u64)))
}

fn number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    Ok(as_number(&Value::deserialize(deserializer)?))
}

fn as_number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.trim().parse().ok()).filter(|number: &f64| number.is_finite())
}

fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    Ok(as_text(&Value::deserialize(deserializer)?).map(|text| is_true(&text)))
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(as_text(&Value::deserialize(deserializer)?))
}

fn managed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.get("managed").and_then(as_text).map(|text| is_true(&text)))
}

fn numbers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.as_array().map(|list| list.iter().filter_map(as_number).collect()).unwrap_or_default())
}

/// A scalar as text: booleans as PVE writes them, `1` and `0`.
fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(u8::from(*is).to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Whether PVE takes the text for true.
///
/// # Source
/// `PVE::JSONSchema::parse_boolean`: `1`, `on`, `yes`, `true`, in any case.
pub(super) fn is_true(text: &str) -> bool {
    ["1", "on", "yes", "true"].iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// `GET /version`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Version {
    /// Such as `9.2.11`.
    #[serde(deserialize_with = "text")]
    pub version: Option<String>,
}

/// `GET /access/permissions`: path → privilege → whether it holds for paths below, too.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Permissions(pub BTreeMap<String, BTreeMap<String, Value>>);

/// A row of `GET /cluster/status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ClusterStatus {
    /// `cluster` or `node`.
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: Option<String>,
    /// Name of the cluster or node.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
    /// Whether the cluster has quorum.
    #[serde(deserialize_with = "flag")]
    pub quorate: Option<bool>,
    /// Whether the node is seen.
    #[serde(deserialize_with = "flag")]
    pub online: Option<bool>,
}

/// A row of `GET /cluster/resources`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Resource {
    /// `node`, `qemu`, `lxc`, `storage` or `sdn`.
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: Option<String>,
    /// Host.
    #[serde(deserialize_with = "text")]
    pub node: Option<String>,
    /// Status of a host: `online`, `offline` or `unknown`.
    #[serde(deserialize_with = "text")]
    pub status: Option<String>,
    /// Pool of a guest.
    #[serde(deserialize_with = "text")]
    pub pool: Option<String>,
    /// The fields of a guest.
    #[serde(flatten)]
    pub guest: GuestRow,
}

/// A row of `GET /nodes`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeRow {
    /// Name.
    #[serde(deserialize_with = "text")]
    pub node: Option<String>,
    /// `online`, `offline` or `unknown`.
    #[serde(deserialize_with = "text")]
    pub status: Option<String>,
    /// SHA-256 of the certificate.
    #[serde(deserialize_with = "text")]
    pub ssl_fingerprint: Option<String>,
}

/// `GET /nodes/{node}/status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeStatus {
    /// Memory.
    pub memory: Option<NodeMemory>,
    /// Swap.
    pub swap: Option<NodeMemory>,
    /// Kernel samepage merging.
    pub ksm: Option<Ksm>,
    /// Processors.
    pub cpuinfo: Option<CpuInfo>,
    /// Load averages over 1, 5 and 15 minutes.
    #[serde(deserialize_with = "numbers")]
    pub loadavg: Vec<f64>,
    /// Fraction of CPU time spent waiting for IO.
    #[serde(deserialize_with = "number")]
    pub wait: Option<f64>,
    /// Seconds since boot.
    #[serde(deserialize_with = "integer")]
    pub uptime: Option<u64>,
    /// `pve-manager/9.2.11/14a22df3`.
    #[serde(deserialize_with = "text")]
    pub pveversion: Option<String>,
}

/// Memory or swap of a host, in bytes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct NodeMemory {
    /// In all.
    #[serde(deserialize_with = "integer")]
    pub total: Option<u64>,
    /// In use.
    #[serde(deserialize_with = "integer")]
    pub used: Option<u64>,
    /// Free.
    #[serde(deserialize_with = "integer")]
    pub free: Option<u64>,
    /// Available without swapping; since PVE 9.0.
    #[serde(deserialize_with = "integer")]
    pub available: Option<u64>,
}

/// Kernel samepage merging.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Ksm {
    /// Bytes shared.
    #[serde(deserialize_with = "integer")]
    pub shared: Option<u64>,
}

/// Processors of a host.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CpuInfo {
    /// Threads.
    #[serde(deserialize_with = "integer")]
    pub cpus: Option<u64>,
}

impl NodeStatus {
    /// The memory, if the answer has its sizes.
    pub fn host_memory(&self) -> Option<HostMemory> {
        let memory = self.memory.as_ref()?;
        let (total, used) = (memory.total?, memory.used?);
        let swap = self.swap.clone().unwrap_or_default();
        Some(HostMemory {
            total: Bytes(total),
            used: Bytes(used),
            free: Bytes(memory.free.unwrap_or(total.saturating_sub(used))),
            reported_available: memory.available.map(Bytes),
            swap_used: Bytes(swap.used.unwrap_or_default()),
            swap_total: Bytes(swap.total.unwrap_or_default()),
            shared: Bytes(self.ksm.as_ref().and_then(|ksm| ksm.shared).unwrap_or_default()),
        })
    }

    /// The version alone, without package name and commit.
    pub fn version(&self) -> Option<String> {
        let full = self.pveversion.as_deref()?;
        Some(full.split('/').nth(1).unwrap_or(full).to_owned())
    }
}

/// A row of `GET /nodes/{node}/storage`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct StorageRow {
    /// Name.
    #[serde(deserialize_with = "text")]
    pub storage: Option<String>,
    /// Type.
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: Option<String>,
    /// Content types, separated by commas, in any order.
    #[serde(deserialize_with = "text")]
    pub content: Option<String>,
    /// Whether several hosts share it.
    #[serde(deserialize_with = "flag")]
    pub shared: Option<bool>,
    /// Whether it is usable now.
    #[serde(deserialize_with = "flag")]
    pub active: Option<bool>,
    /// Size in bytes.
    #[serde(deserialize_with = "integer")]
    pub total: Option<u64>,
    /// Bytes in use.
    #[serde(deserialize_with = "integer")]
    pub used: Option<u64>,
    /// Bytes free.
    #[serde(deserialize_with = "integer")]
    pub avail: Option<u64>,
}

impl From<StorageRow> for Storage {
    fn from(row: StorageRow) -> Self {
        let mut content: Vec<String> =
            row.content.unwrap_or_default().split(',').map(str::trim).filter(|one| !one.is_empty()).map(str::to_owned).collect();
        content.sort_unstable();
        Self {
            name: row.storage.unwrap_or_default(),
            kind: row.kind.unwrap_or_default(),
            content,
            shared: row.shared.unwrap_or_default(),
            active: row.active.unwrap_or_default(),
            total: Bytes(row.total.unwrap_or_default()),
            used: Bytes(row.used.unwrap_or_default()),
            available: Bytes(row.avail.unwrap_or_default()),
        }
    }
}

/// A row of `GET /nodes/{node}/disks/lvmthin`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct LvmThin {
    /// Volume group.
    #[serde(deserialize_with = "text")]
    pub vg: Option<String>,
    /// Logical volume.
    #[serde(deserialize_with = "text")]
    pub lv: Option<String>,
    /// Size for data, in bytes.
    #[serde(deserialize_with = "integer")]
    pub lv_size: Option<u64>,
    /// Data in use, in bytes.
    #[serde(deserialize_with = "integer")]
    pub used: Option<u64>,
    /// Size for metadata, in bytes.
    #[serde(deserialize_with = "integer")]
    pub metadata_size: Option<u64>,
    /// Metadata in use, in bytes.
    #[serde(deserialize_with = "integer")]
    pub metadata_used: Option<u64>,
}

impl LvmThin {
    /// The pool, if all four figures are there: an unknown fill is not an empty pool.
    pub fn pool(&self) -> Option<ThinPool> {
        Some(ThinPool {
            name: format!("{}/{}", self.vg.as_deref()?, self.lv.as_deref()?),
            used: Bytes(self.used?),
            size: Bytes(self.lv_size?),
            metadata_used: Bytes(self.metadata_used?),
            metadata_size: Bytes(self.metadata_size?),
        })
    }
}

/// A guest in `GET /nodes/{node}/qemu`, `…/lxc`, `…/status/current` or `/cluster/resources`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct GuestRow {
    /// VMID.
    #[serde(deserialize_with = "integer")]
    pub vmid: Option<u64>,
    /// Name.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
    /// `running`, `stopped` or `unknown`; absent in `/cluster/resources`, where [`Resource`] has it.
    #[serde(deserialize_with = "text")]
    pub status: Option<String>,
    /// `running`, `stopped`, `paused`, `prelaunch`, `io-error` …
    #[serde(deserialize_with = "text")]
    pub qmpstatus: Option<String>,
    /// Whether it is a template; absent when not.
    #[serde(deserialize_with = "flag")]
    pub template: Option<bool>,
    /// Virtual CPUs in the lists of one host, capped at the host's threads.
    #[serde(deserialize_with = "integer")]
    pub cpus: Option<u64>,
    /// Virtual CPUs in `/cluster/resources`.
    #[serde(deserialize_with = "number")]
    pub maxcpu: Option<f64>,
    /// Configured memory, in bytes.
    #[serde(deserialize_with = "integer")]
    pub maxmem: Option<u64>,
    /// Memory in use, in bytes.
    #[serde(deserialize_with = "integer")]
    pub mem: Option<u64>,
    /// Tags, separated by semicolons.
    #[serde(deserialize_with = "text")]
    pub tags: Option<String>,
    /// Lock such as `backup`.
    #[serde(deserialize_with = "text")]
    pub lock: Option<String>,
    /// State that the HA manager wants, in `/cluster/resources`; absent for a guest that it does not manage.
    #[serde(deserialize_with = "text")]
    pub hastate: Option<String>,
    /// Whether the HA manager manages it, in `status/current`: `{"managed": 1, "state": null}` until the manager
    /// has looked.
    #[serde(rename = "ha", deserialize_with = "managed")]
    pub ha_managed: Option<bool>,
}

/// A row of `GET /cluster/ha/resources`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HaResource {
    /// `vm:VMID` or `ct:VMID`.
    #[serde(deserialize_with = "text")]
    pub sid: Option<String>,
}

/// A row of `GET /cluster/replication`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReplicationRow {
    /// `VMID-NUMBER`.
    #[serde(deserialize_with = "text")]
    pub id: Option<String>,
    /// Guest.
    #[serde(deserialize_with = "integer")]
    pub guest: Option<u64>,
}

/// A row of `GET /cluster/backup`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct BackupRow {
    /// Its id.
    #[serde(deserialize_with = "text")]
    pub id: Option<String>,
    /// VMIDs, separated by commas; absent for a job of all guests or of a pool.
    #[serde(deserialize_with = "text")]
    pub vmid: Option<String>,
}

/// A row of `GET …/snapshot`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SnapshotRow {
    /// Name; `current` is the state now.
    #[serde(deserialize_with = "text")]
    pub name: Option<String>,
}

impl GuestRow {
    /// The VMID, if there is one that fits.
    pub fn vmid(&self) -> Option<VmId> {
        self.vmid.and_then(|vmid| u32::try_from(vmid).ok()).map(VmId)
    }

    /// What this row says about `guest`, over what is known of it already.
    pub(super) fn describe(&self, guest: &mut Guest) {
        if let Some(name) = &self.name {
            guest.name.clone_from(name);
        }
        if let Some(status) = &self.status {
            guest.power = power(status);
        }
        if let Some(status) = &self.qmpstatus {
            guest.qmp_status = Some(status.clone()).filter(|status| !matches!(status.as_str(), "running" | "stopped"));
        }
        guest.template = self.template.unwrap_or(guest.template);
        guest.cpus = self.cpus.or(self.maxcpu.map(|cpus| cpus as u64)).unwrap_or(guest.cpus);
        guest.max_memory = self.maxmem.map_or(guest.max_memory, Bytes);
        if let Some(tags) = &self.tags {
            guest.tags = split_list(tags);
        }
        guest.lock = self.lock.clone().or_else(|| guest.lock.take());
        // A stopped guest reports 0, which is no measurement.
        guest.memory_used = match guest.power {
            Power::Running => self.mem.map(Bytes).or(guest.memory_used),
            Power::Stopped | Power::Unknown => None,
        };
    }
}

/// The parts of a list; several separators occur.
///
/// # Source
/// `PVE::Tools::split_list`.
pub(super) fn split_list(text: &str) -> Vec<String> {
    text.split([';', ',', ' ']).map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn power(status: &str) -> Power {
    match status {
        "running" | "paused" | "suspended" => Power::Running,
        "stopped" => Power::Stopped,
        _ => Power::Unknown,
    }
}

impl Resource {
    /// The guest of this row, if it is one.
    pub(super) fn guest_kind(&self) -> Option<GuestKind> {
        match self.kind.as_deref()? {
            "qemu" => Some(GuestKind::Qemu),
            "lxc" => Some(GuestKind::Lxc),
            _ => None,
        }
    }
}

/// `GET …/config`: the scalars by key, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Options {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = BTreeMap::<String, Value>::deserialize(deserializer)?;
        Ok(Self(map.into_iter().filter_map(|(key, value)| Some((key, as_text(&value)?))).collect()))
    }
}

/// A row of `GET …/pending`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PendingRow {
    /// Key of the option.
    #[serde(deserialize_with = "text")]
    pub key: Option<String>,
    /// Value in force.
    #[serde(deserialize_with = "text")]
    pub value: Option<String>,
    /// Value after a restart.
    #[serde(deserialize_with = "text")]
    pub pending: Option<String>,
    /// Whether it goes away with a restart; 2 is by force.
    #[serde(deserialize_with = "integer")]
    pub delete: Option<u64>,
}

/// A row of `GET /cluster/mapping/pci`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct MappingRow {
    /// Name.
    #[serde(deserialize_with = "text")]
    pub id: Option<String>,
    /// Property strings such as `id=10de:2684,node=pve1,path=0000:01:00.0`.
    pub map: Vec<String>,
}

impl ReplicationRow {
    /// The job, if the row names one.
    pub(super) fn job(self) -> Option<ReplicationJob> {
        let vmid = VmId(u32::try_from(self.guest?).ok()?);
        Some(ReplicationJob { id: self.id?, vmid })
    }
}

impl From<BackupRow> for BackupJob {
    fn from(row: BackupRow) -> Self {
        let vmids = row.vmid.map(|text| split_list(&text)).unwrap_or_default();
        let vmids = vmids.iter().filter_map(|vmid| vmid.parse().ok()).map(VmId).collect();
        Self { id: row.id.unwrap_or_default(), vmids }
    }
}

impl From<MappingRow> for PciMapping {
    fn from(row: MappingRow) -> Self {
        let mut hosts: Vec<HostName> = row
            .map
            .iter()
            .filter_map(|text| properties(text).into_iter().find(|(key, _)| *key == "node"))
            .map(|(_, node)| node.into())
            .collect();
        hosts.sort();
        hosts.dedup();
        Self { id: row.id.unwrap_or_default(), hosts }
    }
}

/// A row of `GET /nodes/{node}/tasks`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TaskRow {
    /// Host.
    #[serde(deserialize_with = "text")]
    pub node: Option<String>,
    /// Type such as `qmstart`.
    #[serde(rename = "type", deserialize_with = "text")]
    pub kind: Option<String>,
    /// What it was about: a VMID, a storage, or nothing.
    #[serde(deserialize_with = "text")]
    pub id: Option<String>,
    /// Exit text; absent or `RUNNING` while it runs.
    #[serde(deserialize_with = "text")]
    pub status: Option<String>,
    /// Start, in seconds since 1970.
    #[serde(deserialize_with = "integer")]
    pub starttime: Option<u64>,
    /// End, in seconds since 1970.
    #[serde(deserialize_with = "integer")]
    pub endtime: Option<u64>,
    /// User.
    #[serde(deserialize_with = "text")]
    pub user: Option<String>,
}

impl TaskRow {
    /// The failed task, if it is over and failed.
    ///
    /// # Source
    /// `PVE::UPID::status_is_error`: `OK` and `WARNINGS: n` are success.
    pub fn failed(self, host: &HostName) -> Option<FailedTask> {
        let status = self.status?;
        if status.is_empty() || status == "OK" || status == "RUNNING" || status.starts_with("WARNINGS:") {
            return None;
        }
        let seconds = self.endtime.or(self.starttime).and_then(|seconds| i64::try_from(seconds).ok());
        Some(FailedTask {
            host: self.node.map_or_else(|| host.clone(), HostName),
            kind: self.kind.unwrap_or_default(),
            vmid: self.id.and_then(|id| id.parse().ok()).map(VmId),
            at: seconds.and_then(|seconds| Timestamp::from_second(seconds).ok()),
            status: status.split_whitespace().collect::<Vec<_>>().join(" "),
            user: self.user.unwrap_or_default(),
        })
    }
}

/// A point of `GET /nodes/{node}/rrddata` or `…/storage/{storage}/rrddata`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct RrdRow {
    /// Seconds since 1970.
    #[serde(deserialize_with = "integer")]
    pub time: Option<u64>,
    /// Memory of the host, in bytes.
    #[serde(deserialize_with = "number")]
    pub memtotal: Option<f64>,
    /// Memory in use, in bytes.
    #[serde(deserialize_with = "number")]
    pub memused: Option<f64>,
    /// Memory available, in bytes; since PVE 9.
    #[serde(deserialize_with = "number")]
    pub memavailable: Option<f64>,
    /// Swap in use, in bytes.
    #[serde(deserialize_with = "number")]
    pub swapused: Option<f64>,
    /// CPU time in use, as a fraction.
    #[serde(deserialize_with = "number")]
    pub cpu: Option<f64>,
    /// CPU time spent waiting for IO, as a fraction.
    #[serde(deserialize_with = "number")]
    pub iowait: Option<f64>,
    /// Size of a storage, in bytes.
    #[serde(deserialize_with = "number")]
    pub total: Option<f64>,
    /// Bytes in use on a storage.
    #[serde(deserialize_with = "number")]
    pub used: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
        serde_json::from_str(text).expect("decodes")
    }

    #[test]
    fn numbers_may_be_strings_and_booleans_numbers() {
        let row: GuestRow = read(r#"{"vmid":"101","maxmem":"4294967296","template":"1","mem":1.5e9,"cpus":null,"x":[1]}"#);
        assert_eq!((row.vmid(), row.maxmem, row.template), (Some(VmId(101)), Some(4_294_967_296), Some(true)));
        assert_eq!((row.mem, row.cpus), (Some(1_500_000_000), None));
        let row: StorageRow = read(r#"{"active":true,"shared":0,"total":"?","content":"iso, images"}"#);
        assert_eq!((row.active, row.shared, row.total), (Some(true), Some(false), None));
        assert_eq!(Storage::from(row).content, ["images", "iso"]);
        let row: Resource = read(r#"{"type":"qemu","id":"qemu/102","vmid":102,"node":"pve1","status":"unknown"}"#);
        assert_eq!((row.guest_kind(), row.guest.vmid()), (Some(GuestKind::Qemu), Some(VmId(102))));
    }

    #[test]
    fn only_tasks_that_are_over_and_failed_count() {
        let task =
            |status: Option<&str>| TaskRow { status: status.map(Into::into), id: Some("101".into()), ..Default::default() };
        for fine in [None, Some(""), Some("OK"), Some("WARNINGS: 3"), Some("RUNNING")] {
            assert_eq!(task(fine).failed(&"pve".into()), None, "{fine:?}");
        }
        let failed = task(Some("no free lun\nfound")).failed(&"pve".into()).expect("failed");
        assert_eq!((failed.status.as_str(), failed.vmid), ("no free lun found", Some(VmId(101))));
    }

    #[test]
    fn a_pool_without_its_fill_is_no_empty_pool() {
        let row: LvmThin = read(r#"{"vg":"pve","lv":"data","lv_size":10,"metadata_size":2,"metadata_used":1}"#);
        assert_eq!(row.pool(), None);
    }

    #[test]
    fn available_memory_is_reported_from_pve_9_on() {
        let status: NodeStatus = read(r#"{"memory":{"total":10,"used":4,"free":5},"pveversion":"pve-manager/8.4.1/2a5f"}"#);
        let memory = status.host_memory().expect("sizes");
        assert_eq!((memory.free, memory.reported_available), (Bytes(5), None));
        assert_eq!(status.version().as_deref(), Some("8.4.1"));
        assert_eq!(read::<NodeStatus>("{}").host_memory(), None);
    }
}
