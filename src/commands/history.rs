//! `capplan history`, and what `report` does with the history.

use std::path::PathBuf;

use capplan_model::Snapshot;
use capplan_model::capacity::Dimension;
use capplan_model::history::{History, Sample, coverage};
use capplan_planner::capacity::samples;
use capplan_provision::observe::causes;
use capplan_provision::prometheus::import;
use capplan_provision::store::history::Archive as Files;
use capplan_provision::{kube, pve};
use clap::{Subcommand, ValueEnum};
use jiff::{SignedDuration, Timestamp};

use super::observed::Observed;
use crate::config::{Config, Options};
use crate::ui::{CliError, Exit, Progress, note};

/// Days that the longest window of the built-in policy needs.
const DAYS: u32 = 30;

/// The samples that sustained rules and forecasts rest on
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: HistoryCommand,
}

#[derive(Debug, Subcommand)]
enum HistoryCommand {
    /// Fill the history from Prometheus and from PVE's own round-robin data
    Import {
        /// Days to go back
        #[arg(long, default_value_t = DAYS, value_name = "DAYS")]
        days: u32,
        /// Take the cluster's identity from a snapshot file instead of the Kubernetes API
        #[arg(long, value_name = "FILE")]
        snapshot: Option<PathBuf>,
    },
    /// Print every sample
    Export {
        /// How
        #[arg(long, value_enum, default_value_t)]
        format: ExportFormat,
        /// Take the cluster's identity from a snapshot file instead of the Kubernetes API
        #[arg(long, value_name = "FILE")]
        snapshot: Option<PathBuf>,
    },
    /// Say what the history holds
    Show {
        /// Take the cluster's identity from a snapshot file instead of the Kubernetes API
        #[arg(long, value_name = "FILE")]
        snapshot: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum ExportFormat {
    /// Comma-separated values
    #[default]
    Csv,
}

/// Runs the command.
pub(super) async fn run(options: &Options, args: &Args) -> Result<Exit, CliError> {
    let config = Config::load(options)?;
    match &args.command {
        HistoryCommand::Import { days, snapshot } => {
            let archive = archive(&config, snapshot.as_ref()).await?;
            import_all(&config, &archive, *days).await
        }
        HistoryCommand::Export { format: ExportFormat::Csv, snapshot } => {
            let (history, unread) = archive(&config, snapshot.as_ref()).await?.read();
            super::print(&csv(&history).map_err(|error| CliError::from_error(Exit::Unexpected, &error))?)?;
            Ok(report_unread(&unread))
        }
        HistoryCommand::Show { snapshot } => {
            let archive = archive(&config, snapshot.as_ref()).await?;
            let (history, unread) = archive.read();
            super::print(&summary(&archive, &history))?;
            Ok(report_unread(&unread))
        }
    }
}

fn report_unread(unread: &[(String, String)]) -> Exit {
    for (what, why) in unread {
        note(format!("unknown: {what}: {why}"));
    }
    if unread.is_empty() { Exit::Done } else { Exit::Unexpected }
}

/// Why there is no history of a cluster without identity.
pub(crate) const NO_IDENTITY: &str =
    "which cluster it is was not read (the namespace kube-system), and another one's history must not pass for its own";

async fn archive(config: &Config, snapshot: Option<&PathBuf>) -> Result<Archive, CliError> {
    let cluster = cluster(config, snapshot).await?;
    Archive::of(config, &cluster).ok_or_else(|| CliError {
        causes: vec![NO_IDENTITY.to_owned()],
        ..CliError::new(Exit::Unexpected, "cannot tell whose history to use")
    })
}

/// The UID of the `kube-system` namespace: which cluster's history it is.
async fn cluster(config: &Config, snapshot: Option<&PathBuf>) -> Result<String, CliError> {
    if let Some(path) = snapshot {
        let (snapshot, _) =
            capplan_provision::store::snapshot::load(path).map_err(|error| CliError::from_error(Exit::Unexpected, &error))?;
        return Ok(snapshot.cluster);
    }
    let failed = |error: kube::KubeError| CliError::from_error(Exit::Unexpected, &error).hint_if(error.hint());
    let reader = kube::Reader::connect(&config.kubernetes).await.map_err(failed)?;
    reader.cluster().await.map_err(failed)
}

/// The history of one cluster.
pub(crate) struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// The history of the cluster of this identity; `None` if that is not known, because then it
    /// could be any cluster's.
    pub(crate) fn of(config: &Config, cluster: &str) -> Option<Self> {
        let safe = |c: char| c.is_ascii_alphanumeric() || c == '-';
        let known = !cluster.is_empty() && cluster.chars().all(safe);
        known.then(|| Self { folder: config.state_dir.join("history").join(cluster) })
    }

    /// What is there, and what is there but cannot be read.
    fn read(&self) -> (History, Vec<(String, String)>) {
        if !self.folder.exists() {
            return Default::default();
        }
        match Files::load(&self.folder) {
            Ok(loaded) => {
                let unread = loaded.unreadable.into_iter().map(|(path, why)| (format!("history file {}", path.display()), why));
                (loaded.history, unread.collect())
            }
            Err(error) => (History::default(), vec![("history".to_owned(), causes(&error))]),
        }
    }

    /// Adds what is not there yet.
    fn add(&self, history: &History, samples: Vec<Sample>, source: &str) -> Result<usize, String> {
        let new: Vec<Sample> = samples
            .into_iter()
            .filter(|sample| {
                history.series(sample.dimension, &sample.subject).is_none_or(|series| !series.contains_key(&sample.at))
            })
            .collect();
        if new.is_empty() {
            return Ok(0);
        }
        let files = Files::open(&self.folder).map_err(|error| causes(&error))?;
        files.append(&new, source).map_err(|error| causes(&error))?;
        files.compact().map_err(|error| causes(&error))?;
        Ok(new.len())
    }

    /// The history for a report; a live run fills gaps from Prometheus and adds its own sample.
    ///
    /// Nothing here fails a report: what does not work becomes a named unknown.
    pub(crate) async fn for_report(&self, config: &Config, snapshot: &Snapshot, live: bool) -> (History, Vec<(String, String)>) {
        let (mut history, mut unread) = self.read();
        if !live {
            return (history, unread);
        }
        if let Some(at) = &config.prometheus
            && has_gaps(&history, config, snapshot.taken)
        {
            let progress = Progress::start("reading");
            progress.reading("history from Prometheus");
            match from_prometheus(config, at, snapshot.taken, DAYS).await {
                Ok((samples, failed)) => {
                    unread.extend(failed);
                    let merged = self.add(&history, samples.clone(), "prometheus");
                    unread.extend(merged.err().map(|why| ("history".to_owned(), why)));
                    samples.into_iter().for_each(|sample| history.insert(sample));
                }
                Err(why) => unread.push(("history from Prometheus".to_owned(), why)),
            }
        }
        let own = self.add(&history, samples(snapshot, &config.policy), "live");
        unread.extend(own.err().map(|why| ("history".to_owned(), format!("this run's sample is not kept: {why}"))));
        (history, unread)
    }
}

/// Whether the longest window is not covered yet.
fn has_gaps(history: &History, config: &Config, now: Timestamp) -> bool {
    let window = SignedDuration::from_hours(24 * i64::from(DAYS));
    [Dimension::VolumeAttachments, Dimension::MemoryRequests].into_iter().any(|dimension| {
        let instants = history.instants(dimension, now - window, now);
        coverage(instants, now, window, config.policy.sample_interval) < config.policy.coverage
    })
}

type Named = Vec<(String, String)>;

async fn from_prometheus(
    config: &Config,
    at: &crate::config::PrometheusAt,
    now: Timestamp,
    days: u32,
) -> Result<(Vec<Sample>, Named), String> {
    let prometheus = at.client().map_err(|error| causes(&error))?;
    let start = now - SignedDuration::from_hours(24 * i64::from(days));
    let import = import(&prometheus, &at.queries, &config.policy.attacher, start, now, config.policy.sample_interval).await;
    let failed = import.failed.into_iter().map(|(query, why)| (format!("history from Prometheus: {query}"), why));
    Ok((import.samples, failed.collect()))
}

async fn import_all(config: &Config, archive: &Archive, days: u32) -> Result<Exit, CliError> {
    let at = config.now();
    if config.prometheus.is_none() && config.proxmox.is_empty() {
        return Err(CliError::new(Exit::Usage, "there is nothing to import from")
            .hint("set CAPPLAN_PROMETHEUS_URL, or CAPPLAN_PVE_URL and CAPPLAN_PVE_TOKEN"));
    }
    let progress = Progress::start("importing");
    let (history, mut failed) = archive.read();
    let (mut read, mut added) = (0, 0);
    let mut keep = |samples: Vec<Sample>, source: &str| -> Result<(), CliError> {
        read += samples.len();
        added += archive.add(&history, samples, source).map_err(|why| {
            CliError::new(Exit::Unexpected, format!("cannot keep the samples: {why}"))
                .hint("what was kept before is untouched; make room there, or name another folder with CAPPLAN_STATE_DIR")
        })?;
        Ok(())
    };
    if let Some(prometheus) = &config.prometheus {
        progress.reading("Prometheus");
        match from_prometheus(config, prometheus, at, days).await {
            Ok((samples, named)) => {
                failed.extend(named);
                keep(samples, "prometheus")?;
            }
            Err(why) => failed.push(("history from Prometheus".to_owned(), why)),
        }
    }
    for endpoint in &config.proxmox {
        progress.reading(&endpoint.url);
        match pve::Reader::new(endpoint.clone()) {
            Ok(reader) => {
                let (samples, named) = pve::samples(&reader, at, days).await;
                failed.extend(named);
                keep(samples, "pve-rrd")?;
            }
            Err(error) => failed.push((format!("history from {}", endpoint.url), causes(&error))),
        }
    }
    drop(progress);
    for (what, why) in &failed {
        note(format!("not imported: {what}: {why}"));
    }
    note(format!("added {added} samples to {}", archive.folder.display()));
    // One source that answers is worth a success, also when it tells nothing new.
    Ok(if read == 0 && !failed.is_empty() { Exit::Unexpected } else { Exit::Done })
}

fn csv(history: &History) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["at", "dimension", "subject", "used", "limit"])?;
    for sample in history.samples() {
        let limit = sample.limit.map(|limit| limit.to_string()).unwrap_or_default();
        writer.write_record([
            &sample.at.to_string(),
            sample.dimension.name(),
            &sample.subject,
            &sample.used.to_string(),
            &limit,
        ])?;
    }
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn summary(archive: &Archive, history: &History) -> String {
    let mut text = format!("{}\n", archive.folder.display());
    match history.span() {
        None => text.push_str("no samples yet: run `capplan history import`, or `capplan report` regularly\n"),
        Some((first, last)) => {
            text.push_str(&format!("{} samples from {first} to {last}\n", history.len()));
            for dimension in Dimension::ALL {
                let (subjects, samples) =
                    history.subjects(dimension).fold((0, 0), |(n, sum), (_, series)| (n + 1, sum + series.len()));
                if subjects > 0 {
                    text.push_str(&format!("  {dimension:<28} {subjects:>4} subjects {samples:>9} samples\n"));
                }
            }
        }
    }
    text
}

/// The history that comes with what is observed, or that was kept for its cluster.
pub(super) async fn of(config: &Config, observed: &Observed) -> History {
    match (&observed.history, Archive::of(config, &observed.snapshot.cluster)) {
        (Some(history), _) => history.clone(),
        (None, Some(archive)) => archive.for_report(config, &observed.snapshot, false).await.0,
        (None, None) => History::default(),
    }
}
