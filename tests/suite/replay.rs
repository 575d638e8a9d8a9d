//! A recorded time, judged again: a week of it under three policies, and everything that can be wrong with a record.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use agenthost_exporter::sample::{Cause, Now};
use agenthost_exporter::source::record::{Header, Line, Looked, Pause};
use agenthost_exporter::tool::replay;
use jiff::{SignedDuration, Timestamp};

use crate::outputs::golden;
use crate::stage::{Dice, Stage, Told, begun, config, reading, sample, watched};

const MINUTE: u64 = 60;
const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;

/// A record in the making.
struct Tape {
    text: String,
    /// When the machine was started, on the record's time.
    booted: i64,
}

impl Tape {
    fn new() -> Tape {
        let mut tape = Tape { text: String::new(), booted: -5000 };
        tape.header(0);
        tape
    }

    fn at(&self, seconds: u64) -> Now {
        let wall = "2026-11-14T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds as i64);
        Now { mono: Duration::from_secs(seconds.checked_add_signed(-self.booted).unwrap()), wall }
    }

    fn put(&mut self, line: &Line) {
        self.text += &serde_json::to_string(line).unwrap();
        self.text += "\n";
    }

    fn header(&mut self, seconds: u64) {
        let timeout = Duration::from_secs(10);
        let collectors =
            [("service", Duration::from_secs(30), timeout), ("messages", Duration::from_secs(60), timeout)];
        self.put(&Line::Header(Header::new(self.at(seconds), "0.0.0", collectors.into_iter())));
    }

