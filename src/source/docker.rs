//! The Docker engine, asked over its unix socket with GET alone: one list that all who ask share, and what each
//! container says of itself, asked anew only when the list says something new of it.
//!
//! No client library: those read every field of every container on the machine into closed sets of words, so that one
//! new word about a stranger's container would blind us; and they read environments, in which keys stand, to do it. Here
//! only what is named below is taken from an answer, and a word nobody knows is an unknown state of that container alone.
//!
//! No stream of events either: what happens between two lists stands in what the containers that are left say of
//! themselves (how often restarted, since when, killed for memory, exit code), and a stream is a connection to keep alive.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::Request;
use hyper::header::{CONNECTION, HOST};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, de};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};

use crate::fact::Span;
use crate::sample::{Cause, Denied, Now};
use crate::source::http;

const SOCKET: &str = "/var/run/docker.sock";
/// How long the list may take, and then all that is asked of its containers.
const PATIENCE: Duration = Duration::from_secs(4);
/// A thousand containers are a megabyte.
const BODY_LIMIT: usize = 16 * 1024 * 1024;
/// A list is good for all whose run began so long after it was asked for.
const SHARED_FOR: Duration = Duration::from_secs(1);
/// After so long a container is asked again, whatever the list says.
const ASK_AGAIN: Duration = Duration::from_secs(5 * 60);

/// `[docker]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The engine's unix socket, as a path or `unix://` and a path.
    #[serde(deserialize_with = "socket")]
    pub socket: Option<PathBuf>,
    /// Where the machine's control groups show, if not in `/sys/fs/cgroup`.
    pub cgroups: Option<PathBuf>,
}

fn socket<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let path = unix_socket(OsStr::new(&text));
    path.map(Some).ok_or_else(|| de::Error::custom("must be the path of a unix socket, like `/var/run/docker.sock`"))
}

fn unix_socket(text: &OsStr) -> Option<PathBuf> {
    let path = Path::new(text.to_str().and_then(|text| text.strip_prefix("unix://")).map_or(text, OsStr::new));
    path.is_absolute().then(|| path.to_owned())
}

/// The engine. Clones share what it answered.
#[derive(Debug, Clone)]
pub struct Docker {
    /// `None`: the environment names one that is not asked.
    socket: Option<PathBuf>,
    listed: Arc<tokio::sync::Mutex<Option<Answered>>>,
    known: Arc<Mutex<BTreeMap<Arc<str>, Known>>>,
}

impl Default for Docker {
    fn default() -> Docker {
        Docker::at(SOCKET)
    }
}

/// The last list, or why there is none. Moments are on the monotonic clock.
#[derive(Debug)]
struct Answered {
    /// The run that asked began then.
    asked: Duration,
    ended: Duration,
    outcome: Result<Arc<Listing>, Error>,
}

impl Answered {
    /// Whether it answers a run that began at this moment: a failure only those that waited for it.
    fn serves(&self, now: Duration) -> bool {
        let until = if self.outcome.is_ok() { self.asked + SHARED_FOR } else { self.ended };
        now < until
    }
}

/// What a container said of itself, and what the list said of it then.
#[derive(Debug)]
struct Known {
    list: Duration,
    state: State,
    status: String,
    container: Arc<Container>,
}

impl Known {
    /// The status tells the age, and so a restart: `Up 3 hours`, `Up 2 seconds`. While it counts seconds, the same text
    /// twice would mean one, so then it proves nothing; nor does it once it has stood for long.
    fn stands(&self, list: Duration, listed: &Listed) -> bool {
        let unchanged = self.state == listed.state && self.status == listed.status;
        let young = listed.status.contains("second");
        list == self.list || (unchanged && !young && list.saturating_sub(self.list) < ASK_AGAIN)
    }
}

/// All containers of the engine, those that have ended too.
#[derive(Debug, Clone, PartialEq)]
pub struct Listing {
    /// When the run began that asked, on the monotonic clock.
    at: Duration,
    pub containers: Vec<Listed>,
}

/// One container as the list has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    pub id: Arc<str>,
    /// Without the slash; empty while it is removed.
    pub name: Arc<str>,
    pub state: State,
    /// For people: `Up 3 hours (healthy)`.
    status: String,
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Made and never started, or it could not be started.
    Created,
    Running,
    Paused,
    /// It ended, and the engine waits to start it once more.
    Restarting,
    Exited,
    Removing,
    /// It could not be removed.
    Dead,
    /// The engine has a word for it that we do not know.
    Unknown,
}

