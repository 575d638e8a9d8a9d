//! The bounded past of one check on one subject, and the verdict it comes to.
//!
//! A pure state machine of three layers. The *past* holds the observations of the last minutes. The *base* turns known
//! observations into a verdict: a bad one must last before it fails, an ok one before it recovers. *Silence* lies over
//! the base: no answer for long enough fails too. Time is an argument everywhere, so a week of it takes a test a moment.

mod clock;
mod past;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::fact::{Policy, Span, UnknownAs};
use crate::sample::{Cause, Now};

pub use clock::{Clock, Moment};
use past::Past;
pub use past::{Seen, Tally};

/// A failure within this time (and the window) after a recovery is a relapse: the next recovery must prove itself longer.
const RELAPSE: Duration = Duration::from_secs(3600);

/// What a window says of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing known yet.
    Starting,
    Ok,
    /// Bad, but not yet for long enough.
    Failing,
    Failed,
    /// Ok again after a failure, but not yet for long enough.
    Recovering,
    /// The latest look found nothing out, and the check has not failed (or has recovered).
    Unknown,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Ok => "ok",
            State::Failing => "failing",
            State::Failed => "failed",
            State::Recovering => "recovering",
            State::Unknown => "unknown",
        }
    }
}

/// How often a collector looks, and how long it waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    pub interval: Duration,
    pub timeout: Duration,
}

impl Pace {
    /// Three intervals and a time-out: a shorter pause between two observations proves nothing.
    pub fn patience(self) -> Duration {
        self.interval.saturating_mul(3).saturating_add(self.timeout)
    }
}

/// What a window is judged by: the policy of its check and subject, and the pace of its collector.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    pub policy: &'a Policy,
    pub pace: Pace,
}

impl Rules<'_> {
    /// How far back the window reaches: wide enough for `ratio_min` to be met at a slow pace too, and for a share of a
    /// half to amount to `fail_for`.
    pub fn span(self) -> Duration {
        let interval = self.pace.interval;
        let twice = self.policy.ratio_min.saturating_mul(2);
        let halves = self.policy.fail_for.saturating_add(interval.saturating_mul(2)).saturating_mul(2);
        self.policy.ratio_window.max(interval.saturating_mul(twice)).max(halves)
    }

    /// Silence of this length fails: never less than the collector's patience.
    pub fn unknown_for(self) -> Duration {
        self.policy.unknown_for.max(self.pace.patience())
    }

    /// How many observations are kept. It bounds the memory if readings come faster than promised.
    fn capacity(self) -> usize {
        let interval = self.pace.interval.max(Duration::from_millis(1));
        let count = self.span().as_nanos().div_ceil(interval.as_nanos());
        usize::try_from(count).unwrap_or(usize::MAX).saturating_add(8)
    }

    /// Whether unanswered observations are so frequent that an answer in between is no comfort.
    fn often_silent(self, tally: Tally) -> bool {
        let enough = u64::from(tally.total()) >= u64::from(self.policy.ratio_min) * 2;
        enough && self.policy.fail_ratio.is_some_and(|limit| silent_share(tally) >= limit)
    }

    /// Whether that still holds after it has failed the check. Half as often is enough: a share that hovers about the
    /// limit would else turn readiness on and off with every poll.
    fn still_silent(self, tally: Tally) -> bool {
        self.policy.fail_ratio.is_some_and(|limit| silent_share(tally) >= limit / 2.0)
    }

    /// The first rule, if any, by which a streak of bad observations has become a failure.
    fn tripped(self, streak: Streak, at: Now, tally: Tally) -> Option<Rule> {
        let lasted = at.mono.saturating_sub(streak.first.mono);
        if streak.count >= 2 && lasted >= self.policy.fail_for {
            Some(Rule::FailFor)
        } else if self.policy.fail_count.is_some_and(|count| streak.count >= count) {
            Some(Rule::FailCount)
        } else if self.policy.fail_ratio.is_some_and(|limit| self.is_flapping(limit, tally)) {
            Some(Rule::FailRatio)
        } else {
            None
        }
    }

    fn is_flapping(self, limit: f64, tally: Tally) -> bool {
        let bad = tally.of(Seen::Bad);
        // n bad observations span n - 1 intervals at least.
        let lasted = self.pace.interval.saturating_mul(bad.saturating_sub(1));
        tally.known() >= self.policy.ratio_min && share(bad, tally.known()) >= limit && lasted >= self.policy.fail_for
    }

    fn spell(self, rule: Rule) -> String {
        let Policy { fail_for, fail_count, fail_ratio, .. } = self.policy;
        match (rule, fail_count, fail_ratio) {
            (Rule::FailCount, Some(count), _) => format!("fail_count {count}"),
            (Rule::FailRatio, _, Some(ratio)) => format!("fail_ratio {ratio} over {}", Span(self.span())),
            (Rule::UnknownFor, ..) => format!("unknown_for {}", Span(self.unknown_for())),
            _ => format!("fail_for {}", Span(*fail_for)),
        }
    }
}

fn silent_share(tally: Tally) -> f64 {
    share(tally.of(Seen::Unanswered), tally.total())
}

fn share(part: u32, whole: u32) -> f64 {
    f64::from(part) / f64::from(whole)
}

/// By what a check failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Rule {
    FailFor,
    FailCount,
    FailRatio,
    UnknownFor,
}

/// The verdict of known observations alone.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Base {
    Starting,
    Ok { since: Now },
    Failing(Streak),
    Failed(Failure),
    Recovering { failure: Failure, since: Now, run: Option<Run> },
}

/// Bad observations without an ok between them.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Streak {
    first: Now,
    count: u32,
    was_ok: bool,
}

/// Ok observations with nothing else between them.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Run {
    first: Now,
    count: u32,
}

/// A streak that lasted: its first bad observation, and the rule it broke.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Failure {
    since: Now,
    rule: Rule,
}

/// Nobody answers: since when, and whether that has become a failure.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Silence {
    /// Where the unbroken run of unanswered observations began.
    #[serde(skip_serializing_if = "Option::is_none")]
    unbroken: Option<Moment>,
    /// Where silence began if answers in between are too rare to count.
    #[serde(skip_serializing_if = "Option::is_none")]
    intermittent: Option<Moment>,
    /// Set once silence has failed the check: where it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    failed: Option<Moment>,
}

impl Silence {
    fn is_none(&self) -> bool {
        *self == Silence::default()
    }

