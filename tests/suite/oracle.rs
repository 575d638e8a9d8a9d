//! The oracle: the verdict rules written down a second time, slow and plain.
//!
//! It keeps everything that ever happened to every (check, subject) and answers each question by walking that list: no
//! counters, no ring, nothing forgotten. Only what the rules define by "what it was before" (`Base`, being silenced, how
//! long recovery takes) is written beside each entry, because working it out again from the start would be cubic.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use agenthost_exporter::fact::{Bound, Check, Policy, ReadyNeeds, Severity, UnknownAs};
use agenthost_exporter::sample::{Cause, Now, Points, Reading};

/// Nobody watched if nothing was called for longer than this.
const AWAKE: Duration = Duration::from_secs(10);
const HOUR: Duration = Duration::from_secs(3600);

/// A collector, as the oracle knows it.
#[derive(Debug, Clone)]
pub struct Polled {
    pub name: &'static str,
    pub interval: Duration,
    pub timeout: Duration,
    pub checks: Vec<Rule>,
}

impl Polled {
    fn stale_after(&self) -> Duration {
        self.interval * 3 + self.timeout
    }

    fn patience(&self, policy: &Policy) -> Duration {
        policy.unknown_for.max(self.stale_after())
    }
}

/// A check with everything the configuration says of it, already layered.
#[derive(Debug, Clone)]
pub struct Rule {
    pub check: &'static Check,
    pub enabled: bool,
    pub policy: Policy,
    pub expect: BTreeSet<String>,
    /// `None`: this subject is ignored.
    pub subjects: BTreeMap<String, Option<Policy>>,
}

impl Rule {
    /// A check that nothing configures.
    pub fn plain(check: &'static Check) -> Rule {
        let policy = Policy::new(check.severity, check.fail_for);
        Rule { check, enabled: true, policy, expect: BTreeSet::new(), subjects: BTreeMap::new() }
    }

    fn policy(&self, subject: &str) -> Option<&Policy> {
        match self.subjects.get(subject) {
            Some(own) => own.as_ref(),
            None => Some(&self.policy),
        }
    }

    fn expected(&self) -> impl Iterator<Item = &String> {
        self.expect.iter().filter(|subject| self.policy(subject).is_some())
    }

    /// Subjects that have a window before anybody saw them.
    fn named(&self) -> BTreeSet<String> {
        let configured = self.subjects.iter().filter(|(_, policy)| policy.is_some()).map(|(name, _)| name);
        self.expected().chain(configured).cloned().collect()
    }

    /// The policies under which something of this check may be critical.
    fn critical(&self) -> impl Iterator<Item = &Policy> {
        let all = std::iter::once(&self.policy).chain(self.subjects.values().flatten());
        all.filter(|policy| self.enabled && policy.severity == Severity::Critical)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    Ok,
    Bad,
    Unanswered,
    Denied,
}

impl Seen {
    fn of(value: Option<f64>, bad: Bound) -> Seen {
        match value {
            Some(value) if bad.is_bad(value) => Seen::Bad,
            Some(_) => Seen::Ok,
            None => Seen::Unanswered,
        }
    }

    /// `None`: it is excused.
    fn failed(cause: Cause) -> Option<Seen> {
        match cause {
            Cause::Unanswered => Some(Seen::Unanswered),
            Cause::Denied => Some(Seen::Denied),
            Cause::Excused => None,
        }
    }

    fn is_known(self) -> bool {
        matches!(self, Seen::Ok | Seen::Bad)
    }

    /// Of two points of one subject, the one that counts.
    fn worse(one: Option<Seen>, other: Option<Seen>) -> Option<Seen> {
        let order = [Some(Seen::Bad), Some(Seen::Unanswered), Some(Seen::Denied), None];
        order.into_iter().find(|seen| [one, other].contains(seen)).unwrap_or(Some(Seen::Ok))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Starting,
    Ok,
    Failing,
    Failed,
    Recovering,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overall {
    Starting,
    Healthy,
    Degraded,
    Unhealthy,
}

/// Something that happened to one check on one subject.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    Seen(Seen),
    /// Nobody watched for so long that streaks start anew.
    Away,
    /// A good reading did not list it, and it was not bad.
    Unlisted,
    /// Nobody can tell, and that is no silence of it.
    Excused,
    /// What came before no longer counts for ratios.
    Emptied,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    at: Duration,
    watched: Duration,
    event: Event,
}

/// What a restart leaves as it is.
#[derive(Debug, Clone, Default)]
struct Before {
    entries: usize,
    silent_from: Option<Duration>,
    excuses: Excuses,
    stale: bool,
}

/// When (watched time) every look was excused: silence does not grow meanwhile.
#[derive(Debug, Clone, Default)]
struct Excuses {
    over: Vec<(Duration, Duration)>,
    since: Option<Duration>,
}

impl Excuses {
    fn end(&mut self, at: Duration) {
        self.over.extend(self.since.take().map(|since| (since, at)));
    }

