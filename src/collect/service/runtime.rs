//! The host's process as pi-web itself sees it.

use serde::{Deserialize, Serialize};

/// Of pi-web. `/metrics` is a page.
pub const RUNTIME: &str = "/api/metrics";

/// The process as pi-web itself sees it (`/api/metrics`).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Runtime {
    pub goroutines: Option<u64>,
    pub heap_bytes: Option<u64>,
    pub sse_clients: Option<u64>,
    pub watched_files: Option<u64>,
    /// Why all of it is null.
    pub error: Option<String>,
    #[serde(skip)]
    pub is_denied: bool,
}

/// The part of pi-web's `/api/metrics` that is of its own process.
#[derive(Deserialize)]
pub struct RuntimeAnswer {
    pub process: RuntimeProcess,
}

#[derive(Deserialize)]
pub struct RuntimeProcess {
    pub goroutines: Option<u64>,
    pub heap_alloc_bytes: Option<u64>,
    pub sse_clients: Option<u64>,
    pub watched_files: Option<u64>,
}
