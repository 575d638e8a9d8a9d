//! Beside what one would run instead: the exporters for machines, processes and HTTP, all of them scraped each 15 s as we are,
//! while the same 50 workers, one host and one gateway run.

use super::*;
use crate::database::{fill, insert};
use crate::git::{SEED, shell};
use crate::served::{ask, is_seen};
use crate::table::{Aim, row};

const WORKERS: usize = 50;
const OURS: &str = "127.0.0.1:20483";

/// A program of the others, and what Prometheus asks it for in each cycle.
struct Program {
    name: &'static str,
    running: Ended,
    asked: Vec<(SocketAddr, String)>,
    cpu: f64,
}

/// What is watched, by us and by the others.
struct Scene {
    folder: tempfile::TempDir,
    host: api::Api,
    gateway: api::Api,
    running: Vec<Ended>,
}

impl Scene {
    /// A host with 200 000 messages, ten worktrees, 50 workers and a gateway.
    fn new() -> Scene {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fill(folder.path(), 200_000);
        let repo = folder.path().join("data/repos/acme/web");
        std::fs::write(folder.path().join("config.toml"), "[server]\nport = 1\n[repos.\"acme/web\"]\n")
            .expect("a file");
        std::fs::create_dir_all(&repo).expect("a folder");
        shell(&repo, SEED);
        let add =
            "for i in $(seq 10); do git worktree add -q --no-track -b w$i ../../../worktrees/acme/web/w$i base; done";
        shell(&repo, add);
        let gateway = api::Api::new();
        gateway.say("/health/liveliness", api::Say::Json("\"I'm alive!\"".into()));
        gateway.json("/health/readiness", serde_json::json!({"status": "healthy", "db": "connected"}));
        let scene = Scene { folder, host: api::Api::healthy(), gateway, running: Vec::new() };
        let running = std::iter::once("pynchy")
            .chain(std::iter::repeat_n("benchworker", WORKERS))
            .map(|name| scene.sleeper(name));
        Scene { running: running.collect(), ..scene }
    }

    /// A process of this name; the host has written down whose it is.
    fn sleeper(&self, name: &str) -> Ended {
        let program = self.folder.path().join("data").join(name);
        if !program.exists() {
            std::fs::copy("/bin/sleep", &program).expect("a program");
        }
        Ended(Command::new(&program).arg("3600").stdin(Stdio::null()).spawn().expect("it starts"))
    }

