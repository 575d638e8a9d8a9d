//! A way to files by which SQLite can change none of the host's: not even one that it opens to read.
//!
//! Of a database in WAL mode SQLite opens the `-wal` to write, and makes it if it has just gone, though `mode=ro` says that
//! nothing will be written; an empty database's journals it removes; and as root it gives the `-shm` to the owner of the
//! database, which may not be the host.

use std::ffi::{CStr, c_char, c_int, c_uint};
use std::sync::OnceLock;

use rusqlite::ffi;

/// What `Connection::open_with_flags_and_vfs` calls it.
pub const NAME: &CStr = c"agenthost-read-only";

/// SQLite's own way, under ours.
struct Under(*mut ffi::sqlite3_vfs);

// SAFETY: SQLite's own are made to be used by all threads, and stay for as long as the process.
#[allow(unsafe_code)]
unsafe impl Send for Under {}
#[allow(unsafe_code)]
unsafe impl Sync for Under {}

static UNDER: OnceLock<Under> = OnceLock::new();

/// Files that SQLite makes for itself, in a folder of the system's: a sort may need one.
const ITS_OWN: c_int = ffi::SQLITE_OPEN_TEMP_DB
    | ffi::SQLITE_OPEN_TRANSIENT_DB
    | ffi::SQLITE_OPEN_TEMP_JOURNAL
    | ffi::SQLITE_OPEN_SUBJOURNAL;

/// Registers it once, before the first database is opened.
#[allow(unsafe_code)]
pub fn prepare() {
    UNDER.get_or_init(|| {
        // SAFETY: the default one is there for ever. What is registered is a copy that is never freed, whose two functions
        // of ours have the signatures that SQLite declares; `fchown` is replaced by a function of the same signature.
        unsafe {
            let under = ffi::sqlite3_vfs_find(std::ptr::null());
            let mut ours = *under;
            ours.pNext = std::ptr::null_mut();
            ours.zName = NAME.as_ptr();
            ours.xOpen = Some(open);
            ours.xDelete = Some(delete);
            ffi::sqlite3_vfs_register(Box::into_raw(Box::new(ours)), 0);
            if let Some(set) = (*under).xSetSystemCall {
                type Fchown = unsafe extern "C" fn(c_int, c_uint, c_uint) -> c_int;
                let nothing = std::mem::transmute::<Fchown, unsafe extern "C" fn()>(own_nothing);
                set(under, c"fchown".as_ptr(), Some(nothing));
            }
            Under(under)
        }
    });
}

/// As SQLite's own, but to read.
#[allow(unsafe_code)]
unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    opened: *mut c_int,
) -> c_int {
    let to_read = match flags & ITS_OWN {
        0 => flags & !(ffi::SQLITE_OPEN_READWRITE | ffi::SQLITE_OPEN_CREATE) | ffi::SQLITE_OPEN_READONLY,
        _ => flags,
    };
    // SAFETY: it was called with what SQLite calls its own with, but for the flags, which are others that it knows.
    match UNDER.get().map(|under| (under.0, unsafe { (*under.0).xOpen })) {
        Some((under, Some(own))) => unsafe { own(under, name, file, to_read, opened) },
        _ => ffi::SQLITE_CANTOPEN,
    }
}

/// Whoever may only read removes nothing.
#[allow(unsafe_code)]
unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int) -> c_int {
    ffi::SQLITE_READONLY
}

/// Files stay whose they are.
#[allow(unsafe_code)]
unsafe extern "C" fn own_nothing(_: c_int, _: c_uint, _: c_uint) -> c_int {
    0
}
