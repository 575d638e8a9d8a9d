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
    pub fn begin(db: &Connection, started: Timestamp, head: &str) -> Result<Life> {
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
        life.settle(Rows(db), head)?;
        life.plan(started - HISTORY, Event::Inbound);
        life.plan(started - HISTORY, Event::Poll);
        life.advance(db, started)?;
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

    /// Writes all that happens up to `until`.
    ///
    /// # Errors
    /// The database cannot be written; what could not be is lost, and life goes on.
    pub fn advance(&mut self, db: &Connection, until: Timestamp) -> Result<()> {
        let mut outcome = Ok(());
        while self.next() <= until {
            let Some(((at, _), event)) = self.agenda.pop_first() else { break };
            outcome = outcome.and(self.happen(Rows(db), at, event));
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
        let index = self.chance.one_of(&[0, 0, 1, 1, 2, 3, 3, 4]);
        let group = &GROUPS[index];
        let addressed = self.chance.happens(ADDRESSED);
        if !self.is_connected(group, at) {
            return Ok(()); // A channel that is gone brings nothing.
        }
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
        for channel in channels::ALL {
            if channels::is_connected(channel, at.duration_since(self.started)) {
                rows.deliver(channel, 10, at)?;
            }
        }
        self.dispatch(rows, at)
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
