//! One connection to the engine, under bollard: over which only GET leaves, and over which no answer is too long.

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bollard::errors::Error as Fault;
use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::Mutex;

use super::PATIENCE;

/// A thousand containers are a few megabytes.
pub const ANSWER_LIMIT: usize = 16 * 1024 * 1024;

/// A connection that stands: for one question after the other, and closed when it is dropped.
pub struct Line {
    engine: Docker,
    wire: Arc<Wire>,
    driver: Pin<Box<dyn Future<Output = Infallible> + Send>>,
}

/// The sending end, and how much more may come of the answer.
struct Wire {
    sender: Mutex<SendRequest<Empty<Bytes>>>,
    left: Arc<AtomicUsize>,
}

impl Line {
    /// # Errors
    /// As the socket has them.
    pub async fn open(socket: &Path) -> io::Result<Line> {
        let left = Arc::new(AtomicUsize::new(ANSWER_LIMIT));
        let stream = Bounded { stream: UnixStream::connect(socket).await?, left: left.clone() };
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        let wire = Arc::new(Wire { sender: Mutex::new(sender), left });
        let under = wire.clone();
        let transport = move |request: BollardRequest| under.clone().ask(request);
        // Its own time-out comes behind ours, which is told better.
        let seconds = 2 * PATIENCE.as_secs();
        let engine =
            Docker::connect_with_custom_transport(transport, Some("http://docker"), seconds, API_DEFAULT_VERSION);
        let driver = Box::pin(async {
            // Its errors are told to the question, too.
            let _ = connection.await;
            std::future::pending().await
        });
        Ok(Line { engine: engine.map_err(io::Error::other)?, wire, driver })
    }

    /// Asks one question. The connection moves only as long as somebody waits here.
    pub async fn ask<T>(&mut self, question: impl AsyncFnOnce(&Docker) -> Result<T, Fault>) -> Result<T, Fault> {
        tokio::select! {
            biased;
            answer = question(&self.engine) => answer,
            never = &mut self.driver => match never {},
        }
    }

    /// Whether another question can be asked.
    pub async fn stands(&mut self) -> bool {
        let ready = async { self.wire.sender.lock().await.ready().await.is_ok() };
        tokio::select! {
            biased;
            ready = ready => ready,
            never = &mut self.driver => match never {},
        }
    }
}

impl Wire {
    /// The one way out. What an engine says beside an answer and "not found" is not read: it may name anything.
    async fn ask(self: Arc<Wire>, request: BollardRequest) -> Result<Response<Incoming>, Fault> {
        if request.method() != Method::GET {
            return Err(io::Error::other("nothing but GET is asked").into());
        }
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let request = Request::get(path).header(HOST, "docker").body(Empty::new())?;
        let mut sender = self.sender.lock().await;
        self.left.store(ANSWER_LIMIT, Ordering::Relaxed);
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        match response.status() {
            StatusCode::OK | StatusCode::NOT_FOUND => Ok(response),
            status => Err(Fault::DockerResponseServerError { status_code: status.as_u16(), message: String::new() }),
        }
    }
}

/// An answer has more bytes than it may.
#[derive(Debug)]
pub struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the answer is too large")
    }
}

impl std::error::Error for TooLarge {}

/// A socket from which no more is read than is left.
struct Bounded {
    stream: UnixStream,
    left: Arc<AtomicUsize>,
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        let more = buffer.filled().len() - before;
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(more));
        Poll::Ready(left.map(drop).map_err(|_| io::Error::other(TooLarge)))
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
