//! Git, read only: no lock, no refreshed index, no hook, no filter, no child process, nothing opened over a reading's end.
//!
//! A folder is opened as what it is and never as a part of a repository above it. Reflogs are read as files, since
//! libgit2 makes one that is missing.

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use git2::{ErrorCode, Oid, Repository, RepositoryOpenFlags};
use jiff::Timestamp;
use serde::Serialize;

use super::sqlite::FileStamp;

mod dirty;
mod file;
mod pool;
mod process;
mod wrong;

use super::file::absent_or;
pub use pool::Pool;

/// How often a tree is read anew that moved while it was read, and how long it is left alone in between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(10);

/// A status that takes longer was of a large tree.
const LARGE: Duration = Duration::from_millis(100);

/// Whoever holds an index lock for longer has died, or waits for a person.
const STALE_LOCK: Duration = Duration::from_secs(60);

/// What libgit2 says of a split or sparse index, and of a repository with newer features (SHA-256, reftable).
const UNSUPPORTED: [&str; 5] = [
    "unknown object format 'sha256'",
    "unsupported mandatory extension: 'link'",
    "unsupported mandatory extension: 'sdir'",
    "unsupported extension name ",
    "unsupported repository version ",
];

/// Why something of a repository cannot be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    pub reason: Reason,
    /// For people. Paths at most, nothing of what files hold.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// We may not look.
    Denied,
    /// It changed as often as it was looked at, or could not be seen for a moment: a later reading will tell.
    Moving,
    /// Git reads it, libgit2 does not.
    Unsupported,
    Broken,
}

impl Unreadable {
    pub fn broken(text: impl Into<String>) -> Unreadable {
        Unreadable { reason: Reason::Broken, text: text.into() }
    }

    /// What nobody saw this time.
    pub fn unseen(text: impl Into<String>) -> Unreadable {
        Unreadable { reason: Reason::Moving, text: text.into() }
    }

    /// A folder that could not be listed.
    pub fn list(folder: &Path, error: &std::io::Error) -> Unreadable {
        Unreadable::io(&format!("list {}", folder.display()), error)
    }

    /// Where a file should be. Who opens it waits for somebody to write.
    fn pipe(path: &Path) -> Unreadable {
        Unreadable::broken(format!("{} is a pipe", path.display()))
    }

    fn io(what: &str, error: &std::io::Error) -> Unreadable {
        let denied = error.kind() == ErrorKind::PermissionDenied;
        Unreadable { reason: if denied { Reason::Denied } else { Reason::Broken }, text: format!("{what}: {error}") }
    }

    /// libgit2 tells neither a refusal of the system nor what it does not know from other errors but by its words.
    fn git(what: &str, error: &git2::Error) -> Unreadable {
        let says = |words: &[&str]| words.iter().any(|words| error.message().contains(words));
        let reason = match () {
            () if error.code() == ErrorCode::Owner || says(&["Permission denied"]) => Reason::Denied,
            () if says(&UNSUPPORTED) => Reason::Unsupported,
            () => Reason::Broken,
        };
        Unreadable { reason, text: format!("{what}: {}", error.message()) }
    }
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Unreadable {}

type Result<T> = std::result::Result<T, Unreadable>;

/// Names what is done when libgit2 fails at it.
trait Naming<T> {
    fn naming(self, what: &str) -> Result<T>;
}

impl<T> Naming<T> for std::result::Result<T, git2::Error> {
    fn naming(self, what: &str) -> Result<T> {
        self.map_err(|error| Unreadable::git(what, &error))
    }
}

impl<T> Naming<T> for std::io::Result<T> {
    fn naming(self, what: &str) -> Result<T> {
        self.map_err(|error| Unreadable::io(what, &error))
    }
}

/// The name of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha(Oid);

#[cfg(test)]
impl Sha {
    pub fn parse(text: &str) -> Option<Sha> {
        Oid::from_str(text).ok().map(Sha)
    }
}

impl fmt::Display for Sha {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Sha {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What is checked out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// `None` while its branch has no commit, or was deleted.
    pub sha: Option<Sha>,
    /// `None` if it is detached.
    pub branch: Option<Arc<str>>,
}

/// What git says it is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operation {
    Merge,
    Rebase,
    Am,
    CherryPick,
    Revert,
    Bisect,
}

/// What changes when somebody works in a tree: equal before and after a look, the look saw one state and no half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    pub head: Head,
    pub operation: Option<Operation>,
    index: Option<FileStamp>,
}

