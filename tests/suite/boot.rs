//! A host that is restarted: a real process, whose port is closed until it serves. Within its grace nobody is paged, and
//! after it whoever does not come up is.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::Api;
use crate::binary::{Sidecar, error};
use crate::door::{Door, Process};
use crate::fixture::Root;

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
