//! The fault matrix: each part of a host is broken for real, beside a sidecar of its own, and what is said of it is held to
//! `tests/faults.md`.

#[path = "faults/row.rs"]
mod row;
