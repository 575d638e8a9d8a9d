//! The profile `netclaw`: a .NET daemon with an API on loopback, and nothing of it in files that we read.
//!
//! It always answers its health with 200; what is wrong stands in the status, which wants a token unless the daemon is
//! exposed to this machine only. Its inference provider cannot be seen from here: `[collect.gateway]` may name one.

use super::{Host, ProcessRule, Profile, Url};

/// What a running netclaw is called.
pub const PROGRAM: &str = "netclawd";

const URL: &str = "http://127.0.0.1:5199";

/// One on this machine, as it comes.
pub fn host() -> Host {
    let process = ProcessRule::Command(PROGRAM.to_owned());
    Host { url: Some(Url::Given(URL.to_owned())), ..Host::new(Profile::Netclaw, process) }
}
