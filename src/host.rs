//! What a profile is: where one kind of agent host keeps things, and how its installation is found.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::fact::Span;
use crate::sample::Denied;
use crate::source::http::{self, TokenFile};
use crate::source::process::{Cwd, Processes, Table};

pub mod containers;
pub mod gateway;
pub mod pynchy;
pub mod running;

/// A kind of agent host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    Pynchy,
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
    /// The file that holds its pid, relative to the root.
    pub pid_file: Option<PathBuf>,
    /// A word of its command line, or the end of one behind a `/`.
    #[serde(deserialize_with = "word")]
    pub process: Option<String>,
    /// The file with the token that its API wants.
    pub token_file: Option<PathBuf>,
    /// How often its own status may be asked for.
    pub status_poll: StatusPoll,
    /// The shortest interval that was given to a collector of that status: it means that it may be asked for.
    #[serde(skip)]
    pub status_interval: Option<Duration>,
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
    /// The folder it runs in, without links; everything of it hangs off this.
    pub root: PathBuf,
    pub url: Url,
    /// The token that its API wants.
    pub token: Option<TokenFile>,
    /// How often its own status is asked for; `None`: never.
    pub status_poll: Option<Duration>,
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
    /// What its own configuration says beyond that.
    pub layout: pynchy::Layout,
}

/// Base of the host's HTTP API, without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Url {
    /// By `[host] url`.
    Given(String),
    /// As the host's own configuration in this folder says. The host reads that at its start, so it may change.
    Written { root: PathBuf },
}

impl Url {
    /// The URL by now.
    ///
    /// # Errors
    /// The host's configuration is there and does not tell: the default port would be a guess.
    pub fn read(&self) -> Result<String> {
        match self {
            Url::Given(url) => Ok(url.clone()),
            Url::Written { root } => pynchy::url(root).context("find the host's port (`url` in [host] would give it)"),
        }
    }
}

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
        }
    }
}

/// How the host's process is told from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessRule {
    /// Its program is called so, and its working folder is the host's root.
    InRoot { program: String },
    /// Its pid stands in this file.
    PidFile(PathBuf),
    /// A word of its command line is this, or ends in `/` and this.
    Command(String),
}

/// Finds the host: the configured root, else the current folder if it is one, else the one whose process runs.
///
/// # Errors
/// For the person who starts the sidecar: the root cannot be entered, nothing or more than one thing was found, the
/// URL is none.
pub fn find(config: &Config, processes: &Processes, cwd: &Path) -> Result<Host> {
    let root = match &config.root {
        Some(root) => enter(&cwd.join(root)).context("[host] root")?,
        None if pynchy::is_root(cwd) => enter(cwd)?,
        None => discover(&processes.list().context("look for a running host")?, cwd)?,
    };
    let mut host = pynchy::host(&root);
    if let Some(url) = &config.url {
        host.url = Url::Given(http::base(url).context("[host] url")?);
    }
    if let Some(rule) = process_rule(config, &root)? {
        host.process = rule;
    }
    host.token = config.token_file.as_ref().map(|file| TokenFile::new(cwd.join(file)));
    host.decide_status_poll(config);
    Ok(host)
}

