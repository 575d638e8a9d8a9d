//! Whether the host is starting: told by whoever looks at its process, for all who ask what only a started host can tell.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::sample::Now;

/// Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Boot(Arc<Mutex<Option<Duration>>>);

impl Boot {
    /// It is starting, and may take so long yet; `None`: it is not. Nobody need take it back: it ends by itself.
    pub fn tell(&self, now: Now, left: Option<Duration>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = left.map(|left| now.mono + left);
    }

    /// Whether it is starting, and within its time. False where nobody sees its process.
    pub fn is_under_way(&self, now: Now) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| now.mono < until)
    }
}
