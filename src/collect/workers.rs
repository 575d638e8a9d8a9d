//! Workers of agents, from outside: what each costs, and whether it works, idles, or was left behind.
//!
//! `/proc/<pid>/stat` of all processes is read once a look, and more only of workers. Identity is pid and start time. What
//! another user's process hides (open sockets, I/O, folder) is null, and the section says what that costs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZero;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::collect::{Collector, NOTHING, Needs};
use crate::fact::{Bound, Check, Fact, Severity, Span};
use crate::host::{Host, Profile};
use crate::sample::{Details, Now, Points};
use crate::source::Sources;
use crate::source::process::proc::{self, Proc, Scan, Stat};

mod ancestor;
mod class;
mod nanoclaw;
mod recent;
mod registry;
mod roll;
mod rule;
#[cfg(test)]
mod real_tests;
#[cfg(test)]
mod tests;

use ancestor::{Above, Ancestor};
pub use class::Class;
use class::Evidence;
use nanoclaw::{Contained, Nanoclaw};
use recent::{Recent, Used};
use registry::{List, Listed, Registration, Registry};
use roll::{Roll, Seen, Tally};
use rule::{Own, Preset, Rule};

/// `[collect.workers]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Not set: those that the host's profile runs as processes.
    presets: Option<Presets>,
    #[serde(rename = "rule")]
    rules: Rules,
    /// A child may be so old before it must have a host above it, and be on that host's list.
    orphan_after: Span,
    /// The longest that a host keeps an idle one: ten minutes, and two until it looks.
    leaked_after: Span,
    /// Whether the file names of sessions are shown.
    sessions: bool,
    /// How many servers of the same command one process needs.
    max_per_parent: NonZero<usize>,
    /// Bytes of memory that one worker may have; not set: any.
    max_rss: Option<u64>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            presets: None,
            rules: Rules::default(),
            orphan_after: Span(Duration::from_secs(30)),
            leaked_after: Span(Duration::from_secs(12 * 60)),
            sessions: false,
            max_per_parent: NonZero::<usize>::MIN,
            max_rss: None,
        }
    }
}

#[derive(Debug, Clone)]
struct Presets(Vec<Preset>);

impl<'de> Deserialize<'de> for Presets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Presets, D::Error> {
        let presets = Vec::<Preset>::deserialize(deserializer)?;
        match presets.iter().enumerate().find(|(at, preset)| presets[..*at].contains(preset)) {
            Some((_, twice)) => Err(de::Error::custom(format!("`{}` stands there twice", twice.name()))),
            None => Ok(Presets(presets)),
        }
    }
}

#[derive(Debug, Clone, Default)]
struct Rules(Vec<Own>);

impl<'de> Deserialize<'de> for Rules {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rules, D::Error> {
        let rules = Vec::<Own>::deserialize(deserializer)?;
        let mut names: BTreeSet<&str> = Preset::ALL.iter().map(|preset| preset.name()).collect();
        match rules.iter().find(|rule| !names.insert(rule.name())) {
            Some(rule) => Err(de::Error::custom(format!("the name `{}` is taken", rule.name()))),
            None => Ok(Rules(rules)),
        }
    }
}

/// What a host of this kind runs as processes beside it. pynchy runs its agents and their servers in containers; what
/// another one runs is for its configuration to say.
fn presets(profile: Profile) -> Vec<Preset> {
    match profile {
        Profile::PiWeb => vec![Preset::Pi],
        Profile::Netclaw => vec![Preset::Mcp],
        Profile::Openclaw => vec![Preset::Openclaw],
        Profile::Pynchy | Profile::Generic => Vec::new(),
    }
}

/// `/status.workers`
#[derive(Debug, Serialize)]
pub struct Section {
    processes: Rows,
    totals: Totals,
    kinds: BTreeMap<Arc<str>, Kind>,
    host: Sought,
    /// The list that the host keeps of its own workers; null where it keeps none that can be read.
    registry: Option<Listed>,
    /// What could not be seen, and what to do about it.
    limits: Vec<String>,
    /// Those of them that rights would lift.
    #[serde(skip)]
    gaps: Vec<String>,
    #[serde(skip)]
    booted: f64,
    /// The engine did not tell of those in containers.
    #[serde(skip)]
    is_blind: bool,
}

/// All workers: it is the processes, and has those in containers beside.
#[derive(Debug)]
struct Rows {
    processes: Vec<Process>,
    contained: Vec<Contained>,
}

