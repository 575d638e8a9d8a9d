//! Workers in a `/proc` of our own making, where all can be had that cannot be forced.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::collect::fixture::api::{Api, Say};
use crate::collect::fixture::{self, error, look};
use crate::host::ProcessRule;
use crate::host::running::stage::unprivileged;
use crate::source::process::proc::Proc;

/// A machine that booted 1 000 s ago, with a host `hostd` as process 100.
struct Machine {
    folder: TempDir,
}

/// One process of it. Moments are in seconds since boot.
#[derive(Clone, Copy)]
struct Fake<'a> {
    pid: u32,
    parent: u32,
    comm: &'a str,
    words: &'a str,
    state: char,
    started: u64,
    ticks: u64,
    terminal: u32,
    input: &'a str,
    /// `rchar`, `wchar`, `read_bytes`, `write_bytes`
    io: [u64; 4],
    sockets: &'a [u64],
    established: &'a [u64],
    environ: &'a str,
    depth: &'a str,
}

/// An idle worker of the host, 400 s old.
const PI: Fake<'_> = Fake {
    pid: 200,
    parent: 100,
    comm: "pi",
    words: "pi\0\0\0\0",
    state: 'S',
    started: 600,
    ticks: 100,
    terminal: 0,
    input: "pipe:[1]",
    io: [0; 4],
    sockets: &[],
    established: &[],
    environ: "",
    depth: "200",
};

const HOST: Fake<'_> = Fake { pid: 100, parent: 1, comm: "hostd", words: "hostd\0--all", started: 10, ..PI };
const SERVER: Fake<'_> = Fake { comm: "node", words: "node\0/opt/x/mcp-server-git/index.js\0/repo", ..PI };
const WORKED: u64 = 20;

