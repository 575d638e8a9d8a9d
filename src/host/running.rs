//! Which process is the host: found by its rule, or known to be absent, or out of our sight.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::ProcessRule;
use crate::sample::{Cause, Failure};
use crate::source::process::{Cwd, Identity, PidFile, Process, Table};

/// The host's process, as the rule finds it.
#[derive(Debug, Clone, PartialEq)]
pub enum Seen {
    Running(Chain),
    /// We see all processes, and it is none of them.
    Absent,
    /// It may be one that we cannot see, or cannot tell apart: why that is.
    Unseen(Failure),
}

impl Seen {
    /// Nobody refused us anything, and still we cannot tell.
    pub fn unseen(why: &str) -> Seen {
        Seen::Unseen(Failure { cause: Cause::Unanswered, error: why.to_owned() })
    }

    fn folder_denied(chain: &Chain) -> Seen {
        let error = format!(
            "process {} could be it, but its working folder is not ours to see: run as its user, or set `pid_file` in \
             [host]",
            chain.pid
        );
        Seen::Unseen(Failure { cause: Cause::Denied, error })
    }
}

/// Processes of one start: `uv run pynchy` is the parent of the python that serves.
#[derive(Debug, Clone, PartialEq)]
pub struct Chain {
    pub members: BTreeSet<Identity>,
    /// Of the one that serves.
    pub pid: u32,
    /// Of the first one.
    pub started: Timestamp,
}

impl Chain {
    /// When the first one was started, on the clock that counts since boot: nobody sets it.
    pub fn began(&self) -> Duration {
        self.members.iter().map(Identity::started).min().unwrap_or_default()
    }

    /// The process that serves.
    pub fn serving(&self) -> Option<Identity> {
        self.members.iter().find(|member| member.pid == self.pid).copied()
    }

    /// Whether a command line of it names a path in the root.
    fn is_tied(&self, table: &Table, root: &Path) -> bool {
        let mut members = self.members.iter().filter_map(|member| table.get(member.pid));
        members.any(|process| process.names_a_path_in(root))
    }
}

/// Looks for the host's process; `known` are those it had at the last look.
pub fn look(table: &Table, rule: &ProcessRule, known: Option<&BTreeSet<Identity>>) -> Seen {
    let seen = match rule {
        ProcessRule::PidFile(path) => by_pid_file(table, path, known),
        ProcessRule::Command(word) => choose(chains(table, |process| process.runs(word)), known).map(Seen::Running),
        ProcessRule::InRoot { program, root } => in_root(table, program, root, known),
        ProcessRule::Unknown => Some(Seen::unseen("`pid_file` or `process` in [host] would say which process it is")),
    };
    seen.unwrap_or_else(|| unmatched(table))
}

fn unmatched(table: &Table) -> Seen {
    if table.is_complete() {
        return Seen::Absent;
    }
    Seen::unseen("it is none of the processes that we see, and we do not see all of the machine")
}

/// `None`: no process has this pid, or it is a corpse.
fn by_pid_file(table: &Table, path: &Path, known: Option<&BTreeSet<Identity>>) -> Option<Seen> {
    let file = match PidFile::read(path) {
        Ok(Some(file)) => file,
        Ok(None) => return Some(Seen::Absent),
        Err(error) => return Some(Seen::Unseen(error.into())),
    };
    let process = table.get(file.pid)?;
    // One that began after the file was written has inherited the pid only. Boot time is in whole seconds. Of one that we
    // know already it proves nothing: the wall clock was set since.
    let is_known = known.is_some_and(|known| known.contains(&process.identity));
    let inherited = !is_known && process.started.duration_since(file.written) > SignedDuration::from_secs(2);
    let chain = Chain { members: [process.identity].into(), pid: file.pid, started: process.started };
    Some(if process.alive && !inherited { Seen::Running(chain) } else { Seen::Absent })
}

/// `None`: no process could be it.
fn in_root(table: &Table, program: &str, root: &Path, known: Option<&BTreeSet<Identity>>) -> Option<Seen> {
    let sure = chains(table, |process| process.runs(program) && process.cwd == Cwd::At(root.to_owned()));
    if let Some(chain) = choose(sure, known) {
        return Some(Seen::Running(chain));
    }
    // Of another user we see no folder. That it is the only one does not make it ours; a path in its command line does.
    let hidden = chains(table, |process| process.runs(program) && process.cwd == Cwd::Denied);
    let (ours, strange): (Vec<Chain>, Vec<Chain>) = hidden.into_iter().partition(|chain| chain.is_tied(table, root));
    choose(ours, known).map(Seen::Running).or_else(|| strange.last().map(Seen::folder_denied))
}

