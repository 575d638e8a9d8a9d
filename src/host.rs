//! What a profile is: where one kind of agent host keeps things, and how its installation is found.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::fact::Span;
use crate::sample::Denied;
use crate::source::http;
use crate::source::key::KeyFile;
use crate::source::process::{Cwd, Processes, Table};

pub mod containers;
pub mod gateway;
pub mod generic;
pub mod netclaw;
pub mod openclaw;
pub mod pi_web;
pub mod pynchy;
pub mod running;
pub mod spotted;

/// A kind of agent host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    Pynchy,
    Netclaw,
    PiWeb,
    Openclaw,
    Generic,
}

impl Profile {
    /// As the configuration calls it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Pynchy => "pynchy",
            Profile::Netclaw => "netclaw",
            Profile::PiWeb => "pi-web",
            Profile::Openclaw => "openclaw",
            Profile::Generic => "generic",
        }
    }
}

/// The `[host]` table. All of it can be discovered.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub profile: Option<Profile>,
    /// The folder it runs in.
    pub root: Option<PathBuf>,
    /// Base of its HTTP API.
    #[serde(deserialize_with = "base_url")]
    pub url: Option<String>,
    /// The file that holds its pid, relative to the root if it has one.
    pub pid_file: Option<PathBuf>,
    /// What it runs: the name of its program or of the script or module of an interpreter, or the end of its path.
    #[serde(deserialize_with = "word")]
    pub process: Option<String>,
    /// The file with the token that its API wants.
    pub token_file: Option<PathBuf>,
    /// The file into which pi-web writes its pid and port.
    pub state_file: Option<PathBuf>,
    /// How often its own status may be asked for.
    pub status_poll: StatusPoll,
    /// The shortest interval that was given to a collector of that status: it means that it may be asked for.
    #[serde(skip)]
    pub status_interval: Option<Duration>,
    /// `[[collect.http]]` and its like.
    #[serde(skip)]
    pub listed: generic::Listed,
}

/// `[host] status_poll`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StatusPoll {
    /// Each minute where that costs the host no more than its own work; else never.
    #[default]
    Auto,
    Never,
    Every(Duration),
}

impl<'de> Deserialize<'de> for StatusPoll {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<StatusPoll, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "auto" => Ok(StatusPoll::Auto),
            "never" => Ok(StatusPoll::Never),
            text => match text.parse() {
                Ok(Span(every)) if every >= SHORTEST_POLL => Ok(StatusPoll::Every(every)),
                Ok(_) => Err(de::Error::custom(format!("must be at least {}", Span(SHORTEST_POLL)))),
                Err(error) => Err(de::Error::custom(format!("neither `auto` nor `never`, and {error}"))),
            },
        }
    }
}

const SHORTEST_POLL: Duration = Duration::from_secs(1);
/// What `auto` means where it may.
const STATUS_POLL: Duration = Duration::from_secs(60);

/// Refused where it is written, so that the message has its line.
fn base_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let url = String::deserialize(deserializer)?;
    http::base(&url).map(Some).map_err(de::Error::custom)
}

fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let word = String::deserialize(deserializer)?;
    check_word(&word).map(|()| Some(word)).map_err(de::Error::custom)
}

fn check_word(word: &str) -> Result<()> {
    if word.trim().is_empty() {
        bail!("empty, it would match nothing");
    }
    Ok(())
}

impl Config {
    /// Whether it can be meant at all, on whatever machine.
    ///
    /// # Errors
    /// The URL is none or of a kind that is not taken; the process is told twice, or by nothing.
    pub fn validate(&self) -> Result<()> {
        if let Some(url) = &self.url {
            http::base(url).context("[host] url")?;
        }
        process_rule(self, Path::new("")).map(drop)
    }

    /// What would keep it from starting on this machine now, though it may be right on another or later.
    pub fn doubt(&self, cwd: &Path) -> Option<anyhow::Error> {
        let root = self.root.as_ref()?;
        enter(&cwd.join(root)).context("[host] root").err()
    }
}

