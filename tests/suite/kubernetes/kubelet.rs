//! The pod as a kubelet runs it: containers are real processes, probes are real programs, and what their answers make of
//! readiness goes by the rules of the kubelet. Its clock is the number of probes: whatever the machine is doing, as many
//! fall into a restart of the sidecar as do in a cluster.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{Pod, Rendered, SIDECAR, overlay, tools, words};
use crate::binary::{exporter, get};

const PATIENCE: Duration = Duration::from_secs(120);

/// Where containers have something of the pod's.
const VOLUMES: &[&str] = &["/agenthost", "/srv/host", "/etc/agenthost-exporter", "/var/lib/agenthost-exporter"];

/// What lasts so long is a failure here; the rest is as delivered.
const SOON: &str = r#"
[collect.service]
interval = "1s"
[checks.service_responding]
fail_for = "2s"
recover_for = "1s"
[checks.service_up]
fail_for = "2s"
recover_for = "1s"
"#;

/// Counts the answers of one probe as the kubelet does: only as many alike, one after the other, as its threshold says
/// change anything; a container is not ready before the first such.
struct Readiness {
    failures: u64,
    successes: u64,
    last: Option<bool>,
    alike: u64,
    ready: bool,
}

impl Readiness {
    fn of(probe: &Value) -> Readiness {
        let threshold = |key: &str, default| probe[key].as_u64().unwrap_or(default);
        let (failures, successes) = (threshold("failureThreshold", 3), threshold("successThreshold", 1));
        Readiness { failures, successes, last: None, alike: 0, ready: false }
    }

    fn heard(&mut self, well: bool) -> bool {
        self.alike = if self.last == Some(well) { self.alike + 1 } else { 1 };
        self.last = Some(well);
        if self.alike >= if well { self.successes } else { self.failures } {
            self.ready = well;
        }
        self.ready
    }
}

/// The pod of an overlay in a folder of its own: the stand-in for the host, and the sidecar.
struct Node {
    folder: tempfile::TempDir,
    rendered: Rendered,
    host_port: u16,
    address: SocketAddr,
    host: Option<Child>,
    sidecar: Option<Child>,
    verdict: Readiness,
    own: Readiness,
}

impl Node {
    fn start(name: &str) -> Option<Node> {
        let rendered = Rendered::of(&overlay(&tools()?, name));
        let [host_port, port] = free_ports();
        let (verdict, own) = (&rendered.pod().container("host")["readinessProbe"], &rendered.pod().container(SIDECAR));
        let (verdict, own) = (Readiness::of(verdict), Readiness::of(&own["livenessProbe"]));
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let node = Node { folder, rendered, host_port, address, host: None, sidecar: None, verdict, own };
        for volume in VOLUMES {
            fs::create_dir_all(node.place(volume)).unwrap();
        }
        node.configure(SOON);
        // Init containers end before others start.
        if let Some(install) = node.pod().containers().find(|container| container["name"] == "agenthost-install") {
            assert!(node.command(&install["command"]).status().unwrap().success());
        }
        Some(node)
    }

