//! Repositories and worktrees in every state that git can leave them in, held against git's own answers.
//!
//! Each state is made with the git command line; what the collector says of it must be what git says, or null with the
//! reason where nobody can know.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agenthost_exporter::collect::Collect;
use agenthost_exporter::sample::{Now, Sample};
use agenthost_exporter::source::Sources;
use serde_json::{Value, json};

use crate::ground::{Ground, SEED, fast_collector, host_in, isolated, listing, sh, shell, subsystem};

impl Ground {
    fn collector(&self, name: &str) -> Box<dyn Collect> {
        let build = (subsystem(name).plan)(None).unwrap();
        build(&host_in(&self.root), &Sources::default()).unwrap().unwrap()
    }

    fn look(&self) -> Value {
        run(&mut self.collector("repos"), Now::read()).0
    }
}

fn run(collector: &mut Box<dyn Collect>, now: Now) -> (Value, Sample) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let sample = collector.run(now, Duration::from_secs(60), runtime.handle()).unwrap();
    (serde_json::from_str(sample.section.get()).unwrap(), sample)
}

/// The trimmed answer of git, or `None` if it has none. It is kept from climbing, and from writing.
fn git(folder: &Path, args: &[&str]) -> Option<String> {
    let output = isolated("git")
        .args(args)
        .current_dir(folder)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_CEILING_DIRECTORIES", folder.parent().unwrap())
        .output()
        .unwrap();
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

/// What git says of a worktree, under our names.
fn truth(folder: &Path) -> Value {
    let sha = git(folder, &["rev-parse", "-q", "--verify", "HEAD"]);
    let branch = git(folder, &["symbolic-ref", "-q", "HEAD"]).map(|name| name.replace("refs/heads/", ""));
    let status = git(folder, &["status", "--porcelain=v2", "--untracked-files=normal"]).expect("git status");
    let unmerged = status.lines().filter(|line| line.starts_with("u ")).count();
    let counts = git(folder, &["rev-list", "--left-right", "--count", "refs/heads/main...HEAD"]);
    let count = |column: usize| -> Option<u64> { counts.as_ref()?.split('\t').nth(column)?.parse().ok() };
    let lock = git(folder, &["rev-parse", "--git-path", "index.lock"]).expect("git rev-parse");
    json!({
        "sha": sha,
        "branch": branch,
        "detached": branch.is_none(),
        "dirty": !status.is_empty(),
        "unmerged": unmerged,
        "conflict": unmerged > 0,
        "operation": operation(folder),
        "ahead": count(1),
        "behind": count(0),
        "locked?": folder.join(lock).exists(),
        "error": null,
    })
}

/// What a person reads in `git status`.
fn operation(folder: &Path) -> Option<&'static str> {
    let said = git(folder, &["status"]).expect("git status");
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    match () {
        () if has(&["am session"]) => Some("am"),
        () if has(&["rebase in progress", "currently rebasing", "editing a commit", "splitting a commit"]) => {
            Some("rebase")
        }
        () if has(&[
            "still merging",
            "You have unmerged paths.\n  (fix conflicts and run \"git commit\")\n  (use \"git merge --abort\"",
        ]) =>
        {
            Some("merge")
        }
        () if has(&["cherry-picking", "Cherry-pick currently"]) => Some("cherry-pick"),
        () if has(&["currently reverting", "Revert currently"]) => Some("revert"),
        () if has(&["currently bisecting"]) => Some("bisect"),
        () => None,
    }
}

/// The fields of ours that git answers too.
fn ours(worktree: &Value) -> Value {
    let mut fields: BTreeMap<&str, Value> =
        ["sha", "branch", "detached", "dirty", "unmerged", "conflict", "operation", "ahead", "behind", "error"]
            .into_iter()
            .map(|key| (key, worktree[key].clone()))
            .collect();
    fields.insert("locked?", (!worktree["lock_age_seconds"].is_null()).into());
    json!(fields)
}

