//! Scheduled agent tasks: which are late, which will never run again, and how their runs end.
//!
//! Neither prompts nor what an agent answered are ever read; of a result only whether it is an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::collect::Collector;
use crate::fact::{Bound, Check, Fact, Severity, Span};
use crate::host::Host;
use crate::sample::{Details, Moment, Now, Points};
use crate::source::Sources;
use crate::source::sqlite::{Database, Reader, Stamp};

mod runs;

use runs::{Groups, History, Outcome, Runs, Totals};

/// `[collect.tasks]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How much later than the scheduler's poll a task may be before it is overdue.
    overdue_slack: Span,
}

impl Default for Config {
    fn default() -> Config {
        Config { overdue_slack: Span(Duration::from_secs(120)) }
    }
}

/// `/status.tasks`: an array in the host's order, newest first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Section {
    tasks: Vec<Task>,
    #[serde(skip)]
    totals: Totals,
}

#[derive(Debug, Clone, Serialize)]
struct Task {
    id: Arc<str>,
    group: Arc<str>,
    schedule_type: Arc<str>,
    schedule_value: Arc<str>,
    status: Option<Arc<str>>,
    /// RFC 3339 in UTC.
    next_run: Moment,
    last_run: Moment,
    last_result: Option<LastResult>,
    /// `next_run` was written without an offset, and is read as UTC.
    next_run_naive: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    next_run_unreadable: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    last_run_unreadable: bool,
    /// Null if nobody can tell. Depends on the time, so that it is judged anew at each reading.
    overdue: Option<bool>,
    /// Active without a next run: it will never run again.
    stuck: bool,
    runs: Counts,
    /// Over half of the last ten runs failed; null with fewer than five.
    failing: Option<bool>,
}

/// How the last run ended; never what the agent said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum LastResult {
    Ok,
    Error,
}

/// Runs that the log tells of.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Counts {
    success: u64,
    error: u64,
}

static TASKS: Fact = Fact::gauge(
    "agenthost.tasks",
    "agenthost_tasks",
    "Scheduled tasks by status (scheduled_tasks): active, paused, completed, other.",
)
.unit("{task}")
.of(&["group", "status"]);
static OVERDUE: Fact = Fact::gauge(
    "agenthost.tasks.overdue",
    "agenthost_tasks_overdue",
    "Active tasks past their next run by more than the scheduler's poll interval and slack.",
)
.unit("{task}")
.of(&["group"]);
static STUCK: Fact = Fact::gauge(
    "agenthost.tasks.stuck",
    "agenthost_tasks_stuck",
    "Active tasks without a next run, which are never due again.",
)
.unit("{task}")
.of(&["group"]);
static FAILING: Fact = Fact::gauge(
    "agenthost.tasks.failing",
    "agenthost_tasks_failing",
    "Tasks with at least five logged runs, of whose last ten over half failed (task_run_logs).",
)
.unit("{task}")
.of(&["group"]);
static NEXT_RUN: Fact = Fact::gauge(
    "agenthost.task.next_run.timestamp_seconds",
    "agenthost_task_next_run_timestamp_seconds",
    "When an active task is due next (scheduled_tasks.next_run).",
)
.of(&["group", "task"]);
static LAST_RUN: Fact = Fact::gauge(
    "agenthost.task.last_run.timestamp_seconds",
    "agenthost_task_last_run_timestamp_seconds",
    "When the task ran last (scheduled_tasks.last_run); no series if it never did.",
)
.of(&["group", "task"]);
static RUNS: Fact = Fact::counter(
    "agenthost.task.runs",
    "agenthost_task_runs_total",
    "Logged runs by outcome (task_run_logs), from the beginning of the log: success, error, other. Group `unknown` has \
     those of tasks that are gone.",
)
.unit("{run}")
.of(&["group", "status"]);
static RUN_DURATION: Fact = Fact::counter(
    "agenthost.task.run.duration",
    "agenthost_task_run_duration_seconds_total",
    "Time that logged runs took (task_run_logs.duration_ms), from the beginning of the log.",
)
.unit("s")
.of(&["group"]);

