//! How often may be asked.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One token each `interval`, `burst` of them at most; without a lock.
pub struct Rate {
    interval: u64,
    /// How far ahead of the clock may be spent.
    ahead: u64,
    /// All tokens have been given up to this moment of the monotonic clock, in nanoseconds.
    spent: AtomicU64,
}

impl Rate {
    pub fn new(interval: Duration, burst: u32) -> Rate {
        let interval = nanoseconds(interval);
        Rate { interval, ahead: interval.saturating_mul(u64::from(burst)), spent: AtomicU64::new(0) }
    }

    /// Whether it admits as often as another.
    pub fn is_like(&self, other: &Rate) -> bool {
        (self.interval, self.ahead) == (other.interval, other.ahead)
    }

    /// Takes a token; false if there is none.
    pub fn admits(&self, now: Duration) -> bool {
        let now = nanoseconds(now);
        let spend = |spent: u64| {
            let next = spent.max(now).saturating_add(self.interval);
            (next - now <= self.ahead).then_some(next)
        };
        self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_ok()
    }
}

fn nanoseconds(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_one_each_interval() {
        let rate = Rate::new(Duration::from_secs(2), 3);
        let admitted =
            |second: u64, often: usize| (0..often).filter(|_| rate.admits(Duration::from_secs(second))).count();
        assert_eq!(admitted(100, 5), 3);
        assert_eq!(admitted(101, 2), 0);
        assert_eq!(admitted(102, 2), 1);
        assert_eq!(admitted(106, 5), 2);
        assert_eq!(admitted(1000, 9), 3, "no more than the burst is saved up");
    }
}
