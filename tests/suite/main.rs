//! One binary for all integration tests: linking it costs more than running most of them.

mod binary;
mod config;
mod fixture;
mod gateway;
mod git;
mod oracle;
mod outputs;
mod policy;
mod probes;
mod replay;
mod shape;
mod stage;
mod survives;
mod verdicts;

/// Says that a test could not run, and why. Under `tests/run` that is a failure.
fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}, because {why}");
    assert!(std::env::var_os("AGENTHOST_TESTS").is_none(), "nothing may be skipped here: {what}, because {why}");
}
