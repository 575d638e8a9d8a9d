use std::path::{Path, PathBuf};

use super::*;
use crate::collect::fixture::{self, Connection, at, now_or_never, params};

const GOOD: &str = r#"{"subtype": "success", "duration_ms": 1500, "duration_api_ms": 900, "is_error": false,
    "num_turns": 3, "session_id": "secret", "total_cost_usd": 0.25, "usage": {"input_tokens": 100,
    "output_tokens": 20, "cache_read_input_tokens": 3000, "cache_creation_input_tokens": 7}}"#;

struct Scene {
    folder: tempfile::TempDir,
    host: Connection,
    collector: Usage,
}

impl Scene {
    fn new() -> Scene {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("messages.db");
        let host = fixture::pynchy(&path);
        for (jid, folder) in [("jid-a", "alpha"), ("jid-b", "beta")] {
            let sql = "INSERT INTO registered_groups (jid, name, folder, trigger_pattern, added_at) \
                       VALUES (?1, ?2, ?2, '@p', '2026-11-01T00:00:00+00:00')";
            host.execute(sql, params![jid, folder]).unwrap();
        }
        Scene { collector: collector(&path), folder, host }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("messages.db")
    }

    fn run(&self, id: &str, jid: &str, json: &str) {
        let sql = "INSERT OR REPLACE INTO messages (id, chat_jid, sender, content, timestamp, is_from_me) \
                   VALUES (?1, ?2, 'result_meta', ?3, '2026-11-21T12:00:00+00:00', 1)";
        self.host.execute(sql, params![id, jid, json]).unwrap();
    }

    fn trace(&self, jid: Option<&str>, json: &str) {
        let sql = "INSERT INTO events (event_type, chat_jid, timestamp, payload) VALUES ('agent_trace', ?1, '', ?2)";
        self.host.execute(sql, params![jid, json]).unwrap();
    }

    fn look(&mut self, time: &str) -> Section {
        now_or_never(self.collector.collect(at(time))).unwrap()
    }
}

fn collector(path: &Path) -> Usage {
    Usage::new(Config {}, &fixture::host(Some(path.into())), &Sources::default()).unwrap().unwrap()
}

/// The values of one group by name and kind.
fn values(section: &Section, group: &str) -> BTreeMap<String, Option<f64>> {
    let mut points = Points::default();
    Usage::points(section, &mut points);
    assert!(points.0.iter().all(|point| Usage::FACTS.iter().any(|fact| fact.is(point.fact))));
    let mine = points.0.into_iter().filter(|point| *point.labels[0] == *group);
    mine.map(|point| {
        let kind: String = point.labels[1..].iter().map(|kind| format!(" {kind}")).collect();
        (format!("{}{kind}", point.fact.prometheus), point.value)
    })
    .collect()
}

#[test]
fn a_registered_group_without_runs_has_counted_none_and_knows_no_cost() {
    let section = Scene::new().look("12:00:00");
    let values = values(&section, "alpha");
    assert_eq!(values["agenthost_usage_runs_total"], Some(0.0));
    assert_eq!(values["agenthost_usage_tool_calls_total"], Some(0.0));
    assert_eq!(values["agenthost_usage_cost_usd_total"], None);
    assert_eq!(values["agenthost_usage_tokens_total input"], None);
    assert_eq!(values["agenthost_usage_tool_errors_total"], None);
}

