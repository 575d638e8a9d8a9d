//! The rows that a pynchy host writes, in its spelling. It is the host: here, and only here, something is written.

use anyhow::Result;
use jiff::Timestamp;
use rusqlite::{Connection, params};
use serde_json::{Value, json};

use super::plan::{Group, Plan};
use super::stamp::precise;

const SCHEMA: &str = include_str!("pynchy.sql");

/// Writes to the host's database, inside the caller's transaction.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a>(pub &'a Connection);

/// One row of `messages`.
#[derive(Debug)]
pub struct Message<'a> {
    pub id: String,
    pub sender: &'a str,
    pub kind: &'a str,
    pub content: &'a str,
    pub from_me: bool,
}

/// What one run of an agent took, as its core reports it.
#[derive(Debug, Clone, Copy)]
pub struct Turn {
    pub millis: i64,
    pub turns: i64,
    pub is_error: bool,
    pub input: i64,
    pub output: i64,
    pub cache_read: i64,
    pub cache_creation: i64,
}

impl Turn {
    /// In US dollars, to the millionth.
    fn cost(self) -> f64 {
        let tenths = self.input * 30 + self.output * 150 + self.cache_read * 3 + self.cache_creation * 37;
        (tenths / 10) as f64 / 1e6
    }

    fn report(self) -> Value {
        json!({
            "subtype": if self.is_error { "error_during_execution" } else { "success" },
            "duration_ms": self.millis, "duration_api_ms": self.millis * 4 / 5,
            "is_error": self.is_error, "num_turns": self.turns, "session_id": "demo",
            "total_cost_usd": self.cost(),
            "usage": {
                "input_tokens": self.input, "output_tokens": self.output,
                "cache_read_input_tokens": self.cache_read, "cache_creation_input_tokens": self.cache_creation,
            },
        })
    }
}

