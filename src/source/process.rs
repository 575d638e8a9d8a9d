//! Processes of this machine, by (pid, start time).

/// The process table. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Processes {}
