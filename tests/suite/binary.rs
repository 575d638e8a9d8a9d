//! The real binary beside a real folder and a real database, read over HTTP, and damaged while it runs.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::Value;

use crate::api::Api;
use crate::fixture::Root;
use crate::sidecar::PATIENCE;
pub use crate::sidecar::{Sidecar, exporter, exporter_without_rights, get};

/// Fast enough for a test; everything else is as delivered.
pub const FAST: &str = "
[collect.service]
interval = \"1s\"
[collect.deploy]
interval = \"1s\"
[collect.channels]
interval = \"1s\"
[collect.queue]
interval = \"1s\"
[collect.repos]
interval = \"1s\"
[collect.messages]
interval = \"1s\"
[collect.usage]
interval = \"1s\"
[collect.tasks]
interval = \"1s\"
[collect.host_jobs]
interval = \"1s\"
[collect.groups]
interval = \"1s\"
";

impl Sidecar {
    pub fn start(root: &Path, extra: &str) -> Sidecar {
        Sidecar::start_with(root, extra, &[])
    }

    pub fn start_with(root: &Path, extra: &str, flags: &[String]) -> Sidecar {
        let config = root.join("exporter.toml");
        std::fs::write(&config, format!("{FAST}{extra}")).unwrap();
        let flags = flags.iter().cloned().chain([format!("--host.root={}", root.display())]);
        Sidecar::spawn(&config, flags)
    }

    /// With nothing but this configuration.
    pub fn start_as_is(root: &Path, config: &Path) -> Sidecar {
        Sidecar::spawn(config, [format!("--host.root={}", root.display())])
    }

    pub fn spawn(config: &Path, flags: impl IntoIterator<Item = String>) -> Sidecar {
        Sidecar::spawn_by(exporter(), config, flags)
    }

    /// By a command of its own, as that of another user.
    pub fn spawn_by(exporter: Command, config: &Path, flags: impl IntoIterator<Item = String>) -> Sidecar {
        let anywhere = ["--web.listen-address=127.0.0.1:0".to_owned()];
        Sidecar::spawn_at(exporter, config, anywhere.into_iter().chain(flags))
    }

    /// Reads `/status` until it is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until_within(PATIENCE, what, wanted)
    }
}

/// Asserts that one of three tries takes less than a second: who is kept waiting is so each time, a busy machine is late
/// now and then.
pub fn within_a_second(run: impl Fn()) {
    let times = [(); 3].map(|()| {
        let begun = Instant::now();
        run();
        begun.elapsed()
    });
    assert!(times.iter().any(|&time| time < Duration::from_secs(1)), "{times:?}");
}

pub fn up(collector: &'static str, up: bool) -> impl Fn(&Value) -> bool {
    move |status| status["collectors"][collector]["up"] == up
}

pub fn error(status: &Value, collector: &str) -> String {
    status["collectors"][collector]["error"].as_str().unwrap_or("none").to_owned()
}

#[test]
fn it_reads_a_host_through_damage_and_repair() {
    let root = Root::with_history(Timestamp::now());
    let api = Api::healthy();
    let sidecar = Sidecar::start(root.path(), &format!("[host]\nurl = \"{}\"\n", api.url));
    let status = sidecar.until("messages", up("messages", true));
    assert_eq!(status["messages"]["pending_deliveries"], 2);
    let status = sidecar.until("ready", |status| status["health"]["ready"] == true);
    assert_eq!(status["service"]["status"], "ok");
    assert_eq!(sidecar.get("/readyz").0, 200);
    assert_eq!(sidecar.get("/livez").0, 200);

    let whole = std::fs::read(root.database()).unwrap();
    let damage = [
        ("deleted", None, "No such file"),
        ("emptied", Some(Vec::new()), "empty"),
        (
            "garbage",
            Some(b"this is not a database, though it is long enough to be read as one".repeat(100)),
            "not a database",
        ),
    ];
    for (what, content, named) in damage {
        std::fs::remove_file(root.database()).unwrap();
        if let Some(content) = content {
            std::fs::write(root.database(), content).unwrap();
        }
        for collector in ["messages", "usage", "tasks", "host_jobs", "groups"] {
            let status = sidecar.until(what, up(collector, false));
            assert!(error(&status, collector).contains(named), "{what}: {}", error(&status, collector));
        }
        assert_eq!(sidecar.status()["service"]["status"], "ok", "{what}");
        assert_eq!(sidecar.get("/readyz").0, 200, "{what}: no critical check hangs on the database");
        std::fs::write(root.database(), &whole).unwrap();
        sidecar.until("repaired", up("messages", true));
    }
    sidecar.until("repaired", up("groups", true));
}

