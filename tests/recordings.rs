//! The whole program against recorded clusters: every number, every failing list, every request.

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::truth::{number, report_agrees};
use support::{
    Certificates, Cluster, KUBE_LISTS, KUBE_TOKEN, PROMETHEUS_TOKEN, PVE_KEY, PVE_TOKEN, STATE, World, data, findings, row,
    unknowns,
};

const CLUSTERS: [&str; 2] = ["today", "lun-incident"];
const JSON: [&str; 3] = ["report", "--format", "json"];

/// A world with 30 days of history from Prometheus.
fn with_history(cluster: &Cluster) -> World {
    let world = cluster.world_with_prometheus();
    let import = world.run(&["history", "import"]).done();
    assert!(import.err.contains("added 1"), "{}", import.err);
    world
}

#[test]
fn the_report_shows_every_number_of_the_truth() {
    let Some(data) = data() else { return };
    for name in CLUSTERS {
        let cluster = Cluster::start(&data, name, &[]);
        let world = with_history(&cluster);
        let report = world.run(&JSON).done().json();
        let truth = cluster.read("truth.json");
        report_agrees(&report, &truth, name);
    }
}

#[test]
fn a_worker_is_recommended_where_one_is_due_and_fits_and_not_where_none_fits() {
    let Some(data) = data() else { return };
    let cluster = Cluster::start(&data, "lun-incident", &[]);
    let mut world = with_history(&cluster);
    // The same host, trusted by its authority instead of by its fingerprint.
    world.unset("CAPPLAN_PVE_FINGERPRINT").set("CAPPLAN_PVE_CA_FILE", cluster.certificates.authority().display().to_string());
    let report = world.run(&JSON).done().json();
    assert_eq!(report["recommendation"]["action"], "scale-up");
    assert_eq!(report["recommendation"]["target"], "pve");
    assert_eq!(report["binding"]["dimension"], "volume-slots");
    assert_eq!(report["binding"]["holder"], "k8s-node1");
    let found = findings(&report);
    assert!(found.contains(&("ghost-volume", "k8s-node1")), "{found:?}");
    assert!(found.contains(&("attach-failing", "k8s-node1")), "{found:?}");
    assert!(found.iter().any(|(code, volume)| *code == "volume-on-two-guests" && volume.contains("92a83e0e")), "{found:?}");
    assert_eq!(world.run(&["report", "--check"]).code, 3);

    let cluster = Cluster::start(&data, "today", &[]);
    let world = with_history(&cluster);
    let report = world.run(&JSON).done().json();
    assert_eq!(report["recommendation"]["action"], "none");
    let rejected = report["recommendation"]["rejected"].to_string();
    assert!(rejected.contains("none could be added either"), "{rejected}");
    assert!(rejected.contains("25.4 GiB available, a new worker needs 34.0 GiB"), "{rejected}");
    assert!(rejected.contains("scale-down: "), "{rejected}");
    // Warnings only: nothing to do, nothing critical.
    assert_eq!(world.run(&["report", "--check"]).code, 0);
}

#[test]
fn what_only_looks_sends_nothing_but_gets_and_doctor_asks_for_its_rights() {
    let Some(data) = data() else { return };
    for name in CLUSTERS {
        let cluster = Cluster::start(&data, name, &[]);
        let world = cluster.world_with_prometheus();
        for arguments in [
            &["history", "import"][..],
            &["report", "--no-history"],
            &["report"],
            &["report", "--out", "out"],
            &["snapshot", "-o", "one.snapshot"],
            &["history", "show"],
            &["history", "export"],
        ] {
            world.run(arguments).done();
        }
        let requests = cluster.requests();
        assert!(requests.len() > 100, "{}", requests.len());
        let other: Vec<&Value> = requests.iter().filter(|request| request["method"] != "GET").collect();
        assert!(other.is_empty(), "{other:?}");
        for secret in ["/secrets", "/configmaps", "/log", "/exec"] {
            assert!(requests.iter().all(|request| !request["path"].as_str().expect("a path").contains(secret)), "{secret}");
        }

        // The recorded token may not see PCI mappings; all else is there.
        let doctor = world.run(&["doctor"]).ends(1);
        assert!(doctor.out.contains("Mapping.Audit") && doctor.out.contains("\n1 to mend"), "{}", doctor.out);
        let requests = &cluster.requests()[requests.len()..];
        let reviews = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        assert!(requests.iter().all(|request| request["method"] == "GET" || request["path"] == reviews), "{requests:?}");
        assert!(requests.iter().any(|request| request["method"] == "POST"));
    }
}

