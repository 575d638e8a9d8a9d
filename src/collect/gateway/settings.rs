//! `[collect.gateway]`, and what it makes of the gateway that the host's own configuration tells of.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::{Deserialize, Deserializer, Serialize, de};

use crate::host::gateway::{Containers, Gateway, Kind};
use crate::source::http;

/// More than one each five minutes is not asked.
const MOST_A_DAY: u32 = 288;

/// `[collect.gateway]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(try_from = "Written")]
pub struct Config(pub Written);

/// As it stands in the file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Written {
    /// As the host's configuration says, if not given.
    pub kind: Option<Kind>,
    /// Base of its API; where the host's configuration says, or where the provider is, if not given.
    #[serde(deserialize_with = "base_url")]
    pub url: Option<String>,
    /// A key that may list models; without one nothing is asked that needs one.
    pub key_file: Option<PathBuf>,
    /// A key that may do everything, for what only such a key may see.
    pub admin_key_file: Option<PathBuf>,
    /// PEM: the authorities whose certificates count, instead of those that are built in.
    pub ca_file: Option<PathBuf>,
    pub active_health: ActiveHealth,
    /// With `paid` only.
    pub max_probes_per_day: Option<u32>,
    /// Whether it should be connected to a database.
    pub expect_database: Option<bool>,
    /// Host and port of that database.
    #[serde(deserialize_with = "address")]
    pub postgres: Option<Address>,
    /// The containers that it runs in; `{}`: none.
    pub containers: Option<Containers>,
}

/// Whether LiteLLM may be asked for the health of its models, which calls each of them unless it checks them by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActiveHealth {
    /// Only if the host's LiteLLM is known to check by itself.
    #[default]
    Auto,
    Never,
    /// The operator says that it checks by itself.
    Background,
    /// A few times a day, at the operator's cost.
    Paid,
}

/// Where a TCP connection can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub host: String,
    pub port: u16,
}

fn base_url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let url = String::deserialize(deserializer)?;
    http::base(&url).map(Some).map_err(de::Error::custom)
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Address>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let parsed = text.rsplit_once(':').and_then(|(host, port)| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let plain = !host.is_empty() && !host.contains(['/', '@']);
        Some(Address { host: plain.then(|| host.to_owned())?, port: port.parse().ok()? })
    });
    parsed.map(Some).ok_or_else(|| de::Error::custom("must be host and port, like `127.0.0.1:5432`"))
}

impl TryFrom<Written> for Config {
    type Error = String;

    /// Keys that contradict each other.
    fn try_from(written: Written) -> Result<Config, String> {
        let has_key = written.key_file.is_some() || written.admin_key_file.is_some();
        match (written.active_health, written.max_probes_per_day) {
            (ActiveHealth::Paid, None) => {
                Err("`active_health = \"paid\"` needs `max_probes_per_day`: each probe calls every model".to_owned())
            }
            (ActiveHealth::Paid, Some(most)) if !(1..=MOST_A_DAY).contains(&most) => {
                Err(format!("`max_probes_per_day` must be 1 to {MOST_A_DAY}: one in five minutes"))
            }
            (ActiveHealth::Paid | ActiveHealth::Background, _) if !has_key => {
                Err("`active_health` needs `key_file`: nobody is told of models without a key".to_owned())
            }
            (ActiveHealth::Paid, _) => Ok(Config(written)),
            (_, Some(_)) => Err("`max_probes_per_day` is of `active_health = \"paid\"` only".to_owned()),
            (_, None) => Ok(Config(written)),
        }
    }
}

/// The gateway that is watched.
#[derive(Debug, Clone, PartialEq)]
pub struct Watched {
    pub kind: Kind,
    pub url: String,
    pub containers: Containers,
    pub expects_database: Option<bool>,
    /// The host's own, whose configuration file may say what LiteLLM does by itself.
    pub own: Option<Gateway>,
}

/// What the file and the host make of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// There is none.
    Nothing,
    /// There is one, and nobody can tell which or where.
    Untold,
    Watch(Box<Watched>),
}

/// # Errors
/// The file's keys do not suffice.
pub fn choose(config: &Written, host: Option<&Gateway>) -> Result<Choice> {
    let host = host.filter(|gateway| gateway.configured);
    match (config.kind, &config.url, host) {
        (None, None, None) => Ok(Choice::Nothing),
        (None, None, Some(own)) => {
            Ok(whole(own).map_or(Choice::Untold, |(kind, url)| watch_own(config, kind, url, own)))
        }
        (Some(kind), None, Some(own)) if own.kind.is_none_or(|known| known == kind) => match &own.url {
            Some(url) => Ok(watch_own(config, kind, url, own)),
            None => Ok(Choice::Untold),
        },
        (Some(kind), None, _) => match default_url(kind) {
            Some(url) => Ok(watch_other(config, kind, url)),
            None => bail!("[collect.gateway] needs `url`: of this `kind` there is none by default"),
        },
        (kind, Some(url), host) => match kind.or_else(|| host?.kind) {
            Some(kind) => Ok(watch_other(config, kind, url)),
            None => bail!("[collect.gateway] needs `kind` with its `url`"),
        },
    }
}

fn whole(own: &Gateway) -> Option<(Kind, &str)> {
    Some((own.kind?, own.url.as_deref()?))
}

fn watch_own(config: &Written, kind: Kind, url: &str, own: &Gateway) -> Choice {
    Choice::Watch(Box::new(Watched {
        kind,
        url: url.to_owned(),
        containers: config.containers.clone().unwrap_or_else(|| own.containers.clone()),
        expects_database: config.expect_database.or(own.expects_database),
        own: Some(own.clone()),
    }))
}

/// It is not the host's: nothing that the host's configuration says is of it.
fn watch_other(config: &Written, kind: Kind, url: &str) -> Choice {
    Choice::Watch(Box::new(Watched {
        kind,
        url: url.to_owned(),
        containers: config.containers.clone().unwrap_or_default(),
        expects_database: config.expect_database,
        own: None,
    }))
}

fn default_url(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Openai => Some("https://api.openai.com/v1"),
        Kind::Anthropic => Some("https://api.anthropic.com"),
        Kind::Gemini => Some("https://generativelanguage.googleapis.com"),
        Kind::Ollama => Some("http://127.0.0.1:11434"),
        Kind::Litellm | Kind::Builtin | Kind::Vllm => None,
    }
}
