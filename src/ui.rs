//! Talking to the user: data on stdout, everything else on stderr, exit codes.

use std::fmt::Display;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use style::{BOLD, RED, RESET};

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
        note(format!("{BOLD}{RED}error:{RESET} {}", self.what));
        for cause in &self.causes {
            note(format!("  caused by: {cause}"));
        }
        if !self.hints.is_empty() {
            note("");
        }
        for hint in &self.hints {
            note(format!("hint: {hint}"));
        }
    }
}

/// Styles of text, as characters that no terminal takes for a command: they become escape sequences when the text is
/// written, after everything else that could be one was made visible.
pub mod style {
    /// Bold.
    pub const BOLD: &str = "\u{f0001}";
    /// Dim.
    pub const DIM: &str = "\u{f0002}";
    /// Red.
    pub const RED: &str = "\u{f0003}";
    /// Yellow.
    pub const YELLOW: &str = "\u{f0004}";
    /// Green.
    pub const GREEN: &str = "\u{f0005}";
    /// Back to plain text.
    pub const RESET: &str = "\u{f0006}";

    /// The escape sequence of a style.
    pub(super) fn sequence(c: char) -> Option<&'static str> {
        match c {
            '\u{f0001}' => Some("\u{1b}[1m"),
            '\u{f0002}' => Some("\u{1b}[2m"),
            '\u{f0003}' => Some("\u{1b}[31m"),
            '\u{f0004}' => Some("\u{1b}[33m"),
            '\u{f0005}' => Some("\u{1b}[32m"),
            '\u{f0006}' => Some("\u{1b}[0m"),
            _ => None,
        }
    }

    /// Whether a character is a style and takes no room.
    pub fn is_style(c: char) -> bool {
        sequence(c).is_some()
    }
}

/// Whether a terminal takes a character for a command, or shows text in another order for it.
///
/// # Source
/// Unicode category Cc without line feed and tab; the bidirectional formatting characters (UAX #9) and the line and
/// paragraph separators.
fn is_command(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t'))
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Text in which nothing is a command to a terminal: such characters are shown as `\u001b`, which is what JSON makes of
/// them as well.
pub fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_command(c) { shown.push_str(&format!("\\u{:04x}", u32::from(c))) } else { shown.push(c) }
    }
    shown
}

/// The same with its styles as escape sequences.
pub fn styled(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in visible(text).chars() {
        match style::sequence(c) {
            Some(sequence) => shown.push_str(sequence),
            None => shown.push(c),
        }
    }
    shown
}

/// The same without styles.
pub fn plain(text: &str) -> String {
    visible(text).chars().filter(|c| !style::is_style(*c)).collect()
}

/// A remark on stderr.
pub fn note(text: impl Display) {
    anstream::eprintln!("{}", styled(&text.to_string()));
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
        self.0.set_message(visible(what));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_character_of_an_input_is_a_command_to_a_terminal() {
        let hostile = "a\u{1b}[2J\u{9b}31m\u{7}\r\u{7f}\u{202e}b\tc\n";
        assert_eq!(visible(hostile), "a\\u001b[2J\\u009b31m\\u0007\\u000d\\u007f\\u202eb\tc\n");
        for code in 0..0x11_0000_u32 {
            let Some(c) = char::from_u32(code) else { continue };
            let shown = visible(&c.to_string());
            assert!(!shown.chars().any(|c| c.is_control() && c != '\n' && c != '\t'), "{code:x}");
        }
    }

    #[test]
    fn only_our_own_styles_become_escape_sequences() {
        assert_eq!(styled(&format!("{RED}no{RESET}\u{1b}[31m")), "\u{1b}[31mno\u{1b}[0m\\u001b[31m");
        assert_eq!(plain(&format!("{RED}no{RESET}")), "no");
    }

    #[test]
    fn json_stays_json() {
        let text = serde_json::to_string("\u{1b}\u{9b}\u{202e}").expect("a string");
        assert_eq!(serde_json::from_str::<String>(&visible(&text)).expect("JSON"), "\u{1b}\u{9b}\u{202e}");
    }
}
