//! The river: `source -> collect -> window -> health -> snapshot -> show`.
//!
//! One loop per collector samples one subsystem on an interval and sends what it saw, or why it saw nothing, to one task.
//! That task owns the windows and the verdicts and freezes both into a snapshot. Every output renders a snapshot.
//!
//! Imports point only one way, in the order of the modules below; a test holds them to it. Deliberately absent: a renderer
//! that names a collector, a collector that asks the clock or knows a format, a source's crate named outside `source`,
//! anything after `snapshot` that computes.

pub mod fact;
pub mod sample;
pub mod source;
pub mod host;
pub mod collect;
pub mod pulse;
pub mod window;
pub mod health;
pub mod snapshot;
pub mod show;
pub mod serve;
pub mod tool;
pub mod config;