    /// How much of the time after `from` they take up until `to`.
    fn within(mut self, from: Duration, to: Duration) -> Duration {
        self.end(to);
        self.over.into_iter().filter(|(since, _)| *since >= from).map(|(since, end)| end - since).sum()
    }
}

/// The whole past of one check on one subject, since it was first listed, named or missed.
#[derive(Debug, Clone)]
struct Past {
    policy: Policy,
    /// Whose readings list it.
    collector: &'static str,
    interval: Duration,
    stale_after: Duration,
    /// It stands for subjects that nobody has seen yet.
    placeholder: bool,
    /// Expected, or named in the configuration: its silence counts from the start.
    named: bool,
    /// Watched time at which it was made.
    born: Duration,
    entries: Vec<Entry>,
    /// What silence there was before the latest restart, by the pace of that time.
    before: Before,
    absent_since: Option<Duration>,
    base: State,
    silenced: bool,
    /// Where silence with breaks began, while no answer has come since that was shown, and when it was.
    intermittent: Option<(Duration, Duration)>,
    recovered_at: Option<Duration>,
    /// How many failures came each soon after a recovery: it takes twice as long after each.
    relapses: u32,
}

impl Past {
    fn seen(&self) -> impl DoubleEndedIterator<Item = (&Entry, Seen)> {
        seen(&self.entries)
    }

    fn last(&self) -> Option<(&Entry, Seen)> {
        self.seen().next_back()
    }

    /// W: how far back ratios look.
    fn span(&self) -> Duration {
        let a_half_of_it_is_fail_for = (self.policy.fail_for + self.interval * 2) * 2;
        self.policy.ratio_window.max(self.interval * self.policy.ratio_min * 2).max(a_half_of_it_is_fail_for)
    }

    /// U: how long it may be silent.
    fn patience(&self) -> Duration {
        self.policy.unknown_for.max(self.stale_after)
    }

    /// What ratios look at, seen from `at`.
    fn window(&self, at: Duration) -> Vec<(&Entry, Seen)> {
        let emptied = self.entries.iter().rposition(|entry| entry.event == Event::Emptied);
        let kept = &self.entries[emptied.map_or(0, |position| position + 1)..];
        let young: Vec<_> = seen(kept).filter(|(entry, _)| at - entry.at < self.span()).collect();
        let most = self.span().as_nanos().div_ceil(self.interval.as_nanos()) as usize + 8;
        young[young.len().saturating_sub(most)..].to_vec()
    }

    /// The bad ones in a row: since the last ok, whatever was unknown between them.
    fn streak(&self) -> Vec<Duration> {
        let ended = |entry: &&Entry| matches!(entry.event, Event::Away | Event::Seen(Seen::Ok));
        let run = self.entries.iter().rev().take_while(|entry| !ended(entry));
        let mut bad: Vec<_> = run.filter(|entry| entry.event == Event::Seen(Seen::Bad)).map(|entry| entry.at).collect();
        bad.reverse();
        bad
    }

    /// The ok ones without anything else between them.
    fn ok_run(&self) -> Vec<Duration> {
        let goes_on = |entry: &&Entry| matches!(entry.event, Event::Emptied | Event::Seen(Seen::Ok));
        let run = self.entries.iter().rev().take_while(goes_on);
        let mut ok: Vec<_> = run.filter(|entry| entry.event != Event::Emptied).map(|entry| entry.at).collect();
        ok.reverse();
        ok
    }

