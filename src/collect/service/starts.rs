//! The starts of the host that we know of: how many, and whether the latest has answered.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::status::{Life, Reply};
use crate::host::running::Chain;
use crate::sample::Now;
use crate::source::process::Identity;

pub const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// The starts we know of.
#[derive(Debug, Default)]
pub struct Starts {
    /// Those of the last hour and the latest, which is last.
    pub runs: Vec<Run>,
    pub total: u64,
}

/// One start of the host.
#[derive(Debug)]
pub struct Run {
    pub members: BTreeSet<Identity>,
    pub started: Timestamp,
    /// On the monotonic clock.
    pub answered: Option<Duration>,
}

impl Starts {
    /// The processes of the latest.
    pub fn members(&self) -> Option<&BTreeSet<Identity>> {
        self.runs.last().map(|run| &run.members)
    }

    pub fn latest_mut(&mut self) -> Option<&mut Run> {
        self.runs.last_mut()
    }

    /// Makes the run of these processes the latest. It is a new one iff none of them was seen before: a launcher whose
    /// child appears, or that ends before its child, is no start.
    pub fn follow(&mut self, chain: &Chain, now: Timestamp) {
        let known = self.runs.iter().position(|run| !run.members.is_disjoint(&chain.members));
        let mut run = match known {
            Some(at) => self.runs.remove(at),
            None => {
                self.total += 1;
                self.runs.retain(|run| is_recent(run.started, now));
                Run { members: BTreeSet::new(), started: chain.started, answered: None }
            }
        };
        run.members.clone_from(&chain.members);
        self.runs.push(run);
    }

    /// When the first of those began that were not followed by an answer.
    pub fn waiting_since(&self) -> Option<Timestamp> {
        let silent = self.runs.iter().rev().take_while(|run| run.answered.is_none());
        silent.last().map(|run| run.started)
    }

    pub fn recent(&self, now: Timestamp) -> u64 {
        self.runs.iter().filter(|run| is_recent(run.started, now)).count() as u64
    }
}

pub fn is_recent(started: Timestamp, now: Timestamp) -> bool {
    now.duration_since(started) < HOUR
}

impl Run {
    /// Notes the reply.
    pub fn live(&mut self, reply: Reply, now: Now) -> Life {
        if reply == Reply::Answered {
            self.answered = Some(now.mono);
        }
        // The boot time is in whole seconds, so that a young process may seem to come from the future.
        let age = now.wall.duration_since(self.started).max(SignedDuration::ZERO).unsigned_abs();
        Life { started: self.started, age, answered_ago: self.answered.map(|at| now.mono.saturating_sub(at)) }
    }
}
