//! The one-shot subcommands.

pub mod demo;
