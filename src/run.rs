//! Starts the river from a configuration, and turns it to a newer one while it flows.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use agenthost_exporter::collect::Subsystem;
use agenthost_exporter::config::{Config, Planned};
use agenthost_exporter::fact::Check;
use agenthost_exporter::health::{Health, Watched};
use agenthost_exporter::host::{self, Host};
use agenthost_exporter::pulse::{self, Past, Pulse};
use agenthost_exporter::sample::{Now, Reading};
use agenthost_exporter::serve::{self, Guard, Keys};
use agenthost_exporter::show::otlp;
use agenthost_exporter::snapshot::keeper::Keeper;
use agenthost_exporter::snapshot::{Current, Order, River, Seen, Sidecar, Turn};
use agenthost_exporter::source::budget::Ledger;
use agenthost_exporter::source::cgroup::Cgroups;
use agenthost_exporter::source::docker::{self, Docker};
use agenthost_exporter::source::otlp::Target;
use agenthost_exporter::source::record::{self, Recorder};
use agenthost_exporter::source::{self, Sources};
use anyhow::{Context, Result, bail, ensure};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

/// Reads the configuration anew: the file, and what is laid over it.
pub type Load = Arc<dyn Fn() -> Result<Config> + Send + Sync>;

/// A river that flows, and what feeds it.
pub struct Running {
    pub current: Current,
    host: Host,
    docker: docker::Config,
    guard: Guard,
    notes: Vec<String>,
    /// Where it listens, whatever the file says now.
    listen: Vec<SocketAddr>,
    /// What guards the doors by the latest configuration, be it refused: one of these files alone may mend it.
    doors: Vec<PathBuf>,
    sources: Sources,
    loops: BTreeMap<&'static str, Loop>,
    /// Readings of the configuration that have not ended.
    reads: Vec<JoinHandle<Result<Read>>>,
    /// Of collectors that ran once.
    past: BTreeMap<&'static str, Past>,
    readings: mpsc::Sender<Reading>,
    orders: mpsc::Sender<Order>,
    keeper: Option<Keeper>,
    push: Option<Push>,
    end: oneshot::Sender<()>,
    river: JoinHandle<()>,
}

/// A collector's loop, and by which configuration it runs.
struct Loop {
    plan: Paced,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Past>,
}

/// What of a collector's configuration makes it another one.
#[derive(Debug, Clone, PartialEq)]
struct Paced {
    interval: Duration,
    timeout: Duration,
    settings: toml::Table,
}

/// What a configuration makes of one collector.
struct Prepared {
    subsystem: &'static Subsystem,
    checks: Vec<Check>,
    plan: Paced,
    /// `None`: it goes on as it runs.
    pulse: Option<Pulse>,
}

/// A stop waits so long for the verdicts to be written; the disk may hang.
const LAST_SAVE: Duration = Duration::from_secs(1);
/// A reload waits so long for the file and for what it names.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// So many of those may hang, each on a thread of its own, until there is no other: collectors want threads too.
const READS_THAT_HANG: usize = 8;

