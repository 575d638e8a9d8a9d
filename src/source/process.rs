//! Processes of this machine, by (pid, start time). Linux first: elsewhere no process is seen, and said to be so.
//!
//! sysinfo lists them; what it rounds or leaves out (start times, why a folder is not known, open files) is read from
//! `/proc`. Command lines serve for matching only and never leave this file.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use jiff::{SignedDuration, Timestamp};
use sysinfo::{ProcessRefreshKind, ProcessStatus, ProcessesToUpdate, System, UpdateKind};

use super::file;

pub mod ending;
pub mod place;
pub mod proc;

mod program;

/// The process table. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Processes {}

/// A number that other sidecars do not have, on this machine or another.
pub fn instance() -> u64 {
    let mut hasher = DefaultHasher::new();
    let machine = rustix::system::uname();
    (machine.nodename().to_bytes(), std::process::id()).hash(&mut hasher);
    hasher.finish()
}

/// What tells a process from a later one that got its pid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    pub pid: u32,
    /// Clock ticks since boot.
    start: u64,
}

/// One process at one moment.
#[derive(Debug, Clone)]
pub struct Process {
    pub identity: Identity,
    pub parent: Option<u32>,
    /// As the kernel calls it: at most 15 bytes.
    pub name: String,
    pub cwd: Cwd,
    /// False for a zombie: it only waits to be reaped.
    pub alive: bool,
    /// Boot time plus ticks: the same at every reading while nobody sets the wall clock.
    pub started: Timestamp,
    words: Words,
}

/// The working folder of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cwd {
    At(PathBuf),
    /// It belongs to another user: it has one, and we may not know which.
    Denied,
    /// None: a zombie, a kernel thread, or it ended while we looked.
    Gone,
}

/// A command line. It may hold keys, so it shows only its length.
#[derive(Clone, PartialEq, Eq)]
pub struct Words(Vec<OsString>);

impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} words", self.0.len())
    }
}

/// All processes but our own.
#[derive(Debug, Clone, Default)]
pub struct Table {
    by_pid: BTreeMap<u32, Process>,
    /// Seen from the namespace that holds all pids of the machine.
    from_initial_namespace: bool,
}

/// What this process uses. What cannot be read is `None`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Own {
    pub cpu_seconds: Option<f64>,
    pub resident_bytes: Option<u64>,
    pub virtual_bytes: Option<u64>,
    pub open_fds: Option<u64>,
    /// The soft limit; `None` also where there is none.
    pub max_fds: Option<u64>,
    pub started: Option<Timestamp>,
    pub threads: Option<u64>,
}

/// What a process of somebody else uses. What cannot be read is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Usage {
    pub threads: Option<u64>,
    pub resident_bytes: Option<u64>,
    /// User and system time of its whole life.
    pub cpu_seconds: Option<f64>,
    pub open_fds: Option<u64>,
    pub inotify_watches: Option<u64>,
    /// Why some of it is not known.
    pub error: Option<String>,
}

impl Processes {
    /// Reads what a process uses, of which others may see only a part.
    pub fn usage(&self, pid: u32) -> Usage {
        usage(&folder(pid))
    }

    /// Established TCP connections to this port, in the network of the process; `None` if they cannot be read. Dear: the
    /// kernel walks a table that is sized for the machine, not for what is in it, some 10 ms with 24 GB of memory.
    pub fn connections(&self, pid: u32, port: u16) -> Option<u64> {
        connections(&folder(pid), port)
    }

    /// Lists every process that can be seen, without threads; about 50 microseconds each. What looks again and again has
    /// [`proc::Proc::table`].
    ///
    /// # Errors
    /// The boot time or the table cannot be read.
    pub fn list(&self) -> Result<Table> {
        let boot = boot_time()?;
        let mut system = System::new().map_err(|error| anyhow!("list the processes: {error}"))?;
        // Not OnlyIfNotSet and not kept: between fork and exec a process shows the command line of its parent.
        let kind = ProcessRefreshKind::nothing().without_tasks().with_cmd(UpdateKind::Always);
        system.refresh_processes_specifics(ProcessesToUpdate::All, true, kind);
        let seen = system.processes().values().filter(|seen| seen.pid().as_u32() != std::process::id());
        let processes = seen.filter_map(|seen| Process::complete(seen, boot));
        Ok(Table::new(processes, is_initial_namespace()))
    }

