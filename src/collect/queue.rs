//! The queue: how many agents run and how many groups wait, by the host's `/status`; it is kept in the host's memory only.
//!
//! A host that hangs or is gone has no queue that anybody knows: unknown, never 0. How long somebody waits the host does
//! not say: we measure from when we first saw it wait, so a wait is at least as long as shown.
//!
//! The interval `I` of the checks is that of the polls (`Host::status_poll`). After one that failed the loop asks again
//! sooner (`RETRY`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::collect::host_api::{HostApi, while_starting};
use crate::collect::{API_FIX, Collector, Needs, STATUS_COST};
use crate::fact::{Bound, Check, Fact, Severity};
use crate::host::generic::{Endpoint, Pointer};
use crate::host::{Host, Profile};
use crate::sample::{Now, Points};
use crate::source::Sources;
use crate::source::boot::Boot;

/// Nothing to set but what the loop takes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// `/status.queue`: the keys of the host's own endpoint first.
#[derive(Debug, Serialize)]
pub struct Section {
    #[serde(flatten)]
    said: Said,
    /// How long the group has waited that waits longest, as far as we saw; 0 if none waits, null if that is not known.
    oldest_wait_seconds: Option<f64>,
    /// The same, but not longer than since an agent's container was last seen to end.
    stalled_seconds: Option<f64>,
}

/// The queue in the host's own words; null where it has none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Said {
    active_containers: Option<u64>,
    max_concurrent: Option<u64>,
    groups_waiting: Option<u64>,
    /// By folder; chats that are not registered by their address.
    per_group: BTreeMap<String, Slot>,
}

/// What the host says of one group; null if it does not.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
struct Slot {
    active: Option<bool>,
    is_task: Option<bool>,
    pending_messages: Option<bool>,
    pending_tasks: Option<u64>,
}

impl Slot {
    fn waits(&self) -> bool {
        let has_work = self.pending_messages == Some(true) || self.pending_tasks.is_some_and(|tasks| tasks > 0);
        self.active == Some(false) && has_work
    }
}

static ACTIVE: Fact = Fact::gauge(
    "agenthost.queue.active_containers",
    "agenthost_queue_active_containers",
    "Agent containers that run, by the host's own word.",
)
.unit("{container}");

static LIMIT: Fact = Fact::gauge(
    "agenthost.queue.max_concurrent",
    "agenthost_queue_max_concurrent",
    "How many agent containers the host lets run at once.",
)
.unit("{container}");

static WAITING: Fact = Fact::gauge(
    "agenthost.queue.groups_waiting",
    "agenthost_queue_groups_waiting",
    "Groups that wait for a container, by the host's own word.",
)
.unit("{group}");

static OLDEST_WAIT: Fact = Fact::gauge(
    "agenthost.queue.oldest_wait",
    "agenthost_queue_oldest_wait_seconds",
    "How long the group that waits longest has been seen to wait; 0 when none waits.",
)
.unit("s");

static STALLED: Fact = Fact::gauge(
    "agenthost.queue.stalled",
    "agenthost_queue_stalled_seconds",
    "How long somebody has waited without any agent's container being seen to end; 0 when none waits.",
)
.unit("s");

static SATURATED: Fact = Fact::gauge(
    "agenthost.queue.saturated",
    "agenthost_queue_saturated",
    "1 if as many containers run as may while groups wait, else 0.",
);

/// The collector.
pub struct Queue {
    word: Word,
    boot: Boot,
    waits: Waits,
}

/// Where the host says it.
enum Word {
    /// pynchy.
    Status(HostApi),
    /// An endpoint of `[[collect.http]]`.
    Listed(HostApi, Box<Endpoint>),
}