    fn look(&mut self, seconds: u64, collector: &str, told: Result<&[Told<'_>], Cause>) {
        let at = self.at(seconds);
        self.put(&Line::Reading(Looked::new(at, &reading(collector, at, told.map(sample)))));
    }

    /// The machine sleeps.
    fn pause(&mut self, from: u64, length: u64) {
        let (from, until) = (self.at(from), self.at(from + length));
        self.put(&Line::Pause(Pause { from: from.into(), mono: until.into(), wall: until.wall }));
    }

    fn reboot(&mut self, seconds: u64) {
        self.booted = seconds as i64 - 40;
        self.header(seconds);
    }
}

fn within(seconds: u64, from: u64, length: u64) -> bool {
    (from..from + length).contains(&seconds)
}

/// A week in which one look in a hundred finds something bad, and some things really break.
fn week() -> String {
    let (mut tape, mut dice) = (Tape::new(), Dice(20_261_114));
    let mut seconds = 0;
    while seconds < 7 * DAY {
        match seconds {
            seconds if seconds == 3 * DAY => tape.put(&Line::Lost { count: 12 }),
            _ if seconds == 5 * DAY => {
                tape.pause(seconds, 2 * HOUR);
                seconds += 2 * HOUR;
            }
            _ if seconds == 6 * DAY => {
                seconds += 10 * MINUTE;
                tape.reboot(seconds);
            }
            _ => {}
        }
        seconds += 30;
        service(&mut tape, &mut dice, seconds);
        if seconds.is_multiple_of(60) {
            messages(&mut tape, &mut dice, seconds);
        }
    }
    tape.text
}

fn service(tape: &mut Tape, dice: &mut Dice, seconds: u64) {
    let blip = dice.below(100) == 0;
    let gone = within(seconds, DAY, 8 * MINUTE) || within(seconds, 6 * DAY - 2 * MINUTE, 14 * MINUTE);
    let hangs = within(seconds, 2 * DAY, 100) || (within(seconds, 4 * DAY, HOUR) && (seconds / 90).is_multiple_of(2));
    if within(seconds, 3 * DAY + HOUR, 20 * MINUTE) {
        return tape.look(seconds, "service", Err(Cause::Unanswered));
    }
    let (up, answers) = (f64::from(u8::from(!gone)), f64::from(u8::from(!gone && !hangs && !blip)));
    let told: [Told<'_>; 2] =
        [("agenthost_service_up", &[], Some(up)), ("agenthost_service_responding", &[], Some(answers))];
    tape.look(seconds, "service", Ok(&told));
}

fn messages(tape: &mut Tape, dice: &mut Dice, seconds: u64) {
    if within(seconds, 3 * DAY + 4 * HOUR, HOUR) {
        return tape.look(seconds, "messages", Err(Cause::Denied));
    }
    let waits = within(seconds, 5 * DAY + 6 * HOUR, 45 * MINUTE);
    let slack = if waits { (seconds - 5 * DAY - 6 * HOUR) as f64 } else { dice.below(200) as f64 };
    let name = "agenthost_deliveries_oldest_pending_seconds";
    let mail: Told<'_> = (name, &["mail"], if dice.below(50) == 0 { None } else { Some(0.0) });
    let told: [Told<'_>; 2] = [(name, &["slack"], Some(slack)), mail];
    let listed = if within(seconds, 6 * DAY + 12 * HOUR, 2 * HOUR) { &told[..1] } else { &told[..] };
    tape.look(seconds, "messages", Ok(listed));
}

/// What a replay came to.
struct Played {
    out: String,
    err: String,
    ended: anyhow::Result<u64>,
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Plays; messages then name the file without its folder.
    fn play(&self, policy: &str, files: &[PathBuf]) -> Played {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let ended = replay::run(&config(policy).checks, files, &mut out, &mut err);
        let folder = format!("{}/", self.0.path().display());
        let err = String::from_utf8(err).unwrap().replace(&folder, "");
        Played { out: String::from_utf8(out).unwrap(), err, ended }
    }
}

fn play(policy: &str, record: &str) -> Played {
    let folder = Folder::new();
    let file = folder.file("record", record);
    folder.play(policy, &[file])
}

const STRICT: &str = "
    [checks.service_responding]
    fail_for = \"45s\"
    recover_for = \"2m\"
    unknown_for = \"3m\"
    [checks.deliveries_pending]
    severity = \"critical\"
    fail_for = \"1m\"
";

const LENIENT: &str = "
    [checks.service_up]
    fail_for = \"10m\"
    [checks.service_responding]
    fail_for = \"15m\"
    fail_ratio = \"off\"
    unknown_as = \"hold\"
    [[custom_check]]
    name = \"slack_slow\"
    fact = \"agenthost_deliveries_oldest_pending_seconds\"
    above = 190
    labels = { channel = \"slack\" }
    severity = \"info\"
";

#[test]
fn a_week_under_three_policies() {
    let folder = Folder::new();
    let files = [folder.file("record", &week())];
    for (name, policy) in [("default", ""), ("strict", STRICT), ("lenient", LENIENT)] {
        let played = folder.play(policy, &files);
        assert_eq!((played.ended.unwrap(), &*played.err), (0, ""), "{name}");
        golden(&format!("replay-{name}.txt"), &played.out);
    }
}

/// Under the policy that held, a replay says what the river said, to the second.
#[test]
fn it_says_what_the_river_said() {
    const POLICY: &str = "
        [checks.service_up]
        fail_for = \"45s\"
        recover_for = \"30s\"
        unknown_for = \"1m\"
    ";
    let (mut flips, mut silences) = (0, 0);
    for seed in 1..=20 {
        let (mut stage, mut dice) = (Stage::new(POLICY), Dice(seed * 0x9E37_79B9));
        let paces = watched().into_iter().map(|one| (one.name, one.interval, one.timeout));
        let mut text = serde_json::to_string(&Line::Header(Header::new(begun(), "0.0.0", paces))).unwrap() + "\n";
        let (mut said, mut before) = (Vec::new(), None);
        let mut note = |stage: &Stage| {
            let snapshot = stage.snapshot();
            if snapshot.overall.name() != "starting" && before != Some(snapshot.ready) {
                before = Some(snapshot.ready);
                let word = if snapshot.ready { "ready" } else { "not ready" };
                said.push(format!("{}  {word:<9}  {}", stage.now.wall, snapshot.overall.name()));
            }
        };
        let (mut down, mut silent) = (false, false);
        for _ in 0..200 {
            for _ in 0..15 {
                stage.pass(1);
                note(&stage);
            }
            (down, silent) = (down != (dice.below(12) == 0), silent != (dice.below(15) == 0));
            let told: [Told<'_>; 1] = [("agenthost_service_up", &[], Some(f64::from(u8::from(!down))))];
            let outcome = || if silent { Err(Cause::Unanswered) } else { Ok(sample(&told)) };
            let looked = Looked::new(stage.now, &reading("service", stage.now, outcome()));
            text += &(serde_json::to_string(&Line::Reading(looked)).unwrap() + "\n");
            stage.take("service", outcome());
            note(&stage);
        }
        let played = play(POLICY, &text);
        let ready = |line: &&str| line.contains("  ready  ") || line.contains("  not ready  ");
        let replayed: Vec<&str> = played.out.lines().filter(ready).collect();
        assert_eq!(replayed, said, "seed {seed}:\n{}", played.out);
        flips += said.len();
        silences += played.out.matches("unanswered since").count();
    }
    assert!(flips > 100 && silences > 20, "it saw {flips} changes and {silences} silences");
}

#[test]
fn two_files_say_what_one_does() {
    let text = week();
    let middle = text.match_indices('\n').nth(9000).unwrap().0 + 1;
    let Line::Reading(next) = serde_json::from_str(text[middle..].lines().next().unwrap()).unwrap() else { panic!() };
    let Line::Header(first) = serde_json::from_str(text.lines().next().unwrap()).unwrap() else { panic!() };
    let head = Line::Header(Header { mono: next.mono, wall: next.wall, ..first });
    let second = format!("{}\n{}", serde_json::to_string(&head).unwrap(), &text[middle..]);
    let folder = Folder::new();
    let whole = folder.play("", &[folder.file("whole", &text)]);
    let parts = folder.play("", &[folder.file("record.1", &text[..middle]), folder.file("record", &second)]);
    let events = |played: &Played| played.out.split("\n\n").next().unwrap().to_owned();
    assert_eq!(events(&whole), events(&parts));
    assert_eq!(whole.out.lines().last(), parts.out.lines().last());
}

#[test]
fn a_broken_line_is_named_and_skipped() {
    let mut tape = Tape::new();
    let up: &[Told<'_>] = &[("agenthost_service_up", &[], Some(1.0))];
    tape.look(30, "service", Ok(up));
    tape.text += "{\"line\":\"reading\",\"coll\n";
    tape.look(60, "service", Ok(up));
    tape.look(45, "service", Ok(up));
    tape.look(90, "tasks", Ok(&[]));
    tape.look(120, "messages", Ok(&[]));
    tape.pause(100, 60);
    tape.text += &tape.text.lines().nth(1).unwrap().replace("[[],1.0]", "[[\"x\"],1.0]").replace("5030", "5200");
    tape.text += "\n";
    let played = play("", &tape.text);
    let expected = [
        "record:3: skipped: EOF while parsing a string at line 1 column 23",
        "record:5: skipped: it goes back in time",
        "record:6: skipped: a reading of `tasks`, which the header does not name",
        "record:8: skipped: it goes back in time",
        "record:9: skipped: `agenthost_service_up` with 1 labels, not 0",
    ];
    assert_eq!(played.err.lines().collect::<Vec<_>>(), expected);
    assert_eq!(played.ended.unwrap(), 5);
    assert!(played.out.contains("3 readings, 0 lines lost"), "{}", played.out);
}

#[test]
fn what_this_version_does_not_know_is_left_out_and_said_once() {
    let mut tape = Tape::new();
    for seconds in [30, 60] {
        tape.look(seconds, "service", Ok(&[("agenthost_service_up", &[], Some(1.0))]));
        tape.look(seconds, "messages", Ok(&[]));
    }
    let text =
        tape.text.replace("\"messages\"", "\"oracles\"").replace("agenthost_service_up", "agenthost_service_gone");
    let played = play("", &text);
    let expected = [
        "record:1: left out: the collector `oracles`, which this version does not know",
        "record:2: left out: the fact `agenthost_service_gone`, which this version does not know",
    ];
    assert_eq!(played.err.lines().collect::<Vec<_>>(), expected);
    assert_eq!(played.ended.unwrap(), 0, "that is no damage");
}

#[test]
fn what_is_no_record_is_refused() {
    let folder = Folder::new();
    let refusal = |name: &str, text: &str| {
        let played = folder.play("", &[folder.file(name, text)]);
        format!("{:#}", played.ended.unwrap_err()).replace(&format!("{}/", folder.0.path().display()), "")
    };
    assert_eq!(refusal("poem", "Roses are red\n"), "poem: no record: it does not begin with a header");
    let headless = Tape::new().text.replace("header", "lost").replace("\"format\":1", "\"count\":1");
    assert_eq!(refusal("headless", &headless), "headless: no record: it does not begin with a header");
    let newer = Tape::new().text.replace("\"format\":1", "\"format\":2");
    let said = "newer:2: recorded by a newer version, in format 2; this one reads 1";
    assert_eq!(refusal("newer", &format!("{}{newer}", Tape::new().text)), said);
    let missing = folder.play("", &[folder.0.path().join("missing")]);
    assert!(format!("{:#}", missing.ended.unwrap_err()).contains("missing: No such file"));
    let empty = folder.play("", &[folder.file("empty", "")]);
    assert_eq!((empty.ended.unwrap(), &*empty.out), (0, ""));
}

#[test]
fn other_collectors_start_every_verdict_anew() {
    let mut tape = Tape::new();
    let down: &[Told<'_>] = &[("agenthost_service_up", &[], Some(0.0))];
    for poll in 1..=6 {
        tape.look(poll * 30, "service", Ok(down));
    }
    tape.booted = 200 - 40;
    let head =
        Header::new(tape.at(200), "0.0.0", [("service", Duration::from_secs(15), Duration::from_secs(10))].into_iter());
    tape.put(&Line::Header(head));
    for poll in 1..=8 {
        tape.look(200 + poll * 15, "service", Ok(down));
    }
    let played = play("", &tape.text);
    let expected = "\
2026-11-14T00:00:30Z  ready      degraded
2026-11-14T00:02:30Z  failed     service_up: bad since 2026-11-14T00:00:30Z, fail_for 2m
2026-11-14T00:02:30Z  not ready  unhealthy
2026-11-14T00:03:20Z  restart    other collectors or another pace: every verdict starts anew
2026-11-14T00:03:20Z  gone       service_up: after 50s
2026-11-14T00:03:35Z  ready      degraded
";
    assert_eq!(&played.out[..expected.len()], expected);
}
