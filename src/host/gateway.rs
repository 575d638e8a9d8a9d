//! What stands between the host's agents and their models: which gateway, where, and what its own configuration tells.
//!
//! No key is kept here, and none is read: a host's own key may do everything, and we need next to nothing.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::source::file;

/// A LiteLLM configuration is smaller.
const LONGEST: u64 = 4 * 1024 * 1024;

/// As LiteLLM has it.
const HEALTH_CHECK_INTERVAL: Duration = Duration::from_secs(300);

/// A kind of gateway, or of provider where the host has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Litellm,
    /// The one that is part of pynchy: it answers 401 to whoever has no key.
    Builtin,
    /// OpenAI and all that speak like it.
    Openai,
    Anthropic,
    Gemini,
    Ollama,
    Vllm,
}

/// The host's gateway, as far as the host's own configuration tells.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gateway {
    /// `None`: it may be LiteLLM or not.
    pub kind: Option<Kind>,
    /// Base, without a trailing slash; `None` if its port is not understood.
    pub url: Option<String>,
    /// The host's configuration speaks of it. One that is only there by default is not watched.
    pub configured: bool,
    pub containers: Containers,
    /// Whether it should be connected to a database; `None` if nobody tells.
    pub expects_database: Option<bool>,
    /// What a LiteLLM is started with: the first of these files that exists.
    pub litellm_configs: Vec<PathBuf>,
    /// For people: where the host has its own key.
    pub own_key: Option<String>,
}

/// Names of the containers that it runs in; `None` where it runs in none that is known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Containers {
    pub gateway: Option<String>,
    pub postgres: Option<String>,
}

impl Gateway {
    /// Whether a LiteLLM checks its models by itself, so that asking for their health calls none of them.
    ///
    /// Read from its file at each call. `None`: it is no LiteLLM, or nobody can tell.
    pub fn background_health_checks(&self) -> Option<bool> {
        if self.kind != Some(Kind::Litellm) {
            return None;
        }
        background_health_checks(&self.text()?)
    }

    /// How long a LiteLLM that checks its models by itself rests between two checks, by the same file; what LiteLLM takes
    /// where nothing is said, or nobody can tell.
    pub fn health_check_interval(&self) -> Duration {
        let said = self.text().and_then(|yaml| general(&yaml)?.health_check_interval);
        let said = said.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        said.filter(|said| !said.is_zero()).unwrap_or(HEALTH_CHECK_INTERVAL)
    }

    /// Whether the host, asked for its status, makes the gateway call every model; `None` if nobody can tell.
    pub fn bills_for_health(&self) -> Option<bool> {
        match self.kind? {
            Kind::Litellm => self.background_health_checks().map(|on| !on),
            _ => Some(false),
        }
    }

    /// The first file that is there decides, even if it cannot be read.
    fn text(&self) -> Option<String> {
        let is_there = |path: &&PathBuf| !matches!(path.try_exists(), Ok(false));
        let path = self.litellm_configs.iter().find(is_there)?;
        file::text(path, LONGEST).ok()?
    }
}

