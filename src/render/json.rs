//! The report as JSON, and the schema of that JSON.

use capplan_planner::report::Report;

/// The report as indented JSON with a final line break.
///
/// # Errors
/// None that a report can cause: its values are all representable.
pub fn report(report: &Report) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

/// The JSON Schema of `capplan.report/1`.
///
/// # Errors
/// None that a schema can cause.
pub fn schema() -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(&schemars::schema_for!(Report))? + "\n")
}
