//! Real worker processes beside the real binary: scripts that call themselves servers, and `pi --mode rpc` itself.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

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
    fn new(workers: &str) -> Stage {
        let root = Root::with_history(Timestamp::now());
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let mut stage = Stage { root, children: Vec::new(), others: Vec::new(), address };
        let (config, log) = (stage.path("exporter.toml"), stage.path("exporter.log"));
        std::fs::write(stage.path("pid"), std::process::id().to_string()).unwrap();
        let host = "[host]\npid_file = \"pid\"\n[collect.workers]\ninterval = \"1s\"\n";
        std::fs::write(&config, format!("{host}{workers}")).unwrap();
        let mut command = exporter();
        command.args(["--log.level=debug", &format!("--web.listen-address={address}")]);
        command.arg(format!("--config.file={}", config.display()));
        command.arg(format!("--host.root={}", stage.root.path().display()));
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
        let log = std::fs::read_to_string(self.path("exporter.log")).unwrap();
        let pages = ["/status", "/metrics", "/", "/status?section=workers", "/readyz?verbose"];
        let pages = pages.map(|page| get(self.address, page).unwrap().1);
        assert!(log.contains("listening") && pages[1].contains("agenthost_workers{"), "{}", pages[1]);
        for text in pages.iter().chain([&log]) {
            assert!(!text.contains(SECRET), "{text}");
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
    let workers = stage.until(&[(first, "idle"), (second, "duplicate")]);
    assert_eq!(workers["host"]["pid"], std::process::id());
    stage.says_no_secret();
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
    let classes = ["busy", "duplicate", "idle", "leaked", "orphan", "zombie"];
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
