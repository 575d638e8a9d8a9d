//! What the kernel and git tell.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use agenthost_exporter::collect::{self, Collect};
use agenthost_exporter::host::running::{self, Seen};
use agenthost_exporter::host::{ProcessRule, generic};
use agenthost_exporter::sample::{Now, Sample};
use agenthost_exporter::source::Sources;
use agenthost_exporter::source::cgroup::{Cgroups, Used};
use agenthost_exporter::source::docker::Docker;
use agenthost_exporter::source::git::{self, Place};
use agenthost_exporter::source::process::proc::Proc;
use tokio::runtime::{Builder, Runtime};

use super::files::folder;
use super::{SECRET, keeps_secret, parts};

/// 20:00 on the day on which all plays.
pub fn now() -> Now {
    Now { mono: Duration::from_secs(100_000), wall: "2026-11-21T20:00:00Z".parse().unwrap() }
}

/// For what waits.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap())
}

/// One process by its files: it is what stands behind the last parenthesis, or it is not seen at all; its command line and
/// environment show nowhere.
pub fn process(data: &[u8]) {
    let root = folder().join("proc");
    let own = root.join("7");
    std::fs::create_dir_all(own.join("net")).unwrap();
    let [stat, cmdline, io, status, environ, tcp, boot] = parts(data);
    let files =
        [("stat", stat), ("cmdline", cmdline), ("io", io), ("status", status), ("environ", environ), ("net/tcp", tcp)];
    for (name, content) in files {
        std::fs::write(own.join(name), content).unwrap();
    }
    std::fs::write(root.join("stat"), boot).unwrap();
    let proc = Proc::at(&root);
    let scan = proc.scan().unwrap();
    let seen = scan.get(7).copied();
    assert_eq!(seen.map(|stat| (stat.parent, stat.cpu_ticks, stat.threads)), fields(&stat[..stat.len().min(4096)]));
    if let Some(seen) = seen {
        assert!(seen.started() <= Duration::from_secs(u64::MAX / 100 + 1) && seen.cpu() <= Duration::MAX);
        let _ = (seen.resident_bytes(), seen.is_zombie(), format!("{seen:?}"));
        assert_eq!(scan.ancestors(&seen).count(), if seen.parent == 7 { 1000 } else { 0 });
    }
    let words = proc.words(7).unwrap();
    assert_eq!(format!("{words:?}"), format!("{} words", words.iter().count()));
    let _ = (words.line(), words.program());
    let established = proc.established(7).unwrap();
    let all = String::from_utf8_lossy(tcp).lines().count();
    assert!(established.len() <= all && !established.contains(&0));
    if let Ok(io) = proc.io(7) {
        let text = String::from_utf8_lossy(data);
        assert!([io.read_chars, io.written_bytes].iter().all(|number| text.contains(&number.to_string())));
    }
    let depth = proc.depth(7);
    assert_eq!(depth.is_ok(), String::from_utf8_lossy(status).lines().any(|line| line.starts_with("NSpid:")));
    if let Some(value) = proc.variable(7, "PATH").unwrap() {
        assert!(String::from_utf8_lossy(environ).contains(&value));
    }
    if let Ok(table) = proc.table(&scan) {
        let _ = table.get(7).map(|process| process.runs("pynchy"));
    }
}

/// Parent, ticks and threads, as proc(5) has them.
fn fields(stat: &[u8]) -> Option<(u32, u64, u64)> {
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')').filter(|close| *close > open)?;
    if std::str::from_utf8(&stat[..open]).ok()?.trim().parse::<u32>().ok()? != 7 {
        return None;
    }
    let rest: Vec<&str> = std::str::from_utf8(&stat[close + 1..]).ok()?.split_ascii_whitespace().collect();
    let number = |field: usize| rest.get(field - 3)?.parse::<u64>().ok();
    let signed = |field: usize| rest.get(field - 3)?.parse::<i64>().ok();
    // What is used must be there: terminal, flags, start, pages.
    let _ = (signed(7)?, number(9)?, number(22)?, signed(24)?);
    Some((rest.get(1)?.parse().ok()?, number(14)?.checked_add(number(15)?)?, number(20)?))
}

/// One run of a collector.
pub fn collect(
    name: &str,
    table: &str,
    host: &agenthost_exporter::host::Host,
    sources: &Sources,
    now: Now,
) -> Option<(Box<dyn Collect>, anyhow::Result<Sample>)> {
    let mut collector = build(name, table, host, sources)?;
    let sample = collector.run(now, Duration::from_secs(20), runtime().handle());
    Some((collector, sample))
}

