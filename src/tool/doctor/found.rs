//! The agent hosts of this machine, for people and for a configuration.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::host::Profile;
use crate::host::containers::Names;
use crate::host::spotted::{self, Spotted};
use crate::sample::Now;
use crate::source::process::place::Place;
use crate::source::rights::named;
use crate::source::{Sources, units};
use crate::tool::ask::{plain, wait};

/// All that was found.
#[derive(Debug, Serialize)]
pub struct Found {
    pub hosts: Vec<Host>,
    /// Why nobody can tell which containers there are; null if Docker told, or nobody asked.
    docker: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Host {
    profile: &'static str,
    root: Option<String>,
    pid: Option<u32>,
    #[serde(flatten)]
    place: Place,
    /// The name of the container that it runs in, if Docker tells.
    inside: Option<String>,
    /// Those that it runs, if Docker tells.
    containers: Vec<String>,
    /// Its folder is not ours to see.
    hidden: bool,
    #[serde(skip)]
    pub spotted: Spotted,
}

/// Looks at processes, units and, where it answers, Docker.
///
/// # Errors
/// The processes cannot be listed.
pub fn look(sources: &Sources, cwd: &Path, home: Option<&Path>) -> Result<Found> {
    let spotted = spotted::look(&sources.processes, &units::all(home), cwd, home)?;
    // Nobody asks it where no host is that could have containers.
    let listed = if spotted.is_empty() { None } else { Some(wait(sources.docker.list(Now::read()))?) };
    let containers: Vec<(String, String)> = match &listed {
        Some(Ok(listed)) => listed.containers.iter().map(|one| (one.id.to_string(), one.name.to_string())).collect(),
        _ => Vec::new(),
    };
    let hosts = spotted.into_iter().map(|one| Host::of(one, &containers)).collect();
    let docker = listed.and_then(Result::err).map(|error| plain(&format!("{:#}", anyhow::Error::from(error))));
    Ok(Found { hosts, docker })
}

impl Host {
    fn of(spotted: Spotted, containers: &[(String, String)]) -> Host {
        let inside = spotted.place.container.as_ref();
        let inside = inside.and_then(|id| containers.iter().find(|(known, _)| known == id));
        let names = (spotted.profile == Profile::Pynchy).then(Names::pynchy);
        let own = |name: &str| names.as_ref().is_some_and(|names| names.might_be(name));
        Host {
            profile: spotted.profile.name(),
            root: spotted.root.as_ref().map(|root| root.display().to_string()),
            pid: spotted.pid,
            place: spotted.place.clone(),
            inside: inside.map(|(_, name)| plain(name)),
            containers: containers.iter().filter(|(_, name)| own(name)).map(|(_, name)| plain(name)).collect(),
            hidden: spotted.is_hidden,
            spotted,
        }
    }

    /// The flag that chooses it.
    fn flag(&self) -> String {
        match &self.root {
            Some(root)
                if root
                    .contains(|letter: char| letter.is_whitespace() || "'\"$`\\;&|<>()*?[]{}!#~".contains(letter)) =>
            {
                format!("--host.root='{}'", plain(root).replace('\'', "'\\''"))
            }
            Some(root) => format!("--host.root={}", plain(root)),
            None => format!("--host.profile={}", self.profile),
        }
    }
}

impl Found {
    /// The only one that can be watched.
    ///
    /// # Errors
    /// There is none, or more than one: then it says how to choose.
    pub fn only(&self) -> Result<&Host> {
        let seen: Vec<&Host> = self.hosts.iter().filter(|host| !host.hidden).collect();
        match seen.as_slice() {
            [one] => Ok(one),
            [] if self.hosts.is_empty() => {
                bail!("no host found: name one with --host.root=FOLDER or --host.profile=PROFILE")
            }
            [] => {
                bail!("the hosts that run here are of other users: run as theirs, or name one with --host.root=FOLDER")
            }
            several => {
                let flags: Vec<String> = several.iter().map(|host| host.flag()).collect();
                bail!("{} hosts found: choose one with {}", several.len(), flags.join(" or "))
            }
        }
    }
}

/// As a list for people.
pub fn render(found: &Found) -> String {
    let mut text = String::new();
    for host in &found.hosts {
        let folder = host.root.as_deref().map_or_else(|| "(no folder)".to_owned(), plain);
        let _ = writeln!(text, "{:<9} {folder}", host.profile);
        for line in lines(host) {
            let _ = writeln!(text, "          {line}");
        }
    }
    if found.hosts.is_empty() {
        let _ = writeln!(text, "no agent host runs here, and no unit of systemd would start one");
    }
    if let Some(error) = &found.docker {
        let _ = writeln!(text, "containers are not known: {error}");
    }
    text
}

fn lines(host: &Host) -> Vec<String> {
    let Place { user, ports, unit, container } = &host.place;
    let runs = match (host.pid, user) {
        (Some(pid), Some(user)) => format!("runs as process {pid} of user {}", named("/etc/passwd", *user)),
        (Some(pid), None) => format!("runs as process {pid}"),
        (None, _) => "does not run".to_owned(),
    };
    let ports = match ports.as_deref() {
        _ if host.pid.is_none() => None,
        None => Some("its ports are not ours to see".to_owned()),
        Some([]) => Some("listens on no port".to_owned()),
        Some(ports) => Some(format!("listens on {}", ports.iter().map(u16::to_string).collect::<Vec<_>>().join(", "))),
    };
    let unit = unit.as_ref().map(|unit| format!("started by {}", plain(unit)));
    let inside = container.as_ref().map(|id| {
        let name = host.inside.clone().unwrap_or_else(|| id.chars().take(12).collect());
        format!("in container {name}: its folder is another one there, so run beside it, in its process namespace")
    });
    let containers = (!host.containers.is_empty()).then(|| format!("containers: {}", host.containers.join(" ")));
    let hidden = host.hidden.then(|| "its folder is not ours to see: run as its user".to_owned());
    let chosen = (!host.hidden).then(|| format!("watch it with {}", host.flag()));
    [Some(runs), ports, unit, inside, containers, hidden, chosen].into_iter().flatten().collect()
}
