use serde_json::json;

use super::*;
use crate::collect::fixture::api::{Api, Say};
use crate::collect::fixture::{self, Fixture, at, value};
use crate::sample::{Cause, Failure};
use crate::source::key::KeyFile;

fn host(api: &Api) -> Host {
    Host { url: Some(api.url.as_str().into()), ..fixture::host(None) }
}

fn collector(host: &Host) -> Channels {
    let mut channels = Channels::new(Config {}, host, &Sources::default()).unwrap().unwrap();
    channels.within(Duration::from_secs(2));
    channels
}

fn look(channels: &mut Channels, time: &str) -> Result<Section> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(channels.collect(at(time)))
}

fn status(channels: serde_json::Value) -> serde_json::Value {
    json!({"service": {"status": "ok"}, "channels": channels, "tasks": [{"last_result": "a secret text"}]})
}

#[test]
fn booleans_and_objects_are_taken_and_nothing_is_made_up() {
    let api = Api::new();
    api.json(
        "/status",
        status(json!({
            "plain": true, "gone": false, "object": {"connected": true}, "own": {"connected": false, "status": "auth-failed"},
            "null": null, "text": "connected", "odd": {"connected": "yes", "status": "a text\nof two lines"},
        })),
    );
    let section = look(&mut collector(&host(&api)), "20:00:00").unwrap();
    let shown = |connected: Option<bool>, status: &str| json!({"connected": connected, "status": status, "since": "2026-11-21T20:00:00Z", "source": "/status"});
    let expected = json!({
        "plain": shown(Some(true), "connected"), "gone": shown(Some(false), "disconnected"),
        "object": shown(Some(true), "connected"), "own": shown(Some(false), "auth-failed"),
        "null": shown(None, "unknown"), "text": shown(None, "unknown"), "odd": shown(None, "unknown"),
    });
    assert_eq!(fixture::json::<Channels>(&section), expected);
    let points = fixture::points::<Channels>(&section);
    for (name, connected) in [("plain", Some(1.0)), ("gone", Some(0.0)), ("own", Some(0.0)), ("null", None)] {
        assert_eq!(value(&points, &CONNECTED, name), Some(connected), "{name}");
        assert_eq!(value(&points, &CONTRADICTED, name), None, "there is no database to contradict it");
    }
}

#[test]
fn a_state_stands_since_it_was_first_seen_and_silence_does_not_break_it() {
    let api = Api::new();
    let mut channels = collector(&host(&api));
    let mut since = |time: &str, slack: bool| {
        api.json("/status", status(json!({"slack": slack, "mail": true})));
        let section = look(&mut channels, time).unwrap();
        ["slack", "mail"].map(|name| section.channels[name].since.strftime("%H:%M").to_string())
    };
    assert_eq!(since("20:00:00", true), ["20:00", "20:00"]);
    assert_eq!(since("20:01:00", true), ["20:00", "20:00"]);
    assert_eq!(since("20:02:00", false), ["20:02", "20:00"]);
    api.say("/status", Say::Status(500));
    assert!(look(&mut channels, "20:03:00").is_err());
    api.json("/status", status(json!({"slack": false})));
    let section = look(&mut channels, "20:04:00").unwrap();
    assert_eq!(section.channels["slack"].since, at("20:02:00").wall);
    api.json("/status", status(json!({"slack": false, "mail": true})));
    let section = look(&mut channels, "20:05:00").unwrap();
    assert_eq!(section.channels["mail"].since, at("20:05:00").wall, "it was gone from the list");
    assert_eq!(value(&fixture::points::<Channels>(&section), &SINCE, "mail"), Some(Some(1_795_291_500.0)));
}

