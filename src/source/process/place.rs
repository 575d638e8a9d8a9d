//! Where a process stands on its machine: whose it is, on which ports it listens, which unit or container started it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::Serialize;

use super::{Processes, open_files};

/// What could not be seen is null.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Place {
    pub user: Option<u32>,
    /// TCP ports, sorted.
    pub ports: Option<Vec<u16>>,
    /// Of systemd.
    pub unit: Option<String>,
    /// The id that its engine gave it.
    pub container: Option<String>,
}

impl Processes {
    /// Where this process stands.
    pub fn place(&self, pid: u32) -> Place {
        place(&Path::new("/proc").join(pid.to_string()))
    }
}

fn place(folder: &Path) -> Place {
    let groups = std::fs::read_to_string(folder.join("cgroup")).unwrap_or_default();
    Place {
        user: folder.metadata().ok().map(|found| found.uid()),
        ports: ports(folder),
        unit: unit(&groups),
        container: container(&groups),
    }
}

/// `None` if its open files, by which sockets are told from those of others, are not ours to see.
fn ports(folder: &Path) -> Option<Vec<u16>> {
    let of = |fd| std::fs::read_link(folder.join("fd").join(fd)).ok().and_then(|link| socket(link.to_str()?));
    let own: BTreeSet<u64> = open_files(folder).ok()?.into_iter().filter_map(of).collect();
    let table = |name: &str| std::fs::read_to_string(folder.join("net").join(name)).ok();
    let tables = [table("tcp"), table("tcp6")];
    if tables.iter().all(Option::is_none) {
        return None;
    }
    let listening = tables.iter().flatten().flat_map(|text| text.lines()).filter_map(listener);
    let ports: BTreeSet<u16> = listening.filter(|(_, inode)| own.contains(inode)).map(|(port, _)| port).collect();
    Some(ports.into_iter().collect())
}

fn socket(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Port and inode of a line of `/proc/net/tcp` that listens (state 0A).
fn listener(line: &str) -> Option<(u16, u64)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
    (*state == "0A").then_some((port, inode.parse().ok()?))
}

/// The innermost service on the way down: `0::/user.slice/user-1000.slice/user@1000.service/app.slice/pynchy.service`.
fn unit(groups: &str) -> Option<String> {
    let mut parts = groups.lines().filter_map(|line| line.splitn(3, ':').nth(2)).flat_map(|path| path.split('/'));
    let unit = parts.rfind(|part| part.ends_with(".service") && !part.starts_with("user@"));
    unit.map(str::to_owned)
}

/// The last part that has an id of 64 hexadecimal digits: `docker-0123….scope`, or the id alone.
fn container(groups: &str) -> Option<String> {
    let parts = groups.lines().flat_map(|line| line.split('/'));
    let id = |part: &str| {
        let id = part.trim_end_matches(".scope").rsplit('-').next().unwrap_or_default().to_owned();
        (id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(id)
    };
    parts.filter_map(id).next_back()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_is_told_from_what_is_connected() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let place = Processes::default().place(std::process::id());
        let ports = place.ports.unwrap();
        assert!(ports.contains(&port) && ports.is_sorted(), "{ports:?}");
        assert_eq!(place.user, Some(rustix::process::geteuid().as_raw()));
        let client = _client.local_addr().unwrap().port();
        assert!(!ports.contains(&client));
        assert_eq!(Processes::default().place(u32::MAX), Place::default());
    }

    #[test]
    fn a_unit_and_a_container_stand_in_the_control_group() {
        let id = "0123456789abcdef".repeat(4);
        let user = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/pynchy.service\n";
        assert_eq!((unit(user).as_deref(), container(user)), (Some("pynchy.service"), None));
        assert_eq!(unit("0::/user.slice/user@1000.service/session.slice\n"), None);
        for path in [format!("0::/system.slice/docker-{id}.scope\n"), format!("12:pids:/docker/{id}\n0::/\n")] {
            assert_eq!((container(&path), unit(&path)), (Some(id.clone()), None));
        }
        assert_eq!((container("0::/\n"), unit("")), (None, None));
    }
}
