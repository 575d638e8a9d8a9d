//! What systemd is told, where it has started us (`sd_notify(3)`): that all has been looked at, that we turn, that we read
//! the configuration anew, that we stop. Elsewhere nothing is told to anybody.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;

use agenthost_exporter::health::State;
use agenthost_exporter::sample::Now;
use agenthost_exporter::snapshot::{Current, Snapshot};
use sd_notify::NotifyState;

/// How often it is told how the host is, without a watchdog that wants to hear more often.
const PACE: Duration = Duration::from_secs(5);

/// Until every collector has looked once, so often.
const WAITING: Duration = Duration::from_millis(100);

/// What is still to be told, at most.
const WAITING_LINES: usize = 16;

/// Whether it was told that all has been looked at: a reload before that ends without a word.
static STARTED: AtomicBool = AtomicBool::new(false);

/// Tells of the river for as long as it is polled.
pub async fn of(current: Current) {
    while !all_looked(&current.get()) {
        alive(&current); // a start may take as long as the slowest time-out
        tokio::time::sleep(WAITING).await;
    }
    STARTED.store(true, Ordering::Relaxed);
    tell(&[NotifyState::Ready]);
    let pace = sd_notify::watchdog_enabled().map_or(PACE, |watchdog| PACE.min(watchdog / 2));
    loop {
        alive(&current);
        tell(&[NotifyState::Status(&said(&current.get()))]);
        tokio::time::sleep(pace).await;
    }
}

/// The configuration is read anew, until `read`.
pub fn reading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) if STARTED.load(Ordering::Relaxed) => tell(&[NotifyState::Reloading, now]),
        Ok(_) => {}
        Err(error) => tracing::debug!(%error, "systemd is not told of the reload"),
    }
}

/// It was read, or refused.
pub fn read() {
    if STARTED.load(Ordering::Relaxed) {
        tell(&[NotifyState::Ready]);
    }
}

pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The watchdog is fed only while the river turns: one that has stopped is started anew.
fn alive(current: &Current) {
    if current.alive(Now::read()) {
        tell(&[NotifyState::Watchdog]);
    }
}

fn all_looked(snapshot: &Snapshot) -> bool {
    snapshot.collectors.iter().all(|seen| seen.last.is_some())
}

/// The verdict in a few words, for `systemctl status`.
fn said(snapshot: &Snapshot) -> String {
    let failed = snapshot.verdicts.iter().filter(|verdict| verdict.state == State::Failed).count();
    let ready = if snapshot.ready { "ready" } else { "not ready" };
    format!("{}, {ready}; failed checks: {failed}", snapshot.overall.name())
}

/// A manager that does not take what it is told holds up nobody: it is told on a thread of its own, and what does not fit is
/// left out.
fn tell(states: &[NotifyState<'_>]) {
    static TELLER: OnceLock<SyncSender<String>> = OnceLock::new();
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let teller = TELLER.get_or_init(|| {
        let (teller, told) = sync_channel::<String>(WAITING_LINES);
        std::thread::spawn(move || told.into_iter().for_each(|text| send(&text)));
        teller
    });
    let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
    let _ = teller.try_send(lines.join("\n"));
}

fn send(text: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::Custom(text)]) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