/// The watched host: what its profile, the configuration and discovery say of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Host {
    pub profile: Profile,
    /// The folder it runs in, without links; `None` if nothing of it hangs off one.
    pub root: Option<PathBuf>,
    /// `None` if it has no API.
    pub url: Option<Url>,
    /// The token that its API wants.
    pub token: Option<KeyFile>,
    /// How often its own status is asked for; `None`: never.
    pub status_poll: Option<Duration>,
    /// That it is asked for rests on nothing but the host's own configuration, by which it costs no money.
    pub is_free_by_its_own_word: bool,
    /// What is not looked at here, why, and how to get it.
    pub notes: Vec<String>,
    /// Its SQLite database; `None` where the profile has none.
    pub database: Option<PathBuf>,
    /// How its process is recognised.
    pub process: ProcessRule,
    /// How often its scheduler looks for due tasks.
    pub scheduler_poll: Duration,
    /// How it names its containers; `None` where it has none, or nobody knows.
    pub containers: Option<containers::Names>,
    /// What stands between its agents and their models; `None` where the profile has none.
    pub gateway: Option<gateway::Gateway>,
    /// What our configuration lists of it.
    pub listed: generic::Listed,
    /// What its own configuration says beyond that; `None` in another profile than pynchy.
    pub layout: Option<pynchy::Layout>,
}

/// Base of the host's HTTP API, without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Url {
    /// By `[host] url`.
    Given(String),
    /// As the host's own configuration in this folder says. The host reads that at its start, so it may change.
    Written { root: PathBuf },
    /// As the host writes into this file when it starts.
    State(PathBuf),
}

impl Url {
    /// The URL by now.
    ///
    /// # Errors
    /// The host's configuration is there and does not tell: the default port would be a guess.
    pub fn read(&self) -> Result<String> {
        match self {
            Url::Given(url) => Ok(url.clone()),
            Url::Written { root } => pynchy::url(root).context(WOULD_GIVE_IT),
            Url::State(file) => pi_web::url(file).context(WOULD_GIVE_IT),
        }
    }
}

const WOULD_GIVE_IT: &str = "find the host's port (`url` in [host] would give it)";

impl From<&str> for Url {
    fn from(url: &str) -> Url {
        Url::Given(url.to_owned())
    }
}

/// Without looking.
impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Url::Given(url) => f.write_str(url),
            Url::Written { .. } => f.write_str("as its config.toml says"),
            Url::State(file) => write!(f, "as {} says", file.display()),
        }
    }
}

/// How the host's process is told from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessRule {
    /// Its program is called so, and its working folder is the host's root.
    InRoot { program: String, root: PathBuf },
    /// Its pid stands in this file: alone, or as `pid` of a JSON object.
    PidFile(PathBuf),
    /// It runs this program, itself or through an interpreter; a part of its path may be given.
    Command(String),
    /// Nobody said.
    Unknown,
}

/// Finds the host: of the configured profile, with the configured root; else the current folder if it is a pynchy's, else
/// the one host that runs.
///
/// # Errors
/// For the person who starts the sidecar: the root cannot be entered, nothing or more than one thing was found, the
/// URL is none.
pub fn find(config: &Config, processes: &Processes, cwd: &Path) -> Result<Host> {
    let root = config.root.as_ref().map(|root| enter(&cwd.join(root)).context("[host] root")).transpose()?;
    let home = std::env::var_os("HOME");
    let state = config.state_file.as_ref().map(|file| cwd.join(file)).or_else(|| pi_web::state_file(home.as_deref()));
    let mut host = match (config.profile, &root) {
        (Some(profile), _) if profile != Profile::Pynchy => as_it_comes(profile, state.as_deref())?,
        (_, Some(root)) => pynchy::host(root),
        (_, None) if pynchy::is_root(cwd) => pynchy::host(&enter(cwd)?),
        (profile, None) => {
            let table = processes.list().context("look for a running host")?;
            let found = candidates(&table, state.as_deref());
            discover(
                found.into_iter().filter(|one| profile.is_none_or(|profile| one.profile() == profile)),
                &table,
                cwd,
            )?
        }
    };
    host.root = host.root.or(root);
    host.configure(config, cwd)?;
    Ok(host)
}

