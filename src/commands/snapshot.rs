//! `capplan snapshot`.

use std::path::PathBuf;

use capplan_provision::store;

use super::observed::{from_lists, live};
use crate::config::{Config, Options};
use crate::ui::{CliError, Exit, note};

/// Save both planes to one file
///
/// Reads both APIs (GET only) and writes one compressed, redacted file that every other command
/// accepts with --snapshot. Secrets and ConfigMaps are never read. What cannot be read is recorded
/// as unknown, with the reason.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File to write [default: capplan-DATE.snapshot]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Build it from saved lists instead: `kubectl get … -A -o json` in DIR, PVE answers in DIR/pve
    #[arg(long, value_name = "DIR")]
    from_lists: Option<PathBuf>,
    /// Replace names, addresses, handles, label values and the words of messages by stable pseudonyms
    ///
    /// The file can be attached to a bug report: structure, numbers and times stay, and so do the words of Kubernetes and
    /// Proxmox VE.
    #[arg(long)]
    anonymise: bool,
}

/// Runs the command.
pub(super) async fn run(options: &Options, args: &Args) -> Result<Exit, CliError> {
    let config = Config::load(options)?;
    let snapshot = match &args.from_lists {
        Some(folder) => from_lists(folder, &config)?,
        None => live(&config).await?,
    };
    let snapshot = match args.anonymise {
        true => snapshot.anonymous().map_err(|error| CliError::from_error(Exit::Unexpected, &error))?,
        false => snapshot,
    };
    let name = format!("capplan-{}.snapshot", snapshot.taken.strftime("%Y-%m-%dT%H%M%SZ"));
    let path = args.output.clone().unwrap_or_else(|| name.into());
    let id = store::snapshot::save(&snapshot, &path).map_err(|error| CliError::from_error(Exit::Unexpected, &error))?;
    note(format!("wrote {} ({id})", path.display()));
    for (what, why) in snapshot.unknowns() {
        note(format!("unknown: {what}: {why}"));
    }
    // The process ends here; giving back 150,000 pods one by one takes longer than that.
    std::mem::forget(snapshot);
    Ok(Exit::Done)
}
