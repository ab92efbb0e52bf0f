//! `capplan snapshot`.

use std::path::PathBuf;

use capplan_provision::{observe, store};
use jiff::Timestamp;

use super::observed::live;
use crate::config::{Config, Options, now};
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
}

/// Runs the command.
pub(super) async fn run(options: &Options, args: &Args) -> Result<Exit, CliError> {
    let config = Config::load(options)?;
    let snapshot = match &args.from_lists {
        Some(folder) => {
            if !folder.is_dir() {
                return Err(CliError::new(Exit::Usage, format!("{} is no folder", folder.display())));
            }
            observe::from_lists(folder, instant_of(folder)?)
        }
        None => live(&config).await?,
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

/// When saved lists were saved: `CAPPLAN_NOW`, or the time stamp of the list of nodes.
fn instant_of(folder: &std::path::Path) -> Result<Timestamp, CliError> {
    if std::env::var_os("CAPPLAN_NOW").is_some() {
        return now();
    }
    let modified = std::fs::metadata(folder.join("nodes.json")).and_then(|file| file.modified());
    match modified.ok().and_then(|at| Timestamp::try_from(at).ok()) {
        Some(at) => Ok(at),
        None => now(),
    }
}
