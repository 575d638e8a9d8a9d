//! What is said on a demo host: messages of people, answers of agents, and what an answer leaves behind.

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::chance::Chance;
use super::channels::WHATSAPP;
use super::plan::Group;
use super::rows::{Message, Rows, Run, Turn};
use super::stamp::{precise, whole};

const USERS: [&str; 3] = ["U01DEMO", "U02DEMO", "U03DEMO"];
const TOOLS: [&str; 6] = ["Bash", "Read", "Edit", "Grep", "WebFetch", "mcp__pynchy__send_message"];

/// Answers of a hundred that are errors.
const ERRORS: i64 = 4;
const TOOL_ERRORS: i64 = 8;
/// Messages of a hundred that the owner wrote. Only WhatsApp shows them to the host.
const OWN: i64 = 5;

#[derive(Debug)]
pub struct Talk {
    chance: Chance,
    /// Makes ids unique within a millisecond.
    said: u64,
}

/// The time that a channel puts on what it brings: WhatsApp counts whole seconds.
pub fn inbound_time(group: &Group, at: Timestamp) -> String {
    if group.channel == WHATSAPP { whole(at) } else { precise(at) }
}

impl Talk {
    pub fn new(chance: Chance) -> Talk {
        Talk { chance, said: 0 }
    }

    /// A message comes in; `addressed` to the agent, or chatter.
    pub fn inbound(&mut self, rows: Rows<'_>, group: &Group, addressed: bool, at: Timestamp) -> Result<()> {
        let user = self.chance.one_of(&USERS);
        let from_me = self.chance.happens(OWN) && group.channel == WHATSAPP;
        let words = self.chance.words(4..=16);
        let content = if addressed { format!("@pynchy {words}") } else { words };
        let message =
            Message { id: self.inbound_id(group, at), sender: user, kind: "user", content: &content, from_me };
        let time = inbound_time(group, at);
        rows.message(group, &message, &time)?;
        rows.event("message", group, &json!({"sender_name": user, "content": "lorem", "is_bot": false}), at)?;
        rows.cursor(group, "inbound", at)?;
        rows.router("last_timestamp", &time)
    }

    fn inbound_id(&mut self, group: &Group, at: Timestamp) -> String {
        if group.channel == WHATSAPP {
            return format!("3EB0{}", self.chance.hex().to_uppercase());
        }
        format!("slack-{}.{:06}", at.as_second(), at.subsec_nanosecond() / 1000)
    }

    /// An agent that began at `begun` answers; `sent` says whether the group's channel is there.
    pub fn answer(&mut self, rows: Rows<'_>, group: &Group, begun: Timestamp, at: Timestamp, sent: bool) -> Result<()> {
        let is_error = self.chance.happens(ERRORS);
        let (sender, kind, source) =
            if is_error { ("host", "host", "broadcast") } else { ("bot", "assistant", "agent") };
        self.traces(rows, group, begun, at)?;
        self.say(rows, group, (sender, kind), source, at, sent)?;
        self.report(rows, group, begun, at, is_error)
    }

    /// A task that began at `begun` ends, and tells its group if it went well.
    pub fn task_run(
        &mut self,
        rows: Rows<'_>,
        group: &Group,
        begun: Timestamp,
        at: Timestamp,
        failed: bool,
        sent: bool,
    ) -> Result<Run> {
        let words = if self.chance.happens(50) { self.chance.words(3..=60) } else { String::new() };
        if !failed {
            self.say(rows, group, ("bot", "assistant"), "broadcast", at, sent)?;
        }
        self.report(rows, group, begun, at, failed)?;
        let millis = at.duration_since(begun).as_millis_f64();
        Ok(Run { millis, outcome: if failed { Err("Container timed out") } else { Ok(words) } })
    }

    /// What the agent thought and which tools it used, between its begin and its end.
    fn traces(&mut self, rows: Rows<'_>, group: &Group, begun: Timestamp, at: Timestamp) -> Result<()> {
        rows.event("agent_trace", group, &json!({"trace_type": "thinking", "thinking": "lorem"}), begun)?;
        let tools = self.chance.within(0..=4);
        let span = at.duration_since(begun).as_micros();
        for tool in 1..=tools {
            let into = span * i128::from(tool) / i128::from(tools + 1);
            let into = SignedDuration::from_micros(i64::try_from(into).expect("an answer takes seconds"));
            self.tool(rows, group, begun + into)?;
        }
        Ok(())
    }

    fn tool(&mut self, rows: Rows<'_>, group: &Group, at: Timestamp) -> Result<()> {
        let id = format!("toolu_{}", self.chance.hex());
        let name = self.chance.one_of(&TOOLS);
        let is_error = self.chance.happens(TOOL_ERRORS);
        let used = json!({"trace_type": "tool_use", "tool_use_id": id, "tool_name": name, "tool_input": {}});
        let came = json!({"trace_type": "tool_result", "tool_use_id": id, "content": "lorem", "is_error": is_error});
        rows.event("agent_trace", group, &used, at)?;
        rows.event("agent_trace", group, &came, at)
    }

    /// Says something to the group: the message, its place in the ledger and its delivery, or why there is none yet.
    fn say(
        &mut self,
        rows: Rows<'_>,
        group: &Group,
        (sender, kind): (&str, &str),
        source: &str,
        at: Timestamp,
        sent: bool,
    ) -> Result<()> {
        let words = self.chance.words(6..=30);
        let said = at - SignedDuration::from_micros(self.chance.within(80_000..=900_000));
        let id = self.id("bot", said);
        // Most failures to send are noted; some leave a delivery that just stays open.
        let error = self.chance.happens(70).then_some("Cannot connect to host chat.example:443");
        let delivery = if sent { Ok(at) } else { Err(error) };
        rows.message(group, &Message { id, sender, kind, content: &words, from_me: true }, &precise(said))?;
        rows.event("message", group, &json!({"sender_name": sender, "content": "lorem", "is_bot": true}), said)?;
        rows.outbound(group, &words, source, said, delivery)?;
        if sent { rows.cursor(group, "outbound", at) } else { Ok(()) }
    }

    /// The `result_meta` row of a run: what it took and cost.
    fn report(&mut self, rows: Rows<'_>, group: &Group, begun: Timestamp, at: Timestamp, is_error: bool) -> Result<()> {
        let turn = Turn {
            millis: at.as_millisecond() - begun.as_millisecond(),
            turns: self.chance.within(1..=12),
            is_error,
            input: self.chance.within(200..=6000),
            output: self.chance.within(50..=1500),
            cache_read: self.chance.within(0..=60_000),
            cache_creation: self.chance.within(0..=4000),
        };
        let id = self.id("meta", at);
        rows.turn(group, id, turn, at)
    }

    fn id(&mut self, kind: &str, at: Timestamp) -> String {
        self.said += 1;
        format!("{kind}-{}-{}", at.as_millisecond(), self.said)
    }
}
