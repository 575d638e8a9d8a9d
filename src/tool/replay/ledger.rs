//! What a replay has found: each change as it comes, and the sum of all.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::fact::{Severity, Span};
use crate::health::{Health, Overall, State, Verdict};
use crate::sample::Now;

/// Changes, counted and timed.
#[derive(Default)]
pub struct Ledger {
    /// The record's first moment, and its latest.
    time: Option<(Now, Now)>,
    pub readings: u64,
    /// Lines that the record says it lost.
    pub lost: u64,
    pub unwatched: Duration,
    readiness: Readiness,
    subjects: BTreeMap<(Arc<str>, Arc<str>), Subject>,
}

/// How long the host was ready, since that was first known.
#[derive(Default)]
struct Readiness {
    /// Since when it has been so; `None` before it was known.
    now: Option<(bool, Duration)>,
    ready: Duration,
    unready: Duration,
    losses: u64,
}

/// One check on one subject.
struct Subject {
    title: String,
    severity: Severity,
    /// It has a verdict.
    listed: bool,
    /// A streak of bad observations stands that has not failed.
    streak: bool,
    /// A failure stands since then.
    failed: Option<Duration>,
    /// How long each failure took from the first bad observation.
    detected: Vec<Duration>,
    failed_for: Duration,
    blips: u64,
}

impl Ledger {
    /// The verdicts start anew.
    pub fn begin(&mut self, now: Now, health: &Health, out: &mut impl Write) -> io::Result<()> {
        if self.time.is_some() {
            event(out, now, "restart", "other collectors or another pace: every verdict starts anew")?;
        }
        for subject in self.subjects.values_mut() {
            subject.vanish(now, out)?;
        }
        self.note(now, health, out)
    }

    /// Compares with what was before.
    pub fn note(&mut self, now: Now, health: &Health, out: &mut impl Write) -> io::Result<()> {
        let verdicts = health.verdicts();
        self.time = Some((self.time.map_or(now, |(first, _)| first), now));
        for verdict in &verdicts {
            let key = (verdict.check.clone(), verdict.subject.clone());
            self.subjects.entry(key).or_insert_with(|| Subject::new(verdict)).note(now, verdict, out)?;
        }
        self.drop_unlisted(now, &verdicts, out)?;
        self.readiness.note(now, health, out)
    }

    fn drop_unlisted(&mut self, now: Now, verdicts: &[Verdict], out: &mut impl Write) -> io::Result<()> {
        let listed = self.subjects.values().filter(|subject| subject.listed).count();
        if listed == verdicts.len() {
            return Ok(());
        }
        let present: HashSet<(&str, &str)> =
            verdicts.iter().map(|verdict| (&*verdict.check, &*verdict.subject)).collect();
        for ((check, name), subject) in &mut self.subjects {
            if !present.contains(&(&**check, &**name)) {
                subject.vanish(now, out)?;
            }
        }
        Ok(())
    }

    /// The sum of all.
    pub fn finish(&mut self, out: &mut impl Write) -> io::Result<()> {
        let Some((first, last)) = self.time else { return Ok(()) };
        let Ledger { readings, lost, .. } = self;
        let (begun, ended, length) = (stamp(first.wall), stamp(last.wall), span(last.mono - first.mono));
        writeln!(out, "\nrecorded  {begun} to {ended}, {length}; {readings} readings, {lost} lines lost")?;
        writeln!(out, "unseen    {}, in which nobody watched", span(self.unwatched))?;
        self.readiness.finish(last, out)?;
        let (bad, fine): (Vec<_>, Vec<_>) = self.subjects.values().partition(|subject| subject.was_bad());
        if !bad.is_empty() {
            table(&bad, last, out)?;
        }
        let failures: usize = bad.iter().map(|subject| subject.detected.len()).sum();
        let blips: u64 = bad.iter().map(|subject| subject.blips).sum();
        let fine = fine.len();
        writeln!(out, "\nfailures caught: {failures}; blips suppressed: {blips}; checks and subjects never bad: {fine}")
    }
}

impl Readiness {
    fn note(&mut self, now: Now, health: &Health, out: &mut impl Write) -> io::Result<()> {
        let ready = health.ready();
        if health.overall() == Overall::Starting || self.now.is_some_and(|(before, _)| before == ready) {
            return Ok(());
        }
        self.add(now);
        self.losses += u64::from(!ready && self.now.is_some());
        self.now = Some((ready, now.mono));
        event(out, now, if ready { "ready" } else { "not ready" }, health.overall().name())
    }

    fn add(&mut self, now: Now) {
        match self.now {
            Some((true, since)) => self.ready += now.mono - since,
            Some((false, since)) => self.unready += now.mono - since,
            None => {}
        }
    }

