//! The sidecar itself: ended, stopped, starved, crowded and misconfigured. What is said of the host meanwhile and after, and
//! that nothing of what was known is lost.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::mount::{MountFlags, mount};
use rustix::process::Signal;
use serde_json::Value;

use crate::disk::{Away, own_view};
use crate::hung::full_pipe;
use crate::lab::{Lab, Line, PATIENCE, Running, after, check, get, is_long, linked, program, value};
use crate::row::{Key, Row, keep};

const HEADING: &str = "## The sidecar itself";
const PART: &str = "sidecar";

/// Plays a row; `None` where it cannot be played.
type Play = fn() -> Option<Said>;

/// All rows, in their order: the fault, how it is injected, and who plays it.
const ALL: [(&str, &str, Play); 22] = [
    ("killed", "SIGKILL in an outage, with a state file", killed_with_a_state_it_goes_on),
    ("killed", "SIGKILL in an outage, without one", killed_without_a_state_it_begins_anew),
    ("killed", "the kernel, at the limit of a memory cgroup", killed_for_memory_it_goes_on_when_it_is_started_again),
    ("stopped", "SIGSTOP for 4 s", stopped_for_a_moment_it_notices_nothing),
    ("stopped", "SIGSTOP for 15 s, as the host begins to be silent", stopped_for_long_it_counts_none_of_that),
    ("wall clock set", "an hour forwards, and back", the_wall_clock_may_be_set),
    ("disk full", "a full file system under the state file", a_full_disk_keeps_no_verdicts_and_harms_none),
    ("state file gone", "unlink", a_state_file_that_goes_is_made_anew),
    ("state file another's", "a foreign file renamed over it", a_file_of_somebody_else_is_left_alone),
    ("state file damaged", "zeros written into it, then SIGKILL", a_damaged_state_is_set_aside),
    ("state file locked", "another process at the start", a_state_file_that_another_has_is_waited_for),
    ("crowd", "10 000 clients", a_crowd_keeps_no_probe_waiting),
    ("slow clients", "100 that send a byte at a time", slow_clients_keep_nobody_waiting),
    ("reload storm", "200 SIGHUPs, every other configuration wrong", a_storm_of_reloads_loses_nothing),
    ("configuration gone", "unlink, then POST /-/reload", without_its_configuration_it_goes_on_by_the_old_one),
    ("configuration hangs", "its disk away, then SIGHUP", a_configuration_that_hangs_holds_up_nobody),
    ("port taken", "another listens there", a_port_that_is_taken_is_named),
    ("log not read", "a full pipe as standard error", a_log_that_nobody_reads_holds_up_nobody),
    ("log closed", "a pipe without a reader as standard error", without_a_reader_of_its_log_it_goes_on),
    ("no more files", "RLIMIT_NOFILE 48 and 100 clients", with_few_files_it_answers_and_recovers),
    ("no more threads", "the limit of a pids cgroup", without_more_threads_it_looks_on),
    ("asked to end", "SIGTERM with everything hung, among clients", asked_to_end_it_ends_whatever_hangs),
];

/// What a row says, in the order of its columns.
struct Said {
    readyz: &'static str,
    metric: &'static str,
    page: &'static str,
    alert: &'static str,
    clears: &'static str,
    fresh: &'static str,
}

impl Said {
    fn row(&self, fault: &'static str, injected: &'static str) -> Row {
        let Said { readyz, metric, page, alert, clears, fresh } = *self;
        let [readyz, metric, page, alert, clears, fresh] =
            [readyz, metric, page, alert, clears, fresh].map(str::to_owned);
        Row { part: PART, fault, injected, seen: None, within: 0, readyz, metric, page, alert, clears, fresh }
    }
}

/// So many are played at once: what takes time is waiting.
const AT_ONCE: usize = 6;

#[test]
fn whatever_befalls_the_sidecar_it_tells_no_lie_and_forgets_nothing() {
    let waiting = Mutex::new(ALL.iter().enumerate().collect::<VecDeque<_>>());
    let played = Mutex::new(BTreeMap::new());
    let next = || waiting.lock().unwrap().pop_front();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((number, (fault, injected, play))) = next() {
                    let row = attempt(fault, injected, *play);
                    played.lock().unwrap().insert(number, row);
                }
            });
        }
    });
    let played = played.into_inner().unwrap();
    let lost = played.values().filter(|row| row.is_err()).count();
    let rows: Vec<Row> = played.into_values().filter_map(|row| row.ok().flatten()).collect();
    let keys: Vec<Key<'_>> = ALL.iter().map(|(fault, injected, _)| [PART, fault, injected]).collect();
    keep(HEADING, &keys, &rows);
    assert_eq!(lost, 0, "rows that do not come out; see above");
}

/// Each on a thread of its own, which may have a view of the mounts of its own. What a busy machine disturbs comes out when
/// it is played again; what the program does wrong does not.
fn attempt(fault: &'static str, injected: &'static str, play: Play) -> std::thread::Result<Option<Row>> {
    let once = || {
        let begun = Instant::now();
        let said = std::thread::spawn(play).join();
        eprintln!("{fault}, {injected}: {} after {:.0?}", if said.is_ok() { "ok" } else { "FAILED" }, begun.elapsed());
        said
    };
    let said = once().or_else(|_| once())?;
    Ok(said.map(|said| said.row(fault, injected)))
}

