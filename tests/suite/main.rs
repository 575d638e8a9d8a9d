//! One binary for all integration tests: linking it costs more than running most of them.

mod oracle;
mod verdicts;
