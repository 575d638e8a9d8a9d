//! What was seen: points, readings, and the moment at which they were taken.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::fact::Fact;

/// One instant on both clocks. Everything below the loop is told the time; nothing there asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "(u64, i64, i32)", try_from = "(u64, i64, i32)")]
pub struct Now {
    /// Time since an arbitrary origin; never falls, and counts time asleep where the platform can. Decides verdicts.
    pub mono: Duration,
    /// For display and for ages of data that others have stamped.
    pub wall: Timestamp,
}

impl Now {
    /// Reads both clocks. For the loops, the river and main only.
    pub fn read() -> Now {
        Now { mono: monotonic(), wall: Timestamp::now() }
    }

    /// The same instant, later (both clocks).
    pub fn plus(self, span: Duration) -> Now {
        let wall = jiff::SignedDuration::try_from(span).ok().and_then(|span| self.wall.checked_add(span).ok());
        Now { mono: self.mono.saturating_add(span), wall: wall.unwrap_or(Timestamp::MAX) }
    }

    /// What the wall clock showed so long before.
    pub fn ago(self, span: Duration) -> Timestamp {
        self.wall.checked_sub(span).unwrap_or(Timestamp::MIN)
    }
}

/// As it is kept: nanoseconds of the monotonic clock; seconds and nanoseconds of the other.
impl From<Now> for (u64, i64, i32) {
    fn from(now: Now) -> (u64, i64, i32) {
        let mono = u64::try_from(now.mono.as_nanos()).unwrap_or(u64::MAX);
        (mono, now.wall.as_second(), now.wall.subsec_nanosecond())
    }
}

impl TryFrom<(u64, i64, i32)> for Now {
    type Error = jiff::Error;

    fn try_from((mono, seconds, nanos): (u64, i64, i32)) -> Result<Now, jiff::Error> {
        Ok(Now { mono: Duration::from_nanos(mono), wall: Timestamp::new(seconds, nanos)? })
    }
}

#[cfg(target_os = "linux")]
fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::try_from(time).expect("the time since boot is not negative")
}

#[cfg(not(target_os = "linux"))]
fn monotonic() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(time).expect("the monotonic time is not negative")
}

/// A moment as a host writes it into its database: RFC 3339 with an offset, or without one.
///
/// Without an offset it is read as UTC, as the hosts' own schedulers do in effect, and marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamped {
    pub at: Timestamp,
    /// It carried no offset: whoever wrote it may have meant local time.
    pub naive: bool,
}

/// A text that is no moment. It does not quote the text, which may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotStamped;

impl fmt::Display for NotStamped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a timestamp like `2026-11-21T19:25:53.282664+00:00`")
    }
}

impl std::error::Error for NotStamped {}

impl FromStr for Stamped {
    type Err = NotStamped;

    /// Takes `2026-11-21T19:25:53.282664+00:00` with or without fraction, with any offset or `Z`; and without offset,
    /// where a space may stand for the `T`. Nothing else: neither a date alone nor anything before or behind.
    fn from_str(text: &str) -> Result<Stamped, NotStamped> {
        let (head, rest) = text.split_at_checked(19).ok_or(NotStamped)?;
        let (nanos, offset) = fraction(rest)?;
        let at = civil(head.as_bytes(), nanos)?;
        let naive = offset.is_empty();
        if head.as_bytes()[10] == b' ' && !naive {
            return Err(NotStamped);
        }
        let offset = if naive { Offset::UTC } else { zone(offset)? };
        let at = offset.to_timestamp(at).map_err(|_| NotStamped)?;
        Ok(Stamped { at, naive })
    }
}

/// `2026-11-21T19:25:53`, or with a space; nineteen bytes.
fn civil(text: &[u8], nanos: i32) -> Result<DateTime, NotStamped> {
    let shaped = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')].iter().all(|&(at, mark)| text[at] == mark);
    if !shaped || !matches!(text[10], b'T' | b' ') {
        return Err(NotStamped);
    }
    let pair = |at: usize| digits(&text[at..at + 2]).and_then(|number| i8::try_from(number).ok()).ok_or(NotStamped);
    let year = digits(&text[..4]).and_then(|year| i16::try_from(year).ok()).ok_or(NotStamped)?;
    DateTime::new(year, pair(5)?, pair(8)?, pair(11)?, pair(14)?, pair(17)?, nanos).map_err(|_| NotStamped)
}

