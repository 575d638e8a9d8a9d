//! Policy over windows: which checks there are on which subjects, what each says, and what they say of the host.
//!
//! Nothing here asks a clock: `observe` takes a reading, `wake` the passing of time. Work for a reading grows with its
//! points and not with the past; work for a wake is one short look at each window.
//!
//! What a restart keeps is `Kept`: the windows, the clock they count by, and which collectors have said something.

mod board;
mod custom;
mod history;
mod kept;
mod settings;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

use crate::fact::{Check, Severity};
use crate::sample::{Cause, Now, Reading};
use crate::window::{Clock, Pace, Rules, Seen};

use board::{Board, Subject};
use kept::{About, KeptCollector};

pub use crate::window::State;
pub use custom::CustomCheck;
pub use history::{Change, History, IN_ALL, PAUSES, PER_SUBJECT, Pause, REACH, Why};
pub use kept::{Away, Kept, Texts};
pub use settings::{CheckConfig, FailCount, FailRatio, RatioMin, Settings, SubjectConfig};

/// One collector that runs, as health knows it.
#[derive(Debug, Clone)]
pub struct Watched {
    pub name: &'static str,
    pub interval: Duration,
    pub timeout: Duration,
    pub checks: Vec<Check>,
}

/// What all verdicts together say of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Overall {
    /// Not enough was seen yet to call it ready. Afterwards only for a collector that a new configuration brings.
    Starting,
    Healthy,
    /// Something deserves a look, but the host does its work.
    Degraded,
    /// Something critical has failed.
    Unhealthy,
}

impl Overall {
    pub const ALL: [Overall; 4] = [Overall::Starting, Overall::Healthy, Overall::Degraded, Overall::Unhealthy];

    pub fn name(self) -> &'static str {
        match self {
            Overall::Starting => "starting",
            Overall::Healthy => "healthy",
            Overall::Degraded => "degraded",
            Overall::Unhealthy => "unhealthy",
        }
    }
}

/// A failure in a few words: a check's headline, with `{}` for the subject.
#[derive(Debug, Clone, PartialEq)]
pub struct Headline {
    template: Arc<str>,
    subject: Arc<str>,
}

impl fmt::Display for Headline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.template.split_once("{}") {
            Some((before, after)) => write!(f, "{before}{}{after}", self.subject),
            None => f.write_str(&self.template),
        }
    }
}

impl Serialize for Headline {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What one check says of one subject, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub check: Arc<str>,
    pub subject: Arc<str>,
    /// Whose readings it is judged by.
    pub collector: &'static str,
    pub severity: Severity,
    pub state: State,
    /// The first observation of what made the state (shown by the wall clock).
    #[serde(serialize_with = "wall")]
    pub since: Now,
    pub headline: Headline,
    pub means: Arc<str>,
    /// Observations in the window, of any kind.
    pub observed: u32,
    /// Bad ones among them.
    pub bad: u32,
    /// The rule that failed it, or would.
    pub rule: String,
    /// When it will fail if it goes on like this.
    pub trips_at: Option<Timestamp>,
    /// When it will be ok if it goes on like this.
    pub recovers_at: Option<Timestamp>,
    /// Why nothing is known, if nothing is.
    pub unknown_cause: Option<Cause>,
    /// What the latest look found, unanswered if that is too long ago; `None` before the first.
    #[serde(skip)]
    pub latest: Option<Seen>,
    /// Where the streak of bad observations or the failure that stands began.
    #[serde(skip)]
    pub bad_since: Option<Now>,
    /// Where what has failed it began, on the monotonic clock; flapping begins before its last streak.
    #[serde(skip)]
    pub trouble_since: Option<Duration>,
    /// How long it must be ok to recover; `None` if it has not failed, or the next answer is enough.
    #[serde(rename = "recovers_after_seconds", serialize_with = "seconds")]
    pub recovers_after: Option<Duration>,
    /// It is one of those by which the host is not ready.
    pub unready: bool,
}

/// A check that is judged, with its own policy; a subject may have another.
#[derive(Debug, Clone, PartialEq)]
pub struct Judged {
    pub check: Arc<str>,
    pub severity: Severity,
    pub fail_for: Duration,
}

impl Verdict {
    /// Check and subject in one line, whatever the subject is called.
    pub fn title(&self) -> String {
        let escape = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        let subject: String = self.subject.chars().map(escape).collect();
        if subject.is_empty() { self.check.to_string() } else { format!("{} {subject}", self.check) }
    }
}

fn wall<S: Serializer>(now: &Now, serializer: S) -> Result<S::Ok, S::Error> {
    now.wall.serialize(serializer)
}

fn seconds<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| duration.as_secs_f64()).serialize(serializer)
}

/// All windows, and the verdict over them.
#[derive(Debug)]
pub struct Health {
    clock: Clock,
    feeds: Vec<Feed>,
    /// In the order of the collectors and their checks; the checks of the loop last.
    boards: Vec<Board>,
    overall: Overall,
    since: Now,
    revision: u64,
    /// How often the state of any window has changed.
    transitions: u64,
    history: Arc<History>,
}

/// One collector: whose readings come in here.
#[derive(Debug)]
struct Feed {
    /// Its place among the feeds.
    index: usize,
    name: &'static str,
    pace: Pace,
    /// Its latest reading was a refusal.
    denied: bool,
    /// Nothing more is to be waited for before the host can be called ready.
    settled: bool,
    /// Watched time at which waiting began.
    begun: Duration,
    /// Waiting is over so long after that.
    settle_after: Duration,
}

impl Health {
    /// `own_checks` are on facts of the loop (`Reading::own`), judged on every reading of every collector.
    pub fn new(now: Now, watched: Vec<Watched>, own_checks: &'static [Check], settings: &Settings) -> Health {
        let (mut boards, feeds) = set_up(&watched, own_checks, settings);
        let clock = Clock::new(now, longest_span(&boards, &feeds));
        for board in &mut boards {
            board.begin(&clock, &feeds);
        }
        let (overall, history) = (Overall::Starting, Arc::default());
        let mut health = Health { clock, feeds, boards, overall, since: now, revision: 0, transitions: 0, history };
        health.judge();
        health
    }