/// A host of another kind than pynchy, where such hosts are.
fn as_it_comes(profile: Profile, state: Option<&Path>) -> Result<Host> {
    Ok(match (profile, state) {
        (Profile::Netclaw, _) => netclaw::host(),
        (Profile::Openclaw, _) => openclaw::host(),
        (Profile::PiWeb, Some(state)) => pi_web::host(state),
        (Profile::PiWeb, None) => {
            bail!("where pi-web writes its state is not known: there is no $HOME; set `state_file` in [host]")
        }
        (Profile::Generic | Profile::Pynchy, _) => generic::host(),
    })
}

impl Host {
    /// One of which nothing else is known.
    fn new(profile: Profile, process: ProcessRule) -> Host {
        Host {
            profile,
            root: None,
            url: None,
            token: None,
            status_poll: None,
            is_free_by_its_own_word: false,
            notes: Vec::new(),
            database: None,
            process,
            scheduler_poll: Duration::from_secs(60),
            gateway: None,
            containers: None,
            listed: generic::Listed::default(),
            layout: None,
        }
    }

    /// What tells it from all others, for what is kept about it.
    pub fn name(&self) -> String {
        match (&self.root, &self.url) {
            (Some(root), _) => root.display().to_string(),
            (None, Some(url)) => format!("{} {url}", self.profile.name()),
            (None, None) => self.profile.name().to_owned(),
        }
    }

    /// What it reads at its own start and what we read of it: a change there is one of what is to be looked at.
    pub fn files(&self) -> Vec<PathBuf> {
        let own = self.root.iter().filter(|_| self.profile == Profile::Pynchy).map(|root| pynchy::file(root));
        own.chain(self.gateway.iter().flat_map(|gateway| gateway.litellm_configs.iter().cloned())).collect()
    }

    /// Lays the configuration over it.
    fn configure(&mut self, config: &Config, cwd: &Path) -> Result<()> {
        if let Some(url) = &config.url {
            self.url = Some(Url::Given(http::base(url).context("[host] url")?));
        }
        if let Some(rule) = process_rule(config, self.root.as_deref().unwrap_or(cwd))? {
            self.process = rule;
        }
        if self.url.is_none() && self.process == ProcessRule::Unknown {
            bail!("[host] needs `url`, `pid_file` or `process`: nothing would tell whether the host is up");
        }
        self.token = config.token_file.as_ref().map(|file| KeyFile::new(cwd.join(file)));
        self.listed = config.listed.clone();
        self.decide_status_poll(config);
        Ok(())
    }

    /// The operator's word counts: `status_poll`, else an interval for one who asks for the status. Without one it is
    /// asked for only where that is known to cost no money.
    fn decide_status_poll(&mut self, config: &Config) {
        let costly = match self.profile {
            Profile::Pynchy => self.gateway.as_ref().and_then(pynchy::why_status_costs),
            _ => None,
        };
        let (poll, note) = match (config.status_poll, config.status_interval, costly) {
            (StatusPoll::Every(every), ..) => (Some(every), None),
            (StatusPoll::Never, ..) => (None, Some("`status_poll = \"never\"` in [host] says so".to_owned())),
            (StatusPoll::Auto, Some(every), _) => (Some(every), None),
            (StatusPoll::Auto, None, None) => (Some(STATUS_POLL), None),
            (StatusPoll::Auto, None, Some(why)) => (None, Some(why)),
        };
        let by_itself = (config.status_poll, config.status_interval) == (StatusPoll::Auto, None);
        self.is_free_by_its_own_word = by_itself && poll.is_some() && self.profile == Profile::Pynchy;
        self.status_poll = poll;
        let not_polled =
            if self.profile == Profile::Pynchy { NOT_POLLED } else { "the host's status is not asked for" };
        self.notes.extend(note.map(|why| format!("{not_polled}: {why}")));
    }
}

const NOT_POLLED: &str = "the host's /status is not asked for, so nothing is known of its queue, and of its channels only \
                          whether any is connected";

fn process_rule(config: &Config, root: &Path) -> Result<Option<ProcessRule>> {
    match (&config.pid_file, &config.process) {
        (Some(_), Some(_)) => bail!("[host] has both `pid_file` and `process`: keep the one that names its process"),
        (Some(file), None) => Ok(Some(ProcessRule::PidFile(root.join(file)))),
        (None, Some(word)) => {
            check_word(word).context("[host] process")?;
            Ok(Some(ProcessRule::Command(word.clone())))
        }
        (None, None) => Ok(None),
    }
}

