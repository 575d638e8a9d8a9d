//! Keys to what is asked: read from files that the operator names, shown nowhere.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::sample::Denied;

/// A longer file holds no key.
const LONGEST: u64 = 8 * 1024;

/// A key. It leaves here only as the value of a header.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key(String);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
}

impl Key {
    /// As the value of `Authorization`.
    pub fn bearer(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// As the value of a header that takes the key alone.
    pub fn plain(&self) -> String {
        self.0.clone()
    }
}

/// Where a key stands. It is read anew at each use, so that a new one counts from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile(PathBuf);

impl KeyFile {
    pub fn new(path: impl Into<PathBuf>) -> KeyFile {
        KeyFile(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The key of now: the only line of the file.
    ///
    /// # Errors
    /// The file with its path, whatever is wrong with it; nothing of it is quoted.
    pub fn read(&self) -> Result<Key, Denied> {
        let denied = |why: &str| Denied(format!("read {}: {why}", self.0.display()));
        let text = text(&self.0).map_err(|error| denied(&error.to_string()))?;
        let key = text.trim();
        let is_key = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic());
        if is_key { Ok(Key(key.to_owned())) } else { Err(denied("it holds no key (one line without spaces)")) }
    }
}

fn text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LONGEST + 1).read_to_string(&mut text)?;
    // A part of it would be shown as if it were the key.
    if text.len() as u64 > LONGEST { Err(std::io::Error::other("it is too long for a key")) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_anew_and_shown_only_as_a_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let file = KeyFile::new(&path);
        std::fs::write(&path, "sk-one\n").unwrap();
        let key = file.read().unwrap();
        assert_eq!(
            (key.bearer(), key.plain(), format!("{key:?}")),
            ("Bearer sk-one".into(), "sk-one".into(), "a key".into())
        );
        std::fs::write(&path, " sk-two ").unwrap();
        assert_eq!(file.read().unwrap().plain(), "sk-two");
    }

    #[test]
    fn what_is_no_key_is_refused_with_its_path_and_unquoted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        let says = |says: &str| {
            let text = KeyFile::new(&path).read().unwrap_err().to_string();
            assert!(text.starts_with(&format!("read {}: ", path.display())), "{text}");
            assert!(text.contains(says) && !text.contains("secret"), "{text}");
        };
        says("No such file");
        std::fs::write(&path, "secret".repeat(2000)).unwrap();
        says("too long");
        for text in ["", " \n", "a secret", "secret\nX-Evil: 1", "s\u{e9}cret"] {
            std::fs::write(&path, text).unwrap();
            says("holds no key");
        }
        std::fs::write(&path, [0xff, 0xfe]).unwrap();
        says("UTF-8");
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        says("directory");
    }
}
