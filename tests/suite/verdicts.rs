//! The verdicts in virtual time: every vector of the design at several paces, and the engine against the oracle.
//! Restarts go through the texts that the state file holds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use agenthost_exporter::fact::{Bound, Check, Fact, Policy, ReadyNeeds, Severity, Span, UnknownAs};
use agenthost_exporter::health::{Away, Health, Kept, Overall, Settings, State, Verdict, Watched};
use agenthost_exporter::sample::{Cause, Failure, Now, Points, Reading, Sample};
use jiff::Timestamp;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, RngSeed, TestError, TestRunner};
use serde_json::value::RawValue;

use crate::oracle::{self, Oracle, Polled, Rule};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MILLI: Duration = Duration::from_millis(1);

static CONNECTED: Fact = Fact::gauge("test.connected", "test_connected", "1: connected.").of(&["channel"]);
static CHANNEL: Check = Check {
    name: "channel_connected",
    fact: &CONNECTED,
    bad: Bound::Below(0.5),
    severity: Severity::Critical,
    fail_for: Duration::from_secs(120),
    headline: "{} bad",
    means: "a channel is not connected",
};

static MCP: Fact = Fact::gauge("test.mcp", "test_mcp", "1: connected.").of(&["server"]);
static MCP_CONNECTED: Check = Check {
    name: "mcp_connected",
    fact: &MCP,
    bad: Bound::Below(0.5),
    severity: Severity::Info,
    fail_for: Duration::from_secs(300),
    headline: "{} bad",
    means: "an MCP server is not connected",
};

/// What one poll of a collector with one subject finds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Found {
    Ok,
    Bad,
    /// Listed, but not seen.
    Nothing,
    Unlisted,
    /// No answer: known one time-out after the poll.
    Failed,
    Denied,
}

impl Found {
    fn value(self) -> Option<f64> {
        match self {
            Found::Ok => Some(1.0),
            Found::Bad => Some(0.0),
            _ => None,
        }
    }

    fn outcome(self, fact: &'static Fact, subject: &str) -> Result<Points, Cause> {
        let mut points = Points::default();
        match self {
            Found::Failed => return Err(Cause::Unanswered),
            Found::Denied => return Err(Cause::Denied),
            Found::Unlisted => {}
            _ => points.put(fact, [&subject.into()], self.value()),
        }
        Ok(points)
    }
}

fn reading(collector: &'static str, at: Now, outcome: Result<Points, Cause>, own: Points) -> Reading {
    let outcome = match outcome {
        Ok(points) => Ok(Sample { section: nothing(), details: Arc::default(), points, gaps: Vec::new() }),
        Err(cause) => Err(Failure { cause, error: "no".to_owned() }),
    };
    Reading { collector, at, took: Duration::ZERO, outcome, own }
}

fn nothing() -> Arc<RawValue> {
    RawValue::from_string("null".to_owned()).unwrap().into()
}

/// One poll of a script: when, and how many came before it.
#[derive(Debug, Clone, Copy)]
struct Poll {
    at: Duration,
    count: u64,
}

/// A collector in virtual time.
struct Poller {
    name: &'static str,
    check: &'static Check,
    interval: Duration,
    phase: Duration,
    script: Box<dyn Fn(Poll) -> Result<Points, Cause>>,
}

impl Poller {
    /// One that watches one channel.
    fn channel(pace: Pace, script: impl Fn(Poll) -> Found + 'static) -> Poller {
        let script = Box::new(move |poll| script(poll).outcome(&CONNECTED, "slack"));
        Poller { name: "channels", check: &CHANNEL, interval: pace.interval, phase: pace.phase, script }
    }

    fn mcp(pace: Pace, script: impl Fn(Poll) -> Found + 'static) -> Poller {
        let script = Box::new(move |poll| script(poll).outcome(&MCP, "github"));
        Poller { name: "mcp", check: &MCP_CONNECTED, interval: pace.interval, phase: pace.phase, script }
    }

    fn timeout(&self) -> Duration {
        timeout(self.interval)
    }

    fn watched(&self) -> Watched {
        Watched { name: self.name, interval: self.interval, timeout: self.timeout(), checks: vec![*self.check] }
    }
}

fn timeout(interval: Duration) -> Duration {
    (interval / 2).min(SECOND * 10)
}

/// What is on its way: a reading that arrives at this time.
struct Due {
    at: Duration,
    poller: usize,
    outcome: Result<Points, Cause>,
}

/// What a restart goes on from: what was kept, written down and read again.
fn written(health: &Health) -> Kept {
    Kept::read(&health.keep().write().unwrap()).unwrap()
}

/// Health in virtual time: polls at their times, a wake every second, and a record of what it said.
struct Simulation {
    health: Health,
    settings: Settings,
    pollers: Vec<Poller>,
    time: Duration,
    next_wake: Duration,
    polls: Vec<u64>,
    due: Vec<Due>,
    /// Added to the wall clock by now.
    wall_jump: jiff::SignedDuration,
    /// Each change of overall, from the first value on.
    changes: Vec<(Duration, Overall)>,
}

impl Simulation {
    fn new(settings: &str, pollers: Vec<Poller>) -> Simulation {
        let settings: Settings = toml::from_str(settings).unwrap();
        let watched = pollers.iter().map(Poller::watched).collect();
        let health = Health::new(now(Duration::ZERO), watched, &[], &settings);
        let changes = vec![(Duration::ZERO, health.overall())];
        Simulation {
            health,
            settings,
            polls: vec![0; pollers.len()],
            pollers,
            time: Duration::ZERO,
            next_wake: Duration::ZERO,
            due: Vec::new(),
            wall_jump: jiff::SignedDuration::ZERO,
            changes,
        }
    }

    /// Lets this much time pass.
    fn run(&mut self, span: Duration) -> &mut Simulation {
        let end = self.time + span;
        while let Some(due) = self.next_reading(end) {
            self.wake_until(due.at);
            let poller = &self.pollers[due.poller];
            let reading = reading(poller.name, self.now(), due.outcome, Points::default());
            self.health.observe(self.now(), &reading);
            self.note();
        }
        self.wake_until(end);
        self
    }

    /// Lets this much time pass in which the sidecar does not run.
    fn away(&mut self, span: Duration) -> &mut Simulation {
        self.time += span;
        self.due.clear();
        while self.next_wake < self.time {
            self.next_wake += SECOND;
        }
        for (poller, count) in self.pollers.iter().zip(&mut self.polls) {
            while poller.phase + poller.interval * (*count as u32) < self.time {
                *count += 1;
            }
        }
        self
    }

    /// The sidecar is killed, and runs again after this much time: it polls at once.
    fn restart(&mut self, away: Duration) -> &mut Simulation {
        let kept = written(&self.health);
        self.away(away);
        for poller in &mut self.pollers {
            poller.phase = self.time;
        }
        self.polls.fill(0);
        let watched = self.pollers.iter().map(Poller::watched).collect();
        let away = kept.away(self.now(), true);
        self.health = Health::restore(self.now(), watched, &[], &self.settings, kept, away);
        self.note();
        self
    }

    /// The next reading that arrives before `end`.
    fn next_reading(&mut self, end: Duration) -> Option<Due> {
        loop {
            let due = self.due.iter().enumerate().min_by_key(|(_, due)| due.at).map(|(index, due)| (due.at, index));
            let polls = self
                .pollers
                .iter()
                .zip(&self.polls)
                .map(|(poller, count)| poller.phase + poller.interval * *count as u32);
            let (poll, poller) = polls.zip(0..).min().unwrap();
            match due {
                Some((at, index)) if at <= poll => return (at < end).then(|| self.due.remove(index)),
                _ if poll >= end => return None,
                _ => self.poll(poll, poller),
            }
        }
    }

