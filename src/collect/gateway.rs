//! The gateway between the host's agents and their models: whether it is there, can serve, and what it says of its models.
//!
//! Nothing is asked that calls a model, unless the operator pays for it or LiteLLM is known to answer from what it found
//! before. Each question has its own pace and stands until it is asked again; none waits for another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::collect::{Collector, NOTHING, Needs};
use crate::fact::{Bound, Check, Fact, Severity};
use crate::host::Host;
use crate::host::gateway::Kind;
use crate::sample::{Now, Points};
use crate::source::Sources;
use crate::source::http::Error;

mod answers;
mod asker;
mod containers;
mod credential;
mod litellm;
mod models;
mod probe;
mod provider;
mod question;
mod questions;
mod settings;

use asker::Asker;
use containers::Container;
use litellm::{Database, Model};
use probe::{Auth, Seen, State};
use question::Told;
use settings::{ActiveHealth, Choice};

pub use settings::Config;

/// `/status.gateway`
#[derive(Debug, Serialize)]
pub struct Section {
    mode: Kind,
    url: String,
    /// Whether it answers.
    up: Word,
    /// Whether it could serve.
    ready: Word,
    state: Option<State>,
    /// Why it is not up or not ready.
    reason: Option<String>,
    /// To the cheapest question.
    response_seconds: Option<f64>,
    /// As Docker calls it, or `not_found`, or `unknown`; null if there is none to look for.
    litellm_container: Option<&'static str>,
    postgres_container: Option<&'static str>,
    containers: BTreeMap<Arc<str>, Container>,
    /// What LiteLLM says of it.
    database: Option<Database>,
    /// Whether its port takes a connection.
    postgres: Option<Port>,
    /// Those that the key may use.
    configured_models: Option<usize>,
    /// Of Ollama.
    loaded_models: Option<usize>,
    /// Deployments, as LiteLLM counts; null if they were not measured.
    healthy_models: Option<u64>,
    unhealthy_models: Option<u64>,
    /// By public name.
    models: BTreeMap<Arc<str>, Model>,
    /// When their health was asked for.
    models_at: Option<Timestamp>,
    spend_usd: Option<f64>,
    /// Of vLLM.
    traffic: Option<Load>,
    keys: BTreeMap<&'static str, credential::Shown>,
    active_health: Active,
    /// Every question, with its own moment.
    probes: BTreeMap<&'static str, Probe>,
    /// The host is starting, and this gateway with it.
    #[serde(skip)]
    starting: bool,
    #[serde(skip)]
    database_connected: Word,
    #[serde(skip)]
    models_word: Word,
    /// By public name, also while nobody tells how they are.
    #[serde(skip)]
    known_models: Vec<Arc<str>>,
    #[serde(skip)]
    accepted: Vec<(Arc<str>, Option<bool>)>,
}

/// What is known of a yes or no.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Word {
    Yes,
    No,
    /// Asked, and not told.
    Unseen,
    /// Asked, and not told by one that never tells: nothing fails by it.
    Withheld,
    /// Not asked, or we may not know.
    #[default]
    Unmeasured,
}

impl Word {
    /// What a host that is starting has not started yet is no failure.
    fn put(self, fact: &'static Fact, starting: bool, points: &mut Points) {
        match self {
            Word::Yes => points.put(fact, [], 1.0),
            Word::No if starting => points.excuse(fact, [], 0.0),
            Word::No => points.put(fact, [], 0.0),
            Word::Unseen if !starting => points.put(fact, [], None),
            Word::Unseen | Word::Withheld => points.excuse(fact, [], None),
            Word::Unmeasured => {}
        }
    }
}

/// Null if it is not known, for whatever reason.
impl Serialize for Word {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = match self {
            Word::Yes => Some(true),
            Word::No => Some(false),
            Word::Unseen | Word::Withheld | Word::Unmeasured => None,
        };
        known.serialize(serializer)
    }
}

/// A TCP port.
#[derive(Debug, Clone, Serialize)]
pub struct Port {
    /// Null if nobody could try: its name leads nowhere from here, or no route does.
    reachable: Option<bool>,
    reason: Option<String>,
    at: Timestamp,
}

#[derive(Debug, Clone, Serialize)]
pub struct Probe {
    #[serde(flatten)]
    seen: Seen,
    /// When it was asked.
    at: Timestamp,
}

