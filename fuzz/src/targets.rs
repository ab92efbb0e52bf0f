//! What is executed: a reader each, and the whole program on a cluster.

use std::path::PathBuf;
use std::sync::OnceLock;

use capplan_model::Snapshot;
use capplan_model::capacity::Dimension;
use capplan_model::change::{AddPvcs, Change, Failure};
use capplan_model::history::{History, Sample};
use capplan_model::ids::SnapshotId;
use capplan_model::plan::{Feasibility, Plan};
use capplan_model::policy::Policy;
use capplan_model::run::{Event, FORMAT};
use capplan_model::scenario::Scenario;
use capplan_model::units::quantity;
use capplan_planner::decide::decide;
use capplan_planner::plan::{Count, Limits, Observation, Removal, Request, Wanted, audit, gate, plan};
use capplan_planner::report::build;
use capplan_planner::simulate::{Trials, simulate};
use capplan_provision::kube::lists;
use capplan_provision::store::history::Archive;
use capplan_provision::store::journal::Runs;
use capplan_provision::{manifest, prometheus, pve, store};
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::mutate::Form;

/// Something that is executed on an input.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, and that of its folder in the corpus.
    pub name: &'static str,
    /// What its inputs are made of.
    pub form: Form,
    /// Whether an execution is the whole program and not one reader.
    pub is_whole: bool,
    /// Inputs to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Executes it: whether the input was valid, or which invariant broke.
    pub execute: fn(&[u8]) -> Result<bool, String>,
}

/// All of them.
pub const TARGETS: [Target; 13] = [
    reader("quantity", Form::Text, quantities, |input| Ok(quantity(&text(input), 1).is_ok())),
    reader("policy", Form::Text, policies, |input| Ok(Policy::parse(&text(input)).is_ok())),
    reader("scenario", Form::Text, scenarios, |input| {
        let read = Scenario::parse(&text(input)).ok();
        Ok(read.map(|scenario| (scenario.snapshot(), scenario.history())).is_some())
    }),
    reader("plan", Form::Json, plans, |input| Ok(Plan::read(input).is_ok())),
    reader("journal", Form::Json, journals, journal),
    reader("snapshot", Form::Bytes, snapshot_files, |input| Ok(store::snapshot::read(input).is_ok())),
    reader("history", Form::Bytes, archives, archive),
    reader("manifest", Form::Text, manifests, |input| Ok(manifest::read(&text(input)).is_ok())),
    reader("prometheus", Form::Json, answers_of_prometheus, |input| Ok(prometheus::series(input).is_ok())),
    reader("pods", Form::Json, lists_of_pods, |input| Ok(lists::pods(input).is_ok())),
    reader("lists", Form::Json, lists_of_all, list),
    reader("pve", Form::Json, answers_of_pve, answer_of_pve),
    Target { name: "cluster", form: Form::Json, is_whole: true, seeds: clusters, execute: cluster },
];

const fn reader(
    name: &'static str,
    form: Form,
    seeds: fn() -> Vec<Vec<u8>>,
    execute: fn(&[u8]) -> Result<bool, String>,
) -> Target {
    Target { name, form, is_whole: false, seeds, execute }
}

fn text(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder of our own")
}

fn quantities() -> Vec<Vec<u8>> {
    ["1", "100m", "1.5Gi", "7Ei", "12e6", "0.1u", "16Pi"].map(|text| text.as_bytes().to_vec()).to_vec()
}

fn policies() -> Vec<Vec<u8>> {
    vec![include_bytes!("../../crates/model/src/policy.toml").to_vec()]
}

fn scenarios() -> Vec<Vec<u8>> {
    vec![
        include_bytes!("../../scenarios/demo.toml").to_vec(),
        include_bytes!("../../scenarios/incident-lun-cap.toml").to_vec(),
        include_bytes!("../../scenarios/host-33.9.toml").to_vec(),
    ]
}

fn snapshots() -> Vec<Snapshot> {
    scenarios().iter().filter_map(|seed| Some(Scenario::parse(&text(seed)).ok()?.snapshot())).collect()
}

fn clusters() -> Vec<Vec<u8>> {
    snapshots().iter().filter_map(|snapshot| serde_json::to_vec(snapshot).ok()).collect()
}

