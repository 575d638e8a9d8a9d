//! SQLite, read only: opened for each reading, closed after it, no statement of more than milliseconds.
//!
//! Nothing of the host's is opened to be written, and nothing made beside its file: no `-wal`, no `-shm`. And never `immutable=1` while a journal or a `-wal`
//! holds pages that the file lacks: it would read wrong answers.
//!
//! Nobody here opens the file but SQLite: closing any descriptor of it would drop the locks of the whole process.

use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OpenFlags};
pub use rusqlite::{OptionalExtension, Row, named_params, params};

use crate::fact::Span;
use crate::sample::Denied;

pub mod column;
mod read_only;
mod tail;

pub use column::Raw;
pub use tail::{Followed, Tail};

/// How long a reading waits for a writer's lock.
const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// Two writes within this time may leave a file with the same times: clocks of file systems tick slowly.
const RACY: Duration = Duration::from_secs(2);

/// A database file of the host.
#[derive(Debug, Clone)]
pub struct Database {
    path: PathBuf,
}

/// What the file and its journals look like from outside. While it is the same, the content is, if it was settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    main: FileStamp,
    wal: Option<FileStamp>,
    journal: Option<FileStamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileStamp {
    device: u64,
    inode: u64,
    /// Tells a new file from an old one whose inode it was given; not every file system knows it.
    born: Option<SystemTime>,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Whether the same file is meant, whatever was written to it since.
    pub fn same_file(&self, other: &Stamp) -> bool {
        let identity = |stamp: &Stamp| (stamp.main.device, stamp.main.inode, stamp.main.born);
        identity(self) == identity(other)
    }

    /// Whether an equal stamp later will prove that nothing was written since. `wall` is when this one was taken.
    ///
    /// A file written within two seconds of it can be written again and keep its times (git calls that racy); one
    /// stamped in the future can always.
    pub fn is_settled(&self, wall: Timestamp) -> bool {
        [Some(&self.main), self.wal.as_ref(), self.journal.as_ref()].into_iter().flatten().all(|f| f.is_settled(wall))
    }

    /// A `-wal` with pages that the file may lack.
    fn has_wal(&self) -> bool {
        self.wal.as_ref().is_some_and(|wal| wal.size > 0)
    }

    fn has_journal(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.size > 0)
    }
}

impl FileStamp {
    pub(super) fn is_settled(&self, wall: Timestamp) -> bool {
        let modified = i128::from(self.modified.0) * 1_000_000_000 + i128::from(self.modified.1);
        wall.as_nanosecond() - modified > RACY.as_nanos() as i128
    }
}

impl From<&Metadata> for FileStamp {
    fn from(data: &Metadata) -> FileStamp {
        FileStamp {
            device: data.dev(),
            inode: data.ino(),
            born: data.created().ok(),
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
        let reader = match stamp.has_wal() || !self.is_wal() {
            true => self.connect("mode=ro&readonly_shm=1"),
            // A WAL database without a `-wal`: the file holds everything, and opening it as one would make the `-wal`.
            false => self.connect("mode=ro&immutable=1").map(|reader| Reader { frozen: Some(stamp.clone()), ..reader }),
        };
        reader.map_err(|error| self.explain(error, &stamp))
    }

    /// Whether the file's header says WAL: then SQLite refuses it without locks, before it makes anything.
    fn is_wal(&self) -> bool {
        let refused = |error: rusqlite::Error| error.sqlite_error_code() == Some(ErrorCode::CannotOpen);
        let look = |connection: Connection| connection.query_row("PRAGMA schema_version", [], |_| Ok(()));
        self.connection("mode=ro&nolock=1").and_then(look).is_err_and(refused)
    }

    fn connection(&self, mode: &str) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        read_only::prepare();
        Connection::open_with_flags_and_vfs(uri(&self.path, mode), flags, read_only::NAME)
    }

    fn connect(&self, mode: &str) -> rusqlite::Result<Reader> {
        let connection = self.connection(mode)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        begin(&connection)?;
        Ok(Reader { connection, database: self.clone(), frozen: None, opened: Instant::now() })
    }

