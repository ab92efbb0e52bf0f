//! The capacity table as CSV: one row a dimension and scope.

use capplan_planner::report::Report;

/// The capacity table. Unknown amounts are empty cells, never zero.
///
/// # Errors
/// None that a report can cause.
pub fn report(report: &Report) -> Result<String, csv::Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["at", "dimension", "scope", "holder", "used", "limit", "unit", "ratio", "full_at", "source", "note"])?;
    for row in &report.dimensions {
        let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
        let unit = serde_json::to_value(row.unit).ok().and_then(|unit| unit.as_str().map(str::to_owned)).unwrap_or_default();
        let full = row.forecast.as_ref().and_then(|forecast| forecast.expected).map(|at| at.to_string()).unwrap_or_default();
        let note = row.note.clone().unwrap_or_default();
        writer.write_record([
            &report.at.to_string(),
            &row.name,
            &row.scope,
            &row.holder,
            &number(row.used),
            &number(row.limit),
            &unit,
            &number(row.ratio),
            &full,
            &row.source,
            &note,
        ])?;
    }
    let bytes = writer.into_inner().map_err(|error| csv::Error::from(error.into_error()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
