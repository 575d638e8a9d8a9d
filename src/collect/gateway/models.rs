//! The health of models: whether it may be asked for, at whose cost, and how long an answer counts.

use std::time::Duration;

use jiff::Timestamp;

use super::litellm::Health;
use super::probe::{Auth, Read, Seen, State};
use super::question::{Question, Told};
use super::settings::ActiveHealth;
use super::{Paid, Word};
use crate::fact::Span;
use crate::host::gateway::Gateway;
use crate::sample::Now;
use crate::source::budget::Ledger;

const FIVE_MINUTES: Duration = Duration::from_secs(5 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// LiteLLM gives each model a minute.
const PAID: Duration = Duration::from_secs(75);
/// What is told from memory.
const FREE: Duration = Duration::from_secs(6);
/// What LiteLLM found before it tells in milliseconds. What takes longer was not found before.
const CACHED: Duration = Duration::from_secs(5);
/// How long it is not asked again then.
const NOT_CACHED: Duration = Duration::from_secs(60 * 60);

/// `None`: it has not found anything out.
pub type Answered = Read<Option<Health>>;

/// Whether and how the health of models is asked for.
pub struct ModelHealth {
    pub mode: ActiveHealth,
    max_per_day: u32,
    ledger: Option<Ledger>,
    /// It was no memory that answered: not before this moment of the monotonic clock.
    not_before: Duration,
    /// Why it is not asked for.
    pub refused: Option<String>,
    spent: Option<Vec<Timestamp>>,
    /// Checks in a row that found no model healthy.
    none_healthy: u32,
    /// What was found out last, by each of the two questions: what is judged by it stands while nobody may ask, or while no
    /// answer comes.
    known: Option<Health>,
    known_by_latest: Option<Health>,
}

/// What was found of models.
pub enum Measured<'a> {
    /// Nobody may ask, or those who were asked have no such thing.
    Not,
    Unseen,
    /// It was found out before, and nobody may ask now.
    Resting,
    /// Nothing healthy, once: by that alone nothing fails.
    Unconfirmed(&'a Health, Timestamp),
    Seen(&'a Health, Timestamp),
}

impl<'a> Measured<'a> {
    pub fn health(&self) -> Option<&'a Health> {
        match self {
            Measured::Seen(health, _) | Measured::Unconfirmed(health, _) => Some(health),
            Measured::Not | Measured::Unseen | Measured::Resting => None,
        }
    }

    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Measured::Seen(_, at) | Measured::Unconfirmed(_, at) => Some(*at),
            Measured::Not | Measured::Unseen | Measured::Resting => None,
        }
    }

    pub fn word(&self) -> Word {
        match self {
            Measured::Not => Word::Unmeasured,
            Measured::Unseen => Word::Unseen,
            Measured::Resting | Measured::Unconfirmed(..) => Word::Withheld,
            Measured::Seen(..) => Word::Yes,
        }
    }
}

impl ModelHealth {
    pub fn new(mode: ActiveHealth, max_per_day: u32, ledger: Option<Ledger>) -> ModelHealth {
        let not_before = Duration::ZERO;
        ModelHealth {
            mode,
            max_per_day,
            ledger,
            not_before,
            refused: None,
            spent: None,
            none_healthy: 0,
            known: None,
            known_by_latest: None,
        }
    }

    /// How long LiteLLM may be given to tell; `None`: it must not be asked now. `own` is the host's own gateway, if this is
    /// it; what was told before counts no more once it may not be asked for.
    pub fn permission(&mut self, own: Option<&Gateway>, asked: &mut Question<Answered>, now: Now) -> Option<Duration> {
        if now.mono < self.not_before {
            return None;
        }
        let allowed = match self.mode {
            ActiveHealth::Never => Err("switched off by `active_health`".to_owned()),
            ActiveHealth::Auto => is_known_to_be_free(own).map(|()| Some(FREE)),
            ActiveHealth::Background => Ok(Some(FREE)),
            ActiveHealth::Paid => self.pay(now).map(|is_paid| is_paid.then_some(PAID)),
        };
        if allowed.is_err() && self.mode != ActiveHealth::Paid {
            self.known = None;
            asked.forget();
        }
        self.refused = allowed.as_ref().err().cloned();
        allowed.ok().flatten()
    }

