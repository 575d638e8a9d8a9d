//! The one task that takes readings, owns the verdicts, and freezes both; and what is frozen.
//!
//! A snapshot carries moments, never ages, so it stays true while it stands. Nothing after this room computes.

mod checks;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use tokio::sync::mpsc::Receiver;
use tokio::sync::oneshot;
use tokio::time::MissedTickBehavior;

use crate::collect;
use crate::fact::Fact;
use crate::health::{Away, Health, History, Judged, Overall, Settings, Verdict, Watched};
use crate::pulse;
use crate::sample::{Now, Point, Points, Reading};
use crate::source::record::{Header, Recorder};

pub mod keeper;

use keeper::Keeper;

static READY: Fact = Fact::gauge(
    "agenthost.ready",
    "agenthost_ready",
    "1 if the host can do its work by the sidecar's verdict (/readyz is 200), 0 if not.",
);

static HEALTH_STATE: Fact = Fact::gauge(
    "agenthost.health.state",
    "agenthost_health_state",
    "The overall verdict: 1 for the state that holds (starting, healthy, degraded, unhealthy), 0 for the others.",
)
.of(&["state"]);

static BUILD_INFO: Fact =
    Fact::gauge("agenthost.build_info", "agenthost_build_info", "1; the labels say which build this is.")
        .of(&["version", "arch"]);

static SERIES: Fact =
    Fact::gauge("agenthost.series", "agenthost_series", "Series that collectors put into this page.").unit("{series}");

static RELOADED: Fact = Fact::gauge(
    "agenthost.config.last_reload_successful",
    "agenthost_config_last_reload_successful",
    "1 if the configuration that was read last is the one that holds, 0 if it was refused and the one before holds.",
);

static RELOADED_AT: Fact = Fact::gauge(
    "agenthost.config.last_reload_success_timestamp_seconds",
    "agenthost_config_last_reload_success_timestamp_seconds",
    "When the configuration that holds was read (Unix time).",
);

static FACTS: &[&Fact] = &[&READY, &HEALTH_STATE, &BUILD_INFO, &SERIES, &RELOADED, &RELOADED_AT];

/// The river's heart is taken for stopped when its last beat is older.
const HEART_STOPS: Duration = Duration::from_secs(10);

/// The room of the facts that the river itself states: what it makes of all others.
pub const RIVER: &str = "river";

/// The room of the facts that a loop states of its collector.
pub const LOOP: &str = "loop";

/// Every fact that the program can emit, with the room that measures it, in the order of declaration.
pub fn catalogue() -> Vec<(&'static str, &'static Fact)> {
    let mut facts: Vec<_> = FACTS.iter().chain(checks::FACTS).map(|fact| (RIVER, *fact)).collect();
    facts.extend(pulse::FACTS.iter().map(|fact| (LOOP, *fact)));
    facts.extend(collect::ALL.iter().flat_map(|subsystem| subsystem.facts.iter().map(|fact| (subsystem.name, *fact))));
    facts
}

/// What does not change while the sidecar runs with one configuration.
#[derive(Debug, Clone)]
pub struct Sidecar {
    pub version: &'static str,
    pub arch: &'static str,
    pub profile: crate::host::Profile,
    /// `None` if nothing of the host hangs off a folder.
    pub root: Option<String>,
    /// What is not looked at here, why, and how to get it.
    pub notes: Vec<String>,
    pub started_at: Timestamp,
}

/// One collector as the snapshot shows it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub name: &'static str,
    pub interval: Duration,
    /// The latest run, good or not.
    pub last: Option<Arc<Reading>>,
    /// The latest good run, while it is fresh enough to be shown.
    pub good: Option<Arc<Reading>>,
    /// When the latest good run began, however long ago.
    pub last_success_at: Option<Now>,
    fresh_for: Duration,
}

