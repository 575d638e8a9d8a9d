//! Collectors run once, in the test, on the fixture's host.

use std::path::PathBuf;
use std::time::Duration;

use agenthost_exporter::collect::Subsystem;
use agenthost_exporter::host::Host;
use agenthost_exporter::sample::{Now, Sample};
use agenthost_exporter::source::Sources;
use agenthost_exporter::source::cgroup::Cgroups;
use agenthost_exporter::source::docker::Docker;
use agenthost_exporter::source::process::proc::Proc;
use serde_json::{Value, json};

use crate::api::Api;
use crate::fake_docker::{Fake, container};
use crate::fixture::{Root, host_in};

impl Root {
    /// Its API answers, and is well.
    pub fn host(&self) -> Host {
        host_in(self.path(), &Api::healthy().url)
    }

    /// One run of a collector at that moment, with its default configuration; workers are told what to look for, and see
    /// a `/proc` of their own.
    pub fn run(&self, subsystem: &Subsystem, now: Now) -> anyhow::Result<Sample> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let presets = toml::de::DeTable::parse("presets = [\"pi\", \"mcp\"]\nmax_rss = 100000000\n")?;
        let build = (subsystem.plan)((subsystem.name == "workers").then_some(presets))?;
        let engine = Fake::with(containers());
        let sources = Sources {
            docker: Docker::at(engine.socket()),
            cgroups: Cgroups::at("/nonexistent", "/nonexistent"),
            proc: Proc::at(&self.processes(now)?),
            ..Sources::default()
        };
        let mut collector = build(&self.host(), &sources)?.expect("a pynchy host has it");
        collector.run(now, Duration::from_secs(10), runtime.handle())
    }

    /// The host with a worker that runs a tool, one that nobody reaped, and one whose host is gone.
    fn processes(&self, now: Now) -> std::io::Result<PathBuf> {
        let folder = self.path().join("data/proc");
        if folder.exists() {
            return Ok(folder);
        }
        let started = now.mono.as_secs().saturating_sub(600) * 100;
        let boot = now.wall.as_second() - now.mono.as_secs() as i64;
        for (pid, parent, comm, state, pages) in [
            (1, 0, "init", 'S', 2000),
            (10, 1, "pynchy", 'S', 20000),
            (20, 10, "pi", 'S', 30000),
            (21, 20, "bash", 'R', 1000),
            (30, 10, "pi", 'Z', 0),
            (40, 1, "pi", 'S', 20000),
        ] {
            let own = folder.join(pid.to_string());
            std::fs::create_dir_all(own.join("fd"))?;
            // Of a corpse all threads but the first are gone.
            let threads = if state == 'Z' { 1 } else { 11 };
            let stat = format!(
                "{pid} ({comm}) {state} {parent} 1 1 0 -1 0 0 0 0 0 40 10 0 0 20 0 {threads} 0 {started} 1 {pages}"
            );
            std::fs::write(own.join("stat"), stat)?;
            std::fs::write(own.join("cmdline"), comm)?;
            std::fs::write(own.join("status"), format!("NSpid:\t{pid}\n"))?;
            std::fs::write(own.join("io"), "rchar: 1\nwchar: 1\nread_bytes: 4096\nwrite_bytes: 8192\n")?;
            let cwd = if comm == "pynchy" { self.path().canonicalize()? } else { "/srv/project".into() };
            std::os::unix::fs::symlink(cwd, own.join("cwd"))?;
        }
        std::fs::write(folder.join("stat"), format!("btime {boot}\n"))?;
        Ok(folder)
    }
}

/// An agent at work, one that was killed for memory, the gateway, and an MCP server that is down.
fn containers() -> Vec<Value> {
    let agent = |name, more| container(name, "pynchy-agent:latest", more);
    let killed = json!({"Status": "Exited (137) 2 hours ago", "State": {"Status": "exited", "ExitCode": 137,
        "OOMKilled": true, "FinishedAt": "2026-11-21T19:58:00Z"}});
    let looping = json!({"Status": "Restarting (1) 5 minutes ago", "RestartCount": 12, "State": {
        "Status": "restarting", "ExitCode": 1, "FinishedAt": "2026-11-21T19:59:00Z"}});
    vec![
        agent("pynchy-admin-1", json!({})),
        agent("pynchy-family-1795307730123", killed),
        container("pynchy-litellm", "litellm:1", json!({"State": {"Health": {"Status": "healthy"}}})),
        container("pynchy-mcp-web_0a1b2c", "web:1", looping),
        container("somebody-elses", "postgres:16", json!({})),
    ]
}
