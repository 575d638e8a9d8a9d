//! The host's containers: what they do, how they ended, what they use, and which of them work for nobody.
//!
//! Known by image and name alone, as no host labels its own. The engine tells state and ends; memory and CPU are read
//! from the kernel where control groups can be seen, and are not known elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collect::{Collector, DOCKER_FIX, NOTHING, Needs};
use crate::fact::{Bound, Check, Fact, Severity, Span};
use crate::host::Host;
use crate::host::containers::{Names, Pattern, Role};
use crate::sample::{Now, Points};
use crate::source::Sources;
use crate::source::cgroup::{Cgroups, Used};
use crate::source::docker::{Container, Docker, Health, State};

pub mod leaks;
pub mod ledger;

use leaks::{Leaks, Overheard};
use ledger::{Kin, Ledger, Tally};

/// `[collect.containers]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Names of agents' containers, beside those that the host's profile knows.
    pub names: Vec<Pattern>,
    /// How long a container may run without a group that is active.
    pub leaked_after: Span,
}

impl Default for Config {
    fn default() -> Config {
        Config { names: Vec::new(), leaked_after: Span(Duration::from_secs(60 * 60)) }
    }
}

/// `/status.containers`
#[derive(Debug, Serialize)]
pub struct Section {
    total: usize,
    /// How many are in each state, those with none too.
    #[serde(flatten)]
    states: BTreeMap<State, usize>,
    /// Of those that have ended and are still listed.
    exited_by_code: BTreeMap<i64, usize>,
    /// Null if none runs, or if the start of one is not known.
    oldest_running_seconds: Option<u64>,
    /// Of those that run; null if that of one cannot be read, or none runs.
    memory_bytes: Option<u64>,
    /// Running, though their group has not been active for `leaked_after`; null as long as the queue is not known.
    leaked: Option<usize>,
    containers: Vec<Row>,
    #[serde(skip)]
    roles: Vec<Role>,
    #[serde(skip)]
    kin: BTreeMap<Kin, Tally>,
    /// Whether the queue was ever known: leaks are listed from then on.
    #[serde(skip)]
    knew_queue: bool,
}

/// One container. What is not known is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    #[serde(skip)]
    id: Arc<str>,
    name: Arc<str>,
    role: Role,
    /// The group's folder as it stands in the name, or the MCP server; else the name itself.
    group: Arc<str>,
    state: State,
    /// Of one that has ended or could not be started.
    exit_code: Option<i64>,
    /// Whether it was killed for memory since its latest start, or a process in it.
    oom_killed: Option<bool>,
    /// By Docker, since somebody started it.
    restart_count: Option<u64>,
    health: Option<Health>,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    /// Of one that runs: since its latest start.
    age_seconds: Option<u64>,
    memory_bytes: Option<u64>,
    /// Since its latest start.
    cpu_seconds: Option<f64>,
    /// Of an agent's that runs.
    leaked: Option<bool>,
    /// Why Docker told no more of it than its name and state.
    error: Option<String>,
    /// How many were killed for memory since its latest start.
    #[serde(skip)]
    oom_kills: Option<u64>,
    /// Whether `group` is one.
    #[serde(skip)]
    has_group: bool,
}

static COUNT: Fact = Fact::gauge(
    "agenthost.containers",
    "agenthost_containers",
    "Containers of the host by what they are to it and by their state, as Docker lists them; ended ones too.",
)
.unit("{container}")
.of(&["role", "state"]);

static EXITED: Fact = Fact::gauge(
    "agenthost.containers.exited",
    "agenthost_containers_exited",
    "Containers of the host that have ended and are still listed, by exit code.",
)
.unit("{container}")
.of(&["role", "exit_code"]);

static OLDEST: Fact = Fact::gauge(
    "agenthost.containers.oldest_age",
    "agenthost_containers_oldest_age_seconds",
    "Time since the start of the container that runs longest; 0 when none runs.",
)
.unit("s")
.of(&["role"]);

static MEMORY: Fact = Fact::gauge(
    "agenthost.container.memory",
    "agenthost_container_memory_bytes",
    "Memory of the group's running containers without reclaimable file cache, from their control groups.",
)
.unit("By")
.of(&["role", "group"]);

static CPU: Fact = Fact::counter(
    "agenthost.container.cpu",
    "agenthost_container_cpu_seconds_total",
    "CPU time of the group's containers, those that have gone included, from their control groups.",
)
.unit("s")
.of(&["role", "group"]);

static RESTARTS: Fact = Fact::counter(
    "agenthost.container.restarts",
    "agenthost_container_restarts_total",
    "Restarts by Docker of the group's containers (RestartCount), those that have gone included.",
)
.unit("{restart}")
.of(&["role", "group"]);

static RECENT_RESTARTS: Fact = Fact::gauge(
    "agenthost.container.recent_restarts",
    "agenthost_container_recent_restarts",
    "Restarts by Docker of the group's containers within the last hour, as far as seen.",
)
.unit("{restart}")
.of(&["role", "group"]);

