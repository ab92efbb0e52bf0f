//! Workers are made for real: cloned, told how to join, joined, tried with a volume, and nothing secret is left.

use std::collections::BTreeSet;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use capplan_model::Reading;
use capplan_model::ids::{HostName, VmId};
use capplan_model::plan::Plan;
use capplan_model::pve::{Disk, Guest, GuestConfig};
use capplan_model::scenario::Scenario;
use capplan_model::units::Bytes;
use capplan_provision::limits::ReadLimits;
use capplan_provision::prometheus::Prometheus;
use capplan_rig::control_plane::Component;
use capplan_rig::kube::{Api, Call};
use capplan_rig::operator::Operator;
use capplan_rig::plant::MissingOwners;
use capplan_rig::prometheus::OpenMetrics;
use capplan_rig::{Failure, Rig, objects, placement};
use serde_json::{Value, json};

use crate::apply::{done, lines};
use crate::join;
use crate::support::{STATE, World};
use crate::{Tested, is_full, kube_faults, printed_roles, pve_faults, skipped_without_own_plane, world};

const WORKERS: &str = r#"
format = "capplan.scenario/1"
title = "Two workers, and a template for more"
now = "2026-03-02T06:00:00Z"

[[hosts]]
name = "pve1"
memory = "256GiB"
available = "60GiB"
cpus = 32
pools = [{ name = "pve/data", size = "2TiB", used = "200GiB", metadata_size = "16GiB", metadata_used = "1GiB" }]

[[nodes]]
name = "w1"
vmid = 201
host = "pve1"
memory = "8GiB"
cpus = 4
labels = { "topology.kubernetes.io/region" = "lab", "topology.kubernetes.io/zone" = "pve1", "node-role.kubernetes.io/worker" = "" }

[[nodes]]
name = "w2"
vmid = 202
host = "pve1"
memory = "8GiB"
cpus = 4
labels = { "topology.kubernetes.io/region" = "lab", "topology.kubernetes.io/zone" = "pve1", "node-role.kubernetes.io/worker" = "" }
"#;

/// An addition.
pub(crate) const ADD: [&str; 7] = ["apply", "add-worker", "--memory", "8GiB", "--like", "w1", "--yes"];

/// Plays the provisioner while it lives: claims get volumes, and volumes of claims that are gone go.
pub(crate) struct Provisioner {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Provisioner {
    fn start(api: Api, operator: Operator) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                drop(provision(&api, &operator));
                std::thread::sleep(Duration::from_millis(100));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Provisioner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn provision(api: &Api, operator: &Operator) -> Tested {
    for claim in api.list("/api/v1/persistentvolumeclaims")? {
        let chosen = claim.pointer("/metadata/annotations/volume.kubernetes.io~1selected-node").is_some();
        if chosen && claim["spec"]["volumeName"].is_null() {
            let name = format!("vm-9999-pvc-{}", claim["metadata"]["uid"].as_str().unwrap_or_default());
            let form = [("vmid", "9999"), ("filename", name.as_str()), ("size", "1G")];
            // A claim gets its volume only once its disk is there; one of an earlier attempt will do.
            match operator.change(http::Method::POST, "/nodes/pve1/storage/local-lvm/content", &form) {
                Err(failure) if !failure.to_string().contains("exists") => return Err(failure),
                Ok(_) | Err(_) => {}
            }
            placement::provision_for(api, &claim)?;
        }
    }
    for volume in api.list("/api/v1/persistentvolumes")? {
        if volume["status"]["phase"] == "Released" {
            api.call(Call::delete(format!(
                "/api/v1/persistentvolumes/{}",
                volume["metadata"]["name"].as_str().unwrap_or_default()
            )))?;
        }
    }
    Ok(())
}

/// The pool of the workers.
const POOL: &str = "k8s";

/// What the tool may do on Proxmox VE: just what the printed commands grant for this pool, this storage of images, this
/// template, this storage of disks and this bridge.
fn grants() -> Vec<(String, Vec<String>)> {
    let printed = World::new().run(&["doctor", "--print-roles", "--apply"]).done().out;
    let lines = printed.lines().filter_map(|line| line.strip_prefix('#')).map(str::trim);
    let script = lines.collect::<Vec<_>>().join("\n").replace("\\\n", "");
    let filled = [("$pool", POOL), ("$images", "local"), ("$3", "9000"), ("$4", "local-lvm"), ("$5", "vmbr0")];
    let mut roles: Vec<(String, Vec<String>)> = Vec::new();
    let mut grants: Vec<(String, Vec<String>)> = Vec::new();
    for line in script.lines() {
        let words: Vec<&str> = line.split_whitespace().map(|word| word.trim_matches('"')).collect();
        match words[..] {
            ["pveum", "role", "add", role, "--privs", privileges] => {
                roles.push((role.to_owned(), privileges.split(',').map(str::to_owned).collect()));
            }
            ["pveum", "acl", "modify", path, "--users", user, "--roles", role] if user.contains("user") => {
                let path = filled.iter().fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
                let privileges = &roles.iter().find(|(name, _)| name == role).expect("a role that is added").1;
                // With a template the pool gets the role that makes VMs instead of the smaller one.
                grants.retain(|(one, _)| *one != path);
                grants.push((path, privileges.clone()));
            }
            _ => {}
        }
    }
    assert_eq!(grants.len(), 6, "{grants:?}");
    grants
}

/// Gives the tool these rights and no others.
fn grant(rig: &mut Rig, grants: &[(String, Vec<String>)]) -> Tested {
    let privileges: Vec<Vec<&str>> = grants.iter().map(|(_, all)| all.iter().map(String::as_str).collect()).collect();
    let grants: Vec<(&str, &[&str])> =
        grants.iter().zip(&privileges).map(|((path, _), all)| (path.as_str(), all.as_slice())).collect();
    rig.double()?.grant(&grants)
}

/// A rig with two workers and a template, and a world whose account may just do what is needed.
pub(crate) fn started() -> Result<(Rig, World, Provisioner), Failure> {
    let mut snapshot = Scenario::parse(WORKERS).expect("a valid scenario").snapshot();
    if let Some(Reading::Known(guests)) = snapshot.pve.first_mut().map(|pve| &mut pve.guests) {
        for (number, guest) in guests.iter_mut().enumerate() {
            guest.pool = Some(POOL.to_owned());
            if let Reading::Known(config) = &mut guest.config {
                config.addresses = vec![format!("10.0.20.{}/24", 101 + number)];
                config.gateway = Some("10.0.20.1".to_owned());
                config.net0 = Some(format!("virtio=BC:24:11:00:00:0{number},bridge=vmbr0"));
            }
        }
        guests.push(template());
    }
    let mut rig = Rig::start()?;
    rig.plant(objects::of(&snapshot), MissingOwners::Drop)?;
    rig.plant(printed_roles(), MissingOwners::Drop)?;
    rig.start_double(&snapshot)?;
    grant(&mut rig, &grants())?;
    rig.start_machines(&["--adopt", "--lease-seconds", "2", "--discovery-timeout", "6s", "--driver-delay", "500ms"])?;
    rig.start_controllers()?;
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "proxmox"},
        "provisioner": "csi.proxmox.sinextra.dev", "volumeBindingMode": "WaitForFirstConsumer",
        "reclaimPolicy": "Delete", "parameters": {"storage": "local-lvm"}});
    rig.api().call(Call::post("/apis/storage.k8s.io/v1/storageclasses", class))?;
    let agent = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}}, "template": {"metadata": {"labels": {"app": "agent"}},
            "spec": {"containers": [{"name": "agent", "image": "registry.example/agent:1",
                                     "resources": {"requests": {"memory": "64Mi"}}}]}}}});
    rig.api().call(Call::post("/apis/apps/v1/namespaces/default/daemonsets", agent))?;
    rig.start_gate()?;
    let mut world = world(&mut rig)?;
    world.set("KUBECONFIG", rig.account("capplan-apply")?.display().to_string());
    let policy = world.run(&["policy"]).done().out;
    let server = format!("[join]\nserver = \"{}\"", rig.server()?);
    let policy = world.write("policy.toml", policy.replace("[join]", &server));
    world.set("CAPPLAN_POLICY", policy);
    let provisioner = Provisioner::start(rig.api().clone(), rig.double()?.operator().clone());
    Ok((rig, world, provisioner))
}

