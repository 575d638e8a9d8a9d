//! Real git repositories for the demo host, if there is a `git` command to make them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The configured repositories, and the worktrees in which agents of these groups work.
pub const REPOS: [&str; 2] = ["acme/webapp", "acme/notes"];

/// Configured and never cloned.
pub const NOT_CLONED: &str = "acme/archive";

/// Where an agent works and what it does there, one turn after another, for ever.
struct Desk {
    repo: &'static str,
    worktree: &'static str,
    turns: &'static [&'static str],
}

/// What the scripts of the desks have in common.
const WORDS: &str = r#"
otherwise() {
    git reset -q --hard "$(git rev-list --max-parents=0 main)"
    echo otherwise > index.txt; git add index.txt; git commit -qm 'Write the index otherwise'
}
fails() { if "$@" > /dev/null 2>&1; then echo "should have stopped: $*" >&2; exit 1; fi; }
"#;

/// Those beside the four that `make` tells of; each begins with its first turn.
const DESKS: &[Desk] = &[
    Desk {
        repo: REPOS[0],
        worktree: "research",
        turns: &["otherwise; fails git rebase main", "git rebase --abort", "git reset -q --hard main"],
    },
    Desk {
        repo: REPOS[1],
        worktree: "admin-1",
        turns: &[
            "git reset -q --hard main; echo tested > tested.txt; git add .; git commit -qm Test; fails git rebase -x false HEAD~1",
            "git rebase --abort",
        ],
    },
    Desk {
        repo: REPOS[0],
        worktree: "household",
        turns: &[
            "otherwise; fails git cherry-pick \"$(git rev-list main -- index.txt)\"",
            "git cherry-pick --abort; echo draft > draft.txt",
            "rm draft.txt",
        ],
    },
    Desk {
        repo: REPOS[1],
        worktree: "household",
        turns: &["git reset -q --hard main; git revert --no-commit HEAD", "git revert --abort"],
    },
    Desk {
        repo: REPOS[0],
        worktree: "notes",
        turns: &[
            "git bisect start -q main \"$(git rev-list --max-parents=0 main)\"",
            "git bisect reset > /dev/null 2>&1",
            "git checkout -q --detach main",
            "git checkout -q worktree/notes",
        ],
    },
    Desk {
        repo: REPOS[1],
        worktree: "webapp",
        turns: &[
            "echo one > index.txt; git stash -q; echo two > index.txt; git commit -qam Two; fails git stash pop",
            "git reset -q --hard main; git stash drop -q",
        ],
    },
    Desk {
        repo: REPOS[0],
        worktree: "killed",
        turns: &["touch \"$(git rev-parse --git-path index.lock)\"", "rm \"$(git rev-parse --git-path index.lock)\""],
    },
    Desk { repo: REPOS[0], worktree: "broken", turns: &["mv .git .away", "mv .away .git"] },
    Desk { repo: REPOS[1], worktree: "gone", turns: &["mv \"$DESK\" \"$AWAY\"", "mv \"$AWAY\" \"$DESK\""] },
    Desk {
        repo: REPOS[0],
        worktree: "admin-1",
        turns: &[
            "",
            "git rev-parse HEAD > page-2.txt; git add .",
            "git commit -qm 'Write another page'",
            "cd ../../../../repos/acme/webapp; git merge -q --ff-only worktree/admin-1",
            "git push -q origin main",
        ],
    },
];

/// The agents of a running demo.
pub struct Agents {
    root: PathBuf,
    turn: usize,
}

impl Agents {
    /// How long an agent looks at what it did before the next one acts.
    pub const PACE: std::time::Duration = std::time::Duration::from_secs(4);

    pub fn new(root: &Path) -> Agents {
        Agents { root: root.to_owned(), turn: DESKS.len() }
    }

    /// One desk after another takes its next turn.
    ///
    /// # Errors
    /// A command failed; the next turn is another desk's.
    pub fn work(&mut self) -> Result<()> {
        let (round, desk) = (self.turn / DESKS.len(), &DESKS[self.turn % DESKS.len()]);
        self.turn += 1;
        desk.take(&self.root, desk.turns[round % desk.turns.len()])
    }
}

