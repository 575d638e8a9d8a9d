//! Real git repositories for the demo host, if there is a `git` command to make them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

/// The configured repositories, and the worktrees in which agents of these groups work.
pub const REPOS: [&str; 2] = ["acme/webapp", "acme/notes"];

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
    fn make(root: &Path, slug: &str) -> Result<Repo> {
        let origin = root.join("data/origins").join(format!("{slug}.git"));
        let path = root.join("data/repos").join(slug);
        let worktrees = root.join("data/worktrees").join(slug);
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

/// Runs `git` as nobody in particular: no configuration, hook or folder of whoever starts the demo has a say.
fn run(folder: &Path, args: &[&str]) -> Result<Output> {
    const SETTINGS: [&str; 4] =
        ["user.name=Demo", "user.email=demo@example.com", "init.defaultBranch=main", "commit.gpgsign=false"];
    let mut command = Command::new("git");
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    for inherited in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"] {
        command.env_remove(inherited);
    }
    command
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .current_dir(folder)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("run git {}", args.join(" ")))
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
            eprintln!("SKIPPED: the demo's worktrees, because git is not installed");
            return;
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
}
