//! What is asked of a gateway, when, with which key, and what it comes to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;

use super::containers::{self, look};
use super::credential::Credential;
use super::litellm::{self, Database, Health, Names};
use super::probe::{Auth, Read, Request, Seen, State, Wanted};
use super::provider::{self, Movement, Traffic};
use super::question::{Question, Told};
use super::settings::{ActiveHealth, Address, Watched, Written};
use super::{Active, Load, Paid, Probe, Word, can_serve, takes_connections};
use crate::fact::Span;
use crate::host::gateway::{Containers, Kind};
use crate::sample::{Denied, Now};
use crate::source::Sources;
use crate::source::boot::Boot;
use crate::source::budget::Ledger;
use crate::source::docker::Docker;
use crate::source::http::{self, Answer, Error, Http, Limits, Trust};
use crate::source::key::{Key, KeyFile};
use crate::source::process::instance;

/// A list of models may be long.
const BODY_LIMIT: usize = 4 * 1024 * 1024;
/// How long a run takes at most, unless told otherwise.
const RUN: Duration = Duration::from_secs(10);
/// In each run.
const NEAR: Duration = Duration::ZERO;
const MINUTE: Duration = Duration::from_secs(60);
const FIVE_MINUTES: Duration = Duration::from_secs(5 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// A virtual key waits ten seconds for a database that hangs.
const KEYED: Duration = Duration::from_secs(12);
const READINESS: Duration = Duration::from_secs(6);
const CONNECT: Duration = Duration::from_secs(2);
/// LiteLLM gives each model a minute.
const PAID: Duration = Duration::from_secs(75);
/// An answer of 429 is heeded for no longer.
const MOST_PATIENCE: Duration = Duration::from_secs(15 * 60);
/// What LiteLLM found before it tells in milliseconds. What takes longer was not found before.
const CACHED: Duration = Duration::from_secs(5);
/// How long it is not asked again then.
const NOT_CACHED: Duration = Duration::from_secs(60 * 60);

/// Asks one gateway.
pub struct Asker {
    pub watched: Watched,
    pub questions: Questions,
    http: Http,
    ca_file: Option<PathBuf>,
    docker: Docker,
    postgres: Option<Address>,
    key: Option<Credential>,
    admin: Option<Credential>,
    /// For all that is waited for in one run.
    patience: Duration,
    /// For each question whose silence is an answer.
    prompt: Duration,
    health: ModelHealth,
    /// `live` was asked with the key.
    live_was_keyed: bool,
    movement: Movement,
    boot: Boot,
}

/// Whether and how the health of models is asked for.
struct ModelHealth {
    mode: ActiveHealth,
    max_per_day: u32,
    ledger: Option<Ledger>,
    /// It was no memory that answered: not before this moment of the monotonic clock.
    not_before: Duration,
    refused: Option<String>,
    spent: Option<Vec<Timestamp>>,
    /// Checks in a row that found no model healthy.
    none_healthy: u32,
}

/// Everything that may be asked.
pub struct Questions {
    pub live: Question<Read<Option<usize>>>,
    pub readiness: Question<Read<Database>>,
    pub postgres: Question<Result<(), Error>>,
    pub containers: Question<containers::Told>,
    pub models: Question<Read<usize>>,
    /// The same with the admin key: whether that is one.
    pub admin_models: Question<Read<usize>>,
    pub loaded: Question<Read<usize>>,
    pub traffic: Question<Read<Traffic>>,
    pub names: Question<Read<Names>>,
    pub health: Question<Read<Option<Health>>>,
    pub latest: Question<Read<Option<Health>>>,
    pub spend: Question<Read<f64>>,
}

/// What was found of models.
pub enum Measured<'a> {
    /// Nobody may ask, or those who were asked have no such thing.
    Not,
    Unseen,
    Seen(&'a Health, Timestamp),
}

impl<'a> Measured<'a> {
    pub fn health(&self) -> Option<&'a Health> {
        match self {
            Measured::Seen(health, _) => Some(health),
            Measured::Not | Measured::Unseen => None,
        }
    }

    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Measured::Seen(_, at) => Some(*at),
            Measured::Not | Measured::Unseen => None,
        }
    }

    pub fn word(&self) -> Word {
        match self {
            Measured::Not => Word::Unmeasured,
            Measured::Unseen => Word::Unseen,
            Measured::Seen(..) => Word::Yes,
        }
    }
}

