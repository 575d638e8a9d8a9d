//! The host's own API, for all collectors that ask it: where it is, with which token, and what a bad answer is called.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::de::DeserializeOwned;

use crate::host::generic::Endpoint;
use crate::host::{Host, Url, pynchy};
use crate::sample::{Denied, Excused, Now};
use crate::source::Sources;
use crate::source::boot::Boot;
use crate::source::http::{Ask, Error, Http, Limits, NotGood, Told};
use crate::source::key::KeyFile;

/// What was told of its status so long ago is told again: those who poll it do so at the same moments, and 15 s apart at the
/// least.
const STATUS_AGE: Duration = Duration::from_secs(10);

/// Costs pynchy three git processes on its event loop.
pub const HEALTH: &str = "/health";
/// So it is asked about once a minute, whoever wants to know.
pub const HEALTH_AGE: Duration = Duration::from_secs(50);

/// A status page lists tasks with what they said last: more than usual, and still bounded.
const BODY: usize = 4 * 1024 * 1024;

/// Where the host answers. Only a start takes a new port from its configuration, so as long as somebody listens where it
/// answered last, it is there.
#[derive(Debug, Clone)]
pub struct Address {
    written: Url,
    known: Option<String>,
}

impl Address {
    pub fn new(url: &Url) -> Address {
        Address { written: url.clone(), known: None }
    }

    /// The base of the API, without a trailing slash.
    ///
    /// # Errors
    /// The host's configuration is there and does not tell.
    pub fn base(&self) -> Result<String> {
        match &self.known {
            Some(known) => Ok(known.clone()),
            None => self.written.read(),
        }
    }

    pub fn answered(&mut self, base: &str) {
        self.known = Some(base.to_owned());
    }

    pub fn refused(&mut self) {
        self.known = None;
    }
}

/// Asks through the memo that all collectors share.
#[derive(Debug)]
pub struct HostApi {
    http: Http,
    address: Address,
    token: Option<KeyFile>,
    patience: Duration,
    status_age: Duration,
    /// Asking for the status was decided to be free by the host's own configuration in this folder.
    free_by: Option<PathBuf>,
    /// Where a token would be named.
    place: &'static str,
}

/// What a host that is starting cannot say yet is no failure of what it would say. One that does answer, and wrongly, is
/// not excused.
pub fn while_starting(boot: &Boot, now: Now) -> impl Fn(anyhow::Error) -> anyhow::Error + use<> {
    let is_starting = boot.is_under_way(now);
    move |error| match is_starting && is_silence(&error) {
        true => anyhow!(Excused(format!("{error:#} (the host is starting)"))),
        false => error,
    }
}

/// Nobody answers, or says that who should does not yet.
pub fn is_silence(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| match cause.downcast_ref() {
        Some(Error::TooLarge | Error::Tls(_)) => false,
        Some(_) => true,
        None => matches!(cause.downcast_ref(), Some(NotGood(502..=504))),
    })
}

/// What several collectors ask one endpoint for they ask at the same moments. Less than the shortest interval: what was told
/// at one look must not pass for what is seen at the next.
const ENDPOINT_AGE: Duration = Duration::from_millis(500);

impl HostApi {
    /// `None` if the host has none.
    pub fn new(host: &Host, sources: &Sources) -> Option<HostApi> {
        Some(HostApi {
            http: sources.http.clone(),
            address: Address::new(host.url.as_ref()?),
            token: host.token.clone(),
            patience: Duration::from_secs(8),
            place: "[host]",
            status_age: host.status_poll.map_or(STATUS_AGE, |every| (every / 2).min(STATUS_AGE)),
            free_by: host.root.clone().filter(|_| host.is_free_by_its_own_word),
        })
    }

    /// One that the configuration lists.
    pub fn of_endpoint(endpoint: &Endpoint, sources: &Sources) -> HostApi {
        HostApi {
            http: sources.http.clone(),
            address: Address::new(&Url::Given(endpoint.url.clone())),
            token: endpoint.token_file.as_ref().map(KeyFile::new),
            patience: Duration::from_secs(8),
            place: "its [[collect.http]]",
            status_age: ENDPOINT_AGE,
            free_by: None,
        }
    }

