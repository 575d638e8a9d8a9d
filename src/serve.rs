//! The HTTP server: listens, hands requests to the routes, and stops in order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;

use crate::sample::Now;
use crate::show::{self, Answer, Show};

mod hosts;
mod slots;

use hosts::Hosts;
use slots::{Slot, Slots};

/// The `[web]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
    /// Names beside `localhost` by which requests to a loopback address may call it: those of a proxy on this machine.
    pub hosts: Vec<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config { listen: vec![SocketAddr::from(([127, 0, 0, 1], 10484))], hosts: Vec::new() }
    }
}

/// A request must have sent its headers by then.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// A client must have taken some more of its answer by then.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// Open connections at once, if the process may have that many open files and as many again for what it looks at.
const CONNECTIONS: usize = 512;
/// How long a stop waits for requests under way.
const DRAIN: Duration = Duration::from_secs(5);

/// Sockets that listen, and what holds for all of them.
pub struct Server {
    listeners: Vec<TcpListener>,
    hosts: Hosts,
    slots: Arc<Slots>,
}

impl Server {
    /// Listens on every configured address.
    ///
    /// # Errors
    /// An address is taken or not ours; the message names it.
    pub async fn listen(config: &Config) -> Result<Server> {
        let mut listeners = Vec::new();
        for &address in &config.listen {
            listeners.push(listen(address).await?);
        }
        Ok(Server { listeners, hosts: Hosts(config.hosts.clone()), slots: Slots::new(connections()) })
    }

    /// Serves until `stop` resolves, then lets requests under way end, for a bounded time.
    pub async fn serve(self, show: Show, stop: impl Future<Output = ()>) {
        let (ending, _) = tokio::sync::watch::channel(false);
        let mut doors = tokio::task::JoinSet::new();
        for listener in self.listeners {
            let door = Door { show: show.clone(), hosts: self.hosts.clone(), slots: self.slots.clone() };
            let mut ended = ending.subscribe();
            doors.spawn(door.serve(listener, async move { drop(ended.wait_for(|ended| *ended).await) }));
        }
        stop.await;
        show.stop();
        ending.send_replace(true);
        doors.join_all().await;
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "listening beyond this machine without authentication: anyone who reaches it can read it");
    }
    Ok(listener)
}

/// One listening socket.
struct Door {
    show: Show,
    hosts: Hosts,
    slots: Arc<Slots>,
}

impl Door {
    async fn serve(self, listener: TcpListener, stop: impl Future<Output = ()>) {
        let graceful = GracefulShutdown::new();
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "listening");
        }
        tokio::pin!(stop);
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = &mut stop => break,
            };
            match accepted {
                Ok((stream, _)) => self.open(stream, &graceful),
                Err(error) => back_off(&error).await,
            }
        }
        drop(listener);
        if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
            tracing::warn!("some connections did not end in time");
        }
    }

    fn open(&self, stream: TcpStream, graceful: &GracefulShutdown) {
        let slot = Arc::new(self.slots.take());
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(16 * 1024);
        let service = self.service(&stream, slot.clone());
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(TAKEN_WITHIN));
        let served = graceful.watch(http.serve_connection(TokioIo::new(Box::pin(stream)), service_fn(service)));
        tokio::spawn(async move {
            tokio::select! {
                _ = served => {} // a peer that breaks off is no news
                () = slot.must_leave() => {}
            }
        });
    }

    fn service(&self, stream: &TcpStream, slot: Arc<Slot>) -> impl Fn(Request<Incoming>) -> Answering + use<> {
        let here_only = stream.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
        let (show, hosts) = (self.show.clone(), self.hosts.clone());
        move |request| {
            slot.used();
            let (show, stranger) = (show.clone(), here_only && !hosts.know(&request));
            Box::pin(async move {
                Ok(if stranger { show::misdirected() } else { show.answer(&request, Now::read()).await })
            })
        }
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

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
