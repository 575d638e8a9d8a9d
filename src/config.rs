//! The TOML file: found, cut up, each room's table read by that room, all of it validated before anything starts.
//!
//! Nobody imports this room but main: it knows everyone.

mod custom;
mod listed;
mod subject;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use crate::collect::{self, Build, Subsystem, Table};
use crate::fact::{Check, Span};
use crate::source::{docker, otlp, state};
use crate::{health, host, pulse, serve};

/// Read if it exists and no other file is named.
pub const DEFAULT_FILE: &str = "/etc/agenthost-exporter/config.toml";

/// Faster than this a collector would only measure itself.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// Everything that can be configured.
pub struct Config {
    pub host: host::Config,
    pub web: serve::Config,
    pub state: state::Config,
    pub docker: docker::Config,
    pub otlp: otlp::Config,
    pub checks: health::Settings,
    pub collectors: Vec<Planned>,
    /// Where what is seen is recorded for a replay; by a flag only.
    pub record: Option<PathBuf>,
}

/// A collector that is not switched off, at its pace.
pub struct Planned {
    pub subsystem: &'static Subsystem,
    /// As configured; else the host decides (`Subsystem::interval`).
    pub interval: Option<Duration>,
    pub timeout: Duration,
    /// Its own table, without what the loop takes: two that are equal make the same collector.
    pub settings: toml::Table,
    pub build: Build,
}

impl Config {
    /// Reads the named file; without a name the default one, if it exists; else every default.
    ///
    /// # Errors
    /// The file cannot be read, or says what cannot be meant: one line with file, line, key and the nearest right name.
    pub fn load(file: Option<&Path>) -> Result<Config> {
        match text(file)? {
            Some((text, file)) => Config::parse(&text, &file),
            None => Config::parse("", "(no file)"),
        }
    }

    /// The `[web]` table of the same file and nothing else of it, for who asks where it listens.
    ///
    /// # Errors
    /// As `load`, but for what the other tables say.
    pub fn load_web(file: Option<&Path>) -> Result<serve::Config> {
        let Some((text, file)) = text(file)? else { return Ok(serve::Config::default()) };
        let root = DeTable::parse(&text).map_err(|error| explain(&text, &file, error))?;
        read(take(&mut root.into_inner(), "web")).map_err(|fault| explain(&text, &file, fault))
    }

    /// Reads a file's text; `file` is its name in messages.
    ///
    /// # Errors
    /// As `load`.
    pub fn parse(text: &str, file: &str) -> Result<Config> {
        let root = DeTable::parse(text).map_err(|error| explain(text, file, error))?;
        let config = cut(root.into_inner()).map_err(|error| explain(text, file, error))?;
        config.host.validate().with_context(|| file.to_owned())?;
        Ok(config)
    }
}

impl Config {
    /// Whether a collector is not switched off; the loop itself (`None`) never is.
    fn runs(&self, collector: Option<&str>) -> bool {
        collector.is_none_or(|name| self.collectors.iter().any(|planned| planned.subsystem.name == name))
    }

    /// Gives a collector another table than the file's; its pace stays.
    ///
    /// # Errors
    /// The table is none of that collector.
    pub fn replan(&mut self, name: &str, text: &str) -> Result<()> {
        for planned in self.collectors.iter_mut().filter(|planned| planned.subsystem.name == name) {
            let table = DeTable::parse(text).map_err(|error| anyhow!("[collect.{name}]: {}", error.message()))?;
            let build = (planned.subsystem.plan)(Some(table));
            planned.build = build.map_err(|error| anyhow!("[collect.{name}]: {}", error.message()))?;
        }
        Ok(())
    }
}

/// What the configuration's file says, and its name in messages; `None` if there is none and none was named.
fn text(file: Option<&Path>) -> Result<Option<(String, String)>> {
    let path = match file {
        Some(path) => path,
        None if Path::new(DEFAULT_FILE).exists() => Path::new(DEFAULT_FILE),
        None => return Ok(None),
    };
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    Ok(Some((text, path.display().to_string())))
}

/// Checks that the program knows, and that a `[checks.<name>]` may name.
fn checks() -> impl Iterator<Item = &'static Check> {
    pulse::CHECKS.iter().chain(collect::ALL.iter().flat_map(|subsystem| subsystem.checks))
}

