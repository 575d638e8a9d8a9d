//! A fault: what is done to a scene, what undoes it, and what must then be said. Data; `play` does it.

use std::time::Duration;

use rustix::process::Signal;

use crate::api::Say;
use crate::scene::{Kit, RATIO_WINDOW, Scene, TIMEOUT, UNKNOWN_FOR, fail_for};

/// One row before it is played.
pub struct Fault {
    pub part: &'static str,
    pub fault: &'static str,
    pub injected: &'static str,
    pub kit: Kit,
    /// Whose looks are counted.
    pub collector: &'static str,
    pub inflict: fn(&mut Scene),
    pub mend: fn(&mut Scene),
    pub way: Way,
    pub expect: Expect,
}

/// How it comes to be told.
#[derive(Debug, Clone, Copy)]
pub enum Way {
    /// This check of this subject fails, as what is measured is bad.
    Bad(&'static str, &'static str),
    /// It fails, as nobody answers.
    Silence(&'static str, &'static str),
    /// It fails, as two of three looks are bad.
    Flapping(&'static str, &'static str),
    /// Nothing fails: it is shown at once.
    Shown,
}

impl Way {
    pub fn check(self) -> Option<(&'static str, &'static str)> {
        match self {
            Way::Bad(check, subject) | Way::Silence(check, subject) | Way::Flapping(check, subject) => {
                Some((check, subject))
            }
            Way::Shown => None,
        }
    }
}

impl Fault {
    /// Within `fail_for`, or as long as a silence may last, and two intervals of a second; a look that is under way may take
    /// its whole time-out first.
    pub fn in_time(&self) -> Duration {
        let seconds = match self.way {
            Way::Bad(check, _) => fail_for(check),
            Way::Silence(..) => UNKNOWN_FOR,
            Way::Flapping(..) => RATIO_WINDOW * 2,
            Way::Shown => 0,
        };
        Duration::from_secs(seconds + 2) + TIMEOUT
    }

    /// Looks within which it is told: `fail_for`, or as long as a silence may last, and two; two windows of flapping. A look
    /// that its time-out has ended is followed by the next at once, which is one more.
    pub fn within(&self) -> u32 {
        let seconds = match self.way {
            Way::Bad(check, _) => fail_for(check) + 2,
            Way::Silence(..) => UNKNOWN_FOR + 2,
            Way::Flapping(..) => RATIO_WINDOW * 2,
            Way::Shown => 2,
        };
        u32::try_from(seconds).unwrap() + u32::from(["hung", "slow"].contains(&self.fault))
    }
}

/// What must be said as long as it lasts.
#[derive(Debug, Clone, Copy)]
pub struct Expect {
    /// What `/readyz` names; nothing if it stays 200.
    pub unready: &'static [&'static str],
    /// Lines of `/metrics`; with `no ` before it a series that is not there.
    pub metrics: &'static [&'static str],
    /// What the page tells, in its verdict or in its lists; empty if it only shows numbers.
    pub page: &'static str,
    /// Alerts that fire.
    pub alerts: &'static [&'static str],
    /// Alerts that may fire too, as what follows.
    pub beside: &'static [&'static str],
    /// Collectors that live on the same thing, and so do not stay fresh.
    pub with: &'static [&'static str],
}

/// Nothing is done, and nothing is said.
const NOTHING: Fault = Fault {
    part: "",
    fault: "",
    injected: "",
    kit: Kit::Plain,
    collector: "",
    inflict: |_| {},
    mend: |_| {},
    way: Way::Shown,
    expect: CALM,
};

const CALM: Expect = Expect { unready: &[], metrics: &[], page: "", alerts: &[], beside: &[], with: &[] };
const CHANNEL: &str = "connection.slack.acme";
const UNHEALTHY: &str = "AgentHostUnhealthy";
const BLIND: &str = "AgentHostCollectorFailing";
const FAILED: &str = "AgentHostCheckFailed";

/// A collector that sees nothing, by its metric.
macro_rules! down {
    ($collector:literal) => {
        concat!("agenthost_collector_up{collector=\"", $collector, "\"} 0")
    };
}

/// A collector that may not look, or not at all of it, by its metric.
macro_rules! access {
    ($collector:literal, $access:literal) => {
        concat!("agenthost_collector_access{access=\"", $access, "\",collector=\"", $collector, "\"} 1")
    };
}

/// One that sees nothing fails the check of all collectors, and no more.
macro_rules! blind {
    ($collector:literal) => {
        Expect {
            metrics: &[down!($collector)],
            page: concat!("collector ", $collector, " sees nothing"),
            alerts: &[BLIND],
            ..CALM
        }
    };
}

/// One that is denied degrades the host, and fails in time as one that sees nothing.
macro_rules! denied {
    ($collector:literal) => {
        Expect { metrics: &[down!($collector), access!($collector, "denied")], ..blind!($collector) }
    };
}

