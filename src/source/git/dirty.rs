//! Whether a tree is dirty, as `git status` would say it, where libgit2 alone would say otherwise.

use std::io::ErrorKind;

use git2::{AttrCheckFlags, AttrValue, StatusOptions};

use super::{Checkout, Naming, Result, absent_or, path_of};

impl Checkout {
    /// Whether anything is staged, changed, or new and not ignored.
    pub(super) fn is_dirty(&self) -> Result<Option<bool>> {
        let mut options = StatusOptions::new();
        options.include_untracked(true).include_ignored(true).include_unreadable(true).update_index(false);
        let statuses = self.repo.statuses(Some(&mut options)).naming("compare the files")?;
        let index = self.repo.index().naming("read the index")?;
        let mut certain = true;
        for entry in statuses.iter() {
            let path = entry.path_bytes();
            match self.is_change(entry.status(), path, &index) {
                Some(true) => return Ok(Some(true)),
                Some(false) => {}
                None => certain = false,
            }
        }
        Ok((certain && !self.has_strays(&index)?).then_some(false))
    }

    /// Whether git would call it one too; `None` if that needs what we do not do.
    fn is_change(&self, status: git2::Status, path: &[u8], index: &git2::Index) -> Option<bool> {
        use git2::Status as S;
        if status == S::WT_DELETED {
            // Left out of a sparse checkout. libgit2 knows nothing of those.
            return if is_skipped(index, path) { Some(false) } else { self.is_gone(path) };
        }
        if status == S::IGNORED {
            return self.hides_something(path);
        }
        if status == S::WT_MODIFIED && self.has_foreign_filter(path) {
            return None;
        }
        let unreadable = S::from_bits_retain(1 << 12);
        (!status.intersects(unreadable)).then_some(true)
    }

    /// What lies in a folder that may not be entered is not known to be gone.
    fn is_gone(&self, path: &[u8]) -> Option<bool> {
        absent_or(self.folder.join(path_of(path)).symlink_metadata()).is_ok().then_some(true)
    }

    /// What libgit2 calls ignored and git need not: a folder that seems empty, but is a new repository without a file
    /// yet (untracked to git), or may not be entered.
    fn hides_something(&self, path: &[u8]) -> Option<bool> {
        let folder = self.folder.join(path_of(path));
        let denied = std::fs::read_dir(&folder).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
        let is_repo = folder.join(".git").is_dir();
        if !(denied || is_repo) || self.repo.is_path_ignored(path_of(path)).unwrap_or(false) {
            return Some(false);
        }
        is_repo.then_some(true)
    }

    /// Filters of git itself are known here. Those with a name are programs (LFS): they are never run, and what runs may
    /// stand in settings that only the host's user has.
    fn has_foreign_filter(&self, path: &[u8]) -> bool {
        let filter = self.repo.get_attr_bytes(path_of(path), "filter", AttrCheckFlags::default());
        filter.map_or(true, |filter| matches!(AttrValue::always_bytes(filter), AttrValue::Bytes(_)))
    }

    /// Files that a sparse checkout leaves out, and which are there: git compares them, libgit2 does not.
    fn has_strays(&self, index: &git2::Index) -> Result<bool> {
        let config = self.repo.config().naming("read the configuration")?;
        if !config.get_bool("core.sparseCheckout").unwrap_or(false) {
            return Ok(false);
        }
        let there = |path: &[u8]| self.folder.join(path_of(path)).symlink_metadata().is_ok();
        Ok(index.iter().any(|entry| entry.flags_extended & SKIP_WORKTREE != 0 && there(&entry.path)))
    }
}

/// Extended flag of an index entry.
const SKIP_WORKTREE: u16 = 1 << 14;

fn is_skipped(index: &git2::Index, path: &[u8]) -> bool {
    index.get_path(path_of(path), 0).is_some_and(|entry| entry.flags_extended & SKIP_WORKTREE != 0)
}
