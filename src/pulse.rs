//! The loop of one collector: its pace, its time-out, its panics, and what the loop says of it.
//!
//! A run happens on a blocking thread that also drives the collector's future, so a collector may block or await. At the
//! time-out the future is dropped; a blocked thread cannot be, so the loop then reports `timed out` each interval, starts
//! no second run, and drops the late result. A collector that hangs hurts only itself.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::collect::{Build, Collect};
use crate::fact::{Bound, Check, Fact, Severity};
use crate::host::Host;
use crate::sample::{Cause, Failure, Now, Points, Reading, Sample};
use crate::source::Sources;

pub static UP: Fact = Fact::gauge(
    "agenthost.collector.up",
    "agenthost_collector_up",
    "1 if the collector's latest run saw its subsystem, 0 if it failed, timed out or was denied.",
)
.of(&["collector"]);

pub static DURATION: Fact = Fact::gauge(
    "agenthost.collector.duration",
    "agenthost_collector_duration_seconds",
    "How long the collector's latest run took, or has taken when it timed out.",
)
.unit("s")
.of(&["collector"]);

pub static LAST_SUCCESS: Fact = Fact::gauge(
    "agenthost.collector.last_success_timestamp_seconds",
    "agenthost_collector_last_success_timestamp_seconds",
    "When the collector's latest good run began (Unix time): the age of its data is now minus this.",
)
.of(&["collector"]);

pub static INTERVAL: Fact = Fact::gauge(
    "agenthost.collector.interval",
    "agenthost_collector_interval_seconds",
    "How often the collector looks.",
)
.unit("s")
.of(&["collector"]);

pub static TIMEOUTS: Fact = Fact::counter(
    "agenthost.collector.timeouts",
    "agenthost_collector_timeouts_total",
    "Runs of the collector that did not end within its time-out.",
)
.of(&["collector"]);

pub static SERIES_DROPPED: Fact = Fact::counter(
    "agenthost.series.dropped",
    "agenthost_series_dropped_total",
    "Series left out of metrics because a fact had more label values than the cap, summed over readings.",
)
.of(&["collector"]);

pub static FACTS: &[&Fact] = &[&UP, &DURATION, &LAST_SUCCESS, &INTERVAL, &TIMEOUTS, &SERIES_DROPPED];

pub static CHECKS: &[Check] = &[Check {
    name: "collector_up",
    fact: &UP,
    bad: Bound::Below(1.0),
    severity: Severity::Warning,
    fail_for: Duration::from_secs(5 * 60),
    means: "A collector cannot see its subsystem: what it measured is missing, not fine.",
}];

/// A fact shows at most this many series; the rest are counted.
pub const SERIES_CAP: usize = 1000;

/// One collector and its pace.
pub struct Pulse {
    name: &'static str,
    label: Arc<str>,
    pub interval: Duration,
    pub timeout: Duration,
    build: Build,
    host: Host,
    sources: Sources,
    state: State,
    last_success: Option<Timestamp>,
    timeouts: u32,
    dropped: usize,
    /// What was logged last: one line per change of state.
    logged: Option<Failure>,
}

enum State {
    Resting(Box<dyn Collect>),
    /// A run past its time-out, or one that is under way.
    Running(JoinHandle<Run>),
    /// It panicked: the next run builds it anew.
    Gone,
}

/// A run that has ended. A collector that panicked is not given back.
struct Run {
    collector: Option<Box<dyn Collect>>,
    outcome: Result<Sample, Failure>,
}

impl Pulse {
    /// Builds the collector; `None` if this host has no such subsystem.
    ///
    /// # Errors
    /// The configuration cannot be met.
    pub fn new(
        name: &'static str,
        interval: Duration,
        timeout: Duration,
        build: Build,
        host: &Host,
        sources: &Sources,
    ) -> Result<Option<Pulse>> {
        let collector = build(host, sources)?;
        Ok(collector.map(|collector| Pulse {
            name,
            label: name.into(),
            interval,
            timeout,
            build,
            host: host.clone(),
            sources: sources.clone(),
            state: State::Resting(collector),
            last_success: None,
            timeouts: 0,
            dropped: 0,
            logged: None,
        }))
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Looks at each interval, for ever; the first time at once.
    pub async fn run(mut self, readings: Sender<Reading>) {
        let mut pace = tokio::time::interval(self.interval);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            pace.tick().await;
            let reading = self.beat().await;
            if readings.send(reading).await.is_err() {
                return; // the river has ended
            }
        }
    }

