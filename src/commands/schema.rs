//! `capplan schema`.

use crate::render;
use crate::ui::{CliError, Exit};

/// Print the JSON Schema of a format
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which format
    #[arg(value_enum)]
    format: render::json::Format,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<Exit, CliError> {
    let schema = render::json::schema(args.format);
    super::print(&schema.map_err(|error| CliError::from_error(Exit::Unexpected, &error))?)?;
    Ok(Exit::Done)
}