    fn start(&self) -> Option<Moment> {
        [self.unbroken, self.intermittent].into_iter().flatten().min_by_key(|start| start.watched)
    }

    /// So much of the time since then does not count. What has failed has failed.
    fn spare(&mut self, span: Duration) {
        [&mut self.unbroken, &mut self.intermittent].into_iter().flatten().for_each(|start| *start = start.plus(span));
    }
}

fn has_lasted(start: Option<Moment>, at: Moment, span: Duration) -> bool {
    start.is_some_and(|start| at.watched.saturating_sub(start.watched) >= span)
}

/// One check on one subject. All that it remembers is in here, and is what a restart keeps; what it is judged by is an
/// argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Window {
    past: Past,
    base: Base,
    #[serde(default, skip_serializing_if = "Silence::is_none")]
    silence: Silence,
    /// The first of the latest looks if all since were excused: silence stands still from there on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    excused_since: Option<Moment>,
    created: Now,
    /// The latest observation; the past may have been emptied since. `None`: none ever.
    latest: Option<Seen>,
    /// When that was; the creation if there was none.
    latest_at: Moment,
    /// No observation at all for longer than the collector's patience.
    stale: bool,
    /// The first unanswered, denied or stale moment after the last known observation.
    unknown_since: Option<Now>,
    /// The configuration names the subject.
    #[serde(skip)]
    named: bool,
    /// It was known once.
    known: bool,
    /// How many failures came each soon after the recovery from the one before: recovery doubles with each.
    relapses: u32,
    recovered_at: Option<Duration>,
    /// Watched time at which a good reading first did not list the subject any more.
    pub absent_since: Option<Duration>,
}

impl Window {
    /// `named` says that the configuration names the subject.
    pub fn new(at: Moment, named: bool) -> Window {
        Window {
            past: Past::default(),
            base: Base::Starting,
            silence: Silence::default(),
            excused_since: None,
            created: at.now,
            latest: None,
            latest_at: at,
            stale: false,
            unknown_since: None,
            named,
            known: false,
            relapses: 0,
            recovered_at: None,
            absent_since: None,
        }
    }

    /// Goes on from what was kept, under a configuration that may have other rules and name other subjects.
    pub fn resume(self, rules: Rules<'_>, named: bool) -> Window {
        let mut window = Window { named, ..self };
        window.past.trim(rules);
        window
    }

    /// Takes one observation, made at the clock's moment, for which it has been woken.
    pub fn observe(&mut self, rules: Rules<'_>, clock: &Clock, seen: Seen) {
        let at = clock.at();
        if seen != Seen::Unanswered {
            self.break_silence(rules, at);
        }
        self.end_excuse(at);
        if seen.is_known() && !self.is_vouched_for() {
            self.past.clear(); // silence from before it was ever known says nothing of it
        }
        self.past.push(at.now.mono, seen, rules);
        (self.latest, self.latest_at, self.stale) = (Some(seen), at, false);
        match seen {
            Seen::Ok => {
                self.ok(rules, at.now);
                self.known(rules);
            }
            Seen::Bad => {
                self.bad(rules, at.now);
                self.known(rules);
            }
            Seen::Unanswered => {
                self.unknown(at.now);
                self.unanswered(rules, clock);
            }
            Seen::Denied => {
                self.unknown(at.now);
                self.silence = Silence::default();
            }
        }
    }

    /// A good reading does not list it. Somebody answered, so this is no silence of it; what is known of it stands.
    pub fn missing(&mut self, rules: Rules<'_>, clock: &Clock) {
        let at = clock.at();
        self.break_silence(rules, at);
        (self.latest, self.latest_at, self.stale) = (Some(Seen::Unanswered), at, false);
        self.unknown(at.now);
        (self.silence, self.excused_since) = (Silence::default(), None);
    }

    /// Nobody can tell of it, for a reason that is none of it (`Cause::Excused`). That is neither silence of it nor an
    /// answer: the verdict stands, one by silence too, and a silence that has begun goes on after it.
    pub fn excused(&mut self, clock: &Clock) {
        let at = clock.at();
        (self.latest, self.latest_at, self.stale) = (Some(Seen::Unanswered), at, false);
        self.unknown(at.now);
        self.excused_since.get_or_insert(at);
    }

    fn end_excuse(&mut self, at: Moment) {
        if let Some(since) = self.excused_since.take() {
            self.silence.spare(at.watched.saturating_sub(since.watched));
        }
    }

    /// Notices what time alone changes, and says whether it did: silence, nothing else.
    pub fn wake(&mut self, rules: Rules<'_>, clock: &Clock) -> bool {
        let (at, before) = (clock.at(), (self.stale, self.is_silenced()));
        let patience = rules.pace.patience();
        if !self.stale && at.watched.saturating_sub(self.latest_at.watched) > patience {
            let began = self.latest_at.plus(patience);
            self.stale = true;
            self.end_excuse(began);
            self.silence.unbroken.get_or_insert(began);
            self.unknown_since.get_or_insert(began.now);
        }
        // One that the latest good reading does not list is about to be dropped: only a failed reading makes its silence news.
        if self.absent_since.is_none() {
            self.trip_silence(rules, at);
        }
        before != (self.stale, self.is_silenced())
    }

    /// Nobody watched for a while. After longer than the patience, what went before proves nothing of what comes.
    /// Says whether the verdict changed.
    pub fn unwatched(&mut self, rules: Rules<'_>, gap: Duration, now: Now) -> bool {
        if gap <= rules.pace.patience() {
            return false;
        }
        match &mut self.base {
            Base::Failing(Streak { was_ok: true, .. }) => self.base = Base::Ok { since: now },
            Base::Failing(_) => self.base = Base::Starting,
            Base::Recovering { run, .. } => *run = None,
            Base::Starting | Base::Ok { .. } | Base::Failed(_) => return false,
        }
        true
    }

    fn ok(&mut self, rules: Rules<'_>, now: Now) {
        self.base = match self.base {
            Base::Ok { since } => Base::Ok { since },
            Base::Starting | Base::Failing(_) => Base::Ok { since: now },
            Base::Failed(failure) => Base::Recovering { failure, since: now, run: Some(Run { first: now, count: 1 }) },
            Base::Recovering { failure, since, run } => {
                let first = run.map_or(now, |run| run.first);
                let run = Run { first, count: run.map_or(0, |run| run.count).saturating_add(1) };
                match self.has_recovered(rules, run, now) {
                    true => self.recover(now),
                    false => Base::Recovering { failure, since, run: Some(run) },
                }
            }
        };
    }

