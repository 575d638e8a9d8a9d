//! The runs that the host logs (`task_run_logs`): each counted once, the newest fifty of each task kept.
//!
//! The log is read by id from where the last reading ended, so that a reading costs what was added. Counters begin with
//! the whole log and outlive it: rows that the host deletes stay counted. Results and errors are never read.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::mem::take;
use std::sync::Arc;

use anyhow::Result;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::value::to_raw_value;

use crate::collect::amount::amount;
use crate::collect::registered::UNKNOWN;
use crate::sample::{Details, Moment};
use crate::source::sqlite::{Reader, column, params};

/// How many runs of a task are shown.
const SHOWN: usize = 50;
/// How many of the newest runs say whether a task is failing, and how many there must be at least.
const JUDGED: usize = 10;
const ENOUGH: usize = 5;
/// Rows read in one statement, so that none takes longer than milliseconds.
const BATCH: usize = 2000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Success,
    Error,
    /// The host logged a word that we do not know.
    Other,
}

impl Outcome {
    pub const ALL: [(Outcome, &str); 3] =
        [(Outcome::Success, "success"), (Outcome::Error, "error"), (Outcome::Other, "other")];

    fn read(text: &str) -> Outcome {
        let known = Outcome::ALL.into_iter().find(|(_, name)| *name == text);
        known.map_or(Outcome::Other, |(outcome, _)| outcome)
    }
}

/// One logged run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Run {
    run_at: Moment,
    /// `None` if the column holds no duration.
    duration_seconds: Option<f64>,
    status: Outcome,
}

impl Run {
    pub fn at(&self) -> Option<Timestamp> {
        self.run_at.at()
    }

    pub fn outcome(&self) -> Outcome {
        self.status
    }
}

/// How often and how long the tasks of a group ran.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Total {
    runs: [u64; Outcome::ALL.len()],
    pub seconds: f64,
}

impl Total {
    pub fn runs(&self, outcome: Outcome) -> u64 {
        self.runs[outcome as usize]
    }

    fn add(&mut self, run: &Run) {
        self.runs[run.status as usize] += 1;
        self.seconds += run.duration_seconds.unwrap_or(0.0);
    }
}

/// By group; runs of tasks that are gone are under `(unknown)`.
pub type Totals = BTreeMap<Arc<str>, Total>;

/// What is known of the runs of one task.
#[derive(Debug, Default)]
pub struct History {
    /// Oldest first.
    newest: VecDeque<Run>,
    total: Total,
}

impl History {
    pub fn last(&self) -> Option<&Run> {
        self.newest.back()
    }

    pub fn runs(&self, outcome: Outcome) -> u64 {
        self.total.runs(outcome)
    }

    /// Whether over half of its last ten runs failed; `None` with fewer than five.
    pub fn is_failing(&self) -> Option<bool> {
        let known = self.newest.len().min(JUDGED);
        let errors = self.newest.iter().rev().take(JUDGED).filter(|run| run.status == Outcome::Error).count();
        (known >= ENOUGH).then_some(errors * 2 > known)
    }

    fn add(&mut self, run: Run) {
        if self.newest.len() == SHOWN {
            self.newest.pop_front();
        }
        self.newest.push_back(run);
        self.total.add(&run);
    }
}

/// Which group a task belongs to, for every task there is.
pub type Groups = BTreeMap<Arc<str>, Arc<str>>;

#[derive(Debug, Default)]
pub struct Runs {
    /// The highest id that was read.
    mark: i64,
    /// The latest time of a run that was counted.
    newest: Option<Timestamp>,
    /// While a log is read again from its beginning: runs up to here are counted already.
    counted_to: Option<Timestamp>,
    tasks: HashMap<Arc<str>, History>,
    totals: Totals,
    details: Details,
    /// Tasks whose details show less than their history.
    stale: BTreeSet<Arc<str>>,
}

/// What is read.
pub const TABLE: (&str, &[&str]) = ("task_run_logs", &["id", "task_id", "run_at", "duration_ms", "status"]);

/// A row of the log.
struct Row {
    id: i64,
    /// `None`: the column holds no text.
    task: Option<Arc<str>>,
    run: Run,
}

impl Runs {
    pub fn of(&self, task: &str) -> Option<&History> {
        self.tasks.get(task)
    }

    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// The last fifty runs of each task, newest first.
    pub fn details(&self) -> Details {
        self.details.clone()
    }

    /// The file is another one: its log is read whole. What it shares with the one before is not counted twice; the time
    /// of a run tells, because ids mean nothing across files.
    pub fn begin_anew(&mut self) {
        *self =
            Runs { counted_to: self.newest, newest: self.newest, totals: take(&mut self.totals), ..Runs::default() };
    }

    /// Reads what was logged since the last reading.
    ///
    /// # Errors
    /// The database cannot be read. What was read until then stays counted.
    pub fn read(&mut self, reader: &Reader, groups: &Groups) -> Result<()> {
        let top: Option<i64> = reader.row("SELECT max(id) FROM task_run_logs", [], |row| row.get(0))?;
        if top.unwrap_or(0) < self.mark {
            // The newest rows went with a deleted task, or an older copy was written over the file.
            self.begin_anew();
        }
        self.catch_up(reader, groups)?;
        self.counted_to = None;
        self.follow(groups)
    }

