use super::super::{Health, Settings, State, Watched};
use super::*;
use crate::fact::{Bound, Check, Fact, Severity};
use crate::sample::{Cause, Failure, Point, Points, Reading, Sample};

static CONNECTED: Fact = Fact::gauge("test.connected", "test_connected", "Connected.").of(&["channel"]);
static UP: Fact = Fact::gauge("test.up", "test_up", "Up.").of(&["collector"]);
static CHANNEL: Check = check("channel_connected", &CONNECTED, Severity::Critical, 120);
static OWN: [Check; 1] = [check("collector_up", &UP, Severity::Warning, 60)];

const fn check(name: &'static str, fact: &'static Fact, severity: Severity, fail_for: u64) -> Check {
    Check {
        name,
        fact,
        bad: Bound::Below(1.0),
        severity,
        fail_for: Duration::from_secs(fail_for),
        headline: "{} bad",
        means: "It is bad.",
    }
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A sidecar with a collector `channels` (every 15 s, 10 s time-out: patience 55 s), which can be restarted.
struct Lab {
    health: Health,
    settings: String,
    interval: u64,
    collectors: Vec<&'static str>,
    /// Seconds on the wall clock, while nobody sets it; and what it was set by.
    time: u64,
    set: i64,
    /// When the machine was booted.
    booted: u64,
}

fn lab(settings: &str) -> Lab {
    let (settings, collectors) = (settings.to_owned(), vec!["channels"]);
    let mut lab = Lab {
        health: Health::new(now(1000, 0, 0), vec![], &OWN, &Settings::default()),
        settings,
        interval: 15,
        collectors,
        time: 1000,
        set: 0,
        booted: 0,
    };
    lab.health = Health::new(lab.now(), lab.watched(), &OWN, &lab.parsed());
    lab
}

fn now(time: u64, set: i64, booted: u64) -> Now {
    let wall = jiff::Timestamp::new(1_795_000_000 + time as i64 + set, 0).unwrap();
    Now { mono: seconds(time - booted), wall }
}

fn points(fact: &'static Fact, seen: &[(&str, f64)]) -> Points {
    let point = |&(subject, value): &(&str, f64)| Point {
        fact,
        labels: vec![subject.into()],
        value: Some(value),
        withheld: None,
        exported: true,
    };
    Points(seen.iter().map(point).collect())
}

const OK: f64 = 1.0;
const BAD: f64 = 0.0;

impl Lab {
    fn now(&self) -> Now {
        now(self.time, self.set, self.booted)
    }

    fn parsed(&self) -> Settings {
        toml::from_str(&self.settings).unwrap()
    }

    fn watched(&self) -> Vec<Watched> {
        let watched = |name: &&'static str| Watched {
            name,
            interval: seconds(self.interval),
            timeout: seconds(10),
            checks: if *name == "channels" { vec![CHANNEL] } else { vec![] },
        };
        self.collectors.iter().map(watched).collect()
    }

    fn wait(&mut self, span: u64) -> &mut Lab {
        for _ in 0..span {
            self.time += 1;
            self.health.wake(self.now());
        }
        self
    }

    fn read(&mut self, outcome: Result<Points, Cause>) {
        let section: Arc<_> = serde_json::value::RawValue::from_string("null".into()).unwrap().into();
        let up = f64::from(u8::from(outcome.is_ok()));
        let outcome = outcome
            .map(|points| Sample { section, details: Arc::default(), points, gaps: Vec::new() })
            .map_err(|cause| Failure { cause, error: "as told".into() });
        let own = points(&UP, &[("channels", up)]);
        self.health
            .observe(self.now(), &Reading { collector: "channels", at: self.now(), took: seconds(0), outcome, own });
    }

    /// A reading after each of so many intervals.
    fn see(&mut self, times: u64, seen: &[(&str, f64)]) -> &mut Lab {
        for _ in 0..times {
            self.wait(self.interval).read(Ok(points(&CONNECTED, seen)));
        }
        self
    }

    fn fail(&mut self, times: u64, cause: Cause) -> &mut Lab {
        for _ in 0..times {
            self.wait(self.interval).read(Err(cause));
        }
        self
    }

    /// The sidecar is stopped for so long and started again, with whatever was changed meanwhile.
    fn restart(&mut self, away: u64) -> &mut Lab {
        self.time += away;
        self.start(true)
    }

    /// The same with the machine, which needs 30 s for it.
    fn reboot(&mut self, away: u64) -> &mut Lab {
        self.time += away;
        self.booted = self.time - 30;
        self.start(false)
    }

    fn start(&mut self, same_boot: bool) -> &mut Lab {
        let kept = Kept::read(&self.health.keep().write().unwrap()).unwrap();
        let away = kept.away(self.now(), same_boot);
        self.health = Health::restore(self.now(), self.watched(), &OWN, &self.parsed(), kept, away);
        self
    }

    fn overall(&self) -> Overall {
        self.health.overall()
    }

    fn state(&self, subject: &str) -> Option<State> {
        let verdicts = self.health.verdicts().into_iter();
        let mut states = verdicts.filter(|verdict| &*verdict.check == CHANNEL.name && &*verdict.subject == subject);
        states.next().map(|verdict| verdict.state)
    }

    fn own(&self) -> Vec<String> {
        let verdicts = self.health.verdicts().into_iter();
        verdicts
            .filter(|verdict| &*verdict.check == "collector_up")
            .map(|verdict| verdict.subject.to_string())
            .collect()
    }
}

