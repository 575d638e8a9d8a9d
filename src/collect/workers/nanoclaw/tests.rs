use serde_json::{Value, json};

use super::*;
use crate::collect::Collector;
use crate::collect::fixture;
use crate::collect::workers::{Section, Workers};
use crate::source::docker::fake::{Fake, container};

const IMAGE: &str = "nanoclaw-agent:latest";

/// An engine that says what it is told, and the control groups and processes of its machine.
struct Stage {
    engine: Fake,
    workers: Workers,
    now: Now,
}

impl Stage {
    fn new(config: &str, containers: Vec<Value>) -> Stage {
        let engine = Fake::with(containers);
        let root = engine.folder().to_owned();
        for folder in ["cgroup", "proc"] {
            std::fs::create_dir_all(root.join(folder)).unwrap();
        }
        std::fs::write(root.join("cgroup/cgroup.controllers"), "cpu memory").unwrap();
        std::fs::write(root.join("proc/stat"), "btime 1\n").unwrap();
        let sources = Sources {
            docker: Docker::at(engine.socket()),
            cgroups: Cgroups::at(root.join("cgroup"), root.join("proc")),
            proc: Proc::at(&root.join("proc")),
            ..Sources::default()
        };
        let config = toml::from_str(config).unwrap();
        let workers = Workers::new(config, &fixture::host(None), &sources).unwrap().unwrap();
        Stage { engine, workers, now: fixture::now() }
    }

    /// What the kernel says of a container.
    fn uses(&self, name: &str, cpu_seconds: f64) {
        let place = self.engine.folder().join("cgroup/docker").join(id(name));
        std::fs::create_dir_all(&place).unwrap();
        std::fs::write(place.join("memory.current"), "5000").unwrap();
        std::fs::write(place.join("cpu.stat"), format!("usage_usec {}", cpu_seconds * 1e6)).unwrap();
    }

    /// A process of the machine, in the control group of this container.
    fn process(&self, pid: u32, parent: u32, name: &str) {
        let own = self.engine.folder().join(format!("proc/{pid}"));
        std::fs::create_dir_all(own.join("fd")).unwrap();
        std::fs::write(own.join("fd/0"), "").unwrap();
        let stat = format!("{pid} (node) S {parent} 1 1 0 -1 0 0 0 0 0 40 10 0 0 20 0 11 0 100 1 1000");
        std::fs::write(own.join("stat"), stat).unwrap();
        std::fs::write(own.join("cgroup"), format!("0::/docker/{}\n", id(name))).unwrap();
        std::os::unix::fs::symlink("/workspace/group", own.join("cwd")).unwrap();
    }

    fn then(&mut self, containers: Vec<Value>, seconds: u64) -> Section {
        self.engine.have(containers);
        self.look(seconds)
    }

    fn look(&mut self, seconds: u64) -> Section {
        self.now = self.now.plus(Duration::from_secs(seconds));
        fixture::wait(self.workers.collect(self.now)).unwrap()
    }
}

