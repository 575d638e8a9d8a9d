//! The thread that writes verdicts down. The river hands over and goes on: a disk that hangs holds up nobody.
//!
//! What is handed over lies in a slot until the thread takes it. The next one takes its place, so there is never a queue.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::health::{Away, Kept, Texts};
use crate::sample::Now;
use crate::source::state::{self, State, Trouble};

/// A start waits so long for what was kept, then it begins anew.
const LOAD_WITHIN: Duration = Duration::from_secs(2);

/// Where the river puts what is to be kept.
#[derive(Debug, Clone)]
pub struct Keeper {
    slot: Arc<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    hand: Mutex<Hand>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Hand {
    next: Option<Kept>,
    /// The last one has been handed over.
    ending: bool,
    /// Everything is written that ever will be.
    ended: bool,
}

impl Slot {
    /// Nobody holds it for longer than a move takes, and a thread that panicked has left it whole.
    fn hand(&self) -> MutexGuard<'_, Hand> {
        self.hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the next to be written; `None` after the last.
    fn take(&self) -> Option<Kept> {
        let is_idle = |hand: &mut Hand| hand.next.is_none() && !hand.ending;
        let waited = self.changed.wait_while(self.hand(), is_idle);
        waited.unwrap_or_else(PoisonError::into_inner).next.take()
    }
}

impl Keeper {
    /// Reads what was kept, if anything, and starts the thread that keeps what comes. `host` says whose verdicts they
    /// are: those of another do not count. Without a thread nothing is kept.
    pub fn start(path: &Path, host: &str, now: Now) -> (Option<Keeper>, Option<(Kept, Away)>) {
        let (sender, found) = mpsc::channel();
        let slot = Arc::new(Slot::default());
        let book = Book { path: path.to_owned(), host: host.to_owned(), boot: state::boot(), ..Book::default() };
        let shared = slot.clone();
        let thread = std::thread::Builder::new().name("state".into()).spawn(move || book.run(&shared, now, &sender));
        if let Err(error) = thread {
            tracing::warn!(%error, "verdicts are not kept");
            return (None, None);
        }
        let kept = found.recv_timeout(LOAD_WITHIN).unwrap_or_else(|_| {
            tracing::warn!(path = %path.display(), "the state file does not answer: beginning anew");
            None
        });
        (Some(Keeper { slot }), kept)
    }

    /// Hands over what is to be kept, in place of what has not been taken yet.
    pub fn offer(&self, kept: Kept) {
        self.slot.hand().next = Some(kept);
        self.slot.changed.notify_all();
    }

    /// Waits until the last is written, not for longer than this; says whether it is.
    pub fn finish(&self, within: Duration) -> bool {
        let mut hand = self.slot.hand();
        hand.ending = true;
        self.slot.changed.notify_all();
        let waited = self.slot.changed.wait_timeout_while(hand, within, |hand| !hand.ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.ended
    }
}

/// What the thread knows: the file, and what was said of it.
#[derive(Debug, Default)]
struct Book {
    path: PathBuf,
    host: String,
    boot: Option<String>,
    state: Option<State>,
    /// The trouble that was logged last: one line per change.
    logged: Option<String>,
    /// A disk that damages every file must not be filled with them.
    has_set_aside: bool,
    /// The file is somebody else's, and stays so.
    given_up: bool,
    /// When it was first found to be another sidecar's.
    taken: Option<Timestamp>,
}

/// One who has the file may be about to end, as in a change of versions; after that it is taken to stay.
const OVERLAP: SignedDuration = SignedDuration::from_secs(60);

/// The first text in the file: to whom and to which boot the others belong.
#[derive(Serialize, Deserialize)]
struct Cover {
    host: String,
    boot: Option<String>,
    verdicts: Box<RawValue>,
}

impl Book {
    fn run(mut self, slot: &Slot, now: Now, found: &mpsc::Sender<Option<(Kept, Away)>>) {
        let kept = self.load(now);
        let _ = found.send(kept); // nobody waits any more if this took too long
        while let Some(kept) = slot.take() {
            self.save(&kept);
        }
        drop(self.state.take()); // closing it moves everything from the -wal into the file
        slot.hand().ended = true;
        slot.changed.notify_all();
    }

    fn load(&mut self, now: Now) -> Option<(Kept, Away)> {
        match self.open(now.wall).and_then(|()| self.read(now)) {
            Ok(kept) => kept,
            Err(trouble) => {
                self.give_way(trouble, now.wall);
                None
            }
        }
    }