    /// Goes on from what was kept, after a time in which nobody watched: what a restart and a reload have in common.
    /// Windows are matched by check and subject, and judged by this configuration; what it does not have is dropped.
    pub fn restore(
        now: Now,
        watched: Vec<Watched>,
        own_checks: &'static [Check],
        settings: &Settings,
        mut kept: Kept,
        away: Away,
    ) -> Health {
        let (mut boards, mut feeds) = set_up(&watched, own_checks, settings);
        let clock = kept.about.clock.clone().resume(now, away.length, longest_span(&boards, &feeds));
        for feed in &mut feeds {
            feed.resume(kept.collector(feed.name), clock.at().watched);
        }
        for board in &mut boards {
            match kept.take(board.name()) {
                Some(kept) => board.resume(kept, &clock, &feeds, away.forgets()),
                None => board.begin(&clock, &feeds),
            }
        }
        let mut history = kept.history.clone();
        if let Some(pause) = kept.pause(away, clock.at().now) {
            Arc::make_mut(&mut history).pause(pause);
        }
        let (overall, since) = (kept.about.overall, kept.about.since);
        let mut health = Health { clock, feeds, boards, overall, since, revision: 0, transitions: 0, history };
        health.note();
        health.judge();
        health
    }

    /// Waits for no collector any more before the host can be called ready.
    pub fn settle(&mut self) {
        self.feeds.iter_mut().for_each(|feed| feed.settled = true);
        self.judge();
    }

    /// What a restart needs.
    pub fn keep(&self) -> Kept {
        let collectors = self.feeds.iter().map(Feed::keep).collect();
        let about = About { clock: self.clock.clone(), overall: self.overall, since: self.since, collectors };
        let checks = self.boards.iter().map(|board| board.keep(&self.feeds)).collect();
        Kept { about, checks, history: self.history.clone() }
    }

    /// Takes a reading, at the moment at which it arrives.
    pub fn observe(&mut self, now: Now, reading: &Reading) {
        self.wake(now);
        let Some(index) = self.feeds.iter().position(|feed| feed.name == reading.collector) else { return };
        let (feed, clock) = (&self.feeds[index], &self.clock);
        for board in &mut self.boards {
            match (board.feed, &reading.outcome) {
                (None, _) => board.observe(feed, clock, &reading.own),
                (Some(other), _) if other != index => {}
                (Some(_), Ok(sample)) => board.observe(feed, clock, &sample.points),
                (Some(_), Err(failure)) => board.fail(feed, clock, failure.cause),
            }
        }
        let denied = matches!(&reading.outcome, Err(failure) if failure.cause == Cause::Denied);
        let heard = reading.outcome.is_ok() && self.has_heard_critical(index);
        self.feeds[index].denied = denied;
        self.feeds[index].settled |= denied || heard;
        self.revision += 1;
        self.note();
        self.judge();
    }

    /// Lets time pass. To be called every second: silence changes verdicts too.
    pub fn wake(&mut self, now: Now) {
        let before = self.clock.at().now.wall;
        let gap = self.clock.advance(now);
        self.remember(gap, before);
        let mut changed = false;
        for board in &mut self.boards {
            for subject in board.subjects.values_mut() {
                changed |= subject.wake(&self.clock, gap);
            }
        }
        let waited = self.clock.at().watched;
        for feed in self.feeds.iter_mut().filter(|feed| feed.has_waited_enough(waited)) {
            feed.settled = true;
            changed = true;
        }
        if changed {
            self.revision += 1;
            self.note();
            self.judge();
        }
    }

    /// Every check and subject, the ok ones too; by order of the checks, then by subject.
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.boards.iter().flat_map(|board| board.verdicts(&self.clock, &self.feeds)).collect()
    }

    /// Every check that is not switched off, in the order of `verdicts`.
    pub fn checks(&self) -> Vec<Judged> {
        self.boards.iter().map(Board::judged).collect()
    }

    pub fn overall(&self) -> Overall {
        self.overall
    }

    /// Whether work may be sent to the host.
    pub fn ready(&self) -> bool {
        !matches!(self.overall, Overall::Starting | Overall::Unhealthy)
    }

    /// Since when `overall` has its value.
    pub fn since(&self) -> Now {
        self.since
    }

    /// Grows with every reading, and with every wake that changed a verdict: the same number, the same verdicts.
    /// (Only the counts of a window may shrink meanwhile, as observations leave it.)
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Grows whenever the state of any check on any subject has changed.
    pub fn transitions(&self) -> u64 {
        self.transitions
    }

    /// Whether some verdict hangs on the next observations: a streak or a recovery is under way, or a silence that fails.
    pub fn is_pending(&self) -> bool {
        self.boards.iter().flat_map(|board| board.subjects.values()).any(Subject::is_pending)
    }

    /// The last day.
    pub fn history(&self) -> &Arc<History> {
        &self.history
    }

    /// How long the series of a collector stay after its last success: three intervals and a time-out, since the
    /// effective `unknown_for` of a check is never shorter. Zero for a collector that does not run.
    pub fn fresh_for(&self, collector: &str) -> Duration {
        self.feeds.iter().find(|feed| feed.name == collector).map_or(Duration::ZERO, |feed| feed.pace.patience())
    }

    /// Writes down which states have changed.
    fn note(&mut self) {
        let mut changes = Vec::new();
        for board in &mut self.boards {
            board.note(self.clock.at().now, &mut changes);
        }
        self.transitions += changes.len() as u64;
        changes.retain(Change::is_news);
        if !changes.is_empty() {
            let history = Arc::make_mut(&mut self.history);
            changes.into_iter().for_each(|change| history.push(change));
        }
    }

    /// Writes down that nobody watched, and forgets what is older than a day.
    fn remember(&mut self, gap: Option<Duration>, before: Timestamp) {
        let to = self.clock.at().now;
        if let Some(length) = gap {
            let pause = Pause { from: before, to, length: Some(length), why: Why::Asleep };
            Arc::make_mut(&mut self.history).pause(pause);
        }
        if self.history.is_overdue(to) {
            Arc::make_mut(&mut self.history).forget(to);
        }
    }

    /// After a good reading: whether something critical is known of the collector, or nothing critical is listed.
    fn has_heard_critical(&self, feed: usize) -> bool {
        let boards = self.boards.iter().filter(|board| board.feed == Some(feed));
        let present = |subject: &&Subject| subject.is_critical() && subject.window.absent_since.is_none();
        let mut critical = boards.flat_map(|board| board.subjects.values()).filter(present).peekable();
        critical.peek().is_none() || critical.any(|subject| subject.window.latest().is_some_and(Seen::is_known))
    }

    fn judge(&mut self) {
        let overall = self.weigh();
        if overall != self.overall {
            (self.overall, self.since) = (overall, self.clock.at().now);
            self.revision += 1;
        }
    }

    fn weigh(&self) -> Overall {
        if self.feeds.iter().any(|feed| !feed.settled) {
            Overall::Starting
        } else if self.boards.iter().any(Board::is_lost) {
            Overall::Unhealthy
        } else if self.feeds.iter().any(|feed| feed.denied) || self.boards.iter().any(Board::is_worrying) {
            Overall::Degraded
        } else {
            Overall::Healthy
        }
    }
}

