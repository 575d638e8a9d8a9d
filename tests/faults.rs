//! The fault matrix: each part of a host is broken for real, beside a sidecar of its own, and what is said of it is held to
//! `tests/faults.md`. And the sidecar itself: broken (`sidecar`), with everything hung (`hung`), and for long (`soak`).
//!
//! Rows are data (`fault`), one driver plays them (`play`), some at once. `AGENTHOST_TESTS=long` plays all of them, else it is
//! every third. `FAULT="channels hung" cargo test --test faults` plays those whose part, fault and injection have these words.

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

#[path = "../src/collect/fixture/api.rs"]
mod api;
#[path = "suite/sidecar.rs"]
mod binary;
#[path = "suite/browser.rs"]
mod browser;
#[path = "faults/disk.rs"]
mod disk;
#[path = "suite/dockerd.rs"]
mod dockerd;
#[path = "suite/door.rs"]
mod door;
#[path = "../src/source/docker/fake.rs"]
mod fake_docker;
#[path = "faults/fault.rs"]
mod fault;
#[path = "suite/fixture.rs"]
#[allow(dead_code, reason = "tests of renderers run collectors in it")]
mod fixture;
#[path = "faults/gate.rs"]
mod gate;
#[path = "suite/paging/hosts.rs"]
#[allow(dead_code, reason = "the way of a page breaks other parts of them")]
mod hosts;
#[path = "faults/hung.rs"]
mod hung;
#[path = "faults/lab.rs"]
mod lab;
#[path = "faults/play.rs"]
mod play;
#[path = "faults/row.rs"]
mod row;
#[path = "faults/scene.rs"]
mod scene;
#[path = "faults/sidecar.rs"]
mod sidecar;
#[path = "faults/soak.rs"]
mod soak;
#[path = "suite/paging/stage.rs"]
#[allow(dead_code, reason = "the way of a page asks for more")]
mod stage;
#[path = "faults/vitals.rs"]
mod vitals;

use fault::Fault;
use play::{World, is_long, play};
use row::{Key, Row};

/// So many sidecars run at once: what takes time is waiting.
const AT_ONCE: usize = 6;

/// Says that a test could not run, and why. Under `tests/run` that is a failure.
fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}, because {why}");
    assert!(std::env::var_os("AGENTHOST_TESTS").is_none(), "nothing may be skipped here: {what}, because {why}");
}

impl Fault {
    fn key(&self) -> Key<'static> {
        [self.part, self.fault, self.injected]
    }
}

/// Which rows are played: all in the long form and where the page is written anew, those that are named, or else every third,
/// and one of each part and of each fault.
fn wanted() -> Vec<(usize, &'static Fault)> {
    let all = fault::ALL.iter().enumerate();
    if let Ok(words) = std::env::var("FAULT") {
        let named: Vec<_> = all.filter(|(_, fault)| fault.key().join(" ").contains(&words)).collect();
        assert!(!named.is_empty(), "no row has these words: {words}");
        return named;
    }
    if is_long() || std::env::var_os("UPDATE").is_some() {
        return all.collect();
    }
    let mut known: BTreeSet<&str> = all.clone().step_by(3).flat_map(|(_, fault)| [fault.part, fault.fault]).collect();
    let mut is_new = |fault: &Fault| [fault.part, fault.fault].map(|name| known.insert(name)).contains(&true);
    all.filter(|(number, fault)| number % 3 == 0 || is_new(fault)).collect()
}

#[test]
fn what_breaks_is_seen_in_time_and_told_by_its_name() {
    let world = stage::Stage::new(&["prometheus".into()])
        .and_then(|stage| Some(World::new(stage, browser::Browser::start(1280, &[])?)));
    let Some(world) = world else { return };
    let all: Vec<Key<'_>> = fault::ALL.iter().map(Fault::key).collect();
    let queue = Mutex::new(VecDeque::from(wanted()));
    let played = Mutex::new(Vec::new());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((number, fault)) = next() {
                    let row = attempt(&world, number, fault);
                    played.lock().unwrap_or_else(PoisonError::into_inner).push((number, row));
                }
            });
        }
    });
    let mut played = played.into_inner().unwrap();
    played.sort_by_key(|(number, _)| *number);
    let missing = played.iter().filter(|(_, row)| row.is_none()).count();
    let rows: Vec<Row> = played.into_iter().filter_map(|(_, row)| row).collect();
    row::keep("## Parts of the host", &all, &rows);
    assert_eq!(missing, 0, "rows that do not come out; see above");
}

/// What a busy machine disturbs comes out when it is played again; what the program does wrong does not.
fn attempt(world: &World, number: usize, fault: &Fault) -> Option<Row> {
    (0..3).find_map(|_| {
        let begun = std::time::Instant::now();
        let row = catch_unwind(AssertUnwindSafe(|| play(world, number, fault)));
        eprintln!("{:?}: {} after {:.0?}", fault.key(), if row.is_ok() { "ok" } else { "FAILED" }, begun.elapsed());
        row.ok()
    })
}
