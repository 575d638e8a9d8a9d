//! The Docker engine, asked over its unix socket with GET alone: one list that all who ask share, and what each
//! container says of itself, asked anew only when the list says something new of it.
//!
//! bollard words the questions and reads the answers; the connection under it is ours, so that it is known why there is
//! none, that nothing but GET leaves, and that no answer is longer than it may be. The paths name no version of the API: an
//! engine then answers in the newest that it has, and no question is spent on finding out.
//!
//! bollard knows closed sets of words. One that it does not know (a state, a port's protocol; Podman says `stopped` for a
//! moment) makes a whole answer unreadable. If that is the list, those who ask get lists of the names that they
//! asked for, so that a stranger's container blinds nobody; one of the host's own makes all that share its list unknown,
//! never absent. If it is one container's own answer, the list tells of that one, and the others are read.
//!
//! bollard also logs whole answers, and environments stand in them: Cargo.toml compiles all of `log` out.
//!
//! No stream of events: what happens between two lists stands in what the containers that are left say of themselves (how
//! often restarted, since when, killed for memory, exit code), and a stream is a connection to keep alive.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error as Fault;
use bollard::models::{ContainerInspectResponse, ContainerState, ContainerSummary};
use bollard::query_parameters::ListContainersOptionsBuilder;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, de};
use tokio::time::{Instant, timeout_at};

use crate::fact::Span;
use crate::sample::{Cause, Denied, Now};

mod line;

use line::{Line, TooLarge};

