//! Room for connections: a bounded number, and whoever comes gets in, so that nobody can keep a probe waiting. When there
//! is no room left, one leaves that has shown least: first who never asked, then who was never let in, then who was and is
//! silent; among equals the one that has been silent for longest. One address has a quarter of the room at most, so that
//! nobody can crowd out the others: past that the one of its own leaves that has been silent for longest, known or not, for
//! they are most likely one party's, and whoever comes through a proxy must get to ask.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

pub struct Slots {
    most: usize,
    /// How many of them one address may have.
    each: usize,
    /// Grows with every connection and every request: what is used later has the greater number.
    clock: AtomicU64,
    open: Mutex<BTreeMap<u64, Arc<Seat>>>,
}

struct Seat {
    of: IpAddr,
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
        let (most, each) = (most.max(1), (most / 4).max(1));
        Arc::new(Slots { most, each, clock: AtomicU64::new(0), open: Mutex::default() })
    }

    /// Room for a connection that has just come from this address.
    pub fn take(self: &Arc<Slots>, from: IpAddr) -> Slot {
        let (number, of) = (self.tick(), house(from));
        let seat = Arc::new(Seat::new(of, number));
        let mut open = self.open();
        if open.values().filter(|seat| seat.of == of).count() >= self.each {
            let own = open.iter().filter(|(_, seat)| seat.of == of).min_by_key(|(_, seat)| seat.lately());
            let own = own.map(|(&number, _)| number);
            leave(&mut open, own);
        }
        if open.len() >= self.most {
            let least = open.iter().min_by_key(|(_, seat)| seat.rank()).map(|(&number, _)| number);
            leave(&mut open, least);
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

fn leave(open: &mut BTreeMap<u64, Arc<Seat>>, number: Option<u64>) {
    if let Some(seat) = number.and_then(|number| open.remove(&number)) {
        seat.leave.notify_one();
    }
}

/// What counts as one address: whoever has one of IPv6 has all that begin with the same 64 bits.
fn house(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(own) => Ipv6Addr::from_bits(own.to_bits() & (u128::MAX << 64)).into(),
        own @ IpAddr::V4(_) => own,
    }
}

impl Seat {
    fn new(of: IpAddr, number: u64) -> Seat {
        let (asked, known, busy, leave) = Default::default();
        Seat { of, used: AtomicU64::new(number), asked, known, busy, leave }
    }

    /// Of all, the least leaves.
    fn rank(&self) -> (bool, bool, bool, u64) {
        let (busy, used) = self.lately();
        (busy, self.known.load(Ordering::Relaxed), self.asked.load(Ordering::Relaxed), used)
    }

    /// Of one address, the least leaves.
    fn lately(&self) -> (bool, u64) {
        let busy = self.known.load(Ordering::Relaxed) && self.busy.load(Ordering::Relaxed) > 0;
        (busy, self.used.load(Ordering::Relaxed))
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

    /// One that is not the others'.
    fn address(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    fn must_leave(slot: &Slot) -> bool {
        let waiting = std::pin::pin!(slot.must_leave());
        waiting.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
    }

    #[test]
    fn the_one_that_was_silent_for_longest_leaves() {
        let slots = Slots::new(3);
        let [first, second, third] = [1, 2, 3].map(|number| slots.take(address(number)));
        drop(first.ask());
        let fourth = slots.take(address(4));
        assert!(must_leave(&second));
        assert!([&first, &third, &fourth].into_iter().all(|slot| !must_leave(slot)));
        drop(second); // it has left: nobody else's room goes with it
        drop(fourth);
        let fifth = slots.take(address(5));
        assert!([&first, &third, &fifth].into_iter().all(|slot| !must_leave(slot)));
        drop(slots.take(address(6)));
        assert!(must_leave(&third) && !must_leave(&first));
        assert_eq!(slots.open().len(), 2);
    }

    #[test]
    fn who_has_shown_least_leaves_first() {
        let slots = Slots::new(5);
        let [busy, idle, refused, silent, asking] = [1, 2, 3, 4, 5].map(|number| slots.take(address(number)));
        let under_way = busy.ask();
        under_way.is_known();
        idle.ask().is_known();
        drop(refused.ask());
        let unheard = asking.ask();
        let mut others = Vec::new();
        for (number, leaving) in (6..).zip([&silent, &refused, &asking, &idle]) {
            let other = slots.take(address(number));
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
        let first = slots.take(address(1));
        let second = slots.take(address(2));
        assert!(must_leave(&first) && !must_leave(&second));
    }

    #[test]
    fn one_address_has_a_quarter_and_crowds_out_nobody_else() {
        let slots = Slots::new(8);
        let other = slots.take(address(1));
        let [first, second] = [(); 2].map(|()| slots.take(address(2)));
        let under_way = first.ask();
        under_way.is_known();
        let third = slots.take(address(2));
        assert!(must_leave(&second), "its own least, though there is room");
        assert!([&other, &first, &third].into_iter().all(|slot| !must_leave(slot)));
        drop(slots.take(address(3)));
        assert_eq!(slots.open().len(), 3);
        // A host of IPv6 has as many addresses as it likes, and one of IPv4 may come as one of IPv6.
        let mut seats = Vec::new();
        for host in 1..=20u16 {
            seats.push(slots.take(Ipv6Addr::new(0x2001, 0xdb8, 0, 7, 0, 0, 0, host).into()));
        }
        seats.push(slots.take("::ffff:192.0.2.2".parse().unwrap()));
        assert!(must_leave(&third) && !must_leave(&first) && !must_leave(&other));
        assert_eq!(slots.open().len(), 5);
        drop(under_way);
    }

    /// Or those that came through a proxy after some that are kept would drive out each other before they have asked.
    #[test]
    fn of_one_address_the_longest_silence_goes_first_known_or_not() {
        let slots = Slots::new(16);
        let [first, second, third, fourth] = [(); 4].map(|()| slots.take(address(1)));
        for kept in [&first, &second, &third, &fourth] {
            kept.ask().is_known();
        }
        let newer = [(); 3].map(|()| slots.take(address(1)));
        assert!([&first, &second, &third].into_iter().all(must_leave) && !must_leave(&fourth));
        assert!(!newer.iter().any(must_leave));
    }
}