#[test]
fn a_restart_without_a_gap_changes_nothing_at_all() {
    let mut lab = lab("");
    lab.see(3, &[("slack", OK), ("mail", OK)]).see(5, &[("slack", BAD), ("mail", OK)]).fail(2, Cause::Unanswered);
    let (verdicts, overall, since) = (lab.health.verdicts(), lab.overall(), lab.health.since());
    let texts = lab.health.keep().write().unwrap();
    lab.restart(0);
    assert_eq!((lab.health.verdicts(), lab.overall(), lab.health.since()), (verdicts, overall, since));
    assert_eq!(lab.health.keep().write().unwrap(), texts);
}

#[test]
fn a_streak_goes_on_after_a_short_gap_and_starts_anew_after_a_long_one() {
    for (gap, state) in [(55, State::Failed), (56, State::Failing)] {
        let mut lab = lab("[channel_connected]\nfail_ratio = 'off'");
        lab.see(3, &[("slack", OK)]).see(8, &[("slack", BAD)]);
        assert_eq!(lab.state("slack"), Some(State::Failing), "105 s of bad");
        lab.restart(gap).read(Ok(points(&CONNECTED, &[("slack", BAD)])));
        assert_eq!(lab.state("slack"), Some(state), "{gap}");
    }
}

#[test]
fn after_a_reboot_a_streak_starts_anew_and_a_failure_is_held() {
    let mut lab = lab("");
    lab.see(3, &[("slack", OK), ("mail", OK)])
        .see(9, &[("slack", BAD), ("mail", OK)])
        .see(2, &[("slack", BAD), ("mail", BAD)]);
    let seen = (lab.state("slack"), lab.state("mail"), lab.overall());
    assert_eq!(seen, (Some(State::Failed), Some(State::Failing), Overall::Unhealthy));
    lab.reboot(40);
    let seen = (lab.state("slack"), lab.state("mail"), lab.overall());
    assert_eq!(seen, (Some(State::Failed), Some(State::Ok), Overall::Unhealthy), "not starting, not ready");
    lab.see(9, &[("slack", OK), ("mail", BAD)]);
    assert_eq!((lab.state("slack"), lab.state("mail")), (Some(State::Ok), Some(State::Failed)));
}

