//! Parses the command line, runs the command, sets the exit code.

use std::process::ExitCode;

use capplan::commands::{Cli, run};
use capplan::ui::{CliError, Exit};
use clap::Parser;
use tracing_subscriber::EnvFilter;

/// A snapshot is millions of small texts: the system's allocator takes a sixth longer over them. Huge
/// pages are off: a small cluster would take twice its memory.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // kube logs whole answers when it cannot parse them, and credentials pass through exec plugins:
    // dependencies stay silent unless someone asks for them by name.
    let filter = EnvFilter::try_from_env("CAPPLAN_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to stdout and are no failure.
            drop(error.print());
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            CliError::from_error(Exit::Unexpected, &error).show();
            return Exit::Unexpected.into();
        }
    };
    match runtime.block_on(run(cli)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            error.show();
            error.exit.into()
        }
    }
}