    /// What this process itself uses.
    pub fn own(&self) -> Own {
        let stat = Stat::read("self").ok();
        let started = stat.and_then(|stat| stat.started(boot_time().ok()?));
        Own {
            cpu_seconds: stat.map(Stat::cpu_seconds),
            resident_bytes: stat.map(Stat::resident_bytes),
            virtual_bytes: stat.map(|stat| stat.virtual_bytes),
            open_fds: open_fds(),
            max_fds: rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
            started,
            threads: stat.map(|stat| stat.threads),
        }
    }
}

/// Looking opens one itself, which does not count.
fn open_fds() -> Option<u64> {
    let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
    (open as u64).checked_sub(1)
}

impl Process {
    /// `None` if it ended while we looked.
    fn complete(seen: &sysinfo::Process, boot: Timestamp) -> Option<Process> {
        let pid = seen.pid().as_u32();
        let stat = Stat::read(&pid.to_string()).ok()?;
        Some(Process {
            identity: Identity { pid, start: stat.start_ticks },
            parent: seen.parent().map(sysinfo::Pid::as_u32),
            name: seen.name().to_string_lossy().into_owned(),
            cwd: Cwd::of(pid),
            alive: !matches!(seen.status(), ProcessStatus::Zombie | ProcessStatus::Dead),
            started: stat.started(boot)?,
            words: Words(seen.cmd().to_vec()),
        })
    }

    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// Whether it runs this program: itself, or as the script or module of an interpreter (`python /venv/bin/pynchy`,
    /// `python -m pynchy`, `uv run pynchy`). An editor that has a file of this name open does not.
    pub fn runs(&self, program: &str) -> bool {
        program::runs(&self.name, &self.words.0, program)
    }

    /// Whether a word of its command line is a path in this folder.
    pub fn names_a_path_in(&self, folder: &Path) -> bool {
        self.words.0.iter().any(|word| Path::new(word).starts_with(folder))
    }

    /// Whether it is a fork of the other: a helper that has not (yet) become another program.
    pub fn is_fork_of(&self, other: &Process) -> bool {
        self.parent == Some(other.pid()) && self.words == other.words
    }
}

#[cfg(test)]
impl Process {
    /// One that no machine has, for what tests cannot stage: foreign users, hidden processes.
    pub(crate) fn imagined(pid: u32, parent: u32, line: &str, cwd: Cwd) -> Process {
        Process {
            identity: Identity { pid, start: pid.into() },
            parent: Some(parent),
            name: String::new(),
            cwd,
            alive: true,
            started: Timestamp::UNIX_EPOCH,
            words: Words(line.split(' ').map(OsString::from).collect()),
        }
    }
}

impl Cwd {
    fn of(pid: u32) -> Cwd {
        match std::fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(path) => Cwd::At(path),
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Cwd::Denied,
            Err(_) => Cwd::Gone,
        }
    }
}

/// As a machine without containers would list them.
#[cfg(test)]
impl FromIterator<Process> for Table {
    fn from_iter<I: IntoIterator<Item = Process>>(processes: I) -> Table {
        Table::new(processes, true)
    }
}

/// The inode of the first pid namespace, which the kernel fixes (`PROC_PID_INIT_INO`).
const INITIAL_NAMESPACE: &str = "pid:[4026531836]";

fn is_initial_namespace() -> bool {
    std::fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace == Path::new(INITIAL_NAMESPACE))
}

impl Table {
    pub(crate) fn new(processes: impl IntoIterator<Item = Process>, from_initial_namespace: bool) -> Table {
        let by_pid = processes.into_iter().map(|process| (process.pid(), process)).collect();
        Table { by_pid, from_initial_namespace }
    }

    pub fn get(&self, pid: u32) -> Option<&Process> {
        self.by_pid.get(&pid)
    }

    /// Those that are more than a corpse.
    pub fn alive(&self) -> impl Iterator<Item = &Process> {
        self.by_pid.values().filter(|process| process.alive)
    }

    /// Its parent, its parent's parent and so on.
    pub fn ancestors<'a>(&'a self, process: &'a Process) -> impl Iterator<Item = &'a Process> {
        let parent = |process: &&Process| self.get(process.parent?);
        // The table was not read at one moment, so a loop is thinkable.
        std::iter::successors(Some(process), parent).skip(1).take(1000)
    }

