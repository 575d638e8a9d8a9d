//! What is pushed by OTLP: taken by a real Prometheus 3 it is what a scrape would have found, name for name; and an endpoint
//! that misbehaves hurts nothing but the pushes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value as Number;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, Metric};
use prost::Message;
use serde_json::Value;

use crate::binary::{Sidecar, exporter};
use crate::fixture::Root;

const PATIENCE: Duration = Duration::from_secs(120);

/// A series: its name, and its labels in order.
type Series = (String, BTreeMap<String, String>);

/// How an endpoint answers.
#[derive(Clone)]
enum Manner {
    Takes,
    /// It takes the push but for so many points.
    Rejects(i64),
    Says(&'static str),
    Hangs,
}

/// An endpoint that keeps what it is sent.
struct Endpoint {
    address: SocketAddr,
    manner: Arc<Mutex<Manner>>,
    got: Arc<Mutex<Vec<(String, ExportMetricsServiceRequest)>>>,
}

impl Endpoint {
    fn start() -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = Endpoint {
            address: listener.local_addr().unwrap(),
            manner: Arc::new(Mutex::new(Manner::Takes)),
            got: Arc::default(),
        };
        let (manner, got) = (endpoint.manner.clone(), endpoint.got.clone());
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (manner, got) = (manner.lock().unwrap().clone(), got.clone());
                std::thread::spawn(move || serve(socket, &manner, &got));
            }
        });
        endpoint
    }

    fn be(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    fn last(&self) -> (String, ExportMetricsServiceRequest) {
        let begun = Instant::now();
        loop {
            if let Some(last) = self.got.lock().unwrap().last() {
                return last.clone();
            }
            assert!(begun.elapsed() < PATIENCE, "nothing was pushed");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn serve(mut socket: TcpStream, manner: &Manner, got: &Mutex<Vec<(String, ExportMetricsServiceRequest)>>) {
    let (head, body) = request(&mut socket);
    let answer = match manner {
        Manner::Takes => ExportMetricsServiceResponse { partial_success: None },
        Manner::Rejects(points) => {
            let error_message = "secret".to_owned();
            let partial = ExportMetricsPartialSuccess { rejected_data_points: *points, error_message };
            ExportMetricsServiceResponse { partial_success: Some(partial) }
        }
        Manner::Says(answer) => return drop(socket.write_all(answer.as_bytes())),
        Manner::Hangs => return std::thread::sleep(PATIENCE),
    };
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&body[..]).read_to_end(&mut plain).unwrap();
    got.lock().unwrap().push((head, ExportMetricsServiceRequest::decode(&plain[..]).unwrap()));
    let answer = answer.encode_to_vec();
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
    let _ = socket.write_all(&[head.as_bytes(), &answer].concat());
}

fn request(socket: &mut TcpStream) -> (String, Vec<u8>) {
    let (mut got, mut some) = (Vec::new(), [0; 65536]);
    loop {
        let length = socket.read(&mut some).unwrap();
        got.extend_from_slice(&some[..length]);
        let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(got[..end].to_vec()).unwrap().to_ascii_lowercase();
        let wanted: usize = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap().parse().unwrap();
        if length == 0 || got.len() >= end + 4 + wanted {
            return (head, got.split_off(end + 4));
        }
    }
}

fn plan(to: SocketAddr, more: &str) -> String {
    format!("[collect.exporter]\ninterval = \"1s\"\n[otlp]\nendpoint = \"http://{to}\"\ninterval = \"1s\"\n{more}")
}

fn pushing(root: &Root, to: SocketAddr, more: &str) -> Sidecar {
    Sidecar::start(root.path(), &plan(to, more))
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|value| value.value.as_ref()) {
        Some(Any::StringValue(text)) => text.clone(),
        other => panic!("{other:?}"),
    }
}

/// Without empty ones: to Prometheus they are none.
fn labels(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let all = attributes.iter().map(|pair| (pair.key.clone(), text(pair.value.as_ref())));
    all.filter(|(_, value)| !value.is_empty()).collect()
}

/// The name by which Prometheus calls a metric, by the rules of the OpenTelemetry specification ("Prometheus and OpenMetrics
/// Compatibility"): dots become underscores, the unit and `total` are appended.
fn translated(metric: &Metric) -> String {
    let is_counter = matches!(metric.data, Some(Data::Sum(_)));
    let unit = match metric.unit.as_str() {
        "s" => "_seconds",
        "By" => "_bytes",
        "1" if !is_counter => "_ratio",
        annotation if annotation.is_empty() || annotation.starts_with('{') => "",
        other => panic!("{}: the unit {other}", metric.name),
    };
    format!("{}{unit}{}", metric.name.replace('.', "_"), if is_counter { "_total" } else { "" })
}

/// Every series of a push, by its name in Prometheus.
fn series(push: &ExportMetricsServiceRequest) -> BTreeMap<Series, f64> {
    let mut found = BTreeMap::new();
    for metric in push.resource_metrics.iter().flat_map(|of| &of.scope_metrics).flat_map(|of| &of.metrics) {
        let points = match metric.data.as_ref().unwrap() {
            Data::Gauge(gauge) => &gauge.data_points,
            Data::Sum(sum) => {
                assert!(sum.is_monotonic, "{}", metric.name);
                assert_eq!(sum.aggregation_temporality(), AggregationTemporality::Cumulative, "{}", metric.name);
                &sum.data_points
            }
            other => panic!("{other:?}"),
        };
        for point in points {
            let Some(Number::AsDouble(value)) = point.value else { panic!("{metric:?}") };
            let is_counter = matches!(metric.data, Some(Data::Sum(_)));
            assert!(!is_counter || point.start_time_unix_nano == 0, "what the host has counted before began before us");
            let known = found.insert((translated(metric), labels(&point.attributes)), value);
            assert_eq!(known, None, "twice: {}", metric.name);
        }
    }
    found
}

/// Every series of a page of `/metrics`, without labels that are empty.
fn scraped(page: &str) -> BTreeSet<Series> {
    let label = regex_lite::Regex::new(r#"(\w+)="((?:[^"\\]|\\.)+)""#).unwrap();
    let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let unescaped = |text: &str| text.replace("\\\"", "\"").replace("\\n", "\n").replace("\\\\", "\\");
    lines
        .map(|line| {
            let name = line.split(['{', ' ']).next().unwrap().to_owned();
            let labels = label.captures_iter(line).map(|pair| (pair[1].to_owned(), unescaped(&pair[2]))).collect();
            (name, labels)
        })
        .collect()
}

/// Waits until a push and a page tell the same series; which those are.
fn until_the_same(sidecar: &Sidecar, what: &str, mut pushed: impl FnMut() -> BTreeSet<Series>) -> BTreeSet<Series> {
    let begun = Instant::now();
    loop {
        let (page, pushed) = (scraped(&sidecar.get("/metrics").1), pushed());
        if page == pushed {
            return page;
        }
        let missing: Vec<_> = page.difference(&pushed).take(5).collect();
        let more: Vec<_> = pushed.difference(&page).take(5).collect();
        assert!(begun.elapsed() < PATIENCE, "{what}: only in /metrics: {missing:#?}, only pushed: {more:#?}");
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn a_push_tells_the_series_of_the_page_with_what_they_are_of() {
    let (root, endpoint) = (Root::with_history(Timestamp::now()).with_repos(), Endpoint::start());
    let headers = "headers = { \"x-tenant\" = \"acme\" }\nresource = { \"deployment.environment.name\" = \"test\" }\n";
    let sidecar = pushing(&root, endpoint.address, headers);
    sidecar.until("pushes", |status| status["exporter"]["otlp"]["sent"].as_u64() > Some(1));
    let same = until_the_same(&sidecar, "the push", || series(&endpoint.last().1).into_keys().collect());
    assert!(same.len() > 200, "only {} series", same.len());

    let (head, push) = endpoint.last();
    assert!(head.starts_with("post /v1/metrics http/1.1\r\n") && head.contains("x-tenant: acme"), "{head}");
    let [of] = &push.resource_metrics[..] else { panic!("{} resources", push.resource_metrics.len()) };
    let resource = labels(&of.resource.as_ref().unwrap().attributes);
    assert_eq!(of.schema_url, agenthost_exporter::show::otlp::SCHEMA);
    for (name, value) in [
        ("service.name", "agenthost"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        ("deployment.environment.name", "test"),
        ("telemetry.sdk.language", "rust"),
    ] {
        assert_eq!(resource.get(name).map(String::as_str), Some(value), "{resource:#?}");
    }
    assert!(resource.contains_key("service.instance.id") && resource.contains_key("host.name"), "{resource:#?}");

    // A series that is no more is in no push either.
    std::fs::remove_dir_all(root.path().join("data")).unwrap();
    let about = |series: &BTreeSet<Series>| series.iter().any(|(name, _)| name == "agenthost_groups");
    assert!(about(&same), "what is looked at");
    let begun = Instant::now();
    while about(&series(&endpoint.last().1).into_keys().collect()) {
        assert!(begun.elapsed() < PATIENCE, "a ghost");
        std::thread::sleep(Duration::from_millis(100));
    }
}

struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn prometheus_3_calls_what_is_pushed_as_what_it_scrapes() {
    let Some(prometheus) = crate::prometheus3("prometheus") else { return };
    let (folder, root) = (tempfile::tempdir().unwrap(), Root::with_history(Timestamp::now()).with_repos());
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    std::fs::write(folder.path().join("prometheus.yml"), "otlp: {}\n").unwrap();
    let child = Command::new(prometheus)
        .current_dir(folder.path())
        .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data", "--web.enable-otlp-receiver"])
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(folder.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let _running = Ended(child);
    let sidecar = pushing(
        &root,
        format!("{address}").parse().unwrap(),
        &format!("metrics_endpoint = \"http://{address}/api/v1/otlp/v1/metrics\"\n"),
    );
    let told = || -> Option<BTreeSet<Series>> {
        // What came within the last seconds: one that has ended is found for minutes.
        let query = "last_over_time(%7B__name__%3D~%22agenthost_.%2B%7Cprocess_.%2B%22%7D%5B4s%5D)";
        let url = format!("http://{address}/api/v1/query?query={query}");
        let body = Command::new("curl").args(["--silent", "--fail", &url]).output().unwrap().stdout;
        let answer: Value = serde_json::from_slice(&body).ok()?;
        let result = answer["data"]["result"].as_array()?.clone();
        Some(result.iter().map(|one| one["metric"].as_object().unwrap()).map(plain).collect())
    };
    sidecar.until_patiently("pushes that are taken", |status| status["exporter"]["otlp"]["sent"].as_u64() > Some(2));
    let same = until_the_same(&sidecar, "Prometheus 3", || told().unwrap_or_default());
    assert!(same.len() > 200, "only {} series", same.len());
}

/// Without what every series gets, which it must have.
fn plain(labels: &serde_json::Map<String, Value>) -> Series {
    let mut labels: BTreeMap<String, String> =
        labels.iter().map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned())).collect();
    assert_eq!(labels.remove("job").as_deref(), Some("agenthost"), "{labels:?}");
    assert!(labels.remove("instance").is_some(), "{labels:?}");
    (labels.remove("__name__").unwrap(), labels)
}

/// Pushes that failed for a reason.
fn failed(status: &Value, reason: &str) -> Option<u64> {
    status["exporter"]["otlp"]["failed"][reason].as_u64()
}

fn begin_anew(sidecar: &Sidecar) {
    let pid = rustix::process::Pid::from_child(&sidecar.child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
}

#[test]
fn an_endpoint_that_misbehaves_is_told_and_hurts_nobody() {
    let (root, endpoint) = (Root::with_history(Timestamp::now()), Endpoint::start());
    endpoint.be(Manner::Says("HTTP/1.1 500 No\r\nContent-Length: 6\r\n\r\nsecret"));
    let mut sidecar = pushing(&root, endpoint.address, "timeout = \"500ms\"\n");
    let status = sidecar.until("a failure", |status| failed(status, "unavailable") > Some(0));
    assert_eq!(status["exporter"]["otlp"]["error"], "answered with status 500");
    assert_eq!(status["exporter"]["otlp"]["endpoint"], format!("http://{}/v1/metrics", endpoint.address));
    assert_eq!(status["exporter"]["otlp"]["last_sent_at"], Value::Null);
    let page = sidecar.get("/metrics").1;
    assert!(page.contains("agenthost_otlp_failed_total{reason=\"denied\"} 0\n"), "{page}");
    assert!(page.contains("agenthost_otlp_sent_total 0\n") && !page.contains("agenthost_otlp_last_sent"), "{page}");

    // Another plan forgets how long the endpoint was to be left alone.
    let turned = |time: u32| {
        let text = format!("{}{}", crate::binary::FAST, plan(endpoint.address, &format!("timeout = \"{time}ms\"\n")));
        std::fs::write(root.path().join("exporter.toml"), text).unwrap();
    };
    for (time, (manner, reason)) in (501..).zip([
        (Manner::Says("HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n"), "denied"),
        (Manner::Says("nonsense\r\n\r\n"), "broken"),
        (Manner::Hangs, "timeout"),
    ]) {
        endpoint.be(manner);
        turned(time);
        let status = sidecar.until_patiently(reason, |status| failed(status, reason) > Some(0));
        assert!(!status.to_string().contains("secret"));
        assert_eq!(
            status["health"]["checks"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|check| check["collector"] == "exporter" && check["state"] == "failed")
                .count(),
            0
        );
    }

    endpoint.be(Manner::Rejects(7));
    turned(600);
    let status =
        sidecar.until_patiently("pushes again", |status| status["exporter"]["otlp"]["sent"].as_u64() > Some(0));
    assert_eq!(status["exporter"]["otlp"]["error"], Value::Null);
    assert!(status["exporter"]["otlp"]["rejected_points"].as_u64() >= Some(7));
    assert!(sidecar.terminate().success());
}

#[test]
fn a_reload_turns_the_pushes_and_the_environment_counts_over_the_file() {
    let (root, first, second) = (Root::with_history(Timestamp::now()), Endpoint::start(), Endpoint::start());
    let config = root.path().join("exporter.toml");
    let write = |text: &str| {
        std::fs::write(&config, format!("{}[collect.exporter]\ninterval = \"1s\"\n{text}", crate::binary::FAST))
            .unwrap()
    };
    write("");
    let mut command = exporter();
    command.env("OTEL_METRIC_EXPORT_INTERVAL", "1000").env("OTEL_SERVICE_NAME", "mine");
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc");
    let sidecar = Sidecar::spawn_by(command, &config, [format!("--host.root={}", root.path().display())]);
    let status = sidecar.until("a look", |status| status["exporter"]["cpu_seconds"].is_number());
    assert_eq!(status["exporter"]["otlp"], Value::Null, "nothing is pushed");
    assert!(
        status["sidecar"]["host"]["notes"].to_string().contains("OTEL_EXPORTER_OTLP_PROTOCOL is passed over"),
        "{status:#}"
    );
    assert!(!sidecar.get("/metrics").1.contains("agenthost_otlp"));

    let to = |endpoint: &Endpoint| format!("[otlp]\nendpoint = \"http://{}\"\n", endpoint.address);
    write(&to(&first));
    let resource = first.last().1.resource_metrics[0].resource.clone().unwrap();
    assert_eq!(labels(&resource.attributes)["service.name"], "mine");
    write(&to(&second));
    second.last();
    let before = first.got.lock().unwrap().len();
    let status = sidecar.until("more pushes", |_| second.got.lock().unwrap().len() > 2);
    assert_eq!(first.got.lock().unwrap().len(), before, "nothing more for the first");
    assert!(status["exporter"]["otlp"]["sent"].as_u64() > Some(1), "what is counted goes on: {status:#}");
    // A reload for another reason leaves alone who asked for it.
    second.be(Manner::Says("HTTP/1.1 429 Later\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"));
    sidecar.until("a wish to be left alone", |status| failed(status, "unavailable") == Some(1));
    let loaded = |status: &Value| status["sidecar"]["config"]["loaded_at"].to_string();
    let before = loaded(&sidecar.status());
    begin_anew(&sidecar);
    sidecar.until("a reload", |status| loaded(status) != before);
    std::thread::sleep(Duration::from_secs(4)); // a new one would push after one
    let status = sidecar.status();
    assert_eq!(failed(&status, "unavailable"), Some(1), "{status:#}");
    second.be(Manner::Takes);
    write(&format!("{}timeout = \"3s\"\n", to(&second)));
    let count = second.got.lock().unwrap().len();
    sidecar.until("pushes by another plan", |_| second.got.lock().unwrap().len() > count);

    write("[otlp]\nendpoint = \"nowhere\"\n");
    let begun = Instant::now();
    while !sidecar.get("/metrics").1.contains("agenthost_config_last_reload_successful 0") {
        assert!(begun.elapsed() < PATIENCE, "the reload is not refused");
        std::thread::sleep(Duration::from_millis(100));
    }
    let before = second.got.lock().unwrap().len();
    sidecar.until("pushes as before", |_| second.got.lock().unwrap().len() > before);
}

/// What is invented, and what looks once, is pushed nowhere: it would stand beside a real host under its name.
#[test]
fn a_demo_pushes_nothing() {
    let (folder, endpoint) = (tempfile::tempdir().unwrap(), Endpoint::start());
    let config = folder.path().join("exporter.toml");
    std::fs::write(&config, plan(endpoint.address, "")).unwrap();
    let mut command = exporter();
    command.arg("demo").env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", endpoint.address));
    let sidecar = Sidecar::spawn_by(command, &config, []);
    let status = sidecar.until("a look", |status| status["exporter"]["cpu_seconds"].is_number());
    assert_eq!(status["exporter"]["otlp"], Value::Null);
}