fn set_up(watched: &[Watched], own_checks: &'static [Check], settings: &Settings) -> (Vec<Board>, Vec<Feed>) {
    let mut boards = Vec::new();
    for (feed, collector) in watched.iter().enumerate() {
        let checks = collector.checks.iter();
        boards.extend(checks.filter_map(|check| Board::new(check, Some(feed), settings)));
        let custom = settings.custom.iter().filter(|check| check.collector == Some(collector.name));
        boards.extend(custom.filter_map(|check| Board::custom(check, Some(feed))));
    }
    boards.extend(own_checks.iter().filter_map(|check| Board::new(check, None, settings)));
    let custom = settings.custom.iter().filter(|check| check.collector.is_none());
    boards.extend(custom.filter_map(|check| Board::custom(check, None)));
    let feeds = watched.iter().enumerate().map(|(i, one)| Feed::new(i, one, &boards)).collect();
    (boards, feeds)
}

/// How far back the widest window reaches.
fn longest_span(boards: &[Board], feeds: &[Feed]) -> Duration {
    let spans = boards.iter().flat_map(|board| {
        let feeds = feeds.iter().enumerate().filter(|(i, _)| board.feed.is_none_or(|feed| feed == *i));
        feeds.flat_map(|(_, feed)| board.policies().map(|policy| Rules { policy, pace: feed.pace }.span()))
    });
    spans.max().unwrap_or_default()
}

impl Feed {
    /// Its `boards` are those that judge it; without a critical check among them there is nothing to wait for.
    fn new(index: usize, watched: &Watched, boards: &[Board]) -> Feed {
        let pace = Pace { interval: watched.interval, timeout: watched.timeout };
        let policies = boards.iter().filter(|board| board.feed == Some(index)).flat_map(Board::policies);
        let critical = policies.filter(|policy| policy.severity == Severity::Critical);
        let longest = critical.map(|policy| Rules { policy, pace }.unknown_for()).max();
        let (settled, settle_after) = (longest.is_none(), longest.unwrap_or_default());
        Feed { index, name: watched.name, pace, denied: false, settled, begun: Duration::ZERO, settle_after }
    }

    /// A collector that is new is waited for from now on.
    fn resume(&mut self, kept: Option<&KeptCollector>, watched: Duration) {
        self.begun = kept.map_or(watched, |kept| kept.begun);
        self.settled |= kept.is_some_and(|kept| kept.settled) || self.has_waited_enough(watched);
        self.denied = kept.is_some_and(|kept| kept.denied);
    }

    fn keep(&self) -> KeptCollector {
        let Feed { begun, settled, denied, .. } = *self;
        KeptCollector { name: self.name.into(), begun, settled, denied }
    }

    fn has_waited_enough(&self, watched: Duration) -> bool {
        !self.settled && watched.saturating_sub(self.begun) >= self.settle_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fact::{Bound, Fact};
    use crate::sample::{Failure, Point, Points, Sample};

    static CONNECTED: Fact = Fact::gauge("test.connected", "test_connected", "Connected.").of(&["channel"]);
    static WAITING: Fact = Fact::gauge("test.waiting", "test_waiting", "Waiting.").of(&["queue"]);
    static UP: Fact = Fact::gauge("test.up", "test_up", "Up.").of(&["collector"]);
    static ALONE: Fact = Fact::gauge("test.alone", "test_alone", "Has no labels.");

    static CHANNEL: Check = check("channel_connected", &CONNECTED, Bound::Below(1.0), Severity::Critical, 120);
    static QUEUE: Check = check("queue_stuck", &WAITING, Bound::Above(10.0), Severity::Warning, 60);
    static QUEUE_INFO: Check = check("queue_long", &WAITING, Bound::Above(5.0), Severity::Info, 0);
    static SERVICE: Check = check("service_up", &ALONE, Bound::Below(1.0), Severity::Critical, 120);
    static OWN: [Check; 1] = [check("collector_up", &UP, Bound::Below(1.0), Severity::Warning, 60)];

    const fn check(name: &'static str, fact: &'static Fact, bad: Bound, severity: Severity, fail_for: u64) -> Check {
        Check {
            name,
            fact,
            bad,
            severity,
            fail_for: Duration::from_secs(fail_for),
            headline: "{} bad",
            means: "It is bad.",
        }
    }

    /// A host with a collector `channels` (critical check), `queues` (warning and info), `service` (no labels).
    struct Lab {
        health: Health,
        begun: Now,
    }

    type Seen<'a> = &'a [(&'static Fact, &'a str, Option<f64>)];

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn watched(name: &'static str, checks: &[&'static Check]) -> Watched {
        let checks = checks.iter().map(|check| **check).collect();
        Watched { name, interval: seconds(15), timeout: seconds(10), checks }
    }

    /// `channels` only.
    fn lab(settings: &str) -> Lab {
        lab_of(vec![watched("channels", &[&CHANNEL])], settings)
    }

    /// `queues` only: nothing critical.
    fn queues(settings: &str) -> Lab {
        lab_of(vec![watched("queues", &[&QUEUE, &QUEUE_INFO])], settings)
    }

