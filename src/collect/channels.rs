//! Channels: which of them the host calls connected, and whether its own database contradicts it.
//!
//! Only the running host knows its channels, so a host that does not answer makes them unknown; one that is starting is
//! given its time. pynchy's `/status` may cost it a lot (see `Host::status_poll`); where it is not to be polled, `/health`
//! says whether any channel is connected.
//!
//! That page breaks by itself, too: one broken worktree or a locked database makes an error (500, 503) of all of it, or lets
//! it hang. While `/health`
//! is well this is the page's fault and not the channels', and nobody's readiness may hang on it, as that would pass on
//! the very fault for which we stand outside. What `/health` says is taken then: that any is connected. If none is, each is
//! known to be lost; if there is but one, it is known too; of several nobody can tell which, so each keeps its verdict
//! (`Excused`) and the host is `degraded` until the page is back. An outage of one among several is not seen meanwhile.
//! Before this run has read the page once, it does not know which there are: that any is connected must not stand for all
//! of them, or a verdict that was kept would be dropped as that of a channel that is no longer listed.
//!
//! The interval `I` of the checks is that of the polls. After one that failed the loop asks again sooner (`RETRY`), which
//! adds observations between: never a bad one more than the host said, and an unknown one weighs as any other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::collect::Collector;
use crate::collect::connectors::{self, Connector};
use crate::collect::deliveries::{self, Waiting};
use crate::collect::host_api::{HEALTH, HEALTH_AGE, HostApi, is_silence, while_starting};
use crate::collect::http::ask_all;
use crate::collect::{API_FIX, Needs, STATUS_COST};
use crate::fact::{Bound, Check, Fact, Severity};
use crate::host::generic::{Endpoint, Pointer};
use crate::host::{Host, Profile};
use crate::sample::{Excused, Now, Points};
use crate::source::Sources;
use crate::source::http::{self, NotGood};
use crate::source::sqlite::{Database, Followed, Reader};

/// Costs pynchy a hundred git processes, and with LiteLLM in front a billed call to every model.
const STATUS: &str = "/status";
/// What `/health` said longer ago does not vouch for a host whose `/status` fails now.
const JUST_NOW: Duration = Duration::from_secs(10);
/// Where it is not told which: whether any channel is connected.
const ANY: &str = "any";

/// Nothing to set but what the loop takes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// `/status.channels`: by name, as the host calls it.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Section {
    channels: BTreeMap<Arc<str>, Channel>,
}

/// What is known of one channel.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Channel {
    /// By the host's word; null if it does not know either.
    connected: Option<bool>,
    /// In the host's own word, if it has one.
    status: Arc<str>,
    /// When we first saw it so; a restart of the sidecar begins anew.
    since: Timestamp,
    /// Where the host said it.
    source: Arc<str>,
    #[serde(skip)]
    evidence: Evidence,
    /// That it is not known is no fault of it: the host is starting.
    #[serde(skip)]
    excused: bool,
}

/// What the host's deliveries say of a channel's word.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Evidence {
    /// There is none: the host has no database, or no channel of its own is meant.
    Unmeasured,
    Unknown,
    Contradicts(bool),
}

static CONNECTED: Fact = Fact::gauge(
    "agenthost.channel.connected",
    "agenthost_channel_connected",
    "1 if the channel is connected by the host's own word, 0 if not; absent while the host does not say. The channel \
     `any` is whether any is.",
)
.of(&["channel"]);

static CONTRADICTED: Fact = Fact::gauge(
    "agenthost.channel.contradicted",
    "agenthost_channel_contradicted",
    "1 if the host calls the channel connected while deliveries to it err or have waited over ten minutes, else 0; absent \
     where one of both is not known.",
)
.of(&["channel"]);

static SINCE: Fact = Fact::gauge(
    "agenthost.channel.since_timestamp_seconds",
    "agenthost_channel_since_timestamp_seconds",
    "When the exporter first saw the channel in the state it is in (Unix time).",
)
.of(&["channel"]);

/// Asks the host, remembers since when it says the same, and looks for what contradicts it.
pub struct Channels {
    word: Word,
    /// `None` of a host that is asked at its listed endpoints only.
    api: Option<HostApi>,
    listed: Vec<Endpoint>,
    sources: Sources,
    run: Duration,
    ledger: Option<Ledger>,
    seen: BTreeMap<Arc<str>, (State, Timestamp)>,
}

/// Where the host says it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Word {
    /// pynchy, of each channel.
    Status,
    /// pynchy, whether any is connected.
    Health,
    /// netclaw, of each connector.
    Connectors,
    /// An endpoint of `[[collect.http]]`, of the channels that the configuration names.
    Listed,
}

