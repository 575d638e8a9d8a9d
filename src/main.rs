//! argv -> configuration -> wire the river -> wait for a signal.

mod cli;
mod examine;
mod file;
mod heap;
mod log;
mod notify;
mod run;
mod short;

use std::convert::Infallible;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use agenthost_exporter::config::Config;
use agenthost_exporter::host;
use agenthost_exporter::serve::{self, Guard, Keys, Server};
use agenthost_exporter::show::{self, Show};
use agenthost_exporter::snapshot::{Current, Snapshot};
use agenthost_exporter::source::budget::Ledger;
use agenthost_exporter::source::otlp;
use agenthost_exporter::tool::{self, demo, healthcheck, install, nagios, status};
use anyhow::{Context, Result, bail, ensure};
use cli::{Cli, Command, ConfigAction, Flags};
use file::Watched;
use log::Log;
use run::{Load, Running};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// Whose memory can be told apart, with --web.enable-pprof.
#[cfg(feature = "heap-profile")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Read by the allocator before `main`: a sample each 64 KiB, none until it is switched on. There are a few megabytes in all.
#[cfg(feature = "heap-profile")]
#[allow(non_upper_case_globals)]
#[unsafe(export_name = "malloc_conf")]
pub static malloc_conf: &[u8] = b"prof:true,prof_active:false,lg_prof_sample:16\0";

/// Else the system's, with an end that can be read: the standard library would abort, and leave a core behind.
#[cfg(not(feature = "heap-profile"))]
#[global_allocator]
static ALLOCATOR: short::OrEnd = short::OrEnd;

/// The configuration is wrong, or does not fit this machine.
const REFUSED: u8 = 2;

fn main() -> ExitCode {
    heap::one();
    all_files();
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    begin_log(&cli.flags, matches!(cli.command, Some(Command::Doctor(_))));
    let _end = log::End;
    run(&cli).unwrap_or_else(|error| {
        log::say(format!("agenthost-exporter: {error:#}\n").as_bytes());
        ExitCode::from(if error.is::<Refused>() { REFUSED } else { 1 })
    })
}

/// Raises the limit of open files as far as we may: 1024 is for programs that still use select(2).
fn all_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }); // or it stays as it was
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