    fn catch_up(&mut self, reader: &Reader, groups: &Groups) -> Result<()> {
        loop {
            let rows = rows(reader, self.mark)?;
            let full = rows.len() == BATCH;
            rows.into_iter().for_each(|row| self.take(row, groups));
            if !full {
                return Ok(());
            }
        }
    }

    fn take(&mut self, row: Row, groups: &Groups) {
        self.mark = row.id;
        let known = row.task.and_then(|task| groups.get_key_value(&task));
        if self.is_new(&row.run) {
            let group = known.map_or_else(|| UNKNOWN.into(), |(_, group)| group.clone());
            self.totals.entry(group).or_default().add(&row.run);
        }
        self.newest = self.newest.max(row.run.at());
        if let Some((task, _)) = known {
            self.tasks.entry(task.clone()).or_default().add(row.run);
            self.stale.insert(task.clone());
        }
    }

    fn is_new(&self, run: &Run) -> bool {
        self.counted_to.is_none_or(|counted_to| run.at().is_some_and(|at| at > counted_to))
    }

    /// Tasks come and go: each has its details (and its group a total), even before its first run.
    fn follow(&mut self, groups: &Groups) -> Result<()> {
        self.tasks.retain(|task, _| groups.contains_key(task));
        for (task, group) in groups {
            if !self.details.contains_key(task) {
                self.stale.insert(task.clone());
            }
            self.totals.entry(group.clone()).or_default();
        }
        self.render(groups)
    }

    fn render(&mut self, groups: &Groups) -> Result<()> {
        if self.stale.is_empty() && self.details.len() == groups.len() {
            return Ok(());
        }
        let details = Arc::make_mut(&mut self.details);
        details.retain(|task, _| groups.contains_key(task));
        for (task, group) in self.stale.iter().filter_map(|task| groups.get_key_value(task)) {
            let runs = self.tasks.get(task).into_iter().flat_map(|history| history.newest.iter().rev());
            let detail = to_raw_value(&Detail { id: task, group, runs: runs.collect() })?;
            details.insert(task.clone(), detail.into());
        }
        self.stale.clear();
        Ok(())
    }
}

/// `/status/tasks/<id>`.
#[derive(Serialize)]
struct Detail<'a> {
    id: &'a str,
    group: &'a str,
    /// Newest first.
    runs: Vec<&'a Run>,
}

/// The next rows of the log. `duration_ms` is declared INTEGER and holds REAL too; junk is no duration.
fn rows(reader: &Reader, mark: i64) -> Result<Vec<Row>> {
    let sql = "SELECT id, task_id, run_at, status,
            CASE WHEN typeof(duration_ms) IN ('integer', 'real') THEN duration_ms * 1.0 END AS ms
        FROM task_run_logs WHERE id > ?1 ORDER BY id LIMIT ?2";
    reader.rows(sql, params![mark, BATCH as i64], |row| {
        let run = Run {
            run_at: column::moment(row, "run_at")?,
            duration_seconds: amount(row.get("ms")?).map(|ms| ms / 1000.0),
            status: column::text(row, "status")?.map_or(Outcome::Other, |status| Outcome::read(&status)),
        };
        Ok(Row { id: row.get("id")?, task: column::text(row, "task_id")?, run })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(outcomes: &str) -> History {
        let mut history = History::default();
        for letter in outcomes.chars() {
            let status = match letter {
                's' => Outcome::Success,
                'e' => Outcome::Error,
                _ => Outcome::Other,
            };
            history.add(Run { run_at: Moment::Absent, duration_seconds: None, status });
        }
        history
    }

    #[test]
    fn a_task_fails_when_over_half_of_its_last_ten_runs_did() {
        let cases = [
            ("", None),
            ("eeee", None),
            ("eeeee", Some(true)),
            ("eesss", Some(false)),
            ("eeess", Some(true)),
            ("eeesss", Some(false)),
            ("ee???", Some(false)),
            ("eeeeeesssss", Some(false)),
            ("sssssssseeeeee", Some(true)),
            ("eeeeeeeeeeeesssss", Some(false)),
            ("eeeeeeeeeeeessss", Some(true)),
        ];
        for (outcomes, failing) in cases {
            assert_eq!(history(outcomes).is_failing(), failing, "{outcomes}");
        }
    }

    #[test]
    fn fifty_runs_are_kept_and_all_are_counted() {
        let history = history(&"e".repeat(60).replacen('e', "s", 10));
        assert_eq!(history.newest.len(), SHOWN);
        assert_eq!((history.runs(Outcome::Success), history.runs(Outcome::Error)), (10, 50));
    }

    #[test]
    fn only_known_words_are_outcomes() {
        for (outcome, word) in Outcome::ALL {
            assert_eq!(Outcome::read(word), outcome);
            assert_eq!(serde_json::to_value(outcome).unwrap(), word);
        }
        assert_eq!(Outcome::read("Error: my key is 123"), Outcome::Other);
    }
}
