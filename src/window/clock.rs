//! Time as verdicts count it: a clock that is told, and that stands still while nobody watches.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::sample::Now;

/// The clock is looked at every second. After a longer pause than this, nobody watched meanwhile.
const UNWATCHED: Duration = Duration::from_secs(10);

/// One instant, and how much time somebody had watched until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub now: Now,
    pub watched: Duration,
}

impl Moment {
    pub fn plus(self, span: Duration) -> Moment {
        Moment { now: self.now.plus(span), watched: self.watched.saturating_add(span) }
    }
}

/// Time as verdicts count it. It stands still while nobody watches: asleep, stopped, or the river woke too late.
#[derive(Debug)]
pub struct Clock {
    at: Moment,
    /// Pauses in which nobody watched, for as long as a window reaches back.
    gaps: VecDeque<Gap>,
    memory: Duration,
}

#[derive(Debug)]
struct Gap {
    end: Duration,
    length: Duration,
}

impl Clock {
    /// `memory` is how far back the widest window reaches.
    pub fn new(now: Now, memory: Duration) -> Clock {
        Clock { at: Moment { now, watched: Duration::ZERO }, gaps: VecDeque::new(), memory }
    }

    /// The latest moment it was told.
    pub fn at(&self) -> Moment {
        self.at
    }

    /// Tells it the time; answers with the length of the pause before, if nobody watched in it.
    pub fn advance(&mut self, now: Now) -> Option<Duration> {
        let passed = now.mono.saturating_sub(self.at.now.mono);
        self.at.now = Now { mono: self.at.now.mono.saturating_add(passed), wall: now.wall };
        if passed <= UNWATCHED {
            self.at.watched += passed;
            return None;
        }
        let end = self.at.now.mono;
        self.gaps.retain(|gap| end.saturating_sub(gap.end) <= self.memory);
        self.gaps.push_back(Gap { end, length: passed });
        Some(passed)
    }

    /// A moment of the past, from its monotonic time.
    pub fn back_to(&self, mono: Duration) -> Moment {
        let ago = self.at.now.mono.saturating_sub(mono);
        let unwatched: Duration = self.gaps.iter().filter(|gap| gap.end > mono).map(|gap| gap.length).sum();
        let watched = self.at.watched.saturating_sub(ago.saturating_sub(unwatched));
        let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::MAX);
        let wall = self.at.now.wall.checked_sub(ago).unwrap_or(Timestamp::MIN);
        Moment { now: Now { mono, wall }, watched }
    }
}