const DOWN: &str = "AgentHostSidecarDown, if it lasts 5 minutes";
const NONE: &str = "none";

/// Which rules would call somebody by this page, were it to stay so: those of the sidecar that ask one metric, and the verdict.
fn alerts(metrics: &str) -> Vec<&'static str> {
    let is = |series: &str, wanted: f64| value(metrics, series) == Some(wanted);
    let failed =
        |line: &&str| line.starts_with("agenthost_check_failed{check=\"collector_up\"") && line.ends_with(" 1");
    let mut called = Vec::new();
    if is("agenthost_health_state{state=\"unhealthy\"}", 1.0) {
        called.push("AgentHostUnhealthy");
    }
    if is("agenthost_config_last_reload_successful", 0.0) {
        called.push("AgentHostConfigReloadFailed");
    }
    if metrics.lines().any(|line| failed(&line)) {
        called.push("AgentHostCollectorFailing");
    }
    called
}

fn called(sidecar: &Running) -> Vec<&'static str> {
    alerts(&sidecar.get("/metrics").1)
}

fn history(sidecar: &Running) -> Value {
    serde_json::from_str(&sidecar.get("/status?section=history").1).unwrap()
}

/// How often a check has failed, as far as the history knows.
fn failures(sidecar: &Running, name: &str) -> usize {
    let history = history(sidecar);
    let past = history["checks"].as_array().unwrap().iter().filter(|past| past["check"] == name);
    past.flat_map(|past| past["changes"].as_array().unwrap()).filter(|change| change["to"] == "failed").count()
}

/// The checks that have failed, as far as the history knows.
fn ever_failed(sidecar: &Running) -> Vec<String> {
    let history = history(sidecar);
    let failed = |past: &&Value| past["changes"].as_array().unwrap().iter().any(|change| change["to"] == "failed");
    let all = history["checks"].as_array().unwrap().iter().filter(failed);
    all.map(|past| past["check"].as_str().unwrap().to_owned()).collect()
}

fn pauses(sidecar: &Running) -> Vec<String> {
    let history = history(sidecar);
    let pauses = history["unwatched"].as_array().unwrap();
    pauses.iter().map(|pause| pause["why"].as_str().unwrap().to_owned()).collect()
}

fn every_collector_is_up(status: &Value) -> bool {
    status["collectors"].as_object().unwrap().values().all(|one| one["up"] == true)
}

/// Well, and watched for long enough that its verdicts are settled.
fn well(lab: &Lab, sidecar: &Running) {
    sidecar.until_ready(200);
    sidecar.until("everything is seen", every_collector_is_up);
    assert!(lab.logged("panic") == 0);
}

/// The host is silent, until it has failed.
fn outage(lab: &Lab, sidecar: &Running) {
    lab.gate.hold(true);
    sidecar.until("the outage is known", |status| check(status, "service_responding", "")["state"] == "failed");
    std::thread::sleep(Duration::from_millis(500)); // a verdict is written at once, but not before it is given
}

fn killed_with_a_state_it_goes_on() -> Option<Said> {
    let lab = Lab::new(11);
    let sidecar = lab.start_kept();
    well(&lab, &sidecar);
    outage(&lab, &sidecar);
    let since = check(&sidecar.status(), "service_responding", "")["since"].clone();
    sidecar.kill();
    assert!(get(lab.address, "/readyz").is_err());
    let sidecar = lab.start_kept();
    sidecar.stays(503, Duration::from_secs(2));
    let status = sidecar.status();
    assert_eq!(check(&status, "service_responding", "")["since"], since, "the failure is the same one");
    assert_eq!((failures(&sidecar, "service_responding"), pauses(&sidecar)), (1, vec!["stopped".to_owned()]));
    assert_eq!(called(&sidecar), ["AgentHostUnhealthy"]);
    lab.gate.hold(false);
    sidecar.until_ready(200);
    Some(Said {
        readyz: "no answer; 503 as before at its first answer",
        metric: "`up` 0 while it is gone",
        page: "the same failure, since the same moment, and a pause in its history",
        alert: DOWN,
        clears: "as it starts",
        fresh: "verdicts and history go on",
    })
}

fn killed_without_a_state_it_begins_anew() -> Option<Said> {
    let lab = Lab::new(12);
    let sidecar = lab.start();
    well(&lab, &sidecar);
    outage(&lab, &sidecar);
    sidecar.kill();
    let sidecar = lab.start();
    let first = sidecar.status();
    assert_ne!(check(&first, "service_responding", "")["state"], "failed", "nobody knows yet");
    sidecar.until("the outage is known again", |status| check(status, "service_responding", "")["state"] == "failed");
    assert_eq!((sidecar.ready(), pauses(&sidecar)), (503, vec![]));
    lab.gate.hold(false);
    sidecar.until_ready(200);
    Some(Said {
        readyz: "no answer; then 503 `started` until all was looked at, 503 again after `fail_for`",
        metric: "`up` 0 while it is gone",
        page: "begins anew",
        alert: DOWN,
        clears: "as it starts",
        fresh: "nothing is kept",
    })
}

/// A cgroup of this test; what is in it is ended with it.
struct Cgroup {
    folder: PathBuf,
    is_v2: bool,
}

