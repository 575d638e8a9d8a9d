//! The river: `source -> collect -> window -> health -> snapshot -> show`.
//!
//! Imports point only one way, in the order of the modules below; a test holds them to it.

pub mod fact;
pub mod sample;
pub mod source;
pub mod host;
pub mod collect;
pub mod window;
pub mod health;