impl State {
    pub const ALL: [State; 8] = [
        State::Created,
        State::Running,
        State::Paused,
        State::Restarting,
        State::Exited,
        State::Removing,
        State::Dead,
        State::Unknown,
    ];

    pub fn name(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Paused => "paused",
            State::Restarting => "restarting",
            State::Exited => "exited",
            State::Removing => "removing",
            State::Dead => "dead",
            State::Unknown => "unknown",
        }
    }

    /// Docker's words and Podman's.
    fn of(word: &str) -> State {
        match word {
            "initialized" => State::Created,
            // It runs until it has stopped.
            "stopping" => State::Running,
            "stopped" => State::Exited,
            word => State::ALL.into_iter().find(|state| state.name() == word).unwrap_or(State::Unknown),
        }
    }

    /// Whether processes of it are there.
    pub fn is_alive(self) -> bool {
        matches!(self, State::Running | State::Paused)
    }
}

impl Serialize for State {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// What the container's own health check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Starting,
    Healthy,
    Unhealthy,
}

/// One container as it says of itself. What the engine did not tell is `None`.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub id: Arc<str>,
    pub name: Arc<str>,
    pub state: State,
    /// As it was named when the container was made, whatever has that name now.
    pub image: Option<String>,
    /// Of one that has ended, or could not be started.
    pub exit_code: Option<i64>,
    /// Whether it ended because its memory was used up.
    pub oom_killed: Option<bool>,
    /// By the engine, since somebody started it.
    pub restart_count: Option<u64>,
    /// Its latest start.
    pub started_at: Option<Timestamp>,
    /// Its latest end.
    pub finished_at: Option<Timestamp>,
    /// `None` also where it has no health check.
    pub health: Option<Health>,
    /// Of its first process, as the engine's machine numbers them.
    pub pid: Option<u32>,
    /// Where its control group hangs, if not where the engine puts all.
    pub cgroup_parent: Option<String>,
}

impl Container {
    /// What the list alone tells.
    fn listed(listed: &Listed) -> Container {
        Container {
            id: listed.id.clone(),
            name: listed.name.clone(),
            state: listed.state,
            image: None,
            exit_code: None,
            oom_killed: None,
            restart_count: None,
            started_at: None,
            finished_at: None,
            health: None,
            pid: None,
            cgroup_parent: None,
        }
    }
}

/// Why the engine did not tell. None of these says that a container is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// We may not ask: by the socket's permissions, or by a proxy before it.
    Denied(Denied),
    /// No socket.
    Missing(PathBuf),
    /// A socket, and nobody listens.
    Refused(PathBuf),
    TimedOut(PathBuf),
    /// Somebody listens, and does not answer as an engine does.
    Broken(String),
    /// `DOCKER_HOST` names something else than a unix socket.
    Elsewhere,
}

impl Error {
    pub fn cause(&self) -> Cause {
        match self {
            Error::Denied(_) => Cause::Denied,
            _ => Cause::Unanswered,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Denied(_) => f.write_str("ask Docker"),
            Error::Missing(socket) => write!(
                f,
                "ask Docker: no socket {}: is Docker there, and if we run in a container, is its socket mounted? \
                 `socket` in [docker] names another; `enabled = false` switches a collector off",
                socket.display()
            ),
            Error::Refused(socket) => write!(f, "ask Docker: nobody listens at {}", socket.display()),
            Error::TimedOut(socket) => {
                write!(f, "ask Docker: no answer from {} within {}", socket.display(), Span(PATIENCE))
            }
            Error::Broken(text) => write!(f, "ask Docker: {text}"),
            Error::Elsewhere => f.write_str(
                "ask Docker: DOCKER_HOST is not unix:// and a path, and nothing else is asked: name a socket with \
                 `socket` in [docker]",
            ),
        }
    }
}

impl std::error::Error for Error {
    /// So that a refusal is found in the chain of causes.
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Denied(denied) => Some(denied),
            _ => None,
        }
    }
}