#[test]
fn a_locked_database_is_said_to_be_locked() {
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start(root.path(), "");
    sidecar.until("messages", up("messages", true));
    let writer = Connection::open(root.database()).unwrap();
    writer.execute_batch("BEGIN EXCLUSIVE; INSERT INTO sessions VALUES ('new', 's')").unwrap();
    let status = sidecar.until("locked", up("groups", false));
    assert!(error(&status, "groups").contains("locked"), "{}", error(&status, "groups"));
    writer.execute_batch("COMMIT").unwrap();
    sidecar.until("unlocked", up("groups", true));
}

#[test]
fn nothing_of_the_host_is_written() {
    let root = Root::with_history(Timestamp::now());
    let listing = |folder: &Path| {
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                (entry.file_name(), entry.metadata().unwrap().modified().unwrap(), entry.metadata().unwrap().len())
            })
            .collect();
        files.sort();
        files
    };
    let before = (listing(&root.path().join("data")), std::fs::read(root.database()).unwrap());
    let mut sidecar = Sidecar::start(root.path(), "");
    sidecar.until("two readings", |status| {
        status["collectors"]["tasks"]["up"] == true && status["collectors"]["groups"]["up"] == true
    });
    assert!(sidecar.terminate().success());
    let after = (listing(&root.path().join("data")), std::fs::read(root.database()).unwrap());
    assert!(before == after, "the data folder changed");
}

/// Opening a pipe that nobody writes to blocks for ever, and no thread can be dropped.
#[test]
fn a_thread_that_hangs_for_ever_does_not_keep_the_process() {
    let root = Root::with_history(Timestamp::now());
    let pipe = root.path().join("host.pid");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut sidecar = Sidecar::start(root.path(), &format!("[host]\npid_file = \"{}\"\n", pipe.display()));
    sidecar.until("messages", up("messages", true));
    let status = sidecar.terminate();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn an_empty_history_and_a_missing_database_differ() {
    let root = Root::with_history(Timestamp::now());
    std::fs::remove_file(root.database()).unwrap();
    let sidecar = Sidecar::start(root.path(), "");
    let status = sidecar.until("messages", up("messages", false));
    assert_eq!(status["messages"], Value::Null);
    assert_eq!(status["tasks"], Value::Null);
}

#[test]
fn routes_answer_as_they_should() {
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start(root.path(), "");
    sidecar.until("tasks", up("tasks", true));
    for (path, status) in [
        ("/", 200),
        ("/metrics", 200),
        ("/status?section=tasks", 200),
        ("/status?section=nothing", 404),
        ("/status/tasks/task-1", 200),
        ("/status/tasks/none", 404),
        ("/nothing", 404),
        ("/-/healthy", 200),
        ("/-/ready", 200),
    ] {
        assert_eq!(sidecar.get(path).0, status, "{path}");
    }
    let runs: Value = serde_json::from_str(&sidecar.get("/status/tasks/task-2").1).unwrap();
    assert_eq!(runs["runs"].as_array().unwrap().len(), 5);
    assert_eq!(runs["runs"][0]["status"], "error", "newest first");
}

#[test]
fn no_text_of_the_host_reaches_an_output() {
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start(root.path(), "");
    sidecar.until("all", |status| {
        status["collectors"].as_object().unwrap().values().all(|collector| !collector["up"].is_null())
    });
    for path in ["/status", "/metrics", "/", "/status/tasks/task-1", "/status/tasks/task-2"] {
        let text = sidecar.get(path).1;
        assert!(!text.contains("secret"), "{path}: {text}");
    }
}

fn refused(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(2), "{said}");
    said
}