/// The folder without links, if it is one and may be entered.
fn enter(root: &Path) -> Result<PathBuf> {
    let naming = || format!("enter {}", root.display());
    let real = root.canonicalize().with_context(naming)?;
    if !real.is_dir() {
        bail!("{}: it is not a folder", naming());
    }
    match real.join(".").metadata() {
        Ok(_) => Ok(real),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            bail!(Denied(format!("{}: permission denied; run as the host's user or one that may read it", naming())))
        }
        Err(error) => Err(error).with_context(naming),
    }
}

const CHOOSE: &str = "--host.root=FOLDER (or `root` in `[host]`, or AGENTHOST_HOST_ROOT), or another kind of host with \
                      --host.profile=PROFILE";

/// A host that runs here.
#[derive(Debug, PartialEq)]
enum Candidate {
    Pynchy { root: PathBuf, pid: u32 },
    PiWeb { state: PathBuf, pid: u32 },
    Other { profile: Profile, pid: u32 },
}

impl Candidate {
    fn profile(&self) -> Profile {
        match self {
            Candidate::Pynchy { .. } => Profile::Pynchy,
            Candidate::PiWeb { .. } => Profile::PiWeb,
            Candidate::Other { profile, .. } => *profile,
        }
    }

    fn host(&self) -> Result<Host> {
        match self {
            Candidate::Pynchy { root, .. } => Ok(pynchy::host(&enter(root)?)),
            Candidate::PiWeb { state, .. } => Ok(pi_web::host(state)),
            Candidate::Other { profile, .. } => as_it_comes(*profile, None),
        }
    }
}

/// The flag that chooses it.
impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Candidate::Pynchy { root, pid } => write!(f, "--host.root={} (pid {pid})", root.display()),
            Candidate::PiWeb { pid, .. } => write!(f, "--host.profile=pi-web (pid {pid})"),
            Candidate::Other { profile, pid } => write!(f, "--host.profile={} (pid {pid})", profile.name()),
        }
    }
}

fn discover(found: impl Iterator<Item = Candidate>, table: &Table, cwd: &Path) -> Result<Host> {
    match found.collect::<Vec<_>>().as_slice() {
        [] => bail!(nothing_found(table, cwd)),
        [one] => one.host(),
        several => bail!(
            "{} hosts run here; choose one with {CHOOSE}:{}",
            several.len(),
            several.iter().map(|one| format!("\n  {one}")).collect::<String>()
        ),
    }
}

/// Every host that runs; of several processes in one root the first, which started the others.
fn candidates(table: &Table, state: Option<&Path>) -> Vec<Candidate> {
    let mut roots = BTreeMap::new();
    for process in table.alive().filter(|process| process.runs(pynchy::PROGRAM)) {
        if let Cwd::At(folder) = &process.cwd
            && pynchy::is_root(folder)
        {
            roots.entry(folder.clone()).or_insert(process.pid());
        }
    }
    let pynchys = roots.into_iter().map(|(root, pid)| Candidate::Pynchy { root, pid });
    let pi_web =
        state.and_then(|state| Some(Candidate::PiWeb { state: state.to_owned(), pid: running_by(table, state)? }));
    let others = [(Profile::Netclaw, netclaw::PROGRAM), (Profile::Openclaw, openclaw::PROGRAM)];
    let others = others.into_iter().filter_map(|(profile, program)| {
        let process = table.alive().find(|process| process.runs(program))?;
        Some(Candidate::Other { profile, pid: process.pid() })
    });
    pynchys.chain(pi_web).chain(others).collect()
}

/// The process whose pid stands in this file, if it lives.
fn running_by(table: &Table, file: &Path) -> Option<u32> {
    match running::look(table, &ProcessRule::PidFile(file.to_owned()), None) {
        running::Seen::Running(chain) => Some(chain.pid),
        _ => None,
    }
}

