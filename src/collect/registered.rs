//! The groups of the host: how a chat's rows find the folder that names their group in every fact.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Result;

use crate::source::sqlite::{Reader, Row, column};

/// The pseudo chat in which the host notes when it last asked for the groups: no chat, and no group.
pub const GROUP_SYNC: &str = "__group_sync__";

/// The group of all chats that are not registered. No folder has parentheses in its name.
pub const UNREGISTERED: &str = "(unregistered)";

/// The group of whatever once had one that is not known any more.
pub const UNKNOWN: &str = "(unknown)";

/// What the table `registered_groups` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registered {
    /// By jid.
    pub folders: BTreeMap<String, Arc<str>>,
    /// Rows whose jid or folder is no text: their chats count as not registered.
    pub unreadable: u64,
}

/// What `read` needs.
pub const TABLE: (&str, &[&str]) = ("registered_groups", &["jid", "folder"]);

/// Reads the table.
///
/// # Errors
/// The database cannot be read.
pub fn read(reader: &Reader) -> Result<Registered> {
    let mut registered = Registered::default();
    let columns = |row: &Row<'_>| Ok((column::text(row, 0)?, column::text(row, 1)?));
    for pair in reader.rows("SELECT jid, folder FROM registered_groups", [], columns)? {
        match pair {
            (Some(jid), Some(folder)) => _ = registered.folders.insert(jid.as_ref().into(), folder),
            _ => registered.unreadable += 1,
        }
    }
    Ok(registered)
}