const SOCKET: &str = "/var/run/docker.sock";
/// How long the list may take, and then all that is asked of its containers.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long one container may take: a few that hang leave time for the others.
const PATIENCE_FOR_ONE: Duration = Duration::from_secs(2);
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
    /// Containers that did not answer when they were asked last.
    hung: Arc<Mutex<BTreeSet<Arc<str>>>>,
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
    /// As it was named when the container was made; its sum, if the name is another's by now.
    image: Option<String>,
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
    /// The engine has no word for it.
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

    /// By a word that bollard knows; none is no state that we know.
    fn of(word: Option<impl AsRef<str>>) -> State {
        match word.as_ref().map_or("", AsRef::as_ref) {
            // Podman's: it runs until it has stopped.
            "stopping" => State::Running,
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
    /// Why it said nothing of itself, so that the list alone tells of it.
    pub unread: Option<Error>,
}

impl Container {
    /// What the list alone tells.
    fn listed(listed: &Listed) -> Container {
        Container {
            id: listed.id.clone(),
            name: listed.name.clone(),
            state: listed.state,
            image: listed.image.clone(),
            exit_code: None,
            oom_killed: None,
            restart_count: None,
            started_at: None,
            finished_at: None,
            health: None,
            pid: None,
            cgroup_parent: None,
            unread: None,
        }
    }

    /// What the list tells, and what it said of itself before that stays as long as it is there.
    fn unread(listed: &Listed, before: Option<&Container>, why: Error) -> Container {
        let told = Container::listed(listed);
        Container {
            image: before.map_or(told.image, |before| before.image.clone()),
            cgroup_parent: before.and_then(|before| before.cgroup_parent.clone()),
            unread: Some(why),
            ..told
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
    /// It had so long.
    TimedOut(PathBuf, Duration),
    /// Somebody listens, and does not answer as an engine does.
    Broken(String),
    /// It answered with JSON in which something is not as we know it; this says what.
    Unreadable(String),
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
            Error::TimedOut(socket, after) => {
                write!(f, "ask Docker: no answer from {} within {}", socket.display(), Span(*after))
            }
            Error::Broken(text) | Error::Unreadable(text) => write!(f, "ask Docker: {text}"),
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
        Docker { socket: Some(socket.into()), listed: Arc::default(), known: Arc::default(), hung: Arc::default() }
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
        let outcome = self.ask_list(now.mono, Vec::new(), |_| true).await.map(Arc::new);
        *listed = Some(Answered { asked: now.mono, ended: Now::read().mono, outcome: outcome.clone() });
        outcome
    }

    /// The container of this name. `None`: a good answer has none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn inspect(&self, name: &str, now: Now) -> Result<Option<Arc<Container>>, Error> {
        let pattern = format!("^/?{}$", escaped(name));
        Ok(self.inspect_those(now, vec![pattern], |listed| listed == name).await?.pop())
    }

    /// Every container whose name is wanted, as it says of itself. Wanted names have one of these beginnings.
    ///
    /// One that cannot be read alone, or does not answer, is told as the list has it, and says why.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn inspect_all(
        &self,
        now: Now,
        beginnings: &[&str],
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Arc<Container>>, Error> {
        let patterns = beginnings.iter().map(|beginning| format!("^/?{}", escaped(beginning))).collect();
        self.inspect_those(now, patterns, wanted).await
    }

    async fn inspect_those(
        &self,
        now: Now,
        patterns: Vec<String>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Vec<Arc<Container>>, Error> {
        let list = self.list(now).await;
        let deadline = Instant::now() + PATIENCE;
        let list = match list {
            // It may be a stranger's container that has a new word.
            Err(Error::Unreadable(_)) => self.ask_list(now.mono, patterns, &wanted).await?.into(),
            list => list?,
        };
        let listed = list.containers.iter().filter(|listed| wanted(&listed.name)).enumerate();
        let mut listed: Vec<(usize, &Listed)> = listed.collect();
        listed.sort_by_key(|(_, listed)| self.hung().contains(&listed.id)); // ... so that the others are read first
        let rest = Mutex::new(listed.into_iter());
        let ask = || self.inspect_each(list.at, &rest, deadline);
        // One that hangs holds up one of these.
        let (one, two, three, four) = tokio::try_join!(ask(), ask(), ask(), ask())?;
        let mut told: Vec<_> = [one, two, three, four].into_iter().flatten().collect();
        told.sort_unstable_by_key(|(place, _)| *place);
        Ok(told.into_iter().map(|(_, container)| container).collect())
    }

    /// Asks one container after the other, with their places, until there is none left.
    async fn inspect_each<'l>(
        &self,
        list: Duration,
        rest: &Mutex<impl Iterator<Item = (usize, &'l Listed)>>,
        deadline: Instant,
    ) -> Result<Vec<(usize, Arc<Container>)>, Error> {
        let (mut told, mut line) = (Vec::new(), None);
        loop {
            let next = rest.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((place, listed)) = next else { return Ok(told) };
            match self.inspect_one(&mut line, list, listed, deadline).await {
                Ok(container) => {
                    self.hung().remove(&listed.id);
                    told.extend(container.map(|container| (place, container)));
                }
                Err(why @ (Error::TimedOut(..) | Error::Broken(_) | Error::Unreadable(_))) => {
                    if let Error::TimedOut(..) = why {
                        self.hung().insert(listed.id.clone());
                    }
                    let before = self.known().get(&listed.id).map(|known| known.container.clone());
                    told.push((place, Container::unread(listed, before.as_deref(), why).into()));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// All containers, or those whose names fit a pattern, which are wanted then.
    async fn ask_list(
        &self,
        now: Duration,
        patterns: Vec<String>,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Listing, Error> {
        let mut options = ListContainersOptionsBuilder::new().all(true);
        if !patterns.is_empty() {
            options = options.filters(&HashMap::from([("name", patterns)]));
        }
        let question = async |engine: &bollard::Docker| engine.list_containers(Some(options.build())).await;
        let rows = self.ask(&mut None, PATIENCE, question).await?;
        let containers: Vec<Listed> = rows.into_iter().map(Listed::of).collect::<Result<_, _>>()?;
        self.hung().retain(|id| containers.iter().any(|listed| listed.id == *id));
        self.known()
            .retain(|id, known| !wanted(&known.container.name) || containers.iter().any(|listed| listed.id == *id));
        Ok(Listing { at: now, containers })
    }

    /// `None` if it has gone since it was listed.
    async fn inspect_one(
        &self,
        line: &mut Option<Line>,
        list: Duration,
        listed: &Listed,
        deadline: Instant,
    ) -> Result<Option<Arc<Container>>, Error> {
        if let Some(known) = self.known().get(&listed.id).filter(|known| known.stands(list, listed)) {
            return Ok(Some(known.container.clone()));
        }
        let question = async |engine: &bollard::Docker| match engine.inspect_container(&listed.id, None).await {
            Err(fault) if is_gone(&fault) => Ok(None),
            answer => answer.map(Some),
        };
        let patience = deadline.saturating_duration_since(Instant::now()).min(PATIENCE_FOR_ONE);
        let Some(said) = self.ask(line, patience, question).await? else { return Ok(None) };
        let container = Arc::new(Container::of(said, listed)?);
        let known = Known { list, state: listed.state, status: listed.status.clone(), container: container.clone() };
        self.known().insert(listed.id.clone(), known);
        Ok(Some(container))
    }

    fn known(&self) -> std::sync::MutexGuard<'_, BTreeMap<Arc<str>, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hung(&self) -> std::sync::MutexGuard<'_, BTreeSet<Arc<str>>> {
        self.hung.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks over a line that stands, or over a new one, and leaves it there if it can be asked again.
    async fn ask<T>(
        &self,
        line: &mut Option<Line>,
        patience: Duration,
        question: impl AsyncFnOnce(&bollard::Docker) -> Result<T, Fault>,
    ) -> Result<T, Error> {
        let socket = self.socket.as_ref().ok_or(Error::Elsewhere)?;
        let deadline = Instant::now() + patience;
        let talking = async {
            let mut open = match line.take() {
                Some(line) => line,
                None => Line::open(socket).await.map_err(|error| not_connected(socket, &error))?,
            };
            let answer = open.ask(question).await;
            if answer.is_ok() && open.stands().await {
                *line = Some(open);
            }
            answer.map_err(|fault| not_told(socket, &fault))
        };
        timeout_at(deadline, talking).await.unwrap_or_else(|_| Err(Error::TimedOut(socket.clone(), patience)))
    }
}

/// A name as a pattern of names.
fn escaped(name: &str) -> String {
    let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
    let escape = |letter: char| (!is_plain(letter)).then_some('\\').into_iter().chain([letter]);
    name.chars().flat_map(escape).collect()
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

/// Why there is no answer. What came is not quoted: it may name anything.
fn not_told(socket: &Path, fault: &Fault) -> Error {
    match fault {
        Fault::DockerResponseServerError { status_code: status @ (401 | 403), .. } => Error::Denied(Denied(format!(
            "it answered with status {status}: a proxy before it must let GET /containers pass"
        ))),
        Fault::DockerResponseServerError { status_code, .. } => {
            Error::Broken(format!("it answered with status {status_code}"))
        }
        Fault::JsonDataError { message, column } => misread(message, *column),
        Fault::JsonSerdeError { err } => misread("", err.column()),
        Fault::HyperResponseError { err } if is_too_large(err) => Error::Broken(TooLarge.to_string()),
        Fault::HyperResponseError { err } if err.is_parse() => Error::Broken("answers, but not with HTTP".to_owned()),
        Fault::HyperResponseError { .. } => {
            Error::Broken("the connection broke off before the answer was whole".to_owned())
        }
        Fault::RequestTimeoutError => Error::TimedOut(socket.to_owned(), 2 * PATIENCE),
        _ => Error::Broken("it could not be asked".to_owned()),
    }
}

/// By the first words of what the parser says; the rest of it quotes the answer.
fn misread(message: &str, column: usize) -> Error {
    let begins = |words: &[&str]| words.iter().any(|word| message.starts_with(word));
    if begins(&["unknown variant", "Invalid enum"]) {
        Error::Unreadable(format!("it answered with a word that we do not know (column {column})"))
    } else if begins(&["invalid type", "invalid value", "invalid length", "missing field", "duplicate field"]) {
        Error::Unreadable(format!("it answered with JSON of another shape (column {column})"))
    } else {
        Error::Broken(format!("it answered with something that is no JSON (column {column})"))
    }
}

fn is_too_large(error: &hyper::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    io.and_then(std::io::Error::get_ref).is_some_and(|inner| inner.is::<TooLarge>())
}

/// Whether the engine itself says that there is no such container.
fn is_gone(fault: &Fault) -> bool {
    matches!(fault, Fault::DockerResponseServerError { status_code: 404, message }
        if message.to_ascii_lowercase().contains("no such container"))
}

impl Listed {
    fn of(row: ContainerSummary) -> Result<Listed, Error> {
        // It becomes part of a path.
        let is_id = |id: &String| !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
        let id = row.id.filter(is_id);
        let id = id.ok_or_else(|| Error::Unreadable("it listed a container without an id".to_owned()))?;
        // `/other/alias` is what a linked container calls it.
        let mut names = row.names.iter().flatten().map(|name| name.strip_prefix('/').unwrap_or(name));
        let name = names.find(|name| !name.contains('/')).unwrap_or_default().into();
        let (state, status) = (State::of(row.state), row.status.unwrap_or_default());
        Ok(Listed { id: id.into(), name, state, image: row.image, status })
    }
}

impl Container {
    /// As it says of itself. Nothing else of what it says is kept: not its environment, not its command.
    fn of(said: ContainerInspectResponse, listed: &Listed) -> Result<Container, Error> {
        let Some(ContainerState {
            status: Some(state),
            health,
            pid,
            exit_code,
            oom_killed,
            started_at,
            finished_at,
            ..
        }) = said.state
        else {
            return Err(Error::Unreadable("it told of a container without its state".to_owned()));
        };
        let state = State::of(Some(state));
        let parent = said.host_config.and_then(|host| host.cgroup_parent);
        Ok(Container {
            state,
            image: said.config.and_then(|config| config.image),
            exit_code: exit_code.filter(|&code| is_of_its_end(state, code)),
            oom_killed,
            restart_count: said.restart_count.and_then(|count| count.try_into().ok()),
            started_at: started_at.as_deref().and_then(moment),
            finished_at: finished_at.as_deref().and_then(moment),
            health: health.and_then(|health| health.status?.as_ref().parse().ok()),
            pid: pid.and_then(|pid| pid.try_into().ok()).filter(|&pid| pid > 0),
            cgroup_parent: parent.filter(|parent| !parent.is_empty()),
            ..Container::listed(listed)
        })
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
