//! HTTP and HTTPS to the host and to what stands around it: one GET, bounded in time and size, no redirect followed. A POST
//! can be sent from within `source` only, for what we push.
//!
//! Each request has a connection of its own: a host that restarts is then seen at once. What the other side sends
//! reaches no error text.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, pending};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, DATE, HOST, HeaderMap, LOCATION, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::sample::Denied;

mod memo;
mod tls;

pub use memo::{Ask, Told};
pub use tls::{Own, Roots, Trust};

const BODY_LIMIT: usize = 1024 * 1024;
const AGENT: &str = concat!("agenthost-exporter/", env!("CARGO_PKG_VERSION"));

/// A client. Clones share it, and what it was told.
#[derive(Debug, Clone, Default)]
pub struct Http {
    memo: Arc<memo::Memo>,
    /// `None`: the authorities that are built in.
    trust: Option<Trust>,
}

/// How long a request may take in all, and how many bytes its answer may have.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub time: Duration,
    pub body: usize,
}

impl Limits {
    /// At most this long, and 1 MiB.
    pub fn within(time: Duration) -> Limits {
        Limits { time, body: BODY_LIMIT }
    }
}

/// An answer, whatever its status.
pub struct Answer {
    pub status: u16,
    /// From before connecting until the body was there.
    pub took: Duration,
    /// When it may be asked again, by its own word.
    pub retry_after: Option<Duration>,
    kind: Kind,
    redirect: Option<Redirect>,
    body: Bytes,
}

/// What the content type calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Html,
    Other,
}

/// Where an answer sends us; we do not go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Redirect {
    /// Another path of whom we asked.
    Within,
    /// Somebody else, who must not see our key.
    Away,
}

/// The body may hold anything: it does not show.
impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}, {} bytes, {:?}", self.status, self.body.len(), self.took)
    }
}

impl Answer {
    /// Reads the body as JSON.
    ///
    /// # Errors
    /// The content type does not say JSON, it is none, or it has another shape. The text names the place, never the
    /// content.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        match self.kind {
            Kind::Json => {}
            Kind::Html => bail!("answered with status {} and HTML instead of JSON", self.status),
            Kind::Other => bail!("answered with status {} and something that is not called JSON", self.status),
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let fault = if error.is_data() { "JSON of another shape" } else { "invalid JSON" };
            anyhow!(
                "answered with status {} and {fault} (line {} column {})",
                self.status,
                error.line(),
                error.column()
            )
        })
    }
}

impl Answer {
    /// Asserts that the question was answered: a status from 200 to 299.
    ///
    /// # Errors
    /// Names the status (`NotGood`); `Denied` for 401 and 403. A redirect is named and not followed.
    pub fn good(&self) -> Result<&Answer> {
        let status = self.status;
        match (status, self.redirect) {
            (200..=299, _) => Ok(self),
            (401 | 403, _) => bail!(Denied(format!("answered with status {status}"))),
            (300..=399, Some(Redirect::Away)) => {
                bail!("answered with status {status}, a redirect to another host, which is not followed")
            }
            (300..=399, Some(Redirect::Within)) => {
                bail!("answered with status {status}, a redirect, which is not followed")
            }
            _ => bail!(NotGood(status)),
        }
    }

    /// Whether it calls itself HTML.
    pub fn is_page(&self) -> bool {
        self.kind == Kind::Html
    }

    /// The body as it came.
    pub(super) fn bytes(&self) -> &Bytes {
        &self.body
    }

    /// The body, if it is text.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.body).ok()
    }
}

/// The status of an answer that is no answer to the question: none of success, refusal or redirect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotGood(pub u16);

impl fmt::Display for NotGood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "answered with status {}", self.0)
    }
}

impl std::error::Error for NotGood {}

