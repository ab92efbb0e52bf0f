//! What is sent to a host: GETs only, and each one valid by the schema of the API.
//!
//! The recorded cluster and the schemas are not part of this repository: `CAPPLAN_TEST_DATA`
//! names their folder.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use capplan_model::pve::Pve;
use capplan_provision::pve::{
    Consolidation, Endpoint, PveError, Reader, Timeframe, Trust, from_files, observe, rrd, rrd_storage,
};
use capplan_provision::secret::Secret;
use serde_json::{Value, json};

const TOKEN: &str = "capplan@pve!ci=0b1c2d3e-secret";

fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("CAPPLAN_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CAPPLAN_TEST_DATA is not set");
        println!("skipped: CAPPLAN_TEST_DATA is not set");
    }
    folder
}

/// A recorded cluster on loopback; stopped with the value.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start(data: &Path, cluster: &str, log: &Path, more: &[&str]) -> Self {
        let mut process = Command::new("python3")
            .arg(data.join("tools/serve_cluster.py"))
            .arg(data.join("clusters").join(cluster))
            .args(["--pve-token", TOKEN, "--log"])
            .arg(log)
            .args(more)
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let port = line.trim().strip_prefix("PORT ").expect("a port");
        Self { process, url: format!("http://127.0.0.1:{port}") }
    }

    fn reader(&self, token: &str) -> Reader {
        let (name, url, token) = (String::new(), self.url.clone(), Secret::new(token));
        Reader::new(Endpoint { name, url, token, trust: Trust::System, limits: capplan_provision::limits::ReadLimits::default() })
            .expect("a valid endpoint")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn requests(log: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(log).expect("the log");
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// A request as the checker wants it: without the API's root, parameters decoded.
fn checkable(request: &Value) -> Value {
    let path = request["path"].as_str().expect("a path").strip_prefix("/api2/json").expect("the API's root");
    let query = request["query"].as_str().expect("a query");
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let params: serde_json::Map<String, Value> = pairs.map(|(key, value)| (key.to_owned(), value.into())).collect();
    json!({"method": request["method"], "path": path, "params": params})
}

/// What both ways of reading must agree on: the recorded server answers `config` without pending changes,
/// invents permissions, cluster status and mappings, and the folder has none of these. Snapshots, HA, replication and
/// backup jobs were not recorded, which each of them says in its own words.
fn comparable(mut pve: Pve) -> Pve {
    pve.quorate = capplan_model::reading::Reading::default();
    pve.pci_mappings = capplan_model::reading::Reading::default();
    pve.pools_shown = capplan_model::reading::Reading::default();
    pve.replication = capplan_model::reading::Reading::default();
    pve.backup_jobs = capplan_model::reading::Reading::default();
    if let capplan_model::reading::Reading::Known(guests) = &mut pve.guests {
        for guest in guests.iter_mut() {
            guest.ha = capplan_model::reading::Reading::default();
            guest.snapshots = capplan_model::reading::Reading::default();
        }
    }
    if let capplan_model::reading::Reading::Known(guests) = &mut pve.guests {
        for guest in guests.iter_mut().filter(|guest| matches!(guest.vmid.0, 204 | 205)) {
            guest.pending.clear();
            guest.config = capplan_model::reading::Reading::default();
        }
    }
    pve
}

#[tokio::test]
async fn an_observation_sends_valid_gets_only_and_agrees_with_the_files() {
    let Some(data) = data() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("requests.jsonl");
    let server = Server::start(&data, "today", &log, &[]);
    let reader = server.reader(TOKEN);
    let said = Mutex::new(Vec::new());
    let pve = observe(&reader, &|text| said.lock().expect("not poisoned").push(text.to_owned())).await;
    assert_eq!(said.lock().expect("not poisoned").len(), 4, "rounds");
    assert_eq!(pve.quorate.known(), Some(&true), "a host alone");
    assert_eq!(pve.guests.known().map(Vec::len), Some(16), "{:?}", pve.guests.why());
    assert_eq!(comparable(pve), comparable(from_files(&data.join("clusters/today/pve"))));

    // Not recorded, but asked for as they should be.
    let host = "pve".into();
    let error = rrd(&reader, &host, Timeframe::Month, Consolidation::Maximum).await.expect_err("not recorded");
    assert!(matches!(error, PveError::Api { status: 501, .. }), "{error:?}");
    rrd_storage(&reader, &host, "local-lvm", Timeframe::Year, Consolidation::Average).await.expect_err("not recorded");

    let requests = requests(&log);
    assert!(requests.len() > 50, "{}", requests.len());
    assert!(requests.iter().all(|request| request["method"] == "GET"));
    let lines: Vec<String> = requests.iter().map(|request| checkable(request).to_string()).collect();
    let checked = folder.path().join("checked.jsonl");
    std::fs::write(&checked, lines.join("\n")).expect("writable");
    for schema in ["api-schema-9.2.json", "api-schema-8.4.json"] {
        let output = Command::new("python3")
            .arg(data.join("tools/pve_check.py"))
            .arg(data.join("pve").join(schema))
            .arg(&checked)
            .output()
            .expect("python3 runs");
        assert!(output.status.success(), "{schema}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

#[tokio::test]
async fn a_fault_that_passes_leaves_no_trace_and_one_that_stays_is_told() {
    let Some(data) = data() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log = folder.path().join("requests.jsonl");
    let faults = [
        "--fail",
        "/api2/json/nodes/pve/status:596:2",
        "--fail",
        "/api2/json/nodes/pve/qemu:595:3",
        "--fail",
        "/api2/json/version:500:9",
    ];
    let server = Server::start(&data, "lun-incident", &log, &faults);
    let pve = observe(&server.reader(TOKEN), &|_| ()).await;
    assert!(pve.hosts.items()[0].memory.known().is_some(), "the third attempt was answered");
    assert!(pve.guests.why().is_some_and(|why| why.starts_with("GET /nodes/pve/qemu: ")), "{:?}", pve.guests.why());
    assert!(pve.version.why().is_some_and(|why| why.contains("injected fault")), "{:?}", pve.version);
    let asked = |path: &str| requests(&log).iter().filter(|request| request["path"] == path).count();
    assert_eq!(asked("/api2/json/nodes/pve/qemu"), 3);
    assert_eq!(asked("/api2/json/version"), 1, "500 is final");
}

#[tokio::test]
async fn a_wrong_token_makes_everything_unknown_and_is_not_shown() {
    let Some(data) = data() else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let server = Server::start(&data, "today", &folder.path().join("requests.jsonl"), &[]);
    let pve = observe(&server.reader("capplan@pve!ci=another-secret"), &|_| ()).await;
    for why in [pve.version.why(), pve.quorate.why(), pve.hosts.why(), pve.guests.why(), pve.failed_tasks.why()] {
        assert!(why.is_some_and(|why| why.contains("does not accept the token")), "{why:?}");
    }
    assert!(!format!("{pve:?}").contains("another-secret"));
}
