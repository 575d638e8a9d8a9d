//! Which containers run for a group that the host's queue does not call active.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::Row;
use crate::collect::Collector;
use crate::collect::host_api::HostApi;
use crate::collect::queue::Queue;
use crate::host::containers::as_named;
use crate::host::generic::Pointer;
use crate::host::{Host, Profile};
use crate::sample::Now;
use crate::source::Sources;

/// The folders of the groups that are active, as they stand in names of containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active(BTreeSet<String>);

impl Active {
    /// As they are, and as pynchy makes names of them.
    pub fn of<'a>(folders: impl IntoIterator<Item = &'a str>) -> Active {
        Active(folders.into_iter().flat_map(|folder| [as_named(folder), folder.to_owned()]).collect())
    }

    /// A list of names, or a table that says of each whether it is active. `None` if it is neither, or does not say it of
    /// every one.
    fn listed(document: &Value) -> Option<Active> {
        let says =
            |(name, said): (&'_ String, &Value)| Some((name.clone(), said.get("active").unwrap_or(said).as_bool()?));
        let names: Vec<String> = match document {
            Value::Array(names) => names.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Option<_>>()?,
            Value::Object(groups) => {
                let groups: Vec<(String, bool)> = groups.iter().map(says).collect::<Option<_>>()?;
                groups.into_iter().filter(|(_, active)| *active).map(|(name, _)| name).collect()
            }
            _ => return None,
        };
        Some(Active::of(names.iter().map(String::as_str)))
    }
}

/// Where others hear which groups are active. It is never asked for here: that may cost the host a lot.
pub struct Overheard {
    api: HostApi,
    /// How often they ask.
    every: Duration,
    word: Word,
}

enum Word {
    /// pynchy's.
    Status,
    /// At this place of an endpoint of `[[collect.http]]`.
    Listed(Pointer),
}

impl Overheard {
    /// `None` if nobody asks, or the host does not say it.
    pub fn of(host: &Host, sources: &Sources) -> Option<Overheard> {
        if let Some(every) = host.status_poll.filter(|_| host.profile == Profile::Pynchy) {
            return Some(Overheard { api: HostApi::new(host, sources)?, every, word: Word::Status });
        }
        let mut listed = host.listed.http.iter();
        let (endpoint, place) =
            listed.find_map(|endpoint| Some((endpoint, endpoint.queue.as_ref()?.active_groups.clone()?)))?;
        let api = HostApi::of_endpoint(endpoint, sources);
        Some(Overheard { api, every: Queue::EVERY, word: Word::Listed(place) })
    }

    /// As it told those who ask for it; `None` while nobody knows. A poll may be missed before what it told the time before
    /// is too old.
    pub fn active(&self, now: Now) -> Option<Active> {
        let age = self.every * 2 + Duration::from_secs(30);
        match &self.word {
            Word::Status => self.api.overheard::<StatusAnswer>("/status", now, age)?.active(),
            Word::Listed(place) => Active::listed(place.find(&self.api.overheard("", now, age)?)?),
        }
    }
}

/// The part of the host's `/status` that tells who is active.
#[derive(Deserialize)]
struct StatusAnswer {
    queue: QueueAnswer,
}

#[derive(Deserialize)]
struct QueueAnswer {
    per_group: BTreeMap<String, Slot>,
}

#[derive(Deserialize)]
struct Slot {
    active: Option<bool>,
}

impl StatusAnswer {
    /// `None` if the host does not say it of every group.
    fn active(&self) -> Option<Active> {
        let slots = &self.queue.per_group;
        slots.values().all(|slot| slot.active.is_some()).then(|| {
            let active = slots.iter().filter(|(_, slot)| slot.active == Some(true));
            Active::of(active.map(|(folder, _)| folder.as_str()))
        })
    }
}

/// Since when each container has been seen without an active group, on the monotonic clock.
pub struct Leaks {
    after: Duration,
    idle_since: BTreeMap<Arc<str>, Duration>,
    knew: bool,
    knows: bool,
}

impl Leaks {
    pub fn new(after: Duration) -> Leaks {
        Leaks { after, idle_since: BTreeMap::new(), knew: false, knows: false }
    }

    /// Whether the queue was ever known.
    pub fn knew(&self) -> bool {
        self.knew
    }

    pub fn knows_now(&self) -> bool {
        self.knows
    }

    /// Says of each row whether it is leaked. While nobody knows what is active, nobody knows that either; the time in
    /// which it was not known counts if the group was idle before and after, as for any streak.
    pub fn judge(&mut self, rows: &mut [Row], active: Option<&Active>, now: Duration) {
        self.idle_since.retain(|id, _| rows.iter().any(|row| row.id == *id && row.works()));
        self.knows = active.is_some();
        self.knew |= self.knows;
        let Some(Active(active)) = active else { return };
        for row in rows.iter_mut().filter(|row| row.works()) {
            row.leaked = Some(if active.contains(&*row.group) {
                self.idle_since.remove(&row.id);
                false
            } else {
                let since = *self.idle_since.entry(row.id.clone()).or_insert(now);
                now.saturating_sub(since) >= self.after
            });
        }
    }
}
