//! Heartbeats: files that a host touches while it is well, and how long ago it last did (`[[collect.heartbeat]]`).

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collect::{Collector, NOTHING, Needs};
use crate::fact::{Bound, Check, Fact, Severity};
use crate::host::Host;
use crate::host::generic::Heartbeat as Listed;
use crate::sample::{self, Now, Points};
use crate::source::Sources;
use crate::source::file;

/// The list stands in the host, with the others.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// `/status.heartbeat`: by name.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct Section {
    files: BTreeMap<Arc<str>, Beat>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct Beat {
    /// When the file was last written; null if it is not there, or may not be looked at.
    at: Option<Timestamp>,
    /// At this reading; never below 0, though a file may be of tomorrow.
    age_seconds: Option<f64>,
    /// Whether it is older than its `max_age`, or missing; null without one, or if nobody can tell.
    stale: Option<bool>,
    /// Why nothing is known.
    error: Option<String>,
    #[serde(skip)]
    has_limit: bool,
    #[serde(skip)]
    is_denied: bool,
}

static AGE: Fact = Fact::gauge(
    "agenthost.heartbeat.age",
    "agenthost_heartbeat_age_seconds",
    "How long ago the file of `[[collect.heartbeat]]` was last written; absent if it is not there.",
)
.unit("s")
.of(&["name"]);

static STALE: Fact = Fact::gauge(
    "agenthost.heartbeat.stale",
    "agenthost_heartbeat_stale",
    "1 if the file of `[[collect.heartbeat]]` is older than its max_age or not there, else 0; only where it has one.",
)
.of(&["name"]);

/// The files.
pub struct Heartbeat {
    files: Vec<Listed>,
}

impl Collector for Heartbeat {
    const NAME: &'static str = "heartbeat";
    const EVERY: Duration = Duration::from_secs(15);
    const LISTED: bool = true;
    const FACTS: &'static [&'static Fact] = &[&AGE, &STALE];
    const CHECKS: &'static [Check] = &[Check {
        name: "heartbeat_stale",
        fact: &STALE,
        bad: Bound::Above(0.0),
        severity: Severity::Warning,
        fail_for: Duration::from_secs(60),
        headline: "heartbeat {} stale",
        means: "The host has not touched its heartbeat file for longer than it should: it hangs, or is gone.",
    }];
    const NEEDS: Needs = Needs {
        reads: "when the files of `[[collect.heartbeat]]` were written",
        fix: "let us enter the folders above that file; it is not opened",
        costs: "nothing",
        opens: NOTHING,
    };
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, host: &Host, _sources: &Sources) -> Result<Option<Heartbeat>> {
        let files = host.listed.heartbeat.clone();
        Ok((!files.is_empty()).then_some(Heartbeat { files }))
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        let one = |listed: &Listed| (listed.name.0.clone(), Beat::of(listed, written(&listed.path), now.wall));
        Ok(Section { files: self.files.iter().map(one).collect() })
    }

    fn gaps(section: &Section) -> Vec<String> {
        let denied = section.files.iter().filter(|(_, beat)| beat.is_denied);
        denied.filter_map(|(name, beat)| Some(format!("{name}: {}", beat.error.as_ref()?))).collect()
    }

    fn points(section: &Section, points: &mut Points) {
        for (name, beat) in &section.files {
            points.put(&AGE, [name], beat.age_seconds);
            if beat.has_limit {
                points.put(&STALE, [name], beat.stale.map(|stale| f64::from(u8::from(stale))));
            }
        }
    }
}

/// `None` if there is no such file.
fn written(path: &Path) -> Result<Option<Timestamp>> {
    match file::modified(path) {
        Ok(at) => Ok(Some(at)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("look at {}", path.display())),
    }
}

impl Beat {
    fn of(listed: &Listed, written: Result<Option<Timestamp>>, now: Timestamp) -> Beat {
        let age = |at: Timestamp| now.duration_since(at).as_secs_f64().max(0.0);
        let at = written.as_ref().ok().copied().flatten();
        let age_seconds = at.map(age);
        let judge = |limit: Duration| match (&written, age_seconds) {
            (Err(_), _) => None,
            (Ok(_), None) => Some(true),
            (Ok(_), Some(age)) => Some(age > limit.as_secs_f64()),
        };
        Beat {
            at,
            age_seconds,
            stale: listed.max_age.and_then(|limit| judge(limit.0)),
            has_limit: listed.max_age.is_some(),
            is_denied: written.as_ref().is_err_and(sample::is_denied),
            error: written.as_ref().err().map(|error| format!("{error:#}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::fixture::{self, look, now, value};
    use std::time::SystemTime;

    #[test]
    fn the_age_of_a_file_is_known_and_a_missing_one_is_stale_but_has_no_age() {
        let folder = tempfile::tempdir().unwrap();
        let touch = |name: &str, ago: u64| {
            let at = SystemTime::from(now().ago(Duration::from_secs(ago)));
            std::fs::File::create(folder.path().join(name)).unwrap().set_modified(at).unwrap();
        };
        for (name, ago) in [("young", 10), ("old", 31), ("free", 1000)] {
            touch(name, ago);
        }
        let tomorrow = SystemTime::from(now().plus(Duration::from_secs(100)).wall);
        std::fs::File::create(folder.path().join("ahead")).unwrap().set_modified(tomorrow).unwrap();
        let mut host = fixture::host(None);
        let listed = |name: &str| {
            let limit = if name == "free" { "" } else { "max_age = \"30s\"" };
            toml::from_str(&format!("name = \"{name}\"\npath = \"{}\"\n{limit}", folder.path().join(name).display()))
                .unwrap()
        };
        host.listed.heartbeat = ["young", "old", "free", "ahead", "missing"].map(listed).into();
        let mut heartbeat = Heartbeat::new(Config {}, &host, &Sources::default()).unwrap().unwrap();
        let points = fixture::points::<Heartbeat>(&look(&mut heartbeat, now()).unwrap());
        for (name, age, stale) in [
            ("young", Some(10.0), Some(Some(0.0))),
            ("old", Some(31.0), Some(Some(1.0))),
            ("free", Some(1000.0), None),
            ("ahead", Some(0.0), Some(Some(0.0))),
            ("missing", None, Some(Some(1.0))),
        ] {
            assert_eq!(value(&points, &AGE, name), Some(age), "{name}");
            assert_eq!(value(&points, &STALE, name), stale, "{name}");
        }
        let refused = crate::host::running::stage::unprivileged(folder.path(), || look(&mut heartbeat, now()).unwrap());
        let points = fixture::points::<Heartbeat>(&refused);
        assert_eq!((value(&points, &AGE, "old"), value(&points, &STALE, "old")), (Some(None), Some(None)));
        assert!(refused.files["old"].error.as_ref().unwrap().contains("Permission denied"));
    }

    #[test]
    fn without_files_there_is_nothing_to_collect() {
        assert!(Heartbeat::new(Config {}, &fixture::host(None), &Sources::default()).unwrap().is_none());
    }
}
