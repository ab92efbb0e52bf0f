//! Carrying a plan out: both planes connected, others kept away, every step told, the end put into words.

use std::collections::BTreeSet;
use std::io::Write;

use capplan_model::Snapshot;
use capplan_model::history::History;
use capplan_model::ids::NodeName;
use capplan_model::kube::MAX_VOLUMES_LABEL;
use capplan_model::plan::{Plan, StepAction, WorkerSpec};
use capplan_model::run::{Event, RunState};
use capplan_planner::plan::{Observation, rehearse};
use capplan_provision::execute::{EventLine, Executor, Outcome, Rehearse, Told};
use capplan_provision::lease::{LeaseError, MOST_SKEW};
use capplan_provision::store::files;
use capplan_provision::store::journal::{Journal, Lock};
use capplan_provision::world::World;
use clap::ValueEnum;
use jiff::Timestamp;

use super::apply::unwritten;
use super::observed::unobserved;
use crate::config::Config;
use crate::signals::Signals;
use crate::ui::{CliError, Exit, Progress, note};

/// How to tell what happens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    /// A line for each step, on stderr
    #[default]
    Text,
    /// A JSON object for each event, one a line, on stdout
    Json,
}

/// Who holds the lease: this state folder on this machine. One that was killed gets it again at once.
fn holder(config: &Config) -> Result<String, CliError> {
    let path = config.state_dir.join("runs/holder");
    let failed = |error: std::io::Error| CliError::new(Exit::Unexpected, format!("cannot write {}: {error}", path.display()));
    // Machines may be copies of one another, and be called the same.
    if !path.exists() {
        use std::hash::{BuildHasher, Hasher, RandomState};
        files::folder(&config.state_dir.join("runs")).map_err(failed)?;
        let id = format!("{:016x}", RandomState::new().build_hasher().finish());
        files::write(&path, |file| file.write_all(id.as_bytes())).map_err(failed)?;
    }
    let id = std::fs::read_to_string(&path).map_err(failed)?;
    Ok(format!("{}/{}", by(), id.trim()))
}

/// Keeps capplans of other machines from the cluster.
pub(super) async fn take_lease(world: &mut World, config: &Config) -> Result<(), CliError> {
    match world.take_lease(&holder(config)?).await {
        Ok(()) => Ok(()),
        Err(error @ (LeaseError::Held { .. } | LeaseError::Conflict)) => Err(CliError::from_error(Exit::Refused, &error)
            .hint("wait until it is done; if nobody is, it runs out within three minutes. Nothing was changed")),
        Err(error @ LeaseError::Api(_)) => Err(CliError::from_error(Exit::Unexpected, &error)),
    }
}

/// Connects to both planes, with a clock that agrees with theirs.
pub(super) async fn connect(config: &Config) -> Result<World, CliError> {
    let progress = Progress::start("connecting");
    progress.reading("both planes");
    let world = World::connect(&config.kubernetes, &config.proxmox).await.map_err(|error| unobserved(&error))?;
    // Ages, leases and the life of a token are told by the clock.
    let ahead = world.ahead().await.map_err(|error| unobserved(&error))?;
    match ahead.filter(|seconds| seconds.unsigned_abs() > MOST_SKEW) {
        None => Ok(world),
        Some(seconds) => Err(CliError::new(
            Exit::Refused,
            format!("this machine's clock is {} s {} the API server's; nothing was changed", seconds.abs(), side(seconds)),
        )
        .hint("set it (`timedatectl set-ntp true`)")),
    }
}

fn side(ahead: i64) -> &'static str {
    if ahead > 0 { "ahead of" } else { "behind" }
}

/// A plan on a reading: neither its past nor what others claim decides whether it still holds.
pub(super) fn on<'s>(config: &'s Config, seen: &'s Snapshot, history: &'s History) -> Observation<'s> {
    Observation { snapshot: seen, history, policy: &config.policy, claims: &[] }
}

/// What a plan is carried out with.
pub(super) fn executor<'e>(
    config: &'e Config,
    world: &'e World,
    plan: &'e Plan,
    rehearse: &'e Rehearse<'e>,
    tell: &'e (dyn Fn(&Told) + Sync),
) -> Executor<'e> {
    Executor { world, plan, driver: &config.policy.attacher, given: &config.given, rehearse, tell }
}

