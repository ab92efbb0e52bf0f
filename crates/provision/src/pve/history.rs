//! What a host itself remembers: its round-robin archives.

use capplan_model::ids::HostName;
use jiff::Timestamp;

use super::client::{Reader, segment};
use super::error::PveError;
use super::wire::RrdRow;

/// How far back an archive reaches.
///
/// # Source
/// PVE 9: hour and day in steps of 1 min, week and month of 30 min, year of 6 h. PVE 8: 1 min, 30 min,
/// 3 h, 12 h, 1 week. After an upgrade one answer mixes both: never assume a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeframe {
    /// The last hour.
    Hour,
    /// The last day.
    Day,
    /// The last week.
    Week,
    /// The last month.
    Month,
    /// The last year.
    Year,
}

impl Timeframe {
    fn as_str(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }
}

/// What a point says about the measurements in its step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consolidation {
    /// Their average.
    Average,
    /// The largest.
    Maximum,
}

impl Consolidation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Average => "AVERAGE",
            Self::Maximum => "MAX",
        }
    }
}

/// A host at one time; sizes in bytes, as floating point numbers since they are consolidated.
#[derive(Clone, Debug, PartialEq)]
pub struct RrdPoint {
    /// When.
    pub at: Timestamp,
    /// Memory in all.
    pub memory_total: Option<f64>,
    /// Memory in use.
    pub memory_used: Option<f64>,
    /// Memory available without swapping; since PVE 9.
    pub memory_available: Option<f64>,
    /// Swap in use.
    pub swap_used: Option<f64>,
    /// CPU time in use, as a fraction.
    pub cpu: Option<f64>,
    /// CPU time spent waiting for IO, as a fraction.
    pub io_wait: Option<f64>,
}

/// A storage at one time, in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct StoragePoint {
    /// When.
    pub at: Timestamp,
    /// Size.
    pub total: Option<f64>,
    /// In use.
    pub used: Option<f64>,
}

/// Reads the archive of a host, oldest point first; gaps are left out.
///
/// # Errors
/// [`PveError`]; `Sys.Audit` on `/nodes/{host}` is needed.
pub async fn rrd(
    reader: &Reader,
    host: &HostName,
    timeframe: Timeframe,
    consolidation: Consolidation,
) -> Result<Vec<RrdPoint>, PveError> {
    let path = format!("/nodes/{}/rrddata", segment(host.as_str()));
    Ok(host_points(rows(reader, &path, timeframe, consolidation).await?))
}

/// Reads the archive of a storage as `host` sees it, oldest point first; gaps are left out.
///
/// # Errors
/// [`PveError`]; `Datastore.Audit` on the storage is needed.
pub async fn rrd_storage(
    reader: &Reader,
    host: &HostName,
    storage: &str,
    timeframe: Timeframe,
    consolidation: Consolidation,
) -> Result<Vec<StoragePoint>, PveError> {
    let path = format!("/nodes/{}/storage/{}/rrddata", segment(host.as_str()), segment(storage));
    Ok(storage_points(rows(reader, &path, timeframe, consolidation).await?))
}

async fn rows(reader: &Reader, path: &str, timeframe: Timeframe, consolidation: Consolidation) -> Result<Vec<RrdRow>, PveError> {
    reader.get(path, &[("timeframe", timeframe.as_str()), ("cf", consolidation.as_str())]).await
}

fn at(row: &RrdRow) -> Option<Timestamp> {
    row.time.and_then(|seconds| i64::try_from(seconds).ok()).and_then(|seconds| Timestamp::from_second(seconds).ok())
}

fn host_points(rows: Vec<RrdRow>) -> Vec<RrdPoint> {
    let point = |row: RrdRow| {
        // A point with nothing but its time is a gap.
        let values = [row.memtotal, row.memused, row.memavailable, row.swapused, row.cpu, row.iowait];
        values.iter().any(Option::is_some).then_some(())?;
        Some(RrdPoint {
            at: at(&row)?,
            memory_total: row.memtotal,
            memory_used: row.memused,
            memory_available: row.memavailable,
            swap_used: row.swapused,
            cpu: row.cpu,
            io_wait: row.iowait,
        })
    };
    let mut points: Vec<RrdPoint> = rows.into_iter().filter_map(point).collect();
    points.sort_by_key(|point| point.at);
    points
}

fn storage_points(rows: Vec<RrdRow>) -> Vec<StoragePoint> {
    let point = |row: RrdRow| {
        row.total.or(row.used)?;
        Some(StoragePoint { at: at(&row)?, total: row.total, used: row.used })
    };
    let mut points: Vec<StoragePoint> = rows.into_iter().filter_map(point).collect();
    points.sort_by_key(|point| point.at);
    points
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_left_out_and_steps_may_differ() {
        let rows: Vec<RrdRow> = serde_json::from_str(
            r#"[{"time":7200,"memtotal":10.5,"memused":3},{"time":60},{"time":3600,"memtotal":"10","memavailable":7},{"memused":1},
                {"time":10800,"used":4}]"#,
        )
        .expect("decodes");
        let points = host_points(rows.clone());
        assert_eq!(points.iter().map(|point| point.at.as_second()).collect::<Vec<_>>(), [3600, 7200]);
        assert_eq!((points[0].memory_total, points[0].memory_used, points[0].memory_available), (Some(10.0), None, Some(7.0)));
        let points = storage_points(rows);
        assert_eq!((points.len(), points[0].used, points[0].total), (1, Some(4.0), None));
    }
}
