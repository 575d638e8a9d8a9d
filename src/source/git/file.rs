//! Git's own files, read as what they may be: agents can put anything in their place.

use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use super::path_of;
use crate::source::file::open;

/// Git writes nothing longer but its logs.
const LONGEST: u64 = 1 << 20;
const LONGEST_LOG: u64 = 64 << 20;

/// All that libgit2 reads when it opens a repository or a worktree.
const READ_AT_ONCE: [&str; 10] = [
    "HEAD",
    "commondir",
    "gitdir",
    "index",
    "config",
    "config.worktree",
    "packed-refs",
    "shallow",
    "info/exclude",
    "info/attributes",
];

/// What a file holds; `None` if there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(LONGEST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST { Err(too_long()) } else { Ok(Some(bytes)) }
}

/// How many lines a log has; `None` if there is none.
pub fn lines(path: &Path) -> Result<Option<u64>> {
    let Some(file) = open(path)? else { return Ok(None) };
    let (mut log, mut lines, mut length) = (BufReader::new(file.take(LONGEST_LOG + 1)), 0, 0);
    loop {
        let chunk = log.fill_buf()?;
        match chunk.len() {
            0 if length > LONGEST_LOG => return Err(too_long()),
            0 => return Ok(Some(lines)),
            read => {
                lines += chunk.iter().filter(|&&byte| byte == b'\n').count() as u64;
                length += read as u64;
                log.consume(read);
            }
        }
    }
}

fn too_long() -> Error {
    Error::new(ErrorKind::FileTooLarge, "it is longer than git would write it")
}

/// What git keeps of this working tree alone; `None` if its `.git` says nothing. Of a bare repository it is the folder itself.
pub fn own_folder(folder: &Path) -> Option<PathBuf> {
    let git = folder.join(".git");
    match read(&git) {
        Ok(Some(text)) => Some(folder.join(text.strip_prefix(b"gitdir:").map(|at| path_of(at.trim_ascii()))?)),
        _ if git.is_dir() => Some(git),
        _ => Some(folder.to_owned()), // A bare one, or none.
    }
}

/// The first pipe among what libgit2 would read of the repository or worktree in a folder: it would wait for ever.
pub fn pipe_in(folder: &Path) -> Option<PathBuf> {
    let (git, own) = (folder.join(".git"), own_folder(folder)?);
    let common = read(&own.join("commondir")).ok().flatten().map(|text| own.join(path_of(text.trim_ascii_end())));
    let folders = [Some(own), common].into_iter().flatten();
    let files = folders.flat_map(|folder| READ_AT_ONCE.map(|name| folder.join(name)));
    [git].into_iter().chain(files).find(|path| is_pipe(path))
}

pub fn is_pipe(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn a_file_is_read_whole_or_not_at_all() {
        assert_eq!(read(Path::new("/does/not/exist")).unwrap(), None);
        assert_eq!(read(written(b"ref: x\n").path()).unwrap().unwrap(), b"ref: x\n");
        let longest = written(&vec![b'x'; 1 << 20]);
        assert_eq!(read(longest.path()).unwrap().unwrap().len(), 1 << 20);
        assert_eq!(read(written(&vec![b'x'; (1 << 20) + 1]).path()).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn lines_of_a_log_are_counted_however_many_they_are_but_not_for_ever() {
        assert_eq!(lines(Path::new("/does/not/exist")).unwrap(), None);
        assert_eq!(lines(written(b"").path()).unwrap(), Some(0));
        assert_eq!(lines(written(&b"a stash\n".repeat(300_000)).path()).unwrap(), Some(300_000));
        let endless = written(b"");
        endless.as_file().set_len(LONGEST_LOG + 1).unwrap();
        assert_eq!(lines(endless.path()).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }

    #[test]
    fn what_is_no_file_is_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join(".git");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
        for path in [pipe.as_path(), folder.path(), Path::new("/dev/zero")] {
            assert_eq!(read(path).unwrap_err().to_string(), "it is no regular file");
            assert!(lines(path).is_err());
        }
        assert_eq!(pipe_in(folder.path()), Some(pipe.clone()));
        std::fs::remove_file(&pipe).unwrap();
        assert_eq!(pipe_in(folder.path()), None);
    }
}