impl Running {
    /// Starts every collector's loop and the river they flow into. `ledger` has what was spent on paid questions, `guard`
    /// what is turned with the rest at a reload.
    ///
    /// # Errors
    /// The configuration does not fit this machine.
    pub fn start(config: Config, ledger: Option<Ledger>, guard: Guard) -> Result<Running> {
        let now = Now::read();
        let docker = Docker::new(&config.docker, std::env::var_os("DOCKER_HOST"));
        let cgroups = config.docker.cgroups.as_ref().map_or_else(Cgroups::default, |root| Cgroups::at(root, "/proc"));
        let sources = Sources { cgroups, docker, ledger, ..Sources::default() };
        let host = find(&config, &sources)?;
        let pushing = Pushing::new(&config.otlp, &config.web.listen)?;
        let prepared = prepare(config.collectors, &host, &sources, &BTreeMap::new())?;
        let recorder = config.record.as_deref().map(|file| record(file, header(now, &prepared))).transpose()?;
        let watched: Vec<_> = prepared.iter().map(watched).collect();
        let (keeper, kept) = match &config.state.path {
            Some(path) => Keeper::start(path, &host.name(), now),
            None => (None, None),
        };
        let health = match kept {
            Some((kept, away)) => Health::restore(now, watched, pulse::CHECKS, &config.checks, kept, away),
            None => Health::new(now, watched, pulse::CHECKS, &config.checks),
        };
        let seen = prepared
            .iter()
            .map(|one| Seen::nothing(one.subsystem.name, one.plan.interval, health.fresh_for(one.subsystem.name)));
        let notes = [host.notes.clone(), config.otlp.notes.clone()].concat();
        notes.iter().for_each(|note| tracing::warn!("{note}"));
        let mut river = River::new(now, sidecar(now, &host, notes.clone()), seen.collect(), health).recording(recorder);
        if let Some(keeper) = keeper.clone() {
            river.keep(keeper);
        }
        let (readings, taken) = mpsc::channel(64);
        let (orders, ordered) = mpsc::channel(1);
        let (end, ended) = oneshot::channel();
        let current = river.current();
        let (doors, listen) = ([config.web.files(), config.otlp.files()].concat(), config.web.listen);
        let river = tokio::spawn(river.flow(taken, ordered, async { drop(ended.await) }));
        tracing::info!(profile = host.profile.name(), host = %host.name(), "watching");
        let loops = BTreeMap::new();
        let mut running = Running {
            current,
            host,
            docker: config.docker,
            guard,
            notes,
            listen,
            doors,
            sources,
            loops,
            reads: Vec::new(),
            past: BTreeMap::new(),
            readings,
            orders,
            keeper,
            push: None,
            end,
            river,
        };
        running.run_all(prepared);
        running.push(pushing);
        Ok(running)
    }

    /// Files beside our own configuration whose content is configuration too: those of the host that say how it runs, and
    /// what guards the doors.
    pub fn files(&self) -> Vec<PathBuf> {
        [self.host.files(), self.doors.clone()].concat()
    }

