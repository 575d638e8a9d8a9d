//! Routes: which renderer answers which path. Nothing here waits for the host.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ACCEPT_ENCODING, ALLOW, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_SECURITY_POLICY,
    CONTENT_TYPE, ETAG, HOST, HeaderMap, HeaderValue, IF_NONE_MATCH, LOCATION, REFERRER_POLICY, RETRY_AFTER,
    SET_COOKIE, VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode};

use percent_encoding::percent_decode_str;
use tokio::sync::{mpsc, oneshot};

use crate::sample::Now;
use crate::show::status::Detail;
use crate::snapshot::Current;
use probes::{Asked, Reasons};
use standing::{Body, Standing};

pub mod metrics;
pub mod otlp;
pub mod page;
pub mod probes;
pub mod standing;
pub mod status;

const RELOAD: &str = "/-/reload";

const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// A page of ours runs and loads only what is ours, and stands in no other page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Of what is named after its content.
const FOR_EVER: &str = "private, max-age=31536000, immutable";

/// A response whose body is already there.
pub type Answer = Response<Full<Bytes>>;

/// The renderers of one river.
#[derive(Clone)]
pub struct Show {
    current: Current,
    metrics: Arc<Standing>,
    status: Arc<Standing>,
    /// The sidecar is about to end.
    stopping: Arc<AtomicBool>,
    reloads: Option<Reloads>,
    /// The program's own profile can be asked for, at another door.
    profiler: bool,
}

/// Takes wishes for a reload; each is told how it went.
pub type Reloads = mpsc::Sender<oneshot::Sender<Result<(), String>>>;

impl Show {
    /// Without `reloads`, `/-/reload` is forbidden; `profiler` is whether the page shows the way there.
    pub fn new(current: &Current, reloads: Option<Reloads>, profiler: bool) -> Show {
        let (metrics, status) = (metrics::page(current), status::page(current));
        Show { current: current.clone(), metrics, status, stopping: Arc::default(), reloads, profiler }
    }