fn id(name: &str) -> String {
    name.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn agent(name: &str, more: Value) -> Value {
    container(name, IMAGE, more)
}

const MAIN: &str = "nanoclaw-main-1795307730123";
const ONLY: &str = "presets = [\"nanoclaw\"]";

fn shown(section: &Section) -> Value {
    fixture::json::<Workers>(section)
}

fn class(section: &Section) -> Value {
    shown(section)["processes"][0]["class"].clone()
}

#[test]
fn a_container_is_a_worker_with_what_is_known_of_it() {
    let others = || {
        vec![
            agent(MAIN, json!({"State": {"Pid": 700}})),
            container("nanoclaw", "x", json!({})),
            container("my-nanoclaw-x", "x", json!({})),
            agent("nanoclaw-old-1", json!({"Status": "Exited 1 hour ago", "State": {"Status": "exited"}})),
        ]
    };
    let mut stage = Stage::new(ONLY, others());
    stage.uses(MAIN, 10.0);
    stage.process(700, 1, MAIN);
    stage.process(701, 700, MAIN);
    stage.process(702, 701, MAIN);
    stage.process(703, 1, "another");
    assert_eq!(class(&stage.look(0)), "unknown", "whether it works takes two looks");
    stage.uses(MAIN, 10.3);
    let section = stage.look(15);
    let told = shown(&section);
    assert_eq!(
        told["processes"],
        json!([{
            "pid": 700, "kind": "nanoclaw", "class": "busy", "state": "S", "cpu_seconds": 10.3, "cpu_percent": 2.0,
            "rss_bytes": 5000, "threads": 33, "fds": 3, "children": 2, "uptime_seconds": 314, "idle_seconds": 0,
            "session": null, "cwd": "group", "registered": null, "registered_state": null, "idle_for_s": null,
            "container": MAIN,
        }])
    );
    let totals = json!({"alive": 1, "busy": 1, "idle": 0, "zombie": 0, "orphan": null, "leaked": 0, "duplicate": null,
        "unregistered": null, "unknown": 0});
    assert_eq!(told["totals"], totals);
    let kind = &told["kinds"]["nanoclaw"];
    assert_eq!((&kind["busy"], &kind["degraded"], &kind["spawns_total"]), (&json!(1), &json!(0), &json!(0)));
    let points = fixture::points::<Workers>(&section);
    let value = |fact, subject| fixture::value(&points, fact, subject).flatten();
    assert_eq!(value(&WORKERS, "nanoclaw/busy"), Some(1.0));
    assert_eq!((value(&MEMORY, "nanoclaw/busy"), value(&THREADS, "nanoclaw/busy")), (Some(5000.0), Some(33.0)));
    assert_eq!((value(&FDS, "nanoclaw/busy"), value(&LEAKED, "nanoclaw")), (Some(3.0), Some(0.0)));
    let started: Timestamp = "2026-11-21T19:55:00.5Z".parse().unwrap();
    assert_eq!(value(&OLDEST, "nanoclaw/busy"), Some(started.as_duration().as_secs_f64()));
    assert!((value(&CPU, "nanoclaw").unwrap() - 0.3).abs() < 1e-9, "what it used before the first look is not ours");
    for fact in [&super::super::ZOMBIES, &super::super::ORPHANS, &super::super::DUPLICATES] {
        assert!(points.0.iter().all(|point| !point.fact.is(fact)), "{} does not apply", fact.prometheus);
    }
}

#[test]
fn the_pid_of_another_machines_process_is_nobodys_here() {
    let mut stage = Stage::new(ONLY, vec![agent(MAIN, json!({"State": {"Pid": 700}}))]);
    stage.process(1, 0, "init");
    stage.process(700, 1, "another");
    stage.look(0);
    let section = stage.look(15);
    let told = &shown(&section)["processes"][0];
    for key in ["pid", "state", "cpu_seconds", "cpu_percent", "rss_bytes", "threads", "fds", "children", "idle_seconds"]
    {
        assert_eq!(told[key], Value::Null, "{key}");
    }
    assert_eq!((&told["class"], &told["uptime_seconds"]), (&json!("unknown"), &json!(314)));
    assert!(section.limits[0].starts_with("the control groups of 1 containers are not ours to see"), "{section:?}");
    let points = fixture::points::<Workers>(&section);
    let value = |fact, subject| fixture::value(&points, fact, subject);
    assert_eq!(value(&LEAKED, "nanoclaw"), Some(None), "one that may be busy is not known to be idle");
    assert_eq!((value(&DEGRADED, "nanoclaw"), value(&MEMORY, "nanoclaw/unknown")), (Some(Some(1.0)), None));
}

#[test]
fn it_works_by_cpu_idles_without_and_is_leaked_when_its_host_would_have_ended_it() {
    let main = || vec![agent(MAIN, json!({}))];
    let mut stage = Stage::new(&format!("{ONLY}\nleaked_after = \"5m\""), main());
    stage.uses(MAIN, 10.0);
    stage.look(0);
    stage.uses(MAIN, 10.17);
    assert_eq!(class(&stage.look(15)), "idle", "Claude Code burns so much for nothing");
    stage.uses(MAIN, 10.36);
    assert_eq!(class(&stage.look(15)), "busy");
    let section = stage.look(32 * 60);
    assert_eq!(shown(&section)["processes"][0]["idle_seconds"], 1920);
    assert_eq!(class(&section), "idle", "its own host keeps it for so long");
    let section = stage.look(15);
    assert_eq!(class(&section), "leaked");
    let points = fixture::points::<Workers>(&section);
    assert_eq!(fixture::value(&points, &LEAKED, "nanoclaw"), Some(Some(1.0)));
    stage.uses(MAIN, 11.0);
    assert_eq!(class(&stage.look(15)), "busy", "who works is not leaked");
    let mut stage = Stage::new(&format!("{ONLY}\nleaked_after = \"2h\""), main());
    stage.uses(MAIN, 10.0);
    stage.look(0);
    assert_eq!(class(&stage.look(3600)), "idle", "an operator who waits longer");
    assert_eq!(class(&stage.look(3601)), "leaked");
}

#[test]
fn starts_and_ends_are_counted_by_start_and_what_was_used_stays() {
    let run = |name: &str, started: &str| agent(name, json!({"State": {"StartedAt": started}}));
    let mut stage = Stage::new(ONLY, vec![run(MAIN, "2026-11-21T19:55:00Z")]);
    stage.uses(MAIN, 3.0);
    stage.look(0);
    stage.uses(MAIN, 4.0);
    let kind = |section: &Section| {
        let kind = shown(section)["kinds"]["nanoclaw"].clone();
        ["spawns_total", "exits_total", "restarts_last_hour", "early_exits_recent", "cpu_seconds_total"]
            .map(|key| kind[key].as_f64().unwrap())
    };
    assert_eq!(kind(&stage.look(15)), [0.0, 0.0, 0.0, 0.0, 1.0]);
    // It is gone, and another is there: that one is known to have ended within seconds of its start.
    let ended = agent(
        "nanoclaw-b-1",
        json!({"Status": "Exited", "State": {"Status": "exited", "StartedAt": "2026-11-21T20:00:20Z",
            "FinishedAt": "2026-11-21T20:00:27Z"}}),
    );
    let section = stage.then(vec![run("nanoclaw-b-1", "2026-11-21T20:00:20Z")], 15);
    assert_eq!(kind(&section), [1.0, 1.0, 1.0, 0.0, 1.0]);
    assert_eq!(kind(&stage.then(vec![ended], 15)), [1.0, 2.0, 1.0, 1.0, 1.0]);
    assert_eq!(shown(&stage.look(15))["processes"], json!([]));
    // One that is started anew is another worker, though its name is the same.
    stage.uses(MAIN, 9.0);
    assert_eq!(kind(&stage.then(vec![run(MAIN, "2026-11-21T20:01:10Z")], 15))[..2], [2.0, 2.0]);
    stage.uses(MAIN, 1.0);
    let mut again = run(MAIN, "2026-11-21T20:01:20Z");
    again["Status"] = "Up 2 seconds".into();
    assert_eq!(kind(&stage.then(vec![again.clone()], 15))[..2], [3.0, 3.0]);
    stage.uses(MAIN, 1.5);
    assert_eq!(kind(&stage.then(vec![again], 15))[4], 11.5, "1, then 9 by one start, then 1.5 by the next");
}

#[test]
fn one_whose_start_is_told_late_is_no_other() {
    let all = || vec![agent(MAIN, json!({"Status": "Up 2 seconds"}))];
    let mut stage = Stage::new(ONLY, all());
    stage.engine.answer_with(move |path| match path.starts_with("/containers/json") {
        true => Some(crate::source::docker::fake::of(&all(), path)),
        false => Some((500, String::new())),
    });
    stage.uses(MAIN, 1.0);
    let section = stage.look(0);
    assert_eq!(shown(&section)["processes"][0]["uptime_seconds"], Value::Null);
    let section = stage.then(vec![agent(MAIN, json!({}))], 15);
    let (row, kind) = (&shown(&section)["processes"][0], &shown(&section)["kinds"]["nanoclaw"]);
    assert_eq!((&row["class"], &row["uptime_seconds"], &kind["exits_total"]), (&json!("idle"), &json!(314), &json!(0)));
}

#[test]
fn an_engine_that_does_not_answer_hides_its_containers_and_nothing_else() {
    let mut stage = Stage::new("presets = [\"nanoclaw\", \"pi\"]", vec![agent(MAIN, json!({}))]);
    stage.look(0);
    stage.engine.answer_with(|_| Some((500, String::new())));
    let section = stage.look(15);
    let told = shown(&section);
    assert_eq!((&told["processes"], &told["kinds"]["nanoclaw"]), (&json!([]), &Value::Null));
    assert!(told["kinds"]["pi"].is_object());
    let limit = "nobody knows of the containers of nanoclaw: ask Docker: it answered with status 500";
    assert!(section.limits.iter().any(|said| said == limit), "{section:?}");
    let points = fixture::points::<Workers>(&section);
    assert_eq!(fixture::value(&points, &LEAKED, "nanoclaw"), Some(None));
    assert_eq!(fixture::value(&points, &LEAKED, "pi"), Some(Some(0.0)));
    let mut stage = Stage::new(ONLY, vec![]);
    assert_eq!(shown(&stage.look(0))["totals"]["alive"], 0);
    stage.engine.answer_with(|_| Some((403, String::new())));
    stage.now = stage.now.plus(Duration::from_secs(15));
    let error = fixture::wait(stage.workers.collect(stage.now)).unwrap_err();
    assert_eq!(crate::sample::Failure::from(error).cause, crate::sample::Cause::Denied);
}

#[test]
fn too_much_memory_is_known_where_it_can_be_read() {
    let mut stage = Stage::new(&format!("{ONLY}\nmax_rss = 4999"), vec![agent(MAIN, json!({}))]);
    let over = |section: &Section| fixture::value(&fixture::points::<Workers>(section), &OVER_RSS, "nanoclaw");
    assert_eq!(over(&stage.look(0)), Some(None));
    stage.uses(MAIN, 1.0);
    assert_eq!(over(&stage.look(15)), Some(Some(1.0)));
}