    /// Whether the bad observation that has just been written down makes a failing check fail.
    fn fails(&self, now: Duration) -> bool {
        let streak = self.streak();
        let sustained = streak.len() >= 2 && streak[streak.len() - 1] - streak[0] >= self.policy.fail_for;
        let counted = self.policy.fail_count.is_some_and(|most| streak.len() >= most as usize);
        let known: Vec<_> = self.window(now).into_iter().map(|(_, seen)| seen).filter(|seen| seen.is_known()).collect();
        let bad = known.iter().filter(|seen| **seen == Seen::Bad).count();
        let flapping = self.policy.fail_ratio.is_some_and(|ratio| {
            known.len() >= self.policy.ratio_min as usize
                && bad as f64 / known.len() as f64 >= ratio
                && self.interval * (bad as u32 - 1) >= self.policy.fail_for
        });
        sustained || counted || flapping
    }

    fn was_ok(&self) -> bool {
        self.seen().any(|(_, seen)| seen == Seen::Ok)
    }

    fn was_known(&self) -> bool {
        self.named || self.seen().any(|(_, seen)| seen.is_known())
    }

    fn is_stale(&self, watched: Duration) -> bool {
        let none_since = looks(&self.entries[self.before.entries..]).next().is_none();
        let last = looks(&self.entries).next_back();
        none_since && self.before.stale
            || watched - last.map_or(self.born, |(entry, _)| entry.watched) > self.stale_after
    }

    /// Since when (watched time) it has been silent without a break. An excused look breaks nothing.
    fn silent_from(&self, watched: Duration) -> Option<Duration> {
        let (before, since) = self.entries.split_at(self.before.entries);
        let mut previous = looks(before).next_back().map_or(self.born, |(entry, _)| entry.watched);
        let mut from = self.before.silent_from;
        for (entry, seen) in looks(since) {
            let stale = entry.watched - previous > self.stale_after;
            from = from.or(stale.then(|| previous + self.stale_after));
            from = match (entry.event, seen) {
                (Event::Excused, _) => from,
                (_, Some(Seen::Unanswered)) => from.or(Some(entry.watched)),
                _ => None,
            };
            previous = entry.watched;
        }
        from.or((watched - previous > self.stale_after).then(|| previous + self.stale_after))
    }

    /// Each is over with the next look that is not excused, or when there was none for too long.
    fn excuses(&self, watched: Duration) -> Excuses {
        let (before, since) = self.entries.split_at(self.before.entries);
        let mut previous = looks(before).next_back().map_or(self.born, |(entry, _)| entry.watched);
        let mut excuses = self.before.excuses.clone();
        for (entry, _) in looks(since) {
            if entry.watched - previous > self.stale_after {
                excuses.end(previous + self.stale_after);
            }
            match entry.event {
                Event::Excused => excuses.since = excuses.since.or(Some(entry.watched)),
                _ => excuses.end(entry.watched),
            }
            previous = entry.watched;
        }
        if watched - previous > self.stale_after {
            excuses.end(previous + self.stale_after);
        }
        excuses
    }

    /// Whether so many in the window went unanswered that the rest does not count.
    fn mostly_unanswered(&self, at: Duration) -> bool {
        let window = self.window(at);
        let unanswered = window.iter().filter(|(_, seen)| *seen == Seen::Unanswered).count();
        let enough = window.len() >= 2 * self.policy.ratio_min as usize;
        self.policy.fail_ratio.is_some_and(|ratio| enough && unanswered as f64 / window.len() as f64 >= ratio)
    }

    /// Whether, after that has failed it, at least half as many still go unanswered.
    fn still_unanswered(&self, at: Duration) -> bool {
        let window = self.window(at);
        let unanswered = window.iter().filter(|(_, seen)| *seen == Seen::Unanswered).count();
        self.policy.fail_ratio.is_some_and(|ratio| unanswered as f64 / window.len() as f64 >= ratio / 2.0)
    }

    /// Since when it has been silent with breaks, if the unanswered observation just written down shows it.
    fn intermittent_since(&self, at: Duration) -> Option<Duration> {
        let window = self.window(at);
        let first = window.iter().find(|(_, seen)| *seen == Seen::Unanswered)?;
        self.mostly_unanswered(at).then_some(first.0.watched)
    }

    /// An unbroken silence of at least U.
    fn long_silent(&self, watched: Duration) -> bool {
        self.silent_from(watched).is_some_and(|from| self.has_lasted(from, from, watched))
    }