fn template() -> Guest {
    let disk = |volume: &str, size, cdrom| Disk { volume: volume.into(), size: Some(size), cdrom, ..Disk::default() };
    let config = GuestConfig {
        name: "k8s-template".into(),
        memory: Bytes::gib(2),
        cores: 2,
        uuid: Some("00000000-0000-4000-8000-000000009000".into()),
        disks: [
            ("scsi0".to_owned(), disk("local-lvm:base-9000-disk-0", Bytes::gib(4), false)),
            ("ide2".to_owned(), disk("local-lvm:vm-9000-cloudinit", Bytes(4 << 20), true)),
        ]
        .into(),
        net0: Some("virtio=BC:24:11:00:90:00,bridge=vmbr0".into()),
        ..GuestConfig::default()
    };
    Guest {
        vmid: VmId(9000),
        host: HostName::from("pve1"),
        name: "k8s-template".into(),
        template: true,
        max_memory: Bytes::gib(2),
        cpus: 2,
        config: Reading::Known(config),
        ..Guest::default()
    }
}

/// A worker is there, whole, and nothing else is.
pub(crate) fn joined(rig: &mut Rig, name: &str, vmid: u32) -> Tested {
    let node = rig.api().get(&format!("/api/v1/nodes/{name}"))?;
    let labels = &node["metadata"]["labels"];
    assert_eq!(labels["topology.kubernetes.io/zone"], "pve1", "{labels}");
    assert_eq!(labels["node-role.kubernetes.io/worker"], "", "{labels}");
    assert_eq!(node["spec"]["providerID"], format!("proxmox://lab/{vmid}"));
    let csi = rig.api().get(&format!("/apis/storage.k8s.io/v1/csinodes/{name}"))?;
    assert_eq!(csi["spec"]["drivers"][0]["allocatable"]["count"], 28, "{csi}");
    let guest = rig.double()?.guest(vmid)?;
    let config = &guest["config"];
    assert_eq!((&guest["power"], &config["onboot"], &config["tags"]), (&json!("running"), &json!(1), &json!("capplan")));
    assert_eq!(guest["pool"], POOL, "{guest}");
    assert_eq!((&config["name"], &config["memory"]), (&json!(name), &json!("8192")), "{config}");
    assert!(config["ide2"].as_str().is_some_and(|text| text.starts_with("none")), "{config}");
    assert!(config["ipconfig0"].as_str().is_some_and(|text| text.contains("gw=10.0.20.1")), "{config}");
    assert!(config.as_object().expect("options").values().all(|value| !value.to_string().contains("vm-9999")), "{config}");
    tidy(rig)
}

/// Nothing that a run makes for a while is left.
pub(crate) fn tidy(rig: &mut Rig) -> Tested {
    let secrets = rig.api().list("/api/v1/namespaces/kube-system/secrets")?;
    let ours = |one: &&Value| one["type"] == "bootstrap.kubernetes.io/token" && one["data"]["description"].is_string();
    let left: Vec<&Value> = secrets.iter().filter(ours).map(|one| &one["metadata"]["name"]).collect();
    assert!(left.is_empty(), "{left:?}");
    for what in ["pods", "persistentvolumeclaims"] {
        let left = rig.api().list(&format!("/api/v1/namespaces/capplan-probe/{what}"))?;
        assert_eq!(left, Vec::<Value>::new());
    }
    let images = rig.double()?.operator().get("/nodes/pve1/storage/local/content?content=iso")?;
    let left: Vec<&str> = images.as_array().into_iter().flatten().filter_map(|one| one["volid"].as_str()).collect();
    assert!(left.iter().all(|volume| volume.contains("capplan-spare-")), "an image is left: {left:?}");
    Ok(())
}

