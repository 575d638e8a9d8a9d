//! What is kept of all verdicts across a restart, and how it is written down: JSON, one text for each window.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Overall;
use super::history::{Change, History, Pause, Why};
use crate::sample::Now;
use crate::window::{Clock, Window};

/// Everything that a restart keeps. The configuration is not among it: policies are always those of the new one.
#[derive(Debug, Clone)]
pub struct Kept {
    pub(super) about: About,
    pub(super) checks: Vec<KeptCheck>,
    pub history: Arc<History>,
}

/// What is not of one subject.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct About {
    pub clock: Clock,
    pub overall: Overall,
    pub since: Now,
    pub collectors: Vec<KeptCollector>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeptCollector {
    pub name: Arc<str>,
    /// Watched time at which the wait for its first word began.
    pub begun: Duration,
    pub settled: bool,
    pub denied: bool,
}

#[derive(Debug, Clone)]
pub(super) struct KeptCheck {
    pub name: Arc<str>,
    /// The subjects that the configuration named. One of them without a window was not listed for long enough to be
    /// dropped, and does not come back with a restart.
    pub named: Vec<Arc<str>>,
    pub windows: BTreeMap<Arc<str>, KeptWindow>,
}

/// One check on one subject.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct KeptWindow {
    pub collector: Arc<str>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub placeholder: bool,
    pub window: Window,
}

/// The time between what was kept and now, in which nobody watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Away {
    pub length: Duration,
    /// Then only the wall clock knows its length, and nobody knows whether it was set: it counts as long in any case.
    pub rebooted: bool,
}

impl Away {
    /// The same process goes on, under another configuration.
    pub const NONE: Away = Away { length: Duration::ZERO, rebooted: false };

    /// The length as far as streaks are concerned.
    pub(super) fn forgets(self) -> Duration {
        if self.rebooted { Duration::MAX } else { self.length }
    }
}

/// A `Kept` as texts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts {
    pub about: String,
    /// By check and subject.
    pub windows: BTreeMap<(String, String), String>,
    /// By number.
    pub changes: BTreeMap<u64, String>,
}

/// The first text: what is not of one subject, and what is known of each check.
#[derive(Serialize, Deserialize)]
struct Front<'a> {
    #[serde(flatten)]
    about: Cow<'a, About>,
    checks: BTreeMap<Cow<'a, str>, Cow<'a, [Arc<str>]>>,
    pauses: Cow<'a, [Pause]>,
}

impl Kept {
    /// How long it was from then to now. Within one boot the monotonic clock knows; the wall clock may have been set.
    pub fn away(&self, now: Now, same_boot: bool) -> Away {
        let (told, wall) = (self.about.clock.told(), self.wall());
        match now.mono.checked_sub(told) {
            Some(length) if same_boot => Away { length, rebooted: false },
            _ => Away { length: now.wall.duration_since(wall).try_into().unwrap_or_default(), rebooted: true },
        }
    }

    /// When it was kept.
    pub fn wall(&self) -> jiff::Timestamp {
        self.about.clock.at().now.wall
    }

    /// Writes it down.
    ///
    /// # Errors
    /// A defect of a type: JSON cannot hold it.
    pub fn write(&self) -> serde_json::Result<Texts> {
        let mut windows = BTreeMap::new();
        for check in &self.checks {
            for (subject, window) in &check.windows {
                windows.insert((check.name.to_string(), subject.to_string()), serde_json::to_string(window)?);
            }
        }
        let changes = self.history.changes().map(|(number, change)| Ok((number, serde_json::to_string(change)?)));
        Ok(Texts { about: self.front()?, windows, changes: changes.collect::<serde_json::Result<_>>()? })
    }

    fn front(&self) -> serde_json::Result<String> {
        let checks = self.checks.iter().map(|check| (Cow::Borrowed(&*check.name), Cow::Borrowed(&check.named[..])));
        let pauses: Vec<Pause> = self.history.pauses().iter().cloned().collect();
        let front = Front { about: Cow::Borrowed(&self.about), checks: checks.collect(), pauses: pauses.into() };
        serde_json::to_string(&front)
    }

    /// Reads what was written.
    ///
    /// # Errors
    /// The texts are damaged.
    pub fn read(texts: &Texts) -> serde_json::Result<Kept> {
        let front: Front<'_> = serde_json::from_str(&texts.about)?;
        let mut checks = BTreeMap::new();
        for (name, named) in front.checks {
            let name: Arc<str> = name.into_owned().into();
            checks.insert(name.to_string(), KeptCheck { name, named: named.into_owned(), windows: BTreeMap::new() });
        }
        for ((check, subject), text) in &texts.windows {
            if let Some(check) = checks.get_mut(check) {
                check.windows.insert(subject.as_str().into(), serde_json::from_str(text)?);
            }
        }
        let mut changes: Vec<(u64, Change)> = Vec::new();
        for (number, text) in &texts.changes {
            changes.push((*number, serde_json::from_str(text)?));
        }
        let history = History::resume(changes, front.pauses.into_owned()).into();
        Ok(Kept { about: front.about.into_owned(), checks: checks.into_values().collect(), history })
    }

    pub(super) fn collector(&self, name: &str) -> Option<&KeptCollector> {
        self.about.collectors.iter().find(|collector| &*collector.name == name)
    }

    /// Takes out what is kept of a check.
    pub(super) fn take(&mut self, check: &str) -> Option<KeptCheck> {
        let place = self.checks.iter().position(|kept| &*kept.name == check)?;
        Some(self.checks.swap_remove(place))
    }

    /// The pause as the history shows it.
    pub(super) fn pause(&self, away: Away, to: Now) -> Option<Pause> {
        let (why, length) = match away {
            Away::NONE => return None,
            Away { rebooted: true, .. } => (Why::Rebooted, None),
            Away { length, .. } => (Why::Stopped, Some(length)),
        };
        Some(Pause { from: self.wall(), to, length, why })
    }
}

#[cfg(test)]
mod tests;
