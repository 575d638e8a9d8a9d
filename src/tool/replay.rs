//! `agenthost-exporter replay`: what the checks would have said of a recorded time, under the policy at hand.
//!
//! The same engine in virtual time: the readings of the record at their moments, and a wake every second between them.
//! No clock is asked and nothing else is read, so the same record and configuration give the same bytes anywhere.
//! Only what the configuration says of checks counts: the collectors ran as the record says they did.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::collect::{self, Subsystem};
use crate::fact::Fact;
use crate::health::{Health, Settings, Watched};
use crate::pulse;
use crate::sample::{Failure, Now, Point, Points, Reading, Sample};
use crate::snapshot::catalogue;
use crate::source::record::{self, Header, Line, Looked, Micros, Unreadable, Value};

mod ledger;

use ledger::Ledger;

const SECOND: Duration = Duration::from_secs(1);

/// Without a line for so much longer than the slowest collector may take, lines are missing: nobody watched, then.
const SLACK: Duration = Duration::from_secs(60);

/// No more than this is played second by second without a line: every sidecar has a collector that is faster.
const LONGEST_GAP: Duration = Duration::from_secs(24 * 3600);

/// Plays the files in their order and prints what would have changed and when, then a summary. Answers with the number of
/// broken lines, each of which is named on `err` and skipped.
///
/// # Errors
/// A file cannot be read, is no record, or was recorded in a later format.
pub fn run(settings: &Settings, files: &[PathBuf], out: &mut impl Write, err: &mut impl Write) -> Result<u64> {
    let mut replay = Replay::new(settings);
    let played = files.iter().try_for_each(|file| replay.play(file, out, err));
    match played.and_then(|()| Ok(replay.ledger.finish(out).and_then(|()| out.flush())?)) {
        Err(error) if is_closed_pipe(&error) => Ok(replay.broken),
        printed => printed.map(|()| replay.broken),
    }
}

/// A closed pipe is the reader's business.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// The record so far, judged.
struct Replay<'a> {
    settings: &'a Settings,
    facts: Vec<&'static Fact>,
    session: Option<Session>,
    ledger: Ledger,
    broken: u64,
    /// What this version does not know: said once each.
    strangers: BTreeSet<String>,
    untold: Vec<String>,
}

/// Why a line is skipped, if it is.
type Taken = Result<(), String>;

impl<'a> Replay<'a> {
    fn new(settings: &'a Settings) -> Replay<'a> {
        Replay {
            settings,
            facts: catalogue().into_iter().map(|(_, fact)| fact).collect(),
            session: None,
            ledger: Ledger::default(),
            broken: 0,
            strangers: BTreeSet::new(),
            untold: Vec::new(),
        }
    }

    fn play(&mut self, file: &Path, out: &mut impl Write, err: &mut impl Write) -> Result<()> {
        let name = file.display();
        for line in record::read(file)? {
            let (number, line) = line.with_context(|| format!("read {name}"))?;
            let taken = match line {
                Err(Unreadable::Newer(format)) => {
                    let ours = record::FORMAT;
                    bail!("{name}:{number}: recorded by a newer version, in format {format}; this one reads {ours}")
                }
                line if number == 1 && !matches!(line, Ok(Line::Header(_))) => {
                    bail!("{name}: no record: it does not begin with a header")
                }
                Err(Unreadable::Broken(why)) => Err(why),
                Ok(line) => self.take(line, out)?,
            };
            if let Err(why) = taken {
                self.broken += 1;
                writeln!(err, "{name}:{number}: skipped: {why}")?;
            }
            for stranger in self.untold.drain(..) {
                writeln!(err, "{name}:{number}: left out: {stranger}")?;
            }
        }
        Ok(())
    }

    fn take(&mut self, line: Line, out: &mut impl Write) -> io::Result<Taken> {
        match line {
            Line::Header(header) => self.begin(header, out).map(Ok),
            Line::Reading(looked) => self.look(looked, out),
            Line::Pause(pause) => self.pause(pause, out),
            Line::Lost { count } => {
                self.ledger.lost = self.ledger.lost.saturating_add(count);
                Ok(Ok(()))
            }
        }
    }

    /// A sidecar began. Between two of them only the wall clock is common; nobody watched meanwhile.
    fn begin(&mut self, header: Header, out: &mut impl Write) -> io::Result<()> {
        let at = match &self.session {
            None => Now { mono: Duration::ZERO, wall: header.wall },
            Some(session) => {
                let away = Duration::try_from(header.wall.duration_since(session.now.wall)).unwrap_or_default();
                Now { mono: session.now.mono.saturating_add(away), wall: header.wall }
            }
        };
        match &mut self.session {
            Some(session) if session.header.collectors == header.collectors => {
                session.header = header;
                session.base = at.mono;
                session.skip_to(at, &mut self.ledger, out)
            }
            _ => {
                let watched = self.watched(&header);
                let health = Health::new(at, watched, pulse::CHECKS, self.settings);
                self.ledger.begin(at, &health, out)?;
                self.session = Some(Session { header, health, now: at, base: at.mono, next_wake: at.mono + SECOND });
                Ok(())
            }
        }
    }

    /// The collectors of a header that this version knows.
    fn watched(&mut self, header: &Header) -> Vec<Watched> {
        let mut watched = Vec::new();
        for paced in &header.collectors {
            match subsystem(&paced.name) {
                None => self.stranger(format!("the collector `{}`, which this version does not know", paced.name)),
                Some(known) => watched.push(Watched {
                    name: known.name,
                    interval: paced.interval.0,
                    timeout: paced.timeout.0,
                    checks: known.checks.to_vec(),
                }),
            }
        }
        watched
    }

    fn stranger(&mut self, what: String) {
        if self.strangers.insert(what.clone()) {
            self.untold.push(what);
        }
    }

    fn look(&mut self, looked: Looked, out: &mut impl Write) -> io::Result<Taken> {
        let Some(session) = &self.session else { return Ok(Err("before any header".into())) };
        if session.header.collectors.iter().all(|paced| paced.name != looked.collector) {
            return Ok(Err(format!("a reading of `{}`, which the header does not name", looked.collector)));
        }
        let Some(at) = session.time(looked.mono, looked.wall) else { return Ok(Err(BACK.into())) };
        let reading = match self.reading(looked, at) {
            Ok(Some(reading)) => reading,
            Ok(None) => return Ok(Ok(())),
            Err(why) => return Ok(Err(why)),
        };
        let Some(session) = &mut self.session else { return Ok(Ok(())) };
        session.pass(at, &mut self.ledger, out)?;
        session.health.observe(at, &reading);
        self.ledger.readings += 1;
        self.ledger.note(at, &session.health, out).map(Ok)
    }

    /// The reading that was recorded; `None` if this version has no such collector.
    fn reading(&mut self, mut looked: Looked, at: Now) -> Result<Option<Reading>, String> {
        let Some(subsystem) = subsystem(&looked.collector) else { return Ok(None) };
        let (mut points, mut own) = (Points::default(), Points::default());
        for (name, values) in std::mem::take(&mut looked.facts) {
            let Some(fact) = self.facts.iter().find(|fact| fact.prometheus == name) else {
                self.stranger(format!("the fact `{name}`, which this version does not know"));
                continue;
            };
            let of_loop = pulse::FACTS.iter().any(|own| own.is(fact));
            let place = if of_loop { &mut own } else { &mut points };
            for (number, value) in values.into_iter().enumerate() {
                place.0.push(Point { withheld: looked.withheld(&name, number), ..point(fact, value)? });
            }
        }
        let outcome = match looked.failed {
            None => Ok(Sample { section: nothing(), details: Arc::default(), points, gaps: Vec::new() }),
            Some(cause) => Err(Failure { cause, error: String::new() }),
        };
        Ok(Some(Reading { collector: subsystem.name, at, took: Duration::ZERO, outcome, own }))
    }

    fn pause(&mut self, pause: record::Pause, out: &mut impl Write) -> io::Result<Taken> {
        let Some(session) = &mut self.session else { return Ok(Err("before any header".into())) };
        let (from, until) = (session.time(pause.from, session.now.wall), session.time(pause.mono, pause.wall));
        match (from, until) {
            (Some(from), Some(until)) if from.mono <= until.mono => {
                session.pass(from, &mut self.ledger, out)?;
                session.skip_to(until, &mut self.ledger, out).map(Ok)
            }
            _ => Ok(Err(BACK.into())),
        }
    }
}

const BACK: &str = "it goes back in time";

fn subsystem(name: &str) -> Option<&'static Subsystem> {
    collect::ALL.iter().find(|subsystem| subsystem.name == name)
}

