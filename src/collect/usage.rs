//! Usage: what the agents' runs cost, in money, tokens and time. From the rows the host writes after each run.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::collect::registered::{self, GROUP_SYNC, Registered, UNREGISTERED};
use crate::collect::{Collector, amount::amount};
use crate::collect::{DATABASE_FIX, NOTHING, Needs};
use crate::fact::{Check, Fact};
use crate::host::Host;
use crate::sample::{Now, Points};
use crate::source::Sources;
use crate::source::sqlite::{Database, Followed, Reader, Row, Stamp, Tail};

/// Nothing to set yet but what the loop takes.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// `/status.usage`: sums over the whole history in the database and all that came since.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    /// By folder; chats that are not registered together as `(unregistered)`.
    pub groups: BTreeMap<Arc<str>, Group>,
    /// Registered groups whose jid or folder cannot be read; what they used is among `(unregistered)`.
    pub unreadable_rows: u64,
}

/// What the agent of one group has used. A sum is `None` until a row tells of it: not every agent core reports all.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Group {
    pub runs: u64,
    /// Runs that ended in an error, of those that say.
    pub run_errors: Sum<u64>,
    pub turns: Sum<u64>,
    pub cost_usd: Sum<f64>,
    pub tokens: Tokens,
    pub duration_seconds: Sum<f64>,
    /// Runs that told how long they took.
    pub timed_runs: u64,
    pub tool_calls: u64,
    /// Tool results marked as errors.
    pub tool_errors: Sum<u64>,
    /// Rows whose JSON is broken or of another shape; they are in no other number.
    pub unreadable: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Tokens {
    pub input: Sum<u64>,
    pub output: Sum<u64>,
    pub cache_read: Sum<u64>,
    pub cache_creation: Sum<u64>,
}

/// A sum of what was told, or nothing if it never was.
#[derive(Debug, Clone, Copy, Default, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Sum<T>(pub Option<T>);

impl<T: Copy + PartialOrd + std::ops::Add<Output = T>> Sum<T> {
    fn add(&mut self, told: Option<T>) {
        self.0 = match (self.0, told) {
            (Some(sum), Some(value)) => Some(sum + value),
            (sum, value) => sum.or(value),
        };
    }

    /// The larger of both; one that is known is larger than nothing.
    fn raise(&mut self, other: Sum<T>) {
        if other.0 > self.0 {
            *self = other;
        }
    }
}

static RUNS: Fact = Fact::counter(
    "agenthost.usage.runs",
    "agenthost_usage_runs_total",
    "Agent runs that ended and left a result in the host's database. Lower after a restart only if the host pruned \
     rows.",
)
.unit("{run}")
.of(&["group"]);

static RUN_ERRORS: Fact = Fact::counter(
    "agenthost.usage.run_errors",
    "agenthost_usage_run_errors_total",
    "Agent runs whose result is an error. Lower after a restart only if the host pruned rows.",
)
.unit("{run}")
.of(&["group"]);

static TURNS: Fact = Fact::counter(
    "agenthost.usage.turns",
    "agenthost_usage_turns_total",
    "Turns that the agent's runs took. Lower after a restart only if the host pruned rows.",
)
.unit("{turn}")
.of(&["group"]);

static COST: Fact = Fact::counter(
    "agenthost.usage.cost_usd",
    "agenthost_usage_cost_usd_total",
    "What the agent's runs cost in US dollars, as the agent core reckons it. Lower after a restart only if the host \
     pruned rows.",
)
.unit("{USD}")
.of(&["group"]);

static TOKENS: Fact = Fact::counter(
    "agenthost.usage.tokens",
    "agenthost_usage_tokens_total",
    "Tokens that the agent's runs used, by kind: input, output, cache_read, cache_creation. Lower after a restart \
     only if the host pruned rows.",
)
.unit("{token}")
.of(&["group", "kind"]);

static DURATION: Fact = Fact::counter(
    "agenthost.usage.duration",
    "agenthost_usage_duration_seconds_total",
    "Time that the agent's runs took, of those that told it. Lower after a restart only if the host pruned rows.",
)
.unit("s")
.of(&["group"]);

static TIMED_RUNS: Fact = Fact::counter(
    "agenthost.usage.timed_runs",
    "agenthost_usage_timed_runs_total",
    "Agent runs that told how long they took: divide the duration by these. Lower after a restart only if the host \
     pruned rows.",
)
.unit("{run}")
.of(&["group"]);

static TOOL_CALLS: Fact = Fact::counter(
    "agenthost.usage.tool_calls",
    "agenthost_usage_tool_calls_total",
    "Tools that the agent called, by its traces in the host's events. Lower after a restart only if the host pruned \
     rows.",
)
.unit("{call}")
.of(&["group"]);