#[test]
fn a_worker_is_cloned_joins_and_proves_itself() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world, _provisioner) = started()?;
    let secrets = Watch::start(rig.api().clone());
    let mut child = world
        .command(&ADD)
        .stdout(File::create(world.path("out")).expect("a file of ours"))
        .stderr(File::create(world.path("said")).expect("a file of ours"))
        .spawn()
        .expect("it starts");
    let mut arguments = BTreeSet::new();
    while child.try_wait().expect("a child").is_none() {
        arguments.extend(std::fs::read(format!("/proc/{}/cmdline", child.id())));
        std::thread::sleep(Duration::from_millis(50));
    }
    let said = std::fs::read_to_string(world.path("said")).expect("a file of ours");
    assert!(child.wait().expect("a child").success(), "{said}");
    joined(&mut rig, "w3", 203)?;
    assert_eq!(rig.double()?.violations()?, Vec::<Value>::new());

    // Nothing secret is in anything that was written, or in the list of processes.
    let mut secrets = secrets.end();
    assert_eq!(secrets.len(), 1, "a token was made");
    secrets.extend(rig.double()?.token().rsplit('=').next().map(str::to_owned));
    let account = std::fs::read_to_string(rig.account("capplan-apply")?).expect("a file of the rig");
    secrets.extend(account.split_whitespace().filter(|word| word.len() > 100).map(|word| word.trim_matches('"').to_owned()));
    let kept: Vec<String> = world.files().into_iter().collect();
    assert!(kept.iter().any(|name| name.ends_with("journal.jsonl")), "{kept:?}");
    for secret in &secrets {
        let holds = |bytes: &[u8]| bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
        for name in &kept {
            assert!(!holds(&std::fs::read(world.path(name)).unwrap_or_default()), "a secret is in {name}");
        }
        assert!(!arguments.iter().any(|line| holds(line)), "a secret is an argument");
    }
    Ok(())
}

/// Secrets of bootstrap tokens that are made while it watches.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<BTreeSet<String>>,
}

impl Watch {
    fn start(api: Api) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut seen = BTreeSet::new();
            while !stopped.load(Ordering::Relaxed) {
                let secrets = api.list("/api/v1/namespaces/kube-system/secrets").unwrap_or_default();
                let ours = secrets.iter().filter(|one| one["data"]["description"].is_string());
                let encoded = ours.filter_map(|one| one["data"]["token-secret"].as_str());
                seen.extend(
                    encoded.filter_map(|text| STANDARD.decode(text).ok()).filter_map(|bytes| String::from_utf8(bytes).ok()),
                );
                std::thread::sleep(Duration::from_millis(100));
            }
            seen
        });
        Self { stop, thread }
    }

    fn end(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it ends")
    }
}

#[test]
fn a_spare_cannot_come_back_by_itself_and_is_a_worker_again_when_it_is_asked_for() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world, _provisioner) = started()?;
    world.run(&ADD).done();
    world.run(&["apply", "remove-worker", "w3", "--keep-as-spare", "--override", "test", "--yes"]).done();
    let guest = rig.double()?.guest(203)?;
    assert_eq!((&guest["power"], &guest["config"]["onboot"]), (&json!("stopped"), &json!(0)), "{guest}");
    assert_eq!(guest["config"]["tags"], "capplan;capplan-spare");
    // Somebody starts it: it has a certificate that is good for a year, and must not use it.
    let operator = rig.double()?.operator().clone();
    operator.power("pve1", 203, "start")?;
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(rig.api().list("/api/v1/nodes")?.len(), 2, "a zombie");
    operator.power("pve1", 203, "stop")?;

    world.run(&["apply", "re-add", "w9", "--yes"]).ends(2).says(&["spares: w3"]);
    world.run(&["apply", "re-add", "w3", "--yes"]).done();
    joined(&mut rig, "w3", 203)?;

    // One that nobody started in between has its old kubelet still: it must not pass for the new one.
    world.run(&["apply", "remove-worker", "w3", "--override", "test", "--yes"]).done();
    let requests = rig.api().list("/apis/certificates.k8s.io/v1/certificatesigningrequests")?.len();
    world.run(&["apply", "re-add", "w3", "--yes"]).done();
    joined(&mut rig, "w3", 203)?;
    assert_eq!(rig.api().list("/apis/certificates.k8s.io/v1/certificatesigningrequests")?.len(), requests + 1, "it joined anew");

    // Another that came less than an hour ago is a reason to wait.
    world.run(&["apply", "add-worker", "--memory", "8GiB", "--yes"]).ends(4).says(&["w3", "nothing was changed"]);
    assert_eq!(rig.double()?.violations()?, Vec::<Value>::new());
    Ok(())
}

#[test]
fn a_worker_is_replaced_by_one_that_is_there_before_it_goes() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world, _provisioner) = started()?;
    world
        .run(&["apply", "replace-worker", "w2", "--destroy", "--yes"])
        .ends(4)
        .says(&["no tag `capplan`", "nothing was changed"]);
    let replaced = world.run(&["apply", "replace-worker", "w2", "--yes"]).done();
    joined(&mut rig, "w3", 203).map_err(|failure| Failure::new(format!("{failure}: {}", replaced.err)))?;
    let names: Vec<Value> = rig.api().list("/api/v1/nodes")?.iter().map(|one| one["metadata"]["name"].clone()).collect();
    assert_eq!(names, [json!("w1"), json!("w3")]);
    assert_eq!(rig.double()?.guest(202)?["config"]["tags"], "capplan-spare");
    assert_eq!(rig.double()?.violations()?, Vec::<Value>::new());
    Ok(())
}

