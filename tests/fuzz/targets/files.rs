//! Files: of a host, of its neighbours, and of the operator.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use agenthost_exporter::config::Config;
use agenthost_exporter::fact::Span;
use agenthost_exporter::host::gateway::{Gateway, Kind};
use agenthost_exporter::host::{generic, pi_web, pynchy};
use agenthost_exporter::serve::{self, Keys};
use agenthost_exporter::source::budget::Ledger;
use agenthost_exporter::source::key::KeyFile;
use agenthost_exporter::source::process::PidFile;
use agenthost_exporter::source::{http, otlp, units};
use agenthost_exporter::tool::doctor::written;
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

use super::{SECRET, is_plain, keeps_secret, parts};

/// A folder of this thread alone.
pub fn folder() -> PathBuf {
    thread_local! { static FOLDER: RefCell<Option<TempDir>> = const { RefCell::new(None) } }
    FOLDER.with_borrow_mut(|folder| {
        folder.get_or_insert_with(|| tempfile::tempdir().unwrap()).path().canonicalize().unwrap()
    })
}

fn file(name: &str, content: impl AsRef<[u8]>) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, content).unwrap();
    path
}

/// A key is the whole of its file, or there is none; why there is none quotes nothing.
pub fn key_file(data: &[u8]) {
    let keys = KeyFile::new(file("key", data));
    match keys.read() {
        Ok(key) => {
            let whole = std::str::from_utf8(data).unwrap().trim();
            assert_eq!(key.plain(), whole);
            assert_eq!((key.bearer(), format!("{key:?}")), (format!("Bearer {whole}"), "a key".to_owned()));
            assert!(whole.bytes().all(|byte| byte.is_ascii_graphic()) && !whole.is_empty());
        }
        Err(denied) => {
            let long = |word: &&str| word.len() > 12;
            let words: Vec<&str> = std::str::from_utf8(data).unwrap_or("").split_whitespace().filter(long).collect();
            let told = denied
                .to_string()
                .replace(&*keys.path().to_string_lossy(), "")
                .replace("stream did not contain valid UTF-8", "");
            assert!(words.iter().all(|word| !told.contains(word)), "{told}");
        }
    }
}

/// A pid is what stands there, alone or in JSON; a port of pi-web is that of its URL.
pub fn pid_file(data: &[u8]) {
    let path = file("pid", data);
    let json: Option<serde_json::Value> = serde_json::from_slice(data).ok();
    let number = |value: &serde_json::Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
    // A list of one is a table of one to serde: nobody writes one.
    let field = |name: &str| match json.as_ref()? {
        serde_json::Value::Array(list) => number(list.first()?),
        table => number(table.get(name)?),
    };
    let alone = std::str::from_utf8(data).ok().and_then(|text| text.trim().parse::<u32>().ok());
    match PidFile::read(&path) {
        Ok(read) => assert_eq!(read.map(|file| u64::from(file.pid)), alone.map(u64::from).or(field("pid"))),
        Err(error) => assert_eq!(alone, None, "{error:#}"),
    }
    if let Ok(url) = pi_web::url(&path) {
        assert_eq!(http::port(&url).map(u64::from), field("port"), "{url}");
        assert_eq!(http::base(&url).unwrap(), url);
        assert_eq!(url.matches('/').count(), 2, "a host and a port, and no path: {url}");
    }
}

