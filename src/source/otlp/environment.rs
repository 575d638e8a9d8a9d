//! The standard variables of OpenTelemetry (specification 1.50), as far as they mean something for metrics over HTTP.
//!
//! An empty one is none; one that cannot be used is noted and passed over, as the specification asks: a sidecar does not
//! fall over a variable that is meant for its neighbour.
//!
//! Without use here: `OTEL_EXPORTER_OTLP_INSECURE` (the scheme says it), `OTEL_METRIC_EXPORT_TIMEOUT` (a push is one request,
//! which `OTEL_EXPORTER_OTLP_TIMEOUT` bounds), `OTEL_METRICS_EXEMPLAR_FILTER` (no exemplars) and
//! `OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION` (no histograms).

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use percent_encoding::percent_decode_str;

use super::{Config, Packing, SHORTEST, read};
use crate::fact::Span;
use crate::source::http::{self, Own, Roots, Trust};

/// Where a collector listens by default.
const DEFAULT_ENDPOINT: &str = "http://localhost:4318";

type Variable<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable's name and value.
type Told = (String, String);

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
            if let Err(error) = config.environment.add(&header, &value) {
                notes.push(format!("{name} is passed over in part: {error:#}; it is a list of `name=value`"));
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
    let authority = |pem: &[u8]| Trust::only(pem).map(drop);
    config.certificate = of_metrics("CERTIFICATE").and_then(|told| file(told, authority, notes)).or(config.certificate);
    if let Some((certificate, key)) = own(of_metrics("CLIENT_CERTIFICATE"), of_metrics("CLIENT_KEY"), notes) {
        (config.client_certificate, config.client_key) = (Some(certificate), Some(key));
    }
    let temporality = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE";
    if set(temporality).is_some_and(|said| said.eq_ignore_ascii_case("delta")) {
        notes.push(unusable(temporality, "cumulative: the collector's `cumulativetodelta` makes deltas of it"));
    }
    if let Some(said) = set("OTEL_METRIC_EXPORT_INTERVAL") {
        let told = millis("OTEL_METRIC_EXPORT_INTERVAL", &said, notes);
        match told {
            Some(Span(short)) if short < SHORTEST => {
                notes.push(unusable("OTEL_METRIC_EXPORT_INTERVAL", "1000 milliseconds or more"));
            }
            told => config.interval = told.or(config.interval),
        }
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

/// A file whose content is as wanted.
fn file((name, path): Told, check: impl Fn(&[u8]) -> Result<()>, notes: &mut Vec<String>) -> Option<PathBuf> {
    match read(Path::new(&path)).and_then(|text| check(&text).with_context(|| path.clone())) {
        Ok(()) => Some(path.into()),
        Err(error) => {
            notes.push(format!("{name} is passed over: {error:#}"));
            None
        }
    }
}

/// Our own certificate and its key, which belong together.
fn own(certificate: Option<Told>, key: Option<Told>, notes: &mut Vec<String>) -> Option<(PathBuf, PathBuf)> {
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        (None, None) => return None,
        (Some((name, _)), None) | (None, Some((name, _))) => {
            notes.push(format!("{name} is passed over: a client's certificate and its key belong together"));
            return None;
        }
    };
    let text = file_text(&certificate, notes)?;
    let fits = |key: &[u8]| Trust::showing(Roots::BuiltIn, Some(Own { certificates: &text, key })).map(drop);
    Some((PathBuf::from(&certificate.1), file(key, fits, notes)?))
}

fn file_text((name, path): &Told, notes: &mut Vec<String>) -> Option<Vec<u8>> {
    let text = read(Path::new(path));
    text.map_err(|error| notes.push(format!("{name} is passed over: {error:#}"))).ok()
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
