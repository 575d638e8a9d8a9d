//! A question that is asked again and again, at its own pace and never twice at once; its latest answer stands until the
//! next. It may take longer than a run.

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::sample::Now;

/// A run that comes a little early must not leave out a turn.
const SLACK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Question<T> {
    every: Duration,
    /// How much later than its turn it is asked, but for the first time.
    lag: Duration,
    /// On the monotonic clock.
    due: Duration,
    asked: bool,
    flight: Option<Flight<T>>,
    latest: Option<Told<T>>,
    /// Nobody has taken note of the latest.
    is_news: bool,
}

#[derive(Debug)]
struct Flight<T> {
    at: Now,
    is_late: bool,
    task: JoinHandle<T>,
}

/// An answer, and when it was asked for.
#[derive(Debug, Clone)]
pub struct Told<T> {
    pub at: Now,
    pub said: T,
}

impl<T: Send + 'static> Question<T> {
    /// Zero: in each run.
    pub fn new(every: Duration) -> Question<T> {
        let (lag, due) = (Duration::ZERO, Duration::ZERO);
        Question { every, lag, due, asked: false, flight: None, latest: None, is_news: false }
    }

    /// Asked so much later than its turn from the second time on; no run waits for the answer then, the next takes it.
    pub fn late_by(self, lag: Duration) -> Question<T> {
        Question { lag, ..self }
    }

    /// Whether it is time, and nobody waits for an answer yet.
    pub fn is_due(&self, now: Now) -> bool {
        self.flight.is_none() && now.mono >= self.due
    }

    /// Begins to ask; the answer is there after `wait`.
    pub fn ask(&mut self, now: Now, asking: impl Future<Output = T> + Send + 'static) {
        self.due = now.mono + self.every.saturating_sub(SLACK).max(Duration::from_millis(1));
        let lag = if std::mem::replace(&mut self.asked, true) { self.lag } else { Duration::ZERO };
        let flight = async move {
            if !lag.is_zero() {
                tokio::time::sleep(lag).await;
            }
            asking.await
        };
        self.flight = Some(Flight { at: now, is_late: !lag.is_zero(), task: tokio::spawn(flight) });
    }

    /// Not before this moment of the monotonic clock.
    pub fn postpone(&mut self, until: Duration) {
        self.due = self.due.max(until);
    }

    /// As soon as possible.
    pub fn hasten(&mut self) {
        self.due = Duration::ZERO;
    }

    /// Waits for the answer, if one is under way that is not asked for late. It may be dropped and called again.
    pub async fn wait(&mut self) {
        let Some(Flight { at, is_late, task }) = &mut self.flight else { return };
        if *is_late && !task.is_finished() {
            return;
        }
        let at = *at;
        // One that panicked has told nothing.
        if let Ok(said) = task.await {
            self.latest = Some(Told { at, said });
            self.is_news = true;
        }
        self.flight = None;
    }

    /// The answer, if it has come.
    pub async fn take(&mut self) {
        if self.flight.as_ref().is_some_and(|flight| flight.task.is_finished()) {
            self.wait().await;
        }
    }

    /// The latest answer, once.
    pub fn news(&mut self) -> Option<&Told<T>> {
        let is_news = std::mem::take(&mut self.is_news);
        self.latest.as_ref().filter(|_| is_news)
    }

    pub fn latest(&self) -> Option<&Told<T>> {
        self.latest.as_ref()
    }

    /// What was said last, as long as it counts: for three of its turns and a minute. Where a key is gone nobody asks anew.
    pub fn standing(&self, now: Now) -> Option<&Told<T>> {
        let most = self.every * 3 + Duration::from_secs(60);
        self.latest.as_ref().filter(|told| now.mono.saturating_sub(told.at.mono) <= most)
    }

    /// What was said before no longer counts.
    pub fn forget(&mut self) {
        self.latest = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        crate::collect::fixture::now().plus(Duration::from_secs(seconds))
    }

    #[test]
    fn one_that_is_late_is_waited_for_by_nobody_but_the_first_time() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut question = Question::new(Duration::from_secs(60)).late_by(Duration::from_millis(200));
            question.ask(at(0), async { 1 });
            question.wait().await;
            assert_eq!(question.latest().unwrap().said, 1);
            question.ask(at(60), async { 2 });
            question.wait().await;
            assert_eq!((question.latest().unwrap().said, question.is_due(at(200))), (1, false));
            tokio::time::sleep(Duration::from_millis(400)).await;
            question.take().await;
            let told = question.latest().unwrap();
            assert_eq!((told.said, told.at), (2, at(60)));
            for (seconds, stands) in [(60, true), (300, true), (301, false)] {
                assert_eq!(question.standing(at(seconds)).is_some(), stands, "{seconds}");
            }
        });
    }

    #[test]
    fn it_is_asked_at_its_pace_and_never_twice_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut question = Question::new(Duration::from_secs(60));
            assert!(question.is_due(at(0)));
            question.wait().await;
            assert!(question.latest().is_none());
            let (tell, told) = tokio::sync::oneshot::channel::<u32>();
            question.ask(at(0), async { told.await.unwrap() });
            // A run that ends before the answer comes leaves it for the next.
            assert!(tokio::time::timeout(Duration::from_millis(10), question.wait()).await.is_err());
            question.take().await;
            assert!(!question.is_due(at(100)) && question.latest().is_none(), "still under way");
            tell.send(7).unwrap();
            question.wait().await;
            let told = question.news().unwrap();
            assert_eq!((told.said, told.at), (7, at(0)), "of the moment when it was asked");
            assert!(question.news().is_none() && question.latest().is_some());
            assert!(!question.is_due(at(58)) && question.is_due(at(59)));
            question.postpone(at(200).mono);
            assert!(!question.is_due(at(199)) && question.is_due(at(200)));
            question.hasten();
            assert!(question.is_due(at(61)));
            question.ask(at(61), async { panic!("a defect") });
            question.wait().await;
            assert_eq!(question.latest().unwrap().said, 7);
            question.forget();
            assert!(question.latest().is_none());
        });
    }
}
