//! The host's service: whether its process lives, and whether it answers.
//!
//! Both are asked, as neither proves the other: a hung host lives, and one in another container answers unseen.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::collect::Collector;
use crate::collect::host_api::{Address, HEALTH, HEALTH_AGE, HostApi};
use crate::fact::{Bound, Check, Fact, Severity, Span};
use crate::host::running::{Chain, Seen, look};
use crate::host::{Host, ProcessRule, Profile};
use crate::sample::{Cause, Now, Points};
use crate::source::Sources;
use crate::source::boot::Boot;
use crate::source::http::{self, Ask, Http, Limits};
use crate::source::process::{Identity, Processes};

/// No host knows it, so any answer costs it next to nothing.
const LIVENESS: &str = "/agenthost-exporter-liveness";
/// How long one that answered may refuse before its stop is called a stall; pynchy takes 12 s.
const SHUTDOWN: Duration = Duration::from_secs(30);
const HOUR: SignedDuration = SignedDuration::from_hours(1);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How old a process may become before it must answer.
    pub boot_grace: Span,
}

impl Default for Config {
    fn default() -> Config {
        Config { boot_grace: Span(Duration::from_secs(5 * 60)) }
    }
}

#[derive(Debug, Serialize)]
pub struct Section {
    pub status: Status,
    /// When its first process (a launcher counts) was started; null if it is not seen.
    pub started_at: Option<Timestamp>,
    /// At this reading.
    pub uptime_seconds: Option<u64>,
    /// Null if the process is not seen. Starts that came and went between two readings are not known.
    pub starts_last_hour: Option<u64>,
    /// Since the sidecar began; null as long as no look at the processes was possible.
    pub starts_total: Option<u64>,
    /// Of the process that serves.
    pub pid: Option<u32>,
    pub process: Sight,
    /// Why the process is neither found nor absent.
    pub process_error: Option<String>,
    /// Null if the host has none.
    pub api: Option<Api>,
    /// Null while the host does not answer, or if it says nothing of itself.
    pub health: Option<Health>,
    /// Null if the process is not seen.
    pub resources: Option<Resources>,
    /// What pi-web says of its own process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Runtime>,
    /// This kind of host says whether it is ready.
    #[serde(skip)]
    says_ready: bool,
}

impl Section {
    fn answers(&self) -> bool {
        self.api.as_ref().is_some_and(|api| api.answered)
    }
}

/// What the process that serves uses. What we may not see, as of another user, is null.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Resources {
    pub threads: Option<u64>,
    pub resident_bytes: Option<u64>,
    /// Of all its processes since the sidecar began to look.
    pub cpu_seconds: f64,
    pub open_fds: Option<u64>,
    pub inotify_watches: Option<u64>,
    /// Established TCP connections to the port of its API.
    pub connections: Option<u64>,
    /// Why some of it is null.
    pub error: Option<String>,
}

/// The process as pi-web itself sees it (`/api/metrics`).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Runtime {
    pub goroutines: Option<u64>,
    pub heap_bytes: Option<u64>,
    pub sse_clients: Option<u64>,
    pub watched_files: Option<u64>,
    /// Why all of it is null.
    pub error: Option<String>,
}

/// What the service does, as far as process and answer tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Ok,
    /// Alive, young, and never answered.
    Starting,
    /// Alive, and refuses since a moment ago.
    ShuttingDown,
    /// Alive or listening, and does not answer.
    Stalled,
    Down,
    /// No process seen, and the API could not be asked.
    Unknown,
}

impl Status {
    const ALL: [Status; 6] =
        [Status::Ok, Status::Starting, Status::ShuttingDown, Status::Stalled, Status::Down, Status::Unknown];

    fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Starting => "starting",
            Status::ShuttingDown => "shutting_down",
            Status::Stalled => "stalled",
            Status::Down => "down",
            Status::Unknown => "unknown",
        }
    }
}

impl Serialize for Status {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Whether the host's process is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Sight {
    Found,
    /// We see all processes, and it is none of them.
    Absent,
    /// It may be one that we cannot see, or cannot tell apart.
    Unseen,
    /// We may not read what would tell.
    Denied,
}

impl Sight {
    fn of(seen: &Seen) -> Sight {
        match seen {
            Seen::Running(_) => Sight::Found,
            Seen::Absent => Sight::Absent,
            Seen::Unseen(why) if why.cause == Cause::Denied => Sight::Denied,
            Seen::Unseen(_) => Sight::Unseen,
        }
    }

    fn is_sure(self) -> bool {
        matches!(self, Sight::Found | Sight::Absent)
    }
}

/// The liveness request.
#[derive(Debug, Serialize)]
pub struct Api {
    /// The base that was asked; no credentials, as a URL with some is refused.
    pub url: String,
    pub answered: bool,
    pub error: Option<String>,
    pub response_seconds: Option<f64>,
}

/// What the host says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    pub status: Option<String>,
    pub uptime_seconds: Option<serde_json::Number>,
    /// Whether any channel is connected.
    pub channels_connected: Option<bool>,
    /// By its own word; only some kinds of host say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// What keeps it from being ready, in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<Vec<String>>,
    /// Why all of it is null.
    pub error: Option<String>,
    pub at: Timestamp,
}

static UP: Fact = Fact::gauge(
    "agenthost.service.up",
    "agenthost_service_up",
    "1 if the host's process is alive or its API answers, 0 if neither; absent if nobody can tell.",
);

static RESPONDING: Fact = Fact::gauge(
    "agenthost.service.responding",
    "agenthost_service_responding",
    "1 if the host's API answers any HTTP or its process is still starting, 0 otherwise.",
);

static STATUS: Fact = Fact::gauge(
    "agenthost.service.status",
    "agenthost_service_status",
    "1 for the status of the host's service, 0 for all others.",
)
.of(&["status"]);

static STARTED: Fact = Fact::gauge(
    "agenthost.service.start_time_seconds",
    "agenthost_service_start_time_seconds",
    "When the host's process was started, in seconds since 1970; absent if it is not seen.",
);

static STARTS: Fact = Fact::counter(
    "agenthost.service.starts",
    "agenthost_service_starts_total",
    "Starts of the host seen since the exporter began, the first included; by process and start time.",
)
.unit("{start}");

static RECENT_STARTS: Fact = Fact::gauge(
    "agenthost.service.recent_starts",
    "agenthost_service_recent_starts",
    "Starts of the host within the last hour, as far as seen; absent if its processes cannot be seen.",
)
.unit("{start}");

static RESPONSE: Fact = Fact::gauge(
    "agenthost.service.response_duration",
    "agenthost_service_response_duration_seconds",
    "Time from connecting to the head of the host's answer to a path it does not know; absent without an answer.",
)
.unit("s");

static READY: Fact = Fact::gauge(
    "agenthost.service.ready",
    "agenthost_service_ready",
    "1 if the host calls itself ready (openclaw: /readyz), 0 if not; absent while it does not say.",
);

static THREADS: Fact =
    Fact::gauge("agenthost.service.threads", "agenthost_service_threads", "Threads of the host's process, from /proc.")
        .unit("{thread}");

static RESIDENT: Fact = Fact::gauge(
    "agenthost.service.resident_memory",
    "agenthost_service_resident_memory_bytes",
    "Resident memory of the host's process, from /proc.",
)
.unit("By");

static CPU: Fact = Fact::counter(
    "agenthost.service.cpu",
    "agenthost_service_cpu_seconds_total",
    "User and system CPU time of the host's processes, one life after the other, from /proc. It does not fall when the host \
     restarts.",
)
.unit("s");

