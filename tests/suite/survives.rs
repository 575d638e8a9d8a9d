//! The real binary with a state file: killed, restarted, and given files that it cannot use.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::Value;

use crate::binary::{exporter, exporter_without_rights, get};
use crate::fixture::Root;

/// Verdicts within seconds: bad for two fails, ok for two recovers.
const SHORT: &str = "
[collect.service]
interval = \"1s\"
timeout = \"800ms\"
[collect.channels]
enabled = false
[checks.service_up]
fail_for = \"2s\"
recover_for = \"2s\"
[checks.service_responding]
fail_for = \"2s\"
recover_for = \"2s\"
";

const PATIENCE: Duration = Duration::from_secs(30);

/// A host's API that answers, or hangs up on whoever asks.
struct Api {
    address: SocketAddr,
    answers: Arc<AtomicBool>,
}

impl Api {
    fn start() -> Api {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, answers) = (listener.local_addr().unwrap(), Arc::new(AtomicBool::new(true)));
        let shared = answers.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if shared.load(Ordering::SeqCst) {
                    let _ = stream.read(&mut [0; 4096]);
                    let _ =
                        stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                }
            }
        });
        Api { address, answers }
    }

    fn set(&self, answers: bool) {
        self.answers.store(answers, Ordering::SeqCst);
    }
}

/// A host, its folder, and the folder of the state file.
struct Lab {
    root: Root,
    api: Api,
    folder: tempfile::TempDir,
    port: u16,
}

impl Lab {
    fn new() -> Lab {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let lab = Lab {
            root: Root::with_history(Timestamp::now()),
            api: Api::start(),
            folder: tempfile::tempdir().unwrap(),
            port,
        };
        let config = format!("{SHORT}[host]\nurl = \"http://{}\"\n", lab.api.address);
        std::fs::write(lab.config(), config).unwrap();
        lab
    }

    /// One whose state file holds what a sidecar knew.
    fn begun() -> Lab {
        let lab = Lab::new();
        let sidecar = lab.start();
        sidecar.until(200);
        sidecar.terminate();
        lab
    }

