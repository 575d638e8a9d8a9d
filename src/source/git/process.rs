//! What libgit2 keeps for the whole process.

use std::sync::Once;

use git2::ConfigLevel;

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
                // The settings of whoever we run as are not those of the host's user, and may not even be readable.
                .and_then(|()| git2::opts::set_search_path(ConfigLevel::Global, ""))
                .and_then(|()| git2::opts::set_search_path(ConfigLevel::XDG, ""))
        };
        if let Err(error) = done {
            tracing::warn!("prepare libgit2: {}", error.message());
        }
    });
}
