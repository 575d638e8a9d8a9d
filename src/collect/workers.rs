//! Workers of agents, from outside: what each costs, and whether it works, idles, or was left behind.
//!
//! `/proc/<pid>/stat` of all processes is read once a look, and more only of workers. Identity is pid and start time. What
//! another user's process hides (open sockets, I/O, folder) is null, and the section says what that costs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::collect::Collector;
use crate::fact::{Bound, Check, Fact, Severity, Span};
use crate::host::running::{self, Chain};
use crate::host::{Host, ProcessRule, Profile};
use crate::sample::{Now, Points};
use crate::source::Sources;
use crate::source::process::proc::{self, Proc, Scan, Stat};
use crate::source::process::{Identity, PidFile};

mod class;
mod roll;
mod rule;
#[cfg(test)]
mod real_tests;
#[cfg(test)]
mod tests;

use class::{Class, Evidence};
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
    /// A child may be so old before it must have a host above it.
    orphan_after: Span,
    /// The longest that a host keeps an idle one: ten minutes, and two until it looks.
    leaked_after: Span,
    /// Whether the file names of sessions are shown.
    sessions: bool,
    /// How many servers of the same command one process needs.
    max_per_parent: usize,
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
            max_per_parent: 1,
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
    processes: Vec<Process>,
    totals: Totals,
    kinds: BTreeMap<Arc<str>, Kind>,
    host: Sought,
    /// What could not be seen, and what to do about it.
    limits: Vec<String>,
    #[serde(skip)]
    booted: f64,
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
    /// Whether the host has it on a list of its own; null where it keeps none that can be read.
    registered: Option<bool>,
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
    cpu_seconds_total: f64,
    disk_read_bytes_total: Option<u64>,
    disk_written_bytes_total: Option<u64>,
    #[serde(skip)]
    is_reaped: bool,
}

