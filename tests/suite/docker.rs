//! Containers of a real Docker engine, as they start, pause, die, loop and go; and the engine itself, as it stops, hangs,
//! drags and refuses. Each must be seen within two readings, and nothing may be called gone that is not.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use agenthost_exporter::collect::{self, Collect};
use agenthost_exporter::sample::{Cause, Failure, Now, Sample};
use agenthost_exporter::source::Sources;
use agenthost_exporter::source::docker::{Docker, Error, State};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::api::{Api, Say};
use crate::between::Between;
use crate::binary::{FAST, Sidecar, error, exporter, exporter_without_rights};
use crate::dockerd::{AGENT, Engine};
use crate::fake_docker::{self, Fake, container};
use crate::fixture::Root;
use crate::live::successes;

fn engine() -> Option<Engine> {
    match Engine::start() {
        Ok(engine) => Some(engine),
        Err(why) => {
            crate::skipped("a real Docker engine", &why);
            None
        }
    }
}

/// The collectors of one sidecar, which share what the engine answers. Readings are fifteen seconds apart for them.
struct Watch {
    docker: Docker,
    containers: Box<dyn Collect>,
    mcp: Box<dyn Collect>,
    runtime: tokio::runtime::Runtime,
    now: Now,
}

impl Watch {
    fn new(socket: &Path) -> Watch {
        let (root, docker) = (Root::with_history(Now::read().wall), Docker::at(socket));
        let sources = Sources { docker: docker.clone(), ..Sources::default() };
        let build = |name| {
            let subsystem = collect::ALL.iter().find(|one| one.name == name).unwrap();
            (subsystem.plan)(None).unwrap()(&root.host(), &sources).unwrap().unwrap()
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Watch { containers: build("containers"), mcp: build("mcp"), docker, runtime, now: Now::read() }
    }

    fn pass(&mut self) {
        let wall = Now::read().wall;
        self.now = Now { wall, ..self.now.plus(Duration::from_secs(15)) };
    }

    fn try_look(&mut self) -> Result<Sample, Failure> {
        self.pass();
        let limit = Duration::from_secs(10);
        self.containers.run(self.now, limit, self.runtime.handle()).map_err(Failure::from)
    }

    fn look(&mut self) -> Value {
        json(&self.try_look().unwrap())
    }

    fn servers(&mut self) -> Value {
        self.pass();
        json(&self.mcp.run(self.now, Duration::from_secs(10), self.runtime.handle()).unwrap())
    }

    fn inspect(&mut self, name: &str) -> Result<Option<State>, Error> {
        self.pass();
        let found = self.runtime.block_on(self.docker.inspect(name, self.now))?;
        Ok(found.map(|container| container.state))
    }

    /// The container's row in one of two readings, as it must be; null stands for none.
    fn sees(&mut self, name: &str, expected: Value) -> Value {
        let mut row = Value::Null;
        for _ in 0..2 {
            row = row_of(&self.look(), name);
            let same = expected.as_object().map(|keys| keys.iter().all(|(key, value)| row[key] == *value));
            if same.unwrap_or(row.is_null()) {
                return row;
            }
        }
        panic!("{name} should be {expected}, and is {row:#}");
    }

    fn value(&mut self, fact: &str, subject: &str) -> Option<f64> {
        let sample = self.try_look().unwrap();
        let same =
            |point: &&agenthost_exporter::sample::Point| point.fact.prometheus == fact && &*point.subject() == subject;
        sample.points.0.iter().find(same)?.value
    }
}

fn json(sample: &Sample) -> Value {
    serde_json::from_str(sample.section.get()).unwrap()
}

fn row_of(section: &Value, name: &str) -> Value {
    let rows = section["containers"].as_array().unwrap();
    rows.iter().find(|row| row["name"] == name).cloned().unwrap_or_default()
}

/// Waits until the engine itself says so of a container.
fn until(engine: &Engine, name: &str, field: &str, wanted: impl Fn(&str) -> bool) {
    let begun = Instant::now();
    let mut said = String::new();
    while begun.elapsed() < Duration::from_secs(30) {
        said = engine.docker(&format!("inspect --format '{{{{{field}}}}}' {name}"));
        if wanted(&said) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("{field} of {name} stays {said}");
}

const GROWS: &str = "/bin/sh -c 'x=a; while true; do x=$x$x$x$x; done'";
const CHILD_GROWS: &str = "/bin/sh -c '/bin/busybox tail /dev/zero; /bin/busybox sleep 100000'";

#[test]
fn containers_are_seen_as_they_start_pause_die_loop_and_go() {
    let Some(engine) = engine() else { return };
    let mut watch = Watch::new(&engine.socket());
    let json = watch.look();
    assert_eq!((&json["total"], &json["running"]), (&json!(0), &json!(0)));
    engine.docker(&format!("run -d --network none --restart always --name pynchy-loop {AGENT} /bin/sh -c 'exit 3'"));

    engine.sleeper("pynchy-family", AGENT);
    engine.sleeper("pynchy-ops-1795307730123", AGENT);
    engine.sleeper("somebody-elses", "web:test");
    let row = watch.sees("pynchy-family", json!({"state": "running", "role": "agent", "group": "family"}));
    for (key, value) in [("exit_code", json!(null)), ("oom_killed", json!(false)), ("restart_count", json!(0))] {
        assert_eq!(row[key], value, "{row:#}");
    }
    assert!(row["age_seconds"].as_u64().is_some_and(|age| age < 60), "{row:#}");
    assert!(row["memory_bytes"].as_u64().is_some_and(|bytes| (1..50_000_000).contains(&bytes)), "{row:#}");
    assert!(row["cpu_seconds"].as_f64().is_some_and(|seconds| seconds > 0.0 && seconds < 10.0), "{row:#}");
    watch.sees("pynchy-ops-1795307730123", json!({"state": "running", "role": "scheduled", "group": "ops"}));
    watch.sees("somebody-elses", json!(null));

    engine.docker("pause pynchy-family");
    watch.sees("pynchy-family", json!({"state": "paused", "exit_code": null}));
    engine.docker("unpause pynchy-family");
    watch.sees("pynchy-family", json!({"state": "running"}));
    let used = watch.value("agenthost_container_cpu_seconds_total", "agent/family").unwrap();
    engine.docker("kill pynchy-family");
    until(&engine, "pynchy-family", ".State.Status", |state| state == "exited");
    let row = watch.sees("pynchy-family", json!({"state": "exited", "exit_code": 137, "oom_killed": false}));
    assert!(row["finished_at"].is_string() && row["age_seconds"].is_null() && row["memory_bytes"].is_null(), "{row:#}");
    assert_eq!(watch.value("agenthost_containers_exited", "agent/137"), Some(1.0));
    engine.docker("start pynchy-family");
    watch.sees("pynchy-family", json!({"state": "running", "exit_code": null, "restart_count": 0}));
    assert!(watch.value("agenthost_container_cpu_seconds_total", "agent/family") >= Some(used));

    engine.docker(&format!("run -d --network none --memory 16m --name pynchy-big {AGENT} {GROWS}"));
    engine.docker("wait pynchy-big");
    watch.sees("pynchy-big", json!({"state": "exited", "exit_code": 137, "oom_killed": true}));
    assert_eq!(watch.value("agenthost_container_recent_oom_kills", "agent/big"), Some(1.0));
    assert_eq!(watch.value("agenthost_container_recent_oom_kills", "agent/family"), Some(0.0));
    engine.docker(&format!("run -d --network none --memory 16m --name pynchy-parent {AGENT} {CHILD_GROWS}"));
    let begun = Instant::now();
    while row_of(&watch.look(), "pynchy-parent")["oom_killed"] != true {
        assert!(begun.elapsed() < Duration::from_secs(30), "the kill of a process in it stays unseen");
        std::thread::sleep(Duration::from_millis(50));
    }
    watch.sees("pynchy-parent", json!({"state": "running", "oom_killed": true}));

    engine.docker(&format!("create --network none --name pynchy-made {AGENT} /bin/sh"));
    watch.sees("pynchy-made", json!({"state": "created", "exit_code": null, "started_at": null}));
    engine.try_docker(&format!("run -d --network none --name pynchy-nothing {AGENT} /bin/nothing"));
    watch.sees("pynchy-nothing", json!({"state": "created", "exit_code": 127}));

    until(&engine, "pynchy-loop", ".RestartCount", |count| count.parse::<u64>().unwrap() > 6);
    let row = watch.sees("pynchy-loop", json!({"role": "agent"}));
    assert!(row["restart_count"].as_u64().is_some_and(|count| count > 6), "{row:#}");
    assert!(["restarting", "running"].contains(&row["state"].as_str().unwrap()), "{row:#}");
    assert!(watch.value("agenthost_container_recent_restarts", "agent/loop") > Some(5.0));
    engine.docker("rm -f pynchy-loop");
    watch.sees("pynchy-loop", json!(null));
    assert!(watch.value("agenthost_container_restarts_total", "agent/loop") > Some(5.0), "a counter stays");
    assert_eq!(watch.value("agenthost_container_recent_restarts", "agent/loop"), None);
}

#[test]
fn roles_outlive_their_images_and_nothing_is_gone_that_is_not() {
    let Some(engine) = engine() else { return };
    let mut watch = Watch::new(&engine.socket());
    assert_eq!(watch.inspect("pynchy-litellm"), Ok(None), "a good answer has none");
    engine.sleeper("pynchy-litellm", "litellm:test");
    engine.sleeper("pynchy-mcp-odd", AGENT);
    engine.sleeper("pynchy-mcp-web_0a1b2c", "web:test");
    assert_eq!(watch.inspect("pynchy-litellm"), Ok(Some(State::Running)));
    assert_eq!(watch.inspect("pynchy-lite"), Ok(None));
    watch.sees("pynchy-litellm", json!({"role": "gateway"}));
    watch.sees("pynchy-mcp-odd", json!({"role": "agent", "group": "mcp-odd"}));
    assert_eq!(watch.servers()["web"]["connected"], true);
    assert_eq!(watch.servers().as_object().unwrap().len(), 1);
    // The tag goes to a new image: the list then tells the old one by its sum.
    engine.import(AGENT);
    assert!(engine.docker("ps -a --no-trunc --format {{.Image}}").contains("sha256:"));
    Watch::new(&engine.socket()).sees("pynchy-mcp-odd", json!({"role": "agent", "group": "mcp-odd"}));

    engine.docker("stop -t 0 pynchy-mcp-web_0a1b2c");
    let web = watch.servers()["web"].clone();
    assert_eq!((&web["connected"], &web["status"]), (&json!(false), &json!("exited")));
    engine.docker("rm pynchy-mcp-web_0a1b2c");
    assert_eq!(watch.servers(), json!({}));
    engine.docker("kill pynchy-litellm");
    until(&engine, "pynchy-litellm", ".State.Status", |state| state == "exited");
    assert_eq!(watch.inspect("pynchy-litellm"), Ok(Some(State::Exited)));
    engine.docker("rm pynchy-litellm");
    assert_eq!(watch.inspect("pynchy-litellm"), Ok(None));
    watch.sees("pynchy-litellm", json!(null));
}

#[test]
fn an_engine_that_hangs_stops_or_refuses_has_lost_no_container() {
    let Some(mut engine) = engine() else { return };
    engine.sleeper("pynchy-family", AGENT);
    let mut watch = Watch::new(&engine.socket());
    let is_unknown = |watch: &mut Watch, says: &str, cause: Cause| {
        let failure = watch.try_look().unwrap_err();
        assert!(failure.error.contains(says) && failure.cause == cause, "{says}: {failure:?}");
        assert!(watch.inspect("pynchy-family").is_err(), "{says}: it is not known, and not gone");
    };
    watch.sees("pynchy-family", json!({"state": "running"}));

    engine.signal(Signal::STOP);
    let begun = Instant::now();
    is_unknown(&mut watch, "no answer from", Cause::Unanswered);
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    engine.signal(Signal::CONT);
    watch.sees("pynchy-family", json!({"state": "running"}));

    // The folder lets everybody in; the socket itself does not.
    std::fs::set_permissions(engine.folder(), std::fs::Permissions::from_mode(0o755)).unwrap();
    as_nobody(|| is_unknown(&mut watch, "permission denied; run in the group", Cause::Denied));
    watch.sees("pynchy-family", json!({"state": "running"}));

    engine.stop();
    let _ = std::fs::remove_file(engine.socket());
    is_unknown(&mut watch, "no socket", Cause::Unanswered);
    // One that was killed leaves its socket.
    drop(std::os::unix::net::UnixListener::bind(engine.socket()).unwrap());
    is_unknown(&mut watch, "nobody listens at", Cause::Unanswered);
    std::fs::remove_file(engine.socket()).unwrap();
    engine.start_again();
    watch.sees("pynchy-family", json!({"state": "exited", "exit_code": 137}));
}

#[test]
fn an_engine_that_drags_is_waited_for_and_one_that_drags_on_is_unknown() {
    let Some(engine) = engine() else { return };
    engine.sleeper("pynchy-family", AGENT);
    engine.sleeper("pynchy-ops", AGENT);
    let ops: &str = engine.docker("inspect --format '{{.Id}}' pynchy-ops").leak();
    let held = Arc::new(Mutex::new(("", Duration::ZERO)));
    let holding = held.clone();
    let between = Between::new(&engine, move |head| {
        let (part, wait) = *holding.lock().unwrap();
        if head.contains(part) { wait } else { Duration::ZERO }
    });
    let holds = |part, seconds| *held.lock().unwrap() = (part, Duration::from_secs(seconds));
    let mut watch = Watch::new(&between.socket());
    holds("/containers/json", 2);
    watch.sees("pynchy-family", json!({"state": "running", "restart_count": 0}));
    holds("/containers/json", 6);
    let begun = Instant::now();
    let failure = watch.try_look().unwrap_err();
    assert!(failure.error.contains("no answer from") && failure.cause == Cause::Unanswered, "{failure:?}");
    assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
    assert!(watch.inspect("pynchy-family").is_err(), "it is not known, and not gone");
    // One container alone does not answer, as when the engine waits for it.
    holds(ops, 60);
    let mut watch = Watch::new(&between.socket());
    let begun = Instant::now();
    let section = watch.look();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    let (family, ops) = (row_of(&section, "pynchy-family"), row_of(&section, "pynchy-ops"));
    assert_eq!((&family["restart_count"], &family["error"]), (&json!(0), &json!(null)));
    assert_eq!(
        (&ops["state"], &ops["role"], &ops["restart_count"]),
        (&json!("running"), &json!("agent"), &json!(null))
    );
    assert!(ops["error"].as_str().unwrap().contains("no answer from"), "{ops:#}");
    assert!(ops["memory_bytes"].as_u64() > Some(0), "the kernel tells of it all the same");
    assert_eq!(watch.inspect("pynchy-ops"), Ok(Some(State::Running)));
    holds("", 0);
    watch.sees("pynchy-ops", json!({"restart_count": 0, "error": null}));
}

#[test]
fn a_container_that_works_for_nobody_fails_its_check_until_its_group_is_active() {
    let Some(engine) = engine() else { return };
    let (root, api) = (Root::with_history(Now::read().wall), Api::healthy());
    let queue = |ops: Option<bool>| {
        let slot = |active| json!({"active": active, "is_task": false, "pending_messages": false, "pending_tasks": 0});
        api.json(
            "/status",
            json!({"service": {"status": "ok"}, "channels": {}, "queue": {"active_containers": 1, "max_concurrent": 5,
                "groups_waiting": 0, "per_group": {"family": slot(Some(true)), "ops": slot(ops)}}}),
        );
    };
    queue(Some(true));
    engine.sleeper("pynchy-family", AGENT);
    engine.sleeper("pynchy-ops", AGENT);
    engine.sleeper("pynchy-lost", AGENT);
    engine.sleeper("pynchy-mcp-web", "web:test");
    let config = format!(
        "[host]\nurl = \"{}\"\n[docker]\nsocket = \"{}\"\n[checks.container_leaked]\nfail_for = \"1s\"\n\
         recover_for = \"1s\"\n[collect.containers]\ninterval = \"1s\"\nleaked_after = \"3s\"\n",
        api.url,
        engine.socket().display()
    );
    let sidecar = Sidecar::start(root.path(), &config);
    let state = |status: &Value, group: &str| {
        let checks = status["health"]["checks"].as_array().unwrap();
        let check = checks.iter().find(|one| one["check"] == "container_leaked" && one["subject"] == group);
        check.map(|check| check["state"].as_str().unwrap().to_owned())
    };
    let is = |group: &'static str, wanted: &'static str| {
        move |status: &Value| state(status, group).as_deref() == Some(wanted)
    };
    let status = sidecar.until("lost is leaked", is("lost", "failed"));
    assert_eq!((state(&status, "family").as_deref(), state(&status, "ops").as_deref()), (Some("ok"), Some("ok")));
    assert_eq!((state(&status, "web"), &status["containers"]["leaked"]), (None, &json!(1)));
    assert_eq!(status["health"]["overall"], "degraded");
    queue(Some(false));
    sidecar.until("ops is leaked", is("ops", "failed"));
    assert!(sidecar.get("/metrics").1.contains("agenthost_container_leaked{group=\"ops\"} 1\n"));
    // A host that does not say it, or is silent, has made nobody active and nobody leaked.
    queue(None);
    let unknown = |status: &Value| {
        status["containers"]["leaked"].is_null() && row_of(&status["containers"], "pynchy-ops")["leaked"].is_null()
    };
    sidecar.until("not known", unknown);
    queue(Some(true));
    let status = sidecar.until("ops works", is("ops", "ok"));
    assert_eq!(state(&status, "lost").as_deref(), Some("failed"));
    engine.docker("rm -f pynchy-lost");
    sidecar.until("lost is gone", |status| state(status, "lost").is_none());
    api.say("/status", Say::Status(500));
    assert_eq!(state(&sidecar.status(), "family").as_deref(), Some("ok"));
}

/// nanoclaw's agents: one that computes, and one that waits.
#[test]
fn containers_of_nanoclaw_are_workers() {
    let Some(engine) = engine() else { return };
    let (busy, idle) = ("nanoclaw-main-1795307730123", "nanoclaw-family-1795307730456");
    let burn = "'echo sk-secret; while true; do :; done'";
    engine
        .docker(&format!("run -d --network none --stop-timeout 1 --cpus 0.3 --name {busy} {AGENT} /bin/sh -c {burn}"));
    engine.sleeper(idle, AGENT);
    engine.sleeper("somebody-elses", AGENT);
    let (root, docker) = (Root::with_history(Now::read().wall), Docker::at(engine.socket()));
    let sources = Sources { docker, ..Sources::default() };
    let presets = toml::de::DeTable::parse("presets = [\"nanoclaw\"]").unwrap();
    let workers = collect::ALL.iter().find(|one| one.name == "workers").unwrap();
    let mut workers = (workers.plan)(Some(presets)).unwrap()(&root.host(), &sources).unwrap().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut look = |seconds| {
        let now = Now { wall: Now::read().wall, ..Now::read().plus(Duration::from_secs(seconds)) };
        json(&workers.run(now, Duration::from_secs(10), runtime.handle()).unwrap())
    };
    look(0);
    std::thread::sleep(Duration::from_secs(2));
    let section = look(15);
    let rows = section["processes"].as_array().unwrap();
    let of = |name: &str| rows.iter().find(|row| row["container"] == name).unwrap();
    assert_eq!(rows.len(), 2, "{section:#}");
    assert_eq!((&of(busy)["class"], &of(idle)["class"]), (&json!("busy"), &json!("idle")), "{section:#}");
    for (name, pid) in
        [busy, idle].map(|name| (name, engine.docker(&format!("inspect --format '{{{{.State.Pid}}}}' {name}"))))
    {
        let row = of(name);
        assert_eq!((&row["kind"], row["pid"].to_string(), &row["children"]), (&json!("nanoclaw"), pid, &json!(0)));
        assert!(row["rss_bytes"].as_u64().is_some_and(|bytes| (1..50_000_000).contains(&bytes)), "{row:#}");
        assert!(
            row["threads"] == 1 && row["fds"].as_u64() > Some(0) && row["uptime_seconds"].as_u64() < Some(60),
            "{row:#}"
        );
    }
    assert!(!section.to_string().contains("sk-secret"));
    engine.docker(&format!("kill {busy}"));
    until(&engine, busy, ".State.Status", |state| state == "exited");
    let section = look(30);
    let kind = &section["kinds"]["nanoclaw"];
    assert_eq!((&section["totals"]["alive"], &kind["exits_total"]), (&json!(1), &json!(1)), "{section:#}");
}

#[test]
fn what_stands_in_an_environment_or_a_command_reaches_no_output_and_no_log() {
    let Some(engine) = engine() else { return };
    let root = Root::with_history(Now::read().wall);
    engine.docker(&format!(
        "run -d --network none --name pynchy-family --env KEY=sk-secret --label key=sk-secret {AGENT} /bin/sh -c \
         'sleep 100000; echo sk-secret'"
    ));
    let config = root.path().join("x.toml");
    std::fs::write(&config, format!("[docker]\nsocket = \"{}\"\n", engine.socket().display())).unwrap();
    let said = exporter()
        .args(["--once", "--log.level=debug"])
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--host.root={}", root.path().display()))
        .output()
        .unwrap();
    let (shown, log) = (String::from_utf8(said.stdout).unwrap(), String::from_utf8(said.stderr).unwrap());
    let status: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(row_of(&status["containers"], "pynchy-family")["restart_count"], 0);
    assert!(!shown.contains("sk-secret") && !log.contains("sk-secret"), "{shown}{log}");
}

/// On a thread without rights, which ends with it.
fn as_nobody(act: impl FnOnce() + Send) {
    std::thread::scope(|threads| {
        let thread = threads.spawn(|| {
            rustix::thread::set_thread_res_uid(None, rustix::thread::Uid::from_raw(65534), None).unwrap();
            act();
        });
        thread.join().unwrap();
    });
}

#[test]
fn the_program_sees_a_container_come_and_go_and_outlives_the_engine() {
    let Some(mut engine) = engine() else { return };
    let root = Root::with_history(Now::read().wall);
    let paces = "[collect.containers]\ninterval = \"1s\"\n[collect.mcp]\ninterval = \"1s\"\n";
    let sidecar =
        Sidecar::start(root.path(), &format!("{paces}[docker]\nsocket = \"{}\"\n", engine.socket().display()));
    let status = sidecar.until("containers", |status| status["collectors"]["containers"]["up"] == true);
    assert_eq!(status["containers"]["total"], 0);
    let within = |since: Instant| assert!(since.elapsed() < Duration::from_secs(8), "took {:?}", since.elapsed());
    engine.sleeper("pynchy-family", AGENT);
    engine.sleeper("pynchy-mcp-web", "web:test");
    let begun = Instant::now();
    sidecar.until("running", |status| row_of(&status["containers"], "pynchy-family")["state"] == "running");
    sidecar.until("connected", |status| status["mcp"]["web"]["connected"] == true);
    within(begun);
    let metrics = sidecar.get("/metrics").1;
    assert!(metrics.contains("agenthost_containers{role=\"agent\",state=\"running\"} 1\n"), "{metrics}");
    assert!(metrics.contains("agenthost_mcp_connected{server=\"web\"} 1\n"), "{metrics}");

    let before = engine.calls().len();
    std::thread::sleep(Duration::from_secs(3));
    let calls = engine.calls().split_off(before);
    assert!(calls.len() >= 3 && calls.iter().all(|call| call.starts_with("GET /containers/")), "{calls:?}");

    engine.signal(Signal::STOP);
    let down = |status: &Value| {
        status["collectors"]["containers"]["up"] == false && status["collectors"]["mcp"]["up"] == false
    };
    let status = sidecar.until("hung", down);
    let error = status["collectors"]["containers"]["error"].as_str().unwrap();
    assert!(error.contains("no answer from"), "{error}");
    let runs = |status: &Value| status["collectors"]["tasks"]["last_success_at"].clone();
    sidecar.until("others go on", |later| runs(later) != runs(&status) && down(later));
    engine.signal(Signal::CONT);
    sidecar.until("back", |status| row_of(&status["containers"], "pynchy-family")["state"] == "running");
    engine.docker("rm -f pynchy-family pynchy-mcp-web");
    sidecar.until("gone", |status| status["containers"]["total"] == 0 && status["mcp"] == json!({}));

    engine.stop();
    let _ = std::fs::remove_file(engine.socket());
    let said = |status: &Value, words: &str| {
        let said = |name: &str| status["collectors"][name]["error"].as_str().unwrap_or_default().contains(words);
        said("containers") && said("mcp")
    };
    sidecar.until("no socket", |status| said(status, "no socket"));
    drop(UnixListener::bind(engine.socket()).unwrap());
    sidecar.until("refused", |status| said(status, "nobody listens at"));
    assert!(!sidecar.get("/status").1.contains("not_found"));
}

/// A LiteLLM that answers, and where its two containers are looked for. Its checks fail by the first bad look but one.
fn gateway(api: &Api, socket: &Path) -> String {
    api.json("/health/liveliness", json!("I'm alive!"));
    api.json("/health/readiness", json!({"status": "healthy", "db": "connected"}));
    format!(
        "[host]\nurl = \"{url}\"\n[docker]\nsocket = \"{socket}\"\n[collect.exporter]\ninterval = \"1s\"\n\
         [collect.containers]\ninterval = \"1s\"\n[collect.mcp]\ninterval = \"1s\"\n\
         [collect.gateway]\nkind = \"litellm\"\nurl = \"{url}\"\ninterval = \"1s\"\ntimeout = \"2s\"\n\
         containers = {{ gateway = \"pynchy-litellm\", postgres = \"pynchy-litellm-db\" }}\n\
         [checks.gateway_container_running]\nfail_for = \"1s\"\nrecover_for = \"1s\"\nunknown_for = \"1s\"\n",
        url = api.url,
        socket = socket.display()
    )
}

/// State and cause of the check on one of the gateway's containers.
fn verdict(status: &Value, container: &str) -> Option<(String, Value)> {
    let checks = status["health"]["checks"].as_array().unwrap();
    let is = |one: &&Value| one["check"] == "gateway_container_running" && one["subject"] == container;
    checks.iter().find(is).map(|one| (one["state"].as_str().unwrap().to_owned(), one["unknown_cause"].clone()))
}

#[test]
fn containers_of_a_gateway_are_seen_as_they_run_pause_loop_end_and_go() {
    let Some(engine) = engine() else { return };
    let (root, api) = (Root::with_history(Now::read().wall), Api::healthy());
    let sidecar = Sidecar::start(root.path(), &gateway(&api, &engine.socket()));
    let is = |state: &'static str| move |status: &Value| status["gateway"]["litellm_container"] == state;
    let running = |sidecar: &Sidecar, container: &str, value: u8| {
        let line = format!("agenthost_gateway_container_running{{container=\"{container}\"}} {value}\n");
        assert!(sidecar.get("/metrics").1.contains(&line), "{line}");
    };
    let status = sidecar.until_patiently("not there", is("not_found"));
    assert_eq!(status["gateway"]["postgres_container"], "not_found", "a good answer has none");
    engine.sleeper("pynchy-litellm", "litellm:test");
    engine.sleeper("pynchy-litellm-db", "web:test");
    let status = sidecar.until_patiently("both run", |status| {
        is("running")(status) && status["gateway"]["postgres_container"] == "running"
    });
    let told = &status["gateway"]["containers"]["pynchy-litellm"];
    for (key, value) in [("restarts", json!(0)), ("oom_killed", json!(false)), ("exit_code", json!(null))] {
        assert_eq!(told[key], value, "{told:#}");
    }
    sidecar.until_patiently("ready", |status| status["health"]["ready"] == true);
    running(&sidecar, "pynchy-litellm", 1);

    engine.docker("pause pynchy-litellm");
    sidecar.until_patiently("paused", is("paused"));
    running(&sidecar, "pynchy-litellm", 0);
    running(&sidecar, "pynchy-litellm-db", 1);
    let failed = |status: &Value| verdict(status, "pynchy-litellm").is_some_and(|(state, _)| state == "failed");
    let status = sidecar.until_patiently("failed", failed);
    assert_eq!((&status["health"]["ready"], &status["gateway"]["up"]), (&json!(false), &json!(true)));
    assert_eq!(verdict(&status, "pynchy-litellm-db").unwrap().0, "ok");
    engine.docker("unpause pynchy-litellm");
    sidecar.until_patiently("ready again", |status| is("running")(status) && status["health"]["ready"] == true);

    engine.docker("kill pynchy-litellm");
    let status = sidecar.until_patiently("exited", is("exited"));
    assert_eq!(status["gateway"]["containers"]["pynchy-litellm"]["exit_code"], 137);
    engine.docker("rm pynchy-litellm");
    sidecar.until_patiently("gone", is("not_found"));
    let looping = "run -d --network none --restart always --name pynchy-litellm litellm:test /bin/sh -c 'exit 3'";
    engine.docker(looping);
    let status = sidecar.until_patiently("restarting", is("restarting"));
    assert!(status["gateway"]["containers"]["pynchy-litellm"]["restarts"].is_u64());
    sidecar.until_patiently("restarted", |status| {
        status["gateway"]["containers"]["pynchy-litellm"]["restarts"].as_u64() > Some(1)
    });
    engine.docker("rm -f pynchy-litellm");
    sidecar.until_patiently("gone again", is("not_found"));

    engine.signal(Signal::STOP);
    let status = sidecar.until_patiently("unknown", is("unknown"));
    assert!(status["gateway"]["containers"]["pynchy-litellm"]["error"].as_str().unwrap().contains("no answer from"));
    assert_eq!((&status["gateway"]["postgres_container"], &status["gateway"]["up"]), (&json!("unknown"), &json!(true)));
    let metrics = sidecar.get("/metrics").1;
    assert!(!metrics.contains("agenthost_gateway_container_running{"), "what nobody tells has no value");
    engine.signal(Signal::CONT);
    sidecar.until_patiently("known", |status| status["gateway"]["postgres_container"] == "running");
}

/// What others have seen anew since.
fn others_go_on(sidecar: &Sidecar) {
    let before = successes(&sidecar.status());
    sidecar.until_patiently("all others", |status| {
        successes(status).iter().zip(&before).all(|(now, before)| now != before)
    });
}

/// What a pynchy's engine has, of which the gateway's container is in this state.
fn pynchys(state: &str) -> Vec<Value> {
    let state = json!({"State": {"Status": state, "Running": state == "running"}});
    vec![
        container("pynchy-litellm", "litellm:test", state),
        container("pynchy-litellm-db", "web:test", json!({})),
        container("pynchy-family", AGENT, json!({})),
        container("pynchy-mcp-web", "web:test", json!({})),
    ]
}

#[test]
fn an_engine_that_may_not_be_asked_is_denied_and_nothing_of_it_is_gone_or_well_again() {
    let (root, api, fake) = (Root::with_history(Now::read().wall), Api::healthy(), Fake::with(pynchys("running")));
    let allow = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    allow(root.path(), 0o755);
    allow(fake.folder(), 0o755);
    allow(&fake.socket(), 0o666);
    let config = root.path().join("exporter.toml");
    std::fs::write(&config, format!("{FAST}{}", gateway(&api, &fake.socket()))).unwrap();
    let flags = [format!("--host.root={}", root.path().display())];
    let sidecar = Sidecar::spawn_by(exporter_without_rights(root.path()), &config, flags);
    let is = |state: &'static str| move |status: &Value| status["gateway"]["litellm_container"] == state;
    let ready = |status: &Value| status["health"]["ready"] == true;
    sidecar.until_patiently("running", |status| is("running")(status) && ready(status));
    let says = "permission denied; run in the group";
    let denied = |status: &Value| {
        let access =
            |name: &str| status["collectors"][name]["access"] == "denied" && error(status, name).contains(says);
        is("unknown")(status) && access("containers") && access("mcp")
    };

    allow(&fake.socket(), 0o000);
    let status = sidecar.until_patiently("denied", denied);
    for name in ["pynchy-litellm", "pynchy-litellm-db"] {
        let said = status["gateway"]["containers"][name]["error"].as_str().unwrap();
        assert!(said.contains(says), "{said}");
        assert_eq!(verdict(&status, name), Some(("unknown".to_owned(), json!("denied"))));
    }
    assert_eq!((&status["gateway"]["up"], &status["gateway"]["ready"]), (&json!(true), &json!(true)));
    assert!(ready(&status) && status["health"]["overall"] == "degraded", "{:#}", status["health"]);
    others_go_on(&sidecar);
    let text = sidecar.get("/status").1 + &sidecar.get("/metrics").1;
    assert!(!text.contains("not_found") && !text.contains("agenthost_gateway_container_running{"), "{text}");

    // What has failed before stays failed for as long as nobody may look: longer than a silence, or an absence, may last.
    allow(&fake.socket(), 0o666);
    fake.have(pynchys("exited"));
    let failed = |status: &Value| verdict(status, "pynchy-litellm").is_some_and(|(state, _)| state == "failed");
    sidecar.until_patiently("failed", |status| is("exited")(status) && failed(status) && !ready(status));
    allow(&fake.socket(), 0o000);
    sidecar.until_patiently("denied again", denied);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(9) {
        let status = sidecar.status();
        assert!(failed(&status) && !ready(&status), "{:#}", status["health"]);
        std::thread::sleep(Duration::from_millis(100));
    }
    allow(&fake.socket(), 0o666);
    fake.have(pynchys("running"));
    sidecar.until_patiently("well again", |status| is("running")(status) && ready(status));
}

#[test]
fn an_engine_whose_list_comes_too_late_is_unknown_and_holds_up_nobody() {
    let (root, api, fake) = (Root::with_history(Now::read().wall), Api::healthy(), Fake::with(pynchys("running")));
    let drags = Arc::new(AtomicBool::new(false));
    let drags_now = drags.clone();
    fake.answer_with(move |path| {
        if path.starts_with("/containers/json") && drags_now.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_secs(8));
        }
        Some(fake_docker::of(&pynchys("running"), path))
    });
    let sidecar = Sidecar::start(root.path(), &gateway(&api, &fake.socket()));
    let is = |state: &'static str| move |status: &Value| status["gateway"]["litellm_container"] == state;
    let up = |status: &Value| {
        ["containers", "mcp"].iter().all(|name| status["collectors"][name]["up"] == true) && is("running")(status)
    };
    sidecar.until_patiently("running", up);
    drags.store(true, Ordering::SeqCst);
    let late = |status: &Value| {
        let said = |name: &str| error(status, name).contains("no answer from");
        is("unknown")(status) && said("containers") && said("mcp")
    };
    let status = sidecar.until_patiently("late", late);
    let told = &status["gateway"]["containers"]["pynchy-litellm-db"];
    assert!(told["state"] == "unknown" && told["error"].as_str().unwrap().contains("no answer from"), "{told:#}");
    assert_eq!((&status["gateway"]["up"], &status["collectors"]["containers"]["access"]), (&json!(true), &Value::Null));
    others_go_on(&sidecar);
    let text = sidecar.get("/status").1 + &sidecar.get("/metrics").1;
    assert!(!text.contains("not_found") && !text.contains("agenthost_gateway_container_running{"), "{text}");
    drags.store(false, Ordering::SeqCst);
    sidecar.until_patiently("in time", up);
}