fn point(fact: &'static Fact, (labels, value): Value) -> Result<Point, String> {
    match labels.len() == fact.labels.len() {
        true => Ok(Point { fact, labels, value, withheld: None, exported: true }),
        false => Err(format!("`{}` with {} labels, not {}", fact.prometheus, labels.len(), fact.labels.len())),
    }
}

fn nothing() -> Arc<RawValue> {
    RawValue::from_string("null".to_owned()).expect("null is JSON").into()
}

/// Virtual time since a header, and the verdicts in it.
struct Session {
    header: Header,
    health: Health,
    now: Now,
    /// Virtual time at the header.
    base: Duration,
    next_wake: Duration,
}

impl Session {
    /// A recorded moment in virtual time; `None` if it lies before the latest.
    fn time(&self, mono: Micros, wall: Timestamp) -> Option<Now> {
        let since = mono.0.checked_sub(self.header.mono.0)?;
        let mono = self.base.checked_add(Duration::from_micros(since))?;
        (mono >= self.now.mono).then_some(Now { mono, wall })
    }

    /// Lets time pass as the river does.
    fn pass(&mut self, until: Now, ledger: &mut Ledger, out: &mut impl Write) -> io::Result<()> {
        if until.mono - self.now.mono > self.patience() {
            return self.skip_to(until, ledger, out);
        }
        while self.next_wake < until.mono {
            self.now = self.now.plus(self.next_wake - self.now.mono);
            self.next_wake += SECOND;
            self.wake(ledger, out)?;
        }
        self.now = until;
        Ok(())
    }

    /// Nobody watches until then.
    fn skip_to(&mut self, until: Now, ledger: &mut Ledger, out: &mut impl Write) -> io::Result<()> {
        ledger.unwatched += until.mono - self.now.mono;
        self.now = until;
        self.next_wake = until.mono + SECOND;
        self.wake(ledger, out)
    }

    fn wake(&mut self, ledger: &mut Ledger, out: &mut impl Write) -> io::Result<()> {
        let before = self.health.revision();
        self.health.wake(self.now);
        match self.health.revision() == before {
            true => Ok(()),
            false => ledger.note(self.now, &self.health, out),
        }
    }

    fn patience(&self) -> Duration {
        let slowest = self.header.collectors.iter().map(|paced| paced.interval.0.saturating_add(paced.timeout.0)).max();
        slowest.unwrap_or_default().saturating_add(SLACK).min(LONGEST_GAP)
    }
}
