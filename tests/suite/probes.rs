//! The lines of `/readyz` and `/livez`, and that probe, metric and JSON say the same of every snapshot.

use std::time::Duration;

use agenthost_exporter::health::Overall;
use agenthost_exporter::sample::{Cause, Now};
use agenthost_exporter::show::probes::{self, Asked, Probe, Reasons};
use agenthost_exporter::show::{Show, metrics, status};
use http_body_util::BodyExt;
use hyper::{Method, Request, StatusCode};
use serde_json::Value;

use crate::stage::{Dice, Stage, Told};

const UP: Told<'static> = ("agenthost_service_up", &[], Some(1.0));
const DOWN: Told<'static> = ("agenthost_service_up", &[], Some(0.0));
const ANSWERS: Told<'static> = ("agenthost_service_responding", &[], Some(1.0));

fn ask(stage: &Stage, query: &str, reasons: Reasons) -> Probe {
    probes::ready(&stage.current(), stage.now, &Asked::of(Some(query)), reasons).unwrap()
}

/// The lines of `/readyz?verbose` that decide, without those of which nothing is to be said.
fn lines(stage: &Stage) -> Vec<String> {
    let text = ask(stage, "verbose", Reasons::Shown).text;
    text.lines()
        .filter(|line| line.starts_with('[') && line.contains(": "))
        .filter(|line| !line.starts_with("[ ]"))
        .map(str::to_owned)
        .collect()
}

/// Those that do not.
fn aside(stage: &Stage) -> Vec<String> {
    let text = ask(stage, "verbose", Reasons::Shown).text;
    text.lines().filter(|line| line.starts_with("[ ]")).map(str::to_owned).collect()
}

fn host(text: &str) -> Stage {
    let mut stage = Stage::new(text);
    stage.see("service", &[UP, ANSWERS]);
    stage
}

#[test]
fn every_state_has_its_line() {
    let mut stage = Stage::new("");
    assert_eq!(
        ask(&stage, "", Reasons::Shown).text,
        "[+]loop ok\n\
         [-]started failed: not every collector with a critical check has seen something yet\n\
         [+]service_up ok: nothing known yet\n\
         [+]service_responding ok: nothing known yet\n\
         readyz check failed\n"
    );
    stage.see("service", &[UP, ANSWERS]);
    assert_eq!(ask(&stage, "", Reasons::Shown), Probe { ok: true, text: "ok\n".into() });
    assert_eq!(
        ask(&stage, "verbose", Reasons::Shown).text,
        "[+]loop ok\n[+]started ok\n[+]service_up ok\n[+]service_responding ok\nreadyz check passed\n"
    );

    stage.see_on(2, "service", &[DOWN, ANSWERS]);
    stage.pass(5);
    assert_eq!(lines(&stage), ["[+]service_up ok: bad 20s (2 of 3), fail_for 2m"]);
    stage.pass(10);
    stage.see_on(7, "service", &[DOWN, ANSWERS]);
    assert!(!ask(&stage, "", Reasons::Shown).ok);
    assert_eq!(
        ask(&stage, "", Reasons::Shown).text,
        "[+]loop ok\n[+]started ok\n\
         [-]service_up failed: bad 2m15s (9 of 10), fail_for 2m, recovers after 1m ok\n\
         [+]service_responding ok\nreadyz check failed\n"
    );
    stage.pass(7);
    assert_eq!(lines(&stage), ["[-]service_up failed: bad 2m22s (9 of 10), fail_for 2m, recovers after 1m ok"]);
    stage.see_on(2, "service", &[UP, ANSWERS]);
    assert_eq!(lines(&stage), ["[-]service_up failed: recovering 15s, fail_for 2m, recovers after 1m ok"]);
    stage.see_on(3, "service", &[UP, ANSWERS]);
    assert_eq!(lines(&stage), Vec::<String>::new());
}