fn made() -> Vec<Plan> {
    let (policy, history) = (Policy::built_in(), History::default());
    let mut made = Vec::new();
    for snapshot in snapshots() {
        let seen = Observation { snapshot: &snapshot, history: &history, policy: &policy, claims: &[] };
        for request in requests(&snapshot, 0) {
            made.extend(plan(&seen, SnapshotId::default(), &request, Limits { seconds: 1.0, seed: 1 }).ok());
        }
    }
    made.retain(|plan| !plan.steps.is_empty());
    made.truncate(6);
    made
}

fn plans() -> Vec<Vec<u8>> {
    made().iter().filter_map(|plan| serde_json::to_vec(plan).ok()).collect()
}

fn journals() -> Vec<Vec<u8>> {
    let at = Timestamp::UNIX_EPOCH;
    let by = || "somebody".to_owned();
    let events = [
        Event::Began { format: FORMAT.to_owned(), at, by: by(), plan: "sha256:0".to_owned() },
        Event::Started { step: 1, at, ready: Some(2) },
        Event::Ensured { step: 1, at },
        Event::Stopped { step: 2, at, why: "no answer".to_owned() },
        Event::Resumed { at, by: by() },
        Event::Confirmed { step: 2, at, by: by() },
        Event::Ensured { step: 2, at },
        Event::Finished { at },
    ];
    let lines: Vec<String> = events.iter().filter_map(|event| serde_json::to_string(event).ok()).collect();
    vec![format!("{}\n", lines.join("\n")).into_bytes()]
}

/// A journal beside a plan of ours.
fn journal(input: &[u8]) -> Result<bool, String> {
    let home = folder();
    let run = home.path().join("runs/one");
    let written = std::fs::create_dir_all(&run)
        .and_then(|()| std::fs::write(run.join("journal.jsonl"), input))
        .and_then(|()| std::fs::write(run.join("plan.json"), "{}"));
    written.map_err(|error| error.to_string())?;
    let runs = Runs::of(home.path());
    drop(runs.names());
    // The plan is none, so what was read of the journal shows in which error comes.
    let error = runs.read("one").err().map(|error| error.to_string()).unwrap_or_default();
    Ok(error.contains("plan"))
}

fn snapshot_files() -> Vec<Vec<u8>> {
    let home = folder();
    let mut files = Vec::new();
    for (place, snapshot) in snapshots().iter().enumerate() {
        let path = home.path().join(place.to_string());
        drop(store::snapshot::save(snapshot, &path));
        files.extend(std::fs::read(&path).ok());
        let mut plain = Vec::new();
        files.extend(snapshot.write(&mut plain).ok().map(|_| plain));
    }
    files
}

fn archives() -> Vec<Vec<u8>> {
    let home = folder();
    let sample = |second: i64, subject: &str, limit| Sample {
        at: Timestamp::from_second(1_800_000_000 + second).expect("in range"),
        dimension: Dimension::MemoryRequests,
        subject: subject.into(),
        used: 0.5 * second as f64,
        limit,
    };
    let samples: Vec<Sample> =
        (0..40).map(|hour| sample(hour * 3600, if hour % 2 == 0 { "a" } else { "b" }, Some(9.0))).collect();
    let written = Archive::open(home.path()).and_then(|archive| archive.append(&samples, "live"));
    written.expect("a folder of our own");
    let files = std::fs::read_dir(home.path()).into_iter().flatten().flatten().map(|entry| entry.path());
    files
        .filter(|path| path.extension().is_some_and(|one| one == "parquet"))
        .filter_map(|path| std::fs::read(path).ok())
        .collect()
}

/// A file of the history that was damaged: its name has the hash of what it was.
///
/// The decoder of Parquet asks for whatever memory a crafted page claims to need, and no limit can be given to it. That
/// nothing is decoded whose hash is not the one in its name is therefore the invariant.
fn archive(input: &[u8]) -> Result<bool, String> {
    let home = folder();
    let hash = |bytes: &[u8]| Sha256::digest(bytes)[..8].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let whole = WHOLE.get_or_init(|| archives().first().map(|seed| hash(seed)).unwrap_or_default());
    std::fs::write(home.path().join(format!("one-{whole}.parquet")), input).map_err(|error| error.to_string())?;
    let loaded = Archive::load(home.path()).map_err(|error| error.to_string())?;
    match (hash(input) == *whole, loaded.unreadable.is_empty()) {
        (false, true) => Err("a damaged file was read".to_owned()),
        (true, false) => Err("a whole file was not read".to_owned()),
        (same, _) => Ok(same),
    }
}

