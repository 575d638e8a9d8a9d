//! What keeps us from a file, exactly: which folder or file on the way to it, whose it is, and which group would do.

use std::ffi::OsStr;
use std::fmt;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, AtFlags, CWD, accessat};

/// As whom we look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Us {
    pub user: u32,
    pub groups: Vec<u32>,
    /// Processes of others may be looked into (CAP_SYS_PTRACE); `None` if nobody says.
    pub may_trace: Option<bool>,
}

impl Us {
    /// Who we are now.
    pub fn now() -> Us {
        let mut groups = vec![rustix::process::getegid().as_raw()];
        groups.extend(rustix::process::getgroups().unwrap_or_default().iter().map(|group| group.as_raw()));
        groups.sort_unstable();
        groups.dedup();
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default(); // then nobody knows what we may
        Us { user: rustix::process::geteuid().as_raw(), groups, may_trace: may_trace(&status) }
    }
}

/// `None` if it does not say.
fn may_trace(status: &str) -> Option<bool> {
    const SYS_PTRACE: u64 = 1 << 19;
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = u64::from_str_radix(effective?.trim(), 16).ok()?;
    Some(bits & SYS_PTRACE != 0)
}

impl fmt::Display for Us {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<String> = self.groups.iter().map(|&group| named("/etc/group", group)).collect();
        let trace = match self.may_trace {
            Some(true) => "with",
            Some(false) => "without",
            None => "perhaps with",
        };
        write!(f, "user {}, groups {}, {trace} CAP_SYS_PTRACE", named("/etc/passwd", self.user), groups.join(" "))
    }
}

/// What stands in the way, in words that say what to do.
pub fn obstacle(path: &Path, us: &Us) -> Option<String> {
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    for (folder, next) in above.iter().zip(above.iter().skip(1)) {
        match next.symlink_metadata() {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                return Some(closed(folder, Access::EXEC_OK, us));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => return Some(missing(folder, next)),
            Err(error) => return Some(format!("{}: {error}", next.display())),
        }
    }
    let found = path.metadata().ok()?;
    let wanted = match found.file_type() {
        kind if kind.is_dir() => Access::READ_OK | Access::EXEC_OK,
        kind if kind.is_socket() => Access::READ_OK | Access::WRITE_OK,
        _ => Access::READ_OK,
    };
    let may = accessat(CWD, path, wanted, AtFlags::EACCESS).is_ok();
    (!may).then(|| closed(path, wanted, us))
}

/// The first of these below which something stands in the way: of a folder what is in it too.
pub fn obstacle_below(folder: &Path, names: &[&str], us: &Us) -> Option<String> {
    let below = names
        .iter()
        .map(|name| folder.join(name))
        .filter(|path| !path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound));
    [folder.to_owned()].into_iter().chain(below).find_map(|path| obstacle(&path, us))
}

fn missing(folder: &Path, next: &Path) -> String {
    let name = next.file_name().unwrap_or_default().display();
    format!("{} has no `{name}`: if it is elsewhere, mount it here or correct the path", folder.display())
}

fn closed(path: &Path, wanted: Access, us: &Us) -> String {
    let Ok(found) = path.metadata() else { return format!("{} may not be looked at", path.display()) };
    let way = ways(path, &found, wanted, us);
    format!("{} is of {}, mode {:04o}: {way}", path.display(), owner(&found), found.mode() & 0o7777)
}

fn owner(found: &Metadata) -> String {
    format!("user {} and group {}", named("/etc/passwd", found.uid()), named("/etc/group", found.gid()))
}

/// The group is named first: it is less than to be the owner.
fn ways(path: &Path, found: &Metadata, wanted: Access, us: &Us) -> String {
    let bits = [(Access::READ_OK, 0o4, 'r'), (Access::WRITE_OK, 0o2, 'w'), (Access::EXEC_OK, 0o1, 'x')];
    let bits = bits.into_iter().filter(|(access, ..)| wanted.contains(*access));
    let (mask, letters) =
        bits.fold((0, String::new()), |(mask, letters), (_, bit, letter)| (mask | bit, format!("{letters}{letter}")));
    let (user, group) = (named("/etc/passwd", found.uid()), found.gid());
    if found.uid() == us.user {
        return format!("it is ours: {}", command(&format!("chmod u+{letters}"), path));
    }
    let in_group = us.groups.contains(&group);
    let group_may = found.mode() >> 3 & mask == mask;
    match (group_may, in_group) {
        (true, false) => format!(
            "run in group {} (--group-add {group}, SupplementaryGroups={group}), or as user {user}",
            named("/etc/group", group)
        ),
        (false, true) => format!("{}, or run as user {user}", command(&format!("chmod g+{letters}"), path)),
        _ => format!("run as user {user}, or {}", command(&format!("setfacl -m u:{}:{letters}", us.user), path)),
    }
}

/// For a shell: whoever names a folder of the host does not name a command.
fn command(words: &str, path: &Path) -> String {
    match path.to_str() {
        Some(text) if text.chars().any(char::is_control) => {
            format!("`{words}` of it, by hand: its name has control characters")
        }
        Some(text) if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+@%,:=".contains(&byte)) => {
            format!("`{words} {text}`")
        }
        Some(text) => format!("`{words} '{}'`", text.replace('\'', "'\\''")),
        None => format!("`{words}` of it, by hand: its name is no text"),
    }
}

