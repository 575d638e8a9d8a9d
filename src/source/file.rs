//! Files of the host, read as what they may be: whoever works there can put anything in the place of one.

use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Read, Result};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use jiff::Timestamp;
use rustix::fs::OFlags;

/// Opens a regular file and nothing else: a pipe waits for its writer, and a device never ends. `None` if there is none.
///
/// # Errors
/// It may not be opened, or is no regular file.
pub fn open(path: &Path) -> Result<Option<File>> {
    let regular = |is_file: bool| if is_file { Ok(()) } else { Err(Error::other("it is no regular file")) };
    // Asked before, since opening a device may do something by itself, and after, since it may have been exchanged.
    let Some(found) = absent_or(std::fs::metadata(path))? else { return Ok(None) };
    regular(found.is_file())?;
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let Some(file) = absent_or(OpenOptions::new().read(true).custom_flags(flags).open(path))? else { return Ok(None) };
    regular(file.metadata()?.is_file())?;
    Ok(Some(file))
}

/// The text in a file, whole; `None` if there is none.
///
/// # Errors
/// It may not be read, is no regular file, holds more than `longest` bytes, or no UTF-8.
pub fn text(path: &Path, longest: u64) -> Result<Option<String>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mut text = String::new();
    let length = file.take(longest + 1).read_to_string(&mut text)? as u64;
    let too_long = || Error::new(ErrorKind::FileTooLarge, format!("it is longer than {longest} bytes"));
    if length > longest { Err(too_long()) } else { Ok(Some(text)) }
}

/// Only *not there* is absent; whatever else hinders is an error.
pub fn absent_or<T>(found: Result<T>) -> Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(error),
    }
}

/// When a file was last written.
///
/// # Errors
/// There is none, or it may not be looked at.
pub fn modified(path: &Path) -> Result<Timestamp> {
    let at = std::fs::metadata(path)?.modified()?;
    Timestamp::try_from(at).map_err(|_| Error::new(ErrorKind::InvalidData, "its time is no moment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pid");
        let written = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            text(&path, 8)
        };
        assert_eq!(text(&path, 8).unwrap(), None);
        assert_eq!(written(b"12345678").unwrap().unwrap(), "12345678");
        assert_eq!(written(b"123456789").unwrap_err().to_string(), "it is longer than 8 bytes");
        assert_eq!(written(b"\xff").unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(text(&path.join("below"), 8).unwrap(), None);
    }

    #[test]
    fn what_is_no_file_is_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pid");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        for path in [pipe.as_path(), folder.path(), Path::new("/dev/zero")] {
            assert_eq!(text(path, 8).unwrap_err().to_string(), "it is no regular file");
        }
    }
}