pub fn build(
    name: &str,
    table: &str,
    host: &agenthost_exporter::host::Host,
    sources: &Sources,
) -> Option<Box<dyn Collect>> {
    let subsystem = collect::ALL.iter().find(|one| one.name == name).unwrap();
    let table = (!table.is_empty()).then(|| toml::de::DeTable::parse(table).unwrap());
    (subsystem.plan)(table).unwrap()(host, sources).unwrap()
}

/// No number is made up: whatever is put is a number or unknown, and no counter is below zero.
pub fn are_numbers(sample: &Sample) {
    for point in &sample.points.0 {
        let name = point.fact.prometheus;
        assert!(point.value.is_none_or(f64::is_finite), "{name} is {:?}", point.value);
        assert!(
            !name.ends_with("_total") || point.value.is_none_or(|value| value >= 0.0),
            "{name} is {:?}",
            point.value
        );
    }
    serde_json::from_str::<serde_json::Value>(sample.section.get()).unwrap();
}

const RULES: &str = "presets = [\"pi\", \"claude\", \"codex\", \"opencode\", \"openclaw\", \"mcp\"]\n
    [[rule]]\nname = \"own\"\ncmdline = \"^(a|b)+ .*--x\"\n[[rule]]\nname = \"bot\"\nexe = \"bot\"\nancestor = \"pynchy\"\n";

/// Which kind of worker a command line is of, and whether it is the host's: no word of it shows, however it is made.
pub fn command_line(data: &[u8]) {
    let root = folder().join("workers");
    let [comm, words] = parts(data);
    thread_local! { static MADE: RefCell<bool> = const { RefCell::new(false) } }
    if !MADE.replace(true) {
        for pid in [1, 10, 20] {
            let own = root.join(pid.to_string());
            std::fs::create_dir_all(own.join("fd")).unwrap();
            std::fs::write(own.join("status"), format!("NSpid:\t{pid}\n")).unwrap();
            std::fs::write(own.join("io"), "rchar: 1\nwchar: 1\nread_bytes: 4096\nwrite_bytes: 8192\n").unwrap();
            std::os::unix::fs::symlink("/srv", own.join("cwd")).unwrap();
            std::fs::write(own.join("cmdline"), "pynchy").unwrap();
        }
        std::fs::write(root.join("stat"), "btime 1795200000\n").unwrap();
        std::os::unix::fs::symlink("pipe:[1]", root.join("20/fd/0")).unwrap();
    }
    let comm = String::from_utf8_lossy(&comm[..comm.len().min(15)]).replace(SECRET, "");
    for (pid, parent, comm) in [(1, 0, "init"), (10, 1, "pynchy"), (20, 10, &*comm)] {
        let stat = format!("{pid} ({comm}) S {parent} 1 1 0 -1 0 0 0 0 0 40 10 0 0 20 0 3 0 5000000 1 100");
        std::fs::write(root.join(pid.to_string()).join("stat"), stat).unwrap();
    }
    std::fs::write(root.join("20/cmdline"), [words, b"\0--key=", SECRET.as_bytes()].concat()).unwrap();
    let proc = Proc::at(&root);
    let sources = Sources { proc: proc.clone(), docker: Docker::at("/nonexistent"), ..Sources::default() };
    let mut host = generic::host();
    host.process = ProcessRule::Command("pynchy".to_owned());
    let Some((_, sample)) = collect("workers", RULES, &host, &sources, now()) else { panic!("there are presets") };
    let sample = sample.unwrap();
    are_numbers(&sample);
    keeps_secret(sample.section.get());
    sample.gaps.iter().for_each(|gap| keeps_secret(gap));
    let labels = sample.points.0.iter().flat_map(|point| &point.labels);
    labels.for_each(|label| keeps_secret(label));
    let table = proc.table(&proc.scan().unwrap()).unwrap();
    for word in ["pynchy", "x", "dist/cli.js", SECRET] {
        let seen = running::look(&table, &ProcessRule::Command(word.to_owned()), None);
        assert!(word != SECRET || !matches!(seen, Seen::Running(_)), "an option is no program");
    }
}

