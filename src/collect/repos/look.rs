//! One repository and its worktrees at one moment: all that is cheap to know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::sample::Now;
use crate::source::git::{Checkout, Compared, Linked, Look, Place, Reason, Sha, Unmerged, Unreadable, look};

/// Where a configured repository and its worktrees should be.
#[derive(Debug, Clone)]
pub struct Home {
    pub repo: Place,
    /// The folder that holds the worktrees; `None` if there can be none.
    pub worktrees: Option<PathBuf>,
}

/// What was found there.
#[derive(Debug)]
pub struct Found {
    pub at: Now,
    pub repo: Result<RepoSeen, Unreadable>,
    pub worktrees: BTreeMap<Arc<str>, WorktreeSeen>,
    /// Why there may be worktrees that were not found.
    pub unlisted: Option<Unreadable>,
}

/// What earlier looks learned: which worktrees there are, and what cannot have changed.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// When the latest look that came to an end began, on the monotonic clock.
    pub at: Option<Duration>,
    repo: Remembered,
    worktrees: BTreeMap<Arc<str>, Remembered>,
}

#[derive(Debug, Clone, Default)]
pub struct Remembered {
    unmerged: Option<Unmerged>,
    compared: Option<Compared>,
    /// A fetch that is under way, or failed, has wiped the trace of the one before.
    last_fetch: Option<Timestamp>,
}

#[derive(Debug, Clone)]
pub struct RepoSeen {
    pub look: Look,
    /// What its worktrees share.
    pub common: PathBuf,
    pub bare: bool,
    pub main: Option<Main>,
    /// HEAD against the fetched main branch; `None` if one of them does not exist.
    pub unpushed: Option<Result<Compared, Unreadable>>,
    pub stashes: Result<u32, Unreadable>,
    pub last_fetch: Result<Option<Timestamp>, Unreadable>,
    /// Those that it knows of, wherever they lie.
    pub linked: Result<Vec<Linked>, Unreadable>,
}

/// The main branch, and where it stands here and at origin.
#[derive(Debug, Clone)]
pub struct Main {
    pub name: Arc<str>,
    pub here: Option<Sha>,
    pub origin: Option<Sha>,
}

#[derive(Debug, Clone)]
pub struct WorktreeSeen {
    pub place: Option<Place>,
    pub locked: Option<bool>,
    pub seen: Result<TreeSeen, Unreadable>,
}

#[derive(Debug, Clone)]
pub struct TreeSeen {
    pub look: Look,
    /// HEAD against the local main branch; `None` if one of them does not exist.
    pub compared: Option<Result<Compared, Unreadable>>,
    /// The folder that its repository knows it by.
    registered: Option<PathBuf>,
}

impl Home {
    /// Looks at all of it.
    pub fn look(&self, now: Now, memory: &Memory) -> Found {
        let repo = look_at_repo(&self.repo, now.wall, &memory.repo);
        let (worktrees, unlisted) = match &self.worktrees {
            Some(folder) => look_at_worktrees(folder, repo.as_ref(), now.wall, memory),
            None => (BTreeMap::new(), None),
        };
        let mut found = Found { at: now, repo, worktrees, unlisted };
        found.list_known(memory);
        found
    }
}

/// Why a repository may know of worktrees that have no folder any more. A broken one knows of none.
fn unlinked<'a>(repo: Result<&'a RepoSeen, &'a Unreadable>) -> Option<&'a Unreadable> {
    match repo {
        Ok(seen) => seen.linked.as_ref().err(),
        Err(error) => Some(error).filter(|error| error.reason != Reason::Broken),
    }
}

impl Found {
    /// Nothing was found out.
    pub fn unanswered(now: Now, memory: &Memory, error: Unreadable) -> Found {
        let unlisted = Some(error.clone());
        let mut found = Found { at: now, repo: Err(error), worktrees: BTreeMap::new(), unlisted };
        found.list_known(memory);
        found
    }

