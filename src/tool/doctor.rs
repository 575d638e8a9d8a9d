//! `agenthost-exporter doctor`: what the program can see of this host and what it cannot, what mends that, and what it costs
//! the host to be looked at; without a host, which ones there are, and a configuration for one.
//!
//! The looks are the program's own, one of each collector: what stands here is what it would say if it ran.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::ask::plain;
use super::status::part;
use crate::collect::{self, Subsystem};
use crate::fact::Span;
use crate::host::{Host, Profile, pynchy};
use crate::sample::Access;
use crate::snapshot::{Seen, Snapshot};
use crate::source::rights::{self, Us};

pub mod found;
pub mod written;

#[derive(Debug, Clone, Args)]
pub struct Question {
    /// As JSON.
    #[arg(long)]
    pub json: bool,
    /// Writes a configuration for the host that was found or named, here or where the program looks for one.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub write: Option<Option<PathBuf>>,
    /// Overwrites a configuration that is there.
    #[arg(long, requires = "write")]
    pub force: bool,
}

/// The exit code: the worst that was found. A command line or a configuration that is wrong, or no host, is 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    /// Everything can be read.
    Whole = 0,
    /// Something cannot.
    Gaps = 1,
}

/// What came of one look at everything.
#[derive(Debug, Serialize)]
pub struct Checkup {
    profile: &'static str,
    root: Option<String>,
    /// As whom it looked.
    us: String,
    /// What is not looked at here, why, and how to get it.
    notes: Vec<String>,
    collectors: Vec<Row>,
}

/// One collector.
#[derive(Debug, Serialize)]
struct Row {
    collector: &'static str,
    access: &'static str,
    /// What was found, in a line; null if nothing was seen.
    found: Option<String>,
    reads: &'static str,
    /// What cannot be read, with the reason.
    cannot: Vec<String>,
    /// What mends that.
    fix: Vec<String>,
    interval_seconds: Option<f64>,
    took_seconds: Option<f64>,
    costs: String,
}

/// Collectors that were not built: switched off, or not of this host.
const OFF: &str = "off";
const ABSENT: &str = "absent";

impl Checkup {
    /// Of a snapshot in which every collector has looked. `planned`: those that are not switched off.
    pub fn of(snapshot: &Snapshot, planned: &[&str], host: &Host, us: &Us) -> Checkup {
        let row = |subsystem: &'static Subsystem| {
            let seen = snapshot.collectors.iter().find(|seen| seen.name == subsystem.name);
            match seen {
                Some(seen) => row(subsystem, seen, host, us),
                None => without(subsystem, if planned.contains(&subsystem.name) { ABSENT } else { OFF }),
            }
        };
        Checkup {
            profile: host.profile.name(),
            root: host.root.as_ref().map(|root| root.display().to_string()),
            us: us.to_string(),
            notes: host.notes.clone(),
            collectors: collect::ALL.iter().map(row).collect(),
        }
    }

    pub fn code(&self) -> Code {
        let whole = |row: &Row| [Access::Full.name(), OFF, ABSENT].contains(&row.access);
        if self.collectors.iter().all(whole) { Code::Whole } else { Code::Gaps }
    }
}

fn without(subsystem: &Subsystem, access: &'static str) -> Row {
    Row {
        collector: subsystem.name,
        access,
        found: None,
        reads: subsystem.needs.reads,
        cannot: Vec::new(),
        fix: Vec::new(),
        interval_seconds: None,
        took_seconds: None,
        costs: "nothing".to_owned(),
    }
}

fn row(subsystem: &Subsystem, seen: &Seen, host: &Host, us: &Us) -> Row {
    let outcome = seen.last.as_ref().map(|reading| &reading.outcome);
    let access = outcome.map_or(Access::Unknown, Access::of);
    let cannot: Vec<String> = match outcome {
        Some(Ok(sample)) => sample.gaps.iter().map(|gap| plain(gap)).collect(),
        Some(Err(failure)) => vec![plain(&failure.error)],
        None => vec!["it has not looked".to_owned()],
    };
    let section = outcome.and_then(|outcome| outcome.as_ref().ok());
    let section = section.and_then(|sample| serde_json::from_str(sample.section.get()).ok());
    let now = seen.last.as_ref().map(|reading| reading.at.wall);
    Row {
        collector: subsystem.name,
        access: access.name(),
        found: section.as_ref().zip(now).map(|(section, now)| part::summary(subsystem.name, section, now)),
        reads: subsystem.needs.reads,
        fix: fixes(subsystem, access, &cannot, host, us),
        cannot,
        interval_seconds: Some(seen.interval.as_secs_f64()),
        took_seconds: seen.last.as_ref().map(|reading| reading.took.as_secs_f64()),
        costs: costs(subsystem, section.as_ref(), host),
    }
}

