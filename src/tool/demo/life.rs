//! What happens on a demo host, moment by moment: messages come, agents answer, tasks run, a channel drops.
//!
//! Events stand in an agenda by their time. A week of it before the start is the history; afterwards it is the same life,
//! only busier. Nothing here asks the clock.

use std::collections::BTreeMap;

use anyhow::Result;
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use serde_json::json;

use super::chance::Chance;
use super::channels;
use super::plan::{GROUPS, Group, HUNG, HUNG_FOR, JOBS, Lot, Plan, TASKS};
use super::queue::{Agent, Desks, Queue};
use super::rows::Rows;
use super::stamp;
use super::talk::{self, Talk};

/// How often the scheduler looks for due tasks and the host tries again to deliver.
pub const POLL: SignedDuration = SignedDuration::from_secs(15);
/// Which group writes next: one of these, some twice as often as others.
const TALKATIVE: [usize; 8] = [0, 0, 1, 1, 2, 3, 3, 4];
/// How many deliveries are tried again at one time.
const AT_ONCE: i64 = 10;
const HISTORY: SignedDuration = SignedDuration::from_hours(7 * 24);
const SEED: u64 = 0x5EED_0FAD_E300;
/// How many of the messages speak to the agent; the others are chatter.
const ADDRESSED: i64 = 60;

#[derive(Debug, Clone, Copy)]
enum Event {
    Inbound,
    Answer { group: usize },
    TaskEnd { group: usize, task: usize },
    Poll,
    JobEnd { job: usize },
}

/// The life of one host.
#[derive(Debug)]
pub struct Life {
    started: Timestamp,
    chance: Chance,
    talk: Talk,
    agenda: BTreeMap<(Timestamp, u64), Event>,
    events: u64,
    desks: Desks,
    /// The time of the latest message of each group.
    latest: [Option<String>; GROUPS.len()],
    /// When each task is next due.
    tasks: Vec<Option<Timestamp>>,
    /// When each host job is next due; none while it runs.
    jobs: Vec<Option<Timestamp>>,
    answered: BTreeMap<&'static str, String>,
}

impl Life {
    /// Makes the tables and the week before `started`. `head` is the commit that the host says it was deployed from.
    ///
    /// # Errors
    /// The database cannot be written.
    pub fn begin(db: &mut Connection, started: Timestamp, head: &str) -> Result<Life> {
        let mut life = Life {
            started,
            chance: Chance::new(SEED),
            talk: Talk::new(Chance::new(SEED.rotate_left(17))),
            agenda: BTreeMap::new(),
            events: 0,
            desks: Desks::EMPTY,
            latest: [const { None }; GROUPS.len()],
            tasks: TASKS.iter().map(|plan| first_due(plan, started)).collect(),
            jobs: JOBS.iter().map(|plan| first_due(plan, started)).collect(),
            answered: BTreeMap::new(),
        };
        let transaction = db.transaction()?;
        life.settle(Rows(&transaction), head)?;
        life.plan(started - HISTORY, Event::Inbound);
        life.plan(started - HISTORY, Event::Poll);
        life.happen_until(Rows(&transaction), started)?;
        transaction.commit()?;
        Ok(life)
    }

    /// What stands in the database before anything happens.
    fn settle(&mut self, rows: Rows<'_>, head: &str) -> Result<()> {
        let (started, born) = (self.started, self.started - HISTORY);
        rows.make_tables()?;
        rows.chat("__group_sync__", "__group_sync__", born)?;
        for (index, group) in GROUPS.iter().enumerate() {
            rows.group(group, index == 0, born)?;
        }
        // The last group has not spoken with its agent since its session was cleared.
        for group in &GROUPS[..GROUPS.len() - 1] {
            rows.session(group, &(self.chance.hex() + &self.chance.hex()))?;
        }
        for plan in &TASKS {
            rows.task(plan, GROUPS[plan.group()].jid, first_run(plan, started), started)?;
        }
        for plan in &JOBS {
            rows.job(plan, first_run(plan, started), plan.lot != Lot::Disabled, started)?;
        }
        rows.router("last_deploy_at", &stamp::precise(started - SignedDuration::from_hours(26)))?;
        rows.router("last_deploy_sha", head)
    }

    /// When something happens next.
    pub fn next(&self) -> Timestamp {
        self.agenda.keys().next().map_or(Timestamp::MAX, |(at, _)| *at)
    }