    /// Whether a silence is as long as U, without what was excused of it since it was noticed.
    fn has_lasted(&self, from: Duration, noticed: Duration, watched: Duration) -> bool {
        watched - from - self.excuses(watched).within(noticed, watched) >= self.patience()
    }

    /// Notices silence; only an observation ends it.
    fn notice(&mut self, watched: Duration) {
        let intermittent = self.intermittent.is_some_and(|(from, noticed)| self.has_lasted(from, noticed, watched));
        let silent = self.long_silent(watched) || intermittent;
        self.silenced |= silent && self.policy.unknown_as == UnknownAs::Fail && self.was_known();
    }

    fn write(&mut self, time: Time, event: Event) {
        self.entries.push(Entry { at: time.mono, watched: time.watched, event });
    }

    /// What ratios did not look at any more at the latest observation does not come back, though a later configuration
    /// may look further.
    fn forget_what_has_left(&mut self) {
        let Some((last, _)) = self.last() else { return };
        let (at, watched) = (last.at, last.watched);
        let is_seen = |place: &usize| matches!(self.entries[*place].event, Event::Seen(_));
        let seen: Vec<usize> = (0..self.entries.len()).filter(is_seen).collect();
        let first = seen.get(seen.len() - self.window(at).len()).copied().unwrap_or(self.entries.len());
        self.entries.insert(first, Entry { at, watched, event: Event::Emptied });
    }

    /// Nobody watched for longer than it takes to forget.
    fn away(&mut self, time: Time) {
        self.write(time, Event::Away);
        if self.base == State::Failing {
            self.base = if self.was_ok() { State::Ok } else { State::Starting };
        }
    }

    fn observe(&mut self, time: Time, seen: Seen) {
        let lifted = self.silenced && self.long_silent(time.watched) && seen != Seen::Unanswered;
        let first_known = seen.is_known() && !self.was_known();
        if lifted || first_known {
            self.write(time, Event::Emptied);
        }
        self.write(time, Event::Seen(seen));
        match seen {
            Seen::Ok => self.ok(time),
            Seen::Bad => self.bad(time),
            Seen::Unanswered | Seen::Denied => {}
        }
        let since = || Some((self.intermittent_since(time.mono)?, time.watched));
        let intermittent = self.intermittent.or_else(since);
        self.intermittent = intermittent.filter(|_| seen == Seen::Unanswered);
        match seen {
            Seen::Unanswered => self.notice(time.watched),
            Seen::Denied => self.silenced = false,
            Seen::Ok | Seen::Bad => self.silenced &= !lifted && self.still_unanswered(time.mono),
        }
    }

    /// A good reading did not list it: that is no silence, for somebody answered.
    fn unlisted(&mut self, time: Time) {
        if self.silenced && self.long_silent(time.watched) {
            self.write(time, Event::Emptied);
        }
        self.write(time, Event::Unlisted);
        (self.silenced, self.intermittent) = (false, None);
    }

    fn ok(&mut self, time: Time) {
        let run = self.ok_run();
        let long = run.len() >= 2 && run[run.len() - 1] - run[0] >= self.recover_for();
        self.base = match self.base {
            State::Failed => State::Recovering,
            State::Recovering if !long => State::Recovering,
            State::Recovering => {
                self.write(time, Event::Emptied);
                self.recovered_at = Some(time.mono);
                State::Ok
            }
            _ => State::Ok,
        };
    }

    fn bad(&mut self, time: Time) {
        match self.base {
            State::Failed | State::Recovering => self.base = State::Failed,
            _ if self.fails(time.mono) => {
                self.base = State::Failed;
                self.relapses = if self.failed_soon(time.mono) { self.relapses + 1 } else { 0 };
            }
            _ => self.base = State::Failing,
        }
    }

    /// A failure soon after a recovery makes the next one take twice as long.
    fn failed_soon(&self, now: Duration) -> bool {
        self.recovered_at.is_some_and(|at| now - at <= HOUR + self.span())
    }

    fn recover_for(&self) -> Duration {
        let most = self.span().max(self.policy.recover_for);
        (0..self.relapses).fold(self.policy.recover_for, |once, _| (once * 2).min(most))
    }

    /// The verdict that stands when nothing is seen.
    fn underlying(&self) -> State {
        if self.silenced { State::Failed } else { self.base }
    }

