//! A host whose API lies and hangs: what does not come from it stays fresh, what does is unknown, and nobody waits for it.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Api, Say};
use crate::binary::{Sidecar, error, get, up};
use crate::fixture::Root;

/// A sidecar beside a healthy host.
fn watched(api: &Api, extra: &str) -> (Root, Sidecar) {
    let root = Root::with_history(Timestamp::now());
    let sidecar = Sidecar::start(root.path(), &format!("{extra}[host]\nurl = \"{}\"\n", api.url));
    (root, sidecar)
}

/// What hears of the host without its API.
pub const OTHERS: [&str; 6] = ["messages", "usage", "tasks", "host_jobs", "groups", "exporter"];

pub fn successes(status: &Value) -> Vec<Value> {
    OTHERS.map(|name| status["collectors"][name]["last_success_at"].clone()).into()
}

#[test]
fn a_host_that_lies_or_hangs_makes_its_own_word_unknown_and_nothing_else() {
    let api = Api::healthy();
    let (_root, sidecar) = watched(&api, "[collect.exporter]\ninterval = \"1s\"\n");
    let healthy = sidecar.until("ready", |status| status["health"]["ready"] == true && status["queue"].is_object());
    assert_eq!(healthy["channels"]["connection.slack.acme"]["connected"], true);
    assert_eq!(healthy["queue"]["active_containers"], 1);
    let two = json!({"connection.slack.acme": true, "connection.whatsapp.personal": true});
    let good = json!({"channels": two, "queue": healthy["queue"]});
    for (say, reason) in [
        (Say::Status(500), "answered with status 500"),
        (Say::Status(401), "answered with status 401: it wants a token; name its file with `token_file` in [host]"),
        (Say::Html("<html>".into()), "answered with status 200 and HTML instead of JSON"),
        (Say::Flood(50), "the answer is too large"),
        (Say::Json("{\"channels\": {\"secret".into()), "answered with status 200 and invalid JSON (line 1 column 21)"),
        (
            Say::Json("{\"channels\": [], \"queue\": []}".into()),
            "answered with status 200 and JSON of another shape (line 1 column 13)",
        ),
        (
            Say::Redirect("http://127.0.0.2:1/status"),
            "answered with status 302, a redirect to another host, which is not followed",
        ),
        (Say::Hang, "timed out"),
    ] {
        api.say("/status", say.clone());
        // In an answer of another shape both stumble at another place.
        let begin = reason.split(" (").next().unwrap();
        let named = |status: &Value| ["channels", "queue"].iter().all(|name| error(status, name).contains(begin));
        let status = sidecar.until(reason, named);
        let whole = format!("ask {}/status: {reason}", api.url);
        let channels = error(&status, "channels");
        let excused = matches!(say, Say::Status(500) | Say::Hang);
        assert_eq!(channels.strip_prefix(&whole), Some(if excused { WHICH } else { "" }));
        let denied = matches!(say, Say::Status(401));
        assert_eq!(status["collectors"]["channels"]["access"] == "denied", denied, "{reason}");
        // All others look again, meanwhile.
        let (before, begun) = (successes(&status), Instant::now());
        let later = sidecar
            .until("all others", |status| successes(status).iter().zip(&before).all(|(now, before)| now != before));
        assert!(begun.elapsed() < Duration::from_secs(5), "{reason}: the others were late");
        assert_eq!(later["service"]["status"], "ok", "{reason}");
        let begun = Instant::now();
        for _ in 0..50 {
            assert_eq!(sidecar.get("/status").0, 200);
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{reason}: requests wait");
        let text = sidecar.get("/status").1 + &sidecar.get("/metrics").1;
        assert!(!text.contains("secret"), "{reason}: {text}");
        api.json("/status", good.clone());
        sidecar.until("well again", |status| up("channels", true)(status) && up("queue", true)(status));
    }
}

/// What `channels` adds while `/health` is well.
const WHICH: &str = "; /health is well and says that a channel is connected, not which";

#[test]
fn a_host_that_refuses_is_named_and_all_others_stay_fresh() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let root = Root::with_history(Timestamp::now());
    let extra = format!("[collect.exporter]\ninterval = \"1s\"\n[host]\nurl = \"http://{closed}\"\n");
    let sidecar = Sidecar::start(root.path(), &extra);
    let refused = format!("ask http://{closed}/status: refused");
    let named = |status: &Value| ["channels", "queue"].iter().all(|name| error(status, name) == refused);
    let status = sidecar.until("refused", |status| named(status) && status["service"]["api"]["error"] == "refused");
    let before = successes(&status);
    let fresh = |status: &Value| successes(status).iter().zip(&before).all(|(now, before)| now != before);
    let later = sidecar.until("all others", fresh);
    assert_eq!((&later["channels"], &later["queue"]), (&Value::Null, &Value::Null));
}

