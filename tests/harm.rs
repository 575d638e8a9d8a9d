//! Do no harm: what the sidecar does to the host that it watches, as git, SQLite, Docker and the kernel see it; and what
//! becomes of the sidecar itself where memory, files, room on a disk or sight of processes are short.
//!
//! Each part prints its figures: `cargo test --test harm -- --nocapture`. `AGENTHOST_TESTS=long` makes them longer.

#[path = "suite/ground.rs"]
mod ground;

#[path = "harm/figures.rs"]
mod figures;
#[path = "harm/git.rs"]
mod git;
#[path = "harm/program.rs"]
mod program;
#[path = "harm/strace.rs"]
mod strace;

/// Says that a test could not run, and why. Under `tests/run` that is a failure.
fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}, because {why}");
    assert!(std::env::var_os("AGENTHOST_TESTS").is_none(), "nothing may be skipped here: {what}, because {why}");
}

fn is_long() -> bool {
    std::env::var("AGENTHOST_TESTS").is_ok_and(|kind| kind == "long")
}
