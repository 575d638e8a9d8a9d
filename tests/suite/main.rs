//! One binary for all integration tests: linking it costs more than running most of them.

mod alerts;
#[path = "../../src/collect/fixture/api.rs"]
mod api;
mod asking;
mod between;
mod binary;
mod boot;
mod browser;
mod compose;
mod config;
mod contract;
mod dashboards;
mod doors;
mod docker;
mod dockerd;
mod door;
#[path = "../../src/source/docker/fake.rs"]
mod fake_docker;
mod examined;
mod fixture;
mod fuzz;
mod gateway;
mod git;
mod ground;
mod kubernetes;
mod image;
mod live;
mod locks;
mod looks;
mod oracle;
mod outputs;
mod page;
mod paging;
mod policy;
mod probes;
mod profile;
mod push;
mod reload;
mod replay;
mod shape;
mod sidecar;
mod stage;
mod survives;
mod systemd;
mod verdicts;
mod workers;

/// Says that a test could not run, and why. Under `tests/run` that is a failure.
fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}, because {why}");
    assert!(std::env::var_os("AGENTHOST_TESTS").is_none(), "nothing may be skipped here: {what}, because {why}");
}

/// A program of Prometheus 3, where `tests/run` has put it; it says so itself where it can have none.
fn prometheus3(program: &str) -> Option<std::path::PathBuf> {
    match std::env::var_os("AGENTHOST_PROMETHEUS3") {
        Some(folder) if !folder.is_empty() => Some(std::path::Path::new(&folder).join(program)),
        Some(_) => {
            eprintln!("SKIPPED: {program} of Prometheus 3, because tests/run could not build it");
            None
        }
        None => {
            skipped("Prometheus 3", "AGENTHOST_PROMETHEUS3 names no folder in which tests/run has built it");
            None
        }
    }
}
