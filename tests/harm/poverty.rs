//! The program where there is too little of something: memory, open files, room on a disk, leave to write, sight of processes.
//! It does with less and says so, or ends with one line that says why; it never hangs, and leaves no core.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use agenthost_exporter::collect;
use jiff::Timestamp;
use rusqlite::Connection;
use serde_json::{Value, json};

use crate::api::Api;
use crate::fake_docker::{Fake, container};
use crate::figures::Figures;
use crate::fixture::Root;
use crate::program::{Ended, Program, error, up};
use crate::{is_long, skipped};

const DATABASE: [&str; 5] = ["messages", "usage", "tasks", "host_jobs", "groups"];

/// A host that is well, with everything that a small one has.
struct Lab {
    root: Root,
    api: Api,
    engine: Fake,
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        let containers =
            (0..30).map(|number| container(&format!("pynchy-group{number}"), "pynchy-agent:latest", json!({})));
        let lab = Lab {
            root: Root::with_history(Timestamp::now()).with_repos(),
            api: Api::healthy(),
            engine: Fake::with(containers.collect()),
            folder: tempfile::tempdir().unwrap(),
        };
        for folder in [lab.root.path(), lab.folder.path(), lab.engine.folder()] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        std::fs::set_permissions(lab.engine.socket(), std::fs::Permissions::from_mode(0o666)).unwrap();
        lab
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Everything each second, the gateway aside: this host has none.
    fn config(&self, more: &str) -> PathBuf {
        let apart = ["gateway", "workers"];
        let paced = collect::ALL.iter().filter(|one| !one.listed && !apart.contains(&one.name));
        let paced: String = paced.map(|one| format!("[collect.{}]\ninterval = \"1s\"\n", one.name)).collect();
        let text = format!(
            "{more}\n[host]\nurl = \"{}\"\n[docker]\nsocket = \"{}\"\ncgroups = \"{}\"\n[collect.gateway]\nenabled = false\n\
             [collect.workers]\ninterval = \"1s\"\npresets = [\"pi\"]\n{paced}",
            self.api.url,
            self.engine.socket().display(),
            self.path("cgroups").display(),
        );
        let file = self.path("exporter.toml");
        std::fs::write(&file, text).unwrap();
        file
    }

    /// As version 2 has them, of all containers.
    fn make_cgroups(&self) {
        for number in 0..30 {
            let id: String = format!("pynchy-group{number}").bytes().map(|byte| format!("{byte:02x}")).collect();
            let own = self.path("cgroups").join("docker").join(id);
            std::fs::create_dir_all(&own).unwrap();
            for (name, text) in [
                ("memory.current", "20000000\n"),
                ("memory.stat", "inactive_file 1000\n"),
                ("cpu.stat", "usage_usec 5000000\n"),
                ("memory.events", "oom_kill 0\n"),
            ] {
                std::fs::write(own.join(name), text).unwrap();
            }
        }
        std::fs::write(self.path("cgroups/cgroup.controllers"), "cpu memory\n").unwrap();
    }

    /// Fifty, as the preset knows them.
    fn workers(&self) -> Vec<Worker> {
        let program = self.path("pi");
        std::fs::copy("/bin/sleep", &program).unwrap();
        let start = |_| Worker(Command::new(&program).arg("100000").stdin(Stdio::null()).spawn().unwrap());
        (0..50).map(start).collect()
    }
}

struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The script confines the process that goes on with the words behind it.
fn confined(script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-euc", &format!("{script}\nexec \"$@\""), "sh"]);
    shell
}

/// The same with mounts of its own, which go with it; `None` where there can be none.
fn apart(script: &str) -> Option<Command> {
    let mut unshare = Command::new("unshare");
    unshare.args(["-m", "--propagation", "private", "sh", "-euc"]);
    let tried = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "none", "/mnt"]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        skipped("mounts of its own", "only root may mount, and not everywhere");
        return None;
    }
    unshare.args([&format!("{script}\nexec \"$@\""), "sh"]);
    Some(unshare)
}

