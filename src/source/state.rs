//! The one file that is ours and written: texts that outlive a restart, in SQLite.
//!
//! WAL, and locked for as long as it is open: two sidecars that share a file would overwrite each other. Written whole or
//! not at all, so a kill at any moment leaves the state of the latest save. What it cannot read it never overwrites: a
//! damaged file is set aside, a foreign or a newer one left alone.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, params};
use serde::{Deserialize, Deserializer, de};

/// The `[state]` table.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where verdicts are kept; without it a restart forgets them.
    #[serde(deserialize_with = "path")]
    pub path: Option<PathBuf>,
}

fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(deserializer)?;
    if path.as_os_str().is_empty() {
        return Err(de::Error::custom("empty: leave it out, and nothing is kept"));
    }
    Ok(Some(path))
}

/// Says in the file's header whose it is ("agho").
const APPLICATION: u32 = 0x6167_686f;
/// The version of the tables and of the texts in them.
const SCHEMA: u32 = 1;
const TABLES: &str = "
    CREATE TABLE about (one INTEGER PRIMARY KEY CHECK (one = 1), text TEXT NOT NULL);
    CREATE TABLE windows (name TEXT, subject TEXT, text TEXT NOT NULL, PRIMARY KEY (name, subject)) WITHOUT ROWID;
    CREATE TABLE changes (number INTEGER PRIMARY KEY, text TEXT NOT NULL);
";

/// A predecessor that is about to end gets so long to let go of the file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(1);
/// SQLite refuses to let the file grow beyond this: 256 MiB.
const MOST_PAGES: u32 = 65_536;
/// After a checkpoint the `-wal` is cut to this.
const MOST_JOURNAL: u32 = 1 << 20;

/// What is kept. The texts mean nothing here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    pub about: String,
    /// By two names.
    pub windows: BTreeMap<(String, String), String>,
    /// By number; what has a number never changes.
    pub changes: BTreeMap<u64, String>,
}

/// Why a file cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It is another application's, or no database at all: left alone.
    Foreign,
    /// A newer version of this program wrote it: left alone.
    Newer,
    /// Another sidecar has it.
    Taken,
    /// A sidecar that had it before us watches another host by it.
    Others,
    /// It was ours and is damaged.
    Damaged(String),
    /// Missing folder, no permission, read-only or full disk.
    Unusable(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Foreign => f.write_str("it is a file of another application"),
            Trouble::Newer => f.write_str("a newer version of this program wrote it"),
            Trouble::Taken => f.write_str("another process has it open"),
            Trouble::Others => f.write_str("another process keeps the verdicts of another host in it"),
            Trouble::Damaged(how) => write!(f, "it is damaged: {how}"),
            Trouble::Unusable(why) => f.write_str(why),
        }
    }
}

impl From<rusqlite::Error> for Trouble {
    fn from(error: rusqlite::Error) -> Trouble {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Trouble::Taken,
            // The last: our tables are not in it. Without a code: a value is not what it should be.
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown) | None => {
                Trouble::Damaged(error.to_string())
            }
            Some(_) => Trouble::Unusable(error.to_string()),
        }
    }
}

/// The file, open and locked.
#[derive(Debug)]
pub struct State {
    connection: Connection,
    path: PathBuf,
    /// Device and inode: whether the path still leads to this file.
    place: Option<(u64, u64)>,
    /// The number of the latest change that is in it.
    latest: Option<u64>,
}

/// This boot of the machine, where the platform tells.
pub fn boot() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

impl State {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// It cannot be used, and why.
    pub fn open(path: &Path) -> Result<State, Trouble> {
        let is_new = !is_ours(path)?;
        if is_new {
            for_us_only(path)?;
        }
        let mut connection = Connection::open(path)?;
        if connection.is_readonly("main")? {
            return Err(Trouble::Unusable("it may only be read".into()));
        }
        connection.busy_timeout(BUSY_TIMEOUT)?;
        connection.execute_batch("PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = NORMAL")?;
        connection.pragma_update(None, "max_page_count", MOST_PAGES)?;
        connection.pragma_update(None, "journal_size_limit", MOST_JOURNAL)?;
        if is_new {
            make(&mut connection)?;
        }
        connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
        check(&connection)?;
        Ok(State { place: place(path), path: path.to_owned(), connection, latest: None })
    }

