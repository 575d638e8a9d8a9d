//! Messages: what came in, what went out, what waits. From the host's database alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collect::Collector;
use crate::collect::deliveries::{self, Waiting, age};
use crate::collect::registered::{self, Registered};
use crate::collect::{DATABASE_FIX, NOTHING, Needs};
use crate::fact::{Bound, Check, Fact, Severity};
use crate::host::Host;
use crate::sample::{Now, Points};
use crate::source::Sources;
use crate::source::sqlite::{Database, Followed, Reader, Stamp, column};

mod tally;

use tally::{Flow, Tables, Tally};

/// Nothing to set yet but what the loop takes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// `/status.messages`: the keys of the host's own endpoint first.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// Rows of `messages` that others wrote, the host's system notices among them.
    pub total_inbound: u64,
    /// Rows of `outbound_ledger`. What was sent while a channel was down has none.
    pub total_outbound: u64,
    pub last_received_at: Option<Timestamp>,
    pub last_sent_at: Option<Timestamp>,
    /// Rows of `outbound_deliveries` without `delivered_at`.
    pub pending_deliveries: u64,
    /// Those of them with an error.
    pub erroring_deliveries: u64,
    /// Inbound and outbound messages stamped more than five minutes ahead. They are counted, and never the last.
    pub future_timestamps: u64,
    /// Those whose timestamp is no date.
    pub unreadable_timestamps: u64,
    /// Registered groups, pending deliveries, channels and cursors that hold no text where there should be one. They
    /// are left out: of a group whose cursor cannot be read nobody knows what waits.
    pub unreadable_rows: u64,
    pub channels: BTreeMap<Arc<str>, Waiting>,
    /// By folder; chats that are not registered together as `(unregistered)`.
    pub groups: BTreeMap<Arc<str>, Group>,
    #[serde(skip)]
    flow: BTreeMap<Arc<str>, Flow>,
    /// When the ages were measured.
    #[serde(skip)]
    at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Inbound messages after the agent's cursor; `None` for chats that the host does not process.
    pub unprocessed: Option<u64>,
    /// There may be more: a count of them stops at 10000, and goes on only with what comes later.
    pub unprocessed_capped: bool,
    pub oldest_unprocessed_at: Option<Timestamp>,
    /// The same without the host's own system notices, which wait for the next message by design.
    pub unanswered: Option<u64>,
    /// Those of them whose timestamp is no date.
    pub unanswered_undated: u64,
    pub oldest_unanswered_at: Option<Timestamp>,
    pub last_received_at: Option<Timestamp>,
    pub last_sent_at: Option<Timestamp>,
    /// Whether the agent normally answers here, judged by the last 200 messages; `None` with fewer than 5 inbound.
    pub answers: Option<bool>,
    /// Whether the host processes this chat: then what waits is listed, known or not.
    #[serde(skip)]
    processed: bool,
}

static INBOUND: Fact = Fact::gauge(
    "agenthost.messages.inbound",
    "agenthost_messages_inbound",
    "Inbound messages in the host's database, system notices included; falls when the host prunes it.",
)
.unit("{message}");

static OUTBOUND: Fact = Fact::gauge(
    "agenthost.messages.outbound",
    "agenthost_messages_outbound",
    "Rows of the host's outbound ledger; falls when the host prunes it.",
)
.unit("{message}");

static RECEIVED: Fact = Fact::counter(
    "agenthost.messages.received",
    "agenthost_messages_received_total",
    "Inbound messages: those found in the host's database at the first reading, and every one that came since. Lower \
     after a restart only if the host pruned rows.",
)
.unit("{message}")
.of(&["group"]);

static SENT: Fact = Fact::counter(
    "agenthost.messages.sent",
    "agenthost_messages_sent_total",
    "Outbound messages: the ledger's rows at the first reading, and every one that came since. Lower after a restart \
     only if the host pruned rows.",
)
.unit("{message}")
.of(&["group"]);