    fn has_recovered(&self, rules: Rules<'_>, run: Run, now: Now) -> bool {
        run.count >= 2 && now.mono.saturating_sub(run.first.mono) >= self.recover_for(rules)
    }

    /// How long the recovery from the latest failure must last.
    fn recover_for(&self, rules: Rules<'_>) -> Duration {
        let (once, most) = (rules.policy.recover_for, rules.span().max(rules.policy.recover_for));
        once.saturating_mul(1_u32.checked_shl(self.relapses).unwrap_or(u32::MAX)).min(most)
    }

    /// The past is emptied, or the old bad ones would fail it again at the first new one.
    fn recover(&mut self, now: Now) -> Base {
        self.past.clear();
        self.recovered_at = Some(now.mono);
        Base::Ok { since: now }
    }

    fn bad(&mut self, rules: Rules<'_>, now: Now) {
        let streak = match self.base {
            Base::Starting => Streak { first: now, count: 1, was_ok: false },
            Base::Ok { .. } => Streak { first: now, count: 1, was_ok: true },
            Base::Failing(streak) => Streak { count: streak.count.saturating_add(1), ..streak },
            Base::Failed(failure) | Base::Recovering { failure, .. } => {
                self.base = Base::Failed(failure);
                return;
            }
        };
        self.base = match rules.tripped(streak, now, self.past.tally()) {
            Some(rule) => self.fail(rules, now, Failure { since: streak.first, rule }),
            None => Base::Failing(streak),
        };
    }

    fn fail(&mut self, rules: Rules<'_>, now: Now, failure: Failure) -> Base {
        let soon = rules.span().saturating_add(RELAPSE);
        let relapse = self.recovered_at.is_some_and(|at| now.mono.saturating_sub(at) <= soon);
        self.relapses = if relapse { self.relapses.saturating_add(1) } else { 0 };
        Base::Failed(failure)
    }

    fn unknown(&mut self, now: Now) {
        self.unknown_since.get_or_insert(now);
        if let Base::Recovering { run, .. } = &mut self.base {
            *run = None;
        }
    }

    /// Someone answers after a long silence: what was unanswered then may not count as intermittent now.
    fn break_silence(&mut self, rules: Rules<'_>, at: Moment) {
        let until = self.excused_since.unwrap_or(at);
        if self.is_silenced() && has_lasted(self.silence.unbroken, until, rules.unknown_for()) {
            self.past.clear();
            self.silence = Silence::default();
        }
    }

    fn known(&mut self, rules: Rules<'_>) {
        let stays = rules.still_silent(self.past.tally());
        let failed = self.silence.failed.filter(|_| stays);
        self.silence = Silence { unbroken: None, intermittent: None, failed };
        self.unknown_since = None;
        self.known = true;
    }

    fn unanswered(&mut self, rules: Rules<'_>, clock: &Clock) {
        self.silence.unbroken.get_or_insert(clock.at());
        if self.silence.intermittent.is_none() && rules.often_silent(self.past.tally()) {
            self.silence.intermittent = self.past.first(Seen::Unanswered).map(|mono| clock.back_to(mono));
        }
        self.trip_silence(rules, clock.at());
    }

    fn trip_silence(&mut self, rules: Rules<'_>, at: Moment) {
        let (start, until) = (self.silence.start(), self.excused_since.unwrap_or(at));
        let may_fail = self.is_vouched_for() && rules.policy.unknown_as == UnknownAs::Fail;
        if may_fail && !self.is_silenced() && has_lasted(start, until, rules.unknown_for()) {
            self.silence.failed = start;
        }
    }

    /// Known once, or named by the configuration: only then can silence fail it.
    fn is_vouched_for(&self) -> bool {
        self.known || self.named
    }

    fn is_silenced(&self) -> bool {
        self.silence.failed.is_some()
    }

    /// The latest observation, whatever has been forgotten since; `None` if there was none.
    pub fn latest(&self) -> Option<Seen> {
        self.latest
    }

    /// The state that people see.
    pub fn state(&self) -> State {
        match self.underlying() {
            // Neither is over because somebody did not answer.
            state @ (State::Failed | State::Recovering) => state,
            _ if self.is_unknown() => State::Unknown,
            state => state,
        }
    }

    fn is_unknown(&self) -> bool {
        self.latest.is_some_and(|latest| self.stale || !latest.is_known())
    }

    /// The state that decides readiness: while nothing is known, the one before.
    pub fn underlying(&self) -> State {
        match self.base {
            _ if self.is_silenced() => State::Failed,
            Base::Starting => State::Starting,
            Base::Ok { .. } => State::Ok,
            Base::Failing(_) => State::Failing,
            Base::Failed(_) => State::Failed,
            Base::Recovering { .. } => State::Recovering,
        }
    }

    /// Since when: the first observation of what made the state, not the moment it was reached.
    pub fn since(&self) -> Now {
        match (self.base, self.silence.failed, self.unknown_since) {
            (Base::Failed(failure), ..) => failure.since,
            (_, Some(start), _) => start.now,
            (_, _, Some(since)) if self.state() == State::Unknown => since,
            (Base::Starting, ..) => self.created,
            (Base::Ok { since } | Base::Recovering { since, .. }, ..) => since,
            (Base::Failing(streak), ..) => streak.first,
        }
    }

    /// The rule that failed it, or would fail the streak at hand.
    pub fn rule(&self, rules: Rules<'_>) -> String {
        rules.spell(match self.base {
            Base::Failed(failure) => failure.rule,
            _ if self.is_silenced() => Rule::UnknownFor,
            Base::Recovering { failure, .. } => failure.rule,
            Base::Failing(streak) => self.next_trip(rules, streak).1,
            Base::Starting | Base::Ok { .. } => {
                self.next_trip(rules, Streak { first: self.latest_at.now, count: 1, was_ok: true }).1
            }
        })
    }

    /// When a streak fails if it goes on, and by which rule.
    fn next_trip(&self, rules: Rules<'_>, streak: Streak) -> (Now, Rule) {
        let by_time = (streak.first.plus(rules.policy.fail_for), Rule::FailFor);
        let Some(count) = rules.policy.fail_count else { return by_time };
        let more = rules.pace.interval.saturating_mul(count.saturating_sub(streak.count));
        let by_count = (self.latest_at.now.plus(more), Rule::FailCount);
        if by_count.0.mono < by_time.0.mono { by_count } else { by_time }
    }