impl Rows {
    fn used(&self) -> impl Iterator<Item = Used> {
        let processes = self.processes.iter().map(|one| Used {
            id: one.pid.to_string().into(),
            started: Some(one.started),
            cpu_percent: one.cpu_percent,
            rss_bytes: Some(one.rss_bytes),
        });
        processes.chain(self.contained.iter().map(Contained::used))
    }
}

impl Deref for Rows {
    type Target = [Process];

    fn deref(&self) -> &[Process] {
        &self.processes
    }
}

impl Serialize for Rows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(self.processes.len() + self.contained.len()))?;
        self.processes.iter().try_for_each(|row| rows.serialize_element(row))?;
        self.contained.iter().try_for_each(|row| rows.serialize_element(row))?;
        rows.end()
    }
}

/// One worker. Null is what cannot be read, or takes a second look.
#[derive(Debug, Serialize)]
struct Process {
    pid: u32,
    kind: Arc<str>,
    class: Class,
    /// The kernel's letter.
    state: char,
    /// User and system, in its whole life.
    cpu_seconds: f64,
    /// Of one core, since the last look.
    cpu_percent: Option<f64>,
    rss_bytes: u64,
    threads: u64,
    fds: Option<u64>,
    /// Living ones.
    children: usize,
    uptime_seconds: u64,
    /// Since work was last seen; since the first look where it never was.
    idle_seconds: Option<u64>,
    /// The file name of its session, if `sessions` is set and a tool of it has told.
    session: Option<String>,
    /// The last folder of its working folder.
    cwd: Option<String>,
    /// Whether the host has it on a list of its own; null where it keeps none that can be read, where it is not the host's
    /// to list, and until two lists agree.
    registered: Option<bool>,
    /// What the host calls its state, on that list.
    registered_state: Option<registry::State>,
    /// Seconds since its user last asked it for something, by that list.
    idle_for_s: Option<f64>,
    /// The container's name, of a worker that is known by it.
    container: Option<Arc<str>>,
    #[serde(skip)]
    above: Option<Above>,
    #[serde(skip)]
    started: Duration,
}

/// How many there are of each class; null where a class is not asked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Totals {
    /// All but zombies.
    alive: usize,
    busy: usize,
    idle: usize,
    zombie: usize,
    orphan: Option<usize>,
    leaked: usize,
    duplicate: Option<usize>,
    unregistered: Option<usize>,
    /// Seen once.
    unknown: usize,
}

/// One kind of worker.
#[derive(Debug, Serialize)]
struct Kind {
    #[serde(flatten)]
    totals: Totals,
    /// Above `max_rss`; null if that is not set.
    over_max_rss: Option<usize>,
    /// Those whose I/O and sockets are not ours to see.
    degraded: usize,
    /// All that follow: since the first look.
    spawns_total: u64,
    exits_total: u64,
    restarts_last_hour: usize,
    /// Within ten seconds of their start, in the last ten minutes.
    early_exits_recent: usize,
    cpu_seconds_total: Option<f64>,
    disk_read_bytes_total: Option<u64>,
    disk_written_bytes_total: Option<u64>,
    #[serde(skip)]
    is_reaped: bool,
    /// The host keeps a list of them.
    #[serde(skip)]
    is_listed: bool,
}

/// The host, above which no worker is an orphan.
#[derive(Debug, Clone, Serialize)]
struct Sought {
    pid: Option<u32>,
    /// Whether workers are tested for a host above them.
    orphan_test: bool,
    /// Why not.
    reason: Option<String>,
    /// It is out of sight, and was not always.
    #[serde(skip)]
    is_lost: bool,
}

