//! A host with everything that a sidecar may look at, each part of which can be broken and mended, and a sidecar beside it.

use std::fs::{self, File, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use agenthost_exporter::fact::Check;
use agenthost_exporter::{collect, pulse};
use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::api::{Api, Say};
use crate::binary::{PATIENCE, Sidecar, exporter, exporter_without_rights, get};
use crate::dockerd::Engine;
use crate::door::{Door, Process};
use crate::fake_docker::{Fake, container};
use crate::fault::Fault;
use crate::hosts::{Gateway, Host};
use crate::stage::MINUTE;

/// Nobody's, who may read what all may read.
const NOBODY: u32 = 65534;

/// What a fault needs beside what every scene has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kit {
    Plain,
    /// The sidecar runs as another user than this test, and so can be refused.
    AsNobody,
    /// A file says which process is the host's.
    PidFile,
    PidFileAsNobody,
    /// The host is a program of its own, which serves by itself.
    HostProgram,
    /// So is the gateway.
    GatewayProgram,
    /// A real Docker engine.
    Engine,
}

impl Kit {
    fn is_nobody(self) -> bool {
        matches!(self, Kit::AsNobody | Kit::PidFileAsNobody)
    }

    fn has_pid_file(self) -> bool {
        matches!(self, Kit::PidFile | Kit::PidFileAsNobody)
    }
}

/// A program that says over HTTP what stands in a file, until it is told otherwise by signals.
pub struct Program {
    child: Child,
    address: SocketAddr,
    command: Box<dyn Fn() -> Command + Send>,
}

const SERVER: &str = "
import http.server, json, sys
with open(sys.argv[1]) as file:
    answers = json.load(file)
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(answers[self.path]).encode() if self.path in answers else b''
        self.send_response(200 if self.path in answers else 404)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
http.server.ThreadingHTTPServer(('127.78.1.1', int(sys.argv[2])), Answer).serve_forever()
";

impl Program {
    /// Called so, and in this folder.
    fn start(name: &str, folder: &Path, answers: &Value) -> Program {
        let (program, file) = (folder.join("data").join(name), folder.join("data").join(format!("{name}.json")));
        fs::write(&program, SERVER).unwrap();
        fs::write(&file, answers.to_string()).unwrap();
        let address = TcpListener::bind("127.78.1.1:0").unwrap().local_addr().unwrap();
        let folder = folder.to_owned();
        let command = Box::new(move || {
            let mut command = Command::new("python3");
            command.arg(&program).arg(&file).arg(address.port().to_string()).current_dir(&folder);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            command
        });
        let program = Program { child: command().spawn().unwrap(), address, command };
        program.wait();
        program
    }

