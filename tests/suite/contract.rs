//! What everything shipped says of the program, held against what it emits: metrics, labels, their values, checks.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use agenthost_exporter::collect;
use agenthost_exporter::collect::service::Status;
use agenthost_exporter::collect::workers::Class;
use agenthost_exporter::fact::{Check, Fact, Severity};
use agenthost_exporter::health::Overall;
use agenthost_exporter::pulse;
use agenthost_exporter::snapshot::catalogue;
use regex_lite::Regex;

use crate::alerts::{RULES, groups};
use crate::dashboards;

/// Everything shipped that names what the program emits, beside the dashboards.
const SHIPPED: &[&str] =
    &[RULES, "alerts/agenthost.test.yml", "alerts/runbooks.md", "alerts/alertmanager.example.yml", "README.md"];

/// Series that operators record by rules of their own.
const OPERATORS: &[&str] = &["agenthost:usage_cost_usd:limit1h"];

/// Words that look like a metric and are none: the crate, a key of `/status`, and a label of the operator's Prometheus.
const NO_METRICS: &[&str] = &["agenthost_exporter", "process_error", "agenthost_source"];

/// Labels that Prometheus itself puts on.
const OF_PROMETHEUS: &[&str] = &["job", "instance", "alertname"];

/// Checks that an operator could have made, in the tests of the rules.
const OWN_CHECKS: &[&str] = &["family_backlog", "database_gone"];

pub fn text(name: &str) -> String {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name);
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

pub fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap()
}

pub fn checks() -> BTreeSet<&'static str> {
    all_checks().map(|check| check.name).collect()
}

pub fn all_checks() -> impl Iterator<Item = &'static Check> {
    pulse::CHECKS.iter().chain(collect::ALL.iter().flat_map(|subsystem| subsystem.checks))
}
/// A metric or a recorded series, with its selector.
static NAME: LazyLock<Regex> =
    LazyLock::new(|| regex(r"[a-z0-9_:]*\b(agenthost|process)[_:][a-z0-9_:]*[a-z0-9](_|…|\*)?(\{[^}]*\})?"));