#[test]
fn a_snapshot_tells_what_the_live_report_tells() {
    let Some(data) = data() else { return };
    for name in CLUSTERS {
        let cluster = Cluster::start(&data, name, &[]);
        let world = cluster.world();
        let live = world.run(&["report", "--format", "json", "--no-history"]).done();
        world.run(&["snapshot", "-o", "one.snapshot"]).done();
        world.run(&["snapshot", "-o", "two.snapshot"]).done();
        let read = |name: &str| std::fs::read(world.path(&format!("work/{name}"))).expect("written");
        assert!(read("one.snapshot") == read("two.snapshot"), "two snapshots of one state differ");
        let saved = world.run(&["report", "--snapshot", "one.snapshot", "--format", "json", "--no-history"]).done();
        assert_eq!(saved.out, live.out);

        // No connection is needed for a file, and none is made.
        let seen = cluster.requests().len();
        let mut offline = World::new();
        offline.write("work/one.snapshot", read("one.snapshot"));
        offline.set("CAPPLAN_NOW", "2030-01-01T00:00:00Z");
        let later = offline.run(&["report", "--snapshot", "one.snapshot", "--format", "json", "--no-history"]).done();
        assert_eq!(later.out, live.out, "a report of a snapshot speaks of its instant");
        assert_eq!(cluster.requests().len(), seen);

        let folder = cluster.folder().display().to_string();
        world.run(&["snapshot", "--from-lists", &folder, "-o", "lists.snapshot"]).done();
        let lists = world.run(&["report", "--snapshot", "lists.snapshot", "--format", "json", "--no-history"]).done().json();
        let mut live = live.json();
        // The saved lists do not tell whether Proxmox VE has its quorum, so nothing may be begun on them.
        if lists["recommendation"]["feasibility"] == "undecided" {
            assert!(lists["recommendation"]["undecided"].to_string().contains("has a quorum"), "{}", lists["recommendation"]);
            for part in ["feasibility", "undecided", "warnings"] {
                live["recommendation"][part] = lists["recommendation"][part].clone();
            }
        }
        for part in ["at", "cluster", "nodes", "memory", "node_loss", "slots", "rules", "recommendation"] {
            assert_eq!(lists[part], live[part], "{name} {part}");
        }
    }
}

#[test]
fn a_report_reads_and_keeps_the_history_of_its_cluster() {
    let Some(data) = data() else { return };
    let cluster = Cluster::start(&data, "today", &[]);
    // Prometheus is asked by the report itself where the history has gaps.
    let world = cluster.world_with_prometheus();
    let report = world.run(&JSON).done().json();
    assert!(number(&report["history"]["samples"]) > 10_000.0);
    assert_eq!(row(&report["rules"], "id", "slots-low")["sustained"], "met");
    let files = world.files();
    let kept: Vec<&String> = files.iter().filter(|file| file.ends_with(".parquet")).collect();
    let folder = format!("{STATE}/history/{}/", report["cluster"].as_str().expect("an identity"));
    assert!(!kept.is_empty() && kept.iter().all(|file| file.starts_with(&folder)), "{kept:?}");
    // No gap is filled twice, and the verdicts stay the same.
    let asked = |requests: &[Value]| {
        requests.iter().filter(|request| request["path"].as_str().is_some_and(|path| path.starts_with("/prom"))).count()
    };
    let before = asked(&cluster.requests());
    let again = world.run(&JSON).done().json();
    for part in ["rules", "recommendation", "findings", "charts", "binding"] {
        assert_eq!(again[part], report[part], "{part}");
    }
    assert_eq!(asked(&cluster.requests()), before);

    // A snapshot of the cluster finds the same history.
    world.run(&["snapshot", "-o", "one.snapshot"]).done();
    let saved = world.run(&["report", "--snapshot", "one.snapshot", "--format", "json"]).done().json();
    assert_eq!(saved["rules"], report["rules"]);
    assert_eq!(world.files().iter().filter(|file| file.ends_with(".parquet")).count(), kept.len(), "a snapshot adds nothing");
}

