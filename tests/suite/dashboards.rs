//! What is shipped in `dashboards/`: that it can be imported as it is, keeps the rules of those who import such things, and
//! that a real Prometheus has an answer to every question in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use agenthost_exporter::collect::service::Status;
use agenthost_exporter::collect::workers::Class;
use agenthost_exporter::fact::{Fact, Kind};
use agenthost_exporter::health::Overall;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::Api;
use crate::binary::{FAST, Sidecar, exporter, get};
use crate::contract::{facts, regex, text};
use crate::fixture::Root;

const FOLDER: &str = "dashboards";

/// Each selector begins with these.
const FILTERS: &str = r#"job=~"$job",instance=~"$instance""#;

/// Counters of the host's tables begin a little lower after a prune and a restart, and increase() would take all of it for
/// new: what they have grown is `clamp_min(delta(...), 0)`.
const OF_TABLES: &[&str] = &["agenthost_messages_", "agenthost_usage_", "agenthost_task_"];

/// What the demo host has not got, and why: these queries are held against a page with every metric of the catalogue.
const NOT_IN_THE_DEMO: &[(&str, &[&str])] = &[
    (
        "nothing is pushed",
        &[
            "agenthost_otlp_failed_total",
            "agenthost_otlp_last_sent_timestamp_seconds",
            "agenthost_otlp_rejected_points_total",
            "agenthost_otlp_sent_total",
        ],
    ),
    (
        "it makes no containers",
        &[
            "agenthost_containers",
            "agenthost_containers_exited",
            "agenthost_containers_oldest_age_seconds",
            "agenthost_container_leaked",
            "agenthost_container_memory_bytes",
            "agenthost_container_cpu_seconds_total",
            "agenthost_container_oom_kills_total",
            "agenthost_container_recent_oom_kills",
            "agenthost_container_recent_restarts",
            "agenthost_container_restarts_total",
            "agenthost_gateway_container_oom_killed",
            "agenthost_gateway_container_restarts",
            "agenthost_gateway_container_running",
            "agenthost_mcp_connected",
        ],
    ),
    (
        "only another gateway tells it, or a key that may spend",
        &[
            "agenthost_gateway_loaded_models",
            "agenthost_gateway_paid_probes",
            "agenthost_gateway_postgres_reachable",
            "agenthost_gateway_running_requests",
            "agenthost_gateway_spend_usd",
            "agenthost_gateway_standstill_seconds",
            "agenthost_gateway_waiting_requests",
        ],
    ),
    (
        "only pi-web or openclaw tells it",
        &[
            "agenthost_service_goroutines",
            "agenthost_service_heap_bytes",
            "agenthost_service_ready",
            "agenthost_service_sse_clients",
            "agenthost_service_watched_files",
        ],
    ),
    ("its checkout has no origin", &["agenthost_deploy_unpushed_commits"]),
    ("its workers have no max_rss", &["agenthost_workers_over_max_rss"]),
];

/// Queries of panels that are empty until something has ended or failed, which in the demo takes a while. (Beside the second
/// and third of the timeline stands the verdict, which is always there.)
const SELDOM: &[&str] =
    &["Length of a run A", "What failed, and what nearly did B", "What failed, and what nearly did C"];

pub fn files() -> Vec<String> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(FOLDER);
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> =
        names.filter(|name| name.ends_with(".json")).map(|name| format!("{FOLDER}/{name}")).collect();
    names.sort();
    names
}

fn dashboards() -> Vec<(String, Value)> {
    let read = |file: &String| serde_json::from_str(&text(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
    files().iter().map(|file| (file.clone(), read(file))).collect()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// All panels but rows, those in folded rows too.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let of = |panel| if word(panel, "type") == "row" { list(panel, "panels") } else { std::slice::from_ref(panel) };
    list(dashboard, "panels").iter().flat_map(of).collect()
}

/// A question that a panel asks.
pub struct Query {
    pub expression: String,
    legend: String,
    place: String,
}

pub fn queries() -> Vec<Query> {
    let mut found = Vec::new();
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for target in list(panel, "targets") {
                found.push(Query {
                    expression: word(target, "expr").to_owned(),
                    legend: word(target, "legendFormat").to_owned(),
                    place: format!("{file}: {} {}", word(panel, "title"), word(target, "refId")),
                });
            }
        }
    }
    found
}