impl Machine {
    fn new(processes: &[Fake<'_>]) -> Machine {
        let machine = Machine { folder: tempfile::tempdir().unwrap() };
        machine.write("stat", b"cpu 1\nbtime 1000000\n");
        std::fs::create_dir_all(machine.path("self/ns")).unwrap();
        symlink("pid:[4026531836]", machine.path("self/ns/pid")).unwrap();
        machine.run(&[Fake { pid: 1, parent: 0, comm: "init", words: "init", started: 0, ..PI }, HOST]);
        machine.run(processes);
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &[u8]) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Adds processes, or changes them.
    fn run(&self, processes: &[Fake<'_>]) {
        for process in processes {
            let _ = std::fs::remove_dir_all(self.path(&process.pid.to_string()));
            self.add(process);
        }
    }

    fn add(&self, fake: &Fake<'_>) {
        let Fake { pid, parent, comm, state, started, ticks, terminal, .. } = *fake;
        for folder in ["fd", "net", "ns"] {
            std::fs::create_dir_all(self.path(&format!("{pid}/{folder}"))).unwrap();
        }
        let is_zombie = state == 'Z';
        let (pages, threads, start) =
            (if is_zombie { 0 } else { 1000 + u64::from(pid) }, if is_zombie { 1 } else { 11 }, started * 100);
        let stat = format!(
            "{pid} ({comm}) {state} {parent} 1 1 {terminal} -1 0 0 0 0 0 {ticks} 0 0 0 20 0 {threads} 0 {start} 1 {pages} 1"
        );
        self.write(&format!("{pid}/stat"), stat.as_bytes());
        self.write(&format!("{pid}/cmdline"), if is_zombie { b"" } else { fake.words.as_bytes() });
        self.write(&format!("{pid}/environ"), fake.environ.as_bytes());
        self.write(&format!("{pid}/status"), format!("Name:\t{comm}\nNSpid:\t{}\n", fake.depth).as_bytes());
        let [rchar, wchar, read, written] = fake.io;
        let io =
            format!("rchar: {rchar}\nwchar: {wchar}\nsyscr: 1\nsyscw: 1\nread_bytes: {read}\nwrite_bytes: {written}\n");
        self.write(&format!("{pid}/io"), io.as_bytes());
        let connected: String =
            fake.established.iter().map(|inode| format!("0: 1:1 2:2 01 0:0 0:0 0 0 0 {inode} 1\n")).collect();
        self.write(&format!("{pid}/net/tcp"), format!("head\n{connected}").as_bytes());
        if is_zombie {
            return;
        }
        symlink(fake.input, self.path(&format!("{pid}/fd/0"))).unwrap();
        for (number, inode) in (3..).zip(fake.sockets) {
            symlink(format!("socket:[{inode}]"), self.path(&format!("{pid}/fd/{number}"))).unwrap();
        }
        symlink(format!("net:[{pid}]"), self.path(&format!("{pid}/ns/net"))).unwrap();
        symlink("/srv/project", self.path(&format!("{pid}/cwd"))).unwrap();
        symlink("/opt/bin/program", self.path(&format!("{pid}/exe"))).unwrap();
    }

    fn end(&self, pid: u32) {
        std::fs::remove_dir_all(self.path(&pid.to_string())).unwrap();
    }

    fn collector(&self, config: &str) -> Workers {
        self.collector_beside(config, ProcessRule::Command("hostd".to_owned()))
    }

    fn collector_beside(&self, config: &str, rule: ProcessRule) -> Workers {
        let host = Host { process: rule, ..fixture::host(None) };
        let sources = Sources { proc: Proc::at(self.folder.path()), ..Sources::default() };
        Workers::new(toml::from_str(config).unwrap(), &host, &sources).unwrap().unwrap()
    }
}

/// Seconds since boot.
fn at(second: u64) -> Now {
    Now { mono: Duration::from_secs(second), wall: jiff::Timestamp::from_second(1_000_000 + second as i64).unwrap() }
}

fn classes(section: &Section) -> Vec<(u32, Class)> {
    section.processes.iter().map(|one| (one.pid, one.class)).collect()
}

fn only(section: &Section) -> &Process {
    assert_eq!(section.processes.len(), 1, "{section:?}");
    &section.processes[0]
}

fn value(section: &Section, fact: &'static Fact, subject: &str) -> Option<Option<f64>> {
    fixture::value(&fixture::points::<Workers>(section), fact, subject)
}

/// One of each class; busy are those with a tool, with CPU, and with a connection that talks.
fn one_of_each(machine: &Machine, work: u64) {
    let connected = [77];
    machine.run(&[
        Fake { pid: 201, state: 'Z', ..PI },
        Fake { pid: 202, parent: 1, ..PI },
        Fake { pid: 203, started: 250, ..PI },
        Fake { pid: 204, ticks: 100 + work, ..PI },
        PI,
        Fake { pid: 301, parent: 200, comm: "bash", words: "bash\0-c\0x", ..PI },
        Fake { pid: 205, ..PI },
        Fake { pid: 206, io: [100 * work, 200 * work, 0, 0], sockets: &connected, established: &connected, ..PI },
        Fake { pid: 401, parent: 205, ..SERVER },
        Fake { pid: 402, parent: 205, started: 700, ..SERVER },
    ]);
}

#[test]
fn each_class_is_told_within_two_looks_and_all_add_up() {
    let machine = Machine::new(&[]);
    one_of_each(&machine, 0);
    let mut workers = machine.collector("presets = [\"pi\", \"mcp\"]\nleaked_after = \"14s\"");
    let first = look(&mut workers, at(1000)).unwrap();
    assert_eq!(first.totals.unknown, 5, "work takes two looks: {:?}", classes(&first));
    one_of_each(&machine, WORKED);
    let section = look(&mut workers, at(1015)).unwrap();
    let expected = [
        (200, Class::Busy),
        (201, Class::Zombie),
        (202, Class::Orphan),
        (203, Class::Leaked),
        (204, Class::Busy),
        (205, Class::Leaked),
        (206, Class::Busy),
        (401, Class::Duplicate),
        (402, Class::Idle),
    ];
    assert_eq!(classes(&section), expected);
    let json = fixture::json::<Workers>(&section);
    assert_eq!(
        json["totals"],
        json!({"alive": 8, "busy": 3, "idle": 1, "zombie": 1, "orphan": 1, "leaked": 2, "duplicate": 1,
            "unregistered": null, "unknown": 0})
    );
    assert_eq!(json["host"], json!({"pid": 100, "orphan_test": true, "reason": null}));
    let page = rustix::param::page_size() as u64;
    assert_eq!(
        json["processes"][0],
        json!({"pid": 200, "kind": "pi", "class": "busy", "state": "S", "cpu_seconds": 1.0, "cpu_percent": 0.0,
            "rss_bytes": 1200 * page, "threads": 11, "fds": 1, "children": 1, "uptime_seconds": 415, "idle_seconds": 0,
            "session": null, "cwd": "project", "registered": null, "registered_state": null, "idle_for_s": null, "container": null})
    );
    assert_eq!(json["processes"][1]["cwd"], Value::Null);
    assert_eq!((&json["processes"][3]["idle_seconds"], &json["limits"]), (&json!(15), &json!([])));
    let all: usize = Class::ALL.iter().filter_map(|class| section.totals.of(*class)).sum();
    assert_eq!((all, all - section.totals.zombie), (section.processes.len(), section.totals.alive));
    for (subject, count) in [("pi/busy", 3.0), ("pi/zombie", 1.0), ("mcp/duplicate", 1.0), ("mcp/busy", 0.0)] {
        assert_eq!(value(&section, &WORKERS, subject), Some(Some(count)), "{subject}");
    }
    assert_eq!(value(&section, &WORKERS, "pi/unregistered"), None, "not asked");
    let busy = (1200 + 1204 + 1206) * page;
    assert_eq!(value(&section, &MEMORY, "pi/busy"), Some(Some(busy as f64)));
    assert_eq!(value(&section, &MEMORY_MAX, "pi/busy"), Some(Some((1206 * page) as f64)));
    assert_eq!(value(&section, &OLDEST, "pi/leaked"), Some(Some(1_000_250.0)));
    assert_eq!(value(&section, &THREADS, "mcp/idle"), Some(Some(11.0)));
    assert_eq!(value(&section, &FDS, "pi/busy"), Some(Some(4.0)));
    for (fact, subject, count) in [
        (&ZOMBIES, "pi", Some(Some(1.0))),
        (&ORPHANS, "pi", Some(Some(1.0))),
        (&ORPHANS, "mcp", Some(Some(0.0))),
        (&LEAKED, "pi", Some(Some(2.0))),
        (&LEAKED, "mcp", None),
        (&DUPLICATES, "mcp", Some(Some(1.0))),
        (&DUPLICATES, "pi", None),
        (&OVER_RSS, "pi", None),
        (&DEGRADED, "pi", Some(Some(0.0))),
        (&CPU, "pi", Some(Some(0.2))),
    ] {
        assert_eq!(value(&section, fact, subject), count, "{} {subject}", fact.prometheus);
    }
}

#[test]
fn a_kind_without_workers_has_zeros_and_a_machine_without_proc_an_error() {
    let machine = Machine::new(&[]);
    let section = look(&mut machine.collector("presets = [\"pi\"]"), at(1000)).unwrap();
    assert_eq!((section.totals.alive, section.totals.orphan), (0, Some(0)));
    assert_eq!(value(&section, &ZOMBIES, "pi"), Some(Some(0.0)));
    assert_eq!(value(&section, &DISK_READ, "pi"), None, "that of nobody could be read");
    assert_eq!(value(&section, &MEMORY, "pi/idle"), None);
    let mut workers = machine.collector("presets = [\"pi\"]");
    std::fs::remove_dir_all(machine.folder.path()).unwrap();
    assert!(error(&mut workers).contains("No such file"));
}

#[test]
fn nothing_to_look_for_is_no_collector() {
    let new = |config: &str| {
        Workers::new(toml::from_str(config).unwrap(), &fixture::host(None), &Sources::default()).unwrap().is_some()
    };
    assert!(!new("") && !new("presets = []") && !new("sessions = true"), "pynchy's agents are in containers");
    assert!(new("presets = [\"pi\"]") && new("[[rule]]\nname = \"x\"\ncomm = \"x\""));
}

#[test]
fn the_configuration_is_checked() {
    let refusal = |text: &str| toml::from_str::<Config>(text).unwrap_err().to_string();
    assert!(refusal("presets = [\"pj\"]").contains("unknown variant `pj`"));
    assert!(refusal("presets = [\"pi\", \"pi\"]").contains("`pi` stands there twice"));
    let taken = refusal("[[rule]]\nname = \"pi\"\ncomm = \"x\"");
    assert!(taken.contains("the name `pi` is taken"), "{taken}");
    assert!(
        refusal("[[rule]]\nname = \"x\"\ncomm = \"x\"\n[[rule]]\nname = \"x\"\ncomm = \"y\"").contains("`x` is taken")
    );
    let pattern = refusal("[[rule]]\nname = \"x\"\ncmdline = \"[\"");
    assert!(pattern.contains("line 3") && pattern.contains("no regular expression"), "{pattern}");
    assert!(refusal("max_rss = -1").contains("invalid value"));
    assert!(refusal("max_per_parent = 0").contains("nonzero"));
    assert!(refusal("leaked = \"1m\"").contains("unknown field"));
}

/// Which kind a process is taken for.
fn kind(config: &str, fake: &Fake<'_>) -> Option<String> {
    let machine = Machine::new(std::slice::from_ref(fake));
    let section = look(&mut machine.collector(config), at(1000)).unwrap();
    section.processes.first().map(|one| one.kind.to_string())
}

#[test]
fn presets_know_their_own() {
    let every = "presets = [\"pi\", \"claude\", \"codex\", \"opencode\", \"openclaw\", \"mcp\"]";
    let node = Fake { comm: "node", ..PI };
    let starting = "node\0/usr/bin/pi\0--mode\0rpc";
    for (fake, expected) in [
        (PI, Some("pi")),
        (Fake { comm: "pi-rpc", ..PI }, Some("pi")),
        (Fake { state: 'Z', ..PI }, Some("pi")),
        (Fake { words: "/opt/pi\0--mode\0rpc", ..PI }, Some("pi")),
        (Fake { words: starting, ..node }, Some("pi")),
        (Fake { comm: "MainThread", words: "node\0/x/dist/rpc-entry.js", ..PI }, Some("pi")),
        (Fake { comm: "bun", words: "bun\0dist/cli.js\0--mode\0rpc", ..PI }, Some("pi")),
        (Fake { words: "node\0/usr/bin/pi\0-p\0x", ..node }, None),
        (Fake { words: "node\0/usr/bin/pip\0--mode\0rpc", ..node }, None),
        (Fake { comm: "pip", ..PI }, None),
        (Fake { comm: "pipewire", ..PI }, None),
        (Fake { terminal: 34816, input: "/dev/pts/0", ..PI }, None),
        (Fake { terminal: 34816, input: "pipe:[5]", ..PI }, Some("pi")),
        (Fake { input: "/dev/null", ..PI }, Some("pi")),
        (Fake { comm: "claude", words: "claude\0-p", ..PI }, Some("claude")),
        (Fake { comm: "claude", terminal: 34816, input: "/dev/pts/3", ..PI }, None),
        (Fake { comm: "codex", words: "codex\0app-server", ..PI }, Some("codex")),
        (Fake { comm: "opencode", words: "opencode\0serve", ..PI }, Some("opencode")),
        (Fake { comm: "opencode", words: "opencode", ..PI }, None),
        (Fake { comm: "openclaw-gatewa", words: "openclaw-gateway   ", ..PI }, Some("openclaw")),
        (SERVER, Some("mcp")),
        (Fake { words: "python3\0-m\0mcp_server_git\0--repository\0/x", comm: "python3", ..PI }, Some("mcp")),
        (Fake { words: "npm exec @modelcontextprotocol/server-github", ..node }, Some("mcp")),
        (Fake { words: "/usr/bin/github-mcp-server\0stdio", comm: "github-mcp-serv", ..PI }, Some("mcp")),
        (Fake { input: "/dev/null", ..SERVER }, None),
        (Fake { comm: "agent", words: "agent\0--mcp-config\0/etc/mcp.json", ..PI }, None),
        (Fake { comm: "vim", words: "vim\0src/mcp/server.rs", ..PI }, None),
        (Fake { comm: "x", words: "", ..PI }, None),
    ] {
        assert_eq!(kind(every, &fake).as_deref(), expected, "{} {:?}", fake.comm, fake.words);
    }
}

#[test]
fn rules_of_the_operator_come_first_and_all_that_they_say_must_hold() {
    let rule = |keys: &str| format!("presets = [\"pi\"]\n[[rule]]\nname = \"own\"\n{keys}");
    for (keys, expected) in [
        ("comm = \"pi\"", "own"),
        ("comm = \"p\"", "pi"),
        ("exe = \"/opt/bin/program\"", "own"),
        ("exe = \"program\"", "own"),
        ("exe = \"bin/program\"", "pi"),
        ("cmdline = \"--mode rpc\"", "own"),
        ("cmdline = \"^/opt/pi .*c$\"", "own"),
        ("cmdline = \"^rpc\"", "pi"),
        ("comm = \"pi\"\ncmdline = \"web\"", "pi"),
        ("comm = \"pi\"\nancestor = \"hostd\"", "own"),
        ("comm = \"pi\"\nancestor = \"host\"", "pi"),
    ] {
        let worker = Fake { words: "/opt/pi\0--mode\0rpc", ..PI };
        assert_eq!(kind(&rule(keys), &worker).as_deref(), Some(expected), "{keys}");
    }
}

#[test]
fn a_pid_that_is_used_again_is_another_worker_and_no_counter_falls() {
    let machine = Machine::new(&[Fake { ticks: 5000, io: [0, 0, 700, 70], ..PI }]);
    let mut workers = machine.collector("presets = [\"pi\"]");
    let counted = |section: &Section| {
        let of = |fact| value(section, fact, "pi").unwrap().unwrap();
        [of(&CPU), of(&DISK_READ), of(&DISK_WRITTEN), of(&SPAWNS), of(&EXITS), of(&RESTARTS), of(&EARLY_EXITS)]
    };
    assert_eq!(counted(&look(&mut workers, at(1000)).unwrap()), [0.0; 7], "what was before us is not ours");
    machine.run(&[Fake { ticks: 5100, io: [0, 0, 900, 80], ..PI }]);
    assert_eq!(counted(&look(&mut workers, at(1015)).unwrap()), [1.0, 200.0, 10.0, 0.0, 0.0, 0.0, 0.0]);
    // The same pid, younger, with less of everything: all of it is new.
    machine.run(&[Fake { ticks: 30, io: [0, 0, 5, 6], started: 1020, ..PI }]);
    let section = look(&mut workers, at(1030)).unwrap();
    assert_eq!(counted(&section)[..4], [1.3, 205.0, 16.0, 1.0]);
    assert_eq!((only(&section).class, only(&section).cpu_percent), (Class::Unknown, None), "seen once");
    machine.end(200);
    let section = look(&mut workers, at(1045)).unwrap();
    assert_eq!(counted(&section)[..3], [1.3, 205.0, 16.0]);
    assert_eq!(counted(&section)[3..], [1.0, 2.0, 1.0, 0.0], "it was 10 s old when it was last seen");
}

#[test]
fn one_that_executes_another_program_is_a_worker_no_more_or_of_another_kind() {
    let machine = Machine::new(&[Fake { ticks: 50, ..PI }]);
    let mut workers = machine.collector("presets = [\"pi\", \"claude\"]");
    look(&mut workers, at(1000)).unwrap();
    machine.run(&[Fake { comm: "claude", words: "claude", ticks: 150, ..PI }]);
    let section = look(&mut workers, at(1015)).unwrap();
    assert_eq!((&*only(&section).kind, value(&section, &CPU, "claude")), ("claude", Some(Some(0.0))));
    assert_eq!((value(&section, &EXITS, "pi"), value(&section, &SPAWNS, "claude")), (Some(Some(1.0)), Some(Some(1.0))));
    machine.run(&[Fake { comm: "vim", words: "vim", ticks: 250, ..PI }]);
    let section = look(&mut workers, at(1030)).unwrap();
    assert!(section.processes.is_empty());
    assert_eq!(value(&section, &EXITS, "claude"), Some(Some(1.0)));
    machine.run(&[Fake { ticks: 350, ..PI }]);
    assert_eq!(only(&look(&mut workers, at(1045)).unwrap()).pid, 200, "back, and found by its new name");
}

#[test]
fn a_name_that_comes_late_is_waited_for() {
    let young = Fake { started: 998, parent: 1, comm: "node", words: "node\0/x/y.js", ..PI };
    let machine = Machine::new(&[young]);
    let mut workers = machine.collector("presets = [\"pi\"]");
    assert!(look(&mut workers, at(1000)).unwrap().processes.is_empty());
    // Of the same name: a fork that has by now executed its program.
    machine.run(&[Fake { words: "node\0/x/pi\0--mode\0rpc", ..young }]);
    assert_eq!(only(&look(&mut workers, at(1015)).unwrap()).pid, 200);
}

#[test]
fn a_fork_on_its_way_to_a_tool_is_a_child_and_no_worker() {
    let machine = Machine::new(&[PI]);
    let mut workers = machine.collector("presets = [\"pi\"]");
    look(&mut workers, at(1000)).unwrap();
    machine.run(&[Fake { pid: 300, parent: 200, started: 1015, ..PI }]);
    let section = look(&mut workers, at(1015)).unwrap();
    assert_eq!((only(&section).class, only(&section).children), (Class::Busy, 1));
    let section = look(&mut workers, at(1030)).unwrap();
    assert_eq!(section.processes.len(), 2, "a worker of a worker");
}

/// One worker's class after a look in which this much changed.
fn after(change: Fake<'_>) -> Class {
    let machine = Machine::new(&[PI]);
    let mut workers = machine.collector("presets = [\"pi\"]");
    look(&mut workers, at(1000)).unwrap();
    machine.run(&[change]);
    only(&look(&mut workers, at(1015)).unwrap()).class
}

#[test]
fn a_connection_is_work_only_while_it_talks() {
    let open = Fake { sockets: &[7], established: &[7, 8], ..PI };
    assert_eq!(after(open), Class::Idle, "a keep-alive");
    assert_eq!(after(Fake { io: [300, 400, 0, 0], ..open }), Class::Idle, "a keep-alive that says so");
    assert_eq!(after(Fake { io: [1200, 12000, 0, 0], ..open }), Class::Busy);
    assert_eq!(after(Fake { io: [11672, 11672, 0, 0], ..open }), Class::Idle, "a garbage collector's own pipes");
    let others = Fake { established: &[8], io: [1200, 12000, 0, 0], ..open };
    assert_eq!(after(others), Class::Idle, "a host that polls by a pipe");
    assert_eq!(after(Fake { io: [1200, 12000, 0, 0], ..PI }), Class::Idle, "no socket at all");
    assert_eq!(after(Fake { ticks: 114, ..PI }), Class::Idle, "a garbage collector's burst");
    assert_eq!(after(Fake { ticks: 115, ..PI }), Class::Busy);
}

#[test]
fn work_is_measured_over_fifteen_seconds_however_often_it_is_looked() {
    let machine = Machine::new(&[PI]);
    let mut workers = machine.collector("presets = [\"pi\"]");
    // 2 ticks each second are 0.3 CPU seconds in 15; a burst of 14 in one second is none.
    let mut classes = Vec::new();
    for second in 0..40 {
        let ticks = if second < 20 { 100 + 2 * second } else { 138 + 14 * u64::from(second >= 38) };
        machine.run(&[Fake { ticks, ..PI }]);
        classes.push(only(&look(&mut workers, at(1000 + second)).unwrap()).class);
    }
    assert_eq!(classes[0], Class::Unknown);
    assert_eq!(classes[1..8], [Class::Idle; 7], "not enough yet");
    assert_eq!(classes[8..27], [Class::Busy; 19]);
    assert_eq!(classes[28..], [Class::Idle; 12]);
    // Looks that are a minute apart need as much for each quarter of it.
    let mut workers = machine.collector("presets = [\"pi\"]");
    look(&mut workers, at(2000)).unwrap();
    for (second, ticks, class) in [(2060, 152 + 59, Class::Idle), (2120, 152 + 59 + 60, Class::Busy)] {
        machine.run(&[Fake { ticks, ..PI }]);
        assert_eq!(only(&look(&mut workers, at(second)).unwrap()).class, class);
    }
}

/// The classes at looks so many milliseconds apart, each with so many more ticks than the one before.
fn worked(looks: &[(u64, u64)]) -> Vec<Class> {
    let machine = Machine::new(&[PI]);
    let mut workers = machine.collector("presets = [\"pi\"]");
    let (mut now, mut ticks) = (at(1000), 100);
    look(&mut workers, now).unwrap();
    let each = looks.iter().map(|&(millis, more)| {
        (now, ticks) = (now.plus(Duration::from_millis(millis)), ticks + more);
        machine.run(&[Fake { ticks, ..PI }]);
        only(&look(&mut workers, now).unwrap()).class
    });
    each.collect()
}

#[test]
fn work_is_held_against_the_time_between_two_readings() {
    use Class::{Busy, Idle};
    // A pace that trembles: work of one interval is seen in that one, and in no other.
    let tremble = [(14_990, 0), (15_010, 16), (14_985, 0), (14_995, 15), (15_000, 0), (14_600, 16), (15_400, 0)];
    assert_eq!(worked(&tremble), [Idle, Busy, Idle, Busy, Idle, Busy, Idle]);
    assert_eq!(worked(&[(14_500, 14); 4]), [Idle; 4], "a garbage collector's burst");
    // As much for its length as in 15 s, whatever the length.
    for (millis, needed) in [(20_000, 20), (23_400, 24), (37_000, 37), (61_000, 61)] {
        assert_eq!(worked(&[(millis, needed); 3]), [Busy; 3], "{millis}");
        assert_eq!(worked(&[(millis, needed - 1); 3]), [Idle; 3], "{millis}");
    }
    // 7 s: three of them are the shortest window of at least 15 s, 21 s, which need 21 ticks.
    assert_eq!(worked(&[(7_000, 7); 4]), [Idle, Idle, Busy, Busy]);
    assert_eq!(worked(&[(7_000, 7), (7_000, 7), (7_000, 6), (7_000, 7)]), [Idle; 4]);
    // One that came late is a long window once.
    assert_eq!(worked(&[(15_000, 16), (44_000, 43), (15_000, 15), (15_000, 14)]), [Busy, Idle, Busy, Idle]);
}

#[test]
fn a_child_is_work_but_a_server_or_a_corpse_is_none() {
    let with = |child: Fake<'_>| {
        let machine = Machine::new(&[PI, Fake { pid: 300, parent: 200, ..child }]);
        let mut workers = machine.collector("presets = [\"pi\"]");
        look(&mut workers, at(1000)).unwrap();
        let section = look(&mut workers, at(1015)).unwrap();
        (section.processes[0].class, section.processes[0].children)
    };
    assert_eq!(with(Fake { comm: "sleep", words: "sleep\x008", ..PI }), (Class::Busy, 1));
    assert_eq!(with(SERVER), (Class::Idle, 1));
    assert_eq!(with(Fake { comm: "sleep", state: 'Z', ..PI }), (Class::Idle, 0));
    for (comm, words) in [
        ("bash", "bash\0-c\0cd /srv/mcp ; sleep 300; true"),
        ("bash", "/bin/bash\0-lc\0/srv/mcp"),
        ("bash", "bash\0-c\0x\0mcp"),
        ("python3", "/srv/mcp/.venv/bin/python3\0build.py\0mcp"),
        ("node", "node\0-e\0code\0mcp"),
        ("npm", "npm\0run\0test\0mcp"),
    ] {
        assert_eq!(with(Fake { comm, words, ..PI }), (Class::Busy, 1), "{words:?}");
        assert_eq!(kind("presets = [\"mcp\"]", &Fake { comm, words, ..PI }), None, "{words:?}");
    }
    for words in [
        "npx\0-y\0mcp-server-git",
        "npm exec mcp-server-git",
        "docker\0run\0-i\0--rm\0-e\0TOKEN\0mcp/github",
        "uvx\0--from\0x\0mcp-server-git",
        "env\0A=b\0npx\0mcp-x",
        "bash\0/opt/mcp/run.sh",
    ] {
        assert_eq!(with(Fake { comm: "x", words, ..PI }), (Class::Idle, 1), "{words:?}");
    }
}

#[test]
fn a_child_whose_input_is_not_seen_is_no_server() {
    let machine = Machine::new(&[PI, Fake { pid: 300, parent: 200, ..SERVER }]);
    std::fs::remove_file(machine.path("300/fd/0")).unwrap();
    let mut workers = machine.collector("presets = [\"pi\", \"mcp\"]");
    look(&mut workers, at(1000)).unwrap();
    let section = look(&mut workers, at(1015)).unwrap();
    assert_eq!(classes(&section), [(200, Class::Busy), (300, Class::Idle)]);
}

#[test]
fn the_host_itself_is_no_orphan() {
    let gateway = Fake { comm: "openclaw-gatewa", words: "openclaw-gateway", ..HOST };
    let machine = Machine::new(&[gateway, Fake { pid: 201, parent: 1, ..gateway }]);
    let rule = ProcessRule::Command("hostd".to_owned());
    let class = |config: &str, rule: ProcessRule, profile| {
        let host = Host { process: rule, profile, ..fixture::host(None) };
        let sources = Sources { proc: Proc::at(machine.folder.path()), ..Sources::default() };
        let mut workers = Workers::new(toml::from_str(config).unwrap(), &host, &sources).unwrap().unwrap();
        look(&mut workers, at(1000)).unwrap();
        classes(&look(&mut workers, at(1015)).unwrap())
    };
    let file = machine.path("pid");
    std::fs::write(&file, "100").unwrap();
    let openclaw = class("", ProcessRule::PidFile(file), Profile::Openclaw);
    assert_eq!(openclaw, [(100, Class::Idle), (201, Class::Orphan)], "another one is not the host");
    machine.run(&[HOST]);
    let own = class("[[rule]]\nname = \"x\"\ncomm = \"hostd\"", rule, Profile::Generic);
    assert_eq!(own, [(100, Class::Idle)]);
}

#[test]
fn processes_that_are_not_even_listed_are_spoken_of() {
    let machine = Machine::new(&[PI]);
    let limits =
        |machine: &Machine| look(&mut machine.collector("presets = [\"pi\"]"), at(1000)).unwrap().limits.concat();
    assert_eq!(limits(&machine), "");
    machine.end(1);
    assert!(limits(&machine).contains("processes of other users are not to be seen at all"), "{}", limits(&machine));
}

#[test]
fn one_that_executes_another_program_of_its_name_is_asked_again_while_it_settles() {
    for (config, first) in [
        ("presets = [\"mcp\"]", SERVER),
        ("[[rule]]\nname = \"own\"\ncmdline = \"serve\"", Fake { words: "node\0serve", ..SERVER }),
    ] {
        let young = Fake { started: 990, ..first };
        let machine = Machine::new(&[young]);
        let mut workers = machine.collector(config);
        only(&look(&mut workers, at(1000)).unwrap());
        machine.write("200/cmdline", b"");
        only(&look(&mut workers, at(1005)).unwrap());
        machine.write("200/cmdline", b"node\0/x/build.js");
        assert!(look(&mut workers, at(1010)).unwrap().processes.is_empty(), "{config}");
    }
}

#[test]
fn one_whose_main_thread_has_ended_is_no_zombie() {
    let machine = Machine::new(&[PI]);
    let mut workers = machine.collector("presets = [\"pi\"]");
    look(&mut workers, at(1000)).unwrap();
    let mut class = |second, threads: u32| {
        let stat = format!("200 (pi) Z 100 1 1 0 -1 0 0 0 0 0 100 0 0 0 20 0 {threads} 0 60000 1 0 1");
        machine.write("200/stat", stat.as_bytes());
        only(&look(&mut workers, at(second)).unwrap()).class
    };
    assert_eq!(class(1015, 2), Class::Idle);
    assert_eq!(class(1030, 1), Class::Zombie);
}

#[test]
fn a_place_is_vacant_for_an_hour() {
    let restarts = |second| {
        let mut tally = roll::Tally::default();
        tally.exited(Duration::from_secs(1000), false);
        tally.spawned(Duration::from_secs(second));
        tally.recent_restarts()
    };
    assert_eq!((restarts(1000 + 3600), restarts(1000 + 3601)), (1, 0));
}

#[test]
fn servers_that_were_handed_over_are_no_duplicates_of_each_other() {
    let user = Fake { pid: 150, parent: 1, comm: "systemd", words: "systemd\0--user", ..PI };
    let server = |pid, parent| Fake { pid, parent, ..SERVER };
    let machine = Machine::new(&[user, server(401, 1), server(402, 1), server(403, 150), server(404, 150)]);
    let duplicates = |rule| {
        let section = look(&mut machine.collector_beside("presets = [\"mcp\"]", rule), at(1000)).unwrap();
        section.totals.duplicate
    };
    assert_eq!(duplicates(ProcessRule::Unknown), Some(0));
    // As in a container.
    assert_eq!(duplicates(ProcessRule::Command("init".to_owned())), Some(1));
}

#[test]
fn leaked_is_idle_for_longer_than_the_host_keeps_one() {
    let machine = Machine::new(&[PI, Fake { pid: 401, parent: 200, ..SERVER }]);
    let mut workers = machine.collector("presets = [\"pi\", \"mcp\"]");
    look(&mut workers, at(1000)).unwrap();
    let mut class = |second, ticks| {
        machine.run(&[Fake { ticks, ..PI }]);
        let section = look(&mut workers, at(second)).unwrap();
        assert_eq!(section.processes[1].class, Class::Idle, "a server is no one's to reap");
        (section.processes[0].class, section.processes[0].idle_seconds)
    };
    assert_eq!(class(1015, 100), (Class::Idle, Some(15)));
    assert_eq!(class(1720, 100), (Class::Idle, Some(720)), "12 min, and not more");
    assert_eq!(class(1735, 100), (Class::Leaked, Some(735)));
    assert_eq!(class(1750, 150), (Class::Busy, Some(0)));
    assert_eq!(class(1765, 150), (Class::Idle, Some(15)));
}

#[test]
fn an_orphan_is_one_without_a_living_host_above_whoever_its_parent_is() {
    let tree = [
        Fake { pid: 150, comm: "systemd", words: "systemd\0--user", parent: 1, ..PI },
        Fake { pid: 160, comm: "sh", words: "sh", ..PI },
        Fake { pid: 201, parent: 160, ..PI },
        Fake { pid: 202, parent: 150, ..PI },
        Fake { pid: 203, parent: 0, ..PI },
        Fake { pid: 204, parent: 1, started: 970, ..PI },
        Fake { pid: 205, parent: 1, depth: "205 7", ..PI },
    ];
    let machine = Machine::new(&tree);
    let mut workers = machine.collector("presets = [\"pi\"]");
    let mut orphans = |second| {
        let section = look(&mut workers, at(second)).unwrap();
        let found: Vec<u32> =
            section.processes.iter().filter(|one| one.class == Class::Orphan).map(|one| one.pid).collect();
        assert_eq!(value(&section, &ORPHANS, "pi"), Some(Some(found.len() as f64)));
        found
    };
    assert_eq!(orphans(1000), [202, 203], "204 is as young as it may be, 205 in a container");
    assert_eq!(orphans(1001), [202, 203, 204]);
    // A corpse is no host, nor is one that got its pid.
    machine.run(&[Fake { state: 'Z', ..HOST }]);
    assert_eq!(orphans(1015), [201, 202, 203, 204]);
    machine.run(&[Fake { comm: "cron", words: "cron", started: 1020, ..HOST }]);
    assert_eq!(orphans(1030), [201, 202, 203, 204]);
    machine.run(&[Fake { started: 1040, ..HOST }]);
    assert_eq!(orphans(1045), [202, 203, 204], "the new one has taken them over");
}

#[test]
fn whoever_has_a_hidden_ancestor_is_no_orphan_by_guess() {
    let machine = Machine::new(&[
        Fake { pid: 150, comm: "login", words: "login", parent: 1, ..PI },
        Fake { pid: 201, parent: 150, ..PI },
        Fake { pid: 202, parent: 1, ..PI },
    ]);
    let mut workers = machine.collector("presets = [\"pi\"]");
    let mut told = |second| {
        let section = look(&mut workers, at(second)).unwrap();
        let class = |pid| section.processes.iter().find(|one| one.pid == pid).map(|one| one.class);
        let orphans = value(&section, &ORPHANS, "pi").unwrap();
        assert_eq!(value(&section, &WORKERS, "pi/orphan"), orphans.map(Some));
        (class(201), orphans, section.limits.concat())
    };
    assert_eq!(told(1000), (Some(Class::Orphan), Some(2.0), String::new()));
    // As under `hidepid`: the kernel says who its parent is, and no more of that.
    machine.end(150);
    let (class, orphans, limits) = told(1015);
    assert_eq!((class, orphans), (Some(Class::Idle), Some(1.0)), "202 is one all the same");
    assert!(
        limits.starts_with("nobody can say whether 1 workers are orphans, as a process above them is not to be seen"),
        "{limits}"
    );
    machine.end(202);
    assert_eq!(told(1030).1, None, "of none of them is it known");
    machine.run(&[Fake { pid: 201, parent: 1, depth: "201 7", ..PI }]);
    let (class, orphans, limits) = told(1045);
    assert_eq!((class, orphans), (Some(Class::Idle), None));
    assert!(limits.starts_with("nobody can say whether 1 workers are orphans, as they run in a container"), "{limits}");
    std::fs::remove_file(machine.path("201/status")).unwrap();
    assert_eq!(told(1060).1, None, "how deep it is cannot be read");
    machine.run(&[Fake { pid: 201, parent: 1, started: 1070, ..PI }]);
    assert_eq!(told(1075), (Some(Class::Unknown), Some(0.0), String::new()), "too young to be asked");
}

#[test]
fn one_from_outside_is_an_orphan_only_where_the_host_is_known_to_be_inside() {
    let machine = Machine::new(&[Fake { parent: 0, ..PI }]);
    let file = machine.path("pid");
    let mut workers = machine.collector_beside("presets = [\"pi\"]", ProcessRule::PidFile(file.clone()));
    assert_eq!(only(&look(&mut workers, at(1000)).unwrap()).class, Class::Unknown, "there is no pid file");
    std::fs::write(&file, "100").unwrap();
    assert_eq!(only(&look(&mut workers, at(1015)).unwrap()).class, Class::Orphan);
}

#[test]
fn a_pid_file_that_names_another_is_followed() {
    let machine = Machine::new(&[Fake { pid: 110, ..HOST }, PI, Fake { pid: 201, parent: 110, ..PI }]);
    let file = machine.path("pid");
    std::fs::write(&file, "100").unwrap();
    let mut workers = machine.collector_beside("presets = [\"pi\"]", ProcessRule::PidFile(file.clone()));
    assert_eq!(classes(&look(&mut workers, at(1000)).unwrap()), [(200, Class::Unknown), (201, Class::Orphan)]);
    std::fs::write(&file, "110").unwrap();
    assert_eq!(classes(&look(&mut workers, at(1015)).unwrap()), [(200, Class::Orphan), (201, Class::Idle)]);
}

#[test]
fn without_a_known_host_nobody_is_called_an_orphan() {
    let machine = Machine::new(&[Fake { parent: 1, ..PI }]);
    let rule = || ProcessRule::InRoot { program: "pynchy".to_owned(), root: "/srv/nobody".into() };
    let mut workers = machine.collector_beside("presets = [\"pi\"]", rule());
    let section = look(&mut workers, at(1000)).unwrap();
    let json = fixture::json::<Workers>(&section);
    assert_eq!((&json["host"]["orphan_test"], &json["totals"]["orphan"]), (&json!(false), &Value::Null));
    assert!(json["host"]["reason"].as_str().unwrap().contains("no process was ever seen to be the host"), "{json}");
    assert_eq!((only(&section).class, value(&section, &ORPHANS, "pi")), (Class::Unknown, None));
    assert_eq!(value(&section, &WORKERS, "pi/orphan"), None);
    // We do not see all of the machine: what is not there may be elsewhere.
    std::fs::remove_file(machine.path("self/ns/pid")).unwrap();
    machine.end(100);
    let mut workers = machine.collector("presets = [\"pi\"]");
    let section = look(&mut workers, at(1000)).unwrap();
    assert_eq!(value(&section, &ORPHANS, "pi"), None);
    // Known once, and then out of sight: asked, and not answered.
    machine.run(&[HOST]);
    look(&mut workers, at(1015)).unwrap();
    machine.end(100);
    let section = look(&mut workers, at(1030)).unwrap();
    assert_eq!((only(&section).class, value(&section, &ORPHANS, "pi")), (Class::Idle, Some(None)));
}

#[test]
fn a_server_is_a_duplicate_beyond_what_its_parent_needs() {
    let other = Fake { words: "node\0/opt/x/mcp-server-git/index.js\0/other", ..SERVER };
    let servers = [
        PI,
        Fake { pid: 210, ..PI },
        // Started by a launcher, which is not counted itself.
        Fake { pid: 400, parent: 200, comm: "npm exec x", words: "npm exec @modelcontextprotocol/server-x", ..PI },
        Fake { pid: 401, parent: 400, comm: "sh", words: "sh\0-c\0mcp-server-x", ..PI },
        Fake { pid: 402, parent: 401, ..SERVER },
        Fake { pid: 410, parent: 200, started: 700, ..SERVER },
        Fake { pid: 420, parent: 200, started: 800, ..SERVER },
        Fake { pid: 430, parent: 200, state: 'Z', ..SERVER },
        Fake { pid: 440, parent: 200, ..other },
        Fake { pid: 450, parent: 210, ..SERVER },
    ];
    let machine = Machine::new(&servers);
    let duplicates = |config: &str| {
        let section = look(&mut machine.collector(config), at(1000)).unwrap();
        let servers = section.processes.iter().filter(|one| &*one.kind == "mcp");
        let (duplicates, kept): (Vec<_>, Vec<_>) = servers.partition(|one| one.class == Class::Duplicate);
        (duplicates.iter().map(|one| one.pid).collect(), kept.iter().map(|one| one.pid).collect())
    };
    assert_eq!(
        duplicates("presets = [\"pi\", \"mcp\"]"),
        (vec![402, 410], vec![420, 440, 450]),
        "the newest is in use"
    );
    assert_eq!(duplicates("presets = [\"pi\", \"mcp\"]\nmax_per_parent = 2"), (vec![402], vec![410, 420, 440, 450]));
}

#[test]
fn of_servers_that_are_the_same_the_one_that_talks_is_needed() {
    let (old, new) = (Fake { pid: 410, ..SERVER }, Fake { pid: 420, started: 700, ..SERVER });
    let machine =
        Machine::new(&[PI, old, new].map(|fake| Fake { parent: if fake.pid == 200 { 100 } else { 200 }, ..fake }));
    let mut workers = machine.collector("presets = [\"mcp\"]");
    let mut duplicate = |second, fake: Fake<'_>| {
        machine.run(&[Fake { parent: 200, ..fake }]);
        let section = look(&mut workers, at(second)).unwrap();
        let found: Vec<u32> =
            section.processes.iter().filter(|one| one.class == Class::Duplicate).map(|one| one.pid).collect();
        found
    };
    assert_eq!(duplicate(1000, old), [410], "neither was seen to talk");
    assert_eq!(duplicate(1015, Fake { io: [40, 90, 0, 0], ..old }), [420], "the old one is asked");
    assert_eq!(duplicate(1030, Fake { io: [0, 0, 0, 0], ..new }), [420], "silence of both changes nothing");
    assert_eq!(duplicate(1045, Fake { io: [8, 8, 0, 0], ..new }), [420], "what it reads it wrote");
    assert_eq!(duplicate(1060, Fake { io: [48, 98, 0, 0], ..new }), [410], "by now the new one is");
    // One that comes speaks first: who it is, and what it can.
    let newest = Fake { pid: 430, started: 1065, io: [300, 900, 0, 0], ..SERVER };
    assert_eq!(duplicate(1075, newest), [410, 420]);
}