impl Cgroup {
    /// `None` where we may make none.
    fn new(controller: &str, name: &str) -> Option<Cgroup> {
        let root = Path::new("/sys/fs/cgroup");
        let is_v2 = root.join("cgroup.controllers").exists();
        let above = if is_v2 { root.to_owned() } else { root.join(controller) };
        if is_v2 && std::fs::write(root.join("cgroup.subtree_control"), format!("+{controller}")).is_err() {
            return None;
        }
        let folder = above.join(format!("agenthost-{name}-{}", std::process::id()));
        std::fs::create_dir(&folder).ok()?;
        Some(Cgroup { folder, is_v2 })
    }

    fn take(&self, pid: u32) {
        std::fs::write(self.folder.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    fn limit(&self, [v1, v2]: [&str; 2], limit: &str) {
        let file = if self.is_v2 { v2 } else { v1 };
        std::fs::write(self.folder.join(file), limit).unwrap();
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let pids = std::fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
        let begun = Instant::now();
        while std::fs::remove_dir(&self.folder).is_err() && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Says that a row cannot be played where we may not do something.
fn cannot(what: &str) -> Option<Said> {
    crate::skipped(what, "we may not do that here");
    None
}

/// A child that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn python(script: &str, arguments: &[&str]) -> Ended {
    Ended(Command::new("python3").arg("-c").arg(script).args(arguments).stdin(Stdio::piped()).spawn().unwrap())
}

fn killed_for_memory_it_goes_on_when_it_is_started_again() -> Option<Said> {
    let lab = Lab::new(13);
    let Some(group) = Cgroup::new("memory", "oom") else { return cannot("a memory limit") };
    let mut sidecar = lab.start_kept();
    well(&lab, &sidecar);
    outage(&lab, &sidecar);
    group.take(sidecar.child.id());
    group.limit(["memory.limit_in_bytes", "memory.max"], "100M");
    // Others in the same pod take all of it, none of them so much that the kernel would end it first.
    std::fs::write(format!("/proc/{}/oom_score_adj", sidecar.child.id()), "1000").unwrap();
    let procs = group.folder.join("cgroup.procs").display().to_string();
    let greedy = "import os, sys\nopen(sys.argv[1], 'w').write(str(os.getpid()))\nos.fork()\nheld = [bytes([1]) * (1 << 20) for _ in range(300)]";
    let _greedy = python(greedy, &[&procs]);
    let ended = sidecar.ended();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{ended}");
    drop(group);
    let sidecar = lab.start_kept();
    sidecar.stays(503, Duration::from_secs(1));
    assert_eq!((failures(&sidecar, "service_responding"), pauses(&sidecar)), (1, vec!["stopped".to_owned()]));
    lab.gate.hold(false);
    sidecar.until_ready(200);
    Some(Said {
        readyz: "no answer; 503 as before at its first answer",
        metric: "`up` 0 while it is gone",
        page: "the same failure, and a pause in its history",
        alert: DOWN,
        clears: "as it starts",
        fresh: "verdicts and history go on",
    })
}

fn stopped_for_a_moment_it_notices_nothing() -> Option<Said> {
    let lab = Lab::new(14).calm();
    let sidecar = lab.start();
    well(&lab, &sidecar);
    sidecar.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(4));
    sidecar.signal(Signal::CONT);
    sidecar.stays(200, Duration::from_secs(3));
    sidecar.until("everything is seen", every_collector_is_up);
    assert_eq!((ever_failed(&sidecar), pauses(&sidecar), called(&sidecar)), (vec![], vec![], vec![]));
    Some(Said {
        readyz: "no answer; then as before",
        metric: "no answer; then as before",
        page: "nothing",
        alert: NONE,
        clears: "at once",
        fresh: "all; a look that was under way has timed out, and no check fails",
    })
}

fn stopped_for_long_it_counts_none_of_that() -> Option<Said> {
    let lab = Lab::new(15).calm();
    lab.configure(&lab.text(&[]).replace("fail_for = \"8s\"", "fail_for = \"12s\""));
    let sidecar = lab.start();
    well(&lab, &sidecar);
    lab.gate.hold(true);
    sidecar.until("the silence is seen", |status| check(status, "service_responding", "")["state"] == "failing");
    sidecar.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(15));
    sidecar.signal(Signal::CONT);
    // By the clock it has been silent for longer than it may be.
    sidecar.stays(200, Duration::from_secs(5));
    assert_eq!(pauses(&sidecar), ["asleep"]);
    sidecar.until_ready(503);
    lab.gate.hold(false);
    sidecar.until_ready(200);
    assert!(!ever_failed(&sidecar).is_empty());
    Some(Said {
        readyz: "no answer; 200, and 503 only when `fail_for` was watched",
        metric: "`up` 0 while it stands",
        page: "a pause in its history",
        alert: DOWN,
        clears: "at once",
        fresh: "the time that nobody watched counts for nothing",
    })
}

/// The library that sets the wall clock of one process.
fn faketime() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    folders.map(|folder| folder.join("faketime/libfaketimeMT.so.1")).find(|library| library.exists())
}

