//! The host's database: rows that hold anything, and a file that is damaged.

use std::cell::RefCell;
use std::path::PathBuf;

use agenthost_exporter::host::{Host, pynchy};
use agenthost_exporter::source::Sources;
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::files::folder;
use super::machine::{are_numbers, collect, now};
use super::verdicts::patched;
use super::{SECRET, parts};

const SCHEMA: &str = include_str!("../../../src/tool/demo/pynchy.sql");
const COLLECTORS: [&str; 5] = ["messages", "usage", "tasks", "host_jobs", "groups"];

fn root() -> PathBuf {
    let root = folder().join("host");
    std::fs::create_dir_all(root.join("data")).unwrap();
    root
}

/// An empty one, as the host makes it.
fn empty() -> Vec<u8> {
    thread_local! { static EMPTY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) } }
    EMPTY.with_borrow_mut(|empty| {
        if empty.is_empty() {
            let path = folder().join("empty.db");
            Connection::open(&path).unwrap().execute_batch(SCHEMA).unwrap();
            *empty = std::fs::read(path).unwrap();
        }
        empty.clone()
    })
}

fn lay(bytes: &[u8]) -> (PathBuf, Host) {
    let root = root();
    let path = root.join("data/messages.db");
    for beside in ["messages.db-wal", "messages.db-shm", "messages.db-journal"] {
        drop(std::fs::remove_file(root.join("data").join(beside)));
    }
    std::fs::write(&path, bytes).unwrap();
    (path, pynchy::host(&root))
}

/// Whatever stands in the columns, every collector reads its rows: a wild one hides no other, no number is made up of it, and
/// what people wrote shows nowhere.
pub fn rows(data: &[u8]) {
    let (path, host) = lay(&empty());
    let values: Vec<Value> = data.split(|&byte| byte == 0xff).take(24).map(value).collect();
    fill(&Connection::open(&path).unwrap(), &values).unwrap();
    for name in COLLECTORS {
        let (mut collector, sample) = collect(name, "", &host, &Sources::default(), now()).unwrap();
        let sample = sample.unwrap_or_else(|error| panic!("{name}: {error:#}"));
        are_numbers(&sample);
        assert!(!sample.section.get().contains(SECRET), "{name}");
        let later = now().plus(std::time::Duration::from_secs(30));
        let again =
            collector.run(later, std::time::Duration::from_secs(20), super::machine::runtime().handle()).unwrap();
        are_numbers(&again);
    }
}

/// The first byte says of which type.
fn value(field: &[u8]) -> Value {
    let Some((kind, rest)) = field.split_first() else { return Value::Null };
    let text = || String::from_utf8_lossy(rest).into_owned();
    match kind % 5 {
        0 => Value::Blob(rest.to_vec()),
        1 => text().trim().parse().map_or(Value::Null, Value::Integer),
        2 => text().trim().parse().map_or(Value::Null, Value::Real),
        _ => Value::Text(text()),
    }
}

/// Into every column of every table, where it goes; those that hold what people write get the secret.
fn fill(database: &Connection, values: &[Value]) -> rusqlite::Result<()> {
    database.execute_batch(
        "PRAGMA foreign_keys = OFF; PRAGMA ignore_check_constraints = ON; PRAGMA synchronous = OFF; BEGIN",
    )?;
    let mut tables =
        database.prepare("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'")?;
    let tables: Vec<String> = tables.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut next = values.iter().cycle();
    for table in tables {
        let mut columns = database.prepare(&format!("SELECT name FROM pragma_table_info('{table}')"))?;
        let columns: Vec<String> = columns.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
        let private = ["content", "prompt", "last_result", "command", "result", "error", "sender_name"];
        for _ in 0..2 {
            let row = columns.iter().map(|column| match private.contains(&column.as_str()) {
                true => Value::Text(SECRET.to_owned()),
                false => next.next().cloned().unwrap_or(Value::Null),
            });
            let places = vec!["?"; columns.len()].join(",");
            // What the types of the table itself forbid is no row.
            drop(database.execute(&format!("INSERT OR IGNORE INTO {table} VALUES ({places})"), params_from_iter(row)));
        }
    }
    database.execute_batch("COMMIT")
}

/// A damaged file is an error or is read; it is never written to.
pub fn file(data: &[u8]) {
    let [patches] = parts(data);
    let bytes = patched(empty(), patches);
    let (path, host) = lay(&bytes);
    for name in COLLECTORS {
        match collect(name, "", &host, &Sources::default(), now()) {
            Some((_, Ok(sample))) => are_numbers(&sample),
            Some((_, Err(error))) => assert!(!format!("{error:#}").is_empty()),
            None => panic!("{name} is there"),
        }
    }
    assert!(std::fs::read(&path).unwrap() == bytes, "it was written to");
}
