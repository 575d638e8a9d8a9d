use std::path::PathBuf;

use super::*;
use crate::collect::fixture::{self, Connection, at, now_or_never, params};

/// A host's database that a test writes, and the collector that looks at it.
struct Scene {
    folder: tempfile::TempDir,
    host: Connection,
    collector: Messages,
}

impl Scene {
    /// Two registered groups and one stray chat.
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

    fn say(&self, id: &str, jid: &str, sender: &str, time: &str) {
        let mine = matches!(sender, "bot" | "host" | "result_meta");
        let sql = "INSERT OR REPLACE INTO messages (id, chat_jid, sender, content, timestamp, is_from_me) \
                   VALUES (?1, ?2, ?3, 'secret words', ?4, ?5)";
        self.host.execute(sql, params![id, jid, sender, stamp(time), mine]).unwrap();
    }

    fn send(&self, jid: &str, time: &str, channel: &str, delivered: bool, error: Option<&str>) {
        let sql = "INSERT INTO outbound_ledger (chat_jid, content, timestamp, source) VALUES (?1, 'x', ?2, 'agent')";
        self.host.execute(sql, params![jid, stamp(time)]).unwrap();
        let sql = "INSERT INTO outbound_deliveries VALUES (last_insert_rowid(), ?1, ?2, ?3)";
        let delivered = delivered.then_some("2026-11-21T12:00:00+00:00");
        self.host.execute(sql, params![channel, delivered, error]).unwrap();
    }

    fn cursor(&self, json: &str) {
        let sql = "INSERT OR REPLACE INTO router_state VALUES ('last_agent_timestamp', ?1)";
        self.host.execute(sql, [json]).unwrap();
    }

    fn sql(&self, sql: &str) {
        self.host.execute_batch(sql).unwrap();
    }

    /// As if every count of all rows were a long one.
    fn count_slowly(&mut self) {
        if let Some((_, took)) = &mut self.collector.counted {
            *took = Duration::from_secs(1);
        }
    }

    fn look(&mut self, time: &str) -> Section {
        self.try_look(time).unwrap()
    }

    fn try_look(&mut self, time: &str) -> Result<Section> {
        now_or_never(self.collector.collect(at(time)))
    }
}

fn collector(path: &std::path::Path) -> Messages {
    let host = fixture::host(Some(path.into()));
    Messages::new(Config {}, &host, &Sources::default()).unwrap().unwrap()
}

/// A time of the fixtures' day, or a whole timestamp.
fn stamp(time: &str) -> String {
    if time.len() == 8 { format!("2026-11-21T{time}.000001+00:00") } else { time.into() }
}

fn utc(time: &str) -> Option<Timestamp> {
    Some(stamp(time).parse().unwrap())
}

/// Every point by name and labels.
fn values(section: &Section) -> BTreeMap<String, Option<f64>> {
    let mut points = Points::default();
    Messages::points(section, &mut points);
    assert!(points.0.iter().all(|point| Messages::FACTS.iter().any(|fact| fact.is(point.fact))));
    points.0.iter().map(|point| (format!("{} {}", point.fact.prometheus, point.subject()), point.value)).collect()
}

fn value(section: &Section, name: &str) -> Option<f64> {
    let values = values(section);
    *values.get(name).unwrap_or_else(|| panic!("no {name} in {values:#?}"))
}

#[test]
fn without_a_database_there_is_no_collector() {
    assert!(Messages::new(Config {}, &fixture::host(None), &Sources::default()).unwrap().is_none());
}

#[test]
fn an_empty_database_has_zeros_and_no_last_moments() {
    let mut scene = Scene::new();
    let section = scene.look("12:00:00");
    assert_eq!((section.total_inbound, section.total_outbound, section.pending_deliveries), (0, 0, 0));
    assert_eq!((section.last_received_at, section.last_sent_at), (None, None));
    assert_eq!(section.groups.keys().map(|name| &**name).collect::<Vec<_>>(), ["alpha", "beta"]);
    let alpha = &section.groups["alpha"];
    assert_eq!((alpha.unprocessed, alpha.answers), (Some(0), None));
    let values = values(&section);
    assert_eq!(values["agenthost_inbound_oldest_unanswered_seconds alpha"], Some(0.0));
    assert_eq!(values["agenthost_messages_received_total alpha"], Some(0.0));
    assert!(!values.keys().any(|name| name.contains("last_received")), "{values:#?}");
    assert!(!values.keys().any(|name| name.contains("deliveries")), "{values:#?}");
}

