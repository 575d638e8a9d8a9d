//! What it costs, beside something that anyone can judge, in one run: `cargo bench`. Prints figures, asserts nothing.
//!
//! `cargo bench -- encode` runs one part: encode, health, state, database, git, docker, hung, workers, doors, process,
//! stack. What was measured beside something else stands in one table at the end.

use std::hint::black_box;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use agenthost_exporter::collect::{self, Collect, Subsystem};
use agenthost_exporter::fact::{Check, Fact};
use agenthost_exporter::health::{Health, Kept, Settings, Texts, Watched};
use agenthost_exporter::host::{self, Profile};
use agenthost_exporter::sample::{Now, Point, Points, Reading, Sample};
use agenthost_exporter::show::{metrics, status};
use agenthost_exporter::snapshot::{Current, River, Seen, Sidecar, Snapshot, catalogue};
use agenthost_exporter::source::cgroup::Cgroups;
use agenthost_exporter::source::docker::Docker;
use agenthost_exporter::source::{Sources, state};
use rusqlite::Connection;
use serde_json::value::RawValue;

#[path = "../../src/collect/fixture/api.rs"]
mod api;
#[path = "../../tests/suite/dockerd.rs"]
mod dockerd;
#[path = "../../src/source/docker/fake.rs"]
mod fake_docker;

mod computed;
mod database;
mod docker;
mod git;
mod served;
mod stack;
mod table;
mod workers;

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    if wanted.first().is_some_and(|arg| arg == "bare-server") {
        return served::bare_server(&wanted[1]);
    }
    let parts: [(&str, fn()); 11] = [
        ("encode", computed::encode),
        ("health", computed::health),
        ("state", computed::state),
        ("database", database::database),
        ("git", git::git),
        ("docker", docker::docker),
        ("hung", docker::hung),
        ("workers", workers::workers),
        ("doors", served::doors),
        ("process", served::process),
        ("stack", stack::stack),
    ];
    for (name, part) in parts {
        if wanted.is_empty() || wanted.iter().any(|wanted| wanted == name) {
            println!("\n== {name}");
            part();
        }
    }
    full_or(table::print as fn(), || println!("\nall of it in small: these figures mean nothing"))();
}

/// What is measured by `cargo bench`; `cargo test --bench river` runs the same in small, only to see that it runs.
fn full_or<T>(full: T, small: T) -> T {
    if std::env::args().any(|arg| arg == "--bench") { full } else { small }
}

/// The fastest of several runs, in microseconds.
fn best(times: usize, mut run: impl FnMut()) -> f64 {
    (0..times).map(|_| timed(&mut run).as_secs_f64() * 1e6).fold(f64::INFINITY, f64::min)
}

fn timed(run: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    run();
    begun.elapsed()
}

fn say(what: &str, value: f64, unit: &str) {
    println!("{what:<64} {value:>12.3} {unit}");
}
fn build(subsystem: &Subsystem, root: &Path) -> Box<dyn Collect> {
    let sources = Sources::default();
    let config = host::Config { root: Some(root.to_owned()), ..host::Config::default() };
    let host = host::find(&config, &sources.processes, Path::new("/")).expect("a root");
    let build = (subsystem.plan)(None).expect("defaults");
    build(&host, &sources).expect("a collector").expect("a pynchy host has it")
}

/// CPU seconds of one of several runs of a command.
fn cpu_of_children(times: usize, mut run: impl FnMut()) -> f64 {
    let of_children = || {
        let stat = std::fs::read_to_string("/proc/self/stat").expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
        [13, 14].iter().map(|&field| fields[field].parse::<f64>().expect("a number")).sum::<f64>() / 100.0
    };
    let before = of_children();
    (0..times).for_each(|_| run());
    (of_children() - before) / times as f64
}

/// CPU seconds of the thread that asks, to the nanosecond: a look is shorter than a tick.
fn cpu_of_this_thread() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("a thread");
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).expect("a number") / 1e9
}

struct Ended(Child);

impl Ended {
    /// It has not ended, as one does whose port an earlier run still has: what is measured is this one.
    fn runs(&mut self) {
        let ended = self.0.try_wait().expect("a child");
        assert_eq!(ended, None, "it has ended: is its port taken, by what an earlier run left?");
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().map(|&field| fields[field].parse::<f64>().expect("a number")).sum();
    ticks / 100.0
}

fn resident(pid: u32) -> u64 {
    memory_of(pid, "VmRSS:")
}

/// Bytes of one kind.
fn memory_of(pid: u32, kind: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(kind)).expect("it has memory");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}
