//! The report as JSON, and the schema of that JSON.

use capplan_planner::report::Report;
use schemars::generate::SchemaSettings;

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
    // What is written, not what could be read: fields that are null are there all the same.
    let generator = SchemaSettings::default().for_serialize().into_generator();
    Ok(serde_json::to_string_pretty(&generator.into_root_schema_for::<Report>())? + "\n")
}
