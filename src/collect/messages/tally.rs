//! Counting the rows of `messages` and `outbound_ledger`, per chat.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::Group;
use crate::collect::deliveries::earlier;
use crate::collect::registered::{GROUP_SYNC, Registered, UNREGISTERED};
use crate::sample::Moment;
use crate::source::sqlite::{Raw, Reader, Row, Tail, column, params};

/// Stamped further ahead than this, a row is from the future.
const AHEAD: SignedDuration = SignedDuration::from_mins(5);
/// Rows from the future that are kept until their time comes; of more only the number is known.
const FUTURE: usize = 10_000;

/// Whether the agent normally answers is judged by so many messages, of which so many must be inbound.
const JUDGED: usize = 200;
const JUDGED_INBOUND: usize = 5;

/// Rows after a cursor that are looked at, and how many of them by one statement.
const BACKLOG: u64 = 10_000;
const BACKLOG_PAGE: usize = 1_000;

/// Messages that came and went, ever; never falls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    pub received: u64,
    pub sent: u64,
}

/// The two tables that are read from their end.
pub struct Tables {
    pub messages: Tail,
    pub ledger: Tail,
}

impl Tables {
    pub fn new() -> Tables {
        Tables {
            messages: Tail::new("messages", &["id", "chat_jid", "timestamp", "is_from_me = 0", "sender"], 2),
            ledger: Tail::new("outbound_ledger", &["chat_jid", "timestamp"], 0),
        }
    }

    pub fn fell(&self, reader: &Reader) -> Result<bool> {
        Ok(self.messages.fell(reader)? || self.ledger.fell(reader)?)
    }

    pub fn forget(&mut self) {
        self.messages.forget();
        self.ledger.forget();
    }

    pub fn read(&mut self, reader: &Reader, whole: bool, wall: Timestamp, tally: &mut Tally) -> Result<()> {
        let limit = ahead(wall);
        self.messages.read(reader, whole, |row, new| tally.add_message(row, new, limit))?;
        self.ledger.read(reader, whole, |row, new| tally.add_sent(row, new, limit))
    }
}

fn ahead(wall: Timestamp) -> Timestamp {
    wall.checked_add(AHEAD).unwrap_or(Timestamp::MAX)
}

/// What the rows that were read come to.
pub struct Tally {
    pub registered: Registered,
    by_jid: HashMap<String, usize>,
    /// The registered ones, and last all others together.
    pub chats: Vec<Chat>,
    pub future: BinaryHeap<Reverse<(Timestamp, usize, Way)>>,
    /// Rows from the future that found no room.
    pub beyond: u64,
    pub unreadable: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    In,
    Out,
}

/// One chat of the host.
pub struct Chat {
    folder: Arc<str>,
    /// `None`: not registered.
    jid: Option<String>,
    pub inbound: u64,
    pub outbound: u64,
    pub last_received: Option<Timestamp>,
    pub last_sent: Option<Timestamp>,
    recent: VecDeque<Said>,
    backlog: Option<Backlog>,
    /// Not yet added to the flow that never falls.
    flow: Flow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Inbound,
    Bot,
    Other,
}

/// Inbound messages after the agent's cursor.
#[derive(Debug, Default)]
struct Backlog {
    cursor: String,
    count: u64,
    capped: bool,
    oldest: Option<Timestamp>,
    /// Without the host's own notices.
    unanswered: u64,
    undated: u64,
    oldest_unanswered: Option<Timestamp>,
}

impl Tally {
    pub fn new(registered: Registered) -> Tally {
        let mut chats: Vec<Chat> =
            registered.folders.iter().map(|(jid, folder)| Chat::new(folder.clone(), Some(jid))).collect();
        chats.push(Chat::new(UNREGISTERED.into(), None));
        let by_jid = registered.folders.keys().cloned().enumerate().map(|(at, jid)| (jid, at)).collect();
        Tally { registered, by_jid, chats, future: BinaryHeap::new(), beyond: 0, unreadable: 0 }
    }

    fn at(&self, jid: &str) -> usize {
        self.by_jid.get(jid).copied().unwrap_or(self.chats.len() - 1)
    }

