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

#[test]
fn that_nobody_answers_is_neither_broken_nor_gone() {
    let mut repos = collector(&host(&[("acme/web", Path::new("/does/not/exist"))]));
    let memory = [(None, Default::default()), (Some("admin-1".into()), Default::default())];
    repos.memories.insert("acme/web".into(), memory.into_iter().collect());
    let repo = repos.repo(&"acme/web".into(), None, now());
    assert_eq!(repo.tree.is_broken(), None);
    let mut points = Points::default();
    repo.put(&"acme/web".into(), &mut points);
    assert_eq!(fixture::value(&points, &REPO_BROKEN, "acme/web"), Some(None));
    assert_eq!(repo.worktrees.keys().map(|name| &**name).collect::<Vec<_>>(), ["admin-1"]);
    assert_eq!(repo.worktrees["admin-1"].tree.is_broken(), None);
}

#[test]
fn a_name_that_leads_elsewhere_has_no_worktrees() {
    let folder = Path::new("/srv/x");
    let worktrees = |slug| home(Path::new("/nowhere"), slug, folder).worktrees;
    assert_eq!(worktrees("acme/web"), Some("/nowhere/data/worktrees/acme/web".into()));
    assert_eq!((worktrees("../etc"), worktrees("/etc"), worktrees("a/../../etc")), (None, None, None));
}
