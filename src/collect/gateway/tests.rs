mod fake;

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::answers::litellm_is_ready;
use super::probe::Wanted;
use super::*;
use crate::collect::fixture;
use crate::host::gateway::{Containers, Gateway as Own};
use crate::sample::{Cause, Failure};
use crate::source::budget::Ledger;
use crate::source::docker::Docker;
use crate::source::http::{Http, Limits};
use fake::{Fake, Manner, html, text};

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

// -- classification

fn seen(manner: Manner, wanted: Wanted) -> Seen {
    let fake = Fake::new();
    fake.on("/x", manner);
    let limits = Limits { time: Duration::from_millis(500), body: 1 << 20 };
    let asked = runtime().block_on(Http::default().get(&format!("{}/x", fake.url), &[], limits));
    Seen::of(&asked, wanted)
}

#[test]
fn every_answer_has_its_class() {
    use {Auth::*, State::*};
    let json = |status| fake::json(status, r#"{"error": "secret"}"#);
    let redirect = Manner::Says(302, "text/html", "Location: http://192.0.2.1/secret\r\n".into(), String::new());
    let limited = Manner::Says(429, "application/json", "Retry-After: 7\r\n".into(), "{}".into());
    for (manner, state, reachable, auth, says) in [
        (json(200), Up, true, Ok, ""),
        (html(), Misconfigured, true, Unknown, "HTML instead of JSON"),
        (text(200, "{}"), Misconfigured, true, Unknown, "not called JSON"),
        (fake::json(200, "{\"secret"), Misconfigured, true, Unknown, "invalid JSON"),
        (Manner::Floods, Misconfigured, true, Unknown, "too large"),
        (redirect, Misconfigured, true, Unknown, "status 302: a redirect, which is not followed"),
        (json(401), Misconfigured, true, Rejected, "status 401: the key is refused"),
        (json(403), Misconfigured, true, Rejected, "status 403: the key is refused"),
        (
            fake::json(400, r#"{"error":{"type":"no_db_connection"}}"#),
            Misconfigured,
            true,
            Rejected,
            "status 400: the key",
        ),
        (
            fake::json(400, r#"{"error":{"details":[{"reason":"API_KEY_INVALID"}]}}"#),
            Misconfigured,
            true,
            Rejected,
            "400",
        ),
        (json(402), OutOfCredit, true, Ok, "status 402: out of credit"),
        (json(404), Unsupported, true, Unknown, "status 404: it has no such endpoint"),
        (json(405), Unsupported, true, Unknown, "405"),
        (json(400), Unsupported, true, Unknown, "400"),
        (json(422), Unsupported, true, Unknown, "422"),
        (json(408), Fault, true, Unknown, "status 408: it cannot serve"),
        (json(500), Fault, true, Unknown, "status 500: it cannot serve"),
        (json(502), Fault, true, Unknown, "502"),
        (json(503), Fault, true, Unknown, "503"),
        (json(504), Fault, true, Unknown, "504"),
        (json(529), Fault, true, Unknown, "status 529: overloaded"),
        (limited, Limited, true, Ok, "status 429: asked too often"),
        (Manner::Hangs, Hung, false, Unknown, "takes the connection and does not answer"),
        (Manner::Closes, Down, false, Unknown, "closed the connection without an answer"),
    ] {
        let told = format!("{manner:?}");
        let seen = seen(manner, Wanted::Json);
        assert_eq!((seen.state, seen.reachable, seen.auth), (state, reachable, auth), "{told}");
        let reason = seen.reason.unwrap_or_default();
        assert!(reason.contains(says) && reason.is_empty() == says.is_empty(), "{told}: {reason}");
        assert!(!reason.contains("secret"), "{reason}");
        assert_eq!(seen.took.is_some(), seen.status.is_some());
        assert_eq!(seen.retry_after, (state == Limited).then_some(Duration::from_secs(7)));
    }
}

#[test]
fn whoever_cannot_be_asked_is_down_for_its_own_reason() {
    for (error, state, says) in [
        (Error::Refused, State::Down, "refused"),
        (Error::Unresolved("no such name".into()), State::Down, "look up its name: no such name"),
        (Error::Tls("its certificate has expired".into()), State::Down, "TLS: its certificate has expired"),
        (Error::Unreachable("connect: no route".into()), State::Down, "connect: no route"),
        (Error::TimedOut { connected: false }, State::Hung, "does not take the connection"),
    ] {
        let seen = Seen::of(&Err(error), Wanted::Json);
        assert_eq!((seen.state, seen.reachable, seen.reason.as_deref()), (state, false, Some(says)));
        assert_eq!((is_up(&seen), can_serve(&seen)), (Word::No, Word::No));
    }
}

#[test]
fn a_status_alone_is_enough_where_no_more_is_wanted() {
    let empty = || Manner::Says(200, "text/plain", String::new(), String::new());
    assert_eq!(seen(empty(), Wanted::Nothing).state, State::Up);
    assert_eq!(seen(fake::json(200, "{\"status\": \"ok\"}"), Wanted::Nothing).state, State::Up);
    assert_eq!(seen(html(), Wanted::Nothing).state, State::Misconfigured);
    assert_eq!(seen(empty(), Wanted::Json).state, State::Misconfigured);
    let without = seen(fake::json(401, "{}"), Wanted::Nothing).without_key();
    assert_eq!((without.state, without.auth, without.reason), (State::Up, Auth::Unknown, None));
}

#[test]
fn what_is_up_and_what_can_serve_follow_from_the_class() {
    let seen = |state, auth| Seen { state, auth, ..Seen::of(&Err(Error::Refused), Wanted::Json) };
    for (state, auth, up, serves) in [
        (State::Up, Auth::Ok, Word::Yes, Word::Yes),
        (State::Misconfigured, Auth::Unknown, Word::Unseen, Word::Unseen),
        (State::Misconfigured, Auth::Rejected, Word::Yes, Word::Unmeasured),
        (State::OutOfCredit, Auth::Ok, Word::Yes, Word::No),
        (State::Unsupported, Auth::Unknown, Word::Yes, Word::Unmeasured),
        (State::Fault, Auth::Unknown, Word::Yes, Word::No),
        (State::Limited, Auth::Ok, Word::Yes, Word::Unmeasured),
        (State::Down, Auth::Unknown, Word::No, Word::No),
        (State::Stranger, Auth::Unknown, Word::No, Word::No),
        (State::Hung, Auth::Unknown, Word::No, Word::No),
    ] {
        let seen = seen(state, auth);
        assert_eq!((is_up(&seen), can_serve(&seen)), (up, serves), "{state:?} {auth:?}");
    }
}

#[test]
fn readiness_is_status_and_database() {
    use Database::*;
    let (up, fault) = (seen(fake::json(200, "{}"), Wanted::Json), seen(fake::json(503, "{}"), Wanted::Json));
    let refused: Result<(), Error> = Err(Error::Refused);
    let hung = Err(Error::TimedOut { connected: false });
    let unresolved = Err(Error::Unresolved("no such name".into()));
    for (seen, database, expected, postgres, word) in [
        (&up, Some(Connected), Some(true), None, Word::Yes),
        (&up, Some(Connected), Some(true), Some(&Ok(())), Word::Yes),
        (&up, Some(Connected), Some(true), Some(&refused), Word::No),
        (&up, Some(Disconnected), Some(true), None, Word::No),
        (&up, Some(Disconnected), None, None, Word::No),
        (&up, Some(Stalled), Some(true), None, Word::No),
        (&up, Some(NotConnected), Some(true), None, Word::No),
        (&up, Some(NotConnected), Some(false), None, Word::Yes),
        (&up, Some(NotConnected), None, None, Word::Yes),
        (&up, Some(Connected), Some(true), Some(&unresolved), Word::Yes),
        (&up, Some(Disconnected), Some(true), Some(&unresolved), Word::No),
        (&up, Some(Connected), Some(true), Some(&hung), Word::No),
        (&up, Some(Unknown), Some(true), None, Word::Withheld),
        (&up, Some(Unknown), Some(true), Some(&refused), Word::No),
        (&up, Some(Unknown), None, None, Word::Yes),
        (&up, Some(Unknown), Some(false), None, Word::Yes),
        (&up, None, Some(true), None, Word::Unseen),
        (&up, None, Some(false), None, Word::Unseen),
        (&fault, Some(Disconnected), Some(true), None, Word::No),
        (&fault, Some(Connected), None, None, Word::No),
        (&fault, None, None, None, Word::No),
    ] {
        let (told, why) = litellm_is_ready(seen, database, expected, postgres);
        assert_eq!(told, word, "{database:?} {expected:?} {postgres:?}");
        assert_eq!(why.is_some(), word != Word::Yes, "{why:?}");
    }
}

// -- the whole collector

struct Lab {
    runtime: Runtime,
    gateway: Gateway,
    fake: Fake,
    folder: TempDir,
}

const CONNECTED: &str = r#"{"status": "healthy", "db": "connected"}"#;
const TWO: &str = r#"{"data": [{"id": "ok-one"}, {"id": "ok-two"}], "object": "list"}"#;
const HEALTH: &str = r#"{
    "healthy_endpoints": [{"model": "openai/gpt-4o-mini", "model_id": "f32a"}],
    "unhealthy_endpoints": [{"model": "openai/hangs", "model_id": "5c93", "error": "Incorrect API key: sk-secret",
        "raw_request_typed_dict": {"raw_request_headers": {"Authorization": "secret"}}, "exception_status": 408}],
    "healthy_count": 1, "unhealthy_count": 1}"#;
const NAMES: &str = r#"{"data": [
    {"model_name": "fast", "litellm_params": {"api_base": "secret"}, "model_info": {"id": "f32a"}},
    {"model_name": "hangs", "model_info": {"id": "5c93"}}]}"#;

