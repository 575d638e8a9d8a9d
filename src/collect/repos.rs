//! Repositories and the worktrees in which agents work: right in every state that git can be in, and silent where it is not known.
//!
//! What is cheap (HEAD, ahead and behind, conflicts, operations) is read at each tick; whether a tree is dirty costs what
//! `git status` costs and is asked as rarely as that demands. Each repository is asked on a thread of its own.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collect::{Collector, GIT_FIX, Needs};
use crate::fact::{Bound, Check, Fact, Severity, Span};
use crate::host::Host;
use crate::sample::{Denied, Now, Points};
use crate::source::Sources;
use crate::source::git::{Mark, Place, Pool, Reason, Sha, Unreadable};

pub mod look;
pub mod statuses;
pub mod tree;

use look::{Found, Home, Memory, RepoSeen, WorktreeSeen};
use statuses::{Key, Statuses};
use tree::Tree;

/// `[collect.repos]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often it is asked whether a tree is dirty; a large one is asked less often.
    pub status_interval: Span,
}

impl Default for Config {
    fn default() -> Config {
        Config { status_interval: Span(Duration::from_secs(60)) }
    }
}

/// `/status.repos`: by `owner/repo`, as configured.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Section {
    repos: BTreeMap<Arc<str>, Repo>,
}

/// A repository: its own working tree, and its worktrees.
#[derive(Debug, Default, Serialize)]
struct Repo {
    head_sha: Option<Sha>,
    #[serde(flatten)]
    tree: Tree,
    /// It has no working tree, so nothing in it can be dirty.
    bare: Option<bool>,
    /// The branch that the worktrees are compared with.
    main_branch: Option<Arc<str>>,
    main_sha: Option<Sha>,
    /// Commits of HEAD that origin's main branch lacked when it was last fetched.
    unpushed_commits: Option<usize>,
    /// And the other way round.
    behind: Option<usize>,
    stashes: Option<u32>,
    /// Null if there is no trace of a fetch.
    last_fetch_at: Option<Timestamp>,
    worktrees: BTreeMap<Arc<str>, Worktree>,
}

#[derive(Debug, Default, Serialize)]
struct Worktree {
    sha: Option<Sha>,
    #[serde(flatten)]
    tree: Tree,
    /// Commits that only its HEAD has, and that only the local main branch has.
    ahead: Option<usize>,
    behind: Option<usize>,
    /// By `git worktree lock`.
    locked: Option<bool>,
}

static DIRTY: Fact = Fact::gauge(
    "agenthost.repo.dirty",
    "agenthost_repo_dirty",
    "Whether anything is staged, changed, or new and not ignored in the repository's own working tree.",
)
.of(&["repo"]);
static UNPUSHED: Fact = Fact::gauge(
    "agenthost.repo.unpushed_commits",
    "agenthost_repo_unpushed_commits",
    "Commits of HEAD that origin's main branch did not have when it was last fetched.",
)
.unit("{commit}")
.of(&["repo"]);
static REPO_BEHIND: Fact = Fact::gauge(
    "agenthost.repo.behind_commits",
    "agenthost_repo_behind_commits",
    "Commits of origin's main branch, as last fetched, that HEAD does not have.",
)
.unit("{commit}")
.of(&["repo"]);
static STASHES: Fact =
    Fact::gauge("agenthost.repo.stashes", "agenthost_repo_stashes", "Stashes of the repository and all its worktrees.")
        .unit("{stash}")
        .of(&["repo"]);