#[test]
fn every_bad_answer_has_its_name_and_none_is_quoted() {
    let api = Api::new();
    let mut channels = collector(&host(&api));
    let url = format!("ask {}/status: ", api.url);
    let cases = [
        (Say::Hang, Cause::Unanswered, "timed out"),
        (
            Say::Status(401),
            Cause::Denied,
            "answered with status 401: it wants a token; name its file with `token_file` in [host]",
        ),
        (Say::Status(500), Cause::Unanswered, "answered with status 500"),
        (Say::Html("{}".into()), Cause::Unanswered, "answered with status 200 and HTML instead of JSON"),
        (Say::Flood(50), Cause::Unanswered, "the answer is too large"),
        (
            Say::Json("{\"channels\": secret".into()),
            Cause::Unanswered,
            "answered with status 200 and invalid JSON (line 1 column 14)",
        ),
        (
            Say::Json("{\"channels\": [\"secret\"]}".into()),
            Cause::Unanswered,
            "answered with status 200 and JSON of another shape (line 1 column 13)",
        ),
        (
            Say::Json("{}".into()),
            Cause::Unanswered,
            "answered with status 200 and JSON of another shape (line 1 column 2)",
        ),
        (
            Say::Redirect("http://127.0.0.2:1/secret"),
            Cause::Unanswered,
            "answered with status 302, a redirect to another host, which is not followed",
        ),
    ];
    for (minute, (say, cause, text)) in cases.into_iter().enumerate() {
        api.say("/status", say.clone());
        let failure = Failure::from(look(&mut channels, &format!("20:{minute:02}:00")).unwrap_err());
        assert_eq!(failure, Failure { cause, error: format!("{url}{text}") }, "{say:?}");
    }
    assert_eq!(api.asked("/status"), 9, "each once: none is tried again or followed");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refused = Host { url: Some(format!("http://{closed}").as_str().into()), ..fixture::host(None) };
    let text = format!("{:#}", look(&mut collector(&refused), "20:00:00").unwrap_err());
    assert_eq!(text, format!("ask http://{closed}/status: refused"));
}

#[test]
fn the_token_goes_with_the_question_and_a_refused_one_is_named_by_its_file() {
    let api = Api::new();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let mut channels = collector(&Host { token: Some(KeyFile::new(&file)), ..host(&api) });
    let denied = |channels: &mut Channels, time: &str| {
        let failure = Failure::from(look(channels, time).unwrap_err());
        assert_eq!(failure.cause, Cause::Denied);
        assert!(!failure.error.contains("s3cret"), "{failure:?}");
        failure.error
    };
    assert!(denied(&mut channels, "20:00:00").starts_with(&format!("read {}: No such file", file.display())));
    assert_eq!(api.heads(), "", "nobody is asked without the key");
    std::fs::write(&file, "s3cret\n").unwrap();
    api.say("/status", Say::Status(403));
    let text = denied(&mut channels, "20:01:00");
    assert!(text.ends_with(&format!("status 403: it does not take the token in {}", file.display())), "{text}");
    assert!(api.heads().contains("authorization: Bearer s3cret\r\n"), "{}", api.heads());
    // A new token is a new question, at once.
    std::fs::write(&file, "other").unwrap();
    api.json("/status", status(json!({"slack": true})));
    assert_eq!(look(&mut channels, "20:01:01").unwrap().channels.len(), 1);
}

#[test]
fn where_the_status_is_not_polled_health_tells_of_any() {
    let api = Api::new();
    api.json("/health", json!({"status": "ok", "uptime_seconds": 2, "channels_connected": false}));
    let fixture = Fixture::new("");
    let host = Host { status_poll: None, database: fixture.host.database.clone(), ..host(&api) };
    let section = look(&mut collector(&host), "20:00:00").unwrap();
    let expected = json!({"any": {
        "connected": false, "status": "disconnected", "since": "2026-11-21T20:00:00Z", "source": "/health"}});
    assert_eq!(fixture::json::<Channels>(&section), expected);
    let points = fixture::points::<Channels>(&section);
    assert_eq!(value(&points, &CONNECTED, "any"), Some(Some(0.0)));
    assert_eq!(value(&points, &CONTRADICTED, "any"), None);
    assert_eq!((api.asked("/health"), api.asked("/status")), (1, 0));
}

/// What two channels come to, by `/status` and `/health` of this minute.
fn looked(channels: &mut Channels, minute: u32) -> Result<serde_json::Value, (Cause, String)> {
    let look = look(channels, &format!("20:{minute:02}:00")).map_err(Failure::from);
    look.map(|section| fixture::json::<Channels>(&section)).map_err(|failure| (failure.cause, failure.error))
}

