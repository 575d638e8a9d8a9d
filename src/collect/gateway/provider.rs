//! What is asked of each kind: nothing that costs tokens, loads a model, or needs more than it must.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::probe::{Request, Wanted};
use crate::host::gateway::Kind;
use crate::source::http::Answer;
use crate::source::key::Key;

const ANTHROPIC_VERSION: &str = "2023-06-01";
/// In each run.
const NEAR: Duration = Duration::ZERO;
/// 1440 a day of a provider that counts them.
const FAR: Duration = Duration::from_secs(60);

/// How often it may be asked whether it is there.
pub fn pace(kind: Kind, url: &str) -> Duration {
    match kind {
        Kind::Openai | Kind::Anthropic | Kind::Gemini if !is_here(url) => FAR,
        _ => NEAR,
    }
}

/// How much later than its turn a provider is asked that is not of this machine: by chance, but always the same for this
/// sidecar. Many that were started together would else ask at the same second for ever.
pub fn lag(kind: Kind, url: &str, instance: u64) -> Duration {
    let most = if pace(kind, url) == FAR { FAR / 4 } else { Duration::ZERO };
    most.mul_f64((instance % 1000) as f64 / 1000.0)
}

fn is_here(url: &str) -> bool {
    let authority = url.split("://").nth(1).unwrap_or("").split('/').next().unwrap_or("");
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Whether the first question shows the key: these have none that does without.
pub fn shows_key(kind: Kind) -> bool {
    matches!(kind, Kind::Openai | Kind::Anthropic | Kind::Gemini)
}

/// Whether a good one refuses the first question to whoever shows no key.
pub fn wants_key(kind: Kind) -> bool {
    shows_key(kind) || kind == Kind::Builtin
}

/// The question whether it is there, which shows a key only where there is no other.
pub fn live(kind: Kind, base: &str, key: Option<&Key>) -> Request {
    let (path, wanted) = match kind {
        Kind::Litellm => ("/health/liveliness", Wanted::Json),
        // It knows no such path, and wants a key before it says so.
        Kind::Builtin => ("/agenthost-exporter-liveness", Wanted::Nothing),
        // Its list of models is public.
        Kind::Openai if is_openrouter(base) => ("/key", Wanted::Json),
        Kind::Openai => ("/models", Wanted::Json),
        Kind::Anthropic => ("/v1/models?limit=1", Wanted::Json),
        Kind::Gemini => ("/v1beta/models?pageSize=1", Wanted::Json),
        Kind::Ollama => ("/api/version", Wanted::Json),
        Kind::Vllm => ("/health", Wanted::Nothing),
    };
    let time =
        if matches!(kind, Kind::Litellm | Kind::Builtin) { Duration::from_secs(3) } else { Duration::from_secs(6) };
    Request { url: format!("{base}{path}"), headers: headers(kind, key), time, wanted }
}

fn is_openrouter(base: &str) -> bool {
    base.contains("://openrouter.ai/")
}

/// A question with a key.
pub fn keyed(kind: Kind, base: &str, path: &str, key: Option<&Key>, time: Duration) -> Request {
    Request { url: format!("{base}{path}"), headers: headers(kind, key), time, wanted: Wanted::Json }
}

fn headers(kind: Kind, key: Option<&Key>) -> Vec<(&'static str, String)> {
    let key = key.map(|key| match kind {
        Kind::Anthropic => ("x-api-key", key.plain()),
        Kind::Gemini => ("x-goog-api-key", key.plain()),
        _ => ("Authorization", key.bearer()),
    });
    let version = (kind == Kind::Anthropic).then(|| ("anthropic-version", ANTHROPIC_VERSION.to_owned()));
    key.into_iter().chain(version).collect()
}

#[derive(Deserialize)]
struct OpenaiModels {
    data: Vec<IgnoredAny>,
}

#[derive(Deserialize)]
struct OllamaModels {
    models: Vec<IgnoredAny>,
}

/// How many models the first answer lists; `None` where it was asked for one only.
pub fn listed(kind: Kind, base: &str, answer: &Answer) -> Result<Option<usize>> {
    let counts = kind == Kind::Openai && !is_openrouter(base);
    if counts { Ok(Some(answer.json::<OpenaiModels>()?.data.len())) } else { Ok(None) }
}

/// Ollama's `/api/tags` (installed) and `/api/ps` (loaded).
pub fn ollama_models(answer: &Answer) -> Result<usize> {
    Ok(answer.json::<OllamaModels>()?.models.len())
}

/// What a vLLM does, by its `/metrics`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Traffic {
    pub running: f64,
    pub waiting: f64,
    /// Tokens made since it began.
    pub made: Option<f64>,
    /// Tokens of prompts read since it began.
    pub read: Option<f64>,
}

/// # Errors
/// It does not say how many requests there are: another version, or no vLLM.
pub fn traffic(answer: &Answer) -> Result<Traffic> {
    let text = answer.text().context("its metrics are not text")?;
    let needed = |name: &str| sum(text, name).with_context(|| format!("its metrics have no {name}"));
    Ok(Traffic {
        running: needed("vllm:num_requests_running")?,
        waiting: needed("vllm:num_requests_waiting")?,
        made: sum(text, "vllm:generation_tokens_total"),
        read: sum(text, "vllm:prompt_tokens_total"),
    })
}

/// Over all series of a metric; `None` without any, and if one of them has no number, or one of no size: a part is not the whole.
fn sum(text: &str, name: &str) -> Option<f64> {
    let values = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = rest.strip_prefix('{').map_or(Some(rest), |labels| Some(labels.rsplit_once('}')?.1))?;
        rest.strip_prefix(' ')?.split(' ').next()
    });
    let numbers: Option<Vec<f64>> = values.map(|value| value.parse().ok()).collect();
    let numbers = numbers.filter(|numbers| !numbers.is_empty())?;
    Some(numbers.iter().sum::<f64>()).filter(|sum| sum.is_finite())
}

/// Requests that run without a token for so long: the engine hangs.
const STANDSTILL: Duration = Duration::from_secs(30);
/// The same where it does not count the tokens that it reads: a long prompt may be read for so long.
const BLIND_STANDSTILL: Duration = Duration::from_secs(120);

/// Since when no token has come, though requests run.
#[derive(Debug, Default)]
pub struct Movement {
    last: Option<Traffic>,
    stands_since: Option<Duration>,
    /// `None` as long as nobody can tell.
    pub standstill: Option<Duration>,
}

impl Movement {
    /// Takes a reading of this moment of the monotonic clock. Of one that does not count the tokens that it makes nobody can
    /// tell: a long answer would look like a standstill.
    pub fn follow(&mut self, traffic: &Traffic, at: Duration) {
        let counts = |traffic: &Traffic| (traffic.made, traffic.read);
        let moved = self.last.as_ref().map(counts) != Some(counts(traffic)) || traffic.running + traffic.waiting == 0.0;
        if moved {
            self.stands_since = Some(at);
        }
        self.last = Some(*traffic);
        self.standstill = traffic.made.and(self.stands_since).map(|since| at.saturating_sub(since));
    }

    /// How long it has stood still, if that is too long.
    pub fn hangs_for(&self) -> Option<Duration> {
        let reads = self.last.is_some_and(|traffic| traffic.read.is_some());
        let most = if reads { STANDSTILL } else { BLIND_STANDSTILL };
        self.standstill.filter(|standstill| *standstill >= most)
    }
}
