//! The host's service: whether its process lives, and whether it answers.
//!
//! Both are asked, as neither proves the other: a hung host lives, and one in another container answers unseen.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collect::host_api::{Address, HostApi};
use crate::collect::{Collector, NOTHING, Needs};
use crate::fact::{Bound, Check, Fact, Severity, Span};
use crate::host::running::{Chain, Seen, look};
use crate::host::{Host, ProcessRule, Profile};
use crate::sample::{Cause, Failure, Now, Points};
use crate::source::Sources;
use crate::source::boot::Boot;
use crate::source::http::{self, Ask, Http, Limits};
use crate::source::process::proc::Proc;
use crate::source::process::{Identity, Processes};

mod health;
mod resources;
mod runtime;
mod starts;
mod status;

use health::{CHEAP_AGE, Health, Says};
use resources::{Connections, Cpu, Resources};
use runtime::{RUNTIME, Runtime, RuntimeAnswer};
use starts::Starts;
pub use status::Status;
use status::{Asked, Fault, Reply, Sight, decide, decide_unasked};

/// No host knows it, so any answer costs it next to nothing.
const LIVENESS: &str = "/agenthost-exporter-liveness";

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

/// The liveness request.
#[derive(Debug, Serialize)]
pub struct Api {
    /// The base that was asked; no credentials, as a URL with some is refused.
    pub url: String,
    pub answered: bool,
    pub error: Option<String>,
    pub response_seconds: Option<f64>,
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
    "Established TCP connections to the port of the host's API, from /proc, counted once a minute; absent if it has none.",
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
        headline: "host down",
        means: "The host is gone: no process of it runs, and nothing answers on its port.",
    },
    Check {
        name: "service_responding",
        fact: &RESPONDING,
        bad: Bound::Below(1.0),
        severity: Severity::Critical,
        fail_for: Duration::from_secs(120),
        headline: "host not responding",
        means: "The host does not answer HTTP: it is down, hung, or did not come up within boot_grace.",
    },
    Check {
        name: "service_restart_loop",
        fact: &RECENT_STARTS,
        bad: Bound::Above(5.0),
        severity: Severity::Warning,
        fail_for: Duration::ZERO,
        headline: "host in a restart loop",
        means: "The host was started more than five times within an hour: it crashes and is restarted.",
    },
    Check {
        name: "service_ready",
        fact: &READY,
        bad: Bound::Below(1.0),
        severity: Severity::Warning,
        fail_for: Duration::from_secs(120),
        headline: "host calls itself not ready",
        means: "The host calls itself not ready; what fails it names in `service.health.failing`.",
    },
];

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
    proc: Proc,
    http: Http,
    patience: Patience,
    starts: Starts,
    boot: Boot,
    cpu: Cpu,
    connections: Connections,
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
    const NEEDS: Needs = Needs {
        reads: "the process table, the host's liveness, and of its process /proc (memory, files, sockets)",
        fix: "run as the host's user, or with CAP_SYS_PTRACE; in a container share its process namespace (`pid: \"service:host\"`, shareProcessNamespace); without any of them `pid_file` in [host] says which process it is",
        costs: "one request for a path that it does not know, and one pass over /proc",
        opens: NOTHING,
    };
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
            proc: sources.proc.clone(),
            http: sources.http.clone(),
            patience: Patience::within(Service::TIMEOUT),
            starts: Starts::default(),
            boot: sources.boot.clone(),
            cpu: Cpu::default(),
            connections: Connections::default(),
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
            self.starts.follow(chain, now.mono);
        }
        let Some(base) = self.address.as_ref().map(Address::base).transpose()? else {
            return Ok(self.section(&seen, None, now));
        };
        let asked = self.ask_alive(&base).await;
        self.learn(&base, Reply::of(&asked));
        let answered = Reply::of(&asked) == Reply::Answered;
        let health = self.ask_health(&base, answered, now).await;
        let runtime = self.ask_runtime(answered, now).await;
        let section = self.section(&believe(seen, &asked), Some((base, &asked)), now);
        Ok(Section { health, runtime, ..section })
    }

    fn gaps(section: &Section) -> Vec<String> {
        let unseen = section.process_error.clone().filter(|_| section.process == Sight::Denied);
        let files = section.resources.as_ref().and_then(|resources| resources.error.clone());
        let runtime = section.runtime.as_ref().filter(|runtime| runtime.is_denied);
        unseen.into_iter().chain(files).chain(runtime.and_then(|runtime| runtime.error.clone())).collect()
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

/// Why it was no answer of the host.
fn fault(asked: &Asked) -> Option<String> {
    match asked {
        Err(error) => Some(error.to_string()),
        Ok(_) if Reply::of(asked) == Reply::Answered => None,
        Ok(head) => Some(format!("a proxy answered with status {} in its place", head.status)),
    }
}

impl Service {
    fn look(&self) -> Seen {
        match self.proc.scan().and_then(|scan| self.proc.table(&scan)) {
            Ok(table) => look(&table, &self.rule, self.starts.members()),
            Err(error) => Seen::Unseen(error.into()),
        }
    }

    /// Any answer will do, but of a host that answers everything.
    async fn ask_alive(&self, base: &str) -> Asked {
        let Some(path) = self.says.alive() else {
            return Ok(self.http.probe(&format!("{base}{LIVENESS}"), self.patience.liveness).await?);
        };
        let limits = Limits::within(self.patience.liveness);
        let answer = self.http.get(&format!("{base}{path}"), &[("Accept", "application/json")], limits).await?;
        match answer.json::<serde_json::Value>() {
            Ok(said) if said.get("ok") == Some(&false.into()) => {
                let error = format!("answered with status {} that it is not ok", answer.status);
                Err(http::Error::Broken(error).into())
            }
            Ok(_) => Ok(http::Head { status: answer.status, is_json: true, took: answer.took }),
            // A proxy's word that nobody behind it answers yet.
            Err(error) if answer.status >= 500 => Err(http::Error::Broken(error.to_string()).into()),
            Err(error) => Err(Fault::Wrong(error.to_string())),
        }
    }

    fn learn(&mut self, base: &str, reply: Reply) {
        let Some(address) = &mut self.address else { return };
        match reply {
            Reply::Answered => address.answered(base),
            Reply::Refused => address.refused(),
            Reply::Silent | Reply::Wrong | Reply::NotAsked => {}
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
                is_denied: false,
            },
            Err(error) => {
                let Failure { cause, error } = error.into();
                Runtime { error: Some(error), is_denied: cause == Cause::Denied, ..Runtime::default() }
            }
        })
    }

    /// How long others must bear with a host that starts; `None` after `boot_grace`. It counts from the first start that
    /// came to nothing, so that one that crashes and starts for ever is not excused for ever.
    fn boot_left(&self, now: Now) -> Option<Duration> {
        let age = now.mono.saturating_sub(self.starts.waiting_since()?);
        self.boot_grace.checked_sub(age).filter(|left| !left.is_zero())
    }

    /// What the process uses, if it is seen; `base` says which connections are to it.
    fn resources(&mut self, chain: &Chain, base: Option<&str>, now: Duration) -> Resources {
        let usage = self.processes.usage(chain.pid);
        let serves = chain.serving().zip(base.and_then(http::port));
        let count = |of: (Identity, u16)| self.processes.connections(of.0.pid, of.1);
        let connections = serves.and_then(|of| self.connections.to(of, now, || count(of)));
        if let (Some(identity), Some(seconds)) = (chain.serving(), usage.cpu_seconds) {
            self.cpu.see(identity, seconds);
        }
        Resources {
            threads: usage.threads,
            resident_bytes: usage.resident_bytes,
            cpu_seconds: self.cpu.total,
            open_fds: usage.open_fds,
            inotify_watches: usage.inotify_watches,
            connections,
            error: usage.error,
        }
    }

    /// `asked` is where, and what came of it; `None` of a host without an API.
    fn section(&mut self, seen: &Seen, asked: Option<(String, &Asked)>, now: Now) -> Section {
        let (pid, process_error, resources) = match seen {
            Seen::Running(chain) => {
                let resources = self.resources(chain, asked.as_ref().map(|(base, _)| base.as_str()), now.mono);
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
        let boot_left = self.boot_left(now);
        let status =
            reply.map_or_else(|| decide_unasked(sight), |reply| decide(sight, reply, life, boot_left.is_some()));
        self.boot.tell(now, boot_left.filter(|_| status == Status::Starting));
        Section {
            status,
            started_at: life.map(|life| life.started),
            uptime_seconds: life.map(|life| life.age.as_secs()),
            starts_last_hour: sure.then(|| self.starts.recent(now.mono)),
            starts_total: (sure || self.starts.total > 0).then_some(self.starts.total),
            pid,
            process: sight,
            process_error,
            api: asked.map(|(url, asked)| Api {
                url,
                answered: Reply::of(asked) == Reply::Answered,
                error: fault(asked),
                response_seconds: asked
                    .as_ref()
                    .ok()
                    .filter(|_| Reply::of(asked) == Reply::Answered)
                    .map(|head| head.took.as_secs_f64()),
            }),
            health: None,
            resources,
            runtime: None,
            says_ready: self.says == Says::Openclaw,
        }
    }
}

#[cfg(test)]
mod tests;
