//! What a sidecar says in `/status`, read so that one of another version is understood as far as it goes: what is not there is
//! not known, and never zero.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::ask::plain;

/// One check on one subject.
pub struct Check<'a>(&'a Value);

/// In the order in which they deserve a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    Failed,
    Recovering,
    Failing,
    Unknown,
    /// Of a later version.
    Strange,
    Starting,
    Ok,
}

/// The checks of a `health` section, worst first; `None` if it has none to show.
pub fn checks(health: &Value) -> Option<Vec<Check<'_>>> {
    let mut checks: Vec<Check<'_>> = health["checks"].as_array()?.iter().map(Check).collect();
    checks.sort_by_key(Check::rank);
    Some(checks)
}

impl Check<'_> {
    fn rank(&self) -> (bool, State, u8) {
        let severity = ["critical", "warning", "info"].iter().position(|known| *known == self.severity());
        (!self.is_unready(), self.state(), severity.map_or(u8::MAX, |place| place as u8))
    }

    pub fn state(&self) -> State {
        match self.0["state"].as_str() {
            Some("failed") => State::Failed,
            Some("recovering") => State::Recovering,
            Some("failing") => State::Failing,
            Some("unknown") => State::Unknown,
            Some("starting") => State::Starting,
            Some("ok") => State::Ok,
            _ => State::Strange,
        }
    }

    /// It is why the host is not ready.
    pub fn is_unready(&self) -> bool {
        self.0["unready"] == true
    }

    /// Nobody lets us look.
    pub fn is_denied(&self) -> bool {
        self.0["unknown_cause"] == "denied"
    }

    pub fn severity(&self) -> &str {
        self.0["severity"].as_str().unwrap_or_default()
    }

    pub fn collector(&self) -> Option<&str> {
        self.0["collector"].as_str()
    }

    pub fn means(&self) -> Option<String> {
        self.0["means"].as_str().map(plain)
    }

    pub fn name(&self) -> String {
        text(&self.0["check"])
    }

    /// On what; empty if there is but one.
    pub fn subject(&self) -> String {
        text(&self.0["subject"])
    }

    /// Its name and subject, as it is configured.
    pub fn title(&self) -> String {
        let (check, subject) = (self.name(), self.subject());
        if subject.is_empty() { check } else { format!("{check} {subject}") }
    }

    /// What is the matter, in a few words.
    pub fn headline(&self) -> String {
        match (self.state(), self.0["headline"].as_str()) {
            // Nobody knows that it is so.
            (State::Unknown | State::Starting | State::Strange, _) | (_, None) => self.title(),
            (_, Some(headline)) => plain(headline),
        }
    }

    /// How it stands, and for how long.
    pub fn standing(&self, now: Timestamp) -> String {
        let long = since(&self.0["since"], now).map(|long| format!(" for {}", age(long))).unwrap_or_default();
        match self.state() {
            State::Failed => match self.0["unknown_cause"].as_str() {
                Some(cause) => format!("failed{long}: {}", plain(cause)),
                None => format!("failed{long}"),
            },
            State::Recovering => format!("recovering{long}"),
            State::Failing => format!("bad{long}, not yet failed"),
            State::Unknown => {
                format!("not known{long}: {}", self.0["unknown_cause"].as_str().map_or("no reason told".into(), plain))
            }
            State::Starting => "nothing known yet".to_owned(),
            State::Ok => format!("ok{long}"),
            State::Strange => format!("`{}`{long}", text(&self.0["state"])),
        }
    }

    /// By which rule, and what comes next.
    pub fn rule(&self, now: Timestamp) -> String {
        let mut parts = Vec::new();
        if let (Some(bad), Some(observed)) = (self.0["bad"].as_u64(), self.0["observed"].as_u64()) {
            parts.push(format!("bad {bad} of {observed}"));
        }
        parts.extend(self.0["rule"].as_str().map(plain));
        match self.state() {
            State::Failed | State::Recovering => parts.extend(self.recovers(now)),
            _ => parts.extend(until(&self.0["trips_at"], now).map(|long| format!("fails in {}", age(long)))),
        }
        parts.join(", ")
    }

    fn recovers(&self, now: Timestamp) -> Option<String> {
        let at = until(&self.0["recovers_at"], now).map(|long| format!("recovers in {}", age(long)));
        let after =
            || self.0["recovers_after_seconds"].as_f64().and_then(|long| Duration::try_from_secs_f64(long).ok());
        at.or_else(|| Some(format!("recovers after {} ok", age(after()?))))
    }
}

