//! The compose files: by the word of docker-compose, Prometheus, Alertmanager and HAProxy, and run on a real engine as far as
//! Debian has the programs. What is not run: Grafana, and the images of registries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::dockerd::Engine;
use crate::image;

const PATIENCE: Duration = Duration::from_secs(120);

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/compose")
}

fn text(name: &str) -> String {
    fs::read_to_string(folder().join(name)).unwrap()
}

/// What a program says; `None` if there is none.
fn said(command: &mut Command) -> Option<String> {
    let output = match command.output() {
        Ok(output) => output,
        Err(error) => {
            crate::skipped("the compose files", &format!("{command:?}: {error}"));
            return None;
        }
    };
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn compose_takes_the_files_and_each_is_bound_to_this_machine() {
    for (file, services) in [
        ("compose.yaml", &["alertmanager", "demo", "grafana", "prometheus"] as &[&str]),
        ("sidecar.yaml", &["docker-proxy", "sidecar"]),
    ] {
        let mut compose = Command::new("docker-compose");
        let Some(listed) = said(compose.current_dir(folder()).args(["-f", file, "config", "--services"])) else {
            return;
        };
        let mut listed: Vec<&str> = listed.lines().collect();
        listed.sort_unstable();
        assert_eq!(listed, services, "{file}");
        for line in text(file).lines().map(str::trim) {
            if let Some(ports) = line.strip_prefix("ports: ") {
                assert!(ports.starts_with("[\"127.0.0.1:"), "{file}: {line}");
            }
            if let Some(image) = line.strip_prefix("image: ").filter(|image| *image != "agenthost-exporter") {
                assert!(image.contains(':') && !image.contains("latest"), "{file}: {line}");
            }
        }
    }
}

#[test]
fn each_program_takes_its_file() {
    let place = tempfile::tempdir().unwrap();
    let rules = folder().join("../../alerts/agenthost.rules.yml");
    fs::copy(rules, place.path().join("agenthost.rules.yml")).unwrap();
    fs::copy(folder().join("prometheus.yml"), place.path().join("prometheus.yml")).unwrap();
    let mut promtool = Command::new("promtool");
    said(promtool.args(["check", "config"]).arg(place.path().join("prometheus.yml")));
    let mut amtool = Command::new("amtool");
    said(amtool.arg("check-config").arg(folder().join("alertmanager.yml")));
    let mut haproxy = Command::new("haproxy");
    said(haproxy.args(["-c", "-f"]).arg(folder().join("docker-proxy.cfg")));
}

/// What is mounted where is what the files inside ask for.
#[test]
fn what_the_files_name_is_mounted() {
    let compose = text("compose.yaml");
    for mounted in [
        "./prometheus.yml:/etc/prometheus/prometheus.yml:ro",
        "../../alerts/agenthost.rules.yml:/etc/prometheus/agenthost.rules.yml:ro",
        "./grafana:/etc/grafana/provisioning:ro",
        "../../dashboards:/var/lib/agenthost:ro",
    ] {
        assert!(compose.contains(&format!("- {mounted}\n")), "{mounted}");
        assert!(folder().join(mounted.split(':').next().unwrap()).exists(), "{mounted}");
    }
    assert!(text("grafana/dashboards/agenthost.yaml").contains("path: /var/lib/agenthost\n"));
    assert!(compose.contains("HOME_DASHBOARD_PATH: /var/lib/agenthost/host.json"));
    let prometheus = text("prometheus.yml");
    let interval = prometheus.lines().find_map(|line| line.trim().strip_prefix("scrape_interval: ")).unwrap();
    let source = text("grafana/datasources/prometheus.yaml");
    assert!(source.contains(&format!("timeInterval: {interval} ")), "or rates are drawn wrongly");
    assert!(prometheus.contains("job_name: agenthost\n"));
}

/// The services in one network namespace, in which they know each other by name.
#[test]
fn prometheus_and_alertmanager_watch_the_demo_in_its_image() {
    let Some(program) = image::static_program() else { return };
    let engine = match Engine::start() {
        Ok(engine) => engine,
        Err(why) => return crate::skipped("the compose files", &why),
    };
    image::import(&engine, &program);
    image::build(&engine, "Dockerfile", "agenthost-exporter", &["BINARY=program:test"], engine.folder());
    // Between containers it is called by an address that is not loopback, which any name may have.
    let file = engine.folder().join("config.toml");
    fs::write(&file, "[web]\nhosts = [\"demo\"]\n").unwrap();
    engine.docker(&format!(
        "run -d --name demo --network none --add-host demo:127.0.0.1 --add-host alertmanager:127.0.0.1 --init --read-only \
         --volume {}:/etc/agenthost-exporter/config.toml:ro --tmpfs /tmp --cap-drop ALL \
         --security-opt no-new-privileges agenthost-exporter demo",
        file.display()
    ));
    let libraries = "--volume /lib:/lib:ro --volume /lib64:/lib64:ro --volume /usr:/usr:ro";
    let here = folder();
    let rules = here.join("../../alerts/agenthost.rules.yml").canonicalize().unwrap();
    engine.docker(&format!(
        "run -d --name prometheus --network container:demo {libraries} --tmpfs /prometheus \
         --volume {}:/etc/prometheus/prometheus.yml:ro --volume {}:/etc/prometheus/agenthost.rules.yml:ro web:test \
         /usr/bin/prometheus --config.file=/etc/prometheus/prometheus.yml --storage.tsdb.path=/prometheus",
        here.join("prometheus.yml").display(),
        rules.display()
    ));
    engine.docker(&format!(
        "run -d --name alertmanager --network container:demo {libraries} --tmpfs /alertmanager \
         --volume {}:/etc/alertmanager/alertmanager.yml:ro web:test /usr/bin/prometheus-alertmanager \
         --config.file=/etc/alertmanager/alertmanager.yml --storage.path=/alertmanager --cluster.listen-address=",
        here.join("alertmanager.yml").display()
    ));
    let asked = |what: &str| {
        let ask = "exec prometheus /usr/bin/promtool query instant http://127.0.0.1:9090";
        String::from_utf8_lossy(&engine.try_docker(&format!("{ask} '{what}'")).stdout).into_owned()
    };
    until("the demo is scraped", || asked("up{job=\"agenthost\"}").contains("=> 1 "), &engine);
    until("rules are evaluated", || asked("ALERTS{alertname=\"Watchdog\"}").contains("=> 1 "), &engine);
    let called = || {
        let said =
            engine.try_docker("exec alertmanager /usr/bin/amtool --alertmanager.url=http://127.0.0.1:9093 alert query");
        String::from_utf8_lossy(&said.stdout).contains("Watchdog")
    };
    until("Alertmanager is told", called, &engine);
}

fn until(what: &str, wanted: impl Fn() -> bool, engine: &Engine) {
    let begun = Instant::now();
    while !wanted() {
        if begun.elapsed() > PATIENCE {
            let logs = ["demo", "prometheus", "alertmanager"].map(|name| {
                let said = engine.try_docker(&format!("logs --tail 15 {name}"));
                format!("{name}: {}", String::from_utf8_lossy(&said.stderr))
            });
            panic!("never: {what}\n{}", logs.join("\n"));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_proxy_lets_the_sidecar_see_containers_and_lets_nothing_else_through() {
    let engine = match Engine::start() {
        Ok(engine) => engine,
        Err(why) => return crate::skipped("the proxy", &why),
    };
    let socket = engine.folder().join("watch.sock");
    let config = text("docker-proxy.cfg")
        .replace("/run/watch/docker.sock", &socket.display().to_string())
        .replace("/var/run/docker.sock", &engine.socket().display().to_string());
    let file = engine.folder().join("docker-proxy.cfg");
    fs::write(&file, config).unwrap();
    let child = Command::new("haproxy").arg("-f").arg(&file).stdin(Stdio::null()).spawn();
    let _running = match child {
        Ok(child) => Ended(child),
        Err(error) => return crate::skipped("the proxy", &format!("haproxy: {error}")),
    };
    let begun = Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed() < PATIENCE, "the proxy does not listen");
        std::thread::sleep(Duration::from_millis(50));
    }
    engine.sleeper("pynchy-agent-family-1", crate::dockerd::AGENT);

    let root = crate::fixture::Root::with_history(jiff::Timestamp::now());
    let docker = format!("[docker]\nsocket = \"{}\"\n", socket.display());
    let sidecar = crate::binary::Sidecar::start(root.path(), &docker);
    let status = sidecar.until("the containers", crate::binary::up("containers", true));
    assert!(status["containers"].to_string().contains("family"), "{:#}", status["containers"]);

    let asked = |method: &str, path: &str| code(&socket, method, path);
    assert_eq!(asked("GET", "/containers/json"), "200");
    assert_eq!(asked("GET", "/v1.41/containers/pynchy-agent-family-1/json"), "200");
    for (method, path) in [
        ("POST", "/containers/pynchy-agent-family-1/kill"),
        ("DELETE", "/containers/pynchy-agent-family-1"),
        ("HEAD", "/containers/json"),
        ("GET", "/containers/pynchy-agent-family-1/logs"),
        ("GET", "/containers/pynchy-agent-family-1/archive?path=/"),
        ("GET", "/containers/../info/json"),
        ("GET", "/info"),
        ("GET", "/images/json"),
    ] {
        assert_ne!(asked(method, path), "200", "{method} {path}");
    }
}

/// The status of an answer over a socket.
fn code(socket: &Path, method: &str, path: &str) -> String {
    let url = format!("http://docker{path}");
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--path-as-is", "--max-time", "10", "--output", "/dev/null", "--write-out", "%{http_code}"]);
    if method == "HEAD" {
        curl.arg("--head");
    } else {
        curl.args(["--request", method]);
    }
    said(curl.arg("--unix-socket").arg(socket).arg(url)).unwrap_or_default()
}

/// Grafana cannot be run here: what it reads is at least what its schema of provisioning says.
#[test]
fn the_provisioning_of_grafana_has_the_keys_that_it_reads() {
    for (file, list, keys) in [
        (
            "grafana/datasources/prometheus.yaml",
            "datasources",
            &["access", "editable", "isDefault", "jsonData", "name", "type", "uid", "url"] as &[&str],
        ),
        (
            "grafana/dashboards/agenthost.yaml",
            "providers",
            &["allowUiUpdates", "disableDeletion", "folder", "name", "options", "type"],
        ),
    ] {
        let document: Value = serde_saphyr::from_str(&text(file)).unwrap();
        assert_eq!(document["apiVersion"], 1, "{file}");
        let mut found: Vec<&str> = document[list][0].as_object().unwrap().keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, keys, "{file}");
    }
}