impl Asker {
    /// # Errors
    /// The configuration asks for what this gateway has not, or for a budget that nobody would keep.
    pub fn new(config: Written, watched: Watched, sources: &Sources) -> Result<Asker> {
        let mode = config.active_health;
        ensure!(
            matches!(mode, ActiveHealth::Auto | ActiveHealth::Never) || watched.kind == Kind::Litellm,
            "[collect.gateway] `active_health` is for LiteLLM only"
        );
        ensure!(
            mode != ActiveHealth::Paid || sources.ledger.is_some(),
            "[collect.gateway] `active_health = \"paid\"` needs `path` in [state]: what was spent is kept beside it"
        );
        let credential = |file: Option<PathBuf>| file.map(|file| Credential::new(KeyFile::new(file)));
        let (live_every, lag) = (provider::pace(watched.kind, &watched.url), lag(&watched));
        Ok(Asker {
            questions: Questions::new(Question::new(live_every).late_by(lag), mode),
            watched,
            http: sources.http.clone(),
            ca_file: config.ca_file,
            docker: sources.docker.clone(),
            postgres: config.postgres,
            key: credential(config.key_file),
            admin: credential(config.admin_key_file),
            patience: RUN * 4 / 5,
            prompt: RUN * 3 / 5,
            health: ModelHealth {
                mode,
                max_per_day: config.max_probes_per_day.unwrap_or(0),
                ledger: sources.ledger.clone(),
                not_before: Duration::ZERO,
                refused: None,
                spent: None,
                none_healthy: 0,
            },
            live_was_keyed: false,
            movement: Movement::default(),
            boot: sources.boot.clone(),
        })
    }

    /// What must be answered within a run ends before the run must, or a hung gateway would make us silent instead of it.
    pub fn within(&mut self, run: Duration) {
        (self.patience, self.prompt) = (run * 4 / 5, run * 3 / 5);
    }

    /// One run: asks what is due, and what the answers allow to be asked.
    ///
    /// # Errors
    /// The file of authorities cannot be used.
    pub async fn ask(&mut self, now: Now) -> Result<()> {
        let (http, patience) = (self.client()?, self.patience);
        let _ = tokio::time::timeout(patience, self.ask_all(now, &http)).await; // what is late comes at a later run
        self.questions.take().await;
        self.learn(now);
        Ok(())
    }

    async fn ask_all(&mut self, now: Now, http: &Http) {
        self.begin(now, http);
        self.questions.wait_for_keys().await;
        self.learn(now);
        self.begin(now, http);
        self.questions.wait(self.health.mode).await;
    }

    /// Read anew each time: a certificate may be replaced.
    fn client(&self) -> Result<Http> {
        let Some(file) = &self.ca_file else { return Ok(self.http.clone()) };
        let naming = |why: String| Denied(format!("read {}: {why}", file.display()));
        let pem = std::fs::read(file).map_err(|error| naming(error.to_string()))?;
        let trust = Trust::only(&pem).map_err(|error| naming(error.to_string()))?;
        Ok(self.http.clone().trusting(trust))
    }

    fn begin(&mut self, now: Now, http: &Http) {
        self.begin_live(now, http);
        self.begin_containers(now);
        self.begin_postgres(now);
        match self.watched.kind {
            Kind::Litellm => self.begin_litellm(now, http),
            Kind::Ollama => self.begin_ollama(now, http),
            Kind::Vllm => self.begin_vllm(now, http),
            Kind::Builtin | Kind::Openai | Kind::Anthropic | Kind::Gemini => {}
        }
    }

