//! What the river says of checks: the facts that every verdict becomes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use crate::fact::{Fact, Severity};
use crate::health::{Judged, State, Verdict};
use crate::pulse;
use crate::sample::Points;
use crate::window::Seen;

const LABELS: &[&str] = &["check", "subject", "severity"];

static FAILED: Fact = Fact::gauge(
    "agenthost.check.failed",
    "agenthost_check_failed",
    "1 while the check has failed on the subject: a sustained failure, not a blip; recovering still counts.",
)
.of(LABELS);

static BAD: Fact = Fact::gauge(
    "agenthost.check.bad",
    "agenthost_check_bad",
    "1 if the latest look found the subject bad, 0 if not; no series while nothing is known. Alert on the failure instead.",
)
.of(LABELS);

static UNKNOWN: Fact = Fact::gauge(
    "agenthost.check.unknown",
    "agenthost_check_unknown",
    "1 if the latest look found nothing out (no answer, no permission, too long ago), 0 if it did; no series before one.",
)
.of(LABELS);

static BAD_SINCE: Fact = Fact::gauge(
    "agenthost.check.bad_since_timestamp_seconds",
    "agenthost_check_bad_since_timestamp_seconds",
    "When the streak of bad observations or the failure that stands began (Unix time); no series while neither does.",
)
.of(LABELS);

static TRANSITIONS: Fact = Fact::counter(
    "agenthost.check.transitions",
    "agenthost_check_transitions_total",
    "How often the verdict of the check on the subject has changed its state.",
)
.of(LABELS);

static FAIL_FOR: Fact = Fact::gauge(
    "agenthost.check.fail_for",
    "agenthost_check_fail_for_seconds",
    "How long the check must be bad until it fails, by its own policy; a subject may have another.",
)
.unit("s")
.of(&["check"]);

pub static FACTS: &[&Fact] = &[&FAILED, &BAD, &UNKNOWN, &BAD_SINCE, &TRANSITIONS, &FAIL_FOR];

/// Puts what all verdicts say.
pub fn put(points: &mut Points, checks: &[Judged], verdicts: &[Verdict], transitions: &Transitions) {
    let severities = [Severity::Info, Severity::Warning, Severity::Critical].map(|severity| severity.name().into());
    for verdict in by_weight(verdicts) {
        let labels = [&verdict.check, &verdict.subject, &severities[verdict.severity as usize]];
        points.put(&FAILED, labels, failed(verdict));
        points.put(&BAD, labels, bad(verdict));
        points.put(&UNKNOWN, labels, unknown(verdict));
        points.put(&BAD_SINCE, labels, verdict.bad_since.map(|at| pulse::seconds(at.wall)));
        points.put(&TRANSITIONS, labels, transitions.of(verdict) as f64);
    }
    for check in checks {
        points.put(&FAIL_FOR, [&check.check], check.fail_for.as_secs_f64());
    }
}

/// What is not ok first, then what is critical: over the cap, only what is well and of little weight is left out.
fn by_weight(verdicts: &[Verdict]) -> Vec<&Verdict> {
    let mut verdicts: Vec<&Verdict> = verdicts.iter().collect();
    verdicts.sort_by_key(|verdict| (verdict.state == State::Ok, Reverse(verdict.severity)));
    verdicts
}

fn failed(verdict: &Verdict) -> Option<f64> {
    match verdict.state {
        State::Starting => None,
        State::Failed | State::Recovering => Some(1.0),
        State::Ok | State::Failing | State::Unknown => Some(0.0),
    }
}

fn bad(verdict: &Verdict) -> Option<f64> {
    match verdict.latest? {
        Seen::Ok => Some(0.0),
        Seen::Bad => Some(1.0),
        Seen::Unanswered | Seen::Denied => None,
    }
}

fn unknown(verdict: &Verdict) -> Option<f64> {
    verdict.latest.map(|latest| f64::from(u8::from(!latest.is_known())))
}

/// How often each verdict has changed its state, counted from one snapshot to the next.
#[derive(Debug, Default)]
pub struct Transitions {
    seen: HashMap<Key, (State, u64)>,
}

/// Check and subject.
type Key = (Arc<str>, Arc<str>);

impl Transitions {
    /// Counts the changes since it was last called. What is new has not changed yet.
    pub fn count(&mut self, verdicts: &[Verdict]) {
        for Verdict { check, subject, state, .. } in verdicts {
            let (known, count) = self.seen.entry((check.clone(), subject.clone())).or_insert((*state, 0));
            *count += u64::from(known != state);
            *known = *state;
        }
        self.forget(verdicts);
    }

    /// Subjects that have gone keep their count, so that it does not fall when they come back; but not without limit.
    fn forget(&mut self, verdicts: &[Verdict]) {
        if self.seen.len() > 2 * verdicts.len() + pulse::SERIES_CAP {
            let present: std::collections::HashSet<Key> =
                verdicts.iter().map(|verdict| (verdict.check.clone(), verdict.subject.clone())).collect();
            self.seen.retain(|key, _| present.contains(key));
        }
    }

    fn of(&self, verdict: &Verdict) -> u64 {
        self.seen.get(&(verdict.check.clone(), verdict.subject.clone())).map_or(0, |(_, count)| *count)
    }
}