/// Of pynchy's own configuration what is not understood is not known: no port is a guess, and no error quotes a line.
pub fn host_config(data: &[u8]) {
    let root = folder().join("root");
    std::fs::create_dir_all(root.join("data")).unwrap();
    let [before, after] = parts(data);
    let secret = format!("\nkey = \"{SECRET}\"\n");
    let text = [before, secret.as_bytes(), after].concat();
    std::fs::write(root.join("config.toml"), &text).unwrap();
    let table: Option<toml::Table> = std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok());
    let said = table
        .as_ref()
        .map(|table| table.get("server").map(|server| server.as_table().map(|server| server.get("port").cloned())));
    match (pynchy::url(&root), said) {
        (Err(error), None) => keeps_secret(&format!("{error:#}")),
        (Ok(url), None) => panic!("{url} of what is no TOML"),
        (Ok(url), Some(said)) => match said {
            None | Some(Some(None)) => assert_eq!(url, "http://127.0.0.1:8484"),
            Some(Some(Some(port))) => assert_eq!(url, format!("http://127.0.0.1:{}", port.as_integer().unwrap())),
            Some(None) => panic!("{url}, and [server] is no table"),
        },
        (Err(error), Some(said)) => {
            keeps_secret(&format!("{error:#}"));
            let port = said.flatten().flatten().and_then(|port| port.as_integer());
            assert!(port.is_none_or(|port| !(1..=65535).contains(&port)), "{error:#}");
        }
    }
    let host = pynchy::host(&root);
    let layout = host.layout.unwrap();
    assert!(layout.poll_interval.is_none_or(|poll| !poll.is_zero()) && layout.port != Some(0));
    assert_eq!(
        pynchy::is_root(&root),
        table.is_some_and(|table| ["sandbox", "repos", "gateway", "server"]
            .iter()
            .any(|name| table.contains_key(*name)))
    );
}

/// That LiteLLM checks its models by itself is never made up: asking for their health is billed where it does not.
pub fn litellm_config(data: &[u8]) {
    let gateway =
        Gateway { kind: Some(Kind::Litellm), litellm_configs: vec![file("litellm.yaml", data)], ..Gateway::default() };
    let checks = gateway.background_health_checks();
    assert_eq!(checks, gateway.background_health_checks());
    assert_eq!(gateway.bills_for_health(), checks.map(|on| !on));
    if checks == Some(true) {
        let text = String::from_utf8_lossy(data);
        // In quotes it may be spelled by escapes.
        assert!(text.contains("background_health_checks") || text.contains('\\'), "nobody said so");
    }
    assert!(!gateway.health_check_interval().is_zero());
}

/// A web configuration is taken or refused, always in the same way; why quotes no digest of a password and no key.
pub fn web_config(data: &[u8]) {
    let [before, after] = parts(data);
    let user = format!("\nbasic_auth_users:\n  alice: \"{SECRET}\"\n");
    let raw = file("web.yaml", data);
    let told = file("told.yaml", [before, user.as_bytes(), after].concat());
    for path in [raw, told] {
        let config = serve::Config { config_file: Some(path.clone()), ..serve::Config::default() };
        let keys = || Keys::read(&config, None).map_err(|error| format!("{error:#}"));
        match (keys(), keys()) {
            (Ok(keys), Ok(again)) => {
                assert_eq!((keys.is_locked(), keys.tls.is_some()), (again.is_locked(), again.tls.is_some()));
                again.keep_closed(&keys).unwrap();
                assert_eq!(keys.headers, again.headers);
            }
            (Err(why), Err(again)) => {
                assert_eq!(why, again);
                assert!(why.starts_with(&*path.to_string_lossy()) || why.starts_with("read "), "{why}");
                if path.ends_with("told.yaml") {
                    keeps_secret(&why);
                }
            }
            _ => panic!("once taken, once refused"),
        }
    }
}

/// A file of headers is taken or refused, and no value of a header is quoted.
pub fn headers_file(data: &[u8]) {
    let [before, after] = parts(data);
    let mut config = otlp::Config::default();
    config.endpoint = Some("http://localhost:4318".to_owned());
    config.headers_file =
        Some(file("headers", [before, b"\nauthorization: Bearer ", SECRET.as_bytes(), after].concat()));
    let target =
        || config.target().map(|target| target.unwrap().shown().to_owned()).map_err(|error| format!("{error:#}"));
    assert_eq!(target(), target());
    match target() {
        Ok(url) => assert_eq!(url, "http://localhost:4318/v1/metrics"),
        Err(why) => keeps_secret(&why),
    }
    keeps_secret(&format!("{config:?}"));
}