/// What a container uses is what its own group says, or not known.
pub fn cgroup(data: &[u8]) {
    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let root = folder().join("cgroup");
    let [groups, memory, stat, cpu, events] = parts(data);
    let place = root.join("docker").join(ID);
    for folder in [&place, &root.join("memory/docker").join(ID), &root.join("cpuacct/docker").join(ID), &root.join("7")]
    {
        std::fs::create_dir_all(folder).unwrap();
    }
    std::fs::write(root.join("7/cgroup"), groups).unwrap();
    let second = groups.first().is_none_or(|byte| byte & 1 == 0);
    let controllers = root.join("cgroup.controllers");
    let files: [(PathBuf, &[u8]); 8] = [
        (place.join("memory.current"), memory),
        (place.join("memory.stat"), stat),
        (place.join("cpu.stat"), cpu),
        (place.join("memory.events"), events),
        (root.join("memory/docker").join(ID).join("memory.usage_in_bytes"), memory),
        (root.join("memory/docker").join(ID).join("memory.stat"), stat),
        (root.join("memory/docker").join(ID).join("memory.oom_control"), events),
        (root.join("cpuacct/docker").join(ID).join("cpuacct.usage"), cpu),
    ];
    for (path, content) in files {
        std::fs::write(path, content).unwrap();
    }
    if second {
        std::fs::write(&controllers, "").unwrap()
    } else {
        drop(std::fs::remove_file(&controllers))
    }
    let cgroups = Cgroups::at(&root, &root);
    let used = cgroups.used(ID, Some(7), None);
    assert_eq!(used, cgroups.used(ID, Some(7), None));
    let number = std::str::from_utf8(memory).ok().and_then(|text| text.trim().parse::<u64>().ok());
    // The process may be said to be in another group of the container's, in which nothing is.
    if used != Used::default() {
        assert_eq!(used.memory_bytes.is_some(), number.is_some(), "{used:?}");
        assert!(used.memory_bytes.unwrap_or(0) <= number.unwrap_or(0) && used.cpu_seconds.is_none_or(f64::is_finite));
    }
    assert!(!cgroups.is_of(7, ID) || String::from_utf8_lossy(groups).contains(ID));
    assert_eq!(cgroups.used(&"f".repeat(64), Some(7), None), Used::default(), "of another nothing is told");
}

/// The files of a repository that anyone may write, each in turn: it is read, or it is broken; nothing of it is made up.
pub fn git(data: &[u8]) {
    let Some((&which, content)) = data.split_first() else { return };
    let root = repository();
    let name = FILES[usize::from(which & 0x7f) % FILES.len()];
    let path = root.join(".git").join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let before = std::fs::read(&path).ok();
    std::fs::write(&path, content).unwrap();
    let place = Place { folder: root.clone(), common: None };
    if which & 0x80 == 0 {
        if let Ok(checkout) = place.open() {
            let head = checkout.head();
            if let Ok(Some(sha)) = head.as_ref().map(|head| head.sha) {
                let _ = (checkout.subject(sha), checkout.compare(sha, sha, None));
            }
            let _ = (
                checkout.origin_main(),
                checkout.stashes(),
                checkout.last_fetch(),
                checkout.linked(),
                checkout.tip("refs/heads/main"),
            );
        }
    } else {
        let _ = git::look(&place, None, now().wall, |checkout, _| checkout.stashes());
        let _ = git::status(&place, now().wall);
    }
    match before {
        Some(before) => std::fs::write(&path, before).unwrap(),
        None => std::fs::remove_file(&path).unwrap(),
    }
    let head = place.open().unwrap().head().unwrap();
    assert!(head.sha.is_some(), "and all is as before");
}

const FILES: [&str; 22] = [
    "HEAD",
    "config",
    "index",
    "packed-refs",
    "MERGE_HEAD",
    "MERGE_MSG",
    "CHERRY_PICK_HEAD",
    "REVERT_HEAD",
    "BISECT_LOG",
    "rebase-merge/head-name",
    "rebase-merge/msgnum",
    "rebase-merge/end",
    "rebase-merge/onto",
    "rebase-apply/next",
    "rebase-apply/applying",
    "FETCH_HEAD",
    "refs/heads/main",
    "refs/remotes/origin/HEAD",
    "logs/refs/stash",
    "info/exclude",
    "shallow",
    "commondir",
];

/// With two commits and a file.
fn repository() -> PathBuf {
    let root = folder().join("tree");
    if !root.exists() {
        make(&root).unwrap();
    }
    root
}

fn make(root: &Path) -> Result<(), git2::Error> {
    std::fs::create_dir_all(root).unwrap();
    std::fs::write(root.join("a.txt"), "one\n").unwrap();
    let mut options = git2::RepositoryInitOptions::new();
    let repository = git2::Repository::init_opts(root, options.initial_head("main"))?;
    let mut index = repository.index()?;
    index.add_path(Path::new("a.txt"))?;
    index.write()?;
    let who = git2::Signature::new("Test", "test@example.com", &git2::Time::new(1_795_200_000, 0))?;
    let tree = repository.find_tree(index.write_tree()?)?;
    let first = repository.commit(Some("HEAD"), &who, &who, "one", &tree, &[])?;
    let first = repository.find_commit(first)?;
    repository.commit(Some("HEAD"), &who, &who, "two", &tree, &[&first])?;
    repository.reference("refs/remotes/origin/main", first.id(), true, "fetched")?;
    repository.reference_symbolic("refs/remotes/origin/HEAD", "refs/remotes/origin/main", true, "fetched")?;
    Ok(())
}
