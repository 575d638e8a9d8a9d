//! Files of the host, looked at and never opened.

use std::io::{Error, ErrorKind};
use std::path::Path;

use jiff::Timestamp;

/// When a file was last written.
///
/// # Errors
/// There is none, or it may not be looked at.
pub fn modified(path: &Path) -> std::io::Result<Timestamp> {
    let at = std::fs::metadata(path)?.modified()?;
    Timestamp::try_from(at).map_err(|_| Error::new(ErrorKind::InvalidData, "its time is no moment"))
}