/// The start of an answer: enough to know that there is one.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    pub status: u16,
    /// What follows calls itself JSON.
    pub is_json: bool,
    pub took: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// Nobody listens there.
    Refused,
    /// `connected`: it was accepted and then stayed silent, or dripped.
    TimedOut { connected: bool },
    /// The body is longer than the limit.
    TooLarge,
    /// Its name leads to no address.
    Unresolved(String),
    /// It was accepted, and then no TLS came of it.
    Tls(String),
    /// It could not be asked: no route.
    Unreachable(String),
    /// Somebody listens, and it is not HTTP or ends too early; or the request is none.
    Broken(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Refused => f.write_str("refused"),
            Error::TimedOut { connected: true } => f.write_str("timed out"),
            Error::TimedOut { connected: false } => f.write_str("timed out while connecting"),
            Error::TooLarge => f.write_str("the answer is too large"),
            Error::Unresolved(text) => write!(f, "look up its name: {text}"),
            Error::Tls(text) => write!(f, "TLS: {text}"),
            Error::Unreachable(text) | Error::Broken(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {}

impl Http {
    /// The same client, but for it only these authorities count.
    #[must_use]
    pub fn trusting(self, trust: Trust) -> Http {
        Http { trust: Some(trust), ..Http::default() }
    }

    /// Gets the whole answer.
    ///
    /// # Errors
    /// See [`Error`]. A status of 400 and above is an answer.
    pub async fn get(&self, url: &str, headers: &[(&str, &str)], limits: Limits) -> Result<Answer, Error> {
        self.ask(url, headers, None, limits).await
    }

    async fn ask(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        sent: Option<Bytes>,
        limits: Limits,
    ) -> Result<Answer, Error> {
        let begun = Instant::now();
        let (head, body) = self.talk(url, headers, sent, begun + limits.time, Some(limits.body)).await?;
        Ok(Answer {
            status: head.status.as_u16(),
            took: begun.elapsed(),
            retry_after: retry_after(&head.headers),
            kind: Kind::of(&head.headers),
            redirect: head.headers.get(LOCATION).map(|to| Redirect::of(url, to.as_bytes())),
            body,
        })
    }

    /// Sends a body and gets the whole answer. Out of reach of collectors: they change nothing.
    ///
    /// # Errors
    /// See [`Error`]. A status of 400 and above is an answer.
    pub(super) async fn post(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        body: Bytes,
        limits: Limits,
    ) -> Result<Answer, Error> {
        self.ask(url, headers, Some(body), limits).await
    }

    /// Waits for the head of an answer only: whether somebody answers does not depend on what.
    ///
    /// # Errors
    /// See [`Error`]; never `TooLarge`.
    pub async fn probe(&self, url: &str, time: Duration) -> Result<Head, Error> {
        let begun = Instant::now();
        let (head, _) = self.talk(url, &[], None, begun + time, None).await?;
        Ok(Head { status: head.status.as_u16(), is_json: Kind::of(&head.headers) == Kind::Json, took: begun.elapsed() })
    }

    /// Connects, asks (with a POST if there is something to send), and reads at most `limit` bytes of the body; none
    /// without a limit.
    async fn talk(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        sent: Option<Bytes>,
        deadline: Instant,
        limit: Option<usize>,
    ) -> Result<(Parts, Bytes), Error> {
        let (uri, host) = parse(url)?;
        let request = request(&uri, headers, sent)?;
        let is_secret = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(default_port(&uri));
        let stream = connect(&host, port, deadline).await?;
        let exchanged = async {
            if is_secret {
                let trust = self.trust.clone().unwrap_or_else(Trust::builtin);
                exchange(trust.connect(&host, stream).await?, request, limit).await
            } else {
                exchange(stream, request, limit).await
            }
        };
        timeout_at(deadline, exchanged).await.map_err(|_| Error::TimedOut { connected: true })?
    }
}

/// Connects to any address of a name.
///
/// # Errors
/// Refused, silent, no such name, no route.
pub async fn reach(host: &str, port: u16, time: Duration) -> Result<(), Error> {
    connect(host, port, Instant::now() + time).await.map(drop)
}

/// Checks the base of an API and returns it without a trailing slash.
///
/// # Errors
/// For the person who wrote it: not a URL, user and password, a query or fragment.
pub fn base(url: &str) -> Result<String> {
    let (uri, _) = parse(url).map_err(|error| anyhow!("{error}"))?;
    if uri.query().is_some() || url.contains('#') {
        // A user and a password may stand in the wrong place, too.
        let shown = url.split(['?', '#']).next().filter(|shown| !shown.contains('@'));
        let shown = shown.map(|shown| format!(" `{shown}`")).unwrap_or_default();
        bail!("the base URL{shown} has a query or a fragment: give scheme, host, port and path only");
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// Checks a URL that may have a query; no part of the query is quoted.
///
/// # Errors
/// As `base`, but for the query.
pub fn check(url: &str) -> Result<()> {
    parse(url).map(drop).map_err(|error| anyhow!("{error}"))
}

/// The port that a URL leads to.
pub fn port(url: &str) -> Option<u16> {
    let (uri, _) = parse(url).ok()?;
    Some(uri.port_u16().unwrap_or(default_port(&uri)))
}

fn default_port(uri: &Uri) -> u16 {
    if uri.scheme_str() == Some("https") { 443 } else { 80 }
}

/// A URL and the name to connect to.
fn parse(url: &str) -> Result<(Uri, String), Error> {
    let broken = |text: String| Err(Error::Broken(text));
    // What follows the question mark may be a key, so it is never quoted.
    let shown = url.split(['?', '#']).next().unwrap_or_default();
    let authority = shown.split_once("://").map_or(shown, |(_, rest)| rest).split('/').next().unwrap_or_default();
    // Wherever it stands, what is before it may be meant as a password.
    let shown = if url.contains('@') { "what is given" } else { shown };
    if authority.contains('@') {
        return broken("a URL with user and password is not taken: it would be shown".to_owned());
    }
    let Ok(uri) = url.parse::<Uri>() else { return broken(format!("`{shown}` is not a URL")) };
    // Without this a port that is none would silently be port 80.
    if uri.port_u16().is_none() && uri.authority().map(|authority| authority.as_str()) != uri.host() {
        return broken(format!("`{shown}` is not a URL: its port is no number from 0 to 65535"));
    }
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(host)) if !host.is_empty() => {
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            Ok((uri, host))
        }
        _ => broken(format!("`{shown}` is not a URL of the form http://host:port or https://host")),
    }
}

type Parts = hyper::http::response::Parts;

/// A name that is not found and one that nobody tells us are the same: no address.
async fn connect(host: &str, port: u16, deadline: Instant) -> Result<TcpStream, Error> {
    let unresolved = |text: &str| Error::Unresolved(text.to_owned());
    let found = timeout_at(deadline, lookup_host((host, port))).await.map_err(|_| unresolved("timed out"))?;
    let addresses: Vec<_> = found.map_err(|error| unresolved(&error.to_string()))?.collect();
    first_of(addresses, deadline).await
}

/// An address that has not answered for so long is no longer waited for alone.
const HEAD_START: Duration = Duration::from_millis(250);

/// The first connection to come of several addresses (RFC 8305): IPv6 that leads nowhere must not use up the time of IPv4
/// that answers. `hyper-util` has it too, in a client that keeps connections, which we do not. What one address has told by
/// the deadline stands, though another is silent: see `plainer`.
async fn first_of(addresses: Vec<SocketAddr>, deadline: Instant) -> Result<TcpStream, Error> {
    let (mut trying, mut failed) = (JoinSet::new(), None);
    for address in by_turns(addresses) {
        trying.spawn(TcpStream::connect(address));
        match timeout_at(deadline.min(Instant::now() + HEAD_START), trying.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => failed = Some(plainer(failed, not_connected(&error))),
            _ => {}
        }
    }
    while !trying.is_empty() {
        match timeout_at(deadline, trying.join_next()).await {
            Ok(Some(Ok(Ok(stream)))) => return Ok(stream),
            Ok(Some(Ok(Err(error)))) => failed = Some(plainer(failed, not_connected(&error))),
            Ok(_) => {}
            Err(_) => return Err(plainer(failed, Error::TimedOut { connected: false })),
        }
    }
    Err(failed.unwrap_or_else(|| Error::Unresolved("no address".to_owned())))
}

/// In the order of the resolver, but the two families by turns.
fn by_turns(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let Some(first) = addresses.first().map(SocketAddr::is_ipv6) else { return addresses };
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let mut turns = Vec::new();
    while !(one.is_empty() && other.is_empty()) {
        turns.extend(one.pop_front());
        turns.extend(other.pop_front());
    }
    turns
}

/// Of two failures the one that tells more: a machine that refuses is there, and one without a route may be anywhere.
fn plainer(known: Option<Error>, new: Error) -> Error {
    let rank = |error: &Error| match error {
        Error::Refused => 0,
        Error::TimedOut { .. } => 1,
        _ => 2,
    };
    known.filter(|known| rank(known) <= rank(&new)).unwrap_or(new)
}

fn request(uri: &Uri, headers: &[(&str, &str)], sent: Option<Bytes>) -> Result<Request<Full<Bytes>>, Error> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    let standard = [(HOST.as_str(), authority), (USER_AGENT.as_str(), AGENT), (CONNECTION.as_str(), "close")];
    let method = if sent.is_some() { Method::POST } else { Method::GET };
    let request = Request::builder().method(method).uri(path);
    let request = standard.iter().chain(headers).fold(request, |request, &(name, value)| request.header(name, value));
    // Which header it was is not said: its value may be a key.
    let body = Full::new(sent.unwrap_or_default());
    request.body(body).map_err(|_| Error::Broken("a header has characters that HTTP does not allow".to_owned()))
}

fn not_connected(error: &std::io::Error) -> Error {
    match error.kind() {
        ErrorKind::ConnectionRefused => Error::Refused,
        ErrorKind::TimedOut => Error::TimedOut { connected: false },
        _ => Error::Unreachable(format!("connect: {error}")),
    }
}

/// Asks over a connection that stands, and reads at most `limit` bytes of the body; none without a limit.
pub(super) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
    limit: Option<usize>,
) -> Result<(Parts, Bytes), Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
    let asking = async {
        let (head, body) = sender.send_request(request).await.map_err(|error| broken(&error))?.into_parts();
        let body = match limit {
            Some(limit) => whole(body, limit).await?,
            None => Bytes::new(),
        };
        Ok((head, body))
    };
    // Driven here and not spawned: a request that is dropped closes its connection.
    tokio::select! {
        biased;
        done = asking => done,
        never = driving(connection) => match never {},
    }
}