    /// What was saved last; `None` if nothing ever was.
    ///
    /// # Errors
    /// The file is damaged, or can no longer be read.
    pub fn load(&mut self) -> Result<Option<Texts>, Trouble> {
        let about = self.connection.query_row("SELECT text FROM about", [], |row| row.get(0)).optional()?;
        let Some(about) = about else { return Ok(None) };
        let mut windows = self.connection.prepare("SELECT name, subject, text FROM windows")?;
        let windows = windows.query_map([], |row| Ok(((row.get(0)?, row.get(1)?), row.get(2)?)))?;
        let mut changes = self.connection.prepare("SELECT number, text FROM changes ORDER BY number")?;
        let changes = changes.query_map([], |row| Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get(1)?)))?;
        let (windows, changes) = (windows.collect::<Result<_, _>>()?, changes.collect::<Result<_, _>>()?);
        Ok(Some(Texts { about, windows, changes }))
    }

    /// Replaces what was saved. What is the same is not written again.
    ///
    /// # Errors
    /// It could not be written; what was saved before still stands.
    pub fn save(&mut self, texts: &Texts) -> Result<(), Trouble> {
        if place(&self.path) != self.place {
            return Err(Trouble::Unusable("somebody has removed or replaced it".into()));
        }
        let transaction = self.connection.transaction()?;
        let about = "INSERT INTO about VALUES (1, ?1) ON CONFLICT DO UPDATE SET text = excluded.text";
        transaction.execute(about, [&texts.about])?;
        save_windows(&transaction, &texts.windows)?;
        save_changes(&transaction, &texts.changes, self.latest)?;
        transaction.commit()?;
        self.latest = texts.changes.keys().next_back().copied();
        Ok(())
    }
}

/// All that are listed afterwards must be found by their names, and once: a name that was damaged stands in the wrong place, where
/// nobody who looks for it finds it, and would stay for ever.
fn save_windows(transaction: &Transaction<'_>, windows: &BTreeMap<(String, String), String>) -> Result<(), Trouble> {
    let mut put = transaction.prepare(
        "INSERT INTO windows VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET text = excluded.text WHERE text <> excluded.text",
    )?;
    for ((name, subject), text) in windows {
        put.execute(params![name, subject, text])?;
    }
    let mut listed = transaction.prepare("SELECT name, subject FROM windows")?;
    let all = listed.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let all: Vec<(String, String)> = all.collect::<rusqlite::Result<_>>()?;
    let mut remove = transaction.prepare("DELETE FROM windows WHERE name = ?1 AND subject = ?2")?;
    let mut removed = 0;
    for (name, subject) in all.iter().filter(|key| !windows.contains_key(key)) {
        removed += remove.execute([name, subject])?;
    }
    match all.len() == windows.len() + removed {
        true => Ok(()),
        false => Err(Trouble::Damaged("a window is not where its name says".into())),
    }
}

/// Adds what is new. Of a file of which nobody knows what is in it, nothing stays.
fn save_changes(
    transaction: &Transaction<'_>,
    changes: &BTreeMap<u64, String>,
    latest: Option<u64>,
) -> rusqlite::Result<()> {
    let fresh = latest.map_or(0, |latest| latest + 1);
    if latest.is_none() {
        transaction.execute("DELETE FROM changes", [])?;
    }
    let mut put = transaction.prepare("INSERT INTO changes VALUES (?1, ?2)")?;
    for (number, text) in changes.range(fresh..) {
        put.execute(params![*number as i64, text])?;
    }
    let mut stored = transaction.prepare("SELECT count(*) FROM changes")?;
    if stored.query_row([], |row| row.get::<_, i64>(0))?.unsigned_abs() > changes.len() as u64 {
        prune(transaction, changes)?;
    }
    Ok(())
}

fn prune(transaction: &Transaction<'_>, changes: &BTreeMap<u64, String>) -> rusqlite::Result<()> {
    let mut stored = transaction.prepare("SELECT number FROM changes")?;
    let stored: Vec<i64> = stored.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut remove = transaction.prepare("DELETE FROM changes WHERE number = ?1")?;
    for number in stored.into_iter().filter(|number| !changes.contains_key(&number.unsigned_abs())) {
        remove.execute([number])?;
    }
    Ok(())
}