/// Of several the one we know, so that a second start in passing (a one-shot command) does not take its place; else
/// the youngest.
fn choose(chains: Vec<Chain>, known: Option<&BTreeSet<Identity>>) -> Option<Chain> {
    let is_known = |chain: &Chain| known.is_some_and(|known| !known.is_disjoint(&chain.members));
    chains.into_iter().max_by_key(|chain| (is_known(chain), chain.started))
}

/// The living processes that match, each with those that matching ones started.
fn chains(table: &Table, matches: impl Fn(&Process) -> bool) -> Vec<Chain> {
    let matched: BTreeMap<u32, &Process> =
        table.alive().filter(|process| matches(process)).map(|process| (process.pid(), process)).collect();
    let mut trees: BTreeMap<u32, Vec<(usize, &Process)>> = BTreeMap::new();
    for &process in matched.values() {
        let above: Vec<&Process> = table.ancestors(process).filter(|one| matched.contains_key(&one.pid())).collect();
        let first = above.last().unwrap_or(&process).pid();
        trees.entry(first).or_default().push((above.len(), process));
    }
    let chain = |(first, tree): (u32, Vec<(usize, &Process)>)| Chain {
        members: tree.iter().map(|(_, process)| process.identity).collect(),
        pid: serving(&tree, &matched).unwrap_or(first),
        started: matched[&first].started,
    };
    trees.into_iter().map(chain).collect()
}

/// The deepest. A fork that has not become another program (git, say) still looks like the host, and is not it.
fn serving(tree: &[(usize, &Process)], matched: &BTreeMap<u32, &Process>) -> Option<u32> {
    let is_fork = |process: &Process| {
        let parent = process.parent.and_then(|parent| matched.get(&parent));
        parent.is_some_and(|parent| process.is_fork_of(parent))
    };
    let own = tree.iter().filter(|(_, process)| !is_fork(process));
    own.max_by_key(|(depth, process)| (*depth, std::cmp::Reverse(process.started))).map(|(_, process)| process.pid())
}

/// Real processes for tests.
#[cfg(test)]
pub(crate) mod stage {
    use super::*;
    use crate::source::process::{Processes, wait_for_words};
    use std::io::{ErrorKind, Write};
    use std::path::PathBuf;
    use std::process::{Child, Command, Stdio};

    /// A folder that a host could run in, and what runs in it.
    pub struct Root {
        _folder: tempfile::TempDir,
        pub path: PathBuf,
    }

    impl Root {
        pub fn new() -> Root {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().canonicalize().unwrap();
            for (program, name) in [("/bin/sleep", "pynchy"), ("/bin/sh", "uv/pynchy")] {
                std::fs::create_dir_all(path.join(name).parent().unwrap()).unwrap();
                std::fs::copy(program, path.join(name)).unwrap();
            }
            Root { _folder: folder, path }
        }

        pub fn spawn(&self, program: &str, words: &[&str]) -> Running {
            let mut command = Command::new(self.path.join(program));
            // Its input ends with the test, and so do its children that read it.
            command.args(words).current_dir(&self.path).stdin(Stdio::piped()).stderr(Stdio::null());
            // Right after the copy another test's fork may still hold it open for writing.
            let started = std::iter::repeat_with(|| command.spawn())
                .take(100_000)
                .find(|child| !matches!(child, Err(error) if error.kind() == ErrorKind::ExecutableFileBusy));
            let running = Running(started.expect("the copy stays busy").unwrap());
            wait_for_words(&running.0);
            running
        }

        pub fn host(&self) -> Running {
            self.spawn("pynchy", &["60"])
        }

        /// Ends the line that a launcher waits for, and waits for its child.
        pub fn wake(&self, launcher: &mut Running) -> Orphan {
            launcher.0.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
            let mut looks = std::iter::repeat_with(|| running(self.look(None)).pid).take(1000);
            Orphan(looks.find(|&pid| pid != launcher.pid()).expect("the launcher starts its child"))
        }

        pub fn look(&self, known: Option<&BTreeSet<Identity>>) -> Seen {
            self.look_by(&ProcessRule::InRoot { program: "pynchy".to_owned(), root: self.path.clone() }, known)
        }

        pub fn look_by(&self, rule: &ProcessRule, known: Option<&BTreeSet<Identity>>) -> Seen {
            look(&Processes::default().list().unwrap(), rule, known)
        }
    }

    /// A child that ends with the test.
    pub struct Running(Child);

    impl Running {
        pub fn pid(&self) -> u32 {
            self.0.id()
        }