/// The host, above which no worker is an orphan.
#[derive(Debug, Serialize)]
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
    "CPU time that workers of the kind have used since the exporter began; what one uses after its last look is lost.",
)
.unit("s")
.of(&["kind"]);
static DISK_READ: Fact = Fact::counter(
    "agenthost.worker.disk_read",
    "agenthost_worker_disk_read_bytes_total",
    "Bytes that workers of the kind have read from disks since the exporter began, of those whose I/O can be seen.",
)
.unit("By")
.of(&["kind"]);
static DISK_WRITTEN: Fact = Fact::counter(
    "agenthost.worker.disk_written",
    "agenthost_worker_disk_written_bytes_total",
    "Bytes that workers of the kind have written to disks since the exporter began, of those whose I/O can be seen.",
)
.unit("By")
.of(&["kind"]);
static SPAWNS: Fact = Fact::counter(
    "agenthost.worker.spawns",
    "agenthost_worker_spawns_total",
    "Workers of the kind that appeared since the exporter began; one that comes and goes between two looks is not seen.",
)
.unit("{process}")
.of(&["kind"]);
static EXITS: Fact = Fact::counter(
    "agenthost.worker.exits",
    "agenthost_worker_exits_total",
    "Workers of the kind that ended since the exporter began, or became another program.",
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
    "Workers of the kind that had ended at a look while under ten seconds old at the one before, in the last ten minutes.",
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
    "Living workers of the kind that have no living host above them; no series where the host is not known.",
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
    "MCP servers of the same command and parent beyond those that it needs.",
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

static CHECKS: [Check; 6] = [
    Check {
        name: "worker_zombie",
        fact: &ZOMBIES,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: LASTS,
        means: "Workers ended and their parent does not reap them: it hangs, or has a defect.",
    },
    Check {
        name: "worker_orphan",
        fact: &ORPHANS,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: LASTS,
        means: "Workers live on without a host: somebody else holds their input open. Nobody will end them.",
    },
    Check {
        name: "worker_leaked",
        fact: &LEAKED,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: LASTS,
        means: "Workers have idled for longer than the host would keep them: it has lost them, or its reaper stands.",
    },
    Check {
        name: "worker_duplicate",
        fact: &DUPLICATES,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: LASTS,
        means: "A process has started the same MCP server again and kept the old one (max_per_parent says how many it needs).",
    },
    Check {
        name: "worker_rss",
        fact: &OVER_RSS,
        bad: Bound::Above(0.0),
        severity: Severity::Info,
        fail_for: LASTS,
        means: "Workers have more resident memory than max_rss.",
    },
    Check {
        name: "worker_spawn_loop",
        fact: &EARLY_EXITS,
        bad: Bound::Above(5.0),
        severity: Severity::Warning,
        fail_for: LASTS,
        means: "Workers end within seconds of their start, again and again: they cannot start, and the host keeps trying.",
    },
];

/// Follows the workers of one host.
pub struct Workers {
    config: Config,
    proc: Proc,
    host: Ancestor,
    roll: Roll,
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
        &OVER_RSS,
        &DEGRADED,
    ];
    const CHECKS: &'static [Check] = &CHECKS;
    type Config = Config;
    type Section = Section;

    /// `None` if there is nothing to look for.
    fn new(config: Config, host: &Host, sources: &Sources) -> Result<Option<Workers>> {
        let presets = config.presets.clone().map_or_else(|| presets(host.profile), |presets| presets.0);
        // The operator knows better than a preset.
        let rules = config.rules.0.iter().cloned().map(Rule::from);
        let rules: Vec<Rule> = rules.chain(presets.into_iter().map(Rule::from)).collect();
        Ok((!rules.is_empty()).then(|| Workers {
            roll: Roll::new(rules, config.sessions),
            config,
            proc: sources.proc.clone(),
            host: Ancestor::new(host),
            booted: 0.0,
        }))
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        let scan = self.proc.scan()?;
        let sought = self.host.look(&self.proc, &scan);
        let seen = self.roll.look(&self.proc, &scan, now.mono);
        let booted = now.wall.as_duration().as_secs_f64() - now.mono.as_secs_f64();
        // Somebody may set the clock.
        if (booted - self.booted).abs() > 2.0 {
            self.booted = booted.round();
        }
        Ok(self.section(&scan, sought, &seen, now))
    }

    fn points(section: &Section, points: &mut Points) {
        for (kind, of) in &section.kinds {
            put_kind(kind, of, points);
            if section.host.orphan_test || section.host.is_lost {
                points.put(&ORPHANS, [kind], of.totals.orphan.map(|count| count as f64));
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
    put(&CPU, Some(of.cpu_seconds_total));
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

impl Workers {
    fn section(&self, scan: &Scan, sought: Sought, seen: &[Seen], now: Now) -> Section {
        let duplicates = duplicates(seen, self.config.max_per_parent);
        let processes: Vec<Process> = seen
            .iter()
            .map(|one| {
                let is_duplicate = duplicates.contains(&one.stat.pid());
                self.process(scan, &sought, one, is_duplicate, now)
            })
            .collect();
        let has_mcp = self.roll.rules().iter().any(Rule::is_mcp);
        let kinds = self.roll.rules().iter().zip(self.roll.tallies()).enumerate();
        let kinds = kinds.map(|(index, (rule, tally))| {
            let members = processes.iter().filter(|one| one.kind == rule.kind);
            let totals = Totals::count(members.clone(), sought.orphan_test, rule.is_mcp());
            let over = self.config.max_rss.map(|limit| members.filter(|one| one.rss_bytes > limit).count());
            let degraded = seen.iter().filter(|one| one.rule == index && one.is_closed).count();
            (rule.kind.clone(), Kind::of(rule, totals, over, degraded, tally))
        });
        Section {
            totals: Totals::count(processes.iter(), sought.orphan_test, has_mcp),
            kinds: kinds.collect(),
            host: sought,
            limits: limits(scan, seen, self.roll.doubtful()),
            booted: self.booted,
            processes,
        }
    }

    fn process(&self, scan: &Scan, sought: &Sought, seen: &Seen, is_duplicate: bool, now: Now) -> Process {
        let (stat, rule) = (&seen.stat, &self.roll.rules()[seen.rule]);
        let age = now.mono.saturating_sub(stat.started());
        let is_old = age > self.config.orphan_after.0;
        let evidence = Evidence {
            is_zombie: stat.is_zombie(),
            is_orphan: sought.orphan_test.then(|| is_old && self.host.is_missing_above(&self.proc, scan, stat)),
            is_duplicate,
            is_registered: None,
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
            uptime_seconds: age.as_secs(),
            idle_seconds: seen.idle.map(|idle| idle.as_secs()),
            session: seen.session.clone(),
            cwd: self.proc.cwd_name(stat.pid()).ok().flatten(),
            registered: evidence.is_registered,
            started: stat.started(),
        }
    }
}

/// Servers of one command and parent beyond the first few: the oldest ones are those that it needs.
fn duplicates(seen: &[Seen], max_per_parent: usize) -> BTreeSet<u32> {
    let mut servers: BTreeMap<(u32, u64), Vec<&Stat>> = BTreeMap::new();
    for one in seen.iter().filter(|one| !one.stat.is_zombie()) {
        if let Some(server) = one.server {
            servers.entry(server).or_default().push(&one.stat);
        }
    }
    let mut duplicates = BTreeSet::new();
    for mut same in servers.into_values() {
        same.sort_unstable_by_key(|stat| (stat.started(), stat.pid()));
        duplicates.extend(same.iter().skip(max_per_parent).map(|stat| stat.pid()));
    }
    duplicates
}

fn limits(scan: &Scan, seen: &[Seen], doubtful: usize) -> Vec<String> {
    let closed = seen.iter().filter(|one| one.is_closed).count();
    let closed = (closed > 0).then(|| {
        format!(
            "I/O and sockets of {closed} workers are not ours to see, so that busy is told by CPU and children only: run \
             as their user, or with CAP_SYS_PTRACE"
        )
    });
    let hidden = (scan.closed > 0)
        .then(|| format!("{} processes of others are hidden from us (hidepid): run as their user", scan.closed));
    let doubtful = (doubtful > 0).then(|| {
        format!("the program of {doubtful} processes is not ours to see, so that no rule by `exe` finds them: run as their user")
    });
    closed.into_iter().chain(hidden).chain(doubtful).collect()
}

impl Totals {
    fn count<'a>(processes: impl Iterator<Item = &'a Process> + Clone, orphan_test: bool, has_mcp: bool) -> Totals {
        let count = |class| processes.clone().filter(|one| one.class == class).count();
        Totals {
            alive: processes.clone().count() - count(Class::Zombie),
            busy: count(Class::Busy),
            idle: count(Class::Idle),
            zombie: count(Class::Zombie),
            orphan: orphan_test.then(|| count(Class::Orphan)),
            leaked: count(Class::Leaked),
            duplicate: has_mcp.then(|| count(Class::Duplicate)),
            unregistered: None,
            unknown: count(Class::Unknown),
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
            cpu_seconds_total: proc::ticks(tally.cpu_ticks).as_secs_f64(),
            disk_read_bytes_total: tally.disk.map(|(read, _)| read),
            disk_written_bytes_total: tally.disk.map(|(_, written)| written),
            is_reaped: rule.is_reaped,
        }
    }
}

/// The host as the ancestor of its workers.
struct Ancestor {
    rule: ProcessRule,
    /// As it was last seen.
    known: Option<Chain>,
    /// In how many pid namespaces it was then; what runs in more is in a container, and has its own ancestors.
    depth: usize,
}

impl Ancestor {
    fn new(host: &Host) -> Ancestor {
        Ancestor { rule: host.process.clone(), known: None, depth: 1 }
    }

    /// Finds it, if it is not the one that is known.
    fn look(&mut self, proc: &Proc, scan: &Scan) -> Sought {
        if let Some(chain) = &self.known
            && !self.is_named_elsewhere(chain.pid)
            && chain.members.iter().any(|member| member.pid == chain.pid && scan.lives(*member))
        {
            return Sought::at(chain.pid);
        }
        if self.rule == ProcessRule::Unknown {
            return self.off("`pid_file` or `process` in [host] would say which process the host is");
        }
        let known = self.known.as_ref().map(|chain| &chain.members);
        let seen = proc.table(scan).map(|table| running::look(&table, &self.rule, known));
        match seen {
            Ok(running::Seen::Running(chain)) => {
                self.depth = proc.depth(chain.pid).unwrap_or(self.depth);
                Sought::at(self.known.insert(chain).pid)
            }
            Ok(running::Seen::Absent) if self.is_believed() => Sought { pid: None, ..Sought::at(0) },
            Ok(running::Seen::Absent) => self.off(
                "no process was ever seen to be the host: `pid_file` or `process` in [host] would tell which it is",
            ),
            Ok(running::Seen::Unseen(why)) => self.off(&why.error),
            Err(error) => self.off(&format!("{error:#}")),
        }
    }

    /// Its pid file names another by now.
    fn is_named_elsewhere(&self, pid: u32) -> bool {
        let ProcessRule::PidFile(path) = &self.rule else { return false };
        matches!(PidFile::read(path), Ok(Some(file)) if file.pid != pid)
    }

    fn off(&self, why: &str) -> Sought {
        Sought { pid: None, orphan_test: false, reason: Some(why.to_owned()), is_lost: self.known.is_some() }
    }

    /// Whether its absence is proven: it was there, or the operator named its pid file. A word that never matched may be
    /// a slip of the pen.
    fn is_believed(&self) -> bool {
        self.known.is_some() || matches!(self.rule, ProcessRule::PidFile(_))
    }

    /// Whether no living host is above a process. That its parent is pid 1 proves nothing, nor does that it is not.
    fn is_missing_above(&self, proc: &Proc, scan: &Scan, stat: &Stat) -> bool {
        let is_host = |identity: &Identity| {
            self.known.as_ref().is_some_and(|chain| chain.members.contains(identity)) && scan.lives(*identity)
        };
        let has_host = scan.ancestors(stat).any(|above| is_host(&above.identity));
        !has_host && proc.depth(stat.pid()).is_ok_and(|depth| depth <= self.depth)
    }
}

impl Sought {
    fn at(pid: u32) -> Sought {
        Sought { pid: Some(pid), orphan_test: true, reason: None, is_lost: false }
    }
}
