//! Figures, as a table that a person can read at the end of a test.

use std::fmt::Display;
use std::time::Duration;

pub struct Figures {
    title: &'static str,
    rows: Vec<(String, String)>,
}

impl Figures {
    pub fn of(title: &'static str) -> Figures {
        Figures { title, rows: Vec::new() }
    }

    pub fn say(&mut self, what: impl Into<String>, value: impl Display) {
        self.rows.push((what.into(), value.to_string()));
    }

    /// Half, 99 of 100, and the longest of them.
    pub fn spread(&mut self, what: &str, of: &mut [Duration]) {
        let value = match Spread::of(of) {
            Some(Spread { half, most, longest }) => {
                format!("p50 {}, p99 {}, max {}, of {}", millis(half), millis(most), millis(longest), of.len())
            }
            None => "none".to_owned(),
        };
        self.say(what, value);
    }
}

/// In one piece, so that no other test's lines come between.
impl Drop for Figures {
    fn drop(&mut self) {
        let rows = self.rows.iter().map(|(what, value)| format!("  {what:<72} {value}\n"));
        println!("\n{}\n{}", self.title, rows.collect::<String>());
    }
}

pub struct Spread {
    pub half: Duration,
    pub most: Duration,
    pub longest: Duration,
}

impl Spread {
    pub fn of(times: &mut [Duration]) -> Option<Spread> {
        times.sort_unstable();
        let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied();
        Some(Spread { half: at(50)?, most: at(99)?, longest: at(100)? })
    }
}

pub fn millis(time: Duration) -> String {
    format!("{:.3} ms", time.as_secs_f64() * 1e3)
}