    fn lab_of(watched: Vec<Watched>, settings: &str) -> Lab {
        let begun = Now { mono: seconds(777), wall: "2026-11-21T10:00:00Z".parse().unwrap() };
        let settings: Settings = toml::from_str(settings).unwrap();
        Lab { health: Health::new(begun, watched, &OWN, &settings), begun }
    }

    fn points(seen: Seen<'_>) -> Points {
        let point = |&(fact, subject, value): &(&'static Fact, &str, Option<f64>)| {
            let labels = if fact.labels.is_empty() { vec![] } else { vec![subject.into()] };
            Point { fact, labels, value, withheld: None, exported: true }
        };
        Points(seen.iter().map(point).collect())
    }

    fn null() -> Arc<serde_json::value::RawValue> {
        serde_json::value::RawValue::from_string("null".into()).unwrap().into()
    }

    impl Lab {
        fn moment(&self, at: u64) -> Now {
            self.begun.plus(seconds(at))
        }

        fn elapsed(&self) -> u64 {
            (self.health.clock.at().now.mono - self.begun.mono).as_secs()
        }

        fn wait(&mut self, until: u64) -> Overall {
            for at in self.elapsed() + 1..=until {
                self.health.wake(self.moment(at));
            }
            self.health.overall()
        }

        fn take(&mut self, at: u64, collector: &'static str, outcome: Result<Points, Cause>, own: Seen<'_>) -> Overall {
            self.wait(at);
            let now = self.moment(at);
            let outcome = outcome
                .map(|points| Sample { section: null(), details: Default::default(), points, gaps: Vec::new() })
                .map_err(|cause| Failure { cause, error: "as told".into() });
            let reading = Reading { collector, at: now, took: seconds(1), outcome, own: points(own) };
            self.health.observe(now, &reading);
            self.health.overall()
        }

        fn good(&mut self, at: u64, collector: &'static str, seen: Seen<'_>) -> Overall {
            self.take(at, collector, Ok(points(seen)), &[])
        }

        fn failed(&mut self, at: u64, collector: &'static str, cause: Cause) -> Overall {
            self.take(at, collector, Err(cause), &[])
        }

        /// Channels with their values, every 15 s from the next on until (and with) a time.
        fn channels(&mut self, until: u64, seen: &[(&str, Option<f64>)]) -> Overall {
            let seen: Vec<_> = seen.iter().map(|&(subject, value)| (&CONNECTED, subject, value)).collect();
            while self.elapsed() / 15 * 15 + 15 <= until {
                self.good(self.elapsed() / 15 * 15 + 15, "channels", &seen);
            }
            self.health.overall()
        }

        fn all_failed(&mut self, until: u64, cause: Cause) -> Overall {
            while self.elapsed() / 15 * 15 + 15 <= until {
                self.failed(self.elapsed() / 15 * 15 + 15, "channels", cause);
            }
            self.health.overall()
        }

        fn states(&self, check: &str) -> Vec<(String, State)> {
            let verdicts = self.health.verdicts();
            let of = verdicts.iter().filter(|verdict| &*verdict.check == check);
            of.map(|verdict| (verdict.subject.to_string(), verdict.state)).collect()
        }

        fn verdict(&self, check: &str, subject: &str) -> Verdict {
            let mut verdicts = self.health.verdicts().into_iter();
            verdicts.find(|verdict| &*verdict.check == check && &*verdict.subject == subject).unwrap()
        }

        fn state(&self, subject: &str) -> Option<State> {
            let states = self.states("channel_connected");
            states.into_iter().find(|(name, _)| name == subject).map(|(_, state)| state)
        }
    }

    const OK: Option<f64> = Some(1.0);
    const BAD: Option<f64> = Some(0.0);

    #[test]
    fn starting_ends_with_the_first_critical_observation() {
        let mut lab = lab("");
        assert_eq!(
            (lab.health.overall(), lab.health.ready(), lab.health.since()),
            (Overall::Starting, false, lab.begun)
        );
        assert_eq!(lab.failed(5, "channels", Cause::Unanswered), Overall::Starting);
        assert_eq!(lab.good(15, "channels", &[(&CONNECTED, "slack", None)]), Overall::Starting, "listed, not seen");
        assert_eq!(lab.good(30, "channels", &[(&CONNECTED, "slack", OK)]), Overall::Healthy);
        assert_eq!((lab.health.ready(), lab.health.since()), (true, lab.moment(30)));
    }

    #[test]
    fn starting_ends_if_nothing_critical_is_listed_or_it_may_not_be_seen() {
        assert_eq!(lab("").good(15, "channels", &[]), Overall::Healthy);
        assert_eq!(lab("").failed(15, "channels", Cause::Denied), Overall::Degraded);
        assert_eq!(queues("").health.overall(), Overall::Healthy, "nothing critical at all");
        let off = lab("[channel_connected]\nenabled = false");
        assert_eq!((off.health.overall(), off.states("channel_connected")), (Overall::Healthy, vec![]));
    }

    #[test]
    fn starting_ends_when_silence_has_lasted_and_never_comes_back() {
        let mut lab = lab("");
        assert_eq!(lab.all_failed(299, Cause::Unanswered), Overall::Starting);
        assert_eq!(lab.wait(299), Overall::Starting);
        assert_eq!(lab.wait(300), Overall::Degraded, "the placeholder is critical and unknown");
        assert!(lab.health.ready());
        assert_eq!(lab.good(301, "channels", &[(&CONNECTED, "slack", None)]), Overall::Degraded);
        assert_eq!(lab.states("channel_connected"), [("slack".into(), State::Unknown)]);
    }

    #[test]
    fn starting_waits_for_every_collector_in_watched_time() {
        let two = vec![watched("channels", &[&CHANNEL]), watched("service", &[&SERVICE])];
        let mut lab = lab_of(two, "[service_up]\nunknown_for = '10m'");
        assert_eq!(lab.good(15, "channels", &[(&CONNECTED, "slack", OK)]), Overall::Starting);
        lab.health.wake(lab.moment(1015));
        assert_eq!(lab.wait(1599), Overall::Starting, "a thousand seconds of it nobody watched");
        assert_eq!(lab.wait(1600), Overall::Unhealthy, "by now the channel is silent");
        assert_eq!(lab.verdict("channel_connected", "slack").rule, "unknown_for 5m");
    }

