//! argv -> configuration -> wire the river -> wait for a signal.

mod cli;

use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use agenthost_exporter::collect::Subsystem;
use agenthost_exporter::config::{Config, Planned};
use agenthost_exporter::health::{Health, Watched};
use agenthost_exporter::host::{self, Host};
use agenthost_exporter::pulse::{self, Pulse};
use agenthost_exporter::sample::Now;
use agenthost_exporter::serve;
use agenthost_exporter::show::{Show, status};
use agenthost_exporter::snapshot::keeper::Keeper;
use agenthost_exporter::snapshot::{Current, River, Seen, Sidecar, Snapshot};
use agenthost_exporter::source::Sources;
use agenthost_exporter::source::cgroup::Cgroups;
use agenthost_exporter::source::docker::Docker;
use agenthost_exporter::source::record::{self, Recorder};
use agenthost_exporter::tool::{self, demo};
use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use cli::{Cli, Command, ConfigAction, Flags};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// The configuration is wrong, or does not fit this machine.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log(&cli.flags);
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agenthost-exporter: {error:#}");
            ExitCode::from(if error.is::<Refused>() { REFUSED } else { 1 })
        }
    }
}

/// Marks an error that no restart can mend.
#[derive(Debug)]
struct Refused(anyhow::Error);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.0)
    }
}

impl std::error::Error for Refused {}

fn refused(error: anyhow::Error) -> anyhow::Error {
    Refused(error).into()
}

fn run(cli: &Cli) -> Result<()> {
    match &cli.command {
        Some(Command::Metrics { format }) => print(&tool::metrics::render(*format)?),
        Some(Command::DemoHost { root, port }) => demo::host(root, *port),
        Some(Command::Config { action: ConfigAction::Check }) => check(&cli.flags),
        Some(Command::Replay { files }) => replay(&cli.flags, files),
        Some(Command::Demo) => with_demo(&cli.flags),
        None => watch(configure(&cli.flags)?, cli.flags.once, ""),
    }
}

/// A closed pipe is the reader's business.
fn print(text: &str) -> Result<()> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}

fn configure(flags: &Flags) -> Result<Config> {
    let config = Config::load(flags.config_file.as_deref()).map(|config| flags.over(config)).map_err(refused)?;
    config.host.validate().map_err(refused)?;
    Ok(config)
}

fn check(flags: &Flags) -> Result<()> {
    let config = configure(flags)?;
    let folder = std::env::current_dir().context("find the current folder")?;
    if let Some(doubt) = config.host.doubt(&folder) {
        eprintln!("agenthost-exporter: warning: it would not start here now: {doubt:#}");
    }
    print("the configuration is good\n")
}

fn replay(flags: &Flags, files: &[PathBuf]) -> Result<()> {
    let config = configure(flags)?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let broken = tool::replay::run(&config.checks, files, &mut out, &mut std::io::stderr()).map_err(refused)?;
    ensure!(broken == 0, "{broken} lines of the record could not be read and were skipped");
    Ok(())
}

fn with_demo(flags: &Flags) -> Result<()> {
    let mut config = configure(flags)?;
    let demo = demo::Demo::start(0)?;
    config.host.root = Some(demo.root().to_owned());
    config.host.url = Some(demo.url().to_owned());
    config.host.profile = Some(host::Profile::Pynchy);
    config.host.status_poll = host::StatusPoll::Every(demo::STATUS_POLL);
    config.state.path = flags.state_path.clone(); // a file's may be of a real host
    config.collectors.retain(|planned| !demo::WITHOUT.contains(&planned.subsystem.name));
    let addresses: Vec<String> = config.web.listen.iter().map(|address| format!("http://{address}/")).collect();
    let open = format!("Open {}; Ctrl-C ends both and removes the folder.\n", addresses.join(" or "));
    watch(config, flags.once, &(demo.story() + &open))
}

/// Runs until a signal; prints `hello` once it listens. Threads that hang in a source are left behind: they must not keep
/// the process.
fn watch(mut config: Config, once: bool, hello: &str) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let ended = runtime.block_on(async {
        let stop = signals()?;
        let listeners = if once { Vec::new() } else { listen(&config.web).await? };
        if once {
            // It looks once and leaves: the verdicts of a sidecar that stays are not its own.
            config.state.path = None;
            let running = wire(config)?;
            return tokio::select! {
                printed = print_once(&running.current) => printed,
                () = stop => bail!("interrupted before every collector had looked"),
            };
        }
        let running = wire(config)?;
        print(hello)?;
        let served = serve_until(stop, listeners, &running.current).await;
        running.end().await;
        served
    });
    runtime.shutdown_background();
    ended
}

/// A river that flows.
struct Running {
    current: Current,
    keeper: Option<Keeper>,
    end: tokio::sync::oneshot::Sender<()>,
    river: tokio::task::JoinHandle<()>,
}

/// A stop waits so long for the verdicts to be written; the disk may hang.
const LAST_SAVE: Duration = Duration::from_secs(1);

impl Running {
    async fn end(self) {
        let _ = self.end.send(());
        if let Some(keeper) = self.keeper
            && self.river.await.is_ok()
            && !keeper.finish(LAST_SAVE)
        {
            tracing::warn!("the state file could not be written in time");
        }
    }
}

async fn listen(web: &serve::Config) -> Result<Vec<tokio::net::TcpListener>> {
    let mut listeners = Vec::new();
    for &address in &web.listen {
        listeners.push(serve::listen(address).await?);
    }
    Ok(listeners)
}