    fn wait(&self) {
        let begun = Instant::now();
        while get(self.address, "/").is_err() {
            assert!(begun.elapsed() < PATIENCE, "python3 serves");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn start_again(&mut self) {
        self.child = (self.command)().spawn().unwrap();
        self.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Touches a file again and again while it beats.
pub struct Heart {
    beats: Arc<AtomicBool>,
    lives: Arc<AtomicBool>,
}

impl Heart {
    fn of(file: PathBuf) -> Heart {
        fs::create_dir(file.parent().unwrap()).unwrap();
        File::create(&file).unwrap();
        let heart = Heart { beats: Arc::new(AtomicBool::new(true)), lives: Arc::new(AtomicBool::new(true)) };
        let (beats, lives) = (heart.beats.clone(), heart.lives.clone());
        std::thread::spawn(move || {
            while lives.load(Ordering::Relaxed) {
                if beats.load(Ordering::Relaxed) {
                    let _ = File::open(&file).and_then(|file| file.set_modified(SystemTime::now()));
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        heart
    }

    pub fn beats(&self) {
        self.beats.store(true, Ordering::Relaxed);
    }

    pub fn stands_still(&self) {
        self.beats.store(false, Ordering::Relaxed);
    }
}

impl Drop for Heart {
    fn drop(&mut self) {
        self.lives.store(false, Ordering::Relaxed);
    }
}

/// The host, what stands around it, and its sidecar.
pub struct Scene {
    pub host: Host,
    pub door: Door,
    /// Of a host that is no program of its own.
    process: Option<Process>,
    pub gateway: Gateway,
    /// Of the host or of the gateway.
    pub program: Option<Program>,
    pub docker: Fake,
    pub engine: Option<Engine>,
    /// The endpoint of `[[collect.http]]`.
    pub own: Api,
    pub heart: Heart,
    pub workers: Vec<Child>,
    /// A lock on the host's database.
    lock: Option<Connection>,
    kit: Kit,
    /// The collectors that look each second; the others do every other.
    quick: Vec<&'static str>,
    /// What its workers are called.
    worker: String,
    /// What the host's `/status` says when all is well.
    status_page: String,
    sidecar: Option<Sidecar>,
}

impl Scene {
    pub fn new(number: usize, fault: &Fault) -> Scene {
        let kit = fault.kit;
        let host = Host::with_repos();
        let (root, gateway, own) = (host.root.path().to_owned(), Gateway::well(), Api::new());
        own.json("/numbers", json!({"running": 3}));
        Connection::open(root.join("data/own.db")).unwrap().execute_batch(OWN).unwrap();
        let mut door = Door::before(&host.api);
        door.open();
        let process = (kit != Kit::HostProgram).then(|| Process::start_as(&root, kit.is_nobody().then_some(NOBODY)));
        let pid = process.as_ref().map_or(0, |process| process.0.id());
        fs::write(root.join("data/host.pid"), pid.to_string()).unwrap();
        fs::set_permissions(&root, Permissions::from_mode(0o755)).unwrap();
        let worker = format!("worker-{number}");
        fs::copy("/bin/sh", root.join("data").join(&worker)).unwrap();
        let program = match kit {
            Kit::HostProgram => Some(Program::start("pynchy", &root, &said(&host.api, &["/health", "/status"]))),
            Kit::GatewayProgram => Some(Program::start("gateway", &root, &said(&gateway.api, &GATEWAY))),
            _ => None,
        };
        let engine = (kit == Kit::Engine).then(|| Engine::start().unwrap_or_else(|why| panic!("no engine: {why}")));
        if let Some(engine) = &engine {
            engine.sleeper(WEB, "web:test");
        }
        let docker = Fake::with(containers());
        open_to_all(docker.folder());
        fs::set_permissions(docker.socket(), Permissions::from_mode(0o777)).unwrap();
        let page = host.api.said("/status");
        let heart = Heart::of(root.join("data/pulse/heartbeat"));
        let mut scene = Scene {
            host,
            door,
            process,
            gateway,
            program,
            docker,
            engine,
            own,
            heart,
            workers: Vec::new(),
            lock: None,
            kit,
            quick: [fault.collector].iter().chain(fault.expect.with).copied().collect(),
            worker,
            status_page: page,
            sidecar: None,
        };
        scene.start();
        scene
    }

    pub fn address(&self) -> SocketAddr {
        self.sidecar().address
    }

    pub fn sidecar(&self) -> &Sidecar {
        self.sidecar.as_ref().unwrap()
    }

    fn start(&mut self) {
        let folder = self.root().join("sidecar");
        fs::create_dir(&folder).unwrap();
        let file = folder.join("exporter.toml");
        fs::write(&file, self.config()).unwrap();
        let command = if self.kit.is_nobody() { exporter_without_rights(&folder) } else { exporter() };
        let flags = ["--web.listen-address=127.0.0.1:0".to_owned(), format!("--host.root={}", self.root().display())];
        self.sidecar = Some(Sidecar::spawn_at(command, &file, flags));
    }

    fn root(&self) -> &Path {
        self.host.root.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// What the fault is about looks each second, and a minute of a policy is two; no policy lasts longer than five of them.
    fn config(&self) -> String {
        let address = |program: Option<&Program>, other: String| program.map_or(other, |one| one.address.to_string());
        let serves = |kit: Kit| self.program.as_ref().filter(|_| self.kit == kit);
        let (root, url) = (self.root().display(), address(serves(Kit::HostProgram), self.door.address.to_string()));
        let pid_file =
            if self.kit.has_pid_file() { format!("pid_file = \"{root}/data/host.pid\"\n") } else { String::new() };
        let mut gateway = self.gateway.said(self.root());
        if let Some(program) = serves(Kit::GatewayProgram) {
            gateway = gateway.replace(&self.gateway.api.url, &format!("http://{}", program.address));
        }
        let socket = self.engine.as_ref().map_or_else(|| self.docker.socket(), Engine::socket);
        let worker = &self.worker;
        let own = |name: &str| match name {
            "service" => "boot_grace = \"1s\"\n".to_owned(),
            "gateway" => format!("{gateway}\n"),
            "workers" => format!(
                "presets = []\nleaked_after = \"2s\"\n[[collect.workers.rule]]\nname = \"crew\"\ncomm = \"{worker}\"\n"
            ),
            _ => String::new(),
        };
        let pace = |name: &str| if self.quick.contains(&name) { QUICK } else { PACE };
        let table = |name: &str| format!("[collect.{name}]\n{}{}", pace(name), own(name));
        let collectors: String =
            collect::ALL.iter().map(|one| one.name).filter(|name| !LISTED.contains(name)).map(table).collect();
        let policies: String = checks().map(|check| policy(check.name, fail_for(check.name))).collect();
        format!(
            "[host]\nurl = \"http://{url}\"\n{pid_file}[docker]\nsocket = \"{}\"\n{collectors}\
             [[collect.http]]\nname = \"own\"\nurl = \"{}/numbers\"\nvalues = {{ running = \"/running\" }}\n{}\
             [[collect.sql]]\nname = \"own\"\ndatabase = \"{root}/data/own.db\"\n\
             query = \"SELECT count(*) AS jobs FROM jobs\"\n{}\
             [[collect.heartbeat]]\nname = \"own\"\npath = \"{root}/data/pulse/heartbeat\"\nmax_age = \"3s\"\n{}{policies}",
            socket.display(),
            self.own.url,
            pace("http"),
            pace("sql"),
            pace("heartbeat"),
        )
    }

    // -- the host's process

    pub fn process_ends(&mut self) {
        self.process.take().unwrap().kill();
    }

    pub fn process_begins(&mut self) {
        self.process = Some(Process::start(self.root()));
    }

    // -- the host's API

    /// What its `/status` says at a pointer; it must stand there already.
    pub fn status_says(&self, pointer: &str, value: Value) {
        let mut status: Value = serde_json::from_str(&self.status_page).unwrap();
        *status.pointer_mut(pointer).unwrap() = value;
        self.host.api.json("/status", status);
    }

    pub fn status(&self, say: Say) {
        self.host.api.say("/status", say);
    }

    pub fn status_is_well_again(&mut self) {
        self.status(Say::Json(self.status_page.clone()));
    }

    // -- files

    pub fn mode(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    /// Takes it away; `comes_back` brings it.
    pub fn goes(&self, name: &str) {
        fs::rename(self.path(name), aside(&self.path(name))).unwrap();
    }

    pub fn comes_back(&self, name: &str) {
        let path = self.path(name);
        // What was put in its place.
        let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        fs::rename(aside(&path), path).unwrap();
    }

    /// In its place stands this.
    pub fn becomes(&self, name: &str, content: &[u8]) {
        self.goes(name);
        fs::write(self.path(name), content).unwrap();
    }

    pub fn becomes_folder(&self, name: &str) {
        self.goes(name);
        fs::create_dir(self.path(name)).unwrap();
    }

    /// Whoever opens it waits for a writer who never comes.
    pub fn becomes_pipe(&self, name: &str) {
        self.goes(name);
        assert!(Command::new("mkfifo").arg(self.path(name)).status().unwrap().success());
    }

    /// Whoever waits gets an empty file first.
    pub fn pipe_comes_back(&self, name: &str) {
        let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
        let mut options = File::options();
        std::os::unix::fs::OpenOptionsExt::custom_flags(options.write(true), flags);
        let _ = options.open(self.path(name)); // refused if nobody waits
        self.comes_back(name);
    }

    // -- the database

    /// For a writer that has written this; of one that has written nothing nobody need know.
    pub fn lock(&mut self, database: &str, sql: &str) {
        let writer = Connection::open(self.path(database)).unwrap();
        writer.busy_timeout(PATIENCE).unwrap();
        writer.execute_batch(&format!("BEGIN EXCLUSIVE; {sql}")).unwrap();
        self.lock = Some(writer);
    }

    pub fn unlock(&mut self) {
        self.lock.take().unwrap().execute_batch("ROLLBACK").unwrap();
    }

    pub fn own_sql(&self, sql: &str) {
        let database = Connection::open(self.path("data/own.db")).unwrap();
        database.busy_timeout(PATIENCE).unwrap();
        database.execute_batch(sql).unwrap();
    }

    /// A table of this name is there no more, and then again.
    pub fn loses_table(&self, name: &str) {
        self.host.sql(&format!("ALTER TABLE {name} RENAME TO {name}_lost"));
    }

    pub fn finds_table(&self, name: &str) {
        self.host.sql(&format!("ALTER TABLE {name}_lost RENAME TO {name}"));
    }

    // -- workers

    /// It does nothing until its input ends, which is with the test.
    pub fn worker(&mut self) {
        let mut worker = Command::new(self.path("data").join(&self.worker));
        worker.args(["-c", "read x"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        self.workers.push(worker.spawn().unwrap());
    }

    pub fn corpse(&mut self) {
        self.worker();
        self.workers.last_mut().unwrap().kill().unwrap();
    }

    pub fn no_workers(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
        self.workers.clear();
    }

    // -- containers

    /// The engine says this to everybody.
    pub fn engine_says(&self, body: &'static str) {
        self.docker.answer_with(move |_| Some((200, body.to_owned())));
    }

    pub fn engine_is_well(&self) {
        self.docker.have(containers());
    }

    pub fn engine_is_gone(&self) {
        fs::rename(self.docker.socket(), aside(&self.docker.socket())).unwrap();
    }

    pub fn engine_is_back(&self) {
        fs::rename(aside(&self.docker.socket()), self.docker.socket()).unwrap();
    }

    /// The real one, and what ran in it.
    pub fn engine_begins(&mut self) {
        let engine = self.engine.as_mut().unwrap();
        engine.start_again();
        engine.docker(&format!("start {WEB}"));
    }

    pub fn engine_mode(&self, mode: u32) {
        fs::set_permissions(self.docker.socket(), Permissions::from_mode(mode)).unwrap();
    }

    /// An MCP server does not answer its health check.
    pub fn server_is_ill(&self) {
        let ill = json!({"Status": "Up 5 minutes (unhealthy)", "State": {"Health": {"Status": "unhealthy"}}});
        self.docker.have(vec![container(WEB, "web:1", ill)]);
    }

    /// Its container has ended.
    pub fn server_ends(&self) {
        let ended = json!({"Status": "Exited (1) 2 seconds ago", "State": {"Status": "exited", "ExitCode": 1,
            "FinishedAt": "2026-11-21T19:58:00Z"}});
        self.docker.have(vec![container(WEB, "web:1", ended)]);
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.no_workers();
    }
}

const QUICK: &str = "interval = \"1s\"\ntimeout = \"2s\"\n";
/// The container of an MCP server.
const WEB: &str = "pynchy-mcp-web_0a1b2c";
pub const TIMEOUT: Duration = Duration::from_secs(2);
/// On a busy machine they are late at times, and must not be called down for it.
const PACE: &str = "interval = \"2s\"\ntimeout = \"8s\"\n";
/// Of which each entry has its own pace.
const LISTED: [&str; 3] = ["http", "sql", "heartbeat"];
const OWN: &str = "CREATE TABLE jobs (state TEXT); INSERT INTO jobs VALUES ('open'), ('done')";
const GATEWAY: [&str; 5] = ["/health/liveliness", "/health/readiness", "/v1/models", "/model/info", "/health"];

/// What may be bad for longer than this keeps that: nobody breaks what those checks are about.
const SLOW: Duration = Duration::from_secs(30 * 60);

fn checks() -> impl Iterator<Item = &'static Check> {
    pulse::CHECKS.iter().chain(collect::ALL.iter().flat_map(|one| one.checks)).filter(|check| check.fail_for <= SLOW)
}

/// How long a check must be bad here, in seconds.
pub fn fail_for(check: &str) -> u64 {
    let check = checks().find(|one| one.name == check).unwrap_or_else(|| panic!("no check {check}"));
    (check.fail_for / 60 * MINUTE.as_secs() as u32).min(MINUTE * 5).as_secs()
}

/// Silence of so many seconds fails.
pub const UNKNOWN_FOR: u64 = MINUTE.as_secs() * 5;
/// The share of bad looks is taken of so many seconds.
pub const RATIO_WINDOW: u64 = MINUTE.as_secs() * 10;

fn policy(check: &str, fail_for: u64) -> String {
    format!(
        "[checks.{check}]\nfail_for = \"{fail_for}s\"\nrecover_for = \"{}s\"\nunknown_for = \"{UNKNOWN_FOR}s\"\n\
         ratio_window = \"{RATIO_WINDOW}s\"\n",
        MINUTE.as_secs()
    )
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".aside");
    name.into()
}

fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, Permissions::from_mode(0o755)).unwrap();
}

/// What it says at these paths.
fn said(api: &Api, paths: &[&str]) -> Value {
    let one = |path: &&str| api.try_said(path).map(|said| ((*path).to_owned(), serde_json::from_str(&said).unwrap()));
    Value::Object(paths.iter().filter_map(one).collect())
}

fn containers() -> Vec<Value> {
    vec![container(WEB, "web:1", json!({}))]
}
