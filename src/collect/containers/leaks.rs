//! Which containers run for a group that the host's queue does not call active.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::Row;
use crate::host::containers::as_named;

/// The folders of the groups that are active, as they stand in names of containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Active(BTreeSet<String>);

impl Active {
    pub fn of<'a>(folders: impl IntoIterator<Item = &'a str>) -> Active {
        Active(folders.into_iter().map(as_named).collect())
    }
}

/// The part of the host's `/status` that tells who is active.
#[derive(Deserialize)]
pub struct StatusAnswer {
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
    pub fn active(&self) -> Option<Active> {
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
