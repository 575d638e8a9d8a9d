//! The server as clients meet it, the unfriendly ones among them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};

use crate::binary::{Sidecar, within_a_second};
use crate::fixture::Root;

const PATIENCE: Duration = Duration::from_secs(15);

fn start() -> (Root, Sidecar) {
    start_with("")
}

fn start_with(config: &str) -> (Root, Sidecar) {
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start(root.path(), config);
    sidecar.until("a reading", |status| status["collectors"]["messages"]["up"] == true);
    (root, sidecar)
}

/// The head, in lower case, and the body of one answer.
fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer has a head");
    (String::from_utf8(answer[..end].to_vec()).unwrap().to_ascii_lowercase(), answer[end + 4..].to_vec())
}

fn code(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

fn unpacked(gzip: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip").arg("-dc").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(gzip).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    out.stdout
}

#[test]
fn gzip_is_given_to_who_takes_it_and_says_the_same() {
    let (_root, sidecar) = start_with("[collect.exporter]\nenabled = false\n");
    let host = "Host: localhost\r\n";
    for path in ["/metrics", "/status"] {
        let (plain_head, _) = ask(sidecar.address, "GET", path, host);
        assert!(
            !plain_head.contains("content-encoding") && plain_head.contains("vary: accept-encoding"),
            "{plain_head}"
        );
        let (head, packed) = ask(sidecar.address, "GET", path, &format!("{host}Accept-Encoding: gzip\r\n"));
        assert!(head.contains("content-encoding: gzip") && head.contains("vary: accept-encoding"), "{head}");
        let text = String::from_utf8(unpacked(&packed)).unwrap();
        let known = if path == "/metrics" { "agenthost_build_info{" } else { "\"schema\":1" };
        assert!(text.contains(known) && packed.len() < text.len() / 4, "{path}: {} of {}", packed.len(), text.len());
        let (head, body) = ask(sidecar.address, "HEAD", path, &format!("{host}Accept-Encoding: gzip\r\n"));
        assert!(head.contains("content-length: ") && body.is_empty(), "{head}");
    }
    let (head, _) = ask(sidecar.address, "GET", "/status", &format!("{host}Accept-Encoding: gzip\r\n"));
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    assert!(tag.starts_with("w/\""), "{tag}");
    let again = format!("{host}If-None-Match: {}\r\n", tag.replacen('w', "W", 1));
    let unchanged = (0..50).any(|_| code(&ask(sidecar.address, "GET", "/status", &again).0) == 304);
    let newer = || ask(sidecar.address, "GET", "/status", host).0.lines().all(|line| line != format!("etag: {tag}"));
    assert!(unchanged || newer(), "a tag that stands is known");
}

#[test]
fn a_tag_that_is_known_saves_the_answer() {
    let (_root, sidecar) = start();
    let asked =
        |known: &str| ask(sidecar.address, "GET", "/status", &format!("Host: localhost\r\nIf-None-Match: {known}\r\n"));
    for known in ["*", "\"other\", *"] {
        let (head, body) = asked(known);
        assert!(code(&head) == 304 && body.is_empty() && head.contains("\r\netag: w/\""), "{known}: {head}");
        assert!(
            head.contains("\r\ncache-control: no-cache\r\n") && head.contains("\r\nvary: accept-encoding"),
            "{head}"
        );
    }
    for other in ["\"other\"", "W/\"other\"", "", "other"] {
        let (head, body) = asked(other);
        assert!(code(&head) == 200 && !body.is_empty(), "{other}: {head}");
    }
}

/// `GET` paths that there are, and those of pages.
const PATHS: [(&str, bool); 9] = [
    ("/", true),
    ("/metrics", false),
    ("/status", false),
    ("/status?section=health", false),
    ("/livez", false),
    ("/livez/loop", false),
    ("/readyz?verbose", false),
    ("/-/healthy", false),
    ("/-/ready", false),
];

#[test]
fn every_answer_carries_what_keeps_browsers_and_caches_honest() {
    let (_root, sidecar) = start();
    let host = "Host: localhost\r\n";
    for (path, is_page) in
        PATHS.into_iter().chain([("/nothing", false), ("/debug/pprof/", false), ("/-/reload", false)])
    {
        let (head, _) = ask(sidecar.address, "GET", path, host);
        let has = |header: &str| head.contains(&format!("\r\n{header}"));
        assert!(has("x-content-type-options: nosniff\r\n") && has("content-type: "), "{path}: {head}");
        let whole = path == "/status" || path == "/metrics";
        assert!(has("cache-control: no-cache, no-store") || whole && has("cache-control: no-cache"), "{path}: {head}");
        assert_eq!(has("content-security-policy: default-src 'none'"), is_page, "{path}: {head}");
        assert_eq!(has("x-frame-options: deny") && has("referrer-policy: no-referrer"), is_page, "{path}: {head}");
        assert!(!has("server: "), "{path}: {head}");
    }
}

#[test]
fn head_is_get_without_a_body_and_other_methods_are_told_which_there_are() {
    let (_root, sidecar) = start();
    let host = "Host: localhost\r\n";
    for (path, _) in PATHS {
        let (got, whole) = ask(sidecar.address, "GET", path, host);
        let (head, body) = ask(sidecar.address, "HEAD", path, host);
        assert_eq!((code(&head), body.len()), (code(&got), 0), "{path}");
        assert!(head.contains("\r\ncontent-length: ") && !whole.is_empty(), "{path}: {head}");
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "BREW"] {
            let (head, _) = ask(sidecar.address, method, path, &format!("{host}Content-Length: 0\r\n"));
            assert!(code(&head) == 405 && head.contains("\r\nallow: get, head\r\n"), "{method} {path}: {head}");
        }
    }
    for method in ["GET", "HEAD", "DELETE"] {
        let (head, _) = ask(sidecar.address, method, "/-/reload", host);
        assert!(code(&head) == 405 && head.contains("\r\nallow: post, put\r\n"), "{method}: {head}");
        assert_eq!(code(&ask(sidecar.address, method, "/nothing", host).0), 404, "{method}");
    }
}