#[test]
fn a_prometheus_that_fails_is_named_and_stops_no_report() {
    let Some(data) = data() else { return };
    let cluster = Cluster::start(&data, "today", &["--fail", "/prom/api/v1/query_range:500:1000"]);
    let world = cluster.world_with_prometheus();
    let report = world.run(&JSON).done().json();
    assert!(unknowns(&report).iter().any(|what| what.starts_with("history from Prometheus")), "{:?}", unknowns(&report));
    assert_eq!(row(&report["rules"], "id", "slots-low")["sustained"], "insufficient-data");
    let import = world.run(&["history", "import"]);
    assert!(import.err.contains("not imported: history from Prometheus"), "{}", import.err);
}

#[test]
fn no_token_appears_in_any_output_or_file() {
    let Some(data) = data() else { return };
    let cluster =
        Cluster::start(&data, "today", &["--fail", "/api2/json/nodes/pve/tasks:403:1000", "--fail", "/api/v1/events:403:1000"]);
    let mut world = cluster.world_with_prometheus();
    world.set("CAPPLAN_LOG", "trace");
    let mut said = String::new();
    for arguments in [
        &["report"][..],
        &JSON,
        &["report", "--format", "markdown"],
        &["report", "--format", "csv"],
        &["report", "--out", "out"],
        &["snapshot", "-o", "one.snapshot"],
        &["report", "--snapshot", "one.snapshot"],
        &["history", "import"],
        &["history", "export"],
        &["doctor"],
    ] {
        let outcome = world.run(arguments);
        said.push_str(&outcome.out);
        said.push_str(&outcome.err);
    }
    assert!(said.contains("TRACE"), "the log is as chatty as it can be");
    // Neither are wrong ones repeated, on either plane.
    let wrong = "capplan@pve!ci=some-wrong-pve-key";
    for (name, value) in [("CAPPLAN_PVE_TOKEN", "no-token-at-all-but-secret"), ("CAPPLAN_PVE_TOKEN", wrong)] {
        world.set(name, value);
        let outcome = world.run(&["report"]);
        assert_ne!(outcome.code, 0);
        said.push_str(&outcome.err);
    }
    world.kubeconfig(&cluster.url, Some(&cluster.certificates.authority()), "wrong-kube-bearer");
    said.push_str(&world.run(&["report"]).ends(1).err);

    let tokens = [
        KUBE_TOKEN,
        PVE_TOKEN,
        PVE_KEY,
        PROMETHEUS_TOKEN,
        "some-wrong-pve-key",
        "no-token-at-all-but-secret",
        "wrong-kube-bearer",
    ];
    for token in tokens {
        assert!(!said.contains(token), "{token} was printed");
    }
    let files = world.files();
    assert!(files.len() > 6, "{files:?}");
    for file in files.iter().filter(|file| *file != "kubeconfig") {
        let mut bytes = std::fs::read(world.path(file)).expect("readable");
        if file.ends_with(".snapshot") {
            bytes = zstd::decode_all(&bytes[..]).expect("compressed by us");
        }
        for token in tokens {
            assert!(!bytes.windows(token.len()).any(|window| window == token.as_bytes()), "{token} is in {file}");
        }
    }
}

/// One list that cannot be read, and what must not be known then.
struct Fault {
    path: &'static str,
    /// What the report names as unknown; `None` if nothing is lost with it.
    unknown: Option<&'static str>,
    /// Fields of the report that must be `null`.
    null: &'static [&'static str],
    /// Fields that must be `null` in every row: list and field.
    null_rows: &'static [(&'static str, &'static str)],
    /// Lists that must be empty.
    empty: &'static [&'static str],
    /// Rules that cannot be judged now.
    open: &'static [&'static str],
    /// Findings that would rest on it.
    silent: &'static [&'static str],
    /// Recommendation for `today` and `lun-incident`.
    action: [&'static str; 2],
}

impl Default for Fault {
    fn default() -> Self {
        Self {
            path: "",
            unknown: None,
            null: &[],
            null_rows: &[],
            empty: &[],
            open: &[],
            silent: &[],
            action: ["none", "scale-up"],
        }
    }
}

const MEMORY: [&str; 8] = [
    "/memory/requests/all_nodes",
    "/memory/requests/workers",
    "/memory/requests/general",
    "/memory/limits/all_nodes",
    "/memory/limits/workers",
    "/memory/limits/general",
    "/memory/terminal_pods",
    "/memory/phantom",
];
const CONFIG_ROWS: [(&str, &str); 5] =
    [("slots", "real"), ("slots", "plugged"), ("slots", "occupied"), ("slots", "phantom"), ("slots", "free")];
