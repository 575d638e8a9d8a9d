//! The profile `pynchy`: everything hangs off the folder that it runs in.
//!
//! Its `config.toml` is read leniently: it belongs to the host, which may be newer than we are. What its environment or
//! `.env` override is not seen; `[host] url` corrects it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use toml::{Table, Value};
use tracing::warn;

use super::containers::Names;
use super::gateway::{Containers, Gateway, Kind};
use super::{Host, ProcessRule, Profile, Url};
use crate::source::file;

/// What a running pynchy is called.
pub const PROGRAM: &str = "pynchy";

const PORT: u16 = 8484;
const GATEWAY_PORT: u16 = 4010;
const SCHEDULER_POLL: Duration = Duration::from_secs(60);

/// What pynchy's own configuration says. `None` is not set, or set to what we do not understand.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Layout {
    /// `server.port`, of its HTTP API; 8484 if not set.
    pub port: Option<u16>,
    /// `container.max_concurrent`; 10 if not set.
    pub max_concurrent: Option<u64>,
    /// `scheduler.poll_interval`, in seconds; 60 if not set.
    pub poll_interval: Option<Duration>,
    /// `scheduler.timezone`; `$TZ` of the host, then the machine's if not set.
    pub timezone: Option<String>,
    /// `repos."owner/repo"`, with the folder of each.
    pub repos: BTreeMap<String, PathBuf>,
    /// Where secrets may stand. Not read here.
    pub env_file: PathBuf,
}

/// The host in this folder, by its own configuration.
pub fn host(root: &Path) -> Host {
    let config = load(root);
    let gateway = gateway(root, config.as_ref().ok());
    let layout = read(root, config);
    let process = ProcessRule::InRoot { program: PROGRAM.to_owned(), root: root.to_owned() };
    Host {
        root: Some(root.to_owned()),
        url: Some(Url::Written { root: root.to_owned() }),
        database: Some(root.join("data/messages.db")),
        scheduler_poll: layout.poll_interval.unwrap_or(SCHEDULER_POLL),
        containers: Some(Names::pynchy()),
        gateway: Some(gateway),
        layout: Some(layout),
        ..Host::new(Profile::Pynchy, process)
    }
}

/// Why its `/status` is not asked for without being told to; `None` if it may be.
pub fn why_status_costs(gateway: &Gateway) -> Option<String> {
    let calls = match gateway.bills_for_health() {
        Some(false) => return None,
        Some(true) => "makes LiteLLM call every model",
        None => "may make LiteLLM call every model, which cannot be told here",
    };
    Some(format!(
        "each request costs it a hundred git processes or more, and {calls}, which is billed; `status_poll = \"60s\"` in \
         [host] accepts that, and `background_health_checks: true` in LiteLLM's own configuration ends the calls"
    ))
}

/// The same, by what stands in its folder now.
pub fn why_status_costs_now(root: &Path) -> Option<String> {
    why_status_costs(&gateway(root, load(root).as_ref().ok()))
}

/// Base of its HTTP API if it started now.
///
/// # Errors
/// Its configuration is there and cannot be read, or says a port that is none.
pub fn url(root: &Path) -> Result<String> {
    let config = load(root)?.unwrap_or_default();
    let mut keys = Keys { config: &config, doubts: Vec::new() };
    let port = keys.port();
    if let Some(doubt) = keys.doubts.first() {
        bail!("read {}: {doubt}", file(root).display());
    }
    Ok(format!("http://127.0.0.1:{}", port.unwrap_or(PORT)))
}

/// Whether a folder is a pynchy installation, and not a stranger's.
pub fn is_root(folder: &Path) -> bool {
    let own_tables = ["sandbox", "repos", "gateway", "server"];
    let configured = || {
        load(folder)
            .is_ok_and(|config| config.is_some_and(|config| own_tables.iter().any(|&name| config.contains_key(name))))
    };
    folder.join("data/messages.db").is_file() || (folder.join("data").is_dir() && configured())
}

