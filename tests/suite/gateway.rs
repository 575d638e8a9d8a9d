//! The real binary beside a real LiteLLM proxy, whose models are mocked or ours and counted; and beside one that hangs.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::binary::{exporter, get, within_a_second};
use crate::fixture::Root;

const PATIENCE: Duration = Duration::from_secs(60);
/// Python reads for long until it serves.
const START: Duration = Duration::from_secs(180);
const KEY: &str = "sk-master-of-the-test";

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An HTTP server that counts: what it was asked for, by method and path.
struct Counter {
    address: SocketAddr,
    counted: Arc<AtomicUsize>,
}

impl Counter {
    /// Answers everything, and counts requests that begin so; `then` is called for each of those.
    fn start(line: &'static str, then: impl Fn() + Send + 'static) -> Counter {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let counter = Counter { address: listener.local_addr().unwrap(), counted: Arc::default() };
        let counted = counter.counted.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                if read_request(&mut stream).starts_with(line) {
                    counted.fetch_add(1, Ordering::SeqCst);
                    then();
                }
                let _ = stream.write_all(answer().as_bytes());
            }
        });
        counter
    }

    fn count(&self) -> usize {
        self.counted.load(Ordering::SeqCst)
    }
}

/// A completion, which is also good enough for a list of models and for a host's status.
fn answer() -> String {
    let body = json!({
        "id": "1", "object": "chat.completion", "created": 1, "model": "counted", "data": [],
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "2"}}],
        "usage": {"prompt_tokens": 13, "completion_tokens": 1, "total_tokens": 14},
    })
    .to_string();
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// The head and the body, as far as its length says.
fn read_request(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut part) {
        text.extend_from_slice(&part[..length]);
        let said = String::from_utf8_lossy(&text).to_lowercase();
        let Some((head, body)) = said.split_once("\r\n\r\n") else { continue };
        let wanted = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        if body.len() >= wanted {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

/// A LiteLLM proxy as a process, with one model that is mocked and one that is ours.
struct Proxy {
    child: Child,
    port: u16,
    upstream: Counter,
    log: PathBuf,
}

/// Where `tests/run` puts it.
fn litellm() -> Option<PathBuf> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/litellm/bin/litellm");
    program.exists().then_some(program)
}

fn yaml(upstream: SocketAddr, background: bool) -> String {
    format!(
        "model_list:\n\
         - model_name: mocked\n  litellm_params: {{model: openai/gpt-4o-mini, api_key: sk-fake, mock_response: hello}}\n\
         - model_name: counted\n  litellm_params: {{model: openai/gpt-4o-mini, api_key: sk-fake, \
         api_base: \"http://{upstream}/v1\"}}\n\
         general_settings: {{master_key: {KEY}, background_health_checks: {background}}}\n"
    )
}

impl Proxy {
    /// Its configuration stands in the host's folder, as `litellm.yaml`.
    fn start(program: &Path, root: &Path, background: bool) -> Proxy {
        let upstream = Counter::start("POST ", || ());
        let (port, config) = (free_port(), root.join("litellm.yaml"));
        std::fs::write(&config, yaml(upstream.address, background)).unwrap();
        let log = root.join("litellm.log");
        let output = File::create(&log).unwrap();
        let child = Command::new(program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--config"])
            .arg(&config)
            .env("LITELLM_LOCAL_MODEL_COST_MAP", "True") // nothing is fetched
            .env("PYTHONUNBUFFERED", "1")
            .current_dir(root)
            .stdin(Stdio::null())
            .stderr(output.try_clone().unwrap())
            .stdout(output)
            .spawn()
            .unwrap();
        let proxy = Proxy { child, port, upstream, log };
        let begun = Instant::now();
        while !proxy.lives() {
            assert!(begun.elapsed() < START, "LiteLLM does not answer: {}", proxy.said());
            std::thread::sleep(Duration::from_millis(200));
        }
        proxy
    }

    fn lives(&self) -> bool {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        get(address, "/health/liveliness").is_ok_and(|(status, _)| status == 200)
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Requests in its log for this path and status.
    fn served(&self, path: &str, status: &str) -> usize {
        let line = format!("\"GET {path} HTTP/1.1\" {status}");
        self.said().lines().filter(|said| said.contains(&line)).count()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A pynchy with this gateway, and a sidecar beside it.
struct Lab {
    root: Root,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        let lab = Lab { root: Root::with_history(Timestamp::now()), folder: tempfile::tempdir().unwrap() };
        lab.give_key(KEY);
        lab
    }

    /// The host's own configuration.
    fn host(&self, api: SocketAddr, gateway: u16) {
        let text = format!(
            "[server]\nport = {}\n[gateway]\nport = {gateway}\nlitellm_config = \"litellm.yaml\"\n",
            api.port()
        );
        std::fs::write(self.root.path().join("config.toml"), text).unwrap();
    }

    fn give_key(&self, key: &str) {
        std::fs::write(self.folder.path().join("key"), key).unwrap();
    }

    /// Everything as delivered, but that it looks each second, and that there is neither Docker nor a database.
    fn sidecar(&self, gateway: &str) -> Sidecar {
        let folder = self.folder.path().display();
        let config = format!(
            "[docker]\nsocket = \"{folder}/no.sock\"\n[state]\npath = \"{folder}/state.db\"\n\
             [collect.service]\ninterval = \"1s\"\n\
             [collect.gateway]\ninterval = \"1s\"\nkey_file = \"{folder}/key\"\nexpect_database = false\n{gateway}"
        );
        let file = self.folder.path().join("exporter.toml");
        std::fs::write(&file, config).unwrap();
        Sidecar::start(&file, self.root.path())
    }
}

struct Sidecar {
    child: Child,
    address: SocketAddr,
}

impl Sidecar {
    fn start(config: &Path, root: &Path) -> Sidecar {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let child = exporter()
            .arg(format!("--web.listen-address={address}"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--host.root={}", root.display()))
            .arg("--log.level=error")
            .spawn()
            .unwrap();
        let sidecar = Sidecar { child, address };
        sidecar.try_until("it serves", |_| true);
        sidecar
    }

    fn try_until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        let mut last = Value::Null;
        while begun.elapsed() < PATIENCE {
            if let Ok((200, text)) = get(self.address, "/status") {
                last = serde_json::from_str(&text).unwrap();
                if wanted(&last) {
                    return last;
                }
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        panic!("never: {what}; last: {:#}", last["gateway"]);
    }

    /// Reads `/status.gateway` until it is as wanted.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.try_until(what, |status| wanted(&status["gateway"]))["gateway"].clone()
    }

    fn value(&self, metric: &str) -> Option<f64> {
        let page = get(self.address, "/metrics").unwrap().1;
        page.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' ')?.parse().ok())
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A host whose status makes its gateway call every model, as pynchy's does.
fn costly_host(gateway: u16) -> Counter {
    Counter::start("GET /status ", move || {
        let mut socket = TcpStream::connect(("127.0.0.1", gateway)).unwrap();
        let _ = write!(
            socket,
            "GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\nConnection: close\r\n\r\n"
        );
        let _ = socket.read_to_string(&mut String::new());
    })
}

#[test]
fn a_real_litellm_is_watched_without_calling_a_model() {
    let Some(program) = litellm() else {
        return crate::skipped("LiteLLM", "target/litellm is not there: tests/run installs it");
    };
    let lab = Lab::new();
    let mut proxy = Proxy::start(&program, lab.root.path(), false);
    let host = costly_host(proxy.port);
    lab.host(host.address, proxy.port);

    // For a while as delivered.
    let sidecar = lab.sidecar("");
    let gateway = sidecar.until("two models", |gateway| gateway["configured_models"] == 2);
    assert_eq!((&gateway["mode"], &gateway["up"], &gateway["ready"]), (&json!("litellm"), &json!(true), &json!(true)));
    assert_eq!((&gateway["database"], &gateway["litellm_container"]), (&json!("not_connected"), &json!("unknown")));
    assert_eq!(gateway["healthy_models"], Value::Null);
    let refused = gateway["active_health"]["refused"].as_str().unwrap();
    assert!(refused.starts_with("LiteLLM does not check its models by itself"), "{refused}");
    std::thread::sleep(Duration::from_secs(15));
    assert_eq!(sidecar.value("agenthost_gateway_configured_models"), Some(2.0));
    assert_eq!((proxy.upstream.count(), host.count()), (0, 0), "completions, and calls that would cause some");
    assert!(proxy.served("/health/liveliness", "200") >= 10 && proxy.served("/health/readiness", "200") >= 10);
    assert_eq!((proxy.served("/health", ""), proxy.served("/model/info", "")), (0, 0));
    assert_eq!(proxy.served("/v1/models", "200"), 1, "once a minute");

    // A key that is refused is shown once; another one at once.
    lab.give_key("sk-of-somebody-else");
    let gateway = sidecar.until("refused", |gateway| gateway["keys"]["key"]["state"] == "rejected");
    assert_eq!((&gateway["up"], &gateway["configured_models"]), (&json!(true), &Value::Null));
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(proxy.served("/v1/models", "40"), 1, "it rests for ten minutes");
    lab.give_key(KEY);
    sidecar.until("accepted", |gateway| gateway["keys"]["key"]["state"] == "accepted");

    // One that hangs, and goes on.
    proxy.signal(Signal::STOP);
    let gateway = sidecar.until("hung", |gateway| gateway["up"] == false);
    assert_eq!((&gateway["state"], &gateway["ready"]), (&json!("hung"), &json!(false)));
    proxy.signal(Signal::CONT);
    sidecar.until("up again", |gateway| gateway["up"] == true && gateway["ready"] == true);
    drop(sidecar);

    // What is paid for is asked once, and not again because the sidecar was killed.
    for _ in 0..2 {
        let sidecar = lab.sidecar("active_health = \"paid\"\nmax_probes_per_day = 1\n");
        let spent = |gateway: &Value| gateway["active_health"]["paid"]["spent"] == 1;
        sidecar.until("paid", spent);
        sidecar.until("models", |gateway| gateway["configured_models"] == 2);
        std::thread::sleep(Duration::from_secs(3));
        if proxy.served("/health", "200") == 0 {
            sidecar.until("found", |gateway| gateway["healthy_models"] == 2);
        }
    }
    assert_eq!(
        (proxy.served("/health", "200"), proxy.upstream.count()),
        (1, 1),
        "one call of the one model that is ours"
    );

    let sidecar = lab.sidecar("");
    sidecar.until("up", |gateway| gateway["up"] == true);
    let _ = proxy.child.kill();
    let gateway = sidecar.until("down", |gateway| gateway["up"] == false);
    assert_eq!((&gateway["state"], &gateway["reason"]), (&json!("down"), &json!("refused")));
    assert_eq!(sidecar.value("agenthost_gateway_up"), Some(0.0));
}

#[test]
fn a_real_litellm_that_checks_by_itself_is_asked_what_it_found() {
    let Some(program) = litellm() else {
        return crate::skipped("LiteLLM", "target/litellm is not there: tests/run installs it");
    };
    let lab = Lab::new();
    let proxy = Proxy::start(&program, lab.root.path(), true);
    let host = Counter::start("GET /status ", || ());
    lab.host(host.address, proxy.port);
    let sidecar = lab.sidecar("");
    let gateway = sidecar.until("found", |gateway| gateway["healthy_models"] == 2);
    let well = json!({"healthy": 1, "unhealthy": 0});
    assert_eq!(gateway["models"], json!({"mocked": well, "counted": well}), "by public name");
    assert_eq!(sidecar.value("agenthost_gateway_healthy_models"), Some(2.0));
    assert_eq!(sidecar.value("agenthost_gateway_model_healthy{model=\"counted\"}"), Some(1.0));
    assert_eq!(proxy.upstream.count(), 1, "its own check");
    assert!(proxy.served("/health", "200") >= 1);
}

/// It takes connections and says nothing: everything else goes on.
#[test]
fn a_gateway_that_hangs_delays_nobody() {
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let lab = Lab::new();
    let host = Counter::start("GET /status ", || ());
    lab.host(host.address, hung.local_addr().unwrap().port());
    let sidecar = lab.sidecar("timeout = \"3s\"\n");
    let status = sidecar.try_until("hung", |status| status["gateway"]["state"] == "hung");
    assert_eq!(status["service"]["status"], "ok");
    assert_eq!((&status["gateway"]["up"], &status["gateway"]["ready"]), (&json!(false), &json!(false)));
    for _ in 0..20 {
        within_a_second(|| drop(get(sidecar.address, "/status").unwrap()));
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = sidecar.try_until("fresh", |status| status["collectors"]["service"]["up"] == true);
    assert_eq!(status["collectors"]["gateway"]["up"], true, "{:#}", status["collectors"]["gateway"]);
}