    fn poll(&mut self, at: Duration, index: usize) {
        let poller = &self.pollers[index];
        let outcome = (poller.script)(Poll { at, count: self.polls[index] });
        let took = if matches!(outcome, Err(Cause::Unanswered)) { poller.timeout() } else { Duration::ZERO };
        self.due.push(Due { at: at + took, poller: index, outcome });
        self.polls[index] += 1;
    }

    fn wake_until(&mut self, end: Duration) {
        while self.next_wake <= end {
            self.time = self.next_wake;
            self.next_wake += SECOND;
            self.health.wake(self.now());
            self.note();
        }
        self.time = end;
    }

    fn now(&self) -> Now {
        let now = now(self.time);
        Now { wall: now.wall + self.wall_jump, ..now }
    }

    fn note(&mut self) {
        let overall = self.health.overall();
        assert_eq!(self.health.ready(), !matches!(overall, Overall::Starting | Overall::Unhealthy));
        if self.changes.last().unwrap().1 != overall {
            self.changes.push((self.time, overall));
        }
    }

    fn ready(&self) -> bool {
        self.health.ready()
    }

    /// Each change of readiness after the first time at which it was ready.
    fn readiness(&self) -> Vec<(Duration, bool)> {
        let ready = |overall| !matches!(overall, Overall::Starting | Overall::Unhealthy);
        let mut changes: Vec<_> = self.changes.iter().map(|(at, overall)| (*at, ready(*overall))).collect();
        changes.dedup_by_key(|(_, ready)| *ready);
        changes.into_iter().skip_while(|(_, ready)| !ready).skip(1).collect()
    }

    /// When it was first not ready after having been it.
    fn lost_at(&self) -> Option<Duration> {
        self.readiness().first().map(|(at, _)| *at)
    }

    fn verdict(&self, subject: &str) -> Verdict {
        self.health.verdicts().into_iter().find(|verdict| &*verdict.subject == subject).unwrap()
    }

    fn state(&self, subject: &str) -> State {
        self.verdict(subject).state
    }

    fn subjects(&self) -> Vec<String> {
        self.health.verdicts().iter().map(|verdict| verdict.subject.to_string()).collect()
    }
}

/// An instant of virtual time. The origin is not zero, as it never is.
fn now(time: Duration) -> Now {
    Now { mono: Duration::from_secs(5000), wall: Timestamp::from_second(1_800_000_000).unwrap() }.plus(time)
}

/// How fast a collector polls, and when it begins.
#[derive(Debug, Clone, Copy)]
struct Pace {
    interval: Duration,
    phase: Duration,
}

impl Pace {
    fn new(interval: u64) -> Pace {
        Pace { interval: SECOND * interval as u32, phase: Duration::ZERO }
    }

    /// The shortest that an interval allows, 2m where it can be.
    fn fail_for(self) -> Duration {
        (self.interval * 2).max(MINUTE * 2)
    }

    /// How long the check may be silent.
    fn patience(self) -> Duration {
        (self.interval * 3 + timeout(self.interval)).max(MINUTE * 5)
    }

    /// How far back ratios look.
    fn window(self) -> Duration {
        (self.interval * 20).max(MINUTE * 10)
    }

    fn settings(self) -> String {
        format!("[channel_connected]\nfail_for = \"{}\"\n", Span(self.fail_for()))
    }

    fn simulate(self, script: impl Fn(Poll) -> Found + 'static) -> Simulation {
        Simulation::new(&self.settings(), vec![Poller::channel(self, script)])
    }
}

/// Every interval with every phase.
fn paces() -> impl Iterator<Item = Pace> {
    [1, 15, 60, 300].into_iter().flat_map(|seconds| {
        let interval = SECOND * seconds;
        let phases = [Duration::ZERO, MILLI, interval / 3, interval / 2, interval - MILLI];
        phases.into_iter().map(move |phase| Pace { interval, phase })
    })
}

/// How many polls were ok before a fault: none, few (a fresh window), and an hour's.
fn warm_ups(pace: Pace) -> impl Iterator<Item = Duration> {
    [0, 1, 2, 3, 9, 10].into_iter().map(move |polls| pace.interval * polls).chain([HOUR + pace.interval])
}

/// Ok, but `fault` from `start` on for `span`.
fn fault(fault: Found, start: Duration, span: Duration) -> impl Fn(Poll) -> Found {
    move |poll| if poll.at >= start && poll.at < start + span { fault } else { Found::Ok }
}

#[test]
fn bad_for_a_second_less_than_fail_for_never_loses_readiness() {
    for pace in paces() {
        for start in warm_ups(pace) {
            let mut sim = pace.simulate(fault(Found::Bad, start, pace.fail_for() - SECOND));
            sim.run(start + pace.fail_for() + pace.window() * 2);
            assert_eq!(sim.lost_at(), None, "{pace:?} from {start:?}");
            assert!(sim.ready());
            assert_eq!(sim.state("slack"), State::Ok);
        }
    }
}

#[test]
fn bad_for_fail_for_and_two_intervals_loses_readiness() {
    for pace in paces() {
        for start in warm_ups(pace) {
            let span = pace.fail_for() + pace.interval * 2;
            let mut sim = pace.simulate(fault(Found::Bad, start, span));
            sim.run(start + span);
            let lost = sim.lost_at().unwrap_or_else(|| panic!("{pace:?} from {start:?}"));
            assert!(lost >= start + pace.fail_for() && lost < start + span, "{lost:?} {pace:?} from {start:?}");
            assert_eq!(sim.health.overall(), Overall::Unhealthy);
            assert_eq!(sim.state("slack"), State::Failed);
            sim.run(pace.interval);
            assert_eq!(sim.state("slack"), State::Recovering, "{pace:?}");
            assert!(!sim.ready());
            sim.run(MINUTE.max(pace.interval) + pace.interval);
            assert_eq!(sim.health.overall(), Overall::Healthy, "{pace:?} from {start:?}");
            assert_eq!(sim.readiness().len(), 2, "{pace:?}");
        }
    }
}

#[test]
fn time_alone_fails_nothing() {
    let pace = Pace::new(60);
    let mut sim = pace.simulate(|poll| if poll.count < 3 { Found::Ok } else { Found::Bad });
    sim.run(MINUTE * 5);
    for second in 1..60 {
        sim.health.wake(now(MINUTE * 5 + SECOND * second));
        assert_eq!(sim.state("slack"), State::Failing, "{second}");
    }
    assert_eq!(sim.health.overall(), Overall::Degraded);
}

#[test]
fn one_bad_in_ten_for_ever_is_ready() {
    for pace in paces() {
        for turn in [0, 4, 9] {
            let mut sim = pace.simulate(move |poll| if poll.count % 10 == turn { Found::Bad } else { Found::Ok });
            sim.run((pace.interval * 400).max(HOUR * 2));
            assert_eq!(sim.lost_at(), None, "{pace:?} {turn}");
        }
    }
}

#[test]
fn every_second_bad_for_two_windows_loses_readiness() {
    for pace in paces() {
        for turn in [0, 1] {
            let mut sim = pace.simulate(move |poll| if poll.count % 2 == turn { Found::Bad } else { Found::Ok });
            sim.run(pace.window() * 2);
            assert!(sim.lost_at().is_some(), "{pace:?} {turn}");
            assert!(!sim.ready(), "{pace:?} {turn}");
        }
    }
}

#[test]
fn flapping_changes_readiness_at_most_ten_times_in_two_hours() {
    for pace in paces() {
        let scale = pace.fail_for().as_secs() as u32 / 120;
        let half = (SECOND * 90 * scale).as_millis();
        for bad in [0, 1] {
            let script = move |poll: Poll| if poll.at.as_millis() / half % 2 == bad { Found::Bad } else { Found::Ok };
            let mut sim = pace.simulate(script);
            sim.run(HOUR * 2 * scale);
            let changes = sim.readiness().len();
            assert!(changes <= 10, "{changes} {pace:?}");
            // A slower pace may see two of three looks ok.
            assert!(changes >= 1 || pace.interval > SECOND * 15, "{pace:?}");
        }
    }
}

