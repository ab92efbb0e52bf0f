//! A VM that boots joins with what it was given, and a wrong credential fails as it would at night.

use std::process::Command;
use std::time::{Duration, Instant};

use capplan_rig::kube::{Api, Call};
use capplan_rig::plant::MissingOwners;
use capplan_rig::{Failure, Rig, objects};
use serde_json::{Value, json};

use crate::{Tested, scenario, skipped};

const PATIENCE: Duration = Duration::from_secs(60);
const HOST: &str = "pve1";
const LABELS: &str = "topology.kubernetes.io/region=lab,topology.kubernetes.io/zone=pve1";

/// A rig whose controllers run, with nothing in it but a host.
fn started() -> Result<Rig, Failure> {
    let mut rig = Rig::start()?;
    let snapshot = scenario("demo");
    rig.plant(objects::of(&snapshot).into_iter().filter(|one| one["kind"] == "Namespace").collect(), MissingOwners::Drop)?;
    rig.start_double(&snapshot)?;
    rig.start_controllers()?;
    rig.start_machines(&["--discovery-timeout", "6s", "--driver-delay", "500ms"])?;
    Ok(rig)
}

/// A bootstrap token as the Kubernetes API makes them; answers `id.secret`.
pub(crate) fn mint(api: &Api, id: &str, expiration: &str) -> Result<String, Failure> {
    let secret = "0123456789abcdef";
    let data = json!({
        "token-id": id, "token-secret": secret, "expiration": expiration,
        "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
        "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
    });
    let object = json!({"apiVersion": "v1", "kind": "Secret", "type": "bootstrap.kubernetes.io/token",
                        "metadata": {"name": format!("bootstrap-token-{id}")}, "stringData": data});
    api.call(Call::post("/api/v1/namespaces/kube-system/secrets", object))?;
    Ok(format!("{id}.{secret}"))
}

