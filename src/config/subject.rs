//! Subjects that the configuration names: each must be one that the check's fact can have, or its table would do nothing.

use toml::de::{DeString, DeTable, DeValue};

use super::{Fault, nearest};
use crate::collect;
use crate::fact::Fact;
use crate::pulse;

/// Refuses what no point of the fact could ever be called, in a table with the keys `expect` and `subjects`.
pub fn all_possible(table: &DeTable<'_>, fact: &'static Fact) -> Result<(), Fault> {
    let expected = table.get("expect").and_then(|value| value.get_ref().as_array()).into_iter().flatten();
    for value in expected {
        if let DeValue::String(name) = value.get_ref() {
            possible(name, value.span(), fact)?;
        }
    }
    let tables = table.get("subjects").and_then(|value| value.get_ref().as_table());
    tables.into_iter().flat_map(DeTable::keys).try_for_each(|key| possible(key.get_ref(), key.span(), fact))
}

fn possible(name: &DeString<'_>, span: std::ops::Range<usize>, fact: &'static Fact) -> Result<(), Fault> {
    match fault(name, fact) {
        None => Ok(()),
        Some(message) => Err(Fault { span: Some(span), message }),
    }
}

/// A label's value may hold a `/` itself, so there may be more parts than labels, but not fewer.
fn fault(name: &str, fact: &'static Fact) -> Option<String> {
    if fact.labels.is_empty() {
        return (!name.is_empty()).then(|| format!("`{name}` is no subject: {} has no labels", fact.prometheus));
    }
    if name.split('/').count() < fact.labels.len() {
        return Some(format!("`{name}` is no subject: one of {} is `{}`", fact.prometheus, fact.labels.join("/")));
    }
    let of_the_loop = pulse::FACTS.iter().any(|own| std::ptr::eq(*own, fact));
    let collectors = || collect::ALL.iter().map(|subsystem| subsystem.name);
    (of_the_loop && collectors().all(|collector| collector != name)).then(|| {
        let near = nearest(name, collectors()).map(|near| format!(", did you mean `{near}`?"));
        format!("there is no collector `{name}`{}", near.unwrap_or_default())
    })
}
