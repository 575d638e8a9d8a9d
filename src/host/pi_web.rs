//! The profile `pi-web`: a server that writes its pid and its port into a state file, which stands in its user's home.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;

use super::{Host, ProcessRule, Profile, Url};
use crate::source::file;

const URL: &str = "http://127.0.0.1:31415";

/// Where it stands in a home, the newest place first.
const PLACES: [&str; 2] = [".pi/agent/pi-web/pi-web-state.json", ".pi/agent/pi-web-state.json"];

/// The one whose state file this is.
pub fn host(state: &Path) -> Host {
    let process = ProcessRule::PidFile(state.to_owned());
    Host { url: Some(Url::State(state.to_owned())), ..Host::new(Profile::PiWeb, process) }
}

/// The state file in this home: the first that is there, else where a new one would be.
pub fn state_file(home: Option<&OsStr>) -> Option<PathBuf> {
    let home = Path::new(home?);
    let places = PLACES.map(|place| home.join(place));
    places.iter().find(|place| place.is_file()).or(places.first()).cloned()
}

/// The part of the state file that we read.
#[derive(Deserialize)]
struct State {
    /// A number in quotes.
    port: Value,
    #[serde(default)]
    host: Option<String>,
}

/// Of the state file.
const LONGEST: u64 = 1 << 20;

/// Base of its API, by the state file; the default one if there is none.
///
/// # Errors
/// The file may not be read, or says no port. Nothing of it is quoted.
pub fn url(state: &Path) -> Result<String> {
    let naming = || format!("read {}", state.display());
    let Some(text) = file::text(state, LONGEST).with_context(naming)? else { return Ok(URL.to_owned()) };
    match serde_json::from_str::<State>(&text).ok().and_then(|state| state.url()) {
        Some(url) => Ok(url),
        None => bail!("{}: it does not say its port", naming()),
    }
}

impl State {
    fn url(&self) -> Option<String> {
        let port = self.port.as_u64().or_else(|| self.port.as_str()?.parse().ok())?;
        let port = u16::try_from(port).ok().filter(|&port| port > 0)?;
        let host = match self.host.as_deref() {
            None | Some("" | "0.0.0.0" | "::" | "localhost") => "127.0.0.1".to_owned(),
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => format!("[{v6}]"),
            // It would lead to a path of another port.
            Some(host) if host.contains('/') => return None,
            Some(host) => host.to_owned(),
        };
        crate::source::http::base(&format!("http://{host}:{port}")).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_file_says_where_it_listens() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state.json");
        let read = |text: &str| {
            std::fs::write(&file, text).unwrap();
            url(&file)
        };
        for (text, expected) in [
            (r#"{"pid": 812, "port": "31416", "host": "127.0.0.1", "tailscale": false}"#, "http://127.0.0.1:31416"),
            (r#"{"port": 80, "host": "0.0.0.0"}"#, "http://127.0.0.1:80"),
            (r#"{"port": "80"}"#, "http://127.0.0.1:80"),
            (r#"{"port": "80", "host": "fd00::1"}"#, "http://[fd00::1]:80"),
            (r#"{"port": "80", "host": "pi.example"}"#, "http://pi.example:80"),
        ] {
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
        for text in [
            "",
            "secret",
            "{}",
            r#"{"port": "secret"}"#,
            r#"{"port": 0}"#,
            r#"{"port": 70000}"#,
            r#"{"port": 1, "host": "secret@x"}"#,
            r#"{"port": 1, "host": "secret/x"}"#,
            r#"{"port": 80, "host": "secret/x"}"#,
        ] {
            let said = format!("{:#}", read(text).unwrap_err());
            assert_eq!(said, format!("read {}: it does not say its port", file.display()), "{text}");
        }
        std::fs::remove_file(&file).unwrap();
        assert_eq!(url(&file).unwrap(), URL);
    }

    #[test]
    fn the_newest_place_that_is_there_counts() {
        let home = tempfile::tempdir().unwrap();
        let found = || state_file(Some(home.path().as_os_str())).unwrap();
        let [new, old] = PLACES.map(|place| home.path().join(place));
        assert_eq!(found(), new);
        std::fs::create_dir_all(new.parent().unwrap()).unwrap();
        std::fs::write(&old, "{}").unwrap();
        assert_eq!(found(), old);
        std::fs::write(&new, "{}").unwrap();
        assert_eq!(found(), new);
        assert_eq!(state_file(None), None);
    }
}
