//! The configuration, and what it and a state file make of the verdicts.

use std::sync::Arc;
use std::time::Duration;

use agenthost_exporter::collect;
use agenthost_exporter::config::Config;
use agenthost_exporter::health::{Health, Kept, Settings, Texts, Watched};
use agenthost_exporter::host::generic;
use agenthost_exporter::pulse;
use agenthost_exporter::sample::{Cause, Failure, Now, Point, Points, Reading, Sample};
use agenthost_exporter::source::Sources;
use agenthost_exporter::source::state::{self, State, Trouble};
use serde_json::value::RawValue;

use super::files::folder;
use super::machine::now;
use super::{SECRET, keeps_secret, parts};

/// A configuration that is refused names the file and the line or the table, in one line; one that is taken can be judged by.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = || Config::parse(text, "file.toml").map_err(|error| format!("{error:#}"));
    match (read(), read()) {
        (Err(why), Err(again)) => {
            assert_eq!(why, again);
            let rest = why.strip_prefix("file.toml:").unwrap_or_else(|| panic!("{why}"));
            let line = rest.split(':').next().and_then(|number| number.parse::<usize>().ok());
            let known = line.is_some_and(|line| (1..=text.lines().count().max(1) + 1).contains(&line));
            assert!(known || rest.contains('[') || rest.contains("custom check"), "{why}\n{text}");
            assert!(!why.trim_end().contains('\n'), "{why}");
        }
        (Ok(config), Ok(_)) => play(&config),
        _ => panic!("once taken, once refused"),
    }
}

/// Builds what it wants, and judges a little by it.
fn play(config: &Config) {
    let host = generic::host();
    let sources = Sources::default();
    let mut watched = Vec::new();
    for planned in &config.collectors {
        // What cannot be built says why.
        drop((planned.build)(&host, &sources).map_err(|error| assert!(!format!("{error:#}").is_empty())));
        watched.push(Watched {
            name: planned.subsystem.name,
            interval: planned.interval.unwrap_or(planned.subsystem.every),
            timeout: planned.timeout,
            checks: planned.subsystem.checks.to_vec(),
        });
    }
    let mut health = Health::new(now(), watched.clone(), pulse::CHECKS, &config.checks);
    let later = live(&mut health, &watched, now());
    let kept = health.keep();
    let texts = kept.write().unwrap();
    let read = Kept::read(&texts).unwrap();
    let away = read.away(later, true);
    let mut health = Health::restore(later, watched.clone(), pulse::CHECKS, &config.checks, read, away);
    live(&mut health, &watched, later);
}

/// Some minutes of good, bad and failed readings. Answers with the end of them.
fn live(health: &mut Health, watched: &[Watched], begin: Now) -> Now {
    let mut now = begin;
    for turn in 0..10_u32 {
        for one in watched {
            health.observe(now, &reading(one, turn, now));
        }
        now = now.plus(Duration::from_secs(if turn == 6 { 600 } else { 9 }));
        health.wake(now);
    }
    let verdicts = health.verdicts();
    for verdict in &verdicts {
        serde_json::to_string(verdict).unwrap();
        assert!(verdict.bad <= verdict.observed, "{verdict:?}");
    }
    assert_eq!(health.verdicts(), verdicts, "twice the same");
    now
}

fn reading(watched: &Watched, turn: u32, now: Now) -> Reading {
    let value = [Some(0.0), Some(1.0), None, Some(1e12), Some(f64::NAN)][turn as usize % 5];
    let mut points = Points::default();
    for check in &watched.checks {
        let labels = check.fact.labels.iter().map(|_| "a".into()).collect();
        points.0.push(Point { fact: check.fact, labels, value, withheld: None, exported: true });
    }
    let section = RawValue::from_string("{}".into()).unwrap().into();
    let outcome = match turn {
        3 => Err(Failure { cause: Cause::Denied, error: "no".into() }),
        7 => Err(Failure { cause: Cause::Unanswered, error: "silent".into() }),
        _ => Ok(Sample { section, details: Arc::default(), points, gaps: Vec::new() }),
    };
    Reading { collector: watched.name, at: now, took: Duration::ZERO, outcome, own: Points::default() }
}

/// What is wrong beside a key is told without the key, also where its own line is what is wrong.
pub fn config_secret(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let [before, after] = parts(rest).map(String::from_utf8_lossy);
    if ["\"\"\"", "'''"].iter().any(|long| before.contains(long)) {
        return; // it would be no line of its own
    }
    let line = [
        format!("[otlp.headers]\nauthorization = \"Bearer {SECRET}==\""),
        format!("[otlp.headers]\nauthorization \"Bearer {SECRET}==\""),
        format!("[otlp.headers]\nauthorization: Bearer {SECRET}=="),
        format!("[otlp]\nheaders = \"authorization=Bearer {SECRET}\""),
        format!("[otlp]\nheaders = {{ authorization = \"Bearer {SECRET}==\""),
        format!("[otlp]\nheaders = [\n[\"Bearer {SECRET}==\"],\n]"),
        format!("[host]\nurl = \"http://user:{SECRET}@host\""),
        format!("[[collect.http]]\nname = \"a\"\nurl = \"http://host/?key={SECRET}\""),
        format!("[collect.gateway]\nurl = \"http://host/?key={SECRET}=\""),
        format!("[collect.gateway]\nkey = \"{SECRET}==\""),
        format!("[collect.gateway]\npostgres = \"postgres://user:{SECRET}@host/db\""),
        format!("[collect.gateway]\nkey_file \"{SECRET}==\""),
    ];
    let text = format!("{before}\n{}\n{after}", line[usize::from(how) % line.len()]);
    if let Err(error) = Config::parse(&text, "file.toml") {
        keeps_secret(&format!("{error:#}"));
    }
}