#[test]
fn a_launcher_that_hands_over_leaves_the_counts_even() {
    let machine = Machine::new(&[PI]);
    let mut workers = machine.collector("presets = [\"mcp\"]");
    look(&mut workers, at(1000)).unwrap();
    let launcher = Fake { pid: 400, parent: 200, started: 1010, words: "npx\0-y\0mcp-server-x", comm: "npx", ..PI };
    machine.run(&[launcher]);
    assert_eq!(only(&look(&mut workers, at(1015)).unwrap()).pid, 400);
    machine.run(&[Fake { pid: 401, parent: 400, started: 1016, ..SERVER }]);
    let section = look(&mut workers, at(1030)).unwrap();
    let counts =
        |section: &Section| [&SPAWNS, &EXITS, &EARLY_EXITS].map(|fact| value(section, fact, "mcp").unwrap().unwrap());
    assert_eq!((only(&section).pid, counts(&section)), (401, [2.0, 1.0, 0.0]));
    machine.end(400);
    machine.end(401);
    assert_eq!(counts(&look(&mut workers, at(1045)).unwrap()), [2.0, 2.0, 0.0]);
}

/// Spawns, exits, restarts and early exits of pi.
fn turnover(section: &Section) -> [f64; 4] {
    [&SPAWNS, &EXITS, &RESTARTS, &EARLY_EXITS].map(|fact| value(section, fact, "pi").unwrap().unwrap())
}

