//! Real files in every state in which a host can leave them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::time::Instant;

use super::*;
use crate::sample::{Cause, Failure};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

/// A rollback-journal database with three rows.
fn three(path: &Path) -> Connection {
    let host = Connection::open(path).unwrap();
    host.execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1), (2), (3);").unwrap();
    host
}

/// The same in WAL mode, with the rows only in the `-wal`.
fn three_in_wal(path: &Path) -> Connection {
    let host = Connection::open(path).unwrap();
    let mode: String = host.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).unwrap();
    assert_eq!(mode, "wal");
    host.execute_batch("CREATE TABLE t (n INTEGER); INSERT INTO t VALUES (1), (2), (3);").unwrap();
    host
}

fn count(path: &Path) -> Result<i64> {
    Database::new(path).open()?.row("SELECT count(*) FROM t", [], |row| row.get(0))
}

fn error(path: &Path) -> String {
    format!("{:#}", count(path).expect_err("it must not be readable"))
}

/// Names, bytes and times of modification of all files.
type Listing = BTreeMap<PathBuf, (Vec<u8>, i64, i64)>;

fn listing(folder: &Path) -> Listing {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let look = |path: PathBuf| {
        let data = fs::metadata(&path).unwrap();
        let bytes = fs::read(&path).unwrap();
        (path, (bytes, data.mtime(), data.mtime_nsec()))
    };
    entries.map(look).collect()
}

#[test]
fn reads_a_database_and_leaves_its_folder_as_it_was() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    drop(three(&path));
    let before = listing(folder.path());
    assert_eq!(before.len(), 1);
    assert_eq!(count(&path).unwrap(), 3);
    assert_eq!(listing(folder.path()), before);
}

#[test]
fn a_path_that_looks_like_a_uri_is_taken_literally() {
    let folder = folder();
    let path = folder.path().join("a b?mode=rwc&c%41#d.db");
    drop(three(&path));
    assert_eq!(count(&path).unwrap(), 3);
    assert_eq!(listing(folder.path()).len(), 1, "nothing was made under a shorter name");
}

#[test]
fn a_missing_file_is_named_and_not_made() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let text = error(&path);
    assert!(text.contains("messages.db") && text.contains("No such file"), "{text}");
    assert!(listing(folder.path()).is_empty());
}

#[test]
fn an_empty_file_is_an_error() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    fs::write(&path, "").unwrap();
    assert!(error(&path).contains("empty"));
}

#[test]
fn garbage_is_not_a_database() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    for size in [5, 99, 5000] {
        fs::write(&path, vec![b'x'; size]).unwrap();
        let text = error(&path);
        assert_eq!(text, format!("read {}: file is not a database", path.display()), "{size} bytes");
    }
}

#[test]
fn a_truncated_file_is_malformed() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let host = three(&path);
    host.execute_batch("CREATE TABLE big (x); INSERT INTO big VALUES (zeroblob(100000));").unwrap();
    drop(host);
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(8192).unwrap();
    let text = error(&path);
    assert!(text.contains("malformed"), "{text}");
}

#[test]
fn a_lock_is_waited_for_a_quarter_second() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let host = three(&path);
    host.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let begun = Instant::now();
    let text = error(&path);
    let took = begun.elapsed();
    assert_eq!(text, format!("read {}: database is locked", path.display()));
    assert!(took >= Duration::from_millis(200), "{took:?}");
    host.execute_batch("ROLLBACK").unwrap();
    assert_eq!(count(&path).unwrap(), 3);
}

#[test]
fn a_writer_that_has_not_committed_is_not_in_the_way() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let host = three(&path);
    host.execute_batch("BEGIN IMMEDIATE; INSERT INTO t VALUES (4)").unwrap();
    assert_eq!(count(&path).unwrap(), 3);
    host.execute_batch("COMMIT").unwrap();
    assert_eq!(count(&path).unwrap(), 4);
}

#[test]
fn a_look_at_the_files_keeps_the_locks_of_another_reader() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    drop(three(&path));
    let database = Database::new(&path);
    let reader = database.open().unwrap();
    reader.connection.execute_batch("BEGIN; SELECT * FROM t").unwrap();
    let _: i64 = reader.row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(count(&path).unwrap(), 3);
    let Some(wrote) = host_writes(&path) else { return };
    assert!(!wrote, "the host wrote under our open read");
    drop(reader);
    assert_eq!(host_writes(&path), Some(true));
    assert_eq!(count(&path).unwrap(), 0);
}

