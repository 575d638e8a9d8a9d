//! What is shipped in `alerts/`, held against what the program emits: rules, their tests, runbooks, routes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use agenthost_exporter::collect;
use agenthost_exporter::fact::{Fact, Severity};
use agenthost_exporter::health::Overall;
use agenthost_exporter::pulse;
use agenthost_exporter::snapshot::catalogue;
use regex_lite::Regex;
use serde::Deserialize;
use serde_json::Value;

const RULES: &str = "alerts/agenthost.rules.yml";
const TESTS: &str = "alerts/agenthost.test.yml";
const RUNBOOKS: &str = "alerts/runbooks.md";
const ROUTES: &str = "alerts/alertmanager.example.yml";

/// Everything shipped that names what the program emits.
const SHIPPED: &[&str] = &[RULES, TESTS, RUNBOOKS, ROUTES, "README.md"];

/// Series that operators record by rules of their own.
const OPERATORS: &[&str] = &["agenthost:usage_cost_usd:limit1h"];

/// Words that look like a metric and are none: the crate, a key of `/status`, and a label of the operator's Prometheus.
const NO_METRICS: &[&str] = &["agenthost_exporter", "process_error", "agenthost_source"];

/// Checks that an operator could have made, in the tests of the rules.
const OWN_CHECKS: &[&str] = &["family_backlog", "database_gone"];