impl Desk {
    fn take(&self, root: &Path, script: &str) -> Result<()> {
        let folder = root.join("data/worktrees").join(self.repo).join(self.worktree);
        // The folder may be away; the shell starts above it.
        let script = format!("{WORDS}cd \"$DESK\" 2>/dev/null || true\n{script}");
        let output = nobody("sh", root)
            .args(["-euc", &script])
            .env("DESK", &folder)
            .env("AWAY", root.join("data/away"))
            .output();
        let output = output.with_context(|| format!("run sh for {}", folder.display()))?;
        if !output.status.success() {
            bail!("{}: {}", folder.display(), String::from_utf8_lossy(&output.stderr).trim_end());
        }
        Ok(())
    }
}

/// Makes the host's own repository and `REPOS` with an origin each; false, and nothing made, without `git`.
///
/// The worktrees under `data/worktrees`: `acme/webapp/admin-1` is clean, `acme/webapp/webapp` is two commits ahead,
/// `acme/notes/research` is dirty, `acme/notes/notes` is in the middle of a merge that conflicts.
///
/// # Errors
/// `git` is there but fails.
pub fn make(root: &Path) -> Result<bool> {
    if !is_git_there() {
        return Ok(false);
    }
    make_own(root)?;
    make_webapp(&Repo::make(root, REPOS[0])?)?;
    make_notes(&Repo::make(root, REPOS[1])?)?;
    for desk in DESKS.iter().filter(|desk| !desk.turns[0].is_empty()) {
        Repo::at(root, desk.repo).worktree(desk.worktree)?;
        desk.take(root, desk.turns[0])?;
    }
    Ok(true)
}

/// The commit of the host's own repository; `None` without one.
pub fn head(root: &Path) -> Option<String> {
    let head = std::fs::read_to_string(root.join(".git/refs/heads/main")).ok()?;
    Some(head.trim_end().to_owned())
}

fn is_git_there() -> bool {
    let version = Command::new("git").arg("--version").stdin(Stdio::null()).output();
    version.is_ok_and(|output| output.status.success())
}

/// The host runs in a checkout of itself; what it keeps there is ignored.
fn make_own(root: &Path) -> Result<()> {
    git(root, &["init", "-q"])?;
    write(root, ".gitignore", "*\n!.gitignore\n!README.md\n")?;
    commit(root, "README.md", "# A host that is not real\n", "Begin")
}

fn make_webapp(repo: &Repo) -> Result<()> {
    repo.worktree("admin-1")?;
    let ahead = repo.worktree("webapp")?;
    commit(&ahead, "page.txt", "lorem\n", "Add a page")?;
    commit(&ahead, "page.txt", "lorem\nipsum\n", "Say more")
}

fn make_notes(repo: &Repo) -> Result<()> {
    let conflict = repo.worktree("notes")?;
    commit(&conflict, "README.md", "# Notes, as the agent has them\n", "Rename")?;
    commit(&repo.path, "README.md", "# Notes, as everyone has them\n", "Rename otherwise")?;
    git(&repo.path, &["push", "-q", "origin", "main"])?;
    let dirty = repo.worktree("research")?;
    write(&dirty, "README.md", "# Notes, changed and not committed\n")?;
    write(&dirty, "draft.txt", "lorem\n")?;
    let merge = run(&conflict, &["merge", "-q", "main"])?;
    if merge.status.success() {
        bail!("run git merge in {}: no conflict where there should be one", conflict.display());
    }
    Ok(())
}

/// A clone under `data/repos`, with its origin.
struct Repo {
    path: PathBuf,
    worktrees: PathBuf,
}

impl Repo {
    fn at(root: &Path, slug: &str) -> Repo {
        Repo { path: root.join("data/repos").join(slug), worktrees: root.join("data/worktrees").join(slug) }
    }

