//! The observations of the last minutes, eight bytes each.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Rules;
use crate::sample::Cause;

/// What one look at a subject came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    Ok,
    Bad,
    Unanswered,
    Denied,
}

impl Seen {
    const ALL: [Seen; 4] = [Seen::Ok, Seen::Bad, Seen::Unanswered, Seen::Denied];

    pub fn is_known(self) -> bool {
        matches!(self, Seen::Ok | Seen::Bad)
    }

    pub(super) fn cause(self) -> Option<Cause> {
        match self {
            Seen::Ok | Seen::Bad => None,
            Seen::Unanswered => Some(Cause::Unanswered),
            Seen::Denied => Some(Cause::Denied),
        }
    }
}

impl Seen {
    /// Nothing was seen, for this cause; `None` if that is no observation at all.
    pub fn unknown(cause: Cause) -> Option<Seen> {
        match cause {
            Cause::Unanswered => Some(Seen::Unanswered),
            Cause::Denied => Some(Seen::Denied),
            Cause::Excused => None,
        }
    }
}

/// How many observations of each kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally([u32; 4]);

impl Tally {
    pub fn of(self, seen: Seen) -> u32 {
        self.0[seen as usize]
    }

    pub fn known(self) -> u32 {
        self.of(Seen::Ok) + self.of(Seen::Bad)
    }

    pub fn total(self) -> u32 {
        self.0.iter().sum()
    }
}

/// The observations in the window, oldest first: microseconds, with the kind in the two lowest bits.
///
/// Kept, each is written as the time since the one before it: half as long.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(from = "Vec<u64>", into = "Vec<u64>")]
pub struct Past {
    seen: VecDeque<u64>,
    tally: Tally,
}

impl Past {
    /// Adds one, and lets go of those that have left the window.
    pub fn push(&mut self, at: Duration, seen: Seen, rules: Rules<'_>) {
        self.seen.push_back(micros(at) << 2 | seen as u64);
        self.tally.0[seen as usize] += 1;
        self.trim(rules);
    }

    /// Lets go of what had left the window at the latest observation, and of what is too much for it.
    pub fn trim(&mut self, rules: Rules<'_>) {
        let Some(&latest) = self.seen.back() else { return };
        let at = Duration::from_micros(latest >> 2);
        while self.seen.front().is_some_and(|&oldest| has_left(oldest, at, rules.span())) {
            self.drop_oldest();
        }
        while self.seen.len() > rules.capacity() {
            self.drop_oldest();
        }
    }

    /// What is in it since the latest push.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.seen.pop_front() {
            self.tally.0[kind(oldest) as usize] -= 1;
        }
    }

    pub fn clear(&mut self) {
        *self = Past::default();
    }

    /// The tally at a later moment, without those that have left the window by then.
    pub fn tally_at(&self, at: Duration, rules: Rules<'_>) -> Tally {
        let mut tally = self.tally;
        for &gone in self.seen.iter().take_while(|&&oldest| has_left(oldest, at, rules.span())) {
            tally.0[kind(gone) as usize] -= 1;
        }
        tally
    }

    /// When the oldest of a kind was seen.
    pub fn first(&self, wanted: Seen) -> Option<Duration> {
        self.seen.iter().find(|&&word| kind(word) == wanted).map(|&word| Duration::from_micros(word >> 2))
    }
}

impl From<Past> for Vec<u64> {
    fn from(past: Past) -> Vec<u64> {
        let mut before = 0;
        let since = |word: u64| {
            let at = word >> 2;
            (at - std::mem::replace(&mut before, at)) << 2 | word & 3
        };
        past.seen.into_iter().map(since).collect()
    }
}

impl From<Vec<u64>> for Past {
    fn from(words: Vec<u64>) -> Past {
        let (mut past, mut at) = (Past::default(), 0_u64);
        for word in words {
            at = at.saturating_add(word >> 2).min(u64::MAX >> 2);
            past.seen.push_back(at << 2 | word & 3);
            past.tally.0[kind(word) as usize] += 1;
        }
        past
    }
}

fn has_left(word: u64, at: Duration, span: Duration) -> bool {
    micros(at).saturating_sub(word >> 2) >= micros(span)
}

fn kind(word: u64) -> Seen {
    Seen::ALL[(word & 3) as usize]
}

/// Two bits are left free; what remains lasts for more than a hundred thousand years.
fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).min(u64::MAX >> 2)
}
