//! `/metrics`: the snapshot as Prometheus text 0.0.4, through OpenTelemetry's observable instruments.
//!
//! Observable ones only, and a meter provider for each collection: nothing of what was before is in it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, Result};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter, MeterProvider};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{Instrument, SdkMeterProvider, Stream};
use prometheus::Encoder;

use super::standing::Standing;
use crate::fact::{Fact, Kind};
use crate::sample::Point;
use crate::snapshot::{Current, Snapshot};

pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The values of one fact, each with its labels.
type Series = Vec<(f64, Vec<KeyValue>)>;

/// A provider that tells its one reader the facts of one snapshot, for one collection.
///
/// The SDK sets room aside for as many series as an instrument may have, and keeps them: one that outlived its snapshot would
/// hold megabytes for what may come. This one has room for what there is, and forgets all of it.
pub fn provider(reader: impl MetricReader, resource: Resource, snapshot: &Snapshot) -> SdkMeterProvider {
    let told = told(snapshot);
    let rooms: HashMap<&str, usize> = told.values().map(|(fact, series)| (fact.name, series.len())).collect();
    let room = move |instrument: &Instrument| {
        Stream::builder().with_cardinality_limit(*rooms.get(instrument.name())?).build().ok()
    };
    let provider = SdkMeterProvider::builder().with_resource(resource).with_reader(reader).with_view(room).build();
    let meter = provider.meter("agenthost-exporter");
    for (fact, series) in told.into_values() {
        observe(&meter, fact, series);
    }
    provider
}

/// All that is known, by facts in the order of their names.
fn told(snapshot: &Snapshot) -> BTreeMap<&'static str, (&'static Fact, Series)> {
    let mut told = BTreeMap::new();
    for point in snapshot.points() {
        if let Some(value) = point.value {
            let (_, series) = told.entry(point.fact.name).or_insert_with(|| (point.fact, Series::new()));
            series.push((value, attributes(point)));
        }
    }
    told
}

fn observe(meter: &Meter, fact: &'static Fact, series: Series) {
    let callback = move |instrument: &dyn AsyncInstrument<f64>| {
        series.iter().for_each(|(value, attributes)| instrument.observe(*value, attributes));
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

fn attributes(point: &Point) -> Vec<KeyValue> {
    let labels = point.fact.labels.iter().zip(&point.labels);
    labels.map(|(name, value)| KeyValue::new(*name, value.clone())).collect()
}

/// The page of the current snapshot.
pub fn page(current: &Current) -> Arc<Standing> {
    Standing::new(current, written)
}

fn written(snapshot: &Snapshot) -> Result<Vec<u8>> {
    let registry = prometheus::Registry::new();
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .scope_info_enabled(false)
        .without_target_info()
        .build()
        .context("build the Prometheus exporter")?;
    let _provider = provider(reader, Resource::builder_empty().build(), snapshot);
    let mut text = Vec::new();
    prometheus::TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(text)
}