    /// Those that know no question without a key are asked without one while ours is refused: they still answer.
    fn begin_live(&mut self, now: Now, http: &Http) {
        if !self.questions.live.is_due(now) {
            return;
        }
        let (kind, url) = (self.watched.kind, self.watched.url.clone());
        let key = self.key.as_mut().filter(|_| provider::shows_key(kind)).and_then(|key| key.attempt(now));
        let mut request = provider::live(kind, &url, key.as_ref());
        request.time = request.time.min(self.prompt);
        let keyed = key.is_some();
        self.live_was_keyed = keyed;
        let http = http.clone();
        self.questions.live.ask(now, async move {
            let asked = fetch(&http, &request).await;
            if kind == Kind::Litellm {
                return Read { seen: litellm::alive(&asked), value: None };
            }
            let told = Read::of(&asked, request.wanted, |answer| provider::listed(kind, &url, answer));
            match provider::wants_key(kind) && !keyed {
                true => Read { seen: told.seen.without_key(), value: told.value },
                false => told,
            }
        });
    }

    fn begin_containers(&mut self, now: Now) {
        let names = self.watched.containers.clone();
        if names != Containers::default() && self.questions.containers.is_due(now) {
            self.questions.containers.ask(now, look(self.docker.clone(), names, now));
        }
    }

    fn begin_postgres(&mut self, now: Now) {
        if let Some(Address { host, port }) = self.postgres.clone()
            && self.questions.postgres.is_due(now)
        {
            let time = CONNECT.min(self.prompt);
            self.questions.postgres.ask(now, async move { http::reach(&host, port, time).await });
        }
    }

    fn begin_litellm(&mut self, now: Now, http: &Http) {
        if self.questions.readiness.is_due(now) {
            let request = self.request("/health/readiness", None, READINESS.min(self.prompt));
            let http = http.clone();
            let asking = async move { litellm::readiness(&fetch(&http, &request).await) };
            self.questions.readiness.ask(now, asking);
        }
        self.prove_keys(now, http);
        self.begin_health(now, http);
        self.begin_admin(now, http);
    }

    /// Each key is tried with the question that costs least; nothing else is asked with one that was not accepted.
    fn prove_keys(&mut self, now: Now, http: &Http) {
        let first = if self.key.is_some() { &mut self.key } else { &mut self.admin };
        if first.as_mut().is_some_and(Credential::is_new) {
            self.questions.models.hasten();
        }
        if self.questions.models.is_due(now)
            && let Some(key) = first.as_mut().and_then(|credential| credential.attempt(now))
        {
            let request = self.request("/v1/models", Some(&key), KEYED);
            ask(&mut self.questions.models, now, http, request, litellm::models);
        }
        if self.key.is_some()
            && self.questions.admin_models.is_due(now)
            && let Some(key) = self.admin.as_mut().and_then(|credential| credential.attempt(now))
        {
            let request = self.request("/v1/models", Some(&key), KEYED);
            ask(&mut self.questions.admin_models, now, http, request, litellm::models);
        }
    }

    fn any_key(&mut self) -> Option<Key> {
        let mut accepted = [&mut self.key, &mut self.admin].into_iter().flatten();
        accepted.find_map(Credential::accepted)
    }

    /// The health of models, if it costs nothing or is paid for; and then their names.
    fn begin_health(&mut self, now: Now, http: &Http) {
        if !self.questions.health.is_due(now) {
            return;
        }
        let Some(key) = self.any_key() else { return };
        let Some(time) = self.permission(now) else { return };
        let request = self.request("/health", Some(&key), time);
        ask(&mut self.questions.health, now, http, request, litellm::health);
        if self.questions.names.is_due(now) {
            let request = self.request("/model/info", Some(&key), KEYED);
            ask(&mut self.questions.names, now, http, request, litellm::names);
        }
    }

    /// How long LiteLLM may be given to tell of the health of its models; `None`: it must not be asked now.
    fn permission(&mut self, now: Now) -> Option<Duration> {
        if now.mono < self.health.not_before {
            return None;
        }
        let allowed = match self.health.mode {
            ActiveHealth::Never => Err("switched off by `active_health`".to_owned()),
            ActiveHealth::Auto => self.is_known_to_be_free().map(|()| Some(READINESS)),
            ActiveHealth::Background => Ok(Some(READINESS)),
            ActiveHealth::Paid => self.health.pay(now).map(|is_paid| is_paid.then_some(PAID)),
        };
        if allowed.is_err() && self.health.mode != ActiveHealth::Paid {
            self.questions.health.forget();
        }
        self.health.refused = allowed.as_ref().err().cloned();
        allowed.ok().flatten()
    }