#[test]
fn a_status_page_that_breaks_alone_takes_no_readiness_and_a_host_that_says_nothing_does() {
    let api = Api::healthy();
    // Silence fails after three intervals and a time-out.
    let fast = "[checks.channel_connected]\nunknown_for = \"1s\"\n";
    let (_root, sidecar) = watched(&api, fast);
    let verdict = |status: &Value, subject: &str| {
        let checks = status["health"]["checks"].as_array().unwrap();
        let mut of = checks.iter().filter(|one| one["check"] == "channel_connected" && one["subject"] == subject);
        of.next().map(|one| one["state"].as_str().unwrap().to_owned())
    };
    sidecar.until("ready", |status| status["health"]["ready"] == true && status["channels"].is_object());
    api.say("/status", Say::Status(500));
    let status = sidecar.until("broken", |status| error(status, "channels").ends_with(WHICH));
    let begun = Instant::now();
    let mut last = status;
    while begun.elapsed() < Duration::from_secs(16) {
        last = sidecar.until("any", |_| true);
        assert_eq!(last["health"]["ready"], true, "{:#}", last["health"]);
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(last["health"]["overall"], "degraded");
    assert_eq!(verdict(&last, "connection.slack.acme").as_deref(), Some("unknown"));
    assert!(sidecar.get("/readyz?verbose").1.contains("[+]channel_connected connection.slack.acme ok: excused "));
    // None at all is connected: that is known, and an outage.
    api.json("/health", json!({"status": "ok", "uptime_seconds": 7, "channels_connected": false}));
    let lost = |status: &Value| status["channels"]["connection.slack.acme"]["connected"] == false;
    let status = sidecar.until("lost", lost);
    assert_eq!(status["channels"]["connection.slack.acme"]["source"], "/health");
    // And one that says nothing of itself at all is silent.
    api.json("/health", json!({"status": "ok", "uptime_seconds": 7, "channels_connected": true}));
    sidecar.until("told", |status| error(status, "channels").ends_with(WHICH));
    api.say("/health", Say::Status(500));
    sidecar.until_patiently("unready", |status| status["health"]["ready"] == false);
    // It is well again but for the page: nothing is known of any channel yet.
    api.json("/health", json!({"status": "ok", "uptime_seconds": 7, "channels_connected": true}));
    let status = sidecar.until("excused", |status| error(status, "channels").ends_with(WHICH));
    assert_eq!(status["health"]["ready"], false, "{:#}", status["health"]);
    assert_eq!(verdict(&status, "connection.slack.acme").as_deref(), Some("failed"));
}

#[test]
fn what_a_silent_host_last_said_leaves_and_is_never_zero() {
    let api = Api::healthy();
    let fast = "[checks.channel_connected]\nunknown_for = \"1s\"\n";
    let (_root, sidecar) = watched(&api, fast);
    let metrics = || sidecar.get("/metrics").1;
    sidecar.until("queue", |status| status["queue"].is_object() && status["channels"].is_object());
    assert!(metrics().contains("agenthost_queue_active_containers 1\n"));
    assert!(metrics().contains("agenthost_channel_connected{channel=\"connection.slack.acme\"} 1\n"));
    api.say("/status", Say::Hang);
    let gone = |status: &Value| status["queue"].is_null() && status["channels"].is_null();
    sidecar.until_patiently("forgotten", gone);
    let text = metrics();
    assert!(!text.contains("agenthost_queue_active_containers") && !text.contains("agenthost_channel_connected"));
    assert!(text.contains("agenthost_collector_up{collector=\"queue\"} 0\n"), "{text}");
    assert!(text.contains("agenthost_inbound_unprocessed{"), "the database was not silent");
}

#[test]
fn with_litellm_in_front_the_status_is_asked_for_only_if_somebody_said_so() {
    let litellm = "[server]\nport = 1\n[gateway]\nlitellm_config = \"litellm.yaml\"\n";
    let started = |checks: &str, extra: &str| {
        let (root, api) = (Root::with_history(Timestamp::now()), Api::healthy());
        std::fs::write(root.path().join("config.toml"), litellm).unwrap();
        std::fs::write(root.path().join("litellm.yaml"), checks).unwrap();
        let config = root.path().join("x.toml");
        std::fs::write(&config, format!("[host]\nurl = \"{}\"\n{extra}", api.url)).unwrap();
        let sidecar = Sidecar::start_as_is(root.path(), &config);
        let status = sidecar.until("channels", up("channels", true));
        (status, api)
    };
    let background = "general_settings:\n  background_health_checks: true\n";
    let (status, api) = started("model_list: []\n", "");
    assert_eq!(status["channels"].as_object().unwrap().keys().collect::<Vec<_>>(), ["any"]);
    assert_eq!((status["channels"]["any"]["connected"].clone(), status.get("queue")), (json!(true), None));
    let note = status["sidecar"]["host"]["notes"][0].as_str().unwrap();
    assert!(note.contains("billed") && note.contains("status_poll = \"60s\""), "{note}");
    assert_eq!((api.asked("/status"), api.asked("/health")), (0, 1), "health is asked once for both who want it");
    for (checks, extra) in [
        (background, ""),
        ("", "status_poll = \"30s\"\n"),
        ("", "[collect.channels]\ninterval = \"30s\"\n"),
        ("", "[collect.queue]\ninterval = \"30s\"\n"),
    ] {
        let (status, api) = started(checks, extra);
        assert_eq!(status["channels"].as_object().unwrap().len(), 2, "{extra}");
        assert_eq!(status["sidecar"]["host"]["notes"], json!([]), "{extra}");
        let interval = if extra.is_empty() { 60.0 } else { 30.0 };
        assert_eq!(status["collectors"]["channels"]["interval_seconds"], interval, "{extra}");
        assert_eq!(status["collectors"]["queue"]["interval_seconds"], interval, "{extra}");
        assert_eq!(api.asked("/status"), 1, "{extra}: once for both");
    }
    let (status, api) = started(background, "status_poll = \"never\"\n");
    assert_eq!((status["channels"]["any"]["connected"].clone(), api.asked("/status")), (json!(true), 0));
    let note = status["sidecar"]["host"]["notes"][0].as_str().unwrap();
    assert!(note.ends_with("`status_poll = \"never\"` in [host] says so"), "{note}");
}

#[test]
fn no_model_fails_by_one_cycle_of_the_checks_that_litellm_makes_and_a_new_pace_is_taken_in() {
    let root = Root::with_history(Timestamp::now());
    let write = |name: &str, text: &str| std::fs::write(root.path().join(name), text).unwrap();
    write("config.toml", "[server]\nport = 1\n[gateway]\nlitellm_config = \"litellm.yaml\"\n");
    let pace = |seconds: u32| write("litellm.yaml", &format!("general_settings: {{health_check_interval: {seconds}}}"));
    pace(1800);
    let sidecar = Sidecar::start(root.path(), "");
    let fail_for = |seconds: u32| format!("agenthost_check_fail_for_seconds{{check=\"gateway_models\"}} {seconds}\n");
    assert!(sidecar.get("/metrics").1.contains(&fail_for(3660)));
    pace(300);
    sidecar.until_patiently("11 minutes", |_| sidecar.get("/metrics").1.contains(&fail_for(660)));
}

/// The probes of a host that hangs are as quick as those of one that does not.
#[test]
fn probes_do_not_wait_for_a_host_that_hangs() {
    let api = Api::healthy();
    for path in ["/status", "/health"] {
        api.say(path, Say::Hang);
    }
    let (_root, sidecar) = watched(&api, "");
    for path in ["/livez", "/readyz", "/metrics", "/status", "/"] {
        let begun = Instant::now();
        get(sidecar.address, path).unwrap();
        assert!(begun.elapsed() < Duration::from_secs(1), "{path}: {:?}", begun.elapsed());
    }
}

/// A sidecar beside a host of another kind, which has no folder.
fn beside(profile: &str, api: &Api, extra: &str) -> (tempfile::TempDir, Sidecar) {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("exporter.toml");
    let fast = "[collect.service]\ninterval = \"1s\"\n[collect.channels]\ninterval = \"1s\"\n";
    let host = format!("[host]\nprofile = \"{profile}\"\nurl = \"{}\"\nprocess = \"no such process\"\n", api.url);
    std::fs::write(&config, format!("{host}{extra}{fast}")).unwrap();
    let sidecar = Sidecar::spawn(&config, []);
    (folder, sidecar)
}

#[test]
fn a_netclaw_that_wants_a_token_is_denied_and_not_down() {
    let api = Api::new();
    api.json("/api/health/ready", json!("healthy"));
    api.say("/api/health/status", Say::Status(401));
    let secrets = tempfile::tempdir().unwrap();
    let token = secrets.path().join("token");
    std::fs::write(&token, "sk-old-secret\n").unwrap();
    let (_folder, sidecar) = beside("netclaw", &api, &format!("token_file = \"{}\"\n", token.display()));
    let status = sidecar.until("denied", |status| status["collectors"]["channels"]["access"] == "denied");
    let said = error(&status, "channels");
    assert!(said.ends_with(&format!("status 401: it does not take the token in {}", token.display())), "{said}");
    let status = sidecar.until("service", up("service", true));
    assert_eq!(
        (status["service"]["status"].as_str(), status["service"]["health"]["status"].as_str()),
        (Some("ok"), Some("healthy"))
    );
    let ready = |status: &Value| status["health"]["ready"] == true && status["health"]["overall"] == "degraded";
    let status = sidecar.until("ready and degraded", ready);
    assert_eq!((status["channels"].clone(), status["sidecar"]["host"]["root"].clone()), (Value::Null, Value::Null));
    for absent in ["queue", "messages", "repos", "deploy", "tasks"] {
        assert_eq!(status.get(absent), None, "{absent} is not of this kind of host");
    }
    // Another token, and it is told.
    std::fs::write(&token, "sk-new-secret\n").unwrap();
    api.json(
        "/api/health/status",
        json!({"overall": "degraded", "connectors": [
            {"key": "discord", "displayName": "Discord", "enabled": true, "status": "disconnected", "message": "a secret"},
            {"key": "slack", "displayName": "Slack", "enabled": true, "status": "healthy", "message": null},
            {"key": "mcp:github", "displayName": "MCP", "enabled": true, "status": "auth-required", "message": "a secret"},
        ]}),
    );
    let status = sidecar.until("told", up("channels", true));
    assert_eq!(status["channels"]["discord"]["status"], "disconnected");
    assert_eq!(status["channels"].as_object().unwrap().len(), 2);
    assert!(api.heads().contains("authorization: Bearer sk-new-secret\r\n"));
    let text = sidecar.get("/status").1 + &sidecar.get("/metrics").1;
    assert!(!text.contains("secret\"") && !text.contains("a secret") && !text.contains("sk-"), "{text}");
}

#[test]
fn an_openclaw_that_is_a_page_does_not_answer() {
    let api = Api::new();
    for path in ["/healthz", "/readyz"] {
        api.say(path, Say::Html("<html>secret</html>".into()));
    }
    let (_folder, sidecar) = beside("openclaw", &api, "");
    let status = sidecar.until("service", up("service", true));
    assert_eq!(status["service"]["api"]["answered"], false);
    assert_eq!(status["service"]["api"]["error"], "answered with status 200 and HTML instead of JSON");
    api.json("/healthz", json!({"ok": true, "status": "live"}));
    api.say(
        "/readyz",
        Say::Answer(503, "application/json", "{\"ready\":false,\"failing\":[\"startup-sidecars\"]}".into()),
    );
    let status = sidecar.until("ready told", |status| status["service"]["health"]["ready"] == false);
    assert_eq!(
        (status["service"]["status"].clone(), status["service"]["health"]["failing"].clone()),
        (json!("ok"), json!(["startup-sidecars"]))
    );
    assert!(sidecar.get("/metrics").1.contains("agenthost_service_ready 0\n"));
}

#[test]
fn every_example_is_a_configuration_of_its_profile() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples");
    let profiles = ["generic", "netclaw", "openclaw", "pi-web", "pynchy"];
    let mut found: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap().trim_end_matches(".toml").to_owned())
        .collect();
    found.sort();
    assert_eq!(found, profiles);
    for profile in profiles {
        let config = agenthost_exporter::config::Config::load(Some(&folder.join(format!("{profile}.toml"))));
        let config = config.unwrap_or_else(|error| panic!("{error:#}"));
        assert_eq!(config.host.profile.map(agenthost_exporter::host::Profile::name), Some(profile));
        let checked = crate::binary::exporter()
            .arg(format!("--config.file={}", folder.join(format!("{profile}.toml")).display()))
            .args(["config", "check"])
            .output()
            .unwrap();
        assert!(checked.status.success(), "{profile}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn a_host_that_no_profile_knows_is_watched_as_the_configuration_says() {
    let api = Api::new();
    api.json("/s", json!({"slack": "open", "mail": "closed", "running": 2, "limit": 2, "waiting": 1, "sessions": 60, "mode": "busy"}));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let database = rusqlite::Connection::open(path("host.db")).unwrap();
    database.execute_batch("CREATE TABLE jobs (done INTEGER); INSERT INTO jobs VALUES (0), (0), (1)").unwrap();
    std::fs::write(path("beat"), "").unwrap();
    let pid = std::process::id();
    std::fs::write(path("pid"), pid.to_string()).unwrap();
    let config = format!(
        r#"
[host]
profile = "generic"
url = "{url}"
pid_file = "{pid_file}"
[collect.service]
interval = "1s"
[collect.channels]
interval = "1s"
[collect.queue]
interval = "1s"
[[collect.http]]
name = "main"
url = "{url}/s"
interval = "1s"
channels = {{ slack = "/slack", mail = "/mail" }}
queue = {{ active_containers = "/running", max_concurrent = "/limit", groups_waiting = "/waiting" }}
values = {{ sessions = "/sessions", mode = "/mode" }}
states = {{ open = true, closed = false, busy = 1 }}
[[collect.sql]]
name = "jobs"
database = "{database}"
query = "SELECT count(*) AS open FROM jobs WHERE NOT done"
interval = "1s"
[[collect.heartbeat]]
name = "beat"
path = "{beat}"
max_age = "1h"
interval = "1s"
[[custom_check]]
name = "many_sessions"
fact = "agenthost_http_value"
labels = {{ name = "sessions" }}
above = 50
fail_for = "0s"
fail_count = 1
"#,
        url = api.url,
        pid_file = path("pid"),
        database = path("host.db"),
        beat = path("beat"),
    );
    let file = folder.path().join("exporter.toml");
    std::fs::write(&file, config).unwrap();
    let sidecar = Sidecar::spawn(&file, []);
    let status = sidecar.until("all", |status| {
        let names = ["service", "channels", "queue", "http", "sql", "heartbeat"];
        names.iter().all(|name| up_by(status, name))
    });
    assert_eq!((status["service"]["status"].as_str(), &status["service"]["pid"]), (Some("ok"), &json!(pid)));
    assert_eq!(
        (&status["channels"]["slack"]["connected"], &status["channels"]["mail"]["connected"]),
        (&json!(true), &json!(false))
    );
    assert_eq!((&status["queue"]["groups_waiting"], &status["queue"]["max_concurrent"]), (&json!(1), &json!(2)));
    let text = sidecar.get("/metrics").1;
    for line in [
        "agenthost_http_value{endpoint=\"main\",name=\"sessions\"} 60\n",
        "agenthost_http_value{endpoint=\"main\",name=\"mode\"} 1\n",
        "agenthost_sql_value{name=\"open\",query=\"jobs\"} 2\n",
        "agenthost_heartbeat_stale{name=\"beat\"} 0\n",
        "agenthost_queue_saturated 1\n",
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    let custom = |status: &Value| {
        let checks = status["health"]["checks"].as_array().unwrap();
        let found = checks.iter().find(|check| check["check"] == "many_sessions").cloned();
        found.is_some_and(|check| check["subject"] == "main/sessions" && check["state"] == "failed")
    };
    sidecar.until("the check of its own", custom);
}

fn up_by(status: &Value, name: &str) -> bool {
    status["collectors"][name]["up"] == true
}

/// Whether a table has these keys, with whatever value.
fn has(table: &Value, keys: &[&str]) -> bool {
    keys.iter().all(|key| table.as_object().unwrap().contains_key(*key))
}

#[test]
fn the_demos_host_tells_of_its_channels_its_queue_and_its_gateway() {
    let output = crate::binary::exporter().args(["--once", "--log.level=error", "demo"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let status: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(status["channels"]["connection.slack.acme"]["connected"], true);
    assert_eq!(status["channels"]["connection.whatsapp.personal"]["source"], "/status");
    assert_eq!(status["queue"]["max_concurrent"], 4);
    assert_eq!(status["collectors"]["queue"]["interval_seconds"], 15.0);
    // The keys of pynchy's own endpoint.
    assert!(has(&status["queue"], &["active_containers", "max_concurrent", "groups_waiting", "per_group"]));
    let groups = status["queue"]["per_group"].as_object().unwrap();
    assert!(!groups.is_empty());
    assert!(groups.values().all(|one| has(one, &["active", "is_task", "pending_messages", "pending_tasks"])));
    let gateway = &status["gateway"];
    let seeds = ["mode", "litellm_container", "postgres_container", "healthy_models", "unhealthy_models"];
    assert!(has(gateway, &seeds), "{gateway:#}");
    let told = ["mode", "state", "up", "ready", "database"].map(|key| gateway[key].clone());
    assert_eq!(told.to_vec(), [json!("litellm"), json!("up"), json!(true), json!(true), json!("connected")]);
    let counted = ["configured_models", "healthy_models", "unhealthy_models"].map(|key| gateway[key].clone());
    assert_eq!(counted.to_vec(), [json!(3), json!(2), json!(1)]);
    let (well, ill) = (json!({"healthy": 1, "unhealthy": 0}), json!({"healthy": 0, "unhealthy": 1}));
    assert_eq!(gateway["models"], json!({"fast": well, "thorough": well, "local": ill}), "by public name");
    assert_eq!(
        (&gateway["keys"]["key"]["state"], &gateway["active_health"]["refused"]),
        (&json!("accepted"), &Value::Null)
    );
    assert_eq!((&gateway["litellm_container"], &gateway["containers"]), (&Value::Null, &json!({})), "it runs in none");
    assert!(status["service"]["resources"]["threads"].as_u64().unwrap() > 0);
}