#[test]
fn a_worker_joins_with_the_snippet_that_the_admin_placed() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, mut world, _provisioner) = started()?;
    let token = join::mint(rig.api(), "abc123", "2099-01-01T00:00:00Z")?;
    join::wait_for_signature(rig.api(), "abc123")?;
    let (pin, server) = (join::pin(&rig)?, rig.server()?);
    let labels =
        "topology.kubernetes.io/region=lab,topology.kubernetes.io/zone=pve1,csi.proxmox.sinextra.dev/max-volume-attachments=28";
    let mut configuration = join::join_configuration(server.trim_start_matches("https://"), &token, &pin, labels, 0);
    // One for all of them: nothing of a single machine is in it.
    configuration["nodeRegistration"] = json!({"kubeletExtraArgs": [{"name": "node-labels", "value": labels}]});
    let data = json!({
        "write_files": [{"path": "/run/kubeadm/join.yaml", "permissions": "0600", "content": configuration.to_string()}],
        "runcmd": [["kubeadm", "join", "--config", "/run/kubeadm/join.yaml"]],
    });
    let policy = std::fs::read_to_string(world.path("policy.toml")).expect("a file of ours");
    let vendor =
        world.write("vendor.toml", policy.replace("seed = \"iso\"", "seed = \"vendor\"\nsnippet = \"local:snippets/join.yaml\""));
    world.set("CAPPLAN_POLICY", vendor);
    rig.double()?.place("pve1", "local:snippets/join.yaml", &format!("#cloud-config\n{data}\n"))?;
    world.run(&ADD).done();
    let node = rig.api().get("/api/v1/nodes/w3")?;
    assert_eq!(node["metadata"]["labels"]["node-role.kubernetes.io/worker"], "", "{node}");
    let config = rig.double()?.guest(203)?["config"].clone();
    assert_eq!(config["cicustom"], "vendor=local:snippets/join.yaml");
    assert!(config["ide2"].as_str().is_some_and(|text| text.contains("vm-203-cloudinit")), "{config}");
    let minted = done(&rig.gate()?.requests()?, "POST", "/namespaces/kube-system/secrets");
    assert_eq!(minted, 0, "no token is made where the snippet has one");
    assert_eq!(rig.double()?.violations()?, Vec::<Value>::new());
    Ok(())
}

/// Where a run is killed.
#[derive(Clone, Copy, Debug)]
enum Point {
    /// As soon as so many lines of its journal are on disk.
    Line(usize),
    /// Before or after the n-th change of that kind on Proxmox VE: its answer is lost, and nothing is done since.
    Pve(&'static str, &'static str, usize, bool),
    /// The same in Kubernetes, by a regular expression of the path.
    Kube(&'static str, &'static str, usize, bool),
}

/// A change: method, path, which of its kind, and the step that makes it.
type Change = (&'static str, &'static str, usize, u64);

/// Every change that an addition makes on Proxmox VE, and in Kubernetes.
const PVE: [Change; 9] = [
    ("POST", "/nodes/pve1/qemu/9000/clone", 0, 1),
    ("PUT", "/nodes/pve1/qemu/203/resize", 0, 2),
    ("POST", "/nodes/pve1/qemu/203/config", 0, 3),
    ("POST", "/nodes/pve1/storage/local/upload", 0, 4),
    ("POST", "/nodes/pve1/qemu/203/config", 1, 4),
    ("POST", "/nodes/pve1/qemu/203/status/start", 0, 4),
    ("DELETE", "/nodes/{node}/storage/{storage}/content/{volume}", 0, 6),
    ("POST", "/nodes/pve1/qemu/203/config", 2, 6),
    ("PUT", "/nodes/pve1/qemu/203/config", 0, 7),
];
const KUBE: [Change; 9] = [
    ("DELETE", "/api/v1/namespaces/kube-system/secrets/.*", 0, 4),
    ("POST", "/api/v1/namespaces/kube-system/secrets", 0, 4),
    ("DELETE", "/api/v1/namespaces/kube-system/secrets/.*", 1, 6),
    ("PATCH", "/api/v1/nodes/w3", 0, 8),
    ("POST", "/api/v1/namespaces/capplan-probe/persistentvolumeclaims", 0, 11),
    ("POST", "/api/v1/namespaces/capplan-probe/pods", 0, 11),
    ("DELETE", "/api/v1/namespaces/capplan-probe/pods/.*", 0, 11),
    ("DELETE", "/api/v1/namespaces/capplan-probe/pods/.*", 1, 11),
    ("DELETE", "/api/v1/namespaces/capplan-probe/persistentvolumeclaims/.*", 1, 11),
];
/// More lines than the journal of an addition has.
const LINES: usize = 40;

fn points() -> Vec<Point> {
    let both = [false, true];
    let pve = PVE.iter().flat_map(|one| both.map(|after| Point::Pve(one.0, one.1, one.2, after)));
    let kube = KUBE.iter().flat_map(|one| both.map(|after| Point::Kube(one.0, one.1, one.2, after)));
    (1..LINES).map(Point::Line).chain(pve).chain(kube).collect()
}

/// Lets the request that is meant meet a fault; those of its kind before it pass.
pub(crate) fn meet(rig: &mut Rig, method: &str, path: &str, skip: usize, fault: &Value, pve: bool) -> Tested {
    let passes = json!({"method": method, "path": path, "times": 1, "delay": 0.001});
    let mut fails = fault.clone();
    (fails["method"], fails["path"], fails["times"]) = (json!(method), json!(path), json!(1));
    for rule in std::iter::repeat_n(&passes, skip).chain([&fails]) {
        if pve { rig.double()?.fail(rule)? } else { rig.gate()?.fail(rule)? }
    }
    Ok(())
}

/// Loses the answer of the request that is meant.
pub(crate) fn lose(rig: &mut Rig, method: &str, path: &str, skip: usize, after: bool, pve: bool) -> Tested {
    meet(rig, method, path, skip, &json!({"reset": true, "after": after}), pve)
}