#[test]
fn silence_and_refusal_have_theirs() {
    let mut stage = host("");
    stage.pass(15);
    stage.take("service", Err(Cause::Unanswered));
    stage.pass(5);
    let both = |line: &str| [format!("[+]service_up ok: {line}"), format!("[+]service_responding ok: {line}")];
    assert_eq!(lines(&stage), both("unanswered 5s, fails in 4m55s"));
    let others = [
        "[ ]service_restart_loop unknown (warning): unanswered 5s",
        "[ ]service_ready unknown (warning): unanswered 5s",
        "[ ]collector_up service failing (warning): bad 5s (1 of 2), fail_for 5m",
    ];
    assert_eq!(aside(&stage), others);
    stage.take("service", Err(Cause::Denied));
    assert_eq!(lines(&stage), both("denied 5s"), "a refusal never fails");
    stage.take("service", Err(Cause::Excused));
    assert_eq!(lines(&stage), both("excused 5s"), "nor does what is excused");
    for _ in 0..21 {
        stage.pass(15);
        stage.take("service", Err(Cause::Unanswered));
    }
    let failed =
        |line: &str| [format!("[-]service_up failed: {line}"), format!("[-]service_responding failed: {line}")];
    assert_eq!(lines(&stage), failed("unanswered 5m20s, unknown_for 5m"));
}

#[test]
fn what_does_not_decide_is_set_apart() {
    let pending: Told<'_> = ("agenthost_deliveries_oldest_pending_seconds", &["slack\n[-]x"], Some(900.0));
    let mut stage = host("[checks.deliveries_pending]\nfail_for = \"15s\"\n");
    stage.see_on(2, "messages", &[pending]);
    let line =
        r"[ ]deliveries_pending slack\n[-]x failed (warning): bad 15s (2 of 2), fail_for 15s, recovers after 1m ok";
    assert_eq!(aside(&stage), [line], "and a name cannot begin a line");
    assert!(ask(&stage, "verbose", Reasons::Shown).ok);
    stage.see_on(9, "service", &[DOWN, ANSWERS]);
    assert!(!ask(&stage, "", Reasons::Shown).text.contains("[ ]"), "only a verbose answer has it");
}

#[test]
fn one_that_has_failed_and_may_says_by_what() {
    let text = "[checks.deliveries_pending]\nfail_for = \"15s\"\nseverity = \"critical\"\nready_needs = \"any\"\n";
    let mut stage = host(text);
    let slack: Told<'_> = ("agenthost_deliveries_oldest_pending_seconds", &["slack"], Some(900.0));
    let mail: Told<'_> = ("agenthost_deliveries_oldest_pending_seconds", &["mail"], Some(0.0));
    stage.see_on(2, "messages", &[slack, mail]);
    stage.see("service", &[UP, ANSWERS]);
    let text = ask(&stage, "verbose", Reasons::Shown).text;
    let slack =
        "[+]deliveries_pending slack ok by ready_needs any: bad 15s (2 of 2), fail_for 15s, recovers after 1m ok\n";
    assert!(text.contains(slack) && text.contains("[+]deliveries_pending mail ok\n"), "{text}");
    assert!(text.ends_with("readyz check passed\n"), "{text}");
}

#[test]
fn reasons_can_be_withheld_and_names_stay() {
    let mut stage =
        host("[checks.service_responding]\nfail_for = \"10m\"\n[checks.deliveries_pending]\nfail_for = \"0s\"");
    let pending: Told<'_> = ("agenthost_deliveries_oldest_pending_seconds", &["slack"], Some(900.0));
    stage.see_on(2, "messages", &[pending]);
    stage.see_on(9, "service", &[DOWN, ("agenthost_service_responding", &[], Some(0.0))]);
    let expected = "[+]loop ok\n[+]started ok\n\
        [-]service_up failed: reason withheld\n\
        [+]service_responding ok\nreadyz check failed\n";
    assert_eq!(ask(&stage, "verbose", Reasons::Withheld), Probe { ok: false, text: expected.into() });
}

#[test]
fn checks_can_be_excluded() {
    let mut stage = host("");
    stage.see_on(9, "service", &[DOWN, ANSWERS]);
    let probe = ask(&stage, "verbose&exclude=service_up", Reasons::Shown);
    assert!(probe.ok);
    assert_eq!(
        probe.text,
        "[+]loop ok\n[+]started ok\n[+]service_up excluded: ok\n[+]service_responding ok\nreadyz check passed\n"
    );
    assert_eq!(ask(&stage, "exclude=service_up", Reasons::Shown), Probe { ok: true, text: "ok\n".into() });
    let probe = ask(&stage, "exclude=servise_up&exclude=loop&exclude=", Reasons::Shown);
    assert!(!probe.ok);
    let warning = "warn: some health checks cannot be excluded: no matches for \"servise_up\", \"loop\"\n";
    assert!(probe.text.ends_with(&format!("{warning}readyz check failed\n")), "{}", probe.text);

    let stage = Stage::new("");
    let probe = ask(&stage, "verbose&exclude=started", Reasons::Shown);
    assert!(probe.ok && probe.text.contains("[+]started excluded: ok\n"), "{}", probe.text);
}

