//! What the containers of a group have used and suffered in all, when those that are listed know only of themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::{Row, sum};
use crate::host::containers::Role;
use crate::sample::Now;

const HOUR: Duration = Duration::from_secs(60 * 60);
/// Of kin that have gone the latest are remembered: where names have no group in them, each container is kin of its own.
const GONE: usize = 200;

/// The containers of one role that work for one group: they come and go, and their names with them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kin {
    pub role: Role,
    pub group: Arc<str>,
}

/// Sums that never fall, and what of them is recent.
#[derive(Default)]
pub struct Ledger {
    /// By id: what each said when it was seen last.
    lives: BTreeMap<Arc<str>, Life>,
    sums: BTreeMap<Kin, Sums>,
    /// Something was seen before: what is new now has happened since.
    begun: bool,
}

#[derive(Default)]
struct Life {
    started_at: Option<Timestamp>,
    cpu_seconds: f64,
    restarts: u64,
    oom_kills: u64,
}

#[derive(Default)]
struct Sums {
    /// When one of them was listed last, on the monotonic clock.
    seen: Duration,
    cpu_seconds: Option<f64>,
    restarts: Option<u64>,
    oom_kills: Option<u64>,
    recent_restarts: Recent,
    recent_oom_kills: Recent,
}

/// How many at which moments of the monotonic clock, within an hour.
#[derive(Default)]
struct Recent(Vec<(Duration, u64)>);

impl Recent {
    fn add(&mut self, at: Option<Duration>, count: u64) {
        self.0.extend(at.filter(|_| count > 0).map(|at| (at, count)));
    }

    fn count(&self, now: Duration) -> u64 {
        self.0.iter().filter(|(at, _)| now.saturating_sub(*at) < HOUR).map(|(_, count)| count).sum()
    }
}

/// What is told of kin.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    /// Since the exporter began, with what those that were there then had used before.
    pub cpu_seconds: Option<f64>,
    pub restarts: Option<u64>,
    pub oom_kills: Option<u64>,
    /// `None` when none of them is listed any more.
    pub listed: Option<Listed>,
}

/// Of kin that are listed. What one of them does not tell is not known.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub running: bool,
    pub memory_bytes: Option<u64>,
    pub recent_restarts: Option<u64>,
    pub recent_oom_kills: Option<u64>,
}

impl Ledger {
    /// Adds what is new in these rows.
    pub fn take(&mut self, rows: &[Row], now: Now) {
        self.lives.retain(|id, _| rows.iter().any(|row| row.id == *id));
        for row in rows {
            self.follow(row, now);
        }
        for sums in self.sums.values_mut() {
            for recent in [&mut sums.recent_restarts, &mut sums.recent_oom_kills] {
                recent.0.retain(|(at, _)| now.mono.saturating_sub(*at) < HOUR);
            }
        }
        self.forget(now.mono);
        self.begun = true;
    }

    /// Their counters leave; those of kin that are listed never do.
    fn forget(&mut self, now: Duration) {
        let mut gone: Vec<(Duration, Kin)> =
            self.sums.iter().filter(|(_, sums)| sums.seen < now).map(|(kin, sums)| (sums.seen, kin.clone())).collect();
        gone.sort_unstable();
        for (_, kin) in gone.iter().rev().skip(GONE) {
            self.sums.remove(kin);
        }
    }

    fn follow(&mut self, row: &Row, now: Now) {
        let sums = self.sums.entry(row.kin()).or_default();
        sums.seen = now.mono;
        let is_new = !self.lives.contains_key(&row.id);
        let life = self.lives.entry(row.id.clone()).or_default();
        if row.started_at.is_some() && life.started_at != row.started_at {
            // The kernel and the engine's word of memory begin anew with each start.
            *life = Life { started_at: row.started_at, restarts: life.restarts, ..Life::default() };
        }
        // When it happened that was before our time is told by the container's own end or start, or not at all.
        let before = !self.begun && is_new;
        if let Some(cpu) = row.cpu_seconds {
            let more = if cpu < life.cpu_seconds { cpu } else { cpu - life.cpu_seconds };
            life.cpu_seconds = cpu;
            *sums.cpu_seconds.get_or_insert(0.0) += more;
        }
        if let Some(count) = row.restart_count {
            // It begins anew when somebody starts the container.
            let more = if count < life.restarts { count } else { count - life.restarts };
            life.restarts = count;
            *sums.restarts.get_or_insert(0) += more;
            sums.recent_restarts.add((!before).then_some(now.mono), more);
        }
        if let Some(count) = row.oom_kills {
            let more = count.saturating_sub(life.oom_kills);
            life.oom_kills = life.oom_kills.max(count);
            *sums.oom_kills.get_or_insert(0) += more;
            sums.recent_oom_kills.add(if before { row.last_moment(now) } else { Some(now.mono) }, more);
        }
    }

    pub fn tallies(&self, rows: &[Row], now: Duration) -> BTreeMap<Kin, Tally> {
        let mut listed: BTreeMap<Kin, Vec<&Row>> = BTreeMap::new();
        rows.iter().for_each(|row| listed.entry(row.kin()).or_default().push(row));
        let tally = |(kin, sums): (&Kin, &Sums)| {
            let rows = listed.get(kin).map_or(&[][..], Vec::as_slice);
            (kin.clone(), sums.tally(rows, now))
        };
        self.sums.iter().map(tally).collect()
    }
}

impl Sums {
    fn tally(&self, rows: &[&Row], now: Duration) -> Tally {
        let running = || rows.iter().filter(|row| row.state.is_alive());
        let told = |of: fn(&Row) -> Option<u64>| rows.iter().all(|row| of(row).is_some());
        let listed = Listed {
            running: running().next().is_some(),
            memory_bytes: sum(running().map(|row| row.memory_bytes)),
            recent_restarts: told(|row| row.restart_count).then(|| self.recent_restarts.count(now)),
            recent_oom_kills: told(|row| row.oom_kills).then(|| self.recent_oom_kills.count(now)),
        };
        Tally {
            cpu_seconds: self.cpu_seconds,
            restarts: self.restarts,
            oom_kills: self.oom_kills,
            listed: (!rows.is_empty()).then_some(listed),
        }
    }
}

impl Row {
    /// Its end, or its start while it runs, on the monotonic clock, if that is recent.
    fn last_moment(&self, now: Now) -> Option<Duration> {
        let at = self.finished_at.or(self.started_at)?;
        let age = Duration::try_from(now.wall.duration_since(at)).unwrap_or_default();
        (age < HOUR).then(|| now.mono.saturating_sub(age))
    }
}
