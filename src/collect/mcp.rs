//! The host's MCP servers: whether each is there to be asked. Shown only: a host works without any of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collect::Collector;
use crate::fact::{Bound, Check, Fact, Severity};
use crate::host::Host;
use crate::host::containers::{Names, Role};
use crate::sample::{Now, Points};
use crate::source::Sources;
use crate::source::docker::{Container, Docker, Health, State};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {}

/// `/status.mcp`, by server.
#[derive(Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Section {
    servers: BTreeMap<Arc<str>, Server>,
}

/// One server; of several containers the one that is worst off.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Server {
    /// Null if what it does has no word that we know.
    connected: Option<bool>,
    /// The state of its container, or `unhealthy`, or `starting`.
    status: &'static str,
    /// Of that state, where it is known.
    since: Option<Timestamp>,
    restart_count: Option<u64>,
    containers: usize,
    source: &'static str,
}

static CONNECTED: Fact = Fact::gauge(
    "agenthost.mcp.connected",
    "agenthost_mcp_connected",
    "1 if every container of the MCP server runs and is not unhealthy, 0 if one does not; by Docker.",
)
.of(&["server"]);

static CHECKS: [Check; 1] = [Check {
    name: "mcp_connected",
    fact: &CONNECTED,
    bad: Bound::Below(1.0),
    severity: Severity::Info,
    fail_for: Duration::from_secs(5 * 60),
    means: "This MCP server does not run: agents that need its tools do without. A host may have stopped it while \
            nobody needs it.",
}];

/// Looks after the containers of MCP servers.
pub struct Mcp {
    names: Names,
    docker: Docker,
}

impl Collector for Mcp {
    const NAME: &'static str = "mcp";
    const EVERY: Duration = Duration::from_secs(15);
    const FACTS: &'static [&'static Fact] = &[&CONNECTED];
    const CHECKS: &'static [Check] = &CHECKS;
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, host: &Host, sources: &Sources) -> Result<Option<Mcp>> {
        let names = host.containers.clone().filter(|names| names.roles().any(|role| role == Role::Mcp));
        Ok(names.map(|names| Mcp { names, docker: sources.docker.clone() }))
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        let seen = self.docker.inspect_all(now, |name| self.names.might_be(name)).await?;
        Ok(self.section(&seen))
    }

    fn points(section: &Section, points: &mut Points) {
        for (name, server) in &section.servers {
            points.put(&CONNECTED, [name], server.connected.map(|yes| f64::from(u8::from(yes))));
        }
    }
}

impl Mcp {
    fn section(&self, seen: &[Arc<Container>]) -> Section {
        let mut servers: BTreeMap<Arc<str>, Server> = BTreeMap::new();
        for container in seen {
            let member = self.names.classify(&container.name, container.image.as_deref());
            if let Some(member) = member.filter(|member| member.role == Role::Mcp) {
                let server = Server::of(container);
                servers.entry(member.group).and_modify(|known| known.join(&server)).or_insert(server);
            }
        }
        Section { servers }
    }
}

impl Server {
    fn of(container: &Container) -> Server {
        let (connected, status) = match (container.state, container.health) {
            (State::Running, Some(Health::Unhealthy)) => (Some(false), "unhealthy"),
            (State::Running, Some(Health::Starting)) => (Some(false), "starting"),
            (State::Running, _) => (Some(true), State::Running.name()),
            (State::Unknown, _) => (None, State::Unknown.name()),
            (state, _) => (Some(false), state.name()),
        };
        let ended = matches!(container.state, State::Exited | State::Dead | State::Restarting);
        Server {
            connected,
            status,
            since: if ended { container.finished_at } else { container.started_at },
            restart_count: container.restart_count,
            containers: 1,
            source: "docker",
        }
    }

    fn join(&mut self, other: &Server) {
        let containers = self.containers + other.containers;
        if other.badness() > self.badness() {
            *self = other.clone();
        }
        self.containers = containers;
    }

    fn badness(&self) -> u8 {
        match self.connected {
            Some(true) => 0,
            None => 1,
            Some(false) => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::fixture;
    use crate::source::docker::fake::{Fake, container};
    use serde_json::json;

    fn mcp(fake: &Fake) -> Mcp {
        let host = Host { containers: Some(Names::pynchy()), ..fixture::host(None) };
        let sources = Sources { docker: Docker::at(fake.socket()), ..Sources::default() };
        Mcp::new(Config {}, &host, &sources).unwrap().unwrap()
    }

    fn look(mcp: &mut Mcp) -> Result<Section> {
        fixture::wait(mcp.collect(fixture::now()))
    }

    #[test]
    fn a_server_is_connected_while_all_its_containers_run() {
        let exited = json!({"Status": "Exited (1) 2 hours ago", "RestartCount": 4,
            "State": {"Status": "exited", "ExitCode": 1, "FinishedAt": "2026-11-21T19:58:00Z"}});
        let fake = Fake::with(vec![
            container("pynchy-mcp-web", "web:1", json!({})),
            container("pynchy-mcp-mail", "mail", json!({"State": {"Health": {"Status": "unhealthy"}}})),
            container("pynchy-mcp-notes_0a1b2c", "notes", json!({})),
            container("pynchy-mcp-notes_3d4e5f", "notes", exited),
            container("pynchy-mcp-odd", "odd", json!({"State": {"Status": "hibernating"}})),
            // An agent, whatever its folder is called.
            container("pynchy-mcp-agent", "pynchy-agent:latest", json!({})),
            container("postgres", "postgres", json!({})),
        ]);
        let section = look(&mut mcp(&fake)).unwrap();
        let json = fixture::json::<Mcp>(&section);
        let started = "2026-11-21T19:55:00.5Z";
        let server = |connected, status, since, restarts, containers| {
            json!({"connected": connected, "status": status, "since": since, "restart_count": restarts,
                "containers": containers, "source": "docker"})
        };
        assert_eq!(
            json,
            json!({
                "mail": server(Some(false), "unhealthy", started, 0, 1),
                "notes": server(Some(false), "exited", "2026-11-21T19:58:00Z", 4, 2),
                "odd": server(None, "unknown", started, 0, 1),
                "web": server(Some(true), "running", started, 0, 1),
            })
        );
        let points = fixture::points::<Mcp>(&section);
        let value = |server| fixture::value(&points, &CONNECTED, server);
        assert_eq!([value("web"), value("mail"), value("notes")], [Some(Some(1.0)), Some(Some(0.0)), Some(Some(0.0))]);
        assert_eq!((value("odd"), value("agent")), (Some(None), None));
    }

    #[test]
    fn none_is_no_error_and_an_error_is_not_none() {
        let fake = Fake::with(vec![]);
        let mut mcp = mcp(&fake);
        assert_eq!(look(&mut mcp).unwrap(), Section::default());
        fake.answer_with(|_| Some((500, String::new())));
        std::thread::sleep(Duration::from_millis(2));
        let later = fixture::now().plus(Duration::from_secs(60));
        assert!(fixture::wait(mcp.collect(later)).is_err());
    }

    #[test]
    fn a_host_without_such_names_has_none() {
        let sources = Sources::default();
        assert!(Mcp::new(Config {}, &fixture::host(None), &sources).unwrap().is_none());
        let agents = Names::default().with_agents(&["claw-{group}".parse().unwrap()]);
        let host = Host { containers: Some(agents), ..fixture::host(None) };
        assert!(Mcp::new(Config {}, &host, &sources).unwrap().is_none());
    }
}