/// Splits `.282664+00:00` into nanoseconds and the rest; without a point the fraction is zero.
fn fraction(text: &str) -> Result<(i32, &str), NotStamped> {
    let Some(text) = text.strip_prefix('.') else { return Ok((0, text)) };
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (part, rest) = text.split_at(end);
    if part.len() > 9 {
        return Err(NotStamped);
    }
    let number = digits(part.as_bytes()).ok_or(NotStamped)?;
    let scale = 10_i32.pow(9 - part.len() as u32);
    Ok((number * scale, rest))
}

/// `Z`, `+02:00` or `-03:30`.
fn zone(text: &str) -> Result<Offset, NotStamped> {
    let (sign, rest) = match text.as_bytes() {
        b"Z" => return Ok(Offset::UTC),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return Err(NotStamped),
    };
    let [h1, h2, b':', m1, m2] = *rest else { return Err(NotStamped) };
    match (digits(&[h1, h2]), digits(&[m1, m2])) {
        (Some(hours @ 0..=23), Some(minutes @ 0..=59)) => {
            Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).map_err(|_| NotStamped)
        }
        _ => Err(NotStamped),
    }
}

/// At most nine digits, at least one, nothing else.
fn digits(text: &[u8]) -> Option<i32> {
    let plain = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    plain.then(|| text.iter().fold(0, |sum, digit| sum * 10 + i32::from(digit - b'0')))
}

/// A moment in a column that may be empty, or hold junk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    Absent,
    /// Something is there that is no moment: never to be taken for absent.
    Unreadable,
    At(Stamped),
}

impl Moment {
    pub fn read(text: Option<&str>) -> Moment {
        match text.map(str::parse) {
            None => Moment::Absent,
            Some(Err(NotStamped)) => Moment::Unreadable,
            Some(Ok(stamped)) => Moment::At(stamped),
        }
    }

    pub fn at(self) -> Option<Timestamp> {
        match self {
            Moment::At(stamped) => Some(stamped.at),
            Moment::Absent | Moment::Unreadable => None,
        }
    }

    /// Seconds since 1970, as facts carry them.
    pub fn epoch(self) -> Option<f64> {
        self.at().map(|at| at.as_duration().as_secs_f64())
    }

    pub fn is_naive(self) -> bool {
        matches!(self, Moment::At(Stamped { naive: true, .. }))
    }

    pub fn is_unreadable(self) -> bool {
        self == Moment::Unreadable
    }

    /// Whether it lies before `limit`; `None` if nobody can tell. What is absent lies nowhere.
    pub fn is_before(self, limit: Timestamp) -> Option<bool> {
        match self {
            Moment::Absent => Some(false),
            Moment::Unreadable => None,
            Moment::At(stamped) => Some(stamped.at < limit),
        }
    }
}

/// RFC 3339 in UTC; null if absent or unreadable, which the row must tell apart.
impl Serialize for Moment {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.at().serialize(serializer)
    }
}

/// One value of one fact. Labels are in the fact's order.
#[derive(Debug, Clone)]
pub struct Point {
    pub fact: &'static Fact,
    pub labels: Vec<Arc<str>>,
    /// `None`: listed, but not seen. It makes no series, and is unknown to checks.
    pub value: Option<f64>,
    /// No check judges by it, for this cause, which is not `Unanswered`: silence is a value that is missing.
    pub withheld: Option<Cause>,
    /// False past the collector's cap: checks see it, metrics do not.
    pub exported: bool,
}

impl Point {
    /// What a check calls this point: its label values joined by `/`.
    pub fn subject(&self) -> Arc<str> {
        match self.labels.as_slice() {
            [] => "".into(),
            [one] => one.clone(),
            many => many.join("/").into(),
        }
    }
}

/// The points of one reading, in the order in which they were put.
#[derive(Debug, Clone, Default)]
pub struct Points(pub Vec<Point>);