const SLOT_FINDINGS: [&str; 3] = ["ghost-volume", "slot-arithmetic", "phantom-slots"];
const GUEST_FINDINGS: [&str; 5] =
    ["ghost-volume", "slot-arithmetic", "phantom-slots", "volume-on-two-guests", "control-plane-oversized"];

/// How many failing lists are reported on at the same time.
const AT_ONCE: usize = 6;

/// A list that no verdict rests on.
fn minor(path: &'static str, unknown: &'static str) -> Fault {
    Fault { path, unknown: Some(unknown), ..Fault::default() }
}

fn faults() -> Vec<Fault> {
    let no_host = ["none", "insufficient-data"];
    let nothing_known = ["insufficient-data"; 2];
    vec![
        Fault {
            null: &MEMORY,
            empty: &["/nodes", "/slots", "/node_loss"],
            open: &[
                "slots-high",
                "slots-low",
                "memory-requests-high",
                "memory-requests-low",
                "memory-limits-low",
                "no-node-overcommitted",
            ],
            silent: &["ghost-volume", "limit-full", "n-minus-one-short", "denominators-disagree", "node-not-ready"],
            action: nothing_known,
            ..minor("/api/v1/nodes", "nodes")
        },
        Fault {
            null: &MEMORY,
            null_rows: &[
                ("slots", "counted"),
                ("slots", "free"),
                ("nodes", "requests"),
                ("nodes", "requested"),
                ("nodes", "limited"),
                ("nodes", "cpu_requested"),
                ("nodes", "pods"),
            ],
            empty: &["/node_loss"],
            open: &[
                "memory-requests-high",
                "memory-requests-low",
                "memory-limits-low",
                "no-node-overcommitted",
                "evictions-high",
            ],
            silent: &["evicted-pods", "n-minus-one-short", "denominators-disagree", "control-plane-oversized", "terminal-pods"],
            action: nothing_known,
            ..minor("/api/v1/pods", "pods")
        },
        Fault {
            null_rows: &[("slots", "attached"), ("slots", "counted"), ("slots", "free")],
            open: &["slots-high", "slots-low"],
            silent: &["ghost-volume", "attach-failing"],
            action: ["insufficient-data", "scale-up"],
            ..minor("/apis/storage.k8s.io/v1/volumeattachments", "volumeattachments")
        },
        Fault {
            null_rows: &[("slots", "counted"), ("slots", "free")],
            silent: &["ghost-volume", "released-volumes"],
            ..minor("/api/v1/persistentvolumes", "persistentvolumes")
        },
        Fault {
            null_rows: &[("slots", "counted"), ("slots", "free")],
            ..minor("/api/v1/persistentvolumeclaims", "persistentvolumeclaims")
        },
        Fault {
            null_rows: &[("slots", "advertised"), ("slots", "phantom"), ("slots", "free")],
            silent: &["slot-arithmetic", "phantom-slots", "csi-driver-missing", "csinode-count-differs"],
            ..minor("/apis/storage.k8s.io/v1/csinodes", "csinodes")
        },
        Fault { null_rows: &[("nodes", "used")], ..minor("/apis/metrics.k8s.io/v1beta1/nodes", "node metrics") },
        minor("/api/v1/events", "events"),
        minor("/api/v1/namespaces", "namespaces"),
        minor("/api/v1/resourcequotas", "resourcequotas"),
        minor("/api/v1/services", "services"),
        minor("/apis/apps/v1/daemonsets", "daemonsets"),
        minor("/apis/apps/v1/deployments", "deployments"),
        minor("/apis/apps/v1/replicasets", "replicasets"),
        minor("/apis/apps/v1/statefulsets", "statefulsets"),
        minor("/apis/batch/v1/cronjobs", "cronjobs"),
        minor("/apis/batch/v1/jobs", "jobs"),
        Fault { silent: &["node-heartbeat-stale"], ..minor("/apis/coordination.k8s.io/v1/leases", "leases") },
        minor("/apis/crd.projectcalico.org/v1/ipamhandles", "ipamhandles"),
        minor("/apis/policy/v1/poddisruptionbudgets", "poddisruptionbudgets"),
        minor("/apis/scheduling.k8s.io/v1/priorityclasses", "priorityclasses"),
        Fault { silent: &["csi-driver-missing"], ..minor("/apis/storage.k8s.io/v1/csidrivers", "csidrivers") },
        minor("/apis/storage.k8s.io/v1/csistoragecapacities", "csistoragecapacities"),
        minor("/apis/storage.k8s.io/v1/storageclasses", "storageclasses"),
        minor("/version", "kubernetes version"),
        minor("/api2/json/access/permissions", "PCI mappings"),
        minor("/api2/json/cluster/mapping/pci", "PCI mappings"),
        minor("/api2/json/cluster/status", "quorum"),
        Fault { path: "/api2/json/cluster/resources", ..Fault::default() },
        Fault { path: "/api2/json/nodes/pve/qemu/201/status/current", ..Fault::default() },
        Fault {
            null_rows: &CONFIG_ROWS,
            empty: &["/hosts"],
            silent: &["ghost-volume", "slot-arithmetic", "volume-on-two-guests", "host-cannot-take-worker"],
            action: nothing_known,
            ..minor("/api2/json/nodes", "hosts")
        },
        minor("/api2/json/version", "version"),
        Fault {
            null: &["/hosts/0/memory/total", "/hosts/0/memory/available", "/hosts/0/cpus", "/hosts/0/takes_worker"],
            silent: &["host-cannot-take-worker", "host-swapping"],
            action: no_host,
            ..minor("/api2/json/nodes/pve/status", "host pve: memory")
        },
        Fault {
            null: &[
                "/hosts/0/memory/committed",
                "/hosts/0/memory/committed_if_all_started",
                "/hosts/0/vcpus",
                "/hosts/0/guests_running",
            ],
            null_rows: &CONFIG_ROWS,
            silent: &GUEST_FINDINGS,
            action: ["insufficient-data", "scale-up"],
            ..minor("/api2/json/nodes/pve/qemu", "proxmox pve: guests")
        },
        Fault {
            null: &["/hosts/0/memory/committed", "/hosts/0/guests_running"],
            null_rows: &CONFIG_ROWS,
            silent: &GUEST_FINDINGS,
            action: ["insufficient-data", "scale-up"],
            ..minor("/api2/json/nodes/pve/lxc", "proxmox pve: guests")
        },
        Fault {
            null: &["/slots/0/real", "/slots/0/plugged", "/slots/0/occupied", "/slots/0/phantom", "/slots/0/free"],
            silent: &SLOT_FINDINGS,
            ..minor("/api2/json/nodes/pve/qemu/201/config", "guest 201 (k8s-node1): config")
        },
        minor("/api2/json/nodes/pve/storage", "host pve: storages"),
        minor("/api2/json/nodes/pve/tasks", "proxmox pve: failed tasks"),
        minor("/api2/json/nodes/pve/disks/lvmthin", "host pve: thin pools"),
    ]
}

