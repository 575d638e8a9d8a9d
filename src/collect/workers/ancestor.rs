//! Whether the host is above a process: what tells an orphan, and what must be seen for that.

use crate::host::running::{self, Chain};
use crate::host::{Host, ProcessRule};
use crate::source::process::PidFile;
use crate::source::process::proc::{Proc, Scan, Stat};

use super::Sought;

/// Who is above a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Above {
    Host,
    /// All of its ancestors are seen, and none is the host.
    Nobody,
    /// One of its ancestors is not ours to see, and may be the host.
    Hidden,
    /// It runs in a pid namespace of its own, as in a container: its ancestors are those who run containers, whoever
    /// asked them to.
    Contained,
    /// It has just begun, and whoever starts it may yet hand it over: not asked.
    Young,
}

impl Above {
    /// `None`: nobody can tell.
    pub fn is_orphan(self) -> Option<bool> {
        match self {
            Above::Nobody => Some(true),
            Above::Host | Above::Young => Some(false),
            Above::Hidden | Above::Contained => None,
        }
    }
}

/// The host as the ancestor of its workers.
pub struct Ancestor {
    rule: ProcessRule,
    /// As it was last seen.
    known: Option<Chain>,
    /// In how many pid namespaces it was then; what runs in more is in a container, and has its own ancestors.
    depth: usize,
}

impl Ancestor {
    pub fn new(host: &Host) -> Ancestor {
        Ancestor { rule: host.process.clone(), known: None, depth: 1 }
    }

    /// Finds it, if it is not the one that is known.
    pub fn look(&mut self, proc: &Proc, scan: &Scan) -> Sought {
        if let Some(chain) = &self.known
            && !self.is_named_elsewhere(chain.pid)
            && chain.members.iter().any(|member| member.pid == chain.pid && scan.lives(*member))
        {
            return Sought::at(chain.pid);
        }
        if self.rule == ProcessRule::Unknown {
            return self.off("`pid_file` or `process` in [host] would say which process the host is");
        }
        let known = self.known.as_ref().map(|chain| &chain.members);
        let seen = proc.table(scan).map(|table| running::look(&table, &self.rule, known));
        match seen {
            Ok(running::Seen::Running(chain)) => {
                self.depth = proc.depth(chain.pid).unwrap_or(self.depth);
                Sought::at(self.known.insert(chain).pid)
            }
            Ok(running::Seen::Absent) if self.is_believed() => Sought { pid: None, ..Sought::at(0) },
            Ok(running::Seen::Absent) => self.off(
                "no process was ever seen to be the host: `pid_file` or `process` in [host] would tell which it is",
            ),
            Ok(running::Seen::Unseen(why)) => self.off(&why.error),
            Err(error) => self.off(&format!("{error:#}")),
        }
    }

    /// Its pid file names another by now.
    fn is_named_elsewhere(&self, pid: u32) -> bool {
        let ProcessRule::PidFile(path) = &self.rule else { return false };
        matches!(PidFile::read(path), Ok(Some(file)) if file.pid != pid)
    }

    fn off(&self, why: &str) -> Sought {
        Sought { pid: None, orphan_test: false, reason: Some(why.to_owned()), is_lost: self.known.is_some() }
    }

    /// Whether its absence is proven: it was there, or the operator named its pid file. A word that never matched may be
    /// a slip of the pen.
    fn is_believed(&self) -> bool {
        self.known.is_some() || matches!(self.rule, ProcessRule::PidFile(_))
    }

    /// Who is above a process. That its parent is pid 1 proves nothing, nor does that it is not.
    pub fn above(&self, proc: &Proc, scan: &Scan, stat: &Stat) -> Above {
        // The host may be a worker itself, as a gateway that runs its agents within.
        if self.is_member(stat) {
            return Above::Host;
        }
        let mut top = stat;
        for above in scan.ancestors(stat) {
            if self.is_member(above) {
                return Above::Host;
            }
            top = above;
        }
        match proc.depth(stat.pid()) {
            Ok(depth) if depth > self.depth => Above::Contained,
            Ok(_) if self.is_whole(top) => Above::Nobody,
            _ => Above::Hidden,
        }
    }

    fn is_member(&self, stat: &Stat) -> bool {
        !stat.is_zombie() && self.known.as_ref().is_some_and(|chain| chain.members.contains(&stat.identity))
    }

    /// Whether nobody is above the last ancestor that is seen. One whose parent is 0 was put into our pid namespace from
    /// outside (`docker exec`, `nsenter`). A host that we have seen is inside, and none of its children ever gets out.
    fn is_whole(&self, top: &Stat) -> bool {
        top.parent == 0 && (top.pid() == 1 || self.known.is_some())
    }
}

impl Sought {
    pub fn at(pid: u32) -> Sought {
        Sought { pid: Some(pid), orphan_test: true, reason: None, is_lost: false }
    }
}