/// All that is played, in the order of the table.
pub const ALL: &[Fault] = &[
    // -- service
    Fault {
        part: "service",
        fault: "hung",
        injected: "SIGSTOP of the host's process",
        kit: Kit::HostProgram,
        collector: "service",
        inflict: |scene| scene.program.as_ref().unwrap().signal(Signal::STOP),
        mend: |scene| scene.program.as_ref().unwrap().signal(Signal::CONT),
        way: Way::Bad("service_responding", ""),
        expect: STALLED,
    },
    Fault {
        part: "service",
        fault: "hung",
        injected: "a port that takes connections and never answers",
        collector: "service",
        inflict: |scene| scene.host.api.say_to_all(Some(Say::Hang)),
        mend: |scene| scene.host.api.say_to_all(None),
        way: Way::Bad("service_responding", ""),
        expect: STALLED,
        ..NOTHING
    },
    Fault {
        part: "service",
        fault: "refused",
        injected: "a closed port while the process lives",
        collector: "service",
        inflict: |scene| scene.door.close(),
        mend: |scene| scene.door.open(),
        way: Way::Bad("service_responding", ""),
        expect: STALLED,
        ..NOTHING
    },
    Fault {
        part: "service",
        fault: "gone",
        injected: "the process ended and the port closed",
        collector: "service",
        inflict: |scene| {
            scene.process_ends();
            scene.door.close();
        },
        mend: |scene| {
            scene.process_begins();
            scene.door.open();
        },
        way: Way::Bad("service_up", ""),
        expect: Expect {
            unready: &["channel_connected", "service_responding", "service_up"],
            metrics: &["agenthost_service_up 0", "agenthost_service_responding 0"],
            page: "host down",
            alerts: &["AgentHostDown", UNHEALTHY],
            beside: &[BLIND],
            with: &["channels", "queue"],
        },
        ..NOTHING
    },
    Fault {
        part: "service",
        fault: "garbage",
        injected: "bytes that are no HTTP",
        collector: "service",
        inflict: |scene| scene.host.api.say_to_all(Some(Say::Noise(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()))),
        mend: |scene| scene.host.api.say_to_all(None),
        way: Way::Bad("service_responding", ""),
        expect: STALLED,
        ..NOTHING
    },
    Fault {
        part: "service",
        fault: "slow",
        injected: "each answer half a second late",
        collector: "service",
        inflict: |scene| scene.host.api.say("/agenthost-exporter-liveness", Say::Late(Duration::from_millis(600))),
        mend: |scene| scene.host.api.say("/agenthost-exporter-liveness", Say::Status(404)),
        expect: Expect {
            metrics: &["agenthost_service_responding 1", "agenthost_service_response_duration_seconds > 0.5"],
            ..CALM
        },
        ..NOTHING
    },
    Fault {
        part: "service",
        fault: "flapping",
        injected: "a port that is closed in two of three looks",
        collector: "service",
        inflict: |scene| scene.door.close(),
        mend: |scene| scene.door.open(),
        way: Way::Flapping("service_responding", ""),
        expect: STALLED,
        ..NOTHING
    },
    Fault {
        part: "service",
        fault: "hung",
        injected: "a pipe in the place of its pid file",
        kit: Kit::PidFile,
        collector: "service",
        inflict: |scene| scene.becomes_pipe("data/host.pid"),
        mend: |scene| scene.pipe_comes_back("data/host.pid"),
        expect: Expect {
            metrics: &["agenthost_service_up 1", "agenthost_service_responding 1", "no agenthost_service_threads"],
            ..CALM
        },
        ..NOTHING
    },
    Fault {
        part: "service",
        fault: "permission lost",
        injected: "mode 0 of its pid file",
        kit: Kit::PidFileAsNobody,
        collector: "service",
        inflict: |scene| scene.mode("data/host.pid", 0),
        mend: |scene| scene.mode("data/host.pid", 0o644),
        expect: Expect {
            metrics: &["agenthost_service_up 1", access!("service", "partial")],
            page: "service the sidecar may not look at all of it",
            ..CALM
        },
        ..NOTHING
    },
    // -- deploy
    Fault {
        part: "deploy",
        fault: "gone",
        injected: "the checkout's .git moved away",
        collector: "deploy",
        inflict: |scene| scene.goes(".git"),
        mend: |scene| scene.comes_back(".git"),
        expect: Expect {
            metrics: &["no agenthost_deploy_drift", "no agenthost_deploy_dirty"],
            page: "#deploy: broken: it has no .git",
            ..CALM
        },
        ..NOTHING
    },
    Fault {
        part: "deploy",
        fault: "garbage",
        injected: "random bytes in .git/HEAD",
        collector: "deploy",
        inflict: |scene| scene.becomes(".git/HEAD", b"\xff\x00garbage"),
        mend: |scene| scene.comes_back(".git/HEAD"),
        expect: Expect { metrics: &["no agenthost_deploy_drift"], page: "#deploy: broken", ..CALM },
        ..NOTHING
    },
    Fault {
        part: "deploy",
        fault: "hung",
        injected: "a pipe in the place of .git/HEAD",
        collector: "deploy",
        inflict: |scene| scene.becomes_pipe(".git/HEAD"),
        mend: |scene| scene.pipe_comes_back(".git/HEAD"),
        expect: Expect { metrics: &["no agenthost_deploy_drift"], page: "#deploy: broken", ..CALM },
        ..NOTHING
    },
    Fault {
        part: "deploy",
        fault: "permission lost",
        injected: "mode 0 of .git",
        kit: Kit::AsNobody,
        collector: "deploy",
        inflict: |scene| scene.mode(".git", 0),
        mend: |scene| scene.mode(".git", 0o755),
        expect: Expect {
            metrics: &[access!("deploy", "partial")],
            page: "deploy the sidecar may not look at all of it",
            ..CALM
        },
        ..NOTHING
    },
    // -- channels
    Fault {
        part: "channels",
        fault: "gone",
        injected: "the host calls one disconnected",
        collector: "channels",
        inflict: |scene| scene.status_says("/channels/connection.slack.acme", false.into()),
        mend: Scene::status_is_well_again,
        way: Way::Bad("channel_connected", CHANNEL),
        expect: DISCONNECTED,
        ..NOTHING
    },
    Fault {
        part: "channels",
        fault: "flapping",
        injected: "disconnected in two of three looks",
        collector: "channels",
        inflict: |scene| scene.status_says("/channels/connection.slack.acme", false.into()),
        mend: Scene::status_is_well_again,
        way: Way::Flapping("channel_connected", CHANNEL),
        expect: DISCONNECTED,
        ..NOTHING
    },
    Fault {
        part: "channels",
        fault: "hung",
        injected: "a /status that never answers, while /health does",
        collector: "channels",
        inflict: |scene| scene.status(Say::Hang),
        mend: Scene::status_is_well_again,
        way: Way::Bad("collector_up", "channels"),
        expect: PAGE_LOST,
        ..NOTHING
    },
    Fault {
        part: "channels",
        fault: "slow",
        injected: "a /status of one byte a second, while /health is well",
        collector: "channels",
        inflict: |scene| scene.status(Say::Drip(scene.host.api.said("/health").repeat(9))),
        mend: Scene::status_is_well_again,
        way: Way::Bad("collector_up", "channels"),
        expect: PAGE_LOST,
        ..NOTHING
    },
    Fault {
        part: "channels",
        fault: "refused",
        injected: "a /status of 500, while /health is well",
        collector: "channels",
        inflict: |scene| scene.status(Say::Status(500)),
        mend: Scene::status_is_well_again,
        way: Way::Bad("collector_up", "channels"),
        expect: PAGE_LOST,
        ..NOTHING
    },
    Fault {
        part: "channels",
        fault: "garbage",
        injected: "HTML instead of JSON",
        collector: "channels",
        inflict: |scene| scene.status(Say::Html("<h1>Bad gateway</h1>".into())),
        mend: Scene::status_is_well_again,
        way: Way::Silence("channel_connected", CHANNEL),
        expect: UNANSWERED,
        ..NOTHING
    },
    Fault {
        part: "channels",
        fault: "garbage",
        injected: "JSON of another shape",
        collector: "channels",
        inflict: |scene| scene.status_says("/channels", serde_json::json!([true, false])),
        mend: Scene::status_is_well_again,
        way: Way::Silence("channel_connected", CHANNEL),
        expect: Expect { with: &[], ..UNANSWERED },
        ..NOTHING
    },
    Fault {
        part: "channels",
        fault: "garbage",
        injected: "NaN in its JSON",
        collector: "channels",
        inflict: |scene| scene.status(Say::Json("{\"channels\": {\"connection.slack.acme\": NaN}}".into())),
        mend: Scene::status_is_well_again,
        way: Way::Silence("channel_connected", CHANNEL),
        expect: UNANSWERED,
        ..NOTHING
    },
    Fault {
        part: "channels",
        fault: "garbage",
        injected: "an answer of 200 MB",
        collector: "channels",
        inflict: |scene| scene.status(Say::Flood(200)),
        mend: Scene::status_is_well_again,
        way: Way::Silence("channel_connected", CHANNEL),
        expect: UNANSWERED,
        ..NOTHING
    },
    Fault {
        part: "channels",
        fault: "permission lost",
        injected: "a /status of 401",
        collector: "channels",
        inflict: |scene| scene.status(Say::Status(401)),
        mend: Scene::status_is_well_again,
        way: Way::Bad("collector_up", "channels"),
        expect: Expect { with: &["queue"], ..denied!("channels") },
        ..NOTHING
    },
    // -- the host's API, as all who ask it meet it
    Fault {
        part: "host_api",
        fault: "garbage",
        injected: "a redirect to another host",
        collector: "channels",
        inflict: |scene| scene.status(Say::Redirect("http://127.0.0.1:1/status")),
        mend: Scene::status_is_well_again,
        way: Way::Silence("channel_connected", CHANNEL),
        expect: UNANSWERED,
        ..NOTHING
    },
    Fault {
        part: "host_api",
        fault: "flapping",
        injected: "HTML instead of JSON in two of three looks",
        collector: "channels",
        inflict: |scene| scene.status(Say::Html("<h1>Bad gateway</h1>".into())),
        mend: Scene::status_is_well_again,
        way: Way::Flapping("channel_connected", CHANNEL),
        expect: UNANSWERED,
        ..NOTHING
    },
    // -- gateway
    Fault {
        part: "gateway",
        fault: "hung",
        injected: "SIGSTOP of its process",
        kit: Kit::GatewayProgram,
        collector: "gateway",
        inflict: |scene| scene.program.as_ref().unwrap().signal(Signal::STOP),
        mend: |scene| scene.program.as_ref().unwrap().signal(Signal::CONT),
        way: Way::Bad("gateway_up", ""),
        expect: NO_GATEWAY,
    },
    Fault {
        part: "gateway",
        fault: "gone",
        injected: "SIGKILL of its process",
        kit: Kit::GatewayProgram,
        collector: "gateway",
        inflict: |scene| scene.program.as_mut().unwrap().kill(),
        mend: |scene| scene.program.as_mut().unwrap().start_again(),
        way: Way::Bad("gateway_up", ""),
        expect: NO_GATEWAY,
    },
    Fault {
        part: "gateway",
        fault: "garbage",
        injected: "HTML instead of JSON",
        collector: "gateway",
        inflict: |scene| scene.gateway.api.say_to_all(Some(Say::Html("<h1>Welcome to nginx</h1>".into()))),
        mend: |scene| scene.gateway.api.say_to_all(None),
        way: Way::Bad("gateway_up", ""),
        expect: NO_GATEWAY,
        ..NOTHING
    },
    Fault {
        part: "gateway",
        fault: "slow",
        injected: "one byte a second",
        collector: "gateway",
        inflict: |scene| scene.gateway.api.say_to_all(Some(Say::Drip("\"I'm alive!\"".into()))),
        mend: |scene| scene.gateway.api.say_to_all(None),
        way: Way::Bad("gateway_up", ""),
        expect: NO_GATEWAY,
        ..NOTHING
    },
    Fault {
        part: "gateway",
        fault: "refused",
        injected: "503, as its database is gone",
        collector: "gateway",
        inflict: |scene| scene.gateway.ready(false),
        mend: |scene| scene.gateway.ready(true),
        way: Way::Bad("gateway_ready", ""),
        expect: NOT_READY,
        ..NOTHING
    },
    Fault {
        part: "gateway",
        fault: "flapping",
        injected: "the same in two of three looks",
        collector: "gateway",
        inflict: |scene| scene.gateway.ready(false),
        mend: |scene| scene.gateway.ready(true),
        way: Way::Flapping("gateway_ready", ""),
        expect: NOT_READY,
        ..NOTHING
    },
    Fault {
        part: "gateway",
        fault: "permission lost",
        injected: "mode 0 of the file with the sidecar's key",
        kit: Kit::AsNobody,
        collector: "gateway",
        inflict: |scene| scene.mode("exporter-key", 0),
        mend: |scene| scene.mode("exporter-key", 0o644),
        expect: Expect {
            metrics: &["agenthost_gateway_up 1", access!("gateway", "partial")],
            page: "gateway the sidecar may not look at all of it",
            ..CALM
        },
        ..NOTHING
    },
    // -- queue
    Fault {
        part: "queue",
        fault: "gone",
        injected: "a /status without it",
        collector: "queue",
        inflict: |scene| scene.status_says("/queue", serde_json::Value::Null),
        mend: Scene::status_is_well_again,
        way: Way::Bad("collector_up", "queue"),
        expect: NO_QUEUE,
        ..NOTHING
    },
    Fault {
        part: "queue",
        fault: "garbage",
        injected: "a negative number of containers",
        collector: "queue",
        inflict: |scene| scene.status_says("/queue/active_containers", (-1).into()),
        mend: Scene::status_is_well_again,
        way: Way::Bad("collector_up", "queue"),
        expect: NO_QUEUE,
        ..NOTHING
    },
    Fault {
        part: "queue",
        fault: "flapping",
        injected: "saturated in two of three looks",
        collector: "queue",
        inflict: |scene| {
            let full =
                serde_json::json!({"active_containers": 5, "max_concurrent": 5, "groups_waiting": 2, "per_group": {}});
            scene.status_says("/queue", full);
        },
        mend: Scene::status_is_well_again,
        way: Way::Flapping("queue_saturated", ""),
        expect: Expect { metrics: &["agenthost_queue_saturated 1"], page: "queue full", alerts: &[FAILED], ..CALM },
        ..NOTHING
    },
    // -- repos
    Fault {
        part: "repos",
        fault: "gone",
        injected: "a repository moved away",
        collector: "repos",
        inflict: |scene| scene.goes("data/repos/acme/tools"),
        mend: |scene| scene.comes_back("data/repos/acme/tools"),
        expect: REPO_LOST,
        ..NOTHING
    },
    Fault {
        part: "repos",
        fault: "garbage",
        injected: "random bytes in .git/HEAD",
        collector: "repos",
        inflict: |scene| scene.becomes("data/repos/acme/tools/.git/HEAD", b"\xff\x00garbage"),
        mend: |scene| scene.comes_back("data/repos/acme/tools/.git/HEAD"),
        expect: REPO_LOST,
        ..NOTHING
    },
    Fault {
        part: "repos",
        fault: "hung",
        injected: "a pipe in the place of .git/config",
        collector: "repos",
        inflict: |scene| scene.becomes_pipe("data/repos/acme/tools/.git/config"),
        mend: |scene| scene.pipe_comes_back("data/repos/acme/tools/.git/config"),
        expect: REPO_LOST,
        ..NOTHING
    },
    Fault {
        part: "repos",
        fault: "permission lost",
        injected: "mode 0 of a repository's .git",
        kit: Kit::AsNobody,
        collector: "repos",
        inflict: |scene| scene.mode("data/repos/acme/tools/.git", 0),
        mend: |scene| scene.mode("data/repos/acme/tools/.git", 0o755),
        expect: Expect {
            metrics: &[access!("repos", "partial"), "no agenthost_repo_dirty{repo=\"acme/tools\"}"],
            page: "repos the sidecar may not look at all of it",
            ..CALM
        },
        ..NOTHING
    },
    // -- worktrees
    Fault {
        part: "worktrees",
        fault: "gone",
        injected: "a worktree's folder deleted",
        collector: "repos",
        inflict: |scene| scene.goes(FAMILY),
        mend: |scene| scene.comes_back(FAMILY),
        expect: Expect { metrics: &["no agenthost_worktree_conflict{repo=\"acme/web\",worktree=\"family\"}"], ..CALM },
        ..NOTHING
    },
    Fault {
        part: "worktrees",
        fault: "garbage",
        injected: "a .git file that leads nowhere",
        collector: "repos",
        inflict: |scene| scene.becomes("data/worktrees/acme/web/family/.git", b"gitdir: /nowhere\n"),
        mend: |scene| scene.comes_back("data/worktrees/acme/web/family/.git"),
        way: Way::Bad("worktree_broken", "acme/web/family"),
        expect: WORKTREE_BROKEN,
        ..NOTHING
    },
    Fault {
        part: "worktrees",
        fault: "hung",
        injected: "a pipe in the place of its .git",
        collector: "repos",
        inflict: |scene| scene.becomes_pipe("data/worktrees/acme/web/family/.git"),
        mend: |scene| scene.pipe_comes_back("data/worktrees/acme/web/family/.git"),
        way: Way::Bad("worktree_broken", "acme/web/family"),
        expect: WORKTREE_BROKEN,
        ..NOTHING
    },
    Fault {
        part: "worktrees",
        fault: "flapping",
        injected: "the same in two of three looks",
        collector: "repos",
        inflict: |scene| scene.becomes("data/worktrees/acme/web/family/.git", b"gitdir: /nowhere\n"),
        mend: |scene| scene.comes_back("data/worktrees/acme/web/family/.git"),
        way: Way::Flapping("worktree_broken", "acme/web/family"),
        expect: WORKTREE_BROKEN,
        ..NOTHING
    },
    Fault {
        part: "worktrees",
        fault: "permission lost",
        injected: "mode 0 of a worktree's folder",
        kit: Kit::AsNobody,
        collector: "repos",
        inflict: |scene| scene.mode(FAMILY, 0),
        mend: |scene| scene.mode(FAMILY, 0o755),
        expect: Expect {
            metrics: &[access!("repos", "partial")],
            page: "repos the sidecar may not look at all of it",
            ..CALM
        },
        ..NOTHING
    },
    // -- messages, and all that stands in the host's database
    Fault {
        part: "messages",
        fault: "gone",
        injected: "the database moved away",
        collector: "messages",
        inflict: |scene| scene.goes(DATABASE),
        mend: |scene| scene.comes_back(DATABASE),
        way: Way::Bad("collector_up", "messages"),
        expect: NO_DATABASE,
        ..NOTHING
    },
    Fault {
        part: "messages",
        fault: "garbage",
        injected: "a corrupt database",
        collector: "messages",
        inflict: |scene| scene.becomes(DATABASE, &[0xa5; 65536]),
        mend: |scene| scene.comes_back(DATABASE),
        way: Way::Bad("collector_up", "messages"),
        expect: NO_DATABASE,
        ..NOTHING
    },
    Fault {
        part: "messages",
        fault: "garbage",
        injected: "a folder in the place of the database",
        collector: "messages",
        inflict: |scene| scene.becomes_folder(DATABASE),
        mend: |scene| scene.comes_back(DATABASE),
        way: Way::Bad("collector_up", "messages"),
        expect: NO_DATABASE,
        ..NOTHING
    },
    Fault {
        part: "messages",
        fault: "hung",
        injected: "a pipe in the place of the database",
        collector: "messages",
        inflict: |scene| scene.becomes_pipe(DATABASE),
        mend: |scene| scene.pipe_comes_back(DATABASE),
        way: Way::Bad("collector_up", "messages"),
        expect: NO_DATABASE,
        ..NOTHING
    },
    Fault {
        part: "messages",
        fault: "refused",
        injected: "a writer that keeps the database locked",
        collector: "messages",
        inflict: |scene| scene.lock(DATABASE, "UPDATE router_state SET value = value || ' '"),
        mend: Scene::unlock,
        way: Way::Bad("collector_up", "messages"),
        expect: NO_DATABASE,
        ..NOTHING
    },
    Fault {
        part: "messages",
        fault: "permission lost",
        injected: "mode 0 of the database",
        kit: Kit::AsNobody,
        collector: "messages",
        inflict: |scene| scene.mode(DATABASE, 0),
        mend: |scene| scene.mode(DATABASE, 0o644),
        way: Way::Bad("collector_up", "messages"),
        expect: Expect { with: NO_DATABASE.with, ..denied!("messages") },
    },
    Fault {
        part: "messages",
        fault: "flapping",
        injected: "a table that is missing in two of three looks",
        collector: "messages",
        inflict: |scene| scene.loses_table("outbound_ledger"),
        mend: |scene| scene.finds_table("outbound_ledger"),
        way: Way::Flapping("collector_up", "messages"),
        expect: blind!("messages"),
        ..NOTHING
    },
    Fault {
        part: "usage",
        fault: "gone",
        injected: "its table renamed",
        collector: "usage",
        inflict: |scene| scene.loses_table("events"),
        mend: |scene| scene.finds_table("events"),
        way: Way::Bad("collector_up", "usage"),
        expect: blind!("usage"),
        ..NOTHING
    },
    Fault {
        part: "tasks",
        fault: "gone",
        injected: "a table renamed",
        collector: "tasks",
        inflict: |scene| scene.loses_table("task_run_logs"),
        mend: |scene| scene.finds_table("task_run_logs"),
        way: Way::Bad("collector_up", "tasks"),
        expect: blind!("tasks"),
        ..NOTHING
    },
    Fault {
        part: "tasks",
        fault: "hung",
        injected: "a task that is not run when it is due",
        collector: "tasks",
        inflict: |scene| scene.host.break_task(),
        mend: |scene| scene.host.mend_task(),
        way: Way::Bad("task_overdue", "research"),
        expect: Expect {
            metrics: &["agenthost_tasks_overdue{group=\"research\"} 1"],
            page: "task of group research overdue",
            alerts: &["AgentHostTaskOverdue"],
            ..CALM
        },
        ..NOTHING
    },
    Fault {
        part: "host_jobs",
        fault: "gone",
        injected: "its table renamed",
        collector: "host_jobs",
        inflict: |scene| scene.loses_table("host_jobs"),
        mend: |scene| scene.finds_table("host_jobs"),
        way: Way::Bad("collector_up", "host_jobs"),
        expect: blind!("host_jobs"),
        ..NOTHING
    },
    Fault {
        part: "host_jobs",
        fault: "hung",
        injected: "a job that is not run when it is due",
        collector: "host_jobs",
        inflict: |scene| scene.host.sql("UPDATE host_jobs SET next_run = '{-5h}' WHERE name = 'sync'"),
        mend: |scene| scene.host.mend_rows(),
        way: Way::Bad("host_job_overdue", "sync"),
        expect: Expect {
            metrics: &["agenthost_host_job_overdue{host_job=\"sync\"} 1"],
            page: "host job sync overdue",
            alerts: &["AgentHostHostJobOverdue"],
            ..CALM
        },
        ..NOTHING
    },
    Fault {
        part: "groups",
        fault: "gone",
        injected: "its table renamed",
        collector: "groups",
        inflict: |scene| scene.host.lose_sessions(),
        mend: |scene| scene.host.find_sessions(),
        way: Way::Bad("collector_up", "groups"),
        expect: blind!("groups"),
        ..NOTHING
    },
    // -- workers
    Fault {
        part: "workers",
        fault: "gone",
        injected: "one killed, and not reaped",
        collector: "workers",
        inflict: Scene::corpse,
        mend: Scene::no_workers,
        way: Way::Bad("worker_zombie", "crew"),
        expect: ZOMBIE,
        ..NOTHING
    },
    Fault {
        part: "workers",
        fault: "flapping",
        injected: "the same in two of three looks",
        collector: "workers",
        inflict: Scene::corpse,
        mend: Scene::no_workers,
        way: Way::Flapping("worker_zombie", "crew"),
        // It is many workers that end as they begin, and for ten minutes no less.
        expect: Expect { beside: &["AgentHostWorkerSpawnLoop"], ..ZOMBIE },
        ..NOTHING
    },
    // -- containers
    Fault {
        part: "containers",
        fault: "hung",
        injected: "SIGSTOP of the engine",
        kit: Kit::Engine,
        collector: "containers",
        inflict: |scene| scene.engine.as_ref().unwrap().signal(Signal::STOP),
        mend: |scene| scene.engine.as_ref().unwrap().signal(Signal::CONT),
        way: Way::Bad("collector_up", "containers"),
        expect: NO_ENGINE,
    },
    Fault {
        part: "containers",
        fault: "refused",
        injected: "the engine stopped",
        kit: Kit::Engine,
        collector: "containers",
        inflict: |scene| scene.engine.as_mut().unwrap().stop(),
        mend: |scene| scene.engine_begins(),
        way: Way::Bad("collector_up", "containers"),
        expect: NO_ENGINE,
    },
    Fault {
        part: "containers",
        fault: "gone",
        injected: "the socket moved away",
        collector: "containers",
        inflict: |scene| scene.engine_is_gone(),
        mend: |scene| scene.engine_is_back(),
        way: Way::Bad("collector_up", "containers"),
        expect: NO_ENGINE,
        ..NOTHING
    },
    Fault {
        part: "containers",
        fault: "garbage",
        injected: "JSON of another shape",
        collector: "containers",
        inflict: |scene| scene.engine_says("{\"message\": [1, 2]}"),
        mend: |scene| scene.engine_is_well(),
        way: Way::Bad("collector_up", "containers"),
        expect: NO_ENGINE,
        ..NOTHING
    },
    Fault {
        part: "containers",
        fault: "flapping",
        injected: "the same in two of three looks",
        collector: "containers",
        inflict: |scene| scene.engine_says("{\"message\": [1, 2]}"),
        mend: |scene| scene.engine_is_well(),
        way: Way::Flapping("collector_up", "containers"),
        expect: NO_ENGINE,
        ..NOTHING
    },
    Fault {
        part: "containers",
        fault: "permission lost",
        injected: "mode 0 of the engine's socket",
        kit: Kit::AsNobody,
        collector: "containers",
        inflict: |scene| scene.engine_mode(0),
        mend: |scene| scene.engine_mode(0o777),
        way: Way::Bad("collector_up", "containers"),
        expect: Expect { with: &["mcp"], ..denied!("containers") },
    },
    // -- mcp
    Fault {
        part: "mcp",
        fault: "gone",
        injected: "a server's container has ended",
        collector: "mcp",
        inflict: |scene| scene.server_ends(),
        mend: |scene| scene.engine_is_well(),
        way: Way::Bad("mcp_connected", "web"),
        expect: SERVER_GONE,
        ..NOTHING
    },
    Fault {
        part: "mcp",
        fault: "hung",
        injected: "a container that its health check calls unhealthy",
        collector: "mcp",
        inflict: |scene| scene.server_is_ill(),
        mend: |scene| scene.engine_is_well(),
        way: Way::Bad("mcp_connected", "web"),
        expect: SERVER_GONE,
        ..NOTHING
    },
    Fault {
        part: "mcp",
        fault: "flapping",
        injected: "the same in two of three looks",
        collector: "mcp",
        inflict: |scene| scene.server_ends(),
        mend: |scene| scene.engine_is_well(),
        way: Way::Flapping("mcp_connected", "web"),
        expect: SERVER_GONE,
        ..NOTHING
    },
    // -- what the operator lists
    Fault {
        part: "http",
        fault: "hung",
        injected: "an endpoint that never answers",
        collector: "http",
        inflict: |scene| scene.own.say_to_all(Some(Say::Hang)),
        mend: |scene| scene.own.say_to_all(None),
        way: Way::Bad("collector_up", "http"),
        expect: blind!("http"),
        ..NOTHING
    },
    Fault {
        part: "http",
        fault: "slow",
        injected: "one byte a second",
        collector: "http",
        inflict: |scene| scene.own.say_to_all(Some(Say::Drip("{\"running\": 3}".into()))),
        mend: |scene| scene.own.say_to_all(None),
        way: Way::Bad("collector_up", "http"),
        expect: blind!("http"),
        ..NOTHING
    },
    Fault {
        part: "http",
        fault: "garbage",
        injected: "an answer of 200 MB",
        collector: "http",
        inflict: |scene| scene.own.say_to_all(Some(Say::Flood(200))),
        mend: |scene| scene.own.say_to_all(None),
        way: Way::Bad("collector_up", "http"),
        expect: blind!("http"),
        ..NOTHING
    },
    Fault {
        part: "http",
        fault: "garbage",
        injected: "a word where a number stood, and the key twice",
        collector: "http",
        inflict: |scene| scene.own.say_to_all(Some(Say::Json("{\"running\": 3, \"running\": \"three\"}".into()))),
        mend: |scene| scene.own.say_to_all(None),
        expect: Expect { metrics: &["no agenthost_http_value{endpoint=\"own\",name=\"running\"}"], ..CALM },
        ..NOTHING
    },
    Fault {
        part: "http",
        fault: "gone",
        injected: "404",
        collector: "http",
        inflict: |scene| scene.own.say_to_all(Some(Say::Status(404))),
        mend: |scene| scene.own.say_to_all(None),
        way: Way::Bad("collector_up", "http"),
        expect: blind!("http"),
        ..NOTHING
    },
    Fault {
        part: "http",
        fault: "permission lost",
        injected: "403",
        collector: "http",
        inflict: |scene| scene.own.say_to_all(Some(Say::Status(403))),
        mend: |scene| scene.own.say_to_all(None),
        way: Way::Bad("collector_up", "http"),
        expect: denied!("http"),
        ..NOTHING
    },
    Fault {
        part: "sql",
        fault: "garbage",
        injected: "a corrupt file",
        collector: "sql",
        inflict: |scene| scene.becomes("data/own.db", &[0xa5; 65536]),
        mend: |scene| scene.comes_back("data/own.db"),
        way: Way::Bad("collector_up", "sql"),
        expect: blind!("sql"),
        ..NOTHING
    },
    Fault {
        part: "sql",
        fault: "gone",
        injected: "the file moved away",
        collector: "sql",
        inflict: |scene| scene.goes("data/own.db"),
        mend: |scene| scene.comes_back("data/own.db"),
        way: Way::Bad("collector_up", "sql"),
        expect: blind!("sql"),
        ..NOTHING
    },
    Fault {
        part: "sql",
        fault: "refused",
        injected: "a writer that keeps it locked",
        collector: "sql",
        inflict: |scene| scene.lock("data/own.db", "DELETE FROM jobs"),
        mend: Scene::unlock,
        way: Way::Bad("collector_up", "sql"),
        expect: blind!("sql"),
        ..NOTHING
    },
    Fault {
        part: "sql",
        fault: "slow",
        injected: "a query that takes longer than it may",
        collector: "sql",
        inflict: |scene| scene.own_sql(SLOW),
        mend: |scene| scene.own_sql("DROP VIEW jobs; ALTER TABLE jobs_lost RENAME TO jobs"),
        way: Way::Bad("collector_up", "sql"),
        expect: blind!("sql"),
        ..NOTHING
    },
    Fault {
        part: "sql",
        fault: "permission lost",
        injected: "mode 0 of the file",
        kit: Kit::AsNobody,
        collector: "sql",
        inflict: |scene| scene.mode("data/own.db", 0),
        mend: |scene| scene.mode("data/own.db", 0o644),
        way: Way::Bad("collector_up", "sql"),
        expect: denied!("sql"),
    },
    Fault {
        part: "heartbeat",
        fault: "hung",
        injected: "a file that is not touched any more",
        collector: "heartbeat",
        inflict: |scene| scene.heart.stands_still(),
        mend: |scene| scene.heart.beats(),
        way: Way::Bad("heartbeat_stale", "own"),
        expect: STALE,
        ..NOTHING
    },
    Fault {
        part: "heartbeat",
        fault: "gone",
        injected: "the file moved away",
        collector: "heartbeat",
        inflict: |scene| scene.goes("data/pulse/heartbeat"),
        mend: |scene| scene.comes_back("data/pulse/heartbeat"),
        way: Way::Bad("heartbeat_stale", "own"),
        expect: STALE,
        ..NOTHING
    },
    Fault {
        part: "heartbeat",
        fault: "permission lost",
        injected: "mode 0 of the folder above it",
        kit: Kit::AsNobody,
        collector: "heartbeat",
        inflict: |scene| scene.mode("data/pulse", 0),
        mend: |scene| scene.mode("data/pulse", 0o755),
        expect: Expect {
            metrics: &[access!("heartbeat", "partial"), "no agenthost_heartbeat_stale{name=\"own\"}"],
            page: "heartbeat the sidecar may not look at all of it",
            ..CALM
        },
        ..NOTHING
    },
];

