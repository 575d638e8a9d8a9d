//! The child: the process that is the demo host. It writes the database, serves the API, and ends with its parent.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rusqlite::Connection;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

use super::api::{self, Api};
use super::life::Life;
use super::queue::Queue;
use super::workers::Workers;
use super::{MARKER, gateway, repos};
use crate::sample::Now;

const DATABASE: &str = "data/messages.db";

/// Why the host ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// By a signal: whoever holds the pipe still cleans up.
    Told,
    /// The pipe has closed.
    LetGo,
}

/// The child: makes the database, then serves until it is told to end or its parent lets go of it. Blocking.
///
/// # Errors
/// The folder is not a demo's, the database cannot be made, or the port is taken.
pub fn host(root: &Path, port: u16, gateway_port: u16) -> Result<()> {
    if !root.join(MARKER).is_file() {
        bail!("{} has no {MARKER}: it is not the folder of a demo", root.display());
    }
    call_itself("pynchy");
    let started = Now::read();
    gateway::serve(gateway_port, started)?;
    let database = root.join(DATABASE);
    let head = repos::head(root);
    let mut db = Connection::open(&database).context("make the database")?;
    let life = Life::begin(&mut db, started.wall, head.as_deref().unwrap_or("unknown"))?;
    let queue = Arc::new(Mutex::new(life.queue()));
    let workers = Workers::start().inspect_err(|error| eprintln!("{error:#}"));
    let listed = workers.as_ref().map(|workers| workers.listed().to_vec()).unwrap_or_default();
    let api = Api { database, started, head, queue: queue.clone(), workers: listed };
    let (stop, stopped) = mpsc::channel();
    let (rest, rested) = mpsc::channel();
    let agents = repos::Agents::new(root);
    let has_git = api.head.is_some();
    let writer = std::thread::spawn(move || keep_writing(life, db, &queue, &stopped));
    let worker = std::thread::spawn(move || {
        if has_git {
            keep_working(agents, &rested)
        }
    });
    let end = serve(port, api);
    drop((stop, rest, workers));
    if writer.join().is_err() || worker.join().is_err() {
        bail!("the writer or an agent panicked");
    }
    if end? == End::LetGo && root.join(MARKER).is_file() {
        // The parent was killed and cleans nothing up.
        std::fs::remove_dir_all(root).with_context(|| format!("remove {}", root.display()))?;
    }
    Ok(())
}

/// So that process lists show the name that they would on a real host.
pub fn call_itself(name: &str) {
    #[cfg(target_os = "linux")]
    drop(std::fs::write("/proc/self/comm", name)); // Only looks suffer where this is refused.
}

/// Writes what happens, when it happens, until `stopped` is hung up.
fn keep_writing(mut life: Life, mut db: Connection, queue: &Mutex<Queue>, stopped: &mpsc::Receiver<()>) {
    loop {
        let wait = life.next().duration_since(Now::read().wall);
        let wait = Duration::try_from(wait).unwrap_or(Duration::ZERO); // What is late is due at once.
        if stopped.recv_timeout(wait) != Err(RecvTimeoutError::Timeout) {
            return;
        }
        if let Err(error) = life.advance(&mut db, Now::read().wall) {
            eprintln!("write the database: {error:#}");
        }
        *queue.lock().unwrap_or_else(PoisonError::into_inner) = life.queue();
    }
}

/// Lets the agents work in their worktrees until `rested` is hung up.
fn keep_working(mut agents: repos::Agents, rested: &mpsc::Receiver<()>) {
    while rested.recv_timeout(repos::Agents::PACE) == Err(RecvTimeoutError::Timeout) {
        if let Err(error) = agents.work() {
            eprintln!("work in a worktree: {error:#}");
        }
    }
}

fn serve(port: u16, api: Api) -> Result<End> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .await
            .with_context(|| format!("listen on port {port}"))?;
        let (mut term, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let let_go = watch_input();
        let end = async {
            tokio::select! {
                _ = term.recv() => End::Told,
                _ = interrupt.recv() => End::Told,
                _ = let_go => End::LetGo,
            }
        };
        Ok(api::serve(listener, Arc::new(api), end).await)
    })
}

/// Resolves when standard input ends, which is when the parent does.
fn watch_input() -> oneshot::Receiver<()> {
    let (ended, end) = oneshot::channel();
    std::thread::spawn(move || {
        // An input that cannot be read has nobody at its other end either.
        drop(std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink()));
        drop(ended);
    });
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_no_demo_made_is_not_touched() {
        let folder = tempfile::tempdir().unwrap();
        let error = host(folder.path(), 0, 0).unwrap_err().to_string();
        assert!(error.ends_with("it is not the folder of a demo"), "{error}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
