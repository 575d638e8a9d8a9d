//! `agenthost-exporter nagios`: one line and 0, 1, 2 or 3 for Nagios, Icinga and their kin.
//!
//! OK is healthy, WARNING degraded, CRITICAL not ready. UNKNOWN is all in which nobody knows: a sidecar that is starting, that
//! does not answer, whose own loop has stopped, that wants to be shown something, or that is none.

use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::ask::{self, Asker, Door, Own, plain};
use super::told::{self, Check, State};

const PATIENCE: Duration = Duration::from_secs(10);
/// So many are named; the line must fit a pager.
const NAMED: usize = 4;

#[derive(Debug, Clone, Args)]
pub struct Question {
    #[command(flatten)]
    door: Door,
}

/// The exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Ok = 0,
    Warning = 1,
    Critical = 2,
    Unknown = 3,
}

impl Code {
    fn name(self) -> &'static str {
        match self {
            Code::Ok => "OK",
            Code::Warning => "WARNING",
            Code::Critical => "CRITICAL",
            Code::Unknown => "UNKNOWN",
        }
    }
}

/// Asks, and says what came of it in one line.
pub fn run(question: &Question, own: impl FnOnce() -> Own) -> (Code, String) {
    let begun = Instant::now();
    let said = question.door.open(own, PATIENCE).and_then(|asker| ask::wait(look(&asker))?);
    match said {
        Ok(health) => spell(&health, Timestamp::now(), begun.elapsed()),
        Err(error) => unknown(&format!("{error:#}")),
    }
}

/// Nobody knows, and why.
pub fn unknown(why: &str) -> (Code, String) {
    (Code::Unknown, line(Code::Unknown, why, &[]))
}

/// `/status` stays as it was when the loop stops that would change it: so that is asked first.
async fn look(asker: &Asker) -> Result<Value> {
    asker.alive().await?;
    asker.status("/status?section=health").await
}

fn spell(health: &Value, now: Timestamp, took: Duration) -> (Code, String) {
    let (code, verdict) = match health["overall"].as_str() {
        Some("healthy") => (Code::Ok, "healthy".to_owned()),
        Some("degraded") => (Code::Warning, "degraded".to_owned()),
        Some("unhealthy") => (Code::Critical, "not ready".to_owned()),
        Some("starting") => (Code::Unknown, "starting: not enough was seen to judge by".to_owned()),
        Some(other) => (Code::Unknown, format!("a verdict that this version does not know: {}", plain(other))),
        None => (Code::Unknown, "it says no verdict".to_owned()),
    };
    let checks = told::checks(health);
    let named = checks.as_deref().filter(|_| code != Code::Ok).map(|checks| name(checks, now));
    let named = named.filter(|named| !named.is_empty());
    let text = named.map_or(verdict.clone(), |named| format!("{verdict}: {named}"));
    let mut figures = checks.as_deref().map(count).unwrap_or_default();
    figures.push(format!("'time'={:.3}s;;;0", took.as_secs_f64()));
    (code, line(code, &text, &figures))
}

/// Those that make the verdict what it is.
fn name(checks: &[Check<'_>], now: Timestamp) -> String {
    let all: Vec<String> = checks
        .iter()
        .filter(|check| weighs(check))
        .map(|check| format!("{}, {}", check.headline(), check.standing(now)))
        .collect();
    let more = all.len().saturating_sub(NAMED);
    let mut named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ");
    if more > 0 {
        named += &format!("; and {more} more");
    }
    named
}

fn weighs(check: &Check<'_>) -> bool {
    match (check.severity(), check.state()) {
        ("info", _) => false,
        (_, State::Failed | State::Recovering) => true,
        ("critical", State::Failing | State::Unknown) => true,
        (_, State::Unknown) => check.is_denied(),
        _ => false,
    }
}

fn count(checks: &[Check<'_>]) -> Vec<String> {
    let kinds = [
        ("failed", State::Failed),
        ("recovering", State::Recovering),
        ("failing", State::Failing),
        ("unknown", State::Unknown),
    ];
    let of = |state| checks.iter().filter(|check| check.state() == state).count();
    kinds.iter().map(|&(kind, state)| format!("'{kind}'={};;;0;{}", of(state), checks.len())).collect()
}

/// A bar would begin the figures, and a line end the text that only few show.
fn line(code: Code, text: &str, figures: &[String]) -> String {
    let text = plain(text).replace('|', "/");
    let figures = if figures.is_empty() { String::new() } else { format!(" | {}", figures.join(" ")) };
    format!("{} - {text}{figures}", code.name())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spelled(health: Value) -> (Code, String) {
        spell(&health, "2026-11-21T20:05:00Z".parse().unwrap(), Duration::from_millis(4))
    }

    fn check(headline: &str, state: &str, severity: &str) -> Value {
        json!({"check": "c", "subject": "s", "headline": headline, "state": state, "severity": severity,
            "since": "2026-11-21T20:00:48Z", "unready": state == "failed" && severity == "critical"})
    }

    #[test]
    fn each_verdict_has_its_code_and_no_other_is_guessed() {
        for (overall, code, text) in [
            (json!("healthy"), Code::Ok, "OK - healthy"),
            (json!("degraded"), Code::Warning, "WARNING - degraded"),
            (json!("unhealthy"), Code::Critical, "CRITICAL - not ready"),
            (json!("starting"), Code::Unknown, "UNKNOWN - starting"),
            (json!("dozing|\n"), Code::Unknown, "UNKNOWN - a verdict that this version does not know: dozing/\u{fffd}"),
            (json!(null), Code::Unknown, "UNKNOWN - it says no verdict"),
        ] {
            let (found, line) = spelled(json!({"overall": overall}));
            assert_eq!(found, code);
            assert!(line.starts_with(text), "{line}");
            assert!(line.ends_with(" | 'time'=0.004s;;;0"), "no count of checks that are not told: {line}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_in_one_line_whatever_it_is_called() {
        let health = json!({"overall": "unhealthy", "checks": [
            check("conflict | in\nworktree\u{1b}[31m", "failed", "warning"),
            check("not yet", "failing", "warning"),
            check("nearly", "failing", "critical"),
            check("slack disconnected", "failed", "critical"),
            check("drift", "failed", "info"),
            check("x", "unknown", "warning"),
            check("fine", "ok", "critical"),
        ]});
        let (code, line) = spelled(health);
        assert_eq!(code, Code::Critical);
        assert_eq!(
            line,
            "CRITICAL - not ready: slack disconnected, failed for 4m12s; conflict / in\u{fffd}worktree\u{fffd}[31m, failed for \
             4m12s; nearly, bad for 4m12s, not yet failed | 'failed'=3;;;0;7 'recovering'=0;;;0;7 'failing'=2;;;0;7 \
             'unknown'=1;;;0;7 'time'=0.004s;;;0"
        );
    }

    #[test]
    fn many_are_counted() {
        let many: Vec<Value> = (0..9).map(|number| check(&format!("n{number}"), "failed", "warning")).collect();
        let (_, line) = spelled(json!({"overall": "degraded", "checks": many}));
        assert!(line.contains("n3, failed for 4m12s; and 5 more |"), "{line}");
    }
}