const TASK_OVERDUE: Check = Check {
    name: "task_overdue",
    fact: &OVERDUE,
    bad: Bound::Above(0.0),
    severity: Severity::Warning,
    fail_for: Duration::from_secs(5 * 60),
    means: "A task of this group should have run and did not: the scheduler hangs, or the queue is full.",
};
const TASK_STUCK: Check = Check {
    name: "task_stuck",
    fact: &STUCK,
    bad: Bound::Above(0.0),
    severity: Severity::Warning,
    fail_for: Duration::from_secs(10 * 60),
    means: "A task of this group is active but has no next run: it was killed while it ran, or its group is gone. It \
            will never run again by itself.",
};
const TASK_FAILING: Check = Check {
    name: "task_failing",
    fact: &FAILING,
    bad: Bound::Above(0.0),
    severity: Severity::Warning,
    fail_for: Duration::ZERO,
    means: "Over half of the last runs of a task of this group ended in an error.",
};

/// Reads the list of tasks and the log of their runs from the host's database.
pub struct Tasks {
    database: Database,
    /// How late a task may be: the scheduler's poll and slack.
    grace: Duration,
    /// The files as they were when they were last opened, and whether that reading came to its end.
    seen: Option<Stamp>,
    whole: bool,
    tasks: Vec<Task>,
    runs: Runs,
}

impl Collector for Tasks {
    const NAME: &'static str = "tasks";
    const EVERY: Duration = Duration::from_secs(30);
    const FACTS: &'static [&'static Fact] =
        &[&TASKS, &OVERDUE, &STUCK, &FAILING, &NEXT_RUN, &LAST_RUN, &RUNS, &RUN_DURATION];
    const CHECKS: &'static [Check] = &[TASK_OVERDUE, TASK_STUCK, TASK_FAILING];
    type Config = Config;
    type Section = Section;

    fn new(config: Config, host: &Host, _sources: &Sources) -> Result<Option<Tasks>> {
        let grace = host.scheduler_poll.saturating_add(config.overdue_slack.0);
        Ok(host.database.as_ref().map(|path| Tasks {
            database: Database::new(path),
            grace,
            seen: None,
            whole: false,
            tasks: Vec::new(),
            runs: Runs::default(),
        }))
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        self.refresh()?;
        let limit = now.ago(self.grace);
        let tasks = self.tasks.iter().map(|task| Task { overdue: task.is_overdue(limit), ..task.clone() });
        Ok(Section { tasks: tasks.collect(), totals: self.runs.totals().clone() })
    }

    fn points(section: &Section, points: &mut Points) {
        for (group, tally) in tallies(&section.tasks) {
            tally.put(group, points);
        }
        for task in &section.tasks {
            task.put(points);
        }
        put_totals(&section.totals, points);
    }

    fn details(&self) -> Details {
        self.runs.details()
    }
}

impl Tasks {
    fn refresh(&mut self) -> Result<()> {
        let stamp = self.database.stamp()?;
        if self.whole && self.seen.as_ref() == Some(&stamp) {
            return Ok(());
        }
        self.whole = false;
        if self.seen.as_ref().is_some_and(|seen| !seen.same_file(&stamp)) {
            self.runs.begin_anew();
        }
        self.seen = Some(stamp);
        self.read()?;
        self.whole = true;
        Ok(())
    }

    /// The tasks first: so every task whose run is found in the log afterwards is known, unless it is gone.
    fn read(&mut self) -> Result<()> {
        let reader = self.database.open()?;
        let mut tasks = read(&reader)?;
        let groups: Groups = tasks.iter().map(|task| (task.id.clone(), task.group.clone())).collect();
        self.runs.read(&reader, &groups)?;
        for task in &mut tasks {
            if let Some(history) = self.runs.of(&task.id) {
                task.learn(history);
            }
        }
        self.tasks = tasks;
        Ok(())
    }
}

const COLUMNS: [&str; 9] = [
    "id",
    "group_folder",
    "schedule_type",
    "schedule_value",
    "status",
    "next_run",
    "last_run",
    "last_result",
    "created_at",
];

/// What the agent said does not leave the database: only whether it begins as the host's errors do.
const ROWS: &str = "SELECT id, group_folder, schedule_type, schedule_value, status, next_run, last_run,
        substr(last_result, 1, 6) = 'Error:' AS failed
    FROM scheduled_tasks ORDER BY created_at DESC";

