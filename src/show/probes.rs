//! `/livez`, `/readyz`, `/-/healthy` and `/-/ready`: a status code for machines, a line for each check for people.
//!
//! The lines are those of the Kubernetes API server: `[+]name ok`, `[-]name failed: reason`, and what came of it. Whoever
//! may not see reasons gets `reason withheld`. Lines and status come of one snapshot; only how long ago something began
//! is spelled at the request.

use std::fmt::Write;
use std::time::Duration;

use jiff::Timestamp;

use crate::fact::{Severity, Span};
use crate::health::{Overall, State, Verdict};
use crate::sample::{Cause, Now};
use crate::snapshot::{Current, Snapshot};

/// The line of the river's heart. It cannot be excluded: without it no verdict holds.
const HEART: &str = "loop";
/// The line that fails while not enough was seen to judge by.
const STARTED: &str = "started";

/// Lines that are no checks.
pub const GATES: [&str; 2] = [HEART, STARTED];

/// What a probe answers.
#[derive(Debug, PartialEq, Eq)]
pub struct Probe {
    pub ok: bool,
    pub text: String,
}

/// Whether this request may see why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reasons {
    Shown,
    Withheld,
}

/// What a request asks of a probe.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    /// All lines, though all is well.
    verbose: bool,
    excluded: Vec<&'a str>,
    /// This check alone.
    only: Option<&'a str>,
}

impl<'a> Asked<'a> {
    /// Of the query `verbose&exclude=a&exclude=b`. Names of checks need no decoding.
    pub fn of(query: Option<&'a str>) -> Asked<'a> {
        let mut asked = Asked::default();
        for pair in query.unwrap_or_default().split('&') {
            match pair.split_once('=').unwrap_or((pair, "")) {
                ("verbose", _) => asked.verbose = true,
                ("exclude", name) if !name.is_empty() => asked.excluded.push(name),
                _ => {}
            }
        }
        asked
    }

    /// Of the path `/readyz/<check>`.
    pub fn only(self, check: &'a str) -> Asked<'a> {
        Asked { only: Some(check), ..self }
    }

    /// All checks, and nothing left out: the answer is the verdict.
    fn is_plain(&self) -> bool {
        self.excluded.is_empty() && self.only.is_none()
    }

    fn wants(&self, name: &str) -> bool {
        self.only.is_none_or(|only| only == name)
    }
}

/// Whether this process turns, whatever the host does. `None`: it is asked for a check that there is not.
pub fn live(current: &Current, now: Now, asked: &Asked<'_>) -> Option<Probe> {
    asked.wants(HEART).then(|| answer("livez", vec![heart(current.alive(now))], asked, &[]))
}

/// Whether the host can do its work, by the verdict; no when the river's heart has stopped.
/// `None`: it is asked for a check that there is not.
pub fn ready(current: &Current, now: Now, asked: &Asked<'_>, reasons: Reasons) -> Option<Probe> {
    let snapshot = current.get();
    let mut names: Vec<&str> = snapshot.checks.iter().map(|judged| &*judged.check).collect();
    names.push(STARTED);
    if asked.only.is_some_and(|only| only != HEART && !names.contains(&only)) {
        return None;
    }
    let alive = current.alive(now);
    let mut lines = vec![heart(alive)];
    if alive && asked.only != Some(HEART) {
        lines.extend(started(&snapshot, asked));
        let page = Page { snapshot: &snapshot, now: now.wall, asked, reasons };
        lines.extend(snapshot.checks.iter().filter(|judged| asked.wants(&judged.check)).flat_map(|judged| {
            let excluded = asked.excluded.contains(&&*judged.check);
            if excluded { vec![Line::excluded(&judged.check)] } else { page.check(&judged.check, judged.severity) }
        }));
    }
    let probe = answer("readyz", lines, asked, &names);
    debug_assert!(!asked.is_plain() || probe.ok == (alive && snapshot.ready), "the lines are the verdict");
    Some(probe)
}

/// Whether this process serves.
pub fn serving() -> Probe {
    Probe { ok: true, text: "agenthost-exporter is ready\n".into() }
}

/// One line; those that do not decide are for people only.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    mark: Mark,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Passed,
    Failed,
    /// Worth a look, and no reason to be unready.
    Aside,
}

impl Line {
    fn passed(text: impl Into<String>) -> Line {
        Line { mark: Mark::Passed, text: text.into() }
    }

    fn failed(text: impl Into<String>) -> Line {
        Line { mark: Mark::Failed, text: text.into() }
    }

    fn excluded(name: &str) -> Line {
        Line::passed(format!("{name} excluded: ok"))
    }
}

fn heart(alive: bool) -> Line {
    match alive {
        true => Line::passed("loop ok"),
        false => Line::failed("loop failed: the sidecar's own loop has stopped, so no verdict holds"),
    }
}

fn started(snapshot: &Snapshot, asked: &Asked<'_>) -> Option<Line> {
    let starting = snapshot.overall == Overall::Starting;
    Some(match starting {
        _ if asked.excluded.contains(&STARTED) => Line::excluded(STARTED),
        true => Line::failed("started failed: not every collector with a critical check has seen something yet"),
        false => Line::passed("started ok"),
    })
}

/// The answer to one request, from one snapshot.
struct Page<'a> {
    snapshot: &'a Snapshot,
    now: Timestamp,
    asked: &'a Asked<'a>,
    reasons: Reasons,
}