    #[test]
    fn a_bad_channel_is_degraded_then_unhealthy_then_recovers() {
        let mut lab = lab("");
        assert_eq!(lab.channels(15, &[("slack", OK), ("mail", OK)]), Overall::Healthy);
        assert_eq!(lab.channels(135, &[("slack", BAD), ("mail", OK)]), Overall::Degraded);
        assert_eq!(lab.health.since(), lab.moment(30));
        assert_eq!(lab.channels(150, &[("slack", BAD), ("mail", OK)]), Overall::Unhealthy);
        assert_eq!((lab.health.ready(), lab.health.since()), (false, lab.moment(150)));
        assert_eq!(lab.states("channel_connected"), [("mail".into(), State::Ok), ("slack".into(), State::Failed)]);
        assert_eq!(lab.channels(210, &[("slack", OK), ("mail", OK)]), Overall::Unhealthy, "recovering");
        assert_eq!(lab.state("slack"), Some(State::Recovering));
        assert_eq!(lab.channels(225, &[("slack", OK), ("mail", OK)]), Overall::Healthy);
    }

    #[test]
    fn with_any_readiness_is_lost_only_when_none_is_ok() {
        let mut lab = lab("[channel_connected]\nready_needs = 'any'");
        assert_eq!(lab.channels(300, &[("slack", BAD), ("mail", OK)]), Overall::Degraded);
        assert_eq!(lab.channels(420, &[("slack", BAD), ("mail", BAD)]), Overall::Degraded, "mail is failing only");
        assert_eq!(lab.channels(435, &[("slack", BAD), ("mail", BAD)]), Overall::Unhealthy);
        assert_eq!(lab.channels(450, &[("slack", OK), ("mail", BAD)]), Overall::Unhealthy, "recovering is not ok yet");
        assert_eq!(lab.channels(510, &[("slack", OK), ("mail", BAD)]), Overall::Degraded);
        let all = lab.channels(600, &[("slack", None), ("mail", BAD)]);
        assert_eq!((all, lab.state("slack")), (Overall::Degraded, Some(State::Unknown)), "it was ok before");
        assert_eq!(lab.channels(900, &[("slack", None), ("mail", BAD)]), Overall::Unhealthy, "silent since 525");
    }

    #[test]
    fn with_any_one_that_was_never_known_neither_keeps_nor_takes_readiness() {
        let mut lab = lab("[channel_connected]\nready_needs = 'any'");
        assert_eq!(lab.channels(300, &[("slack", BAD), ("new", None)]), Overall::Unhealthy);
        assert_eq!(lab.channels(315, &[("new", None)]), Overall::Unhealthy);
    }

    #[test]
    fn a_failed_warning_degrades_and_an_info_only_shows() {
        let mut lab = queues("");
        lab.good(15, "queues", &[(&WAITING, "a", Some(8.0))]);
        assert_eq!(lab.good(30, "queues", &[(&WAITING, "a", Some(8.0))]), Overall::Healthy);
        assert_eq!(lab.states("queue_long"), [("a".into(), State::Failed)]);
        for at in 3..7 {
            assert_eq!(lab.good(at * 15, "queues", &[(&WAITING, "a", Some(80.0))]), Overall::Healthy, "{at}");
        }
        assert_eq!(lab.good(105, "queues", &[(&WAITING, "a", Some(80.0))]), Overall::Degraded);
        assert_eq!(lab.verdict("queue_stuck", "a").severity, Severity::Warning);
        assert_eq!(lab.good(120, "queues", &[(&WAITING, "a", Some(0.0))]), Overall::Healthy, "recovering");
    }

    #[test]
    fn silence_holds_what_is_not_critical() {
        let mut lab = queues("");
        lab.good(15, "queues", &[(&WAITING, "a", Some(0.0))]);
        for at in 2..100 {
            assert_eq!(lab.failed(at * 15, "queues", Cause::Unanswered), Overall::Healthy);
        }
        assert_eq!(lab.states("queue_stuck"), [("a".into(), State::Unknown)]);
    }

    #[test]
    fn unknown_degrades_and_the_verdict_before_it_decides_readiness() {
        let mut lab = lab("");
        lab.channels(15, &[("slack", OK)]);
        assert_eq!(lab.all_failed(30, Cause::Unanswered), Overall::Degraded);
        assert!(lab.health.ready());
        assert_eq!(lab.channels(165, &[("slack", BAD)]), Overall::Unhealthy);
        lab.channels(180, &[("slack", OK)]);
        assert_eq!(lab.all_failed(195, Cause::Unanswered), Overall::Unhealthy);
        assert_eq!(lab.state("slack"), Some(State::Recovering), "not over yet, whoever does not answer");
    }

    #[test]
    fn without_permission_the_host_is_ready_and_degraded() {
        let mut lab = lab("");
        assert_eq!(lab.all_failed(24 * 3600, Cause::Denied), Overall::Degraded);
        assert!(lab.health.ready());
        assert_eq!(lab.verdict("channel_connected", "").unknown_cause, Some(Cause::Denied));
        assert_eq!(lab.channels(24 * 3600 + 15, &[("slack", OK)]), Overall::Healthy);

        let mut lab = queues("");
        assert_eq!(lab.failed(15, "queues", Cause::Denied), Overall::Degraded, "whatever its severity");
        assert_eq!(lab.failed(30, "queues", Cause::Unanswered), Overall::Healthy);
    }

