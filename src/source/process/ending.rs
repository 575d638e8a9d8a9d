//! When a process ends, to the moment: by a file descriptor for it (`pidfd`), which whoever sees a process may open, and by
//! which nothing is done to it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::Identity;
use super::proc::Proc;
use crate::sample::Now;

/// The end of a process, awaited until this is dropped.
pub struct Ending {
    lifetime: Arc<OnceLock<Duration>>,
    task: Option<AbortHandle>,
}

impl Ending {
    /// How long it lived, at the most; `None`: it lives, as far as is known.
    pub fn lifetime(&self) -> Option<Duration> {
        self.lifetime.get().copied()
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.task.iter().for_each(AbortHandle::abort);
    }
}

impl Proc {
    /// Waits for the end of this very process for at most so long. `None`: it cannot be awaited, as on an old kernel, or
    /// in a folder that only looks like `/proc`.
    pub fn await_end(&self, identity: Identity, limit: Duration) -> Option<Ending> {
        let runtime = Handle::try_current().ok().filter(|_| self.is_real())?;
        let pid = Pid::from_raw(i32::try_from(identity.pid).ok()?)?;
        let lifetime = Arc::new(OnceLock::new());
        let ended = lifetime.clone();
        // Both are on the clock that counts since boot.
        let end = move || _ = ended.set(Now::read().mono.saturating_sub(identity.started()));
        let file = match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            // What has this pid after it was opened had it before.
            Ok(file) if self.is_there(identity) => file,
            Ok(_) | Err(rustix::io::Errno::SRCH) => {
                end();
                return Some(Ending { lifetime, task: None });
            }
            Err(_) => return None,
        };
        let task = runtime.spawn(async move {
            if let Ok(Some(())) = tokio::time::timeout(limit, readable(file)).await {
                end();
            }
        });
        Some(Ending { lifetime, task: Some(task.abort_handle()) })
    }

    fn is_there(&self, identity: Identity) -> bool {
        self.stat(identity.pid, &mut [0; 4096]).is_ok_and(|stat| stat.identity == identity)
    }
}

/// Such a file is readable once the process has ended, reaped or not. `None`: it cannot be waited for.
#[allow(unsafe_code)]
async fn readable(file: OwnedFd) -> Option<()> {
    // SAFETY: the file is owned, so it is open and the same until what waits for it is dropped.
    let file = unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) };
    file.ok()?.readable().await.ok().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command};

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    fn sleeper() -> (Child, Identity) {
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Proc::default().scan().unwrap().get(child.id()).unwrap().identity;
        (child, identity)
    }

    fn told(ending: &Ending) -> Option<Duration> {
        (0..2000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            ending.lifetime()
        })
    }

    #[test]
    fn an_end_is_told_whether_it_is_reaped_or_not_and_at_once_of_one_that_is_gone() {
        let (runtime, proc) = (runtime(), Proc::default());
        let _entered = runtime.enter();
        let (mut child, identity) = sleeper();
        let ending = proc.await_end(identity, Duration::from_secs(60)).unwrap();
        assert_eq!(ending.lifetime(), None);
        child.kill().unwrap();
        let lifetime = told(&ending).expect("a corpse has ended");
        assert!(lifetime <= Now::read().mono - identity.started(), "{lifetime:?}");
        child.wait().unwrap();
        let late = proc.await_end(identity, Duration::from_secs(60)).unwrap();
        assert!(late.lifetime().unwrap() >= lifetime, "its pid may be another's by now");
    }

    #[test]
    fn nobody_waits_for_longer_than_wanted_nor_in_a_folder_nor_without_a_runtime() {
        let (mut child, identity) = sleeper();
        let proc = Proc::default();
        assert!(proc.await_end(identity, Duration::from_secs(60)).is_none());
        let runtime = runtime();
        let _entered = runtime.enter();
        assert!(Proc::at(std::path::Path::new("/tmp")).await_end(identity, Duration::from_secs(60)).is_none());
        let ending = proc.await_end(identity, Duration::ZERO).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        child.kill().unwrap();
        child.wait().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(ending.lifetime(), None);
    }
}
