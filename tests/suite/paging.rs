//! The way of a page: hosts of which one part after the other breaks, their sidecars, a real Prometheus, a real
//! Alertmanager, and who is called.
//!
//! Rules and routes are those that are shipped. Their minutes are made seconds, all in the same way, and so are those of
//! the sidecars' policy; nothing else is changed. Everything that is told here is waited for: how long it takes is of no
//! matter, but for a blip, which must be shorter than what is told.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use crate::dockerd::{AGENT, Engine};
use crate::door::{Door, Process};

#[path = "paging/hosts.rs"]
mod hosts;
#[path = "paging/stage.rs"]
mod stage;

use hosts::{CHANNEL, Crew, Gateway, Host, Tables, Watcher, timed};
use stage::{MINUTE, Pager, SOURCE, Sent, Stage, line};

/// Debian's, and a newer one where `tests/run` has built it.
fn prometheis() -> Vec<PathBuf> {
    [Some("prometheus".into()), crate::prometheus3("prometheus")].into_iter().flatten().collect()
}

/// Who is told what of which host.
#[derive(Debug, Clone, Copy)]
struct Told {
    to: &'static str,
    alert: &'static str,
    instance: &'static str,
    /// What the alert is about; empty where the host is all there is to say.
    subject: &'static str,
    /// A part of its description.
    says: &'static str,
}

const fn told(
    to: &'static str,
    instance: &'static str,
    alert: &'static str,
    subject: &'static str,
    says: &'static str,
) -> Told {
    Told { to, alert, instance, subject, says }
}

impl Told {
    fn is(&self, sent: &Sent, status: &str) -> bool {
        let subject = [sent.label("subject"), sent.label("repo")].concat();
        sent.to == self.to
            && sent.is(status)
            && (sent.label("alertname"), sent.label("instance"), &*subject) == (self.alert, self.instance, self.subject)
            && (status == "resolved" || sent.description().contains(self.says))
    }

    /// As Alertmanager names who silences.
    fn named(&self) -> (String, String) {
        (self.alert.to_owned(), self.instance.to_owned())
    }

    fn until(&self, stage: &Stage, status: &str) {
        let what = format!("{status}: {self:?}");
        stage.until(&what, |pager| pager.find(|sent| self.is(sent, status)).is_some());
    }
}

fn until_all(stage: &Stage, all: &[Told], status: &str) {
    all.iter().for_each(|told| told.until(stage, status));
}

/// What people are told of a host: all but the watchdog.
fn of(pager: &Pager, instance: &str) -> Vec<Sent> {
    let mut sent = pager.sent();
    sent.retain(|sent| sent.to != "watchdog" && (instance.is_empty() || sent.label("instance") == instance));
    sent
}

/// Nobody is told anything of it.
fn nobody_is_told(stage: &Stage, instance: &str) {
    for pager in &stage.pagers {
        let sent: Vec<String> = of(pager, instance).iter().map(line).collect();
        assert_eq!(sent, [""; 0]);
    }
}

/// What follows from what is broken, and may be told beside it.
const BESIDE: [[&str; 3]; 12] = [
    ["tickets", "hasty", "AgentHostCollectorFailing"],
    ["tickets", "patient", "AgentHostCollectorFailing"], // once it is down
    ["page", "dark", "AgentHostChannelDisconnected"],
    ["page", "dark", "AgentHostUnhealthy"],
    ["page", "dark", "AgentHostSidecarDown"],
    ["page", "hasty", "AgentHostUnhealthy"],
    ["page", "patient", "AgentHostUnhealthy"],
    ["tickets", "dark", "AgentHostTaskOverdue"],
    ["tickets", "front", "AgentHostTaskOverdue"],
    ["tickets", "front", "AgentHostCheckFailed"], // of the one model that is not healthy
    ["tickets", "work", "AgentHostCheckFailed"],  // of channels that say that they are connected, and deliver nothing
    ["tickets", "work", "AgentHostDeliveriesStuck"], // what a channel refuses waits as well
];

