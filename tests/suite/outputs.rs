//! What renderers spell: goldens from one fixed snapshot, names, vanishing series, pages that never mix two snapshots.
//!
//! `UPDATE=1 cargo test` writes the goldens and the README's table anew.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use agenthost_exporter::collect::{self, Subsystem};
use agenthost_exporter::fact::{Fact, Kind};
use agenthost_exporter::health::{Health, Overall, Settings, Verdict, Watched};
use agenthost_exporter::host::Profile;
use agenthost_exporter::pulse;
use agenthost_exporter::sample::{Cause, Failure, Now, Point, Points, Reading, Sample};
use agenthost_exporter::show::standing::Standing;
use agenthost_exporter::show::{metrics, probes, status};
use agenthost_exporter::snapshot::{Current, River, Seen, Sidecar, Snapshot, catalogue};
use agenthost_exporter::tool;
use serde_json::value::RawValue;

use crate::fixture;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub fn golden(name: &str, text: &str) {
    let file = path("tests/golden").join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
    }
    let known =
        fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}; UPDATE=1 writes it", file.display()));
    for (number, (known, now)) in known.lines().zip(text.lines()).enumerate() {
        assert_eq!(known, now, "{}:{}; UPDATE=1 accepts it", file.display(), number + 1);
    }
    assert_eq!(known.lines().count(), text.lines().count(), "{}: lines; UPDATE=1 accepts it", file.display());
}

fn now() -> Now {
    Now { mono: Duration::from_secs(1_000_000), wall: "2026-11-21T20:00:00Z".parse().unwrap() }
}

fn sidecar() -> Sidecar {
    Sidecar {
        version: "0.0.0",
        arch: "golden",
        profile: Profile::Pynchy,
        root: Some("/srv/pynchy".into()),
        notes: Vec::new(),
        started_at: now().wall,
    }
}

fn reading(collector: &'static str, at: Now, outcome: Result<Sample, Failure>) -> Reading {
    let (label, up) = (Arc::from(collector), outcome.is_ok());
    let mut own = Points::default();
    own.put(&pulse::UP, [&label], f64::from(u8::from(up)));
    own.put(&pulse::DURATION, [&label], 0.012);
    Reading { collector, at, took: Duration::from_millis(12), outcome, own }
}

fn sample(points: Vec<Point>) -> Sample {
    Sample {
        section: RawValue::from_string("{}".into()).unwrap().into(),
        details: Default::default(),
        points: Points(points),
        gaps: Vec::new(),
    }
}

fn point(fact: &'static Fact, label: &str, value: f64) -> Point {
    let labels = fact.labels.iter().map(|_| label.into()).collect();
    Point { fact, labels, value: Some(value), withheld: None, exported: true }
}

fn seen(subsystem: &Subsystem) -> Seen {
    Seen::nothing(subsystem.name, subsystem.every, Duration::from_secs(100))
}

fn river(at: Now) -> River {
    let watched = collect::ALL.iter().map(|subsystem| Watched {
        name: subsystem.name,
        interval: subsystem.every,
        timeout: subsystem.timeout,
        checks: subsystem.checks.to_vec(),
    });
    let health = Health::new(at, watched.collect(), pulse::CHECKS, &Settings::default());
    River::new(at, sidecar(), collect::ALL.iter().map(seen).collect(), health)
}

/// The collectors that read the database see a real one; one label needs every escape; one collector is denied.
fn fixed() -> Arc<Snapshot> {
    let host = fixture::Root::with_history(now().wall).with_repos();
    let mut river = river(now());
    for subsystem in collect::ALL {
        let outcome = match subsystem.name {
            "groups" => Err(Failure { cause: Cause::Denied, error: "read data/messages.db: permission denied".into() }),
            "service" | "gateway" | "exporter" => {
                let mut points = Vec::new();
                for (value, fact) in (1_u32..).zip(subsystem.facts) {
                    points.push(point(fact, "a \"quoted\" \\ label\nof two lines", f64::from(value) + 0.25));
                }
                Ok(sample(points))
            }
            _ => host.run(subsystem, now()).map_err(Failure::from),
        };
        river.take(now(), reading(subsystem.name, now(), outcome));
    }
    river.current().get()
}

#[test]
fn metrics_are_as_they_were() {
    let page = metrics::page(&Current::fixed((*fixed()).clone()));
    golden("metrics.txt", std::str::from_utf8(&page.write().unwrap().plain).unwrap());
}

#[test]
fn status_is_as_it_was() {
    let json = serde_json::to_string_pretty(&status::Status(&fixed())).unwrap();
    golden("status.json", &(json + "\n"));
}

