//! The file of `--web.config.file`, as Prometheus' own exporters read it: the YAML of its exporter-toolkit.
//!
//! What it says and this program cannot do is refused by name; nothing of it is passed over.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde_saphyr::Error as Yaml;

/// The whole file. Paths in it are relative to its folder.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WebConfig {
    pub tls_server_config: Option<Tls>,
    http_server_config: Option<Http>,
    basic_auth_users: Option<BTreeMap<String, String>>,
    rate_limit: Option<Rate>,
}

/// What is served over TLS, and who may come.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tls {
    pub cert: Option<String>,
    pub cert_file: Option<PathBuf>,
    pub key: Option<String>,
    pub key_file: Option<PathBuf>,
    pub client_auth_type: Option<String>,
    pub client_ca: Option<String>,
    pub client_ca_file: Option<PathBuf>,
    pub client_allowed_sans: Option<Vec<String>>,
    pub min_version: Option<String>,
    pub max_version: Option<String>,
    pub cipher_suites: Option<Vec<String>>,
    pub prefer_server_cipher_suites: Option<bool>,
    pub curve_preferences: Option<Vec<String>>,
}

impl Tls {
    /// An empty table is none, as in the toolkit.
    pub fn is_wanted(&self) -> bool {
        let texts = [&self.cert, &self.key, &self.client_ca, &self.client_auth_type];
        let files = [&self.cert_file, &self.key_file, &self.client_ca_file];
        texts.into_iter().flatten().any(|text| !text.is_empty()) || files.into_iter().any(Option::is_some)
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Http {
    http2: Option<bool>,
    headers: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Rate {
    interval: Option<Interval>,
    burst: Option<u32>,
}

/// As the toolkit reads it: a plain number is one of nanoseconds.
#[derive(Deserialize)]
#[serde(untagged)]
enum Interval {
    Nanoseconds(f64),
    Text(String),
}

/// Aliases may repeat so much in all: a few hundred bytes of them can be made to mean a million words.
const REPEATED: usize = 10_000;

/// Each answer may carry these, and no other that the file names.
const HEADERS: [&str; 5] = [
    "Content-Security-Policy",
    "Strict-Transport-Security",
    "X-Content-Type-Options",
    "X-Frame-Options",
    "X-XSS-Protection",
];

impl WebConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// It cannot be read, or says what is not known: file, line and key, and nothing of what might be a secret.
    pub fn read(path: &Path) -> Result<WebConfig> {
        let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let config = WebConfig::parse(&text).with_context(|| path.display().to_string())?;
        Ok(config.below(path.parent().unwrap_or(Path::new(""))))
    }

    fn parse(text: &str) -> Result<WebConfig> {
        let mut options = serde_saphyr::Options::default();
        options.alias_limits.max_total_replayed_events = REPEATED;
        let read: Option<WebConfig> =
            serde_saphyr::from_str_with_options(text, options).map_err(|error| fault(&error))?;
        Ok(read.unwrap_or_default())
    }

    /// With the paths as they are from here.
    fn below(mut self, folder: &Path) -> WebConfig {
        if let Some(tls) = &mut self.tls_server_config {
            for path in [&mut tls.cert_file, &mut tls.key_file, &mut tls.client_ca_file] {
                *path = path.take().filter(|path| !path.as_os_str().is_empty()).map(|path| folder.join(path));
            }
        }
        self
    }

    /// Files that it names.
    pub fn files(&self) -> Vec<PathBuf> {
        let tls = self.tls_server_config.iter();
        tls.flat_map(|tls| [&tls.cert_file, &tls.key_file, &tls.client_ca_file]).flatten().cloned().collect()
    }

    /// Whether HTTP/2 is offered; over TLS only.
    pub fn http2(&self) -> bool {
        self.http_server_config.as_ref().and_then(|http| http.http2).unwrap_or(true)
    }

    /// What is added to every answer.
    ///
    /// # Errors
    /// One is none of the five, or has a value that it cannot have.
    pub fn headers(&self) -> Result<HeaderMap> {
        let wanted = self.http_server_config.iter().filter_map(|http| http.headers.as_ref()).flatten();
        wanted.filter(|(_, value)| !value.is_empty()).map(|(name, value)| header(name, value)).collect()
    }

    /// Who may come, with the bcrypt digests of their passwords.
    pub fn users(&self) -> BTreeMap<String, String> {
        self.basic_auth_users.clone().unwrap_or_default()
    }

    /// One request each so often, and so many at once; `None`: as many as come.
    ///
    /// # Errors
    /// The interval is no duration.
    pub fn rate(&self) -> Result<Option<(Duration, u32)>> {
        let Some(rate) = &self.rate_limit else { return Ok(None) };
        let interval = rate.interval.as_ref().map_or(Ok(Duration::ZERO), Interval::duration)?;
        let burst = rate.burst.unwrap_or(0);
        ensure!(interval.is_zero() || burst > 0, "rate_limit: a `burst` of 0 lets nobody in");
        Ok((!interval.is_zero()).then_some((interval, burst)))
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue)> {
    let Some(known) = HEADERS.iter().find(|known| known.eq_ignore_ascii_case(name)) else {
        bail!("http_server_config: headers: `{name}` cannot be set: only {}", HEADERS.join(", "));
    };
    let fits = match *known {
        "X-Frame-Options" => ["deny", "sameorigin"].contains(&value),
        "X-Content-Type-Options" => value == "nosniff",
        _ => true,
    };
    ensure!(fits, "http_server_config: headers: `{name}` cannot be `{value}`");
    let value = HeaderValue::from_str(value).with_context(|| format!("http_server_config: headers: {name}"))?;
    Ok((HeaderName::from_bytes(known.as_bytes())?, value))
}

impl Interval {
    fn duration(&self) -> Result<Duration> {
        match self {
            Interval::Nanoseconds(number) => {
                let fits = number.is_finite() && *number >= 0.0;
                ensure!(fits, "rate_limit: interval: `{number}` is not a duration: write it like 1s or 100ms");
                Ok(Duration::from_nanos(*number as u64))
            }
            Interval::Text(text) => duration(text),
        }
    }
}

/// As Go writes them: `1s`, `100ms`, `1m30s`, `0`.
fn duration(text: &str) -> Result<Duration> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let like_go = text.starts_with(|first: char| first.is_ascii_digit()) && !text.contains([' ', ',', 'd', 'w']);
    let span = text.parse::<jiff::SignedDuration>().ok().and_then(|span| Duration::try_from(span).ok());
    let span = span.filter(|_| like_go);
    span.with_context(|| format!("rate_limit: interval: `{text}` is not a duration: write it like 1s or 100ms"))
}

/// In our words: the library quotes what it could not read, which may be a password.
fn fault(error: &Yaml) -> anyhow::Error {
    let error = error.without_snippet();
    let what = match error {
        Yaml::SerdeUnknownField { field, expected, .. } => {
            let nearest = expected.iter().max_by(|a, b| {
                let near = |known: &str| strsim::jaro_winkler(known, field);
                near(a).total_cmp(&near(b))
            });
            nearest.map_or_else(
                || format!("`{field}` is not known"),
                |nearest| format!("`{field}` is not known: is `{nearest}` meant?"),
            )
        }
        Yaml::SerdeInvalidType { expected, .. } | Yaml::SerdeInvalidValue { expected, .. } => {
            format!("this must be {expected}")
        }
        Yaml::DuplicateMappingKey { key: Some(key), .. } => format!("`{key}` stands there twice"),
        _ => "this cannot be read as a web configuration".to_owned(),
    };
    match error.location() {
        Some(at) => anyhow::anyhow!("line {}: {what}", at.line()),
        None => anyhow::anyhow!(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        let told = |config: WebConfig| config.headers().map(drop).and_then(|()| config.rate().map(drop));
        format!("{:#}", WebConfig::parse(text).and_then(told).expect_err(text))
    }

    #[test]
    fn an_empty_file_and_empty_tables_are_nothing() {
        for text in ["", "# nothing\n", "tls_server_config:\nbasic_auth_users:\n", "http_server_config: {}\n"] {
            let config = WebConfig::parse(text).unwrap();
            assert!(config.tls_server_config.is_none() && config.users().is_empty() && config.http2(), "{text}");
            assert!(config.headers().unwrap().is_empty() && config.rate().unwrap().is_none(), "{text}");
        }
    }

    #[test]
    fn everything_is_read() {
        let text = "
tls_server_config: {cert_file: a.pem, key_file: /b.pem, client_auth_type: RequireAndVerifyClientCert}
http_server_config:
  http2: false
  headers: {Strict-Transport-Security: max-age=1, x-frame-options: deny, X-XSS-Protection: ''}
basic_auth_users: {alice: hash}
rate_limit: {interval: 100ms, burst: 3}
";
        let config = WebConfig::parse(text).unwrap().below(Path::new("/etc"));
        assert_eq!(config.files(), [Path::new("/etc/a.pem"), Path::new("/b.pem")]);
        assert!(!config.http2());
        let headers = config.headers().unwrap();
        assert_eq!((headers["strict-transport-security"].as_bytes(), headers.len()), (&b"max-age=1"[..], 2));
        assert_eq!(config.users()["alice"], "hash");
        assert_eq!(config.rate().unwrap(), Some((Duration::from_millis(100), 3)));
    }

    #[test]
    fn what_is_not_known_is_named_and_what_may_be_secret_is_not() {
        let unknown = refused("basic_auth_users: {}\ntls_server_confg: {}\n");
        assert_eq!(unknown, "line 2: `tls_server_confg` is not known: is `tls_server_config` meant?");
        assert!(refused("tls_server_config:\n  cert_fil: x\n").starts_with("line 2: `cert_fil` is not known"));
        for text in [
            "basic_auth_users: s3cret\n",
            "basic_auth_users: {a: [s3cret]}\n",
            "- s3cret\n",
            "s3cret: '\n",
            "a: {s3cret\n",
        ] {
            let said = refused(text);
            assert!(!said.contains("s3cret") || said.contains("`s3cret` is not known"), "{text}: {said}");
        }
        assert!(refused("basic_auth_users: {a: x, a: y}\n").contains("`a` stands there twice"));
        assert!(refused("http_server_config: {headers: {Server: x}}\n").contains("`Server` cannot be set"));
        assert!(refused("http_server_config: {headers: {X-Frame-Options: allow}}\n").contains("cannot be `allow`"));
        for wrong in ["soon", "PT1S", "1 second", "1d", "-1s", "-1", "1e9x"] {
            let said = refused(&format!("rate_limit: {{interval: {wrong}, burst: 1}}\n"));
            assert!(said.contains(&format!("`{wrong}` is not a duration")), "{said}");
        }
        assert!(refused("rate_limit: {interval: 1s}\n").contains("burst"));
    }

    #[test]
    fn a_plain_number_is_one_of_nanoseconds_as_in_go() {
        let rate = |interval: &str| {
            let text = format!("rate_limit: {{interval: {interval}, burst: 3}}\n");
            WebConfig::parse(&text).and_then(|config| config.rate()).map(|rate| rate.map(|(interval, _)| interval))
        };
        assert_eq!(rate("100000000").unwrap(), Some(Duration::from_millis(100)));
        assert_eq!(rate("1e9").unwrap(), Some(Duration::from_secs(1)));
        assert_eq!(rate("1").unwrap(), Some(Duration::from_nanos(1)));
        assert_eq!(rate("1h30m").unwrap(), Some(Duration::from_secs(5400)));
        assert!(
            rate("'100'").unwrap_err().to_string().contains("`100` is not a duration"),
            "text needs a unit there too"
        );
    }

    #[test]
    fn no_interval_is_no_limit() {
        for text in
            ["rate_limit: {burst: 3}\n", "rate_limit: {interval: 0, burst: 3}\n", "rate_limit: {interval: 0s}\n"]
        {
            assert_eq!(WebConfig::parse(text).unwrap().rate().unwrap(), None, "{text}");
        }
    }
}