/// States of worktrees of which git itself tells all.
const STATES: &[(&str, &str)] = &[
    ("clean", ""),
    ("ahead", "more x; more y"),
    ("level", "git reset -q --hard main"),
    ("staged", "echo new > a.txt; git add a.txt"),
    ("staged-new", "echo new > n.txt; git add n.txt"),
    ("staged-gone", "git rm -q b.txt"),
    ("staged-renamed", "git mv b.txt c.txt"),
    ("staged-then-undone", "echo new > a.txt; git add a.txt; echo one > a.txt"),
    ("unstaged", "echo new > a.txt"),
    ("unstaged-gone", "rm b.txt"),
    ("untracked", "echo new > n.txt"),
    ("untracked-folder", "mkdir n; echo new > n/n.txt"),
    ("ignored", "echo new > n.log; mkdir m; echo new > m/n.log"),
    ("empty-folder", "mkdir n"),
    ("excluded", "echo '*.tmp' >> \"$(git rev-parse --git-path info/exclude)\"; echo new > n.tmp"),
    ("nested-repo", "git init -q n; echo new > n/n.txt"),
    ("nested-empty-repo", "git init -q n"),
    ("touched", "touch -d '2020-01-01' a.txt b.txt dir/c.txt"),
    ("same-size-same-time", "touch -r b.txt stamp; echo owt > b.txt; touch -r stamp b.txt; rm stamp"),
    ("mode", "chmod +x b.txt"),
    (
        "mode-ignored",
        "git config extensions.worktreeConfig true; git config --worktree core.fileMode false; chmod +x b.txt",
    ),
    ("type", "rm b.txt; ln -s a.txt b.txt"),
    ("link-moved", "ln -sf b.txt link"),
    ("intent-to-add", "echo new > n.txt; git add -N n.txt"),
    ("assumed-unchanged", "git update-index --assume-unchanged b.txt; echo new > b.txt"),
    (
        "eol",
        "echo '*.crlf text eol=crlf' > .gitattributes; printf 'a\\r\\nb\\r\\n' > x.crlf; git add .; git commit -qm eol; touch -d '2020-01-01' x.crlf",
    ),
    (
        "names",
        "echo 1 > 'Case'; echo 2 > 'case'; echo 3 > 'a b'; echo 4 > 'ü'; git add .; git commit -qm names; echo 5 > 'Case'",
    ),
    ("index-v4", "git update-index --index-version 4; echo new > a.txt"),
    ("merge-conflict", "mine; fails git merge main"),
    ("merge-resolved", "mine; fails git merge main; echo both > a.txt; git add a.txt"),
    ("merge-nocommit", "more x; git merge -q --no-commit main"),
    ("modify-delete", "git rm -q a.txt; git commit -qm gone; fails git merge main"),
    (
        "rename-rename",
        "git mv a.txt x.txt; git commit -qm x; git checkout -qb other-name base; git mv a.txt y.txt; git commit -qm y; fails git merge worktree/rename-rename",
    ),
    ("rebase-conflict", "mine; fails git rebase main"),
    ("rebase-apply-conflict", "mine; fails git rebase --apply main"),
    ("rebase-resolved", "mine; fails git rebase main; echo both > a.txt; git add a.txt"),
    ("rebase-break", "more x; more y; GIT_SEQUENCE_EDITOR='sed -i 1abreak' git rebase -qi base"),
    ("rebase-edit", "more x; more y; GIT_SEQUENCE_EDITOR='sed -i 1s/pick/edit/' git rebase -qi base"),
    ("rebase-exec-fail", "more x; fails git rebase -x false main"),
    (
        "rebase-merges-conflict",
        "git checkout -qb side base; more s; git checkout -q worktree/rebase-merges-conflict; mine; git merge -q --no-edit side; fails git rebase -r main",
    ),
    (
        "am-conflict",
        "mine; git format-patch -q -1 --stdout > ../p.log; git reset -q --hard main; fails git am ../p.log; rm ../p.log",
    ),
    ("cherry-pick-conflict", "mine; fails git cherry-pick main"),
    (
        "cherry-pick-between",
        "git checkout -q --detach base; mine a; more b; b=$(git rev-parse HEAD); git checkout -q worktree/cherry-pick-between; git reset -q --hard main; fails git cherry-pick base..$b; echo both > a.txt; git commit -qam solved",
    ),
    ("revert-conflict", "mine; echo again > a.txt; git commit -qam again; fails git revert --no-edit HEAD~1"),
    (
        "revert-between",
        "mine; more z; echo again > a.txt; git commit -qam again; fails git revert --no-edit HEAD~2 HEAD~1; git add a.txt; git commit -qm solved --allow-empty",
    ),
    ("stash-pop-conflict", "echo stashed > a.txt; git stash -q; mine; fails git stash pop"),
    ("bisect", "more x; more y; git bisect start -q HEAD base"),
    (
        "bisect-and-merge",
        "git bisect start -q main base; git checkout -q -b in-bisect base; mine; fails git merge main",
    ),
    ("detached", "git checkout -q --detach main"),
    ("other-branch", "git checkout -q -b feature/x main; more x"),
    ("unrelated", "git checkout -q --orphan alone; git commit -qm alone"),
    ("unborn", "git checkout -q --orphan nothing"),
    ("branch-deleted", "git update-ref -d refs/heads/worktree/branch-deleted"),
    ("packed", "more x; git pack-refs --all; git gc -q"),
    ("index-lock", "touch -d '2020-01-01' \"$(git rev-parse --git-path index.lock)\""),
    ("no-index", "rm \"$(git rev-parse --git-path index)\""),
    ("locked", "git worktree lock ."),
    ("sparse", "git sparse-checkout set --no-cone a.txt"),
    ("sparse-cone", "git sparse-checkout set --cone --no-sparse-index; echo new > n.txt"),
    ("sparse-deleted", "git sparse-checkout set --no-cone a.txt b.txt; rm b.txt"),
    ("submodule", "git clone -q . ../../../sub; git submodule -q add \"$PWD/../../../sub\" sub; git commit -qm sub"),
    (
        "submodule-moved",
        "git submodule -q add \"$PWD/../../../sub\" sub; git commit -qm sub; git -C sub checkout -q base; git -C sub commit -q --allow-empty -m new",
    ),
    ("submodule-changed", "git submodule -q add \"$PWD/../../../sub\" sub; git commit -qm sub; echo new > sub/a.txt"),
    ("submodule-untracked", "git submodule -q add \"$PWD/../../../sub\" sub; git commit -qm sub; echo new > sub/n.txt"),
    (
        "submodule-not-there",
        "git submodule -q add \"$PWD/../../../sub\" sub; git commit -qm sub; git submodule -q deinit -f sub",
    ),
    ("moved", "mine; mkdir ../../../elsewhere; mv ../moved ../moved.new; mv ../moved.new ../moved-to"),
    ("linked", "more x; d=$(cd ../../../..; pwd); n=$PWD; cd \"$d\"; mv \"$n\" linked; ln -s \"$d/linked\" \"$n\""),
    ("CASE", "more x"),
    ("case", "more y"),
    ("relative", "more x; printf 'gitdir: ../../../../repos/acme/web/.git/worktrees/relative\\n' > .git"),
];

