//! Processes by `/proc` alone: all of them in one pass over `/proc/<pid>/stat`, and more of the few that matter.
//!
//! A pass costs a third of what the process table of `sysinfo` does, and its root can be any folder. Command lines and
//! environments are read to be matched against and dropped; neither leaves this program.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Cwd, INITIAL_NAMESPACE, Identity, Process, Table, Words, parse_boot_time, program};

/// A mounted `/proc`, or a folder that looks like one. Clones share it.
#[derive(Debug, Clone)]
pub struct Proc {
    root: Arc<Path>,
    /// Whether the size of a folder `fd` is the number of files in it, as the kernel has it since 6.2.
    is_real: bool,
    kept: Option<Arc<Kept>>,
}

impl Default for Proc {
    fn default() -> Proc {
        Proc { root: Path::new("/proc").into(), is_real: true, kept: None }
    }
}

/// Files of processes that stay open from one pass to the next: to open and close one costs more than to read it. Such a
/// file is of one process for ever; that of one that is gone cannot be read any more, whoever has its pid.
#[derive(Debug)]
struct Kept {
    files: Mutex<BTreeMap<(u32, &'static str), File>>,
    /// No more than these, however many processes there are.
    limit: usize,
}

const KEPT: usize = 256;

impl Kept {
    fn new() -> Kept {
        let may_open = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        Kept { files: Mutex::default(), limit: KEPT.min(usize::try_from(may_open / 4).unwrap_or(KEPT)) }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(u32, &'static str), File>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why something of a process is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    /// It belongs to another user.
    Denied,
    /// The process ended, or never had it.
    Gone,
}

impl From<io::Error> for Hidden {
    fn from(error: io::Error) -> Hidden {
        match error.kind() {
            ErrorKind::PermissionDenied => Hidden::Denied,
            _ => Hidden::Gone,
        }
    }
}

/// Why a process is not in a pass.
#[derive(Debug)]
pub(super) enum Unread {
    Hidden(Hidden),
    /// Nothing that tells of the process: we may have too many files open.
    Failed(io::Error),
}

impl From<io::Error> for Unread {
    fn from(error: io::Error) -> Unread {
        match rustix::io::Errno::from_io_error(&error) {
            // The first is another user's under `hidepid=1`.
            Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => Unread::Hidden(Hidden::Denied),
            Some(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH | rustix::io::Errno::NOTDIR) => {
                Unread::Hidden(Hidden::Gone)
            }
            _ => Unread::Failed(error),
        }
    }
}

impl Identity {
    /// On the clock that counts since boot.
    pub fn started(&self) -> Duration {
        ticks(self.start)
    }
}

/// What a process is called: at most 15 bytes, as the kernel cuts it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Comm([u8; 15]);

impl Comm {
    /// Cut as the kernel would.
    pub fn new(name: &[u8]) -> Comm {
        let mut comm = [0; 15];
        let length = name.len().min(comm.len());
        comm[..length].copy_from_slice(&name[..length]);
        Comm(comm)
    }

    pub fn is(&self, name: &str) -> bool {
        *self == Comm::new(name.as_bytes())
    }
}

impl fmt::Debug for Comm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(String::from_utf8_lossy(&self.0).trim_end_matches('\0'))
    }
}

/// Of a command line no more is read: one may have megabytes, in a million words, and each costs us ten times its length.
const LONGEST_LINE: u64 = 256 * 1024;

/// `PF_KTHREAD` among the flags of a process.
const KERNEL_THREAD: u64 = 0x0020_0000;

/// What we use of `/proc/<pid>/stat`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stat {
    pub identity: Identity,
    /// 0: none that we see.
    pub parent: u32,
    pub comm: Comm,
    /// The kernel's letter: `R`, `S`, `D`, `T`, `Z`, …
    pub state: char,
    pub has_terminal: bool,
    /// It has no program: a thread of the kernel, which calls it by whatever it does just now.
    pub is_kernel: bool,
    pub cpu_ticks: u64,
    pub threads: u64,
    pub resident_pages: u64,
}

