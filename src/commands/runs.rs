//! `capplan runs`.

use capplan_model::plan::Plan;
use capplan_model::run::{End, Event, RunState};
use capplan_provision::store::journal::Runs;

use super::apply::unwritten;
use crate::config::{Config, Options};
use crate::ui::{CliError, Exit, note};

/// What was carried out: when, by whom, how far
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show the steps of this run
    #[arg(value_name = "RUN")]
    run: Option<String>,
}

/// How a run ended, in a word.
pub(super) fn ended(end: End) -> &'static str {
    match end {
        End::Finished => "finished",
        End::Aborted => "given up",
    }
}

/// Runs the command.
pub(super) fn run(options: &Options, args: &Args) -> Result<Exit, CliError> {
    let config = Config::load(options)?;
    let runs = Runs::of(&config.state_dir);
    if let Some(run) = &args.run {
        let (plan, events, state) = runs.read(run).map_err(unwritten)?;
        super::print(&one(run, &plan, &events, &state))?;
        return Ok(Exit::Done);
    }
    let names = runs.names().map_err(unwritten)?;
    if names.is_empty() {
        note(format!("no runs in {}", runs.folder().display()));
    }
    let mut text = String::new();
    for name in names {
        let (plan, _, state) = runs.read(&name).map_err(unwritten)?;
        text.push_str(&format!("{name}  {}  {}\n", line(&plan, &state), plan.target.as_deref().unwrap_or("")));
    }
    super::print(&text)?;
    Ok(Exit::Done)
}

fn line(plan: &Plan, state: &RunState) -> String {
    let done = state.steps.values().filter(|step| step.ensured).count();
    let how = state.end.map_or("unfinished", ended);
    format!("{:<10}  {done:>3} of {:>3} steps  {}", how, plan.steps.len(), plan.action.name())
}

fn one(name: &str, plan: &Plan, events: &[Event], state: &RunState) -> String {
    let mut text = format!("{name}  {}\n", line(plan, state));
    if let Some((at, by)) = &state.began {
        text.push_str(&format!("begun {at} by {by}\n"));
    }
    for step in &plan.steps {
        let one = state.step(step.number);
        let mark = if one.ensured {
            "done"
        } else if one.started {
            "begun"
        } else {
            ""
        };
        text.push_str(&format!("{:>4}  {mark:<5}  {}\n", step.number, step.title));
    }
    if let Some(why) = &state.stopped {
        text.push_str(&format!("stopped: {why}\n"));
    }
    if let Some(Event::Aborted { left, .. }) = events.last() {
        left.iter().for_each(|line| text.push_str(&format!("left: {line}\n")));
    }
    text
}
