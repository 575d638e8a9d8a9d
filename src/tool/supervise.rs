//! `agenthost-exporter supervise FLAGS`: runs the sidecar as a child, and starts it again when it ends.
//!
//! For Kubernetes, where a container that does not run makes its whole pod unready, a sidecar of any kind too, with or
//! without a probe of its own: the container outlives what crashes in it. A restart of the container is still the kubelet's.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal as Number, kill_process};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How long it is left alone after it has ended for the first time; the double after each more.
const SHORTEST: Duration = Duration::from_secs(1);
/// ... up to this.
pub const LONGEST: Duration = Duration::from_secs(30);
/// Who has not been there for so long may not have learnt yet what SIGHUP is: it would end it.
const AWAKE: Duration = Duration::from_secs(2);
/// Who ran for so long has not crashed at its start: the next pause is the shortest.
const SETTLED: Duration = Duration::from_secs(60);

/// Runs a program with these arguments until somebody ends us; then it is ended too, and its exit code is ours. SIGHUP is
/// handed on.
///
/// # Errors
/// No signal can be awaited. That the program cannot be started is as if it had crashed.
pub fn run(program: &Path, arguments: &[OsString]) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(watch(program, arguments))
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    child: Signal,
}

impl Signals {
    fn new() -> Result<Signals> {
        let of = |kind| signal(kind).context("wait for signals");
        Ok(Signals {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
            hangup: of(SignalKind::hangup())?,
            child: of(SignalKind::child())?,
        })
    }

    /// Waits, or until something is said: whether it is to stop. A reload of nobody is a start, at once.
    async fn pause(&mut self, pause: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(pause) => false,
            _ = self.hangup.recv() => false,
            _ = self.terminate.recv() => true,
            _ = self.interrupt.recv() => true,
        }
    }
}

async fn watch(program: &Path, arguments: &[OsString]) -> Result<ExitCode> {
    let mut signals = Signals::new()?;
    let mut pause = None;
    loop {
        let begun = Instant::now();
        // In a group of its own: who ends all of ours, a terminal say, is handed on once.
        let why = match Command::new(program).args(arguments).process_group(0).spawn() {
            Err(error) => error.to_string(),
            Ok(child) => match until_it_ends(child, &mut signals).await? {
                (status, true) => return Ok(code(status)),
                (status, false) if status.code() == Some(2) => "its configuration is refused".to_owned(),
                (status, false) => status.to_string(),
            },
        };
        let next = after(pause, begun.elapsed());
        pause = Some(next);
        tracing::error!("the sidecar has ended ({why}); it is started again in {} s", next.as_secs());
        if signals.pause(next).await {
            return Ok(ExitCode::SUCCESS);
        }
    }
}

/// How it ended, and whether that was wanted. It is signalled only while its end has not been taken note of, so its number
/// is nobody else's.
async fn until_it_ends(mut child: Child, signals: &mut Signals) -> Result<(ExitStatus, bool)> {
    let pid = Pid::from_child(&child);
    let (mut wanted, mut reload) = (false, false);
    let awake = tokio::time::sleep(AWAKE);
    tokio::pin!(awake);
    loop {
        if let Some(status) = child.try_wait().context("look after the sidecar")? {
            return Ok((status, wanted));
        }
        if reload && awake.is_elapsed() {
            reload = false;
            let _ = kill_process(pid, Number::HUP);
        }
        let number = tokio::select! {
            _ = signals.child.recv() => continue,
            _ = signals.terminate.recv() => Number::TERM,
            _ = signals.interrupt.recv() => Number::INT,
            _ = signals.hangup.recv() => {
                reload = true;
                continue;
            }
            () = &mut awake, if reload && !awake.is_elapsed() => continue,
        };
        wanted = true;
        let _ = kill_process(pid, number); // or it has ended just now
    }
}

/// The pause after it has run for so long.
fn after(pause: Option<Duration>, ran: Duration) -> Duration {
    match pause {
        Some(pause) if ran < SETTLED => (pause * 2).min(LONGEST),
        _ => SHORTEST,
    }
}

/// Its own code; 1 if a signal has ended it.
fn code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_a_minute_and_begin_anew_after_it_has_settled() {
        let crash = Duration::from_millis(10);
        let mut pause = None;
        let pauses: Vec<u64> = (0..7)
            .map(|_| {
                pause = Some(after(pause, crash));
                pause.unwrap().as_secs()
            })
            .collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(after(pause, SETTLED - crash), LONGEST);
        assert_eq!(after(pause, SETTLED), SHORTEST);
    }
}
