//! Whether trees are dirty: asked as rarely as it is dear, kept with the moment at which it was true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::sample::Now;
use crate::source::git::{Mark, Place, Pool, Reason, Status, Unreadable, status};

/// A repository's own tree, or a worktree of it.
pub type Key = (Arc<str>, Option<Arc<str>>);

/// A tree that has changed by its marks is looked at again after so many times its last duration.
const CHANGED: u32 = 20;
/// One that has not, after so many times: one large tree costs less than a `git status` each minute would.
const UNCHANGED: u32 = 500;
/// Where more than so many are slow, they wait for each other: together they use under 1 % of a core.
const AT_FULL_PACE: usize = 4;
const SLOW: Duration = Duration::from_millis(100);
/// Loops do not tick exactly.
const EARLY: Duration = Duration::from_secs(2);

/// How long a run of at most `timeout` waits for statuses, after all else that it does.
pub fn patience(timeout: Duration) -> Duration {
    timeout * 3 / 20
}

/// The latest statuses of many trees.
pub struct Statuses {
    every: Duration,
    pool: Pool<Key, Answer>,
    known: BTreeMap<Key, Known>,
}

struct Answer {
    asked: Now,
    outcome: Result<Status, Unreadable>,
    took: Duration,
}

#[derive(Debug, Default)]
struct Known {
    tried: Option<Tried>,
    /// The latest that came to an end. Its error says why it is not known.
    status: Option<(Timestamp, Result<Status, Unreadable>)>,
}

#[derive(Debug, Clone, Copy)]
struct Tried {
    at: Duration,
    took: Duration,
    /// Somebody worked there, so the attempt told nothing.
    in_vain: bool,
}

impl Statuses {
    /// `every` is how often a quick one is taken.
    pub fn new(every: Duration) -> Statuses {
        Statuses { every, pool: Pool::default(), known: BTreeMap::new() }
    }

    /// Takes those that are due, the longest untaken first, and waits `patience` for them; what takes longer is told by
    /// the next reading. A tree without a place cannot be asked now; one that is not listed is forgotten.
    pub fn refresh(&mut self, now: Now, trees: Vec<(Key, Option<(Place, Mark)>)>, patience: Duration) {
        let listed: BTreeSet<&Key> = trees.iter().map(|(key, _)| key).collect();
        self.known.retain(|key, _| listed.contains(key));
        let slow = self.known.values().filter(|known| known.tried.is_some_and(|tried| tried.took > SLOW)).count();
        let mut due: Vec<_> = trees
            .into_iter()
            .filter_map(|(key, seen)| {
                let (place, mark) = seen?;
                let is_due = self.known.entry(key.clone()).or_default().is_due(now, &mark, self.every, slow);
                is_due.then_some((key, place))
            })
            .collect();
        due.sort_by_key(|(key, _)| self.known[key].tried.map(|tried| tried.at));
        let questions = due.into_iter().map(|(key, place)| {
            let question = move || {
                let (outcome, took) = status(&place, now.wall);
                Answer { asked: now, outcome, took }
            };
            (key, question)
        });
        for (key, answer) in self.pool.ask(questions, patience) {
            if let Some(known) = self.known.get_mut(&key) {
                known.take(answer.unwrap_or_else(|| Answer {
                    asked: now,
                    outcome: Err(Unreadable::broken("its status could not be taken: a defect of this program")),
                    took: SLOW,
                }));
            }
        }
    }

    /// What is known of a tree, and since when it is.
    pub fn get(&self, key: &Key) -> Option<(Timestamp, Result<Option<bool>, &Unreadable>)> {
        let (at, status) = self.known.get(key)?.status.as_ref()?;
        Some((*at, status.as_ref().map(|status| status.dirty)))
    }
}

impl Known {
    fn take(&mut self, answer: Answer) {
        let in_vain = answer.outcome.as_ref().is_err_and(|error| error.reason == Reason::Moving);
        self.tried = Some(Tried { at: answer.asked.mono, took: answer.took, in_vain });
        if !in_vain {
            self.status = Some((answer.asked.wall, answer.outcome));
        }
    }