#[test]
fn one_check_answers_for_itself() {
    let mut stage = host("[checks.deliveries_pending]\nfail_for = \"15s\"\n");
    let pending: Told<'_> = ("agenthost_deliveries_oldest_pending_seconds", &["slack"], Some(900.0));
    stage.see_on(2, "messages", &[pending]);
    stage.see("service", &[UP, ANSWERS]);
    let only = |check: &str| {
        let asked = Asked::of(Some("verbose")).only(check);
        probes::ready(&stage.current(), stage.now, &asked, Reasons::Shown)
    };
    let frame = |line: &str, passed: &str| format!("[+]loop ok\n[+]started ok\n{line}readyz check {passed}\n");
    assert_eq!(only("service_up").unwrap().text, frame("[+]service_up ok\n", "passed"));
    let warning = only("deliveries_pending").unwrap();
    assert!(!warning.ok, "a warning too");
    let line = "[-]deliveries_pending slack failed: bad 15s (2 of 2), fail_for 15s, recovers after 1m ok\n";
    assert_eq!(warning.text, frame(line, "failed"));
    assert_eq!(only("task_stuck").unwrap().text, frame("[+]task_stuck ok: nothing known yet\n", "passed"));
    assert_eq!(only("started").unwrap().text, frame("", "passed"));
    assert_eq!(only("loop").unwrap().text, "[+]loop ok\nreadyz check passed\n");
    assert_eq!(only("strangers"), None);
}

#[test]
fn without_a_heart_no_verdict_is_shown() {
    let stage = host("");
    let late = stage.now.plus(Duration::from_secs(11));
    let current = stage.current();
    let stopped = "[-]loop failed: the sidecar's own loop has stopped, so no verdict holds\n";
    let ready = probes::ready(&current, late, &Asked::of(Some("verbose&exclude=loop")), Reasons::Shown).unwrap();
    assert!(!ready.ok && ready.text.starts_with(stopped), "{}", ready.text);
    assert!(ready.text.ends_with("no matches for \"loop\"\nreadyz check failed\n"), "{}", ready.text);
    assert!(!ready.text.contains("service_up"));
    let live = probes::live(&current, late, &Asked::default()).unwrap();
    assert_eq!(live, Probe { ok: false, text: format!("{stopped}livez check failed\n") });
    let live = |query, only: Option<&str>| {
        let asked = only.into_iter().fold(Asked::of(Some(query)), Asked::only);
        probes::live(&current, stage.now, &asked)
    };
    assert_eq!(live("verbose", None).unwrap().text, "[+]loop ok\nlivez check passed\n");
    assert_eq!(live("", Some("loop")).unwrap().text, "ok\n");
    assert_eq!(live("", Some("service_up")), None, "the host's business");
}

fn answer(stage: &Stage, method: Method, path: &str) -> (StatusCode, String) {
    answer_of(&Show::new(&stage.current(), None, false), stage, method, path)
}

fn answer_of(show: &Show, stage: &Stage, method: Method, path: &str) -> (StatusCode, String) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    runtime.block_on(async {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let answer = show.answer(&request, stage.now, Reasons::Shown).await;
        let status = answer.status();
        let length = answer.headers().get("content-length").map(|length| length.to_str().unwrap().to_owned());
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, length.unwrap_or_else(|| String::from_utf8(body.into()).unwrap()))
    })
}

#[test]
fn one_that_stops_is_not_ready_and_lives() {
    let stage = host("");
    let show = Show::new(&stage.current(), None, false);
    let code = |path: &str| answer_of(&show, &stage, Method::GET, path).0.as_u16();
    assert_eq!(["/readyz", "/-/ready", "/livez", "/-/healthy"].map(code), [200; 4]);
    show.stop();
    let paths = ["/readyz", "/readyz?verbose", "/readyz/service_up", "/-/ready", "/livez", "/-/healthy", "/metrics"];
    assert_eq!(paths.map(code), [503, 503, 503, 503, 200, 200, 200]);
}

