//! SQLite: a host that writes without any patience, while every collector reads its database.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agenthost_exporter::collect::{self, Collect};
use agenthost_exporter::sample::Now;
use agenthost_exporter::source::Sources;
use jiff::Timestamp;
use rusqlite::{Connection, ErrorCode};

use crate::api::Api;
use crate::figures::{Figures, Spread};
use crate::fixture::{Root, host_in};
use crate::program::{Program, up};
use crate::strace::{Call, Trace, calls};
use crate::{is_long, skipped};

/// All that read the host's database.
const READERS: [&str; 7] = ["messages", "usage", "tasks", "host_jobs", "groups", "deploy", "sql"];
const MODES: [&str; 2] = ["delete", "wal"];

/// What may be: a hold of no more than this, and less than one refusal in a thousand tries.
const HELD_AT_MOST: Duration = Duration::from_millis(10);
const REFUSED_AT_MOST: f64 = 1.0 / 1000.0;
/// How much faster than by default the program looks in the short form: 15 s are a second.
const FASTER: u32 = 15;

/// Set for a process of its own by those who look at what that one does.
const ROOT: &str = "AGENTHOST_HARM_DATABASE_OF";
const STOP: &str = "AGENTHOST_HARM_STOP";

/// No test but the process that reads: without those variables there is nothing to do.
#[test]
fn reads() {
    let (Some(root), Some(stop)) = (std::env::var_os(ROOT), std::env::var_os(STOP)) else { return };
    let (root, stop) = (PathBuf::from(root), PathBuf::from(stop));
    let host = host_in(&root, "http://127.0.0.1:1");
    let build = |name: &str| {
        let subsystem = collect::ALL.iter().find(|one| one.name == name).unwrap();
        (subsystem.plan)(None).unwrap()(&host, &Sources::default()).unwrap().unwrap()
    };
    let mut readers: Vec<(&str, Box<dyn Collect>)> = READERS.map(|name| (name, build(name))).into();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (mut looks, mut failed) = (0, 0);
    // Nor without whoever began it.
    while !stop.exists() && root.exists() {
        for (_, reader) in &mut readers {
            looks += 1;
            failed += u32::from(reader.run(Now::read(), Duration::from_secs(60), runtime.handle()).is_err());
        }
    }
    println!("\nlooks {looks}\nfailed {failed}");
}

/// The process that reads as fast as it can; where we may, it and its tracer go before whatever else this machine does, so
/// that it is the program that is measured.
struct Reads {
    child: Child,
    folder: tempfile::TempDir,
}

/// It would go on for ever, before everybody else.
impl Drop for Reads {
    fn drop(&mut self) {
        self.stop();
        let _ = self.child.wait();
    }
}

impl Reads {
    fn begin(root: &Path) -> Reads {
        let folder = tempfile::tempdir().unwrap();
        let strace = Trace::to(folder.path().join("trace")).locks();
        let mut command = Command::new("nice");
        command.args(["-n", "-19"]).arg(strace.get_program()).args(strace.get_args());
        command.arg(std::env::current_exe().unwrap()).args([
            "--exact",
            "sqlite::reads",
            "--nocapture",
            "--test-threads=1",
        ]);
        command.env(ROOT, root).env(STOP, folder.path().join("stop")).stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Reads { child, folder }
    }

    fn stop(&self) {
        let _ = std::fs::write(self.folder.path().join("stop"), "");
    }

    /// What it printed, and its locks.
    fn end(mut self) -> (BTreeMap<String, u32>, String) {
        self.stop();
        let mut said = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.child.wait().unwrap().success(), "{said}");
        let figures = said.lines().filter_map(|line| line.split_once(' '));
        let figures = figures.filter_map(|(what, value)| Some((what.to_owned(), value.parse().ok()?)));
        (figures.collect(), Trace::to(self.folder.path().join("trace")).log())
    }
}

/// SQLite's locks, by the places in files that stand for them.
const SHARED: u64 = 0x4000_0002;
const READ_MARKS: std::ops::Range<u64> = 123..128;

/// For how long a place of a file was locked to be read, each time.
fn holds(log: &str, file: &Path, place: impl Fn(u64) -> bool) -> Vec<Duration> {
    let named = format!("<{}>", file.display());
    let (mut holds, mut since) = (Vec::new(), None);
    for call in calls(log).filter(|call| call.name == "fcntl" && call.rest.contains(&named)) {
        let (Some(start), Some(at)) = (start(&call), call.at) else { continue };
        if call.rest.contains("F_RDLCK") && place(start) {
            since.get_or_insert(at);
        } else if call.rest.contains("F_UNLCK") && (start == 0 || place(start)) {
            holds.extend(since.take().map(|since| Duration::from_secs_f64(at - since)));
        }
    }
    holds
}