impl Host {
    /// The operator's word counts: `status_poll`, else an interval for one who asks for the status. Without one it is
    /// asked for only where that is known to cost no money.
    fn decide_status_poll(&mut self, config: &Config) {
        let costly = self.gateway.as_ref().and_then(pynchy::why_status_costs);
        let (poll, note) = match (config.status_poll, config.status_interval, costly) {
            (StatusPoll::Every(every), ..) => (Some(every), None),
            (StatusPoll::Never, ..) => (None, Some("`status_poll = \"never\"` in [host] says so".to_owned())),
            (StatusPoll::Auto, Some(every), _) => (Some(every), None),
            (StatusPoll::Auto, None, None) => (Some(STATUS_POLL), None),
            (StatusPoll::Auto, None, Some(why)) => (None, Some(why)),
        };
        self.status_poll = poll;
        self.notes.extend(note.map(|why| format!("{NOT_POLLED}: {why}")));
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

const CHOOSE: &str = "--host.root=FOLDER (or `root` in `[host]`, or AGENTHOST_HOST_ROOT)";

fn discover(table: &Table, cwd: &Path) -> Result<PathBuf> {
    let roots = running(table);
    match roots.iter().collect::<Vec<_>>().as_slice() {
        [] => bail!(nothing_found(table, cwd)),
        [(root, _)] => enter(root),
        several => bail!(
            "{} hosts run here; choose one with {CHOOSE}:{}",
            several.len(),
            several
                .iter()
                .map(|(root, pid)| format!("\n  --host.root={} (pid {pid})", root.display()))
                .collect::<String>()
        ),
    }
}

/// The root of each running host, with its pid; of several in one root the first, which started the others.
fn running(table: &Table) -> BTreeMap<PathBuf, u32> {
    let mut roots = BTreeMap::new();
    for process in table.alive().filter(|process| process.runs(pynchy::PROGRAM)) {
        if let Cwd::At(folder) = &process.cwd
            && pynchy::is_root(folder)
        {
            roots.entry(folder.clone()).or_insert(process.pid());
        }
    }
    roots
}

fn nothing_found(table: &Table, cwd: &Path) -> String {
    let hidden = table.alive().find(|process| process.runs(pynchy::PROGRAM) && process.cwd == Cwd::Denied);
    let hidden = hidden.map_or(String::new(), |process| {
        format!(" (process {} looks like one, but we may not see its folder: run as its user)", process.pid())
    });
    format!(
        "no host found: {} is no pynchy folder (it has no data/messages.db, nor a config.toml of pynchy beside a data \
         folder), and no process `pynchy` runs in one{hidden}; name it with {CHOOSE}",
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
        assert_eq!(host.root, root);
        assert_eq!(host.url.read().unwrap(), "http://127.0.0.1:8484");
        assert_eq!(host.database, Some(root.join("data/messages.db")));
        assert_eq!(host.process, ProcessRule::InRoot { program: "pynchy".to_owned() });
        assert_eq!(host.scheduler_poll, Duration::from_secs(60));
    }

    #[test]
    fn the_configuration_wins_over_the_profile() {
        let (_folder, root) = root();
        std::fs::write(root.join("config.toml"), "[server]\nport = 9000\n").unwrap();
        assert_eq!(located(&at(&root), Path::new("/")).unwrap().url.read().unwrap(), "http://127.0.0.1:9000");
        let config = Config { url: Some("http://10.0.0.1:80/".to_owned()), ..at(&root) };
        assert_eq!(located(&config, Path::new("/")).unwrap().url, Url::Given("http://10.0.0.1:80".to_owned()));
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
            assert_eq!(located(&at(Path::new(relative)), &root).unwrap().root, root, "{relative}");
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
        assert_eq!(located(&config, &root).unwrap().url, Url::Given("https://x".to_owned()));
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
        assert!(toml::from_str::<Config>("profile = \"openclaw\"").is_err());
        let config: Config = toml::from_str("profile = \"pynchy\"\nroot = \"/x\"").unwrap();
        assert_eq!((config.profile, config.root), (Some(Profile::Pynchy), Some("/x".into())));
    }

    /// The table as if only these ran: other hosts may run on this machine.
    fn only(children: &[&Running]) -> Table {
        let table = Processes::default().list().unwrap();
        children.iter().map(|child| table.get(child.pid()).unwrap().clone()).collect()
    }

    #[test]
    fn the_current_folder_is_taken_if_it_is_a_root() {
        let (_folder, root) = root();
        assert_eq!(located(&Config::default(), &root).unwrap().root, root);
    }

    #[test]
    fn nothing_found_says_what_to_do() {
        let elsewhere = stage::Root::new();
        let stranger = elsewhere.host();
        for table in [only(&[]), only(&[&stranger])] {
            let none = text(discover(&table, &elsewhere.path));
            assert!(none.starts_with("no host found: ") && none.contains("--host.root=FOLDER"), "{none}");
            assert!(none.contains(elsewhere.path.to_str().unwrap()), "{none}");
        }
    }

    #[test]
    fn a_host_of_another_user_is_hinted_at() {
        let hidden = Process::imagined(7, 1, "python /p/bin/pynchy", Cwd::Denied);
        let none = text(discover(&[hidden].into_iter().collect(), Path::new("/")));
        assert!(none.contains("(process 7 looks like one, but we may not see its folder: run as its user)"), "{none}");
    }

    #[test]
    fn a_running_host_is_found_and_of_two_none_is_guessed() {
        let ((one, first), (two, second)) = (root(), root());
        let (running, twin, other) = (one.host(), one.host(), two.host());
        assert_eq!(discover(&only(&[&running, &twin]), Path::new("/")).unwrap(), first);

        let both = text(discover(&only(&[&running, &other]), Path::new("/")));
        assert!(both.starts_with("2 hosts run here; choose one with --host.root="), "{both}");
        for (root, child) in [(&first, &running), (&second, &other)] {
            assert!(both.contains(&format!("\n  --host.root={} (pid {})", root.display(), child.pid())), "{both}");
        }
    }

    #[test]
    fn a_killed_host_is_not_found() {
        let (folder, root) = root();
        let mut child = folder.host();
        assert_eq!(discover(&only(&[&child]), Path::new("/")).unwrap(), root);
        child.kill();
        assert!(discover(&only(&[&child]), Path::new("/")).is_err());
    }
}