static TOOL_ERRORS: Fact = Fact::counter(
    "agenthost.usage.tool_errors",
    "agenthost_usage_tool_errors_total",
    "Tool results that were marked as errors. Lower after a restart only if the host pruned rows.",
)
.unit("{call}")
.of(&["group"]);

static UNREADABLE: Fact = Fact::counter(
    "agenthost.usage.unreadable",
    "agenthost_usage_unreadable_total",
    "Result and trace rows that could not be read; they are missing in all other numbers. Lower after a restart only \
     if the host pruned rows.",
)
.unit("{row}")
.of(&["group"]);

/// The collector.
pub struct Usage {
    followed: Followed,
    tables: Tables,
    registered: Registered,
    groups: Groups,
}

type Groups = BTreeMap<Arc<str>, Group>;

impl Collector for Usage {
    const NAME: &'static str = "usage";
    const EVERY: Duration = Duration::from_secs(30);
    const FACTS: &'static [&'static Fact] =
        &[&RUNS, &RUN_ERRORS, &TURNS, &COST, &TOKENS, &DURATION, &TIMED_RUNS, &TOOL_CALLS, &TOOL_ERRORS, &UNREADABLE];
    const CHECKS: &'static [Check] = &[];
    const NEEDS: Needs = Needs {
        reads: "the tables of events and messages in the host's database",
        fix: DATABASE_FIX,
        costs: "the rows that are new, in milliseconds; all of them at the start and once an hour",
        opens: NOTHING,
    };
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, host: &Host, _sources: &Sources) -> Result<Option<Usage>> {
        Ok(host.database.as_ref().map(|path| Usage {
            followed: Followed::new(Database::new(path)),
            tables: Tables::new(),
            registered: Registered::default(),
            groups: Groups::new(),
        }))
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        if let Some(stamp) = self.followed.news()? {
            self.read(&stamp)?;
            self.followed.was_read(stamp, now);
        }
        Ok(Section { groups: self.groups.clone(), unreadable_rows: self.registered.unreadable })
    }

    fn points(section: &Section, points: &mut Points) {
        for (name, group) in &section.groups {
            group.points(name, points);
        }
    }
}

impl Group {
    fn points(&self, name: &Arc<str>, points: &mut Points) {
        let whole = |sum: Sum<u64>| sum.0.map(|sum| sum as f64);
        points.put(&RUNS, [name], self.runs as f64);
        points.put(&RUN_ERRORS, [name], whole(self.run_errors));
        points.put(&TURNS, [name], whole(self.turns));
        points.put(&COST, [name], self.cost_usd.0);
        for (kind, tokens) in self.tokens.by_kind() {
            points.put(&TOKENS, [name, &kind.into()], whole(tokens));
        }
        points.put(&DURATION, [name], self.duration_seconds.0);
        points.put(&TIMED_RUNS, [name], self.timed_runs as f64);
        points.put(&TOOL_CALLS, [name], self.tool_calls as f64);
        points.put(&TOOL_ERRORS, [name], whole(self.tool_errors));
        points.put(&UNREADABLE, [name], self.unreadable as f64);
    }

    fn add_run(&mut self, run: Run) {
        self.runs += 1;
        self.run_errors.add(run.is_error.map(u64::from));
        self.turns.add(count(run.num_turns));
        self.cost_usd.add(amount(run.total_cost_usd));
        let seconds = amount(run.duration_ms).map(|ms| ms / 1000.0);
        self.duration_seconds.add(seconds);
        self.timed_runs += u64::from(seconds.is_some());
        if let Some(used) = run.usage {
            self.tokens.input.add(count(used.input_tokens));
            self.tokens.output.add(count(used.output_tokens));
            self.tokens.cache_read.add(count(used.cache_read_input_tokens));
            self.tokens.cache_creation.add(count(used.cache_creation_input_tokens));
        }
    }

    fn add_trace(&mut self, trace: Trace<'_>) {
        match trace.trace_type.as_deref() {
            Some("tool_use") => self.tool_calls += 1,
            Some("tool_result") => self.tool_errors.add(trace.is_error.map(u64::from)),
            _ => {}
        }
    }

    /// Takes the sums of another file where they are larger: how many of its rows were counted before is not known.
    fn raise(&mut self, other: &Group) {
        self.runs = self.runs.max(other.runs);
        self.run_errors.raise(other.run_errors);
        self.turns.raise(other.turns);
        self.cost_usd.raise(other.cost_usd);
        self.tokens.raise(&other.tokens);
        self.duration_seconds.raise(other.duration_seconds);
        self.timed_runs = self.timed_runs.max(other.timed_runs);
        self.tool_calls = self.tool_calls.max(other.tool_calls);
        self.tool_errors.raise(other.tool_errors);
        self.unreadable = self.unreadable.max(other.unreadable);
    }
}

