//! Pure functions over the model: no I/O, no clock, no randomness without a seed.

mod attach;
pub mod capacity;
pub mod decide;
pub mod drain;
pub mod findings;
pub mod forecast;
mod ground;
mod host_fit;
pub mod loss;
pub mod place;
pub mod plan;
pub mod report;
pub mod rules;
pub mod scheduler;
pub mod simulate;