/// Every fact that neither a rule nor a check reads, and why. To take one out, use it.
const UNREAD: &[(&str, &[&str])] = &[
    (
        "another word for what a rule or a check reads",
        &[
            "agenthost_ready",
            "agenthost_check_unknown",
            "agenthost_check_bad_since_timestamp_seconds",
            "agenthost_check_transitions_total",
            "agenthost_check_fail_for_seconds",
            "agenthost_service_status",
            "agenthost_gateway_database_connected",
            "agenthost_gateway_postgres_reachable",
            "agenthost_gateway_standstill_seconds",
            "agenthost_gateway_unhealthy_models",
            "agenthost_queue_oldest_wait_seconds",
            "agenthost_heartbeat_age_seconds",
            "agenthost_deploy_last_timestamp_seconds",
            "agenthost_worktree_unmerged_entries",
            "agenthost_channel_since_timestamp_seconds",
            "agenthost_config_last_reload_success_timestamp_seconds",
            "agenthost_deliveries_pending",
            "agenthost_inbound_unprocessed",
            "agenthost_service_starts_total",
            "agenthost_service_start_time_seconds",
            "agenthost_gateway_container_oom_killed",
            "agenthost_gateway_container_restarts",
            "agenthost_container_oom_kills_total",
            "agenthost_container_restarts_total",
            "agenthost_worker_recent_restarts",
            "agenthost_worker_spawns_total",
            "agenthost_worker_exits_total",
            "agenthost_task_runs_total",
        ],
    ),
    (
        "only the operator knows how much is too much: for checks of one's own",
        &[
            "agenthost_http_value",
            "agenthost_sql_value",
            "agenthost_gateway_spend_usd",
            "agenthost_gateway_paid_probes",
            "agenthost_gateway_response_duration_seconds",
            "agenthost_gateway_running_requests",
            "agenthost_gateway_waiting_requests",
            "agenthost_service_response_duration_seconds",
            "agenthost_repo_behind_commits",
            "agenthost_repo_last_fetch_timestamp_seconds",
            "agenthost_repo_stashes",
            "agenthost_repo_unpushed_commits",
            "agenthost_deploy_unpushed_commits",
            "agenthost_worktree_ahead_commits",
            "agenthost_worktree_behind_commits",
            "agenthost_worktree_lock_age_seconds",
            "agenthost_messages_future_timestamps",
        ],
    ),
    (
        "what it costs: for dashboards",
        &[
            "agenthost_collector_duration_seconds",
            "agenthost_collector_timeouts_total",
            "agenthost_container_cpu_seconds_total",
            "agenthost_container_memory_bytes",
            "agenthost_series",
            "agenthost_service_connections",
            "agenthost_service_cpu_seconds_total",
            "agenthost_service_goroutines",
            "agenthost_service_heap_bytes",
            "agenthost_service_inotify_watches",
            "agenthost_service_open_fds",
            "agenthost_service_resident_memory_bytes",
            "agenthost_service_sse_clients",
            "agenthost_service_threads",
            "agenthost_service_watched_files",
            "agenthost_worker_cpu_seconds_total",
            "agenthost_worker_disk_read_bytes_total",
            "agenthost_worker_disk_written_bytes_total",
            "agenthost_worker_memory_bytes",
            "agenthost_worker_memory_max_bytes",
            "agenthost_worker_open_fds",
            "agenthost_worker_threads",
            "agenthost_usage_duration_seconds_total",
            "agenthost_usage_timed_runs_total",
            "agenthost_usage_tokens_total",
            "process_cpu_seconds_total",
            "process_max_fds",
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
            "process_threads",
            "process_virtual_memory_bytes",
        ],
    ),
    (
        "how much there is and when it was: for dashboards",
        &[
            "agenthost_build_info",
            "agenthost_containers",
            "agenthost_containers_exited",
            "agenthost_containers_oldest_age_seconds",
            "agenthost_deploy_dirty",
            "agenthost_gateway_configured_models",
            "agenthost_gateway_loaded_models",
            "agenthost_groups",
            "agenthost_groups_active_sessions",
            "agenthost_host_job_last_run_timestamp_seconds",
            "agenthost_host_job_next_run_timestamp_seconds",
            "agenthost_host_jobs",
            "agenthost_messages_inbound",
            "agenthost_messages_last_received_timestamp_seconds",
            "agenthost_messages_last_sent_timestamp_seconds",
            "agenthost_messages_outbound",
            "agenthost_messages_received_total",
            "agenthost_messages_sent_total",
            "agenthost_queue_active_containers",
            "agenthost_queue_groups_waiting",
            "agenthost_queue_max_concurrent",
            "agenthost_task_last_run_timestamp_seconds",
            "agenthost_task_next_run_timestamp_seconds",
            "agenthost_task_run_duration_seconds_total",
            "agenthost_tasks",
            "agenthost_usage_run_errors_total",
            "agenthost_usage_runs_total",
            "agenthost_usage_tool_calls_total",
            "agenthost_usage_tool_errors_total",
            "agenthost_usage_turns_total",
            "agenthost_usage_unreadable_total",
            "agenthost_worker_oldest_start_time_seconds",
            "agenthost_workers",
            "agenthost_workers_degraded",
            "agenthost_worktree_dirty",
        ],
    ),
];

fn text(name: &str) -> String {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap()
}

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    rules: Vec<Rule>,
}

#[derive(Deserialize, Clone)]
struct Rule {
    alert: Option<String>,
    record: Option<String>,
    expr: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

fn groups() -> Vec<Group> {
    serde_saphyr::from_str::<Rules>(&text(RULES)).unwrap().groups
}

/// Every alert by its name.
fn alerts() -> BTreeMap<String, Rule> {
    let mut alerts = BTreeMap::new();
    for rule in groups().into_iter().flat_map(|group| group.rules) {
        if let Some(name) = rule.alert.clone() {
            assert!(alerts.insert(name.clone(), rule).is_none(), "{name} is there twice");
        }
    }
    alerts
}

fn checks() -> BTreeSet<&'static str> {
    all_checks().map(|check| check.name).collect()
}

fn all_checks() -> impl Iterator<Item = &'static agenthost_exporter::fact::Check> {
    pulse::CHECKS.iter().chain(collect::ALL.iter().flat_map(|subsystem| subsystem.checks))
}

