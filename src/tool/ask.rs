//! How the one-shot commands ask a sidecar that runs: where it is, what is shown to it, and what its answers mean.
//!
//! One thread, no pool, and nothing of the configuration but `[web]`: a probe is started every few seconds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde_json::Value;

use crate::fact::Span;
use crate::source::http::{self, Answer, Error, Http, Limits, Roots, Trust};
use crate::source::key::KeyFile;

/// The whole of `/status` of a host with thousands of workers has some megabytes.
const LONGEST: usize = 64 * 1024 * 1024;

/// Where the sidecar is, and what it wants to be shown.
#[derive(Debug, Clone, Default, Args)]
pub struct Door {
    /// The base of the sidecar's URLs; without it where its own configuration says that it listens.
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// How long to wait for it in all.
    #[arg(long, value_name = "DURATION")]
    pub timeout: Option<Span>,
    /// PEM: the authorities that count for its certificate, instead of those that are built in.
    #[arg(long, value_name = "FILE", conflicts_with = "insecure")]
    pub ca_file: Option<PathBuf>,
    /// Takes whatever certificate it shows.
    #[arg(long)]
    pub insecure: bool,
    /// PEM: the certificate to show, if it asks its clients for one.
    #[arg(long, value_name = "FILE", requires = "key_file")]
    pub cert_file: Option<PathBuf>,
    /// PEM: the key of that certificate.
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    pub key_file: Option<PathBuf>,
    /// A user of its web configuration; the password stands in a file.
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub user: Option<String>,
    /// The file with that user's password.
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// The file with its bearer token.
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    pub token_file: Option<PathBuf>,
}

/// Not by the parser of the command line, which quotes what it refuses: it may have a password.
fn base(url: &str) -> Result<String> {
    let base = http::base(url)?;
    match ["/livez", "/readyz", "/status", "/metrics"].iter().find(|path| base.ends_with(*path)) {
        Some(path) => bail!("give the base only, without {path}"),
        None => Ok(base),
    }
}

/// What the sidecar's own configuration says of the way to it.
#[derive(Debug, Clone)]
pub struct Own {
    pub listen: Vec<SocketAddr>,
    pub tls: bool,
    /// Why its configuration could not be read: then this is a guess.
    pub doubt: Option<String>,
    /// The doubt is of a file that was named and cannot be read.
    pub is_missing: bool,
}

/// Asks one sidecar.
pub struct Asker {
    /// In this order, until somebody answers.
    bases: Vec<String>,
    http: Http,
    authorization: Option<String>,
    deadline: Instant,
    doubt: Option<String>,
}

/// What became of a question.
pub struct Reply {
    /// Who was asked last.
    pub url: String,
    pub heard: Result<Answer, Error>,
    doubt: Option<String>,
}

impl Reply {
    /// Why nobody could be asked, with what may be the reason.
    pub fn why(&self, error: &Error) -> String {
        match &self.doubt {
            Some(doubt) => format!("{error} (its configuration cannot be read, so this is a guess: {doubt})"),
            None => error.to_string(),
        }
    }
}

impl Door {
    /// `own` is asked only without a URL. What is asked for has this long in all, if nothing else was said.
    ///
    /// # Errors
    /// A file that was named cannot be read, or nobody can tell where the sidecar listens.
    pub fn open(&self, own: impl FnOnce() -> Own, patience: Duration) -> Result<Asker> {
        let deadline = Instant::now() + self.timeout.map_or(patience, |Span(time)| time);
        ensure!(self.timeout.is_none_or(|Span(time)| !time.is_zero()), "--timeout: nobody answers in no time");
        let own = self.url.is_none().then(own);
        if let Some(Own { doubt: Some(doubt), is_missing: true, .. }) = &own {
            bail!("{doubt}");
        }
        let bases = match (&self.url, &own) {
            (Some(url), _) => vec![base(url).context("--url")?],
            (None, Some(own)) => own.bases()?,
            (None, None) => Vec::new(),
        };
        // Ours is of another name than that of loopback. Who has our port while we are down could show any: what lets one in is
        // shown only to whom --ca-file or --insecure means.
        let ourselves = self.user.is_none() && self.token_file.is_none();
        let ourselves =
            ourselves && own.as_ref().is_some_and(|own| own.tls) && bases.iter().all(|base| is_loopback(base));
        Ok(Asker {
            http: self.http(ourselves)?,
            authorization: self.authorization()?,
            bases,
            deadline,
            doubt: own.and_then(|own| own.doubt),
        })
    }

