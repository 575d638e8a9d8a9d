//! The preset `nanoclaw`: its agents run in Docker containers that it calls `nanoclaw-…`, so a worker is a container.
//!
//! The engine says which there are, the container's control group what they use. The first process is asked for the rest,
//! where the engine's processes are ours to see. What runs in one is Claude Code below a runner: whether it runs a tool
//! cannot be told from outside, so that CPU alone means work. Its ancestors are the engine's, so nobody asks for orphans;
//! and the engine reaps, so there are no zombies.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;

use super::class::{Class, Evidence};
use super::recent::Used;
use super::roll::{EARLY, SLACK, Tally, WINDOW, is_nearer};
use super::rule::{Preset, Rule, WORK_OF_CLAUDE};
use super::{CPU, Config, DEGRADED, EARLY_EXITS, EXITS, FDS, Kind, LEAKED, MEMORY, MEMORY_MAX, OLDEST, OVER_RSS};
use super::{RESTARTS, SPAWNS, THREADS, Totals, WORKERS};
use crate::sample::{Now, Points};
use crate::source::Sources;
use crate::source::cgroup::Cgroups;
use crate::source::docker::{Container, Docker, State};
use crate::source::process::proc::{Proc, Scan, Stat};

const BEGINNING: &str = "nanoclaw-";
/// It ends an agent that has said nothing for half an hour, and looks every minute: an idle one may be so old.
const KEEPS: Duration = Duration::from_secs(32 * 60);

/// Follows the containers of agents.
pub struct Nanoclaw {
    docker: Docker,
    cgroups: Cgroups,
    leaked_after: Duration,
    max_rss: Option<u64>,
    lives: BTreeMap<Arc<str>, Life>,
    tally: Tally,
    /// That its agents have used since the first look.
    cpu_seconds: f64,
    last_look: Option<Timestamp>,
}

/// One start of one container.
struct Life {
    started_at: Option<Timestamp>,
    /// When it was looked at, and the CPU seconds it had used by then: those of the window, and the latest before it.
    samples: VecDeque<(Duration, f64)>,
    /// When work was last seen, or when it was first looked at.
    worked: Duration,
}

/// One worker in a container, told as a process is. Null is what cannot be read, or takes a second look.
#[derive(Debug, Serialize)]
pub struct Contained {
    /// Of its first process; null where the engine numbers others than we do.
    pid: Option<u32>,
    kind: &'static str,
    pub class: Class,
    state: Option<char>,
    /// Of all its processes since its latest start, as all that follow but the state.
    cpu_seconds: Option<f64>,
    cpu_percent: Option<f64>,
    /// Of its control group, without what the kernel would give back first; else of its processes.
    rss_bytes: Option<u64>,
    threads: Option<u64>,
    fds: Option<u64>,
    /// The processes below the first.
    children: Option<usize>,
    uptime_seconds: Option<u64>,
    idle_seconds: Option<u64>,
    session: Option<String>,
    cwd: Option<String>,
    registered: Option<bool>,
    registered_state: Option<&'static str>,
    idle_for_s: Option<f64>,
    /// Its container's name.
    container: Arc<str>,
    #[serde(skip)]
    started_at: Option<Timestamp>,
}

impl Contained {
    pub fn used(&self) -> Used {
        let Contained { cpu_percent, rss_bytes, .. } = *self;
        Used { id: self.container.clone(), started: None, cpu_percent, rss_bytes }
    }
}

/// What one look has seen, and what has been counted until then.
pub struct Look {
    pub workers: Vec<Contained>,
    pub kind: Kind,
}

impl Nanoclaw {
    pub fn new(config: &Config, sources: &Sources) -> Nanoclaw {
        Nanoclaw {
            docker: sources.docker.clone(),
            cgroups: sources.cgroups.clone(),
            leaked_after: config.leaked_after.0.max(KEEPS),
            max_rss: config.max_rss,
            lives: BTreeMap::new(),
            tally: Tally::default(),
            cpu_seconds: 0.0,
            last_look: None,
        }
    }

