//! `/metrics`: the snapshot as Prometheus text 0.0.4, through OpenTelemetry's observable instruments.
//!
//! Observable ones only: they forget a series that is not observed, synchronous ones never do. One meter provider per
//! reader: a callback feeds every reader of its provider, and a second one would see ghosts of the first.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, MeterProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::fact::{Fact, Kind};
use crate::pulse::SERIES_CAP;
use crate::sample::Point;
use crate::snapshot::{Current, Snapshot, catalogue};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// While a newer page renders, an older one is good enough for this long; then one waits for the newer.
const PREVIOUS_SERVES: Duration = Duration::from_secs(1);

/// The snapshot of one collection: the first callback takes it, the others read it, so that no page mixes two.
type Pinned = Arc<ArcSwapOption<Snapshot>>;

/// A provider that tells its one reader the facts of the current snapshot.
///
/// The SDK sets aside room for as many series as a fact may have, so one without labels gets room for one.
pub fn provider(reader: impl MetricReader, resource: Resource, current: &Current) -> SdkMeterProvider {
    let labelled: HashSet<&str> =
        catalogue().into_iter().filter(|(_, fact)| !fact.labels.is_empty()).map(|(_, fact)| fact.name).collect();
    let limit = move |instrument: &Instrument| {
        let series = if labelled.contains(instrument.name()) { SERIES_CAP } else { 1 };
        // A dead series holds its place for one more collection.
        Stream::builder().with_cardinality_limit(2 * series).build().ok()
    };
    let provider = SdkMeterProvider::builder().with_resource(resource).with_reader(reader).with_view(limit).build();
    let meter = provider.meter("agenthost-exporter");
    let pinned = Pinned::default();
    pin(&meter, current.clone(), pinned.clone());
    for (_, fact) in catalogue() {
        observe(&meter, fact, pinned.clone());
    }
    provider
}

/// Callbacks run in the order of registration: this instrument observes nothing and comes first.
fn pin(meter: &Meter, current: Current, pinned: Pinned) {
    let callback = move |_: &dyn AsyncInstrument<f64>| pinned.store(Some(current.get()));
    meter.f64_observable_gauge("agenthost.pin").with_callback(callback).build();
}

fn observe(meter: &Meter, fact: &'static Fact, pinned: Pinned) {
    // A panic here would end the reader for good, so it ends here.
    let callback = move |instrument: &dyn AsyncInstrument<f64>| {
        let _ = catch_unwind(AssertUnwindSafe(|| points(fact, &pinned, instrument)));
    };
    let (name, unit, help) = (fact.name, fact.unit, fact.help);
    match fact.kind {
        Kind::Gauge => {
            meter.f64_observable_gauge(name).with_unit(unit).with_description(help).with_callback(callback).build();
        }
        Kind::Counter => {
            meter.f64_observable_counter(name).with_unit(unit).with_description(help).with_callback(callback).build();
        }
    }
}

fn points(fact: &'static Fact, pinned: &Pinned, instrument: &dyn AsyncInstrument<f64>) {
    let snapshot = pinned.load();
    for point in snapshot.iter().flat_map(|snapshot| snapshot.points()).filter(|point| point.fact.is(fact)) {
        if let Some(value) = point.value {
            instrument.observe(value, &attributes(point));
        }
    }
}

fn attributes(point: &Point) -> Vec<KeyValue> {
    let labels = point.fact.labels.iter().zip(&point.labels);
    labels.map(|(name, value)| KeyValue::new(*name, value.clone())).collect()
}

/// The rendered page: made at most once per snapshot, off the request threads, then served as the same bytes.
pub struct Page {
    registry: prometheus::Registry,
    current: Current,
    rendered: ArcSwap<Rendered>,
    /// Held while somebody renders, by the thread that does.
    flight: Arc<Mutex<()>>,
    _provider: SdkMeterProvider,
}

struct Rendered {
    /// The snapshot it shows; `None` before the first.
    of: Option<Arc<Snapshot>>,
    text: Bytes,
}

