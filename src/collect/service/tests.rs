use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use jiff::SignedDuration;
use serde_json::json;

use super::status::Life;
use super::*;
use crate::collect::fixture::api::{Api as HostStub, Say};
use crate::collect::host_api::HEALTH;
use crate::host::running::stage::{Root, running, unprivileged};
use crate::sample::Cause;
use crate::source::process::{Cwd, Process};

const GRACE: Duration = Duration::from_secs(300);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

// -- the decision

fn alive(age: u64, answered_ago: Option<u64>) -> Option<Life> {
    Some(Life { started: Timestamp::UNIX_EPOCH, age: seconds(age), answered_ago: answered_ago.map(seconds) })
}

#[test]
fn every_combination_has_its_status() {
    use {Reply::*, Sight::*};
    let (young, old) = (alive(299, None), alive(300, None));
    let (stopping, stopped) = (alive(20, Some(30)), alive(20, Some(31)));
    let (old_stopping, old_stopped) = (alive(9000, Some(15)), alive(9000, Some(45)));
    let by_reply = [Refused, Silent, NotAsked, Wrong];
    let lives = [
        (Found, young, ["starting", "starting", "starting", "stalled"]),
        (Found, old, ["stalled", "stalled", "stalled", "stalled"]),
        (Found, stopping, ["shutting_down", "stalled", "stalled", "stalled"]),
        (Found, stopped, ["stalled", "stalled", "stalled", "stalled"]),
        (Found, old_stopping, ["shutting_down", "stalled", "stalled", "stalled"]),
        (Found, old_stopped, ["stalled", "stalled", "stalled", "stalled"]),
        (Absent, None, ["down", "stalled", "down", "stalled"]),
        (Unseen, None, ["down", "stalled", "unknown", "stalled"]),
        (Denied, None, ["down", "stalled", "unknown", "stalled"]),
    ];
    for (sight, life, expected) in lives {
        assert_eq!(decide(sight, Answered, life, true), Status::Ok);
        let decided =
            by_reply.map(|reply| decide(sight, reply, life, life.is_some_and(|life| life.age < GRACE)).name());
        assert_eq!(decided, expected, "{sight:?} {life:?}");
    }
    assert_eq!(decide(Found, Refused, alive(0, None), false), Status::Stalled);
}

#[test]
fn replies_are_told_apart() {
    for (asked, reply) in [
        (Ok(http::Head { status: 500, is_json: false, took: Duration::ZERO }), Reply::Answered),
        (Ok(http::Head { status: 503, is_json: true, took: Duration::ZERO }), Reply::Answered),
        (Ok(http::Head { status: 503, is_json: false, took: Duration::ZERO }), Reply::Silent),
        (Ok(http::Head { status: 504, is_json: true, took: Duration::ZERO }), Reply::Silent),
        (Err(http::Error::TooLarge), Reply::Wrong),
        (Err(http::Error::Refused), Reply::Refused),
        (Err(http::Error::TimedOut { connected: true }), Reply::Silent),
        (Err(http::Error::TimedOut { connected: false }), Reply::Silent),
        (Err(http::Error::Broken(String::new())), Reply::Silent),
        (Err(http::Error::Tls(String::new())), Reply::Silent),
        (Err(http::Error::Unreachable(String::new())), Reply::NotAsked),
        (Err(http::Error::Unresolved(String::new())), Reply::NotAsked),
    ] {
        let asked = asked.map_err(Fault::from);
        assert_eq!(Reply::of(&asked), reply, "{asked:?}");
    }
}

// -- points

fn section(status: Status, process: Sight, answered: bool) -> Section {
    Section {
        status,
        started_at: None,
        uptime_seconds: None,
        starts_last_hour: None,
        starts_total: None,
        pid: None,
        process,
        process_error: None,
        api: Some(Api { url: String::new(), answered, error: None, response_seconds: None }),
        health: None,
        resources: None,
        runtime: None,
        says_ready: false,
    }
}

fn values(section: &Section) -> BTreeMap<String, f64> {
    let mut points = Points::default();
    Service::points(section, &mut points);
    let declared = |point: &crate::sample::Point| Service::FACTS.iter().any(|fact| fact.is(point.fact));
    assert!(points.0.iter().all(declared));
    let name = |point: &crate::sample::Point| format!("{}{}", point.fact.prometheus, point.subject());
    points.0.iter().filter_map(|point| Some((name(point), point.value?))).collect()
}

