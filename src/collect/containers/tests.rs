use serde_json::{Value, json};

use super::leaks::Active;
use super::*;
use crate::collect::fixture::api::{Api, Say};
use crate::collect::fixture::{self, now, wait};
use crate::collect::queue::{self, Queue};
use crate::source::docker::fake::{Fake, container};

const AGENT: &str = "pynchy-agent:latest";

/// A collector, an engine that says what it is told, and the control groups (version 2) of its containers.
struct Stage {
    engine: Fake,
    collector: Containers,
    now: Now,
}

impl Stage {
    fn new(containers: Vec<Value>) -> Stage {
        let engine = Fake::with(containers);
        let root = engine.folder().join("cgroup");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("cgroup.controllers"), "cpu memory").unwrap();
        let sources = Sources {
            docker: Docker::at(engine.socket()),
            cgroups: Cgroups::at(root, "/nonexistent"),
            ..Sources::default()
        };
        let host = Host { containers: Some(Names::pynchy()), ..fixture::host(None) };
        let collector = Containers::new(Config::default(), &host, &sources).unwrap().unwrap();
        Stage { engine, collector, now: now() }
    }

    /// What the kernel says of a container.
    fn uses(&self, name: &str, memory: u64, cpu_seconds: u64, kills: u64) {
        let id: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
        let place = self.engine.folder().join("cgroup/docker").join(id);
        std::fs::create_dir_all(&place).unwrap();
        for (file, text) in [
            ("memory.current", memory.to_string()),
            ("memory.stat", "inactive_file 0".to_owned()),
            ("cpu.stat", format!("usage_usec {}", cpu_seconds * 1_000_000)),
            ("memory.events", format!("oom_kill {kills}")),
        ] {
            std::fs::write(place.join(file), text).unwrap();
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    fn look(&mut self) -> Section {
        wait(self.collector.collect(self.now)).unwrap()
    }

    /// The engine has these from now on; the next reading, a quarter of a minute later.
    fn then(&mut self, containers: Vec<Value>) -> Points {
        self.engine.have(containers);
        self.pass(15);
        self.points()
    }

    fn points(&mut self) -> Points {
        let section = self.look();
        fixture::points::<Containers>(&section)
    }

    /// As `look`, with what the queue says.
    fn judge(&mut self, active: Option<&[&str]>) -> Section {
        let seen = wait(self.collector.docker.inspect_all(self.now, &[], |_| true)).unwrap();
        let mut rows: Vec<Row> = seen.iter().filter_map(|one| self.collector.row(one, self.now)).collect();
        let active = active.map(|folders| Active::of(folders.iter().copied()));
        self.collector.leaks.judge(&mut rows, active.as_ref(), self.now.mono);
        self.collector.section(rows, self.now)
    }
}

fn exited(name: &str, code: i64, more: Value) -> Value {
    let mut ended = container(
        name,
        AGENT,
        json!({"Status": "Exited 2 hours ago",
            "State": {"Status": "exited", "ExitCode": code, "FinishedAt": "2026-11-21T19:59:00Z"}}),
    );
    for (key, value) in more.as_object().unwrap() {
        ended["State"][key] = value.clone();
    }
    ended
}

fn restarted(name: &str, count: u64, started: &str) -> Value {
    container(
        name,
        AGENT,
        json!({"Status": "Restarting (1) 1 second ago", "RestartCount": count,
            "State": {"Status": "restarting", "ExitCode": 1, "StartedAt": started}}),
    )
}

#[test]
fn every_container_is_told_with_what_is_known_of_it() {
    let mut stage = Stage::new(vec![
        container("pynchy-family", AGENT, json!({"RestartCount": 2})),
        exited("pynchy-ops-1795307730123", 137, json!({"OOMKilled": true})),
        container(
            "pynchy-litellm",
            "litellm:1",
            json!({"State": {"Status": "paused", "Health": {"Status": "healthy"}}}),
        ),
        container(
            "pynchy-mcp-web_0a1b2c",
            "web",
            json!({"Status": "Created", "State": {"Status": "created",
            "StartedAt": "0001-01-01T00:00:00Z", "ExitCode": 127}}),
        ),
        container("somebody-elses", "postgres", json!({})),
    ]);
    stage.uses("pynchy-family", 5000, 7, 0);
    let section = stage.look();
    let row = |name, role, group, state| {
        json!({"name": name, "role": role, "group": group, "state": state, "exit_code": null, "oom_killed": false,
            "restart_count": 0, "health": null, "started_at": "2026-11-21T19:55:00.5Z", "finished_at": null,
            "age_seconds": null, "memory_bytes": null, "cpu_seconds": null, "leaked": null, "error": null})
    };
    let with = |mut row: Value, more: Value| {
        row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        row
    };
    assert_eq!(
        fixture::json::<Containers>(&section),
        json!({
            "total": 4, "created": 1, "running": 1, "paused": 1, "restarting": 0, "exited": 1, "removing": 0, "dead": 0,
            "unknown": 0, "exited_by_code": {"127": 1, "137": 1}, "oldest_running_seconds": 299, "memory_bytes": null,
            "leaked": null,
            "containers": [
                with(row("pynchy-family", "agent", "family", "running"),
                    json!({"restart_count": 2, "age_seconds": 299, "memory_bytes": 5000, "cpu_seconds": 7.0})),
                with(row("pynchy-ops-1795307730123", "scheduled", "ops", "exited"),
                    json!({"exit_code": 137, "oom_killed": true, "finished_at": "2026-11-21T19:59:00Z"})),
                with(row("pynchy-litellm", "gateway", "pynchy-litellm", "paused"),
                    json!({"health": "healthy", "age_seconds": 299})),
                with(row("pynchy-mcp-web_0a1b2c", "mcp", "web", "created"),
                    json!({"exit_code": 127, "started_at": null})),
            ],
        })
    );
    let points = fixture::points::<Containers>(&section);
    let value = |fact, subject| fixture::value(&points, fact, subject);
    assert_eq!(value(&COUNT, "agent/running"), Some(Some(1.0)));
    assert_eq!(value(&COUNT, "agent/exited"), Some(Some(0.0)), "a good list has none");
    assert_eq!(value(&COUNT, "scheduled/exited"), Some(Some(1.0)));
    assert_eq!(value(&EXITED, "scheduled/137"), Some(Some(1.0)));
    assert_eq!((value(&OLDEST, "agent"), value(&OLDEST, "database")), (Some(Some(299.0)), Some(Some(0.0))));
    assert_eq!(value(&MEMORY, "agent/family"), Some(Some(5000.0)));
    assert_eq!(value(&MEMORY, "gateway/pynchy-litellm"), Some(None), "it runs, and nobody can read what it uses");
    assert_eq!(value(&MEMORY, "scheduled/ops"), None);
    assert_eq!((value(&CPU, "agent/family"), value(&CPU, "gateway/pynchy-litellm")), (Some(Some(7.0)), None));
    assert_eq!(value(&RESTARTS, "agent/family"), Some(Some(2.0)));
    assert_eq!(value(&RECENT_RESTARTS, "agent/family"), Some(Some(0.0)), "when they were nobody knows");
    assert_eq!(value(&RECENT_RESTARTS, "mcp/web"), None, "no check degrades for an MCP server");
    assert_eq!(value(&RECENT_OOM_KILLS, "scheduled/ops"), Some(Some(1.0)));
    assert!(points.0.iter().all(|point| !point.fact.is(&LEAKED)), "nothing is known of the queue");
}

#[test]
fn one_that_does_not_tell_of_itself_is_told_by_the_list_and_says_why() {
    let family = container("pynchy-family", AGENT, json!({"RestartCount": 2}));
    let mut stage = Stage::new(vec![family.clone(), container("pynchy-ops", AGENT, json!({}))]);
    stage.look();
    stage.pass(15);
    let (rows, id) =
        (vec![family, container("pynchy-ops", AGENT, json!({"Status": "Up 2 seconds"}))], "70796e6368792d6f7073");
    stage.engine.answer_with(move |path| match path.contains(id) {
        true => Some((500, "{\"message\": \"sk-secret\"}".to_owned())),
        false => Some(crate::source::docker::fake::of(&rows, path)),
    });
    let section = stage.look();
    let told = fixture::json::<Containers>(&section);
    let (family, ops) = (&told["containers"][0], &told["containers"][1]);
    assert_eq!((&family["restart_count"], &family["error"]), (&json!(2), &Value::Null));
    assert_eq!(
        (&ops["role"], &ops["state"], &ops["restart_count"]),
        (&json!("agent"), &json!("running"), &Value::Null)
    );
    assert_eq!(ops["error"], "ask Docker: it answered with status 500");
    assert_eq!((&told["total"], &told["oldest_running_seconds"]), (&json!(2), &Value::Null));
    let points = fixture::points::<Containers>(&section);
    let restarts = |group| fixture::value(&points, &RECENT_RESTARTS, group);
    assert_eq!((restarts("agent/family"), restarts("agent/ops")), (Some(Some(0.0)), Some(None)));
}

#[test]
fn no_container_is_zero_and_no_answer_is_not() {
    let mut stage = Stage::new(vec![container("somebody-elses", "postgres", json!({}))]);
    let json = fixture::json::<Containers>(&stage.look());
    assert_eq!((&json["total"], &json["running"], &json["containers"]), (&json!(0), &json!(0), &json!([])));
    assert_eq!((&json["oldest_running_seconds"], &json["memory_bytes"]), (&Value::Null, &Value::Null));
    stage.engine.answer_with(|_| Some((500, String::new())));
    stage.pass(15);
    let error = wait(stage.collector.collect(stage.now)).unwrap_err();
    assert_eq!(format!("{error:#}"), "ask Docker: it answered with status 500");
}

#[test]
fn what_a_group_has_used_never_falls() {
    let family = || container("pynchy-family", AGENT, json!({}));
    let mut stage = Stage::new(vec![family()]);
    let cpu = |points: &Points| fixture::value(points, &CPU, "agent/family").flatten();
    stage.uses("pynchy-family", 1, 10, 0);
    assert_eq!(cpu(&stage.points()), Some(10.0));
    stage.uses("pynchy-family", 1, 25, 0);
    assert_eq!(cpu(&stage.then(vec![family()])), Some(25.0));
    // Started anew, under the same name and id: the kernel counts from zero.
    let again = container(
        "pynchy-family",
        AGENT,
        json!({"Status": "Up 2 seconds", "State": {"StartedAt": "2026-11-21T20:00:20Z"}}),
    );
    stage.uses("pynchy-family", 1, 26, 0);
    assert_eq!(cpu(&stage.then(vec![again.clone()])), Some(51.0), "even if it has used as much since");
    stage.uses("pynchy-family", 1, 2, 0);
    assert_eq!(cpu(&stage.then(vec![again])), Some(53.0), "a counter that fell began anew");
    let points = stage.then(vec![]);
    assert_eq!(cpu(&points), Some(53.0), "gone, and what it used was used");
    assert_eq!(fixture::value(&points, &MEMORY, "agent/family"), None);
    assert_eq!(fixture::value(&points, &RECENT_RESTARTS, "agent/family"), None);
    stage.uses("pynchy-family", 1, 4, 0);
    assert_eq!(cpu(&stage.then(vec![family()])), Some(57.0), "another container of the group");
}

#[test]
fn of_containers_whose_names_have_no_group_the_latest_are_remembered() {
    let mut stage = Stage::new(vec![]);
    stage.collector.names = Names::default().with_agents(&["claw-*".parse().unwrap()]);
    let claw = |number: u64| container(&format!("claw-{number}"), "claw", json!({"RestartCount": 1}));
    stage.then(vec![claw(0)]);
    let mut points = Points::default();
    for number in 1..=300 {
        points = stage.then(vec![claw(0), claw(number)]);
    }
    let kept = points.0.iter().filter(|point| point.fact.is(&RESTARTS)).count();
    assert_eq!(kept, 202, "two that are there, and 200 that have gone");
    let restarts = |number: u64| fixture::value(&points, &RESTARTS, &format!("agent/claw-{number}"));
    assert_eq!(
        [restarts(0), restarts(99), restarts(100), restarts(300)],
        [Some(Some(1.0)), None, Some(Some(1.0)), Some(Some(1.0))]
    );
}

#[test]
fn restarts_count_from_the_first_reading_on_and_are_recent_for_an_hour() {
    let started = |seconds: u64| format!("2026-11-21T20:00:{seconds:02}Z");
    let mut stage = Stage::new(vec![restarted("pynchy-family", 50, &started(0))]);
    let seen = |points: &Points| {
        let value = |fact| fixture::value(points, fact, "agent/family").flatten();
        (value(&RECENT_RESTARTS).unwrap(), value(&RESTARTS).unwrap())
    };
    assert_eq!(seen(&stage.points()), (0.0, 50.0));
    assert_eq!(seen(&stage.then(vec![restarted("pynchy-family", 54, &started(1))])), (4.0, 54.0));
    assert_eq!(seen(&stage.then(vec![restarted("pynchy-family", 56, &started(2))])), (6.0, 56.0));
    assert!(CHECKS[0].fact.is(&RECENT_RESTARTS) && CHECKS[0].bad.is_bad(6.0) && !CHECKS[0].bad.is_bad(5.0));
    // Somebody starts it: Docker counts from zero, and it restarts once more.
    assert_eq!(seen(&stage.then(vec![restarted("pynchy-family", 1, &started(3))])), (7.0, 57.0));
    // Another container, made since: all of its restarts are new.
    let both = vec![
        restarted("pynchy-family", 1, &started(3)),
        restarted("pynchy-mcp-x", 9, &started(3)),
        restarted("pynchy-family-1795307730123", 3, &started(4)),
    ];
    let points = stage.then(both);
    assert_eq!(seen(&points), (7.0, 57.0));
    assert_eq!(fixture::value(&points, &RECENT_RESTARTS, "scheduled/family"), Some(Some(3.0)));
    stage.pass(3600 - 45);
    assert_eq!(seen(&stage.points()), (3.0, 57.0), "four of them are an hour old");
    stage.pass(3600);
    assert_eq!(seen(&stage.points()), (0.0, 57.0));
}

#[test]
fn a_container_that_tells_nothing_of_restarts_makes_them_unknown() {
    let mut stage = Stage::new(vec![container(
        "pynchy-family",
        AGENT,
        json!({"RestartCount": null, "State": {"OOMKilled": null}}),
    )]);
    let points = stage.points();
    let value = |fact| fixture::value(&points, fact, "agent/family");
    assert_eq!((value(&RECENT_RESTARTS), value(&RECENT_OOM_KILLS)), (Some(None), Some(None)));
    assert_eq!((value(&RESTARTS), value(&OOM_KILLS)), (None, None));
}

#[test]
fn kills_for_memory_are_counted_once_and_inside_a_living_container_too() {
    let family = || container("pynchy-family", AGENT, json!({}));
    let mut stage = Stage::new(vec![family()]);
    let seen = |points: &Points| {
        let value = |fact| fixture::value(points, fact, "agent/family").flatten();
        (value(&RECENT_OOM_KILLS).unwrap(), value(&OOM_KILLS).unwrap())
    };
    stage.uses("pynchy-family", 1, 1, 0);
    assert_eq!(seen(&stage.points()), (0.0, 0.0));
    stage.uses("pynchy-family", 1, 1, 2);
    assert_eq!(seen(&stage.then(vec![family()])), (2.0, 2.0), "it lives on, without two of its processes");
    let section = fixture::json::<Containers>(&stage.look());
    assert_eq!(section["containers"][0]["oom_killed"], true);
    // It ends for the same reason: the engine's word counts what the kernel had counted.
    let dead = exited("pynchy-family", 137, json!({"OOMKilled": true}));
    assert_eq!(seen(&stage.then(vec![dead.clone()])), (2.0, 2.0));
    let again = exited("pynchy-family", 137, json!({"OOMKilled": true, "StartedAt": "2026-11-21T20:00:20Z"}));
    let mut again = again;
    again["Status"] = "Exited (137) 3 seconds ago".into();
    assert_eq!(seen(&stage.then(vec![again])), (3.0, 3.0));
    stage.pass(3600);
    assert_eq!(seen(&stage.points()), (0.0, 3.0));
}

#[test]
fn what_was_killed_long_before_we_looked_is_not_news() {
    for (finished, recent) in [("2026-11-18T20:00:00Z", 0.0), ("2026-11-21T19:30:00Z", 1.0)] {
        let dead = exited("pynchy-family", 137, json!({"OOMKilled": true, "FinishedAt": finished}));
        let points = Stage::new(vec![dead]).points();
        assert_eq!(fixture::value(&points, &RECENT_OOM_KILLS, "agent/family"), Some(Some(recent)), "{finished}");
        assert_eq!(fixture::value(&points, &OOM_KILLS, "agent/family"), Some(Some(1.0)));
    }
}

#[test]
fn a_container_whose_group_is_not_active_for_long_is_leaked() {
    let names = ["pynchy-family", "pynchy-slack-C0", "pynchy-ops-1795307730123", "pynchy-litellm"];
    let mut stage = Stage::new(
        names.map(|name| container(name, if name == "pynchy-litellm" { "x" } else { AGENT }, json!({}))).to_vec(),
    );
    let leaks = |section: &Section| {
        let points = fixture::points::<Containers>(section);
        ["family", "slack-C0", "ops", "pynchy-litellm"].map(|group| fixture::value(&points, &LEAKED, group))
    };
    assert_eq!(leaks(&stage.judge(None)), [None; 4]);
    let active: Option<&[&str]> = Some(&["slack:C0"]);
    let section = stage.judge(active);
    assert_eq!(leaks(&section), [Some(Some(0.0)), Some(Some(0.0)), Some(Some(0.0)), None]);
    assert_eq!(section.leaked, Some(0));
    stage.pass(3599);
    assert_eq!(stage.judge(active).leaked, Some(0));
    // The host does not answer: neither leaked nor not.
    stage.pass(1);
    let section = stage.judge(None);
    assert_eq!((section.leaked, leaks(&section)), (None, [Some(None), Some(None), Some(None), None]));
    stage.pass(1);
    let section = stage.judge(active);
    assert_eq!(leaks(&section), [Some(Some(1.0)), Some(Some(0.0)), Some(Some(1.0)), None]);
    assert_eq!(
        (section.leaked, section.containers[0].leaked, section.containers[3].leaked),
        (Some(2), Some(true), None)
    );
    // Active once: the time begins anew.
    let active: Option<&[&str]> = Some(&["family", "ops", "slack:C0"]);
    assert_eq!(stage.judge(active).leaked, Some(0));
    assert_eq!(stage.judge(Some(&[])).leaked, Some(0));
    stage.pass(3600);
    assert_eq!(stage.judge(Some(&[])).leaked, Some(3));
    // One that is started again under its name is another.
    stage.engine.have(vec![exited("pynchy-family", 0, json!({}))]);
    stage.pass(400);
    let section = stage.judge(Some(&[]));
    assert_eq!((section.leaked, section.containers[0].leaked, leaks(&section)[0]), (Some(0), None, None));
}

#[test]
fn the_queue_is_overheard_and_never_asked_for() {
    let (api, engine) = (
        Api::healthy(),
        Fake::with(["family", "ops"].map(|group| container(&format!("pynchy-{group}"), AGENT, json!({}))).to_vec()),
    );
    let host = Host {
        url: Some(api.url.as_str().into()),
        containers: Some(Names::pynchy()),
        status_poll: Some(Duration::from_secs(60)),
        ..fixture::host(None)
    };
    let sources = Sources { docker: Docker::at(engine.socket()), ..Sources::default() };
    let config = Config { leaked_after: Span(Duration::from_secs(30)), ..Config::default() };
    let mut containers = Containers::new(config, &host, &sources).unwrap().unwrap();
    let mut queue = Queue::new(queue::Config {}, &host, &sources).unwrap().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut leaked = |seconds| {
        let section = runtime.block_on(containers.collect(now().plus(Duration::from_secs(seconds)))).unwrap();
        section.containers.iter().map(|row| row.leaked).collect::<Vec<_>>()
    };
    let mut poll = |seconds| runtime.block_on(queue.collect(now().plus(Duration::from_secs(seconds)))).is_ok();
    assert_eq!(leaked(0), [None, None], "nobody has asked");
    assert_eq!(api.asked("/status"), 0);
    assert!(poll(0));
    assert_eq!(leaked(15), [Some(false), Some(false)]);
    assert_eq!(leaked(45), [Some(false), Some(true)], "not active for half a minute");
    assert_eq!(leaked(150), [Some(false), Some(true)]);
    assert_eq!(leaked(151), [None, None], "too old to be true");
    assert!(poll(160));
    assert_eq!(leaked(160), [Some(false), Some(true)]);
    assert_eq!(api.asked("/status"), 2);
    // A group of which the host says nothing may be at work.
    api.json(
        "/status",
        json!({"queue": {"active_containers": 1, "max_concurrent": 5, "groups_waiting": 0,
        "per_group": {"family": {"active": null}, "ops": {"active": false}}}}),
    );
    assert!(poll(220));
    assert_eq!(leaked(220), [None, None]);
    api.say("/status", Say::Status(500));
    assert!(!poll(280));
    assert_eq!(leaked(280), [None, None]);
    let host = Host { status_poll: None, ..host };
    let mut containers = Containers::new(Config::default(), &host, &sources).unwrap().unwrap();
    assert_eq!(runtime.block_on(containers.collect(now())).unwrap().leaked, None);
}

#[test]
fn the_queue_of_another_host_is_overheard_where_an_endpoint_says_who_is_active() {
    let names = ["claw-family-1795307730123", "claw-a.b-1795307730123", "claw-ops-1795307730123", "bot-1"];
    let (api, engine) = (Api::new(), Fake::with(names.map(|name| container(name, "claw", json!({}))).to_vec()));
    let endpoint = |queue: &str| {
        let text = format!("name = \"own\"\nurl = \"{}/state\"\nqueue = {{ {queue} }}", api.url);
        toml::from_str::<crate::host::generic::Endpoint>(&text).unwrap()
    };
    let mut host = fixture::host(None);
    host.profile = crate::host::Profile::Generic;
    host.listed.http = vec![endpoint("active_groups = \"/groups\", groups_waiting = \"/waiting\"")];
    let sources = Sources { docker: Docker::at(engine.socket()), ..Sources::default() };
    let config = "names = [\"claw-{group}-{epoch}\", \"bot-*\"]\nleaked_after = \"30s\"";
    let mut containers = Containers::new(toml::from_str(config).unwrap(), &host, &sources).unwrap().unwrap();
    let mut queue = Queue::new(queue::Config {}, &host, &sources).unwrap().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut seconds = 0;
    let mut leaked = |groups: Value| {
        api.json("/state", json!({"groups": groups, "waiting": 0}));
        seconds += 60;
        let now = now().plus(Duration::from_secs(seconds));
        runtime.block_on(queue.collect(now)).unwrap();
        let section = runtime.block_on(containers.collect(now)).unwrap();
        assert_eq!(section.containers[3].leaked, None, "its name has no group");
        section.containers[..3].iter().map(|row| row.leaked).collect::<Vec<_>>()
    };
    assert_eq!(leaked(json!(["family", "a.b"])), [Some(false), Some(false), Some(false)]);
    assert_eq!(leaked(json!(["family", "a.b"])), [Some(false), Some(false), Some(true)]);
    assert_eq!(leaked(json!({"family": false, "a.b": {"active": true}})), [Some(false), Some(false), Some(true)]);
    assert_eq!(leaked(json!({"family": false, "a.b": {"active": true}})), [Some(true), Some(false), Some(true)]);
    for other in
        [json!({"family": null}), json!(["family", 1]), json!("family"), json!(null), json!({"family": {"busy": true}})]
    {
        assert_eq!(leaked(other.clone()), [None; 3], "{other}");
    }
    host.listed.http = vec![endpoint("groups_waiting = \"/waiting\"")];
    let mut containers = Containers::new(toml::from_str(config).unwrap(), &host, &sources).unwrap().unwrap();
    assert_eq!(runtime.block_on(containers.collect(now())).unwrap().leaked, None);
}

#[test]
fn other_hosts_are_looked_after_by_names_that_are_configured() {
    let sources = Sources::default();
    let host = fixture::host(None);
    assert!(Containers::new(Config::default(), &host, &sources).unwrap().is_none());
    let config: Config = toml::from_str("names = [\"nanoclaw-{group}-{epoch}\"]\nleaked_after = \"10m\"").unwrap();
    let fake = Fake::with(vec![container("nanoclaw-main-1795307730123", "nanoclaw-agent", json!({}))]);
    let sources = Sources { docker: Docker::at(fake.socket()), ..Sources::default() };
    let mut containers = Containers::new(config, &host, &sources).unwrap().unwrap();
    let section = wait(containers.collect(now())).unwrap();
    assert_eq!((&*section.containers[0].group, section.containers[0].role), ("main", Role::Agent));
    for bad in ["names = [\"*\"]", "names = \"x\"", "leaked_after = 3", "name = []"] {
        assert!(toml::from_str::<Config>(bad).is_err(), "{bad}");
    }
}