fn the_wall_clock_may_be_set() -> Option<Said> {
    let Some(library) = faketime() else {
        crate::skipped("another wall clock", "faketime is not installed");
        return None;
    };
    let lab = Lab::new(16).calm();
    let clock = lab.folder.path().join("clock");
    let set = |offset: &str| {
        std::fs::write(clock.with_extension("new"), offset).unwrap();
        std::fs::rename(clock.with_extension("new"), &clock).unwrap();
    };
    set("+0");
    let mut command = linked();
    command.env("LD_PRELOAD", library).env("FAKETIME_TIMESTAMP_FILE", &clock).env("FAKETIME_NO_CACHE", "1");
    // Of the clocks that it reads only the wall's is set: no other ever is.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
    let sidecar = lab.start_by(command, &[lab.kept()]);
    well(&lab, &sidecar);
    for (offset, ahead) in [("+3600", 3600.0), ("-3600", -3600.0), ("+0", 0.0)] {
        set(offset);
        let real = || jiff::Timestamp::now().as_millisecond() as f64 / 1000.0;
        sidecar.until("another wall clock", |_| {
            let seen = sidecar.metric("agenthost_collector_last_success_timestamp_seconds{collector=\"service\"}");
            (seen.unwrap() - real() - ahead).abs() < 60.0
        });
        sidecar.stays(200, Duration::from_secs(3));
        let status = sidecar.until("everything is seen", every_collector_is_up);
        let said = (ever_failed(&sidecar), pauses(&sidecar), called(&sidecar));
        assert_eq!(said, (vec![], vec![], vec![]), "{status:#}");
    }
    // What was written by a clock that was set is read by another.
    set("+3600");
    std::thread::sleep(Duration::from_secs(2));
    sidecar.terminate();
    let sidecar = lab.start_kept();
    sidecar.stays(200, Duration::from_secs(2));
    assert_eq!(pauses(&sidecar), ["stopped"]);
    Some(Said {
        readyz: "as before",
        metric: "timestamps are by the new clock, all else is as before",
        page: "nothing",
        alert: "AgentHostSampleStale, while it is late by more than three intervals and a minute",
        clears: "never any fault",
        fresh: "all; no verdict changes",
    })
}

fn a_full_disk_keeps_no_verdicts_and_harms_none() -> Option<Said> {
    let lab = Lab::new(17);
    let folder = lab.state().parent().unwrap().to_owned();
    std::fs::create_dir_all(&folder).unwrap();
    if own_view().and_then(|()| Ok(mount("small", &folder, "tmpfs", MountFlags::empty(), c"size=512k")?)).is_err() {
        return cannot("a small file system");
    }
    let sidecar = lab.start_kept();
    well(&lab, &sidecar);
    let mut filler = std::fs::File::create(folder.join("filler")).unwrap();
    while filler.write(&[0; 4096]).is_ok_and(|written| written > 0) {}
    outage(&lab, &sidecar);
    until_logged(&lab, "verdicts are not kept");
    assert_eq!(sidecar.ready(), 503);
    drop(filler);
    std::fs::remove_file(folder.join("filler")).unwrap();
    until_logged(&lab, "verdicts are kept again");
    assert_eq!((lab.logged("verdicts are not kept"), lab.logged("verdicts are kept again")), (1, 1));
    sidecar.kill();
    let sidecar = lab.start_kept();
    sidecar.stays(503, Duration::from_secs(1));
    assert_eq!((failures(&sidecar, "service_responding"), lab.logged("corrupt")), (1, 0));
    lab.gate.hold(false);
    sidecar.until_ready(200);
    Some(Said {
        readyz: "as the host is",
        metric: "as ever",
        page: "as ever; the log says once that verdicts are not kept",
        alert: NONE,
        clears: "within 10 s of room: the next verdict is kept",
        fresh: "all; what happened while it was full is in the file after it",
    })
}

/// The sidecar says that verdicts are not kept, or are again, within 10 s; this machine may be late.
const SAID_WITHIN: Duration = Duration::from_secs(10 + 5);