#[test]
fn a_status_page_that_breaks_alone_is_no_outage_of_any_channel() {
    let api = Api::new();
    let health = |any: bool| json!({"status": "ok", "uptime_seconds": 2, "channels_connected": any});
    api.json("/health", health(true));
    api.json("/status", status(json!({"slack": true, "mail": false})));
    let mut channels = collector(&host(&api));
    let first = looked(&mut channels, 0).unwrap();
    assert_eq!((api.asked("/health"), first.as_object().unwrap().len()), (0, 2), "asked for only where it is needed");
    for (minute, say) in [(1, Say::Status(500)), (2, Say::Status(503)), (3, Say::Hang)] {
        api.say("/status", say.clone());
        // After a page that hangs a tenth of the run is left, in which a busy machine must answer.
        channels.within(if matches!(say, Say::Hang) { Channels::TIMEOUT } else { Duration::from_secs(2) });
        let (cause, text) = looked(&mut channels, minute).unwrap_err();
        assert_eq!(cause, Cause::Excused, "{say:?}");
        assert!(text.starts_with(&format!("ask {}/status: ", api.url)), "{text}");
        assert!(text.ends_with("; /health is well and says that a channel is connected, not which"), "{text}");
    }
    // None is connected: so is not each of them.
    api.json("/health", health(false));
    let told = looked(&mut channels, 4).unwrap();
    let lost = |since: &str| json!({"connected": false, "status": "disconnected", "since": since, "source": "/health"});
    assert_eq!(told, json!({"slack": lost("2026-11-21T20:04:00Z"), "mail": lost("2026-11-21T20:00:00Z")}));
    // `/health` is no better, or the token is refused.
    api.say("/health", Say::Status(500));
    api.say("/status", Say::Status(500));
    let silent = (Cause::Unanswered, format!("ask {}/status: answered with status 500", api.url));
    assert_eq!(looked(&mut channels, 5).unwrap_err(), silent);
    api.json("/health", health(true));
    api.say("/status", Say::Status(401));
    assert_eq!(looked(&mut channels, 6).unwrap_err().0, Cause::Denied);
}

#[test]
fn a_status_page_that_answers_something_else_is_not_excused() {
    let api = Api::new();
    api.json("/health", json!({"channels_connected": true}));
    api.json("/status", status(json!({"slack": true, "mail": true})));
    let mut channels = collector(&host(&api));
    looked(&mut channels, 0).unwrap();
    let others = [
        Say::Html("<p>".into()),
        Say::Json("{\"channels\": []}".into()),
        Say::Json("{\"channels\": {".into()),
        Say::Redirect("http://127.0.0.2:1/secret"),
        Say::Flood(50),
        Say::Status(404),
        Say::Status(502),
    ];
    for (minute, say) in (1..).zip(others) {
        api.say("/status", say.clone());
        let (cause, text) = looked(&mut channels, minute).unwrap_err();
        assert_eq!((cause, text.contains(HEALTH)), (Cause::Unanswered, false), "{say:?}: {text}");
    }
    assert_eq!(api.asked("/health"), 0);
}

#[test]
fn of_one_channel_or_of_none_known_yet_health_tells_all() {
    let api = Api::new();
    api.json("/health", json!({"channels_connected": true}));
    api.json("/status", status(json!({"slack": true})));
    let mut channels = collector(&host(&api));
    looked(&mut channels, 0).unwrap();
    api.say("/status", Say::Status(500));
    let shown = |connected: bool, since: &str, source: &str| {
        let status = if connected { "connected" } else { "disconnected" };
        json!({"connected": connected, "status": status, "since": since, "source": source})
    };
    let eight = "2026-11-21T20:00:00Z";
    assert_eq!(looked(&mut channels, 1).unwrap(), json!({"slack": shown(true, eight, "/health")}), "since it was so");
    // From the start: that any is connected says nothing of those whose verdict was kept.
    let mut channels = collector(&host(&api));
    assert_eq!(looked(&mut channels, 0).unwrap_err().0, Cause::Excused);
    // That none is says all, and `any` is told of from then on, later by the page: it does not leave while it is critical.
    api.json("/health", json!({"channels_connected": false}));
    let mut channels = collector(&host(&api));
    assert_eq!(looked(&mut channels, 0).unwrap(), json!({"any": shown(false, eight, "/health")}));
    api.json("/health", json!({"channels_connected": true}));
    let later = "2026-11-21T20:00:30Z";
    let section = look(&mut channels, "20:00:30").unwrap();
    assert_eq!(
        fixture::json::<Channels>(&section),
        json!({"any": shown(true, later, "/health")}),
        "it is connected again"
    );
    for (minute, slack, mail, any) in [
        (1, json!(false), json!(true), json!(true)),
        (2, json!(false), json!(null), json!(null)),
        (3, json!(false), json!(false), json!(false)),
    ] {
        api.json("/status", status(json!({"slack": slack, "mail": mail})));
        let told = looked(&mut channels, minute).unwrap();
        assert_eq!((&told["any"]["connected"], told.as_object().unwrap().len()), (&any, 3));
    }
    api.say("/status", Say::Status(500));
    assert_eq!(looked(&mut channels, 4).unwrap_err().0, Cause::Excused);
    api.json("/health", json!({"channels_connected": false}));
    let told = looked(&mut channels, 5).unwrap();
    assert!(["any", "slack", "mail"].iter().all(|name| told[name]["connected"] == false), "{told:#}");
}

