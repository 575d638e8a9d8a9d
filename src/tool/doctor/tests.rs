use std::sync::Arc;

use serde_json::value::RawValue;

use super::*;
use crate::host;
use crate::sample::{Cause, Failure, Now, Points, Reading, Sample};

fn now() -> Now {
    Now { mono: std::time::Duration::from_secs(1000), wall: "2026-11-21T20:00:00Z".parse().unwrap() }
}

fn us() -> Us {
    Us { user: 65534, groups: vec![65534], may_trace: Some(false) }
}

fn examined(outcome: Result<Sample, Failure>) -> Row {
    let subsystem = collect::ALL.iter().find(|subsystem| subsystem.name == "groups").unwrap();
    let took = std::time::Duration::from_millis(3);
    let reading = Reading { collector: subsystem.name, at: now(), took, outcome, own: Points::default() };
    let fresh = std::time::Duration::from_secs(100);
    let mut seen = Seen::nothing(subsystem.name, subsystem.every, fresh);
    seen.last = Some(Arc::new(reading));
    row(subsystem, &seen, &host::pynchy::host(Path::new("/nonexistent")), &us())
}

fn sample(section: &str, gaps: &[&str]) -> Sample {
    let section = RawValue::from_string(section.to_owned()).unwrap().into();
    let gaps = gaps.iter().map(|&gap| gap.to_owned()).collect();
    Sample { section, details: Default::default(), points: Points::default(), gaps }
}

fn checkup(rows: Vec<Row>) -> Checkup {
    Checkup { profile: "pynchy", root: None, us: us().to_string(), notes: Vec::new(), collectors: rows }
}

#[test]
fn the_code_is_of_the_worst_and_what_is_off_is_not_bad() {
    let failed = |cause| Err(Failure { cause, error: "no".to_owned() });
    let off = || without(&collect::ALL[0], OFF);
    let absent = || without(&collect::ALL[1], ABSENT);
    let code = |outcome| checkup(vec![off(), examined(outcome), absent()]).code();
    assert_eq!(code(Ok(sample("{\"total\": 3}", &[]))), Code::Whole);
    assert_eq!(code(Ok(sample("{}", &["a file"]))), Code::Gaps);
    for cause in [Cause::Denied, Cause::Unanswered, Cause::Excused] {
        assert_eq!(code(failed(cause)), Code::Gaps, "{cause:?}");
    }
}

#[test]
fn a_row_says_what_was_found_or_what_stands_in_the_way() {
    let full = examined(Ok(sample("{\"total\": 3, \"active_sessions\": null}", &[])));
    assert_eq!((full.access, full.found.as_deref(), full.fix.len()), ("full", Some("3 registered"), 0));
    let error = "read /nonexistent/data/messages.db\u{1b}[2J: gone".to_owned();
    let silent = examined(Err(Failure { cause: Cause::Unanswered, error: error.clone() }));
    assert_eq!(silent.cannot, ["read /nonexistent/data/messages.db\u{fffd}[2J: gone"]);
    assert_eq!(silent.fix.len(), 1, "nobody was refused, so no rights are asked for: {:?}", silent.fix);
    assert!(silent.fix[0].starts_with("/ has no `nonexistent`"), "{:?}", silent.fix);
    let denied = examined(Err(Failure { cause: Cause::Denied, error }));
    assert!(denied.fix.len() == 2 && denied.fix[1].starts_with("run as the user that owns"), "{:?}", denied.fix);
    let text = render(&checkup(vec![denied, full, without(&collect::ALL[0], OFF)]));
    assert!(text.ends_with("\n1 full, 1 denied, 1 off\n"), "{text}");
    assert!(text.contains("\n         costs   each 30s, 3 ms: a count of rows\n"), "{text}");
}

#[test]
fn every_collector_says_what_it_reads_what_it_costs_and_what_lets_it_look() {
    for subsystem in collect::ALL {
        let needs = subsystem.needs;
        for text in [needs.reads, needs.fix, needs.costs] {
            assert!(!text.is_empty() && !text.ends_with('.') && !text.contains('\n'), "{}: {text}", subsystem.name);
        }
    }
}