/// The connection may be done before the answer has been taken from it, and tells its errors to the request.
async fn driving(connection: impl Future) -> Infallible {
    connection.await;
    pending().await
}

async fn whole(body: Incoming, limit: usize) -> Result<Bytes, Error> {
    match Limited::new(body, limit).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Error::TooLarge),
        Err(_) => Err(Error::Broken("the answer ends too early or is not HTTP".to_owned())),
    }
}

fn broken(error: &hyper::Error) -> Error {
    let text = if error.is_parse() {
        "answers, but not with HTTP"
    } else if error.is_incomplete_message() {
        "closed the connection without an answer"
    } else {
        "the connection broke off before an answer"
    };
    Error::Broken(text.to_owned())
}

/// Seconds, or a date, which is held against that of the answer.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let said = text(RETRY_AFTER)?;
    if let Ok(seconds) = said.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = |text: &str| rfc2822::DateTimeParser::new().parse_timestamp(text).ok();
    let sent = text(DATE).and_then(date).unwrap_or_else(Timestamp::now);
    Some(Duration::try_from(date(said)?.duration_since(sent)).unwrap_or_default())
}

impl Kind {
    fn of(headers: &HeaderMap) -> Kind {
        let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or("");
        let kind = kind.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        match kind.strip_prefix("application/") {
            Some(kind) if kind == "json" || kind.ends_with("+json") => Kind::Json,
            _ if kind == "text/html" => Kind::Html,
            _ => Kind::Other,
        }
    }
}

