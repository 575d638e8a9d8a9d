//! Control groups: what a container's processes use, as the kernel counts it, by files that cost microseconds to read.
//!
//! Both versions. Asking the engine instead would take a second for each container.

use std::path::{Component, Path, PathBuf};

/// Where control groups and processes show. Clones are the same.
#[derive(Debug, Clone)]
pub struct Cgroups {
    root: PathBuf,
    processes: PathBuf,
}

impl Default for Cgroups {
    fn default() -> Cgroups {
        Cgroups::at("/sys/fs/cgroup", "/proc")
    }
}

/// What one container has used. What cannot be read is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Used {
    /// Without the file cache that the kernel would give back first, as Docker and Kubernetes count.
    pub memory_bytes: Option<u64>,
    /// Since its latest start.
    pub cpu_seconds: Option<f64>,
    /// Processes of it that were killed for memory since its latest start; the container may have lived on.
    pub oom_kills: Option<u64>,
}

/// Where engines hang what has no parent of its own: Docker by files and by systemd, Podman.
const PARENTS: &[&str] = &["docker", "system.slice", "machine.slice", "libpod_parent"];

impl Cgroups {
    /// With the control groups of the machine in this folder, and its processes in that one.
    pub fn at(root: impl Into<PathBuf>, processes: impl Into<PathBuf>) -> Cgroups {
        Cgroups { root: root.into(), processes: processes.into() }
    }

    /// What a running container uses: by its id, its first process, and the parent it was given, if any.
    pub fn used(&self, id: &str, pid: Option<u32>, parent: Option<&str>) -> Used {
        if self.root.join("cgroup.controllers").exists() {
            self.places(id, pid, parent, "").map_or(Used::default(), |place| version_2(&place))
        } else {
            let place = |controller| self.places(id, pid, parent, controller);
            version_1(place("memory").as_deref(), place("cpuacct").as_deref())
        }
    }

    /// Whether a process that we see is one of the container's.
    pub fn is_of(&self, pid: u32, id: &str) -> bool {
        let text = std::fs::read_to_string(self.processes.join(pid.to_string()).join("cgroup"));
        text.is_ok_and(|text| text.lines().any(|line| line.contains(id)))
    }

    /// The container's folder below a controller's, or below the root where all share one.
    fn places(&self, id: &str, pid: Option<u32>, parent: Option<&str>, controller: &str) -> Option<PathBuf> {
        let by_process = pid.and_then(|pid| self.of_process(pid, id, controller));
        let parents = parent.into_iter().chain(PARENTS.iter().copied());
        let by_name = parents.flat_map(|parent| {
            ["", "docker-", "libpod-"]
                .map(|prefix| [format!("{parent}/{prefix}{id}"), format!("{parent}/{prefix}{id}.scope")])
        });
        let base = self.root.join(controller);
        let inside = |path: String| base.join(path.trim_start_matches('/'));
        by_process.into_iter().chain(by_name.flatten()).map(inside).find(|place| place.is_dir())
    }

    /// As the kernel tells it of the process. Ours may be another namespace of pids, in which this is another process:
    /// so the path must hold the container's id.
    fn of_process(&self, pid: u32, id: &str, controller: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.processes.join(pid.to_string()).join("cgroup")).ok()?;
        let mut lines = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
        let (_, path) = lines.find(|(controllers, _)| controllers.split(',').any(|name| name == controller))?;
        let plain = Path::new(path).components().all(|part| !matches!(part, Component::ParentDir));
        (plain && path.contains(id)).then(|| path.to_owned())
    }
}

fn version_2(place: &Path) -> Used {
    let memory = number(&place.join("memory.current"));
    let cache = keyed(&place.join("memory.stat"), "inactive_file");
    Used {
        memory_bytes: memory.map(|memory| memory.saturating_sub(cache.unwrap_or(0))),
        cpu_seconds: keyed(&place.join("cpu.stat"), "usage_usec").map(|micros| micros as f64 / 1e6),
        oom_kills: keyed(&place.join("memory.events"), "oom_kill"),
    }
}

fn version_1(memory: Option<&Path>, cpu: Option<&Path>) -> Used {
    let used = memory.and_then(|place| number(&place.join("memory.usage_in_bytes")));
    let cache = memory.and_then(|place| keyed(&place.join("memory.stat"), "total_inactive_file"));
    Used {
        memory_bytes: used.map(|used| used.saturating_sub(cache.unwrap_or(0))),
        cpu_seconds: cpu.and_then(|place| number(&place.join("cpuacct.usage"))).map(|nanos| nanos as f64 / 1e9),
        oom_kills: memory.and_then(|place| keyed(&place.join("memory.oom_control"), "oom_kill")),
    }
}