    /// Turns to the configuration as it is now. Windows, counters and connections stay; so does every loop whose
    /// configuration is the same.
    ///
    /// # Errors
    /// It is refused, or cannot be read in time: nothing has changed then.
    pub async fn reload(&mut self, load: &Load) -> Result<()> {
        let doors = Arc::new(OnceLock::new());
        let read = self.read(load, doors.clone()).await;
        self.doors = doors.get().cloned().unwrap_or_else(|| std::mem::take(&mut self.doors));
        match read {
            Ok(read) => {
                self.turn(read).await;
                tracing::info!("reloaded");
                Ok(())
            }
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "reload refused: everything stays as it was");
                let (done, told) = oneshot::channel();
                if self.orders.send(Order::Refused(format!("{error:#}"), done)).await.is_ok() {
                    let _ = told.await;
                }
                Err(error)
            }
        }
    }

    /// On a thread of its own: a disk that hangs holds up nobody.
    async fn read(&mut self, load: &Load, doors: Arc<OnceLock<Vec<PathBuf>>>) -> Result<Read> {
        self.reads.retain(|read| !read.is_finished());
        ensure!(self.reads.len() < READS_THAT_HANG, "{READS_THAT_HANG} readings of the configuration hang");
        let (load, old, sources) = (load.clone(), self.host.clone(), self.sources.clone());
        let (docker, listen, keys) = (self.docker.clone(), self.listen.clone(), self.guard.keys());
        let running = self.loops.iter().map(|(name, one)| (*name, one.plan.clone())).collect();
        let mut reading = tokio::task::spawn_blocking(move || {
            let config = load()?;
            let _ = doors.set([config.web.files(), config.otlp.files()].concat());
            let keys = closed(&config.web, &listen, &keys)?;
            let pushing = Pushing::new(&config.otlp, &listen)?;
            Read::new(config, keys, pushing, &old, &docker, &sources, running)
        });
        match tokio::time::timeout(READ_WITHIN, &mut reading).await {
            Ok(read) => read?,
            Err(_) => {
                self.reads.push(reading);
                bail!("the configuration could not be read in time")
            }
        }
    }

    async fn turn(&mut self, read: Read) {
        let Read { host, checks, prepared, keys, pushing, notes } = read;
        serve::warn_if_open(&self.listen, &keys);
        self.guard.change(keys);
        let stays = |name: &str| prepared.iter().any(|one| one.subsystem.name == name && one.pulse.is_none());
        let (kept, ended): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.loops).into_iter().partition(|(name, _)| stays(name));
        self.loops = kept;
        for (name, Loop { stop, task, .. }) in ended {
            let _ = stop.send(());
            self.past.extend(task.await.ok().map(|past| (name, past))); // what it said before is judged before
        }
        let (done, turned) = oneshot::channel();
        let now = Now::read();
        let header = header(now, &prepared);
        notes.iter().filter(|note| !self.notes.contains(note)).for_each(|note| tracing::warn!("{note}"));
        self.notes.clone_from(&notes);
        let turn = Turn { watched: prepared.iter().map(watched).collect(), checks, header, notes, done };
        if self.orders.send(Order::Turn(turn)).await.is_ok() {
            let _ = turned.await;
        }
        self.host = host;
        self.run_all(prepared);
        self.push(pushing);
    }

    /// Pushes there from now on, or nowhere. What goes on as it was keeps its pace, and what its endpoint asked for.
    fn push(&mut self, pushing: Option<Pushing>) {
        let goes_on =
            |push: &Push| !push.task.is_finished() && pushing.as_ref().is_some_and(|new| new.plan == push.plan);
        if self.push.as_ref().is_some_and(goes_on) {
            return;
        }
        if let Some(old) = self.push.take() {
            old.task.abort(); // what is under way breaks off: the next one tells more
        }
        self.sources.pushes.to(pushing.as_ref().map(|pushing| pushing.target.shown()));
        let Some(Pushing { target, plan }) = pushing else { return };
        let (current, pushes, attributes) =
            (self.current.clone(), self.sources.pushes.clone(), plan.attributes.clone());
        let task = tokio::spawn(async move { match otlp::push(current, target, attributes, pushes).await {} });
        self.push = Some(Push { plan, task });
    }

    fn run_all(&mut self, prepared: Vec<Prepared>) {
        for Prepared { subsystem, plan, pulse, .. } in prepared {
            if let Some(pulse) = pulse {
                let pulse = match self.past.remove(subsystem.name) {
                    Some(past) => pulse.after(past),
                    None => pulse,
                };
                let (stop, stopped) = oneshot::channel();
                let task = tokio::spawn(pulse.run(self.readings.clone(), async { drop(stopped.await) }));
                self.loops.insert(subsystem.name, Loop { plan, stop, task });
            }
        }
    }

    /// Lets the river end, and its verdicts be written.
    pub async fn end(self) {
        let _ = self.end.send(());
        if let Some(keeper) = self.keeper
            && self.river.await.is_ok()
            && !keeper.finish(LAST_SAVE)
        {
            tracing::warn!("the state file could not be written in time");
        }
    }
}

/// A configuration that fits, and what is to be started by it.
struct Read {
    host: Host,
    checks: agenthost_exporter::health::Settings,
    prepared: Vec<Prepared>,
    keys: Keys,
    pushing: Option<Pushing>,
    notes: Vec<String>,
}

/// Pushes that are made, and by which plan.
struct Push {
    plan: PushPlan,
    task: JoinHandle<()>,
}

/// What makes pushes other ones.
#[derive(PartialEq)]
struct PushPlan {
    config: source::otlp::Config,
    contents: Vec<Vec<u8>>,
    attributes: BTreeMap<String, String>,
}

/// Where pushes go, and by which plan.
struct Pushing {
    target: Target,
    plan: PushPlan,
}

