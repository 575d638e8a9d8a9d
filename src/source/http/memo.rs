//! One answer for all who ask the same: at most one request of it is under way, and its answer serves whoever asks soon.
//!
//! A request goes on when nobody waits for it any more: what it costs the other side is spent already, and to ask again
//! beside it would double that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::{Answer, Error, Http, Limits};
use crate::sample::Now;
use crate::source::key::Key;

/// What is asked: the same URL with another key is another question.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ask {
    pub url: String,
    pub key: Option<Key>,
}

/// What came of asking, and when it was asked.
#[derive(Debug, Clone)]
pub struct Told {
    pub at: Now,
    pub answer: Result<Arc<Answer>, Error>,
}

/// Latest answers, and requests under way, by question.
#[derive(Debug, Default)]
pub(super) struct Memo(Mutex<HashMap<Ask, Entry>>);

#[derive(Debug, Default)]
struct Entry {
    told: Option<Told>,
    flight: Option<Flight>,
}

/// Holds `None` until the request has ended.
type Flight = watch::Receiver<Option<Told>>;

impl Entry {
    /// What was told no longer ago than that.
    fn told(&self, now: Now, max_age: Duration) -> Option<&Told> {
        self.told.as_ref().filter(|told| now.mono.saturating_sub(told.at.mono) < max_age)
    }

    /// The request under way. One whose task is gone, as at the end of a runtime, is none.
    fn flight(&self) -> Option<&Flight> {
        self.flight.as_ref().filter(|flight| flight.has_changed().is_ok() || flight.borrow().is_some())
    }
}

impl Http {
    /// The answer to a question that others may have asked too: what was told less than `max_age` ago, else what the
    /// request under way brings, else that of a new one. Waits no longer than `limits.time`.
    ///
    /// Failures are shared like answers, so `max_age` must be shorter than the time after which one is tried again.
    pub async fn share(&self, ask: &Ask, limits: Limits, now: Now, max_age: Duration) -> Told {
        let mut flight = match self.memo.join(ask, now, max_age) {
            Joined::Told(told) => return told,
            Joined::Waiting(flight) => flight,
            Joined::First(sender, flight) => {
                tokio::spawn(self.clone().fly(ask.clone(), limits, now, sender));
                flight
            }
        };
        let ended = tokio::time::timeout(limits.time, flight.wait_for(Option::is_some)).await;
        let told = ended.ok().and_then(|ended| ended.ok()?.clone());
        told.unwrap_or(Told { at: now, answer: Err(Error::TimedOut { connected: true }) })
    }

    /// What was told last of this URL, whenever that was and whatever the key. Asks nothing.
    pub fn last(&self, url: &str) -> Option<Told> {
        let entries = self.memo.lock();
        let told = entries.iter().filter(|(ask, _)| ask.url == url).filter_map(|(_, entry)| entry.told.as_ref());
        told.max_by_key(|told| told.at.mono).cloned()
    }

    /// Forgets what was told of this URL: the next who asks is told anew.
    pub fn forget(&self, url: &str) {
        for (_, entry) in self.memo.lock().iter_mut().filter(|(ask, _)| ask.url == url) {
            entry.told = None;
        }
    }

    async fn fly(self, ask: Ask, limits: Limits, at: Now, sender: watch::Sender<Option<Told>>) {
        let key = ask.key.as_ref().map(Key::bearer);
        let key = key.as_deref().map(|bearer| ("Authorization", bearer));
        let headers: Vec<(&str, &str)> = key.into_iter().chain([("Accept", "application/json")]).collect();
        let answer = self.get(&ask.url, &headers, limits).await.map(Arc::new);
        let told = Told { at, answer };
        self.memo.land(ask, told.clone());
        sender.send_replace(Some(told));
    }
}

enum Joined {
    Told(Told),
    Waiting(Flight),
    First(watch::Sender<Option<Told>>, Flight),
}

