//! What a signal does: a prompt gives the terminal back, a run stops where it can be gone on with.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::ui::{Exit, note};

/// Signals that ask this process to end. From when they are listened for, they end nothing by themselves.
pub(crate) struct Signals(Option<[(&'static str, Signal); 3]>);

impl Signals {
    /// Listens from now on. A process that cannot is ended by them as usual.
    pub(crate) fn listen() -> Self {
        let of = |kind, name| Some((name, signal(kind).ok()?));
        let all = || {
            Some([
                of(SignalKind::interrupt(), "SIGINT")?,
                of(SignalKind::terminate(), "SIGTERM")?,
                of(SignalKind::hangup(), "SIGHUP")?,
            ])
        };
        Self(all())
    }

    /// Waits for the next one, and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        let Some([one, two, three]) = &mut self.0 else { return std::future::pending().await };
        tokio::select! {
            _ = one.1.recv() => one.0,
            _ = two.1.recv() => two.0,
            _ = three.1.recv() => three.0,
        }
    }
}

/// Asks with `ask`, which takes the terminal over. A signal meanwhile gives the terminal back, says `refused`, and ends
/// the process: nothing was changed yet.
pub(crate) fn prompted<T>(refused: &'static str, ask: impl FnOnce() -> T) -> T {
    let mut signals = Signals::listen();
    let guard = tokio::spawn(async move {
        let name = signals.next().await;
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
