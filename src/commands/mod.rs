//! One file per command.

pub mod apply;
mod carry;
pub mod doctor;
mod exec_plugin;
pub mod history;
pub mod init;
pub mod man;
pub mod plan;
pub mod policy;
pub mod report;
pub mod runs;
pub mod schema;
pub mod simulate;
pub mod snapshot;

mod observed;

use std::io::Write;
use std::path::Path;

use capplan_provision::store::files;
use clap::{Parser, Subcommand};

use crate::config::Options;
use crate::ui::{CliError, Exit, styled, visible};

/// Capacity planner for Kubernetes clusters whose nodes are VMs on Proxmox VE
///
/// Reads both planes, says which limit bites first and when, what to do about it, and why.
///
/// Exit codes: 0 done, or nothing to do. 1 unexpected: a file or an API cannot be read. 2 the
/// command line, configuration or policy is wrong. 3 it does not fit, or (--check) an action is
/// recommended or something is critical. 4 refused by a gate, nothing changed. 5 stopped midway.
/// 6 too little was read to say.
#[derive(Debug, Parser)]
#[command(name = "capplan", version, max_term_width = 100)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub options: Options,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What is used of what, which limit bites first, and what to do about it.
    Report(report::Args),
    /// What would happen: changes played on a copy of the cluster.
    ///
    /// Plays one or more changes, in the order they are given: places pods as kube-scheduler would,
    /// plugs volumes as the storage plugin would, and shows before, after, and everything that no
    /// longer fits with the reason per node. Exits with 3 if something does not fit, with 6 if that
    /// cannot be said.
    Simulate(Box<simulate::Args>),
    /// What to do: the best next step, or how to empty, add or remove nodes.
    Plan(Box<plan::Args>),
    /// Carry a plan out, step by step; it can be interrupted anywhere.
    Apply(apply::Args),
    /// Go on with a run that stopped.
    Resume(apply::ResumeArgs),
    /// Give a run up: open what it closed, and say how things are.
    Abort(apply::AbortArgs),
    /// What was carried out: when, by whom, how far.
    Runs(runs::Args),
    /// Save both planes to one file.
    Snapshot(snapshot::Args),
    /// The samples that sustained rules and forecasts rest on.
    History(history::Args),
    /// Write a configuration file.
    Init(init::Args),
    /// Check connections, permissions and clocks.
    Doctor(doctor::Args),
    /// Print the built-in policy: the runbook's rules as data.
    Policy(policy::Args),
    /// Print the JSON Schema of a format.
    Schema(schema::Args),
    /// Print shell completions.
    Completions(man::CompletionArgs),
    /// Write the man pages to a folder.
    Man(man::ManArgs),
    /// Run an exec plugin of a kubeconfig, and end it when its time is over.
    #[command(hide = true)]
    ExecPlugin(exec_plugin::Args),
}

/// Runs a command.
///
/// # Errors
/// [`CliError`] with what, why and a way out.
pub async fn run(cli: Cli) -> Result<Exit, CliError> {
    match cli.command {
        Command::Report(args) => report::run(&cli.options, &args).await,
        Command::Simulate(args) => simulate::run(&cli.options, &args).await,
        Command::Plan(args) => plan::run(&cli.options, &args).await,
        Command::Apply(args) => apply::run(&cli.options, &args).await,
        Command::Resume(args) => apply::resume(&cli.options, &args).await,
        Command::Abort(args) => apply::abort(&cli.options, &args).await,
        Command::Runs(args) => runs::run(&cli.options, &args),
        Command::Snapshot(args) => snapshot::run(&cli.options, &args).await,
        Command::History(args) => history::run(&cli.options, &args).await,
        Command::Init(args) => init::run(&cli.options, &args),
        Command::Doctor(args) => doctor::run(&cli.options, &args).await,
        Command::Policy(args) => policy::run(&args),
        Command::Schema(args) => schema::run(&args),
        Command::Completions(args) => man::completions(&args),
        Command::Man(args) => man::pages(&args),
        Command::ExecPlugin(args) => exec_plugin::run(&args),
    }
}

/// Writes data to stdout; a reader that hangs up is no error.
pub(crate) fn print(text: &str) -> Result<(), CliError> {
    match anstream::stdout().write_all(styled(text).as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CliError::new(Exit::Unexpected, format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

/// Makes a folder for its owner alone, naming it if that fails.
pub(crate) fn folder(path: &Path) -> Result<(), CliError> {
    files::folder(path).map_err(|error| CliError::new(Exit::Unexpected, format!("cannot create {}: {error}", path.display())))
}

/// Writes a file for its owner alone, whole or not at all, naming it if that fails.
pub(crate) fn write(path: &Path, text: &str) -> Result<(), CliError> {
    files::write(path, |file| file.write_all(visible(text).as_bytes()))
        .map_err(|error| CliError::new(Exit::Unexpected, format!("cannot write {}: {error}", path.display())))
}
