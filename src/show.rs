//! Routes: which renderer answers which path. Nothing here waits for the host.

use std::sync::Arc;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderValue, IF_NONE_MATCH, X_CONTENT_TYPE_OPTIONS};
use hyper::{Method, Request, Response, StatusCode};

use percent_encoding::percent_decode_str;

use crate::sample::Now;
use crate::show::status::Detail;
use crate::snapshot::Current;
use probes::{Asked, Reasons};

pub mod metrics;
pub mod page;
pub mod probes;
pub mod status;

const JSON: &str = "application/json; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const TEXT: &str = "text/plain; charset=utf-8";

/// A response whose body is already there.
pub type Answer = Response<Full<Bytes>>;

/// The renderers of one river.
#[derive(Clone)]
pub struct Show {
    current: Current,
    metrics: Arc<metrics::Page>,
    status: Arc<status::Page>,
}

impl Show {
    /// # Errors
    /// The Prometheus exporter cannot be built: a defect of the declarations.
    pub fn new(current: &Current) -> Result<Show> {
        let (metrics, status) = (metrics::Page::new(current)?, Arc::new(status::Page::new(current)));
        Ok(Show { current: current.clone(), metrics, status })
    }

    /// Answers one request. `now` is for the heartbeat, and for how long ago something began.
    pub async fn answer<B>(&self, request: &Request<B>, now: Now) -> Answer {
        if !self.knows(request.uri().path()) {
            return text(StatusCode::NOT_FOUND, "not found: see / for what there is\n");
        }
        match *request.method() {
            Method::GET => self.get(request, now).await,
            Method::HEAD => head(self.get(request, now).await),
            _ => with(text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n"), ALLOW, "GET, HEAD"),
        }
    }

    fn knows(&self, path: &str) -> bool {
        let fixed = ["/", "/metrics", "/status", "/livez", "/readyz", "/-/healthy", "/-/ready"];
        let below = ["/status/", "/livez/", "/readyz/"];
        fixed.contains(&path) || below.iter().any(|folder| path.starts_with(folder))
    }

    async fn get<B>(&self, request: &Request<B>, now: Now) -> Answer {
        let asked = Asked::of(request.uri().query());
        match request.uri().path() {
            "/" => content(HTML, page::render(&self.current.get())),
            "/metrics" => self.metrics().await,
            "/livez" | "/-/healthy" => probe(probes::live(&self.current, now, &asked)),
            "/readyz" => self.ready(now, &asked),
            "/-/ready" => probe(Some(probes::serving())),
            "/status" => self.status(request),
            path => match (path.strip_prefix("/livez/"), path.strip_prefix("/readyz/")) {
                (Some(check), _) => probe(probes::live(&self.current, now, &asked.only(check))),
                (_, Some(check)) => self.ready(now, &asked.only(check)),
                _ => self.detail(path.trim_start_matches("/status/")),
            },
        }
    }

    /// Everything else is open to whoever can reach it, so the reasons are too.
    fn ready(&self, now: Now, asked: &Asked<'_>) -> Answer {
        probe(probes::ready(&self.current, now, asked, Reasons::Shown))
    }

    async fn metrics(&self) -> Answer {
        match self.metrics.get().await {
            Ok(text) => content(metrics::CONTENT_TYPE, text),
            Err(error) => defect(&error),
        }
    }

    fn status<B>(&self, request: &Request<B>) -> Answer {
        match section(request.uri().query()) {
            Some(name) => self.section(name),
            None => self.whole(request),
        }
    }

    fn whole<B>(&self, request: &Request<B>) -> Answer {
        let (seq, bytes) = match self.status.get() {
            Ok(rendered) => rendered,
            Err(error) => return defect(&error),
        };
        let started = self.current.get().sidecar.started_at.as_millisecond();
        let tag = format!("\"{started:x}-{seq:x}\"");
        if request.headers().get(IF_NONE_MATCH).is_some_and(|known| knows(known, &tag)) {
            return with(answer(StatusCode::NOT_MODIFIED, JSON, Bytes::new()), ETAG, &tag);
        }
        with(content(JSON, bytes), ETAG, &tag)
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

/// Whether a client's `If-None-Match` names this tag: one, a list, weak ones too, or any.
fn knows(known: &HeaderValue, tag: &str) -> bool {
    let tags = known.to_str().unwrap_or("").split(',').map(|known| known.trim().trim_start_matches("W/"));
    tags.into_iter().any(|known| known == tag || known == "*")
}

/// The value of `section=` in a query. Names of sections need no decoding.
fn section(query: Option<&str>) -> Option<&str> {
    query?.split('&').find_map(|pair| pair.strip_prefix("section="))
}

fn missing() -> Answer {
    text(StatusCode::NOT_FOUND, "nothing of this name in the latest reading\n")
}

fn probe(probe: Option<probes::Probe>) -> Answer {
    match probe {
        Some(probe) if probe.ok => answer(StatusCode::OK, TEXT, probe.text),
        Some(probe) => answer(StatusCode::SERVICE_UNAVAILABLE, TEXT, probe.text),
        None => text(StatusCode::NOT_FOUND, "no such check: ?verbose lists them\n"),
    }
}

fn text(status: StatusCode, text: &'static str) -> Answer {
    answer(status, TEXT, text)
}

fn content(kind: &'static str, body: impl Into<Bytes>) -> Answer {
    answer(StatusCode::OK, kind, body)
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

fn with(mut answer: Answer, name: hyper::header::HeaderName, value: &str) -> Answer {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// The same without its body; the length stays what it would be.
fn head(answer: Answer) -> Answer {
    let (mut parts, body) = answer.into_parts();
    if let Some(length) = hyper::body::Body::size_hint(&body).exact() {
        parts.headers.insert(hyper::header::CONTENT_LENGTH, length.into());
    }
    Response::from_parts(parts, Full::default())
}

fn defect(error: &anyhow::Error) -> Answer {
    tracing::error!(%error, "cannot render");
    text(StatusCode::INTERNAL_SERVER_ERROR, "cannot render: a defect of this program, its log says more\n")
}
