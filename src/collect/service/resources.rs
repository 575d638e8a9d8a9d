//! What the host's process uses.

use serde::Serialize;

use crate::source::process::Identity;

/// What the process that serves uses. What we may not see, as of another user, is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resources {
    pub threads: Option<u64>,
    pub resident_bytes: Option<u64>,
    /// Of all its processes since the sidecar began to look.
    pub cpu_seconds: f64,
    pub open_fds: Option<u64>,
    pub inotify_watches: Option<u64>,
    /// Established TCP connections to the port of its API.
    pub connections: Option<u64>,
    /// Why some of it is null.
    pub error: Option<String>,
}

/// CPU time over all lives of the host.
#[derive(Debug, Default)]
pub struct Cpu {
    pub total: f64,
    pub last: Option<(Identity, f64)>,
}

impl Cpu {
    /// Of another process all of its time is new.
    pub fn see(&mut self, identity: Identity, seconds: f64) {
        let known = self.last.filter(|(last, _)| *last == identity).map_or(0.0, |(_, known)| known);
        self.total += (seconds - known).max(0.0);
        self.last = Some((identity, seconds));
    }
}
