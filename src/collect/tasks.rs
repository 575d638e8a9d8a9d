//! Scheduled agent tasks: which are late, which will never run again, and how their runs end.
//!
//! Neither prompts nor what an agent answered are ever read; of a result only whether it is an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collect::{Collector, DATABASE_FIX, NOTHING, Needs, registered::UNKNOWN};
use crate::fact::{Bound, Check, Fact, Severity, Span};
use crate::host::Host;
use crate::sample::{Details, Moment, Now, Points};
use crate::source::Sources;
use crate::source::sqlite::{Database, Followed, Reader, Stamp, column};

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
    /// Null where the column holds no text; so in all columns.
    id: Option<Arc<str>>,
    group: Option<Arc<str>>,
    schedule_type: Option<Arc<str>>,
    schedule_value: Option<Arc<str>>,
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
    "Scheduled tasks by status (scheduled_tasks): active, paused, completed, other. Group `(unknown)` has those whose \
     group cannot be read.",
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
    "Logged runs by outcome (task_run_logs), from the beginning of the log: success, error, other. Group `(unknown)` \
     has those of tasks that are gone. Lower after a restart only if the host pruned rows.",
)
.unit("{run}")
.of(&["group", "status"]);
static RUN_DURATION: Fact = Fact::counter(
    "agenthost.task.run.duration",
    "agenthost_task_run_duration_seconds_total",
    "Time that logged runs took (task_run_logs.duration_ms), from the beginning of the log. Lower after a restart only \
     if the host pruned rows.",
)
.unit("s")
.of(&["group"]);

const TASK_OVERDUE: Check = Check {
    name: "task_overdue",
    fact: &OVERDUE,
    bad: Bound::Above(0.0),
    severity: Severity::Warning,
    fail_for: Duration::from_secs(5 * 60),
    headline: "task of group {} overdue",
    means: "A task of this group should have run and did not: the scheduler hangs, or the queue is full.",
};
const TASK_STUCK: Check = Check {
    name: "task_stuck",
    fact: &STUCK,
    bad: Bound::Above(0.0),
    severity: Severity::Warning,
    fail_for: Duration::from_secs(10 * 60),
    headline: "task of group {} stuck",
    means: "A task of this group is active but has no next run: it was killed while it ran, or its group is gone. It \
            will never run again by itself.",
};
const TASK_FAILING: Check = Check {
    name: "task_failing",
    fact: &FAILING,
    bad: Bound::Above(0.0),
    severity: Severity::Warning,
    fail_for: Duration::ZERO,
    headline: "task of group {} failing",
    means: "Over half of the last runs of a task of this group ended in an error.",
};

/// Reads the list of tasks and the log of their runs from the host's database.
pub struct Tasks {
    followed: Followed,
    /// How late a task may be: the scheduler's poll and slack.
    grace: Duration,
    /// The file whose log `runs` has begun to read, though not every reading of it may have come to its end.
    begun: Option<Stamp>,
    tasks: Vec<Task>,
    runs: Runs,
}

