//! Which agent hosts there are on this machine: those that run, and those that a unit of systemd would start.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Candidate, Profile, candidates, netclaw, openclaw, pi_web, pynchy};
use crate::source::process::place::Place;
use crate::source::process::{Cwd, Processes};
use crate::source::units::Unit;

/// One host.
#[derive(Debug, Clone, PartialEq)]
pub struct Spotted {
    pub profile: Profile,
    /// `None` if nothing of it hangs off a folder, or the folder is not ours to see.
    pub root: Option<PathBuf>,
    /// Into which pi-web writes.
    pub state_file: Option<PathBuf>,
    /// `None`: it does not run.
    pub pid: Option<u32>,
    pub place: Place,
    /// We may not see what we need to find it: run as its user.
    pub is_hidden: bool,
}

/// What each kind is called when it runs.
const PROGRAMS: [(Profile, &str); 4] = [
    (Profile::Pynchy, pynchy::PROGRAM),
    (Profile::Netclaw, netclaw::PROGRAM),
    (Profile::Openclaw, openclaw::PROGRAM),
    (Profile::PiWeb, "pi-web"),
];

/// Looks for all of them. A folder that is a pynchy's and that we stand in counts, though none runs there.
///
/// # Errors
/// The processes cannot be listed.
pub fn look(processes: &Processes, units: &[Unit], cwd: &Path, home: Option<&Path>) -> Result<Vec<Spotted>> {
    let table = processes.list().context("look for running hosts")?;
    let state = pi_web::state_file(home.map(Path::as_os_str));
    let mut all: Vec<Spotted> =
        candidates(&table, state.as_deref()).iter().map(|found| running(found, processes)).collect();
    let hidden = table.alive().filter(|process| process.runs(pynchy::PROGRAM) && process.cwd == Cwd::Denied);
    for process in hidden {
        let is_child = table.ancestors(process).any(|above| above.runs(pynchy::PROGRAM) && above.cwd == Cwd::Denied);
        if !is_child {
            let place = processes.place(process.pid());
            all.push(Spotted { pid: Some(process.pid()), place, is_hidden: true, ..Spotted::of(Profile::Pynchy) });
        }
    }
    if let Some(root) = cwd.canonicalize().ok().filter(|root| pynchy::is_root(root))
        && !all.iter().any(|one| one.root.as_ref() == Some(&root))
    {
        all.push(Spotted { root: Some(root), ..Spotted::of(Profile::Pynchy) });
    }
    for unit in units {
        let started = by(unit);
        let known = |one: &Spotted, other: &Spotted| {
            one.place.unit.as_deref() == Some(&*unit.name) || one.profile == other.profile && one.root == other.root
        };
        match started {
            Some(other) if !all.iter().any(|one| known(one, &other)) => all.push(other),
            _ => {}
        }
    }
    Ok(all)
}

fn running(found: &Candidate, processes: &Processes) -> Spotted {
    let pid = match found {
        Candidate::Pynchy { pid, .. } | Candidate::PiWeb { pid, .. } | Candidate::Other { pid, .. } => *pid,
    };
    let one = Spotted { pid: Some(pid), place: processes.place(pid), ..Spotted::of(found.profile()) };
    match found {
        Candidate::Pynchy { root, .. } => Spotted { root: Some(root.clone()), ..one },
        Candidate::PiWeb { state, .. } => Spotted { state_file: Some(state.clone()), ..one },
        Candidate::Other { .. } => one,
    }
}

/// The host that a unit would start; of a pynchy the folder must be one.
fn by(unit: &Unit) -> Option<Spotted> {
    let (profile, _) = PROGRAMS.iter().find(|(_, program)| unit.programs.iter().any(|one| one == program))?;
    let root = unit.folder.clone().filter(|_| *profile == Profile::Pynchy);
    let place = Place { unit: Some(unit.name.clone()), ..Place::default() };
    let found = root.is_some() || *profile != Profile::Pynchy;
    found.then(|| Spotted { root, place, ..Spotted::of(*profile) })
}

impl Spotted {
    fn of(profile: Profile) -> Spotted {
        Spotted { profile, root: None, state_file: None, pid: None, place: Place::default(), is_hidden: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::running::stage;

    fn unit(name: &str, program: &str, folder: Option<&Path>) -> Unit {
        Unit { name: name.to_owned(), programs: vec![program.to_owned()], folder: folder.map(Path::to_owned) }
    }

    fn ours(all: Vec<Spotted>, root: &Path) -> Vec<Spotted> {
        all.into_iter().filter(|one| one.root.as_deref() == Some(root)).collect()
    }

    #[test]
    fn a_host_is_spotted_once_running_or_by_its_unit_or_where_we_stand() {
        let stage = stage::Root::new();
        std::fs::create_dir(stage.path.join("data")).unwrap();
        std::fs::write(stage.path.join("data/messages.db"), "").unwrap();
        let (processes, nowhere) = (Processes::default(), Path::new("/"));
        let units = [unit("p.service", "pynchy", Some(&stage.path)), unit("other.service", "nginx", Some(&stage.path))];
        let look = |units: &[Unit], cwd: &Path| ours(look(&processes, units, cwd, None).unwrap(), &stage.path);
        assert_eq!(look(&[], nowhere), []);
        let by_unit = look(&units, nowhere);
        assert_eq!((by_unit.len(), by_unit[0].pid, by_unit[0].place.unit.as_deref()), (1, None, Some("p.service")));
        assert_eq!(look(&units, &stage.path).len(), 1);
        let host = stage.host();
        let both = look(&units, &stage.path);
        assert_eq!((both.len(), both[0].pid, both[0].profile), (1, Some(host.pid()), Profile::Pynchy));
        assert_eq!(both[0].place.user, Some(rustix::process::geteuid().as_raw()));
    }

    #[test]
    fn a_unit_of_a_pynchy_without_a_folder_says_nothing() {
        assert_eq!(by(&unit("p.service", "pynchy", None)), None);
        assert_eq!(by(&unit("n.service", "netclawd", Some(Path::new("/x")))).unwrap().root, None);
    }
}