    /// Takes note of an answer.
    pub fn learn(&mut self, told: &Answered, is_gateway_hung: bool, now: Now) {
        let was_slow = told.seen.state == State::Hung || told.seen.took.is_some_and(|took| took > CACHED);
        if self.mode != ActiveHealth::Paid && was_slow && !is_gateway_hung {
            self.not_before = now.mono + NOT_CACHED;
            self.refused = Some(format!(
                "it took longer than {}, so LiteLLM did not know it before: asked again in {}",
                Span(CACHED),
                Span(NOT_CACHED)
            ));
        }
        if let Some(health) = told.value.as_ref().and_then(Option::as_ref) {
            self.known = Some(health.clone());
            self.none_healthy = if health.healthy == 0 { self.none_healthy.saturating_add(1) } else { 0 };
        }
    }

    /// The same of `/health/latest`. A refused key and silence leave what was found before; any other answer without a finding
    /// says that there is none.
    pub fn learn_latest(&mut self, told: &Answered) {
        let is_told = told.seen.auth != Auth::Rejected && !is_silent(&told.seen);
        if is_told {
            self.known_by_latest = told.value.clone().flatten();
        }
    }

    /// What was found out last, while nobody tells it anew.
    pub fn known(&self) -> Option<&Health> {
        self.known.as_ref().or(self.known_by_latest.as_ref())
    }

    /// What was found, as long as it counts: by LiteLLM's `/health`, else by its `/health/latest`, which is `None` also while
    /// nobody may ask for it.
    pub fn measured<'a>(
        &self,
        health: Option<&'a Told<Answered>>,
        latest: Option<&'a Told<Answered>>,
        now: Now,
    ) -> Measured<'a> {
        match (health, latest) {
            (Some(told), _) if self.mode == ActiveHealth::Paid => self.of_paid(told, now),
            (Some(told), _) if self.refused.is_none() => fresh(told, now).map_or(Measured::Unseen, seen),
            (_, Some(told)) => self.of_latest(told, now),
            _ => self.unasked(),
        }
    }

    /// What stands while nobody may ask.
    pub fn unasked(&self) -> Measured<'static> {
        if self.known().is_some() { Measured::Resting } else { Measured::Not }
    }

    /// What it costs, if it costs anything.
    pub fn paid(&self) -> Option<Paid> {
        let spent = self.spent.as_ref();
        (self.mode == ActiveHealth::Paid).then(|| Paid {
            max_per_day: self.max_per_day,
            spent: spent.map(Vec::len),
            next_at: spent.and_then(|spent| self.next(spent)),
        })
    }

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
    fn of_paid<'a>(&self, told: &'a Told<Answered>, now: Now) -> Measured<'a> {
        let age = now.mono.saturating_sub(told.at.mono);
        if age > self.apart() + FIVE_MINUTES {
            return self.unasked();
        }
        match seen(told) {
            // It stands for hours: one check that finds nothing healthy is a blip until the next one says so too.
            Measured::Seen(health, at) if self.none_healthy == 1 => Measured::Unconfirmed(health, at),
            measured => measured,
        }
    }

    /// Without a database, or without checks of its own, it has no such thing.
    fn of_latest<'a>(&self, told: &'a Told<Answered>, now: Now) -> Measured<'a> {
        match (&told.said.value, &told.said.seen) {
            (Some(Some(_)), _) => fresh(told, now).map_or(Measured::Unseen, seen),
            (None, asked) if is_silent(asked) => Measured::Unseen,
            (None, Seen { auth: Auth::Rejected, .. }) => self.unasked(),
            _ => Measured::Not,
        }
    }
}

/// Its configuration file decides, at each question.
///
/// # Errors
/// It costs, or nobody tells.
fn is_known_to_be_free(own: Option<&Gateway>) -> Result<(), String> {
    match own.and_then(Gateway::background_health_checks) {
        Some(true) => Ok(()),
        Some(false) => Err("LiteLLM does not check its models by itself: to ask would call each of them".to_owned()),
        None => Err("nobody tells whether LiteLLM checks its models by itself (`active_health` would): to ask may \
                         call each of them"
            .to_owned()),
    }
}

fn fresh<T>(told: &Told<T>, now: Now) -> Option<&Told<T>> {
    let age = now.mono.saturating_sub(told.at.mono);
    (age <= FIVE_MINUTES).then_some(told)
}

fn seen(told: &Told<Answered>) -> Measured<'_> {
    match &told.said.value {
        Some(Some(health)) => Measured::Seen(health, told.at.wall),
        Some(None) | None => Measured::Unseen,
    }
}

fn is_silent(seen: &Seen) -> bool {
    matches!(seen.state, State::Hung | State::Down)
}