    /// From now on it is not ready: it answers only what is under way.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Answers one request. `now` is for the heartbeat, and for how long ago something began; `reasons` is whether who
    /// asks may see why a check failed.
    pub async fn answer<B>(&self, request: &Request<B>, now: Now, reasons: Reasons) -> Answer {
        if !self.knows(request.uri().path()) {
            return text(StatusCode::NOT_FOUND, "not found: see / for what there is\n");
        }
        match *request.method() {
            Method::POST | Method::PUT if request.uri().path() == RELOAD => self.reload(request).await,
            _ if request.uri().path() == RELOAD => {
                with(text(StatusCode::METHOD_NOT_ALLOWED, "only POST and PUT\n"), ALLOW, "POST, PUT")
            }
            Method::GET => self.get(request, now, reasons).await,
            Method::HEAD => head(self.get(request, now, reasons).await),
            _ => with(text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"), ALLOW, "GET, HEAD"),
        }
    }

    fn knows(&self, path: &str) -> bool {
        let fixed = ["/", "/metrics", "/status", "/livez", "/readyz", "/-/healthy", "/-/ready", RELOAD];
        let below = ["/status/", "/livez/", "/readyz/", page::FOLDER];
        fixed.contains(&path) || below.iter().any(|folder| path.starts_with(folder))
    }

    async fn get<B>(&self, request: &Request<B>, now: Now, reasons: Reasons) -> Answer {
        let asked = Asked::of(request.uri().query());
        match request.uri().path() {
            "/" => asset(page::page(self.profiler), request.headers()),
            "/metrics" => self.metrics(request.headers()).await,
            "/livez" | "/-/healthy" => probe(probes::live(&self.current, now, &asked)),
            "/readyz" => self.ready(now, &asked, reasons),
            "/-/ready" if self.stopping() => stopping(),
            "/-/ready" => probe(Some(probes::serving())),
            "/status" => self.status(request).await,
            path => match (path.strip_prefix("/livez/"), path.strip_prefix("/readyz/")) {
                (Some(check), _) => probe(probes::live(&self.current, now, &asked.only(check))),
                (_, Some(check)) => self.ready(now, &asked.only(check), reasons),
                _ if path.starts_with(page::FOLDER) => part(path, request.headers()),
                _ => self.detail(path.trim_start_matches("/status/")),
            },
        }
    }

    fn ready(&self, now: Now, asked: &Asked<'_>, reasons: Reasons) -> Answer {
        if self.stopping() {
            return stopping();
        }
        probe(probes::ready(&self.current, now, asked, reasons))
    }

    fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    async fn reload<B>(&self, request: &Request<B>) -> Answer {
        let Some(reloads) = &self.reloads else {
            return text(StatusCode::FORBIDDEN, "off: --web.enable-lifecycle switches it on; SIGHUP always works\n");
        };
        if is_cross_site(request) {
            return text(StatusCode::FORBIDDEN, "not from another site's page\n");
        }
        let (tell, told) = oneshot::channel();
        let reloaded = match reloads.send(tell).await {
            Ok(()) => told.await,
            Err(_) => return stopping(),
        };
        match reloaded {
            Ok(Ok(())) => text(StatusCode::OK, "reloaded\n"),
            Ok(Err(why)) => answer(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("refused: {why}\n")),
            Err(_) => stopping(),
        }
    }

    async fn metrics(&self, headers: &HeaderMap) -> Answer {
        match self.metrics.get().await {
            Ok(body) => encoded(metrics::CONTENT_TYPE, body, headers),
            Err(error) => defect(&error),
        }
    }

    async fn status<B>(&self, request: &Request<B>) -> Answer {
        match section(request.uri().query()) {
            Some(name) => self.section(name),
            None => self.whole(request.headers()).await,
        }
    }

    async fn whole(&self, headers: &HeaderMap) -> Answer {
        let body = match self.status.get().await {
            Ok(body) => body,
            Err(error) => return defect(&error),
        };
        let started = self.current.get().sidecar.started_at.as_millisecond();
        let tag = format!("W/\"{started:x}-{:x}\"", body.seq); // weak: the same whether or not it is gzip
        if headers.get(IF_NONE_MATCH).is_some_and(|known| knows(known, &tag)) {
            let same = with(answer(StatusCode::NOT_MODIFIED, JSON, Bytes::new()), VARY, "Accept-Encoding");
            return with(with(same, ETAG, &tag), CACHE_CONTROL, "no-cache");
        }
        with(with(encoded(JSON, body, headers), ETAG, &tag), CACHE_CONTROL, "no-cache")
    }

    fn section(&self, name: &str) -> Answer {
        match status::part(&self.current.get(), name) {
            Ok(Some(part)) => content(JSON, part),
            Ok(None) => text(StatusCode::NOT_FOUND, "no such section: the keys of /status are the sections\n"),
            Err(error) => defect(&error.into()),
        }
    }

    fn detail(&self, path: &str) -> Answer {
        let snapshot = self.current.get();
        let Some((name, key)) = path.split_once('/') else { return missing() };
        let key = percent_decode_str(key).decode_utf8_lossy();
        match status::detail(&snapshot, name, &key) {
            Detail::Found(detail) => content(JSON, detail.to_owned()),
            Detail::Missing => missing(),
            Detail::Unknown => text(StatusCode::SERVICE_UNAVAILABLE, "its collector sees nothing: /status says why\n"),
        }
    }
}

fn asset(asset: &page::Asset, headers: &HeaderMap) -> Answer {
    encoded(asset.kind, asset.body.clone(), headers)
}

fn part(path: &str, headers: &HeaderMap) -> Answer {
    match page::part(path) {
        Some(part) => with(asset(part, headers), CACHE_CONTROL, FOR_EVER),
        None => {
            text(StatusCode::NOT_FOUND, "no such part of the page: it was of another version, load the page anew\n")
        }
    }
}

/// By which name and port a request calls us, in HTTP/1 and 2; `None`: by none, `Some(None)`: by one that is no text.
pub fn called<B>(request: &Request<B>) -> Option<Option<&str>> {
    match request.uri().authority() {
        Some(authority) => Some(Some(authority.as_str())),
        None => request.headers().get(HOST).map(|host| host.to_str().ok()),
    }
}

/// Whether a browser says that a page of another site sends it.
fn is_cross_site<B>(request: &Request<B>) -> bool {
    let told = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = called(request).flatten().unwrap_or("");
    let from_elsewhere = |origin: &str| origin.split_once("://").is_none_or(|(_, authority)| authority != host);
    told("sec-fetch-site").is_some_and(|site| !["same-origin", "none"].contains(&site))
        || told("origin").is_some_and(from_elsewhere)
}

/// Whether a client's `If-None-Match` names this tag: one, a list, weak ones too, or any.
fn knows(known: &HeaderValue, tag: &str) -> bool {
    let tags = known.to_str().unwrap_or("").split(',').map(|known| known.trim().trim_start_matches("W/"));
    tags.into_iter().any(|known| known == tag.trim_start_matches("W/") || known == "*")
}

/// The form that the client takes.
fn encoded(kind: &'static str, body: Body, headers: &HeaderMap) -> Answer {
    let accepted = headers.get_all(ACCEPT_ENCODING);
    let packed = takes_gzip(accepted.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')));
    let answer = content(kind, if packed { body.gzip } else { body.plain });
    let answer = if packed { with(answer, CONTENT_ENCODING, "gzip") } else { answer };
    with(answer, VARY, "Accept-Encoding")
}

/// Whether the codings that a client accepts have gzip among them: by its name, else by `*`; a weight of 0 refuses it.
fn takes_gzip<'a>(codings: impl Iterator<Item = &'a str>) -> bool {
    let (mut named, mut any) = (None, None);
    for coding in codings {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
        let taken = weight.is_none_or(|weight| weight.trim().parse().is_ok_and(|weight: f32| weight > 0.0));
        match name.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => named = Some(taken),
            "*" => any = Some(taken),
            _ => {}
        }
    }
    named.or(any).unwrap_or(false)
}

