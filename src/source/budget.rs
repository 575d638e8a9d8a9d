//! What may be spent on paid questions, kept beside the state file: no restart makes it whole again.
//!
//! A line for each question of the last day, written before it is asked. Locked for as long as it is open, so that two
//! sidecars do not spend one budget twice. What cannot be read is never taken for an empty list.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use jiff::{SignedDuration, Timestamp};

/// The day rolls: a question counts for so long after it was asked.
const DAY: SignedDuration = SignedDuration::from_hours(24);
/// More lines than any budget allows.
const LONGEST: u64 = 64 * 1024;

/// The file of the budget. Clones share it.
#[derive(Debug, Clone)]
pub struct Ledger {
    path: PathBuf,
    open: Arc<Mutex<Option<File>>>,
    is_shut: bool,
}

impl Ledger {
    /// The one that lies beside this state file. Nothing is opened yet.
    pub fn beside(state: &Path) -> Ledger {
        let mut name = state.as_os_str().to_owned();
        name.push(".paid");
        Ledger { path: name.into(), open: Arc::default(), is_shut: false }
    }

    /// The same, by which nothing is paid for.
    #[must_use]
    pub fn shut(self) -> Ledger {
        Ledger { is_shut: true, ..self }
    }

    /// When the questions of the last day were asked, the oldest first. One from the future counts.
    ///
    /// # Errors
    /// The file cannot be used: then nobody knows, and nothing may be spent.
    pub fn spent(&self, now: Timestamp) -> Result<Vec<Timestamp>> {
        self.with(|file| read(file, now))
    }

    /// Writes down a question that will be asked now. Answers with all of the last day.
    ///
    /// # Errors
    /// It could not be written: the question must not be asked.
    pub fn spend(&self, now: Timestamp) -> Result<Vec<Timestamp>> {
        self.with(|file| {
            let mut spent = read(file, now)?;
            spent.push(whole(now));
            spent.sort_unstable();
            write(file, &spent)?;
            Ok(spent)
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut File) -> Result<T>) -> Result<T> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(!self.is_shut, "nothing is paid for a look that is taken once");
        let naming = || format!("the budget of paid questions in {}", self.path.display());
        let file = match &mut *open {
            Some(file) => file,
            closed => closed.insert(lock(&self.path).with_context(naming)?),
        };
        act(file).with_context(naming)
    }
}

/// The next whole second.
fn whole(at: Timestamp) -> Timestamp {
    let later = i64::from(at.subsec_nanosecond() > 0);
    Timestamp::from_second(at.as_second() + later).unwrap_or(at)
}

fn lock(path: &Path) -> Result<File> {
    let file = File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("another process has it open"),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

fn read(file: &mut File, now: Timestamp) -> Result<Vec<Timestamp>> {
    let mut text = String::new();
    file.rewind()?;
    file.take(LONGEST).read_to_string(&mut text)?;
    let lines: Result<Vec<Timestamp>, _> = text.lines().map(str::parse).collect();
    let mut spent = lines.map_err(|_| anyhow::anyhow!("it is damaged: remove it to begin a new day"))?;
    spent.retain(|at| now.duration_since(*at) < DAY);
    spent.sort_unstable();
    Ok(spent)
}

/// Over what is there. Lines are of one length, so wherever this is cut off lines are left, and at worst too many.
fn write(file: &mut File, spent: &[Timestamp]) -> Result<()> {
    let text: String = spent.iter().map(|at| at.strftime("%Y-%m-%dT%H:%M:%SZ\n").to_string()).collect();
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)?;
    Ok(file.sync_data()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        format!("2026-11-{text}Z").parse().unwrap()
    }

    fn ledger() -> (tempfile::TempDir, Ledger) {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::beside(&folder.path().join("state.db"));
        (folder, ledger)
    }

    #[test]
    fn what_was_spent_outlives_whoever_spent_it_for_a_day() {
        let (folder, ledger) = ledger();
        assert_eq!(ledger.spent(at("21T20:00:00")).unwrap(), []);
        assert_eq!(ledger.spend(at("21T20:00:00")).unwrap(), [at("21T20:00:00")]);
        assert_eq!(ledger.spend(at("21T20:04:59.25")).unwrap().len(), 2);
        drop(ledger);
        let again = Ledger::beside(&folder.path().join("state.db"));
        assert_eq!(again.spent(at("22T19:59:59")).unwrap(), [at("21T20:00:00"), at("21T20:05:00")]);
        assert_eq!(again.spent(at("22T20:00:00")).unwrap(), [at("21T20:05:00")]);
        assert_eq!(again.spend(at("22T20:10:00")).unwrap(), [at("22T20:10:00")]);
        let file = std::fs::read_to_string(folder.path().join("state.db.paid")).unwrap();
        assert_eq!(file, "2026-11-22T20:10:00Z\n", "what no longer counts is gone");
    }

    #[test]
    fn a_clock_that_was_set_back_makes_nothing_free() {
        let (_folder, ledger) = ledger();
        ledger.spend(at("25T20:00:00")).unwrap();
        assert_eq!(ledger.spent(at("21T20:00:00")).unwrap(), [at("25T20:00:00")]);
        assert_eq!(ledger.spend(at("21T20:00:00")).unwrap(), [at("21T20:00:00"), at("25T20:00:00")]);
    }

    #[test]
    fn what_cannot_be_read_is_not_empty() {
        let (folder, ledger) = ledger();
        std::fs::write(folder.path().join("state.db.paid"), "secret\n").unwrap();
        for error in [ledger.spent(at("21T20:00:00")).unwrap_err(), ledger.spend(at("21T20:00:00")).unwrap_err()] {
            let error = format!("{error:#}");
            assert!(error.contains("state.db.paid: it is damaged") && !error.contains("secret"), "{error}");
        }
        let nowhere = Ledger::beside(Path::new("/does/not/exist/state.db"));
        assert!(nowhere.spend(at("21T20:00:00")).is_err());
    }

    #[test]
    fn two_do_not_spend_one_budget() {
        let (folder, ledger) = ledger();
        ledger.spend(at("21T20:00:00")).unwrap();
        let second = Ledger::beside(&folder.path().join("state.db"));
        let error = format!("{:#}", second.spend(at("21T20:10:00")).unwrap_err());
        assert!(error.ends_with("another process has it open"), "{error}");
        drop(ledger);
        assert_eq!(second.spend(at("21T20:10:00")).unwrap().len(), 2);
    }
}