static OOM_KILLS: Fact = Fact::counter(
    "agenthost.container.oom_kills",
    "agenthost_container_oom_kills_total",
    "Containers of the group, or processes in them, that were killed for memory (OOMKilled, oom_kill).",
)
.unit("{kill}")
.of(&["role", "group"]);

static RECENT_OOM_KILLS: Fact = Fact::gauge(
    "agenthost.container.recent_oom_kills",
    "agenthost_container_recent_oom_kills",
    "Containers of the group, or processes in them, that were killed for memory within the last hour.",
)
.unit("{kill}")
.of(&["role", "group"]);

static LEAKED: Fact = Fact::gauge(
    "agenthost.container.leaked",
    "agenthost_container_leaked",
    "Running containers of a group that the host's queue has not called active for leaked_after.",
)
.unit("{container}")
.of(&["group"]);

static CHECKS: [Check; 3] = [
    Check {
        name: "container_restarting",
        fact: &RECENT_RESTARTS,
        bad: Bound::Above(5.0),
        severity: Severity::Warning,
        fail_for: Duration::ZERO,
        headline: "container {} restarting again and again",
        means: "Docker restarted this container more than five times within an hour: it crashes and is started again.",
    },
    Check {
        name: "container_oom_killed",
        fact: &RECENT_OOM_KILLS,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: Duration::ZERO,
        headline: "{} out of memory",
        means: "A container of this group ran out of memory within the last hour and was killed, or a process in it: \
                what it worked at is lost.",
    },
    Check {
        name: "container_leaked",
        fact: &LEAKED,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: Duration::from_secs(5 * 60),
        headline: "container of {} leaked",
        means: "A container runs for this group, and the host has not called the group active for long: nobody will \
                end it, and it keeps its memory.",
    },
];

/// Remembers what one look cannot know: what went before, and since when a container works for nobody.
pub struct Containers {
    names: Names,
    docker: Docker,
    cgroups: Cgroups,
    ledger: Ledger,
    leaks: Leaks,
    /// `None` if nobody asks for the queue.
    queue: Option<Overheard>,
}

impl Collector for Containers {
    const NAME: &'static str = "containers";
    const EVERY: Duration = Duration::from_secs(15);
    const FACTS: &'static [&'static Fact] =
        &[&COUNT, &EXITED, &OLDEST, &MEMORY, &CPU, &RESTARTS, &RECENT_RESTARTS, &OOM_KILLS, &RECENT_OOM_KILLS, &LEAKED];
    const CHECKS: &'static [Check] = &CHECKS;
    const NEEDS: Needs = Needs {
        reads: "Docker's list of the host's containers, and their control groups",
        fix: DOCKER_FIX,
        costs: "one list and one inspect for each new container, none of statistics",
        opens: NOTHING,
    };
    type Config = Config;
    type Section = Section;

    fn new(config: Config, host: &Host, sources: &Sources) -> Result<Option<Containers>> {
        let names = host.containers.clone().unwrap_or_default().with_agents(&config.names);
        Ok((!names.is_empty()).then(|| Containers {
            names,
            docker: sources.docker.clone(),
            cgroups: sources.cgroups.clone(),
            ledger: Ledger::default(),
            leaks: Leaks::new(config.leaked_after.0),
            queue: Overheard::of(host, sources),
        }))
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        let wanted = |name: &str| self.names.might_be(name);
        let seen = self.docker.inspect_all(now, &self.names.beginnings(), wanted).await?;
        let active = self.queue.as_ref().and_then(|queue| queue.active(now));
        let mut rows: Vec<Row> = seen.iter().filter_map(|container| self.row(container, now)).collect();
        self.leaks.judge(&mut rows, active.as_ref(), now.mono);
        self.ledger.take(&rows, now);
        Ok(self.section(rows, now))
    }

    fn points(section: &Section, points: &mut Points) {
        for &role in &section.roles {
            section.put_role(role, points);
        }
        for (kin, tally) in &section.kin {
            tally.put(kin, points);
        }
        section.put_leaked(points);
    }
}

impl Containers {
    /// `None` if it is none of the host's.
    fn row(&self, container: &Container, now: Now) -> Option<Row> {
        let member = self.names.classify(&container.name, container.image.as_deref())?;
        let alive = container.state.is_alive();
        let used = if alive { self.used(container) } else { Used::default() };
        let age = container.started_at.filter(|_| alive).map(|at| now.wall.duration_since(at));
        let kills = killed(container, used);
        Some(Row {
            id: container.id.clone(),
            name: container.name.clone(),
            role: member.role,
            group: member.group,
            has_group: member.has_group,
            state: container.state,
            exit_code: container.exit_code,
            oom_killed: kills.map(|count| count > 0),
            restart_count: container.restart_count,
            health: container.health,
            started_at: container.started_at,
            finished_at: container.finished_at.filter(|_| !alive),
            age_seconds: age.and_then(|age| age.as_secs().try_into().ok()), // a start in the future is no age
            memory_bytes: used.memory_bytes,
            cpu_seconds: used.cpu_seconds,
            leaked: None,
            error: container.unread.as_ref().map(ToString::to_string),
            oom_kills: kills,
        })
    }