#[test]
fn promtool_finds_nothing_to_say() {
    let Ok(mut promtool) = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
    else {
        return crate::skipped("promtool check metrics", "promtool is not installed");
    };
    let page = metrics::page(&Current::fixed(everything()));
    promtool.stdin.take().unwrap().write_all(&page.write().unwrap().plain).unwrap();
    let said = promtool.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stderr), "");
    assert_eq!(String::from_utf8_lossy(&said.stdout), "");
    assert!(said.status.success());
}

/// A snapshot in which every fact of the catalogue has a series.
fn everything() -> Snapshot {
    let mut snapshot = (*river(now()).current().get()).clone();
    let mut points = Points::default();
    points.0.extend(catalogue().into_iter().map(|(_, fact)| point(fact, "x", 1.0)));
    snapshot.own = points.into();
    snapshot
}

#[test]
fn every_fact_is_rendered_under_its_literal_name_and_type() {
    let page = metrics::page(&Current::fixed(everything()));
    let text = String::from_utf8(page.write().unwrap().plain.into()).unwrap();
    for (_, fact) in catalogue() {
        let kind = if fact.kind == Kind::Counter { "counter" } else { "gauge" };
        let (name, help) = (fact.prometheus, fact.help);
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name} {kind} (from {}):\n{text}", fact.name);
        assert!(text.contains(&format!("# HELP {name} {help}\n")), "{name}");
        assert_eq!(fact.kind == Kind::Counter, name.ends_with("_total"), "{name}");
        assert!(name.starts_with("agenthost_") || name.starts_with("process_"), "{name}");
        assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
    }
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert_eq!(series, catalogue().len(), "a series that is in no catalogue, or a fact that was dropped");
}

/// What is counted from the rows that the host keeps begins with them at each start.
#[test]
fn counters_of_rows_say_when_a_restart_makes_them_fall() {
    let of_rows = collect::ALL.iter().filter(|subsystem| ["messages", "usage", "tasks"].contains(&subsystem.name));
    let counters = of_rows.flat_map(|subsystem| subsystem.facts).filter(|fact| fact.kind == Kind::Counter);
    for fact in counters {
        assert!(fact.help.ends_with(" Lower after a restart only if the host pruned rows."), "{}", fact.prometheus);
    }
}

/// Prometheus names its targets by these, and would rename ours to `exported_…`; the last two are of its own types.
#[test]
fn no_label_is_one_of_prometheus_own() {
    for (_, fact) in catalogue() {
        for label in fact.labels {
            let taken = ["job", "instance", "le", "quantile"].contains(label) || label.starts_with("__");
            assert!(!taken, "{} has a label `{label}`", fact.prometheus);
        }
    }
}

#[test]
fn names_of_facts_checks_and_collectors_are_unique() {
    let facts: BTreeSet<_> = catalogue().into_iter().map(|(_, fact)| fact.prometheus).collect();
    assert_eq!(facts.len(), catalogue().len());
    let checks = || pulse::CHECKS.iter().chain(collect::ALL.iter().flat_map(|subsystem| subsystem.checks));
    let names: BTreeSet<_> = checks().map(|check| check.name).collect();
    assert_eq!(names.len(), checks().count());
    for subsystem in collect::ALL {
        for check in subsystem.checks {
            assert!(
                subsystem.facts.iter().any(|fact| fact.is(check.fact)),
                "{} is not on a fact of its collector",
                check.name
            );
        }
    }
}

/// A fact that a collector puts but does not declare would vanish from metrics without a word.
#[test]
fn every_fact_put_is_declared() {
    let host = fixture::Root::with_history(now().wall).with_repos();
    // This host has no gateway; the collector's own tests assert the same.
    for subsystem in collect::ALL.iter().filter(|subsystem| subsystem.name != "gateway") {
        let sample = host.run(subsystem, now()).unwrap_or_else(|error| panic!("{}: {error:#}", subsystem.name));
        for point in &sample.points.0 {
            let declared = subsystem.facts.iter().any(|fact| fact.is(point.fact));
            assert!(declared, "{} puts {}, which is not in its FACTS", subsystem.name, point.fact.prometheus);
            assert_eq!(point.labels.len(), point.fact.labels.len(), "{}", point.fact.prometheus);
        }
    }
}

fn render(page: &Standing) -> String {
    String::from_utf8(page.write().unwrap().plain.into()).unwrap()
}

#[test]
fn a_series_that_is_no_longer_seen_leaves() {
    let fact = catalogue().into_iter().map(|(_, fact)| fact).find(|fact| fact.labels.len() == 1).unwrap();
    let subsystem = &collect::ALL[0];
    let publish = |labels: &[&str], seq| {
        let points = labels.iter().map(|label| point(fact, label, 7.0)).collect();
        let mut snapshot = (*river(now()).current().get()).clone();
        let mut seen = seen(subsystem);
        seen.good = Some(Arc::new(reading(subsystem.name, now(), Ok(sample(points)))));
        (snapshot.collectors, snapshot.own, snapshot.seq) = (vec![seen], Arc::default(), seq);
        snapshot
    };
    let current = Current::fixed(publish(&["one", "two"], 1));
    let page = metrics::page(&current);
    let shown = |label: &str, text: &str| text.contains(&format!("=\"{label}\"}} 7"));
    let text = render(&page);
    assert!(shown("one", &text) && shown("two", &text), "{text}");
    current.publish(publish(&["two"], 2));
    let text = render(&page);
    assert!(!shown("one", &text) && shown("two", &text), "{text}");
    current.publish(publish(&[], 3));
    assert_eq!(render(&page), "");
}

