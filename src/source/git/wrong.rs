//! What is wrong with a folder that libgit2 does not open, in words for people.

use std::io::ErrorKind;
use std::path::Path;

use super::{Unreadable, file, path_of};

/// What is wrong with a folder that is no repository, as far as plain looking tells.
pub fn why_not(folder: &Path) -> Option<Unreadable> {
    match std::fs::metadata(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let link = folder.symlink_metadata().is_ok();
            return Some(Unreadable::broken(if link { "it is a link that leads nowhere" } else { "it is not there" }));
        }
        Err(error) => return Some(Unreadable::io("look at it", &error)),
        Ok(found) if !found.is_dir() => return Some(Unreadable::broken("it is not a folder")),
        Ok(_) => {}
    }
    let git = folder.join(".git");
    match file::read(&git) {
        Ok(Some(text)) => points_nowhere(folder, &text),
        Ok(None) if git.symlink_metadata().is_err() => Some(Unreadable::broken("it has no .git: a plain folder")),
        Ok(None) => Some(Unreadable::broken("its .git points nowhere")),
        Err(_) if git.is_dir() => refused(&git),
        Err(error) => Some(Unreadable::io("read its .git", &error)),
    }
}

fn points_nowhere(folder: &Path, text: &[u8]) -> Option<Unreadable> {
    let Some(target) = text.strip_prefix(b"gitdir:") else {
        return Some(Unreadable::broken("its .git is a file that says nothing"));
    };
    let target = folder.join(path_of(target.trim_ascii()));
    match std::fs::metadata(&target) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Some(Unreadable::broken(format!("its .git points nowhere: {} is not there", target.display())))
        }
        _ => refused(&target),
    }
}

/// libgit2 takes a folder that it may not enter for none.
fn refused(git: &Path) -> Option<Unreadable> {
    let error = std::fs::metadata(git.join("HEAD")).err()?;
    (error.kind() == ErrorKind::PermissionDenied).then(|| Unreadable::io("look into its .git", &error))
}
