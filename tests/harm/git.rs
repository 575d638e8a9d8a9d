//! Git: agents commit, rebase, stash, pack and throw worktrees away, while every tree is looked at without a pause.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use agenthost_exporter::sample::Now;
use serde_json::Value;

use crate::figures::{Figures, Spread, millis};
use crate::ground::{Ground, fast_collector, listing, shell};
use crate::strace::{self, Trace};
use crate::{is_long, skipped};

/// What an agent does until it is told to stop, in one worktree after the other: each round some forty commands, none of which
/// may fail but where it says so. A rebase that stops at a conflict ends with 1, and has begun; one that met a lock has not.
const WORK: &str = r#"
n=0; i=0
git() { n=$((n+1)); command git "$@"; }
while [ ! -e "$STOP" ]; do
    i=$((i+1))
    if [ $((i % 2)) = 0 ]; then name=one; else name=two; fi
    cd "../$name"
    echo $i >> log.txt; git add log.txt; git commit -qm "log $i"
    echo $i > b.txt; git commit -qam "b $i"
    echo $i > c.txt; git add c.txt; echo more >> b.txt; git stash -q; git stash pop -q; git checkout -q -- b.txt
    git add c.txt; git commit -qm "c $i"
    git status >/dev/null; git diff HEAD~1 >/dev/null
    git rebase -q --force-rebase main
    git checkout -q -b "clash-$i" base; echo "$i" > a.txt; git commit -qam clash
    r=0; git rebase -q main >/dev/null 2>&1 || r=$?
    if [ $r != 1 ] || [ ! -d "$(git rev-parse --git-dir)/rebase-merge" ]; then echo "no conflict but $r" >&2; exit 9; fi
    git status >/dev/null; git rebase --abort
    git checkout -q "worktree/$name"; git branch -qD "clash-$i"
    git worktree add -q -b "short-$i" "../short-$i" main
    cd "../short-$i"; echo $i > short.txt; git add .; git commit -qm short; cd "../$name"
    git merge -q --no-edit "short-$i"
    git worktree remove "../short-$i"; git branch -qD "short-$i"
    git reset -q --hard HEAD~1
    if [ $((i % 4)) = 0 ]; then git repack -qad; git pack-refs --all; git gc -q --prune=now; fi
done
echo "$n"
"#;

/// Set for a process of its own by those who look at what that one does.
const ROOT: &str = "AGENTHOST_HARM_ROOT";
const POLLS: &str = "AGENTHOST_HARM_POLLS";

/// No test but the process that polls: without those variables there is nothing to do.
#[test]
fn polls() {
    let (Some(root), Some(polls)) = (std::env::var_os(ROOT), std::env::var(POLLS).ok()) else { return };
    let (root, polls) = (PathBuf::from(root), polls.parse::<u32>().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut collector = fast_collector(&root);
    let mut seen = Seen::default();
    for poll in 0..polls {
        // A minute later each time, so that no status is put off for what the last one cost.
        let now = Now { mono: Duration::from_secs(1_000_000 + u64::from(poll) * 60), wall: Now::read().wall };
        let begun = Instant::now();
        let sample = collector.run(now, Duration::from_secs(60), runtime.handle()).unwrap();
        seen.took.push(begun.elapsed());
        seen.take(&serde_json::from_str(sample.section.get()).unwrap(), now);
    }
    let Spread { half, most, longest } = Spread::of(&mut seen.took).unwrap();
    println!("\ntook p50 {}, p99 {}, max {}", millis(half), millis(most), millis(longest));
    println!("statuses {}", seen.statuses);
    println!("trees {}", seen.trees);
    println!("moving {}", seen.moving);
    println!("broken {}", seen.broken);
    println!("passing {}", seen.passing);
}

/// What the polls saw.
#[derive(Default)]
struct Seen {
    took: Vec<Duration>,
    /// Trees that were looked at, statuses that were taken.
    trees: usize,
    statuses: usize,
    /// Trees that changed as often as they were looked at, and those said to be broken.
    moving: usize,
    broken: usize,
    /// Worktrees that came and went.
    passing: usize,
}

impl Seen {
    fn take_tree(&mut self, tree: &Value, now: Now) {
        self.trees += 1;
        self.statuses += usize::from(tree["status_at"] == now.wall.to_string());
        match tree["error"].as_str() {
            Some(error) if error.contains("changed each time") => self.moving += 1,
            Some(error) => {
                println!("\nsays {error}");
                self.broken += 1;
            }
            None => {}
        }
    }

    fn take(&mut self, section: &Value, now: Now) {
        for repo in section.as_object().unwrap().values() {
            self.take_tree(repo, now);
            for (name, tree) in repo["worktrees"].as_object().unwrap() {
                // One that is half made or half gone is broken, rightly.
                match name.starts_with("short-") {
                    true => self.passing += 1,
                    false => self.take_tree(tree, now),
                }
            }
        }
    }
}

/// By a command that goes on with the words behind it. Answers with what it printed.
fn poll(mut before: Command, root: &Path, polls: u32) -> BTreeMap<String, String> {
    before.arg(std::env::current_exe().unwrap()).args(["--exact", "git::polls", "--nocapture", "--test-threads=1"]);
    let output = before.env(ROOT, root).env(POLLS, polls.to_string()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let figures = said.lines().filter(|line| !line.starts_with("test ") && !line.starts_with("running "));
    figures.filter_map(|line| line.split_once(' ')).map(|(what, value)| (what.into(), value.into())).collect()
}

/// A host with a repository and two worktrees in which agents can work.
fn ground() -> Ground {
    let ground = Ground::seeded();
    for name in ["one", "two"] {
        ground.make(name, "git rebase -q main; echo begun > b.txt; git commit -qam b");
    }
    ground
}

/// A worktree whose files look changed and are not: a status would like to write down that they are what they were.
fn touch(ground: &Ground) {
    ground.make("touched", "touch -d 2020-01-01 a.txt b.txt dir/c.txt");
}

struct Agent {
    stop: tempfile::TempDir,
    thread: std::thread::JoinHandle<usize>,
}

impl Agent {
    fn begin(ground: &Ground) -> Agent {
        let (tree, stop) = (ground.tree("one"), tempfile::tempdir().unwrap());
        let work = format!("STOP='{}'\n{WORK}", stop.path().join("stop").display());
        let thread = std::thread::spawn(move || {
            let output = shell(&tree, &work);
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "a command of git failed: {said}");
            String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
        });
        Agent { stop, thread }
    }

    /// How many commands of git there were, of which none failed.
    fn end(self) -> usize {
        std::fs::write(self.stop.path().join("stop"), "").unwrap();
        self.thread.join().unwrap()
    }
}

/// A figure of the polls, in words.
fn told(what: &str) -> &str {
    match what {
        "took" => "time of one, under strace",
        "trees" => "trees looked at",
        "statuses" => "... whose status was taken by that very poll",
        "moving" => "... that changed each time that they were looked at",
        "passing" => "worktrees that came and went, looked at",
        what => what,
    }
}

/// The paths of index files, and of all that git would write beside one.
fn is_of_git(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == ".git")
}