static WORKERS: Fact = Fact::gauge(
    "agenthost.workers",
    "agenthost_workers",
    "Worker processes by class: the first that fits of zombie, orphan, duplicate, unregistered, leaked, busy, idle; unknown is seen once.",
)
.unit("{process}")
.of(&["kind", "class"]);
static MEMORY: Fact = Fact::gauge(
    "agenthost.worker.memory",
    "agenthost_worker_memory_bytes",
    "Resident memory of all workers of the kind and class; what they share is in each.",
)
.unit("By")
.of(&["kind", "class"]);
static MEMORY_MAX: Fact = Fact::gauge(
    "agenthost.worker.memory_max",
    "agenthost_worker_memory_max_bytes",
    "Resident memory of the largest worker of the kind and class.",
)
.unit("By")
.of(&["kind", "class"]);
static THREADS: Fact = Fact::gauge(
    "agenthost.worker.threads",
    "agenthost_worker_threads",
    "Threads of all workers of the kind and class.",
)
.unit("{thread}")
.of(&["kind", "class"]);
static FDS: Fact = Fact::gauge(
    "agenthost.worker.open_fds",
    "agenthost_worker_open_fds",
    "Files that all workers of the kind and class have open; absent if those of one cannot be counted.",
)
.unit("{file}")
.of(&["kind", "class"]);
static OLDEST: Fact = Fact::gauge(
    "agenthost.worker.oldest_start_time_seconds",
    "agenthost_worker_oldest_start_time_seconds",
    "When the oldest worker of the kind and class was started (Unix time).",
)
.of(&["kind", "class"]);
static CPU: Fact = Fact::counter(
    "agenthost.worker.cpu",
    "agenthost_worker_cpu_seconds_total",
    "CPU time that workers of the kind have used since this collector began; what one uses after its last look is lost.",
)
.unit("s")
.of(&["kind"]);
static DISK_READ: Fact = Fact::counter(
    "agenthost.worker.disk_read",
    "agenthost_worker_disk_read_bytes_total",
    "Bytes that workers of the kind have read from disks since this collector began, of those whose I/O can be seen; the kernel adds what a child did that they have reaped.",
)
.unit("By")
.of(&["kind"]);
static DISK_WRITTEN: Fact = Fact::counter(
    "agenthost.worker.disk_written",
    "agenthost_worker_disk_written_bytes_total",
    "Bytes that workers of the kind have written to disks since this collector began, of those whose I/O can be seen; the kernel adds what a child did that they have reaped.",
)
.unit("By")
.of(&["kind"]);
static SPAWNS: Fact = Fact::counter(
    "agenthost.worker.spawns",
    "agenthost_worker_spawns_total",
    "Workers of the kind that appeared since this collector began; one that comes and goes between two looks is not seen.",
)
.unit("{process}")
.of(&["kind"]);
static EXITS: Fact = Fact::counter(
    "agenthost.worker.exits",
    "agenthost_worker_exits_total",
    "Workers of the kind that ended since this collector began, or became another program.",
)
.unit("{process}")
.of(&["kind"]);
static RESTARTS: Fact = Fact::gauge(
    "agenthost.worker.recent_restarts",
    "agenthost_worker_recent_restarts",
    "Workers of the kind that took the place of one that had ended, within the last hour.",
)
.unit("{process}")
.of(&["kind"]);
static EARLY_EXITS: Fact = Fact::gauge(
    "agenthost.worker.recent_early_exits",
    "agenthost_worker_recent_early_exits",
    "Workers of the kind that are known to have ended within ten seconds of their start, in the last ten minutes; of those that were seen.",
)
.unit("{process}")
.of(&["kind"]);
static ZOMBIES: Fact = Fact::gauge(
    "agenthost.workers.zombie",
    "agenthost_workers_zombie",
    "Workers of the kind that have ended and that nobody has reaped.",
)
.unit("{process}")
.of(&["kind"]);
static ORPHANS: Fact = Fact::gauge(
    "agenthost.workers.orphan",
    "agenthost_workers_orphan",
    "Living workers of the kind that have no living host above them, of those whose ancestors are all seen; no series where the host is not known.",
)
.unit("{process}")
.of(&["kind"]);
static LEAKED: Fact = Fact::gauge(
    "agenthost.workers.leaked",
    "agenthost_workers_leaked",
    "Workers of the kind that have been idle for longer than the host would keep them.",
)
.unit("{process}")
.of(&["kind"]);
static DUPLICATES: Fact = Fact::gauge(
    "agenthost.workers.duplicate",
    "agenthost_workers_duplicate",
    "MCP servers of the same command and parent beyond those that it needs, which are the ones last seen to talk, else the newest.",
)
.unit("{process}")
.of(&["kind"]);
static UNREGISTERED: Fact = Fact::gauge(
    "agenthost.workers.unregistered",
    "agenthost_workers_unregistered",
    "Living workers of the kind below the host that are not on its own list (pi-web: /api/metrics); absent while that cannot be read.",
)
.unit("{process}")
.of(&["kind"]);
static OVER_RSS: Fact = Fact::gauge(
    "agenthost.workers.over_max_rss",
    "agenthost_workers_over_max_rss",
    "Workers of the kind with more resident memory than `max_rss`; no series if that is not set.",
)
.unit("{process}")
.of(&["kind"]);
static DEGRADED: Fact = Fact::gauge(
    "agenthost.workers.degraded",
    "agenthost_workers_degraded",
    "Workers of the kind whose I/O and sockets the exporter may not see: whether they are busy is told by CPU and children.",
)
.unit("{process}")
.of(&["kind"]);