/// A disk that damages every file is not to be filled with them.
const MOST_ASIDE: usize = 3;

fn set_aside_before(path: &Path) -> std::io::Result<usize> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(0) };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let start = format!("{}.corrupt-", name.to_string_lossy());
    let is_one = |name: &str| name.starts_with(&start) && name.ends_with('Z');
    let names = std::fs::read_dir(folder)?.flatten().map(|entry| entry.file_name());
    Ok(names.filter(|name| name.to_str().is_some_and(is_one)).count())
}

/// Moves a damaged file out of the way, with what lies beside it. Answers with its new name.
///
/// # Errors
/// It may not be moved.
pub fn set_aside(path: &Path, wall: Timestamp) -> std::io::Result<PathBuf> {
    if set_aside_before(path)? >= MOST_ASIDE {
        return Err(std::io::Error::other(format!("{MOST_ASIDE} such files lie beside it already")));
    }
    let suffix = format!(".corrupt-{}", wall.strftime("%Y%m%dT%H%M%SZ"));
    let aside = with_suffix(path, &suffix);
    std::fs::rename(path, &aside)?;
    for beside in ["-wal", "-journal", "-shm"] {
        let _ = std::fs::rename(with_suffix(path, beside), with_suffix(&aside, beside)); // most often there is none
    }
    Ok(aside)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whose file it is, by its header, before SQLite may touch it; `false`: it is not there yet, or empty.
fn is_ours(path: &Path) -> Result<bool, Trouble> {
    let mut header = Vec::new();
    let unusable = |error: std::io::Error| Trouble::Unusable(error.to_string());
    match std::fs::File::open(path) {
        Ok(file) => file.take(100).read_to_end(&mut header).map_err(unusable)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(unusable(error)),
    };
    let number = |at: usize| header.get(at..at + 4).map(|bytes| bytes.iter().fold(0, |n, b| n << 8 | u32::from(*b)));
    match (header.starts_with(b"SQLite format 3\0"), number(60), number(68)) {
        _ if header.is_empty() => Ok(false),
        (true, Some(schema), Some(APPLICATION)) => is_known(schema).map(|()| true),
        (true, Some(_), Some(_)) => Err(Trouble::Foreign),
        (true, ..) => Err(Trouble::Damaged("it is cut off within its header".into())),
        // As a disk leaves it that lost the first page. Anything else was somebody's text before it was our path.
        _ if header.iter().all(|byte| *byte == 0) => Err(Trouble::Damaged("its first page is empty".into())),
        (false, ..) => Err(Trouble::Foreign),
    }
}

fn is_known(schema: u32) -> Result<(), Trouble> {
    match schema {
        SCHEMA => Ok(()),
        0 => Err(Trouble::Damaged("it has no version".into())),
        _ => Err(Trouble::Newer),
    }
}

/// It names groups, channels and repositories. What SQLite puts beside it gets the same rights.
fn for_us_only(path: &Path) -> Result<(), Trouble> {
    let made = std::fs::File::options().append(true).create(true).mode(0o600).open(path);
    made.map(drop).map_err(|error| Trouble::Unusable(error.to_string()))
}

/// Before it becomes a WAL, so that the header says from the first moment whose it is.
fn make(connection: &mut Connection) -> Result<(), Trouble> {
    let transaction = connection.transaction()?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", SCHEMA)?;
    transaction.execute_batch(TABLES)?;
    Ok(transaction.commit()?)
}

/// The lock is taken with this first look.
fn check(connection: &Connection) -> Result<(), Trouble> {
    is_known(connection.query_row("PRAGMA user_version", [], |row| row.get(0))?)?;
    let word: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if word == "ok" { Ok(()) } else { Err(Trouble::Damaged(word)) }
}

fn place(path: &Path) -> Option<(u64, u64)> {
    let data = std::fs::metadata(path).ok()?;
    Some((data.dev(), data.ino()))
}

#[cfg(test)]
mod tests;