#[test]
fn series_of_a_collector_leave_when_its_last_success_is_too_old() {
    let mut river = river(now());
    let subsystem = collect::ALL.iter().find(|subsystem| !subsystem.facts.is_empty()).unwrap();
    let fact = subsystem.facts[0];
    let good = reading(subsystem.name, now(), Ok(sample(vec![point(fact, "x", 3.0)])));
    river.take(now(), good);
    let has = |river: &River| river.current().get().points().any(|point| point.fact.is(fact));
    assert!(has(&river));
    for after in 1..=100 {
        river.wake(now().plus(Duration::from_secs(after)));
    }
    assert!(has(&river), "as old as allowed");
    river.wake(now().plus(Duration::from_secs(101)));
    assert!(!has(&river), "older");
    assert!(river.current().get().collectors.iter().any(|seen| seen.last_success_at.is_some()));
}

/// All values of a page are of one snapshot, however many scrape while however many are published.
#[test]
fn no_page_mixes_two_snapshots() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let numbered = |number: u64| {
            let mut snapshot = everything();
            let mut points = (*snapshot.own).clone();
            points.0.iter_mut().for_each(|point| point.value = Some(number as f64));
            (snapshot.seq, snapshot.own) = (number, points.into());
            snapshot
        };
        let current = Current::fixed(numbered(1));
        let page = metrics::page(&current);
        let publisher =
            tokio::task::spawn_blocking(move || (2..3000).for_each(|number| current.publish(numbered(number))));
        let mut scrapes = tokio::task::JoinSet::new();
        for _ in 0..1000 {
            let page = page.clone();
            scrapes.spawn(async move { page.get().await.unwrap().plain });
        }
        while let Some(text) = scrapes.join_next().await {
            let text = String::from_utf8(text.unwrap().into()).unwrap();
            let values: BTreeSet<_> =
                text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit(' ').next()).collect();
            assert_eq!(values.len(), 1, "{text}");
        }
        publisher.await.unwrap();
    });
}

#[test]
fn the_readmes_table_is_the_catalogue() {
    const BEGIN: &str = "<!-- catalogue: UPDATE=1 cargo test writes it -->\n";
    const END: &str = "<!-- end of catalogue -->\n";
    let text = fs::read_to_string(path("README.md")).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the README has a place for the catalogue");
    let (table, after) = rest.split_once(END).expect("the catalogue has an end");
    let now = tool::metrics::render(tool::metrics::Format::Markdown).unwrap();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(path("README.md"), format!("{before}{BEGIN}{now}{END}{after}")).unwrap();
    } else {
        assert_eq!(table, now, "UPDATE=1 cargo test writes it");
    }
}

fn live(current: &Current, now: Now) -> probes::Probe {
    probes::live(current, now, &probes::Asked::default()).unwrap()
}

fn ready(current: &Current, now: Now) -> probes::Probe {
    probes::ready(current, now, &probes::Asked::default(), probes::Reasons::Shown).unwrap()
}

#[test]
fn probes_say_so_when_the_river_has_stopped() {
    let (current, second) = (Current::fixed((*fixed()).clone()), Duration::from_secs(1));
    let (soon, late) = (now().plus(second * 10), now().plus(second * 10 + Duration::from_millis(1)));
    assert!(live(&current, soon).ok && ready(&current, soon).ok);
    assert!(!live(&current, late).ok, "no beat for more than ten seconds");
    assert!(!ready(&current, late).ok, "whatever the last snapshot said");
    assert!(probes::serving().ok);
}

#[test]
fn probes_follow_the_verdict() {
    let at = |overall, can_work, unready| {
        let mut snapshot = Snapshot { overall, ready: can_work, ..(*fixed()).clone() };
        let unready = |verdict: &Verdict| Verdict { unready, ..verdict.clone() };
        snapshot.verdicts = snapshot.verdicts.iter().map(unready).collect();
        Current::fixed(snapshot)
    };
    for (overall, can_work, unready) in [
        (Overall::Starting, false, false),
        (Overall::Unhealthy, false, true),
        (Overall::Degraded, true, false),
        (Overall::Healthy, true, false),
    ] {
        let current = at(overall, can_work, unready);
        assert_eq!(ready(&current, now()).ok, can_work, "{overall:?}");
        assert!(live(&current, now()).ok, "{overall:?}: this process is not its host");
    }
}