const FAMILY: &str = "data/worktrees/acme/web/family";
const DATABASE: &str = "data/messages.db";
/// A view of this name counts to a number that takes seconds.
const SLOW: &str = "ALTER TABLE jobs RENAME TO jobs_lost;
    CREATE VIEW jobs AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000000) SELECT i FROM n";

/// The host's API is silent though its process lives; so are its channels, and the queue.
const STALLED: Expect = Expect {
    unready: &["channel_connected", "service_responding"],
    metrics: &["agenthost_service_up 1", "agenthost_service_responding 0", "no agenthost_queue_groups_waiting"],
    page: "host not responding",
    alerts: &["AgentHostStalled", UNHEALTHY],
    beside: &[BLIND],
    with: &["channels", "queue"],
};

const DISCONNECTED: Expect = Expect {
    unready: &["channel_connected"],
    metrics: &["agenthost_channel_connected{channel=\"connection.slack.acme\"} 0"],
    page: "connection.slack.acme disconnected",
    alerts: &["AgentHostChannelDisconnected", UNHEALTHY],
    ..CALM
};

/// The status page alone is an error: its fault, not the channels', whose verdict stands.
const PAGE_LOST: Expect = Expect {
    metrics: &[down!("channels"), "no agenthost_channel_connected{channel=\"connection.slack.acme\"}"],
    page: "collector channels sees nothing",
    alerts: &[BLIND],
    with: &["queue"],
    ..CALM
};

