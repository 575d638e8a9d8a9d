//! SQLite, read only: opened for each reading, closed after it, no statement of more than milliseconds.
//!
//! Never `immutable=1` while a journal or a `-wal` holds pages that the file lacks: it would read wrong answers.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use rusqlite::{Connection, ErrorCode, OpenFlags};
pub use rusqlite::{OptionalExtension, Row, named_params, params};

use crate::sample::Denied;

/// How long a reading waits for a writer's lock.
const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// A database file of the host.
#[derive(Debug, Clone)]
pub struct Database {
    path: PathBuf,
}

/// What the file and its journals look like from outside. While it is the same, the content is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    main: FileStamp,
    wal: Option<FileStamp>,
    journal: Option<FileStamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Whether the same file is meant, whatever was written to it since.
    pub fn same_file(&self, other: &Stamp) -> bool {
        (self.main.device, self.main.inode) == (other.main.device, other.main.inode)
    }
}

impl From<&Metadata> for FileStamp {
    fn from(data: &Metadata) -> FileStamp {
        FileStamp {
            device: data.dev(),
            inode: data.ino(),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }
}

impl Database {
    pub fn new(path: impl Into<PathBuf>) -> Database {
        Database { path: path.into() }
    }

    /// Looks at the files only; costs three `stat`s.
    ///
    /// # Errors
    /// The file does not exist, or may not be looked at.
    pub fn stamp(&self) -> Result<Stamp> {
        let main = std::fs::metadata(&self.path).with_context(|| self.naming("look at"))?;
        Ok(Stamp { main: (&main).into(), wal: self.beside("-wal")?, journal: self.beside("-journal")? })
    }

    fn beside(&self, suffix: &str) -> Result<Option<FileStamp>> {
        let path = with_suffix(&self.path, suffix);
        match std::fs::metadata(&path) {
            Ok(data) => Ok(Some((&data).into())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("look at {}", path.display())),
        }
    }

    /// Opens it for one reading.
    ///
    /// # Errors
    /// Missing, not readable, not a database, locked for longer than a quarter second, or in need of a recovery that a
    /// reader may not do (hot journal).
    pub fn open(&self) -> Result<Reader> {
        let stamp = self.stamp()?;
        if stamp.main.size == 0 {
            bail!("{}: the file is empty, the host has not made its tables yet", self.path.display());
        }
        match self.connect("mode=ro") {
            Err(error) if cannot_make_shm(&error) && stamp.wal.as_ref().is_none_or(|wal| wal.size == 0) => {
                // A WAL database closed cleanly in a folder we may not write: the file holds everything.
                self.connect("mode=ro&immutable=1").map_err(|error| self.explain(error, &stamp))
            }
            Err(error) => Err(self.explain(error, &stamp)),
            Ok(reader) => Ok(reader),
        }
    }

    fn connect(&self, mode: &str) -> rusqlite::Result<Reader> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(uri(&self.path, mode), flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        // The first read of the schema is what tells a database from garbage, a lock and a hot journal.
        connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
        Ok(Reader { connection, path: self.path.clone() })
    }

    fn explain(&self, error: rusqlite::Error, stamp: &Stamp) -> anyhow::Error {
        let hot = stamp.journal.as_ref().is_some_and(|journal| journal.size > 0);
        match error.sqlite_error_code() {
            Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
                anyhow!(Denied(self.naming("read")))
            }
            Some(ErrorCode::CannotOpen) if std::fs::File::open(&self.path).is_err_and(|e| is_denied(&e)) => {
                anyhow!(Denied(format!("{}: permission denied", self.naming("read"))))
            }
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) if hot => anyhow!(
                "{}: a hot journal is left from a host that died while it wrote; only the host can roll it back",
                self.path.display()
            ),
            _ => anyhow::Error::new(error).context(self.naming("read")),
        }
    }

    fn naming(&self, verb: &str) -> String {
        format!("{verb} {}", self.path.display())
    }
}

fn is_denied(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::PermissionDenied
}

/// Opening a WAL database needs its `-shm`, which a reader without write permission cannot make.
fn cannot_make_shm(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// A file URI; every byte that a URI could misread is escaped.
fn uri(path: &Path, mode: &str) -> String {
    use std::os::unix::ffi::OsStrExt;
    let mut text = String::from("file:");
    for &byte in path.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => text.push(byte.into()),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text + "?" + mode
}

/// An open database. Keep it within one reading: an open read delays the host's writes.
#[derive(Debug)]
pub struct Reader {
    connection: Connection,
    path: PathBuf,
}

impl Reader {
    /// Collects the rows of a query.
    pub fn rows<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let run = || self.connection.prepare(sql)?.query_map(params, read)?.collect::<rusqlite::Result<Vec<T>>>();
        run().map_err(|error| self.naming(error))
    }

    /// The one row of a query; none is an error.
    pub fn row<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.connection.query_row(sql, params, read).map_err(|error| self.naming(error))
    }

    /// The columns of a table; empty if there is no such table.
    pub fn columns(&self, table: &str) -> Result<BTreeSet<String>> {
        let names = self.rows("SELECT name FROM pragma_table_info(?1)", [table], |row| row.get(0))?;
        Ok(names.into_iter().collect())
    }

    /// Asserts that a table has the columns that a query names.
    ///
    /// # Errors
    /// Names the table, or the columns that are missing: the host's schema is older or newer than we know.
    pub fn expect(&self, table: &str, columns: &[&str]) -> Result<()> {
        let found = self.columns(table)?;
        if found.is_empty() {
            bail!("{}: no table `{table}`", self.path.display());
        }
        let missing: Vec<&str> = columns.iter().copied().filter(|column| !found.contains(*column)).collect();
        if !missing.is_empty() {
            bail!("{}: table `{table}` has no column `{}`", self.path.display(), missing.join("`, `"));
        }
        Ok(())
    }

    fn naming(&self, error: rusqlite::Error) -> anyhow::Error {
        anyhow::Error::new(error).context(format!("read {}", self.path.display()))
    }
}
