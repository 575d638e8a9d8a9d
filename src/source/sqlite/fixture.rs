//! Databases for tests, written as a host would.

use std::path::Path;

pub use rusqlite::Connection;

/// A new, empty pynchy database.
pub fn pynchy(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(include_str!("../../tool/demo/pynchy.sql")).unwrap();
    connection
}
