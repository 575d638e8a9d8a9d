//! A disk that is away, as one over the network may be: whoever looks at a file on it waits, and cannot be told to stop.
//!
//! It is a file system of FUSE that answers nothing, laid over a file or a folder in a view of the mounts that this thread and
//! what it starts have alone: nothing is left of it when they end.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::thread::{UnshareFlags, unshare_unsafe};

/// What lies over a file or a folder; with it goes the disk, and whoever waits is told that it is gone.
pub struct Away {
    place: PathBuf,
    _line: File,
}

/// Gives this thread, and what it starts from now on, a view of the mounts of its own.
///
/// # Errors
/// We may not: only root may, and not in every container.
pub fn own_view() -> std::io::Result<()> {
    // SAFETY: it parts the current folder and the mounts of this thread from those of others, and nothing that memory
    // depends on.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }?;
    Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
}

impl Away {
    /// # Errors
    /// We may not mount, or this machine has no FUSE.
    pub fn at(place: &Path) -> std::io::Result<Away> {
        let line = File::options().read(true).write(true).open("/dev/fuse")?;
        let kind = if place.is_dir() { "40000" } else { "100000" };
        let options = format!("fd={},rootmode={kind},user_id=0,group_id=0,allow_other", line.as_raw_fd());
        let options = CString::new(options).expect("no NUL is in it");
        mount("away", place, "fuse", MountFlags::empty(), &*options)?;
        Ok(Away { place: place.to_owned(), _line: line })
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        let _ = unmount(&self.place, UnmountFlags::DETACH);
    }
}
