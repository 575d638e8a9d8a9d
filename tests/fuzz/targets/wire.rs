//! What comes over a connection: answers of whoever is asked, and requests of whoever asks.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use agenthost_exporter::health::{Health, Settings};
use agenthost_exporter::host::{self, Host, Profile, Url, generic};
use agenthost_exporter::sample::{Now, Sample};
use agenthost_exporter::serve::{self, Guard, Keys, Server};
use agenthost_exporter::show::{Show, otlp};
use agenthost_exporter::snapshot::{River, Sidecar};
use agenthost_exporter::source::Sources;
use agenthost_exporter::source::docker::Docker;
use agenthost_exporter::source::http::{Http, Limits};
use agenthost_exporter::source::otlp::Pushes;
use agenthost_exporter::source::process::proc::Proc;

use super::machine::{are_numbers, build, now, runtime};
use super::{SECRET, keeps_secret, parts};

/// What is sent to whoever asks, by what is asked for.
type Answering = Arc<Mutex<Box<dyn Fn(&str) -> Vec<u8> + Send>>>;

/// Somebody who answers with bytes, over TCP.
struct Peer {
    url: String,
    answering: Answering,
}

impl Peer {
    fn new() -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let answering: Answering = Arc::new(Mutex::new(Box::new(|_| Vec::new())));
        let answer = answering.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                serve(&mut stream, &answer);
                // Else what is on its way could be lost.
                drop(stream.shutdown(Shutdown::Write));
                drop(stream.read(&mut [0; 1]));
            }
        });
        Peer { url, answering }
    }

    fn answer(&self, answer: impl Fn(&str) -> Vec<u8> + Send + 'static) {
        *self.answering.lock().unwrap() = Box::new(answer);
    }

    /// One for each thread: the tests run side by side.
    fn with<T>(act: impl FnOnce(&Peer) -> T) -> T {
        thread_local! { static PEER: Peer = Peer::new() }
        PEER.with(act)
    }
}

/// One question and its answer; whether there was one.
fn serve(stream: &mut (impl Read + Write), answering: &Answering) -> bool {
    let (mut head, mut some) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut some) {
            Ok(read) if read > 0 => head.extend_from_slice(&some[..read]),
            _ => return false,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let answer = (answering.lock().unwrap())(head.split(' ').nth(1).unwrap_or_default());
    stream.write_all(&answer).is_ok()
}

fn json(body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// An answer in whatever bytes: it is one or it is not, and nothing of it is quoted.
pub fn http_answer(data: &[u8]) {
    let sent = [data, SECRET.as_bytes()].concat();
    let asked = Peer::with(|peer| {
        peer.answer(move |_| sent.clone());
        let limits = Limits { time: Duration::from_secs(10), body: 4096 };
        runtime().block_on(Http::default().get(&format!("{}/x", peer.url), &[], limits))
    });
    match asked {
        Err(error) => keeps_secret(&error.to_string()),
        Ok(answer) => {
            assert!((100..=999).contains(&answer.status));
            assert!(answer.text().is_none_or(|text| text.len() <= 4096));
            keeps_secret(&format!("{answer:?}"));
            answer.good().err().into_iter().for_each(|error| keeps_secret(&format!("{error:#}")));
            answer.json::<Vec<u8>>().err().into_iter().for_each(|error| keeps_secret(&format!("{error:#}")));
            if let Some(wait) = answer.retry_after {
                let _ = now().plus(wait);
            }
        }
    }
}

/// Two runs of each collector beside a peer: the same number of points, all of them numbers, and no label that is a text.
fn look(names: &[(&str, &str)], host: &Host, sources: &Sources) {
    for (name, table) in names {
        let Some(mut collector) = build(name, table, host, sources) else { continue };
        for seconds in [0, 600] {
            let at = now().plus(Duration::from_secs(seconds));
            match collector.run(at, Duration::from_secs(20), runtime().handle()) {
                Ok(sample) => holds(&sample),
                Err(error) => keeps_secret(&format!("{error:#}")),
            }
        }
    }
}

fn holds(sample: &Sample) {
    are_numbers(sample);
    keeps_secret(sample.section.get());
    for point in &sample.points.0 {
        assert!(point.labels.iter().all(|label| label.len() <= 256), "{}: {:?}", point.fact.prometheus, point.labels);
    }
}

/// What hosts say of themselves, each kind with its own collectors.
pub fn host_answers(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let [first, second] = parts(rest).map(<[u8]>::to_vec);
    Peer::with(|peer| {
        peer.answer(move |path| {
            json(if path.ends_with("/status") || path.ends_with("/metrics") { &first } else { &second })
        });
        let profile = [Profile::Pynchy, Profile::Netclaw, Profile::Openclaw, Profile::PiWeb, Profile::Generic]
            [usize::from(kind) % 5];
        let mut host = Host { profile, url: Some(Url::Given(peer.url.clone())), ..generic::host() };
        host.status_poll = (kind & 0x40 == 0).then_some(Duration::from_secs(60));
        if profile == Profile::Generic {
            host.listed.http =
                vec![toml::from_str(&format!("name = \"own\"\nurl = \"{}/status\"\n{LISTED}", peer.url)).unwrap()];
        }
        let sources = Sources {
            proc: Proc::at(&super::files::folder()),
            docker: Docker::at("/nonexistent"),
            ..Sources::default()
        };
        look(
            &[
                ("service", ""),
                ("channels", ""),
                ("queue", ""),
                ("mcp", ""),
                ("http", ""),
                ("workers", "presets = [\"pi\"]"),
            ],
            &host,
            &sources,
        );
    });
}

const LISTED: &str = "values = { a = \"/a\", b = \"/b/0\", c = \"/c/d\" }\nchannels = { x = \"/a\", y = \"/b/0\" }\n\
    queue = { active_containers = \"/a\", max_concurrent = \"/b/1\", groups_waiting = \"/c/d\" }\n\
    states = { up = true, down = false, late = 2 }";

const KINDS: [&str; 7] = ["litellm", "openai", "anthropic", "gemini", "ollama", "vllm", "builtin"];

/// What gateways and providers say, each asked as its kind is.
pub fn gateway_answers(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else { return };
    let [health, models, other] = parts(rest).map(<[u8]>::to_vec);
    let key = super::files::folder().join("gateway-key");
    std::fs::write(&key, SECRET).unwrap();
    Peer::with(|peer| {
        peer.answer(move |path| match path {
            _ if path.contains("models") || path.contains("model/info") || path.contains("tags") => json(&models),
            "/health" | "/metrics" | "/health/latest" => json(&health),
            _ => json(&other),
        });
        let name = KINDS[usize::from(kind) % KINDS.len()];
        let litellm =
            if name == "litellm" { "active_health = \"background\"\nadmin_key_file = " } else { "key_file = " };
        let table = format!("kind = \"{name}\"\nurl = \"{}\"\n{litellm}\"{}\"\n", peer.url, key.display());
        let sources = Sources { docker: Docker::at("/nonexistent"), ..Sources::default() };
        look(&[("gateway", &table)], &generic::host(), &sources);
    });
}

/// The socket of an engine that says what it is told to say.
fn engine(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> PathBuf {
    thread_local! { static ENGINE: (PathBuf, Answering) = begin() }
    fn begin() -> (PathBuf, Answering) {
        let path = super::files::folder().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let answering: Answering = Arc::new(Mutex::new(Box::new(|_| Vec::new())));
        let answer = answering.clone();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                while serve(&mut stream, &answer) {}
            }
        });
        (path, answering)
    }
    ENGINE.with(|(path, answering)| {
        *answering.lock().unwrap() = Box::new(answer);
        path.clone()
    })
}