fn nothing_found(table: &Table, cwd: &Path) -> String {
    let hidden = table.alive().find(|process| process.runs(pynchy::PROGRAM) && process.cwd == Cwd::Denied);
    let hidden = hidden.map_or(String::new(), |process| {
        format!(" (process {} looks like one, but we may not see its folder: run as its user)", process.pid())
    });
    format!(
        "no host found: {} is no pynchy folder (it has no data/messages.db, nor a config.toml of pynchy beside a data \
         folder), no process `pynchy` runs in one{hidden}, and neither netclaw, pi-web nor openclaw runs; name it with {CHOOSE}",
        cwd.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::running::stage::{self, Running};
    use crate::source::process::Process;

    /// A folder that is a host's root.
    fn root() -> (stage::Root, PathBuf) {
        let root = stage::Root::new();
        std::fs::create_dir(root.path.join("data")).unwrap();
        std::fs::write(root.path.join("data/messages.db"), "").unwrap();
        let path = root.path.clone();
        (root, path)
    }

    fn at(root: &Path) -> Config {
        Config { root: Some(root.to_owned()), ..Config::default() }
    }

    fn text(result: Result<impl std::fmt::Debug>) -> String {
        format!("{:#}", result.unwrap_err())
    }

    fn located(config: &Config, cwd: &Path) -> Result<Host> {
        find(config, &Processes::default(), cwd)
    }

    #[test]
    fn a_configured_root_gives_everything() {
        let (_folder, root) = root();
        let host = located(&at(&root), Path::new("/")).unwrap();
        assert_eq!(host.root.as_deref(), Some(&*root));
        assert_eq!(host.url.unwrap().read().unwrap(), "http://127.0.0.1:8484");
        assert_eq!(host.database, Some(root.join("data/messages.db")));
        assert_eq!(host.process, ProcessRule::InRoot { program: "pynchy".to_owned(), root });
        assert_eq!(host.scheduler_poll, Duration::from_secs(60));
    }

    #[test]
    fn the_configuration_wins_over_the_profile() {
        let (_folder, root) = root();
        std::fs::write(root.join("config.toml"), "[server]\nport = 9000\n").unwrap();
        assert_eq!(located(&at(&root), Path::new("/")).unwrap().url.unwrap().read().unwrap(), "http://127.0.0.1:9000");
        let config = Config { url: Some("http://10.0.0.1:80/".to_owned()), ..at(&root) };
        assert_eq!(located(&config, Path::new("/")).unwrap().url.unwrap(), Url::Given("http://10.0.0.1:80".to_owned()));
        let config = Config { pid_file: Some("run/pid".into()), ..at(&root) };
        assert_eq!(located(&config, Path::new("/")).unwrap().process, ProcessRule::PidFile(root.join("run/pid")));
        let config = Config { process: Some("hostd".to_owned()), ..at(&root) };
        assert_eq!(located(&config, Path::new("/")).unwrap().process, ProcessRule::Command("hostd".to_owned()));
    }

    #[test]
    fn the_status_is_polled_where_that_costs_no_money_or_somebody_said_so() {
        let (_folder, root) = root();
        let minutes = |count: u64| Some(Duration::from_secs(count * 60));
        let decide = |gateway: &str, poll: StatusPoll, interval: Option<Duration>| {
            std::fs::write(root.join("config.toml"), gateway).unwrap();
            let config = Config { status_poll: poll, status_interval: interval, ..at(&root) };
            let host = located(&config, Path::new("/")).unwrap();
            assert_eq!(host.notes.is_empty(), host.status_poll.is_some(), "{:?}", host.notes);
            host.status_poll
        };
        let (none, litellm) = ("", "[gateway]\nlitellm_config = \"litellm.yaml\"\n");
        let five = StatusPoll::Every(Duration::from_secs(300));
        for (gateway, poll, interval, decided) in [
            (none, StatusPoll::Auto, None, minutes(1)),
            (none, StatusPoll::Auto, minutes(2), minutes(2)),
            (none, five, minutes(2), minutes(5)),
            (none, StatusPoll::Never, minutes(2), None),
            (litellm, StatusPoll::Auto, None, None),
            (litellm, StatusPoll::Auto, minutes(2), minutes(2)),
            (litellm, five, None, minutes(5)),
            ("[gateway]\nlitellm_config = 3\n", StatusPoll::Auto, None, None),
        ] {
            assert_eq!(decide(gateway, poll, interval), decided, "{gateway:?} {poll:?} {interval:?}");
        }
        std::fs::write(root.join("litellm.yaml"), "general_settings: {background_health_checks: true}").unwrap();
        assert_eq!(decide(litellm, StatusPoll::Auto, None), minutes(1));
        std::fs::write(root.join("litellm.yaml"), "general_settings: {background_health_checks: false}").unwrap();
        assert_eq!(decide(litellm, StatusPoll::Auto, None), None);
    }

    #[test]
    fn a_status_poll_is_auto_never_or_a_duration() {
        let poll =
            |text: &str| toml::from_str::<Config>(&format!("status_poll = {text}")).map(|config| config.status_poll);
        assert_eq!(poll("\"auto\"").unwrap(), StatusPoll::Auto);
        assert_eq!(poll("\"never\"").unwrap(), StatusPoll::Never);
        assert_eq!(poll("\"90s\"").unwrap(), StatusPoll::Every(Duration::from_secs(90)));
        for (text, says) in [
            ("\"10ms\"", "must be at least 1s"),
            ("\"often\"", "neither `auto` nor `never`, and `often` is not a duration"),
            ("60", "expected a string"),
        ] {
            let error = poll(text).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }

    #[test]
    fn a_relative_root_and_a_linked_one_lead_to_the_folder() {
        let (_folder, root) = root();
        std::os::unix::fs::symlink(&root, root.join("link")).unwrap();
        for relative in [".", "link", "data/.."] {
            assert_eq!(located(&at(Path::new(relative)), &root).unwrap().root.as_deref(), Some(&*root), "{relative}");
        }
    }

    #[test]
    fn bad_roots_are_named() {
        let (_folder, root) = root();
        let missing = text(located(&at(&root.join("missing")), &root));
        assert_eq!(
            missing,
            format!("[host] root: enter {}/missing: No such file or directory (os error 2)", root.display())
        );
        let file = text(located(&at(&root.join("data/messages.db")), &root));
        assert_eq!(file, format!("[host] root: enter {}/data/messages.db: it is not a folder", root.display()));
    }

    #[test]
    fn bad_urls_and_rules_are_named() {
        let (_folder, root) = root();
        let config = Config { url: Some("ftp://x".to_owned()), ..at(&root) };
        let said = "[host] url: `ftp://x` is not a URL of the form http://host:port or https://host";
        assert_eq!(text(located(&config, &root)), said);
        let config = Config { url: Some("https://x/".to_owned()), ..at(&root) };
        assert_eq!(located(&config, &root).unwrap().url.unwrap(), Url::Given("https://x".to_owned()));
        let config = Config { process: Some("x".to_owned()), pid_file: Some("y".into()), ..at(&root) };
        assert!(text(located(&config, &root)).contains("both `pid_file` and `process`"));
        let config = Config { process: Some(" ".to_owned()), ..at(&root) };
        assert!(text(located(&config, &root)).starts_with("[host] process: empty"));
    }

    #[test]
    fn a_port_that_is_not_told_is_not_guessed() {
        use crate::sample::{Cause, Failure};
        let (_folder, root) = root();
        let file = root.join("config.toml");
        let port = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Url::Written { root: root.clone() }.read()
        };
        assert_eq!(port("[server]\nport = 9000\n").unwrap(), "http://127.0.0.1:9000");
        assert_eq!(port("[scheduler]\npoll_interval = -1\n").unwrap(), "http://127.0.0.1:8484");
        for (written, says) in [
            ("[server]\nport = \"sk-secret", "not TOML (line 2)"),
            ("[server]\nport = \"sk-secret\"", "server.port is not a port"),
            ("server = \"sk-secret\"", "[server] is no table"),
        ] {
            let failure = Failure::from(port(written).unwrap_err());
            assert_eq!(failure.cause, Cause::Unanswered);
            let text = failure.error;
            assert!(text.contains(&file.display().to_string()) && text.contains(says), "{text}");
            assert!(text.contains("`url` in [host]") && !text.contains("secret"), "{text}");
        }
        let denied = stage::unprivileged(&root, || Url::Written { root: root.clone() }.read().unwrap_err());
        let denied = Failure::from(denied);
        assert_eq!(denied.cause, Cause::Denied);
        assert!(denied.error.contains(&format!("read {}: Permission denied", file.display())), "{denied:?}");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(Url::Written { root: root.clone() }.read().unwrap(), "http://127.0.0.1:8484");
    }

    #[test]
    fn what_cannot_be_meant_is_told_without_a_host_and_what_is_not_there_is_a_doubt() {
        let (_folder, root) = root();
        for bad in [
            Config { url: Some("http://user:s3cret@x".to_owned()), ..Config::default() },
            Config { url: Some("ftp://x".to_owned()), ..Config::default() },
            Config { process: Some("x".to_owned()), pid_file: Some("y".into()), ..Config::default() },
            Config { process: Some(String::new()), ..Config::default() },
        ] {
            let said = text(bad.validate());
            assert!(said.starts_with("[host] ") && !said.contains("s3cret"), "{said}");
        }
        let missing = at(&root.join("missing"));
        missing.validate().unwrap();
        let doubt = format!("{:#}", missing.doubt(Path::new("/")).unwrap());
        assert!(doubt.starts_with("[host] root: enter ") && doubt.contains("missing: No such file"), "{doubt}");
        assert!(at(Path::new("data")).doubt(&root).is_none());
        assert!(Config::default().doubt(&root).is_none());
    }

    #[test]
    fn the_table_refuses_what_it_does_not_know() {
        assert!(toml::from_str::<Config>("rot = \"/x\"").unwrap_err().to_string().contains("unknown field `rot`"));
        assert!(toml::from_str::<Config>("profile = \"openclow\"").is_err());
        let config: Config = toml::from_str("profile = \"pynchy\"\nroot = \"/x\"").unwrap();
        assert_eq!((config.profile, config.root), (Some(Profile::Pynchy), Some("/x".into())));
    }

    /// The table as if only these ran: other hosts may run on this machine.
    fn only(children: &[&Running]) -> Table {
        let table = Processes::default().list().unwrap();
        children.iter().map(|child| table.get(child.pid()).unwrap().clone()).collect()
    }

    fn found(table: &Table, cwd: &Path) -> Result<Host> {
        discover(candidates(table, None).into_iter(), table, cwd)
    }

    #[test]
    fn a_profile_that_is_named_needs_no_root_and_is_where_such_hosts_are() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.json");
        std::fs::write(&state, r#"{"pid": 812, "port": "31416", "host": "127.0.0.1"}"#).unwrap();
        let named = |profile| Config { profile: Some(profile), state_file: Some(state.clone()), ..Config::default() };
        let word = |word: &str| ProcessRule::Command(word.to_owned());
        for (profile, url, process) in [
            (Profile::Netclaw, Some("http://127.0.0.1:5199"), word("netclawd")),
            (Profile::Openclaw, Some("http://127.0.0.1:18789"), word("openclaw-gateway")),
            (Profile::PiWeb, Some("http://127.0.0.1:31416"), ProcessRule::PidFile(state.clone())),
            (Profile::Generic, Some("http://10.0.0.1:80"), ProcessRule::Unknown),
        ] {
            let url_of_its_own = (profile == Profile::Generic).then(|| "http://10.0.0.1:80".to_owned());
            let host = located(&Config { url: url_of_its_own, ..named(profile) }, Path::new("/")).unwrap();
            let there = host.url.as_ref().map(|url| url.read().unwrap());
            assert_eq!((host.profile, there.as_deref(), &host.process), (profile, url, &process));
            assert!(host.root.is_none() && host.database.is_none() && host.layout.is_none() && host.gateway.is_none());
            assert_eq!((host.status_poll, host.notes.as_slice()), (Some(STATUS_POLL), &[][..]));
        }
        let config = Config {
            url: Some("http://10.0.0.1:80".to_owned()),
            pid_file: Some("pid".into()),
            token_file: Some("token".into()),
            ..named(Profile::Netclaw)
        };
        let host = located(&config, Path::new("/srv")).unwrap();
        assert_eq!(
            (host.url, host.process),
            (Some("http://10.0.0.1:80".into()), ProcessRule::PidFile("/srv/pid".into()))
        );
        assert_eq!(host.token.unwrap().path(), Path::new("/srv/token"));
        let nothing = text(located(&named(Profile::Generic), Path::new("/")));
        assert_eq!(nothing, "[host] needs `url`, `pid_file` or `process`: nothing would tell whether the host is up");
    }

    #[test]
    fn no_profile_is_taken_for_another() {
        let one = |pid, line: &str| Process::imagined(pid, 1, line, Cwd::At("/".into()));
        let profiles = |lines: &[(u32, &str)], state: Option<&Path>| -> Vec<Profile> {
            let table = lines.iter().map(|&(pid, line)| one(pid, line)).collect();
            candidates(&table, state).iter().map(Candidate::profile).collect()
        };
        let (netclaw, openclaw) = ((7, "/usr/bin/netclawd"), (8, "openclaw-gateway"));
        assert_eq!(profiles(&[netclaw], None), [Profile::Netclaw]);
        assert_eq!(profiles(&[openclaw], None), [Profile::Openclaw]);
        assert_eq!(profiles(&[(9, "openclaw-gateway   ")], None), [Profile::Openclaw], "it pads its title");
        for stranger in ["vim netclawd", "tail -f openclaw-gateway.log", "pi-web", "grep openclaw-gateway", "pi"] {
            assert_eq!(profiles(&[(9, stranger)], None), [], "{stranger}");
        }
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state.json");
        std::fs::write(&state, r#"{"pid": 9, "port": "31415"}"#).unwrap();
        assert_eq!(profiles(&[(9, "pi-web")], Some(&state)), [Profile::PiWeb]);
        assert_eq!(profiles(&[(10, "pi-web")], Some(&state)), [], "the state file is of one that ended");
        let table: Table = [one(7, netclaw.1), one(8, openclaw.1)].into_iter().collect();
        let both = text(found(&table, Path::new("/")));
        assert!(both.contains("\n  --host.profile=netclaw (pid 7)\n  --host.profile=openclaw (pid 8)"), "{both}");
    }

    #[test]
    fn the_current_folder_is_taken_if_it_is_a_root() {
        let (_folder, root) = root();
        assert_eq!(located(&Config::default(), &root).unwrap().root, Some(root));
    }

    #[test]
    fn nothing_found_says_what_to_do() {
        let elsewhere = stage::Root::new();
        let stranger = elsewhere.host();
        for table in [only(&[]), only(&[&stranger])] {
            let none = text(found(&table, &elsewhere.path));
            assert!(none.starts_with("no host found: ") && none.contains("--host.root=FOLDER"), "{none}");
            assert!(none.contains(elsewhere.path.to_str().unwrap()), "{none}");
        }
    }

    #[test]
    fn a_host_of_another_user_is_hinted_at() {
        let hidden = Process::imagined(7, 1, "python /p/bin/pynchy", Cwd::Denied);
        let none = text(found(&[hidden].into_iter().collect(), Path::new("/")));
        assert!(none.contains("(process 7 looks like one, but we may not see its folder: run as its user)"), "{none}");
    }

    #[test]
    fn a_running_host_is_found_and_of_two_none_is_guessed() {
        let ((one, first), (two, second)) = (root(), root());
        let (running, twin, other) = (one.host(), one.host(), two.host());
        assert_eq!(found(&only(&[&running, &twin]), Path::new("/")).unwrap().root.as_ref(), Some(&first));

        let both = text(found(&only(&[&running, &other]), Path::new("/")));
        assert!(both.starts_with("2 hosts run here; choose one with --host.root="), "{both}");
        for (root, child) in [(&first, &running), (&second, &other)] {
            assert!(both.contains(&format!("\n  --host.root={} (pid {})", root.display(), child.pid())), "{both}");
        }
    }

    #[test]
    fn a_killed_host_is_not_found() {
        let (folder, root) = root();
        let mut child = folder.host();
        assert_eq!(found(&only(&[&child]), Path::new("/")).unwrap().root, Some(root));
        child.kill();
        assert!(found(&only(&[&child]), Path::new("/")).is_err());
    }
}