const LASTS: Duration = Duration::from_secs(5 * 60);

static CHECKS: [Check; 7] = [
    Check {
        name: "worker_zombie",
        fact: &ZOMBIES,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: LASTS,
        headline: "{} workers left as zombies",
        means: "Workers ended and their parent does not reap them: it hangs, or has a defect.",
    },
    Check {
        name: "worker_orphan",
        fact: &ORPHANS,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: LASTS,
        headline: "{} workers orphaned",
        means: "Workers live on without a host: somebody else holds their input open. Nobody will end them.",
    },
    Check {
        name: "worker_leaked",
        fact: &LEAKED,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: LASTS,
        headline: "{} workers leaked",
        means: "Workers have idled for longer than the host would keep them: it has lost them, or its reaper stands.",
    },
    Check {
        name: "worker_duplicate",
        fact: &DUPLICATES,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: LASTS,
        headline: "{} workers started twice",
        means: "A process has started the same MCP server again and kept the old one (max_per_parent says how many it needs).",
    },
    Check {
        name: "worker_unregistered",
        fact: &UNREGISTERED,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: LASTS,
        headline: "{} workers unknown to the host",
        means: "Workers run below the host that it does not know of: it has forgotten them, and will not end them.",
    },
    Check {
        name: "worker_rss",
        fact: &OVER_RSS,
        bad: Bound::Above(0.0),
        severity: Severity::Info,
        fail_for: LASTS,
        headline: "{} workers over max_rss",
        means: "Workers have more resident memory than max_rss.",
    },
    Check {
        name: "worker_spawn_loop",
        fact: &EARLY_EXITS,
        bad: Bound::Above(5.0),
        severity: Severity::Warning,
        fail_for: LASTS,
        headline: "{} workers in a spawn loop",
        means: "Workers end within seconds of their start, again and again: they cannot start, and the host keeps trying.",
    },
];

/// Follows the workers of one host.
pub struct Workers {
    config: Config,
    proc: Proc,
    host: Ancestor,
    registry: Option<Registry>,
    nanoclaw: Option<Nanoclaw>,
    roll: Roll,
    recent: Recent,
    /// Kept, so that start times do not tremble as two clocks do that are read one after the other.
    booted: f64,
}

