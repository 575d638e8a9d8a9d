//! Policy over windows: which checks there are on which subjects, what each says, and what they say of the host.
//!
//! Nothing here asks a clock: `observe` takes a reading, `wake` the passing of time. Work for a reading grows with its
//! points and not with the past; work for a wake is one short look at each window.
//!
//! Kept across restarts later: what must be kept is `Window`, one per check and subject, and nothing beside it.

mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use crate::fact::{Check, Policy, ReadyNeeds, Severity};
use crate::sample::{Cause, Now, Points, Reading};
use crate::window::{Clock, Pace, Rules, Seen, Window};

pub use crate::window::State;
pub use settings::{CheckConfig, FailCount, FailRatio, RatioMin, Settings, SubjectConfig};

/// One collector that runs, as health knows it.
#[derive(Debug, Clone)]
pub struct Watched {
    pub name: &'static str,
    pub interval: Duration,
    pub timeout: Duration,
    pub checks: Vec<&'static Check>,
}

/// What all verdicts together say of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Overall {
    /// Not enough was seen yet to call it ready. Never again afterwards.
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

/// What one check says of one subject, and why.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    pub check: &'static str,
    pub subject: Arc<str>,
    pub severity: Severity,
    pub state: State,
    /// The first observation of what made the state (shown by the wall clock).
    #[serde(serialize_with = "wall")]
    pub since: Now,
    pub means: &'static str,
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
}

fn wall<S: Serializer>(now: &Now, serializer: S) -> Result<S::Ok, S::Error> {
    now.wall.serialize(serializer)
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
}

/// One collector: whose readings come in here.
#[derive(Debug)]
struct Feed {
    name: &'static str,
    pace: Pace,
    /// Its latest reading was a refusal.
    denied: bool,
    /// Nothing more is to be waited for before the host can be called ready.
    settled: bool,
    /// Watched time after which waiting is over.
    settle_after: Duration,
}

/// One check on all its subjects.
#[derive(Debug)]
struct Board {
    check: &'static Check,
    /// The collector whose readings it judges; `None`: what the loop says of every collector.
    feed: Option<usize>,
    policy: Arc<Policy>,
    /// Subjects with a table of their own; `None`: switched off.
    named: BTreeMap<Arc<str>, Option<Arc<Policy>>>,
    expected: BTreeSet<Arc<str>>,
    subjects: BTreeMap<Arc<str>, Subject>,
}

/// One check on one subject.
#[derive(Debug)]
struct Subject {
    role: Role,
    /// The collector that looks at it.
    feed: usize,
    pace: Pace,
    policy: Arc<Policy>,
    window: Window,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Stands for subjects that nobody has listed yet.
    Placeholder,
    Listed,
    /// Its absence is bad.
    Expected,
}

impl Health {
    /// `own_checks` are on facts of the loop (`Reading::own`), judged on every reading of every collector.
    pub fn new(now: Now, watched: Vec<Watched>, own_checks: &'static [Check], settings: &Settings) -> Health {
        let mut boards = Vec::new();
        for (feed, collector) in watched.iter().enumerate() {
            let checks = collector.checks.iter();
            boards.extend(checks.filter_map(|check| Board::new(check, Some(feed), settings)));
        }
        boards.extend(own_checks.iter().filter_map(|check| Board::new(check, None, settings)));
        let feeds: Vec<Feed> = watched.iter().enumerate().map(|(i, one)| Feed::new(i, one, &boards)).collect();
        let clock = Clock::new(now, longest_span(&boards, &feeds));
        for board in &mut boards {
            board.begin(&clock, &feeds);
        }
        let mut health = Health { clock, feeds, boards, overall: Overall::Starting, since: now, revision: 0 };
        health.judge();
        health
    }

    /// Takes a reading, at the moment at which it arrives.
    pub fn observe(&mut self, now: Now, reading: &Reading) {
        self.wake(now);
        let Some(feed) = self.feeds.iter().position(|feed| feed.name == reading.collector) else { return };
        let pace = self.feeds[feed].pace;
        for board in &mut self.boards {
            match (board.feed, &reading.outcome) {
                (Some(own), Ok(sample)) if own == feed => board.observe(feed, pace, &self.clock, &sample.points),
                (Some(own), Err(failure)) if own == feed => board.fail(feed, pace, &self.clock, failure.cause),
                (Some(_), _) => {}
                (None, _) => board.observe(feed, pace, &self.clock, &reading.own),
            }
        }
        let denied = matches!(&reading.outcome, Err(failure) if failure.cause == Cause::Denied);
        let heard = reading.outcome.is_ok() && self.has_heard_critical(feed);
        self.feeds[feed].denied = denied;
        self.feeds[feed].settled |= denied || heard;
        self.revision += 1;
        self.judge();
    }