#[test]
fn starts_that_fail_again_and_again_are_counted_until_they_are_long_ago() {
    let machine = Machine::new(&[]);
    let mut workers = machine.collector("presets = [\"pi\"]");
    look(&mut workers, at(1000)).unwrap();
    let mut look = |second, fake: Option<Fake<'_>>| {
        match fake {
            Some(fake) => machine.run(&[fake]),
            None => machine.end(200),
        }
        turnover(&look(&mut workers, at(second)).unwrap())
    };
    for turn in 1..=7 {
        let second = 1000 + 5 * turn;
        let expected = [turn, turn - 1, turn - 1, turn - 1].map(|count| count as f64);
        // Its pid is used again each time, and it is 2 s old, so it was 7 s old when it had ended at the latest.
        assert_eq!(look(second, Some(Fake { started: second - 2, ..PI })), expected, "turn {turn}");
    }
    let check = CHECKS.iter().find(|check| check.name == "worker_spawn_loop").unwrap();
    assert!(check.bad.is_bad(6.0) && !check.bad.is_bad(5.0));
    // One that ends and stays as a corpse ended once.
    assert_eq!(look(1040, Some(Fake { started: 1033, state: 'Z', ..PI })), [7.0, 7.0, 6.0, 7.0]);
    assert_eq!(look(1135, None), [7.0, 7.0, 6.0, 7.0]);
    machine.run(&[PI]);
    assert_eq!(look(1040 + 600, None), [7.0, 7.0, 6.0, 1.0], "a new one was not seen");
    machine.run(&[PI]);
    assert_eq!(look(1040 + 3500, None), [7.0, 7.0, 6.0, 0.0]);
    machine.run(&[PI]);
    assert_eq!(look(1040 + 3576, None), [7.0, 7.0, 4.0, 0.0], "an hour after");
}