#[cfg(test)]
impl Mark {
    /// One of a tree that has nothing but a HEAD.
    pub fn of(head: Head) -> Mark {
        Mark { head, operation: None, index: None }
    }
}

/// Unmerged paths of an index, and how the file looked.
#[derive(Debug, Clone)]
pub struct Unmerged {
    pub paths: u32,
    index: Option<FileStamp>,
    /// An index that looks the same later is the same.
    settled: bool,
}

/// How far two commits are apart: what only the first has, and what only the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compared {
    ours: Sha,
    theirs: Sha,
    pub ahead: usize,
    pub behind: usize,
}

/// One working tree at one moment.
#[derive(Debug, Clone)]
pub struct Look {
    pub mark: Mark,
    /// An index that cannot be read leaves the rest readable.
    pub unmerged: Result<Unmerged>,
    /// When `index.lock` was made, if there is one.
    pub locked_at: Option<Timestamp>,
}

/// The answer to what `git status` answers.
#[derive(Debug, Clone)]
pub struct Status {
    /// `None` if only a filter program could tell, or a file cannot be read.
    pub dirty: Option<bool>,
    pub mark: Mark,
}

/// Where a working tree should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub folder: PathBuf,
    /// The common folder of the repository that it is a linked worktree of.
    pub common: Option<PathBuf>,
}

impl Place {
    /// # Errors
    /// It cannot be opened, or is not what it should be.
    pub fn open(&self) -> Result<Checkout> {
        match &self.common {
            Some(common) => Checkout::open_worktree(&self.folder, common),
            None => Checkout::open(&self.folder),
        }
    }

    /// What looks different after any command of git: its own folder, HEAD and the index in it; and where branches and objects
    /// are, which a linked worktree has in common with others.
    fn traces(&self) -> Vec<Option<FileStamp>> {
        let own = file::own_folder(&self.folder).unwrap_or_else(|| self.folder.clone());
        let common = self.common.clone().unwrap_or_else(|| own.clone());
        let own = ["", "HEAD", "index"].map(|name| own.join(name));
        let common = ["", "refs/heads", "packed-refs", "objects/pack"].map(|name| common.join(name));
        let stamp = |path: &PathBuf| std::fs::metadata(path).ok().as_ref().map(FileStamp::from);
        own.iter().chain(&common).map(stamp).collect()
    }
}

/// A worktree that a repository knows of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linked {
    pub folder: PathBuf,
    pub locked: bool,
}

/// An open repository, or worktree of one. Keep it within one reading.
pub struct Checkout {
    repo: Repository,
    folder: PathBuf,
}

impl Checkout {
    /// Opens what is in this very folder.
    ///
    /// # Errors
    /// Says what is wrong with it: missing, a plain folder, a `.git` that points nowhere, or what libgit2 says.
    fn open(folder: &Path) -> Result<Checkout> {
        process::prepare();
        if let Some(pipe) = file::pipe_in(folder) {
            return Err(Unreadable::pipe(&pipe));
        }
        let none: [&Path; 0] = [];
        match Repository::open_ext(folder, RepositoryOpenFlags::NO_SEARCH, none) {
            Ok(repo) => Ok(Checkout { repo, folder: folder.to_owned() }),
            Err(error) => Err(wrong::why_not(folder).unwrap_or_else(|| Unreadable::git("open it", &error))),
        }
    }