static LAST_FETCH: Fact = Fact::gauge(
    "agenthost.repo.last_fetch_timestamp_seconds",
    "agenthost_repo_last_fetch_timestamp_seconds",
    "When the repository or one of its worktrees last fetched (FETCH_HEAD); no series if that left no trace.",
)
.of(&["repo"]);
static REPO_BROKEN: Fact = Fact::gauge(
    "agenthost.repo.broken",
    "agenthost_repo_broken",
    "Whether the configured repository is missing or cannot be read.",
)
.of(&["repo"]);
static AHEAD: Fact = Fact::gauge(
    "agenthost.worktree.ahead_commits",
    "agenthost_worktree_ahead_commits",
    "Commits of the worktree's HEAD that the repository's local main branch does not have.",
)
.unit("{commit}")
.of(&["repo", "worktree"]);
static BEHIND: Fact = Fact::gauge(
    "agenthost.worktree.behind_commits",
    "agenthost_worktree_behind_commits",
    "Commits of the repository's local main branch that the worktree's HEAD does not have.",
)
.unit("{commit}")
.of(&["repo", "worktree"]);
static WORKTREE_DIRTY: Fact = Fact::gauge(
    "agenthost.worktree.dirty",
    "agenthost_worktree_dirty",
    "Whether anything is staged, changed, or new and not ignored in the worktree.",
)
.of(&["repo", "worktree"]);
static CONFLICT: Fact = Fact::gauge(
    "agenthost.worktree.conflict",
    "agenthost_worktree_conflict",
    "Whether the worktree's index has unmerged entries, whatever caused them.",
)
.of(&["repo", "worktree"]);
static UNMERGED: Fact = Fact::gauge(
    "agenthost.worktree.unmerged_entries",
    "agenthost_worktree_unmerged_entries",
    "Paths that wait for a merge in the worktree's index.",
)
.unit("{path}")
.of(&["repo", "worktree"]);
static UNFINISHED: Fact = Fact::gauge(
    "agenthost.worktree.unfinished",
    "agenthost_worktree_unfinished",
    "Whether a merge, rebase, am, cherry-pick, revert or bisect was begun in the worktree and not ended.",
)
.of(&["repo", "worktree"]);
static BROKEN: Fact = Fact::gauge(
    "agenthost.worktree.broken",
    "agenthost_worktree_broken",
    "Whether the folder is no worktree of its repository, or one that cannot be read.",
)
.of(&["repo", "worktree"]);
static DIVERGED: Fact = Fact::gauge(
    "agenthost.worktree.diverged",
    "agenthost_worktree_diverged",
    "Whether the worktree is both ahead of and behind the repository's local main branch.",
)
.of(&["repo", "worktree"]);
static LOCK_AGE: Fact = Fact::gauge(
    "agenthost.worktree.lock_age",
    "agenthost_worktree_lock_age_seconds",
    "Age of the worktree's index.lock; 0 when there is none.",
)
.unit("s")
.of(&["repo", "worktree"]);

static CHECKS: [Check; 5] = [
    Check {
        name: "worktree_conflict",
        fact: &CONFLICT,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: Duration::from_secs(30 * 60),
        headline: "conflict in worktree {}",
        means: "A conflict has waited half an hour in this worktree: its agent has left it, or cannot solve it.",
    },
    Check {
        name: "worktree_unfinished",
        fact: &UNFINISHED,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: Duration::from_secs(2 * 60 * 60),
        headline: "unfinished operation in worktree {}",
        means: "A merge, rebase, am, cherry-pick, revert or bisect has stood in this worktree for two hours: somebody \
                began it and nobody ends it.",
    },
    Check {
        name: "worktree_broken",
        fact: &BROKEN,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: Duration::from_secs(10 * 60),
        headline: "worktree {} broken",
        means: "This worktree cannot be read: `error` in /status says why. No agent can work in it.",
    },
    Check {
        name: "worktree_diverged",
        fact: &DIVERGED,
        bad: Bound::Above(0.0),
        severity: Severity::Info,
        fail_for: Duration::from_secs(60 * 60),
        headline: "worktree {} diverged",
        means: "This worktree and the main branch have both gone on: it needs a rebase or a merge before it can land.",
    },
    Check {
        name: "repo_dirty",
        fact: &DIRTY,
        bad: Bound::Above(0.0),
        severity: Severity::Info,
        fail_for: Duration::from_secs(60 * 60),
        headline: "repository {} dirty",
        means: "Uncommitted changes stand in the repository's own working tree, where nobody should work.",
    },
];

/// Looks after the configured repositories.
pub struct Repos {
    homes: BTreeMap<Arc<str>, Home>,
    looks: Pool<Arc<str>, Found>,
    statuses: Statuses,
    memories: BTreeMap<Arc<str>, Memory>,
    /// Of a whole run.
    timeout: Duration,
}

/// How long a run of at most `timeout` waits for repositories that do not answer; the rest is for statuses, and to spare.
fn patience(timeout: Duration) -> Duration {
    timeout * 3 / 10
}

