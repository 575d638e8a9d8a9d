//! Chance that is the same in every run: what happens on a demo host can be told again.

use std::ops::RangeInclusive;

use jiff::SignedDuration;

/// Words without meaning: nothing on a demo host is anybody's text.
const WORDS: [&str; 12] =
    ["lorem", "ipsum", "dolor", "sit", "amet", "elit", "sed", "do", "tempor", "magna", "aliqua", "enim"];

/// A xorshift64* generator.
#[derive(Debug)]
pub struct Chance(u64);

impl Chance {
    /// The seed must not be zero: zero stays zero.
    pub const fn new(seed: u64) -> Chance {
        assert!(seed != 0);
        Chance(seed)
    }

    fn draw(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A whole number in the range, both ends included.
    pub fn within(&mut self, range: RangeInclusive<i64>) -> i64 {
        let count = range.end().abs_diff(*range.start()) + 1;
        range.start().saturating_add_unsigned(self.draw() % count)
    }

    pub fn happens(&mut self, percent: i64) -> bool {
        self.within(1..=100) <= percent
    }

    /// A time in this range of seconds, to the microsecond.
    pub fn seconds(&mut self, range: RangeInclusive<i64>) -> SignedDuration {
        SignedDuration::from_micros(self.within(range.start() * 1_000_000..=range.end() * 1_000_000))
    }

    /// One of these.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        let last = i64::try_from(choices.len()).expect("a list fits in memory") - 1;
        choices[usize::try_from(self.within(0..=last)).expect("drawn from 0 upwards")]
    }

    pub fn words(&mut self, count: RangeInclusive<i64>) -> String {
        let count = self.within(count);
        (0..count).map(|_| self.one_of(&WORDS)).collect::<Vec<_>>().join(" ")
    }

    /// Sixteen hexadecimal digits.
    pub fn hex(&mut self) -> String {
        format!("{:016x}", self.draw())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_and_every_value_of_a_range() {
        let (mut one, mut two) = (Chance::new(7), Chance::new(7));
        let drawn: Vec<i64> = (0..200).map(|_| one.within(-1..=2)).collect();
        assert_eq!(drawn, (0..200).map(|_| two.within(-1..=2)).collect::<Vec<_>>());
        for value in -1..=2 {
            assert!(drawn.contains(&value), "{value} is never drawn");
        }
        assert!(drawn.iter().all(|value| (-1..=2).contains(value)));
    }

    #[test]
    fn never_and_always_are_kept() {
        let mut chance = Chance::new(1);
        assert!((0..500).all(|_| chance.happens(100)));
        assert!((0..500).all(|_| !chance.happens(0)));
    }

    #[test]
    fn words_are_counted() {
        assert_eq!(Chance::new(3).words(4..=4).split(' ').count(), 4);
    }
}
