//! The host's MCP servers: whether each is there to be asked, by Docker or by the host's own word. Shown only: a host works
//! without any of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::collect::Collector;
use crate::collect::connectors::{self, Connector};
use crate::collect::host_api::{HostApi, while_starting};
use crate::collect::{DOCKER_FIX, Needs};
use crate::fact::{Bound, Check, Fact, Severity};
use crate::host::containers::{Names, Role};
use crate::host::{Host, Profile};
use crate::sample::{Now, Points};
use crate::source::Sources;
use crate::source::boot::Boot;
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
    /// Null if what it does has no word that we know, or its health could not be asked for.
    connected: Option<bool>,
    /// The state of its container, or `unhealthy`, or `starting`; else the host's word.
    status: &'static str,
    /// Of that state, where it is known.
    since: Option<Timestamp>,
    restart_count: Option<u64>,
    /// How many it has; null if that is nobody's matter.
    containers: Option<usize>,
    source: &'static str,
}

static CONNECTED: Fact = Fact::gauge(
    "agenthost.mcp.connected",
    "agenthost_mcp_connected",
    "1 if every container of the MCP server runs and is not unhealthy, or if the host calls it healthy; 0 if not.",
)
.of(&["server"]);

static CHECKS: [Check; 1] = [Check {
    name: "mcp_connected",
    fact: &CONNECTED,
    bad: Bound::Below(1.0),
    severity: Severity::Info,
    fail_for: Duration::from_secs(5 * 60),
    headline: "MCP server {} disconnected",
    means: "This MCP server cannot be used: agents that need its tools do without. A host may have stopped it while \
            nobody needs it.",
}];

/// Looks after MCP servers.
pub enum Mcp {
    /// pynchy runs each in a container.
    Containers { names: Names, docker: Docker },
    /// netclaw says how it is connected to each. It is asked no more often than it is for its channels.
    Connectors { api: HostApi, every: Duration, boot: Boot },
}

impl Collector for Mcp {
    const NAME: &'static str = "mcp";
    const EVERY: Duration = Duration::from_secs(15);
    const FACTS: &'static [&'static Fact] = &[&CONNECTED];
    const CHECKS: &'static [Check] = &CHECKS;
    const NEEDS: Needs = Needs {
        reads: "Docker's list of MCP servers, or the host's list of connectors",
        fix: DOCKER_FIX,
        costs: "what `containers` was told, or one request of the host's API",
    };
    type Config = Config;
    type Section = Section;

    fn new(_config: Config, host: &Host, sources: &Sources) -> Result<Option<Mcp>> {
        let names = host.containers.clone().filter(|names| names.roles().any(|role| role == Role::Mcp));
        if let Some(names) = names {
            return Ok(Some(Mcp::Containers { names, docker: sources.docker.clone() }));
        }
        let asked = host.status_poll.filter(|_| host.profile == Profile::Netclaw).zip(HostApi::new(host, sources));
        Ok(asked.map(|(every, api)| Mcp::Connectors { api, every, boot: sources.boot.clone() }))
    }

    fn within(&mut self, timeout: Duration) {
        if let Mcp::Connectors { api, .. } = self {
            api.within(timeout);
        }
    }

    async fn collect(&mut self, now: Now) -> Result<Section> {
        match self {
            Mcp::Containers { names, docker } => {
                let seen = docker.inspect_all(now, &names.beginnings(), |name| names.might_be(name)).await?;
                Ok(Section::of_containers(names, &seen))
            }
            Mcp::Connectors { api, every, boot } => {
                let asked = api.json(connectors::PATH, now, *every).await;
                Ok(Section::of_connectors(&asked.map_err(while_starting(boot, now))?))
            }
        }
    }

    fn points(section: &Section, points: &mut Points) {
        for (name, server) in &section.servers {
            points.put(&CONNECTED, [name], server.connected.map(|yes| f64::from(u8::from(yes))));
        }
    }
}

/// `None` if it is no MCP server, or switched off. Its name becomes a label, so it must be a name and not a text.
fn server(connector: &Connector) -> Option<(Arc<str>, Server)> {
    let name =
        connector.key.strip_prefix("mcp:").filter(|name| (1..=200).contains(&name.len()) && connector.is_on())?;
    let (status, connected) = connector.state();
    let source = connectors::PATH;
    Some((name.into(), Server { connected, status, since: None, restart_count: None, containers: None, source }))
}

impl Section {
    fn of_connectors(answer: &connectors::Answer) -> Section {
        Section { servers: answer.connectors.iter().filter_map(server).collect() }
    }