/// Hash of the file of the history that the target begins with.
static WHOLE: OnceLock<String> = OnceLock::new();

fn manifests() -> Vec<Vec<u8>> {
    vec![
        concat!(
            "apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {name: db, namespace: data}\nspec:\n  replicas: 3\n",
            "  selector: {matchLabels: {app: db}}\n  template:\n    metadata: {labels: {app: db}}\n    spec:\n",
            "      containers:\n      - name: db\n        image: db:1\n        resources: {requests: {cpu: 500m, memory: 2Gi}}\n",
            "  volumeClaimTemplates:\n  - metadata: {name: data}\n    spec: {accessModes: [ReadWriteOnce], resources: ",
            "{requests: {storage: 10Gi}}}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: one}\nspec:\n",
            "  nodeSelector: {gpu: \"true\"}\n  tolerations: [{key: gpu, operator: Exists}]\n  containers:\n  - name: c\n    image: c\n",
        )
        .as_bytes()
        .to_vec(),
    ]
}

fn answers_of_prometheus() -> Vec<Vec<u8>> {
    let matrix = |values: Value| json!({"metric": {"node": "w1", "instance": "10.0.0.1:9100"}, "values": values});
    let good = json!({"status": "success", "data": {"resultType": "matrix", "result": [
        matrix(json!([[1_800_000_000, "1.5"], [1_800_000_300.25, "NaN"], [1_800_000_600, "+Inf"]])),
        matrix(json!([[1_800_000_000, "2"]]))]}});
    let bad = json!({"status": "error", "errorType": "bad_data", "error": "parse error"});
    [good, bad].iter().map(|answer| answer.to_string().into_bytes()).collect()
}

/// The objects of the seeds as an API server lists them: the name of the list, and the list.
fn object_lists() -> Vec<(String, Value)> {
    let mut lists: Vec<(String, Value)> = Vec::new();
    for object in snapshots().iter().flat_map(capplan_rig::objects::of) {
        let kind = object["kind"].as_str().unwrap_or_default().to_owned();
        let plural = match kind.to_lowercase() {
            lower if lower.ends_with('s') => format!("{lower}es"),
            lower if lower.ends_with('y') => format!("{}ies", lower.trim_end_matches('y')),
            lower => format!("{lower}s"),
        };
        let place = lists.iter().position(|(name, _)| *name == plural).unwrap_or_else(|| {
            let list = json!({"apiVersion": object["apiVersion"], "kind": format!("{kind}List"), "items": []});
            lists.push((plural, list));
            lists.len() - 1
        });
        // A few of each are as good as many, and faster.
        if let Some(items) = lists[place].1["items"].as_array_mut().filter(|items| items.len() < 5) {
            items.push(object);
        }
    }
    lists
}

fn lists_of_pods() -> Vec<Vec<u8>> {
    object_lists().iter().filter(|(name, _)| name == "pods").map(|(_, list)| list.to_string().into_bytes()).collect()
}

/// The first document names the list, the second one is it.
fn lists_of_all() -> Vec<Vec<u8>> {
    object_lists().iter().map(|(name, list)| format!("\"{name}\"\n{list}").into_bytes()).collect()
}

fn list(input: &[u8]) -> Result<bool, String> {
    let (first, rest) = input.split_at(input.iter().position(|byte| *byte == b'\n').unwrap_or(0));
    let name: String = serde_json::from_slice(first).unwrap_or_default();
    // A name that leads out of the folder is not what is tried here.
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase()) {
        return Ok(false);
    }
    let home = folder();
    std::fs::write(home.path().join(format!("{name}.json")), rest).map_err(|error| error.to_string())?;
    let kube = lists::read(home.path());
    let snapshot = Snapshot { kube, ..Snapshot::default() };
    let plural = format!("{name}.json");
    Ok(!snapshot.unknowns().iter().any(|(_, why)| why.starts_with(&plural)))
}

