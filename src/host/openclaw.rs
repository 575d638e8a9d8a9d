//! The profile `openclaw`: a gateway on loopback that says itself whether it is ready, and what fails.
//!
//! It answers any path that it does not know with its own page and 200, and so may whatever stands before it: only JSON
//! is an answer.

use super::{Host, ProcessRule, Profile, Url};

/// What a running gateway calls itself; it writes this over its command line.
pub const PROGRAM: &str = "openclaw-gateway";

const URL: &str = "http://127.0.0.1:18789";

/// One on this machine, as it comes.
pub fn host() -> Host {
    let process = ProcessRule::Command(PROGRAM.to_owned());
    Host { url: Some(Url::Given(URL.to_owned())), ..Host::new(Profile::Openclaw, process) }
}