    /// When it will fail if it goes on like this.
    pub fn trips_at(&self, rules: Rules<'_>) -> Option<Timestamp> {
        let moment = match (self.state(), self.base) {
            (State::Failing, Base::Failing(streak)) => self.next_trip(rules, streak).0,
            (State::Unknown, _) if self.excused_since.is_some() => return None,
            (State::Unknown, _) if self.is_vouched_for() && rules.policy.unknown_as == UnknownAs::Fail => {
                self.silence.start()?.now.plus(rules.unknown_for())
            }
            _ => return None,
        };
        Some(moment.wall)
    }

    /// When it will be ok if it goes on like this.
    pub fn recovers_at(&self, rules: Rules<'_>) -> Option<Timestamp> {
        match (self.state(), self.base) {
            (State::Recovering, Base::Recovering { run, .. }) => Some(run?.first.plus(self.recover_for(rules)).wall),
            _ => None,
        }
    }

    /// The latest observation as people see it: unanswered when it is too long ago. `None`: there was none.
    pub fn shown(&self) -> Option<Seen> {
        match self.latest {
            None => self.is_silenced().then_some(Seen::Unanswered),
            Some(_) if self.stale => Some(Seen::Unanswered),
            latest => latest,
        }
    }

    /// Where the streak of bad observations began, or the failure that stands (recovering, it still does).
    pub fn bad_since(&self) -> Option<Now> {
        match (self.base, self.silence.failed) {
            (Base::Failing(streak), None) => Some(streak.first),
            (Base::Failed(failure) | Base::Recovering { failure, .. }, _) => Some(failure.since),
            (_, silenced) => silenced.map(|start| start.now),
        }
    }

    /// Monotonic time of the first bad observation of what failed it: of the streak, or for flapping, of the window.
    pub fn trouble_since(&self) -> Option<Duration> {
        match (self.base, self.silence.failed) {
            (Base::Failed(Failure { rule: Rule::FailRatio, .. }), _) => self.past.first(Seen::Bad),
            (Base::Failed(failure), _) => Some(failure.since.mono),
            (_, silenced) => silenced.map(|start| start.now.mono),
        }
    }

    /// How long it must be ok to get over its failure. `None` if none stands, or if it is silence that fails it now.
    pub fn recovers_after(&self, rules: Rules<'_>) -> Option<Duration> {
        match self.base {
            Base::Failed(_) => Some(self.recover_for(rules)),
            Base::Recovering { .. } if !self.is_silenced() => Some(self.recover_for(rules)),
            _ => None,
        }
    }

    /// Whether its next observations may change the verdict: losing one of them would.
    pub fn is_pending(&self, rules: Rules<'_>) -> bool {
        self.trips_at(rules).is_some() || self.state() == State::Recovering
    }

    /// Why nothing is known now; unanswered if silence has failed it.
    pub fn unknown_cause(&self) -> Option<Cause> {
        match self.latest {
            _ if self.is_silenced() => Some(Cause::Unanswered),
            Some(_) if self.stale => Some(Cause::Unanswered),
            Some(_) if self.excused_since.is_some() => Some(Cause::Excused),
            latest => latest?.cause(),
        }
    }