    fn of_containers(names: &Names, seen: &[Arc<Container>]) -> Section {
        let mut servers: BTreeMap<Arc<str>, Server> = BTreeMap::new();
        for container in seen {
            let member = names.classify(&container.name, container.image.as_deref());
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
            // Its health check is not known.
            (State::Running, None) if container.unread.is_some() => (None, State::Running.name()),
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
            containers: Some(1),
            source: "docker",
        }
    }

    fn join(&mut self, other: &Server) {
        let containers = self.containers.zip(other.containers).map(|(ours, others)| ours + others);
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
    use crate::collect::fixture::api::{Api, Say};
    use crate::sample::Cause;
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
            container("pynchy-mcp-odd", "odd", json!({"State": {"Status": ""}})),
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
    fn one_that_cannot_be_asked_for_its_health_is_neither_connected_nor_not() {
        let all = || ["web", "mail"].map(|name| container(&format!("pynchy-mcp-{name}"), name, json!({})));
        let fake = Fake::with(vec![]);
        fake.answer_with(move |path| match path.contains("2d6d61696c/json") {
            true => None,
            false => Some(crate::source::docker::fake::of(&all(), path)),
        });
        let section = look(&mut mcp(&fake)).unwrap();
        let seen = |name: &str| (section.servers[name].connected, section.servers[name].status);
        assert_eq!((seen("web"), seen("mail")), ((Some(true), "running"), (None, "running")));
    }

    #[test]
    fn netclaw_says_itself_what_it_is_connected_to() {
        let api = Api::new();
        let one = |key: &str, status: &str| json!({"key": key, "enabled": status != "off", "status": status});
        let connectors = json!([one("slack", "disconnected"), one("mcp:github", "auth-required"), one("mcp:", "healthy"),
            one("mcp:files", "healthy"), one("mcp:mail", "degraded"), one("mcp:web", "sk-secret"), one("mcp:old", "off"),
            one("mcp:gone", "disabled"), {"key": "mcp:mute"}]);
        api.json(connectors::PATH, json!({"overall": "degraded", "connectors": connectors}));
        let url = Some(api.url.as_str().into());
        let host =
            Host { profile: Profile::Netclaw, url, status_poll: Some(Duration::from_secs(60)), ..fixture::host(None) };
        let mut mcp = Mcp::new(Config {}, &host, &Sources::default()).unwrap().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut look = |seconds| runtime.block_on(mcp.collect(fixture::now().plus(Duration::from_secs(seconds))));
        let section = look(0).unwrap();
        let points = fixture::points::<Mcp>(&section);
        for (server, connected) in [
            ("github", Some(Some(0.0))),
            ("files", Some(Some(1.0))),
            ("mail", Some(Some(0.0))),
            ("web", Some(None)),
            ("mute", Some(None)),
            ("old", None),
            ("gone", None),
            ("slack", None),
            ("", None),
        ] {
            assert_eq!(fixture::value(&points, &CONNECTED, server), connected, "{server}");
        }
        let shown = fixture::json::<Mcp>(&section);
        let github = json!({"connected": false, "status": "auth-required", "since": null, "restart_count": null,
            "containers": null, "source": connectors::PATH});
        assert_eq!((&shown["github"], shown.to_string().contains("secret")), (&github, false));
        look(45).unwrap();
        assert_eq!(api.asked(connectors::PATH), 1, "no more often than it is polled");
        api.say(connectors::PATH, Say::Status(500));
        assert!(format!("{:#}", look(60).unwrap_err()).ends_with("answered with status 500"));
        let silent = Host { status_poll: None, ..host };
        assert!(Mcp::new(Config {}, &silent, &Sources::default()).unwrap().is_none());
    }

    #[test]
    fn a_netclaw_that_is_starting_has_nothing_to_tell_yet() {
        let (url, sources) = (Some("http://127.0.0.1:1".into()), Sources::default());
        let host =
            Host { profile: Profile::Netclaw, url, status_poll: Some(Duration::from_secs(60)), ..fixture::host(None) };
        let mut mcp = Mcp::new(Config {}, &host, &sources).unwrap().unwrap();
        sources.boot.tell(fixture::now(), Some(Duration::from_secs(90)));
        let cause = |mcp: &mut Mcp| crate::sample::Failure::from(look(mcp).unwrap_err()).cause;
        assert_eq!(cause(&mut mcp), Cause::Excused);
        sources.boot.tell(fixture::now(), None);
        assert_eq!(cause(&mut mcp), Cause::Unanswered);
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
