//! A host to look at without having one: a pynchy-like daemon in a temporary folder, as a child process.
//!
//! The child is real in all that an outside observer sees: a process with its working folder, an HTTP API, a SQLite
//! database that it writes, git repositories. Only its people and its agents are made up.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use crate::fact::Span;
use crate::sample::Now;

mod api;
mod chance;
mod channels;
mod child;
mod gateway;
mod life;
mod plan;
mod queue;
mod repos;
mod rows;
mod stamp;
mod talk;
mod workers;

pub use child::host;
pub use workers::{watched_by, worker};

/// While this file is there, the folder is a demo's, and nobody but the child will remove it.
const MARKER: &str = ".agenthost-demo";
/// What the child says on standard error, below the root.
const LOG: &str = "logs/pynchy.log";

/// Collectors that have nothing to look at here: a demo makes no containers.
pub const WITHOUT: &[&str] = &["containers", "mcp"];
/// How often the demo's own status is asked for: it costs that host nothing.
pub const STATUS_POLL: Duration = Duration::from_secs(15);

/// How long the child may take until it answers.
const START: Duration = Duration::from_secs(10);
/// How long it may take to end by itself.
const END: Duration = Duration::from_secs(2);
const GLANCE: Duration = Duration::from_millis(20);

/// The folder, the child and the writer of a demo host; dropping it ends the child and removes the folder.
#[derive(Debug)]
pub struct Demo {
    root: PathBuf,
    url: String,
    has_git: bool,
    child: Option<Child>,
    _folder: TempDir,
}

impl Demo {
    /// Makes the folder and what is in it, and starts the host; `port` 0 picks a free one on the loopback interface.
    ///
    /// Blocks until the host answers: a second or two.
    ///
    /// # Errors
    /// The folder cannot be made, the port is taken, or the host does not answer within ten seconds.
    pub fn start(port: u16) -> Result<Demo> {
        let port = if port == 0 { free_port()? } else { port };
        let folder = tempfile::Builder::new().prefix("agenthost-demo-").tempdir().context("make a temporary folder")?;
        // The host's working folder, as the system will tell it: links resolved.
        let root = folder.path().canonicalize().context("resolve the temporary folder")?;
        for name in ["data", "logs"] {
            std::fs::create_dir(root.join(name)).with_context(|| format!("make {name} in {}", root.display()))?;
        }
        write(&root.join(MARKER), "Made by `agenthost-exporter demo`, which removes this folder when it ends.\n")?;
        let has_git = repos::make(&root)?;
        let gateway_port = free_port()?;
        gateway::make(&root)?;
        write(&root.join("config.toml"), &config(port, gateway_port, has_git))?;
        let url = format!("http://127.0.0.1:{port}");
        let mut demo = Demo { root, url, has_git, child: None, _folder: folder };
        demo.child = Some(spawn(&demo.root, port, gateway_port)?);
        demo.wait_until_up(port)?;
        Ok(demo)
    }

    /// The host's root, without links in its path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The base of its HTTP API, without a trailing slash.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The table `[collect.gateway]` that fits this host: its gateway runs in no container.
    pub fn gateway(&self) -> String {
        format!("containers = {{}}\nkey_file = '{}'\n", self.root.join(gateway::KEY_FILE).display())
    }

    /// What there is to see on this host, one sentence a line, for the person who started it.
    pub fn story(&self) -> String {
        let span = |span: jiff::SignedDuration| Span(span.unsigned_abs());
        let git = if self.has_git {
            format!(
                "Repositories: {} in data/repos; in data/worktrees agents leave conflicts, unfinished rebases and worse, \
                 and clean up again. {} is configured and not cloned.",
                repos::REPOS.join(" and "),
                repos::NOT_CLONED
            )
        } else {
            "No git repositories: the command `git` is not installed.".to_owned()
        };
        format!(
            "The host runs in {} and answers on {}.\n\
             The channel {} is connected for {}, gone for {}, and so on; {} stays.\n\
             The database of the gateway to its models is there for {}, gone for {}, and so on; one model is never well.\n\
             The agent of the group `{}` hangs: its messages wait and its task is overdue.\n\
             One task fails, one is stuck, and the database grows every other second.\n{git}\n\
             Its workers: one works, one idles, one is leaked, one an orphan, one a zombie, one forgotten by the host; an \
             MCP server runs twice.\n",
            self.root.display(),
            self.url,
            channels::SLACK,
            span(channels::CONNECTED),
            span(channels::GONE),
            channels::WHATSAPP,
            span(gateway::CONNECTED),
            span(gateway::GONE),
            plan::HUNG,
        )
    }