impl Stat {
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// It only waits to be reaped. One whose main thread alone has ended has the same letter, and lives.
    pub fn is_zombie(&self) -> bool {
        self.state == 'X' || (self.state == 'Z' && self.threads <= 1)
    }

    /// When it was started, on the clock that counts since boot.
    pub fn started(&self) -> Duration {
        self.identity.started()
    }

    pub fn cpu(&self) -> Duration {
        ticks(self.cpu_ticks)
    }

    pub fn resident_bytes(&self) -> u64 {
        self.resident_pages.saturating_mul(rustix::param::page_size() as u64)
    }

    /// The name stands in parentheses and may hold anything, `)` and line feeds too: what counts follows the last one.
    fn parse(bytes: &[u8]) -> Option<Stat> {
        let begins = bytes.iter().position(|&byte| byte == b'(')?;
        let ends = bytes.iter().rposition(|&byte| byte == b')')?;
        let pid = std::str::from_utf8(&bytes[..begins]).ok()?.trim().parse().ok()?;
        // Field 3 of proc(5), the state, is the next.
        let mut fields = std::str::from_utf8(&bytes[ends + 1..]).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let terminal: i64 = fields.nth(2)?.parse().ok()?;
        let flags: u64 = fields.nth(1)?.parse().ok()?;
        let user: u64 = fields.nth(4)?.parse().ok()?;
        let system: u64 = fields.next()?.parse().ok()?;
        let threads = fields.nth(4)?.parse().ok()?;
        let start = fields.nth(1)?.parse().ok()?;
        let resident_pages = fields.nth(1)?.parse::<i64>().ok()?.max(0).unsigned_abs();
        Some(Stat {
            identity: Identity { pid, start },
            parent,
            comm: Comm::new(bytes.get(begins + 1..ends)?),
            state,
            has_terminal: terminal != 0,
            is_kernel: flags & KERNEL_THREAD != 0,
            cpu_ticks: user.checked_add(system)?,
            threads,
            resident_pages,
        })
    }
}

/// How long so many clock ticks are, which the kernel counts time in.
pub fn ticks(count: u64) -> Duration {
    let hertz = rustix::param::clock_ticks_per_second().max(1);
    Duration::new(count / hertz, (count % hertz * 1_000_000_000 / hertz) as u32)
}

/// What a process has read and written, from `/proc/<pid>/io`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Io {
    /// By calls of `read` and `write`, pipes and sockets included; `recv` and `send` are not.
    pub read_chars: u64,
    pub written_chars: u64,
    /// From and to disks.
    pub read_bytes: u64,
    pub written_bytes: u64,
}

impl Io {
    fn parse(text: &str) -> Option<Io> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        Some(Io {
            read_chars: field("rchar:")?,
            written_chars: field("wchar:")?,
            read_bytes: field("read_bytes:")?,
            written_bytes: field("write_bytes:")?,
        })
    }
}

/// One pass over all processes.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// By pid, ascending.
    stats: Vec<Stat>,
    /// Listed, and closed to us (`hidepid=1`).
    pub closed: usize,
}

impl Scan {
    pub fn all(&self) -> &[Stat] {
        &self.stats
    }

    pub fn get(&self, pid: u32) -> Option<&Stat> {
        let at = self.stats.binary_search_by_key(&pid, Stat::pid).ok()?;
        self.stats.get(at)
    }

    /// Whether processes of others are not even listed (`hidepid=2`): every namespace of pids has a first one, and whoever
    /// scans sees itself.
    pub fn hides_others(&self) -> bool {
        self.closed == 0 && !self.stats.is_empty() && self.get(1).is_none()
    }

    /// Whether this very process is there and more than a corpse.
    pub fn lives(&self, identity: Identity) -> bool {
        self.get(identity.pid).is_some_and(|stat| stat.identity == identity && !stat.is_zombie())
    }