/// The gateway, by what could be read of the configuration.
///
/// Without any word of one pynchy still has the one that is built in.
fn gateway(root: &Path, config: Option<&Option<Table>>) -> Gateway {
    let Some(config) = config else { return Gateway::default() };
    let empty = Table::new();
    let mut keys = Keys { config: config.as_ref().unwrap_or(&empty), doubts: Vec::new() };
    let path = keys.litellm_config();
    let understood = keys.doubts.is_empty();
    let port = keys.gateway_port();
    let port = if keys.doubts.is_empty() { port.or(Some(GATEWAY_PORT)) } else { None };
    let told = Gateway {
        url: port.map(|port| format!("http://127.0.0.1:{port}")),
        configured: config.as_ref().is_some_and(|config| config.contains_key("gateway")),
        ..Gateway::default()
    };
    match path {
        Some(path) => litellm(root, path, told),
        // Its environment may say it as well, which we do not see; what such a gateway leaves behind, we do.
        None if !understood || root.join("data/litellm").exists() => told,
        None => Gateway { kind: Some(Kind::Builtin), expects_database: Some(false), ..told },
    }
}

/// It runs in two containers, with a copy of its configuration that is made at each start.
fn litellm(root: &Path, config: &str, told: Gateway) -> Gateway {
    Gateway {
        kind: Some(Kind::Litellm),
        containers: Containers {
            gateway: Some("pynchy-litellm".to_owned()),
            postgres: Some("pynchy-litellm-db".to_owned()),
        },
        expects_database: Some(true),
        litellm_configs: vec![root.join("data/litellm/litellm_config.yaml"), root.join(config)],
        own_key: Some(format!("GATEWAY__MASTER_KEY in {}", root.join(".env").display())),
        ..told
    }
}

fn read(root: &Path, config: Result<Option<Table>>) -> Layout {
    let nothing = || Layout::of(root, &Table::new()).0;
    match config {
        Ok(Some(config)) => {
            let (layout, doubts) = Layout::of(root, &config);
            doubts.iter().for_each(|doubt| warn!("{}: {doubt}", file(root).display()));
            layout
        }
        Ok(None) => nothing(),
        Err(error) => {
            warn!("{error:#}; what it sets is not known");
            nothing()
        }
    }
}

/// Of its configuration.
const LONGEST: u64 = 1 << 20;

/// Its own configuration.
pub fn file(root: &Path) -> PathBuf {
    root.join("config.toml")
}

/// Reads `config.toml`; `None` if there is none. The error quotes nothing, as a line of it may hold a key.
fn load(root: &Path) -> Result<Option<Table>> {
    let naming = || format!("read {}", file(root).display());
    let Some(text) = file::text(&file(root), LONGEST).with_context(naming)? else { return Ok(None) };
    text.parse().map(Some).map_err(|error: toml::de::Error| {
        let line = error.span().map_or(String::new(), |at| format!(" (line {})", line_of(&text, at.start)));
        anyhow!("{}: not TOML{line}", naming())
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
}

impl Layout {
    /// Takes what it understands; the rest is told.
    fn of(root: &Path, config: &Table) -> (Layout, Vec<String>) {
        let mut keys = Keys { config, doubts: Vec::new() };
        // What they say stands in the gateway; what they do not, in the log.
        let _ = (keys.litellm_config(), keys.gateway_port());
        let layout = Layout {
            port: keys.port(),
            max_concurrent: keys
                .get("container", "max_concurrent", "a number", |value| value.as_integer()?.try_into().ok()),
            poll_interval: keys.get("scheduler", "poll_interval", "seconds", seconds),
            timezone: keys.get("scheduler", "timezone", "a name", |value| value.as_str().map(str::to_owned)),
            repos: keys.repos(root),
            env_file: root.join(".env"),
        };
        (layout, keys.doubts)
    }
}

/// Reads key by key, and remembers what it did not understand.
struct Keys<'a> {
    config: &'a Table,
    doubts: Vec<String>,
}

impl<'a> Keys<'a> {
    fn table(&mut self, name: &str) -> Option<&'a Table> {
        let value = self.config.get(name)?;
        if !value.is_table() {
            self.doubt(format!("[{name}] is no table"));
        }
        value.as_table()
    }

    fn get<T>(&mut self, table: &str, key: &str, wanted: &str, read: impl Fn(&'a Value) -> Option<T>) -> Option<T> {
        let value = self.table(table)?.get(key)?;
        let read = read(value);
        if read.is_none() {
            self.doubt(format!("{table}.{key} is not {wanted}, so it is not known"));
        }
        read
    }

    fn port(&mut self) -> Option<u16> {
        self.get("server", "port", "a port", port)
    }

    fn gateway_port(&mut self) -> Option<u16> {
        self.get("gateway", "port", "a port", port)
    }

    fn litellm_config(&mut self) -> Option<&'a str> {
        self.get("gateway", "litellm_config", "a path", Value::as_str).filter(|path| !path.is_empty())
    }

    /// A repo without a path of its own lies under `data/repos`.
    fn repos(&mut self, root: &Path) -> BTreeMap<String, PathBuf> {
        let mut repos = BTreeMap::new();
        for (slug, repo) in self.table("repos").into_iter().flatten() {
            match repo.as_table().map(|repo| repo.get("path")) {
                Some(None) => drop(repos.insert(slug.clone(), root.join("data/repos").join(slug))),
                Some(Some(Value::String(path))) => drop(repos.insert(slug.clone(), root.join(path))),
                _ => self.doubt(format!("repos.\"{slug}\" has no path that is understood, so it is not known")),
            }
        }
        repos
    }

    /// Once for each, though a table is asked for key by key.
    fn doubt(&mut self, text: String) {
        if !self.doubts.contains(&text) {
            self.doubts.push(text);
        }
    }
}