    /// Writes all that happens up to `until`, at once.
    ///
    /// # Errors
    /// The database cannot be written; what happened then is lost, and life goes on.
    pub fn advance(&mut self, db: &mut Connection, until: Timestamp) -> Result<()> {
        let transaction = db.transaction()?;
        self.happen_until(Rows(&transaction), until)?;
        Ok(transaction.commit()?)
    }

    fn happen_until(&mut self, rows: Rows<'_>, until: Timestamp) -> Result<()> {
        let mut outcome = Ok(());
        while self.next() <= until {
            let Some(((at, _), event)) = self.agenda.pop_first() else { break };
            outcome = outcome.and(self.happen(rows, at, event));
        }
        outcome
    }

    pub fn queue(&self) -> Queue {
        self.desks.report()
    }

    fn plan(&mut self, at: Timestamp, event: Event) {
        self.events += 1;
        self.agenda.insert((at, self.events), event);
    }

    fn happen(&mut self, rows: Rows<'_>, at: Timestamp, event: Event) -> Result<()> {
        // What recurs is planned before anything is written: a write that fails must not end it.
        match event {
            Event::Inbound => {
                let gap = self.gap(at);
                self.plan(gap, Event::Inbound);
                self.inbound(rows, at)
            }
            Event::Poll => {
                let pace = if at < self.started { SignedDuration::from_mins(1) } else { POLL };
                self.plan(at + pace, Event::Poll);
                self.poll(rows, at)
            }
            Event::Answer { group } => self.answer(rows, group, at),
            Event::TaskEnd { group, task } => self.end_task(rows, group, task, at),
            Event::JobEnd { job } => {
                self.jobs[job] = JOBS[job].schedule.next(at);
                rows.job_ended(&JOBS[job], self.jobs[job], at)
            }
        }
    }

    /// When the next message comes: the past was quieter.
    fn gap(&mut self, at: Timestamp) -> Timestamp {
        if at < self.started {
            (at + self.chance.seconds(90..=1500)).min(self.started)
        } else {
            at + self.chance.seconds(1..=3)
        }
    }

    fn is_connected(&self, group: &Group, at: Timestamp) -> bool {
        channels::is_connected(group.channel, at.duration_since(self.started))
    }

    fn inbound(&mut self, rows: Rows<'_>, at: Timestamp) -> Result<()> {
        // A channel that is gone brings nothing; one always stays.
        let heard: Vec<usize> = TALKATIVE.into_iter().filter(|&index| self.is_connected(&GROUPS[index], at)).collect();
        let index = self.chance.one_of(&heard);
        let group = &GROUPS[index];
        let addressed = self.chance.happens(ADDRESSED);
        self.latest[index] = Some(talk::inbound_time(group, at));
        if addressed {
            self.desks.0[index].add_message(at);
        }
        self.talk.inbound(rows, group, addressed, at)?;
        self.dispatch(rows, at)
    }

    /// Puts agents to work while there is room, and hands running ones what came in meanwhile.
    fn dispatch(&mut self, rows: Rows<'_>, at: Timestamp) -> Result<()> {
        for index in 0..GROUPS.len() {
            let desk = &self.desks.0[index];
            if desk.messages_wait && matches!(desk.agent, Agent::Answering { .. }) {
                self.hand_over(rows, index)?;
            }
        }
        while let Some(index) = self.desks.next_to_start() {
            self.put_to_work(rows, index, at)?;
        }
        Ok(())
    }

    fn put_to_work(&mut self, rows: Rows<'_>, index: usize, at: Timestamp) -> Result<()> {
        let (group, desk) = (&GROUPS[index], &mut self.desks.0[index]);
        if group.folder == HUNG && at >= self.started - HUNG_FOR {
            desk.agent = Agent::Hung;
            return rows.event("agent_activity", group, &json!({"active": true}), at);
        }
        if let Some(task) = desk.take_task() {
            desk.agent = Agent::OnTask { begun: at };
            let ends = at + self.chance.seconds(2..=9);
            self.plan(ends, Event::TaskEnd { group: index, task });
            self.tasks[task] = TASKS[task].schedule.next(at);
            return rows.task_begins(&TASKS[task], self.tasks[task]);
        }
        desk.agent = Agent::Answering { begun: at };
        let answers = at + self.chance.seconds(5..=20);
        self.plan(answers, Event::Answer { group: index });
        rows.event("agent_activity", group, &json!({"active": true}), at)?;
        self.hand_over(rows, index)
    }

