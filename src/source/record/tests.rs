use std::fs;

use super::*;
use crate::fact::Fact;
use crate::sample::{Failure, Sample};

static LEVEL: Fact = Fact::gauge("test.level", "test_level", "A level.").of(&["tank"]);
static FILLED: Fact = Fact::gauge("test.filled_timestamp_seconds", "test_filled_timestamp_seconds", "When.");
static DROPS: Fact = Fact::counter("test.drops", "test_drops_total", "Drops.");
static UP: Fact = Fact::gauge("test.up", "test_up", "Up.").of(&["collector"]);

fn at(seconds: u64) -> Now {
    let begun = Now { mono: Duration::from_secs(1000), wall: "2026-11-21T20:00:00.123456Z".parse().unwrap() };
    begun.plus(Duration::from_secs(seconds))
}

fn header() -> Header {
    let collectors = [("tanks", Duration::from_secs(15), Duration::from_millis(2500))];
    Header::new(at(0), "1.2.3", collectors.into_iter())
}

fn reading(seconds: u64, levels: &[(&str, Option<f64>)]) -> Arc<Reading> {
    let mut points = Points::default();
    for &(tank, level) in levels {
        points.put(&LEVEL, [&tank.into()], level);
    }
    points.put(&FILLED, [], 5.0);
    points.put(&DROPS, [], 5.0);
    let section = serde_json::value::RawValue::from_string("\"secret\"".into()).unwrap().into();
    let mut own = Points::default();
    own.put(&UP, [&"tanks".into()], 1.0);
    let outcome = Ok(Sample { section, details: Default::default(), points, gaps: Vec::new() });
    Reading { collector: "tanks", at: at(seconds), took: Duration::ZERO, outcome, own }.into()
}

fn failed(seconds: u64, cause: Cause) -> Arc<Reading> {
    let failure = Failure { cause, error: "words of the host".into() };
    Reading { outcome: Err(failure), ..(*reading(seconds, &[])).clone() }.into()
}

/// A folder with a record that turns at `full` bytes.
fn tape(full: u64) -> (tempfile::TempDir, Tape) {
    let folder = tempfile::tempdir().unwrap();
    let tape = Tape::open(&folder.path().join("record"), full, header()).unwrap();
    (folder, tape)
}

fn lines(path: &Path) -> Vec<Line> {
    read(path).unwrap().map(|line| line.unwrap().1.unwrap()).collect()
}

const HEADER: &str = r#"{"line":"header","format":1,"version":"1.2.3","mono":1000000000,"wall":"2026-11-21T20:00:00.123Z","collectors":[{"name":"tanks","interval":"15s","timeout":"2s500ms"}]}"#;

#[test]
fn what_is_excused_or_denied_is_told_from_what_is_silent() {
    let mut told = (*reading(1, &[("a", None)])).clone();
    told.outcome.as_mut().unwrap().points.excuse(&LEVEL, [&"b".into()], 0.5);
    told.outcome.as_mut().unwrap().points.deny(&LEVEL, [&"c".into()]);
    let looked = Looked::new(at(1), &told);
    let text = serde_json::to_string(&looked).unwrap();
    let withheld = r#""excused":{"test_level":[1]},"denied":{"test_level":[2]}}"#;
    assert!(text.contains(r#"[["a"],null],[["b"],0.5],[["c"],null]"#) && text.ends_with(withheld), "{text}");
    assert_eq!(serde_json::from_str::<Looked>(&text).unwrap(), looked);
    assert_eq!(
        [0, 1, 2].map(|place| looked.withheld("test_level", place)),
        [None, Some(Cause::Excused), Some(Cause::Denied)]
    );
    assert_eq!(Looked::new(at(2), &failed(2, Cause::Excused)).failed, Some(Cause::Excused));
}

#[test]
fn a_line_holds_what_can_be_judged_and_nothing_else() {
    let (folder, mut tape) = tape(FULL);
    tape.take(Entry::Reading(at(1), reading(1, &[("a", Some(0.1)), ("b", None), ("c", Some(f64::NAN))])));
    tape.take(Entry::Reading(at(2), failed(2, Cause::Denied)));
    tape.take(Entry::Pause(at(3), at(60)));
    tape.take(Entry::Lost(7));
    let text = fs::read_to_string(folder.path().join("record")).unwrap();
    let expected = [
        HEADER,
        r#"{"line":"reading","collector":"tanks","mono":1001000000,"wall":"2026-11-21T20:00:01.123Z","facts":{"test_level":[[["a"],0.1],[["b"],null],[["c"],null]],"test_up":[[["tanks"],1.0]]}}"#,
        r#"{"line":"reading","collector":"tanks","mono":1002000000,"wall":"2026-11-21T20:00:02.123Z","failed":"denied","facts":{"test_up":[[["tanks"],1.0]]}}"#,
        r#"{"line":"pause","from":1003000000,"mono":1060000000,"wall":"2026-11-21T20:01:00.123Z"}"#,
        r#"{"line":"lost","count":7}"#,
    ];
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    let read = lines(&folder.path().join("record"));
    assert_eq!(read[0], Line::Header(header()));
    assert_eq!(read[1], Line::Reading(Looked::new(at(1), &reading(1, &[("a", Some(0.1)), ("b", None), ("c", None)]))));
}

#[test]
fn nobody_else_may_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, _tape) = tape(FULL);
    let mode = fs::metadata(folder.path().join("record")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_full_file_is_set_aside_and_the_next_has_its_header() {
    let (folder, mut tape) = tape(600);
    for seconds in 1..=8 {
        tape.take(Entry::Reading(at(seconds), reading(seconds, &[("a", Some(seconds as f64))])));
    }
    let (path, aside) = (folder.path().join("record"), folder.path().join("record.1"));
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "only one is kept");
    let (older, newer) = (lines(&aside), lines(&path));
    let Line::Header(head) = &newer[0] else { panic!("{newer:?}") };
    let first = |lines: &[Line]| match &lines[1] {
        Line::Reading(looked) => looked.mono,
        other => panic!("{other:?}"),
    };
    assert_eq!((head.mono, &head.collectors), (first(&newer), &header().collectors));
    assert!(first(&older) < first(&newer));
    let of_readings = |lines: &[Line]| lines.iter().filter(|line| matches!(line, Line::Reading(_))).count();
    assert!(of_readings(&older) >= 2 && of_readings(&newer) >= 1);
}

#[test]
fn a_sidecar_that_was_killed_leaves_one_broken_line_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record");
    fs::write(&path, format!("{HEADER}\n{{\"line\":\"read")).unwrap();
    drop(Tape::open(&path, FULL, header()).unwrap());
    drop(Tape::open(&path, FULL, header()).unwrap());
    let read: Vec<_> = read(&path).unwrap().map(|line| line.unwrap()).collect();
    assert_eq!(read.len(), 4);
    assert!(matches!(&read[1], (2, Err(Unreadable::Broken(_)))), "{read:?}");
    assert!([0, 2, 3].iter().all(|&place| read[place].1 == Ok(Line::Header(header()))), "{read:?}");
}

