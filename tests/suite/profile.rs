//! Profiles of the sidecar itself, read back by a small reader of the format and by Go's own tool.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jiff::Timestamp;

use crate::binary::Sidecar;
use crate::fixture::Root;

fn start(flags: &[&str]) -> (Root, Sidecar) {
    let root = Root::with_history(Timestamp::now());
    let flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
    let sidecar = Sidecar::start_with(root.path(), "", &flags);
    sidecar.until("a reading", |status| status["collectors"]["messages"]["up"] == true);
    (root, sidecar)
}

/// Head and body of one answer.
fn ask(address: SocketAddr, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    (String::from_utf8(answer[..end].to_vec()).unwrap(), answer[end + 4..].to_vec())
}

fn code(answer: &(String, Vec<u8>)) -> u16 {
    answer.0.split(' ').nth(1).unwrap().parse().unwrap()
}

/// The fields of a protobuf message that have a length, by their number.
fn fields(mut message: &[u8]) -> BTreeMap<u64, Vec<Vec<u8>>> {
    let mut fields: BTreeMap<u64, Vec<Vec<u8>>> = BTreeMap::new();
    while !message.is_empty() {
        let key = number(&mut message);
        match key & 7 {
            0 => drop(number(&mut message)),
            2 => {
                let length = usize::try_from(number(&mut message)).unwrap();
                let (value, rest) = message.split_at(length);
                fields.entry(key >> 3).or_default().push(value.to_vec());
                message = rest;
            }
            other => panic!("a profile has no fields of kind {other}"),
        }
    }
    fields
}

fn number(message: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..).step_by(7) {
        let byte = message[0];
        *message = &message[1..];
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    number
}

/// Taken while it has something to do.
fn profile(sidecar: &Sidecar, query: &str) -> (String, Vec<u8>) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                ask(sidecar.address, "GET /status?section=tasks");
                ask(sidecar.address, "GET /metrics");
            }
        });
        let answer = ask(sidecar.address, &format!("GET /debug/pprof/profile{query}"));
        over.store(true, Ordering::Relaxed);
        answer
    })
}

#[test]
fn a_profile_names_our_own_functions() {
    let (_root, sidecar) = start(&["--web.enable-pprof"]);
    let answer = profile(&sidecar, "?seconds=3");
    assert_eq!(code(&answer), 200, "{}", answer.0);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &answer.1).unwrap();
    let unpacked = Command::new("gzip").arg("-dc").stdin(std::fs::File::open(file.path()).unwrap()).output().unwrap();
    let fields = fields(&unpacked.stdout);
    let strings: Vec<_> = fields[&6].iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    assert_eq!(strings[0], "", "as the format wants");
    assert!(["samples", "count", "cpu", "nanoseconds"].iter().all(|word| strings.iter().any(|text| text == word)));
    assert!(strings.iter().any(|text| text.starts_with("agenthost_exporter::")), "{strings:?}");
    assert!(fields[&2].len() > 3, "{} samples", fields[&2].len());

    match Command::new("go").args(["tool", "pprof", "-top", "-cum"]).arg(file.path()).env("HOME", "/tmp").output() {
        Err(_) => crate::skipped("go tool pprof", "there is no Go here"),
        Ok(output) => {
            let said = String::from_utf8(output.stdout).unwrap();
            assert!(output.status.success() && said.contains("agenthost_exporter::"), "{said}");
            assert!(said.contains("Type: cpu"), "{said}");
        }
    }
}

#[test]
fn one_profile_at_a_time_as_a_picture_too_and_nothing_where_it_is_off() {
    let (_root, sidecar) = start(&["--web.enable-pprof"]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| profile(&sidecar, "?seconds=3&format=svg"));
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(code(&ask(sidecar.address, "GET /debug/pprof/profile?seconds=1")), 409);
        let (head, body) = first.join().unwrap();
        assert!(head.contains("content-type: image/svg+xml"), "{head}");
        assert!(String::from_utf8(body).unwrap().contains("<svg"));
    });
    let index = ask(sidecar.address, "GET /debug/pprof/");
    assert!(code(&index) == 200 && String::from_utf8(index.1).unwrap().contains("/debug/pprof/heap"));
    for (request, wanted) in [
        ("GET /debug/pprof", 200),
        ("GET /debug/pprof/profile?seconds=0", 400),
        ("GET /debug/pprof/profile?seconds=9999", 400),
        ("GET /debug/pprof/profile?format=pdf", 400),
        ("GET /debug/pprof/goroutine", 404),
        ("HEAD /debug/pprof/profile", 405),
        ("POST /debug/pprof/profile", 405),
        ("GET /debug/pprof/profile?seconds=1", 200), // the one before has ended
    ] {
        assert_eq!(code(&ask(sidecar.address, request)), wanted, "{request}");
    }
    let heap = ask(sidecar.address, "GET /debug/pprof/heap");
    match code(&heap) {
        501 => assert!(String::from_utf8(heap.1).unwrap().contains("--features heap-profile")),
        other => assert!(other == 200 && cfg!(feature = "heap-profile"), "{other}"),
    }

    let (_root, sidecar) = start(&[]);
    for path in ["/debug/pprof/", "/debug/pprof/profile", "/debug/pprof/heap"] {
        let off = ask(sidecar.address, &format!("GET {path}"));
        assert!(code(&off) == 403 && String::from_utf8(off.1).unwrap().contains("--web.enable-pprof"), "{path}");
    }
}

/// A client that leaves takes its profile with it.
#[test]
fn a_client_that_leaves_ends_its_profile() {
    let (_root, sidecar) = start(&["--web.enable-pprof"]);
    let mut leaving = TcpStream::connect(sidecar.address).unwrap();
    leaving.write_all(b"GET /debug/pprof/profile?seconds=60 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(code(&ask(sidecar.address, "GET /debug/pprof/profile?seconds=1")), 409);
    drop(leaving);
    let free = (0..50).any(|_| {
        std::thread::sleep(Duration::from_millis(100));
        code(&ask(sidecar.address, "GET /debug/pprof/profile?seconds=1")) == 200
    });
    assert!(free);
}
