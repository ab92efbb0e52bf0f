//! Wrong input, wrong credentials, broken files, planes that do not answer: every one is named,
//! with a way out, and leaves nothing behind.

mod support;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::Path;

use serde_json::Value;
use support::{
    Certificates, Cluster, KUBE_LISTS, KUBE_TOKEN, PVE_KEY, PVE_TOKEN, Request, Server, World, data, findings, idle_cluster,
    is_pve, refusal, row, unknowns,
};

const JSON: [&str; 3] = ["report", "--format", "json"];

/// An address on loopback where nobody listens.
fn closed() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    format!("http://{}", listener.local_addr().expect("bound"))
}

/// The idle cluster, but that requests of `path` are refused.
fn refusing(path: &'static str, status: u16, message: &'static str) -> Server {
    Server::start(move |request| match request.path == path {
        true => refusal(request, status, message),
        false => idle_cluster(request),
    })
}

/// Why `what` is unknown.
#[track_caller]
fn why<'a>(report: &'a Value, what: &str) -> &'a str {
    row(&report["unknown"], "what", what)["why"].as_str().expect("a reason")
}

/// Nothing was made in the world but what the test put there.
#[track_caller]
fn nothing_new(world: &World, before: &BTreeSet<String>) {
    assert_eq!(&world.files(), before);
}

#[test]
fn the_small_server_is_a_healthy_cluster() {
    let server = Server::start(idle_cluster);
    let world = server.world();
    let report = world.run(&JSON).done().json();
    assert_eq!(unknowns(&report), ["node-filesystem"]);
    assert_eq!(report["recommendation"]["action"], "none");
    assert_eq!(report["slots"].as_array().map(Vec::len), Some(3));
    assert_eq!(report["slots"][0]["free"], 23);
    assert!(server.requests().iter().all(|request| request.method == "GET"));
    for request in server.requests() {
        let token = if is_pve(&request) { format!("PVEAPIToken={PVE_TOKEN}") } else { format!("Bearer {KUBE_TOKEN}") };
        assert_eq!(request.authorization, token, "each plane gets its own token and no other: {}", request.path);
    }
}

#[test]
fn without_a_kubeconfig_the_way_to_one_is_shown() {
    let server = Server::start(idle_cluster);
    let mut world = server.world();
    world.unset("KUBECONFIG");
    let before = world.files();
    for command in [&["report"][..], &["snapshot"], &["history", "show"]] {
        world.run(command).ends(1).says(&["no usable Kubernetes configuration", "hint: ", "KUBECONFIG", "--kubeconfig"]);
    }
    world.run(&["report", "--kubeconfig", "/nowhere/config"]).ends(1).says(&["no usable Kubernetes configuration", "/nowhere"]);
    world.run(&["report", "--context", "elsewhere"]).ends(1).says(&["no usable Kubernetes configuration", "hint: "]);
    nothing_new(&world, &before);
    assert!(server.requests().is_empty());
}

#[test]
fn a_token_that_kubernetes_refuses_ends_the_run() {
    let server = Server::start(|request| match is_pve(request) {
        false => refusal(request, 401, "Unauthorized"),
        true => idle_cluster(request),
    });
    let world = server.world();
    let before = world.files();
    for command in [&["report"][..], &["snapshot"], &["history", "show"]] {
        world.run(command).ends(1).says(&["does not accept the credential (401)", &server.url, "hint: ", "renew the token"]);
    }
    nothing_new(&world, &before);
    let doctor = world.run(&["doctor"]).ends(1);
    assert!(doctor.out.contains("MISSING  the Kubernetes API server") && doctor.out.contains("hint: log in again"));
}

#[test]
fn a_token_that_proxmox_refuses_ends_the_run() {
    let server = Server::start(|request| match is_pve(request) {
        true => refusal(request, 401, ""),
        false => idle_cluster(request),
    });
    let world = server.world();
    let before = world.files();
    for command in ["report", "snapshot"] {
        let outcome = world.run(&[command]).ends(1);
        assert!(!outcome.err.contains(PVE_KEY));
        outcome.says(&["cannot use the Proxmox VE endpoint", "does not accept the token", "hint: ", "pveum user token list"]);
    }
    nothing_new(&world, &before);
}

