//! A running sidecar: the real binary, and what it answers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn exporter() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_agenthost-exporter"));
    command.env_clear().current_dir("/").stdin(Stdio::null());
    command
}

/// The same without the rights of root, if we are root; its program is copied to where everybody may read it.
pub fn exporter_without_rights(folder: &Path) -> Command {
    // Whoever may do everything must step down to be refused.
    if !rustix::process::geteuid().is_root() {
        return exporter();
    }
    let program = folder.join("exporter");
    // By a process of its own: what we write ourselves, a child that another thread begins just then holds open, and it cannot
    // be run until that is gone.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_agenthost-exporter")).arg(&program).status().unwrap();
    assert!(copied.success());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).current_dir("/").stdin(Stdio::null());
    command
}

/// A running sidecar; it is ended when this is dropped.
pub struct Sidecar {
    pub child: Child,
    pub address: SocketAddr,
}

impl Sidecar {
    /// Where the flags say on which port.
    pub fn spawn_at(mut exporter: Command, config: &Path, flags: impl IntoIterator<Item = String>) -> Sidecar {
        let mut child = exporter
            .arg("--log.format=json")
            .arg(format!("--config.file={}", config.display()))
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let address = listening(child.stderr.take().unwrap());
        Sidecar { child, address }
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        get(self.address, path).unwrap()
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.get("/status").1).unwrap()
    }

    /// Reads `/status` until it is as wanted; takes longer than time-outs do.
    pub fn until_patiently(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until_within(PATIENCE * 4, what, wanted)
    }

    pub fn until_within(&self, patience: Duration, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(begun.elapsed() < patience, "never: {what}; last: {status:#}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("still running after SIGTERM");
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address that the log names; the rest of the log is drained so that it never blocks.
fn listening(log: impl Read + Send + 'static) -> SocketAddr {
    let mut lines = BufReader::new(log).lines();
    let address = lines.by_ref().find_map(|line| {
        let line: Value = serde_json::from_str(&line.ok()?).ok()?;
        line["fields"]["address"].as_str()?.parse().ok()
    });
    std::thread::spawn(move || lines.for_each(drop));
    address.expect("the log says where it listens")
}

pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("an answer has a status");
    Ok((status, body.to_owned()))
}