impl Collector for Workers {
    const NAME: &'static str = "workers";
    const EVERY: Duration = Duration::from_secs(15);
    const FACTS: &'static [&'static Fact] = &[
        &WORKERS,
        &MEMORY,
        &MEMORY_MAX,
        &THREADS,
        &FDS,
        &OLDEST,
        &CPU,
        &DISK_READ,
        &DISK_WRITTEN,
        &SPAWNS,
        &EXITS,
        &RESTARTS,
        &EARLY_EXITS,
        &ZOMBIES,
        &ORPHANS,
        &LEAKED,
        &DUPLICATES,
        &UNREGISTERED,
        &OVER_RSS,
        &DEGRADED,
    ];
    const CHECKS: &'static [Check] = &CHECKS;
    const NEEDS: Needs = Needs {
        reads: "/proc of every process, and of workers their I/O and sockets",
        fix: "run as the user of the workers, or with CAP_SYS_PTRACE; where /proc is mounted with hidepid, in the group that its option `gid` names; in a container share the host's process namespace",
        costs: "one pass over /proc; nothing of the host itself",
        opens: NOTHING,
    };
    type Config = Config;
    type Section = Section;

    /// `None` if there is nothing to look for.
    fn new(config: Config, host: &Host, sources: &Sources) -> Result<Option<Workers>> {
        let presets = config.presets.clone().map_or_else(|| presets(host.profile), |presets| presets.0);
        // The operator knows better than a preset.
        let rules = config.rules.0.iter().cloned().map(Rule::from);
        let (contained, presets): (Vec<Preset>, Vec<Preset>) =
            presets.into_iter().partition(|preset| *preset == Preset::Nanoclaw);
        let rules: Vec<Rule> = rules.chain(presets.into_iter().map(Rule::from)).collect();
        let nanoclaw = (!contained.is_empty()).then(|| Nanoclaw::new(&config, sources));
        Ok((!rules.is_empty() || nanoclaw.is_some()).then(|| Workers {
            nanoclaw,
            roll: Roll::new(rules, config.sessions),
            config,
            proc: sources.proc.clone().keeping(),
            host: Ancestor::new(host),
            registry: Registry::new(host, sources),
            recent: Recent::default(),
            booted: 0.0,
        }))
    }

    fn within(&mut self, timeout: Duration) {
        if let Some(registry) = &mut self.registry {
            registry.within(timeout);
        }
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        let scan = self.proc.scan()?;
        let sought = self.host.look(&self.proc, &scan);
        let seen = self.roll.look(&self.proc, &scan, now.mono);
        // Asked after: a host that hangs must not make what we see with our own eyes old.
        let list = async {
            match &mut self.registry {
                Some(registry) => Some(registry.ask(sought.pid, now).await),
                None => None,
            }
        };
        let contained = async {
            match &mut self.nanoclaw {
                Some(nanoclaw) => Some(nanoclaw.look(&self.proc, &scan, now).await),
                None => None,
            }
        };
        let (list, contained) = tokio::join!(list, contained);
        let booted = now.wall.as_duration().as_secs_f64() - now.mono.as_secs_f64();
        // Somebody may set the clock.
        if (booted - self.booted).abs() > 2.0 {
            self.booted = booted.round();
        }
        let seen = Sight { scan: &scan, seen: &seen, sought: &sought, list: list.as_ref(), now };
        let processes = self.processes(&seen);
        let section = self.section(&seen, processes);
        let section = match contained {
            None => section,
            Some(Ok(look)) => section.with(look),
            // Where there is nothing else to see, that is all there is to say.
            Some(Err(error)) if self.roll.rules().is_empty() => return Err(error),
            Some(Err(error)) => section.without(&error),
        };
        self.recent.note(section.processes.used());
        Ok(section)
    }

    fn details(&self) -> Details {
        self.recent.details()
    }

    fn gaps(section: &Section) -> Vec<String> {
        section.gaps.clone()
    }

    fn points(section: &Section, points: &mut Points) {
        if section.is_blind {
            nanoclaw::put_unseen(points);
        }
        for (kind, of) in &section.kinds {
            if **kind == *Preset::Nanoclaw.name() {
                nanoclaw::put(&section.processes.contained, of, points);
                continue;
            }
            put_kind(kind, of, points);
            if section.host.orphan_test || section.host.is_lost {
                points.put(&ORPHANS, [kind], of.totals.orphan.map(|count| count as f64));
            }
            if of.is_listed {
                points.put(&UNREGISTERED, [kind], of.totals.unregistered.map(|count| count as f64));
            }
            for class in Class::ALL {
                let Some(count) = of.totals.of(class) else { continue };
                points.put(&WORKERS, [kind, &class.name().into()], count as f64);
                let members = section.processes.iter().filter(|one| one.kind == *kind && one.class == class);
                put_class([kind, &class.name().into()], members.collect(), section.booted, points);
            }
        }
    }
}

fn put_kind(kind: &Arc<str>, of: &Kind, points: &mut Points) {
    let mut put = |fact, value: Option<f64>| {
        if let Some(value) = value {
            points.put(fact, [kind], value);
        }
    };
    let number = |count: usize| count as f64;
    put(&CPU, of.cpu_seconds_total);
    put(&DISK_READ, of.disk_read_bytes_total.map(|bytes| bytes as f64));
    put(&DISK_WRITTEN, of.disk_written_bytes_total.map(|bytes| bytes as f64));
    put(&SPAWNS, Some(of.spawns_total as f64));
    put(&EXITS, Some(of.exits_total as f64));
    put(&RESTARTS, Some(number(of.restarts_last_hour)));
    put(&EARLY_EXITS, Some(number(of.early_exits_recent)));
    put(&ZOMBIES, Some(number(of.totals.zombie)));
    put(&LEAKED, of.is_reaped.then_some(number(of.totals.leaked)));
    put(&DUPLICATES, of.totals.duplicate.map(number));
    put(&OVER_RSS, of.over_max_rss.map(number));
    put(&DEGRADED, Some(number(of.degraded)));
}

