//! What does not need a repository: which subjects there are, and what is put of them. The states of git itself are
//! tested against git, in `tests/suite/git.rs`.

use super::*;
use crate::collect::fixture::{self, look, now};

fn host(repos: &[(&str, &Path)]) -> Host {
    let mut host = fixture::host(None);
    host.layout.as_mut().unwrap().repos =
        repos.iter().map(|(slug, folder)| ((*slug).to_owned(), folder.to_path_buf())).collect();
    host
}

fn collector(host: &Host) -> Repos {
    Repos::new(Config::default(), host, &Sources::default()).unwrap().unwrap()
}

#[test]
fn a_host_without_repositories_has_an_empty_list() {
    let section = look(&mut collector(&host(&[])), now()).unwrap();
    assert_eq!(fixture::json::<Repos>(&section), serde_json::json!({}));
    assert!(fixture::points::<Repos>(&section).0.is_empty());
}

#[test]
fn one_that_is_not_cloned_is_listed_and_unknown() {
    let mut repos = collector(&host(&[("acme/web", Path::new("/does/not/exist"))]));
    let section = look(&mut repos, now()).unwrap();
    let json = fixture::json::<Repos>(&section);
    assert_eq!(json["acme/web"]["error"], "it is not there");
    let points = fixture::points::<Repos>(&section);
    assert_eq!(fixture::value(&points, &REPO_BROKEN, "acme/web"), Some(Some(1.0)));
    for fact in [&DIRTY, &UNPUSHED, &REPO_BEHIND, &STASHES, &LAST_FETCH] {
        assert_eq!(fixture::value(&points, fact, "acme/web"), Some(None), "{}", fact.prometheus);
    }
}

#[test]
fn a_broken_worktree_lists_its_subjects_and_knows_nothing_of_them() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data/worktrees/acme/web/plain")).unwrap();
    let mut host = host(&[("acme/web", Path::new("/does/not/exist"))]);
    host.root = Some(folder.path().to_owned());
    let section = look(&mut collector(&host), now()).unwrap();
    let points = fixture::points::<Repos>(&section);
    let value = |fact: &'static Fact| fixture::value(&points, fact, "acme/web/plain");
    assert_eq!(value(&BROKEN), Some(Some(1.0)));
    for fact in [&AHEAD, &BEHIND, &WORKTREE_DIRTY, &CONFLICT, &UNMERGED, &UNFINISHED, &DIVERGED, &LOCK_AGE] {
        assert_eq!(value(fact), Some(None), "{}", fact.prometheus);
    }
}

#[test]
fn a_worktree_puts_what_it_knows() {
    let worktree = |ahead, behind| Worktree { ahead: Some(ahead), behind: Some(behind), ..Worktree::default() };
    let diverged = |worktree: &Worktree| {
        let mut points = Points::default();
        worktree.put(&"r".into(), &"w".into(), &mut points);
        fixture::value(&points, &DIVERGED, "r/w").unwrap()
    };
    assert_eq!(diverged(&worktree(1, 2)), Some(1.0));
    assert_eq!((diverged(&worktree(1, 0)), diverged(&worktree(0, 2))), (Some(0.0), Some(0.0)));
    assert_eq!(diverged(&Worktree::default()), None);
}

/// A repository that is not there, beside a folder `plain` that is no worktree: broken, both of them.
fn beside_a_plain_folder() -> (tempfile::TempDir, Repos) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("data/worktrees/acme/web/plain")).unwrap();
    let mut host = host(&[("acme/web", Path::new("/does/not/exist"))]);
    host.root = Some(folder.path().to_owned());
    let repos = collector(&host);
    (folder, repos)
}

/// Begins a look at `acme/web` that answers when the sender is gone.
fn hold(repos: &mut Repos) -> std::sync::mpsc::Sender<()> {
    let (release, held) = std::sync::mpsc::channel();
    let home = repos.homes["acme/web"].clone();
    let question = move || {
        let _ = held.recv();
        home.look(now(), &Memory::default())
    };
    assert!(repos.looks.ask([("acme/web".into(), question)], Duration::from_millis(200)).is_empty());
    release
}

/// Whether the repository and its worktree are broken, as far as they are listed.
fn broken(repos: &mut Repos) -> [Option<Option<f64>>; 2] {
    let later = now().plus(Duration::from_secs(30));
    let points = fixture::points::<Repos>(&look(repos, later).unwrap());
    [fixture::value(&points, &REPO_BROKEN, "acme/web"), fixture::value(&points, &BROKEN, "acme/web/plain")]
}

#[test]
fn that_nobody_answers_is_neither_broken_nor_gone() {
    let (_folder, mut repos) = beside_a_plain_folder();
    assert_eq!(broken(&mut repos), [Some(Some(1.0)); 2]);
    let release = hold(&mut repos);
    assert_eq!(broken(&mut repos), [Some(None); 2], "its verdict must neither end nor begin anew");
    drop(release);
}

#[test]
fn worktrees_that_cannot_be_listed_are_not_gone() {
    let (folder, mut repos) = beside_a_plain_folder();
    assert_eq!(broken(&mut repos), [Some(Some(1.0)); 2]);
    let worktrees = folder.path().join("data/worktrees/acme/web");
    std::fs::rename(&worktrees, folder.path().join("aside")).unwrap();
    std::fs::write(&worktrees, "no folder").unwrap();
    assert_eq!(broken(&mut repos), [Some(Some(1.0)), Some(None)]);
    std::fs::remove_file(&worktrees).unwrap();
    assert_eq!(broken(&mut repos), [Some(Some(1.0)), None], "and these are");
}

#[test]
fn an_answer_that_comes_too_late_is_remembered() {
    let (_folder, mut repos) = beside_a_plain_folder();
    let release = hold(&mut repos);
    assert_eq!(broken(&mut repos), [Some(None), None], "nothing is known yet");
    drop(release);
    repos.within(Duration::ZERO); // Too short for any new answer.
    let later = std::iter::repeat_with(|| broken(&mut repos)).find(|broken| broken[1].is_some());
    assert_eq!(later, Some([Some(None); 2]));
}

#[test]
fn the_one_that_was_seen_longest_ago_is_asked_first() {
    let mut repos = collector(&host(&["a", "b", "c", "d"].map(|slug| (slug, Path::new("/does/not/exist")))));
    for (slug, second) in [("a", 30), ("c", 20), ("d", 10)] {
        repos.memories.entry(slug.into()).or_default().at = Some(Duration::from_secs(second));
    }
    let order: Vec<_> = repos.questions(now()).into_iter().map(|(slug, _)| slug).collect();
    assert_eq!(order.iter().map(|slug| &**slug).collect::<String>(), "bdca");
}

#[test]
fn what_is_waited_for_ends_before_the_run_must() {
    let of = |seconds| (patience(Duration::from_secs(seconds)), statuses::patience(Duration::from_secs(seconds)));
    assert_eq!(of(10), (Duration::from_secs(3), Duration::from_millis(1500)));
    assert_eq!(of(60), (Duration::from_secs(18), Duration::from_secs(9)), "a longer time-out gives more time");
    assert_eq!(of(1), (Duration::from_millis(300), Duration::from_millis(150)));
}

#[test]
fn a_name_that_leads_elsewhere_has_no_worktrees() {
    let folder = Path::new("/srv/x");
    let worktrees = |slug| home(Path::new("/nowhere"), slug, folder).worktrees;
    assert_eq!(worktrees("acme/web"), Some("/nowhere/data/worktrees/acme/web".into()));
    assert_eq!((worktrees("../etc"), worktrees("/etc"), worktrees("a/../../etc")), (None, None, None));
}
