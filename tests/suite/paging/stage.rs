//! Whoever is called: a real Prometheus and a real Alertmanager with what is shipped in `alerts/`, and a catcher of all
//! that is sent. Several Prometheis may look at the same sidecars, each with an Alertmanager of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use regex_lite::Regex;
use serde_json::{Value, json};

/// For what takes seconds where nothing else runs.
const PATIENCE: Duration = Duration::from_secs(180);

/// A minute of the rules, and of the sidecars' own policy.
pub const MINUTE: Duration = Duration::from_secs(2);

/// What Alertmanager has sent: to which receiver, which is the path, and the alert.
#[derive(Debug, Clone)]
pub struct Sent {
    pub at: jiff::Timestamp,
    pub to: String,
    pub alert: Value,
}

impl Sent {
    pub fn label(&self, name: &str) -> &str {
        self.alert["labels"][name].as_str().unwrap_or_default()
    }

    pub fn is(&self, status: &str) -> bool {
        self.alert["status"] == status
    }

    pub fn description(&self) -> &str {
        self.alert["annotations"]["description"].as_str().unwrap_or_default()
    }
}

/// Keeps all that Alertmanager sends.
struct Catcher {
    address: SocketAddr,
    caught: Arc<Mutex<Vec<Sent>>>,
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
}

fn catch(mut socket: TcpStream, caught: &Mutex<Vec<Sent>>) -> std::io::Result<()> {
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
    let to = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let alerts = message["alerts"].as_array().cloned().unwrap_or_default();
    caught.lock().unwrap().extend(alerts.into_iter().map(|alert| Sent {
        at: jiff::Timestamp::now(),
        to: to.clone(),
        alert,
    }));
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

fn start(program: &Path, folder: &Path, log: &str, arguments: &[&str]) -> Option<Ended> {
    let log = fs::File::create(folder.join(log)).unwrap();
    let child = Command::new(program).args(arguments).current_dir(folder).stdout(Stdio::null()).stderr(log).spawn();
    match child {
        Ok(child) => Some(Ended(child)),
        Err(error) => {
            crate::skipped("the way of a page", &format!("{}: {error}", program.display()));
            None
        }
    }
}

/// The JSON at a path. By HTTP 1.0, so that it comes in one piece.
fn ask(address: SocketAddr, path: &str) -> Option<Value> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
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

/// One Prometheus, its Alertmanager, and who is told.
pub struct Pager {
    catcher: Catcher,
    prometheus: SocketAddr,
    alertmanager: SocketAddr,
    folder: tempfile::TempDir,
    _running: [Ended; 2],
}

impl Pager {
    fn new(prometheus: &Path, targets: &Path) -> Option<Pager> {
        let (folder, catcher) = (tempfile::tempdir().unwrap(), Catcher::start());
        let addresses = (free(), free());
        let scrape = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [rules.yml]\n\
             alerting: {{alertmanagers: [{{static_configs: [{{targets: ['{}']}}]}}]}}\nscrape_configs:\n  \
             - {{job_name: agenthost, file_sd_configs: [{{files: ['{}'], refresh_interval: 1s}}]}}\n",
            addresses.1,
            targets.display()
        );
        let files = [("rules.yml", rules()), ("prometheus.yml", scrape), ("alertmanager.yml", routes(catcher.address))];
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let listen = |address: SocketAddr| format!("--web.listen-address={address}");
        let here = folder.path();
        let alertmanager = start(
            Path::new("prometheus-alertmanager"),
            here,
            "alertmanager.log",
            &["--config.file=alertmanager.yml", "--storage.path=a", "--cluster.listen-address=", &listen(addresses.1)],
        )?;
        let running = start(
            prometheus,
            here,
            "prometheus.log",
            // It knows of no Alertmanager for its first seconds, and tells the first of its alerts again after a minute.
            &[
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=p",
                "--rules.alert.resend-delay=5s",
                &listen(addresses.0),
            ],
        )?;
        let (prometheus, alertmanager, running) = (addresses.0, addresses.1, [alertmanager, running]);
        Some(Pager { catcher, prometheus, alertmanager, folder, _running: running })
    }

    /// All that was sent so far, in its order.
    pub fn sent(&self) -> Vec<Sent> {
        self.catcher.caught.lock().unwrap().clone()
    }

    pub fn find(&self, wanted: impl Fn(&Sent) -> bool) -> Option<Sent> {
        self.sent().into_iter().find(wanted)
    }

    fn forget(&self) {
        self.catcher.caught.lock().unwrap().clear();
    }

    /// The series that an expression has now; `None`: Prometheus does not say.
    pub fn series(&self, expression: &str) -> Option<Vec<Value>> {
        let escaped: String = expression.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = ask(self.prometheus, &format!("/api/v1/query?query={escaped}"))?;
        Some(answer["data"]["result"].as_array()?.iter().map(|one| one["metric"].clone()).collect())
    }

    /// How many they are.
    pub fn count(&self, expression: &str) -> Option<usize> {
        self.series(expression).map(|series| series.len())
    }

    /// By which alerts this one is silenced, by Alertmanager's own word: their names and instances.
    pub fn silencers(&self, name: &str, instance: &str) -> Vec<(String, String)> {
        let answer = ask(self.alertmanager, "/api/v2/alerts");
        let alerts = answer.as_ref().and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let label = |alert: &Value, name: &str| alert["labels"][name].as_str().unwrap_or_default().to_owned();
        let is_it = |alert: &&Value| label(alert, "alertname") == name && label(alert, "instance") == instance;
        let by = alerts.iter().filter(is_it).flat_map(|alert| alert["status"]["inhibitedBy"].as_array().unwrap());
        let sources = by.filter_map(|print| alerts.iter().find(|alert| alert["fingerprint"] == *print));
        sources.map(|source| (label(source, "alertname"), label(source, "instance"))).collect()
    }

    fn logs(&self) -> String {
        let log = |name: &str| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        [log("prometheus.log"), log("alertmanager.log")].concat()
    }
}

