//! What libgit2 keeps for the whole process.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Once;

use git2::ConfigLevel;

use super::path_of;

/// Sets what libgit2 keeps for the whole process, before anything else of it is used.
#[allow(unsafe_code)]
pub fn prepare() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: these write globals of libgit2 without a lock. Every use of libgit2 begins at `Checkout::open`, which
        // comes through here first, and `Once` lets nobody pass before this has ended.
        let done = unsafe {
            // We run as another user than the host by design, and neither write nor run anything that a repository names.
            git2::opts::set_verify_owner_validation(false)
                // Nothing is fetched here, so a partial clone is read like any other.
                .and_then(|()| git2::opts::set_extensions(&["partialclone"]))
        };
        if let Err(error) = done {
            tracing::warn!("prepare libgit2: {}", error.message());
        }
        forget_unreadable_settings();
    });
}

/// Another user's `~/.gitconfig`, inherited with `HOME`, must not make every repository unreadable.
#[allow(unsafe_code)]
fn forget_unreadable_settings() {
    for (level, name) in
        [(ConfigLevel::System, "gitconfig"), (ConfigLevel::Global, ".gitconfig"), (ConfigLevel::XDG, "config")]
    {
        // SAFETY: as in `prepare`, the only caller.
        let Ok(folders) = (unsafe { git2::opts::get_search_path(level) }) else { continue };
        let folders = path_of(folders.as_bytes()).to_owned();
        let refused = |folder: PathBuf| {
            std::fs::File::open(folder.join(name)).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied)
        };
        if std::env::split_paths(&folders).any(refused) {
            // SAFETY: as above.
            drop(unsafe { git2::opts::set_search_path(level, "") });
        }
    }
}

/// Gives back what a large tree needed: the allocator would keep it in each thread's own heap.
#[allow(unsafe_code)]
pub fn return_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: it takes any number, may be called at any time from any thread, and frees nothing that is in use.
        unsafe { malloc_trim(0) };
    }
}
