//! What is said of any working tree: a repository's own, a worktree, the host's checkout.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use crate::sample::Now;
use crate::source::git::{Look, Operation, Reason, Unreadable};

/// When it was taken, and what it told.
pub type Status<'a> = (Timestamp, Result<Option<bool>, &'a Unreadable>);

/// A field is null if it is not known; `error` then says why.
#[derive(Debug, Default, Serialize)]
pub struct Tree {
    /// Null while HEAD is detached.
    pub branch: Option<Arc<str>>,
    pub detached: Option<bool>,
    pub dirty: Option<bool>,
    /// When `dirty` was found out: that is asked less often than the rest.
    pub status_at: Option<Timestamp>,
    /// Unmerged entries exist.
    pub conflict: Option<bool>,
    /// Null if none is under way, too.
    #[serde(serialize_with = "flat")]
    operation: Option<Option<Operation>>,
    pub unmerged: Option<u32>,
    /// At this reading; null without a lock.
    lock_age_seconds: Option<u64>,
    #[serde(serialize_with = "text")]
    error: Option<Unreadable>,
}

fn flat<S: serde::Serializer>(operation: &Option<Option<Operation>>, serializer: S) -> Result<S::Ok, S::Error> {
    operation.flatten().serialize(serializer)
}

fn text<S: serde::Serializer>(error: &Option<Unreadable>, serializer: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(|error| error.text.as_str()).serialize(serializer)
}

impl Tree {
    /// One that could be looked at.
    pub fn of(look: &Look, status: Option<Status<'_>>, now: Now) -> Tree {
        let age = |at: Timestamp| u64::try_from(now.wall.duration_since(at).as_secs()).unwrap_or(0);
        let mut tree = Tree {
            branch: look.mark.head.branch.clone(),
            detached: Some(look.mark.head.branch.is_none()),
            operation: Some(look.mark.operation),
            lock_age_seconds: look.locked_at.map(age),
            ..Tree::default()
        };
        tree.unmerged = tree.or_note(Some(&look.unmerged)).map(|unmerged| unmerged.paths);
        tree.conflict = tree.unmerged.map(|paths| paths > 0);
        if let Some((at, dirty)) = status {
            tree.status_at = dirty.is_ok().then_some(at);
            tree.dirty = dirty.unwrap_or_else(|error| {
                tree.note(error);
                None
            });
        }
        if tree.conflict == Some(true) {
            tree.dirty = Some(true); // Whatever an older status said.
        }
        tree
    }

    /// One of which nothing is known.
    pub fn unreadable(error: &Unreadable) -> Tree {
        Tree { error: Some(error.clone()), ..Tree::default() }
    }

    /// Says why something is not known; the first reason stays.
    pub fn note(&mut self, error: &Unreadable) {
        self.error.get_or_insert_with(|| error.clone());
    }

    /// The value, or a note why there is none.
    pub fn or_note<'a, T>(&mut self, value: Option<&'a Result<T, Unreadable>>) -> Option<&'a T> {
        match value? {
            Ok(value) => Some(value),
            Err(error) => {
                self.note(error);
                None
            }
        }
    }

    /// Whether an operation was begun and not ended.
    pub fn is_unfinished(&self) -> Option<bool> {
        self.operation.map(|operation| operation.is_some())
    }

    /// Why we may not look at it, or at some of it.
    pub fn denied(&self) -> Option<&Unreadable> {
        self.error.as_ref().filter(|error| error.reason == Reason::Denied)
    }

    /// Whether something is wrong with it; that we could not look proves nothing.
    pub fn is_broken(&self) -> Option<bool> {
        match self.error.as_ref().map(|error| error.reason) {
            None => Some(false),
            Some(Reason::Broken) => Some(true),
            Some(Reason::Denied | Reason::Moving | Reason::Unsupported) => None,
        }
    }

    /// 0 when there is none; `None` if that is not known.
    pub fn lock_age(&self) -> Option<f64> {
        self.operation.map(|_| self.lock_age_seconds.unwrap_or(0) as f64)
    }
}

/// A flag as facts carry it.
pub fn flag(is: Option<bool>) -> Option<f64> {
    is.map(|is| f64::from(u8::from(is)))
}