    /// # Errors
    /// The engine did not tell.
    pub async fn look(&mut self, proc: &Proc, scan: &Scan, now: Now) -> Result<Look> {
        let seen = self.docker.inspect_all(now, &[BEGINNING], |name| name.starts_with(BEGINNING)).await?;
        self.bury(&seen, now);
        let below = below(scan);
        let alive = seen.iter().filter(|one| one.state.is_alive() || one.state == State::Unknown);
        let workers: Vec<Contained> =
            alive.map(|one| self.observe(one, &Inside::of(one, &self.cgroups, proc, scan, &below), now)).collect();
        self.tally.forget(now.mono);
        self.last_look = Some(now.wall);
        let kind = self.kind(&workers);
        Ok(Look { workers, kind })
    }

    /// Counts those that have ended, or were started anew.
    fn bury(&mut self, seen: &[Arc<Container>], now: Now) {
        let gone = |id: &Arc<str>, life: &Life| {
            let there = seen.iter().find(|one| one.id == *id);
            there.is_none_or(|one| {
                matches!(one.state, State::Exited | State::Dead | State::Removing | State::Restarting)
            }) || there
                .is_some_and(|one| one.started_at.zip(life.started_at).is_some_and(|(start, known)| start != known))
        };
        let ended: Vec<Arc<str>> =
            self.lives.iter().filter(|(id, life)| gone(id, life)).map(|(id, _)| id.clone()).collect();
        for id in ended {
            let Some(life) = self.lives.remove(&id) else { continue };
            let end = seen.iter().find(|one| one.id == id).and_then(|one| one.finished_at).unwrap_or(now.wall);
            self.tally.exited(now.mono, life.started_at.is_some_and(|start| is_early(start, end)));
        }
    }

    fn observe(&mut self, one: &Container, inside: &Inside<'_>, now: Now) -> Contained {
        let used = self.cgroups.used(&one.id, one.pid, one.cgroup_parent.as_deref());
        let life = self.lives.remove(&one.id).unwrap_or_else(|| {
            if self.last_look.is_some() {
                self.tally.spawned(now.mono);
            }
            // What an older one used before we looked was not used under our eyes.
            if one.started_at.zip(self.last_look).is_some_and(|(start, last)| start > last) {
                self.cpu_seconds += used.cpu_seconds.unwrap_or(0.0); // see `kind` for what nobody sees
            }
            Life { started_at: one.started_at, samples: VecDeque::new(), worked: now.mono }
        });
        let mut life = Life { started_at: life.started_at.or(one.started_at), ..life };
        let cpu_percent = used.cpu_seconds.and_then(|seconds| self.use_cpu(&mut life, seconds, now.mono));
        // What was used before the last sample says nothing of now.
        let is_busy = used.cpu_seconds.and_then(|_| life.works(now.mono));
        if is_busy == Some(true) {
            life.worked = now.mono;
        }
        let idle = is_busy.map(|_| now.mono.saturating_sub(life.worked));
        let age = life.started_at.map(|at| now.wall.duration_since(at));
        let evidence = Evidence { is_busy, idle, leaked_after: Some(self.leaked_after), ..Evidence::default() };
        let contained = Contained {
            pid: inside.first.map(Stat::pid),
            kind: Preset::Nanoclaw.name(),
            class: evidence.class(),
            state: inside.first.map(|stat| stat.state),
            cpu_seconds: used.cpu_seconds,
            cpu_percent: cpu_percent.map(|percent| (percent * 100.0).round() / 100.0),
            rss_bytes: used.memory_bytes.or_else(|| inside.sum(Stat::resident_bytes)),
            threads: inside.sum(|stat| stat.threads),
            fds: inside.fds,
            children: inside.first.map(|_| inside.others.len()),
            uptime_seconds: age.and_then(|age| age.as_secs().try_into().ok()),
            idle_seconds: idle.map(|idle| idle.as_secs()),
            session: None,
            cwd: inside.cwd.clone(),
            registered: None,
            registered_state: None,
            idle_for_s: None,
            container: one.name.clone(),
            started_at: life.started_at,
        };
        self.lives.insert(one.id.clone(), life);
        contained
    }

