//! Workers of the demo host, one of each class. They are this program once more, and end as their input does, which is
//! when the host does. Like pi-web the host keeps a list of them, and one is not on it.

use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use toml::de::DeTable;

use crate::collect::{Build, Subsystem};
use crate::host::{Host, Profile};

/// What the sidecar is told of them: to see one leaked, nobody waits for twelve minutes.
const TABLE: &str = "presets = [\"pi\", \"mcp\"]\nleaked_after = \"45s\"\n";

/// How the collector of workers is built beside a demo host: for it that one is a pi-web.
///
/// # Errors
/// The table is not as the collector wants it.
pub fn watched_by(subsystem: &Subsystem) -> Result<Build> {
    let build = (subsystem.plan)(Some(DeTable::parse(TABLE)?))?;
    Ok(Arc::new(move |host, sources| build(&Host { profile: Profile::PiWeb, ..host.clone() }, sources)))
}

/// Those that the host has started. Nobody reaps them; their inputs close with this.
#[derive(Debug, Default)]
pub struct Workers {
    inputs: Vec<ChildStdin>,
    listed: Vec<u32>,
}

impl Workers {
    /// Starts them all.
    ///
    /// # Errors
    /// This program cannot be started once more.
    pub fn start() -> Result<Workers> {
        let mut workers = Workers::default();
        for part in ["talks", "works", "sits", "ends"] {
            let pid = workers.keep(spawn("pi", part, Stdio::piped())?);
            workers.listed.push(pid);
        }
        // One that the host forgets.
        workers.keep(spawn("pi", "sits", Stdio::piped())?);
        let mut parent = spawn("sh", "leaves", Stdio::piped())?;
        workers.inputs.extend(parent.stdin.take());
        parent.wait().context("wait for the parent of an orphan")?;
        Ok(workers)
    }

    fn keep(&mut self, mut child: Child) -> u32 {
        self.inputs.extend(child.stdin.take());
        child.id()
    }

    /// The pids of those that the host knows of.
    pub fn listed(&self) -> &[u32] {
        &self.listed
    }
}

fn spawn(name: &str, part: &str, input: Stdio) -> Result<Child> {
    let mut command = Command::new(std::env::current_exe().context("find this program")?);
    command.arg0(name).args(["demo-worker", part]).stdin(input).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().with_context(|| format!("start the worker that {part}"))
}

/// One worker, until its input ends. Blocking.
///
/// # Errors
/// There is no such part, or a child of it cannot be started.
pub fn worker(part: &str) -> Result<()> {
    super::child::call_itself(match part {
        "serves" => "node",
        "leaves" => "sh",
        _ => "pi",
    });
    match part {
        // Nobody reaps it.
        "ends" => Ok(()),
        // Its child keeps the input, which the host holds open.
        "leaves" => spawn("pi", "sits", Stdio::inherit()).map(drop),
        "sits" | "serves" => {
            work_each(Duration::from_secs(3600), Duration::ZERO);
            Ok(())
        }
        "works" => {
            work_each(Duration::from_secs(1), Duration::from_millis(20));
            Ok(())
        }
        "talks" => {
            // Once would do.
            let _servers = [(); 2].map(|()| spawn("mcp-server-notes", "serves", Stdio::piped()));
            work_each(Duration::from_secs(25), Duration::from_millis(200));
            Ok(())
        }
        _ => bail!("no worker {part}"),
    }
}

/// Burns so much CPU at such a pace, on a machine that has other things to do too.
fn work_each(pause: Duration, work: Duration) {
    let ended = input_ends();
    while ended.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let used =
            || rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime).try_into().unwrap_or(Duration::MAX);
        let until = used().saturating_add(work);
        while used() < until {
            std::hint::spin_loop();
        }
    }
}

/// Hangs up when standard input ends.
fn input_ends() -> mpsc::Receiver<()> {
    let (open, ended) = mpsc::channel();
    std::thread::spawn(move || {
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        drop(open);
    });
    ended
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::ALL;

    #[test]
    fn the_collector_takes_what_it_is_told() {
        let subsystem = ALL.iter().find(|subsystem| subsystem.name == "workers").unwrap();
        assert!(watched_by(subsystem).is_ok());
    }
}