/// The shape of a new worker, in a line.
fn shape(spec: &WorkerSpec) -> String {
    let slots = spec.labels.get(MAX_VOLUMES_LABEL).map_or("as many volume slots as its plugin says", String::as_str);
    let address = spec.address.as_deref().unwrap_or("an address of DHCP");
    format!(
        "{}: VM {} on {}, {}, {} cores, {slots} volume slots, {address}, like {}",
        spec.name, spec.vmid, spec.host, spec.memory, spec.cores, spec.like
    )
}

/// Carries out what is left of a run, and gives lease and lock back.
pub(super) async fn go_on(
    config: &Config,
    mut world: World,
    plan: &Plan,
    mut journal: Journal,
    output: Output,
    lock: Option<Lock>,
) -> Result<Exit, CliError> {
    let done = carry_out(config, &world, plan, &mut journal, output).await;
    world.give_back().await;
    drop(lock);
    done
}

async fn carry_out(config: &Config, world: &World, plan: &Plan, journal: &mut Journal, output: Output) -> Result<Exit, CliError> {
    let run = journal.run.clone();
    let again = |seen: &Snapshot, from| rehearse(&on(config, seen, &History::default()), plan, from);
    let show = |told: &Told| tell(told, output);
    let executor = executor(config, world, plan, &again, &show);
    tell(&Told::Run { run: run.clone() }, output);
    let mut signals = Signals::listen();
    let ran = tokio::select! {
        ran = executor.run(journal) => ran,
        name = signals.next() => return Err(interrupted(name, signals, &run, plan, journal, &executor).await),
    };
    let outcome = match ran {
        Ok(outcome) => {
            if output == Output::Json {
                event(&EventLine::Outcome(outcome.clone()));
            }
            outcome
        }
        Err(error) => {
            let exit = if changed(&journal.state) { Exit::Midway } else { Exit::Unexpected };
            return Err(CliError { exit, ..unwritten(error) }.hint(format!("then `capplan resume {run}`")));
        }
    };
    let (step, why) = match outcome {
        Outcome::Finished => {
            plan.workers.iter().for_each(|spec| note(shape(spec)));
            note(format!("done: {} steps, see `capplan runs {run}`", plan.steps.len()));
            return alerts(config, &journal.state).await;
        }
        Outcome::Human { step, command } => {
            note(format!("step {step} is for you: {command}"));
            note(format!("then `capplan resume {run} --done`"));
            return Ok(Exit::Midway);
        }
        Outcome::Stopped { step, why } if changed(&journal.state) => {
            return Err(CliError {
                causes: std::iter::once(why).chain(closed(plan, &journal.state)).collect(),
                ..CliError::new(Exit::Midway, format!("stopped at step {step} of {}", plan.steps.len()))
            }
            .hint(format!("`capplan resume {run}` goes on from there, `capplan abort {run}` gives it up")));
        }
        Outcome::Surprise { step, why } if out_of_return(plan, &journal.state) => {
            return Err(CliError {
                causes: std::iter::once(why).chain(closed(plan, &journal.state)).collect(),
                ..CliError::new(Exit::Midway, format!("step {step} is not possible as planned, and a node is out already"))
            }
            .hint(format!("mend it by hand, then `capplan resume {run}`; `capplan abort {run}` leaves it as it is")));
        }
        Outcome::Surprise { step, why } | Outcome::Stopped { step, why } => (step, why),
    };
    let before = changed(&journal.state);
    let left = match executor.abort(journal, &by(), false).await {
        Ok(left) => left.map_err(|why| not_given_up(&run, why))?,
        Err(error) => return Err(CliError { exit: if before { Exit::Midway } else { Exit::Unexpected }, ..unwritten(error) }),
    };
    let error = if before {
        let mut error = CliError::new(Exit::Midway, format!("given up at step {step} of {}", plan.steps.len()));
        error.causes.push(why);
        error.causes.extend(left);
        error.hint("the cluster is not as it was: plan again")
    } else {
        CliError { causes: vec![why], ..CliError::new(Exit::Refused, "refused before step 1, nothing was changed") }
            .hint("plan again once that is mended")
    };
    Err(error)
}

