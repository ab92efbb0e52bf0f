//! `capplan completions` and `capplan man`.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use super::Cli;
use crate::ui::{CliError, Exit, note};

/// Print shell completions
#[derive(Debug, clap::Args)]
pub struct CompletionArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Write the man pages to a folder
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Folder, such as ~/.local/share/man/man1
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Runs `completions`.
pub(super) fn completions(args: &CompletionArgs) -> Result<Exit, CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "capplan", &mut script);
    super::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}

/// Runs `man`.
pub(super) fn pages(args: &ManArgs) -> Result<Exit, CliError> {
    let failed =
        |error: std::io::Error| CliError::new(Exit::Unexpected, format!("cannot write to {}: {error}", args.folder.display()));
    std::fs::create_dir_all(&args.folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.folder).map_err(failed)?;
    note(format!("wrote the man pages to {}", args.folder.display()));
    Ok(Exit::Done)
}