#[test]
fn the_status_code_is_the_contract() {
    let mut stage = host("");
    let code = |stage: &Stage, path: &str| answer(stage, Method::GET, path).0.as_u16();
    for path in ["/readyz", "/readyz?verbose", "/readyz/service_up", "/livez?verbose", "/livez/loop", "/-/ready"] {
        assert_eq!(code(&stage, path), 200, "{path}");
    }
    stage.see_on(9, "service", &[DOWN, ANSWERS]);
    for (path, expected) in [
        ("/readyz", 503),
        ("/readyz?verbose=1", 503),
        ("/readyz?exclude=service_up", 200),
        ("/readyz/service_up", 503),
        ("/readyz/service_up?exclude=service_up", 200),
        ("/readyz/service_responding", 200),
        ("/readyz/nothing", 404),
        ("/readyz/", 404),
        ("/livez", 200),
        ("/livez/nothing", 404),
        ("/-/healthy", 200),
    ] {
        assert_eq!(code(&stage, path), expected, "{path}");
    }
    assert_eq!(answer(&stage, Method::GET, "/readyz/nothing").1, "no such check: ?verbose lists them\n");
    let text = answer(&stage, Method::GET, "/readyz").1;
    assert_eq!(answer(&stage, Method::HEAD, "/readyz"), (StatusCode::SERVICE_UNAVAILABLE, text.len().to_string()));
    assert_eq!(answer(&stage, Method::POST, "/readyz/service_up").0, StatusCode::METHOD_NOT_ALLOWED);
}

fn facts_agree(stage: &Stage, context: &str) {
    let snapshot = stage.snapshot();
    let json: Value = serde_json::to_value(status::Status(&snapshot)).unwrap();
    let health = &json["health"];
    let probe = ask(stage, "verbose", Reasons::Shown);
    assert_eq!(health["ready"], probe.ok, "{context}");
    assert_eq!(stage.metric("agenthost_ready", &[]), Some(f64::from(u8::from(probe.ok))), "{context}");
    for overall in Overall::ALL {
        let held = f64::from(u8::from(health["overall"] == overall.name()));
        assert_eq!(stage.metric("agenthost_health_state", &[overall.name()]), Some(held), "{context}");
    }
    let refused = probe.text.lines().filter(|line| line.starts_with("[-]")).count();
    assert_eq!(refused == 0, probe.ok, "{context}: {}", probe.text);
    for check in health["checks"].as_array().unwrap() {
        let of = |key: &str| check[key].as_str().unwrap();
        let labels = [of("check"), of("subject"), of("severity")];
        let metric = |name: &str| stage.metric(&format!("agenthost_check_{name}"), &labels);
        let context = format!("{context}: {check}");
        let failed = match of("state") {
            "starting" => None,
            state => Some(f64::from(u8::from(["failed", "recovering"].contains(&state)))),
        };
        assert_eq!(metric("failed"), failed, "{context}");
        assert_eq!(metric("bad").is_some(), metric("unknown") == Some(0.0), "{context}");
        match of("state") {
            "failing" => assert_eq!(metric("bad"), Some(1.0), "{context}"),
            "unknown" => assert_eq!(metric("unknown"), Some(1.0), "{context}"),
            "recovering" => assert_ne!(metric("bad"), Some(1.0), "{context}"),
            _ => {}
        }
        if failed == Some(1.0) || of("state") == "failing" {
            assert!(metric("bad_since_timestamp_seconds").is_some(), "{context}");
        }
        // A long pause in which nobody watched ends a streak, though the latest look before it was bad.
        if ["starting", "ok"].contains(&of("state")) {
            assert_eq!(metric("bad_since_timestamp_seconds"), None, "{context}");
        }
        let line = probe.text.lines().find(|line| line.starts_with("[-]") && line[3..].starts_with(labels[0]));
        if let Some(line) = line.filter(|_| health["overall"] != "starting") {
            let down = ["failed", "recovering"];
            let all = health["checks"].as_array().unwrap();
            let cause =
                all.iter().any(|one| one["check"] == labels[0] && down.contains(&one["state"].as_str().unwrap()));
            assert!(cause, "{context}: {line}");
        }
    }
}

