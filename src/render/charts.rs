//! Draws a series of the report as SVG: axes, lines, thresholds, each named where it ends.
//!
//! Deliberately no title and no table of figures: the page says these in text. Colours are those
//! of the light page; the page's style sheet maps them for the dark one.

use capplan_planner::report::{Chart, ChartUnit};
use jiff::{Timestamp, tz::TimeZone};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Colours of the lines, in the order of their names; at least 4.5:1 on white.
pub const LINES: [&str; 8] = ["#1D4ED8", "#B45309", "#0F766E", "#A21CAF", "#4D7C0F", "#B91C1C", "#57534E", "#6D28D9"];

const INK: RGBColor = RGBColor(0x3B, 0x44, 0x50);
const AXIS: RGBColor = RGBColor(0x8A, 0x93, 0x9E);
const GRID: RGBColor = RGBColor(0xE3, 0xE6, 0xEA);
const THRESHOLD: RGBColor = RGBColor(0x11, 0x18, 0x27);

/// Seconds of an hour and of a day.
const HOUR: i64 = 3_600;
const DAY: i64 = 24 * HOUR;

/// Width of a character as a share of the font size, for a font that is not known.
const CHARACTER: f64 = 0.56;
/// plotters writes `font-size = size / 1.24`.
const PLOTTERS_FONT: f64 = 1.24;
/// plotters takes own marks only for whole numbers: values are drawn in millionths.
const FINE: f64 = 1e6;
/// A pause this many times the usual distance of two samples is a gap, and no line crosses it.
const GAP: i64 = 4;

/// Why a chart could not be drawn.
pub type ChartError = plotters::drawing::DrawingAreaErrorKind<std::io::Error>;

/// For which width a chart is drawn. All sizes are about twice those on the screen, because
/// plotters rounds to whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Half a desktop window.
    Wide,
    /// A phone.
    Narrow,
}

impl Shape {
    /// Width and height.
    fn size(self) -> (u32, u32) {
        match self {
            Self::Wide => (1240, 560),
            Self::Narrow => (760, 620),
        }
    }

    /// Width kept for the names of the lines.
    fn names(self) -> u32 {
        match self {
            Self::Wide => 340,
            Self::Narrow => 232,
        }
    }

    fn font(self) -> f64 {
        match self {
            Self::Wide => 25.0,
            Self::Narrow => 24.0,
        }
    }

    fn most_dates(self) -> i64 {
        match self {
            Self::Wide => 7,
            Self::Narrow => 4,
        }
    }

    fn characters(self) -> usize {
        ((f64::from(self.names()) - 40.0) / (self.font() * CHARACTER)) as usize
    }
}

/// A value with the unit of its chart.
pub fn value(value: f64, unit: ChartUnit) -> String {
    match unit {
        ChartUnit::Count if value.fract() == 0.0 => format!("{value:.0}"),
        ChartUnit::Count => format!("{value:.1}"),
        ChartUnit::Share => format!("{:.1} %", value * 100.0),
    }
}

/// Draws `chart`. Names in it are escaped.
///
/// # Errors
/// [`ChartError`] if plotters cannot draw.
pub fn svg(chart: &Chart, shape: Shape) -> Result<String, ChartError> {
    let mut text = String::new();
    draw(chart, shape, &mut text)?;
    // Inside HTML the name space is implied, and the style sheet sets the size.
    let (width, height) = shape.size();
    Ok(text.replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1).replacen(
        &format!("width=\"{width}\" height=\"{height}\" "),
        "aria-hidden=\"true\" ",
        1,
    ))
}

