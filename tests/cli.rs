//! What a user meets: output on stdout, files, help, and the published format.

mod support;

use std::collections::BTreeSet;

use serde_json::Value;
use support::World;

const COMMANDS: [&str; 9] = ["report", "snapshot", "history", "init", "doctor", "policy", "schema", "completions", "man"];

fn demo(format: &str) -> Value {
    World::new().run(&["report", "--demo", "--format", format]).done().json()
}

#[test]
fn the_example_needs_nothing_and_fits_a_terminal_of_eighty_columns() {
    let mut world = World::new();
    let report = world.run(&["report", "--demo"]).done();
    assert_eq!(report.err, "");
    assert!(!report.out.contains('\u{1b}'), "no terminal, no colours");
    let long: Vec<&str> = report.out.lines().filter(|line| line.chars().count() > 80).collect();
    assert!(long.is_empty(), "{long:#?}");
    for heading in ["Capacity", "Volume slots", "Memory of the cluster", "Rules", "Findings", "Nodes", "Hosts", "Unknown"] {
        assert!(report.out.lines().any(|line| line.starts_with(heading)), "no section {heading}");
    }
    assert_eq!(world.files(), BTreeSet::new(), "an example leaves nothing behind");
    world.set("CLICOLOR_FORCE", "1");
    let coloured = world.run(&["report", "--demo"]).done();
    assert!(coloured.out.contains('\u{1b}'));
    world.unset("CLICOLOR_FORCE").set("NO_COLOR", "1");
    assert_eq!(world.run(&["report", "--demo"]).done().out, report.out);
}

#[test]
fn a_signal_at_a_prompt_gives_the_terminal_back() {
    use rustix::process::{Pid, Signal, kill_process};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, tcgetattr};
    use std::io::Read;

    for signal in [Signal::TERM, Signal::HUP, Signal::INT] {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("text");
        let terminal = || std::fs::File::options().read(true).write(true).open(&name).expect("its other end");
        let other_end = terminal();
        let mut world = World::new();
        world.set("TERM", "xterm");
        let mut command = world.command(&["init", "--pve-fingerprint", "AA"]);
        let mut child = command.stdin(terminal()).stdout(terminal()).stderr(terminal()).spawn().expect("it starts");
        let is_cooked = || tcgetattr(&other_end).expect("a terminal").local_modes.contains(LocalModes::ICANON | LocalModes::ECHO);
        let begun = std::time::Instant::now();
        while is_cooked() {
            assert!(begun.elapsed().as_secs() < 30, "it never asked");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        kill_process(Pid::from_child(&child), signal).expect("a child of ours");
        assert_eq!(child.wait().expect("a child").code(), Some(4), "{signal:?}");
        assert!(is_cooked(), "{signal:?} leaves the terminal as it was at the prompt");
        drop((command, other_end));
        // A terminal hands over what was written in pieces. Once its other end is closed, the last read fails.
        let mut said = Vec::new();
        drop(std::fs::File::from(master).read_to_end(&mut said));
        let said = String::from_utf8_lossy(&said);
        assert!(said.contains("nothing was written"), "{signal:?}: {said}");
        assert_eq!(world.files(), BTreeSet::new());
    }
}

#[test]
fn two_runs_print_the_same_bytes() {
    for format in ["text", "markdown", "json", "csv"] {
        let [one, two] = [0, 1].map(|_| World::new().run(&["report", "--demo", "--format", format]).done().out);
        assert_eq!(one, two, "{format}");
    }
}

