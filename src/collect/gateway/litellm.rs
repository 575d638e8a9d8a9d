//! What a LiteLLM proxy answers, and what it means. Only what is named here is taken from an answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::probe::{Read, Seen, State, Wanted};
use crate::source::http::{Answer, Error};

/// LiteLLM writes what it found on a change, and once an hour: what is older is of a model that is gone.
const STALE: SignedDuration = SignedDuration::from_mins(125);
/// A longer name is none.
const LONGEST_NAME: usize = 200;

/// What the proxy says of its database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Database {
    Connected,
    /// It has none, or could not reach it at its start and never tried again.
    NotConnected,
    Disconnected,
    Stalled,
    /// It does not say.
    Unknown,
}

/// `/health/liveliness`. Every version knows it, and none answers it with a page: who does is somebody else on its port.
pub fn alive(asked: &Result<Answer, Error>) -> Seen {
    let seen = Seen::of(asked, Wanted::Json);
    let is_page = seen.status.is_some_and(|status| status < 300) && asked.as_ref().is_ok_and(Answer::is_page);
    if !is_page && seen.status != Some(404) {
        return seen;
    }
    let reason = seen.reason.map(|reason| format!("{reason}; it is no LiteLLM"));
    Seen { state: State::Stranger, reason, ..seen }
}

#[derive(Deserialize)]
struct Readiness {
    status: Option<Value>,
    db: Option<Value>,
}

/// `/health/readiness`. The body of a 503 counts, and its `status` does not: that may be "healthy".
pub fn readiness(asked: &Result<Answer, Error>) -> Read<Database> {
    let mut seen = Seen::of(asked, Wanted::Json);
    let answer = asked.as_ref().ok().filter(|answer| matches!(answer.status, 200 | 503));
    let said = answer.and_then(|answer| answer.json::<Readiness>().ok());
    let word = |value: &Option<Value>| value.as_ref().and_then(Value::as_str).unwrap_or("").to_owned();
    let database = said.as_ref().map(|said| match &*word(&said.db) {
        "connected" => Database::Connected,
        "Not connected" => Database::NotConnected,
        "disconnected" => Database::Disconnected,
        "stalled" => Database::Stalled,
        _ => Database::Unknown,
    });
    if seen.status == Some(503) {
        seen.reason = match database {
            Some(Database::Disconnected) => Some("answered with status 503: its database is gone".to_owned()),
            Some(Database::Stalled) => Some("answered with status 503: its database hangs".to_owned()),
            _ if said.is_some_and(|said| word(&said.status) == "shutting_down") => {
                Some("answered with status 503: it shuts down".to_owned())
            }
            _ => seen.reason,
        };
    }
    Read { seen, value: database }
}

#[derive(Deserialize)]
struct Listed<T> {
    data: Vec<T>,
}

/// `/v1/models`: how many the key may use.
pub fn models(answer: &Answer) -> Result<usize> {
    Ok(answer.json::<Listed<serde::de::IgnoredAny>>()?.data.len())
}

#[derive(Deserialize)]
struct Deployment {
    model_name: String,
    model_info: Option<ModelInfo>,
}

#[derive(Deserialize)]
struct ModelInfo {
    id: Option<String>,
}

/// Public names by the ids of deployments.
pub type Names = BTreeMap<String, Arc<str>>;

/// `/model/info`
pub fn names(answer: &Answer) -> Result<Names> {
    let listed: Listed<Deployment> = answer.json()?;
    let named = |deployment: Deployment| Some((deployment.model_info?.id?, label(&deployment.model_name)?));
    Ok(listed.data.into_iter().filter_map(named).collect())
}

/// A text that can be shown and be a label.
fn label(text: &str) -> Option<Arc<str>> {
    let fits = !text.is_empty() && text.len() <= LONGEST_NAME && !text.chars().any(char::is_control);
    fits.then(|| text.into())
}