    /// Whether one that is not listed does not exist. In another namespace than the initial one we see a container of our
    /// own or a pod, which has a first process too; without the first process `hidepid` keeps others from us.
    pub fn is_complete(&self) -> bool {
        self.from_initial_namespace && self.by_pid.contains_key(&1)
    }
}

/// What we use of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Stat {
    cpu_ticks: u64,
    threads: u64,
    start_ticks: u64,
    virtual_bytes: u64,
    resident_pages: u64,
}

impl Stat {
    fn read(pid: &str) -> Result<Stat> {
        Stat::of(&Path::new("/proc").join(pid))
    }

    /// Of the process whose folder this is.
    fn of(folder: &Path) -> Result<Stat> {
        let path = folder.join("stat");
        let bytes = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Stat::parse(&bytes).with_context(|| format!("read {}: not as proc(5) says", path.display()))
    }

    fn cpu_seconds(self) -> f64 {
        self.cpu_ticks as f64 / rustix::param::clock_ticks_per_second() as f64
    }

    fn resident_bytes(self) -> u64 {
        self.resident_pages * rustix::param::page_size() as u64
    }

    /// The name stands in parentheses and may hold anything, `)` and line feeds too: what counts follows the last one.
    fn parse(bytes: &[u8]) -> Option<Stat> {
        let name_ends = bytes.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(&bytes[name_ends + 1..]).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Field 3 of proc(5), the state, is the first here.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Stat {
            cpu_ticks: field(14)?.checked_add(field(15)?)?,
            threads: field(20)?,
            start_ticks: field(22)?,
            virtual_bytes: field(23)?,
            resident_pages: field(24)?,
        })
    }

    fn started(self, boot: Timestamp) -> Option<Timestamp> {
        let hertz = rustix::param::clock_ticks_per_second();
        let nanos = self.start_ticks % hertz * 1_000_000_000 / hertz;
        let since_boot = SignedDuration::new(i64::try_from(self.start_ticks / hertz).ok()?, i32::try_from(nanos).ok()?);
        boot.checked_add(since_boot).ok()
    }
}

/// From the kernel, so that start times do not tremble as two clocks read one after the other would; whole seconds.
fn boot_time() -> Result<Timestamp> {
    let text = std::fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    parse_boot_time(&text).context("read /proc/stat: no boot time")
}

fn parse_boot_time(text: &str) -> Option<Timestamp> {
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    Timestamp::from_second(seconds.trim().parse().ok()?).ok()
}

/// Looks at no more open files than this for what they are.
const FILES: usize = 20_000;

fn folder(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

fn usage(folder: &Path) -> Usage {
    let stat = Stat::of(folder).ok();
    let fds = open_files(folder);
    Usage {
        threads: stat.map(|stat| stat.threads),
        resident_bytes: stat.map(Stat::resident_bytes),
        cpu_seconds: stat.map(Stat::cpu_seconds),
        open_fds: fds.as_ref().ok().map(|fds| fds.len() as u64),
        inotify_watches: fds.as_ref().ok().and_then(|fds| inotify_watches(folder, fds)),
        error: fds.err().map(|error| format!("{error:#}")),
    }
}

/// The numbers of its open files.
fn open_files(folder: &Path) -> Result<Vec<OsString>> {
    let path = folder.join("fd");
    let naming = || format!("read {}", path.display());
    let entries = std::fs::read_dir(&path).with_context(naming)?;
    entries.map(|entry| Ok(entry.with_context(naming)?.file_name())).collect()
}

/// `None` if there are too many files to look at, or one cannot be looked at. Files that close meanwhile have no watches.
fn inotify_watches(folder: &Path, fds: &[OsString]) -> Option<u64> {
    let is_inotify = |fd: &&OsString| {
        std::fs::read_link(folder.join("fd").join(fd)).is_ok_and(|link| link == Path::new("anon_inode:inotify"))
    };
    let mut watches = 0;
    for fd in Some(fds).filter(|fds| fds.len() <= FILES)?.iter().filter(is_inotify) {
        match std::fs::read_to_string(folder.join("fdinfo").join(fd)) {
            Ok(text) => watches += text.lines().filter(|line| line.starts_with("inotify ")).count() as u64,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => return None,
        }
    }
    Some(watches)
}

/// A machine without IPv6 has one table only; one that is there and cannot be read is not none.
fn connections(folder: &Path, port: u16) -> Option<u64> {
    let in_text = |text: String| text.lines().skip(1).filter(|line| is_connection(line, port)).count() as u64;
    let count = |name: &str| {
        let text = file::absent_or(std::fs::read_to_string(folder.join("net").join(name))).ok()?;
        Some(text.map(in_text))
    };
    match (count("tcp")?, count("tcp6")?) {
        (None, None) => None,
        (v4, v6) => Some(v4.unwrap_or(0) + v6.unwrap_or(0)),
    }
}

/// Whether a line of `/proc/net/tcp` is an established connection to this port: `0: 0100007F:2124 0100007F:D431 01 …`.
fn is_connection(line: &str, port: u16) -> bool {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let local = fields.next().and_then(|address| u16::from_str_radix(address.rsplit(':').next()?, 16).ok());
    local == Some(port) && fields.nth(1) == Some("01")
}

/// Of a pid file: it may be the state of a host.
const LONGEST: u64 = 1 << 20;

/// What a pid file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PidFile {
    pub pid: u32,
    pub written: Timestamp,
}