#[test]
fn a_list_that_fails_is_named_and_nothing_rests_on_it() {
    let Some(data) = data() else { return };
    let faults = faults();
    let tested: BTreeSet<&str> = faults.iter().map(|fault| fault.path).collect();
    assert!(KUBE_LISTS.iter().all(|path| tested.contains(path)));
    for (place, name) in CLUSTERS.into_iter().enumerate() {
        let healthy = Cluster::start(&data, name, &[]);
        let history = with_history(&healthy);
        let before = history.run(&JSON).done().json();
        // A list that is read and not in the table would go untested.
        for request in healthy.requests() {
            let path = request["path"].as_str().expect("a path");
            let one_of_many = path.contains("/qemu/") || path.contains("rrddata") || path.starts_with("/prom");
            // Only who destroys or stops a VM asks for these.
            let of_removal = ["ha/resources", "replication", "backup"].iter().any(|end| path.ends_with(end));
            assert!(
                one_of_many || of_removal || path == "/api/v1/namespaces/kube-system" || tested.contains(path),
                "{path} is not tested"
            );
        }
        // Most of each report's time is the pause before a request is tried again.
        std::thread::scope(|scope| {
            for share in faults.chunks(faults.len().div_ceil(AT_ONCE)) {
                let (data, history, before) = (&data, &history, &before);
                scope.spawn(move || {
                    for fault in share {
                        let said = format!("{name}, {} failing", fault.path);
                        let cluster = Cluster::start(data, name, &["--fail", &format!("{}:500:1000", fault.path)]);
                        let world = cluster.world();
                        world.take_history(history);
                        let report = world.run(&JSON).done().json();
                        check(&said, fault, &report, before, fault.action[place]);
                    }
                });
            }
        });
    }
}

