//! What stands between the sidecar and an engine: it hears each question, and may hold the answer back.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::dockerd::Engine;

pub struct Between {
    folder: tempfile::TempDir,
}

impl Between {
    /// `hear` is told the head of each question, and says for how long its answer is held back.
    pub fn new(engine: &Engine, hear: impl Fn(&str) -> Duration + Send + Sync + 'static) -> Between {
        let between = Between { folder: tempfile::tempdir().unwrap() };
        let listener = UnixListener::bind(between.socket()).unwrap();
        let (engine, hear) = (engine.socket(), Arc::new(hear));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (engine, hear) = (engine.clone(), hear.clone());
                std::thread::spawn(move || pass(stream.unwrap(), &engine, &*hear));
            }
        });
        between
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("docker.sock")
    }
}

/// One question, and the answer as it came.
fn pass(mut asker: UnixStream, engine: &Path, hear: &impl Fn(&str) -> Duration) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if asker.read_exact(&mut byte).is_err() {
            return;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let wait = hear(&head);
    let mut stream = UnixStream::connect(engine).unwrap();
    stream.write_all(head.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1).as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    std::thread::sleep(wait);
    let _ = asker.write_all(&answer);
}
