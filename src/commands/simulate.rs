//! `capplan simulate`.

use std::path::Path;

use capplan_model::change::{AddPods, AddPvcs, AddTaint, AddWorker, Change, Failure, FailureMode, Manifest, WrittenTaint};
use capplan_model::ids::SnapshotId;
use capplan_model::units::{Bytes, MilliCpu};
use capplan_planner::simulate::{Axes, SimulateError, Simulation, Sweep, Trials, Verdict, simulate, sweep};
use capplan_provision::manifest;
use clap::{ArgMatches, FromArgMatches, ValueEnum};

use super::observed::{From, Observed};
use crate::config::{Config, Options};
use crate::render;
use crate::ui::{self, CliError, Exit, Progress};

/// Show what a change would do, without doing it
///
/// Plays one or more changes, in the order they are given, on a copy of the cluster: places pods as
/// kube-scheduler would, plugs volumes as the storage plugin would, and shows before, after, and
/// everything that no longer fits with the reason per node. Exits with 3 if something does not fit,
/// with 6 if that cannot be said.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    from: From,
    #[command(flatten)]
    changes: Ordered,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Vary one or two amounts and show what fits: `workers 3..8 x pvcs 0..60:5`
    #[arg(long, value_name = "RANGES")]
    sweep: Option<Axes>,
    /// How many times to play it, with ties broken another way each time [default: 20; 100 for a cold boot; 1 above 200 nodes and in a sweep]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: Option<u32>,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// How to print a simulation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal of 80 columns
    #[default]
    Text,
    /// Everything, by the published schema (`capplan schema simulation`)
    Json,
}

/// The changes as flags. `Ordered` puts them in the order of the command line.
#[derive(Debug, Default, clap::Args)]
#[command(
    next_help_heading = "Changes, played in this order of the command line",
    group(clap::ArgGroup::new("failure").args(["fail_node", "fail_host"]).multiple(true))
)]
struct Flags {
    /// Add N claims, each with a pod that mounts it
    #[arg(long, value_name = "N")]
    add_pvcs: Vec<u32>,
    /// Size of each new claim, such as 10Gi
    #[arg(long, value_name = "SIZE", requires = "add_pvcs", value_parser = bytes)]
    size: Option<Bytes>,
    /// StorageClass of the new claims
    #[arg(long, value_name = "CLASS", requires = "add_pvcs")]
    storage_class: Option<String>,
    /// Workload whose pods mount the new claims: deploy/NAME or NAMESPACE/sts/NAME
    #[arg(long, value_name = "WORKLOAD", requires = "add_pvcs")]
    pods_from: Option<String>,
    /// Add pods: a manifest, or COUNTxREQUESTS such as 3x500m,1Gi or 2xcpu=1,memory=2Gi,nvidia.com/gpu=1
    #[arg(long, value_name = "FILE|COUNTxREQUESTS")]
    add_pods: Vec<String>,
    /// Add a worker
    #[arg(long, num_args = 0, action = clap::ArgAction::Append, default_missing_value = "true")]
    add_worker: Vec<bool>,
    /// Memory of each new worker's VM [default: the policy's]
    #[arg(long, value_name = "SIZE", requires = "add_worker", value_parser = bytes)]
    memory: Option<Bytes>,
    /// Virtual CPUs of each new worker [default: as the worker it is like]
    #[arg(long, value_name = "N", requires = "add_worker")]
    cores: Option<u64>,
    /// Worker that the new one is like, its labels included
    #[arg(long, value_name = "NODE", requires = "add_worker")]
    like: Option<String>,
    /// Number of new workers
    #[arg(long, value_name = "N", requires = "add_worker")]
    count: Option<u32>,
    /// Host of the new workers [default: the one with most memory available]
    #[arg(long, value_name = "HOST", requires = "add_worker")]
    on_host: Option<String>,
    /// Label of the new workers: KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE", requires = "add_worker", value_parser = label)]
    label: Vec<(String, String)>,
    /// Drain a node and take it out
    #[arg(long, value_name = "NODE")]
    remove_node: Vec<String>,
    /// A node fails
    #[arg(long, value_name = "NODE")]
    fail_node: Vec<String>,
    /// A host fails, with every VM on it
    #[arg(long, value_name = "HOST")]
    fail_host: Vec<String>,
    /// How nodes and hosts fail [default: power-off]
    #[arg(long, value_enum, requires = "failure")]
    mode: Option<Mode>,
    /// Cordon a node
    #[arg(long, value_name = "NODE")]
    cordon: Vec<String>,
    /// Taint a node: `KEY[=VALUE]:EFFECT`, or `KEY[:EFFECT]-` to take the taint away
    #[arg(long, num_args = 2, value_names = ["NODE", "TAINT"])]
    taint: Vec<String>,
    /// Everything was off: schedule every pod again, in random order
    #[arg(long)]
    cold_boot: bool,
    /// Drain every node in turn and let it come back
    #[arg(long)]
    reboot_each: bool,
    /// Wake every workload that has no replicas
    #[arg(long)]
    wake_parked: bool,
}