/// Answers of Proxmox VE by the file that they are saved in.
fn answers_of_pve() -> Vec<Vec<u8>> {
    let answers = json!({
        "version": {"version": "9.2.11", "release": "9.2"},
        "nodes": [{"node": "pve1", "status": "online", "maxmem": 137_438_953_472_u64, "maxcpu": 32}],
        "cluster_status": [{"type": "node", "name": "pve1", "online": 1, "local": 1}],
        "cluster_resources": [
            {"type": "node", "node": "pve1", "status": "online"},
            {"type": "qemu", "vmid": 201, "node": "pve1", "name": "w1", "status": "running", "tags": "capplan;k8s", "pool": "k8s",
             "maxmem": 8_589_934_592_u64, "mem": 4_294_967_296_u64, "maxcpu": 4, "template": 0, "hastate": "started", "lock": ""},
            {"type": "storage", "storage": "local-lvm", "node": "pve1", "plugintype": "lvmthin", "disk": 10, "maxdisk": 20}],
        "nodes_pve1_status": {"memory": {"total": 137_438_953_472_u64, "used": 1, "free": 2}, "ksm": {"shared": 0},
            "swap": {"total": 0, "used": 0}, "cpuinfo": {"cpus": 32}, "uptime": 100},
        "nodes_pve1_qemu": [{"vmid": 201, "name": "w1", "status": "running", "maxmem": 8_589_934_592_u64, "cpus": 4}],
        "nodes_pve1_lxc": [{"vmid": 301, "name": "dns", "status": "running", "maxmem": 536_870_912, "cpus": 1}],
        "nodes_pve1_qemu_201_config": {"name": "w1", "memory": "8192", "cores": 4, "sockets": 1, "balloon": 0, "onboot": 1,
            "scsihw": "virtio-scsi-single", "scsi0": "local-lvm:vm-201-disk-0,size=32G,iothread=1", "unused0": "local-lvm:vm-201-disk-1",
            "scsi1": "local-lvm:vm-9999-pvc-1,backup=0,serial=x,size=1G,wwn=0x5056432d49443031", "hostpci0": "0000:01:00,pcie=1",
            "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=20", "ipconfig0": "ip=10.0.20.31/24,gw=10.0.20.1",
            "smbios1": "uuid=00000000-0000-0000-0000-000000000201", "boot": "order=scsi0", "startup": "order=2,up=30",
            "tags": "capplan;k8s", "description": "made%20by%20hand", "digest": "0", "numa0": "cpus=0-1,memory=4096"},
        "nodes_pve1_qemu_201_pending": [{"key": "memory", "value": "8192", "pending": "9000"}, {"key": "scsi1", "value": "x:y", "delete": 1}],
        "nodes_pve1_qemu_201_snapshot": [{"name": "current", "description": "You are here!"}, {"name": "before", "snaptime": 1_700_000_000}],
        "nodes_pve1_qemu_201_status_current": {"status": "running", "qmpstatus": "running", "ha": {"managed": 1, "state": null},
            "mem": 1, "maxmem": 2, "ballooninfo": {"actual": 3}, "tags": "capplan"},
        "nodes_pve1_storage": [{"storage": "local-lvm", "type": "lvmthin", "active": 1, "enabled": 1, "total": 100, "used": 50,
            "content": "images,rootdir", "shared": 0}],
        "nodes_pve1_disks_lvmthin": [{"lv": "data", "vg": "pve", "lv_size": 100, "used": 50, "metadata_size": 10, "metadata_used": 1}],
        "cluster_ha_resources": [{"sid": "vm:201", "state": "started"}],
        "cluster_replication": [{"id": "201-0", "guest": 201, "target": "pve2"}],
        "cluster_backup": [{"id": "backup-1", "vmid": "201,202", "enabled": 1}],
        "cluster_tasks": [{"upid": "UPID:pve1:1:2:3:vzdump:201:root@pam:", "type": "vzdump", "status": "job errors",
            "starttime": 1_800_000_000, "endtime": 1_800_000_100, "user": "root@pam", "id": "201", "node": "pve1"}],
    });
    vec![answers.to_string().into_bytes()]
}