/// Waits for a line of the log.
fn until_logged(lab: &Lab, what: &str) {
    let begun = Instant::now();
    while lab.logged(what) == 0 {
        assert!(begun.elapsed() < SAID_WITHIN, "not logged: {what}\n{}", std::fs::read_to_string(lab.log()).unwrap());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn a_state_file_that_goes_is_made_anew() -> Option<Said> {
    let lab = Lab::new(18);
    let sidecar = lab.start_kept();
    well(&lab, &sidecar);
    for file in lab.state().parent().unwrap().read_dir().unwrap().flatten() {
        std::fs::remove_file(file.path()).unwrap();
    }
    outage(&lab, &sidecar);
    until_logged(&lab, "somebody has removed or replaced it");
    until_logged(&lab, "verdicts are kept again");
    assert_eq!((lab.logged("verdicts are not kept"), lab.logged("verdicts are kept again")), (1, 1));
    sidecar.kill();
    let sidecar = lab.start_kept();
    sidecar.stays(503, Duration::from_secs(1));
    assert_eq!((failures(&sidecar, "service_responding"), pauses(&sidecar)), (1, vec!["stopped".to_owned()]));
    lab.gate.hold(false);
    sidecar.until_ready(200);
    Some(Said {
        readyz: "as the host is",
        metric: "as ever",
        page: "as ever; the log says once that verdicts are not kept",
        alert: NONE,
        clears: "within 10 s: the file is made anew, and has all that is known",
        fresh: "all",
    })
}

fn a_file_of_somebody_else_is_left_alone() -> Option<Said> {
    let lab = Lab::new(19);
    let sidecar = lab.start_kept();
    well(&lab, &sidecar);
    let other = lab.folder.path().join("other");
    std::fs::write(&other, "somebody's notes").unwrap();
    std::fs::rename(&other, lab.state()).unwrap();
    outage(&lab, &sidecar);
    until_logged(&lab, "of another application");
    assert_eq!(lab.logged("of another application"), 1);
    lab.gate.hold(false);
    sidecar.until_ready(200);
    let (status, _) = sidecar.terminate();
    assert!(status.success());
    assert_eq!(std::fs::read_to_string(lab.state()).unwrap(), "somebody's notes");
    Some(Said {
        readyz: "as the host is",
        metric: "as ever",
        page: "as ever; the log says once whose file it is, and that verdicts are not kept",
        alert: NONE,
        clears: "with a restart on another file",
        fresh: "all; the foreign file is not touched",
    })
}

fn a_damaged_state_is_set_aside() -> Option<Said> {
    let lab = Lab::new(20);
    let sidecar = lab.start_kept();
    well(&lab, &sidecar);
    sidecar.terminate(); // all of it is in the file, and nothing in what lies beside it
    let sidecar = lab.start_kept();
    sidecar.until_ready(200);
    // All but the first page, and what lies beside it: by that alone SQLite mends the file.
    for (name, from) in [("state.db", 4096), ("state.db-wal", 0)] {
        let path = lab.state().with_file_name(name);
        let mut file = std::fs::File::options().write(true).open(path).unwrap();
        let length = file.metadata().unwrap().len();
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(from)).unwrap();
        file.write_all(&vec![0; length.saturating_sub(from) as usize]).unwrap();
    }
    sidecar.kill();
    let sidecar = lab.start_kept();
    sidecar.until_ready(200);
    let names = lab.state().parent().unwrap().read_dir().unwrap().flatten().map(|entry| entry.file_name());
    let aside = names.filter(|name| name.to_string_lossy().contains(".corrupt-")).count();
    assert!(aside >= 1, "{}", std::fs::read_to_string(lab.log()).unwrap());
    outage(&lab, &sidecar);
    sidecar.kill();
    let sidecar = lab.start_kept();
    sidecar.stays(503, Duration::from_secs(1));
    Some(Said {
        readyz: "as the host is; 503 `started` after the restart, until all was looked at",
        metric: "as ever",
        page: "begins anew after the restart; the log names the file that was set aside",
        alert: NONE,
        clears: "as it starts",
        fresh: "all that is seen; what was kept is set aside and not lost",
    })
}

fn a_state_file_that_another_has_is_waited_for() -> Option<Said> {
    let lab = Lab::new(21);
    let sidecar = lab.start_kept();
    well(&lab, &sidecar);
    outage(&lab, &sidecar);
    sidecar.terminate();
    let held = Connection::open(lab.state()).unwrap();
    held.execute_batch("PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE").unwrap();
    let sidecar = lab.start_kept();
    until_logged(&lab, "another process has it open");
    drop(held);
    until_logged(&lab, "verdicts are kept again");
    lab.gate.hold(false);
    sidecar.until_ready(200);
    sidecar.kill();
    let sidecar = lab.start_kept();
    assert_eq!(pauses(&sidecar), ["stopped"]);
    Some(Said {
        readyz: "503 `started` until all was looked at, then as the host is",
        metric: "as ever",
        page: "begins anew; the log says once that verdicts are not kept",
        alert: NONE,
        clears: "within 10 s, if the other ends within a minute; else with a restart",
        fresh: "all that is seen",
    })
}

/// Asks for probes all the while, each by a connection of its own; answers with how long each took.
struct Prober {
    ended: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Duration>>,
}

impl Prober {
    fn start(address: SocketAddr) -> Prober {
        let ended = Arc::new(AtomicBool::new(false));
        let over = ended.clone();
        let thread = std::thread::spawn(move || {
            let mut took = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let begun = Instant::now();
                for path in ["/livez", "/readyz"] {
                    let answer = get(address, path);
                    assert!(
                        answer.as_ref().is_ok_and(|(code, _)| *code == 200 || path == "/readyz"),
                        "{path}: {answer:?}"
                    );
                }
                took.push(begun.elapsed() / 2);
                std::thread::sleep(Duration::from_millis(20));
            }
            took
        });
        Prober { ended, thread }
    }

    /// The median, and the longest.
    fn end(self) -> (Duration, Duration) {
        self.ended.store(true, Ordering::SeqCst);
        let mut took = self.thread.join().unwrap();
        took.sort_unstable();
        (took[took.len() / 2], *took.last().unwrap())
    }
}

/// A connection from an address of this machine that is not everybody's.
fn from(own: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddr::from((own, 0)))?;
    connect(&socket, &to)?;
    Ok(socket.into())
}

/// No probe takes longer, on a machine that is busy with other rows.
const WAITED: Duration = Duration::from_secs(5);

/// Who comes at once; this process may have so many files, and others want some.
const WAVE: usize = 250;
const CLIENTS: usize = 10_000;

