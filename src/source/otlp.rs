//! Pushes to an OTLP endpoint: the one thing that this program sends, and only where its operator says.
//!
//! Nothing of an answer but its status and the number of points that were refused reaches a log or an output.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::header::{HeaderName, HeaderValue};
use jiff::Timestamp;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::fact::Span;
use crate::source::http::{self, Error, Http, Limits, Own, Roots, Trust};

mod environment;

/// What rules and dashboards call the job.
const SERVICE: &str = "agenthost";
/// What is between two pushes: as much as between two scrapes.
const INTERVAL: Duration = Duration::from_secs(15);
/// More often nothing new is seen.
const SHORTEST: Duration = Duration::from_secs(1);
/// As the specification has it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The answer to a push is a few bytes; that to a refused one may be a page.
const ANSWER_LIMIT: usize = 1024 * 1024;
/// Sixteen times what a system's authorities are.
const FILE_LIMIT: u64 = 4 * 1024 * 1024;

/// The `[otlp]` table, over which the standard `OTEL_*` variables are laid.
#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The base of the endpoint, to which `/v1/metrics` is appended. Without one nothing is pushed.
    pub endpoint: Option<String>,
    /// The whole URL to push to, instead.
    pub metrics_endpoint: Option<String>,
    /// Headers of every push.
    pub headers: Headers,
    /// More of them, a line each, as `name: value`: a key need not stand here.
    pub headers_file: Option<PathBuf>,
    /// How long a push may take (10s).
    pub timeout: Option<Span>,
    /// From one push to the next (15s).
    pub interval: Option<Span>,
    /// How pushes are packed (gzip).
    pub compression: Packing,
    /// The PEM file of the only authority that counts; without it those that are built in.
    pub certificate: Option<PathBuf>,
    /// The PEM file of our own certificate.
    pub client_certificate: Option<PathBuf>,
    /// The PEM file of its key.
    pub client_key: Option<PathBuf>,
    /// Attributes of the resource, over those that are found out.
    pub resource: BTreeMap<String, String>,
    /// Headers that the environment lays over them.
    #[serde(skip)]
    environment: Headers,
    /// What of the environment could not be used.
    #[serde(skip)]
    pub notes: Vec<String>,
}

/// Its URLs and headers may hold keys.
impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config").finish_non_exhaustive()
    }
}

/// Headers by their names, in small letters. They may be keys: neither they nor what is no header shows.
#[derive(Clone, Default, PartialEq)]
pub struct Headers(BTreeMap<String, String>);

