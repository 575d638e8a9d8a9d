use serde_json::{Value, json};

use super::*;
use crate::collect::channels::{self, Channels};
use crate::collect::fixture::api::{Api, Say};
use crate::collect::fixture::{self, at, value};
use crate::sample::{Cause, Failure};

/// The queue of a real answer.
fn sample() -> Value {
    json!({
        "active_containers": 2, "max_concurrent": 5, "groups_waiting": 1,
        "per_group": {
            "admin-1": {"active": true, "is_task": false, "pending_messages": true, "pending_tasks": 0},
            "code-improver": {"active": true, "is_task": true, "pending_messages": false, "pending_tasks": 0},
            "research": {"active": false, "is_task": false, "pending_messages": false, "pending_tasks": 1},
            "slack:C0UNREGISTERED":
                {"active": false, "is_task": false, "pending_messages": false, "pending_tasks": 0}
        }
    })
}

fn status(queue: Value) -> Value {
    json!({"service": {"status": "ok", "started_at": "2026-11-21T19:59:30.040545+00:00"}, "queue": queue})
}

fn host(api: &Api) -> Host {
    Host { url: Some(api.url.as_str().into()), ..fixture::host(None) }
}

fn collector(host: &Host, sources: &Sources) -> Queue {
    let mut queue = Queue::new(Config {}, host, sources).unwrap().unwrap();
    queue.within(Duration::from_secs(2));
    queue
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn look(queue: &mut Queue, time: &str) -> Result<Section> {
    runtime().block_on(queue.collect(at(time)))
}

#[test]
fn the_hosts_own_keys_are_kept() {
    let api = Api::new();
    api.json("/status", status(sample()));
    let section = look(&mut collector(&host(&api), &Sources::default()), "20:00:00").unwrap();
    let mut shown = fixture::json::<Queue>(&section);
    let own = ["oldest_wait_seconds", "stalled_seconds"].map(|key| shown.as_object_mut().unwrap().remove(key));
    assert_eq!((shown, own), (sample(), [Some(json!(0.0)), Some(json!(0.0))]));
    let points = fixture::points::<Queue>(&section);
    for (fact, expected) in [(&ACTIVE, 2.0), (&LIMIT, 5.0), (&WAITING, 1.0), (&OLDEST_WAIT, 0.0), (&SATURATED, 0.0)] {
        assert_eq!(value(&points, fact, ""), Some(Some(expected)), "{}", fact.prometheus);
    }
}

/// A queue of these groups, by what they do: `a`ctive, `w`aiting, `i`dle, and a limit of two.
fn queue(groups: &str) -> Value {
    let slot = |does: char| json!({"active": does == 'a', "pending_messages": does == 'w', "pending_tasks": 0});
    let per_group: serde_json::Map<String, Value> =
        groups.chars().enumerate().map(|(index, does)| (format!("g{index}"), slot(does))).collect();
    let count = |wanted: char| groups.chars().filter(|&does| does == wanted).count();
    json!({"active_containers": count('a'), "max_concurrent": 2, "groups_waiting": count('w'), "per_group": per_group})
}

#[test]
fn waits_are_measured_from_when_they_were_first_seen() {
    let api = Api::new();
    let mut collector = collector(&host(&api), &Sources::default());
    for (time, groups, oldest, stalled, saturated) in [
        ("20:00:00", "aai", 0.0, 0.0, 0.0),
        ("20:01:00", "aaw", 0.0, 0.0, 1.0),
        ("20:02:00", "aaw", 60.0, 60.0, 1.0),
        // One ends; its place is taken by another group: the waiting one waits on, and the queue moves.
        ("20:03:00", "awwa", 120.0, 0.0, 1.0),
        ("20:04:00", "awwa", 180.0, 60.0, 1.0),
        // It starts: the next oldest is a minute old.
        ("20:05:00", "awai", 120.0, 0.0, 1.0),
        ("20:06:00", "aiaw", 0.0, 0.0, 1.0),
        ("20:07:00", "iiaw", 60.0, 0.0, 0.0),
        ("20:08:00", "iiai", 0.0, 0.0, 0.0),
    ] {
        api.json("/status", status(queue(groups)));
        let section = look(&mut collector, time).unwrap();
        let points = fixture::points::<Queue>(&section);
        let seen = [&OLDEST_WAIT, &STALLED, &SATURATED].map(|fact| value(&points, fact, "").unwrap().unwrap());
        assert_eq!(seen, [oldest, stalled, saturated], "{time} {groups}");
    }
}

#[test]
fn a_new_life_of_the_host_and_a_long_silence_begin_anew() {
    let api = Api::new();
    let mut collector = collector(&host(&api), &Sources::default());
    let mut oldest = |time: &str, started: &str| {
        let answer = json!({"service": {"started_at": started}, "queue": queue("aaw")});
        api.json("/status", answer);
        look(&mut collector, time).unwrap().oldest_wait_seconds.unwrap()
    };
    assert_eq!([oldest("20:00:00", "a"), oldest("20:15:00", "a")], [0.0, 900.0]);
    assert_eq!([oldest("20:16:00", "b"), oldest("20:17:00", "b")], [0.0, 60.0]);
    assert_eq!([oldest("20:32:01", "b"), oldest("20:33:01", "b")], [0.0, 60.0]);
}

#[test]
fn a_wait_that_has_no_name_is_one_all_the_same() {
    let api = Api::new();
    let mut collector = collector(&host(&api), &Sources::default());
    let mut unnamed = queue("aa");
    unnamed["groups_waiting"] = json!(3);
    for (time, oldest) in [("20:00:00", 0.0), ("20:10:00", 600.0)] {
        api.json("/status", status(unnamed.clone()));
        assert_eq!(look(&mut collector, time).unwrap().oldest_wait_seconds, Some(oldest));
    }
}

#[test]
fn a_host_that_does_not_answer_has_no_queue_and_wrong_types_are_no_zero() {
    let api = Api::new();
    let mut collector = collector(&host(&api), &Sources::default());
    let mut wrong = sample();
    wrong["active_containers"] = json!("2");
    let mut missing = sample();
    missing.as_object_mut().unwrap().remove("groups_waiting");
    let mut negative = sample();
    negative["groups_waiting"] = json!(-1);
    for (minute, queue) in [wrong, missing, negative, Value::Null, json!([])].into_iter().enumerate() {
        api.json("/status", status(queue));
        let text = format!("{:#}", look(&mut collector, &format!("20:{minute:02}:00")).err().unwrap());
        assert!(text.contains("JSON of another shape"), "{text}");
    }
    api.say("/status", Say::Hang);
    let text = format!("{:#}", look(&mut collector, "20:30:00").err().unwrap());
    assert!(text.ends_with("/status: timed out"), "{text}");
}

#[test]
fn channels_and_queue_cost_the_host_one_request() {
    let api = Api::new();
    let mut answer = status(sample());
    answer["channels"] = json!({"slack": true});
    api.json("/status", answer);
    let (host, sources) = (host(&api), Sources::default());
    let mut queue = collector(&host, &sources);
    let mut channels = Channels::new(channels::Config {}, &host, &sources).unwrap().unwrap();
    let runtime = runtime();
    for (time, asked) in [("20:00:00", 1), ("20:01:00", 2)] {
        assert!(runtime.block_on(queue.collect(at(time))).is_ok());
        assert!(runtime.block_on(channels.collect(at(time).plus(Duration::from_secs(9)))).is_ok());
        assert_eq!(api.asked("/status"), asked);
    }
}

#[test]
fn where_the_status_is_not_polled_there_is_no_queue() {
    let host = Host { status_poll: None, ..fixture::host(None) };
    assert!(Queue::new(Config {}, &host, &Sources::default()).unwrap().is_none());
}

#[test]
fn a_mapped_queue_has_the_numbers_that_stand_there_and_no_others() {
    let api = Api::new();
    api.json("/q", json!({"running": 2, "waiting": 1, "limit": "many"}));
    let text = format!(
        "name = \"q\"\nurl = \"{}/q\"\n[queue]\nactive_containers = \"/running\"\nmax_concurrent = \"/limit\"\n\
         groups_waiting = \"/waiting\"",
        api.url
    );
    let mut host = Host { profile: Profile::Generic, url: None, ..fixture::host(None) };
    host.listed.http = vec![toml::from_str(&text).unwrap()];
    let mut collector = collector(&host, &Sources::default());
    look(&mut collector, "20:00:00").unwrap();
    let section = look(&mut collector, "20:01:00").unwrap();
    let points = fixture::points::<Queue>(&section);
    for (fact, known) in
        [(&ACTIVE, Some(2.0)), (&LIMIT, None), (&WAITING, Some(1.0)), (&OLDEST_WAIT, Some(60.0)), (&SATURATED, None)]
    {
        assert_eq!(value(&points, fact, ""), Some(known), "{}", fact.prometheus);
    }
    api.json("/q", json!({"running": 0.5, "waiting": -1, "limit": 5}));
    let points = fixture::points::<Queue>(&look(&mut collector, "20:02:00").unwrap());
    for (fact, known) in
        [(&ACTIVE, None), (&LIMIT, Some(5.0)), (&WAITING, None), (&OLDEST_WAIT, None), (&STALLED, None)]
    {
        assert_eq!(value(&points, fact, ""), Some(known), "{}", fact.prometheus);
    }
}

#[test]
fn a_host_that_is_starting_has_no_queue_to_tell_of_yet() {
    let (api, sources) = (Api::new(), Sources::default());
    let cause = |queue: &mut Queue, time| Failure::from(look(queue, time).unwrap_err()).cause;
    let mut queue = collector(&host(&api), &sources);
    sources.boot.tell(at("20:00:00"), Some(Duration::from_secs(90)));
    for (say, time, expected) in [
        (Say::Status(503), "20:00:10", Cause::Excused),
        (Say::Status(404), "20:00:50", Cause::Unanswered),
        (Say::Status(503), "20:02:00", Cause::Unanswered),
    ] {
        api.say("/status", say);
        assert_eq!(cause(&mut queue, time), expected, "{time}");
    }
}
