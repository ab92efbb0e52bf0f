//! The Proxmox VE double: the package `fakepve` in a process of its own, fed from one of our snapshots.

use std::path::{Path, PathBuf};
use std::time::Duration;

use capplan_model::Snapshot;
use capplan_model::ids::HostName;
use capplan_model::pve::{Disk, Guest, GuestConfig, GuestKind, Host, Power, Pve};
use capplan_model::units::Bytes;
use serde_json::{Map, Value, json};

use crate::control::Control;
use crate::operator::Operator;
use crate::process::{Process, Spec};
use crate::{Failure, components, elements, failure};

const PATIENCE: Duration = Duration::from_secs(30);
/// Real seconds in a second of the double's: a shutdown of 60 s takes 0.6 s.
const TIME_SCALE: f64 = 0.01;

/// The API token of the tool under test; the secret is made anew for each rig.
pub const TOKEN_ID: &str = "capplan@pve!rig";
/// The API token of the attacher, as proxmox-csi has one of its own.
pub const ATTACHER_ID: &str = "csi@pve!attacher";

/// An administrator's API token, for what a test does by hand.
pub const OPERATOR_ID: &str = "root@pam!rig";

/// What `deploy/pve-role.sh` gives a reader, all on `/`.
pub const READER: [&str; 5] = ["Sys.Audit", "VM.Audit", "Datastore.Audit", "Mapping.Audit", "Pool.Audit"];
/// What the plugin's documentation asks for.
const ATTACHER: [&str; 6] =
    ["Sys.Audit", "VM.Audit", "VM.Config.Disk", "Datastore.Allocate", "Datastore.AllocateSpace", "Datastore.Audit"];

/// A running double. Dropping it ends it.
#[derive(Debug)]
pub struct Double {
    folder: PathBuf,
    python: PathBuf,
    process: Process,
    secrets: [(&'static str, String); 3],
    operator: Operator,
    /// Address of the PVE API.
    pub url: String,
    /// SHA-256 of its certificate, as PVE shows it.
    pub fingerprint: String,
    /// Its certificate.
    pub certificate: PathBuf,
    control: Control,
}

impl Double {
    /// Starts a double that holds the first PVE plane of `snapshot`.
    ///
    /// # Errors
    /// The snapshot has no PVE plane, or the double does not come up.
    pub fn start(folder: &Path, snapshot: &Snapshot) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder).map_err(failure(format!("cannot make {}", folder.display())))?;
        let secrets = [(TOKEN_ID, secret()), (ATTACHER_ID, secret()), (OPERATOR_ID, secret())];
        let plane = snapshot.pve.first().ok_or_else(|| Failure::new("the snapshot has no PVE plane"))?;
        let world = world(plane, &secrets);
        std::fs::write(folder.join("world.json"), world.to_string()).map_err(failure("cannot write world.json"))?;
        let python = components::double_python()?;
        let process = launch(&python, folder)?;
        let ready: Value = serde_json::from_str(&process.ready).map_err(failure("the double did not say where it is"))?;
        let said = |name: &str| ready[name].as_str().unwrap_or_default().to_owned();
        let certificate = PathBuf::from(said("certificate"));
        let operator = Operator::new(&said("pve"), &certificate, &format!("{OPERATOR_ID}={}", secrets[2].1))?;
        Ok(Self {
            operator,
            folder: folder.to_owned(),
            python,
            process,
            secrets,
            url: said("pve"),
            fingerprint: said("fingerprint"),
            certificate,
            control: Control::new(&said("control"))?,
        })
    }

    /// The token of the tool under test, as a client sends it.
    pub fn token(&self) -> String {
        self.token_of(TOKEN_ID)
    }

    /// A token as a client sends it.
    pub fn token_of(&self, id: &str) -> String {
        let secret = self.secrets.iter().find(|(name, _)| *name == id).map_or("", |(_, secret)| secret);
        format!("{id}={secret}")
    }

