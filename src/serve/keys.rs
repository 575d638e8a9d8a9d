//! What guards the doors, read from its files; exchanged as a whole while they are open.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use arc_swap::ArcSwap;
use hyper::header::HeaderMap;
use tokio_rustls::rustls::ServerConfig;

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
    pub(super) rate: Option<Rate>,
    /// Nobody comes in without a certificate of an authority of ours.
    knows_clients: bool,
    files: Vec<PathBuf>,
}

/// The keys of this moment. Clones share them.
#[derive(Clone)]
pub struct Guard(Arc<ArcSwap<Keys>>);

impl Keys {
    /// Reads the web configuration and every file that it names.
    ///
    /// # Errors
    /// One cannot be read, or says what cannot be done: the message names file and key, and quotes no secret.
    pub fn read(config: &Config) -> Result<Keys> {
        let web = config.config_file.as_deref().map(WebConfig::read).transpose()?.unwrap_or_default();
        let token = config.bearer_token_file.as_deref().map(|path| {
            std::fs::read_to_string(path).with_context(|| format!("[web] bearer_token_file: read {}", path.display()))
        });
        let auth = Auth::new(web.users(), token.transpose()?.as_deref());
        let file = || config.config_file.iter().map(|path| path.display().to_string()).collect::<String>();
        let tls = web.tls_server_config.as_ref().filter(|tls| tls.is_wanted());
        let tls =
            tls.map(|tls| Doors::new(tls, web.http2()).context("tls_server_config").with_context(file)).transpose()?;
        Ok(Keys {
            knows_clients: tls.as_ref().is_some_and(|tls| tls.knows_clients),
            tls: tls.map(|tls| tls.config),
            auth: auth.with_context(|| {
                if config.config_file.is_some() { file() } else { "[web] bearer_token_file".to_owned() }
            })?,
            headers: web.headers().with_context(file)?,
            hosts: Hosts(config.hosts.clone()),
            rate: web.rate().with_context(file)?.map(|(interval, burst)| Rate::new(interval, burst)),
            files: [&config.config_file, &config.bearer_token_file]
                .into_iter()
                .flatten()
                .cloned()
                .chain(web.files())
                .collect(),
        })
    }

    /// The files that were read: another content makes other keys.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Whether nobody can read without showing something.
    pub fn is_locked(&self) -> bool {
        self.auth.is_needed() || self.knows_clients
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
