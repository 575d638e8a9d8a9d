//! The vocabulary: what can be measured (`Fact`), and when a measurement is bad (`Check`, `Policy`).
//!
//! A fact is declared once, as a `static` beside the code that measures it. Its exported Prometheus name is spelled out
//! in full, so that grepping an alert's metric lands on the declaration.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One named, typed, documented quantity.
#[derive(Debug)]
pub struct Fact {
    /// OpenTelemetry name, without unit and without `total`: the exporter appends both.
    pub name: &'static str,
    /// The exported Prometheus name as a literal; a test holds it against what the exporter renders.
    pub prometheus: &'static str,
    /// One sentence: what it is and where the number comes from.
    pub help: &'static str,
    pub kind: Kind,
    /// UCUM unit (`s`, `By`, `1`, `{message}`), or empty for states, infos and timestamps.
    pub unit: &'static str,
    /// Label names, in the order in which values are put. Joined by `/` the values are the subject.
    pub labels: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Gauge,
    /// Never falls while the sidecar runs.
    Counter,
}

impl Fact {
    pub const fn gauge(name: &'static str, prometheus: &'static str, help: &'static str) -> Fact {
        Fact { name, prometheus, help, kind: Kind::Gauge, unit: "", labels: &[] }
    }

    pub const fn counter(name: &'static str, prometheus: &'static str, help: &'static str) -> Fact {
        Fact { kind: Kind::Counter, ..Fact::gauge(name, prometheus, help) }
    }

    pub const fn unit(self, unit: &'static str) -> Fact {
        Fact { unit, ..self }
    }

    pub const fn of(self, labels: &'static [&'static str]) -> Fact {
        Fact { labels, ..self }
    }

    /// Whether it is a moment (Unix time). It stands still while time goes on: how old it is, it does not say.
    pub fn is_moment(&self) -> bool {
        self.prometheus.ends_with("_timestamp_seconds") || self.prometheus.ends_with("_start_time_seconds")
    }

    /// Whether a fixed bound can say what is bad of it now.
    pub fn can_be_judged(&self) -> bool {
        self.kind == Kind::Gauge && !self.is_moment()
    }

    /// Facts are statics: two are the same iff they stand at the same place.
    pub fn is(&self, other: &Fact) -> bool {
        std::ptr::eq(self, other)
    }
}

/// One fact held against one bound, with a policy. Data, not code: whatever health needs is a fact.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    pub name: &'static str,
    pub fact: &'static Fact,
    pub bad: Bound,
    pub severity: Severity,
    pub fail_for: Duration,
    /// The failure in a few words, with `{}` for the subject: `{} disconnected`. It ends so that "for 4 min" can follow.
    pub headline: &'static str,
    /// Written for the person who is paged: what it means when this check has failed.
    pub means: &'static str,
}

/// Which values are bad.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    Above(f64),
    Below(f64),
    Equals(f64),
}

impl Bound {
    pub fn is_bad(self, value: f64) -> bool {
        match self {
            Bound::Above(limit) => value > limit,
            Bound::Below(limit) => value < limit,
            Bound::Equals(limit) => value == limit,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Bound::Above(limit) => write!(f, "above {limit}"),
            Bound::Below(limit) => write!(f, "below {limit}"),
            Bound::Equals(limit) => write!(f, "equal to {limit}"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Shown only.
    Info,
    /// Degrades.
    Warning,
    /// Decides readiness.
    Critical,
}

impl Severity {
    pub fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::Critical => "critical",
        }
    }
}

/// What continuous silence means for a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownAs {
    /// The check fails.
    Fail,
    /// The last verdict stands.
    Hold,
}

/// How many subjects of a check must fail before readiness is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadyNeeds {
    /// One failed subject is enough.
    All,
    /// Only when none is left that is ok.
    Any,
}

