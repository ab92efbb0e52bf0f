//! `capplan plan`.

use std::path::{Path, PathBuf};

use capplan_model::ids::VmId;
use capplan_model::plan::{Feasibility, Plan, PresenceClaim};
use capplan_model::units::Bytes;
use capplan_planner::decide::decide;
use capplan_planner::plan::{Count, Limits, Observation, PlanError, Removal, Request, Wanted, plan};
use clap::{Subcommand, ValueEnum};

use super::observed::From;
use crate::config::{Config, Options};
use crate::render;
use crate::ui::{CliError, Exit, Progress, note, plain};

/// What to do: the best next step, or how to empty, add or remove nodes
///
/// Everything is tried on a copy of the cluster first, state by state. A plan names every pod, place and
/// number: nothing is left to choose. Exits with 3 if it cannot be done, with 6 if that cannot be said.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    how: How,
}

/// What is asked of new workers.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct WantedArgs {
    /// How many [default: as many as the rules need; one for `apply`]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) count: Option<u32>,
    /// Memory of each [default: the policy's; where a rule asks for it, from half to twice that]
    #[arg(long, value_name = "SIZE", value_parser = super::simulate::bytes)]
    memory: Option<Bytes>,
    /// Virtual CPUs of each [default: as the worker it is like]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1024))]
    cores: Option<u64>,
    /// Host [default: the one with most memory available]
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Worker that the new one is like, its labels and taints included
    #[arg(long, value_name = "NODE")]
    like: Option<String>,
    /// Name of the first
    #[arg(long, value_name = "NAME", value_parser = node_name)]
    name: Option<String>,
    /// VMID of the first
    #[arg(long, value_name = "VMID", value_parser = clap::value_parser!(u32).range(100..=999_999_999))]
    vmid: Option<u32>,
    /// Address of the first, with its prefix length: 10.0.20.106/24
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    ip: Option<String>,
    /// Template to clone
    #[arg(long, value_name = "VMID")]
    template: Option<u32>,
}

impl WantedArgs {
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            count: self.count,
            memory: self.memory,
            cores: self.cores,
            host: self.host.clone().map(Into::into),
            like: self.like.clone().map(Into::into),
            name: self.name.clone().map(Into::into),
            vmid: self.vmid.map(VmId),
            address: self.ip.clone(),
            template: self.template.map(VmId),
        }
    }
}

/// What to plan.
#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Empty nodes, which stay closed
    Drain {
        /// The nodes
        #[arg(required = true, value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Empty nodes one after the other; each comes back before the next goes
    DrainOrder {
        /// The nodes [default: every worker]
        #[arg(value_name = "NODE")]
        nodes: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Empty every node of a host
    Evacuate {
        /// The host
        #[arg(value_name = "HOST")]
        host: String,
        #[command(flatten)]
        how: How,
    },
    /// Add workers: how many, what size, on which host, with every number
    ScaleUp {
        #[command(flatten)]
        wanted: WantedArgs,
        #[command(flatten)]
        how: How,
    },
    /// Remove workers: which ones can go, or what keeps each
    ScaleDown {
        /// How many, or `max`
        #[arg(long, value_name = "K|max", default_value = "1", value_parser = count)]
        count: Count,
        /// Plan it although the policy's rules for it do not hold; the plan says so
        #[arg(long = "override", value_name = "REASON")]
        anyway: Option<String>,
        /// Confirm that no growth is coming: a scale-down needs a human to say so
        #[arg(long)]
        confirm_no_growth: bool,
        /// This worker and no other
        #[arg(long, value_name = "NODE", conflicts_with = "count")]
        node: Option<String>,
        /// Destroy their VMs in the end; otherwise they stay, and stay off
        #[arg(long)]
        destroy: bool,
        /// With --destroy: their snapshots may be lost with them
        #[arg(long, requires = "destroy")]
        with_snapshots: bool,
        #[command(flatten)]
        how: How,
    },
}

fn address(text: &str) -> Result<String, String> {
    let good = text.split_once('/').is_some_and(|(address, prefix)| {
        address.parse::<std::net::Ipv4Addr>().is_ok() && prefix.parse::<u8>().is_ok_and(|prefix| (8..=30).contains(&prefix))
    });
    if good {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is not an address with its prefix length such as 10.0.20.106/24"))
    }
}

/// A name of a node: lower case letters, digits and hyphens, as in DNS.
fn node_name(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    if text.len() <= 63 && text.chars().all(good) && ends(text.chars().next()) && ends(text.chars().last()) {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is no name of a node: lower case letters, digits and hyphens, at most 63"))
    }
}

fn count(text: &str) -> Result<Count, String> {
    match text.parse::<u64>() {
        _ if text == "max" => Ok(Count::Most),
        Ok(count) if count > 0 => Ok(Count::Exactly(count)),
        Ok(_) | Err(_) => Err(format!("`{text}` is neither a number of workers nor `max`")),
    }
}

/// From what, how long, and where to.
#[derive(Clone, Debug, clap::Args)]
struct How {
    #[command(flatten)]
    from: From,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write the plan to this file, and its text beside it
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Show what decides it, and the smallest change that would flip it
    #[arg(long)]
    explain: bool,
    /// Seconds for the search of a better plan
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().seconds, value_parser = seconds)]
    time_limit: f64,
    /// Seed of the ties
    #[arg(long, default_value_t = Limits::default().seed)]
    seed: u64,
    /// What others work on right now: a JSON list of {"subject": "node:NAME", "by": "WHO", "until": "…"}
    #[arg(long, value_name = "FILE")]
    claims: Option<PathBuf>,
}

