//! The database of the host.

use super::*;
use crate::table::{Aim, row};

/// Half a million messages, and 5 million: the first reading, and ticks after it.
pub fn database() {
    let [few, many] = full_or([500_000, 5_000_000], [500, 5000])
        .map(|messages| ["messages", "usage"].map(|name| ticks(name, messages)));
    for (name, (few, many)) in ["messages", "usage"].into_iter().zip(few.into_iter().zip(many)) {
        let what = |which| format!("`{name}` over 5 million messages: a tick {which}");
        let beside = "the same over 500 000";
        row(what("after 100 new ones"), many.busy, "ms", beside, few.busy, Aim::AtMost(1.25));
        row(what("when nothing changed"), many.idle, "ms", beside, few.idle, Aim::AtMost(1.25));
    }
}

/// Milliseconds.
struct Ticks {
    idle: f64,
    busy: f64,
}

fn ticks(name: &str, messages: u32) -> Ticks {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fill(folder.path(), messages);
    let writer = Connection::open(folder.path().join("data/messages.db")).expect("the database");
    writer.execute_batch("PRAGMA foreign_keys = OFF").expect("a pragma"); // as the host does
    let subsystem = collect::ALL.iter().find(|one| one.name == name).expect("it is listed");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let mut collector = build(subsystem, folder.path());
    let mut look = || {
        let run = || drop(collector.run(Now::read(), Duration::from_secs(60), runtime.handle()).expect("a reading"));
        timed(run).as_secs_f64() * 1e3
    };
    let say = |what: &str, value| say(&format!("{name}, {messages} messages: {what}"), value, "ms");
    say("first reading", look());
    std::thread::sleep(Duration::from_secs(3)); // the file's time stamp must be old to be trusted
    look();
    let idle = (0..20).map(|_| look()).fold(f64::INFINITY, f64::min);
    let busy = (0..20).map(|round| {
        insert(&writer, &format!("{name}-{round}-"), 100);
        look()
    });
    let busy = busy.fold(f64::INFINITY, f64::min);
    say("a tick when nothing changed", idle);
    say("a tick after 100 new messages", busy);
    let count = "SELECT count(*) FROM messages WHERE is_from_me = 0";
    let by_count = best(3, || drop(black_box(writer.query_row(count, [], |row| row.get::<_, i64>(0)))));
    say("beside it: one COUNT(*) of inbound messages", by_count / 1e3);
    Ticks { idle, busy }
}

pub fn fill(root: &Path, messages: u32) {
    std::fs::create_dir_all(root.join("data")).expect("a folder");
    std::fs::write(root.join("config.toml"), "[server]\nport = 1\n").expect("a file");
    let database = Connection::open(root.join("data/messages.db")).expect("a database");
    database.execute_batch(include_str!("../../src/tool/demo/pynchy.sql")).expect("the schema");
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

pub fn insert(database: &Connection, prefix: &str, count: u32) {
    let rows = "INSERT INTO messages (id, chat_jid, sender, sender_name, content, timestamp, is_from_me, message_type)
        WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?2 - 1)
        SELECT ?1 || i, 'slack:C' || (i % 10), iif(i % 2, 'bot', 'U1'), 'u', 'lorem ipsum dolor sit amet',
            strftime('%Y-%m-%dT%H:%M:%S', '2026-01-01', '+' || i || ' seconds') || '+00:00', i % 2, 'user' FROM n";
    database.execute(rows, rusqlite::params![prefix, count]).expect("rows");
}
