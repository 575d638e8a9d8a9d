//! A key, and what came of it. A refused one is not shown again for a while: each try may cost the other side a row.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::probe::{Auth, Seen, State};
use crate::sample::Now;
use crate::source::key::{Key, KeyFile};

/// How long a refused key is not tried again, unless its file has another.
const BACK_OFF: Duration = Duration::from_secs(10 * 60);

#[derive(Debug)]
pub struct Credential {
    file: KeyFile,
    word: Word,
    error: Option<String>,
    /// The one that `word` is of.
    key: Option<Key>,
    /// The one that was shown last: an answer may come when the file has another already.
    tried: Option<Key>,
    /// On the monotonic clock.
    retry: Duration,
    retry_at: Option<Timestamp>,
}

/// What is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// Nobody has said anything of it yet.
    Untried,
    Accepted,
    Rejected,
    /// Its file cannot be read.
    Denied,
}

/// As `/status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Shown {
    pub state: Word,
    pub error: Option<String>,
    /// When it will be tried again.
    pub retry_at: Option<Timestamp>,
}

impl Credential {
    pub fn new(file: KeyFile) -> Credential {
        Credential {
            file,
            word: Word::Untried,
            error: None,
            key: None,
            tried: None,
            retry: Duration::ZERO,
            retry_at: None,
        }
    }

    /// The key of now, if it may be tried.
    pub fn attempt(&mut self, now: Now) -> Option<Key> {
        let key = self.read()?;
        let rests = self.word == Word::Rejected && now.mono < self.retry;
        self.tried = (!rests).then_some(key);
        self.tried.clone()
    }

    /// Whether there is another key than at the last look.
    pub fn is_new(&mut self) -> bool {
        let before = self.key.clone();
        self.read().is_some() && self.key != before
    }

    /// The key of now, if it was accepted.
    pub fn accepted(&mut self) -> Option<Key> {
        let key = self.read()?;
        (self.word == Word::Accepted).then_some(key)
    }

    /// Another key in the file begins anew.
    fn read(&mut self) -> Option<Key> {
        match self.file.read() {
            Ok(key) => {
                if self.key.as_ref() != Some(&key) {
                    (self.word, self.error, self.retry_at) = (Word::Untried, None, None);
                    self.key = Some(key.clone());
                }
                Some(key)
            }
            Err(denied) => {
                (self.word, self.error) = (Word::Denied, Some(denied.to_string()));
                (self.key, self.retry_at) = (None, None);
                None
            }
        }
    }

    /// Takes note of what came of it.
    pub fn learn(&mut self, seen: &Seen, now: Now) {
        match (seen.auth, seen.state) {
            _ if self.key.is_none() || self.key != self.tried => {}
            (Auth::Rejected, _) => {
                (self.word, self.error) = (Word::Rejected, seen.reason.clone());
                (self.retry, self.retry_at) = (now.mono + BACK_OFF, Some(now.plus(BACK_OFF).wall));
            }
            (Auth::Ok, State::Up) => (self.word, self.error, self.retry_at) = (Word::Accepted, None, None),
            _ => {}
        }
    }

    /// `None` as long as nobody has said anything of it, or it cannot be read.
    pub fn is_accepted(&self) -> Option<bool> {
        match self.word {
            Word::Accepted => Some(true),
            Word::Rejected => Some(false),
            Word::Untried | Word::Denied => None,
        }
    }

    pub fn shown(&self) -> Shown {
        Shown { state: self.word, error: self.error.clone(), retry_at: self.retry_at }
    }
}
