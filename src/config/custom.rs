//! `[[custom_check]]`: a check of one's own on any fact that says something by its value now.

use std::sync::Arc;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, ValueDeserializer};

use super::{Fault, Value, checks, nearest, subject, table, take};
use crate::collect::Table;
use crate::fact::{Bound, Fact, Kind};
use crate::health::{CheckConfig, CustomCheck};
use crate::snapshot::{self, catalogue};

/// The keys beside those of the policy.
const KEYS: [&str; 8] = ["name", "fact", "above", "below", "equals", "labels", "headline", "means"];

/// Reads all of them, in their order.
pub fn read_all(value: Option<Value<'_>>) -> Result<Vec<CustomCheck>, Fault> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let span = value.span();
    let DeValue::Array(tables) = value.into_inner() else {
        return Err(Fault { span: Some(span), message: "must be `[[custom_check]]`, with two brackets".into() });
    };
    let mut all = Vec::new();
    for one in tables {
        let check = read(table(one)?, &all)?;
        all.push(check);
    }
    Ok(all)
}

fn read(mut table: Table<'_>, others: &[CustomCheck]) -> Result<CustomCheck, Fault> {
    let span = table.span();
    known_keys(table.get_ref())?;
    let keys = table.get_mut();
    let name = name(take(keys, "name").ok_or_else(|| missing(&span, "name"))?, others)?;
    let (collector, fact) = fact(take(keys, "fact").ok_or_else(|| missing(&span, "fact"))?)?;
    let bad = bound(keys, &span)?;
    let labels = labels(take(keys, "labels"), fact)?;
    let mut said = |key: &str| take(keys, key).map(text).transpose().map(|text| text.map(Spanned::into_inner));
    let headline = said("headline")?.unwrap_or_else(|| headline(&name, fact)).into();
    let means = said("means")?.unwrap_or_else(|| format!("{} is {bad}.", fact.prometheus)).into();
    subject::all_possible(table.get_ref(), fact)?;
    let policy = CheckConfig::deserialize(toml::Deserializer::from(table))?;
    Ok(CustomCheck { name, fact, collector, bad, labels, headline, means, policy })
}

/// The name in words, and the subject if there can be one.
fn headline(name: &str, fact: &Fact) -> String {
    let subject = if fact.labels.is_empty() { "" } else { " {}" };
    format!("{}{subject}", name.replace('_', " "))
}

fn missing(table: &std::ops::Range<usize>, key: &str) -> Fault {
    Fault { span: Some(table.clone()), message: format!("`{key}` is missing") }
}

fn known_keys(table: &DeTable<'_>) -> Result<(), Fault> {
    let known = || KEYS.iter().chain(CheckConfig::KEYS).copied();
    match table.keys().find(|key| !known().any(|known| known == &**key.get_ref())) {
        Some(key) => Err(Fault::unknown("key", key, known())),
        None => Ok(()),
    }
}

fn text(value: Value<'_>) -> Result<Spanned<String>, Fault> {
    let span = value.span();
    match String::deserialize(ValueDeserializer::from(value)) {
        Ok(text) => Ok(Spanned::new(span, text)),
        Err(error) => Err(Fault { span: Some(span), message: error.message().to_owned() }),
    }
}

/// It stands in paths and labels, so it is spelled as names of checks are.
fn name(value: Value<'_>, others: &[CustomCheck]) -> Result<Arc<str>, Fault> {
    let name = text(value)?;
    let fault = |message| Err(Fault { span: Some(name.span()), message });
    let text = name.get_ref();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !text.starts_with(|first: char| first.is_ascii_lowercase()) || !text.bytes().all(plain) {
        return fault(format!("`{text}` is no name of a check: a letter, then a-z, 0-9 and _"));
    }
    if RESERVED.contains(&text.as_str()) {
        return fault(format!("`{text}` is taken: /readyz says it of the sidecar itself"));
    }
    if checks().any(|check| check.name == text) {
        return fault(format!("there is a check `{text}` already: `[checks.{text}]` changes its policy"));
    }
    if others.iter().any(|other| *other.name == **text) {
        return fault(format!("there are two custom checks `{text}`"));
    }
    Ok(text.as_str().into())
}

/// Names of a line of `/readyz` that is no check.
const RESERVED: [&str; 2] = crate::show::probes::GATES;

/// The fact, and whose it is.
fn fact(value: Value<'_>) -> Result<(Option<&'static str>, &'static Fact), Fault> {
    let name = text(value)?;
    let fault = |message| Err(Fault { span: Some(name.span()), message });
    let text = name.get_ref();
    let Some((room, fact)) = catalogue().into_iter().find(|(_, fact)| fact.prometheus == text) else {
        let near = nearest(text, catalogue().into_iter().map(|(_, fact)| fact.prometheus));
        let hint = near.map(|near| format!(", did you mean `{near}`?")).unwrap_or_default();
        return fault(format!("unknown fact `{text}`{hint}"));
    };
    match room {
        snapshot::RIVER => fault(format!("`{text}` is what the sidecar makes of all checks: none can stand on it")),
        _ if fact.kind == Kind::Counter => {
            fault(format!("`{text}` is a counter: it only rises, so no bound says that something is wrong now"))
        }
        _ if fact.is_moment() => {
            fault(format!("`{text}` is a moment, not an age: no fixed bound says that it is too long ago"))
        }
        snapshot::LOOP => Ok((None, fact)),
        collector => Ok((Some(collector), fact)),
    }
}

fn bound(table: &mut DeTable<'_>, span: &std::ops::Range<usize>) -> Result<Bound, Fault> {
    let mut found = None;
    for key in ["above", "below", "equals"] {
        let Some(value) = take(table, key) else { continue };
        if found.is_some() {
            return Err(Fault {
                span: Some(value.span()),
                message: "one of `above`, `below`, `equals` is enough".into(),
            });
        }
        let limit = number(value)?;
        found = Some(match key {
            "above" => Bound::Above(limit),
            "below" => Bound::Below(limit),
            _ => Bound::Equals(limit),
        });
    }
    let none = "one of `above`, `below`, `equals` is missing: it says which values are bad";
    found.ok_or_else(|| Fault { span: Some(span.clone()), message: none.into() })
}

fn number(value: Value<'_>) -> Result<f64, Fault> {
    let span = Some(value.span());
    match f64::deserialize(ValueDeserializer::from(value)) {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(number) => Err(Fault { span, message: format!("{number} is no bound") }),
        Err(error) => Err(Fault { span, message: error.message().to_owned() }),
    }
}

fn labels(value: Option<Value<'_>>, fact: &'static Fact) -> Result<Vec<(usize, Arc<str>)>, Fault> {
    let Some(value) = value else { return Ok(Vec::new()) };
    table(value)?.into_inner().into_iter().map(|(key, value)| label(&key, value, fact)).collect()
}

fn label(key: &Spanned<DeString<'_>>, value: Value<'_>, fact: &'static Fact) -> Result<(usize, Arc<str>), Fault> {
    match fact.labels.iter().position(|label| label == key.get_ref()) {
        Some(place) => Ok((place, text(value)?.into_inner().into())),
        None if fact.labels.is_empty() => {
            let message = format!("`{}` has no labels", fact.prometheus);
            Err(Fault { span: Some(key.span()), message })
        }
        None => Err(Fault::unknown(&format!("label of {}", fact.prometheus), key, fact.labels.iter().copied())),
    }
}
