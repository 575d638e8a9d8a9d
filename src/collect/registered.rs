//! The groups of the host: how a chat's rows find the folder that names their group in every fact.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::source::sqlite::Reader;

/// The pseudo chat in which the host notes when it last asked for the groups: no chat, and no group.
pub const GROUP_SYNC: &str = "__group_sync__";

/// The group of all chats that are not registered. No folder has parentheses in its name.
pub const UNREGISTERED: &str = "(unregistered)";

/// The group of whatever once had one that is not known any more.
pub const UNKNOWN: &str = "(unknown)";

/// Folder by jid, of the table `registered_groups`.
pub type Registered = BTreeMap<String, Arc<str>>;

/// What `read` needs.
pub const TABLE: (&str, &[&str]) = ("registered_groups", &["jid", "folder"]);

/// Reads the table.
///
/// # Errors
/// A jid or folder is no text.
pub fn read(reader: &Reader) -> Result<Registered> {
    let pairs = reader.rows("SELECT jid, folder FROM registered_groups", [], |row| Ok((row.get(0)?, row.get(1)?)));
    Ok(pairs.context("registered groups")?.into_iter().collect())
}
