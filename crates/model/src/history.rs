//! Samples over time and how much of a window they cover.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::capacity::Dimension;

/// One sample: how much of a dimension a subject used at an instant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// When.
    pub at: Timestamp,
    /// Of what.
    pub dimension: Dimension,
    /// By whom: a node, a host, `host/pool`, or empty for the cluster.
    pub subject: String,
    /// Used, in the dimension's unit.
    pub used: f64,
    /// Limit in the same unit, if there was one.
    pub limit: Option<f64>,
}

/// One point of a series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    /// Used.
    pub used: f64,
    /// Limit.
    pub limit: Option<f64>,
}

/// Points by time.
pub type Series = BTreeMap<Timestamp, Point>;

/// All samples, by dimension and subject.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    series: BTreeMap<Dimension, BTreeMap<String, Series>>,
}

impl History {
    /// Adds a sample; a later one for the same instant and subject replaces an earlier one.
    pub fn insert(&mut self, sample: Sample) {
        let Sample { at, dimension, subject, used, limit } = sample;
        self.series.entry(dimension).or_default().entry(subject).or_default().insert(at, Point { used, limit });
    }

    /// Adds a whole series; points replace those of the same instant.
    pub fn extend_series(&mut self, dimension: Dimension, subject: String, points: impl IntoIterator<Item = (Timestamp, Point)>) {
        self.series.entry(dimension).or_default().entry(subject).or_default().extend(points);
    }

    /// The series of one subject.
    pub fn series(&self, dimension: Dimension, subject: &str) -> Option<&Series> {
        self.series.get(&dimension)?.get(subject)
    }

    /// All series of a dimension by subject.
    pub fn subjects(&self, dimension: Dimension) -> impl Iterator<Item = (&str, &Series)> {
        self.series.get(&dimension).into_iter().flatten().map(|(subject, series)| (subject.as_str(), series))
    }

    /// Every sample, by dimension, subject and time.
    pub fn samples(&self) -> impl Iterator<Item = Sample> {
        self.series.iter().flat_map(|(dimension, subjects)| {
            subjects.iter().flat_map(move |(subject, series)| {
                series.iter().map(move |(at, point)| Sample {
                    at: *at,
                    dimension: *dimension,
                    subject: subject.clone(),
                    used: point.used,
                    limit: point.limit,
                })
            })
        })
    }

    /// Number of samples.
    pub fn len(&self) -> usize {
        self.series.values().flat_map(BTreeMap::values).map(BTreeMap::len).sum()
    }

    /// Whether there is no sample at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// First and last instant of a sample.
    pub fn span(&self) -> Option<(Timestamp, Timestamp)> {
        let all = || self.series.values().flat_map(BTreeMap::values);
        let first = all().filter_map(|series| series.keys().next()).min()?;
        let last = all().filter_map(|series| series.keys().next_back()).max()?;
        Some((*first, *last))
    }

    /// Every instant of the dimension's samples within `(start, end]`.
    pub fn instants(&self, dimension: Dimension, start: Timestamp, end: Timestamp) -> BTreeSet<Timestamp> {
        self.subjects(dimension)
            .flat_map(|(_, series)| series.range((std::ops::Bound::Excluded(start), std::ops::Bound::Included(end))))
            .map(|(at, _)| *at)
            .collect()
    }
}

/// Share of the window `(end − length, end]` that samples cover, from 0 to 1.
///
/// The window is cut into slots of `interval`, counted back from `end`; a slot is covered when at
/// least one sample falls into it. A gap of one missed sample is one uncovered slot.
pub fn coverage(
    instants: impl IntoIterator<Item = Timestamp>,
    end: Timestamp,
    length: SignedDuration,
    interval: SignedDuration,
) -> f64 {
    let interval = interval.as_secs().max(1);
    let slots = (length.as_secs() / interval).max(1);
    let covered: BTreeSet<i64> = instants
        .into_iter()
        .map(|at| end.duration_since(at).as_secs())
        .filter(|age| (0..length.as_secs()).contains(age))
        .map(|age| age / interval)
        .filter(|slot| *slot < slots)
        .collect();
    covered.len() as f64 / slots as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coverage_counts_slots_not_samples() {
        let end = Timestamp::from_second(1_000_000).expect("in range");
        let hour = SignedDuration::from_hours(1);
        let at = |hours: i64| end - SignedDuration::from_hours(hours);
        let day = SignedDuration::from_hours(24);
        assert_eq!(coverage((0..24).map(at), end, day, hour), 1.0);
        assert_eq!(coverage((0..12).map(at), end, day, hour), 0.5);
        assert_eq!(coverage((0..24).map(|_| at(0)), end, day, hour), 1.0 / 24.0);
        assert_eq!(coverage([at(30), at(-2)], end, day, hour), 0.0, "outside the window");
    }
}
