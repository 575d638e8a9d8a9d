//! One repository and its worktrees at one moment: all that is cheap to know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;

use crate::sample::Now;
use crate::source::git::{Checkout, Compared, Linked, Look, Place, Sha, Unmerged, Unreadable, look};

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
    pub worktrees: Result<BTreeMap<Arc<str>, WorktreeSeen>, Unreadable>,
}

/// What earlier looks learned and what cannot have changed, by worktree; the repository's own is `None`.
pub type Memory = BTreeMap<Option<Arc<str>>, Remembered>;

#[derive(Debug, Clone, Default)]
pub struct Remembered {
    unmerged: Option<Unmerged>,
    compared: Option<Compared>,
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
        let repo = look_at_repo(&self.repo, now.wall, memory.get(&None));
        let worktrees = match &self.worktrees {
            Some(folder) => look_at_worktrees(folder, repo.as_ref(), now.wall, memory),
            None => Ok(BTreeMap::new()),
        };
        Found { at: now, repo, worktrees }
    }
}

impl Found {
    /// What the next look need not find out again.
    pub fn memory(&self) -> Memory {
        let repo = self.repo.iter().map(|seen| (None, Remembered::of(&seen.look, seen.unpushed.as_ref())));
        let worktrees = self.worktrees.iter().flatten().filter_map(|(name, worktree)| {
            let seen = worktree.seen.as_ref().ok()?;
            Some((Some(name.clone()), Remembered::of(&seen.look, seen.compared.as_ref())))
        });
        repo.chain(worktrees).collect()
    }
}

impl Remembered {
    fn of(look: &Look, compared: Option<&Result<Compared, Unreadable>>) -> Remembered {
        let compared = compared.and_then(|compared| compared.as_ref().ok()).copied();
        Remembered { unmerged: look.unmerged.as_ref().ok().cloned(), compared }
    }
}

/// Looks at a repository without its worktrees.
pub fn look_at_repo(place: &Place, wall: Timestamp, known: Option<&Remembered>) -> Result<RepoSeen, Unreadable> {
    let unmerged = known.and_then(|known| known.unmerged.as_ref());
    let (look, seen) = look(place, unmerged, wall, |checkout, look| {
        let main = main_branch(checkout, look)?;
        let pair = look.mark.head.sha.zip(main.as_ref().and_then(|main| main.origin));
        let compared = known.and_then(|known| known.compared);
        Ok(RepoSeen {
            look: look.clone(),
            common: checkout.common().to_owned(),
            bare: checkout.is_bare(),
            main,
            unpushed: pair.map(|(head, origin)| checkout.compare(head, origin, compared)),
            stashes: checkout.stashes(),
            last_fetch: checkout.last_fetch(),
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

fn look_at_worktrees(
    folder: &Path,
    repo: Result<&RepoSeen, &Unreadable>,
    wall: Timestamp,
    memory: &Memory,
) -> Result<BTreeMap<Arc<str>, WorktreeSeen>, Unreadable> {
    let look_at = |(name, folder): (Arc<str>, PathBuf)| {
        let known = memory.get(&Some(name.clone()));
        (name, look_at_worktree(folder, repo, wall, known))
    };
    let found: BTreeMap<_, _> = folders(folder)?.into_iter().map(look_at).collect();
    // One that was moved is here under its new name, and not gone.
    let moved: Vec<_> = found.values().filter_map(|worktree| worktree.seen.as_ref().ok()?.registered.clone()).collect();
    let mut worktrees: BTreeMap<_, _> = gone(folder, repo, &moved).into_iter().collect();
    worktrees.extend(found);
    Ok(worktrees)
}

/// Those that the repository still knows of, and whose folder is gone from here.
fn gone(folder: &Path, repo: Result<&RepoSeen, &Unreadable>, moved: &[PathBuf]) -> Vec<(Arc<str>, WorktreeSeen)> {
    let linked = repo.ok().and_then(|repo| repo.linked.as_ref().ok());
    let real = folder.canonicalize();
    let is_here = |linked: &Linked| {
        if moved.contains(&linked.folder) {
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
    known: Option<&Remembered>,
) -> WorktreeSeen {
    let Ok(repo) = repo else {
        let text = "its repository cannot be read".to_owned();
        let reason = repo.err().map_or(crate::source::git::Reason::Broken, |error| error.reason);
        return WorktreeSeen { place: None, locked: None, seen: Err(Unreadable { reason, text }) };
    };
    let place = Place { folder, common: Some(repo.common.clone()) };
    let unmerged = known.and_then(|known| known.unmerged.as_ref());
    let seen = look(&place, unmerged, wall, |checkout, look| {
        let pair = look.mark.head.sha.zip(repo.main.as_ref().and_then(|main| main.here));
        let compared = pair.map(|(head, main)| checkout.compare(head, main, known.and_then(|known| known.compared)));
        Ok((compared, checkout.registered_as(), checkout.is_locked_worktree()))
    });
    let locked = seen.as_ref().ok().map(|(_, (_, _, locked))| *locked);
    let seen = seen.map(|(look, (compared, registered, _))| TreeSeen { look, compared, registered });
    WorktreeSeen { place: seen.is_ok().then_some(place), locked, seen }
}