/// Alone, or as `pid` of a JSON object, there as a number or in quotes.
fn parse_pid(text: &str) -> Option<u32> {
    #[derive(serde::Deserialize)]
    struct State {
        pid: serde_json::Value,
    }
    if let Ok(pid) = text.trim().parse() {
        return Some(pid);
    }
    let pid = serde_json::from_str::<State>(text).ok()?.pid;
    pid.as_u64().and_then(|pid| pid.try_into().ok()).or_else(|| pid.as_str()?.parse().ok())
}

impl PidFile {
    /// Reads it; `None` if there is none.
    ///
    /// # Errors
    /// It may not be read, is no file, or holds no pid.
    pub fn read(path: &Path) -> Result<Option<PidFile>> {
        let naming = || format!("read {}", path.display());
        let Some(text) = file::text(path, LONGEST).with_context(naming)? else { return Ok(None) };
        let pid = parse_pid(&text).with_context(|| format!("{}: no pid in it", naming()))?;
        let written = std::fs::metadata(path).and_then(|data| data.modified()).with_context(naming)?;
        Ok(Some(PidFile { pid, written: written.try_into().with_context(naming)? }))
    }
}

/// Waits until a child that was just spawned can be told by its command line: `spawn` returns within its exec, before the
/// kernel has set that. One that has ended already has none.
#[cfg(test)]
pub fn wait_for_words(child: &std::process::Child) {
    let file = |name: &str| std::fs::read(format!("/proc/{}/{name}", child.id())).unwrap();
    while file("cmdline").is_empty() && !is_corpse(&file("stat")) {
        std::thread::yield_now();
    }
}

