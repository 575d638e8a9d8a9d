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
    read(&mut send(address, request))
}

fn send(address: SocketAddr, request: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

fn read(stream: &mut TcpStream) -> (String, Vec<u8>) {
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

/// Gives it something to do meanwhile.
fn while_busy<T>(sidecar: &Sidecar, act: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                ask(sidecar.address, "GET /status?section=tasks");
                ask(sidecar.address, "GET /metrics");
            }
        });
        let done = act();
        over.store(true, Ordering::Relaxed);
        done
    })
}

/// A client whose profile is being taken: another one is told so.
fn taking(address: SocketAddr, query: &str) -> TcpStream {
    for _ in 0..10 {
        let first = send(address, &format!("GET /debug/pprof/profile{query}"));
        let (head, body) = ask(address, "GET /debug/pprof/profile?seconds=1");
        match code(&(head.clone(), Vec::new())) {
            409 => {
                assert_eq!(String::from_utf8(body).unwrap(), "a profile is being taken: come again\n");
                return first;
            }
            other => assert_eq!(other, 200, "the second was there before the first: {head}"),
        }
    }
    panic!("never the first");
}

#[test]
fn a_profile_names_our_own_functions() {
    let (_root, sidecar) = start(&["--web.enable-pprof"]);
    let answer = while_busy(&sidecar, || ask(sidecar.address, "GET /debug/pprof/profile?seconds=3"));
    assert_eq!(code(&answer), 200, "{}", answer.0);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &answer.1).unwrap();
    let unpacked = Command::new("gzip").arg("-dc").stdin(file.reopen().unwrap()).output().unwrap();
    let fields = fields(&unpacked.stdout);
    let strings: Vec<_> = fields[&6].iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    assert_eq!(strings[0], "", "as the format wants");
    assert!(["samples", "count", "cpu", "nanoseconds"].iter().all(|word| strings.iter().any(|text| text == word)));
    assert!(strings.iter().any(|text| text.starts_with("agenthost_exporter::")), "{strings:?}");
    assert!(fields[&2].len() > 3, "{} samples", fields[&2].len());

    if let Some(said) = read_by_go(&answer.1) {
        assert!(said.contains("Type: cpu") && said.contains("agenthost_exporter::"), "{said}");
    }
}

/// What `go tool pprof` makes of a profile; `None` where there is no Go.
fn read_by_go(profile: &[u8]) -> Option<String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(profile).unwrap();
    let home = env!("CARGO_TARGET_TMPDIR"); // it keeps what it has compiled
    let mut command = Command::new("go");
    command.args(["tool", "pprof", "-top", "-cum", "-nodecount=1000"]).arg(file.path());
    let Ok(output) = command.env("HOME", home).output() else {
        crate::skipped("go tool pprof", "there is no Go here");
        return None;
    };
    let (said, why) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success(), "{said}{why}");
    Some(said)
}

#[test]
fn one_profile_at_a_time_as_a_picture_too_and_nothing_where_it_is_off() {
    let (_root, sidecar) = start(&["--web.enable-pprof"]);
    let (head, body) = while_busy(&sidecar, || read(&mut taking(sidecar.address, "?seconds=3&format=svg")));
    assert!(head.contains("content-type: image/svg+xml"), "{head}");
    assert!(String::from_utf8(body).unwrap().contains("<svg"));
    let index = ask(sidecar.address, "GET /debug/pprof/");
    let said = String::from_utf8(index.1.clone()).unwrap();
    assert!(code(&index) == 200 && said.contains("/debug/pprof/heap") && said.contains("MB of memory"), "{said}");
    let (head, body) = ask(sidecar.address, "HEAD /debug/pprof/");
    assert!(head.contains(&format!("content-length: {}", said.len())) && body.is_empty(), "{head}");
    for (path, allow) in [("/debug/pprof/", "GET, HEAD"), ("/debug/pprof/profile", "GET"), ("/debug/pprof/heap", "GET")]
    {
        let (head, _) = ask(sidecar.address, &format!("DELETE {path}"));
        assert!(head.contains(" 405 ") && head.contains(&format!("\r\nallow: {allow}\r\n")), "{head}");
    }
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
    for path in ["/debug/pprof/heap", "/debug/pprof/allocs"] {
        let heap = ask(sidecar.address, &format!("GET {path}"));
        if cfg!(feature = "heap-profile") {
            assert_eq!(code(&heap), 200);
        } else {
            let why = String::from_utf8(heap.1.clone()).unwrap();
            assert!(code(&heap) == 501 && why.contains("--features heap-profile"), "{why}");
        }
    }

    let (_root, sidecar) = start(&[]);
    for path in ["/debug/pprof/", "/debug/pprof/profile", "/debug/pprof/heap"] {
        let off = ask(sidecar.address, &format!("GET {path}"));
        assert!(code(&off) == 403 && String::from_utf8(off.1).unwrap().contains("--web.enable-pprof"), "{path}");
    }
}

/// `tests/run` builds it once with the feature.
#[cfg(feature = "heap-profile")]
#[test]
fn a_heap_profile_says_who_holds_the_memory() {
    let (_root, sidecar) = start(&["--web.enable-pprof"]);
    for _ in 0..2 {
        let (head, profile) = ask(sidecar.address, "GET /debug/pprof/heap");
        assert!(head.contains("200 OK") && head.contains("filename=\"heap.pb.gz\""), "{head}");
        if let Some(said) = read_by_go(&profile) {
            assert!(said.contains("Type: inuse_space") && said.contains("agenthost_exporter::"), "{said}");
        }
    }
}

/// A client that leaves takes its profile with it.
#[test]
fn a_client_that_leaves_ends_its_profile() {
    let (_root, sidecar) = start(&["--web.enable-pprof"]);
    drop(taking(sidecar.address, "?seconds=300"));
    let begun = std::time::Instant::now();
    while code(&ask(sidecar.address, "GET /debug/pprof/profile?seconds=1")) != 200 {
        assert!(begun.elapsed() < Duration::from_secs(120), "still taken");
        std::thread::sleep(Duration::from_millis(100));
    }
}
