//! For tests only: a host in a temporary folder, with a database of the real schema.

pub mod api;

use std::cell::Cell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
pub use rusqlite::{Connection, params};
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
        let host = host(Some(folder.path().join("messages.db")));
        let fixture = Fixture { folder, host, writes: Cell::new(0) };
        pynchy(&fixture.folder.path().join("messages.db"));
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

    /// Asserts that an unchanged file is opened again while it may yet be written without a trace, and then no more. A
    /// lock, which leaves no trace either, makes every opening fail.
    pub fn is_read_again_until_it_settled<C: Collector>(&self, collector: &mut C) {
        let written = Timestamp::UNIX_EPOCH + Duration::from_secs(self.writes.get());
        let soon = Now { mono: Duration::from_secs(1), wall: written + Duration::from_secs(1) };
        look(collector, soon).unwrap();
        let host = open(&self.folder.path().join("messages.db"));
        host.execute_batch("BEGIN EXCLUSIVE").unwrap();
        assert!(look(collector, soon.plus(Duration::from_secs(10))).is_err(), "not opened again");
        host.execute_batch("COMMIT").unwrap();
        look(collector, soon.plus(Duration::from_secs(10))).unwrap();
        host.execute_batch("BEGIN EXCLUSIVE").unwrap();
        assert!(look(collector, soon.plus(Duration::from_secs(20))).is_ok(), "opened again though nothing can be new");
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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
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

/// A host with this database and nothing else.
pub fn host(database: Option<PathBuf>) -> Host {
    Host {
        profile: Profile::Pynchy,
        root: Some("/nowhere".into()),
        url: Some("http://127.0.0.1:1".into()),
        token: None,
        status_poll: Some(Duration::from_secs(60)),
        is_free_by_its_own_word: false,
        notes: Vec::new(),
        database,
        process: ProcessRule::PidFile("/nowhere/pid".into()),
        scheduler_poll: Duration::from_secs(60),
        gateway: None,
        containers: None,
        listed: Default::default(),
        layout: Some(Default::default()),
    }
}

/// A new, empty pynchy database.
pub fn pynchy(path: &Path) -> Connection {
    let connection = open(path);
    connection.execute_batch(include_str!("../tool/demo/pynchy.sql")).unwrap();
    connection
}

/// Opens one as the host does, which does not enforce foreign keys.
pub fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF").unwrap();
    connection
}

/// A moment of the day on which all fixtures play.
pub fn at(time: &str) -> Now {
    let wall: Timestamp = format!("2026-11-21T{time}Z").parse().unwrap();
    Now { mono: Duration::from_secs(wall.as_second() as u64), wall }
}

/// Drives a future that asks a source.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Drives a future that never waits.
pub fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}