#[test]
fn a_report_is_valid_by_its_schema() {
    let schema = World::new().run(&["schema", "report"]).done().json();
    let validator = jsonschema::validator_for(&schema).expect("a schema");
    let scenarios = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
    for entry in std::fs::read_dir(scenarios).expect("the folder of scenarios") {
        let path = entry.expect("readable").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let path = path.display().to_string();
        let report = World::new().run(&["report", "--format", "json", "--scenario", &path]).done().json();
        let errors: Vec<String> =
            validator.iter_errors(&report).map(|error| format!("{}: {error}", error.instance_path)).collect();
        assert!(errors.is_empty(), "{path}: {errors:#?}");
    }
    let mut other = demo("json");
    other["recommendation"]["action"] = "scale-sideways".into();
    assert!(!validator.is_valid(&other), "the schema tells right from wrong");
}

#[test]
fn every_stable_name_of_the_format_is_there() {
    let report = demo("json");
    assert_eq!(report["format"], "capplan.report/1");
    let names: [(&str, &[&str]); 16] = [
        ("/recommendation", &["action", "because", "rejected"]),
        ("/findings/0", &["code", "severity", "subject", "evidence", "advice"]),
        ("/rules/0", &["id", "direction", "instant", "sustained"]),
        ("/slots/0", &["node", "advertised", "real", "attached", "plugged", "ghosts", "phantom", "free"]),
        ("/memory/requests", &["all_nodes", "workers", "general"]),
        ("/memory/limits", &["all_nodes", "workers", "general"]),
        ("/hosts/0", &["name", "memory", "pools"]),
        ("/hosts/0/memory", &["total", "committed", "available"]),
        ("/hosts/0/pools/0", &["name", "data", "metadata"]),
        ("/hosts/0/pools/0/data", &["used", "size"]),
        ("/hosts/0/pools/0/metadata", &["used", "size"]),
        ("/dimensions/0", &["name", "scope", "used", "limit", "unit", "holder"]),
        ("/binding", &["dimension", "holder"]),
        ("/unknown/0", &["what", "why"]),
        ("/nodes/0", &["name"]),
        ("", &["at", "snapshot", "history", "node_loss"]),
    ];
    for (pointer, names) in names {
        let object = report.pointer(pointer).and_then(Value::as_object);
        let object = object.unwrap_or_else(|| panic!("no object at {pointer}"));
        for name in names {
            assert!(object.contains_key(*name), "no `{name}` at {pointer}");
        }
    }
    for rule in report["rules"].as_array().expect("a list") {
        for verdict in ["instant", "sustained"] {
            assert!(["met", "not-met", "insufficient-data"].map(Value::from).contains(&rule[verdict]), "{rule}");
        }
    }
    let severities: BTreeSet<&str> =
        report["findings"].as_array().expect("a list").iter().filter_map(|finding| finding["severity"].as_str()).collect();
    assert!(severities.is_subset(&BTreeSet::from(["critical", "warning", "info"])), "{severities:?}");
}

#[test]
fn the_capacity_table_comes_as_csv() {
    let text = World::new().run(&["report", "--demo", "--format", "csv"]).done().out;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let head = reader.headers().expect("a head").clone();
    for column in ["dimension", "scope", "used", "limit", "unit", "holder"] {
        assert!(head.iter().any(|one| one == column), "no {column} in {head:?}");
    }
    let place = |column: &str| head.iter().position(|one| one == column).expect("just seen");
    let rows: Vec<csv::StringRecord> = reader.records().collect::<Result<_, _>>().expect("every row has every column");
    let report = demo("json");
    let dimensions = report["dimensions"].as_array().expect("a list");
    assert_eq!(rows.len(), dimensions.len());
    for (row, shown) in rows.iter().zip(dimensions) {
        assert_eq!(row[place("dimension")], shown["name"]);
        assert_eq!(row[place("scope")], shown["scope"]);
        // An unknown is an empty cell, never a zero.
        assert_eq!(row[place("used")].parse().ok(), shown["used"].as_f64(), "{row:?}");
    }
}

