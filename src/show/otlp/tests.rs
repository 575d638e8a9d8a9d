use super::*;
use crate::source::otlp::Reason;

const EVERY: Duration = Duration::from_secs(15);

fn failed(retry_after: Option<u64>) -> Failed {
    Failed {
        reason: Reason::Unavailable,
        text: "answered with status 503".into(),
        retry_after: retry_after.map(Duration::from_secs),
    }
}

/// How many turns pass before the next push.
fn turns(pace: &mut Pace) -> u32 {
    (1..).find(|_| !pace.rests()).unwrap()
}

#[test]
fn an_endpoint_that_takes_nothing_is_asked_ever_less_often_and_never_less_than_seldom() {
    let mut pace = Pace::default();
    let mut waited = Vec::new();
    for _ in 0..40 {
        pace.failed(&failed(None), EVERY);
        waited.push(turns(&mut pace));
    }
    assert_eq!(waited[..6], [1, 2, 4, 8, 16, 20]);
    assert!(waited[6..].iter().all(|turns| *turns == 20), "five minutes of 15 s: {waited:?}");
    pace.went_well();
    assert_eq!(turns(&mut pace), 1);
    pace.failed(&failed(None), EVERY);
    assert_eq!(turns(&mut pace), 1, "it begins anew");
}

#[test]
fn an_endpoint_is_left_alone_as_long_as_it_asks_for() {
    for (asked, expected) in [(1, 1), (15, 1), (16, 2), (150, 10), (3600, 240), (1_000_000, 240)] {
        let mut pace = Pace::default();
        pace.failed(&failed(Some(asked)), EVERY);
        assert_eq!(turns(&mut pace), expected, "Retry-After: {asked}");
    }
}

#[test]
fn a_long_interval_is_no_shorter_after_a_failure() {
    let mut pace = Pace::default();
    for _ in 0..3 {
        pace.failed(&failed(None), Duration::from_secs(3600));
        assert_eq!(turns(&mut pace), 1);
    }
}
