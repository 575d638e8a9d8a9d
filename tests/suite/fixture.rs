//! A pynchy host's folder in a temporary place, with a database that holds a little of everything.

use std::path::Path;

use agenthost_exporter::host::{self, Host};
use agenthost_exporter::source::Sources;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;

const SCHEMA: &str = include_str!("../../src/tool/demo/pynchy.sql");
const ROWS: &str = include_str!("../fixtures/history.sql");

const REPOS: &str = r#"
git init -q -b main .; printf '/data\n/exporter*\n' > .gitignore; git add .; git commit -qm 'Begin the host'
git init -q --bare -b main data/origin.git
git init -q -b main data/repos/acme/web; cd data/repos/acme/web
echo one > a.txt; git add .; git commit -qm base
git remote add origin "$PWD/../../../origin.git"; git push -q origin main; git remote set-head origin main
git fetch -q; touch -d 2026-11-21T19:00:00Z .git/FETCH_HEAD
git worktree add -q --no-track -b worktree/admin-1 ../../../worktrees/acme/web/admin-1
git worktree add -q --no-track -b worktree/family ../../../worktrees/acme/web/family
echo main > a.txt; git commit -qam main
cd ../../../worktrees/acme/web
mkdir research
cd admin-1; echo more > b.txt; git add .; git commit -qm more; echo new > c.txt
cd ../family; echo mine > a.txt; git commit -qam mine; git merge -q main >/dev/null 2>&1 || true
"#;

/// The folder, which goes when this is dropped.
pub struct Root {
    folder: tempfile::TempDir,
}

impl Root {
    /// A host whose history ends at `now`. In the rows `{-90s}` stands for a moment so long before it.
    pub fn with_history(now: Timestamp) -> Root {
        let root = Root { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(root.path().join("data")).unwrap();
        std::fs::write(root.path().join("config.toml"), "[server]\nport = 1\n").unwrap();
        let database = Connection::open(root.database()).unwrap();
        database.execute_batch(SCHEMA).unwrap();
        database.execute_batch(&stamped(ROWS, now)).unwrap();
        let beat = std::fs::File::create(root.path().join("data/heartbeat")).unwrap();
        beat.set_modified((now - SignedDuration::from_secs(90)).into()).unwrap();
        root
    }

    /// Makes it a checkout, with one repository and three worktrees: ahead and dirty, in conflict, broken. Their
    /// commits are the same each time.
    pub fn with_repos(self) -> Root {
        std::fs::write(self.path().join("config.toml"), "[server]\nport = 1\n[repos.\"acme/web\"]\n").unwrap();
        let mut git = std::process::Command::new("sh");
        for (key, value) in [
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_AUTHOR_NAME", "Test"),
            ("GIT_AUTHOR_EMAIL", "test@example.com"),
            ("GIT_AUTHOR_DATE", "2026-11-20T12:00:00Z"),
            ("GIT_COMMITTER_NAME", "Test"),
            ("GIT_COMMITTER_EMAIL", "test@example.com"),
            ("GIT_COMMITTER_DATE", "2026-11-20T12:00:00Z"),
        ] {
            git.env(key, value);
        }
        let made = git.args(["-euc", REPOS]).current_dir(self.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        self
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn database(&self) -> std::path::PathBuf {
        self.path().join("data/messages.db")
    }
}

/// The pynchy of this folder, whose API is there, with what a configuration could list of it beside what the profile knows.
pub fn host_in(root: &Path, url: &str) -> Host {
    let config = host::Config {
        root: Some(root.to_owned()),
        url: Some(url.to_owned()),
        listed: listed(root, url),
        ..host::Config::default()
    };
    host::find(&config, &Sources::default().processes, Path::new("/")).unwrap()
}

fn listed(root: &Path, url: &str) -> host::generic::Listed {
    let root = root.display();
    let http = format!("name = \"own\"\nurl = \"{url}/status\"\nvalues = {{ running = \"/queue/active_containers\" }}");
    let sql = format!(
        "name = \"groups\"\ndatabase = \"{root}/data/messages.db\"\n\
         query = \"SELECT count(*) AS registered FROM registered_groups\""
    );
    let heartbeat = format!("name = \"data\"\npath = \"{root}/data/heartbeat\"\nmax_age = \"1m\"");
    host::generic::Listed {
        http: vec![toml::from_str(&http).unwrap()],
        sql: vec![toml::from_str(&sql).unwrap()],
        heartbeat: vec![toml::from_str(&heartbeat).unwrap()],
    }
}

/// Replaces `{-90s}` and `{+2h}` by moments as the host writes them.
pub fn stamped(rows: &str, now: Timestamp) -> String {
    let mut parts = rows.split('{');
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        match part.split_once('}').and_then(|(span, rest)| Some((moment(span, now)?, rest))) {
            Some((moment, rest)) => text.push_str(&(moment + rest)),
            None => text.push_str(&format!("{{{part}")),
        }
    }
    text
}

fn moment(span: &str, now: Timestamp) -> Option<String> {
    let sign = match span.chars().next()? {
        '-' => -1,
        '+' => 1,
        _ => return None,
    };
    let span: SignedDuration = span[1..].parse().ok()?;
    Some((now + span * sign).strftime("%Y-%m-%dT%H:%M:%S.%6f+00:00").to_string())
}
