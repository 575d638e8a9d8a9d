//! Host jobs: commands that the host itself runs on a schedule, and which of them are late.
//!
//! The commands themselves are never read. Exit codes cannot be: the host does not store them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::collect::{Collector, DATABASE_FIX, NOTHING, Needs};
use crate::fact::{Bound, Check, Fact, Severity, Span};
use crate::host::Host;
use crate::sample::{Moment, Now, Points};
use crate::source::Sources;
use crate::source::sqlite::{Database, Followed, Reader, column};

/// `[collect.host_jobs]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How much later than the scheduler's poll and the job's own time-out a job may be before it is overdue.
    overdue_slack: Span,
}

impl Default for Config {
    fn default() -> Config {
        Config { overdue_slack: Span(Duration::from_secs(120)) }
    }
}

/// `/status.host_jobs`: an array in the host's order, newest first.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Section(Vec<Job>);

#[derive(Debug, Clone, Serialize)]
struct Job {
    /// Null where the column holds no text; so in all columns.
    id: Option<Arc<str>>,
    name: Option<Arc<str>>,
    schedule_type: Option<Arc<str>>,
    schedule_value: Option<Arc<str>>,
    status: Option<Arc<str>>,
    /// Null if the column holds neither 0 nor 1.
    enabled: Option<bool>,
    /// RFC 3339 in UTC.
    next_run: Moment,
    last_run: Moment,
    /// `next_run` was written without an offset, and is read as UTC.
    next_run_naive: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    next_run_unreadable: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    last_run_unreadable: bool,
    /// Null if nobody can tell. Depends on the time, so that it is judged anew at each reading.
    overdue: Option<bool>,
    /// `None`: the column holds no duration.
    #[serde(skip)]
    timeout: Option<Duration>,
}

static JOBS: Fact = Fact::gauge(
    "agenthost.host_jobs",
    "agenthost_host_jobs",
    "Host jobs by status (host_jobs): active, paused, completed, other; or disabled, whatever the status.",
)
.unit("{job}")
.of(&["status"]);
static OVERDUE: Fact = Fact::gauge(
    "agenthost.host_job.overdue",
    "agenthost_host_job_overdue",
    "Whether an enabled, active job is past its next run by more than poll interval, its own time-out and slack.",
)
.of(&["host_job"]);
static NEXT_RUN: Fact = Fact::gauge(
    "agenthost.host_job.next_run.timestamp_seconds",
    "agenthost_host_job_next_run_timestamp_seconds",
    "When an enabled, active job is due next (host_jobs.next_run).",
)
.of(&["host_job"]);
static LAST_RUN: Fact = Fact::gauge(
    "agenthost.host_job.last_run.timestamp_seconds",
    "agenthost_host_job_last_run_timestamp_seconds",
    "When the job ran last (host_jobs.last_run); no series if it never did.",
)
.of(&["host_job"]);

const HOST_JOB_OVERDUE: Check = Check {
    name: "host_job_overdue",
    fact: &OVERDUE,
    bad: Bound::Above(0.0),
    severity: Severity::Warning,
    fail_for: Duration::from_secs(5 * 60),
    headline: "host job {} overdue",
    means: "A job of the host should have run and did not: its scheduler hangs, or a job before it does (they run one \
            after another).",
};

/// Reads the list of host jobs from the host's database.
pub struct HostJobs {
    followed: Followed,
    /// How late every job may be, without its own time-out.
    grace: Duration,
    jobs: Vec<Job>,
}

impl Collector for HostJobs {
    const NAME: &'static str = "host_jobs";
    const EVERY: Duration = Duration::from_secs(30);
    const FACTS: &'static [&'static Fact] = &[&JOBS, &OVERDUE, &NEXT_RUN, &LAST_RUN];
    const CHECKS: &'static [Check] = &[HOST_JOB_OVERDUE];
    const NEEDS: Needs = Needs {
        reads: "the table of host jobs in the host's database",
        fix: DATABASE_FIX,
        costs: "a few rows",
        opens: NOTHING,
    };
    type Config = Config;
    type Section = Section;

    fn new(config: Config, host: &Host, _sources: &Sources) -> Result<Option<HostJobs>> {
        let grace = host.scheduler_poll.saturating_add(config.overdue_slack.0);
        Ok(host.database.as_ref().map(|path| HostJobs {
            followed: Followed::new(Database::new(path)),
            grace,
            jobs: Vec::new(),
        }))
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        if let Some(stamp) = self.followed.news()? {
            self.jobs = read(&self.followed.open(&stamp, &[("host_jobs", &COLUMNS)])?)?;
            self.followed.was_read(stamp, now);
        }
        let jobs = self.jobs.iter().map(|job| Job { overdue: job.is_overdue(self.grace, now), ..job.clone() });
        Ok(Section(jobs.collect()))
    }

    fn points(section: &Section, points: &mut Points) {
        put_counts(&section.0, points);
        for job in &section.0 {
            let Some(name) = &job.name else { continue };
            points.put(&OVERDUE, [name], job.overdue.map(|overdue| f64::from(u8::from(overdue))));
            if let (Some(true), Some(at)) = (job.may_run(), job.next_run.epoch()) {
                points.put(&NEXT_RUN, [name], at);
            }
            if let Some(at) = job.last_run.epoch() {
                points.put(&LAST_RUN, [name], at);
            }
        }
    }
}