fn draw(chart: &Chart, shape: Shape, text: &mut String) -> Result<(), ChartError> {
    let (start, end) = times(chart);
    let top = top(chart);
    let root = SVGBackend::with_string(text, shape.size()).into_drawing_area();
    let style = |color: RGBColor, h_pos, v_pos| {
        ("sans-serif", shape.font() * PLOTTERS_FONT).into_font().color(&color).pos(Pos::new(h_pos, v_pos))
    };
    let split = shape.size().0 - shape.names();
    let (area, _) = root.split_horizontally(split);
    let y_step = step(top, 5.0, chart.unit);
    let y_marks = (0..).map(|place| f64::from(place) * y_step).take_while(|mark| *mark <= top).map(fine).collect();
    let (x_marks, x_format) = dates(start, end, shape.most_dates());
    let mut plot = ChartBuilder::on(&area)
        .margin_top(18)
        .margin_bottom(4)
        .x_label_area_size((shape.font() * 1.9) as u32)
        .y_label_area_size((shape.font() * 3.7) as u32)
        .build_cartesian_2d((start..end).with_key_points(x_marks), (0..fine(top)).with_key_points(y_marks))?;
    plot.configure_mesh()
        .disable_x_mesh()
        .bold_line_style(GRID.stroke_width(2))
        .light_line_style(TRANSPARENT)
        .axis_style(AXIS.stroke_width(2))
        .label_style(("sans-serif", shape.font() * PLOTTERS_FONT).into_font().color(&INK))
        .x_label_formatter(&|at| date(*at, x_format))
        .y_label_formatter(&|mark| axis_value(*mark as f64 / FINE, y_step, chart.unit))
        .draw()?;

    for level in chart.thresholds.values() {
        let line = [(start, fine(*level)), (end, fine(*level))];
        plot.draw_series(DashedLineSeries::new(line, 12, 9, THRESHOLD.stroke_width(2)))?;
    }
    let mut ends = Vec::new();
    for ((name, points), color) in chart.lines.iter().zip(LINES.iter().cycle()) {
        let color = rgb(color);
        for run in unbroken(points) {
            match run {
                [(at, value)] => drop(plot.draw_series([Circle::new((*at, fine(*value)), 4, color.filled())])?),
                _ => drop(
                    plot.draw_series(LineSeries::new(run.iter().map(|(at, value)| (*at, fine(*value))), color.stroke_width(4)))?,
                ),
            }
        }
        if let Some((at, last)) = points.last() {
            plot.draw_series([Circle::new((*at, fine(*last)), 6, color.filled())])?;
            let text = match shape {
                Shape::Wide => format!("{} {name}", value(*last, chart.unit)),
                Shape::Narrow => name.clone(),
            };
            ends.push((plot.backend_coord(&(*at, fine(*last))), text, color));
        }
    }

    let line_height = (shape.font() * 1.22) as i32;
    let (left, lowest) = plot.backend_coord(&(start, 0));
    let mut levels: Vec<(i32, &str)> =
        chart.thresholds.iter().map(|(name, level)| (plot.backend_coord(&(start, fine(*level))).1, name.as_str())).collect();
    levels.sort_unstable();
    // A name stands on its line; one that has no room there moves down.
    let places = apart(&levels.iter().map(|(y, _)| *y - line_height / 2).collect::<Vec<_>>(), line_height, lowest);
    for ((_, name), y) in levels.iter().zip(places) {
        let name = shortened(name, shape.characters() * 2);
        root.draw(&Text::new(name, (left + 10, y), style(THRESHOLD, HPos::Left, VPos::Center)))?;
    }

    ends.sort_by_key(|((_, y), ..)| *y);
    let places = apart(&ends.iter().map(|((_, y), ..)| *y).collect::<Vec<_>>(), line_height, lowest);
    let border = split as i32;
    for (((x, y), name, color), place) in ends.into_iter().zip(places) {
        root.draw(&PathElement::new([(x, y), (border + 4, y), (border + 20, place)], color.stroke_width(2)))?;
        let text = shortened(&name, shape.characters());
        root.draw(&Text::new(text, (border + 26, place), style(color, HPos::Left, VPos::Center)))?;
    }
    root.present()
}

fn fine(value: f64) -> i64 {
    (value * FINE).round() as i64
}

/// First and last instant, never the same.
fn times(chart: &Chart) -> (i64, i64) {
    let all = || chart.lines.values().flatten().map(|(at, _)| *at);
    match (all().min(), all().max()) {
        (Some(first), Some(last)) if first < last => (first, last),
        (Some(only), _) => (only - HOUR, only + HOUR),
        (None, _) => (0, DAY),
    }
}

/// Upper end of the value axis: above every value and threshold.
fn top(chart: &Chart) -> f64 {
    let values = chart.lines.values().flatten().map(|(_, value)| *value).chain(chart.thresholds.values().copied());
    let most = values.filter(|value| value.is_finite()).fold(0.0, f64::max);
    let least = match chart.unit {
        ChartUnit::Count => 4.0,
        ChartUnit::Share => 0.1,
    };
    f64::max(most * 1.08, least)
}

/// A round distance of marks, so that about `wanted` fit below `top`.
fn step(top: f64, wanted: f64, unit: ChartUnit) -> f64 {
    let raw = top / wanted;
    let decade = 10f64.powf(raw.log10().floor());
    let round = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().find(|factor| factor * decade >= raw).unwrap_or(10.0) * decade;
    match unit {
        ChartUnit::Count => round.ceil().max(1.0),
        ChartUnit::Share => round,
    }
}

