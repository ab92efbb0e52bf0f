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

/// Lists of a generated cluster of `nodes` nodes and thirty times as many pods.
pub fn lists(data: &Path, folder: &Path, nodes: usize) -> PathBuf {
    let lists = folder.join(format!("lists-{nodes}"));
    if !lists.join("expect.json").exists() {
        let generator = data.join("tools/bench/gen_cluster.py");
        let arguments = [nodes.to_string(), "30".to_owned()];
        let done = Command::new("python3").arg(generator).arg(&lists).args(arguments).stdout(Stdio::null()).status();
        assert!(done.is_ok_and(|status| status.success()), "the generator runs");
    }
    lists
}
