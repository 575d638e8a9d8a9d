//! The oracle of verdicts.
