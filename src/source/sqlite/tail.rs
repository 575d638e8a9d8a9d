//! Reads a table that mostly grows at its end: once from the first row, then only what came after.

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::{Duration, Instant};

use anyhow::Result;
use rusqlite::types::ValueRef;

use super::{Database, Reader, Row, Stamp, params};
use crate::sample::Now;

/// An open read delays the host's commit: a slice grows while it takes less than this, and halves above twice of it.
const SLICE: Duration = Duration::from_millis(2);
const FEWEST: i64 = 250;
const MOST: i64 = 20_000;

/// How far back, in rowids, a row is known again after `INSERT OR REPLACE` gave it a new rowid.
const REMEMBERED: i64 = 8_192;

/// A database that is read again only when it changed.
#[derive(Debug)]
pub struct Followed {
    database: Database,
    /// At the last good reading.
    stamp: Option<Stamp>,
    settled: bool,
    /// The version of the schema whose columns were found to be those that are read.
    schema: Option<i64>,
}

impl Followed {
    pub fn new(database: Database) -> Followed {
        Followed { database, stamp: None, settled: false, schema: None }
    }

    /// Its stamp now; `None` if nothing was written since the last good reading.
    ///
    /// # Errors
    /// There is no such file, or it may not be looked at.
    pub fn news(&self) -> Result<Option<Stamp>> {
        let stamp = self.database.stamp()?;
        let same = self.settled && self.stamp.as_ref() == Some(&stamp);
        Ok((!same).then_some(stamp))
    }

    /// Opens it for one reading, and asserts the columns of its tables unless the schema is the one asserted before.
    ///
    /// # Errors
    /// It cannot be read, or a table or column is missing.
    pub fn open(&mut self, stamp: &Stamp, tables: &[(&str, &[&str])]) -> Result<Reader> {
        let reader = self.database.open()?;
        let schema = reader.row("PRAGMA schema_version", [], |row| row.get(0))?;
        if self.schema != Some(schema) || !self.is_known(stamp) {
            self.schema = None;
            for (table, columns) in tables {
                reader.expect(table, columns)?;
            }
            self.schema = Some(schema);
        }
        Ok(reader)
    }

    /// Whether it was read before, and the file was not replaced since.
    pub fn is_known(&self, stamp: &Stamp) -> bool {
        self.stamp.as_ref().is_some_and(|known| known.same_file(stamp))
    }

    /// Says that nothing of it is known, until the next good reading.
    pub fn forget(&mut self) {
        self.stamp = None;
    }

    /// Says that it was read well after it had this stamp.
    pub fn was_read(&mut self, stamp: Stamp, now: Now) {
        self.settled = stamp.is_settled(now.wall);
        self.stamp = Some(stamp);
    }
}

/// One table, and how far it was read.
///
/// Rowids are taken in slices, each a statement and so a read transaction of its own.
#[derive(Debug)]
pub struct Tail {
    ends: String,
    slice: String,
    /// Where the rowid stands among the columns of `slice`.
    rowid: usize,
    /// The first columns that together tell a row from all others; 0 where the rowid itself does.
    identity: usize,
    /// Rows up to here were counted.
    mark: i64,
    step: i64,
    recent: Recent,
}

impl Tail {
    /// `columns` are SQL expressions; a row is read by their position. The first `identity` of them name the row.
    pub fn new(table: &str, columns: &[&str], identity: usize) -> Tail {
        Tail::filtered(table, columns, identity, "true")
    }

    /// Only the rows for which `condition` holds.
    pub fn filtered(table: &str, columns: &[&str], identity: usize, condition: &str) -> Tail {
        let list = columns.join(", ");
        Tail {
            ends: format!("SELECT (SELECT min(rowid) FROM {table} WHERE rowid > ?1), (SELECT max(rowid) FROM {table})"),
            slice: format!(
                "SELECT {list}, rowid FROM {table} NOT INDEXED \
                 WHERE rowid BETWEEN ?1 AND ?2 AND ({condition}) ORDER BY rowid"
            ),
            rowid: columns.len(),
            identity,
            mark: 0,
            step: FEWEST,
            recent: Recent::default(),
        }
    }

    /// The highest rowid that was counted.
    pub fn mark(&self) -> i64 {
        self.mark
    }