impl Page<'_> {
    /// The lines of one check: one for each subject that decides, or that is worth a look.
    fn check(&self, name: &str, severity: Severity) -> Vec<Line> {
        let verdicts = self.snapshot.verdicts.iter().filter(|verdict| &*verdict.check == name);
        let lines: Vec<Line> = verdicts.filter_map(|verdict| self.line(verdict)).collect();
        let decides = severity == Severity::Critical || self.asked.only.is_some();
        if lines.is_empty() && decides { vec![Line::passed(format!("{name} ok"))] } else { lines }
    }

    fn line(&self, verdict: &Verdict) -> Option<Line> {
        let mark = self.mark(verdict);
        let reason = self.reason(verdict);
        let (title, severity) = (verdict.title(), verdict.severity.name());
        let text = match (mark, self.reasons, reason) {
            (Mark::Aside, Reasons::Withheld, _) | (Mark::Aside, _, None) => return None,
            (Mark::Aside, ..) if verdict.state == State::Starting => return None,
            (Mark::Aside, _, Some(reason)) => format!("{title} {} ({severity}): {reason}", verdict.state.name()),
            (Mark::Failed, Reasons::Withheld, _) => format!("{title} failed: reason withheld"),
            (Mark::Failed, _, reason) => format!("{title} failed: {}", reason.unwrap_or_default()),
            (Mark::Passed, Reasons::Shown, Some(reason)) => format!("{title} ok{}: {reason}", spared(verdict)),
            (Mark::Passed, ..) => format!("{title} ok"),
        };
        Some(Line { mark, text })
    }

    /// Asked for alone, a check answers for itself, whatever its severity.
    fn mark(&self, verdict: &Verdict) -> Mark {
        match verdict.severity {
            Severity::Critical if verdict.unready => Mark::Failed,
            Severity::Critical => Mark::Passed,
            _ if self.asked.only.is_none() => Mark::Aside,
            _ if is_down(verdict) => Mark::Failed,
            _ => Mark::Passed,
        }
    }

    /// What is to be said beyond ok. How long is spelled by the wall clock, as `since` is in `/status`.
    fn reason(&self, verdict: &Verdict) -> Option<String> {
        let Verdict { observed, bad, rule, .. } = verdict;
        let began = if verdict.state == State::Failing { verdict.bad_since } else { Some(verdict.since) };
        let long = self.long(began.unwrap_or(verdict.since).wall);
        Some(match (verdict.state, verdict.recovers_after) {
            (State::Ok, _) => return None,
            (State::Starting, _) => "nothing known yet".into(),
            (State::Failing, _) => format!("bad {long} ({bad} of {observed}), {rule}"),
            (State::Failed, Some(after)) => {
                format!("bad {long} ({bad} of {observed}), {rule}, recovers after {} ok", Span(after))
            }
            (State::Recovering, after) => {
                format!("recovering {long}, {rule}, recovers after {} ok", Span(after.unwrap_or_default()))
            }
            (State::Failed, None) => format!("{} {long}, {rule}", cause(verdict)),
            (State::Unknown, _) => format!("{} {long}{}", cause(verdict), self.trips(verdict)),
        })
    }

    fn long(&self, since: Timestamp) -> Span {
        Span(seconds(since, self.now))
    }

    fn trips(&self, verdict: &Verdict) -> String {
        verdict.trips_at.map(|at| format!(", fails in {}", Span(seconds(self.now, at)))).unwrap_or_default()
    }
}

/// Whole seconds from one moment to another; none if the clock was set back meanwhile.
fn seconds(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).map_or(Duration::ZERO, |span| Duration::from_secs(span.as_secs()))
}

fn is_down(verdict: &Verdict) -> bool {
    matches!(verdict.state, State::Failed | State::Recovering)
}

/// One that has failed and does not make the host unready.
fn spared(verdict: &Verdict) -> &'static str {
    if is_down(verdict) { " by ready_needs any" } else { "" }
}

fn cause(verdict: &Verdict) -> &'static str {
    match verdict.unknown_cause {
        Some(Cause::Denied) => "denied",
        Some(Cause::Excused) => "excused",
        Some(Cause::Unanswered) | None => "unanswered",
    }
}

/// All is well iff no line failed: the status is what the lines say. `known`: what may be excluded.
fn answer(probe: &str, lines: Vec<Line>, asked: &Asked<'_>, known: &[&str]) -> Probe {
    let ok = lines.iter().all(|line| line.mark != Mark::Failed);
    if ok && !asked.verbose {
        return Probe { ok, text: "ok\n".into() };
    }
    let mut text = String::new();
    for Line { mark, text: line } in lines.iter().filter(|line| asked.verbose || line.mark != Mark::Aside) {
        let mark = match mark {
            Mark::Passed => '+',
            Mark::Failed => '-',
            Mark::Aside => ' ',
        };
        let _ = writeln!(text, "[{mark}]{line}");
    }
    let strangers: Vec<_> =
        asked.excluded.iter().filter(|name| !known.contains(name)).map(|name| format!("\"{name}\"")).collect();
    if !strangers.is_empty() {
        let strangers = strangers.join(", ");
        let _ = writeln!(text, "warn: some health checks cannot be excluded: no matches for {strangers}");
    }
    let _ = writeln!(text, "{probe} check {}", if ok { "passed" } else { "failed" });
    Probe { ok, text }
}