/// A program at work in `alerts/`; `None` if it is not installed.
fn run(program: &str, arguments: &[&str]) -> Option<Output> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("alerts");
    let output = Command::new(program).args(arguments).current_dir(folder).output();
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            crate::skipped(&format!("{program} {}", arguments.join(" ")), &format!("{program}: {error}"));
            None
        }
    }
}

/// It ends well; what it says.
fn succeeds(program: &str, arguments: &[&str]) -> Option<String> {
    let output = run(program, arguments)?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let warned = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {}:\n{said}{warned}", arguments.join(" "));
    Some(said)
}

/// Debian's, and that of Prometheus 3.
fn promtools() -> Vec<String> {
    let newer = crate::prometheus3("promtool").map(|program| program.display().to_string());
    [Some("promtool".to_owned()), newer].into_iter().flatten().collect()
}

#[test]
fn promtool_takes_the_rules() {
    let rules = ["check", "rules", "--lint=all", "--lint-fatal", "agenthost.rules.yml"];
    let count: usize = groups().iter().map(|group| group.rules.len()).sum();
    for promtool in promtools() {
        let Some(said) = succeeds(&promtool, &rules) else { return };
        assert!(said.contains(&format!("{count} rules found")), "{promtool}: {said}");
    }
}

#[test]
fn each_alert_does_as_its_tests_say() {
    for promtool in promtools() {
        succeeds(&promtool, &["test", "rules", "agenthost.test.yml"]);
    }
}

/// For each: when it does not fire, when it does, and that it is silent where nothing is known.
#[test]
fn each_alert_is_tested() {
    let tests = text(TESTS);
    for name in alerts().keys() {
        let of_it = regex(&format!(r"alertname: {name}\}}"));
        let silent = tests.lines().filter(|line| of_it.is_match(line) && line.contains("} #"));
        assert!(tests.contains(&format!("exp_alerts: &{name}\n")), "{TESTS} has no moment at which {name} fires");
        assert!(name == "Watchdog" || silent.count() >= 3, "{TESTS} has too few moments at which {name} is silent");
    }
    let named = regex(r"alertname: (\w+)");
    for (number, line) in tests.lines().enumerate() {
        for found in named.captures_iter(line) {
            assert!(alerts().contains_key(&found[1]), "{TESTS}:{}: there is no alert {}", number + 1, &found[1]);
        }
    }
}

#[test]
fn alerts_have_the_form_that_people_expect() {
    let name_form = regex(r"^([A-Z]+[a-z0-9]+)+$");
    for group in groups() {
        assert!(group.rules.len() <= 20 && group.name.len() <= 40, "{}", group.name);
    }
    for (name, rule) in alerts() {
        assert!(name_form.is_match(&name) && name.len() <= 40, "{name}");
        assert!(name == "Watchdog" || name.starts_with("AgentHost"), "{name}");
        let severity = rule.labels.get("severity").unwrap_or_else(|| panic!("{name} has no severity")).as_str();
        let by_check = rule.expr.contains("agenthost_check_failed");
        assert_eq!(by_check, severity == "{{ $labels.severity }}", "{name}: a verdict has the severity of its check");
        assert!(by_check || ["critical", "warning", "info", "none"].contains(&severity), "{name}: {severity}");
        let summary = &rule.annotations["summary"];
        assert!(regex(r"^[A-Z].+\.$").is_match(summary) && !summary.contains("{{"), "{name}: {summary}");
        assert!(!rule.annotations["description"].is_empty(), "{name}");
    }
}