#[test]
fn a_token_of_the_wrong_form_is_refused_before_it_is_sent() {
    let server = Server::start(idle_cluster);
    let mut world = server.world();
    for token in ["just-a-secret-key", "root@pam=secret-key", "root@pam!id=", "root!id=secret-key", "root@pam!id=secret\u{7}key"]
    {
        world.set("CAPPLAN_PVE_TOKEN", token);
        let outcome = world.run(&["report"]).ends(2);
        assert!(!outcome.err.contains("secret-key") && !outcome.err.contains("secret\u{7}key"), "{}", outcome.err);
        outcome.says(&["is not of the form USER@REALM!ID=SECRET", "hint: "]);
    }
    assert!(server.requests().iter().all(|request| !is_pve(request)));
}

#[test]
fn a_certificate_other_than_the_pinned_one_is_named_by_both_fingerprints() {
    let Some(data) = data() else { return };
    let cluster = Cluster::start(&data, "today", &[]);
    let mut world = cluster.world();
    let other = Certificates::signed();
    world.set("CAPPLAN_PVE_FINGERPRINT", other.fingerprint.to_lowercase().replace(':', ""));
    let before = world.files();
    let texts = [&cluster.certificates.fingerprint[..], &other.fingerprint, "expected", "hint: ", "pin the new one"];
    world.run(&["report"]).ends(1).says(&texts);
    nothing_new(&world, &before);
    let asked = cluster.requests();
    assert!(asked.iter().all(|request| !request["path"].as_str().is_some_and(|path| path.starts_with("/api2"))), "{asked:?}");

    // An authority that did not sign it, and none at all.
    world.unset("CAPPLAN_PVE_FINGERPRINT").set("CAPPLAN_PVE_CA_FILE", other.authority().display().to_string());
    world.run(&["report"]).ends(1).says(&["no secure connection to", "hint: ", "pve-root-ca.pem"]);
    world.unset("CAPPLAN_PVE_CA_FILE");
    world.run(&["report"]).ends(1).says(&["no secure connection to", "hint: ", "fingerprint"]);
    // The right one in the other forms of writing.
    for text in [cluster.certificates.fingerprint.to_lowercase(), cluster.certificates.fingerprint.replace(':', "")] {
        world.set("CAPPLAN_PVE_FINGERPRINT", text);
        world.run(&["report", "--no-history"]).done();
    }
}

#[test]
fn a_malformed_fingerprint_or_file_of_authorities_is_refused_by_name() {
    let server = Server::start(idle_cluster);
    let mut world = server.world();
    world.set("CAPPLAN_PVE_URL", "https://127.0.0.1:1");
    for text in ["AA:BB", "not-hex", &"A".repeat(63)] {
        world.set("CAPPLAN_PVE_FINGERPRINT", text);
        world.run(&["report"]).ends(2).says(&[text, "64 hexadecimal digits", "hint: ", "pvesh get /nodes"]);
    }
    world.unset("CAPPLAN_PVE_FINGERPRINT");
    let empty = world.write("empty.pem", "no certificate here\n");
    for path in [empty.as_str(), "/nowhere/ca.pem"] {
        world.set("CAPPLAN_PVE_CA_FILE", path);
        world.run(&["report"]).ends(2).says(&[path, "file of trusted certificates", "caused by: ", "hint: "]);
    }
}

#[test]
fn an_address_that_would_show_the_token_is_refused_before_connecting() {
    let server = Server::start(idle_cluster);
    let mut world = server.world();
    for (url, text) in [
        ("http://pve.example.org:8006", "would send the token readable"),
        ("http://192.0.2.1:8006", "would send the token readable"),
        ("http://127.0.0.1.example.org:8006", "would send the token readable"),
        ("https://root:pass-word@pve.example.org:8006", "it holds a user or password"),
        ("https://pve.example.org:8006/api2/extjs", "nothing but /api2/json"),
        ("ftp://pve.example.org", "https://"),
        ("pve.example.org:8006", "https://"),
        ("", "no Proxmox VE endpoint"),
    ] {
        world.set("CAPPLAN_PVE_URL", url);
        let started = std::time::Instant::now();
        let outcome = world.run(&["report"]);
        assert!(started.elapsed().as_secs() < 4, "{url}: a connection was tried");
        assert!(!outcome.err.contains("pass-word"), "{}", outcome.err);
        assert!([1, 2].contains(&outcome.code), "{url}");
        outcome.says(&[text, "hint: "]);
    }
}