    /// Where not all could be listed, those known before stay: that nobody sees them does not mean that they are gone.
    fn list_known(&mut self, memory: &Memory) {
        let Some(Unreadable { text, .. }) = &self.unlisted else { return };
        for name in memory.worktrees.keys() {
            self.worktrees
                .entry(name.clone())
                .or_insert_with(|| WorktreeSeen::unknown(Unreadable::unseen(text.as_str())));
        }
    }
}

impl WorktreeSeen {
    fn unknown(error: Unreadable) -> WorktreeSeen {
        WorktreeSeen { place: None, locked: None, seen: Err(error) }
    }
}

impl Memory {
    /// Takes over what the next look need not find out again; forgets the worktrees that are no longer there.
    pub fn learn(&mut self, found: &Found) {
        self.at = Some(found.at.mono);
        self.repo.learn(found.repo.as_ref().map(RepoSeen::remembered));
        let mut known = std::mem::take(&mut self.worktrees);
        self.worktrees.extend(found.worktrees.iter().map(|(name, worktree)| {
            let mut remembered = known.remove(name).unwrap_or_default();
            remembered.learn(worktree.seen.as_ref().map(TreeSeen::remembered));
            (name.clone(), remembered)
        }));
    }
}

impl Remembered {
    /// What could not be looked at is what it was, as far as anybody knows; another one may take a broken one's place.
    pub fn learn(&mut self, seen: Result<Remembered, &Unreadable>) {
        match seen {
            Ok(seen) => *self = Remembered { last_fetch: seen.last_fetch.or(self.last_fetch), ..seen },
            Err(error) if error.reason == Reason::Broken => *self = Remembered::default(),
            Err(_) => {}
        }
    }

    fn of(look: &Look, compared: Option<&Result<Compared, Unreadable>>, last_fetch: Option<Timestamp>) -> Remembered {
        let compared = compared.and_then(|compared| compared.as_ref().ok()).copied();
        Remembered { unmerged: look.unmerged.as_ref().ok().cloned(), compared, last_fetch }
    }
}

impl RepoSeen {
    pub fn remembered(&self) -> Remembered {
        let last_fetch = self.last_fetch.as_ref().ok().copied().flatten();
        Remembered::of(&self.look, self.unpushed.as_ref(), last_fetch)
    }
}

impl TreeSeen {
    fn remembered(&self) -> Remembered {
        Remembered::of(&self.look, self.compared.as_ref(), None)
    }
}

/// Looks at a repository without its worktrees.
pub fn look_at_repo(place: &Place, wall: Timestamp, known: &Remembered) -> Result<RepoSeen, Unreadable> {
    let (look, seen) = look(place, known.unmerged.as_ref(), wall, |checkout, look| {
        let main = main_branch(checkout, look)?;
        let pair = look.mark.head.sha.zip(main.as_ref().and_then(|main| main.origin));
        Ok(RepoSeen {
            look: look.clone(),
            common: checkout.common().to_owned(),
            bare: checkout.is_bare(),
            main,
            unpushed: pair.map(|(head, origin)| checkout.compare(head, origin, known.compared)),
            stashes: checkout.stashes(),
            last_fetch: checkout.last_fetch().map(|traced| traced.max(known.last_fetch)),
            linked: checkout.linked(),
        })
    })?;
    Ok(RepoSeen { look, ..seen })
}

/// What origin says, whole (a branch may be `release/2.0`); without that the branch checked out in the repository itself.
fn main_branch(checkout: &Checkout, look: &Look) -> Result<Option<Main>, Unreadable> {
    let told = checkout.origin_main()?.map(Arc::from);
    let Some(name) = told.or_else(|| look.mark.head.branch.clone()) else { return Ok(None) };
    let here = checkout.tip(&format!("refs/heads/{name}"))?;
    let origin = checkout.tip(&format!("refs/remotes/origin/{name}"))?;
    Ok(Some(Main { name, here, origin }))
}

