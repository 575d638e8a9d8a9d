//! The one-shot subcommands.

pub mod demo;
pub mod metrics;
pub mod replay;