    /// Its parent, its parent's parent and so on.
    pub fn ancestors<'a>(&'a self, stat: &'a Stat) -> impl Iterator<Item = &'a Stat> {
        // The table was not read at one moment, so a loop is thinkable.
        std::iter::successors(Some(stat), |stat| self.get(stat.parent)).skip(1).take(1000)
    }
}

impl FromIterator<Stat> for Scan {
    fn from_iter<I: IntoIterator<Item = Stat>>(stats: I) -> Scan {
        let mut stats: Vec<Stat> = stats.into_iter().collect();
        stats.sort_unstable_by_key(Stat::pid);
        Scan { stats, closed: 0 }
    }
}

fn from_bytes(bytes: &[u8]) -> OsString {
    std::ffi::OsStr::from_bytes(bytes).to_owned()
}

impl Words {
    fn parse(bytes: &[u8]) -> Words {
        let end = bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        let words = bytes[..end].split(|&byte| byte == 0).filter(|_| end > 0);
        Words(words.map(from_bytes).collect())
    }

    /// Each word. For matching only.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|word| word.as_bytes())
    }

    /// All words, with spaces between them. For matching only.
    pub fn line(&self) -> String {
        let words: Vec<_> = self.0.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    /// As of a zombie.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The word that names its program: of an interpreter or launcher (`python`, `npx`, `docker run`, …) what that runs,
    /// and `None` if that is code (`bash -c`) or nothing. For matching only.
    pub fn program(&self) -> Option<Vec<u8>> {
        // A title that was written over the command line is one word with spaces in it.
        let title = |word: &OsString| word.as_bytes().split(|&byte| byte == b' ').map(from_bytes).collect();
        let words = match &self.0[..] {
            [word] => title(word),
            words => words.to_vec(),
        };
        program::launched(&words).map(|word| word.as_bytes().to_vec())
    }
}

impl Proc {
    /// A folder that is laid out like `/proc`.
    pub fn at(root: &Path) -> Proc {
        Proc { root: root.into(), is_real: root == Path::new("/proc"), kept: None }
    }

    /// The same for one who makes pass after pass: some files stay open until all clones of this are dropped.
    #[must_use]
    pub fn keeping(self) -> Proc {
        let kept = self.is_real.then(|| Arc::new(Kept::new()));
        Proc { kept, ..self }
    }

    /// Reads the `stat` of every process that can be seen, our own too; about 6 microseconds each.
    ///
    /// # Errors
    /// The root cannot be listed, or it is the machine's and nothing is mounted there.
    pub fn scan(&self) -> Result<Scan> {
        let naming = || format!("list {}", self.root.display());
        let mut scan = Scan::default();
        let mut buffer = [0; 4096];
        for entry in std::fs::read_dir(&self.root).with_context(naming)? {
            let name = entry.with_context(naming)?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            match self.stat(pid, &mut buffer) {
                Ok(stat) => scan.stats.push(stat),
                Err(Unread::Hidden(Hidden::Denied)) => scan.closed += 1,
                Err(Unread::Hidden(Hidden::Gone)) => {}
                Err(Unread::Failed(error)) => {
                    return Err(error).with_context(|| format!("read {}", self.path(pid, "stat").display()));
                }
            }
        }
        // Whoever looks is among them.
        ensure!(
            !self.is_real || !scan.stats.is_empty(),
            "{} shows no process, not even this one: is it mounted?",
            self.root.display()
        );
        scan.stats.sort_unstable_by_key(Stat::pid);
        if let Some(kept) = &self.kept {
            kept.lock().retain(|&(pid, _), _| scan.get(pid).is_some());
        }
        Ok(scan)
    }

    /// Reads the begin of a file of a process.
    fn read_begin(&self, pid: u32, name: &'static str, buffer: &mut [u8]) -> io::Result<usize> {
        let open = || File::open(self.path(pid, name));
        let Some(kept) = &self.kept else { return open()?.read(buffer) };
        let mut files = kept.lock();
        if let Some(Ok(length)) = files.get(&(pid, name)).map(|file| file.read_at(buffer, 0)) {
            return Ok(length);
        }
        files.remove(&(pid, name));
        let file = open()?;
        let length = file.read_at(buffer, 0)?;
        if files.len() < kept.limit {
            files.insert((pid, name), file);
        }
        Ok(length)
    }