impl Memo {
    fn lock(&self) -> MutexGuard<'_, HashMap<Ask, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn join(&self, ask: &Ask, now: Now, max_age: Duration) -> Joined {
        let mut entries = self.lock();
        // Of a key that was replaced nobody asks again.
        entries.retain(|other, entry| other.url != ask.url || other == ask || entry.flight().is_some());
        let entry = entries.entry(ask.clone()).or_default();
        if let Some(told) = entry.told(now, max_age) {
            return Joined::Told(told.clone());
        }
        if let Some(flight) = entry.flight() {
            return Joined::Waiting(flight.clone());
        }
        let (sender, flight) = watch::channel(None);
        entry.flight = Some(flight.clone());
        Joined::First(sender, flight)
    }

    fn land(&self, ask: Ask, told: Told) {
        self.lock().insert(ask, Entry { told: Some(told), flight: None });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, Sender, channel};

    use crate::source::key::KeyFile;

    const LONG: Limits = Limits { time: Duration::from_secs(20), body: 1000 };
    const AGE: Duration = Duration::from_secs(10);

    /// Answers each request with its number, once told to.
    struct Stub {
        ask: Ask,
        asked: Arc<AtomicUsize>,
        go: Sender<()>,
    }

    fn stub() -> Stub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let (go, gone): (Sender<()>, Receiver<()>) = channel();
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming() {
                let mut socket = socket.unwrap();
                let _ = socket.read(&mut [0; 4096]);
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                if gone.recv().is_err() {
                    return;
                }
                let _ = write!(
                    socket,
                    "HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n{number}"
                );
            }
        });
        Stub { ask: Ask { url, key: None }, asked, go }
    }

    fn now() -> Now {
        Now { mono: Duration::from_secs(1000), wall: "2026-11-21T20:00:00Z".parse().unwrap() }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    fn number(told: &Told) -> u32 {
        told.answer.as_ref().unwrap().json().unwrap()
    }

    #[test]
    fn whoever_asks_soon_is_told_the_same_and_later_anew() {
        let (stub, http) = (stub(), Http::default());
        runtime().block_on(async {
            stub.go.send(()).unwrap();
            let first = http.share(&stub.ask, LONG, now(), AGE).await;
            let second = http.share(&stub.ask, LONG, now().plus(Duration::from_millis(9999)), AGE).await;
            assert_eq!((number(&first), number(&second), second.at), (1, 1, now()));
            stub.go.send(()).unwrap();
            let later = http.share(&stub.ask, LONG, now().plus(AGE), AGE).await;
            assert_eq!((number(&later), later.at), (2, now().plus(AGE)));
            stub.go.send(()).unwrap();
            http.forget(&stub.ask.url);
            assert_eq!(number(&http.share(&stub.ask, LONG, now().plus(AGE), AGE).await), 3);
        });
    }

    #[test]
    fn of_many_who_ask_at_once_one_is_heard() {
        let (stub, http) = (stub(), Http::default());
        let told = runtime().block_on(async {
            let asking: Vec<_> = (0..50)
                .map(|_| {
                    let (http, ask) = (http.clone(), stub.ask.clone());
                    tokio::spawn(async move { http.share(&ask, LONG, now(), AGE).await })
                })
                .collect();
            stub.go.send(()).unwrap();
            let mut told = Vec::new();
            for one in asking {
                told.push(number(&one.await.unwrap()));
            }
            told
        });
        assert_eq!((told, stub.asked.load(Ordering::SeqCst)), (vec![1; 50], 1));
    }

    #[test]
    fn an_abandoned_wait_neither_ends_the_request_nor_doubles_it() {
        let (stub, http) = (stub(), Http::default());
        runtime().block_on(async {
            let brief = Duration::from_millis(100);
            let dropped = tokio::time::timeout(brief, http.share(&stub.ask, LONG, now(), AGE)).await;
            assert!(dropped.is_err());
            let impatient = http.share(&stub.ask, Limits { time: brief, body: 1000 }, now(), AGE).await;
            assert_eq!(impatient.answer.unwrap_err(), Error::TimedOut { connected: true });
            // Long after: the flight is joined, however old. It is answered only then.
            let later = http.share(&stub.ask, LONG, now().plus(AGE * 9), AGE);
            let (later, ()) = tokio::join!(later, async { stub.go.send(()).unwrap() });
            assert_eq!(number(&later), 1);
        });
        assert_eq!(stub.asked.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_flight_whose_runtime_has_ended_is_forgotten() {
        let (stub, http) = (stub(), Http::default());
        let brief = Duration::from_millis(100);
        assert!(
            runtime()
                .block_on(async { tokio::time::timeout(brief, http.share(&stub.ask, LONG, now(), AGE)).await })
                .is_err()
        );
        stub.go.send(()).unwrap();
        stub.go.send(()).unwrap();
        let told = runtime().block_on(http.share(&stub.ask, LONG, now(), AGE));
        assert_eq!(number(&told), 2);
    }

    #[test]
    fn failures_are_shared_too_and_another_key_is_another_question() {
        let http = Http::default();
        let refusing = TcpListener::bind("127.0.0.1:0").unwrap();
        let ask = Ask { url: format!("http://{}/", refusing.local_addr().unwrap()), key: None };
        drop(refusing);
        let (stub, folder) = (stub(), tempfile::tempdir().unwrap());
        let file = folder.path().join("token");
        let key = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Some(KeyFile::new(&file).read().unwrap())
        };
        runtime().block_on(async {
            for _ in 0..2 {
                assert_eq!(http.share(&ask, LONG, now(), AGE).await.answer.unwrap_err(), Error::Refused);
            }
            for (key, expected) in [(None, 1), (key("a"), 2), (key("a"), 2), (key("b"), 3)] {
                stub.go.send(()).unwrap();
                let ask = Ask { key, ..stub.ask.clone() };
                assert_eq!(number(&http.share(&ask, LONG, now(), AGE).await), expected);
            }
        });
        assert_eq!(http.memo.lock().keys().filter(|kept| kept.url == stub.ask.url).count(), 1, "old keys are let go");
    }
}