#[test]
fn one_unanswered_poll_is_ready() {
    for pace in paces() {
        for missed in [1, 2, 3, 25] {
            let mut sim = pace.simulate(move |poll| if poll.count == missed { Found::Failed } else { Found::Ok });
            sim.run(pace.phase + pace.interval * missed as u32 + timeout(pace.interval) + MILLI);
            assert_eq!(sim.state("slack"), State::Unknown, "{pace:?}");
            assert_eq!(sim.health.overall(), Overall::Degraded);
            assert_eq!(sim.verdict("slack").unknown_cause, Some(Cause::Unanswered));
            sim.run(pace.window());
            assert_eq!(sim.lost_at(), None, "{pace:?} {missed}");
            assert_eq!(sim.health.overall(), Overall::Healthy);
        }
    }
}

#[test]
fn silence_fails_after_unknown_for_and_the_first_answer_lifts_it() {
    for pace in paces() {
        for start in warm_ups(pace).skip(1) {
            for kind in [Found::Failed, Found::Nothing] {
                let span = pace.patience() + pace.interval * 2;
                let mut sim = pace.simulate(fault(kind, start, span));
                sim.run(start + span);
                let lost = sim.lost_at().unwrap_or_else(|| panic!("{pace:?} {kind:?} from {start:?}"));
                assert!(lost >= start + pace.patience() && lost < start + span, "{lost:?} {pace:?} from {start:?}");
                assert_eq!(sim.state("slack"), State::Failed);
                assert_eq!(sim.verdict("slack").rule, format!("unknown_for {}", Span(pace.patience())));
                sim.run(pace.interval + timeout(pace.interval));
                assert_eq!(sim.health.overall(), Overall::Healthy, "{pace:?} {kind:?} from {start:?}");
                sim.run(pace.window());
                assert_eq!(sim.readiness().len(), 2);
            }
        }
    }
}

#[test]
fn every_second_poll_unanswered_fails_by_intermittent_silence() {
    // At 8 s the window holds an odd number of polls.
    let odd = [Pace::new(8), Pace { phase: SECOND * 3, ..Pace::new(8) }];
    for pace in paces().chain(odd) {
        for turn in [0, 1] {
            let end = pace.window() * 2;
            let script = move |poll: Poll| match poll.at < end && poll.count % 2 == turn {
                true => Found::Failed,
                false => Found::Ok,
            };
            let mut sim = pace.simulate(script);
            sim.run(end);
            let lost = sim.lost_at().unwrap_or_else(|| panic!("{pace:?} {turn}"));
            assert!(lost >= pace.patience(), "{lost:?} {pace:?}");
            assert_eq!(sim.readiness().len(), 1, "an answer between two silences lifts nothing: {pace:?} {turn}");
            assert_eq!(sim.state("slack"), State::Failed);
            sim.run(pace.window());
            assert_eq!(sim.health.overall(), Overall::Healthy, "{pace:?} {turn}");
        }
    }
}

#[test]
fn a_silence_before_the_first_answer_does_not_count_against_a_later_blip() {
    for pace in paces() {
        let awake = pace.interval * 30;
        let script = move |poll: Poll| match poll.at < awake || poll.count % 40 == 33 {
            true => Found::Nothing,
            false => Found::Ok,
        };
        let mut sim = pace.simulate(script);
        sim.run(awake + pace.interval * 15);
        assert_eq!(sim.lost_at(), None, "{pace:?}");
    }
}

/// A small xorshift: the same numbers everywhere and for ever.
struct Dice(u64);

