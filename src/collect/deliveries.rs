//! Deliveries that wait, by channel: what the host's database says of messages that were written and have not arrived.
//!
//! Two collectors ask it: one shows them, the other holds them against what the host says of its channels.

use jiff::Timestamp;
use serde::Serialize;

use anyhow::Result;

use crate::source::sqlite::{Raw, Reader, column, params};

/// What waits for delivery on one channel.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Waiting {
    pub pending: u64,
    pub erroring: u64,
    /// When the message was written that waits longest; `None` also if its ledger row is gone.
    pub oldest_pending_at: Option<Timestamp>,
}

impl Waiting {
    /// Unknown if something waits and nothing says since when.
    pub fn oldest_age(&self, at: Timestamp) -> Option<f64> {
        if self.pending == 0 { Some(0.0) } else { self.oldest_pending_at.map(|moment| age(moment, at)) }
    }
}

/// Whoever has waited for so many seconds for a delivery has waited too long.
pub const LATE: f64 = 600.0;

/// The columns that are read.
pub const TABLES: [(&str, &[&str]); 2] = [
    ("outbound_deliveries", &["ledger_id", "channel_name", "delivered_at", "error"]),
    ("outbound_ledger", &["id", "timestamp"]),
];

/// So many rows at once.
pub const PAGE: usize = 2_000;

/// Channels with something pending, one step in the index each.
pub fn channels(reader: &Reader) -> Result<Vec<Raw>> {
    const NEXT: &str =
        "SELECT min(channel_name) FROM outbound_deliveries WHERE delivered_at IS NULL AND channel_name > ?1";
    let mut names = Vec::new();
    let mut done = Raw::from("");
    loop {
        done = reader.row(NEXT, [&done], |row| row.get(0))?;
        match done {
            Raw::Null => return Ok(names),
            _ => names.push(done.clone()),
        }
    }
}

/// What waits on one channel, page by page: a channel that is dead for months has many.
pub fn waiting(reader: &Reader, channel: &Raw) -> Result<Waiting> {
    const ROWS: &str = "SELECT d.rowid, d.error IS NOT NULL, l.timestamp \
        FROM outbound_deliveries d LEFT JOIN outbound_ledger l ON l.id = d.ledger_id \
        WHERE d.delivered_at IS NULL AND d.channel_name = ?1 AND d.rowid > ?2 ORDER BY d.rowid LIMIT ?3";
    let mut waiting = Waiting::default();
    let mut done = i64::MIN;
    loop {
        let page = reader.rows(ROWS, params![channel, done, PAGE as i64], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, bool>(1)?, column::moment(row, 2)?.at()))
        })?;
        for (_, erroring, written) in &page {
            waiting.pending += 1;
            waiting.erroring += u64::from(*erroring);
            waiting.oldest_pending_at = earlier(waiting.oldest_pending_at, *written);
        }
        match page.last() {
            Some((rowid, ..)) if page.len() == PAGE => done = *rowid,
            _ => return Ok(waiting),
        }
    }
}

/// What waits cannot wait since tomorrow.
pub fn age(moment: Timestamp, at: Timestamp) -> f64 {
    at.duration_since(moment).as_secs_f64().max(0.0)
}

/// The earlier of those that are known.
pub fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    a.into_iter().chain(b).min()
}
