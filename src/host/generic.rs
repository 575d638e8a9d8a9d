//! The profile `generic`: any host, as the configuration says. It has no root, no database and no files of a known shape.
//!
//! What the configuration lists (`[[collect.http]]`, `[[collect.sql]]`, `[[collect.heartbeat]]`) is of the host too, since
//! several collectors read one endpoint. A host of another profile may have such lists beside what the profile knows.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, de};
use serde_json::Value;

use super::{Host, ProcessRule, Profile};
use crate::fact::Span;
use crate::source::http;

/// One of which nothing is known yet.
pub fn host() -> Host {
    Host::new(Profile::Generic, ProcessRule::Unknown)
}

/// What the configuration lists.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Listed {
    pub http: Vec<Endpoint>,
    pub sql: Vec<Query>,
    pub heartbeat: Vec<Heartbeat>,
}

/// One `[[collect.http]]`: an endpoint that answers with JSON.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    pub name: Name,
    #[serde(deserialize_with = "url")]
    pub url: String,
    pub token_file: Option<PathBuf>,
    /// Channels, and where their state stands.
    #[serde(default)]
    pub channels: BTreeMap<Name, Pointer>,
    #[serde(default)]
    pub queue: Option<QueuePointers>,
    /// Numbers with names of their own, and where they stand.
    #[serde(default)]
    pub values: BTreeMap<Name, Pointer>,
    /// What a word that stands there means.
    #[serde(default)]
    pub states: BTreeMap<String, Meaning>,
}

/// Where the numbers of the queue stand.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueuePointers {
    pub active_containers: Option<Pointer>,
    pub max_concurrent: Option<Pointer>,
    pub groups_waiting: Option<Pointer>,
    /// The groups that are at work: a list of their names, or a table that says true or false of each, or has `active`.
    pub active_groups: Option<Pointer>,
}

/// One `[[collect.sql]]`: a query whose only row has numbers, each called as its column is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Query {
    pub name: Name,
    pub database: PathBuf,
    #[serde(deserialize_with = "select")]
    pub query: String,
}

/// One `[[collect.heartbeat]]`: a file that the host touches while it is well.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    pub name: Name,
    pub path: PathBuf,
    /// Older than this it says that the host is not.
    pub max_age: Option<Span>,
}

/// It becomes a label: a word.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub Arc<str>);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        let name = String::deserialize(deserializer)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if !(1..=64).contains(&name.len()) || !name.bytes().all(plain) {
            return Err(de::Error::custom(format!("`{name}` is no name: up to 64 of a-z, A-Z, 0-9, `_`, `-` and `.`")));
        }
        Ok(Name(name.into()))
    }
}

/// Where a value stands in a JSON document (RFC 6901): `/queue/running`, `/channels/0/state`.
#[derive(Debug, Clone, PartialEq)]
pub struct Pointer(String);

impl<'de> Deserialize<'de> for Pointer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Pointer, D::Error> {
        let text = String::deserialize(deserializer)?;
        if !text.starts_with('/') {
            return Err(de::Error::custom(format!("`{text}` is no JSON pointer: it begins with `/`")));
        }
        Ok(Pointer(text))
    }
}

impl Pointer {
    /// What stands there; null is as good as nothing.
    pub fn find<'a>(&self, document: &'a Value) -> Option<&'a Value> {
        document.pointer(&self.0).filter(|value| !value.is_null())
    }
}

/// What a word stands for: `true` and 1 are the same, and so are `false` and 0.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Meaning {
    Truth(bool),
    Number(f64),
}

impl Meaning {
    fn number(self) -> f64 {
        match self {
            Meaning::Truth(yes) => f64::from(u8::from(yes)),
            Meaning::Number(number) => number,
        }
    }

    fn truth(self) -> Option<bool> {
        match self {
            Meaning::Truth(yes) => Some(yes),
            Meaning::Number(0.0) => Some(false),
            Meaning::Number(1.0) => Some(true),
            Meaning::Number(_) => None,
        }
    }
}

