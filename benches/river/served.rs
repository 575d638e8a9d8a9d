//! The real binary: what it takes, and how it answers.

use super::*;
use crate::database::fill;
use crate::table::{Aim, row};

/// The real binary at default intervals beside a host with 200 000 messages: start, memory, CPU, and answers under load.
pub fn process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fill(folder.path(), 200_000);
    let address: SocketAddr = "127.0.0.1:20484".parse().expect("a literal");
    let begun = Instant::now();
    let mut exporter = Command::new(env!("CARGO_BIN_EXE_agenthost-exporter"));
    exporter.arg(format!("--host.root={}", folder.path().display())).arg(format!("--web.listen-address={address}"));
    let mut exporter = Ended(exporter.stderr(Stdio::null()).spawn().expect("the binary starts"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    while !runtime.block_on(all_seen(address)) {
        std::thread::sleep(Duration::from_millis(5));
    }
    say("first full reading after", begun.elapsed().as_secs_f64(), "s");
    exporter.runs();
    let (cpu, pid, seconds) = (cpu_seconds(exporter.0.id()), exporter.0.id(), full_or(60, 1));
    std::thread::sleep(Duration::from_secs(seconds));
    say("resident memory, idle", resident(pid) as f64 / 1e6, "MB");
    say("CPU of one core", (cpu_seconds(pid) - cpu) / seconds as f64 * 100.0, "%");
    full_or(beside_a_page as fn(u32, SocketAddr), |_, _| ())(pid, address);
    for path in ["/metrics", "/status"] {
        let (body, p) = runtime.block_on(load(address, path));
        report(&format!("{path} ({} bytes)", body.len()), &p);
        let bare = bare(&body);
        let (_, p) = runtime.block_on(load(bare.1, path));
        report("   beside it: a bare server with the same bytes", &p);
    }
    say("resident memory, after the load", resident(pid) as f64 / 1e6, "MB");
}

/// What one page open in a browser adds.
fn beside_a_page(pid: u32, address: SocketAddr) {
    match chromium(&format!("http://{address}/")) {
        Err(error) => println!("SKIPPED: one open page, because chromium does not start: {error}"),
        Ok(_page) => {
            std::thread::sleep(Duration::from_secs(5));
            let cpu = cpu_seconds(pid);
            std::thread::sleep(Duration::from_secs(60));
            say("... with one page open in a browser", (cpu_seconds(pid) - cpu) / 60.0 * 100.0, "%");
            say("resident memory with it", resident(pid) as f64 / 1e6, "MB");
        }
    }
}

/// A browser that shows an address, and its profile.
fn chromium(url: &str) -> std::io::Result<(Ended, tempfile::TempDir)> {
    let profile = tempfile::tempdir()?;
    let mut command = Command::new("chromium");
    let quiet = "headless no-sandbox disable-gpu disable-dev-shm-usage disable-quic no-first-run remote-debugging-port=0 \
                 disable-background-networking disable-component-update disable-sync";
    command.args(quiet.split_whitespace().map(|flag| format!("--{flag}")));
    command.arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
    let browser = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    Ok((Ended(browser), profile))
}

/// Requests per second and the server's CPU for each, beside a bare server that answers the same bytes, in turns.
pub fn doors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fill(folder.path(), 1000);
    let hash = bcrypt::hash("bench", 4).expect("a digest");
    std::fs::write(folder.path().join("web.yml"), format!("basic_auth_users: {{bench: {hash}}}\n")).expect("a file");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let credentials = ("Authorization", "Basic YmVuY2g6YmVuY2g=");
    for locked in [false, true] {
        let (mut exporter, address) = sidecar(folder.path(), locked);
        let shown: &[(&str, &str)] = if locked { &[credentials] } else { &[] };
        while runtime.block_on(ask(address, "/status", shown)).is_none_or(|(_, body)| !is_seen(&body)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        exporter.runs();
        let any = ("If-None-Match", "*");
        for (what, path, more) in [
            ("/metrics", "/metrics", None),
            ("/metrics, gzip", "/metrics", Some(("Accept-Encoding", "gzip"))),
            ("/status", "/status", None),
            ("/status, gzip", "/status", Some(("Accept-Encoding", "gzip"))),
            ("/status, 304", "/status", Some(any)),
        ] {
            let headers: Vec<_> = shown.iter().copied().chain(more).collect();
            let (_, body) = runtime.block_on(ask(address, path, &headers)).expect("an answer");
            let (bare, other) = bare(&body);
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..3 {
                ours.push(runtime.block_on(rush(exporter.0.id(), address, path, &headers)));
                theirs.push(runtime.block_on(rush(bare.0.id(), other, path, &headers)));
            }
            let best = |runs: &[Rush]| runs.iter().map(|run| run.rate).fold(0.0, f64::max);
            let least = |runs: &[Rush]| runs.iter().map(|run| run.cpu).fold(f64::INFINITY, f64::min);
            let (rate, bare_rate) = (best(&ours), best(&theirs));
            if !locked {
                let aim = if path == "/metrics" { Aim::AtLeast(0.8) } else { Aim::Nothing };
                let packed = if what.ends_with("gzip") { ", gzip" } else { "" };
                let packed = if what.ends_with("304") { ", unchanged" } else { packed };
                let what = format!("requests of `{path}`{packed} a second");
                row(what, rate, "", "a bare hyper server with the same bytes", bare_rate, aim);
                row("... and CPU of each", least(&ours), "us", "that server", least(&theirs), Aim::Nothing);
            }
            let what = format!("{what}{}", if locked { ", password" } else { "" });
            println!(
                "{what:<24} {:>7.0} requests/s, {:.2} of the bare server's {:>7.0}; CPU {:>5.1} us each, {:.2} of its {:.1}",
                rate,
                rate / bare_rate,
                bare_rate,
                least(&ours),
                least(&ours) / least(&theirs),
                least(&theirs)
            );
        }
    }
}

fn sidecar(root: &Path, locked: bool) -> (Ended, SocketAddr) {
    let address: SocketAddr = "127.0.0.1:20486".parse().expect("a literal");
    let mut exporter = Command::new(env!("CARGO_BIN_EXE_agenthost-exporter"));
    exporter.arg(format!("--host.root={}", root.display())).arg(format!("--web.listen-address={address}"));
    if locked {
        exporter.arg(format!("--web.config.file={}", root.join("web.yml").display()));
    }
    (Ended(exporter.stderr(Stdio::null()).spawn().expect("the binary starts")), address)
}

struct Rush {
    /// Requests per second.
    rate: f64,
    /// Microseconds of the server's CPU for each.
    cpu: f64,
}

/// Eight connections that ask again as soon as they are answered, for two seconds.
async fn rush(pid: u32, address: SocketAddr, path: &'static str, headers: &[(&'static str, &'static str)]) -> Rush {
    let (cpu, begun) = (cpu_seconds(pid), Instant::now());
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let headers = headers.to_vec();
        connections.spawn(async move {
            let (mut sender, mut answered) = (connect(address).await.expect("a connection"), 0_u32);
            while begun.elapsed() < full_or(Duration::from_secs(2), Duration::from_millis(200)) {
                with_headers(&mut sender, path, &headers).await.expect("an answer");
                answered += 1;
            }
            answered
        });
    }
    let answered = f64::from(connections.join_all().await.into_iter().sum::<u32>());
    Rush { rate: answered / begun.elapsed().as_secs_f64(), cpu: (cpu_seconds(pid) - cpu) / answered * 1e6 }
}

