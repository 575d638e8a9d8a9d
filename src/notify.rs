//! What systemd is told, where it has started us (`sd_notify(3)`): that all has been looked at, that we turn, that we read
//! the configuration anew, that we stop. Elsewhere nothing is told to anybody.

use std::time::Duration;

use agenthost_exporter::health::State;
use agenthost_exporter::sample::Now;
use agenthost_exporter::snapshot::{Current, Snapshot};
use sd_notify::NotifyState;

/// How often it is told how the host is, without a watchdog that wants to hear more often.
const PACE: Duration = Duration::from_secs(5);

/// Until every collector has looked once, so often.
const WAITING: Duration = Duration::from_millis(100);

/// Tells of the river for as long as it is polled.
pub async fn of(current: Current) {
    while !all_looked(&current.get()) {
        alive(&current); // a start may take as long as the slowest time-out
        tokio::time::sleep(WAITING).await;
    }
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
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "systemd is not told of the reload"),
    }
}

/// It was read, or refused.
pub fn read() {
    tell(&[NotifyState::Ready]);
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

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}