#[test]
fn a_host_that_is_starting_is_given_its_time() {
    let (api, starting) = (Api::new(), Sources::default());
    for profile in [Profile::Pynchy, Profile::Netclaw] {
        let url = Some("http://127.0.0.1:1".into());
        let host = Host { profile, url, ..host(&api) };
        let mut channels = Channels::new(Config {}, &host, &starting).unwrap().unwrap();
        starting.boot.tell(at("20:00:00"), Some(Duration::from_secs(90)));
        for (minute, cause) in [(0, Cause::Excused), (1, Cause::Excused), (2, Cause::Unanswered)] {
            let (told, text) = looked(&mut channels, minute).unwrap_err();
            assert_eq!((told, text.ends_with("(the host is starting)")), (cause, cause == Cause::Excused), "{text}");
        }
    }
    // Of a silent endpoint too.
    let (other, hung) = (Api::new(), Api::new());
    other.json("/s", json!({"slack": true}));
    hung.say("/s", Say::Status(503));
    let endpoint = |name: &str, api: &Api| {
        let url = &api.url;
        toml::from_str(&format!("name = \"{name}\"\nurl = \"{url}/s\"\nchannels = {{ {name} = \"/slack\" }}")).unwrap()
    };
    let mut host = Host { profile: Profile::Generic, url: None, ..host(&api) };
    host.listed.http = vec![endpoint("well", &other), endpoint("silent", &hung)];
    let mut channels = Channels::new(Config {}, &host, &starting).unwrap().unwrap();
    let excused = |channels: &mut Channels, time: &str| {
        let points = fixture::points::<Channels>(&look(channels, time).unwrap());
        let of =
            |name: &str| points.0.iter().find(|point| point.fact.is(&CONNECTED) && *point.subject() == *name).unwrap();
        [of("well"), of("silent")].map(|point| point.withheld.is_some())
    };
    starting.boot.tell(at("20:00:00"), Some(Duration::from_secs(90)));
    assert_eq!(excused(&mut channels, "20:01:00"), [false, true]);
    hung.say("/s", Say::Status(500));
    assert_eq!(excused(&mut channels, "20:01:20"), [false, false], "it answers, and wrongly");
    hung.say("/s", Say::Status(503));
    assert_eq!(excused(&mut channels, "20:02:00"), [false, false]);
}

#[test]
fn a_host_that_is_starting_and_answers_wrongly_is_not_excused() {
    for (say, cause) in [
        (Say::Status(502), Cause::Excused),
        (Say::Status(503), Cause::Excused),
        (Say::Status(504), Cause::Excused),
        (Say::Hang, Cause::Excused),
        (Say::Status(401), Cause::Denied),
        (Say::Status(404), Cause::Unanswered),
        (Say::Status(500), Cause::Unanswered),
        (Say::Html("<p>".into()), Cause::Unanswered),
        (Say::Json("{\"connectors\": 7}".into()), Cause::Unanswered),
        (Say::Json("{".into()), Cause::Unanswered),
        (Say::Redirect("http://127.0.0.2:1/secret"), Cause::Unanswered),
        (Say::Flood(50), Cause::Unanswered),
    ] {
        for profile in [Profile::Pynchy, Profile::Netclaw] {
            let (api, starting) = (Api::new(), Sources::default());
            for path in ["/status", "/health", "/api/health/status"] {
                api.say(path, say.clone());
            }
            let mut channels = Channels::new(Config {}, &Host { profile, ..host(&api) }, &starting).unwrap().unwrap();
            channels.within(Duration::from_secs(2));
            starting.boot.tell(at("20:00:00"), Some(Duration::from_secs(90)));
            let (told, text) = looked(&mut channels, 1).unwrap_err();
            assert_eq!(told, cause, "{say:?}: {text}");
            assert_eq!(text.ends_with("(the host is starting)"), cause == Cause::Excused, "{text}");
        }
    }
}