    /// The agent has what came in: the router's cursor moves, before any answer.
    fn hand_over(&mut self, rows: Rows<'_>, index: usize) -> Result<()> {
        self.desks.0[index].take_messages();
        if let Some(time) = &self.latest[index] {
            self.answered.insert(GROUPS[index].jid, time.clone());
        }
        rows.router("last_agent_timestamp", &json!(self.answered).to_string())
    }

    fn answer(&mut self, rows: Rows<'_>, index: usize, at: Timestamp) -> Result<()> {
        let group = &GROUPS[index];
        let Agent::Answering { begun } = self.desks.0[index].end() else { return Ok(()) };
        let sent = self.is_connected(group, at);
        self.talk.answer(rows, group, begun, at, sent)?;
        rows.event("agent_activity", group, &json!({"active": false}), at)?;
        self.dispatch(rows, at)
    }

    /// Looks for what is due, as the scheduler does: host jobs first, then tasks; then delivers what is owed.
    fn poll(&mut self, rows: Rows<'_>, at: Timestamp) -> Result<()> {
        for job in 0..JOBS.len() {
            if self.jobs[job].is_some_and(|due| due <= at) {
                self.jobs[job] = None;
                let ends = at + self.chance.seconds(1..=4);
                self.plan(ends, Event::JobEnd { job });
            }
        }
        for (task, plan) in TASKS.iter().enumerate() {
            if self.tasks[task].is_some_and(|due| due <= at) {
                self.desks.0[plan.group()].add_task(task, at);
            }
        }
        self.deliver(rows, at)?;
        self.dispatch(rows, at)
    }

    /// Tries again what did not arrive. In the past everything did.
    fn deliver(&self, rows: Rows<'_>, at: Timestamp) -> Result<()> {
        let since_start = at.duration_since(self.started);
        let connected = channels::ALL.into_iter().filter(|channel| channels::is_connected(channel, since_start));
        for channel in connected.filter(|_| !since_start.is_negative()) {
            rows.deliver(channel, AT_ONCE, at)?;
        }
        Ok(())
    }

    fn end_task(&mut self, rows: Rows<'_>, index: usize, task: usize, at: Timestamp) -> Result<()> {
        let (group, plan) = (&GROUPS[index], &TASKS[task]);
        let Agent::OnTask { begun } = self.desks.0[index].end() else { return Ok(()) };
        let failed = self.chance.happens(if plan.lot == Lot::Fails { 90 } else { 2 });
        self.tasks[task] = plan.schedule.next(at);
        let sent = self.is_connected(group, at);
        let run = self.talk.task_run(rows, group, begun, at, failed, sent)?;
        rows.task_ended(plan, self.tasks[task], &run, at)?;
        self.dispatch(rows, at)
    }
}

/// When a plan is due for the first time, if it ever is.
fn first_due(plan: &Plan, started: Timestamp) -> Option<Timestamp> {
    if plan.lot.is_due_ever() { first_run(plan, started) } else { None }
}

/// The `next_run` with which a plan is made.
fn first_run(plan: &Plan, started: Timestamp) -> Option<Timestamp> {
    if plan.lot == Lot::Stuck { None } else { plan.schedule.first(started + plan.created, started) }
}

#[cfg(test)]
mod tests {
    use rusqlite::types::FromSql;

    use super::*;

    const STARTED: &str = "2026-11-21T19:25:53.282664Z";

    fn started() -> Timestamp {
        STARTED.parse().unwrap()
    }

    fn after(seconds: i64) -> Timestamp {
        started() + SignedDuration::from_secs(seconds)
    }

    fn begin() -> (Connection, Life) {
        let mut db = Connection::open_in_memory().unwrap();
        let life = Life::begin(&mut db, started(), "c0ffee").unwrap();
        (db, life)
    }