/// When a check's observations become a verdict. Every field can be set in `[checks.<name>]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub severity: Severity,
    /// Latest bad minus first bad of a streak that fails; at least two bad ones.
    pub fail_for: Duration,
    /// This many bad observations in a row fail, whatever their span.
    pub fail_count: Option<u32>,
    /// Share of bad among known observations that fails; `None` is off.
    pub fail_ratio: Option<f64>,
    pub ratio_window: Duration,
    /// Known observations below which `fail_ratio` says nothing.
    pub ratio_min: u32,
    pub recover_for: Duration,
    pub unknown_for: Duration,
    pub unknown_as: UnknownAs,
    pub ready_needs: ReadyNeeds,
}

impl Policy {
    pub const RECOVER_FOR: Duration = Duration::from_secs(60);
    pub const UNKNOWN_FOR: Duration = Duration::from_secs(5 * 60);
    pub const RATIO_WINDOW: Duration = Duration::from_secs(10 * 60);

    /// The defaults of a check of this severity.
    pub fn new(severity: Severity, fail_for: Duration) -> Policy {
        Policy {
            severity,
            fail_for,
            fail_count: None,
            fail_ratio: Some(0.5),
            ratio_window: Policy::RATIO_WINDOW,
            ratio_min: 10,
            recover_for: Policy::RECOVER_FOR,
            unknown_for: Policy::UNKNOWN_FOR,
            unknown_as: Policy::unknown_as(severity),
            ready_needs: ReadyNeeds::All,
        }
    }

    /// Silence about something critical is a failure; about anything else it proves nothing.
    pub fn unknown_as(severity: Severity) -> UnknownAs {
        match severity {
            Severity::Critical => UnknownAs::Fail,
            _ => UnknownAs::Hold,
        }
    }
}

/// As good as for ever, and still so short that three of it and more can be added up.
const LONGEST: Duration = Duration::from_secs(10_000 * 366 * 86_400);

/// A duration as people write it in the configuration: `2m`, `1h30m`, `250ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        let parts = [(millis / 3_600_000, "h"), (millis / 60_000 % 60, "m"), (millis / 1000 % 60, "s")];
        for (count, unit) in parts.into_iter().chain([(millis % 1000, "ms")]) {
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Span {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let bad = || format!("`{text}` is not a duration: write it like `15s`, `2m`, `1h30m` or `250ms`");
        let parsed: jiff::SignedDuration = text.parse().map_err(|_| bad())?;
        let span = Duration::try_from(parsed).map_err(|_| bad())?;
        if span > LONGEST { Err(format!("`{text}` is longer than ten thousand years")) } else { Ok(Span(span)) }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Span, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_does_not_take_in_its_limit_unless_it_is_equality() {
        for (bound, bad) in
            [(Bound::Above(1.0), [2.0, 1.5]), (Bound::Below(1.0), [0.0, 0.5]), (Bound::Equals(1.0), [1.0, 1.0])]
        {
            assert!(bad.into_iter().all(|value| bound.is_bad(value)), "{bound}");
            assert_eq!(bound.is_bad(1.0), bound == Bound::Equals(1.0), "{bound}");
            assert!(!bound.is_bad(f64::NAN), "{bound}");
        }
        assert_eq!(Bound::Equals(-0.5).to_string(), "equal to -0.5");
        assert!(!Bound::Equals(1.0).is_bad(1.5));
    }

    #[test]
    fn what_only_rises_and_what_is_a_moment_cannot_be_judged() {
        assert!(Fact::gauge("a", "a_seconds", "").can_be_judged());
        for name in ["a_last_run_timestamp_seconds", "process_start_time_seconds"] {
            assert!(!Fact::gauge("a", name, "").can_be_judged(), "{name}");
        }
        assert!(!Fact::counter("a", "a_total", "").can_be_judged());
    }

    #[test]
    fn spans_read_as_people_write_them_and_print_the_same() {
        for (text, seconds) in [("15s", 15.0), ("2m", 120.0), ("1h30m", 5400.0), ("250ms", 0.25), ("0s", 0.0)] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0.as_secs_f64(), seconds);
            assert_eq!(span.to_string(), text);
        }
        for text in ["", "15", "-2m", "soon", "2 parsecs", "2562047788015215h"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }
}