#[test]
fn the_wall_clock_may_be_set_while_it_is_down() {
    for set in [-3600, 3600, 365 * 24 * 3600, -40 * 365 * 24 * 3600] {
        let mut lab = lab("");
        lab.see(3, &[("slack", OK)]).see(8, &[("slack", BAD)]);
        lab.set = set;
        lab.restart(15).read(Ok(points(&CONNECTED, &[("slack", BAD)])));
        assert_eq!(
            lab.state("slack"),
            Some(State::Failed),
            "one boot: the gap is known whatever the clock says: {set}"
        );

        lab.set = 0;
        lab.see(60, &[("slack", OK)]);
        assert_eq!(lab.overall(), Overall::Healthy);
        lab.set = set;
        lab.reboot(15);
        assert_eq!(lab.overall(), Overall::Healthy, "{set}");
        lab.see(8, &[("slack", BAD)]);
        assert_eq!(lab.overall(), Overall::Degraded, "{set}");
        lab.see(1, &[("slack", BAD)]);
        assert_eq!(lab.overall(), Overall::Unhealthy, "{set}");
    }
}

#[test]
fn the_time_between_is_neither_silence_nor_absence() {
    for gap in [5, 30, 360, 8 * 3600] {
        let mut lab = lab("");
        lab.see(3, &[("slack", OK)]).fail(10, Cause::Unanswered).restart(gap);
        assert_eq!((lab.state("slack"), lab.overall()), (Some(State::Unknown), Overall::Degraded), "{gap}");
        lab.fail(9, Cause::Unanswered);
        assert_eq!(lab.state("slack"), Some(State::Unknown), "270 s of silence, and the gap of {gap}");
        lab.fail(2, Cause::Unanswered);
        assert_eq!(lab.state("slack"), Some(State::Failed), "it was known once, and it says so still");

        let mut lab = self::lab("");
        lab.see(3, &[("slack", OK)]).see(10, &[]).restart(gap).see(9, &[]);
        assert_eq!(lab.state("slack"), Some(State::Unknown), "missed for 285 s, and the gap of {gap}");
        lab.see(2, &[]);
        assert_eq!(lab.state("slack"), None);
    }
}

#[test]
fn what_was_never_known_is_not_known_for_having_been_kept() {
    let mut lab = lab("");
    lab.fail(30, Cause::Unanswered).restart(5).fail(60, Cause::Unanswered);
    assert_eq!((lab.state(""), lab.overall()), (Some(State::Unknown), Overall::Degraded));
}

#[test]
fn only_a_collector_that_had_settled_skips_starting() {
    let mut lab = lab("");
    lab.restart(5);
    assert_eq!(lab.overall(), Overall::Starting, "nothing was known");
    lab.see(1, &[("slack", OK)]).restart(3600);
    assert_eq!((lab.overall(), lab.health.ready()), (Overall::Healthy, true));

    let mut silent = self::lab("");
    for _ in 0..4 {
        silent.fail(4, Cause::Unanswered).restart(20);
    }
    assert_eq!(silent.overall(), Overall::Starting, "240 s watched");
    silent.wait(59);
    assert_eq!(silent.overall(), Overall::Starting);
    silent.wait(1);
    assert_eq!(silent.overall(), Overall::Degraded, "300 s watched");
}

#[test]
fn a_collector_that_is_new_is_waited_for() {
    let mut lab = lab("");
    lab.collectors = vec!["other"];
    lab.restart(0);
    assert_eq!(lab.overall(), Overall::Healthy, "nothing critical is watched");
    lab.wait(1000).collectors = vec!["other", "channels"];
    lab.restart(2);
    assert_eq!(lab.overall(), Overall::Starting);
    lab.wait(299);
    assert_eq!(lab.overall(), Overall::Starting, "the wait begins with the collector");
    lab.wait(1);
    assert_eq!(lab.overall(), Overall::Healthy);
}

#[test]
fn a_refusal_is_still_one_after_a_restart() {
    let mut lab = lab("");
    lab.see(2, &[("slack", OK)]).fail(1, Cause::Denied).restart(2);
    assert_eq!(lab.overall(), Overall::Degraded);
    lab.see(1, &[("slack", OK)]);
    assert_eq!(lab.overall(), Overall::Healthy);
}

