//! The starts of the host that we know of: how many, and whether the latest has answered.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::status::{Life, Reply};
use crate::host::running::Chain;
use crate::sample::Now;
use crate::source::process::Identity;

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The starts we know of.
#[derive(Debug, Default)]
pub struct Starts {
    /// Those of the last hour, the latest, which is last, and the first of those that came to nothing, however old.
    pub runs: Vec<Run>,
    pub total: u64,
}

/// One start of the host.
#[derive(Debug)]
pub struct Run {
    pub members: BTreeSet<Identity>,
    /// To show: the wall clock may be set, so no age comes from it.
    pub started: Timestamp,
    /// On the monotonic clock.
    pub began: Duration,
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
    pub fn follow(&mut self, chain: &Chain, now: Duration) {
        let known = self.runs.iter().position(|run| !run.members.is_disjoint(&chain.members));
        let mut run = match known {
            Some(at) => self.runs.remove(at),
            None => {
                self.total += 1;
                self.forget_old(now);
                Run { members: BTreeSet::new(), started: chain.started, began: chain.began(), answered: None }
            }
        };
        run.members.clone_from(&chain.members);
        if chain.began() == run.began {
            run.started = chain.started; // the wall clock may have been set
        }
        self.runs.push(run);
    }

    /// When the first of those began that were not followed by an answer.
    pub fn waiting_since(&self) -> Option<Duration> {
        self.runs.get(self.first_silent()).map(|run| run.began)
    }

    pub fn recent(&self, now: Duration) -> u64 {
        self.runs.iter().filter(|run| run.is_recent(now)).count() as u64
    }

    /// Its place; behind the last if that has answered.
    fn first_silent(&self) -> usize {
        self.runs.iter().rposition(|run| run.answered.is_some()).map_or(0, |answered| answered + 1)
    }

    /// What the grace counts from stays: of a host that crashes and starts for ever it may be longer than an hour.
    fn forget_old(&mut self, now: Duration) {
        let (mut place, silent) = (0, self.first_silent());
        self.runs.retain(|run| {
            place += 1;
            run.is_recent(now) || place == silent + 1
        });
    }
}

impl Run {
    fn is_recent(&self, now: Duration) -> bool {
        now.saturating_sub(self.began) < HOUR
    }

    /// Notes the reply.
    pub fn live(&mut self, reply: Reply, now: Now) -> Life {
        if reply == Reply::Answered {
            self.answered = Some(now.mono);
        }
        let since = |moment: Duration| now.mono.saturating_sub(moment);
        Life { started: self.started, age: since(self.began), answered_ago: self.answered.map(since) }
    }
}
