//! What is computed: pages, verdicts, what is kept of them.

use super::*;

fn sample(points: Points) -> Sample {
    let section = RawValue::from_string("{}".into()).expect("a literal").into();
    Sample { section, details: Default::default(), points, gaps: Vec::new() }
}

fn points(facts: &[&'static Fact], series: usize) -> Points {
    let mut points = Points::default();
    for number in 0..series {
        let fact = facts[number % facts.len()];
        let labels = fact.labels.iter().map(|_| format!("subject-{}", number / facts.len()).into()).collect();
        points.0.push(Point { fact, labels, value: Some(number as f64), withheld: None, exported: true });
    }
    points
}

fn river(now: Now, collector: &'static str, health: Health) -> River {
    let sidecar = Sidecar {
        version: "0",
        arch: "",
        profile: Profile::Pynchy,
        root: None,
        notes: Vec::new(),
        started_at: now.wall,
    };
    River::new(now, sidecar, vec![Seen::nothing(collector, Duration::from_secs(15), Duration::MAX)], health)
}

fn snapshot(series: usize) -> Snapshot {
    let now = Now::read();
    let health = Health::new(now, Vec::new(), &[], &Settings::default());
    let mut river = river(now, "bench", health);
    let facts: Vec<_> = catalogue().into_iter().map(|(_, fact)| fact).filter(|fact| fact.labels.len() == 1).collect();
    let outcome = Ok(sample(points(&facts, series)));
    river.take(now, Reading { collector: "bench", at: now, took: Duration::ZERO, outcome, own: Points::default() });
    (*river.current().get()).clone()
}

/// One page, rendered anew, beside the same lines written by hand; and the page that stands.
pub fn encode() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    for series in [500, 5000] {
        let current = Current::fixed(snapshot(series));
        let page = metrics::page(&current);
        let rendered = best(20, || drop(black_box(page.write())));
        let by_hand = best(20, || drop(black_box(by_hand(&current.get()))));
        say(&format!("{series} series: /metrics rendered"), rendered, "us");
        say(&format!("{series} series: the same by hand"), by_hand, "us");
        say(&format!("{series} series: ratio"), rendered / by_hand, "x");
        let standing = best(20, || drop(black_box(runtime.block_on(page.get()))));
        say(&format!("{series} series: /metrics standing"), standing, "us");
        let json = status::page(&current);
        say(
            &format!("{series} series: /status standing"),
            best(20, || drop(black_box(runtime.block_on(json.get())))),
            "us",
        );
    }
}

fn by_hand(snapshot: &Snapshot) -> String {
    use std::fmt::Write;
    let mut text = String::new();
    for point in snapshot.points() {
        let _ = write!(text, "{}{{", point.fact.prometheus);
        for (name, value) in point.fact.labels.iter().zip(&point.labels) {
            let _ = write!(text, "{name}=\"{value}\"");
        }
        let _ = writeln!(text, "}} {}", point.value.expect("points() filters"));
    }
    text
}

const SUBJECTS: usize = 5000;

/// A check with subjects, and its collector.
fn watched() -> (Watched, &'static Check) {
    let subsystem = collect::ALL.iter().find(|one| one.checks.iter().any(|check| check.fact.labels.len() == 1));
    let subsystem = subsystem.expect("some check has subjects");
    let check = subsystem.checks.iter().find(|check| check.fact.labels.len() == 1).expect("as above");
    let watched = Watched {
        name: subsystem.name,
        interval: Duration::from_secs(15),
        timeout: Duration::from_secs(10),
        checks: vec![*check],
    };
    (watched, check)
}

/// 5 000 subjects of one check: what an observation and a wake cost.
pub fn health() {
    let (watched, check) = watched();
    let name = watched.name;
    let begin = Now::read();
    let before = resident(std::process::id());
    let mut health = Health::new(begin, vec![watched], &[], &Settings::default());
    let outcome = Ok(sample(points(&[check.fact], SUBJECTS)));
    let reading = Reading { collector: name, at: begin, took: Duration::ZERO, outcome, own: Points::default() };
    let mut now = begin;
    let mut observe = || {
        now = now.plus(Duration::from_secs(5)); // within what counts as watched
        health.observe(now, &reading);
    };
    (0..200).for_each(|_| observe());
    let each = best(20, observe) / SUBJECTS as f64 * 1000.0;
    say("an observation", each, "ns");
    let after = resident(std::process::id());
    say("memory a subject, window full", (after.saturating_sub(before)) as f64 / SUBJECTS as f64, "bytes");
    say("a wake with 5 000 subjects", best(20, || health.wake(now)), "us");
    say("all verdicts of 5 000 subjects", best(20, || drop(black_box(health.verdicts()))), "us");
    let mut river = river(now, name, health);
    let taken = best(20, || {
        now = now.plus(Duration::from_secs(5));
        let outcome = Ok(sample(points(&[check.fact], SUBJECTS)));
        river.take(now, Reading { collector: name, at: now, took: Duration::ZERO, outcome, own: Points::default() });
    });
    say("a reading of 5 000 subjects, from its points to the published snapshot", taken / 1e3, "ms");
    say("a second in which nothing happens", best(20, || river.wake(now)) / 1e3, "ms");
}