/// Writing to this device fails as on a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_loses_lines_and_says_how_many_when_it_has_room_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record");
    let mut tape = Tape::open(Path::new("/dev/full"), FULL, header()).unwrap();
    assert!(tape.failing && !tape.headed);
    for seconds in 1..=3 {
        tape.take(Entry::Reading(at(seconds), reading(seconds, &[])));
    }
    assert_eq!(tape.lost, 3);
    (tape.file, tape.size) = open(&path).unwrap();
    tape.take(Entry::Reading(at(4), reading(4, &[])));
    assert!(!tape.failing);
    let expected =
        [Line::Header(header()), Line::Lost { count: 3 }, Line::Reading(Looked::new(at(4), &reading(4, &[])))];
    assert_eq!(lines(&path), expected);
}

#[test]
fn a_disk_that_hangs_delays_nobody() {
    let (queue, entries) = sync_channel(2);
    let mut recorder = Recorder::into(queue);
    for seconds in 0..5 {
        recorder.take(at(seconds), &reading(seconds, &[])); // nobody takes them out: one that waited would wait for ever
    }
    assert_eq!((recorder.lost, recorder.warned), (3, true));
    for _ in 0..2 {
        assert!(matches!(entries.try_recv(), Ok(Entry::Reading(..))));
    }
    recorder.take(at(5), &reading(5, &[]));
    assert!(matches!(entries.try_recv(), Ok(Entry::Lost(3))), "as soon as there is room");
    assert!(matches!(entries.try_recv(), Ok(Entry::Reading(..))));
    drop(entries);
    recorder.take(at(6), &reading(6, &[]));
}

#[test]
fn a_pause_of_the_river_is_told() {
    let (queue, entries) = sync_channel(9);
    let mut recorder = Recorder::into(queue);
    for seconds in [1, 6, 12] {
        recorder.beat(at(seconds));
    }
    let Ok(Entry::Pause(from, until)) = entries.try_recv() else { panic!("no pause") };
    assert_eq!((from, until), (at(6), at(12)), "five seconds are none, six are");
    assert!(entries.try_recv().is_err());
}

#[test]
fn what_cannot_be_recorded_to_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let error = |path: &Path| match Recorder::start(path, header()) {
        Ok(_) => panic!("it should have been refused"),
        Err(error) => format!("{error:#}"),
    };
    let said = error(folder.path());
    assert!(said.starts_with(&format!("record to {}: ", folder.path().display())), "{said}");
    let said = error(&folder.path().join("no/such/folder"));
    assert!(said.contains("No such file"), "{said}");
    let pipe = folder.path().join("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0).unwrap();
    let said = error(&pipe);
    assert!(said.ends_with("it is a pipe, which would block"), "{said}");
}

#[test]
fn the_thread_writes_what_is_handed_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record");
    let mut recorder = Recorder::start(&path, header()).unwrap();
    recorder.take(at(1), &reading(1, &[("a", Some(1.0))]));
    let give_up = std::time::Instant::now() + Duration::from_secs(10);
    while lines(&path).len() < 2 {
        assert!(std::time::Instant::now() < give_up, "nothing was written");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn lines_are_told_apart() {
    assert_eq!(parse(HEADER.as_bytes()), Ok(Line::Header(header())));
    assert_eq!(parse(HEADER.replace("\"format\":1", "\"format\":2").as_bytes()), Err(Unreadable::Newer(2)));
    assert_eq!(parse(b"{\"line\":\"kopf\",\"format\":3}"), Err(Unreadable::Newer(3)), "whatever else has changed");
    for broken in [&b""[..], b"{", b"\xff", b"null", b"{\"line\":\"reading\"}", b"{\"line\":\"word\"}"] {
        assert!(matches!(parse(broken), Err(Unreadable::Broken(_))), "{broken:?}");
    }
}

#[test]
fn a_file_of_something_else_is_not_spoiled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.toml");
    for text in ["[server]\nport = 1\n", "{\"line\":\"lost\",\"count\":1}\n", " "] {
        std::fs::write(&path, text).unwrap();
        let header = Header::new(Now::read(), "0", std::iter::empty());
        let error = Recorder::start(&path, header).err().expect(text).to_string();
        assert!(error.contains("something else"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
}