impl Word {
    /// `None` if this host says nothing of its queue, or is not to be asked.
    fn of(host: &Host, sources: &Sources) -> Option<Word> {
        if host.profile == Profile::Pynchy && host.status_poll.is_some() {
            return HostApi::new(host, sources).map(Word::Status);
        }
        let endpoint = host.listed.http.iter().find(|endpoint| endpoint.queue.is_some())?;
        Some(Word::Listed(HostApi::of_endpoint(endpoint, sources), Box::new(endpoint.clone())))
    }

    fn api(&mut self) -> &mut HostApi {
        match self {
            Word::Status(api) | Word::Listed(api, _) => api,
        }
    }

    /// The queue, and what tells this life of the host from the next.
    async fn ask(&mut self, now: Now) -> Result<(Said, Option<String>)> {
        match self {
            Word::Status(api) => {
                let answer: StatusAnswer = api.status("/status", now).await?;
                Ok((answer.queue.into(), answer.service.started_at))
            }
            Word::Listed(api, endpoint) => Ok((Said::mapped(endpoint, &api.endpoint(now).await?), None)),
        }
    }
}

impl Said {
    fn mapped(endpoint: &Endpoint, document: &serde_json::Value) -> Said {
        let pointers = endpoint.queue.clone().unwrap_or_default();
        let count = |pointer: &Option<Pointer>| {
            let number = endpoint.number(pointer.as_ref()?, document)?;
            // A part of a container, or fewer than none, is none that is counted.
            (number >= 0.0 && number.fract() == 0.0).then_some(number as u64)
        };
        Said {
            active_containers: count(&pointers.active_containers),
            max_concurrent: count(&pointers.max_concurrent),
            groups_waiting: count(&pointers.groups_waiting),
            per_group: BTreeMap::new(),
        }
    }

    /// `None` if one of the numbers is not known.
    fn is_saturated(&self) -> Option<bool> {
        let (active, most, waiting) = (self.active_containers?, self.max_concurrent?, self.groups_waiting?);
        Some(waiting > 0 && active >= most)
    }
}

impl Collector for Queue {
    const NAME: &'static str = "queue";
    const EVERY: Duration = Duration::from_secs(60);
    const RETRY: Option<Duration> = Some(Duration::from_secs(15));
    const ASKS_STATUS: bool = true;
    const FACTS: &'static [&'static Fact] = &[&ACTIVE, &LIMIT, &WAITING, &OLDEST_WAIT, &STALLED, &SATURATED];
    const CHECKS: &'static [Check] = &[
        Check {
            name: "queue_stuck",
            fact: &STALLED,
            bad: Bound::Above(1800.0),
            severity: Severity::Warning,
            fail_for: Duration::from_secs(5 * 60),
            headline: "queue stuck",
            means: "A group has waited over half an hour for an agent, and no agent has finished meanwhile: they hang.",
        },
        Check {
            name: "queue_saturated",
            fact: &SATURATED,
            bad: Bound::Above(0.0),
            severity: Severity::Warning,
            fail_for: Duration::from_secs(15 * 60),
            headline: "queue full",
            means: "As many agents run as may, and groups wait: answers come late.",
        },
    ];
    const NEEDS: Needs = Needs { reads: "the host's own status", fix: API_FIX, costs: STATUS_COST };
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, host: &Host, sources: &Sources) -> Result<Option<Queue>> {
        Ok(Word::of(host, sources).map(|word| Queue { word, boot: sources.boot.clone(), waits: Waits::default() }))
    }

    fn within(&mut self, timeout: Duration) {
        self.word.api().within(timeout);
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        let (said, life) = self.word.ask(now).await.map_err(while_starting(&self.boot, now))?;
        self.waits.see(&said, life, now);
        let waits = said.groups_waiting.map(|_| (self.waits.oldest(now), self.waits.stalled(now)));
        Ok(Section {
            said,
            oldest_wait_seconds: waits.map(|(oldest, _)| oldest.as_secs_f64()),
            stalled_seconds: waits.map(|(_, stalled)| stalled.as_secs_f64()),
        })
    }

    fn points(section: &Section, points: &mut Points) {
        let said = &section.said;
        let count = |count: Option<u64>| count.map(|count| count as f64);
        points.put(&ACTIVE, [], count(said.active_containers));
        points.put(&LIMIT, [], count(said.max_concurrent));
        points.put(&WAITING, [], count(said.groups_waiting));
        points.put(&OLDEST_WAIT, [], section.oldest_wait_seconds);
        points.put(&STALLED, [], section.stalled_seconds);
        points.put(&SATURATED, [], said.is_saturated().map(|yes| f64::from(u8::from(yes))));
    }
}