impl Endpoint {
    /// The number that stands there, or that the word there means; `None` if there is none.
    pub fn number(&self, pointer: &Pointer, document: &Value) -> Option<f64> {
        match pointer.find(document)? {
            Value::Bool(yes) => Some(f64::from(u8::from(*yes))),
            Value::Number(number) => number.as_f64(),
            Value::String(word) => self.states.get(word).map(|meaning| meaning.number()),
            _ => None,
        }
        .filter(|number| number.is_finite())
    }

    /// Whether what stands there means yes.
    pub fn truth(&self, pointer: &Pointer, document: &Value) -> Option<bool> {
        match pointer.find(document)? {
            Value::Bool(yes) => Some(*yes),
            Value::String(word) => self.states.get(word).and_then(|meaning| meaning.truth()),
            _ => None,
        }
    }

    /// The word that stands there, if it is one that the configuration knows: others may be any text.
    pub fn word(&self, pointer: &Pointer, document: &Value) -> Option<&str> {
        let word = pointer.find(document)?.as_str()?;
        self.states.get_key_value(word).map(|(word, _)| word.as_str())
    }
}

/// It may have a query, which is never shown.
fn url<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let url = String::deserialize(deserializer)?;
    http::check(&url).map_err(de::Error::custom)?;
    Ok(url)
}

fn select<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let query = String::deserialize(deserializer)?;
    let first = query.split_ascii_whitespace().next().unwrap_or_default().to_ascii_lowercase();
    if !matches!(first.as_str(), "select" | "with") {
        return Err(de::Error::custom("only a query that begins with SELECT or WITH is taken"));
    }
    Ok(query)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn endpoint(text: &str) -> Endpoint {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn numbers_truths_and_words_are_taken_and_whatever_else_is_not_known() {
        let endpoint = endpoint(
            "name = \"a\"\nurl = \"http://x/s?days=7\"\nstates = { up = true, down = false, half = 0.5, two = 2, one = 1 }",
        );
        let document = json!({
            "number": 2.5, "yes": true, "up": "up", "half": "half", "two": "two", "one": "one", "text": "a secret", "null": null,
            "list": [1, "down"], "a/b": 7,
        });
        let at = |pointer: &str| Pointer(pointer.to_owned());
        for (pointer, number, truth) in [
            ("/number", Some(2.5), None),
            ("/yes", Some(1.0), Some(true)),
            ("/up", Some(1.0), Some(true)),
            ("/half", Some(0.5), None),
            ("/two", Some(2.0), None),
            ("/one", Some(1.0), Some(true)),
            ("/text", None, None),
            ("/null", None, None),
            ("/missing", None, None),
            ("/list", None, None),
            ("/list/1", Some(0.0), Some(false)),
            ("/a~1b", Some(7.0), None),
        ] {
            assert_eq!(endpoint.number(&at(pointer), &document), number, "{pointer}");
            assert_eq!(endpoint.truth(&at(pointer), &document), truth, "{pointer}");
        }
        assert_eq!(endpoint.word(&at("/up"), &document), Some("up"));
        assert_eq!(endpoint.word(&at("/text"), &document), None);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for (text, says) in [
            ("name = \"a b\"\nurl = \"http://x\"", "`a b` is no name"),
            ("name = \"a\"\nurl = \"http://me:s3cret@x\"", "user and password"),
            ("name = \"a\"\nurl = \"x\"", "is not a URL"),
            ("name = \"a\"", "missing field `url`"),
            ("name = \"a\"\nurl = \"http://x\"\nvalues = { b = \"c\" }", "`c` is no JSON pointer: it begins with `/`"),
            ("name = \"a\"\nurl = \"http://x\"\nvalus = {}", "unknown field `valus`"),
        ] {
            let error = toml::from_str::<Endpoint>(text).unwrap_err().to_string();
            assert!(error.contains(says) && !error.contains("s3cret\""), "{text}: {error}");
        }
        for query in ["DELETE FROM a", "", "PRAGMA x", "ATTACH 'x' AS y"] {
            let text = format!("name = \"a\"\ndatabase = \"b\"\nquery = \"{query}\"");
            assert!(toml::from_str::<Query>(&text).unwrap_err().to_string().contains("SELECT or WITH"), "{query}");
        }
    }
}