#[test]
fn a_status_that_is_no_longer_free_is_not_asked_for_before_the_change_is_taken_in() {
    let (api, root) = (Api::new(), tempfile::tempdir().unwrap());
    api.json("/status", status(json!({"slack": true})));
    let write = |name: &str, text: &str| std::fs::write(root.path().join(name), text).unwrap();
    write("config.toml", "[gateway]\nlitellm_config = \"litellm.yaml\"\n");
    write("litellm.yaml", "general_settings: {background_health_checks: true}");
    let free = Host { root: Some(root.path().into()), is_free_by_its_own_word: true, ..host(&api) };
    let told = Host { is_free_by_its_own_word: false, ..free.clone() };
    let mut channels = [free, told].map(|host| collector(&host));
    let asked =
        |channels: &mut [Channels], minute| channels.iter_mut().map(|one| looked(one, minute).map(drop)).collect();
    let both: Vec<_> = asked(&mut channels, 0);
    assert_eq!((both, api.asked("/status")), (vec![Ok(()), Ok(())], 2));
    for (minute, file, text) in [
        (1, "litellm.yaml", "general_settings: {background_health_checks: false}"),
        (2, "litellm.yaml", "general_settings: {"),
        (3, "config.toml", "[gateway]\nlitellm_config = \"other.yaml\"\n"),
    ] {
        write(file, text);
        let both: Vec<_> = asked(&mut channels, minute);
        let (cause, error) = both[0].clone().unwrap_err();
        assert_eq!((cause, &both[1]), (Cause::Unanswered, &Ok(())), "the operator's word stands");
        assert!(
            error.starts_with("the host's configuration has changed, and its /status is not asked for any more: "),
            "{error}"
        );
        assert_eq!(api.asked("/status"), 2 + minute as usize);
    }
    write("config.toml", "");
    assert_eq!(asked(&mut channels[..1], 4), [Ok(())]);
}

const DELIVERIES: &str = "
    INSERT INTO outbound_ledger (id, chat_jid, content, timestamp, source) VALUES
        (1, 'a', 'x', '2026-11-21T19:00:00+00:00', 'agent'), (2, 'a', 'x', '2026-11-21T19:55:00+00:00', 'agent'),
        (3, 'a', 'x', 'no date', 'agent');
    INSERT INTO outbound_deliveries (ledger_id, channel_name, delivered_at, error) VALUES
        (1, 'erring', NULL, 'a secret text'), (1, 'gone', NULL, 'x'), (1, 'late', NULL, NULL), (2, 'young', NULL, NULL),
        (3, 'undated', NULL, NULL), (1, 'done', '2026-11-21T19:00:01+00:00', NULL);";

#[test]
fn deliveries_contradict_a_channel_that_is_called_connected() {
    let api = Api::new();
    let (fixture, word) = (Fixture::new(DELIVERIES), true);
    api.json(
        "/status",
        status(json!({"erring": word, "late": word, "young": word, "undated": word, "done": word, "quiet": word,
                      "gone": false, "unsure": null})),
    );
    let mut channels = collector(&Host { database: fixture.host.database.clone(), ..host(&api) });
    let section = look(&mut channels, "20:00:00").unwrap();
    let points = fixture::points::<Channels>(&section);
    for (name, contradicted) in [
        ("erring", Some(1.0)),
        ("late", Some(1.0)),
        ("young", Some(0.0)),
        ("undated", None),
        ("done", Some(0.0)),
        ("quiet", Some(0.0)),
        ("gone", Some(0.0)),
        ("unsure", None),
    ] {
        assert_eq!(value(&points, &CONTRADICTED, name), Some(contradicted), "{name}");
    }
    // The young one grows old though nothing is written.
    let points = fixture::points::<Channels>(&look(&mut channels, "20:05:01").unwrap());
    assert_eq!(value(&points, &CONTRADICTED, "young"), Some(Some(1.0)));
    // Without its database the host's word stands alone.
    std::fs::remove_file(fixture.folder.path().join("messages.db")).unwrap();
    let points = fixture::points::<Channels>(&look(&mut channels, "20:06:00").unwrap());
    assert_eq!(value(&points, &CONNECTED, "erring"), Some(Some(1.0)));
    assert_eq!(value(&points, &CONTRADICTED, "erring"), Some(None));
    assert_eq!(value(&points, &CONTRADICTED, "gone"), Some(Some(0.0)));
}