async fn with_headers(
    sender: &mut Sender,
    path: &str,
    headers: &[(&str, &str)],
) -> anyhow::Result<(u16, bytes::Bytes)> {
    use http_body_util::BodyExt;
    let request =
        headers.iter().fold(hyper::Request::get(path).header("Host", "localhost"), |request, (name, value)| {
            request.header(*name, *value)
        });
    let answer = sender.send_request(request.body(http_body_util::Empty::new())?).await?;
    Ok((answer.status().as_u16(), answer.into_body().collect().await?.to_bytes()))
}

pub async fn ask(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Option<(u16, bytes::Bytes)> {
    let mut sender = connect(address).await.ok()?;
    with_headers(&mut sender, path, headers).await.ok()
}

pub fn is_seen(body: &[u8]) -> bool {
    let status: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    status["collectors"].as_object().expect("a map").values().all(|collector| !collector["up"].is_null())
}
fn report(what: &str, latencies: &[Duration]) {
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{what:<64} p50 {:.3} p99 {:.3} max {:.3} ms, {} requests", at(0.5), at(0.99), at(1.0), latencies.len());
}

async fn all_seen(address: SocketAddr) -> bool {
    let Ok(mut sender) = connect(address).await else { return false };
    let Ok(body) = request(&mut sender, "/status").await else { return false };
    is_seen(&body)
}

type Sender = hyper::client::conn::http1::SendRequest<http_body_util::Empty<bytes::Bytes>>;

async fn connect(address: SocketAddr) -> anyhow::Result<Sender> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn request(sender: &mut Sender, path: &str) -> anyhow::Result<bytes::Bytes> {
    use http_body_util::BodyExt;
    let request = hyper::Request::get(path).header("Host", "localhost").body(http_body_util::Empty::new())?;
    Ok(sender.send_request(request).await?.into_body().collect().await?.to_bytes())
}

/// 100 connections, 1 000 requests a second, for five seconds.
async fn load(address: SocketAddr, path: &'static str) -> (bytes::Bytes, Vec<Duration>) {
    let mut connections = tokio::task::JoinSet::new();
    for number in 0..100 {
        connections.spawn(async move {
            let mut sender = connect(address).await.expect("a connection");
            tokio::time::sleep(Duration::from_millis(number)).await;
            let mut pace = tokio::time::interval(Duration::from_millis(100));
            let (mut latencies, mut body) = (Vec::new(), bytes::Bytes::new());
            for _ in 0..full_or(50, 5) {
                pace.tick().await;
                let begun = Instant::now();
                body = request(&mut sender, path).await.expect("an answer");
                latencies.push(begun.elapsed());
            }
            (body, latencies)
        });
    }
    let (mut all, mut body) = (Vec::new(), bytes::Bytes::new());
    while let Some(done) = connections.join_next().await {
        let (one, latencies) = done.expect("no panic");
        body = one;
        all.extend(latencies);
    }
    all.sort();
    (body, all)
}

/// Another process of this program that answers everything with these bytes.
fn bare(body: &[u8]) -> (Ended, SocketAddr) {
    let file = std::env::temp_dir().join(format!("agenthost-bench-{}", std::process::id()));
    std::fs::write(&file, body).expect("a file");
    let mut server = Command::new(std::env::current_exe().expect("this program"));
    let mut server = Ended(server.arg("bare-server").arg(&file).spawn().expect("this program starts"));
    std::thread::sleep(Duration::from_millis(300));
    server.runs();
    std::fs::remove_file(file).expect("the file was there");
    (server, "127.0.0.1:20485".parse().expect("a literal"))
}

pub fn bare_server(file: &str) {
    use hyper::service::service_fn;
    let body = bytes::Bytes::from(std::fs::read(file).expect("the body"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:20485").await.expect("the port is free");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let body = body.clone();
            let answer = service_fn(move |_| {
                let answer = hyper::Response::new(http_body_util::Full::new(body.clone()));
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, answer));
        }
    });
}
