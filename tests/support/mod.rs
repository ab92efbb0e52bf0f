//! What the end-to-end tests share: the binary in a world of its own, recorded clusters and small
//! servers on loopback, and certificates made for the occasion.
//!
//! The recordings are not part of this repository: `CAPPLAN_TEST_DATA` names their folder.

#![expect(dead_code, reason = "each test binary uses its own part")]

pub mod replay;
pub mod truth;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Bearer token of the Kubernetes account.
pub const KUBE_TOKEN: &str = "kube-bearer-5f2c9a";
/// API token of the PVE account.
pub const PVE_TOKEN: &str = "capplan@pve!ci=0b1c2d3e-4f50-pve-key";
/// The part of it that is as good as the whole.
pub const PVE_KEY: &str = "0b1c2d3e-4f50-pve-key";
/// Bearer token for Prometheus.
pub const PROMETHEUS_TOKEN: &str = "prometheus-bearer-77e1";

/// Folder of the recordings, or word that there is none.
pub fn data() -> Option<PathBuf> {
    let folder = std::env::var_os("CAPPLAN_TEST_DATA").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: CAPPLAN_TEST_DATA is not set");
    }
    folder
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Outcome {
    /// Runs a command to its end.
    pub fn of(mut command: Command) -> Self {
        let output = command.output().expect("the binary runs");
        Self {
            code: output.status.code().expect("it ends on its own"),
            out: String::from_utf8(output.stdout).expect("stdout is UTF-8"),
            err: String::from_utf8(output.stderr).expect("stderr is UTF-8"),
        }
    }

    /// The run did what was asked.
    #[track_caller]
    pub fn done(self) -> Self {
        self.ends(0)
    }

    /// The run ended with this code.
    #[track_caller]
    pub fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stderr: {}\nstdout: {}", self.err, self.out);
        self
    }

    /// The run said nothing on stdout, this on stderr, and did not panic.
    #[track_caller]
    pub fn says(self, texts: &[&str]) -> Self {
        assert_eq!(self.out, "", "stdout is for data");
        assert!(!self.err.contains("panicked"), "{}", self.err);
        for text in texts {
            assert!(self.err.contains(text), "`{text}` is not in: {}", self.err);
        }
        self
    }

    /// The JSON on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).expect("stdout is one JSON value")
    }
}

/// A home, a state folder and an environment that nothing else shares.
pub struct World {
    pub folder: TempDir,
    environment: Vec<(String, String)>,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("work")).expect("a new folder");
        Self { folder, environment: Vec::new() }
    }

    /// A file in the world.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file and answers its path as text.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.path(name);
        std::fs::write(&path, content).expect("writable");
        path.display().to_string()
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.unset(name);
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Removes a variable.
    pub fn unset(&mut self, name: &str) -> &mut Self {
        self.environment.retain(|(one, _)| one != name);
        self
    }

    /// Names a kubeconfig of our own for `server`.
    pub fn kubeconfig(&mut self, server: &str, authority: Option<&Path>, token: &str) -> &mut Self {
        let authority = authority.map(|path| format!("\"certificate-authority\": {:?}, ", path.display().to_string()));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters: [{{name: test, cluster: {{{}server: {server:?}}}}}]\n\
             users: [{{name: test, user: {{token: {token:?}}}}}]\n\
             contexts: [{{name: test, context: {{cluster: test, user: test}}}}]\n",
            authority.unwrap_or_default()
        );
        let path = self.write("kubeconfig", text);
        self.set("KUBECONFIG", path)
    }

    /// The binary with this world's environment and nothing else, in an empty folder.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_through(Command::new(env!("CARGO_BIN_EXE_capplan")), arguments)
    }

    /// The same for a command that runs the binary, such as one that enters another namespace.
    pub fn command_through(&self, mut command: Command, arguments: &[&str]) -> Command {
        command
            .args(arguments)
            .env_clear()
            .env("HOME", self.folder.path())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())))
            .current_dir(self.path("work"))
            .stdin(Stdio::null());
        command
    }

    /// Runs the binary.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments))
    }

    /// Every file of the world, by its path in it.
    pub fn files(&self) -> BTreeSet<String> {
        let mut files = BTreeSet::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).expect("readable") {
                let path = entry.expect("readable").path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    files.insert(path.strip_prefix(self.folder.path()).expect("below it").display().to_string());
                }
            }
        }
        files
    }

    /// Copies the history of another world.
    pub fn take_history(&self, other: &World) {
        for file in other.files().iter().filter(|file| file.starts_with(STATE)) {
            let to = self.path(file);
            std::fs::create_dir_all(to.parent().expect("in a folder")).expect("writable");
            std::fs::copy(other.path(file), to).expect("writable");
        }
    }
}