static FDS: Fact = Fact::gauge(
    "agenthost.service.open_fds",
    "agenthost_service_open_fds",
    "Open file descriptors of the host's process, from /proc; absent without the right to look.",
)
.unit("{file}");

static WATCHES: Fact = Fact::gauge(
    "agenthost.service.inotify_watches",
    "agenthost_service_inotify_watches",
    "Inotify watches of the host's process, from /proc; absent without the right to look.",
)
.unit("{watch}");

static CONNECTIONS: Fact = Fact::gauge(
    "agenthost.service.connections",
    "agenthost_service_connections",
    "Established TCP connections to the port of the host's API, from /proc; absent if it has none.",
)
.unit("{connection}");

static GOROUTINES: Fact = Fact::gauge(
    "agenthost.service.goroutines",
    "agenthost_service_goroutines",
    "Goroutines of the host, by its own word (pi-web: /api/metrics).",
)
.unit("{goroutine}");

static HEAP: Fact = Fact::gauge(
    "agenthost.service.heap",
    "agenthost_service_heap_bytes",
    "Memory on the host's heap, by its own word (pi-web: /api/metrics).",
)
.unit("By");

static SSE_CLIENTS: Fact = Fact::gauge(
    "agenthost.service.sse_clients",
    "agenthost_service_sse_clients",
    "Clients that follow the host's events, by its own word (pi-web: /api/metrics).",
)
.unit("{client}");

static WATCHED_FILES: Fact = Fact::gauge(
    "agenthost.service.watched_files",
    "agenthost_service_watched_files",
    "Files that the host watches, by its own word (pi-web: /api/metrics).",
)
.unit("{file}");

static CHECKS: [Check; 4] = [
    Check {
        name: "service_up",
        fact: &UP,
        bad: Bound::Below(1.0),
        severity: Severity::Critical,
        fail_for: Duration::from_secs(120),
        means: "The host is gone: no process of it runs, and nothing answers on its port.",
    },
    Check {
        name: "service_responding",
        fact: &RESPONDING,
        bad: Bound::Below(1.0),
        severity: Severity::Critical,
        fail_for: Duration::from_secs(120),
        means: "The host does not answer HTTP: it is down, hung, or did not come up within boot_grace.",
    },
    Check {
        name: "service_restart_loop",
        fact: &RECENT_STARTS,
        bad: Bound::Above(5.0),
        severity: Severity::Warning,
        fail_for: Duration::ZERO,
        means: "The host was started more than five times within an hour: it crashes and is restarted.",
    },
    Check {
        name: "service_ready",
        fact: &READY,
        bad: Bound::Below(1.0),
        severity: Severity::Warning,
        fail_for: Duration::from_secs(120),
        means: "The host calls itself not ready; what fails it names in `service.health.failing`.",
    },
];

/// What a kind of host says of itself, and where.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Says {
    Pynchy,
    Netclaw,
    Openclaw,
    Nothing,
}

impl Says {
    fn of(profile: Profile) -> Says {
        match profile {
            Profile::Pynchy => Says::Pynchy,
            Profile::Netclaw => Says::Netclaw,
            Profile::Openclaw => Says::Openclaw,
            Profile::PiWeb | Profile::Generic => Says::Nothing,
        }
    }

    /// The path, and how long an answer to it is told again.
    fn health(self) -> Option<(&'static str, Duration)> {
        match self {
            Says::Pynchy => Some((HEALTH, HEALTH_AGE)),
            Says::Netclaw => Some(("/api/health/ready", CHEAP_AGE)),
            Says::Openclaw => Some(("/readyz", CHEAP_AGE)),
            Says::Nothing => None,
        }
    }

    /// The path on which only JSON proves that it lives: to any other it answers with its page, and so may a proxy.
    fn alive(self) -> Option<&'static str> {
        (self == Says::Openclaw).then_some("/healthz")
    }
}

/// What costs the host next to nothing is asked for at each look.
const CHEAP_AGE: Duration = Duration::from_secs(10);
/// Of pi-web. `/metrics` is a page.
const RUNTIME: &str = "/api/metrics";

/// How long each request may take.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Patience {
    liveness: Duration,
    health: Duration,
}

impl Patience {
    /// One after the other they end before the run must, or a hung host would make us silent instead of it.
    fn within(run: Duration) -> Patience {
        Patience { liveness: Duration::from_secs(5).min(run / 2), health: Duration::from_secs(4).min(run * 2 / 5) }
    }
}

/// Remembers what one look cannot know: earlier starts, and whether this one has answered.
pub struct Service {
    boot_grace: Duration,
    says: Says,
    address: Option<Address>,
    runtime: Option<HostApi>,
    rule: ProcessRule,
    processes: Processes,
    http: Http,
    patience: Patience,
    starts: Starts,
    boot: Boot,
    cpu: Cpu,
}

impl Collector for Service {
    const NAME: &'static str = "service";
    const EVERY: Duration = Duration::from_secs(15);
    const FACTS: &'static [&'static Fact] = &[
        &UP,
        &RESPONDING,
        &STATUS,
        &STARTED,
        &STARTS,
        &RECENT_STARTS,
        &RESPONSE,
        &READY,
        &THREADS,
        &RESIDENT,
        &CPU,
        &FDS,
        &WATCHES,
        &CONNECTIONS,
        &GOROUTINES,
        &HEAP,
        &SSE_CLIENTS,
        &WATCHED_FILES,
    ];
    const CHECKS: &'static [Check] = &CHECKS;
    type Config = Config;
    type Section = Section;

    fn new(config: Config, host: &Host, sources: &Sources) -> Result<Option<Service>> {
        Ok(Some(Service {
            boot_grace: config.boot_grace.0,
            says: Says::of(host.profile),
            address: host.url.as_ref().map(Address::new),
            runtime: HostApi::new(host, sources).filter(|_| host.profile == Profile::PiWeb),
            rule: host.process.clone(),
            processes: sources.processes.clone(),
            http: sources.http.clone(),
            patience: Patience::within(Service::TIMEOUT),
            starts: Starts::default(),
            boot: sources.boot.clone(),
            cpu: Cpu::default(),
        }))
    }

    fn within(&mut self, timeout: Duration) {
        self.patience = Patience::within(timeout);
        if let Some(api) = &mut self.runtime {
            api.within(timeout / 2);
        }
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        let seen = self.look();
        if let Seen::Running(chain) = &seen {
            self.starts.follow(chain, now.wall);
        }
        let Some(base) = self.address.as_ref().map(Address::base).transpose()? else {
            return Ok(self.section(&seen, None, now));
        };
        let asked = self.ask_alive(&base).await;
        self.learn(&base, Reply::of(&asked));
        let health = self.ask_health(&base, asked.is_ok(), now).await;
        let runtime = self.ask_runtime(asked.is_ok(), now).await;
        let section = self.section(&believe(seen, &asked), Some((base, &asked)), now);
        Ok(Section { health, runtime, ..section })
    }

    fn points(section: &Section, points: &mut Points) {
        let number = |yes: bool| f64::from(u8::from(yes));
        points.put(&UP, [], is_up(section).map(number));
        if section.api.is_some() {
            points.put(&RESPONDING, [], number(section.answers() || section.status == Status::Starting));
        }
        if section.says_ready {
            points.put(&READY, [], section.health.as_ref().and_then(|health| health.ready).map(number));
        }
        for status in Status::ALL {
            points.put(&STATUS, [&status.name().into()], number(status == section.status));
        }
        let mut put = |fact, value: Option<f64>| {
            if let Some(value) = value {
                points.put(fact, [], value);
            }
        };
        put(&STARTED, section.started_at.map(|at| at.as_duration().as_secs_f64()));
        put(&STARTS, section.starts_total.map(|count| count as f64));
        put(&RESPONSE, section.api.as_ref().and_then(|api| api.response_seconds));
        let count = |count: Option<u64>| count.map(|count| count as f64);
        if let Some(resources) = &section.resources {
            put(&THREADS, count(resources.threads));
            put(&RESIDENT, count(resources.resident_bytes));
            put(&CPU, Some(resources.cpu_seconds));
            put(&FDS, count(resources.open_fds));
            put(&WATCHES, count(resources.inotify_watches));
            put(&CONNECTIONS, count(resources.connections));
        }
        if let Some(runtime) = &section.runtime {
            put(&GOROUTINES, count(runtime.goroutines));
            put(&HEAP, count(runtime.heap_bytes));
            put(&SSE_CLIENTS, count(runtime.sse_clients));
            put(&WATCHED_FILES, count(runtime.watched_files));
        }
        // Once seen it stays listed: a look at which it is out of sight must not end a streak.
        if section.starts_total.is_some() {
            points.put(&RECENT_STARTS, [], section.starts_last_hour.map(|count| count as f64));
        }
    }
}

