//! The heap: kept as small as what is in it.

use std::convert::Infallible;
use std::time::Duration;

use agenthost_exporter::source::return_memory;

/// What a page or a look has taken for a moment is given back so often. Beside 200 000 messages that is 2.5 MB of 7.
const EACH: Duration = Duration::from_secs(60);

/// Gives back what is free, for as long as it is polled.
pub async fn trim() -> Infallible {
    loop {
        tokio::time::sleep(EACH).await;
        let _ = tokio::task::spawn_blocking(return_memory).await; // what panics in there has been told
    }
}

/// Threads that come and go would each leave a heap behind: 3.5 MB beside a database of 200 000 messages.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn one() {
    use std::ffi::c_int;
    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }
    const M_ARENA_MAX: c_int = -8;
    // SAFETY: it sets a number of the allocator's, before there is a second thread.
    unsafe { mallopt(M_ARENA_MAX, 1) };
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn one() {}
