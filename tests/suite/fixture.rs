//! A pynchy host's folder in a temporary place, with a database that holds a little of everything.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agenthost_exporter::collect::Subsystem;
use agenthost_exporter::host::{self, Host};
use agenthost_exporter::sample::{Now, Sample};
use agenthost_exporter::source::Sources;
use agenthost_exporter::source::cgroup::Cgroups;
use agenthost_exporter::source::docker::Docker;
use agenthost_exporter::source::process::proc::Proc;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::fake_docker::{Fake, container};

use crate::api::Api;

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

/// The folder, which goes when this is dropped, and what the host's API says to collectors that run in the test.
pub struct Root {
    folder: tempfile::TempDir,
    api: Api,
}

impl Root {
    /// A host whose history ends at `now`. In the rows `{-90s}` stands for a moment so long before it.
    pub fn with_history(now: Timestamp) -> Root {
        let root = Root { folder: tempfile::tempdir().unwrap(), api: Api::healthy() };
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

    pub fn host(&self) -> Host {
        let (root, url) = (Some(self.path().to_owned()), Some(self.api.url.clone()));
        let config = host::Config { root, url, listed: self.listed(), ..host::Config::default() };
        host::find(&config, &Sources::default().processes, Path::new("/")).unwrap()
    }

    /// What a configuration could list of it beside what the profile knows.
    fn listed(&self) -> host::generic::Listed {
        let (url, root) = (&self.api.url, self.path().display());
        let http =
            format!("name = \"own\"\nurl = \"{url}/status\"\nvalues = {{ running = \"/queue/active_containers\" }}");
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

    /// One run of a collector at that moment, with its default configuration; workers are told what to look for, and see
    /// a `/proc` of their own.
    pub fn run(&self, subsystem: &Subsystem, now: Now) -> anyhow::Result<Sample> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let presets = toml::de::DeTable::parse("presets = [\"pi\", \"mcp\"]\nmax_rss = 100000000\n")?;
        let build = (subsystem.plan)((subsystem.name == "workers").then_some(presets))?;
        let engine = Fake::with(containers());
        let sources = Sources {
            docker: Docker::at(engine.socket()),
            cgroups: Cgroups::at("/nonexistent", "/nonexistent"),
            proc: Proc::at(&self.processes(now)?),
            ..Sources::default()
        };
        let mut collector = build(&self.host(), &sources)?.expect("a pynchy host has it");
        collector.run(now, Duration::from_secs(10), runtime.handle())
    }

    /// The host with a worker that runs a tool, one that nobody reaped, and one whose host is gone.
    fn processes(&self, now: Now) -> std::io::Result<PathBuf> {
        let folder = self.path().join("data/proc");
        if folder.exists() {
            return Ok(folder);
        }
        let started = now.mono.as_secs().saturating_sub(600) * 100;
        let boot = now.wall.as_second() - now.mono.as_secs() as i64;
        for (pid, parent, comm, state, pages) in [
            (1, 0, "init", 'S', 2000),
            (10, 1, "pynchy", 'S', 20000),
            (20, 10, "pi", 'S', 30000),
            (21, 20, "bash", 'R', 1000),
            (30, 10, "pi", 'Z', 0),
            (40, 1, "pi", 'S', 20000),
        ] {
            let own = folder.join(pid.to_string());
            std::fs::create_dir_all(own.join("fd"))?;
            // Of a corpse all threads but the first are gone.
            let threads = if state == 'Z' { 1 } else { 11 };
            let stat = format!(
                "{pid} ({comm}) {state} {parent} 1 1 0 -1 0 0 0 0 0 40 10 0 0 20 0 {threads} 0 {started} 1 {pages}"
            );
            std::fs::write(own.join("stat"), stat)?;
            std::fs::write(own.join("cmdline"), comm)?;
            std::fs::write(own.join("status"), format!("NSpid:\t{pid}\n"))?;
            std::fs::write(own.join("io"), "rchar: 1\nwchar: 1\nread_bytes: 4096\nwrite_bytes: 8192\n")?;
            let cwd = if comm == "pynchy" { self.path().canonicalize()? } else { "/srv/project".into() };
            std::os::unix::fs::symlink(cwd, own.join("cwd"))?;
        }
        std::fs::write(folder.join("stat"), format!("btime {boot}\n"))?;
        Ok(folder)
    }
}

/// An agent at work, one that was killed for memory, the gateway, and an MCP server that is down.
fn containers() -> Vec<Value> {
    let agent = |name, more| container(name, "pynchy-agent:latest", more);
    let killed = json!({"Status": "Exited (137) 2 hours ago", "State": {"Status": "exited", "ExitCode": 137,
        "OOMKilled": true, "FinishedAt": "2026-11-21T19:58:00Z"}});
    let looping = json!({"Status": "Restarting (1) 5 minutes ago", "RestartCount": 12, "State": {
        "Status": "restarting", "ExitCode": 1, "FinishedAt": "2026-11-21T19:59:00Z"}});
    vec![
        agent("pynchy-admin-1", json!({})),
        agent("pynchy-family-1795307730123", killed),
        container("pynchy-litellm", "litellm:1", json!({"State": {"Health": {"Status": "healthy"}}})),
        container("pynchy-mcp-web_0a1b2c", "web:1", looping),
        container("somebody-elses", "postgres:16", json!({})),
    ]
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
