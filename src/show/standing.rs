//! A document of the current snapshot: written at most once per snapshot, off the request threads, then served as the
//! same bytes.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::snapshot::{Current, Snapshot};

/// While a newer one is written, an older one is good enough for this long; then one waits for the newer.
const PREVIOUS_SERVES: Duration = Duration::from_secs(1);

/// One document in both of its forms.
#[derive(Debug, Clone)]
pub struct Body {
    /// Grows with every snapshot.
    pub seq: u64,
    pub plain: Bytes,
    pub gzip: Bytes,
}

/// Writes a snapshot, or a newer one.
type Writer = Box<dyn Fn(&Snapshot) -> Result<Vec<u8>> + Send + Sync>;

pub struct Standing {
    current: Current,
    writer: Writer,
    latest: ArcSwapOption<Written>,
    /// Held while somebody writes, by the thread that does.
    flight: Arc<Mutex<()>>,
}

struct Written {
    of: Arc<Snapshot>,
    body: Body,
}

impl Standing {
    pub fn new(
        current: &Current,
        writer: impl Fn(&Snapshot) -> Result<Vec<u8>> + Send + Sync + 'static,
    ) -> Arc<Standing> {
        let (latest, flight) = (ArcSwapOption::empty(), Arc::default());
        Arc::new(Standing { current: current.clone(), writer: Box::new(writer), latest, flight })
    }

    /// The document of the current snapshot; while another request writes it, the previous one if that is recent.
    ///
    /// # Errors
    /// As the writer's.
    pub async fn get(self: &Arc<Standing>) -> Result<Body> {
        let now = self.current.get();
        if let Some(body) = self.standing(&now) {
            return Ok(body);
        }
        let flight = match (self.flight.clone().try_lock_owned(), self.previous(&now)) {
            (Ok(flight), _) => flight,
            (Err(_), Some(previous)) => return Ok(previous),
            (Err(_), None) => self.flight.clone().lock_owned().await,
        };
        match self.standing(&now) {
            Some(body) => Ok(body),
            None => self.fly(flight).await,
        }
    }

    /// Writes on a thread that may block. The flight goes along: a client that leaves drops the waiting, not the work,
    /// and the next one must not begin the same work beside it.
    async fn fly(self: &Arc<Standing>, flight: OwnedMutexGuard<()>) -> Result<Body> {
        let document = self.clone();
        let writing = tokio::task::spawn_blocking(move || {
            let written = document.write();
            drop(flight);
            written
        });
        writing.await.context("write the document")?
    }

    fn standing(&self, now: &Snapshot) -> Option<Body> {
        let latest = self.latest.load();
        latest.as_ref().filter(|latest| latest.of.seq >= now.seq).map(|latest| latest.body.clone())
    }

    fn previous(&self, now: &Snapshot) -> Option<Body> {
        let latest = self.latest.load();
        let recent = |latest: &Written| now.at.mono.saturating_sub(latest.of.at.mono) <= PREVIOUS_SERVES;
        latest.as_ref().filter(|latest| recent(latest)).map(|latest| latest.body.clone())
    }

    /// Writes now, whatever stands. Blocks; some milliseconds for thousands of series.
    ///
    /// # Errors
    /// As the writer's.
    pub fn write(&self) -> Result<Body> {
        let of = self.current.get(); // before writing: what is written is this one or a newer
        let plain = (self.writer)(&of)?;
        let body = Body { seq: of.seq, gzip: gzip(&plain)?.into(), plain: plain.into() };
        self.latest.store(Some(Arc::new(Written { of, body: body.clone() })));
        Ok(body)
    }
}

/// Quick rather than small: text with so many equal words is a tenth of its size either way.
fn gzip(plain: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(plain.len() / 8), Compression::fast());
    encoder.write_all(plain)?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::mpsc;

    use super::*;
    use crate::health::{Health, Settings};
    use crate::host::Profile;
    use crate::sample::Now;
    use crate::snapshot::{River, Sidecar};

    fn snapshot() -> Snapshot {
        let now = Now::read();
        let sidecar = Sidecar {
            version: "",
            arch: "",
            profile: Profile::Pynchy,
            root: None,
            notes: Vec::new(),
            started_at: now.wall,
        };
        let river = River::new(now, sidecar, Vec::new(), Health::new(now, Vec::new(), &[], &Settings::default()));
        (*river.current().get()).clone()
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
    }

    #[test]
    fn both_forms_say_the_same_and_a_newer_snapshot_is_written_anew() {
        let snapshot = snapshot();
        let current = Current::fixed(snapshot.clone());
        let document = Standing::new(&current, |of| Ok(format!("snapshot {} ", of.seq).repeat(1000).into_bytes()));
        for more in 0..3 {
            let seq = snapshot.seq + more;
            current.publish(Snapshot { seq, ..snapshot.clone() });
            let body = runtime().block_on(document.get()).unwrap();
            assert_eq!(body.plain, format!("snapshot {seq} ").repeat(1000));
            assert_eq!(body.seq, seq);
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(&body.gzip[..]).read_to_end(&mut unpacked).unwrap();
            assert_eq!(unpacked, body.plain);
            assert!(body.gzip.len() < body.plain.len() / 10);
        }
    }

    #[test]
    fn a_client_that_leaves_does_not_let_the_next_one_write_beside() {
        let (begin, begun) = mpsc::channel();
        let (go_on, going_on) = mpsc::channel::<()>();
        let (times, going_on) = (Arc::new(AtomicU32::new(0)), std::sync::Mutex::new(going_on));
        let counted = times.clone();
        let document = Standing::new(&Current::fixed(snapshot()), move |_| {
            counted.fetch_add(1, Ordering::SeqCst);
            begin.send(()).unwrap();
            going_on.lock().unwrap().recv().unwrap();
            Ok(b"text".to_vec())
        });
        let runtime = runtime();
        let asked = document.clone();
        let client = runtime.spawn(async move { asked.get().await });
        begun.recv().unwrap();
        client.abort();
        runtime.block_on(async { drop(client.await) });
        assert!(document.flight.try_lock().is_err(), "the writing goes on, and nobody else may begin");
        let next = runtime.spawn({
            let document = document.clone();
            async move { document.get().await }
        });
        go_on.send(()).unwrap();
        assert_eq!(runtime.block_on(next).unwrap().unwrap().plain, "text");
        assert_eq!(times.load(Ordering::SeqCst), 1, "by the first flight");
    }

    #[test]
    fn a_writer_that_fails_is_told_and_asked_again() {
        let document = Standing::new(&Current::fixed(snapshot()), |_| anyhow::bail!("a defect"));
        for _ in 0..2 {
            assert_eq!(runtime().block_on(document.get()).unwrap_err().to_string(), "a defect");
        }
    }
}
