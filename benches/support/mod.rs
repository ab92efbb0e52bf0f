//! What the benches share: when they run, and the generated clusters.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Measures `clusters(data, folder)`, if `CAPPLAN_TEST_DATA` names the data, and then `rest(folder)`.
///
/// `cargo test --benches` runs benches with `--test`: nothing is timed then.
pub fn measure(clusters: fn(&Path, &Path), rest: fn(&Path)) {
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench");
    fs::create_dir_all(&folder).expect("writable");
    match std::env::var_os("CAPPLAN_TEST_DATA") {
        Some(data) => clusters(Path::new(&data), &folder),
        None => println!("skipped: CAPPLAN_TEST_DATA is not set"),
    }
    rest(&folder);
}

/// Lists of a generated cluster: so many nodes, pods a node, pods a workload.
pub fn lists(data: &Path, folder: &Path, nodes: usize, pods: usize, replicas: usize) -> PathBuf {
    let lists = folder.join(format!("lists-{nodes}-{pods}-{replicas}"));
    if !lists.join("expect.json").exists() {
        let generator = data.join("tools/bench/gen_cluster.py");
        let arguments = [nodes.to_string(), pods.to_string()];
        let mut command = Command::new("python3");
        command.arg(generator).arg(&lists).args(arguments).env("REPL", replicas.to_string());
        let done = command.stdout(Stdio::null()).status();
        assert!(done.is_ok_and(|status| status.success()), "the generator runs");
    }
    lists
}
