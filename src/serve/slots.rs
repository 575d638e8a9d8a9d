//! Room for connections: a bounded number, and whoever comes gets in, so that nobody can keep a probe waiting. When there
//! is no room left, one leaves that has shown least: first who never asked, then who was never let in, then who was and is
//! silent; among equals the one that has been silent for longest.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub struct Slots {
    most: usize,
    /// Grows with every connection and every request: what is used later has the greater number.
    clock: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Seat>>>,
}

#[derive(Default)]
struct Seat {
    used: AtomicU64,
    asked: AtomicBool,
    known: AtomicBool,
    /// Requests under way.
    busy: AtomicU32,
    leave: Notify,
}

/// Room for one connection, until it is dropped.
pub struct Slot {
    slots: Arc<Slots>,
    number: u64,
    seat: Arc<Seat>,
}

impl Slots {
    pub fn new(most: usize) -> Arc<Slots> {
        Arc::new(Slots { most: most.max(1), clock: AtomicU64::new(0), open: Mutex::default() })
    }

    /// Room for a connection that has just come.
    pub fn take(self: &Arc<Slots>) -> Slot {
        let number = self.tick();
        let seat = Arc::new(Seat { used: AtomicU64::new(number), ..Seat::default() });
        let mut open = self.open();
        while open.len() >= self.most {
            let Some((&silent, _)) = open.iter().min_by_key(|(_, seat)| seat.rank()) else {
                break;
            };
            if let Some(seat) = open.remove(&silent) {
                seat.leave.notify_one();
            }
        }
        open.insert(number, seat.clone());
        Slot { slots: self.clone(), number, seat }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Seat>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The least leaves.
    fn rank(&self) -> (bool, bool, bool, u64) {
        let known = self.known.load(Ordering::Relaxed);
        let busy = known && self.busy.load(Ordering::Relaxed) > 0;
        (busy, known, self.asked.load(Ordering::Relaxed), self.used.load(Ordering::Relaxed))
    }
}

/// A request under way; it is over when this is dropped.
pub struct Asking<'a>(&'a Slot);

impl Asking<'_> {
    /// Who asks may.
    pub fn is_known(&self) {
        self.0.seat.known.store(true, Ordering::Relaxed);
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.seat.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Slot {
    /// It asks for something.
    pub fn ask(&self) -> Asking<'_> {
        self.seat.used.store(self.slots.tick(), Ordering::Relaxed);
        self.seat.asked.store(true, Ordering::Relaxed);
        self.seat.busy.fetch_add(1, Ordering::Relaxed);
        Asking(self)
    }

    /// Resolves when its room is needed by another.
    pub async fn must_leave(&self) {
        self.seat.leave.notified().await;
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.open().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn must_leave(slot: &Slot) -> bool {
        let waiting = std::pin::pin!(slot.must_leave());
        waiting.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn the_one_that_was_silent_for_longest_leaves() {
        let slots = Slots::new(3);
        let (first, second, third) = (slots.take(), slots.take(), slots.take());
        drop(first.ask());
        let fourth = slots.take();
        assert!(must_leave(&second));
        assert!([&first, &third, &fourth].into_iter().all(|slot| !must_leave(slot)));
        drop(second); // it has left: nobody else's room goes with it
        drop(fourth);
        let fifth = slots.take();
        assert!([&first, &third, &fifth].into_iter().all(|slot| !must_leave(slot)));
        drop(slots.take());
        assert!(must_leave(&third) && !must_leave(&first));
        assert_eq!(slots.open().len(), 2);
    }

    #[test]
    fn who_has_shown_least_leaves_first() {
        let slots = Slots::new(5);
        let [busy, idle, refused, silent, asking] = [(); 5].map(|()| slots.take());
        let under_way = busy.ask();
        under_way.is_known();
        idle.ask().is_known();
        drop(refused.ask());
        let unheard = asking.ask();
        let mut others = Vec::new();
        for leaving in [&silent, &refused, &asking, &idle] {
            let other = slots.take();
            assert!(must_leave(leaving));
            other.ask().is_known();
            others.push(other);
        }
        assert!(!must_leave(&busy));
        drop((under_way, unheard));
    }

    #[test]
    fn there_is_always_room_for_one() {
        let slots = Slots::new(0);
        let first = slots.take();
        let second = slots.take();
        assert!(must_leave(&first) && !must_leave(&second));
    }
}
