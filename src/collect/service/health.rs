//! What each kind of host says of itself, and where.

use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collect::host_api::{HEALTH, HEALTH_AGE};
use crate::host::Profile;
use crate::source::http;

/// What costs the host next to nothing is asked for at each look.
pub const CHEAP_AGE: Duration = Duration::from_secs(10);

/// More of them are not shown.
pub const FAILING: usize = 50;

/// What the host says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Health {
    pub status: Option<String>,
    pub uptime_seconds: Option<serde_json::Number>,
    /// Whether any channel is connected.
    pub channels_connected: Option<bool>,
    /// By its own word; only some kinds of host say it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// What keeps it from being ready, in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failing: Option<Vec<String>>,
    /// Why all of it is null.
    pub error: Option<String>,
    pub at: Timestamp,
}

/// What a kind of host says of itself, and where.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Says {
    Pynchy,
    Netclaw,
    Openclaw,
    Nothing,
}

impl Says {
    pub fn of(profile: Profile) -> Says {
        match profile {
            Profile::Pynchy => Says::Pynchy,
            Profile::Netclaw => Says::Netclaw,
            Profile::Openclaw => Says::Openclaw,
            Profile::PiWeb | Profile::Generic => Says::Nothing,
        }
    }

    /// The path, and how long an answer to it is told again.
    pub fn health(self) -> Option<(&'static str, Duration)> {
        match self {
            Says::Pynchy => Some((HEALTH, HEALTH_AGE)),
            Says::Netclaw => Some(("/api/health/ready", CHEAP_AGE)),
            Says::Openclaw => Some(("/readyz", CHEAP_AGE)),
            Says::Nothing => None,
        }
    }

    /// The path on which only JSON proves that it lives: to any other it answers with its page, and so may a proxy.
    pub fn alive(self) -> Option<&'static str> {
        (self == Says::Openclaw).then_some("/healthz")
    }
}

impl Health {
    pub fn nothing(at: Timestamp) -> Health {
        Health {
            status: None,
            uptime_seconds: None,
            channels_connected: None,
            ready: None,
            failing: None,
            error: None,
            at,
        }
    }

    pub fn read(says: Says, told: &http::Told) -> Health {
        let at = told.at.wall;
        let read = |answer: &http::Answer| match says {
            Says::Pynchy | Says::Nothing => Health::of_pynchy(answer, at),
            Says::Netclaw => Health::of_netclaw(answer, at),
            Says::Openclaw => Health::of_openclaw(answer, at),
        };
        let answer = told.answer.as_ref().map_err(|error| error.clone().into());
        answer
            .and_then(|answer| read(answer))
            .unwrap_or_else(|error| Health { error: Some(format!("{error:#}")), ..Health::nothing(at) })
    }

    pub fn of_pynchy(answer: &http::Answer, at: Timestamp) -> Result<Health> {
        let said: PynchyAnswer = answer.good()?.json()?;
        Ok(Health {
            status: Some(word(said.status)?),
            uptime_seconds: Some(said.uptime_seconds),
            channels_connected: Some(said.channels_connected),
            ..Health::nothing(at)
        })
    }

    /// A word in quotes.
    pub fn of_netclaw(answer: &http::Answer, at: Timestamp) -> Result<Health> {
        Ok(Health { status: Some(word(answer.good()?.json()?)?), ..Health::nothing(at) })
    }

    pub fn of_openclaw(answer: &http::Answer, at: Timestamp) -> Result<Health> {
        let answer = if answer.status == 503 { answer } else { answer.good()? };
        let said: OpenclawAnswer = answer.json()?;
        let status = if said.ready { "ready" } else { "not_ready" };
        let failing = match said.failing {
            None => Some(Vec::new()),
            Some(said) => said.as_array().map(|said| said.iter().take(FAILING).map(failing_word).collect()),
        };
        let (status, ready) = (Some(status.to_owned()), Some(said.ready));
        Ok(Health { status, ready, failing, ..Health::nothing(at) })
    }
}

/// The part of pynchy's `/health` that we read.
#[derive(Deserialize)]
pub struct PynchyAnswer {
    pub status: String,
    pub uptime_seconds: serde_json::Number,
    pub channels_connected: bool,
}

/// The part of openclaw's `/readyz` that we read; it is the same with 200 and with 503.
#[derive(Deserialize)]
pub struct OpenclawAnswer {
    pub ready: bool,
    /// Words, as far as we know; whatever else it is says nothing of `ready`.
    pub failing: Option<serde_json::Value>,
}

/// What is no word has failed all the same, and is not quoted.
pub fn failing_word(said: &serde_json::Value) -> String {
    said.as_str().and_then(|said| word(said.to_owned()).ok()).unwrap_or_else(|| "other".to_owned())
}

/// It is shown, so it must be a word and not a text.
pub fn word(said: String) -> Result<String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.' | b':' | b'/');
    anyhow::ensure!(said.len() <= 64 && said.bytes().all(plain), "answered with a status that is no word");
    Ok(said)
}
