//! The report as one HTML page: no script, nothing loaded, readable in light, dark and print.
//!
//! The template knows the layout; here are the words for values and what the template cannot work
//! out itself: the charts and the strips of slots.

use capplan_model::capacity::Unit;
use capplan_model::slots::PLUGIN_SLOTS;
use capplan_model::units::{Bytes, MilliCpu};
use capplan_planner::report::{Chart, Report, SlotRow};
use jiff::Timestamp;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;

use super::charts::{self, ChartError, Shape};

const TEMPLATE: &str = include_str!("html.j2");
/// What stands for a missing number.
const UNKNOWN: &str = "<span class=\"unknown\">unknown</span>";

/// Why the page could not be written.
#[derive(Debug, thiserror::Error)]
pub enum HtmlError {
    /// A chart could not be drawn.
    #[error("chart `{title}` cannot be drawn")]
    Chart {
        /// Its title.
        title: String,
        /// What plotters says.
        source: ChartError,
    },
    /// The template does not fit the report.
    #[error("page cannot be filled in")]
    Template(#[from] minijinja::Error),
}

#[derive(Serialize)]
struct Page<'a> {
    report: &'a Report,
    next_step: String,
    charts: Vec<Figure<'a>>,
    strips: Vec<Strip>,
    version: &'static str,
}

/// A chart with all that is said of it in text.
#[derive(Serialize)]
struct Figure<'a> {
    title: &'a str,
    label: String,
    wide: String,
    narrow: String,
    lines: Vec<Line<'a>>,
    thresholds: Vec<(&'a str, String)>,
}

#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    first: String,
    least: String,
    most: String,
    last: String,
}

/// The plugin's 29 slots of a worker by what is in them; not by number, which the report does not keep.
#[derive(Serialize)]
struct Strip {
    label: String,
    runs: Vec<Run>,
}

#[derive(Serialize)]
struct Run {
    class: &'static str,
    letter: &'static str,
    count: u64,
}

/// Renders the report as a page.
///
/// # Errors
/// [`HtmlError`] if a chart cannot be drawn or the template does not fit the report.
pub fn page(report: &Report) -> Result<String, HtmlError> {
    let charts = report.charts.iter().map(figure).collect::<Result<_, _>>()?;
    let strips = report.slots.iter().map(strip).collect();
    let environment = environment()?;
    let template = environment.get_template("report.html")?;
    let page = Page {
        report,
        next_step: first_upper(&super::action(&report.recommendation)),
        charts,
        strips,
        version: env!("CARGO_PKG_VERSION"),
    };
    Ok(template.render(Value::from(Serde(&page)))?)
}

fn environment() -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.add_filter("amount", |value: Value, unit: &str| number(&value, |value| amount(value, unit)));
    environment.add_filter("growth", |value: Value, unit: &str| number(&value, |value| growth(value, unit)));
    environment.add_filter("bytes", |value: Value| number(&value, |value| Bytes(value as u64).to_string()));
    environment.add_filter("cores", |value: Value| number(&value, |value| MilliCpu(value as u64).to_string()));
    environment.add_filter("percent", |value: Value| number(&value, |value| format!("{:.1} %", value * 100.0)));
    environment.add_filter("number", |value: Value| number(&value, plain));
    environment.add_filter("known", |value: Value| if is_missing(&value) { unknown() } else { value });
    environment.add_filter("moment", |value: Value| moment(&value, "%Y-%m-%d %H:%M UTC"));
    environment.add_filter("day", |value: Value| moment(&value, "%Y-%m-%d"));
    environment.add_filter("words", |value: &str| value.replace('-', " "));
    environment.add_filter("width", |value: Value| match f64::try_from(value) {
        Ok(ratio) => format!("{:.1}%", (ratio * 100.0).clamp(0.0, 100.0)),
        Err(_) => "0%".to_owned(),
    });
    environment.add_template("report.html", TEMPLATE)?;
    Ok(environment)
}

/// The same with a capital at its beginning.
fn first_upper(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn unknown() -> Value {
    Value::from_safe_string(UNKNOWN.to_owned())
}

fn is_missing(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::None | ValueKind::Undefined) || value.as_str() == Some("")
}

fn number(value: &Value, write: impl Fn(f64) -> String) -> Value {
    match f64::try_from(value.clone()) {
        Ok(number) if number.is_finite() => Value::from(write(number)),
        _ => unknown(),
    }
}

