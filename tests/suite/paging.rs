//! The way of a page: a host that breaks, the sidecar, a real Prometheus, a real Alertmanager, and who is called.
//!
//! Rules and routes are those that are shipped. Their minutes are made seconds, all in the same way; nothing else is changed.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use regex_lite::Regex;
use serde_json::{Value, json};

use crate::api::Api;
use crate::binary::{Sidecar, get};
use crate::fixture::Root;

/// For what takes seconds where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(180);

const CHANNEL: &str = "connection.slack.acme";

/// A minute of the rules.
const MINUTE: Duration = Duration::from_secs(3);

/// Keeps all that Alertmanager sends: the receiver, which is the path, and the alert.
struct Catcher {
    address: SocketAddr,
    caught: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Catcher {
    fn start() -> Catcher {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, caught) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<_>>>::default());
        let kept = caught.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || drop(catch(socket, &kept)));
            }
        });
        Catcher { address, caught }
    }

    /// Whether somebody was told that an alert is so.
    fn has(&self, receiver: &str, name: &str, status: &str) -> bool {
        self.find(receiver, name, status).is_some()
    }

    fn find(&self, receiver: &str, name: &str, status: &str) -> Option<Value> {
        let caught = self.caught.lock().unwrap();
        let wanted = caught
            .iter()
            .find(|(to, alert)| to == receiver && alert["labels"]["alertname"] == name && alert["status"] == status);
        wanted.map(|(_, alert)| alert.clone())
    }

    fn of(&self, receiver: &str) -> Vec<Value> {
        let caught = self.caught.lock().unwrap();
        caught.iter().filter(|(to, _)| to == receiver).map(|(_, alert)| alert.clone()).collect()
    }
}