/// A string of theirs; empty if it is none.
pub fn text(value: &Value) -> String {
    value.as_str().map_or_else(String::new, plain)
}

/// How long ago a moment was; nothing if it is none, zero if it is to come.
pub fn since(moment: &Value, now: Timestamp) -> Option<Duration> {
    Some(Duration::try_from(now.duration_since(time(moment)?)).unwrap_or_default())
}

fn until(moment: &Value, now: Timestamp) -> Option<Duration> {
    Duration::try_from(time(moment)?.duration_since(now)).ok()
}

fn time(moment: &Value) -> Option<Timestamp> {
    moment.as_str()?.parse().ok()
}

/// The two largest units: `4m12s`, `3d4h`.
pub fn age(long: Duration) -> String {
    let seconds = long.as_secs();
    let units = [(seconds / 86400, "d"), (seconds / 3600 % 24, "h"), (seconds / 60 % 60, "m"), (seconds % 60, "s")];
    let first = units.iter().position(|(count, _)| *count > 0).unwrap_or(3);
    units
        .iter()
        .skip(first)
        .take(2)
        .filter(|(count, _)| *count > 0 || seconds == 0)
        .map(|(count, unit)| format!("{count}{unit}"))
        .collect()
}

/// The first three by name.
pub fn named(before: &str, names: &[String]) -> String {
    let more = names.len().saturating_sub(3);
    let first = names.iter().take(3).cloned().collect::<Vec<_>>().join(" ");
    match (names.is_empty(), more) {
        (true, _) => String::new(),
        (false, 0) => format!("{before}{first}"),
        (false, more) => format!("{before}{first} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ages_have_two_units() {
        for (seconds, text) in
            [(0, "0s"), (59, "59s"), (60, "1m"), (252, "4m12s"), (3600, "1h"), (273_600, "3d4h"), (86_410, "1d")]
        {
            assert_eq!(age(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn what_is_not_told_is_not_made_up() {
        let health = json!({"checks": [{"check": "a", "state": "paused"}, {}, {"check": "b", "subject": "x\ny", "state": "failed"}]});
        let (checks, now) = (checks(&health).unwrap(), "2026-11-21T20:00:00Z".parse().unwrap());
        let said: Vec<_> =
            checks.iter().map(|check| (check.headline(), check.standing(now), check.rule(now))).collect();
        let is = |headline: &str, standing: &str| (headline.to_owned(), standing.to_owned(), String::new());
        assert_eq!(said, [is("b x\u{fffd}y", "failed"), is("a", "`paused`"), is("", "``")]);
        assert!(super::checks(&json!({})).is_none());
    }

    #[test]
    fn the_worst_is_first() {
        let one = |check: &str, state: &str, severity: &str, unready: bool| json!({"check": check, "state": state, "severity": severity, "unready": unready});
        let health = json!({"checks": [
            one("ok", "ok", "critical", false),
            one("info", "failed", "info", false),
            one("warning", "failed", "warning", false),
            one("recovering", "recovering", "critical", true),
            one("down", "failed", "critical", true),
            one("unknown", "unknown", "critical", false),
        ]});
        let order: Vec<_> = checks(&health).unwrap().iter().map(Check::title).collect();
        assert_eq!(order, ["down", "recovering", "warning", "info", "unknown", "ok"]);
    }
}
