//! Turns the report's values into text, Markdown, JSON, CSV and HTML. The only place that knows
//! columns and colours.

pub mod charts;
pub mod csv;
pub mod html;
pub mod json;
pub mod markdown;
pub mod plan;
pub mod simulation;
pub mod text;

mod page;

use capplan_planner::report::{Action, Recommendation, Severity, Verdict};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// A share as a percentage with one decimal; unknown is said.
pub fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "unknown".to_owned(), |share| format!("{:.1}%", share * 100.0))
}

/// Any amount; unknown is said.
pub fn or_unknown<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

/// `2026-08-20 09:00 UTC`.
pub fn instant(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M UTC").to_string()
}

/// `2026-08-20`.
pub fn date(at: Timestamp) -> String {
    at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d").to_string()
}

/// A verdict in words.
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Met => "met",
        Verdict::NotMet => "not met",
        Verdict::InsufficientData => "insufficient data",
    }
}

/// A severity in words.
pub fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        Severity::Info => "info",
    }
}

/// The recommended action as a sentence, with its target.
pub fn action(next: &Recommendation) -> String {
    let with = |words: &str| next.target.as_ref().map_or_else(String::new, |target| format!("{words}{target}"));
    match next.action {
        Action::ScaleUp => format!("add a worker{}", with(" on ")),
        Action::ScaleDown => format!("remove a worker{}", with(": ")),
        Action::Reclaim => format!("reclaim what is lost{}", with(" on ")),
        Action::RaiseVolumeLabel => format!("raise the volume label{}", with(" of ")),
        Action::Rebalance => format!("move pods{}", with(" off ")),
        Action::RightSize => format!("lower memory requests{}", with(", first of ")),
        Action::MoveClaims => format!("move claims to another storage{}", with(": ")),
        Action::WakeSpare => format!("start a spare worker{}", with(": ")),
        Action::ResizeGuest => format!("shrink a VM{}", with(": ")),
        Action::IoVeto => "another worker is due, but the disks are the bottleneck".to_owned(),
        Action::None if next.blocked => "another worker is due, but cannot be added".to_owned(),
        Action::None => "nothing to do".to_owned(),
        Action::InsufficientData => "insufficient data to recommend anything".to_owned(),
        // Only asked for by name.
        Action::Drain | Action::DrainOrder | Action::Evacuate | Action::Replace => format!("{}{}", next.action.name(), with(" ")),
    }
}