#[test]
fn each_can_be_imported_as_it_is() {
    let all = dashboards();
    assert_eq!(all.len(), 5, "the host, its workers, its repositories and tasks, the fleet, the sidecar");
    let uids: BTreeSet<&str> = all.iter().map(|(_, dashboard)| word(dashboard, "uid")).collect();
    let titles: BTreeSet<&str> = all.iter().map(|(_, dashboard)| word(dashboard, "title")).collect();
    assert_eq!((uids.len(), titles.len()), (5, 5), "each has its own uid and title");
    let linked = regex(r#""/d/([a-z-]+)"#);
    for (file, dashboard) in &all {
        let uid = word(dashboard, "uid");
        let stem = Path::new(file).file_stem().unwrap().to_str().unwrap();
        assert_eq!(uid, format!("agenthost-{stem}"), "{file}");
        assert!(uid.len() <= 40 && dashboard.get("__inputs").is_none(), "{file}");
        assert_eq!(dashboard["id"], Value::Null, "{file}: an id is of one Grafana");
        assert!((39..=42).contains(&dashboard["schemaVersion"].as_u64().unwrap()), "{file}");
        assert_eq!(dashboard["graphTooltip"], 1, "{file}");
        assert_eq!(dashboard["tags"], json!(["agenthost"]), "{file}");
        assert!(!word(dashboard, "description").is_empty(), "{file}");
        let text = text(file);
        let links: BTreeSet<&str> = linked.captures_iter(&text).map(|link| link.get(1).unwrap().as_str()).collect();
        let known: BTreeSet<&str> = uids.iter().copied().filter(|&other| other != uid).collect();
        assert!(links.is_subset(&uids), "{file} links to what is not there: {links:?}");
        assert_eq!(list(dashboard, "links").len(), known.len(), "{file} links to each of the others");
        for link in list(dashboard, "links") {
            assert!(known.contains(word(link, "url").trim_start_matches("/d/")), "{file}: {link}");
            assert_eq!((&link["includeVars"], &link["keepTime"]), (&json!(true), &json!(true)), "{file}");
        }
        let notes: Vec<&str> = list(&dashboard["annotations"], "list").iter().map(|note| word(note, "name")).collect();
        let wanted: &[&str] = if stem == "sidecar" { &["Alerts"] } else { &["Alerts", "Deploys"] };
        assert_eq!(notes, wanted, "{file}");
    }
}

#[test]
fn the_readme_shows_each() {
    let readme = text("README.md");
    for file in files() {
        let name = Path::new(&file).file_stem().unwrap().to_str().unwrap();
        let picture = format!(".github/dashboard-{name}.png");
        assert!(readme.contains(&format!("]({file})")) && readme.contains(&format!("]({picture})")), "{file}");
        assert!(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(&picture).exists(), "{picture}");
    }
}

/// A link that loses the host on the way, or leads nowhere, is found out at the worst moment.
#[test]
fn each_row_of_the_fleet_leads_to_its_host() {
    let (_, fleet) = dashboards().into_iter().find(|(file, _)| file.ends_with("fleet.json")).unwrap();
    let way = regex(
        r"^/d/agenthost-host\?var-datasource=\$\{datasource\}&var-instance=\$\{__(data\.fields\.host|field\.labels\.instance)\}&",
    );
    let whole = fleet.to_string();
    assert!(whole.matches("var-instance=").count() >= 8, "tables, timelines and lines lead there");
    let urls = regex(r#""url":"([^"]*var-instance[^"]*)""#);
    assert!(urls.captures_iter(&whole).all(|url| way.is_match(&url[1])), "to the host that was clicked");
}

#[test]
fn each_panel_says_what_it_is_and_what_nothing_means() {
    let absent = regex(r"(?i)\d");
    for (file, dashboard) in dashboards() {
        let (mut ids, mut titles) = (BTreeSet::new(), BTreeSet::new());
        for row in list(&dashboard, "panels") {
            assert!(ids.insert(row["id"].as_u64().unwrap()), "{file}: two of one id");
        }
        for panel in panels(&dashboard) {
            let title = word(panel, "title");
            assert!(titles.insert(title.to_owned()), "{file}: two are called {title}");
            let is_folded = !list(&dashboard, "panels").contains(panel);
            assert!(!is_folded || ids.insert(panel["id"].as_u64().unwrap()), "{file}: {title}: two of one id");
            let field = &panel["fieldConfig"]["defaults"];
            let (nothing, description) = (word(field, "noValue"), word(panel, "description"));
            assert!(
                !nothing.is_empty() && !absent.is_match(nothing),
                "{file}: {title}: absent is not a number: {nothing}"
            );
            assert!(description.len() > 10 && description.ends_with('.'), "{file}: {title}: {description}");
            assert_eq!(panel["datasource"], json!({"type": "prometheus", "uid": "$datasource"}), "{file}: {title}");
            assert!(!list(&field["thresholds"], "steps").is_empty(), "{file}: {title}");
            let legend = &panel["options"]["legend"]["showLegend"];
            let drawn = ["timeseries", "state-timeline"].contains(&word(panel, "type"));
            assert_eq!(drawn, legend.is_boolean(), "{file}: {title}");
            let refs: BTreeSet<&str> = list(panel, "targets").iter().map(|target| word(target, "refId")).collect();
            assert_eq!(refs.len(), list(panel, "targets").len(), "{file}: {title}");
        }
    }
}

/// What a list of panels covers, cell by cell.
fn covers(file: &str, panels: &[Value]) {
    let mut taken: BTreeMap<(u64, u64), &str> = BTreeMap::new();
    for panel in panels {
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_else(|| panic!("{file}: {panel}"));
        let (x, y, w, h) = (at("x"), at("y"), at("w"), at("h"));
        assert!(x + w <= 24 && w > 0 && h > 0, "{file}: {} is wider than the page", panel["title"]);
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            if let Some(other) = taken.insert(cell, word(panel, "title")) {
                panic!("{file}: {} covers {other}", panel["title"]);
            }
        }
        covers(file, list(panel, "panels"));
    }
}

#[test]
fn no_panel_covers_another() {
    dashboards().iter().for_each(|(file, dashboard)| covers(file, list(dashboard, "panels")));
}

/// Units that Grafana knows, of those that are needed here.
const UNITS: &[&str] = &["none", "short", "s", "bytes", "Bps", "percentunit", "currencyUSD"];

/// The rules of github.com/grafana/dashboard-linter that look at a whole dashboard or at a panel: template-datasource-rule,
/// template-job-rule, template-instance-rule, template-on-time-change-reload-rule, uneditable-dashboard, panel-datasource-rule
/// (above, with panel-title-description-rule), panel-units-rule, panel-no-targets-rule.
#[test]
fn the_linters_rules_for_dashboards_and_panels_hold() {
    for (file, dashboard) in dashboards() {
        assert_eq!(dashboard["editable"], false, "{file}: uneditable-dashboard");
        let variables = list(&dashboard["templating"], "list");
        let names: Vec<&str> = variables.iter().map(|variable| word(variable, "name")).collect();
        assert_eq!(names, ["datasource", "job", "instance"], "{file}");
        let source = &variables[0];
        assert_eq!((word(source, "type"), word(source, "query")), ("datasource", "prometheus"), "{file}");
        assert_eq!(word(source, "label"), "Data source", "{file}: template-datasource-rule");
        for (variable, label) in variables[1..].iter().zip(["Job", "Instance"]) {
            assert_eq!((word(variable, "type"), word(variable, "label")), ("query", label), "{file}");
            assert_eq!(word(&variable["datasource"], "uid"), "$datasource", "{file}: template-{label}-rule");
            assert_eq!((&variable["multi"], word(variable, "allValue")), (&json!(true), ".+"), "{file}");
            assert_eq!(variable["refresh"], 2, "{file}: template-on-time-change-reload-rule");
            assert_eq!(word(&variable["query"], "query"), word(variable, "definition"), "{file}");
        }
        assert_eq!(variables[1]["current"]["value"], json!(["agenthost"]), "{file}: the job that the rules name");
        for panel in panels(&dashboard) {
            let field = &panel["fieldConfig"]["defaults"];
            let place = format!("{file}: {}", word(panel, "title"));
            assert!(!list(panel, "targets").is_empty(), "{place}: panel-no-targets-rule");
            let timeline = word(panel, "type") == "state-timeline" && !list(field, "mappings").is_empty();
            assert!(timeline || UNITS.contains(&word(field, "unit")), "{place}: panel-units-rule");
        }
    }
}

/// Those that look at a query: target-job-rule, target-instance-rule, target-rate-interval-rule, target-counter-agg-rule
/// (with the exclusion in `dashboards/.lint`), target-logql-rule and target-logql-auto-rule (there is no Loki here).
/// target-promql-rule and template-label-promql-rule: see below.
#[test]
fn the_linters_rules_for_queries_hold() {
    let selector = regex(r"\b(agenthost_\w+|process_\w+|up|scrape_\w+|ALERTS)\b(\{[^}]*\})?");
    let range = regex(r"(\w+)\((agenthost_\w+|process_\w+)\{[^}]*\}\[([^\]]+)\]");
    for query in queries() {
        let (place, expression) = (&query.place, &query.expression);
        for found in selector.captures_iter(expression) {
            let filters = found.get(2).map_or("", |filters| filters.as_str());
            let begun = filters.strip_prefix('{').is_some_and(|filters| filters.starts_with(FILTERS));
            assert!(begun, "{place}: target-job-rule, target-instance-rule: {} {filters}", &found[1]);
            let counter = found[1].ends_with("_total");
            let ranged = range.captures_iter(expression).any(|range| range[2] == found[1]);
            assert!(!counter || ranged, "{place}: target-counter-agg-rule: {}", &found[1]);
        }
        for found in range.captures_iter(expression) {
            let (function, metric, window) = (&found[1], &found[2], &found[3]);
            let of_table = OF_TABLES.iter().any(|begin| metric.starts_with(begin));
            let fitting: &[&str] = if of_table { &["delta"] } else { &["rate", "increase"] };
            assert!(!metric.ends_with("_total") || fitting.contains(&function), "{place}: {function} of {metric}");
            let rate = function == "rate";
            assert_eq!(
                rate,
                window == "$__rate_interval",
                "{place}: target-rate-interval-rule: {function} over {window}"
            );
        }
    }
    let excluded = regex(r"(?m)^  ([a-z-]+):$");
    let lint = text("dashboards/.lint");
    let names: Vec<_> = excluded.captures_iter(&lint).map(|rule| rule[1].to_owned()).collect();
    assert_eq!(names, ["target-counter-agg-rule"], "what is excluded has its reason here too");
}

/// A label that the metrics of a query do not have groups by nothing, or is an empty legend.
#[test]
fn queries_and_legends_name_labels_that_their_metrics_have() {
    let metrics = regex(r"\b(?:agenthost|process)_\w+");
    let lists = regex(r"\b(?:by|on) \(([a-z_, ]*)\)");
    let printed = regex(r"\{\{(\w+)\}\}");
    let facts = facts();
    for query in queries() {
        let of =
            |name: &str| facts.iter().find(|fact| fact.prometheus == name).map_or(&[] as &[&str], |fact| fact.labels);
        let mut known: BTreeSet<&str> = ["job", "instance"].into();
        known.extend(metrics.find_iter(&query.expression).flat_map(|name| of(name.as_str())));
        let grouped = lists
            .captures_iter(&query.expression)
            .flat_map(|list| list[1].split(',').map(|label| label.trim().to_owned()).collect::<Vec<_>>());
        let shown = printed.captures_iter(&query.legend).map(|label| label[1].to_owned());
        for label in grouped.chain(shown) {
            assert!(known.contains(label.as_str()), "{}: there is no {label} there", query.place);
        }
    }
}

/// A column that no query gives is silently missing.
#[test]
fn tables_name_columns_that_their_queries_give() {
    let lists = regex(r"^max by \(([a-z_, ]*)\)");
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard).into_iter().filter(|panel| word(panel, "type") == "table") {
            let place = format!("{file}: {}", word(panel, "title"));
            let targets = list(panel, "targets");
            let mut given = BTreeSet::from(["Time".to_owned()]);
            for target in targets {
                assert_eq!((word(target, "format"), &target["instant"]), ("table", &json!(true)), "{place}");
                let by = lists.captures(word(target, "expr")).unwrap_or_else(|| panic!("{place}: {target}"));
                given.extend(by[1].split(", ").map(str::to_owned));
                given.insert(match targets.len() {
                    1 => "Value".to_owned(),
                    _ => format!("Value #{}", word(target, "refId")),
                });
            }
            let steps = list(panel, "transformations");
            let organize = &steps.iter().find(|step| step["id"] == "organize").unwrap()["options"];
            let (order, hidden) =
                (organize["indexByName"].as_object().unwrap(), organize["excludeByName"].as_object().unwrap());
            let named: BTreeSet<String> = order.keys().chain(hidden.keys()).cloned().collect();
            assert_eq!(named, given, "{place}: each column is placed or hidden, and there is no other");
            let title = |name: &str| organize["renameByName"][name].as_str().unwrap_or(name).to_owned();
            let titles: BTreeSet<String> = order.keys().map(|name| title(name)).collect();
            let ids: Vec<&str> = steps.iter().map(|step| word(step, "id")).collect();
            assert_eq!(ids.last(), Some(&"organize"), "{place}: what sorts does it by the names before");
            for sort in
                steps.iter().filter(|step| step["id"] == "sortBy").flat_map(|step| list(&step["options"], "sort"))
            {
                assert!(given.contains(word(sort, "field")), "{place}: sorted by {sort}");
            }
            for one in list(&panel["fieldConfig"], "overrides") {
                assert!(titles.contains(word(&one["matcher"], "options")), "{place}: {one}");
            }
        }
    }
}