/// Where the history is by default, below the home.
pub const STATE: &str = ".local/state/capplan";

/// Certificates for 127.0.0.1.
pub struct Certificates {
    folder: TempDir,
    /// SHA-256 of the server's, as PVE shows it.
    pub fingerprint: String,
}

impl Certificates {
    /// An authority and a server certificate signed by it.
    pub fn signed() -> Self {
        let authority_key = KeyPair::generate().expect("a key");
        let mut authority = named("capplan test authority", &[]);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let root = authority.self_signed(&authority_key).expect("a certificate");
        let key = KeyPair::generate().expect("a key");
        let issuer = Issuer::from_params(&authority, &authority_key);
        let server = named("capplan test server", &["127.0.0.1"]).signed_by(&key, &issuer).expect("a certificate");
        Self::keep(&root.pem(), &server, &key)
    }

    /// One certificate that is marked as an authority and serves itself, as some tools make them.
    pub fn own() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = named("capplan test server", &["127.0.0.1"]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let server = params.self_signed(&key).expect("a certificate");
        Self::keep(&server.pem(), &server, &key)
    }

    fn keep(authority: &str, server: &rcgen::Certificate, key: &KeyPair) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in
            [("ca.pem", authority), ("cert.pem", server.pem().as_str()), ("key.pem", key.serialize_pem().as_str())]
        {
            std::fs::write(folder.path().join(name), text).expect("writable");
        }
        let pairs: Vec<String> = Sha256::digest(server.der()).iter().map(|byte| format!("{byte:02X}")).collect();
        Self { folder, fingerprint: pairs.join(":") }
    }

    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("valid names");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// A recorded cluster on loopback, over HTTPS, with a token for each plane.
pub struct Cluster {
    process: Child,
    log: TempDir,
    pub name: &'static str,
    pub url: String,
    pub certificates: Certificates,
    folder: PathBuf,
}

impl Cluster {
    pub fn start(data: &Path, name: &'static str, more: &[&str]) -> Self {
        Self::start_with(Certificates::signed(), data, name, more)
    }

