//! The configuration file, watched: an editor saves it, or a ConfigMap swaps the link that leads to it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agenthost_exporter::config::DEFAULT_FILE;

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What tells one content from the next, followed through links: device, inode, size and time of change.
type Stamp = (u64, u64, u64, i64, i64);

pub struct Watched {
    path: PathBuf,
    /// By which the configuration was read last.
    known: Option<Stamp>,
}

impl Watched {
    /// The named file, else the default one, whether or not it exists yet.
    pub fn new(file: Option<&Path>) -> Watched {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE)).to_owned();
        Watched { known: stamp(&path), path }
    }

    /// Resolves when the file is another one, and has stayed so for two looks: whoever writes it may be half done. One
    /// that is gone is no new configuration.
    pub async fn changed(&mut self) {
        let mut before = self.known;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let path = self.path.clone();
            let Ok(Some(now)) = tokio::task::spawn_blocking(move || stamp(&path)).await else { continue };
            if before.replace(now) == Some(now) && self.known != Some(now) {
                self.known = Some(now);
                return;
            }
        }
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.dev(), meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}
