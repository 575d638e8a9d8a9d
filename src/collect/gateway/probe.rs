//! What came of one question: classified the same way for every gateway and provider.

use std::time::Duration;

use anyhow::Result;
use serde::de::IgnoredAny;
use serde::{Serialize, Serializer};

use crate::source::http::{Answer, Error};

/// What is asked: a GET.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    pub url: String,
    pub headers: Vec<(&'static str, String)>,
    pub time: Duration,
    pub wanted: Wanted,
}

/// What a good answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    Json,
    Text,
    /// Its status says all; JSON is no harm.
    Nothing,
}

/// What whoever was asked does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Up,
    /// It answers, but not to us as we ask: another page, a redirect, a refused key.
    Misconfigured,
    OutOfCredit,
    /// It answers, and has no such endpoint.
    Unsupported,
    /// It answers that it, or what stands behind it, cannot serve.
    Fault,
    /// It wants to be asked less often.
    Limited,
    Down,
    /// Somebody else answers there.
    Stranger,
    /// It is there and says nothing.
    Hung,
}

/// What it made of our key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    Ok,
    Rejected,
    Unknown,
}

/// What one question told.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Seen {
    pub state: State,
    /// Somebody answered with HTTP.
    pub reachable: bool,
    pub auth: Auth,
    /// Why it is not up.
    pub reason: Option<String>,
    /// Of HTTP.
    pub status: Option<u16>,
    /// Until the whole answer was there.
    #[serde(rename = "response_seconds", serialize_with = "seconds")]
    pub took: Option<Duration>,
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

fn seconds<S: Serializer>(took: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    took.map(|took| took.as_secs_f64()).serialize(serializer)
}

/// An error of LiteLLM and of Gemini that says of a key what others say with 401.
const KEY_FAULTS: [&str; 2] = ["no_db_connection", "API_KEY_INVALID"];

impl Seen {
    pub fn of(asked: &Result<Answer, Error>, wanted: Wanted) -> Seen {
        match asked {
            Ok(answer) => Seen::answered(answer, wanted),
            Err(error) => Seen::unanswered(error),
        }
    }

    fn answered(answer: &Answer, wanted: Wanted) -> Seen {
        let (state, auth) = by_status(answer.status, || names_key_fault(answer));
        let mut seen = Seen {
            state,
            reachable: true,
            auth,
            reason: (state != State::Up).then(|| reason(answer.status, auth)),
            status: Some(answer.status),
            took: Some(answer.took),
            retry_after: answer.retry_after,
        };
        let holds_nothing = wanted == Wanted::Nothing && answer.text() == Some("");
        if state == State::Up
            && wanted != Wanted::Text
            && !holds_nothing
            && let Err(error) = answer.json::<IgnoredAny>()
        {
            seen.is_not_it(&error);
        }
        seen
    }

    fn unanswered(error: &Error) -> Seen {
        let (state, reachable) = match error {
            Error::TimedOut { .. } => (State::Hung, false),
            Error::TooLarge => (State::Misconfigured, true),
            _ => (State::Down, false),
        };
        let reason = match error {
            Error::TimedOut { connected: true } => "takes the connection and does not answer".to_owned(),
            Error::TimedOut { connected: false } => "does not take the connection".to_owned(),
            error => error.to_string(),
        };
        Seen {
            state,
            reachable,
            auth: Auth::Unknown,
            reason: Some(reason),
            status: None,
            took: None,
            retry_after: None,
        }
    }

    /// It answered well, and not as the one that we mean.
    pub fn is_not_it(&mut self, error: &anyhow::Error) {
        (self.state, self.auth) = (State::Misconfigured, Auth::Unknown);
        self.reason = Some(format!("{error:#}"));
    }

    /// The same, asked without a key: that it wants one is what a good one does.
    #[must_use]
    pub fn without_key(self) -> Seen {
        match self.auth {
            Auth::Rejected => Seen { state: State::Up, auth: Auth::Unknown, reason: None, ..self },
            _ => self,
        }
    }
}

fn by_status(status: u16, names_key_fault: impl FnOnce() -> bool) -> (State, Auth) {
    match status {
        200..=299 => (State::Up, Auth::Ok),
        401 | 403 => (State::Misconfigured, Auth::Rejected),
        400 if names_key_fault() => (State::Misconfigured, Auth::Rejected),
        402 => (State::OutOfCredit, Auth::Ok),
        429 => (State::Limited, Auth::Ok),
        408 | 500..=599 => (State::Fault, Auth::Unknown),
        400..=499 => (State::Unsupported, Auth::Unknown),
        _ => (State::Misconfigured, Auth::Unknown),
    }
}

fn names_key_fault(answer: &Answer) -> bool {
    answer.text().is_some_and(|text| KEY_FAULTS.iter().any(|fault| text.contains(fault)))
}

fn reason(status: u16, auth: Auth) -> String {
    let what = match (status, auth) {
        (_, Auth::Rejected) => "the key is refused",
        (402, _) => "out of credit",
        (429, _) => "asked too often",
        (529, _) => "overloaded",
        (408 | 500..=599, _) => "it cannot serve",
        (300..=399, _) => "a redirect, which is not followed",
        (400..=499, _) => "it has no such endpoint",
        _ => "no answer that we know",
    };
    format!("answered with status {status}: {what}")
}

/// What a question told, with what was read of a good answer.
#[derive(Debug, Clone)]
pub struct Read<T> {
    pub seen: Seen,
    pub value: Option<T>,
}

impl<T> Read<T> {
    /// An answer of another shape is not it.
    pub fn of(asked: &Result<Answer, Error>, wanted: Wanted, read: impl FnOnce(&Answer) -> Result<T>) -> Read<T> {
        let mut seen = Seen::of(asked, wanted);
        let answer = asked.as_ref().ok().filter(|_| seen.state == State::Up);
        let value = answer.and_then(|answer| read(answer).map_err(|error| seen.is_not_it(&error)).ok());
        Read { seen, value }
    }
}
