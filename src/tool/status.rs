//! `agenthost-exporter status`: what a sidecar that runs says, for a person at a terminal: the verdict, what failed and
//! when it recovers, what nobody can see, then a line for every part.
//!
//! What is in `/status` came from elsewhere and may be of another version: what is not there is left out, and no text of it
//! moves a cursor.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use jiff::Timestamp;
use serde_json::Value;

use super::ask::{self, Door, Own, plain};
use super::told::{self, Check, State, age, text};
use crate::collect;
use crate::fact::Span;

pub(super) mod part;

const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Args)]
pub struct Question {
    #[command(flatten)]
    door: Door,
    /// Looks again so often, until it is interrupted.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "2", value_parser = pause)]
    watch: Option<Duration>,
    /// Whether to colour.
    #[arg(long, default_value = "auto")]
    color: When,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    /// On a terminal, unless NO_COLOR is set.
    Auto,
    Always,
    Never,
}

fn pause(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let pause = seconds.map_or_else(|| text.parse().map(|Span(pause)| pause), Ok)?;
    if pause < Duration::from_millis(100) { Err("must be at least 0.1".to_owned()) } else { Ok(pause) }
}

/// Prints until there is nothing more to print. Whether it could be read at the last look.
///
/// # Errors
/// It cannot be asked, or standard output is closed.
pub fn run(question: &Question, own: impl Fn() -> Own) -> Result<bool> {
    let terminal = Terminal::find(question.color);
    loop {
        let look = || {
            let asker = question.door.open(&own, PATIENCE)?;
            ask::wait(async {
                let alive = asker.alive().await;
                (asker.status("/status").await, alive.err())
            })
        };
        let (status, dead) = look()?;
        let page = match &status {
            Ok(status) => terminal.show(&render(status, dead.as_ref(), Timestamp::now())),
            Err(error) => {
                let why = plain(&format!("{error:#}"));
                terminal
                    .show(&[vec![(Style::Bad, "✕ nothing is known".to_owned()), (Style::Plain, format!(": {why}"))]])
            }
        };
        let mut out = std::io::stdout().lock();
        // From the upper left corner, and nothing of the page before below.
        let page = if question.watch.is_some() && terminal.is_one { format!("\x1b[H\x1b[2J{page}") } else { page };
        out.write_all(page.as_bytes()).and_then(|()| out.flush())?;
        match question.watch {
            None => return Ok(status.is_ok() && dead.is_none()),
            Some(pause) => std::thread::sleep(pause),
        }
    }
}

/// The page as a text, at a moment and for lines of this length.
pub fn page(status: &Value, now: Timestamp, colour: bool, width: Option<usize>) -> String {
    Terminal { is_one: false, colour, width }.show(&render(status, None, now))
}

/// How a piece of a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Warn,
    Bad,
    Unknown,
}

impl Style {
    fn code(self) -> &'static str {
        match self {
            Style::Plain => "",
            Style::Bold => "\x1b[1m",
            Style::Dim => "\x1b[2m",
            Style::Good => "\x1b[32m",
            Style::Warn => "\x1b[33m",
            Style::Bad => "\x1b[1;31m",
            Style::Unknown => "\x1b[35m",
        }
    }
}

type Line = Vec<(Style, String)>;

/// Where it is shown.
struct Terminal {
    is_one: bool,
    colour: bool,
    /// Longer lines are cut; elsewhere than on a terminal none is.
    width: Option<usize>,
}

impl Terminal {
    fn find(when: When) -> Terminal {
        let is_one = std::io::stdout().is_terminal();
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let able = is_one && !set("NO_COLOR") && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let colour = when == When::Always || when == When::Auto && able;
        let width = || rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
        Terminal { is_one, colour, width: if is_one { width().filter(|width| *width > 0) } else { None } }
    }

    fn show(&self, lines: &[Line]) -> String {
        lines.iter().map(|line| self.line(line) + "\n").collect()
    }

    fn line(&self, line: &Line) -> String {
        let (mut room, mut shown) = (self.width.unwrap_or(usize::MAX), String::new());
        let long: usize = line.iter().map(|(_, text)| text.chars().count()).sum();
        let cut = long > room;
        room -= usize::from(cut);
        for (style, text) in line {
            let piece: String = text.chars().take(room).collect();
            room -= piece.chars().count();
            let painted = self.colour && *style != Style::Plain && !piece.is_empty();
            shown += &if painted { format!("{}{piece}\x1b[0m", style.code()) } else { piece };
        }
        if cut { shown + "…" } else { shown }
    }
}

fn line(style: Style, text: impl Into<String>) -> Line {
    vec![(style, text.into())]
}