/// The run stays where it is: what was begun is read back when it is gone on with.
async fn interrupted(
    name: &str,
    mut signals: Signals,
    run: &str,
    plan: &Plan,
    journal: &mut Journal,
    executor: &Executor<'_>,
) -> CliError {
    let step = journal.state.next(plan.steps.len() as u64).unwrap_or_default();
    let stopped = journal.append(&Event::Stopped { step, at: Timestamp::now(), why: format!("interrupted by {name}") });
    // A second signal waits for nothing.
    tokio::select! {
        () = executor.withdraw(&journal.state) => {}
        _ = signals.next() => {}
    }
    CliError {
        causes: stopped.err().map(|error| error.to_string()).into_iter().chain(closed(plan, &journal.state)).collect(),
        ..CliError::new(Exit::Midway, format!("interrupted by {name} at step {step} of {}", plan.steps.len()))
    }
    .hint(format!("`capplan resume {run}` goes on from there, `capplan abort {run}` gives it up"))
}

/// Alerts that fire now and did not when the run began; without Prometheus nothing is said of them.
async fn alerts(config: &Config, run: &RunState) -> Result<Exit, CliError> {
    let (Some(at), Some((began, _))) = (&config.prometheus, &run.began) else { return Ok(Exit::Done) };
    let asked = match at.client() {
        Ok(prometheus) => prometheus.new_alerts(*began, Timestamp::now()).await,
        Err(error) => Err(error),
    };
    match asked {
        Ok(new) if new.is_empty() => Ok(Exit::Done),
        Ok(new) => {
            Err(CliError { causes: new, ..CliError::new(Exit::ActionNeeded, "it is done, and alerts fire that did not before") })
        }
        Err(error) => {
            note(format!("unknown: whether new alerts fire: {error}"));
            Ok(Exit::Done)
        }
    }
}

/// Whether anything was done at all.
fn changed(state: &RunState) -> bool {
    state.steps.values().any(|step| step.started)
}

/// Nodes that the run has closed and not opened again, in words.
fn closed(plan: &Plan, state: &RunState) -> Option<String> {
    let mut nodes: BTreeSet<&NodeName> = BTreeSet::new();
    for step in plan.steps.iter().filter(|step| state.step(step.number).started) {
        if let StepAction::Cordon { node } = &step.change {
            nodes.insert(node);
        } else if let StepAction::Uncordon { node } | StepAction::DeleteNode { node, .. } = &step.change
            && state.step(step.number).ensured
        {
            nodes.remove(node);
        }
    }
    let mut names: Vec<String> = nodes.into_iter().map(ToString::to_string).collect();
    names.extend(state.steps.values().flat_map(|step| &step.closed).map(ToString::to_string));
    (!names.is_empty()).then(|| format!("closed to new pods meanwhile: {}", names.join(", ")))
}

/// Whether a node is being taken out: there is no way back by opening it.
fn out_of_return(plan: &Plan, state: &RunState) -> bool {
    let is_out = |change: &StepAction| matches!(change, StepAction::DeleteNode { .. });
    plan.steps.iter().any(|step| is_out(&step.change) && state.step(step.number).started)
}

fn tell(told: &Told, output: Output) {
    match (output, told) {
        (Output::Json, _) => event(&EventLine::Told(told.clone())),
        (Output::Text, Told::Run { run }) => note(format!("run {run}")),
        (Output::Text, Told::Step { step, of, title }) => note(format!("[{step}/{of}] {title}")),
        (Output::Text, Told::Waiting { why, seconds, .. }) => note(format!("      {seconds:>4} s  waiting: {why}")),
        (Output::Text, Told::Note { text, .. }) => note(format!("      note: {text}")),
        (Output::Text, Told::Done { already: true, .. }) => note("      was so already"),
        (Output::Text, Told::Done { seconds, .. }) => note(format!("      {seconds:>4} s  done")),
    }
}

/// One line of JSON on stdout; a reader that hangs up does not stop the work.
fn event(event: &EventLine) {
    if let Ok(line) = serde_json::to_string(event) {
        drop(super::print(&format!("{line}\n")));
    }
}

/// Who does it: user and machine.
pub(super) fn by() -> String {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok()).unwrap_or_else(|| "somebody".to_owned());
    let machine = std::fs::read_to_string("/etc/hostname").unwrap_or_default();
    format!("{user}@{}", if machine.trim().is_empty() { "unknown" } else { machine.trim() })
}

pub(super) fn not_given_up(run: &str, why: String) -> CliError {
    CliError { causes: vec![why], ..CliError::new(Exit::Midway, format!("{run} could not be given up")) }
        .hint(format!("`capplan abort {run}` once both planes answer; `--leave-behind` leaves credentials for you to delete"))
}