impl Dice {
    /// True in `percent` of cases, for the `count`th throw of `seed`.
    fn hits(seed: u64, count: u64, percent: u64) -> bool {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ count.wrapping_mul(0xd1b5_4a32_d192_ed03) | 1);
        for _ in 0..4 {
            dice.throw();
        }
        dice.throw() % 100 < percent
    }

    fn throw(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn half_of_the_polls_unanswered_at_random_does_not_flap() {
    for interval in [1, 15, 60] {
        for seed in 1..=4 {
            let pace = Pace::new(interval);
            let script = move |poll: Poll| if Dice::hits(seed, poll.count, 50) { Found::Failed } else { Found::Ok };
            let mut sim = pace.simulate(script);
            sim.run(HOUR * 2);
            let changes = sim.readiness().len();
            assert!((1..=10).contains(&changes), "{changes} {pace:?} seed {seed}");
        }
    }
}

#[test]
fn one_percent_of_random_blips_for_a_week_never_loses_readiness() {
    for interval in [15, 60] {
        for seed in 1..=4 {
            for blip in [Found::Bad, Found::Nothing, Found::Failed] {
                let pace = Pace::new(interval);
                let script = move |poll: Poll| if Dice::hits(seed, poll.count, 1) { blip } else { Found::Ok };
                let mut sim = pace.simulate(script);
                sim.run(DAY * 7);
                let blips = sim.changes.iter().filter(|(_, overall)| *overall == Overall::Degraded).count() as u64;
                let polls = DAY.as_secs() * 7 / interval;
                assert!((polls / 200..polls / 50).contains(&blips), "{blips} blips: the dice are loaded");
                assert_eq!(sim.lost_at(), None, "{pace:?} {blip:?} seed {seed}");
            }
        }
    }
}

#[test]
fn away_from_a_healthy_host_is_ready_when_back() {
    for pace in paces() {
        for seconds in [11, 60, 360, 8 * 3600] {
            let mut sim = pace.simulate(|_| Found::Ok);
            sim.run(HOUR).away(SECOND * seconds).run(HOUR);
            assert_eq!(sim.lost_at(), None, "{pace:?} {seconds}");
        }
    }
}

#[test]
fn away_while_it_was_silent_does_not_count_as_silence() {
    for pace in paces() {
        let start = HOUR + MINUTE;
        let span = MINUTE * 7 + pace.interval;
        let mut sim = pace.simulate(fault(Found::Nothing, start, span));
        sim.run(start + pace.interval).away(MINUTE * 6).run(HOUR);
        assert_eq!(sim.lost_at(), None, "{pace:?}");
    }
}

#[test]
fn two_blips_around_a_long_absence_are_two_blips() {
    for pace in paces() {
        let script = move |poll: Poll| match poll.at >= HOUR && poll.at < HOUR * 9 + pace.interval {
            true => Found::Bad,
            false => Found::Ok,
        };
        let mut sim = pace.simulate(script);
        sim.run(HOUR + pace.interval).away(HOUR * 8 - pace.interval).run(HOUR);
        assert_eq!(sim.lost_at(), None, "{pace:?}");
        assert_eq!(sim.health.overall(), Overall::Healthy);
    }
}

#[test]
fn two_blips_around_a_restart_hours_later_are_two_blips() {
    for pace in paces() {
        let script = move |poll: Poll| match poll.at >= HOUR && poll.at < HOUR * 9 + pace.interval {
            true => Found::Bad,
            false => Found::Ok,
        };
        let mut sim = pace.simulate(script);
        sim.run(HOUR + pace.interval).restart(HOUR * 8 - pace.interval).run(HOUR);
        assert_eq!(sim.lost_at(), None, "{pace:?}");
        assert_eq!(sim.health.overall(), Overall::Healthy);
    }
}

#[test]
fn restarted_beside_a_healthy_host_it_is_ready_at_once_and_stays_so() {
    for pace in paces() {
        for seconds in [1, 60, 360, 8 * 3600] {
            let mut sim = pace.simulate(|_| Found::Ok);
            sim.run(HOUR).restart(SECOND * seconds);
            assert_eq!(sim.health.overall(), Overall::Healthy, "{pace:?} {seconds}");
            sim.run(HOUR);
            assert_eq!(sim.lost_at(), None, "{pace:?} {seconds}");
        }
    }
}

/// A sidecar that is killed every minute, and back after two seconds.
fn restarted_every_minute(sim: &mut Simulation, minutes: u32) {
    for _ in 0..minutes {
        sim.run(SECOND * 58).restart(SECOND * 2);
    }
}

#[test]
fn restarts_every_minute_in_an_outage_do_not_delay_its_detection() {
    for pace in paces() {
        let outage = fault(Found::Bad, HOUR, HOUR);
        let lost = pace.simulate(outage).run(HOUR * 2).lost_at().unwrap();
        let mut sim = pace.simulate(fault(Found::Bad, HOUR, HOUR));
        sim.run(HOUR);
        restarted_every_minute(&mut sim, 60);
        let late = sim.lost_at().unwrap_or_else(|| panic!("{pace:?}"));
        // Each start polls at once: from then on it polls at other times.
        assert!(late <= lost + pace.interval, "{late:?}, without restarts {lost:?}: {pace:?}");
        assert_eq!(sim.readiness().len(), 1, "and it stays so: {pace:?}");
        restarted_every_minute(&mut sim, 10);
        assert_eq!(sim.readiness().len(), 2, "nor is its end missed: {pace:?}");
    }
}

#[test]
fn restarts_every_minute_delay_the_end_of_a_silence_by_no_more_than_their_own_time() {
    for pace in paces() {
        let lost = pace.simulate(fault(Found::Nothing, HOUR, HOUR)).run(HOUR * 2).lost_at().unwrap();
        let mut sim = pace.simulate(fault(Found::Nothing, HOUR, HOUR));
        sim.run(HOUR);
        restarted_every_minute(&mut sim, 60);
        let late = sim.lost_at().unwrap_or_else(|| panic!("{pace:?}"));
        let stops = late.saturating_sub(HOUR).as_secs() as u32 / 60 + 1;
        assert!(late <= lost + SECOND * 2 * stops + pace.interval, "{late:?}, without restarts {lost:?}: {pace:?}");
    }
}

#[test]
fn restarts_every_minute_beside_a_healthy_host_lose_nothing() {
    for pace in paces() {
        let mut sim = pace.simulate(|poll| if poll.at.as_secs() / 7 % 10 == 3 { Found::Bad } else { Found::Ok });
        sim.run(HOUR);
        restarted_every_minute(&mut sim, 120);
        assert_eq!(sim.lost_at(), None, "{pace:?}");
    }
}

#[test]
fn a_failure_is_held_while_nobody_watches() {
    for pace in paces() {
        let mut sim = pace.simulate(fault(Found::Bad, HOUR, HOUR));
        sim.run(HOUR * 2).away(HOUR * 8);
        sim.health.wake(sim.now());
        assert_eq!(sim.state("slack"), State::Failed);
        assert!(!sim.ready());
        sim.run(pace.interval * 2 + MINUTE.max(pace.interval));
        assert_eq!(sim.health.overall(), Overall::Healthy, "{pace:?}");
    }
}

#[test]
fn no_permission_is_degraded_and_ready_for_ever() {
    for pace in paces() {
        let mut sim = pace.simulate(|_| Found::Denied);
        sim.run(pace.phase + MILLI);
        assert_eq!(sim.health.overall(), Overall::Degraded);
        sim.run(DAY);
        assert_eq!(sim.lost_at(), None, "{pace:?}");
        let verdict = sim.verdict("");
        assert_eq!((verdict.state, verdict.unknown_cause), (State::Unknown, Some(Cause::Denied)));
    }
}

#[test]
fn permission_lost_lifts_a_silence_and_fails_nothing() {
    for pace in paces() {
        let silent = HOUR + pace.patience() + pace.interval * 2;
        let script = move |poll: Poll| match poll.at {
            at if at < HOUR => Found::Ok,
            at if at < silent => Found::Failed,
            _ => Found::Denied,
        };
        let mut sim = pace.simulate(script);
        sim.run(silent);
        assert!(!sim.ready(), "{pace:?}");
        sim.run(pace.interval + timeout(pace.interval));
        assert_eq!(sim.health.overall(), Overall::Degraded, "{pace:?}");
        sim.run(DAY);
        assert_eq!(sim.readiness().len(), 2);
    }
}

#[test]
fn an_mcp_server_down_for_a_day_is_ready() {
    for pace in paces() {
        let pollers = vec![Poller::channel(pace, |_| Found::Ok), Poller::mcp(pace, |_| Found::Bad)];
        let mut sim = Simulation::new(&pace.settings(), pollers);
        sim.run(DAY);
        assert_eq!(sim.health.overall(), Overall::Healthy);
        assert_eq!(sim.state("github"), State::Failed);
        assert_eq!(sim.lost_at(), None);
    }
}

#[test]
fn a_warning_degrades_and_is_ready() {
    let pace = Pace::new(15);
    let settings = "[mcp_connected]\nseverity = \"warning\"\n";
    let pollers = vec![Poller::channel(pace, |_| Found::Ok), Poller::mcp(pace, |_| Found::Bad)];
    let mut sim = Simulation::new(settings, pollers);
    sim.run(MINUTE * 4);
    assert_eq!((sim.state("github"), sim.health.overall()), (State::Failing, Overall::Healthy));
    sim.run(MINUTE * 2);
    assert_eq!((sim.state("github"), sim.health.overall()), (State::Failed, Overall::Degraded));
    assert_eq!(sim.lost_at(), None);
}

#[test]
fn jumps_of_the_wall_clock_change_nothing() {
    for pace in paces() {
        let script = move |poll: Poll| match poll.at.as_secs() / 1800 % 6 {
            2 => Found::Bad,
            4 => Found::Failed,
            _ => Found::Ok,
        };
        let mut plain = pace.simulate(script);
        let mut jumping = pace.simulate(script);
        for step in 0..60 {
            plain.run(MINUTE * 5);
            jumping.wall_jump = jiff::SignedDuration::from_hours([0, 1, 0, -1][step % 4]);
            jumping.run(MINUTE * 5);
            assert_eq!(states(&plain.health), states(&jumping.health), "{pace:?}");
        }
        assert_eq!(plain.changes, jumping.changes, "{pace:?}");
        assert!(plain.lost_at().is_some());
    }
}

fn states(health: &Health) -> BTreeMap<(String, String), State> {
    let name = |verdict: &Verdict| (verdict.check.to_string(), verdict.subject.to_string());
    health.verdicts().iter().map(|verdict| (name(verdict), verdict.state)).collect()
}

#[test]
fn a_bad_channel_unlisted_in_every_eighth_reading_still_fails() {
    for pace in paces() {
        for turn in 0..8 {
            let start = pace.interval * 20;
            let script = move |poll: Poll| match (poll.at >= start, poll.count % 8 == turn) {
                (true, true) => Found::Unlisted,
                (true, false) => Found::Bad,
                (false, _) => Found::Ok,
            };
            let mut sim = pace.simulate(script);
            let enough = pace.fail_for() + pace.interval * 4;
            sim.run(start + enough);
            assert!(sim.lost_at().is_some(), "{pace:?} {turn}");
            sim.run(pace.window());
            assert!(!sim.ready());
        }
    }
}

#[test]
fn a_critical_subject_that_stays_away_is_unknown_and_then_dropped_but_never_failed() {
    for pace in paces() {
        let leaves = pace.interval * 10;
        let mut sim = pace.simulate(fault(Found::Unlisted, leaves, DAY * 2));
        sim.run(leaves + pace.interval);
        assert_eq!(sim.state("slack"), State::Unknown, "{pace:?}");
        sim.run(pace.patience() - pace.interval * 2);
        assert_eq!(sim.subjects(), ["slack"], "{pace:?}");
        sim.run(pace.interval * 4);
        assert!(sim.subjects().is_empty(), "{pace:?}");
        assert_eq!((sim.health.overall(), sim.lost_at()), (Overall::Healthy, None), "{pace:?}");
    }
}

#[test]
fn one_that_is_gone_after_a_silence_is_not_failed_by_it() {
    for pace in paces() {
        // The host restarts, is silent for most of what it may be, and comes back without the channel.
        let (leaves, back) = (pace.interval * 10, pace.interval * 10 + pace.patience() * 4 / 5);
        let mut sim = pace.simulate(move |poll| match (poll.at >= leaves, poll.at >= back) {
            (_, true) => Found::Unlisted,
            (true, _) => Found::Nothing,
            _ => Found::Ok,
        });
        sim.run(back + pace.patience() * 2);
        assert_eq!((sim.lost_at(), sim.subjects()), (None, Vec::new()), "{pace:?}");
        // So it is with a name that nobody ever lists, beside a host that takes a while to start.
        let settings = pace.settings() + "[channel_connected.subjects.slak]\nseverity = \"critical\"\n";
        let begins = pace.patience() * 4 / 5;
        let script = move |poll: Poll| if poll.at < begins { Found::Nothing } else { Found::Ok };
        let mut sim = Simulation::new(&settings, vec![Poller::channel(pace, script)]);
        sim.run(pace.patience() * 3);
        let lost_again = sim.readiness().iter().skip_while(|(_, ready)| !ready).any(|(_, ready)| !ready);
        assert!(sim.ready() && !lost_again, "{pace:?}: {:?}", sim.readiness());
    }
}

#[test]
fn flapping_fails_however_long_fail_for_is() {
    for fail_for in [10, 15, 60, 120] {
        for interval in [15, 60, 300] {
            let pace = Pace::new(interval);
            let settings = format!("[channel_connected]\nfail_for = \"{fail_for}m\"\n");
            let flap = |poll: Poll| if poll.count.is_multiple_of(2) { Found::Bad } else { Found::Ok };
            let mut sim = Simulation::new(&settings, vec![Poller::channel(pace, flap)]);
            sim.run(MINUTE * fail_for - SECOND);
            assert!(sim.ready(), "{fail_for}m at {interval}s: no sooner than a streak would");
            sim.run(MINUTE * fail_for + pace.interval * 20);
            assert!(!sim.ready(), "{fail_for}m at {interval}s");
        }
    }
}

#[test]
fn an_expected_subject_that_is_not_listed_is_bad() {
    for pace in paces() {
        let settings = pace.settings() + "expect = [\"telegram\"]\n";
        let mut sim = Simulation::new(&settings, vec![Poller::channel(pace, |_| Found::Ok)]);
        assert_eq!(sim.subjects(), ["telegram"]);
        assert_eq!(sim.state("telegram"), State::Starting);
        sim.run(pace.phase + pace.fail_for() - SECOND);
        assert_eq!((sim.state("telegram"), sim.ready()), (State::Failing, true), "{pace:?}");
        sim.run(pace.interval * 2);
        assert_eq!((sim.state("telegram"), sim.ready()), (State::Failed, false), "{pace:?}");
    }
}

#[test]
fn a_new_subject_never_makes_a_ready_host_unready_by_itself() {
    for found in [Found::Bad, Found::Nothing] {
        let pace = Pace::new(15);
        let script = move |poll: Poll| {
            let mut points = Found::Ok.outcome(&CONNECTED, "slack").unwrap();
            if poll.count >= 20 {
                points.0.extend(found.outcome(&CONNECTED, "new").unwrap().0);
            }
            Ok(points)
        };
        let poller = Poller { script: Box::new(script), ..Poller::channel(pace, |_| Found::Ok) };
        let mut sim = Simulation::new("", vec![poller]);
        sim.run(MINUTE * 5 + SECOND);
        assert_eq!((sim.health.overall(), sim.lost_at()), (Overall::Degraded, None));
        sim.run(HOUR);
        assert_eq!(sim.lost_at().is_some(), found == Found::Bad, "what was never known does not fail by silence");
    }
}

#[test]
fn starting_ends_with_the_first_known_observation_or_by_patience() {
    for pace in paces() {
        let mut sim = pace.simulate(|_| Found::Ok);
        assert_eq!(sim.health.overall(), Overall::Starting);
        sim.run(pace.phase + MILLI);
        assert_eq!(sim.health.overall(), Overall::Healthy);

        let mut silent = pace.simulate(|_| Found::Failed);
        silent.run(pace.patience() - MILLI);
        assert_eq!(silent.health.overall(), Overall::Starting, "{pace:?}");
        silent.run(SECOND * 2);
        assert_eq!(silent.health.overall(), Overall::Degraded, "never known, so never failed by silence: {pace:?}");
        silent.run(DAY);
        assert_eq!(silent.lost_at(), None);
    }
}

#[test]
fn ready_needs_any_is_lost_with_the_last_subject() {
    let pace = Pace::new(15);
    let script = |poll: Poll| {
        let mut points = if poll.at < HOUR { Found::Ok } else { Found::Bad }.outcome(&CONNECTED, "slack").unwrap();
        let other = if poll.at < HOUR * 2 { Found::Ok } else { Found::Bad };
        points.0.extend(other.outcome(&CONNECTED, "telegram").unwrap().0);
        Ok(points)
    };
    let poller = Poller { script: Box::new(script), ..Poller::channel(pace, |_| Found::Ok) };
    let mut sim = Simulation::new("[channel_connected]\nready_needs = \"any\"\n", vec![poller]);
    sim.run(HOUR * 2);
    assert_eq!((sim.state("slack"), sim.health.overall()), (State::Failed, Overall::Degraded));
    sim.run(MINUTE * 2);
    assert_eq!((sim.state("telegram"), sim.ready()), (State::Failing, true));
    sim.run(SECOND * 2);
    assert_eq!((sim.state("telegram"), sim.ready()), (State::Failed, false));
}

// The property: whatever happens under whatever configuration, engine and oracle agree after every call.

static LOAD: Fact = Fact::gauge("test.load", "test_load", "Too high above 0, too low below 0.").of(&["pool"]);
static ALIVE: Fact = Fact::gauge("test.alive", "test_alive", "1: alive.");
static LINK: Fact = Fact::gauge("test.link", "test_link", "1: up.").of(&["from", "to"]);
static UP: Fact = Fact::gauge("test.collector.up", "test_collector_up", "1: up.").of(&["collector"]);

static HIGH: Check = check("high", &LOAD, Bound::Above(0.5), Severity::Critical, 4);
static LOW: Check = check("low", &LOAD, Bound::Below(-0.5), Severity::Warning, 10);
static LIVES: Check = check("lives", &ALIVE, Bound::Below(0.5), Severity::Critical, 0);
static LINKED: Check = check("linked", &LINK, Bound::Below(0.5), Severity::Info, 20);
static OWN: [Check; 1] = [check("collector_up", &UP, Bound::Below(0.5), Severity::Warning, 15)];

const fn check(name: &'static str, fact: &'static Fact, bad: Bound, severity: Severity, fail_for: u64) -> Check {
    Check { name, fact, bad, severity, fail_for: Duration::from_secs(fail_for), headline: "{} bad", means: "it is bad" }
}

/// What a configuration may say of a check and of a subject. Times are whole seconds.
#[derive(Debug, Clone)]
struct Said {
    enabled: Option<bool>,
    severity: Option<Severity>,
    fail_for: Option<u64>,
    fail_count: Option<Option<u32>>,
    fail_ratio: Option<Option<f64>>,
    ratio_window: Option<u64>,
    ratio_min: Option<u32>,
    recover_for: Option<u64>,
    unknown_for: Option<u64>,
    unknown_as: Option<UnknownAs>,
}

impl Said {
    fn toml(&self) -> String {
        let quote = |text: &dyn std::fmt::Debug| format!("\"{}\"", format!("{text:?}").to_lowercase());
        let span = |seconds: &u64| format!("\"{seconds}s\"");
        let off = |value: Option<String>| value.unwrap_or("\"off\"".to_owned());
        let keys = [
            ("enabled", self.enabled.map(|enabled| enabled.to_string())),
            ("severity", self.severity.as_ref().map(|severity| quote(severity))),
            ("fail_for", self.fail_for.as_ref().map(span)),
            ("fail_count", self.fail_count.map(|count| off(count.map(|count| count.to_string())))),
            ("fail_ratio", self.fail_ratio.map(|ratio| off(ratio.map(|ratio| format!("{ratio:?}"))))),
            ("ratio_window", self.ratio_window.as_ref().map(span)),
            ("ratio_min", self.ratio_min.map(|least| least.to_string())),
            ("recover_for", self.recover_for.as_ref().map(span)),
            ("unknown_for", self.unknown_for.as_ref().map(span)),
            ("unknown_as", self.unknown_as.as_ref().map(|unknown_as| quote(unknown_as))),
        ];
        keys.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value?))).collect()
    }

    /// The policy below with what this says laid over it.
    fn over(&self, below: &Policy) -> Policy {
        let span = |said: Option<u64>, below: Duration| said.map_or(below, Duration::from_secs);
        Policy {
            severity: self.severity.unwrap_or(below.severity),
            fail_for: span(self.fail_for, below.fail_for),
            fail_count: self.fail_count.unwrap_or(below.fail_count),
            fail_ratio: self.fail_ratio.unwrap_or(below.fail_ratio),
            ratio_window: span(self.ratio_window, below.ratio_window),
            ratio_min: self.ratio_min.unwrap_or(below.ratio_min),
            recover_for: span(self.recover_for, below.recover_for),
            unknown_for: span(self.unknown_for, below.unknown_for),
            unknown_as: self.unknown_as.unwrap_or(below.unknown_as),
            ready_needs: below.ready_needs,
        }
    }
}