    /// Reads what such a one answers.
    ///
    /// # Errors
    /// See `json`.
    pub async fn endpoint(&mut self, now: Now) -> Result<serde_json::Value> {
        self.json("", now, self.status_age).await
    }

    /// A request ends before the run must, or a hung host would look like a hung sidecar.
    pub fn within(&mut self, run: Duration) {
        self.patience = run * 4 / 5;
    }

    /// Reads the status that the host has here, which may cost it a lot: once for all who poll it at the same pace.
    ///
    /// # Errors
    /// See `json`; or it is no longer known to be free, by a change that has not been taken in yet.
    pub async fn status<T: DeserializeOwned>(&mut self, path: &str, now: Now) -> Result<T> {
        if let Some(why) = self.free_by.as_deref().and_then(pynchy::why_status_costs_now) {
            bail!("the host's configuration has changed, and its {path} is not asked for any more: {why}");
        }
        self.json(path, now, self.status_age).await
    }

    /// Reads what it answers to this path; an answer of less than `max_age` ago is taken again.
    ///
    /// # Errors
    /// Names the URL and what was wrong: refused, silent, a status, a redirect, no JSON, or JSON of another shape.
    /// `Denied`, with what mends it, where it wants another token.
    pub async fn json<T: DeserializeOwned>(&mut self, path: &str, now: Now, max_age: Duration) -> Result<T> {
        Ok(self.json_at(path, now, max_age).await?.1)
    }

    /// The same, and when it was asked.
    ///
    /// # Errors
    /// See `json`.
    pub async fn json_at<T: DeserializeOwned>(&mut self, path: &str, now: Now, max_age: Duration) -> Result<(Now, T)> {
        self.json_within(path, now, max_age, self.patience).await
    }

    /// The same, after another question has used up most of the run: what answers at all answers this in milliseconds.
    ///
    /// # Errors
    /// See `json`.
    pub async fn briefly<T: DeserializeOwned>(&mut self, path: &str, now: Now, max_age: Duration) -> Result<T> {
        Ok(self.json_within(path, now, max_age, self.patience / 8).await?.1)
    }

    async fn json_within<T: DeserializeOwned>(
        &mut self,
        path: &str,
        now: Now,
        max_age: Duration,
        time: Duration,
    ) -> Result<(Now, T)> {
        let base = self.address.base()?;
        let key = self.token.as_ref().map(KeyFile::read).transpose()?;
        let ask = Ask { url: format!("{base}{path}"), key };
        let told = self.http.share(&ask, Limits { time, body: BODY }, now, max_age).await;
        self.learn(&base, &told);
        let read = || Ok((told.at, told.answer.as_ref().map_err(Clone::clone)?.good()?.json::<T>()?));
        read().map_err(|error: anyhow::Error| self.explain(error)).with_context(|| {
            // What follows may be a key.
            format!("ask {}", ask.url.split('?').next().unwrap_or_default())
        })
    }

    /// What it told others last at this path, if that was good and is no older. Asks nothing, so it costs the host
    /// nothing; nothing is heard where the host has moved since its configuration was read.
    pub fn overheard<T: DeserializeOwned>(&self, path: &str, now: Now, max_age: Duration) -> Option<T> {
        let told = self.http.last(&format!("{}{path}", self.address.base().ok()?))?;
        let fresh = now.mono.saturating_sub(told.at.mono) <= max_age;
        told.answer.ok().filter(|_| fresh)?.good().ok()?.json().ok()
    }

    fn learn(&mut self, base: &str, told: &Told) {
        match &told.answer {
            Ok(_) => self.address.answered(base),
            Err(Error::Refused) => self.address.refused(),
            Err(_) => {}
        }
    }

    /// Adds what would mend a refusal.
    fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        if !error.is::<Denied>() {
            return error;
        }
        let fix = match &self.token {
            Some(file) => format!("it does not take the token in {}", file.path().display()),
            None => format!("it wants a token; name its file with `token_file` in {}", self.place),
        };
        anyhow!(Denied(format!("{error}: {fix}")))
    }
}