const UNANSWERED: Expect = Expect {
    unready: &["channel_connected"],
    metrics: &[down!("channels"), "no agenthost_channel_connected{channel=\"connection.slack.acme\"}"],
    page: "no answer about connection.slack.acme",
    alerts: &[UNHEALTHY],
    beside: &[BLIND],
    with: &["queue"],
};

const NO_GATEWAY: Expect = Expect {
    unready: &["gateway_ready", "gateway_up"],
    metrics: &["agenthost_gateway_up 0"],
    page: "gateway down",
    alerts: &["AgentHostGatewayDown", UNHEALTHY],
    ..CALM
};

const NOT_READY: Expect = Expect {
    unready: &["gateway_ready"],
    metrics: &["agenthost_gateway_up 1", "agenthost_gateway_ready 0"],
    page: "gateway not ready",
    ..NO_GATEWAY
};

/// Nobody knows what it is, and nobody calls it empty.
const NO_QUEUE: Expect = Expect { metrics: &[down!("queue"), "no agenthost_queue_groups_waiting"], ..blind!("queue") };

const REPO_LOST: Expect = Expect {
    metrics: &["agenthost_repo_broken{repo=\"acme/tools\"} 1", "no agenthost_repo_dirty{repo=\"acme/tools\"}"],
    page: "#repos: broken",
    alerts: &["AgentHostRepoBroken"],
    ..CALM
};