/// The value of `section=` in a query. Names of sections need no decoding.
fn section(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("section="))
}

fn missing() -> Answer {
    text(StatusCode::NOT_FOUND, "nothing of this name in the latest reading\n")
}

fn stopping() -> Answer {
    text(StatusCode::SERVICE_UNAVAILABLE, "the sidecar is stopping\n")
}

/// To a request that calls a loopback address by a name that is not its own.
pub fn misdirected() -> Answer {
    text(StatusCode::MISDIRECTED_REQUEST, "this name is not mine: use localhost, or add it to `hosts` in [web]\n")
}

/// Whether a path is of those that are asked by whoever has nothing to show: an orchestrator.
pub fn is_probe(path: &str) -> bool {
    let fixed = ["/livez", "/readyz", "/-/healthy", "/-/ready"];
    fixed.contains(&path) || path.starts_with("/livez/") || path.starts_with("/readyz/")
}

/// To a request of a connection that came in before others were let in.
pub fn elsewhere() -> Answer {
    text(StatusCode::MISDIRECTED_REQUEST, "who may come in has changed: connect anew\n")
}

/// To a request that shows nothing that is right.
pub fn unauthorized(challenge: &str) -> Answer {
    let why = "unauthorized: a user and password of the web configuration, or the bearer token, must be shown\n";
    with(text(StatusCode::UNAUTHORIZED, why), WWW_AUTHENTICATE, challenge)
}

/// To a request beyond the rate that is configured.
pub fn too_often() -> Answer {
    with(text(StatusCode::TOO_MANY_REQUESTS, "too many requests: see rate_limit\n"), RETRY_AFTER, "1")
}

/// To a request whose password cannot be compared soon.
pub fn too_busy() -> Answer {
    let why = "too many passwords are being compared: come again\n";
    with(text(StatusCode::SERVICE_UNAVAILABLE, why), RETRY_AFTER, "5")
}

