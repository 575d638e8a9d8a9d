//! The HTTP server: listens, hands requests to the routes, and stops in order.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use serde::Deserialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::sample::Now;
use crate::show::Show;

/// The `[web]` table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Addresses to listen on.
    pub listen: Vec<SocketAddr>,
}

impl Default for Config {
    fn default() -> Config {
        Config { listen: vec![SocketAddr::from(([127, 0, 0, 1], 10484))] }
    }
}

/// A request must have sent its headers by then.
const HEADERS_WITHIN: Duration = Duration::from_secs(10);
/// Open connections at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;
/// How long a stop waits for requests under way.
const DRAIN: Duration = Duration::from_secs(5);

/// Listens on one address.
///
/// # Errors
/// The address is taken or not ours; the message names it.
pub async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    if !address.ip().is_loopback() {
        tracing::warn!(%address, "listening beyond this machine without authentication: anyone who reaches it can read it");
    }
    Ok(listener)
}

/// Serves until `stop` resolves, then lets requests under way end, for a bounded time.
pub async fn serve(listener: TcpListener, show: Show, stop: impl Future<Output = ()>) {
    let (graceful, slots) = (GracefulShutdown::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &slots) => accepted,
            () = &mut stop => break,
        };
        match accepted {
            Ok((stream, slot)) => connection(stream, slot, show.clone(), &graceful),
            Err(error) => back_off(&error).await,
        }
    }
    drop(listener);
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("some connections did not end in time");
    }
}

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> std::io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let slot = slots.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, slot))
}

fn connection(stream: TcpStream, slot: OwnedSemaphorePermit, show: Show, graceful: &GracefulShutdown) {
    let service = service_fn(move |request| {
        let show = show.clone();
        async move { Ok::<_, Infallible>(show.answer(&request, Now::read()).await) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADERS_WITHIN).max_buf_size(16 * 1024);
    let served = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
    tokio::spawn(async move {
        let _slot = slot;
        let _ = served.await; // a peer that breaks off is no news
    });
}

/// Out of file descriptors, most likely: accepting again at once would spin.
async fn back_off(error: &std::io::Error) {
    tracing::warn!(%error, "cannot accept a connection");
    tokio::time::sleep(Duration::from_millis(100)).await;
}