/// All readings and verdicts of one instant, frozen.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Grows by one with each snapshot.
    pub seq: u64,
    pub at: Now,
    pub sidecar: Arc<Sidecar>,
    pub collectors: Vec<Seen>,
    pub verdicts: Arc<[Verdict]>,
    /// Every check that is judged, whether or not it has a subject now.
    pub checks: Arc<[Judged]>,
    pub overall: Overall,
    pub ready: bool,
    pub since: Timestamp,
    pub history: Arc<History>,
    /// When the configuration that holds was read.
    pub configured_at: Timestamp,
    /// Why a newer one was refused since then.
    pub refused: Option<Arc<str>>,
    /// What the river says of itself.
    pub own: Arc<Points>,
}

impl Snapshot {
    /// Every point that has a series: fresh readings, the loops' own, and the river's own.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        let collectors = self.collectors.iter().flat_map(Seen::points);
        collectors.chain(&self.own.0).filter(|point| point.exported && point.value.is_some())
    }
}

impl Seen {
    /// A collector that has not looked yet.
    pub fn nothing(name: &'static str, interval: Duration, fresh_for: Duration) -> Seen {
        Seen { name, interval, last: None, good: None, last_success_at: None, fresh_for }
    }

    fn take(&mut self, reading: Arc<Reading>) {
        if reading.outcome.is_ok() {
            self.last_success_at = Some(reading.at);
            self.good = Some(reading.clone());
        }
        self.last = Some(reading);
    }

    /// Lets go of a good reading that is too old to be shown; says whether it did.
    fn forget(&mut self, now: Now) -> bool {
        let stale = self.good.as_ref().is_some_and(|good| now.mono.saturating_sub(good.at.mono) > self.fresh_for);
        if stale {
            self.good = None;
        }
        stale
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        let sampled =
            self.good.iter().filter_map(|good| good.outcome.as_ref().ok()).flat_map(|sample| &sample.points.0);
        sampled.chain(self.last.iter().flat_map(|last| &last.own.0))
    }
}

/// The latest snapshot, for all who render; reading it takes no lock.
#[derive(Clone)]
pub struct Current {
    snapshot: Arc<ArcSwap<Snapshot>>,
    beat: Arc<AtomicU64>,
}

impl Current {
    pub fn get(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Whether the river has turned lately. If it has not, no verdict holds.
    pub fn alive(&self, now: Now) -> bool {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        now.mono.saturating_sub(beat) <= HEART_STOPS
    }

    /// A snapshot that stands still, for renderers' tests and benches.
    pub fn fixed(snapshot: Snapshot) -> Current {
        let beat = AtomicU64::new(millis(snapshot.at));
        Current { snapshot: Arc::new(ArcSwap::from_pointee(snapshot)), beat: Arc::new(beat) }
    }

    /// Replaces the snapshot. For the river, and for tests of renderers.
    pub fn publish(&self, snapshot: Snapshot) {
        self.snapshot.store(Arc::new(snapshot));
    }
}

fn millis(now: Now) -> u64 {
    u64::try_from(now.mono.as_millis()).unwrap_or(u64::MAX)
}

/// What a river that flows can be told.
pub enum Order {
    Turn(Turn),
    /// A newer configuration was refused, and why; told when it is known.
    Refused(String, oneshot::Sender<()>),
}

/// Another configuration.
pub struct Turn {
    /// The collectors that run, in the order of `collect::ALL`.
    pub watched: Vec<Watched>,
    pub checks: Settings,
    /// For the record.
    pub header: Header,
    /// What the host's own configuration keeps from being looked at.
    pub notes: Vec<String>,
    /// Told when it holds.
    pub done: oneshot::Sender<()>,
}

/// Owns windows, verdicts and the next snapshot.
pub struct River {
    health: Health,
    transitions: checks::Transitions,
    /// Series of the river's own that were over the cap.
    dropped: usize,
    /// Of the verdicts that are published.
    revision: u64,
    next: Snapshot,
    current: Current,
    recorder: Option<Recorder>,
    saving: Option<Saving>,
}

/// Verdicts are kept at least this often while the river flows.
const KEEP_EVERY: Duration = Duration::from_secs(10);

/// What outlives a restart: to whom it is handed, and what was handed over last.
struct Saving {
    keeper: Keeper,
    at: Duration,
    transitions: u64,
}

impl Saving {
    /// At a transition; with every reading while some verdict hangs on the next one; and every ten seconds.
    fn is_due(&self, health: &Health, now: Now, read: bool) -> bool {
        now.mono.saturating_sub(self.at) >= KEEP_EVERY
            || health.transitions() != self.transitions
            || read && health.is_pending()
    }
}

impl River {
    /// A river in which nothing has been seen yet.
    pub fn new(now: Now, sidecar: Sidecar, collectors: Vec<Seen>, health: Health) -> River {
        let next = Snapshot {
            seq: 0,
            at: now,
            sidecar: sidecar.into(),
            collectors,
            verdicts: health.verdicts().into(),
            checks: health.checks().into(),
            overall: health.overall(),
            ready: health.ready(),
            since: health.since().wall,
            history: health.history().clone(),
            configured_at: now.wall,
            refused: None,
            own: Arc::default(),
        };
        let current = Current::fixed(next.clone());
        let mut river = River {
            dropped: 0,
            revision: health.revision(),
            health,
            transitions: Default::default(),
            next,
            current,
            recorder: None,
            saving: None,
        };
        river.publish(now);
        river
    }