#[test]
fn whoever_may_have_lived_longer_did_not_end_early() {
    let machine = Machine::new(&[]);
    let mut workers = machine.collector("presets = [\"pi\"]");
    look(&mut workers, at(1000)).unwrap();
    // Jobs of 12 s, each seen once, when it is 2 s old; they may be shorter, and nobody knows.
    for turn in 1..=20 {
        machine.run(&[Fake { started: 1000 + 15 * turn - 2, ..PI }]);
        let section = look(&mut workers, at(1000 + 15 * turn)).unwrap();
        assert_eq!(turnover(&section), [turn, turn - 1, turn - 1, 0].map(|count| count as f64));
    }
    machine.end(200);
    assert_eq!(turnover(&look(&mut workers, at(1315)).unwrap())[3], 0.0);
    // A corpse of 14 s that was alive when it was 5 s old ended at any age between; one of 9 s did not.
    machine.run(&[Fake { started: 1320, ..PI }]);
    look(&mut workers, at(1325)).unwrap();
    machine.run(&[Fake { started: 1320, state: 'Z', ..PI }]);
    assert_eq!(turnover(&look(&mut workers, at(1334)).unwrap())[3], 0.0);
    machine.run(&[Fake { started: 1340, state: 'Z', ..PI }]);
    assert_eq!(turnover(&look(&mut workers, at(1349)).unwrap())[3], 1.0);
    // To become another program is no end.
    machine.run(&[Fake { started: 1350, ..PI }]);
    look(&mut workers, at(1351)).unwrap();
    machine.run(&[Fake { started: 1350, comm: "vim", words: "vim", ..PI }]);
    let [_, exits, _, early] = turnover(&look(&mut workers, at(1355)).unwrap());
    assert_eq!((exits, early), (23.0, 1.0));
}