fn start(call: &Call<'_>) -> Option<u64> {
    call.rest.split_once("F_SETLK, ")?.1.split_once("l_start=")?.1.split_once(',')?.0.parse().ok()
}

/// A host with a past of some size, whose database is in this mode.
fn host(mode: &str) -> Root {
    let root = Root::with_history(Timestamp::now());
    let database = Connection::open(root.database()).unwrap();
    // What is measured are locks, not the disk below this test.
    database.execute_batch("PRAGMA synchronous = OFF").unwrap();
    database
        .execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
             INSERT INTO messages (id, chat_jid, sender, timestamp, is_from_me)
             SELECT 'past-' || i, 'slack:C1', 'U1', '2026-01-01T00:00:00+00:00', i % 2 FROM n",
        )
        .unwrap();
    let now: String = database.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |row| row.get(0)).unwrap();
    assert_eq!(now, mode);
    root
}

/// The host: it tries once, and what is refused is lost.
struct Writer {
    database: Connection,
    tries: u32,
    refused: u32,
}

impl Writer {
    fn new(root: &Root) -> Writer {
        let database = Connection::open(root.database()).unwrap();
        database.busy_timeout(Duration::ZERO).unwrap();
        database.execute_batch("PRAGMA synchronous = OFF").unwrap();
        Writer { database, tries: 0, refused: 0 }
    }