    fn config(&self) -> PathBuf {
        self.root.path().join("exporter.toml")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    fn log(&self) -> PathBuf {
        self.root.path().join("log")
    }

    /// Warnings of the thread that keeps the state.
    fn warnings(&self) -> Vec<String> {
        let log = std::fs::read_to_string(self.log()).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let warnings =
            lines.filter(|line| line["level"] == "WARN" && line["target"].as_str().unwrap().ends_with("keeper"));
        warnings.map(|line| line["fields"].to_string()).collect()
    }

    fn command(&self, mut command: Command) -> Command {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        command
            .arg(format!("--web.listen-address=127.0.0.1:{}", self.port))
            .arg(format!("--config.file={}", self.config().display()))
            .arg(format!("--host.root={}", self.root.path().display()))
            .arg("--log.format=json")
            .stderr(Stdio::from(log));
        command
    }

    fn start(&self) -> Sidecar {
        let mut command = self.command(exporter());
        Sidecar::start(command.arg(format!("--state.path={}", self.state().display())), self.port)
    }
}

struct Sidecar {
    child: Child,
    address: SocketAddr,
}

impl Sidecar {
    /// Starts it, and waits until it listens.
    fn start(command: &mut Command, port: u16) -> Sidecar {
        let sidecar = Sidecar { child: command.spawn().unwrap(), address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let begun = Instant::now();
        while get(sidecar.address, "/livez").is_err() {
            assert!(begun.elapsed() < PATIENCE, "it never listens");
            std::thread::sleep(Duration::from_millis(5));
        }
        sidecar
    }

    fn ready(&self) -> u16 {
        get(self.address, "/readyz").unwrap().0
    }

    fn until(&self, code: u16) {
        let begun = Instant::now();
        while self.ready() != code {
            assert!(begun.elapsed() < PATIENCE, "never {code}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Asks again and again for so long; it must be the same answer each time.
    fn stays(&self, code: u16, span: Duration, why: &str) {
        let begun = Instant::now();
        while begun.elapsed() < span {
            assert_eq!(self.ready(), code, "{why}: {}", get(self.address, "/status?section=health").unwrap().1);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn history(&self) -> Value {
        serde_json::from_str(&get(self.address, "/status?section=history").unwrap().1).unwrap()
    }

    /// Not asked, and not waited for by it.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn terminate(mut self) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM)
            .unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long it runs before it is killed: anything up to a second and a half, the same in every run.
fn lives(round: u64) -> Duration {
    Duration::from_millis((round * 7919 + 313) * 7 % 1500)
}

const KILLS: u64 = 50;

#[test]
fn killed_at_any_moment_it_neither_forgets_an_outage_nor_cries_in_health() {
    let lab = Lab::new();
    let mut sidecar = lab.start();
    sidecar.until(200);
    for round in 0..KILLS {
        sidecar.stays(200, lives(round), &format!("in health, round {round}"));
        sidecar.kill();
        sidecar = lab.start();
    }
    lab.api.set(false);
    sidecar.until(503);
    std::thread::sleep(Duration::from_millis(500)); // a verdict is written at once, but not before it is given
    for round in 0..KILLS {
        sidecar.kill();
        sidecar = lab.start();
        sidecar.stays(503, lives(round), &format!("in the outage, round {round}"));
    }
    lab.api.set(true);
    sidecar.until(200);
    let history = sidecar.history();
    let pauses = history["unwatched"].as_array().unwrap();
    // One that is killed before it has written anything leaves its pause to the next, which a busy machine makes likely.
    assert!((KILLS * 2 - 5..=KILLS * 2).contains(&(pauses.len() as u64)), "{}", pauses.len());
    assert!(pauses.iter().all(|pause| pause["why"] == "stopped" && pause["seconds"].as_f64().unwrap() < 20.0));
    let past = history["checks"].as_array().unwrap().iter().find(|past| past["check"] == "service_responding").unwrap();
    let failed = past["changes"].as_array().unwrap().iter().filter(|change| change["to"] == "failed").count();
    assert_eq!(failed, 1, "one outage is one failure, whatever happens to the sidecar: {past:#}");
    sidecar.terminate();
    assert_eq!(lab.warnings(), Vec::<String>::new());
    assert_eq!(std::fs::read_dir(lab.folder.path()).unwrap().count(), 1, "nothing was set aside, nothing is left over");
}

/// Starts it on that file, sees it at work, and ends it; answers with what it warned of.
fn runs_on(lab: &Lab, what: &str) -> Vec<String> {
    let sidecar = lab.start();
    sidecar.until(200);
    sidecar.terminate();
    let warnings = lab.warnings();
    assert_eq!(warnings.len(), 1, "{what}: {warnings:#?}");
    std::fs::remove_file(lab.log()).unwrap();
    warnings
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_file_that_it_cannot_use_does_not_stop_it() {
    let lab = Lab::new();
    std::fs::write(lab.state(), [0; 4096]).unwrap();
    let warning = runs_on(&lab, "a lost page");
    assert!(warning[0].contains("set aside") && warning[0].contains(".corrupt-"), "{warning:?}");
    let names = files(lab.folder.path());
    assert!(names.len() == 2 && names[0] == "state.db" && names[1].starts_with("state.db.corrupt-"), "{names:?}");
    let ours = std::fs::read(lab.state()).unwrap();

    let notes = Lab { folder: tempfile::tempdir().unwrap(), port: lab.port, root: lab.root, api: lab.api };
    std::fs::write(notes.state(), "the host's own").unwrap();
    let warning = runs_on(&notes, "a text");
    assert!(warning[0].contains("of another application"), "{warning:?}");
    assert_eq!(std::fs::read_to_string(notes.state()).unwrap(), "the host's own");
    let lab = Lab { folder: lab.folder, port: notes.port, root: notes.root, api: notes.api };

    for (what, offset) in [("a foreign one", 68), ("a newer one", 60)] {
        let mut bytes = ours.clone();
        bytes[offset + 3] = 99;
        std::fs::write(lab.state(), &bytes).unwrap();
        runs_on(&lab, what);
        assert!(std::fs::read(lab.state()).unwrap() == bytes, "{what} is left alone");
        assert_eq!(files(lab.folder.path()), names, "{what}");
    }

    std::fs::remove_file(lab.state()).unwrap();
    assert!(Command::new("mkfifo").arg(lab.state()).status().unwrap().success());
    let warning = runs_on(&lab, "a disk that hangs").remove(0);
    assert!(warning.contains("does not answer"), "{warning}");
}

#[test]
fn a_second_one_leaves_the_file_to_the_first() {
    let lab = Lab::new();
    let first = lab.start();
    first.until(200);
    let other = Lab::new();
    let mut command = other.command(exporter());
    let second = Sidecar::start(command.arg(format!("--state.path={}", lab.state().display())), other.port);
    second.until(200);
    let warnings = other.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("another process"), "{warnings:?}");
    first.kill();
    let again = lab.start();
    assert_eq!(again.ready(), 200, "it is the first one's");
    second.terminate();
    again.terminate();
    assert_eq!(lab.warnings(), Vec::<String>::new());
}

#[test]
fn on_a_full_disk_it_runs_on_and_says_so_once() {
    let lab = Lab::new();
    // No file of it may grow beyond 16 KiB; the signal that would end it is ignored.
    let mut shell = Command::new("sh");
    shell.env_clear().current_dir("/").stdin(Stdio::null());
    shell.args(["-c", "trap '' XFSZ; ulimit -f 32; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_agenthost-exporter")]);
    let mut command = lab.command(shell);
    // Its log goes to a pipe, which has no size.
    let command = command.arg(format!("--state.path={}", lab.state().display())).stderr(Stdio::piped());
    let mut sidecar = Sidecar::start(command, lab.port);
    let mut log = sidecar.child.stderr.take().unwrap();
    sidecar.until(200);
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(sidecar.ready(), 200);
    sidecar.terminate();
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert_eq!(text.matches("verdicts are not kept").count(), 1, "{text}");
    assert!(
        lab.folder.path().read_dir().unwrap().all(|entry| !entry
            .unwrap()
            .path()
            .display()
            .to_string()
            .contains("corrupt"))
    );
}

#[test]
fn what_may_only_be_read_is_not_used() {
    let lab = Lab::begun();
    let (root, mut command) = (lab.root.path(), exporter_without_rights(lab.folder.path()));
    for (path, mode) in [(lab.folder.path(), 0o555), (&lab.state(), 0o444), (root, 0o755)] {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let before = std::fs::read(lab.state()).unwrap();
    std::fs::remove_file(lab.log()).unwrap();
    command = lab.command(command);
    let sidecar = Sidecar::start(command.arg(format!("--state.path={}", lab.state().display())), lab.port);
    sidecar.until(200);
    sidecar.terminate();
    let warnings = lab.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("only be read"), "{warnings:?}");
    assert!(std::fs::read(lab.state()).unwrap() == before);
}

#[test]
fn a_copy_taken_while_it_runs_is_a_state() {
    let lab = Lab::new();
    let sidecar = lab.start();
    sidecar.until(200); // a start is 503 too
    lab.api.set(false);
    sidecar.until(503);
    std::thread::sleep(Duration::from_millis(500));
    // The same host, and the file as somebody copied it.
    let copy = Lab { folder: tempfile::tempdir().unwrap(), port: lab.port, root: lab.root, api: lab.api };
    for name in files(lab.folder.path()) {
        std::fs::copy(lab.folder.path().join(&name), copy.folder.path().join(&name)).unwrap();
    }
    sidecar.kill();
    let sidecar = copy.start();
    sidecar.stays(503, Duration::from_millis(500), "from the copy");
    assert_eq!(copy.warnings(), Vec::<String>::new());
}

#[test]
fn the_state_file_can_be_read_by_others_when_it_is_closed() {
    let lab = Lab::begun();
    let file = Connection::open(lab.state()).unwrap();
    let windows: i64 = file.query_row("SELECT count(*) FROM windows", [], |row| row.get(0)).unwrap();
    assert!(windows >= 2, "{windows}");
}
