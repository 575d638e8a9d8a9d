//! What is wrong with a folder that libgit2 does not open, in words for people.

use std::io::ErrorKind;
use std::path::Path;

use super::Unreadable;

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
    match std::fs::read_to_string(&git) {
        Ok(text) => points_nowhere(folder, &text),
        Err(error) if error.kind() == ErrorKind::NotFound && git.symlink_metadata().is_err() => {
            Some(Unreadable::broken("it has no .git: a plain folder"))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Some(Unreadable::broken("its .git points nowhere")),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Some(Unreadable::io("read its .git", &error)),
        Err(_) => None,
    }
}

fn points_nowhere(folder: &Path, text: &str) -> Option<Unreadable> {
    let Some(target) = text.strip_prefix("gitdir:") else {
        return Some(Unreadable::broken("its .git is a file that says nothing"));
    };
    let target = folder.join(target.trim());
    let gone = std::fs::metadata(&target).is_err_and(|error| error.kind() == ErrorKind::NotFound);
    gone.then(|| Unreadable::broken(format!("its .git points nowhere: {} is not there", target.display())))
}