    /// Whether it is the machine's own: the pids in it can be asked for elsewhere too.
    pub(super) fn is_real(&self) -> bool {
        self.is_real
    }

    pub(super) fn stat(&self, pid: u32, buffer: &mut [u8]) -> Result<Stat, Unread> {
        let length = self.read_begin(pid, "stat", buffer)?;
        Stat::parse(&buffer[..length]).filter(|stat| stat.pid() == pid).ok_or(Unread::Hidden(Hidden::Gone))
    }

    fn path(&self, pid: u32, name: &str) -> PathBuf {
        let mut path = PathBuf::with_capacity(self.root.as_os_str().len() + 32);
        path.push(&self.root);
        path.push(itoa(pid, &mut [0; 10]));
        path.push(name);
        path
    }

    fn read(&self, pid: u32, name: &str) -> Result<Vec<u8>, Hidden> {
        Ok(std::fs::read(self.path(pid, name))?)
    }

    fn link(&self, pid: u32, name: &str) -> Result<PathBuf, Hidden> {
        Ok(std::fs::read_link(self.path(pid, name))?)
    }

    fn cwd(&self, pid: u32) -> Cwd {
        match self.link(pid, "cwd") {
            Ok(path) => Cwd::At(path),
            Err(Hidden::Denied) => Cwd::Denied,
            Err(Hidden::Gone) => Cwd::Gone,
        }
    }

    /// The command line, as far as it can say what the process is; empty for a zombie.
    pub fn words(&self, pid: u32) -> Result<Words, Hidden> {
        let mut begin = Vec::new();
        File::open(self.path(pid, "cmdline"))?.take(LONGEST_LINE).read_to_end(&mut begin)?;
        Ok(Words::parse(&begin))
    }

    pub fn exe(&self, pid: u32) -> Result<PathBuf, Hidden> {
        self.link(pid, "exe")
    }

    /// The last folder of its working folder's path; `/` has none.
    pub fn cwd_name(&self, pid: u32) -> Result<Option<String>, Hidden> {
        let path = self.link(pid, "cwd")?;
        Ok(path.file_name().map(|name| name.to_string_lossy().into_owned()))
    }

    pub fn io(&self, pid: u32) -> Result<Io, Hidden> {
        let mut buffer = [0; 512];
        let length = self.read_begin(pid, "io", &mut buffer)?;
        std::str::from_utf8(&buffer[..length]).ok().and_then(Io::parse).ok_or(Hidden::Gone)
    }

    /// How many files it has open.
    pub fn open_fds(&self, pid: u32) -> Result<u64, Hidden> {
        let folder = self.path(pid, "fd");
        if self.is_real {
            let count = std::fs::metadata(&folder)?.len();
            if count > 0 {
                return Ok(count);
            }
        }
        Ok(std::fs::read_dir(folder)?.count() as u64)
    }

    /// What its standard input is: `pipe:[…]`, `socket:[…]`, or a path.
    pub fn input(&self, pid: u32) -> Result<Input, Hidden> {
        let path = self.link(pid, "fd/0")?;
        let bytes = path.as_os_str().as_bytes();
        Ok(if bytes.starts_with(b"pipe:") || bytes.starts_with(b"socket:") {
            Input::Pipe
        } else if bytes.starts_with(b"/dev/pts/") || bytes.starts_with(b"/dev/tty") {
            Input::Terminal
        } else {
            Input::Other
        })
    }

    /// Inodes of the sockets that it has open.
    pub fn sockets(&self, pid: u32) -> Result<BTreeSet<u64>, Hidden> {
        let mut inodes = BTreeSet::new();
        for entry in std::fs::read_dir(self.path(pid, "fd"))? {
            let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
            inodes.extend(target.to_str().and_then(socket_inode));
        }
        Ok(inodes)
    }