/// A body is never waited for: nothing here takes one.
#[test]
fn a_body_is_not_waited_for() {
    let (_root, sidecar) = start();
    let announced = "Host: localhost\r\nContent-Length: 100000000000\r\n";
    let endless = "Host: localhost\r\nTransfer-Encoding: chunked\r\n";
    for headers in [announced, endless] {
        for (method, path, wanted) in [("POST", "/-/reload", 403), ("GET", "/livez", 200), ("PUT", "/metrics", 405)] {
            assert_eq!(code(&ask(sidecar.address, method, path, headers).0), wanted, "{method} {path}");
        }
    }
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    assert_eq!(code(&ask(sidecar.address, "GET", "/livez", &format!("Host: localhost\r\n{many}")).0), 431);
}

#[test]
fn it_listens_at_several_addresses_and_by_ip_version_6() {
    let Ok(other) = std::net::TcpListener::bind("[::1]:0") else {
        return eprintln!("SKIPPED: an address of IPv6, because this machine has none");
    };
    let six = other.local_addr().unwrap();
    drop(other);
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start_with(root.path(), "", &[format!("--web.listen-address={six}")]);
    sidecar.until("a reading", |status| status["collectors"]["messages"]["up"] == true);
    // The log names the first that listens: either of the two.
    assert_eq!(sidecar.get("/livez").0, 200);
    let asked = |host: &str| code(&ask(six, "GET", "/metrics", &format!("Host: {host}\r\n")).0);
    assert_eq!([asked(&six.to_string()), asked("localhost"), asked("evil.example")], [200, 200, 421]);
}

