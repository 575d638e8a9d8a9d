//! A pynchy host's folder with repositories and worktrees, made by the git command line, and the collector that looks at them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use agenthost_exporter::collect::{self, Collect, Subsystem};
use agenthost_exporter::host::{self, Host};
use agenthost_exporter::source::Sources;

/// A pynchy host's folder with repositories, as the host itself would lay them out.
pub struct Ground {
    _folder: tempfile::TempDir,
    pub root: PathBuf,
}

/// What all states begin with: `base`, `main` one commit further, and origin knows both.
pub const SEED: &str = r#"
git init -q --bare -b main ../../origins/$NAME.git
git init -q -b main .
echo '*.log' > .gitignore; echo one > a.txt; echo two > b.txt; mkdir dir; echo three > dir/c.txt
printf '#!/bin/sh\n' > run.sh; ln -s a.txt link
git add .; git commit -qm base; git tag base
echo main > a.txt; git commit -qam main
git remote add origin "$PWD/../../origins/$NAME.git"; git push -q origin main; git remote set-head origin main
"#;

/// Words of the scripts below. `tree` makes a worktree on a branch of its own, one commit behind main.
const WORDS: &str = r#"
mine() { echo mine > a.txt; git commit -qam "${1:-mine}"; }
more() { echo "$1" > "$1.txt"; git add "$1.txt"; git commit -qm "$1"; }
fails() { if "$@" >/dev/null 2>&1; then echo "should have failed: $*" >&2; exit 9; fi; }
"#;

/// Runs a script with git set up as nobody's; fails loudly.
pub fn sh(folder: &Path, script: &str) {
    let output = shell(folder, script);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "in {}: {script}\n{said}", folder.display());
}

pub fn shell(folder: &Path, script: &str) -> Output {
    let name = folder.file_name().unwrap().to_str().unwrap_or("");
    isolated("sh").args(["-euc", &format!("{WORDS}{script}")]).current_dir(folder).env("NAME", name).output().unwrap()
}

pub fn isolated(program: &str) -> Command {
    let mut command = Command::new(program);
    for inherited in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"] {
        command.env_remove(inherited);
    }
    for (number, (key, value)) in [
        ("user.name", "Test"),
        ("user.email", "test@example.com"),
        ("commit.gpgsign", "false"),
        ("protocol.file.allow", "always"),
        ("advice.detachedHead", "false"),
        ("gc.auto", "0"),
    ]
    .iter()
    .enumerate()
    {
        command.env(format!("GIT_CONFIG_KEY_{number}"), key).env(format!("GIT_CONFIG_VALUE_{number}"), value);
    }
    command.env("GIT_CONFIG_COUNT", "6").env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    command.env("GIT_EDITOR", "true").env("GIT_SEQUENCE_EDITOR", "true").stdin(Stdio::null());
    command
}

impl Ground {
    pub fn new(repos: &[&str]) -> Ground {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        for name in ["data/repos/acme", "data/repos/origins", "data/worktrees/acme"] {
            std::fs::create_dir_all(root.join(name)).unwrap();
        }
        let tables: String = repos.iter().map(|repo| format!("[repos.\"acme/{repo}\"]\n")).collect();
        std::fs::write(root.join("config.toml"), format!("[server]\nport = 1\n{tables}")).unwrap();
        std::fs::create_dir_all(root.join("data/repos/origins")).unwrap();
        Ground { _folder: folder, root }
    }

    /// One that is seeded.
    pub fn seeded() -> Ground {
        let ground = Ground::new(&["web"]);
        ground.seed("web");
        ground
    }

    pub fn repo(&self, name: &str) -> PathBuf {
        self.root.join("data/repos/acme").join(name)
    }

    pub fn seed(&self, name: &str) {
        std::fs::create_dir_all(self.repo(name)).unwrap();
        sh(&self.repo(name), SEED);
    }

    pub fn tree(&self, name: &str) -> PathBuf {
        self.root.join("data/worktrees/acme/web").join(name)
    }

    /// A worktree of `acme/web` on a branch of its own, from `base`, and what the script makes of it.
    pub fn make(&self, name: &str, script: &str) {
        let path = self.tree(name);
        let add = format!("git worktree add -q --no-track -b 'worktree/{name}' '{}' base", path.display());
        sh(&self.repo("web"), &add);
        sh(&path, script);
    }
}

/// The pynchy of this folder.
pub fn host_in(root: &Path) -> Host {
    let config = host::Config { root: Some(root.to_owned()), ..host::Config::default() };
    host::find(&config, &Sources::default().processes, Path::new("/")).unwrap()
}

/// One that takes statuses as often as it looks.
pub fn fast_collector(root: &Path) -> Box<dyn Collect> {
    let table = toml::de::DeTable::parse("status_interval = \"0s\"").unwrap();
    let build = (subsystem("repos").plan)(Some(table)).unwrap();
    build(&host_in(root), &Sources::default()).unwrap().unwrap()
}

pub fn subsystem(name: &str) -> &'static Subsystem {
    collect::ALL.iter().find(|one| one.name == name).unwrap()
}

/// Every file below a folder, with its time, its length, and its inode.
pub fn listing(folder: &Path) -> BTreeMap<PathBuf, (i64, i64, u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let data = entry.path().symlink_metadata().unwrap();
        files.insert(entry.path(), (data.mtime(), data.mtime_nsec(), data.len(), data.ino()));
        if data.is_dir() {
            files.extend(listing(&entry.path()));
        }
    }
    files
}
