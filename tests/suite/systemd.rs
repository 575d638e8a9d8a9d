//! The units, by systemd's own word, and what the program tells the manager that has started it.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};

use crate::api::Api;
use crate::binary::{FAST, Sidecar, exporter};
use crate::fixture::Root;

const PATIENCE: Duration = Duration::from_secs(120);

fn unit(name: &str) -> String {
    fs::read_to_string(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd").join(name)).unwrap()
}

fn analyze(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(error) => {
            crate::skipped("what systemd says of the units", &format!("systemd-analyze: {error} (Debian: systemd)"));
            None
        }
    }
}

/// Its exit code lies: a line on standard error is a fault.
#[test]
fn systemd_has_nothing_to_say_of_the_units() {
    for (name, program, user) in [
        ("agenthost-exporter.service", "/usr/bin/agenthost-exporter", false),
        ("user/agenthost-exporter.service", "%h/.local/bin/agenthost-exporter", true),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let unit = unit(name);
        assert!(unit.contains(&format!("ExecStart={program} ")), "{name}");
        // It looks whether there is such a program.
        let unit = unit.replace(program, env!("CARGO_BIN_EXE_agenthost-exporter"));
        let file = folder.path().join("agenthost-exporter.service");
        fs::write(&file, unit).unwrap();
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no"]).args(user.then_some("--user")).arg(&file);
        let Some(output) = analyze(command.env("XDG_RUNTIME_DIR", folder.path())) else { return };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{name}: {said}");
        if !user {
            let mut command = Command::new("systemd-analyze");
            command.args(["security", "--offline=true", "--threshold=20"]).arg(&file);
            let output = analyze(&mut command).unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        }
    }
}

#[test]
fn the_units_do_not_blind_the_sidecar() {
    for name in ["agenthost-exporter.service", "user/agenthost-exporter.service"] {
        let unit = unit(name);
        let set = |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        for key in ["ProtectProc", "ProcSubset", "PrivateTmp", "PrivateUsers", "PrivateNetwork", "IPAddressDeny"] {
            assert_eq!(set(key), None, "{name}: {key}");
        }
        assert_ne!(set("ProtectHome"), Some("yes"), "{name}");
        assert_eq!(set("Type"), Some("notify"), "{name}");
        assert_eq!(set("Restart"), Some("always"), "{name}");
    }
}

/// A manager's socket.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Manager {
        let folder = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(folder.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager { socket, folder }
    }

    fn next(&self) -> String {
        let mut some = [0; 4096];
        let length = self.socket.recv(&mut some).expect("nothing more is told");
        String::from_utf8(some[..length].to_vec()).unwrap()
    }

    fn until(&self, what: &str) -> String {
        let begun = Instant::now();
        loop {
            let said = self.next();
            if said.lines().any(|line| line.starts_with(what)) {
                return said;
            }
            assert!(begun.elapsed() < PATIENCE, "never: {what}");
        }
    }
}

#[test]
fn the_manager_is_told_of_readiness_state_reload_and_end() {
    let (manager, root, api) = (Manager::new(), Root::with_history(Timestamp::now()), Api::healthy());
    let config = root.path().join("exporter.toml");
    fs::write(&config, format!("{FAST}[host]\nurl = \"{}\"\n", api.url)).unwrap();
    let mut command = exporter();
    command.env("NOTIFY_SOCKET", manager.folder.path().join("notify")).env("WATCHDOG_USEC", "4000000");
    let mut sidecar = Sidecar::spawn_by(command, &config, [format!("--host.root={}", root.path().display())]);

    manager.until("READY=1");
    let looked = |status: &serde_json::Value| {
        status["collectors"].as_object().unwrap().values().all(|collector| !collector["duration_seconds"].is_null())
    };
    assert!(looked(&sidecar.status()), "ready before all has been looked at");
    manager.until("WATCHDOG=1");
    let status = manager.until("STATUS=");
    assert!(status.contains("ready; failed checks: "), "{status}");

    kill_process(Pid::from_child(&sidecar.child), Signal::HUP).unwrap();
    let said = manager.until("RELOADING=1");
    assert!(said.lines().any(|line| line.starts_with("MONOTONIC_USEC=")), "{said}");
    manager.until("READY=1");

    // A refused reload ends too, or systemd would wait for it.
    fs::write(&config, "[web]\nlisten = []\n").unwrap();
    manager.until("RELOADING=1");
    manager.until("READY=1");
    assert!(sidecar.terminate().success());
    manager.until("STOPPING=1");
}

/// Sockets of datagrams hold a few and then make their senders wait.
#[test]
fn a_manager_that_does_not_listen_holds_up_nobody() {
    let (manager, root) = (Manager::new(), Root::with_history(Timestamp::now()));
    let config = root.path().join("exporter.toml");
    fs::write(&config, FAST).unwrap();
    let mut command = exporter();
    command.env("NOTIFY_SOCKET", manager.folder.path().join("notify")).env("WATCHDOG_USEC", "40000");
    let mut sidecar = Sidecar::spawn_by(command, &config, [format!("--host.root={}", root.path().display())]);
    sidecar.until("a look", |status| !status["messages"].is_null());
    std::thread::sleep(Duration::from_secs(2)); // a hundred words, ten of which the socket takes
    assert_eq!(sidecar.get("/livez").0, 200);
    kill_process(Pid::from_child(&sidecar.child), Signal::HUP).unwrap();
    assert!(sidecar.terminate().success());
}