    /// Whether it was let in.
    fn tries(&self, sql: &str) -> bool {
        match self.database.execute_batch(sql) {
            Ok(()) => true,
            Err(error) => {
                let code = error.sqlite_error_code();
                let busy = matches!(code, Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked));
                assert!(busy, "{sql}: {error}");
                false
            }
        }
    }

    /// A row is changed a thousand times a second, and one is added fifty times: far more than hosts do.
    fn works_for(&mut self, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.tries += 1;
            let number = self.tries;
            let changed = format!("UPDATE sessions SET session_id = 's{number}' WHERE group_folder = 'admin-1'");
            let added = format!(
                "INSERT INTO messages (id, chat_jid, sender, timestamp, is_from_me)
                 VALUES ('new-{number}-{}', 'slack:C1', 'U1', '{}', 0)",
                Timestamp::now().as_nanosecond(),
                Timestamp::now()
            );
            let done = self.tries(if number.is_multiple_of(20) { &added } else { &changed });
            self.refused += u32::from(!done);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_lock_is_held_for_milliseconds() {
    if let Some(why) = Trace::is_possible() {
        return skipped("how long locks are held", &why);
    }
    let mut figures =
        Figures::of("SQLite: seven collectors read without a pause beside a host that writes without patience");
    let time = Duration::from_secs(if is_long() { 20 } else { 4 });
    for mode in MODES {
        // A machine that is busy with others stops whoever holds a lock: the claim is about the program, so one of three
        // attempts must do.
        let held = (0..3).any(|_| {
            let root = host(mode);
            let mut writer = Writer::new(&root);
            let reads = Reads::begin(root.path());
            writer.works_for(time);
            let (said, log) = reads.end();
            let shm = root.database().with_extension("db-shm");
            let mut locks = match mode {
                "wal" => holds(&log, &shm, |start| READ_MARKS.contains(&start)),
                _ => holds(&log, &root.database(), |start| start == SHARED),
            };
            assert!(locks.len() > 50 && said["looks"] > 50, "{mode}: {} locks, {said:?}", locks.len());
            figures.spread(&format!("{mode}: a lock of ours is held for"), &mut locks);
            let share = f64::from(writer.refused) / f64::from(writer.tries);
            figures.say(
                format!("{mode}: tries of the host refused, were we to read all the time"),
                format!("{:.2} % of {}", share * 100.0, writer.tries),
            );
            figures
                .say(format!("{mode}: our looks, and those refused"), format!("{}, {}", said["looks"], said["failed"]));
            if mode == "wal" {
                // What only a change of the journal's mode waits for.
                figures.spread(
                    "wal: the file itself is open for",
                    &mut holds(&log, &root.database(), |start| start == SHARED),
                );
                assert_eq!(writer.refused, 0, "whoever reads a write-ahead log is in nobody's way");
            }
            Spread::of(&mut locks).is_some_and(|spread| spread.most < HELD_AT_MOST)
        });
        assert!(held, "{mode}: locks are held for longer than {HELD_AT_MOST:?}");
    }
}

/// The program as it is delivered, but so many times faster.
fn watch(root: &Root, api: &Api, faster: u32) -> Program {
    let pace = |one: &&collect::Subsystem| {
        let interval = (one.every / faster).max(Duration::from_secs(1));
        format!("[collect.{}]\ninterval = \"{}ms\"\n", one.name, interval.as_millis())
    };
    let mut text = format!("[host]\nurl = \"{}\"\n", api.url);
    if faster > 1 {
        text += &collect::ALL.iter().filter(|one| !one.listed).map(|one| pace(&one)).collect::<String>();
    }
    text += &format!(
        "[[collect.sql]]\nname = \"groups\"\ndatabase = \"{}\"\ninterval = \"{}s\"\n\
         query = \"SELECT count(*) AS registered FROM registered_groups\"\n",
        root.database().display(),
        (30 / faster).max(1),
    );
    let config = root.path().join("exporter.toml");
    std::fs::write(&config, text).unwrap();
    let mut nice = Command::new("nice");
    nice.args(["-n", "-19"]);
    Program::start(nice, root.path(), &config)
}

fn all_read(program: &Program) {
    program.until("all read", |status| READERS.iter().all(|name| up(status, name)));
}

#[test]
fn a_host_without_patience_is_hardly_ever_turned_away() {
    let mut figures =
        Figures::of("SQLite: the program beside a host that writes a thousand times a second without patience");
    let (faster, time) = if is_long() { (1, Duration::from_secs(180)) } else { (FASTER, Duration::from_secs(12)) };
    for mode in MODES {
        let hardly = (0..3).any(|_| {
            let (root, api) = (host(mode), Api::healthy());
            let mut writer = Writer::new(&root);
            let program = watch(&root, &api, faster);
            all_read(&program);
            writer.works_for(time);
            // What was looked at so many times more often was met so many times more often.
            let share = f64::from(writer.refused) / f64::from(writer.tries) / f64::from(faster);
            let told = format!(
                "{:.4} % ({} of {}, {faster} times as fast as by default)",
                share * 100.0,
                writer.refused,
                writer.tries
            );
            figures.say(format!("{mode}: tries of the host that are refused at the default pace"), told);
            all_read(&program);
            share < REFUSED_AT_MOST
        });
        assert!(hardly, "{mode}: more than one of a thousand tries is refused");
    }
}

/// Whatever a host does to its database for once: it may have to try again, and what is read of it stays true.
#[test]
fn a_host_that_vacuums_and_changes_tables_and_journals_is_in_nobodys_way_for_long() {
    let mut figures =
        Figures::of("SQLite: what a host does to its database for once, beside the program at 15 times its pace");
    let (root, api) = (host("delete"), Api::healthy());
    let writer = Writer::new(&root);
    let program = watch(&root, &api, FASTER);
    all_read(&program);
    let rounds = if is_long() { 60 } else { 12 };
    let mut refused: BTreeMap<&str, u32> = BTreeMap::new();
    let mut does = |what: &'static str, sql: &str| {
        let begun = Instant::now();
        while !writer.tries(sql) {
            *refused.entry(what).or_default() += 1;
            assert!(begun.elapsed() < Duration::from_secs(60), "{what} is never let in");
            std::thread::sleep(Duration::from_millis(5));
        }
        refused.entry(what).or_default();
    };
    for round in 0..rounds {
        does("VACUUM", "VACUUM");
        does("ALTER TABLE", &format!("ALTER TABLE messages ADD COLUMN later_{round} TEXT"));
        does("CREATE INDEX", &format!("CREATE INDEX i_{round} ON messages(sender, timestamp)"));
        does("DROP INDEX", &format!("DROP INDEX i_{round}"));
        does("journal_mode = WAL", "PRAGMA journal_mode = WAL");
        does(
            "INSERT",
            &format!(
                "INSERT INTO messages (id, chat_jid, sender, timestamp, is_from_me) VALUES ('r{round}', 'slack:C1', 'U1', '{}', 0)",
                Timestamp::now()
            ),
        );
        does("VACUUM in WAL", "VACUUM");
        does("wal_checkpoint", "PRAGMA wal_checkpoint(TRUNCATE)");
        does("journal_mode = DELETE", "PRAGMA journal_mode = DELETE");
        std::thread::sleep(Duration::from_millis(200));
    }
    for (what, times) in &refused {
        figures.say(format!("{what}: refused, of {rounds} that were tried until they were let in"), times);
    }
    let sql = "SELECT count(*) FROM messages WHERE is_from_me = 0";
    let inbound: i64 = writer.database.query_row(sql, [], |row| row.get(0)).unwrap();
    program.until("all of it is read", |status| {
        READERS.iter().all(|name| up(status, name)) && status["messages"]["total_inbound"] == inbound
    });
}