    fn open(&mut self, wall: Timestamp) -> Result<(), Trouble> {
        let opened = match State::open(&self.path) {
            Err(Trouble::Damaged(how)) => {
                self.set_aside(&how, wall)?;
                State::open(&self.path)?
            }
            opened => opened?,
        };
        self.state = Some(opened);
        Ok(())
    }

    fn read(&mut self, now: Now) -> Result<Option<(Kept, Away)>, Trouble> {
        let Some(state) = &mut self.state else { return Ok(None) };
        let Some(texts) = state.load()? else { return Ok(None) };
        let damaged = |error: serde_json::Error| Trouble::Damaged(error.to_string());
        let cover: Cover = serde_json::from_str(&texts.about).map_err(damaged)?;
        if cover.host != self.host {
            tracing::warn!(path = %self.path.display(), "the state file is of another host: beginning anew");
            return Ok(None);
        }
        let about = cover.verdicts.get().to_owned();
        let kept = Kept::read(&Texts { about, windows: texts.windows, changes: texts.changes }).map_err(damaged)?;
        let away = kept.away(now, cover.boot.is_some() && cover.boot == self.boot);
        tracing::info!(path = %self.path.display(), away = ?away.length, rebooted = away.rebooted, "verdicts restored");
        Ok(Some((kept, away)))
    }

    /// The file is closed, and tried again at the next save, unless it is somebody else's: one who was there first and
    /// stays knows more than we, and may end only to start again. Damage is moved out of the way.
    fn give_way(&mut self, trouble: Trouble, wall: Timestamp) {
        self.state = None;
        self.given_up |= match trouble {
            Trouble::Foreign | Trouble::Newer | Trouble::Others => true,
            Trouble::Taken => wall.duration_since(*self.taken.get_or_insert(wall)) > OVERLAP,
            Trouble::Damaged(_) | Trouble::Unusable(_) => false,
        };
        let trouble = match trouble {
            Trouble::Damaged(how) => self.set_aside(&how, wall).err(),
            trouble => Some(trouble),
        };
        let Some(said) = trouble.map(|trouble| trouble.to_string()) else { return };
        if self.logged.as_ref() != Some(&said) {
            tracing::warn!(path = %self.path.display(), why = said, "verdicts are not kept: a restart would forget them");
            self.logged = Some(said);
        }
    }

    fn set_aside(&mut self, how: &str, wall: Timestamp) -> Result<(), Trouble> {
        let unusable = |why: String| Trouble::Unusable(format!("it is damaged ({how}), and {why}"));
        if self.has_set_aside {
            return Err(unusable("so was the one before it".into()));
        }
        let aside = state::set_aside(&self.path, wall).map_err(|error| unusable(error.to_string()))?;
        self.has_set_aside = true;
        tracing::warn!(path = %self.path.display(), aside = %aside.display(), how, "the state file is damaged: set aside");
        Ok(())
    }

    fn save(&mut self, kept: &Kept) {
        if self.given_up {
            return;
        }
        let wall = kept.wall();
        match self.write(kept, wall) {
            Ok(()) if self.logged.take().is_some() => {
                tracing::info!(path = %self.path.display(), "verdicts are kept again");
            }
            Ok(()) => {}
            Err(trouble) => self.give_way(trouble, wall),
        }
    }

    fn write(&mut self, kept: &Kept, wall: Timestamp) -> Result<(), Trouble> {
        let texts = self.texts(kept).map_err(|error| Trouble::Unusable(error.to_string()))?;
        if self.state.is_none() {
            self.open(wall)?;
            self.is_free()?;
        }
        self.state.as_mut().map_or(Ok(()), |state| state.save(&texts))
    }

    /// One who had the file may have ended only to start again: then it is for the same host, or none of ours.
    fn is_free(&mut self) -> Result<(), Trouble> {
        let Some(state) = self.state.as_mut().filter(|_| self.taken.is_some()) else { return Ok(()) };
        let cover = state.load()?.and_then(|texts| serde_json::from_str::<Cover>(&texts.about).ok());
        match cover.is_none_or(|cover| cover.host == self.host) {
            true => Ok(()),
            false => Err(Trouble::Others),
        }
    }

    fn texts(&self, kept: &Kept) -> serde_json::Result<state::Texts> {
        let Texts { about, windows, changes } = kept.write()?;
        let (host, boot) = (self.host.clone(), self.boot.clone());
        let cover = Cover { host, boot, verdicts: RawValue::from_string(about)? };
        Ok(state::Texts { about: serde_json::to_string(&cover)?, windows, changes })
    }
}

#[cfg(test)]
mod tests;