#[test]
fn up_and_responding_differ_where_they_must() {
    for (status, process, answered, up, responding) in [
        (Status::Ok, Sight::Found, true, Some(1.0), 1.0),
        (Status::Ok, Sight::Unseen, true, Some(1.0), 1.0),
        (Status::Starting, Sight::Found, false, Some(1.0), 1.0),
        (Status::Stalled, Sight::Found, false, Some(1.0), 0.0),
        (Status::ShuttingDown, Sight::Found, false, Some(1.0), 0.0),
        (Status::Stalled, Sight::Unseen, false, None, 0.0),
        (Status::Stalled, Sight::Denied, false, None, 0.0),
        (Status::Unknown, Sight::Unseen, false, None, 0.0),
        (Status::Stalled, Sight::Absent, false, Some(0.0), 0.0),
        (Status::Down, Sight::Unseen, false, Some(0.0), 0.0),
        (Status::Down, Sight::Absent, false, Some(0.0), 0.0),
    ] {
        let values = values(&section(status, process, answered));
        assert_eq!(values.get("agenthost_service_up").copied(), up, "{status:?} {process:?}");
        assert_eq!(values["agenthost_service_responding"], responding, "{status:?} {process:?}");
        let set: Vec<&str> = Status::ALL.iter().map(|one| one.name()).collect();
        for name in set {
            let expected = f64::from(u8::from(name == status.name()));
            assert_eq!(values[&format!("agenthost_service_status{name}")], expected, "{name}");
        }
        let known = 7 + usize::from(up.is_some());
        assert_eq!(values.len(), known, "what is not known has no value: {values:?}");
    }
}

#[test]
fn what_is_known_has_its_value() {
    let mut known = section(Status::Ok, Sight::Found, true);
    known.started_at = Some("1970-01-01T00:01:40.25Z".parse().unwrap());
    (known.starts_last_hour, known.starts_total) = (Some(2), Some(7));
    known.api.as_mut().unwrap().response_seconds = Some(0.5);
    let values = values(&known);
    assert_eq!(values["agenthost_service_start_time_seconds"], 100.25);
    assert_eq!(values["agenthost_service_starts_total"], 7.0);
    assert_eq!(values["agenthost_service_recent_starts"], 2.0);
    assert_eq!(values["agenthost_service_response_duration_seconds"], 0.5);
}

#[test]
fn starts_out_of_sight_are_listed_without_value() {
    let listed = |section: &Section| {
        let mut points = Points::default();
        Service::points(section, &mut points);
        points.0.iter().find(|point| point.fact.is(&RECENT_STARTS)).map(|point| point.value)
    };
    let mut unseen = section(Status::Ok, Sight::Unseen, true);
    assert_eq!(listed(&unseen), None, "never seen, so not measured here");
    unseen.starts_total = Some(3);
    assert_eq!(listed(&unseen), Some(None));
}

// -- starts

#[test]
fn a_child_that_takes_over_from_its_launcher_is_no_start() {
    let root = Root::new();
    let mut launcher = root.spawn("uv/pynchy", &["-c", "read x; ./pynchy 60; true"]);
    let mut starts = Starts::default();
    let now = Now::read().mono;
    starts.follow(&running(root.look(None)), now);
    let child = root.wake(&mut launcher);
    for launcher in [Some(launcher), None] {
        let chain = running(root.look(starts.members()));
        starts.follow(&chain, now);
        assert_eq!((chain.pid, chain.members.len()), (child.pid(), 1 + usize::from(launcher.is_some())));
        assert_eq!((starts.total, starts.recent(now)), (1, 1));
    }
}

/// A process that began so many seconds after boot.
fn chain(second: u32) -> Chain {
    let process = Process::imagined(second * 100, 1, "pynchy", Cwd::Gone);
    assert_eq!(process.identity.started(), seconds(second.into()));
    Chain { members: [process.identity].into(), pid: process.pid(), started: process.started }
}

#[test]
fn starts_are_counted_once_and_leave_after_an_hour() {
    let mut starts = Starts::default();
    for (count, second) in [(1, 10), (2, 20), (3, 30)] {
        starts.follow(&chain(second), seconds(31));
        starts.follow(&chain(second), seconds(40));
        assert_eq!((starts.total, starts.recent(seconds(40))), (count, count));
    }
    assert_eq!((starts.recent(seconds(3629)), starts.recent(seconds(3630))), (1, 0));
    starts.latest_mut().unwrap().live(Reply::Answered, moment(3630));
    starts.follow(&chain(3700), seconds(3700));
    assert_eq!((starts.total, starts.runs.len()), (4, 1), "old ones are forgotten");
}

fn moment(second: u64) -> Now {
    Now { mono: seconds(second), wall: Timestamp::UNIX_EPOCH }
}