/// `None`: something listens, or nobody could be asked, and the process may live where we do not see it.
fn is_up(section: &Section) -> Option<bool> {
    let lives = section.answers() || section.process == Sight::Found;
    let is_known = lives || section.process == Sight::Absent || section.status == Status::Down;
    is_known.then_some(lives)
}

/// One that answers is not absent, however many processes we see.
fn believe(seen: Seen, asked: &Asked) -> Seen {
    match seen {
        Seen::Absent if Reply::of(asked) == Reply::Answered => Seen::unseen(
            "no process that we see is it, and yet its API answers: it runs elsewhere, or `pid_file` or `process` in \
             [host] must say how to find it",
        ),
        seen => seen,
    }
}

type Asked = Result<http::Head, http::Error>;

impl Service {
    fn look(&self) -> Seen {
        match self.processes.list() {
            Ok(table) => look(&table, &self.rule, self.starts.members()),
            Err(error) => Seen::Unseen(error.into()),
        }
    }

    /// Any answer will do, but of a host that answers everything.
    async fn ask_alive(&self, base: &str) -> Asked {
        let Some(path) = self.says.alive() else {
            return self.http.probe(&format!("{base}{LIVENESS}"), self.patience.liveness).await;
        };
        let limits = Limits::within(self.patience.liveness);
        let answer = self.http.get(&format!("{base}{path}"), &[("Accept", "application/json")], limits).await?;
        match answer.json::<serde_json::Value>() {
            Ok(said) if said.get("ok") == Some(&false.into()) => {
                Err(http::Error::Broken(format!("answered with status {} that it is not ok", answer.status)))
            }
            Ok(_) => Ok(http::Head { status: answer.status, took: answer.took }),
            Err(error) => Err(http::Error::Broken(error.to_string())),
        }
    }

    fn learn(&mut self, base: &str, reply: Reply) {
        let Some(address) = &mut self.address else { return };
        match reply {
            Reply::Answered => address.answered(base),
            Reply::Refused => address.refused(),
            Reply::Silent | Reply::NotAsked => {}
        }
    }

    /// An old answer of a host that no longer answers is not kept; a new one is asked for at its return.
    async fn ask_health(&self, base: &str, answers: bool, now: Now) -> Option<Health> {
        let (path, age) = self.says.health()?;
        let ask = Ask { url: format!("{base}{path}"), key: None };
        if !answers {
            self.http.forget(&ask.url);
            return None;
        }
        let told = self.http.share(&ask, Limits::within(self.patience.health), now, age).await;
        Some(Health::read(self.says, &told))
    }

    async fn ask_runtime(&mut self, answers: bool, now: Now) -> Option<Runtime> {
        let api = self.runtime.as_mut().filter(|_| answers)?;
        let told = api.json::<RuntimeAnswer>(RUNTIME, now, CHEAP_AGE).await;
        Some(match told {
            Ok(RuntimeAnswer { process }) => Runtime {
                goroutines: process.goroutines,
                heap_bytes: process.heap_alloc_bytes,
                sse_clients: process.sse_clients,
                watched_files: process.watched_files,
                error: None,
            },
            Err(error) => Runtime { error: Some(format!("{error:#}")), ..Runtime::default() },
        })
    }

    /// How long others must bear with a host that starts; `None` after `boot_grace`. It counts from the first start that
    /// came to nothing, so that one that crashes and starts for ever is not excused for ever.
    fn boot_left(&self, now: Now) -> Option<Duration> {
        let age = now.wall.duration_since(self.starts.waiting_since()?).max(SignedDuration::ZERO).unsigned_abs();
        self.boot_grace.checked_sub(age)
    }

    /// What the process uses, if it is seen; `base` says which connections are to it.
    fn resources(&mut self, chain: &Chain, base: Option<&str>) -> Resources {
        let usage = self.processes.usage(chain.pid, base.and_then(http::port));
        if let (Some(identity), Some(seconds)) = (chain.serving(), usage.cpu_seconds) {
            self.cpu.see(identity, seconds);
        }
        Resources {
            threads: usage.threads,
            resident_bytes: usage.resident_bytes,
            cpu_seconds: self.cpu.total,
            open_fds: usage.open_fds,
            inotify_watches: usage.inotify_watches,
            connections: usage.connections,
            error: usage.error,
        }
    }

    /// `asked` is where, and what came of it; `None` of a host without an API.
    fn section(&mut self, seen: &Seen, asked: Option<(String, &Asked)>, now: Now) -> Section {
        let (pid, process_error, resources) = match seen {
            Seen::Running(chain) => {
                let resources = self.resources(chain, asked.as_ref().map(|(base, _)| base.as_str()));
                (Some(chain.pid), None, Some(resources))
            }
            Seen::Absent => (None, None, None),
            Seen::Unseen(why) => (None, Some(why.error.clone()), None),
        };
        let sight = Sight::of(seen);
        let reply = asked.as_ref().map(|(_, asked)| Reply::of(asked));
        let run = self.starts.latest_mut().filter(|_| sight == Sight::Found);
        let life = run.map(|run| run.live(reply.unwrap_or(Reply::NotAsked), now));
        let sure = sight.is_sure();
        let status = reply.map_or_else(|| decide_unasked(sight), |reply| decide(sight, reply, life, self.boot_grace));
        self.boot.tell(now, self.boot_left(now).filter(|_| status == Status::Starting));
        Section {
            status,
            started_at: life.map(|life| life.started),
            uptime_seconds: life.map(|life| life.age.as_secs()),
            starts_last_hour: sure.then(|| self.starts.recent(now.wall)),
            starts_total: (sure || self.starts.total > 0).then_some(self.starts.total),
            pid,
            process: sight,
            process_error,
            api: asked.map(|(url, asked)| Api {
                url,
                answered: asked.is_ok(),
                error: asked.as_ref().err().map(http::Error::to_string),
                response_seconds: asked.as_ref().ok().map(|head| head.took.as_secs_f64()),
            }),
            health: None,
            resources,
            runtime: None,
            says_ready: self.says == Says::Openclaw,
        }
    }
}

/// CPU time over all lives of the host.
#[derive(Debug, Default)]
struct Cpu {
    total: f64,
    last: Option<(Identity, f64)>,
}