/// How the deployments of models are.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Health {
    pub healthy: u64,
    pub unhealthy: u64,
    deployments: Vec<(Option<String>, Option<String>, bool)>,
}

/// Of one model by its public name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Model {
    pub healthy: u64,
    pub unhealthy: u64,
}

#[derive(Deserialize)]
struct HealthAnswer {
    #[serde(default)]
    healthy_endpoints: Vec<Endpoint>,
    #[serde(default)]
    unhealthy_endpoints: Vec<Endpoint>,
    healthy_count: Option<u64>,
    unhealthy_count: Option<u64>,
}

#[derive(Deserialize)]
struct Endpoint {
    model: Option<String>,
    model_id: Option<String>,
}

/// `/health`. `None`: it has not found anything out yet. None and none are no models that are well.
pub fn health(answer: &Answer) -> Result<Option<Health>> {
    let said: HealthAnswer = answer.json()?;
    let (Some(healthy), Some(unhealthy)) = (said.healthy_count, said.unhealthy_count) else { return Ok(None) };
    if healthy == 0 && unhealthy == 0 {
        return Ok(None);
    }
    let of = |endpoints: Vec<Endpoint>, well| endpoints.into_iter().map(move |one| (one.model_id, one.model, well));
    let deployments = of(said.healthy_endpoints, true).chain(of(said.unhealthy_endpoints, false)).collect();
    Ok(Some(Health { healthy, unhealthy, deployments }))
}

#[derive(Deserialize)]
struct LatestAnswer {
    latest_health_checks: BTreeMap<String, Latest>,
}

#[derive(Deserialize)]
struct Latest {
    model_name: Option<String>,
    model_id: Option<String>,
    status: Option<String>,
    checked_at: Option<String>,
}

/// `/health/latest`: one row for each deployment, of the moment at which it was checked.
pub fn latest(answer: &Answer, now: Timestamp) -> Result<Option<Health>> {
    let said: LatestAnswer = answer.json()?;
    let mut health = Health::default();
    for row in said.latest_health_checks.into_values().filter(|row| row.is_fresh(now)) {
        let well = match row.status.as_deref() {
            Some("healthy") => true,
            Some("unhealthy") => false,
            _ => continue,
        };
        *(if well { &mut health.healthy } else { &mut health.unhealthy }) += 1;
        health.deployments.push((row.model_id, row.model_name, well));
    }
    Ok((!health.deployments.is_empty()).then_some(health))
}

impl Latest {
    fn is_fresh(&self, now: Timestamp) -> bool {
        let at: Option<Timestamp> = self.checked_at.as_ref().and_then(|text| text.parse().ok());
        at.is_some_and(|at| now.duration_since(at) <= STALE)
    }
}

impl Health {
    /// By public name. Without names, by what the deployment calls its model; one whose name is missing among names is
    /// left out, as it would be called otherwise at the next look.
    pub fn by_model(&self, names: Option<&Names>) -> BTreeMap<Arc<str>, Model> {
        let mut models: BTreeMap<Arc<str>, Model> = BTreeMap::new();
        for (id, model, well) in &self.deployments {
            let name = match (id, names) {
                (Some(id), Some(names)) => names.get(id).cloned(),
                _ => model.as_deref().and_then(label),
            };
            let Some(name) = name else { continue };
            let model = models.entry(name).or_default();
            *(if *well { &mut model.healthy } else { &mut model.unhealthy }) += 1;
        }
        models
    }
}

impl Health {
    /// Whether it has a deployment that these names do not.
    pub fn is_unnamed(&self, names: &Names) -> bool {
        self.deployments.iter().filter_map(|(id, ..)| id.as_ref()).any(|id| !names.contains_key(id))
    }
}

#[derive(Deserialize)]
struct Spend {
    spend: f64,
}

/// `/global/spend`, in US dollars.
pub fn spend(answer: &Answer) -> Result<f64> {
    Ok(answer.json::<Spend>()?.spend)
}