#[test]
fn of_a_host_that_crashes_for_longer_than_an_hour_the_first_start_is_not_forgotten() {
    let mut starts = Starts::default();
    starts.follow(&chain(10), seconds(10));
    starts.latest_mut().unwrap().live(Reply::Answered, moment(10));
    assert_eq!(starts.waiting_since(), None);
    for second in (100..30_000).step_by(50) {
        starts.follow(&chain(second), seconds(second.into()));
        assert_eq!(starts.waiting_since(), Some(seconds(100)), "at {second} s");
        assert!(starts.runs.len() <= 74, "an hour of them and the first: {}", starts.runs.len());
    }
    starts.latest_mut().unwrap().live(Reply::Answered, moment(30_000));
    assert_eq!(starts.waiting_since(), None);
    starts.follow(&chain(40_000), seconds(40_000));
    assert_eq!((starts.waiting_since(), starts.runs.len()), (Some(seconds(40_000)), 1));
}

// -- the whole collector, beside a real process and a real port

/// An HTTP host whose manners can change.
struct Stub {
    url: String,
    health: Arc<Mutex<Option<String>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Stub {
    fn new() -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let health = r#"{"status": "ok", "uptime_seconds": 2, "dirty": false, "channels_connected": true}"#;
        let stub = Stub { url, health: Arc::new(Mutex::new(Some(health.to_owned()))), asked: Arc::default() };
        let (health, asked) = (stub.health.clone(), stub.asked.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                serve(socket.unwrap(), &health, &asked);
            }
        });
        stub
    }

    /// `None`: closes without an answer.
    fn say(&self, health: Option<&str>) {
        *self.health.lock().unwrap() = health.map(str::to_owned);
    }

    fn asked_for(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }
}

fn serve(mut socket: TcpStream, health: &Mutex<Option<String>>, asked: &Mutex<Vec<String>>) {
    let mut head = [0; 4096];
    let length = socket.read(&mut head).unwrap_or(0);
    let path = String::from_utf8_lossy(&head[..length]).split(' ').nth(1).unwrap_or("").to_owned();
    asked.lock().unwrap().push(path.clone());
    let Some(health) = health.lock().unwrap().clone() else { return };
    let (status, body) = if path == HEALTH { (200, health) } else { (404, "404: Not Found".to_owned()) };
    let kind = if body.starts_with('{') { "application/json; charset=utf-8" } else { "text/plain" };
    let length = body.len();
    let _ = write!(socket, "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}");
}

fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn collector(root: &Root, url: &str) -> Service {
    let host = Host { url: Some(url.into()), ..crate::host::pynchy::host(&root.path) };
    Service::new(Config::default(), &host, &Sources::default()).unwrap().unwrap()
}

fn collect(service: &mut Service, now: Now) -> Section {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(service.collect(now)).unwrap()
}

fn try_collect(service: &mut Service) -> Result<Section> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(service.collect(Now::read()))
}

#[test]
fn a_living_host_is_shown_whole() {
    let (root, stub) = (Root::new(), Stub::new());
    let host = root.host();
    let now = Now::read().plus(seconds(100));
    let section = collect(&mut collector(&root, &stub.url), now);
    assert_eq!((section.status, section.process, section.pid), (Status::Ok, Sight::Found, Some(host.pid())));
    assert_eq!((section.starts_last_hour, section.starts_total), (Some(1), Some(1)));
    assert!((98..103).contains(&section.uptime_seconds.unwrap()), "{:?}", section.uptime_seconds);
    let json = serde_json::to_value(&section).unwrap();
    assert_eq!((&json["status"], &json["process"]), (&"ok".into(), &"found".into()));
    let api = &json["api"];
    assert_eq!(api["url"], stub.url);
    assert!(api["answered"] == true && api["error"].is_null() && api["response_seconds"].as_f64().unwrap() < 5.0);
    let at = now.wall.to_string();
    let health = serde_json::json!(
        {"status": "ok", "uptime_seconds": 2, "channels_connected": true, "error": null, "at": at});
    assert_eq!(json["health"], health);
}