impl Cpu {
    /// Of another process all of its time is new.
    fn see(&mut self, identity: Identity, seconds: f64) {
        let known = self.last.filter(|(last, _)| *last == identity).map_or(0.0, |(_, known)| known);
        self.total += (seconds - known).max(0.0);
        self.last = Some((identity, seconds));
    }
}

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reply {
    Answered,
    /// Nobody listens.
    Refused,
    /// Somebody listens and gives no HTTP answer in time.
    Silent,
    /// We could not ask: the name or the route is missing.
    NotAsked,
}

impl Reply {
    /// A full backlog of a hung host also makes connecting time out, so that counts as silence.
    fn of(asked: &Asked) -> Reply {
        match asked {
            // A proxy's word that nobody behind it answers.
            Ok(http::Head { status: 502 | 504, .. }) => Reply::Silent,
            Ok(_) | Err(http::Error::TooLarge) => Reply::Answered,
            Err(http::Error::Refused) => Reply::Refused,
            Err(http::Error::TimedOut { .. } | http::Error::Broken(_) | http::Error::Tls(_)) => Reply::Silent,
            Err(http::Error::Unreachable(_) | http::Error::Unresolved(_)) => Reply::NotAsked,
        }
    }
}

/// How long this start has lived, and when it last answered.
#[derive(Debug, Clone, Copy)]
struct Life {
    started: Timestamp,
    age: Duration,
    answered_ago: Option<Duration>,
}

/// The status; `life` is there iff the process is.
fn decide(sight: Sight, reply: Reply, life: Option<Life>, boot_grace: Duration) -> Status {
    match (reply, life) {
        (Reply::Answered, _) => Status::Ok,
        (_, Some(life)) => decide_alive(reply, life, boot_grace),
        (Reply::Silent, None) => Status::Stalled,
        (Reply::Refused, None) => Status::Down,
        // That we see no process proves something only where we see all of them.
        (Reply::NotAsked, None) if sight == Sight::Absent => Status::Down,
        (Reply::NotAsked, None) => Status::Unknown,
    }
}

/// Of a host without an API its process is all that there is.
fn decide_unasked(sight: Sight) -> Status {
    match sight {
        Sight::Found => Status::Ok,
        Sight::Absent => Status::Down,
        Sight::Unseen | Sight::Denied => Status::Unknown,
    }
}

fn decide_alive(reply: Reply, life: Life, boot_grace: Duration) -> Status {
    match life.answered_ago {
        None if life.age < boot_grace => Status::Starting,
        Some(ago) if reply == Reply::Refused && ago <= SHUTDOWN => Status::ShuttingDown,
        _ => Status::Stalled,
    }
}

/// The starts we know of.
#[derive(Debug, Default)]
struct Starts {
    /// Those of the last hour and the latest, which is last.
    runs: Vec<Run>,
    total: u64,
}

/// One start of the host.
#[derive(Debug)]
struct Run {
    members: BTreeSet<Identity>,
    started: Timestamp,
    /// On the monotonic clock.
    answered: Option<Duration>,
}

impl Starts {
    /// The processes of the latest.
    fn members(&self) -> Option<&BTreeSet<Identity>> {
        self.runs.last().map(|run| &run.members)
    }

    fn latest_mut(&mut self) -> Option<&mut Run> {
        self.runs.last_mut()
    }

    /// Makes the run of these processes the latest. It is a new one iff none of them was seen before: a launcher whose
    /// child appears, or that ends before its child, is no start.
    fn follow(&mut self, chain: &Chain, now: Timestamp) {
        let known = self.runs.iter().position(|run| !run.members.is_disjoint(&chain.members));
        let mut run = match known {
            Some(at) => self.runs.remove(at),
            None => {
                self.total += 1;
                self.runs.retain(|run| is_recent(run.started, now));
                Run { members: BTreeSet::new(), started: chain.started, answered: None }
            }
        };
        run.members.clone_from(&chain.members);
        self.runs.push(run);
    }

    /// When the first of those began that were not followed by an answer.
    fn waiting_since(&self) -> Option<Timestamp> {
        let silent = self.runs.iter().rev().take_while(|run| run.answered.is_none());
        silent.last().map(|run| run.started)
    }

    fn recent(&self, now: Timestamp) -> u64 {
        self.runs.iter().filter(|run| is_recent(run.started, now)).count() as u64
    }
}

fn is_recent(started: Timestamp, now: Timestamp) -> bool {
    now.duration_since(started) < HOUR
}

impl Run {
    /// Notes the reply.
    fn live(&mut self, reply: Reply, now: Now) -> Life {
        if reply == Reply::Answered {
            self.answered = Some(now.mono);
        }
        // The boot time is in whole seconds, so that a young process may seem to come from the future.
        let age = now.wall.duration_since(self.started).max(SignedDuration::ZERO).unsigned_abs();
        Life { started: self.started, age, answered_ago: self.answered.map(|at| now.mono.saturating_sub(at)) }
    }
}

/// The part of pynchy's `/health` that we read.
#[derive(Deserialize)]
struct PynchyAnswer {
    status: String,
    uptime_seconds: serde_json::Number,
    channels_connected: bool,
}

/// The part of openclaw's `/readyz` that we read; it is the same with 200 and with 503.
#[derive(Deserialize)]
struct OpenclawAnswer {
    ready: bool,
    /// Words, as far as we know; whatever else it is says nothing of `ready`.
    failing: Option<serde_json::Value>,
}

/// The part of pi-web's `/api/metrics` that is of its own process.
#[derive(Deserialize)]
struct RuntimeAnswer {
    process: RuntimeProcess,
}

#[derive(Deserialize)]
struct RuntimeProcess {
    goroutines: Option<u64>,
    heap_alloc_bytes: Option<u64>,
    sse_clients: Option<u64>,
    watched_files: Option<u64>,
}

/// More of them are not shown.
const FAILING: usize = 50;

impl Health {
    fn nothing(at: Timestamp) -> Health {
        Health {
            status: None,
            uptime_seconds: None,
            channels_connected: None,
            ready: None,
            failing: None,
            error: None,
            at,
        }
    }

    fn read(says: Says, told: &http::Told) -> Health {
        let at = told.at.wall;
        let read = |answer: &http::Answer| match says {
            Says::Pynchy | Says::Nothing => Health::of_pynchy(answer, at),
            Says::Netclaw => Health::of_netclaw(answer, at),
            Says::Openclaw => Health::of_openclaw(answer, at),
        };
        let answer = told.answer.as_ref().map_err(|error| error.clone().into());
        answer
            .and_then(|answer| read(answer))
            .unwrap_or_else(|error| Health { error: Some(format!("{error:#}")), ..Health::nothing(at) })
    }

    fn of_pynchy(answer: &http::Answer, at: Timestamp) -> Result<Health> {
        let said: PynchyAnswer = answer.good()?.json()?;
        Ok(Health {
            status: Some(word(said.status)?),
            uptime_seconds: Some(said.uptime_seconds),
            channels_connected: Some(said.channels_connected),
            ..Health::nothing(at)
        })
    }

    /// A word in quotes.
    fn of_netclaw(answer: &http::Answer, at: Timestamp) -> Result<Health> {
        Ok(Health { status: Some(word(answer.good()?.json()?)?), ..Health::nothing(at) })
    }

    fn of_openclaw(answer: &http::Answer, at: Timestamp) -> Result<Health> {
        let answer = if answer.status == 503 { answer } else { answer.good()? };
        let said: OpenclawAnswer = answer.json()?;
        let status = if said.ready { "ready" } else { "not_ready" };
        let failing = match said.failing {
            None => Some(Vec::new()),
            Some(said) => said.as_array().map(|said| said.iter().take(FAILING).map(failing_word).collect()),
        };
        let (status, ready) = (Some(status.to_owned()), Some(said.ready));
        Ok(Health { status, ready, failing, ..Health::nothing(at) })
    }
}