    /// Its configuration file decides, at each question.
    ///
    /// # Errors
    /// It costs, or nobody tells.
    fn is_known_to_be_free(&self) -> Result<(), String> {
        let known = self.watched.own.as_ref().and_then(|own| own.background_health_checks());
        match known {
            Some(true) => Ok(()),
            Some(false) => {
                Err("LiteLLM does not check its models by itself: to ask would call each of them".to_owned())
            }
            None => {
                Err("nobody tells whether LiteLLM checks its models by itself (`active_health` would): to ask may \
                         call each of them"
                    .to_owned())
            }
        }
    }

    /// What only an admin may see.
    fn begin_admin(&mut self, now: Now, http: &Http) {
        let Some(key) = self.admin.as_mut().and_then(Credential::accepted) else { return };
        if self.health.refused.is_some() && self.questions.latest.is_due(now) {
            let request = self.request("/health/latest", Some(&key), READINESS);
            let read = move |answer: &Answer| litellm::latest(answer, now.wall);
            ask(&mut self.questions.latest, now, http, request, read);
        }
        if self.questions.spend.is_due(now) {
            let request = self.request("/global/spend", Some(&key), KEYED);
            ask(&mut self.questions.spend, now, http, request, litellm::spend);
        }
    }

    fn begin_ollama(&mut self, now: Now, http: &Http) {
        if self.questions.models.is_due(now) {
            let request = self.request("/api/tags", None, READINESS);
            ask(&mut self.questions.models, now, http, request, provider::ollama_models);
        }
        if self.questions.loaded.is_due(now) {
            let request = self.request("/api/ps", None, READINESS);
            ask(&mut self.questions.loaded, now, http, request, provider::ollama_models);
        }
    }

    fn begin_vllm(&mut self, now: Now, http: &Http) {
        if self.questions.traffic.is_due(now) {
            let request =
                Request { wanted: Wanted::Text, ..self.request("/metrics", None, READINESS.min(self.prompt)) };
            ask(&mut self.questions.traffic, now, http, request, provider::traffic);
        }
        if self.key.is_some() || self.admin.is_some() {
            self.prove_keys(now, http);
        } else if self.questions.models.is_due(now) {
            let request = self.request("/v1/models", None, READINESS);
            ask(&mut self.questions.models, now, http, request, litellm::models);
        }
    }

    fn request(&self, path: &str, key: Option<&Key>, time: Duration) -> Request {
        provider::keyed(self.watched.kind, &self.watched.url, path, key, time)
    }

    /// Takes note of what is new.
    fn learn(&mut self, now: Now) {
        let key_of_models = if self.key.is_some() { &mut self.key } else { &mut self.admin };
        learn(key_of_models, &mut self.questions.models, now);
        learn(&mut self.admin, &mut self.questions.admin_models, now);
        learn(&mut self.admin, &mut self.questions.latest, now);
        learn(&mut self.admin, &mut self.questions.spend, now);
        self.learn_live(now);
        self.learn_health(now);
        if let Some(told) = self.questions.traffic.news() {
            match &told.said.value {
                Some(traffic) => self.movement.follow(traffic, told.at.mono),
                // Nobody says any more how many run: a standstill that was seen before proves nothing now.
                None => self.movement = Movement::default(),
            }
        }
    }

    fn learn_live(&mut self, now: Now) {
        let Some(told) = self.questions.live.news() else { return };
        let seen = told.said.seen.clone();
        if let Some(key) = self.key.as_mut().filter(|_| self.live_was_keyed) {
            key.learn(&seen, now);
        }
        if seen.state == State::Limited {
            let wait = seen.retry_after.unwrap_or(MINUTE).min(MOST_PATIENCE);
            self.questions.live.postpone(now.mono + wait);
        }
    }