#[test]
fn health_is_asked_each_minute_and_its_faults_are_only_shown() {
    let (root, stub) = (Root::new(), Stub::new());
    let mut service = collector(&root, &stub.url);
    let begin = Now::read();
    for (second, asked) in [(0, 1), (15, 1), (45, 1), (60, 2), (75, 2)] {
        collect(&mut service, begin.plus(seconds(second)));
        assert_eq!(stub.asked_for(HEALTH), asked, "at {second} s");
    }
    assert_eq!(stub.asked_for(LIVENESS), 5);
    for (second, said, error) in [
        (120, r#"{"status": "ok"}"#, "JSON of another shape"),
        (180, r#"{"secret"#, "invalid JSON"),
        (240, "secret", "not called JSON"),
        (300, r#"{"status": "a secret", "uptime_seconds": 1, "channels_connected": true}"#, "no word"),
    ] {
        stub.say(Some(said));
        let section = collect(&mut service, begin.plus(seconds(second)));
        let health = section.health.unwrap();
        assert_eq!((section.status, health.status), (Status::Ok, None));
        let text = health.error.unwrap();
        assert!(text.contains(error) && !text.contains("secret"), "{text}");
    }
    // One that no longer answers says nothing of its health, and is asked as soon as it is back.
    stub.say(None);
    let section = collect(&mut service, begin.plus(seconds(301)));
    assert_eq!((section.answers(), section.health), (false, None));
    assert_eq!(section.api.unwrap().error.unwrap(), "closed the connection without an answer");
    stub.say(Some(r#"{"status": "ok", "uptime_seconds": 1, "channels_connected": false}"#));
    let section = collect(&mut service, begin.plus(seconds(302)));
    assert_eq!(section.health.unwrap().channels_connected, Some(false));
}

#[test]
fn a_host_that_refuses_starts_then_stalls_then_is_down() {
    let root = Root::new();
    let mut host = root.host();
    let mut service = collector(&root, &refusing());
    let begin = Now::read();
    let status = |service: &mut Service, second: u64| collect(service, begin.plus(seconds(second))).status;
    assert_eq!(status(&mut service, 0), Status::Starting);
    assert_eq!(status(&mut service, 290), Status::Starting);
    assert_eq!(status(&mut service, 302), Status::Stalled);
    host.kill();
    let section = collect(&mut service, begin.plus(seconds(315)));
    assert_eq!((section.status, section.pid, section.started_at), (Status::Down, None, None));
    assert_eq!(section.api.as_ref().unwrap().error.as_deref(), Some("refused"));
    assert_eq!(section.starts_total, Some(1));
}

#[test]
fn a_host_that_stops_answering_shuts_down_then_stalls_and_its_restart_is_a_start() {
    let (root, stub) = (Root::new(), Stub::new());
    let host = root.host();
    let mut service = collector(&root, &stub.url);
    let begin = Now::read();
    let at = |service: &mut Service, second: u64| collect(service, begin.plus(seconds(second)));
    assert_eq!(at(&mut service, 0).status, Status::Ok);
    service.address = Some(Address::new(&refusing().as_str().into()));
    assert_eq!(at(&mut service, 15).status, Status::ShuttingDown);
    assert_eq!(at(&mut service, 30).status, Status::ShuttingDown);
    // Young as it is, it has answered before.
    assert_eq!(at(&mut service, 45).status, Status::Stalled);
    drop(host);
    assert_eq!(at(&mut service, 60).status, Status::Down);
    let again = root.host();
    let section = at(&mut service, 75);
    assert_eq!((section.status, section.pid), (Status::Starting, Some(again.pid())));
    assert_eq!((section.starts_total, section.starts_last_hour), (Some(2), Some(2)));
    service.address = Some(Address::new(&stub.url.as_str().into()));
    assert_eq!(at(&mut service, 90).status, Status::Ok);
}

#[test]
fn others_bear_with_a_start_for_its_grace_and_with_no_more_starts_than_one() {
    let root = Root::new();
    let mut host = root.host();
    let mut service = collector(&root, &refusing());
    let begin = Now::read();
    let mut starting = |second: u64| {
        let at = begin.plus(seconds(second));
        (collect(&mut service, at).status, service.boot.is_under_way(at), service.boot.is_under_way(at.plus(GRACE)))
    };
    assert_eq!(starting(0), (Status::Starting, true, false), "it ends though nobody says so");
    assert_eq!(starting(200), (Status::Starting, true, false));
    // It came to nothing, and another start does not begin anew.
    host.kill();
    let again = root.host();
    assert_eq!(starting(290), (Status::Starting, true, false));
    assert_eq!(starting(310), (Status::Stalled, false, false));
    drop(again);
    assert_eq!(starting(320), (Status::Down, false, false));
}

#[test]
fn one_that_crashes_and_starts_for_ever_is_said_not_to_respond_when_its_grace_is_over() {
    // The second is longer than starts are counted.
    for grace in [300, 7200] {
        let mut service = collector(&Root::new(), &refusing());
        service.boot_grace = seconds(grace);
        let refused = Err(http::Error::Refused.into());
        for second in (1000..12_000).step_by(50) {
            let (chain, at) = (chain(second), moment(second.into()));
            service.starts.follow(&chain, at.mono);
            let section = service.section(&Seen::Running(chain), Some((String::new(), &refused)), at);
            let responding = if u64::from(second) < 1000 + grace { 1.0 } else { 0.0 };
            let values = values(&section);
            assert_eq!(values["agenthost_service_responding"], responding, "{grace} s, at {second} s");
            assert_eq!(service.boot.is_under_way(at), responding == 1.0);
        }
    }
}

#[test]
fn a_wall_clock_that_is_set_makes_no_start_older_or_younger() {
    let root = Root::new();
    let host = root.host();
    let mut service = collector(&root, &refusing());
    let file = root.path.join("pid");
    std::fs::write(&file, host.pid().to_string()).unwrap();
    service.rule = ProcessRule::PidFile(file.clone());
    let begin = Now::read();
    assert_eq!(collect(&mut service, begin).status, Status::Starting);
    // As its file looks when the clock was set on by an hour: written before the process began.
    let before = std::time::SystemTime::now() - seconds(3600);
    std::fs::File::options().write(true).open(&file).unwrap().set_modified(before).unwrap();
    for (second, jump, status) in [
        (15, 1, Status::Starting),
        (30, -1, Status::Starting),
        (290, 1, Status::Starting),
        (305, -1, Status::Stalled),
        (320, 1, Status::Stalled),
    ] {
        let at = begin.plus(seconds(second));
        let section = collect(&mut service, Now { wall: at.wall + SignedDuration::from_hours(jump), ..at });
        assert_eq!((section.status, section.process), (status, Sight::Found), "at {second} s, {jump} h");
        assert!((second..second + 10).contains(&section.uptime_seconds.unwrap()), "{:?}", section.uptime_seconds);
        assert_eq!((section.starts_last_hour, section.starts_total), (Some(1), Some(1)));
    }
}

#[test]
fn a_proxy_that_answers_for_a_host_that_is_gone_is_no_answer() {
    let (root, api) = (Root::new(), HostStub::new());
    let mut host = root.host();
    let mut service = other(Profile::Netclaw, &api, &host, &root);
    host.kill();
    service.rule = ProcessRule::PidFile(root.path.join("none"));
    for (status, kind, answered) in [
        (502, "text/html", false),
        (504, "application/json", false),
        (503, "text/html", false),
        (503, "application/json", true),
        (404, "text/html", true),
    ] {
        api.say(LIVENESS, Say::Answer(status, kind, "{}".into()));
        let section = collect_live(&mut service, Now::read());
        let (known, number) = (values(&section), f64::from(u8::from(answered)));
        assert_eq!(section.answers(), answered, "{status} {kind}");
        assert_eq!(known["agenthost_service_responding"], number, "{status} {kind}");
        assert_eq!(known["agenthost_service_up"], number, "{status} {kind}");
        assert_eq!(known.contains_key("agenthost_service_response_duration_seconds"), answered);
        assert_eq!((section.api.unwrap().error.is_none(), section.health.is_some()), (answered, answered));
    }
}

#[test]
fn a_host_that_answers_is_not_absent() {
    let (root, stub) = (Root::new(), Stub::new());
    let mut service = collector(&root, &stub.url);
    // Absent for sure: there is no pid file.
    service.rule = ProcessRule::PidFile(root.path.join("pid"));
    let section = collect(&mut service, Now::read());
    assert_eq!((section.status, section.process), (Status::Ok, Sight::Unseen));
    assert_eq!((section.starts_last_hour, section.starts_total), (None, None));
    assert!(section.process_error.unwrap().contains("its API answers"));
    stub.say(None);
    let silent = collect(&mut service, Now::read());
    assert_eq!((silent.process, silent.starts_last_hour), (Sight::Absent, Some(0)));
}

#[test]
fn requests_end_before_the_run_must() {
    let told = Patience { liveness: seconds(5), health: seconds(4) };
    for run in [Service::TIMEOUT, seconds(60)] {
        assert_eq!(Patience::within(run), told);
    }
    let told = Patience { liveness: Duration::from_millis(1500), health: Duration::from_millis(1200) };
    assert_eq!(Patience::within(seconds(3)), told);
}

#[test]
fn a_hung_host_is_seen_within_a_short_run() {
    use crate::collect::Collect;
    // Connected by the kernel, and never answered.
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let root = Root::new();
    let mut service = collector(&root, &format!("http://{}", hung.local_addr().unwrap()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let sample = service.run(Now::read(), seconds(2), runtime.handle()).unwrap();
    assert!(sample.section.get().contains("\"status\":\"stalled\""), "{}", sample.section);
}

#[test]
fn a_port_that_may_not_be_known_is_no_stall() {
    let root = Root::new();
    let _host = root.host();
    let file = root.path.join("config.toml");
    std::fs::write(&file, "[server]\nport = 1\n").unwrap();
    let host = crate::host::pynchy::host(&root.path);
    let mut service = Service::new(Config::default(), &host, &Sources::default()).unwrap().unwrap();
    let failure = crate::sample::Failure::from(unprivileged(&root.path, || try_collect(&mut service).unwrap_err()));
    assert_eq!(failure.cause, Cause::Denied);
    assert!(failure.error.contains(&format!("read {}: Permission denied", file.display())), "{failure:?}");
    std::fs::write(&file, "[server\n").unwrap();
    let broken = try_collect(&mut service).unwrap_err();
    assert!(format!("{broken:#}").contains("config.toml: not TOML (line 1)"), "{broken:#}");
}

#[test]
fn a_port_that_changes_is_asked_from_the_next_start_on() {
    let (root, first, second) = (Root::new(), Stub::new(), Stub::new());
    let write = |stub: &Stub| {
        let port = stub.url.rsplit(':').next().unwrap();
        std::fs::write(root.path.join("config.toml"), format!("[server]\nport = {port}\n")).unwrap();
    };
    write(&first);
    let host = crate::host::pynchy::host(&root.path);
    let mut service = Service::new(Config::default(), &host, &Sources::default()).unwrap().unwrap();
    let answers = |service: &mut Service| try_collect(service).map(|section| section.answers()).ok();
    assert_eq!(answers(&mut service), Some(true));
    // Written, and not yet read by the host: it answers where it did, or hangs there.
    write(&second);
    first.say(None);
    assert_eq!(answers(&mut service), Some(false));
    first.say(Some("{}"));
    assert_eq!(answers(&mut service), Some(true));
    std::fs::write(root.path.join("config.toml"), "[server\n").unwrap();
    assert_eq!(answers(&mut service), Some(true), "a broken file is of the next start");
    assert_eq!(second.asked_for(LIVENESS), 0);
    // It stopped: nobody listens any more.
    write(&second);
    service.address.as_mut().unwrap().answered(&refusing());
    assert_eq!(answers(&mut service), Some(false));
    assert_eq!(answers(&mut service), Some(true));
    assert_eq!(second.asked_for(LIVENESS), 1);
}

#[test]
fn a_process_out_of_sight_has_its_reason() {
    let (root, stub) = (Root::new(), Stub::new());
    let file = root.path.join("pid");
    let mut service = collector(&root, &stub.url);
    service.rule = ProcessRule::PidFile(file.clone());
    std::fs::write(&file, "garbage").unwrap();
    let section = collect(&mut service, Now::read());
    assert_eq!((section.process, section.pid, section.starts_last_hour), (Sight::Unseen, None, None));
    assert!(section.process_error.unwrap().starts_with(&format!("read {}: no pid in it", file.display())));
    let denied = unprivileged(&root.path, || collect(&mut service, Now::read()));
    assert_eq!((denied.process, denied.starts_total), (Sight::Denied, None));
    let text = denied.process_error.unwrap();
    assert!(text.starts_with(&format!("read {}: Permission denied", file.display())), "{text}");
}

// -- other kinds of hosts

/// One of this kind, whose process is one of ours.
fn other(profile: Profile, api: &HostStub, host: &crate::host::running::stage::Running, root: &Root) -> Service {
    let file = root.path.join("pid");
    std::fs::write(&file, host.pid().to_string()).unwrap();
    let host = Host {
        profile,
        url: Some(api.url.as_str().into()),
        process: ProcessRule::PidFile(file),
        ..crate::collect::fixture::host(None)
    };
    let mut service = Service::new(Config::default(), &host, &Sources::default()).unwrap().unwrap();
    service.within(seconds(4));
    service
}

fn collect_live(service: &mut Service, now: Now) -> Section {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(service.collect(now)).unwrap()
}

#[test]
fn of_an_openclaw_only_json_is_an_answer_and_it_says_whether_it_is_ready() {
    let (root, api) = (Root::new(), HostStub::new());
    let host = root.host();
    let mut service = other(Profile::Openclaw, &api, &host, &root);
    let begin = Now::read();
    api.json("/healthz", json!({"ok": true, "status": "live"}));
    api.json("/readyz", json!({"ready": true, "failing": [], "uptimeMs": 1}));
    let section = collect_live(&mut service, begin);
    assert_eq!((section.status, values(&section)["agenthost_service_ready"]), (Status::Ok, 1.0));
    api.say("/readyz", Say::Answer(503, "application/json", r#"{"ready":false,"failing":["telegram"]}"#.into()));
    let section = collect_live(&mut service, begin.plus(seconds(15)));
    let health = section.health.clone().unwrap();
    assert_eq!((health.status.as_deref(), health.failing), (Some("not_ready"), Some(vec!["telegram".to_owned()])));
    assert_eq!((section.status, values(&section)["agenthost_service_ready"]), (Status::Ok, 0.0));
    // What is no word there takes nothing away from the rest.
    let odd = r#"{"ready":false,"failing":["telegram","a secret text",{"name":"secret"},7]}"#;
    for (second, body, failing) in [
        (30, odd, Some(vec!["telegram", "other", "other", "other"])),
        (45, r#"{"ready":false}"#, Some(vec![])),
        (60, r#"{"ready":false,"failing":null}"#, Some(vec![])),
        (75, r#"{"ready":false,"failing":"a secret text"}"#, None),
    ] {
        api.say("/readyz", Say::Answer(503, "application/json", body.into()));
        let section = collect_live(&mut service, begin.plus(seconds(second)));
        let health = section.health.clone().unwrap();
        let told = health.failing.as_ref().map(|words| words.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!((health.ready, told, health.error), (Some(false), failing, None), "{body}");
        assert_eq!(values(&section)["agenthost_service_ready"], 0.0);
    }
    // It says itself that it is not well.
    for status in [200, 503] {
        api.say("/healthz", Say::Answer(status, "application/json", r#"{"ok":false,"status":"live"}"#.into()));
        let section = collect_live(&mut service, begin.plus(seconds(3000)));
        let said = section.api.as_ref().unwrap().error.clone().unwrap();
        assert_eq!(
            (section.status, said),
            (Status::Stalled, format!("answered with status {status} that it is not ok"))
        );
        assert_eq!(values(&section)["agenthost_service_responding"], 0.0);
    }
    // A page that answers everything, itself or a proxy before it.
    api.say("/healthz", Say::Html("<html>".into()));
    let section = collect_live(&mut service, begin.plus(seconds(4000)));
    assert_eq!((section.status, section.health.is_none()), (Status::Stalled, true));
    assert_eq!(
        section.api.as_ref().unwrap().error.as_deref(),
        Some("answered with status 200 and HTML instead of JSON")
    );
    // So may a page be that does not end.
    api.say("/healthz", Say::Flood(50));
    let flooded = collect_live(&mut service, begin.plus(seconds(5000)));
    assert_eq!((flooded.status, flooded.health.is_none()), (Status::Stalled, true));
    assert_eq!(values(&flooded)["agenthost_service_responding"], 0.0);
    assert_eq!(flooded.api.as_ref().unwrap().error.as_deref(), Some("the answer is too large"));
    let mut points = Points::default();
    Service::points(&section, &mut points);
    let ready = points.0.iter().find(|point| point.fact.is(&READY)).map(|point| point.value);
    assert_eq!(ready, Some(None), "listed, and not known");
}

#[test]
fn of_a_young_openclaw_only_silence_is_excused() {
    let (root, api) = (Root::new(), HostStub::new());
    let host = root.host();
    let mut service = other(Profile::Openclaw, &api, &host, &root);
    let begin = Now::read();
    let json = "application/json";
    for (second, say, status, error) in [
        (0, Say::Answer(503, "text/html", "<p>".into()), "starting", "503 and HTML"),
        (1, Say::Answer(502, json, "".into()), "starting", "502 and invalid JSON"),
        (2, Say::Answer(503, json, r#"{"ok":false}"#.into()), "starting", "it is not ok"),
        (3, Say::Hang, "starting", "timed out"),
        (4, Say::Html("<html>".into()), "stalled", "200 and HTML"),
        (5, Say::Status(401), "stalled", "401 and something that is not called JSON"),
        (6, Say::Json("{".into()), "stalled", "200 and invalid JSON"),
        (7, Say::Flood(50), "stalled", "too large"),
    ] {
        api.say("/healthz", say.clone());
        let at = begin.plus(seconds(second));
        let section = collect_live(&mut service, at);
        assert_eq!((section.status.name(), service.boot.is_under_way(at)), (status, status == "starting"), "{say:?}");
        let text = section.api.unwrap().error.unwrap();
        assert!(text.contains(error), "{say:?}: {text}");
    }
}

#[test]
fn netclaw_says_one_word_and_nobody_needs_a_token_for_it() {
    let (root, api) = (Root::new(), HostStub::new());
    let host = root.host();
    let mut service = other(Profile::Netclaw, &api, &host, &root);
    api.json("/api/health/ready", json!("healthy"));
    let section = collect_live(&mut service, Now::read());
    assert_eq!((section.status, section.health.clone().unwrap().status.as_deref()), (Status::Ok, Some("healthy")));
    assert_eq!(values(&section).get("agenthost_service_ready"), None, "it is always healthy: that says nothing");
    assert!(!api.heads().to_lowercase().contains("authorization"));
}

#[test]
fn pi_web_tells_of_its_own_process_and_a_refusal_is_no_stall() {
    let (root, api) = (Root::new(), HostStub::new());
    let host = root.host();
    let mut service = other(Profile::PiWeb, &api, &host, &root);
    let begin = Now::read();
    api.json(
        "/api/metrics",
        json!({
            "process": {"pid": 812, "uptime_s": 300.1, "goroutines": 23, "heap_alloc_bytes": 9_437_184,
                        "sse_clients": 1, "watched_files": 40},
            "workers": [{"session_id": "x.jsonl", "pid": 0, "rss_bytes": 0, "sampled": false}],
        }),
    );
    let section = collect_live(&mut service, begin);
    let known = values(&section);
    for (name, value) in
        [("goroutines", 23.0), ("heap_bytes", 9_437_184.0), ("sse_clients", 1.0), ("watched_files", 40.0)]
    {
        assert_eq!(known[&format!("agenthost_service_{name}")], value, "{name}");
    }
    assert!(
        !serde_json::to_string(&section).unwrap().contains("rss_bytes"),
        "a worker that was not sampled is not zero"
    );
    api.say("/api/metrics", Say::Status(401));
    let section = collect_live(&mut service, begin.plus(seconds(15)));
    let runtime = section.runtime.clone().unwrap();
    assert!(runtime.error.unwrap().contains("status 401: it wants a token"), "the fix");
    assert_eq!(
        (section.status, runtime.goroutines, values(&section).get("agenthost_service_goroutines")),
        (Status::Ok, None, None)
    );
}

#[test]
fn a_host_without_an_api_is_its_process() {
    let (root, api) = (Root::new(), HostStub::new());
    let mut host = root.host();
    let mut service = other(Profile::Generic, &api, &host, &root);
    service.address = None;
    let begin = Now::read().plus(seconds(3600));
    let section = collect_live(&mut service, begin);
    let known = values(&section);
    assert_eq!((section.status, known["agenthost_service_up"]), (Status::Ok, 1.0));
    assert!(section.api.is_none() && !known.contains_key("agenthost_service_responding"));
    assert_eq!(section.resources.clone().unwrap().connections, None);
    host.kill();
    let section = collect_live(&mut service, begin.plus(seconds(15)));
    assert_eq!((section.status, values(&section)["agenthost_service_up"]), (Status::Down, 0.0));
    std::fs::write(root.path.join("pid"), "garbage").unwrap();
    let section = collect_live(&mut service, begin.plus(seconds(30)));
    assert_eq!((section.status, values(&section).get("agenthost_service_up")), (Status::Unknown, None));
    service.rule = ProcessRule::Unknown;
    let section = collect_live(&mut service, begin.plus(seconds(45)));
    assert!(section.process_error.unwrap().contains("`pid_file` or `process` in [host]"));
}

#[test]
fn connections_are_counted_once_a_minute_and_of_another_process_or_port_anew() {
    let host = |pid| Process::imagined(pid, 1, "pynchy", Cwd::Gone).identity;
    let mut connections = Connections::default();
    let mut counted = |of, at, count| connections.to(of, seconds(at), || count);
    let (first, second) = ((host(7), 8484), (host(8), 8484));
    assert_eq!(counted(first, 0, None), None, "what cannot be counted is not known");
    assert_eq!(counted(first, 15, Some(3)), Some(3), "and tried again at the next look");
    assert_eq!(counted(first, 69, Some(9)), Some(3));
    assert_eq!(counted(first, 70, Some(9)), Some(9));
    assert_eq!(counted(second, 76, Some(1)), Some(1), "of another process");
    assert_eq!(counted((second.0, 8485), 77, Some(2)), Some(2), "at another port");
    assert_eq!(counted((second.0, 8485), 137, None), None, "an old count is not kept for want of a new one");
}

#[test]
fn what_the_process_uses_is_shown_and_its_time_outlives_it() {
    let (root, stub) = (Root::new(), Stub::new());
    let mut first = root.host();
    let mut service = collector(&root, &stub.url);
    let resources = collect(&mut service, Now::read()).resources.unwrap();
    assert_eq!((resources.threads, resources.inotify_watches, resources.connections), (Some(1), Some(0), Some(0)));
    assert!(resources.resident_bytes.is_some() && resources.open_fds.unwrap() > 0);
    first.kill();
    assert_eq!(collect(&mut service, Now::read()).resources, None);
    let mut cpu = Cpu::default();
    let (one, two) = (root.host(), root.host());
    let identity = |child: &crate::host::running::stage::Running| {
        Processes::default().list().unwrap().get(child.pid()).unwrap().identity
    };
    for (child, seconds, total) in [(&one, 2.0, 2.0), (&one, 2.5, 2.5), (&two, 0.5, 3.0), (&two, 0.75, 3.25)] {
        cpu.see(identity(child), seconds);
        assert_eq!(cpu.total, total);
    }
}

#[test]
fn the_configuration_is_checked() {
    assert_eq!(toml::from_str::<Config>("").unwrap().boot_grace.0, GRACE);
    assert_eq!(toml::from_str::<Config>("boot_grace = \"90s\"").unwrap().boot_grace.0, seconds(90));
    assert!(toml::from_str::<Config>("boot_grace = 90").is_err());
    assert!(toml::from_str::<Config>("bootgrace = \"90s\"").is_err());
}
