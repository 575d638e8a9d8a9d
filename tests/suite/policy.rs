//! What the configuration file changes about checks, from its text to the verdict.

use agenthost_exporter::health::{Overall, State};
use agenthost_exporter::sample::Cause;

use crate::stage::{Stage, Told};

const UP: Told<'static> = ("agenthost_service_up", &[], Some(1.0));
const DOWN: Told<'static> = ("agenthost_service_up", &[], Some(0.0));

fn pending(channel: &'static [&'static str; 1], seconds: f64) -> Told<'static> {
    ("agenthost_deliveries_oldest_pending_seconds", channel, Some(seconds))
}

const SLACK: &[&str; 1] = &["slack"];
const MAIL: &[&str; 1] = &["mail"];

fn named(states: &[(&str, State)]) -> Vec<(String, State)> {
    states.iter().map(|&(name, state)| (name.to_owned(), state)).collect()
}

#[test]
fn a_check_is_overridden_for_all_its_subjects_and_for_one() {
    let text = "
        [checks.deliveries_pending]
        fail_for = \"1m\"
        [checks.deliveries_pending.subjects.\"mail\"]
        fail_for = \"3m\"
        severity = \"critical\"
    ";
    let mut stage = Stage::new(text);
    stage.see_on(5, "messages", &[pending(SLACK, 900.0), pending(MAIL, 900.0)]);
    assert_eq!(stage.states("deliveries_pending"), named(&[("mail", State::Failing), ("slack", State::Failed)]));
    assert_eq!(stage.snapshot().overall, Overall::Starting, "nothing of the service yet");
    stage.see_on(8, "messages", &[pending(SLACK, 900.0), pending(MAIL, 900.0)]);
    assert_eq!(stage.states("deliveries_pending"), named(&[("mail", State::Failed), ("slack", State::Failed)]));
    assert_eq!(stage.metric("agenthost_check_failed", &["deliveries_pending", "mail", "critical"]), Some(1.0));
    assert_eq!(stage.metric("agenthost_check_failed", &["deliveries_pending", "slack", "warning"]), Some(1.0));
    stage.see("service", &[UP]);
    assert_eq!(stage.snapshot().overall, Overall::Unhealthy);
}

#[test]
fn a_check_or_a_subject_is_switched_off() {
    let mut stage = Stage::new("[checks.service_up]\nenabled = false\n");
    stage.see("service", &[DOWN]);
    assert_eq!(stage.states("service_up"), []);
    assert!(stage.snapshot().checks.iter().all(|judged| &*judged.check != "service_up"));

    let mut stage = Stage::new("[checks.deliveries_pending.subjects.\"slack\"]\nenabled = false\n");
    stage.see_on(1, "messages", &[pending(SLACK, 900.0), pending(MAIL, 900.0)]);
    assert_eq!(stage.states("deliveries_pending"), named(&[("mail", State::Failing)]));
}

#[test]
fn readiness_may_need_one_subject_only() {
    for (needs, overall) in [("all", Overall::Unhealthy), ("any", Overall::Degraded)] {
        let text = format!(
            "[checks.deliveries_pending]\nseverity = \"critical\"\nfail_for = \"30s\"\nready_needs = \"{needs}\"\n"
        );
        let mut stage = Stage::new(&text);
        stage.see("service", &[UP]);
        for _ in 0..4 {
            stage.see_on(1, "messages", &[pending(SLACK, 900.0), pending(MAIL, 0.0)]);
            stage.see("service", &[UP]);
        }
        assert_eq!(stage.snapshot().overall, overall, "{needs}");
    }
}

#[test]
fn the_absence_of_an_expected_subject_is_bad() {
    let mut stage = Stage::new("[checks.deliveries_pending]\nexpect = [\"slack\"]\nfail_count = 2\n");
    stage.see_on(2, "messages", &[pending(MAIL, 0.0)]);
    assert_eq!(stage.states("deliveries_pending"), named(&[("mail", State::Ok), ("slack", State::Failed)]));
}

const BACKLOG: &str = "
    [[custom_check]]
    name = \"family_backlog\"
    fact = \"agenthost_inbound_unprocessed\"
    above = 20
    labels = { group = \"family\" }
    severity = \"critical\"
    fail_for = \"1m\"
    means = \"The family waits.\"
";

fn backlog(group: &'static [&'static str; 1], messages: f64) -> Told<'static> {
    ("agenthost_inbound_unprocessed", group, Some(messages))
}

