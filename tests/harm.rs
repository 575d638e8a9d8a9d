//! Do no harm: what the sidecar does to the host that it watches, as git, SQLite, Docker and the kernel see it; and what
//! becomes of the sidecar itself where memory, files, room on a disk or sight of processes are short.
//!
//! Each part prints its figures: `cargo test --test harm -- --nocapture`. `AGENTHOST_TESTS=long` makes them longer.

#[path = "../src/collect/fixture/api.rs"]
mod api;
#[path = "suite/between.rs"]
mod between;
#[path = "suite/dockerd.rs"]
mod dockerd;
#[path = "../src/source/docker/fake.rs"]
mod fake_docker;
#[path = "suite/fixture.rs"]
mod fixture;
#[path = "suite/ground.rs"]
mod ground;

#[path = "harm/docker.rs"]
mod docker;
#[path = "harm/figures.rs"]
mod figures;
#[path = "harm/git.rs"]
mod git;
#[path = "harm/poverty.rs"]
mod poverty;
#[path = "harm/program.rs"]
mod program;
#[path = "harm/sqlite.rs"]
mod sqlite;
#[path = "harm/strace.rs"]
mod strace;
#[path = "harm/whole.rs"]
mod whole;

/// Says that a test could not run, and why. Under `tests/run` that is a failure.
fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}, because {why}");
    assert!(std::env::var_os("AGENTHOST_TESTS").is_none(), "nothing may be skipped here: {what}, because {why}");
}

fn is_long() -> bool {
    std::env::var("AGENTHOST_TESTS").is_ok_and(|kind| kind == "long")
}