impl Docker {
    /// By the configuration, else by the value of `DOCKER_HOST`, else where the engine listens by default.
    pub fn new(config: &Config, docker_host: Option<OsString>) -> Docker {
        match (&config.socket, docker_host.filter(|host| !host.is_empty())) {
            (Some(socket), _) => Docker::at(socket),
            (None, Some(host)) => Docker { socket: unix_socket(&host), ..Docker::default() },
            (None, None) => Docker::default(),
        }
    }

    /// The engine behind this socket.
    pub fn at(socket: impl Into<PathBuf>) -> Docker {
        Docker { socket: Some(socket.into()), listed: Arc::default(), known: Arc::default() }
    }

    /// All containers, at most a second older than the run that began at `now`. Who asks while another does waits for
    /// the same answer.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list(&self, now: Now) -> Result<Arc<Listing>, Error> {
        let mut listed = self.listed.lock().await;
        if let Some(answered) = listed.as_ref().filter(|answered| answered.serves(now.mono)) {
            return answered.outcome.clone();
        }
        let outcome = self.ask_list(now.mono).await.map(Arc::new);
        *listed = Some(Answered { asked: now.mono, ended: Now::read().mono, outcome: outcome.clone() });
        outcome
    }

    /// The container of this name. `None`: a good answer has none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn inspect(&self, name: &str, now: Now) -> Result<Option<Arc<Container>>, Error> {
        Ok(self.inspect_all(now, |listed| listed == name).await?.pop())
    }

    /// Every container whose name is wanted, as it says of itself.
    ///
    /// One that cannot be read alone is told as the list has it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn inspect_all(&self, now: Now, wanted: impl Fn(&str) -> bool) -> Result<Vec<Arc<Container>>, Error> {
        let list = self.list(now).await?;
        let deadline = Instant::now() + PATIENCE;
        let mut containers = Vec::new();
        for listed in list.containers.iter().filter(|listed| wanted(&listed.name)) {
            match self.inspect_one(list.at, listed, deadline).await {
                Ok(container) => containers.extend(container),
                Err(Error::Broken(_)) => containers.push(Container::listed(listed).into()),
                Err(error) => return Err(error),
            }
        }
        Ok(containers)
    }

    async fn ask_list(&self, now: Duration) -> Result<Listing, Error> {
        let (status, body) = self.ask("/containers/json?all=true", Instant::now() + PATIENCE).await?;
        let rows: Vec<Row> = good(status, &body)?;
        let containers: Vec<Listed> = rows.into_iter().filter_map(Row::listed).collect();
        self.known().retain(|id, _| containers.iter().any(|listed| listed.id == *id));
        Ok(Listing { at: now, containers })
    }

    /// `None` if it has gone since it was listed.
    async fn inspect_one(
        &self,
        list: Duration,
        listed: &Listed,
        deadline: Instant,
    ) -> Result<Option<Arc<Container>>, Error> {
        if let Some(known) = self.known().get(&listed.id).filter(|known| known.stands(list, listed)) {
            return Ok(Some(known.container.clone()));
        }
        let (status, body) = self.ask(&format!("/containers/{}/json", listed.id), deadline).await?;
        if is_gone(status, &body) {
            return Ok(None);
        }
        let container = Arc::new(good::<Inspected>(status, &body)?.container(listed));
        let known = Known { list, state: listed.state, status: listed.status.clone(), container: container.clone() };
        self.known().insert(listed.id.clone(), known);
        Ok(Some(container))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one way out: a GET, with a connection of its own.
    async fn ask(&self, path: &str, deadline: Instant) -> Result<(u16, Bytes), Error> {
        let socket = self.socket.as_ref().ok_or(Error::Elsewhere)?;
        let talking = async {
            let stream = UnixStream::connect(socket).await.map_err(|error| not_connected(socket, &error))?;
            let request = Request::get(path).header(HOST, "docker").header(CONNECTION, "close").body(Empty::new());
            let request = request.map_err(|_| Error::Broken("a container's id is none".to_owned()))?;
            let answer = http::exchange(stream, request, Some(BODY_LIMIT)).await;
            answer.map_err(|error| Error::Broken(error.to_string()))
        };
        let (head, body) = timeout_at(deadline, talking).await.map_err(|_| Error::TimedOut(socket.clone()))??;
        Ok((head.status.as_u16(), body))
    }
}

