//! The snapshot as OTLP, pushed on a pace: the same facts under the same names as in `/metrics`.
//!
//! A task of its own with a meter provider of its own: nobody waits for it, and it waits for nobody but its endpoint.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::collector::metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse};
use opentelemetry_proto::tonic::metrics::v1::ResourceMetrics as ResourceMetricsOf;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::reader::MetricReader;
use opentelemetry_sdk::metrics::{InstrumentKind, ManualReader, Pipeline, Temporality};
use prost::Message;
use tokio::time::MissedTickBehavior;

use super::metrics;
use crate::snapshot::Current;
use crate::source::otlp::{Failed, Pushes, Target};

/// The version of the semantic conventions by which the resource is named.
pub const SCHEMA: &str = "https://opentelemetry.io/schemas/1.44.0";

/// The first push comes so soon, or an interval after the start: by then most has been looked at.
const FIRST: Duration = Duration::from_secs(5);

/// An endpoint that takes nothing is asked ever less often, down to once in so long.
const SELDOM: Duration = Duration::from_secs(5 * 60);

/// An endpoint that asks for more patience than this gets this much.
const PATIENCE: Duration = Duration::from_secs(60 * 60);

/// Pushes the snapshots of now, for as long as it is polled.
pub async fn push(current: Current, target: Target, resource: BTreeMap<String, String>, pushes: Pushes) -> Infallible {
    let meter = Arc::new(Meter::new(&current, resource));
    tokio::time::sleep(FIRST.min(target.interval)).await;
    let mut ticks = tokio::time::interval(target.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut pace, mut rejected) = (Pace::default(), false);
    loop {
        ticks.tick().await;
        if pace.rests() {
            continue;
        }
        let body = match meter.clone().render().await {
            Ok(body) => body,
            Err(error) => {
                tracing::error!(error = format!("{error:#}"), "nothing was pushed: a defect of this program");
                continue;
            }
        };
        match target.send(&body).await {
            Ok(answer) => {
                pace.went_well();
                rejected = taken(&answer, &pushes, target.shown(), rejected);
            }
            Err(failed) => {
                pace.failed(&failed, target.interval);
                if pushes.failed(&failed) {
                    tracing::warn!(endpoint = target.shown(), error = failed.text, "the push was not taken");
                }
            }
        }
    }
}

/// Whether points of it were refused, which is told once.
fn taken(answer: &Bytes, pushes: &Pushes, endpoint: &str, before: bool) -> bool {
    let rejected = rejected(answer);
    if rejected > 0 && !before {
        tracing::warn!(endpoint, rejected, "the endpoint refuses points of pushes that it takes");
    }
    if pushes.sent(rejected) {
        tracing::info!(endpoint, "pushes are taken again");
    }
    rejected > 0
}

/// How many points were refused of a push that was taken, by the body of the answer.
///
/// An answer of another kind says nothing of refused points: the status has said that the push was taken.
pub fn rejected(answer: &Bytes) -> u64 {
    let said = ExportMetricsServiceResponse::decode(answer.clone()).ok().and_then(|said| said.partial_success);
    said.map_or(0, |said| u64::try_from(said.rejected_data_points).unwrap_or(0))
}

/// How many turns are left out after failures.
#[derive(Debug, Default)]
struct Pace {
    failures: u32,
    rest: u32,
}

impl Pace {
    /// Whether this turn is left out.
    fn rests(&mut self) -> bool {
        let rests = self.rest > 0;
        self.rest = self.rest.saturating_sub(1);
        rests
    }

    fn went_well(&mut self) {
        *self = Pace::default();
    }

    /// Twice as long as after the failure before, no longer than `SELDOM`, and as long as the endpoint asks for.
    fn failed(&mut self, failed: &Failed, interval: Duration) {
        let turns =
            |time: Duration| u32::try_from(time.as_millis().div_ceil(interval.as_millis().max(1))).unwrap_or(u32::MAX);
        let own = (1u32 << self.failures.min(16)).min(turns(SELDOM).max(1));
        let asked = turns(failed.retry_after.unwrap_or_default().min(PATIENCE));
        self.rest = own.max(asked).saturating_sub(1);
        self.failures += 1;
    }
}

/// Who packs what is pushed.
struct Meter {
    current: Current,
    resource: Resource,
}

impl Meter {
    fn new(current: &Current, resource: BTreeMap<String, String>) -> Meter {
        let attributes = resource.into_iter().map(|(name, value)| KeyValue::new(name, value));
        // What the library says of itself comes with its builder, and an attribute of ours over it.
        let resource = Resource::builder_empty()
            .with_detector(Box::new(opentelemetry_sdk::resource::TelemetryResourceDetector))
            .with_schema_url(attributes, SCHEMA)
            .build();
        Meter { current: current.clone(), resource }
    }

    /// One collection, on a thread where it holds up nobody.
    async fn render(self: Arc<Meter>) -> Result<Bytes> {
        tokio::task::spawn_blocking(move || self.collect()).await.context("a push broke off")?
    }

    /// Counters are cumulative: many begin with what the host has counted before, which a delta would tell again at each
    /// restart.
    fn collect(&self) -> Result<Bytes> {
        let reader = Asked(Arc::new(ManualReader::builder().with_temporality(Temporality::Cumulative).build()));
        let _provider = metrics::provider(reader.clone(), self.resource.clone(), &self.current.get());
        let mut metrics = ResourceMetrics::default();
        reader.collect(&mut metrics).context("collect what is pushed")?;
        let mut push = ExportMetricsServiceRequest::from(&metrics);
        push.resource_metrics.iter_mut().for_each(forget_starts);
        Ok(push.encode_to_vec().into())
    }
}

/// When a counter began is known to the host at most: most were counted before this program was started. 0 says so; a moment of
/// ours would tell whoever makes rates of it that all was counted since.
fn forget_starts(resource: &mut ResourceMetricsOf) {
    let metrics = resource.scope_metrics.iter_mut().flat_map(|scope| &mut scope.metrics);
    for metric in metrics {
        if let Some(Data::Sum(sum)) = &mut metric.data {
            sum.data_points.iter_mut().for_each(|point| point.start_time_unix_nano = 0);
        }
    }
}

/// A reader that the provider and we have in common.
#[derive(Debug, Clone)]
struct Asked(Arc<ManualReader>);

impl MetricReader for Asked {
    fn register_pipeline(&self, pipeline: Weak<Pipeline>) {
        self.0.register_pipeline(pipeline);
    }

    fn collect(&self, metrics: &mut ResourceMetrics) -> OTelSdkResult {
        self.0.collect(metrics)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn temporality(&self, kind: InstrumentKind) -> Temporality {
        self.0.temporality(kind)
    }
}

#[cfg(test)]
mod tests;