/// Takes a worker away, so that the next one is made under the same name and number.
fn discard(rig: &mut Rig, name: &str, vmid: u32) -> Tested {
    let operator = rig.double()?.operator().clone();
    operator.power("pve1", vmid, "stop")?;
    operator.change(http::Method::DELETE, &format!("/nodes/pve1/qemu/{vmid}"), &[("purge", "1")])?;
    rig.api().call(Call::delete(format!("/api/v1/nodes/{name}"))).map(drop)
}

#[test]
fn a_worker_that_is_made_under_kills_is_made_once() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world, _provisioner) = started()?;
    // All of them take a quarter of an hour; a few of each kind show what they show.
    let full = is_full();
    let all: Vec<Point> = points();
    let chosen = all.iter().enumerate().filter(|(number, _)| full || number % 11 == 3);
    let (mut killed, mut seen, mut crashed) = (0, 0, 0);
    let mut lines_end = false;
    for (number, point) in chosen {
        if lines_end && matches!(point, Point::Line(_)) {
            continue;
        }
        let started = std::time::Instant::now();
        match *point {
            Point::Line(_) => {}
            Point::Pve(method, path, skip, after) => lose(&mut rig, method, path, skip, after, true)?,
            Point::Kube(method, path, skip, after) => lose(&mut rig, method, path, skip, after, false)?,
        }
        let runs = || std::fs::read_dir(world.path(STATE).join("runs")).map_or(0, Iterator::count);
        let before = runs().max(1);
        let said = File::create(world.path("said")).expect("a file of ours");
        let mut child = world.command(&ADD).stderr(said).spawn().expect("it starts");
        let told = || std::fs::read_to_string(world.path("said")).expect("a file of ours");
        let reached = || match *point {
            Point::Line(line) => runs() > before && lines(&world) >= line,
            Point::Pve(..) | Point::Kube(..) => told().contains("; again in "),
        };
        while !reached() && child.try_wait().expect("a child").is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let ended = child.try_wait().expect("a child").is_some();
        drop(child.kill());
        child.wait().expect("a child");
        rig.double()?.heal()?;
        rig.gate()?.heal()?;
        let dies = !ended && number % 3 == 0;
        if dies && number % 2 == 0 {
            rig.double()?.kill();
            rig.double()?.restart()?;
            // Our own connections died with it: the first request only finds that out.
            drop(rig.double()?.guests());
            drop(rig.double()?.operator().get("/version"));
        } else if dies {
            rig.plane()?.kill(Component::ApiServer);
            rig.plane()?.start(Component::ApiServer)?;
        }
        crashed += usize::from(dies);
        if ended {
            assert!(matches!(point, Point::Line(_)), "{point:?} was not reached: {}", told());
            lines_end = true;
        } else {
            killed += 1;
            let begun = lines(&world) > 0 && runs() > before;
            world.run(if begun { &["resume"][..] } else { &ADD[..] }).done();
        }
        let wrong = |failure: Failure| Failure::new(format!("{point:?}: {failure}; {}", told()));
        joined(&mut rig, "w3", 203).map_err(wrong)?;
        let guests = rig.double()?.guests()?;
        assert_eq!(guests.iter().filter(|one| one["name"] == "w3").count(), 1, "{point:?}");
        assert_eq!(guests.len(), 4, "{point:?}: {guests:?}");
        assert_eq!(rig.api().list("/api/v1/nodes")?.len(), 3, "{point:?}");
        let requests = rig.double()?.requests()?;
        for (method, end) in [("POST", "/qemu/9000/clone"), ("POST", "/qemu/203/status/start")] {
            let times = done(&requests[seen..], method, end);
            // A host whose API dies takes the task along that it had accepted.
            assert!(times <= 1 + usize::from(dies), "{point:?}: {method} {end} {times} times");
        }
        seen = requests.len();
        discard(&mut rig, "w3", 203)?;
        println!("{point:?}{} {:.0} s", if dies { ", and a server" } else { "" }, started.elapsed().as_secs_f64());
    }
    println!("killed at {killed} points, a server as well at {crashed} of them");
    assert!(killed >= 5, "{killed}");
    assert_eq!(rig.double()?.violations()?, Vec::<Value>::new());
    Ok(())
}

/// Goes on until the run is done; answers how often it stopped, and every word that it said.
pub(crate) fn pushed_through(world: &World, first: &[&str]) -> (usize, String) {
    let mut outcome = world.run(first);
    let mut said = outcome.err.clone();
    for stops in 0..20 {
        if outcome.code == 0 {
            return (stops, said);
        }
        assert!(outcome.code == 5 && outcome.err.contains("capplan resume"), "{}", outcome.err);
        outcome = world.run(&["resume"]);
        said.push_str(&outcome.err);
    }
    assert_eq!(outcome.code, 0, "it never ends: {said}");
    (20, said)
}