impl Points {
    /// Adds a value; `None` says that the subject is listed but could not be seen.
    pub fn put<const N: usize>(&mut self, fact: &'static Fact, labels: [&Arc<str>; N], value: impl Into<Option<f64>>) {
        debug_assert_eq!(fact.labels.len(), N, "{} has other labels", fact.prometheus);
        let labels = labels.into_iter().cloned().collect();
        self.0.push(Point { fact, labels, value: value.into(), withheld: None, exported: true });
    }

    /// Adds a value, or that there is none, by which no check may judge: see `Cause::Excused`.
    pub fn excuse<const N: usize>(
        &mut self,
        fact: &'static Fact,
        labels: [&Arc<str>; N],
        value: impl Into<Option<f64>>,
    ) {
        self.put(fact, labels, value);
        self.withhold(Cause::Excused);
    }

    /// Lists a subject of which we may not know: what was judged of it stands, and `/status` says that it is denied.
    pub fn deny<const N: usize>(&mut self, fact: &'static Fact, labels: [&Arc<str>; N]) {
        self.put(fact, labels, None);
        self.withhold(Cause::Denied);
    }

    fn withhold(&mut self, cause: Cause) {
        self.0.last_mut().expect("it was just put").withheld = Some(cause);
    }

    /// Keeps at most `cap` exported series of each fact and returns how many were left out.
    pub fn cap(&mut self, cap: usize) -> usize {
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        let mut dropped = 0;
        for point in self.0.iter_mut().filter(|point| point.value.is_some()) {
            let count = counts.entry(point.fact.prometheus).or_insert(0);
            *count += 1;
            point.exported = *count <= cap;
            dropped += usize::from(!point.exported);
        }
        dropped
    }
}

/// Why nothing was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// Asked and not answered in time, or the collector failed.
    Unanswered,
    /// 401, 403, EACCES, wrong owner: we may not look.
    Denied,
    /// Nobody can tell now, and that says nothing of what is asked about: the host is starting, or its status page alone is
    /// broken. Nothing fails by it, however long it lasts, and no verdict changes.
    Excused,
}

/// A collector that saw nothing: the cause for checks, the text for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub cause: Cause,
    pub error: String,
}

/// Marks an error as a refusal; `Failure::from` finds it anywhere in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied(pub String);

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Denied {}

/// Marks an error as excused, and says why; `Failure::from` finds it anywhere in the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excused(pub String);

impl fmt::Display for Excused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Excused {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        let mut cause = Cause::Unanswered;
        if is_denied(&error) {
            cause = Cause::Denied;
        } else if error.chain().any(|cause| cause.is::<Excused>()) {
            cause = Cause::Excused;
        }
        Failure { cause, error: format!("{error:#}") }
    }
}

/// Whether it is a refusal, wherever in the chain that stands.
pub fn is_denied(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Denied>() || is_permission(cause))
}

fn is_permission(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Parts of a section that are served one by one (`/status/<section>/<key>`), too long for the whole page.
pub type Details = Arc<BTreeMap<Arc<str>, Arc<RawValue>>>;

/// What a collector saw when it saw something.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Serialised once per reading; becomes `/status.<name>`.
    pub section: Arc<RawValue>,
    pub details: Details,
    pub points: Points,
    /// What of it we may not see, each with the reason.
    pub gaps: Vec<String>,
}

/// What a collector may look at, by what came of its latest run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Full,
    /// Something of it is denied.
    Partial,
    Denied,
    /// Nobody answered, so nobody said.
    Unknown,
}

impl Access {
    pub const ALL: [Access; 4] = [Access::Full, Access::Partial, Access::Denied, Access::Unknown];

    pub fn of(outcome: &Result<Sample, Failure>) -> Access {
        match outcome {
            Ok(sample) if sample.is_whole() => Access::Full,
            Ok(_) => Access::Partial,
            Err(Failure { cause: Cause::Denied, .. }) => Access::Denied,
            Err(Failure { cause: Cause::Unanswered | Cause::Excused, .. }) => Access::Unknown,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Access::Full => "full",
            Access::Partial => "partial",
            Access::Denied => "denied",
            Access::Unknown => "unknown",
        }
    }
}