/// POSIX locks do not conflict within one process: another one must try.
fn host_writes(path: &Path) -> Option<bool> {
    const WRITE: &str =
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], timeout=0); c.execute('DELETE FROM t'); c.commit()";
    let mut command = std::process::Command::new("python3");
    let status = command.args(["-c", WRITE]).arg(path).stderr(std::process::Stdio::null()).status();
    if status.is_err() {
        crate::source::skipped("locks against another process", "python3 is not installed");
    }
    Some(status.ok()?.success())
}

#[test]
fn a_replaced_file_is_another_one() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    drop(three(&path));
    let database = Database::new(&path);
    let before = database.stamp().unwrap();
    let other = folder.path().join("other.db");
    three(&other).execute_batch("INSERT INTO t VALUES (4)").unwrap();
    fs::rename(&other, &path).unwrap();
    let after = database.stamp().unwrap();
    assert!(!after.same_file(&before));
    assert_eq!(count(&path).unwrap(), 4);
}

#[test]
fn a_file_made_anew_is_another_one_though_it_gets_the_old_inode() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    drop(three(&path));
    let database = Database::new(&path);
    let before = database.stamp().unwrap();
    fs::remove_file(&path).unwrap();
    assert!(database.stamp().is_err());
    assert!(database.open().is_err());
    std::thread::sleep(Duration::from_millis(20));
    drop(three(&path));
    let after = database.stamp().unwrap();
    match before.main.born {
        Some(_) => assert!(!after.same_file(&before)),
        None => eprintln!("SKIPPED: reused inodes, because this file system keeps no time of birth"),
    }
}

#[test]
fn the_stamp_moves_with_every_write_and_only_then() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let host = three(&path);
    let database = Database::new(&path);
    let before = database.stamp().unwrap();
    assert_eq!(database.stamp().unwrap(), before);
    std::thread::sleep(Duration::from_millis(20));
    host.execute_batch("UPDATE t SET n = 7 WHERE n = 1").unwrap();
    let after = database.stamp().unwrap();
    assert_ne!(after, before);
    assert!(after.same_file(&before));
}

#[test]
fn a_stamp_is_settled_two_seconds_after_the_last_write() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    drop(three(&path));
    let stamp = Database::new(&path).stamp().unwrap();
    let (seconds, nanos) = stamp.main.modified;
    let written = Timestamp::new(seconds, nanos as i32).unwrap();
    let after = |millis: i64| stamp.is_settled(written + jiff::SignedDuration::from_millis(millis));
    assert!(!after(0) && !after(1999) && !after(2000));
    assert!(after(2001));
    assert!(!after(-3_600_000), "a file from the future");
}

#[test]
fn the_stamp_of_the_wal_must_settle_too() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let _host = three_in_wal(&path);
    let file = fs::File::options().write(true).open(&path).unwrap();
    let old = SystemTime::now() - Duration::from_secs(3600);
    file.set_modified(old).unwrap();
    let stamp = Database::new(&path).stamp().unwrap();
    assert!(!stamp.is_settled(Timestamp::try_from(old).unwrap() + jiff::SignedDuration::from_secs(60)));
}

/// The database and the journal of a host that was killed while it wrote.
fn hot(folder: &Path) -> PathBuf {
    let (path, copy) = (folder.join("live.db"), folder.join("messages.db"));
    let host = three(&path);
    // A cache of one page makes SQLite write to the file before the commit.
    host.execute_batch(
        "PRAGMA cache_size = 1; CREATE TABLE big (x);
         WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < 200)
         INSERT INTO big SELECT randomblob(500) FROM s;
         BEGIN; UPDATE big SET x = randomblob(500); DELETE FROM t;",
    )
    .unwrap();
    fs::copy(&path, &copy).unwrap();
    fs::copy(folder.join("live.db-journal"), folder.join("messages.db-journal")).unwrap();
    copy
}

#[test]
fn a_hot_journal_is_named_and_left_alone() {
    let folder = folder();
    let path = hot(folder.path());
    let before = listing(folder.path());
    assert!(before[&folder.path().join("messages.db-journal")].0.len() > 512);
    let text = error(&path);
    assert!(text.contains("hot journal"), "{text}");
    assert_eq!(listing(folder.path()), before);
    // The host comes back and rolls back: then it reads as it was.
    let host = Connection::open(&path).unwrap();
    let _: i64 = host.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(count(&path).unwrap(), 3);
}