    fn explain(&self, error: rusqlite::Error, stamp: &Stamp) -> anyhow::Error {
        let path = self.path.display();
        match error.sqlite_error_code() {
            Some(ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied) => {
                anyhow!(Denied(self.naming("read")))
            }
            Some(ErrorCode::CannotOpen) if !may_read(&self.path) => {
                anyhow!(Denied(format!("{}: permission denied", self.naming("read"))))
            }
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) if stamp.has_journal() => {
                anyhow!(
                    "{path}: a hot journal is left from a host that died while it wrote; only the host can roll it back"
                )
            }
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen) if stamp.has_wal() => {
                anyhow!("{path}: its -wal cannot be read without a -shm, which only the host may make")
            }
            _ => self.failed(&error),
        }
    }

    /// In its own words alone: the error below it would say the same once more.
    fn failed(&self, error: &rusqlite::Error) -> anyhow::Error {
        anyhow!("{}: {error}", self.naming("read"))
    }

    fn naming(&self, verb: &str) -> String {
        format!("{verb} {}", self.path.display())
    }
}

/// The first read of the schema is what tells a database from garbage, a lock and a hot journal.
fn begin(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))
}

/// Asks without opening. An error of another kind is not a refusal.
fn may_read(path: &Path) -> bool {
    rustix::fs::access(path, rustix::fs::Access::READ_OK) != Err(rustix::io::Errno::ACCESS)
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
    database: Database,
    /// Read without locks: whatever was read counts only if the file still looks like this.
    frozen: Option<Stamp>,
    opened: Instant,
}

impl Reader {
    /// Collects the rows of a query.
    pub fn rows<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        self.run(|| self.connection.prepare(sql)?.query_map(params, read)?.collect::<rusqlite::Result<Vec<T>>>())
    }

    /// The one row of a query; none is an error.
    pub fn row<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        read: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        self.run(|| self.connection.query_row(sql, params, read))
    }

    /// The numbers of the one row of somebody else's query, by column; `None` where one holds no number.
    ///
    /// # Errors
    /// No row, or more than one; it would write; it takes longer than `limit`, after which it is ended.
    pub fn numbers(&self, sql: &str, limit: Duration) -> Result<Vec<(String, Option<f64>)>> {
        let path = self.database.path.display();
        let ended = Arc::new(AtomicBool::new(false));
        let found = self.within(limit, &ended, || {
            let mut statement = self.connection.prepare(sql)?;
            if !statement.readonly() {
                return Ok(Err("the query would write"));
            }
            let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
            let mut rows = statement.query([])?;
            let Some(row) = rows.next()? else { return Ok(Err("the query gives no row")) };
            let numbers: Vec<_> =
                (0..names.len()).map(|column| column::number(row, column)).collect::<Result<_, _>>()?;
            let is_one = rows.next()?.is_none();
            Ok(if is_one {
                Ok(names.into_iter().zip(numbers).collect())
            } else {
                Err("the query gives more than one row")
            })
        })?;
        match self.run(|| Ok(found)) {
            Ok(Ok(Ok(numbers))) => Ok(numbers),
            Ok(Ok(Err(wrong))) => bail!("{path}: {wrong}"),
            Ok(Err(_)) if ended.load(Ordering::SeqCst) => bail!("{path}: the query took longer than {}", Span(limit)),
            Ok(Err(error)) => Err(self.database.failed(&error)),
            Err(error) => Err(error),
        }
    }

    /// Does it on this thread, while another one stops it at its limit.
    fn within<T>(&self, limit: Duration, ended: &Arc<AtomicBool>, act: impl FnOnce() -> T) -> Result<T> {
        let (done, waiting) = mpsc::channel::<()>();
        let (interrupt, ended) = (self.connection.get_interrupt_handle(), ended.clone());
        let watch = move || {
            if waiting.recv_timeout(limit) == Err(mpsc::RecvTimeoutError::Timeout) {
                ended.store(true, Ordering::SeqCst);
                interrupt.interrupt();
            }
        };
        let watch = std::thread::Builder::new().spawn(watch).context("start a thread that ends the query in time")?;
        let acted = act();
        drop(done);
        drop(watch.join());
        Ok(acted)
    }

    /// How long ago it was opened: what the reading has cost so far.
    pub fn open_for(&self) -> Duration {
        self.opened.elapsed()
    }

    fn run<T>(&self, read: impl FnOnce() -> rusqlite::Result<T>) -> Result<T> {
        let found = read().map_err(|error| self.database.failed(&error))?;
        match &self.frozen {
            Some(stamp) if *stamp != self.database.stamp()? => {
                bail!("{}: written to while it was read without locks", self.database.path.display())
            }
            _ => Ok(found),
        }
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
            bail!("{}: no table `{table}`", self.database.path.display());
        }
        let missing: Vec<&str> = columns.iter().copied().filter(|column| !found.contains(*column)).collect();
        if !missing.is_empty() {
            bail!("{}: table `{table}` has no column `{}`", self.database.path.display(), missing.join("`, `"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
