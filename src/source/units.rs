//! Services that systemd would start, by their files: what they run, and in which folder. Nothing else of a unit is kept, for
//! its command line and environment may hold keys.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where units stand, those of the machine's keeper first.
const FOLDERS: [&str; 4] =
    ["/etc/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];
/// And of a user, below the home.
const OF_A_USER: &str = ".config/systemd/user";
/// A longer one is none.
const LONGEST: u64 = 64 * 1024;

/// One service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    pub name: String,
    /// Names of its program, and of those that it hands to a launcher, without their folders.
    pub programs: Vec<String>,
    /// `WorkingDirectory=`, if that is a path.
    pub folder: Option<PathBuf>,
}

/// Every service of this machine and of this home.
pub fn all(home: Option<&Path>) -> Vec<Unit> {
    let own = home.map(|home| home.join(OF_A_USER));
    let folders: Vec<PathBuf> = FOLDERS.iter().map(PathBuf::from).chain(own).collect();
    in_folders(&folders)
}

/// Every service in these folders. Of a name that stands in several the first counts.
pub fn in_folders(folders: &[PathBuf]) -> Vec<Unit> {
    let mut units: Vec<Unit> = Vec::new();
    for entry in folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok()).flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = units.iter().any(|unit| unit.name == name); // the first one wins, as with systemd
        if name.ends_with(".service") && !known {
            units.extend(text(&entry.path()).map(|text| Unit::read(name, &text)));
        }
    }
    units
}

fn text(path: &Path) -> Option<String> {
    // A pipe would be waited for.
    path.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let mut text = String::new();
    File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}

impl Unit {
    fn read(name: String, text: &str) -> Unit {
        let text = text.replace("\\\n", " ");
        let value = |key: &str| {
            text.lines().rev().find_map(|line| line.trim().strip_prefix(key)?.trim().strip_prefix('=').map(str::trim))
        };
        let words = value("ExecStart").unwrap_or_default().split_whitespace();
        let base = |word: &str| {
            Path::new(word.trim_start_matches(['-', '@', '+', '!', ':']))
                .file_name()
                .map(|name| name.to_string_lossy().into_owned())
        };
        let folder = value("WorkingDirectory")
            .map(|folder| folder.trim_start_matches('-'))
            .filter(|folder| folder.starts_with('/'));
        // What follows the first option may be anything.
        let programs = words.take_while(|word| !word.starts_with("--")).filter_map(base).take(4).collect();
        Unit { name, programs, folder: folder.map(PathBuf::from) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_read_for_what_it_runs_and_where() {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("etc"), folder.path().join("lib"));
        for (place, name, text) in [
            (
                &first,
                "pynchy.service",
                "[Service]\nEnvironment=KEY=sk-secret\nWorkingDirectory=/srv/pynchy\nExecStart=/usr/bin/uv run \\\n  pynchy --token sk-secret\n",
            ),
            (&second, "pynchy.service", "[Service]\nExecStart=/bin/other\n"),
            (&second, "netclaw.service", "[Service]\nExecStart=-/opt/netclawd\nWorkingDirectory=~\n"),
            (&second, "empty.service", ""),
            (&second, "x.timer", "[Service]\nExecStart=/bin/pynchy\n"),
        ] {
            std::fs::create_dir_all(place).unwrap();
            std::fs::write(place.join(name), text).unwrap();
        }
        let mut units = in_folders(&[first, second, folder.path().join("none")]);
        units.sort_by(|a, b| a.name.cmp(&b.name));
        let unit = |name: &str, programs: &[&str], folder: Option<&str>| Unit {
            name: name.to_owned(),
            programs: programs.iter().map(|&program| program.to_owned()).collect(),
            folder: folder.map(PathBuf::from),
        };
        assert_eq!(
            units,
            [
                unit("empty.service", &[], None),
                unit("netclaw.service", &["netclawd"], None),
                unit("pynchy.service", &["uv", "run", "pynchy"], Some("/srv/pynchy")),
            ]
        );
    }
}