/// The standard variables: what cannot be used is noted and passed over, and no header's value shows.
pub fn otel_environment(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    // Files are another matter, and a path can be anything.
    let pairs: Vec<(&str, &str)> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| !["CERTIFICATE", "KEY"].iter().any(|file| name.contains(file)))
        .collect();
    let secret = format!("authorization=Bearer%20{SECRET}");
    let variable = |name: &str| {
        let said = pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        match name {
            "OTEL_EXPORTER_OTLP_HEADERS" => Some(said.map_or(secret.clone(), |said| format!("{secret},{said}"))),
            _ => said,
        }
    };
    let lay = || otlp::Config::default().over(variable);
    let config = lay();
    assert!(config == lay(), "twice the same");
    assert!(config.interval.is_none_or(|Span(interval)| interval >= Duration::from_secs(1)));
    assert!(config.timeout.is_none_or(|Span(timeout)| !timeout.is_zero()));
    config.notes.iter().for_each(|note| keeps_secret(note));
    match config.target() {
        Ok(Some(target)) => assert!(!target.shown().contains('?')),
        Ok(None) => {}
        Err(error) => panic!("what was checked is refused: {error:#}"),
    }
    let _ = config.attributes(&[]);
}

/// What cannot be read is never taken for an empty list of paid questions, and what is spent stays spent.
pub fn paid_file(data: &[u8]) {
    let state = folder().join("state.db");
    let path = folder().join("state.db.paid");
    std::fs::write(&path, data).unwrap();
    let now: Timestamp = "2026-11-21T20:00:00Z".parse().unwrap();
    let lines: Option<Vec<Timestamp>> =
        std::str::from_utf8(data).ok().and_then(|text| text.lines().map(|line| line.parse().ok()).collect());
    let counts = |at: &&Timestamp| now.duration_since(**at) < SignedDuration::from_hours(24);
    let ledger = Ledger::beside(&state);
    match (ledger.spent(now), lines) {
        (Ok(spent), Some(lines)) => {
            assert_eq!(spent.len(), lines.iter().filter(counts).count());
            let more = ledger.spend(now).unwrap();
            assert_eq!(more.len(), spent.len() + 1);
            assert_eq!(Ledger::spent(&ledger, now).unwrap().len(), more.len());
        }
        (Ok(spent), None) => panic!("{spent:?} of what cannot be read"),
        (Err(_), lines) => assert!(lines.is_none()),
    }
}

/// Of a unit only names of programs and a folder are kept.
pub fn unit_file(data: &[u8]) {
    let folder = folder().join("units");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a.service"), data).unwrap();
    let units = units::in_folders(&[folder.clone(), folder.clone()]);
    assert_eq!(units.len(), usize::from(std::str::from_utf8(data).is_ok()), "the same name twice is one");
    for unit in units {
        assert!(unit.folder.is_none_or(|folder| folder.is_absolute()));
        assert!(unit.programs.len() <= 4 && unit.programs.iter().all(|name| !name.contains('/') && !name.is_empty()));
    }
}

/// A configuration that `doctor` writes is read as it was meant.
pub fn written_config(data: &[u8]) {
    let [root, process, note] = parts(data);
    let mut host = generic::host();
    host.root = Some(Path::new(OsStr::from_bytes(root)).to_owned());
    host.notes = vec![String::from_utf8_lossy(note).into_owned()];
    let process = std::str::from_utf8(process).ok().filter(|word| !word.trim().is_empty());
    let told = written::Told {
        state_file: host.root.as_deref(),
        url: None,
        listen: None,
        state: None,
        pid_file: None,
        process,
        token_file: None,
        web_config: None,
    };
    match written::text(&host, &told) {
        Ok(text) => {
            is_plain(&text);
            let read = Config::parse(&text, "written").unwrap_or_else(|error| panic!("{error:#}\n{text}"));
            assert_eq!((&read.host.root, &read.host.state_file), (&host.root, &host.root));
            assert_eq!(read.host.process.as_deref(), process);
        }
        Err(_) => assert!(std::str::from_utf8(root).is_err()),
    }
}
