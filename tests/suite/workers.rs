//! Real worker processes beside the real binary: scripts that call themselves servers, and `pi --mode rpc` itself.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::api::{Api, Say};
use crate::binary::{exporter, get};
use crate::fixture::Root;

const SECRET: &str = "sk-test-123";
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder, this test as the host of all that it starts, and a sidecar. All of it ends with the test.
struct Stage {
    root: Root,
    children: Vec<Child>,
    /// Started by children that ended.
    others: Vec<u32>,
    address: SocketAddr,
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for &pid in &self.others {
            let _ = kill_process(raw(pid), Signal::KILL);
        }
    }
}

fn raw(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()
}

impl Stage {
    /// This test is the host, as its pid file says.
    fn new(workers: &str) -> Stage {
        Stage::beside("pid_file = \"pid\"\n", workers)
    }

    /// `ROOT` is its folder.
    fn beside(host: &str, workers: &str) -> Stage {
        let root = Root::with_history(Timestamp::now());
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut stage = Stage { root, children: Vec::new(), others: Vec::new(), address };
        let (config, log) = (stage.path("exporter.toml"), stage.path("exporter.log"));
        std::fs::write(stage.path("pid"), std::process::id().to_string()).unwrap();
        let path = |name: &str| stage.path(name).display().to_string();
        let state = format!("[state]\npath = \"{}\"\n", path("state.db"));
        let text = format!("{state}[host]\n{host}[collect.workers]\ninterval = \"1s\"\n{workers}");
        std::fs::write(&config, text.replace("ROOT", &path(""))).unwrap();
        let mut command = exporter();
        command.args(["--log.level=debug", &format!("--web.listen-address={address}")]);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--host.root={}", stage.root.path().display()));
        command.arg(format!("--state.record={}", path("record")));
        let started = command.stderr(File::create(log).unwrap()).spawn().unwrap();
        stage.children.push(started);
        stage
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A child whose input and output are pipes of ours; they close with the test.
    fn spawn(&mut self, command: &mut Command) -> (u32, ChildStdin) {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.env("API_KEY", SECRET).current_dir(self.root.path()).spawn().unwrap();
        let input = child.stdin.take().unwrap();
        self.children.push(child);
        (self.children.last().unwrap().id(), input)
    }

    fn workers(&self) -> Value {
        let Ok((_, text)) = get(self.address, "/status?section=workers") else { return Value::Null };
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Reads until each of these processes has its class; other workers of the machine are not ours to judge.
    fn until(&self, classes: &[(u32, &str)]) -> Value {
        let begun = Instant::now();
        let mut wanted: Vec<(u64, &str)> = classes.iter().map(|&(pid, class)| (pid.into(), class)).collect();
        wanted.sort_unstable();
        loop {
            let workers = self.workers();
            let workers = workers.get("workers").unwrap_or(&workers);
            let seen = workers["processes"].as_array().into_iter().flatten();
            let seen = seen.map(|one| (one["pid"].as_u64().unwrap(), one["class"].as_str().unwrap()));
            let seen: Vec<_> = seen.filter(|(pid, _)| wanted.iter().any(|(own, _)| own == pid)).collect();
            if seen == wanted {
                return workers.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "never {wanted:?}: {workers:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn says_no_secret(&self) {
        // What is kept is kept soon after it was seen.
        let begun = Instant::now();
        let kept = |name: &str| std::fs::read(self.path(name)).unwrap_or_default();
        let has = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
        let files = || ["state.db", "state.db-wal", "record"].map(kept);
        let is_kept = || files().iter().filter(|bytes| has(bytes, "worker_")).count() >= 2;
        while !is_kept() {
            assert!(begun.elapsed() < PATIENCE, "nothing is kept of workers");
            std::thread::sleep(Duration::from_millis(100));
        }
        let pages =
            ["/status", "/metrics", "/", "/status?section=workers", "/status?section=history", "/readyz?verbose"];
        let pages = pages.map(|page| get(self.address, page).unwrap().1);
        let log = kept("exporter.log");
        assert!(has(&log, "listening") && pages[1].contains("agenthost_workers{"), "{}", pages[1]);
        let files = files();
        for text in pages.iter().map(String::as_bytes).chain([&*log]).chain(files.iter().map(Vec::as_slice)) {
            assert!(!has(text, SECRET), "{}", String::from_utf8_lossy(text));
        }
    }
}

#[test]
fn command_lines_and_environments_reach_no_output_and_the_second_server_is_a_duplicate() {
    let mut stage = Stage::new("presets = [\"mcp\"]\n");
    let script = stage.path("mcp-server-x");
    std::fs::write(&script, "while read line; do :; done\n").unwrap();
    let mut serve = || {
        let mut command = Command::new("/bin/sh");
        stage.spawn(command.arg(&script).arg(format!("--token={SECRET}")))
    };
    let (first, _held) = serve();
    // Which is the older is told by start times in ticks of 10 ms.
    std::thread::sleep(Duration::from_millis(50));
    let (second, _also_held) = serve();
    // Neither is asked anything, so the newest counts as the one that is needed.
    let workers = stage.until(&[(first, "duplicate"), (second, "idle")]);
    assert_eq!(workers["host"]["pid"], std::process::id());
    stage.says_no_secret();
}

/// pi-web, as far as it is asked: this test is its process, and the API says which workers it knows.
#[test]
fn a_worker_that_pi_web_does_not_know_is_unregistered() {
    let api = Api::new();
    let port = api.url.rsplit(':').next().unwrap();
    let list = |pids: &[u32]| {
        let one = |pid: &u32| {
            json!({"session_id": "x.jsonl", "pid": pid, "state": "idle", "uptime_s": 1.5, "idle_for_s": 0.5,
                "rss_bytes": 0, "cpu_time_s": 0, "cpu_percent": 0, "sampled": false, "zombie": false})
        };
        let workers: Vec<Value> = pids.iter().map(one).collect();
        api.json("/api/metrics", json!({"process": {"pid": std::process::id(), "uptime_s": 9}, "workers": workers}));
    };
    list(&[]);
    let mut stage = Stage::beside(
        "profile = \"pi-web\"\nstate_file = \"ROOT/state.json\"\n",
        "orphan_after = \"2s\"\n[[collect.workers.rule]]\nname = \"other\"\ncomm = \"pi-other\"\n",
    );
    let state =
        json!({"pid": std::process::id(), "port": port, "host": "127.0.0.1", "startedAt": "2026-11-21T20:00:00Z"});
    std::fs::write(stage.path("state.json"), state.to_string()).unwrap();
    let mut start = |name: &str| {
        let program = stage.path(name);
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::copy("/bin/sh", &program).unwrap();
        stage.spawn(Command::new(program).args(["-c", "read x"]))
    };
    let [(known, _known), (stray, _stray), (other, _other)] = ["pi", "x/pi", "pi-other"].map(&mut start);
    list(&[known]);
    let classes = [(known, "idle"), (stray, "unregistered"), (other, "idle")];
    let workers = stage.until(&classes);
    let row = |workers: &Value, pid: u32| {
        let rows = workers["processes"].as_array().unwrap();
        let row = rows.iter().find(|row| row["pid"] == pid).unwrap();
        [&row["registered"], &row["registered_state"], &row["idle_for_s"]].map(Value::clone)
    };
    assert_eq!(row(&workers, known), [json!(true), json!("idle"), json!(0.5)]);
    assert_eq!(row(&workers, stray), [json!(false), Value::Null, Value::Null]);
    assert_eq!(row(&workers, other), [Value::Null, Value::Null, Value::Null], "pi-web lists what is pi");
    assert_eq!((&workers["registry"]["workers"], &workers["registry"]["error"]), (&json!(1), &Value::Null));
    // Other tests start some too, below the same process.
    let count = |series: &str| {
        let text = get(stage.address, "/metrics").unwrap().1;
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ').map(str::to_owned));
        line.map(|value| value.parse::<f64>().unwrap())
    };
    let [class, listed] =
        ["agenthost_workers{class=\"unregistered\",kind=\"pi\"}", "agenthost_workers_unregistered{kind=\"pi\"}"];
    // A text that is under way is of the snapshot before.
    until("both count it", || count(class) >= Some(1.0) && count(listed) >= Some(1.0));
    let health = get(stage.address, "/status?section=health").unwrap().1;
    assert!(health.contains("worker_unregistered"), "{health}");

    // It hangs: what it knows is unknown, and what is seen of processes stays as fresh as it was.
    api.say("/api/metrics", Say::Hang);
    let workers = stage.until(&[(known, "idle"), (stray, "idle"), (other, "idle")]);
    assert_eq!(row(&workers, known), [Value::Null, Value::Null, Value::Null]);
    assert!(workers["registry"]["error"].as_str().unwrap().ends_with("timed out"), "{workers}");
    assert_eq!(workers["totals"]["unregistered"], Value::Null);
    until("no series", || count(class).is_none() && count(listed).is_none());
    list(&[known, stray]);
    let taken = || row(&stage.until(&classes.map(|(pid, _)| (pid, "idle"))), stray)[0] == json!(true);
    until("taken up again", taken);
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Where `tests/run` has installed it, and the node that runs it.
fn pi() -> Option<(PathBuf, PathBuf)> {
    let folder = PathBuf::from(std::env::var_os("AGENTHOST_PI")?);
    let package = folder.join("node_modules/@mariozechner/pi-coding-agent/dist/cli.js");
    let own = folder.join("node_modules/node-bin/bin/node");
    let node = if own.is_file() { own } else { PathBuf::from("node") };
    package.is_file().then_some((node, package))
}

/// A worker as a host starts it, in a home of its own, without a network to ask.
fn rpc(node: &Path, package: &Path, home: &Path) -> Command {
    let mut command = Command::new(node);
    command.arg(package).args(["--mode", "rpc", "--append-system-prompt", SECRET]);
    command.env("HOME", home).env("PI_CODING_AGENT_DIR", home.join("agent")).env("PI_SKIP_VERSION_CHECK", "1");
    command.env("PI_OFFLINE", "1");
    command
}

#[test]
fn real_pi_workers_are_found_and_classified() {
    let Some((node, package)) = pi() else {
        return crate::skipped("real pi workers", "AGENTHOST_PI names no folder in which tests/run installed pi");
    };
    let mut stage = Stage::new("presets = [\"pi\"]\norphan_after = \"5s\"\nleaked_after = \"20s\"\n");
    let home = stage.path("home");
    std::fs::create_dir(&home).unwrap();
    let mut start = || stage.spawn(&mut rpc(&node, &package, &home));
    let [(one, _one), (two, mut asked), (three, _three)] = [start(), start(), start()];
    // The shell ends at once, and we hold the input of what it started.
    let line = rpc(&node, &package, &home);
    let words: Vec<String> =
        [line.get_program()].into_iter().chain(line.get_args()).map(|word| format!("'{}'", word.display())).collect();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("exec 3<&0; {} <&3 3<&- & echo $!", words.join(" "))]);
    line.get_envs().for_each(|(key, value)| _ = shell.env(key, value.unwrap_or_default()));
    let (_, _held) = stage.spawn(&mut shell);
    let mut pid = String::new();
    let shell = stage.children.last_mut().unwrap();
    BufReader::new(shell.stdout.take().unwrap()).read_line(&mut pid).unwrap();
    shell.wait().unwrap();
    let orphan: u32 = pid.trim().parse().unwrap();
    stage.others.push(orphan);
    for child in &mut stage.children[1..] {
        let output = child.stdout.take();
        std::thread::spawn(move || output.map(|mut output| output.read_to_end(&mut Vec::new())));
    }

    // Starting is work, and then there is none.
    stage.until(&[(one, "idle"), (two, "idle"), (three, "idle"), (orphan, "orphan")]);
    let workers = stage.until(&[(one, "leaked"), (two, "leaked"), (three, "leaked"), (orphan, "orphan")]);
    let row = workers["processes"].as_array().unwrap().iter().find(|row| row["pid"] == one).unwrap();
    assert!(row["rss_bytes"].as_u64().unwrap() > 50_000_000 && row["threads"].as_u64().unwrap() > 5, "{row}");
    assert!(row["fds"].as_u64().unwrap() > 10 && row["cpu_seconds"].as_f64().unwrap() > 0.1, "{row}");
    assert_eq!((&row["kind"], &row["children"], &row["session"]), (&"pi".into(), &0.into(), &Value::Null));

    // Killed, and nobody reaps it while this test runs; another is asked without pause.
    kill_process(raw(one), Signal::KILL).unwrap();
    let asks = std::thread::spawn(move || {
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) && asked.write_all(b"{\"type\":\"get_state\"}\n").is_ok() {}
        asked
    });
    let workers = stage.until(&[(one, "zombie"), (two, "busy"), (three, "leaked"), (orphan, "orphan")]);
    assert!(workers["kinds"]["pi"]["exits_total"].as_u64() >= Some(1), "{workers:#}");
    stage.says_no_secret();
    drop(asks.join());
}

#[test]
fn the_demo_has_workers_of_every_class_and_takes_them_along() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("exporter.toml");
    std::fs::write(&config, "[collect.workers]\ninterval = \"1s\"\n").unwrap();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut command = exporter();
    command.arg(format!("--config.file={}", config.display())).arg(format!("--web.listen-address={address}"));
    command.arg("demo").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut demo = Ended(command.spawn().unwrap());
    let begun = Instant::now();
    let mut seen = std::collections::BTreeSet::new();
    let mut pids = std::collections::BTreeSet::new();
    let of_ours = |pid: &u64| parents(*pid).contains(&u64::from(demo.0.id()));
    let classes = ["busy", "duplicate", "idle", "leaked", "orphan", "unregistered", "zombie"];
    while !classes.iter().all(|class| seen.contains(*class)) {
        assert!(begun.elapsed() < PATIENCE, "only {seen:?}");
        std::thread::sleep(Duration::from_millis(500));
        let Ok((_, text)) = get(address, "/status?section=workers") else { continue };
        let Ok(status) = serde_json::from_str::<Value>(&text) else { continue };
        let workers = status.get("workers").unwrap_or(&status);
        for one in workers["processes"].as_array().into_iter().flatten() {
            seen.insert(one["class"].as_str().unwrap().to_owned());
            pids.extend(one["pid"].as_u64().filter(of_ours));
        }
    }
    assert!(pids.len() >= 6, "{pids:?}");
    kill_process(raw(demo.0.id()), Signal::TERM).unwrap();
    demo.0.wait().unwrap();
    let begun = Instant::now();
    while pids.iter().any(|pid| Path::new(&format!("/proc/{pid}/exe")).exists()) {
        assert!(begun.elapsed() < Duration::from_secs(20), "some live on: {pids:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// The pids above a process.
fn parents(pid: u64) -> Vec<u64> {
    let parent = |pid: &u64| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    std::iter::successors(Some(pid), parent).collect()
}

/// A child that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