fn cut(mut root: DeTable<'_>) -> Result<Config, Fault> {
    let custom = custom::read_all(take(&mut root, "custom_check"))?;
    let mut collect = take(&mut root, "collect").map(table).transpose()?.map_or_else(DeTable::new, Spanned::into_inner);
    let (listed, paces) = listed::read(&mut collect)?;
    let mut config = Config {
        host: host::Config { listed, ..read(take(&mut root, "host"))? },
        web: read(take(&mut root, "web"))?,
        state: read(take(&mut root, "state"))?,
        docker: read(take(&mut root, "docker"))?,
        otlp: read(take(&mut root, "otlp"))?,
        checks: read_checks(take(&mut root, "checks"), custom)?,
        collectors: plan_all(collect, &paces)?,
        record: None,
    };
    if config.web.listen.is_empty() {
        return Err(Fault { span: None, message: "[web] listen: an empty list would serve nobody".to_owned() });
    }
    if let Some(check) = config.checks.custom.iter().find(|check| !config.runs(check.collector)) {
        let (name, collector) = (&check.name, check.collector.unwrap_or_default());
        let message = format!("the custom check `{name}` is on a fact of `{collector}`, which is switched off");
        return Err(Fault { span: None, message });
    }
    let asking = config.collectors.iter().filter(|planned| planned.subsystem.asks_status);
    config.host.status_interval = asking.filter_map(|planned| planned.interval).min();
    match root.iter().next() {
        None => Ok(config),
        Some((key, _)) => Err(Fault::unknown(
            "table",
            key,
            ["host", "web", "state", "docker", "otlp", "collect", "checks", "custom_check"],
        )),
    }
}

type Value<'i> = Spanned<DeValue<'i>>;

fn take<'i>(table: &mut DeTable<'i>, key: &str) -> Option<Value<'i>> {
    let (_, value) = table.remove_entry(key)?;
    Some(value)
}

fn read<T: for<'de> Deserialize<'de> + Default>(value: Option<Value<'_>>) -> Result<T, Fault> {
    match value {
        Some(value) => Ok(T::deserialize(ValueDeserializer::from(value))?),
        None => Ok(T::default()),
    }
}

fn read_checks(value: Option<Value<'_>>, custom: Vec<health::CustomCheck>) -> Result<health::Settings, Fault> {
    let names: Vec<&str> = checks().map(|check| check.name).collect();
    let tables = || value.iter().filter_map(|value| value.get_ref().as_table()).flatten();
    match tables().map(|(key, _)| key).find(|key| !names.contains(&&**key.get_ref())) {
        Some(key) if custom.iter().any(|check| *check.name == **key.get_ref()) => {
            let message = format!("the policy of `{}` stands in its own `[[custom_check]]`", key.get_ref());
            Err(Fault { span: Some(key.span()), message })
        }
        Some(key) => Err(Fault::unknown("check", key, names)),
        None => {
            tables().try_for_each(|(key, table)| subjects_of(key.get_ref(), table.get_ref()))?;
            Ok(health::Settings { custom, ..read(value)? })
        }
    }
}

fn subjects_of(name: &str, value: &DeValue<'_>) -> Result<(), Fault> {
    match (checks().find(|check| check.name == name), value.as_table()) {
        (Some(check), Some(table)) => subject::all_possible(table, check.fact),
        _ => Ok(()), // the table's own reading says what is wrong with it
    }
}

fn plan_all(mut tables: DeTable<'_>, paces: &[listed::Pace]) -> Result<Vec<Planned>, Fault> {
    let mut planned = Vec::new();
    for subsystem in collect::ALL {
        planned.extend(match paces.iter().find(|pace| pace.name == subsystem.name) {
            Some(pace) => Some(plan_listed(subsystem, pace)?),
            None => plan(subsystem, take(&mut tables, subsystem.name))?,
        });
    }
    match tables.iter().next() {
        None => Ok(planned),
        Some((key, _)) => Err(Fault::unknown("collector", key, collect::ALL.iter().map(|subsystem| subsystem.name))),
    }
}

fn plan_listed(subsystem: &'static Subsystem, pace: &listed::Pace) -> Result<Planned, Fault> {
    let timeout = pace.timeout.unwrap_or(subsystem.timeout);
    Ok(Planned {
        subsystem,
        interval: pace.interval,
        timeout,
        settings: toml::Table::new(),
        build: (subsystem.plan)(None)?,
    })
}

/// `None` if it is switched off; its table must be right all the same.
fn plan(subsystem: &'static Subsystem, value: Option<Value<'_>>) -> Result<Option<Planned>, Fault> {
    let mut table = value.map(table).transpose()?;
    let mut pace = |key| take(table.as_mut()?.get_mut(), key);
    let enabled = pace("enabled").map(|value| bool::deserialize(ValueDeserializer::from(value))).transpose()?;
    let interval = duration(pace("interval"), SHORTEST_INTERVAL)?;
    let timeout = duration(pace("timeout"), Duration::from_millis(1))?.unwrap_or(subsystem.timeout);
    let settings = table.clone().map(|table| toml::Table::deserialize(toml::Deserializer::from(table))).transpose()?;
    let (settings, build) = (settings.unwrap_or_default(), (subsystem.plan)(table)?);
    Ok((enabled != Some(false)).then_some(Planned { subsystem, interval, timeout, settings, build }))
}