    fn one<T: FromSql>(db: &Connection, sql: &str) -> T {
        db.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    fn count(db: &Connection, rest: &str) -> i64 {
        one(db, &format!("SELECT count(*) FROM {rest}"))
    }

    #[test]
    fn the_history_is_a_week_that_fits_together() {
        let (db, _) = begin();
        assert_eq!(count(&db, "pragma_foreign_key_check"), 0);
        assert_eq!(one::<String>(&db, "PRAGMA integrity_check"), "ok");
        assert!((1500..2600).contains(&count(&db, "messages")), "{} messages", count(&db, "messages"));
        assert_eq!(count(&db, "registered_groups"), 5);
        assert_eq!(count(&db, "chats"), 6, "the groups and the pseudo row");
        assert_eq!((count(&db, "scheduled_tasks"), count(&db, "host_jobs"), count(&db, "sessions")), (8, 4, 4));
        let said = count(&db, "messages WHERE sender IN ('bot', 'host')");
        assert_eq!(count(&db, "outbound_ledger"), said);
        assert_eq!(count(&db, "outbound_deliveries WHERE delivered_at IS NOT NULL"), said, "the past is delivered");
        assert_eq!(count(&db, "messages WHERE is_from_me = 0 AND message_type <> 'user'"), 0);
        assert!(count(&db, "messages WHERE is_from_me = 1 AND message_type = 'user'") > 5, "the owner writes too");
        for group in &GROUPS {
            let turns = format!("messages WHERE sender = 'result_meta' AND chat_jid = '{}'", group.jid);
            assert!(count(&db, &turns) > 10, "{}", group.folder);
        }
        assert!(count(&db, "messages WHERE sender = 'result_meta' AND content LIKE '%\"is_error\":true%'") > 5);
    }

    #[test]
    fn times_are_in_the_hosts_spelling_and_none_is_in_the_future() {
        let (db, _) = begin();
        let now = stamp::precise(started());
        for (table, column) in [
            ("messages", "timestamp"),
            ("outbound_ledger", "timestamp"),
            ("outbound_deliveries", "delivered_at"),
            ("task_run_logs", "run_at"),
            ("events", "timestamp"),
            ("channel_cursors", "updated_at"),
        ] {
            assert_eq!(
                count(&db, &format!("{table} WHERE {column} NOT LIKE '20__-__-__T__:__:__%+00:00'")),
                0,
                "{table}"
            );
            assert_eq!(count(&db, &format!("{table} WHERE {column} > '{now}'")), 0, "{table}");
        }
        let whatsapp = "messages WHERE message_type = 'user' AND chat_jid NOT LIKE 'slack:%'";
        assert!(count(&db, whatsapp) > 50);
        assert_eq!(count(&db, &format!("{whatsapp} AND length(timestamp) <> 25")), 0, "whole seconds");
        assert!(count(&db, "messages WHERE chat_jid LIKE 'slack:%' AND length(timestamp) = 32") > 100, "microseconds");
        assert!(count(&db, "task_run_logs WHERE typeof(duration_ms) = 'real'") > 50, "REAL in an INTEGER column");
    }

    #[test]
    fn one_task_is_overdue_one_stuck_and_one_failing() {
        let (db, _) = begin();
        let due: String = one(&db, "SELECT next_run FROM scheduled_tasks WHERE group_folder = 'webapp'");
        assert!(due < stamp::precise(after(-3600)), "overdue by an hour at least: {due}");
        let stuck = "scheduled_tasks WHERE status = 'active' AND next_run IS NULL";
        assert_eq!(count(&db, stuck), 1);
        let failing = "(SELECT status FROM task_run_logs WHERE task_id LIKE 'periodic-household-%' \
                       ORDER BY run_at DESC LIMIT 10)";
        assert!(count(&db, &format!("{failing} WHERE status = 'error'")) > 7);
        assert_eq!(count(&db, "scheduled_tasks WHERE status = 'completed' AND last_run IS NOT NULL"), 1);
        assert_eq!(count(&db, "scheduled_tasks WHERE status = 'paused'"), 1);
        assert_eq!(count(&db, "scheduled_tasks WHERE schedule_type = 'once' AND next_run NOT LIKE '%+%'"), 1, "naive");
        assert_eq!(count(&db, "host_jobs WHERE enabled = 0 AND last_run IS NULL"), 1);
        assert_eq!(count(&db, "host_jobs WHERE status = 'completed'"), 1);
        assert!(count(&db, "host_jobs WHERE schedule_type = 'cron' AND last_run IS NOT NULL") == 1);
    }

    #[test]
    fn something_happens_every_other_second_and_nothing_is_written_ahead() {
        let (mut db, mut life) = begin();
        let mut before = count(&db, "messages");
        for second in (10..=170).step_by(10) {
            life.advance(&mut db, after(second)).unwrap();
            let messages = count(&db, "messages");
            assert!(messages >= before + 3, "{} new messages by {second} s", messages - before);
            before = messages;
            assert!(life.next() > after(second) && life.next() <= after(second + 3));
        }
        let now = stamp::precise(after(170));
        assert_eq!(count(&db, &format!("messages WHERE timestamp > '{now}'")), 0);
        let sent = format!("outbound_deliveries WHERE delivered_at > '{}'", stamp::precise(started()));
        assert!(count(&db, &sent) > 20, "{} answers", count(&db, &sent));
    }

    #[test]
    fn what_a_lost_channel_owes_is_delivered_when_it_is_back() {
        let (mut db, mut life) = begin();
        life.advance(&mut db, after(185)).unwrap();
        let inbound = "messages WHERE message_type = 'user' AND chat_jid LIKE 'slack:%'";
        let (heard, all) = (count(&db, inbound), count(&db, "messages"));
        life.advance(&mut db, after(380)).unwrap();
        assert_eq!(count(&db, inbound), heard, "a channel that is gone brings nothing");
        assert!(count(&db, "messages") > all + 80, "the other channel goes on");
        let open = "outbound_deliveries WHERE delivered_at IS NULL";
        assert!(count(&db, open) >= 3, "{} open", count(&db, open));
        assert_eq!(count(&db, &format!("{open} AND channel_name <> 'connection.slack.acme'")), 0);
        assert!(count(&db, &format!("{open} AND error IS NOT NULL")) >= 1);
        life.advance(&mut db, after(430)).unwrap();
        assert_eq!(count(&db, open), 0);
        assert_eq!(count(&db, "outbound_deliveries WHERE error IS NOT NULL"), 0);
        assert!(count(&db, inbound) > heard);
    }

    #[test]
    fn a_task_is_moved_on_before_it_runs_and_after() {
        let (mut db, mut life) = begin();
        let next = "SELECT next_run FROM scheduled_tasks WHERE id = 'task-1760000000001-aaaa0001'";
        let runs = "task_run_logs WHERE task_id = 'task-1760000000001-aaaa0001'";
        let (mut moved_before, mut moved_after, mut last) = (0, 0, (one::<String>(&db, next), count(&db, runs)));
        for second in 1..=170 {
            life.advance(&mut db, after(second)).unwrap();
            let seen = (one::<String>(&db, next), count(&db, runs));
            moved_before += i32::from(seen.0 > last.0 && seen.1 == last.1);
            moved_after += i32::from(seen.0 > last.0 && seen.1 == last.1 + 1);
            last = seen;
        }
        assert!(moved_before >= 2 && moved_after >= 2, "{moved_before} before, {moved_after} after");
    }

    #[test]
    fn the_routers_cursor_follows_answering_groups_and_not_the_hung_one() {
        let (mut db, mut life) = begin();
        life.advance(&mut db, after(120)).unwrap();
        let cursors: BTreeMap<String, String> = serde_json::from_str(&one::<String>(
            &db,
            "SELECT value FROM router_state WHERE key = 'last_agent_timestamp'",
        ))
        .unwrap();
        assert_eq!(cursors.len(), 5);
        let hung = GROUPS.iter().find(|group| group.folder == HUNG).unwrap();
        assert!(cursors[hung.jid] < stamp::precise(after(-3600)));
        assert!(cursors[GROUPS[0].jid] > stamp::precise(started()));
        let slot = &life.queue().per_group[HUNG];
        assert!(slot.active && slot.pending_messages && slot.pending_tasks == 1);
    }

    #[test]
    fn a_write_that_fails_does_not_end_the_life() {
        let (mut db, mut life) = begin();
        db.execute_batch("ALTER TABLE messages RENAME TO elsewhere").unwrap();
        assert!(life.advance(&mut db, after(20)).is_err());
        db.execute_batch("ALTER TABLE elsewhere RENAME TO messages").unwrap();
        let before = count(&db, "messages");
        life.advance(&mut db, after(40)).unwrap();
        assert!(count(&db, "messages") > before + 5);
    }

    #[test]
    fn the_same_start_has_the_same_history() {
        let sum = |db: &Connection| one::<String>(db, "SELECT group_concat(id || content) FROM messages");
        assert_eq!(sum(&begin().0), sum(&begin().0));
    }
}