#[test]
fn an_addition_meets_every_way_in_which_both_planes_fail_at_every_change() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world, _provisioner) = started()?;
    let pve = pve_faults();
    let kube = kube_faults();
    let full = is_full();
    let (mut seen, mut met) = (0, 0);
    let faults = pve.iter().map(|one| (one, true)).chain(kube.iter().map(|one| (one, false))).enumerate();
    // One change of each step meets every fourth fault in one go; in the whole matrix, every change meets every fault.
    let faults = faults.filter(|(number, _)| full || number % 4 == 0);
    let goes =
        faults.flat_map(|(number, fault)| if full { (0..5).map(|go| (go, fault)).collect() } else { vec![(number, fault)] });
    for (go, (fault, is_pve)) in goes {
        let changes = if is_pve { &PVE[..] } else { &KUBE[..] };
        let chosen: Vec<&Change> = (1..=11)
            .filter_map(|step| {
                let mine: Vec<&Change> = changes.iter().filter(|change| change.3 == step).collect();
                mine.get(if full { go } else { go % mine.len().max(1) }).copied()
            })
            .collect();
        if chosen.is_empty() {
            continue;
        }
        let kinds: BTreeSet<(&str, &str)> = chosen.iter().map(|one| (one.0, one.1)).collect();
        for (method, path) in kinds {
            let passes = json!({"method": method, "path": path, "times": 1, "delay": 0.001});
            let mut fails = fault.clone();
            (fails["method"], fails["path"], fails["times"]) = (json!(method), json!(path), json!(1));
            for number in 0..3 {
                let meets = chosen.iter().any(|one| (one.0, one.1, one.2) == (method, path, number));
                let last = !chosen.iter().any(|one| (one.0, one.1) == (method, path) && one.2 >= number);
                // What failed is tried again, and passes.
                let rules = [(&fails, meets), (&passes, !last)];
                for (rule, _) in rules.iter().filter(|(_, applies)| *applies) {
                    if is_pve { rig.double()?.fail(rule)? } else { rig.gate()?.fail(rule)? }
                }
                met += usize::from(meets);
            }
        }
        let (stops, said) = pushed_through(&world, &ADD);
        // Only a task that failed is for a human to look at.
        let most = if fault["task"].as_str().is_some_and(|task| !task.starts_with("WARNINGS")) { PVE.len() } else { 0 };
        assert!(stops <= most, "{fault}: {stops} stops: {said}");
        rig.double()?.heal()?;
        rig.gate()?.heal()?;
        joined(&mut rig, "w3", 203).map_err(|failure| Failure::new(format!("{fault}: {failure}; {said}")))?;
        let requests = rig.double()?.requests()?;
        let clones = done(&requests[seen..], "POST", "/qemu/9000/clone");
        assert!(clones <= 1 + usize::from(fault["task"].is_string()), "{fault}: cloned {clones} times: {said}");
        seen = requests.len();
        discard(&mut rig, "w3", 203)?;
        println!("{fault}: {stops} stops");
    }
    println!("{met} faults");
    assert_eq!(rig.double()?.violations()?, Vec::<Value>::new());
    Ok(())
}

#[test]
fn what_does_not_join_as_it_should_is_said_and_leaves_no_credential() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, mut world, _provisioner) = started()?;
    let own = "#cloud-config\nhostname: w3\nwrite_files:\n- path: /run/join.yaml\n  content: CONTENT\nruncmd:\n- [kubeadm, join, --config, /run/join.yaml]\n";
    let template = |world: &mut World, content: &str| {
        let name = world.write("user-data.yaml", own.replace("CONTENT", content));
        let config = world.write("config.toml", format!("user_data = {name:?}\n"));
        world.set("CAPPLAN_CONFIG", config);
    };

    // Data that would make another machine of it are refused before anything is done.
    template(&mut world, "\"{{ token }}\"\nfqdn: ubuntu.lan");
    world.run(&ADD).ends(4).says(&["ubuntu.lan, not w3", "nothing was changed"]);
    template(&mut world, "nothing secret");
    world.run(&ADD).ends(4).says(&["the credential is not in it", "nothing was changed"]);
    assert_eq!(rig.double()?.guests()?.len(), 3);

    // The storage plugin registers without the label: it is told once more.
    template(&mut world, "{{ join_configuration | replace('max-volume-attachments=28', 'other=28') | tojson }}");
    let plugin = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "plugin"}, "spec": {
        "selector": {"matchLabels": {"app": "plugin"}}, "template": {"metadata": {"labels": {"app": "plugin"}},
            "spec": {"containers": [{"name": "plugin", "image": "registry.example/proxmox-csi-node:1"}]}}}});
    rig.api().call(Call::post("/apis/apps/v1/namespaces/default/daemonsets", plugin))?;
    world.run(&ADD).done().says(&["w3 advertises 24 volumes", "starts once more"]);
    joined(&mut rig, "w3", 203)?;
    discard(&mut rig, "w3", 203)?;

    // Its kubelet has another name than the plan: that never becomes right by waiting.
    template(&mut world, "{{ join_configuration | replace('\"name\":\"w3\"', '\"name\":\"ubuntu\"') | tojson }}");
    world.run(&ADD).ends(5).says(&["joined as ubuntu, not as w3", "given up", "plan again"]);
    tidy(&mut rig)?;
    rig.api().call(Call::delete("/api/v1/nodes/ubuntu"))?;
    let operator = rig.double()?.operator().clone();
    operator.power("pve1", 203, "stop")?;
    operator.change(http::Method::DELETE, "/nodes/pve1/qemu/203", &[("purge", "1")])?;

    // A machine that never joins: its VM stays for a look, its credential does not once it is given up.
    template(&mut world, "\"{{ token }}\"");
    let policy =
        std::fs::read_to_string(world.path("work/policy.toml")).or_else(|_| std::fs::read_to_string(world.path("policy.toml")));
    let policy = policy.expect("a file of ours").replace("deadline_minutes = 15", "deadline_minutes = 1");
    let policy = world.write("policy.toml", policy);
    world.set("CAPPLAN_POLICY", policy);
    let stopped = world.run(&ADD).ends(5).says(&["not within 60 s: there is no node w3 yet", "capplan resume"]);
    let run = stopped.err.split("capplan abort ").nth(1).and_then(|rest| rest.split('`').next()).expect("its name").to_owned();
    world.run(&ADD).ends(4).says(&["is not finished", "nothing was changed"]);
    // What cannot be deleted now is not forgotten.
    let fails = json!({"method": "DELETE", "path": "/nodes/{node}/storage/{storage}/content/{volume}", "times": 1,
                       "status": 500, "message": "storage 'local' is not online"});
    rig.double()?.fail(&fails)?;
    world.run(&["abort", &run]).ends(5).says(&["image local:iso/capplan-203-", "may still be there", "--leave-behind"]);
    world.run(&["abort", &run]).done().says(&["not taken back: clone"]);
    tidy(&mut rig)?;
    let guest = rig.double()?.guest(203)?;
    assert_eq!(guest["power"], "running");
    assert!(guest["config"]["ide2"].as_str().is_some_and(|text| text.starts_with("none")), "it would not start again: {guest}");
    Ok(())
}