    fn make(root: &Path, slug: &str) -> Result<Repo> {
        let origin = root.join("data/origins").join(format!("{slug}.git"));
        let Repo { path, worktrees } = Repo::at(root, slug);
        for folder in [&origin, &path, &worktrees] {
            std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        }
        git(&origin, &["init", "-q", "--bare"])?;
        git(&path, &["init", "-q"])?;
        commit(&path, "README.md", "# lorem\n", "Begin")?;
        commit(&path, "index.txt", "ipsum\n", "Add an index")?;
        git(&path, &["remote", "add", "origin", &origin.to_string_lossy()])?;
        git(&path, &["push", "-q", "-u", "origin", "main"])?;
        git(&path, &["remote", "set-head", "origin", "main"])?;
        git(&path, &["fetch", "-q", "origin"])?;
        Ok(Repo { path, worktrees })
    }

    fn worktree(&self, group: &str) -> Result<PathBuf> {
        let path = self.worktrees.join(group);
        let branch = format!("worktree/{group}");
        git(
            &self.path,
            &["worktree", "add", "-q", "--no-track", "-b", &branch, &path.to_string_lossy(), "origin/main"],
        )?;
        Ok(path)
    }
}

fn write(folder: &Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

fn commit(folder: &Path, name: &str, text: &str, subject: &str) -> Result<()> {
    write(folder, name, text)?;
    git(folder, &["add", "-A"])?;
    git(folder, &["commit", "-q", "-m", subject])
}

fn git(folder: &Path, args: &[&str]) -> Result<()> {
    let output = run(folder, args)?;
    if !output.status.success() {
        bail!("run git {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

fn run(folder: &Path, args: &[&str]) -> Result<Output> {
    nobody("git", folder).args(args).output().with_context(|| format!("run git {}", args.join(" ")))
}

/// A command that runs `git` as nobody in particular: no configuration, hook or folder of whoever starts the demo has
/// a say.
fn nobody(program: &str, folder: &Path) -> Command {
    const SETTINGS: [(&str, &str); 5] = [
        ("user.name", "Demo"),
        ("user.email", "demo@example.com"),
        ("init.defaultBranch", "main"),
        ("commit.gpgsign", "false"),
        ("gc.auto", "0"),
    ];
    let mut command = Command::new(program);
    for (number, (key, value)) in SETTINGS.iter().enumerate() {
        command.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
    }
    for inherited in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"] {
        command.env_remove(inherited);
    }
    command
        .env("GIT_CONFIG_COUNT", SETTINGS.len().to_string())
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_EDITOR", "true")
        .current_dir(folder)
        .stdin(Stdio::null());
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(path: &Path) -> String {
        let output = run(path, &["status", "--porcelain=v2", "--branch"]).unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn the_four_worktrees_are_what_they_are_called() {
        let folder = tempfile::tempdir().unwrap();
        if !make(folder.path()).unwrap() {
            return crate::source::skipped("the demo's worktrees", "git is not installed");
        }
        let worktree = |name: &str| folder.path().join("data/worktrees").join(name);
        let is_changed = |line: &str| !line.starts_with('#');
        assert!(!status(&worktree("acme/webapp/admin-1")).lines().any(is_changed));
        assert!(status(&worktree("acme/webapp/webapp")).contains("# branch.head worktree/webapp"));
        let ahead = run(&worktree("acme/webapp/webapp"), &["rev-list", "--count", "origin/main..HEAD"]).unwrap();
        assert_eq!(ahead.stdout, b"2\n");
        let dirty = status(&worktree("acme/notes/research"));
        assert!(dirty.contains("1 .M ") && dirty.contains("? draft.txt"), "{dirty}");
        assert!(status(&worktree("acme/notes/notes")).lines().any(|line| line.starts_with("u UU ")));
        assert_eq!(head(folder.path()).unwrap().len(), 40);
        assert!(!status(folder.path()).lines().any(is_changed), "what the host keeps is ignored");
    }

    #[test]
    fn every_desk_takes_all_its_turns() {
        let folder = tempfile::tempdir().unwrap();
        if !make(folder.path()).unwrap() {
            return crate::source::skipped("the demo's agents", "git is not installed");
        }
        let mut agents = Agents::new(folder.path());
        let longest = DESKS.iter().map(|desk| desk.turns.len()).max().unwrap();
        for turn in 0..DESKS.len() * longest * 2 {
            agents.work().unwrap_or_else(|error| panic!("turn {turn}: {error:#}"));
        }
    }
}