const WORKTREE_BROKEN: Expect = Expect {
    metrics: &[
        "agenthost_worktree_broken{repo=\"acme/web\",worktree=\"family\"} 1",
        "no agenthost_worktree_conflict{repo=\"acme/web\",worktree=\"family\"}",
    ],
    page: "worktree acme/web/family broken",
    alerts: &["AgentHostWorktreeBroken"],
    ..CALM
};

const NO_DATABASE: Expect = Expect {
    metrics: &[down!("messages"), "no agenthost_messages_inbound"],
    with: &["groups", "host_jobs", "tasks", "usage"],
    ..blind!("messages")
};

const NO_ENGINE: Expect = Expect { with: &["mcp"], ..blind!("containers") };

const SERVER_GONE: Expect = Expect {
    metrics: &["agenthost_mcp_connected{server=\"web\"} 0"],
    page: "mcp server web disconnected",
    alerts: &[FAILED],
    ..CALM
};

const ZOMBIE: Expect = Expect {
    metrics: &["agenthost_workers_zombie{kind=\"crew\"} 1"],
    page: "crew workers left as zombies",
    alerts: &["AgentHostWorkerZombies"],
    ..CALM
};

const STALE: Expect = Expect {
    metrics: &["agenthost_heartbeat_stale{name=\"own\"} 1"],
    page: "heartbeat own stale",
    alerts: &[FAILED],
    ..CALM
};
