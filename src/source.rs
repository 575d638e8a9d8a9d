//! The outside world, read only but for files of our own. Nothing else in the program touches it, and no type of a
//! source's crate leaves here.

pub mod boot;
pub mod cgroup;
pub mod budget;
pub mod docker;
pub mod file;
pub mod git;
pub mod http;
pub mod key;
pub mod otlp;
pub mod process;
pub mod record;
pub mod rights;
pub mod sqlite;
pub mod state;
pub mod units;

/// The ways out that collectors share. The seam for tests is a path or a URL in the host, never a trait.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    pub boot: boot::Boot,
    pub cgroups: cgroup::Cgroups,
    pub docker: docker::Docker,
    pub http: http::Http,
    pub processes: process::Processes,
    pub proc: process::proc::Proc,
    /// What was spent on paid questions; `None` without a state file, beside which it is kept.
    pub ledger: Option<budget::Ledger>,
    /// How our own pushes go.
    pub pushes: otlp::Pushes,
}

/// Gives back to the system what was taken for a while, as for a large tree: the allocator would keep it.
#[allow(unsafe_code)]
pub fn return_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: it takes any number, may be called at any time from any thread, and frees nothing that is in use.
        unsafe { malloc_trim(0) };
    }
}

/// Says that a test could not run for want of something that can be installed. Under `tests/run` that is a failure.
#[cfg(test)]
pub fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED: {what}, because {why}");
    assert!(std::env::var_os("AGENTHOST_TESTS").is_none(), "nothing may be skipped here: {what}, because {why}");
}