    fn add_message(&mut self, row: &Row<'_>, new: bool, limit: Timestamp) {
        let text = |column: usize| row.get_ref(column).ok().and_then(|value| value.as_str().ok());
        let jid = text(1).unwrap_or("");
        if jid == GROUP_SYNC {
            return;
        }
        let at = self.at(jid);
        let inbound = matches!(row.get(3), Ok(Some(true)));
        let sender = text(4).unwrap_or("");
        let said = if inbound {
            Said::Inbound
        } else if sender == "bot" {
            Said::Bot
        } else {
            Said::Other
        };
        self.chats[at].remember(said);
        if inbound {
            let moment = self.date(row, 2, at, Way::In, limit);
            self.chats[at].add_inbound(moment, sender, new, |cursor| column::is_after(row, 2, cursor));
        }
    }

    fn add_sent(&mut self, row: &Row<'_>, new: bool, limit: Timestamp) {
        let jid = row.get_ref(0).ok().and_then(|value| value.as_str().ok()).unwrap_or("");
        if jid == GROUP_SYNC {
            return;
        }
        let at = self.at(jid);
        self.date(row, 1, at, Way::Out, limit);
        self.chats[at].outbound += 1;
        self.chats[at].flow.sent += u64::from(new);
    }

    /// Reads a row's timestamp and holds it against the last one of its chat, now or when its time has come.
    fn date(&mut self, row: &Row<'_>, column: usize, at: usize, way: Way, limit: Timestamp) -> Option<Timestamp> {
        let found = column::moment(row, column).ok().and_then(Moment::at);
        match found {
            None => self.unreadable += 1,
            Some(moment) if moment <= limit => self.chats[at].saw(moment, way),
            Some(moment) if self.future.len() < FUTURE => self.future.push(Reverse((moment, at, way))),
            Some(_) => self.beyond += 1,
        }
        found
    }

    /// Lets go of the rows whose time has come since.
    pub fn ripen(&mut self, wall: Timestamp) {
        let limit = ahead(wall);
        while let Some(&Reverse((moment, at, way))) = self.future.peek()
            && moment <= limit
        {
            self.future.pop();
            self.chats[at].saw(moment, way);
        }
    }

    /// Moves the new rows to the flow.
    pub fn drain(&mut self, flow: &mut BTreeMap<Arc<str>, Flow>) {
        for chat in self.listed_mut() {
            let new = std::mem::take(&mut chat.flow);
            let known = flow.entry(chat.folder.clone()).or_default();
            known.received += new.received;
            known.sent += new.sent;
        }
    }

    /// Takes the rows of another file: how many of them were counted in the one before cannot be known, so the flow
    /// goes on from the larger number.
    pub fn raise(&mut self, flow: &mut BTreeMap<Arc<str>, Flow>) {
        for chat in self.listed_mut() {
            let found = std::mem::take(&mut chat.flow);
            let known = flow.entry(chat.folder.clone()).or_default();
            known.received = known.received.max(found.received);
            known.sent = known.sent.max(found.sent);
        }
    }

    fn listed_mut(&mut self) -> impl Iterator<Item = &mut Chat> {
        self.chats.iter_mut().filter(|chat| chat.is_listed())
    }

    /// By folder, as the section shows them.
    pub fn groups(&self) -> BTreeMap<Arc<str>, Group> {
        self.chats.iter().filter(|chat| chat.is_listed()).map(|chat| (chat.folder.clone(), chat.group())).collect()
    }

    /// Counts the backlog anew where the cursor moved; elsewhere the rows that came were added.
    ///
    /// `mark`: later rows are for the next reading. Says how many cursors could not be read.
    pub fn update_backlogs(&mut self, reader: &Reader, mark: i64) -> Result<u64> {
        let cursors = Cursors::read(reader)?;
        for chat in &mut self.chats {
            let Some(jid) = &chat.jid else { continue };
            match cursors.of(jid) {
                None => chat.backlog = None,
                Some(cursor) if chat.backlog.as_ref().is_some_and(|backlog| backlog.cursor == cursor) => {}
                Some(cursor) => chat.backlog = Some(Backlog::count(reader, jid, cursor, mark)?),
            }
        }
        Ok(cursors.unreadable())
    }
}

impl Chat {
    fn new(folder: Arc<str>, jid: Option<&String>) -> Chat {
        Chat {
            folder,
            jid: jid.cloned(),
            inbound: 0,
            outbound: 0,
            last_received: None,
            last_sent: None,
            recent: VecDeque::new(),
            backlog: None,
            flow: Flow::default(),
        }
    }

    /// The chats that are not registered only if there are any.
    fn is_listed(&self) -> bool {
        self.jid.is_some() || self.inbound + self.outbound > 0
    }

    fn saw(&mut self, moment: Timestamp, way: Way) {
        match way {
            Way::In => self.last_received = self.last_received.max(Some(moment)),
            Way::Out => self.last_sent = self.last_sent.max(Some(moment)),
        }
    }