    fn is_due(&self, now: Now, mark: &Mark, every: Duration, slow: usize) -> bool {
        let Some(tried) = self.tried else { return true };
        let shared = u32::try_from(slow.div_ceil(AT_FULL_PACE).max(1)).unwrap_or(u32::MAX);
        let wait = match tried.in_vain || self.has_moved(mark) {
            true => tried.took * CHANGED,
            false => every.max(tried.took.saturating_mul(UNCHANGED).saturating_mul(shared)),
        };
        now.mono.saturating_sub(tried.at) + EARLY >= wait
    }

    /// Whether somebody has worked there since.
    fn has_moved(&self, mark: &Mark) -> bool {
        matches!(&self.status, Some((_, Ok(status))) if status.mark != *mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::git::Head;

    const MINUTE: Duration = Duration::from_secs(60);

    fn mark(branch: &str) -> Mark {
        Mark::of(Head { sha: None, branch: Some(branch.into()) })
    }

    /// One whose status took so long, at second 1000.
    fn taken(millis: u64, outcome: Result<Status, Unreadable>) -> Known {
        let mut known = Known::default();
        let asked = crate::collect::fixture::now();
        known.take(Answer { asked, outcome, took: Duration::from_millis(millis) });
        known
    }

    fn clean() -> Result<Status, Unreadable> {
        Ok(Status { dirty: Some(false), mark: mark("main") })
    }

    /// The first second after which it is due.
    fn wait(known: &Known, branch: &str, slow: usize) -> u64 {
        let begun = crate::collect::fixture::now();
        (0..100_000)
            .find(|&second| known.is_due(begun.plus(Duration::from_secs(second)), &mark(branch), MINUTE, slow))
            .unwrap()
            + EARLY.as_secs()
    }

    #[test]
    fn a_quick_status_keeps_the_interval_and_a_slow_one_waits_in_proportion() {
        assert!(Known::default().is_due(crate::collect::fixture::now(), &mark("main"), MINUTE, 0));
        assert_eq!(wait(&taken(1, clean()), "main", 0), 60);
        assert_eq!(wait(&taken(100, clean()), "main", 1), 60);
        assert_eq!(wait(&taken(500, clean()), "main", 1), 250);
        assert_eq!(wait(&taken(2500, clean()), "main", 4), 1250);
        assert_eq!(wait(&taken(2500, clean()), "main", 8), 2500, "many slow ones share what they may use");
    }

    #[test]
    fn news_are_looked_at_sooner_but_never_above_a_twentieth() {
        assert_eq!(wait(&taken(2500, clean()), "topic", 4), 50);
        assert_eq!(wait(&taken(500, clean()), "topic", 1), 10);
    }

    #[test]
    fn an_attempt_in_vain_leaves_the_last_status_and_its_moment() {
        let moving = || Err(Unreadable { reason: Reason::Moving, text: "moves".to_owned() });
        let mut known = taken(500, clean());
        let later = crate::collect::fixture::now().plus(MINUTE);
        known.take(Answer { asked: later, outcome: moving(), took: Duration::from_secs(1) });
        let (at, status) = known.status.as_ref().unwrap();
        assert_eq!((*at, status.as_ref().unwrap().dirty), (crate::collect::fixture::now().wall, Some(false)));
        assert!(!known.is_due(later.plus(Duration::from_secs(17)), &mark("main"), MINUTE, 1));
        assert!(known.is_due(later.plus(Duration::from_secs(18)), &mark("main"), MINUTE, 1));
        assert!(taken(1, moving()).status.is_none(), "nothing is known before the first");
    }

    #[test]
    fn one_that_cannot_be_asked_keeps_its_turn_and_one_that_is_gone_does_not() {
        let (now, key): (_, Key) = (crate::collect::fixture::now(), ("web".into(), None));
        let mut statuses = Statuses::new(MINUTE);
        statuses.known.insert(key.clone(), taken(500, clean()));
        statuses.refresh(now, vec![(key.clone(), None)], Duration::ZERO);
        assert_eq!(wait(&statuses.known[&key], "main", 1), 250);
        statuses.refresh(now, vec![], Duration::ZERO);
        assert!(statuses.known.is_empty());
    }

    #[test]
    fn an_error_takes_the_place_of_what_was_known() {
        let mut known = taken(1, clean());
        let later = crate::collect::fixture::now().plus(MINUTE);
        known.take(Answer { asked: later, outcome: Err(Unreadable::broken("no")), took: Duration::ZERO });
        assert!(known.status.is_some_and(|(at, status)| at == later.wall && status.is_err()));
    }
}