    pub fn start_with(certificates: Certificates, data: &Path, name: &'static str, more: &[&str]) -> Self {
        let log = tempfile::tempdir().expect("a temporary folder");
        let folder = data.join("clusters").join(name);
        let mut process = Command::new("python3")
            .arg(data.join("tools/serve_cluster.py"))
            .arg(&folder)
            .arg("--tls")
            .args([certificates.folder.path().join("cert.pem"), certificates.folder.path().join("key.pem")])
            .args(["--token", KUBE_TOKEN, "--pve-token", PVE_TOKEN, "--log"])
            .arg(log.path().join("requests.jsonl"))
            .args(more)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 runs");
        let mut line = String::new();
        BufReader::new(process.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        let port = line.trim().strip_prefix("PORT ").expect("a port");
        let url = format!("https://127.0.0.1:{port}");
        Self { process, log, name, url, certificates, folder }
    }

    /// A world that is configured for this cluster: PVE by its fingerprint, at the recording's time.
    pub fn world(&self) -> World {
        let mut world = World::new();
        world
            .kubeconfig(&self.url, Some(&self.certificates.authority()), KUBE_TOKEN)
            .set("CAPPLAN_PVE_URL", &self.url)
            .set("CAPPLAN_PVE_TOKEN", PVE_TOKEN)
            .set("CAPPLAN_PVE_FINGERPRINT", &self.certificates.fingerprint)
            .set("CAPPLAN_NOW", self.read("build_notes.json")["now"].as_str().expect("an instant"));
        world
    }

    /// The same world with Prometheus.
    pub fn world_with_prometheus(&self) -> World {
        let mut world = self.world();
        world
            .set("CAPPLAN_PROMETHEUS_URL", format!("{}/prom", self.url))
            .set("CAPPLAN_PROMETHEUS_TOKEN", PROMETHEUS_TOKEN)
            .set("CAPPLAN_PROMETHEUS_CA_FILE", self.certificates.authority().display().to_string());
        world
    }

    /// A file of the recording.
    pub fn read(&self, name: &str) -> Value {
        let text = std::fs::read_to_string(self.folder.join(name)).expect("part of the recording");
        serde_json::from_str(&text).expect("JSON")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.log.path().join("requests.jsonl")).expect("the log");
        text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// A request as a small server sees it.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    /// Without the query.
    pub path: String,
    pub authorization: String,
}

type Answer = dyn Fn(&Request) -> (u16, String) + Send + Sync;

/// A small HTTP server on loopback that answers by a function; stopped with the value.
pub struct Server {
    pub url: String,
    requests: Arc<Mutex<Vec<Request>>>,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let (seen, stop) = (Arc::clone(&requests), Arc::clone(&stopping));
        let answer: Arc<Answer> = Arc::new(answer);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                if let Ok(stream) = stream {
                    // A client that hangs up is the client's affair.
                    std::thread::spawn(move || drop(serve(stream, &seen, &*answer)));
                }
            }
        });
        Self { url, requests, stopping, thread: Some(thread) }
    }

    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("not poisoned").clone()
    }

    /// A world whose planes both are this server.
    pub fn world(&self) -> World {
        let mut world = World::new();
        world
            .kubeconfig(&self.url, None, KUBE_TOKEN)
            .set("CAPPLAN_PVE_URL", &self.url)
            .set("CAPPLAN_PVE_TOKEN", PVE_TOKEN)
            .set("CAPPLAN_NOW", "2026-03-02T06:00:00Z");
        world
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        // Wakes the thread up, so that it sees the flag.
        drop(TcpStream::connect(self.url.trim_start_matches("http://")));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, answer: &Answer) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().split('?').next().unwrap_or_default().to_owned();
    let mut request = Request { method, path, authorization: String::new() };
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => request.authorization = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().unwrap_or_default(),
            _ => {}
        }
    }
    reader.take(length).read_to_end(&mut Vec::new())?;
    seen.lock().expect("not poisoned").push(request.clone());
    let (status, body) = answer(&request);
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {status} Told\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Whether the request is for the PVE plane.
pub fn is_pve(request: &Request) -> bool {
    request.path.starts_with("/api2/json/")
}

/// A refusal as each plane words it.
pub fn refusal(request: &Request, status: u16, message: &str) -> (u16, String) {
    let body = if is_pve(request) {
        json!({"data": null, "message": message})
    } else {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "code": status})
    };
    (status, body.to_string())
}

/// A small healthy cluster: three idle workers on one roomy host.
pub fn idle_cluster(request: &Request) -> (u16, String) {
    match request.path.strip_prefix("/api2/json") {
        Some(path) => idle_pve(path).map(|data| (200, json!({"data": data}).to_string())),
        None => idle_kube(&request.path).map(|answer| (200, answer.to_string())),
    }
    .unwrap_or_else(|| refusal(request, 404, "there is no such thing"))
}

const DRIVER: &str = "csi.proxmox.sinextra.dev";
const WORKERS: [(&str, u32); 3] = [("worker1", 101), ("worker2", 102), ("worker3", 103)];

fn uuid(vmid: u32) -> String {
    format!("00000000-0000-4000-8000-000000000{vmid}")
}

