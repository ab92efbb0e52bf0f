//! `capplan schema`.

use clap::ValueEnum;

use crate::render;
use crate::ui::{CliError, Exit};

/// Print the JSON Schema of a format
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Which format
    #[arg(value_enum)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// capplan.report/1
    Report,
}

/// Runs the command.
pub(super) fn run(args: &Args) -> Result<Exit, CliError> {
    let schema = match args.format {
        Format::Report => render::json::schema(),
    };
    super::print(&schema.map_err(|error| CliError::from_error(Exit::Unexpected, &error))?)?;
    Ok(Exit::Done)
}
