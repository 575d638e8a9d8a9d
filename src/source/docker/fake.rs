//! For tests only: an engine that answers as it is told, for what a real one cannot be made to do.

#![allow(dead_code, reason = "unit tests, tests of the whole program and benches each need another part of it")]

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What it answers to a path: a status and a body; `None` is silence.
type Answer = Option<(u16, String)>;
type Answering = Mutex<Box<dyn Fn(&str) -> Answer + Send>>;

/// Listens in a temporary folder until it is dropped with the test's process.
pub struct Fake {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
    lines: Arc<AtomicUsize>,
    answer: Arc<Answering>,
}

impl Fake {
    pub fn new(answer: impl Fn(&str) -> Answer + Send + 'static) -> Fake {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("docker.sock")).unwrap();
        let answer: Arc<Answering> = Arc::new(Mutex::new(Box::new(answer)));
        let fake = Fake { folder, asked: Arc::default(), lines: Arc::default(), answer };
        let (asked, lines, answer) = (fake.asked.clone(), fake.lines.clone(), fake.answer.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                lines.fetch_add(1, Ordering::Relaxed);
                let (asked, answer) = (asked.clone(), answer.clone());
                std::thread::spawn(move || serve(stream.unwrap(), &asked, &answer));
            }
        });
        fake
    }

    /// With these containers: the list, and of each what it says of itself.
    pub fn with(containers: Vec<serde_json::Value>) -> Fake {
        let fake = Fake::new(|_| None);
        fake.have(containers);
        fake
    }

    /// From now on it has these.
    pub fn have(&self, containers: Vec<serde_json::Value>) {
        self.answer_with(move |path| Some(of(&containers, path)));
    }

    pub fn answer_with(&self, answer: impl Fn(&str) -> Answer + Send + 'static) {
        *self.answer.lock().unwrap() = Box::new(answer);
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The request lines since the last call.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    /// The connections since the last call.
    pub fn lines(&self) -> usize {
        self.lines.swap(0, Ordering::Relaxed)
    }
}

/// One question after the other, as long as the other side asks.
fn serve(mut stream: UnixStream, asked: &Mutex<Vec<String>>, answer: &Answering) {
    while let Some(line) = question(&mut stream) {
        let path = line.split(' ').nth(1).unwrap_or("").to_owned();
        asked.lock().unwrap().push(line);
        let answered = (answer.lock().unwrap())(&path);
        // Held open until the other side has enough.
        let Some((status, body)) = answered else { return drop(stream.read(&mut [0])) };
        let head = format!("HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        let _ = stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes());
    }
}

/// The first line of a request.
fn question(stream: &mut UnixStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().lines().next().map(str::to_owned)
}

/// Answers as the engine does. A container is given as its `inspect`, with the `Status` of the list beside.
pub fn of(containers: &[serde_json::Value], path: &str) -> (u16, String) {
    if path.starts_with("/containers/json") {
        let rows: Vec<_> = containers.iter().map(row).collect();
        return (200, serde_json::Value::from(rows).to_string());
    }
    let id = path.trim_start_matches("/containers/").trim_end_matches("/json");
    match containers.iter().find(|container| container["Id"] == id) {
        Some(container) => (200, container.to_string()),
        None => (404, r#"{"message":"No such container: x"}"#.to_owned()),
    }
}

fn row(container: &serde_json::Value) -> serde_json::Value {
    serde_json::json!({
        "Id": container["Id"], "Names": [container["Name"]], "Image": container["Config"]["Image"],
        "State": container["State"]["Status"], "Status": container["Status"], "Command": "sk-secret",
        "Mounts": [{"Type": "bind"}],
    })
}

/// A container that runs since a moment ago, of this name and image; `more` goes over it, table by table.
pub fn container(name: &str, image: &str, more: serde_json::Value) -> serde_json::Value {
    let id: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut container = serde_json::json!({
        "Id": id, "Name": format!("/{name}"), "RestartCount": 0, "Status": "Up 5 minutes",
        "Args": ["sk-secret"], "Config": {"Image": image, "Env": ["KEY=sk-secret"]},
        "HostConfig": {"CgroupParent": "", "CgroupnsMode": "host"},
        "State": {"Status": "running", "Running": true, "OOMKilled": false, "Pid": 0, "ExitCode": 0,
            "StartedAt": "2026-11-21T19:55:00.5Z", "FinishedAt": "0001-01-01T00:00:00Z"},
    });
    lay_over(&mut container, more);
    container
}

fn lay_over(under: &mut serde_json::Value, over: serde_json::Value) {
    match (under, over) {
        (serde_json::Value::Object(under), serde_json::Value::Object(over)) => {
            for (key, value) in over {
                lay_over(under.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}