impl Collector for Tasks {
    const NAME: &'static str = "tasks";
    const EVERY: Duration = Duration::from_secs(30);
    const FACTS: &'static [&'static Fact] =
        &[&TASKS, &OVERDUE, &STUCK, &FAILING, &NEXT_RUN, &LAST_RUN, &RUNS, &RUN_DURATION];
    const CHECKS: &'static [Check] = &[TASK_OVERDUE, TASK_STUCK, TASK_FAILING];
    const NEEDS: Needs = Needs {
        reads: "the tables of tasks and their runs in the host's database",
        fix: DATABASE_FIX,
        costs: "the rows that are new, in milliseconds",
        opens: NOTHING,
    };
    type Config = Config;
    type Section = Section;

    fn new(config: Config, host: &Host, _sources: &Sources) -> Result<Option<Tasks>> {
        let grace = host.scheduler_poll.saturating_add(config.overdue_slack.0);
        Ok(host.database.as_ref().map(|path| Tasks {
            followed: Followed::new(Database::new(path)),
            grace,
            begun: None,
            tasks: Vec::new(),
            runs: Runs::default(),
        }))
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        if let Some(stamp) = self.followed.news()? {
            self.read(&stamp)?;
            self.followed.was_read(stamp, now);
        }
        let limit = now.ago(self.grace);
        let tasks = self.tasks.iter().map(|task| Task { overdue: task.is_overdue(limit), ..task.clone() });
        Ok(Section { tasks: tasks.collect(), totals: self.runs.totals().clone() })
    }

    fn points(section: &Section, points: &mut Points) {
        for (group, tally) in tallies(&section.tasks) {
            tally.put(&group, points);
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
    /// The tasks first: so every task whose run is found in the log afterwards is known, unless it is gone.
    fn read(&mut self, stamp: &Stamp) -> Result<()> {
        let reader = self.followed.open(stamp, TABLES)?;
        if self.begun.as_ref().is_some_and(|begun| !begun.same_file(stamp)) {
            self.runs.begin_anew();
        }
        self.begun = Some(stamp.clone());
        let mut tasks = read(&reader)?;
        let groups: Groups = tasks.iter().filter_map(|task| Some((task.id.clone()?, task.group_label()))).collect();
        self.runs.read(&reader, &groups)?;
        for task in &mut tasks {
            if let Some(history) = task.id.as_ref().and_then(|id| self.runs.of(id)) {
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

const TABLES: &[(&str, &[&str])] = &[("scheduled_tasks", &COLUMNS), runs::TABLE];

/// What the agent said does not leave the database: only whether it begins as the host's errors do.
const ROWS: &str = "SELECT id, group_folder, schedule_type, schedule_value, status, next_run, last_run,
        CASE typeof(last_result) WHEN 'text' THEN substr(last_result, 1, 6) = 'Error:' END AS failed
    FROM scheduled_tasks ORDER BY created_at DESC";

/// The list without what the log tells.
fn read(reader: &Reader) -> Result<Vec<Task>> {
    reader.rows(ROWS, [], |row| {
        let (next_run, last_run) = (column::moment(row, "next_run")?, column::moment(row, "last_run")?);
        let (status, failed): (_, Option<bool>) = (column::text(row, "status")?, row.get("failed")?);
        Ok(Task {
            id: column::text(row, "id")?,
            group: column::text(row, "group_folder")?,
            schedule_type: column::text(row, "schedule_type")?,
            schedule_value: column::text(row, "schedule_value")?,
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
    /// What facts call its group.
    fn group_label(&self) -> Arc<str> {
        self.group.clone().unwrap_or_else(|| UNKNOWN.into())
    }

    fn is_active(&self) -> bool {
        self.status.as_deref() == Some("active")
    }

    /// The host advances `next_run` before it runs a task, so that a running one never lies in the past.
    fn is_overdue(&self, limit: Timestamp) -> Option<bool> {
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
        let Some(id) = &self.id else { return };
        let group = self.group_label();
        if let (true, Some(at)) = (self.is_active(), self.next_run.epoch()) {
            points.put(&NEXT_RUN, [&group, id], at);
        }
        if let Some(at) = self.last_run.epoch() {
            points.put(&LAST_RUN, [&group, id], at);
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

fn tallies(tasks: &[Task]) -> BTreeMap<Arc<str>, Tally> {
    let mut tallies: BTreeMap<Arc<str>, Tally> = BTreeMap::new();
    for task in tasks {
        tallies.entry(task.group_label()).or_default().add(task);
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::collect::fixture::{self, Fixture, error, look, now};

    const PAST: &str = "'2026-11-20T00:00:00+00:00'";

    /// A task with other columns than the defaults; all values are SQL literals.
    fn task(id: &str, group: &str, columns: &[(&str, &str)]) -> String {
        let names: String = columns.iter().map(|(name, _)| format!(", {name}")).collect();
        let values: String = columns.iter().map(|(_, value)| format!(", {value}")).collect();
        format!(
            "INSERT INTO scheduled_tasks
                (id, group_folder, chat_jid, prompt, schedule_type, schedule_value, created_at{names})
             VALUES ('{id}', '{group}', 'jid', 'secret prompt', 'interval', '3600000', '2026-11-01T00:00:00+00:00'{values});"
        )
    }

    /// Runs of a task, one a minute from `minute` past 18:00 on, each of `duration` ms; `s`uccess, `e`rror, or odd.
    fn runs(task: &str, minute: usize, duration: &str, outcomes: &str) -> String {
        let row = |(index, letter): (usize, char)| {
            let status = match letter {
                's' => "success",
                'e' => "error",
                _ => "odd",
            };
            format!(
                "INSERT INTO task_run_logs (task_id, run_at, duration_ms, status, result, error) VALUES
                 ('{task}', '2026-11-21T18:{:02}:00+00:00', {duration}, '{status}', 'secret answer', 'secret error');",
                minute + index
            )
        };
        outcomes.chars().enumerate().map(row).collect()
    }

    fn first(sql: &str) -> Value {
        let fixture = Fixture::new(sql);
        let section = look(&mut fixture.collector::<Tasks>(), now()).unwrap();
        fixture::json::<Tasks>(&section)[0].clone()
    }

    fn value(section: &Section, fact: &'static Fact, subject: &str) -> Option<Option<f64>> {
        fixture::value(&fixture::points::<Tasks>(section), fact, subject)
    }

    /// Successes, errors, others and seconds of a group.
    fn total(tasks: &mut Tasks, group: &str) -> [Option<f64>; 4] {
        let section = look(tasks, now()).unwrap();
        let runs = ["success", "error", "other"].map(|status| value(&section, &RUNS, &format!("{group}/{status}")));
        [runs[0], runs[1], runs[2], value(&section, &RUN_DURATION, group)].map(Option::flatten)
    }

    #[test]
    fn a_row_has_the_shape_of_the_host_and_never_what_was_said() {
        let columns = [
            ("next_run", "'2026-11-21T20:16:00.013453+00:00'"),
            ("last_run", "'2026-11-21T18:16:00.5+00:00'"),
            ("last_result", "'secret answer'"),
        ];
        let row = first(&(task("t1", "admin", &columns) + &runs("t1", 0, "1", "se?")));
        let expected = json!({
            "id": "t1", "group": "admin", "schedule_type": "interval", "schedule_value": "3600000", "status": "active",
            "next_run": "2026-11-21T20:16:00.013453Z", "last_run": "2026-11-21T18:16:00.5Z", "last_result": "ok",
            "next_run_naive": false, "overdue": false, "stuck": false, "runs": {"success": 1, "error": 1},
            "failing": null,
        });
        assert_eq!(row, expected);
    }

    #[test]
    fn a_task_is_overdue_past_poll_and_slack() {
        // 60 s + 120 s before 20:00:00.
        let overdue = |next_run: &str| first(&task("t", "g", &[("next_run", next_run)]))["overdue"].clone();
        assert_eq!(overdue("'2026-11-21T19:57:00+00:00'"), false);
        assert_eq!(overdue("'2026-11-21T19:56:59.999+00:00'"), true);
        assert_eq!(overdue("'2026-11-21T19:56:59'"), true);
        assert_eq!(overdue("'2026-11-21T21:56:59+02:00'"), true);
        assert_eq!(overdue("'2026-11-21T19:56:59-02:00'"), false);
        for status in ["'paused'", "'completed'", "NULL"] {
            let row = first(&task("t", "g", &[("next_run", PAST), ("status", status)]));
            assert_eq!((&row["overdue"], &row["stuck"]), (&json!(false), &json!(false)), "{status}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_and_is_not_false() {
        let row = first(&task("t", "g", &[("next_run", "'tomorrow'"), ("last_run", "'12:00'")]));
        assert_eq!((&row["overdue"], &row["stuck"]), (&Value::Null, &json!(false)));
        assert_eq!((&row["next_run"], &row["next_run_unreadable"]), (&Value::Null, &json!(true)));
        assert_eq!((&row["last_run"], &row["last_run_unreadable"]), (&Value::Null, &json!(true)));
        let row = first(&task("t", "g", &[("next_run", "'2026-11-21T22:55:00'")]));
        assert_eq!((&row["next_run"], &row["next_run_naive"]), (&json!("2026-11-21T22:55:00Z"), &json!(true)));
        assert_eq!((&row["overdue"], row.get("next_run_unreadable")), (&json!(false), None));
    }

    #[test]
    fn a_column_that_holds_no_text_is_null_and_hides_nothing_else() {
        let columns = ["id", "group_folder", "schedule_type", "schedule_value", "status", "last_result"];
        for blob in ["X'00'", "CAST(X'ff' AS TEXT)"] {
            let fixture = Fixture::new(&(task("t", "g", &[]) + &task("odd", "g", &[("last_result", "'Error: x'")])));
            let mut tasks = fixture.collector::<Tasks>();
            for column in columns {
                fixture.run(&format!("UPDATE scheduled_tasks SET {column} = {blob} WHERE rowid = 2;"));
                let section = fixture::json::<Tasks>(&look(&mut tasks, now()).unwrap());
                let shown = if column == "group_folder" { "group" } else { column };
                let odd = if blob == "X'00'" { Value::Null } else { json!("ok") };
                let odd = if column == "last_result" { odd } else { Value::Null };
                assert_eq!((&section[1][shown], &section[0]["id"]), (&odd, &json!("t")), "{column} {blob}");
            }
        }
        let row = first(&task("t", "g", &[("next_run", "X'00'"), ("last_run", "CAST(X'ff' AS TEXT)")]));
        assert_eq!((&row["next_run_unreadable"], &row["last_run_unreadable"]), (&json!(true), &json!(true)));
        assert_eq!((&row["overdue"], &row["stuck"]), (&Value::Null, &json!(false)));
    }

    #[test]
    fn a_task_that_cannot_be_named_still_counts() {
        let sql = task("t", "g", &[("next_run", PAST)]) + &runs("t", 0, "1000", "s");
        let fixture = Fixture::new(&(sql + "UPDATE scheduled_tasks SET id = NULL, group_folder = X'00';"));
        fixture.run("UPDATE task_run_logs SET task_id = X'00', run_at = X'00', status = X'00';");
        let mut tasks = fixture.collector::<Tasks>();
        let section = look(&mut tasks, now()).unwrap();
        assert_eq!(value(&section, &OVERDUE, "(unknown)"), Some(Some(1.0)));
        assert_eq!(value(&section, &TASKS, "(unknown)/active"), Some(Some(1.0)));
        assert!(fixture::points::<Tasks>(&section).0.iter().all(|point| !point.fact.is(&NEXT_RUN)));
        assert_eq!(total(&mut tasks, "(unknown)"), [0.0, 0.0, 1.0, 1.0].map(Some));
        assert!(tasks.details().is_empty());
    }

    #[test]
    fn only_an_active_task_without_next_run_is_stuck() {
        assert_eq!(first(&task("t", "g", &[]))["stuck"], true);
        assert_eq!(first(&task("t", "g", &[("next_run", PAST)]))["stuck"], false);
        for status in ["'paused'", "'completed'", "NULL"] {
            assert_eq!(first(&task("t", "g", &[("status", status)]))["stuck"], false, "{status}");
        }
    }

    #[test]
    fn the_last_result_is_the_rows_unless_the_log_is_newer() {
        let cases = [
            // last_result, last_run, runs at 18:00, 18:01 …, expected
            ("NULL", "NULL", "", Value::Null),
            ("'Completed'", "'2026-11-21T18:30:00+00:00'", "", json!("ok")),
            ("''", "'2026-11-21T18:30:00+00:00'", "", json!("ok")),
            ("'No Error: all well'", "'2026-11-21T18:30:00+00:00'", "", json!("ok")),
            ("'Error: Container timed out'", "'2026-11-21T18:30:00+00:00'", "", json!("error")),
            ("'Error: x'", "'2026-11-21T18:30:00+00:00'", "ss", json!("error")),
            ("NULL", "NULL", "se", json!("error")),
            ("NULL", "NULL", "es", json!("ok")),
            ("NULL", "NULL", "e?", Value::Null),
            ("'Completed'", "'2026-11-21T18:00:30+00:00'", "se", json!("error")),
            ("'Completed'", "'2026-11-21T18:01:00+00:00'", "se", json!("ok")),
            ("'Completed'", "'junk'", "se", json!("ok")),
        ];
        for (result, last_run, outcomes, expected) in cases {
            let sql = task("t", "g", &[("last_result", result), ("last_run", last_run)]) + &runs("t", 0, "1", outcomes);
            assert_eq!(first(&sql)["last_result"], expected, "{result} {last_run} {outcomes}");
        }
    }

    #[test]
    fn groups_are_counted_and_zero_where_nothing_is_wrong() {
        let rows = [
            task("late", "bad", &[("next_run", PAST)]),
            task("odd", "bad", &[("next_run", "'?'")]),
            task("stuck", "bad", &[]),
            task("failing", "bad", &[("status", "'gone'"), ("last_run", "'1970-01-01T00:00:30.5+00:00'")]),
            runs("failing", 0, "1", "sseee"),
            task("fine", "good", &[("next_run", "'1970-01-01T00:01:00+00:00'"), ("status", "'paused'")]),
            task("odd2", "unclear", &[("next_run", "'?'")]),
        ];
        let fixture = Fixture::new(&rows.concat());
        let section = look(&mut fixture.collector::<Tasks>(), now()).unwrap();
        let facts = [&OVERDUE, &STUCK, &FAILING];
        assert_eq!(facts.map(|fact| value(&section, fact, "bad")), [1.0, 1.0, 1.0].map(|one| Some(Some(one))));
        assert_eq!(facts.map(|fact| value(&section, fact, "good")), [0.0, 0.0, 0.0].map(|zero| Some(Some(zero))));
        assert_eq!(facts.map(|fact| value(&section, fact, "unclear")), [Some(None), Some(Some(0.0)), Some(Some(0.0))]);
        let statuses = STATUSES.map(|status| value(&section, &TASKS, &format!("bad/{status}")).flatten());
        assert_eq!(statuses, [3.0, 0.0, 0.0, 1.0].map(Some));
        assert_eq!(value(&section, &TASKS, "good/paused"), Some(Some(1.0)));
        assert_eq!(value(&section, &LAST_RUN, "bad/failing"), Some(Some(30.5)));
        assert_eq!(value(&section, &NEXT_RUN, "good/fine"), None, "a paused task is not due");
        assert_eq!(value(&section, &NEXT_RUN, "bad/late"), Some(Some(1_795_132_800.0)));
        assert_eq!(value(&section, &NEXT_RUN, "bad/odd"), None);
    }

    #[test]
    fn counters_begin_with_the_log_and_grow_with_it() {
        let sql = task("t", "g", &[]) + &runs("t", 0, "1500", "sse") + &runs("t", 3, "250.5", "?");
        let fixture = Fixture::new(&(sql + &runs("gone", 4, "1000", "e")));
        let mut tasks = fixture.collector::<Tasks>();
        assert_eq!(total(&mut tasks, "g"), [2.0, 1.0, 1.0, 4.7505].map(Some));
        assert_eq!(total(&mut tasks, "(unknown)"), [0.0, 1.0, 0.0, 1.0].map(Some));
        fixture.run(&(runs("t", 5, "1000", "e") + &task("new", "quiet", &[])));
        assert_eq!(total(&mut tasks, "g"), [2.0, 2.0, 1.0, 5.7505].map(Some));
        assert_eq!(total(&mut tasks, "g"), [2.0, 2.0, 1.0, 5.7505].map(Some));
        assert_eq!(total(&mut tasks, "quiet"), [Some(0.0); 4]);
        assert_eq!(total(&mut tasks, "nobody"), [None; 4]);
    }

    #[test]
    fn a_group_called_unknown_has_only_its_own_runs() {
        let sql = task("t", "unknown", &[]) + &runs("t", 0, "1000", "s") + &runs("gone", 1, "1000", "ee");
        let fixture = Fixture::new(&sql);
        let mut tasks = fixture.collector::<Tasks>();
        assert_eq!(total(&mut tasks, "unknown"), [1.0, 0.0, 0.0, 1.0].map(Some));
        assert_eq!(total(&mut tasks, "(unknown)"), [0.0, 2.0, 0.0, 2.0].map(Some));
    }

    #[test]
    fn a_duration_that_is_none_adds_nothing_and_never_takes() {
        let sql = task("t", "g", &[])
            + &["'long'", "-5000", "9e999", "9e300", "1000000000001", "X'00'", "2000"]
                .map(|duration| runs("t", 0, duration, "s"))
                .concat();
        let fixture = Fixture::new(&sql);
        let mut tasks = fixture.collector::<Tasks>();
        assert_eq!(total(&mut tasks, "g"), [7.0, 0.0, 0.0, 2.0].map(Some));
    }

    #[test]
    fn what_the_host_deletes_stays_counted_and_nothing_is_counted_twice() {
        let sql = task("t", "g", &[]) + &task("last", "h", &[]) + &runs("t", 0, "1000", "sss");
        let fixture = Fixture::new(&(sql + &runs("last", 3, "1000", "e")));
        let mut tasks = fixture.collector::<Tasks>();
        assert_eq!(total(&mut tasks, "h"), [0.0, 1.0, 0.0, 1.0].map(Some));
        fixture.run("DELETE FROM task_run_logs WHERE id < 3;");
        assert_eq!(total(&mut tasks, "g"), [3.0, 0.0, 0.0, 3.0].map(Some));
        fixture.run("DELETE FROM task_run_logs WHERE task_id = 'last'; DELETE FROM scheduled_tasks WHERE id = 'last';");
        assert_eq!(total(&mut tasks, "g"), [3.0, 0.0, 0.0, 3.0].map(Some));
        assert_eq!(total(&mut tasks, "h"), [0.0, 1.0, 0.0, 1.0].map(Some));
        fixture.run(&runs("t", 4, "1000", "s"));
        assert_eq!(total(&mut tasks, "g"), [4.0, 0.0, 0.0, 4.0].map(Some));
        fixture.run("DELETE FROM task_run_logs;");
        assert_eq!(total(&mut tasks, "g"), [4.0, 0.0, 0.0, 4.0].map(Some));
        fixture.run(&runs("t", 5, "1000", "s"));
        assert_eq!(total(&mut tasks, "g"), [5.0, 0.0, 0.0, 5.0].map(Some));
        assert_eq!(total(&mut tasks, "(unknown)"), [None; 4]);
    }

    #[test]
    fn a_restored_file_counts_only_what_is_new_in_it() {
        let backup = task("t", "g", &[]) + &runs("t", 0, "1000", "ss");
        let fixture = Fixture::new(&(backup.clone() + &runs("t", 2, "1000", "ee")));
        let mut tasks = fixture.collector::<Tasks>();
        assert_eq!(total(&mut tasks, "g"), [2.0, 2.0, 0.0, 4.0].map(Some));
        // Ran on after the backup was restored: its third run has the id of one that is lost.
        fixture.replace(&Fixture::new(&(backup.clone() + &runs("t", 10, "1000", "s"))));
        assert_eq!(total(&mut tasks, "g"), [3.0, 2.0, 0.0, 5.0].map(Some));
        let section = look(&mut tasks, now()).unwrap();
        assert_eq!(fixture::json::<Tasks>(&section)[0]["runs"], json!({"success": 3, "error": 0}));
        fixture.run(&runs("t", 11, "1000", "e"));
        assert_eq!(total(&mut tasks, "g"), [3.0, 3.0, 0.0, 6.0].map(Some));
        // The same inode, an older content.
        fixture.run("DELETE FROM task_run_logs; UPDATE sqlite_sequence SET seq = 0;");
        fixture.run(&runs("t", 0, "1000", "ss"));
        assert_eq!(total(&mut tasks, "g"), [3.0, 3.0, 0.0, 6.0].map(Some));
        fixture.run(&runs("t", 12, "1000", "s"));
        assert_eq!(total(&mut tasks, "g"), [4.0, 3.0, 0.0, 7.0].map(Some));
    }

    #[test]
    fn another_file_is_read_from_its_beginning() {
        let sql = task("t", "g", &[]) + &runs("t", 0, "1000", "sss");
        let fixture = Fixture::new(&sql);
        let mut tasks = fixture.collector::<Tasks>();
        assert_eq!(total(&mut tasks, "g"), [3.0, 0.0, 0.0, 3.0].map(Some));
        fixture.replace(&Fixture::new(&sql));
        assert_eq!(total(&mut tasks, "g"), [3.0, 0.0, 0.0, 3.0].map(Some), "a copy tells nothing new");
        fixture.replace(&Fixture::new(&(task("t", "g", &[]) + &runs("t", 10, "1000", "eeeee"))));
        assert_eq!(total(&mut tasks, "g"), [3.0, 5.0, 0.0, 8.0].map(Some), "its first ids are other runs");
        // From here on ids tell again, whatever the times.
        fixture.run(&runs("t", 0, "1000", "s"));
        assert_eq!(total(&mut tasks, "g"), [4.0, 5.0, 0.0, 9.0].map(Some));
    }

    #[test]
    fn a_long_log_is_read_in_pieces_and_whole() {
        let fixture = Fixture::new(&task("t", "g", &[]));
        fixture.run(
            "INSERT INTO task_run_logs (task_id, run_at, duration_ms, status)
             WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 4000)
             SELECT 't', '2026-11-21T18:00:00+00:00', 500, CASE WHEN i % 4 = 0 THEN 'error' ELSE 'success' END FROM n;",
        );
        let mut tasks = fixture.collector::<Tasks>();
        assert_eq!(total(&mut tasks, "g"), [3000.0, 1000.0, 0.0, 2000.0].map(Some));
    }

    #[test]
    fn details_show_the_newest_runs_first_and_no_text() {
        let sql = task("t", "g", &[]) + &task("new", "g", &[]) + &runs("t", 0, "1500", &"s".repeat(52));
        let fixture = Fixture::new(&(sql + &runs("t", 52, "'?'", "e")));
        let mut tasks = fixture.collector::<Tasks>();
        assert!(tasks.details().is_empty());
        look(&mut tasks, now()).unwrap();
        let details = tasks.details();
        let shown: Value = serde_json::from_str(details["t"].get()).unwrap();
        assert_eq!((&shown["id"], &shown["group"]), (&json!("t"), &json!("g")));
        let shown = shown["runs"].as_array().unwrap();
        assert_eq!(shown.len(), 50);
        assert_eq!(shown[0], json!({"run_at": "2026-11-21T18:52:00Z", "duration_seconds": null, "status": "error"}));
        assert_eq!(shown[49], json!({"run_at": "2026-11-21T18:03:00Z", "duration_seconds": 1.5, "status": "success"}));
        assert_eq!(details["new"].get(), r#"{"id":"new","group":"g","runs":[]}"#);
    }

    #[test]
    fn only_tasks_with_new_runs_are_rendered_again() {
        let sql = task("a", "g", &[]) + &task("b", "g", &[]) + &task("c", "g", &[]) + &runs("a", 0, "1", "s");
        let fixture = Fixture::new(&sql);
        let mut tasks = fixture.collector::<Tasks>();
        look(&mut tasks, now()).unwrap();
        let before = tasks.details();
        fixture.run("UPDATE scheduled_tasks SET status = 'paused';");
        look(&mut tasks, now()).unwrap();
        assert!(Arc::ptr_eq(&before, &tasks.details()));
        fixture.run(&(runs("b", 0, "1", "s") + "DELETE FROM scheduled_tasks WHERE id = 'c';"));
        look(&mut tasks, now()).unwrap();
        let after = tasks.details();
        assert!(Arc::ptr_eq(&before["a"], &after["a"]));
        assert!(after["b"].get().contains("success") && !before["b"].get().contains("success"));
        assert!(before.contains_key("c") && !after.contains_key("c"));
    }

    #[test]
    fn rows_that_change_are_seen_and_time_passes_without_a_change() {
        let fixture = Fixture::new(&task("t", "g", &[("next_run", "'2026-11-21T20:00:00+00:00'")]));
        let mut tasks = fixture.collector::<Tasks>();
        let overdue = |tasks: &mut Tasks, now| value(&look(tasks, now).unwrap(), &OVERDUE, "g").unwrap();
        assert_eq!(overdue(&mut tasks, now()), Some(0.0));
        let later = now().plus(Duration::from_secs(181));
        assert_eq!(overdue(&mut tasks, later), Some(1.0));
        fixture.run("UPDATE scheduled_tasks SET next_run = '2026-11-21T21:00:00+00:00';");
        assert_eq!(overdue(&mut tasks, later), Some(0.0));
    }

    #[test]
    fn a_file_that_was_just_written_is_read_again() {
        let fixture = Fixture::new(&task("t", "g", &[]));
        fixture.is_read_again_until_it_settled(&mut fixture.collector::<Tasks>());
    }

    #[test]
    fn the_newest_task_comes_first() {
        let fixture = Fixture::new(&(task("old", "g", &[]) + &task("new", "g", &[])));
        fixture.run("UPDATE scheduled_tasks SET created_at = '2026-11-02T00:00:00+00:00' WHERE id = 'new';");
        let section = look(&mut fixture.collector::<Tasks>(), now()).unwrap();
        assert_eq!(section.tasks.iter().map(|task| task.id.as_deref()).collect::<Vec<_>>(), [Some("new"), Some("old")]);
    }

    #[test]
    fn no_tasks_are_an_empty_list() {
        let fixture = Fixture::new("ALTER TABLE scheduled_tasks ADD COLUMN color TEXT;");
        let section = look(&mut fixture.collector::<Tasks>(), now()).unwrap();
        assert_eq!(fixture::json::<Tasks>(&section), json!([]));
        assert!(fixture::points::<Tasks>(&section).0.is_empty());
    }

    #[test]
    fn what_is_missing_is_an_error_until_it_is_back() {
        let fixture = Fixture::new(&(task("t", "g", &[]) + &runs("t", 0, "1000", "s")));
        let mut tasks = fixture.collector::<Tasks>();
        assert_eq!(total(&mut tasks, "g"), [1.0, 0.0, 0.0, 1.0].map(Some));
        fixture.run("ALTER TABLE task_run_logs RENAME TO logs;");
        assert!(error(&mut tasks).ends_with("no table `task_run_logs`"));
        assert!(error(&mut tasks).ends_with("no table `task_run_logs`"), "an unchanged file is no excuse");
        fixture.run("ALTER TABLE logs RENAME TO task_run_logs;");
        fixture.run(&runs("t", 1, "1000", "s"));
        assert_eq!(total(&mut tasks, "g"), [2.0, 0.0, 0.0, 2.0].map(Some));
        fixture.run("ALTER TABLE scheduled_tasks RENAME COLUMN next_run TO next;");
        assert!(error(&mut tasks).ends_with("table `scheduled_tasks` has no column `next_run`"));
    }

    #[test]
    fn a_file_that_is_no_database_is_an_error() {
        let fixture = Fixture::new(&task("t", "g", &[]));
        let mut tasks = fixture.collector::<Tasks>();
        assert!(look(&mut tasks, now()).is_ok());
        std::fs::write(fixture.folder.path().join("messages.db"), "all is well".repeat(100)).unwrap();
        assert!(error(&mut tasks).contains("not a database"));
        std::fs::remove_file(fixture.folder.path().join("messages.db")).unwrap();
        assert!(error(&mut tasks).starts_with("look at "));
    }

    #[test]
    fn a_profile_without_database_has_no_tasks_and_a_wrong_key_is_refused() {
        let mut fixture = Fixture::new("");
        fixture.host.database = None;
        assert!(Tasks::new(Config::default(), &fixture.host, &Sources::default()).unwrap().is_none());
        let config: Config = toml::from_str("overdue_slack = '30s'").unwrap();
        assert_eq!(config.overdue_slack, Span(Duration::from_secs(30)));
        assert!(toml::from_str::<Config>("poll = '30s'").is_err());
    }
}
