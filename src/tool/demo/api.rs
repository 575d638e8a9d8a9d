//! The HTTP API of a demo host: `/health` and `/status` as pynchy gives them, `/api/metrics` as pi-web does, everything else is
//! not found.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::channels;
use super::queue::Queue;
use super::stamp::precise;
use crate::sample::Now;
use crate::source::sqlite::{Database, Row};

/// What the API knows of its host.
#[derive(Debug)]
pub struct Api {
    pub database: PathBuf,
    pub started: Now,
    /// The commit of the host's own repository; none without git.
    pub head: Option<String>,
    /// Kept up by the writer.
    pub queue: Arc<Mutex<Queue>>,
    /// The pids of the workers that the host knows of.
    pub workers: Vec<u32>,
}

/// Serves until `end` is there; then what is still open is dropped.
pub async fn serve<E>(listener: TcpListener, api: Arc<Api>, end: impl Future<Output = E>) -> E {
    tokio::pin!(end);
    loop {
        tokio::select! {
            end = &mut end => return end,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(tokio::spawn(converse(stream, api.clone()))),
                // Out of file descriptors, say: the next try is soon enough.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
        }
    }
}

async fn converse(stream: TcpStream, api: Arc<Api>) {
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let response = api.respond(request.method(), request.uri().path(), Now::read());
        async move { Ok::<_, std::convert::Infallible>(response) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    // A client that goes away is its own business.
    drop(connection.await);
}

impl Api {
    fn respond(&self, method: &Method, path: &str, now: Now) -> Response<Full<Bytes>> {
        match (method, path) {
            (&Method::GET, "/api/metrics") => json_response(&self.workers(now)),
            (&Method::GET, "/health") => json_response(&self.health(now)),
            (&Method::GET, "/status") => match self.status(now) {
                Ok(status) => json_response(&status),
                Err(_) => text_response(StatusCode::INTERNAL_SERVER_ERROR, "500 Internal Server Error"),
            },
            _ => text_response(StatusCode::NOT_FOUND, "404: Not Found"),
        }
    }

    /// As pi-web lists its own.
    fn workers(&self, now: Now) -> Value {
        let uptime = self.uptime(now);
        let one = |pid: &u32| json!({"pid": pid, "state": "idle", "uptime_s": uptime, "idle_for_s": uptime});
        json!({"process": {"pid": std::process::id()}, "workers": self.workers.iter().map(one).collect::<Vec<_>>()})
    }

    fn uptime(&self, now: Now) -> u64 {
        now.mono.saturating_sub(self.started.mono).as_secs()
    }

    fn channels(&self, now: Now) -> BTreeMap<&'static str, bool> {
        let elapsed = now.wall.duration_since(self.started.wall);
        channels::ALL.into_iter().map(|channel| (channel, channels::is_connected(channel, elapsed))).collect()
    }

    /// `unknown` is what pynchy says where git told it nothing.
    fn head(&self) -> (&str, &str) {
        self.head.as_deref().map_or(("unknown", "unknown"), |head| (head, "Begin"))
    }

    fn health(&self, now: Now) -> Value {
        let (sha, subject) = self.head();
        json!({
            "status": "ok",
            "uptime_seconds": self.uptime(now),
            "head_sha": sha,
            "head_commit": subject,
            "dirty": false,
            "channels_connected": self.channels(now).into_values().any(|connected| connected),
        })
    }

    /// The sections of a real answer that this host can fill; it looks at no container and no model.
    fn status(&self, now: Now) -> Result<Value> {
        let (sha, subject) = self.head();
        let database = Database::new(&self.database).open()?;
        let deploy = "SELECT (SELECT value FROM router_state WHERE key = 'last_deploy_at'), \
                      (SELECT value FROM router_state WHERE key = 'last_deploy_sha')";
        let (deployed_at, deployed) = database.row(deploy, [], |row| Ok((text(row, 0)?, text(row, 1)?)))?;
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(json!({
            "service": {"status": "ok", "started_at": precise(self.started.wall), "uptime_seconds": self.uptime(now)},
            "deploy": {
                "head_sha": sha, "head_commit": subject, "dirty": false, "unpushed_commits": 0,
                "last_deploy_at": deployed_at, "last_deploy_sha": deployed,
            },
            "channels": self.channels(now),
            "gateway": {
                "mode": "litellm", "litellm_container": "not_found", "postgres_container": "not_found",
                "healthy_models": 2, "unhealthy_models": 1,
            },
            "queue": queue,
            "messages": database.row(MESSAGES, [], messages)?,
            "groups": database.row(GROUPS, [], groups)?,
        }))
    }
}

