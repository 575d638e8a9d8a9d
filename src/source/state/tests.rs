use super::*;

struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Lab {
        Lab { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("state.db")
    }

    fn open(&self) -> Result<State, Trouble> {
        State::open(&self.path())
    }

    /// A file that was saved to and closed.
    fn saved() -> Lab {
        let lab = Lab::new();
        lab.open().unwrap().save(&texts(300)).unwrap();
        lab
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn texts(windows: u64) -> Texts {
    let window = |number: u64| (("lamp_lit".into(), format!("lamp {number}")), format!("{{\"bad\":{number}}}"));
    let changes = (5..windows + 5).map(|number| (number, format!("change {number}")));
    Texts { about: "about".into(), windows: (0..windows).map(window).collect(), changes: changes.collect() }
}

#[test]
fn what_is_saved_is_there_after_a_restart() {
    let lab = Lab::new();
    let mut state = lab.open().unwrap();
    assert_eq!(state.load(), Ok(None));
    state.save(&texts(3)).unwrap();
    assert_eq!(state.load(), Ok(Some(texts(3))));
    drop(state);
    assert_eq!(lab.files(), ["state.db"], "nothing lies beside it");
    assert_eq!(lab.open().unwrap().load(), Ok(Some(texts(3))));
}

#[test]
fn a_save_replaces_the_one_before() {
    let lab = Lab::new();
    let mut state = lab.open().unwrap();
    state.save(&texts(5)).unwrap();
    let mut next = texts(4);
    next.about = "other".into();
    next.windows.insert(("lamp_lit".into(), "lamp 1".into()), "went out".into());
    next.windows.insert(("door_shut".into(), String::new()), "new".into());
    next.changes = [(8, "change 8".into()), (20, "later".into())].into();
    state.save(&next).unwrap();
    assert_eq!(state.load(), Ok(Some(next.clone())));
    drop(state);

    // A sidecar that began anew numbers from the beginning.
    let mut state = lab.open().unwrap();
    next.changes = [(0, "first".into())].into();
    state.save(&next).unwrap();
    assert_eq!(state.load(), Ok(Some(next)));
}

#[test]
fn what_is_the_same_is_not_written_again() {
    let lab = Lab::new();
    let mut state = lab.open().unwrap();
    state.save(&texts(2000)).unwrap();
    let wal = || std::fs::metadata(with_suffix(&lab.path(), "-wal")).unwrap().len();
    state.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(())).unwrap();
    state.save(&Texts { about: "other".into(), ..texts(2000) }).unwrap();
    let one = state.connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(1)).unwrap();
    assert!(one <= 2, "{one} pages for one changed text; the -wal has {} bytes", wal());
}

#[test]
fn a_copy_taken_while_it_runs_can_be_used() {
    let lab = Lab::new();
    let mut state = lab.open().unwrap();
    (1..50).for_each(|round| state.save(&texts(round * 7)).unwrap());
    let (with, without) = (Lab::new(), Lab::new());
    for copy in [&with, &without] {
        std::fs::copy(lab.path(), copy.path()).unwrap();
    }
    std::fs::copy(with_suffix(&lab.path(), "-wal"), with_suffix(&with.path(), "-wal")).unwrap();
    assert_eq!(with.open().unwrap().load(), Ok(Some(texts(49 * 7))));
    let older = without.open().unwrap().load().unwrap();
    assert!(older.is_none_or(|older| older == texts(older.windows.len() as u64)), "an older one, but a whole one");
}

#[test]
fn two_may_not_share_it() {
    let lab = Lab::new();
    let first = lab.open().unwrap();
    assert_eq!(lab.open().unwrap_err(), Trouble::Taken);
    drop(first);
    lab.open().unwrap();
}

#[test]
fn damage_of_each_kind_is_told() {
    let whole = Lab::saved().bytes();
    let mut overwritten = whole.clone();
    overwritten[4096..8192].fill(0x5a);
    let mut no_version = whole.clone();
    no_version[60..64].fill(0);
    for (what, bytes) in [
        ("its first page lost", [vec![0; 4096], whole[4096..].to_vec()].concat()),
        ("one byte of nothing", vec![0]),
        ("cut in its header", whole[..70].to_vec()),
        ("cut after its header", whole[..200].to_vec()),
        ("cut in the middle", whole[..whole.len() / 2].to_vec()),
        ("a page overwritten", overwritten),
        ("no version", no_version),
    ] {
        let lab = Lab::new();
        std::fs::write(lab.path(), &bytes).unwrap();
        let trouble = lab.open().expect_err(what);
        assert!(matches!(trouble, Trouble::Damaged(_)), "{what}: {trouble:?}");
        assert_eq!(lab.bytes(), bytes, "{what}: it is not repaired");
    }
}

#[test]
fn a_file_that_is_no_database_is_somebodys_and_left_alone() {
    for bytes in [b"notes of the host, long enough to be a database".repeat(200), b"x".to_vec()] {
        let lab = Lab::new();
        std::fs::write(lab.path(), &bytes).unwrap();
        assert_eq!(lab.open().unwrap_err(), Trouble::Foreign);
        assert_eq!((lab.bytes(), lab.files().len()), (bytes, 1));
    }
}

