//! The vectors of verdicts.