fn duration(value: Option<Value<'_>>, least: Duration) -> Result<Option<Duration>, Fault> {
    let Some(value) = value else { return Ok(None) };
    let at = |message| Fault { span: Some(value.span()), message };
    match Span::deserialize(ValueDeserializer::from(value.clone())) {
        Ok(Span(duration)) if duration < least => Err(at(format!("must be at least {}", Span(least)))),
        Ok(Span(duration)) => Ok(Some(duration)),
        Err(error) => Err(at(error.message().to_owned())),
    }
}

fn table(value: Value<'_>) -> Result<Table<'_>, Fault> {
    let span = value.span();
    match value.into_inner() {
        DeValue::Table(table) => Ok(Spanned::new(span, table)),
        _ => Err(Fault { span: Some(span), message: "must be a table".into() }),
    }
}

/// What is wrong, and where in the text.
struct Fault {
    span: Option<std::ops::Range<usize>>,
    message: String,
}

impl Fault {
    fn unknown<'a>(
        what: &str,
        key: &Spanned<toml::de::DeString<'_>>,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Fault {
        let name = key.get_ref();
        let hint = nearest(name, known).map(|near| format!(", did you mean `{near}`?"));
        Fault { span: Some(key.span()), message: format!("unknown {what} `{name}`{}", hint.unwrap_or_default()) }
    }
}

impl From<toml::de::Error> for Fault {
    fn from(error: toml::de::Error) -> Fault {
        Fault { span: error.span(), message: with_hint(error.message()) }
    }
}

/// Adds the nearest right name to serde's "unknown field `x`, expected one of `a`, `b`".
fn with_hint(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let near = quoted.next().filter(|_| unknown).and_then(|name| nearest(name, quoted));
    match near {
        Some(near) => format!("{message}; did you mean `{near}`?"),
        None => message.to_owned(),
    }
}

fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let scored = known.into_iter().map(|known| (strsim::jaro_winkler(name, known), known));
    scored.filter(|(score, _)| *score > 0.75).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// One line for a person: file, line, key, and what is wrong.
fn explain(text: &str, file: &str, fault: impl Into<Fault>) -> anyhow::Error {
    let Fault { span, message } = fault.into();
    let message = message.trim().replace('\n', ", ");
    let Some(start) = span.and_then(|span| text.get(..span.start)).map(str::len) else {
        return anyhow!("{file}: {message}");
    };
    let number = text[..start].matches('\n').count();
    let line = text.lines().nth(number).map(str::trim);
    match line.and_then(key) {
        Some(key) => anyhow!("{file}:{}: {key}: {message}", number + 1),
        None => anyhow!("{file}:{}: {message}", number + 1),
    }
}

/// The key or the table header of a line. Of a line that has neither nothing is shown: it may hold a secret, and secrets end in
/// `=`, too.
fn key(line: &str) -> Option<&str> {
    let inner = line.trim_start_matches('[');
    let (before, behind) = inner.split_at(end_of_key(inner)?);
    let brackets = line.len() - inner.len();
    match brackets {
        // What ends in `=`, or in two, may be a secret and no key.
        0 => behind
            .trim_start()
            .strip_prefix('=')
            .is_some_and(|value| !value.trim().is_empty() && !value.starts_with('='))
            .then(|| before.trim_end()),
        // In quotes it is a text in a list.
        1 | 2 if before.starts_with(['"', '\'']) => None,
        1 | 2 if behind.starts_with(&"]]"[..brackets]) => line.get(..2 * brackets + before.len()),
        _ => None,
    }
}

/// Where a key ends: words, or texts in quotes, with points between. `None`: it begins with none.
fn end_of_key(text: &str) -> Option<usize> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
    let mut end = 0;
    loop {
        let rest = text.get(end..)?;
        end += match rest.chars().next()? {
            quote @ ('"' | '\'') => 2 + rest.get(1..)?.find(quote)?,
            letter if plain(letter) => rest.find(|letter| !plain(letter)).unwrap_or(rest.len()),
            _ => return None,
        };
        match text.get(end..)?.trim_start().strip_prefix('.') {
            Some(more) => end = text.len() - more.trim_start().len(),
            None => return Some(end),
        }
    }
}