#[derive(Debug, Clone, Serialize)]
pub struct Load {
    running: f64,
    waiting: f64,
    /// How long no token has come though requests run; null if it does not count those that it makes.
    standstill_seconds: Option<f64>,
}

/// Whether the health of models is asked for, and at whose cost.
#[derive(Debug, Clone, Serialize)]
pub struct Active {
    mode: ActiveHealth,
    /// Why it is not asked for.
    refused: Option<String>,
    paid: Option<Paid>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Paid {
    max_per_day: u32,
    /// Within the last 24 hours.
    spent: Option<usize>,
    next_at: Option<Timestamp>,
}

static UP: Fact = Fact::gauge(
    "agenthost.gateway.up",
    "agenthost_gateway_up",
    "1 if the gateway answers HTTP, 0 if it refuses or stays silent; absent if somebody answers who may not be it.",
);
static READY: Fact = Fact::gauge(
    "agenthost.gateway.ready",
    "agenthost_gateway_ready",
    "1 if the gateway says that it can serve and its database is there, 0 if not; absent if it does not tell us.",
);
static RESPONSE: Fact = Fact::gauge(
    "agenthost.gateway.response_duration",
    "agenthost_gateway_response_duration_seconds",
    "Time from connecting to the end of the gateway's answer to the cheapest question; absent without an answer.",
)
.unit("s");
static CONTAINER_RUNNING: Fact = Fact::gauge(
    "agenthost.gateway.container_running",
    "agenthost_gateway_container_running",
    "Whether the gateway's container runs, by Docker; absent if Docker does not tell.",
)
.of(&["container"]);
static CONTAINER_RESTARTS: Fact = Fact::gauge(
    "agenthost.gateway.container_restarts",
    "agenthost_gateway_container_restarts",
    "Restarts of the gateway's container by Docker since somebody started it.",
)
.unit("{restart}")
.of(&["container"]);
static CONTAINER_OOM: Fact = Fact::gauge(
    "agenthost.gateway.container_oom_killed",
    "agenthost_gateway_container_oom_killed",
    "Whether the gateway's container ended because its memory was used up.",
)
.of(&["container"]);
static DATABASE: Fact = Fact::gauge(
    "agenthost.gateway.database_connected",
    "agenthost_gateway_database_connected",
    "Whether LiteLLM says that its database is connected; it asks at most every 15 s.",
);
static POSTGRES: Fact = Fact::gauge(
    "agenthost.gateway.postgres_reachable",
    "agenthost_gateway_postgres_reachable",
    "Whether the port of the gateway's database takes a connection; absent if its name or the way there is not known here.",
);
static KEY_ACCEPTED: Fact = Fact::gauge(
    "agenthost.gateway.key_accepted",
    "agenthost_gateway_key_accepted",
    "Whether the gateway takes our key; no series before it has said anything of it.",
)
.of(&["key"]);
static CONFIGURED: Fact = Fact::gauge(
    "agenthost.gateway.configured_models",
    "agenthost_gateway_configured_models",
    "Models that the gateway lists for our key, whether they work or not.",
)
.unit("{model}");
static LOADED: Fact = Fact::gauge(
    "agenthost.gateway.loaded_models",
    "agenthost_gateway_loaded_models",
    "Models that Ollama holds in memory.",
)
.unit("{model}");
static HEALTHY: Fact = Fact::gauge(
    "agenthost.gateway.healthy_models",
    "agenthost_gateway_healthy_models",
    "Deployments of models that LiteLLM found healthy when it last checked; absent if nobody may ask without paying.",
)
.unit("{model}");
static UNHEALTHY: Fact = Fact::gauge(
    "agenthost.gateway.unhealthy_models",
    "agenthost_gateway_unhealthy_models",
    "Deployments of models that LiteLLM found unhealthy when it last checked.",
)
.unit("{model}");
static MODEL_HEALTHY: Fact = Fact::gauge(
    "agenthost.gateway.model_healthy",
    "agenthost_gateway_model_healthy",
    "Whether LiteLLM found all deployments of the model healthy when it last checked.",
)
.of(&["model"]);
static SPEND: Fact = Fact::gauge(
    "agenthost.gateway.spend_usd",
    "agenthost_gateway_spend_usd",
    "What LiteLLM says was spent in US dollars; falls when it is reset there.",
)
.unit("{USD}");
static PAID: Fact = Fact::gauge(
    "agenthost.gateway.paid_probes",
    "agenthost_gateway_paid_probes",
    "Questions for the health of models within the last 24 hours, each of which called every model.",
)
.unit("{probe}");
static RUNNING: Fact = Fact::gauge(
    "agenthost.gateway.running_requests",
    "agenthost_gateway_running_requests",
    "Requests that vLLM works on.",
)
.unit("{request}");
static WAITING: Fact = Fact::gauge(
    "agenthost.gateway.waiting_requests",
    "agenthost_gateway_waiting_requests",
    "Requests that wait for vLLM.",
)
.unit("{request}");
static STANDS: Fact = Fact::gauge(
    "agenthost.gateway.standstill",
    "agenthost_gateway_standstill_seconds",
    "How long no token of vLLM has come though requests run; 0 when tokens come or nothing runs; absent if vLLM does not count \
     them.",
)
.unit("s");

static CHECKS: [Check; 6] = [
    Check {
        name: "gateway_up",
        fact: &UP,
        bad: Bound::Below(1.0),
        severity: Severity::Critical,
        fail_for: Duration::from_secs(120),
        headline: "gateway down",
        means: "The gateway to the models refuses or does not answer: no agent can think.",
    },
    Check {
        name: "gateway_ready",
        fact: &READY,
        bad: Bound::Below(1.0),
        severity: Severity::Critical,
        fail_for: Duration::from_secs(120),
        headline: "gateway not ready",
        means: "The gateway answers that it cannot serve, or its database is gone, or it produces no tokens.",
    },
    Check {
        name: "gateway_container_running",
        fact: &CONTAINER_RUNNING,
        bad: Bound::Below(1.0),
        severity: Severity::Critical,
        fail_for: Duration::from_secs(120),
        headline: "gateway container {} not running",
        means: "A container of the gateway does not run: it has exited, is paused or restarting, or is gone.",
    },
    Check {
        name: "gateway_models",
        fact: &HEALTHY,
        bad: Bound::Below(1.0),
        severity: Severity::Critical,
        fail_for: Duration::from_secs(11 * 60),
        headline: "no model of the gateway healthy",
        means: "LiteLLM has checked its models and none of them is healthy.",
    },
    Check {
        name: "gateway_model_unhealthy",
        fact: &MODEL_HEALTHY,
        bad: Bound::Below(1.0),
        severity: Severity::Warning,
        fail_for: Duration::from_secs(15 * 60),
        headline: "model {} unhealthy",
        means: "LiteLLM has checked this model, and a deployment of it is not healthy.",
    },
    Check {
        name: "gateway_key",
        fact: &KEY_ACCEPTED,
        bad: Bound::Below(1.0),
        severity: Severity::Warning,
        fail_for: Duration::from_secs(15 * 60),
        headline: "gateway key {} refused",
        means: "The gateway refuses the sidecar's key, so what needs one is not measured: give another in its file.",
    },
];

/// LiteLLM gives each model so long, and rests only then.
const LONGEST_CHECK: Duration = Duration::from_secs(60);

/// Looks after one gateway.
pub enum Gateway {
    /// There is one, and nobody can tell which.
    Untold,
    Watched(Box<Asker>),
}

impl Collector for Gateway {
    const NAME: &'static str = "gateway";
    const EVERY: Duration = Duration::from_secs(15);
    const FACTS: &'static [&'static Fact] = &[
        &UP,
        &READY,
        &RESPONSE,
        &CONTAINER_RUNNING,
        &CONTAINER_RESTARTS,
        &CONTAINER_OOM,
        &DATABASE,
        &POSTGRES,
        &KEY_ACCEPTED,
        &CONFIGURED,
        &LOADED,
        &HEALTHY,
        &UNHEALTHY,
        &MODEL_HEALTHY,
        &SPEND,
        &PAID,
        &RUNNING,
        &WAITING,
        &STANDS,
    ];
    const CHECKS: &'static [Check] = &CHECKS;
    const NEEDS: Needs = Needs {
        reads: "the gateway's cheap endpoints, its port and its containers",
        fix: "let us read `key_file`, `admin_key_file` and `ca_file` of [collect.gateway], with keys that the gateway takes; for its containers run in the group of Docker's socket, or name a proxy's, with `socket` in [docker]",
        costs: "requests that call no model; `active_health = \"paid\"` calls each model up to `max_probes_per_day` times a day",
        opens: NOTHING,
    };
    type Config = Config;
    type Section = Section;