    /// Address of the control API, for the machines.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The PVE API, as an administrator at a second terminal uses it.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Ends the double as a crash of its host's API would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again where it was.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&mut self) -> Result<(), Failure> {
        self.process.kill();
        self.process = launch(&self.python, &self.folder)?;
        Ok(())
    }

    /// Privileges by path, for the tool under test; those of the attacher stay.
    ///
    /// # Errors
    /// The control API refuses.
    pub fn grant(&self, grants: &[(&str, &[&str])]) -> Result<(), Failure> {
        let own = grants.iter().map(|(path, privileges)| grant(TOKEN_ID, path, privileges));
        let all: Vec<Value> = own.chain([grant(ATTACHER_ID, "/", &ATTACHER)]).collect();
        self.control.put("/acl", &json!(all)).map(drop)
    }

    /// Answers requests wrongly; the fields are those of the double's `POST /fail`.
    ///
    /// # Errors
    /// The control API refuses.
    pub fn fail(&self, rule: &Value) -> Result<(), Failure> {
        self.control.post("/fail", rule).map(drop)
    }

    /// Puts a file on a storage of a host as its admin does: `local:snippets/join.yaml`.
    ///
    /// # Errors
    /// The control API refuses.
    pub fn place(&self, node: &str, volume: &str, content: &str) -> Result<(), Failure> {
        self.control.put("/files", &json!({"node": node, "volume": volume, "content": content})).map(drop)
    }

    /// Changes a guest behind the API, as its owner, its manager or a power failure does: the fields of the double's
    /// `PATCH /guests`.
    ///
    /// # Errors
    /// The control API refuses.
    pub fn change(&self, vmid: u32, changes: &Value) -> Result<(), Failure> {
        self.control.patch(&format!("/guests/{vmid}"), changes).map(drop)
    }

    /// Ends all faults.
    ///
    /// # Errors
    /// The control API refuses.
    pub fn heal(&self) -> Result<(), Failure> {
        self.control.delete("/fail").map(drop)
    }

    /// Every request so far.
    ///
    /// # Errors
    /// The control API does not answer.
    pub fn requests(&self) -> Result<Vec<Value>, Failure> {
        rows(self.control.get("/requests?from=0")?)
    }

    /// Requests that the real API would refuse by its schema or on the wire.
    ///
    /// # Errors
    /// The control API does not answer.
    pub fn violations(&self) -> Result<Vec<Value>, Failure> {
        rows(self.control.get("/violations")?)
    }

    /// The guests as the double holds them.
    ///
    /// # Errors
    /// The control API does not answer.
    pub fn guests(&self) -> Result<Vec<Value>, Failure> {
        rows(self.control.get("/guests")?)
    }

    /// One guest.
    ///
    /// # Errors
    /// There is none with this VMID.
    pub fn guest(&self, vmid: u32) -> Result<Value, Failure> {
        let guest = self.guests()?.into_iter().find(|guest| guest["vmid"] == vmid);
        guest.ok_or_else(|| Failure::new(format!("the double has no guest {vmid}")))
    }
}

impl Drop for Double {
    /// A request that the real API would refuse fails the test that sent it, whatever else it looked at.
    fn drop(&mut self) {
        if !std::thread::panicking() && self.process.is_running() {
            let violations = self.violations().unwrap_or_default();
            assert!(violations.is_empty(), "the real API would refuse: {violations:#?}");
        }
    }
}

fn rows(value: Value) -> Result<Vec<Value>, Failure> {
    elements(value).ok_or_else(|| Failure::new("the double does not answer with a list"))
}

fn launch(python: &Path, folder: &Path) -> Result<Process, Failure> {
    let spec = Spec {
        name: "double",
        program: python.to_owned(),
        arguments: vec![
            components::sources().join("pve/double.py").display().to_string(),
            "--state".to_owned(),
            folder.display().to_string(),
        ],
        environment: vec![
            ("PYTHONUNBUFFERED".to_owned(), "1".to_owned()),
            ("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned()),
        ],
        folder: folder.to_owned(),
        says_ready: true,
    };
    Process::start(&spec, PATIENCE)
}

/// A secret in the form PVE makes them: a random UUID.
fn secret() -> String {
    use std::hash::{BuildHasher, Hasher, RandomState};
    // Each RandomState has a seed of its own; these secrets guard a double on loopback.
    let random = || RandomState::new().build_hasher().finish();
    let digits = format!("{:016x}{:016x}", random(), random());
    format!("{}-{}-{}-{}-{}", &digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..32])
}

fn grant(user: &str, path: &str, privileges: &[&str]) -> Value {
    json!({"user": user, "path": path, "privileges": privileges})
}

