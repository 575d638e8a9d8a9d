//! A host that is restarted: a real process, whose port is closed until it serves. Within its grace nobody is paged, and
//! after it whoever does not come up is.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::Api;
use crate::binary::{Sidecar, error};
use crate::fixture::Root;

/// The host's port, which is open only while it serves.
pub struct Door {
    pub address: SocketAddr,
    api: SocketAddr,
    served: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl Door {
    pub fn before(api: &Api) -> Door {
        // An address of its own: no other test is given its port while it is closed.
        let address = TcpListener::bind("127.77.0.1:0").unwrap().local_addr().unwrap();
        Door { address, api: api.url.trim_start_matches("http://").parse().unwrap(), served: None }
    }

    pub fn open(&mut self) {
        let (listener, ends, api) =
            (TcpListener::bind(self.address).unwrap(), Arc::new(AtomicBool::new(false)), self.api);
        listener.set_nonblocking(true).unwrap();
        let ended = ends.clone();
        let serve = move || {
            while !ended.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((asker, _)) => drop(std::thread::spawn(move || pass(asker, api))),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(2)),
                    Err(_) => {}
                }
            }
        };
        self.served = Some((ends, std::thread::spawn(serve)));
    }

    pub fn close(&mut self) {
        if let Some((ends, thread)) = self.served.take() {
            ends.store(true, Ordering::SeqCst);
            thread.join().unwrap();
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        self.close();
    }
}

/// One question, and its answer.
fn pass(mut asker: TcpStream, api: SocketAddr) -> Option<()> {
    asker.set_nonblocking(false).ok()?;
    let (mut head, mut answer) = ([0; 4096], Vec::new());
    let length = asker.read(&mut head).ok()?;
    let mut stream = TcpStream::connect(api).ok()?;
    stream.write_all(&head[..length]).ok()?;
    stream.read_to_end(&mut answer).ok()?;
    asker.write_all(&answer).ok()
}

/// The process; it ends with the test.
pub struct Process(Child);

impl Process {
    pub fn start(root: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg0("pynchy").arg("100000").current_dir(root).stdin(Stdio::null());
        Process(command.spawn().unwrap())
    }

    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One with this grace, whose checks on the host's own fail after so long.
fn watcher(root: &Path, door: &Door, grace: &str, fail_for: &str) -> Sidecar {
    let config = root.join(format!("exporter-{grace}.toml"));
    let checks = ["service_up", "service_responding"]
        .map(|name| format!("[checks.{name}]\nfail_for = \"{fail_for}\"\nrecover_for = \"1s\"\n"));
    let text = format!(
        "[host]\nurl = \"http://{}\"\n[collect.service]\ninterval = \"1s\"\nboot_grace = \"{grace}\"\n\
         [collect.channels]\ninterval = \"1s\"\ntimeout = \"2s\"\n[collect.queue]\ninterval = \"1s\"\n{}\
         [checks.channel_connected]\nunknown_for = \"1s\"\nrecover_for = \"1s\"\n",
        door.address,
        checks.concat()
    );
    std::fs::write(&config, text).unwrap();
    Sidecar::spawn(&config, [format!("--host.root={}", root.display())])
}

fn is(status: &Value, word: &str, ready: bool) -> bool {
    status["service"]["status"] == word && status["health"]["ready"] == ready
}

fn state(status: &Value, check: &str) -> String {
    let checks = status["health"]["checks"].as_array().unwrap();
    let one = checks.iter().find(|one| one["check"] == check).unwrap_or(&Value::Null);
    one["state"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn a_host_that_is_restarted_within_its_grace_pages_nobody_and_one_that_stays_dead_does() {
    let (root, api) = (Root::with_history(Timestamp::now()), Api::healthy());
    let mut door = Door::before(&api);
    let mut host = Process::start(root.path());
    door.open();
    let patient = watcher(root.path(), &door, "1h", "10s");
    let hasty = watcher(root.path(), &door, "3s", "1s");
    for sidecar in [&patient, &hasty] {
        let status = sidecar.until_patiently("well", |status| is(status, "ok", true) && status["channels"].is_object());
        assert_eq!((&status["service"]["process"], &status["service"]["starts_total"]), (&json!("found"), &json!(1)));
    }

    door.close();
    host.kill();
    host = Process::start(root.path());
    let begun = Instant::now();
    let status = patient.until_patiently("starting", |status| status["service"]["status"] == "starting");
    assert_eq!(status["service"]["starts_total"], 2);
    hasty.until_patiently("paged", |status| {
        let states = ["service_responding", "service_up"].map(|check| state(status, check));
        is(status, "stalled", false) && states == ["failed", "ok"]
    });
    // Longer than what is bad may last, and longer than any silence.
    while begun.elapsed() < Duration::from_secs(16) {
        let status = patient.status();
        assert!(is(&status, "starting", true), "{:#} {:#}", status["service"], status["health"]);
        assert_eq!(patient.get("/readyz").0, 200);
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = patient.status();
    assert_eq!(
        (state(&status, "service_responding"), state(&status, "channel_connected")),
        ("ok".into(), "unknown".into())
    );
    assert!(error(&status, "channels").contains("refused"), "{}", error(&status, "channels"));
    assert_eq!(status["health"]["overall"], "degraded");

    door.open();
    for sidecar in [&patient, &hasty] {
        sidecar.until_patiently("well again", |status| is(status, "ok", true) && status["channels"].is_object());
    }
    // It ends and does not come back: no grace is of any help.
    host.kill();
    door.close();
    for sidecar in [&patient, &hasty] {
        let gone = |status: &Value| is(status, "down", false) && state(status, "service_up") == "failed";
        assert_eq!(sidecar.until_patiently("down", gone)["service"]["pid"], Value::Null);
    }
}
