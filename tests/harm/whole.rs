//! The whole program beside a host that has everything, as the kernel sees it: what it opens, whom it signals, where it connects.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::json;

use crate::api::Api;
use crate::fake_docker::{Fake, container};
use crate::figures::Figures;
use crate::fixture::Root;
use crate::program::{PATIENCE, Program};
use crate::strace::{self, Trace};
use crate::{is_long, skipped};

/// Everything looks each second; its own state is elsewhere.
fn config(root: &Path, api: &Api, engine: &Fake, state: &Path) -> String {
    let apart = ["workers", "gateway"];
    let paced = agenthost_exporter::collect::ALL.iter().filter(|one| !one.listed && !apart.contains(&one.name));
    let paced: String = paced.map(|one| format!("[collect.{}]\ninterval = \"1s\"\n", one.name)).collect();
    let (url, root) = (&api.url, root.display());
    format!(
        "[host]\nurl = \"{url}\"\n[state]\npath = \"{}/state.db\"\n[docker]\nsocket = \"{}\"\n{paced}\
         [collect.gateway]\ninterval = \"1s\"\nkind = \"litellm\"\nurl = \"{url}\"\n\
         containers = {{ gateway = \"pynchy-litellm\" }}\n\
         [collect.workers]\ninterval = \"1s\"\npresets = [\"pi\", \"mcp\", \"nanoclaw\"]\n\
         [[collect.http]]\nname = \"own\"\ninterval = \"1s\"\nurl = \"{url}/status\"\n\
         values = {{ running = \"/queue/active_containers\" }}\n\
         [[collect.heartbeat]]\nname = \"data\"\npath = \"{root}/data/heartbeat\"\nmax_age = \"1h\"\n\
         [[collect.sql]]\nname = \"groups\"\ninterval = \"1s\"\ndatabase = \"{root}/data/messages.db\"\n\
         query = \"SELECT count(*) AS registered FROM registered_groups\"\n",
        state.display(),
        engine.socket().display(),
    )
}

/// Waits until it has looked so often at the host's database.
fn looks(program: &Program, times: usize) {
    let (begun, mut seen) = (Instant::now(), BTreeSet::new());
    while seen.len() < times {
        seen.insert(program.status()["collectors"]["groups"]["last_success_at"].to_string());
        assert!(begun.elapsed() < PATIENCE * 5, "{} looks: {}", seen.len(), program.said());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn is_ours(rest: &str, state: &Path) -> bool {
    rest.contains(&*state.to_string_lossy()) || rest.contains("\"/dev/null\"")
}

#[test]
fn the_program_writes_nothing_of_the_host_signals_nobody_and_connects_where_it_was_told() {
    if let Some(why) = Trace::is_possible() {
        return skipped("what the program does to its host", &why);
    }
    let mut figures = Figures::of("the program, everything on, each collector each second, under strace");
    let (api, engine) = (
        Api::healthy(),
        Fake::with(vec![
            container("pynchy-litellm", "litellm:1", json!({})),
            container("pynchy-family", "pynchy-agent:latest", json!({})),
            container("nanoclaw-main-1795307730123", "agent:1", json!({})),
        ]),
    );
    api.json("/health/liveliness", json!("I'm alive!"));
    api.json("/health/readiness", json!({"status": "healthy", "db": "connected"}));
    for mode in ["delete", "wal"] {
        let root = Root::with_history(Timestamp::now()).with_repos();
        let host = Connection::open(root.database()).unwrap();
        host.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(())).unwrap();
        host.execute_batch("UPDATE sessions SET session_id = 'new' WHERE group_folder = 'admin-1'").unwrap();
        let own = tempfile::tempdir().unwrap();
        let file = own.path().join("exporter.toml");
        std::fs::write(&file, config(root.path(), &api, &engine, own.path())).unwrap();

        let trace = Trace::to(own.path().join("trace"));
        let program = Program::start(trace.all(), root.path(), &file);
        let up = |status: &serde_json::Value| {
            status["collectors"].as_object().unwrap().values().all(|one| one["up"] == true)
        };
        let address = program.address;
        program.until("everything is seen", up);
        looks(&program, if is_long() { 120 } else { 15 });
        program.until("everything is seen still", up);
        assert!(program.terminate().success());

        let log = trace.log();
        let harm = strace::harm(&log, root.path());
        figures.say(format!("{mode}: files of the host opened to be read"), strace::opened(&log, root.path()));
        figures.say(format!("{mode}: ... to be written, made, renamed, removed, or changed otherwise"), harm.len());
        assert!(harm.is_empty(), "{harm:#?}");
        assert!(strace::opened(&log, root.path()) > 500, "nothing was seen of it");
        let elsewhere: Vec<_> =
            strace::calls(&log).filter(|call| call.would_write() && !is_ours(call.rest, own.path())).collect();
        figures.say(format!("{mode}: files elsewhere, but its own, to be written or changed"), elsewhere.len());
        assert!(elsewhere.is_empty(), "{elsewhere:#?}");
        let reached = strace::reached_out(&log);
        figures.say(format!("{mode}: processes that were signalled, traced, limited or begun"), reached.len());
        assert!(reached.is_empty(), "{reached:#?}");

        let told = [api.url.trim_start_matches("http://").to_owned(), engine.socket().display().to_string()];
        let told: BTreeSet<String> = told.into();
        let connected = strace::connected(&log);
        figures.say(format!("{mode}: connected to, of {} addresses that it was told", told.len()), connected.len());
        assert_eq!(connected, told);
        let bound: BTreeSet<_> = strace::calls(&log).filter(|call| call.name == "bind").map(|call| call.rest).collect();
        assert!(bound.len() == 1 && bound.iter().all(|rest| rest.contains("127.0.0.1")), "{address}: {bound:?}");
        drop(host);
    }
}