/// What the host says of one channel.
#[derive(Debug, Clone, PartialEq)]
struct State {
    connected: Option<bool>,
    status: Arc<str>,
    source: Arc<str>,
}

impl Collector for Channels {
    const NAME: &'static str = "channels";
    const EVERY: Duration = Duration::from_secs(60);
    const RETRY: Option<Duration> = Some(Duration::from_secs(15));
    const ASKS_STATUS: bool = true;
    const FACTS: &'static [&'static Fact] = &[&CONNECTED, &CONTRADICTED, &SINCE];
    const CHECKS: &'static [Check] = &[
        Check {
            name: "channel_connected",
            fact: &CONNECTED,
            bad: Bound::Below(1.0),
            severity: Severity::Critical,
            fail_for: Duration::from_secs(2 * 60),
            headline: "{} disconnected",
            means: "The host has lost the channel, as it says itself: nobody there reaches an agent.",
        },
        Check {
            name: "channel_contradicted",
            fact: &CONTRADICTED,
            bad: Bound::Above(0.0),
            severity: Severity::Warning,
            fail_for: Duration::from_secs(10 * 60),
            headline: "{} called connected but not delivering",
            means: "The host calls the channel connected, and yet what it sends there does not arrive.",
        },
    ];
    const NEEDS: Needs =
        Needs { reads: "the host's own status, and deliveries in its database", fix: API_FIX, costs: STATUS_COST };
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, host: &Host, sources: &Sources) -> Result<Option<Channels>> {
        let listed: Vec<_> =
            host.listed.http.iter().filter(|endpoint| !endpoint.channels.is_empty()).cloned().collect();
        let own = Word::of(host).zip(HostApi::new(host, sources));
        if own.is_none() && listed.is_empty() {
            return Ok(None);
        }
        let (word, api) = own.map_or((Word::Listed, None), |(word, api)| (word, Some(api)));
        Ok(Some(Channels {
            word,
            api,
            listed,
            sources: sources.clone(),
            run: Channels::TIMEOUT,
            ledger: host.database.as_ref().filter(|_| word == Word::Status).map(|path| Ledger::new(path)),
            seen: BTreeMap::new(),
        }))
    }

    fn within(&mut self, timeout: Duration) {
        self.run = timeout;
        if let Some(api) = &mut self.api {
            api.within(timeout);
        }
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        let starting = self.sources.boot.is_under_way(now);
        let excuse = while_starting(&self.sources.boot, now);
        let (said, silent) = self.ask(now).await.map_err(excuse)?;
        let ledger = self.ledger.as_mut().map(|ledger| ledger.look(now));
        let seen = std::mem::take(&mut self.seen);
        self.seen = said.into_iter().map(|(name, state)| remember(&seen, name, state, now.wall)).collect();
        let channel = |(name, (state, since)): (&Arc<str>, &(State, Timestamp))| {
            let evidence = ledger.as_ref().map_or(Evidence::Unmeasured, |ledger| ledger.judge(name, state, now.wall));
            let State { connected, status, source } = state.clone();
            let excused = starting && connected.is_none() && silent.contains(&source);
            (name.clone(), Channel { connected, status, since: *since, source, evidence, excused })
        };
        Ok(Section { channels: self.seen.iter().map(channel).collect() })
    }

    fn points(section: &Section, points: &mut Points) {
        let number = |yes: bool| f64::from(u8::from(yes));
        for (name, channel) in &section.channels {
            match channel.excused {
                true => points.excuse(&CONNECTED, [name], None),
                false => points.put(&CONNECTED, [name], channel.connected.map(number)),
            }
            points.put(&SINCE, [name], channel.since.as_millisecond() as f64 / 1000.0);
            match channel.evidence {
                Evidence::Unmeasured => {}
                Evidence::Unknown => points.put(&CONTRADICTED, [name], None),
                Evidence::Contradicts(yes) => points.put(&CONTRADICTED, [name], number(yes)),
            }
        }
    }
}

/// With the moment at which it was first seen so, whoever says it.
fn remember(
    seen: &BTreeMap<Arc<str>, (State, Timestamp)>,
    name: Arc<str>,
    state: State,
    now: Timestamp,
) -> (Arc<str>, (State, Timestamp)) {
    let is_same = |known: &State| (known.connected, &known.status) == (state.connected, &state.status);
    let since = seen.get(&name).filter(|(known, _)| is_same(known)).map_or(now, |(_, since)| *since);
    (name, (state, since))
}

impl Word {
    /// `None` if this host says nothing of channels, or is not to be asked.
    fn of(host: &Host) -> Option<Word> {
        match (host.profile, host.status_poll) {
            (Profile::Pynchy, Some(_)) => Some(Word::Status),
            (Profile::Pynchy, None) => Some(Word::Health),
            (Profile::Netclaw, Some(_)) => Some(Word::Connectors),
            _ => None,
        }
    }

