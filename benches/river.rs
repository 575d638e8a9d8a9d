//! What it costs, beside something that anyone can judge, in one run: `cargo bench`. Prints figures, asserts nothing.
//!
//! `cargo bench -- encode` runs one part: encode, health, state, database, git, docker, hung,
//! workers, doors, process.

use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agenthost_exporter::collect::{self, Collect, Subsystem};
use agenthost_exporter::fact::{Check, Fact};
use agenthost_exporter::health::{Health, Kept, Settings, Texts, Watched};
use agenthost_exporter::host::{self, Profile};
use agenthost_exporter::sample::{Now, Point, Points, Reading, Sample};
use agenthost_exporter::show::{metrics, status};
use agenthost_exporter::snapshot::{Current, River, Seen, Sidecar, Snapshot, catalogue};
use agenthost_exporter::source::cgroup::Cgroups;
use agenthost_exporter::source::docker::Docker;
use agenthost_exporter::source::{Sources, state};
use rusqlite::Connection;
use serde_json::value::RawValue;

#[path = "../src/collect/fixture/api.rs"]
mod api;
#[path = "../tests/suite/dockerd.rs"]
mod dockerd;
#[path = "../src/source/docker/fake.rs"]
mod fake_docker;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if wanted.first().is_some_and(|arg| arg == "bare-server") {
        return bare_server(&wanted[1]);
    }
    let parts: [(&str, fn()); 10] = [
        ("encode", encode),
        ("health", health),
        ("state", state),
        ("database", database),
        ("git", git),
        ("docker", docker),
        ("hung", hung),
        ("workers", workers),
        ("doors", doors),
        ("process", process),
    ];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            println!("\n== {name}");
            part();
        }
    }
}

/// The fastest of several runs, in microseconds.
fn best(times: usize, mut run: impl FnMut()) -> f64 {
    (0..times).map(|_| timed(&mut run).as_secs_f64() * 1e6).fold(f64::INFINITY, f64::min)
}

