//! What is shipped in `alerts/`: rules, their tests, runbooks, routes. What they name is held against the program elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use agenthost_exporter::collect;
use agenthost_exporter::fact::Severity;
use serde::Deserialize;
use serde_json::Value;

use crate::contract::{all_checks, regex, text};

pub const RULES: &str = "alerts/agenthost.rules.yml";
const TESTS: &str = "alerts/agenthost.test.yml";
const RUNBOOKS: &str = "alerts/runbooks.md";
const ROUTES: &str = "alerts/alertmanager.example.yml";

#[derive(Deserialize)]
struct Rules {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
pub struct Group {
    name: String,
    pub rules: Vec<Rule>,
}

#[derive(Deserialize, Clone)]
pub struct Rule {
    alert: Option<String>,
    pub record: Option<String>,
    pub expr: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

pub fn groups() -> Vec<Group> {
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
        assert_eq!(rule.annotations["runbook_url"], format!("{RUNBOOKS}#{anchor}"), "{name}");
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