impl Tokens {
    fn by_kind(&self) -> [(&'static str, Sum<u64>); 4] {
        [
            ("input", self.input),
            ("output", self.output),
            ("cache_read", self.cache_read),
            ("cache_creation", self.cache_creation),
        ]
    }

    fn raise(&mut self, other: &Tokens) {
        self.input.raise(other.input);
        self.output.raise(other.output);
        self.cache_read.raise(other.cache_read);
        self.cache_creation.raise(other.cache_creation);
    }
}

/// The columns that are read.
const TABLES: &[(&str, &[&str])] = &[
    ("messages", &["id", "chat_jid", "sender", "content"]),
    ("events", &["id", "event_type", "chat_jid", "payload"]),
    registered::TABLE,
];

impl Usage {
    fn read(&mut self, stamp: &Stamp) -> Result<()> {
        let reader = self.followed.open(stamp, TABLES)?;
        self.registered = registered::read(&reader)?;
        if !self.followed.is_known(stamp) || self.tables.fell(&reader)? {
            self.read_anew(&reader)?;
        } else {
            self.tables.read(&reader, &self.registered, &mut self.groups)?;
        }
        for folder in self.registered.folders.values() {
            self.groups.entry(folder.clone()).or_default();
        }
        Ok(())
    }

    fn read_anew(&mut self, reader: &Reader) -> Result<()> {
        self.followed.forget();
        self.tables.forget();
        let mut groups = Groups::new();
        self.tables.read(reader, &self.registered, &mut groups)?;
        for (name, group) in &groups {
            self.groups.entry(name.clone()).or_default().raise(group);
        }
        Ok(())
    }
}

/// The two tables that are read from their end.
struct Tables {
    results: Tail,
    traces: Tail,
}

impl Tables {
    fn new() -> Tables {
        let results = ["id", "chat_jid", "content"];
        let traces = ["chat_jid", "payload"];
        Tables {
            results: Tail::filtered("messages", &results, 2, "sender = 'result_meta'"),
            traces: Tail::filtered("events", &traces, 0, "event_type = 'agent_trace'"),
        }
    }

    fn fell(&self, reader: &Reader) -> Result<bool> {
        Ok(self.results.fell(reader)? || self.traces.fell(reader)?)
    }

    fn forget(&mut self) {
        self.results.forget();
        self.traces.forget();
    }

    /// Adds the rows after the marks.
    fn read(&mut self, reader: &Reader, registered: &Registered, groups: &mut Groups) -> Result<()> {
        self.results.read(reader, false, |row, _| add(groups, registered, row, 1, Group::add_run))?;
        self.traces.read(reader, false, |row, _| add(groups, registered, row, 0, Group::add_trace))
    }
}

/// Adds one row, whose JSON stands in the column after the jid.
fn add<'a, T: Deserialize<'a>>(
    groups: &mut Groups,
    registered: &Registered,
    row: &'a Row<'_>,
    jid: usize,
    apply: impl FnOnce(&mut Group, T),
) {
    let text = |column: usize| row.get_ref(column).ok().and_then(|value| value.as_str().ok());
    let jid_text = text(jid).unwrap_or("");
    if jid_text == GROUP_SYNC {
        return;
    }
    let name = registered.folders.get(jid_text).cloned().unwrap_or_else(|| UNREGISTERED.into());
    let group = groups.entry(name).or_default();
    match text(jid + 1).and_then(|json| serde_json::from_str(json).ok()) {
        Some(told) => apply(group, told),
        None => group.unreadable += 1,
    }
}

/// What an agent core tells at the end of a run. Anything may be missing.
#[derive(Deserialize)]
struct Run {
    is_error: Option<bool>,
    num_turns: Option<f64>,
    total_cost_usd: Option<f64>,
    duration_ms: Option<f64>,
    usage: Option<Used>,
}

#[derive(Deserialize)]
struct Used {
    input_tokens: Option<f64>,
    output_tokens: Option<f64>,
    cache_read_input_tokens: Option<f64>,
    cache_creation_input_tokens: Option<f64>,
}

/// One step of a run. The agent's words in it are skipped, never kept.
#[derive(Deserialize)]
struct Trace<'a> {
    #[serde(borrow)]
    trace_type: Option<Cow<'a, str>>,
    is_error: Option<bool>,
}

fn count(told: Option<f64>) -> Option<u64> {
    amount(told).map(|value| value as u64)
}

#[cfg(test)]
mod tests;