#[test]
fn markdown_has_the_table_of_shapes() {
    let text = World::new().run(&["report", "--demo", "--format", "markdown"]).done().out;
    let mut tables: Vec<Vec<&str>> = Vec::new();
    for (before, line) in std::iter::once("").chain(text.lines()).zip(text.lines()) {
        match line.starts_with('|') {
            true if before.starts_with('|') => tables.last_mut().expect("just begun").push(line),
            true => tables.push(vec![line]),
            false => {}
        }
    }
    let columns = |line: &str| line.replace("\\|", "").matches('|').count();
    for table in &tables {
        assert!(table.iter().all(|line| columns(line) == columns(table[0])), "{table:#?}");
    }
    let report = demo("json");
    let nodes = report["nodes"].as_array().expect("a list");
    let shapes = tables.iter().find(|table| {
        table.len() == nodes.len() + 2
            && nodes.iter().zip(&table[2..]).all(|(node, line)| {
                line.contains(node["name"].as_str().expect("a name")) && line.contains(&node["vmid"].to_string())
            })
    });
    assert!(shapes.is_some(), "{text}");
}

#[test]
fn a_folder_gets_the_report_in_three_forms() {
    let world = World::new();
    let outcome = world.run(&["report", "--demo", "--out", "new/folder"]).done();
    assert_eq!(outcome.out, "");
    let names = ["report.html", "report.json", "report.md"].map(|name| format!("work/new/folder/{name}"));
    assert_eq!(world.files(), names.clone().into());
    let read = |name: &str| std::fs::read_to_string(world.path(name)).expect("readable");
    assert_eq!(serde_json::from_str::<Value>(&read(&names[1])).expect("JSON"), demo("json"));
    assert_eq!(read(&names[2]), World::new().run(&["report", "--demo", "--format", "markdown"]).out);
    let page = read(&names[0]);
    assert!(page.starts_with("<!doctype html>"), "{}", &page[..40]);
    // A page of its own: nothing is fetched.
    assert!(!page.contains("src=\"http") && !page.contains("href=\"http"));
}

#[test]
fn completions_and_man_pages_are_generated() {
    let world = World::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = world.run(&["completions", shell]).done().out;
        for command in COMMANDS {
            assert!(script.contains(command), "{shell}: {command}");
        }
        assert!(script.contains("planned-volumes"), "{shell}");
    }
    world.run(&["man", "pages"]).done();
    let pages = world.files();
    for command in COMMANDS {
        assert!(pages.contains(&format!("work/pages/capplan-{command}.1")), "{pages:?}");
    }
    let page = std::fs::read_to_string(world.path("work/pages/capplan.1")).expect("readable");
    assert!(page.contains(".TH") && page.contains("Exit codes"), "{page}");
}

#[test]
fn init_writes_a_file_that_the_other_commands_accept_and_replaces_none() {
    let mut world = World::new();
    world.set("CAPPLAN_PVE_TOKEN", "capplan@pve!ci=key");
    let fingerprint = vec!["AB"; 32].join(":");
    let init = [
        "init",
        "--no-input",
        "--pve-url",
        "https://127.0.0.1:1",
        "--pve-fingerprint",
        &fingerprint,
        "--prometheus-url",
        "http://127.0.0.1:1",
    ];
    let outcome = world.run(&init).done();
    assert_eq!(outcome.out, "");
    let file = ".config/capplan/config.toml";
    assert_eq!(world.files(), BTreeSet::from([file.to_owned()]));
    let text = std::fs::read_to_string(world.path(file)).expect("readable");
    assert!(text.contains("https://127.0.0.1:1") && text.contains(&fingerprint));
    assert!(!text.contains("ci=key"), "secrets never stand in the file");
    text.parse::<toml::Table>().expect("TOML");

    world.run(&["report", "--demo"]).done();
    let doctor = world.run(&["doctor"]).ends(1);
    assert!(doctor.out.contains(file), "{}", doctor.out);
    assert!(doctor.out.contains("Proxmox VE https://127.0.0.1:1"), "{}", doctor.out);

    world.run(&init).ends(2).says(&["config.toml exists", "hint: ", "--force"]);
    assert_eq!(std::fs::read_to_string(world.path(file)).expect("readable"), text);
    world.run(&["init", "--no-input", "--force", "--pve-url", "https://127.0.0.1:2"]).done();
    let text = std::fs::read_to_string(world.path(file)).expect("readable");
    assert!(text.contains("https://127.0.0.1:2") && !text.contains(&fingerprint));

    let world = World::new();
    world.run(&["init", "--no-input"]).ends(2).says(&["address of Proxmox VE is missing", "hint: ", "--pve-url"]);
    assert_eq!(world.files(), BTreeSet::new());
}