#[test]
fn each_alert_has_its_runbook() {
    let book = text(RUNBOOKS);
    let sections: BTreeMap<&str, &str> = book.split("\n## ").skip(1).filter_map(|part| part.split_once('\n')).collect();
    let names: BTreeSet<String> = alerts().into_keys().collect();
    let titles: BTreeSet<String> = sections.keys().map(|&title| title.to_owned()).collect();
    assert_eq!(titles, names, "a section for each alert, and no other");
    for (name, rule) in alerts() {
        let anchor = name.to_lowercase();
        let url = format!("{{{{ $externalLabels.agenthost_source }}}}{RUNBOOKS}#{anchor}");
        assert_eq!(rule.annotations["runbook_url"], url, "{name}");
        let parts: Vec<&str> = sections[name.as_str()].lines().filter(|line| line.starts_with("### ")).collect();
        assert_eq!(parts, ["### Meaning", "### Impact", "### Diagnosis", "### Mitigation"], "{name}");
    }
    let anchors: BTreeSet<String> = names.iter().map(|name| name.to_lowercase()).collect();
    for (number, line) in book.lines().enumerate() {
        for link in regex(r"\]\(#([^)]*)\)").captures_iter(line) {
            assert!(anchors.contains(&link[1]), "{RUNBOOKS}:{}: no section {}", number + 1, &link[1]);
        }
    }
}

/// What a file says of metrics that is not so, with its line.
fn complaints(file: &str, text: &str, facts: &[&Fact], recorded: &BTreeSet<String>) -> Vec<String> {
    let name = regex(r"[a-z0-9_:]*\b(agenthost|process)[_:][a-z0-9_:]*[a-z0-9](_|…|\*)?(\{[^}]*\})?");
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut complain = |what: String| found.push(format!("{file}:{}: {what}", number + 1));
        for whole in name.find_iter(line).map(|found| found.as_str()) {
            let (metric, selector) = whole.split_once('{').unwrap_or((whole, ""));
            if metric.contains(':') {
                let known = recorded.contains(metric) || OPERATORS.contains(&metric);
                if !known {
                    complain(format!("no rule records {metric}"));
                }
            } else if let Some(fact) = facts.iter().find(|fact| fact.prometheus == metric) {
                selected(fact, selector).into_iter().for_each(&mut complain);
            } else if !(NO_METRICS.contains(&metric) || is_family(metric, facts)) {
                complain(format!("there is no metric {metric}"));
            }
        }
        labels_named(line).into_iter().filter(|label| !is_label(label, facts)).for_each(|label| {
            complain(format!("there is no label {label}"));
        });
        asked_of_status(line).into_iter().for_each(complain);
    }
    found
}

/// `agenthost_check_…` stands for all that begin so.
fn is_family(name: &str, facts: &[&Fact]) -> bool {
    let begin = name.trim_end_matches(['…', '*']);
    begin.ends_with('_') && facts.iter().any(|fact| fact.prometheus.starts_with(begin))
}

/// What is wrong with a selector: `check=~"a|b",severity!="critical"}`.
fn selected(fact: &Fact, selector: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    for pair in regex(r#"(\w+)(=~|!~|!=|=)\\?"([^"\\]*)\\?""#).captures_iter(selector) {
        let (label, values) = (&pair[1], &pair[3]);
        if !fact.labels.contains(&label) && !["job", "instance"].contains(&label) {
            wrong.push(format!("{} has no label {label}", fact.prometheus));
        }
        let unknown = values.split('|').filter(|value| !may_be(fact, label, value));
        wrong.extend(unknown.map(|value| format!("{} has no {label} {value}", fact.prometheus)));
    }
    wrong
}

/// Whether the program can emit the value; those that the host names are free.
fn may_be(fact: &Fact, label: &str, value: &str) -> bool {
    match label {
        "check" => checks().contains(value) || OWN_CHECKS.contains(&value),
        "severity" => is_severity(value),
        "collector" => value == "river" || collect::ALL.iter().any(|subsystem| subsystem.name == value),
        "state" if fact.prometheus == "agenthost_health_state" => {
            Overall::ALL.iter().any(|state| state.name() == value)
        }
        _ => true,
    }
}

fn is_severity(value: &str) -> bool {
    [Severity::Info, Severity::Warning, Severity::Critical].iter().any(|severity| severity.name() == value)
}