fn a_crowd_keeps_no_probe_waiting() -> Option<Said> {
    let lab = Lab::new(22).calm();
    let sidecar = lab.start();
    well(&lab, &sidecar);
    let before = sidecar.vitals();
    let prober = Prober::start(lab.address);
    let (mut answered, mut most, mut half) = (0, 0, before);
    for wave in 0..CLIENTS / WAVE {
        // From two addresses at a time, and ever new ones: probes come from another.
        let own = |number: usize| [127, 80, wave as u8, 1 + (number % 2) as u8];
        let mut clients: Vec<_> = (0..WAVE).filter_map(|number| from(own(number), lab.address).ok()).collect();
        for client in &mut clients {
            let whole = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
            let half = &whole[..whole.len() - 2];
            let _ = client.write_all(if wave % 2 == 0 { whole } else { half }.as_bytes());
        }
        most = most.max(sidecar.vitals().fds);
        if wave == CLIENTS / WAVE / 2 {
            half = sidecar.vitals();
        }
        for client in clients.iter_mut().filter(|_| wave % 2 == 0) {
            let _ = client.set_read_timeout(Some(PATIENCE));
            answered += usize::from(client.read(&mut [0; 12]).is_ok_and(|length| length == 12));
        }
    }
    let (median, longest) = prober.end();
    assert!(longest < WAITED, "a probe took {longest:?}");
    let metrics = sidecar.get("/metrics").1;
    assert!(alerts(&metrics).is_empty());
    assert_eq!(ever_failed(&sidecar), Vec::<String>::new());
    let now = sidecar.vitals();
    println!(
        "{CLIENTS} clients: {answered} of {} answered, probes median {median:?}, longest {longest:?}; most files {most}",
        CLIENTS / 2
    );
    println!("before {}\nhalf   {half}\nafter  {now}", before);
    // Those of a wave, and of the one before, if it is not yet seen that they have left.
    assert!(most < before.fds + 2 * WAVE + 64, "{most}");
    assert!(answered > CLIENTS / 2 * 9 / 10, "{answered}");
    // What 250 connections at once have needed stays with the allocator; that others come after them adds nothing.
    assert!(now.anon < half.anon + 2 * 1024 && now.anon < before.anon + 32 * 1024, "{now} after {}", before);
    Some(Said {
        readyz: "as before, to whoever comes new",
        metric: "as ever",
        page: "as ever",
        alert: NONE,
        clears: "at once",
        fresh: "all",
    })
}