/// How nodes and hosts fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// The kubelet reports NotReady and still hears the API
    Notready,
    /// The node runs on but nobody reaches it
    Partition,
    /// The power is gone
    #[default]
    PowerOff,
}

impl std::convert::From<Mode> for FailureMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Notready => Self::Notready,
            Mode::Partition => Self::Partition,
            Mode::PowerOff => Self::PowerOff,
        }
    }
}

/// What `--add-pods` names.
#[derive(Clone, Debug)]
enum Pods {
    Manifest(String),
    Equal(AddPods),
}

/// One change of the command line.
#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    Manifest(String),
}

/// The changes in the order of the command line.
#[derive(Debug, Default)]
struct Ordered(Vec<Step>);

impl clap::Args for Ordered {
    fn augment_args(command: clap::Command) -> clap::Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Flags::augment_args_for_update(command)
    }
}

impl FromArgMatches for Ordered {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let flags = Flags::from_arg_matches(matches)?;
        let usage = |message: String| clap::Error::raw(clap::error::ErrorKind::ValueValidation, message + "\n");
        let mut steps: Vec<(usize, Step)> = Vec::new();
        let places = |id: &str| -> Vec<usize> {
            // A default is no change.
            let given = matches.value_source(id) == Some(clap::parser::ValueSource::CommandLine);
            if given { matches.indices_of(id).map(Iterator::collect).unwrap_or_default() } else { Vec::new() }
        };
        let mut add = |id: &str, changes: Vec<Step>| steps.extend(places(id).into_iter().zip(changes));
        let mode = FailureMode::from(flags.mode.unwrap_or_default());
        let pvcs = flags.add_pvcs.iter().map(|count| {
            Step::Change(Change::AddPvcs(AddPvcs {
                count: *count,
                size: flags.size,
                storage_class: flags.storage_class.clone(),
                pods_from: flags.pods_from.clone(),
            }))
        });
        add("add_pvcs", pvcs.collect());
        let mut pods = Vec::new();
        for text in &flags.add_pods {
            pods.push(match parse_pods(text).map_err(usage)? {
                Pods::Manifest(path) => Step::Manifest(path),
                Pods::Equal(equal) => Step::Change(Change::AddPods(equal)),
            });
        }
        add("add_pods", pods);
        let workers = flags.add_worker.iter().map(|_| {
            Step::Change(Change::AddWorker(AddWorker {
                count: flags.count.unwrap_or(1),
                memory: flags.memory,
                cores: flags.cores,
                like: flags.like.clone().map(Into::into),
                host: flags.on_host.clone().map(Into::into),
                labels: flags.label.iter().cloned().collect(),
            }))
        });
        add("add_worker", workers.collect());
        let named = |names: &[String], change: &dyn Fn(String) -> Change| {
            names.iter().map(|name| Step::Change(change(name.clone()))).collect::<Vec<_>>()
        };
        add("remove_node", named(&flags.remove_node, &|name| Change::RemoveNode(name.into())));
        add("fail_node", named(&flags.fail_node, &|name| Change::FailNode(Failure { name: name.into(), mode })));
        add("fail_host", named(&flags.fail_host, &|name| Change::FailHost(Failure { name: name.into(), mode })));
        add("cordon", named(&flags.cordon, &|name| Change::Cordon(name.into())));
        let mut taints = Vec::new();
        for pair in flags.taint.chunks(2) {
            let [node, text] = pair else { continue };
            let taint: WrittenTaint = text.parse().map_err(|error| usage(format!("{error}")))?;
            // Two values, two indices: the first stands for both.
            taints.extend([
                Step::Change(Change::Taint(AddTaint { node: node.as_str().into(), taint: taint.clone() })),
                Step::Manifest(String::new()),
            ]);
        }
        add("taint", taints);
        add("cold_boot", vec![Step::Change(Change::ColdBoot)]);
        add("reboot_each", vec![Step::Change(Change::RebootEach)]);
        add("wake_parked", vec![Step::Change(Change::WakeParked)]);
        steps.sort_by_key(|(place, _)| *place);
        steps.retain(|(_, step)| !matches!(step, Step::Manifest(path) if path.is_empty()));
        Ok(Self(steps.into_iter().map(|(_, step)| step).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

pub(super) fn bytes(text: &str) -> Result<Bytes, String> {
    match Bytes::parse(text) {
        Ok(size) if size.0 > 0 => Ok(size),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a size such as 10Gi")),
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `COUNTxREQUESTS`, or else a path.
fn parse_pods(text: &str) -> Result<Pods, String> {
    let parts = text.split_once(['x', '×']).and_then(|(count, rest)| Some((count.trim().parse::<u32>().ok()?, rest.trim())));
    let Some((count, requests)) = parts else {
        return if Path::new(text).exists() {
            Ok(Pods::Manifest(text.to_owned()))
        } else {
            Err(format!("`{text}` is neither a file nor COUNTxREQUESTS such as 3x500m,1Gi"))
        };
    };
    let mut add = AddPods { count, ..AddPods::default() };
    let bad = |what: &str| format!("`{what}` in `{text}` is not a request such as 500m, memory=1Gi or nvidia.com/gpu=1");
    // Names of extended resources hold a slash, which otherwise parts two amounts.
    let separators: &[char] = if requests.contains('=') { &[','] } else { &[',', '/'] };
    for (place, part) in requests.split(separators).map(str::trim).filter(|part| !part.is_empty()).enumerate() {
        let (name, amount) = part.split_once('=').unwrap_or((if place == 0 { "cpu" } else { "memory" }, part));
        let twice = match name {
            "cpu" if amount.ends_with('i') => return Err(bad(part)),
            "cpu" => add.cpu.replace(MilliCpu::parse(amount.trim_end_matches("cpu")).map_err(|_| bad(part))?).is_some(),
            "memory" => add.memory.replace(Bytes::parse(amount).map_err(|_| bad(part))?).is_some(),
            name if name.contains('/') || name.starts_with("hugepages-") => {
                add.extended.insert(name.to_owned(), amount.parse().map_err(|_| bad(part))?).is_some()
            }
            _ => return Err(bad(part)),
        };
        if twice {
            return Err(format!("`{text}` gives {name} twice"));
        }
    }
    if add.cpu.is_none() && add.memory.is_none() && add.extended.is_empty() {
        return Err(format!("`{text}` asks for nothing: write requests such as 3x500m,1Gi"));
    }
    Ok(Pods::Equal(add))
}

/// Runs the command.
pub(super) async fn run(options: &Options, args: &Args) -> Result<Exit, CliError> {
    let config = Config::load(options)?;
    let observed = args.from.observe(&config).await?;
    let mut changes = Vec::new();
    for step in &args.changes.0 {
        changes.push(match step {
            Step::Change(change) => change.clone(),
            Step::Manifest(path) => Change::Submit(read_manifest(path)?),
        });
    }
    if changes.is_empty() {
        changes.clone_from(&observed.changes);
    } else if !observed.changes.is_empty() {
        ui::note("the scenario's own changes are left out: those of the command line are played instead");
    }
    if changes.is_empty() && args.sweep.is_none() {
        return Err(CliError::new(Exit::Usage, "nothing is to change")
            .hint("name a change, such as --add-pvcs 5 or --fail-node NODE; see capplan simulate --help")
            .hint("or take a scenario file that has `changes`"));
    }
    let trials = Trials { runs: args.runs.unwrap_or_else(|| usual_runs(args, &changes, &observed)), seed: args.seed };
    let progress = Progress::start("simulating");
    if let Some(axes) = &args.sweep {
        let cells: usize = axes.0.iter().map(|axis| axis.values.len()).product();
        let told = |done: u32| progress.reading(&format!("{done} of {cells} cells"));
        let result = sweep(&observed.snapshot, &config.policy, &changes, axes, trials, &told).map_err(refused)?;
        drop(progress);
        super::print(&text_of_sweep(&result, args.format)?)?;
        return Ok(Exit::Done);
    }
    // Only JSON shows the hash, and it takes as long as writing the snapshot.
    let id = if args.format == Format::Json { observed.id() } else { SnapshotId::default() };
    let history = super::history::of(&config, &observed).await;
    let mut snapshot = observed.snapshot;
    let told = |done: u32| progress.reading(&format!("run {done} of {}", trials.runs));
    let simulation = simulate(&mut snapshot, id, &history, &config.policy, &changes, trials, &told).map_err(refused)?;
    // The process ends soon; giving back 150,000 pods one by one takes longer than that.
    std::mem::forget(snapshot);
    drop(progress);
    let text = match args.format {
        Format::Text => render::simulation::text(&simulation),
        Format::Json => render::json::text(&simulation).map_err(|error| CliError::from_error(Exit::Unexpected, &error))?,
    };
    super::print(&text)?;
    Ok(exit(&simulation))
}

fn text_of_sweep(sweep: &Sweep, format: Format) -> Result<String, CliError> {
    match format {
        Format::Text => Ok(render::simulation::sweep(sweep)),
        Format::Json => render::json::text(sweep).map_err(|error| CliError::from_error(Exit::Unexpected, &error)),
    }
}

/// Above so many nodes one run is enough of an answer unless more are asked for.
const MANY_NODES: usize = 200;

fn usual_runs(args: &Args, changes: &[Change], observed: &Observed) -> u32 {
    let nodes = observed.snapshot.kube.nodes.known().map_or(0, Vec::len);
    if args.sweep.is_some() || nodes > MANY_NODES {
        1
    } else if changes.contains(&Change::ColdBoot) {
        100
    } else {
        20
    }
}

fn read_manifest(path: &str) -> Result<Manifest, CliError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| CliError::new(Exit::Usage, format!("cannot read {path}: {error}")))?;
    let made = manifest::read(&text).map_err(|error| CliError {
        causes: vec![error.to_string()],
        ..CliError::new(Exit::Usage, format!("cannot use {path}")).hint("it holds pods, workloads and claims, as YAML or JSON")
    })?;
    if made.pods.is_empty() {
        let error = CliError::new(Exit::Usage, format!("{path} makes no pods that can be simulated"));
        return Err(CliError {
            causes: made.not_simulated.iter().map(|what| format!("{what} is not simulated")).collect(),
            ..error
        });
    }
    Ok(made)
}

fn refused(error: SimulateError) -> CliError {
    let exit = match &error {
        SimulateError::Unknown { .. } => Exit::InsufficientData,
        SimulateError::NoNode { .. }
        | SimulateError::NoHost { .. }
        | SimulateError::NoWorkload { .. }
        | SimulateError::StorageClass(_)
        | SimulateError::Change(_) => Exit::Usage,
    };
    CliError::from_error(exit, &error)
}

fn exit(simulation: &Simulation) -> Exit {
    match simulation.verdict {
        Verdict::SchedulerPlaces => Exit::Done,
        Verdict::FitsIfPlaced | Verdict::CannotFit => Exit::ActionNeeded,
        Verdict::Undecided if simulation.unplaceable.is_empty() => Exit::InsufficientData,
        Verdict::Undecided => Exit::ActionNeeded,
    }
}