    #[test]
    fn what_is_excused_fails_nothing_breaks_nothing_and_mends_nothing() {
        let mut lab = lab("[channel_connected]\nexpect = [\"mail\"]\n");
        let excused = |names: &[&str]| {
            let mut points = Points::default();
            names.iter().for_each(|&name| points.excuse(&CONNECTED, [&name.into()], BAD));
            points
        };
        lab.channels(15, &[("slack", OK), ("mail", OK)]);
        for at in 2..240 {
            assert_eq!(lab.take(at * 15, "channels", Ok(excused(&["slack", "mail"])), &[]), Overall::Degraded);
        }
        assert_eq!(
            lab.states("channel_connected"),
            [("mail".into(), State::Unknown), ("slack".into(), State::Unknown)]
        );
        assert_eq!(lab.all_failed(7200, Cause::Excused), Overall::Degraded);
        let slack = lab.verdict("channel_connected", "slack");
        assert_eq!((slack.trips_at, slack.unknown_cause), (None, Some(Cause::Excused)));
        // A streak goes on behind it, and a failure stands.
        lab.channels(7275, &[("slack", BAD), ("mail", OK)]);
        lab.all_failed(7500, Cause::Excused);
        assert_eq!(lab.channels(7515, &[("slack", BAD), ("mail", OK)]), Overall::Unhealthy);
        assert_eq!(lab.all_failed(15_000, Cause::Excused), Overall::Unhealthy);
        // Silence that is not excused fails as ever.
        assert_eq!(lab.channels(15_180, &[("slack", OK), ("mail", OK)]), Overall::Healthy);
        lab.all_failed(15_300, Cause::Excused);
        assert_eq!(lab.all_failed(15_600, Cause::Unanswered), Overall::Degraded);
        assert_eq!(lab.all_failed(15_630, Cause::Unanswered), Overall::Unhealthy);
    }

    #[test]
    fn of_a_subject_that_is_denied_the_verdict_stands_for_ever() {
        let mut lab = lab("");
        let denied = || {
            let mut points = Points::default();
            points.deny(&CONNECTED, [&"slack".into()]);
            points.put(&CONNECTED, [&"mail".into()], OK);
            points
        };
        lab.channels(15, &[("slack", OK), ("mail", OK)]);
        assert_eq!(lab.take(30, "channels", Ok(denied()), &[]), Overall::Degraded);
        let slack = lab.verdict("channel_connected", "slack");
        assert_eq!((slack.state, slack.unknown_cause), (State::Unknown, Some(Cause::Denied)));
        lab.channels(45, &[("slack", BAD), ("mail", OK)]);
        assert_eq!(lab.channels(240, &[("slack", BAD), ("mail", OK)]), Overall::Unhealthy);
        for at in 17..500 {
            assert_eq!(lab.take(at * 15, "channels", Ok(denied()), &[]), Overall::Unhealthy, "at {at}");
        }
        assert_eq!(lab.verdict("channel_connected", "slack").state, State::Failed);
        // One that was never known fails nothing.
        let mut lab = self::lab("");
        for at in 1..500 {
            assert_eq!(lab.take(at * 15, "channels", Ok(denied()), &[]), Overall::Degraded);
        }
    }

    #[test]
    fn an_excuse_lifts_no_silence_and_starts_none_anew() {
        let mut lab = lab("");
        lab.channels(15, &[("slack", OK)]);
        assert_eq!(lab.all_failed(330, Cause::Unanswered), Overall::Unhealthy);
        assert_eq!(lab.all_failed(3600, Cause::Excused), Overall::Unhealthy, "nothing is known of it yet");
        let verdict = lab.verdict("channel_connected", "slack");
        assert_eq!((verdict.unknown_cause, &*verdict.rule), (Some(Cause::Unanswered), "unknown_for 5m"));
        assert_eq!(lab.channels(3615, &[("slack", OK)]), Overall::Healthy, "by the first known observation");
        // 285 s of silence, one excused look, and 15 s more; the 15 s after the excuse do not count.
        lab.all_failed(3900, Cause::Unanswered);
        assert_eq!(lab.all_failed(3915, Cause::Excused), Overall::Degraded);
        let verdict = lab.verdict("channel_connected", "slack");
        assert_eq!((verdict.unknown_cause, verdict.trips_at), (Some(Cause::Excused), None));
        assert_eq!(lab.all_failed(3930, Cause::Unanswered), Overall::Degraded);
        let fails = Some(lab.moment(3945).wall);
        assert_eq!(lab.verdict("channel_connected", "slack").trips_at, fails);
        assert_eq!(lab.wait(3944), Overall::Degraded);
        assert_eq!(lab.wait(3945), Overall::Unhealthy);
        // Nobody looks any more: the excuse is over when it is stale.
        lab.channels(4500, &[("slack", OK)]);
        assert_eq!(lab.all_failed(4515, Cause::Excused), Overall::Degraded);
        assert_eq!(lab.wait(4515 + 55 + 299), Overall::Degraded);
        assert_eq!(lab.wait(4515 + 55 + 300), Overall::Unhealthy);
    }

    #[test]
    fn beside_a_host_that_is_excused_from_the_start_it_is_ready_in_the_end() {
        let mut lab = lab("");
        assert_eq!(lab.all_failed(285, Cause::Excused), Overall::Starting);
        assert_eq!(lab.wait(300), Overall::Degraded);
        assert!(lab.health.ready());
        assert_eq!(lab.states("channel_connected"), [("".into(), State::Unknown)], "and not ok");
        assert_eq!(lab.all_failed(3600, Cause::Excused), Overall::Degraded);
    }

    #[test]
    fn what_was_kept_as_failed_stands_beside_a_host_that_is_excused() {
        let mut lab = lab("");
        lab.channels(150, &[("slack", BAD), ("mail", OK)]);
        let kept = Kept::read(&lab.health.keep().write().unwrap()).unwrap();
        let (now, settings) = (lab.moment(160), Settings::default());
        let away = kept.away(now, true);
        lab.health = Health::restore(now, vec![watched("channels", &[&CHANNEL])], &OWN, &settings, kept, away);
        assert_eq!(lab.all_failed(3600, Cause::Excused), Overall::Unhealthy);
        assert_eq!(lab.states("channel_connected"), [("mail".into(), State::Unknown), ("slack".into(), State::Failed)]);
        assert_eq!(lab.verdict("channel_connected", "mail").unknown_cause, Some(Cause::Excused));
    }

    #[test]
    fn the_placeholder_stands_until_a_good_reading() {
        let mut lab = lab("");
        assert_eq!(lab.states("channel_connected"), [("".into(), State::Starting)]);
        lab.failed(15, "channels", Cause::Unanswered);
        assert_eq!(lab.states("channel_connected"), [("".into(), State::Unknown)]);
        lab.good(30, "channels", &[(&CONNECTED, "slack", OK)]);
        assert_eq!(lab.states("channel_connected"), [("slack".into(), State::Ok)]);
    }

