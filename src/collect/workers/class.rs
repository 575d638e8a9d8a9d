//! What state a worker is in, in one word: the first that fits.

use std::time::Duration;

use serde::Serialize;

/// One word for one process; the order is that in which they are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// It has ended, and nobody has reaped it.
    Zombie,
    /// No living ancestor of it is the host.
    Orphan,
    /// One of more servers of the same command than their parent needs.
    Duplicate,
    /// The host keeps a list of its workers, and it is not on it.
    Unregistered,
    /// Idle for longer than the host would keep it.
    Leaked,
    Busy,
    Idle,
    /// Seen once: whether it works takes two looks.
    Unknown,
}

impl Class {
    pub const ALL: [Class; 8] = [
        Class::Zombie,
        Class::Orphan,
        Class::Duplicate,
        Class::Unregistered,
        Class::Leaked,
        Class::Busy,
        Class::Idle,
        Class::Unknown,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Class::Zombie => "zombie",
            Class::Orphan => "orphan",
            Class::Duplicate => "duplicate",
            Class::Unregistered => "unregistered",
            Class::Leaked => "leaked",
            Class::Busy => "busy",
            Class::Idle => "idle",
            Class::Unknown => "unknown",
        }
    }
}

/// What was found out about one process. `None` is not known, or not asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence {
    pub is_zombie: bool,
    pub is_orphan: Option<bool>,
    pub is_duplicate: bool,
    /// Whether the host has it on its own list.
    pub is_registered: Option<bool>,
    pub is_busy: Option<bool>,
    pub idle: Option<Duration>,
    /// Idle for longer than this is leaked; `None`: never.
    pub leaked_after: Option<Duration>,
}

impl Evidence {
    pub fn class(&self) -> Class {
        let is_leaked = self.is_busy == Some(false)
            && self.leaked_after.is_some_and(|limit| self.idle.is_some_and(|idle| idle > limit));
        match self {
            _ if self.is_zombie => Class::Zombie,
            _ if self.is_orphan == Some(true) => Class::Orphan,
            _ if self.is_duplicate => Class::Duplicate,
            _ if self.is_registered == Some(false) => Class::Unregistered,
            _ if is_leaked => Class::Leaked,
            _ if self.is_busy == Some(true) => Class::Busy,
            _ if self.is_busy == Some(false) => Class::Idle,
            _ => Class::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits_is_it() {
        let limit = Duration::from_secs(720);
        let mut evidence = Evidence {
            is_zombie: true,
            is_orphan: Some(true),
            is_duplicate: true,
            is_registered: Some(false),
            is_busy: Some(false),
            idle: Some(limit + Duration::from_secs(1)),
            leaked_after: Some(limit),
        };
        assert_eq!(evidence.class(), Class::Zombie);
        evidence.is_zombie = false;
        assert_eq!(evidence.class(), Class::Orphan);
        evidence.is_orphan = Some(false);
        assert_eq!(evidence.class(), Class::Duplicate);
        evidence.is_duplicate = false;
        assert_eq!(evidence.class(), Class::Unregistered);
        evidence.is_registered = Some(true);
        assert_eq!(evidence.class(), Class::Leaked);
        evidence.idle = Some(limit);
        assert_eq!(evidence.class(), Class::Idle, "not yet longer");
        evidence.idle = Some(limit * 2);
        evidence.is_busy = Some(true);
        assert_eq!(evidence.class(), Class::Busy, "who works is not leaked");
        evidence.is_busy = None;
        assert_eq!(evidence.class(), Class::Unknown);
        evidence = Evidence { is_busy: Some(false), idle: Some(limit * 2), ..Evidence::default() };
        assert_eq!(evidence.class(), Class::Idle, "servers may idle for ever");
    }

    #[test]
    fn what_is_not_known_is_no_class() {
        assert_eq!(Evidence::default().class(), Class::Unknown);
        let names: Vec<&str> = Class::ALL.iter().map(|class| class.name()).collect();
        let json = serde_json::to_value(Class::ALL).unwrap();
        assert_eq!(json, serde_json::json!(names));
    }
}