    /// Lets time pass. To be called every second: silence changes verdicts too.
    pub fn wake(&mut self, now: Now) {
        let gap = self.clock.advance(now);
        let mut changed = false;
        for board in &mut self.boards {
            for subject in board.subjects.values_mut() {
                changed |= subject.wake(&self.clock, gap);
            }
        }
        let waited = self.clock.at().watched;
        for feed in self.feeds.iter_mut().filter(|feed| !feed.settled && waited >= feed.settle_after) {
            feed.settled = true;
            changed = true;
        }
        if changed {
            self.revision += 1;
            self.judge();
        }
    }

    /// Every check and subject, the ok ones too; by order of the checks, then by subject.
    pub fn verdicts(&self) -> Vec<Verdict> {
        self.boards.iter().flat_map(|board| board.verdicts(&self.clock)).collect()
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

    /// How long the series of a collector stay after its last success: three intervals and a time-out, since the
    /// effective `unknown_for` of a check is never shorter. Zero for a collector that does not run.
    pub fn fresh_for(&self, collector: &str) -> Duration {
        self.feeds.iter().find(|feed| feed.name == collector).map_or(Duration::ZERO, |feed| feed.pace.patience())
    }

    /// Nothing is to be waited for: the verdicts were restored.
    pub fn settle(&mut self) {
        for feed in &mut self.feeds {
            feed.settled = true;
        }
        self.judge();
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
        Feed { name: watched.name, pace, denied: false, settled, settle_after }
    }
}

impl Board {
    /// `None` if the check is switched off.
    fn new(check: &'static Check, feed: Option<usize>, settings: &Settings) -> Option<Board> {
        let config = settings.of(check.name);
        if config.is_some_and(CheckConfig::is_off) {
            return None;
        }
        let named = config.iter().flat_map(|config| &config.subjects).map(|(name, subject)| {
            let policy = (!subject.is_off()).then(|| Arc::new(settings::policy(check, config, Some(subject))));
            (name.as_str().into(), policy)
        });
        Some(Board {
            check,
            feed,
            policy: Arc::new(settings::policy(check, config, None)),
            named: named.collect(),
            expected: config.iter().flat_map(|config| &config.expect).map(|name| name.as_str().into()).collect(),
            subjects: BTreeMap::new(),
        })
    }

    /// Opens the windows that stand before any reading: of the subjects that the configuration names, or of none.
    fn begin(&mut self, clock: &Clock, feeds: &[Feed]) {
        let names: Vec<Arc<str>> = self.named.keys().chain(&self.expected).cloned().collect();
        for name in names {
            let feed = self.feed.unwrap_or_else(|| feed_of(&name, feeds));
            if let Some(pace) = feeds.get(feed).map(|feed| feed.pace) {
                self.open(&name, feed, pace, clock, Role::Listed);
            }
        }
        let feed = self.feed.unwrap_or(0);
        if let Some(pace) = feeds.get(feed).map(|feed| feed.pace) {
            self.hold_place(feed, pace, clock);
        }
    }

    fn hold_place(&mut self, feed: usize, pace: Pace, clock: &Clock) {
        if self.subjects.is_empty() {
            self.open(&"".into(), feed, pace, clock, Role::Placeholder);
        }
    }

    /// The window of a subject, new if need be; `None` if the subject is switched off.
    fn open(&mut self, name: &Arc<str>, feed: usize, pace: Pace, clock: &Clock, role: Role) -> Option<&mut Subject> {
        let policy = self.policy_of(name)?.clone();
        let role = if self.expected.contains(name) { Role::Expected } else { role };
        let named = role == Role::Expected || self.named.contains_key(name);
        let new = || Subject { role, feed, pace, policy, window: Window::new(clock.at(), named) };
        let subject = self.subjects.entry(name.clone()).or_insert_with(new);
        Some(subject)
    }

    fn policy_of(&self, name: &str) -> Option<&Arc<Policy>> {
        self.named.get(name).map_or(Some(&self.policy), Option::as_ref)
    }

    fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.named.values().flatten().chain([&self.policy]).map(Arc::as_ref)
    }

    /// A good reading of a collector: sees the subjects that are listed, and misses those that are not.
    fn observe(&mut self, feed: usize, pace: Pace, clock: &Clock, points: &Points) {
        let listed = self.listed(points);
        for (name, &seen) in &listed {
            if let Some(subject) = self.open(name, feed, pace, clock, Role::Listed) {
                subject.is_listed(feed, pace);
                subject.observe(clock, seen);
            }
        }
        self.subjects.retain(|name, subject| listed.contains_key(name) || subject.stays_unlisted(feed, clock));
    }

    /// The subjects of a reading. Of two points of one subject the worse counts.
    fn listed(&self, points: &Points) -> BTreeMap<Arc<str>, Seen> {
        let mut listed = BTreeMap::new();
        for point in points.0.iter().filter(|point| point.fact.is(self.check.fact)) {
            let seen = self.look(point.value);
            let entry = listed.entry(point.subject()).or_insert(seen);
            *entry = worse(*entry, seen);
        }
        listed
    }

