//! `capplan apply`, `resume` and `abort`: carry a plan out, go on with it, give it up.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use capplan_model::history::History;
use capplan_model::plan::{Feasibility, Plan, StepAction};
use capplan_model::run::{End, Event, FORMAT};
use capplan_planner::plan::{Count, Removal, Request, Wanted, gate};
use capplan_provision::execute::Told;
use capplan_provision::kube::KubeError;
use capplan_provision::store::journal::{Journal, JournalError, Lock, Runs};
use capplan_provision::world::World;
use clap::Subcommand;
use jiff::Timestamp;

use super::carry::{Output, by, connect, executor, go_on, not_given_up, on, take_lease};
use super::observed::{live, unobserved};
use super::plan::WantedArgs;
use crate::config::{Config, Options};
use crate::render;
use crate::signals::prompted;
use crate::ui::{CliError, Exit, note, visible};

/// Carry a plan out, step by step
///
/// The plan is a file of `capplan plan`. It is shown and confirmed first. Each step is checked on a fresh reading,
/// written down before it is done, and read back afterwards: it can be interrupted anywhere, and `capplan resume`
/// goes on. Exits with 4 if a gate refuses and nothing was changed, with 5 if it stopped midway.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// The plan
    #[arg(value_name = "PLANFILE", required = true)]
    plan: Option<PathBuf>,
    #[command(flatten)]
    try_or_do: TryOrDo,
}

/// What is planned and carried out in one go.
#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Add a worker: clone a template, let it join, prove that it works
    ///
    /// What is not said is chosen: the next free VMID, name and address, the host with most memory, the
    /// template, and everything else as the worker that it is like.
    AddWorker {
        #[command(flatten)]
        wanted: Box<WantedArgs>,
        #[command(flatten)]
        try_or_do: TryOrDo,
    },
    /// Make a worker again of a VM that was one and is off: it is reset, and joins anew
    ReAdd {
        /// Name of the VM
        #[arg(value_name = "SPARE")]
        spare: String,
        #[command(flatten)]
        try_or_do: TryOrDo,
    },
    /// Add a worker like this one, then take this one out
    ReplaceWorker {
        /// The worker
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        fate: Fate,
        #[command(flatten)]
        try_or_do: TryOrDo,
    },
    /// Take a worker out: empty it, delete its Node, shut its VM down
    ///
    /// Its VM stays, off and kept from starting with its host, unless it is to be destroyed.
    RemoveWorker {
        /// The worker
        #[arg(value_name = "NODE")]
        node: String,
        #[command(flatten)]
        fate: Fate,
        /// Do it although the policy's rules for it do not hold; the plan says so
        #[arg(long = "override", value_name = "REASON")]
        anyway: Option<String>,
        /// Confirm that no growth is coming: a scale-down needs a human to say so
        #[arg(long)]
        confirm_no_growth: bool,
        #[command(flatten)]
        try_or_do: TryOrDo,
    },
}

/// What becomes of the VM of a worker that is taken out.
#[derive(Clone, Copy, Debug, clap::Args)]
struct Fate {
    /// Keep the VM, off, its credentials useless: the default
    #[arg(long, conflicts_with = "destroy")]
    keep_as_spare: bool,
    /// Destroy the VM with its own disks; it must have the tag `capplan`
    #[arg(long)]
    destroy: bool,
    /// With --destroy: the snapshots of the VM may be lost with it
    #[arg(long, requires = "destroy")]
    with_snapshots: bool,
}

#[derive(Clone, Debug, clap::Args)]
struct TryOrDo {
    /// Check everything that can be checked without changing anything
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    how: How,
}

/// Go on with a run that stopped
#[derive(Debug, clap::Args)]
pub struct ResumeArgs {
    /// The run [default: the one that is unfinished]
    #[arg(value_name = "RUN")]
    run: Option<String>,
    /// Say that the step that only a human does is done
    #[arg(long)]
    done: bool,
    #[command(flatten)]
    how: How,
}

