//! Flags and subcommands.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use agenthost_exporter::config::{Config, DEFAULT_FILE};
use agenthost_exporter::host::Profile;
use agenthost_exporter::tool::ask::Own;
use agenthost_exporter::tool::{doctor, healthcheck, nagios, status};
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};

const NAME: &str = "agenthost-exporter";

/// A sidecar for AI-agent hosts: samples everything the host depends on, from outside, and says the truth about it to
/// Prometheus, to Kubernetes and to people.
#[derive(Debug, Parser)]
#[command(name = NAME, version, max_term_width = 120)]
pub struct Cli {
    #[command(flatten)]
    pub flags: Flags,
    #[command(subcommand)]
    pub command: Option<Command>,
}

impl Cli {
    /// What this shell completes a command line with.
    pub fn completions(shell: clap_complete::Shell) -> String {
        let (all, mut text) = (Cli::command(), Vec::new());
        // It would offer those that are hidden too.
        let shown = all.get_subcommands().filter(|sub| !sub.is_hide_set()).cloned();
        let mut own = clap::Command::new(NAME).version(env!("CARGO_PKG_VERSION"));
        own = own.args(all.get_arguments().cloned()).subcommands(shown);
        clap_complete::generate(shell, &mut own, NAME, &mut text);
        // clap_complete 4.6.11 spells the hyphen of our name in two ways in its script for bash.
        String::from_utf8_lossy(&text).replace("agenthost__subcmd__exporter", "agenthost__exporter")
    }

    /// The page of roff for the program, with every command that is not hidden.
    ///
    /// # Errors
    /// Never in practice: it is written to memory.
    pub fn man() -> std::io::Result<Vec<u8>> {
        let mut command = Cli::command();
        command.build();
        let mut page = Vec::new();
        clap_mangen::Man::new(command.clone()).render(&mut page)?;
        let shown = |sub: &&clap::Command| !sub.is_hide_set() && sub.get_name() != "help";
        for sub in command.get_subcommands().filter(shown) {
            page.extend(man_of(sub)?);
        }
        Ok(page)
    }

    /// Reads the command line; what cannot be meant is told on standard error.
    ///
    /// # Errors
    /// The code to leave with: 0 after help, 2 in general, and for the probes what their callers know of codes.
    pub fn read() -> Result<Cli, ExitCode> {
        let error = match Cli::try_parse() {
            Ok(cli) => return Ok(cli),
            Err(error) => error,
        };
        let _ = error.print();
        if !error.use_stderr() {
            return Err(ExitCode::SUCCESS);
        }
        // A second look that takes what it understands: which command was meant.
        let lenient = Cli::command().ignore_errors(true).try_get_matches();
        let meant = lenient.ok().and_then(|matches| matches.subcommand_name().map(str::to_owned)).or_else(|| {
            let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
            let is_command = |pair: &&[String]| PROBES.contains(&&*pair[1]) && !takes_the_next(&pair[0]);
            words.windows(2).find(is_command).map(|pair| pair[1].clone())
        });
        let told = error.to_string();
        let why = told.lines().take_while(|line| !line.is_empty()).map(str::trim).collect::<Vec<_>>().join(" ");
        Err(match meant.as_deref() {
            // Their callers show standard output, and know no 2.
            Some("healthcheck") => {
                let _ = writeln!(std::io::stdout(), "failed: {why}");
                ExitCode::FAILURE
            }
            Some("nagios") => {
                let (code, line) = nagios::unknown(&why);
                let _ = writeln!(std::io::stdout(), "{line}");
                ExitCode::from(code as u8)
            }
            Some("status") => ExitCode::FAILURE,
            _ => ExitCode::from(2),
        })
    }
}

/// Commands whose callers know codes of their own.
const PROBES: [&str; 3] = ["healthcheck", "nagios", "status"];

/// Whether a word is a flag whose value is the word behind it.
fn takes_the_next(word: &str) -> bool {
    let Some(name) = word.strip_prefix("--") else { return false };
    let command = Cli::command();
    command.get_arguments().any(|flag| flag.get_long() == Some(name) && flag.get_action().takes_values())
}