fn put_class(labels: [&Arc<str>; 2], members: Vec<&Process>, boot: f64, points: &mut Points) {
    let Some(oldest) = members.iter().map(|one| one.started).min() else { return };
    let sum = |of: fn(&Process) -> u64| members.iter().map(|one| of(one)).sum::<u64>() as f64;
    points.put(&MEMORY, labels, sum(|one| one.rss_bytes));
    points.put(&MEMORY_MAX, labels, members.iter().map(|one| one.rss_bytes).max().map(|bytes| bytes as f64));
    points.put(&THREADS, labels, sum(|one| one.threads));
    if let Some(fds) = members.iter().map(|one| one.fds).sum::<Option<u64>>() {
        points.put(&FDS, labels, fds as f64);
    }
    points.put(&OLDEST, labels, boot + oldest.as_secs_f64());
}

/// Programs that take in the children of the dead (subreapers, and the first process of a container).
const REAPERS: [&str; 7] = ["systemd", "init", "tini", "dumb-init", "docker-init", "containerd-shim", "conmon"];

/// All that one look has seen.
struct Sight<'a> {
    scan: &'a Scan,
    seen: &'a [Seen],
    sought: &'a Sought,
    list: Option<&'a Result<List, String>>,
    now: Now,
}

impl Sight<'_> {
    fn list(&self) -> Option<&List> {
        self.list.and_then(|list| list.as_ref().ok())
    }

    /// Whether orphans are handed over to it, by what such a program is called: the kernel does not tell who asked for
    /// them. The host may be pid 1 of its container, and what is below it is its own.
    fn is_reaper(&self, pid: u32) -> bool {
        let is_called = |stat: &Stat| REAPERS.iter().any(|name| stat.comm.is(name));
        self.sought.pid != Some(pid) && (pid == 1 || self.scan.get(pid).is_some_and(is_called))
    }
}

impl Workers {
    fn processes(&mut self, sight: &Sight<'_>) -> Vec<Process> {
        if let Some(registry) = &mut self.registry {
            registry.forget(sight.scan);
        }
        let duplicates = duplicates(sight, self.config.max_per_parent.get());
        let of_host: BTreeSet<u32> =
            sight.seen.iter().filter(|one| self.is_listed(one.rule)).map(|one| one.stat.pid()).collect();
        let each = sight.seen.iter().map(|one| {
            let above = self.above(sight, one);
            let registration = self.registration(sight, one, above, &of_host);
            self.process(one, above, duplicates.contains(&one.stat.pid()), registration, sight.now)
        });
        each.collect()
    }

    /// Whether the host keeps a list of workers of this rule: pi-web of those that are pi.
    fn is_listed(&self, rule: usize) -> bool {
        self.registry.is_some() && self.roll.rules()[rule].is_pi()
    }

    /// `None`: not asked, as nobody knows the host.
    fn above(&self, sight: &Sight<'_>, seen: &Seen) -> Option<Above> {
        let age = sight.now.mono.saturating_sub(seen.stat.started());
        sight.sought.orphan_test.then(|| match age > self.config.orphan_after.0 {
            true => self.host.above(&self.proc, sight.scan, &seen.stat),
            false => Above::Young,
        })
    }

    fn registration(
        &mut self,
        sight: &Sight<'_>,
        seen: &Seen,
        above: Option<Above>,
        of_host: &BTreeSet<u32>,
    ) -> Registration {
        let is_listed = self.is_listed(seen.rule);
        let (Some(registry), Some(list)) = (&mut self.registry, sight.list().filter(|_| is_listed)) else {
            return Registration::default();
        };
        let is_host = sight.sought.pid == Some(seen.stat.pid());
        let is_own = !is_host && above.is_some_and(|above| registry::is_own(above, sight.scan, &seen.stat, of_host));
        registry.registration(list, &seen.stat, is_own, self.config.orphan_after.0)
    }