#[test]
fn a_name_with_quotes_is_written_as_one() {
    let mut world = World::new();
    world.set("CAPPLAN_PVE_TOKEN", "capplan@pve!ci=key");
    let odd = "/tmp/a \"quoted\" \\ name\nx = 1";
    let init = ["init", "--no-input", "--pve-url", "https://127.0.0.1:1", "--pve-token-file", odd, "--context", "a\"b"];
    world.run(&init).done();
    let text = std::fs::read_to_string(world.path(".config/capplan/config.toml")).expect("readable");
    let table: toml::Table = text.parse().expect("TOML");
    assert_eq!(table["proxmox"][0]["token_file"].as_str(), Some(odd));
    assert_eq!(table["kubernetes"]["context"].as_str(), Some("a\"b"));
}

#[test]
fn the_printed_policy_is_accepted_and_a_change_in_it_matters() {
    let world = World::new();
    let policy = world.run(&["policy"]).done().out;
    world.write("work/policy.toml", &policy);
    let with = |arguments: &[&str]| world.run(&[&["report", "--demo"], arguments].concat()).done().out;
    assert_eq!(with(&["--policy", "policy.toml"]), with(&[]));
    assert!(policy.contains("\">= 25\""));
    world.write("work/policy.toml", policy.replace("\">= 25\"", "\">= 26\""));
    let report: Value = serde_json::from_str(&with(&["--policy", "policy.toml", "--format", "json"])).expect("JSON");
    assert_eq!(support::row(&report["rules"], "id", "slots-high")["when"], ">= 26");
}

#[test]
fn every_command_explains_itself() {
    let world = World::new();
    let help = world.run(&["--help"]).done().out;
    assert!(help.contains("Exit codes"), "{help}");
    for command in COMMANDS {
        assert!(help.contains(command), "{command}");
        for flag in ["--help", "-h"] {
            let outcome = world.run(&[command, flag]).done();
            assert!(outcome.out.contains("Usage: capplan") && outcome.err.is_empty(), "{command}: {}", outcome.out);
        }
    }
    for command in ["import", "export", "show"] {
        world.run(&["history", command, "--help"]).done();
    }
    assert!(world.run(&["--version"]).done().out.starts_with("capplan "));
    let outcome = world.run(&[]);
    assert_eq!((outcome.code, outcome.out.as_str()), (2, ""));
    assert_eq!(world.files(), BTreeSet::new());
}

#[test]
fn roles_are_printed_without_a_connection() {
    let roles = World::new().run(&["doctor", "--print-roles"]).done().out;
    for kind in ["volumeattachments", "csinodes", "pods", "poddisruptionbudgets"] {
        assert!(roles.contains(kind), "{kind}");
    }
    assert!(roles.contains("ClusterRole") && roles.contains("# On a Proxmox VE host"));
    for line in roles.lines().filter(|line| line.contains("verbs:")) {
        assert!(line.contains("list"), "{line}");
        for verb in ["create", "update", "patch", "delete", "*"] {
            assert!(!line.contains(verb), "a reader may not {verb}: {line}");
        }
    }
}

#[cfg(unix)]
#[test]
fn a_reader_that_hangs_up_is_no_error() {
    let world = World::new();
    let mut child = world
        .command(&["report", "--demo", "--format", "json"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary runs");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