fn check(said: &str, fault: &Fault, report: &Value, before: &Value, action: &str) {
    match fault.unknown {
        Some(what) => {
            let unknown: Vec<&Value> = report["unknown"]
                .as_array()
                .expect("a list")
                .iter()
                .filter(|one| one["what"].as_str().is_some_and(|text| text.contains(what)))
                .collect();
            let path = fault.path.trim_start_matches("/api2/json");
            let named = unknown.iter().any(|one| one["why"].as_str().is_some_and(|why| why.contains(path)));
            assert!(named, "{said}: {}", report["unknown"]);
            let nameless = unknowns(report).iter().any(|what| what.contains("proxmox :"));
            assert!(!nameless, "{said}: {}", report["unknown"]);
        }
        // Whether the HA manager manages a guest is lost, which a report does not speak of.
        None if fault.path.ends_with("/status/current") => {
            for part in ["usages", "slots", "rules", "findings", "recommendation", "nodes", "hosts", "unknown"] {
                assert_eq!(report[part], before[part], "{said}: {part}");
            }
        }
        // Then nothing is lost: it is the same snapshot, to the byte.
        None => assert_eq!(report["snapshot"], before["snapshot"], "{said}"),
    }
    for pointer in fault.null {
        assert_eq!(report.pointer(pointer), Some(&Value::Null), "{said}: {pointer}");
    }
    for (list, field) in fault.null_rows {
        for one in report[*list].as_array().expect("a list") {
            assert_eq!(one.get(*field), Some(&Value::Null), "{said}: {field} of {one}");
        }
    }
    for pointer in fault.empty {
        assert_eq!(report.pointer(pointer).and_then(Value::as_array).map(Vec::len), Some(0), "{said}: {pointer}");
    }
    for rule in report["rules"].as_array().expect("a list") {
        let id = rule["id"].as_str().expect("an id");
        let was = row(&before["rules"], "id", id);
        if fault.open.contains(&id) {
            assert_eq!(rule["instant"], "insufficient-data", "{said}: {id}");
            assert_eq!(rule["evidence"]["value"], Value::Null, "{said}: {id}");
            assert_ne!(rule["sustained"], "met", "{said}: {id}");
        } else {
            let open = rule["instant"] == "insufficient-data";
            assert!(open || rule["instant"] == was["instant"], "{said}: {id}");
        }
        // What was not met may only become unknown, and the other way round.
        let sustained = &rule["sustained"];
        assert!(*sustained == was["sustained"] || sustained == "insufficient-data", "{said}: {id} is {sustained}");
    }
    let (found, were) = (findings(report), findings(before));
    let new: Vec<_> = found.difference(&were).collect();
    assert!(new.is_empty(), "{said}: {new:?}");
    for code in fault.silent {
        assert!(found.iter().all(|(one, _)| one != code), "{said}: {code}");
    }
    for slots in report["slots"].as_array().expect("a list") {
        let were = row(&before["slots"], "node", slots["node"].as_str().expect("a name"));
        let were: Vec<String> = were["mismatches"].as_array().expect("a list").iter().map(Value::to_string).collect();
        for one in slots["mismatches"].as_array().expect("a list") {
            assert!(were.contains(&one.to_string()), "{said}: the ledgers do not differ by {one}");
        }
        if slots["free"].is_null() {
            assert!(slots["why"].is_string(), "{said}: {slots}");
        }
    }
    for (now, was) in dimension_pairs(report, before) {
        assert!(now["used"].is_null() || now["used"] == was["used"], "{said}: {now} was {was}");
        assert!(now["used"].is_number() || now["note"].is_string(), "{said}: {now} does not say why");
    }
    let because = report["binding"]["because"].as_str().expect("some limit is known");
    for row in report["dimensions"].as_array().expect("a list").iter().filter(|row| row["used"].is_null()) {
        let name = row["name"].as_str().expect("a name");
        // Counts and sums that stop no pod, and what the two APIs never tell: said among the unknowns.
        let elsewhere = ["node-filesystem", "volume-attachments", "memory-limits", "host-memory-if-all-started", "evicted-pods"];
        let settled = because == "it is reached now" || elsewhere.contains(&name);
        assert!(settled || because.contains(name), "{said}: {name} may be fuller: {because}");
    }
    assert_eq!(report["recommendation"]["action"], action, "{said}: {}", report["recommendation"]);
}

