//! What was seen: points, readings, and the moment at which they were taken.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::fact::Fact;

/// One instant on both clocks. Everything below the loop is told the time; nothing there asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Time since an arbitrary origin; never falls, and counts time asleep where the platform can. Decides verdicts.
    pub mono: Duration,
    /// For display and for ages of data that others have stamped.
    pub wall: Timestamp,
}

impl Now {
    /// Reads both clocks. For the loops, the river and main only.
    pub fn read() -> Now {
        Now { mono: monotonic(), wall: Timestamp::now() }
    }

    /// The same instant, later (both clocks).
    pub fn plus(self, span: Duration) -> Now {
        let wall = jiff::SignedDuration::try_from(span).ok().and_then(|span| self.wall.checked_add(span).ok());
        Now { mono: self.mono.saturating_add(span), wall: wall.unwrap_or(Timestamp::MAX) }
    }
}

#[cfg(target_os = "linux")]
fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).expect("the time since boot is not negative")
}

#[cfg(not(target_os = "linux"))]
fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(time).expect("the monotonic time is not negative")
}

/// One value of one fact. Labels are in the fact's order.
#[derive(Debug, Clone)]
pub struct Point {
    pub fact: &'static Fact,
    pub labels: Vec<Arc<str>>,
    /// `None`: listed, but not seen. It makes no series, and is unknown to checks.
    pub value: Option<f64>,
    /// False past the collector's cap: checks see it, metrics do not.
    pub exported: bool,
}

impl Point {
    /// What a check calls this point: its label values joined by `/`.
    pub fn subject(&self) -> Arc<str> {
        match self.labels.as_slice() {
            [] => "".into(),
            [one] => one.clone(),
            many => many.join("/").into(),
        }
    }
}

/// The points of one reading, in the order in which they were put.
#[derive(Debug, Clone, Default)]
pub struct Points(pub Vec<Point>);

impl Points {
    /// Adds a value; `None` says that the subject is listed but could not be seen.
    pub fn put<const N: usize>(&mut self, fact: &'static Fact, labels: [&Arc<str>; N], value: impl Into<Option<f64>>) {
        debug_assert_eq!(fact.labels.len(), N, "{} has other labels", fact.prometheus);
        let labels = labels.into_iter().cloned().collect();
        self.0.push(Point { fact, labels, value: value.into(), exported: true });
    }

    /// Keeps at most `cap` exported series of each fact and returns how many were left out.
    pub fn cap(&mut self, cap: usize) -> usize {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut dropped = 0;
        for point in self.0.iter_mut().filter(|point| point.value.is_some()) {
            let count = counts.entry(point.fact.prometheus).or_insert(0);
            *count += 1;
            point.exported = *count <= cap;
            dropped += usize::from(!point.exported);
        }
        dropped
    }
}

/// Why nothing was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Asked and not answered in time, or the collector failed.
    Unanswered,
    /// 401, 403, EACCES, wrong owner: we may not look.
    Denied,
}

/// A collector that saw nothing: the cause for checks, the text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub cause: Cause,
    pub error: String,
}

/// Marks an error as a refusal; `Failure::from` finds it anywhere in the chain.
#[derive(Debug)]
pub struct Denied(pub String);

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Denied {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        let denied = error.chain().any(|cause| cause.is::<Denied>() || is_permission(cause));
        let cause = if denied { Cause::Denied } else { Cause::Unanswered };
        Failure { cause, error: format!("{error:#}") }
    }
}

fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Parts of a section that are served one by one (`/status/<section>/<key>`), too long for the whole page.
pub type Details = Arc<BTreeMap<Arc<str>, Arc<RawValue>>>;

/// What a collector saw when it saw something.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Serialised once per reading; becomes `/status.<name>`.
    pub section: Arc<RawValue>,
    pub details: Details,
    pub points: Points,
}

/// What one collector saw at one moment, or why it saw nothing.
#[derive(Debug, Clone)]
pub struct Reading {
    pub collector: &'static str,
    /// When the run began.
    pub at: Now,
    pub took: Duration,
    pub outcome: Result<Sample, Failure>,
    /// What the loop says of itself (`agenthost_collector_*`): present whatever the outcome.
    pub own: Points,
}