    /// Whether rows that were counted are gone from the end: their rowids may be given again, so the mark means nothing.
    pub fn fell(&self, reader: &Reader) -> Result<bool> {
        let (_, last) = self.ends(reader, self.mark)?;
        Ok(last.unwrap_or(0) < self.mark)
    }

    /// Begins anew: no row was counted yet.
    pub fn forget(&mut self) {
        self.mark = 0;
        self.recent = Recent::default();
    }

    /// Reads the rows after the mark, or all (`whole`), and says of each whether it is new: never counted before.
    ///
    /// A replaced row is not new; without `whole` it is not given at all. After an error nothing that was given will
    /// be given as new again.
    pub fn read(&mut self, reader: &Reader, whole: bool, mut each: impl FnMut(&Row<'_>, bool)) -> Result<()> {
        let mut done = if whole { i64::MIN } else { self.mark };
        while let (Some(first), Some(last)) = self.ends(reader, done)? {
            let end = first.saturating_add(self.step - 1).min(last);
            self.read_slice(reader, first, end, last, whole, &mut each)?;
            self.mark = self.mark.max(end);
            done = end;
        }
        Ok(())
    }

    /// The first rowid after `done`, and the last one.
    fn ends(&self, reader: &Reader, done: i64) -> Result<(Option<i64>, Option<i64>)> {
        reader.row(&self.ends, [done], |row| Ok((row.get(0)?, row.get(1)?)))
    }

    fn read_slice(
        &mut self,
        reader: &Reader,
        first: i64,
        end: i64,
        last: i64,
        whole: bool,
        each: &mut impl FnMut(&Row<'_>, bool),
    ) -> Result<()> {
        let begun = Instant::now();
        reader.run(|| {
            let mut statement = reader.connection.prepare(&self.slice)?;
            let mut rows = statement.query(params![first, end])?;
            while let Some(row) = rows.next()? {
                let rowid: i64 = row.get(self.rowid)?;
                let new = rowid > self.mark && self.recent.is_new(rowid, last, row, self.identity)?;
                self.mark = self.mark.max(rowid);
                if whole || new {
                    each(row, new);
                }
            }
            Ok(())
        })?;
        self.pace(begun.elapsed());
        Ok(())
    }

    fn pace(&mut self, took: Duration) {
        if took < SLICE {
            self.step = (self.step * 2).min(MOST);
        } else if took > SLICE * 2 {
            self.step = (self.step / 2).max(FEWEST);
        }
    }
}

/// The rows read last, by a hash of what identifies them.
#[derive(Debug, Default)]
struct Recent {
    order: VecDeque<(i64, u64)>,
    latest: HashMap<u64, i64>,
}

impl Recent {
    /// Remembers a row. Far from the table's end nothing is remembered: a first reading would churn for nothing.
    fn is_new(&mut self, rowid: i64, last: i64, row: &Row<'_>, identity: usize) -> rusqlite::Result<bool> {
        if identity == 0 || rowid < last.saturating_sub(REMEMBERED) {
            return Ok(true);
        }
        let Some(key) = key(row, identity)? else { return Ok(true) };
        self.order.push_back((rowid, key));
        let new = self.latest.insert(key, rowid).is_none();
        self.evict(rowid - REMEMBERED);
        Ok(new)
    }

    fn evict(&mut self, until: i64) {
        while let Some(&(rowid, key)) = self.order.front().filter(|(rowid, _)| *rowid <= until) {
            self.order.pop_front();
            if let Entry::Occupied(entry) = self.latest.entry(key)
                && *entry.get() == rowid
            {
                entry.remove();
            }
        }
    }
}

/// A hash of the types and values of the first columns. `None` if one is NULL: to SQLite no NULL is the same as
/// another, so such a row replaces none.
fn key(row: &Row<'_>, identity: usize) -> rusqlite::Result<Option<u64>> {
    let mut hasher = DefaultHasher::new();
    for column in 0..identity {
        let value = row.get_ref(column)?;
        (value.data_type() as u8).hash(&mut hasher);
        match value {
            ValueRef::Null => return Ok(None),
            ValueRef::Integer(number) => number.hash(&mut hasher),
            ValueRef::Real(number) => number.to_bits().hash(&mut hasher),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.hash(&mut hasher),
        }
    }
    Ok(Some(hasher.finish()))
}