/// The section of a command: what all commands take stands above.
fn man_of(sub: &clap::Command) -> std::io::Result<Vec<u8>> {
    let own = sub.clone().mut_args(|argument| if argument.is_global_set() { argument.hide(true) } else { argument });
    let man = clap_mangen::Man::new(own);
    let mut part = Vec::new();
    man.render_synopsis_section(&mut part)?;
    man.render_description_section(&mut part)?;
    man.render_options_section(&mut part)?;
    // They are sections of a page of their own.
    let part = String::from_utf8_lossy(&part).replace("\n.SH ", "\n.SS ");
    Ok(format!(".SH \"COMMAND {}\"\n{part}", sub.get_name().to_uppercase()).into_bytes())
}

/// Flags win over the environment, the environment over the file.
#[derive(Debug, Clone, Args)]
pub struct Flags {
    /// The TOML file; without it /etc/agenthost-exporter/config.toml is read if it exists.
    #[arg(long = "config.file", env = "AGENTHOST_CONFIG_FILE", value_name = "FILE", global = true)]
    pub config_file: Option<PathBuf>,
    /// The folder that the host runs in; without it the current folder or the one host that runs here.
    #[arg(long = "host.root", env = "AGENTHOST_HOST_ROOT", value_name = "FOLDER", global = true)]
    pub host_root: Option<PathBuf>,
    /// The kind of host.
    #[arg(long = "host.profile", env = "AGENTHOST_HOST_PROFILE", value_name = "PROFILE", global = true)]
    pub host_profile: Option<ProfileName>,
    /// The base of the host's HTTP API.
    #[arg(long = "host.url", env = "AGENTHOST_HOST_URL", hide_env_values = true, value_name = "URL", global = true)]
    pub host_url: Option<String>,
    /// The file in which verdicts outlive a restart; without it they do not.
    #[arg(long = "state.path", env = "AGENTHOST_STATE_PATH", value_name = "FILE", global = true)]
    pub state_path: Option<PathBuf>,
    /// An address to listen on; may be given more than once.
    #[arg(long = "web.listen-address", env = "AGENTHOST_WEB_LISTEN_ADDRESS", value_name = "ADDRESS", value_delimiter = ',', value_parser = address, global = true)]
    pub web_listen_address: Vec<SocketAddr>,
    /// TLS, users, headers and a rate: the YAML that Prometheus' own exporters read.
    #[arg(long = "web.config.file", env = "AGENTHOST_WEB_CONFIG_FILE", value_name = "FILE", global = true)]
    pub web_config_file: Option<PathBuf>,
    /// Lets POST /-/reload read the configuration anew, as SIGHUP always does.
    #[arg(long = "web.enable-lifecycle", env = "AGENTHOST_WEB_ENABLE_LIFECYCLE", global = true)]
    pub web_enable_lifecycle: bool,
    /// Lets a profile of this program be taken at /debug/pprof/.
    #[arg(long = "web.enable-pprof", env = "AGENTHOST_WEB_ENABLE_PPROF", global = true)]
    pub web_enable_pprof: bool,
    /// A file to which everything seen is appended, for `replay`; a full one (64 MiB) is kept once, as FILE.1.
    #[arg(long = "state.record", env = "AGENTHOST_STATE_RECORD", value_name = "FILE", global = true)]
    pub state_record: Option<PathBuf>,
    /// What to log.
    #[arg(
        long = "log.level",
        env = "AGENTHOST_LOG_LEVEL",
        value_name = "LEVEL",
        default_value = "info",
        global = true
    )]
    pub log_level: Level,
    /// How to log, to standard error.
    #[arg(
        long = "log.format",
        env = "AGENTHOST_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "logfmt",
        global = true
    )]
    pub log_format: Format,
    /// Prints one /status as soon as every collector has looked once, and exits.
    #[arg(long)]
    pub once: bool,
}

impl Flags {
    /// Lays the flags over what the file says.
    pub fn over(&self, mut config: Config) -> Config {
        config.host.root = self.host_root.clone().or(config.host.root);
        config.host.url = self.host_url.clone().or(config.host.url);
        config.host.profile = self.host_profile.map(Profile::from).or(config.host.profile);
        config.state.path = self.state_path.clone().or(config.state.path);
        config.web.config_file = self.web_config_file.clone().or(config.web.config_file);
        if !self.web_listen_address.is_empty() {
            config.web.listen = self.web_listen_address.clone();
        }
        config.record = self.state_record.clone();
        config
    }

