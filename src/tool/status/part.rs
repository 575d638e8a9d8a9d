//! One line on one part of the host. What is null or not there is left out; what is not known of some is counted apart.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use crate::tool::ask::plain;
use crate::tool::told::{age, named, since, text};

/// The line, without the part's name; empty if nothing is told.
pub fn summary(name: &str, section: &Value, now: Timestamp) -> String {
    if section.is_null() {
        return "not seen".to_owned();
    }
    let said = match name {
        "service" => service(section),
        "deploy" => deploy(section, now),
        "channels" | "mcp" => connected(section),
        "gateway" => gateway(section),
        "queue" => queue(section),
        "containers" => states(section, &["running", "restarting", "paused", "created", "exited", "dead", "unknown"]),
        "repos" => repos(section),
        "messages" => messages(section, now),
        "usage" => usage(section),
        "tasks" => jobs(section, |job| job["status"] == "active"),
        "host_jobs" => jobs(section, |job| job["enabled"] != false && job["status"] == "active"),
        "groups" => {
            vec![number(&section["total"], "registered"), number(&section["active_sessions"], "with a session")]
        }
        "workers" => workers(section),
        _ => anything(section),
    };
    said.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(", ")
}

fn service(section: &Value) -> Vec<String> {
    let api = match (&section["api"]["answered"], seconds(&section["api"]["response_seconds"])) {
        (Value::Bool(true), Some(long)) => format!("answers in {} ms", long.as_millis()),
        (Value::Bool(true), None) => "answers".to_owned(),
        (Value::Bool(false), _) => format!("does not answer: {}", text(&section["api"]["error"])),
        _ => String::new(),
    };
    let up = seconds(&section["uptime_seconds"]).map(|long| format!("up {}", age(long)));
    let pid = section["pid"].as_u64().map(|pid| format!("process {pid}"));
    let unseen = section["process_error"].as_str().map(|why| format!("process not seen: {}", plain(why)));
    [Some(text(&section["status"])), up, pid.or(unseen), Some(api)].into_iter().flatten().collect()
}

fn deploy(section: &Value, now: Timestamp) -> Vec<String> {
    let mut said = tree(section);
    said.push(when(section["drift"] == true, "not what was deployed last"));
    said.extend(since(&section["last_deploy_at"], now).map(|long| format!("deployed {} ago", age(long))));
    said
}