#[cfg(test)]
fn is_corpse(stat: &[u8]) -> bool {
    stat.rsplit(|&byte| byte == b')').next().is_some_and(|rest| rest.starts_with(b" Z"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    #[test]
    fn a_child_that_has_ended_is_not_waited_for() {
        let mut child = Command::new("true").spawn().unwrap();
        while !is_corpse(&std::fs::read(format!("/proc/{}/stat", child.id())).unwrap()) {
            std::thread::yield_now();
        }
        wait_for_words(&child);
        child.wait().unwrap();
    }

    /// A child that ends with the test.
    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn sleeper(cwd: &Path) -> Sleeper {
        let sleeper = Sleeper(Command::new("sleep").arg("61.725").current_dir(cwd).spawn().unwrap());
        wait_for_words(&sleeper.0);
        sleeper
    }

    #[test]
    fn a_child_is_listed_with_parent_folder_and_start() {
        let folder = tempfile::tempdir().unwrap();
        let before = Timestamp::now();
        let child = sleeper(folder.path());
        let table = Processes::default().list().unwrap();
        let seen = table.get(child.0.id()).unwrap();
        assert_eq!((seen.parent, seen.name.as_str(), seen.alive), (Some(std::process::id()), "sleep", true));
        assert_eq!(seen.cwd, Cwd::At(folder.path().canonicalize().unwrap()));
        assert!(seen.runs("sleep") && !seen.runs("61.725"));
        // The boot time is in whole seconds.
        assert!(seen.started.duration_since(before).abs() < SignedDuration::from_secs(3), "{}", seen.started);
        assert!(table.get(std::process::id()).is_none());
    }

    #[test]
    fn identities_hold_over_readings_and_differ_between_children() {
        let (one, two) = (sleeper(Path::new("/")), sleeper(Path::new("/")));
        let [first, second] = [(); 2].map(|()| Processes::default().list().unwrap());
        let at = |table: &Table, child: &Sleeper| table.get(child.0.id()).unwrap().identity;
        assert_eq!(at(&first, &one), at(&second, &one));
        assert_ne!(at(&first, &one), at(&first, &two));
        assert_eq!(first.get(one.0.id()).unwrap().started, second.get(one.0.id()).unwrap().started);
    }

    #[test]
    fn a_zombie_is_not_alive() {
        let mut child = sleeper(Path::new("/"));
        let pid = child.0.id();
        child.0.kill().unwrap();
        // Not reaped: it stays in the table until the wait below. The kill itself takes a moment.
        let seen = std::iter::repeat_with(|| Processes::default().list().unwrap())
            .take(1000)
            .find(|table| table.alive().all(|process| process.pid() != pid))
            .expect("it lives on after SIGKILL");
        let zombie = seen.get(pid).unwrap();
        assert!(!zombie.alive);
        assert_eq!(zombie.cwd, Cwd::Gone);
        child.0.wait().unwrap();
        assert!(Processes::default().list().unwrap().get(pid).is_none());
    }

    #[test]
    fn only_a_whole_machine_is_complete() {
        let one = |pid| Process::imagined(pid, 0, "init", Cwd::Denied);
        assert!(Table::new([one(1)], true).is_complete());
        assert!(!Table::new([one(1)], false).is_complete(), "a container has a first process too");
        assert!(!Table::new([one(2)], true).is_complete(), "hidden from us");
    }

    /// Needs the right to make one; where it is missing nothing is proven.
    #[test]
    fn a_namespace_of_its_own_is_not_the_initial_one() {
        let line = "readlink /proc/self/ns/pid";
        let inside = Command::new("unshare").args(["-pf", "--mount-proc", "sh", "-c", line]).output();
        let Some(inside) = inside.ok().filter(|output| output.status.success()) else { return };
        let link = String::from_utf8(inside.stdout).unwrap();
        assert!(link.starts_with("pid:[") && link.trim() != INITIAL_NAMESPACE, "{link}");
    }

    #[test]
    fn command_lines_are_not_printed() {
        let child = sleeper(Path::new("/"));
        let table = Processes::default().list().unwrap();
        let text = format!("{:?}", table.get(child.0.id()).unwrap());
        assert!(text.contains("2 words") && !text.contains("61.725"), "{text}");
    }

    #[test]
    fn stat_is_read_behind_any_name() {
        let line =
            b"7 (a) R (b)\n) S 1 7 7 0 -1 4194304 10 0 0 0 250 50 1 1 20 0 3 0 123456 8192 2 18446744073709551615";
        let stat = Stat::parse(line).unwrap();
        let expected =
            Stat { cpu_ticks: 300, threads: 3, start_ticks: 123_456, virtual_bytes: 8192, resident_pages: 2 };
        assert_eq!(stat, expected);
        let boot = Timestamp::from_second(1000).unwrap();
        assert_eq!(stat.started(boot).unwrap(), "1970-01-01T00:37:14.56Z".parse().unwrap());
        for broken in [&b""[..], b"7 (x)", b"7 (x) S 1", b"7 (x) S a b c d e f g h i j k l m n o p q r s t u v"] {
            assert_eq!(Stat::parse(broken), None);
        }
    }

    #[test]
    fn what_a_process_uses_is_counted_from_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["fd", "fdinfo", "net"] {
            std::fs::create_dir(at(name)).unwrap();
        }
        std::fs::write(at("stat"), "7 (host) S 1 7 7 0 -1 0 0 0 0 0 250 50 1 1 20 0 3 0 123456 8192 2 0").unwrap();
        for (fd, to) in
            [("0", "/dev/null"), ("4", "anon_inode:inotify"), ("5", "socket:[1]"), ("9", "anon_inode:inotify")]
        {
            std::os::unix::fs::symlink(to, at("fd").join(fd)).unwrap();
        }
        let info = "pos:\t0\nflags:\t00\ninotify wd:2 ino:1\ninotify wd:1 ino:2\n";
        std::fs::write(at("fdinfo/4"), info).unwrap();
        std::fs::write(at("fdinfo/9"), "pos:\t0\n").unwrap();
        let tcp = "  sl  local_address rem_address   st tx_queue\n\
            0: 0100007F:2124 00000000:0000 0A 0\n   1: 0100007F:2124 0100007F:D431 01 0\n\
            2: 0100007F:D431 0100007F:2124 01 0\n   3: 0100007F:2124 0100007F:D432 06 0\n";
        std::fs::write(at("net/tcp"), tcp).unwrap();
        let v6 = "  sl\n   0: 0000000000000000FFFF00000100007F:2124 0000000000000000FFFF00000100007F:D433 01 0\n";
        std::fs::write(at("net/tcp6"), v6).unwrap();
        let (seen, connected) = (usage(folder.path()), connections(folder.path(), 8484));
        let hertz = rustix::param::clock_ticks_per_second() as f64;
        let expected = Usage {
            threads: Some(3),
            resident_bytes: Some(2 * rustix::param::page_size() as u64),
            cpu_seconds: Some(300.0 / hertz),
            open_fds: Some(4),
            inotify_watches: Some(2),
            error: None,
        };
        assert_eq!((seen, connected), (expected, Some(2)));
        std::fs::remove_file(at("net/tcp6")).unwrap();
        assert_eq!(connections(folder.path(), 8484), Some(1), "a machine without IPv6");
        std::fs::create_dir(at("net/tcp6")).unwrap();
        assert_eq!(connections(folder.path(), 8484), None, "a part of them is not the number of them");
        std::fs::remove_dir_all(at("fd")).unwrap();
        std::fs::remove_dir_all(at("net")).unwrap();
        let partly = usage(folder.path());
        assert_eq!((partly.threads, partly.open_fds, partly.inotify_watches), (Some(3), None, None));
        assert_eq!(connections(folder.path(), 8484), None);
        assert!(partly.error.unwrap().starts_with(&format!("read {}: No such file", at("fd").display())));
        let gone = usage(&at("gone"));
        assert_eq!((gone.threads, gone.cpu_seconds), (None, None), "nothing is made up of one that ended");
    }

    #[test]
    fn a_real_process_and_what_it_holds_open_are_seen() {
        let child = sleeper(Path::new("/"));
        let seen = Processes::default().usage(child.0.id());
        assert_eq!((seen.threads, seen.inotify_watches, seen.error), (Some(1), Some(0), None));
        assert_eq!(Processes::default().connections(child.0.id(), 1), Some(0));
        assert!(seen.open_fds.unwrap() >= 3 && seen.resident_bytes.is_some(), "{:?}", seen.open_fds);
    }

    #[test]
    fn boot_time_is_a_moment_or_nothing() {
        assert_eq!(parse_boot_time("cpu 1\nbtime 1000\nx").unwrap(), Timestamp::from_second(1000).unwrap());
        assert_eq!(parse_boot_time("cpu 1\n"), None);
        assert_eq!(parse_boot_time("btime soon\n"), None);
    }

    #[test]
    fn own_use_is_read_and_moves() {
        let before = Processes::default().own();
        let held: Vec<_> = (0..10).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let after = Processes::default().own();
        assert!(before.resident_bytes.unwrap() > 1_000_000 && before.virtual_bytes > before.resident_bytes);
        assert!(before.threads.unwrap() >= 2 && before.cpu_seconds <= after.cpu_seconds);
        assert!(after.open_fds.unwrap() >= held.len() as u64 + 3 && after.open_fds <= after.max_fds);
        assert!(before.started.unwrap() <= Timestamp::now() && before.started == after.started);
    }

    #[test]
    fn a_pid_file_holds_a_pid_or_is_not_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        assert_eq!(PidFile::read(&path).unwrap(), None);
        std::fs::write(&path, " 42\n").unwrap();
        assert_eq!(PidFile::read(&path).unwrap().unwrap().pid, 42);
        for state in [r#"{"pid": 42, "port": "31415"}"#, r#"{"pid": "42"}"#] {
            std::fs::write(&path, state).unwrap();
            assert_eq!(PidFile::read(&path).unwrap().unwrap().pid, 42);
        }
        for garbage in ["", "x", "-1", "4 2", "{}", r#"{"pid": "x"}"#, r#"{"pid": -1}"#] {
            std::fs::write(&path, garbage).unwrap();
            assert!(PidFile::read(&path).is_err(), "{garbage}");
        }
    }
}
