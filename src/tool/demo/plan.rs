//! What is planned on a demo host: its groups, its scheduled tasks and its host jobs.

use jiff::{SignedDuration, Timestamp};

use super::channels::{SLACK, WHATSAPP};
use super::stamp;

/// A chat whose agent works in a folder of its own.
#[derive(Debug)]
pub struct Group {
    pub folder: &'static str,
    pub name: &'static str,
    pub jid: &'static str,
    pub channel: &'static str,
}

pub static GROUPS: [Group; 5] = [
    Group { folder: "admin-1", name: "Admin 1", jid: "slack:C0DEMO00001", channel: SLACK },
    Group { folder: "research", name: "Research", jid: "slack:C0DEMO00002", channel: SLACK },
    Group { folder: HUNG, name: "acme--webapp", jid: "slack:C0DEMO00003", channel: SLACK },
    Group { folder: "household", name: "Household", jid: "120363000000000001@g.us", channel: WHATSAPP },
    Group { folder: "notes", name: "Notes", jid: "15555550100@s.whatsapp.net", channel: WHATSAPP },
];

/// The group whose agent never comes back: its messages wait and its task is overdue.
pub const HUNG: &str = "webapp";
/// Since when, before the start of the host.
pub const HUNG_FOR: SignedDuration = SignedDuration::from_hours(3);

/// When something runs.
#[derive(Debug, Clone, Copy)]
pub enum Schedule {
    /// Every so many minutes, so many minutes after the Unix epoch (a Thursday, 00:00 UTC), as `text` spells it.
    Cron {
        text: &'static str,
        every: i64,
        offset: i64,
    },
    Interval {
        millis: i64,
    },
    /// Once, this long after the start of the host (before it, if negative).
    Once {
        after_start: SignedDuration,
    },
}

impl Schedule {
    pub fn kind(self) -> &'static str {
        match self {
            Schedule::Cron { .. } => "cron",
            Schedule::Interval { .. } => "interval",
            Schedule::Once { .. } => "once",
        }
    }

    pub fn value(self, started: Timestamp) -> String {
        match self {
            Schedule::Cron { text, .. } => text.to_owned(),
            Schedule::Interval { millis } => millis.to_string(),
            Schedule::Once { after_start } => stamp::naive(started + after_start),
        }
    }

    /// The first time of a plan made at `created`.
    pub fn first(self, created: Timestamp, started: Timestamp) -> Option<Timestamp> {
        match self {
            Schedule::Once { after_start } => Some(started + after_start),
            _ => self.next(created),
        }
    }

    /// The next time after `now`; never for what runs once.
    pub fn next(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Schedule::Cron { every, offset, .. } => {
                let minute = now.as_second().div_euclid(60);
                let next = ((minute - offset).div_euclid(every) + 1) * every + offset;
                Some(Timestamp::from_second(next * 60).expect("a week from now is a time"))
            }
            Schedule::Interval { millis } => Some(now + SignedDuration::from_millis(millis)),
            Schedule::Once { .. } => None,
        }
    }

    /// `next_run` as it stands in the database: cron in whole seconds, `once` without its offset.
    pub fn spell(self, at: Timestamp) -> String {
        match self {
            Schedule::Cron { .. } => stamp::whole(at),
            Schedule::Interval { .. } => stamp::precise(at),
            Schedule::Once { .. } => stamp::naive(at),
        }
    }
}

/// How a plan fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lot {
    Runs,
    /// Runs, and nine times in ten it fails.
    Fails,
    /// Active without a next run: it was killed while it ran, and is never due again.
    Stuck,
    Paused,
    /// Switched off (host jobs only).
    Disabled,
}

impl Lot {
    /// What the host writes down when it makes the plan.
    pub fn status(self) -> &'static str {
        if self == Lot::Paused { "paused" } else { "active" }
    }

    pub fn is_due_ever(self) -> bool {
        matches!(self, Lot::Runs | Lot::Fails)
    }
}

/// A scheduled task, or a host job, which has no folder.
#[derive(Debug)]
pub struct Plan {
    pub id: &'static str,
    pub folder: &'static str,
    pub schedule: Schedule,
    pub created: SignedDuration,
    pub lot: Lot,
}

impl Plan {
    /// Where its group stands in `GROUPS`. Tasks only.
    pub fn group(&self) -> usize {
        GROUPS.iter().position(|group| group.folder == self.folder).expect("each task has a group, as a test asserts")
    }
}