/// Whatever is kept is read or refused; what was read can be gone on from, and is kept and read again as it is.
pub fn state_texts(data: &[u8]) {
    let Some((&how, rest)) = data.split_first() else { return };
    let [about, window, change] = parts(rest).map(String::from_utf8_lossy);
    let (watched, mut texts) = kept();
    if !about.is_empty() {
        texts.about = about.into_owned();
    }
    if !window.is_empty() {
        texts.windows.values_mut().for_each(|text| *text = window.clone().into_owned());
    }
    if !change.is_empty() {
        texts.changes = (0..3).map(|number| (number * u64::from(how), change.clone().into_owned())).collect();
    }
    let Ok(kept) = Kept::read(&texts) else { return };
    let written = kept.write().unwrap();
    let again = Kept::read(&written).unwrap().write().unwrap();
    assert_eq!(written, again);
    let later = now().plus(Duration::from_secs(u64::from(how) * 3));
    let away = kept.away(later, how & 1 == 0);
    let settings = Settings::default();
    let mut health = Health::restore(later, watched.clone(), pulse::CHECKS, &settings, kept, away);
    let before = health.verdicts();
    health.wake(later);
    live(&mut health, &watched, later);
    assert!(before.iter().all(|verdict| verdict.bad <= verdict.observed));
    let texts = health.keep().write().unwrap();
    let kept = Kept::read(&texts).unwrap();
    assert_eq!(kept.write().unwrap(), texts);
}

/// What a little of everything leaves behind.
pub fn kept() -> (Vec<Watched>, Texts) {
    let wanted = ["service", "channels", "messages"];
    let subsystems = collect::ALL.iter().filter(|one| wanted.contains(&one.name));
    let watched: Vec<Watched> = subsystems
        .map(|one| Watched { name: one.name, interval: one.every, timeout: one.timeout, checks: one.checks.to_vec() })
        .collect();
    let mut health = Health::new(now(), watched.clone(), pulse::CHECKS, &Settings::default());
    live(&mut health, &watched, now());
    (watched, health.keep().write().unwrap())
}

/// A state file with some bytes exchanged: what cannot be used is told, what is another's stays as it is, and what can be
/// used takes what is saved.
pub fn state_file(data: &[u8]) {
    let path = folder().join("kept.db");
    for beside in ["-wal", "-shm", "-journal"] {
        drop(std::fs::remove_file(folder().join(format!("kept.db{beside}"))));
    }
    let bytes = match data.split_first() {
        Some((0, raw)) => raw.to_vec(),
        Some((_, patches)) => patched(good_file(), patches),
        None => Vec::new(),
    };
    std::fs::write(&path, &bytes).unwrap();
    match State::open(&path) {
        Err(Trouble::Foreign | Trouble::Newer) => {
            assert!(std::fs::read(&path).unwrap() == bytes, "what is not ours is left alone");
        }
        Err(trouble) => assert!(!trouble.to_string().is_empty()),
        Ok(mut state) => {
            let Ok(loaded) = state.load() else { return };
            if let Some(loaded) = loaded {
                drop(Kept::read(&Texts { about: loaded.about, windows: loaded.windows, changes: loaded.changes }));
            }
            let wanted = texts();
            if state.save(&wanted).is_ok() {
                drop(state);
                // Damage may lie where nobody looked before.
                let loaded = State::open(&path).and_then(|mut state| state.load());
                assert!(loaded.as_ref().map_or(true, |loaded| loaded.as_ref() == Some(&wanted)), "{loaded:?}");
            }
        }
    }
}

fn texts() -> state::Texts {
    let Texts { about, windows, changes } = kept().1;
    state::Texts { about, windows, changes }
}

fn good_file() -> Vec<u8> {
    thread_local! { static GOOD: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) } }
    GOOD.with_borrow_mut(|good| {
        if good.is_empty() {
            let path = folder().join("good.db");
            State::open(&path).unwrap().save(&texts()).unwrap();
            *good = std::fs::read(&path).unwrap();
        }
        good.clone()
    })
}

/// Three bytes say where, the fourth what stands there then.
pub fn patched(mut bytes: Vec<u8>, patches: &[u8]) -> Vec<u8> {
    for patch in patches.chunks_exact(4) {
        let at = usize::from(patch[0]) << 16 | usize::from(patch[1]) << 8 | usize::from(patch[2]);
        let length = bytes.len();
        bytes[at % length] = patch[3];
    }
    bytes
}
