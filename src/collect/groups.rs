//! The groups that the host serves, and how many of them have a session to go on with.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::collect::{Collector, DATABASE_FIX, NOTHING, Needs};
use crate::fact::{Check, Fact};
use crate::host::Host;
use crate::sample::{Now, Points};
use crate::source::Sources;
use crate::source::sqlite::{Database, Followed, Reader};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// `/status.groups`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Section {
    /// Rows of `registered_groups`.
    total: u32,
    /// Those of them that have a row in `sessions`. Sessions of groups that are gone do not count.
    active_sessions: u32,
}

static TOTAL: Fact =
    Fact::gauge("agenthost.groups", "agenthost_groups", "Groups registered with the host (registered_groups).")
        .unit("{group}");
static ACTIVE_SESSIONS: Fact = Fact::gauge(
    "agenthost.groups.active_sessions",
    "agenthost_groups_active_sessions",
    "Registered groups with a stored agent session (sessions).",
)
.unit("{session}");

/// Counts the groups of the host's database.
pub struct Groups {
    followed: Followed,
    counted: Section,
}

impl Collector for Groups {
    const NAME: &'static str = "groups";
    const EVERY: Duration = Duration::from_secs(30);
    const FACTS: &'static [&'static Fact] = &[&TOTAL, &ACTIVE_SESSIONS];
    const CHECKS: &'static [Check] = &[];
    const NEEDS: Needs = Needs {
        reads: "the tables of groups and sessions in the host's database",
        fix: DATABASE_FIX,
        costs: "a count of rows",
        opens: NOTHING,
    };
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, host: &Host, _sources: &Sources) -> Result<Option<Groups>> {
        Ok(host
            .database
            .as_ref()
            .map(|path| Groups { followed: Followed::new(Database::new(path)), counted: Section::default() }))
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        if let Some(stamp) = self.followed.news()? {
            self.counted = read(&self.followed.open(&stamp, TABLES)?)?;
            self.followed.was_read(stamp, now);
        }
        Ok(self.counted)
    }

    fn points(section: &Section, points: &mut Points) {
        points.put(&TOTAL, [], f64::from(section.total));
        points.put(&ACTIVE_SESSIONS, [], f64::from(section.active_sessions));
    }
}

/// The columns that are read.
const TABLES: &[(&str, &[&str])] = &[("registered_groups", &["folder"]), ("sessions", &["group_folder"])];

fn read(reader: &Reader) -> Result<Section> {
    let sql = "SELECT count(*), count(group_folder) FROM registered_groups
        LEFT JOIN sessions ON sessions.group_folder = registered_groups.folder";
    reader.row(sql, [], |row| Ok(Section { total: row.get(0)?, active_sessions: row.get(1)? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::fixture::{self, Fixture, error, look, now};

    const THREE: &str = "
        INSERT INTO registered_groups (jid, name, folder, trigger_pattern, added_at) VALUES
            ('a', 'A', 'admin', '@a', '2026-11-01T00:00:00+00:00'),
            ('b', 'B', 'family', '@b', '2026-11-01T00:00:00+00:00'),
            ('c', 'C', 'ops', '@c', '2026-11-01T00:00:00+00:00');
        INSERT INTO sessions VALUES ('admin', 's1'), ('ops', 's2'), ('gone', 's3');";

    #[test]
    fn sessions_of_groups_that_are_gone_do_not_count() {
        let fixture = Fixture::new(THREE);
        let section = look(&mut fixture.collector::<Groups>(), now()).unwrap();
        assert_eq!(section, Section { total: 3, active_sessions: 2 });
        let json = serde_json::json!({"total": 3, "active_sessions": 2});
        assert_eq!(fixture::json::<Groups>(&section), json);
        let points = fixture::points::<Groups>(&section);
        assert_eq!(fixture::value(&points, &TOTAL, ""), Some(Some(3.0)));
        assert_eq!(fixture::value(&points, &ACTIVE_SESSIONS, ""), Some(Some(2.0)));
    }

    #[test]
    fn changes_are_seen_and_an_empty_host_has_none() {
        let fixture = Fixture::new("");
        let mut groups = fixture.collector::<Groups>();
        assert_eq!(look(&mut groups, now()).unwrap(), Section { total: 0, active_sessions: 0 });
        fixture.run(THREE);
        assert_eq!(look(&mut groups, now()).unwrap(), Section { total: 3, active_sessions: 2 });
        assert_eq!(look(&mut groups, now()).unwrap(), Section { total: 3, active_sessions: 2 });
        fixture.replace(&Fixture::new(""));
        assert_eq!(look(&mut groups, now()).unwrap(), Section { total: 0, active_sessions: 0 });
    }

    #[test]
    fn a_file_that_was_just_written_is_read_again() {
        let fixture = Fixture::new(THREE);
        fixture.is_read_again_until_it_settled(&mut fixture.collector::<Groups>());
    }

    #[test]
    fn a_table_that_is_missing_is_an_error_and_not_zero() {
        let fixture = Fixture::new("ALTER TABLE registered_groups ADD COLUMN color TEXT;");
        let mut groups = fixture.collector::<Groups>();
        assert!(look(&mut groups, now()).is_ok());
        fixture.run("DROP TABLE sessions;");
        assert!(error(&mut groups).ends_with("no table `sessions`"));
        assert!(error(&mut groups).ends_with("no table `sessions`"));
        fixture.run("CREATE TABLE sessions (folder TEXT);");
        assert!(error(&mut groups).ends_with("table `sessions` has no column `group_folder`"));
        std::fs::remove_file(fixture.folder.path().join("messages.db")).unwrap();
        assert!(error(&mut groups).starts_with("look at "));
    }

    #[test]
    fn a_profile_without_database_has_no_groups() {
        let mut fixture = Fixture::new("");
        fixture.host.database = None;
        assert!(Groups::new(Config {}, &fixture.host, &Sources::default()).unwrap().is_none());
    }
}