    /// Inodes of the established TCP connections in the network that the process sees.
    pub fn established(&self, pid: u32) -> Result<BTreeSet<u64>, Hidden> {
        let mut inodes = BTreeSet::new();
        inodes.extend(established(&self.read(pid, "net/tcp")?));
        // Absent where the kernel has no IPv6.
        match self.read(pid, "net/tcp6") {
            Err(Hidden::Denied) => return Err(Hidden::Denied),
            read => inodes.extend(established(&read.unwrap_or_default())),
        }
        Ok(inodes)
    }

    /// Which network it sees: the same text for the same.
    pub fn network(&self, pid: u32) -> Result<PathBuf, Hidden> {
        self.link(pid, "ns/net")
    }

    /// How many pid namespaces it is in, from ours on: more than the host where it runs in a container of its own.
    pub fn depth(&self, pid: u32) -> Result<usize, Hidden> {
        let bytes = self.read(pid, "status")?;
        let text = String::from_utf8_lossy(&bytes);
        let line = text.lines().find_map(|line| line.strip_prefix("NSpid:"));
        line.map(|line| line.split_ascii_whitespace().count()).ok_or(Hidden::Gone)
    }

    /// The value of one variable of its environment. The rest is dropped.
    pub fn variable(&self, pid: u32, name: &str) -> Result<Option<String>, Hidden> {
        let environ = self.read(pid, "environ")?;
        let mut variables = environ.split(|&byte| byte == 0);
        let value = variables.find_map(|variable| variable.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        Ok(value.map(|value| String::from_utf8_lossy(value).into_owned()))
    }

    /// The table by which a host's process is found: command lines and folders of all, but our own; about 15 microseconds
    /// each, kernel threads none.
    ///
    /// # Errors
    /// The root or its boot time cannot be read.
    pub fn table(&self, scan: &Scan) -> Result<Table> {
        let path = self.root.join("stat");
        let naming = || format!("read {}", path.display());
        let text = std::fs::read_to_string(&path).with_context(naming)?;
        let boot = parse_boot_time(&text).with_context(|| format!("{}: no boot time", naming()))?;
        let own = std::fs::read_link(self.root.join("self")).ok();
        let own = own.and_then(|link| link.to_str()?.parse::<u32>().ok());
        let others = scan.all().iter().filter(|stat| Some(stat.pid()) != own);
        let processes = others.filter_map(|stat| {
            // A kernel thread has neither.
            let (cwd, words) = match stat.is_kernel {
                true => (Cwd::Gone, None),
                false => (self.cwd(stat.pid()), self.words(stat.pid()).ok()),
            };
            Some(Process {
                identity: stat.identity,
                parent: Some(stat.parent).filter(|&parent| parent != 0),
                name: format!("{:?}", stat.comm),
                cwd,
                alive: !stat.is_zombie(),
                started: boot.checked_add(jiff::SignedDuration::try_from(stat.started()).ok()?).ok()?,
                words: words.unwrap_or(Words(Vec::new())),
            })
        });
        let namespace = std::fs::read_link(self.root.join("self/ns/pid"));
        Ok(Table::new(processes, namespace.is_ok_and(|link| link == Path::new(INITIAL_NAMESPACE))))
    }
}

/// What the standard input of a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Pipe,
    Terminal,
    Other,
}