        /// Leaves a zombie.
        pub fn kill(&mut self) {
            self.0.kill().unwrap();
            let is_there = |table: Table| table.alive().any(|process| process.pid() == self.pid());
            let mut looks = std::iter::repeat_with(|| Processes::default().list().unwrap()).take(1000);
            assert!(looks.any(|table| !is_there(table)), "it lives on after SIGKILL");
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    /// A child's child.
    pub struct Orphan(u32);

    impl Orphan {
        pub fn pid(&self) -> u32 {
            self.0
        }
    }

    impl Drop for Orphan {
        fn drop(&mut self) {
            let pid = i32::try_from(self.0).ok().and_then(rustix::process::Pid::from_raw).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }

    pub fn running(seen: Seen) -> Chain {
        match seen {
            Seen::Running(chain) => chain,
            other => panic!("{other:?}"),
        }
    }

    /// Does something as a user who may not enter the folder.
    pub fn unprivileged<T: Send>(folder: &Path, act: impl FnOnce() -> T + Send) -> T {
        use std::os::unix::fs::PermissionsExt;
        let mode = |mode| std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
        mode(0o000);
        let done = std::thread::scope(|threads| {
            let thread = threads.spawn(|| {
                if rustix::process::geteuid().is_root() {
                    // Of this thread only, which ends with it.
                    let nobody = rustix::thread::Uid::from_raw(65534);
                    rustix::thread::set_thread_res_uid(None, nobody, None).unwrap();
                }
                act()
            });
            thread.join().unwrap()
        });
        mode(0o700);
        done
    }

    /// Whether this machine lets us say that a process does not exist.
    pub fn gone() -> Seen {
        unmatched(&Processes::default().list().unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::stage::{Root, gone, running, unprivileged};
    use super::*;
    use crate::source::process::Processes;

    fn why(seen: Seen) -> Failure {
        match seen {
            Seen::Unseen(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_host_is_found_in_its_root_only_and_not_as_a_corpse() {
        let (root, other) = (Root::new(), Root::new());
        assert_eq!(root.look(None), gone());
        let mut host = root.host();
        let chain = running(root.look(None));
        assert_eq!((chain.pid, chain.members.len()), (host.pid(), 1));
        assert_eq!(other.look(None), gone());
        host.kill();
        assert_eq!(root.look(None), gone());
    }

    #[test]
    fn of_launcher_and_child_the_child_serves_and_the_launcher_started() {
        let root = Root::new();
        let mut launcher = root.spawn("uv/pynchy", &["-c", "read x; ./pynchy 60; true"]);
        assert_eq!(running(root.look(None)).pid, launcher.pid());
        let child = root.wake(&mut launcher);
        let (chain, table) = (running(root.look(None)), Processes::default().list().unwrap());
        assert_eq!((chain.pid, chain.members.len()), (child.pid(), 2));
        assert_eq!(table.get(chain.pid).unwrap().parent, Some(launcher.pid()));
        assert_eq!(chain.started, table.get(launcher.pid()).unwrap().started);
    }

    #[test]
    fn a_fork_of_the_host_does_not_serve() {
        let root = Root::new();
        // The shell forks for the parenthesis, and waits for it.
        let host = root.spawn("uv/pynchy", &["-c", "(read x; true); true"]);
        let mut looks = std::iter::repeat_with(|| running(root.look(None))).take(1000);
        let chain = looks.find(|chain| chain.members.len() == 2).expect("the shell forks");
        assert_eq!(chain.pid, host.pid());
    }

    #[test]
    fn of_two_hosts_in_one_root_the_known_one_stays() {
        let root = Root::new();
        let first = root.host();
        let known = running(root.look(None)).members;
        // Start times have ticks of 10 ms.
        std::thread::sleep(std::time::Duration::from_millis(30));
        let second = root.host();
        assert_eq!(running(root.look(Some(&known))).pid, first.pid());
        assert_eq!(running(root.look(None)).pid, second.pid());
    }

    /// How a table of imagined processes looks to the rule: pids found, or why none is.
    fn seen(processes: &[(u32, u32, &str, &Cwd)]) -> Result<u32, Seen> {
        let one =
            |&(pid, parent, line, cwd): &(u32, u32, &str, &Cwd)| Process::imagined(pid, parent, line, cwd.clone());
        let rule = ProcessRule::InRoot { program: "pynchy".to_owned(), root: "/srv/p".into() };
        match look(&processes.iter().map(one).collect(), &rule, None) {
            Seen::Running(chain) => Ok(chain.pid),
            other => Err(other),
        }
    }

    #[test]
    fn what_we_may_not_see_is_neither_found_nor_absent() {
        let (here, away) = (Cwd::At("/srv/p".into()), Cwd::At("/srv/q".into()));
        let init = (1, 0, "init", &Cwd::Denied);
        assert_eq!(seen(&[init]), Err(Seen::Absent));
        assert_eq!(seen(&[init, (7, 1, "pynchy", &away)]), Err(Seen::Absent));
        let part = why(seen(&[(7, 1, "pynchy", &away)]).unwrap_err());
        assert!(part.error.contains("we do not see all"), "without the first process more may be hidden: {part:?}");
        let launcher = (7, 1, "uv run pynchy", &Cwd::Denied);
        assert_eq!(seen(&[init, launcher, (9, 1, "pynchy", &here)]), Ok(9));
        assert_eq!(seen(&[init, (9, 1, "pynchy", &Cwd::Gone)]), Err(Seen::Absent));
    }

    #[test]
    fn of_hidden_folders_only_a_path_in_the_root_tells() {
        let init = (1, 0, "init", &Cwd::Denied);
        let launcher = (7, 1, "uv run pynchy", &Cwd::Denied);
        for strangers in [
            &[launcher][..],
            &[launcher, (8, 7, "python /srv/q/bin/pynchy", &Cwd::Denied)],
            &[(8, 1, "python /srv/p2/bin/pynchy", &Cwd::Denied)],
            &[launcher, (9, 1, "pynchy", &Cwd::Denied)],
        ] {
            let denied = why(seen(&[&[init], strangers].concat()).unwrap_err());
            assert_eq!(denied.cause, Cause::Denied);
            assert!(denied.error.contains("`pid_file`"), "{denied:?}");
        }
        let child = (8, 7, "python /srv/p/.venv/bin/pynchy", &Cwd::Denied);
        assert_eq!(seen(&[init, launcher, child]), Ok(8));
        assert_eq!(seen(&[init, launcher, child, (9, 1, "pynchy", &Cwd::Denied)]), Ok(8));
    }

    #[test]
    fn a_child_far_below_serves_and_a_loop_ends() {
        let here = Cwd::At("/srv/p".into());
        let tree = [(7, 1, "uv run pynchy", &here), (8, 7, "sh -c x", &here), (9, 8, "python pynchy", &here)];
        assert_eq!(seen(&tree), Ok(9));
        assert!(seen(&[(7, 8, "uv run pynchy", &here), (8, 7, "python pynchy", &here)]).is_ok());
    }

    #[test]
    fn a_pid_file_names_the_process() {
        let root = Root::new();
        let file = root.path.join("pid");
        let rule = ProcessRule::PidFile(file.clone());
        assert_eq!(root.look_by(&rule, None), Seen::Absent);
        std::fs::write(&file, "no pid").unwrap();
        let garbage = why(root.look_by(&rule, None));
        assert_eq!(garbage.cause, Cause::Unanswered);
        assert!(garbage.error.starts_with(&format!("read {}: no pid in it", file.display())), "{}", garbage.error);
        let mut host = root.spawn("pynchy", &["60"]);
        std::fs::write(&file, host.pid().to_string()).unwrap();
        assert_eq!(running(root.look_by(&rule, None)).pid, host.pid());
        // Written long before the process began: the pid belongs to another now.
        let old = std::fs::File::options().write(true).open(&file).unwrap();
        old.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(root.look_by(&rule, None), Seen::Absent);
        std::fs::write(&file, host.pid().to_string()).unwrap();
        host.kill();
        assert_eq!(root.look_by(&rule, None), Seen::Absent);
    }

    #[test]
    fn a_pid_file_that_may_not_be_read_is_denied() {
        let root = Root::new();
        let file = root.path.join("pid");
        std::fs::write(&file, "1").unwrap();
        let rule = ProcessRule::PidFile(file.clone());
        let denied = why(unprivileged(&root.path, || look(&Table::default(), &rule, None)));
        assert_eq!(denied.cause, Cause::Denied);
        assert!(denied.error.starts_with(&format!("read {}: Permission denied", file.display())), "{}", denied.error);
    }

    #[test]
    fn a_program_is_found_in_any_folder_and_not_where_it_is_only_named() {
        let (root, other) = (Root::new(), Root::new());
        let place = other.path.file_name().unwrap().to_str().unwrap();
        let rule = ProcessRule::Command(format!("{place}/pynchy"));
        let _reader = root.spawn("uv/pynchy", &["-c", "read x; true", &format!("{place}/pynchy")]);
        assert_eq!(root.look_by(&rule, None), gone());
        let host = other.host();
        assert_eq!(running(root.look_by(&rule, None)).pid, host.pid());
    }
}
