//! Results as JSON, and the schemas of that JSON.

use capplan_model::plan::Plan;
use capplan_model::run::Event;
use capplan_model::scenario::Scenario;
use capplan_planner::report::Report;
use capplan_planner::simulate::{Simulation, Sweep};
use capplan_provision::execute::EventLine;
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;

/// A result as indented JSON with a final line break.
///
/// # Errors
/// None that a result can cause: its values are all representable.
pub fn text(result: &impl Serialize) -> Result<String, serde_json::Error> {
    Ok(serde_json::to_string_pretty(result)? + "\n")
}

/// A format whose schema is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// capplan.report/1
    Report,
    /// capplan.simulation/1
    Simulation,
    /// capplan.sweep/1
    Sweep,
    /// capplan.plan/1
    Plan,
    /// capplan.scenario/1, the input file
    Scenario,
    /// capplan.journal/1, a line of a run's journal
    Journal,
    /// A line of `apply --output json`
    Events,
}

/// The JSON Schema of a format.
///
/// # Errors
/// None that a schema can cause.
pub fn schema(format: Format) -> Result<String, serde_json::Error> {
    fn written<T: JsonSchema>() -> schemars::Schema {
        // What is written, not what could be read: fields that are null are there all the same.
        SchemaSettings::default().for_serialize().into_generator().into_root_schema_for::<T>()
    }
    text(&match format {
        Format::Report => written::<Report>(),
        Format::Simulation => written::<Simulation>(),
        Format::Sweep => written::<Sweep>(),
        Format::Plan => written::<Plan>(),
        Format::Journal => written::<Event>(),
        Format::Events => written::<EventLine>(),
        Format::Scenario => SchemaSettings::default().for_deserialize().into_generator().into_root_schema_for::<Scenario>(),
    })
}