    /// Opens a worktree of the repository whose common folder is `common`, and nothing else.
    ///
    /// # Errors
    /// It cannot be opened, or is another's: showing its values would be a lie about this one.
    fn open_worktree(folder: &Path, common: &Path) -> Result<Checkout> {
        let checkout = Checkout::open(folder)?;
        let own = checkout.repo.commondir().canonicalize().naming("find its repository")?;
        if own != common.canonicalize().naming("find its repository")? {
            return Err(Unreadable::broken("it belongs to another repository"));
        }
        if !checkout.repo.is_worktree() {
            return Err(Unreadable::broken("it is the repository itself, not a worktree of it"));
        }
        checkout.refuse_copy()?;
        // libgit2 believes the folder that was registered, which a moved worktree has left; nothing is written by this.
        checkout.repo.set_workdir(folder, false).naming("open it")?;
        Ok(checkout)
    }

    /// A worktree that was copied with its `.git` shows the state of the one that it was copied from.
    fn refuse_copy(&self) -> Result<()> {
        let Some(registered) = self.registered_as() else { return Ok(()) };
        match (registered.join(".git").canonicalize(), self.folder.join(".git").canonicalize()) {
            (Ok(theirs), Ok(ours)) if theirs != ours => {
                Err(Unreadable::broken(format!("its .git is that of the worktree {}", registered.display())))
            }
            // A worktree that was moved: the folder it was registered for is gone, and git goes on as here.
            _ => Ok(()),
        }
    }

    /// What all worktrees of the repository share.
    pub fn common(&self) -> &Path {
        self.repo.commondir()
    }

    /// Without a working tree.
    pub fn is_bare(&self) -> bool {
        self.repo.is_bare()
    }

    pub fn head(&self) -> Result<Head> {
        let head = self.repo.find_reference("HEAD").naming("read HEAD")?;
        let (sha, branch) = match head.symbolic_target().naming("read HEAD")? {
            Some(target) => (self.tip(target)?, Some(target.strip_prefix("refs/heads/").unwrap_or(target).into())),
            None => (head.target().map(Sha), None),
        };
        if let Some(sha) = sha {
            self.repo.find_commit(sha.0).naming("read the commit that HEAD names")?;
        }
        Ok(Head { sha, branch })
    }

    /// The first line of a commit's message.
    pub fn subject(&self, sha: Sha) -> Result<String> {
        let commit = self.repo.find_commit(sha.0).naming("read a commit")?;
        Ok(String::from_utf8_lossy(commit.summary_bytes().unwrap_or_default()).into_owned())
    }

    /// What a reference names; `None` if there is none of this name.
    pub fn tip(&self, reference: &str) -> Result<Option<Sha>> {
        let file = self.common().join(reference);
        if file::is_pipe(&file) {
            return Err(Unreadable::pipe(&file));
        }
        match self.repo.refname_to_id(reference) {
            Ok(oid) => Ok(Some(Sha(oid))),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(Unreadable::git(&format!("read {reference}"), &error)),
        }
    }

