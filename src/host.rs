//! What a profile is: where one kind of agent host keeps things.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A kind of agent host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    Pynchy,
}

/// The watched host: what its profile, the configuration and discovery say of it.
#[derive(Debug, Clone)]
pub struct Host {
    pub profile: Profile,
    /// The folder it runs in; everything of it hangs off this.
    pub root: PathBuf,
    /// Base of its HTTP API, without a trailing slash.
    pub url: String,
    /// Its SQLite database; `None` where the profile has none.
    pub database: Option<PathBuf>,
    /// How its process is recognised.
    pub process: ProcessRule,
    /// How often its scheduler looks for due tasks.
    pub scheduler_poll: Duration,
}

/// How the host's process is told from all others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProcessRule {
    /// Its program is called so, and its working folder is the host's root.
    InRoot { program: String },
    /// Its pid stands in this file.
    PidFile(PathBuf),
    /// A word of its command line is this, or ends in `/` and this.
    Command(String),
}
