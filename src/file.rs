//! Configuration files, watched: an editor saves one, a ConfigMap swaps the link that leads to one, a certificate is
//! renewed, or the host is given another configuration of its own.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agenthost_exporter::config::DEFAULT_FILE;
use tokio::task::JoinHandle;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What tells one content from the next, followed through links: device, inode, size and time of change.
type Stamp = (u64, u64, u64, i64, i64);

/// One that is not there has no stamp.
type Stamps = BTreeMap<PathBuf, Stamp>;

pub struct Watched {
    /// The named file, else the default one, whether or not it exists yet.
    own: PathBuf,
    paths: Vec<PathBuf>,
    /// As they were when the configuration was read last.
    known: Stamps,
    looks: Looks<Stamps>,
    every: Duration,
}

/// Looks at a disk that may hang, each on a thread of its own.
struct Looks<T> {
    /// The latest one: while it hangs there is no other, or the threads would add up.
    under_way: Option<JoinHandle<T>>,
}

impl Watched {
    pub fn new(file: Option<&Path>) -> Watched {
        let own = file.unwrap_or(Path::new(DEFAULT_FILE)).to_owned();
        Watched {
            known: stamps(std::slice::from_ref(&own)),
            paths: vec![own.clone()],
            own,
            looks: Looks { under_way: None },
            every: LOOK_EVERY,
        }
    }

    /// Beside the own file watches these too, as they are now.
    pub async fn add(&mut self, others: Vec<PathBuf>) {
        let known = std::mem::take(&mut self.known);
        self.mark(others).await;
        self.known.extend(known);
    }

    /// Beside the own file watches these; to be called before they are read.
    pub async fn mark(&mut self, others: Vec<PathBuf>) {
        self.paths = [vec![self.own.clone()], others].concat();
        // What could not be looked at counts as new once it can be, and is read again.
        self.known = self.look().await.unwrap_or_default();
    }

    /// Beside the own file watches these from now on. One that was not watched when it was read is read once more.
    pub fn watch(&mut self, others: Vec<PathBuf>) {
        self.paths = [vec![self.own.clone()], others].concat();
    }

    /// Resolves when a file is another one, and has stayed so for two looks: whoever writes it may be half done. One
    /// that is gone is no new configuration.
    pub async fn changed(&mut self) {
        let mut before = self.known.clone();
        loop {
            tokio::time::sleep(self.every).await;
            let Some(now) = self.look().await else { continue };
            let is_new = now.iter().any(|(path, stamp)| self.known.get(path) != Some(stamp));
            if is_new && before == now {
                return;
            }
            before = now;
        }
    }

    async fn look(&mut self) -> Option<Stamps> {
        let paths = self.paths.clone();
        self.looks.take(LOOK_EVERY, move || stamps(&paths)).await
    }
}

impl<T: Send + 'static> Looks<T> {
    /// What this look sees; `None` if it takes longer, or one before it still does.
    async fn take(&mut self, patience: Duration, look: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        if self.under_way.as_ref().is_some_and(|before| !before.is_finished()) {
            return None;
        }
        let look = self.under_way.insert(tokio::task::spawn_blocking(look));
        tokio::time::timeout(patience, look).await.ok()?.ok()
    }
}

fn stamps(paths: &[PathBuf]) -> Stamps {
    paths.iter().filter_map(|path| Some((path.clone(), stamp(path)?))).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(120);

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
    }

    #[test]
    fn while_a_look_hangs_there_is_no_other() {
        let (release, hanging) = mpsc::channel::<()>();
        let mut looks = Looks { under_way: None };
        runtime().block_on(async move {
            // with what lets the look go, or a failure would hang
            let hang = move || hanging.recv().map_or(1, |()| 1); // until the test lets go
            assert_eq!(looks.take(Duration::from_millis(10), hang).await, None);
            for _ in 0..3 {
                assert_eq!(looks.take(PATIENCE, || 2).await, None, "a second look");
            }
            release.send(()).unwrap();
            while looks.under_way.as_ref().is_some_and(|look| !look.is_finished()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(looks.take(PATIENCE, || 3).await, Some(3), "what the late one saw is dropped");
        });
    }

    #[test]
    fn what_is_not_there_has_no_stamp_and_another_content_another() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("one"), "a").unwrap();
        std::fs::write(path("two"), "ab").unwrap();
        std::os::unix::fs::symlink("one", path("link")).unwrap();
        let paths = [path("link"), path("none")];
        let before = stamps(&paths);
        assert_eq!(before.keys().collect::<Vec<_>>(), [&paths[0]]);
        assert_eq!(stamps(&paths), before);
        std::os::unix::fs::symlink("two", path("new")).unwrap();
        std::fs::rename(path("new"), path("link")).unwrap();
        assert_ne!(stamps(&paths), before, "another file behind the same link");
    }

    #[test]
    fn a_file_that_comes_to_be_or_changes_is_news_and_one_that_goes_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (own, other) = (folder.path().join("own.toml"), folder.path().join("other"));
        std::fs::write(&own, "1").unwrap();
        std::fs::write(&other, "1").unwrap();
        runtime().block_on(async {
            let mut watched = Watched::new(Some(&own));
            watched.every = Duration::from_millis(1);
            let some_looks = Duration::from_millis(200);
            watched.mark(vec![other.clone()]).await;
            std::fs::remove_file(&other).unwrap();
            assert!(tokio::time::timeout(some_looks, watched.changed()).await.is_err(), "gone");
            std::fs::write(&other, "2, and longer").unwrap();
            tokio::time::timeout(PATIENCE, watched.changed()).await.expect("it is there again, and another one");
            watched.mark(vec![other.clone()]).await;
            assert!(tokio::time::timeout(some_looks, watched.changed()).await.is_err(), "read since");
        });
    }
}
