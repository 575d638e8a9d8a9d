//! Hosts that can be broken and mended, each with a sidecar beside it. Files, git, SQLite, processes and containers are
//! real; what the host and its gateway say of themselves is ours, for that must misbehave.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agenthost_exporter::collect;
use agenthost_exporter::pulse;
use jiff::Timestamp;
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::stage::MINUTE;
use crate::api::{Api, Say};
use crate::binary::{Sidecar, exporter};
use crate::fixture::{Root, stamped};

pub const CHANNEL: &str = "connection.slack.acme";

/// Checks that may be bad for hours keep that, but for these: nobody breaks what the others are about.
const SLOW: [&str; 1] = ["deploy_drift"];
const HALF_AN_HOUR: Duration = Duration::from_secs(30 * 60);

/// Tables of the configuration, and keys to stand in each: collectors and checks by their names, and "" for whole tables.
pub type Tables = Vec<(&'static str, String)>;

/// What a person would write: everything looks each second, with these tables and keys beside; and every policy has its
/// minutes made shorter, though none may last longer than five.
fn config(host: &str, more: &Tables) -> String {
    let keys = |name: &str| more.iter().find(|(table, _)| *table == name).map_or("", |(_, keys)| &**keys);
    let table = |name| format!("[collect.{name}]\ninterval = \"1s\"\n{}\n", keys(name));
    let listed = ["http", "sql", "heartbeat"]; // of which each entry has its own pace
    let paced = collect::ALL.iter().map(|one| one.name).filter(|name| !listed.contains(name));
    let collectors: String = paced.map(table).collect();
    let checks = pulse::CHECKS.iter().chain(collect::ALL.iter().flat_map(|one| one.checks));
    let soon = checks.filter(|check| check.fail_for <= HALF_AN_HOUR || SLOW.contains(&check.name));
    let policy = soon.map(|check| {
        let fail_for = (check.fail_for / 60 * MINUTE.as_secs() as u32).min(MINUTE * 5).as_secs();
        let [recover, unknown] = [MINUTE, MINUTE * 5].map(|span| span.as_secs());
        let own = keys(check.name);
        format!(
            "[checks.{}]\nfail_for = \"{fail_for}s\"\nrecover_for = \"{recover}s\"\nunknown_for = \"{unknown}s\"\n{own}\n",
            check.name
        )
    });
    format!("{}\n[host]\n{host}\n{collectors}{}", keys(""), policy.collect::<String>())
}

/// A sidecar at an address of its own, which no other test is given while it is down.
pub struct Watcher {
    pub name: &'static str,
    pub address: SocketAddr,
    root: PathBuf,
    file: PathBuf,
    sidecar: Option<Sidecar>,
}

impl Watcher {
    pub fn start(name: &'static str, number: u8, root: &Path, host: &str, more: &Tables) -> Watcher {
        let address = std::net::TcpListener::bind((format!("127.78.0.{number}"), 0)).unwrap().local_addr().unwrap();
        let file = root.join(format!("exporter-{name}.toml"));
        fs::write(&file, config(host, more)).unwrap();
        let checked = exporter().arg(format!("--config.file={}", file.display())).args(["config", "check"]).output();
        let checked = checked.unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
        let mut watcher = Watcher { name, address, root: root.to_owned(), file, sidecar: None };
        watcher.start_again();
        watcher
    }

    pub fn start_again(&mut self) {
        let flags = [format!("--web.listen-address={}", self.address), format!("--host.root={}", self.root.display())];
        self.sidecar = Some(Sidecar::spawn_at(exporter(), &self.file, flags));
    }

    pub fn stop(&mut self) {
        assert!(self.sidecar.take().unwrap().terminate().success());
    }

    pub fn target(&self) -> (&'static str, SocketAddr) {
        (self.name, self.address)
    }

    /// It takes up another configuration, or refuses it.
    pub fn reload(&self, host: &str, more: &Tables) {
        self.reload_text(&config(host, more));
    }

    pub fn reload_text(&self, text: &str) {
        fs::write(&self.file, text).unwrap();
        kill_process(Pid::from_child(&self.sidecar().child), Signal::HUP).unwrap();
    }

    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.sidecar().until_patiently(what, wanted)
    }

    fn sidecar(&self) -> &Sidecar {
        self.sidecar.as_ref().unwrap()
    }
}

/// A pynchy's folder, and what it says.
pub struct Host {
    pub root: Root,
    pub api: Api,
}

impl Host {
    /// Its history has a little of everything; all of it is mended.
    pub fn well() -> Host {
        let host = Host { root: Root::with_history(Timestamp::now()), api: Api::healthy() };
        host.sql(
            "UPDATE scheduled_tasks SET next_run = '{+2h}' WHERE status = 'active';
                  UPDATE task_run_logs SET status = 'success', error = NULL;
                  DELETE FROM messages WHERE id = 'f1'",
        );
        host.mend_rows();
        host
    }

