//! The HTTP server: listens, hands requests to the routes, and stops in order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONNECTION};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use crate::sample::Now;
use crate::show::probes::Reasons;
use crate::show::{self, Answer, Show};

mod auth;
mod hosts;
mod keys;
mod pprof;
mod rate;
mod slots;
mod tls;
mod web_config;

use auth::Caller;
use hosts::Hosts;
pub use keys::{Guard, Keys};
use slots::{Asking, Slot, Slots};

/// The `[web]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Names beside `localhost` by which requests to a loopback address may call it: those of a proxy on this machine.
    pub hosts: Vec<String>,
    /// TLS, users, headers and a rate, in the YAML of Prometheus' exporter-toolkit.
    pub config_file: Option<PathBuf>,
    /// A file with a token: whoever shows it may read.
    pub bearer_token_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        let listen = vec![SocketAddr::from(([127, 0, 0, 1], 10484))];
        Config { listen, hosts: Vec::new(), config_file: None, bearer_token_file: None }
    }
}

/// A client must have shaken hands by then.
const HANDS_WITHIN: Duration = Duration::from_secs(10);
/// A client must have sent the headers of its next request by then. Longer than scrapers sleep: a handshake costs more than
/// a scrape. Who never sent any is the first to leave when room is needed.
const HEADERS_WITHIN: Duration = Duration::from_secs(150);
/// A client must have taken some more of its answer by then.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// How much a client may tell of itself in one request.
const HEADERS_AT_MOST: u32 = 16 * 1024;
/// Requests under way at once in one connection of HTTP/2.
const STREAMS: u32 = 32;
/// Open connections at once, if the process may have that many open files and as many again for what it looks at; a quarter of
/// them from one address.
const CONNECTIONS: usize = 512;
/// How long a stop waits for requests under way.
const DRAIN: Duration = Duration::from_secs(5);

/// Sockets that listen, and what holds for all of them.
pub struct Server {
    listeners: Vec<TcpListener>,
    guard: Guard,
    slots: Arc<Slots>,
    pprof: bool,
}

impl Server {
    /// Listens on every configured address. `pprof`: whether this program's own profile may be taken.
    ///
    /// # Errors
    /// An address is taken or not ours; the message names it. Or a build that can sample memory does not.
    pub async fn listen(config: &Config, guard: Guard, pprof: bool) -> Result<Server> {
        if pprof {
            pprof::begin().await.context("switch the heap profile on")?;
        }
        let mut listeners = Vec::new();
        for &address in &config.listen {
            listeners.push(TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?);
        }
        Ok(Server { listeners, guard, slots: Slots::new(connections()), pprof })
    }

    /// Serves until `stop` resolves, then lets requests under way end, for a bounded time.
    pub async fn serve(self, show: Show, stop: impl Future<Output = ()>) {
        let (ending, _) = tokio::sync::watch::channel(false);
        let mut doors = tokio::task::JoinSet::new();
        for listener in self.listeners {
            let (guard, slots) = (self.guard.clone(), self.slots.clone());
            let door = Door { show: show.clone(), guard, slots, pprof: self.pprof };
            let mut ended = ending.subscribe();
            doors.spawn(door.serve(listener, async move { drop(ended.wait_for(|ended| *ended).await) }));
        }
        stop.await;
        show.stop();
        ending.send_replace(true);
        doors.join_all().await;
    }
}

/// Says so where anybody on the network can read, at addresses that are listened to.
pub fn warn_if_open(listen: &[SocketAddr], keys: &Keys) {
    for address in listen.iter().filter(|address| !address.ip().to_canonical().is_loopback()) {
        if !keys.is_locked() {
            tracing::warn!(%address, "listening beyond this machine without authentication: anyone who reaches it can read it");
        } else if keys.tls.is_none() {
            tracing::warn!(%address, "listening beyond this machine without TLS: passwords and tokens go in the clear");
        }
    }
}

/// One listening socket.
struct Door {
    show: Show,
    guard: Guard,
    slots: Arc<Slots>,
    pprof: bool,
}

impl Door {
    async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, tls = self.guard.keys().tls.is_some(), "listening");
        }
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stop => break,
            };
            match accepted {
                Ok((stream, peer)) => self.open(stream, peer, graceful.watcher()),
                Err(error) => back_off(&error).await,
            }
        }
        drop(listener);
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }

    fn open(&self, stream: TcpStream, peer: SocketAddr, watcher: Watcher) {
        let slot = Arc::new(self.slots.take(peer.ip()));
        let here_only = stream.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        let (show, guard) = (self.show.clone(), self.guard.clone());
        let policy = guard.keys().policy.clone();
        let visit = Visit { show, guard, policy, slot: slot.clone(), here_only, pprof: self.pprof };
        tokio::spawn(async move {
            tokio::select! {
                () = visit.last(stream, watcher) => {}
                () = slot.must_leave() => {}
            }
        });
    }
}

