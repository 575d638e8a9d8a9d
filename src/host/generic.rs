//! The profile `generic`: any host, as the configuration says. It has no root, no database and no files of a known shape.

use super::{Host, ProcessRule, Profile};

/// One of which nothing is known yet.
pub fn host() -> Host {
    Host::new(Profile::Generic, ProcessRule::Unknown)
}
