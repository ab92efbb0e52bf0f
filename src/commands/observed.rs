//! Where a command's snapshot comes from: the two APIs, a file, or the embedded example.

use std::path::{Path, PathBuf};

use capplan_model::Snapshot;
use capplan_model::change::Change;
use capplan_model::history::History;
use capplan_model::ids::SnapshotId;
use capplan_model::scenario::Scenario;
use capplan_provision::observe;
use capplan_provision::store;
use jiff::Timestamp;

use crate::config::Config;
use crate::ui::{CliError, Exit, Progress};

/// The embedded example.
const DEMO: &str = include_str!("../../scenarios/demo.toml");

/// What to look at.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct From {
    /// Read a snapshot file instead of the two APIs
    #[arg(long, value_name = "FILE", conflicts_with_all = ["demo", "scenario", "from_lists"])]
    pub snapshot: Option<PathBuf>,
    /// Read saved lists instead: a folder of `kubectl get … -A -o json` files, named by their plurals
    #[arg(long, value_name = "DIR", conflicts_with_all = ["demo", "scenario"])]
    pub from_lists: Option<PathBuf>,
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
    /// Its hash, if it came with it.
    known_id: Option<SnapshotId>,
    /// History that came with it: an example's own.
    pub history: Option<History>,
    /// Changes that came with it: a scenario's.
    pub changes: Vec<Change>,
    /// Whether it was read from the APIs just now.
    pub live: bool,
}

impl Observed {
    fn of(snapshot: Snapshot) -> Self {
        Self { snapshot, known_id: None, history: None, changes: Vec::new(), live: false }
    }

    /// Its hash, which takes as long as writing it.
    pub fn id(&self) -> SnapshotId {
        self.known_id.clone().unwrap_or_else(|| self.snapshot.id())
    }
}

impl From {
    /// Gets the snapshot.
    pub async fn observe(&self, config: &Config) -> Result<Observed, CliError> {
        if let Some(path) = &self.snapshot {
            return saved(path);
        }
        if let Some(folder) = &self.from_lists {
            return Ok(Observed::of(from_lists(folder, config)?));
        }
        if let Some(path) = &self.scenario {
            let text = std::fs::read_to_string(path)
                .map_err(|error| CliError::new(Exit::Usage, format!("cannot read the scenario {}: {error}", path.display())))?;
            return scenario(&path.display().to_string(), &text, path.parent());
        }
        if self.demo {
            return scenario("the embedded example", DEMO, None);
        }
        Ok(Observed { live: true, ..Observed::of(live(config).await?) })
    }
}

fn saved(path: &Path) -> Result<Observed, CliError> {
    let (snapshot, id) = store::snapshot::load(path).map_err(|error| {
        let error = CliError::from_error(Exit::Unexpected, &error);
        error.hint("make a new one with `capplan snapshot -o FILE`; one of a newer capplan needs that capplan")
    })?;
    Ok(Observed { known_id: Some(id), ..Observed::of(snapshot) })
}

/// A scenario; one that starts from a captured snapshot finds it from its own folder on.
fn scenario(name: &str, text: &str, folder: Option<&Path>) -> Result<Observed, CliError> {
    let scenario = Scenario::parse(text).map_err(|error| CliError {
        causes: vec![error.to_string().trim_end().to_owned()],
        ..CliError::new(Exit::Usage, format!("cannot use {name}"))
    })?;
    let observed = match &scenario.snapshot {
        Some(path) => saved(&folder.unwrap_or(Path::new(".")).join(path))?,
        None => Observed::of(scenario.snapshot()),
    };
    Ok(Observed { history: Some(scenario.history()), changes: scenario.changes, ..observed })
}

/// Builds both planes from a folder of saved lists.
pub fn from_lists(folder: &Path, config: &Config) -> Result<Snapshot, CliError> {
    if !folder.is_dir() {
        return Err(CliError::new(Exit::Usage, format!("{} is no folder", folder.display())));
    }
    Ok(observe::from_lists(folder, instant_of(folder, config)))
}

/// When saved lists were saved: `CAPPLAN_NOW`, or the time stamp of the list of nodes.
fn instant_of(folder: &Path, config: &Config) -> Timestamp {
    let modified = || std::fs::metadata(folder.join("nodes.json")).and_then(|file| file.modified()).ok();
    config.pinned.or_else(|| Timestamp::try_from(modified()?).ok()).unwrap_or_else(Timestamp::now)
}

/// Reads both planes now.
pub async fn live(config: &Config) -> Result<Snapshot, CliError> {
    let taken = config.now();
    if config.proxmox.is_empty() {
        return Err(CliError::new(Exit::Usage, "no Proxmox VE endpoint is configured")
            .hint("set CAPPLAN_PVE_URL and CAPPLAN_PVE_TOKEN, or run `capplan init`")
            .hint("`capplan report --demo` needs no cluster"));
    }
    let progress = Progress::start("reading");
    let reading = |what: &str| progress.reading(what);
    observe::observe(&config.kubernetes, &config.proxmox, taken, &reading).await.map_err(|error| unobserved(&error))
}

/// Nothing could be read.
pub fn unobserved(error: &observe::ObserveError) -> CliError {
    let exit = if matches!(error, observe::ObserveError::Endpoint(_)) { Exit::Usage } else { Exit::Unexpected };
    CliError::from_error(exit, error).hint_if(error.hint())
}
