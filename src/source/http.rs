//! HTTP to the host and to what stands around it: bounded in time and size.

/// A client. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Http {}