#[test]
fn strangers_names_are_refused_where_only_this_machine_can_call() {
    let (_root, sidecar) = start_with("[web]\nhosts = [\"agents.example\"]\n");
    for path in ["/", "/metrics", "/status", "/readyz?verbose"] {
        let (head, body) = ask(sidecar.address, "GET", path, "Host: evil.example\r\n");
        assert_eq!(code(&head), 421, "{path}");
        assert!(String::from_utf8(body).unwrap().contains("`hosts` in [web]"));
        for host in ["localhost:1", "127.0.0.1", "[::1]:10484", "agents.example"] {
            assert_ne!(code(&ask(sidecar.address, "GET", path, &format!("Host: {host}\r\n")).0), 421, "{path} {host}");
        }
    }
}

/// More connections than there is room for, silent or dripping: whoever comes next is served all the same.
#[test]
fn slow_clients_and_idle_ones_keep_no_probe_waiting() {
    let (_root, sidecar) = start();
    let mut others = Vec::new();
    for number in 0..1500 {
        let mut stream = TcpStream::connect(sidecar.address).unwrap();
        let begun: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /metrics HT",
            _ => b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n", // ... whose answer nobody takes
        };
        let _ = stream.write_all(begun);
        others.push(stream);
        if number % 50 == 0 {
            within_a_second(|| assert_eq!(sidecar.get("/livez").0, 200));
        }
    }
    let files = std::fs::read_dir(format!("/proc/{}/fd", sidecar.child.id())).unwrap().count();
    assert!(files < 700, "{files} open files");
    // One that asks again and again is not the one that leaves.
    let mut busy = TcpStream::connect(sidecar.address).unwrap();
    busy.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..700 {
        others.push(TcpStream::connect(sidecar.address).unwrap());
        busy.write_all(b"HEAD /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = [0; 17];
        busy.read_exact(&mut answer).unwrap();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.rotate_left(1);
            busy.read_exact(&mut answer[16..]).unwrap();
        }
    }
}

/// Whoever opens as many connections as there is room for, and uses them, drives out nobody from another address.
#[test]
fn one_address_does_not_crowd_out_another() {
    let (_root, sidecar) = start();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
    let mut other = runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
        socket.connect(sidecar.address).await.unwrap().into_std().unwrap()
    });
    other.set_nonblocking(false).unwrap();
    other.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut crowd = Vec::new();
    for _ in 0..600 {
        let mut stream = TcpStream::connect(sidecar.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"HEAD /status HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
        crowd.push(stream);
    }
    let files = || std::fs::read_dir(format!("/proc/{}/fd", sidecar.child.id())).unwrap().count();
    let begun = Instant::now();
    while files() > 250 {
        assert!(begun.elapsed() < PATIENCE * 8, "more than a quarter of 512, and our own: {}", files());
        std::thread::sleep(Duration::from_millis(20));
    }
    other.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = [0; 12];
    other.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
}

#[test]
fn a_head_that_is_too_long_is_refused() {
    let (_root, sidecar) = start();
    let long = format!("Host: localhost\r\nX: {}\r\n", "x".repeat(64 * 1024));
    let mut stream = TcpStream::connect(sidecar.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = write!(stream, "GET / HTTP/1.1\r\n{long}\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(sidecar.get("/livez").0, 200);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (_root, mut sidecar) = start();
    // Answers that nobody takes are waited for.
    let mut stream = TcpStream::connect(sidecar.address).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    let asking = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000);
    let _ = stream.write_all(&asking);
    std::thread::sleep(Duration::from_secs(1));
    let pid = Pid::from_child(&sidecar.child);
    let begun = Instant::now();
    kill_process(pid, Signal::TERM).unwrap();
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(sidecar.child.try_wait().unwrap(), None, "one signal lets them end, for a while");
    kill_process(pid, Signal::INT).unwrap();
    assert_eq!(sidecar.child.wait().unwrap().code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
