//! The containers that the gateway runs in, as Docker tells of them.

use std::sync::Arc;

use serde::Serialize;

use crate::host::gateway::Containers;
use crate::sample::{Cause, Failure, Now};
use crate::source::docker::{self, Docker, Health};

/// A container by the part that it plays.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Container {
    /// As Docker calls it, or `not_found`, or `unknown` if Docker does not tell.
    pub state: &'static str,
    pub restarts: Option<u64>,
    /// By its own health check, which may be broken where the gateway is fine.
    pub health: Option<Health>,
    pub oom_killed: Option<bool>,
    pub exit_code: Option<i64>,
    pub error: Option<String>,
    /// Docker may not be asked, which says nothing of the container.
    #[serde(skip)]
    pub denied: bool,
}

/// What Docker told of both.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Told {
    pub gateway: Option<(Arc<str>, Container)>,
    pub postgres: Option<(Arc<str>, Container)>,
}

impl Told {
    pub fn all(&self) -> impl Iterator<Item = &(Arc<str>, Container)> {
        self.gateway.iter().chain(&self.postgres)
    }
}

impl Container {
    fn without(state: &'static str) -> Container {
        Container { state, restarts: None, health: None, oom_killed: None, exit_code: None, error: None, denied: false }
    }

    fn of(asked: Result<Option<Arc<docker::Container>>, docker::Error>) -> Container {
        match asked {
            Ok(None) => Container::without("not_found"),
            Ok(Some(found)) => Container {
                restarts: found.restart_count,
                health: found.health,
                oom_killed: found.oom_killed,
                exit_code: found.exit_code,
                error: found.unread.as_ref().map(ToString::to_string),
                ..Container::without(found.state.name())
            },
            Err(error) => {
                let failure = Failure::from(anyhow::Error::from(error));
                let denied = failure.cause == Cause::Denied;
                Container { error: Some(failure.error), denied, ..Container::without("unknown") }
            }
        }
    }

    /// `None`: Docker did not tell.
    pub fn is_running(&self) -> Option<bool> {
        (self.state != "unknown").then_some(self.state == "running")
    }
}

pub async fn look(docker: Docker, names: Containers, now: Now) -> Told {
    // At once: one that hangs takes no time from the other.
    let (gateway, postgres) = tokio::join!(one(&docker, names.gateway, now), one(&docker, names.postgres, now));
    Told { gateway, postgres }
}

async fn one(docker: &Docker, name: Option<String>, now: Now) -> Option<(Arc<str>, Container)> {
    let name = name?;
    let container = Container::of(docker.inspect(&name, now).await);
    Some((name.into(), container))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::fixture;
    use crate::source::docker::fake::{Fake, container};
    use serde_json::json;

    #[test]
    fn one_that_hangs_is_told_by_the_list_and_takes_no_time_from_the_other() {
        let all = || ["litellm", "postgres"].map(|name| container(name, name, json!({})));
        let fake = Fake::new(move |path| {
            path.starts_with("/containers/json").then(|| crate::source::docker::fake::of(&all(), path))
        });
        let names = Containers { gateway: Some("litellm".into()), postgres: Some("postgres".into()) };
        let begun = std::time::Instant::now();
        let told = fixture::wait(look(Docker::at(fake.socket()), names, fixture::now()));
        assert!(begun.elapsed() < std::time::Duration::from_secs(3), "{:?}", begun.elapsed());
        for (name, container) in told.all() {
            assert_eq!((container.state, container.restarts, container.is_running()), ("running", None, Some(true)));
            assert!(container.error.as_ref().unwrap().contains("no answer from"), "{name}: {container:?}");
        }
    }
}