    /// A value that is not a number tells nothing, like a missing one.
    fn look(&self, value: Option<f64>) -> Seen {
        match value {
            Some(value) if value.is_nan() => Seen::Unanswered,
            Some(value) if self.check.bad.is_bad(value) => Seen::Bad,
            Some(_) => Seen::Ok,
            None => Seen::Unanswered,
        }
    }

    /// A failed reading: nothing is known of any subject.
    fn fail(&mut self, feed: usize, pace: Pace, clock: &Clock, cause: Cause) {
        self.hold_place(feed, pace, clock);
        for subject in self.subjects.values_mut() {
            subject.observe(clock, cause.into());
        }
    }

    fn verdicts<'a>(&'a self, clock: &'a Clock) -> impl Iterator<Item = Verdict> + 'a {
        self.subjects.iter().map(|(name, subject)| subject.verdict(self.check, name, clock))
    }

    /// Whether this check alone takes readiness away.
    fn is_lost(&self) -> bool {
        let critical = || self.subjects.values().filter(|subject| subject.is_critical());
        let any = |states: [State; 2]| critical().any(|subject| states.contains(&subject.window.underlying()));
        let down = any([State::Failed, State::Recovering]);
        match self.policy.ready_needs {
            ReadyNeeds::All => down,
            ReadyNeeds::Any => down && !any([State::Ok, State::Failing]),
        }
    }

    /// Whether this check degrades the host. Of a check that is lost nobody asks.
    fn is_worrying(&self) -> bool {
        self.subjects.values().any(|subject| match subject.policy.severity {
            Severity::Critical => !matches!(subject.window.state(), State::Starting | State::Ok),
            Severity::Warning => subject.window.state() == State::Failed,
            Severity::Info => false,
        })
    }
}

/// The collector that a check of the loop means by a subject: the one of that name. One that does not run is missed by
/// the first that does.
fn feed_of(subject: &str, feeds: &[Feed]) -> usize {
    feeds.iter().position(|feed| feed.name == subject).unwrap_or(0)
}

fn worse(a: Seen, b: Seen) -> Seen {
    let rank = |seen| [Seen::Ok, Seen::Denied, Seen::Unanswered, Seen::Bad].iter().position(|&other| other == seen);
    if rank(b) > rank(a) { b } else { a }
}

impl Subject {
    fn rules(&self) -> Rules<'_> {
        Rules { policy: &self.policy, pace: self.pace }
    }

    fn is_critical(&self) -> bool {
        self.policy.severity == Severity::Critical
    }

    fn observe(&mut self, clock: &Clock, seen: Seen) {
        let rules = Rules { policy: &self.policy, pace: self.pace };
        self.window.observe(rules, clock, seen);
    }

    fn wake(&mut self, clock: &Clock, gap: Option<Duration>) -> bool {
        let rules = Rules { policy: &self.policy, pace: self.pace };
        let forgot = gap.is_some_and(|gap| self.window.unwatched(rules, gap, clock.at().now));
        self.window.wake(rules, clock) || forgot
    }

    fn is_listed(&mut self, feed: usize, pace: Pace) {
        (self.feed, self.pace) = (feed, pace);
        self.window.absent_since = None;
        if self.role == Role::Placeholder {
            self.role = Role::Listed;
        }
    }

    /// A good reading does not list it. Says whether its window stays.
    fn stays_unlisted(&mut self, feed: usize, clock: &Clock) -> bool {
        match self.role {
            Role::Placeholder => false,
            _ if self.feed != feed => true,
            Role::Expected => {
                self.observe(clock, Seen::Bad);
                true
            }
            Role::Listed => self.is_critical() && self.stands(clock),
        }
    }

    /// What is critical does not vanish at once: its last observation stands for a while.
    fn stands(&mut self, clock: &Clock) -> bool {
        let watched = clock.at().watched;
        let since = *self.window.absent_since.get_or_insert(watched);
        if watched.saturating_sub(since) >= self.rules().unknown_for() {
            return false;
        }
        let bad = self.window.latest() == Some(Seen::Bad);
        self.observe(clock, if bad { Seen::Bad } else { Seen::Unanswered });
        true
    }

    fn verdict(&self, check: &'static Check, name: &Arc<str>, clock: &Clock) -> Verdict {
        let (rules, window) = (self.rules(), &self.window);
        let tally = window.tally(rules, clock);
        Verdict {
            check: check.name,
            subject: name.clone(),
            severity: self.policy.severity,
            state: window.state(),
            since: window.since(),
            means: check.means,
            observed: tally.total(),
            bad: tally.of(Seen::Bad),
            rule: window.rule(rules),
            trips_at: window.trips_at(rules),
            recovers_at: window.recovers_at(),
            unknown_cause: window.unknown_cause(),
        }
    }
}