/// The list without what the log tells.
fn read(reader: &Reader) -> Result<Vec<Task>> {
    reader.expect("scheduled_tasks", &COLUMNS)?;
    reader.rows(ROWS, [], |row| {
        let moment = |column| row.get::<_, Option<Arc<str>>>(column).map(|text| Moment::read(text.as_deref()));
        let (next_run, last_run) = (moment("next_run")?, moment("last_run")?);
        let (status, failed): (Option<Arc<str>>, Option<bool>) = (row.get("status")?, row.get("failed")?);
        Ok(Task {
            id: row.get("id")?,
            group: row.get("group_folder")?,
            schedule_type: row.get("schedule_type")?,
            schedule_value: row.get("schedule_value")?,
            next_run,
            last_run,
            last_result: failed.map(|failed| if failed { LastResult::Error } else { LastResult::Ok }),
            next_run_naive: next_run.is_naive(),
            next_run_unreadable: next_run.is_unreadable(),
            last_run_unreadable: last_run.is_unreadable(),
            overdue: None,
            stuck: status.as_deref() == Some("active") && next_run == Moment::Absent,
            runs: Counts::default(),
            failing: None,
            status,
        })
    })
}

impl Task {
    fn is_active(&self) -> bool {
        self.status.as_deref() == Some("active")
    }

    /// The host advances `next_run` before it runs a task, so that a running one never lies in the past.
    fn is_overdue(&self, limit: jiff::Timestamp) -> Option<bool> {
        if self.is_active() { self.next_run.is_before(limit) } else { Some(false) }
    }

    /// Adds what the log tells. The host stores the end of a run with the task only if it knows the task's group, and a
    /// moment after it has logged it: so the log has the last word if its newest run is later than `last_run`.
    fn learn(&mut self, history: &History) {
        self.runs = Counts { success: history.runs(Outcome::Success), error: history.runs(Outcome::Error) };
        self.failing = history.is_failing();
        let Some((logged, at)) = history.last().and_then(|run| Some((run, run.at()?))) else { return };
        let later = match self.last_run {
            Moment::Absent => true,
            Moment::Unreadable => false,
            Moment::At(last) => at > last.at,
        };
        if later {
            self.last_result = LastResult::of(logged.outcome());
        }
    }

    fn put(&self, points: &mut Points) {
        if let (true, Some(at)) = (self.is_active(), self.next_run.epoch()) {
            points.put(&NEXT_RUN, [&self.group, &self.id], at);
        }
        if let Some(at) = self.last_run.epoch() {
            points.put(&LAST_RUN, [&self.group, &self.id], at);
        }
    }
}

impl LastResult {
    fn of(outcome: Outcome) -> Option<LastResult> {
        match outcome {
            Outcome::Success => Some(LastResult::Ok),
            Outcome::Error => Some(LastResult::Error),
            Outcome::Other => None,
        }
    }
}

const STATUSES: [&str; 4] = ["active", "paused", "completed", "other"];
const OTHER: usize = 3;

/// The tasks of one group, counted.
#[derive(Default)]
struct Tally {
    by_status: [u32; STATUSES.len()],
    overdue: u32,
    /// Tasks of which nobody can tell whether they are overdue.
    unclear: u32,
    stuck: u32,
    failing: u32,
}

fn tallies(tasks: &[Task]) -> BTreeMap<&Arc<str>, Tally> {
    let mut tallies: BTreeMap<&Arc<str>, Tally> = BTreeMap::new();
    for task in tasks {
        tallies.entry(&task.group).or_default().add(task);
    }
    tallies
}

impl Tally {
    fn add(&mut self, task: &Task) {
        let status = STATUSES.iter().position(|status| task.status.as_deref() == Some(status));
        self.by_status[status.unwrap_or(OTHER)] += 1;
        self.overdue += u32::from(task.overdue == Some(true));
        self.unclear += u32::from(task.overdue.is_none());
        self.stuck += u32::from(task.stuck);
        self.failing += u32::from(task.failing == Some(true));
    }

    fn put(&self, group: &Arc<str>, points: &mut Points) {
        for (status, count) in STATUSES.into_iter().zip(self.by_status) {
            points.put(&TASKS, [group, &status.into()], f64::from(count));
        }
        // One that is surely overdue is bad whatever the unclear ones are; without it, zero would be a guess.
        let is_known = self.overdue > 0 || self.unclear == 0;
        points.put(&OVERDUE, [group], is_known.then_some(f64::from(self.overdue)));
        points.put(&STUCK, [group], f64::from(self.stuck));
        points.put(&FAILING, [group], f64::from(self.failing));
    }
}

fn put_totals(totals: &Totals, points: &mut Points) {
    for (group, total) in totals {
        for (outcome, name) in Outcome::ALL {
            points.put(&RUNS, [group, &name.into()], total.runs(outcome) as f64);
        }
        points.put(&RUN_DURATION, [group], total.seconds);
    }
}