fn slow_clients_keep_nobody_waiting() -> Option<Said> {
    let lab = Lab::new(23).calm();
    let sidecar = lab.start();
    well(&lab, &sidecar);
    let before = sidecar.vitals();
    let mut slow: Vec<_> = (0..100).map(|_| TcpStream::connect(lab.address).unwrap()).collect();
    let prober = Prober::start(lab.address);
    for byte in "GET /metrics HTTP/1.1\r\nHost: localhost\r\nX: ".bytes() {
        slow.iter_mut().for_each(|client| drop(client.write_all(&[byte])));
        std::thread::sleep(Duration::from_millis(100));
    }
    let (median, longest) = prober.end();
    println!("100 slow clients: probes median {median:?}, longest {longest:?}");
    assert!(longest < WAITED, "a probe took {longest:?}");
    sidecar.until("everything is seen", every_collector_is_up);
    assert_eq!((ever_failed(&sidecar), called(&sidecar)), (vec![], vec![]));
    drop(slow);
    let begun = Instant::now();
    while sidecar.vitals().fds > before.fds + 8 {
        assert!(begun.elapsed() < PATIENCE, "{} after {}", sidecar.vitals(), before);
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(Said { readyz: "as before", metric: "as ever", page: "as ever", alert: NONE, clears: "at once", fresh: "all" })
}

fn post(address: SocketAddr) -> u16 {
    let question = "POST /-/reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let mut line = Line::to(address).unwrap();
    line.send(question).unwrap();
    line.answer().unwrap().0
}

fn a_storm_of_reloads_loses_nothing() -> Option<Said> {
    let lab = Lab::new(24);
    let sidecar = lab.start();
    well(&lab, &sidecar);
    outage(&lab, &sidecar);
    let since = check(&sidecar.status(), "service_responding", "")["since"].clone();
    let before = sidecar.vitals();
    let good = lab.text(&[]);
    for turn in 0..200 {
        let other = good.replace("recover_for = \"4s\"", &format!("recover_for = \"{}s\"", 4 + turn % 3));
        lab.configure(if turn % 2 == 0 { &other } else { "[nonsense]\n" });
        sidecar.signal(Signal::HUP);
        if turn % 10 == 9 {
            assert_eq!(post(lab.address), 500);
            assert!(called(&sidecar).contains(&"AgentHostConfigReloadFailed"));
        }
        assert_eq!(sidecar.ready(), 503);
    }
    lab.configure(&good);
    assert_eq!(post(lab.address), 200);
    assert!(!called(&sidecar).contains(&"AgentHostConfigReloadFailed"));
    let status = sidecar.status();
    assert_eq!(check(&status, "service_responding", "")["since"], since, "the failure is the same one");
    assert_eq!((failures(&sidecar, "service_responding"), pauses(&sidecar)), (1, vec![]));
    let now = sidecar.vitals();
    println!("before {before}\nafter  {now}");
    assert!(now.threads <= before.threads + 24 && now.fds <= before.fds + 8, "{now} after {before}");
    lab.gate.hold(false);
    sidecar.until_ready(200);
    sidecar.until("everything is seen", every_collector_is_up);
    Some(Said {
        readyz: "as before",
        metric: "agenthost_config_last_reload_successful 0 after a wrong one, 1 after a good one",
        page: "`.sidecar.config.error` says why",
        alert: "AgentHostConfigReloadFailed, if it stays wrong for 5 minutes",
        clears: "with a good one",
        fresh: "all; verdicts, history and counters go on",
    })
}

fn without_its_configuration_it_goes_on_by_the_old_one() -> Option<Said> {
    let lab = Lab::new(25).calm();
    let sidecar = lab.start();
    well(&lab, &sidecar);
    std::fs::remove_file(lab.config()).unwrap();
    assert_eq!(post(lab.address), 500);
    assert_eq!((sidecar.ready(), called(&sidecar)), (200, vec!["AgentHostConfigReloadFailed"]));
    assert!(sidecar.status()["sidecar"]["config"]["error"].as_str().unwrap().contains("exporter.toml"));
    lab.configure(&lab.text(&[]));
    assert_eq!(post(lab.address), 200);
    assert_eq!((sidecar.ready(), called(&sidecar), ever_failed(&sidecar)), (200, vec![], vec![]));
    Some(Said {
        readyz: "as before",
        metric: "agenthost_config_last_reload_successful 0",
        page: "`.sidecar.config.error` names the file",
        alert: "AgentHostConfigReloadFailed, after 5 minutes",
        clears: "with the file, at a reload",
        fresh: "all; the old one holds",
    })
}

fn a_configuration_that_hangs_holds_up_nobody() -> Option<Said> {
    let lab = Lab::new(26).calm();
    if own_view().is_err() {
        return cannot("a disk that is away");
    }
    let sidecar = lab.start();
    well(&lab, &sidecar);
    let threads = sidecar.vitals().threads;
    let Ok(away) = Away::at(&lab.config()) else { return cannot("a disk that is away") };
    for _ in 0..5 {
        sidecar.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(100));
    }
    let begun = Instant::now();
    while called(&sidecar) != ["AgentHostConfigReloadFailed"] {
        assert!(begun.elapsed() < PATIENCE, "nobody says that it hangs");
        assert_eq!(sidecar.ready(), 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    let error = sidecar.status()["sidecar"]["config"]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("could not be read in time"), "{error}");
    sidecar.until("everything is seen", every_collector_is_up);
    // One that reads, and one that looks whether there is news; those of collectors come and go.
    let now = sidecar.vitals().threads;
    assert!(now <= threads + 8, "{threads} threads before, {now} now");
    if is_long() {
        no_more_than_eight_hang(&sidecar, now);
    }
    drop(away);
    let begun = Instant::now();
    while !called(&sidecar).is_empty() {
        assert!(begun.elapsed() < PATIENCE, "never read again: {:#}", sidecar.status()["sidecar"]);
        let _ = post(lab.address);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!((sidecar.ready(), ever_failed(&sidecar)), (200, vec![]));
    Some(Said {
        readyz: "as before",
        metric: "agenthost_config_last_reload_successful 0 after 10 s",
        page: "`.sidecar.config.error`: could not be read in time",
        alert: "AgentHostConfigReloadFailed, after 5 minutes",
        clears: "when it can be read, at a reload",
        fresh: "all; the old one holds, and at most eight readings hang",
    })
}

/// Each is given up after 10 s, and hangs on.
fn no_more_than_eight_hang(sidecar: &Running, threads: u64) {
    for _ in 0..10 {
        assert_eq!(post(sidecar.address), 500);
    }
    let error = sidecar.status()["sidecar"]["config"]["error"].as_str().unwrap().to_owned();
    assert!(error.contains("8 readings of the configuration hang"), "{error}");
    assert!(sidecar.vitals().threads <= threads + 12, "{threads} threads before, now {}", sidecar.vitals());
}

fn a_port_that_is_taken_is_named() -> Option<Said> {
    let lab = Lab::new(27);
    let _taken = TcpListener::bind(lab.address).unwrap();
    let output = program().args(lab.flags()).arg(lab.kept()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&lab.address.to_string()), "{said}");
    assert!(!lab.state().exists(), "what it cannot serve it does not begin to keep");
    Some(Said {
        readyz: "another's answer",
        metric: "`up` 0",
        page: "none: it ends with 1 and names the address",
        alert: DOWN,
        clears: "as it is started when the port is free",
        fresh: "the state file is not touched",
    })
}

fn a_log_that_nobody_reads_holds_up_nobody() -> Option<Said> {
    let lab = Lab::new(28).calm();
    let (mut log, full) = full_pipe();
    let child = program().args(lab.flags()).arg("--log.level=debug").stderr(full).spawn().unwrap();
    let sidecar = Running::begin(child, lab.address);
    sidecar.until_ready(200);
    sidecar.until("everything is seen", every_collector_is_up);
    // More than may wait.
    for turn in 0..1_500 {
        lab.configure("[nonsense]\n");
        assert_eq!(post(lab.address), 500, "{turn}");
    }
    assert_eq!(sidecar.ready(), 200);
    sidecar.until("everything is seen", every_collector_is_up);
    let read = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = log.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    std::thread::sleep(Duration::from_secs(1));
    lab.configure(&lab.text(&[]));
    assert_eq!(post(lab.address), 200);
    let (status, _) = sidecar.terminate();
    assert!(status.success());
    let text = read.join().unwrap();
    let last = text.lines().rev().take(20).collect::<Vec<_>>().join("\n");
    assert!(text.contains("lines of this log are missing"), "{last}");
    let told = regex_lite::Regex::new(r#"lines"?[=:](\d+)"#).unwrap();
    let lost: u64 = told.captures_iter(&text).map(|found| found[1].parse::<u64>().unwrap()).sum();
    assert!(lost > 1, "how many they were: {lost}\n{last}");
    assert!(text.contains("stopping"), "{last}");
    Some(Said {
        readyz: "as ever",
        metric: "as ever",
        page: "as ever",
        alert: NONE,
        clears: "when somebody reads: a line says how many are missing",
        fresh: "all; 1 024 lines wait, the rest is left out",
    })
}

fn without_a_reader_of_its_log_it_goes_on() -> Option<Said> {
    let lab = Lab::new(29).calm();
    let (log, closed) = std::io::pipe().unwrap();
    drop(log);
    let child = program().args(lab.flags()).stderr(closed).spawn().unwrap();
    let sidecar = Running::begin(child, lab.address);
    sidecar.until_ready(200);
    sidecar.until("everything is seen", every_collector_is_up);
    lab.configure("[nonsense]\n");
    assert_eq!(post(lab.address), 500);
    sidecar.stays(200, Duration::from_secs(2));
    let (status, _) = sidecar.terminate();
    assert!(status.success(), "{status}");
    // One that cannot start ends with the same code as if it could say why.
    let (log, closed) = std::io::pipe().unwrap();
    drop(log);
    assert_eq!(program().args(lab.flags()).stderr(closed).status().unwrap().code(), Some(2));
    Some(Said {
        readyz: "as ever",
        metric: "as ever",
        page: "as ever",
        alert: NONE,
        clears: "never any fault",
        fresh: "all; exit codes are as ever",
    })
}

fn with_few_files_it_answers_and_recovers() -> Option<Said> {
    let lab = Lab::new(30).calm();
    let sidecar = lab.start_by(after("ulimit -n 48"), &[]);
    well(&lab, &sidecar);
    let clients: Vec<_> = (0..100).filter_map(|_| TcpStream::connect(lab.address).ok()).collect();
    let begun = Instant::now();
    let mut down = Vec::new();
    while begun.elapsed() < Duration::from_secs(6) {
        let (code, _) = sidecar.get("/readyz");
        assert_eq!(code, 200);
        let status = sidecar.status();
        down.extend(crate::lab::collectors(&status, false).into_iter().map(str::to_owned));
        std::thread::sleep(Duration::from_millis(200));
    }
    down.sort();
    down.dedup();
    println!("not up with 48 files and {} clients: {down:?}; {}", clients.len(), sidecar.vitals());
    drop(clients);
    sidecar.until("everything is seen again", every_collector_is_up);
    assert_eq!((ever_failed(&sidecar), called(&sidecar)), (vec![], vec![]));
    Some(Said {
        readyz: "as before",
        metric: "as ever",
        page: "as ever",
        alert: NONE,
        clears: "as the clients leave",
        fresh: "all",
    })
}

fn without_more_threads_it_looks_on() -> Option<Said> {
    let lab = Lab::new(31).calm();
    let Some(group) = Cgroup::new("pids", "threads") else { return cannot("a limit of threads") };
    let sidecar = lab.start();
    well(&lab, &sidecar);
    group.take(sidecar.child.id());
    group.limit(["pids.max"; 2], "1");
    let at = sidecar.status()["collectors"]["service"]["last_success_at"].clone();
    // Longer than idle threads live.
    sidecar.stays(200, Duration::from_secs(14));
    let status = sidecar.until("everything is seen", every_collector_is_up);
    assert!(status["collectors"]["service"]["last_success_at"].as_str() > at.as_str());
    assert_eq!((ever_failed(&sidecar), called(&sidecar)), (vec![], vec![]));
    group.limit(["pids.max"; 2], "max");
    Some(Said {
        readyz: "as before",
        metric: "as ever",
        page: "as ever; looks at worktrees wait for a thread",
        alert: NONE,
        clears: "at once",
        fresh: "all: looks share the threads that there are",
    })
}

/// A stop lets requests under way end for 5 s, and verdicts be written for one.
const STOP: Duration = Duration::from_secs(10);

fn asked_to_end_it_ends_whatever_hangs() -> Option<Said> {
    let lab = Lab::new(32);
    if own_view().is_err() {
        return cannot("a disk that is away");
    }
    let sidecar = lab.start_kept();
    well(&lab, &sidecar);
    lab.gate.hold(true);
    let Ok(away) = Away::at(&lab.root.path().join("data")) else { return cannot("a disk that is away") };
    sidecar.until("much hangs", |status| crate::lab::collectors(status, false).len() > 5);
    let mut clients: Vec<_> = (0..100).map(|_| TcpStream::connect(lab.address).unwrap()).collect();
    clients.iter_mut().for_each(|client| drop(client.write_all(b"GET /metrics HTTP/1.1\r\nHost:")));
    sidecar.signal(Signal::HUP);
    let (status, took) = sidecar.terminate();
    println!("ended after {took:?}");
    assert!(status.success() && took < STOP, "{status} after {took:?}");
    drop(away);
    lab.gate.hold(false);
    let sidecar = lab.start_kept();
    sidecar.until_ready(200);
    assert_eq!(pauses(&sidecar), ["stopped"]);
    Some(Said {
        readyz: "no answer when it has ended",
        metric: "`up` 0 when it has ended",
        page: "none",
        alert: DOWN,
        clears: "as it starts",
        fresh: "it ends with 0 within 10 s; verdicts and history go on",
    })
}