const COLUMNS: [&str; 10] = [
    "id",
    "name",
    "schedule_type",
    "schedule_value",
    "status",
    "enabled",
    "next_run",
    "last_run",
    "timeout_seconds",
    "created_at",
];

/// The host takes a missing time-out for its default of 600 seconds.
const ROWS: &str = "SELECT id, name, schedule_type, schedule_value, status, next_run, last_run,
        CASE WHEN enabled IN (0, 1) THEN enabled END AS enabled,
        CASE WHEN timeout_seconds IS NULL THEN 600.0
             WHEN typeof(timeout_seconds) IN ('integer', 'real') THEN timeout_seconds END AS timeout
    FROM host_jobs ORDER BY created_at DESC";

fn read(reader: &Reader) -> Result<Vec<Job>> {
    reader.rows(ROWS, [], |row| {
        let (next_run, last_run) = (column::moment(row, "next_run")?, column::moment(row, "last_run")?);
        let timeout: Option<f64> = row.get("timeout")?;
        Ok(Job {
            id: column::text(row, "id")?,
            name: column::text(row, "name")?,
            schedule_type: column::text(row, "schedule_type")?,
            schedule_value: column::text(row, "schedule_value")?,
            status: column::text(row, "status")?,
            enabled: row.get("enabled")?,
            next_run,
            last_run,
            next_run_naive: next_run.is_naive(),
            next_run_unreadable: next_run.is_unreadable(),
            last_run_unreadable: last_run.is_unreadable(),
            overdue: None,
            timeout: timeout.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
        })
    })
}

impl Job {
    /// Whether the scheduler will run it when it is due; `None` if nobody can tell.
    fn may_run(&self) -> Option<bool> {
        let active = self.status.as_deref() == Some("active");
        if active { self.enabled } else { Some(false) }
    }

    /// The host advances `next_run` only after the run, so that a running job lies in the past up to its time-out.
    fn is_overdue(&self, grace: Duration, now: Now) -> Option<bool> {
        if self.may_run()? {
            self.next_run.is_before(now.ago(grace.saturating_add(self.timeout?)))
        } else {
            Some(false)
        }
    }

    fn state(&self) -> usize {
        let status = self.status.as_deref();
        let state = if self.enabled == Some(false) { Some("disabled") } else { status };
        STATES.iter().position(|known| state == Some(known)).unwrap_or(OTHER)
    }
}

const STATES: [&str; 5] = ["active", "paused", "completed", "disabled", "other"];
const OTHER: usize = 4;