    fn section(&self, sight: &Sight<'_>, processes: Vec<Process>) -> Section {
        let rules = self.roll.rules();
        let asked = |rule: &Rule| Asked {
            orphan: sight.sought.orphan_test,
            duplicate: rule.is_mcp(),
            unregistered: rule.is_pi() && sight.list().is_some(),
        };
        let kinds = rules.iter().zip(self.roll.tallies()).enumerate();
        let kinds = kinds.map(|(index, (rule, tally))| {
            let members = processes.iter().filter(|one| one.kind == rule.kind);
            let totals = Totals::count(members.clone(), asked(rule));
            let over = self.config.max_rss.map(|limit| members.filter(|one| one.rss_bytes > limit).count());
            let degraded = sight.seen.iter().filter(|one| one.rule == index && one.is_closed).count();
            let is_listed = self.is_listed(index);
            (rule.kind.clone(), Kind { is_listed, ..Kind::of(rule, totals, over, degraded, tally) })
        });
        let any = rules.iter().map(asked).fold(Asked::default(), Asked::or);
        Section {
            totals: Totals::count(processes.iter(), any),
            kinds: kinds.collect(),
            host: sight.sought.clone(),
            registry: sight.list.map(Listed::of),
            gaps: closed(sight, self.roll.doubtful()),
            limits: limits(sight, &processes, self.roll.doubtful()),
            booted: self.booted,
            is_blind: false,
            processes: Rows { processes, contained: Vec::new() },
        }
    }

    fn process(
        &self,
        seen: &Seen,
        above: Option<Above>,
        is_duplicate: bool,
        registration: Registration,
        now: Now,
    ) -> Process {
        let (stat, rule) = (&seen.stat, &self.roll.rules()[seen.rule]);
        let evidence = Evidence {
            is_zombie: stat.is_zombie(),
            is_orphan: above.and_then(Above::is_orphan),
            is_duplicate,
            is_registered: registration.is_registered,
            is_busy: seen.is_busy,
            idle: seen.idle,
            leaked_after: rule.is_reaped.then_some(self.config.leaked_after.0),
        };
        Process {
            pid: stat.pid(),
            kind: rule.kind.clone(),
            class: evidence.class(),
            state: stat.state,
            cpu_seconds: stat.cpu().as_secs_f64(),
            cpu_percent: seen.cpu_percent.map(|percent| (percent * 100.0).round() / 100.0),
            rss_bytes: stat.resident_bytes(),
            threads: stat.threads,
            fds: self.proc.open_fds(stat.pid()).ok(),
            children: seen.children,
            uptime_seconds: now.mono.saturating_sub(stat.started()).as_secs(),
            idle_seconds: seen.idle.map(|idle| idle.as_secs()),
            session: seen.session.clone(),
            cwd: self.proc.cwd_name(stat.pid()).ok().flatten(),
            registered: registration.is_registered,
            registered_state: registration.state,
            idle_for_s: registration.idle,
            container: None,
            above,
            started: stat.started(),
        }
    }
}

impl Section {
    fn with(mut self, look: nanoclaw::Look) -> Section {
        self.totals = self.totals.and(&look.kind.totals);
        self.limits.extend(nanoclaw::limit(&look.kind));
        self.kinds.insert(Preset::Nanoclaw.name().into(), look.kind);
        self.processes.contained = look.workers;
        self
    }

    fn without(mut self, error: &anyhow::Error) -> Section {
        self.limits.push(format!("nobody knows of the containers of nanoclaw: {error:#}"));
        self.is_blind = true;
        self
    }
}

/// Servers of one command and parent beyond those that it needs. Those are the ones that were last seen to read or write;
/// where that is the same, or not ours to see, the youngest: a parent that starts another one means to use it. Those that
/// were handed over to whoever takes in the children of the dead were started by nobody knows how many.
fn duplicates(sight: &Sight<'_>, max_per_parent: usize) -> BTreeSet<u32> {
    let mut servers: BTreeMap<(u32, u64), Vec<&Seen>> = BTreeMap::new();
    for one in sight.seen.iter().filter(|one| !one.stat.is_zombie()) {
        if let Some(server) = one.server.filter(|&(parent, _)| !sight.is_reaper(parent)) {
            servers.entry(server).or_default().push(one);
        }
    }
    let mut duplicates = BTreeSet::new();
    for mut same in servers.into_values() {
        same.sort_unstable_by_key(|one| Reverse((one.moved, one.stat.started(), one.stat.pid())));
        duplicates.extend(same.iter().skip(max_per_parent).map(|one| one.stat.pid()));
    }
    duplicates
}