    fn http(&self, ourselves: bool) -> Result<Http> {
        let authorities = self.ca_file.as_deref().map(read).transpose()?;
        let roots = match &authorities {
            Some(pem) => Roots::Only(pem),
            None if self.insecure || ourselves => Roots::Any,
            None => Roots::BuiltIn,
        };
        let (Some(certificate), Some(key)) = (&self.cert_file, &self.key_file) else {
            return match roots {
                Roots::BuiltIn => Ok(Http::default()), // made when it is needed
                roots => self.trusting(roots, None),
            };
        };
        let (certificates, key) = (read(certificate)?, read(key)?);
        self.trusting(roots, Some(http::Own { certificates: &certificates, key: &key }))
    }

    fn trusting(&self, roots: Roots<'_>, own: Option<http::Own<'_>>) -> Result<Http> {
        let named = || [&self.ca_file, &self.cert_file].into_iter().flatten().map(|file| file.display().to_string());
        let trust = Trust::showing(roots, own).with_context(|| named().collect::<Vec<_>>().join(", "))?;
        Ok(Http::default().trusting(trust))
    }

    fn authorization(&self) -> Result<Option<String>> {
        if let Some(file) = &self.token_file {
            return Ok(Some(KeyFile::new(file).read()?.bearer()));
        }
        let (Some(user), Some(file)) = (&self.user, &self.password_file) else { return Ok(None) };
        let text = read(file)?;
        let end = text.iter().rposition(|byte| !b"\r\n".contains(byte)).map_or(0, |last| last + 1);
        ensure!(end > 0, "read {}: it is empty", file.display());
        let pair = [user.as_bytes(), b":", text.get(..end).unwrap_or_default()].concat();
        Ok(Some(format!("Basic {}", BASE64_STANDARD.encode(pair))))
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("read {}", path.display()))
}

fn is_loopback(base: &str) -> bool {
    let address = base.split_once("://").and_then(|(_, address)| address.parse::<SocketAddr>().ok());
    address.is_some_and(|address| address.ip().to_canonical().is_loopback())
}

impl Own {
    /// Addresses that lead there from this machine. What listens everywhere listens on loopback; on `[::]` in either
    /// family, of which a container may have but one.
    fn bases(&self) -> Result<Vec<String>> {
        let scheme = if self.tls { "https" } else { "http" };
        let of = |address: &SocketAddr| -> Vec<IpAddr> {
            let (four, six) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
            match address.ip() {
                ip if !ip.is_unspecified() => vec![ip],
                IpAddr::V4(_) => vec![four],
                IpAddr::V6(_) => vec![four, six],
            }
        };
        let mut addresses: Vec<SocketAddr> = self
            .listen
            .iter()
            .filter(|address| address.port() != 0)
            .collect::<Vec<_>>()
            .into_iter()
            .flat_map(|address| of(address).into_iter().map(|ip| SocketAddr::new(ip, address.port())))
            .collect();
        if addresses.is_empty() {
            bail!("it listens on any free port: --url says where");
        }
        addresses.sort_by_key(|address| !address.ip().is_loopback());
        Ok(addresses.iter().map(|address| format!("{scheme}://{address}")).collect())
    }
}

impl Asker {
    /// Asks for a path, of everyone it may be until somebody answers.
    pub async fn get(&self, path: &str) -> Reply {
        let mut reply = None;
        for base in &self.bases {
            let url = format!("{base}{path}");
            let heard = self.get_url(&url).await;
            let refused = matches!(heard, Err(Error::Refused | Error::Unreachable(_)));
            reply = Some(Reply { url, heard, doubt: self.doubt.clone() });
            if !refused {
                break;
            }
        }
        reply.expect("there is at least one base")
    }

    /// Asserts that the sidecar works: nothing that it says of the host holds otherwise.
    ///
    /// # Errors
    /// It does not, or does not answer.
    pub async fn alive(&self) -> Result<()> {
        let reply = self.get("/livez").await;
        let Reply { url, heard, .. } = &reply;
        match heard {
            Err(error) => bail!("{url}: {}", reply.why(error)),
            Ok(answer)
                if answer.status == 503 && answer.text().is_some_and(|text| text.ends_with("livez check failed\n")) =>
            {
                bail!("{url}: the sidecar's own loop has stopped, so no verdict holds")
            }
            Ok(answer) => answer.good().map(drop).with_context(|| url.clone()),
        }
    }