    fn new(Config(config): Config, host: &Host, sources: &Sources) -> Result<Option<Gateway>> {
        match settings::choose(&config, host.gateway.as_ref())? {
            Choice::Nothing => Ok(None),
            Choice::Untold => Ok(Some(Gateway::Untold)),
            Choice::Watch(watched) => Ok(Some(Gateway::Watched(Box::new(Asker::new(config, *watched, sources)?)))),
        }
    }

    /// An answer stands for a whole cycle of LiteLLM's own checks: one bad cycle is a blip, so that two must be bad.
    fn fail_for(check: &Check, host: &Host) -> Duration {
        let of_a_cycle = ["gateway_models", "gateway_model_unhealthy"].contains(&check.name);
        let cycle = host.gateway.as_ref().filter(|_| of_a_cycle).map(|gateway| gateway.health_check_interval());
        cycle.map_or(check.fail_for, |cycle| check.fail_for.max(cycle * 2 + LONGEST_CHECK))
    }

    fn within(&mut self, timeout: Duration) {
        if let Gateway::Watched(asker) = self {
            asker.within(timeout);
        }
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        match self {
            Gateway::Untold => bail!(
                "the host's config.toml speaks of a gateway and does not tell which and where: `kind` and `url` in \
                 [collect.gateway] would"
            ),
            Gateway::Watched(asker) => {
                asker.ask(now).await?;
                Ok(Section::of(asker, now))
            }
        }
    }

