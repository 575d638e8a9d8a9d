//! One check on all its subjects: which there are, what is seen of each, and what that says of the host.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::custom::CustomCheck;
use super::kept::{KeptCheck, KeptWindow};
use super::settings::{self, CheckConfig, Settings};
use super::{Change, Feed, Headline, Judged, Verdict};
use crate::fact::{Bound, Check, Fact, Policy, ReadyNeeds, Severity};
use crate::sample::{Cause, Now, Point, Points};
use crate::window::{Clock, Pace, Rules, Seen, State, Window};

/// One check on all its subjects.
#[derive(Debug)]
pub struct Board {
    question: Question,
    /// The collector whose readings it judges; `None`: what the loop says of every collector.
    pub feed: Option<usize>,
    policy: Arc<Policy>,
    /// Subjects with a table of their own; `None`: switched off.
    named: BTreeMap<Arc<str>, Option<Arc<Policy>>>,
    expected: BTreeSet<Arc<str>>,
    pub subjects: BTreeMap<Arc<str>, Subject>,
    /// Subjects that the latest readings dropped, with their last state: not noted yet.
    gone: Vec<(Arc<str>, Option<State>)>,
}

/// What a check asks of a reading: all of it that is not policy.
#[derive(Debug)]
struct Question {
    name: Arc<str>,
    fact: &'static Fact,
    bad: Bound,
    /// Only of points with these label values, by the place of the label.
    labels: Vec<(usize, Arc<str>)>,
    /// With `{}` for the subject.
    headline: Arc<str>,
    means: Arc<str>,
}

/// One check on one subject.
#[derive(Debug)]
pub struct Subject {
    role: Role,
    /// The collector that looks at it.
    feed: usize,
    pace: Pace,
    policy: Arc<Policy>,
    pub window: Window,
    /// The state that was noted last; `None`: none yet.
    noted: Option<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Stands for subjects that nobody has listed yet.
    Placeholder,
    Listed,
    /// Its absence is bad.
    Expected,
}

impl Question {
    fn is_of(&self, point: &Point) -> bool {
        point.fact.is(self.fact) && self.labels.iter().all(|(place, value)| point.labels.get(*place) == Some(value))
    }
}

impl Board {
    /// `None` if the check is switched off.
    pub fn new(check: &Check, feed: Option<usize>, settings: &Settings) -> Option<Board> {
        let Check { name, fact, bad, severity, fail_for, headline, means } = *check;
        let question = Question {
            name: name.into(),
            fact,
            bad,
            labels: Vec::new(),
            headline: headline.into(),
            means: means.into(),
        };
        Board::with(question, feed, &Policy::new(severity, fail_for), settings.of(name))
    }

    /// `None` if the check is switched off.
    pub fn custom(check: &CustomCheck, feed: Option<usize>) -> Option<Board> {
        let CustomCheck { name, fact, bad, labels, headline, means, policy, .. } = check.clone();
        let question = Question { name, fact, bad, labels, headline, means };
        Board::with(question, feed, &CustomCheck::defaults(), Some(&policy))
    }

    fn with(question: Question, feed: Option<usize>, defaults: &Policy, config: Option<&CheckConfig>) -> Option<Board> {
        if config.is_some_and(CheckConfig::is_off) {
            return None;
        }
        let named = config.iter().flat_map(|config| &config.subjects).map(|(name, subject)| {
            let policy = (!subject.is_off()).then(|| Arc::new(settings::policy(defaults, config, Some(subject))));
            (name.as_str().into(), policy)
        });
        Some(Board {
            question,
            feed,
            policy: Arc::new(settings::policy(defaults, config, None)),
            named: named.collect(),
            expected: config.iter().flat_map(|config| &config.expect).map(|name| name.as_str().into()).collect(),
            subjects: BTreeMap::new(),
            gone: Vec::new(),
        })
    }