#[test]
fn a_forbidden_list_is_an_unknown_that_quotes_the_server() {
    let message = "pods is forbidden: User \"system:serviceaccount:capplan\" cannot list resource \"pods\"";
    let server = refusing("/api/v1/pods", 403, message);
    let world = server.world();
    let report = world.run(&JSON).done().json();
    assert!(why(&report, "pods").contains(message), "{}", why(&report, "pods"));
    assert_eq!(report["memory"]["requests"]["workers"], Value::Null);
    assert_eq!(row(&report["rules"], "id", "memory-requests-high")["instant"], "insufficient-data");
    assert_eq!(report["recommendation"]["action"], "insufficient-data");
    assert_eq!(world.run(&["report", "--check"]).code, 6);
    let snapshot = world.run(&["snapshot", "-o", "one.snapshot"]).done();
    assert!(snapshot.err.contains("unknown: pods") && snapshot.err.contains(message), "{}", snapshot.err);
}

#[test]
fn a_proxmox_token_without_audit_leaves_named_unknowns() {
    let message = "Permission check failed (/nodes/pve1, Sys.Audit)";
    let server = Server::start(move |request| match request.path.as_str() {
        "/api2/json/nodes/pve1/status" | "/api2/json/nodes/pve1/disks/lvmthin" => refusal(request, 403, message),
        _ => idle_cluster(request),
    });
    let report = server.world().run(&JSON).done().json();
    for what in ["host pve1: memory", "host pve1: thin pools"] {
        assert!(why(&report, what).contains(message), "{}", why(&report, what));
    }
    let host = row(&report["hosts"], "name", "pve1");
    assert_eq!(host["memory"]["available"], Value::Null);
    assert_eq!(host["takes_worker"], Value::Null);
    assert_eq!(host["pools"], Value::Null);
    assert_eq!(host["memory"]["committed"], 96_u64 << 30, "what was read stands");
}

