//! Git, beside the git command line.

use super::*;
use crate::table::{Aim, row};

/// Worktrees: one small, 200 small, and one of 50 000 files; beside the git command line.
pub fn git() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let root = folder.path().canonicalize().expect("a path");
    let web = root.join("data/worktrees/acme/web");
    shell(&root, "printf '[server]\\nport = 1\\n[repos.\"acme/web\"]\\n' > config.toml; mkdir -p data/repos/acme/web");
    shell(&root.join("data/repos/acme/web"), SEED);
    shell(&root.join("data/repos/acme/web"), "git worktree add -q --no-track -b w ../../../worktrees/acme/web/w base");
    let before = resident(std::process::id());
    let (tick, full) = (best(200, ticks(&root, None)), best(200, ticks(&root, Some("0s"))));
    let command = best(200, || assert!(git_status(&web.join("w")).success()));
    say("a repository and a worktree: a tick without statuses", tick, "us");
    say("a repository and a worktree: a tick with both statuses, two at once", full, "us");
    say("beside it: one git status of the worktree", command, "us");
    // By CPU, as both trees are looked at at once.
    let one = cpu_of(full_or(1000, 2), ticks(&root, Some("0s"))) / 2.0 * 1e3;
    let of_children = |run: &dyn Fn()| cpu_of_children(full_or(300, 2), run) * 1e3;
    let command = of_children(&|| assert!(git_status(&web.join("w")).success()));
    row("a small worktree with its status, CPU", one, "ms", "one `git status`", command, Aim::AtMost(0.33));
    let three = of_children(&|| three_calls(&web.join("w")));
    row("the same", one, "ms", "`rev-parse`, `status` and `rev-list`", three, Aim::Nothing);

    add_worktrees(&root, 1..20);
    let few = best(50, ticks(&root, Some("0s"))) / 1e3;
    add_worktrees(&root, 20..full_or(200, 22));
    say("200 worktrees: a tick without statuses", best(20, ticks(&root, None)) / 1e3, "ms");
    let many = best(10, ticks(&root, Some("0s"))) / 1e3;
    say("20 worktrees: a tick with all statuses", few, "ms");
    say("200 worktrees: a tick with all statuses", many, "ms");
    row("200 worktrees with their statuses", many, "ms", "20 of them", few, Aim::AtMost(10.0));
    say("200 worktrees: CPU in an hour", hour(&root), "s");
    let after = resident(std::process::id());
    say("memory that all this has left", after.saturating_sub(before) as f64 / 1e6, "MB");

    full_or(many_files as fn(&Path), |_| ())(&root);
}

/// CPU seconds of this process for one of several runs.
fn cpu_of(times: usize, mut run: impl FnMut()) -> f64 {
    let before = cpu_seconds(std::process::id());
    (0..times).for_each(|_| run());
    (cpu_seconds(std::process::id()) - before) / times as f64
}

/// 50 000 files, clean and touched.
fn many_files(root: &Path) {
    shell(root, "rm -rf data/worktrees/acme/web; cd data/repos/acme/web; git worktree prune");
    shell(&root.join("data/repos/acme/web"), MANY);
    let before = resident(std::process::id());
    for state in ["clean", "touched"] {
        let path = root.join("data/repos/acme/web");
        if state == "touched" {
            shell(&path, "find m -type f -exec touch -d 2020-01-01 {} +");
        }
        let command = cpu_of_children(10, || assert!(git_status(&path).success()));
        say(
            &format!("50 000 files, {state}: one git status, wall"),
            best(3, || assert!(git_status(&path).success())) / 1e3,
            "ms",
        );
        say(&format!("50 000 files, {state}: one git status, CPU"), command * 1e3, "ms");
        say(&format!("50 000 files, {state}: CPU in an hour of one git status a minute"), command * 60.0, "s");
        say(&format!("50 000 files, {state}: a tick without a status"), best(20, ticks(root, None)) / 1e3, "ms");
        let looked = best(2, || look_until_known(root));
        say(&format!("50 000 files, {state}: a tick with the status"), looked / 1e3, "ms");
        say(&format!("50 000 files, {state}: CPU in an hour at default intervals"), hour(root), "s");
    }
    let after = resident(std::process::id());
    say("memory that all this has left", after.saturating_sub(before) as f64 / 1e6, "MB");
}