/// All who look, and at what.
pub struct Stage {
    pub pagers: Vec<Pager>,
    targets: PathBuf,
    _folder: tempfile::TempDir,
}

impl Stage {
    /// With these Prometheis; `None` if there is none.
    pub fn new(prometheis: &[PathBuf]) -> Option<Stage> {
        let folder = tempfile::tempdir().unwrap();
        let targets = folder.path().join("targets.json");
        fs::write(&targets, "[]").unwrap();
        let pagers = prometheis.iter().map(|program| Pager::new(program, &targets)).collect::<Option<Vec<_>>>()?;
        Some(Stage { pagers, targets, _folder: folder })
    }

    /// From now on these are scraped, each under its name.
    pub fn watch(&self, sidecars: &[(&str, SocketAddr)]) {
        let target = |(name, address): &(&str, SocketAddr)| json!({"targets": [address], "labels": {"instance": name}});
        let written = self.targets.with_extension("new");
        fs::write(&written, Value::from_iter(sidecars.iter().map(target)).to_string()).unwrap();
        fs::rename(written, &self.targets).unwrap();
    }

    /// Waits until it is so, or was, for each of them.
    pub fn until(&self, what: &str, wanted: impl Fn(&Pager) -> bool) {
        self.is_before(what, wanted, |_| false);
    }

    /// Whether it was so for each of them before, for one, it was `over`.
    pub fn is_before(&self, what: &str, wanted: impl Fn(&Pager) -> bool, over: impl Fn(&Pager) -> bool) -> bool {
        let (begun, mut waiting) = (Instant::now(), Vec::from_iter(&self.pagers));
        loop {
            waiting.retain(|pager| !wanted(pager));
            let Some(pager) = waiting.first() else { return true };
            if waiting.iter().any(|pager| over(pager)) {
                return false;
            }
            if begun.elapsed() > PATIENCE {
                let sent: Vec<_> = pager.sent().iter().map(line).collect();
                panic!("never: {what}\n{}\n{}", sent.join("\n"), pager.logs());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// ... that an expression has so many series.
    pub fn until_count(&self, expression: &str, count: usize) {
        self.until(&format!("{count} times {expression}"), |pager| pager.count(expression) == Some(count));
    }

    pub fn forget(&self) {
        self.pagers.iter().for_each(Pager::forget);
    }
}

/// An alert that was sent, in one line.
pub fn line(sent: &Sent) -> String {
    let [name, instance, subject] = ["alertname", "instance", "subject"].map(|label| sent.label(label));
    let (status, since, said) = (&sent.alert["status"], &sent.alert["startsAt"], sent.description());
    format!("{:.1} {}: {status} {name} at {instance} of {subject:?} since {since}: {said}", sent.at, sent.to)
}