/// What rights would lift.
fn closed(sight: &Sight<'_>, doubtful: usize) -> Vec<String> {
    let closed = sight.seen.iter().filter(|one| one.is_closed).count();
    let said = [
        (
            closed,
            "I/O and sockets of # workers are not ours to see, so that busy is told by CPU and children only: run as \
             their user, or with CAP_SYS_PTRACE",
        ),
        (sight.scan.closed, "# processes of others are hidden from us (hidepid): run as their user"),
        (
            usize::from(sight.scan.hides_others()),
            "processes of other users are not to be seen at all (/proc is mounted with hidepid), nor are workers among \
             them: run as their user, or as root",
        ),
        (
            doubtful,
            "the program of # processes is not ours to see, so that no rule by `exe` finds them: run as their user",
        ),
    ];
    said.iter().filter_map(|&(count, text)| counted(count, text)).collect()
}

fn limits(sight: &Sight<'_>, processes: &[Process], doubtful: usize) -> Vec<String> {
    let (hidden, contained) = (above(processes, Above::Hidden), above(processes, Above::Contained));
    let mut limits = closed(sight, doubtful);
    limits.extend(counted(
        hidden,
        "nobody can say whether # workers are orphans, as a process above them is not to be seen (hidepid, or \
             it has just ended): run as root, or as the user of those processes",
    ));
    limits.extend(counted(
        contained,
        "nobody can say whether # workers are orphans, as they run in a container and the host \
             does not",
    ));
    limits
}

fn above(processes: &[Process], wanted: Above) -> usize {
    processes.iter().filter(|one| one.above == Some(wanted) && one.class != Class::Zombie).count()
}

fn counted(count: usize, text: &str) -> Option<String> {
    (count > 0).then(|| text.replacen('#', &count.to_string(), 1))
}

/// Which classes can be told: what is not asked is null, and not 0.
#[derive(Debug, Clone, Copy, Default)]
struct Asked {
    orphan: bool,
    duplicate: bool,
    unregistered: bool,
}

impl Asked {
    fn or(self, other: Asked) -> Asked {
        Asked {
            orphan: self.orphan || other.orphan,
            duplicate: self.duplicate || other.duplicate,
            unregistered: self.unregistered || other.unregistered,
        }
    }
}

impl Totals {
    fn count<'a>(processes: impl Iterator<Item = &'a Process> + Clone, asked: Asked) -> Totals {
        let mut alive = processes.clone().filter(|one| one.class != Class::Zombie).peekable();
        // That none of them is an orphan is not known if it is known of none.
        let told = alive.peek().is_none() || alive.any(|one| one.above.and_then(Above::is_orphan).is_some());
        let count = |class| processes.clone().filter(|one| one.class == class).count();
        Totals {
            alive: processes.clone().count() - count(Class::Zombie),
            busy: count(Class::Busy),
            idle: count(Class::Idle),
            zombie: count(Class::Zombie),
            orphan: (asked.orphan && told).then(|| count(Class::Orphan)),
            leaked: count(Class::Leaked),
            duplicate: asked.duplicate.then(|| count(Class::Duplicate)),
            unregistered: asked.unregistered.then(|| count(Class::Unregistered)),
            unknown: count(Class::Unknown),
        }
    }

    /// With those of which no class but these is asked.
    fn and(&self, others: &Totals) -> Totals {
        Totals {
            alive: self.alive + others.alive,
            busy: self.busy + others.busy,
            idle: self.idle + others.idle,
            leaked: self.leaked + others.leaked,
            unknown: self.unknown + others.unknown,
            ..self.clone()
        }
    }

    fn of(&self, class: Class) -> Option<usize> {
        match class {
            Class::Zombie => Some(self.zombie),
            Class::Orphan => self.orphan,
            Class::Duplicate => self.duplicate,
            Class::Unregistered => self.unregistered,
            Class::Leaked => Some(self.leaked),
            Class::Busy => Some(self.busy),
            Class::Idle => Some(self.idle),
            Class::Unknown => Some(self.unknown),
        }
    }
}

impl Kind {
    fn of(rule: &Rule, totals: Totals, over_max_rss: Option<usize>, degraded: usize, tally: &Tally) -> Kind {
        Kind {
            totals,
            over_max_rss,
            degraded,
            spawns_total: tally.spawns,
            exits_total: tally.exits,
            restarts_last_hour: tally.recent_restarts(),
            early_exits_recent: tally.recent_early_exits(),
            cpu_seconds_total: Some(proc::ticks(tally.cpu_ticks).as_secs_f64()),
            disk_read_bytes_total: tally.disk.map(|(read, _)| read),
            disk_written_bytes_total: tally.disk.map(|(_, written)| written),
            is_reaped: rule.is_reaped,
            is_listed: false,
        }
    }
}