    /// Adds what it used since the last look, and tells its share of one core.
    fn use_cpu(&mut self, life: &mut Life, seconds: f64, now: Duration) -> Option<f64> {
        let last = life.samples.back().copied();
        if last.is_some_and(|(_, before)| seconds < before) {
            life.samples.clear(); // a counter that fell began anew
        }
        while let (Some(&(longer, _)), Some(&(shorter, _))) = (life.samples.front(), life.samples.get(1))
            && is_nearer(now.saturating_sub(shorter), now.saturating_sub(longer))
        {
            life.samples.pop_front();
        }
        life.samples.push_back((now, seconds));
        let (at, before) = last.filter(|(_, before)| seconds >= *before)?;
        self.cpu_seconds += seconds - before;
        let elapsed = now.saturating_sub(at).as_secs_f64();
        (elapsed > 0.0).then(|| (seconds - before) / elapsed * 100.0)
    }

    fn kind(&self, workers: &[Contained]) -> Kind {
        let over = |limit| workers.iter().filter(|one| one.rss_bytes.is_some_and(|bytes| bytes > limit)).count();
        let unseen = workers.iter().filter(|one| one.cpu_seconds.is_none()).count();
        let rule = Rule::from(Preset::Nanoclaw);
        let kind = Kind::of(&rule, totals(workers), self.max_rss.map(over), unseen, &self.tally);
        // Nothing was seen of anyone: that is no 0.
        let is_seen = unseen == 0 || self.cpu_seconds > 0.0;
        Kind { cpu_seconds_total: is_seen.then_some(self.cpu_seconds), ..kind }
    }
}

impl Life {
    /// Whether it used as much CPU as is work in the time between two looks; a start needs all of it in a window.
    fn works(&self, now: Duration) -> Option<bool> {
        let &(at, before) = self.samples.front()?;
        let &(_, seconds) = self.samples.back()?;
        let elapsed = now.saturating_sub(at);
        let share = if elapsed + SLACK < WINDOW { 1.0 } else { elapsed.as_secs_f64() / WINDOW.as_secs_f64() };
        (elapsed > Duration::ZERO).then_some(seconds - before >= WORK_OF_CLAUDE * share)
    }
}

fn is_early(start: Timestamp, end: Timestamp) -> bool {
    Duration::try_from(end.duration_since(start)).is_ok_and(|lifetime| lifetime < EARLY)
}

/// The living children of each process.
fn below(scan: &Scan) -> BTreeMap<u32, Vec<&Stat>> {
    let mut below: BTreeMap<u32, Vec<&Stat>> = BTreeMap::new();
    scan.all()
        .iter()
        .filter(|stat| !stat.is_zombie())
        .for_each(|stat| below.entry(stat.parent).or_default().push(stat));
    below
}

/// The processes of one container: none if its first one is not ours to see.
struct Inside<'s> {
    first: Option<&'s Stat>,
    others: Vec<&'s Stat>,
    fds: Option<u64>,
    cwd: Option<String>,
}

impl<'s> Inside<'s> {
    /// Where we see other processes than the engine, its pid is somebody else's here: so the control group must be its own.
    fn of(
        one: &Container,
        cgroups: &Cgroups,
        proc: &Proc,
        scan: &'s Scan,
        below: &BTreeMap<u32, Vec<&'s Stat>>,
    ) -> Inside<'s> {
        let first = one.pid.filter(|&pid| cgroups.is_of(pid, &one.id)).and_then(|pid| scan.get(pid));
        let mut others: Vec<&Stat> = Vec::new();
        let mut known: BTreeSet<u32> = first.map(Stat::pid).into_iter().collect();
        let mut next: Vec<u32> = known.iter().copied().collect();
        while let Some(parent) = next.pop() {
            for stat in below.get(&parent).into_iter().flatten().filter(|stat| known.insert(stat.pid())) {
                others.push(stat);
                next.push(stat.pid());
            }
        }
        let fds = first.into_iter().chain(others.iter().copied()).map(|stat| proc.open_fds(stat.pid()).ok());
        let fds = fds.sum::<Option<u64>>().filter(|_| first.is_some());
        let cwd = first.and_then(|stat| proc.cwd_name(stat.pid()).ok().flatten());
        Inside { first, others, fds, cwd }
    }

    fn sum(&self, of: impl Fn(&Stat) -> u64) -> Option<u64> {
        let first = of(self.first?);
        Some(first + self.others.iter().map(|stat| of(stat)).sum::<u64>())
    }
}