    fn gaps(section: &Section) -> Vec<String> {
        let refused =
            |shown: &&credential::Shown| matches!(shown.state, credential::Word::Rejected | credential::Word::Denied);
        let keys = section.keys.iter().filter(|(_, shown)| refused(shown));
        let keys = keys.map(|(name, shown)| format!("{name}: {}", shown.error.as_deref().unwrap_or("it is not taken")));
        let containers = section.containers.iter().filter(|(_, container)| container.denied);
        let containers =
            containers.filter_map(|(name, container)| Some(format!("{name}: {}", container.error.as_ref()?)));
        keys.chain(containers).collect()
    }

    fn points(section: &Section, points: &mut Points) {
        section.up.put(&UP, section.starting, points);
        section.ready.put(&READY, section.starting, points);
        section.put_containers(points);
        section.database_connected.put(&DATABASE, section.starting, points);
        section.put_models(points);
        for (name, accepted) in &section.accepted {
            points.put(&KEY_ACCEPTED, [name], accepted.map(number));
        }
        let mut put = |fact, value: Option<f64>| value.into_iter().for_each(|value| points.put(fact, [], value));
        put(&RESPONSE, section.response_seconds);
        put(&SPEND, section.spend_usd);
        put(&PAID, section.active_health.paid.as_ref().and_then(|paid| Some(paid.spent? as f64)));
        if let Some(traffic) = &section.traffic {
            put(&RUNNING, Some(traffic.running));
            put(&WAITING, Some(traffic.waiting));
            put(&STANDS, traffic.standstill_seconds);
        }
        if let Some(port) = &section.postgres {
            points.put(&POSTGRES, [], port.reachable.map(number));
        }
    }
}