/// Labels that an expression groups by, or a template prints.
fn labels_named(line: &str) -> Vec<String> {
    let lists = regex(r"\b(?:by|on|group_left|without|ignoring) \(([a-z_, ]*)\)");
    let printed = regex(r"(?:\$labels|\.Labels|\.CommonLabels)\.(\w+)");
    let listed = lists.captures_iter(line).flat_map(|list| {
        list[1].split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect::<Vec<_>>()
    });
    listed.chain(printed.captures_iter(line).map(|label| label[1].to_owned())).collect()
}

fn is_label(name: &str, facts: &[&Fact]) -> bool {
    ["job", "instance"].contains(&name) || facts.iter().any(|fact| fact.labels.contains(&name))
}

/// What a line of jq compares with and cannot be.
fn asked_of_status(line: &str) -> Vec<String> {
    let compared = regex(r#"select\(\.(check|severity) == "(\w+)""#);
    let wrong = |found: &regex_lite::Captures<'_>| match &found[1] {
        "check" => !checks().contains(&found[2]),
        _ => !is_severity(&found[2]),
    };
    compared.captures_iter(line).filter(wrong).map(|found| format!("there is no {} {}", &found[1], &found[2])).collect()
}

fn facts() -> Vec<&'static Fact> {
    catalogue().into_iter().map(|(_, fact)| fact).collect()
}

fn recorded() -> BTreeSet<String> {
    groups().into_iter().flat_map(|group| group.rules).filter_map(|rule| rule.record).collect()
}