#[test]
fn it_refuses_to_start_with_one_line_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, "[collect.messages]\nintervall = \"5s\"\n").unwrap();
    let said = refused(exporter().arg(format!("--config.file={}", file.display())));
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("config.toml:2: intervall: ") && said.contains("interval"), "{said}");
    let said = refused(exporter().arg("--config.file=/does/not/exist.toml"));
    assert!(said.contains("/does/not/exist.toml"), "{said}");
    let said = refused(exporter().arg("--host.root=/does/not/exist"));
    assert!(said.contains("/does/not/exist"), "{said}");
    refused(exporter().arg("--no.such.flag"));
}

#[test]
fn config_check_refuses_what_cannot_be_meant_and_warns_of_a_missing_root() {
    let check = |argument: &str| exporter().args(["config", "check", argument]).output().unwrap();
    let refused = check("--host.url=http://user:s3cret@x");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("[host] url") && !said.contains("s3cret"), "{said}");
    let missing = check("--host.root=/nope");
    let said = String::from_utf8(missing.stderr).unwrap();
    assert!(missing.status.success() && said.contains("warning") && said.contains("/nope"), "{said}");
}

#[test]
fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let root = Root::with_history(Timestamp::now());
    let address = taken.local_addr().unwrap().to_string();
    let output = exporter()
        .arg(format!("--host.root={}", root.path().display()))
        .arg(format!("--web.listen-address={address}"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains(&address));
}

#[test]
fn once_prints_one_status() {
    let root = Root::with_history(Timestamp::now());
    let output = exporter()
        .args(["--once", "--log.level=error"])
        .arg(format!("--host.root={}", root.path().display()))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["groups"]["total"], 3);
    assert_eq!(status["schema"], 1);
}

#[test]
fn what_it_records_can_be_replayed() {
    let root = Root::with_history(Timestamp::now());
    let record = root.path().join("record");
    let flag = format!("--state.record={}", record.display());
    let sidecar = Sidecar::start_with(root.path(), "", &[flag]);
    let lines = || std::fs::read_to_string(&record).unwrap().lines().count();
    let begun = Instant::now();
    while lines() < 20 {
        assert!(begun.elapsed() < PATIENCE, "{} lines", lines());
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(sidecar); // as hard as a kill
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(!text.contains("secret"), "a text of the host");
    let replay = |files: &[&Path]| {
        let config = format!("--config.file={}", root.path().join("exporter.toml").display());
        exporter().arg(config).arg("replay").args(files).output().unwrap()
    };
    let played = replay(&[&record]);
    let said = String::from_utf8(played.stdout.clone()).unwrap();
    assert!(played.status.success(), "{}", String::from_utf8_lossy(&played.stderr));
    assert!(said.contains("  task_failing research: bad since "), "{said}");
    assert!(said.contains(" lines lost\n") && said.contains("\nfailures caught: "), "{said}");
    assert_eq!(replay(&[&record]).stdout, played.stdout, "the same bytes");

    std::fs::write(&record, text.clone() + "{\"line\":\n").unwrap();
    let played = replay(&[&record]);
    let said = String::from_utf8(played.stderr).unwrap();
    assert_eq!(played.status.code(), Some(1), "{said}");
    assert!(said.ends_with("1 lines of the record could not be read and were skipped\n"), "{said}");
    std::fs::write(&record, text.replace("\"format\":1", "\"format\":2")).unwrap();
    assert!(refused(exporter().arg("replay").arg(&record)).contains("recorded by a newer version, in format 2"));
    assert!(refused(exporter().arg("replay").arg("/does/not/exist")).contains("/does/not/exist"));
    let here = refused(
        exporter()
            .args(["--state.record=/does/not/exist", "--web.listen-address=127.0.0.1:0"])
            .arg(format!("--host.root={}", root.path().display())),
    );
    assert!(here.contains("record to /does/not/exist"), "{here}");
}