    /// What a host with some work does between two scrapes: ten messages, and a commit in a worktree.
    fn lives(&self, cycle: u32) {
        let database = Connection::open(self.folder.path().join("data/messages.db")).expect("a database");
        database.execute_batch("PRAGMA foreign_keys = OFF").expect("a pragma");
        insert(&database, &format!("new{cycle}-"), 10);
        let commit = format!("echo {cycle} >> d/1.txt; git commit -qam {cycle}");
        shell(&self.folder.path().join("data/worktrees/acme/web/w1"), &commit);
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    fn sidecar(&self) -> Ended {
        let pid = self.file("data/pid", &self.running[0].0.id().to_string());
        let config = format!(
            "[host]\nroot = \"{}\"\npid_file = \"{pid}\"\nurl = \"{}\"\n[web]\nlisten = [\"{OURS}\"]\n\
             [collect.gateway]\nkind = \"litellm\"\nurl = \"{}\"\n\
             [collect.workers]\npresets = []\n[[collect.workers.rule]]\nname = \"bench\"\ncomm = \"benchworker\"\n",
            self.folder.path().display(),
            self.host.url,
            self.gateway.url
        );
        let mut exporter = Command::new(env!("CARGO_BIN_EXE_agenthost-exporter"));
        exporter.arg(format!("--config.file={}", self.file("exporter.toml", &config)));
        Ended(exporter.stderr(Stdio::null()).spawn().expect("the binary starts"))
    }

    /// The three of Debian, and one that reads what the host says of itself, where it is built.
    fn debian(&self) -> Vec<Program> {
        let programs = [
            self.node("prometheus-node-exporter", 20500),
            self.process("prometheus-process-exporter", 20501),
            self.blackbox("prometheus-blackbox-exporter", 20502),
        ];
        programs.into_iter().flatten().collect()
    }

    fn newer(&self) -> Vec<Program> {
        let programs = [
            self.node(&built("node_exporter/node_exporter"), 20510),
            self.process(&built("process_exporter/process-exporter"), 20511),
            self.blackbox(&built("blackbox_exporter/blackbox_exporter"), 20512),
            self.json(&built("json_exporter/json_exporter"), 20513),
        ];
        programs.into_iter().flatten().collect()
    }

    fn node(&self, command: &str, port: u16) -> Option<Program> {
        program("node_exporter", command, port, &[], &["/metrics".into()])
    }

    fn process(&self, command: &str, port: u16) -> Option<Program> {
        let config = self.file("processes.yml", "process_names: [{name: '{{.Comm}}', comm: [pynchy, benchworker]}]\n");
        program("process_exporter", command, port, &[format!("-config.path={config}")], &["/metrics".into()])
    }

    fn blackbox(&self, command: &str, port: u16) -> Option<Program> {
        let config = self.file("blackbox.yml", "modules: {http_2xx: {prober: http, timeout: 5s}}\n");
        let targets = [format!("{}/health", self.host.url), format!("{}/health/liveliness", self.gateway.url)];
        let probes = targets.map(|target| format!("/probe?module=http_2xx&target={target}"));
        program("blackbox_exporter", command, port, &[format!("--config.file={config}")], &probes)
    }

    fn json(&self, command: &str, port: u16) -> Option<Program> {
        let metric = |name: &str, path: &str| format!("{{name: {name}, help: h, path: '{path}'}}");
        let metrics = [
            metric("host_uptime", "{.service.uptime_seconds}"),
            metric("host_active", "{.queue.active_containers}"),
            metric("host_waiting", "{.queue.groups_waiting}"),
        ];
        let config = self.file("json.yml", &format!("modules: {{default: {{metrics: [{}]}}}}\n", metrics.join(", ")));
        let probe = format!("/probe?module=default&target={}/status", self.host.url);
        program("json_exporter", command, port, &[format!("--config.file={config}")], &[probe])
    }
}

fn built(program: &str) -> String {
    format!("{}/target/{program}", env!("CARGO_MANIFEST_DIR"))
}

fn program(name: &'static str, command: &str, port: u16, arguments: &[String], paths: &[String]) -> Option<Program> {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut child = Command::new(command);
    child.args(arguments).arg(format!("--web.listen-address={address}")).stdout(Stdio::null()).stderr(Stdio::null());
    match child.spawn() {
        Ok(child) => {
            let asked = paths.iter().map(|path| (address, path.clone())).collect();
            Some(Program { name, running: Ended(child), asked, cpu: 0.0 })
        }
        Err(error) => {
            println!("SKIPPED: {name}, because {command}: {error}");
            None
        }
    }
}

pub fn stack() {
    let scene = Scene::new();
    let mut stacks = [("Debian's exporters", scene.debian()), ("newer exporters", scene.newer())];
    let mut ours = scene.sidecar();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
    let address = OURS.parse().expect("a literal");
    std::thread::sleep(Duration::from_secs(1));
    for program in stacks.iter_mut().flat_map(|(_, programs)| programs) {
        program.running.runs();
    }
    let gzip = [("Accept-Encoding", "gzip")];
    let scrape = |address, path: &str| runtime.block_on(ask(address, path, &gzip)).map(|(status, _)| status);
    while runtime.block_on(ask(address, "/status", &[])).is_none_or(|(_, body)| !is_seen(&body)) {
        std::thread::sleep(Duration::from_millis(50));
    }
    let all: Vec<(SocketAddr, String)> =
        stacks.iter().flat_map(|(_, programs)| programs).flat_map(|program| program.asked.clone()).collect();
    let cycle = |number| {
        let begun = Instant::now();
        scene.lives(number);
        for (address, path) in all.iter().map(|(address, path)| (*address, &**path)).chain([(address, "/metrics")]) {
            assert_eq!(scrape(address, path), Some(200), "{address}{path}");
        }
        std::thread::sleep(Duration::from_secs(full_or(15, 1)).saturating_sub(begun.elapsed()));
    };
    (0..2).for_each(&cycle);
    ours.runs();
    let before = cpu_seconds(ours.0.id());
    for program in stacks.iter_mut().flat_map(|(_, programs)| programs) {
        program.cpu = cpu_seconds(program.running.0.id());
    }
    let cycles = full_or(10, 2);
    (2..2 + cycles).for_each(cycle);
    let each = |pid, before| (cpu_seconds(pid) - before) / f64::from(cycles) * 1e3;
    let (cpu, memory) = (each(ours.0.id(), before), resident(ours.0.id()) as f64 / 1e6);
    say("ours: CPU of a cycle", cpu, "ms");
    say("ours: resident memory", memory, "MB");
    say("... of which no file backs", anonymous(ours.0.id()) as f64 / 1e6, "MB");
    for (name, programs) in stacks.iter().filter(|(_, programs)| !programs.is_empty()) {
        let (mut theirs, mut resident_of_all, mut anonymous_of_all) = (0.0, 0.0, 0.0);
        for program in programs {
            let pid = program.running.0.id();
            let (cpu, memory) = (each(pid, program.cpu), resident(pid) as f64 / 1e6);
            say(&format!("{name}: {}: CPU of a cycle", program.name), cpu, "ms");
            say(&format!("{name}: {}: resident memory", program.name), memory, "MB");
            theirs += cpu;
            resident_of_all += memory;
            anonymous_of_all += anonymous(pid) as f64 / 1e6;
        }
        let all: Vec<&str> = programs.iter().map(|program| program.name).collect();
        let beside = format!("{name}: {}", all.join(", "));
        row("resident memory", memory, "MB", &beside, resident_of_all, Aim::AtMost(0.25));
        row(
            "... without pages of files",
            anonymous(ours.0.id()) as f64 / 1e6,
            "MB",
            &beside,
            anonymous_of_all,
            Aim::Nothing,
        );
        row("CPU of 15 s", cpu, "ms", &beside, theirs, Aim::AtMost(0.25));
    }
}

fn anonymous(pid: u32) -> u64 {
    memory_of(pid, "RssAnon:")
}
