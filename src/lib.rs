//! The terminal program `capplan`: commands and the rendering of reports.

pub mod render;