/// What is no word has failed all the same, and is not quoted.
fn failing_word(said: &serde_json::Value) -> String {
    said.as_str().and_then(|said| word(said.to_owned()).ok()).unwrap_or_else(|| "other".to_owned())
}

/// It is shown, so it must be a word and not a text.
fn word(said: String) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':' | b'/');
    anyhow::ensure!(said.len() <= 64 && said.bytes().all(plain), "answered with a status that is no word");
    Ok(said)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::running::stage::{Root, running, unprivileged};
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::{Arc, Mutex};

    const GRACE: Duration = Duration::from_secs(300);

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    // -- the decision

    fn alive(age: u64, answered_ago: Option<u64>) -> Option<Life> {
        Some(Life { started: Timestamp::UNIX_EPOCH, age: seconds(age), answered_ago: answered_ago.map(seconds) })
    }

    #[test]
    fn every_combination_has_its_status() {
        use {Reply::*, Sight::*};
        let (young, old) = (alive(299, None), alive(300, None));
        let (stopping, stopped) = (alive(20, Some(30)), alive(20, Some(31)));
        let (old_stopping, old_stopped) = (alive(9000, Some(15)), alive(9000, Some(45)));
        let by_reply = [Refused, Silent, NotAsked];
        let lives = [
            (Found, young, ["starting", "starting", "starting"]),
            (Found, old, ["stalled", "stalled", "stalled"]),
            (Found, stopping, ["shutting_down", "stalled", "stalled"]),
            (Found, stopped, ["stalled", "stalled", "stalled"]),
            (Found, old_stopping, ["shutting_down", "stalled", "stalled"]),
            (Found, old_stopped, ["stalled", "stalled", "stalled"]),
            (Absent, None, ["down", "stalled", "down"]),
            (Unseen, None, ["down", "stalled", "unknown"]),
            (Denied, None, ["down", "stalled", "unknown"]),
        ];
        for (sight, life, expected) in lives {
            assert_eq!(decide(sight, Answered, life, GRACE), Status::Ok);
            let decided = by_reply.map(|reply| decide(sight, reply, life, GRACE).name());
            assert_eq!(decided, expected, "{sight:?} {life:?}");
        }
        assert_eq!(decide(Found, Refused, alive(0, None), Duration::ZERO), Status::Stalled);
    }

    #[test]
    fn replies_are_told_apart() {
        for (asked, reply) in [
            (Ok(http::Head { status: 500, took: Duration::ZERO }), Reply::Answered),
            (Err(http::Error::TooLarge), Reply::Answered),
            (Err(http::Error::Refused), Reply::Refused),
            (Err(http::Error::TimedOut { connected: true }), Reply::Silent),
            (Err(http::Error::TimedOut { connected: false }), Reply::Silent),
            (Err(http::Error::Broken(String::new())), Reply::Silent),
            (Err(http::Error::Tls(String::new())), Reply::Silent),
            (Err(http::Error::Unreachable(String::new())), Reply::NotAsked),
            (Err(http::Error::Unresolved(String::new())), Reply::NotAsked),
        ] {
            assert_eq!(Reply::of(&asked), reply, "{asked:?}");
        }
    }

    // -- points

    fn section(status: Status, process: Sight, answered: bool) -> Section {
        Section {
            status,
            started_at: None,
            uptime_seconds: None,
            starts_last_hour: None,
            starts_total: None,
            pid: None,
            process,
            process_error: None,
            api: Some(Api { url: String::new(), answered, error: None, response_seconds: None }),
            health: None,
            resources: None,
            runtime: None,
            says_ready: false,
        }
    }

    fn values(section: &Section) -> BTreeMap<String, f64> {
        let mut points = Points::default();
        Service::points(section, &mut points);
        let declared = |point: &crate::sample::Point| Service::FACTS.iter().any(|fact| fact.is(point.fact));
        assert!(points.0.iter().all(declared));
        let name = |point: &crate::sample::Point| format!("{}{}", point.fact.prometheus, point.subject());
        points.0.iter().filter_map(|point| Some((name(point), point.value?))).collect()
    }

    #[test]
    fn up_and_responding_differ_where_they_must() {
        for (status, process, answered, up, responding) in [
            (Status::Ok, Sight::Found, true, Some(1.0), 1.0),
            (Status::Ok, Sight::Unseen, true, Some(1.0), 1.0),
            (Status::Starting, Sight::Found, false, Some(1.0), 1.0),
            (Status::Stalled, Sight::Found, false, Some(1.0), 0.0),
            (Status::ShuttingDown, Sight::Found, false, Some(1.0), 0.0),
            (Status::Stalled, Sight::Unseen, false, None, 0.0),
            (Status::Stalled, Sight::Denied, false, None, 0.0),
            (Status::Unknown, Sight::Unseen, false, None, 0.0),
            (Status::Stalled, Sight::Absent, false, Some(0.0), 0.0),
            (Status::Down, Sight::Unseen, false, Some(0.0), 0.0),
            (Status::Down, Sight::Absent, false, Some(0.0), 0.0),
        ] {
            let values = values(&section(status, process, answered));
            assert_eq!(values.get("agenthost_service_up").copied(), up, "{status:?} {process:?}");
            assert_eq!(values["agenthost_service_responding"], responding, "{status:?} {process:?}");
            let set: Vec<&str> = Status::ALL.iter().map(|one| one.name()).collect();
            for name in set {
                let expected = f64::from(u8::from(name == status.name()));
                assert_eq!(values[&format!("agenthost_service_status{name}")], expected, "{name}");
            }
            let known = 7 + usize::from(up.is_some());
            assert_eq!(values.len(), known, "what is not known has no value: {values:?}");
        }
    }

    #[test]
    fn what_is_known_has_its_value() {
        let mut known = section(Status::Ok, Sight::Found, true);
        known.started_at = Some("1970-01-01T00:01:40.25Z".parse().unwrap());
        (known.starts_last_hour, known.starts_total) = (Some(2), Some(7));
        known.api.as_mut().unwrap().response_seconds = Some(0.5);
        let values = values(&known);
        assert_eq!(values["agenthost_service_start_time_seconds"], 100.25);
        assert_eq!(values["agenthost_service_starts_total"], 7.0);
        assert_eq!(values["agenthost_service_recent_starts"], 2.0);
        assert_eq!(values["agenthost_service_response_duration_seconds"], 0.5);
    }

    #[test]
    fn starts_out_of_sight_are_listed_without_value() {
        let listed = |section: &Section| {
            let mut points = Points::default();
            Service::points(section, &mut points);
            points.0.iter().find(|point| point.fact.is(&RECENT_STARTS)).map(|point| point.value)
        };
        let mut unseen = section(Status::Ok, Sight::Unseen, true);
        assert_eq!(listed(&unseen), None, "never seen, so not measured here");
        unseen.starts_total = Some(3);
        assert_eq!(listed(&unseen), Some(None));
    }

    // -- starts

    #[test]
    fn a_child_that_takes_over_from_its_launcher_is_no_start() {
        let root = Root::new();
        let mut launcher = root.spawn("uv/pynchy", &["-c", "read x; ./pynchy 60; true"]);
        let mut starts = Starts::default();
        let now = Timestamp::now();
        starts.follow(&running(root.look(None)), now);
        let child = root.wake(&mut launcher);
        for launcher in [Some(launcher), None] {
            let chain = running(root.look(starts.members()));
            starts.follow(&chain, now);
            assert_eq!((chain.pid, chain.members.len()), (child.pid(), 1 + usize::from(launcher.is_some())));
            assert_eq!((starts.total, starts.recent(now)), (1, 1));
        }
    }

    #[test]
    fn starts_are_counted_once_and_leave_after_an_hour() {
        let root = Root::new();
        let mut starts = Starts::default();
        let now = Timestamp::now();
        for count in 1..=3 {
            let _host = root.host();
            let chain = running(root.look(starts.members()));
            starts.follow(&chain, now);
            starts.follow(&chain, now);
            assert_eq!((starts.total, starts.recent(now)), (count, count));
        }
        let later = now + HOUR + SignedDuration::from_secs(3);
        assert_eq!((starts.total, starts.recent(later)), (3, 0));
        let _host = root.host();
        starts.follow(&running(root.look(None)), later);
        assert_eq!((starts.total, starts.runs.len()), (4, 1), "old ones are forgotten");
    }

    // -- the whole collector, beside a real process and a real port

    /// An HTTP host whose manners can change.
    struct Stub {
        url: String,
        health: Arc<Mutex<Option<String>>>,
        asked: Arc<Mutex<Vec<String>>>,
    }

    impl Stub {
        fn new() -> Stub {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let health = r#"{"status": "ok", "uptime_seconds": 2, "dirty": false, "channels_connected": true}"#;
            let stub = Stub { url, health: Arc::new(Mutex::new(Some(health.to_owned()))), asked: Arc::default() };
            let (health, asked) = (stub.health.clone(), stub.asked.clone());
            std::thread::spawn(move || {
                for socket in listener.incoming() {
                    serve(socket.unwrap(), &health, &asked);
                }
            });
            stub
        }

        /// `None`: closes without an answer.
        fn say(&self, health: Option<&str>) {
            *self.health.lock().unwrap() = health.map(str::to_owned);
        }

        fn asked_for(&self, path: &str) -> usize {
            self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
        }
    }

    fn serve(mut socket: TcpStream, health: &Mutex<Option<String>>, asked: &Mutex<Vec<String>>) {
        let mut head = [0; 4096];
        let length = socket.read(&mut head).unwrap_or(0);
        let path = String::from_utf8_lossy(&head[..length]).split(' ').nth(1).unwrap_or("").to_owned();
        asked.lock().unwrap().push(path.clone());
        let Some(health) = health.lock().unwrap().clone() else { return };
        let (status, body) = if path == HEALTH { (200, health) } else { (404, "404: Not Found".to_owned()) };
        let kind = if body.starts_with('{') { "application/json; charset=utf-8" } else { "text/plain" };
        let length = body.len();
        let _ = write!(socket, "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}");
    }

    fn refusing() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    }

    fn collector(root: &Root, url: &str) -> Service {
        let host = Host { url: Some(url.into()), ..crate::host::pynchy::host(&root.path) };
        Service::new(Config::default(), &host, &Sources::default()).unwrap().unwrap()
    }

    fn collect(service: &mut Service, now: Now) -> Section {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(service.collect(now)).unwrap()
    }

    fn try_collect(service: &mut Service) -> Result<Section> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(service.collect(Now::read()))
    }

    #[test]
    fn a_living_host_is_shown_whole() {
        let (root, stub) = (Root::new(), Stub::new());
        let host = root.host();
        let now = Now::read().plus(seconds(100));
        let section = collect(&mut collector(&root, &stub.url), now);
        assert_eq!((section.status, section.process, section.pid), (Status::Ok, Sight::Found, Some(host.pid())));
        assert_eq!((section.starts_last_hour, section.starts_total), (Some(1), Some(1)));
        assert!((98..103).contains(&section.uptime_seconds.unwrap()), "{:?}", section.uptime_seconds);
        let json = serde_json::to_value(&section).unwrap();
        assert_eq!((&json["status"], &json["process"]), (&"ok".into(), &"found".into()));
        let api = &json["api"];
        assert_eq!(api["url"], stub.url);
        assert!(api["answered"] == true && api["error"].is_null() && api["response_seconds"].as_f64().unwrap() < 5.0);
        let at = now.wall.to_string();
        let health = serde_json::json!(
            {"status": "ok", "uptime_seconds": 2, "channels_connected": true, "error": null, "at": at});
        assert_eq!(json["health"], health);
    }

    #[test]
    fn health_is_asked_each_minute_and_its_faults_are_only_shown() {
        let (root, stub) = (Root::new(), Stub::new());
        let mut service = collector(&root, &stub.url);
        let begin = Now::read();
        for (second, asked) in [(0, 1), (15, 1), (45, 1), (60, 2), (75, 2)] {
            collect(&mut service, begin.plus(seconds(second)));
            assert_eq!(stub.asked_for(HEALTH), asked, "at {second} s");
        }
        assert_eq!(stub.asked_for(LIVENESS), 5);
        for (second, said, error) in [
            (120, r#"{"status": "ok"}"#, "JSON of another shape"),
            (180, r#"{"secret"#, "invalid JSON"),
            (240, "secret", "not called JSON"),
            (300, r#"{"status": "a secret", "uptime_seconds": 1, "channels_connected": true}"#, "no word"),
        ] {
            stub.say(Some(said));
            let section = collect(&mut service, begin.plus(seconds(second)));
            let health = section.health.unwrap();
            assert_eq!((section.status, health.status), (Status::Ok, None));
            let text = health.error.unwrap();
            assert!(text.contains(error) && !text.contains("secret"), "{text}");
        }
        // One that no longer answers says nothing of its health, and is asked as soon as it is back.
        stub.say(None);
        let section = collect(&mut service, begin.plus(seconds(301)));
        assert_eq!((section.answers(), section.health), (false, None));
        assert_eq!(section.api.unwrap().error.unwrap(), "closed the connection without an answer");
        stub.say(Some(r#"{"status": "ok", "uptime_seconds": 1, "channels_connected": false}"#));
        let section = collect(&mut service, begin.plus(seconds(302)));
        assert_eq!(section.health.unwrap().channels_connected, Some(false));
    }

    #[test]
    fn a_host_that_refuses_starts_then_stalls_then_is_down() {
        let root = Root::new();
        let mut host = root.host();
        let mut service = collector(&root, &refusing());
        let begin = Now::read();
        let status = |service: &mut Service, second: u64| collect(service, begin.plus(seconds(second))).status;
        assert_eq!(status(&mut service, 0), Status::Starting);
        assert_eq!(status(&mut service, 290), Status::Starting);
        assert_eq!(status(&mut service, 302), Status::Stalled);
        host.kill();
        let section = collect(&mut service, begin.plus(seconds(315)));
        assert_eq!((section.status, section.pid, section.started_at), (Status::Down, None, None));
        assert_eq!(section.api.as_ref().unwrap().error.as_deref(), Some("refused"));
        assert_eq!(section.starts_total, Some(1));
    }

    #[test]
    fn a_host_that_stops_answering_shuts_down_then_stalls_and_its_restart_is_a_start() {
        let (root, stub) = (Root::new(), Stub::new());
        let host = root.host();
        let mut service = collector(&root, &stub.url);
        let begin = Now::read();
        let at = |service: &mut Service, second: u64| collect(service, begin.plus(seconds(second)));
        assert_eq!(at(&mut service, 0).status, Status::Ok);
        service.address = Some(Address::new(&refusing().as_str().into()));
        assert_eq!(at(&mut service, 15).status, Status::ShuttingDown);
        assert_eq!(at(&mut service, 30).status, Status::ShuttingDown);
        // Young as it is, it has answered before.
        assert_eq!(at(&mut service, 45).status, Status::Stalled);
        drop(host);
        assert_eq!(at(&mut service, 60).status, Status::Down);
        let again = root.host();
        let section = at(&mut service, 75);
        assert_eq!((section.status, section.pid), (Status::Starting, Some(again.pid())));
        assert_eq!((section.starts_total, section.starts_last_hour), (Some(2), Some(2)));
        service.address = Some(Address::new(&stub.url.as_str().into()));
        assert_eq!(at(&mut service, 90).status, Status::Ok);
    }

    #[test]
    fn others_bear_with_a_start_for_its_grace_and_with_no_more_starts_than_one() {
        let root = Root::new();
        let mut host = root.host();
        let mut service = collector(&root, &refusing());
        let begin = Now::read();
        let mut starting = |second: u64| {
            let at = begin.plus(seconds(second));
            (collect(&mut service, at).status, service.boot.is_under_way(at), service.boot.is_under_way(at.plus(GRACE)))
        };
        assert_eq!(starting(0), (Status::Starting, true, false), "it ends though nobody says so");
        assert_eq!(starting(200), (Status::Starting, true, false));
        // It came to nothing, and another start does not begin anew.
        host.kill();
        let again = root.host();
        assert_eq!(starting(290), (Status::Starting, true, false));
        assert_eq!(starting(310), (Status::Stalled, false, false));
        drop(again);
        assert_eq!(starting(320), (Status::Down, false, false));
    }

    #[test]
    fn a_host_that_answers_is_not_absent() {
        let (root, stub) = (Root::new(), Stub::new());
        let mut service = collector(&root, &stub.url);
        // Absent for sure: there is no pid file.
        service.rule = ProcessRule::PidFile(root.path.join("pid"));
        let section = collect(&mut service, Now::read());
        assert_eq!((section.status, section.process), (Status::Ok, Sight::Unseen));
        assert_eq!((section.starts_last_hour, section.starts_total), (None, None));
        assert!(section.process_error.unwrap().contains("its API answers"));
        stub.say(None);
        let silent = collect(&mut service, Now::read());
        assert_eq!((silent.process, silent.starts_last_hour), (Sight::Absent, Some(0)));
    }

    #[test]
    fn requests_end_before_the_run_must() {
        let told = Patience { liveness: seconds(5), health: seconds(4) };
        for run in [Service::TIMEOUT, seconds(60)] {
            assert_eq!(Patience::within(run), told);
        }
        let told = Patience { liveness: Duration::from_millis(1500), health: Duration::from_millis(1200) };
        assert_eq!(Patience::within(seconds(3)), told);
    }

    #[test]
    fn a_hung_host_is_seen_within_a_short_run() {
        use crate::collect::Collect;
        // Connected by the kernel, and never answered.
        let hung = TcpListener::bind("127.0.0.1:0").unwrap();
        let root = Root::new();
        let mut service = collector(&root, &format!("http://{}", hung.local_addr().unwrap()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let sample = service.run(Now::read(), seconds(2), runtime.handle()).unwrap();
        assert!(sample.section.get().contains("\"status\":\"stalled\""), "{}", sample.section);
    }

    #[test]
    fn a_port_that_may_not_be_known_is_no_stall() {
        let root = Root::new();
        let _host = root.host();
        let file = root.path.join("config.toml");
        std::fs::write(&file, "[server]\nport = 1\n").unwrap();
        let host = crate::host::pynchy::host(&root.path);
        let mut service = Service::new(Config::default(), &host, &Sources::default()).unwrap().unwrap();
        let failure = crate::sample::Failure::from(unprivileged(&root.path, || try_collect(&mut service).unwrap_err()));
        assert_eq!(failure.cause, Cause::Denied);
        assert!(failure.error.contains(&format!("read {}: Permission denied", file.display())), "{failure:?}");
        std::fs::write(&file, "[server\n").unwrap();
        let broken = try_collect(&mut service).unwrap_err();
        assert!(format!("{broken:#}").contains("config.toml: not TOML (line 1)"), "{broken:#}");
    }

    #[test]
    fn a_port_that_changes_is_asked_from_the_next_start_on() {
        let (root, first, second) = (Root::new(), Stub::new(), Stub::new());
        let write = |stub: &Stub| {
            let port = stub.url.rsplit(':').next().unwrap();
            std::fs::write(root.path.join("config.toml"), format!("[server]\nport = {port}\n")).unwrap();
        };
        write(&first);
        let host = crate::host::pynchy::host(&root.path);
        let mut service = Service::new(Config::default(), &host, &Sources::default()).unwrap().unwrap();
        let answers = |service: &mut Service| try_collect(service).map(|section| section.answers()).ok();
        assert_eq!(answers(&mut service), Some(true));
        // Written, and not yet read by the host: it answers where it did, or hangs there.
        write(&second);
        first.say(None);
        assert_eq!(answers(&mut service), Some(false));
        first.say(Some("{}"));
        assert_eq!(answers(&mut service), Some(true));
        std::fs::write(root.path.join("config.toml"), "[server\n").unwrap();
        assert_eq!(answers(&mut service), Some(true), "a broken file is of the next start");
        assert_eq!(second.asked_for(LIVENESS), 0);
        // It stopped: nobody listens any more.
        write(&second);
        service.address.as_mut().unwrap().answered(&refusing());
        assert_eq!(answers(&mut service), Some(false));
        assert_eq!(answers(&mut service), Some(true));
        assert_eq!(second.asked_for(LIVENESS), 1);
    }

    #[test]
    fn a_process_out_of_sight_has_its_reason() {
        let (root, stub) = (Root::new(), Stub::new());
        let file = root.path.join("pid");
        let mut service = collector(&root, &stub.url);
        service.rule = ProcessRule::PidFile(file.clone());
        std::fs::write(&file, "garbage").unwrap();
        let section = collect(&mut service, Now::read());
        assert_eq!((section.process, section.pid, section.starts_last_hour), (Sight::Unseen, None, None));
        assert!(section.process_error.unwrap().starts_with(&format!("read {}: no pid in it", file.display())));
        let denied = unprivileged(&root.path, || collect(&mut service, Now::read()));
        assert_eq!((denied.process, denied.starts_total), (Sight::Denied, None));
        let text = denied.process_error.unwrap();
        assert!(text.starts_with(&format!("read {}: Permission denied", file.display())), "{text}");
    }

    // -- other kinds of hosts

    use crate::collect::fixture::api::{Api as HostStub, Say};
    use serde_json::json;

    /// One of this kind, whose process is one of ours.
    fn other(profile: Profile, api: &HostStub, host: &crate::host::running::stage::Running, root: &Root) -> Service {
        let file = root.path.join("pid");
        std::fs::write(&file, host.pid().to_string()).unwrap();
        let host = Host {
            profile,
            url: Some(api.url.as_str().into()),
            process: ProcessRule::PidFile(file),
            ..crate::collect::fixture::host(None)
        };
        let mut service = Service::new(Config::default(), &host, &Sources::default()).unwrap().unwrap();
        service.within(seconds(4));
        service
    }

    fn collect_live(service: &mut Service, now: Now) -> Section {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(service.collect(now)).unwrap()
    }

    #[test]
    fn of_an_openclaw_only_json_is_an_answer_and_it_says_whether_it_is_ready() {
        let (root, api) = (Root::new(), HostStub::new());
        let host = root.host();
        let mut service = other(Profile::Openclaw, &api, &host, &root);
        let begin = Now::read();
        api.json("/healthz", json!({"ok": true, "status": "live"}));
        api.json("/readyz", json!({"ready": true, "failing": [], "uptimeMs": 1}));
        let section = collect_live(&mut service, begin);
        assert_eq!((section.status, values(&section)["agenthost_service_ready"]), (Status::Ok, 1.0));
        api.say("/readyz", Say::Answer(503, "application/json", r#"{"ready":false,"failing":["telegram"]}"#.into()));
        let section = collect_live(&mut service, begin.plus(seconds(15)));
        let health = section.health.clone().unwrap();
        assert_eq!((health.status.as_deref(), health.failing), (Some("not_ready"), Some(vec!["telegram".to_owned()])));
        assert_eq!((section.status, values(&section)["agenthost_service_ready"]), (Status::Ok, 0.0));
        // What is no word there takes nothing away from the rest.
        let odd = r#"{"ready":false,"failing":["telegram","a secret text",{"name":"secret"},7]}"#;
        for (second, body, failing) in [
            (30, odd, Some(vec!["telegram", "other", "other", "other"])),
            (45, r#"{"ready":false}"#, Some(vec![])),
            (60, r#"{"ready":false,"failing":null}"#, Some(vec![])),
            (75, r#"{"ready":false,"failing":"a secret text"}"#, None),
        ] {
            api.say("/readyz", Say::Answer(503, "application/json", body.into()));
            let section = collect_live(&mut service, begin.plus(seconds(second)));
            let health = section.health.clone().unwrap();
            let told = health.failing.as_ref().map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
            assert_eq!((health.ready, told, health.error), (Some(false), failing, None), "{body}");
            assert_eq!(values(&section)["agenthost_service_ready"], 0.0);
        }
        // It says itself that it is not well.
        for status in [200, 503] {
            api.say("/healthz", Say::Answer(status, "application/json", r#"{"ok":false,"status":"live"}"#.into()));
            let section = collect_live(&mut service, begin.plus(seconds(3000)));
            let said = section.api.as_ref().unwrap().error.clone().unwrap();
            assert_eq!(
                (section.status, said),
                (Status::Stalled, format!("answered with status {status} that it is not ok"))
            );
            assert_eq!(values(&section)["agenthost_service_responding"], 0.0);
        }
        // A page that answers everything, itself or a proxy before it.
        api.say("/healthz", Say::Html("<html>".into()));
        let section = collect_live(&mut service, begin.plus(seconds(4000)));
        assert_eq!((section.status, section.health.is_none()), (Status::Stalled, true));
        assert_eq!(
            section.api.as_ref().unwrap().error.as_deref(),
            Some("answered with status 200 and HTML instead of JSON")
        );
        let mut points = Points::default();
        Service::points(&section, &mut points);
        let ready = points.0.iter().find(|point| point.fact.is(&READY)).map(|point| point.value);
        assert_eq!(ready, Some(None), "listed, and not known");
    }

    #[test]
    fn netclaw_says_one_word_and_nobody_needs_a_token_for_it() {
        let (root, api) = (Root::new(), HostStub::new());
        let host = root.host();
        let mut service = other(Profile::Netclaw, &api, &host, &root);
        api.json("/api/health/ready", json!("healthy"));
        let section = collect_live(&mut service, Now::read());
        assert_eq!((section.status, section.health.clone().unwrap().status.as_deref()), (Status::Ok, Some("healthy")));
        assert_eq!(values(&section).get("agenthost_service_ready"), None, "it is always healthy: that says nothing");
        assert!(!api.heads().to_lowercase().contains("authorization"));
    }

    #[test]
    fn pi_web_tells_of_its_own_process_and_a_refusal_is_no_stall() {
        let (root, api) = (Root::new(), HostStub::new());
        let host = root.host();
        let mut service = other(Profile::PiWeb, &api, &host, &root);
        let begin = Now::read();
        api.json(
            "/api/metrics",
            json!({
                "process": {"pid": 812, "uptime_s": 300.1, "goroutines": 23, "heap_alloc_bytes": 9_437_184,
                            "sse_clients": 1, "watched_files": 40},
                "workers": [{"session_id": "x.jsonl", "pid": 0, "rss_bytes": 0, "sampled": false}],
            }),
        );
        let section = collect_live(&mut service, begin);
        let known = values(&section);
        for (name, value) in
            [("goroutines", 23.0), ("heap_bytes", 9_437_184.0), ("sse_clients", 1.0), ("watched_files", 40.0)]
        {
            assert_eq!(known[&format!("agenthost_service_{name}")], value, "{name}");
        }
        assert!(
            !serde_json::to_string(&section).unwrap().contains("rss_bytes"),
            "a worker that was not sampled is not zero"
        );
        api.say("/api/metrics", Say::Status(401));
        let section = collect_live(&mut service, begin.plus(seconds(15)));
        let runtime = section.runtime.clone().unwrap();
        assert!(runtime.error.unwrap().contains("status 401: it wants a token"), "the fix");
        assert_eq!(
            (section.status, runtime.goroutines, values(&section).get("agenthost_service_goroutines")),
            (Status::Ok, None, None)
        );
    }

    #[test]
    fn a_host_without_an_api_is_its_process() {
        let (root, api) = (Root::new(), HostStub::new());
        let mut host = root.host();
        let mut service = other(Profile::Generic, &api, &host, &root);
        service.address = None;
        let begin = Now::read().plus(seconds(3600));
        let section = collect_live(&mut service, begin);
        let known = values(&section);
        assert_eq!((section.status, known["agenthost_service_up"]), (Status::Ok, 1.0));
        assert!(section.api.is_none() && !known.contains_key("agenthost_service_responding"));
        assert_eq!(section.resources.clone().unwrap().connections, None);
        host.kill();
        let section = collect_live(&mut service, begin.plus(seconds(15)));
        assert_eq!((section.status, values(&section)["agenthost_service_up"]), (Status::Down, 0.0));
        std::fs::write(root.path.join("pid"), "garbage").unwrap();
        let section = collect_live(&mut service, begin.plus(seconds(30)));
        assert_eq!((section.status, values(&section).get("agenthost_service_up")), (Status::Unknown, None));
        service.rule = ProcessRule::Unknown;
        let section = collect_live(&mut service, begin.plus(seconds(45)));
        assert!(section.process_error.unwrap().contains("`pid_file` or `process` in [host]"));
    }

    #[test]
    fn what_the_process_uses_is_shown_and_its_time_outlives_it() {
        let (root, stub) = (Root::new(), Stub::new());
        let mut first = root.host();
        let mut service = collector(&root, &stub.url);
        let resources = collect(&mut service, Now::read()).resources.unwrap();
        assert_eq!((resources.threads, resources.inotify_watches, resources.connections), (Some(1), Some(0), Some(0)));
        assert!(resources.resident_bytes.is_some() && resources.open_fds.unwrap() > 0);
        first.kill();
        assert_eq!(collect(&mut service, Now::read()).resources, None);
        let mut cpu = Cpu::default();
        let (one, two) = (root.host(), root.host());
        let identity = |child: &crate::host::running::stage::Running| {
            Processes::default().list().unwrap().get(child.pid()).unwrap().identity
        };
        for (child, seconds, total) in [(&one, 2.0, 2.0), (&one, 2.5, 2.5), (&two, 0.5, 3.0), (&two, 0.75, 3.25)] {
            cpu.see(identity(child), seconds);
            assert_eq!(cpu.total, total);
        }
    }

    #[test]
    fn the_configuration_is_checked() {
        assert_eq!(toml::from_str::<Config>("").unwrap().boot_grace.0, GRACE);
        assert_eq!(toml::from_str::<Config>("boot_grace = \"90s\"").unwrap().boot_grace.0, seconds(90));
        assert!(toml::from_str::<Config>("boot_grace = 90").is_err());
        assert!(toml::from_str::<Config>("bootgrace = \"90s\"").is_err());
    }
}