fn moment(value: &Value, format: &str) -> Value {
    match value.as_str().and_then(|text| text.parse::<Timestamp>().ok()) {
        Some(at) => Value::from(at.strftime(format).to_string()),
        None => unknown(),
    }
}

fn plain(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.1}") }
}

/// An amount in the words of its unit, which comes by its name in the JSON.
fn amount(value: f64, unit: &str) -> String {
    let is = |known: Unit| serde_json::to_value(known).is_ok_and(|name| name == unit);
    if is(Unit::Bytes) {
        Bytes(value as u64).to_string()
    } else if is(Unit::MilliCpu) {
        MilliCpu(value as u64).to_string()
    } else {
        plain(value)
    }
}

/// A signed amount per day: two digits matter for counts that grow slowly.
fn growth(value: f64, unit: &str) -> String {
    let sign = if value < 0.0 { '−' } else { '+' };
    let size = match amount(value.abs(), unit) {
        text if text.contains(' ') => text,
        _ => format!("{:.2}", value.abs()),
    };
    format!("{sign}{size} a day")
}

fn figure(chart: &Chart) -> Result<Figure<'_>, HtmlError> {
    let draw = |shape| charts::svg(chart, shape).map_err(|source| HtmlError::Chart { title: chart.title.clone(), source });
    let write = |value: f64| charts::value(value, chart.unit);
    let lines: Vec<Line<'_>> = chart
        .lines
        .iter()
        .filter_map(|(name, points)| {
            let values = || points.iter().map(|(_, value)| *value);
            Some(Line {
                name,
                first: write(values().next()?),
                least: write(values().reduce(f64::min)?),
                most: write(values().reduce(f64::max)?),
                last: write(values().next_back()?),
            })
        })
        .collect();
    let thresholds: Vec<(&str, String)> = chart.thresholds.iter().map(|(name, level)| (name.as_str(), write(*level))).collect();
    let times = || chart.lines.values().flatten().filter_map(|(at, _)| Timestamp::from_second(*at).ok());
    let span = match (times().min(), times().max()) {
        (Some(first), Some(last)) => format!(", {} to {}", first.strftime("%Y-%m-%d"), last.strftime("%Y-%m-%d")),
        _ => String::new(),
    };
    let said = lines.iter().map(|one| format!("{} from {} to {}, now {}", one.name, one.least, one.most, one.last));
    let levels = thresholds.iter().map(|(name, level)| format!("threshold {name} at {level}"));
    let label = format!("Line chart: {}{span}. {}.", chart.title, said.chain(levels).collect::<Vec<_>>().join("; "));
    Ok(Figure { title: &chart.title, label, wide: draw(Shape::Wide)?, narrow: draw(Shape::Narrow)?, lines, thresholds })
}

fn strip(row: &SlotRow) -> Strip {
    let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, |list| list.len() as u64);
    // Unknown ghosts are among the CSI volumes: the strip says what is in a slot, not whose it is.
    let (ghosts, foreign) = (count(&row.ghosts), count(&row.foreign));
    let Some(occupied) = row.occupied else {
        let runs = vec![Run { class: "x", letter: "?", count: PLUGIN_SLOTS }];
        return Strip { label: format!("what is in the {PLUGIN_SLOTS} slots is unknown"), runs };
    };
    let empty = PLUGIN_SLOTS.saturating_sub(occupied);
    // Without the scheduler's ledger nobody knows which empty slots can be used.
    let (free, withheld, open) = match row.free {
        Some(free) => (free.min(empty), empty.saturating_sub(free), 0),
        None => (0, 0, empty),
    };
    let volumes = occupied.saturating_sub(foreign).saturating_sub(ghosts);
    let all = [
        ("v", "V", volumes, "CSI volumes"),
        ("g", "G", ghosts, "ghosts"),
        ("o", "F", foreign, "foreign disks"),
        ("w", "–", withheld, "empty, but not offered by the scheduler"),
        ("f", "", free, "free"),
        ("x", "?", open, "empty, use unknown"),
    ];
    let said: Vec<String> = all.iter().filter(|one| one.2 > 0).map(|(_, _, count, what)| format!("{what} {count}")).collect();
    Strip {
        label: format!("{PLUGIN_SLOTS} slots: {}", said.join(", ")),
        runs: all.into_iter().map(|(class, letter, count, _)| Run { class, letter, count }).collect(),
    }
}
