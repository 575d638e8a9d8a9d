//! A sidecar that is started by hand: under any limit, with any standard error, at an address that stays its own.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agenthost_exporter::{collect, pulse};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::api::Api;
use crate::fixture::Root;
use crate::gate::Gate;
use crate::vitals::Vitals;

pub const PATIENCE: Duration = Duration::from_secs(120);

/// So much quicker is everything than as it is delivered: what looks every 15 s looks each second, the shortest that there
/// is, and what may be bad for two minutes may be so for eight seconds.
pub const QUICKER: u32 = 15;

/// A configuration by which everything is so much quicker, but for time-outs: a busy machine needs them. `more` are keys to stand in tables of collectors and checks.
pub fn quick(more: &[(&str, &str)]) -> String {
    let keys = |name: &str| more.iter().find(|(table, _)| *table == name).map_or("", |(_, keys)| keys);
    let listed = ["http", "sql", "heartbeat"]; // of which each entry has its own pace
    let paced = collect::ALL.iter().map(|one| one.name).filter(|name| !listed.contains(name));
    let collectors =
        paced.map(|name| format!("[collect.{name}]\ninterval = \"1s\"\ntimeout = \"3s\"\n{}\n", keys(name)));
    let checks = pulse::CHECKS.iter().chain(collect::ALL.iter().flat_map(|one| one.checks));
    let policies = checks.map(|check| {
        let fail_for = (check.fail_for / QUICKER).as_secs();
        format!(
            "[checks.{}]\nfail_for = \"{fail_for}s\"\nrecover_for = \"4s\"\nratio_window = \"40s\"\nunknown_for = \"20s\"\n{}\n",
            check.name,
            keys(check.name)
        )
    });
    format!("{}\n{}{}", keys(""), collectors.collect::<String>(), policies.collect::<String>())
}

/// Whether everything is to be as long as it takes.
pub fn is_long() -> bool {
    std::env::var("AGENTHOST_TESTS").is_ok_and(|tests| tests == "long")
}

/// For what measures, or is so much that it would disturb what does.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whoever says nothing of Docker has none.
const NO_DOCKER: [(&str, &str); 2] = [("containers", "enabled = false"), ("mcp", "enabled = false")];

/// A host that is well, and the files of a sidecar beside it.
pub struct Lab {
    pub root: Root,
    pub api: Api,
    /// Before the API: held, the host is silent.
    pub gate: Gate,
    url: String,
    /// Of the sidecar's own files.
    pub folder: tempfile::TempDir,
    /// No other test is given its port while the sidecar is down.
    pub address: SocketAddr,
}

impl Lab {
    /// `number` is of this lab alone.
    pub fn new(number: u8) -> Lab {
        Lab::beside(Root::with_history(Timestamp::now()), number)
    }

    pub fn beside(root: Root, number: u8) -> Lab {
        let address = TcpListener::bind((format!("127.79.0.{number}"), 0)).unwrap().local_addr().unwrap();
        let api = Api::healthy();
        let (gate, at) = Gate::before(api.url.trim_start_matches("http://").parse().unwrap());
        let lab = Lab { root, api, gate, url: format!("http://{at}"), folder: tempfile::tempdir().unwrap(), address };
        lab.configure(&lab.text(&[]));
        lab
    }

    /// The quick configuration of this host, with these keys in its tables.
    pub fn text(&self, more: &[(&str, &str)]) -> String {
        let docker = if more.iter().any(|(table, _)| table.is_empty()) { &[][..] } else { &NO_DOCKER };
        let more = &[more, docker].concat();
        format!("[host]\nurl = \"{}\"\nstatus_poll = \"1s\"\n{}", self.url, quick(more))
    }

    /// Of the host's API, behind the gate.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Nothing of the host waits, is late, or will ever be.
    pub fn calm(self) -> Lab {
        let tables =
            ["scheduled_tasks", "task_run_logs", "host_jobs", "outbound_deliveries", "outbound_ledger", "messages"];
        let database = rusqlite::Connection::open(self.root.database()).unwrap();
        database.pragma_update(None, "foreign_keys", false).unwrap();
        database.execute_batch(&tables.map(|table| format!("DELETE FROM {table};")).concat()).unwrap();
        self
    }

    pub fn configure(&self, text: &str) {
        std::fs::write(self.config(), text).unwrap();
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("exporter.toml")
    }

    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state/state.db")
    }

    pub fn flags(&self) -> Vec<String> {
        vec![
            format!("--web.listen-address={}", self.address),
            format!("--config.file={}", self.config().display()),
            format!("--host.root={}", self.root.path().display()),
            "--log.format=json".to_owned(),
            "--web.enable-lifecycle".to_owned(),
        ]
    }

    /// That its verdicts are kept.
    pub fn kept(&self) -> String {
        std::fs::create_dir_all(self.state().parent().unwrap()).unwrap();
        format!("--state.path={}", self.state().display())
    }

    pub fn start(&self) -> Running {
        self.start_by(program(), &[])
    }

    pub fn start_kept(&self) -> Running {
        self.start_by(program(), &[self.kept()])
    }

    /// With its log in a file, by a command of its own.
    pub fn start_by(&self, mut command: Command, flags: &[String]) -> Running {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        command.args(self.flags()).args(flags).stderr(log);
        Running::begin(command.spawn().unwrap(), self.address)
    }

    pub fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    /// How often something was logged.
    pub fn logged(&self, what: &str) -> usize {
        std::fs::read_to_string(self.log()).unwrap().lines().filter(|line| line.contains(what)).count()
    }
}

