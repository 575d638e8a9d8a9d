//! The real binary, given another configuration while it runs.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binary::{FAST, Sidecar};
use crate::fixture::Root;

const PATIENCE: Duration = Duration::from_secs(30);

/// Nobody answers there: the host is down, and its check fails soon.
const DOWN: &str = "[host]\nurl = \"http://127.0.0.1:1\"\n[checks.service_up]\nfail_for = \"2s\"\n";

fn write(root: &Path, text: &str) {
    std::fs::write(root.join("exporter.toml"), format!("{FAST}{text}")).unwrap();
}

fn hang_up(sidecar: &Sidecar) {
    kill_process(Pid::from_child(&sidecar.child), Signal::HUP).unwrap();
}

fn check<'a>(status: &'a Value, name: &str) -> &'a Value {
    let checks = status["health"]["checks"].as_array().unwrap();
    checks.iter().find(|check| check["check"] == name).unwrap_or(&Value::Null)
}

fn loaded(status: &Value) -> String {
    status["sidecar"]["config"]["loaded_at"].as_str().unwrap().to_owned()
}

/// The value of a line of `/metrics`.
fn metric(sidecar: &Sidecar, name: &str) -> Option<f64> {
    let text = sidecar.get("/metrics").1;
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn post(address: SocketAddr, headers: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(
        stream,
        "POST /-/reload HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

#[test]
fn a_hangup_changes_the_policy_and_keeps_what_was_seen() {
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start(root.path(), DOWN);
    let status = sidecar.until("failed", |status| check(status, "service_up")["state"] == "failed");
    assert_eq!(sidecar.get("/readyz").0, 503);
    let (since, first) = (check(&status, "service_up")["since"].clone(), loaded(&status));
    let counted = metric(&sidecar, "agenthost_messages_received_total{group=\"family\"}").unwrap();

    // Without the channels of a host that does not answer, which have their own say.
    let off = |text: String, name: &str| text.replace(&format!("[{name}]\n"), &format!("[{name}]\nenabled = false\n"));
    let less = off(off(FAST.to_owned(), "collect.usage"), "collect.channels");
    std::fs::write(root.path().join("exporter.toml"), format!("{less}{DOWN}severity = \"warning\"\n")).unwrap();
    hang_up(&sidecar);
    let status = sidecar.until("reloaded", |status| loaded(status) != first);
    assert_eq!(check(&status, "service_up")["severity"], "warning");
    assert_eq!(check(&status, "service_up")["since"], since, "the failure is the same one");
    assert_eq!((sidecar.get("/readyz").0, &status["usage"]), (200, &Value::Null));
    assert!(status["collectors"]["usage"].is_null() && status["collectors"]["messages"]["up"] == true);
    assert!(!sidecar.get("/metrics").1.contains("collector=\"usage\""));
    assert_eq!(metric(&sidecar, "agenthost_messages_received_total{group=\"family\"}"), Some(counted));

    write(root.path(), DOWN);
    hang_up(&sidecar);
    sidecar.until("usage is back", |status| status["collectors"]["usage"]["up"] == true);
    assert_eq!(sidecar.get("/readyz").0, 503, "it never was anything but failed");
}

/// Rows that the host prunes are gone for whoever begins to count now, and were counted all the same.
#[test]
fn a_counter_does_not_fall_when_its_collector_is_configured_anew() {
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start(root.path(), DOWN);
    sidecar.until("messages", |status| status["collectors"]["messages"]["up"] == true);
    let received = "agenthost_messages_received_total{group=\"family\"}";
    let counted = metric(&sidecar, received).unwrap();
    let host = rusqlite::Connection::open(root.database()).unwrap();
    assert!(
        host.execute("DELETE FROM messages WHERE rowid NOT IN (SELECT max(rowid) FROM messages GROUP BY chat_jid)", [])
            .unwrap()
            > 0
    );
    for (round, interval) in ["2s", "3s"].into_iter().enumerate() {
        let fast = FAST.replace(
            "[collect.messages]\ninterval = \"1s\"",
            &format!("[collect.messages]\ninterval = \"{interval}\""),
        );
        std::fs::write(root.path().join("exporter.toml"), format!("{fast}{DOWN}")).unwrap();
        let first = loaded(&sidecar.status());
        hang_up(&sidecar);
        let status = sidecar.until_patiently("reloaded", |status| loaded(status) != first);
        let at = loaded(&status);
        sidecar.until_patiently("a reading since", |status| {
            status["collectors"]["messages"]["last_success_at"].as_str().is_some_and(|seen| *seen > *at)
        });
        assert_eq!(metric(&sidecar, received), Some(counted), "round {round}");
    }
}

#[test]
fn a_file_that_is_wrong_changes_nothing_and_is_told() {
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start_with(root.path(), DOWN, &["--web.enable-lifecycle".to_owned()]);
    let status = sidecar.until("a reading", |status| status["collectors"]["messages"]["up"] == true);
    let first = loaded(&status);
    assert_eq!(metric(&sidecar, "agenthost_config_last_reload_successful"), Some(1.0));

    let other = tempfile::tempdir().unwrap();
    std::fs::create_dir(other.path().join("data")).unwrap();
    std::fs::write(other.path().join("data/messages.db"), "").unwrap();
    for (text, says) in [
        ("[chekcs]\n".to_owned(), "unknown table `chekcs`"),
        ("[host]\nurl = \"nowhere\"\n".to_owned(), "not a URL"),
        ("[collect.service]\nboot_grace = 3\n".to_owned(), "duplicate"),
    ] {
        write(root.path(), &text);
        let (code, body) = post(sidecar.address, "");
        assert!(code == 500 && body.contains(says), "{text}: {code} {body}");
        let status = sidecar.status();
        assert!(status["sidecar"]["config"]["error"].as_str().unwrap().contains(says), "{status}");
        assert_eq!(loaded(&status), first);
        assert_eq!(metric(&sidecar, "agenthost_config_last_reload_successful"), Some(0.0));
        assert!(check(&status, "service_up")["rule"].as_str().unwrap().contains("2s"), "the old policy holds");
    }
    std::fs::remove_file(root.path().join("exporter.toml")).unwrap();
    assert_eq!(post(sidecar.address, "").0, 500, "a file that is gone");
    write(root.path(), DOWN);
    assert_eq!(post(sidecar.address, ""), (200, "reloaded\n".to_owned()));
    let status = sidecar.status();
    assert!(status["sidecar"]["config"]["error"].is_null() && loaded(&status) != first);
    assert_eq!(metric(&sidecar, "agenthost_config_last_reload_successful"), Some(1.0));
}

#[test]
fn a_reload_by_http_is_for_who_may() {
    let root = Root::with_history(Timestamp::now());
    let shut = Sidecar::start(root.path(), DOWN);
    let (code, body) = post(shut.address, "");
    assert!(code == 403 && body.contains("--web.enable-lifecycle"), "{code} {body}");
    let open = Sidecar::start_with(root.path(), DOWN, &["--web.enable-lifecycle".to_owned()]);
    for header in ["Origin: http://evil.example\r\n", "Sec-Fetch-Site: cross-site\r\n", "Origin: null\r\n"] {
        assert_eq!(post(open.address, header).0, 403, "{header}");
    }
    assert_eq!(post(open.address, "Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\n").0, 200);
    assert_eq!(open.get("/-/reload").0, 405);
}

#[test]
fn another_configuration_of_the_host_is_another_one_of_ours() {
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start(root.path(), "");
    let first = loaded(&sidecar.until("a reading", |status| status["collectors"]["service"]["up"] == true));
    std::fs::write(root.path().join("config.toml"), "[server]\nport = 2\n[gateway]\nlitellm_config = \"l.yaml\"\n")
        .unwrap();
    let begun = Instant::now();
    while loaded(&sidecar.status()) == first {
        assert!(begun.elapsed() < PATIENCE, "never reloaded");
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = sidecar.until("its gateway", |status| status["collectors"]["gateway"]["up"] == true);
    assert_eq!(status["gateway"]["mode"], "litellm", "{}", status["gateway"]);
}

/// As Kubernetes mounts a ConfigMap: the file is a link through a link that is swapped.
#[test]
fn a_swapped_link_is_a_new_configuration_without_a_signal() {
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start(root.path(), "");
    let mounted = |version: &str, text: &str| {
        let folder = root.path().join(version);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("exporter.toml"), format!("{FAST}{text}")).unwrap();
        let _ = std::fs::remove_file(root.path().join("..tmp"));
        std::os::unix::fs::symlink(&folder, root.path().join("..tmp")).unwrap();
        std::fs::rename(root.path().join("..tmp"), root.path().join("..data")).unwrap();
    };
    mounted("v1", "");
    std::fs::remove_file(root.path().join("exporter.toml")).unwrap();
    std::os::unix::fs::symlink("..data/exporter.toml", root.path().join("exporter.toml")).unwrap();
    let first = loaded(&sidecar.status());
    mounted("v2", "[checks.service_up]\nenabled = false\n");
    let begun = Instant::now();
    while loaded(&sidecar.status()) == first {
        assert!(begun.elapsed() < PATIENCE, "never reloaded");
        std::thread::sleep(Duration::from_millis(100));
    }
    sidecar.until("the new one", |status| check(status, "service_up").is_null());
}

#[test]
fn reloads_under_load_lose_no_scrape_and_no_window() {
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start_with(root.path(), DOWN, &["--web.enable-lifecycle".to_owned()]);
    let status = sidecar.until("failed", |status| check(status, "service_up")["state"] == "failed");
    let since = check(&status, "service_up")["since"].clone();
    let (stop, address) = (Arc::new(AtomicBool::new(false)), sidecar.address);
    let scrapers: Vec<_> = ["/metrics", "/status", "/readyz"]
        .map(|path| {
            let stop = stop.clone();
            std::thread::spawn(move || {
                let mut codes = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    codes.push(crate::binary::get(address, path).unwrap().0);
                }
                codes
            })
        })
        .into();
    for round in 0..200 {
        write(root.path(), &format!("{DOWN}recover_for = \"{}s\"\n", 60 + round));
        assert_eq!(post(address, ""), (200, "reloaded\n".to_owned()), "round {round}");
    }
    stop.store(true, Ordering::Relaxed);
    let [metrics, status, ready]: [Vec<u16>; 3] =
        scrapers.into_iter().map(|one| one.join().unwrap()).collect::<Vec<_>>().try_into().unwrap();
    for (codes, code) in [(&metrics, 200), (&status, 200), (&ready, 503)] {
        let others: Vec<_> = codes.iter().filter(|answered| **answered != code).collect();
        assert!(codes.len() > 10 && others.is_empty(), "{code}: {others:?} of {}", codes.len());
    }
    let now = sidecar.status();
    assert_eq!(check(&now, "service_up")["since"], since);
    assert_eq!(now["collectors"]["service"]["up"], true);
}
