//! `agenthost-exporter healthcheck`: 0 or 1 for Docker and Kubernetes, which know no other code, and a line that says why.
//!
//! What each answer makes of it, and what `--unreachable=ok` changes:
//!
//! | heard | | ok |
//! |---|---|---|
//! | 200 of the sidecar | 0 | 0 |
//! | 503 of `/readyz` in which a check fails; of `/livez`: the loop has stopped | 1 | 1 |
//! | 503 of `/readyz` while it is starting, stopping, or its loop has stopped: it knows nothing of the host | 1 | 0 |
//! | refused, no route, no such name, a time-out, an answer that breaks off, a failed handshake of TLS | 1 | 0 |
//! | 401, 403, 404, 429, 500, a redirect, a 503 or 200 of somebody else: nobody who would know was heard | 1 | 0 |
//! | the command line cannot be meant, or a file that it names cannot be read | 1 | 1 |
//!
//! So with `--unreachable=ok` nothing but a verdict fails: a sidecar that crashes, is upgraded or cannot be paid for drains
//! no pod. A wrong command line fails all the same: nobody would notice it otherwise.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::ask::{self, Door, Own, Reply, plain};
use crate::show::probes::GATES;

/// Kubernetes waits a second for a probe and then takes it for failed: the answer must be there before.
const PATIENCE: Duration = Duration::from_millis(800);

#[derive(Debug, Clone, Args)]
pub struct Question {
    #[command(flatten)]
    door: Door,
    /// Asks whether the host can do its work (/readyz) instead of whether the sidecar itself works (/livez).
    #[arg(long)]
    readyz: bool,
    /// What it means if nobody answers who knows: a failure, or nothing.
    #[arg(long, value_name = "fail|ok", default_value = "fail", hide_possible_values = true)]
    unreachable: Unreachable,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Unreachable {
    Fail,
    Ok,
}

/// What was found: the exit code is 0 or 1.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    pub well: bool,
    /// For people, without a line end.
    pub line: String,
}

impl Found {
    /// The command line cannot be meant.
    pub fn refused(error: anyhow::Error) -> Found {
        Found { well: false, line: format!("failed: {}", plain(&format!("{error:#}"))) }
    }
}

/// What an answer says.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Heard {
    Well,
    /// Of the sidecar, about what was asked.
    Failed(String),
    /// Nothing about what was asked.
    Nothing(String),
}

/// Asks once.
///
/// # Errors
/// The command line cannot be meant: a failure, whatever `--unreachable` says.
pub fn run(question: &Question, own: impl FnOnce() -> Own) -> Result<Found> {
    let asker = question.door.open(own, PATIENCE)?;
    let probe = if question.readyz { "readyz" } else { "livez" };
    let reply = ask::wait(asker.get(&format!("/{probe}")))?;
    Ok(found(&reply.url, hear(probe, &reply), question.unreachable))
}

fn found(url: &str, heard: Heard, unreachable: Unreachable) -> Found {
    match heard {
        Heard::Well => Found { well: true, line: format!("ok: {url}") },
        Heard::Failed(why) => Found { well: false, line: format!("failed: {url}: {why}") },
        Heard::Nothing(why) if unreachable == Unreachable::Ok => {
            Found { well: true, line: format!("ok by --unreachable=ok, nothing is known: {url}: {why}") }
        }
        Heard::Nothing(why) => Found { well: false, line: format!("nothing is known: {url}: {why}") },
    }
}

fn hear(probe: &str, reply: &Reply) -> Heard {
    match &reply.heard {
        Err(error) => Heard::Nothing(reply.why(error)),
        Ok(answer) => read(probe, answer.status, answer.text().unwrap_or_default()),
    }
}

/// The sidecar's own answers are told from all others by their words.
fn read(probe: &str, status: u16, text: &str) -> Heard {
    let said = |end: &str| text.trim_end().lines().last().is_some_and(|last| last == format!("{probe} check {end}"));
    match status {
        200 if text == "ok\n" || said("passed") => Heard::Well,
        503 if said("failed") => failed(probe, text),
        503 if text.starts_with("the sidecar is stopping") => Heard::Nothing("the sidecar is stopping".to_owned()),
        401 | 403 => Heard::Nothing(format!("answered with status {status}: who asks must show something")),
        status => Heard::Nothing(format!("answered with status {status}, and not as the sidecar does")),
    }
}

fn failed(probe: &str, text: &str) -> Heard {
    let lines: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("[-]")).collect();
    let is_gate = |line: &&&str| GATES.iter().any(|gate| line.split(' ').next() == Some(*gate));
    let checks: Vec<&&str> = lines.iter().filter(|line| probe == "livez" || !is_gate(line)).collect();
    match (checks.as_slice(), lines.first()) {
        ([], gate) => Heard::Nothing(plain(gate.unwrap_or(&"it does not say why"))),
        ([first], _) => Heard::Failed(plain(first)),
        ([first, more @ ..], _) => Heard::Failed(format!("{}; and {} more", plain(first), more.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOWN: &str = "[+]loop ok\n[+]started ok\n[-]service_up failed: bad 4m12s\n[ ]deploy_drift failed (info): bad\n\
                        readyz check failed\n";

    #[test]
    fn only_what_the_sidecar_says_of_the_host_is_a_verdict() {
        let failed = |text: &str| Heard::Failed(text.to_owned());
        for (status, text, heard) in [
            (200, "ok\n", Heard::Well),
            (200, "[+]loop ok\nreadyz check passed\n", Heard::Well),
            (503, DOWN, failed("service_up failed: bad 4m12s")),
            (
                503,
                "[-]a failed: reason withheld\n[-]b\u{1b} failed: x\nreadyz check failed\n",
                failed("a failed: reason withheld; and 1 more"),
            ),
            (503, "[-]started failed: not yet\n[-]a failed: x\nreadyz check failed\n", failed("a failed: x")),
        ] {
            assert_eq!(read("readyz", status, text), heard, "{status} {text}");
        }
        for (status, text) in [
            (200, "<!doctype html>"),
            (200, ""),
            (200, "livez check passed\n"),
            (204, ""),
            (302, ""),
            (401, "unauthorized"),
            (403, ""),
            (404, "not found"),
            (429, "too many requests"),
            (500, DOWN),
            (502, ""),
            (503, ""),
            (503, "upstream connect error"),
            (503, "livez check failed\n"),
            (503, "[-]started failed: not every collector has seen something\nreadyz check failed\n"),
            (503, "[-]loop failed: the sidecar's own loop has stopped\nreadyz check failed\n"),
            (503, "the sidecar is stopping\n"),
        ] {
            assert!(matches!(read("readyz", status, text), Heard::Nothing(_)), "{status} {text}");
        }
        let stopped = "[-]loop failed: it has stopped\nlivez check failed\n";
        assert_eq!(read("livez", 503, stopped), failed("loop failed: it has stopped"));
    }

    #[test]
    fn unreachable_ok_forgives_all_but_a_verdict() {
        for (heard, fail, ok) in [
            (Heard::Well, true, true),
            (Heard::Failed("x".into()), false, false),
            (Heard::Nothing("x".into()), false, true),
        ] {
            assert_eq!(found("u", heard.clone(), Unreachable::Fail).well, fail);
            assert_eq!(found("u", heard, Unreachable::Ok).well, ok);
        }
    }
}