pub const SEED: &str = "git init -q -b main .; mkdir d; for i in 1 2 3 4 5 6 7 8 9; do echo $i > d/$i.txt; done; git add .
    git commit -qm base; git tag base; echo more > d/1.txt; git commit -qam more; touch -d '1 hour ago' d/*; git status";
const MANY: &str =
    "for i in $(seq 2500); do mkdir -p m/$i; for j in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    echo $i $j > m/$i/$j.txt; done; done; git add .; git commit -qm many; sleep 2; git status";

/// Git as nobody: no settings of whoever runs this have a say.
fn isolated(program: &str, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null());
    command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_COUNT", "2");
    command.env("GIT_CONFIG_KEY_0", "user.name").env("GIT_CONFIG_VALUE_0", "Bench");
    command.env("GIT_CONFIG_KEY_1", "user.email").env("GIT_CONFIG_VALUE_1", "bench@example.com");
    command
}

pub fn shell(folder: &Path, script: &str) {
    assert!(isolated("sh", folder).args(["-euc", script]).status().expect("a shell").success(), "{script}");
}

/// As a careful poller would: without the lock that agents fall over.
fn git_status(folder: &Path) -> std::process::ExitStatus {
    let mut command = isolated("git", folder);
    command.args(["status", "--porcelain=v2", "--branch"]).env("GIT_OPTIONAL_LOCKS", "0").status().expect("git")
}

/// What a script asks for the same: where it stands, what is changed, how far it is from where it came from.
fn three_calls(folder: &Path) {
    for call in ["rev-parse HEAD", "status --porcelain=v2 --branch", "rev-list --left-right --count main...HEAD"] {
        let mut command = isolated("git", folder);
        command.args(call.split(' ')).env("GIT_OPTIONAL_LOCKS", "0");
        assert!(command.status().expect("git").success(), "{call}");
    }
}

fn add_worktrees(root: &Path, numbers: std::ops::Range<u32>) {
    let add =
        numbers.map(|i| format!("git worktree add -q --no-track -b w{i} ../../../worktrees/acme/web/w{i} base\n"));
    shell(&root.join("data/repos/acme/web"), &add.collect::<String>());
}

fn repos(root: &Path, status_interval: Option<&str>) -> Box<dyn Collect> {
    let subsystem = collect::ALL.iter().find(|one| one.name == "repos").expect("it is listed");
    let text = status_interval.map(|every| format!("status_interval = \"{every}\""));
    let table = text.as_deref().map(|text| toml::de::DeTable::parse(text).expect("TOML"));
    let sources = Sources::default();
    let config = host::Config { root: Some(root.to_owned()), ..host::Config::default() };
    let host = host::find(&config, &sources.processes, Path::new("/")).expect("a root");
    (subsystem.plan)(table).expect("a table")(&host, &sources).expect("a collector").expect("pynchy has it")
}

/// Ticks of one collector, with statuses at this interval; without one, none after the first.
fn ticks(root: &Path, status_interval: Option<&str>) -> impl FnMut() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut collector = repos(root, status_interval.or(Some("1000h")));
    let mut tick = move || {
        let sample = collector.run(Now::read(), Duration::from_secs(60), runtime.handle()).expect("a reading");
        drop(black_box(sample));
    };
    tick();
    std::thread::sleep(Duration::from_secs(3)); // indexes must be old to be trusted, and slow statuses end
    tick();
    tick
}

/// Looks until the status of the repository's own tree is there.
fn look_until_known(root: &Path) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut collector = repos(root, None);
    loop {
        let sample = collector.run(Now::read(), Duration::from_secs(60), runtime.handle()).expect("a reading");
        let section: serde_json::Value = serde_json::from_str(sample.section.get()).expect("JSON");
        if !section["acme/web"]["dirty"].is_null() {
            return assert_eq!(section["acme/web"]["dirty"], false);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// CPU seconds of an hour at default intervals, lived through faster.
fn hour(root: &Path) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut collector = repos(root, None);
    let (begun, before) = (Now::read(), cpu_seconds(std::process::id()));
    for tick in 0..120 {
        let now = begun.plus(Duration::from_secs(tick * 30));
        let took = timed(|| drop(collector.run(now, Duration::from_secs(60), runtime.handle()).expect("a reading")));
        if took > Duration::from_secs(1) {
            std::thread::sleep(Duration::from_secs(4)); // a status is still under way
        }
    }
    cpu_seconds(std::process::id()) - before
}