fn catch(mut socket: TcpStream, caught: &Mutex<Vec<(String, Value)>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line == "\r\n" {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    let receiver = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let alerts = message["alerts"].as_array().cloned().unwrap_or_default();
    caught.lock().unwrap().extend(alerts.into_iter().map(|alert| (receiver.clone(), alert)));
    write!(socket, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

/// A child that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(program: &str, folder: &Path, arguments: &[String]) -> Option<Ended> {
    let log = fs::File::create(folder.join(format!("{program}.log"))).unwrap();
    let child = Command::new(program).args(arguments).current_dir(folder).stdout(Stdio::null()).stderr(log).spawn();
    match child {
        Ok(child) => Some(Ended(child)),
        Err(error) => {
            crate::skipped("the way of a page", &format!("{program}: {error}"));
            None
        }
    }
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn shipped(name: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("alerts").join(name)).unwrap()
}

/// The rules with every minute that they wait made shorter.
fn rules() -> String {
    let waits = Regex::new(r"(for: |keep_firing_for: |\[)(\d+)m\b").unwrap();
    let shorter = |found: &regex_lite::Captures<'_>| {
        format!("{}{}s", &found[1], found[2].parse::<u64>().unwrap() * MINUTE.as_secs())
    };
    waits.replace_all(&shipped("agenthost.rules.yml"), shorter).into_owned()
}

/// The routes and inhibitions as they are, sooner, with receivers that can be reached here.
fn routes(catcher: SocketAddr) -> String {
    let example = shipped("alertmanager.example.yml");
    let waits = Regex::new(r"(group_wait|group_interval): \w+").unwrap();
    let routes = waits.replace_all(example.split("\nreceivers:").next().unwrap(), "$1: 1s").into_owned();
    let receivers = ["page", "tickets", "watchdog", "nobody"]
        .map(|name| format!("  - name: {name}\n    webhook_configs: [{{url: 'http://{catcher}/{name}'}}]\n"));
    format!("{routes}\nreceivers:\n{}", receivers.concat())
}

struct Stage {
    api: Api,
    catcher: Catcher,
    prometheus: SocketAddr,
    running: (Ended, Ended, Sidecar),
    folder: tempfile::TempDir,
    _root: Root,
}

impl Stage {
    fn new() -> Option<Stage> {
        let (root, api, catcher) = (Root::with_history(Timestamp::now()), Api::healthy(), Catcher::start());
        let policy = "[checks.channel_connected]\nfail_for = \"15s\"\nrecover_for = \"1s\"\n";
        let sidecar = Sidecar::start(root.path(), &format!("[host]\nurl = \"{}\"\n{policy}", api.url));
        let folder = tempfile::tempdir().unwrap();
        let (prometheus, alertmanager) = (free(), free());
        let scrape = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{alertmanager}']}}]}}]}}\n\
             scrape_configs: [{{job_name: agenthost, static_configs: [{{targets: ['{}']}}]}}]\n",
            sidecar.address
        );
        for (name, text) in
            [("rules.yml", rules()), ("prometheus.yml", scrape), ("alertmanager.yml", routes(catcher.address))]
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let flags = |more: &[&str]| more.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>();
        let listen = |address: SocketAddr| format!("--web.listen-address={address}");
        let own = ["--config.file=alertmanager.yml", "--storage.path=alertmanager", "--cluster.listen-address="];
        let alertmanager =
            start("prometheus-alertmanager", folder.path(), &[flags(&own), vec![listen(alertmanager)]].concat())?;
        let own = ["--config.file=prometheus.yml", "--storage.tsdb.path=prometheus"];
        let running = start("prometheus", folder.path(), &[flags(&own), vec![listen(prometheus)]].concat())?;
        let running = (alertmanager, running, sidecar);
        Some(Stage { api, catcher, prometheus, running, folder, _root: root })
    }

    fn connected(&self, connected: bool) {
        let mut status: Value = serde_json::from_str(&self.api.said("/status")).unwrap();
        status["channels"][CHANNEL] = json!(connected);
        self.api.json("/status", status);
    }

    /// How many series an expression has now.
    fn count(&self, expression: &str) -> Option<u64> {
        let escaped: String = format!("count({expression})").bytes().map(|byte| format!("%{byte:02x}")).collect();
        let (_, body) = get(self.prometheus, &format!("/api/v1/query?query={escaped}")).ok()?;
        let answer: Value = serde_json::from_str(&body).ok()?;
        let result = answer["data"]["result"].as_array()?;
        result.first().map_or(Some(0), |one| one["value"][1].as_str()?.parse().ok())
    }

    fn until(&self, what: &str, wanted: impl Fn() -> bool) {
        let begun = Instant::now();
        while !wanted() {
            if begun.elapsed() > PATIENCE {
                let log = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
                let logs = [log("prometheus.log"), log("prometheus-alertmanager.log")].concat();
                panic!("never: {what}\n{:#?}\n{logs}", self.catcher.caught.lock().unwrap());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Whether Prometheus has seen that the channel is so.
    fn until_seen(&self, bad: u8) {
        let seen = format!("agenthost_check_bad{{check=\"channel_connected\",subject=\"{CHANNEL}\"}} == {bad}");
        self.until(&format!("{seen} in Prometheus"), || self.count(&seen) == Some(1));
    }

    /// The channel is gone until Prometheus has seen it; for how long that was.
    fn blip(&self) -> Duration {
        let begun = Instant::now();
        self.connected(false);
        self.until_seen(1);
        self.connected(true);
        self.until_seen(0);
        begun.elapsed()
    }
}

/// How many alerts there are, or were within the last minute.
fn past_and_present(stage: &Stage, about: &str) -> Option<u64> {
    stage.count(&format!("count_over_time(ALERTS{{{about}}}[1m])"))
}

#[test]
fn what_breaks_pages_with_its_subject_and_resolves_and_a_blip_pages_nobody() {
    let Some(mut stage) = Stage::new() else { return };
    let about = "alertname=~\"AgentHostChannelDisconnected|AgentHostUnhealthy\"";
    stage.until("the watchdog", || stage.catcher.has("watchdog", "Watchdog", "firing"));
    stage.until_seen(0);

    // On a machine that is too busy for a blip it was none, and what follows would prove nothing: once all is quiet, again.
    let mut attempts = 0;
    while stage.blip() > MINUTE * 3 {
        attempts += 1;
        assert!(attempts < 5, "no blip is short enough here");
        stage.until("quiet", || past_and_present(&stage, about) == Some(0));
        stage.catcher.caught.lock().unwrap().clear();
    }
    stage.until("quiet after the blip", || stage.count(&format!("ALERTS{{{about}}}")) == Some(0));
    let past = |state: &str| stage.count(&format!("count_over_time(ALERTS{{{about},alertstate=\"{state}\"}}[1m])"));
    assert!(past("pending") >= Some(1), "the rule has seen the blip");
    assert_eq!(past("firing"), Some(0));
    assert_eq!(stage.catcher.of("page"), [Value::Null; 0], "nobody is paged for a blip");

    stage.connected(false);
    stage.until("a page for the channel", || stage.catcher.has("page", "AgentHostChannelDisconnected", "firing"));
    stage.until("a page for the host", || stage.catcher.has("page", "AgentHostUnhealthy", "firing"));
    let page = stage.catcher.find("page", "AgentHostChannelDisconnected", "firing").unwrap();
    assert_eq!(page["labels"]["subject"], CHANNEL);
    assert_eq!(page["labels"]["severity"], "critical");
    let description = page["annotations"]["description"].as_str().unwrap();
    assert!(description.contains(&format!("lost the channel {CHANNEL}")), "{description}");
    let host = stage.catcher.find("page", "AgentHostUnhealthy", "firing").unwrap();
    let description = host["annotations"]["description"].as_str().unwrap();
    assert!(description.ends_with(&format!("Failed: channel_connected of {CHANNEL};")), "{description}");

    stage.connected(true);
    for name in ["AgentHostChannelDisconnected", "AgentHostUnhealthy"] {
        stage.until(&format!("{name} resolved"), || stage.catcher.has("page", name, "resolved"));
    }
    let names: Vec<_> = stage.catcher.of("page").iter().map(|alert| alert["labels"]["alertname"].clone()).collect();
    assert!(
        names.iter().all(|name| *name == "AgentHostChannelDisconnected" || *name == "AgentHostUnhealthy"),
        "{names:?}"
    );
    let tickets = stage.catcher.of("tickets");
    assert!(tickets.iter().all(|alert| alert["labels"]["severity"] == "warning"), "{tickets:#?}");

    stage.running.2.terminate();
    stage.until("a page that nobody watches", || stage.catcher.has("page", "AgentHostSidecarDown", "firing"));
}