    fn path(self) -> &'static str {
        match self {
            Word::Status => STATUS,
            Word::Health => HEALTH,
            Word::Connectors => connectors::PATH,
            Word::Listed => "",
        }
    }
}

/// The part of `/status` that we read.
#[derive(Deserialize)]
struct StatusAnswer {
    channels: BTreeMap<String, Value>,
}

/// The part of `/health` that we read.
#[derive(Deserialize)]
struct HealthAnswer {
    channels_connected: bool,
}

impl Channels {
    /// What was said, and which sources said nothing.
    ///
    /// # Errors
    /// Nobody told of any channel: why the first did not.
    async fn ask(&mut self, now: Now) -> Result<(BTreeMap<Arc<str>, State>, BTreeSet<Arc<str>>)> {
        let (mut said, mut silent) = (self.ask_host(now).await?, BTreeSet::new());
        let answers = ask_all(&self.listed, &self.sources, self.run, now).await;
        let heard = self.api.is_some() || answers.iter().any(Result::is_ok);
        for (endpoint, answer) in self.listed.iter().zip(answers) {
            match answer {
                Err(error) if !heard => return Err(error),
                answer => {
                    let is_silent = answer.as_ref().is_err_and(is_silence);
                    silent.extend(is_silent.then(|| source_of(endpoint)));
                    said.extend(State::of_endpoint(endpoint, answer.as_ref().ok()));
                }
            }
        }
        Ok((said, silent))
    }
}

impl Channels {
    async fn ask_host(&mut self, now: Now) -> Result<BTreeMap<Arc<str>, State>> {
        let Some(api) = &mut self.api else { return Ok(BTreeMap::new()) };
        match self.word.ask(api, now).await {
            Ok(mut said) => {
                // Once listed it stays: what is critical cannot leave without a trace.
                if self.seen.contains_key(ANY) {
                    let any = State::any(&said);
                    said.insert(ANY.into(), any);
                }
                Ok(said)
            }
            Err(error) if self.word != Word::Status || !is_of_the_page(&error) => Err(error),
            Err(error) => match api.briefly::<HealthAnswer>(HEALTH, now, JUST_NOW).await {
                Ok(health) => self.by_health(health.channels_connected, &error),
                Err(_) => Err(error),
            },
        }
    }

    /// What is known by `/health` while `/status` is an error.
    ///
    /// # Errors
    /// `Excused`: of several channels nobody can tell which are connected, and of none listed yet (by this run: verdicts
    /// may have been kept) not even which there are.
    fn by_health(&self, any: bool, error: &anyhow::Error) -> Result<BTreeMap<Arc<str>, State>> {
        let own = |state: &State| matches!(&*state.source, STATUS | HEALTH);
        let known = self.seen.iter().filter(|(name, (state, _))| &***name != ANY && own(state));
        let mut known: Vec<Arc<str>> = known.map(|(name, _)| name.clone()).collect();
        let lists_any = self.seen.contains_key(ANY);
        if any && (known.len() > 1 || known.is_empty() && !lists_any) {
            return Err(anyhow!(Excused(format!(
                "{error:#}; {HEALTH} is well and says that a channel is connected, not which"
            ))));
        }
        if known.is_empty() || lists_any {
            known.push(ANY.into());
        }
        Ok(known.into_iter().map(|name| (name, State::plain(Some(any), HEALTH))).collect())
    }
}

/// So pynchy's status page fails by itself. Another answer is that of something else, or of another version.
fn is_of_the_page(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(NotGood(500 | 503)))
            || matches!(cause.downcast_ref(), Some(http::Error::TimedOut { .. }))
    })
}

impl Word {
    async fn ask(self, api: &mut HostApi, now: Now) -> Result<BTreeMap<Arc<str>, State>> {
        let path = self.path();
        match self {
            Word::Status => {
                let said: StatusAnswer = api.status(path, now).await?;
                said.channels.into_iter().map(|(name, value)| Ok((named(name)?, State::of(&value, path)))).collect()
            }
            Word::Health => {
                let said: HealthAnswer = api.json(path, now, HEALTH_AGE).await?;
                Ok([(ANY.into(), State::plain(Some(said.channels_connected), path))].into())
            }
            Word::Connectors => {
                let said: connectors::Answer = api.status(path, now).await?;
                let channels = said.connectors.into_iter().filter(is_channel);
                channels.map(|one| Ok((named(one.key.clone())?, State::of_connector(&one, path)))).collect()
            }
            Word::Listed => Ok(BTreeMap::new()),
        }
    }
}