#[test]
fn a_session_is_shown_only_if_it_is_wanted() {
    let tool = Fake {
        pid: 300,
        parent: 200,
        comm: "bash",
        words: "bash",
        environ: "KEY=sk-secret\0PI_SESSION_FILE=/home/u/.pi/agent/sessions/--x--/2026_0197.jsonl\0X=1",
        ..PI
    };
    let machine = Machine::new(&[PI, tool]);
    let mut asked = machine.collector("presets = [\"pi\"]\nsessions = true");
    assert_eq!(only(&look(&mut asked, at(1000)).unwrap()).session.as_deref(), Some("2026_0197.jsonl"));
    let mut silent = machine.collector("presets = [\"pi\"]");
    assert_eq!(only(&look(&mut silent, at(1000)).unwrap()).session, None);
    machine.end(300);
    assert_eq!(only(&look(&mut asked, at(1015)).unwrap()).session.as_deref(), Some("2026_0197.jsonl"));
}

#[test]
fn too_much_memory_is_counted_once_a_limit_is_set() {
    let machine = Machine::new(&[PI, Fake { pid: 300, ..PI }]);
    let limit = 1200 * rustix::param::page_size();
    let section = look(&mut machine.collector(&format!("presets = [\"pi\"]\nmax_rss = {limit}")), at(1000)).unwrap();
    assert_eq!(value(&section, &OVER_RSS, "pi"), Some(Some(1.0)));
    assert_eq!(fixture::json::<Workers>(&section)["kinds"]["pi"]["over_max_rss"], 1);
}