impl Headers {
    /// # Errors
    /// It is no header, or one that a push sets by itself. What may be a key is not quoted.
    fn add(&mut self, name: &str, value: &str) -> Result<()> {
        let name = name.to_ascii_lowercase();
        let own = ["content-type", "content-encoding", "content-length", "host", "connection", "transfer-encoding"];
        if own.contains(&name.as_str()) || name == "user-agent" {
            bail!("the header `{name}` is set by the push itself");
        }
        HeaderName::from_bytes(name.as_bytes()).map_err(|_| anyhow!("what stands for the name of a header is none"))?;
        HeaderValue::from_str(value).map_err(|_| anyhow!("the value of the header `{name}` is none"))?;
        self.0.insert(name, value.to_owned());
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Headers, D::Error> {
        let wanted = || D::Error::custom("headers are a table of `name = \"value\"`");
        let told = BTreeMap::<String, toml::Value>::deserialize(deserializer).map_err(|_| wanted())?;
        let mut headers = Headers::default();
        for (name, value) in &told {
            headers.add(name, value.as_str().ok_or_else(wanted)?).map_err(D::Error::custom)?;
        }
        Ok(headers)
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Packing {
    #[default]
    Gzip,
    None,
}

impl Config {
    /// Lays the environment over it: an empty variable is none, and one that cannot be used is a note.
    #[must_use]
    pub fn over(self, variable: impl Fn(&str) -> Option<String>) -> Config {
        environment::lay(self, &variable)
    }

    /// Where pushes go; `None` if nowhere.
    ///
    /// # Errors
    /// For the person who wrote it. No value of a header is quoted.
    pub fn target(&self) -> Result<Option<Target>> {
        let interval = self.interval.map_or(INTERVAL, |Span(interval)| interval);
        if interval < SHORTEST {
            bail!("[otlp] interval: must be at least {}", Span(SHORTEST));
        }
        let time = self.timeout.map_or(TIMEOUT, |Span(timeout)| timeout);
        if time.is_zero() {
            bail!("[otlp] timeout: must be longer than nothing");
        }
        let http = self.trust().context("[otlp]")?.map_or_else(Http::default, |trust| Http::default().trusting(trust));
        let headers = self.all_headers().context("[otlp]")?.0.into_iter().collect();
        let Some(url) = self.url().context("[otlp]")? else { return Ok(None) };
        Ok(Some(Target { url, headers, time, interval, packing: self.compression, http }))
    }

    /// What the pushes are of, by the semantic conventions: `service.*`, `host.*`, `os.type`, and what is configured over it.
    ///
    /// Prometheus makes `job` and `instance` of the name and the instance, so that they are as those of a scrape.
    pub fn attributes(&self, listen: &[SocketAddr]) -> BTreeMap<String, String> {
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let port = listen.iter().map(SocketAddr::port).find(|port| *port != 0);
        let instance = port.map_or_else(|| name.clone(), |port| format!("{name}:{port}"));
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let found = [
            ("service.name", SERVICE),
            ("service.version", env!("CARGO_PKG_VERSION")),
            ("service.instance.id", &instance),
            ("host.name", &name),
            ("host.arch", arch),
            ("os.type", std::env::consts::OS),
        ];
        let found = found.map(|(name, value)| (name.to_owned(), value.to_owned()));
        found.into_iter().chain(self.resource.clone()).collect()
    }

    /// The content of those files, by which one tells whether anything has changed.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn contents(&self) -> Result<Vec<Vec<u8>>> {
        self.files().iter().map(|file| read(file)).collect::<Result<_>>().context("[otlp]")
    }

    /// Files whose content is configuration too.
    pub fn files(&self) -> Vec<PathBuf> {
        let files = [&self.headers_file, &self.certificate, &self.client_certificate, &self.client_key];
        files.into_iter().flatten().cloned().collect()
    }

    fn url(&self) -> Result<Option<String>> {
        match (&self.metrics_endpoint, &self.endpoint) {
            (Some(url), _) => {
                http::check(url).context("metrics_endpoint")?;
                Ok(Some(url.clone()))
            }
            (None, Some(base)) => Ok(Some(format!("{}/v1/metrics", http::base(base).context("endpoint")?))),
            (None, None) => Ok(None),
        }
    }

    fn trust(&self) -> Result<Option<Trust>> {
        let authority = self.certificate.as_deref().map(read).transpose()?;
        let roots = authority.as_deref().map_or(Roots::BuiltIn, Roots::Only);
        match (&self.client_certificate, &self.client_key) {
            (Some(certificate), Some(key)) => {
                let (certificates, key) = (read(certificate)?, read(key)?);
                let own = Own { certificates: &certificates, key: &key };
                Trust::showing(roots, Some(own)).context("client_certificate").map(Some)
            }
            (None, None) => authority.as_deref().map(Trust::only).transpose().context("certificate"),
            _ => bail!("client_certificate and client_key belong together"),
        }
    }

    /// Those of the file, over them those of the file of headers, over both the environment's.
    fn all_headers(&self) -> Result<Headers> {
        let mut headers = self.headers.clone();
        if let Some(file) = &self.headers_file {
            let naming = || format!("headers_file: {}", file.display());
            let text = String::from_utf8(read(file)?).map_err(|_| anyhow!("not UTF-8")).with_context(naming)?;
            add_lines(&mut headers, &text).with_context(naming)?;
        }
        headers.0.extend(self.environment.0.clone());
        Ok(headers)
    }
}

/// # Errors
/// It cannot be read, or is longer than what it is for: a part of it would be taken for the whole.
fn read(file: &Path) -> Result<Vec<u8>> {
    let naming = || format!("read {}", file.display());
    let mut text = Vec::new();
    let opened = std::fs::File::open(file).with_context(naming)?;
    opened.take(FILE_LIMIT + 1).read_to_end(&mut text).with_context(naming)?;
    ensure!(text.len() as u64 <= FILE_LIMIT, "{}: longer than 4 MiB", file.display());
    Ok(text)
}

/// `name: value` on each line; empty ones and comments are left out.
fn add_lines(headers: &mut Headers, text: &str) -> Result<()> {
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'))
    {
        let place = || format!("line {}: `name: value` is wanted", number + 1);
        let (name, value) = line.split_once(':').with_context(place)?;
        headers.add(name.trim(), value.trim()).with_context(place)?;
    }
    Ok(())
}

/// Where pushes go, and how.
#[derive(Clone)]
pub struct Target {
    url: String,
    headers: Vec<(String, String)>,
    time: Duration,
    packing: Packing,
    http: Http,
    pub interval: Duration,
}

/// Why a push was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    pub reason: Reason,
    /// In our own words.
    pub text: String,
    /// When to come again, by its own word.
    pub retry_after: Option<Duration>,
}

/// Of what kind a failure is: a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nobody listens, no such name, no route.
    Unreachable,
    /// No answer within the time-out.
    Timeout,
    Tls,
    /// 401 or 403.
    Denied,
    /// Another status below 500, 429 apart: the same push would be refused again.
    Refused,
    /// 429, or a status of 500 and above.
    Unavailable,
    /// What came was no answer of HTTP, or the push could not be made.
    Broken,
}

