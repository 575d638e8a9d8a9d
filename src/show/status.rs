//! `/status`: the snapshot as JSON. Sections are spliced in as they were serialised when they were read.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::standing::Standing;
use crate::health::{self, Change, Overall, State, Verdict};
use crate::sample::{Access, Reading};
use crate::snapshot::{Current, Seen, Snapshot};

/// The version of this document's shape; it grows when a key changes its meaning or goes.
const SCHEMA: u32 = 1;

/// The whole document.
pub struct Status<'a>(pub &'a Snapshot);

impl Serialize for Status<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for seen in &self.0.collectors {
            map.serialize_entry(seen.name, &section(seen))?;
        }
        map.serialize_entry("health", &health_of(self.0))?;
        map.serialize_entry("collectors", &collectors(self.0))?;
        map.serialize_entry("schema", &SCHEMA)?;
        map.serialize_entry("sidecar", &sidecar(self.0))?;
        map.end()
    }
}

/// One section by its name; `None` if there is no such section.
///
/// # Errors
/// A defect of the section's types: JSON cannot hold them.
pub fn part(snapshot: &Snapshot, name: &str) -> Result<Option<Vec<u8>>, serde_json::Error> {
    let bytes = match name {
        "health" => serde_json::to_vec(&health_of(snapshot))?,
        "collectors" => serde_json::to_vec(&collectors(snapshot))?,
        "schema" => serde_json::to_vec(&SCHEMA)?,
        "sidecar" => serde_json::to_vec(&sidecar(snapshot))?,
        // Not in the whole document: it is long, and few ask for it.
        "history" => serde_json::to_vec(&history(&snapshot.history))?,
        name => match snapshot.collectors.iter().find(|seen| seen.name == name) {
            Some(seen) => serde_json::to_vec(&section(seen))?,
            None => return Ok(None),
        },
    };
    Ok(Some(bytes))
}

/// What there is of one detail of a section (`/status/<section>/<key>`).
pub enum Detail<'a> {
    Found(&'a str),
    /// A good reading has no such key, or there is no such section.
    Missing,
    /// There is no fresh good reading, so nobody knows.
    Unknown,
}

pub fn detail<'a>(snapshot: &'a Snapshot, name: &str, key: &str) -> Detail<'a> {
    let Some(seen) = snapshot.collectors.iter().find(|seen| seen.name == name) else { return Detail::Missing };
    let sample = seen.good.as_ref().and_then(|good| good.outcome.as_ref().ok());
    match sample.map(|sample| sample.details.get(key)) {
        Some(Some(detail)) => Detail::Found(detail.get()),
        Some(None) => Detail::Missing,
        None => Detail::Unknown,
    }
}

/// What was last seen, while it is fresh; else null.
fn section(seen: &Seen) -> Option<&RawValue> {
    let good = seen.good.as_ref()?;
    good.outcome.as_ref().ok().map(|sample| &*sample.section)
}

#[derive(Serialize)]
struct Health<'a> {
    overall: Overall,
    ready: bool,
    since: Timestamp,
    checks: &'a [Verdict],
}

fn health_of(snapshot: &Snapshot) -> Health<'_> {
    Health { overall: snapshot.overall, ready: snapshot.ready, since: snapshot.since, checks: &snapshot.verdicts }
}

#[derive(Serialize)]
struct History<'a> {
    hours: u64,
    /// Times in which nobody watched.
    unwatched: Vec<Pause>,
    checks: Vec<Past<'a>>,
}

#[derive(Serialize)]
struct Pause {
    from: Timestamp,
    to: Timestamp,
    /// Null across a reboot: nobody knows.
    seconds: Option<f64>,
    why: health::Why,
}

#[derive(Serialize)]
struct Past<'a> {
    check: &'a str,
    subject: &'a str,
    /// Oldest first.
    changes: Vec<Transition>,
}

#[derive(Serialize)]
struct Transition {
    at: Timestamp,
    /// Null: it was not there.
    from: Option<State>,
    /// Null: it is no longer listed.
    to: Option<State>,
    since: Option<Timestamp>,
}

fn history(history: &health::History) -> History<'_> {
    let mut pasts: BTreeMap<(&str, &str), Vec<Transition>> = BTreeMap::new();
    for (_, change) in history.changes() {
        pasts.entry((&change.check, &change.subject)).or_default().push(transition(change));
    }
    let checks = pasts.into_iter().map(|((check, subject), changes)| Past { check, subject, changes });
    let unwatched = history.pauses().iter().map(pause);
    History { hours: health::REACH.as_secs() / 3600, unwatched: unwatched.collect(), checks: checks.collect() }
}

fn transition(change: &Change) -> Transition {
    let Change { at, from, to, since, .. } = change;
    Transition { at: at.wall, from: *from, to: *to, since: since.map(|since| since.wall) }
}

fn pause(pause: &health::Pause) -> Pause {
    let seconds = pause.length.map(|length| length.as_secs_f64());
    Pause { from: pause.from, to: pause.to.wall, seconds, why: pause.why }
}

#[derive(Serialize)]
struct Collector<'a> {
    /// Null before the first run has ended.
    up: Option<bool>,
    access: Option<&'static str>,
    /// What of it we may not see, each with the reason; null if the latest run saw nothing.
    gaps: Option<&'a [String]>,
    last_success_at: Option<Timestamp>,
    duration_seconds: Option<f64>,
    interval_seconds: f64,
    error: Option<&'a str>,
}

fn collectors(snapshot: &Snapshot) -> BTreeMap<&'static str, Collector<'_>> {
    snapshot.collectors.iter().map(|seen| (seen.name, collector(seen))).collect()
}

fn collector(seen: &Seen) -> Collector<'_> {
    let last = seen.last.as_deref();
    let failure = last.and_then(|reading| reading.outcome.as_ref().err());
    Collector {
        up: last.map(|reading| reading.outcome.is_ok()),
        access: last.and_then(access),
        gaps: last.and_then(|reading| reading.outcome.as_ref().ok()).map(|sample| sample.gaps.as_slice()),
        last_success_at: seen.last_success_at.map(|at| at.wall),
        duration_seconds: last.map(|reading| reading.took.as_secs_f64()),
        interval_seconds: seen.interval.as_secs_f64(),
        error: failure.map(|failure| failure.error.as_str()),
    }
}

/// What we may look at; null when nobody answered, for then nobody said.
fn access(reading: &Reading) -> Option<&'static str> {
    Some(Access::of(&reading.outcome)).filter(|access| *access != Access::Unknown).map(Access::name)
}

#[derive(Serialize)]
struct Sidecar<'a> {
    version: &'a str,
    host: Host<'a>,
    started_at: Timestamp,
    config: Config<'a>,
}

#[derive(Serialize)]
struct Config<'a> {
    loaded_at: Timestamp,
    /// Why a newer one was refused since; null if none was.
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct Host<'a> {
    profile: crate::host::Profile,
    root: Option<&'a str>,
    /// What is not looked at here, why, and how to get it.
    notes: &'a [String],
}

fn sidecar(snapshot: &Snapshot) -> Sidecar<'_> {
    let sidecar = &*snapshot.sidecar;
    Sidecar {
        version: sidecar.version,
        host: Host { profile: sidecar.profile, root: sidecar.root.as_deref(), notes: &sidecar.notes },
        started_at: sidecar.started_at,
        config: Config { loaded_at: snapshot.configured_at, error: snapshot.refused.as_deref() },
    }
}

/// The document of the current snapshot.
pub fn page(current: &Current) -> Arc<Standing> {
    Standing::new(current, |snapshot| Ok(serde_json::to_vec(&Status(snapshot))?))
}