/// The program as it is released, where it is at hand: what is measured is to be that.
fn released() -> Option<OsString> {
    std::env::var_os("AGENTHOST_STATIC").filter(|path| is_long() && !path.is_empty())
}

pub fn is_released() -> bool {
    released().is_some()
}

/// One that a library can be put before: the released one has none.
pub fn linked() -> Command {
    program_at(env!("CARGO_BIN_EXE_agenthost-exporter").into())
}

fn exe() -> OsString {
    released().unwrap_or_else(|| env!("CARGO_BIN_EXE_agenthost-exporter").into())
}

pub fn program() -> Command {
    program_at(exe())
}

fn program_at(exe: OsString) -> Command {
    let mut command = Command::new(exe);
    command.env_clear().current_dir("/").stdin(Stdio::null());
    command
}

/// The program before all others, where we may: what it takes is to be measured, and not what others take.
pub fn hurried() -> Command {
    after("renice -n -20 $$ >/dev/null 2>&1")
}

/// The program by a shell that first does something to itself.
pub fn after(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.env_clear().current_dir("/").stdin(Stdio::null());
    shell.args(["-c", &format!("{script}; exec \"$0\" \"$@\"")]).arg(exe());
    shell
}

/// A sidecar that runs; it ends with this.
pub struct Running {
    pub child: Child,
    pub address: SocketAddr,
}

impl Running {
    /// Waits until it listens.
    pub fn begin(child: Child, address: SocketAddr) -> Running {
        let mut running = Running { child, address };
        let begun = Instant::now();
        while get(address, "/livez").is_err() {
            assert!(running.child.try_wait().unwrap().is_none(), "it has ended");
            assert!(begun.elapsed() < PATIENCE, "it never listens");
            std::thread::sleep(Duration::from_millis(10));
        }
        running
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.address, path).unwrap()
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").1).unwrap()
    }

    pub fn ready(&self) -> u16 {
        self.get("/readyz").0
    }

    /// A series of `/metrics`, by its name and labels as they stand there.
    pub fn metric(&self, name: &str) -> Option<f64> {
        value(&self.get("/metrics").1, name)
    }

    /// Reads `/status` until it is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(
                begun.elapsed() < PATIENCE,
                "never: {what}; last: {:#} {:#}",
                status["collectors"],
                status["health"]["overall"]
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn until_ready(&self, code: u16) {
        let begun = Instant::now();
        while self.ready() != code {
            assert!(begun.elapsed() < PATIENCE, "never {code}: {}", self.get("/readyz?verbose").1);
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks for so long; all answers are this.
    pub fn stays(&self, code: u16, span: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < span {
            let (answer, why) = self.get("/readyz?verbose");
            assert_eq!(answer, code, "{why}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn vitals(&self) -> Vitals {
        Vitals::of(self.child.id()).expect("it runs")
    }

    /// Waits for its end, after somebody has asked for it.
    pub fn ended(&mut self) -> ExitStatus {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// How it ends when it is asked to, and how long that takes.
    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let begun = Instant::now();
        self.signal(Signal::TERM);
        (self.ended(), begun.elapsed())
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn value(metrics: &str, name: &str) -> Option<f64> {
    metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

/// The collectors whose latest look was good, or was not.
pub fn collectors(status: &Value, up: bool) -> Vec<&str> {
    let all = status["collectors"].as_object().unwrap();
    all.iter().filter(|(_, one)| one["up"] == up).map(|(name, _)| &**name).collect()
}

pub fn error<'a>(status: &'a Value, collector: &str) -> &'a str {
    status["collectors"][collector]["error"].as_str().unwrap_or("none")
}

/// All that is known of a check's subject; null if there is no such.
pub fn check<'a>(status: &'a Value, name: &str, subject: &str) -> &'a Value {
    let checks = status["health"]["checks"].as_array().unwrap();
    checks.iter().find(|one| one["check"] == name && one["subject"] == subject).unwrap_or(&Value::Null)
}

pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut line = Line::to(address)?;
    let (code, body) = line.ask(path, "Connection: close\r\n")?;
    Ok((code, String::from_utf8_lossy(&body).into_owned()))
}

/// One connection, over which one question follows the other.
pub struct Line(BufReader<TcpStream>);

impl Line {
    pub fn to(address: SocketAddr) -> std::io::Result<Line> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Line(BufReader::new(stream)))
    }

    pub fn ask(&mut self, path: &str, headers: &str) -> std::io::Result<(u16, Vec<u8>)> {
        let question = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        self.send(&question)?;
        self.answer()
    }

    pub fn send(&mut self, question: &str) -> std::io::Result<()> {
        self.0.get_mut().write_all(question.as_bytes())
    }

    pub fn answer(&mut self) -> std::io::Result<(u16, Vec<u8>)> {
        let broken = || std::io::Error::other("no answer");
        let (mut first, mut length) = (String::new(), None);
        self.0.read_line(&mut first)?;
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line)? == 0 {
                return Err(broken());
            }
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().ok();
            }
        }
        let mut body = vec![0; length.ok_or_else(broken)?];
        self.0.read_exact(&mut body)?;
        let code = first.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
        Ok((code, body))
    }
}
