//! `[[collect.http]]`, `[[collect.sql]]` and `[[collect.heartbeat]]`: lists under `[collect]`, of which several collectors may
//! read one.
//!
//! One loop looks at all of a list: at the shortest interval that is given in it, with the longest time-out.

use std::time::Duration;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};

use super::{Fault, SHORTEST_INTERVAL, Value, duration, table, take};
use crate::host::generic::{Listed, Name};

/// How often a list is looked at, where it says so.
pub struct Pace {
    pub name: &'static str,
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
}

/// Takes the lists out of `[collect]`.
pub fn read(collect: &mut DeTable<'_>) -> Result<(Listed, [Pace; 3]), Fault> {
    let (http, http_pace) = list(collect, "http", |endpoint: &crate::host::generic::Endpoint| &endpoint.name)?;
    let (sql, sql_pace) = list(collect, "sql", |query: &crate::host::generic::Query| &query.name)?;
    let (heartbeat, beats) = list(collect, "heartbeat", |file: &crate::host::generic::Heartbeat| &file.name)?;
    Ok((Listed { http, sql, heartbeat }, [http_pace, sql_pace, beats]))
}

fn list<T: for<'de> Deserialize<'de>>(
    collect: &mut DeTable<'_>,
    name: &'static str,
    called: impl Fn(&T) -> &Name,
) -> Result<(Vec<T>, Pace), Fault> {
    let mut pace = Pace { name, interval: None, timeout: None };
    let mut entries: Vec<T> = Vec::new();
    let Some(value) = take(collect, name) else { return Ok((entries, pace)) };
    let span = Some(value.span());
    let DeValue::Array(tables) = value.into_inner() else {
        return Err(Fault { span, message: format!("must be `[[collect.{name}]]`, with two brackets") });
    };
    for one in tables {
        let span = Some(one.span());
        let Some(entry) = entry::<T>(one, &mut pace)? else { continue };
        if entries.iter().any(|other| called(other) == called(&entry)) {
            return Err(Fault {
                span,
                message: format!("there are two `[[collect.{name}]]` called `{}`", called(&entry)),
            });
        }
        entries.push(entry);
    }
    Ok((entries, pace))
}

/// `None` if it is switched off; it must be right all the same.
fn entry<T: for<'de> Deserialize<'de>>(value: Value<'_>, pace: &mut Pace) -> Result<Option<T>, Fault> {
    let mut table = table(value)?;
    let mut key = |key| take(table.get_mut(), key);
    let enabled = key("enabled").map(|value| bool::deserialize(ValueDeserializer::from(value))).transpose()?;
    let interval = duration(key("interval"), SHORTEST_INTERVAL)?;
    let timeout = duration(key("timeout"), Duration::from_millis(1))?;
    let entry = T::deserialize(toml::Deserializer::from(table))?;
    if enabled == Some(false) {
        return Ok(None);
    }
    pace.interval = pace.interval.into_iter().chain(interval).min();
    pace.timeout = pace.timeout.max(timeout);
    Ok(Some(entry))
}
