//! The same observation from saved answers, for a cluster that cannot be reached from here.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;

use capplan_model::pve::Pve;
use serde_json::Value;

use super::answers::{Answers, Failure, ROUNDS, Request};
use super::observe::assemble;
use super::wire::PendingRow;

/// Builds the plane from a folder of saved answers.
///
/// A file is named after the path it was read from, with `_` for `/`: `/nodes/pve/status` is
/// `nodes_pve_status.json`. It holds `{"data": …}` as the API answers, or the bare data as
/// `pvesh get /nodes/pve/status --output-format json` prints. What is missing is unknown, by the
/// name of its file; but a folder without `/nodes` takes the hosts from `/cluster/resources`, and
/// one without `…/lxc` has no containers.
pub fn from_files(dir: &Path) -> Pve {
    let mut answers = Answers::default();
    for round in ROUNDS {
        let requests = round(&answers);
        answers.extend(requests.into_iter().map(|request| {
            let answer = answer(dir, &request);
            (request, answer)
        }));
    }
    assemble("", &answers)
}

fn answer(dir: &Path, request: &Request) -> Result<Value, Failure> {
    if let Some(guest) = request.path.strip_suffix("/config").filter(|_| request.query.contains(&("current", "1"))) {
        // A saved configuration has pending changes merged in; `pending` tells what is in force.
        match load(dir, &format!("{guest}/pending")) {
            Err(Failure::Missing(_)) => {}
            pending => return in_force(&request.path, pending?),
        }
    }
    load(dir, &request.path)
}

fn in_force(path: &str, pending: Value) -> Result<Value, Failure> {
    let rows: Vec<PendingRow> =
        serde_json::from_value(pending).map_err(|error| Failure::Failed(format!("pending changes of {path}: {error}")))?;
    let options: BTreeMap<String, String> = rows.into_iter().filter_map(|row| Some((row.key?, row.value?))).collect();
    serde_json::to_value(options).map_err(|error| Failure::Failed(error.to_string()))
}

fn load(dir: &Path, path: &str) -> Result<Value, Failure> {
    let name = format!("{}.json", path.trim_start_matches('/').replace('/', "_"));
    let file = dir.join(&name);
    let bytes = std::fs::read(&file).map_err(|error| {
        if error.kind() == ErrorKind::NotFound {
            Failure::Missing(format!("{name} is not in {}", dir.display()))
        } else {
            Failure::Failed(format!("cannot read {}: {error}", file.display()))
        }
    })?;
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|error| Failure::Failed(format!("{} is not JSON: {error}", file.display())))?;
    match value {
        Value::Object(mut object) if is_envelope(&object) => Ok(object.remove("data").unwrap_or_default()),
        bare @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => {
            Ok(bare)
        }
    }
}

/// Beside `data`, the API sends `total`, `changes`, `message` and `success` at most.
fn is_envelope(object: &serde_json::Map<String, Value>) -> bool {
    object.contains_key("data")
        && object.keys().all(|key| ["data", "total", "changes", "message", "success"].contains(&key.as_str()))
}