static LAST_RECEIVED: Fact = Fact::gauge(
    "agenthost.messages.last_received.timestamp_seconds",
    "agenthost_messages_last_received_timestamp_seconds",
    "When the last message came in, by its own timestamp; one from the future is never the last.",
)
.of(&["group"]);

static LAST_SENT: Fact = Fact::gauge(
    "agenthost.messages.last_sent.timestamp_seconds",
    "agenthost_messages_last_sent_timestamp_seconds",
    "When the last message went out, by the outbound ledger.",
)
.of(&["group"]);

static FUTURE: Fact = Fact::gauge(
    "agenthost.messages.future_timestamps",
    "agenthost_messages_future_timestamps",
    "Messages stamped more than five minutes ahead of the sidecar's clock.",
)
.unit("{message}");

static PENDING: Fact = Fact::gauge(
    "agenthost.deliveries.pending",
    "agenthost_deliveries_pending",
    "Outbound messages that the channel has not delivered yet, those with an error included.",
)
.unit("{delivery}")
.of(&["channel"]);

static ERRORING: Fact = Fact::gauge(
    "agenthost.deliveries.erroring",
    "agenthost_deliveries_erroring",
    "Outbound messages that the channel tried to deliver and could not.",
)
.unit("{delivery}")
.of(&["channel"]);

static OLDEST_PENDING: Fact = Fact::gauge(
    "agenthost.deliveries.oldest_pending",
    "agenthost_deliveries_oldest_pending_seconds",
    "Age of the outbound message that waits longest for its delivery; 0 when none waits.",
)
.unit("s")
.of(&["channel"]);

static UNPROCESSED: Fact = Fact::gauge(
    "agenthost.inbound.unprocessed",
    "agenthost_inbound_unprocessed",
    "Inbound messages after the agent's cursor; at least so many when that is 10000 or more. Chatter that is not for \
     the agent stays here.",
)
.unit("{message}")
.of(&["group"]);

static OLDEST_UNANSWERED: Fact = Fact::gauge(
    "agenthost.inbound.oldest_unanswered",
    "agenthost_inbound_oldest_unanswered_seconds",
    "Age of the oldest message that waits in a group whose agent normally answers; 0 when none waits there, absent \
     when one waits whose time cannot be read.",
)
.unit("s")
.of(&["group"]);

/// Whoever has waited for so many seconds has waited too long.
const LATE: f64 = 1800.0;

/// The collector.
pub struct Messages {
    followed: Followed,
    tables: Tables,
    tally: Tally,
    flow: BTreeMap<Arc<str>, Flow>,
    channels: BTreeMap<Arc<str>, Waiting>,
    /// Channels, pending deliveries and cursors that could not be read.
    unreadable: u64,
    /// When every row was last counted (monotonic), and how long that took.
    counted: Option<(Duration, Duration)>,
}

