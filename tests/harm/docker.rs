//! Docker: all that a real engine is ever asked. That no model is called through a real LiteLLM is held by the suite
//! (`gateway::a_real_litellm_is_watched_without_calling_a_model`), which counts what arrives behind it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use regex_lite::Regex;
use serde_json::{Value, json};

use crate::api::Api;
use crate::between::Between;
use crate::dockerd::{AGENT, Engine};
use crate::figures::Figures;
use crate::fixture::Root;
use crate::program::{Program, up};
use crate::{is_long, skipped};

/// All that is asked: which containers there are, and one of them more closely.
const PATHS: [&str; 2] = ["/containers/json", "/containers/{id}/json"];
const PROXY: &str = include_str!("../../deploy/compose/docker-proxy.cfg");

/// The path of a question as it stands among those that may be asked, and whether it has a query.
fn shape(target: &str) -> String {
    let path = target.split('?').next().unwrap();
    let parts: Vec<&str> = path.split('/').collect();
    match parts[..] {
        ["", "containers", id, "json"] if id.bytes().all(|byte| byte.is_ascii_hexdigit()) => PATHS[1].to_owned(),
        _ => path.to_owned(),
    }
}

fn row(status: &Value, name: &str) -> Value {
    let rows = status["containers"]["containers"].as_array();
    rows.and_then(|rows| rows.iter().find(|row| row["name"] == name).cloned()).unwrap_or_default()
}

#[test]
fn an_engine_is_asked_two_questions_and_nothing_else() {
    let engine = match Engine::start() {
        Ok(engine) => engine,
        Err(why) => return skipped("all that a Docker engine is asked", &why),
    };
    let asked: Arc<Mutex<BTreeMap<(String, String), usize>>> = Arc::default();
    let heard = asked.clone();
    let between = Between::new(&engine, move |head| {
        let mut words = head.lines().next().unwrap().split(' ').map(str::to_owned);
        let question = (words.next().unwrap(), shape(&words.next().unwrap()));
        *heard.lock().unwrap().entry(question).or_default() += 1;
        Duration::ZERO
    });
    let (root, api, folder) = (Root::with_history(Timestamp::now()), Api::healthy(), tempfile::tempdir().unwrap());
    api.json("/health/liveliness", json!("I'm alive!"));
    api.json("/health/readiness", json!({"status": "healthy", "db": "connected"}));
    let config = folder.path().join("exporter.toml");
    let text = format!(
        "[host]\nurl = \"{url}\"\n[docker]\nsocket = \"{}\"\n[collect.containers]\ninterval = \"1s\"\n\
         names = [\"nanoclaw-{{group}}-{{epoch}}\"]\n[collect.mcp]\ninterval = \"1s\"\n\
         [collect.workers]\ninterval = \"1s\"\npresets = [\"nanoclaw\"]\n\
         [collect.gateway]\ninterval = \"1s\"\nkind = \"litellm\"\nurl = \"{url}\"\n\
         containers = {{ gateway = \"pynchy-litellm\", postgres = \"pynchy-litellm-db\" }}\n",
        between.socket().display(),
        url = api.url,
    );
    std::fs::write(&config, text).unwrap();
    let program = Program::start(std::process::Command::new("env"), root.path(), &config);
    program
        .until("it sees that there is none", |status| up(status, "containers") && status["containers"]["total"] == 0);
    let rounds = if is_long() { 5 } else { 1 };
    for _ in 0..rounds {
        let nanoclaw = "nanoclaw-main-1795307730123";
        for (name, image) in [
            ("pynchy-family", AGENT),
            (nanoclaw, AGENT),
            ("pynchy-litellm", "litellm:test"),
            ("pynchy-litellm-db", "web:test"),
            ("pynchy-mcp-web", "web:test"),
            ("somebody-elses", "web:test"),
        ] {
            engine.sleeper(name, image);
        }
        program.until("all run", |status| {
            let runs = |name: &str| row(status, name)["state"] == "running";
            let gateway = &status["gateway"];
            runs("pynchy-family")
                && runs(nanoclaw)
                && status["mcp"]["web"]["connected"] == true
                && gateway["litellm_container"] == "running"
                && gateway["postgres_container"] == "running"
                && status["workers"]["processes"].to_string().contains(nanoclaw)
        });
        engine.docker("pause pynchy-family");
        program.until("paused", |status| row(status, "pynchy-family")["state"] == "paused");
        engine.docker("unpause pynchy-family");
        engine.docker("kill pynchy-litellm");
        program.until("killed", |status| status["gateway"]["litellm_container"] == "exited");
        engine.docker(&format!(
            "rm -f pynchy-family {nanoclaw} pynchy-litellm pynchy-litellm-db pynchy-mcp-web somebody-elses"
        ));
        program.until("gone", |status| {
            status["containers"]["total"] == 0 && status["gateway"]["litellm_container"] == "not_found"
        });
    }
    assert!(program.terminate().success());

    let asked = asked.lock().unwrap().clone();
    let mut figures =
        Figures::of("Docker: all that a real engine was asked while containers of every kind came and went");
    for ((method, path), times) in &asked {
        figures.say(format!("{method} {path}"), times);
    }
    let expected = PATHS.map(|path| ("GET".to_owned(), path.to_owned()));
    assert_eq!(asked.keys().cloned().collect::<Vec<_>>(), expected);
}

/// The proxy that we ship lets through what is asked, and by GET alone.
#[test]
fn the_proxy_lets_the_same_two_questions_through() {
    let rules: Vec<&str> = PROXY.lines().map(str::trim).filter(|line| line.starts_with("http-request")).collect();
    let [method, path] = rules[..] else { panic!("{rules:?}") };
    assert_eq!(method, "http-request deny unless METH_GET");
    let path = path.strip_prefix("http-request deny unless { path -m reg ").and_then(|rest| rest.strip_suffix(" }"));
    let allowed = Regex::new(path.unwrap()).unwrap();
    for path in PATHS {
        assert!(allowed.is_match(&path.replace("{id}", "0a1b2c3d4e5f")), "{path}");
    }
    for other in
        ["/containers/x/logs", "/containers/x/stats", "/containers/x/archive", "/events", "/info", "/images/json"]
    {
        assert!(!allowed.is_match(other), "{other} is let through, and never asked for");
    }
}