#[test]
fn the_policy_is_that_of_the_new_configuration() {
    let mut lab = lab("");
    lab.see(2, &[("slack", OK)]).see(10, &[("slack", BAD)]);
    assert_eq!(lab.overall(), Overall::Unhealthy);
    lab.settings = "[channel_connected]\nseverity = 'warning'\nrecover_for = '5m'".into();
    lab.restart(2);
    assert_eq!((lab.state("slack"), lab.overall()), (Some(State::Failed), Overall::Degraded), "the state is held");
    lab.see(20, &[("slack", OK)]);
    assert_eq!(lab.state("slack"), Some(State::Recovering), "285 s of ok");
    lab.settings = "[channel_connected]\nfail_for = '30s'".into();
    lab.restart(2).see(1, &[("slack", OK)]);
    assert_eq!(lab.overall(), Overall::Healthy, "a minute suffices again");
    lab.see(3, &[("slack", BAD)]);
    assert_eq!(lab.overall(), Overall::Unhealthy, "and half a minute");
}

#[test]
fn what_the_configuration_no_longer_has_is_dropped() {
    let mut lab = lab("");
    lab.collectors = vec!["channels", "other"];
    lab.restart(0).see(10, &[("slack", BAD), ("mail", OK)]);
    assert_eq!((lab.overall(), lab.own()), (Overall::Unhealthy, vec!["channels".into()]));
    lab.settings = "[channel_connected.subjects.slack]\nenabled = false".into();
    lab.restart(2);
    assert_eq!((lab.state("slack"), lab.state("mail"), lab.overall()), (None, Some(State::Ok), Overall::Healthy));
    lab.settings = "[channel_connected]\nenabled = false".into();
    lab.restart(2);
    assert_eq!((lab.state("mail"), lab.overall()), (None, Overall::Healthy));
    lab.collectors = vec!["other"];
    lab.settings.clear();
    lab.restart(2);
    assert_eq!((lab.state("mail"), lab.own()), (None, vec![]), "of a collector that does not run nothing stays");
}

#[test]
fn what_the_configuration_newly_names_has_a_window() {
    let mut lab = lab("");
    lab.see(5, &[("slack", OK)]);
    lab.settings = "[channel_connected]\nexpect = ['mail']\n[channel_connected.subjects.chat]".into();
    lab.restart(2);
    assert_eq!(
        [lab.state("slack"), lab.state("mail"), lab.state("chat")],
        [Some(State::Ok), Some(State::Starting), Some(State::Starting)]
    );
    lab.see(1, &[("slack", OK)]);
    assert_eq!(lab.state("mail"), Some(State::Failing), "its absence is bad");
    lab.see(30, &[("slack", OK)]).restart(2);
    assert_eq!(lab.state("chat"), None, "not listed for so long that it was dropped, and stays so");
    assert_eq!(lab.state("mail"), Some(State::Failed));
    lab.settings.clear();
    lab.restart(2).see(1, &[("slack", OK)]);
    assert_eq!(lab.state("mail"), Some(State::Failed), "critical, so it stands for a while");
    lab.see(25, &[("slack", OK)]);
    assert_eq!((lab.state("mail"), lab.overall()), (None, Overall::Healthy));
}

#[test]
fn a_placeholder_does_not_come_back() {
    let mut lab = lab("");
    assert_eq!(lab.restart(2).state(""), Some(State::Starting));
    lab.see(1, &[]).restart(2);
    assert_eq!(lab.state(""), None, "a good reading has listed nothing");
    lab.fail(1, Cause::Unanswered);
    assert_eq!(lab.state(""), Some(State::Unknown));
    lab.restart(2).see(1, &[("slack", OK)]);
    assert_eq!((lab.state(""), lab.state("slack")), (None, Some(State::Ok)));
}

#[test]
fn a_slower_pace_has_more_patience_and_a_smaller_window() {
    let mut lab = lab("");
    lab.see(45, &[("slack", OK)]).see(2, &[("slack", BAD)]);
    lab.interval = 60;
    lab.restart(190);
    assert_eq!(lab.state("slack"), Some(State::Failing), "3 x 60 s + 10 s");
    let observed = |lab: &Lab| lab.health.verdicts()[0].observed;
    lab.see(1, &[("slack", BAD)]);
    assert_eq!((lab.state("slack"), observed(&lab)), (Some(State::Failed), 28), "1200 / 60 + 8");
}