/// All that was told is what is broken, and what follows from it.
fn nobody_is_told_more(stage: &Stage, all: &[Told]) {
    let broken = all.iter().map(|told| [told.to, told.instance, told.alert]);
    let known: BTreeSet<[&str; 3]> = broken.chain(BESIDE).collect();
    for pager in &stage.pagers {
        let firing = of(pager, "").into_iter().filter(|sent| sent.is("firing"));
        let more: Vec<String> = firing
            .filter(|sent| !known.contains(&[&*sent.to, sent.label("instance"), sent.label("alertname")]))
            .map(|sent| line(&sent))
            .collect();
        assert_eq!(more, [""; 0]);
        for sent in of(pager, "") {
            let url = format!("{SOURCE}alerts/runbooks.md#{}", sent.label("alertname").to_lowercase());
            assert_eq!(sent.alert["annotations"]["runbook_url"], url, "a link that can be followed");
            assert_eq!(sent.alert["labels"]["agenthost_source"], Value::Null, "{}", line(&sent));
        }
    }
}

// -- the hosts

/// Everything that breaks on it is for tickets, or for nobody.
struct Work<'a> {
    host: Host,
    process: Process,
    watcher: Watcher,
    engine: Option<&'a Engine>,
}

fn off(tables: &[&'static str]) -> Tables {
    tables.iter().map(|table| (*table, "enabled = false".to_owned())).collect()
}

/// It is told where the engine is, if there is one.
fn docker(engine: Option<&Engine>) -> Tables {
    engine.map(|engine| ("", format!("[docker]\nsocket = \"{}\"", engine.socket().display()))).into_iter().collect()
}

/// Another host's containers are of no matter to it.
fn alone() -> Tables {
    off(&["containers", "mcp"])
}

impl<'a> Work<'a> {
    fn start(engine: Option<&'a Engine>) -> Work<'a> {
        let host = Host::with_repos();
        if let Some(engine) = engine {
            engine.sleeper("pynchy-mcp-web_0a1b2c", "web:test");
        }
        let process = Process::start(host.root.path());
        let watcher = Watcher::start("work", 1, host.root.path(), &host.said(), &Work::tables(engine));
        Work { host, process, watcher, engine }
    }

    fn tables(engine: Option<&Engine>) -> Tables {
        if engine.is_some() { docker(engine) } else { alone() }
    }

    fn reload(&self, muted: &[&'static str]) {
        self.watcher.reload(&self.host.said(), &[Work::tables(self.engine), off(muted)].concat());
    }

    fn break_all(&mut self) {
        self.host.break_rows();
        self.host.ran("error");
        self.host.lose_sessions();
        self.host.break_worktrees();
        self.host.lose_repo();
        self.host.saturated(true);
        if let Some(engine) = self.engine {
            engine.docker("kill pynchy-mcp-web_0a1b2c");
            engine.docker(&format!(
                "run -d --network none --restart always --name pynchy-loop {AGENT} /bin/sh -c 'exit 3'"
            ));
        }
        self.watcher.reload_text("[collect.nothing]\n");
        for start in 2..8 {
            self.process.kill();
            self.process = Process::start(self.host.root.path());
            self.watcher.until("a new process", |status| status["service"]["starts_total"] == start);
        }
    }

    fn mend_all(&self) {
        self.host.mend_rows();
        (0..3).for_each(|_| self.host.ran("success"));
        self.host.find_sessions();
        self.host.mend_worktrees();
        self.host.find_repo();
        self.host.saturated(false);
        if let Some(engine) = self.engine {
            engine.docker("start pynchy-mcp-web_0a1b2c");
            engine.docker("rm -f pynchy-loop");
        }
        // An hour is too long to wait until many starts are forgotten: the operator mutes the check.
        self.reload(&["service_restart_loop"]);
    }

    fn told(&self) -> Vec<Told> {
        let ticket = |alert, subject, says| told("tickets", "work", alert, subject, says);
        let mut all = vec![
            ticket("AgentHostTaskOverdue", "research", "of the group research"),
            ticket("AgentHostTaskFailing", "admin-1", "of the group admin-1"),
            ticket("AgentHostHostJobOverdue", "sync", "The job sync"),
            ticket("AgentHostDeliveriesStuck", CHANNEL, "delivered by connection.slack.acme"),
            ticket("AgentHostDeliveriesErroring", "connection.whatsapp.personal", "connection.whatsapp.personal of"),
            ticket("AgentHostInboundUnanswered", "admin-1", "in the group admin-1"),
            ticket("AgentHostWorktreeConflict", "acme/web/family", "worktree acme/web/family"),
            ticket("AgentHostWorktreeBroken", "acme/web/research", "worktree acme/web/research"),
            ticket("AgentHostRepoBroken", "acme/tools", "repository acme/tools"),
            ticket("AgentHostCheckFailed", "", "check queue_saturated has failed"),
            ticket("AgentHostRestartLoop", "", "more than five times"),
            ticket("AgentHostCollectorFailing", "groups", "collector groups"),
            ticket("AgentHostConfigReloadFailed", "", "had before"),
            told("nobody", "work", "AgentHostDeployDrift", "", "another commit"),
        ];
        if self.engine.is_some() {
            all.push(ticket("AgentHostCheckFailed", "agent/loop", "check container_restarting of agent/loop"));
            all.push(told("nobody", "work", "AgentHostCheckFailed", "web", "check mcp_connected of web"));
        }
        all
    }

    fn story(&mut self, stage: &Stage) {
        self.break_all();
        until_all(stage, &self.told(), "firing");
        for pager in &stage.pagers {
            let sent = of(pager, "work");
            assert!(sent.iter().all(|sent| sent.to != "page"), "{:#?}", sent.iter().map(line).collect::<Vec<_>>());
        }
        self.mend_all();
        until_all(stage, &self.told(), "resolved");
    }
}

fn engine() -> Option<Engine> {
    let engine = Engine::start();
    if let Err(why) = &engine {
        crate::skipped("containers that break", why);
    }
    engine.ok()
}

/// What its agents and its people live on breaks: pages. A second sidecar beside it is lost meanwhile.
struct Front<'a> {
    host: Host,
    gateway: Gateway,
    watcher: Watcher,
    dark: Watcher,
    engine: Option<&'a Engine>,
}

impl<'a> Front<'a> {
    fn start(engine: Option<&'a Engine>) -> Front<'a> {
        let (host, gateway) = (Host::well(), Gateway::well());
        if let Some(engine) = engine {
            engine.sleeper("pynchy-litellm", "litellm:test");
        }
        let tables = Front::tables(engine, gateway.said(host.root.path()));
        let watcher = Watcher::start("front", 2, host.root.path(), &host.said(), &tables);
        let dark = Watcher::start("dark", 3, host.root.path(), &host.said(), &alone());
        Front { host, gateway, watcher, dark, engine }
    }

    fn tables(engine: Option<&Engine>, mut gateway: String) -> Tables {
        if engine.is_some() {
            gateway += "\ncontainers = { gateway = \"pynchy-litellm\" }";
        }
        [alone(), docker(engine), vec![("gateway", gateway)]].concat()
    }

    /// The gateway is asked for its models once a minute; a collector that is made anew asks at once.
    fn models(&self, healthy: bool) {
        self.gateway.models(healthy);
        let keys = self.gateway.said(self.host.root.path()) + if healthy { "" } else { "\ntimeout = \"9s\"" };
        self.watcher.reload(&self.host.said(), &Front::tables(self.engine, keys));
    }

    fn told(&self) -> Vec<Told> {
        let page = |alert, subject, says| told("page", "front", alert, subject, says);
        let mut all = vec![
            page("AgentHostChannelDisconnected", CHANNEL, "lost the channel connection.slack.acme"),
            page("AgentHostUnhealthy", "", "channel_connected of connection.slack.acme;"),
            page("AgentHostGatewayDown", "", "says that it cannot serve"),
            page("AgentHostGatewayModelsUnhealthy", "", "found none healthy"),
        ];
        if self.engine.is_some() {
            all.push(page("AgentHostGatewayContainerDown", "pynchy-litellm", "container pynchy-litellm"));
        }
        all
    }

    /// The sidecar is lost, and what it said is silenced before it is forgotten; once more where this is too slow to see it.
    fn lose_sight(&mut self, stage: &Stage, said: &Told, down: &Told) {
        let firing = format!("ALERTS{{alertname=\"{}\",instance=\"dark\",alertstate=\"firing\"}}", said.alert);
        for _ in 0..10 {
            stage.until_count(&firing, 1);
            self.dark.stop();
            let silenced = |pager: &Pager| pager.silencers(said.alert, "dark").contains(&down.named());
            let forgotten = |pager: &Pager| pager.count(&firing) == Some(0);
            if stage.is_before("what is old is silenced", silenced, forgotten) {
                return;
            }
            self.dark.start_again();
        }
        panic!("what is old is not silenced");
    }

    fn story(&mut self, stage: &Stage) {
        self.host.connected(false);
        self.gateway.ready(false);
        self.models(false);
        if let Some(engine) = self.engine {
            engine.docker("kill pynchy-litellm");
        }
        let unhealthy = told("page", "front", "AgentHostUnhealthy", "", CHANNEL);
        unhealthy.until(stage, "firing");
        // From here on somebody is paged for this host, and needs no ticket for its task.
        self.host.break_task();
        let silent = told("page", "dark", "AgentHostChannelDisconnected", CHANNEL, "");
        silent.until(stage, "firing");
        let ticket = told("tickets", "front", "AgentHostTaskOverdue", "research", "");
        stage.until("a ticket that is silenced by a page", |pager| {
            let by = pager.silencers(ticket.alert, "front");
            by.iter().any(|(name, instance)| name.starts_with("AgentHost") && instance == "front")
        });
        let down = told("page", "dark", "AgentHostSidecarDown", "", "cannot scrape the sidecar at dark");
        self.lose_sight(stage, &silent, &down);
        down.until(stage, "firing");
        until_all(stage, &self.told(), "firing");
        for pager in &stage.pagers {
            let about = [of(pager, "front"), of(pager, "dark")].concat();
            let tickets: Vec<_> = about.iter().filter(|sent| sent.to != "page").map(line).collect();
            assert_eq!(tickets, [""; 0], "whoever is paged gets no ticket");
        }

        self.host.connected(true);
        self.gateway.ready(true);
        self.models(true);
        if let Some(engine) = self.engine {
            engine.docker("start pynchy-litellm");
        }
        self.dark.start_again();
        until_all(stage, &self.told(), "resolved");
        down.until(stage, "resolved");
        ticket.until(stage, "firing"); // it was silenced, not lost
        self.host.mend_task();
        ticket.until(stage, "resolved");
    }
}

/// Workers of the test's own process.
struct Shift {
    crew: Crew,
    host: Host,
    watcher: Watcher,
}

impl Shift {
    fn start() -> Shift {
        let host = Host::well();
        std::fs::write(host.root.path().join("pid"), std::process::id().to_string()).unwrap();
        let crew = Crew::new(host.root.path());
        let watcher = Watcher::start("crew", 4, host.root.path(), &Shift::said(&host), &Shift::tables());
        Shift { crew, host, watcher }
    }

    fn said(host: &Host) -> String {
        format!("{}\npid_file = \"pid\"", host.said())
    }

    fn tables() -> Tables {
        [alone(), vec![("workers", Crew::said())]].concat()
    }

    fn told(&self) -> Vec<Told> {
        let ticket = |alert, subject| told("tickets", "crew", alert, subject, subject);
        vec![
            ticket("AgentHostWorkersLeaked", "crew-leaks"),
            ticket("AgentHostWorkerZombies", "crew-dies"),
            ticket("AgentHostWorkerOrphans", "crew-lost"),
            ticket("AgentHostWorkerSpawnLoop", "crew-fails"),
        ]
    }

    fn story(&mut self, stage: &Stage) {
        self.crew.break_three();
        (0..6).for_each(|_| self.crew.fail_once(&self.watcher));
        until_all(stage, &self.told(), "firing");
        self.crew.mend();
        // Ten minutes are too long to wait until failures are forgotten: the operator mutes the check.
        let tables = [Shift::tables(), off(&["worker_spawn_loop"])].concat();
        self.watcher.reload(&Shift::said(&self.host), &tables);
        until_all(stage, &self.told(), "resolved");
    }
}

const STALLED: Told = told("page", "hasty", "AgentHostStalled", "", "its API is silent");
const DOWN: Told = told("page", "patient", "AgentHostDown", "", "nothing answers on its port");

/// A host that is restarted, and then ends, seen by a sidecar that knows how long a start takes and by one that does not;
/// each by a way of its own.
struct Restarted {
    host: Host,
    process: Process,
    gateway: Gateway,
    doors: [Door; 2],
    patient: Watcher,
    hasty: Watcher,
}

impl Restarted {
    fn start() -> Restarted {
        let (host, gateway) = (Host::well(), Gateway::well());
        let mut doors = [Door::before(&host.api), Door::before(&host.api)];
        doors.iter_mut().for_each(Door::open);
        let process = Process::start(host.root.path());
        let watch = |name, number, door: &Door, grace, more: Tables| {
            let said = format!("url = \"http://{}\"", door.address);
            let grace = vec![("service", format!("boot_grace = \"{grace}\""))];
            Watcher::start(name, number, host.root.path(), &said, &[alone(), grace, more].concat())
        };
        let patient = watch("patient", 5, &doors[0], "1h", vec![("gateway", gateway.said(host.root.path()))]);
        let hasty = watch("hasty", 6, &doors[1], "2s", Tables::new());
        Restarted { host, process, gateway, doors, patient, hasty }
    }

    fn told(&self) -> Vec<Told> {
        vec![STALLED, DOWN]
    }

    fn story(&mut self, stage: &Stage) {
        self.doors.iter_mut().for_each(Door::close);
        self.process.kill();
        self.process = Process::start(self.host.root.path());
        STALLED.until(stage, "firing");
        // The one that knows has seen the same for as long.
        nobody_is_told(stage, "patient");
        for pager in &stage.pagers {
            assert_eq!(pager.series("ALERTS{instance=\"patient\"}"), Some(Vec::new()), "not even pending");
        }
        self.doors.iter_mut().for_each(Door::open);
        stage.until_count("agenthost_service_responding{instance=~\"patient|hasty\"} == 1", 2);
        nobody_is_told(stage, "patient");

        self.doors[0].close();
        self.process.kill();
        DOWN.until(stage, "firing");
        self.gateway.answers(false);
        stage.until("a part of a host that is down is silenced", |pager| {
            pager.silencers("AgentHostGatewayDown", "patient").contains(&DOWN.named())
        });
        self.process = Process::start(self.host.root.path());
        self.doors[0].open();
        self.gateway.answers(true);
        until_all(stage, &self.told(), "resolved");
        for pager in &stage.pagers {
            let part = |sent: &Sent| sent.is("firing") && sent.label("alertname") == "AgentHostGatewayDown";
            assert!(!of(pager, "patient").iter().any(part), "nobody is told of it, not even when the host is back");
        }
    }
}

/// What a blip makes bad, for Prometheus to see.
const BLIP: [&str; 10] = [
    "agenthost_check_bad{instance=\"front\",check=\"channel_connected\",subject=\"connection.slack.acme\"}",
    "agenthost_check_bad{instance=\"front\",check=\"gateway_ready\"}",
    "agenthost_check_bad{instance=\"hasty\",check=\"service_responding\"}",
    "agenthost_check_bad{instance=\"work\",check=\"task_overdue\",subject=\"research\"}",
    "agenthost_check_bad{instance=\"work\",check=\"inbound_unanswered\",subject=\"admin-1\"}",
    "agenthost_check_bad{instance=\"work\",check=\"deliveries_pending\",subject=\"connection.slack.acme\"}",
    "agenthost_check_bad{instance=\"work\",check=\"worktree_conflict\",subject=\"acme/web/family\"}",
    "agenthost_check_bad{instance=\"work\",check=\"collector_up\",subject=\"groups\"}",
    "agenthost_check_bad{instance=\"work\",check=\"queue_saturated\"}",
    "1 - agenthost_config_last_reload_successful{instance=\"work\"}",
];

fn until_blip(stage: &Stage, bad: u8) {
    BLIP.iter().for_each(|what| stage.until_count(&format!("({what}) == {bad}"), 1));
}

/// Much breaks at once, and is mended as soon as everybody has seen it; how long it was so.
fn blip(stage: &Stage, work: &Work, front: &Front, restarted: &mut Restarted) -> Duration {
    timed(|| {
        front.host.connected(false);
        front.gateway.ready(false);
        restarted.doors[1].close();
        work.host.break_rows();
        work.host.break_worktrees();
        work.host.lose_sessions();
        work.host.saturated(true);
        work.watcher.reload_text("[collect.nothing]\n");
        until_blip(stage, 1);
        work.reload(&[]);
        work.host.saturated(false);
        work.host.find_sessions();
        work.host.mend_worktrees();
        work.host.mend_rows();
        restarted.doors[1].open();
        front.gateway.ready(true);
        front.host.connected(true);
        until_blip(stage, 0);
    })
}

fn a_blip_pages_nobody(stage: &Stage, work: &Work, front: &Front, restarted: &mut Restarted) {
    let past = "count_over_time(ALERTS{alertname!=\"Watchdog\"}[1m])";
    let mut attempts = 0;
    // On a machine that is too busy for a blip it was none, and what follows would prove nothing: once all is quiet, again.
    while blip(stage, work, front, restarted) > MINUTE * 4 {
        attempts += 1;
        assert!(attempts < 10, "no blip is short enough here");
        stage.until_count(past, 0);
        stage.forget();
    }
    stage.until_count("ALERTS{alertname!=\"Watchdog\"}", 0);
    for pager in &stage.pagers {
        let was = |state: &str| {
            pager.count(&format!("count_over_time(ALERTS{{alertname!=\"Watchdog\",alertstate=\"{state}\"}}[1m])"))
        };
        assert!(was("pending") >= Some(1), "the rules have seen the blip");
        assert_eq!(was("firing"), Some(0));
    }
    nobody_is_told(stage, "");
}

#[test]
fn each_part_that_breaks_is_told_to_whom_it_concerns_and_taken_back_and_no_blip_is_told() {
    let Some(stage) = Stage::new(&prometheis()) else { return };
    let engine = engine();
    let (mut work, mut front) = (Work::start(engine.as_ref()), Front::start(engine.as_ref()));
    let (mut shift, mut restarted) = (Shift::start(), Restarted::start());
    let watchers = [&work.watcher, &front.watcher, &front.dark, &shift.watcher, &restarted.patient, &restarted.hasty];
    stage.watch(&watchers.map(Watcher::target));
    stage.until_count("agenthost_health_state{state=\"healthy\"} == 1", 6);
    stage.until("the watchdog", |pager| pager.find(|sent| sent.to == "watchdog" && sent.is("firing")).is_some());
    until_blip(&stage, 0);
    a_blip_pages_nobody(&stage, &work, &front, &mut restarted);

    std::thread::scope(|scope| {
        scope.spawn(|| work.story(&stage));
        scope.spawn(|| shift.story(&stage));
        scope.spawn(|| restarted.story(&stage));
        scope.spawn(|| front.story(&stage));
    });

    nobody_is_told_more(&stage, &[work.told(), front.told(), shift.told(), restarted.told()].concat());

    // The last to go is the sidecars' own place in the configuration.
    stage.watch(&[]);
    told("page", "", "AgentHostSidecarAbsent", "", "No target of the job agenthost is left").until(&stage, "firing");
}
