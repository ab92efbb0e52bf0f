//! From typed values to what a human reads: the only place that knows columns and colours.

pub mod charts;
pub mod html;