fn put_counts(jobs: &[Job], points: &mut Points) {
    let mut counts = [0_u32; STATES.len()];
    for job in jobs {
        counts[job.state()] += 1;
    }
    for (state, count) in STATES.into_iter().zip(counts) {
        points.put(&JOBS, [&state.into()], f64::from(count));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::collect::fixture::{self, Fixture, error, look, now};

    fn insert(name: &str, columns: &str, values: &str) -> String {
        format!(
            "INSERT INTO host_jobs (id, name, command, schedule_type, schedule_value, created_by, created_at, {columns})
             VALUES ('id-{name}', '{name}', 'echo secret', 'cron', '0 3 * * *', 'admin', '2026-11-01T00:00:00+00:00',
             {values});"
        )
    }

    /// The job's row in a reading at 20:00, of a job due at `next_run` (an SQL literal).
    fn judged(next_run: &str, columns: &str, values: &str) -> (Value, Option<Option<f64>>) {
        let fixture = Fixture::new(&insert("job", &format!("next_run{columns}"), &format!("{next_run}{values}")));
        let section = look(&mut fixture.collector::<HostJobs>(), now()).unwrap();
        let value = fixture::value(&fixture::points::<HostJobs>(&section), &OVERDUE, "job");
        (fixture::json::<HostJobs>(&section)[0].clone(), value)
    }

    #[test]
    fn a_row_has_the_shape_of_the_host_and_never_the_command() {
        let (row, _) = judged("'2026-11-22T03:00:00+00:00'", ", last_run", ", '2026-11-21T03:00:00.5+00:00'");
        let expected = json!({
            "id": "id-job", "name": "job", "schedule_type": "cron", "schedule_value": "0 3 * * *", "status": "active",
            "enabled": true, "next_run": "2026-11-22T03:00:00Z", "last_run": "2026-11-21T03:00:00.5Z",
            "next_run_naive": false, "overdue": false,
        });
        assert_eq!(row, expected);
    }

    #[test]
    fn a_job_is_overdue_past_poll_time_out_and_slack() {
        // 60 s + 600 s + 120 s before 20:00:00.
        assert_eq!(judged("'2026-11-21T19:47:00+00:00'", "", "").0["overdue"], false);
        assert_eq!(judged("'2026-11-21T19:46:59.9+00:00'", "", "").0["overdue"], true);
        assert_eq!(judged("'2026-11-21T19:47:00'", ", timeout_seconds", ", NULL").0["overdue"], false);
        assert_eq!(judged("'2026-11-21T19:46:59'", ", timeout_seconds", ", NULL").0["overdue"], true);
        assert_eq!(judged("'2026-11-21T19:56:58+00:00'", ", timeout_seconds", ", 1.5").0["overdue"], true);
        assert_eq!(judged("'2026-11-21T19:46:00+00:00'", ", timeout_seconds", ", 1800").0["overdue"], false);
    }

    #[test]
    fn only_enabled_active_jobs_can_be_late() {
        let past = "'2026-11-20T00:00:00+00:00'";
        assert_eq!(judged(past, ", status", ", 'paused'").1, Some(Some(0.0)));
        assert_eq!(judged(past, ", status", ", 'completed'").1, Some(Some(0.0)));
        assert_eq!(judged(past, ", enabled", ", 0").1, Some(Some(0.0)));
        assert_eq!(judged("NULL", "", "").1, Some(Some(0.0)));
        assert_eq!(judged(past, "", "").1, Some(Some(1.0)));
    }

    #[test]
    fn what_cannot_be_told_is_null_and_not_false() {
        let (row, value) = judged("'soon'", ", last_run", ", ''");
        assert_eq!((&row["overdue"], &row["next_run"], &row["last_run"]), (&Value::Null, &Value::Null, &Value::Null));
        assert_eq!((&row["next_run_unreadable"], &row["last_run_unreadable"]), (&json!(true), &json!(true)));
        assert_eq!(value, Some(None));
        let past = "'2026-11-20T00:00:00+00:00'";
        for enabled in ["2", "NULL", "'yes'", "0.5"] {
            let (row, value) = judged(past, ", enabled", &format!(", {enabled}"));
            assert_eq!(
                (&row["enabled"], &row["overdue"], value),
                (&Value::Null, &Value::Null, Some(None)),
                "{enabled}"
            );
        }
        for timeout in ["-1", "'long'", "9e999"] {
            assert_eq!(judged(past, ", timeout_seconds", &format!(", {timeout}")).1, Some(None), "{timeout}");
        }
    }

    #[test]
    fn a_column_that_holds_no_text_is_null_and_hides_nothing_else() {
        let rows = [insert("job", "status", "'active'"), insert("odd", "status", "'active'")].concat();
        let fixture = Fixture::new(&rows);
        let mut jobs = fixture.collector::<HostJobs>();
        for column in ["id", "name", "schedule_type", "schedule_value", "status"] {
            for blob in ["X'00'", "CAST(X'ff' AS TEXT)"] {
                fixture.run(&format!("UPDATE host_jobs SET {column} = {blob} WHERE rowid = 2;"));
                let section = look(&mut jobs, now()).unwrap();
                let rows = fixture::json::<HostJobs>(&section);
                assert_eq!((&rows[1][column], &rows[0]["name"]), (&Value::Null, &json!("job")), "{column} {blob}");
                assert_eq!(fixture::value(&fixture::points::<HostJobs>(&section), &OVERDUE, "job"), Some(Some(0.0)));
            }
        }
        let (row, value) = judged("X'00'", ", last_run", ", CAST(X'ff' AS TEXT)");
        assert_eq!((&row["next_run_unreadable"], &row["last_run_unreadable"]), (&json!(true), &json!(true)));
        assert_eq!((&row["overdue"], value), (&Value::Null, Some(None)));
    }

    #[test]
    fn a_next_run_without_offset_is_read_as_utc_and_marked() {
        let (row, _) = judged("'2026-11-21T22:55:00'", "", "");
        assert_eq!((&row["next_run"], &row["next_run_naive"]), (&json!("2026-11-21T22:55:00Z"), &json!(true)));
    }

    #[test]
    fn counts_and_times_by_state_and_name() {
        let rows = [
            insert("due", "next_run, last_run", "'1970-01-01T00:01:00+00:00', '1970-01-01T00:00:30.5+00:00'"),
            insert("off", "next_run, enabled", "'2026-11-22T00:00:00+00:00', 0"),
            insert("off-paused", "status, enabled", "'paused', 0"),
            insert("odd", "status", "NULL"),
        ];
        let fixture = Fixture::new(&rows.concat());
        let section = look(&mut fixture.collector::<HostJobs>(), now()).unwrap();
        let points = fixture::points::<HostJobs>(&section);
        let value = |fact, subject| fixture::value(&points, fact, subject).flatten();
        let counts = STATES.map(|state| value(&JOBS, state));
        assert_eq!(counts, [1.0, 0.0, 0.0, 2.0, 1.0].map(Some));
        assert_eq!((value(&NEXT_RUN, "due"), value(&LAST_RUN, "due")), (Some(60.0), Some(30.5)));
        assert_eq!((value(&NEXT_RUN, "off"), value(&LAST_RUN, "off")), (None, None));
    }

    #[test]
    fn time_passes_without_a_change_of_the_file() {
        let fixture = Fixture::new(&insert("job", "next_run", "'2026-11-21T20:00:00+00:00'"));
        let mut jobs = fixture.collector::<HostJobs>();
        let overdue = |jobs: &mut HostJobs, now| look(jobs, now).unwrap().0[0].overdue;
        assert_eq!(overdue(&mut jobs, now()), Some(false));
        assert_eq!(overdue(&mut jobs, now().plus(Duration::from_secs(781))), Some(true));
        fixture.run("UPDATE host_jobs SET next_run = '2026-11-22T00:00:00+00:00'");
        assert_eq!(overdue(&mut jobs, now().plus(Duration::from_secs(781))), Some(false));
    }

    #[test]
    fn a_file_that_was_just_written_is_read_again() {
        let fixture = Fixture::new(&insert("job", "status", "'active'"));
        fixture.is_read_again_until_it_settled(&mut fixture.collector::<HostJobs>());
    }

    #[test]
    fn the_newest_comes_first() {
        let rows = [insert("old", "status", "'active'"), insert("new", "status", "'active'")].concat();
        let fixture = Fixture::new(&rows);
        fixture.run("UPDATE host_jobs SET created_at = '2026-11-02T00:00:00+00:00' WHERE name = 'new'");
        let section = look(&mut fixture.collector::<HostJobs>(), now()).unwrap();
        assert_eq!(section.0.iter().map(|job| job.name.as_deref()).collect::<Vec<_>>(), [Some("new"), Some("old")]);
    }

    #[test]
    fn no_jobs_are_an_empty_list_and_no_table_is_an_error() {
        let fixture = Fixture::new("ALTER TABLE host_jobs ADD COLUMN color TEXT;");
        let mut jobs = fixture.collector::<HostJobs>();
        let section = look(&mut jobs, now()).unwrap();
        assert_eq!(fixture::json::<HostJobs>(&section), json!([]));
        assert_eq!(fixture::value(&fixture::points::<HostJobs>(&section), &JOBS, "active"), Some(Some(0.0)));
        fixture.run("ALTER TABLE host_jobs RENAME COLUMN enabled TO is_enabled;");
        assert!(error(&mut jobs).ends_with("table `host_jobs` has no column `enabled`"));
        fixture.run("DROP TABLE host_jobs;");
        assert!(error(&mut jobs).ends_with("no table `host_jobs`"));
        assert!(error(&mut jobs).ends_with("no table `host_jobs`"));
    }

    #[test]
    fn the_slack_is_configured_and_other_keys_are_refused() {
        let config: Config = toml::from_str("overdue_slack = '1h'").unwrap();
        assert_eq!(config.overdue_slack, Span(Duration::from_secs(3600)));
        assert!(toml::from_str::<Config>("slack = '1h'").is_err());
    }
}