#[test]
fn lists_that_proxmox_empties_for_want_of_a_privilege_are_unknown_and_not_empty() {
    // PVE answers 200 and leaves out what the token may not see.
    let server = Server::start(|request| match request.path.as_str() {
        "/api2/json/access/permissions" => (200, r#"{"data": {"/": {"Sys.Audit": 1}}}"#.to_owned()),
        "/api2/json/nodes/pve1/qemu" | "/api2/json/nodes/pve1/storage" => (200, r#"{"data": []}"#.to_owned()),
        _ => idle_cluster(request),
    });
    let report = server.world().run(&JSON).done().json();
    assert!(why(&report, "proxmox pve1: guests").contains("VM.Audit"), "{}", report["unknown"]);
    assert!(why(&report, "host pve1: storages").contains("Datastore.Audit"), "{}", report["unknown"]);
    assert_eq!(row(&report["hosts"], "name", "pve1")["memory"]["committed"], Value::Null);
    assert!(findings(&report).iter().all(|(code, _)| *code != "node-without-guest"), "the guests are hidden, not gone");

    let server = Server::start(|request| match request.path.as_str() {
        "/api2/json/access/permissions" => (200, r#"{"data": {}}"#.to_owned()),
        _ => idle_cluster(request),
    });
    let report = server.world().run(&JSON).done().json();
    assert!(report["unknown"].to_string().contains("the token has no privilege at all"), "{}", report["unknown"]);
}

#[test]
fn a_proxmox_that_is_down_leaves_the_kubernetes_half() {
    let server = Server::start(idle_cluster);
    let mut world = server.world();
    let url = closed();
    world.set("CAPPLAN_PVE_URL", &url);
    let report = world.run(&JSON).done().json();
    let hosts = why(&report, &format!("proxmox {url}: hosts"));
    assert!(hosts.contains("cannot reach"), "{hosts}");
    assert!(report["memory"]["requests"]["workers"].is_number());
    assert!(report["slots"].as_array().expect("a list").iter().all(|row| row["free"].is_null() && row["attached"] == 1));
    assert_eq!(report["hosts"], Value::Array(Vec::new()));
}

#[test]
fn a_kubernetes_that_is_down_leaves_the_proxmox_half() {
    let server = Server::start(idle_cluster);
    let mut world = server.world();
    world.kubeconfig(&closed(), None, KUBE_TOKEN);
    let report = world.run(&JSON).done().json();
    assert!(why(&report, "nodes").contains("cannot reach the Kubernetes API server"), "{}", report["unknown"]);
    assert_eq!(report["recommendation"]["action"], "insufficient-data");
    assert_eq!(row(&report["hosts"], "name", "pve1")["takes_worker"], true);
    world.run(&["report", "--check"]).ends(6);
    world.run(&["history", "show"]).ends(1).says(&["cannot reach the Kubernetes API server", "hint: "]);
}

#[test]
fn silence_on_both_planes_is_an_error() {
    let mut world = Server::start(idle_cluster).world();
    let (kube, pve) = (closed(), closed());
    world.kubeconfig(&kube, None, KUBE_TOKEN).set("CAPPLAN_PVE_URL", &pve);
    let before = world.files();
    for command in [&["report"][..], &["snapshot"], &["report", "--check"]] {
        world.run(command).ends(1).says(&["neither plane answers", &kube, &pve, "hint: `capplan doctor`"]);
    }
    nothing_new(&world, &before);
    let doctor = world.run(&["doctor"]).ends(1);
    assert!(doctor.out.matches("MISSING").count() == 2, "{}", doctor.out);
}

#[test]
fn answers_that_are_no_json_are_unknown_and_not_empty() {
    let server = Server::start(|request| match request.path.as_str() {
        "/api/v1/nodes" | "/api2/json/nodes/pve1/qemu" => (200, "<html>a proxy's page</html>".to_owned()),
        "/api/v1/pods" => (200, r#"{"kind": "PodList", "metadata": {}, "items": [{"metadata": {"name": "a""#.to_owned()),
        _ => idle_cluster(request),
    });
    let report = server.world().run(&JSON).done().json();
    assert!(why(&report, "nodes").contains("cannot decode /api/v1/nodes"), "{}", why(&report, "nodes"));
    assert!(why(&report, "pods").contains("cannot decode /api/v1/pods"), "{}", why(&report, "pods"));
    assert!(why(&report, "proxmox pve1: guests").contains("unexpected answer"), "{}", report["unknown"]);
    assert_eq!(report["recommendation"]["action"], "insufficient-data");
}

/// Rules that judge the moment only, so that a worker can be recommended for removal at once.
fn policy_without_windows(world: &World) -> String {
    let policy = World::new().run(&["policy"]).done().out;
    let mut text = String::new();
    for line in policy.lines().filter(|line| !line.starts_with("window = ")) {
        text.push_str(line);
        text.push('\n');
    }
    world.write("policy.toml", text)
}

#[test]
fn a_worker_is_removed_only_if_everything_that_rests_on_was_read() {
    let recommended = |answer: fn(&Request) -> (u16, String), failing: Option<&'static str>| {
        let server = Server::start(move |request| match failing == Some(request.path.as_str()) {
            true => refusal(request, 500, "out of order"),
            false => answer(request),
        });
        let world = server.world();
        let policy = policy_without_windows(&world);
        let report = world.run(&[&JSON[..], &["--policy", &policy, "--confirm-no-growth"]].concat()).done().json();
        report["recommendation"].clone()
    };
    let idle = recommended(idle_cluster, None);
    assert_eq!(idle["action"], "scale-down", "the idle cluster has a worker too many: {idle}");
    for path in [
        "/api/v1/nodes",
        "/api/v1/pods",
        "/api/v1/persistentvolumes",
        "/api/v1/persistentvolumeclaims",
        "/apis/storage.k8s.io/v1/volumeattachments",
        "/apis/storage.k8s.io/v1/csinodes",
        "/apis/policy/v1/poddisruptionbudgets",
        "/api2/json/nodes",
        "/api2/json/nodes/pve1/qemu",
        "/api2/json/nodes/pve1/qemu/102/config",
    ] {
        assert!(KUBE_LISTS.contains(&path) || path.starts_with("/api2"), "{path}");
        assert_ne!(recommended(idle_cluster, Some(path))["action"], "scale-down", "{path} was not read");
    }
}

#[test]
fn a_worker_is_removed_only_on_a_human_word_and_with_its_windows_sampled() {
    let server = Server::start(idle_cluster);
    let world = server.world();
    let policy = policy_without_windows(&world);
    let without_word = world.run(&[&JSON[..], &["--policy", &policy]].concat()).done().json();
    assert_eq!(without_word["recommendation"]["action"], "none");
    assert!(without_word["recommendation"]["rejected"].to_string().contains("no-growth-confirmed"));
    let without_history = world.run(&[&JSON[..], &["--confirm-no-growth"]].concat()).done().json();
    assert_eq!(without_history["recommendation"]["action"], "none");
    assert!(without_history["recommendation"]["rejected"].to_string().contains("days are sampled"), "{without_history}");
    assert_eq!(world.run(&["report", "--check", "--policy", &policy, "--confirm-no-growth"]).code, 3);
}

/// A world with a snapshot file of the idle cluster.
fn with_snapshot() -> World {
    let server = Server::start(idle_cluster);
    let world = server.world();
    world.run(&["snapshot", "-o", "good.snapshot"]).done();
    world
}

#[test]
fn a_snapshot_that_is_no_whole_one_is_refused_by_name() {
    let world = with_snapshot();
    let good = std::fs::read(world.path("work/good.snapshot")).expect("just written");
    let content = zstd::decode_all(&good[..]).expect("compressed by us");
    let mut changed = good.clone();
    let middle = changed.len() / 2;
    changed[middle] ^= 0x40;
    let mut flipped = content.clone();
    let place = content.windows(7).position(|text| text == b"worker1").expect("a name in it");
    flipped[place + 6] = b'9';
    let newer = String::from_utf8(content.clone()).expect("text").replacen("capplan.snapshot/1", "capplan.snapshot/2", 1);
    assert_ne!(newer.as_bytes(), content);
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("text", b"Just some notes.\n".to_vec()),
        ("json", b"{\"items\": []}".to_vec()),
        ("cut", good[..good.len() / 2].to_vec()),
        ("short-by-one", good[..good.len() - 1].to_vec()),
        ("damaged", changed),
        ("cut-inside", content[..content.len() / 2].to_vec()),
        ("changed-inside", flipped),
        ("newer", newer.into_bytes()),
    ] {
        let file = format!("{name}.snapshot");
        world.write(&format!("work/{file}"), bytes);
        let before = world.files();
        world.run(&["report", "--snapshot", &file]).ends(1).says(&[&file, "caused by: ", "hint: ", "capplan snapshot -o FILE"]);
        world.run(&["history", "show", "--snapshot", &file]).ends(1).says(&[&file]);
        nothing_new(&world, &before);
    }
    let newer = world.run(&["report", "--snapshot", "newer.snapshot"]);
    assert!(newer.err.contains("capplan.snapshot/2"), "{}", newer.err);
    world.run(&["report", "--snapshot", "nowhere.snapshot"]).ends(1).says(&["nowhere.snapshot", "hint: "]);
    world.run(&["report", "--snapshot", "good.snapshot"]).done();
}

#[test]
fn a_snapshot_that_cannot_be_written_is_said_and_leaves_nothing() {
    let server = Server::start(idle_cluster);
    let world = server.world();
    let before = world.files();
    world.run(&["snapshot", "-o", "nowhere/one.snapshot"]).ends(1).says(&["cannot write nowhere/one.snapshot", "caused by: "]);
    world.run(&["snapshot", "--from-lists", "nowhere"]).ends(2).says(&["nowhere is no folder"]);
    nothing_new(&world, &before);
}

#[test]
fn an_empty_folder_of_lists_gives_unknowns_and_no_claim() {
    let world = World::new();
    std::fs::create_dir(world.path("work/lists")).expect("writable");
    let snapshot = world.run(&["snapshot", "--from-lists", "lists", "-o", "one.snapshot"]).done();
    assert!(snapshot.err.contains("unknown: nodes"), "{}", snapshot.err);
    let report = world.run(&[&JSON[..], &["--snapshot", "one.snapshot"]].concat()).done().json();
    assert_eq!(report["recommendation"]["action"], "insufficient-data");
    world.run(&["report", "--snapshot", "one.snapshot", "--check"]).ends(6);
}

#[test]
fn a_policy_with_a_mistake_is_refused_with_file_line_and_expectation() {
    let world = World::new();
    let policy = world.run(&["policy"]).done().out;
    let line_of = |text: &str| 1 + policy.lines().position(|line| line == text).expect("a line of the built-in policy");
    for (old, new, texts) in [
        ("coverage = 0.95", "coverge = 0.95", &["coverge", "expected"][..]),
        ("mode = \"any\"", "mode = \"some\"", &["some", "expected"]),
        ("when = \">= 25\"", "when = \"many\"", &["many"]),
        ("memory = \"32GiB\"", "memory = \"32 apples\"", &["32 apples"]),
        ("sample_interval = \"1h\"", "sample_interval = \"1 fortnight\"", &["1 fortnight"]),
        ("coverage = 0.95", "coverage = ", &["TOML parse error"]),
        ("format = \"capplan.policy/1\"", "format = \"capplan.policy/2\"", &["capplan.policy/2"]),
    ] {
        let line = line_of(old);
        let file = world.write("work/mine.toml", policy.replacen(old, new, 1));
        let before = world.files();
        let outcome = world.run(&["report", "--demo", "--policy", &file]).ends(2);
        let outcome = outcome.says(&["cannot use the policy", &file, "hint: `capplan policy`"]).says(texts);
        if !new.starts_with("format") {
            assert!(outcome.err.contains(&format!("line {line}")), "line {line} is not in: {}", outcome.err);
        }
        nothing_new(&world, &before);
    }
    world.run(&["report", "--demo", "--policy", "nowhere.toml"]).ends(2).says(&["cannot read the policy nowhere.toml"]);
}

#[test]
fn a_configuration_with_a_mistake_is_refused_with_file_and_line() {
    let mut world = World::new();
    let proxmox = "[[proxmox]]\nurl = \"https://127.0.0.1:1\"\n";
    for (text, texts) in [
        ("state_dri = \"x\"\n".to_owned(), &["line 1", "state_dri", "expected"][..]),
        (format!("{proxmox}fingerprnt = \"AA\"\n"), &["line 3", "fingerprnt", "expected"]),
        ("[[proxmox]]\nname = \"home\"\n".to_owned(), &["missing field `url`"]),
        ("[kubernetes\n".to_owned(), &["line 1"]),
        (proxmox.to_owned(), &["token of https://127.0.0.1:1", "$CAPPLAN_PVE_TOKEN", "not set"]),
        (format!("{proxmox}token_env = \"MY_TOKEN\"\n"), &["$MY_TOKEN", "not set"]),
        (format!("{proxmox}token_file = \"/nowhere/token\"\n"), &["/nowhere/token"]),
    ] {
        let file = world.write("work/config.toml", text);
        let before = world.files();
        for command in [&["report"][..], &["report", "--demo"], &["snapshot"], &["doctor"], &["history", "show"]] {
            let arguments = [command, &["--config", &file]].concat();
            world.run(&arguments).ends(2).says(texts);
        }
        nothing_new(&world, &before);
    }
    world.run(&["report", "--demo", "--config", "nowhere.toml"]).ends(2).says(&["cannot read the configuration nowhere.toml"]);
    world.set("CAPPLAN_PVE_URL", "https://127.0.0.1:1");
    world.run(&["report"]).ends(2).says(&["$CAPPLAN_PVE_TOKEN, which is not set"]);
    world.unset("CAPPLAN_PVE_URL");
    world.run(&["report"]).ends(2).says(&["no Proxmox VE endpoint is configured", "hint: ", "CAPPLAN_PVE_URL", "--demo"]);
}

#[test]
fn a_scenario_with_a_mistake_is_refused_by_name() {
    let world = World::new();
    world.write("work/mine.toml", "format = \"capplan.scenario/1\"\ntitel = \"x\"\n");
    world.run(&["report", "--scenario", "mine.toml"]).ends(2).says(&["cannot use mine.toml", "line 2", "titel"]);
    world.run(&["report", "--scenario", "nowhere.toml"]).ends(2).says(&["nowhere.toml"]);
}

/// The world of `server` with two history files: one that is whole, one that is cut in half.
fn with_cut_history(server: &Server) -> (World, String) {
    let mut world = server.world();
    for now in ["2026-03-02T05:00:00Z", "2026-03-02T05:30:00Z"] {
        world.set("CAPPLAN_NOW", now);
        world.run(&["report"]).done();
    }
    world.set("CAPPLAN_NOW", "2026-03-02T06:00:00Z");
    let files: Vec<String> = world.files().into_iter().filter(|file| file.ends_with(".parquet")).collect();
    assert_eq!(files.len(), 2, "{files:?}");
    let bytes = std::fs::read(world.path(&files[0])).expect("just written");
    std::fs::write(world.path(&files[0]), &bytes[..bytes.len() / 2]).expect("writable");
    (world, files[0].clone())
}

#[test]
fn a_history_file_cut_in_half_is_named_and_the_others_count() {
    let server = Server::start(idle_cluster);
    let (world, cut) = with_cut_history(&server);
    let report = world.run(&JSON).done().json();
    let name = Path::new(&cut).file_name().expect("a name").to_string_lossy().into_owned();
    assert!(
        unknowns(&report).iter().any(|what| what.starts_with("history file") && what.contains(&name)),
        "{}",
        report["unknown"]
    );
    assert!(report["history"]["samples"].as_u64().is_some_and(|samples| samples > 0));
    assert_eq!(report["history"]["first"], "2026-03-02T05:30:00Z");
    // It is left where it is, and this run's sample is kept beside it.
    assert_eq!(world.files().iter().filter(|file| file.ends_with(".parquet")).count(), 3);
    let show = world.run(&["history", "show"]).ends(1);
    assert!(show.err.contains(&name) && show.out.contains("samples from"), "{show:?}");
}

/// The mode of every file and folder below `folder`.
fn modes(folder: &Path) -> Vec<(std::path::PathBuf, bool, u32)> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let there = entry.metadata().expect("there");
        found.push((entry.path(), there.is_dir(), there.permissions().mode() & 0o777));
        if there.is_dir() {
            found.extend(modes(&entry.path()));
        }
    }
    found
}

