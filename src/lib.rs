//! The command line: what is asked, where it is read from, how it is shown.
//!
//! The binary is `main.rs`; everything it calls is here so that tests and benchmarks can call it too.

pub mod commands;
pub mod config;
pub mod render;
mod signals;
pub mod ui;