    fn shown(&self, watched: Duration) -> State {
        let unseen = |(_, seen): (&Entry, Option<Seen>)| !seen.is_some_and(Seen::is_known) || self.is_stale(watched);
        match self.underlying() {
            State::Failed => State::Failed,
            State::Recovering => State::Recovering,
            _ if looks(&self.entries).next_back().is_some_and(unseen) => State::Unknown,
            base => base,
        }
    }
}

fn seen(entries: &[Entry]) -> impl DoubleEndedIterator<Item = (&Entry, Seen)> {
    entries.iter().filter_map(|entry| match entry.event {
        Event::Seen(seen) => Some((entry, seen)),
        _ => None,
    })
}

/// Every look at it, those that did not list it or were excused among them.
fn looks(entries: &[Entry]) -> impl DoubleEndedIterator<Item = (&Entry, Option<Seen>)> {
    entries.iter().filter_map(|entry| match entry.event {
        Event::Seen(seen) => Some((entry, Some(seen))),
        Event::Unlisted | Event::Excused => Some((entry, None)),
        _ => None,
    })
}

#[derive(Debug, Clone, Copy)]
struct Time {
    mono: Duration,
    watched: Duration,
}

/// Which check on which subject.
type Key = (&'static str, String);

/// What `Health` should be.
#[derive(Debug, Clone)]
pub struct Oracle {
    collectors: Vec<Polled>,
    own: Vec<Rule>,
    started: Duration,
    /// Every moment at which it was called.
    calls: Vec<Duration>,
    /// Which of these calls were the first after a restart.
    restarts: BTreeSet<usize>,
    /// Watched time at which the wait for a collector began, if not at the start.
    begun: BTreeMap<&'static str, Duration>,
    past: BTreeMap<Key, Past>,
    settled: BTreeSet<&'static str>,
    denied: BTreeSet<&'static str>,
    overall: Overall,
    since: Duration,
}

impl Oracle {
    pub fn new(now: Now, collectors: Vec<Polled>, own: Vec<Rule>) -> Oracle {
        let mut oracle = Oracle {
            collectors,
            own,
            started: now.mono,
            calls: vec![now.mono],
            restarts: BTreeSet::new(),
            begun: BTreeMap::new(),
            past: BTreeMap::new(),
            settled: BTreeSet::new(),
            denied: BTreeSet::new(),
            overall: Overall::Starting,
            since: now.mono,
        };
        for (polled, rule) in oracle.judged() {
            oracle.begin(&polled, &rule);
        }
        oracle.conclude();
        oracle
    }

    /// Each check that is enabled, with its collector; with the first of all where it judges all.
    fn judged(&self) -> Vec<(Polled, Rule)> {
        let of = |polled: &Polled| polled.checks.iter().map(|rule| (polled.clone(), rule.clone())).collect::<Vec<_>>();
        let own = self.own.iter().map(|rule| (self.collectors[0].clone(), rule.clone()));
        let all = self.collectors.iter().flat_map(of).chain(own);
        all.filter(|(_, rule)| rule.enabled).collect()
    }

    fn is_own(&self, rule: &Rule) -> bool {
        self.own.iter().any(|own| own.check.name == rule.check.name)
    }

    fn begin(&mut self, polled: &Polled, rule: &Rule) {
        for subject in rule.named() {
            self.begin_one(polled, rule, &subject);
        }
        self.make_placeholder(polled, rule);
    }

    /// A subject of a check of the loop is a collector. One that does not run is missed by the first that does.
    fn begin_one(&mut self, polled: &Polled, rule: &Rule, subject: &str) {
        let meant = self.collectors.iter().find(|other| self.is_own(rule) && other.name == subject);
        let polled = meant.unwrap_or(polled).clone();
        self.window(&polled, rule, subject);
    }

    /// The sidecar was away for so long, and comes back with what it knew then, perhaps under another configuration.
    pub fn restart(&mut self, away: Duration, rebooted: bool, collectors: Vec<Polled>, own: Vec<Rule>) {
        let before = self.judged();
        let known: Vec<_> = self.collectors.drain(..).map(|polled| polled.name).collect();
        (self.collectors, self.own) = (collectors, own);
        self.restarts.insert(self.calls.len());
        self.calls.push(self.calls[self.calls.len() - 1] + away);
        self.forget_collectors(&known);
        for ((check, subject), past) in std::mem::take(&mut self.past) {
            let place = self.judged().into_iter().find(|(_, rule)| rule.check.name == check);
            let past = place.and_then(|(polled, rule)| self.go_on(past, &polled, &rule, &subject));
            if let Some(mut past) = past {
                if rebooted || away > past.stale_after {
                    past.away(self.time());
                }
                if past.absent_since.is_none() {
                    past.notice(self.time().watched);
                }
                self.past.insert((check, subject), past);
            }
        }
        for (polled, rule) in self.judged() {
            match before.iter().find(|(_, old)| old.check.name == rule.check.name) {
                None => self.begin(&polled, &rule),
                Some((_, old)) => self.begin_new_names(&polled, &rule, &old.named()),
            }
        }
        self.conclude();
    }

    /// Those that no longer run; those that run and were not known are waited for from now on.
    fn forget_collectors(&mut self, known: &[&str]) {
        let (running, watched): (Vec<_>, _) =
            (self.collectors.iter().map(|polled| polled.name).collect(), self.time().watched);
        self.settled.retain(|name| running.contains(name));
        self.denied.retain(|name| running.contains(name));
        self.begun.retain(|name, _| running.contains(name));
        self.begun.extend(running.iter().filter(|name| !known.contains(name)).map(|name| (*name, watched)));
    }

    /// One that was named before and has no past was dropped for good; one that is expected always has one.
    fn begin_new_names(&mut self, polled: &Polled, rule: &Rule, old: &BTreeSet<String>) {
        let expected: BTreeSet<_> = rule.expected().cloned().collect();
        for subject in rule.named().iter().filter(|name| expected.contains(*name) || !old.contains(*name)) {
            self.begin_one(polled, rule, subject);
        }
    }

    /// What becomes of one past under a new configuration; `None`: there is no place for it.
    fn go_on(&self, mut past: Past, polled: &Polled, rule: &Rule, subject: &str) -> Option<Past> {
        let watched = self.time().watched;
        let polled = match self.is_own(rule) {
            true => self.collectors.iter().find(|polled| polled.name == past.collector)?,
            false => polled,
        };
        let (silent_from, excuses, stale) = (past.silent_from(watched), past.excuses(watched), past.is_stale(watched));
        past.forget_what_has_left();
        past.policy = rule.policy(subject)?.clone();
        (past.interval, past.stale_after) = (polled.interval, polled.stale_after());
        past.forget_what_has_left();
        past.before = Before { entries: past.entries.len(), silent_from, excuses, stale };
        past.named = rule.named().contains(subject);
        past.placeholder &= !past.named;
        Some(past)
    }

    /// Every second, and before every reading.
    pub fn wake(&mut self, now: Now) {
        let gap = now.mono - self.calls[self.calls.len() - 1];
        self.calls.push(now.mono);
        let time = self.time();
        for past in self.past.values_mut() {
            if gap > AWAKE && gap > past.stale_after {
                past.away(time);
            }
            // Time alone says nothing of one that the latest good reading did not list.
            if past.absent_since.is_none() {
                past.notice(time.watched);
            }
        }
        self.conclude();
    }

    pub fn observe(&mut self, now: Now, reading: &Reading) {
        self.wake(now);
        let polled = self.collectors.iter().find(|polled| polled.name == reading.collector).unwrap().clone();
        for rule in polled.checks.iter().filter(|rule| rule.enabled) {
            match &reading.outcome {
                Ok(sample) => self.good(&polled, rule, &sample.points),
                Err(failure) => self.failed(&polled, rule, Seen::failed(failure.cause)),
            }
        }
        for rule in self.own.clone().iter().filter(|rule| rule.enabled) {
            self.good(&polled, rule, &reading.own);
        }
        self.settle(&polled, reading);
        self.conclude();
    }

    /// The shown state of every check and subject.
    pub fn states(&self) -> BTreeMap<Key, State> {
        let watched = self.time().watched;
        self.past.iter().map(|(key, past)| (key.clone(), past.shown(watched))).collect()
    }

    pub fn overall(&self) -> Overall {
        self.overall
    }

    pub fn ready(&self) -> bool {
        !matches!(self.overall, Overall::Starting | Overall::Unhealthy)
    }

    /// Since when (monotonic) overall has its value.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Watched time is what is left of the time since the start without the gaps in which nobody watched.
    fn time(&self) -> Time {
        let gaps = self.calls.windows(2).map(|pair| pair[1] - pair[0]).zip(1..);
        let unwatched = gaps.filter(|(gap, call)| *gap > AWAKE || self.restarts.contains(call));
        let unwatched: Duration = unwatched.map(|(gap, _)| gap).sum();
        let mono = self.calls[self.calls.len() - 1];
        Time { mono, watched: mono - self.started - unwatched }
    }

    fn window(&mut self, polled: &Polled, rule: &Rule, subject: &str) -> Option<&mut Past> {
        let policy = rule.policy(subject)?.clone();
        let born = self.time().watched;
        Some(self.past.entry((rule.check.name, subject.to_owned())).or_insert_with(|| Past {
            collector: polled.name,
            interval: polled.interval,
            stale_after: polled.stale_after(),
            placeholder: false,
            named: rule.named().contains(subject),
            born,
            entries: Vec::new(),
            before: Before::default(),
            absent_since: None,
            base: State::Starting,
            silenced: false,
            intermittent: None,
            recovered_at: None,
            relapses: 0,
            policy,
        }))
    }

    fn make_placeholder(&mut self, polled: &Polled, rule: &Rule) {
        if self.subjects(rule).is_empty()
            && let Some(past) = self.window(polled, rule, "")
        {
            past.placeholder = true;
        }
    }

    /// Which subjects of a check have a past.
    fn subjects(&self, rule: &Rule) -> Vec<String> {
        self.past.keys().filter(|(check, _)| *check == rule.check.name).map(|(_, subject)| subject.clone()).collect()
    }

    fn record(&mut self, polled: &Polled, rule: &Rule, subject: &str, seen: Option<Seen>) {
        let time = self.time();
        match (self.window(polled, rule, subject), seen) {
            (Some(past), Some(seen)) => past.observe(time, seen),
            (Some(past), None) => past.write(time, Event::Excused),
            (None, _) => {}
        }
    }

    fn failed(&mut self, polled: &Polled, rule: &Rule, seen: Option<Seen>) {
        self.make_placeholder(polled, rule);
        for subject in self.subjects(rule) {
            self.record(polled, rule, &subject, seen);
        }
    }

    fn good(&mut self, polled: &Polled, rule: &Rule, points: &Points) {
        let listed = listed(rule, points);
        for (subject, seen) in &listed {
            let past = self.window(polled, rule, subject).unwrap();
            past.placeholder = false;
            past.absent_since = None;
            self.record(polled, rule, subject, *seen);
        }
        for subject in self.subjects(rule).iter().filter(|subject| !listed.contains_key(*subject)) {
            let past = self.window(polled, rule, subject).unwrap();
            let (placeholder, its_own) = (past.placeholder, past.collector == polled.name);
            match rule.expected().any(|expected| expected == subject) {
                true if its_own => self.record(polled, rule, subject, Some(Seen::Bad)),
                false if its_own || placeholder => self.missing(polled, rule, subject),
                _ => {}
            }
        }
    }

    /// A good reading did not list this one.
    fn missing(&mut self, polled: &Polled, rule: &Rule, subject: &str) {
        let watched = self.time().watched;
        let past = self.window(polled, rule, subject).unwrap();
        let since = *past.absent_since.get_or_insert(watched);
        let gone = past.placeholder || past.policy.severity != Severity::Critical || watched - since >= past.patience();
        let was_bad = looks(&past.entries).next_back().is_some_and(|(_, seen)| seen == Some(Seen::Bad));
        let time = self.time();
        match gone {
            true => drop(self.past.remove(&(rule.check.name, subject.to_owned()))),
            false if was_bad => self.record(polled, rule, subject, Some(Seen::Bad)),
            false => self.window(polled, rule, subject).unwrap().unlisted(time),
        }
    }

    /// Whether this reading says enough to leave `starting`.
    fn settle(&mut self, polled: &Polled, reading: &Reading) {
        let enough = match &reading.outcome {
            Ok(sample) => {
                let seen: Vec<_> = polled.checks.iter().flat_map(|rule| critical(rule, &sample.points)).collect();
                seen.is_empty() || seen.iter().any(|seen| seen.is_some_and(Seen::is_known))
            }
            Err(failure) => failure.cause == Cause::Denied,
        };
        if enough {
            self.settled.insert(polled.name);
        }
        match &reading.outcome {
            Err(failure) if failure.cause == Cause::Denied => self.denied.insert(polled.name),
            _ => self.denied.remove(polled.name),
        };
    }

    fn is_settled(&self, polled: &Polled) -> bool {
        let waits = polled.checks.iter().flat_map(Rule::critical).map(|policy| polled.patience(policy)).max();
        let begun = self.begun.get(polled.name).copied().unwrap_or_default();
        self.settled.contains(polled.name) || waits.is_none_or(|longest| self.time().watched - begun >= longest)
    }

    fn conclude(&mut self) {
        // Who has once been waited for long enough is not waited for again.
        let settled: Vec<_> = self.collectors.iter().filter(|polled| self.is_settled(polled)).collect();
        let settled: Vec<_> = settled.into_iter().map(|polled| polled.name).collect();
        self.settled.extend(settled);
        let overall = self.judge();
        if overall != self.overall {
            self.since = self.time().mono;
        }
        self.overall = overall;
    }

    fn judge(&self) -> Overall {
        if !self.collectors.iter().all(|polled| self.is_settled(polled)) {
            return Overall::Starting;
        }
        let rules: Vec<_> = self.collectors.iter().flat_map(|polled| &polled.checks).chain(&self.own).collect();
        if rules.iter().any(|rule| self.is_lost(rule)) {
            return Overall::Unhealthy;
        }
        let degraded = !self.denied.is_empty() || rules.iter().any(|rule| self.degrades(rule));
        if degraded { Overall::Degraded } else { Overall::Healthy }
    }

    fn of<'a>(&'a self, rule: &Rule, severity: Severity) -> impl Iterator<Item = &'a Past> {
        let name = rule.check.name;
        let of_check = self.past.iter().filter(move |((check, _), _)| *check == name).map(|(_, past)| past);
        of_check.filter(move |past| past.policy.severity == severity)
    }