    fn pod(&self) -> Pod<'_> {
        self.rendered.pod()
    }

    /// Where a folder of the pod is on this machine.
    fn place(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    fn configure(&self, more: &str) {
        let config = self.rendered.one("ConfigMap")["data"]["config.toml"].as_str().unwrap();
        fs::write(self.place("/etc/agenthost-exporter/config.toml"), self.here(config) + more).unwrap();
    }

    /// The words of a manifest for this machine: its folders, and ports that are free.
    fn here(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for volume in VOLUMES {
            let place = self.place(volume).display().to_string();
            text = match text == *volume {
                true => place,
                false => ["/", "\""]
                    .iter()
                    .fold(text, |text, end| text.replace(&format!("{volume}{end}"), &format!("{place}{end}"))),
            };
        }
        text.replace("=:10484", &format!("={}", self.address)).replace("8484", &self.host_port.to_string())
    }

    fn command(&self, line: &Value) -> Command {
        let line: Vec<String> = words(line).into_iter().map(|word| self.here(word)).collect();
        let mut command = match line[0].as_str() {
            "/agenthost-exporter" => exporter(),
            "httpd" => {
                let mut busybox = Command::new("busybox");
                busybox.arg("httpd");
                busybox
            }
            program => Command::new(program),
        };
        command.args(&line[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    /// Neither has an address: they find the sidecar where it listens by default. Here that may be somebody else's.
    fn probe(&self, probe: &Value) -> bool {
        if let Some(wanted) = probe["httpGet"]["path"].as_str() {
            return get(self.address, wanted).is_ok_and(|(status, _)| (200..400).contains(&status));
        }
        let mut command = self.command(&probe["exec"]["command"]);
        command.env_clear().env("AGENTHOST_WEB_LISTEN_ADDRESS", self.address.to_string());
        // A busy machine may be late; what it does within the default is another test's.
        command.arg("--timeout=60s").status().unwrap().success()
    }

    fn start_host(&mut self) {
        self.host = Some(self.command(&self.pod().container("host")["command"]).spawn().unwrap());
    }

    fn stop_host(&mut self) {
        end(self.host.take());
    }

    fn start_sidecar(&mut self) {
        let container = self.pod().container(SIDECAR);
        let mut command = self.command(&container["command"]);
        let flags = words(&container["args"]).into_iter().map(|word| self.here(word));
        let child = command.args(flags).stderr(Stdio::null()).spawn().unwrap();
        self.sidecar = Some(child);
    }

    /// The sidecar itself, below its supervisor, once it runs.
    fn exporter(&self) -> Pid {
        let supervisor = self.sidecar.as_ref().unwrap().id();
        let mut found = None;
        patiently("the sidecar is started", || {
            found = children(supervisor).first().copied();
            found.is_some()
        });
        found.unwrap()
    }

    fn crash(&self) {
        let exporter = self.exporter();
        let _ = kill_process(exporter, Signal::KILL); // or it has ended by itself
        let supervisor = self.sidecar.as_ref().unwrap().id();
        patiently("it has ended", || !children(supervisor).contains(&exporter));
    }

    fn readyz(&self) -> Option<(u16, String)> {
        get(self.address, "/readyz?verbose").ok()
    }

    fn until_readyz(&self, wanted: u16) {
        patiently(&format!("/readyz is {wanted}"), || self.readyz().is_some_and(|(status, _)| status == wanted));
    }

    /// A period of the host's probe passes: whether the pod is ready after it. So it is only while all that it consists of
    /// runs, native sidecars too.
    fn tick(&mut self) -> bool {
        let probe = self.pod().container("host")["readinessProbe"].clone();
        let well = self.probe(&probe);
        let ready = self.verdict.heard(well);
        let runs = |child: &mut Option<Child>| child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none());
        ready && runs(&mut self.sidecar) && runs(&mut self.host)
    }

    /// A period of the sidecar's own probe passes: whether the kubelet lets it run.
    fn lives(&mut self) -> bool {
        let probe = self.pod().container(SIDECAR)["livenessProbe"].clone();
        let well = self.probe(&probe);
        self.own.ready |= self.own.last.is_none(); // a container lives until a probe has failed
        self.own.heard(well)
    }

    /// How many ticks it takes until the pod is as wanted, of as many as its thresholds allow.
    fn ticks_until(&mut self, ready: bool) -> u64 {
        let most = self.verdict.failures.max(self.verdict.successes);
        let ticks = (1..=most).find(|_| self.tick() == ready);
        ticks.unwrap_or_else(|| panic!("after {most} probes still ready: {}; {:?}", !ready, self.readyz()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        end(self.host.take());
        end(self.sidecar.take());
    }
}

/// As the kubelet ends a container: asked first. A supervisor ends what is below it.
fn end(child: Option<Child>) {
    let Some(mut child) = child else { return };
    let _ = kill_process(Pid::from_child(&child), Signal::TERM);
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Of those that no connection is given by chance: while a container is down somebody else would have its port.
fn free_ports() -> [u16; 2] {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = (std::process::id() % 1000 * 10) as u16;
    [(); 2].map(|()| {
        let tries = std::iter::repeat_with(|| 20_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000);
        let mut free = tries.take(10_000).filter(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok());
        free.next().expect("a port is free")
    })
}

fn children(pid: u32) -> Vec<Pid> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // `pid (comm) state parent ...`, and a comm may have anything in it.
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let mut fields = rest.split(' ');
        let (state, parent) = (fields.next(), fields.next());
        if state != Some("Z") && parent.is_some_and(|parent| parent == pid.to_string()) {
            let own = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            found.extend(own);
        }
    }
    found
}

/// Whether SIGTERM is caught: the 15th bit.
fn awaits_its_end(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
    u64::from_str_radix(caught.trim(), 16).unwrap() & (1 << 14) != 0
}

fn patiently(what: &str, mut wanted: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !wanted() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn thresholds_are_those_of_the_kubelet() {
    let mut readiness = Readiness { failures: 2, successes: 3, last: None, alike: 0, ready: false };
    let answers = [true, true, true, false, true, false, false, true, true, false, true, true, true];
    let ready = answers.map(|well| readiness.heard(well));
    let expected = [false, false, true, true, true, true, false, false, false, false, false, false, true];
    assert_eq!(ready, expected);
}

#[test]
fn a_sidecar_that_crashes_again_and_again_costs_the_pod_nothing() {
    let Some(mut node) = Node::start("native-sidecar") else { return };
    node.start_host();
    node.start_sidecar();
    node.until_readyz(200);
    node.ticks_until(true);
    for crash in 1..=2 {
        node.crash();
        // Longer than any pause of the supervisor.
        for tick in 1..=6 {
            assert!(node.tick(), "unready after crash {crash}, probe {tick}");
            assert!(node.lives(), "restarted after crash {crash}");
        }
    }
    // It does not come again, for a configuration that it refuses.
    node.crash();
    node.configure("[nonsense]\n");
    for _ in 0..6 {
        assert!(node.tick() && node.lives());
    }
    // And it comes as soon as it can.
    node.configure(SOON);
    node.until_readyz(200);
    assert!(node.tick() && node.lives());
}

#[test]
fn a_sustained_failure_drains_the_pod_and_a_restart_of_the_sidecar_does_not_bring_it_back() {
    let Some(mut node) = Node::start("native-sidecar") else { return };
    node.start_host();
    node.start_sidecar();
    node.until_readyz(200);
    node.ticks_until(true);
    node.stop_host();
    node.until_readyz(503);
    // The container runs again, as the kubelet has started it: what still fails is the host's work.
    node.host = Some(Command::new("sleep").arg("1000").spawn().unwrap());
    assert_eq!(node.ticks_until(false), node.verdict.failures);
    assert!(node.lives(), "the host's failure is not the sidecar's");

    // By a crash, and by a restart of its container. No probe every ten seconds hits a gap of some seconds more than twice.
    for restart in ["crash", "container"] {
        match restart {
            "crash" => node.crash(),
            _ => {
                end(node.sidecar.take());
                node.start_sidecar();
            }
        }
        for _ in 0..2 {
            assert!(!node.tick(), "{restart}: nobody has said that the host is well again");
        }
        patiently("the verdict is known again", || {
            let Some((status, text)) = node.readyz() else { return false };
            assert_eq!(status, 503, "{restart}: {text}");
            text.contains("[-]service_")
        });
        for _ in 0..4 {
            assert!(!node.tick(), "{restart}: {:?}", node.readyz());
        }
    }
    node.stop_host();
    node.start_host();
    node.until_readyz(200);
    node.ticks_until(true);
}

#[test]
fn by_http_an_outage_drains_the_pod_too_and_a_crash_has_its_budget() {
    let Some(mut node) = Node::start("http-probe") else { return };
    node.start_host();
    node.start_sidecar();
    node.until_readyz(200);
    node.ticks_until(true);
    // The longest pause of the supervisor, at a probe every ten seconds, and a start.
    node.crash();
    for _ in 0..6 {
        assert!(node.tick());
    }
    node.until_readyz(200);
    assert!(node.tick());
    node.stop_host();
    node.until_readyz(503);
    node.host = Some(Command::new("sleep").arg("1000").spawn().unwrap());
    assert_eq!(node.ticks_until(false), node.verdict.failures);
    node.stop_host();
    node.start_host();
    node.until_readyz(200);
    assert_eq!(node.ticks_until(true), 1);
}

#[test]
fn a_supervisor_hands_on_what_it_is_told_and_leaves_nobody_behind() {
    let Some(mut node) = Node::start("native-sidecar") else { return };
    node.start_host();
    node.start_sidecar();
    node.until_readyz(200);
    let reloads = |node: &Node| {
        let page = get(node.address, "/metrics").unwrap().1;
        let line = page.lines().find(|line| line.starts_with("agenthost_config_last_reload_successful ")).unwrap();
        line.to_owned()
    };
    let config = node.place("/etc/agenthost-exporter/config.toml");
    let good = fs::read_to_string(&config).unwrap();
    fs::write(&config, "[nonsense]\n").unwrap();
    let supervisor = Pid::from_child(node.sidecar.as_ref().unwrap());
    kill_process(supervisor, Signal::HUP).unwrap();
    patiently("it has read a configuration that it refuses", || reloads(&node).ends_with(" 0"));
    let exporter = node.exporter();
    let mut sidecar = node.sidecar.take().unwrap();
    kill_process(supervisor, Signal::TERM).unwrap();
    assert_eq!(sidecar.wait().unwrap().code(), Some(0));
    assert!(!PathBuf::from(format!("/proc/{}", exporter.as_raw_nonzero())).exists(), "it was reaped");
    // While it waits, too.
    node.start_sidecar();
    let mut sidecar = node.sidecar.take().unwrap();
    let (pid, id) = (Pid::from_child(&sidecar), sidecar.id());
    patiently("it awaits signals, and the sidecar is refused", || awaits_its_end(id) && children(id).is_empty());
    kill_process(pid, Signal::TERM).unwrap();
    assert!(sidecar.wait().unwrap().code().is_some(), "it was not killed");
    // What is told while it waits is a start, and does not end who is started.
    node.start_sidecar();
    let (pid, id) = node.sidecar.as_ref().map(|sidecar| (Pid::from_child(sidecar), sidecar.id())).unwrap();
    patiently("it waits again", || awaits_its_end(id) && children(id).is_empty());
    fs::write(&config, good).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    node.until_readyz(200);
    let exporter = node.exporter();
    kill_process(pid, Signal::HUP).unwrap(); // soon after its start, too
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(node.exporter(), exporter, "it is the same");
    kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(node.sidecar.take().unwrap().wait().unwrap().code(), Some(0));
}