#[test]
fn of_another_user_less_is_known_and_said_to_be() {
    let machine = Machine::new(&[PI, Fake { pid: 201, ..PI }]);
    open_to_all(machine.folder.path());
    let mut workers = machine.collector("presets = [\"pi\"]");
    let mut look_at = |second| unprivileged(&machine.path("200/io"), || look(&mut workers, at(second)).unwrap());
    look_at(1000);
    machine.write("201/stat", b"201 (pi) R 100 1 1 0 -1 0 0 0 0 0 999 0 0 0 20 0 1 0 60000 1 5 1");
    let section = look_at(1015);
    assert_eq!(classes(&section), [(200, Class::Idle), (201, Class::Busy)]);
    assert_eq!(value(&section, &DEGRADED, "pi"), Some(Some(1.0)));
    let said = &fixture::json::<Workers>(&section)["limits"][0];
    assert!(said.as_str().unwrap().starts_with("I/O and sockets of 1 workers are not ours to see"), "{said}");
}

#[test]
fn processes_that_hide_are_counted() {
    let machine = Machine::new(&[PI, Fake { pid: 201, ..PI }]);
    open_to_all(machine.folder.path());
    let mut workers = machine.collector("presets = [\"pi\"]");
    let section = unprivileged(&machine.path("200"), || look(&mut workers, at(1000)).unwrap());
    assert_eq!((only(&section).pid, section.limits.len()), (201, 1), "{section:?}");
    assert!(section.limits[0].starts_with("1 processes of others are hidden from us"), "{section:?}");
}

fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn command_lines_and_environments_stay_inside() {
    let secret = "sk-test-123";
    let (words, environ) = (format!("pi\0--key\0{secret}"), format!("KEY={secret}\0PI_SESSION_FILE=/x/y.jsonl"));
    let server = format!("node\0mcp-server\0--token={secret}");
    let tool = format!("bash\0-c\0curl {secret}");
    let machine = Machine::new(&[
        Fake { words: &words, environ: &environ, ..PI },
        Fake { pid: 300, parent: 200, words: &tool, environ: &environ, comm: "bash", ..PI },
        Fake { pid: 301, parent: 200, words: &server, environ: &environ, comm: "node", ..PI },
    ]);
    let mut workers = machine
        .collector("presets = [\"pi\", \"mcp\"]\nsessions = true\n[[rule]]\nname = \"x\"\ncmdline = \"nothing\"");
    look(&mut workers, at(1000)).unwrap();
    let section = look(&mut workers, at(1015)).unwrap();
    assert_eq!(section.processes.len(), 2);
    let points = fixture::points::<Workers>(&section);
    let texts = [format!("{section:?}"), serde_json::to_string(&section).unwrap(), format!("{points:?}")];
    assert!(texts.iter().all(|text| !text.contains(secret)), "{texts:?}");
    let table = workers.proc.table(&workers.proc.scan().unwrap()).unwrap();
    assert!(!format!("{table:?}").contains(secret));
}

/// A pi-web whose process is the host of this machine, and its API.
fn pi_web(machine: &Machine, config: &str) -> (Api, Workers) {
    let api = Api::new();
    let process = ProcessRule::Command("hostd".to_owned());
    let url = Some(api.url.as_str().into());
    let host = Host { profile: Profile::PiWeb, url, process, ..fixture::host(None) };
    let sources = Sources { proc: Proc::at(machine.folder.path()), ..Sources::default() };
    (api, Workers::new(toml::from_str(config).unwrap(), &host, &sources).unwrap().unwrap())
}