/// What an engine says of containers: none is made up, none has a number that is none, and no environment shows.
pub fn docker_answers(data: &[u8]) {
    let [list, one] = parts(data).map(<[u8]>::to_vec);
    let one = String::from_utf8_lossy(&one).replace("K=", &format!("K={SECRET}")).into_bytes();
    let socket = engine(move |path| json(if path.starts_with("/containers/json") { &list } else { &one }));
    let mut host = host::pynchy::host(&super::files::folder());
    host.status_poll = None;
    let sources = Sources { docker: Docker::at(socket), proc: Proc::at(&super::files::folder()), ..Sources::default() };
    look(&[("containers", ""), ("mcp", ""), ("workers", "presets = [\"nanoclaw\"]")], &host, &sources);
}

/// A request in whatever bytes gets an answer of HTTP or none; the token is not in it; and who asks afterwards is served.
pub fn request(data: &[u8]) {
    for address in doors() {
        // Who has hung up already need not be answered.
        let answer = send(*address, data, Shutdown::Write);
        let text = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || text.starts_with("HTTP/1."), "{text}");
        assert!(!text.starts_with("HTTP/1.1 500"), "{text}");
        keeps_secret(&text);
        if data.len().is_multiple_of(16) {
            let answer = send(*address, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", None);
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        }
    }
}

fn send(address: SocketAddr, bytes: &[u8], end: impl Into<Option<Shutdown>>) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // It may have heard enough before the end.
    drop(stream.write_all(bytes).and_then(|()| end.into().map_or(Ok(()), |end| stream.shutdown(end))));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("it neither answers nor hangs up"),
        _ => answer,
    }
}

/// One that is open, and one that wants a token.
fn doors() -> &'static [SocketAddr; 2] {
    static DOORS: OnceLock<[SocketAddr; 2]> = OnceLock::new();
    DOORS.get_or_init(|| [door(false), door(true)])
}

fn door(locked: bool) -> SocketAddr {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, SECRET).unwrap();
    let mut config = serve::Config { listen: vec![address], ..serve::Config::default() };
    config.bearer_token_file = locked.then_some(token);
    let now = Now::read();
    let health = Health::new(now, Vec::new(), &[], &Settings::default());
    let sidecar = Sidecar {
        version: "0",
        arch: "",
        profile: Profile::Generic,
        root: None,
        notes: Vec::new(),
        started_at: now.wall,
    };
    let mut river = River::new(now, sidecar, Vec::new(), health);
    let current = river.current();
    let guard = Guard::new(Keys::read(&config, None).unwrap());
    let show = Show::new(&current, None, true);
    let server = runtime().block_on(Server::listen(&config, guard, false)).unwrap();
    runtime().spawn(server.serve(show, std::future::pending()));
    // It must turn, or it is not alive.
    std::thread::spawn(move || {
        loop {
            river.wake(Now::read());
            std::thread::sleep(Duration::from_secs(1));
        }
    });
    address
}

/// What an endpoint says of a push: refused points only add up.
pub fn push_answer(data: &[u8]) {
    let pushes = Pushes::default();
    let rejected = otlp::rejected(&bytes::Bytes::copy_from_slice(data));
    let mut before = 0;
    for _ in 0..3 {
        pushes.sent(rejected);
        let told = pushes.told().rejected_points;
        assert!(told >= before && told >= rejected);
        before = told;
    }
}
