//! What the verdicts were in the last day: their transitions, and the times in which nobody watched.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::State;
use crate::sample::Now;

/// How far it reaches back.
pub const REACH: Duration = Duration::from_secs(24 * 3600);
/// Transitions kept of one check on one subject; the oldest go. What flaps must not push out all others.
pub const PER_SUBJECT: u32 = 100;
/// Transitions kept in all; the oldest go. At about 150 bytes each that is 1.5 MB.
pub const IN_ALL: usize = 10_000;
/// Pauses kept; the oldest go.
pub const PAUSES: usize = 1000;

/// One check on one subject changed its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Change {
    pub check: Arc<str>,
    pub subject: Arc<str>,
    pub at: Now,
    /// `None`: it was not there.
    pub from: Option<State>,
    /// `None`: it is no longer listed.
    pub to: Option<State>,
    /// The first observation of what made the new state.
    pub since: Option<Now>,
}

impl Change {
    /// That something came or went while all was well is no news: thousands do.
    pub fn is_news(&self) -> bool {
        let is_calm = |state| matches!(state, None | Some(State::Starting | State::Ok));
        !is_calm(self.from) || !is_calm(self.to)
    }

    fn key(&self) -> Key {
        (self.check.clone(), self.subject.clone())
    }
}

type Key = (Arc<str>, Arc<str>);

/// Why nobody watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// The sidecar did not run.
    Stopped,
    /// Nor did the machine.
    Rebooted,
    /// The machine slept, or the sidecar got no time to run.
    Asleep,
}

/// A time in which nobody watched, as the wall clock showed it: it may have been set meanwhile.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pause {
    pub from: Timestamp,
    pub to: Now,
    /// How long it was; across a reboot nobody knows.
    pub length: Option<Duration>,
    pub why: Why,
}

/// The last day, oldest first.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// By number: each has the number after the one before it.
    changes: VecDeque<(u64, Arc<Change>)>,
    counts: BTreeMap<Key, u32>,
    next: u64,
    pauses: VecDeque<Pause>,
}

impl History {
    /// What was kept: changes with their numbers in rising order, and pauses.
    pub fn resume(changes: impl IntoIterator<Item = (u64, Change)>, pauses: Vec<Pause>) -> History {
        let mut history = History { pauses: pauses.into(), ..History::default() };
        for (number, change) in changes {
            history.next = number;
            history.push(change);
        }
        history
    }

    pub fn push(&mut self, change: Change) {
        let count = self.counts.entry(change.key()).or_insert(0);
        *count += 1;
        if *count > PER_SUBJECT {
            self.forget_first(&change.key());
        }
        if self.changes.len() == IN_ALL {
            self.forget_oldest();
        }
        self.changes.push_back((self.next, Arc::new(change)));
        self.next += 1;
    }

    pub fn pause(&mut self, pause: Pause) {
        if self.pauses.len() == PAUSES {
            self.pauses.pop_front();
        }
        self.pauses.push_back(pause);
    }

    /// Whether there is something from before the last day.
    pub fn is_overdue(&self, now: Now) -> bool {
        let is_old = |at: Now| now.mono.saturating_sub(at.mono) > REACH;
        self.changes.front().is_some_and(|(_, change)| is_old(change.at))
            || self.pauses.front().is_some_and(|pause| is_old(pause.to))
    }

    /// Lets go of what is older than a day.
    pub fn forget(&mut self, now: Now) {
        let is_old = |at: Now| now.mono.saturating_sub(at.mono) > REACH;
        while self.changes.front().is_some_and(|(_, change)| is_old(change.at)) {
            self.forget_oldest();
        }
        while self.pauses.front().is_some_and(|pause| is_old(pause.to)) {
            self.pauses.pop_front();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, change)) = self.changes.pop_front() {
            self.count_down(&change.key());
        }
    }

    fn forget_first(&mut self, key: &Key) {
        let is_its = |(_, change): &(u64, Arc<Change>)| change.check == key.0 && change.subject == key.1;
        if let Some(place) = self.changes.iter().position(is_its) {
            self.changes.remove(place);
            self.count_down(key);
        }
    }

    fn count_down(&mut self, key: &Key) {
        match self.counts.get_mut(key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.counts.remove(key)),
        }
    }

    /// With their numbers, which never come twice.
    pub fn changes(&self) -> impl Iterator<Item = (u64, &Change)> {
        self.changes.iter().map(|(number, change)| (*number, &**change))
    }

    pub fn pauses(&self) -> &VecDeque<Pause> {
        &self.pauses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now { mono: Duration::ZERO, wall: Timestamp::UNIX_EPOCH }.plus(Duration::from_secs(seconds))
    }

    fn change(subject: &str, seconds: u64) -> Change {
        let (from, to) = (Some(State::Ok), Some(State::Failing));
        Change {
            check: "lamp_lit".into(),
            subject: subject.into(),
            at: at(seconds),
            from,
            to,
            since: Some(at(seconds)),
        }
    }

    fn of(history: &History, subject: &str) -> Vec<u64> {
        let its = history.changes().filter(|(_, change)| &*change.subject == subject);
        its.map(|(_, change)| change.at.mono.as_secs()).collect()
    }

    #[test]
    fn one_that_flaps_pushes_out_its_own_past_only() {
        let mut history = History::default();
        history.push(change("hall", 0));
        (1..=250).for_each(|second| history.push(change("shed", second)));
        assert_eq!(of(&history, "hall"), [0]);
        assert_eq!(of(&history, "shed"), Vec::from_iter(151..=250));
    }

    #[test]
    fn it_is_bounded_in_all() {
        let mut history = History::default();
        for number in 0..IN_ALL as u64 + 7 {
            history.push(change(&format!("lamp {number}"), number));
        }
        assert_eq!(history.changes().count(), IN_ALL);
        assert_eq!(history.changes().next().unwrap().0, 7);
        assert_eq!(history.counts.len(), IN_ALL);
    }

    #[test]
    fn after_a_day_it_is_forgotten() {
        let mut history = History::default();
        history.push(change("hall", 10));
        history.push(change("hall", 20));
        let day = REACH.as_secs();
        assert!(!history.is_overdue(at(day + 10)));
        assert!(history.is_overdue(at(day + 11)));
        history.forget(at(day + 11));
        assert_eq!(of(&history, "hall"), [20]);
        history.forget(at(day + 21));
        assert!(history.counts.is_empty());
    }

    #[test]
    fn numbers_go_on_after_a_restart() {
        let mut history = History::default();
        (0..5).for_each(|second| history.push(change("hall", second)));
        let kept: Vec<_> = history.changes().skip(2).map(|(number, change)| (number, change.clone())).collect();
        let mut again = History::resume(kept, Vec::new());
        again.push(change("hall", 9));
        assert_eq!(again.changes().map(|(number, _)| number).collect::<Vec<_>>(), [2, 3, 4, 5]);
    }

    #[test]
    fn what_comes_and_goes_in_peace_is_no_news() {
        let news = |from, to| Change { from, to, ..change("hall", 0) }.is_news();
        assert!(!news(None, Some(State::Ok)) && !news(Some(State::Starting), Some(State::Ok)));
        assert!(!news(Some(State::Ok), None));
        assert!(news(Some(State::Failed), None) && news(None, Some(State::Failing)));
        assert!(news(Some(State::Recovering), Some(State::Ok)));
    }
}
