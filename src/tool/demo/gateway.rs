//! The LLM gateway of a demo host: as much of LiteLLM as an observer asks for. Its database goes and comes back by the clock.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::SignedDuration;

use crate::sample::Now;

/// Its configuration, in the root; it checks its models by itself, so asking for their health calls none.
pub const CONFIG: &str = "litellm.yaml";
pub const YAML: &str = "# A demo: no model is behind it.\ngeneral_settings:\n  background_health_checks: true\n";
/// A file in the root with a key for the sidecar.
pub const KEY_FILE: &str = "gateway.key";
pub const KEY: &str = "sk-demo";

/// How long its database is there, from the start of the host on.
pub const CONNECTED: SignedDuration = SignedDuration::from_mins(5);
/// How long it is gone then: longer than the two minutes after which that is a failure.
pub const GONE: SignedDuration = SignedDuration::from_mins(3);

const MODELS: &str = r#"{"object": "list", "data": [{"id": "fast"}, {"id": "thorough"}, {"id": "local"}]}"#;
const NAMES: &str = r#"{"data": [
    {"model_name": "fast", "model_info": {"id": "a1"}}, {"model_name": "thorough", "model_info": {"id": "b2"}},
    {"model_name": "local", "model_info": {"id": "c3"}}]}"#;
/// The one on this machine is never well.
const HEALTH: &str = r#"{"healthy_count": 2, "unhealthy_count": 1,
    "healthy_endpoints": [{"model": "openai/fast", "model_id": "a1"}, {"model": "anthropic/thorough", "model_id": "b2"}],
    "unhealthy_endpoints": [{"model": "ollama/local", "model_id": "c3", "exception_status": 500}]}"#;

/// Whether its database is there, so long after the start.
fn is_connected(since_start: SignedDuration) -> bool {
    let turn = (CONNECTED + GONE).as_millis();
    since_start.is_negative() || since_start.as_millis() % turn < CONNECTED.as_millis()
}

/// Writes what the sidecar and the host find of it in the root.
///
/// # Errors
/// A file cannot be written.
pub fn make(root: &Path) -> Result<()> {
    super::write(&root.join(CONFIG), YAML)?;
    super::write(&root.join(KEY_FILE), KEY)
}

/// Serves on a thread of its own, which ends with the process.
///
/// # Errors
/// The port is taken.
pub fn serve(port: u16, started: Now) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).with_context(|| format!("listen on port {port}"))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // Whoever goes away is its own business.
            drop(converse(stream, started));
        }
    });
    Ok(())
}

fn converse(mut stream: TcpStream, started: Now) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < 16 * 1024 {
        match stream.read(&mut part)? {
            0 => return Ok(()),
            length => head.extend_from_slice(&part[..length]),
        }
    }
    let (status, body) = answer(&String::from_utf8_lossy(&head), Now::read().wall.duration_since(started.wall));
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all((head + body).as_bytes())
}

fn answer(head: &str, since_start: SignedDuration) -> (&'static str, &'static str) {
    let path = head.split(' ').nth(1).unwrap_or("");
    let has_key = head.to_ascii_lowercase().contains(&format!("authorization: bearer {KEY}\r\n"));
    match (path, is_connected(since_start), has_key) {
        ("/health/liveliness", ..) => ("200 OK", "\"I'm alive!\""),
        ("/health/readiness", true, _) => ("200 OK", r#"{"status": "healthy", "db": "connected"}"#),
        ("/health/readiness", false, _) => ("503 X", r#"{"status": "healthy", "db": "disconnected"}"#),
        ("/v1/models", _, true) => ("200 OK", MODELS),
        ("/model/info", _, true) => ("200 OK", NAMES),
        ("/health", _, true) => ("200 OK", HEALTH),
        ("/v1/models" | "/model/info" | "/health", ..) => ("401 X", r#"{"error": {"type": "auth_error"}}"#),
        _ => ("404 X", r#"{"detail": "Not Found"}"#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_database_is_there_for_five_minutes_then_gone_for_three() {
        for (seconds, connected) in [(-1, true), (0, true), (299, true), (300, false), (479, false), (480, true)] {
            assert_eq!(is_connected(SignedDuration::from_secs(seconds)), connected, "{seconds} s");
        }
    }

    #[test]
    fn models_are_told_to_whoever_has_the_key() {
        let ask = |path: &str, key: &str| {
            answer(&format!("GET {path} HTTP/1.1\r\nAuthorization: Bearer {key}\r\n\r\n"), SignedDuration::ZERO)
        };
        for path in ["/v1/models", "/model/info", "/health"] {
            assert_eq!((ask(path, KEY).0, ask(path, "other").0), ("200 OK", "401 X"));
            serde_json::from_str::<serde_json::Value>(ask(path, KEY).1).unwrap();
        }
        assert_eq!(ask("/health/readiness", "").0, "200 OK");
        assert_eq!(answer("GET /health/readiness HTTP/1.1\r\n\r\n", CONNECTED).0, "503 X");
        assert_eq!(ask("/metrics", KEY).0, "404 X");
    }
}
