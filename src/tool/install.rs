//! `agenthost-exporter install FOLDER`: puts this program where another container can run it, which has no copy of its own.
//!
//! The image is made of nothing but the program: no shell, no `cp`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// What the program is called there.
pub const NAME: &str = "agenthost-exporter";

/// Whoever may see the folder may run it, nobody may change it.
const MODE: u32 = 0o555;

/// Copies this program into a folder that exists, over an older copy if there is one, and says where it is. Whoever starts
/// it meanwhile gets the old one or the new one, whole.
///
/// # Errors
/// The program cannot be read, or the folder cannot be written to.
pub fn run(folder: &Path) -> Result<PathBuf> {
    let own = std::env::current_exe().context("find this program")?;
    copy(&own, folder)
}

fn copy(program: &Path, folder: &Path) -> Result<PathBuf> {
    let installed = folder.join(NAME);
    let named = || format!("install into {}", folder.display());
    let mut new = tempfile::NamedTempFile::new_in(folder).with_context(named)?;
    let mut from = std::fs::File::open(program).with_context(|| format!("read {}", program.display()))?;
    std::io::copy(&mut from, &mut new).with_context(named)?;
    new.as_file().set_permissions(PermissionsExt::from_mode(MODE)).with_context(named)?;
    new.persist(&installed).with_context(named)?;
    Ok(installed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_copy_is_replaced_whole_and_nobody_may_write_the_new_one() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        let target = folder.path().join("target");
        std::fs::create_dir(&target).unwrap();
        for content in ["old, and longer than the new one", "new"] {
            std::fs::write(&program, content).unwrap();
            let installed = copy(&program, &target).unwrap();
            assert_eq!(installed, target.join("agenthost-exporter"));
            assert_eq!(std::fs::read_to_string(&installed).unwrap(), content);
            assert_eq!(installed.metadata().unwrap().permissions().mode() & 0o7777, 0o555);
            assert_eq!(std::fs::read_dir(&target).unwrap().count(), 1, "nothing is left behind");
        }
        let error = format!("{:#}", copy(&program, &folder.path().join("none")).unwrap_err());
        assert!(error.contains("/none"), "{error}");
    }
}