impl Rows<'_> {
    pub fn make_tables(self) -> Result<()> {
        Ok(self.0.execute_batch(SCHEMA)?)
    }

    fn put(self, sql: &str, values: impl rusqlite::Params) -> Result<()> {
        self.0.execute(sql, values)?;
        Ok(())
    }

    /// A chat and the group registered for it.
    pub fn group(self, group: &Group, is_admin: bool, at: Timestamp) -> Result<()> {
        self.chat(group.jid, group.name, at)?;
        self.put(
            "INSERT INTO registered_groups VALUES (?1, ?2, ?3, '@pynchy', ?4, NULL, '{}', ?5)",
            params![group.jid, group.name, group.folder, precise(at), is_admin],
        )
    }

    pub fn chat(self, jid: &str, name: &str, at: Timestamp) -> Result<()> {
        self.put("INSERT INTO chats VALUES (?1, ?2, ?3, NULL)", params![jid, name, precise(at)])
    }

    pub fn session(self, group: &Group, id: &str) -> Result<()> {
        self.put("INSERT OR REPLACE INTO sessions VALUES (?1, ?2)", [group.folder, id])
    }

    /// `time` in the spelling of whoever stamped it: the channel, or the host.
    pub fn message(self, group: &Group, message: &Message<'_>, time: &str) -> Result<()> {
        self.put(
            "INSERT OR REPLACE INTO messages (id, chat_jid, sender, sender_name, content, timestamp, is_from_me, \
             message_type) VALUES (?1, ?2, ?3, ?3, ?4, ?5, ?6, ?7)",
            params![message.id, group.jid, message.sender, message.content, time, message.from_me, message.kind],
        )?;
        self.put("UPDATE chats SET last_message_time = ?2 WHERE jid = ?1", [group.jid, time])
    }

    pub fn turn(self, group: &Group, id: String, turn: Turn, at: Timestamp) -> Result<()> {
        let content = turn.report().to_string();
        let message = Message { id, sender: "result_meta", kind: "assistant", content: &content, from_me: true };
        self.message(group, &message, &precise(at))
    }

    pub fn event(self, kind: &str, group: &Group, payload: &Value, at: Timestamp) -> Result<()> {
        self.put(
            "INSERT INTO events (event_type, chat_jid, timestamp, payload) VALUES (?1, ?2, ?3, ?4)",
            params![kind, group.jid, precise(at), payload.to_string()],
        )
    }

    /// What is to be sent to the group's channel; `sent` is when it arrived, or why it did not.
    pub fn outbound(
        self,
        group: &Group,
        content: &str,
        source: &str,
        at: Timestamp,
        sent: Result<Timestamp, Option<&str>>,
    ) -> Result<()> {
        self.put(
            "INSERT INTO outbound_ledger (chat_jid, content, timestamp, source) VALUES (?1, ?2, ?3, ?4)",
            params![group.jid, content, precise(at), source],
        )?;
        let ledger = self.0.last_insert_rowid();
        self.put(
            "INSERT INTO outbound_deliveries VALUES (?1, ?2, ?3, ?4)",
            params![ledger, group.channel, sent.ok().map(precise), sent.err().flatten()],
        )
    }

    /// Delivers the oldest of what a channel still owes.
    pub fn deliver(self, channel: &str, at_most: i64, at: Timestamp) -> Result<()> {
        self.put(
            "UPDATE outbound_deliveries SET delivered_at = ?2, error = NULL WHERE channel_name = ?1 AND ledger_id IN \
             (SELECT ledger_id FROM outbound_deliveries WHERE channel_name = ?1 AND delivered_at IS NULL \
              ORDER BY ledger_id LIMIT ?3)",
            params![channel, precise(at), at_most],
        )
    }

    pub fn cursor(self, group: &Group, direction: &str, at: Timestamp) -> Result<()> {
        let time = precise(at);
        self.put(
            "INSERT OR REPLACE INTO channel_cursors VALUES (?1, ?2, ?3, ?4, ?4)",
            [group.channel, group.jid, direction, &time],
        )
    }

    pub fn router(self, key: &str, value: &str) -> Result<()> {
        self.put("INSERT OR REPLACE INTO router_state VALUES (?1, ?2)", [key, value])
    }

    pub fn task(self, plan: &Plan, jid: &str, first: Option<Timestamp>, started: Timestamp) -> Result<()> {
        let schedule = plan.schedule;
        self.put(
            "INSERT INTO scheduled_tasks (id, group_folder, chat_jid, prompt, schedule_type, schedule_value, next_run, \
             status, created_at) VALUES (?1, ?2, ?3, 'lorem ipsum', ?4, ?5, ?6, ?7, ?8)",
            params![
                plan.id,
                plan.folder,
                jid,
                schedule.kind(),
                schedule.value(started),
                first.map(|at| schedule.spell(at)),
                plan.lot.status(),
                precise(started + plan.created),
            ],
        )
    }

    /// Moves a task on before it runs, as the scheduler does.
    pub fn task_begins(self, plan: &Plan, next: Option<Timestamp>) -> Result<()> {
        let next = next.map(|at| plan.schedule.spell(at));
        self.put("UPDATE scheduled_tasks SET next_run = ?2 WHERE id = ?1", params![plan.id, next])
    }

    /// Moves a task on after it ran, and completes one that has no next run.
    pub fn task_ended(self, plan: &Plan, next: Option<Timestamp>, run: &Run, at: Timestamp) -> Result<()> {
        let (status, result, error) = match &run.outcome {
            Ok(text) => ("success", Some(text), None),
            Err(text) => ("error", None, Some(*text)),
        };
        self.put(
            "INSERT INTO task_run_logs (task_id, run_at, duration_ms, status, result, error) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![plan.id, precise(at), run.millis, status, result, error],
        )?;
        self.put(
            "UPDATE scheduled_tasks SET next_run = ?2, last_run = ?3, last_result = ?4, \
             status = CASE WHEN ?2 IS NULL THEN 'completed' ELSE status END WHERE id = ?1",
            params![plan.id, next.map(|at| plan.schedule.spell(at)), precise(at), run.summary()],
        )
    }

    pub fn job(self, plan: &Plan, first: Option<Timestamp>, enabled: bool, started: Timestamp) -> Result<()> {
        let schedule = plan.schedule;
        self.put(
            "INSERT INTO host_jobs (id, name, command, schedule_type, schedule_value, next_run, status, created_at, \
             created_by, enabled) VALUES ('host-1760000000000-' || ?1, ?1, 'true', ?2, ?3, ?4, ?5, ?6, 'admin-1', ?7)",
            params![
                plan.id,
                schedule.kind(),
                schedule.value(started),
                first.map(|at| schedule.spell(at)),
                plan.lot.status(),
                precise(started + plan.created),
                enabled,
            ],
        )
    }

    /// Moves a host job on; the host does so only after the run.
    pub fn job_ended(self, plan: &Plan, next: Option<Timestamp>, at: Timestamp) -> Result<()> {
        self.put(
            "UPDATE host_jobs SET next_run = ?2, last_run = ?3, \
             status = CASE WHEN ?2 IS NULL THEN 'completed' ELSE status END WHERE name = ?1",
            params![plan.id, next.map(|at| plan.schedule.spell(at)), precise(at)],
        )
    }
}

/// One run of a scheduled task: the agent's text, or the host's word for what went wrong.
#[derive(Debug)]
pub struct Run {
    pub millis: f64,
    pub outcome: Result<String, &'static str>,
}

impl Run {
    /// `last_result`: `Completed` stands for an empty text.
    fn summary(&self) -> String {
        match &self.outcome {
            Ok(text) if text.is_empty() => "Completed".to_owned(),
            Ok(text) => text.chars().take(200).collect(),
            Err(text) => format!("Error: {text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_is_what_the_scheduler_keeps() {
        let summary = |outcome| Run { millis: 1.0, outcome }.summary();
        assert_eq!(summary(Ok(String::new())), "Completed");
        assert_eq!(summary(Ok("x".repeat(300))).len(), 200);
        assert_eq!(summary(Err("Container timed out")), "Error: Container timed out");
    }

    #[test]
    fn a_turn_costs_what_its_tokens_cost() {
        let turn = Turn {
            millis: 1000,
            turns: 2,
            is_error: false,
            input: 1000,
            output: 100,
            cache_read: 10_000,
            cache_creation: 0,
        };
        // 3 + 1.5 + 3 thousandths of a dollar.
        assert_eq!(turn.cost(), 0.0075);
        assert_eq!(turn.report()["duration_api_ms"], 800);
    }
}