/// The whole page. `dead`: why nothing of it holds any more.
fn render(status: &Value, dead: Option<&anyhow::Error>, now: Timestamp) -> Vec<Line> {
    let health = &status["health"];
    let checks = told::checks(health);
    let mut lines = Vec::new();
    if let Some(dead) = dead {
        lines.push(line(Style::Bad, format!("✕ NOBODY KNOWS: {}", plain(&format!("{dead:#}")))));
        lines.push(line(Style::Dim, "  what follows is old:"));
    }
    lines.push(verdict(status, now));
    match checks.as_deref() {
        Some(checks) => {
            lines.push(tally(checks));
            lines.extend(wrong(checks, now));
        }
        None => lines.push(line(Style::Unknown, "  it tells nothing of its checks")),
    }
    lines.extend(unseen(status, now));
    lines.push(Line::new());
    lines.extend(parts(status, checks.as_deref().unwrap_or_default(), now));
    lines
}

fn verdict(status: &Value, now: Timestamp) -> Line {
    let (health, host) = (&status["health"], &status["sidecar"]["host"]);
    let (style, mark) = match health["overall"].as_str() {
        Some("healthy") => (Style::Good, "✓ HEALTHY"),
        Some("degraded") => (Style::Warn, "▲ DEGRADED"),
        Some("unhealthy") => (Style::Bad, "✕ UNHEALTHY"),
        Some("starting") => (Style::Unknown, "○ STARTING"),
        Some(_) => (Style::Unknown, "? A VERDICT THAT THIS VERSION DOES NOT KNOW"),
        None => (Style::Unknown, "? NO VERDICT"),
    };
    let ready = match health["ready"].as_bool() {
        Some(true) => "ready",
        Some(false) => "not ready",
        None => "readiness not told",
    };
    let long = told::since(&health["since"], now).map(|long| format!(" for {}", age(long))).unwrap_or_default();
    let who = [text(&host["profile"]), text(&host["root"])].into_iter().filter(|word| !word.is_empty());
    let version = text(&status["sidecar"]["version"]);
    let version = if version.is_empty() { version } else { format!(" (sidecar {version})") };
    let rest: String = who.map(|word| format!(" {word}")).collect::<String>() + &version;
    let rest = if rest.is_empty() { rest } else { format!(" {rest}") };
    vec![(style, mark.to_owned()), (Style::Bold, format!("{long}, {ready}")), (Style::Dim, rest)]
}

const STATES: [(State, &str, &str, Style); 7] = [
    (State::Failed, "failed", "✕", Style::Bad),
    (State::Recovering, "recovering", "△", Style::Warn),
    (State::Failing, "recently bad", "▲", Style::Warn),
    (State::Unknown, "not known", "?", Style::Unknown),
    (State::Starting, "not seen yet", "○", Style::Unknown),
    (State::Strange, "of another version", "?", Style::Unknown),
    (State::Ok, "ok", "✓", Style::Good),
];

/// A failure that takes no readiness and degrades nothing is no alarm.
fn look(check: &Check<'_>) -> (&'static str, Style) {
    let found = STATES.iter().find(|(state, ..)| *state == check.state());
    match found {
        Some((State::Failed, _, mark, _)) if check.severity() == "info" => (mark, Style::Plain),
        Some((State::Failed, _, mark, _)) if check.severity() == "warning" => (mark, Style::Warn),
        Some((_, _, mark, style)) => (mark, *style),
        None => ("?", Style::Unknown),
    }
}