/// The double's world: hosts, guests, storages and tasks of the snapshot.
fn world(plane: &Pve, secrets: &[(&str, String)]) -> Value {
    let hosts: Vec<&Host> = plane.hosts.known().into_iter().flatten().collect();
    let nodes: Map<String, Value> = hosts.iter().map(|host| (host.name.0.clone(), node(host))).collect();
    let tokens: Map<String, Value> = secrets.iter().map(|(id, secret)| ((*id).to_owned(), json!(secret))).collect();
    let version = plane.version.known().map_or("9.2.11", String::as_str);
    json!({
        // A host alone has no cluster.
        "cluster_name": if hosts.len() > 1 { json!(plane.name) } else { Value::Null },
        "version": version,
        "release": version.rsplit_once('.').map_or(version, |(release, _)| release),
        "quorate": plane.quorate.known().copied().unwrap_or(true),
        "time_scale": TIME_SCALE,
        "tokens": tokens,
        "acl": [grant(TOKEN_ID, "/", &READER), grant(ATTACHER_ID, "/", &ATTACHER)],
        "nodes": nodes,
        "storages": storages(&hosts),
        "guests": plane.guests.known().into_iter().flatten().map(guest).collect::<Vec<_>>(),
        "pools": pools(plane),
        "tasks": plane.failed_tasks.known().into_iter().flatten().map(|task| {
            let at = task.at.map_or(0, |at| at.as_second());
            json!({"node": task.host, "type": task.kind, "id": task.vmid.map(|id| id.to_string()).unwrap_or_default(),
                   "user": task.user, "starttime": at, "endtime": at, "status": task.status})
        }).collect::<Vec<_>>(),
        "pci_mappings": plane.pci_mappings.known().into_iter().flatten().map(|mapping| {
            let map: Vec<String> = mapping.hosts.iter().map(|host| format!("node={},path=0000:01:00.0,id=10de:1eb8", host.0)).collect();
            json!({"id": mapping.id, "map": map})
        }).collect::<Vec<_>>(),
    })
}

/// The guests of each pool.
fn pools(plane: &Pve) -> Map<String, Value> {
    let mut pools = Map::new();
    for guest in plane.guests.items() {
        if let Some(pool) = &guest.pool
            && let Value::Array(members) = pools.entry(pool.clone()).or_insert_with(|| json!([]))
        {
            members.push(json!(guest.vmid));
        }
    }
    pools
}

fn node(host: &Host) -> Value {
    let mut status =
        json!({"pveversion": host.version.as_ref().map(|version| format!("pve-manager/{version}/0000000000000000"))});
    if let Some(memory) = host.memory.known() {
        status["memory"] = json!({"total": memory.total, "used": memory.used, "free": memory.free});
        if let Some(available) = memory.reported_available {
            status["memory"]["available"] = json!(available);
        }
        status["swap"] =
            json!({"total": memory.swap_total, "used": memory.swap_used, "free": memory.swap_total.minus(memory.swap_used)});
        status["ksm"] = json!({"shared": memory.shared});
    }
    if let Some(cpus) = host.cpus.known() {
        status["cpuinfo"] = json!({"cpus": cpus, "sockets": 1, "cores": cpus});
    }
    if let Some(load) = host.load {
        status["loadavg"] = json!([load.to_string(), load.to_string(), load.to_string()]);
    }
    status["wait"] = json!(host.io_wait.unwrap_or_default());
    status["uptime"] = json!(host.uptime.unwrap_or_default());
    let pools: Vec<Value> = host
        .pools
        .known()
        .into_iter()
        .flatten()
        .map(|pool| {
            let (group, volume) = pool.name.split_once('/').unwrap_or((&pool.name, ""));
            json!({"vg": group, "lv": volume, "lv_size": pool.size, "used": pool.used,
                   "metadata_size": pool.metadata_size, "metadata_used": pool.metadata_used})
        })
        .collect();
    json!({"online": host.online, "status": status, "lvmthin": pools, "pci": []})
}

fn storages(hosts: &[&Host]) -> Map<String, Value> {
    const TIB: u64 = 1 << 40;
    let room = json!({"total": 2 * TIB, "used": 0, "avail": 2 * TIB});
    let mut storages = Map::new();
    for host in hosts {
        for storage in host.storages.known().into_iter().flatten() {
            let entry = storages.entry(storage.name.clone()).or_insert_with(|| {
                json!({"type": storage.kind, "content": storage.content.join(","), "shared": u8::from(storage.shared),
                       "active": u8::from(storage.active), "space": {}, "nodes": []})
            });
            entry["space"][&host.name.0] = json!({"total": storage.total, "used": storage.used, "avail": storage.available});
            if let Some(nodes) = entry["nodes"].as_array_mut() {
                nodes.push(json!(host.name));
            }
        }
    }
    // What a new installation has; a scenario speaks of hosts, guests and pools only.
    let space: Map<String, Value> = hosts.iter().map(|host| (host.name.0.clone(), room.clone())).collect();
    for (name, kind, content) in
        [("local", "dir", "iso,vztmpl,backup,import,snippets"), ("local-lvm", "lvmthin", "images,rootdir")]
    {
        let usual = || json!({"type": kind, "content": content, "shared": 0, "active": 1, "space": space});
        storages.entry(name.to_owned()).or_insert_with(usual);
    }
    storages
}

