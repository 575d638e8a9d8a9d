//! The one-shot subcommands.

pub mod ask;
pub mod demo;
pub mod doctor;
pub mod healthcheck;
pub mod install;
pub mod metrics;
pub mod nagios;
pub mod replay;
pub mod status;
pub mod supervise;

mod told;
