//! Many questions at once, each on a thread of its own: one that hangs keeps only its own answer.

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// So many at a time; one that takes longer than `YOUNG` no longer counts, up to `MOST` threads in all.
const WIDTH: usize = 2;
const YOUNG: Duration = Duration::from_secs(1);
const MOST: usize = 16;

/// Asks about subjects `K`; never twice about one at the same time.
pub struct Pool<K, A> {
    sender: Sender<(K, Option<A>)>,
    answers: Receiver<(K, Option<A>)>,
    running: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone + Send + 'static, A: Send + 'static> Default for Pool<K, A> {
    fn default() -> Pool<K, A> {
        let (sender, answers) = channel();
        Pool { sender, answers, running: BTreeMap::new() }
    }
}

impl<K: Ord + Clone + Send + 'static, A: Send + 'static> Pool<K, A> {
    /// Asks in this order, waits at most `patience`, and returns what is answered by then, late answers to earlier
    /// questions among it. What panicked is answered with `None`; a subject still being asked is not asked again.
    pub fn ask<Q>(&mut self, questions: impl IntoIterator<Item = (K, Q)>, patience: Duration) -> Vec<(K, Option<A>)>
    where
        Q: FnOnce() -> A + Send + 'static,
    {
        let begun = Instant::now();
        let mut answers = self.late();
        let mut waiting: VecDeque<_> =
            questions.into_iter().filter(|(subject, _)| !self.running.contains_key(subject)).collect();
        let mut open = waiting.len();
        while open > 0 && begun.elapsed() < patience {
            while self.has_room()
                && let Some((subject, question)) = waiting.pop_front()
            {
                self.start(subject, question);
            }
            let left = patience.saturating_sub(begun.elapsed());
            if let Ok(answer) = self.answers.recv_timeout(left.min(YOUNG / 10)) {
                let asked_now = self.running.remove(&answer.0).is_some_and(|since| since >= begun);
                open -= usize::from(asked_now);
                answers.push(answer);
            }
        }
        answers
    }

    /// Answers to earlier questions that nobody waited for any more.
    pub fn late(&mut self) -> Vec<(K, Option<A>)> {
        let late: Vec<_> = self.answers.try_iter().collect();
        for (subject, _) in &late {
            self.running.remove(subject);
        }
        late
    }

    fn has_room(&self) -> bool {
        let young = self.running.values().filter(|since| since.elapsed() < YOUNG).count();
        young < WIDTH && self.running.len() < MOST
    }

    fn start(&mut self, subject: K, question: impl FnOnce() -> A + Send + 'static) {
        self.running.insert(subject.clone(), Instant::now());
        let (sender, asked) = (self.sender.clone(), subject.clone());
        let work = move || {
            let answer = catch_unwind(AssertUnwindSafe(question)).ok();
            drop(sender.send((asked, answer))); // Nobody listens any more: the collector is gone.
        };
        if std::thread::Builder::new().name("git".to_owned()).spawn(work).is_err() {
            drop(self.sender.send((subject, None)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Question = Box<dyn FnOnce() -> u32 + Send>;

    fn question(subject: &'static str, answer: impl FnOnce() -> u32 + Send + 'static) -> (&'static str, Question) {
        (subject, Box::new(answer))
    }

    #[test]
    fn one_that_hangs_keeps_only_its_own_answer() {
        let mut pool = Pool::default();
        let (release, hung) = channel::<()>();
        let stuck = question("stuck", move || hung.recv().map_or(1, |()| 2));
        let questions = [stuck, question("a", || 10), question("b", || 20), question("c", || 30)];
        let mut answers = pool.ask(questions, Duration::from_millis(1500));
        answers.sort();
        assert_eq!(answers, [("a", Some(10)), ("b", Some(20)), ("c", Some(30))]);
        // It is not asked twice, and not waited for again.
        let begun = Instant::now();
        let again = pool.ask([question("stuck", || 99), question("a", || 11)], Duration::from_secs(60));
        assert_eq!(again, [("a", Some(11))]);
        assert!(begun.elapsed() < Duration::from_secs(30));
        drop(release);
        let late = std::iter::repeat_with(|| pool.ask(Vec::<(&str, Question)>::new(), Duration::ZERO));
        assert_eq!(late.into_iter().find(|late| !late.is_empty()).unwrap(), [("stuck", Some(1))]);
    }

    #[test]
    fn many_that_hang_do_not_take_all_the_room() {
        let mut pool = Pool::default();
        let (release, hung) = channel::<()>();
        let hung = std::sync::Arc::new(std::sync::Mutex::new(hung));
        let stuck = ["x", "y", "z"].map(|subject| {
            let hung = hung.clone();
            question(subject, move || hung.lock().map_or(0, |hung| hung.recv().map_or(1, |()| 2)))
        });
        let questions = stuck.into_iter().chain([question("a", || 10)]);
        assert_eq!(pool.ask(questions, Duration::from_secs(3)), [("a", Some(10))]);
        drop(release);
    }

    #[test]
    fn a_panic_is_an_answer() {
        let mut pool = Pool::default();
        let answers = pool.ask([question("p", || panic!("on purpose"))], Duration::from_secs(60));
        assert_eq!(answers, [("p", None)]);
    }
}