/// A size as PVE writes it: the largest unit that keeps it whole.
fn size(bytes: Bytes) -> String {
    for (unit, name) in [(1u64 << 40, "T"), (1 << 30, "G"), (1 << 20, "M"), (1 << 10, "K")] {
        if bytes.0 >= unit && bytes.0.is_multiple_of(unit) {
            return format!("{}{name}", bytes.0 / unit);
        }
    }
    bytes.0.to_string()
}

fn disk(disk: &Disk) -> String {
    let mut text = disk.volume.clone();
    if disk.discard {
        text.push_str(",discard=on");
    }
    if disk.cdrom {
        text.push_str(",media=cdrom");
    }
    if let Some(bytes) = disk.size {
        text.push_str(&format!(",size={}", size(bytes)));
    }
    text
}

fn config(config: &GuestConfig, kind: GuestKind) -> Map<String, Value> {
    let mut options = Map::new();
    let mut set = |key: &str, value: Value| drop(options.insert(key.to_owned(), value));
    set(if kind == GuestKind::Qemu { "name" } else { "hostname" }, json!(config.name));
    set("memory", json!((config.memory.0 >> 20).to_string()));
    set("cores", json!(config.cores));
    set("onboot", json!(u8::from(config.on_boot)));
    if let Some(balloon) = config.balloon {
        set("balloon", json!(balloon.0 >> 20));
    }
    if let Some(uuid) = &config.uuid {
        set("smbios1", json!(format!("uuid={uuid}")));
    }
    for (key, value) in [("startup", &config.startup), ("net0", &config.net0), ("nameserver", &config.nameserver)] {
        if let Some(value) = value {
            set(key, json!(value));
        }
    }
    if let Some(hardware) = &config.scsi_hardware {
        set("scsihw", json!(hardware));
    }
    if config.agent {
        set("agent", json!("1"));
    }
    for (slot, one) in &config.disks {
        set(slot, json!(disk(one)));
    }
    for (key, volume) in &config.unused {
        set(key, json!(volume));
    }
    for (number, device) in config.host_pci.iter().enumerate() {
        set(&format!("hostpci{number}"), json!(device));
    }
    for (number, address) in config.addresses.iter().enumerate() {
        let text = match kind {
            GuestKind::Qemu if address.contains('/') => {
                let gateway = config.gateway.as_ref().map(|gateway| format!(",gw={gateway}")).unwrap_or_default();
                format!("ip={address}{gateway}")
            }
            GuestKind::Qemu => format!("ip={address}/24"),
            GuestKind::Lxc => format!("name=eth{number},bridge=vmbr0,ip={address}/24"),
        };
        set(&format!("{}{number}", if kind == GuestKind::Qemu { "ipconfig" } else { "net" }), json!(text));
    }
    options
}

fn guest(guest: &Guest) -> Value {
    let mut options = guest.config.known().map(|one| config(one, guest.kind)).unwrap_or_default();
    if guest.template {
        options.insert("template".to_owned(), json!(1));
    }
    if !guest.tags.is_empty() {
        options.insert("tags".to_owned(), json!(guest.tags.join(";")));
    }
    let mut status = json!({"cpus": guest.cpus, "maxmem": guest.max_memory});
    if let Some(used) = guest.memory_used {
        status["mem"] = json!(used);
    }
    if let Some(qmp) = &guest.qmp_status {
        status["qmpstatus"] = json!(qmp);
    }
    let power = if guest.power == Power::Running { "running" } else { "stopped" };
    let HostName(host) = &guest.host;
    json!({
        "vmid": guest.vmid, "kind": if guest.kind == GuestKind::Qemu { "qemu" } else { "lxc" }, "node": host, "name": guest.name,
        "power": power, "template": guest.template, "lock": guest.lock, "config": options, "pending": guest.pending, "status": status,
    })
}