    #[test]
    fn a_failed_reading_after_one_that_listed_nothing_is_the_placeholders() {
        let mut lab = lab("");
        assert_eq!(lab.good(15, "channels", &[]), Overall::Healthy);
        assert_eq!(lab.states("channel_connected"), []);
        assert_eq!(lab.all_failed(900, Cause::Unanswered), Overall::Degraded, "never failed: it was never known");
        assert_eq!(lab.states("channel_connected"), [("".into(), State::Unknown)]);
    }

    #[test]
    fn a_fact_without_labels_is_its_own_placeholder_and_does_not_vanish_as_one() {
        let mut lab = lab_of(vec![watched("service", &[&SERVICE])], "");
        lab.good(15, "service", &[(&ALONE, "", OK)]);
        assert_eq!(lab.states("service_up"), [("".into(), State::Ok)]);
        lab.good(30, "service", &[]);
        assert_eq!(lab.states("service_up"), [("".into(), State::Unknown)], "critical: it stands for a while");
    }

    #[test]
    fn what_is_not_critical_vanishes_with_its_listing() {
        let mut lab = queues("");
        lab.good(15, "queues", &[(&WAITING, "a", Some(80.0)), (&WAITING, "b", Some(0.0))]);
        lab.good(30, "queues", &[(&WAITING, "b", Some(0.0))]);
        assert_eq!(lab.states("queue_stuck"), [("b".into(), State::Ok)]);
    }

    #[test]
    fn an_ok_critical_subject_that_is_unlisted_is_unknown_and_then_dropped() {
        let mut lab = lab("");
        lab.channels(15, &[("slack", OK), ("mail", OK)]);
        assert_eq!(lab.channels(315, &[("mail", OK)]), Overall::Degraded);
        assert_eq!(lab.state("slack"), Some(State::Unknown));
        lab.channels(330, &[("mail", OK)]);
        assert_eq!(lab.states("channel_connected"), [("mail".into(), State::Ok)], "300 s after 30");
        assert_eq!(lab.health.overall(), Overall::Healthy);
    }

    #[test]
    fn a_bad_critical_subject_that_is_unlisted_stays_bad_and_is_then_dropped() {
        let mut lab = lab("");
        lab.channels(30, &[("slack", BAD), ("mail", OK)]);
        lab.channels(135, &[("mail", OK)]);
        assert_eq!(lab.state("slack"), Some(State::Failed), "bad since 15");
        assert_eq!(lab.channels(330, &[("mail", OK)]), Overall::Unhealthy);
        assert_eq!(lab.channels(345, &[("mail", OK)]), Overall::Healthy);
        assert_eq!(lab.state("slack"), None);
    }

    #[test]
    fn a_bad_channel_unlisted_in_every_eighth_reading_still_fails() {
        let mut lab = lab("");
        lab.channels(15, &[("slack", OK), ("mail", OK)]);
        for at in 2..10 {
            let slack: &[_] = if at % 8 == 0 { &[] } else { &[("slack", BAD)] };
            assert_eq!(lab.channels(at * 15, slack), Overall::Degraded, "{at}");
        }
        assert_eq!(lab.channels(150, &[("slack", BAD)]), Overall::Unhealthy);
    }

    #[test]
    fn a_listing_ends_the_absence() {
        let mut lab = lab("");
        lab.channels(15, &[("slack", OK)]);
        lab.channels(300, &[]);
        lab.channels(315, &[("slack", OK)]);
        lab.channels(600, &[]);
        assert_eq!(lab.state("slack"), Some(State::Unknown), "not dropped; and somebody answered, so never silent");
        lab.channels(630, &[]);
        assert_eq!(lab.state("slack"), None);
    }

    #[test]
    fn absence_is_counted_in_watched_time() {
        let mut lab = lab("");
        lab.channels(15, &[("slack", OK)]);
        lab.channels(30, &[]);
        lab.health.wake(lab.moment(1000));
        lab.channels(1005, &[]);
        assert_eq!(lab.state("slack"), Some(State::Unknown));
    }

    #[test]
    fn the_absence_of_an_expected_subject_is_bad() {
        let mut lab = lab("[channel_connected]\nexpect = ['slack']");
        assert_eq!(lab.states("channel_connected"), [("slack".into(), State::Starting)]);
        assert_eq!(lab.channels(15, &[("mail", OK)]), Overall::Degraded, "settled: its absence is known");
        assert_eq!(lab.state("slack"), Some(State::Failing));
        assert_eq!(lab.channels(135, &[("mail", OK)]), Overall::Unhealthy);
        assert_eq!(lab.channels(3600, &[("mail", OK)]), Overall::Unhealthy, "never dropped");
        assert_eq!(lab.channels(3660, &[("mail", OK), ("slack", OK)]), Overall::Unhealthy);
        assert_eq!(lab.channels(3675, &[("mail", OK), ("slack", OK)]), Overall::Healthy);
    }

    #[test]
    fn an_expected_subject_can_be_failed_by_silence_though_never_known() {
        let mut lab = lab("[channel_connected]\nexpect = ['slack']");
        assert_eq!(lab.all_failed(300, Cause::Unanswered), Overall::Degraded);
        assert_eq!(lab.wait(315), Overall::Unhealthy);
    }

    #[test]
    fn an_expected_subject_that_is_not_critical_stays_too() {
        let mut lab = queues("[queue_stuck]\nexpect = ['a']");
        for at in 1..6 {
            lab.good(at * 15, "queues", &[]);
        }
        assert_eq!(lab.states("queue_stuck"), [("a".into(), State::Failed)]);
        assert_eq!(lab.states("queue_long"), []);
    }

    #[test]
    fn a_named_subject_has_a_window_from_the_start_and_its_own_policy() {
        let mut lab = lab("[channel_connected.subjects.slack]\nseverity = 'warning'\nfail_for = '30s'");
        assert_eq!(lab.states("channel_connected"), [("slack".into(), State::Starting)]);
        lab.channels(30, &[("slack", BAD), ("mail", OK)]);
        assert_eq!(lab.channels(45, &[("slack", BAD), ("mail", OK)]), Overall::Degraded);
        let slack = lab.verdict("channel_connected", "slack");
        assert_eq!((slack.severity, slack.state, &*slack.rule), (Severity::Warning, State::Failed, "fail_for 30s"));
        lab.channels(60, &[("mail", OK)]);
        assert_eq!(lab.states("channel_connected"), [("mail".into(), State::Ok)], "a warning: dropped at once");
    }

