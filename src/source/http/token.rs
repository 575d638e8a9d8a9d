//! Bearer tokens: read from a file each time, shown nowhere.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::sample::Denied;

/// More is no token.
const LONGEST: u64 = 16 * 1024;

/// What proves who we are. Its content leaves here only as a header.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Bearer(String);

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a token")
    }
}

impl Bearer {
    /// The value of the header `Authorization`.
    pub(super) fn header(&self) -> &str {
        &self.0
    }
}

/// Where a token stands. It is read at each use, so that a new one counts from then on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenFile(PathBuf);

impl TokenFile {
    pub fn new(path: impl Into<PathBuf>) -> TokenFile {
        TokenFile(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The token of now.
    ///
    /// # Errors
    /// `Denied` with the path: whoever cannot read it is refused, whatever the reason. No content is quoted.
    pub fn read(&self) -> Result<Bearer> {
        let path = self.0.display();
        match read(&self.0) {
            Ok(text) => match header(text.trim()) {
                Some(bearer) => Ok(bearer),
                None => bail!(Denied(format!("read {path}: it holds no token (one line of visible characters)"))),
            },
            Err(error) => bail!(Denied(format!("read {path}: {error}"))),
        }
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

fn header(token: &str) -> Option<Bearer> {
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    is_token.then(|| Bearer(format!("Bearer {token}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{Cause, Failure};

    #[test]
    fn a_token_is_read_anew_each_time_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::new(folder.path().join("token"));
        std::fs::write(file.path(), "sk-one\n").unwrap();
        let first = file.read().unwrap();
        assert_eq!(first.header(), "Bearer sk-one");
        assert_eq!(format!("{first:?}"), "a token");
        std::fs::write(file.path(), "sk-two").unwrap();
        assert_eq!(file.read().unwrap().header(), "Bearer sk-two");
    }

    #[test]
    fn whatever_is_no_token_is_denied_with_the_path_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let file = TokenFile::new(folder.path().join("token"));
        let denied = || {
            let failure = Failure::from(file.read().unwrap_err());
            assert_eq!(failure.cause, Cause::Denied);
            assert!(failure.error.starts_with(&format!("read {}: ", file.path().display())), "{failure:?}");
            failure.error
        };
        assert!(denied().contains("No such file"));
        for content in ["", " \n", "two secret words", "secret\r\nX-Evil: 1", "sécret"] {
            std::fs::write(file.path(), content).unwrap();
            let text = denied();
            assert!(text.contains("holds no token") && !text.contains("secret"), "{text}");
        }
        std::fs::write(file.path(), [0xff, 0xfe]).unwrap();
        denied();
        std::fs::remove_file(file.path()).unwrap();
        std::fs::create_dir(file.path()).unwrap();
        denied();
    }
}