/// Waits until the cluster's address and authority are signed with the token.
pub(crate) fn wait_for_signature(api: &Api, id: &str) -> Result<(), Failure> {
    let start = Instant::now();
    loop {
        let info = api.get("/api/v1/namespaces/kube-public/configmaps/cluster-info")?;
        if info["data"][format!("jws-kubeconfig-{id}")].is_string() {
            return Ok(());
        }
        if start.elapsed() > PATIENCE {
            return Err(Failure::new("cluster-info was not signed"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The pin of the cluster's authority: SHA-256 of its public key, as kubeadm wants it.
pub(crate) fn pin(rig: &Rig) -> Result<String, Failure> {
    let script = "openssl x509 -pubkey -noout -in \"$0\" | openssl pkey -pubin -outform der | sha256sum";
    let output = Command::new("sh").args(["-c", script]).arg(rig.authority()?).output();
    let text = String::from_utf8(output.expect("sh runs").stdout).expect("digits");
    Ok(format!("sha256:{}", text.split(' ').next().unwrap_or_default()))
}

pub(crate) fn join_configuration(endpoint: &str, token: &str, pin: &str, labels: &str, vmid: u32) -> Value {
    json!({
        "apiVersion": "kubeadm.k8s.io/v1beta4", "kind": "JoinConfiguration",
        "discovery": {"bootstrapToken": {"token": token, "apiServerEndpoint": endpoint, "caCertHashes": [pin]}},
        "nodeRegistration": {
            "taints": [{"key": "gpu", "value": "true", "effect": "NoSchedule"}],
            "kubeletExtraArgs": [{"name": "node-labels", "value": labels},
                                 {"name": "provider-id", "value": format!("proxmox://lab/{vmid}")}],
        },
    })
}

fn user_data(name: &str, configuration: &Value) -> String {
    let config = json!({
        "hostname": name,
        "write_files": [{"path": "/run/kubeadm/join.yaml", "permissions": "0600", "content": configuration.to_string()}],
        "runcmd": [["kubeadm", "join", "--config", "/run/kubeadm/join.yaml"]],
    });
    // JSON is YAML.
    format!("#cloud-config\n{config}\n")
}

/// A VM that boots with these data.
fn boot(rig: &mut Rig, vmid: u32, name: &str, user: &str) -> Result<(), Failure> {
    let double = rig.double()?;
    double.operator().change(
        http::Method::POST,
        &format!("/nodes/{HOST}/qemu"),
        &[
            ("vmid", &vmid.to_string()),
            ("name", name),
            ("memory", "8192"),
            ("cores", "4"),
            ("scsi0", "local-lvm:32"),
            ("ipconfig0", &format!("ip=10.0.20.{}/24", vmid % 250)),
        ],
    )?;
    double.operator().seed(HOST, vmid, &[("user-data", user), ("meta-data", &format!("local-hostname: {name}\n"))])?;
    double.operator().power(HOST, vmid, "start")
}

fn count_of(api: &Api, node: &str) -> Result<Value, Failure> {
    let start = Instant::now();
    loop {
        if let Ok(csi_node) = api.get(&format!("/apis/storage.k8s.io/v1/csinodes/{node}")) {
            return Ok(csi_node["spec"]["drivers"][0]["allocatable"]["count"].clone());
        }
        if start.elapsed() > PATIENCE {
            return Err(Failure::new(format!("{node}: its CSI driver does not register")));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_vm_joins_with_its_token_and_advertises_what_its_label_says() -> Tested {
    if skipped() {
        return Ok(());
    }
    let mut rig = started()?;
    let token = mint(rig.api(), "abc123", "2099-01-01T00:00:00Z")?;
    wait_for_signature(rig.api(), "abc123")?;
    let pin = pin(&rig)?;
    let endpoint = rig.server()?.trim_start_matches("https://").to_owned();
    let labels = format!("{LABELS},csi.proxmox.sinextra.dev/max-volume-attachments=28");

    // The real kubeadm takes the same configuration.
    let configuration = join_configuration(&endpoint, &token, &pin, &labels, 301);
    let file = rig.folder().join("join.yaml");
    std::fs::write(&file, configuration.to_string()).expect("writable");
    let kubeadm = Command::new(rig.programs().program("kubeadm"))
        .args(["join", "--dry-run", "--ignore-preflight-errors=all", "--node-name=k8s-node6", "--config"])
        .arg(&file)
        .output()
        .expect("kubeadm runs");
    let said = format!("{}{}", String::from_utf8_lossy(&kubeadm.stdout), String::from_utf8_lossy(&kubeadm.stderr));
    assert!(kubeadm.status.success(), "{said}");

    boot(&mut rig, 301, "k8s-node6", &user_data("k8s-node6", &configuration))?;
    boot(&mut rig, 302, "k8s-node7", &user_data("k8s-node7", &join_configuration(&endpoint, &token, &pin, LABELS, 302)))?;
    for (vmid, name, count) in [(301, "k8s-node6", 28), (302, "k8s-node7", 24)] {
        let status = rig.machines()?.settled(vmid, PATIENCE)?;
        assert_eq!((&status["phase"], &status["name"]), (&json!("ready"), &json!(name)), "{status}");
        assert_eq!(count_of(rig.api(), name)?, count);
        let node = rig.api().get(&format!("/api/v1/nodes/{name}"))?;
        assert_eq!(node["metadata"]["labels"]["topology.kubernetes.io/zone"], "pve1");
        assert_eq!(node["spec"]["providerID"], format!("proxmox://lab/{vmid}"));
        assert!(
            node["spec"]["taints"].as_array().is_some_and(|all| all.iter().any(|one| one["key"] == "gpu")),
            "{}",
            node["spec"]
        );
        let uuid = node["status"]["nodeInfo"]["systemUUID"].as_str().unwrap_or_default().to_owned();
        let config = rig.double()?.guest(vmid)?["config"].clone();
        assert!(config["smbios1"].as_str().is_none_or(|text| text.contains(&uuid)), "{config}");
    }
    // A label that comes later changes nothing: the driver read it once.
    let label = json!({"metadata": {"labels": {"csi.proxmox.sinextra.dev/max-volume-attachments": "28"}}});
    rig.api().call(Call::patch("/api/v1/nodes/k8s-node7", label))?;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(count_of(rig.api(), "k8s-node7")?, 24);

    // Its requests were approved and signed by the real controllers.
    let requests = rig.api().list("/apis/certificates.k8s.io/v1/certificatesigningrequests")?;
    let by_token = requests.iter().filter(|one| one["spec"]["username"] == "system:bootstrap:abc123").count();
    assert_eq!(by_token, 2, "{requests:?}");

    // A machine that is started again comes back with its certificate, and makes no request.
    rig.double()?.operator().power(HOST, 301, "stop")?;
    rig.double()?.operator().power(HOST, 301, "start")?;
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(rig.machines()?.settled(301, PATIENCE)?["phase"], "ready");
    assert_eq!(rig.api().list("/apis/certificates.k8s.io/v1/certificatesigningrequests")?.len(), requests.len());

    // Another machine of the same number has nothing of it: it joins as itself, and the old node falls silent.
    let operator = rig.double()?.operator().clone();
    operator.power(HOST, 302, "stop")?;
    operator.change(http::Method::DELETE, &format!("/nodes/{HOST}/qemu/302"), &[("purge", "1")])?;
    boot(&mut rig, 302, "k8s-node8", &user_data("k8s-node8", &join_configuration(&endpoint, &token, &pin, LABELS, 302)))?;
    let start = Instant::now();
    while rig.machines()?.settled(302, PATIENCE)?["name"] != "k8s-node8" {
        assert!(start.elapsed() < PATIENCE, "{}", rig.machines()?.status(302));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(count_of(rig.api(), "k8s-node8")?, 24);
    assert_eq!(rig.double()?.violations()?, [] as [Value; 0]);
    Ok(())
}

#[test]
fn wrong_data_keep_a_vm_out_each_with_its_reason() -> Tested {
    if skipped() {
        return Ok(());
    }
    let mut rig = started()?;
    let token = mint(rig.api(), "abc123", "2099-01-01T00:00:00Z")?;
    // Nobody signs for a token that has expired, and the token cleaner removes it.
    let expired = mint(rig.api(), "old123", "2020-01-01T00:00:00Z")?;
    wait_for_signature(rig.api(), "abc123")?;
    let pin = pin(&rig)?;
    let endpoint = rig.server()?.trim_start_matches("https://").to_owned();
    let wrong_pin = format!("sha256:{}", "0".repeat(64));
    let configuration = |token: &str, pin: &str, labels: &str, vmid: u32| join_configuration(&endpoint, token, pin, labels, vmid);
    let good = configuration(&token, &pin, LABELS, 406);
    let cases: [(u32, String, &str, &str); 7] = [
        (401, user_data("n401", &configuration("abc123.ffffffffffffffff", &pin, LABELS, 401)), "failed", "JWS signature"),
        (402, user_data("n402", &configuration(&expired, &pin, LABELS, 402)), "failed", "token"),
        (403, user_data("n403", &configuration(&token, &wrong_pin, LABELS, 403)), "failed", "public key"),
        (404, user_data("n404", &good).replace("\"hostname\":\"n404\"", "\"hostname\":[1]"), "refused", "hostname"),
        (405, user_data("n405", &good).replace("#cloud-config", "#cloud-konfig"), "refused", "#cloud-config"),
        // A kubelet gives its node no role, and does not start.
        (
            406,
            user_data("n406", &configuration(&token, &pin, "node-role.kubernetes.io/control-plane=", 406)),
            "failed",
            "unknown 'kubernetes.io'",
        ),
        (407, "#cloud-config\nhostname: n407\n".to_owned(), "no-seed", "no command joins a cluster"),
    ];
    for (vmid, user, _, _) in &cases {
        boot(&mut rig, *vmid, &format!("n{vmid}"), user)?;
    }
    for (vmid, _, phase, reason) in &cases {
        let status = rig.machines()?.settled(*vmid, PATIENCE)?;
        assert_eq!(status["phase"], *phase, "{status}");
        let why = status["error"].as_str().unwrap_or_default();
        assert!(why.contains(reason), "{vmid}: `{reason}` is not in: {why}");
        assert!(!why.contains("0123456789abcdef"), "the secret of a token is in: {why}");
    }
    assert_eq!(rig.api().list("/api/v1/nodes")?, [] as [Value; 0]);
    Ok(())
}

/// Whether Debian's own `ds-identify` would let cloud-init run on a machine with these files and no drive that holds data.
fn cloud_init_runs(program: &std::path::Path, files: &[(&str, &str)]) -> bool {
    let root = tempfile::tempdir().expect("a folder");
    let vendor = [("sys/class/dmi/id/sys_vendor", "QEMU\n"), ("proc/cmdline", "root=/dev/sda1\n")];
    for (path, content) in vendor.iter().chain(files) {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        std::fs::write(path, content).expect("written");
    }
    let run = root.path().join("run");
    std::fs::create_dir_all(&run).expect("made");
    let mut command = std::process::Command::new("sh");
    command.arg(program).arg("--force").env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    // 0: found; 1: disabled.
    let status = command.env("PATH_ROOT", root.path()).env("PATH_RUN", &run).status().expect("it runs");
    assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    status.code() == Some(0)
}

#[test]
fn a_worker_keeps_its_address_whatever_the_datasources_of_its_template_are() -> Tested {
    if skipped() {
        return Ok(());
    }
    let data: Value = serde_saphyr::from_str(include_str!("../../crates/provision/src/join/templates/keep-files.yaml"))
        .expect("a template of ours");
    let program = capplan_rig::components::ds_identify()?;
    let guard = data.as_array().into_iter().flatten().map(|file| {
        let text = |key: &str| file[key].as_str().expect("text").to_owned();
        (text("path").trim_start_matches('/').to_owned(), text("content"))
    });
    let guard: Vec<(String, String)> = guard.collect();
    assert_eq!(guard.len(), 2);
    for list in ["[ NoCloud ]", "[ NoCloud, None ]", "[ NoCloud, ConfigDrive, None ]"] {
        for policy in [None, Some("policy: search,found=all,maybe=all,notfound=enabled\n"), Some("datasource: NoCloud\n")] {
            let template = format!("datasource_list: {list}\n");
            let mut files = vec![("etc/cloud/cloud.cfg.d/90_template.cfg", template.as_str())];
            files.extend(policy.map(|policy| ("etc/cloud/ds-identify.cfg", policy)));
            let runs_without = cloud_init_runs(&program, &files);
            // With one real entry, or a policy that forces it, an empty drive makes another machine of the worker.
            assert!(runs_without || list.contains("ConfigDrive") && policy.is_none(), "{list} {policy:?}");
            files.extend(guard.iter().map(|(path, content)| (path.as_str(), content.as_str())));
            assert!(!cloud_init_runs(&program, &files), "{list} {policy:?}");
        }
    }
    Ok(())
}