#[test]
fn a_live_wal_is_read_with_its_pages() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let host = three_in_wal(&path);
    assert_eq!(count(&path).unwrap(), 3);
    host.execute_batch("INSERT INTO t VALUES (4)").unwrap();
    let before = listing(folder.path());
    assert_eq!(before.len(), 3);
    assert_eq!(count(&path).unwrap(), 4);
    let after = listing(folder.path());
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    let wal = folder.path().join("messages.db-wal");
    assert_eq!((&after[&path], &after[&wal]), (&before[&path], &before[&wal]));
}

/// As root SQLite would give the `-shm` to the owner of the database, and a new time to both by that.
#[test]
fn files_of_a_live_wal_stay_whose_they_are() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let _host = three_in_wal(&path);
    let shm = with_suffix(&path, "-shm");
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&shm, Some(65534), Some(65534)).unwrap();
    }
    let look = || {
        ["", "-wal", "-shm"].map(|suffix| {
            let data = fs::metadata(with_suffix(&path, suffix)).unwrap();
            (data.uid(), data.gid(), data.ctime(), data.ctime_nsec())
        })
    };
    let before = look();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(count(&path).unwrap(), 3);
    assert_eq!(look(), before);
}

/// Between a look at the files and the opening of one the host may end, and take its `-wal` along.
#[test]
fn a_wal_that_has_just_gone_is_not_made_anew() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    drop(three_in_wal(&path));
    let database = Database::new(&path);
    assert!(database.connect("mode=ro&readonly_shm=1").is_err());
    assert_eq!(listing(folder.path()).len(), 1);
    assert_eq!(count(&path).unwrap(), 3);
}

#[test]
fn the_wal_of_a_killed_host_is_read_without_a_change() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let live = folder.path().join("live.db");
    let _host = three_in_wal(&live);
    for suffix in ["", "-wal", "-shm"] {
        fs::copy(with_suffix(&live, suffix), with_suffix(&path, suffix)).unwrap();
    }
    let before = listing(folder.path());
    assert_eq!(count(&path).unwrap(), 3);
    assert_eq!(listing(folder.path()), before);
}

#[test]
fn a_wal_without_its_shm_is_an_error_and_no_shm_is_made() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let live = folder.path().join("live.db");
    let _host = three_in_wal(&live);
    for suffix in ["", "-wal"] {
        fs::copy(with_suffix(&live, suffix), with_suffix(&path, suffix)).unwrap();
    }
    let before = listing(folder.path());
    let text = error(&path);
    assert!(text.contains("-shm"), "{text}");
    assert_eq!(listing(folder.path()), before);
}

#[test]
fn a_wal_database_that_was_closed_is_read_and_nothing_is_made_beside_it() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    drop(three_in_wal(&path));
    let before = listing(folder.path());
    assert_eq!(before.len(), 1);
    assert_eq!(count(&path).unwrap(), 3);
    fs::write(folder.path().join("messages.db-wal"), "").unwrap();
    assert_eq!(count(&path).unwrap(), 3, "with an empty -wal");
    fs::remove_file(folder.path().join("messages.db-wal")).unwrap();
    assert_eq!(listing(folder.path()), before);
}

#[test]
fn what_was_read_without_locks_while_the_host_wrote_does_not_count() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    drop(three_in_wal(&path));
    let reader = Database::new(&path).open().unwrap();
    let number = |sql: &str| reader.row(sql, [], |row| row.get::<_, i64>(0));
    assert_eq!(number("SELECT count(*) FROM t").unwrap(), 3);
    let host = Connection::open(&path).unwrap();
    host.execute_batch("INSERT INTO t VALUES (4)").unwrap();
    assert!(number("SELECT count(*) FROM t").unwrap_err().to_string().contains("without locks"));
    assert_eq!(count(&path).unwrap(), 4);
}

/// Runs the test of this name alone as the user `nobody`, who can write nothing here.
fn as_nobody(test: &str, path: &Path) -> Option<std::process::Output> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: another user's reading, because the tests do not run as root");
        return None;
    }
    // The program may stand in a folder that only root may enter.
    let copy = path.with_file_name("tests");
    fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let test = format!("source::sqlite::tests::{test}");
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&copy);
    command.args(["--exact", &test, "--nocapture"]).env("AGENTHOST_TEST_DATABASE", path).current_dir("/");
    let output = command.output().ok();
    if output.is_none() {
        crate::source::skipped("another user's reading", "setpriv is not installed");
    }
    output
}

/// Set by the test that runs this one as another user; without it there is nothing to do.
fn given() -> Option<PathBuf> {
    std::env::var_os("AGENTHOST_TEST_DATABASE").map(PathBuf::from)
}