    /// The whole name of origin's main branch (`release/2.0`), as far as the repository was told it.
    pub fn origin_main(&self) -> Result<Option<String>> {
        match self.repo.find_reference("refs/remotes/origin/HEAD") {
            Ok(head) => {
                let target = head.symbolic_target().naming("read origin/HEAD")?;
                Ok(target.and_then(|target| target.strip_prefix("refs/remotes/origin/")).map(str::to_owned))
            }
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) => Err(Unreadable::git("read origin/HEAD", &error)),
        }
    }

    /// Compares histories, unless `known` is the answer: the history of a commit never changes, unless it is cut off.
    pub fn compare(&self, ours: Sha, theirs: Sha, known: Option<Compared>) -> Result<Compared> {
        let boundary = self.shallow()?;
        if let Some(known) = known.filter(|known| known.ours == ours && known.theirs == theirs)
            && boundary.is_empty()
        {
            return Ok(known);
        }
        let (ahead, behind) = match () {
            () if ours == theirs => (0, 0),
            () if boundary.is_empty() => self.repo.graph_ahead_behind(ours.0, theirs.0).naming("compare commits")?,
            () => self.compare_cut(ours, theirs, &boundary)?,
        };
        Ok(Compared { ours, theirs, ahead, behind })
    }

    /// In a shallow clone libgit2 walks beyond the commits that it ends at, and finds nothing.
    fn compare_cut(&self, ours: Sha, theirs: Sha, boundary: &HashSet<Oid>) -> Result<(usize, usize)> {
        let (ours, theirs) = (self.history(ours, boundary)?, self.history(theirs, boundary)?);
        Ok((ours.difference(&theirs).count(), theirs.difference(&ours).count()))
    }

    /// The commits whose parents were left out of a shallow clone.
    fn shallow(&self) -> Result<HashSet<Oid>> {
        let text = text_of(&self.common().join("shallow"))?;
        text.lines().map(|line| Oid::from_str(line).naming("read the shallow commits")).collect()
    }

    fn history(&self, tip: Sha, boundary: &HashSet<Oid>) -> Result<HashSet<Oid>> {
        let (mut seen, mut next) = (HashSet::new(), vec![tip.0]);
        while let Some(oid) = next.pop() {
            if seen.insert(oid) && !boundary.contains(&oid) {
                next.extend(self.repo.find_commit(oid).naming("compare commits")?.parent_ids());
            }
        }
        Ok(seen)
    }

    /// Stashes; worktrees share them.
    pub fn stashes(&self) -> Result<u32> {
        let log = self.common().join("logs/refs/stash");
        let lines = file::lines(&log).naming("read the stashes")?.unwrap_or(0);
        Ok(u32::try_from(lines).unwrap_or(u32::MAX))
    }

    /// When origin was last fetched here or in a worktree; `None` if that left no trace. A fetch that fails leaves
    /// an empty file.
    pub fn last_fetch(&self) -> Result<Option<Timestamp>> {
        let mut folders = vec![self.common().to_owned()];
        folders.extend(admin_folders(self.common())?);
        let mut last = None;
        for folder in folders {
            let found = absent_or(std::fs::metadata(folder.join("FETCH_HEAD"))).naming("look at FETCH_HEAD")?;
            last = last.max(found.filter(|file| file.len() > 0).and_then(|file| modified(&file)));
        }
        Ok(last)
    }

    /// The worktrees that it knows of, those whose folder is gone among them.
    pub fn linked(&self) -> Result<Vec<Linked>> {
        let linked =
            |admin: PathBuf| Some(Linked { folder: registered_folder(&admin)?, locked: admin.join("locked").exists() });
        Ok(admin_folders(self.common())?.into_iter().filter_map(linked).collect())
    }

    /// The folder that the repository knows this worktree by; another one if it was moved.
    pub fn registered_as(&self) -> Option<PathBuf> {
        registered_folder(self.repo.path())
    }

    pub fn is_locked_worktree(&self) -> bool {
        self.repo.path().join("locked").exists()
    }

    /// Judged by the markers by which `git status` does; one inside a rebase is the rebase.
    fn operation(&self) -> Result<Option<Operation>> {
        let has = |name: &str| -> Result<bool> {
            let found = absent_or(std::fs::metadata(self.repo.path().join(name)));
            Ok(found.naming("look at the markers of operations")?.is_some())
        };
        if has("rebase-apply/applying")? {
            return Ok(Some(Operation::Am));
        }
        for (marker, operation) in [
            ("rebase-apply", Operation::Rebase),
            ("rebase-merge", Operation::Rebase),
            ("MERGE_HEAD", Operation::Merge),
            ("CHERRY_PICK_HEAD", Operation::CherryPick),
            ("REVERT_HEAD", Operation::Revert),
        ] {
            if has(marker)? {
                return Ok(Some(operation));
            }
        }
        match self.sequence()? {
            Some(operation) => Ok(Some(operation)),
            None => Ok(has("BISECT_LOG")?.then_some(Operation::Bisect)),
        }
    }

    /// A row of picks or reverts whose current one was committed by hand: what is to do next tells.
    fn sequence(&self) -> Result<Option<Operation>> {
        let text = text_of(&self.repo.path().join("sequencer/todo"))?;
        Ok(match text.split_whitespace().next() {
            Some("pick" | "p") => Some(Operation::CherryPick),
            Some("revert") => Some(Operation::Revert),
            _ => None,
        })
    }

    fn mark(&self) -> Result<Mark> {
        let index = absent_or(std::fs::metadata(self.repo.path().join("index"))).naming("look at the index")?;
        Ok(Mark { head: self.head()?, operation: self.operation()?, index: index.as_ref().map(FileStamp::from) })
    }

    fn locked_at(&self) -> Result<Option<Timestamp>> {
        let lock = absent_or(std::fs::metadata(self.repo.path().join("index.lock"))).naming("look at index.lock")?;
        Ok(lock.as_ref().and_then(modified))
    }

    /// Counts the paths of the index that wait for a merge; reads it only if it may have changed.
    fn unmerged(&self, mark: &Mark, known: Option<&Unmerged>, wall: Timestamp) -> Result<Unmerged> {
        match known {
            Some(known) if known.settled && known.index == mark.index => Ok(known.clone()),
            _ => Ok(Unmerged {
                paths: self.count_unmerged()?,
                index: mark.index.clone(),
                settled: mark.index.as_ref().is_none_or(|index| index.is_settled(wall)),
            }),
        }
    }

    fn count_unmerged(&self) -> Result<u32> {
        let index = self.repo.index().naming("read the index")?;
        if !index.has_conflicts() {
            return Ok(0);
        }
        let stage = |flags: u16| flags >> 12 & 3;
        let paths: BTreeSet<_> = index.iter().filter(|entry| stage(entry.flags) > 0).map(|entry| entry.path).collect();
        Ok(u32::try_from(paths.len()).unwrap_or(u32::MAX))
    }
}