impl Pushing {
    fn new(config: &source::otlp::Config, listen: &[SocketAddr]) -> Result<Option<Pushing>> {
        let Some(target) = config.target().map_err(crate::refused)? else { return Ok(None) };
        let contents = config.contents().map_err(crate::refused)?;
        let plan = PushPlan { config: config.clone(), contents, attributes: config.attributes(listen) };
        Ok(Some(Pushing { target, plan }))
    }
}

/// The keys of another configuration, if they lock what was locked.
fn closed(web: &serve::Config, listen: &[SocketAddr], old: &Keys) -> Result<Keys> {
    if web.listen != listen {
        tracing::warn!("the addresses to listen on have changed: that takes a restart");
    }
    let keys = Keys::read(web, Some(old))?;
    keys.keep_closed(old).context("[web]")?;
    Ok(keys)
}

impl Read {
    fn new(
        config: Config,
        keys: Keys,
        pushing: Option<Pushing>,
        old: &Host,
        docker: &docker::Config,
        sources: &Sources,
        running: BTreeMap<&'static str, Paced>,
    ) -> Result<Read> {
        let host = find(&config, sources)?;
        if config.docker != *docker {
            tracing::warn!("[docker] has changed: that takes a restart");
        }
        if (host.profile, host.name()) != (old.profile, old.name()) {
            bail!("it names another host ({}): restart to watch that one", host.name());
        }
        let running = if host == *old { running } else { BTreeMap::new() };
        let prepared = prepare(config.collectors, &host, sources, &running)?;
        let notes = [host.notes.clone(), config.otlp.notes].concat();
        Ok(Read { host, checks: config.checks, prepared, keys, pushing, notes })
    }
}

fn find(config: &Config, sources: &Sources) -> Result<Host> {
    let folder = std::env::current_dir().context("find the current folder")?;
    host::find(&config.host, &sources.processes, &folder).map_err(crate::refused)
}

/// Builds what does not run already by the same configuration.
fn prepare(
    planned: Vec<Planned>,
    host: &Host,
    sources: &Sources,
    running: &BTreeMap<&'static str, Paced>,
) -> Result<Vec<Prepared>> {
    let mut prepared = Vec::new();
    for Planned { subsystem, interval, timeout, settings, build } in planned {
        let interval = interval.unwrap_or_else(|| subsystem.interval(host));
        let (plan, checks) = (Paced { interval, timeout, settings }, subsystem.checks_of(host));
        if running.get(subsystem.name) == Some(&plan) {
            prepared.push(Prepared { subsystem, checks, plan, pulse: None });
            continue;
        }
        let pulse = Pulse::new(subsystem.name, interval, timeout, build, host, sources).map_err(crate::refused)?;
        let pulse = pulse.map(|pulse| pulse.retrying(subsystem.retry));
        prepared.extend(pulse.map(|pulse| Prepared { subsystem, checks, plan, pulse: Some(pulse) }));
    }
    Ok(prepared)
}

fn record(file: &Path, header: record::Header) -> Result<Recorder> {
    let recorder = Recorder::start(file, header).map_err(crate::refused)?;
    tracing::info!(file = %file.display(), "recording");
    Ok(recorder)
}

fn header(now: Now, prepared: &[Prepared]) -> record::Header {
    let paces = prepared.iter().map(|one| (one.subsystem.name, one.plan.interval, one.plan.timeout));
    record::Header::new(now, env!("CARGO_PKG_VERSION"), paces)
}

fn watched(one: &Prepared) -> Watched {
    let Prepared { subsystem, checks, plan, .. } = one;
    Watched { name: subsystem.name, interval: plan.interval, timeout: plan.timeout, checks: checks.clone() }
}

fn sidecar(now: Now, host: &Host, notes: Vec<String>) -> Sidecar {
    Sidecar {
        version: env!("CARGO_PKG_VERSION"),
        arch: std::env::consts::ARCH,
        profile: host.profile,
        root: host.root.as_ref().map(|root| root.display().to_string()),
        notes,
        started_at: now.wall,
    }
}