    fn finish(&mut self, last: Now, out: &mut impl Write) -> io::Result<()> {
        self.add(last);
        let known = self.ready + self.unready;
        if known.is_zero() {
            return writeln!(out, "ready     never known");
        }
        let share = 100.0 * self.ready.as_secs_f64() / known.as_secs_f64();
        let (known, losses, unready) = (span(known), self.losses, span(self.unready));
        writeln!(out, "ready     {share:.3} % of {known}; losses: {losses}, for {unready} in all")
    }
}

impl Subject {
    fn new(verdict: &Verdict) -> Subject {
        Subject {
            title: verdict.title(),
            severity: verdict.severity,
            listed: true,
            streak: false,
            failed: None,
            detected: Vec::new(),
            failed_for: Duration::ZERO,
            blips: 0,
        }
    }

    fn was_bad(&self) -> bool {
        self.blips > 0 || self.streak || !self.detected.is_empty()
    }

    fn note(&mut self, now: Now, verdict: &Verdict, out: &mut impl Write) -> io::Result<()> {
        let down = matches!(verdict.state, State::Failed | State::Recovering);
        self.listed = true;
        match (self.failed, down) {
            (None, true) => {
                self.streak = false;
                self.fail(now, verdict, out)?;
            }
            (Some(_), false) => self.rise(now, verdict.state.name(), out)?,
            _ => {}
        }
        if !down {
            self.follow(verdict.bad_since.is_some());
        }
        Ok(())
    }

    fn fail(&mut self, now: Now, verdict: &Verdict, out: &mut impl Write) -> io::Result<()> {
        self.failed = Some(now.mono);
        self.detected.push(now.mono.saturating_sub(verdict.trouble_since.unwrap_or(now.mono)));
        let what = if verdict.recovers_after.is_some() { "bad" } else { "unanswered" };
        let Verdict { rule, since, .. } = verdict;
        event(out, now, "failed", &format!("{}: {what} since {}, {rule}", self.title, stamp(since.wall)))
    }

    fn rise(&mut self, now: Now, state: &str, out: &mut impl Write) -> io::Result<()> {
        let Some(since) = self.failed.take() else { return Ok(()) };
        self.failed_for += now.mono - since;
        event(out, now, state, &format!("{}: after {}", self.title, span(now.mono - since)))
    }

    /// A streak that ends without having failed was a blip.
    fn follow(&mut self, bad: bool) {
        self.blips += u64::from(self.streak && !bad);
        self.streak = bad;
    }

    fn vanish(&mut self, now: Now, out: &mut impl Write) -> io::Result<()> {
        self.listed = false;
        self.follow(false);
        self.rise(now, "gone", out)
    }

    fn row(&self, last: Now) -> [String; 6] {
        let standing = self.failed.map(|since| last.mono - since);
        let still = if standing.is_some() { ", still" } else { "" };
        [
            self.title.clone(),
            self.severity.name().into(),
            self.detected.len().to_string(),
            format!("{}{still}", span(self.failed_for + standing.unwrap_or_default())),
            self.delays(),
            self.blips.to_string(),
        ]
    }

    /// The shortest, the median, the longest.
    fn delays(&self) -> String {
        let mut sorted = self.detected.clone();
        sorted.sort();
        match sorted.as_slice() {
            [] => "-".into(),
            [one] => span(*one).to_string(),
            [first, .., last] => {
                format!("{} / {} / {}", span(*first), span(sorted[(sorted.len() - 1) / 2]), span(*last))
            }
        }
    }
}

/// A name can be of any length; what is longer stands out of its column.
const WIDEST: usize = 200;

const HEAD: [&str; 6] =
    ["check", "severity", "failures", "failed for", "time to detect (least, median, most)", "blips"];

fn table(subjects: &[&Subject], last: Now, out: &mut impl Write) -> io::Result<()> {
    let mut rows = vec![HEAD.map(String::from)];
    rows.extend(subjects.iter().map(|subject| subject.row(last)));
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default().min(WIDEST);
    let widths: [usize; 6] = std::array::from_fn(width);
    writeln!(out)?;
    for row in &rows {
        let line: Vec<String> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "{}", line.join("  ").trim_end())?;
    }
    Ok(())
}

fn event(out: &mut impl Write, now: Now, what: &str, detail: &str) -> io::Result<()> {
    writeln!(out, "{}  {what:<9}  {detail}", stamp(now.wall))
}

/// To the second, in UTC.
fn stamp(wall: Timestamp) -> String {
    wall.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn span(duration: Duration) -> Span {
    Span(Duration::from_secs(duration.as_secs()))
}
