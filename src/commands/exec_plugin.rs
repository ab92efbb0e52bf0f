//! Runs an exec plugin of a kubeconfig in bounded time.
//!
//! The Kubernetes client waits for its plugin without a limit, and for the end of its output. So this program is run
//! in its place: it has pipes of its own to the plugin, and ends when its time is over, whoever still holds them.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::ui::{CliError, Exit};

/// Between two looks whether the plugin has ended.
const LOOK: Duration = Duration::from_millis(20);
/// For what the plugin wrote last, once it has ended.
const REST: Duration = Duration::from_secs(1);
/// Most that a plugin may write: a credential takes some kilobytes.
const MOST: u64 = 1 << 20;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds that it may take
    seconds: u64,
    /// The plugin and its arguments
    #[arg(required = true, last = true)]
    plugin: Vec<String>,
}

pub(super) fn run(args: &Args) -> Result<Exit, CliError> {
    let begun = Instant::now();
    let (program, arguments) = args.plugin.split_first().ok_or_else(|| CliError::new(Exit::Usage, "no plugin is named"))?;
    let failed = |why: String| CliError::new(Exit::Unexpected, format!("the exec plugin {program} of the kubeconfig {why}"));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::inherit())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("cannot be run: {error}")))?;
    let (sender, written) = channel();
    if let Some(mut out) = child.stdout.take() {
        std::thread::spawn(move || {
            let mut text = Vec::new();
            drop(Read::by_ref(&mut out).take(MOST).read_to_end(&mut text));
            drop(sender.send(text));
        });
    }
    // What it tells a human is passed on as it comes.
    if let Some(mut err) = child.stderr.take() {
        std::thread::spawn(move || drop(std::io::copy(&mut err, &mut std::io::stderr())));
    }
    let limit = Duration::from_secs(args.seconds);
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => break,
            Ok(Some(status)) => return Err(failed(format!("failed: {status}"))),
            Ok(None) if begun.elapsed() < limit => std::thread::sleep(LOOK),
            Ok(None) => {
                drop(child.kill());
                drop(child.wait());
                return Err(failed(format!("gave no credential within {} s", args.seconds))
                    .hint("CAPPLAN_READ_TIMEOUT sets the seconds that it may take"));
            }
            Err(error) => return Err(failed(format!("cannot be waited for: {error}"))),
        }
    }
    // A process that the plugin left behind may hold its output open.
    let text = written.recv_timeout(REST).map_err(|_| failed("did not end its output".to_owned()))?;
    std::io::stdout().write_all(&text).map_err(|error| failed(format!("is not listened to: {error}")))?;
    Ok(Exit::Done)
}
