//! `/livez`, `/readyz`, `/-/healthy` and `/-/ready`: a status line for machines, a word or two for people.
//!
//! Open to everyone, so they name checks and subjects nowhere: `/status` has the reasons.

use crate::health::Overall;
use crate::sample::Now;
use crate::snapshot::Current;

/// Lines that are no checks: whether the river turns, and whether enough was seen to judge by.
pub const GATES: [&str; 2] = ["loop", "started"];

/// What a probe answers.
#[derive(Debug, PartialEq, Eq)]
pub struct Probe {
    pub ok: bool,
    pub text: &'static str,
}

const STOPPED: Probe = Probe { ok: false, text: "the sidecar's own loop has stopped\n" };

/// Whether this process turns, whatever the host does.
pub fn live(current: &Current, now: Now) -> Probe {
    if current.alive(now) { Probe { ok: true, text: "ok\n" } } else { STOPPED }
}

/// Whether the host can do its work, by the verdict; 503 when the river's heart has stopped.
pub fn ready(current: &Current, now: Now) -> Probe {
    if !current.alive(now) {
        return STOPPED;
    }
    let snapshot = current.get();
    let text = match snapshot.overall {
        Overall::Starting => "not ready: starting\n",
        Overall::Unhealthy => "not ready: unhealthy, see /status?section=health\n",
        Overall::Healthy | Overall::Degraded => "ok\n",
    };
    Probe { ok: snapshot.ready, text }
}

/// Whether this process serves.
pub fn serving() -> Probe {
    Probe { ok: true, text: "agenthost-exporter is ready\n" }
}
