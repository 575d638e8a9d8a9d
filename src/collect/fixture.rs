//! For tests only: a host in a temporary folder, with a database of the real schema.

use std::cell::Cell;
use std::fs::File;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;
use serde_json::Value;
use tempfile::TempDir;

use crate::collect::Collector;
use crate::fact::Fact;
use crate::host::{Host, ProcessRule, Profile};
use crate::sample::{Now, Points};
use crate::source::Sources;

pub struct Fixture {
    pub folder: TempDir,
    pub host: Host,
    writes: Cell<u64>,
}

/// 20:00 on the day of the fixtures.
pub fn now() -> Now {
    Now { mono: Duration::from_secs(1000), wall: "2026-11-21T20:00:00Z".parse().unwrap() }
}

impl Fixture {
    /// An empty database of the real schema, then `sql`.
    pub fn new(sql: &str) -> Fixture {
        let folder = tempfile::tempdir().unwrap();
        let host = Host {
            profile: Profile::Pynchy,
            root: folder.path().into(),
            url: "http://127.0.0.1:9".into(),
            database: Some(folder.path().join("messages.db")),
            process: ProcessRule::InRoot { program: "pynchy".into() },
            scheduler_poll: Duration::from_secs(60),
            layout: Default::default(),
        };
        let fixture = Fixture { folder, host, writes: Cell::new(0) };
        fixture.run(include_str!("../tool/demo/pynchy.sql"));
        fixture.run(sql);
        fixture
    }

    /// What the host itself would do to its database; like it, without holding foreign keys.
    pub fn run(&self, sql: &str) {
        let database = Connection::open(self.folder.path().join("messages.db")).unwrap();
        database.pragma_update(None, "foreign_keys", false).unwrap();
        database.pragma_update(None, "synchronous", false).unwrap();
        database.execute_batch(sql).unwrap();
        self.touch();
    }

    /// The clock of a file system ticks in milliseconds: two quick writes could look like one.
    fn touch(&self) {
        self.writes.set(self.writes.get() + 1);
        let file = File::options().write(true).open(self.folder.path().join("messages.db")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(self.writes.get())).unwrap();
    }

    /// Puts another database in the place of this one, as a restored backup would.
    pub fn replace(&self, other: &Fixture) {
        std::fs::rename(other.folder.path().join("messages.db"), self.folder.path().join("messages.db")).unwrap();
    }

    pub fn collector<C: Collector>(&self) -> C {
        C::new(C::Config::default(), &self.host, &Sources::default()).unwrap().unwrap()
    }
}

/// Drives one run of a collector whose future never waits.
pub fn look<C: Collector>(collector: &mut C, now: Now) -> anyhow::Result<C::Section> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(collector.collect(now))
}

/// The text of the error of a run that must fail.
pub fn error<C: Collector>(collector: &mut C) -> String {
    match look(collector, now()) {
        Ok(_) => panic!("the reading should have failed"),
        Err(error) => format!("{error:#}"),
    }
}

pub fn json<C: Collector>(section: &C::Section) -> Value {
    serde_json::to_value(section).unwrap()
}

/// The points of a section; every fact put must be declared in `FACTS`.
pub fn points<C: Collector>(section: &C::Section) -> Points {
    let mut points = Points::default();
    C::points(section, &mut points);
    for point in &points.0 {
        assert!(C::FACTS.iter().any(|fact| fact.is(point.fact)), "{} is not declared", point.fact.prometheus);
    }
    points
}

/// The value of one subject: `None` if it is not listed, `Some(None)` if it is listed and unknown.
pub fn value(points: &Points, fact: &'static Fact, subject: &str) -> Option<Option<f64>> {
    let mut found = points.0.iter().filter(|point| point.fact.is(fact) && *point.subject() == *subject);
    let value = found.next().map(|point| point.value);
    assert!(found.next().is_none(), "{}: {subject} is put twice", fact.prometheus);
    value
}
