use std::process::Command;
use std::time::Instant;

use super::*;
use crate::health::{Health, Overall, Settings};

fn now(seconds: u64) -> Now {
    Now { mono: Duration::from_secs(1000), wall: "2026-11-21T20:00:00Z".parse().unwrap() }
        .plus(Duration::from_secs(seconds))
}

/// The verdicts of a sidecar that has run for so many seconds.
fn kept(seconds: u64) -> Kept {
    let mut health = Health::new(now(0), Vec::new(), &[], &Settings::default());
    assert_eq!(health.overall(), Overall::Healthy, "nothing is watched");
    health.wake(now(seconds));
    health.keep()
}

fn start(path: &Path, host: &str) -> (Keeper, Option<(Kept, Away)>) {
    let (keeper, kept) = Keeper::start(path, host, now(100));
    (keeper.unwrap(), kept)
}

/// Keeps it and ends.
fn keep(path: &Path, kept: Kept) {
    let (keeper, _) = start(path, "/srv/one");
    keeper.offer(kept);
    assert!(keeper.finish(Duration::from_secs(30)));
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_was_kept_comes_back_with_the_time_between() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    keep(&path, kept(30));
    let (_, found) = start(&path, "/srv/one");
    let (_, away) = found.unwrap();
    assert_eq!(away, Away { length: Duration::from_secs(70), rebooted: false });
}

#[test]
fn of_several_the_latest_is_kept_and_never_two() {
    let keeper = Keeper { slot: Arc::default() };
    let begun = Instant::now();
    (1..=1000).for_each(|second| keeper.offer(kept(second)));
    assert!(begun.elapsed() < Duration::from_secs(10), "nobody takes them, and nobody waits for that");
    assert_eq!(keeper.slot.take().unwrap().wall(), now(1000).wall);
    assert!(keeper.slot.hand().next.is_none());
    assert!(!keeper.finish(Duration::from_millis(1)));
}

#[test]
fn the_verdicts_on_another_host_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    keep(&path, kept(30));
    assert!(start(&path, "/srv/other").1.is_none());
}

#[test]
fn a_disk_that_hangs_delays_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    // Opening a pipe that nobody writes to never ends.
    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
    let begun = Instant::now();
    let (keeper, found) = start(&path, "/srv/one");
    assert!(found.is_none() && begun.elapsed() < LOAD_WITHIN + Duration::from_secs(10));
    let begun = Instant::now();
    (0..100).for_each(|second| keeper.offer(kept(second)));
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert!(!keeper.finish(Duration::from_millis(20)));
}

#[test]
fn a_folder_that_comes_later_is_used_then() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later/state.db");
    let (keeper, found) = start(&path, "/srv/one");
    assert!(found.is_none());
    keeper.offer(kept(10));
    std::fs::create_dir(folder.path().join("later")).unwrap();
    keeper.offer(kept(20));
    assert!(keeper.finish(Duration::from_secs(30)));
    assert_eq!(start(&path, "/srv/one").1.unwrap().1.length, Duration::from_secs(80));
}

#[test]
fn a_damaged_file_is_set_aside_and_a_new_one_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    std::fs::write(&path, [0; 4096]).unwrap();
    keep(&path, kept(30));
    assert_eq!(files(folder.path()), ["state.db", "state.db.corrupt-20261121T200140Z"]);
    assert!(start(&path, "/srv/one").1.is_some());
}

#[test]
fn texts_that_do_not_fit_are_damage_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let about = |about: &str| state::Texts { about: about.into(), ..state::Texts::default() };
    State::open(&path).unwrap().save(&about("{\"host\":\"/srv/one\",\"boot\":null,\"verdicts\":{}}")).unwrap();
    let (keeper, found) = start(&path, "/srv/one");
    assert!(found.is_none());
    keeper.offer(kept(30));
    assert!(keeper.finish(Duration::from_secs(30)));
    assert_eq!(files(folder.path()).len(), 2, "{:?}", files(folder.path()));
    assert!(start(&path, "/srv/one").1.is_some());
}

#[test]
fn a_disk_that_damages_everything_is_not_filled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    std::fs::write(&path, [0; 4096]).unwrap();
    let (keeper, _) = start(&path, "/srv/one");
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, [0; 100]).unwrap();
    for second in 1..5 {
        keeper.offer(kept(second));
        while keeper.slot.hand().next.is_some() {
            std::thread::yield_now();
        }
    }
    assert!(keeper.finish(Duration::from_secs(30)));
    assert_eq!(files(folder.path()).iter().filter(|name| name.contains("corrupt")).count(), 1);
    assert_eq!(std::fs::read(&path).unwrap(), [0; 100]);
}

/// The file after two sidecars on it: the second came while the first had it, was told to keep this after so many
/// seconds, and again when the first had ended.
fn after_two(told: u64) -> Duration {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    let (first, _) = start(&path, "/srv/one");
    let (second, found) = start(&path, "/srv/one");
    assert!(found.is_none());
    second.offer(kept(told));
    while second.slot.hand().next.is_some() {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(1500)); // it waits for the lock for a second
    first.offer(kept(50));
    assert!(first.finish(Duration::from_secs(30)));
    second.offer(kept(told + 1));
    assert!(second.finish(Duration::from_secs(30)));
    let (_, found) = start(&path, "/srv/one");
    found.unwrap().1.length
}

#[test]
fn one_who_came_second_leaves_the_file_to_the_first_unless_that_one_ends_soon() {
    assert_eq!(after_two(170), Duration::from_secs(50), "the first one's");
    assert_eq!(after_two(10), Duration::from_secs(89), "the second one's");
}

#[test]
fn the_file_of_another_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state.db");
    keep(&path, kept(1));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[71] ^= 1; // its application
    std::fs::write(&path, &bytes).unwrap();
    keep(&path, kept(2));
    assert_eq!((std::fs::read(&path).unwrap(), files(folder.path()).len()), (bytes, 1));
}

/// The one who had it may have ended only to start again: a file that it keeps for another host is still its own.
#[test]
fn a_file_that_was_taken_is_used_later_only_for_the_same_host() {
    for (host, ours) in [("/srv/other", false), ("/srv/one", true)] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.db");
        let (first, _) = start(&path, "/srv/one");
        first.offer(kept(30));
        let written = || path.with_extension("db-wal").metadata().is_ok_and(|wal| wal.len() > 0);
        while !written() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let (second, found) = start(&path, host);
        assert!(found.is_none());
        assert!(first.finish(Duration::from_secs(30)));
        second.offer(kept(50));
        assert!(second.finish(Duration::from_secs(30)));
        let away = start(&path, "/srv/one").1.unwrap().1.length;
        assert_eq!(away, Duration::from_secs(if ours { 50 } else { 70 }), "{host}");
    }
}