const LIST: &str = "/api/metrics";

/// What pi-web says: its own pid, and of each worker the pid and how long it has been up.
fn list(api: &Api, host: u32, workers: &[(u32, f64)]) {
    let one = |&(pid, uptime): &(u32, f64)| {
        json!({"session_id": "2026_0197.jsonl", "pid": pid, "state": "running", "model": "secret", "uptime_s": uptime,
            "idle_for_s": 7.5, "rss_bytes": 0, "cpu_time_s": 0, "cpu_percent": 0, "sampled": false, "zombie": false})
    };
    let workers: Vec<Value> = workers.iter().map(one).collect();
    api.json(LIST, json!({"process": {"pid": host, "uptime_s": 300.1}, "workers": workers}));
}

#[test]
fn whom_the_host_does_not_know_after_two_of_its_lists_is_unregistered() {
    let machine = Machine::new(&[
        PI,
        Fake { pid: 201, ..PI },
        // A tool of a worker is that worker's, and one that came a moment ago may be on the next list.
        Fake { pid: 202, parent: 201, ..PI },
        Fake { pid: 203, started: 980, ..PI },
        Fake { pid: 204, parent: 1, ..PI },
        Fake { pid: 205, state: 'Z', ..PI },
        Fake { pid: 401, parent: 200, ..SERVER },
    ]);
    let (api, mut workers) = pi_web(&machine, "presets = [\"pi\", \"mcp\"]");
    list(&api, 100, &[(200, 399.0), (0, 1.0), (999, 5.0)]);
    let mut told = |second| {
        let section = look(&mut workers, at(second)).unwrap();
        let each: Vec<_> = section.processes.iter().map(|one| (one.pid, one.registered)).collect();
        assert_eq!(value(&section, &UNREGISTERED, "pi"), Some(section.totals.unregistered.map(|count| count as f64)));
        assert_eq!(value(&section, &UNREGISTERED, "mcp"), None, "it lists its workers, not their servers");
        (each, section)
    };
    let (each, section) = told(1000);
    let known =
        |stray| vec![(200, Some(true)), (201, stray), (202, None), (203, None), (204, None), (205, None), (401, None)];
    assert_eq!((each, section.totals.unregistered), (known(None), Some(0)), "one list proves nothing");
    let json = fixture::json::<Workers>(&section);
    assert_eq!(json["registry"], json!({"workers": 2, "error": null}));
    let row = &json["processes"][0];
    assert_eq!((&row["registered_state"], &row["idle_for_s"]), (&json!("running"), &json!(7.5)));
    assert!(row["rss_bytes"].as_u64() > Some(0), "what it could not sample is not taken from it: {row}");
    assert_eq!(
        (&json["processes"][1]["registered_state"], &json["processes"][1]["idle_for_s"]),
        (&Value::Null, &Value::Null)
    );
    assert!(!json.to_string().contains("secret") && !json.to_string().contains("0197"), "{json}");

    assert_eq!(told(1003).0, known(None), "the same list once more");
    assert_eq!(api.asked(LIST), 1);
    let (each, section) = told(1007);
    assert_eq!((each, api.asked(LIST)), (known(Some(false)), 2));
    assert_eq!(section.processes[1].class, Class::Unregistered);
    assert_eq!((section.totals.unregistered, value(&section, &WORKERS, "pi/unregistered")), (Some(1), Some(Some(1.0))));
    // 203 is as old as it may be at 1010. The list of 1007, which is told again at 1011, is from before.
    told(1011);
    assert_eq!((told(1012).0[3], api.asked(LIST)), ((203, None), 3));
    let (each, _) = told(1020);
    assert_eq!(each[3], (203, Some(false)));
    // It may take one up late.
    list(&api, 100, &[(200, 399.0), (201, 3.0)]);
    assert_eq!(told(1035).0[1], (201, Some(true)));
    list(&api, 100, &[(200, 399.0)]);
    assert_eq!(told(1050).0[1], (201, None), "and forget it, which takes two again");
    assert_eq!(told(1065).0[1], (201, Some(false)));
}

#[test]
fn a_pid_on_the_list_may_be_anothers_by_now() {
    let machine = Machine::new(&[PI]);
    let (api, mut workers) = pi_web(&machine, "presets = [\"pi\"]");
    let mut registered = |second, uptime| {
        list(&api, 100, &[(200, uptime)]);
        only(&look(&mut workers, at(second)).unwrap()).registered
    };
    assert_eq!([registered(1000, 404.9), registered(1015, 30.0)], [Some(true); 2]);
    assert_eq!([registered(1030, 436.0), registered(1045, 451.0)], [None, Some(false)], "older than the process");
}

#[test]
fn without_a_good_list_nobody_is_unregistered() {
    let machine = Machine::new(&[PI]);
    let (api, mut workers) = pi_web(&machine, "presets = [\"pi\"]");
    let mut second = 1000;
    let mut told = || {
        second += 15;
        let section = look(&mut workers, at(second)).unwrap();
        assert_eq!(value(&section, &UNREGISTERED, "pi"), Some(section.totals.unregistered.map(|count| count as f64)));
        let error = section.registry.as_ref().unwrap().error().unwrap_or_default().to_owned();
        (only(&section).registered, section.totals.unregistered, only(&section).class, error)
    };
    list(&api, 100, &[]);
    assert_eq!(told(), (None, Some(0), Class::Unknown, String::new()));
    for (say, error) in [
        (Say::Status(404), "answered with status 404"),
        (Say::Status(401), "answered with status 401: it wants a token; name its file with `token_file` in [host]"),
        (Say::Html("<html>".into()), "answered with status 200 and HTML instead of JSON"),
        (Say::Json("{\"process\":{\"pid\":100},\"workers\":null}".into()), "JSON of another shape (line 1 column 37)"),
        (Say::Json("{\"process\":{\"pid\":100}}".into()), "JSON of another shape (line 1 column 23)"),
    ] {
        api.say(LIST, say);
        let (registered, count, class, said) = told();
        assert_eq!((registered, count, class), (None, None, Class::Idle), "{error}");
        assert!(said.starts_with(&format!("ask {}{LIST}: ", api.url)) && said.ends_with(error), "{said}");
    }
    list(&api, 7, &[]);
    let said = "whoever answers calls itself process 7, and the host that we see is process 100: its pids are not ours";
    assert_eq!(told(), (None, None, Class::Idle, said.to_owned()));
    // What was missed before is missed still: silence is no list.
    list(&api, 100, &[]);
    assert_eq!(told(), (Some(false), Some(1), Class::Unregistered, String::new()));
    machine.end(100);
    machine.run(&[Fake { parent: 1, ..PI }]);
    let (registered, count, class, said) = told();
    assert_eq!((registered, count, class), (None, None, Class::Orphan));
    assert_eq!(said, "the host's own process is not seen, so that its pids may be others than ours");
}

#[test]
fn another_host_keeps_no_list_and_is_not_asked() {
    let machine = Machine::new(&[PI]);
    let api = Api::new();
    list(&api, 100, &[]);
    let host = Host { url: Some(api.url.as_str().into()), ..fixture::host(None) };
    let sources = Sources { proc: Proc::at(machine.folder.path()), ..Sources::default() };
    let mut workers = Workers::new(toml::from_str("presets = [\"pi\"]").unwrap(), &host, &sources).unwrap().unwrap();
    let section = look(&mut workers, at(1000)).unwrap();
    let json = fixture::json::<Workers>(&section);
    assert_eq!((&json["registry"], &json["totals"]["unregistered"], api.asked(LIST)), (&Value::Null, &Value::Null, 0));
    assert_eq!(value(&section, &UNREGISTERED, "pi"), None);
}
