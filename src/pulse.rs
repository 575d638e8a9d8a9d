//! The loop of one collector: its pace, its time-out, its panics, and what the loop says of it.
//!
//! A run happens on a blocking thread that also drives the collector's future, so a collector may block or await. At the
//! time-out the future is dropped; a blocked thread cannot be, so the loop then reports `timed out` each interval, starts
//! no second run, and drops the late result. A collector that hangs hurts only itself. When another configuration begins it
//! anew, the new loop goes on where the old one was: its counters do not fall, and it starts no run beside one that hangs.

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
use crate::sample::{Access, Cause, Failure, Now, Points, Reading, Sample};
use crate::source::Sources;

mod counters;

use counters::Counters;

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

pub static ACCESS: Fact = Fact::gauge(
    "agenthost.collector.access",
    "agenthost_collector_access",
    "What the collector may look at, by its latest run: 1 for the state that holds (full, partial: something of it is denied, \
     denied, unknown: nobody answered), 0 for the others.",
)
.of(&["collector", "access"]);

pub static FACTS: &[&Fact] = &[&UP, &DURATION, &LAST_SUCCESS, &INTERVAL, &TIMEOUTS, &SERIES_DROPPED, &ACCESS];

pub static CHECKS: &[Check] = &[Check {
    name: "collector_up",
    fact: &UP,
    bad: Bound::Below(1.0),
    severity: Severity::Warning,
    fail_for: Duration::from_secs(5 * 60),
    headline: "collector {} sees nothing",
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
    retry: Option<Duration>,
    /// The last pause before another try, if the last run failed.
    pause: Option<Duration>,
    build: Build,
    host: Host,
    sources: Sources,
    state: State,
    past: Past,
}

/// What was, and outlives the collector.
#[derive(Default)]
pub struct Past {
    last_success: Option<Timestamp>,
    timeouts: u32,
    dropped: usize,
    counters: Counters,
    /// What was logged last: one line per change of state.
    logged: Option<Failure>,
    /// A run by another configuration that has not ended: there is none beside it, and what it finds is dropped.
    run: Option<Old>,
}

struct Old {
    run: JoinHandle<Run>,
    /// It is past its time-out, and counted.
    late: bool,
}

enum State {
    Resting(Box<dyn Collect>),
    /// A run that is under way.
    Running(JoinHandle<Run>),
    /// A run past its time-out.
    Late(JoinHandle<Run>),
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
            retry: None,
            pause: None,
            build,
            host: host.clone(),
            sources: sources.clone(),
            state: State::Resting(collector),
            past: Past::default(),
        }))
    }

    /// Goes on where another loop of this collector has ended.
    pub fn after(self, mut past: Past) -> Pulse {
        past.counters.begin_anew();
        Pulse { past, ..self }
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Looks again so soon after a run that failed, and after twice that if the next fails too, up to the interval.
    pub fn retrying(self, retry: Option<Duration>) -> Pulse {
        Pulse { retry, ..self }
    }

    /// Looks at each interval until `stop` resolves or the river has ended; the first time at once. A run that is under way
    /// at the stop is not waited for.
    pub async fn run(mut self, readings: Sender<Reading>, stop: impl Future<Output = ()>) -> Past {
        tokio::select! {
            () = self.flow(readings) => {}
            () = stop => {}
        }
        match self.state {
            State::Running(run) => self.past.run = Some(Old { run, late: false }),
            State::Late(run) => self.past.run = Some(Old { run, late: true }),
            State::Resting(_) | State::Gone => {}
        }
        self.past
    }

    /// A retry comes between the others and does not move them, so that collectors of one interval stay in step and share
    /// what they ask for.
    async fn flow(&mut self, readings: Sender<Reading>) {
        let mut pace = tokio::time::interval(self.interval);
        pace.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let pause = self.pause.unwrap_or(Duration::MAX);
            drop(tokio::time::timeout(pause, pace.tick()).await);
            let reading = self.beat().await;
            self.pause = self.pause_after(reading.outcome.is_ok());
            if readings.send(reading).await.is_err() {
                return; // the river has ended
            }
        }
    }

    fn pause_after(&self, good: bool) -> Option<Duration> {
        let pause = self.pause.map_or(self.retry, |last| Some(last * 2));
        pause.filter(|_| !good).map(|pause| pause.min(self.interval))
    }

    async fn beat(&mut self) -> Reading {
        let at = Now::read();
        let outcome = self.look(at).await;
        let took = Now::read().mono.saturating_sub(at.mono);
        self.reading(at, took, outcome)
    }

    async fn look(&mut self, at: Now) -> Result<Sample, Failure> {
        self.outlast().await?;
        let collector = self.collector().await?;
        // Where a stop finds it.
        let run = self.state.begin(self.start(collector, at));
        match tokio::time::timeout(self.timeout, run).await {
            Ok(ended) => self.end(ended),
            Err(_) => {
                self.past.timeouts += 1;
                self.state.turn_late();
                Err(timed_out(self.timeout))
            }
        }
    }

    /// Waits for the end of a run by another configuration, not longer than for one of its own.
    async fn outlast(&mut self) -> Result<(), Failure> {
        let Some(Old { run, late }) = &mut self.past.run else { return Ok(()) };
        let patience = if *late { Duration::ZERO } else { self.timeout };
        if tokio::time::timeout(patience, run).await.is_err() {
            self.past.timeouts += u32::from(!std::mem::replace(late, true));
            return Err(failure("a run that began before the configuration changed has not ended"));
        }
        self.past.run = None;
        Ok(())
    }

    /// The collector, if no run is under way: rested, back from a late run, or built anew.
    async fn collector(&mut self) -> Result<Box<dyn Collect>, Failure> {
        match std::mem::replace(&mut self.state, State::Gone) {
            State::Resting(collector) => Ok(collector),
            State::Gone => self.rebuild(),
            State::Running(run) | State::Late(run) if !run.is_finished() => {
                self.state = State::Late(run);
                Err(timed_out(self.timeout))
            }
            State::Running(run) | State::Late(run) => match run.await {
                Ok(Run { collector: Some(collector), .. }) => Ok(collector),
                _ => self.rebuild(),
            },
        }
    }

    fn rebuild(&mut self) -> Result<Box<dyn Collect>, Failure> {
        self.past.counters.begin_anew();
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
        self.state = State::Gone;
        let run = ended.map_err(|_| failure("ended without a result"))?;
        if let Some(collector) = run.collector {
            self.state = State::Resting(collector);
        }
        if run.outcome.as_ref().is_err_and(|failure| *failure == timed_out(self.timeout)) {
            self.past.timeouts += 1;
        }
        run.outcome
    }

    fn reading(&mut self, at: Now, took: Duration, mut outcome: Result<Sample, Failure>) -> Reading {
        if let Ok(sample) = &mut outcome {
            self.past.dropped += sample.points.cap(SERIES_CAP);
            self.past.counters.lift(&mut sample.points);
            self.past.last_success = Some(at.wall);
        }
        self.log(outcome.as_ref().err());
        let own = self.own(at, took, &outcome);
        Reading { collector: self.name, at, took, outcome, own }
    }

    fn own(&self, at: Now, took: Duration, outcome: &Result<Sample, Failure>) -> Points {
        let mut points = Points::default();
        match outcome {
            Ok(_) => points.put(&UP, [&self.label], 1.0),
            // That nothing can be seen of a host that is starting is nobody's matter yet.
            Err(failure) if failure.cause == Cause::Excused && self.sources.boot.is_under_way(at) => {
                points.excuse(&UP, [&self.label], 0.0);
            }
            Err(_) => points.put(&UP, [&self.label], 0.0),
        }
        let access = Access::of(outcome);
        for one in Access::ALL {
            points.put(&ACCESS, [&self.label, &one.name().into()], f64::from(u8::from(one == access)));
        }
        points.put(&DURATION, [&self.label], took.as_secs_f64());
        points.put(&INTERVAL, [&self.label], self.interval.as_secs_f64());
        points.put(&TIMEOUTS, [&self.label], f64::from(self.past.timeouts));
        points.put(&SERIES_DROPPED, [&self.label], self.past.dropped as f64);
        if let Some(at) = self.past.last_success {
            points.put(&LAST_SUCCESS, [&self.label], seconds(at));
        }
        points
    }

    fn log(&mut self, failure: Option<&Failure>) {
        match (failure, &self.past.logged) {
            (Some(failure), logged) if logged.as_ref().map(|logged| logged.cause) != Some(failure.cause) => {
                tracing::warn!(collector = self.name, cause = ?failure.cause, error = %failure.error, "cannot see");
            }
            (None, Some(_)) => tracing::info!(collector = self.name, "sees again"),
            _ => return,
        }
        self.past.logged = failure.cloned();
    }
}