const MESSAGES: &str = "SELECT (SELECT count(*) FROM messages WHERE is_from_me = 0), \
    (SELECT count(*) FROM outbound_ledger), (SELECT max(timestamp) FROM messages WHERE is_from_me = 0), \
    (SELECT max(delivered_at) FROM outbound_deliveries), \
    (SELECT count(*) FROM outbound_deliveries WHERE delivered_at IS NULL)";

fn messages(row: &Row<'_>) -> rusqlite::Result<Value> {
    Ok(json!({
        "total_inbound": row.get::<_, i64>(0)?,
        "total_outbound": row.get::<_, i64>(1)?,
        "last_received_at": text(row, 2)?,
        "last_sent_at": text(row, 3)?,
        "pending_deliveries": row.get::<_, i64>(4)?,
    }))
}

const GROUPS: &str = "SELECT (SELECT count(*) FROM registered_groups), \
    (SELECT count(*) FROM registered_groups JOIN sessions ON folder = group_folder)";

fn groups(row: &Row<'_>) -> rusqlite::Result<Value> {
    Ok(json!({"total": row.get::<_, i64>(0)?, "active_sessions": row.get::<_, i64>(1)?}))
}

fn text(row: &Row<'_>, index: usize) -> rusqlite::Result<Option<String>> {
    row.get(index)
}

fn json_response(body: &Value) -> Response<Full<Bytes>> {
    response(StatusCode::OK, "application/json; charset=utf-8", body.to_string().into())
}

fn text_response(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", body.into())
}

fn response(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let built = Response::builder().status(status).header(CONTENT_TYPE, kind).body(Full::new(body));
    built.expect("the header is a literal")
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use rusqlite::Connection;

    use super::super::life::Life;
    use super::*;

    fn now() -> Now {
        Now { mono: Duration::from_secs(50), wall: "2026-11-21T19:25:53.282664Z".parse().unwrap() }
    }

    fn api(database: PathBuf) -> Api {
        let mut db = Connection::open(&database).unwrap();
        let life = Life::begin(&mut db, now().wall, "c0ffee").unwrap();
        Api { database, started: now(), head: None, queue: Arc::new(Mutex::new(life.queue())), workers: vec![7] }
    }

    #[test]
    fn the_answers_have_the_hosts_shape_and_follow_the_clock() {
        let folder = tempfile::tempdir().unwrap();
        let api = api(folder.path().join("messages.db"));
        let later = now().plus(Duration::from_secs(200));
        let status = api.status(later).unwrap();
        assert_eq!(status["channels"], json!({"connection.slack.acme": false, "connection.whatsapp.personal": true}));
        assert_eq!(api.status(now()).unwrap()["channels"]["connection.slack.acme"], json!(true));
        assert_eq!(
            status["service"],
            json!({"status": "ok", "started_at": "2026-11-21T19:25:53.282664+00:00", "uptime_seconds": 200})
        );
        assert_eq!(status["queue"]["max_concurrent"], json!(4));
        assert_eq!(status["queue"]["per_group"]["webapp"]["active"], json!(true));
        assert_eq!(status["groups"], json!({"total": 5, "active_sessions": 4}));
        assert_eq!(status["deploy"]["last_deploy_sha"], json!("c0ffee"));
        let health = api.health(later);
        assert_eq!((&health["channels_connected"], &health["head_sha"]), (&json!(true), &json!("unknown")));
        assert!(later.wall.duration_since(now().wall) == SignedDuration::from_secs(200));
        let workers = api.workers(later);
        assert_eq!(workers["process"]["pid"], std::process::id());
        assert_eq!(workers["workers"][0], json!({"pid": 7, "state": "idle", "uptime_s": 200, "idle_for_s": 200}));
    }

    #[test]
    fn a_database_that_is_gone_is_a_500_and_other_paths_are_404() {
        let folder = tempfile::tempdir().unwrap();
        let api = api(folder.path().join("messages.db"));
        let code = |api: &Api, method: &Method, path: &str| api.respond(method, path, now()).status().as_u16();
        assert_eq!(code(&api, &Method::GET, "/status"), 200);
        assert_eq!(code(&api, &Method::GET, "/metrics"), 404);
        assert_eq!(code(&api, &Method::POST, "/health"), 404);
        std::fs::remove_file(&api.database).unwrap();
        assert_eq!(code(&api, &Method::GET, "/status"), 500);
        assert_eq!(code(&api, &Method::GET, "/health"), 200);
    }
}