#[test]
fn worktrees_are_what_git_says() {
    let ground = Ground::seeded();
    for (name, script) in STATES {
        ground.make(name, script);
    }
    let before = listing(&ground.root);
    let seen = ground.look();
    assert!(listing(&ground.root) == before, "something was written");
    let repo = &seen["acme/web"];
    assert_eq!((&repo["error"], &repo["main_branch"]), (&Value::Null, &json!("main")));
    let mut wrong = Vec::new();
    for (name, _) in STATES {
        let name = if *name == "moved" { "moved-to" } else { name };
        let (truth, ours) = (truth(&ground.tree(name)), ours(&repo["worktrees"][name]));
        if truth != ours {
            wrong.push(format!("{name}\n  git:  {truth}\n  ours: {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), STATES.len(), wrong.join("\n"));
    assert_eq!(repo["worktrees"].as_object().unwrap().len(), STATES.len(), "and no other");
    assert_eq!(repo["worktrees"]["locked"]["locked"], true);
    assert_eq!(repo["worktrees"]["clean"]["locked"], false);
    let operations = STATES.iter().map(|(name, _)| &repo["worktrees"][name]["operation"]);
    let kinds: std::collections::BTreeSet<_> = operations.filter_map(Value::as_str).collect();
    assert_eq!(kinds.len(), 6, "each operation is among the states: {kinds:?}");
}

/// What nobody can know is null, and `error` says why; `known` is what can be known all the same.
#[test]
fn what_is_broken_says_so_and_is_never_clean() {
    let states: &[(&str, &str, &str, &[&str])] = &[
        ("git-file-missing", "rm .git", "it has no .git: a plain folder", &[]),
        ("git-file-stale", "echo 'gitdir: /does/not/exist' > .git", "its .git points nowhere: /does/not/exist", &[]),
        ("git-file-empty", ": > .git", "its .git is a file that says nothing", &[]),
        ("git-file-loop", "rm .git; ln -s .git .git", "read its .git: Too many levels of symbolic links", &[]),
        ("admin-gone", "rm -r \"$(git rev-parse --git-dir)\"", "its .git points nowhere: ", &[]),
        (
            "head-garbage",
            "echo junk > \"$(git rev-parse --git-dir)/HEAD\"",
            "read HEAD: corrupted loose reference file: HEAD",
            &[],
        ),
        (
            "head-empty",
            ": > \"$(git rev-parse --git-dir)/HEAD\"",
            "read HEAD: corrupted loose reference file: HEAD",
            &[],
        ),
        (
            "head-of-nothing",
            "echo 1234567890123456789012345678901234567890 > \"$(git rev-parse --git-dir)/HEAD\"",
            "read the commit that HEAD names: ",
            &[],
        ),
        (
            "index-garbage",
            "echo junk > \"$(git rev-parse --git-path index)\"",
            "read the index: ",
            &["sha", "branch", "ahead", "behind"],
        ),
        (
            "index-short",
            "f=$(git rev-parse --git-path index); head -c 100 \"$f\" > x; mv x \"$f\"",
            "read the index: ",
            &["sha", "branch", "ahead", "behind"],
        ),
        (
            "index-flipped",
            "f=$(git rev-parse --git-path index); printf X | dd of=\"$f\" bs=1 seek=60 conv=notrunc status=none",
            "read the index: ",
            &["sha", "branch", "ahead", "behind"],
        ),
        (
            "index-a-folder",
            "f=$(git rev-parse --git-path index); rm \"$f\"; mkdir \"$f\"",
            "read the index: ",
            &["sha", "branch", "ahead", "behind"],
        ),
        ("folder-gone", "rm -r \"$PWD\"", "its folder is gone; `git worktree prune` would forget it", &[]),
        ("folder-gone-locked", "git worktree lock .; rm -r \"$PWD\"", "its folder is gone; it is locked", &[]),
        (
            "copied-to",
            "d=$PWD; cd ../../../../repos/acme/web; git worktree remove --force \"$d\"; git worktree add -q ../../../worktrees/acme/web/original; cp -r ../../../worktrees/acme/web/original \"$d\"",
            "its .git is that of the worktree ",
            &[],
        ),
        (
            "own-clone",
            "d=$PWD; cd ..; rm -r \"$d\"; git clone -q ../../../repos/acme/web \"$d\"",
            "it belongs to another repository",
            &[],
        ),
        (
            "bare-inside",
            "d=$PWD; cd ..; rm -r \"$d\"; git init -q --bare \"$d\"",
            "it belongs to another repository",
            &[],
        ),
        ("link-to-nothing", "rm -r \"$PWD\"; ln -s /does/not/exist \"$PWD\"", "it is a link that leads nowhere", &[]),
        ("link-to-repo", "rm -r \"$PWD\"; ln -s ../../../repos/acme/web \"$PWD\"", "it is the repository itself", &[]),
        (
            "ref-garbage",
            "echo junk > ../../../../repos/acme/web/.git/refs/heads/worktree/ref-garbage",
            "read refs/heads/worktree/ref-garbage: corrupted loose reference file: ",
            &[],
        ),
    ];
    let ground = Ground::seeded();
    // Above everything stands a repository: what climbs finds it.
    sh(&ground.root, "git init -q -b climbed .; echo x > x; git add x; git commit -qm climbed");
    states.iter().for_each(|(name, script, ..)| ground.make(name, script));
    std::fs::create_dir(ground.tree("plain-folder")).unwrap();
    std::fs::write(ground.tree("a-file"), "no worktree").unwrap();
    let seen = ground.look();
    let worktrees = &seen["acme/web"]["worktrees"];
    let plain = ("plain-folder", "", "it has no .git: a plain folder", &[][..]);
    for (name, _, said, known) in states.iter().copied().chain([plain]) {
        let worktree = &worktrees[name];
        let error = worktree["error"].as_str().unwrap_or_else(|| panic!("{name}: no error in {worktree}"));
        assert!(error.starts_with(said), "{name}: {error}");
        for field in ["sha", "branch", "ahead", "behind"] {
            assert_eq!(worktree[field].is_null(), !known.contains(&field), "{name}.{field}: {worktree}");
        }
        for field in ["dirty", "conflict", "unmerged", "status_at"] {
            assert!(worktree[field].is_null(), "{name}.{field}: {worktree}");
        }
    }
    assert!(worktrees.get("a-file").is_none(), "a file is no worktree");
    assert_eq!(
        worktrees.as_object().unwrap().len(),
        states.len() + 2,
        "the original of the copy, and the plain folder"
    );
    assert_eq!(worktrees["original"]["error"], Value::Null);
}

/// A point of the collector's latest sample; the outer `None` means that nothing of this subject is listed.
fn point(sample: &Sample, fact: &str, subject: &str) -> Option<Option<f64>> {
    let mut points = sample.points.0.iter().filter(|point| point.fact.prometheus == fact);
    points.find(|point| *point.subject() == *subject).map(|point| point.value)
}

/// What git reads and libgit2 does not is not known; that it is broken is not known either.
#[test]
fn what_only_git_can_read_is_unknown_and_not_broken() {
    let ground = Ground::new(&["web", "sha256", "newer"]);
    ground.seed("web");
    sh(&ground.repo("."), "git init -q --object-format=sha256 sha256");
    sh(&ground.repo("."), "git init -q newer; git -C newer config core.repositoryFormatVersion 1");
    sh(&ground.repo("."), "git -C newer config extensions.refStorage reftable");
    ground.make("split", "git update-index --split-index");
    ground.make("sparse", "git sparse-checkout set --cone --sparse-index");
    ground.make("garbage", "echo junk > \"$(git rev-parse --git-path index)\"");
    let (seen, sample) = run(&mut ground.collector("repos"), Now::read());
    for name in ["split", "sparse"] {
        let worktree = &seen["acme/web"]["worktrees"][name];
        let error = worktree["error"].as_str().unwrap();
        assert!(error.starts_with("read the index: unsupported mandatory extension: "), "{name}: {error}");
        let truth = truth(&ground.tree(name));
        for field in ["sha", "branch", "operation", "ahead", "behind"] {
            assert_eq!(worktree[field], truth[field], "{name}.{field}: {worktree}");
        }
        for field in ["dirty", "conflict", "unmerged", "status_at"] {
            assert!(worktree[field].is_null(), "{name}.{field}: {worktree}");
        }
        assert_eq!(point(&sample, "agenthost_worktree_broken", &format!("acme/web/{name}")), Some(None));
    }
    assert_eq!(point(&sample, "agenthost_worktree_broken", "acme/web/garbage"), Some(Some(1.0)));
    assert!(seen["acme/sha256"]["error"].as_str().unwrap().contains("sha256"), "{}", seen["acme/sha256"]);
    assert!(seen["acme/newer"]["error"].as_str().unwrap().contains("refstorage"), "{}", seen["acme/newer"]);
    for name in ["acme/sha256", "acme/newer"] {
        assert_eq!(point(&sample, "agenthost_repo_broken", name), Some(None), "{name}");
    }
    assert_eq!(point(&sample, "agenthost_repo_broken", "acme/web"), Some(Some(0.0)));
}

/// Agents may put anything in the place of git's files: a pipe waits for its writer, and a device never ends.
#[test]
fn what_stands_in_the_place_of_gits_files_hides_nothing_else() {
    const STRANGE: &[(&str, &str, &str)] = &[
        ("git-pipe", "rm .git; mkfifo .git", "/git-pipe/.git is a pipe"),
        ("git-endless", "rm .git; ln -s /dev/zero .git", "read its .git: it is no regular file"),
        ("git-huge", "rm .git; truncate -s 40G .git", "read its .git: it is longer than git would write it"),
        ("gitdir-pipe", "f=$(git rev-parse --git-dir)/gitdir; rm \"$f\"; mkfifo \"$f\"", "/gitdir is a pipe"),
        ("commondir-pipe", "f=$(git rev-parse --git-dir)/commondir; rm \"$f\"; mkfifo \"$f\"", "/commondir is a pipe"),
        ("head-pipe", "f=$(git rev-parse --git-dir)/HEAD; rm \"$f\"; mkfifo \"$f\"", "/head-pipe/HEAD is a pipe"),
        ("index-pipe", "f=$(git rev-parse --git-dir)/index; rm \"$f\"; mkfifo \"$f\"", "/index is a pipe"),
        (
            "todo-pipe",
            "d=$(git rev-parse --git-dir)/sequencer; mkdir \"$d\"; mkfifo \"$d/todo\"",
            "read git's own files: it is no regular file",
        ),
        (
            "todo-endless",
            "d=$(git rev-parse --git-dir)/sequencer; mkdir \"$d\"; ln -s /dev/zero \"$d/todo\"",
            "read git's own files: it is no regular file",
        ),
        (
            "ref-pipe",
            "cd ../../../../repos/acme/web/.git/refs/heads/worktree; rm ref-pipe; mkfifo ref-pipe",
            "/refs/heads/worktree/ref-pipe is a pipe",
        ),
    ];
    let ground = Ground::new(&["web", "shallow", "stashes", "many-stashes"]);
    ["web", "shallow", "stashes", "many-stashes"].iter().for_each(|name| ground.seed(name));
    STRANGE.iter().for_each(|(name, ..)| ground.make(name, ""));
    ground.make("fine", "");
    let fine = truth(&ground.tree("fine"));
    STRANGE.iter().for_each(|(name, script, _)| sh(&ground.tree(name), script)); // From here on git itself waits.
    sh(&ground.repo("shallow"), "mkfifo .git/shallow");
    sh(&ground.repo("stashes"), "mkdir -p .git/logs/refs; mkfifo .git/logs/refs/stash");
    sh(&ground.repo("many-stashes"), "mkdir -p .git/logs/refs; yes a stash | head -n 300000 > .git/logs/refs/stash");
    let mut collector = ground.collector("repos");
    let begun = std::time::Instant::now();
    let seen = run(&mut collector, Now::read()).0;
    assert_eq!(ours(&seen["acme/web"]["worktrees"]["fine"]), fine);
    for (name, _, said) in STRANGE {
        let worktree = &seen["acme/web"]["worktrees"][name];
        assert!(worktree["error"].as_str().unwrap().ends_with(said), "{name}: {worktree}");
        assert!(worktree["operation"].is_null() && worktree["dirty"] != false, "{name}: {worktree}");
    }
    assert!(seen["acme/shallow"]["error"].as_str().unwrap().contains("pipe"), "{}", seen["acme/shallow"]);
    let stashes = &seen["acme/stashes"];
    assert_eq!((&stashes["stashes"], &stashes["dirty"]), (&Value::Null, &json!(false)), "{stashes}");
    assert!(stashes["error"].as_str().unwrap().starts_with("read the stashes: "), "{stashes}");
    assert_eq!(seen["acme/many-stashes"]["stashes"], 300_000, "longer than git's other files may be");

    sh(&ground.repo("shallow"), "rm .git/shallow");
    let again = run(&mut collector, Now::read()).0;
    assert_eq!(
        (&again["acme/shallow"]["error"], &again["acme/shallow"]["unpushed_commits"]),
        (&Value::Null, &json!(0))
    );
    assert!(begun.elapsed() < Duration::from_secs(60));
}

/// A status may cost much; that a tree could not be read for a moment is no reason to take it again.
#[test]
fn a_tree_that_was_unreadable_for_a_moment_keeps_its_status_and_its_turn() {
    let ground = Ground::seeded();
    ground.make("wt", "echo new > a.txt");
    let mut collector = ground.collector("repos");
    let begun = Now::read();
    let mut at = |second: u64| {
        let seen = run(&mut collector, begun.plus(Duration::from_secs(second))).0;
        let worktree = &seen["acme/web"]["worktrees"]["wt"];
        [worktree["error"].is_null().into(), worktree["dirty"].clone(), worktree["status_at"].clone()]
    };
    let first = at(0);
    assert_eq!(first[..2], [json!(true), json!(true)]);
    let admin = ground.repo("web").join(".git/worktrees/wt");
    sh(&admin, "mv HEAD HEAD.aside");
    assert_eq!(at(10), [json!(false), Value::Null, Value::Null]);
    sh(&admin, "mv HEAD.aside HEAD");
    assert_eq!(at(20), first, "of that moment, and not asked again");
    assert_ne!(at(70)[2], first[2], "its turn comes when it would have come");
}

/// Where git itself says one thing of two.
#[test]
fn what_git_leaves_open_is_decided() {
    let ground = Ground::seeded();
    ground.make(
        "rebase-and-merge",
        "more x; fails git rebase -x false main; git checkout -q -b in-rebase base; mine; fails git merge main",
    );
    let filter = "git config filter.up.clean 'tr a-z A-Z'; echo '*.up filter=up' > .gitattributes; echo x > x.up; git add .; git commit -qm up";
    ground.make("filtered", &format!("{filter}; touch -d '2020-01-01' x.up"));
    ground.make("filtered-by-the-user", "echo '*.mine filter=mine' > .gitattributes; echo x > x.mine; git -c filter.mine.clean='tr a-z A-Z' add .; git -c filter.mine.clean='tr a-z A-Z' commit -qm mine; touch -d '2020-01-01' x.mine");
    ground.make("filtered-and-new", "echo '*.up filter=up' > .gitattributes; echo new > n.txt");
    ground.make("filter-without-program", "echo '*.no filter=none' > .gitattributes; echo x > x.no; git add .; git commit -qm no; touch -d '2020-01-01' x.no");
    ground.make("sparse-stray", "git sparse-checkout set --no-cone a.txt; echo stray > b.txt");
    let seen = ground.look();
    let worktrees = &seen["acme/web"]["worktrees"];
    assert_eq!(worktrees["rebase-and-merge"]["operation"], "rebase", "the merge is within it");
    assert_eq!(worktrees["filtered"]["dirty"], Value::Null, "only the filter program could tell, and it is not run");
    assert_eq!(worktrees["filtered-by-the-user"]["dirty"], Value::Null, "the program stands in settings that we lack");
    assert_eq!(worktrees["filtered-and-new"]["dirty"], true, "something else tells");
    assert_eq!(worktrees["filter-without-program"]["dirty"], false, "git compares it unfiltered, too");
    assert_eq!(worktrees["sparse-stray"]["dirty"], Value::Null, "git compares it, libgit2 cannot");
    assert!(worktrees.as_object().unwrap().values().all(|worktree| worktree["error"].is_null()), "{worktrees}");
}

/// One repository each; what its fields must be. `$SEED` makes the usual one.
const REPOS: &[(&str, &str)] = &[
    ("plain", "$SEED"),
    ("dirty", "$SEED echo new > a.txt"),
    ("unpushed", "$SEED more x; more y"),
    ("behind", "$SEED more x; more y; git push -q origin main; git reset -q --hard HEAD~2"),
    ("both", "$SEED more x; git push -q origin main; git reset -q --hard HEAD~1; more y; more z"),
    (
        "slash",
        "$SEED git checkout -q -b release/2.0; git push -q origin release/2.0; git remote set-head origin release/2.0; more x; more y",
    ),
    (
        "no-origin-head",
        "$SEED git remote set-head origin -d; git checkout -q -b legacy; git push -q origin legacy; more x",
    ),
    ("no-origin", "$SEED git remote remove origin"),
    ("detached", "$SEED git remote set-head origin -d; git checkout -q --detach"),
    ("detached-with-origin-head", "$SEED git checkout -q --detach; more x"),
    ("on-a-topic", "$SEED git checkout -q -b topic; more x"),
    ("local-main-gone", "$SEED git checkout -q -b topic; git branch -q -D main"),
    ("unborn", "git init -q -b main ."),
    (
        "stashes",
        "$SEED echo 1 > a.txt; git stash -q; echo 2 > a.txt; git stash -q; git worktree add -q ../stashes.wt; cd ../stashes.wt; echo 3 > a.txt; git stash -q",
    ),
    ("stash-dropped", "$SEED echo 1 > a.txt; git stash -q; git stash drop -q"),
    ("merging", "$SEED git checkout -q -b side base; mine; fails git merge main"),
    ("packed", "$SEED more x; git gc -q; git pack-refs --all"),
    ("git-folder-elsewhere", "git init -q -b main --separate-git-dir ../elsewhere.git .; more x"),
    ("with-credentials", "$SEED git remote set-url origin https://user:hunter2@example.com/x.git; more x"),
];

#[test]
fn repositories_are_what_git_says() {
    let names: Vec<_> = REPOS.iter().map(|(name, _)| *name).collect();
    let ground = Ground::new(&names);
    for (name, script) in REPOS {
        std::fs::create_dir_all(ground.repo(name)).unwrap();
        sh(&ground.repo(name), &script.replace("$SEED", SEED));
    }
    let seen = ground.look();
    let mut wrong = Vec::new();
    for (name, _) in REPOS {
        let (folder, ours) = (ground.repo(name), &seen[format!("acme/{name}")]);
        let told = git(&folder, &["symbolic-ref", "-q", "refs/remotes/origin/HEAD"]);
        let branch = git(&folder, &["symbolic-ref", "-q", "HEAD"]).map(|name| name.replace("refs/heads/", ""));
        let main = told.map(|told| told.replace("refs/remotes/origin/", "")).or(branch.clone());
        let range = format!("refs/remotes/origin/{}...HEAD", main.as_deref().unwrap_or("?"));
        let counts = git(&folder, &["rev-list", "--left-right", "--count", &range]);
        let count = |column: usize| -> Option<u64> { counts.as_ref()?.split('\t').nth(column)?.parse().ok() };
        let status = git(&folder, &["status", "--porcelain=v2"]).unwrap();
        let truth = json!([
            git(&folder, &["rev-parse", "-q", "--verify", "HEAD"]),
            branch,
            main,
            git(&folder, &["rev-parse", "-q", "--verify", &format!("refs/heads/{}", main.as_deref().unwrap_or("?"))]),
            !status.is_empty(),
            count(1),
            count(0),
            git(&folder, &["stash", "list"]).unwrap().lines().count(),
            operation(&folder),
            Value::Null,
        ]);
        let fields = [
            "head_sha",
            "branch",
            "main_branch",
            "main_sha",
            "dirty",
            "unpushed_commits",
            "behind",
            "stashes",
            "operation",
            "error",
        ];
        let ours: Vec<&Value> = fields.iter().map(|field| &ours[field]).collect();
        if json!(ours) != truth {
            wrong.push(format!("{name}\n  git:  {truth}\n  ours: {}", json!(ours)));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), REPOS.len(), wrong.join("\n"));
    assert_eq!(seen["acme/slash"]["main_branch"], "release/2.0");
    assert_eq!(seen["acme/slash"]["unpushed_commits"], 2);
    assert!(!seen.to_string().contains("hunter2"));
}

#[test]
fn clones_that_lack_something_are_read_like_others() {
    let ground =
        Ground::new(&["web", "shallow", "partial", "bare", "sha256", "not-cloned", "empty-folder", "broken-config"]);
    ground.seed("web");
    sh(
        &ground.repo("web"),
        "for i in 1 2 3 4 5 6; do more f$i; done; git push -q origin main; git config uploadpack.allowFilter true",
    );
    let origin = ground.root.join("data/repos/origins/web.git");
    sh(&origin, "git config uploadpack.allowFilter true");
    let clone = |options: &str, name: &str| {
        sh(&ground.repo("."), &format!("git clone -q {options} file://{} {name}", origin.display()));
    };
    clone("--depth 3", "shallow");
    clone("--filter=blob:none --no-checkout", "partial");
    clone("--bare", "bare");
    sh(
        &ground.repo("."),
        "mkdir sha256 empty-folder broken-config; git init -q --object-format=sha256 sha256; git init -q broken-config; echo '[core' >> broken-config/.git/config",
    );
    sh(
        &ground.repo("shallow"),
        "more x; mkdir -p ../../../worktrees/acme/shallow; git worktree add -q -b wt ../../../worktrees/acme/shallow/wt HEAD~2; cd ../../../worktrees/acme/shallow/wt; more y",
    );
    let seen = ground.look();
    let shallow = &seen["acme/shallow"];
    assert_eq!(
        (&shallow["error"], &shallow["unpushed_commits"], &shallow["behind"]),
        (&Value::Null, &json!(1), &json!(0))
    );
    let wt = ground.root.join("data/worktrees/acme/shallow/wt");
    assert_eq!(ours(&shallow["worktrees"]["wt"]), truth(&wt));
    assert_eq!((&shallow["worktrees"]["wt"]["ahead"], &shallow["worktrees"]["wt"]["behind"]), (&json!(1), &json!(2)));
    let partial = &seen["acme/partial"];
    assert_eq!(
        (&partial["error"], &partial["unpushed_commits"], &partial["dirty"]),
        (&Value::Null, &json!(0), &json!(true))
    );
    let bare = &seen["acme/bare"];
    assert_eq!((&bare["bare"], &bare["dirty"], &bare["error"]), (&json!(true), &Value::Null, &Value::Null));
    assert_eq!((&bare["main_branch"], &bare["head_sha"]), (&json!("main"), &seen["acme/web"]["head_sha"]));
    for (name, said) in [
        ("sha256", "open it: "),
        ("not-cloned", "it is not there"),
        ("empty-folder", "it has no .git: a plain folder"),
        ("broken-config", "open it: "),
    ] {
        let repo = &seen[format!("acme/{name}")];
        assert!(repo["error"].as_str().unwrap().starts_with(said), "{name}: {repo}");
        for field in
            ["head_sha", "dirty", "unpushed_commits", "behind", "main_branch", "stashes", "conflict", "last_fetch_at"]
        {
            assert!(repo[field].is_null(), "{name}.{field}: {repo}");
        }
    }
}

#[test]
fn the_last_fetch_is_that_of_whoever_fetched_last() {
    let ground = Ground::seeded();
    let mut collector = ground.collector("repos");
    let mut last = || run(&mut collector, Now::read()).0["acme/web"]["last_fetch_at"].clone();
    assert_eq!(last(), Value::Null, "never fetched");
    sh(&ground.repo("web"), "git fetch -q; touch -d 2026-01-02T03:04:05Z .git/FETCH_HEAD");
    assert_eq!(last(), "2026-01-02T03:04:05Z");
    ground.make("wt", "git fetch -q; touch -d 2026-02-02T03:04:05Z \"$(git rev-parse --git-path FETCH_HEAD)\"");
    assert_eq!(last(), "2026-02-02T03:04:05Z");
    sh(
        &ground.tree("wt"),
        "git remote set-url origin /does/not/exist; fails git fetch -q; git -C ../../../../repos/acme/web worktree list >/dev/null",
    );
    assert_eq!(last(), "2026-02-02T03:04:05Z", "a fetch that failed is none, and takes nothing from the one before");
}

/// An agent commits, rebases and collects garbage as fast as it can, while we look as fast as we can.
#[test]
fn an_agent_at_work_is_not_disturbed_and_seen_whole() {
    const WORK: &str = "for i in $(seq 12); do
        more c$i; echo $i > b.txt; git commit -qam b$i
        git rebase -q --force-rebase main; git gc -q --prune=now; git status > /dev/null
        git stash -q 2>/dev/null || true; git checkout -q -b t$i; more t$i; git checkout -q worktree/busy; git reset -q --hard HEAD~1
    done";
    let ground = Ground::seeded();
    ground.make("busy", "more x; git rebase -q main");
    let mut collector = fast_collector(&ground.root);
    let tree = ground.tree("busy");
    let agent = std::thread::spawn(move || shell(&tree, WORK));
    let mut seen = Vec::new();
    while !agent.is_finished() {
        seen.push(run(&mut collector, Now::read()).0["acme/web"].clone());
    }
    let output = agent.join().unwrap();
    assert!(output.status.success(), "the agent failed: {}", String::from_utf8_lossy(&output.stderr));
    let tree = ground.tree("busy");
    let mut counts: BTreeMap<String, Option<String>> = BTreeMap::new();
    for repo in &seen {
        let busy = &repo["worktrees"]["busy"];
        assert_eq!(repo["error"], Value::Null);
        assert_eq!((&busy["error"], &busy["conflict"]), (&Value::Null, &json!(false)), "{busy}");
        let detached = busy["detached"] == true;
        assert!(!detached || busy["operation"] == "rebase", "detached only within a rebase: {busy}");
        assert_eq!(busy["branch"].is_null(), detached);
        let sha = busy["sha"].as_str().unwrap();
        let range = format!("{}...{sha}", repo["main_sha"].as_str().unwrap());
        let truth =
            counts.entry(range.clone()).or_insert_with(|| git(&tree, &["rev-list", "--left-right", "--count", &range]));
        assert_eq!(*truth, Some(format!("{}\t{}", busy["behind"], busy["ahead"])), "of that very commit: {busy}");
    }
    assert!(seen.len() > 20 && counts.len() > 5, "{} looks at {} states", seen.len(), counts.len());
    assert!(seen.iter().any(|repo| repo["worktrees"]["busy"]["dirty"] == false), "its status was taken in between");
    let quiet = run(&mut collector, Now::read().plus(Duration::from_secs(600))).0;
    assert_eq!(ours(&quiet["acme/web"]["worktrees"]["busy"]), truth(&tree));
}

/// Files that look changed and are not: git would write that into the index, we never do.
#[test]
fn the_index_is_never_refreshed() {
    let ground = Ground::seeded();
    ground.make("touched", "touch -d 2020-01-01 a.txt b.txt");
    let before = listing(&ground.root);
    let mut collector = ground.collector("repos");
    for minute in 0..3 {
        let now = Now::read().plus(Duration::from_secs(minute * 60));
        assert_eq!(run(&mut collector, now).0["acme/web"]["worktrees"]["touched"]["dirty"], false);
    }
    assert!(listing(&ground.root) == before);
}

/// The exporter's own `/status.repos`, printed once by a command that ends in the exporter's arguments.
fn once(ground: &Ground, command: &mut Command) -> Value {
    let binary = ground.root.join("exporter");
    if !binary.exists() {
        // By a process of its own: a child that another test begins meanwhile would hold the file open for writing.
        sh(&ground.root, &format!("cp '{}' exporter", env!("CARGO_BIN_EXE_agenthost-exporter")));
    }
    let root = format!("--host.root={}", ground.root.display());
    let output = command.arg(binary).args(["--once", "--log.level=error", &root]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Without moments and ages.
fn timeless(repos: &Value) -> String {
    let text = serde_json::to_string_pretty(repos).unwrap();
    text.lines().filter(|line| !line.contains("_at\"") && !line.contains("_age_")).collect::<Vec<_>>().join("\n")
}

fn open_to_all(ground: &Ground) {
    sh(&ground.root, "chmod -R a+rX .");
}

const NOBODY: [&str; 5] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];

fn may_become_nobody() -> bool {
    Command::new(NOBODY[0]).args(&NOBODY[1..]).arg("true").status().is_ok_and(|status| status.success())
}

#[test]
fn another_user_reads_the_same_and_is_told_what_it_may_not() {
    if !may_become_nobody() {
        return crate::skipped("reading as another user", "only root may become nobody");
    }
    let ground = Ground::new(&["web", "secret"]);
    ["web", "secret"].iter().for_each(|name| ground.seed(name));
    for (name, script) in STATES.iter().filter(|(name, _)| !name.starts_with("sub")) {
        ground.make(name, script);
    }
    ground.make("closed", "");
    ground.make("closed-new", "mkdir n; echo new > n/n.txt");
    ground.make("closed-file", "echo new > b.txt; git commit -qam b; touch -d 2020-01-01 b.txt");
    open_to_all(&ground);
    sh(&ground.tree("closed"), "chmod 700 dir");
    sh(&ground.tree("closed-new"), "chmod 700 n");
    sh(&ground.tree("closed-file"), "chmod 600 b.txt; touch -d 2020-01-01 b.txt");
    sh(&ground.repo("secret"), "chmod 700 .git");
    let as_root = once(&ground, &mut Command::new("env"));
    let mut nobody = Command::new(NOBODY[0]);
    // With the home of another, whose settings it may not read.
    nobody.args(&NOBODY[1..]).arg("env").arg("HOME=/root");
    let before = listing(&ground.root);
    let as_nobody = once(&ground, &mut nobody);
    assert!(listing(&ground.root) == before);
    let (ours, theirs) = (&as_nobody["repos"]["acme/web"], &as_root["repos"]["acme/web"]);
    for (name, _) in STATES.iter().filter(|(name, _)| !name.starts_with("sub")) {
        assert_eq!(timeless(&ours["worktrees"][name]), timeless(&theirs["worktrees"][name]), "{name}");
    }
    let secret = &as_nobody["repos"]["acme/secret"];
    assert!(secret["error"].as_str().unwrap().contains("ermission denied"), "{secret}");
    assert!(secret["head_sha"].is_null() && secret["dirty"].is_null(), "{secret}");
    for (name, open) in [("closed", false), ("closed-new", true), ("closed-file", false)] {
        assert_eq!(theirs["worktrees"][name]["dirty"], open, "{name}");
        let closed = &ours["worktrees"][name];
        assert_eq!(closed["dirty"], Value::Null, "{name}: what may not be entered may hold anything: {closed}");
        assert_eq!(closed["sha"], theirs["worktrees"][name]["sha"]);
    }

    sh(&ground.repo("web"), "chmod 700 .git");
    let mut nobody = Command::new(NOBODY[0]);
    let denied = once(&ground, nobody.args(&NOBODY[1..]));
    assert_eq!(denied["collectors"]["repos"]["up"], false);
    assert!(
        denied["collectors"]["repos"]["error"].as_str().unwrap().contains("ermission denied"),
        "{}",
        denied["collectors"]
    );
    assert_eq!(denied["repos"], Value::Null);
}

/// What a file is to the repository does not depend on who looks: the settings of our own user count for nothing.
#[test]
fn settings_of_whoever_looks_change_nothing() {
    let ground = Ground::seeded();
    ground.make("new", "echo new > n.txt");
    ground.make("excluded", "echo '*.txt' >> .gitignore; git commit -qam more; echo new > n.txt");
    let home = ground.root.join("home");
    sh(&ground.root, "mkdir -p home/git; echo '*.txt' > home/excludes; echo '*.txt' > home/git/ignore");
    std::fs::write(home.join(".gitconfig"), format!("[core]\nexcludesFile = {}/excludes\n", home.display())).unwrap();
    for (variable, other) in [("HOME", "XDG_CONFIG_HOME=/does/not/exist"), ("XDG_CONFIG_HOME", "HOME=/does/not/exist")]
    {
        let mut command = Command::new("env");
        command.arg(other).arg(format!("{variable}={}", home.display()));
        let worktrees = once(&ground, &mut command)["repos"]["acme/web"]["worktrees"].clone();
        assert_eq!(worktrees["new"]["dirty"], true, "{variable}: {worktrees}");
        assert_eq!(worktrees["excluded"]["dirty"], false, "{variable}: {worktrees}");
    }
}

/// The history of two commits that were compared once does not change: it is not read again at each look.
#[test]
fn the_checkout_of_the_host_is_compared_once() {
    let ground = Ground::seeded();
    sh(
        &ground.root,
        "git init -q -b main .; more x; git update-ref refs/remotes/origin/main HEAD; more y; more z
         git symbolic-ref refs/remotes/origin/HEAD refs/remotes/origin/main",
    );
    let mut collector = ground.collector("deploy");
    let mut unpushed = || run(&mut collector, Now::read()).0["unpushed_commits"].clone();
    assert_eq!(unpushed(), 2);
    sh(&ground.root, "o=$(git rev-parse HEAD~1 | sed 's:^..:&/:'); rm -f .git/objects/$o");
    assert_eq!(unpushed(), 2, "known, though it could not be counted any more");
}

#[test]
fn a_read_only_mount_is_enough() {
    let ground = Ground::seeded();
    for (name, script) in STATES.iter().filter(|(name, _)| !name.starts_with("sub")).take(20) {
        ground.make(name, script);
    }
    open_to_all(&ground);
    let writable = once(&ground, &mut Command::new("env"));
    let mount = "mount --bind \"$0\" \"$0\" && mount -o remount,bind,ro \"$0\" && ! touch \"$0/x\" 2>/dev/null";
    let mut probe = Command::new("unshare");
    if !probe.args(["-m", "sh", "-c", mount]).arg(&ground.root).status().is_ok_and(|status| status.success()) {
        return crate::skipped("a read-only mount", "only root may mount, and not everywhere");
    }
    let mut inside = Command::new("unshare");
    inside.args(["-m", "sh", "-c", &format!("{mount} && exec \"$@\"")]).arg(&ground.root);
    let read_only = once(&ground, &mut inside);
    assert_eq!(timeless(&read_only["repos"]), timeless(&writable["repos"]));
    assert_eq!(read_only["repos"]["acme/web"]["worktrees"]["unstaged"]["dirty"], true);
}