fn answer_of_pve(input: &[u8]) -> Result<bool, String> {
    let Ok(answers) = serde_json::from_slice::<serde_json::Map<String, Value>>(input) else { return Ok(false) };
    let home = folder();
    for (name, answer) in &answers {
        if !name.is_empty() && name.len() < 100 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            let path: PathBuf = home.path().join(format!("{name}.json"));
            std::fs::write(path, answer.to_string()).map_err(|error| error.to_string())?;
        }
    }
    Ok(pve::from_files(home.path()).hosts.known().is_some())
}

fn requests(snapshot: &Snapshot, place: usize) -> Vec<Request> {
    let mut requests = vec![Request::ScaleUp(Box::new(Wanted { count: Some(1), ..Wanted::default() }))];
    let removal = |destroy| Removal { count: Count::Exactly(1), anyway: Some("tried".to_owned()), destroy, ..Removal::default() };
    requests.push(Request::ScaleDown(removal(true)));
    let nodes = snapshot.kube.nodes.items();
    if !nodes.is_empty() {
        let name = nodes[place % nodes.len()].name.clone();
        requests.push(Request::Drain(vec![name.clone()]));
        requests.push(Request::Replace(Removal { node: Some(name), ..removal(true) }));
    }
    requests.extend(snapshot.hosts().next().map(|host| Request::Evacuate(host.name.clone())));
    requests
}

/// Report, simulations and plans of a cluster. Every plan passes its audit, can be written and read back, and is one
/// that `apply` would begin; the report recommends what `capplan plan` decides.
fn cluster(input: &[u8]) -> Result<bool, String> {
    let Ok(snapshot) = serde_json::from_slice::<Snapshot>(input) else { return Ok(false) };
    let (policy, history) = (Policy::built_in(), History::default());
    let place = input.len();
    let report = build(&snapshot, SnapshotId::default(), &history, &policy, Vec::new());
    serde_json::to_string(&report).map_err(|error| format!("the report cannot be written: {error}"))?;
    let mut changes = vec![Change::AddPvcs(AddPvcs { count: 3, ..AddPvcs::default() }), Change::ColdBoot, Change::WakeParked];
    let nodes = snapshot.kube.nodes.items();
    if !nodes.is_empty() {
        let name = nodes[place % nodes.len()].name.clone();
        changes.push(Change::RemoveNode(name.clone()));
        changes.push(Change::FailNode(Failure { name, mode: Default::default() }));
    }
    changes.extend(
        snapshot.hosts().next().map(|host| Change::FailHost(Failure { name: host.name.clone(), mode: Default::default() })),
    );
    // One of each kind would take six times as long, and the inputs are many.
    let change = changes.swap_remove(place % changes.len());
    let mut after = snapshot.clone();
    let trials = Trials { runs: 2, seed: 1 };
    let told = |_: u32| {};
    drop(simulate(&mut after, SnapshotId::default(), &history, &policy, &[change], trials, &told));
    let mut requests = requests(&snapshot, place);
    let request = requests.swap_remove(place % requests.len());
    let seen = Observation { snapshot: &snapshot, history: &history, policy: &policy, claims: &[] };
    let decided = decide(&seen, SnapshotId::default(), Limits::default()).map_err(|error| error.to_string())?;
    if decided.action != report.recommendation.action {
        return Err(format!("the report says {:?}, the plan {:?}", report.recommendation.action, decided.action));
    }
    is_allowed(&seen, &decided)?;
    if let Ok(made) = plan(&seen, SnapshotId::default(), &request, Limits { seconds: 0.5, seed: 1 }) {
        let broken = audit(&snapshot, &policy, &made);
        if !broken.is_empty() {
            return Err(format!("{request:?}: the plan fails its audit: {broken:?}"));
        }
        let text = serde_json::to_vec(&made).map_err(|error| format!("the plan cannot be written: {error}"))?;
        Plan::read(&text).map_err(|error| format!("the plan cannot be read back: {error}"))?;
        is_allowed(&seen, &made).map_err(|why| format!("{request:?}: {why}"))?;
    }
    Ok(true)
}

/// Whether a plan that is called feasible may be begun on the snapshot that it was made on.
fn is_allowed(seen: &Observation<'_>, made: &Plan) -> Result<(), String> {
    if made.feasibility != Feasibility::Feasible || made.steps.is_empty() {
        return Ok(());
    }
    gate(seen, made).map_err(|why| format!("{:?} is called feasible, and would be refused: {why}", made.action))
}