/// A plan to add a worker whose steps may take so long, in seconds, by a word of their title.
fn hurried(world: &World, deadlines: &[(&str, u64)]) -> String {
    let file = world.path("plan.json").display().to_string();
    world.run(&["plan", "scale-up", "--count", "1", "--memory", "8GiB", "--like", "w1", "-o", &file]).done();
    let mut plan = Plan::read(&std::fs::read(&file).expect("written")).expect("a plan");
    for step in &mut plan.steps {
        if let Some((_, seconds)) = deadlines.iter().find(|(word, _)| step.title.contains(word)) {
            step.deadline_seconds = *seconds;
        }
    }
    world.write("plan.json", serde_json::to_string(&plan.sealed()).expect("written"))
}

#[test]
fn what_hangs_is_named_at_its_deadline_and_gone_on_with() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world, _provisioner) = started()?;
    // A task that does not end, and a plugin that says a volume is there when it is not.
    let hangs = json!({"method": "POST", "path": "/nodes/pve1/qemu/203/config", "times": 1, "task": "hang"});
    rig.double()?.fail(&hangs)?;
    let api = rig.api().clone();
    let spoil = std::thread::spawn(move || {
        let vain = json!({"metadata": {"annotations": {"rig.capplan.test/attacher": "silent-hotplug"}}});
        while api.call(Call::patch("/api/v1/nodes/w3", vain.clone())).is_err() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let file = hurried(&world, &[("set memory", 3), ("run a pod", 5)]);
    let stopped = world.run(&["apply", &file, "--yes"]).ends(5);
    let stopped = stopped.says(&["stopped at step 3", "its task still runs after 3 s: UPID:pve1:", "capplan resume"]);
    assert!(stopped.err.contains("qmconfig:203:"), "{}", stopped.err);
    // It is followed, not sent again: both would be at work on one VM.
    world.run(&["resume"]).ends(5).says(&["its task still runs"]);
    rig.double()?.heal()?;
    world.run(&["resume"]).ends(5).says(&["no volume could be used on w3 within 5 s", "capplan resume"]);
    spoil.join().expect("it ends");
    tidy(&mut rig)?;
    let honest = json!({"metadata": {"annotations": {"rig.capplan.test/attacher": null}}});
    rig.api().call(Call::patch("/api/v1/nodes/w3", honest))?;
    world.run(&["resume"]).done();
    joined(&mut rig, "w3", 203)?;
    let sets = rig.double()?.requests()?;
    let sets = sets.iter().filter(|one| one["path"] == "/nodes/pve1/qemu/203/config" && one["form"]["memory"].is_string());
    assert_eq!(sets.count(), 1, "it was sent again");
    Ok(())
}

#[test]
fn a_probe_is_done_only_once_its_volume_is_out_of_the_vm() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world, _provisioner) = started()?;
    // The attachment goes, and the disk stays plugged: as a hot-unplug that waits for a restart leaves it.
    let api = rig.api().clone();
    let spoil = std::thread::spawn(move || {
        let ghost = json!({"metadata": {"annotations": {"rig.capplan.test/attacher": "ghost"}}});
        while api.call(Call::patch("/api/v1/nodes/w3", ghost.clone())).is_err() {
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let file = hurried(&world, &[("run a pod", 10)]);
    let stopped = world.run(&["apply", &file, "--yes"]).ends(5);
    stopped.says(&["not within 10 s: the probe's volume is out of the configuration of every VM", "capplan resume"]);
    spoil.join().expect("it ends");
    let plugged = |rig: &mut Rig| -> Result<Option<String>, Failure> {
        let guest = rig.double()?.guest(203)?;
        let options = guest["config"].as_object().expect("options").iter();
        let mut held = options.filter(|(_, value)| value.as_str().is_some_and(|text| text.contains("vm-9999-pvc-")));
        Ok(held.next().map(|(slot, _)| slot.clone()))
    };
    let slot = plugged(&mut rig)?.expect("it is plugged still");
    // Nothing was deleted that the VM still holds.
    assert_eq!(rig.api().list("/api/v1/namespaces/capplan-probe/persistentvolumeclaims")?.len(), 1);
    let honest = json!({"metadata": {"annotations": {"rig.capplan.test/attacher": null}}});
    rig.api().call(Call::patch("/api/v1/nodes/w3", honest))?;
    rig.double()?.operator().clone().configure("pve1", 203, &[("delete", &slot)])?;
    world.run(&["resume"]).done();
    joined(&mut rig, "w3", 203)
}

#[test]
fn pods_with_volumes_move_one_after_the_other_and_leave_none_behind() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world, _provisioner) = started()?;
    let data = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "data"}, "spec": {
        "replicas": 3, "serviceName": "data", "podManagementPolicy": "Parallel", "selector": {"matchLabels": {"app": "data"}},
        "template": {"metadata": {"labels": {"app": "data"}}, "spec": {"containers": [{
            "name": "data", "image": "registry.example/data:1", "volumeMounts": [{"name": "volume", "mountPath": "/data"}],
            "resources": {"requests": {"memory": "128Mi", "cpu": "10m"}}}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "volume"}, "spec": {
            "accessModes": ["ReadWriteOnce"], "storageClassName": "proxmox", "resources": {"requests": {"storage": "1Gi"}}}}]}});
    rig.api().call(Call::post("/apis/apps/v1/namespaces/default/statefulsets", data))?;
    let pods = |rig: &Rig| -> Result<Vec<(String, String, bool)>, Failure> {
        let all = rig.api().list("/api/v1/namespaces/default/pods?labelSelector=app%3Ddata")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(all
            .iter()
            .map(|pod| (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]), pod["status"]["phase"] == "Running"))
            .collect())
    };
    let begun = std::time::Instant::now();
    while pods(&rig)?.iter().filter(|(_, _, runs)| *runs).count() < 3 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", pods(&rig)?);
        std::thread::sleep(Duration::from_millis(200));
    }
    let before = pods(&rig)?;
    let (node, other) = if before.iter().filter(|(_, at, _)| at == "w1").count() >= 2 { ("w1", 202) } else { ("w2", 201) };
    let moved = before.iter().filter(|(_, at, _)| at == node).count();
    assert!(moved >= 1, "{before:?}");
    world.run(&["apply", "remove-worker", node, "--override", "test", "--yes"]).done();
    let after = pods(&rig)?;
    assert!(after.len() == 3 && after.iter().all(|(_, at, runs)| *runs && at != node), "{after:?}");
    let volumes = |guest: &Value| {
        let options = guest["config"].as_object().expect("options").values();
        options.filter(|value| value.as_str().is_some_and(|text| text.contains("vm-9999-pvc-"))).count()
    };
    let vmid = if node == "w1" { 201 } else { 202 };
    assert_eq!((volumes(&rig.double()?.guest(vmid)?), volumes(&rig.double()?.guest(other)?)), (0, 3));
    let nodes = rig.api().list("/api/v1/nodes")?;
    assert!(nodes.iter().all(|one| one["spec"]["unschedulable"] != true), "{nodes:?}");
    Ok(())
}