fn timed(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

fn say(what: &str, value: f64, unit: &str) {
    println!("{what:<64} {value:>12.3} {unit}");
}

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
fn encode() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
    for series in [500, 5000] {
        let current = Current::fixed(snapshot(series));
        let page = metrics::page(&current).expect("a page");
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
fn health() {
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
fn state() {
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
    for look in 1..=7 * 24 * PER_HOUR {
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

/// 5 million messages: the first reading, and ticks after it.
fn database() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fill(folder.path(), 5_000_000);
    let writer = Connection::open(folder.path().join("data/messages.db")).expect("the database");
    writer.execute_batch("PRAGMA foreign_keys = OFF").expect("a pragma"); // as the host does
    for name in ["messages", "usage"] {
        let subsystem = collect::ALL.iter().find(|one| one.name == name).expect("it is listed");
        let mut collector = build(subsystem, folder.path());
        let look = |collector: &mut Box<dyn Collect>| {
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
            timed(|| drop(collector.run(Now::read(), Duration::from_secs(60), runtime.handle()).expect("a reading")))
        };
        say(&format!("{name}: first reading"), look(&mut collector).as_secs_f64() * 1e3, "ms");
        std::thread::sleep(Duration::from_secs(3)); // the file's time stamp must be old to be trusted
        look(&mut collector);
        let idle = (0..5).map(|_| look(&mut collector)).min().expect("five");
        say(&format!("{name}: a tick when nothing changed"), idle.as_secs_f64() * 1e3, "ms");
        let busy = (0..5).map(|round| {
            insert(&writer, &format!("{name}-{round}"), 100);
            look(&mut collector)
        });
        say(&format!("{name}: a tick after 100 new messages"), busy.min().expect("five").as_secs_f64() * 1e3, "ms");
    }
    let count = "SELECT count(*) FROM messages WHERE is_from_me = 0";
    let by_count = best(3, || drop(black_box(writer.query_row(count, [], |row| row.get::<_, i64>(0)))));
    say("beside it: one COUNT(*) of inbound messages", by_count / 1e3, "ms");
}

fn build(subsystem: &Subsystem, root: &Path) -> Box<dyn Collect> {
    let sources = Sources::default();
    let config = host::Config { root: Some(root.to_owned()), ..host::Config::default() };
    let host = host::find(&config, &sources.processes, Path::new("/")).expect("a root");
    let build = (subsystem.plan)(None).expect("defaults");
    build(&host, &sources).expect("a collector").expect("a pynchy host has it")
}

fn fill(root: &Path, messages: u32) {
    std::fs::create_dir_all(root.join("data")).expect("a folder");
    std::fs::write(root.join("config.toml"), "[server]\nport = 1\n").expect("a file");
    let database = Connection::open(root.join("data/messages.db")).expect("a database");
    database.execute_batch(include_str!("../src/tool/demo/pynchy.sql")).expect("the schema");
    database.execute_batch("PRAGMA synchronous = OFF; PRAGMA foreign_keys = OFF").expect("a pragma");
    let groups = "INSERT INTO registered_groups (jid, name, folder, trigger_pattern, added_at)
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 9)
        SELECT 'slack:C' || i, 'g', 'group-' || i, '@bot', '2026-01-01T00:00:00+00:00' FROM n";
    database.execute_batch(groups).expect("groups");
    insert(&database, "old", messages);
    let cursors: Vec<String> = (0..10).map(|i| format!("\"slack:C{i}\": \"2099-01-01T00:00:00+00:00\"")).collect();
    let cursors = format!("{{{}}}", cursors.join(","));
    database.execute("INSERT INTO router_state VALUES ('last_agent_timestamp', ?1)", [cursors]).expect("cursors");
}

fn insert(database: &Connection, prefix: &str, count: u32) {
    let rows = "INSERT INTO messages (id, chat_jid, sender, sender_name, content, timestamp, is_from_me, message_type)
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?2 - 1)
        SELECT ?1 || i, 'slack:C' || (i % 10), iif(i % 2, 'bot', 'U1'), 'u', 'lorem ipsum dolor sit amet',
            strftime('%Y-%m-%dT%H:%M:%S', '2026-01-01', '+' || i || ' seconds') || '+00:00', i % 2, 'user' FROM n";
    database.execute(rows, rusqlite::params![prefix, count]).expect("rows");
}

/// Worktrees: one small, 200 small, and one of 50 000 files, clean and touched; beside the git command line.
fn git() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().canonicalize().expect("a path");
    let web = root.join("data/worktrees/acme/web");
    shell(&root, "printf '[server]\\nport = 1\\n[repos.\"acme/web\"]\\n' > config.toml; mkdir -p data/repos/acme/web");
    shell(&root.join("data/repos/acme/web"), SEED);
    shell(&root.join("data/repos/acme/web"), "git worktree add -q --no-track -b w ../../../worktrees/acme/web/w base");
    let before = resident(std::process::id());
    let (tick, full) = (best(200, ticks(&root, None)), best(200, ticks(&root, Some("0s"))));
    let command = best(50, || assert!(git_status(&web.join("w")).success()));
    say("a repository and a worktree: a tick without statuses", tick, "us");
    say("a repository and a worktree: a tick with both statuses", full, "us");
    say("beside it: one git status of the worktree", command, "us");
    say("ratio of a tree with its status to one git status", full / 2.0 / command, "x");

    let add =
        "for i in $(seq 199); do git worktree add -q --no-track -b w$i ../../../worktrees/acme/web/w$i base; done";
    shell(&root.join("data/repos/acme/web"), add);
    say("200 worktrees: a tick without statuses", best(20, ticks(&root, None)) / 1e3, "ms");
    say("200 worktrees: a tick with all statuses", best(10, ticks(&root, Some("0s"))) / 1e3, "ms");
    say("200 worktrees: CPU in an hour", hour(&root), "s");
    let after = resident(std::process::id());
    say("memory that all this has left", after.saturating_sub(before) as f64 / 1e6, "MB");

    shell(&root, "rm -rf data/worktrees/acme/web; cd data/repos/acme/web; git worktree prune");
    shell(&root.join("data/repos/acme/web"), MANY);
    let before = resident(std::process::id());
    for state in ["clean", "touched"] {
        let path = root.join("data/repos/acme/web");
        if state == "touched" {
            shell(&path, "find m -type f -exec touch -d 2020-01-01 {} +");
        }
        let command = cpu_of_children(10, || assert!(git_status(&path).success()));
        say(
            &format!("50 000 files, {state}: one git status, wall"),
            best(3, || assert!(git_status(&path).success())) / 1e3,
            "ms",
        );
        say(&format!("50 000 files, {state}: one git status, CPU"), command * 1e3, "ms");
        say(&format!("50 000 files, {state}: CPU in an hour of one git status a minute"), command * 60.0, "s");
        say(&format!("50 000 files, {state}: a tick without a status"), best(20, ticks(&root, None)) / 1e3, "ms");
        let looked = best(2, || look_until_known(&root));
        say(&format!("50 000 files, {state}: a tick with the status"), looked / 1e3, "ms");
        say(&format!("50 000 files, {state}: CPU in an hour at default intervals"), hour(&root), "s");
    }
    let after = resident(std::process::id());
    say("memory that all this has left", after.saturating_sub(before) as f64 / 1e6, "MB");
}

const SEED: &str = "git init -q -b main .; mkdir d; for i in 1 2 3 4 5 6 7 8 9; do echo $i > d/$i.txt; done; git add .
    git commit -qm base; git tag base; echo more > d/1.txt; git commit -qam more; touch -d '1 hour ago' d/*; git status";
const MANY: &str =
    "for i in $(seq 2500); do mkdir -p m/$i; for j in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    echo $i $j > m/$i/$j.txt; done; done; git add .; git commit -qm many; sleep 2; git status";

/// Git as nobody: no settings of whoever runs this have a say.
fn isolated(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_COUNT", "2");
    command.env("GIT_CONFIG_KEY_0", "user.name").env("GIT_CONFIG_VALUE_0", "Bench");
    command.env("GIT_CONFIG_KEY_1", "user.email").env("GIT_CONFIG_VALUE_1", "bench@example.com");
    command
}

fn shell(folder: &Path, script: &str) {
    assert!(isolated("sh", folder).args(["-euc", script]).status().expect("a shell").success(), "{script}");
}

/// As a careful poller would: without the lock that agents fall over.
fn git_status(folder: &Path) -> std::process::ExitStatus {
    let mut command = isolated("git", folder);
    command.args(["status", "--porcelain=v2", "--branch"]).env("GIT_OPTIONAL_LOCKS", "0").status().expect("git")
}

fn repos(root: &Path, status_interval: Option<&str>) -> Box<dyn Collect> {
    let subsystem = collect::ALL.iter().find(|one| one.name == "repos").expect("it is listed");
    let text = status_interval.map(|every| format!("status_interval = \"{every}\""));
    let table = text.as_deref().map(|text| toml::de::DeTable::parse(text).expect("TOML"));
    let sources = Sources::default();
    let config = host::Config { root: Some(root.to_owned()), ..host::Config::default() };
    let host = host::find(&config, &sources.processes, Path::new("/")).expect("a root");
    (subsystem.plan)(table).expect("a table")(&host, &sources).expect("a collector").expect("pynchy has it")
}

/// Ticks of one collector, with statuses at this interval; without one, none after the first.
fn ticks(root: &Path, status_interval: Option<&str>) -> impl FnMut() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut collector = repos(root, status_interval.or(Some("1000h")));
    let mut tick = move || {
        let sample = collector.run(Now::read(), Duration::from_secs(60), runtime.handle()).expect("a reading");
        drop(black_box(sample));
    };
    tick();
    std::thread::sleep(Duration::from_secs(3)); // indexes must be old to be trusted, and slow statuses end
    tick();
    tick
}

/// Looks until the status of the repository's own tree is there.
fn look_until_known(root: &Path) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut collector = repos(root, None);
    loop {
        let sample = collector.run(Now::read(), Duration::from_secs(60), runtime.handle()).expect("a reading");
        let section: serde_json::Value = serde_json::from_str(sample.section.get()).expect("JSON");
        if !section["acme/web"]["dirty"].is_null() {
            return assert_eq!(section["acme/web"]["dirty"], false);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// CPU seconds of an hour at default intervals, lived through faster.
fn hour(root: &Path) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut collector = repos(root, None);
    let (begun, before) = (Now::read(), cpu_seconds(std::process::id()));
    for tick in 0..120 {
        let now = begun.plus(Duration::from_secs(tick * 30));
        let took = timed(|| drop(collector.run(now, Duration::from_secs(60), runtime.handle()).expect("a reading")));
        if took > Duration::from_secs(1) {
            std::thread::sleep(Duration::from_secs(4)); // a status is still under way
        }
    }
    cpu_seconds(std::process::id()) - before
}

const CONTAINERS: usize = 50;

/// A tick with 50 containers: over answers of a fixture, which costs us alone, and beside a real engine.
fn docker() {
    let agent = |number| fake_docker::container(&container(number), dockerd::AGENT, serde_json::json!({}));
    let fixture = fake_docker::Fake::with((0..CONTAINERS).map(agent).collect());
    let socket = fixture.socket();
    let mut tick = containers(&socket, Cgroups::at("/nonexistent", "/nonexistent"));
    say("50 containers of a fixture: the first tick", timed(&mut tick).as_secs_f64() * 1e3, "ms");
    say("50 containers of a fixture: a tick when nothing changed", best(50, &mut tick), "us");
    match dockerd::Engine::start() {
        Ok(engine) => real_engine(&engine),
        Err(why) => println!("50 containers of a real engine: SKIPPED, because {why}"),
    }
}

fn container(number: usize) -> String {
    format!("pynchy-group-{number}")
}

fn real_engine(engine: &dockerd::Engine) {
    (0..CONTAINERS).for_each(|number| engine.sleeper(&container(number), dockerd::AGENT));
    let socket = engine.socket();
    let mut tick = containers(&socket, Cgroups::default());
    say("50 containers of a real engine: the first tick", timed(&mut tick).as_secs_f64() * 1e3, "ms");
    std::thread::sleep(Duration::from_secs(61)); // as long as the list counts seconds, each is asked again
    tick();
    let (ours, theirs) = (std::process::id(), engine.pid());
    let before = (cpu_seconds(ours), cpu_seconds(theirs));
    const TICKS: u32 = 200;
    let took = timed(|| (0..TICKS).for_each(|_| tick())).as_secs_f64() / f64::from(TICKS);
    let each = |before: f64, pid| (cpu_seconds(pid) - before) / f64::from(TICKS) * 1e3;
    say("50 containers of a real engine: a tick when nothing changed", took * 1e3, "ms");
    say("... CPU of the exporter", each(before.0, ours), "ms");
    say("... CPU of the engine", each(before.1, theirs), "ms");
}

/// Ticks of the collector, each a quarter of a minute after the last for what it shares.
fn containers(socket: &Path, cgroups: Cgroups) -> impl FnMut() + use<> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fill(folder.path(), 0);
    let config = host::Config { root: Some(folder.path().to_owned()), ..host::Config::default() };
    let sources = Sources { docker: Docker::at(socket), cgroups, ..Sources::default() };
    let host = host::find(&config, &sources.processes, Path::new("/")).expect("a root");
    let subsystem = collect::ALL.iter().find(|one| one.name == "containers").expect("it is listed");
    let mut collector =
        (subsystem.plan)(None).expect("defaults")(&host, &sources).expect("a collector").expect("pynchy has it");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut now = Now::read();
    move || {
        // Less than would make it ask each container again in the time of all ticks.
        now = now.plus(Duration::from_millis(1100));
        drop(black_box(collector.run(now, Duration::from_secs(10), runtime.handle()).expect("a reading")));
    }
}

/// What asks the host's API, and what does not: its ticks are measured.
const ASKING: [&str; 3] = ["channels", "queue", "service"];
const OTHERS: [&str; 7] = ["messages", "usage", "tasks", "host_jobs", "groups", "containers", "mcp"];

/// A tick of all others beside a host's API that hangs, and beside one that answers.
fn hung() {
    let answers = others_beside(&api::Api::healthy());
    let hangs = api::Api::new();
    for path in ["/status", "/health"] {
        hangs.say(path, api::Say::Hang);
    }
    let beside = others_beside(&hangs);
    say("a tick of 7 collectors beside an API that answers", answers, "us");
    say("... beside one that hangs", beside, "us");
    say("... ratio", beside / answers, "x");
}

/// The fastest tick of the others, one collector after the other, while those who ask do so all the time.
fn others_beside(api: &api::Api) -> f64 {
    let agent = |number| fake_docker::container(&container(number), dockerd::AGENT, serde_json::json!({}));
    let engine = fake_docker::Fake::with((0..CONTAINERS).map(agent).collect());
    let folder = tempfile::tempdir().expect("a temporary folder");
    fill(folder.path(), 1000);
    let (root, url) = (Some(folder.path().to_owned()), Some(api.url.clone()));
    let config = host::Config { root, url, ..host::Config::default() };
    let cgroups = Cgroups::at("/nonexistent", "/nonexistent");
    let sources = Sources { docker: Docker::at(engine.socket()), cgroups, ..Sources::default() };
    let host = host::find(&config, &sources.processes, Path::new("/")).expect("a root");
    let build = |name: &&str| {
        let subsystem = collect::ALL.iter().find(|one| one.name == *name).expect("it is listed");
        (subsystem.plan)(None).expect("defaults")(&host, &sources).expect("a collector").expect("pynchy has it")
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let begun = Now::read();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let over = || is_over.load(std::sync::atomic::Ordering::Relaxed);
    let (mut asking, mut others) = (ASKING.each_ref().map(build), OTHERS.each_ref().map(build));
    std::thread::scope(|threads| {
        for collector in &mut asking {
            let runtime = runtime.handle();
            threads.spawn(move || {
                for tick in 1.. {
                    if over() {
                        return;
                    }
                    // A minute apart, or what was told would be told again.
                    let now = begun.plus(Duration::from_secs(tick * 60));
                    drop(black_box(collector.run(now, Duration::from_secs(2), runtime)));
                    std::thread::sleep(Duration::from_millis(100));
                }
            });
        }
        std::thread::sleep(Duration::from_millis(200));
        let mut now = begun;
        let fastest = best(200, || {
            now = now.plus(Duration::from_millis(1100));
            for collector in &mut others {
                drop(black_box(collector.run(now, Duration::from_secs(10), runtime.handle()).expect("a reading")));
            }
        });
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        fastest
    })
}

/// CPU seconds of one of several runs of a command.
fn cpu_of_children(times: usize, mut run: impl FnMut()) -> f64 {
    let of_children = || {
        let stat = std::fs::read_to_string("/proc/self/stat").expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
        [13, 14].iter().map(|&field| fields[field].parse::<f64>().expect("a number")).sum::<f64>() / 100.0
    };
    let before = of_children();
    (0..times).for_each(|_| run());
    (of_children() - before) / times as f64
}

/// Real processes: a look at workers beside reading the `stat` of the same, and what remembering one takes.
fn workers() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    // A shell that sleeps, under a name that no other process has.
    let name = folder.path().join("benchworker");
    std::fs::copy("/bin/sleep", &name).expect("a program");
    let mut running: Vec<Ended> = Vec::new();
    for count in [30, 300, 3000] {
        while running.len() < count {
            let mut command = Command::new(&name);
            running.push(Ended(command.arg("3600").stdin(Stdio::null()).spawn().expect("it starts")));
        }
        let pids: Vec<u32> = running.iter().map(|worker| worker.0.id()).collect();
        let others = std::fs::read_dir("/proc").expect("processes").count().saturating_sub(count);
        let times = 30_000 / count;
        let (before, begun) = (resident(std::process::id()), cpu_of_this_thread());
        let read = pids.iter().map(|pid| format!("/proc/{pid}/stat")).collect::<Vec<_>>();
        for _ in 0..times {
            read.iter().for_each(|path| drop(black_box(std::fs::read(path))));
        }
        let stat = (cpu_of_this_thread() - begun) / times as f64;
        let mut tick = worker_ticks();
        tick(); // what is asked of new processes is asked once
        let begun = cpu_of_this_thread();
        (0..times).for_each(|_| tick());
        let look = (cpu_of_this_thread() - begun) / times as f64;
        let one = 1e6 / count as f64;
        say(&format!("{count} workers, {others} others: a look, CPU for each worker"), look * one, "us");
        say(&format!("{count} workers: reading /proc/PID/stat of each, CPU"), stat * one, "us");
        say(&format!("{count} workers: ratio"), look / stat, "x");
        let grown = resident(std::process::id()).saturating_sub(before);
        say(&format!("{count} workers: memory for each, one section included"), grown as f64 / count as f64, "bytes");
    }
}

/// Looks of one collector that knows the processes of this bench. They are no children of a host, nor is one sought.
fn worker_ticks() -> impl FnMut() {
    let subsystem = collect::ALL.iter().find(|one| one.name == "workers").expect("it is listed");
    let table = "[[rule]]\nname = \"bench\"\ncomm = \"benchworker\"\n";
    let table = toml::de::DeTable::parse(table).expect("TOML");
    let root = tempfile::tempdir().expect("a temporary folder");
    let config = host::Config {
        root: Some(root.path().to_owned()),
        pid_file: Some("pid".into()), // init's: it is above all
        ..host::Config::default()
    };
    std::fs::write(root.path().join("pid"), "1").expect("a pid file");
    let sources = Sources::default();
    let host = host::find(&config, &sources.processes, Path::new("/")).expect("a root");
    let mut collector = (subsystem.plan)(Some(table)).expect("a table")(&host, &sources).expect("a collector");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    move || {
        let _root = &root;
        let collector = collector.as_mut().expect("it has a rule");
        drop(black_box(collector.run(Now::read(), Duration::from_secs(60), runtime.handle()).expect("a reading")));
    }
}

/// CPU seconds of the thread that asks, to the nanosecond: a look is shorter than a tick.
fn cpu_of_this_thread() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a thread");
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).expect("a number") / 1e9
}

/// The real binary at default intervals beside a host with 200 000 messages: start, memory, CPU, and answers under load.
fn process() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fill(folder.path(), 200_000);
    let address: SocketAddr = "127.0.0.1:20484".parse().expect("a literal");
    let begun = Instant::now();
    let mut exporter = Command::new(env!("CARGO_BIN_EXE_agenthost-exporter"));
    exporter.arg(format!("--host.root={}", folder.path().display())).arg(format!("--web.listen-address={address}"));
    let exporter = Ended(exporter.stderr(Stdio::null()).spawn().expect("the binary starts"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    while !runtime.block_on(all_seen(address)) {
        std::thread::sleep(Duration::from_millis(5));
    }
    say("first full reading after", begun.elapsed().as_secs_f64(), "s");
    let (cpu, pid) = (cpu_seconds(exporter.0.id()), exporter.0.id());
    std::thread::sleep(Duration::from_secs(60));
    say("resident memory, idle", resident(pid) as f64 / 1e6, "MB");
    say("CPU of one core over 60 s", (cpu_seconds(pid) - cpu) / 60.0 * 100.0, "%");
    match chromium(&format!("http://{address}/")) {
        Err(error) => println!("SKIPPED: one open page, because chromium does not start: {error}"),
        Ok(_page) => {
            std::thread::sleep(Duration::from_secs(5));
            let cpu = cpu_seconds(pid);
            std::thread::sleep(Duration::from_secs(60));
            say("... with one page open in a browser", (cpu_seconds(pid) - cpu) / 60.0 * 100.0, "%");
            say("resident memory with it", resident(pid) as f64 / 1e6, "MB");
        }
    }
    for path in ["/metrics", "/status"] {
        let (body, p) = runtime.block_on(load(address, path));
        report(&format!("{path} ({} bytes)", body.len()), &p);
        let bare = bare(&body);
        let (_, p) = runtime.block_on(load(bare.1, path));
        report("   beside it: a bare server with the same bytes", &p);
    }
    say("resident memory, after the load", resident(pid) as f64 / 1e6, "MB");
}

/// A browser that shows an address, and its profile.
fn chromium(url: &str) -> std::io::Result<(Ended, tempfile::TempDir)> {
    let profile = tempfile::tempdir()?;
    let mut command = Command::new("chromium");
    let quiet = "headless no-sandbox disable-gpu disable-dev-shm-usage disable-quic no-first-run remote-debugging-port=0 \
                 disable-background-networking disable-component-update disable-sync";
    command.args(quiet.split_whitespace().map(|flag| format!("--{flag}")));
    command.arg(format!("--user-data-dir={}", profile.path().display())).arg(url);
    let browser = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    Ok((Ended(browser), profile))
}

/// Requests per second and the server's CPU for each, beside a bare server that answers the same bytes, in turns.
fn doors() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fill(folder.path(), 1000);
    let hash = bcrypt::hash("bench", 4).expect("a digest");
    std::fs::write(folder.path().join("web.yml"), format!("basic_auth_users: {{bench: {hash}}}\n")).expect("a file");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let credentials = ("Authorization", "Basic YmVuY2g6YmVuY2g=");
    for locked in [false, true] {
        let (exporter, address) = sidecar(folder.path(), locked);
        let shown: &[(&str, &str)] = if locked { &[credentials] } else { &[] };
        while runtime.block_on(ask(address, "/status", shown)).is_none_or(|(_, body)| !is_seen(&body)) {
            std::thread::sleep(Duration::from_millis(50));
        }
        let any = ("If-None-Match", "*");
        for (what, path, more) in [
            ("/metrics", "/metrics", None),
            ("/metrics, gzip", "/metrics", Some(("Accept-Encoding", "gzip"))),
            ("/status", "/status", None),
            ("/status, gzip", "/status", Some(("Accept-Encoding", "gzip"))),
            ("/status, 304", "/status", Some(any)),
        ] {
            let headers: Vec<_> = shown.iter().copied().chain(more).collect();
            let (_, body) = runtime.block_on(ask(address, path, &headers)).expect("an answer");
            let (bare, other) = bare(&body);
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..3 {
                ours.push(runtime.block_on(rush(exporter.0.id(), address, path, &headers)));
                theirs.push(runtime.block_on(rush(bare.0.id(), other, path, &headers)));
            }
            let best = |runs: &[Rush]| runs.iter().map(|run| run.rate).fold(0.0, f64::max);
            let least = |runs: &[Rush]| runs.iter().map(|run| run.cpu).fold(f64::INFINITY, f64::min);
            let what = format!("{what}{}", if locked { ", password" } else { "" });
            println!(
                "{what:<24} {:>7.0} requests/s, {:.2} of the bare server's {:>7.0}; CPU {:>5.1} us each, {:.2} of its {:.1}",
                best(&ours),
                best(&ours) / best(&theirs),
                best(&theirs),
                least(&ours),
                least(&ours) / least(&theirs),
                least(&theirs)
            );
        }
    }
}

fn sidecar(root: &Path, locked: bool) -> (Ended, SocketAddr) {
    let address: SocketAddr = "127.0.0.1:20486".parse().expect("a literal");
    let mut exporter = Command::new(env!("CARGO_BIN_EXE_agenthost-exporter"));
    exporter.arg(format!("--host.root={}", root.display())).arg(format!("--web.listen-address={address}"));
    if locked {
        exporter.arg(format!("--web.config.file={}", root.join("web.yml").display()));
    }
    (Ended(exporter.stderr(Stdio::null()).spawn().expect("the binary starts")), address)
}

struct Rush {
    /// Requests per second.
    rate: f64,
    /// Microseconds of the server's CPU for each.
    cpu: f64,
}

/// Eight connections that ask again as soon as they are answered, for two seconds.
async fn rush(pid: u32, address: SocketAddr, path: &'static str, headers: &[(&'static str, &'static str)]) -> Rush {
    let (cpu, begun) = (cpu_seconds(pid), Instant::now());
    let mut connections = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let headers = headers.to_vec();
        connections.spawn(async move {
            let (mut sender, mut answered) = (connect(address).await.expect("a connection"), 0_u32);
            while begun.elapsed() < Duration::from_secs(2) {
                with_headers(&mut sender, path, &headers).await.expect("an answer");
                answered += 1;
            }
            answered
        });
    }
    let answered = f64::from(connections.join_all().await.into_iter().sum::<u32>());
    Rush { rate: answered / begun.elapsed().as_secs_f64(), cpu: (cpu_seconds(pid) - cpu) / answered * 1e6 }
}

async fn with_headers(
    sender: &mut Sender,
    path: &str,
    headers: &[(&str, &str)],
) -> anyhow::Result<(u16, bytes::Bytes)> {
    use http_body_util::BodyExt;
    let request =
        headers.iter().fold(hyper::Request::get(path).header("Host", "localhost"), |request, (name, value)| {
            request.header(*name, *value)
        });
    let answer = sender.send_request(request.body(http_body_util::Empty::new())?).await?;
    Ok((answer.status().as_u16(), answer.into_body().collect().await?.to_bytes()))
}

async fn ask(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Option<(u16, bytes::Bytes)> {
    let mut sender = connect(address).await.ok()?;
    with_headers(&mut sender, path, headers).await.ok()
}

fn is_seen(body: &[u8]) -> bool {
    let status: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    status["collectors"].as_object().expect("a map").values().all(|collector| !collector["up"].is_null())
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn report(what: &str, latencies: &[Duration]) {
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!("{what:<64} p50 {:.3} p99 {:.3} max {:.3} ms, {} requests", at(0.5), at(0.99), at(1.0), latencies.len());
}

async fn all_seen(address: SocketAddr) -> bool {
    let Ok(mut sender) = connect(address).await else { return false };
    let Ok(body) = request(&mut sender, "/status").await else { return false };
    is_seen(&body)
}

type Sender = hyper::client::conn::http1::SendRequest<http_body_util::Empty<bytes::Bytes>>;

async fn connect(address: SocketAddr) -> anyhow::Result<Sender> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (sender, connection) = hyper::client::conn::http1::handshake(hyper_util::rt::TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

async fn request(sender: &mut Sender, path: &str) -> anyhow::Result<bytes::Bytes> {
    use http_body_util::BodyExt;
    let request = hyper::Request::get(path).header("Host", "localhost").body(http_body_util::Empty::new())?;
    Ok(sender.send_request(request).await?.into_body().collect().await?.to_bytes())
}

/// 100 connections, 1 000 requests a second, for five seconds.
async fn load(address: SocketAddr, path: &'static str) -> (bytes::Bytes, Vec<Duration>) {
    let mut connections = tokio::task::JoinSet::new();
    for number in 0..100 {
        connections.spawn(async move {
            let mut sender = connect(address).await.expect("a connection");
            tokio::time::sleep(Duration::from_millis(number)).await;
            let mut pace = tokio::time::interval(Duration::from_millis(100));
            let (mut latencies, mut body) = (Vec::new(), bytes::Bytes::new());
            for _ in 0..50 {
                pace.tick().await;
                let begun = Instant::now();
                body = request(&mut sender, path).await.expect("an answer");
                latencies.push(begun.elapsed());
            }
            (body, latencies)
        });
    }
    let (mut all, mut body) = (Vec::new(), bytes::Bytes::new());
    while let Some(done) = connections.join_next().await {
        let (one, latencies) = done.expect("no panic");
        body = one;
        all.extend(latencies);
    }
    all.sort();
    (body, all)
}

/// Another process of this program that answers everything with these bytes.
fn bare(body: &[u8]) -> (Ended, SocketAddr) {
    let file = std::env::temp_dir().join(format!("agenthost-bench-{}", std::process::id()));
    std::fs::write(&file, body).expect("a file");
    let mut server = Command::new(std::env::current_exe().expect("this program"));
    let server = Ended(server.arg("bare-server").arg(&file).spawn().expect("this program starts"));
    std::thread::sleep(Duration::from_millis(300));
    std::fs::remove_file(file).expect("the file was there");
    (server, "127.0.0.1:20485".parse().expect("a literal"))
}

fn bare_server(file: &str) {
    use hyper::service::service_fn;
    let body = bytes::Bytes::from(std::fs::read(file).expect("the body"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:20485").await.expect("the port is free");
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let body = body.clone();
            let answer = service_fn(move |_| {
                let answer = hyper::Response::new(http_body_util::Full::new(body.clone()));
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(io, answer));
        }
    });
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().map(|&field| fields[field].parse::<f64>().expect("a number")).sum();
    ticks / 100.0
}

fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}