fn idle_kube(path: &str) -> Option<Value> {
    let items = match path {
        "/version" => return Some(json!({"gitVersion": "v1.34.2"})),
        "/api/v1/namespaces/kube-system" => return Some(json!({"metadata": {"name": "kube-system", "uid": "c0ffee-1"}})),
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews" => return Some(json!({"status": {"allowed": true}})),
        "/api/v1/namespaces" => vec![json!({"metadata": {"name": "kube-system", "uid": "c0ffee-1"}})],
        "/api/v1/nodes" => WORKERS
            .iter()
            .map(|(name, vmid)| {
                json!({
                    "metadata": {"name": name, "uid": uuid(*vmid), "creationTimestamp": "2026-01-01T00:00:00Z"},
                    "spec": {},
                    "status": {
                        "allocatable": {"cpu": "8", "memory": "30Gi", "pods": "110"},
                        "capacity": {"cpu": "8", "memory": "32Gi", "pods": "110"},
                        "conditions": [{"type": "Ready", "status": "True"}],
                        "nodeInfo": {"kubeletVersion": "v1.34.2", "systemUUID": uuid(*vmid)},
                    },
                })
            })
            .collect(),
        "/api/v1/pods" => WORKERS
            .iter()
            .map(|(name, _)| {
                json!({
                    "metadata": {
                        "name": format!("app-{name}"), "namespace": "default", "uid": format!("pod-{name}"),
                        "ownerReferences": [{"kind": "ReplicaSet", "name": "app", "uid": "rs-1", "controller": true}],
                    },
                    "spec": {
                        "nodeName": name,
                        "containers": [{
                            "name": "app", "image": "app",
                            "resources": {"requests": {"cpu": "1", "memory": "2Gi"}, "limits": {"memory": "2Gi"}},
                        }],
                        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": format!("data-{name}")}}],
                    },
                    "status": {"phase": "Running"},
                })
            })
            .collect(),
        "/api/v1/persistentvolumes" => WORKERS
            .iter()
            .map(|(name, vmid)| {
                json!({
                    "metadata": {"name": format!("pvc-{vmid}")},
                    "spec": {
                        "capacity": {"storage": "1Gi"},
                        "csi": {"driver": DRIVER, "volumeHandle": format!("home/pve1/local-lvm/vm-9999-pvc-{vmid}")},
                        "claimRef": {"kind": "PersistentVolumeClaim", "namespace": "default", "name": format!("data-{name}")},
                    },
                    "status": {"phase": "Bound"},
                })
            })
            .collect(),
        "/api/v1/persistentvolumeclaims" => WORKERS
            .iter()
            .map(|(name, vmid)| {
                json!({
                    "metadata": {"name": format!("data-{name}"), "namespace": "default"},
                    "spec": {"volumeName": format!("pvc-{vmid}")},
                    "status": {"phase": "Bound"},
                })
            })
            .collect(),
        "/apis/storage.k8s.io/v1/volumeattachments" => WORKERS
            .iter()
            .map(|(name, vmid)| {
                json!({
                    "metadata": {"name": format!("csi-{vmid}")},
                    "spec": {"attacher": DRIVER, "nodeName": name, "source": {"persistentVolumeName": format!("pvc-{vmid}")}},
                    "status": {"attached": true},
                })
            })
            .collect(),
        "/apis/storage.k8s.io/v1/csinodes" => WORKERS
            .iter()
            .map(|(name, _)| {
                json!({
                    "metadata": {"name": name},
                    "spec": {"drivers": [{"name": DRIVER, "nodeID": name, "allocatable": {"count": 24}}]},
                })
            })
            .collect(),
        _ if KUBE_LISTS.contains(&path) => Vec::new(),
        _ => return None,
    };
    Some(json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}))
}