fn totals(workers: &[Contained]) -> Totals {
    let count = |class| workers.iter().filter(|one| one.class == class).count();
    Totals {
        alive: workers.len(),
        busy: count(Class::Busy),
        idle: count(Class::Idle),
        zombie: 0,
        orphan: None,
        leaked: count(Class::Leaked),
        duplicate: None,
        unregistered: None,
        unknown: count(Class::Unknown),
    }
}

/// What could not be seen, and what to do about it.
pub fn limit(kind: &Kind) -> Option<String> {
    (kind.degraded > 0).then(|| {
        format!(
            "the control groups of {} containers are not ours to see, so that nobody knows whether they are busy: \
             `cgroups` in [docker] says where they show",
            kind.degraded
        )
    })
}

pub fn put(workers: &[Contained], of: &Kind, points: &mut Points) {
    let kind: Arc<str> = Preset::Nanoclaw.name().into();
    for (fact, value) in [
        (&SPAWNS, of.spawns_total as f64),
        (&EXITS, of.exits_total as f64),
        (&RESTARTS, of.restarts_last_hour as f64),
        (&EARLY_EXITS, of.early_exits_recent as f64),
        (&DEGRADED, of.degraded as f64),
    ] {
        points.put(fact, [&kind], value);
    }
    points.put(&CPU, [&kind], of.cpu_seconds_total);
    // One that may be busy may be idle as well.
    let is_told = of.degraded == 0 || of.totals.leaked > 0;
    points.put(&LEAKED, [&kind], is_told.then_some(of.totals.leaked as f64));
    if let Some(over) = of.over_max_rss {
        let is_known = workers.iter().all(|one| one.rss_bytes.is_some());
        points.put(&OVER_RSS, [&kind], (is_known || over > 0).then_some(over as f64));
    }
    for class in Class::ALL {
        let Some(count) = of.totals.of(class).filter(|_| class != Class::Zombie) else { continue };
        let labels = [&kind, &class.name().into()];
        points.put(&WORKERS, labels, count as f64);
        put_class(labels, workers.iter().filter(|one| one.class == class).collect(), points);
    }
}

/// The engine did not tell: what is judged is not known.
pub fn put_unseen(points: &mut Points) {
    let kind: Arc<str> = Preset::Nanoclaw.name().into();
    points.put(&LEAKED, [&kind], None);
    points.put(&EARLY_EXITS, [&kind], None);
}

/// What is not known of one is not known of all.
fn put_class(labels: [&Arc<str>; 2], workers: Vec<&Contained>, points: &mut Points) {
    if workers.is_empty() {
        return;
    }
    let all = |of: fn(&Contained) -> Option<f64>| workers.iter().map(|one| of(one)).collect::<Option<Vec<f64>>>();
    let bytes = all(|one| one.rss_bytes.map(|bytes| bytes as f64));
    let start = all(|one| one.started_at.map(|at| at.as_duration().as_secs_f64()));
    for (fact, value) in [
        (&MEMORY, bytes.as_ref().map(|all| all.iter().sum())),
        (&MEMORY_MAX, bytes.map(|all| all.into_iter().fold(0.0, f64::max))),
        (&THREADS, all(|one| one.threads.map(|count| count as f64)).map(|all| all.iter().sum())),
        (&FDS, all(|one| one.fds.map(|count| count as f64)).map(|all| all.iter().sum())),
        (&OLDEST, start.map(|all| all.into_iter().fold(f64::INFINITY, f64::min))),
    ] {
        if let Some(value) = value {
            points.put(fact, labels, Some::<f64>(value));
        }
    }
}

#[cfg(test)]
mod tests;