fn number(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

impl Section {
    fn of(asker: &Asker, now: Now) -> Section {
        let Asker { watched, questions, .. } = asker;
        let live = questions.live.latest().map(|told| &told.said.seen);
        let (ready, not_ready) = asker.ready();
        let measured = asker.model_health(now);
        let containers = questions.containers.latest().map(|told| &told.said);
        let state_of = |one: Option<&(Arc<str>, Container)>| one.map(|(_, container)| container.state);
        Section {
            mode: watched.kind,
            url: watched.url.clone(),
            up: live.map_or(Word::Unseen, is_up),
            ready,
            state: live.map(|seen| seen.state),
            reason: live.and_then(|seen| seen.reason.clone()).or(not_ready),
            response_seconds: live.filter(|seen| seen.reachable).and_then(|seen| Some(seen.took?.as_secs_f64())),
            litellm_container: state_of(containers.and_then(|told| told.gateway.as_ref())),
            postgres_container: state_of(containers.and_then(|told| told.postgres.as_ref())),
            containers: containers.map(|told| told.all().cloned().collect()).unwrap_or_default(),
            database: questions.readiness.latest().and_then(|told| told.said.value),
            database_connected: asker.database(),
            postgres: questions.postgres.latest().map(Port::of),
            configured_models: asker.configured_models(now),
            loaded_models: questions.loaded.standing(now).and_then(|told| told.said.value),
            healthy_models: measured.health().map(|health| health.healthy),
            unhealthy_models: measured.health().map(|health| health.unhealthy),
            models: measured.health().map(|health| health.by_model(asker.names())).unwrap_or_default(),
            models_at: measured.at(),
            models_word: measured.word(),
            known_models: asker.known_models(),
            spend_usd: questions.spend.standing(now).and_then(|told| told.said.value),
            starting: asker.is_starting(now),
            traffic: asker.load(),
            keys: asker.credentials().map(|(name, credential)| (name, credential.shown())).collect(),
            accepted: asker.credentials().map(|(name, one)| (name.into(), one.is_accepted())).collect(),
            active_health: asker.active(),
            probes: questions.shown(),
        }
    }

    fn put_containers(&self, points: &mut Points) {
        for (name, container) in &self.containers {
            match container.is_running() {
                _ if container.denied => points.deny(&CONTAINER_RUNNING, [name]),
                Some(false) if self.starting => points.excuse(&CONTAINER_RUNNING, [name], 0.0),
                runs => points.put(&CONTAINER_RUNNING, [name], runs.map(number)),
            }
            if let Some(restarts) = container.restarts {
                points.put(&CONTAINER_RESTARTS, [name], restarts as f64);
            }
            if let Some(killed) = container.oom_killed {
                points.put(&CONTAINER_OOM, [name], number(killed));
            }
        }
    }

    fn put_models(&self, points: &mut Points) {
        let mut put = |fact, value: Option<f64>| value.into_iter().for_each(|value| points.put(fact, [], value));
        put(&CONFIGURED, self.configured_models.map(|count| count as f64));
        put(&LOADED, self.loaded_models.map(|count| count as f64));
        put(&UNHEALTHY, self.unhealthy_models.map(|count| count as f64));
        let healthy = self.healthy_models.map(|count| count as f64);
        match self.models_word {
            Word::Unmeasured => {}
            Word::Withheld => points.excuse(&HEALTHY, [], healthy),
            _ if self.starting && healthy.is_none_or(|count| count == 0.0) => points.excuse(&HEALTHY, [], healthy),
            _ => points.put(&HEALTHY, [], healthy),
        }
        for (name, model) in &self.models {
            points.put(&MODEL_HEALTHY, [name], number(model.unhealthy == 0));
        }
        for name in self.known_models.iter().filter(|name| !self.models.contains_key(*name)) {
            match self.models_word {
                Word::Withheld => points.excuse(&MODEL_HEALTHY, [name], None),
                Word::Unseen if self.starting => points.excuse(&MODEL_HEALTHY, [name], None),
                Word::Unseen => points.put(&MODEL_HEALTHY, [name], None),
                Word::Yes | Word::No | Word::Unmeasured => {}
            }
        }
    }
}

/// Whether it answers as it must, or somebody else does.
fn is_up(seen: &Seen) -> Word {
    match seen.state {
        State::Down | State::Hung | State::Stranger => Word::No,
        State::Misconfigured if seen.auth != Auth::Rejected => Word::Unseen,
        _ => Word::Yes,
    }
}

/// Whether an answer says that it can serve.
fn can_serve(seen: &Seen) -> Word {
    match seen.state {
        State::Up => Word::Yes,
        State::OutOfCredit | State::Fault | State::Down | State::Hung | State::Stranger => Word::No,
        State::Misconfigured if seen.auth != Auth::Rejected => Word::Unseen,
        State::Misconfigured | State::Unsupported | State::Limited => Word::Unmeasured,
    }
}

/// `None`: nobody could try. A name of Docker's own network, say, leads nowhere outside of it, and that says nothing.
fn takes_connections(tried: &Result<(), Error>) -> Option<bool> {
    match tried {
        Ok(()) => Some(true),
        Err(Error::Refused | Error::TimedOut { .. }) => Some(false),
        Err(_) => None,
    }
}

impl Port {
    fn of(told: &Told<Result<(), Error>>) -> Port {
        let reason = told.said.as_ref().err().map(ToString::to_string);
        Port { reachable: takes_connections(&told.said), reason, at: told.at.wall }
    }
}

#[cfg(test)]
mod tests;