impl Collector for Messages {
    const NAME: &'static str = "messages";
    const EVERY: Duration = Duration::from_secs(15);
    const FACTS: &'static [&'static Fact] = &[
        &INBOUND,
        &OUTBOUND,
        &RECEIVED,
        &SENT,
        &LAST_RECEIVED,
        &LAST_SENT,
        &FUTURE,
        &PENDING,
        &ERRORING,
        &OLDEST_PENDING,
        &UNPROCESSED,
        &OLDEST_UNANSWERED,
    ];
    const CHECKS: &'static [Check] = &[
        Check {
            name: "deliveries_pending",
            fact: &OLDEST_PENDING,
            bad: Bound::Above(deliveries::LATE),
            severity: Severity::Warning,
            fail_for: Duration::from_secs(5 * 60),
            headline: "deliveries to {} waiting",
            means: "A message that the agent wrote has waited over ten minutes for its channel: nobody reads it.",
        },
        Check {
            name: "deliveries_erroring",
            fact: &ERRORING,
            bad: Bound::Above(0.0),
            severity: Severity::Warning,
            fail_for: Duration::from_secs(15 * 60),
            headline: "deliveries to {} refused",
            means: "The channel refuses messages. One that failed also holds back all later ones of its chat.",
        },
        Check {
            name: "inbound_unanswered",
            fact: &OLDEST_UNANSWERED,
            bad: Bound::Above(LATE),
            severity: Severity::Warning,
            fail_for: Duration::from_secs(5 * 60),
            headline: "group {} unanswered",
            means: "Somebody has waited over half an hour in a group whose agent normally answers.",
        },
    ];
    const NEEDS: Needs = Needs {
        reads: "the tables of messages and deliveries in the host's database",
        fix: DATABASE_FIX,
        costs: "the rows that are new, in milliseconds; no lock beyond that",
        opens: NOTHING,
    };
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, host: &Host, _sources: &Sources) -> Result<Option<Messages>> {
        Ok(host.database.as_ref().map(|path| Messages {
            followed: Followed::new(Database::new(path)),
            tables: Tables::new(),
            tally: Tally::new(Registered::default()),
            flow: BTreeMap::new(),
            channels: BTreeMap::new(),
            unreadable: 0,
            counted: None,
        }))
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        if let Some(stamp) = self.followed.news()? {
            self.read(now, &stamp)?;
            self.followed.was_read(stamp, now);
        }
        self.tally.ripen(now.wall);
        Ok(self.section(now.wall))
    }

    fn points(section: &Section, points: &mut Points) {
        points.put(&INBOUND, [], section.total_inbound as f64);
        points.put(&OUTBOUND, [], section.total_outbound as f64);
        points.put(&FUTURE, [], section.future_timestamps as f64);
        for (group, flow) in &section.flow {
            points.put(&RECEIVED, [group], flow.received as f64);
            points.put(&SENT, [group], flow.sent as f64);
        }
        for (channel, waiting) in &section.channels {
            points.put(&PENDING, [channel], waiting.pending as f64);
            points.put(&ERRORING, [channel], waiting.erroring as f64);
            points.put(&OLDEST_PENDING, [channel], waiting.oldest_age(section.at));
        }
        for (name, group) in &section.groups {
            group.points(name, section.at, points);
        }
    }
}

impl Group {
    fn points(&self, name: &Arc<str>, at: Timestamp, points: &mut Points) {
        if let Some(moment) = self.last_received_at {
            points.put(&LAST_RECEIVED, [name], seconds(moment));
        }
        if let Some(moment) = self.last_sent_at {
            points.put(&LAST_SENT, [name], seconds(moment));
        }
        if self.processed {
            points.put(&UNPROCESSED, [name], self.unprocessed.map(|unprocessed| unprocessed as f64));
            points.put(&OLDEST_UNANSWERED, [name], self.unanswered_age(at));
        }
    }

    /// Where one waits since nobody knows when, another that surely waits too long still says that all is not well.
    fn unanswered_age(&self, at: Timestamp) -> Option<f64> {
        if self.answers != Some(true) || self.unanswered == Some(0) {
            return Some(0.0);
        }
        let known = self.oldest_unanswered_at.map(|moment| age(moment, at));
        known.filter(|&age| self.unanswered_undated == 0 || age > LATE)
    }
}

fn seconds(moment: Timestamp) -> f64 {
    moment.as_microsecond() as f64 / 1e6
}

/// The gauges are counted anew after this time: rows may have been pruned or replaced.
const RECOUNT: Duration = Duration::from_secs(60 * 60);
/// A count that cost less is made at every change.
const CHEAP: Duration = Duration::from_millis(1);

impl Messages {
    fn read(&mut self, now: Now, stamp: &Stamp) -> Result<()> {
        let reader = self.followed.open(stamp, TABLES)?;
        let registered = registered::read(&reader)?;
        let anew = !self.followed.is_known(stamp) || self.tables.fell(&reader)?;
        if anew || self.tally.registered != registered || self.must_recount(now) {
            self.count_all(now, &reader, registered, anew)?;
        } else {
            self.count_new(now, &reader)?;
        }
        let cursors = self.tally.update_backlogs(&reader, self.tables.messages.mark())?;
        self.unreadable = cursors + self.read_deliveries(&reader)?;
        Ok(())
    }