/// The digits of a number, without an allocation.
fn itoa(mut number: u32, buffer: &mut [u8; 10]) -> &str {
    let mut begin = buffer.len();
    loop {
        begin -= 1;
        buffer[begin] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    std::str::from_utf8(&buffer[begin..]).unwrap_or("")
}

fn socket_inode(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// `sl local_address rem_address st tx:rx tr:when retrnsmt uid timeout inode …`; state 01 is established.
fn established(bytes: &[u8]) -> impl Iterator<Item = u64> {
    let lines = bytes.split(|&byte| byte == b'\n').skip(1);
    lines.filter_map(|line| {
        let mut fields = std::str::from_utf8(line).ok()?.split_ascii_whitespace().skip(3);
        let is_established = fields.next()? == "01";
        let inode: u64 = fields.nth(5)?.parse().ok()?;
        (is_established && inode != 0).then_some(inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_behind_any_name() {
        let line = b"7 (a) R (b)\n) S 1 7 7 34816 -1 4194304 10 0 0 0 250 50 1 1 20 0 3 0 123456 8192 2 1844674407";
        let stat = Stat::parse(line).unwrap();
        assert_eq!((stat.pid(), stat.parent, stat.state, stat.has_terminal), (7, 1, 'S', true));
        assert_eq!((stat.cpu_ticks, stat.threads, stat.identity.start, stat.resident_pages), (300, 3, 123_456, 2));
        assert!(stat.comm.is("a) R (b)\n") && !stat.comm.is("a") && !stat.is_kernel);
        let thread =
            b"9 (kworker/0:1-events) I 2 0 0 0 -1 69238880 0 0 0 0 0 0 0 0 20 0 1 0 7 0 0 18446744073709551615";
        assert!(Stat::parse(thread).unwrap().is_kernel);
        assert_eq!(stat.started(), Duration::from_millis(1_234_560));
        for broken in [&b""[..], b"7 (x)", b"7 (x) S 1", b"x (x) S 1 7 7 0 -1 0 0 0 0 0 1 1 1 1 20 0 3 0 9 8 2"] {
            assert_eq!(Stat::parse(broken), None);
        }
    }

    #[test]
    fn names_are_cut_as_the_kernel_cuts_them() {
        assert!(Comm::new(b"openclaw-gatewa").is("openclaw-gateway"));
        assert!(!Comm::new(b"pip").is("pi") && !Comm::new(b"pi").is("pip"));
        assert_eq!(format!("{:?}", Comm::new(b"pi")), "pi");
    }

    #[test]
    fn a_command_line_ends_before_its_padding_and_shows_only_its_length() {
        let words = Words::parse(b"pi\0\0\0\0");
        assert_eq!(words.iter().collect::<Vec<_>>(), [b"pi"]);
        assert_eq!(Words::parse(b"").iter().count() + Words::parse(b"\0\0").iter().count(), 0);
        let words = Words::parse(b"node\0-e\0\0sk-secret");
        assert_eq!(words.line(), "node -e  sk-secret");
        assert_eq!(format!("{words:?}"), "4 words");
    }

    #[test]
    fn of_a_command_line_without_end_the_begin_is_read() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("7")).unwrap();
        std::fs::write(folder.path().join("7/cmdline"), "node\0/x/pi.js\0".to_owned() + &"a\0".repeat(2_000_000))
            .unwrap();
        let words = Proc::at(folder.path()).words(7).unwrap();
        assert_eq!((words.iter().nth(1), words.iter().count()), (Some(&b"/x/pi.js"[..]), 131_067));
    }

    #[test]
    fn only_established_connections_with_an_owner_count() {
        let table =
            b"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0\n\
            1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000     0        0 12 1 0 20 4\n\
            2: 0100007F:1F91 0100007F:C351 06 00000000:00000000 03:000017AB 00000000     0        0 0 3 0\n\
            3: 0100007F:1F92 0100007F:C352 01 00000000:00000000 00:00000000 00000000     0        0 0 1 0\nbroken\n";
        assert_eq!(established(table).collect::<Vec<_>>(), [12]);
        assert_eq!((socket_inode("socket:[12]"), socket_inode("pipe:[12]")), (Some(12), None));
    }

    #[test]
    fn open_files_are_counted() {
        let null = std::process::Stdio::null;
        let sleep = std::process::Command::new("sleep").arg("60").stdin(null()).stdout(null()).stderr(null()).spawn();
        let mut sleep = sleep.unwrap();
        crate::source::process::wait_for_words(&sleep);
        let listed = std::fs::read_dir(format!("/proc/{}/fd", sleep.id())).unwrap().count() as u64;
        let open = Proc::default().open_fds(sleep.id());
        sleep.kill().unwrap();
        sleep.wait().unwrap();
        assert!(listed >= 3);
        assert_eq!(open.unwrap(), listed);
    }

    #[test]
    fn this_process_is_seen_as_it_is() {
        let proc = Proc::default();
        let (scan, pid) = (proc.scan().unwrap(), std::process::id());
        let own = scan.get(pid).unwrap();
        assert!(own.resident_bytes() > 1_000_000 && !own.is_zombie() && scan.lives(own.identity));
        assert!(scan.all().iter().zip(&scan.all()[1..]).all(|(one, next)| one.pid() < next.pid()));
        let io = proc.io(pid).unwrap();
        assert!(io.read_chars > 0, "{io:?}");
        assert!(proc.depth(pid).unwrap() >= 1);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ends = (std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap(), listener.accept().unwrap());
        let (own, all) = (proc.sockets(pid).unwrap(), proc.established(pid).unwrap());
        assert!(own.intersection(&all).count() >= 2, "{ends:?}: {own:?} of {all:?}");
        assert_eq!(proc.variable(pid, "PATH").unwrap(), std::env::var("PATH").ok());
        assert_eq!(proc.variable(pid, "PAT").unwrap(), None);
    }

    #[test]
    fn files_that_stay_open_tell_of_their_own_process_only_and_are_few() {
        let proc = Proc::default().keeping();
        let kept = |pid| proc.kept.as_ref().unwrap().lock().keys().filter(|&&(of, _)| of == pid).count();
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "read x; exec sleep 60"]).stdin(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let pid = child.id();
        let look = || proc.scan().unwrap().get(pid).map(|stat| (stat.comm, stat.state));
        while look().is_none_or(|(comm, _)| !comm.is("sh")) {}
        assert_eq!(kept(pid), 1);
        std::io::Write::write_all(child.stdin.as_mut().unwrap(), b"\n").unwrap();
        while look().is_some_and(|(comm, _)| comm.is("sh")) {}
        assert!(look().unwrap().0.is("sleep"), "another program, by the same file");
        let before = proc.io(pid).unwrap();
        assert_eq!((proc.io(pid), kept(pid)), (Ok(before), 2));
        child.kill().unwrap();
        while look().is_some_and(|(_, state)| state != 'Z') {}
        assert!(look().is_some(), "a corpse can be read");
        child.wait().unwrap();
        assert_eq!((look(), proc.io(pid), kept(pid)), (None, Err(Hidden::Gone), 0));

        let kept = Arc::new(Kept { limit: 2, ..Kept::new() });
        let proc = Proc { kept: Some(kept.clone()), ..Proc::default() };
        assert!(proc.scan().unwrap().all().len() > 2);
        assert_eq!(kept.lock().len(), 2);
    }

    #[test]
    fn what_tells_nothing_of_a_process_is_an_error_and_not_its_end() {
        let unread = |error: rustix::io::Errno| Unread::from(io::Error::from(error));
        assert!(matches!(unread(rustix::io::Errno::MFILE), Unread::Failed(_)));
        assert!(matches!(unread(rustix::io::Errno::SRCH), Unread::Hidden(Hidden::Gone)));
        assert!(matches!(unread(rustix::io::Errno::PERM), Unread::Hidden(Hidden::Denied)));
    }

    #[test]
    fn one_that_ended_is_gone_and_a_root_that_is_none_is_an_error() {
        let proc = Proc::default();
        assert_eq!(proc.io(u32::MAX), Err(Hidden::Gone));
        assert_eq!(proc.words(u32::MAX), Err(Hidden::Gone));
        let folder = tempfile::tempdir().unwrap();
        assert!(Proc::at(folder.path()).scan().unwrap().all().is_empty());
        let error = Proc::at(&folder.path().join("none")).scan().unwrap_err();
        assert!(format!("{error:#}").contains("none: No such file"), "{error:#}");
    }
}