#[test]
fn it_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let _open = lab.open().unwrap();
    for name in lab.files() {
        let mode = std::fs::metadata(lab.folder.path().join(&name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

#[test]
fn three_that_were_set_aside_are_enough() {
    let lab = Lab::new();
    for second in 0..5 {
        std::fs::write(lab.path(), [0; 100]).unwrap();
        let wall = format!("2026-11-21T20:00:0{second}Z").parse().unwrap();
        assert_eq!(set_aside(&lab.path(), wall).is_ok(), second < 3);
    }
    assert_eq!(lab.files().len(), 4);
}

#[test]
fn a_text_that_is_none_is_damage() {
    let lab = Lab::saved();
    Connection::open(lab.path()).unwrap().execute("UPDATE windows SET text = x'ff00'", []).unwrap();
    assert!(matches!(lab.open().unwrap().load(), Err(Trouble::Damaged(_))));
    Connection::open(lab.path()).unwrap().execute_batch("DROP TABLE windows").unwrap();
    assert!(matches!(lab.open().unwrap().load(), Err(Trouble::Damaged(_))));
}

#[test]
fn what_is_damaged_is_set_aside_with_what_lies_beside_it() {
    let lab = Lab::saved();
    std::fs::write(with_suffix(&lab.path(), "-wal"), "wal").unwrap();
    let aside = set_aside(&lab.path(), "2026-11-21T20:00:00Z".parse().unwrap()).unwrap();
    assert_eq!(aside, lab.folder.path().join("state.db.corrupt-20261121T200000Z"));
    assert_eq!(lab.files(), ["state.db.corrupt-20261121T200000Z", "state.db.corrupt-20261121T200000Z-wal"]);
    assert_eq!(lab.open().unwrap().load(), Ok(None));
}

#[test]
fn the_database_of_another_application_is_left_alone() {
    for application in [0, 7] {
        let lab = Lab::new();
        let other = Connection::open(lab.path()).unwrap();
        other.pragma_update(None, "application_id", application).unwrap();
        other.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE about (text TEXT)").unwrap();
        let before = (lab.files(), lab.bytes());
        assert_eq!(lab.open().unwrap_err(), Trouble::Foreign);
        assert_eq!((lab.files(), lab.bytes()), before);
    }
}

#[test]
fn what_a_newer_version_wrote_is_left_alone() {
    let lab = Lab::saved();
    Connection::open(lab.path()).unwrap().pragma_update(None, "user_version", SCHEMA + 1).unwrap();
    let before = (lab.files(), lab.bytes());
    assert_eq!(lab.open().unwrap_err(), Trouble::Newer);
    assert_eq!((lab.files(), lab.bytes()), before);
}

#[test]
fn a_missing_folder_and_a_folder_in_its_place_are_unusable() {
    let lab = Lab::new();
    let trouble = State::open(&lab.folder.path().join("none/state.db")).unwrap_err();
    assert!(matches!(trouble, Trouble::Unusable(_)), "{trouble:?}");
    let trouble = State::open(lab.folder.path()).unwrap_err();
    assert!(matches!(trouble, Trouble::Unusable(_)), "{trouble:?}");
    assert!(lab.files().is_empty());
}

#[test]
fn on_a_full_disk_the_save_before_stands() {
    let lab = Lab::new();
    let mut state = lab.open().unwrap();
    state.save(&texts(3)).unwrap();
    let limit = |state: &State, pages: u32| state.connection.pragma_update(None, "max_page_count", pages).unwrap();
    limit(&state, 6);
    let trouble = state.save(&texts(3000)).unwrap_err();
    assert!(matches!(&trouble, Trouble::Unusable(why) if why.contains("full")), "{trouble:?}");
    assert_eq!(state.load(), Ok(Some(texts(3))));
    limit(&state, MOST_PAGES);
    state.save(&texts(3000)).unwrap();
    assert_eq!(state.load(), Ok(Some(texts(3000))));
}

#[test]
fn a_file_that_somebody_removed_is_no_longer_written_to() {
    let lab = Lab::new();
    let mut state = lab.open().unwrap();
    state.save(&texts(1)).unwrap();
    std::fs::remove_file(lab.path()).unwrap();
    assert!(matches!(state.save(&texts(2)), Err(Trouble::Unusable(_))));
}

#[test]
fn it_stays_bounded_while_it_is_rewritten() {
    let lab = Lab::new();
    let mut state = lab.open().unwrap();
    for round in 0..300_u64 {
        let mut texts = texts(200);
        texts.windows.values_mut().for_each(|text| *text = format!("round {round}"));
        texts.changes = (round..round + 100).map(|number| (number, format!("change {number}"))).collect();
        state.save(&texts).unwrap();
    }
    drop(state);
    assert!(lab.bytes().len() < 60_000, "{} bytes", lab.bytes().len());
}

#[cfg(target_os = "linux")]
#[test]
fn a_boot_has_a_name() {
    assert_eq!(boot().unwrap().len(), 36);
    assert_eq!(boot(), boot());
}

#[test]
fn a_name_that_was_damaged_is_damage_and_stays_in_no_file() {
    let lab = Lab::new();
    lab.open().unwrap().save(&texts(5)).unwrap();
    let damaged = String::from_utf8(lab.bytes().iter().map(|byte| byte & 0x7f).collect()).unwrap();
    let places: Vec<usize> = damaged.match_indices("lamp 1").map(|(at, _)| at + 5).collect();
    let mut bytes = lab.bytes();
    places.iter().for_each(|at| bytes[*at] = b'9');
    std::fs::write(lab.path(), &bytes).unwrap();
    let mut state = lab.open().unwrap(); // a quick look does not find it
    assert!(!places.is_empty() && state.load().unwrap().unwrap().windows.len() == 5);
    assert!(matches!(state.save(&texts(5)), Err(Trouble::Damaged(_))));
}
