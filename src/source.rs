//! The outside world, read only but for one file of our own. Nothing else in the program touches it, and no type of a
//! source's crate leaves here.

pub mod cgroup;
pub mod docker;
pub mod file;
pub mod git;
pub mod http;
pub mod process;
pub mod record;
pub mod sqlite;
pub mod state;

/// The ways out that collectors share. The seam for tests is a path or a URL in the host, never a trait.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub cgroups: cgroup::Cgroups,
    pub docker: docker::Docker,
    pub http: http::Http,
    pub processes: process::Processes,
}