impl Reason {
    pub const ALL: [Reason; 7] = [
        Reason::Unreachable,
        Reason::Timeout,
        Reason::Tls,
        Reason::Denied,
        Reason::Refused,
        Reason::Unavailable,
        Reason::Broken,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Reason::Unreachable => "unreachable",
            Reason::Timeout => "timeout",
            Reason::Tls => "tls",
            Reason::Denied => "denied",
            Reason::Refused => "refused",
            Reason::Unavailable => "unavailable",
            Reason::Broken => "broken",
        }
    }
}

impl Target {
    /// The URL without its query, which may be a key.
    pub fn shown(&self) -> &str {
        self.url.split(['?', '#']).next().unwrap_or_default()
    }

    /// Sends one push, and gets what the endpoint says of it.
    ///
    /// # Errors
    /// It was not taken.
    pub async fn send(&self, body: &Bytes) -> Result<Bytes, Failed> {
        let mut headers = vec![("Content-Type", "application/x-protobuf")];
        let body = match self.packing {
            Packing::None => body.clone(),
            Packing::Gzip => {
                headers.push(("Content-Encoding", "gzip"));
                gzip(body).map_err(unpacked)?
            }
        };
        headers.extend(self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        let limits = Limits { time: self.time, body: ANSWER_LIMIT };
        let answer = self.http.post(&self.url, &headers, body, limits).await.map_err(failed)?;
        match answer.status {
            200..=299 => Ok(answer.bytes().clone()),
            status => Err(Failed {
                reason: reason(status),
                text: match status {
                    404 | 405 => format!("answered with status {status}: nothing takes pushes at that path"),
                    300..=399 => format!("answered with status {status}, a redirect, which is not followed"),
                    _ => format!("answered with status {status}"),
                },
                retry_after: answer.retry_after,
            }),
        }
    }
}

fn gzip(body: &Bytes) -> std::io::Result<Bytes> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(body)?;
    Ok(packed.finish()?.into())
}

/// An empty push would be taken for one that has nothing to say.
fn unpacked(error: std::io::Error) -> Failed {
    Failed { reason: Reason::Broken, text: format!("it could not be packed: {error}"), retry_after: None }
}

fn reason(status: u16) -> Reason {
    match status {
        401 | 403 => Reason::Denied,
        429 | 500.. => Reason::Unavailable,
        _ => Reason::Refused,
    }
}

fn failed(error: Error) -> Failed {
    let reason = match &error {
        Error::Refused | Error::Unresolved(_) | Error::Unreachable(_) => Reason::Unreachable,
        Error::TimedOut { .. } => Reason::Timeout,
        Error::Tls(_) => Reason::Tls,
        Error::TooLarge | Error::Broken(_) => Reason::Broken,
    };
    Failed { reason, text: error.to_string(), retry_after: None }
}

/// How pushes went since the start of this program. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Pushes(Arc<Mutex<Told>>);

/// What is told of them.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Told {
    /// Where they go, without what may be a key; null if nothing is pushed.
    pub endpoint: Option<String>,
    pub sent: u64,
    pub last_sent_at: Option<Timestamp>,
    /// Pushes that were not taken, by reason.
    pub failed: BTreeMap<Reason, u64>,
    /// Why the latest was not taken; null once one is.
    pub error: Option<String>,
    /// Points that the endpoint refused in pushes that it took.
    pub rejected_points: u64,
}

impl Pushes {
    pub fn told(&self) -> Told {
        self.with(|told| told.clone())
    }

    /// From now on they go there; what is counted stays.
    pub fn to(&self, endpoint: Option<&str>) {
        self.with(|told| {
            told.endpoint = endpoint.map(str::to_owned);
            told.error = None;
        });
    }

    /// One was taken, of which so many points were refused. Whether that ends a failure.
    pub fn sent(&self, rejected: u64) -> bool {
        self.with(|told| {
            told.sent += 1;
            told.rejected_points = told.rejected_points.saturating_add(rejected);
            told.last_sent_at = Some(Timestamp::now());
            told.error.take().is_some()
        })
    }

    /// One was not taken. Whether that is news.
    pub fn failed(&self, failed: &Failed) -> bool {
        self.with(|told| {
            *told.failed.entry(failed.reason).or_default() += 1;
            told.error.replace(failed.text.clone()).as_ref() != Some(&failed.text)
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Told) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests;