#[test]
fn reads_three() {
    let Some(path) = given() else { return };
    assert_eq!(count(&path).unwrap(), 3);
}

#[test]
fn is_denied() {
    let Some(path) = given() else { return };
    assert_eq!(Failure::from(count(&path).unwrap_err()).cause, Cause::Denied);
}

fn open_to_all(folder: &Path, mode: u32) {
    fs::set_permissions(folder, fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn a_wal_database_closed_in_a_folder_that_we_may_not_write_is_read() {
    let folder = folder();
    open_to_all(folder.path(), 0o755);
    let path = folder.path().join("messages.db");
    drop(three_in_wal(&path));
    open_to_all(&path, 0o644);
    if let Some(output) = as_nobody("reads_three", &path) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn a_live_wal_is_read_by_another_user() {
    let folder = folder();
    open_to_all(folder.path(), 0o755);
    let path = folder.path().join("messages.db");
    let _host = three_in_wal(&path);
    for suffix in ["", "-wal", "-shm"] {
        open_to_all(&with_suffix(&path, suffix), 0o644);
    }
    if let Some(output) = as_nobody("reads_three", &path) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn a_file_that_we_may_not_read_is_denied() {
    let folder = folder();
    open_to_all(folder.path(), 0o755);
    let path = folder.path().join("messages.db");
    drop(three(&path));
    open_to_all(&path, 0o600);
    if let Some(output) = as_nobody("is_denied", &path) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn columns_may_be_added_but_not_missing() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let host = three(&path);
    host.execute_batch("ALTER TABLE t ADD COLUMN later TEXT").unwrap();
    let reader = Database::new(&path).open().unwrap();
    reader.expect("t", &["n"]).unwrap();
    let text = |table: &str, columns: &[&str]| reader.expect(table, columns).unwrap_err().to_string();
    assert!(text("t", &["n", "m", "o"]).ends_with("table `t` has no column `m`, `o`"));
    assert!(text("u", &["n"]).ends_with("no table `u`"));
}

#[test]
fn what_a_query_stumbled_over_is_said_once() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let _host = three(&path);
    let text = |sql: &str| {
        let reader = Database::new(&path).open().unwrap();
        format!("{:#}", reader.row(sql, [], |row| row.get::<_, i64>(0)).unwrap_err())
    };
    let path = path.display();
    assert_eq!(text("SELECT n FROM t WHERE n > 7"), format!("read {path}: Query returned no rows"));
    assert_eq!(text("SELECT 'x'"), format!("read {path}: Invalid column type Text at index: 0, name: 'x'"));
}

#[test]
fn a_real_in_an_integer_column_is_an_error_not_a_number() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    three(&path).execute_batch("INSERT INTO t VALUES (1.5)").unwrap();
    let reader = Database::new(&path).open().unwrap();
    let sql = "SELECT n FROM t ORDER BY n";
    assert!(reader.rows(sql, [], |row| row.get::<_, i64>(0)).is_err());
    assert_eq!(reader.rows(sql, [], |row| row.get::<_, f64>(0)).unwrap(), [1.0, 1.5, 2.0, 3.0]);
}

#[test]
fn a_corrupted_page_is_an_error() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    drop(three(&path));
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[0xff; 200], 4096).unwrap();
    let text = error(&path);
    assert!(text.contains("malformed"), "{text}");
}

#[test]
fn only_a_row_of_the_same_name_and_type_was_there_before() {
    let folder = folder();
    let path = folder.path().join("messages.db");
    let host = Connection::open(&path).unwrap();
    host.execute_batch("CREATE TABLE t (id, chat TEXT, PRIMARY KEY (id, chat))").unwrap();
    let mut tail = Tail::new("t", &["id", "chat"], 2);
    let mut new = |values: &str| {
        host.execute_batch(&format!("INSERT OR REPLACE INTO t VALUES {values}")).unwrap();
        let mut new = 0;
        let reader = Database::new(&path).open().unwrap();
        tail.read(&reader, false, |_, is_new| new += u32::from(is_new)).unwrap();
        new
    };
    assert_eq!(new("(1, 'a'), (2, 'a'), (2, 'b'), ('1', 'a'), (X'31', 'a'), (1.5, 'a'), (2.5, 'a')"), 7);
    assert_eq!(new("(1, 'a'), ('1', 'a'), (X'31', 'a'), (1.5, 'a')"), 0, "replaced ones");
    assert_eq!(new("(NULL, 'a')"), 1);
    assert_eq!(new("(NULL, 'a'), (NULL, 'a')"), 2, "NULL replaces no NULL");
}