/// Starts every collector's loop and the river they flow into.
fn wire(config: Config) -> Result<Running> {
    let now = Now::read();
    let docker = Docker::new(&config.docker, std::env::var_os("DOCKER_HOST"));
    let cgroups = config.docker.cgroups.as_ref().map_or_else(Cgroups::default, |root| Cgroups::at(root, "/proc"));
    let sources = Sources { cgroups, docker, ..Sources::default() };
    let folder = std::env::current_dir().context("find the current folder")?;
    let host = host::find(&config.host, &sources.processes, &folder).map_err(refused)?;
    let mut pulses = Vec::new();
    for Planned { subsystem, interval, timeout, build } in config.collectors {
        let interval = interval.unwrap_or_else(|| subsystem.interval(&host));
        let pulse = Pulse::new(subsystem.name, interval, timeout, build, &host, &sources).map_err(refused)?;
        pulses.extend(pulse.map(|pulse| (subsystem, pulse.retrying(subsystem.retry))));
    }
    let recorder = config.record.as_deref().map(|file| Recorder::start(file, header(now, &pulses)));
    let recorder = recorder.transpose().map_err(refused)?;
    if let Some(file) = &config.record {
        tracing::info!(file = %file.display(), "recording");
    }
    let watched = pulses.iter().map(|(subsystem, pulse)| watched(subsystem.checks, pulse)).collect();
    let (keeper, kept) = match &config.state.path {
        Some(path) => Keeper::start(path, &host.name(), now),
        None => (None, None),
    };
    let health = match kept {
        Some((kept, away)) => Health::restore(now, watched, pulse::CHECKS, &config.checks, kept, away),
        None => Health::new(now, watched, pulse::CHECKS, &config.checks),
    };
    let seen =
        pulses.iter().map(|(_, pulse)| Seen::nothing(pulse.name(), pulse.interval, health.fresh_for(pulse.name())));
    let river = River::new(now, sidecar(now, &host), seen.collect(), health);
    let mut river = river.recording(recorder);
    let current = river.current();
    if let Some(keeper) = keeper.clone() {
        river.keep(keeper);
    }
    let (sender, readings) = mpsc::channel(64);
    for (_, pulse) in pulses {
        tokio::spawn(pulse.run(sender.clone()));
    }
    let (end, ended) = tokio::sync::oneshot::channel();
    let river = tokio::spawn(river.flow(readings, async { drop(ended.await) }));
    host.notes.iter().for_each(|note| tracing::warn!("{note}"));
    tracing::info!(profile = host.profile.name(), host = %host.name(), "watching");
    Ok(Running { current, keeper, end, river })
}

fn header(now: Now, pulses: &[(&Subsystem, Pulse)]) -> record::Header {
    let paces = pulses.iter().map(|(_, pulse)| (pulse.name(), pulse.interval, pulse.timeout));
    record::Header::new(now, env!("CARGO_PKG_VERSION"), paces)
}

fn watched(checks: &'static [agenthost_exporter::fact::Check], pulse: &Pulse) -> Watched {
    Watched { name: pulse.name(), interval: pulse.interval, timeout: pulse.timeout, checks: checks.iter().collect() }
}

fn sidecar(now: Now, host: &Host) -> Sidecar {
    Sidecar {
        version: env!("CARGO_PKG_VERSION"),
        arch: std::env::consts::ARCH,
        profile: host.profile,
        root: host.root.as_ref().map(|root| root.display().to_string()),
        notes: host.notes.clone(),
        started_at: now.wall,
    }
}

async fn serve_until(
    stop: impl Future<Output = ()>,
    listeners: Vec<tokio::net::TcpListener>,
    current: &Current,
) -> Result<()> {
    let show = Show::new(current)?;
    let (ending, _) = tokio::sync::watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    for listener in listeners {
        tracing::info!(address = %listener.local_addr()?, "listening");
        let mut ended = ending.subscribe();
        let stop = async move { drop(ended.wait_for(|ended| *ended).await) };
        servers.spawn(serve::serve(listener, show.clone(), stop));
    }
    stop.await;
    ending.send_replace(true);
    servers.join_all().await;
    Ok(())
}

/// Waits until every collector has looked once; each answers within its time-out.
async fn print_once(current: &Current) -> Result<()> {
    let seen = |snapshot: &Snapshot| snapshot.collectors.iter().all(|seen| seen.last.is_some());
    while !seen(&current.get()) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let json = serde_json::to_string_pretty(&status::Status(&current.get()))?;
    print(&(json + "\n"))
}

/// Resolves at SIGTERM or SIGINT; the handlers stand before this returns.
fn signals() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        }
    })
}

fn log(flags: &Flags) {
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::prelude::*;
    let level = match flags.log_level {
        cli::Level::Debug => LevelFilter::DEBUG,
        cli::Level::Info => LevelFilter::INFO,
        cli::Level::Warn => LevelFilter::WARN,
        cli::Level::Error => LevelFilter::ERROR,
    };
    let registry = tracing_subscriber::registry().with(level);
    match flags.log_format {
        cli::Format::Logfmt => registry.with(tracing_logfmt::builder().layer().with_writer(std::io::stderr)).init(),
        cli::Format::Json => {
            registry.with(tracing_subscriber::fmt::layer().json().with_writer(std::io::stderr)).init();
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        // Where, but not what: a panic's words may quote what was read.
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place = place.as_deref(), "panic: a defect of this program");
    }));
}