/// A week of 5 000 subjects, one look in a thousand bad: what is kept of it. It is saved once an hour here instead of
/// every ten seconds; how often changes what is written, not what is there in the end.
pub fn state() {
    const PER_HOUR: u64 = 240;
    let (watched, check) = watched();
    let (name, interval, mut now) = (watched.name, watched.interval, Now::read());
    let mut health = Health::new(now, vec![watched.clone()], &[], &Settings::default());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("state.db");
    let mut file = state::State::open(&path).expect("a new file");
    let (good, bad) = if check.bad.is_bad(0.0) { (1.0, 0.0) } else { (0.0, 1e12) };
    let mut dice: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut saved = Vec::new();
    let labels: Vec<std::sync::Arc<str>> = (0..SUBJECTS).map(|number| format!("subject-{number}").into()).collect();
    for look in 1..=full_or(7 * 24, 1) * PER_HOUR {
        let points = labels.iter().map(|label| {
            dice ^= dice << 13;
            dice ^= dice >> 7;
            dice ^= dice << 17;
            let value = if dice.is_multiple_of(1000) { bad } else { good };
            Point { fact: check.fact, labels: vec![label.clone()], value: Some(value), withheld: None, exported: true }
        });
        let outcome = Ok(sample(Points(points.collect())));
        (0..3).for_each(|third| health.wake(now.plus(interval / 3 * third)));
        now = now.plus(interval);
        health
            .observe(now, &Reading { collector: name, at: now, took: Duration::ZERO, outcome, own: Points::default() });
        if look.is_multiple_of(PER_HOUR) {
            saved.push(timed(|| file.save(&texts(&health.keep())).expect("it is written")));
        }
    }
    let kept = health.keep();
    let written = texts(&kept);
    let bytes: usize =
        written.windows.iter().map(|((name, subject), text)| name.len() + subject.len() + text.len()).sum();
    say("a window, full, as it is written", bytes as f64 / SUBJECTS as f64, "bytes");
    let bytes: usize = written.changes.values().map(String::len).sum();
    say("transitions kept of the last day", written.changes.len() as f64, "");
    say("a transition", bytes as f64 / written.changes.len() as f64, "bytes");
    say("what the river does for a save", best(20, || drop(black_box(health.keep()))) / 1e3, "ms");
    say("what the thread does: writing the texts", best(20, || drop(black_box(texts(&kept)))) / 1e3, "ms");
    say(
        "what the thread does: all, when every window has changed",
        saved.iter().min().map_or(0.0, |d| d.as_secs_f64() * 1e3),
        "ms",
    );
    say(
        "what the thread does: all, when none has",
        best(5, || file.save(&written).expect("it is written")) / 1e3,
        "ms",
    );
    let wal = std::fs::metadata(path.with_extension("db-wal")).map_or(0, |data| data.len());
    drop(file);
    let size = std::fs::metadata(&path).expect("the file").len();
    say("the file after a week", size as f64 / 1e6, "MB");
    say("its -wal while it was open", wal as f64 / 1e6, "MB");
    let mut file = state::State::open(&path).expect("the file");
    let begun = Instant::now();
    let state::Texts { about, windows, changes } = file.load().expect("the file").expect("what was saved");
    let kept = Kept::read(&Texts { about, windows, changes }).expect("what was saved");
    let away = kept.away(now, true);
    black_box(Health::restore(now, vec![watched], &[], &Settings::default(), kept, away));
    say("a restart reads it within", begun.elapsed().as_secs_f64() * 1e3, "ms");
}

fn texts(kept: &Kept) -> state::Texts {
    let Texts { about, windows, changes } = kept.write().expect("JSON");
    state::Texts { about, windows, changes }
}