const HOUR: i64 = 60;
const DAY: i64 = 24 * HOUR;
/// Monday, 06:00.
const MONDAY_6: i64 = 4 * DAY + 6 * HOUR;
const EVERY_TEN: Schedule = Schedule::Cron { text: "*/10 * * * *", every: 10, offset: 0 };

const fn ago(hours: i64) -> SignedDuration {
    SignedDuration::from_hours(-hours)
}

const fn once(hours_after_start: i64) -> Schedule {
    Schedule::Once { after_start: SignedDuration::from_hours(hours_after_start) }
}

const fn every_minutes(minutes: i64) -> Schedule {
    Schedule::Interval { millis: minutes * 60_000 }
}

const fn plan(id: &'static str, folder: &'static str, schedule: Schedule, created: SignedDuration, lot: Lot) -> Plan {
    Plan { id, folder, schedule, created, lot }
}

pub static TASKS: [Plan; 8] = [
    plan("periodic-research-9f8e7d6c", "research", EVERY_TEN, ago(12), Lot::Runs),
    plan("task-1760000000001-aaaa0001", "admin-1", every_minutes(1), ago(2), Lot::Runs),
    plan("task-1760000000002-aaaa0002", HUNG, every_minutes(60), ago(72), Lot::Runs),
    plan(
        "periodic-household-1a2b3c4d",
        "household",
        Schedule::Cron { text: "0 * * * *", every: HOUR, offset: 0 },
        ago(160),
        Lot::Fails,
    ),
    plan("task-1760000000003-aaaa0003", "notes", once(26), ago(1), Lot::Runs),
    plan("task-1760000000004-aaaa0004", "notes", once(-30), ago(40), Lot::Runs),
    plan("task-1760000000005-aaaa0005", "research", once(-5), ago(50), Lot::Stuck),
    plan("task-1760000000006-aaaa0006", "admin-1", every_minutes(DAY), ago(140), Lot::Paused),
];

/// Host jobs; their ids end in the names by which the host lists them.
pub static JOBS: [Plan; 4] = [
    plan(
        "backup-database",
        "",
        Schedule::Cron { text: "0 3 * * *", every: DAY, offset: 3 * HOUR },
        ago(150),
        Lot::Runs,
    ),
    plan("rotate-logs", "", every_minutes(5), ago(30), Lot::Runs),
    plan("tidy-cache", "", once(-20), ago(21), Lot::Runs),
    plan(
        "weekly-report",
        "",
        Schedule::Cron { text: "0 6 * * 1", every: 7 * DAY, offset: MONDAY_6 },
        ago(160),
        Lot::Disabled,
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn next_of(schedule: Schedule, now: &str) -> String {
        schedule.spell(schedule.next(at(now)).unwrap())
    }

    #[test]
    fn cron_runs_at_the_times_that_it_spells() {
        assert_eq!(next_of(EVERY_TEN, "2026-11-21T19:50:00.5Z"), "2026-11-21T20:00:00+00:00");
        assert_eq!(next_of(EVERY_TEN, "2026-11-21T19:59:59.9Z"), "2026-11-21T20:00:00+00:00");
        assert_eq!(next_of(JOBS[0].schedule, "2026-11-21T02:59:00Z"), "2026-11-21T03:00:00+00:00");
        assert_eq!(next_of(JOBS[0].schedule, "2026-11-21T03:00:00Z"), "2026-11-22T03:00:00+00:00");
        // 2026-11-23 is a Monday.
        assert_eq!(next_of(JOBS[3].schedule, "2026-11-21T19:00:00Z"), "2026-11-23T06:00:00+00:00");
    }

    #[test]
    fn intervals_keep_microseconds_and_once_has_no_next() {
        assert_eq!(next_of(every_minutes(1), "2026-11-21T19:59:30.000123Z"), "2026-11-21T20:00:30.000123+00:00");
        assert_eq!(every_minutes(1).value(Timestamp::UNIX_EPOCH), "60000");
        assert_eq!(once(1).next(Timestamp::UNIX_EPOCH), None);
        assert_eq!(once(26).value(at("2026-11-21T19:00:00.5Z")), "2026-11-22T21:00:00");
    }

    #[test]
    fn every_task_belongs_to_a_group_and_every_kind_is_there() {
        assert!(TASKS.iter().all(|task| GROUPS.iter().any(|group| group.folder == task.folder)));
        for kind in ["cron", "interval", "once"] {
            assert!(TASKS.iter().any(|task| task.schedule.kind() == kind), "{kind}");
        }
    }
}