fn port(value: &Value) -> Option<u16> {
    value.as_integer()?.try_into().ok().filter(|&port| port > 0)
}

fn seconds(value: &Value) -> Option<Duration> {
    let seconds = value.as_float().or_else(|| Some(value.as_integer()? as f64))?;
    Duration::try_from_secs_f64(seconds).ok().filter(|span| !span.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(text: &str) -> (Layout, Vec<String>) {
        Layout::of(Path::new("/srv/p"), &text.parse().unwrap())
    }

    fn folder(config: Option<&str>, entries: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        config.iter().for_each(|text| std::fs::write(folder.path().join("config.toml"), text).unwrap());
        for entry in entries {
            match entry.strip_suffix('/') {
                Some(name) => std::fs::create_dir(folder.path().join(name)).unwrap(),
                None => std::fs::write(folder.path().join(entry), "").unwrap(),
            }
        }
        folder
    }

    #[test]
    fn every_key_is_read() {
        let (layout, doubts) = layout(
            r#"
            [server]
            port = 9000
            [container]
            max_concurrent = 5
            [scheduler]
            poll_interval = 0.5
            timezone = "Europe/Berlin"
            [gateway]
            port = 4000
            litellm_config = "litellm.yaml"
            master_key = "sk-secret"
            [repos."acme/web"]
            path = "../web"
            [repos."acme/api"]
            [sandbox.admin-1]
            unheard_of = true
            "#,
        );
        let repos = [("acme/api", "/srv/p/data/repos/acme/api"), ("acme/web", "/srv/p/../web")];
        let expected = Layout {
            port: Some(9000),
            max_concurrent: Some(5),
            poll_interval: Some(Duration::from_millis(500)),
            timezone: Some("Europe/Berlin".to_owned()),
            repos: repos.map(|(slug, path)| (slug.to_owned(), path.into())).into(),
            env_file: "/srv/p/.env".into(),
        };
        assert_eq!((layout, doubts), (expected, vec![]));
    }

    #[test]
    fn a_wrong_key_is_not_known_and_costs_no_other() {
        let (layout, doubts) = layout(
            r#"
            repos = "secret"
            [server]
            port = "secret"
            [container]
            max_concurrent = -1
            [scheduler]
            poll_interval = "secret"
            timezone = "UTC"
            [gateway]
            port = 70000
            "#,
        );
        let known = Layout { timezone: Some("UTC".to_owned()), env_file: "/srv/p/.env".into(), ..Layout::default() };
        assert_eq!(layout, known);
        let text = doubts.join("\n");
        for key in ["server.port", "container.max_concurrent", "scheduler.poll_interval", "gateway.port", "[repos]"] {
            assert_eq!(text.matches(key).count(), 1, "{key} in {text}");
        }
        assert_eq!(doubts.len(), 5);
        assert!(!text.contains("secret"), "{text}");
    }

    fn gateway_of(text: &str) -> Gateway {
        gateway(Path::new("/srv/p"), Some(&Some(text.parse().unwrap())))
    }

    #[test]
    fn the_gateway_is_litellm_iff_it_has_a_configuration() {
        let litellm =
            gateway_of("[gateway]\nlitellm_config = \"litellm.yaml\"\nmaster_key = \"sk-secret\"\nport = 4000\n");
        let expected = Gateway {
            kind: Some(Kind::Litellm),
            url: Some("http://127.0.0.1:4000".to_owned()),
            configured: true,
            containers: Containers {
                gateway: Some("pynchy-litellm".to_owned()),
                postgres: Some("pynchy-litellm-db".to_owned()),
            },
            expects_database: Some(true),
            litellm_configs: vec!["/srv/p/data/litellm/litellm_config.yaml".into(), "/srv/p/litellm.yaml".into()],
            own_key: Some("GATEWAY__MASTER_KEY in /srv/p/.env".to_owned()),
        };
        assert_eq!(litellm, expected);
        let builtin = Gateway {
            kind: Some(Kind::Builtin),
            url: Some("http://127.0.0.1:4010".to_owned()),
            expects_database: Some(false),
            ..Gateway::default()
        };
        assert_eq!(gateway_of("[server]\nport = 1\n"), builtin);
        assert_eq!(gateway(Path::new("/srv/p"), Some(&None)), builtin, "no file at all");
        assert_eq!(gateway_of("[gateway]\nlitellm_config = \"\"\n"), Gateway { configured: true, ..builtin });
    }

    #[test]
    fn a_gateway_that_cannot_be_told_is_of_no_kind() {
        assert_eq!(gateway(Path::new("/srv/p"), None), Gateway::default());
        for text in ["gateway = 1", "[gateway]\nlitellm_config = 3\n", "[gateway]\nlitellm_config = [\"a\"]\n"] {
            let told = gateway_of(text);
            assert_eq!((told.kind, told.configured), (None, true), "{text}");
            assert_eq!(told.bills_for_health(), None);
        }
        let folder = folder(Some("[gateway]\nport = \"x\"\n"), &["data/", "data/litellm/"]);
        let told = host(folder.path()).gateway.unwrap();
        assert_eq!((told.kind, told.url, told.configured), (None, None, true), "LiteLLM was there");
        std::fs::remove_dir(folder.path().join("data/litellm")).unwrap();
        let told = host(folder.path()).gateway.unwrap();
        assert_eq!((told.kind, told.url), (Some(Kind::Builtin), None), "a port that is none is not guessed");
    }

    #[test]
    fn a_table_that_is_none_is_told_once() {
        assert_eq!(layout("scheduler = 1").1, ["[scheduler] is no table"]);
        assert_eq!(layout("[repos]\na = 1\nb = { path = 2 }\n").1.len(), 2);
        for text in ["0", "-1", "nan", "inf", "-0.0", "1e300"] {
            assert_eq!(layout(&format!("[scheduler]\npoll_interval = {text}")).0.poll_interval, None, "{text}");
        }
    }

    #[test]
    fn a_missing_or_broken_file_leaves_the_defaults() {
        let missing = folder(None, &[]);
        assert_eq!(load(missing.path()).unwrap(), None);
        assert_eq!(host(missing.path()).scheduler_poll, SCHEDULER_POLL);
        let broken = folder(Some("[server]\nport = 1\n[gateway]\nmaster_key = \"sk-secret\n"), &[]);
        assert_eq!(host(broken.path()).scheduler_poll, SCHEDULER_POLL);
        let text = load(broken.path()).unwrap_err().to_string();
        assert_eq!(text, format!("read {}: not TOML (line 4)", broken.path().join("config.toml").display()));
    }

    #[test]
    fn a_strangers_folder_is_no_root() {
        for (config, entries) in [
            (None, &["data/", "data/messages.db"][..]),
            (Some("[server]\n"), &["data/"]),
            (Some("[sandbox.x]\n"), &["data/"]),
        ] {
            assert!(is_root(folder(config, entries).path()), "{config:?} {entries:?}");
        }
        for (config, entries) in [
            (None, &[][..]),
            (None, &["data/"]),
            (None, &["data/", "data/messages.db/"]),
            (Some("[server]\n"), &[]),
            (Some("[server]\n"), &["data"]),
            (Some("[package]\n"), &["data/"]),
            (Some("server\n"), &["data/"]),
        ] {
            assert!(!is_root(folder(config, entries).path()), "{config:?} {entries:?}");
        }
        assert!(!is_root(Path::new("/nonexistent")));
    }
}