    /// What is in the window at the clock's moment.
    pub fn tally(&self, rules: Rules<'_>, clock: &Clock) -> Tally {
        self.past.tally_at(clock.at().now.mono, rules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fact::Severity;

    const DAY: u64 = 24 * 3600;

    /// One window, driven like the river drives it: a wake every second, observations in between.
    struct Lab {
        policy: Policy,
        pace: Pace,
        clock: Clock,
        window: Window,
        begun: Now,
    }

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Critical, `fail_for` 2m, every 15 s with 10 s time-out: patience 55 s, window 10 m, silence 5 m.
    fn lab() -> Lab {
        lab_with(15, |_| {})
    }

    fn lab_with(interval: u64, change: impl FnOnce(&mut Policy)) -> Lab {
        let begun = Now { mono: seconds(5000), wall: "2026-11-21T10:00:00Z".parse().unwrap() };
        let mut policy = Policy::new(Severity::Critical, seconds(120));
        change(&mut policy);
        let pace = Pace { interval: seconds(interval), timeout: seconds(10) };
        let clock = Clock::new(begun, Rules { policy: &policy, pace }.span());
        let window = Window::new(clock.at(), false);
        Lab { policy, pace, clock, window, begun }
    }

    impl Lab {
        fn rules(&self) -> Rules<'_> {
            Rules { policy: &self.policy, pace: self.pace }
        }

        fn elapsed(&self) -> u64 {
            (self.clock.at().now.mono - self.begun.mono).as_secs()
        }

        fn moment(&self, at: u64) -> Now {
            self.begun.plus(seconds(at))
        }

        fn tick(&mut self, now: Now) {
            let rules = Rules { policy: &self.policy, pace: self.pace };
            if let Some(gap) = self.clock.advance(now) {
                self.window.unwatched(rules, gap, now);
            }
            self.window.wake(rules, &self.clock);
        }

        /// Lets time pass, watched.
        fn wait(&mut self, until: u64) -> State {
            for at in self.elapsed() + 1..=until {
                self.tick(self.moment(at));
            }
            self.window.state()
        }

        /// Lets time pass in which nobody watches.
        fn sleep(&mut self, until: u64) -> State {
            self.tick(self.moment(until));
            self.window.state()
        }

        fn see(&mut self, at: u64, seen: Seen) -> State {
            self.wait(at);
            let rules = Rules { policy: &self.policy, pace: self.pace };
            self.window.observe(rules, &self.clock, seen);
            self.window.state()
        }

        /// The same thing at every interval, from the next one on, until (and with) a time.
        fn see_all(&mut self, until: u64, seen: Seen) -> State {
            let interval = self.pace.interval.as_secs();
            while self.elapsed() / interval * interval + interval <= until {
                self.see(self.elapsed() / interval * interval + interval, seen);
            }
            self.window.state()
        }

        fn tally(&self) -> Tally {
            self.window.tally(self.rules(), &self.clock)
        }

        fn rule(&self) -> String {
            self.window.rule(self.rules())
        }

        fn trips_at(&self) -> Option<Timestamp> {
            self.window.trips_at(self.rules())
        }

        fn recovers_at(&self) -> Option<Timestamp> {
            self.window.recovers_at(self.rules())
        }
    }

    #[test]
    fn the_first_observation_ends_starting() {
        let mut lab = lab();
        assert_eq!(lab.window.state(), State::Starting);
        assert_eq!(lab.see(15, Seen::Ok), State::Ok);
        assert_eq!(lab.window.since(), lab.moment(15));
        assert_eq!(self::lab().see(15, Seen::Bad), State::Failing);
    }

    #[test]
    fn a_streak_fails_when_latest_minus_first_bad_reaches_fail_for() {
        let mut lab = lab();
        lab.see(15, Seen::Ok);
        assert_eq!(lab.see_all(135, Seen::Bad), State::Failing);
        assert_eq!(lab.window.since(), lab.moment(30));
        assert_eq!(lab.trips_at(), Some(lab.moment(150).wall));
        assert_eq!(lab.wait(149), State::Failing);
        assert_eq!(lab.see(150, Seen::Bad), State::Failed);
        assert_eq!(lab.rule(), "fail_for 2m");
        assert_eq!((lab.window.since(), lab.trips_at()), (lab.moment(30), None));
    }

    #[test]
    fn time_alone_never_fails_a_streak() {
        let mut lab = lab_with(300, |_| {});
        lab.see(300, Seen::Ok);
        lab.see(600, Seen::Bad);
        assert_eq!(lab.wait(899), State::Failing);
        assert_eq!(lab.see(900, Seen::Bad), State::Failed);
    }

    #[test]
    fn even_without_fail_for_one_bad_observation_is_not_enough() {
        let mut lab = lab_with(15, |policy| policy.fail_for = Duration::ZERO);
        assert_eq!(lab.see(15, Seen::Bad), State::Failing);
        assert_eq!(lab.see(15, Seen::Bad), State::Failed);
    }

    #[test]
    fn an_ok_ends_the_streak_and_the_unknown_does_not() {
        let mut lab = lab();
        lab.see_all(105, Seen::Bad);
        assert_eq!(lab.see(135, Seen::Ok), State::Ok);
        assert_eq!(lab.see(150, Seen::Bad), State::Failing);
        assert_eq!(lab.see(165, Seen::Unanswered), State::Unknown);
        assert_eq!(lab.see(180, Seen::Denied), State::Unknown);
        assert_eq!(lab.window.underlying(), State::Failing);
        assert_eq!(lab.see(270, Seen::Bad), State::Failed, "120 s after the first bad one");
    }

    #[test]
    fn of_two_rules_the_one_that_comes_first_is_told() {
        let told = |count, fail_for| {
            let mut lab = lab_with(15, |policy| {
                (policy.fail_count, policy.fail_for) = (Some(count), seconds(fail_for));
            });
            lab.see(15, Seen::Ok);
            lab.see(30, Seen::Bad);
            lab.see(45, Seen::Bad);
            (lab.rule(), (lab.trips_at().unwrap().duration_since(lab.begun.wall)).as_secs())
        };
        assert_eq!(told(4, 600), ("fail_count 4".to_owned(), 75), "two more, after 45");
        assert_eq!(told(4, 40), ("fail_for 40s".to_owned(), 70), "40 s after 30");
        assert_eq!(told(400, 600), ("fail_for 10m".to_owned(), 630));
    }

    #[test]
    fn fail_count_fails_whatever_the_span() {
        let mut lab = lab_with(15, |policy| policy.fail_count = Some(3));
        lab.see(1, Seen::Bad);
        lab.see(2, Seen::Unanswered);
        assert_eq!(lab.see(3, Seen::Bad), State::Failing);
        assert_eq!(lab.see(4, Seen::Bad), State::Failed);
        assert_eq!(lab.rule(), "fail_count 3");

        let mut lab = lab_with(15, |policy| policy.fail_count = Some(1));
        assert_eq!(lab.see(15, Seen::Bad), State::Failed);
    }

    #[test]
    fn flapping_fails_by_ratio_once_the_bad_ones_span_fail_for() {
        let mut lab = lab();
        for at in 1..=16 {
            assert_ne!(lab.see_all(at * 15, if at % 2 == 0 { Seen::Ok } else { Seen::Bad }), State::Failed, "{at}");
        }
        assert_eq!(lab.see(17 * 15, Seen::Bad), State::Failed, "the ninth bad one: (9 - 1) x 15 s = 2m");
        assert_eq!(lab.rule(), "fail_ratio 0.5 over 10m");
        assert_eq!(lab.window.since(), lab.moment(255), "this streak's first");
        assert_eq!((lab.tally().total(), lab.tally().of(Seen::Bad)), (17, 9));
    }

    #[test]
    fn flapping_needs_ratio_min_known_observations() {
        let mut lab = lab_with(60, |policy| policy.fail_for = seconds(30));
        for at in 1..=9 {
            lab.see(at * 60, if at % 2 == 0 { Seen::Ok } else { Seen::Bad });
            lab.see(at * 60, Seen::Denied);
        }
        assert_eq!(lab.window.underlying(), State::Failing, "nine known, nine denied");
        lab.see(600, Seen::Ok);
        assert_eq!(lab.see(660, Seen::Bad), State::Failed);
    }

    #[test]
    fn a_ratio_below_the_limit_or_switched_off_never_fails() {
        for fail_ratio in [Some(0.51), None] {
            let mut lab = lab_with(15, |policy| policy.fail_ratio = fail_ratio);
            for at in 1..=200 {
                lab.see(at * 15, if at % 2 == 0 { Seen::Bad } else { Seen::Ok });
                assert_ne!(lab.window.state(), State::Failed, "{fail_ratio:?} {at}");
            }
        }
    }

    #[test]
    fn one_bad_in_ten_for_ever_is_no_failure() {
        let mut lab = lab();
        for at in 1..=DAY / 15 {
            let state = lab.see(at * 15, if at % 10 == 0 { Seen::Bad } else { Seen::Ok });
            assert_eq!(state, if at % 10 == 0 { State::Failing } else { State::Ok });
        }
    }

    #[test]
    fn recovery_needs_a_minute_of_nothing_but_ok_and_empties_the_window() {
        let mut lab = lab();
        lab.see_all(150, Seen::Bad);
        assert_eq!(lab.see(165, Seen::Ok), State::Recovering);
        assert_eq!((lab.window.since(), lab.recovers_at()), (lab.moment(165), Some(lab.moment(225).wall)));
        assert_eq!(lab.see_all(210, Seen::Ok), State::Recovering);
        assert_eq!(lab.tally().total(), 14);
        assert_eq!(lab.see(225, Seen::Ok), State::Ok);
        assert_eq!((lab.window.since(), lab.recovers_at()), (lab.moment(225), None));
        assert_eq!(lab.tally(), Tally::default());
    }

    #[test]
    fn recovery_needs_two_ok_observations_even_without_recover_for() {
        let mut lab = lab_with(15, |policy| policy.recover_for = Duration::ZERO);
        lab.see_all(150, Seen::Bad);
        assert_eq!(lab.see(165, Seen::Ok), State::Recovering);
        assert_eq!(lab.see(165, Seen::Ok), State::Ok);
    }

    #[test]
    fn a_bad_one_while_recovering_fails_again_at_once_as_the_same_failure() {
        let mut lab = lab();
        lab.see_all(150, Seen::Bad);
        lab.see(165, Seen::Ok);
        assert_eq!(lab.see(180, Seen::Bad), State::Failed);
        assert_eq!((lab.window.since(), lab.rule()), (lab.moment(15), "fail_for 2m".into()));
        assert_eq!(lab.see_all(240, Seen::Ok), State::Recovering);
        assert_eq!(lab.see(255, Seen::Ok), State::Ok, "one minute still: nothing was doubled");
    }

    #[test]
    fn the_unknown_breaks_a_recovery_which_starts_anew_at_the_next_ok() {
        for unknown in [Seen::Unanswered, Seen::Denied] {
            let mut lab = lab();
            lab.see_all(150, Seen::Bad);
            lab.see_all(210, Seen::Ok);
            assert_eq!(lab.see(220, unknown), State::Recovering);
            assert_eq!(lab.recovers_at(), None);
            assert_eq!(lab.see_all(270, Seen::Ok), State::Recovering, "the run began at 225");
            assert_eq!(lab.window.since(), lab.moment(165));
            assert_eq!(lab.see(285, Seen::Ok), State::Ok);
        }
    }

    #[test]
    fn two_hours_of_flapping_change_readiness_a_few_times_only() {
        for interval in [1, 15, 45] {
            let (mut lab, mut changes, mut ready) = (lab_with(interval, |_| {}), 0, true);
            for at in 1..=7200 / interval {
                let bad = at * interval / 90 % 2 == 1;
                lab.see(at * interval, if bad { Seen::Bad } else { Seen::Ok });
                let now = !matches!(lab.window.underlying(), State::Failed | State::Recovering);
                changes += usize::from(now != ready);
                ready = now;
            }
            assert!((1..=10).contains(&changes), "{changes} changes at {interval} s");
        }
    }

    /// Fails it, lets it recover, and says how long the recovery took.
    fn relapse(lab: &mut Lab, from: u64) -> u64 {
        lab.see_all(from, Seen::Ok);
        lab.see_all(from + 150, Seen::Bad);
        assert_eq!(lab.window.state(), State::Failed);
        let first = from + 165;
        let mut at = first;
        while lab.see(at, Seen::Ok) != State::Ok {
            at += 15;
        }
        at - first
    }

    #[test]
    fn each_relapse_doubles_the_recovery_up_to_the_window() {
        let mut lab = lab();
        let mut took = Vec::new();
        for _ in 0..6 {
            let from = lab.elapsed() + 300;
            took.push(relapse(&mut lab, from));
        }
        assert_eq!(took, [60, 120, 240, 480, 600, 600]);
        let from = lab.elapsed() + 3600 + 600 + 15;
        assert_eq!(relapse(&mut lab, from), 60, "a failure long after the recovery is a first one");
    }

    #[test]
    fn a_relapse_is_within_an_hour_and_the_window_of_the_recovery() {
        for (after, recovery) in [(4200, 120), (4215, 60)] {
            let mut lab = lab();
            relapse(&mut lab, 15);
            let recovered = lab.elapsed();
            // The failure itself, not its first bad observation, counts.
            assert_eq!(relapse(&mut lab, recovered + after - 135), recovery);
        }
    }

    #[test]
    fn a_recovery_longer_than_the_window_is_not_cut_down() {
        let mut lab = lab_with(15, |policy| policy.recover_for = seconds(1200));
        assert_eq!(relapse(&mut lab, 15), 1200);
        let from = lab.elapsed() + 30;
        assert_eq!(relapse(&mut lab, from), 1200);
    }

    #[test]
    fn unbroken_silence_fails_by_time_alone_and_the_first_answer_lifts_it() {
        let mut lab = lab();
        lab.see(15, Seen::Ok);
        assert_eq!(lab.see_all(315, Seen::Unanswered), State::Unknown);
        assert_eq!((lab.window.since(), lab.trips_at()), (lab.moment(30), Some(lab.moment(330).wall)));
        assert_eq!(lab.window.underlying(), State::Ok);
        assert_eq!(lab.wait(329), State::Unknown);
        assert_eq!(lab.wait(330), State::Failed);
        assert_eq!(lab.window.underlying(), State::Failed);
        assert_eq!((lab.window.since(), lab.rule()), (lab.moment(30), "unknown_for 5m".into()));
        assert_eq!(lab.window.unknown_cause(), Some(Cause::Unanswered));
        assert_eq!(lab.see(345, Seen::Ok), State::Ok);
        assert_eq!(lab.tally().total(), 1, "emptied, but for the answer");
        assert_eq!(lab.see(360, Seen::Unanswered), State::Unknown, "a new silence is a new one");
    }

    #[test]
    fn silence_is_at_least_the_patience_of_the_collector() {
        let mut lab = lab_with(300, |_| {});
        lab.see(300, Seen::Ok);
        lab.see_all(1500, Seen::Unanswered);
        assert_eq!(lab.wait(1509), State::Unknown);
        assert_eq!(lab.wait(1510), State::Failed, "3 x 300 s + 10 s after 600");
        assert_eq!(lab.rule(), "unknown_for 15m10s");
    }

    #[test]
    fn one_unanswered_look_at_a_slow_pace_is_no_failure() {
        let mut lab = lab_with(300, |_| {});
        lab.see(300, Seen::Ok);
        lab.see(600, Seen::Unanswered);
        assert_eq!(lab.wait(899), State::Unknown);
        assert_eq!(lab.see(900, Seen::Ok), State::Ok);
    }

    #[test]
    fn what_was_never_known_is_not_failed_by_silence_unless_it_is_named() {
        let mut lab = lab();
        assert_eq!(lab.see_all(3600, Seen::Unanswered), State::Unknown);
        assert_eq!(lab.trips_at(), None);

        lab = self::lab();
        lab.window = Window::new(lab.clock.at(), true);
        lab.see(15, Seen::Unanswered);
        assert_eq!(lab.see_all(300, Seen::Unanswered), State::Unknown);
        assert_eq!(lab.wait(315), State::Failed);
    }

    #[test]
    fn with_hold_the_last_verdict_stands_below_the_unknown() {
        let mut lab = lab_with(15, |policy| policy.unknown_as = UnknownAs::Hold);
        lab.see(15, Seen::Ok);
        assert_eq!(lab.see_all(3600, Seen::Unanswered), State::Unknown);
        assert_eq!((lab.window.underlying(), lab.trips_at()), (State::Ok, None));
    }

    #[test]
    fn denied_never_fails_and_ends_silence() {
        let mut lab = lab();
        lab.see(15, Seen::Ok);
        assert_eq!(lab.see_all(DAY, Seen::Denied), State::Unknown);
        assert_eq!(lab.window.unknown_cause(), Some(Cause::Denied));
        assert_eq!((lab.window.underlying(), lab.trips_at()), (State::Ok, None));

        lab = lab_with(15, |policy| policy.fail_ratio = None);
        lab.see(15, Seen::Ok);
        lab.see_all(315, Seen::Unanswered);
        lab.see(320, Seen::Denied);
        assert_eq!(lab.see_all(600, Seen::Unanswered), State::Unknown, "it began anew at 330");
        assert_eq!(lab.wait(630), State::Failed);
        assert_eq!(lab.see(640, Seen::Denied), State::Unknown);
        assert_eq!(lab.see(645, Seen::Unanswered), State::Unknown);
    }

    #[test]
    fn a_denied_look_lifts_a_silence_and_its_unanswered_looks_do_not_fail_it_again() {
        let mut lab = lab();
        lab.see(15, Seen::Ok);
        assert_eq!(lab.see_all(600, Seen::Unanswered), State::Failed);
        assert_eq!(lab.see(615, Seen::Denied), State::Unknown);
        assert_eq!(lab.see_all(900, Seen::Unanswered), State::Unknown);
        assert_eq!(lab.wait(930), State::Failed);
    }

    #[test]
    fn no_observation_at_all_is_silence_after_the_patience() {
        let mut lab = lab();
        lab.see(15, Seen::Ok);
        assert_eq!(lab.wait(70), State::Ok);
        assert_eq!(lab.wait(71), State::Unknown, "more than 55 s after the latest");
        assert_eq!((lab.window.since(), lab.window.unknown_cause()), (lab.moment(70), Some(Cause::Unanswered)));
        assert_eq!(lab.wait(369), State::Unknown);
        assert_eq!(lab.wait(370), State::Failed);
        assert_eq!(lab.see(371, Seen::Bad), State::Failing, "an answer, though a bad one");
    }

    #[test]
    fn a_window_without_any_observation_stays_starting_unless_it_is_named() {
        let mut lab = lab();
        assert_eq!(lab.wait(DAY), State::Starting);

        lab = self::lab();
        lab.window = Window::new(lab.clock.at(), true);
        assert_eq!(lab.wait(354), State::Starting);
        assert_eq!(lab.wait(355), State::Failed, "55 s + 5 m");
        assert_eq!(lab.window.unknown_cause(), Some(Cause::Unanswered));
    }

    #[test]
    fn an_answer_to_every_second_look_counts_as_silence() {
        let mut lab = lab();
        let mut at = 0;
        while lab.window.state() != State::Failed {
            at += 1;
            lab.see(at * 15, if at % 2 == 0 { Seen::Unanswered } else { Seen::Ok });
        }
        // The first unanswered one was at 30; from 330 on it has lasted. Answers never trip it.
        assert_eq!(at * 15, 330);
        assert_eq!((lab.window.since(), lab.rule()), (lab.moment(30), "unknown_for 5m".into()));
        assert_eq!(lab.see(345, Seen::Unanswered), State::Failed);
        assert_eq!(lab.see_all(525, Seen::Ok), State::Failed, "12 of 35 unanswered: more than a quarter");
        assert_eq!(lab.window.unknown_cause(), Some(Cause::Unanswered));
        assert_eq!(lab.see_all(675, Seen::Ok), State::Failed, "10 of 40, the oldest two have left the window");
        assert_eq!(lab.see(690, Seen::Ok), State::Ok, "9 of 40: lifted");
        assert_eq!(lab.tally().total(), 40, "and not emptied");
    }

    #[test]
    fn strict_turns_that_began_with_an_answer_stay_failed() {
        let mut lab = lab();
        for at in 1..=100 {
            let state = lab.see(at * 15, if at % 2 == 1 { Seen::Ok } else { Seen::Unanswered });
            assert_eq!(state == State::Failed, at >= 22, "{at}");
        }
    }

    #[test]
    fn what_went_unanswered_before_the_first_answer_does_not_count_after_it() {
        let mut lab = lab();
        lab.see_all(600, Seen::Unanswered);
        lab.see(615, Seen::Ok);
        assert_eq!(lab.see(630, Seen::Unanswered), State::Unknown);
        assert_eq!(lab.tally().total(), 2);
    }

    #[test]
    fn intermittent_silence_needs_a_share_and_a_number() {
        let mut lab = lab();
        for at in 1..=200 {
            let seen = if at % 5 < 2 { Seen::Unanswered } else { Seen::Ok };
            assert_ne!(lab.see(at * 15, seen), State::Failed, "two in five: {at}");
        }
        let mut off = lab_with(15, |policy| policy.fail_ratio = None);
        for at in 1..=200 {
            assert_ne!(off.see(at * 15, if at % 2 == 0 { Seen::Unanswered } else { Seen::Ok }), State::Failed);
        }
    }

    #[test]
    fn a_long_silence_does_not_count_as_intermittent_after_it_was_lifted() {
        let mut lab = lab();
        lab.see_all(150, Seen::Ok);
        assert_eq!(lab.see_all(600, Seen::Unanswered), State::Failed);
        lab.see(615, Seen::Ok);
        assert_eq!(lab.see(630, Seen::Unanswered), State::Unknown);
        assert_eq!(lab.see(645, Seen::Ok), State::Ok);
    }

    #[test]
    fn silence_over_a_failure_leaves_the_failure_beneath() {
        let mut lab = lab();
        lab.see_all(150, Seen::Bad);
        assert_eq!(lab.see_all(900, Seen::Unanswered), State::Failed);
        assert_eq!((lab.window.since(), lab.rule()), (lab.moment(15), "fail_for 2m".into()));
        assert_eq!(lab.see(915, Seen::Ok), State::Recovering);
    }

    #[test]
    fn time_in_which_nobody_watched_is_not_silence() {
        let mut lab = lab();
        lab.see(15, Seen::Ok);
        assert_eq!(lab.sleep(15 + DAY), State::Ok, "not even stale");
        assert_eq!(lab.see(20 + DAY, Seen::Unanswered), State::Unknown);
        lab.see_all(300 + DAY, Seen::Unanswered);
        assert_eq!(lab.sleep(400 + DAY), State::Unknown, "295 s of silence were watched, not 380");
        assert_eq!(lab.wait(406 + DAY), State::Unknown);
        lab.see(407 + DAY, Seen::Unanswered);
        assert_eq!(lab.wait(420 + DAY), State::Failed);
    }

    #[test]
    fn intermittent_silence_is_counted_in_watched_time() {
        let mut lab = lab();
        for at in 1..=10 {
            lab.see(at * 15, if at % 2 == 0 { Seen::Unanswered } else { Seen::Ok });
        }
        lab.sleep(250);
        for at in 17..=26 {
            lab.see(at * 15, if at % 2 == 0 { Seen::Unanswered } else { Seen::Ok });
        }
        assert_eq!((lab.tally().total(), lab.elapsed()), (20, 390));
        assert_eq!(lab.window.state(), State::Unknown, "30 to 390, less the hundred that nobody watched");
        assert_eq!(lab.trips_at(), Some(lab.moment(330).wall));
        assert_eq!(lab.wait(429), State::Unknown);
        assert_eq!(lab.wait(430), State::Failed);
    }

    #[test]
    fn a_gap_up_to_the_patience_is_bridged_and_a_longer_one_forgets_the_streak() {
        for (gap, state) in [(55, State::Failed), (56, State::Failing)] {
            let mut lab = lab();
            lab.see(15, Seen::Ok);
            lab.see_all(120, Seen::Bad);
            lab.sleep(120 + gap);
            assert_eq!(lab.see(120 + gap, Seen::Bad), state, "{gap}");
        }
    }

    #[test]
    fn after_a_long_gap_states_are_held_but_for_the_unproven() {
        let mut lab = lab();
        lab.see(15, Seen::Bad);
        assert_eq!(lab.sleep(400), State::Starting, "was never ok");
        assert_eq!(lab.window.since(), lab.begun);
        lab.see(401, Seen::Ok);
        lab.see(402, Seen::Bad);
        assert_eq!(lab.sleep(800), State::Ok);
        lab.see(801, Seen::Bad);
        assert_eq!(lab.see(921, Seen::Bad), State::Failed);
        assert_eq!(lab.sleep(1300), State::Failed);
        lab.see(1301, Seen::Ok);
        assert_eq!(lab.sleep(1700), State::Recovering);
        assert_eq!(lab.recovers_at(), None);
        assert_eq!(lab.see(1701, Seen::Ok), State::Recovering);
        assert_eq!(lab.see(1760, Seen::Ok), State::Recovering);
        assert_eq!(lab.see(1761, Seen::Ok), State::Ok);
    }

    #[test]
    fn a_late_wake_at_a_fast_pace_is_no_gap() {
        let mut lab = lab_with(1, |_| {});
        lab.pace.timeout = seconds(1);
        lab.see(1, Seen::Bad);
        assert_eq!(lab.sleep(10), State::Unknown, "9 s: watched, so it is stale, but the streak stands");
        assert_eq!(lab.window.underlying(), State::Failing);
    }

    #[test]
    fn the_wall_clock_decides_nothing() {
        let mut lab = lab();
        lab.see(15, Seen::Ok);
        for (at, wall) in [(16, "2026-11-21T11:00:16Z"), (17, "2026-11-21T09:00:17Z")] {
            let mono = lab.moment(at).mono;
            lab.tick(Now { mono, wall: wall.parse().unwrap() });
            assert_eq!(lab.window.state(), State::Ok);
        }
    }

    #[test]
    fn a_clock_that_falls_stands_still() {
        let mut lab = lab();
        lab.see(15, Seen::Ok);
        let past = Now { mono: Duration::ZERO, ..lab.begun };
        lab.tick(past);
        assert_eq!(lab.clock.at().now.mono, lab.moment(15).mono);
        assert_eq!(lab.window.state(), State::Ok);
    }

    #[test]
    fn an_observation_counts_for_less_than_the_window() {
        let mut lab = lab();
        lab.see(15, Seen::Bad);
        lab.see(30, Seen::Ok);
        lab.wait(614);
        assert_eq!((lab.tally().of(Seen::Bad), lab.tally().of(Seen::Ok)), (1, 1));
        lab.wait(615);
        assert_eq!((lab.tally().of(Seen::Bad), lab.tally().of(Seen::Ok)), (0, 1));
    }

    #[test]
    fn the_window_is_wide_enough_for_twice_ratio_min() {
        assert_eq!(lab().rules().span(), seconds(600));
        assert_eq!(lab_with(60, |_| {}).rules().span(), seconds(1200));
        assert_eq!(lab_with(60, |policy| policy.ratio_min = 100).rules().span(), seconds(12_000));
    }

    #[test]
    fn memory_is_bounded_if_readings_come_faster_than_promised() {
        let mut lab = lab();
        lab.wait(1);
        for _ in 0..1000 {
            lab.see(1, Seen::Ok);
        }
        assert_eq!(lab.tally().total(), 48, "600 / 15 + 8");
        for _ in 0..48 {
            lab.see(2, Seen::Unanswered);
        }
        assert_eq!((lab.tally().of(Seen::Ok), lab.tally().of(Seen::Unanswered)), (0, 48));
    }

    #[test]
    fn absurd_settings_do_not_overflow() {
        let mut lab = lab_with(15, |policy| {
            policy.fail_for = Duration::MAX;
            policy.ratio_window = Duration::MAX;
            policy.ratio_min = u32::MAX;
            policy.unknown_for = Duration::MAX;
            policy.recover_for = Duration::MAX;
            policy.fail_count = Some(2);
        });
        lab.see_all(60, Seen::Bad);
        assert_eq!(lab.see_all(120, Seen::Ok), State::Recovering);
        assert_eq!(lab.recovers_at(), Some(Timestamp::MAX));
        assert_eq!(lab.see_all(600, Seen::Unanswered), State::Recovering);
    }
}