    fn wait_until_up(&mut self, port: u16) -> Result<()> {
        let give_up = Now::read().mono + START;
        loop {
            let ended = match &mut self.child {
                Some(child) => child.try_wait().context("look after the demo host")?,
                None => bail!("the demo host was not started"),
            };
            if let Some(status) = ended {
                bail!("the demo host ended ({status}){}", self.last_words());
            }
            if answers(port) {
                return Ok(());
            }
            if Now::read().mono > give_up {
                bail!("the demo host does not answer on port {port} after {}{}", Span(START), self.last_words());
            }
            std::thread::sleep(GLANCE);
        }
    }

    /// What the host said on standard error, if anything.
    fn last_words(&self) -> String {
        match std::fs::read_to_string(self.root.join(LOG)) {
            Ok(text) if !text.trim().is_empty() => format!(": {}", text.trim()),
            Ok(_) => " without a word".to_owned(),
            Err(error) => format!("; its log cannot be read: {error}"),
        }
    }
}

impl Drop for Demo {
    /// The folder itself goes after this, with the field that owns it.
    fn drop(&mut self) {
        // The child ends as its standard input does. Without the marker it leaves the folder to us.
        drop(std::fs::remove_file(self.root.join(MARKER)));
        let Some(mut child) = self.child.take() else { return };
        drop(child.stdin.take());
        let give_up = Now::read().mono + END;
        while matches!(child.try_wait(), Ok(None)) && Now::read().mono < give_up {
            std::thread::sleep(GLANCE);
        }
        // Both fail harmlessly where it has ended already; a stopped one is killed all the same.
        drop(child.kill());
        drop(child.wait());
    }
}

fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The host's `config.toml`. A repository that could not be made is not configured either.
fn config(port: u16, gateway_port: u16, has_git: bool) -> String {
    let slugs = repos::REPOS.iter().chain([&repos::NOT_CLONED]).filter(|_| has_git);
    let repos: String = slugs.map(|slug| format!("\n[repos.\"{slug}\"]\n")).collect();
    format!(
        "# A demo host: nothing here is real.\n\n[server]\nport = {port}\n\n\
         [gateway]\nport = {gateway_port}\nlitellm_config = \"{}\"\n\n\
         [container]\nmax_concurrent = {}\n\n\
         [scheduler]\npoll_interval = {}\ntimezone = \"UTC\"\n{repos}",
        gateway::CONFIG,
        queue::MAX_CONCURRENT,
        life::POLL.as_secs(),
    )
}

/// Starts this program once more, as the host: called `pynchy`, in the root, holding our pipe.
fn spawn(root: &Path, port: u16, gateway_port: u16) -> Result<Child> {
    let log = File::create(root.join(LOG)).context("make the demo host's log")?;
    Command::new(std::env::current_exe().context("find this program")?)
        .arg0("pynchy")
        .arg("demo-host")
        .arg(root)
        .arg(port.to_string())
        .arg(gateway_port.to_string())
        .current_dir(root)
        // Ctrl-C is for us: the host ends when we let go of it.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .context("start the demo host")
}

/// Whether the host's API answers; it does once everything else is made.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<[u8; 12]> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")?;
        let mut status = [0; 12];
        stream.read_exact(&mut status)?;
        Ok(status)
    };
    ask().is_ok_and(|status| &status == b"HTTP/1.1 200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_is_toml_that_says_where_the_host_listens() {
        let table: toml::Table = config(4321, 4322, true).parse().unwrap();
        assert_eq!(table["server"]["port"].as_integer(), Some(4321));
        assert_eq!(table["gateway"]["port"].as_integer(), Some(4322));
        assert_eq!(table["gateway"]["litellm_config"].as_str(), Some("litellm.yaml"));
        assert_eq!(table["scheduler"]["poll_interval"].as_integer(), Some(15));
        assert_eq!(table["container"]["max_concurrent"].as_integer(), Some(4));
        assert!(table["repos"].get("acme/webapp").is_some());
        let without: toml::Table = config(4321, 4322, false).parse().unwrap();
        assert!(!without.contains_key("repos"));
    }

    #[test]
    fn nobody_answers_on_a_port_that_nobody_listens_on() {
        assert!(!answers(free_port().unwrap()));
    }
}