impl Page {
    /// # Errors
    /// The exporter cannot be built: a defect of the declarations.
    pub fn new(current: &Current) -> Result<Arc<Page>> {
        let registry = prometheus::Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .context("build the Prometheus exporter")?;
        let provider = provider(reader, Resource::builder_empty().build(), current);
        let rendered = ArcSwap::from_pointee(Rendered { of: None, text: Bytes::new() });
        Ok(Arc::new(Page { registry, current: current.clone(), rendered, flight: Arc::default(), _provider: provider }))
    }

    /// The page of the current snapshot; while another request renders it, the previous one if that is recent.
    ///
    /// # Errors
    /// The encoder refuses the facts.
    pub async fn get(self: &Arc<Page>) -> Result<Bytes> {
        let now = self.current.get();
        if let Some(text) = self.standing(&now) {
            return Ok(text);
        }
        let flight = match self.flight.clone().try_lock_owned() {
            Ok(flight) => flight,
            Err(_) if self.previous_serves(&now) => return Ok(self.rendered.load().text.clone()),
            Err(_) => self.flight.clone().lock_owned().await,
        };
        if let Some(text) = self.standing(&now) {
            return Ok(text);
        }
        self.fly(flight).await
    }

    /// Renders on a thread that may block. The flight goes along: a client that leaves drops the waiting, not the work,
    /// and the next one must not begin the same work beside it.
    async fn fly(self: &Arc<Page>, flight: OwnedMutexGuard<()>) -> Result<Bytes> {
        let page = self.clone();
        let rendering = tokio::task::spawn_blocking(move || {
            let rendered = page.render();
            drop(flight);
            rendered
        });
        rendering.await.context("render the metrics")?
    }

    fn standing(&self, now: &Snapshot) -> Option<Bytes> {
        let rendered = self.rendered.load();
        rendered.of.as_ref().filter(|of| of.seq >= now.seq).map(|_| rendered.text.clone())
    }

    fn previous_serves(&self, now: &Snapshot) -> bool {
        let rendered = self.rendered.load();
        rendered.of.as_ref().is_some_and(|of| now.at.mono.saturating_sub(of.at.mono) <= PREVIOUS_SERVES)
    }

    /// Encodes now, whatever stands. Blocks; some milliseconds for thousands of series.
    ///
    /// # Errors
    /// The encoder refuses the facts.
    pub fn render(&self) -> Result<Bytes> {
        let of = self.current.get(); // before gathering: what is gathered is this one or a newer
        let text = prometheus::TextEncoder::new().encode_to_string(&self.registry.gather())?;
        let text = Bytes::from(text);
        self.rendered.store(Arc::new(Rendered { of: Some(of), text: text.clone() }));
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::{Health, Settings};
    use crate::host::Profile;
    use crate::pulse;
    use crate::sample::{Now, Points};
    use crate::snapshot::{River, Sidecar};

    /// Enough series that rendering takes a while.
    fn heavy() -> Current {
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
        let mut points = Points::default();
        for number in 0..SERIES_CAP {
            for fact in pulse::FACTS {
                points.put(fact, [&format!("collector-{number}").into()], 1.0);
            }
        }
        Current::fixed(Snapshot { own: points.into(), ..(*river.current().get()).clone() })
    }

    #[test]
    fn a_client_that_leaves_does_not_let_the_next_one_render_beside() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let page = Page::new(&heavy()).unwrap();
        runtime.block_on(async {
            let asked = page.clone();
            let client = tokio::spawn(async move { asked.get().await });
            while page.flight.try_lock().is_ok() {
                tokio::task::yield_now().await;
            }
            client.abort();
            drop(client.await);
            let rendered = page.standing(&page.current.get()).is_some();
            assert!(rendered || page.flight.try_lock().is_err(), "the rendering goes on, and nobody else may begin");
            let text = page.get().await.unwrap();
            assert!(text.len() > 100_000);
            assert!(page.flight.try_lock().is_ok());
            assert!(Arc::ptr_eq(page.rendered.load().of.as_ref().unwrap(), &page.current.get()));
        });
    }
}