fn tally(checks: &[Check<'_>]) -> Line {
    let count = |state| checks.iter().filter(|check| check.state() == state).count();
    let told = STATES.iter().map(|(state, word, ..)| (count(*state), word)).filter(|(count, _)| *count > 0);
    let told: Vec<String> = told.map(|(count, word)| format!("{count} {word}")).collect();
    line(Style::Dim, format!("  checks: {}", if told.is_empty() { "none".to_owned() } else { told.join(", ") }))
}

/// What is not ok, with what it means where it has failed. Many of a kind that have not failed share a line.
fn wrong(checks: &[Check<'_>], now: Timestamp) -> Vec<Line> {
    let mut off: Vec<&Check<'_>> =
        checks.iter().filter(|check| !matches!(check.state(), State::Ok | State::Starting)).collect();
    let mut lines = Vec::new();
    while !off.is_empty() {
        let first = off.remove(0);
        let kin = |check: &&&Check<'_>| check.name() == first.name() && check.state() == first.state();
        if is_down(first) || off.iter().filter(kin).count() < 2 {
            lines.extend(one_wrong(first, now));
        } else {
            let subjects: Vec<String> =
                [&first].into_iter().chain(off.iter().filter(kin)).map(|check| check.subject()).collect();
            lines.push(many_wrong(first, &subjects));
            off.retain(|check| !kin(&check));
        }
    }
    if lines.is_empty() { lines } else { [vec![Line::new()], lines].concat() }
}

fn is_down(check: &Check<'_>) -> bool {
    matches!(check.state(), State::Failed | State::Recovering)
}

fn one_wrong(check: &Check<'_>, now: Timestamp) -> Vec<Line> {
    let (mark, style) = look(check);
    let deciding = if check.is_unready() { "  NOT READY BY THIS" } else { "" };
    let rule = Some(check.rule(now)).filter(|rule| !rule.is_empty());
    let mut first = vec![
        (style, format!("  {mark} {}", check.headline())),
        (Style::Plain, format!("  {}", check.standing(now))),
        (Style::Bad, deciding.to_owned()),
    ];
    // Of what has failed they stand below: when it recovers must not be cut off.
    let (below, beside) = if is_down(check) { (rule, None) } else { (None, rule) };
    first.extend(beside.map(|rule| (Style::Dim, format!("  ({rule})"))));
    let means = check.means().filter(|_| is_down(check));
    let below = below.into_iter().chain(means).map(|text| line(Style::Dim, format!("      {text}")));
    [first].into_iter().chain(below).collect()
}

fn many_wrong(check: &Check<'_>, subjects: &[String]) -> Line {
    let (mark, style) = look(check);
    let standing = if check.state() == State::Failing { "bad, not yet failed" } else { "not known" };
    let named = told::named(&format!("  {} {standing}: ", subjects.len()), subjects);
    vec![(style, format!("  {mark} {}", check.name())), (Style::Plain, named)]
}

/// Collectors that see nothing, and what is not looked at.
fn unseen(status: &Value, now: Timestamp) -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, one) in status["collectors"].as_object().into_iter().flatten() {
        if one["up"] == true {
            lines.extend(closed(name, one));
            continue;
        }
        let why = match (one["up"].as_bool(), one["access"].as_str(), one["error"].as_str()) {
            (None, ..) => "has not looked yet".to_owned(),
            (_, Some("denied"), Some(error)) => format!("denied: {}", plain(error)),
            (.., Some(error)) => plain(error),
            _ => "sees nothing".to_owned(),
        };
        let last = told::since(&one["last_success_at"], now).map(|long| format!("  (last seen {} ago)", age(long)));
        lines.push(vec![
            (Style::Unknown, format!("  ? {}", plain(name))),
            (Style::Plain, format!("  {why}")),
            (Style::Dim, last.unwrap_or_default()),
        ]);
    }
    let notes = status["sidecar"]["host"]["notes"].as_array().into_iter().flatten();
    lines.extend(notes.filter_map(Value::as_str).map(|note| line(Style::Dim, format!("  i {}", plain(note)))));
    let refused = status["sidecar"]["config"]["error"].as_str();
    lines.extend(refused.map(|error| {
        let why = format!("  ▲ its configuration was changed and refused, the one before holds: {}", plain(error));
        line(Style::Warn, why)
    }));
    if lines.is_empty() { lines } else { [vec![Line::new(), line(Style::Bold, "Not seen")], lines].concat() }
}

/// What a collector sees with gaps.
fn closed(name: &str, one: &Value) -> Option<Line> {
    let gaps: Vec<&str> = one["gaps"].as_array()?.iter().filter_map(Value::as_str).collect();
    let more =
        if gaps.len() > 1 { format!(" (and {} more: `doctor` says all)", gaps.len() - 1) } else { String::new() };
    let first = plain(gaps.first()?);
    Some(vec![
        (Style::Unknown, format!("  ? {}", plain(name))),
        (Style::Plain, format!("  partly denied: {first}{more}")),
    ])
}

/// Keys of the document that are no parts of the host.
const OWN: [&str; 5] = ["health", "collectors", "schema", "sidecar", "exporter"];

/// A line for every part, in the order in which this version has them; those of another version last.
fn parts(status: &Value, checks: &[Check<'_>], now: Timestamp) -> Vec<Line> {
    let Some(document) = status.as_object() else { return Vec::new() };
    let known = collect::ALL.iter().map(|subsystem| subsystem.name).filter(|name| document.contains_key(*name));
    let known: Vec<&str> = known.collect();
    let strange = document.keys().map(String::as_str).filter(|name| !known.contains(name));
    let names = known.iter().copied().chain(strange).filter(|name| !OWN.contains(name));
    names.map(|name| one_part(name, &document[name], checks, now)).collect()
}

fn one_part(name: &str, section: &Value, checks: &[Check<'_>], now: Timestamp) -> Line {
    let worst = checks.iter().filter(|check| check.collector() == Some(name)).min_by_key(|check| check.state());
    let (mark, style) = match (section, worst) {
        (Value::Null, _) => ("?", Style::Unknown),
        (_, Some(worst)) => look(worst),
        (_, None) => ("·", Style::Dim),
    };
    let said = part::summary(name, section, now);
    let said = if said.is_empty() { "nothing told".to_owned() } else { said };
    vec![(style, format!("{mark} ")), (Style::Bold, format!("{:<11}", plain(name))), (Style::Plain, format!(" {said}"))]
}

#[cfg(test)]
mod tests;
