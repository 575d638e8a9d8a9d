//! The list that a host keeps of its own workers, held against those that are seen. pi-web has one, in `/api/metrics`.
//!
//! Only what it says of whom it lists is taken. Memory and CPU it samples itself, and writes 0 where it could not
//! (`sampled: false`): those are read from `/proc` here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::ancestor::Above;
use crate::collect::host_api::HostApi;
use crate::host::{Host, Profile};
use crate::sample::Now;
use crate::source::Sources;
use crate::source::process::Identity;
use crate::source::process::proc::{Scan, Stat};

/// It costs the host next to nothing: it waits for nobody.
const PATH: &str = "/api/metrics";
/// Others who ask for it do so at the same moments.
const AGE: Duration = Duration::from_secs(5);
/// By its own clock a worker cannot be older than its process, but for what reading both takes.
const SLACK: f64 = 5.0;

/// Asks for the list, and remembers who was not on it.
pub struct Registry {
    api: HostApi,
    /// Processes that should be on the list and were not, and the first such list.
    missed: BTreeMap<Identity, Duration>,
}

/// One good list.
pub struct List {
    /// When it was asked for: it is no older.
    at: Duration,
    entries: BTreeMap<u32, Entry>,
}

#[derive(Deserialize)]
struct Answer {
    process: Own,
    workers: Vec<Entry>,
}

#[derive(Deserialize)]
struct Own {
    pid: u32,
}

#[derive(Deserialize)]
struct Entry {
    /// 0 where it has not been started, or its pid is not known.
    pid: u32,
    state: Option<State>,
    uptime_s: Option<f64>,
    /// Since its user last asked it for something.
    idle_for_s: Option<f64>,
}

/// What the host calls the state of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Idle,
    Running,
    Error,
    /// A word that nobody knows here.
    #[serde(other)]
    Other,
}

/// What the host knows of one worker; `None` is not known, or not asked.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Registration {
    pub is_registered: Option<bool>,
    pub state: Option<State>,
    pub idle: Option<f64>,
}

/// `/status.workers.registry`
#[derive(Debug, Serialize)]
pub struct Listed {
    /// How many are on it; null if it cannot be read.
    workers: Option<usize>,
    /// Why not. Until it can, nobody is called unregistered.
    error: Option<String>,
}

impl Registry {
    /// `None` if such a host keeps no list that can be read.
    pub fn new(host: &Host, sources: &Sources) -> Option<Registry> {
        let api = HostApi::new(host, sources).filter(|_| host.profile == Profile::PiWeb)?;
        Some(Registry { api, missed: BTreeMap::new() })
    }

    /// Nothing else waits for it for long.
    pub fn within(&mut self, run: Duration) {
        self.api.within(run / 4);
    }

    /// Asks for it; `host` is the process that we take for the host.
    ///
    /// # Errors
    /// It does not answer, or with something else; or it is another process than the one that we see, as it would be
    /// from within a container: its pids are not ours then.
    pub async fn ask(&mut self, host: Option<u32>, now: Now) -> Result<List, String> {
        let told = self.api.json_at::<Answer>(PATH, now, AGE).await.map_err(|error| format!("{error:#}"))?;
        let (at, Answer { process, workers }) = told;
        match host {
            None => Err("the host's own process is not seen, so that its pids may be others than ours".to_owned()),
            Some(host) if host != process.pid => Err(format!(
                "whoever answers calls itself process {}, and the host that we see is process {host}: its pids are not ours",
                process.pid
            )),
            Some(_) => {
                let started = workers.into_iter().filter(|entry| entry.pid != 0);
                Ok(List { at: at.mono, entries: started.map(|entry| (entry.pid, entry)).collect() })
            }
        }
    }

    /// Forgets who is gone.
    pub fn forget(&mut self, scan: &Scan) {
        self.missed.retain(|identity, _| scan.lives(*identity));
    }

    /// What a list says of one process. It is not on it only if two lists say so that were asked for when it was older
    /// than `grace`: a host lists a worker once it has come up, which takes a while.
    pub fn registration(&mut self, list: &List, stat: &Stat, is_own: bool, grace: Duration) -> Registration {
        if let Some(entry) = list.entry(stat) {
            self.missed.remove(&stat.identity);
            return Registration { is_registered: Some(true), state: entry.state, idle: entry.idle_for_s };
        }
        if !is_own || stat.is_zombie() || list.at < stat.started() + grace {
            return Registration::default();
        }
        let first = *self.missed.entry(stat.identity).or_insert(list.at);
        Registration { is_registered: (list.at > first).then_some(false), ..Registration::default() }
    }
}

impl List {
    /// A pid that is used again is not the worker that the host means.
    fn entry(&self, stat: &Stat) -> Option<&Entry> {
        let age = self.at.saturating_sub(stat.started()).as_secs_f64();
        let is_it = |entry: &&Entry| entry.uptime_s.is_none_or(|uptime| uptime <= age + SLACK);
        self.entries.get(&stat.pid()).filter(is_it).filter(|_| !stat.is_zombie())
    }
}

impl Listed {
    #[cfg(test)]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    pub fn of(list: &Result<List, String>) -> Listed {
        match list {
            Ok(list) => Listed { workers: Some(list.entries.len()), error: None },
            Err(error) => Listed { workers: None, error: Some(error.clone()) },
        }
    }
}

/// Whether a worker is the host's own to list: the host is above it, and no other worker is, whose tool it would be.
pub fn is_own(above: Above, scan: &Scan, stat: &Stat, workers: &BTreeSet<u32>) -> bool {
    above == Above::Host && !scan.ancestors(stat).any(|one| workers.contains(&one.pid()))
}
