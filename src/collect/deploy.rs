//! Deploy: what the host's own checkout holds, and what was deployed last.
//!
//! The checkout is not the running code: that it differs from what was deployed last says so.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collect::Collector;
use crate::collect::repos::look::{Remembered, RepoSeen, look_at_repo};
use crate::collect::repos::statuses::{self, Key, Statuses};
use crate::collect::repos::tree::{self, Tree};
use crate::collect::{GIT_FIX, Needs};
use crate::fact::{Bound, Check, Fact, Severity, Span};
use crate::host::Host;
use crate::sample::{Cause, Failure, Moment, Now, Points};
use crate::source::Sources;
use crate::source::git::{Place, Sha, Unreadable};
use crate::source::sqlite::{Database, Reader};

/// `[collect.deploy]`
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How often it is asked whether the checkout is dirty; a large one is asked less often.
    pub status_interval: Span,
}

impl Default for Config {
    fn default() -> Config {
        Config { status_interval: Span(Duration::from_secs(60)) }
    }
}

/// `/status.deploy`
#[derive(Debug, Serialize)]
pub struct Section {
    head_sha: Option<Sha>,
    /// The first line of its message. Never a label.
    head_commit: Option<String>,
    #[serde(flatten)]
    tree: Tree,
    /// Commits of HEAD that origin's main branch lacked when it was last fetched.
    unpushed_commits: Option<usize>,
    #[serde(flatten)]
    last: Last,
    /// HEAD is not what was deployed last; null if one of them is not known.
    drift: Option<bool>,
}

/// What the host wrote down when it was deployed last.
#[derive(Debug, Default, Serialize)]
struct Last {
    last_deploy_at: Option<Timestamp>,
    /// Null if what stands there is no name of a commit.
    last_deploy_sha: Option<String>,
    /// Why neither is known.
    database_error: Option<String>,
    #[serde(skip)]
    is_denied: bool,
}

static DIRTY: Fact = Fact::gauge(
    "agenthost.deploy.dirty",
    "agenthost_deploy_dirty",
    "Whether anything is staged, changed, or new and not ignored in the host's own checkout.",
);
static UNPUSHED: Fact = Fact::gauge(
    "agenthost.deploy.unpushed_commits",
    "agenthost_deploy_unpushed_commits",
    "Commits of the host's own checkout that origin's main branch did not have when it was last fetched.",
)
.unit("{commit}");
static LAST_DEPLOY: Fact = Fact::gauge(
    "agenthost.deploy.last_timestamp_seconds",
    "agenthost_deploy_last_timestamp_seconds",
    "When the host was deployed last, as it wrote down itself (router_state); a plain restart is no deploy.",
);
static DRIFT: Fact = Fact::gauge(
    "agenthost.deploy.drift",
    "agenthost_deploy_drift",
    "Whether the host's checkout is at another commit than the one that was deployed last.",
);

const DEPLOY_DRIFT: Check = Check {
    name: "deploy_drift",
    fact: &DRIFT,
    bad: Bound::Above(0.0),
    severity: Severity::Info,
    fail_for: Duration::from_secs(60 * 60),
    headline: "deployed version behind the checkout",
    means: "The host's checkout has moved on, and what runs may still be what was deployed before.",
};

/// Looks at the host's root and at its database.
pub struct Deploy {
    root: Place,
    database: Option<Database>,
    /// What need not be found out again.
    known: Remembered,
    statuses: Statuses,
    /// How long a reading waits for a status.
    patience: Duration,
}

