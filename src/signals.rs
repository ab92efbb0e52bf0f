//! What a signal does: a prompt gives the terminal back, a run stops where it can be gone on with.

use tokio::signal::unix::{SignalKind, signal};

use crate::ui::{Exit, note};

/// Waits for a signal that asks this process to end, and names it.
///
/// A process that cannot listen for signals is ended by them as usual.
pub(crate) async fn asked_to_end() -> &'static str {
    let listen = || {
        Some((signal(SignalKind::interrupt()).ok()?, signal(SignalKind::terminate()).ok()?, signal(SignalKind::hangup()).ok()?))
    };
    let Some((mut interrupt, mut terminate, mut hangup)) = listen() else { return std::future::pending().await };
    tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
        _ = hangup.recv() => "SIGHUP",
    }
}

/// Asks with `ask`, which takes the terminal over. A signal meanwhile gives the terminal back, says `refused`, and ends
/// the process: nothing was changed yet.
pub(crate) fn prompted<T>(refused: &'static str, ask: impl FnOnce() -> T) -> T {
    let guard = tokio::spawn(async move {
        let name = asked_to_end().await;
        drop(crossterm::terminal::disable_raw_mode());
        drop(crossterm::execute!(std::io::stderr(), crossterm::cursor::Show));
        note("");
        note(format!("{name}: {refused}"));
        std::process::exit(Exit::Refused as i32);
    });
    let answer = tokio::task::block_in_place(ask);
    guard.abort();
    answer
}