fn idle_pve(path: &str) -> Option<Value> {
    let guest = |name: &str, vmid: u32| {
        json!({
            "vmid": vmid, "name": name, "status": "running", "maxmem": 32_u64 << 30, "cpus": 8, "uptime": 1000,
        })
    };
    Some(match path {
        "/version" => json!({"version": "9.0.11"}),
        "/access/permissions" => {
            json!({"/": {"Sys.Audit": 1, "VM.Audit": 1, "Datastore.Audit": 1, "Mapping.Audit": 1}})
        }
        "/nodes" => json!([{"node": "pve1", "status": "online"}]),
        "/cluster/status" => json!([{"type": "node", "name": "pve1", "online": 1}]),
        "/cluster/resources" => json!([{"type": "node", "node": "pve1", "status": "online"}]),
        "/cluster/ha/resources"
        | "/cluster/mapping/pci"
        | "/nodes/pve1/lxc"
        | "/nodes/pve1/tasks"
        | "/nodes/pve1/disks/lvmthin" => json!([]),
        "/nodes/pve1/status" => json!({
            "memory": {"total": 256_u64 << 30, "used": 100_u64 << 30, "free": 156_u64 << 30, "available": 156_u64 << 30},
            "swap": {"total": 0, "used": 0, "free": 0},
            "cpuinfo": {"cpus": 32}, "loadavg": ["1", "1", "1"], "uptime": 1000, "wait": 0.0,
        }),
        "/nodes/pve1/storage" => json!([
            {"storage": "local-lvm", "type": "lvmthin", "total": 1_u64 << 40, "used": 1_u64 << 38, "avail": 3_u64 << 38,
             "active": 1, "enabled": 1, "content": "images"},
        ]),
        "/nodes/pve1/qemu" => WORKERS.iter().map(|(name, vmid)| guest(name, *vmid)).collect(),
        _ => {
            let rest = path.strip_prefix("/nodes/pve1/qemu/")?;
            let (vmid, rest) = rest.split_once('/')?;
            let (name, vmid) = WORKERS.iter().find(|(_, one)| one.to_string() == vmid)?;
            match rest {
                "status/current" => guest(name, *vmid),
                "config" => json!({
                    "name": name, "memory": "32768", "cores": 8, "smbios1": format!("uuid={}", uuid(*vmid)),
                    "scsi0": format!("local-lvm:vm-{vmid}-disk-0,discard=on,size=32G"),
                    "scsi1": format!("local-lvm:vm-9999-pvc-{vmid},discard=on,size=1G"),
                    "digest": "d",
                }),
                _ => return None,
            }
        }
    })
}

/// Every list of the Kubernetes API that a report reads.
pub const KUBE_LISTS: [&str; 24] = [
    "/api/v1/events",
    "/api/v1/namespaces",
    "/api/v1/nodes",
    "/api/v1/persistentvolumeclaims",
    "/api/v1/persistentvolumes",
    "/api/v1/pods",
    "/api/v1/resourcequotas",
    "/api/v1/services",
    "/apis/apps/v1/daemonsets",
    "/apis/apps/v1/deployments",
    "/apis/apps/v1/replicasets",
    "/apis/apps/v1/statefulsets",
    "/apis/batch/v1/cronjobs",
    "/apis/batch/v1/jobs",
    "/apis/coordination.k8s.io/v1/leases",
    "/apis/crd.projectcalico.org/v1/ipamhandles",
    "/apis/metrics.k8s.io/v1beta1/nodes",
    "/apis/policy/v1/poddisruptionbudgets",
    "/apis/scheduling.k8s.io/v1/priorityclasses",
    "/apis/storage.k8s.io/v1/csidrivers",
    "/apis/storage.k8s.io/v1/csinodes",
    "/apis/storage.k8s.io/v1/csistoragecapacities",
    "/apis/storage.k8s.io/v1/storageclasses",
    "/apis/storage.k8s.io/v1/volumeattachments",
];

/// Names of the unknowns of a report.
#[track_caller]
pub fn unknowns(report: &Value) -> Vec<&str> {
    report["unknown"].as_array().expect("a list").iter().map(|one| one["what"].as_str().expect("a name")).collect()
}

/// The rows of a list whose `key` is `value`.
#[track_caller]
pub fn row<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let found = list.as_array().and_then(|rows| rows.iter().find(|row| row[key] == value));
    assert!(found.is_some(), "no row with {key} = {value} in {list}");
    found.expect("just asserted")
}

/// Codes and subjects of the findings of a report.
#[track_caller]
pub fn findings(report: &Value) -> BTreeSet<(&str, &str)> {
    report["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|one| (one["code"].as_str().expect("a code"), one["subject"].as_str().expect("a subject")))
        .collect()
}

/// The recorded cluster as a snapshot file, and the arguments that name it.
pub fn recorded(world: &World, name: &str) -> Option<String> {
    let lists = data()?.join("clusters").join(name);
    let file = world.path(&format!("{name}.snapshot")).display().to_string();
    world.run(&["snapshot", "--from-lists", &lists.display().to_string(), "-o", &file]).done();
    Some(file)
}

/// What the truth of a recording says.
pub fn truth(name: &str) -> serde_json::Value {
    let path = data().expect("asked before").join("clusters").join(name).join("truth.json");
    serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON")
}

/// Every scenario of the repository, by name.
pub fn scenarios() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let entries = std::fs::read_dir(folder).expect("the folder of scenarios").map(|entry| entry.expect("readable").path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    paths.sort();
    paths
}