/// What is in the folder, what is gone from it, and why that may not be all.
fn look_at_worktrees(
    folder: &Path,
    repo: Result<&RepoSeen, &Unreadable>,
    wall: Timestamp,
    memory: &Memory,
) -> (BTreeMap<Arc<str>, WorktreeSeen>, Option<Unreadable>) {
    let listed = folders(folder);
    let unlisted = listed.as_ref().err().or_else(|| unlinked(repo)).cloned();
    let look_at = |(name, folder): (Arc<str>, PathBuf)| {
        let known = memory.worktrees.get(&name).cloned().unwrap_or_default();
        (name, look_at_worktree(folder, repo, wall, &known))
    };
    let found: BTreeMap<_, _> = listed.into_iter().flatten().map(look_at).collect();
    let mut worktrees: BTreeMap<_, _> = gone(folder, repo, &found).into_iter().collect();
    worktrees.extend(found);
    (worktrees, unlisted)
}

/// Those that the repository still knows of, and whose folder is gone from here.
fn gone(
    folder: &Path,
    repo: Result<&RepoSeen, &Unreadable>,
    found: &BTreeMap<Arc<str>, WorktreeSeen>,
) -> Vec<(Arc<str>, WorktreeSeen)> {
    let linked = repo.ok().and_then(|repo| repo.linked.as_ref().ok());
    // One that was moved is here under its new name, and not gone.
    let moved: Vec<_> =
        found.values().filter_map(|worktree| worktree.seen.as_ref().ok()?.registered.as_ref()).collect();
    let real = folder.canonicalize();
    let is_here = |linked: &Linked| {
        if moved.contains(&&linked.folder) {
            return None;
        }
        let parent = linked.folder.parent()?;
        let same = parent == folder || parent.canonicalize().ok()? == *real.as_ref().ok()?;
        Some((label(linked.folder.file_name()?), linked.locked)).filter(|_| same)
    };
    let seen = |locked: bool| WorktreeSeen {
        place: None,
        locked: Some(locked),
        seen: Err(Unreadable::broken(match locked {
            true => "its folder is gone; it is locked, so git keeps what it knows of it",
            false => "its folder is gone; `git worktree prune` would forget it",
        })),
    };
    linked.into_iter().flatten().filter_map(is_here).map(|(name, locked)| (name, seen(locked))).collect()
}

/// Each folder in it, and each link to one or to nothing. None at all if it does not exist.
fn folders(folder: &Path) -> Result<Vec<(Arc<str>, PathBuf)>, Unreadable> {
    let failed = |error: std::io::Error| Unreadable::list(folder, &error);
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // A link to a folder is one; a link that leads nowhere was one.
        let is_file = std::fs::metadata(entry.path()).is_ok_and(|found| !found.is_dir());
        let counts = !is_file && entry.file_type().is_ok_and(|kind| kind.is_dir() || kind.is_symlink());
        folders.extend(counts.then(|| (label(&entry.file_name()), entry.path())));
    }
    Ok(folders)
}

/// A name as a label: bytes that are no UTF-8 are spelled out, so that no two become the same.
fn label(name: &std::ffi::OsStr) -> Arc<str> {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut text = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            write!(text, "\\x{byte:02x}").expect("writing to a string cannot fail");
        }
    }
    text.into()
}

fn look_at_worktree(
    folder: PathBuf,
    repo: Result<&RepoSeen, &Unreadable>,
    wall: Timestamp,
    known: &Remembered,
) -> WorktreeSeen {
    let repo = match repo {
        Ok(repo) => repo,
        Err(error) => {
            let text = "its repository cannot be read".to_owned();
            return WorktreeSeen::unknown(Unreadable { reason: error.reason, text });
        }
    };
    let place = Place { folder, common: Some(repo.common.clone()) };
    let seen = look(&place, known.unmerged.as_ref(), wall, |checkout, look| {
        let pair = look.mark.head.sha.zip(repo.main.as_ref().and_then(|main| main.here));
        let compared = pair.map(|(head, main)| checkout.compare(head, main, known.compared));
        Ok((compared, checkout.registered_as(), checkout.is_locked_worktree()))
    });
    let locked = seen.as_ref().ok().map(|(_, (_, _, locked))| *locked);
    let seen = seen.map(|(look, (compared, registered, _))| TreeSeen { look, compared, registered });
    WorktreeSeen { place: seen.is_ok().then_some(place), locked, seen }
}