#[test]
fn sums_what_runs_and_traces_tell() {
    let mut scene = Scene::new();
    scene.run("1", "jid-a", GOOD);
    scene.run("2", "jid-a", r#"{"is_error": true, "total_cost_usd": 1, "num_turns": 2.0, "usage": null}"#);
    scene.run("3", "jid-stray", "{}");
    scene.run("4", "__group_sync__", GOOD);
    scene.trace(Some("jid-a"), r#"{"trace_type": "tool_use", "tool_name": "Bash", "tool_input": {"is_error": 1}}"#);
    scene.trace(Some("jid-a"), r#"{"trace_type": "tool_result", "content": [1], "is_error": true}"#);
    scene.trace(Some("jid-a"), r#"{"trace_type": "tool_result", "content": "ok", "is_error": false}"#);
    scene.trace(Some("jid-a"), r#"{"trace_type": "tool_result", "is_error": null}"#);
    scene.trace(Some("jid-a"), r#"{"trace_type": "thinking", "thinking": "secret"}"#);
    scene.trace(None, r#"{"trace_type": "tool_use"}"#);
    let section = scene.look("12:00:00");
    let alpha = &section.groups["alpha"];
    assert_eq!((alpha.runs, alpha.run_errors, alpha.turns), (2, Sum(Some(1)), Sum(Some(5))));
    assert_eq!((alpha.cost_usd, alpha.duration_seconds, alpha.timed_runs), (Sum(Some(1.25)), Sum(Some(1.5)), 1));
    let tokens = [100, 20, 3000, 7].map(|count| Sum(Some(count)));
    assert_eq!(alpha.tokens.by_kind().map(|(_, sum)| sum), tokens);
    assert_eq!((alpha.tool_calls, alpha.tool_errors, alpha.unreadable), (1, Sum(Some(1)), 0));
    let stray = &section.groups["(unregistered)"];
    assert_eq!((stray.runs, stray.run_errors, stray.cost_usd, stray.tool_calls), (1, Sum(None), Sum(None), 1));
    assert_eq!(section.groups["beta"], Group::default());
    assert_eq!(values(&section, "alpha")["agenthost_usage_tokens_total cache_read"], Some(3000.0));
    let json = serde_json::to_string(&section).unwrap();
    assert!(!json.contains("secret") && json.contains(r#""cost_usd":null"#), "{json}");
}

#[test]
fn broken_rows_are_counted_as_such_and_no_sum_falls() {
    let mut scene = Scene::new();
    scene.run("1", "jid-a", GOOD);
    for (id, json) in [("2", "not json"), ("3", r#"{"num_turns": "three"}"#), ("4", "[]"), ("5", "{")] {
        scene.run(id, "jid-a", json);
    }
    scene.run("6", "jid-a", r#"{"total_cost_usd": -5, "num_turns": -1, "usage": {"input_tokens": 1e300}}"#);
    scene.host.execute_batch("UPDATE messages SET content = NULL WHERE id = '5'").unwrap();
    scene.trace(Some("jid-a"), "nothing");
    let section = scene.look("12:00:00");
    let alpha = &section.groups["alpha"];
    assert_eq!((alpha.runs, alpha.unreadable), (2, 5));
    assert_eq!((alpha.cost_usd, alpha.turns, alpha.tokens.input), (Sum(Some(0.25)), Sum(Some(3)), Sum(Some(100))));
}

#[test]
fn a_group_that_cannot_be_read_hides_no_other() {
    let mut scene = Scene::new();
    scene.host.execute_batch("UPDATE registered_groups SET folder = X'00' WHERE jid = 'jid-b'").unwrap();
    scene.run("1", "jid-a", GOOD);
    scene.run("2", "jid-b", GOOD);
    let section = scene.look("12:00:00");
    assert_eq!((section.groups["alpha"].runs, section.groups["(unregistered)"].runs), (1, 1));
    assert_eq!(section.unreadable_rows, 1);
}

#[test]
fn new_rows_are_added_a_replaced_one_is_not_and_pruned_ones_stay() {
    let mut scene = Scene::new();
    scene.run("1", "jid-a", GOOD);
    scene.run("2", "jid-a", GOOD);
    scene.trace(Some("jid-a"), r#"{"trace_type": "tool_use"}"#);
    scene.look("12:00:00");
    scene.run("1", "jid-a", GOOD);
    scene.run("3", "jid-a", GOOD);
    scene.host.execute_batch("DELETE FROM messages WHERE id = '2'").unwrap();
    scene.trace(Some("jid-a"), r#"{"trace_type": "tool_use"}"#);
    let alpha = &scene.look("12:00:30").groups["alpha"];
    assert_eq!((alpha.runs, alpha.cost_usd, alpha.tool_calls), (3, Sum(Some(0.75)), 2));
    scene.host.execute_batch("DELETE FROM messages; DELETE FROM events").unwrap();
    let alpha = &scene.look("12:01:00").groups["alpha"];
    assert_eq!((alpha.runs, alpha.cost_usd, alpha.tool_calls), (3, Sum(Some(0.75)), 2));
    scene.run("4", "jid-a", GOOD);
    assert_eq!(scene.look("12:01:30").groups["alpha"].runs, 4);
}

#[test]
fn a_replaced_file_is_summed_anew_and_the_counters_go_on() {
    let mut scene = Scene::new();
    scene.run("1", "jid-a", GOOD);
    scene.run("2", "jid-a", GOOD);
    scene.look("12:00:00");
    let other = Scene::new();
    other.run("9", "jid-a", GOOD);
    other.run("8", "jid-b", GOOD);
    std::fs::rename(other.path(), scene.path()).unwrap();
    let section = scene.look("12:00:30");
    assert_eq!((section.groups["alpha"].runs, section.groups["beta"].runs), (2, 1));
    scene.host = fixture::open(&scene.path());
    scene.run("7", "jid-a", GOOD);
    assert_eq!(scene.look("12:01:00").groups["alpha"].runs, 3);
}

#[test]
fn a_reading_that_fails_adds_nothing_twice() {
    let mut scene = Scene::new();
    scene.run("1", "jid-a", GOOD);
    scene.look("12:00:00");
    scene.run("2", "jid-a", GOOD);
    scene.host.execute_batch("ALTER TABLE events RENAME TO other").unwrap();
    assert!(now_or_never(scene.collector.collect(at("12:00:30"))).is_err());
    scene.host.execute_batch("ALTER TABLE other RENAME TO events; BEGIN EXCLUSIVE").unwrap();
    assert!(now_or_never(scene.collector.collect(at("12:01:00"))).is_err());
    scene.host.execute_batch("COMMIT").unwrap();
    assert_eq!(scene.look("12:01:30").groups["alpha"].runs, 2);
}

#[test]
fn a_history_of_many_slices_is_summed_whole() {
    let mut scene = Scene::new();
    let many = "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 30000)
        INSERT INTO messages (id, chat_jid, sender, content, timestamp, is_from_me)
        SELECT 'm' || n, 'jid-a', iif(n % 3 = 0, 'result_meta', 'bot'), '{\"num_turns\": 1}', '', 1 FROM s;
        DELETE FROM messages WHERE rowid BETWEEN 6001 AND 24000";
    scene.host.execute_batch(many).unwrap();
    assert_eq!(scene.look("12:00:00").groups["alpha"].runs, 4000);
}