#[test]
fn every_privilege_that_is_missing_is_named_before_anything_is_done() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let (mut rig, world, _provisioner) = started()?;
    let add = ["apply", "add-worker", "--memory", "8GiB", "--like", "w1", "--dry-run"];
    world.run(&add).done().says(&["it could be carried out now"]);
    let all = grants();
    let asked = all.iter().skip(1).flat_map(|(path, all)| all.iter().map(move |privilege| (path, privilege)));
    // What a reader needs is `doctor`'s to name, and without its pool a worker is not known to be in one.
    let readers = ["VM.Audit", "Pool.Audit"];
    for (path, lacking) in asked.filter(|(_, privilege)| !readers.contains(&privilege.as_str())) {
        let without: Vec<(String, Vec<String>)> = all
            .iter()
            .map(|(one, all)| (one.clone(), all.iter().filter(|held| (one, *held) != (path, lacking)).cloned().collect()))
            .collect();
        grant(&mut rig, &without)?;
        let refused = world.run(&add);
        assert!(refused.code != 0 && refused.err.contains(lacking), "{lacking} on {path}: {}", refused.err);
    }
    // A pool that is not shown is not none: its privilege is named with those that seem to be missing.
    let without: Vec<(String, Vec<String>)> = all
        .iter()
        .map(|(path, all)| (path.clone(), all.iter().filter(|held| *held != "Pool.Audit").cloned().collect()))
        .collect();
    grant(&mut rig, &without)?;
    world.run(&add).ends(4).says(&["Pool.Audit on /pool", "nothing was changed"]);
    grant(&mut rig, &all)?;
    // In Kubernetes a whole role at a time.
    for (kind, namespace, name, lacking) in [
        ("rolebindings", "kube-system", "capplan-apply", "leases in kube-system"),
        ("rolebindings", "kube-system", "capplan-join", "secrets in kube-system"),
        ("rolebindings", "kube-public", "capplan-join", "get configmaps in kube-public"),
        ("rolebindings", "capplan-probe", "capplan-probe", "create pods in capplan-probe"),
    ] {
        let path = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}/{kind}");
        let binding = rig.api().get(&format!("{path}/{name}"))?;
        rig.api().call(Call::delete(format!("{path}/{name}")))?;
        world.run(&add).ends(4).says(&[lacking, "nothing was changed"]);
        let again = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
                           "metadata": {"name": name}, "roleRef": binding["roleRef"], "subjects": binding["subjects"]});
        rig.api().call(Call::post(path, again))?;
    }
    world.run(&add).done();
    assert_eq!(rig.double()?.guests()?.len(), 3);
    Ok(())
}

#[test]
fn alerts_count_as_new_if_they_fire_and_did_not_before() -> Tested {
    if skipped_without_own_plane() {
        return Ok(());
    }
    let mut rig = Rig::start()?;
    let now = jiff::Timestamp::now().as_second() as f64;
    let mut samples = OpenMetrics::default();
    let labels = |name: &str, node: &str| format!("alertname=\"{name}\",alertstate=\"firing\",node=\"{node}\"");
    for second in (0..=900).step_by(15) {
        let at = now - 1200.0 + f64::from(second);
        samples.point("ALERTS", &labels("OldAlert", "w1"), at, 1.0);
        if second > 330 {
            samples.point("ALERTS", &labels("KubeletDown", "w3"), at, 1.0);
        }
        if (330..400).contains(&second) {
            samples.point("ALERTS", &labels("Passing", "w3"), at, 1.0);
        }
    }
    let url = rig.start_prometheus(&samples)?.url.clone();
    let prometheus = Prometheus::new(&url, None, None, ReadLimits::default()).expect("an address");
    let at = |seconds: f64| jiff::Timestamp::from_second((now - 1200.0 + seconds) as i64).expect("a time");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let new = runtime.block_on(prometheus.new_alerts(at(300.0), at(900.0))).expect("an answer");
    assert_eq!(new, ["KubeletDown node=w3"]);
    Ok(())
}

/// Takes as long as capplan waits for the signer, two minutes: only with `CAPPLAN_MATRIX=full`.
#[test]
fn a_signer_that_is_dead_is_named() -> Tested {
    if skipped_without_own_plane() || !is_full() {
        return Ok(());
    }
    let (mut rig, world, _provisioner) = started()?;
    rig.plane()?.kill(Component::ControllerManager);
    let said = world.run(&ADD).ends(5);
    assert!(said.err.contains("cluster-info is signed with the token"), "{}", said.err);
    assert!(said.err.contains("kube-controller-manager, which signs it, has"), "{}", said.err);
    // Once it is back, the run goes on.
    rig.plane()?.start(Component::ControllerManager)?;
    world.run(&["resume"]).done();
    Ok(())
}