    /// The same with repositories, all of them clean, and at the commit that was deployed.
    pub fn with_repos() -> Host {
        let host = Host::well();
        let host = Host { root: host.root.with_repos(), ..host };
        let config = "[server]\nport = 1\n[repos.\"acme/web\"]\n[repos.\"acme/tools\"]\n";
        fs::write(host.root.path().join("config.toml"), config).unwrap();
        host.sh("git init -q -b main data/repos/acme/tools
                 cd data/repos/acme/tools; git commit -q --allow-empty -m begin");
        host.mend_worktrees();
        host.mend_rows();
        host
    }

    /// The line of `[host]` that names its API.
    pub fn said(&self) -> String {
        format!("url = \"{}\"", self.api.url)
    }

    pub fn sql(&self, rows: &str) {
        let database = Connection::open(self.root.database()).unwrap();
        database.busy_timeout(Duration::from_secs(60)).unwrap();
        database.execute_batch(&stamped(rows, Timestamp::now())).unwrap();
    }

    fn sh(&self, script: &str) -> String {
        let mut shell = Command::new("sh");
        for name in ["AUTHOR", "COMMITTER"] {
            shell.env(format!("GIT_{name}_NAME"), "Test").env(format!("GIT_{name}_EMAIL"), "test@example.com");
        }
        shell.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        let done = shell.args(["-euc", script]).current_dir(self.root.path()).output().unwrap();
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    pub fn break_task(&self) {
        self.sql("UPDATE scheduled_tasks SET next_run = '{-10m}' WHERE id = 'task-2'");
    }

    pub fn mend_task(&self) {
        self.sql("UPDATE scheduled_tasks SET next_run = '{+2h}' WHERE id = 'task-2'");
    }

    /// A task and a job are late, two channels deliver nothing, somebody waits for an answer, and other code was deployed.
    pub fn break_rows(&self) {
        self.break_task();
        self.sql("UPDATE host_jobs SET next_run = '{-5h}' WHERE name = 'sync';
                  INSERT INTO outbound_ledger (chat_jid, content, timestamp, source) VALUES
                      ('slack:C1', 'answer', '{-20m}', 'agent'), ('100@g.us', 'answer', '{-20m}', 'agent');
                  INSERT INTO outbound_deliveries (ledger_id, channel_name, error)
                      SELECT id, 'connection.slack.acme', NULL FROM outbound_ledger WHERE id > 3 AND chat_jid = 'slack:C1';
                  INSERT INTO outbound_deliveries (ledger_id, channel_name, error)
                      SELECT id, 'connection.whatsapp.personal', 'secret' FROM outbound_ledger
                      WHERE id > 3 AND chat_jid = '100@g.us';
                  UPDATE router_state SET value = '{\"slack:C1\": \"{-2h}\", \"slack:C2\": \"{+0s}\"}'
                      WHERE key = 'last_agent_timestamp';
                  UPDATE router_state SET value = 'ffffffffffffffffffffffffffffffffffffffff' WHERE key = 'last_deploy_sha'");
    }

    pub fn mend_rows(&self) {
        self.mend_task();
        self.sql(
            "UPDATE host_jobs SET next_run = '{+7h}';
                  DELETE FROM outbound_deliveries WHERE ledger_id > 3;
                  DELETE FROM outbound_ledger WHERE id > 3;
                  UPDATE outbound_deliveries SET delivered_at = '{-10s}', error = NULL;
                  UPDATE router_state SET value = '{\"slack:C1\": \"{+0s}\", \"slack:C2\": \"{+0s}\"}'
                      WHERE key = 'last_agent_timestamp'",
        );
        if self.root.path().join(".git").exists() {
            let head = self.sh("git rev-parse HEAD");
            self.sql(&format!("UPDATE router_state SET value = '{head}' WHERE key = 'last_deploy_sha'"));
        }
    }

    /// Six runs of a task, all of them so.
    pub fn ran(&self, status: &str) {
        let rows = (1..7).map(|minute| format!("('task-1', '{{-{minute}s}}', 10, '{status}')")).collect::<Vec<_>>();
        self.sql(&format!(
            "INSERT INTO task_run_logs (task_id, run_at, duration_ms, status) VALUES {}",
            rows.join(", ")
        ));
    }

    /// The collector of groups reads this table, and no other does.
    pub fn lose_sessions(&self) {
        self.sql("ALTER TABLE sessions RENAME TO sessions_lost");
    }

    pub fn find_sessions(&self) {
        self.sql("ALTER TABLE sessions_lost RENAME TO sessions");
    }

    pub fn break_worktrees(&self) {
        self.sh("cd data/worktrees/acme/web; mkdir research; cd family; git merge -q main && exit 1 || true");
    }

    pub fn mend_worktrees(&self) {
        self.sh("cd data/worktrees/acme/web; rmdir research; cd family; git merge --abort");
    }

    pub fn lose_repo(&self) {
        self.sh("cd data/repos/acme; mv tools lost");
    }

    pub fn find_repo(&self) {
        self.sh("cd data/repos/acme; mv lost tools");
    }

    pub fn connected(&self, connected: bool) {
        self.says("channels", CHANNEL, json!(connected));
    }

    /// More groups want an agent than may have one.
    pub fn saturated(&self, saturated: bool) {
        let (active, waiting) = if saturated { (5, 2) } else { (1, 0) };
        self.says("queue", "active_containers", json!(active));
        self.says("queue", "groups_waiting", json!(waiting));
    }

    fn says(&self, table: &str, key: &str, value: Value) {
        let mut status: Value = serde_json::from_str(&self.api.said("/status")).unwrap();
        status[table][key] = value;
        self.api.json("/status", status);
    }
}

/// A LiteLLM that is as it is told to be, and looks at its models by itself.
pub struct Gateway {
    pub api: Api,
}

impl Gateway {
    pub fn well() -> Gateway {
        let gateway = Gateway { api: Api::new() };
        gateway.answers(true);
        gateway.ready(true);
        gateway.models(true);
        gateway.api.json("/v1/models", json!({"data": [{"id": "fast"}]}));
        gateway.api.json("/model/info", json!({"data": [{"model_name": "fast", "model_info": {"id": "1"}}]}));
        gateway
    }

    pub fn answers(&self, answers: bool) {
        let say = if answers { Say::Json("\"I'm alive!\"".into()) } else { Say::Hang };
        self.api.say("/health/liveliness", say);
    }

    pub fn ready(&self, ready: bool) {
        let (code, database) = if ready { (200, "connected") } else { (503, "disconnected") };
        let body = json!({"status": "healthy", "db": database}).to_string();
        self.api.say("/health/readiness", Say::Answer(code, "application/json", body));
    }

    pub fn models(&self, healthy: bool) {
        let (well, ill) = if healthy { (1, 0) } else { (0, 1) };
        let one = json!([{"model": "openai/fast", "model_id": "1"}]);
        let [healthy, unhealthy] = [well, ill].map(|count| if count == 1 { one.clone() } else { json!([]) });
        self.api.json(
            "/health",
            json!({"healthy_endpoints": healthy, "unhealthy_endpoints": unhealthy, "healthy_count": well,
                "unhealthy_count": ill}),
        );
    }

    /// The keys of `[collect.gateway]`; that the key stands in this folder.
    pub fn said(&self, folder: &Path) -> String {
        let key = folder.join("exporter-key");
        fs::write(&key, "sk-of-the-test").unwrap();
        format!(
            "kind = \"litellm\"\nurl = \"{}\"\nkey_file = \"{}\"\nactive_health = \"background\"",
            self.api.url,
            key.display()
        )
    }
}

/// Workers of this test, which is their host. Each kind is a program of its own name; all end with it.
pub struct Crew {
    folder: PathBuf,
    children: Vec<Child>,
    /// Started by children that ended.
    lost: Vec<u32>,
}

/// What a worker of the crew may be called.
pub const KINDS: [&str; 4] = ["crew-leaks", "crew-dies", "crew-lost", "crew-fails"];

impl Crew {
    pub fn new(folder: &Path) -> Crew {
        for kind in KINDS {
            fs::copy("/bin/sh", folder.join(kind)).unwrap();
        }
        Crew { folder: folder.to_owned(), children: Vec::new(), lost: Vec::new() }
    }

    /// The keys of `[collect.workers]`.
    pub fn said() -> String {
        let rule = |kind: &&str| format!("[[collect.workers.rule]]\nname = \"{kind}\"\ncomm = \"{kind}\"\n");
        format!(
            "presets = []\norphan_after = \"2s\"\nleaked_after = \"2s\"\n{}",
            KINDS.iter().map(rule).collect::<String>()
        )
    }

    /// It waits until its input ends, which is with the test.
    fn start(&self, kind: &str) -> Child {
        let mut worker = Command::new(self.folder.join(kind));
        worker.args(["-c", "read x"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        worker.spawn().unwrap()
    }

    /// One idles, one has ended and is not reaped, one has lost its host.
    pub fn break_three(&mut self) {
        let leaks = self.start("crew-leaks");
        let mut dies = self.start("crew-dies");
        dies.kill().unwrap();
        self.children.extend([leaks, dies]);
        let worker = self.folder.join("crew-lost").display().to_string();
        // The input of what is left behind is held open by a reader of a pipe that nobody writes to.
        let pipe = self.folder.join("pipe").display().to_string();
        let script = format!("mkfifo '{pipe}'; '{worker}' -c 'read x' <>'{pipe}' >/dev/null 2>&1 & echo $!");
        let left = Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        self.lost.push(String::from_utf8(left.stdout).unwrap().trim().parse().unwrap());
    }

    /// One that ends as soon as it was seen.
    pub fn fail_once(&mut self, watcher: &Watcher) {
        let spawned =
            |status: &Value| status["workers"]["kinds"]["crew-fails"]["spawns_total"].as_u64().unwrap_or_default();
        let before = spawned(&watcher.until("workers", |status| status["workers"].is_object()));
        let mut worker = self.start("crew-fails");
        watcher.until("one more worker", |status| spawned(status) > before);
        worker.kill().unwrap();
        worker.wait().unwrap();
    }

    pub fn mend(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.clear();
        for pid in self.lost.drain(..) {
            let _ = kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), Signal::KILL);
        }
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.mend();
    }
}

/// How long a thing took.
pub fn timed(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}
