//! `doctor`: finds what there is to examine, lets the program's own river look once, and hands what it saw to the tool.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use agenthost_exporter::config::{Config, DEFAULT_FILE};
use agenthost_exporter::host::{self, Host, StatusPoll, pynchy};
use agenthost_exporter::serve::{self, Guard, Keys};
use agenthost_exporter::source::Sources;
use agenthost_exporter::source::budget::Ledger;
use agenthost_exporter::source::docker::Docker;
use agenthost_exporter::source::otlp;
use agenthost_exporter::source::rights::Us;
use agenthost_exporter::tool::doctor::{self, Checkup, Question, found, written};
use anyhow::{Context, Result};

use crate::cli::Flags;
use crate::run::Running;
use crate::{all_seen, configure, print, refused, signals};

/// # Errors
/// It would not start: no host, more than one, or a configuration that is wrong.
pub fn run(flags: &Flags, question: &Question) -> Result<ExitCode> {
    let config = configure(flags)?;
    let here = std::env::current_dir().context("find the current folder")?;
    let found = if flags.names_a_host() { None } else { Some(discover(&config, &here)?) };
    let config = match &found {
        None => config,
        Some(found) => {
            if !question.json {
                print(found::render(found) + "\n")?;
            } else if found.only().is_err() {
                print(serde_json::to_string_pretty(found)? + "\n")?;
            }
            of(config, found.only().map_err(refused)?)
        }
    };
    match doctor::target(question, Path::new(DEFAULT_FILE)) {
        Some(file) => write(flags, &config, &here, file, question.force),
        None => examine(config, &here, question),
    }
}

fn discover(config: &Config, here: &Path) -> Result<found::Found> {
    let docker = Docker::new(&config.docker, std::env::var_os("DOCKER_HOST"));
    let sources = Sources { docker, ..Sources::default() };
    let home = std::env::var_os("HOME").map(PathBuf::from);
    found::look(&sources, here, home.as_deref())
}

/// The configuration by which this one is watched.
fn of(mut config: Config, found: &found::Host) -> Config {
    config.host.profile = Some(found.spotted.profile);
    config.host.root = found.spotted.root.clone();
    config.host.state_file = found.spotted.state_file.clone().or(config.host.state_file);
    config
}

fn locate(config: &Config, here: &Path) -> Result<Host> {
    host::find(&config.host, &Sources::default().processes, here).map_err(refused)
}

fn write(flags: &Flags, config: &Config, here: &Path, file: &Path, force: bool) -> Result<ExitCode> {
    let host = locate(config, here)?;
    let listen = config.web.listen.iter().map(ToString::to_string).collect();
    let told = written::Told {
        state_file: config.host.state_file.as_deref(),
        url: config.host.url.as_deref(),
        listen: (!flags.web_listen_address.is_empty()).then_some(listen),
        state: config.state.path.as_deref().map(std::path::absolute).transpose()?,
        pid_file: config.host.pid_file.as_deref(),
        process: config.host.process.as_deref(),
        token_file: config.host.token_file.as_deref(),
        web_config: config.web.config_file.as_deref().map(std::path::absolute).transpose()?,
    };
    let text = written::text(&host, &told)?;
    Config::parse(&text, &file.display().to_string()).context("a defect of this program")?;
    written::write(file, &text, force)?;
    print(format!("wrote {}\n", file.display()))?;
    Ok(ExitCode::SUCCESS)
}

/// It looks once and leaves: verdicts, the record, the budget and the pushes of a sidecar that stays are not its own. What
/// somebody would be billed for is not asked, whatever that sidecar may.
fn examine(mut config: Config, here: &Path, question: &Question) -> Result<ExitCode> {
    config.otlp.target().map_err(crate::refused)?;
    config.otlp = otlp::Config::default();
    let bill = locate(&config, here)?.gateway.as_ref().and_then(pynchy::why_status_costs);
    if bill.is_some() {
        (config.host.status_poll, config.host.status_interval) = (StatusPoll::Never, None);
    }
    let ledger = config.state.path.as_deref().map(|state| Ledger::beside(state).shut());
    (config.state.path, config.record) = (None, None);
    let host = locate(&config, here)?;
    let planned: Vec<&str> = config.collectors.iter().map(|planned| planned.subsystem.name).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let looked = runtime.block_on(async {
        let stop = signals()?;
        let guard = Guard::new(Keys::read(&serve::Config::default(), None)?); // nobody comes
        let running = Running::start(config, ledger, guard)?;
        tokio::select! {
            () = all_seen(&running.current) => Ok(running.current.get()),
            () = stop => anyhow::bail!("interrupted before every collector had looked"),
        }
    });
    runtime.shutdown_background();
    let checkup = Checkup::of(&*looked?, &planned, &host, &Us::now());
    match question.json {
        true => print(serde_json::to_string_pretty(&checkup)? + "\n")?,
        false => print(doctor::render(&checkup))?,
    }
    Ok(ExitCode::from(checkup.code() as u8))
}
