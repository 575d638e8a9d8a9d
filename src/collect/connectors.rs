//! To what netclaw is connected, by its own word: channels and MCP servers stand in one list.

use serde::Deserialize;

/// Its `overall` counts MCP servers too, so it is not read.
pub const PATH: &str = "/api/health/status";

/// The part of the answer that we read.
#[derive(Deserialize)]
pub struct Answer {
    pub connectors: Vec<Connector>,
}

#[derive(Deserialize)]
pub struct Connector {
    /// `slack`, or `mcp:github`.
    pub key: String,
    enabled: Option<bool>,
    pub status: Option<String>,
}

impl Connector {
    /// One that is switched off is not there.
    pub fn is_on(&self) -> bool {
        self.enabled != Some(false) && self.status.as_deref() != Some("disabled")
    }

    /// Its state, and whether that is connected. A word that we do not know says nothing.
    pub fn state(&self) -> (&'static str, Option<bool>) {
        match self.status.as_deref() {
            Some("healthy") => ("healthy", Some(true)),
            // Connected, and not ready; an MCP server then offers no tool.
            Some("degraded") => ("degraded", Some(false)),
            Some("disconnected") => ("disconnected", Some(false)),
            Some("auth-required") => ("auth-required", Some(false)),
            Some("auth-failed") => ("auth-failed", Some(false)),
            _ => ("unknown", None),
        }
    }
}