#[test]
fn a_custom_check_is_judged_like_any_other() {
    let mut stage = Stage::new(BACKLOG);
    let seen = [backlog(&["family"], 21.0), backlog(&["work"], 900.0)];
    stage.see("service", &[UP]);
    stage.see_on(4, "messages", &seen);
    assert_eq!(stage.states("family_backlog"), named(&[("family", State::Failing)]), "only the group that is named");
    stage.see_on(1, "messages", &seen);
    let verdict = &stage.verdicts("family_backlog")[0];
    assert_eq!((verdict.state, &*verdict.means, &*verdict.rule), (State::Failed, "The family waits.", "fail_for 1m"));
    assert!(verdict.unready);
    assert_eq!(stage.metric("agenthost_check_fail_for_seconds", &["family_backlog"]), Some(60.0));
    stage.see_on(6, "messages", &[backlog(&["family"], 20.0)]);
    assert_eq!(stage.states("family_backlog"), named(&[("family", State::Ok)]), "twenty is not above twenty");
}

#[test]
fn a_custom_check_waits_for_its_collector_and_counts_its_silence() {
    let mut stage = Stage::new(BACKLOG);
    stage.see("service", &[UP]);
    assert_eq!(stage.snapshot().overall, Overall::Starting, "messages has a critical check now");
    stage.take("messages", Err(Cause::Unanswered));
    assert_eq!(stage.states("family_backlog"), named(&[("", State::Unknown)]));
    stage.see_on(1, "messages", &[]);
    assert_eq!(stage.snapshot().overall, Overall::Healthy, "nothing critical is listed");
}

#[test]
fn a_custom_check_on_the_loop_sees_every_collector_and_failed_readings_too() {
    let text = "
        [[custom_check]]
        name = \"collector_slow\"
        fact = \"agenthost_collector_duration_seconds\"
        equals = 0.25
        fail_count = 2
        subjects.\"tasks\".enabled = false
    ";
    let mut stage = Stage::new(text);
    for _ in 0..2 {
        stage.take("messages", Err(Cause::Unanswered));
        stage.see("tasks", &[]);
        stage.pass(15);
    }
    assert_eq!(stage.states("collector_slow"), named(&[("messages", State::Failed)]));
    let verdict = &stage.verdicts("collector_slow")[0];
    assert_eq!(&*verdict.means, "agenthost_collector_duration_seconds is equal to 0.25.");
    assert_eq!(verdict.severity.name(), "warning", "critical is the operator's to say");
    assert_eq!(stage.metric("agenthost_check_fail_for_seconds", &["collector_slow"]), Some(300.0));
}

#[test]
fn a_custom_check_may_be_switched_off_and_expect() {
    let off = Stage::new(&format!("{BACKLOG}    enabled = false\n"));
    assert_eq!(off.states("family_backlog"), []);
    let mut stage = Stage::new(&format!("{BACKLOG}    expect = [\"family\"]\n"));
    stage.see_on(5, "messages", &[backlog(&["work"], 0.0)]);
    assert_eq!(stage.states("family_backlog"), named(&[("family", State::Failed)]));
}

#[test]
fn a_custom_check_of_a_collector_that_does_not_run_has_no_subject() {
    let mut settings = crate::stage::config(BACKLOG).checks;
    assert_eq!(settings.custom[0].collector, Some("messages"));
    settings.custom[0].collector = Some("strangers");
    let health =
        agenthost_exporter::health::Health::new(crate::stage::begun(), crate::stage::watched(), &[], &settings);
    assert!(health.verdicts().iter().all(|verdict| &*verdict.check != "family_backlog"));
}