#[test]
fn whatever_is_named_is_emitted() {
    let (facts, recorded) = (facts(), recorded());
    let wrong: Vec<_> = SHIPPED.iter().flat_map(|file| complaints(file, &text(file), &facts, &recorded)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The test above is worth something: take any name away, and it says where it stood.
#[test]
fn a_name_that_is_no_more_is_told_with_file_and_line() {
    let (rules, recorded) = (text(RULES), recorded());
    let said = |facts: &[&Fact]| complaints(RULES, &rules, facts, &recorded);
    let without = |name: &str| facts().into_iter().filter(|fact| fact.prometheus != name).collect::<Vec<_>>();
    let line = 1 + rules.lines().position(|line| line.contains("expr: last_over_time(agenthost_service_up[")).unwrap();
    assert!(
        said(&without("agenthost_service_up"))
            .contains(&format!("{RULES}:{line}: there is no metric agenthost_service_up"))
    );
    for (line, wanted) in [
        ("expr: agenthost_check_failed{check=\"queue_stock\"}", "no check queue_stock"),
        ("expr: agenthost_check_failed{chek=\"queue_stuck\"}", "no label chek"),
        (
            "expr: agenthost_check_bad{check=~\"gateway_up|gateway_redy\",severity=\"critical\"}",
            "no check gateway_redy",
        ),
        ("expr: agenthost_check_bad{severity=\"severe\"}", "no severity severe"),
        ("expr: agenthost_health_state{state=\"ill\"}", "no state ill"),
        ("expr: agenthost_collector_up{collector=\"repo\"}", "no collector repo"),
        ("expr: sum by (job, instanze) (agenthost_ready)", "no label instanze"),
        ("expr: job:agenthost_ready:sum", "no rule records job:agenthost_ready:sum"),
        ("description: the {{ $labels.chanel }}", "no label chanel"),
        ("jq '.health.checks[] | select(.check == \"queue\")'", "no check queue"),
        ("expr: process_cpu_seconds > 1", "no metric process_cpu_seconds"),
    ] {
        let said = complaints("x", line, &facts(), &recorded);
        assert!(said.len() == 1 && said[0].starts_with("x:1: ") && said[0].contains(wanted), "{line}: {said:?}");
    }
    assert_eq!(complaints("x", "`agenthost_check_…` and agenthost_ready", &facts(), &recorded), [""; 0]);
}

#[test]
fn every_fact_is_in_a_rule_or_in_the_list() {
    let rules: String = groups().into_iter().flat_map(|group| group.rules).map(|rule| rule.expr + "\n").collect();
    let word = regex(r"[a-z0-9_]+");
    let mut read: BTreeSet<&str> = word.find_iter(&rules).map(|found| found.as_str()).collect();
    read.extend(all_checks().map(|check| check.fact.prometheus)); // every check reaches somebody: see below
    let listed: Vec<&str> = UNREAD.iter().flat_map(|(_, names)| *names).copied().collect();
    let names: BTreeSet<&str> = facts().iter().map(|fact| fact.prometheus).collect();
    let forgotten: Vec<_> = names.iter().filter(|name| !read.contains(*name) && !listed.contains(name)).collect();
    assert!(forgotten.is_empty(), "in no rule, no check and not in UNREAD: {forgotten:#?}");
    let needless: Vec<_> = listed.iter().filter(|name| read.contains(*name) || !names.contains(*name)).collect();
    assert!(needless.is_empty(), "take out of UNREAD: {needless:#?}");
    assert_eq!(listed.len(), listed.iter().collect::<BTreeSet<_>>().len(), "twice in UNREAD");
}

/// Each check has an alert of its own or is left to AgentHostCheckFailed, and none is told twice.
#[test]
fn every_check_reaches_somebody() {
    let alerts = alerts();
    let value = regex(r#"check(=~|!~|=)"([^"]*)""#);
    let named = |expr: &str| -> Vec<BTreeSet<String>> {
        value.captures_iter(expr).map(|found| found[2].split('|').map(str::to_owned).collect()).collect()
    };
    let rest = named(&alerts["AgentHostCheckFailed"].expr);
    let own = alerts.iter().filter(|(name, _)| *name != "AgentHostCheckFailed");
    // These two read what their checks are made of.
    let mut elsewhere: BTreeSet<String> = ["service_up", "service_responding"].map(str::to_owned).into();
    for (name, rule) in own {
        for check in named(&rule.expr).into_iter().flatten() {
            assert!(elsewhere.insert(check.clone()), "{name} is not the only one that tells of {check}");
        }
    }
    assert_eq!(rest[0], elsewhere, "what AgentHostCheckFailed leaves out is what others tell of");
    let critical = all_checks().filter(|check| check.severity == Severity::Critical);
    assert_eq!(rest[1], critical.map(|check| check.name.to_owned()).collect(), "those that may be called less");
}

/// The lines of the runbooks that ask for `/status`, with their numbers: what stands between the quotes of jq.
fn filters() -> Vec<(usize, String)> {
    let book = text(RUNBOOKS);
    let line = regex(r"^curl -s localhost:10484/status \| jq '([^']*)'$");
    let numbered = book.lines().enumerate();
    numbered.filter_map(|(number, text)| Some((number + 1, line.captures(text)?[1].to_owned()))).collect()
}

fn jq(filter: &str, status: &Value) -> Option<Output> {
    let pipe =
        || Command::new("jq").arg(filter).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut child) = pipe() else {
        crate::skipped("the lines of the runbooks", "jq is not installed");
        return None;
    };
    child.stdin.take().unwrap().write_all(status.to_string().as_bytes()).unwrap();
    Some(child.wait_with_output().unwrap())
}

/// `/status` of the golden host, of the demo as it begins, and of a sidecar that has seen nothing.
fn statuses() -> [Value; 3] {
    let golden: Value = serde_json::from_str(&text("tests/golden/status.json")).unwrap();
    let once = crate::binary::exporter().args(["--once", "--log.level=error", "demo"]).output().unwrap();
    let demo = serde_json::from_slice(&once.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&once.stderr)));
    let mut blind = golden.clone();
    for subsystem in collect::ALL {
        blind[subsystem.name] = Value::Null;
    }
    [golden, demo, blind]
}

fn keys(value: &Value, all: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| {
            all.insert(key.clone());
            keys(value, all);
        }),
        Value::Array(values) => values.iter().for_each(|value| keys(value, all)),
        _ => {}
    }
}

