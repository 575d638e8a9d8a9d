//! What the host's process uses.

use std::time::Duration;

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
    /// Established TCP connections to the port of its API, counted once a minute.
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

/// A count is good until the look that is a minute later, which may be a little early: to count costs more than all else that
/// is asked of a process.
const COUNTED: Duration = Duration::from_secs(55);

/// Who is connected, as it was last counted.
#[derive(Debug, Default)]
pub struct Connections {
    last: Option<Count>,
}

#[derive(Debug)]
struct Count {
    of: (Identity, u16),
    connections: u64,
    at: Duration,
}

impl Connections {
    /// Those to this process and port, counted anew if it was another one or too long ago. What cannot be counted is tried
    /// again each time. `now` is on the clock that counts since boot.
    pub fn to(&mut self, of: (Identity, u16), now: Duration, count: impl FnOnce() -> Option<u64>) -> Option<u64> {
        self.last.take_if(|last| last.of != of || now.saturating_sub(last.at) >= COUNTED);
        if self.last.is_none() {
            self.last = count().map(|connections| Count { of, connections, at: now });
        }
        self.last.as_ref().map(|last| last.connections)
    }
}