impl Sample {
    fn is_whole(&self) -> bool {
        self.gaps.is_empty() && self.points.0.iter().all(|point| point.withheld != Some(Cause::Denied))
    }
}

/// What one collector saw at one moment, or why it saw nothing.
#[derive(Debug, Clone)]
pub struct Reading {
    pub collector: &'static str,
    /// When the run began.
    pub at: Now,
    pub took: Duration,
    pub outcome: Result<Sample, Failure>,
    /// What the loop says of itself (`agenthost_collector_*`): present whatever the outcome.
    pub own: Points,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_with_and_without_offset() {
        let cases = [
            ("2026-11-21T19:25:53.282664+00:00", "2026-11-21T19:25:53.282664Z", false),
            ("2026-11-21T19:25:53+00:00", "2026-11-21T19:25:53Z", false),
            ("2026-11-21T19:25:53Z", "2026-11-21T19:25:53Z", false),
            ("2026-11-21T19:25:53.5Z", "2026-11-21T19:25:53.5Z", false),
            ("2026-11-21T19:25:53.123456789-03:30", "2026-11-21T22:55:53.123456789Z", false),
            ("2026-01-01T00:30:00+02:00", "2025-12-31T22:30:00Z", false),
            ("2026-11-21T22:55:00", "2026-11-21T22:55:00Z", true),
            ("2026-11-21T22:55:00.000001", "2026-11-21T22:55:00.000001Z", true),
            ("2026-11-21 22:55:00", "2026-11-21T22:55:00Z", true),
            ("2028-02-29T00:00:00", "2028-02-29T00:00:00Z", true),
        ];
        for (text, at, naive) in cases {
            assert_eq!(text.parse(), Ok(Stamped { at: at.parse().unwrap(), naive }), "{text}");
        }
    }

    #[test]
    fn whatever_is_no_moment_is_refused() {
        let texts = "|0|1795276500|2026-11-21|2026-11-21T19:25|2026-11-21T19:25:53+|2026-11-21T19:25:53+00\
            |2026-11-21T19:25:53+0000|2026-11-21T19:25:53+24:00|2026-11-21T19:25:53+00:60|2026-11-21T19:25:53.+00:00\
            |2026-11-21T19:25:53.1234567890Z|2026-11-21T19:25:53,5Z|2026-11-21t19:25:53Z|2026-11-21T19:25:53z\
            |2026-11-21 19:25:53Z|2026-11-21 19:25:53+00:00|2026-11-21_19:25:53| 2026-11-21T19:25:53Z\
            |2026-11-21T19:25:53Z |2026-11-21T19:25:53ZZ|2026-11-21T19:25:53+00:00[UTC]|2026-13-01T00:00:00Z\
            |2026-02-29T00:00:00Z|2026-11-21T24:00:00Z|2026-11-21T19:60:00Z|2026-11-21T19:25:60Z|+026-11-21T19:25:53Z\
            |2026-1é-1T19:25:53Z|2026-11-21T19:25:5é|2026-11-21T19:25:53é|99999-01-01T00:00:00Z|9999-12-31T23:59:59Z";
        for text in texts.split('|') {
            assert_eq!(text.parse::<Stamped>(), Err(NotStamped), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_neither_absent_nor_past() {
        let limit: Timestamp = "2026-11-21T20:00:00Z".parse().unwrap();
        let before = Moment::read(Some("2026-11-21T19:59:59.5"));
        assert_eq!((before.is_before(limit), before.is_naive()), (Some(true), true));
        assert_eq!(before.epoch(), Some(1_795_291_199.5));
        assert_eq!(serde_json::to_string(&before).unwrap(), "\"2026-11-21T19:59:59.5Z\"");
        assert_eq!(Moment::read(Some("2026-11-21T20:00:00Z")).is_before(limit), Some(false));
        assert_eq!(Moment::read(None).is_before(limit), Some(false));
        for junk in ["", "soon"] {
            let moment = Moment::read(Some(junk));
            assert_eq!((moment.is_before(limit), moment.is_unreadable(), moment.epoch()), (None, true, None));
            assert_eq!(serde_json::to_string(&moment).unwrap(), "null");
        }
    }
}