/// A number, and its name if this machine has one for it.
pub fn named(file: &str, number: u32) -> String {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let name = lines.find_map(|fields| (fields.get(2)?.parse() == Ok(number)).then(|| fields[0].to_owned()));
    name.map_or_else(|| number.to_string(), |name| format!("{number} ({name})"))
}

/// Absolute paths that a text names.
pub fn paths(text: &str) -> Vec<PathBuf> {
    let words = text.split(|letter: char| letter.is_whitespace() || "`'\"()".contains(letter));
    let bare = words.map(|word| word.trim_end_matches([':', ',', ';', '.']));
    bare.filter(|word| word.starts_with('/') && word.len() > 1)
        .map(|word| Path::new(OsStr::new(word)).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::host::running::stage::unprivileged;

    fn mode(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    /// As nobody in particular, what stands in the way of a file; the folder above all is closed to others.
    fn seen(act: impl FnOnce() -> Option<String> + Send) -> Option<String> {
        let own = tempfile::tempdir().unwrap();
        unprivileged(own.path(), act)
    }

    #[test]
    fn a_folder_names_no_command() {
        let of = |name: &str| command("chmod g+r", Path::new(name));
        assert_eq!(of("/srv/a-b/c.db"), "`chmod g+r /srv/a-b/c.db`");
        assert_eq!(of("/srv/a b"), "`chmod g+r '/srv/a b'`");
        assert_eq!(of("/srv/x;touch${IFS}y"), "`chmod g+r '/srv/x;touch${IFS}y'`");
        assert_eq!(of("/srv/it's"), "`chmod g+r '/srv/it'\\''s'`");
        assert!(of("/srv/a\u{1b}[2Kb").ends_with("has control characters"));
    }

    #[test]
    fn what_stands_in_the_way_is_named_with_who_may() {
        let folder = tempfile::tempdir().unwrap();
        let us = Us { user: 65534, groups: vec![65534], may_trace: Some(false) };
        let root = folder.path().join("srv");
        let file = root.join("data/messages.db");
        std::fs::create_dir_all(root.join("data")).unwrap();
        std::fs::write(&file, "").unwrap();
        mode(folder.path(), 0o755);
        let look = || seen(|| obstacle(&file, &us));
        assert_eq!(look(), None);
        mode(&root.join("data"), 0o700);
        let data = root.join("data");
        if root.metadata().unwrap().uid() != 0 {
            return crate::source::skipped("what stands in the way", "only root can step down to another user");
        }
        let said = look().unwrap();
        assert!(
            said.starts_with(&format!("{} is of user 0 (root) and group 0 (root), mode 0700: ", data.display())),
            "{said}"
        );
        assert!(
            said.ends_with(&format!("run as user 0 (root), or `setfacl -m u:65534:x {}`", data.display())),
            "{said}"
        );
        std::os::unix::fs::chown(&data, None, Some(4321)).unwrap();
        mode(&data, 0o750);
        let said = look().unwrap();
        assert!(
            said.contains("run in group 4321 (--group-add 4321, SupplementaryGroups=4321), or as user 0"),
            "{said}"
        );
        mode(&data, 0o755);
        mode(&file, 0o600);
        let said = look().unwrap();
        assert!(said.starts_with(&format!("{} is of user 0", file.display())) && said.contains(":r "), "{said}");
        std::fs::remove_file(&file).unwrap();
        let said = look().unwrap();
        assert_eq!(
            said,
            format!("{} has no `messages.db`: if it is elsewhere, mount it here or correct the path", data.display())
        );
        let said = seen(|| obstacle_below(&data, &["nothing", "none"], &us));
        assert_eq!(said, None, "what is not there stands in no way");
    }

    #[test]
    fn a_member_of_the_group_is_told_the_mode() {
        let folder = tempfile::tempdir().unwrap();
        let found = folder.path().metadata().unwrap();
        let us = Us { user: 65534, groups: vec![found.gid()], may_trace: Some(false) };
        mode(folder.path(), 0o700);
        let found = folder.path().metadata().unwrap();
        let way = ways(folder.path(), &found, Access::READ_OK | Access::EXEC_OK, &us);
        assert!(way.starts_with(&format!("`chmod g+rx {}`, or run as user ", folder.path().display())), "{way}");
    }

    #[test]
    fn paths_are_found_in_a_text() {
        let text = "read /srv/p/data/messages.db: permission denied (see `/etc/x.toml`), http://h/p and /.";
        let found: Vec<_> = paths(text).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(found, ["/srv/p/data/messages.db", "/etc/x.toml"]);
    }

    #[test]
    fn a_capability_is_a_bit() {
        assert_eq!(
            ["Name:\tx\nCapEff:\t000001ffffffffff\n", "CapEff:\t00000000a80425fb\n", "", "CapEff:\tx\n"].map(may_trace),
            [Some(true), Some(false), None, None]
        );
    }
}