#[test]
fn what_is_written_is_its_owners_alone_and_no_link_is_followed() {
    let server = Server::start(idle_cluster);
    let mut world = server.world();
    let out = world.path("out");
    world.set("CAPPLAN_STATE_DIR", out.join("state").display().to_string());
    let at = |name: &str| out.join(name).display().to_string();
    world.run(&["report", "--out", &at("report")]).ends(0);
    world.run(&["snapshot", "-o", &at("one.snapshot")]).ends(0);
    world.run(&["plan", "scale-up", "-o", &at("plans/one.json"), "--scenario", "../../scenarios/demo.toml"]);
    let found = modes(&out);
    assert!(found.iter().any(|(path, ..)| path.extension().is_some_and(|one| one == "parquet")), "{found:?}");
    assert!(found.len() > 6, "{found:?}");
    for (path, is_folder, mode) in &found {
        assert_eq!(*mode, if *is_folder { 0o700 } else { 0o600 }, "{}", path.display());
    }
    // A link in the state folder that somebody else laid leads to nothing of theirs being read or written.
    let (victim, history) = (world.path("victim"), out.join("state/history"));
    std::fs::create_dir(&victim).expect("made");
    std::fs::remove_dir_all(&history).expect("ours");
    std::os::unix::fs::symlink(&victim, &history).expect("a link");
    let report = world.run(&JSON).done().json();
    assert!(why(&report, "history").contains("it is a link"), "{}", report["unknown"]);
    assert_eq!(modes(&victim), Vec::new());
    std::os::unix::fs::symlink(&victim, out.join("state/runs")).expect("a link");
    let plan = world.write("plan.json", "{}");
    assert!(world.run(&["apply", &plan]).err.contains("it is a link"));
    assert_eq!(modes(&victim), Vec::new());
}