    /// Hands every reading to a recorder too.
    pub fn recording(self, recorder: Option<Recorder>) -> River {
        River { recorder, ..self }
    }

    pub fn current(&self) -> Current {
        self.current.clone()
    }

    /// Hands the verdicts to one who keeps them across restarts.
    pub fn keep(&mut self, keeper: Keeper) {
        self.saving = Some(Saving { keeper, at: self.next.at.mono, transitions: self.health.transitions() });
        self.hand_over(self.next.at);
    }

    /// Takes readings until no loop is left to send one, or it is told to end. Wakes every second too, because silence
    /// changes verdicts.
    pub async fn flow(
        mut self,
        mut readings: Receiver<Reading>,
        mut orders: Receiver<Order>,
        end: impl Future<Output = ()>,
    ) {
        tokio::pin!(end);
        let mut wake = tokio::time::interval(Duration::from_secs(1));
        wake.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                reading = readings.recv() => match reading {
                    Some(reading) => self.take(Now::read(), reading),
                    None => break,
                },
                Some(order) = orders.recv() => {
                    while let Ok(reading) = readings.try_recv() {
                        self.take(Now::read(), reading); // they were made before it
                    }
                    self.follow(Now::read(), order);
                }
                _ = wake.tick() => self.wake(Now::read()),
                () = &mut end => break,
            }
        }
        self.hand_over(Now::read());
    }

    /// A reading has come.
    pub fn take(&mut self, now: Now, reading: Reading) {
        self.health.observe(now, &reading);
        let reading = Arc::new(reading);
        if let Some(recorder) = &mut self.recorder {
            recorder.take(now, &reading);
        }
        if let Some(seen) = self.next.collectors.iter_mut().find(|seen| seen.name == reading.collector) {
            seen.take(reading);
        }
        self.forget(now);
        self.publish(now);
        self.save(now, true);
        self.beat(now);
    }

    /// The configuration is another one, or was refused.
    pub fn follow(&mut self, now: Now, order: Order) {
        let done = match order {
            Order::Turn(turn) => self.turn(now, turn),
            Order::Refused(why, done) => {
                self.next.refused = Some(why.into());
                done
            }
        };
        self.publish(now);
        self.hand_over(now);
        self.beat(now);
        let _ = done.send(()); // or nobody waits any more
    }

    /// Windows go on under the new policy; what a collector has said stays shown until it says more.
    fn turn(&mut self, now: Now, turn: Turn) -> oneshot::Sender<()> {
        self.health.wake(now);
        let began = self.health.overall() != Overall::Starting;
        let away = Away { length: Duration::ZERO, rebooted: false };
        let kept = self.health.keep();
        self.health = Health::restore(now, turn.watched.clone(), pulse::CHECKS, &turn.checks, kept, away);
        if began {
            self.health.settle(); // a collector that is new makes a host that was ready wait for nothing
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.paced(turn.header);
        }
        let next = &mut self.next;
        let mut before = std::mem::take(&mut next.collectors);
        for Watched { name, interval, .. } in turn.watched {
            let fresh_for = self.health.fresh_for(name);
            let seen = before.iter().position(|seen| seen.name == name).map(|known| before.swap_remove(known));
            let seen = seen.unwrap_or(Seen::nothing(name, interval, fresh_for));
            next.collectors.push(Seen { interval, fresh_for, ..seen });
        }
        next.checks = self.health.checks().into();
        (next.configured_at, next.refused) = (now.wall, None);
        next.sidecar = Arc::new(Sidecar { notes: turn.notes, ..(*next.sidecar).clone() });
        turn.done
    }

    /// A second has passed.
    pub fn wake(&mut self, now: Now) {
        self.health.wake(now);
        if let Some(recorder) = &mut self.recorder {
            recorder.beat(now);
        }
        let changed = self.health.revision() != self.revision;
        if self.forget(now) || changed {
            self.publish(now);
        }
        self.save(now, false);
        self.beat(now);
    }

    fn save(&mut self, now: Now, read: bool) {
        if self.saving.as_ref().is_some_and(|saving| saving.is_due(&self.health, now, read)) {
            self.hand_over(now);
        }
    }

    fn hand_over(&mut self, now: Now) {
        if let Some(saving) = &mut self.saving {
            (saving.at, saving.transitions) = (now.mono, self.health.transitions());
            saving.keeper.offer(self.health.keep());
        }
    }

    fn forget(&mut self, now: Now) -> bool {
        let forgotten = self.next.collectors.iter_mut().filter_map(|seen| seen.forget(now).then_some(()));
        forgotten.count() > 0 // all of them, not only up to the first
    }

    fn beat(&self, now: Now) {
        self.current.beat.store(millis(now), Ordering::Relaxed);
    }

    fn publish(&mut self, now: Now) {
        self.log_change();
        self.revision = self.health.revision();
        let next = &mut self.next;
        next.seq += 1;
        next.at = now;
        next.verdicts = self.health.verdicts().into();
        next.overall = self.health.overall();
        next.ready = self.health.ready();
        next.since = self.health.since().wall;
        self.transitions.count(&next.verdicts);
        next.history = self.health.history().clone();
        next.own = Arc::new(own(next, &self.transitions, &mut self.dropped));
        self.current.publish(next.clone());
    }

    fn log_change(&self) {
        let overall = self.health.overall();
        if overall != self.next.overall {
            tracing::info!(from = self.next.overall.name(), to = overall.name(), ready = self.health.ready(), "health");
        }
    }
}

/// `dropped` counts the series that were over the cap, in all snapshots so far.
fn own(snapshot: &Snapshot, transitions: &checks::Transitions, dropped: &mut usize) -> Points {
    let mut points = Points::default();
    points.put(&READY, [], f64::from(u8::from(snapshot.ready)));
    for state in Overall::ALL {
        points.put(&HEALTH_STATE, [&state.name().into()], f64::from(u8::from(state == snapshot.overall)));
    }
    checks::put(&mut points, &snapshot.checks, &snapshot.verdicts, transitions);
    let sidecar = &snapshot.sidecar;
    points.put(&RELOADED, [], f64::from(u8::from(snapshot.refused.is_none())));
    points.put(&RELOADED_AT, [], pulse::seconds(snapshot.configured_at));
    points.put(&BUILD_INFO, [&sidecar.version.into(), &sidecar.arch.into()], 1.0);
    *dropped += points.cap(pulse::SERIES_CAP);
    points.put(&pulse::SERIES_DROPPED, [&"river".into()], *dropped as f64);
    let series = snapshot.collectors.iter().flat_map(Seen::points).filter(|p| p.exported && p.value.is_some()).count();
    points.put(&SERIES, [], series as f64);
    points
}
