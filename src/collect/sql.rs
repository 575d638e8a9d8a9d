//! Numbers of a host that no profile knows: what queries on its SQLite files say (`[[collect.sql]]`).
//!
//! A query is read only and is ended after a quarter second: as long as it reads, the host may wait with a write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::collect::{Collector, NOTHING, Needs};
use crate::fact::{Check, Fact};
use crate::host::Host;
use crate::host::generic::Query;
use crate::sample::{self, Now, Points};
use crate::source::Sources;
use crate::source::sqlite::Database;

/// The list stands in the host, with the others.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// `/status.sql`: by name of the query.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Section {
    queries: BTreeMap<Arc<str>, Said>,
}

/// What a query says.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
struct Said {
    /// Why nothing is known.
    error: Option<String>,
    #[serde(skip)]
    is_denied: bool,
    /// By column; null where it holds no number. What a query that fails now once gave is listed with null.
    values: BTreeMap<Arc<str>, Option<f64>>,
}

static VALUE: Fact = Fact::gauge(
    "agenthost.sql.value",
    "agenthost_sql_value",
    "A number that a query of `[[collect.sql]]` gives, by the name of its column; absent while it gives none.",
)
.of(&["query", "name"]);

/// So long a query may take.
const PATIENCE: Duration = Duration::from_millis(250);

/// The queries, and the columns that each gave last.
pub struct Sql {
    queries: Vec<(Query, Vec<Arc<str>>)>,
}

impl Collector for Sql {
    const NAME: &'static str = "sql";
    const EVERY: Duration = Duration::from_secs(30);
    const LISTED: bool = true;
    const FACTS: &'static [&'static Fact] = &[&VALUE];
    const CHECKS: &'static [Check] = &[];
    const NEEDS: Needs = Needs {
        reads: "the queries of `[[collect.sql]]`",
        fix: "run as the user that owns that database, or let a group of ours read it, its -wal and -shm, and enter the folders above",
        costs: "each query, for as long as it takes",
        opens: NOTHING,
    };
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, host: &Host, _sources: &Sources) -> Result<Option<Sql>> {
        let queries: Vec<_> = host.listed.sql.iter().map(|query| (query.clone(), Vec::new())).collect();
        Ok((!queries.is_empty()).then_some(Sql { queries }))
    }

    /// # Errors
    /// None of them could be asked: the first one's reason.
    async fn collect(&mut self, _now: Now) -> Result<Section> {
        let (mut queries, mut first) = (BTreeMap::new(), None);
        for (query, columns) in &mut self.queries {
            let said = match ask(query) {
                Ok(values) => {
                    *columns = values.keys().cloned().collect();
                    Said { error: None, is_denied: false, values }
                }
                Err(error) => {
                    let values = columns.iter().map(|column| (column.clone(), None)).collect();
                    let is_denied = sample::is_denied(&error);
                    let said = Said { error: Some(format!("{error:#}")), is_denied, values };
                    first = first.or(Some(error));
                    said
                }
            };
            queries.insert(query.name.0.clone(), said);
        }
        match first {
            Some(error) if queries.values().all(|said| said.error.is_some()) => Err(error),
            _ => Ok(Section { queries }),
        }
    }

    fn gaps(section: &Section) -> Vec<String> {
        let denied = section.queries.iter().filter(|(_, said)| said.is_denied);
        denied.filter_map(|(name, said)| Some(format!("{name}: {}", said.error.as_ref()?))).collect()
    }

    fn points(section: &Section, points: &mut Points) {
        for (query, said) in &section.queries {
            for (name, value) in &said.values {
                points.put(&VALUE, [query, name], *value);
            }
        }
    }
}

fn ask(query: &Query) -> Result<BTreeMap<Arc<str>, Option<f64>>> {
    let numbers = Database::new(&query.database).open()?.numbers(&query.query, PATIENCE)?;
    Ok(numbers.into_iter().map(|(name, number)| (name.into(), number)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::fixture::{self, Connection, look, now, value};

    fn made() -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.db");
        let database = Connection::open(&path).unwrap();
        database
            .execute_batch(
                "CREATE TABLE jobs (state TEXT, age REAL); INSERT INTO jobs VALUES ('open', 7.5), ('done', 1)",
            )
            .unwrap();
        (folder, path)
    }

    fn collector(path: &std::path::Path, queries: &[(&str, &str)]) -> Sql {
        let mut host = fixture::host(None);
        let one = |&(name, query): &(&str, &str)| {
            let text = format!("name = \"{name}\"\ndatabase = \"{}\"\nquery = \"{query}\"", path.display());
            toml::from_str(&text).unwrap()
        };
        host.listed.sql = queries.iter().map(one).collect();
        Sql::new(Config {}, &host, &Sources::default()).unwrap().unwrap()
    }

    fn refusal(path: &std::path::Path, query: &str) -> String {
        match look(&mut collector(path, &[("q", query)]), now()) {
            Ok(section) => panic!("{query}: {section:?}"),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn columns_are_numbers_by_their_names_and_what_is_none_is_not_known() {
        let (_folder, path) = made();
        let query = "SELECT count(*) AS open, max(age) AS oldest, state, NULL AS absent FROM jobs WHERE state = 'open'";
        let section = look(&mut collector(&path, &[("jobs", query)]), now()).unwrap();
        let points = fixture::points::<Sql>(&section);
        for (name, known) in [("open", Some(1.0)), ("oldest", Some(7.5)), ("state", None), ("absent", None)] {
            assert_eq!(value(&points, &VALUE, &format!("jobs/{name}")), Some(known), "{name}");
        }
        assert!(!fixture::json::<Sql>(&section).to_string().contains("\"open\":\""), "no text of the host");
    }

    #[test]
    fn a_query_that_fails_is_unknown_and_the_others_go_on() {
        let (_folder, path) = made();
        let mut sql = collector(&path, &[("jobs", "SELECT count(*) AS jobs FROM jobs"), ("one", "SELECT 1 AS one")]);
        assert!(look(&mut sql, now()).is_ok());
        Connection::open(&path).unwrap().execute_batch("DROP TABLE jobs").unwrap();
        let section = look(&mut sql, now()).unwrap();
        let points = fixture::points::<Sql>(&section);
        assert_eq!(value(&points, &VALUE, "jobs/jobs"), Some(None), "listed, and not zero");
        assert_eq!(value(&points, &VALUE, "one/one"), Some(Some(1.0)));
        assert!(section.queries["jobs"].error.as_ref().unwrap().contains("no such table: jobs"));
        std::fs::remove_file(&path).unwrap();
        assert!(format!("{:#}", look(&mut sql, now()).unwrap_err()).starts_with("look at "));
    }

    #[test]
    fn one_row_is_wanted_and_nothing_may_be_written_or_last_for_ever() {
        let (_folder, path) = made();
        assert!(refusal(&path, "SELECT age FROM jobs").ends_with("the query gives more than one row"));
        assert!(refusal(&path, "SELECT age FROM jobs WHERE false").ends_with("the query gives no row"));
        let before = std::fs::read(&path).unwrap();
        let text = refusal(&path, "WITH x AS (SELECT 1) DELETE FROM jobs");
        assert!(text.ends_with("the query would write"), "{text}");
        assert!(std::fs::read(&path).unwrap() == before);
        let begun = std::time::Instant::now();
        let endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT count(*) AS x FROM n";
        let text = refusal(&path, endless);
        assert!(text.ends_with("the query took longer than 250ms"), "{text}");
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn without_queries_there_is_nothing_to_collect() {
        assert!(Sql::new(Config {}, &fixture::host(None), &Sources::default()).unwrap().is_none());
    }
}