impl Collector for Repos {
    const NAME: &'static str = "repos";
    const EVERY: Duration = Duration::from_secs(30);
    const FACTS: &'static [&'static Fact] = &[
        &DIRTY,
        &UNPUSHED,
        &REPO_BEHIND,
        &STASHES,
        &LAST_FETCH,
        &REPO_BROKEN,
        &AHEAD,
        &BEHIND,
        &WORKTREE_DIRTY,
        &CONFLICT,
        &UNMERGED,
        &UNFINISHED,
        &BROKEN,
        &DIVERGED,
        &LOCK_AGE,
    ];
    const CHECKS: &'static [Check] = &CHECKS;
    const NEEDS: Needs = Needs {
        reads: ".git of each repository and worktree",
        fix: GIT_FIX,
        costs: "some files of .git; a tree is compared with its index once a minute, or less often if it is large; no lock, no hook",
        opens: |host| host.layout.iter().flat_map(|layout| layout.repos.values().cloned()).collect(),
    };
    type Config = Config;
    type Section = Section;

    fn new(config: Config, host: &Host, _sources: &Sources) -> Result<Option<Repos>> {
        let (Some(layout), Some(root)) = (&host.layout, &host.root) else { return Ok(None) };
        let homes = layout.repos.iter().map(|(slug, folder)| (slug.as_str().into(), home(root, slug, folder)));
        Ok(Some(Repos {
            homes: homes.collect(),
            looks: Pool::default(),
            statuses: Statuses::new(config.status_interval.0),
            memories: BTreeMap::new(),
            timeout: Repos::TIMEOUT,
        }))
    }

    fn within(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        let found = self.look(now);
        refuse_denied(&found)?;
        self.statuses.refresh(now, trees(&found, &self.homes), statuses::patience(self.timeout));
        let repos = found.iter().map(|(slug, found)| (slug.clone(), self.repo(slug, found)));
        Ok(Section { repos: repos.collect() })
    }

    fn gaps(section: &Section) -> Vec<String> {
        let trees = section.repos.iter().flat_map(|(slug, repo)| {
            let worktrees =
                repo.worktrees.iter().map(move |(name, worktree)| (format!("{slug}/{name}"), &worktree.tree));
            [(slug.to_string(), &repo.tree)].into_iter().chain(worktrees)
        });
        trees.filter_map(|(name, tree)| Some(format!("{name}: {}", tree.denied()?))).collect()
    }

    fn points(section: &Section, points: &mut Points) {
        for (slug, repo) in &section.repos {
            repo.put(slug, points);
            for (name, worktree) in &repo.worktrees {
                worktree.put(slug, name, points);
            }
        }
    }
}

fn home(root: &Path, slug: &str, folder: &Path) -> Home {
    // A name that leads elsewhere has no folder of worktrees.
    let plain = Path::new(slug).components().all(|part| matches!(part, Component::Normal(_)));
    let worktrees: Option<PathBuf> = plain.then(|| root.join("data/worktrees").join(slug));
    Home { repo: Place { folder: folder.to_owned(), common: None }, worktrees }
}

/// That we may not look at any repository is a refusal, and no state of theirs.
fn refuse_denied(found: &BTreeMap<Arc<str>, Found>) -> Result<()> {
    let error = |found: &Found| found.repo.as_ref().err().cloned().filter(|error| error.reason == Reason::Denied);
    let denied: Vec<_> = found.iter().filter_map(|(slug, found)| Some((slug, error(found)?))).collect();
    match denied.first() {
        Some((slug, error)) if denied.len() == found.len() => Err(Denied(format!("{slug}: {error}")).into()),
        _ => Ok(()),
    }
}

/// Every working tree that is listed, and where it can be asked.
fn trees(found: &BTreeMap<Arc<str>, Found>, homes: &BTreeMap<Arc<str>, Home>) -> Vec<(Key, Option<(Place, Mark)>)> {
    let mut trees = Vec::new();
    for (slug, found) in found {
        let own = found.repo.as_ref().ok();
        if !own.is_some_and(|repo| repo.bare) {
            let place = own.map(|repo| (homes[slug].repo.clone(), repo.look.mark.clone()));
            trees.push(((slug.clone(), None), place));
        }
        for (name, worktree) in &found.worktrees {
            let mark = worktree.seen.as_ref().ok().map(|seen| seen.look.mark.clone());
            trees.push(((slug.clone(), Some(name.clone())), worktree.place.clone().zip(mark)));
        }
    }
    trees
}

impl Repos {
    /// Looks at all of them, each on a thread of its own. Who answers too late is unknown this time, and the next look
    /// begins with what that one learned: it would be late for ever if it began anew.
    fn look(&mut self, now: Now) -> BTreeMap<Arc<str>, Found> {
        let late = self.looks.late();
        self.learn(&late);
        let answers = self.looks.ask(self.questions(now), patience(self.timeout));
        self.learn(&answers);
        let fresh = answers.into_iter().filter_map(|(slug, found)| Some((slug, found?)));
        let mut fresh: BTreeMap<_, _> = fresh.filter(|(_, found)| found.at == now).collect();
        let mut found = |slug: &Arc<str>| fresh.remove(slug).unwrap_or_else(|| self.unanswered(slug, now));
        self.homes.keys().map(|slug| (slug.clone(), found(slug))).collect()
    }

    fn learn(&mut self, answers: &[(Arc<str>, Option<Found>)]) {
        for (slug, found) in answers {
            if let Some(found) = found {
                self.memories.entry(slug.clone()).or_default().learn(found);
            }
        }
    }