impl Collector for Deploy {
    const NAME: &'static str = "deploy";
    const EVERY: Duration = Duration::from_secs(30);
    const FACTS: &'static [&'static Fact] = &[&DIRTY, &UNPUSHED, &LAST_DEPLOY, &DRIFT];
    const CHECKS: &'static [Check] = &[DEPLOY_DRIFT];
    const NEEDS: Needs = Needs {
        reads: ".git of the host's own checkout, and a row of its database",
        fix: GIT_FIX,
        costs: "some files of .git; its whole tree is compared with the index once a minute, or less often if it is large",
        opens: |host| host.root.iter().cloned().collect(),
    };
    type Config = Config;
    type Section = Section;

    fn new(config: Config, host: &Host, _sources: &Sources) -> Result<Option<Deploy>> {
        // Only a pynchy runs in a checkout of itself.
        let (Some(_), Some(root)) = (&host.layout, &host.root) else { return Ok(None) };
        Ok(Some(Deploy {
            root: Place { folder: root.clone(), common: None },
            database: host.database.as_ref().map(|path: &PathBuf| Database::new(path)),
            known: Remembered::default(),
            statuses: Statuses::new(config.status_interval.0),
            patience: statuses::patience(Deploy::TIMEOUT),
        }))
    }

    fn within(&mut self, timeout: Duration) {
        self.patience = statuses::patience(timeout);
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        let last = self.last();
        let section = match self.checkout(now) {
            Ok(section) => section,
            Err(error) => match &last {
                Ok(_) => Section::unreadable(&error),
                Err(_) => return Err(error.into()),
            },
        };
        Ok(section.with(last))
    }

    fn gaps(section: &Section) -> Vec<String> {
        let database = section.last.database_error.clone().filter(|_| section.last.is_denied);
        section.tree.denied().map(ToString::to_string).into_iter().chain(database).collect()
    }

    fn points(section: &Section, points: &mut Points) {
        points.put(&DIRTY, [], tree::flag(section.tree.dirty));
        points.put(&UNPUSHED, [], section.unpushed_commits.map(|commits| commits as f64));
        points.put(&LAST_DEPLOY, [], section.last.last_deploy_at.map(|at| at.as_duration().as_secs_f64()));
        points.put(&DRIFT, [], tree::flag(section.drift));
    }
}

impl Deploy {
    fn checkout(&mut self, now: Now) -> Result<Section, Unreadable> {
        let seen = look_at_repo(&self.root, now.wall, &self.known);
        self.known.learn(seen.as_ref().map(RepoSeen::remembered));
        let seen = seen?;
        let key: Key = (Arc::from(""), None);
        let tree = (!seen.bare).then(|| (key.clone(), Some((self.root.clone(), seen.look.mark.clone()))));
        self.statuses.refresh(now, tree.into_iter().collect(), self.patience);
        let mut tree = Tree::of(&seen.look, self.statuses.get(&key), now);
        let head = seen.look.mark.head.sha;
        let subject = head.map(|sha| self.root.open()?.subject(sha));
        Ok(Section {
            head_sha: head,
            head_commit: tree.or_note(subject.as_ref()).cloned(),
            unpushed_commits: tree.or_note(seen.unpushed.as_ref()).map(|compared| compared.ahead),
            tree,
            last: Last::default(),
            drift: None,
        })
    }

    fn last(&self) -> Result<Last> {
        match &self.database {
            Some(database) => read(&database.open()?),
            None => Ok(Last::default()),
        }
    }
}

impl Section {
    fn unreadable(error: &Unreadable) -> Section {
        Section {
            head_sha: None,
            head_commit: None,
            tree: Tree::unreadable(error),
            unpushed_commits: None,
            last: Last::default(),
            drift: None,
        }
    }

    fn with(self, last: Result<Last>) -> Section {
        let last = last.unwrap_or_else(|error| {
            let Failure { cause, error } = error.into();
            Last { database_error: Some(error), is_denied: cause == Cause::Denied, ..Last::default() }
        });
        let drift =
            self.head_sha.zip(last.last_deploy_sha.as_ref()).map(|(head, last)| !head.to_string().starts_with(last));
        Section { drift, last, ..self }
    }
}

