//! Where a command's snapshot comes from: the two APIs, a file, or the embedded example.

use std::path::PathBuf;

use capplan_model::Snapshot;
use capplan_model::history::History;
use capplan_model::ids::SnapshotId;
use capplan_model::scenario::Scenario;
use capplan_provision::observe;
use capplan_provision::store;

use crate::config::{Config, now};
use crate::ui::{CliError, Exit, Progress};

/// The embedded example.
const DEMO: &str = include_str!("../../scenarios/demo.toml");

/// What to look at.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct From {
    /// Read a snapshot file instead of the two APIs
    #[arg(long, value_name = "FILE", conflicts_with_all = ["demo", "scenario"])]
    pub snapshot: Option<PathBuf>,
    /// Look at the embedded example cluster: no connection is needed
    #[arg(long, conflicts_with = "scenario")]
    pub demo: bool,
    /// Look at a cluster in short form (a scenario file)
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
}

/// A snapshot, and the history that comes with it, if any does.
pub struct Observed {
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Its hash.
    pub id: SnapshotId,
    /// History that came with it: an example's own.
    pub history: Option<History>,
    /// Whether it was read from the APIs just now.
    pub live: bool,
}

impl From {
    /// Gets the snapshot.
    pub async fn observe(&self, config: &Config) -> Result<Observed, CliError> {
        if let Some(path) = &self.snapshot {
            let (snapshot, id) = store::snapshot::load(path).map_err(|error| {
                let error = CliError::from_error(Exit::Unexpected, &error);
                error.hint("make a new one with `capplan snapshot -o FILE`; one of a newer capplan needs that capplan")
            })?;
            return Ok(Observed { snapshot, id, history: None, live: false });
        }
        let text = match &self.scenario {
            Some(path) => Some((
                path.display().to_string(),
                std::fs::read_to_string(path).map_err(|error| {
                    CliError::new(Exit::Usage, format!("cannot read the scenario {}: {error}", path.display()))
                })?,
            )),
            None => self.demo.then(|| ("the embedded example".to_owned(), DEMO.to_owned())),
        };
        if let Some((name, text)) = text {
            let scenario = Scenario::parse(&text).map_err(|error| CliError {
                causes: vec![error.to_string().trim_end().to_owned()],
                ..CliError::new(Exit::Usage, format!("cannot use {name}"))
            })?;
            let snapshot = scenario.snapshot();
            return Ok(Observed { id: snapshot.id(), snapshot, history: Some(scenario.history()), live: false });
        }
        let snapshot = live(config).await?;
        Ok(Observed { id: snapshot.id(), snapshot, history: None, live: true })
    }
}

/// Reads both planes now.
pub async fn live(config: &Config) -> Result<Snapshot, CliError> {
    let taken = now()?;
    if config.proxmox.is_empty() {
        return Err(CliError::new(Exit::Usage, "no Proxmox VE endpoint is configured")
            .hint("set CAPPLAN_PVE_URL and CAPPLAN_PVE_TOKEN, or run `capplan init`")
            .hint("`capplan report --demo` needs no cluster"));
    }
    let progress = Progress::start("reading");
    let reading = |what: &str| progress.reading(what);
    observe::observe(&config.kubernetes, &config.proxmox, taken, &reading).await.map_err(|error| {
        let hint = error.hint();
        let exit = if matches!(error, observe::ObserveError::Endpoint(_)) { Exit::Usage } else { Exit::Unexpected };
        let error = CliError::from_error(exit, &error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    })
}