/// The part of a LiteLLM configuration that we read.
#[derive(Deserialize)]
struct Litellm {
    general_settings: Option<General>,
    /// Other files, any of which may say it: what they set takes the place of what stands here.
    include: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct General {
    background_health_checks: Option<bool>,
}

/// Apart, so that what is not understood of the one says nothing of the other.
#[derive(Deserialize)]
struct Paced {
    general_settings: Option<Pace>,
    include: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct Pace {
    health_check_interval: Option<f64>,
}

/// Aliases may repeat so much in all. A few hundred bytes of them can be made to mean a million words, at each of our looks.
const REPEATED: usize = 10_000;

/// `None`: it is not understood; `Some(None)`: it says nothing at all.
fn read<T: DeserializeOwned>(yaml: &str) -> Option<Option<T>> {
    let mut options = serde_saphyr::Options::default();
    options.alias_limits.max_total_replayed_events = REPEATED;
    serde_saphyr::from_str_with_options(yaml, options).ok()
}

fn general(yaml: &str) -> Option<Pace> {
    read::<Paced>(yaml)?.filter(|paced| paced.include.is_none())?.general_settings
}

/// Off if not said, as LiteLLM has it. What is not understood is not known; nothing of it is quoted.
fn background_health_checks(yaml: &str) -> Option<bool> {
    let Some(config) = read::<Litellm>(yaml)? else { return Some(false) };
    if config.include.is_some() {
        return None;
    }
    Some(config.general_settings.and_then(|general| general.background_health_checks).unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ON: &str = "model_list: []\ngeneral_settings:\n  background_health_checks: true\n";

    fn litellm(files: &[(&str, &str)]) -> (tempfile::TempDir, Gateway) {
        let folder = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| std::fs::write(folder.path().join(name), text).unwrap());
        let configs = ["running.yaml", "written.yaml"].map(|name| folder.path().join(name));
        let gateway = Gateway { kind: Some(Kind::Litellm), litellm_configs: configs.into(), ..Gateway::default() };
        (folder, gateway)
    }

    #[test]
    fn background_checks_are_on_off_or_not_known() {
        for (yaml, expected) in [
            (ON, Some(true)),
            ("general_settings: {background_health_checks: True}", Some(true)),
            ("general_settings: {background_health_checks: false, master_key: os.environ/KEY}", Some(false)),
            ("general_settings:\n  background_health_checks:\n", Some(false)),
            ("general_settings:\n", Some(false)),
            ("model_list: [{model_name: a, litellm_params: {model: openai/a}}]\n", Some(false)),
            ("", Some(false)),
            ("# nothing\n", Some(false)),
            ("include: [more.yaml]\n", None),
            ("include: [more.yaml]\ngeneral_settings: {background_health_checks: true}\n", None),
            ("general_settings: {background_health_checks: os.environ/CHECKS}", None),
            ("general_settings: {background_health_checks: \"true\"}", Some(true)),
            ("general_settings: {background_health_checks: on}", Some(true)),
            ("general_settings: {background_health_checks: 1}", None),
            ("general_settings: [background_health_checks]", None),
            ("general_settings: {background_health_checks: true", None),
            ("just words", None),
            ("- a\n- b\n", None),
            ("\t\u{0}", None),
        ] {
            assert_eq!(background_health_checks(yaml), expected, "{yaml:?}");
        }
    }

    #[test]
    fn the_pace_of_its_own_checks_is_what_the_file_says_or_what_litellm_takes() {
        for (yaml, seconds) in [
            ("general_settings: {background_health_checks: true, health_check_interval: 900}", 900),
            ("general_settings: {background_health_checks: odd, health_check_interval: 60.0}", 60),
            (ON, 300),
            ("general_settings: {health_check_interval: 0}", 300),
            ("general_settings: {health_check_interval: -5}", 300),
            ("general_settings: {health_check_interval: often}", 300),
            ("general_settings:\n", 300),
            ("", 300),
            ("- a", 300),
        ] {
            let (_folder, gateway) = litellm(&[("running.yaml", yaml)]);
            assert_eq!(gateway.health_check_interval(), Duration::from_secs(seconds), "{yaml}");
        }
        assert_eq!(litellm(&[]).1.health_check_interval(), Duration::from_secs(300));
    }

    #[test]
    fn what_repeats_itself_without_end_is_not_understood() {
        let line = |(name, of): (char, char)| format!("{name}: &{name} [{}]\n", vec![format!("*{of}"); 8].join(", "));
        let yaml: String = ('b'..'j').zip('a'..'i').map(line).collect();
        let yaml = format!("a: &a [x, x]\n{yaml}{ON}");
        assert_eq!(background_health_checks(&yaml), None);
        assert_eq!(background_health_checks(&format!("a: &a [x]\nb: [*a, *a]\n{ON}")), Some(true));
    }

    #[test]
    fn a_part_of_a_file_is_not_read_as_the_whole() {
        let long = format!("{ON}#{}", "x".repeat(LONGEST as usize));
        assert_eq!(litellm(&[("running.yaml", &long)]).1.background_health_checks(), None);
    }

    #[test]
    fn what_runs_counts_more_than_what_is_written() {
        let off = "general_settings: {background_health_checks: false}";
        for (files, expected) in [
            (&[("running.yaml", ON), ("written.yaml", off)][..], Some(true)),
            (&[("running.yaml", off), ("written.yaml", ON)], Some(false)),
            (&[("written.yaml", ON)], Some(true)),
            (&[], None),
        ] {
            let (_folder, gateway) = litellm(files);
            assert_eq!(gateway.background_health_checks(), expected, "{files:?}");
        }
    }

    #[test]
    fn a_file_that_may_not_be_read_decides_and_tells_nothing() {
        let (folder, gateway) = litellm(&[("running.yaml", ON), ("written.yaml", ON)]);
        let unread = crate::host::running::stage::unprivileged(folder.path(), || gateway.background_health_checks());
        assert_eq!(unread, None);
        std::fs::remove_file(folder.path().join("running.yaml")).unwrap();
        std::fs::create_dir(folder.path().join("running.yaml")).unwrap();
        assert_eq!(gateway.background_health_checks(), None);
        std::fs::remove_dir(folder.path().join("running.yaml")).unwrap();
        std::fs::write(folder.path().join("running.yaml"), [0xff, 0xfe, 0x00]).unwrap();
        assert_eq!(gateway.background_health_checks(), None);
    }

    #[test]
    fn only_a_litellm_bills_for_its_health() {
        let bills = |kind, yaml| {
            let (_folder, gateway) = litellm(&[("running.yaml", yaml)]);
            Gateway { kind, ..gateway }.bills_for_health()
        };
        assert_eq!(bills(Some(Kind::Litellm), ON), Some(false));
        assert_eq!(bills(Some(Kind::Litellm), ""), Some(true));
        assert_eq!(bills(Some(Kind::Litellm), "include: [a]"), None);
        assert_eq!(bills(None, ON), None);
        assert_eq!(bills(Some(Kind::Builtin), ""), Some(false));
        let builtin = litellm(&[("running.yaml", ON)]).1;
        assert_eq!(Gateway { kind: Some(Kind::Builtin), ..builtin }.background_health_checks(), None);
    }
}
