//! What the answers come to: whether the gateway could serve, its database, its models, its load.

use super::asker::Asker;
use super::litellm::{Database, Names};
use super::probe::{Auth, Seen, State};
use super::provider::{self, Traffic};
use super::questions::Questions;
use super::{Load, Word, can_serve, takes_connections};
use crate::fact::Span;
use crate::host::gateway::Kind;
use crate::sample::Now;
use crate::source::http::Error;

impl Asker {
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

    /// Whether the host is, and this gateway with it: of one that answers, and wrongly, that is no excuse.
    pub fn is_starting(&self, now: Now) -> bool {
        self.watched.own.is_some() && self.boot.is_under_way(now) && !self.answers_wrongly()
    }

    fn answers_wrongly(&self) -> bool {
        let Questions { live, readiness, .. } = &self.questions;
        let seen = [live.latest().map(|told| &told.said.seen), readiness.latest().map(|told| &told.said.seen)];
        let is_wrong = |state| matches!(state, State::Stranger | State::Misconfigured | State::OutOfCredit);
        seen.into_iter().flatten().any(|seen| is_wrong(seen.state))
    }

    pub fn names(&self) -> Option<&Names> {
        self.questions.names.latest()?.said.value.as_ref()
    }

    pub fn load(&self) -> Option<Load> {
        let Traffic { running, waiting, .. } = self.questions.traffic.latest()?.said.value?;
        let standstill = self.movement.standstill.map(|standstill| standstill.as_secs_f64());
        Some(Load { running, waiting, standstill_seconds: standstill })
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