#[test]
fn no_channels_are_no_failure_and_a_long_name_is_one() {
    let api = Api::new();
    let mut channels = collector(&host(&api));
    api.json("/status", status(json!({})));
    assert!(look(&mut channels, "20:00:00").unwrap().channels.is_empty());
    api.json("/status", status(json!({"x".repeat(201): true})));
    let text = format!("{:#}", look(&mut channels, "20:01:00").unwrap_err());
    assert_eq!(text, "a channel's name has over 200 bytes");
}

/// As a real one answers, with what else there may be.
fn netclaw() -> serde_json::Value {
    let one = |key: &str, status: &str| {
        json!({
        "key": key, "displayName": "a secret text", "enabled": status != "disabled", "status": status, "message": "a secret text"})
    };
    let connectors = [
        one("slack", "healthy"),
        one("discord", "disconnected"),
        one("mattermost", "disabled"),
        one("teams", "auth-failed"),
        one("irc", "degraded"),
        one("mail", "auth-required"),
        one("matrix", "unknown"),
        one("signal", "sleeping"),
        one("mcp:github", "auth-required"),
        one("tui", "disconnected"),
    ];
    json!({"overall": "degraded", "connectors": connectors})
}

#[test]
fn of_netclaws_connectors_the_channels_count_and_what_is_off_is_not_there() {
    let api = Api::new();
    api.json("/api/health/status", netclaw());
    let host = Host { profile: Profile::Netclaw, ..host(&api) };
    let section = look(&mut collector(&host), "20:00:00").unwrap();
    let points = fixture::points::<Channels>(&section);
    for (name, connected) in [
        ("slack", Some(Some(1.0))),
        ("discord", Some(Some(0.0))),
        ("teams", Some(Some(0.0))),
        ("irc", Some(Some(0.0))),
        ("mail", Some(Some(0.0))),
        ("matrix", Some(None)),
        ("signal", Some(None)),
        ("mattermost", None),
        ("mcp:github", None),
        ("tui", None),
    ] {
        assert_eq!(value(&points, &CONNECTED, name), connected, "{name}");
    }
    let shown = fixture::json::<Channels>(&section);
    assert_eq!(shown["teams"]["status"], "auth-failed");
    assert_eq!(
        (shown["irc"]["source"].as_str(), shown.to_string().contains("secret")),
        (Some("/api/health/status"), false)
    );
}

#[test]
fn hosts_without_channels_have_no_collector_of_them() {
    let api = Api::new();
    for profile in [Profile::PiWeb, Profile::Openclaw, Profile::Generic] {
        let host = Host { profile, ..host(&api) };
        assert!(Channels::new(Config {}, &host, &Sources::default()).unwrap().is_none(), "{profile:?}");
    }
}

#[test]
fn mapped_channels_are_as_their_words_mean_and_one_silent_endpoint_is_unknown_alone() {
    let (api, hung) = (Api::new(), Api::new());
    api.json("/s", json!({"slack": {"state": "open"}, "mail": "closed", "irc": true, "odd": "a secret"}));
    hung.say("/s", Say::Hang);
    let text = |name: &str, api: &Api, channels: &str| {
        let url = &api.url;
        let states = "states = { open = true, closed = false }";
        toml::from_str::<Endpoint>(&format!("name = \"{name}\"\nurl = \"{url}/s\"\n{states}\nchannels = {channels}"))
            .unwrap()
    };
    let mut host = Host { profile: Profile::Generic, url: None, ..host(&api) };
    host.listed.http = vec![
        text(
            "chats",
            &api,
            "{ slack = \"/slack/state\", mail = \"/mail\", irc = \"/irc\", odd = \"/odd\", gone = \"/gone\" }",
        ),
        text("other", &hung, "{ phone = \"/phone\" }"),
    ];
    let mut channels = collector(&host);
    let section = look(&mut channels, "20:00:00").unwrap();
    let shown = fixture::json::<Channels>(&section);
    for (name, connected, status) in [
        ("slack", json!(true), "open"),
        ("mail", json!(false), "closed"),
        ("irc", json!(true), "connected"),
        ("odd", Value::Null, "unknown"),
        ("gone", Value::Null, "unknown"),
        ("phone", Value::Null, "unknown"),
    ] {
        assert_eq!((&shown[name]["connected"], shown[name]["status"].as_str()), (&connected, Some(status)), "{name}");
    }
    assert_eq!(shown["slack"]["source"], "http chats");
    api.say("/s", Say::Status(500));
    let text = format!("{:#}", look(&mut channels, "20:01:00").unwrap_err());
    assert!(text.ends_with("/s: answered with status 500"), "{text}");
}
