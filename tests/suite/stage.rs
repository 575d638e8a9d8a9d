//! A river in virtual time, with the collectors and checks of the real program: told what was seen, it says what follows.

use std::sync::Arc;
use std::time::Duration;

use agenthost_exporter::collect;
use agenthost_exporter::config::Config;
use agenthost_exporter::fact::Fact;
use agenthost_exporter::health::{Health, State, Verdict, Watched};
use agenthost_exporter::host::Profile;
use agenthost_exporter::pulse;
use agenthost_exporter::sample::{Cause, Failure, Now, Point, Points, Reading, Sample};
use agenthost_exporter::snapshot::{Current, River, Seen, Sidecar, Snapshot, catalogue};
use serde_json::value::RawValue;

/// A fact by its Prometheus name, the values of its labels, and what was seen.
pub type Told<'a> = (&'a str, &'a [&'a str], Option<f64>);

pub struct Stage {
    pub river: River,
    pub now: Now,
}

pub fn begun() -> Now {
    Now { mono: Duration::from_secs(1_000_000), wall: "2026-11-21T20:00:00Z".parse().unwrap() }
}

pub fn config(text: &str) -> Config {
    Config::parse(text, "config.toml").unwrap_or_else(|error| panic!("{error:#}\n{text}"))
}

/// Every collector that there is, at its own pace; without those of which something critical must be heard before anything
/// can be called ready, but the service.
pub fn watched() -> Vec<Watched> {
    let one = |subsystem: &collect::Subsystem| Watched {
        name: subsystem.name,
        interval: subsystem.every,
        timeout: subsystem.timeout,
        checks: subsystem.checks.to_vec(),
    };
    collect::ALL.iter().filter(|subsystem| !["channels", "gateway"].contains(&subsystem.name)).map(one).collect()
}

pub fn fact(name: &str) -> &'static Fact {
    let found = catalogue().into_iter().find(|(_, fact)| fact.prometheus == name);
    found.unwrap_or_else(|| panic!("no fact {name}")).1
}

pub fn sample(told: &[Told<'_>]) -> Sample {
    let point = |&(name, labels, value): &Told<'_>| Point {
        fact: fact(name),
        labels: labels.iter().map(|&label| label.into()).collect(),
        value,
        withheld: None,
        exported: true,
    };
    Sample {
        section: RawValue::from_string("{}".into()).unwrap().into(),
        details: Default::default(),
        points: Points(told.iter().map(point).collect()),
        gaps: Vec::new(),
    }
}

/// A reading as the loop sends it, with what the loop says of the collector.
pub fn reading(collector: &str, at: Now, outcome: Result<Sample, Cause>) -> Reading {
    let subsystem = collect::ALL.iter().find(|subsystem| subsystem.name == collector).unwrap();
    let mut own = Points::default();
    let up = f64::from(u8::from(outcome.is_ok()));
    own.put(&pulse::UP, [&collector.into()], up);
    own.put(&pulse::DURATION, [&collector.into()], 0.25);
    own.put(&pulse::INTERVAL, [&collector.into()], subsystem.every.as_secs_f64());
    own.put(&pulse::TIMEOUTS, [&collector.into()], 3.0);
    let outcome = outcome.map_err(|cause| Failure { cause, error: "as told".into() });
    Reading { collector: subsystem.name, at, took: Duration::from_millis(250), outcome, own }
}

impl Stage {
    pub fn new(text: &str) -> Stage {
        let now = begun();
        let health = Health::new(now, watched(), pulse::CHECKS, &config(text).checks);
        let sidecar = Sidecar {
            version: "0.0.0",
            arch: "golden",
            profile: Profile::Pynchy,
            root: Some("/srv/pynchy".into()),
            notes: Vec::new(),
            started_at: now.wall,
        };
        let seen =
            |subsystem: &collect::Subsystem| Seen::nothing(subsystem.name, subsystem.every, Duration::from_secs(100));
        Stage { river: River::new(now, sidecar, collect::ALL.iter().map(seen).collect(), health), now }
    }

    pub fn take(&mut self, collector: &str, outcome: Result<Sample, Cause>) {
        self.river.take(self.now, reading(collector, self.now, outcome));
    }

    pub fn see(&mut self, collector: &str, told: &[Told<'_>]) {
        self.take(collector, Ok(sample(told)));
    }

    /// Time passes, second by second.
    pub fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now = self.now.plus(Duration::from_secs(1));
            self.river.wake(self.now);
        }
    }

    /// The same is seen every 15 s, so often.
    pub fn see_on(&mut self, times: u64, collector: &str, told: &[Told<'_>]) {
        for _ in 0..times {
            self.pass(15);
            self.see(collector, told);
        }
    }

    pub fn current(&self) -> Current {
        self.river.current()
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.river.current().get()
    }

    /// Verdicts of one check.
    pub fn verdicts(&self, check: &str) -> Vec<Verdict> {
        self.snapshot().verdicts.iter().filter(|verdict| &*verdict.check == check).cloned().collect()
    }

    pub fn states(&self, check: &str) -> Vec<(String, State)> {
        self.verdicts(check).iter().map(|verdict| (verdict.subject.to_string(), verdict.state)).collect()
    }

    /// What the river says in a metric; `None`: no series.
    pub fn metric(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let snapshot = self.snapshot();
        let same =
            |point: &&Point| point.fact.is(fact(name)) && point.labels.iter().map(|l| &**l).eq(labels.iter().copied());
        snapshot.points().find(same).and_then(|point| point.value)
    }
}

/// A small generator: the same numbers on every machine.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
