//! Databases for tests, written as a host would.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
pub use rusqlite::{Connection, params};

use crate::host::{Host, ProcessRule, Profile};
use crate::sample::Now;

/// A new, empty pynchy database.
pub fn pynchy(path: &Path) -> Connection {
    let connection = open(path);
    connection.execute_batch(include_str!("../../tool/demo/pynchy.sql")).unwrap();
    connection
}

/// Opens one as the host does, which does not enforce foreign keys.
pub fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA synchronous = OFF").unwrap();
    connection
}

/// A host with this database and nothing else.
pub fn host(database: Option<PathBuf>) -> Host {
    Host {
        profile: Profile::Pynchy,
        root: "/nowhere".into(),
        url: "http://127.0.0.1:1".into(),
        database,
        process: ProcessRule::PidFile("/nowhere/pid".into()),
        scheduler_poll: Duration::from_secs(60),
    }
}

/// A moment of the day on which all fixtures play.
pub fn at(time: &str) -> Now {
    let wall: Timestamp = format!("2026-11-21T{time}Z").parse().unwrap();
    Now { mono: Duration::from_secs(wall.as_second() as u64), wall }
}

/// Drives a future that never waits.
pub fn now_or_never<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("it waits"),
    }
}