    /// A document of `/status`.
    ///
    /// # Errors
    /// Nobody answers, it is refused, or what answers is no sidecar.
    pub async fn status(&self, path: &str) -> Result<Value> {
        let reply = self.get(path).await;
        let Reply { url, heard, .. } = &reply;
        match heard {
            Err(error) => bail!("{url}: {}", reply.why(error)),
            Ok(answer) => answer.good().and_then(Answer::json).with_context(|| url.clone()),
        }
    }

    async fn get_url(&self, url: &str) -> Result<Answer, Error> {
        let time = self.deadline.saturating_duration_since(Instant::now());
        let headers = self.authorization.as_deref().map(|value| ("authorization", value));
        self.http.get(url, headers.as_slice(), Limits { time, body: LONGEST }).await
    }
}

/// Runs a question on this thread. A look-up of a name that hangs is left behind.
///
/// # Errors
/// The machine gives no runtime: out of file descriptors, most likely.
pub fn wait<T>(question: impl Future<Output = T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(question);
    runtime.shutdown_background();
    Ok(answer)
}

/// What somebody else wrote, on one line of a terminal: without control characters, and without those that turn the
/// direction of what follows.
pub fn plain(text: &str) -> String {
    let turns = |letter| matches!(letter, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{feff}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|letter| if letter.is_control() || turns(letter) { '\u{fffd}' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(listen: &[&str], tls: bool) -> Result<Vec<String>> {
        Own { listen: listen.iter().map(|text| text.parse().unwrap()).collect(), tls, doubt: None, is_missing: false }
            .bases()
    }

    #[test]
    fn it_is_asked_where_it_listens_by_an_address_that_leads_there() {
        let cases: [(&[&str], bool, &[&str]); 6] = [
            (&["127.0.0.1:10484"], false, &["http://127.0.0.1:10484"]),
            (&["0.0.0.0:1"], true, &["https://127.0.0.1:1"]),
            (&["[::]:1"], false, &["http://127.0.0.1:1", "http://[::1]:1"]),
            (&["10.0.0.5:1"], false, &["http://10.0.0.5:1"]),
            (&["10.0.0.5:1", "[::1]:2"], false, &["http://[::1]:2", "http://10.0.0.5:1"]),
            (&["127.0.0.1:0", "127.0.0.1:7"], false, &["http://127.0.0.1:7"]),
        ];
        for (listen, tls, expected) in cases {
            assert_eq!(bases(listen, tls).unwrap(), expected, "{listen:?}");
        }
        assert!(bases(&["127.0.0.1:0"], false).unwrap_err().to_string().contains("--url"));
    }

    #[test]
    fn a_url_is_a_base() {
        assert_eq!(base("http://h:1/agents/").unwrap(), "http://h:1/agents");
        for (url, says) in
            [("http://h:1/readyz", "without /readyz"), ("h:1", "not a URL"), ("http://u:p@h", "user and password")]
        {
            let error = base(url).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("u:p"), "{error}");
        }
    }

    #[test]
    fn a_password_is_the_file_without_its_last_line_end() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("password");
        let door = Door { user: Some("prom".into()), password_file: Some(file.clone()), ..Door::default() };
        for (text, encoded) in [("a b", "cHJvbTphIGI="), ("a b\n", "cHJvbTphIGI="), ("a b\r\n", "cHJvbTphIGI=")] {
            std::fs::write(&file, text).unwrap();
            assert_eq!(door.authorization().unwrap().unwrap(), format!("Basic {encoded}"));
        }
        std::fs::write(&file, "\n").unwrap();
        assert!(door.authorization().is_err());
        std::fs::remove_file(&file).unwrap();
        assert!(format!("{:#}", door.authorization().unwrap_err()).starts_with(&format!("read {}", file.display())));
    }

    #[test]
    fn what_somebody_else_wrote_moves_no_cursor() {
        assert_eq!(
            plain("a\u{1b}[2Jb\nc\rd\u{9b}e\u{202e}f é 中"),
            "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\u{fffd}e\u{fffd}f é 中"
        );
    }
}