/// A command among the mounts of the program.
fn inside(program: &Program, words: &[&str]) {
    let output = Command::new("nsenter").args(["-m", "-t", &program.pid().to_string()]).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn all_up(status: &Value) -> bool {
    status["collectors"].as_object().unwrap().values().all(|one| one["up"] == true)
}

fn is_served(program: &Program) {
    let (code, text) = program.get("/metrics");
    assert!(code == 200 && text.contains("agenthost_collector_up{"), "{code}: {text}");
    assert_eq!(program.get("/livez").0, 200);
}

/// Its last words, if it ended as it should: by itself, with one line of its own.
fn last_words(ended: &Ended) -> String {
    assert!(ended.status.signal().is_none() && !ended.status.core_dumped(), "{ended:?}");
    let own: Vec<_> = ended.said.lines().filter(|line| line.starts_with("agenthost-exporter: ")).collect();
    assert_eq!(own.len(), 1, "{ended:?}");
    own[0].to_owned()
}

/// Whether so little leaves the kernel no room for the program's own file, whatever it does.
fn is_beyond_us(limit: &str) -> bool {
    let mut version = confined(limit);
    version.arg(env!("CARGO_BIN_EXE_agenthost-exporter")).arg("--version").stdin(Stdio::null());
    !version.output().unwrap().status.success()
}

#[test]
fn with_too_little_memory_it_ends_with_one_line() {
    let lab = Lab::new();
    let config = lab.config("");
    let mut figures = Figures::of("memory that the program may address (ulimit -v)");
    // What a build takes hangs on how it is built: so from much to little, until it cannot so much as begin.
    let mut well = None;
    let mut ends = 0;
    for mib in [256, 128, 96, 80, 64, 56, 48, 40, 32, 24, 16, 12, 8] {
        let limit = format!("ulimit -c 0; ulimit -v {}", mib * 1024);
        if is_beyond_us(&limit) {
            figures.say(format!("{mib} MiB"), "no room for its own file");
            break;
        }
        let told = match Program::try_start(confined(&limit), lab.root.path(), &config) {
            Ok(program) => match program.try_until(all_up) {
                // What there is may do for all looks, and not for a page.
                Ok(_) | Err(Some(_)) if program.ends("/metrics") || program.ends("/livez") => {
                    ends += 1;
                    last_words(&program.ended())
                }
                Ok(_) => {
                    well = Some(mib);
                    "sees everything".to_owned()
                }
                Err(Some(status)) => {
                    let collectors = status["collectors"].as_object().unwrap();
                    let down = collectors.iter().filter(|(_, one)| one["up"] != true);
                    let down: Vec<_> = down.map(|(name, one)| format!("{name}: {}", one["error"])).collect();
                    assert!(down.iter().all(|told| !told.ends_with(": null")), "it does not say why: {down:?}");
                    format!("serves, and says what it does not see: {}", down.join("; "))
                }
                Err(None) => {
                    ends += 1;
                    last_words(&program.ended())
                }
            },
            Err(ended) => {
                ends += 1;
                last_words(&ended)
            }
        };
        figures.say(format!("{mib} MiB"), told);
    }
    assert!(well.is_some_and(|mib| mib <= 128) && ends > 0, "{well:?} {ends}");
}

#[test]
fn with_few_files_it_sees_fifty_workers_thirty_containers_and_a_hundred_clients() {
    let lab = Lab::new();
    lab.make_cgroups();
    let _workers = lab.workers();
    let config = lab.config("");
    let mut figures = Figures::of(
        "files that the program may have open (RLIMIT_NOFILE), with 50 workers, 30 containers, 100 clients",
    );
    let sees = |status: &Value| {
        let workers = status["workers"]["processes"].as_array().map_or(0, Vec::len);
        let containers = status["containers"]["containers"].as_array().cloned().unwrap_or_default();
        let known = containers.iter().filter(|one| one["memory_bytes"] == 19_999_000).count();
        (workers, known, all_up(status))
    };
    let program = Program::start(confined("ulimit -n 64"), lab.root.path(), &config);
    let whole = program.until("everything", |status| sees(status) == (50, 30, true));
    let clients: Vec<TcpStream> = (0..100)
        .map(|_| {
            let mut client = TcpStream::connect(program.address).unwrap();
            let _ = client.write_all(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n");
            client
        })
        .collect();
    let before = whole["collectors"]["workers"]["last_success_at"].clone();
    let status = program.until("everything, anew", |status| {
        status["collectors"]["workers"]["last_success_at"] != before && sees(status) == (50, 30, true)
    });
    is_served(&program);
    let open = std::fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count();
    figures.say("64: sees workers, containers with their memory, everything", format!("{:?}", sees(&status)));
    figures.say("64: of them open with the clients there", open);
    drop(clients);
    drop(program);

    // So few that it must do without something: it says without what, or ends and says why.
    let few: &[u32] = if is_long() { &[40, 32, 28, 24, 20, 16, 12, 8] } else { &[32, 16, 8] };
    for files in few {
        let told = match Program::try_start(confined(&format!("ulimit -n {files}")), lab.root.path(), &config) {
            Err(ended) => last_words(&ended),
            Ok(program) => match program.try_until(|status| sees(status) == (50, 30, true)) {
                Ok(_) => "sees everything".to_owned(),
                Err(None) => last_words(&program.ended()),
                Err(Some(status)) => {
                    is_served(&program);
                    let collectors = status["collectors"].as_object().unwrap();
                    let down: Vec<_> = collectors.iter().filter(|(_, one)| one["up"] != true).collect();
                    let silent = down.iter().filter(|(_, one)| !one["error"].is_string()).count();
                    assert_eq!(silent, 0, "{down:#?}");
                    let names: Vec<_> = down.iter().map(|(name, _)| name.as_str()).collect();
                    format!("{:?}; serves without {}", sees(&status), names.join(", "))
                }
            },
        };
        figures.say(format!("{files}"), told);
    }
}

#[test]
fn on_a_full_disk_with_the_hosts_folder_on_it_too_it_reads_on_and_keeps_its_verdicts_when_there_is_room() {
    let lab = Lab::new();
    let disk = lab.path("disk");
    std::fs::create_dir(&disk).unwrap();
    let (at, host) = (disk.display(), lab.root.path().display());
    let script = format!(
        "mount -t tmpfs -o size=8m none '{at}'; cp -a '{host}' '{at}/host'; cat /dev/zero >'{at}/fill' 2>/dev/null || true"
    );
    let Some(command) = apart(&script) else { return };
    let config = lab.config(&format!("[state]\npath = \"{at}/state.db\""));
    let program = Program::start(command, &disk.join("host"), &config);
    let status = program.until("everything", all_up);
    assert_eq!(status["health"]["ready"], true, "{:#}", status["health"]);
    is_served(&program);
    program.until_said("verdicts are not kept");
    inside(&program, &["rm", &format!("{at}/fill")]);
    // What is worth keeping happens.
    lab.api.json("/status", json!({"channels": {"connection.slack.acme": false}, "queue": {}}));
    program.until_said("verdicts are kept again");
    assert_eq!(program.said().matches("verdicts are not kept").count(), 1, "{}", program.said());
}

#[test]
fn on_a_read_only_file_system_it_reads_in_both_modes_and_says_that_nothing_is_kept() {
    for mode in ["delete", "wal", "wal, closed", "wal without -shm"] {
        let lab = Lab::new();
        let writer = Connection::open(lab.root.database()).unwrap();
        let journal = if mode == "delete" { mode } else { "wal" };
        writer.query_row(&format!("PRAGMA journal_mode = {journal}"), [], |_| Ok(())).unwrap();
        writer.execute_batch("UPDATE sessions SET session_id = 'new' WHERE group_folder = 'admin-1'").unwrap();
        let held = match mode {
            "wal, closed" => None,
            "wal without -shm" => {
                // As from a copy, or a host of another kernel: nobody has the file open.
                let (database, wal) = (lab.root.database(), lab.root.database().with_extension("db-wal"));
                let kept = [&database, &wal].map(|file| std::fs::read(file).unwrap());
                drop(writer);
                std::fs::write(database, &kept[0]).unwrap();
                std::fs::write(wal, &kept[1]).unwrap();
                None
            }
            _ => Some(writer),
        };
        let root = lab.root.path();
        let at = root.display();
        let Some(command) = apart(&format!("mount --bind '{at}' '{at}'; mount -o remount,bind,ro '{at}'")) else {
            return;
        };
        let config = lab.config(&format!("[state]\npath = \"{at}/state.db\""));
        let program = Program::start(command, root, &config);
        match mode {
            "wal without -shm" => {
                let status = program.until("all looked", |status| {
                    DATABASE.iter().all(|name| status["collectors"][name]["up"] == false) && up(status, "repos")
                });
                for name in DATABASE {
                    assert!(error(&status, name).contains("without a -shm"), "{name}: {}", error(&status, name));
                }
            }
            _ => {
                let status = program.until(mode, all_up);
                assert_eq!(status["groups"]["total"], 3, "{mode}");
                assert_eq!(status["health"]["ready"], true);
            }
        }
        is_served(&program);
        program.until_said("verdicts are not kept");
        inside(&program, &["mount", "-o", "remount,bind,rw", &at.to_string()]);
        lab.api.json("/status", json!({"channels": {"connection.slack.acme": false}, "queue": {}}));
        program.until_said("verdicts are kept again");
        drop(held);
    }
}

#[test]
fn without_proc_it_says_what_it_cannot_see_and_sees_it_when_it_is_back() {
    let lab = Lab::new();
    let Some(command) = apart("mount -t tmpfs none /proc") else { return };
    let program = Program::start(command, lab.root.path(), &lab.config(""));
    let status = program.until("all looked", |status| {
        status["collectors"].as_object().unwrap().values().all(|one| one["up"].is_boolean())
    });
    let mut figures = Figures::of("the program without /proc");
    for (name, one) in status["collectors"].as_object().unwrap() {
        if one["up"] != true || one["access"] != "full" {
            figures.say(name, format!("up {}, access {}, error {}", one["up"], one["access"], one["error"]));
        }
    }
    for name in DATABASE {
        assert!(up(&status, name), "{name}");
    }
    assert!(!up(&status, "workers") && error(&status, "workers").contains("/proc"), "{}", error(&status, "workers"));
    assert_eq!(status["service"]["process"], "unseen", "{:#}", status["service"]);
    assert_eq!(status["workers"], Value::Null);
    assert_eq!(status["health"]["ready"], true, "its API answers: {:#}", status["health"]);
    is_served(&program);
    inside(&program, &["umount", "/proc"]);
    program.until("it is back", |status| up(status, "workers") && up(status, "service"));
}

#[test]
fn where_processes_of_others_are_hidden_it_says_so() {
    let lab = Lab::new();
    let _workers = lab.workers();
    // A mount of its own: the machine's stays as it is.
    let script =
        "mount -t proc -o hidepid=2 none /proc; set -- setpriv --reuid=65534 --regid=65534 --clear-groups \"$@\"";
    let Some(command) = apart(script) else { return };
    let copy = lab.path("exporter");
    // Not by us: a child of another test could hold it open.
    let copied = Command::new("cp").arg(env!("CARGO_BIN_EXE_agenthost-exporter")).arg(&copy).status().unwrap();
    assert!(copied.success());
    let config = lab.config("");
    let program = Program::try_start_as(command, &copy, lab.root.path(), &config).unwrap();
    let status = program.until("it looked", |status| up(status, "workers"));
    assert_eq!(status["workers"]["processes"], json!([]));
    assert!(status["workers"]["limits"].to_string().contains("hidepid"), "{:#}", status["workers"]);
    assert_ne!(status["collectors"]["workers"]["access"], "full", "{:#}", status["collectors"]["workers"]);
    is_served(&program);
}
