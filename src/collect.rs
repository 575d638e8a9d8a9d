//! Collectors: the trait, and the list of all there are. One subsystem, one file.
//!
//! To add one: its file in `collect/`, its `mod` and its line in `ALL`.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;

use crate::fact::{Check, Fact, Span};
use crate::host::Host;
use crate::sample::{Details, Now, Points, Sample};
use crate::source::Sources;

pub mod service;
pub mod deploy;
pub mod channels;
pub mod gateway;
pub mod queue;
pub mod containers;
pub mod mcp;
pub mod repos;
pub mod messages;
pub mod usage;
pub mod tasks;
pub mod host_jobs;
pub mod groups;
pub mod workers;
pub mod http;
pub mod sql;
pub mod heartbeat;
pub mod exporter;

mod amount;
mod connectors;
mod deliveries;
mod host_api;
mod registered;

#[cfg(test)]
mod fixture;

/// Every collector there is; `/status` has their sections in this order.
pub static ALL: &[Subsystem] = &[
    Subsystem::of::<service::Service>(),
    Subsystem::of::<deploy::Deploy>(),
    Subsystem::of::<channels::Channels>(),
    Subsystem::of::<gateway::Gateway>(),
    Subsystem::of::<queue::Queue>(),
    Subsystem::of::<containers::Containers>(),
    Subsystem::of::<mcp::Mcp>(),
    Subsystem::of::<repos::Repos>(),
    Subsystem::of::<messages::Messages>(),
    Subsystem::of::<usage::Usage>(),
    Subsystem::of::<tasks::Tasks>(),
    Subsystem::of::<host_jobs::HostJobs>(),
    Subsystem::of::<groups::Groups>(),
    Subsystem::of::<workers::Workers>(),
    Subsystem::of::<http::Http>(),
    Subsystem::of::<sql::Sql>(),
    Subsystem::of::<heartbeat::Heartbeat>(),
    Subsystem::of::<exporter::Exporter>(),
];

/// One subsystem: what it reads, what it says of it, what counts as bad.
pub trait Collector: Sized + Send + 'static {
    /// Section of `/status`, table of the configuration, and prefix of its facts.
    const NAME: &'static str;
    /// Default interval.
    const EVERY: Duration;
    /// Default time-out.
    const TIMEOUT: Duration = Duration::from_secs(10);
    /// How soon to look again after a run that failed, if sooner than at the next interval; it doubles up to that. The
    /// checks' interval stays the other one.
    const RETRY: Option<Duration> = None;
    /// It asks for the host's own status, so that `[host] status_poll` is its default interval, and an interval of its own
    /// is the operator's word that the status may be asked for.
    const ASKS_STATUS: bool = false;
    /// It is configured by a list, `[[collect.<name>]]`, which it finds in the host: others may read it too.
    const LISTED: bool = false;
    const FACTS: &'static [&'static Fact];
    const CHECKS: &'static [Check];
    const NEEDS: Needs;
    /// Its table `[collect.<name>]`, without `enabled`, `interval` and `timeout`, which the loop takes.
    type Config: DeserializeOwned + Default + Clone + Send + Sync;
    /// What `/status.<name>` shows.
    type Section: Serialize;

    /// `None` only by profile or configuration; what should exist and does not is an error of `collect`.
    /// Also called after a panic, to begin anew.
    fn new(config: Self::Config, host: &Host, sources: &Sources) -> Result<Option<Self>>;

    /// How long a check must be bad here to fail, where that hangs on how this host is set up.
    fn fail_for(check: &Check, _host: &Host) -> Duration {
        check.fail_for
    }

    /// How long a run may take: told before each, to collectors whose questions must be answered in less.
    fn within(&mut self, _timeout: Duration) {}

    /// Looks once. Runs on a thread of its own: it may block or await. `now` is the only clock it has.
    fn collect(&mut self, now: Now) -> impl Future<Output = Result<Self::Section>>;

    /// The facts of a section, and which subjects it lists.
    fn points(section: &Self::Section, points: &mut Points);

    /// What of it we may not see, each with the reason: it says nothing of what could not be asked for want of an answer.
    fn gaps(_section: &Self::Section) -> Vec<String> {
        Vec::new()
    }

    /// What `/status/<name>/<key>` shows; empty for most.
    fn details(&self) -> Details {
        Details::default()
    }
}