/// They run, also where nothing is known; where there is something to see they show it; and no key is made up.
#[test]
fn the_lines_of_the_runbooks_say_something() {
    // Nothing idles for that long in either host.
    const NOTHING_TO_SEE: [&str; 2] = ["select(.class == \"leaked\")", "select(.leaked)"];
    const WORDS: [&str; 9] = ["select", "map_values", "map", "group_by", "sort_by", "length", "or", "true", "subjects"];
    let lines = filters();
    assert!(lines.len() >= alerts().len(), "each runbook has one: {}", lines.len());
    let statuses = statuses();
    let mut known = BTreeSet::new();
    statuses.iter().for_each(|status| keys(status, &mut known));
    let (strings, word) = (regex(r#""[^"]*""#), regex(r"[a-z_]+"));
    for (number, filter) in lines {
        let mut said = String::new();
        for status in &statuses {
            let Some(output) = jq(&filter, status) else { return };
            let error = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{RUNBOOKS}:{number}: {filter}: {error}");
            said += &String::from_utf8_lossy(&output.stdout);
        }
        let seen = said.lines().any(|line| regex(r#"["\d]"#).is_match(line));
        assert!(
            seen || NOTHING_TO_SEE.iter().any(|part| filter.contains(part)),
            "{RUNBOOKS}:{number}: {filter} says nothing"
        );
        for key in word.find_iter(&strings.replace_all(&filter, "")).map(|found| found.as_str()) {
            assert!(WORDS.contains(&key) || known.contains(key), "{RUNBOOKS}:{number}: /status has no {key}");
        }
    }
}

#[test]
fn amtool_takes_the_routes_and_sends_each_severity_where_it_belongs() {
    if succeeds("amtool", &["check-config", "alertmanager.example.yml"]).is_none() {
        return;
    }
    for (receiver, labels) in [
        ("page", &["alertname=AgentHostDown", "severity=critical"] as &[&str]),
        ("tickets", &["alertname=AgentHostQueueStuck", "severity=warning"]),
        ("nobody", &["alertname=AgentHostDeployDrift", "severity=info"]),
        ("watchdog", &["alertname=Watchdog", "severity=none"]),
        ("tickets", &["alertname=SomebodyElses"]),
    ] {
        let verify = format!("--verify.receivers={receiver}");
        let test = ["config", "routes", "test", "--config.file=alertmanager.example.yml", &verify];
        succeeds("amtool", &[&test, labels].concat());
    }
}

/// Patterns of the routes that no alert has would silence nothing, without a word.
#[test]
fn the_routes_name_alerts_that_there_are() {
    let names: Vec<String> = alerts().into_keys().collect();
    let pattern = regex(r#"alertname (=~|=|!=) "?([A-Za-z0-9.+?()|]+)"?"#);
    let routes = text(ROUTES);
    let mut count = 0;
    for (number, line) in routes.lines().enumerate() {
        for found in pattern.captures_iter(line) {
            count += 1;
            for part in alternatives(&found[2]) {
                let whole = regex(&format!("^(?:{part})$"));
                assert!(names.iter().any(|name| whole.is_match(name)), "{ROUTES}:{}: no alert is {part}", number + 1);
            }
        }
    }
    assert!(count >= 8, "{count}");
    let secrets = regex(r"(?i)^\s*(routing_key|service_key|api_url|password|credentials|bearer_token):");
    assert!(!routes.lines().any(|line| secrets.is_match(line)), "secrets stand in files");
}

/// `A(b|c)` is `Ab` and `Ac`.
fn alternatives(pattern: &str) -> Vec<String> {
    match pattern.split_once('(').and_then(|(begin, rest)| Some((begin, rest.strip_suffix(')')?))) {
        Some((begin, parts)) => parts.split('|').map(|part| format!("{begin}{part}")).collect(),
        None => vec![pattern.to_owned()],
    }
}