/// To a request whose token was right: leads to the same place without it, and leaves a cookie.
///
/// A browser that follows a link of another site would not show the cookie at the end of a redirect, so there it is a
/// page of ours that leads on.
pub fn entered<B>(request: &Request<B>, cookie: &str) -> Answer {
    let rest = request.uri().query().into_iter().flat_map(|query| query.split('&'));
    let rest: Vec<_> = rest.filter(|pair| !pair.starts_with("token=")).collect();
    // Two slashes would lead to another site, and browsers take either kind.
    let path = format!("/{}", request.uri().path().trim_start_matches(['/', '\\']));
    let to = if rest.is_empty() { path } else { format!("{path}?{}", rest.join("&")) };
    let answer = if is_cross_site(request) {
        let quoted = to.replace('&', "&amp;").replace('"', "&quot;").replace('<', "&lt;");
        let page = format!(
            "<!doctype html><meta http-equiv=\"refresh\" content=\"0;url={quoted}\"><a href=\"{quoted}\">on</a>\n"
        );
        content(HTML, page)
    } else {
        with(text(StatusCode::SEE_OTHER, "the token is taken\n"), LOCATION, &to)
    };
    with(with(answer, SET_COOKIE, cookie), REFERRER_POLICY, "no-referrer")
}

fn probe(probe: Option<probes::Probe>) -> Answer {
    match probe {
        Some(probe) if probe.ok => answer(StatusCode::OK, TEXT, probe.text),
        Some(probe) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, probe.text),
        None => text(StatusCode::NOT_FOUND, "no such check: ?verbose lists them\n"),
    }
}

/// A short text of ours.
pub fn text(status: StatusCode, text: &'static str) -> Answer {
    answer(status, TEXT, text)
}

fn content(kind: &'static str, body: impl Into<Bytes>) -> Answer {
    answer(StatusCode::OK, kind, body)
}

/// What a browser keeps as a file of this name.
pub fn file(kind: &'static str, name: &str, body: Bytes) -> Answer {
    with(content(kind, body), CONTENT_DISPOSITION, &format!("attachment; filename=\"{name}\""))
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if kind == HTML {
        headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
    answer
}

/// The same with one more header.
pub fn with(mut answer: Answer, name: hyper::header::HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// The same without its body; the length stays what it would be.
fn head(answer: Answer) -> Answer {
    let (mut parts, body) = answer.into_parts();
    if let Some(length) = hyper::body::Body::size_hint(&body).exact()
        && parts.status != StatusCode::NOT_MODIFIED
    {
        parts.headers.insert(hyper::header::CONTENT_LENGTH, length.into());
    }
    Response::from_parts(parts, Full::default())
}

fn defect(error: &anyhow::Error) -> Answer {
    tracing::error!(%error, "cannot render");
    text(StatusCode::INTERNAL_SERVER_ERROR, "cannot render: a defect of this program, its log says more\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_taken_if_it_is_accepted() {
        let takes = |header: &str| takes_gzip(header.split(','));
        for header in
            ["gzip", "deflate, gzip;q=0.5", "GZIP", "x-gzip", "*", "*;q=0.1", "identity;q=0, gzip; q=1.0", "br,*"]
        {
            assert!(takes(header), "{header}");
        }
        for header in ["", "identity", "gzip;q=0", "gzip; q=0.000", "gzip;q=0, *", "*;q=0", "br", "gzip;q=x", "notgzip"]
        {
            assert!(!takes(header), "{header}");
        }
    }

    #[test]
    fn a_tag_is_known_by_itself_in_a_list_and_by_a_star() {
        let knows = |known: &'static str| knows(&HeaderValue::from_static(known), "W/\"a-1\"");
        assert!(knows("W/\"a-1\"") && knows("\"a-1\"") && knows("\"x\", W/\"a-1\"") && knows("*"));
        assert!(!knows("\"a-2\"") && !knows("") && !knows("a-1"));
    }
}