    fn add_inbound(&mut self, moment: Option<Timestamp>, sender: &str, new: bool, is_after: impl Fn(&str) -> bool) {
        self.inbound += 1;
        self.flow.received += u64::from(new);
        if let Some(backlog) = self.backlog.as_mut().filter(|backlog| is_after(&backlog.cursor)) {
            backlog.add(moment, sender);
        }
    }

    fn remember(&mut self, said: Said) {
        if self.recent.len() == JUDGED {
            self.recent.pop_front();
        }
        self.recent.push_back(said);
    }

    fn answers(&self) -> Option<bool> {
        let count = |said| self.recent.iter().filter(|&&one| one == said).count();
        let inbound = count(Said::Inbound);
        (self.jid.is_some() && inbound >= JUDGED_INBOUND).then(|| count(Said::Bot) * 2 >= inbound)
    }

    fn group(&self) -> Group {
        let backlog = self.backlog.as_ref();
        Group {
            unprocessed: backlog.map(|backlog| backlog.count),
            unprocessed_capped: backlog.is_some_and(|backlog| backlog.capped),
            oldest_unprocessed_at: backlog.and_then(|backlog| backlog.oldest),
            unanswered: backlog.map(|backlog| backlog.unanswered),
            unanswered_undated: backlog.map_or(0, |backlog| backlog.undated),
            oldest_unanswered_at: backlog.and_then(|backlog| backlog.oldest_unanswered),
            last_received_at: self.last_received,
            last_sent_at: self.last_sent,
            answers: self.answers(),
            processed: self.jid.is_some(),
        }
    }
}

impl Backlog {
    fn add(&mut self, moment: Option<Timestamp>, sender: &str) {
        self.count += 1;
        self.oldest = earlier(self.oldest, moment);
        if sender != "system_notice" {
            self.unanswered += 1;
            self.undated += u64::from(moment.is_none());
            self.oldest_unanswered = earlier(self.oldest_unanswered, moment);
        }
    }

    /// Compares timestamps as texts, as the host does, over the index that it keeps for this.
    fn count(reader: &Reader, jid: &str, cursor: &str, mark: i64) -> Result<Backlog> {
        const PAGE: &str = "SELECT timestamp, rowid, is_from_me = 0, sender FROM messages \
            WHERE chat_jid = ?1 AND (timestamp, rowid) > (?2, ?3) AND +rowid <= ?4 ORDER BY timestamp, rowid LIMIT ?5";
        let mut backlog = Backlog { cursor: cursor.into(), ..Backlog::default() };
        let mut done = (Raw::from(cursor), i64::MAX);
        let mut looked_at = 0;
        loop {
            let page = reader.rows(PAGE, params![jid, done.0, done.1, mark, BACKLOG_PAGE as i64], |row| {
                let sender = row.get_ref(3)?.as_str().unwrap_or("");
                if matches!(row.get(2), Ok(Some(true))) {
                    backlog.add(column::moment(row, 0)?.at(), sender);
                }
                Ok((row.get(0)?, row.get(1)?))
            })?;
            looked_at += page.len() as u64;
            backlog.capped = page.len() == BACKLOG_PAGE && looked_at >= BACKLOG;
            match page.into_iter().next_back() {
                Some(last) if looked_at % BACKLOG_PAGE as u64 == 0 && !backlog.capped => done = last,
                _ => return Ok(backlog),
            }
        }
    }
}

/// The agent's cursors by jid; `None`: what the host keeps there is no such map.
struct Cursors(Option<HashMap<String, Value>>);

impl Cursors {
    fn read(reader: &Reader) -> Result<Cursors> {
        const STATE: &str = "SELECT value FROM router_state WHERE key = 'last_agent_timestamp'";
        let found = reader.rows(STATE, [], |row| column::text(row, 0))?;
        Ok(Cursors(match found.first() {
            None => Some(HashMap::new()),
            Some(json) => json.as_ref().and_then(|json| serde_json::from_str(json).ok()),
        }))
    }

    /// `None` if it cannot be read. To the host, too, no cursor is one before everything.
    fn of(&self, jid: &str) -> Option<&str> {
        match self.0.as_ref()?.get(jid) {
            None => Some(""),
            Some(cursor) => cursor.as_str(),
        }
    }

    fn unreadable(&self) -> u64 {
        let odd = |map: &HashMap<_, Value>| map.values().filter(|cursor| !cursor.is_string()).count() as u64;
        self.0.as_ref().map_or(1, odd)
    }
}
