//! Robust trend of a series, and the day its limit is reached.

use std::collections::BTreeMap;

use capplan_model::history::Series;
use jiff::{SignedDuration, Timestamp};

/// Least history a trend is drawn from.
pub const LEAST_DAYS: usize = 14;
/// Days of history that count: older growth says little about the next month.
pub const MOST_DAYS: usize = 180;
/// Two-sided 95 % quantile of the normal distribution.
const Z: f64 = 1.96;
const DAY: i64 = 86_400;

/// Growth per day with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Trend {
    /// Median of the pairwise slopes, in units per day.
    pub per_day: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
    /// Days with samples it rests on.
    pub days: usize,
}

impl Trend {
    /// Whether the interval excludes zero: whether there is a trend at all.
    pub fn is_significant(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }

    /// When `limit` is reached from `used` at `now`: expected, earliest and latest.
    ///
    /// `None` if the series does not grow, or not within a hundred years.
    pub fn exhaustion(&self, now: Timestamp, used: f64, limit: f64) -> Option<Exhaustion> {
        if !self.is_significant() || self.per_day <= 0.0 {
            return None;
        }
        let at = |slope: f64| -> Option<Timestamp> {
            let days = (limit - used).max(0.0) / slope;
            (slope > 0.0 && days < 36_525.0).then(|| now + SignedDuration::from_secs((days * DAY as f64) as i64))
        };
        Some(Exhaustion { expected: at(self.per_day)?, earliest: at(self.high)?, latest: at(self.low) })
    }
}

/// When a limit is reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exhaustion {
    /// At the median slope.
    pub expected: Timestamp,
    /// At the steepest slope of the interval.
    pub earliest: Timestamp,
    /// At the gentlest; `None` if that is beyond a hundred years.
    pub latest: Option<Timestamp>,
}

/// Theil–Sen trend of `series` over at most the last 180 days before `now`.
///
/// Samples are reduced to one median a day first, so that neither a burst of samples nor a daily
/// pattern weighs more. `None` below 14 days with samples.
///
/// # Source
/// P. K. Sen, "Estimates of the regression coefficient based on Kendall's tau" (1968): median of
/// the pairwise slopes; the interval from the variance of Kendall's statistic.
pub fn trend(series: &Series, now: Timestamp) -> Option<Trend> {
    let mut days: BTreeMap<i64, Vec<f64>> = BTreeMap::new();
    for (at, point) in series.range(..=now) {
        let age = now.duration_since(*at).as_secs() / DAY;
        if age < MOST_DAYS as i64 {
            days.entry(-age).or_default().push(point.used);
        }
    }
    let daily: Vec<(f64, f64)> = days.into_iter().map(|(day, mut values)| (day as f64, median(&mut values))).collect();
    if daily.len() < LEAST_DAYS {
        return None;
    }
    let mut slopes = Vec::with_capacity(daily.len() * (daily.len() - 1) / 2);
    for (place, (day, value)) in daily.iter().enumerate() {
        slopes.extend(daily[place + 1..].iter().map(|(later_day, later)| (later - value) / (later_day - day)));
    }
    slopes.sort_unstable_by(f64::total_cmp);
    let n = daily.len() as f64;
    let spread = Z * (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    let last = slopes.len() - 1;
    let rank = |rank: f64| slopes[(rank.max(0.0) as usize).min(last)];
    let count = slopes.len() as f64;
    Some(Trend {
        per_day: median(&mut slopes.clone()),
        low: rank((count - spread) / 2.0),
        high: rank((count + spread) / 2.0),
        days: daily.len(),
    })
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capplan_model::history::Point;

    fn series(days: usize, value: impl Fn(f64) -> f64) -> (Series, Timestamp) {
        let start = Timestamp::from_second(1_780_000_000).expect("in range");
        let hours = 0..=days as i64 * 24;
        let series = hours.map(|hour| {
            (start + SignedDuration::from_hours(hour), Point { used: value(hour as f64 / 24.0), limit: Some(100.0) })
        });
        (series.collect(), start + SignedDuration::from_hours(days as i64 * 24))
    }

    #[test]
    fn steady_growth_gives_the_day_the_limit_is_reached() {
        let (series, now) = series(30, |day| 50.0 + day);
        let trend = trend(&series, now).expect("thirty days");
        assert!((trend.per_day - 1.0).abs() < 0.05, "{trend:?}");
        let when = trend.exhaustion(now, 80.0, 100.0).expect("grows").expected;
        let days = when.duration_since(now).as_secs() as f64 / 86_400.0;
        assert!((days - 20.0).abs() < 1.0, "{days}");
    }

    #[test]
    fn outliers_do_not_bend_the_trend() {
        let (series, now) = series(30, |day| if (day as u32).is_multiple_of(7) { 1000.0 } else { 50.0 + day });
        let trend = trend(&series, now).expect("thirty days");
        assert!((trend.per_day - 1.0).abs() < 0.2, "{trend:?}");
    }

    #[test]
    fn noise_and_a_flat_or_falling_series_have_no_date() {
        let (flat, now) = series(30, |_| 50.0);
        assert_eq!(trend(&flat, now).expect("thirty days").exhaustion(now, 50.0, 100.0), None);
        let (falling, now) = series(30, |day| 80.0 - day);
        assert_eq!(trend(&falling, now).expect("thirty days").exhaustion(now, 50.0, 100.0), None);
        let (noise, now) = series(30, |day| 50.0 + ((day * 24.0) as u32 * 7919 % 13) as f64);
        let noise = trend(&noise, now).expect("thirty days");
        assert!(!noise.is_significant(), "{noise:?}");
    }

    #[test]
    fn thirteen_days_are_too_few() {
        let (short, now) = series(12, |day| day);
        assert_eq!(trend(&short, now), None);
    }
}