/// What somebody should know of a checkout.
fn tree(tree: &Value) -> Vec<String> {
    let head = text(&tree["head_sha"]).chars().take(7).collect::<String>();
    let branch = if tree["detached"] == true { "detached".to_owned() } else { text(&tree["branch"]) };
    let error = tree["error"].as_str().map(|error| format!("unreadable: {}", plain(error)));
    let operation = tree["operation"].as_str().map(|operation| format!("{} unfinished", plain(operation)));
    let state = match &tree["dirty"] {
        Value::Bool(true) => "dirty",
        Value::Bool(false) => "clean",
        _ => "",
    };
    [
        error,
        Some(format!("{branch} {head}").trim().to_owned()),
        Some(when(tree["conflict"] == true, "conflict")),
        operation,
        Some(state.to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn connected(section: &Value) -> Vec<String> {
    let Some(all) = section.as_object() else { return Vec::new() };
    let of = |wanted: Value| all.iter().filter(move |(_, one)| one["connected"] == wanted).map(|(name, _)| plain(name));
    let off: Vec<String> = of(Value::Bool(false)).collect();
    let unknown: Vec<String> = of(Value::Null).collect();
    vec![
        if all.is_empty() {
            "none".to_owned()
        } else {
            format!("{} of {} connected", of(Value::Bool(true)).count(), all.len())
        },
        named("not: ", &off),
        named("not known: ", &unknown),
    ]
}

fn gateway(section: &Value) -> Vec<String> {
    let word = |value: &Value, yes: &str, no: &str, unknown: &str| match value {
        Value::Bool(true) => yes.to_owned(),
        Value::Bool(false) => no.to_owned(),
        _ => unknown.to_owned(),
    };
    let unhealthy: Vec<String> = section["models"]
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, model)| model["unhealthy"].as_u64().is_some_and(|count| count > 0))
        .map(|(name, _)| plain(name))
        .collect();
    vec![
        text(&section["mode"]),
        word(&section["up"], "answers", "DOES NOT ANSWER", "not known whether it answers"),
        word(&section["ready"], "can serve", "CANNOT SERVE", ""),
        text(&section["reason"]),
        number(&section["healthy_models"], "models healthy"),
        named("unhealthy: ", &unhealthy),
        section["spend_usd"].as_f64().map(|spent| format!("{spent:.2} USD spent")).unwrap_or_default(),
    ]
}

fn queue(section: &Value) -> Vec<String> {
    let at_work = match (section["active_containers"].as_u64(), section["max_concurrent"].as_u64()) {
        (Some(active), Some(most)) => format!("{active} of {most} at work"),
        (Some(active), None) => format!("{active} at work"),
        (None, _) => String::new(),
    };
    let wait = seconds(&section["oldest_wait_seconds"]).filter(|long| !long.is_zero());
    let wait = wait.map(|long| format!("longest wait {}", age(long)));
    vec![at_work, number(&section["groups_waiting"], "waiting"), wait.unwrap_or_default()]
}

fn repos(section: &Value) -> Vec<String> {
    let Some(all) = section.as_object() else { return Vec::new() };
    let worktrees = all.iter().flat_map(|(slug, repo)| {
        let trees = repo["worktrees"].as_object().into_iter().flatten();
        trees.map(move |(name, tree)| (format!("{}/{}", plain(slug), plain(name)), tree))
    });
    let worktrees: Vec<_> = worktrees.collect();
    let of = |wanted: &dyn Fn(&Value) -> bool| -> Vec<String> {
        worktrees.iter().filter(|(_, tree)| wanted(tree)).map(|(name, _)| name.clone()).collect()
    };
    vec![
        format!("{} with {} worktrees", all.len(), worktrees.len()),
        named("conflict: ", &of(&|tree| tree["conflict"] == true)),
        named("unfinished: ", &of(&|tree| tree["operation"].is_string() && tree["conflict"] != true)),
        named("unreadable: ", &of(&|tree| tree["error"].is_string())),
        count(of(&|tree| tree["dirty"] == true).len(), "dirty"),
    ]
}

fn messages(section: &Value, now: Timestamp) -> Vec<String> {
    let ago = |key: &str, word: &str| {
        since(&section[key], now).map(|long| format!("last {word} {} ago", age(long))).unwrap_or_default()
    };
    vec![
        ago("last_received_at", "in"),
        ago("last_sent_at", "out"),
        number(&section["pending_deliveries"], "waiting to be sent"),
        number(&section["erroring_deliveries"], "with errors"),
    ]
}

/// Sums of what is known; of the rest nobody says anything.
fn usage(section: &Value) -> Vec<String> {
    let groups = || section["groups"].as_object().into_iter().flatten();
    let sum = |key: &str| groups().filter_map(|(_, group)| group[key].as_f64()).reduce(|sum, one| sum + one);
    vec![
        sum("runs").map(|runs| format!("{runs} runs")).unwrap_or_default(),
        sum("run_errors").map(|errors| format!("{errors} failed")).unwrap_or_default(),
        sum("cost_usd").map(|cost| format!("{cost:.2} USD")).unwrap_or_default(),
    ]
}

fn jobs(section: &Value, is_on: impl Fn(&Value) -> bool) -> Vec<String> {
    let Some(all) = section.as_array() else { return Vec::new() };
    let of = |key: &str| -> Vec<String> {
        let wanted = all.iter().filter(|job| job[key] == true);
        wanted
            .map(|job| Some(text(&job["name"])).filter(|name| !name.is_empty()).unwrap_or_else(|| text(&job["id"])))
            .collect()
    };
    vec![
        format!("{} of {} active", all.iter().filter(|job| is_on(job)).count(), all.len()),
        named("overdue: ", &of("overdue")),
        named("stuck: ", &of("stuck")),
        named("failing: ", &of("failing")),
    ]
}

fn workers(section: &Value) -> Vec<String> {
    let Some(totals) = section["totals"].as_object() else { return Vec::new() };
    let all = totals.iter().filter_map(|(class, count)| Some((plain(class), count.as_u64()?)));
    let some: Vec<String> =
        all.filter(|(_, count)| *count > 0).map(|(class, count)| format!("{count} {class}")).collect();
    if some.is_empty() { vec!["none seen".to_owned()] } else { some }
}

fn states(section: &Value, states: &[&str]) -> Vec<String> {
    let some =
        states.iter().filter_map(|state| Some((section[*state].as_u64()?, state))).filter(|(count, _)| *count > 0);
    let some: Vec<String> = some.map(|(count, state)| format!("{count} {state}")).collect();
    match (some.is_empty(), section["total"].as_u64()) {
        (true, Some(0)) => vec!["none".to_owned()],
        _ => some,
    }
}

/// A part that this version does not know: what it has that is short.
fn anything(section: &Value) -> Vec<String> {
    match section {
        Value::Object(all) => {
            let short = all.iter().filter_map(|(key, value)| Some(format!("{} {}", plain(key), scalar(value)?)));
            let short: Vec<String> = short.take(6).collect();
            if short.is_empty() { vec![format!("{} entries", all.len())] } else { short }
        }
        Value::Array(all) => vec![format!("{} entries", all.len())],
        value => scalar(value).into_iter().collect(),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::String(text) => Some(plain(text)),
        _ => None,
    }
}

fn number(value: &Value, word: &str) -> String {
    value.as_u64().map(|count| format!("{count} {word}")).unwrap_or_default()
}

fn count(count: usize, word: &str) -> String {
    if count > 0 { format!("{count} {word}") } else { String::new() }
}

fn when(said: bool, word: &str) -> String {
    if said { word.to_owned() } else { String::new() }
}

fn seconds(value: &Value) -> Option<Duration> {
    Duration::try_from_secs_f64(value.as_f64()?).ok()
}