fn not_connected(socket: &Path, error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => Error::Missing(socket.to_owned()),
        ErrorKind::PermissionDenied => Error::Denied(Denied(format!(
            "open {}: permission denied; run in the group that the socket belongs to (`docker`), which is as good as \
             root, or behind a proxy that lets GET /containers pass",
            socket.display()
        ))),
        ErrorKind::ConnectionRefused => Error::Refused(socket.to_owned()),
        _ => Error::Broken(format!("connect to {}: {error}", socket.display())),
    }
}

/// What an answer of 200 says. An error of the engine is not quoted: it may name anything.
fn good<T: DeserializeOwned>(status: u16, body: &[u8]) -> Result<T, Error> {
    match status {
        200 => serde_json::from_slice(body).map_err(|error| {
            let fault = if error.is_data() { "JSON of another shape" } else { "something that is no JSON" };
            Error::Broken(format!("it answered with {fault} (line {} column {})", error.line(), error.column()))
        }),
        401 | 403 => Err(Error::Denied(Denied(format!(
            "it answered with status {status}: a proxy before it must let GET /containers pass"
        )))),
        status => Err(Error::Broken(format!("it answered with status {status}"))),
    }
}

/// Whether the engine itself says that there is no such container.
fn is_gone(status: u16, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Fault {
        message: String,
    }
    let says = |fault: Fault| fault.message.to_ascii_lowercase().contains("no such container");
    status == 404 && serde_json::from_slice(body).is_ok_and(says)
}

/// What we read of an entry of the list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Row {
    id: Arc<str>,
    /// Null while it is removed.
    names: Option<Vec<String>>,
    #[serde(default)]
    state: String,
    #[serde(default)]
    status: String,
}

impl Row {
    /// `None` if its id is none, which would not be safe to ask for.
    fn listed(self) -> Option<Listed> {
        let is_id = !self.id.is_empty() && self.id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        // `/other/alias` is what a linked container calls it.
        let mut names = self.names.iter().flatten().map(|name| name.strip_prefix('/').unwrap_or(name));
        let name = names.find(|name| !name.contains('/')).unwrap_or_default().into();
        is_id.then(|| Listed { id: self.id, name, state: State::of(&self.state), status: self.status })
    }
}

/// What we read of a container's own answer: not its environment, not its command.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    state: Stated,
    restart_count: Option<u64>,
    config: Option<Made>,
    host_config: Option<Placed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Stated {
    status: String,
    #[serde(rename = "OOMKilled")]
    oom_killed: Option<bool>,
    pid: Option<u32>,
    exit_code: Option<i64>,
    started_at: Option<String>,
    finished_at: Option<String>,
    health: Option<Checked>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checked {
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Made {
    image: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Placed {
    cgroup_parent: Option<String>,
}

impl Inspected {
    fn container(self, listed: &Listed) -> Container {
        let state = State::of(&self.state.status);
        Container {
            state,
            image: self.config.and_then(|config| config.image),
            exit_code: self.state.exit_code.filter(|&code| is_of_its_end(state, code)),
            oom_killed: self.state.oom_killed,
            restart_count: self.restart_count,
            started_at: self.state.started_at.as_deref().and_then(moment),
            finished_at: self.state.finished_at.as_deref().and_then(moment),
            health: self.state.health.and_then(|health| health.status.parse().ok()),
            pid: self.state.pid.filter(|&pid| pid > 0),
            cgroup_parent: self.host_config.and_then(|host| host.cgroup_parent).filter(|parent| !parent.is_empty()),
            ..Container::listed(listed)
        }
    }
}

/// The engine says 0 of one that runs, and of one that was never started.
fn is_of_its_end(state: State, code: i64) -> bool {
    match state {
        State::Exited | State::Dead | State::Restarting | State::Removing => true,
        State::Created => code != 0,
        State::Running | State::Paused | State::Unknown => false,
    }
}

impl std::str::FromStr for Health {
    type Err = ();

    fn from_str(word: &str) -> Result<Health, ()> {
        match word {
            "starting" => Ok(Health::Starting),
            "healthy" => Ok(Health::Healthy),
            "unhealthy" => Ok(Health::Unhealthy),
            _ => Err(()),
        }
    }
}

/// The engine writes the year 1 where there was no such moment.
fn moment(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|&at: &Timestamp| at > Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
pub mod fake;

#[cfg(test)]
mod tests;