#[test]
fn counts_what_came_went_and_waits() {
    let mut scene = Scene::new();
    for n in 0..5 {
        scene.say(&format!("in{n}"), "jid-a", "U1", &format!("11:0{n}:00"));
        scene.say(&format!("out{n}"), "jid-a", "bot", &format!("11:0{n}:30"));
    }
    scene.say("n", "jid-b", "system_notice", "11:30:00");
    scene.say("s", "jid-stray", "U2", "11:40:00");
    scene.say("g", "__group_sync__", "U2", "11:59:00");
    scene.send("jid-a", "11:00:30", "slack", true, None);
    scene.send("jid-a", "11:50:00", "slack", false, None);
    scene.send("jid-b", "11:20:00", "mail", false, Some("secret error"));
    scene.cursor(&format!(r#"{{"jid-a": "{}"}}"#, stamp("11:02:00")));
    scene.sql("INSERT INTO channel_cursors VALUES ('quiet', 'jid-a', 'inbound', '', '')");
    let section = scene.look("12:00:00");
    assert_eq!((section.total_inbound, section.total_outbound), (7, 3));
    assert_eq!((section.pending_deliveries, section.erroring_deliveries), (2, 1));
    assert_eq!((section.last_received_at, section.last_sent_at), (utc("11:40:00"), utc("11:50:00")));
    let alpha = &section.groups["alpha"];
    assert_eq!((alpha.unprocessed, alpha.answers), (Some(2), Some(true)));
    assert_eq!((alpha.oldest_unprocessed_at, alpha.oldest_unanswered_at), (utc("11:03:00"), utc("11:03:00")));
    let beta = &section.groups["beta"];
    assert_eq!((beta.unprocessed, beta.oldest_unprocessed_at), (Some(1), utc("11:30:00")));
    assert_eq!(beta.oldest_unanswered_at, None, "a notice waits for no answer");
    let stray = &section.groups["(unregistered)"];
    assert_eq!((stray.unprocessed, stray.last_received_at), (None, utc("11:40:00")));
    assert_eq!(section.channels["mail"], Waiting { pending: 1, erroring: 1, oldest_pending_at: utc("11:20:00") });
    assert_eq!(section.channels["quiet"], Waiting::default());
    let age = |name: &str| value(&section, name).unwrap().round();
    assert_eq!(age("agenthost_deliveries_oldest_pending_seconds mail"), 2400.0);
    assert_eq!(age("agenthost_deliveries_oldest_pending_seconds quiet"), 0.0);
    assert_eq!(age("agenthost_deliveries_erroring slack"), 0.0);
    assert_eq!(age("agenthost_inbound_oldest_unanswered_seconds alpha"), 57.0 * 60.0);
    assert_eq!(age("agenthost_inbound_oldest_unanswered_seconds beta"), 0.0);
    assert_eq!(age("agenthost_messages_sent_total alpha"), 2.0);
    assert!(!values(&section).contains_key("agenthost_inbound_oldest_unanswered_seconds (unregistered)"));
}

#[test]
fn nothing_of_a_message_is_shown() {
    let mut scene = Scene::new();
    scene.say("in", "jid-a", "U1", "11:00:00");
    scene.send("jid-a", "11:50:00", "slack", false, Some("secret error"));
    scene.cursor(r#"{"jid-a": ["secret cursor"]}"#);
    let json = serde_json::to_string(&scene.look("12:00:00")).unwrap();
    assert!(!json.contains("secret"), "{json}");
    assert!(json.contains(r#""last_received_at":"2026-11-21T11:00:00.000001Z""#), "{json}");
}

#[test]
fn ages_grow_though_nothing_is_read_again() {
    let mut scene = Scene::new();
    scene.send("jid-a", "11:59:00", "slack", false, None);
    scene.look("12:00:00");
    let section = scene.look("12:10:00");
    assert_eq!(value(&section, "agenthost_deliveries_oldest_pending_seconds slack").unwrap().round(), 660.0);
}

#[test]
fn new_rows_are_added_and_a_replaced_one_is_counted_once() {
    let mut scene = Scene::new();
    scene.say("one", "jid-a", "U1", "11:00:00");
    scene.say("two", "jid-a", "U1", "11:01:00");
    scene.look("12:00:00");
    scene.count_slowly();
    scene.say("one", "jid-a", "U1", "11:00:00");
    scene.say("three", "jid-a", "U1", "11:02:00");
    scene.send("jid-a", "11:03:00", "slack", true, None);
    let section = scene.look("12:00:15");
    assert_eq!((section.total_inbound, section.total_outbound), (3, 1));
    assert_eq!(section.groups["alpha"].unprocessed, Some(3));
    assert_eq!(value(&section, "agenthost_messages_received_total alpha"), Some(3.0));
    assert_eq!(section.last_received_at, utc("11:02:00"));
    scene.say("four", "jid-a", "U1", "11:04:00");
    scene.count_slowly();
    let section = scene.look("12:00:30");
    assert_eq!(value(&section, "agenthost_messages_received_total alpha"), Some(4.0));
    assert_eq!(section.groups["alpha"].unprocessed, Some(4));
}

#[test]
fn the_backlog_is_counted_anew_where_the_cursor_moved() {
    let mut scene = Scene::new();
    for n in 0..6 {
        scene.say(&format!("a{n}"), "jid-a", "U1", &format!("11:0{n}:00"));
        scene.say(&format!("b{n}"), "jid-b", "U1", &format!("11:0{n}:00"));
    }
    scene.look("12:00:00");
    scene.count_slowly();
    scene.cursor(&format!(r#"{{"jid-a": "{}"}}"#, stamp("11:03:00")));
    scene.say("a6", "jid-a", "U1", "11:06:00");
    scene.say("b6", "jid-b", "U1", "11:06:00");
    let section = scene.look("12:00:15");
    assert_eq!((section.groups["alpha"].unprocessed, section.groups["beta"].unprocessed), (Some(3), Some(7)));
    assert_eq!(section.groups["alpha"].oldest_unprocessed_at, utc("11:04:00"));
    assert_eq!(section.groups["alpha"].answers, Some(false), "nobody ever answered");
}

#[test]
fn a_pruned_row_leaves_the_gauges_within_the_hour_and_the_counters_never() {
    let mut scene = Scene::new();
    for n in 0..4 {
        scene.say(&format!("a{n}"), "jid-a", "U1", &format!("11:0{n}:00"));
    }
    scene.look("12:00:00");
    scene.count_slowly();
    scene.sql("DELETE FROM messages WHERE id IN ('a0', 'a1')");
    assert_eq!(scene.look("12:00:15").total_inbound, 4);
    scene.say("a4", "jid-a", "U1", "12:01:00");
    scene.count_slowly();
    assert_eq!(scene.look("12:59:00").total_inbound, 5);
    scene.say("a5", "jid-a", "U1", "13:00:00");
    let section = scene.look("13:01:00");
    assert_eq!(section.total_inbound, 4);
    assert_eq!(value(&section, "agenthost_messages_received_total alpha"), Some(6.0));
}

#[test]
fn a_small_database_is_counted_whole_at_every_change() {
    let mut scene = Scene::new();
    scene.say("a0", "jid-a", "U1", "11:00:00");
    scene.say("a1", "jid-a", "U1", "11:01:00");
    scene.look("12:00:00");
    scene.collector.counted.as_mut().unwrap().1 = Duration::ZERO;
    scene.sql("DELETE FROM messages WHERE id = 'a0'");
    assert_eq!(scene.look("12:00:15").total_inbound, 1);
}

#[test]
fn rows_gone_from_the_end_make_it_count_anew_and_the_counter_stays() {
    let mut scene = Scene::new();
    for n in 0..4 {
        scene.say(&format!("a{n}"), "jid-a", "U1", &format!("11:0{n}:00"));
    }
    scene.look("12:00:00");
    scene.count_slowly();
    scene.sql("DELETE FROM messages WHERE id IN ('a2', 'a3')");
    let section = scene.look("12:00:15");
    assert_eq!((section.total_inbound, section.last_received_at), (2, utc("11:01:00")));
    assert_eq!(value(&section, "agenthost_messages_received_total alpha"), Some(4.0));
    scene.count_slowly();
    scene.say("a9", "jid-a", "U1", "11:09:00");
    let section = scene.look("12:00:30");
    assert_eq!(value(&section, "agenthost_messages_received_total alpha"), Some(5.0));
}

#[test]
fn a_replaced_file_is_counted_anew_and_the_counters_go_on() {
    let mut scene = Scene::new();
    for n in 0..3 {
        scene.say(&format!("a{n}"), "jid-a", "U1", &format!("11:0{n}:00"));
    }
    scene.look("12:00:00");
    let other = Scene::new();
    for n in 0..5 {
        other.say(&format!("x{n}"), "jid-b", "U1", &format!("10:0{n}:00"));
    }
    std::fs::rename(other.path(), scene.path()).unwrap();
    let section = scene.look("12:00:15");
    assert_eq!((section.total_inbound, section.last_received_at), (5, utc("10:04:00")));
    assert_eq!(value(&section, "agenthost_messages_received_total alpha"), Some(3.0));
    assert_eq!(value(&section, "agenthost_messages_received_total beta"), Some(5.0));
    assert!(!section.groups.contains_key("(unregistered)"));
}

#[test]
fn a_deleted_or_locked_database_is_an_error_and_then_it_goes_on() {
    let mut scene = Scene::new();
    scene.say("a0", "jid-a", "U1", "11:00:00");
    scene.look("12:00:00");
    scene.sql("BEGIN EXCLUSIVE");
    let error = format!("{:#}", scene.try_look("12:00:15").unwrap_err());
    assert!(error.contains("database is locked"), "{error}");
    scene.sql("COMMIT");
    let aside = scene.folder.path().join("aside.db");
    std::fs::rename(scene.path(), &aside).unwrap();
    assert!(scene.try_look("12:00:30").is_err());
    std::fs::rename(&aside, scene.path()).unwrap();
    let section = scene.look("12:00:45");
    assert_eq!((section.total_inbound, value(&section, "agenthost_messages_received_total alpha")), (1, Some(1.0)));
}

#[test]
fn a_schema_that_is_not_known_is_named() {
    let mut scene = Scene::new();
    scene.sql("ALTER TABLE outbound_deliveries RENAME COLUMN error TO failure");
    let error = format!("{:#}", scene.try_look("12:00:00").unwrap_err());
    assert!(error.contains("table `outbound_deliveries` has no column `error`"), "{error}");
    scene.sql("ALTER TABLE outbound_deliveries RENAME COLUMN failure TO error; ALTER TABLE messages ADD COLUMN x");
    scene.look("12:00:15");
    scene.sql("DROP TABLE registered_groups");
    assert!(scene.try_look("12:00:30").is_err());
}

#[test]
fn the_future_is_counted_and_never_the_last_until_its_time_comes() {
    let mut scene = Scene::new();
    scene.say("now", "jid-a", "U1", "12:00:00");
    scene.say("soon", "jid-a", "U1", "12:04:00");
    scene.say("later", "jid-a", "U1", "12:30:00");
    scene.say("never", "jid-a", "U1", "9998-01-01T00:00:00+00:00");
    scene.say("junk", "jid-a", "U1", "yesterday");
    let section = scene.look("12:00:00");
    assert_eq!((section.future_timestamps, section.unreadable_timestamps, section.total_inbound), (2, 1, 5));
    assert_eq!(section.last_received_at, utc("12:04:00"));
    let section = scene.look("12:26:00");
    assert_eq!((section.future_timestamps, section.last_received_at), (1, utc("12:30:00")));
}

#[test]
fn a_timestamp_is_read_as_in_all_other_tables() {
    let last = |time: &str| {
        let mut scene = Scene::new();
        scene.say("a", "jid-a", "U1", time);
        scene.send("jid-a", time, "slack", false, None);
        let section = scene.look("23:00:00");
        let moments = [section.last_received_at, section.last_sent_at, section.channels["slack"].oldest_pending_at];
        assert!(moments.iter().all(|&moment| moment == moments[0]), "{time}: {moments:?}");
        (moments[0], section.unreadable_timestamps)
    };
    assert_eq!(last("2026-11-21T12:00:00"), (utc("2026-11-21T12:00:00Z"), 0), "without offset it is UTC");
    assert_eq!(last("2026-11-21T12:00:00.5"), (utc("2026-11-21T12:00:00.5Z"), 0));
    assert_eq!(last("2026-11-21T12:00:00-08:00"), (utc("2026-11-21T20:00:00Z"), 0));
    assert_eq!(last("2026-11-21 12:00:00"), (utc("2026-11-21T12:00:00Z"), 0));
    for text in ["", "soon", "2026-11-21", "2026-11-21T12:00", "2026-11-21 12:00:00Z", "2026-11-21T12:00:00+00:00[UTC]"]
    {
        assert_eq!(last(text), (None, 2), "{text}");
    }
}

#[test]
fn a_cursor_that_cannot_be_read_leaves_only_its_group_unknown() {
    let mut scene = Scene::new();
    for n in 0..5 {
        scene.say(&format!("a{n}"), "jid-a", "U1", "11:00:00");
        scene.say(&format!("o{n}"), "jid-a", "bot", "11:00:01");
        scene.say(&format!("b{n}"), "jid-b", "U1", "11:00:00");
    }
    let sorts_before_all = r#"{"jid-a": null, "jid-b": "1"}"#;
    let broken = ["'not json'", "'[]'", "X'7b7d'", "CAST(X'ff' AS TEXT)"];
    for json in [sorts_before_all, r#"{"jid-a": 7, "jid-b": "1"}"#, r#"{"jid-a": ["x"], "jid-b": "1"}"#] {
        scene.cursor("{}");
        assert_eq!(scene.look("12:00:00").groups["alpha"].unprocessed, Some(5));
        scene.cursor(json);
        let section = scene.look("12:00:15");
        assert_eq!(section.unreadable_rows, 1, "{json}");
        assert_eq!(section.groups["beta"].unprocessed, Some(5), "{json}");
        assert_eq!(value(&section, "agenthost_inbound_unprocessed alpha"), None, "listed, but not seen");
        assert_eq!(value(&section, "agenthost_inbound_oldest_unanswered_seconds alpha"), None);
    }
    for state in broken {
        scene.sql(&format!("UPDATE router_state SET value = {state}"));
        let section = scene.look("12:00:30");
        assert_eq!((section.groups["alpha"].unprocessed, section.groups["beta"].unprocessed), (None, None), "{state}");
        assert_eq!((section.unreadable_rows, section.total_inbound), (1, 10), "{state}");
    }
}

#[test]
fn one_row_that_holds_no_text_hides_no_other() {
    for blob in ["X'00'", "CAST(X'ff' AS TEXT)"] {
        let mut scene = Scene::new();
        scene.say("a", "jid-a", "U1", "11:00:00");
        scene.say("odd", "jid-a", "U1", "11:01:00");
        scene.say("b", "jid-b", "U1", "11:02:00");
        for channel in ["mail", "odd", "slack"] {
            scene.send("jid-a", "11:00:00", channel, false, None);
        }
        scene.sql("INSERT INTO channel_cursors VALUES ('quiet', 'j', 'd', '', ''), ('odd', 'j', 'd', '', '')");
        scene.sql(&format!("UPDATE messages SET timestamp = {blob}, sender = {blob} WHERE id = 'odd'"));
        scene.sql(&format!("UPDATE registered_groups SET folder = {blob} WHERE jid = 'jid-b'"));
        scene.sql(&format!("UPDATE outbound_deliveries SET channel_name = {blob} WHERE channel_name = 'odd'"));
        scene.sql(&format!("UPDATE channel_cursors SET channel_name = {blob} WHERE channel_name = 'odd'"));
        let section = scene.look("12:00:00");
        assert_eq!(section.channels.keys().map(|name| &**name).collect::<Vec<_>>(), ["mail", "quiet", "slack"]);
        assert_eq!((section.pending_deliveries, section.unreadable_rows), (2, 3), "{blob}");
        assert_eq!((section.total_inbound, section.unreadable_timestamps), (3, 1), "{blob}");
        assert_eq!(section.groups.keys().map(|name| &**name).collect::<Vec<_>>(), ["(unregistered)", "alpha"]);
        let alpha = &section.groups["alpha"];
        assert_eq!((alpha.unprocessed, alpha.unanswered_undated), (Some(2), 1), "{blob}");
        scene.count_slowly();
        scene.sql(&format!(
            "INSERT INTO messages (id, chat_jid, sender, timestamp, is_from_me)
             VALUES ({blob}, 'jid-a', 'U1', {blob}, 0)"
        ));
        assert_eq!(scene.look("12:00:15").groups["alpha"].unprocessed, Some(3), "{blob}");
    }
}

#[test]
fn what_waits_since_nobody_knows_when_is_not_answered() {
    const AGE: &str = "agenthost_inbound_oldest_unanswered_seconds alpha";
    let mut scene = Scene::new();
    for n in 0..15 {
        scene.say(&format!("in{n}"), "jid-a", "U1", "soon");
        scene.say(&format!("out{n}"), "jid-a", "bot", "11:00:00");
    }
    let section = scene.look("12:00:00");
    let alpha = &section.groups["alpha"];
    assert_eq!((alpha.answers, alpha.unanswered, alpha.unanswered_undated), (Some(true), Some(15), 15));
    assert_eq!(value(&section, AGE), None);
    scene.say("young", "jid-a", "U1", "11:59:00");
    assert_eq!(value(&scene.look("12:00:15"), AGE), None, "the others may have waited for days");
    scene.say("old", "jid-a", "U1", "11:20:00");
    assert_eq!(value(&scene.look("12:00:30"), AGE).map(f64::round), Some(2430.0), "too long, whatever the others");
    scene.sql("DELETE FROM messages WHERE timestamp = 'soon'");
    scene.cursor(r#"{"jid-a": "9"}"#);
    assert_eq!(value(&scene.look("12:00:45"), AGE), Some(0.0), "none waits");
    scene.cursor("{}");
    scene.sql("UPDATE messages SET sender = 'system_notice' WHERE sender = 'U1'");
    let section = scene.look("12:01:00");
    assert_eq!((section.groups["alpha"].unprocessed, section.groups["alpha"].unanswered), (Some(2), Some(0)));
}

#[test]
fn a_delivery_whose_ledger_row_is_gone_has_no_age() {
    let mut scene = Scene::new();
    scene.send("jid-a", "11:00:00", "slack", false, None);
    scene.sql("DELETE FROM outbound_ledger");
    let section = scene.look("12:00:00");
    assert_eq!(section.channels["slack"].pending, 1);
    assert_eq!(value(&section, "agenthost_deliveries_oldest_pending_seconds slack"), None);
}

#[test]
fn a_channel_stays_listed_when_nothing_waits_any_more() {
    let mut scene = Scene::new();
    scene.sql("BEGIN");
    for _ in 0..deliveries::PAGE + 1 {
        scene.send("jid-a", "11:00:00", "slack", false, None);
    }
    scene.sql("COMMIT");
    assert_eq!(scene.look("12:00:00").pending_deliveries, deliveries::PAGE as u64 + 1);
    scene.sql("UPDATE outbound_deliveries SET delivered_at = '2026-11-21T12:00:01+00:00'");
    let section = scene.look("12:00:15");
    assert_eq!(value(&section, "agenthost_deliveries_oldest_pending_seconds slack"), Some(0.0));
}

#[test]
fn a_backlog_is_counted_up_to_a_bound() {
    let mut scene = Scene::new();
    scene.sql(
        "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 12000)
         INSERT INTO messages (id, chat_jid, sender, timestamp, is_from_me)
         SELECT 'm' || n, 'jid-a', 'U1', '2026-11-20T12:00:00+00:00', 0 FROM s",
    );
    let section = scene.look("12:00:00");
    assert_eq!(section.groups["alpha"].unprocessed, Some(10_000));
    assert!(section.groups["alpha"].unprocessed_capped);
    assert_eq!(value(&section, "agenthost_messages_received_total alpha"), Some(12_000.0));
}

#[test]
fn a_group_that_is_registered_later_takes_its_rows_and_no_counter_falls() {
    let mut scene = Scene::new();
    scene.say("c0", "jid-c", "U1", "11:00:00");
    assert_eq!(scene.look("12:00:00").groups["(unregistered)"].last_received_at, utc("11:00:00"));
    scene.sql("INSERT INTO registered_groups (jid, name, folder, trigger_pattern, added_at) VALUES ('jid-c', '', 'gamma', '', '')");
    let section = scene.look("12:00:15");
    assert!(!section.groups.contains_key("(unregistered)"));
    assert_eq!(section.groups["gamma"].unprocessed, Some(1));
    assert_eq!(value(&section, "agenthost_messages_received_total (unregistered)"), Some(1.0));
    assert_eq!(value(&section, "agenthost_messages_received_total gamma"), Some(0.0));
}

#[test]
fn a_group_in_a_folder_called_unregistered_is_not_hidden_by_the_stray_chats() {
    let mut scene = Scene::new();
    scene.sql("UPDATE registered_groups SET folder = 'unregistered' WHERE jid = 'jid-a'");
    scene.say("a", "jid-a", "U1", "11:00:00");
    scene.say("b", "jid-stray", "U1", "11:01:00");
    scene.say("c", "jid-stray", "U1", "11:02:00");
    let section = scene.look("12:00:00");
    assert_eq!(section.groups["unregistered"].unprocessed, Some(1));
    assert_eq!(section.groups["(unregistered)"].unprocessed, None);
    assert_eq!(value(&section, "agenthost_messages_received_total unregistered"), Some(1.0));
    assert_eq!(value(&section, "agenthost_messages_received_total (unregistered)"), Some(2.0));
}

#[test]
fn an_unknown_key_is_refused() {
    assert!(toml::from_str::<Config>("colour = 1").is_err());
}
