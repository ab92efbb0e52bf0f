//! `capplan policy`.

use capplan_model::policy;

use crate::ui::{CliError, Exit};

/// Print the built-in policy: the runbook's rules as data
///
/// Save it, change it, and name it with --policy or in the configuration.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the command.
pub(super) fn run(_: &Args) -> Result<Exit, CliError> {
    super::print(policy::BUILT_IN)?;
    Ok(Exit::Done)
}
