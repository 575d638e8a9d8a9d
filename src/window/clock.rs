//! Time as verdicts count it: a clock that is told, and that stands still while nobody watches.

use std::collections::VecDeque;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::sample::Now;

/// The clock is looked at every second. After a longer pause than this, nobody watched meanwhile.
const UNWATCHED: Duration = Duration::from_secs(10);

/// One instant, and how much time somebody had watched until then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    pub now: Now,
    pub watched: Duration,
}

impl Moment {
    pub fn plus(self, span: Duration) -> Moment {
        Moment { now: self.now.plus(span), watched: self.watched.saturating_add(span) }
    }
}

/// Time as verdicts count it. What is watched stands still while nobody watches: asleep, stopped, or the river woke too
/// late. It goes on where it was after a restart, and after a reboot too, though the machine's clock then begins anew.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Clock {
    at: Moment,
    /// The monotonic time that it was told last: a reboot apart, the same as the moment's.
    told: Duration,
    /// Pauses in which nobody watched, for as long as a window reaches back.
    gaps: VecDeque<Gap>,
    #[serde(skip)]
    memory: Duration,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Gap {
    end: Duration,
    length: Duration,
}

impl Clock {
    /// `memory` is how far back the widest window reaches.
    pub fn new(now: Now, memory: Duration) -> Clock {
        Clock { at: Moment { now, watched: Duration::ZERO }, told: now.mono, gaps: VecDeque::new(), memory }
    }

    /// Goes on from what was kept, after a pause of this length, whatever the machine's clock shows.
    pub fn resume(self, now: Now, away: Duration, memory: Duration) -> Clock {
        let mono = self.at.now.mono.saturating_add(away);
        let at = Moment { now: Now { mono, wall: now.wall }, ..self.at };
        let mut clock = Clock { at, told: now.mono, memory, ..self };
        clock.note_gap(away);
        clock
    }

    /// The latest moment it was told.
    pub fn at(&self) -> Moment {
        self.at
    }

    /// The monotonic time that it was told last.
    pub fn told(&self) -> Duration {
        self.told
    }

    /// Tells it the time; answers with the length of the pause before, if nobody watched in it.
    pub fn advance(&mut self, now: Now) -> Option<Duration> {
        let passed = now.mono.saturating_sub(self.told);
        self.told = self.told.max(now.mono);
        self.at.now = Now { mono: self.at.now.mono.saturating_add(passed), wall: now.wall };
        if passed <= UNWATCHED {
            self.at.watched = self.at.watched.saturating_add(passed);
            return None;
        }
        self.note_gap(passed);
        Some(passed)
    }

    fn note_gap(&mut self, length: Duration) {
        let end = self.at.now.mono;
        self.gaps.retain(|gap| end.saturating_sub(gap.end) <= self.memory);
        if length > Duration::ZERO {
            self.gaps.push_back(Gap { end, length });
        }
    }

    /// A moment of the past, from its monotonic time.
    pub fn back_to(&self, mono: Duration) -> Moment {
        let ago = self.at.now.mono.saturating_sub(mono);
        let gaps = self.gaps.iter().filter(|gap| gap.end > mono);
        let unwatched = gaps.fold(Duration::ZERO, |sum, gap| sum.saturating_add(gap.length));
        let watched = self.at.watched.saturating_sub(ago.saturating_sub(unwatched));
        let ago = SignedDuration::try_from(ago).unwrap_or(SignedDuration::MAX);
        let wall = self.at.now.wall.checked_sub(ago).unwrap_or(Timestamp::MIN);
        Moment { now: Now { mono, wall }, watched }
    }
}