/// Rows of the capacity table that are in both reports with the same holder or without one.
fn dimension_pairs<'a>(report: &'a Value, before: &'a Value) -> Vec<(&'a Value, &'a Value)> {
    let rows = |report: &'a Value| report["dimensions"].as_array().expect("a list");
    let same = |a: &Value, b: &Value| {
        a["name"] == b["name"] && a["scope"] == b["scope"] && (a["holder"] == b["holder"] || a["holder"] == "")
    };
    rows(report).iter().filter_map(|now| Some((now, rows(before).iter().find(|was| same(now, was))?))).collect()
}

#[test]
fn unknown_slots_are_not_shown_as_zero() {
    let Some(data) = data() else { return };
    for (path, fields) in [
        ("/api/v1/persistentvolumes", &["ghosts"][..]),
        ("/apis/storage.k8s.io/v1/volumeattachments", &["ghosts", "failing", "pending_detach"]),
        ("/api2/json/nodes/pve/qemu", &["ghosts", "foreign", "unused"]),
    ] {
        let cluster = Cluster::start(&data, "lun-incident", &["--fail", &format!("{path}:500:1000")]);
        let report = cluster.world().run(&["report", "--no-history", "--format", "json"]).done().json();
        for slots in report["slots"].as_array().expect("a list") {
            for field in fields {
                assert_eq!(slots[field], Value::Null, "{path}: {field} of {} is not known", slots["node"]);
            }
        }
    }
    let cluster = Cluster::start(&data, "lun-incident", &["--fail", "/api2/json/nodes/pve/disks/lvmthin:500:1000"]);
    let report = cluster.world().run(&["report", "--no-history", "--format", "json"]).done().json();
    assert_eq!(report["hosts"][0]["pools"], Value::Null, "whether there is a pool is not known");
}

#[test]
fn history_is_neither_read_nor_kept_for_a_cluster_of_unknown_identity() {
    let Some(data) = data() else { return };
    let cluster = Cluster::start(&data, "lun-incident", &["--fail", "/api/v1/namespaces:403:1000"]);
    let world = cluster.world();
    let report = world.run(&JSON).done().json();
    assert_eq!(report["cluster"], "");
    assert!(unknowns(&report).contains(&"history"), "{:?}", unknowns(&report));
    let kept: Vec<String> = world.files().into_iter().filter(|file| file.ends_with(".parquet")).collect();
    assert!(kept.is_empty(), "another cluster of unknown identity would take these for its own: {kept:?}");
}

#[test]
fn a_fault_that_passes_leaves_no_trace() {
    let Some(data) = data() else { return };
    let calm = Cluster::start(&data, "today", &[]).world_report();
    let faults = ["--fail", "/api/v1/pods:503:2", "--fail", "/api2/json/nodes/pve/qemu:596:2"];
    let cluster = Cluster::start(&data, "today", &faults);
    assert_eq!(cluster.world_report(), calm);
    let asked = cluster.requests().iter().filter(|request| request["path"] == "/api/v1/pods").count();
    assert_eq!(asked, 3, "twice in vain");
}

#[test]
fn a_slow_cluster_is_read_all_the_same() {
    let Some(data) = data() else { return };
    let calm = Cluster::start(&data, "today", &[]).world_report();
    assert_eq!(Cluster::start(&data, "today", &["--latency-ms", "50"]).world_report(), calm);
}

#[test]
fn a_single_certificate_that_calls_itself_an_authority_is_accepted_as_one() {
    let Some(data) = data() else { return };
    let cluster = Cluster::start_with(Certificates::own(), &data, "today", &[]);
    let mut world = cluster.world();
    world.unset("CAPPLAN_PVE_FINGERPRINT").set("CAPPLAN_PVE_CA_FILE", cluster.certificates.authority().display().to_string());
    let report = world.run(&["report", "--format", "json", "--no-history"]).done().json();
    assert_eq!(report["nodes"].as_array().map(Vec::len), Some(6));
    assert_eq!(report["hosts"].as_array().map(Vec::len), Some(1));

    // Another certificate of the same kind and name is not.
    let other = Certificates::own();
    world.kubeconfig(&cluster.url, Some(&other.authority()), KUBE_TOKEN);
    let report = world.run(&["report", "--format", "json", "--no-history"]).done().json();
    assert!(unknowns(&report).contains(&"nodes"), "{:?}", unknowns(&report));
    assert_eq!(report["recommendation"]["action"], "insufficient-data");
}

