//! What a program does to files, processes and sockets, as strace has it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// All calls by which a file can come to be, change, or go, but writes: nothing can be written to what was not opened for it.
const FILES: &str = "open,openat,openat2,creat,rename,renameat,renameat2,unlink,unlinkat,rmdir,mkdir,mkdirat,mknod,mknodat,\
    link,linkat,symlink,symlinkat,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,utime,utimes,futimesat,utimensat,truncate,\
    ftruncate,fallocate,setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,fremovexattr,mount,umount2";
/// All by which other processes can be reached or begun.
const OTHERS: &str = "kill,tkill,tgkill,pidfd_send_signal,rt_sigqueueinfo,rt_tgsigqueueinfo,ptrace,process_vm_writev,prlimit64,\
    setpriority,sched_setaffinity,connect,bind,clone,clone3,fork,vfork,execve,execveat";

/// Whose log is written to a file.
pub struct Trace {
    file: PathBuf,
}

/// A call: who made it, its name, and the rest of the line.
#[derive(Debug, Clone, Copy)]
pub struct Call<'l> {
    pub at: Option<f64>,
    pub by: u32,
    pub name: &'l str,
    pub rest: &'l str,
}

impl Trace {
    pub fn to(file: impl Into<PathBuf>) -> Trace {
        Trace { file: file.into() }
    }

    /// `None` where there is no strace, or it may not trace.
    pub fn is_possible() -> Option<String> {
        let tried = Command::new("strace").args(["-qq", "-e", "trace=none", "true"]).stdin(Stdio::null()).output();
        match tried {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!("strace may not trace here: {}", String::from_utf8_lossy(&output.stderr))),
            Err(error) => Some(format!("strace (Debian: strace): {error}")),
        }
    }

    /// What a program does to files. Descriptors are told with what they stand for.
    pub fn files(&self) -> Command {
        self.command(FILES, &["-y"])
    }

    /// That, and what it does to other processes and sockets.
    pub fn all(&self) -> Command {
        self.command(&format!("{FILES},{OTHERS}"), &["-y"])
    }

    /// Its locks, with the time.
    pub fn locks(&self) -> Command {
        self.command("fcntl,close", &["-y", "-ttt"])
    }

    /// To be followed by the program, which stays the child of whoever starts this: the tracer is a grandchild. Calls that
    /// are not asked for run without a stop.
    fn command(&self, calls: &str, more: &[&str]) -> Command {
        let mut strace = Command::new("strace");
        strace
            .args(["-D", "-f", "--seccomp-bpf", "-qq", "-e", "signal=none", "-e", &format!("trace={calls}")])
            .args(more);
        strace.arg("-o").arg(&self.file).stdin(Stdio::null());
        strace
    }

    /// The log when the tracer has written all of it: it ends after the program.
    pub fn log(&self) -> String {
        let begun = Instant::now();
        let mut length = None;
        loop {
            let now = std::fs::metadata(&self.file).map(|file| file.len()).ok();
            if now.is_some() && now == length {
                return std::fs::read_to_string(&self.file).unwrap();
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "strace goes on writing");
            length = now;
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// The calls of a log in their order.
pub fn calls(log: &str) -> impl Iterator<Item = Call<'_>> {
    log.lines().filter_map(|line| {
        let (by, line) = line.split_once(' ')?;
        let line = line.trim_start();
        let (at, line) = match line.split_once(' ') {
            Some((at, rest)) if at.starts_with(|first: char| first.is_ascii_digit()) => (at.parse().ok(), rest),
            _ => (None, line),
        };
        let (name, rest) = line.split_once('(')?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_name.then(|| Call { at, by: by.parse().unwrap_or(0), name, rest })
    })
}

impl Call<'_> {
    pub fn is_open(&self) -> bool {
        ["open", "openat", "openat2", "creat"].contains(&self.name)
    }

    /// Whether it was made to change a file, whatever came of it.
    pub fn would_write(&self) -> bool {
        const WRITES: [&str; 5] = ["O_WRONLY", "O_RDWR", "O_CREAT", "O_TRUNC", "O_APPEND"];
        match self.is_open() {
            true => self.name == "creat" || WRITES.iter().any(|flag| self.rest.contains(flag)),
            false => FILES.split(',').any(|name| name == self.name),
        }
    }

    /// Whether a path in it, or that of a descriptor, is below this folder.
    pub fn is_below(&self, folder: &Path) -> bool {
        self.rest.contains(&*folder.to_string_lossy())
    }
}

/// What was done below a folder but reading.
pub fn harm<'l>(log: &'l str, folder: &Path) -> Vec<Call<'l>> {
    calls(log).filter(|call| call.would_write() && call.is_below(folder)).collect()
}