/// One connection.
#[derive(Clone)]
struct Visit {
    show: Show,
    guard: Guard,
    /// Of the keys by which it came in.
    policy: Option<Vec<u8>>,
    slot: Arc<Slot>,
    /// Only this machine can reach the address that was called.
    here_only: bool,
    pprof: bool,
}

impl Visit {
    /// As long as the client likes, and moves.
    async fn last(self, stream: TcpStream, watcher: Watcher) {
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(TAKEN_WITHIN));
        let stream = Box::pin(stream);
        match self.guard.keys().tls.clone() {
            None => self.http1(stream, watcher).await,
            Some(tls) => {
                let shaking = tokio::time::timeout(HANDS_WITHIN, TlsAcceptor::from(tls).accept(stream));
                let stream = match shaking.await {
                    Ok(Ok(stream)) => stream,
                    // One who breaks off or is refused is no news, unless somebody looks for it.
                    Ok(Err(error)) => return tracing::debug!(%error, "not let in over TLS"),
                    Err(_) => return,
                };
                match stream.get_ref().1.alpn_protocol() {
                    Some(b"h2") => self.http2(stream, watcher).await,
                    _ => self.http1(stream, watcher).await,
                }
            }
        }
    }

    async fn http1(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, watcher: Watcher) {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(HEADERS_AT_MOST as usize);
        let _ = watcher.watch(http.serve_connection(TokioIo::new(stream), service_fn(self.service()))).await;
    }

    async fn http2(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, watcher: Watcher) {
        let mut http = http2::Builder::new(TokioExecutor::new());
        http.timer(TokioTimer::new()).max_header_list_size(HEADERS_AT_MOST).max_concurrent_streams(STREAMS);
        http.keep_alive_interval(TAKEN_WITHIN).keep_alive_timeout(HANDS_WITHIN);
        let _ = watcher.watch(http.serve_connection(TokioIo::new(stream), service_fn(self.service()))).await;
    }

    fn service(self) -> impl Fn(Request<Incoming>) -> Answering {
        move |request| {
            let visit = self.clone();
            Box::pin(async move {
                let asking = visit.slot.ask();
                let keys = visit.guard.keys();
                let mut answer = visit.answer(&keys, &asking, &request).await;
                answer.headers_mut().extend(keys.headers.clone());
                Ok(answer)
            })
        }
    }

    async fn answer(&self, keys: &Keys, asking: &Asking<'_>, request: &Request<Incoming>) -> Answer {
        let now = Now::read();
        if keys.policy != self.policy {
            let close = request.version() < Version::HTTP_2;
            let answer = show::elsewhere();
            return if close { show::with(answer, CONNECTION, "close") } else { answer };
        }
        if self.here_only && !keys.hosts.know(request) {
            return show::misdirected();
        }
        if show::is_probe(request.uri().path()) {
            let known = keys.auth.knows(request.headers()) || self.tells_why(keys, request, now).await;
            let reasons = if known { Reasons::Shown } else { Reasons::Withheld };
            return self.show.answer(request, now, reasons).await;
        }
        if !keys.admits(now) {
            return show::too_often();
        }
        if let Some(cookie) = token(request).and_then(|token| keys.auth.cookie_for(token)) {
            let secure = if keys.tls.is_some() { "; Secure" } else { "" };
            return show::entered(request, &(cookie + secure));
        }
        match keys.auth.caller(request.headers()).await {
            Caller::Known => {
                asking.is_known();
                match pprof::is_below(request.uri().path()) {
                    true => self.profile(request).await,
                    false => self.show.answer(request, now, Reasons::Shown).await,
                }
            }
            Caller::Stranger => show::unauthorized(keys.auth.challenge()),
            Caller::Unheard => show::too_busy(),
        }
    }
}

impl Visit {
    /// A password is compared for a probe only if it can make a difference, and within the rate: an orchestrator has none,
    /// and waits a second.
    async fn tells_why(&self, keys: &Keys, request: &Request<Incoming>, now: Now) -> bool {
        request.uri().path().starts_with("/readyz")
            && request.headers().contains_key(AUTHORIZATION)
            && keys.admits(now)
            && keys.auth.caller(request.headers()).await == Caller::Known
    }

    async fn profile(&self, request: &Request<Incoming>) -> Answer {
        match self.pprof {
            true => pprof::answer(request).await,
            false => show::text(StatusCode::FORBIDDEN, "off: --web.enable-pprof switches it on\n"),
        }
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

/// That a link may carry once, for a cookie.
fn token(request: &Request<Incoming>) -> Option<&str> {
    let query = request.uri().query().filter(|_| [Method::GET, Method::HEAD].contains(request.method()));
    query?.split('&').find_map(|pair| pair.strip_prefix("token="))
}

fn connections() -> usize {
    let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let half = files.map_or(usize::MAX, |files| usize::try_from(files / 2).unwrap_or(usize::MAX));
    CONNECTIONS.min(half)
}

/// Out of file descriptors, most likely: accepting again at once would spin.
async fn back_off(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