    fn must_recount(&self, now: Now) -> bool {
        self.counted.is_none_or(|(at, took)| took < CHEAP || now.mono.saturating_sub(at) >= RECOUNT)
    }

    /// Counts every row. In a file that was read before only those above the marks are flow.
    fn count_all(&mut self, now: Now, reader: &Reader, registered: Registered, anew: bool) -> Result<()> {
        self.counted = None;
        if anew {
            self.followed.forget();
            self.tables.forget();
            self.channels.clear();
        }
        let begun = reader.open_for();
        let mut tally = Tally::new(registered);
        let result = self.tables.read(reader, true, now.wall, &mut tally);
        match (anew, &result) {
            // Half of it was read, and the next reading begins anew.
            (true, Err(_)) => {}
            (true, Ok(())) => tally.raise(&mut self.flow),
            (false, _) => tally.drain(&mut self.flow),
        }
        result?;
        self.tally = tally;
        self.counted = Some((now.mono, reader.open_for().saturating_sub(begun)));
        Ok(())
    }

    fn count_new(&mut self, now: Now, reader: &Reader) -> Result<()> {
        let result = self.tables.read(reader, false, now.wall, &mut self.tally);
        self.tally.drain(&mut self.flow);
        result
    }

    /// A channel that was seen once stays listed, with nothing pending. Says how much of it could not be read.
    fn read_deliveries(&mut self, reader: &Reader) -> Result<u64> {
        const CURSORS: &str = "SELECT DISTINCT channel_name FROM channel_cursors";
        let cursors = reader.rows(CURSORS, [], |row| column::text(row, 0))?;
        let mut unreadable = cursors.iter().filter(|name| name.is_none()).count() as u64;
        let known: BTreeSet<Arc<str>> = cursors.into_iter().flatten().chain(self.channels.keys().cloned()).collect();
        let mut channels: BTreeMap<Arc<str>, Waiting> =
            known.into_iter().map(|name| (name, Waiting::default())).collect();
        for name in deliveries::channels(reader)? {
            let waiting = deliveries::waiting(reader, &name)?;
            match name.as_str() {
                Some(name) => _ = channels.insert(name.into(), waiting),
                None => unreadable += waiting.pending,
            }
        }
        self.channels = channels;
        Ok(unreadable)
    }

    fn section(&self, at: Timestamp) -> Section {
        let tally = &self.tally;
        Section {
            total_inbound: tally.chats.iter().map(|chat| chat.inbound).sum(),
            total_outbound: tally.chats.iter().map(|chat| chat.outbound).sum(),
            last_received_at: tally.chats.iter().filter_map(|chat| chat.last_received).max(),
            last_sent_at: tally.chats.iter().filter_map(|chat| chat.last_sent).max(),
            pending_deliveries: self.channels.values().map(|channel| channel.pending).sum(),
            erroring_deliveries: self.channels.values().map(|channel| channel.erroring).sum(),
            future_timestamps: tally.future.len() as u64 + tally.beyond,
            unreadable_timestamps: tally.unreadable,
            unreadable_rows: self.tally.registered.unreadable + self.unreadable,
            channels: self.channels.clone(),
            groups: tally.groups(),
            flow: self.flow.clone(),
            at,
        }
    }
}

/// The columns that are read.
const TABLES: &[(&str, &[&str])] = &[
    ("messages", &["id", "chat_jid", "sender", "timestamp", "is_from_me"]),
    ("outbound_ledger", &["id", "chat_jid", "timestamp"]),
    ("outbound_deliveries", &["ledger_id", "channel_name", "delivered_at", "error"]),
    ("channel_cursors", &["channel_name"]),
    ("router_state", &["key", "value"]),
    registered::TABLE,
];

#[cfg(test)]
mod tests;