    #[test]
    fn a_subject_that_is_switched_off_is_ignored() {
        let mut lab = lab("[channel_connected.subjects.slack]\nenabled = false");
        assert_eq!(lab.states("channel_connected"), [("".into(), State::Starting)]);
        assert_eq!(lab.channels(300, &[("slack", BAD), ("mail", OK)]), Overall::Healthy);
        assert_eq!(lab.states("channel_connected"), [("mail".into(), State::Ok)]);
    }

    #[test]
    fn of_two_points_of_one_subject_the_worse_counts() {
        for (values, state) in
            [([OK, BAD], State::Failing), ([BAD, None], State::Failing), ([None, OK], State::Unknown)]
        {
            let mut lab = lab("");
            lab.channels(15, &[("slack", values[0]), ("slack", values[1])]);
            assert_eq!(lab.state("slack"), Some(state));
        }
    }

    #[test]
    fn what_is_not_a_number_tells_nothing() {
        let mut lab = lab("");
        assert_eq!(lab.channels(15, &[("slack", Some(f64::NAN))]), Overall::Starting);
        assert_eq!(lab.state("slack"), Some(State::Unknown));
    }

    #[test]
    fn other_facts_and_other_collectors_are_none_of_its_business() {
        let mut lab = lab_of(vec![watched("channels", &[&CHANNEL]), watched("queues", &[&QUEUE])], "");
        lab.good(15, "channels", &[(&CONNECTED, "slack", OK), (&WAITING, "a", Some(80.0))]);
        lab.good(16, "queues", &[]);
        lab.failed(17, "queues", Cause::Unanswered);
        lab.good(18, "strangers", &[(&CONNECTED, "mail", BAD)]);
        assert_eq!(lab.states("channel_connected"), [("slack".into(), State::Ok)]);
        assert_eq!(lab.states("queue_stuck"), [("".into(), State::Unknown)]);
    }

    #[test]
    fn checks_of_the_loop_are_judged_on_failed_readings_too() {
        let two = vec![watched("channels", &[&CHANNEL]), watched("queues", &[&QUEUE])];
        let mut lab = lab_of(two, "");
        assert_eq!(lab.states("collector_up"), [("".into(), State::Starting)]);
        for at in 0..5 {
            lab.take(at * 15 + 15, "channels", Err(Cause::Unanswered), &[(&UP, "channels", BAD)]);
            lab.take(at * 15 + 16, "queues", Ok(points(&[])), &[(&UP, "queues", OK)]);
        }
        let expected = [("channels".into(), State::Failed), ("queues".into(), State::Ok)];
        assert_eq!(lab.states("collector_up"), expected, "each keeps its own, though the other does not list it");
        lab.take(90, "channels", Err(Cause::Unanswered), &[]);
        assert_eq!(lab.states("collector_up"), [("queues".into(), State::Ok)], "no longer listed by its own");
    }

    #[test]
    fn a_check_of_the_loop_may_expect_a_collector() {
        let mut lab = lab("[collector_up]\nexpect = ['channels', 'queues']");
        for at in 1..=5 {
            lab.take(at * 15, "channels", Ok(points(&[])), &[(&UP, "channels", OK)]);
        }
        let expected = [("channels".into(), State::Ok), ("queues".into(), State::Failed)];
        assert_eq!(lab.states("collector_up"), expected, "queues does not run");
    }

    #[test]
    fn verdicts_come_by_check_then_subject_and_explain_themselves() {
        let mut lab = lab_of(vec![watched("queues", &[&QUEUE, &QUEUE_INFO]), watched("channels", &[&CHANNEL])], "");
        lab.good(15, "queues", &[(&WAITING, "b", Some(0.0)), (&WAITING, "a", Some(0.0))]);
        lab.take(16, "channels", Ok(points(&[(&CONNECTED, "slack", OK)])), &[(&UP, "channels", OK)]);
        lab.good(31, "channels", &[(&CONNECTED, "slack", BAD)]);
        let order: Vec<_> = lab.health.verdicts().iter().map(|v| format!("{}/{}", v.check, v.subject)).collect();
        assert_eq!(
            order,
            ["queue_stuck/a", "queue_stuck/b", "queue_long/a", "queue_long/b", "channel_connected/slack"]
        );
        let json = serde_json::to_value(lab.verdict("channel_connected", "slack")).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "check": "channel_connected", "subject": "slack", "collector": "channels", "severity": "critical", "state": "failing",
                "since": "2026-11-21T10:00:31Z", "headline": "slack bad", "means": "It is bad.", "observed": 2, "bad": 1,
                "rule": "fail_for 2m", "trips_at": "2026-11-21T10:02:31Z", "recovers_at": null, "unknown_cause": null,
                "recovers_after_seconds": null, "unready": false
            })
        );
        assert_eq!(serde_json::to_value(lab.health.overall()).unwrap(), "degraded");
    }

    #[test]
    fn a_verdict_that_did_not_change_is_the_same() {
        let mut lab = lab("");
        lab.channels(30, &[("slack", BAD)]);
        let (before, revision) = (lab.health.verdicts(), lab.health.revision());
        lab.wait(85);
        assert_eq!((lab.health.verdicts(), lab.health.revision()), (before, revision));
        lab.wait(86);
        assert_eq!(lab.state("slack"), Some(State::Unknown), "stale");
        assert!(lab.health.revision() > revision);
    }

    #[test]
    fn series_stay_for_three_intervals_and_a_time_out() {
        let lab = lab("[channel_connected]\nunknown_for = '1s'");
        assert_eq!(lab.health.fresh_for("channels"), seconds(55));
        assert_eq!(lab.health.fresh_for("strangers"), Duration::ZERO);
    }

    #[test]
    fn health_may_be_handed_to_another_thread() {
        fn sent<T: Send + 'static>(_: &T) {}
        sent(&lab("").health);
    }
}