/// Give a run up: open what it closed, and say how things are
///
/// Nothing else is taken back: pods stay where they are, what is deleted stays so.
#[derive(Debug, clap::Args)]
pub struct AbortArgs {
    /// The run
    #[arg(value_name = "RUN")]
    run: String,
    /// Give it up even if a credential or an image that it made cannot be deleted: what is left is named
    #[arg(long)]
    leave_behind: bool,
}

/// How it is asked and told.
#[derive(Clone, Debug, clap::Args)]
struct How {
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// How to tell what happens
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// Carries a plan out.
pub(super) async fn run(options: &Options, args: &Args) -> Result<Exit, CliError> {
    let mut config = Config::load_by_the_clock(options)?;
    let runs = Runs::of(&config.state_dir);
    let try_or_do = match &args.what {
        None => &args.try_or_do,
        Some(
            What::AddWorker { try_or_do, .. }
            | What::ReAdd { try_or_do, .. }
            | What::ReplaceWorker { try_or_do, .. }
            | What::RemoveWorker { try_or_do, .. },
        ) => try_or_do,
    };
    let lock = if try_or_do.dry_run { None } else { Some(only_run(&runs)?) };
    let removal = |node: &str, fate: Fate, anyway: Option<String>| Removal {
        count: Count::Exactly(1),
        node: Some(node.into()),
        anyway,
        destroy: fate.destroy,
        with_snapshots: fate.with_snapshots,
    };
    let plan = match (&args.what, &args.plan) {
        (Some(What::AddWorker { wanted, .. }), _) => {
            let wanted = Wanted { count: wanted.count.or(Some(1)), ..wanted.wanted() };
            super::plan::live(&config, &Request::ScaleUp(Box::new(wanted))).await?
        }
        (Some(What::ReAdd { spare, .. }), _) => super::plan::live(&config, &Request::Wake(spare.as_str().into())).await?,
        (Some(What::ReplaceWorker { node, fate, .. }), _) => {
            config.policy.plan.no_growth_confirmed = true;
            super::plan::live(&config, &Request::Replace(removal(node, *fate, None))).await?
        }
        (Some(What::RemoveWorker { node, fate, anyway, confirm_no_growth, .. }), _) => {
            config.policy.plan.no_growth_confirmed |= *confirm_no_growth;
            super::plan::live(&config, &Request::ScaleDown(removal(node, *fate, anyway.clone()))).await?
        }
        (None, Some(path)) => saved(path)?,
        (None, None) => return Err(CliError::new(Exit::Usage, "no plan is named")),
    };
    if let Some(exit) = nothing_to_do(&plan, &runs)? {
        return Ok(exit);
    }
    let mut world = connect(&config).await?;
    let seen = live(&config).await?;
    let missing = world.missing(&plan, &seen).await.map_err(|error| unobserved(&error))?;
    if !missing.is_empty() {
        let error = CliError::new(Exit::Refused, "privileges are missing; nothing was changed");
        return Err(CliError { causes: missing, ..error }.hint("`capplan doctor --print-roles --apply` prints what to grant"));
    }
    let refused =
        |why| CliError { causes: vec![why], ..CliError::new(Exit::Refused, "refused before step 1, nothing was changed") };
    gate(&on(&config, &seen, &History::default()), &plan)
        .map_err(|why| refused(why).hint("if the cluster is not as it was, plan again"))?;
    let remark = |told: &Told| {
        if let Told::Note { text, .. } = told {
            note(format!("note: {text}"));
        }
    };
    executor(&config, &world, &plan, &|_, _| Ok(()), &remark).preflight(&seen).await.map_err(refused)?;
    if try_or_do.dry_run {
        note(render::plan::text(&plan, false));
        note("it could be carried out now; nothing was changed");
        return Ok(Exit::Done);
    }
    if !try_or_do.how.yes {
        confirm(&plan)?;
    }
    let at = Timestamp::now();
    let digits = plan.id.strip_prefix("sha256:").unwrap_or(&plan.id);
    let run = format!("{}-{}", at.strftime("%Y%m%dT%H%M%SZ"), digits.get(..8).unwrap_or(digits));
    let first = Event::Began { format: FORMAT.to_owned(), at, by: by(), plan: plan.id.clone() };
    take_lease(&mut world, &config).await?;
    let journal = runs.begin(&run, &plan, &first).map_err(unwritten)?;
    go_on(&config, world, &plan, journal, try_or_do.how.output, lock).await
}

fn saved(path: &Path) -> Result<Plan, CliError> {
    let text = std::fs::read(path)
        .map_err(|error| CliError::new(Exit::Usage, format!("cannot read the plan {}: {error}", path.display())))?;
    Plan::read(&text).map_err(|error| {
        let error = CliError::from_error(Exit::Usage, &error);
        CliError { what: format!("cannot use {}: {}", path.display(), error.what), ..error }
            .hint("`capplan plan -o FILE` writes a plan; take the .json, not the text beside it")
    })
}

/// Goes on with a run.
pub(super) async fn resume(options: &Options, args: &ResumeArgs) -> Result<Exit, CliError> {
    let config = Config::load_by_the_clock(options)?;
    let runs = Runs::of(&config.state_dir);
    let lock = runs.lock().map_err(unwritten)?;
    let run = match &args.run {
        Some(run) => run.clone(),
        None => match unfinished(&runs)? {
            Some(run) => run,
            None => {
                note("nothing to do: no run is unfinished");
                return Ok(Exit::Done);
            }
        },
    };
    let Some((plan, mut journal, world)) = unended(&config, &runs, &run).await? else { return Ok(Exit::Done) };
    journal.append(&Event::Resumed { at: Timestamp::now(), by: by() }).map_err(unwritten)?;
    if args.done {
        let step = journal.state.next(plan.steps.len() as u64).and_then(|next| plan.steps.iter().find(|one| one.number == next));
        match step.filter(|step| matches!(step.change, StepAction::Manual { .. })) {
            Some(step) => {
                let confirmed = Event::Confirmed { step: step.number, at: Timestamp::now(), by: by() };
                journal.append(&confirmed).map_err(unwritten)?;
            }
            None => return Err(CliError::new(Exit::Usage, format!("{run} waits for no human: leave --done out"))),
        }
    }
    go_on(&config, world, &plan, journal, args.how.output, Some(lock)).await
}

/// Gives a run up.
pub(super) async fn abort(options: &Options, args: &AbortArgs) -> Result<Exit, CliError> {
    let config = Config::load_by_the_clock(options)?;
    let runs = Runs::of(&config.state_dir);
    let _lock = runs.lock().map_err(unwritten)?;
    let Some((plan, mut journal, mut world)) = unended(&config, &runs, &args.run).await? else { return Ok(Exit::Done) };
    let left = executor(&config, &world, &plan, &|_, _| Ok(()), &|_| {}).abort(&mut journal, &by(), args.leave_behind).await;
    world.give_back().await;
    let left = left.map_err(unwritten)?.map_err(|why| not_given_up(&args.run, why))?;
    note(format!("{} is given up", args.run));
    left.iter().for_each(|line| note(format!("  {line}")));
    Ok(Exit::Done)
}

/// A run to go on with, and the cluster that it is about; `None`, and a note, if it has ended.
///
/// Nodes of the same name in another cluster are none of its business.
async fn unended(config: &Config, runs: &Runs, run: &str) -> Result<Option<(Plan, Journal, World)>, CliError> {
    let (plan, journal) = runs.open(run).map_err(unwritten)?;
    if let Some(end) = journal.state.end {
        note(format!("nothing to do: {run} is {}", super::runs::ended(end)));
        return Ok(None);
    }
    let mut world = connect(config).await?;
    let failed = |error: KubeError| CliError::from_error(Exit::Unexpected, &error).hint_if(error.hint());
    if world.kube.reader().cluster().await.map_err(failed)? == plan.cluster {
        take_lease(&mut world, config).await?;
        return Ok(Some((plan, journal, world)));
    }
    Err(CliError::new(Exit::Refused, "this is another cluster than the run is about; nothing was changed")
        .hint("name the right one with --context or --kubeconfig"))
}

/// A plan without a step, one that was carried out, or one that cannot be done.
fn nothing_to_do(plan: &Plan, runs: &Runs) -> Result<Option<Exit>, CliError> {
    let why = plan.because.first().or(plan.undecided.first()).cloned().unwrap_or_default();
    if plan.feasibility != Feasibility::Feasible {
        let mut error = CliError::new(Exit::Refused, "the plan cannot be carried out; nothing was changed");
        error.causes.extend(plan.blockers.iter().map(|one| format!("{} {}: {}", one.code.name(), one.subject, one.detail)));
        error.causes.extend(plan.undecided.iter().cloned());
        error.causes.push(why);
        return Err(error);
    }
    for run in runs.names().map_err(unwritten)? {
        let (_, _, state) = runs.read(&run).map_err(unwritten)?;
        if state.plan == plan.id && state.end == Some(End::Finished) {
            note(format!("nothing to do: {run} carried this plan out"));
            return Ok(Some(Exit::Done));
        }
    }
    if plan.steps.is_empty() {
        note(format!("nothing to do: {why}"));
        return Ok(Some(Exit::Done));
    }
    Ok(None)
}

/// Takes the lock, and refuses while another run is unfinished.
fn only_run(runs: &Runs) -> Result<Lock, CliError> {
    let lock = runs.lock().map_err(unwritten)?;
    match unfinished(runs)? {
        None => Ok(lock),
        Some(run) => Err(CliError::new(Exit::Refused, format!("run {run} is not finished; nothing was changed"))
            .hint(format!("`capplan resume {run}` goes on with it, `capplan abort {run}` gives it up"))),
    }
}

fn unfinished(runs: &Runs) -> Result<Option<String>, CliError> {
    for run in runs.names().map_err(unwritten)? {
        if runs.read(&run).map_err(unwritten)?.2.end.is_none() {
            return Ok(Some(run));
        }
    }
    Ok(None)
}

fn confirm(plan: &Plan) -> Result<(), CliError> {
    note(render::plan::text(plan, false));
    if !std::io::stdin().is_terminal() {
        return Err(CliError::new(Exit::Refused, "nobody is there to confirm it; nothing was changed").hint("--yes confirms it"));
    }
    // What takes a machine away is confirmed by its name, not by a habit.
    let removed = plan
        .steps
        .iter()
        .find_map(|step| if let StepAction::DeleteNode { node, .. } = &step.change { Some(node.to_string()) } else { None });
    let word = removed.unwrap_or_else(|| "yes".to_owned());
    let question = visible(&format!("type `{word}` to carry it out:"));
    let typed = prompted("not confirmed; nothing was changed", || inquire::Text::new(&question).prompt());
    if typed.is_ok_and(|typed| typed.trim() == word) {
        return Ok(());
    }
    Err(CliError::new(Exit::Refused, "not confirmed; nothing was changed"))
}

pub(super) fn unwritten(error: JournalError) -> CliError {
    let exit = match &error {
        JournalError::Locked { .. } => Exit::Refused,
        JournalError::Missing { .. } => Exit::Usage,
        JournalError::Io { .. }
        | JournalError::Exists { .. }
        | JournalError::Line { .. }
        | JournalError::Order { .. }
        | JournalError::Plan { .. }
        | JournalError::OtherPlan { .. } => Exit::Unexpected,
    };
    CliError::from_error(exit, &error).hint_if(error.hint())
}
