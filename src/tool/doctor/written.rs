//! A configuration for one host, and the file that it becomes. Nothing secret is in it: tokens stay in files of their own.

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::host::{Host, Profile};
use crate::tool::ask::plain;

/// What was said beside what was found.
pub struct Told<'a> {
    /// Where pi-web writes its pid and port.
    pub state_file: Option<&'a Path>,
    /// The host's API.
    pub url: Option<&'a str>,
    /// Addresses to listen on, if they are not to be the default.
    pub listen: Option<Vec<String>>,
    /// Where verdicts are kept.
    pub state: Option<PathBuf>,
    /// By what it is known, where no folder says it.
    pub pid_file: Option<&'a Path>,
    pub process: Option<&'a str>,
    pub token_file: Option<&'a Path>,
    /// What guards the doors.
    pub web_config: Option<PathBuf>,
}

/// The text. What it leaves out is found again at each start.
///
/// # Errors
/// A path is no text.
pub fn text(host: &Host, told: &Told<'_>) -> Result<String> {
    let mut text = String::from(
        "# Written by `agenthost-exporter doctor --write`. Every key is optional; `agenthost-exporter config check` says\n\
         # whether it is right, and `agenthost-exporter doctor` what can be seen with it.\n\n[host]\n",
    );
    let _ = writeln!(text, "profile = {}", quoted(host.profile.name()));
    let paths = [
        ("root", host.root.as_deref()),
        ("state_file", told.state_file),
        ("pid_file", told.pid_file),
        ("token_file", told.token_file),
    ];
    for (key, path) in paths {
        if let Some(path) = path {
            let _ = writeln!(text, "{key} = {}", quoted(word(path)?));
        }
    }
    if let Some(process) = told.process {
        let _ = writeln!(text, "process = {}", quoted(process));
    }
    let found = host.url.as_ref().and_then(|url| url.read().ok());
    text += &match (told.url, found) {
        (Some(url), _) => format!("url = {}\n", quoted(url)),
        (None, Some(url)) => format!("# url = {}  # found by itself\n", quoted(&plain(&url))),
        (None, None) => String::new(),
    };
    if host.profile != Profile::Pynchy && told.token_file.is_none() {
        text.push_str("# token_file = \"/run/secrets/host\"  # the token that its API wants\n");
    }
    for note in &host.notes {
        let _ = writeln!(text, "# {}", plain(note));
    }
    if told.listen.is_some() || told.web_config.is_some() {
        text += "\n[web]\n";
    }
    if let Some(listen) = &told.listen {
        let listen: Vec<String> = listen.iter().map(|address| quoted(address)).collect();
        let _ = writeln!(text, "listen = [{}]", listen.join(", "));
    }
    if let Some(file) = &told.web_config {
        let _ = writeln!(text, "config_file = {}", quoted(word(file)?));
    }
    text += &match &told.state {
        Some(state) => format!("\n[state]\npath = {}\n", quoted(word(state)?)),
        None => {
            "\n# [state]\n# path = \"/var/lib/agenthost-exporter/state.db\"  # verdicts outlive a restart\n".to_owned()
        }
    };
    Ok(text)
}

/// A string of JSON is one of TOML, but for one letter.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

fn word(path: &Path) -> Result<&str> {
    path.to_str().with_context(|| format!("{}: a path that is no text cannot stand in a configuration", path.display()))
}

/// Writes it for everybody to read. What is there stays, unless it may be replaced: then it is, at once and whole, and is
/// kept beside it as `FILE.bak`.
///
/// # Errors
/// There is one already, or it cannot be written.
pub fn write(file: &Path, text: &str, force: bool) -> Result<()> {
    let naming = || format!("write {}", file.display());
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(naming)?;
    if force {
        if file.exists() {
            let mut kept = file.as_os_str().to_owned();
            kept.push(".bak");
            std::fs::copy(file, &kept).with_context(naming)?;
        }
        let mut new = tempfile::NamedTempFile::new_in(folder).with_context(naming)?;
        new.write_all(text.as_bytes()).with_context(naming)?;
        new.as_file().set_permissions(std::fs::Permissions::from_mode(0o644)).with_context(naming)?;
        new.persist(file).with_context(naming)?;
        return Ok(());
    }
    match std::fs::File::options().write(true).create_new(true).mode(0o644).open(file) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            bail!("{} is there already: --force overwrites it, --write=FILE writes another", file.display())
        }
        opened => opened.and_then(|mut file| file.write_all(text.as_bytes())).with_context(naming),
    }
}