    /// Whether anybody said which host is meant, or how to look at it.
    pub fn names_a_host(&self) -> bool {
        let named = self.host_root.is_some() || self.host_profile.is_some() || self.host_url.is_some();
        named || self.config_file.is_some() || std::path::Path::new(DEFAULT_FILE).exists()
    }

    /// Where a sidecar with this configuration listens. One that runs may do so by an older one than the file has now, so a
    /// file that is wrong is no more than a doubt.
    pub fn own(&self) -> Own {
        let is_io = |error: &anyhow::Error| error.chain().any(|cause| cause.is::<std::io::Error>());
        let mut is_missing = false;
        let (mut web, mut doubt) = match Config::load_web(self.config_file.as_deref()) {
            Ok(web) => (web, None),
            Err(error) => {
                is_missing = self.config_file.is_some() && is_io(&error);
                (Default::default(), Some(format!("{error:#}")))
            }
        };
        web.config_file = self.web_config_file.clone().or(web.config_file);
        if !self.web_listen_address.is_empty() {
            web.listen = self.web_listen_address.clone();
        }
        let tls = web.speaks_tls().unwrap_or_else(|error| {
            is_missing |= self.web_config_file.is_some() && is_io(&error);
            doubt = Some(format!("{error:#}"));
            false
        });
        Own { listen: web.listen, tls, doubt, is_missing }
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Makes a host in a temporary folder that works and fails by turns, and watches it.
    Demo,
    /// Prints the catalogue: every metric with its type, unit, labels and meaning.
    Metrics {
        #[arg(long, default_value = "text")]
        format: agenthost_exporter::tool::metrics::Format,
    },
    /// Asks a sidecar that runs whether it works, or with --readyz whether the host can: exit 0 or 1, and one line.
    Healthcheck(healthcheck::Question),
    /// Asks a sidecar that runs for its verdict, as Nagios wants it: exit 0, 1, 2 or 3, and one line with figures.
    Nagios(nagios::Question),
    /// Shows what a sidecar that runs says: the verdict, what failed, and a line for every part.
    Status(status::Question),
    /// Looks once at everything and says what can be read, what cannot, and what mends that; without a configuration which
    /// hosts there are. Exit 0, 1 if something cannot be read, or 2 if it would not start.
    Doctor(doctor::Question),
    /// Prints completions for a shell.
    Completions { shell: clap_complete::Shell },
    /// Prints the man page.
    Man,
    /// Looks at the configuration without starting anything.
    Config {
        #[command(subcommand)]
        action: ConfigAction,
    },
    /// Says when checks and readiness would have changed, had a recorded time been judged by this configuration.
    Replay {
        /// What --state.record has written, the oldest first: FILE.1 FILE.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Runs the sidecar with the flags that follow, and starts it again whenever it ends: for a container whose end would cost
    /// its pod the readiness.
    Supervise,
    /// Puts a copy of this program into a folder, for a container that has none: its probe can run `healthcheck` then.
    Install { folder: PathBuf },
    /// The demo's host itself.
    #[command(hide = true)]
    DemoHost { root: PathBuf, port: u16, gateway_port: u16 },
    /// One of the workers of the demo's host.
    #[command(hide = true)]
    DemoWorker { part: String },
}

#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ConfigAction {
    /// Reads the file and says whether it could be run with: exit 0, or 2 and one line that says why not. That the host's
    /// folder is not on this machine is a warning only.
    Check,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum ProfileName {
    Pynchy,
    Netclaw,
    PiWeb,
    Openclaw,
    Generic,
}

impl From<ProfileName> for Profile {
    fn from(name: ProfileName) -> Profile {
        match name {
            ProfileName::Pynchy => Profile::Pynchy,
            ProfileName::Netclaw => Profile::Netclaw,
            ProfileName::PiWeb => Profile::PiWeb,
            ProfileName::Openclaw => Profile::Openclaw,
            ProfileName::Generic => Profile::Generic,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Level {
    Debug,
    Info,
    Warn,
    Error,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Format {
    Logfmt,
    Json,
}

/// `:10484` listens everywhere, as with other exporters.
fn address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
    full.parse()
        .map_err(|_| format!("`{text}` is not an address: write it like 127.0.0.1:10484, [::1]:10484 or :10484"))
}
