//! Talking to the user: data on stdout, everything else on stderr, exit codes.

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How the program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done, or nothing to do.
    Done = 0,
    /// Something unexpected: a file or an API that cannot be read.
    Unexpected = 1,
    /// The command line, the configuration or the policy is wrong.
    Usage = 2,
    /// It does not fit, or (`--check`) an action is recommended or something is critical.
    ActionNeeded = 3,
    /// A gate refused; nothing was changed.
    Refused = 4,
    /// Stopped midway: run `resume`.
    Midway = 5,
    /// Too little was read to say.
    InsufficientData = 6,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// What went wrong, in the order a user needs it: what, why, what to do.
#[derive(Debug)]
pub struct CliError {
    /// What did not work.
    pub what: String,
    /// Why, outermost cause first.
    pub causes: Vec<String>,
    /// What to do about it.
    pub hints: Vec<String>,
    /// How the program ends.
    pub exit: Exit,
}

impl CliError {
    /// An error without a cause or a hint.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self { what: what.into(), causes: Vec::new(), hints: Vec::new(), exit }
    }

    /// An error with all its causes.
    pub fn from_error(exit: Exit, error: &(dyn std::error::Error + 'static)) -> Self {
        let mut causes: Vec<String> = Vec::new();
        let what = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Some libraries repeat their source in their own text.
            if !what.contains(&text) && causes.last().is_none_or(|last| !last.contains(&text)) {
                causes.push(text);
            }
            source = cause.source();
        }
        Self { what, causes, hints: Vec::new(), exit }
    }

    /// Adds a way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds a way out, if there is one.
    #[must_use]
    pub fn hint_if(self, hint: Option<impl Into<String>>) -> Self {
        match hint {
            Some(hint) => self.hint(hint),
            None => self,
        }
    }

    /// Shows it on stderr.
    pub fn show(&self) {
        anstream::eprintln!("\u{1b}[1;31merror:\u{1b}[0m {}", self.what);
        for cause in &self.causes {
            anstream::eprintln!("  caused by: {cause}");
        }
        if !self.hints.is_empty() {
            anstream::eprintln!();
        }
        for hint in &self.hints {
            anstream::eprintln!("hint: {hint}");
        }
    }
}

/// A remark on stderr.
pub fn note(text: impl Display) {
    anstream::eprintln!("{text}");
}

/// A spinner on stderr that names what is being read; silent where stderr is no terminal.
#[derive(Clone)]
pub struct Progress(ProgressBar);

impl Progress {
    /// Starts it.
    pub fn start(what: &str) -> Self {
        let bar = if std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {wide_msg}") {
            bar.set_style(style);
        }
        bar.set_prefix(what.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        Self(bar)
    }

    /// Names what is being read now.
    pub fn reading(&self, what: &str) {
        self.0.set_message(what.to_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