trait WorldReport {
    fn world_report(&self) -> Value;
}

impl WorldReport for Cluster {
    fn world_report(&self) -> Value {
        self.world().run(&["report", "--format", "json", "--no-history"]).done().json()
    }
}

/// Every text and every key of a JSON document.
fn texts(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::String(text) => drop(found.insert(text.clone())),
        Value::Array(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            found.insert(key.clone());
            texts(value, found);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[test]
fn an_anonymous_snapshot_holds_no_name_and_gives_the_same_answers() {
    let Some(data) = data() else { return };
    for name in ["today", "lun-incident"] {
        let mut world = World::new();
        let lists = data.join("clusters").join(name).display().to_string();
        world.set("CAPPLAN_NOW", "2026-08-20T09:00:00Z");
        let (plain, anonymous) = (world.path("plain").display().to_string(), world.path("anonymous").display().to_string());
        world.run(&["snapshot", "--from-lists", &lists, "-o", &plain]).ends(0);
        world.run(&["snapshot", "--from-lists", &lists, "--anonymise", "-o", &anonymous]).ends(0);
        let snapshot = capplan_provision::store::snapshot::load(plain.as_ref()).expect("just written").0;
        let renamed = capplan_provision::store::snapshot::load(anonymous.as_ref()).expect("just written").0;
        let mut left = BTreeSet::new();
        texts(&serde_json::to_value(&renamed).expect("JSON"), &mut left);
        // A name may be a word of Kubernetes or Proxmox VE, or that of a field.
        const WORDS: [&str; 4] = ["local-path", "nvidia", "pbs", "pve"];
        let parts: BTreeSet<&str> = left.iter().flat_map(|text| text.split(['/', ':', ' ', ',', '=', '^'])).collect();
        let kube = &snapshot.kube;
        let mut markers: BTreeSet<String> = BTreeSet::from([snapshot.cluster.clone()]);
        markers.extend(
            kube.nodes.items().iter().flat_map(|node| {
                node.internal_ips.iter().cloned().chain([node.name.to_string()]).chain(node.system_uuid.clone())
            }),
        );
        markers.extend(kube.pods.items().iter().flat_map(|pod| [pod.name.clone(), pod.uid.clone()]));
        markers.extend(kube.persistent_volumes.items().iter().map(|volume| volume.name.to_string()));
        markers.extend(kube.claims.items().iter().map(|claim| claim.name.clone()));
        markers.extend(kube.storage_classes.items().iter().map(|class| class.name.clone()));
        markers.extend(snapshot.guests().map(|guest| guest.name.clone()));
        markers.extend(snapshot.hosts().map(|host| host.name.to_string()));
        let namespaces = kube.namespaces.items().iter().map(|one| one.name.clone());
        markers.extend(namespaces.filter(|name| name != "default" && !name.starts_with("kube-")));
        markers.retain(|marker| !WORDS.contains(&marker.as_str()));
        let found: Vec<&String> = markers.iter().filter(|marker| parts.contains(marker.as_str())).collect();
        assert!(markers.len() > 50 && found.is_empty(), "{name}: {found:?}");

        // Names are no reason for another answer.
        let of = |path: &str| world.run(&["report", "--snapshot", path, "--no-history", "--format", "json"]).done().json();
        let (before, after) = (of(&plain), of(&anonymous));
        let codes = |report: &Value| -> Vec<String> {
            let mut codes: Vec<String> =
                report["findings"].as_array().into_iter().flatten().map(|one| one["code"].to_string()).collect();
            codes.sort();
            codes
        };
        assert_eq!(codes(&before), codes(&after), "{name}");
        assert_eq!(before["recommendation"]["action"], after["recommendation"]["action"], "{name}");
        for same in ["dimensions", "memory"] {
            let numbers = |report: &Value| serde_json::to_string(&report[same]["slots"]).expect("JSON");
            assert_eq!(numbers(&before), numbers(&after), "{name}");
        }
        let free = |report: &Value| -> Vec<Value> {
            let mut free: Vec<Value> = report["slots"].as_array().into_iter().flatten().map(|one| one["free"].clone()).collect();
            free.sort_by_key(Value::to_string);
            free
        };
        assert_eq!(free(&before), free(&after), "{name}");
    }
}
