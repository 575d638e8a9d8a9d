//! The standard variables of OpenTelemetry (specification 1.50), as far as they mean something for metrics over HTTP.
//!
//! An empty one is none; one that cannot be used is noted and passed over, as the specification asks: a sidecar does not
//! fall over a variable that is meant for its neighbour.
//!
//! Without use here: `OTEL_EXPORTER_OTLP_INSECURE` (the scheme says it), `OTEL_METRIC_EXPORT_TIMEOUT` (a push is one request,
//! which `OTEL_EXPORTER_OTLP_TIMEOUT` bounds), `OTEL_METRICS_EXEMPLAR_FILTER` (no exemplars) and
//! `OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION` (no histograms).

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use percent_encoding::percent_decode_str;

use super::{Config, Packing, is_header};
use crate::fact::Span;
use crate::source::http;

/// Where a collector listens by default.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";

type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

pub fn lay(mut config: Config, variable: Variable<'_>) -> Config {
    let set = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
    let of_metrics = |what: &str| {
        let name = format!("OTEL_EXPORTER_OTLP_METRICS_{what}");
        set(&name).map(|value| (name, value)).or_else(|| {
            let name = format!("OTEL_EXPORTER_OTLP_{what}");
            set(&name).map(|value| (name, value))
        })
    };
    let notes = &mut config.notes;

    if let Some(base) = usable("OTEL_EXPORTER_OTLP_ENDPOINT", &set, |url| http::base(url).map(drop), notes) {
        (config.endpoint, config.metrics_endpoint) = (Some(base), None);
    }
    config.metrics_endpoint =
        usable("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", &set, http::check, notes).or(config.metrics_endpoint);
    if let Some((name, said)) = of_metrics("HEADERS") {
        for (header, value) in pairs(&name, &said, notes) {
            match is_header(&header, &value) {
                Ok(()) => drop(config.headers.0.insert(header, value)),
                Err(error) => notes.push(format!("{name} is passed over in part: {error:#}")),
            }
        }
    }
    if let Some((name, said)) = of_metrics("TIMEOUT") {
        config.timeout = millis(&name, &said, notes).or(config.timeout);
    }
    if let Some((name, said)) = of_metrics("COMPRESSION") {
        match said.as_str() {
            "gzip" => config.compression = Packing::Gzip,
            "none" => config.compression = Packing::None,
            _ => notes.push(unusable(&name, "gzip or none")),
        }
    }
    if let Some((name, _)) = of_metrics("PROTOCOL").filter(|(_, said)| said != "http/protobuf") {
        notes.push(unusable(&name, "http/protobuf, the only protocol that is spoken"));
    }
    let mut file = |what| readable(of_metrics(what)?, notes);
    config.certificate = file("CERTIFICATE").or(config.certificate);
    config.client_certificate = file("CLIENT_CERTIFICATE").or(config.client_certificate);
    config.client_key = file("CLIENT_KEY").or(config.client_key);
    let temporality = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    if set(temporality).is_some_and(|said| said.eq_ignore_ascii_case("delta")) {
        notes.push(unusable(temporality, "cumulative: the collector's `cumulativetodelta` makes deltas of it"));
    }
    if let Some(said) = set("OTEL_METRIC_EXPORT_INTERVAL") {
        config.interval = millis("OTEL_METRIC_EXPORT_INTERVAL", &said, notes).or(config.interval);
    }
    if let Some(said) = set("OTEL_RESOURCE_ATTRIBUTES") {
        config.resource.extend(pairs("OTEL_RESOURCE_ATTRIBUTES", &said, notes));
    }
    config.resource.extend(set("OTEL_SERVICE_NAME").map(|name| ("service.name".to_owned(), name)));
    switch(&mut config, &set);
    config
}

/// Whether anything is pushed at all.
fn switch(config: &mut Config, set: Variable<'_>) {
    if let Some(said) = set("OTEL_METRICS_EXPORTER") {
        let wanted: Vec<&str> = said.split(',').map(str::trim).collect();
        for other in wanted.iter().filter(|name| !["otlp", "prometheus", "none"].contains(*name)) {
            config.notes.push(format!("OTEL_METRICS_EXPORTER: there is no `{other}` here: otlp, prometheus or none"));
        }
        match wanted.contains(&"otlp") {
            true if config.metrics_endpoint.is_none() => {
                config.endpoint.get_or_insert_with(|| DEFAULT_ENDPOINT.to_owned());
            }
            true => {}
            false => (config.endpoint, config.metrics_endpoint) = (None, None),
        }
    }
    if set("OTEL_SDK_DISABLED").is_some_and(|said| said.eq_ignore_ascii_case("true")) {
        (config.endpoint, config.metrics_endpoint) = (None, None);
    }
}

fn unusable(name: &str, wanted: &str) -> String {
    format!("{name} is passed over: it must be {wanted}")
}

fn usable(
    name: &str,
    set: Variable<'_>,
    check: impl Fn(&str) -> Result<()>,
    notes: &mut Vec<String>,
) -> Option<String> {
    let said = set(name)?;
    match check(&said) {
        Ok(()) => Some(said),
        Err(error) => {
            notes.push(format!("{name} is passed over: {error:#}"));
            None
        }
    }
}

fn readable((name, path): (String, String), notes: &mut Vec<String>) -> Option<PathBuf> {
    match std::fs::File::open(&path) {
        Ok(_) => Some(path.into()),
        Err(error) => {
            notes.push(format!("{name} is passed over: {path}: {error}"));
            None
        }
    }
}

fn millis(name: &str, said: &str, notes: &mut Vec<String>) -> Option<Span> {
    match said.trim().parse::<u32>() {
        Ok(millis) if millis > 0 => Some(Span(Duration::from_millis(millis.into()))),
        _ => {
            notes.push(unusable(name, "a number of milliseconds"));
            None
        }
    }
}

/// `a=b,c=d`, the values percent-encoded. One that is none is noted without its words, which may be a key.
fn pairs(name: &str, said: &str, notes: &mut Vec<String>) -> Vec<(String, String)> {
    let pair = |text: &str| {
        let (key, value) = text.split_once('=')?;
        let value = percent_decode_str(value.trim()).decode_utf8().ok()?;
        (!key.trim().is_empty()).then(|| (key.trim().to_owned(), value.into_owned()))
    };
    let mut found = Vec::new();
    for text in said.split(',').filter(|text| !text.trim().is_empty()) {
        match pair(text) {
            Some(pair) => found.push(pair),
            None => notes.push(unusable(name, "a list of `key=value`, values percent-encoded")),
        }
    }
    found
}