/// target-promql-rule and template-label-promql-rule, by Prometheus' own parser.
#[test]
fn promtool_can_read_every_query() {
    let (folder, mut rules) = (tempfile::tempdir().unwrap(), String::from("groups:\n  - name: panels\n    rules:\n"));
    let asked = regex(r"label_values\((.*), \w+\)$");
    let mut all: Vec<String> = queries().into_iter().map(|query| query.expression).collect();
    for (file, dashboard) in dashboards() {
        all.extend(list(&dashboard["annotations"], "list").iter().map(|note| word(note, "expr").to_owned()));
        for variable in &list(&dashboard["templating"], "list")[1..] {
            let found = asked.captures(word(variable, "definition")).unwrap_or_else(|| panic!("{file}: {variable}"));
            all.push(found[1].to_owned());
        }
    }
    for (index, expression) in all.iter().enumerate() {
        let expression = asked_of(expression, "1h", ".+");
        rules += &format!("      - {{record: 'panel{index}', expr: {}}}\n", json!(expression));
    }
    let file = folder.path().join("panels.yml");
    fs::write(&file, rules).unwrap();
    let output = match Command::new("promtool").args(["check", "rules"]).arg(&file).output() {
        Ok(output) => output,
        Err(error) => return crate::skipped("the queries of the dashboards", &format!("promtool: {error}")),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// What series say to a panel's query A, in the words of its mapping; `None` is no series.
type Said<'a> = (&'a str, &'a str, &'a [(&'a str, u8)], Option<&'a str>);

/// States are made of several metrics: each must come out as the word that is true.
const STATES: &[Said<'_>] = &[
    ("fleet", "Verdicts", &[("up{}", 0)], Some("not watched")),
    ("fleet", "Verdicts", &[("up{}", 1)], None),
    ("host", "Verdict", &[("up{}", 1), (r#"agenthost_health_state{state="unhealthy"}"#, 1)], Some("unhealthy")),
    ("host", "Verdict", &[("up{}", 1), (r#"agenthost_health_state{state="degraded"}"#, 1)], Some("degraded")),
    ("host", "Verdict", &[("up{}", 1), (r#"agenthost_health_state{state="starting"}"#, 1)], Some("starting")),
    (
        "host",
        "Verdict",
        &[(r#"agenthost_health_state{state="healthy"}"#, 1), (r#"agenthost_health_state{state="unhealthy"}"#, 0)],
        Some("healthy"),
    ),
    ("host", "Status of the host's service", &[(r#"agenthost_service_status{status="ok"}"#, 1)], Some("ok")),
    (
        "host",
        "Status of the host's service",
        &[(r#"agenthost_service_status{status="ok"}"#, 0), (r#"agenthost_service_status{status="stalled"}"#, 1)],
        Some("stalled"),
    ),
    ("host", "Status of the host's service", &[(r#"agenthost_service_status{status="down"}"#, 1)], Some("down")),
    ("host", "Status of the host's service", &[(r#"agenthost_service_status{status="unknown"}"#, 1)], Some("unknown")),
    ("host", "Channels", &[("agenthost_channel_connected{}", 1)], Some("connected")),
    ("host", "Channels", &[("agenthost_channel_connected{}", 0)], Some("disconnected")),
    (
        "host",
        "Channels",
        &[("agenthost_channel_connected{}", 1), ("agenthost_channel_contradicted{}", 1)],
        Some("contradicted"),
    ),
    (
        "host",
        "Channels",
        &[("agenthost_channel_connected{}", 1), ("agenthost_channel_contradicted{}", 0)],
        Some("connected"),
    ),
    ("host", CHECKS, &[("agenthost_check_failed{}", 0), ("agenthost_check_bad{}", 0)], Some("ok")),
    ("host", CHECKS, &[("agenthost_check_failed{}", 0), ("agenthost_check_bad{}", 1)], Some("bad, not for long yet")),
    ("host", CHECKS, &[("agenthost_check_failed{}", 1), ("agenthost_check_bad{}", 1)], Some("failed")),
    ("host", CHECKS, &[("agenthost_check_failed{}", 1), ("agenthost_check_bad{}", 0)], Some("recovering")),
    ("host", CHECKS, &[("agenthost_check_failed{}", 0), ("agenthost_check_unknown{}", 1)], Some("unknown")),
    ("host", CHECKS, &[("agenthost_check_failed{}", 1), ("agenthost_check_unknown{}", 1)], Some("failed")),
    ("repositories-and-tasks", TREES, &[("agenthost_worktree_broken{}", 1)], Some("broken")),
    (
        "repositories-and-tasks",
        TREES,
        &[("agenthost_worktree_conflict{}", 1), ("agenthost_worktree_dirty{}", 1)],
        Some("conflict"),
    ),
    (
        "repositories-and-tasks",
        TREES,
        &[("agenthost_worktree_unfinished{}", 1), ("agenthost_worktree_dirty{}", 0)],
        Some("unfinished"),
    ),
    ("repositories-and-tasks", TREES, &[("agenthost_worktree_diverged{}", 1)], Some("diverged")),
    ("repositories-and-tasks", TREES, &[("agenthost_worktree_dirty{}", 1)], Some("changed")),
    (
        "repositories-and-tasks",
        TREES,
        &[("agenthost_worktree_broken{}", 0), ("agenthost_worktree_dirty{}", 0)],
        Some("clean"),
    ),
    // That nobody could compare it with its index is not clean.
    ("repositories-and-tasks", TREES, &[("agenthost_worktree_broken{}", 0)], None),
];
const CHECKS: &str = "Checks, the worst first";
const TREES: &str = "State of each worktree";

/// The number of a word of a panel's mapping.
fn code(panel: &Value, word: &str) -> String {
    let mappings =
        [&panel["fieldConfig"]["defaults"]["mappings"], &panel["fieldConfig"]["overrides"]].map(Value::to_string);
    let found = regex(&format!(r#""(\d+)":\{{[^}}]*"text":"{word}"\}}"#));
    let all = mappings.concat();
    found.captures(&all).unwrap_or_else(|| panic!("{}: no {word} in {all}", panel["title"]))[1].to_owned()
}

#[test]
fn what_a_state_is_called_is_so() {
    let all = dashboards();
    let mut tests = String::from("evaluation_interval: 1m\ntests:\n");
    for (index, (name, title, series, wanted)) in STATES.iter().enumerate() {
        let (_, dashboard) = all.iter().find(|(file, _)| *file == format!("{FOLDER}/{name}.json")).unwrap();
        let panel = *panels(dashboard).iter().find(|panel| word(panel, "title") == *title).unwrap();
        let expression = asked_of(word(&panel["targets"][0], "expr"), "1h", ".+");
        tests += &format!("  - name: '{index}: {name} {wanted:?}'\n    interval: 1m\n    input_series:\n");
        for (metric, value) in *series {
            let labelled = metric.replace('{', "{job=\"agenthost\",instance=\"a\",").replace(",}", "}");
            tests += &format!("      - {{series: {}, values: '{value}'}}\n", json!(labelled));
        }
        let samples =
            wanted.map(|word| format!("{{labels: '{{}}', value: {}}}", code(panel, word))).unwrap_or_default();
        let bare = format!("max({expression})");
        tests +=
            &format!("    promql_expr_test: [{{expr: {}, eval_time: 0m, exp_samples: [{samples}]}}]\n", json!(bare));
    }
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    fs::write(file.path(), tests).unwrap();
    match Command::new("promtool").args(["test", "rules"]).arg(file.path()).output() {
        Ok(output) => {
            let said = [output.stdout, output.stderr].concat();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
        }
        Err(error) => crate::skipped("the states of the dashboards", &format!("promtool: {error}")),
    }
}

/// The expression as Grafana would send it.
fn asked_of(expression: &str, range: &str, instance: &str) -> String {
    let intervals = expression.replace("$__rate_interval", "30s").replace("$__range", range);
    intervals.replace("$job", "agenthost").replace("$instance", instance)
}

/// Grafana's own types, as PyPI has them: `tests/run` installs them.
#[test]
fn grafana_knows_every_key() {
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = home.join("target/grafana/bin/python");
    if !python.exists() {
        return crate::skipped("the keys of the dashboards", "tests/run has not installed target/grafana");
    }
    let round = |files: &[String]| {
        let trip = home.join("tests/grafana-round-trip");
        let output = Command::new(&python).arg(trip).args(files).current_dir(&home).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    assert_eq!(round(&files()), (true, String::new()));
    let wrong = tempfile::NamedTempFile::new().unwrap();
    let misspelt = text("dashboards/host.json").replace("\"reduceOptions\"", "\"reduceOption\"");
    fs::write(wrong.path(), misspelt.replace("\"noValue\"", "\"novalue\"")).unwrap();
    let (ended_well, said) = round(&[wrong.path().display().to_string()]);
    assert!(!ended_well && said.contains("/options/reduceOption\n") && said.contains("/defaults/novalue\n"), "{said}");
}

/// A child that ends with the test.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Values that the program knows, of a label that has no others; else one that stands for a name of the host's.
fn values(fact: &Fact, label: &str) -> Vec<String> {
    let named = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    match (fact.prometheus, label) {
        ("agenthost_health_state", "state") => Overall::ALL.iter().map(|state| state.name().to_owned()).collect(),
        ("agenthost_service_status", "status") => Status::ALL.iter().map(|status| status.name().to_owned()).collect(),
        (_, "class") => Class::ALL.iter().map(|class| class.name().to_owned()).collect(),
        (_, "severity") => named(&["critical", "warning", "info"]),
        _ => named(&["one"]),
    }
}

/// Every metric of the catalogue, with each value of its labels; counters have counted so far.
fn catalogue_page(counted: u32) -> String {
    let mut page = String::new();
    for fact in facts() {
        let mut series = vec![String::new()];
        for &label in fact.labels {
            let values = values(fact, label);
            let with = |value: &String, begin: &String| format!("{begin}{label}=\"{value}\",");
            series = series.iter().flat_map(|begin| values.iter().map(move |value| with(value, begin))).collect();
        }
        let value = if fact.kind == Kind::Counter { counted } else { 1 };
        series.iter().for_each(|labels| page += &format!("{}{{{labels}}} {value}\n", fact.prometheus));
    }
    page
}

/// Serves that page.
fn serve_catalogue() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let counted = AtomicU32::new(1);
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            drop(answer(socket, &catalogue_page(counted.fetch_add(1, Ordering::Relaxed))));
        }
    });
    address
}

fn answer(mut socket: TcpStream, page: &str) -> std::io::Result<()> {
    for line in BufReader::new(socket.try_clone()?).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nConnection: close\r\n";
    write!(socket, "{head}Content-Length: {}\r\n\r\n{page}", page.len())
}

/// The demo host with its sidecar, the catalogue, and a Prometheus that reads both as `demo` and `catalogue`.
struct Stage {
    prometheus: SocketAddr,
    sidecar: Sidecar,
    running: Ended,
    folder: tempfile::TempDir,
    _api: Api,
    _root: Root,
}

impl Stage {
    fn new() -> Option<Stage> {
        let (folder, api, root) = (tempfile::tempdir().unwrap(), Api::healthy(), Root::with_history(Timestamp::now()));
        let config = folder.path().join("exporter.toml");
        fs::write(folder.path().join("heartbeat"), "").unwrap();
        let own = format!(
            "{FAST}\n[collect.workers]\ninterval = \"1s\"\n\
             [[collect.http]]\nname = \"own\"\nurl = \"{}/status\"\nvalues = {{ running = \"/queue/active_containers\" }}\n\
             [[collect.sql]]\nname = \"groups\"\ndatabase = \"{}\"\nquery = \"SELECT count(*) AS registered FROM registered_groups\"\n\
             [[collect.heartbeat]]\nname = \"data\"\npath = \"{}\"\nmax_age = \"1m\"\n",
            api.url,
            root.database().display(),
            folder.path().join("heartbeat").display()
        );
        fs::write(&config, own).unwrap();
        let mut demo = exporter();
        demo.env("PATH", std::env::var_os("PATH").unwrap()).stdout(Stdio::null());
        let anywhere = ["--web.listen-address=127.0.0.1:0".to_owned(), "demo".to_owned()];
        let sidecar = Sidecar::spawn_at(demo, &config, anywhere);
        let target = |address: SocketAddr, instance: &str| {
            format!("{{targets: ['{address}'], labels: {{instance: {instance}}}}}")
        };
        let scrape = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: agenthost, static_configs: [{}, {}]}}]\n",
            target(sidecar.address, "demo"),
            target(serve_catalogue(), "catalogue")
        );
        fs::write(folder.path().join("prometheus.yml"), scrape).unwrap();
        let prometheus = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let started = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={prometheus}"))
            .current_dir(folder.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        match started {
            Ok(child) => Some(Stage { prometheus, sidecar, running: Ended(child), folder, _api: api, _root: root }),
            Err(error) => {
                crate::skipped("the queries of the dashboards", &format!("prometheus: {error}"));
                None
            }
        }
    }

    /// Whether the expression has a series; not while Prometheus does not answer.
    fn has(&self, expression: &str) -> bool {
        let counted = format!("count({expression})");
        let escaped: String = counted.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let Ok((status, body)) = get(self.prometheus, &format!("/api/v1/query?query={escaped}")) else { return false };
        assert!([200, 503].contains(&status), "{expression}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        answer["data"]["result"].as_array().is_some_and(|result| !result.is_empty())
    }

    /// Waits until each has a series; those that never do.
    fn never(&self, mut waiting: Vec<(String, String)>) -> Vec<String> {
        let begun = Instant::now();
        while !waiting.is_empty() && begun.elapsed() < Duration::from_secs(300) {
            waiting.retain(|(_, expression)| !self.has(expression));
            std::thread::sleep(Duration::from_millis(300));
        }
        waiting.into_iter().map(|(place, expression)| format!("{place}: {expression}")).collect()
    }
}

/// Facts that a query names.
fn named(expression: &str) -> BTreeSet<String> {
    regex(r"\b(?:agenthost|process)_\w+").find_iter(expression).map(|found| found.as_str().to_owned()).collect()
}

#[test]
fn prometheus_has_an_answer_to_every_panel_and_previews_can_be_drawn() {
    let Some(mut stage) = Stage::new() else { return };
    let missing: BTreeSet<&str> = NOT_IN_THE_DEMO.iter().flat_map(|(_, names)| *names).copied().collect();
    let mut asked = Vec::new();
    for query in queries() {
        asked.push((query.place.clone(), asked_of(&query.expression, "1h", "catalogue")));
        let is_there = named(&query.expression).iter().all(|name| !missing.contains(name.as_str()));
        if is_there && !SELDOM.iter().any(|seldom| query.place.ends_with(seldom)) {
            asked.push((query.place, asked_of(&query.expression, "1h", "demo")));
        }
    }
    let never = stage.never(asked);
    let log = fs::read_to_string(stage.folder.path().join("log")).unwrap();
    assert!(never.is_empty(), "no series:\n{}\n{log}", never.join("\n"));

    let (_, page) = stage.sidecar.get("/metrics");
    let has = |name: &str| page.lines().any(|line| line.split(['{', ' ']).next() == Some(name));
    let needless: Vec<_> = missing.iter().filter(|name| has(name)).collect();
    assert!(needless.is_empty(), "the demo has them: {needless:?}");

    previews(&stage);
    stage.running.0.kill().unwrap();
    stage.sidecar.terminate();
}

/// The pictures of the README, of what Prometheus knows by now.
fn previews(stage: &Stage) {
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let draw = |arguments: &[&str]| {
        let mut command = Command::new(home.join("tests/draw-dashboards"));
        command
            .arg(format!("http://{}", stage.prometheus))
            .args(["--instance", "demo", "--range", "1m"])
            .args(arguments);
        let output = command.current_dir(stage.folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let said: BTreeMap<String, BTreeMap<String, u64>> = serde_json::from_slice(&draw(&["--data"])).unwrap();
    assert_eq!(said.len(), 5);
    assert!(said["host"]["Verdict/A"] == 1 && said["fleet"]["Verdicts/A"] == 2, "{said:#?}");
    if Command::new("chromium").arg("--version").output().is_err() {
        return crate::skipped("the previews of the dashboards", "chromium is not installed");
    }
    draw(&[]);
    for (file, _) in dashboards() {
        let name = Path::new(&file).file_stem().unwrap().to_str().unwrap();
        let picture = fs::read(stage.folder.path().join(format!("dashboard-{name}.png"))).unwrap();
        assert!(picture.starts_with(b"\x89PNG") && picture.len() > 20_000, "{name}: {} bytes", picture.len());
    }
}
