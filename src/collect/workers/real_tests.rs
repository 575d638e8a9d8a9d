//! Workers that are real processes: copies of a shell under names of their own, started and ended by each test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::collect::fixture::{self, look};
use crate::host::ProcessRule;
use crate::host::running::stage::unprivileged;
use crate::source::process::proc::Stat;
use crate::source::process::wait_for_words;

/// A folder with a shell and a `sleep` under names that no other process of the machine has.
struct Stage {
    folder: tempfile::TempDir,
    /// What workers are called.
    name: String,
    /// Ended with the test, whatever happens in it.
    children: Vec<Child>,
    others: Vec<u32>,
}

static STAGES: AtomicU32 = AtomicU32::new(0);
const LATER: Duration = Duration::from_secs(31);

impl Drop for Stage {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.others.iter().filter_map(|&pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

impl Stage {
    fn new() -> Stage {
        Stage::of("/bin/sh")
    }

    /// Whose workers are this shell.
    fn of(shell: &str) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let name = format!("w{}n{}", std::process::id(), STAGES.fetch_add(1, Ordering::Relaxed));
        for (program, copy) in [(shell, &*name), ("/bin/sh", "hostd"), ("/bin/sleep", "tool")] {
            std::fs::copy(program, folder.path().join(copy)).unwrap();
        }
        Stage { folder, name, children: Vec::new(), others: Vec::new() }
    }

    /// A shell's child whose input is a pipe of ours.
    fn spawn(&mut self, program: &str, script: &str) -> (u32, ChildStdin) {
        let mut command = Command::new(self.folder.path().join(program));
        command.args(["-c", script]).current_dir(self.folder.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.env("API_KEY", "sk-test-123");
        // Right after the copy another test's fork may still hold it open for writing.
        let started = std::iter::repeat_with(|| command.spawn())
            .take(100_000)
            .find(|child| !matches!(child, Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy));
        let mut child = started.expect("the copy stays busy").unwrap();
        wait_for_words(&child);
        let input = child.stdin.take().unwrap();
        let pid = child.id();
        self.children.push(child);
        (pid, input)
    }

    fn worker(&mut self, script: &str) -> (u32, ChildStdin) {
        let name = self.name.clone();
        self.spawn(&name, script)
    }

    /// The pid that the youngest child prints, of one that it has started.
    fn grandchild(&mut self) -> u32 {
        let mut line = String::new();
        BufReader::new(self.children.last_mut().unwrap().stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let pid = line.trim().parse().unwrap();
        self.others.push(pid);
        pid
    }

    /// Knows this stage's workers, and its host by a file.
    fn collector(&self, host: u32, more: &str) -> Workers {
        let file = self.folder.path().join("pid");
        std::fs::write(&file, host.to_string()).unwrap();
        let host = Host { process: ProcessRule::PidFile(file), ..fixture::host(None) };
        let config = format!("{more}\n[[rule]]\nname = \"own\"\ncomm = \"{}\"\n", self.name);
        Workers::new(toml::from_str(&config).unwrap(), &host, &Sources::default()).unwrap().unwrap()
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3000 {
        if holds() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never: {what}");
}

fn stat(pid: u32) -> Option<Stat> {
    Proc::default().scan().unwrap().get(pid).copied()
}

fn is_called(pid: u32, name: &str) -> bool {
    stat(pid).is_some_and(|stat| stat.comm.is(name))
}

/// Until it has executed its program: a fork has our name and our files.
fn settle(pids: &[u32], name: &str) {
    pids.iter().for_each(|&pid| until("its own name", || is_called(pid, name)));
}

fn classes(section: &Section) -> BTreeMap<u32, Class> {
    section.processes.iter().map(|one| (one.pid, one.class)).collect()
}

#[test]
fn each_class_of_real_processes_is_told_within_two_looks() {
    let mut stage = Stage::new();
    let name = stage.name.clone();
    let script = format!(
        "exec 3<&0; for what in 'read x' './tool 20; true' 'while :; do :; done'; do ./{name} -c \"$what\" <&3 & echo $!; done; wait"
    );
    let (host, _host_input) = stage.spawn("hostd", &script);
    let mut lines = BufReader::new(stage.children.last_mut().unwrap().stdout.take().unwrap()).lines();
    let [idle, tool, busy] = [(); 3].map(|()| lines.next().unwrap().unwrap().parse::<u32>().unwrap());
    stage.others.extend([idle, tool, busy]);
    // Killed, and reaped by nobody as long as this test runs.
    let (zombie, _input) = stage.worker("read x");
    // Its parent ends at once, and we hold its input.
    let (_, _held) = stage.spawn("hostd", &format!("exec 3<&0; ./{name} -c 'read x' <&3 & echo $!"));
    let orphan = stage.grandchild();
    settle(&[idle, tool, busy, zombie, orphan], &name);
    until("the tool runs", || {
        let scan = Proc::default().scan().unwrap();
        let running = scan.all().iter().find(|stat| stat.parent == tool && stat.comm.is("tool"));
        stage.others.extend(running.map(Stat::pid));
        running.is_some()
    });
    kill_process(Pid::from_raw(zombie as i32).unwrap(), Signal::KILL).unwrap();
    until("a corpse", || stat(zombie).is_some_and(|stat| stat.is_zombie()));
    until("the parent of the orphan ends", || {
        Proc::default().scan().unwrap().get(orphan).is_some_and(|stat| stat.parent != stage.children[2].id())
    });

    let mut workers = stage.collector(host, "leaked_after = \"40s\"");
    let begun = Now::read();
    look(&mut workers, begun).unwrap();
    let before = stat(busy).unwrap().cpu();
    until("it burns", || stat(busy).unwrap().cpu() > before + Duration::from_millis(400));
    let section = look(&mut workers, begun.plus(LATER)).unwrap();
    let expected = [
        (idle, Class::Idle),
        (tool, Class::Busy),
        (busy, Class::Busy),
        (zombie, Class::Zombie),
        (orphan, Class::Orphan),
    ];
    assert_eq!(classes(&section), expected.into_iter().collect());
    let totals = &section.totals;
    assert_eq!((totals.alive, totals.busy, totals.idle, totals.zombie, totals.orphan), (4, 2, 1, 1, Some(1)));
    assert_eq!(fixture::json::<Workers>(&section)["host"]["pid"], host);
    let of = |pid| section.processes.iter().find(|one| one.pid == pid).unwrap();
    assert!(of(busy).cpu_percent.unwrap() > 1.0 && of(busy).cpu_seconds >= 0.4, "{:?}", of(busy));
    assert!(of(idle).rss_bytes > 100_000 && of(idle).threads == 1 && of(idle).fds.unwrap() >= 3, "{:?}", of(idle));
    assert_eq!((of(tool).children, of(zombie).rss_bytes, of(idle).idle_seconds), (1, 0, Some(31)));
    let folder = stage.folder.path().file_name().unwrap().to_str();
    assert_eq!((of(idle).cwd.as_deref(), of(zombie).cwd.as_deref()), (folder, None));
    let counted = fixture::value(&fixture::points::<Workers>(&section), &CPU, "own");
    assert!(counted.flatten().unwrap() >= 0.4, "{counted:?}");

    // Idle for longer than it may; and the host, when it ends, leaves all of its own behind.
    let section = look(&mut workers, begun.plus(LATER * 2)).unwrap();
    assert_eq!(classes(&section)[&idle], Class::Leaked);
    stage.children[0].kill().unwrap();
    until("the host ends", || stat(host).is_none_or(|stat| stat.is_zombie()));
    let section = look(&mut workers, begun.plus(LATER * 3)).unwrap();
    assert_eq!((section.totals.orphan, section.totals.zombie), (Some(4), 1), "{:?}", classes(&section));
    let text = format!("{section:?}{}", serde_json::to_string(&section).unwrap());
    assert!(!text.contains("sk-test-123") && !text.contains("read x"), "{text}");
}

#[test]
fn a_worker_that_executes_another_image_is_one_no_more() {
    let mut stage = Stage::new();
    let (pid, mut input) = stage.worker("read x; exec ./tool 60");
    settle(&[pid], &stage.name);
    let mut workers = stage.collector(1, "");
    assert_eq!(look(&mut workers, Now::read()).unwrap().totals.alive, 1);
    input.write_all(b"\n").unwrap();
    until("another image", || is_called(pid, "tool"));
    let section = look(&mut workers, Now::read()).unwrap();
    assert_eq!((section.processes.len(), section.kinds["own"].exits_total), (0, 1));
}

/// Needs the right to make a pid namespace; where it is missing nothing is proven.
#[test]
fn of_one_in_a_container_nobody_can_say_whether_it_is_an_orphan() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut stage = Stage::new();
    let name = stage.name.clone();
    let (host, _host_input) = stage.spawn("hostd", "read x");
    let (outside, _outside) = stage.worker("read x");
    let (runner, _input) = stage.spawn("hostd", &format!("exec unshare --pid --fork ./{name} -c 'read x'"));
    let inside = || {
        let scan = Proc::default().scan().unwrap();
        scan.all().iter().find(|stat| stat.parent == runner && stat.comm.is(&name)).map(Stat::pid)
    };
    until("it runs in a namespace of its own", || inside().is_some());
    let inside = inside().unwrap();
    stage.others.push(inside);
    settle(&[outside], &name);
    let section = look(&mut stage.collector(host, ""), Now::read().plus(LATER)).unwrap();
    assert_eq!(classes(&section), [(outside, Class::Orphan), (inside, Class::Unknown)].into_iter().collect());
    assert_eq!((section.totals.orphan, section.limits.len()), (Some(1), 1));
    assert!(section.limits[0].ends_with("1 workers are orphans, as they run in a container and the host does not"));
}

/// At looks that are 15 s apart.
#[test]
fn whoever_ends_within_seconds_is_known_to_though_nobody_looks() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut stage = Stage::new();
    let mut workers = stage.collector(1, "");
    let look = |workers: &mut Workers, now| {
        let section = runtime.block_on(workers.collect(now)).unwrap();
        (section.kinds["own"].spawns_total, section.kinds["own"].exits_total, section.kinds["own"].early_exits_recent)
    };
    assert_eq!(look(&mut workers, Now::read()), (0, 0, 0));
    let [reaped, stays, corpse] = [(); 3].map(|()| stage.worker("read x"));
    settle(&[reaped.0, stays.0, corpse.0], &stage.name);
    let begun = Now::read();
    assert_eq!((look(&mut workers, begun), workers.roll.awaits()), ((3, 0, 0), 3));
    drop((reaped, corpse));
    stage.children[0].wait().unwrap();
    until("a corpse", || stat(stage.children[2].id()).is_some_and(|stat| stat.is_zombie()));
    until("both ends are told", || workers.roll.awaits() == 1);
    assert_eq!(look(&mut workers, begun.plus(Duration::from_secs(15))), (3, 2, 2));
    drop(stays);
    stage.children[1].wait().unwrap();
    assert_eq!(
        look(&mut workers, begun.plus(Duration::from_secs(30))),
        (3, 3, 2),
        "it lived for longer, as far as the looks go"
    );
}

#[test]
fn of_three_hundred_processes_three_match() {
    let mut stage = Stage::new();
    let own: Vec<_> = (0..3).map(|_| stage.worker("read x")).collect();
    let others: Vec<_> = (0..297).map(|_| stage.spawn("hostd", "read x")).collect();
    assert_eq!(others.len(), 297);
    let pids: Vec<u32> = own.iter().map(|(pid, _)| *pid).collect();
    settle(&pids, &stage.name);
    let mut workers = stage.collector(1, "");
    for _ in 0..2 {
        let section = look(&mut workers, Now::read()).unwrap();
        assert_eq!(classes(&section).into_keys().collect::<Vec<_>>(), pids);
    }
}

/// Needs another user to be; where it is missing nothing is proven.
#[test]
fn of_another_user_less_is_known_and_said_to_be() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut stage = Stage::new();
    let (pid, _input) = stage.worker("./tool 20; true");
    settle(&[pid], &stage.name);
    until("the tool runs", || {
        let scan = Proc::default().scan().unwrap();
        let tool = scan.all().iter().find(|stat| stat.parent == pid && stat.comm.is("tool")).map(Stat::pid);
        stage.others.extend(tool);
        tool.is_some()
    });
    let exe = format!("[[rule]]\nname = \"exe\"\ncomm = \"{0}\"\nexe = \"{0}\"", stage.name);
    let (mut workers, mut by_program) = (stage.collector(1, ""), stage.collector(1, ""));
    by_program.roll = Roll::new(vec![Rule::from(toml::from_str::<Config>(&exe).unwrap().rules.0[0].clone())], true);
    let closed = tempfile::tempdir().unwrap();
    let [section, unseen] = unprivileged(closed.path(), || {
        [look(&mut workers, Now::read()).unwrap(), look(&mut by_program, Now::read()).unwrap()]
    });
    let one = only(&section);
    assert_eq!((one.pid, one.class, one.children, one.cwd.as_deref()), (pid, Class::Busy, 1, None), "by its tool");
    assert!(one.rss_bytes > 100_000, "{one:?}");
    assert_eq!((section.kinds["own"].degraded, section.kinds["own"].disk_read_bytes_total), (1, None));
    assert!(section.limits[0].starts_with("I/O and sockets of 1 workers are not ours to see"), "{section:?}");
    assert!(unseen.processes.is_empty());
    assert!(unseen.limits[0].starts_with("the program of 1 processes is not ours to see"), "{unseen:?}");
}

#[test]
fn a_real_connection_is_work_while_it_talks() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut stage = Stage::of("/bin/bash");
    let script = "while read x; do echo \"$x\" >&5; read y <&5; done";
    let (pid, mut input) = stage.worker(&format!("exec 5<>/dev/tcp/127.0.0.1/{port}; {script}"));
    let mut model = listener.accept().unwrap().0;
    let mut workers = stage.collector(1, "");
    let begun = Now::read();
    let mut class = |span| only(&look(&mut workers, begun.plus(Duration::from_secs(span))).unwrap()).class;
    assert_eq!((class(0), class(15)), (Class::Unknown, Class::Idle), "open, and silent");
    let before = Proc::default().io(pid).unwrap().read_chars;
    input.write_all(&[b'x'; 3000]).unwrap();
    input.write_all(b"\n").unwrap();
    model.read_exact(&mut [0; 3001]).unwrap();
    model.write_all(b"ok\n").unwrap();
    until("the answer is read", || Proc::default().io(pid).unwrap().read_chars >= before + 3004);
    assert_eq!((class(30), class(45)), (Class::Busy, Class::Idle));
}

fn only(section: &Section) -> &Process {
    assert_eq!(section.processes.len(), 1, "{section:?}");
    &section.processes[0]
}