/// What a person should know of a collector before it runs.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// What it reads.
    pub reads: &'static str,
    /// What lets it look where it may not.
    pub fix: &'static str,
    /// What one look costs the host.
    pub costs: &'static str,
    /// Folders of git that it opens: libgit2 does not say which file in them it was refused.
    pub opens: fn(&Host) -> Vec<PathBuf>,
}

/// Of all that do not read git.
const NOTHING: fn(&Host) -> Vec<PathBuf> = |_| Vec::new();

/// Of all that read the host's database.
const DATABASE_FIX: &str = "run as the user that owns the host's database, or let a group of ours read it, the files -wal and \
                            -shm beside it, and enter the folders above; in a container, mount its folder and not the file alone";

/// Of all that ask the host's own API.
const API_FIX: &str =
    "name the file with the token that the host's API wants, with `token_file` in [host], and let us read it";

/// Of all that ask for the host's own status.
const STATUS_COST: &str = "one request for the host's status, shared by all that need it";

/// Of all that ask Docker.
const DOCKER_FIX: &str = "run in the group that owns the socket (it is as good as root), mount the socket, or name the socket of a \
                          proxy that lets GET /containers pass, with `socket` in [docker]";

/// Of all that read git.
const GIT_FIX: &str = "run as the user that owns the repository, or let a group of ours enter its folders and read .git; no \
                       safe.directory is needed, for its owner is not asked for";

/// The table of one collector, still with its spans, so that a wrong key names its line.
pub type Table<'i> = toml::Spanned<toml::de::DeTable<'i>>;

/// Builds a collector; called at start and again after a panic.
pub type Build = Arc<dyn Fn(&Host, &Sources) -> Result<Option<Box<dyn Collect>>> + Send + Sync>;

/// A collector with its types erased: generics end here.
pub struct Subsystem {
    pub name: &'static str,
    pub every: Duration,
    pub timeout: Duration,
    pub retry: Option<Duration>,
    pub asks_status: bool,
    pub listed: bool,
    pub facts: &'static [&'static Fact],
    pub checks: &'static [Check],
    pub needs: Needs,
    fail_for: fn(&Check, &Host) -> Duration,
    /// Reads the collector's table (absent: its defaults) and says how to build it.
    pub plan: fn(Option<Table<'_>>) -> Result<Build, toml::de::Error>,
}

impl Subsystem {
    pub const fn of<C: Collector>() -> Subsystem {
        Subsystem {
            name: C::NAME,
            every: C::EVERY,
            timeout: C::TIMEOUT,
            retry: C::RETRY,
            asks_status: C::ASKS_STATUS,
            listed: C::LISTED,
            facts: C::FACTS,
            checks: C::CHECKS,
            needs: C::NEEDS,
            fail_for: C::fail_for,
            plan: plan::<C>,
        }
    }

    /// Its checks as they are for this host.
    pub fn checks_of(&self, host: &Host) -> Vec<Check> {
        self.checks.iter().map(|check| Check { fail_for: (self.fail_for)(check, host), ..*check }).collect()
    }

    /// How often it looks at this host where the configuration does not say.
    pub fn interval(&self, host: &Host) -> Duration {
        host.status_poll.filter(|_| self.asks_status).unwrap_or(self.every)
    }
}

fn plan<C: Collector>(table: Option<Table<'_>>) -> Result<Build, toml::de::Error> {
    let config = match table {
        Some(table) => C::Config::deserialize(toml::Deserializer::from(table))?,
        None => C::Config::default(),
    };
    Ok(Arc::new(move |host, sources| {
        let collector = C::new(config.clone(), host, sources)?;
        Ok(collector.map(|collector| Box::new(collector) as Box<dyn Collect>))
    }))
}

/// What the loop drives: one run, on the thread that calls it.
pub trait Collect: Send {
    /// Looks once and drops what is not finished at `timeout`; a blocked call cannot be dropped.
    fn run(&mut self, now: Now, timeout: Duration, runtime: &tokio::runtime::Handle) -> Result<Sample>;
}

impl<C: Collector> Collect for C {
    fn run(&mut self, now: Now, timeout: Duration, runtime: &tokio::runtime::Handle) -> Result<Sample> {
        self.within(timeout);
        let work = self.collect(now);
        let section = runtime
            .block_on(async { tokio::time::timeout(timeout, work).await })
            .map_err(|_| anyhow::anyhow!("timed out after {}", Span(timeout)))??;
        let mut points = Points::default();
        C::points(&section, &mut points);
        let gaps = C::gaps(&section);
        Ok(Sample { section: to_raw_value(&section)?.into(), details: self.details(), points, gaps })
    }
}