/// First what stands in the way of the very files; else what lets this collector look in general.
fn fixes(subsystem: &Subsystem, access: Access, cannot: &[String], host: &Host, us: &Us) -> Vec<String> {
    if access == Access::Full {
        return Vec::new();
    }
    let named = cannot.iter().flat_map(|text| rights::paths(text)).filter_map(|path| rights::obstacle(&path, us));
    let repositories = || {
        (subsystem.needs.opens)(host).into_iter().filter_map(|folder| {
            rights::obstacle_below(
                &folder,
                &[".git", ".git/HEAD", ".git/config", ".git/index", ".git/objects", ".git/refs"],
                us,
            )
        })
    };
    let mut fixes: Vec<String> = named.chain(repositories()).collect();
    fixes.iter_mut().for_each(|fix| *fix = plain(fix));
    fixes.sort();
    fixes.dedup();
    if access != Access::Unknown {
        fixes.push(subsystem.needs.fix.to_owned());
    }
    fixes
}

/// What hangs on how this host is set up is told with it.
fn costs(subsystem: &Subsystem, section: Option<&serde_json::Value>, host: &Host) -> String {
    let general = subsystem.needs.costs;
    let mode = section.and_then(|section| section["active_health"].as_str());
    match (mode, &host.gateway) {
        (Some(mode), _) => format!("{general}; `active_health` is `{}` here", plain(mode)),
        (None, Some(gateway)) if subsystem.asks_status && host.profile == Profile::Pynchy => {
            let why = pynchy::why_status_costs(gateway);
            let why = why.unwrap_or_else(|| {
                "it costs work of the host, a hundred git processes or more, and calls no model".to_owned()
            });
            format!("{general}: {why}")
        }
        _ => general.to_owned(),
    }
}

/// As a table for people.
pub fn render(checkup: &Checkup) -> String {
    let mut text = String::new();
    let root = checkup.root.as_ref().map(|root| format!(" in {}", plain(root))).unwrap_or_default();
    let _ = writeln!(text, "{}{root}, looked at as {}", checkup.profile, checkup.us);
    for note in &checkup.notes {
        let _ = writeln!(text, "note: {}", plain(note));
    }
    for row in &checkup.collectors {
        let _ = writeln!(text, "\n{:<8} {:<11} {}", row.access, row.collector, found(row));
        for (head, lines) in [("cannot", &row.cannot), ("fix", &row.fix)] {
            for line in lines {
                let _ = writeln!(text, "         {head:<7} {line}");
            }
        }
        if let (Some(every), Some(took)) = (row.interval_seconds, row.took_seconds) {
            let every = Span(std::time::Duration::from_secs_f64(every));
            let _ = writeln!(text, "         costs   each {every}, {:.0} ms: {}", took * 1000.0, row.costs);
        }
    }
    let count = |access: &str| checkup.collectors.iter().filter(|row| row.access == access).count();
    let all = Access::ALL.map(Access::name).into_iter().chain([ABSENT, OFF]);
    let counts = all.map(|access| (count(access), access)).filter(|(count, _)| *count > 0);
    let counts: Vec<String> = counts.map(|(count, access)| format!("{count} {access}")).collect();
    let _ = writeln!(text, "\n{}", counts.join(", "));
    text
}

fn found(row: &Row) -> String {
    match (&row.found, row.access) {
        (_, OFF) => "switched off".to_owned(),
        (_, ABSENT) => "this host has none, or none is configured".to_owned(),
        (Some(found), _) if !found.is_empty() => found.clone(),
        _ => format!("would read {}", row.reads),
    }
}

/// Where `--write` writes.
pub fn target<'a>(question: &'a Question, default: &'a Path) -> Option<&'a Path> {
    question.write.as_ref().map(|file| file.as_deref().unwrap_or(default))
}

#[cfg(test)]
mod tests;
