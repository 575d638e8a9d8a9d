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
    /// The latest look: while it hangs there is no other, or the threads would add up.
    looking: Option<JoinHandle<Stamps>>,
}

impl Watched {
    pub fn new(file: Option<&Path>) -> Watched {
        let own = file.unwrap_or(Path::new(DEFAULT_FILE)).to_owned();
        Watched { known: stamps(std::slice::from_ref(&own)), paths: vec![own.clone()], own, looking: None }
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
            tokio::time::sleep(LOOK_EVERY).await;
            let Some(now) = self.look().await else { continue };
            let is_new = now.iter().any(|(path, stamp)| self.known.get(path) != Some(stamp));
            if is_new && before == now {
                return;
            }
            before = now;
        }
    }

    /// On a thread of its own: a disk may hang.
    async fn look(&mut self) -> Option<Stamps> {
        if self.looking.as_ref().is_some_and(|looking| !looking.is_finished()) {
            return None;
        }
        let paths = self.paths.clone();
        let looking = self.looking.insert(tokio::task::spawn_blocking(move || stamps(&paths)));
        tokio::time::timeout(LOOK_EVERY, looking).await.ok()?.ok()
    }
}

fn stamps(paths: &[PathBuf]) -> Stamps {
    paths.iter().filter_map(|path| Some((path.clone(), stamp(path)?))).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}