impl Redirect {
    /// A path is within; of a URL scheme, host and port must be those that were asked.
    fn of(asked: &str, to: &[u8]) -> Redirect {
        // `//name/path` keeps the scheme only.
        let is_elsewhere = to.starts_with(b"//");
        let to = std::str::from_utf8(to).ok().and_then(|to| to.parse::<Uri>().ok());
        let origin = |uri: &Uri| (uri.scheme().cloned(), uri.authority().cloned());
        match to.as_ref().map(origin) {
            Some((None, None)) if !is_elsewhere => Redirect::Within,
            Some(origin_of) if asked.parse::<Uri>().is_ok_and(|asked| origin(&asked) == origin_of) => Redirect::Within,
            _ => Redirect::Away,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as Socket};
    use std::sync::mpsc;

    const SHORT: Duration = Duration::from_millis(200);

    fn wait<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// Serves one connection with `act`, which gets the request's head; returns the URL.
    fn serve(act: impl FnOnce(Socket, String) + Send + 'static) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap_or(0) > 0 {
                head.push(byte[0]);
            }
            act(socket, String::from_utf8(head).unwrap());
        });
        url
    }

    fn answering(text: &str) -> String {
        let text = text.to_owned();
        serve(move |mut socket, _| socket.write_all(text.as_bytes()).unwrap())
    }

    fn get(url: &str) -> Result<Answer, Error> {
        wait(Http::default().get(url, &[], Limits::within(Duration::from_secs(20))))
    }

    fn get_briefly(url: &str) -> Result<Answer, Error> {
        wait(Http::default().get(url, &[], Limits::within(SHORT)))
    }

    fn broken(url: &str) -> String {
        match get(url) {
            Err(Error::Broken(text)) => text,
            other => panic!("{other:?}"),
        }
    }

    fn reply(kind: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
    }

    #[test]
    fn asks_with_host_and_agent_and_the_given_headers() {
        let (tell, told) = mpsc::channel();
        let url = serve(move |mut socket, head| {
            tell.send(head).unwrap();
            socket.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").unwrap();
        });
        let headers = [("Authorization", "Bearer k")];
        let path = format!("{url}/a/b?c=d");
        let answer = wait(Http::default().get(&path, &headers, Limits::within(Duration::from_secs(5)))).unwrap();
        assert_eq!(answer.status, 404);
        let head = told.recv().unwrap();
        assert!(head.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{head}");
        let host = url.trim_start_matches("http://");
        for line in [&format!("host: {host}"), "authorization: Bearer k", &format!("user-agent: {AGENT}")] {
            assert!(head.contains(&format!("{line}\r\n")), "{line} in {head}");
        }
    }

    #[test]
    fn json_is_read_if_it_is_called_so() {
        for kind in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            let answer = get(&answering(&reply(kind, r#"{"a": 1}"#))).unwrap();
            assert_eq!(answer.json::<serde_json::Value>().unwrap()["a"], 1, "{kind}");
        }
        let page = get(&answering(&reply("text/html", r#"{"a": 1}"#))).unwrap();
        assert_eq!(page.status, 200);
        let text = page.json::<serde_json::Value>().unwrap_err().to_string();
        assert_eq!(text, "answered with status 200 and HTML instead of JSON");
        let text = get(&answering(&reply("text/plain", "1"))).unwrap().json::<u32>().unwrap_err().to_string();
        assert_eq!(text, "answered with status 200 and something that is not called JSON");
    }

    #[test]
    fn faults_in_json_are_told_without_its_content() {
        let answer = get(&answering(&reply("application/json", "{\"a\": secret}"))).unwrap();
        let text = format!("{:#}", answer.json::<serde_json::Value>().unwrap_err());
        assert_eq!(text, "answered with status 200 and invalid JSON (line 1 column 7)");
        let answer = get(&answering(&reply("application/json", "\"secret\""))).unwrap();
        let text = format!("{:#} {answer:?}", answer.json::<u32>().unwrap_err());
        assert!(text.contains("JSON of another shape") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn chunks_are_put_together() {
        let chunks = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
            2\r\n[1\r\n3\r\n,2]\r\n0\r\n\r\n";
        assert_eq!(get(&answering(chunks)).unwrap().json::<Vec<u32>>().unwrap(), [1, 2]);
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        let text = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n[1,2]";
        assert_eq!(get(&answering(text)).unwrap().json::<Vec<u32>>().unwrap(), [1, 2]);
    }

    #[test]
    fn nobody_there_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        assert_eq!(get(&url).unwrap_err(), Error::Refused);
    }

    #[test]
    fn silence_and_drips_time_out_connected() {
        let (done, wait_for_it) = mpsc::channel::<()>();
        let silent = serve(move |_socket, _| {
            let _ = wait_for_it.recv();
        });
        assert_eq!(get_briefly(&silent).unwrap_err(), Error::TimedOut { connected: true });
        drop(done);
        let drip = || {
            serve(|mut socket, _| {
                let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n");
                while socket.write_all(b"x").is_ok() {
                    std::thread::sleep(Duration::from_millis(20));
                }
            })
        };
        assert_eq!(get_briefly(&drip()).unwrap_err(), Error::TimedOut { connected: true });
        assert_eq!(wait(Http::default().probe(&drip(), Duration::from_secs(20))).unwrap().status, 200);
    }

    #[test]
    fn closing_and_garbage_are_broken() {
        assert_eq!(broken(&serve(|_, _| ())), "closed the connection without an answer");
        assert_eq!(broken(&answering("SSH-2.0-secret\r\n\r\n")), "answers, but not with HTTP");
        let noise = serve(|mut socket, _| drop(socket.write_all(&[0xff; 100_000])));
        assert!(!broken(&noise).is_empty());
        let cut = answering("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsecret");
        assert_eq!(broken(&cut), "the answer ends too early or is not HTTP");
        let bad_chunk = answering("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsecret\r\n");
        assert_eq!(broken(&bad_chunk), "the answer ends too early or is not HTTP");
    }

    #[test]
    fn a_huge_body_is_left_where_it_is() {
        let (tell, told) = mpsc::channel();
        let url = serve(move |mut socket, _| {
            let _ = socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n");
            let megabyte = vec![b' '; 1 << 20];
            let sent = (0..50).take_while(|_| socket.write_all(&megabyte).is_ok()).count();
            tell.send(sent).unwrap();
        });
        assert_eq!(get(&url).unwrap_err(), Error::TooLarge);
        assert!(told.recv().unwrap() < 50, "the client must hang up");
    }

    #[test]
    fn a_redirect_is_an_answer() {
        let answer =
            get(&answering("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(answer.unwrap().status, 302);
    }

    #[test]
    fn statuses_are_named_and_redirects_are_not_followed() {
        let told = |head: &str| {
            let answer = get(&answering(&format!("HTTP/1.1 {head}\r\nContent-Length: 0\r\n\r\n"))).unwrap();
            let failure = answer.good().map(drop).map_err(crate::sample::Failure::from);
            failure.map_err(|failure| (failure.cause, failure.error))
        };
        assert_eq!(told("204 X"), Ok(()));
        let (silent, denied) = (crate::sample::Cause::Unanswered, crate::sample::Cause::Denied);
        for (head, cause, text) in [
            ("500 X", silent, "answered with status 500"),
            ("404 X", silent, "answered with status 404"),
            ("401 X", denied, "answered with status 401"),
            ("403 X", denied, "answered with status 403"),
            ("304 X", silent, "answered with status 304"),
            ("302 X\r\nLocation: /login", silent, "answered with status 302, a redirect, which is not followed"),
            (
                "307 X\r\nLocation: http://127.0.0.1:1/secret",
                silent,
                "answered with status 307, a redirect to another host, which is not followed",
            ),
        ] {
            assert_eq!(told(head), Err((cause, text.to_owned())), "{head}");
        }
        let asked = "http://127.0.0.1:8484/status";
        for (to, is) in [
            ("/a", Redirect::Within),
            ("http://127.0.0.1:8484/a", Redirect::Within),
            ("https://127.0.0.1:8484/a", Redirect::Away),
            ("http://127.0.0.1/a", Redirect::Away),
            ("//elsewhere/a", Redirect::Away),
            ("\u{1}", Redirect::Away),
        ] {
            assert_eq!(Redirect::of(asked, to.as_bytes()), is, "{to}");
        }
    }

    #[test]
    fn names_that_do_not_exist_are_told_from_those_that_do_not_answer() {
        let unresolved = get("http://nowhere.invalid:80/").unwrap_err();
        assert!(matches!(unresolved, Error::Unresolved(_)));
        assert!(unresolved.to_string().starts_with("look up its name: "), "{unresolved}");
    }

    #[test]
    fn an_answer_says_when_it_may_be_asked_again() {
        let told = |headers: &str| {
            get(&answering(&format!("HTTP/1.1 429 X\r\n{headers}Content-Length: 0\r\n\r\n"))).unwrap().retry_after
        };
        let date = "Date: Sat, 21 Nov 2026 20:00:00 GMT\r\n";
        assert_eq!(told("Retry-After: 17\r\n"), Some(Duration::from_secs(17)));
        assert_eq!(
            told(&format!("{date}Retry-After: Sat, 21 Nov 2026 20:01:30 GMT\r\n")),
            Some(Duration::from_secs(90))
        );
        assert_eq!(told(&format!("{date}Retry-After: Sat, 21 Nov 2026 19:00:00 GMT\r\n")), Some(Duration::ZERO));
        assert!(told("Retry-After: Sat, 21 Nov 2099 19:00:00 GMT\r\n").unwrap() > Duration::from_secs(1));
        for none in ["", "Retry-After: soon\r\n", "Retry-After: -1\r\n"] {
            assert_eq!(told(none), None, "{none}");
        }
    }

    #[test]
    fn a_port_is_reached_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let reached = |host: &str| wait(reach(host, port, Duration::from_secs(20)));
        assert_eq!(reached("127.0.0.1"), Ok(()));
        assert!(matches!(reached("nowhere.invalid"), Err(Error::Unresolved(_))));
        drop(listener);
        assert_eq!(reached("127.0.0.1"), Err(Error::Refused));
    }

    /// A port that takes no connection and refuses none, as behind a firewall that drops: its queue is full.
    struct Hole {
        address: SocketAddr,
        _listener: tokio::net::TcpListener,
        _queued: Vec<std::thread::JoinHandle<()>>,
    }

    impl Hole {
        fn new() -> Hole {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let listener = socket.listen(0).unwrap();
            let address = listener.local_addr().unwrap();
            let connect =
                move || drop(Socket::connect_timeout(&address, Duration::from_secs(20)).map(std::mem::forget));
            let queued = (0..4).map(|_| std::thread::spawn(connect)).collect();
            while Socket::connect_timeout(&address, Duration::from_millis(100)).is_ok() {}
            Hole { address, _listener: listener, _queued: queued }
        }
    }

    #[test]
    fn an_address_that_leads_nowhere_holds_up_no_other() {
        wait(async {
            let hole = Hole::new();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let well = listener.local_addr().unwrap();
            let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let begun = Instant::now();
            let first_of = |addresses, time| first_of(addresses, Instant::now() + time);
            let (long, short) = (Duration::from_secs(60), Duration::from_millis(700));
            let stream = first_of(vec![hole.address, refusing, well], long).await.unwrap();
            assert_eq!(stream.peer_addr().unwrap(), well);
            let took = begun.elapsed();
            assert!(took >= HEAD_START && took < Duration::from_secs(5), "{took:?}");
            assert_eq!(first_of(vec![refusing, refusing], long).await.unwrap_err(), Error::Refused);
            let silent = Error::TimedOut { connected: false };
            assert_eq!(first_of(vec![hole.address, hole.address], short).await.unwrap_err(), silent);
            for both in [vec![hole.address, refusing], vec![refusing, hole.address]] {
                assert_eq!(first_of(both, short).await.unwrap_err(), Error::Refused, "known when the time was up");
            }
            let soon = Duration::from_millis(1);
            assert_eq!(first_of(vec![hole.address; 3], soon).await.unwrap_err(), silent, "no head start after it");
            assert!(matches!(first_of(Vec::new(), long).await, Err(Error::Unresolved(_))));
            let (v4, v6) =
                (|port| SocketAddr::from(([127, 0, 0, 1], port)), |port| SocketAddr::from(([0u16; 8], port)));
            let turns = by_turns(vec![v6(1), v6(2), v6(3), v4(4), v4(5)]);
            assert_eq!(turns.iter().map(SocketAddr::port).collect::<Vec<_>>(), [1, 4, 2, 5, 3]);
            let unreachable = || Error::Unreachable("connect: no route".into());
            assert_eq!(plainer(Some(unreachable()), Error::Refused), Error::Refused);
            assert_eq!(plainer(Some(Error::Refused), unreachable()), Error::Refused);
        });
    }

    #[test]
    fn addresses_are_checked() {
        assert_eq!(base("http://127.0.0.1:8484/").unwrap(), "http://127.0.0.1:8484");
        assert_eq!(base("http://[::1]:8484/api").unwrap(), "http://[::1]:8484/api");
        assert_eq!(base("https://host.example/v1/").unwrap(), "https://host.example/v1");
        for (url, says) in [
            ("host:8484", "of the form http://host:port"),
            ("ftp://host", "of the form http://host:port"),
            ("http://", "is not a URL"),
            ("", "is not a URL"),
            ("http://host/?a=b", "query or a fragment"),
            ("http://host:99999", "is not a URL"),
            ("http://host/a b?key=sk-secret", "`http://host/a b` is not a URL"),
        ] {
            let text = base(url).unwrap_err().to_string();
            assert!(text.contains(says), "{url}: {text}");
        }
        let text = base("http://me:secret@host").unwrap_err().to_string();
        assert!(text.contains("user and password") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn bad_headers_are_refused_unseen() {
        let answer = wait(Http::default().get("http://127.0.0.1:1", &[("a", "secret\r\n")], Limits::within(SHORT)));
        let Err(Error::Broken(text)) = answer else { panic!("{answer:?}") };
        assert!(!text.contains("secret"));
    }
}
