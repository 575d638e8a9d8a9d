//! What is asked of a gateway, when, and with which key.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::Active;
use super::containers::look;
use super::credential::Credential;
use super::litellm;
use super::models::{Measured, ModelHealth};
use super::probe::{Read, Request, State, Wanted};
use super::provider::{self, Movement};
use super::question::Question;
use super::questions::Questions;
use super::settings::{ActiveHealth, Address, Watched, Written};
use crate::host::gateway::{Containers, Kind};
use crate::sample::{Denied, Now};
use crate::source::Sources;
use crate::source::boot::Boot;
use crate::source::docker::Docker;
use crate::source::http::{self, Answer, Error, Http, Limits, Trust};
use crate::source::key::{Key, KeyFile};
use crate::source::process::instance;

/// A list of models may be long.
const BODY_LIMIT: usize = 4 * 1024 * 1024;
/// How long a run takes at most, unless told otherwise.
const RUN: Duration = Duration::from_secs(10);
const MINUTE: Duration = Duration::from_secs(60);
/// A virtual key waits ten seconds for a database that hangs.
const KEYED: Duration = Duration::from_secs(12);
const READINESS: Duration = Duration::from_secs(6);
const CONNECT: Duration = Duration::from_secs(2);
/// An answer of 429 is heeded for no longer.
const MOST_PATIENCE: Duration = Duration::from_secs(15 * 60);

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
    pub movement: Movement,
    pub boot: Boot,
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
            health: ModelHealth::new(mode, config.max_probes_per_day.unwrap_or(0), sources.ledger.clone()),
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
        let (own, asked) = (self.watched.own.as_ref(), &mut self.questions.health);
        let Some(time) = self.health.permission(own, asked, now) else { return };
        let request = self.request("/health", Some(&key), time);
        ask(&mut self.questions.health, now, http, request, litellm::health);
        if self.questions.names.is_due(now) {
            let request = self.request("/model/info", Some(&key), KEYED);
            ask(&mut self.questions.names, now, http, request, litellm::names);
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
        learn(&mut self.admin, &mut self.questions.spend, now);
        self.learn_live(now);
        self.learn_health(now);
        self.learn_latest(now);
        if let Some(told) = self.questions.traffic.news() {
            match &told.said.value {
                Some(traffic) => self.movement.follow(traffic, told.at.mono),
                // Nobody says any more how many run: a standstill that was seen before proves nothing now.
                None => self.movement = Movement::default(),
            }
        }
    }

    fn learn_health(&mut self, now: Now) {
        let names = self.questions.names.latest().and_then(|told| told.said.value.as_ref());
        let Some(told) = self.questions.health.news() else { return };
        let live = self.questions.live.latest().map(|told| told.said.seen.state);
        self.health.learn(&told.said, matches!(live, Some(State::Hung | State::Down)), now);
        let health = told.said.value.as_ref().and_then(Option::as_ref);
        if let (Some(health), Some(names)) = (health, names)
            && health.is_unnamed(names)
        {
            self.questions.names.hasten();
        }
    }

    fn learn_latest(&mut self, now: Now) {
        let Some(told) = self.questions.latest.news() else { return };
        self.health.learn_latest(&told.said);
        if let Some(admin) = &mut self.admin {
            admin.learn(&told.said.seen, now);
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

    pub fn credentials(&self) -> impl Iterator<Item = (&'static str, &Credential)> {
        let named = [("key", &self.key), ("admin_key", &self.admin)];
        named.into_iter().filter_map(|(name, credential)| Some((name, credential.as_ref()?)))
    }

    pub fn active(&self) -> Active {
        let refused = self.health.refused.clone().or_else(|| self.keyless());
        Active { mode: self.health.mode, refused, paid: self.health.paid() }
    }

    /// The health of models, which nobody is told without a key.
    pub fn model_health(&self, now: Now) -> Measured<'_> {
        let is_accepted = |credential: &&Credential| credential.is_accepted() == Some(true);
        let (key, admin) = (self.key.as_ref().filter(is_accepted), self.admin.as_ref().filter(is_accepted));
        let health = self.questions.health.latest().filter(|_| key.or(admin).is_some());
        let latest = self.questions.latest.latest().filter(|_| admin.is_some());
        self.health.measured(health, latest, now)
    }

    /// The models of which the health was known last.
    pub fn known_models(&self) -> Vec<Arc<str>> {
        self.health.known().map(|health| health.by_model(self.names()).into_keys().collect()).unwrap_or_default()
    }

    /// Why nothing is asked that needs a key.
    fn keyless(&self) -> Option<String> {
        let none = self.watched.kind == Kind::Litellm && self.key.is_none() && self.admin.is_none();
        let own = self.watched.own.as_ref().and_then(|own| own.own_key.as_ref());
        let hint = own.map(|own| format!("; the host's own is {own}")).unwrap_or_default();
        none.then(|| format!("no `key_file` in [collect.gateway]{hint}"))
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
