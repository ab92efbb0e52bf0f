//! `capplan report`.

use std::path::PathBuf;

use capplan_model::history::History;
use capplan_planner::report::{Action, Report, Severity, build};
use clap::ValueEnum;

use super::history::{Archive, NO_IDENTITY};
use super::observed::{From, Observed};
use crate::config::{Config, Options};
use crate::render;
use crate::ui::{CliError, Exit, note};

/// What is used of what, which limit bites first, and what to do about it
///
/// Reads both planes (or a snapshot), judges the policy's rules now and over their windows, and
/// recommends the next step with its reasons. Each live run adds a sample to the history.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    from: From,
    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Write report.html, report.md and report.json to this folder instead of printing
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Exit with 3 if an action is recommended or something is critical, with 6 if too little is known
    #[arg(long)]
    check: bool,
    /// Block volumes about to be added: judged by the runbook's rule for planned volumes
    #[arg(long, value_name = "COUNT")]
    planned_volumes: Option<u64>,
    /// Confirm that no growth is coming: a scale-down needs a human to say so
    #[arg(long)]
    confirm_no_growth: bool,
    /// Neither read nor write the history
    #[arg(long)]
    no_history: bool,
}

/// How to print a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For a terminal of 80 columns
    #[default]
    Text,
    /// Tables for a wiki or an issue
    Markdown,
    /// Everything, by the published schema (`capplan schema report`)
    Json,
    /// The capacity table
    Csv,
}

/// Runs the command.
pub(super) async fn run(options: &Options, args: &Args) -> Result<Exit, CliError> {
    let mut config = Config::load(options)?;
    if let Some(planned) = args.planned_volumes {
        config.policy.plan.planned_volumes = planned;
    }
    config.policy.plan.no_growth_confirmed |= args.confirm_no_growth;
    let observed = args.from.observe(&config).await?;
    let report = report(&config, observed, args.no_history).await;
    match &args.out {
        Some(folder) => {
            super::folder(folder)?;
            super::write(&folder.join("report.json"), &text(&report, Format::Json)?)?;
            super::write(&folder.join("report.md"), &text(&report, Format::Markdown)?)?;
            let page = render::html::page(&report).map_err(|error| CliError::from_error(Exit::Unexpected, &error))?;
            super::write(&folder.join("report.html"), &page)?;
            note(format!("wrote report.html, report.md and report.json to {}", folder.display()));
        }
        None => super::print(&text(&report, args.format)?)?,
    }
    Ok(if args.check { check(&report) } else { Exit::Done })
}

async fn report(config: &Config, observed: Observed, no_history: bool) -> Report {
    let id = observed.id();
    let Observed { snapshot, history, live, .. } = observed;
    let (history, unread) = match history {
        Some(history) => (history, Vec::new()),
        None if no_history => Default::default(),
        None => match Archive::of(config, &snapshot.cluster) {
            Some(archive) => archive.for_report(config, &snapshot, live).await,
            None => (History::default(), vec![("history".to_owned(), NO_IDENTITY.to_owned())]),
        },
    };
    build(&snapshot, id, &history, &config.policy, unread)
}

fn text(report: &Report, format: Format) -> Result<String, CliError> {
    let failed = |error: &(dyn std::error::Error + 'static)| CliError::from_error(Exit::Unexpected, error);
    match format {
        Format::Text => Ok(render::text::report(report)),
        Format::Markdown => Ok(render::markdown::report(report)),
        Format::Json => render::json::text(report).map_err(|error| failed(&error)),
        Format::Csv => render::csv::report(report).map_err(|error| failed(&error)),
    }
}

fn check(report: &Report) -> Exit {
    let critical = report.findings.iter().any(|finding| finding.severity == Severity::Critical);
    match report.recommendation.action {
        _ if critical || report.recommendation.blocked => Exit::ActionNeeded,
        Action::InsufficientData => Exit::InsufficientData,
        Action::None => Exit::Done,
        Action::Drain
        | Action::DrainOrder
        | Action::Evacuate
        | Action::ScaleDown
        | Action::ScaleUp
        | Action::Reclaim
        | Action::RaiseVolumeLabel
        | Action::Rebalance
        | Action::RightSize
        | Action::MoveClaims
        | Action::WakeSpare
        | Action::Replace
        | Action::ResizeGuest
        | Action::IoVeto => Exit::ActionNeeded,
    }
}