    fn learn_health(&mut self, now: Now) {
        let free = self.health.mode != ActiveHealth::Paid;
        let names = self.questions.names.latest().and_then(|told| told.said.value.as_ref());
        let Some(told) = self.questions.health.news() else { return };
        let seen = &told.said.seen;
        let was_slow = seen.state == State::Hung || seen.took.is_some_and(|took| took > CACHED);
        if free && was_slow {
            self.health.not_before = now.mono + NOT_CACHED;
            self.health.refused = Some(format!(
                "it took longer than {}, so LiteLLM did not know it before: asked again in {}",
                Span(CACHED),
                Span(NOT_CACHED)
            ));
        }
        let health = told.said.value.as_ref().and_then(Option::as_ref);
        if let Some(health) = health {
            self.health.none_healthy = if health.healthy == 0 { self.health.none_healthy.saturating_add(1) } else { 0 };
        }
        if let (Some(health), Some(names)) = (health, names)
            && health.is_unnamed(names)
        {
            self.questions.names.hasten();
        }
    }

    /// Whether it could serve, and why not.
    pub fn ready(&self) -> (Word, Option<String>) {
        match (self.watched.kind, self.movement.hangs_for()) {
            (Kind::Litellm, _) => self.litellm_is_ready(),
            (_, Some(standstill)) => {
                let reason = format!("no token has come for {} though requests run", Span(standstill));
                (Word::No, Some(reason))
            }
            (kind, None) => {
                let live = self.questions.live.latest().map(|told| &told.said.seen);
                let word = live.map_or(Word::Unseen, can_serve);
                // That it wants a key is all that it tells without one.
                let is_told = !provider::shows_key(kind) || live.is_none_or(|seen| seen.auth == Auth::Ok);
                (if word == Word::Yes && !is_told { Word::Unmeasured } else { word }, None)
            }
        }
    }

    fn litellm_is_ready(&self) -> (Word, Option<String>) {
        let Some(told) = self.questions.readiness.latest() else { return (Word::Unseen, None) };
        let postgres = self.questions.postgres.latest().map(|told| &told.said);
        litellm_is_ready(&told.said.seen, told.said.value, self.watched.expects_database, postgres)
    }

    /// Whether its database is connected, by its own word.
    pub fn database(&self) -> Word {
        let expected = self.watched.expects_database == Some(true);
        let told = self.questions.readiness.latest().and_then(|told| told.said.value);
        match told {
            Some(Database::Connected) => Word::Yes,
            Some(Database::Disconnected | Database::Stalled) => Word::No,
            Some(Database::NotConnected) if expected => Word::No,
            Some(Database::Unknown) | None if expected && self.watched.kind == Kind::Litellm => Word::Unseen,
            Some(Database::NotConnected | Database::Unknown) | None => Word::Unmeasured,
        }
    }

    pub fn configured_models(&self, now: Now) -> Option<usize> {
        let listed = self.questions.live.latest().and_then(|told| told.said.value.flatten());
        let asked = [&self.questions.models, &self.questions.admin_models];
        listed.or_else(|| asked.into_iter().find_map(|question| question.standing(now)?.said.value))
    }

    /// Whether the host is, and this gateway with it.
    pub fn is_starting(&self, now: Now) -> bool {
        self.watched.own.is_some() && self.boot.is_under_way(now)
    }

    pub fn names(&self) -> Option<&Names> {
        self.questions.names.latest()?.said.value.as_ref()
    }

    pub fn load(&self) -> Option<Load> {
        let Traffic { running, waiting, .. } = self.questions.traffic.latest()?.said.value?;
        let standstill = self.movement.standstill.map(|standstill| standstill.as_secs_f64());
        Some(Load { running, waiting, standstill_seconds: standstill })
    }

    pub fn credentials(&self) -> impl Iterator<Item = (&'static str, &Credential)> {
        let named = [("key", &self.key), ("admin_key", &self.admin)];
        named.into_iter().filter_map(|(name, credential)| Some((name, credential.as_ref()?)))
    }