#[cfg(unix)]
#[test]
fn a_state_folder_that_cannot_be_written_stops_no_report() {
    let server = Server::start(idle_cluster);
    let mut world = server.world();
    // A file where the folder should be: not even root can write below it.
    let file = world.write("not-a-folder", "x");
    world.set("CAPPLAN_STATE_DIR", &file);
    let before = world.files();
    let report = world.run(&JSON).done().json();
    assert!(why(&report, "history").contains("not-a-folder"), "{}", why(&report, "history"));
    nothing_new(&world, &before);
    let doctor = world.run(&["doctor"]).ends(1);
    assert!(doctor.out.contains("is not writable") && doctor.out.contains("CAPPLAN_STATE_DIR"), "{}", doctor.out);
}

#[test]
fn an_instant_that_is_none_is_refused() {
    let server = Server::start(idle_cluster);
    let mut world = server.world();
    let before = world.files();
    for text in ["yesterday", "2026-08-20", "2026-08-20T25:00:00Z"] {
        world.set("CAPPLAN_NOW", text);
        for command in [&["report"][..], &["snapshot"], &["history", "import"]] {
            world.run(command).ends(2).says(&["CAPPLAN_NOW", text, "hint: ", "2026-08-20T09:00:00Z"]);
        }
    }
    nothing_new(&world, &before);
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    let world = World::new();
    for arguments in [
        &["report", "--nonsense"][..],
        &["reprot"],
        &["report", "--format", "pdf"],
        &["report", "--demo", "--snapshot", "x"],
        &["report", "--demo", "--scenario", "x"],
        &["report", "--planned-volumes", "-1"],
        &["report", "--planned-volumes", "many"],
        &["completions", "cobol"],
        &["schema", "plans"],
        &["man"],
        &["history"],
        &["history", "import", "--days", "x"],
        &["init", "--pve-url", "https://x", "--pve-fingerprint", "AA", "--pve-ca-file", "x"],
    ] {
        let outcome = world.run(arguments);
        assert_eq!((outcome.code, outcome.out.as_str()), (2, ""), "{arguments:?}: {}", outcome.err);
        assert!(
            outcome.err.contains("Usage: ") || outcome.err.contains("possible values") || outcome.err.contains("invalid value")
        );
    }
    assert_eq!(world.files(), BTreeSet::new());
}