fn number(file: &Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number behind a word at the beginning of a line.
fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(word, _)| *word == key)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine whose files are these.
    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Cgroups) {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let file = folder.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let cgroups = Cgroups::at(folder.path().join("cgroup"), folder.path().join("proc"));
        (folder, cgroups)
    }

    const ID: &str = "43d770b1395d9f77";
    const USED: Used = Used { memory_bytes: Some(700), cpu_seconds: Some(1.5), oom_kills: Some(2) };

    fn version_2_in(place: &str) -> Vec<(String, &'static str)> {
        let files = [
            ("memory.current", "1000\n"),
            ("memory.stat", "anon 5\nfile 900\ninactive_file 300\nactive_file 600\n"),
            ("cpu.stat", "usage_usec 1500000\nuser_usec 1\n"),
            ("memory.events", "low 0\nhigh 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 0\n"),
        ];
        let mut files = files.map(|(name, text)| (format!("cgroup/{place}/{name}"), text)).to_vec();
        files.push(("cgroup/cgroup.controllers".to_owned(), "cpu memory\n"));
        files
    }

    fn used_in(files: &[(String, &str)], pid: Option<u32>, parent: Option<&str>) -> Used {
        let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
        let (_folder, cgroups) = machine(&files);
        cgroups.used(ID, pid, parent)
    }

    #[test]
    fn version_2_is_read_where_engines_hang_their_containers() {
        for place in
            ["docker/ID", "system.slice/docker-ID.scope", "machine.slice/libpod-ID.scope", "libpod_parent/libpod-ID"]
        {
            assert_eq!(used_in(&version_2_in(&place.replace("ID", ID)), None, None), USED, "{place}");
        }
        let elsewhere = version_2_in(&format!("agents.slice/docker-{ID}.scope"));
        assert_eq!(used_in(&elsewhere, None, None), Used::default());
        assert_eq!(used_in(&elsewhere, None, Some("agents.slice")), USED);
        assert_eq!(used_in(&elsewhere, None, Some("/agents.slice")), USED);
    }

    #[test]
    fn its_process_tells_where_it_hangs_unless_it_is_another_one() {
        let place = format!("user.slice/user-1000.slice/app/docker-{ID}.scope");
        let mut files = version_2_in(&place);
        files.push(("proc/7/cgroup".to_owned(), ""));
        assert_eq!(used_in(&files, Some(7), None), Used::default());
        let line: &str = format!("0::/{place}\n").leak();
        files.last_mut().unwrap().1 = line;
        assert_eq!(used_in(&files, Some(7), None), USED);
        assert_eq!(used_in(&files, Some(8), None), Used::default());
        for other in ["0::/user.slice/user-1000.slice/app/docker-00.scope\n", "0::/../docker-43d770b1395d9f77.scope\n"]
        {
            files.last_mut().unwrap().1 = other;
            assert_eq!(used_in(&files, Some(7), None), Used::default(), "{other}");
        }
    }

    #[test]
    fn version_1_is_read_by_controller() {
        let memory = format!("cgroup/memory/docker/{ID}");
        let usage = format!("{memory}/memory.usage_in_bytes");
        let (stat, control) = (format!("{memory}/memory.stat"), format!("{memory}/memory.oom_control"));
        let cpu = format!("cgroup/cpuacct/docker/{ID}/cpuacct.usage");
        let files = [
            (usage.as_str(), "1000\n"),
            (&stat, "inactive_file 1\ntotal_inactive_file 300\n"),
            (&control, "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
            (&cpu, "1500000000\n"),
        ];
        let (_folder, cgroups) = machine(&files);
        assert_eq!(cgroups.used(ID, None, None), USED);
        let (_folder, cgroups) = machine(&files[..1]);
        assert_eq!(cgroups.used(ID, None, None), Used { memory_bytes: Some(1000), ..Used::default() });
        // In a private namespace each controller may lie elsewhere.
        let files = [
            ("proc/7/cgroup", "4:memory:/a/43d770b1395d9f77\n2:cpu,cpuacct:/b/43d770b1395d9f77\n0::/c\n"),
            ("cgroup/memory/a/43d770b1395d9f77/memory.usage_in_bytes", "7"),
            ("cgroup/cpuacct/b/43d770b1395d9f77/cpuacct.usage", "2000000000"),
        ];
        let (_folder, cgroups) = machine(&files);
        let used = Used { memory_bytes: Some(7), cpu_seconds: Some(2.0), oom_kills: None };
        assert_eq!(cgroups.used(ID, Some(7), None), used);
    }

    #[test]
    fn what_is_not_there_or_no_number_is_not_known() {
        let (_folder, cgroups) = machine(&[("cgroup/cgroup.controllers", "")]);
        assert_eq!(cgroups.used(ID, Some(7), Some("x")), Used::default());
        let mut files = version_2_in(&format!("docker/{ID}"));
        files.iter_mut().for_each(|(_, text)| *text = "max\n");
        assert_eq!(used_in(&files, None, None), Used::default());
        assert_eq!(Cgroups::at("/nonexistent", "/nonexistent").used(ID, Some(1), None), Used::default());
    }
}