    /// The health of models, as long as it counts.
    pub fn model_health(&self, now: Now) -> Measured<'_> {
        if !self.credentials().any(|(_, credential)| credential.is_accepted() == Some(true)) {
            return Measured::Not;
        }
        let (health, latest) = (self.questions.health.latest(), self.questions.latest.latest());
        match (health, latest) {
            (Some(told), _) if self.health.mode == ActiveHealth::Paid => self.health.of_paid(told, now),
            (Some(told), _) if self.health.refused.is_none() => fresh(told, now).map_or(Measured::Unseen, seen),
            (_, Some(told)) => of_latest(told, now),
            _ => Measured::Not,
        }
    }

    pub fn active(&self) -> Active {
        let health = &self.health;
        let spent = health.spent.as_ref();
        let paid = (health.mode == ActiveHealth::Paid).then(|| Paid {
            max_per_day: health.max_per_day,
            spent: spent.map(Vec::len),
            next_at: spent.and_then(|spent| health.next(spent)),
        });
        let refused = health.refused.clone().or_else(|| self.keyless());
        Active { mode: health.mode, refused, paid }
    }

    /// Why nothing is asked that needs a key.
    fn keyless(&self) -> Option<String> {
        let none = self.watched.kind == Kind::Litellm && self.key.is_none() && self.admin.is_none();
        let own = self.watched.own.as_ref().and_then(|own| own.own_key.as_ref());
        let hint = own.map(|own| format!("; the host's own is {own}")).unwrap_or_default();
        none.then(|| format!("no `key_file` in [collect.gateway]{hint}"))
    }
}

impl ModelHealth {
    /// Spread over the day.
    fn apart(&self) -> Duration {
        FIVE_MINUTES.max(DAY / self.max_per_day.max(1))
    }

    /// `None`: at once.
    fn next(&self, spent: &[Timestamp]) -> Option<Timestamp> {
        let latest = *spent.last()?;
        latest.checked_add(jiff::SignedDuration::try_from(self.apart()).ok()?).ok()
    }

    /// Spends one question if it is time, and answers whether it did.
    ///
    /// # Errors
    /// Nobody knows what was spent, so nothing may be.
    fn pay(&mut self, now: Now) -> Result<bool, String> {
        let ledger = self.ledger.as_ref().ok_or("there is no file that keeps the budget")?;
        let told = |error: anyhow::Error| format!("{error:#}");
        let spent = ledger.spent(now.wall).map_err(told)?;
        let is_time = self.next(&spent).is_none_or(|next| next <= now.wall);
        let may = is_time && spent.len() < self.max_per_day as usize;
        self.spent = Some(if may { ledger.spend(now.wall).map_err(told)? } else { spent });
        Ok(may)
    }

    /// What was paid for stands until the next time, and then nobody has asked.
    fn of_paid<'a>(&self, told: &'a Told<Read<Option<Health>>>, now: Now) -> Measured<'a> {
        let age = now.mono.saturating_sub(told.at.mono);
        // It stands for hours: one check that finds nothing healthy is a blip until the next one says so too.
        let counts = age <= self.apart() + FIVE_MINUTES && self.none_healthy != 1;
        if counts { seen(told) } else { Measured::Not }
    }
}

fn fresh<T>(told: &Told<T>, now: Now) -> Option<&Told<T>> {
    let age = now.mono.saturating_sub(told.at.mono);
    (age <= FIVE_MINUTES).then_some(told)
}

fn seen(told: &Told<Read<Option<Health>>>) -> Measured<'_> {
    match &told.said.value {
        Some(Some(health)) => Measured::Seen(health, told.at.wall),
        Some(None) | None => Measured::Unseen,
    }
}

/// Without a database, or without checks of its own, it has no such thing.
fn of_latest(told: &Told<Read<Option<Health>>>, now: Now) -> Measured<'_> {
    match (&told.said.value, told.said.seen.state) {
        (Some(Some(_)), _) => fresh(told, now).map_or(Measured::Unseen, seen),
        (None, State::Hung | State::Down) => Measured::Unseen,
        _ => Measured::Not,
    }
}

/// By the status and the database; `postgres` if its own port was tried.
pub fn litellm_is_ready(
    seen: &Seen,
    database: Option<Database>,
    expected: Option<bool>,
    postgres: Option<&Result<(), Error>>,
) -> (Word, Option<String>) {
    let no = |why: &str| (Word::No, Some(why.to_owned()));
    let is_shut = postgres.is_some_and(|tried| takes_connections(tried) == Some(false));
    match (can_serve(seen), database) {
        (Word::Yes, _) if is_shut => no("the port of its database takes no connection"),
        (Word::Yes, Some(Database::Disconnected)) => no("its database is gone"),
        (Word::Yes, Some(Database::Stalled)) => no("its database hangs"),
        (Word::Yes, Some(Database::NotConnected)) if expected == Some(true) => {
            no("it has not connected to its database")
        }
        // Some versions never say it, and are ready all the same.
        (Word::Yes, Some(Database::Unknown)) if expected == Some(true) => {
            (Word::Withheld, Some("it does not say how its database is".to_owned()))
        }
        (Word::Yes, None) => (Word::Unseen, Some("it does not answer as LiteLLM does".to_owned())),
        (word, _) => (word, seen.reason.clone()),
    }
}