/// The part of `/status` that we read.
#[derive(Deserialize)]
struct StatusAnswer {
    queue: QueueAnswer,
    #[serde(default)]
    service: ServiceAnswer,
}

/// All of it, or it is no queue.
#[derive(Deserialize)]
struct QueueAnswer {
    active_containers: u64,
    max_concurrent: u64,
    groups_waiting: u64,
    per_group: BTreeMap<String, Slot>,
}

impl From<QueueAnswer> for Said {
    fn from(answer: QueueAnswer) -> Said {
        Said {
            active_containers: Some(answer.active_containers),
            max_concurrent: Some(answer.max_concurrent),
            groups_waiting: Some(answer.groups_waiting),
            per_group: answer.per_group,
        }
    }
}

#[derive(Default, Deserialize)]
struct ServiceAnswer {
    /// Tells one life of the host from the next.
    #[serde(default)]
    started_at: Option<String>,
}

/// A longer silence than this breaks what was seen before it: nobody knows what happened.
const SILENCE: Duration = Duration::from_secs(15 * 60);

/// Who waits since when. Moments are monotonic.
#[derive(Debug, Default)]
struct Waits {
    since: BTreeMap<String, Duration>,
    /// Somebody waits, by the host's count; it is not always told who.
    any_since: Option<Duration>,
    /// Groups with a container at the last look.
    active: BTreeSet<String>,
    /// When one of them was last seen to have ended.
    ended: Option<Duration>,
    /// The life of the host, and when it was last looked at.
    last: Option<(Option<String>, Duration)>,
}

impl Waits {
    fn see(&mut self, said: &Said, life: Option<String>, now: Now) {
        let goes_on =
            |(known, at): &(Option<String>, Duration)| *known == life && now.mono.saturating_sub(*at) <= SILENCE;
        if !self.last.as_ref().is_some_and(goes_on) {
            *self = Waits::default();
        }
        self.last = Some((life, now.mono));
        self.see_ends(said, now);
        let waiting = said.per_group.iter().filter(|(_, slot)| slot.waits()).map(|(group, _)| group);
        let known = std::mem::take(&mut self.since);
        self.since = waiting.map(|group| (group.clone(), known.get(group).copied().unwrap_or(now.mono))).collect();
        self.any_since = said.groups_waiting.is_some_and(|count| count > 0).then(|| self.any_since.unwrap_or(now.mono));
    }

    fn see_ends(&mut self, said: &Said, now: Now) {
        let is_active = |group: &&String| said.per_group.get(*group).is_some_and(|slot| slot.active == Some(true));
        if !self.active.iter().all(|group| is_active(&group)) {
            self.ended = Some(now.mono);
        }
        self.active = said.per_group.keys().filter(is_active).cloned().collect();
    }

    /// Of the group that waits longest; of the whole queue where it is not told who waits.
    fn oldest(&self, now: Now) -> Duration {
        let named = self.since.values().min();
        let first = named.or(self.any_since.as_ref());
        first.map_or(Duration::ZERO, |first| now.mono.saturating_sub(*first))
    }

    fn stalled(&self, now: Now) -> Duration {
        let since_end = self.ended.map_or(Duration::MAX, |ended| now.mono.saturating_sub(ended));
        self.oldest(now).min(since_end)
    }
}

#[cfg(test)]
mod tests;
