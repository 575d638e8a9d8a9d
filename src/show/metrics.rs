//! `/metrics`: the snapshot as Prometheus text 0.0.4, through OpenTelemetry's observable instruments.
//!
//! Observable ones only: they forget a series that is not observed, synchronous ones never do. One meter provider per
//! reader: a callback feeds every reader of its provider, and a second one would see ghosts of the first.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use anyhow::{Context, Result};
use arc_swap::ArcSwapOption;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, MeterProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use prometheus::Encoder;

use super::standing::Standing;
use crate::fact::{Fact, Kind};
use crate::pulse::SERIES_CAP;
use crate::sample::Point;
use crate::snapshot::{Current, Snapshot, catalogue};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

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

/// The page of the current snapshot.
///
/// # Errors
/// The exporter cannot be built: a defect of the declarations.
pub fn page(current: &Current) -> Result<Arc<Standing>> {
    let registry = prometheus::Registry::new();
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .without_target_info()
        .build()
        .context("build the Prometheus exporter")?;
    let provider = provider(reader, Resource::builder_empty().build(), current);
    Ok(Standing::new(current, move |_| {
        let _alive = &provider;
        let mut text = Vec::new();
        prometheus::TextEncoder::new().encode(&registry.gather(), &mut text)?;
        Ok(text)
    }))
}