/// Whatever is seen in whatever order, no two outputs of one snapshot say different things.
#[test]
fn probe_metric_and_json_agree() {
    let text = "
        [checks.deliveries_pending]
        severity = \"critical\"
        fail_for = \"30s\"
        ready_needs = \"any\"
        expect = [\"slack\"]
        [checks.service_up]
        fail_for = \"20s\"
        unknown_for = \"1m\"
        [checks.task_stuck]
        fail_count = 2
    ";
    let mut ready = [0, 0];
    for seed in 1..=60 {
        let (mut dice, mut stage) = (Dice(seed * 0x9E37_79B9), Stage::new(text));
        for step in 0..80 {
            stage.pass([1, 5, 15, 15][dice.below(4) as usize]);
            if dice.below(40) == 0 {
                stage.now = stage.now.plus(Duration::from_secs(60 + dice.below(600)));
                stage.river.wake(stage.now);
            }
            let collector = ["service", "messages", "tasks"][dice.below(3) as usize];
            let value = |dice: &mut Dice| [Some(0.0), Some(1.0), Some(1.0), Some(900.0), None][dice.below(5) as usize];
            let (one, two) = (value(&mut dice), value(&mut dice));
            match (dice.below(8), collector) {
                (0, _) => stage.take(collector, Err(Cause::Unanswered)),
                (1, _) => stage.take(collector, Err(Cause::Denied)),
                (2, _) => stage.see(collector, &[]),
                (_, "service") => stage.see(
                    collector,
                    &[("agenthost_service_up", &[], one), ("agenthost_service_responding", &[], Some(1.0))],
                ),
                (_, "messages") => stage.see(
                    collector,
                    &[
                        ("agenthost_deliveries_oldest_pending_seconds", &["slack"], one),
                        ("agenthost_deliveries_oldest_pending_seconds", &["mail"], two),
                    ],
                ),
                _ => stage.see(collector, &[("agenthost_tasks_stuck", &["family"], one)]),
            }
            facts_agree(&stage, &format!("seed {seed}, step {step}"));
            ready[usize::from(stage.snapshot().ready)] += 1;
        }
        let page = metrics::page(&stage.current()).write().unwrap().plain;
        let line = format!("\nagenthost_ready {}\n", u8::from(stage.snapshot().ready));
        assert!(std::str::from_utf8(&page).unwrap().contains(&line), "seed {seed}");
    }
    assert!(ready.iter().all(|&count| count > 500), "it saw both: {ready:?}");
}

#[test]
fn transitions_are_counted_and_do_not_fall_when_a_subject_comes_back() {
    let mut stage = host("");
    let count = |stage: &Stage| stage.metric("agenthost_check_transitions_total", &["task_stuck", "family", "warning"]);
    let stuck = |value| -> Told<'static> { ("agenthost_tasks_stuck", &["family"], Some(value)) };
    stage.see("tasks", &[stuck(0.0)]);
    assert_eq!(count(&stage), Some(0.0), "new, not changed");
    stage.see("tasks", &[stuck(1.0)]);
    stage.see("tasks", &[stuck(1.0)]);
    assert_eq!(count(&stage), Some(1.0));
    stage.see("tasks", &[stuck(0.0)]);
    assert_eq!(count(&stage), Some(2.0));
    stage.see("tasks", &[]);
    assert_eq!(count(&stage), None, "not listed");
    stage.see("tasks", &[stuck(0.0)]);
    assert_eq!(count(&stage), Some(2.0));
}

#[test]
fn the_streak_has_its_moment_while_it_stands() {
    let mut stage = host("");
    let since =
        |stage: &Stage| stage.metric("agenthost_check_bad_since_timestamp_seconds", &["service_up", "", "critical"]);
    let seconds = |now: Now| now.wall.as_millisecond() as f64 / 1000.0;
    assert_eq!(since(&stage), None);
    stage.see_on(1, "service", &[DOWN, ANSWERS]);
    let first = seconds(stage.now);
    stage.see_on(8, "service", &[DOWN, ANSWERS]);
    assert_eq!(since(&stage), Some(first));
    stage.take("service", Err(Cause::Unanswered));
    assert_eq!(since(&stage), Some(first), "nobody answered; that does not mend it");
    let bad = |stage: &Stage| stage.metric("agenthost_check_bad", &["service_up", "", "critical"]);
    assert_eq!(bad(&stage), None);
    stage.see_on(1, "service", &[UP, ANSWERS]);
    assert_eq!((since(&stage), bad(&stage)), (Some(first), Some(0.0)), "recovering: the failure stands");
    stage.see_on(4, "service", &[UP, ANSWERS]);
    assert_eq!(since(&stage), None);
}