/// How to print a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal of 80 columns
    #[default]
    Text,
    /// Everything, by the published schema (`capplan schema plan`)
    Json,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('s').parse::<f64>() {
        Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => Ok(seconds),
        Ok(_) | Err(_) => Err(format!("`{text}` is not a time of 0.1 to 86400 seconds")),
    }
}

/// Runs the command.
pub(super) async fn run(options: &Options, args: &Args) -> Result<Exit, CliError> {
    let nodes = |names: &[String]| names.iter().map(|node| node.as_str().into()).collect();
    let (request, how) = match &args.what {
        None => (None, &args.how),
        Some(What::Drain { nodes: names, how }) => (Some(Request::Drain(nodes(names))), how),
        Some(What::DrainOrder { nodes: names, how }) => (Some(Request::DrainOrder(nodes(names))), how),
        Some(What::Evacuate { host, how }) => (Some(Request::Evacuate(host.as_str().into())), how),
        Some(What::ScaleDown { count, anyway, node, destroy, with_snapshots, how, confirm_no_growth: _ }) => {
            let node = node.clone().map(Into::into);
            let (destroy, with_snapshots) = (*destroy, *with_snapshots);
            (Some(Request::ScaleDown(Removal { count: *count, node, anyway: anyway.clone(), destroy, with_snapshots })), how)
        }
        Some(What::ScaleUp { wanted, how }) => (Some(Request::ScaleUp(Box::new(wanted.wanted()))), how),
    };
    let mut config = Config::load(options)?;
    if let Some(What::ScaleDown { confirm_no_growth: true, .. }) = &args.what {
        config.policy.plan.no_growth_confirmed = true;
    }
    let claims = match &how.claims {
        Some(path) => read_claims(path)?,
        None => Vec::new(),
    };
    let observed = how.from.observe(&config).await?;
    let history = super::history::of(&config, &observed).await;
    let progress = Progress::start("planning");
    let limits = Limits { seconds: how.time_limit, seed: how.seed };
    let seen = Observation { snapshot: &observed.snapshot, history: &history, policy: &config.policy, claims: &claims };
    let made = match &request {
        None => decide(&seen, observed.id(), limits),
        Some(request) => plan(&seen, observed.id(), request, limits),
    };
    let made = made.map_err(refused)?;
    drop(progress);
    let kept = match &how.output {
        Some(path) => Some(path.clone()),
        // A plan of the cluster as it is now is kept; one of a file or an example only if a name is given.
        None if observed.live => Some(config.state_dir.join("plans").join(format!("{}.json", short_id(&made)))),
        None => None,
    };
    // The process ends soon; giving back 150,000 pods one by one takes longer than that.
    std::mem::forget(observed);
    if let Some(path) = kept {
        keep(&path, &made)?;
    }
    let text = match how.format {
        Format::Text => render::plan::text(&made, how.explain),
        Format::Json => json(&made)?,
    };
    super::print(&text)?;
    Ok(exit(&made))
}

/// Plans on the cluster as it is now, for those who carry it out.
pub(super) async fn live(config: &Config, request: &Request) -> Result<Plan, CliError> {
    let observed = super::observed::From::default().observe(config).await?;
    let history = super::history::of(config, &observed).await;
    let progress = Progress::start("planning");
    let seen = Observation { snapshot: &observed.snapshot, history: &history, policy: &config.policy, claims: &[] };
    let made = plan(&seen, observed.id(), request, Limits::default()).map_err(refused)?;
    drop(progress);
    Ok(made)
}

fn json(plan: &Plan) -> Result<String, CliError> {
    render::json::text(plan).map_err(|error| CliError::from_error(Exit::Unexpected, &error))
}

/// The first digits of a plan's id, which name its file.
fn short_id(plan: &Plan) -> &str {
    let digits = plan.id.strip_prefix("sha256:").unwrap_or(&plan.id);
    digits.get(..12).unwrap_or(digits)
}

fn keep(path: &Path, plan: &Plan) -> Result<(), CliError> {
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        super::folder(folder)?;
    }
    super::write(path, &json(plan)?)?;
    // Beside a plan that is itself named `.txt` its text needs another name.
    let beside = path.with_extension(if path.extension().is_some_and(|one| one == "txt") { "text.txt" } else { "txt" });
    let text = plain(&render::plan::text(plan, true));
    super::write(&beside, &text)?;
    note(format!("wrote {} and {}", path.display(), beside.display()));
    Ok(())
}

fn read_claims(path: &Path) -> Result<Vec<PresenceClaim>, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::new(Exit::Usage, format!("cannot read the claims {}: {error}", path.display())))?;
    serde_json::from_str(&text).map_err(|error| {
        CliError { causes: vec![error.to_string()], ..CliError::new(Exit::Usage, format!("cannot use {}", path.display())) }
            .hint("it is a JSON list such as [{\"subject\": \"node:k8s-node3\", \"by\": \"upgrade\"}]")
    })
}

fn refused(error: PlanError) -> CliError {
    let exit = match &error {
        PlanError::Unknown { .. } => Exit::InsufficientData,
        PlanError::NoNode { .. } | PlanError::NoHost { .. } | PlanError::NoSpare { .. } | PlanError::NotAWorker { .. } => {
            Exit::Usage
        }
        PlanError::Audit(_) => Exit::Unexpected,
    };
    CliError::from_error(exit, &error)
}

fn exit(plan: &Plan) -> Exit {
    match plan.feasibility {
        Feasibility::Feasible => Exit::Done,
        Feasibility::Blocked => Exit::ActionNeeded,
        Feasibility::Undecided => Exit::InsufficientData,
    }
}