impl Lab {
    /// A LiteLLM that is well. `$URL` and `$DIR` in the configuration stand for it and for a folder with its keys.
    fn litellm(config: &str) -> Lab {
        let fake = Fake::new();
        fake.on("/health/liveliness", fake::json(200, "\"I'm alive!\""))
            .on("/health/readiness", fake::json(200, CONNECTED))
            .on("/v1/models", fake::json(200, TWO))
            .on("/health", fake::json(200, HEALTH))
            .on("/model/info", fake::json(200, NAMES))
            .on("/health/latest", fake::json(200, r#"{"latest_health_checks": {}}"#))
            .on("/global/spend", fake::json(200, r#"{"spend": 0.25, "max_budget": 0.0}"#));
        Lab::of(fake, &format!("kind = \"litellm\"\n{config}"), None)
    }

    /// A provider of this kind.
    fn provider(kind: &str, fake: &Fake, config: &str) -> Lab {
        Lab::of(fake.clone(), &format!("kind = \"{kind}\"\n{config}"), None)
    }

    /// What the host's own configuration tells of; no URL in the file then.
    fn of(fake: Fake, config: &str, own: Option<Own>) -> Lab {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "sk-one\n").unwrap();
        std::fs::write(folder.path().join("admin"), "sk-admin\n").unwrap();
        let url = if own.is_none() { format!("url = \"{}\"\n", fake.url) } else { String::new() };
        let config = url + &config.replace("$DIR", folder.path().to_str().unwrap());
        let runtime = runtime();
        let gateway = build(&config, own, folder.path()).unwrap().expect("there is a gateway");
        Lab { runtime, gateway, fake, folder }
    }

    fn at(&mut self, seconds: u64) -> Section {
        self.try_at(seconds).unwrap()
    }

    fn try_at(&mut self, seconds: u64) -> Result<Section> {
        let now = fixture::now().plus(Duration::from_secs(seconds));
        self.runtime.block_on(self.gateway.collect(now))
    }
}

fn build(config: &str, own: Option<Own>, folder: &Path) -> Result<Option<Gateway>> {
    let config: Config = toml::from_str(config).map_err(|error| anyhow::anyhow!("{}", error.message()))?;
    let ledger = Some(Ledger::beside(&folder.join("state.db")));
    let sources = Sources { docker: Docker::at(folder.join("no.sock")), ledger, ..Sources::default() };
    Gateway::new(config, &Host { gateway: own, ..fixture::host(None) }, &sources)
}

fn value(section: &Section, fact: &'static Fact, subject: &str) -> Option<Option<f64>> {
    fixture::value(&fixture::points::<Gateway>(section), fact, subject)
}

fn json_of(section: &Section) -> Value {
    fixture::json::<Gateway>(section)
}

/// Nobody may read a key or a text of the other side in it.
fn shown(section: &Section) -> String {
    let text = json_of(section).to_string();
    assert!(!text.contains("secret") && !text.contains("sk-"), "{text}");
    text
}

#[test]
fn without_a_key_only_what_needs_none_is_asked() {
    let mut lab = Lab::litellm("expect_database = true\n");
    for (seconds, section) in (0..8).map(|run| (run * 15, lab.at(run * 15))) {
        assert_eq!(value(&section, &UP, ""), Some(Some(1.0)), "at {seconds} s");
        assert_eq!(value(&section, &READY, ""), Some(Some(1.0)));
        assert_eq!(value(&section, &DATABASE, ""), Some(Some(1.0)));
        for fact in [&CONFIGURED, &HEALTHY, &UNHEALTHY, &SPEND, &PAID, &POSTGRES] {
            assert_eq!(value(&section, fact, ""), None, "{}", fact.prometheus);
        }
        assert!(section.active_health.refused.as_ref().unwrap().contains("no `key_file`"));
    }
    assert_eq!((lab.fake.asked("/health/liveliness"), lab.fake.asked("/health/readiness")), (8, 8));
    assert_eq!(lab.fake.paths().len(), 16, "{:?}", lab.fake.paths());
}

#[test]
fn with_a_key_models_are_counted_and_health_is_not_asked_unless_it_is_free() {
    let mut lab = Lab::litellm("key_file = \"$DIR/key\"\n");
    let mut section = lab.at(0);
    for run in 1..=240 {
        section = lab.at(run * 15);
    }
    let json = json_of(&section);
    assert_eq!((&json["mode"], &json["configured_models"]), (&json!("litellm"), &json!(2)));
    assert_eq!((&json["healthy_models"], &json["unhealthy_models"]), (&Value::Null, &Value::Null));
    assert!(json["active_health"]["refused"].as_str().unwrap().starts_with("nobody tells whether"), "{json:#}");
    assert_eq!(value(&section, &HEALTHY, ""), None, "not measured, so no subject");
    assert_eq!(value(&section, &KEY_ACCEPTED, "key"), Some(Some(1.0)));
    assert!(lab.fake.head("/v1/models").contains("\r\nauthorization: bearer sk-one\r\n"));
    assert!(!lab.fake.head("/health/liveliness").contains("sk-one"), "a key is shown only where it must");
    assert_eq!(lab.fake.asked("/v1/models"), 61);
    for costly in ["/health", "/model/info", "/health/latest", "/global/spend"] {
        assert_eq!(lab.fake.asked(costly), 0, "{costly}");
    }
    shown(&section);
}

#[test]
fn background_checks_are_read_by_public_name() {
    let mut lab = Lab::litellm("key_file = \"$DIR/key\"\nactive_health = \"background\"\n");
    let section = lab.at(0);
    let json = json_of(&section);
    assert_eq!((&json["healthy_models"], &json["unhealthy_models"]), (&json!(1), &json!(1)));
    let models = json!({"fast": {"healthy": 1, "unhealthy": 0}, "hangs": {"healthy": 0, "unhealthy": 1}});
    assert_eq!(json["models"], models);
    assert_eq!(value(&section, &HEALTHY, ""), Some(Some(1.0)));
    assert_eq!(value(&section, &MODEL_HEALTHY, "fast"), Some(Some(1.0)));
    assert_eq!(value(&section, &MODEL_HEALTHY, "hangs"), Some(Some(0.0)));
    shown(&section);
    for run in 1..=8 {
        lab.at(run * 15);
    }
    assert_eq!((lab.fake.asked("/health"), lab.fake.asked("/model/info")), (3, 1));
    // A deployment that is new has no name until the names are read again; until then it is counted and not named.
    let other = HEALTH.replace("f32a", "new1");
    lab.fake.on("/health", fake::json(200, &other));
    lab.fake.on("/model/info", fake::json(200, &NAMES.replace("f32a", "new1")));
    let section = lab.at(180);
    assert_eq!((section.healthy_models, section.models.len()), (Some(1), 1));
    let section = lab.at(240);
    assert_eq!(section.models.keys().map(|name| &**name).collect::<Vec<_>>(), ["fast", "hangs"]);
}

#[test]
fn nothing_found_yet_is_not_nothing_healthy() {
    let mut lab = Lab::litellm("key_file = \"$DIR/key\"\nactive_health = \"background\"\n");
    let bodies = ["{}", r#"{"healthy_count": 0, "unhealthy_count": 0}"#, r#"{"healthy_count": 1}"#, "[]", "7"];
    for (run, body) in (0..).zip(bodies) {
        lab.fake.on("/health", fake::json(200, body));
        let section = lab.at(run * 60);
        assert_eq!(section.healthy_models, None, "{body}");
        assert_eq!(value(&section, &HEALTHY, ""), Some(None), "{body}: listed and not seen");
    }
    lab.fake.on("/health", fake::json(200, r#"{"healthy_count": 0, "unhealthy_count": 3}"#));
    let section = lab.at(600);
    assert_eq!(value(&section, &HEALTHY, ""), Some(Some(0.0)), "measured, and none is well");
}

#[test]
fn the_hosts_own_configuration_decides_at_each_question() {
    let fake = Lab::litellm("").fake;
    let folder = tempfile::tempdir().unwrap();
    let yaml = folder.path().join("litellm.yaml");
    let write =
        |on: &str| std::fs::write(&yaml, format!("general_settings: {{background_health_checks: {on}}}")).unwrap();
    let own = Own {
        kind: Some(Kind::Litellm),
        url: Some(fake.url.clone()),
        configured: true,
        expects_database: Some(true),
        litellm_configs: vec![yaml.clone()],
        own_key: Some("GATEWAY__MASTER_KEY in /srv/p/.env".into()),
        ..Own::default()
    };
    let mut lab = Lab::of(fake, "key_file = \"$DIR/key\"\n", Some(own.clone()));
    write("false");
    let section = lab.at(0);
    assert!(section.active_health.refused.unwrap().starts_with("LiteLLM does not check its models by itself"));
    assert_eq!(lab.fake.asked("/health"), 0);
    write("true");
    assert_eq!(value(&lab.at(15), &HEALTHY, ""), Some(Some(1.0)));
    write("maybe");
    let section = lab.at(75);
    assert_eq!((value(&section, &HEALTHY, ""), lab.fake.asked("/health")), (None, 1), "what was found counts no more");
    // Of another gateway the host's file says nothing.
    write("true");
    let config = format!("url = \"{}\"\nkey_file = \"$DIR/key\"\n", lab.fake.url);
    let folder = lab.folder.path().to_str().unwrap().to_owned();
    let mut other = Lab {
        gateway: build(&config.replace("$DIR", &folder), Some(own.clone()), lab.folder.path()).unwrap().unwrap(),
        ..Lab::litellm("")
    };
    other.at(0);
    assert_eq!(lab.fake.asked("/health"), 1);
    // Without a key the section says where the host has its own, which is not taken.
    let mut keyless = Lab::of(lab.fake.clone(), "", Some(own));
    let refused = keyless.at(0).active_health.refused.unwrap();
    assert_eq!(refused, "no `key_file` in [collect.gateway]; the host's own is GATEWAY__MASTER_KEY in /srv/p/.env");
}

const NONE_HEALTHY: &str = r#"{"unhealthy_endpoints": [{"model_id": "f32a"}, {"model_id": "5c93"}],
    "healthy_count": 0, "unhealthy_count": 2}"#;

/// Value, and whether it is excused.
fn judged(section: &Section, fact: &'static Fact, subject: &str) -> (Option<Option<f64>>, bool) {
    (value(section, fact, subject), is_excused(section, fact, subject))
}

#[test]
fn what_is_slow_was_no_memory_and_is_left_alone() {
    let background = || {
        let mut lab = Lab::litellm("key_file = \"$DIR/key\"\nactive_health = \"background\"\n");
        lab.gateway.within(Duration::from_secs(1));
        lab
    };
    let (mut lab, mut before) = (background(), background());
    before.fake.on("/health", fake::json(200, NONE_HEALTHY));
    assert_eq!(judged(&before.at(0), &HEALTHY, ""), (Some(Some(0.0)), false));
    for lab in [&mut lab, &mut before] {
        lab.fake.on("/health", Manner::Hangs);
        for run in 4..12 {
            lab.at(run * 15);
        }
    }
    assert_eq!((lab.fake.asked("/health"), before.fake.asked("/health")), (1, 2), "one is under way");
    std::thread::sleep(Duration::from_secs(6)); // as long as it is given
    for (lab, asked) in [(&mut lab, 1), (&mut before, 2)] {
        let section = lab.at(190);
        assert!(section.active_health.refused.unwrap().starts_with("it took longer than 5s"));
        for run in 13..200 {
            let section = lab.at(run * 15);
            // Nobody may ask. What was judged before stands, and of what was never measured nothing is.
            let expected = if asked == 1 { (None, false) } else { (Some(None), true) };
            assert_eq!(judged(&section, &HEALTHY, ""), expected);
            assert_eq!(judged(&section, &MODEL_HEALTHY, "fast"), expected);
            assert_eq!((section.healthy_models, section.models.len()), (None, 0), "and is not shown as if it were new");
        }
        assert_eq!(lab.fake.asked("/health"), asked);
        lab.fake.on("/health", fake::json(200, HEALTH));
        let section = lab.at(190 + 3600);
        assert_eq!(judged(&section, &HEALTHY, ""), (Some(Some(1.0)), false), "after an hour it is asked again");
        assert_eq!(judged(&section, &MODEL_HEALTHY, "fast"), (Some(Some(1.0)), false));
    }
}

/// Looks again at the same moment, until what is under way has come.
fn until(lab: &mut Lab, seconds: u64, has_come: impl Fn(&Section) -> bool) -> Section {
    for _ in 0..6000 {
        let section = lab.at(seconds);
        if has_come(&section) {
            return section;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("nothing has come");
}

#[test]
fn what_was_paid_for_once_and_found_nothing_healthy_is_shown_and_not_judged_until_the_next_says_so_too() {
    let mut lab = Lab::litellm("key_file = \"$DIR/key\"\nactive_health = \"paid\"\nmax_probes_per_day = 24\n");
    for (hour, body, healthy, is_excused) in [
        (0, NONE_HEALTHY, 0, true),
        (1, HEALTH, 1, false),
        (2, NONE_HEALTHY, 0, true),
        (3, NONE_HEALTHY, 0, false),
        (4, NONE_HEALTHY, 0, false),
        (5, HEALTH, 1, false),
    ] {
        lab.fake.on("/health", fake::json(200, body));
        let asked_at = json!(fixture::now().plus(Duration::from_secs(hour * 3600)).wall.to_string());
        let section = until(&mut lab, hour * 3600, |section| json_of(section)["models_at"] == asked_at);
        assert_eq!(section.healthy_models, Some(healthy), "hour {hour}");
        let expected = (Some(Some(healthy as f64)), is_excused);
        assert_eq!(judged(&section, &HEALTHY, ""), expected, "hour {hour}");
        assert_eq!(judged(&lab.at(hour * 3600 + 1800), &HEALTHY, ""), expected, "as long as it stands");
    }
    assert_eq!(lab.fake.asked("/health"), 6);
}

#[test]
fn what_an_admin_key_told_of_models_is_held_while_the_key_rests() {
    const LATEST: &str = r#"{"latest_health_checks": {"f32a": {"model_name": "fast", "model_id": "f32a",
        "status": "unhealthy", "checked_at": "2026-11-21T19:47:23.013000+00:00"}}}"#;
    for other_key in ["", "key_file = \"$DIR/key\"\n"] {
        let mut lab = Lab::litellm(&format!("admin_key_file = \"$DIR/admin\"\n{other_key}"));
        lab.fake.on("/health/latest", fake::json(200, LATEST));
        let both = |section: &Section| [judged(section, &HEALTHY, ""), judged(section, &MODEL_HEALTHY, "fast")];
        assert_eq!(both(&lab.at(0)), [(Some(Some(0.0)), false); 2]);
        // It is refused, and then its file is gone: neither says anything of models, however long.
        lab.fake.on("/health/latest", fake::json(401, "{}"));
        let held = [(Some(None), true); 2];
        for minute in 1..=9 {
            let section = lab.at(minute * 60);
            assert_eq!((both(&section), section.healthy_models), (held, None), "{other_key}, minute {minute}");
        }
        std::fs::rename(lab.folder.path().join("admin"), lab.folder.path().join("away")).unwrap();
        for minute in 10..=30 {
            assert_eq!(both(&lab.at(minute * 60)), held, "{other_key}, minute {minute}");
        }
        std::fs::rename(lab.folder.path().join("away"), lab.folder.path().join("admin")).unwrap();
        lab.fake.on("/health/latest", Manner::Closes);
        assert_eq!(both(&lab.at(1900)), [(Some(None), false); 2], "whoever may ask and is not answered is not excused");
        lab.fake.on("/health/latest", fake::json(200, &LATEST.replace("unhealthy", "healthy")));
        assert_eq!(both(&lab.at(1960)), [(Some(Some(1.0)), false); 2]);
        lab.fake.on("/health/latest", fake::json(500, "{}"));
        assert_eq!(both(&lab.at(2020)), [(None, false); 2], "it has no database any more, and so no such thing");
        std::fs::remove_file(lab.folder.path().join("admin")).unwrap();
        assert_eq!(both(&lab.at(2080)), [(None, false); 2], "nothing to hold");
    }
}

#[test]
fn a_refused_key_rests_ten_minutes_unless_it_is_replaced() {
    for refusal in [fake::json(401, "{}"), fake::json(400, r#"{"error": {"type": "no_db_connection"}}"#)] {
        let mut lab = Lab::litellm("key_file = \"$DIR/key\"\nactive_health = \"background\"\n");
        assert_eq!(lab.at(0).healthy_models, Some(1));
        lab.fake.on("/v1/models", refusal.clone());
        let section = lab.at(60);
        assert_eq!(value(&section, &KEY_ACCEPTED, "key"), Some(Some(0.0)));
        assert_eq!(value(&section, &HEALTHY, ""), Some(None), "what was judged before stands");
        assert!(is_excused(&section, &HEALTHY, ""));
        assert_eq!(judged(&section, &MODEL_HEALTHY, "hangs"), (Some(None), true));
        assert_eq!((section.configured_models, value(&section, &READY, "")), (None, Some(Some(1.0))));
        let keys = &json_of(&section)["keys"]["key"];
        assert_eq!((&keys["state"], &keys["retry_at"]), (&json!("rejected"), &json!("2026-11-21T20:11:00Z")));
        assert!(keys["error"].as_str().unwrap().ends_with("the key is refused"), "{keys}");
        let asked = lab.fake.paths().iter().filter(|path| !path.starts_with("/health/")).count();
        for run in 5..=43 {
            lab.at(run * 15);
        }
        let now = lab.fake.paths().iter().filter(|path| !path.starts_with("/health/")).count();
        assert_eq!(now, asked, "nothing with the key in ten minutes");
        lab.at(660);
        assert_eq!(lab.fake.asked("/v1/models"), 3, "then once");
        // Another key in the file is tried at once.
        std::fs::write(lab.folder.path().join("key"), "sk-two").unwrap();
        lab.fake.on("/v1/models", fake::json(200, TWO));
        let section = lab.at(675);
        assert_eq!((section.configured_models, section.healthy_models), (Some(2), Some(1)));
        assert!(lab.fake.head("/v1/models").contains("bearer sk-two"));
    }
}

#[test]
fn a_key_that_cannot_be_read_is_denied_with_its_path() {
    let mut lab = Lab::litellm("key_file = \"$DIR/none\"\n");
    let section = lab.at(0);
    let key = &json_of(&section)["keys"]["key"];
    assert_eq!(key["state"], "denied");
    let path = lab.folder.path().join("none");
    assert!(key["error"].as_str().unwrap().starts_with(&format!("read {}: No such file", path.display())), "{key}");
    assert_eq!(value(&section, &KEY_ACCEPTED, "key"), Some(None));
    assert_eq!(lab.fake.asked("/v1/models"), 0);
    std::fs::write(path, "sk-one").unwrap();
    assert_eq!(lab.at(15).configured_models, Some(2));
}

#[test]
fn an_admin_key_sees_what_was_found_and_spent() {
    let mut lab = Lab::litellm("admin_key_file = \"$DIR/admin\"\nkey_file = \"$DIR/key\"\n");
    let latest = r#"{"latest_health_checks": {
        "f32a": {"model_name": "fast", "model_id": "f32a", "status": "healthy", "checked_at": "2026-11-21T19:47:23.013000+00:00"},
        "5c93": {"model_name": "hangs", "model_id": "5c93", "status": "unhealthy", "error_message": "secret",
            "checked_at": "2026-11-21T19:47:23.013000+00:00"},
        "gone": {"model_name": "gone", "model_id": "gone", "status": "unhealthy", "checked_at": "2026-11-21T10:00:00+00:00"}},
        "total_models": 6}"#;
    lab.fake.on("/health/latest", fake::json(200, latest));
    let section = lab.at(0);
    assert_eq!((section.healthy_models, section.unhealthy_models), (Some(1), Some(1)), "one is too old to count");
    assert_eq!(section.models.keys().map(|name| &**name).collect::<Vec<_>>(), ["fast", "hangs"]);
    assert_eq!(value(&section, &SPEND, ""), Some(Some(0.25)));
    assert_eq!(value(&section, &KEY_ACCEPTED, "admin_key"), Some(Some(1.0)));
    shown(&section);
    for run in 1..=20 {
        lab.at(run * 15);
    }
    assert_eq!((lab.fake.asked("/health/latest"), lab.fake.asked("/global/spend")), (6, 2));
    assert_eq!(lab.fake.asked("/health"), 0);
    assert!(lab.fake.head("/global/spend").contains("bearer sk-admin"));
    // Without a database there is no such thing; a key that is no admin's is told so.
    lab.fake.on("/health/latest", fake::json(500, r#"{"detail": {"error": "Database not initialized"}}"#));
    assert_eq!(value(&lab.at(360), &HEALTHY, ""), None);
    lab.fake.on("/health/latest", fake::json(401, "{}"));
    let section = lab.at(420);
    assert_eq!(value(&section, &KEY_ACCEPTED, "admin_key"), Some(Some(0.0)));
    assert_eq!(value(&section, &KEY_ACCEPTED, "key"), Some(Some(1.0)));
}

#[test]
fn no_admin_question_is_asked_with_a_key_that_nobody_accepted() {
    let mut lab = Lab::litellm("admin_key_file = \"$DIR/admin\"\n");
    lab.fake.on("/v1/models", fake::json(401, "{}"));
    for run in 0..10 {
        lab.at(run * 15);
    }
    assert_eq!(
        (lab.fake.asked("/v1/models"), lab.fake.asked("/health/latest"), lab.fake.asked("/global/spend")),
        (1, 0, 0)
    );
}

#[test]
fn what_is_paid_for_is_asked_as_often_as_agreed_and_no_restart_adds_to_it() {
    let config = "key_file = \"$DIR/key\"\nactive_health = \"paid\"\nmax_probes_per_day = 10\n";
    let mut lab = Lab::litellm(config);
    // The runtime ends with its last answer: what is under way is waited for by the next look.
    let settle = |lab: &mut Lab, seconds| {
        lab.at(seconds);
        std::thread::sleep(Duration::from_millis(30));
    };
    settle(&mut lab, 0);
    let section = lab.at(15);
    assert_eq!((section.healthy_models, lab.fake.asked("/health")), (Some(1), 1));
    let paid = json_of(&section)["active_health"]["paid"].clone();
    assert_eq!(paid, json!({"max_per_day": 10, "spent": 1, "next_at": "2026-11-21T22:24:00Z"}));
    assert_eq!(value(&section, &PAID, ""), Some(Some(1.0)));
    let folder = lab.folder.path().to_str().unwrap().to_owned();
    let again = |lab: &Lab| {
        let config = format!("kind = \"litellm\"\nurl = \"{}\"\n{}", lab.fake.url, config.replace("$DIR", &folder));
        build(&config, None, Path::new(&folder)).unwrap().unwrap()
    };
    for hour in 0..24 {
        for minute in 0..12 {
            settle(&mut lab, 60 + hour * 3600 + minute * 300);
        }
        if hour % 8 == 0 {
            lab.gateway = Gateway::Untold; // the file is closed before another opens it
            lab.gateway = again(&lab);
        }
    }
    assert_eq!(lab.fake.asked("/health"), 10, "in a day, with three restarts");
    // Whoever else has the file spends nothing.
    let mut second = Lab { gateway: again(&lab), ..Lab::litellm("") };
    let section = second.at(26 * 3600);
    assert!(section.active_health.refused.unwrap().ends_with("another process has it open"));
    assert_eq!(value(&second.at(26 * 3600 + 15), &HEALTHY, ""), None);
    assert_eq!(lab.fake.asked("/health"), 10);
}

#[test]
fn a_paid_question_that_takes_long_delays_nobody_and_is_never_doubled() {
    let mut lab = Lab::litellm("key_file = \"$DIR/key\"\nactive_health = \"paid\"\nmax_probes_per_day = 288\n");
    lab.fake.on("/health", Manner::Slow(Duration::from_secs(2), Box::new(fake::json(200, HEALTH))));
    let begun = std::time::Instant::now();
    for run in 0..35 {
        lab.at(run * 15);
    }
    assert!(begun.elapsed() < Duration::from_millis(1800), "{:?}", begun.elapsed());
    assert_eq!(lab.fake.asked("/health"), 1, "nine minutes by the clock, and still under way");
    std::thread::sleep(Duration::from_millis(2200));
    let section = lab.at(525);
    assert_eq!((section.healthy_models, lab.fake.asked("/health")), (Some(1), 1));
    // It is of the moment when it was asked for, and does not stand for ever.
    assert_eq!(json_of(&section)["models_at"], "2026-11-21T20:00:00Z");
    lab.fake.on("/v1/models", fake::json(500, "{}"));
    assert_eq!(value(&lab.at(601), &HEALTHY, ""), Some(None));
}

#[test]
fn each_bad_answer_is_named_and_only_costs_what_it_told() {
    let mut lab = Lab::litellm("key_file = \"$DIR/key\"\nactive_health = \"background\"\nexpect_database = true\n");
    lab.gateway.within(Duration::from_secs(2));
    assert_eq!(value(&lab.at(0), &UP, ""), Some(Some(1.0)));
    let redirect = Manner::Says(307, "text/html", "Location: http://192.0.2.1/secret\r\n".into(), String::new());
    let cases = [
        (fake::json(401, "{\"secret\": 1}"), Some(Some(1.0)), None, "misconfigured", "status 401"),
        (fake::json(500, "secret"), Some(Some(1.0)), Some(Some(0.0)), "fault", "status 500"),
        (html(), Some(Some(0.0)), Some(None), "stranger", "HTML instead of JSON; it is no LiteLLM"),
        (fake::json(404, "{}"), Some(Some(0.0)), None, "stranger", "it has no such endpoint; it is no LiteLLM"),
        (Manner::Floods, Some(None), Some(None), "misconfigured", "too large"),
        (fake::json(200, "{\"secret"), Some(None), Some(None), "misconfigured", "invalid JSON"),
        (redirect, Some(None), Some(None), "misconfigured", "a redirect"),
        (Manner::Closes, Some(Some(0.0)), Some(Some(0.0)), "down", "closed the connection"),
        (Manner::Hangs, Some(Some(0.0)), Some(Some(0.0)), "hung", "does not answer"),
    ];
    for (run, (manner, up, ready, state, reason)) in (1..).zip(cases) {
        lab.fake.all(manner);
        let begun = std::time::Instant::now();
        let section = lab.at(run * 3600);
        assert!(begun.elapsed() < Duration::from_secs(2), "{state}: {:?}", begun.elapsed());
        assert_eq!((value(&section, &UP, ""), value(&section, &READY, "")), (up, ready), "{state} {reason}");
        let json = json_of(&section);
        assert_eq!(json["state"], state, "{json:#}");
        assert!(json["reason"].as_str().unwrap().contains(reason), "{json:#}");
        assert_eq!((section.configured_models, section.healthy_models), (None, None), "{reason}");
        shown(&section);
    }
}

#[test]
fn wrong_types_are_not_known_and_a_stranger_is_not_it() {
    let mut lab = Lab::litellm("key_file = \"$DIR/key\"\nexpect_database = true\n");
    for (run, body) in (0..).zip([r#"{"status": "healthy"}"#, r#"{"db": 7}"#, r#"{"db": "secret"}"#, "[]"]) {
        lab.fake.on("/health/readiness", fake::json(200, body));
        let section = lab.at(run * 15);
        assert_eq!((value(&section, &READY, ""), value(&section, &DATABASE, "")), (Some(None), Some(None)), "{body}");
        shown(&section);
    }
    for (run, body) in (2..).zip(["7", r#"{"data": {}}"#, r#"{"models": []}"#]) {
        lab.fake.on("/v1/models", fake::json(200, body));
        let section = lab.at(run * 60);
        assert_eq!(section.configured_models, None, "{body}");
        assert_eq!(json_of(&section)["probes"]["models"]["state"], "misconfigured");
    }
}

#[test]
fn a_database_that_is_gone_is_told_from_a_gateway_that_is() {
    let mut lab = Lab::litellm("expect_database = true\n");
    for (run, body, status, database, reason) in [
        (0, r#"{"status":"healthy","db":"disconnected"}"#, 503, "disconnected", "its database is gone"),
        (1, r#"{"status":"healthy","db":"stalled"}"#, 503, "stalled", "its database hangs"),
        (2, r#"{"status":"shutting_down"}"#, 503, "unknown", "it shuts down"),
        (3, r#"{"status":"healthy","db":"disconnected"}"#, 200, "disconnected", "its database is gone"),
        (4, r#"{"status":"healthy","db":"Not connected"}"#, 200, "not_connected", "has not connected to its database"),
    ] {
        lab.fake.on("/health/readiness", fake::json(status, body));
        let section = lab.at(run * 15);
        let json = json_of(&section);
        assert_eq!((&json["up"], &json["ready"], &json["database"]), (&json!(true), &json!(false), &json!(database)));
        assert!(json["reason"].as_str().unwrap().contains(reason), "{json:#}");
    }
}

#[test]
fn a_refused_port_of_the_database_is_seen_before_the_gateway_says_so() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    let mut lab = Lab::litellm(&format!("postgres = \"{address}\"\n"));
    let section = lab.at(0);
    assert_eq!((value(&section, &POSTGRES, ""), value(&section, &READY, "")), (Some(Some(1.0)), Some(Some(1.0))));
    drop(port);
    let section = lab.at(15);
    assert_eq!((value(&section, &POSTGRES, ""), value(&section, &READY, "")), (Some(Some(0.0)), Some(Some(0.0))));
    assert_eq!(json_of(&section)["postgres"]["reason"], "refused");
    assert_eq!(section.reason.as_deref(), Some("the port of its database takes no connection"));
}

#[test]
fn a_database_whose_name_leads_nowhere_from_here_says_nothing() {
    let mut lab = Lab::litellm("postgres = \"nowhere.invalid:5432\"\nexpect_database = true\n");
    let section = lab.at(0);
    assert_eq!((value(&section, &POSTGRES, ""), value(&section, &READY, "")), (Some(None), Some(Some(1.0))));
    let port = &json_of(&section)["postgres"];
    assert!(
        port["reachable"].is_null() && port["reason"].as_str().unwrap().starts_with("look up its name: "),
        "{port}"
    );
}

fn is_excused(section: &Section, fact: &'static Fact, subject: &str) -> bool {
    let points = fixture::points::<Gateway>(section);
    points
        .0
        .iter()
        .any(|point| point.fact.is(fact) && *point.subject() == *subject && point.withheld == Some(Cause::Excused))
}

#[test]
fn a_version_that_does_not_tell_of_its_database_fails_nothing() {
    let mut lab = Lab::litellm("expect_database = true\n");
    lab.fake.on("/health/readiness", fake::json(200, r#"{"status": "healthy"}"#));
    let section = lab.at(0);
    assert_eq!((value(&section, &READY, ""), is_excused(&section, &READY, "")), (Some(None), true));
    assert_eq!(json_of(&section)["reason"], "it does not say how its database is");
    lab.fake.on("/health/readiness", fake::json(503, r#"{"status": "healthy"}"#));
    let section = lab.at(15);
    assert_eq!((value(&section, &READY, ""), is_excused(&section, &READY, "")), (Some(Some(0.0)), false));
    let mut lab = Lab::litellm("");
    lab.fake.on("/health/readiness", fake::json(200, r#"{"status": "healthy"}"#));
    assert_eq!(value(&lab.at(0), &READY, ""), Some(Some(1.0)), "nobody expects one");
}

#[test]
fn what_a_key_showed_does_not_outlive_it_for_long() {
    let mut lab = Lab::litellm("admin_key_file = \"$DIR/admin\"\n");
    let section = lab.at(0);
    assert_eq!((section.configured_models, section.spend_usd), (Some(2), Some(0.25)));
    std::fs::remove_file(lab.folder.path().join("admin")).unwrap();
    let mut shown = |seconds| {
        let section = lab.at(seconds);
        let key = json_of(&section)["keys"]["admin_key"].clone();
        assert!(key["state"] == "denied" && key["error"].as_str().unwrap().contains("No such file"), "{key}");
        (section.configured_models, section.spend_usd, value(&section, &SPEND, ""), value(&section, &CONFIGURED, ""))
    };
    assert_eq!(shown(225), (Some(2), Some(0.25), Some(Some(0.25)), Some(Some(2.0))));
    assert_eq!(shown(255), (None, Some(0.25), Some(Some(0.25)), None));
    assert_eq!(shown(975), (None, None, None, None));
}

#[test]
fn a_host_that_is_starting_starts_its_gateway_too_and_nobody_elses() {
    let begun = fixture::now();
    let own = |url: &str| Own { kind: Some(Kind::Builtin), url: Some(url.into()), configured: true, ..Own::default() };
    for (own, config) in
        [(Some(own("http://127.0.0.1:1")), ""), (None, "kind = \"builtin\"\nurl = \"http://127.0.0.1:1\"")]
    {
        let (sources, is_own) = (Sources::default(), own.is_some());
        let host = Host { gateway: own, ..fixture::host(None) };
        let mut gateway = Gateway::new(toml::from_str(config).unwrap(), &host, &sources).unwrap().unwrap();
        sources.boot.tell(begun, Some(Duration::from_secs(100)));
        let mut excused = |seconds| {
            let section = runtime().block_on(gateway.collect(begun.plus(Duration::from_secs(seconds)))).unwrap();
            assert_eq!((value(&section, &UP, ""), value(&section, &READY, "")), (Some(Some(0.0)), Some(Some(0.0))));
            [&UP, &READY].map(|fact| is_excused(&section, fact, ""))
        };
        assert_eq!(excused(90), [is_own; 2]);
        assert_eq!(excused(105), [false; 2], "its time is over");
    }
}

#[test]
fn a_gateway_that_answers_wrongly_is_not_excused_by_a_start_of_its_host() {
    let well = || fake::json(200, "\"I'm alive!\"");
    let ready = |body: &str| fake::json(503, body);
    for (live, readiness, excused) in [
        (Manner::Closes, Manner::Closes, [true, true]),
        (fake::json(503, "{}"), fake::json(503, "{}"), [false, true]),
        (well(), ready(r#"{"status": "healthy", "db": "disconnected"}"#), [false, true]),
        (html(), html(), [false, false]),
        (fake::json(404, "{}"), fake::json(404, "{}"), [false, false]),
        (well(), html(), [false, false]),
        (well(), fake::json(402, "{}"), [false, false]),
    ] {
        let (fake, sources, told) = (Fake::new(), Sources::default(), format!("{live:?} {readiness:?}"));
        fake.on("/health/liveliness", live).on("/health/readiness", readiness);
        let (kind, url) = (Some(Kind::Litellm), Some(fake.url.clone()));
        let own = Own { kind, url, configured: true, ..Own::default() };
        let host = Host { gateway: Some(own), ..fixture::host(None) };
        let mut gateway = Gateway::new(Config::default(), &host, &sources).unwrap().unwrap();
        sources.boot.tell(fixture::now(), Some(Duration::from_secs(100)));
        let section = runtime().block_on(gateway.collect(fixture::now())).unwrap();
        assert_eq!([&UP, &READY].map(|fact| is_excused(&section, fact, "")), excused, "{told}");
    }
}

#[test]
fn of_a_gateway_that_starts_with_its_host_containers_and_models_are_excused_too() {
    let mut section = Lab::litellm("key_file = \"$DIR/key\"\nactive_health = \"background\"\n").at(0);
    let container = |state: &'static str| Container {
        state,
        restarts: None,
        health: None,
        oom_killed: None,
        exit_code: None,
        error: None,
        denied: false,
    };
    let hidden = Container { denied: true, ..container("unknown") };
    section.containers = [("gone", container("not_found")), ("runs", container("running")), ("hidden", hidden)]
        .map(|(name, container)| (name.into(), container))
        .into();
    let excused = |section: &Section| {
        let subjects = [(&CONTAINER_RUNNING, "gone"), (&CONTAINER_RUNNING, "runs"), (&HEALTHY, "")];
        subjects.map(|(fact, subject)| is_excused(section, fact, subject))
    };
    let withheld = |section: &Section| {
        let points = fixture::points::<Gateway>(section);
        let found = points.0.iter().find(|point| point.fact.is(&CONTAINER_RUNNING) && *point.subject() == *"hidden");
        found.map(|point| (point.value, point.withheld))
    };
    for (starting, healthy, expected) in [
        (false, Some(0), [false, false, false]),
        (true, Some(0), [true, false, true]),
        (true, Some(1), [true, false, false]),
        (true, None, [true, false, true]),
    ] {
        (section.starting, section.healthy_models) = (starting, healthy);
        assert_eq!(excused(&section), expected, "{starting} {healthy:?}");
        assert_eq!(withheld(&section), Some((None, Some(Cause::Denied))), "it is listed, and nobody may know");
    }
}

#[test]
fn no_model_fails_by_one_cycle_of_litellms_own_checks() {
    let folder = tempfile::tempdir().unwrap();
    let yaml = folder.path().join("litellm.yaml");
    let own = Own { kind: Some(Kind::Litellm), litellm_configs: vec![yaml.clone()], ..Own::default() };
    let host = Host { gateway: Some(own), ..fixture::host(None) };
    let minutes = |name: &str| {
        let checks = crate::collect::Subsystem::of::<Gateway>().checks_of(&host);
        checks.iter().find(|check| check.name == name).unwrap().fail_for.as_secs() / 60
    };
    let all = || ["gateway_models", "gateway_model_unhealthy", "gateway_up"].map(minutes);
    assert_eq!(all(), [11, 15, 2], "as LiteLLM comes");
    for (seconds, expected) in [(60, [11, 15, 2]), (300, [11, 15, 2]), (420, [15, 15, 2]), (1800, [61, 61, 2])] {
        let text = format!("general_settings: {{background_health_checks: true, health_check_interval: {seconds}}}");
        std::fs::write(&yaml, text).unwrap();
        assert_eq!(all(), expected, "{seconds} s");
    }
}

#[test]
fn a_refusing_gateway_and_a_docker_that_is_missing() {
    let fake = Fake::new();
    let own = Own {
        kind: Some(Kind::Litellm),
        url: Some("http://127.0.0.1:1".into()),
        configured: true,
        containers: Containers { gateway: Some("pynchy-litellm".into()), postgres: Some("pynchy-litellm-db".into()) },
        expects_database: Some(true),
        ..Own::default()
    };
    let mut lab = Lab::of(fake, "", Some(own));
    let section = lab.at(0);
    let json = json_of(&section);
    assert_eq!((&json["state"], &json["reason"]), (&json!("down"), &json!("refused")));
    assert_eq!((value(&section, &UP, ""), value(&section, &READY, "")), (Some(Some(0.0)), Some(Some(0.0))));
    assert_eq!(json["litellm_container"], "unknown");
    assert_eq!(json["postgres_container"], "unknown");
    assert!(json["containers"]["pynchy-litellm"]["error"].as_str().unwrap().contains("no socket"), "{json:#}");
    assert_eq!(
        value(&section, &CONTAINER_RUNNING, "pynchy-litellm"),
        Some(None),
        "that nobody tells is not `not found`"
    );
}

// -- providers

#[test]
fn each_provider_is_asked_the_cheapest_question_with_its_own_header() {
    let list = fake::json(200, r#"{"data": [{}, {}, {}], "models": [{}, {}]}"#);
    for (kind, path, header, models) in [
        ("openai", "/models", "authorization: bearer sk-one", Some(3)),
        ("anthropic", "/v1/models?limit=1", "x-api-key: sk-one", None),
        ("gemini", "/v1beta/models?pageSize=1", "x-goog-api-key: sk-one", None),
    ] {
        let fake = Fake::new();
        fake.on(path, list.clone());
        let mut lab = Lab::provider(kind, &fake, "key_file = \"$DIR/key\"\n");
        let section = lab.at(0);
        assert_eq!(
            (value(&section, &UP, ""), value(&section, &READY, "")),
            (Some(Some(1.0)), Some(Some(1.0))),
            "{kind}"
        );
        assert_eq!(section.configured_models, models, "{kind}");
        assert!(fake.head(path).contains(&format!("\r\n{header}\r\n")), "{}", fake.head(path));
        assert_eq!(fake.head(path).contains("anthropic-version: 2023-06-01"), kind == "anthropic");
        assert_eq!(fake.paths(), [path]);
        // A refused key: it is there all the same, and is asked without the key until the key may be tried again.
        let invalid = fake::json(400, r#"{"error": {"details": [{"reason": "API_KEY_INVALID"}]}}"#);
        fake.on(path, if kind == "gemini" { invalid } else { fake::json(401, "{}") });
        let section = lab.at(60);
        assert_eq!((value(&section, &UP, ""), value(&section, &READY, "")), (Some(Some(1.0)), None), "{kind}");
        assert_eq!(value(&section, &KEY_ACCEPTED, "key"), Some(Some(0.0)));
        let section = lab.at(120);
        assert!(!fake.head(path).contains("sk-one"));
        assert_eq!((value(&section, &UP, ""), value(&section, &READY, "")), (Some(Some(1.0)), None), "{kind}");
        fake.on(path, list.clone());
        lab.at(600);
        assert!(!fake.head(path).contains("sk-one"));
        assert_eq!(value(&lab.at(661), &KEY_ACCEPTED, "key"), Some(Some(1.0)));
    }
}

#[test]
fn a_provider_out_of_credit_or_overloaded_cannot_serve_and_one_that_is_tired_is_left_alone() {
    let fake = Fake::new();
    let mut lab = Lab::provider("openai", &fake, "key_file = \"$DIR/key\"\n");
    for (run, status, ready) in [(0, 402, Some(Some(0.0))), (1, 529, Some(Some(0.0))), (2, 404, None)] {
        fake.on("/models", fake::json(status, "{}"));
        let section = lab.at(run * 60);
        assert_eq!((value(&section, &UP, ""), value(&section, &READY, "")), (Some(Some(1.0)), ready), "{status}");
    }
    fake.on("/models", Manner::Says(429, "application/json", "Retry-After: 100\r\n".into(), "{}".into()));
    assert_eq!(value(&lab.at(180), &READY, ""), None);
    let asked = fake.asked("/models");
    lab.at(279);
    assert_eq!(fake.asked("/models"), asked);
    fake.on("/models", Manner::Says(429, "application/json", "Retry-After: 86400\r\n".into(), "{}".into()));
    lab.at(281);
    lab.at(281 + 899);
    assert_eq!(fake.asked("/models"), asked + 1);
    lab.at(281 + 901);
    assert_eq!(fake.asked("/models"), asked + 2, "a quarter of an hour is the most");
}

#[test]
fn the_builtin_gateway_lives_if_it_wants_a_key() {
    let fake = Fake::new();
    let path = "/agenthost-exporter-liveness";
    fake.on(path, fake::text(401, "Unauthorized"));
    let mut lab = Lab::provider("builtin", &fake, "");
    let section = lab.at(0);
    assert_eq!((value(&section, &UP, ""), value(&section, &READY, "")), (Some(Some(1.0)), Some(Some(1.0))));
    assert_eq!(json_of(&section)["mode"], "builtin");
    fake.on(path, fake::text(502, ""));
    let section = lab.at(15);
    assert_eq!((value(&section, &UP, ""), value(&section, &READY, "")), (Some(Some(1.0)), Some(Some(0.0))));
    fake.on(path, Manner::Closes);
    assert_eq!(value(&lab.at(30), &UP, ""), Some(Some(0.0)));
}

#[test]
fn ollama_is_asked_nothing_that_loads_a_model() {
    let fake = Fake::new();
    fake.on("/api/version", fake::json(200, r#"{"version": "0.9.0"}"#))
        .on("/api/tags", fake::json(200, r#"{"models": [{"name": "a"}, {"name": "b"}]}"#))
        .on("/api/ps", fake::json(200, r#"{"models": [{"name": "a"}]}"#));
    let mut lab = Lab::provider("ollama", &fake, "");
    let section = lab.at(0);
    assert_eq!((value(&section, &UP, ""), value(&section, &READY, "")), (Some(Some(1.0)), Some(Some(1.0))));
    assert_eq!((value(&section, &CONFIGURED, ""), value(&section, &LOADED, "")), (Some(Some(2.0)), Some(Some(1.0))));
    let mut paths = fake.paths();
    paths.sort();
    assert_eq!(paths, ["/api/ps", "/api/tags", "/api/version"]);
}

const VLLM: &str = "# HELP vllm:num_requests_running Running.\n# TYPE vllm:num_requests_running gauge\n\
    vllm:num_requests_running{engine=\"0\",model_name=\"a} b\"} 2.0\nvllm:num_requests_waiting{engine=\"0\"} 3.0\n\
    vllm:generation_tokens_total{engine=\"0\"} 100.0\nvllm:generation_tokens_total{engine=\"1\"} 1.5e2\n\
    vllm:prompt_tokens_total 7\nvllm:generation_tokens_created 1.7e9\n";

#[test]
fn a_vllm_that_says_it_is_well_and_makes_no_token_hangs() {
    let fake = Fake::new();
    let empty = || Manner::Says(200, "text/plain", String::new(), String::new());
    fake.on("/health", empty()).on("/metrics", text(200, VLLM)).on("/v1/models", fake::json(200, TWO));
    let mut lab = Lab::provider("vllm", &fake, "key_file = \"$DIR/key\"\n");
    let ready = |lab: &mut Lab, at| {
        let section = lab.at(at);
        (value(&section, &READY, "").flatten(), value(&section, &STANDS, "").flatten())
    };
    assert_eq!(ready(&mut lab, 0), (Some(1.0), Some(0.0)));
    let section = lab.at(15);
    assert_eq!((value(&section, &RUNNING, ""), value(&section, &WAITING, "")), (Some(Some(2.0)), Some(Some(3.0))));
    assert_eq!(section.configured_models, Some(2));
    assert_eq!(ready(&mut lab, 30), (Some(0.0), Some(30.0)), "half a minute without a token");
    assert!(lab.at(45).reason.unwrap().starts_with("no token has come for 45s"));
    fake.on("/metrics", text(200, &VLLM.replace("100.0", "101.0")));
    assert_eq!(ready(&mut lab, 60), (Some(1.0), Some(0.0)));
    fake.on("/metrics", text(200, &VLLM.replace("} 2.0", "} 0").replace("} 3.0", "} 0").replace("100.0", "101.0")));
    for at in [75, 90, 105, 120] {
        assert_eq!(ready(&mut lab, at), (Some(1.0), Some(0.0)), "nothing runs");
    }
    fake.on("/metrics", text(200, VLLM)); // it was restarted: fewer than before
    assert_eq!(ready(&mut lab, 135), (Some(1.0), Some(0.0)));
    fake.on("/metrics", text(200, "vllm:num_requests_running 2\n"));
    let section = lab.at(150);
    assert_eq!((value(&section, &RUNNING, ""), value(&section, &STANDS, "")), (None, None), "not all of it is told");
    fake.on("/health", fake::text(503, ""));
    assert_eq!(value(&lab.at(165), &READY, ""), Some(Some(0.0)));
}

#[test]
fn a_vllm_is_no_standstill_while_a_prompt_could_be_read() {
    let fake = Fake::new();
    let empty = || Manner::Says(200, "text/plain", String::new(), String::new());
    let without = |name: &str| {
        VLLM.lines().filter(|line| !line.starts_with(name)).fold(String::new(), |text, line| text + line + "\n")
    };
    fake.on("/health", empty()).on("/v1/models", fake::json(200, TWO));
    fake.on("/metrics", text(200, &without("vllm:prompt_tokens_total")));
    let mut lab = Lab::provider("vllm", &fake, "");
    let ready = |lab: &mut Lab, at| {
        let section = lab.at(at);
        (value(&section, &READY, "").flatten(), value(&section, &STANDS, "").flatten())
    };
    assert_eq!(ready(&mut lab, 0), (Some(1.0), Some(0.0)));
    assert_eq!(ready(&mut lab, 105), (Some(1.0), Some(105.0)), "it may read a long prompt, which it does not count");
    assert_eq!(ready(&mut lab, 120), (Some(0.0), Some(120.0)));
    fake.on("/metrics", text(200, &without("vllm:generation_tokens_total")));
    let section = lab.at(600);
    assert_eq!((value(&section, &RUNNING, ""), value(&section, &STANDS, "")), (Some(Some(2.0)), None), "not counted");
    assert_eq!(ready(&mut lab, 900), (Some(1.0), None));
    assert_eq!((section.configured_models, fake.head("/v1/models").contains("authorization")), (Some(2), false));
    assert_eq!(fake.asked("/v1/models"), 4, "once a minute at most, and without a key where none is given");
    fake.on("/v1/models", fake::json(401, "{}"));
    assert_eq!(lab.at(960).configured_models, None);
}

#[test]
fn providers_elsewhere_are_not_all_asked_at_the_same_second() {
    let lag = |url: &str, instance| provider::lag(Kind::Openai, url, instance).as_millis();
    assert_eq!([0, 500, 999, 1500].map(|instance| lag("https://api.openai.com/v1", instance)), [0, 7500, 14_985, 7500]);
    assert_eq!(lag("http://127.0.0.1:1", 500), 0);
    assert_eq!(provider::lag(Kind::Vllm, "https://gpu.example", 500), Duration::ZERO, "it is not asked in turns");
    assert_eq!(crate::source::process::instance(), crate::source::process::instance());
}

// -- the configuration

fn refusal(config: &str, own: Option<Own>) -> String {
    let folder = tempfile::tempdir().unwrap();
    match build(config, own, folder.path()) {
        Ok(_) => panic!("accepted: {config}"),
        Err(error) => format!("{error:#}"),
    }
}

#[test]
fn keys_that_contradict_each_other_are_refused() {
    let paid = "url = \"http://h:1\"\nkind = \"litellm\"\nkey_file = \"/k\"\nactive_health = \"paid\"\n";
    for (config, says) in [
        ("kind = \"lightllm\"", "unknown variant `lightllm`"),
        ("kinds = \"litellm\"", "unknown field `kinds`"),
        ("url = \"http://me:secret@h\"", "user and password"),
        ("url = \"http://h:1\"", "needs `kind` with its `url`"),
        ("kind = \"vllm\"", "needs `url`"),
        ("kind = \"litellm\"", "needs `url`"),
        ("postgres = \"5432\"", "must be host and port"),
        ("postgres = \"http://h/:5432\"", "must be host and port"),
        ("postgres = \"h:x\"", "must be host and port"),
        (paid, "needs `max_probes_per_day`"),
        (&format!("{paid}max_probes_per_day = 0"), "must be 1 to 288"),
        (&format!("{paid}max_probes_per_day = 289"), "must be 1 to 288"),
        ("max_probes_per_day = 3", "is of `active_health = \"paid\"` only"),
        ("active_health = \"background\"", "needs `key_file`"),
        ("active_health = \"always\"", "unknown variant `always`"),
        ("kind = \"openai\"\nkey_file = \"/k\"\nactive_health = \"background\"", "for LiteLLM only"),
    ] {
        let text = refusal(config, None);
        assert!(text.contains(says) && !text.contains("secret"), "{config}: {text}");
    }
}

#[test]
fn a_budget_that_nobody_keeps_is_refused() {
    let config: Config = toml::from_str(
        "url = \"http://h:1\"\nkind = \"litellm\"\nkey_file = \"/k\"\nactive_health = \"paid\"\nmax_probes_per_day = 3",
    )
    .unwrap();
    let refused = Gateway::new(config, &fixture::host(None), &Sources::default());
    let text = format!("{:#}", refused.err().unwrap());
    assert!(text.contains("`active_health = \"paid\"` needs `path` in [state]"), "{text}");
}

#[test]
fn a_host_without_a_gateway_measures_nothing_and_one_that_cannot_be_told_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let built = |own| build("", own, folder.path()).unwrap();
    assert!(built(None).is_none());
    let by_default = Own { kind: Some(Kind::Builtin), url: Some("http://127.0.0.1:4010".into()), ..Own::default() };
    assert!(built(Some(by_default.clone())).is_none(), "nobody speaks of it");
    assert!(matches!(built(Some(Own { configured: true, ..by_default })), Some(Gateway::Watched(_))));
    let mut untold = built(Some(Own { configured: true, ..Own::default() })).unwrap();
    let error = fixture::error(&mut untold);
    assert!(error.contains("`kind` and `url` in [collect.gateway] would"), "{error}");
}

#[test]
fn a_file_of_authorities_that_cannot_be_used_is_denied() {
    let mut lab = Lab::litellm("ca_file = \"$DIR/ca.pem\"\n");
    let failure = |lab: &mut Lab| Failure::from(lab.try_at(0).unwrap_err());
    let path = lab.folder.path().join("ca.pem");
    let missing = failure(&mut lab);
    assert_eq!(missing.cause, Cause::Denied);
    assert!(missing.error.starts_with(&format!("read {}: No such file", path.display())), "{missing:?}");
    std::fs::write(&path, "secret").unwrap();
    let error = failure(&mut lab).error;
    assert!(error.ends_with("there is no certificate in it") && !error.contains("secret"), "{error}");
}