    fn used(&self, container: &Container) -> Used {
        self.cgroups.used(&container.id, container.pid, container.cgroup_parent.as_deref())
    }

    fn section(&self, rows: Vec<Row>, now: Now) -> Section {
        let running = || rows.iter().filter(|row| row.state.is_alive());
        let exited = rows.iter().filter_map(|row| row.exit_code);
        Section {
            total: rows.len(),
            states: State::ALL.map(|state| (state, rows.iter().filter(|row| row.state == state).count())).into(),
            exited_by_code: exited.fold(BTreeMap::new(), |mut codes, code| {
                *codes.entry(code).or_default() += 1;
                codes
            }),
            oldest_running_seconds: oldest(running()).flatten(),
            memory_bytes: sum(running().map(|row| row.memory_bytes)),
            leaked: leaked(&rows, self.leaks.knows_now()),
            roles: self.names.roles().collect(),
            kin: self.ledger.tallies(&rows, now.mono),
            knew_queue: self.leaks.knew(),
            containers: rows,
        }
    }
}

/// The kernel's count while it runs, the engine's word afterwards.
fn killed(container: &Container, used: Used) -> Option<u64> {
    let by_engine = container.oom_killed.map(u64::from);
    used.oom_kills.into_iter().chain(by_engine).max()
}

/// `None`: none; `Some(None)`: the age of one is not known.
fn oldest<'a>(rows: impl Iterator<Item = &'a Row>) -> Option<Option<u64>> {
    let ages: Vec<Option<u64>> = rows.map(|row| row.age_seconds).collect();
    (!ages.is_empty()).then(|| ages.into_iter().collect::<Option<Vec<_>>>()?.into_iter().max())
}

/// `None` if there is nothing to sum, or a part is not known.
fn sum(parts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    let parts: Option<Vec<u64>> = parts.collect();
    parts.filter(|parts| !parts.is_empty()).map(|parts| parts.iter().sum())
}

fn leaked(rows: &[Row], queue_is_known: bool) -> Option<usize> {
    queue_is_known.then(|| rows.iter().filter(|row| row.leaked == Some(true)).count())
}

impl Row {
    fn kin(&self) -> Kin {
        Kin { role: self.role, group: self.group.clone() }
    }

    /// Whether it can be leaked: it runs, and for a group.
    fn works(&self) -> bool {
        self.role.is_agent() && self.has_group && self.state.is_alive()
    }
}

impl Section {
    fn put_role(&self, role: Role, points: &mut Points) {
        let label: Arc<str> = role.name().into();
        let of_role = || self.containers.iter().filter(|row| row.role == role);
        for state in State::ALL {
            let count = of_role().filter(|row| row.state == state).count();
            points.put(&COUNT, [&label, &state.name().into()], count as f64);
        }
        let mut codes: BTreeMap<i64, u32> = BTreeMap::new();
        of_role().filter_map(|row| row.exit_code).for_each(|code| *codes.entry(code).or_default() += 1);
        for (code, count) in codes {
            points.put(&EXITED, [&label, &code.to_string().into()], f64::from(count));
        }
        let oldest = oldest(of_role().filter(|row| row.state.is_alive())).unwrap_or(Some(0));
        points.put(&OLDEST, [&label], oldest.map(|age| age as f64));
    }

    /// By group: those that run for it. Once the queue was known, one that is not known today stays listed.
    fn put_leaked(&self, points: &mut Points) {
        let mut groups: BTreeMap<&Arc<str>, Option<f64>> = BTreeMap::new();
        for row in self.containers.iter().filter(|row| self.knew_queue && row.works()) {
            let count = groups.entry(&row.group).or_insert(Some(0.0));
            *count = count.zip(row.leaked).map(|(count, leaked)| count + f64::from(u8::from(leaked)));
        }
        for (group, count) in groups {
            points.put(&LEAKED, [group], count);
        }
    }
}

impl Tally {
    fn put(&self, kin: &Kin, points: &mut Points) {
        let role: Arc<str> = kin.role.name().into();
        let mut put = |fact, value: Option<f64>| points.put(fact, [&role, &kin.group], value);
        if let Some(listed) = &self.listed {
            if listed.running {
                put(&MEMORY, listed.memory_bytes.map(|bytes| bytes as f64));
            }
            // An MCP server decides nothing: it is judged by whether it is connected, and that only shown.
            if kin.role != Role::Mcp {
                put(&RECENT_RESTARTS, listed.recent_restarts.map(|count| count as f64));
                put(&RECENT_OOM_KILLS, listed.recent_oom_kills.map(|count| count as f64));
            }
        }
        for (fact, value) in [
            (&CPU, self.cpu_seconds),
            (&RESTARTS, self.restarts.map(|count| count as f64)),
            (&OOM_KILLS, self.oom_kills.map(|count| count as f64)),
        ] {
            if value.is_some() {
                put(fact, value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