/// MCP servers are no channels, and the local terminal is none that can be lost.
fn is_channel(connector: &Connector) -> bool {
    connector.is_on() && connector.key != "tui" && !connector.key.starts_with("mcp:")
}

/// It becomes a label, so it is a name and not a text.
fn named(name: String) -> Result<Arc<str>> {
    ensure!(name.len() <= 200, "a channel's name has over 200 bytes");
    Ok(name.into())
}

impl State {
    /// Hosts say `true`, or `{"connected": true, "status": "…"}`; whatever else is a channel of which nothing is known.
    fn of(value: &Value, source: &str) -> State {
        let connected = value.as_bool().or_else(|| value.get("connected")?.as_bool());
        let plain = State::plain(connected, source);
        match value.get("status").and_then(Value::as_str).filter(|status| is_word(status)) {
            Some(status) => State { status: status.into(), ..plain },
            None => plain,
        }
    }

    /// netclaw's word, shown also where we do not know it.
    fn of_connector(connector: &Connector, source: &str) -> State {
        let status = connector.status.as_deref().filter(|status| is_word(status)).unwrap_or("unknown");
        State { connected: connector.state().1, status: status.into(), source: source.into() }
    }

    /// The channels that are mapped to an endpoint, as it says, or unknown if it says nothing.
    fn of_endpoint(endpoint: &Endpoint, answer: Option<&Value>) -> Vec<(Arc<str>, State)> {
        let source = source_of(endpoint);
        let state = |pointer: &Pointer| {
            let plain = State::plain(answer.and_then(|answer| endpoint.truth(pointer, answer)), &source);
            match answer.and_then(|answer| endpoint.word(pointer, answer)) {
                Some(word) => State { status: word.into(), ..plain },
                None => plain,
            }
        };
        endpoint.channels.iter().map(|(name, pointer)| (name.0.clone(), state(pointer))).collect()
    }

    /// Of all channels together.
    fn any(said: &BTreeMap<Arc<str>, State>) -> State {
        let has = |connected| said.values().any(|state| state.connected == connected);
        let any = if has(Some(true)) || has(None) { has(Some(true)).then_some(true) } else { Some(false) };
        State::plain(any, STATUS)
    }

    fn plain(connected: Option<bool>, source: &str) -> State {
        let status = match connected {
            Some(true) => "connected",
            Some(false) => "disconnected",
            None => "unknown",
        };
        State { connected, status: status.into(), source: source.into() }
    }
}

fn source_of(endpoint: &Endpoint) -> Arc<str> {
    format!("http {}", endpoint.name).into()
}

/// It is shown, so it must be a word and not a text.
fn is_word(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    (1..=32).contains(&text.len()) && text.bytes().all(plain)
}

/// The host's deliveries, read again only when its database changed.
struct Ledger {
    followed: Followed,
    waiting: BTreeMap<String, Waiting>,
}

/// What waits on each channel; `None` if the database cannot be read.
struct Looked<'a>(Option<&'a BTreeMap<String, Waiting>>);

impl Ledger {
    fn new(path: &std::path::Path) -> Ledger {
        Ledger { followed: Followed::new(Database::new(path)), waiting: BTreeMap::new() }
    }

    /// Why it cannot be read, the collector of messages says.
    fn look(&mut self, now: Now) -> Looked<'_> {
        Looked(self.read(now).is_ok().then_some(&self.waiting))
    }

    fn read(&mut self, now: Now) -> Result<()> {
        if let Some(stamp) = self.followed.news()? {
            self.waiting = waiting(&self.followed.open(&stamp, &deliveries::TABLES)?)?;
            self.followed.was_read(stamp, now);
        }
        Ok(())
    }
}

fn waiting(reader: &Reader) -> Result<BTreeMap<String, Waiting>> {
    let mut all = BTreeMap::new();
    for name in deliveries::channels(reader)? {
        if let Some(text) = name.as_str() {
            all.insert(text.to_owned(), deliveries::waiting(reader, &name)?);
        }
    }
    Ok(all)
}

impl Looked<'_> {
    /// A channel that is not called connected is not contradicted, whatever waits.
    fn judge(&self, name: &str, state: &State, now: Timestamp) -> Evidence {
        match (self.0, state.connected) {
            (_, Some(false)) => Evidence::Contradicts(false),
            (None, _) | (_, None) => Evidence::Unknown,
            (Some(waiting), Some(true)) => match waiting.get(name) {
                None => Evidence::Contradicts(false),
                Some(waiting) if waiting.erroring > 0 => Evidence::Contradicts(true),
                Some(waiting) => waiting
                    .oldest_age(now)
                    .map_or(Evidence::Unknown, |age| Evidence::Contradicts(age > deliveries::LATE)),
            },
        }
    }
}

#[cfg(test)]
mod tests;
