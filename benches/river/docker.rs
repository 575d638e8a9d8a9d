//! Containers, and a host that hangs.

use super::*;
use crate::database::fill;
use crate::table::{Aim, row};

const CONTAINERS: usize = 50;

/// A tick with 50 containers: over answers of a fixture, which costs us alone, and beside a real engine.
pub fn docker() {
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
    let few = real_containers(engine, 0..CONTAINERS / 10);
    let many = real_containers(engine, CONTAINERS / 10..full_or(CONTAINERS, CONTAINERS / 10 + 1));
    row("50 containers of a real engine, CPU of a tick", many, "ms", "5 of them", few, Aim::AtMost(10.0));
}

/// With these started beside those that run: the exporter's CPU of a tick when nothing changed, in milliseconds.
fn real_containers(engine: &dockerd::Engine, numbers: std::ops::Range<usize>) -> f64 {
    let count = numbers.end;
    numbers.for_each(|number| engine.sleeper(&container(number), dockerd::AGENT));
    let socket = engine.socket();
    let mut tick = containers(&socket, Cgroups::default());
    let what = format!("{count} containers of a real engine");
    say(&format!("{what}: the first tick"), timed(&mut tick).as_secs_f64() * 1e3, "ms");
    std::thread::sleep(Duration::from_secs(full_or(61, 1))); // as long as the list counts seconds, each is asked again
    tick();
    let (ours, theirs) = (std::process::id(), engine.pid());
    let before = (cpu_seconds(ours), cpu_seconds(theirs));
    let ticks = full_or(200, 10);
    let took = timed(|| (0..ticks).for_each(|_| tick())).as_secs_f64() / f64::from(ticks);
    let each = |before: f64, pid| (cpu_seconds(pid) - before) / f64::from(ticks) * 1e3;
    let own = each(before.0, ours);
    say(&format!("{what}: a tick when nothing changed"), took * 1e3, "ms");
    say("... CPU of the exporter", own, "ms");
    say("... CPU of the engine", each(before.1, theirs), "ms");
    own
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
pub fn hung() {
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