#[test]
fn polls_beside_an_agent_at_work_fail_no_command_and_write_nothing() {
    if let Some(why) = Trace::is_possible() {
        return skipped("what polls do to files", &why);
    }
    let (ground, folder) = (ground(), tempfile::tempdir().unwrap());
    let mut figures =
        Figures::of("git: three trees polled without a pause, with a status each time, beside an agent at work");
    let polls = if is_long() { 10_000 } else { 1_000 };

    let agent = Agent::begin(&ground);
    let busy = Trace::to(folder.path().join("busy"));
    let seen = poll(busy.files(), &ground.root, polls);
    let commands = agent.end();
    for (what, value) in &seen {
        figures.say(format!("{polls} polls: {}", told(what)), value);
    }
    let (log, count) = (busy.log(), |what: &str| seen[what].parse::<u32>().unwrap());
    let harm = strace::harm(&log, &ground.root);
    figures.say(
        "files below the host's folder that were opened to be read, or looked for",
        strace::opened(&log, &ground.root),
    );
    figures.say("... to be written, made, renamed, removed, or given another mode or time", harm.len());
    figures.say("commands of git meanwhile, of which none failed", commands);
    assert!(harm.is_empty(), "{harm:#?}");
    assert_eq!(strace::unnamed(&log).len(), 0, "{:#?}", strace::unnamed(&log));
    assert!(strace::opened(&log, &ground.root) > polls as usize * 20, "nothing was seen of it");
    assert!(commands > 100, "{commands}");
    assert!(count("broken") == 0, "{seen:?}");
    assert!(count("statuses") > count("trees") / 2, "{seen:?}");

    // And while nobody works there: neither a byte nor a time has changed.
    touch(&ground);
    let before = listing(&ground.root);
    let quiet = Trace::to(folder.path().join("quiet"));
    poll(quiet.files(), &ground.root, 100);
    assert!(listing(&ground.root) == before, "something has changed");
    assert_eq!(strace::harm(&quiet.log(), &ground.root).len(), 0);
    figures.say("files of git with another byte or time after 100 polls in quiet", 0);
    figures.say("... of", before.keys().filter(|path| is_of_git(path)).count());
}

/// The measure itself: what everybody else's poller does is seen.
#[test]
fn what_git_status_writes_is_seen() {
    if let Some(why) = Trace::is_possible() {
        return skipped("what git status does to files", &why);
    }
    let (ground, folder) = (Ground::seeded(), tempfile::tempdir().unwrap());
    touch(&ground);
    let trace = Trace::to(folder.path().join("trace"));
    let status =
        trace.files().args(["git", "-c", "safe.directory=*", "status"]).current_dir(ground.tree("touched")).output();
    assert!(status.unwrap().status.success());
    let log = trace.log();
    let harm: Vec<_> = strace::harm(&log, &ground.root);
    assert!(harm.iter().any(|call| call.is_open() && call.rest.contains("index.lock")), "{harm:#?}");
    assert!(harm.iter().any(|call| call.name.starts_with("rename")), "{harm:#?}");
}