fn lag(watched: &Watched) -> Duration {
    provider::lag(watched.kind, &watched.url, instance())
}

fn learn<T: Send + 'static>(credential: &mut Option<Credential>, question: &mut Question<Read<T>>, now: Now) {
    if let (Some(told), Some(credential)) = (question.news(), credential) {
        credential.learn(&told.said.seen, now);
    }
}

fn ask<T: Send + 'static>(
    question: &mut Question<Read<T>>,
    now: Now,
    http: &Http,
    request: Request,
    read: impl FnOnce(&Answer) -> Result<T> + Send + 'static,
) {
    let http = http.clone();
    question.ask(now, async move { Read::of(&fetch(&http, &request).await, request.wanted, read) });
}

async fn fetch(http: &Http, request: &Request) -> Result<Answer, Error> {
    let headers: Vec<(&str, &str)> = request.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    http.get(&request.url, &headers, Limits { time: request.time, body: BODY_LIMIT }).await
}

impl Questions {
    fn new(live: Question<Read<Option<usize>>>, mode: ActiveHealth) -> Questions {
        Questions {
            live,
            readiness: Question::new(NEAR),
            postgres: Question::new(NEAR),
            containers: Question::new(NEAR),
            models: Question::new(MINUTE),
            admin_models: Question::new(MINUTE),
            loaded: Question::new(MINUTE),
            traffic: Question::new(NEAR),
            names: Question::new(FIVE_MINUTES),
            health: Question::new(if mode == ActiveHealth::Paid { FIVE_MINUTES } else { MINUTE }),
            latest: Question::new(MINUTE),
            spend: Question::new(FIVE_MINUTES),
        }
    }

    async fn wait_for_keys(&mut self) {
        tokio::join!(self.live.wait(), self.models.wait(), self.admin_models.wait());
    }

    /// For all but what was paid for, which may take longer than a run.
    async fn wait(&mut self, mode: ActiveHealth) {
        let health = async {
            match mode {
                ActiveHealth::Paid => self.health.take().await,
                _ => self.health.wait().await,
            }
        };
        tokio::join!(
            self.live.wait(),
            self.readiness.wait(),
            self.postgres.wait(),
            self.containers.wait(),
            self.models.wait(),
            self.admin_models.wait(),
            self.loaded.wait(),
            self.traffic.wait(),
            self.names.wait(),
            health,
            self.latest.wait(),
            self.spend.wait(),
        );
    }

    /// What has come by now.
    async fn take(&mut self) {
        tokio::join!(
            self.live.take(),
            self.readiness.take(),
            self.postgres.take(),
            self.containers.take(),
            self.models.take(),
            self.admin_models.take(),
            self.loaded.take(),
            self.traffic.take(),
            self.names.take(),
            self.health.take(),
            self.latest.take(),
            self.spend.take(),
        );
    }

    /// What each HTTP question told last.
    pub fn shown(&self) -> BTreeMap<&'static str, Probe> {
        let mut probes = BTreeMap::new();
        let mut show = |name, told: Option<Probe>| probes.extend(told.map(|probe| (name, probe)));
        show("live", probe(&self.live));
        show("readiness", probe(&self.readiness));
        show("models", probe(&self.models));
        show("admin_models", probe(&self.admin_models));
        show("loaded", probe(&self.loaded));
        show("traffic", probe(&self.traffic));
        show("names", probe(&self.names));
        show("health", probe(&self.health));
        show("latest", probe(&self.latest));
        show("spend", probe(&self.spend));
        probes
    }
}

fn probe<T: Send + 'static>(question: &Question<Read<T>>) -> Option<Probe> {
    let told = question.latest()?;
    Some(Probe { seen: told.said.seen.clone(), at: told.at.wall })
}