    /// Readiness is lost by this check.
    fn is_lost(&self, rule: &Rule) -> bool {
        let mut broken = self.of(rule, Severity::Critical).map(Past::underlying).filter(|state| is_broken(*state));
        let stands = |past: &Past| matches!(past.underlying(), State::Ok | State::Failing);
        match rule.policy.ready_needs {
            ReadyNeeds::All => broken.next().is_some(),
            ReadyNeeds::Any => broken.next().is_some() && !self.of(rule, Severity::Critical).any(stands),
        }
    }

    /// Of a check by which readiness is not lost.
    fn degrades(&self, rule: &Rule) -> bool {
        let watched = self.time().watched;
        let shown = |past: &Past| past.shown(watched);
        let unsure = |state: State| is_broken(state) || matches!(state, State::Failing | State::Unknown);
        self.of(rule, Severity::Critical).map(shown).any(unsure)
            || self.of(rule, Severity::Warning).map(shown).any(|state| state == State::Failed)
    }
}

fn is_broken(state: State) -> bool {
    matches!(state, State::Failed | State::Recovering)
}

/// What a reading says of each subject that it lists.
fn listed(rule: &Rule, points: &Points) -> BTreeMap<String, Option<Seen>> {
    let mut listed = BTreeMap::new();
    for point in points.0.iter().filter(|point| point.fact.is(rule.check.fact)) {
        let seen = match point.withheld {
            None => Some(Seen::of(point.value, rule.check.bad)),
            Some(cause) => Seen::failed(cause),
        };
        let subject = point.subject().to_string();
        if rule.policy(&subject).is_some() {
            listed.entry(subject).and_modify(|other| *other = Seen::worse(seen, *other)).or_insert(seen);
        }
    }
    listed
}

/// What a good reading says of the critical subjects that it lists, or that are expected of it.
fn critical(rule: &Rule, points: &Points) -> Vec<Option<Seen>> {
    if !rule.enabled {
        return Vec::new();
    }
    let mut seen = listed(rule, points);
    for expected in rule.expected() {
        seen.entry(expected.clone()).or_insert(Some(Seen::Bad));
    }
    let is_critical = |subject: &str| rule.policy(subject).is_some_and(|policy| policy.severity == Severity::Critical);
    seen.into_iter().filter(|(subject, _)| is_critical(subject)).map(|(_, seen)| seen).collect()
}