/// What was done to files by their descriptors alone, wherever they are.
pub fn unnamed(log: &str) -> Vec<Call<'_>> {
    calls(log).filter(|call| call.would_write() && !call.rest.contains('"')).collect()
}

/// How often a file below a folder was opened, or looked for.
pub fn opened(log: &str, folder: &Path) -> usize {
    calls(log).filter(|call| call.is_open() && call.is_below(folder)).count()
}

/// What reached for other processes. Those of the log are our own threads.
pub fn reached_out(log: &str) -> Vec<Call<'_>> {
    let own: BTreeSet<u32> = calls(log).map(|call| call.by).collect();
    let first = calls(log).next().map(|call| call.by);
    let number =
        |call: &Call<'_>| call.rest.split([',', ')', '<']).next().and_then(|text| text.trim().parse::<u32>().ok());
    let to_own = |call: &Call<'_>| number(call).is_some_and(|pid| own.contains(&pid));
    calls(log)
        .filter(|call| match call.name {
            "kill" | "tkill" | "tgkill" | "rt_sigqueueinfo" | "rt_tgsigqueueinfo" => !to_own(call),
            "pidfd_send_signal" | "ptrace" | "process_vm_writev" | "fork" | "vfork" | "execveat" | "mount"
            | "umount2" => true,
            "prlimit64" | "setpriority" | "sched_setaffinity" => number(call) != Some(0) && !to_own(call),
            "clone" | "clone3" => !call.rest.contains("CLONE_THREAD"),
            "execve" => Some(call.by) != first,
            _ => false,
        })
        .collect()
}

/// Where connections were made to: `127.0.0.1:80`, or the path of a socket.
pub fn connected(log: &str) -> BTreeSet<String> {
    calls(log).filter(|call| call.name == "connect").map(|call| address(call.rest)).collect()
}

/// As strace spells it: `sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")`, `sun_path="/run/x"`.
fn address(rest: &str) -> String {
    let between = |begin: &str, end: &str| Some(rest.split_once(begin)?.1.split_once(end)?.0);
    match (between("htons(", ")"), between("inet_addr(\"", "\""), between("sun_path=\"", "\"")) {
        (Some(port), Some(host), _) => format!("{host}:{port}"),
        (_, _, Some(path)) => path.to_owned(),
        _ => rest.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"100 execve("/x/exporter", ["exporter"], 0x7ffd /* 1 var */) = 0
100 openat(AT_FDCWD</>, "/srv/host/.git/index", O_RDONLY|O_CLOEXEC) = 5</srv/host/.git/index>
101 openat(AT_FDCWD</>, "/srv/host/.git/index.lock", O_RDWR|O_CREAT|O_EXCL <unfinished ...>
100 unlink("/srv/host/.git/index.lock") = -1 ENOENT (No such file or directory)
101 <... openat resumed>) = 6</srv/host/.git/index.lock>
101 ftruncate(6</srv/host/.git/index.lock>, 0) = 0
101 openat(AT_FDCWD</>, "/var/lib/state.db", O_RDWR|O_CREAT, 0600) = 7</var/lib/state.db>
100 tgkill(100, 101, SIGRT_1) = 0
100 kill(4711, SIGTERM) = 0
100 clone3({flags=CLONE_VM|CLONE_THREAD, child_tid=0x1}, 88) = 101
101 vfork() = 102
102 execve("/usr/bin/git", ["git"], 0x7ffd /* 1 var */) = 0
100 connect(9<TCP:[1]>, {sa_family=AF_INET, sin_port=htons(8484), sin_addr=inet_addr("127.0.0.1")}, 16) = 0
100 connect(9<UNIX-STREAM:[1]>, {sa_family=AF_UNIX, sun_path="/run/docker.sock"}, 110) = 0
100 +++ exited with 0 +++
"#;

    #[test]
    fn a_log_tells_what_was_done_and_to_whom() {
        fn names<'l>(calls: Vec<Call<'l>>) -> Vec<&'l str> {
            calls.iter().map(|call| call.name).collect()
        }
        assert_eq!(names(harm(LOG, Path::new("/srv/host"))), ["openat", "unlink", "ftruncate"]);
        assert_eq!(names(harm(LOG, Path::new("/var/lib"))), ["openat"]);
        assert_eq!(names(unnamed(LOG)), ["ftruncate"]);
        assert_eq!(opened(LOG, Path::new("/srv/host")), 2);
        assert_eq!(names(reached_out(LOG)), ["kill", "vfork", "execve"]);
        assert_eq!(connected(LOG).into_iter().collect::<Vec<_>>(), ["/run/docker.sock", "127.0.0.1:8484"]);
    }
}