    /// The one that was seen longest ago comes first, so that under load it is not always the same that is left out.
    fn questions(&self, now: Now) -> Vec<(Arc<str>, impl FnOnce() -> Found + Send + use<>)> {
        let mut asked: Vec<_> = self.homes.iter().map(|(slug, home)| (slug, home, self.memory(slug))).collect();
        asked.sort_by_key(|(.., memory)| memory.at);
        let question = |(slug, home, memory): (&Arc<str>, &Home, Memory)| {
            let home = home.clone();
            (slug.clone(), move || home.look(now, &memory))
        };
        asked.into_iter().map(question).collect()
    }

    fn memory(&self, slug: &Arc<str>) -> Memory {
        self.memories.get(slug).cloned().unwrap_or_default()
    }

    fn unanswered(&self, slug: &Arc<str>, now: Now) -> Found {
        let text = format!("not read within {}", Span(patience(self.timeout)));
        Found::unanswered(now, &self.memory(slug), Unreadable::unseen(text))
    }

    fn repo(&self, slug: &Arc<str>, found: &Found) -> Repo {
        let status = |worktree: Option<&Arc<str>>| self.statuses.get(&(slug.clone(), worktree.cloned()));
        let mut repo = match &found.repo {
            Ok(seen) => Repo::of(seen, status(None), found.at),
            Err(error) => Repo { tree: Tree::unreadable(error), ..Repo::default() },
        };
        if let Some(error) = &found.unlisted {
            repo.tree.note(error); // Without it a worktree could be missing without a word.
        }
        let worktree =
            |(name, seen): (&Arc<str>, &WorktreeSeen)| (name.clone(), Worktree::of(seen, status(Some(name)), found.at));
        repo.worktrees = found.worktrees.iter().map(worktree).collect();
        repo
    }
}

impl Repo {
    fn of(seen: &RepoSeen, status: Option<tree::Status<'_>>, now: Now) -> Repo {
        let mut tree = Tree::of(&seen.look, status, now);
        let compared = tree.or_note(seen.unpushed.as_ref());
        Repo {
            head_sha: seen.look.mark.head.sha,
            bare: Some(seen.bare),
            main_branch: seen.main.as_ref().map(|main| main.name.clone()),
            main_sha: seen.main.as_ref().and_then(|main| main.here),
            unpushed_commits: compared.map(|compared| compared.ahead),
            behind: compared.map(|compared| compared.behind),
            stashes: tree.or_note(Some(&seen.stashes)).copied(),
            last_fetch_at: tree.or_note(Some(&seen.last_fetch)).copied().flatten(),
            worktrees: BTreeMap::new(),
            tree,
        }
    }

    fn put(&self, slug: &Arc<str>, points: &mut Points) {
        let number = |count: Option<usize>| count.map(|count| count as f64);
        points.put(&DIRTY, [slug], tree::flag(self.tree.dirty));
        points.put(&UNPUSHED, [slug], number(self.unpushed_commits));
        points.put(&REPO_BEHIND, [slug], number(self.behind));
        points.put(&STASHES, [slug], self.stashes.map(f64::from));
        points.put(&LAST_FETCH, [slug], self.last_fetch_at.map(|at| at.as_duration().as_secs_f64()));
        points.put(&REPO_BROKEN, [slug], tree::flag(self.tree.is_broken()));
    }
}

impl Worktree {
    fn of(worktree: &WorktreeSeen, status: Option<tree::Status<'_>>, now: Now) -> Worktree {
        let locked = worktree.locked;
        match &worktree.seen {
            Err(error) => Worktree { tree: Tree::unreadable(error), locked, ..Worktree::default() },
            Ok(seen) => {
                let mut tree = Tree::of(&seen.look, status, now);
                let compared = tree.or_note(seen.compared.as_ref());
                Worktree {
                    sha: seen.look.mark.head.sha,
                    ahead: compared.map(|compared| compared.ahead),
                    behind: compared.map(|compared| compared.behind),
                    locked,
                    tree,
                }
            }
        }
    }

    fn put(&self, slug: &Arc<str>, name: &Arc<str>, points: &mut Points) {
        let number = |count: Option<usize>| count.map(|count| count as f64);
        let of = [slug, name];
        points.put(&AHEAD, of, number(self.ahead));
        points.put(&BEHIND, of, number(self.behind));
        points.put(&WORKTREE_DIRTY, of, tree::flag(self.tree.dirty));
        points.put(&CONFLICT, of, tree::flag(self.tree.conflict));
        points.put(&UNMERGED, of, self.tree.unmerged.map(f64::from));
        points.put(&UNFINISHED, of, tree::flag(self.tree.is_unfinished()));
        points.put(&BROKEN, of, tree::flag(self.tree.is_broken()));
        let diverged = self.ahead.zip(self.behind).map(|(ahead, behind)| ahead > 0 && behind > 0);
        points.put(&DIVERGED, of, tree::flag(diverged));
        points.put(&LOCK_AGE, of, self.tree.lock_age());
    }
}

#[cfg(test)]
mod tests;
