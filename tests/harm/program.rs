//! The real binary, behind whatever command confines or watches it, with its log kept.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(120);
const EXPORTER: &str = env!("CARGO_BIN_EXE_agenthost-exporter");

/// One that listens; it is ended when this is dropped.
pub struct Program {
    child: Child,
    pub address: SocketAddr,
    log: Log,
}

/// One that ended before it listened.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub said: String,
}

type Log = Arc<Mutex<String>>;

impl Program {
    /// Starts it by a command that goes on with the words behind it, as `env` does.
    pub fn start(before: Command, root: &Path, config: &Path) -> Program {
        Program::try_start(before, root, config).unwrap_or_else(|ended| panic!("it does not start: {ended:?}"))
    }

    /// # Errors
    /// It has ended before it listened.
    pub fn try_start(before: Command, root: &Path, config: &Path) -> Result<Program, Ended> {
        Program::try_start_as(before, Path::new(EXPORTER), root, config)
    }

    /// The same with another file that holds the program.
    pub fn try_start_as(mut before: Command, program: &Path, root: &Path, config: &Path) -> Result<Program, Ended> {
        let mut child = before
            .arg(program)
            .args(["--web.listen-address=127.0.0.1:0", "--log.format=json"])
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--host.root={}", root.display()))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = kept(child.stderr.take().unwrap());
        let begun = Instant::now();
        loop {
            let said = log.lock().unwrap().clone();
            if let Some(address) = listening(&said) {
                return Ok(Program { child, address, log });
            }
            if let Some(status) = child.try_wait().unwrap() {
                std::thread::sleep(Duration::from_millis(200)); // its last words are under way
                return Err(Ended { status, said: log.lock().unwrap().clone() });
            }
            if begun.elapsed() > PATIENCE {
                let _ = child.kill();
                panic!("it neither listens nor ends: {}", log.lock().unwrap());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.address, path).unwrap()
    }

    /// Whether it has ended, rather than answer; it has a moment for that.
    pub fn ends(&self, path: &str) -> bool {
        let begun = Instant::now();
        while get(self.address, path).is_err() {
            if !is_alive(self.pid()) {
                return true;
            }
            assert!(begun.elapsed() < PATIENCE, "it neither answers nor ends: {}", self.said());
            std::thread::sleep(Duration::from_millis(100));
        }
        false
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").1).unwrap()
    }

    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(begun.elapsed() < PATIENCE, "never: {what}; last: {status:#}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The status as wanted, or the last one after it had time for it; `None` if it has ended.
    pub fn try_until(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value, Option<Value>> {
        let (begun, mut last) = (Instant::now(), None);
        while begun.elapsed() < Duration::from_secs(15) {
            if let Ok((200, text)) = get(self.address, "/status") {
                let status = serde_json::from_str(&text).unwrap();
                if wanted(&status) {
                    return Ok(status);
                }
                last = Some(status);
            } else if !is_alive(self.pid()) {
                return Err(None);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(last)
    }

    /// How it ended, which it has.
    pub fn ended(mut self) -> Ended {
        let status = self.child.wait().unwrap();
        std::thread::sleep(Duration::from_millis(200)); // its last words are under way
        Ended { status, said: self.said() }
    }

    /// Its log so far.
    pub fn said(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn until_said(&self, words: &str) {
        let begun = Instant::now();
        while !self.said().contains(words) {
            assert!(begun.elapsed() < PATIENCE, "never said: {words}\n{}", self.said());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    pub fn terminate(mut self) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("still running after SIGTERM: {}", self.said());
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A corpse that nobody has reaped is not.
fn is_alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with('Z'))
}

fn kept(stream: impl Read + Send + 'static) -> Log {
    let log = Log::default();
    let shared = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let mut log = shared.lock().unwrap();
            log.push_str(&String::from_utf8_lossy(&line));
            log.push('\n');
        }
    });
    log
}

fn listening(log: &str) -> Option<SocketAddr> {
    log.lines().find_map(|line| {
        let line: Value = serde_json::from_str(line).ok()?;
        line["fields"]["address"].as_str()?.parse().ok()
    })
}

pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let broken = || std::io::Error::other("no whole answer");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(broken)?;
    Ok((status, body.to_owned()))
}

pub fn up(status: &Value, collector: &str) -> bool {
    status["collectors"][collector]["up"] == true
}

pub fn error(status: &Value, collector: &str) -> String {
    status["collectors"][collector]["error"].as_str().unwrap_or("none").to_owned()
}