fn axis_value(mark: f64, step: f64, unit: ChartUnit) -> String {
    match unit {
        ChartUnit::Count => format!("{mark:.0}"),
        ChartUnit::Share if step >= 0.01 => format!("{:.0} %", mark * 100.0),
        ChartUnit::Share => format!("{:.1} %", mark * 100.0),
    }
}

/// Marks of the time axis at whole hours or days of UTC, and how to write them.
fn dates(start: i64, end: i64, most: i64) -> (Vec<i64>, &'static str) {
    let steps = [HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 5 * DAY, 7 * DAY, 14 * DAY, 30 * DAY, 90 * DAY];
    let fits = |step: &&i64| (end - start) / **step < most;
    let step = steps.iter().find(fits).copied().unwrap_or(365 * DAY);
    let first = start.div_euclid(step) * step + if start.rem_euclid(step) == 0 { 0 } else { step };
    // A mark at the very edge would be cut.
    let edge = (end - start) / 25;
    let marks = (0..).map(|place| first + place * step).take_while(|at| *at <= end);
    let marks = marks.filter(|at| *at - start >= edge || *at == start).filter(|at| end - *at >= edge).collect();
    (marks, if step < DAY { "%b %-d %H:%M" } else { "%b %-d" })
}

fn date(at: i64, format: &str) -> String {
    Timestamp::from_second(at).map_or_else(|_| String::new(), |at| at.to_zoned(TimeZone::UTC).strftime(format).to_string())
}

/// Runs of points without a gap.
fn unbroken(points: &[(i64, f64)]) -> Vec<&[(i64, f64)]> {
    let mut distances: Vec<i64> = points.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    distances.sort_unstable();
    let usual = distances.get(distances.len() / 2).copied().unwrap_or(DAY).max(1);
    points.chunk_by(|one, next| next.0 - one.0 <= GAP.saturating_mul(usual)).collect()
}

/// Moves sorted heights so far apart that texts of `height` do not overlap, above `lowest` if there
/// is room.
fn apart(wanted: &[i32], height: i32, lowest: i32) -> Vec<i32> {
    let mut places = wanted.to_vec();
    for place in 1..places.len() {
        places[place] = places[place].max(places[place - 1] + height);
    }
    let mut limit = lowest;
    for place in places.iter_mut().rev() {
        *place = (*place).min(limit);
        limit = *place - height;
    }
    places
}

/// Shortened in the middle: names differ at both ends.
fn shortened(text: &str, most: usize) -> String {
    let characters: Vec<char> = text.chars().collect();
    if characters.len() <= most {
        return text.to_owned();
    }
    let head = most / 2;
    let tail = characters.len() - (most - head - 1);
    characters[..head].iter().chain(['…'].iter()).chain(&characters[tail..]).collect()
}

fn rgb(hex: &str) -> RGBColor {
    let part = |place: usize| hex.get(place..place + 2).and_then(|text| u8::from_str_radix(text, 16).ok()).unwrap_or_default();
    RGBColor(part(1), part(3), part(5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_kept_apart_and_above_the_axis() {
        assert_eq!(apart(&[10, 11, 12], 10, 100), [10, 20, 30]);
        assert_eq!(apart(&[90, 95, 99], 10, 100), [80, 90, 100]);
        assert_eq!(apart(&[], 10, 100), [] as [i32; 0]);
    }

    #[test]
    fn a_gap_breaks_the_line() {
        let points: Vec<(i64, f64)> = [0, 1, 2, 3, 20, 21].map(|hour| (hour * HOUR, 1.0)).to_vec();
        assert_eq!(unbroken(&points).iter().map(|run| run.len()).collect::<Vec<_>>(), [4, 2]);
    }

    #[test]
    fn marks_are_round() {
        assert_eq!(step(30.0, 5.0, ChartUnit::Count), 10.0);
        assert_eq!(step(4.0, 5.0, ChartUnit::Count), 1.0);
        assert_eq!(step(1.08, 5.0, ChartUnit::Share), 0.25);
    }

    #[test]
    fn long_names_keep_both_ends() {
        assert_eq!(shortened("short", 10), "short");
        assert_eq!(shortened("k8s-production-worker-017", 11), "k8s-p…r-017");
    }

    #[test]
    fn a_chart_without_points_is_still_drawn() {
        let chart =
            Chart { title: "t".into(), unit: ChartUnit::Share, lines: Default::default(), thresholds: Default::default() };
        assert!(svg(&chart, Shape::Narrow).expect("drawn").starts_with("<svg aria-hidden"));
    }
}