/// The table of one check.
#[derive(Debug, Clone)]
struct CheckTable {
    said: Said,
    ready_needs: Option<ReadyNeeds>,
    expect: Vec<&'static str>,
    subjects: Vec<(&'static str, Said)>,
}

impl CheckTable {
    fn toml(&self, check: &str) -> String {
        let needs =
            self.ready_needs.map(|needs| format!("ready_needs = \"{}\"\n", format!("{needs:?}").to_lowercase()));
        let mut text =
            format!("[{check}]\n{}{}expect = {:?}\n", self.said.toml(), needs.unwrap_or_default(), self.expect);
        for (subject, said) in &self.subjects {
            text += &format!("[{check}.subjects.{subject:?}]\n{}", said.toml());
        }
        text
    }

    fn rule(&self, check: &'static Check) -> Rule {
        let said = &self.said;
        let mut policy = said.over(&Policy::new(check.severity, check.fail_for));
        policy.ready_needs = self.ready_needs.unwrap_or(policy.ready_needs);
        policy.unknown_as = said.unknown_as.unwrap_or(Policy::unknown_as(policy.severity));
        let subject = |own: &Said| {
            let mut layered = own.over(&policy);
            let unknown_as = own.unknown_as.or(said.unknown_as);
            layered.unknown_as = unknown_as.unwrap_or(Policy::unknown_as(layered.severity));
            own.enabled.unwrap_or(true).then_some(layered)
        };
        let subjects = self.subjects.iter().map(|(name, own)| (name.to_string(), subject(own))).collect();
        let expect = self.expect.iter().map(|name| name.to_string()).collect();
        Rule { enabled: said.enabled.unwrap_or(true), policy, expect, subjects, ..Rule::plain(check) }
    }
}

/// A configuration: one collector or two, and a table for every check.
#[derive(Debug, Clone)]
struct World {
    /// `beta` runs; `alpha` always does.
    both: bool,
    paces: [(u64, u64); 2],
    high: CheckTable,
    low: CheckTable,
    lives: CheckTable,
    linked: CheckTable,
    own: CheckTable,
}

impl World {
    fn tables(&self) -> [(&'static Check, &CheckTable); 5] {
        let checks = [&HIGH, &LOW, &LIVES, &LINKED, &OWN[0]];
        let tables = [&self.high, &self.low, &self.lives, &self.linked, &self.own];
        std::array::from_fn(|index| (checks[index], tables[index]))
    }

    fn settings(&self) -> Settings {
        let text: String = self.tables().iter().map(|(check, table)| table.toml(check.name)).collect();
        toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn watched(&self) -> Vec<Watched> {
        let watched = self.polled().into_iter().map(|polled| {
            let checks = polled.checks.iter().map(|rule| *rule.check).collect();
            Watched { name: polled.name, interval: polled.interval, timeout: polled.timeout, checks }
        });
        watched.collect()
    }

    fn own(&self) -> Vec<Rule> {
        vec![self.own.rule(&OWN[0])]
    }

    fn polled(&self) -> Vec<Polled> {
        let [high, low, lives, linked, _] = self.tables().map(|(check, table)| table.rule(check));
        let checks = [("alpha", vec![high, low, lives]), ("beta", vec![linked])];
        let polled = checks.into_iter().zip(self.paces).map(|((name, checks), (interval, timeout))| Polled {
            name,
            interval: Duration::from_millis(interval),
            timeout: Duration::from_millis(timeout),
            checks,
        });
        polled.filter(|polled| self.both || polled.name == "alpha").collect()
    }
}

/// What a poll finds: one value for each of three subjects, or nothing at all.
#[derive(Debug, Clone, Copy)]
enum Answer {
    Good([Listed; 3]),
    Failed(Cause),
}

#[derive(Debug, Clone, Copy)]
enum Listed {
    Not,
    Unseen,
    Is(i8),
    Excused(Option<i8>),
    Denied,
    Twice(Option<i8>, Option<i8>),
}

impl Listed {
    /// The latest point, if that is what this says.
    fn withhold(self, points: &mut Points) {
        let cause = match self {
            Listed::Excused(_) => Cause::Excused,
            Listed::Denied => Cause::Denied,
            _ => return,
        };
        points.0.last_mut().unwrap().withheld = Some(cause);
    }

    fn values(self) -> Vec<Option<f64>> {
        match self {
            Listed::Not => vec![],
            Listed::Unseen | Listed::Denied => vec![None],
            Listed::Is(value) => vec![Some(value.into())],
            Listed::Excused(value) => vec![value.map(f64::from)],
            Listed::Twice(one, other) => vec![one.map(f64::from), other.map(f64::from)],
        }
    }
}

const POOLS: [&str; 3] = ["x", "y", "z"];
const COLLECTORS: [&str; 2] = ["alpha", "beta"];

fn polled(collector: usize, answer: Answer, at: Now) -> Reading {
    let mut own = Points::default();
    own.put(&UP, [&COLLECTORS[collector].into()], f64::from(matches!(answer, Answer::Good(_))));
    let outcome = match answer {
        Answer::Failed(cause) => Err(cause),
        Answer::Good(listed) => Ok(points(collector, listed)),
    };
    reading(COLLECTORS[collector], at, outcome, own)
}

fn points(collector: usize, listed: [Listed; 3]) -> Points {
    let mut points = Points::default();
    for (pool, listed) in POOLS.iter().zip(listed) {
        for value in listed.values() {
            match collector {
                0 => points.put(&LOAD, [&(*pool).into()], value),
                _ => points.put(&LINK, [&"here".into(), &(*pool).into()], value),
            }
            listed.withhold(&mut points);
        }
    }
    if collector == 0 {
        listed[0].values().into_iter().for_each(|value| points.put(&ALIVE, [], value));
        listed[0].withhold(&mut points);
    }
    points
}

/// The sidecar stops and starts again.
#[derive(Debug, Clone)]
struct Restart {
    /// For so many milliseconds, or for 3 I + T of `alpha` and so many more (or fewer).
    away: Result<u64, i64>,
    reboot: bool,
    /// Meanwhile the wall clock is set by so many milliseconds.
    set: i64,
    /// The file is a copy from the beginning of the stretch before.
    old_copy: bool,
    configuration: Option<Box<World>>,
}

/// A stretch of polls of one collector (or of both): mostly one answer, every nth another; before it, perhaps, a restart.
#[derive(Debug, Clone)]
struct Stretch {
    restart: Option<Restart>,
    collector: Option<usize>,
    usual: Answer,
    other: Answer,
    every: usize,
    polls: usize,
    pause: Pause,
}

/// What passes between two polls.
#[derive(Debug, Clone, Copy)]
enum Pause {
    /// So many eighths of the interval, watched.
    Eighths(u32),
    /// 3 I + T, and so many milliseconds more (or fewer), watched.
    Stale(i64),
    /// Nobody watches for 3 I + T and so many milliseconds more (or fewer).
    Missed(i64),
    /// Nobody watches for so many milliseconds.
    Away(u64),
}

/// Both, driven by the same calls.
struct Pair {
    health: Health,
    oracle: Oracle,
    world: World,
    /// Real time, which no clock shows.
    time: Duration,
    /// Which boot it is, and when it began.
    boot: (u32, Duration),
    /// By how many milliseconds the wall clock was set.
    set: i64,
    /// The oracle's time, in which no boot ends: this was it at that real time.
    anchor: (Duration, Duration),
    /// What both were told last.
    told: (Now, Duration),
    copy: Copied,
}

/// What one finds in a copy of the state file: both as they were then.
#[derive(Clone)]
struct Copied {
    kept: Kept,
    oracle: Oracle,
    at: Now,
    boot: u32,
    oracle_time: Duration,
}

const ORIGIN: Duration = Duration::from_secs(5000);

impl Pair {
    fn new(world: &World) -> Pair {
        let start = now(Duration::ZERO);
        let health = Health::new(start, world.watched(), &OWN, &world.settings());
        let oracle = Oracle::new(start, world.polled(), world.own());
        let copy = Copied { kept: health.keep(), oracle: oracle.clone(), at: start, boot: 0, oracle_time: start.mono };
        let anchor = (ORIGIN, Duration::ZERO);
        let time = Duration::ZERO;
        // The first boot began long before.
        Pair {
            health,
            oracle,
            world: world.clone(),
            time,
            boot: (0, Duration::ZERO),
            set: 0,
            anchor,
            told: (start, start.mono),
            copy,
        }
    }

    /// What the clocks of the machine show.
    fn now(&self) -> Now {
        let (boot, began) = self.boot;
        let mono = if boot == 0 { ORIGIN + self.time } else { SECOND * 7 + (self.time - began) };
        Now { mono, wall: now(self.time).wall + jiff::SignedDuration::from_millis(self.set) }
    }

    fn oracle_time(&self) -> Duration {
        self.anchor.0 + (self.time - self.anchor.1)
    }

    fn oracle_now(&self) -> Now {
        Now { mono: self.oracle_time(), ..self.now() }
    }

    fn play(&mut self, script: &[Stretch]) -> Result<(), TestCaseError> {
        self.compare()?;
        for stretch in script {
            let copy = self.copied();
            if let Some(restart) = &stretch.restart {
                self.restart(restart, copy)?;
            } else {
                self.copy = copy;
            }
            self.stretch(stretch.clone())?;
        }
        Ok(())
    }

    fn copied(&self) -> Copied {
        let (kept, oracle) = (self.health.keep(), self.oracle.clone());
        Copied { kept, oracle, at: self.told.0, boot: self.boot.0, oracle_time: self.told.1 }
    }

    fn restart(&mut self, restart: &Restart, latest: Copied) -> Result<(), TestCaseError> {
        let copy = if restart.old_copy { self.copy.clone() } else { latest };
        let (interval, timeout) = self.world.paces[0];
        let away = restart.away.unwrap_or_else(|more| (interval * 3 + timeout).saturating_add_signed(more));
        self.time += Duration::from_millis(away);
        self.set += restart.set;
        if restart.reboot {
            self.boot = (self.boot.0 + 1, self.time);
        }
        if let Some(world) = &restart.configuration {
            self.world = (**world).clone();
        }
        let (now, world) = (self.now(), &self.world);
        let same_boot = copy.boot == self.boot.0;
        let kept = Kept::read(&copy.kept.write().unwrap()).unwrap();
        let engine = kept.away(now, same_boot);
        self.health = Health::restore(now, world.watched(), &OWN, &world.settings(), kept, engine);
        let away = match same_boot {
            true => now.mono - copy.at.mono,
            false => Duration::try_from(now.wall.duration_since(copy.at.wall)).unwrap_or_default(),
        };
        prop_assert_eq!(engine, Away { length: away, rebooted: !same_boot });
        self.oracle = copy.oracle;
        self.oracle.restart(away, !same_boot, world.polled(), world.own());
        self.anchor = (copy.oracle_time + away, self.time);
        self.told = (now, self.oracle_time());
        self.copy = self.copied();
        self.compare()
    }

    fn stretch(&mut self, mut stretch: Stretch) -> Result<(), TestCaseError> {
        for poll in 1..=stretch.polls {
            let odd = stretch.every > 0 && poll % stretch.every == 0;
            let answer = if odd { stretch.other } else { stretch.usual };
            let collectors = stretch.collector.map_or(vec![0, 1], |one| vec![one]);
            let running = if self.world.both { 2 } else { 1 };
            for &collector in collectors.iter().filter(|collector| **collector < running) {
                self.observe(&polled(collector, answer, self.now()))?;
            }
            self.pause(collectors[0], stretch.pause)?;
            // Rare things happen once, or the script would be nothing else.
            if !matches!(stretch.pause, Pause::Eighths(_)) {
                stretch.pause = Pause::Eighths(8);
            }
        }
        Ok(())
    }

    fn pause(&mut self, collector: usize, pause: Pause) -> Result<(), TestCaseError> {
        let (interval, timeout) = self.world.paces[collector];
        let stale = |more: i64| Duration::from_millis((interval * 3 + timeout).saturating_add_signed(more));
        match pause {
            Pause::Eighths(count) => self.watch(Duration::from_millis(interval) * count / 8),
            Pause::Stale(more) => self.watch(stale(more)),
            Pause::Missed(more) => self.away(stale(more)),
            Pause::Away(millis) => self.away(Duration::from_millis(millis)),
        }
    }

    /// Time passes, with a wake now and then, never more than 10 s apart.
    fn watch(&mut self, span: Duration) -> Result<(), TestCaseError> {
        let end = self.time + span;
        while self.time < end {
            self.time = end.min(self.time + SECOND * 10);
            self.wake()?;
        }
        Ok(())
    }

    /// Time passes; the next call may be a wake or a reading.
    fn away(&mut self, span: Duration) -> Result<(), TestCaseError> {
        self.time += span;
        if span.as_millis().is_multiple_of(2) { self.wake() } else { Ok(()) }
    }

    fn wake(&mut self) -> Result<(), TestCaseError> {
        self.told = (self.now(), self.oracle_time());
        self.health.wake(self.now());
        self.oracle.wake(self.oracle_now());
        self.compare()
    }

    fn observe(&mut self, reading: &Reading) -> Result<(), TestCaseError> {
        self.told = (self.now(), self.oracle_time());
        self.health.observe(self.now(), reading);
        self.oracle.observe(self.oracle_now(), reading);
        self.compare()
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let ours: BTreeMap<_, _> = self.oracle.states().into_iter().collect();
        let theirs = self.health.verdicts();
        let theirs: BTreeMap<_, _> = theirs
            .iter()
            .map(|verdict| ((&*verdict.check, verdict.subject.to_string()), state(verdict.state)))
            .collect();
        prop_assert_eq!(theirs, ours, "engine (left) and oracle, at {:?}", self.time);
        let overall = (overall(self.health.overall()), self.health.ready(), self.health.since().mono);
        let expected = (self.oracle.overall(), self.oracle.ready(), self.oracle.since());
        prop_assert_eq!(overall, expected, "engine (left) and oracle, at {:?}", self.time);
        Ok(())
    }
}

fn state(state: State) -> oracle::State {
    match state {
        State::Starting => oracle::State::Starting,
        State::Ok => oracle::State::Ok,
        State::Failing => oracle::State::Failing,
        State::Failed => oracle::State::Failed,
        State::Recovering => oracle::State::Recovering,
        State::Unknown => oracle::State::Unknown,
    }
}

fn overall(overall: Overall) -> oracle::Overall {
    match overall {
        Overall::Starting => oracle::Overall::Starting,
        Overall::Healthy => oracle::Overall::Healthy,
        Overall::Degraded => oracle::Overall::Degraded,
        Overall::Unhealthy => oracle::Overall::Unhealthy,
    }
}

fn some<T: Clone + std::fmt::Debug + 'static>(values: &[T]) -> impl Strategy<Value = Option<T>> + use<T> {
    prop::option::weighted(0.7, prop::sample::select(values.to_vec()))
}

fn said() -> BoxedStrategy<Said> {
    let enabled = prop::option::weighted(0.3, prop::bool::weighted(0.8));
    let severities = [Severity::Critical, Severity::Critical, Severity::Warning, Severity::Info];
    let knobs = (
        enabled,
        some(&severities),
        some(&[0, 3, 10, 30]),
        prop::option::weighted(0.2, some(&[1, 2, 5])),
        some(&[Some(0.5), Some(0.3), Some(0.8), Some(1.0), None]),
        some(&[1, 20, 60]),
        some(&[1, 2, 4]),
        some(&[0, 5, 20]),
        prop::option::weighted(0.9, prop::sample::select(vec![1, 20, 60])),
        prop::option::weighted(0.4, prop::sample::select(vec![UnknownAs::Fail, UnknownAs::Hold])),
    );
    knobs
        .prop_map(|knobs| {
            let (enabled, severity, fail_for, fail_count, fail_ratio, ratio_window, ratio_min, recover_for, ..) = knobs;
            let (.., unknown_for, unknown_as) = knobs;
            Said {
                enabled,
                severity,
                fail_for,
                fail_count,
                fail_ratio,
                ratio_window,
                ratio_min,
                recover_for,
                unknown_for,
                unknown_as,
            }
        })
        .boxed()
}

fn check_table(subjects: &'static [&'static str]) -> BoxedStrategy<CheckTable> {
    let needs = prop::option::weighted(0.4, prop::sample::select(vec![ReadyNeeds::All, ReadyNeeds::Any]));
    let most = 2.min(subjects.len());
    let expect = prop_oneof![3 => Just(vec![]), 1 => prop::sample::subsequence(subjects, 0..=most)];
    let own = (prop::sample::subsequence(subjects, 0..=most), said(), said());
    let own = own.prop_map(|(names, one, other)| names.into_iter().zip([one, other]).collect());
    let own = prop_oneof![3 => Just(vec![]), 1 => own];
    (said(), needs, expect, own)
        .prop_map(|(said, ready_needs, expect, subjects)| CheckTable { said, ready_needs, expect, subjects })
        .boxed()
}

fn pace() -> impl Strategy<Value = (u64, u64)> {
    let interval = prop::sample::select(vec![800, 1000, 4000, 7000, 15_000, 30_000]);
    (interval, prop::sample::select(vec![0, 1, 4, 8]))
        .prop_map(|(interval, eighths)| (interval, interval * eighths / 8))
}

fn world() -> BoxedStrategy<World> {
    let pools = || check_table(&["x", "y", "w"]);
    let tables =
        (pools(), pools(), check_table(&[""]), check_table(&["here/x", "there/x"]), check_table(&["alpha", "gamma"]));
    (prop::bool::weighted(0.9), [pace(), pace()], tables)
        .prop_map(|(both, paces, (high, low, lives, linked, own))| World { both, paces, high, low, lives, linked, own })
        .boxed()
}

fn listed() -> impl Strategy<Value = Listed> {
    let value = || prop::sample::select(vec![0, 1, 1, -1]);
    prop_oneof![
        2 => Just(Listed::Not),
        2 => Just(Listed::Unseen),
        10 => value().prop_map(Listed::Is),
        2 => prop::option::of(value()).prop_map(Listed::Excused),
        1 => Just(Listed::Denied),
        1 => (prop::option::of(value()), prop::option::of(value())).prop_map(|(one, other)| Listed::Twice(one, other)),
    ]
}

fn answer() -> impl Strategy<Value = Answer> {
    prop_oneof![
        8 => [listed(), listed(), listed()].prop_map(Answer::Good),
        2 => Just(Answer::Failed(Cause::Unanswered)),
        1 => Just(Answer::Failed(Cause::Denied)),
        1 => Just(Answer::Failed(Cause::Excused)),
    ]
}

fn pause() -> impl Strategy<Value = Pause> {
    prop_oneof![
        10 => Just(Pause::Eighths(8)),
        2 => (0..12_u32).prop_map(Pause::Eighths),
        1 => (-1..=1_i64).prop_map(Pause::Stale),
        1 => (-1..=1_i64).prop_map(Pause::Missed),
        2 => prop::sample::select(vec![5000, 9999, 10_000, 10_001, 10_002, 60_001, 7_300_000]).prop_map(Pause::Away),
    ]
}

fn restart() -> impl Strategy<Value = Restart> {
    let away = prop_oneof![
        4 => prop::sample::select(vec![0, 1, 900, 4000, 10_000, 10_001, 60_000, 7_300_000]).prop_map(Ok),
        2 => (-1..=1_i64).prop_map(Err),
    ];
    let set = prop_oneof![2 => Just(0), 1 => prop::sample::select(vec![-3_600_000, -5000, 5000, 3_600_000])];
    let configuration = prop::option::weighted(0.4, world().prop_map(Box::new));
    (away, prop::bool::weighted(0.3), set, prop::bool::weighted(0.2), configuration)
        .prop_map(|(away, reboot, set, old_copy, configuration)| Restart { away, reboot, set, old_copy, configuration })
}

fn stretch() -> BoxedStrategy<Stretch> {
    let restart = prop::option::weighted(0.25, restart());
    let collector = prop::option::of(0..2_usize);
    let every = prop_oneof![2 => Just(0_usize), 1 => Just(2), 1 => 3..8_usize];
    (restart, collector, answer(), answer(), every, 1..12_usize, pause())
        .prop_map(|(restart, collector, usual, other, every, polls, pause)| Stretch {
            restart,
            collector,
            usual,
            other,
            every,
            polls,
            pause,
        })
        .boxed()
}

#[test]
fn engine_and_oracle_agree_after_every_call() {
    let long = std::env::var("AGENTHOST_TESTS").is_ok_and(|lane| lane == "long");
    let cases = if long { 100_000 } else { 10_000 };
    // The short lane is the same every time; the long one looks where nobody has looked.
    let rng_seed = if long { RngSeed::Random } else { RngSeed::Fixed(1) };
    let rng_algorithm = RngAlgorithm::XorShift;
    let config = Config { cases, rng_seed, rng_algorithm, failure_persistence: None, ..Config::default() };
    let scripts = (world(), prop::collection::vec(stretch(), 1..12));
    let run = |(world, script): (World, Vec<Stretch>)| Pair::new(&world).play(&script);
    match TestRunner::new(config).run(&scripts, run) {
        Ok(()) => {}
        Err(TestError::Fail(why, (world, script))) => panic!("{why}\n{world:?}\n{script:?}"),
        Err(error) => panic!("{error}"),
    }
}
