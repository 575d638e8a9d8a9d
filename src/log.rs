//! The log: standard error, written by a thread of its own. A pipe that nobody reads, or a disk that hangs, holds up neither a
//! verdict nor an answer: what it does not take is left out, and that is told once it takes lines again.

use std::cell::Cell;
use std::io::{Result, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

/// Lines that wait, at most: a start or a reload says some dozens.
const WAITING: usize = 1024;
/// The end of the program waits so long for the lines that wait.
const LAST_LINES: Duration = Duration::from_secs(1);

enum Entry {
    Line(Vec<u8>),
    /// Everything before this is to be written; dropped when it is.
    End(SyncSender<()>),
}

static QUEUE: OnceLock<Option<SyncSender<Entry>>> = OnceLock::new();
/// Lines that were left out and not told of.
static LOST: AtomicU64 = AtomicU64::new(0);

/// Where a line of the log goes; it takes a whole one at each write.
#[derive(Debug, Clone, Copy)]
pub struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> Result<usize> {
        say(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}

thread_local! {
    /// Whether this is the thread that writes: it does not wait for itself.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// Waits, at the end of its life, for what was said to be written: after a panic, too.
pub struct End;

impl Drop for End {
    fn drop(&mut self) {
        end();
    }
}

/// Says a line, its end included, or leaves it out.
pub fn say(line: &[u8]) {
    if WRITES.get() {
        return drop(std::io::stderr().write_all(line));
    }
    match queue().map(|queue| queue.try_send(Entry::Line(line.to_vec()))) {
        Some(Ok(())) => {}
        Some(Err(_)) => drop(LOST.fetch_add(1, Ordering::Relaxed)),
        None => drop(std::io::stderr().write_all(line)),
    }
}

/// Waits for what was said to be written, for a bounded time.
pub fn end() {
    let (Some(queue), until) = (queue(), Instant::now() + LAST_LINES) else { return };
    let (written, is_written) = sync_channel(0);
    let mut entry = Entry::End(written);
    while let Err(TrySendError::Full(back)) = queue.try_send(entry) {
        if Instant::now() > until {
            return;
        }
        entry = back;
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = is_written.recv_timeout(until.saturating_duration_since(Instant::now()));
}

/// `None` where there can be no thread: then lines are written by whoever says them.
fn queue() -> Option<&'static SyncSender<Entry>> {
    let start = || {
        let (queue, entries) = sync_channel(WAITING);
        let thread = std::thread::Builder::new().name("log".into()).spawn(move || write(&entries));
        thread.is_ok().then_some(queue)
    };
    QUEUE.get_or_init(start).as_ref()
}

fn write(entries: &Receiver<Entry>) {
    WRITES.set(true);
    for entry in entries {
        match entry {
            Entry::Line(line) => {
                let written = std::io::stderr().write_all(&line); // if nobody can read it, nobody can be told
                let lost = if written.is_ok() { LOST.swap(0, Ordering::Relaxed) } else { 0 };
                if lost > 0 {
                    tracing::error!(lines = lost, "lines of this log are missing: nobody took them in time");
                }
            }
            Entry::End(written) => drop(written),
        }
    }
}