fn read(reader: &Reader) -> Result<Last> {
    reader.expect("router_state", &["key", "value"])?;
    let value = |key: &str| -> Result<Option<String>> {
        let values = reader.rows("SELECT value FROM router_state WHERE key = ?1", [key], |row| row.get(0))?;
        Ok(values.into_iter().next())
    };
    let at = Moment::read(value("last_deploy_at")?.as_deref());
    if at.is_unreadable() {
        return Err(anyhow!("router_state: last_deploy_at is not a timestamp"));
    }
    let sha = value("last_deploy_sha")?.filter(|text| is_sha(text)).map(|text| text.to_ascii_lowercase());
    Ok(Last { last_deploy_at: at.at(), last_deploy_sha: sha, database_error: None, is_denied: false })
}

/// A whole name of a commit, or its beginning. Anything else is not shown.
fn is_sha(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::fixture::{self, Fixture, error, look, now};

    const SHA: &str = "1234567890abcdef1234567890abcdef12345678";

    fn deployed(sha: &str, at: &str) -> Fixture {
        Fixture::new(&format!(
            "INSERT INTO router_state VALUES ('last_deploy_sha', '{sha}'), ('last_deploy_at', '{at}');"
        ))
    }

    fn section(fixture: &Fixture) -> serde_json::Value {
        fixture::json::<Deploy>(&look(&mut fixture.collector::<Deploy>(), now()).unwrap())
    }

    #[test]
    fn a_host_without_checkout_still_knows_its_last_deploy() {
        let fixture = deployed(SHA, "2026-11-20T17:44:00.5+00:00");
        let section = look(&mut fixture.collector::<Deploy>(), now()).unwrap();
        let json = fixture::json::<Deploy>(&section);
        assert_eq!(json["error"], "it is not there");
        assert_eq!(
            (&json["last_deploy_sha"], &json["last_deploy_at"]),
            (&SHA.into(), &"2026-11-20T17:44:00.5Z".into())
        );
        let points = fixture::points::<Deploy>(&section);
        assert_eq!(fixture::value(&points, &LAST_DEPLOY, ""), Some(Some(1_795_196_640.5)));
        for fact in [&DIRTY, &UNPUSHED, &DRIFT] {
            assert_eq!(fixture::value(&points, fact, ""), Some(None), "{}", fact.prometheus);
        }
    }

    #[test]
    fn what_names_no_commit_is_not_shown() {
        for text in ["unknown", "", "secret words", "12345", &format!("{SHA}{SHA}")] {
            assert!(section(&deployed(text, "2026-11-20T17:44:00+00:00"))["last_deploy_sha"].is_null(), "{text}");
        }
        assert_eq!(section(&deployed("ABCDEF1", "2026-11-20T17:44:00+00:00"))["last_deploy_sha"], "abcdef1");
    }

    #[test]
    fn never_deployed_is_not_an_error_and_an_unreadable_moment_is() {
        let json = section(&Fixture::new(""));
        assert_eq!(
            (&json["last_deploy_at"], &json["database_error"]),
            (&serde_json::Value::Null, &serde_json::Value::Null)
        );
        let fixture = deployed(SHA, "yesterday");
        assert!(error(&mut fixture.collector::<Deploy>()).contains("it is not there"));
    }

    #[test]
    fn drift_needs_both() {
        let repo = |sha: Option<&str>, last: Option<&str>| {
            let head = sha.map(|sha| Sha::parse(sha).unwrap());
            let section = Section { head_sha: head, ..Section::unreadable(&Unreadable::broken("")) };
            section.with(Ok(Last { last_deploy_sha: last.map(str::to_owned), ..Last::default() })).drift
        };
        let other = SHA.replace('1', "2");
        assert_eq!(repo(Some(SHA), Some(SHA)), Some(false));
        assert_eq!(repo(Some(SHA), Some(&SHA[..7])), Some(false));
        assert_eq!(repo(Some(SHA), Some(&other)), Some(true));
        assert_eq!((repo(None, Some(SHA)), repo(Some(SHA), None)), (None, None));
    }
}