    /// Opens the windows that stand before any reading: of the subjects that the configuration names, or of none.
    pub fn begin(&mut self, clock: &Clock, feeds: &[Feed]) {
        let Some(first) = feeds.get(self.feed.unwrap_or(0)) else { return };
        for name in self.names() {
            self.open_named(&name, first, clock, feeds);
        }
        self.hold_place(first, clock);
    }

    /// Goes on from what was kept, `away` after it.
    pub fn resume(&mut self, kept: KeptCheck, clock: &Clock, feeds: &[Feed], away: Duration) {
        let Some(first) = feeds.get(self.feed.unwrap_or(0)) else { return };
        for (name, kept) in kept.windows {
            self.reopen(name, kept, clock, feeds, away);
        }
        let is_new = |board: &Board, name: &Arc<str>| board.expected.contains(name) || !kept.named.contains(name);
        for name in self.names() {
            if !self.subjects.contains_key(&name) && is_new(self, &name) {
                self.open_named(&name, first, clock, feeds);
            }
        }
    }

    /// Of a collector that no longer runs nothing goes on.
    fn reopen(&mut self, name: Arc<str>, kept: KeptWindow, clock: &Clock, feeds: &[Feed], away: Duration) {
        let Some(policy) = self.policy_of(&name).cloned() else { return };
        let its = |feed: &&Feed| self.feed.map_or(feed.name == &*kept.collector, |index| feed.index == index);
        let Some(feed) = feeds.iter().find(its) else { return };
        let named = self.is_named(&name);
        let role = match kept.placeholder && !named {
            true => Role::Placeholder,
            false if self.expected.contains(&name) => Role::Expected,
            false => Role::Listed,
        };
        let rules = Rules { policy: &policy, pace: feed.pace };
        let (noted, mut window) = (Some(kept.window.state()), kept.window.resume(rules, named));
        window.unwatched(rules, away, clock.at().now);
        window.wake(rules, clock); // by a faster pace it may be silent already
        self.subjects.insert(name, Subject { role, feed: feed.index, pace: feed.pace, policy, window, noted });
    }

    pub fn keep(&self, feeds: &[Feed]) -> KeptCheck {
        let named = self.names().into_iter().filter(|name| self.policy_of(name).is_some()).collect();
        let windows = self.subjects.iter().map(|(name, subject)| (name.clone(), subject.keep(feeds)));
        KeptCheck { name: self.question.name.clone(), named, windows: windows.collect() }
    }

    pub fn name(&self) -> &str {
        &self.question.name
    }

    /// The subjects that the configuration names, those that it switches off among them.
    fn names(&self) -> BTreeSet<Arc<str>> {
        self.named.keys().chain(&self.expected).cloned().collect()
    }

    fn is_named(&self, name: &str) -> bool {
        self.expected.contains(name) || self.named.contains_key(name)
    }

    fn open_named(&mut self, name: &Arc<str>, first: &Feed, clock: &Clock, feeds: &[Feed]) {
        // A check of the loop means the collector of that name; one that does not run is missed by the first.
        let namesake = feeds.iter().find(|feed| self.feed.is_none() && feed.name == &**name);
        self.open(name, namesake.unwrap_or(first), clock, Role::Listed);
    }

    fn hold_place(&mut self, feed: &Feed, clock: &Clock) {
        if self.subjects.is_empty() {
            self.open(&"".into(), feed, clock, Role::Placeholder);
        }
    }

    /// The window of a subject, new if need be; `None` if the subject is switched off.
    fn open(&mut self, name: &Arc<str>, feed: &Feed, clock: &Clock, role: Role) -> Option<&mut Subject> {
        let policy = self.policy_of(name)?.clone();
        let role = if self.expected.contains(name) { Role::Expected } else { role };
        let named = self.is_named(name);
        let window = || Window::new(clock.at(), named);
        let new = || Subject { role, feed: feed.index, pace: feed.pace, policy, window: window(), noted: None };
        Some(self.subjects.entry(name.clone()).or_insert_with(new))
    }