    async fn beat(&mut self) -> Reading {
        let at = Now::read();
        let outcome = self.look(at).await;
        let took = Now::read().mono.saturating_sub(at.mono);
        self.reading(at, took, outcome)
    }

    async fn look(&mut self, at: Now) -> Result<Sample, Failure> {
        let collector = self.collector().await?;
        let mut run = self.start(collector, at);
        match tokio::time::timeout(self.timeout, &mut run).await {
            Ok(ended) => self.end(ended),
            Err(_) => {
                self.timeouts += 1;
                self.state = State::Running(run);
                Err(timed_out(self.timeout))
            }
        }
    }

    /// The collector, if no run is under way: rested, back from a late run, or built anew.
    async fn collector(&mut self) -> Result<Box<dyn Collect>, Failure> {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Resting(collector) => Ok(collector),
            State::Gone => self.rebuild(),
            State::Running(run) if !run.is_finished() => {
                self.state = State::Running(run);
                Err(timed_out(self.timeout))
            }
            State::Running(run) => match run.await {
                Ok(Run { collector: Some(collector), .. }) => Ok(collector),
                _ => self.rebuild(),
            },
        }
    }

    fn rebuild(&self) -> Result<Box<dyn Collect>, Failure> {
        let built = (self.build)(&self.host, &self.sources).map_err(Failure::from)?;
        built.ok_or_else(|| failure("the collector is no longer configured"))
    }

    fn start(&self, mut collector: Box<dyn Collect>, at: Now) -> JoinHandle<Run> {
        let (timeout, runtime) = (self.timeout, Handle::current());
        tokio::task::spawn_blocking(move || {
            match catch_unwind(AssertUnwindSafe(|| collector.run(at, timeout, &runtime))) {
                Ok(outcome) => Run { collector: Some(collector), outcome: outcome.map_err(Failure::from) },
                // The panic's own words may quote what was read, so they are not repeated; the log names the place.
                Err(_) => Run { collector: None, outcome: Err(failure("panicked: a defect of this program")) },
            }
        })
    }

    fn end(&mut self, ended: Result<Run, tokio::task::JoinError>) -> Result<Sample, Failure> {
        let run = ended.map_err(|_| failure("ended without a result"))?;
        if let Some(collector) = run.collector {
            self.state = State::Resting(collector);
        }
        if run.outcome.as_ref().is_err_and(|failure| *failure == timed_out(self.timeout)) {
            self.timeouts += 1;
        }
        run.outcome
    }

    fn reading(&mut self, at: Now, took: Duration, mut outcome: Result<Sample, Failure>) -> Reading {
        if let Ok(sample) = &mut outcome {
            self.dropped += sample.points.cap(SERIES_CAP);
            self.last_success = Some(at.wall);
        }
        self.log(outcome.as_ref().err());
        let own = self.own(took, outcome.is_ok());
        Reading { collector: self.name, at, took, outcome, own }
    }

    fn own(&self, took: Duration, up: bool) -> Points {
        let mut points = Points::default();
        points.put(&UP, [&self.label], f64::from(u8::from(up)));
        points.put(&DURATION, [&self.label], took.as_secs_f64());
        points.put(&INTERVAL, [&self.label], self.interval.as_secs_f64());
        points.put(&TIMEOUTS, [&self.label], f64::from(self.timeouts));
        points.put(&SERIES_DROPPED, [&self.label], self.dropped as f64);
        if let Some(at) = self.last_success {
            points.put(&LAST_SUCCESS, [&self.label], seconds(at));
        }
        points
    }

    fn log(&mut self, failure: Option<&Failure>) {
        match (failure, &self.logged) {
            (Some(failure), logged) if logged.as_ref().map(|logged| logged.cause) != Some(failure.cause) => {
                tracing::warn!(collector = self.name, cause = ?failure.cause, error = %failure.error, "cannot see");
            }
            (None, Some(_)) => tracing::info!(collector = self.name, "sees again"),
            _ => return,
        }
        self.logged = failure.cloned();
    }
}

/// Unix time with the precision that Prometheus keeps.
pub fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

fn timed_out(timeout: Duration) -> Failure {
    failure(format!("timed out after {}", crate::fact::Span(timeout)))
}

fn failure(error: impl Into<String>) -> Failure {
    Failure { cause: Cause::Unanswered, error: error.into() }
}