#[test]
fn a_report_that_cannot_be_written_is_said() {
    let world = World::new();
    world.write("work/file", "x");
    world.run(&["report", "--demo", "--out", "file"]).ends(1).says(&["cannot create file"]);
    world.run(&["man", "file"]).ends(1).says(&["cannot write to file"]);
    world
        .run(&["init", "--no-input", "--pve-url", "https://x:8006", "--config", "file/config.toml"])
        .ends(1)
        .says(&["cannot create"]);
}

const QUIET: &str = r#"
format = "capplan.scenario/1"
title = "Nothing to do"
now = "2026-03-02T06:00:00Z"

[[hosts]]
name = "pve1"
memory = "256GiB"
available = "150GiB"
cpus = 32

[[nodes]]
name = "worker1"
vmid = 201
host = "pve1"
memory = "32GiB"
cpus = 8
attached = 6
pods = [{ name = "web", count = 8, memory = "1GiB", limit = "1GiB", cpu = "100m" }]

[[nodes]]
name = "worker2"
vmid = 202
host = "pve1"
memory = "32GiB"
cpus = 8
attached = 5
pods = [{ name = "web", count = 8, memory = "1GiB", limit = "1GiB", cpu = "100m" }]
"#;

#[test]
fn a_check_ends_with_what_the_report_says() {
    let world = World::new();
    assert_eq!(world.run(&["report", "--demo"]).code, 0, "without --check a report is no failure");
    let demo = world.run(&["report", "--demo", "--check", "--format", "json"]).ends(3).json();
    assert_eq!(demo["recommendation"]["action"], "reclaim");
    world.write("work/quiet.toml", QUIET);
    let quiet = world.run(&["report", "--scenario", "quiet.toml", "--check", "--format", "json"]).ends(0).json();
    assert_eq!(quiet["recommendation"]["action"], "none", "{}", quiet["recommendation"]);
    let nothing = "format = \"capplan.scenario/1\"\ntitle = \"Nothing\"\nnow = \"2026-03-02T06:00:00Z\"\n";
    world.write("work/nothing.toml", nothing);
    let nothing = world.run(&["report", "--scenario", "nothing.toml", "--check", "--format", "json"]).ends(6).json();
    assert_eq!(nothing["recommendation"]["action"], "insufficient-data");
    // Volumes that are planned: judged by the runbook's rule for them.
    let planned = ["report", "--scenario", "quiet.toml", "--check", "--planned-volumes", "40"];
    assert_eq!(world.run(&planned).code, 0, "the fullest worker has 6 of 22");
    world.write("work/full.toml", QUIET.replace("attached = 6", "attached = 22"));
    world.run(&["report", "--scenario", "full.toml", "--check", "--planned-volumes", "2"]).ends(0);
    world.run(&["report", "--scenario", "full.toml", "--check", "--planned-volumes", "3"]).ends(3);
}