#[test]
fn doubled_recovery_is_kept() {
    let mut lab = lab("");
    for _ in 0..2 {
        lab.see(10, &[("slack", BAD)]).see(10, &[("slack", OK)]);
    }
    lab.see(10, &[("slack", BAD)]).restart(2).see(5, &[("slack", OK)]);
    assert_eq!(lab.state("slack"), Some(State::Recovering));
    let recovers = lab.health.verdicts()[0].recovers_at.unwrap();
    assert_eq!(recovers.duration_since(lab.health.verdicts()[0].since.wall).as_secs(), 240, "doubled twice");
}

#[test]
fn the_history_goes_on_and_shows_where_nobody_watched() {
    let mut lab = lab("");
    lab.see(2, &[("slack", OK)]).see(3, &[("slack", BAD)]);
    let left = lab.now().wall;
    lab.set = 600;
    lab.restart(100);
    let back = lab.now();
    lab.see(9, &[("slack", BAD)]).reboot(60);
    let history = lab.health.history();
    let pauses: Vec<_> = history.pauses().iter().map(|pause| (pause.why, pause.length, pause.from)).collect();
    assert_eq!(pauses[0], (Why::Stopped, Some(seconds(100)), left));
    assert_eq!((pauses[1].0, pauses[1].1, pauses.len()), (Why::Rebooted, None, 2));
    let slack = history.changes().map(|(_, change)| change).filter(|change| &*change.subject == "slack");
    let changes: Vec<_> = slack.map(|change| (change.from.unwrap(), change.to.unwrap())).collect();
    let (ok, failing, failed) = (State::Ok, State::Failing, State::Failed);
    assert_eq!(changes, [(ok, failing), (failing, ok), (ok, failing), (failing, failed)]);
    let reset = history.changes().map(|(_, change)| change).find(|change| change.to == Some(ok)).unwrap();
    assert_eq!(reset.at.wall, back.wall, "the streak that nobody saw go on");
}

#[test]
fn a_reload_is_no_pause() {
    let mut lab = lab("");
    lab.see(2, &[("slack", BAD)]).restart(0);
    assert!(lab.health.history().pauses().is_empty());
    assert_eq!(lab.state("slack"), Some(State::Failing));
}

#[test]
fn a_later_version_of_the_machine_clock_does_not_frighten_it() {
    let mut lab = lab("");
    lab.see(10, &[("slack", BAD)]);
    let kept = lab.health.keep();
    let before = Now { mono: seconds(3), ..lab.now() };
    assert_eq!(kept.away(before, true), Away { length: seconds(0), rebooted: true }, "it fell: another machine's");
    let much_later = Now { mono: seconds(u64::MAX / 4), ..lab.now() };
    let away = kept.away(much_later, true);
    let mut health = Health::restore(much_later, lab.watched(), &OWN, &lab.parsed(), kept, away);
    health.wake(much_later.plus(seconds(1)));
    assert_eq!(health.overall(), Overall::Unhealthy);
}

#[test]
fn damaged_texts_are_refused() {
    let mut lab = lab("");
    lab.see(10, &[("slack", BAD)]);
    let whole = lab.health.keep().write().unwrap();
    Kept::read(&whole).unwrap();
    for cut in [0, 1, whole.about.len() / 2, whole.about.len() - 1] {
        assert!(Kept::read(&Texts { about: whole.about[..cut].into(), ..whole.clone() }).is_err(), "{cut}");
    }
    let mut window = whole.clone();
    window.windows.values_mut().for_each(|text| *text = text.replace("failed", "fialed"));
    assert!(Kept::read(&window).is_err());
    let mut change = whole;
    change.changes.insert(99, "{}".into());
    assert!(Kept::read(&change).is_err());
}
