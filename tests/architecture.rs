//! The walls between the crates, the licences of what we depend on, and what the repository may
//! not say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// The resolved dependencies of every platform or, where `cargo fetch` has not brought those of the
/// others (a fresh clone that was only built), of this one.
fn metadata() -> Value {
    let cargo = |arguments: &[&str]| {
        Command::new(env!("CARGO")).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo runs")
    };
    let asked = ["metadata", "--format-version", "1", "--locked", "--offline"];
    let mut output = cargo(&asked);
    if !output.status.success() {
        let version = cargo(&["-vV"]).stdout;
        let version = String::from_utf8_lossy(&version);
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo names its host");
        output = cargo(&[&asked[..], &["--filter-platform", host]].concat());
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo prints JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// Our crates and which of ours they depend on, tests included.
fn arrows(metadata: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: Vec<&Value> = packages.iter().filter(|package| package["source"].is_null()).collect();
    let names: BTreeSet<&str> = ours.iter().map(|package| text(package, "name")).collect();
    ours.iter()
        .map(|package| {
            let all = package["dependencies"].as_array().expect("dependencies");
            let own = all.iter().map(|one| text(one, "name")).filter(|name| names.contains(name)).map(str::to_owned);
            (text(package, "name").to_owned(), own.collect())
        })
        .collect()
}

#[test]
fn no_arrow_between_the_crates_points_the_wrong_way() {
    let expected = [
        // The rig is for the tests alone.
        ("capplan", vec!["capplan-model", "capplan-planner", "capplan-provision", "capplan-rig"]),
        ("capplan-fuzz", vec!["capplan-model", "capplan-planner", "capplan-provision", "capplan-rig"]),
        ("capplan-model", vec![]),
        ("capplan-planner", vec!["capplan-model"]),
        ("capplan-provision", vec!["capplan-model"]),
        ("capplan-rig", vec!["capplan-model"]),
    ];
    let expected: BTreeMap<String, BTreeSet<String>> =
        expected.into_iter().map(|(name, to)| (name.to_owned(), to.into_iter().map(str::to_owned).collect())).collect();
    assert_eq!(arrows(&metadata()), expected);
}

#[test]
fn the_pure_crates_depend_on_nothing_that_talks_to_the_world() {
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        if !["capplan-model", "capplan-planner"].contains(&text(package, "name")) {
            continue;
        }
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let name = text(dependency, "name");
            assert!(
                !["tokio", "reqwest", "kube", "polars", "hyper", "rand"].contains(&name),
                "{} → {name}",
                text(package, "name")
            );
        }
    }
}

#[test]
fn every_dependency_may_be_used_under_our_licences() {
    const ALLOWED: [&str; 14] = [
        "MIT",
        "MIT-0",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "ISC",
        "Zlib",
        "Unicode-3.0",
        "Unlicense",
        "CC0-1.0",
        "0BSD",
        "BSL-1.0",
        "CDLA-Permissive-2.0",
    ];
    /// Whether a licence expression can be satisfied by what is allowed: "or" needs one, "and" all.
    fn allowed(expression: &str) -> bool {
        let expression = expression.replace('/', " OR ");
        let plain = expression.replace(['(', ')'], "");
        plain.split(" OR ").any(|choice| choice.split(" AND ").all(|one| ALLOWED.contains(&one.trim())))
            || plain.split(" AND ").all(|part| part.split(" OR ").any(|one| ALLOWED.contains(&one.trim())))
    }
    let metadata = metadata();
    for package in metadata["packages"].as_array().expect("packages") {
        let licence = text(package, "license");
        assert!(allowed(licence), "{} is under `{licence}`", text(package, "name"));
    }
}

#[test]
fn the_lists_of_what_the_pure_crates_may_not_call_are_equal() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect(path);
    assert_eq!(read("crates/model/clippy.toml"), read("crates/planner/clippy.toml"));
}