/// One part of a selector.
static PAIR: LazyLock<Regex> = LazyLock::new(|| regex(r#"(\w+)(=~|!~|!=|=)\\?"([^"\\]*)\\?""#));
static LISTS: LazyLock<Regex> = LazyLock::new(|| regex(r"\b(?:by|on|group_left|without|ignoring) \(([a-z_, ]*)\)"));
static PRINTED: LazyLock<Regex> = LazyLock::new(|| regex(r"(?:\$labels\.|\.Labels\.|\.CommonLabels\.|\{\{)(\w+)"));
static COMPARED: LazyLock<Regex> = LazyLock::new(|| regex(r#"select\(\.(check|severity) == "(\w+)""#));

/// What a file says of metrics that is not so, with its line.
fn complaints(file: &str, text: &str, facts: &[&Fact], recorded: &BTreeSet<String>) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let mut complain = |what: String| found.push(format!("{file}:{}: {what}", number + 1));
        for whole in NAME.find_iter(line).map(|found| found.as_str()) {
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
    for pair in PAIR.captures_iter(selector) {
        let (label, values) = (&pair[1], &pair[3]);
        if !fact.labels.contains(&label) && !OF_PROMETHEUS.contains(&label) {
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
        "status" if fact.prometheus == "agenthost_service_status" => {
            Status::ALL.iter().any(|status| status.name() == value)
        }
        "class" => Class::ALL.iter().any(|class| class.name() == value),
        _ => true,
    }
}

fn is_severity(value: &str) -> bool {
    [Severity::Info, Severity::Warning, Severity::Critical].iter().any(|severity| severity.name() == value)
}

/// Labels that an expression groups by, or a template prints.
fn labels_named(line: &str) -> Vec<String> {
    let listed = LISTS.captures_iter(line).flat_map(|list| {
        list[1].split(',').map(|label| label.trim().to_owned()).filter(|label| !label.is_empty()).collect::<Vec<_>>()
    });
    listed.chain(PRINTED.captures_iter(line).map(|label| label[1].to_owned())).collect()
}

fn is_label(name: &str, facts: &[&Fact]) -> bool {
    OF_PROMETHEUS.contains(&name) || facts.iter().any(|fact| fact.labels.contains(&name))
}

/// What a line of jq compares with and cannot be.
fn asked_of_status(line: &str) -> Vec<String> {
    let wrong = |found: &regex_lite::Captures<'_>| match &found[1] {
        "check" => !checks().contains(&found[2]),
        _ => !is_severity(&found[2]),
    };
    COMPARED.captures_iter(line).filter(wrong).map(|found| format!("there is no {} {}", &found[1], &found[2])).collect()
}

pub fn facts() -> Vec<&'static Fact> {
    catalogue().into_iter().map(|(_, fact)| fact).collect()
}

fn recorded() -> BTreeSet<String> {
    groups().into_iter().flat_map(|group| group.rules).filter_map(|rule| rule.record).collect()
}

/// Everything shipped: its name and its text.
fn shipped() -> Vec<(String, String)> {
    let named = SHIPPED.iter().map(|&name| name.to_owned()).chain(dashboards::files());
    named.map(|name| (name.clone(), text(&name))).collect()
}

#[test]
fn whatever_is_named_is_emitted() {
    let (facts, recorded) = (facts(), recorded());
    let wrong: Vec<_> = shipped().iter().flat_map(|(file, text)| complaints(file, text, &facts, &recorded)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The test above is worth something: take any name away, and it says where it stood.
#[test]
fn a_name_that_is_no_more_is_told_with_file_and_line() {
    let recorded = recorded();
    let shipped = shipped();
    let said = |facts: &[&Fact]| -> Vec<String> {
        shipped.iter().flat_map(|(file, text)| complaints(file, text, facts, &recorded)).collect()
    };
    let without = |name: &str| facts().into_iter().filter(|fact| fact.prometheus != name).collect::<Vec<_>>();
    for (file, metric) in [
        (RULES, "agenthost_service_up"),
        ("dashboards/host.json", "agenthost_service_up"),
        ("dashboards/fleet.json", "agenthost_workers"),
    ] {
        let text = text(file);
        let whole = regex(&format!(r"\b{metric}[^a-z_]"));
        let line = 1 + text.lines().position(|line| whole.is_match(line)).unwrap();
        let told = said(&without(metric));
        assert!(told.contains(&format!("{file}:{line}: there is no metric {metric}")), "{file}:{line}: {told:#?}");
    }
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
        (r#""expr": "sum(agenthost_workers{class=~\"leaked|lost\"})","#, "no class lost"),
        (r#""expr": "agenthost_service_status{job=~\"$job\",status=\"well\"} == 1","#, "no status well"),
        (r#""legendFormat": "{{chanel}}""#, "no label chanel"),
    ] {
        let said = complaints("x", line, &facts(), &recorded);
        assert!(said.len() == 1 && said[0].starts_with("x:1: ") && said[0].contains(wanted), "{line}: {said:?}");
    }
    assert_eq!(complaints("x", "`agenthost_check_…` and agenthost_ready", &facts(), &recorded), [""; 0]);
}

/// What nobody shows nobody needs.
#[test]
fn every_fact_is_in_a_panel_or_a_rule() {
    let rules = groups().into_iter().flat_map(|group| group.rules).map(|rule| rule.expr);
    let panels = dashboards::queries().into_iter().map(|query| query.expression);
    let all = rules.chain(panels).collect::<Vec<_>>().join("\n");
    let word = regex(r"[a-z0-9_]+");
    let read: BTreeSet<&str> = word.find_iter(&all).map(|found| found.as_str()).collect();
    let forgotten: Vec<_> = facts().iter().map(|fact| fact.prometheus).filter(|name| !read.contains(name)).collect();
    assert!(forgotten.is_empty(), "in no panel and no rule: {forgotten:#?}");
}