fn path_of(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

/// Opens a tree and looks at all that is cheap. One that moves meanwhile, or fails while somebody works in it, is looked
/// at again; `read` may take more from the same state.
///
/// # Errors
/// It cannot be read, or moved each time.
pub fn look<T>(
    place: &Place,
    known: Option<&Unmerged>,
    wall: Timestamp,
    read: impl Fn(&Checkout, &Look) -> Result<T>,
) -> Result<(Look, T)> {
    steady(place, TRIES, || {
        let checkout = place.open()?;
        let mark = checkout.mark()?;
        let unmerged = checkout.unmerged(&mark, known, wall);
        let look = Look { unmerged, locked_at: checkout.locked_at()?, mark };
        let more = read(&checkout, &look)?;
        Ok((checkout.mark()? == look.mark).then_some((look, more)))
    })
}

/// What `git status` would say, without its lock, and how long that took: as long as the tree is large.
pub fn status(place: &Place, wall: Timestamp) -> (Result<Status>, Duration) {
    let begun = Instant::now();
    let attempt = || {
        let checkout = place.open()?;
        let mark = checkout.mark()?;
        let dirty = checkout.is_dirty()?;
        let quiet = checkout.mark()? == mark && !is_young(checkout.locked_at()?, wall);
        Ok(quiet.then_some(Status { dirty, mark }))
    };
    let mut outcome = steady(place, 1, attempt);
    if outcome.as_ref().is_err_and(|error| error.reason == Reason::Broken || begun.elapsed() < PAUSE * TRIES) {
        std::thread::sleep(PAUSE);
        outcome = steady(place, TRIES, attempt);
    }
    let took = begun.elapsed();
    if took > LARGE {
        super::return_memory();
    }
    (outcome, took)
}

/// Whether somebody holds the index right now: what the tree shows then is half of something.
fn is_young(locked_at: Option<Timestamp>, wall: Timestamp) -> bool {
    locked_at.is_some_and(|at| wall.duration_since(at) < jiff::SignedDuration::try_from(STALE_LOCK).unwrap_or_default())
}

/// Tries until one state was seen whole. What fails is tried once more: a file may have gone while we read. And what fails
/// again is broken only if nobody was at work meanwhile: libgit2 looks at a file and opens it then, and another may have
/// taken its place in between.
fn steady<T>(place: &Place, tries: u32, attempt: impl Fn() -> Result<Option<T>>) -> Result<T> {
    let mut failed = None;
    for turn in 1..=tries {
        match attempt() {
            Ok(Some(seen)) => return Ok(seen),
            Ok(None) => failed = None,
            Err(error) if tries == 1 || error.reason == Reason::Denied => return Err(error),
            Err(error) => {
                let traces = Some(place.traces());
                if failed == traces {
                    return Err(error);
                }
                failed = traces;
            }
        }
        if turn < tries {
            std::thread::sleep(PAUSE);
        }
    }
    Err(Unreadable::unseen("it changed each time that it was looked at"))
}

/// What git keeps of each linked worktree.
fn admin_folders(common: &Path) -> Result<Vec<PathBuf>> {
    let Some(entries) = absent_or(std::fs::read_dir(common.join("worktrees"))).naming("list its worktrees")? else {
        return Ok(Vec::new());
    };
    let folders = entries.map(|entry| entry.map(|entry| entry.path()).naming("list its worktrees"));
    folders.collect()
}

/// The folder for which a worktree was registered. `None` while it is being made or removed.
fn registered_folder(admin: &Path) -> Option<PathBuf> {
    let text = file::read(&admin.join("gitdir")).ok()??;
    Some(admin.join(path_of(text.trim_ascii_end())).parent()?.to_owned())
}

/// Empty if there is none.
fn text_of(path: &Path) -> Result<String> {
    let bytes = file::read(path).naming("read git's own files")?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn modified(file: &std::fs::Metadata) -> Option<Timestamp> {
    let since = file.modified().ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Timestamp::from_second(i64::try_from(since.as_secs()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder with a HEAD, where each attempt fails, and how it ends.
    fn fails(tries: u32, meanwhile: impl Fn(&Path)) -> (Reason, u32) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".git")).unwrap();
        std::fs::write(folder.path().join(".git/HEAD"), "ref: refs/heads/main\n").unwrap();
        let (place, attempts) = (Place { folder: folder.path().to_owned(), common: None }, std::cell::Cell::new(0));
        let outcome = steady(&place, tries, || -> Result<Option<()>> {
            attempts.set(attempts.get() + 1);
            meanwhile(&folder.path().join(".git"));
            Err(Unreadable::broken("read HEAD: could not read (expected 41 bytes, read 25)"))
        });
        (outcome.unwrap_err().reason, attempts.get())
    }

    #[test]
    fn what_fails_while_somebody_works_there_is_not_broken() {
        assert_eq!(fails(5, |_| {}), (Reason::Broken, 2));
        let checks_out = |git: &Path| {
            std::fs::write(git.join("HEAD.lock"), "0123456789012345678901234567890123456789\n").unwrap();
            std::fs::rename(git.join("HEAD.lock"), git.join("HEAD")).unwrap();
        };
        assert_eq!(fails(5, checks_out), (Reason::Moving, 5));
        assert_eq!(fails(1, checks_out), (Reason::Broken, 1), "who asks for one try decides for himself");
    }
}