impl State {
    fn begin(&mut self, run: JoinHandle<Run>) -> &mut JoinHandle<Run> {
        *self = State::Running(run);
        match self {
            State::Running(run) => run,
            _ => unreachable!("it was just set"),
        }
    }

    fn turn_late(&mut self) {
        if let State::Running(run) = std::mem::replace(self, State::Gone) {
            *self = State::Late(run);
        }
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

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use serde_json::value::RawValue;

    use super::*;
    use crate::fact::Fact;
    use crate::sample::Denied;

    static LEVEL: Fact = Fact::gauge("test.level", "test_level", "A level.").of(&["tank"]);

    /// How often it was built and run; what a run does.
    #[derive(Default)]
    struct Stage {
        built: AtomicU32,
        run: AtomicU32,
    }

    type Act = dyn Fn(u32) -> Result<usize> + Send + Sync;

    struct Actor {
        stage: Arc<Stage>,
        act: Arc<Act>,
    }

    impl Collect for Actor {
        fn run(&mut self, _now: Now, _timeout: Duration, _runtime: &Handle) -> Result<Sample> {
            let series = (self.act)(self.stage.run.fetch_add(1, Ordering::SeqCst) + 1)?;
            let mut points = Points::default();
            for number in 0..series {
                points.put(&LEVEL, [&format!("tank-{number}").into()], 1.0);
            }
            let section = RawValue::from_string(series.to_string()).unwrap().into();
            Ok(Sample { section, details: Default::default(), points, gaps: Vec::new() })
        }
    }

    const PATIENT: Duration = Duration::from_secs(60);

    /// A pulse whose nth run does what `act` says of n.
    fn pulse(timeout: Duration, act: impl Fn(u32) -> Result<usize> + Send + Sync + 'static) -> (Pulse, Arc<Stage>) {
        let (stage, act) = (Arc::new(Stage::default()), Arc::new(act));
        let shared = stage.clone();
        let build: Build = Arc::new(move |_, _| {
            shared.built.fetch_add(1, Ordering::SeqCst);
            Ok(Some(Box::new(Actor { stage: shared.clone(), act: act.clone() }) as Box<dyn Collect>))
        });
        let (host, sources) = (crate::host::pynchy::host(std::path::Path::new("/nowhere")), Sources::default());
        let pulse = Pulse::new("actor", Duration::from_secs(1), timeout, build, &host, &sources);
        (pulse.unwrap().unwrap(), stage)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    fn own(reading: &Reading, fact: &'static Fact) -> Option<f64> {
        reading.own.0.iter().find(|point| point.fact.is(fact)).and_then(|point| point.value)
    }

    fn error(reading: &Reading) -> &Failure {
        reading.outcome.as_ref().expect_err("the run failed")
    }

    #[test]
    fn a_panic_is_a_reading_and_the_next_run_is_of_a_new_collector() {
        let (mut pulse, stage) = pulse(PATIENT, |run| match run {
            1 => panic!("words of the host"),
            _ => Ok(1),
        });
        runtime().block_on(async {
            let reading = pulse.beat().await;
            assert_eq!(error(&reading).cause, Cause::Unanswered);
            assert!(error(&reading).error.contains("panicked"));
            assert!(!error(&reading).error.contains("words"), "a panic's words may quote what was read");
            assert_eq!(own(&reading, &UP), Some(0.0));
            assert_eq!(own(&reading, &LAST_SUCCESS), None, "there was none");
            let reading = pulse.beat().await;
            assert!(reading.outcome.is_ok());
            assert_eq!(own(&reading, &UP), Some(1.0));
            assert_eq!(own(&reading, &LAST_SUCCESS), Some(seconds(reading.at.wall)));
        });
        assert_eq!(stage.built.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn a_thread_that_blocks_is_reported_each_time_and_run_once() {
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Mutex::new(blocked);
        let (mut pulse, stage) = pulse(Duration::from_millis(50), move |run| match run {
            1 => {
                let _ = blocked.lock().unwrap().recv(); // until the test lets go
                Ok(99)
            }
            _ => Ok(1),
        });
        runtime().block_on(async {
            for _ in 0..3 {
                let reading = pulse.beat().await;
                assert_eq!(error(&reading).error, "timed out after 50ms");
                assert_eq!(own(&reading, &TIMEOUTS), Some(1.0), "one a run, not one a look");
            }
            assert_eq!(stage.run.load(Ordering::SeqCst), 1, "no second run beside it");
            drop(release);
            let reading = loop {
                let reading = pulse.beat().await;
                if reading.outcome.is_ok() {
                    break reading;
                }
            };
            assert_eq!(reading.outcome.unwrap().points.0.len(), 1, "the late result is dropped, this is the second's");
        });
        assert_eq!(stage.built.load(Ordering::SeqCst), 1, "it did not panic, so it is the same one");
    }

    #[test]
    fn another_configuration_waits_for_a_run_of_the_one_before_and_goes_on_counting() {
        let (release, blocked) = mpsc::channel::<()>();
        let blocked = Mutex::new(blocked);
        let (old, before) = pulse(Duration::from_millis(50), move |_| {
            let _ = blocked.lock().unwrap().recv(); // until the test lets go
            Ok(99)
        });
        let (new, after) = pulse(Duration::from_millis(50), |_| Ok(SERIES_CAP + 7));
        // With what lets the run go, or a failure would hang.
        runtime().block_on(async move {
            let (sender, _readings) = tokio::sync::mpsc::channel(8);
            let (stop, stopped) = tokio::sync::oneshot::channel();
            let looping = tokio::spawn(old.run(sender, async { drop(stopped.await) }));
            while before.run.load(Ordering::SeqCst) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stop.send(()).unwrap();
            let mut new = new.after(looping.await.unwrap());
            for _ in 0..3 {
                let reading = new.beat().await;
                assert!(error(&reading).error.contains("before the configuration changed"), "{:?}", error(&reading));
                assert_eq!(own(&reading, &TIMEOUTS), Some(1.0), "one a run, not one a look");
            }
            assert_eq!(after.run.load(Ordering::SeqCst), 0, "no second run beside it");
            drop(release);
            let reading = loop {
                let reading = new.beat().await;
                if reading.outcome.is_ok() {
                    break reading;
                }
            };
            assert!(own(&reading, &TIMEOUTS) >= Some(1.0), "a slow machine may be late once more");
            assert_eq!(own(&reading, &SERIES_DROPPED), Some(7.0), "the late result is dropped, this is the second's");
            // And once more, with nothing under way.
            let (sender, _readings) = tokio::sync::mpsc::channel(8);
            let past = new.run(sender, std::future::ready(())).await;
            let (next, _) = pulse(PATIENT, |_| Ok(1));
            let reading = next.after(past).beat().await;
            assert!(own(&reading, &TIMEOUTS) >= Some(1.0));
            assert!(own(&reading, &SERIES_DROPPED) >= Some(7.0));
            assert_eq!(before.run.load(Ordering::SeqCst), 1);
        });
    }

    #[test]
    fn a_run_that_failed_is_tried_again_soon_then_later_and_then_at_the_interval() {
        let (mut pulse, _) = pulse(PATIENT, |_| Ok(1));
        let pauses = |pulse: &mut Pulse, outcomes: &[bool]| -> Vec<Option<u64>> {
            let after = |&good: &bool| {
                pulse.pause = pulse.pause_after(good);
                pulse.pause.map(|pause| pause.as_secs())
            };
            outcomes.iter().map(after).collect()
        };
        assert_eq!(pauses(&mut pulse, &[true, false, false]), [None; 3], "not asked for");
        let mut pulse = pulse.retrying(Some(Duration::from_secs(15)));
        pulse.interval = Duration::from_secs(100);
        let told = pauses(&mut pulse, &[true, false, false, false, false, true, false]);
        assert_eq!(told, [None, Some(15), Some(30), Some(60), Some(100), None, Some(15)]);
        pulse.interval = Duration::from_secs(5);
        assert_eq!(pauses(&mut pulse, &[true, false, false]), [None, Some(5), Some(5)], "never later than without");
    }

    #[test]
    fn a_retry_comes_between_the_ticks_and_does_not_move_them() {
        let (pulse, _) = pulse(PATIENT, |run| if run == 2 { anyhow::bail!("not now") } else { Ok(1) });
        let mut pulse = pulse.retrying(Some(Duration::from_millis(100)));
        pulse.interval = Duration::from_millis(400);
        let begun = std::time::Instant::now();
        let times = runtime().block_on(async {
            let (sender, mut readings) = tokio::sync::mpsc::channel(1);
            tokio::spawn(pulse.run(sender, std::future::pending()));
            let mut times = Vec::new();
            for _ in 0..4 {
                readings.recv().await.unwrap();
                times.push(begun.elapsed().as_millis());
            }
            times
        });
        // The first at once, then a failure, its retry, and the next tick where it would have been.
        assert!(times[1] >= 400 && times[2] >= 500 && times[3] >= 800, "{times:?}");
        assert!(times[2] < 800 && times[3] < 1200, "{times:?}");
    }

    #[test]
    fn a_refusal_is_told_from_silence() {
        let refusals: [fn() -> anyhow::Error; 2] = [
            || Denied("owned by another".into()).into(),
            || std::io::Error::from(std::io::ErrorKind::PermissionDenied).into(),
        ];
        for refusal in refusals {
            let (mut pulse, _) = pulse(PATIENT, move |_| Err(refusal().context("read the file")));
            let reading = runtime().block_on(pulse.beat());
            assert_eq!(error(&reading).cause, Cause::Denied);
            assert!(error(&reading).error.starts_with("read the file: "));
        }
        let (mut pulse, _) = pulse(PATIENT, |_| Err(std::io::Error::from(std::io::ErrorKind::NotFound).into()));
        assert_eq!(error(&runtime().block_on(pulse.beat())).cause, Cause::Unanswered);
    }

    /// Of a host that is starting, and no longer; what says nothing of its start is judged as ever.
    #[test]
    fn what_a_start_hides_is_no_collector_that_fails() {
        let excused = || crate::sample::Excused("nobody answers yet".into()).into();
        let failed: [(fn() -> anyhow::Error, Option<Duration>, Option<Cause>); 3] = [
            (excused, Some(PATIENT), Some(Cause::Excused)),
            (excused, None, None),
            (|| anyhow::anyhow!("broken"), Some(PATIENT), None),
        ];
        for (why, boot, withheld) in failed {
            let (mut pulse, _) = pulse(PATIENT, move |_| Err(why()));
            pulse.sources.boot.tell(Now::read(), boot);
            let reading = runtime().block_on(pulse.beat());
            let up = reading.own.0.iter().find(|point| point.fact.is(&UP)).unwrap();
            assert_eq!((up.value, up.withheld), (Some(0.0), withheld), "{boot:?}");
        }
    }

    #[test]
    fn series_past_the_cap_are_checked_but_not_exported() {
        let (mut pulse, _) = pulse(PATIENT, |_| Ok(SERIES_CAP + 7));
        runtime().block_on(async {
            for looks in 1..3 {
                let reading = pulse.beat().await;
                assert_eq!(own(&reading, &SERIES_DROPPED), Some(7.0 * f64::from(looks)));
                let points = reading.outcome.unwrap().points.0;
                assert_eq!(points.len(), SERIES_CAP + 7);
                assert_eq!(points.iter().filter(|point| point.exported).count(), SERIES_CAP);
            }
        });
    }

    #[test]
    fn a_collector_that_does_not_apply_has_no_pulse() {
        let build: Build = Arc::new(|_, _| Ok(None));
        let (host, sources) = (crate::host::pynchy::host(std::path::Path::new("/nowhere")), Sources::default());
        let second = Duration::from_secs(1);
        assert!(Pulse::new("none", second, second, build, &host, &sources).unwrap().is_none());
    }
}