    fn policy_of(&self, name: &str) -> Option<&Arc<Policy>> {
        self.named.get(name).map_or(Some(&self.policy), Option::as_ref)
    }

    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.named.values().flatten().chain([&self.policy]).map(Arc::as_ref)
    }

    /// A good reading of a collector: sees the subjects that are listed, and misses those that are not.
    pub fn observe(&mut self, feed: &Feed, clock: &Clock, points: &Points) {
        let listed = self.listed(points);
        for (name, &look) in &listed {
            if let Some(subject) = self.open(name, feed, clock, Role::Listed) {
                subject.is_listed(feed);
                subject.look(clock, look);
            }
        }
        let gone = self
            .subjects
            .extract_if(.., |name, subject| !listed.contains_key(name) && !subject.stays_unlisted(feed, clock));
        self.gone.extend(gone.map(|(name, subject)| (name, subject.noted)));
    }

    /// Tells which states have changed since the last time.
    pub fn note(&mut self, at: Now, changes: &mut Vec<Change>) {
        let change = |subject: &Arc<str>, from, to, since| Change {
            check: self.question.name.clone(),
            subject: subject.clone(),
            at,
            from,
            to,
            since,
        };
        for (name, from) in self.gone.drain(..) {
            changes.push(change(&name, from, None, None));
        }
        for (name, subject) in &mut self.subjects {
            let (from, to) = (subject.noted, Some(subject.window.state()));
            if from != to {
                subject.noted = to;
                changes.push(change(name, from, to, Some(subject.window.since())));
            }
        }
    }

    /// The subjects of a reading, `None` for one that is excused. Of two points of one subject the worse counts.
    fn listed(&self, points: &Points) -> BTreeMap<Arc<str>, Option<Seen>> {
        let mut listed = BTreeMap::new();
        for point in points.0.iter().filter(|point| self.question.is_of(point)) {
            let look = point.withheld.map_or_else(|| Some(self.look(point.value)), Seen::unknown);
            let entry = listed.entry(point.subject()).or_insert(look);
            *entry = worse(*entry, look);
        }
        listed
    }

    /// A value that is not a number tells nothing, like a missing one.
    fn look(&self, value: Option<f64>) -> Seen {
        match value {
            Some(value) if value.is_nan() => Seen::Unanswered,
            Some(value) if self.question.bad.is_bad(value) => Seen::Bad,
            Some(_) => Seen::Ok,
            None => Seen::Unanswered,
        }
    }

    /// A failed reading: nothing is known of any subject.
    pub fn fail(&mut self, feed: &Feed, clock: &Clock, cause: Cause) {
        self.hold_place(feed, clock);
        for subject in self.subjects.values_mut() {
            subject.look(clock, Seen::unknown(cause));
        }
    }

    pub fn verdicts<'a>(&'a self, clock: &'a Clock, feeds: &'a [Feed]) -> impl Iterator<Item = Verdict> + 'a {
        let lost = self.is_lost();
        self.subjects
            .iter()
            .map(move |(name, subject)| subject.verdict(&self.question, name, feeds[subject.feed].name, clock, lost))
    }

    /// What it is called, and its own policy.
    pub fn judged(&self) -> Judged {
        let Policy { severity, fail_for, .. } = *self.policy;
        Judged { check: self.question.name.clone(), severity, fail_for }
    }

    /// Whether this check alone takes readiness away.
    pub fn is_lost(&self) -> bool {
        let critical = || self.subjects.values().filter(|subject| subject.is_critical());
        let any = |states: [State; 2]| critical().any(|subject| states.contains(&subject.window.underlying()));
        let down = any([State::Failed, State::Recovering]);
        match self.policy.ready_needs {
            ReadyNeeds::All => down,
            ReadyNeeds::Any => down && !any([State::Ok, State::Failing]),
        }
    }

    /// Whether this check degrades the host. Of a check that is lost nobody asks.
    pub fn is_worrying(&self) -> bool {
        self.subjects.values().any(|subject| match subject.policy.severity {
            Severity::Critical => !matches!(subject.window.state(), State::Starting | State::Ok),
            Severity::Warning => subject.window.state() == State::Failed,
            Severity::Info => false,
        })
    }
}