fn run(cli: &Cli) -> Result<ExitCode> {
    let flags = &cli.flags;
    match &cli.command {
        Some(Command::Healthcheck(question)) => return healthcheck(flags, question),
        Some(Command::Nagios(question)) => {
            let (code, line) = nagios::run(question, || flags.own());
            // A verdict that nobody could read is none.
            return Ok(match print(format!("{line}\n")) {
                Ok(()) => ExitCode::from(code as u8),
                Err(_) => ExitCode::from(3),
            });
        }
        Some(Command::Doctor(question)) => return examine::run(flags, question),
        Some(Command::Status(question)) => {
            return status::run(question, || flags.own())
                .map(|read| if read { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Some(Command::Supervise) => return supervise(),
        Some(Command::Install { folder }) => print(format!("{}\n", install::run(folder)?.display()))?,
        Some(Command::Metrics { format }) => print(&tool::metrics::render(*format)?)?,
        Some(Command::DemoHost { root, port, gateway_port }) => demo::host(root, *port, *gateway_port)?,
        Some(Command::DemoWorker { part }) => demo::worker(part)?,
        Some(Command::Completions { shell }) => print(Cli::completions(*shell))?,
        Some(Command::Man) => print(Cli::man()?)?,
        Some(Command::Config { action: ConfigAction::Check }) => check(flags)?,
        Some(Command::Replay { files }) => replay(flags, files)?,
        Some(Command::Demo) => with_demo(flags)?,
        None => {
            let own = flags.clone();
            watch(flags, Arc::new(move || configure(&own)), "")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A closed pipe is the reader's business.
fn print(text: impl AsRef<[u8]>) -> Result<()> {
    match std::io::stdout().write_all(text.as_ref()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}

fn configure(flags: &Flags) -> Result<Config> {
    let mut config = Config::load(flags.config_file.as_deref()).map(|config| flags.over(config)).map_err(refused)?;
    config.otlp = config.otlp.over(|name| Some(std::env::var_os(name)?.to_string_lossy().into_owned()));
    config.host.validate().map_err(refused)?;
    Ok(config)
}

/// Whatever is wrong is a line on standard output: callers show no other.
fn healthcheck(flags: &Flags, question: &healthcheck::Question) -> Result<ExitCode> {
    let found = healthcheck::run(question, || flags.own()).unwrap_or_else(healthcheck::Found::refused);
    let _ = print(format!("{}\n", found.line)); // the code is what counts
    Ok(if found.well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The flags are handed on as they were written; that they can be meant is known here already.
fn supervise() -> Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    ensure!(words.next().is_some_and(|word| word == "supervise"), "write `supervise` first, and the flags behind it");
    let program = std::env::current_exe().context("find this program")?;
    tool::supervise::run(&program, &words.collect::<Vec<_>>())
}

fn check(flags: &Flags) -> Result<()> {
    let config = configure(flags)?;
    Keys::read(&config.web, None).map_err(refused)?;
    config.otlp.target().map_err(refused)?;
    let folder = std::env::current_dir().context("find the current folder")?;
    if let Some(doubt) = config.host.doubt(&folder) {
        log::say(format!("agenthost-exporter: warning: it would not start here now: {doubt:#}\n").as_bytes());
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
    let demo = demo::Demo::start(0)?;
    let (root, url, own) = (demo.root().to_owned(), demo.url().to_owned(), flags.clone());
    let gateway = demo.gateway();
    let load = move || {
        let mut config = configure(&own)?;
        config.host.root = Some(root.clone());
        config.host.url = Some(url.clone());
        config.host.profile = Some(host::Profile::Pynchy);
        config.host.status_poll = host::StatusPoll::Every(demo::STATUS_POLL);
        config.state.path = own.state_path.clone(); // a file's may be of a real host
        config.otlp = otlp::Config::default(); // and so may its endpoint
        config.collectors.retain(|planned| !demo::WITHOUT.contains(&planned.subsystem.name));
        for planned in config.collectors.iter_mut().filter(|planned| planned.subsystem.name == "workers") {
            planned.build = demo::watched_by(planned.subsystem)?;
        }
        config.replan("gateway", &gateway)?;
        Ok(config)
    };
    let web = load()?.web;
    let scheme = if Keys::read(&web, None).map_err(refused)?.tls.is_some() { "https" } else { "http" };
    let addresses: Vec<String> = web.listen.iter().map(|address| format!("{scheme}://{address}/")).collect();
    let open = format!("Open {}; Ctrl-C ends both and removes the folder.\n", addresses.join(" or "));
    watch(flags, Arc::new(load), &(demo.story() + &open))
}

/// Runs until a signal; prints `hello` once it listens. Threads that hang in a source are left behind: they must not keep
/// the process.
fn watch(flags: &Flags, load: Load, hello: &str) -> Result<()> {
    short::of_threads()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("start the runtime")?;
    let ended = runtime.block_on(async {
        let config = load()?;
        match flags.once {
            true => look_once(config).await,
            false => serve(flags, config, &load, hello).await,
        }
    });
    runtime.shutdown_background();
    ended
}

/// It looks once and leaves: the verdicts and the record of a sidecar that stays are not its own.
async fn look_once(mut config: Config) -> Result<()> {
    let ledger = ledger(&config);
    (config.state.path, config.record, config.otlp) = (None, None, otlp::Config::default());
    let stop = signals()?;
    let guard = Guard::new(Keys::read(&serve::Config::default(), None)?); // nobody comes
    let running = Running::start(config, ledger, guard)?;
    tokio::select! {
        printed = print_once(&running.current) => printed,
        () = stop => bail!("interrupted before every collector had looked"),
    }
}

/// What was spent on paid questions stands beside the state file.
fn ledger(config: &Config) -> Option<Ledger> {
    config.state.path.as_deref().map(Ledger::beside)
}

async fn serve(flags: &Flags, config: Config, load: &Load, hello: &str) -> Result<()> {
    let (stop, hangup) = (signals()?, signal(SignalKind::hangup())?);
    let mut watched = Watched::new(flags.config_file.as_deref());
    watched.mark(config.web.files()).await;
    let keys = Keys::read(&config.web, None).map_err(refused)?;
    serve::warn_if_open(&config.web.listen, &keys);
    let guard = Guard::new(keys);
    let server = Server::listen(&config.web, guard.clone(), flags.web_enable_pprof).await?;
    let ledger = ledger(&config);
    let mut running = Running::start(config, ledger, guard)?;
    let (ask, asked) = mpsc::channel(1);
    let show = Show::new(&running.current, flags.web_enable_lifecycle.then_some(ask), flags.web_enable_pprof);
    print(hello)?;
    tokio::spawn(notify::of(running.current.clone()));
    tokio::select! {
        () = server.serve(show, stop) => {}
        never = reload_whenever(&mut running, load, hangup, asked, watched) => match never {},
        never = heap::trim() => match never {},
    }
    running.end().await;
    Ok(())
}

/// At a SIGHUP, when somebody asks for it, and when the file has changed.
async fn reload_whenever(
    running: &mut Running,
    load: &Load,
    mut hangup: Signal,
    mut asked: mpsc::Receiver<oneshot::Sender<Result<(), String>>>,
    mut file: Watched,
) -> Infallible {
    file.add(running.files()).await;
    loop {
        let answer = tokio::select! {
            _ = hangup.recv() => None,
            Some(answer) = asked.recv() => Some(answer),
            () = file.changed() => None,
        };
        file.mark(running.files()).await;
        notify::reading();
        let reloaded = running.reload(load).await;
        notify::read();
        file.watch(running.files());
        if let Some(answer) = answer {
            let _ = answer.send(reloaded.map_err(|error| format!("{error:#}"))); // or nobody waits any more
        }
    }
}

async fn print_once(current: &Current) -> Result<()> {
    all_seen(current).await;
    let json = serde_json::to_string_pretty(&show::status::Status(&current.get()))?;
    print(json + "\n")
}

/// Waits until every collector has looked once; each answers within its time-out.
async fn all_seen(current: &Current) {
    let seen = |snapshot: &Snapshot| snapshot.collectors.iter().all(|seen| seen.last.is_some());
    while !seen(&current.get()) {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Resolves at SIGTERM or SIGINT, and ends the process at a second one; the handlers stand before this returns.
fn signals() -> Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut next = async move || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    Ok(async move {
        let first = next().await;
        tracing::info!("{first}: stopping");
        notify::stopping();
        tokio::spawn(async move {
            let second = next().await;
            tracing::warn!("{second}: ending at once");
            log::end();
            std::process::exit(1);
        });
    })
}

/// `quiet`: what is wrong is said in another way.
fn begin_log(flags: &Flags, quiet: bool) {
    use tracing_subscriber::filter::LevelFilter;
    use tracing_subscriber::prelude::*;
    let level = match flags.log_level {
        cli::Level::Debug => LevelFilter::DEBUG,
        cli::Level::Info if quiet => LevelFilter::ERROR,
        cli::Level::Info => LevelFilter::INFO,
        cli::Level::Warn => LevelFilter::WARN,
        cli::Level::Error => LevelFilter::ERROR,
    };
    let registry = tracing_subscriber::registry().with(level);
    match flags.log_format {
        cli::Format::Logfmt => registry.with(tracing_logfmt::builder().layer().with_writer(|| Log)).init(),
        cli::Format::Json => registry.with(tracing_subscriber::fmt::layer().json().with_writer(|| Log)).init(),
    }
    std::panic::set_hook(Box::new(|panic| {
        short::of_stacks(panic);
        // Where, but not what: a panic's words may quote what was read.
        let place = panic.location().map(ToString::to_string);
        tracing::error!(place = place.as_deref(), "panic: a defect of this program");
    }));
}
