//! What guards the doors, read from its files; exchanged as a whole while they are open.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwap;
use hyper::header::HeaderMap;
use tokio_rustls::rustls::ServerConfig;

use crate::sample::Now;

use super::auth::Auth;
use super::rate::Rate;
use super::tls::Doors;
use super::web_config::WebConfig;
use super::{Config, Hosts};

/// Everything that must be shown, and what every answer carries.
pub struct Keys {
    /// `None`: in the clear.
    pub tls: Option<Arc<ServerConfig>>,
    pub auth: Auth,
    pub headers: HeaderMap,
    pub(super) hosts: Hosts,
    rate: Option<Arc<Rate>>,
    /// Connections that came in by another one have to come in again; `None`: in the clear.
    pub(super) policy: Option<Vec<u8>>,
    /// Nobody comes in without a certificate of an authority of ours.
    knows_clients: bool,
}

/// The keys of this moment. Clones share them.
#[derive(Clone)]
pub struct Guard(Arc<ArcSwap<Keys>>);

impl Keys {
    /// Reads the web configuration and every file that it names. What the `old` ones found out stays.
    ///
    /// # Errors
    /// One cannot be read, or says what cannot be done: the message names file and key, and quotes no secret.
    pub fn read(config: &Config, old: Option<&Keys>) -> Result<Keys> {
        let Some(file) = config.config_file() else {
            return Keys::of(config, &WebConfig::default(), old).context("[web]");
        };
        Keys::of(config, &WebConfig::read(file)?, old).with_context(|| file.display().to_string())
    }

    fn of(config: &Config, web: &WebConfig, old: Option<&Keys>) -> Result<Keys> {
        let tls = web.tls_server_config.as_ref().filter(|tls| tls.is_wanted());
        let tls = tls.map(|tls| Doors::new(tls, web.http2()).context("tls_server_config")).transpose()?;
        let rate = web.rate()?.map(|(interval, burst)| Rate::new(interval, burst));
        let spent = |rate: Rate| match old.and_then(|old| old.rate.clone()).filter(|old| old.is_like(&rate)) {
            Some(old) => old,
            None => Arc::new(rate),
        };
        Ok(Keys {
            knows_clients: tls.as_ref().is_some_and(|tls| tls.knows_clients),
            policy: tls.as_ref().map(|tls| tls.policy.clone()),
            tls: tls.map(|tls| tls.config),
            auth: Auth::new(web.users(), config.token()?.as_deref(), old.map(|old| &old.auth))?,
            headers: web.headers()?,
            hosts: Hosts(config.hosts.clone()),
            rate: rate.map(spent),
        })
    }

    /// Whether one more request is within the rate.
    pub fn admits(&self, now: Now) -> bool {
        self.rate.as_ref().is_none_or(|rate| rate.admits(now.mono))
    }

    /// Whether nobody can read without showing something.
    pub fn is_locked(&self) -> bool {
        self.auth.is_needed() || self.knows_clients
    }

    /// Whether these let somebody read, or listen, whom the old ones did not.
    ///
    /// # Errors
    /// They do, and how. A file that is empty for a moment must not open the doors of a sidecar that runs.
    pub fn keep_closed(&self, old: &Keys) -> Result<()> {
        ensure!(self.is_locked() || !old.is_locked(), "nothing would have to be shown any more: that takes a restart");
        ensure!(self.tls.is_some() || old.tls.is_none(), "there would be no TLS any more: that takes a restart");
        Ok(())
    }
}

impl Config {
    /// An empty name is none, as with other exporters.
    fn config_file(&self) -> Option<&Path> {
        self.config_file.as_deref().filter(|path| !path.as_os_str().is_empty())
    }

    /// Whether it is spoken to over TLS.
    ///
    /// # Errors
    /// The file that says so cannot be read.
    pub fn speaks_tls(&self) -> Result<bool> {
        let Some(file) = self.config_file() else { return Ok(false) };
        Ok(WebConfig::read(file)?.tls_server_config.is_some_and(|tls| tls.is_wanted()))
    }

    fn token(&self) -> Result<Option<String>> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("[web] bearer_token_file: read {}", path.display()))
        };
        self.bearer_token_file.as_deref().map(read).transpose()
    }

    /// The files that guard the doors: another content makes other keys. Those that a web configuration names are among
    /// them as far as it can be read.
    pub fn files(&self) -> Vec<PathBuf> {
        let web = self.config_file().and_then(|path| WebConfig::read(path).ok());
        let own = [self.config_file(), self.bearer_token_file.as_deref()].into_iter().flatten().map(Path::to_owned);
        own.chain(web.iter().flat_map(WebConfig::files)).collect()
    }
}

impl Guard {
    pub fn new(keys: Keys) -> Guard {
        Guard(Arc::new(ArcSwap::from_pointee(keys)))
    }

    pub fn keys(&self) -> Arc<Keys> {
        self.0.load_full()
    }

    /// From the next request on; TLS from the next connection on.
    pub fn change(&self, keys: Keys) {
        self.0.store(Arc::new(keys));
    }
}