fn worse(a: Option<Seen>, b: Option<Seen>) -> Option<Seen> {
    let order = [Some(Seen::Bad), Some(Seen::Unanswered), Some(Seen::Denied), None];
    order.into_iter().find(|&bad| a == bad || b == bad).unwrap_or(a)
}

impl Subject {
    fn rules(&self) -> Rules<'_> {
        Rules { policy: &self.policy, pace: self.pace }
    }

    pub fn is_critical(&self) -> bool {
        self.policy.severity == Severity::Critical
    }

    /// `None`: it is excused.
    fn look(&mut self, clock: &Clock, look: Option<Seen>) {
        let rules = Rules { policy: &self.policy, pace: self.pace };
        match look {
            Some(seen) => self.window.observe(rules, clock, seen),
            None => self.window.excused(clock),
        }
    }

    fn miss(&mut self, clock: &Clock) {
        self.window.missing(Rules { policy: &self.policy, pace: self.pace }, clock);
    }

    pub fn wake(&mut self, clock: &Clock, gap: Option<Duration>) -> bool {
        let rules = Rules { policy: &self.policy, pace: self.pace };
        let forgot = gap.is_some_and(|gap| self.window.unwatched(rules, gap, clock.at().now));
        self.window.wake(rules, clock) || forgot
    }

    fn keep(&self, feeds: &[Feed]) -> KeptWindow {
        let collector = feeds[self.feed].name.into();
        KeptWindow { collector, placeholder: self.role == Role::Placeholder, window: self.window.clone() }
    }

    pub fn is_pending(&self) -> bool {
        self.window.is_pending(self.rules())
    }

    fn is_listed(&mut self, feed: &Feed) {
        (self.feed, self.pace) = (feed.index, feed.pace);
        self.window.absent_since = None;
        if self.role == Role::Placeholder {
            self.role = Role::Listed;
        }
    }

    /// A good reading does not list it. Says whether its window stays.
    fn stays_unlisted(&mut self, feed: &Feed, clock: &Clock) -> bool {
        match self.role {
            Role::Placeholder => false,
            _ if self.feed != feed.index => true,
            Role::Expected => {
                self.look(clock, Some(Seen::Bad));
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
        match self.window.latest() {
            Some(Seen::Bad) => self.look(clock, Some(Seen::Bad)),
            _ => self.miss(clock),
        }
        true
    }

    /// `lost` says that the check takes readiness away, through this subject or another.
    fn verdict(
        &self,
        question: &Question,
        name: &Arc<str>,
        collector: &'static str,
        clock: &Clock,
        lost: bool,
    ) -> Verdict {
        let (rules, window) = (self.rules(), &self.window);
        let tally = window.tally(rules, clock);
        let down = matches!(window.state(), State::Failed | State::Recovering);
        Verdict {
            check: question.name.clone(),
            subject: name.clone(),
            collector,
            severity: self.policy.severity,
            state: window.state(),
            since: window.since(),
            headline: Headline { template: question.headline.clone(), subject: name.clone() },
            means: question.means.clone(),
            observed: tally.total(),
            bad: tally.of(Seen::Bad),
            rule: window.rule(rules),
            trips_at: window.trips_at(rules),
            recovers_at: window.recovers_at(rules),
            unknown_cause: window.unknown_cause(),
            latest: window.shown(),
            bad_since: window.bad_since(),
            trouble_since: window.trouble_since(),
            recovers_after: window.recovers_after(rules),
            unready: lost && down && self.is_critical(),
        }
    }
}
