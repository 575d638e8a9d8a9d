use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc;

use super::*;

fn config(text: &str) -> Config {
    toml::from_str(text).unwrap()
}

fn over(text: &str, variables: &[(&str, &str)]) -> Config {
    let variables: BTreeMap<&str, &str> = variables.iter().copied().collect();
    config(text).over(|name| variables.get(name).map(|value| (*value).to_owned()))
}

fn url(config: &Config) -> Option<String> {
    config.target().unwrap().map(|target| target.url)
}

fn refusal(text: &str) -> String {
    format!("{:#}", config(text).target().err().unwrap())
}

#[test]
fn nothing_is_pushed_without_an_endpoint_and_a_base_gets_the_path() {
    assert_eq!(url(&config("")), None);
    assert_eq!(url(&config("endpoint = \"http://h:4318/\"")).unwrap(), "http://h:4318/v1/metrics");
    assert_eq!(url(&config("endpoint = \"https://h/otlp\"")).unwrap(), "https://h/otlp/v1/metrics");
    let whole = "endpoint = \"http://h:4318\"\nmetrics_endpoint = \"http://h/push?key=1\"";
    assert_eq!(url(&config(whole)).unwrap(), "http://h/push?key=1");
    assert_eq!(config(whole).target().unwrap().unwrap().shown(), "http://h/push");
}

#[test]
fn what_cannot_be_pushed_to_is_refused_in_words() {
    for (text, says) in [
        ("endpoint = \"h:4318\"", "[otlp]: endpoint: "),
        ("endpoint = \"http://u:secret@h\"", "user and password"),
        ("endpoint = \"http://h\"\ninterval = \"10ms\"", "[otlp] interval: must be at least 1s"),
        ("endpoint = \"http://h\"\ntimeout = \"0s\"", "[otlp] timeout"),
        ("endpoint = \"http://h\"\nheaders_file = \"/none\"", "read /none: "),
        ("endpoint = \"http://h\"\ncertificate = \"/none\"", "read /none: "),
        ("endpoint = \"http://h\"\nclient_key = \"/none\"", "belong together"),
        ("endpoint = \"http://u:secret#x@h\"", "is not a URL"),
        ("endpoint = \"http://u:a/secret@h\"", "is not a URL"),
        ("interval = \"10ms\"", "at least 1s"), // though nothing is pushed yet
    ] {
        let text = refusal(text);
        assert!(text.contains(says) && !text.contains("secret"), "{text}");
    }
    for text in ["endpiont = \"x\"", "compression = \"br\"", "interval = 5"] {
        assert!(toml::from_str::<Config>(text).is_err(), "{text}");
    }
}

#[test]
fn what_is_meant_as_a_header_and_is_none_is_not_quoted() {
    for (text, says) in [
        ("[headers]\nContent-Type = \"secret\"", "`content-type` is set by the push itself"),
        ("[headers]\nUser-Agent = \"secret\"", "`user-agent` is set by the push itself"),
        ("[headers]\n\"Authorization: Basic secret\" = \"x\"", "what stands for the name of a header is none"),
        ("[headers]\na = \"secret\\n\"", "the value of the header `a` is none"),
        ("[headers]\na = 5", "headers are a table of"),
        ("headers = \"authorization=Bearer secret\"", "headers are a table of"),
    ] {
        let error = toml::from_str::<Config>(text).unwrap_err();
        assert!(error.message().contains(says) && !error.message().contains("secret"), "{}", error.message());
    }
}

#[test]
fn headers_of_a_file_are_lines_and_count_over_those_of_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("headers");
    let text =
        format!("endpoint = \"http://h\"\nheaders_file = \"{}\"\nheaders = {{a = \"1\", b = \"2\"}}", file.display());
    std::fs::write(&file, "# ours\n\nb: 3\nAuthorization: Bearer x:y\n").unwrap();
    let pairs: Vec<_> = config(&text).target().unwrap().unwrap().headers;
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(pairs, [("a", "1"), ("authorization", "Bearer x:y"), ("b", "3")]);
    for none in ["secret\n", "authorization=Bearer secret:x\n"] {
        std::fs::write(&file, none).unwrap();
        let refusal = refusal(&text);
        assert!(
            refusal.contains("headers: line 1: `name: value` is wanted") && !refusal.contains("secret"),
            "{refusal}"
        );
    }
    std::fs::write(&file, vec![b'#'; 5 * 1024 * 1024]).unwrap();
    assert!(refusal(&text).contains("longer than 4 MiB"), "a part of it is not the whole");
    std::fs::write(&file, "x-tenant: file\n").unwrap();
    let laid = over(&text, &[("OTEL_EXPORTER_OTLP_HEADERS", "X-Tenant=environment")]);
    let headers = laid.target().unwrap().unwrap().headers;
    let tenants: Vec<_> = headers.iter().filter(|(name, _)| name == "x-tenant").map(|(_, value)| value).collect();
    assert_eq!(tenants, ["environment"], "over the file of headers too, whatever its letters");
    assert!(!format!("{:?}", config(&text)).contains("\"1\""), "headers do not show");
}

#[test]
fn the_environment_counts_over_the_file_and_what_is_of_metrics_over_what_is_of_all() {
    let file = "endpoint = \"http://file:1\"\ninterval = \"30s\"\nheaders = {a = \"1\", b = \"2\"}\nresource = {k = \"file\", l = \"file\"}";
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://all:2/base"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a=all"),
        ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "b=x%20y,c=%3D"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1000"),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "2500"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "none"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "5000"),
        ("OTEL_SERVICE_NAME", "mine"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=theirs,k=en%76"),
    ];
    let config = over(file, &environment);
    assert_eq!(config.notes, [""; 0]);
    let target = config.target().unwrap().unwrap();
    assert_eq!(target.url, "http://all:2/base/v1/metrics");
    assert_eq!((target.time, target.interval), (Duration::from_millis(2500), Duration::from_secs(5)));
    assert_eq!(target.packing, Packing::None);
    let headers: Vec<_> = target.headers.iter().map(|(name, value)| format!("{name}={value}")).collect();
    assert_eq!(headers, ["a=1", "b=x y", "c=="]);
    let attributes = config.attributes(&["127.0.0.1:10484".parse().unwrap()]);
    assert_eq!((attributes["service.name"].as_str(), attributes["k"].as_str()), ("mine", "env"));
    assert_eq!(attributes["l"], "file");

    let own = [("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://whole:3/x"), environment[0]];
    assert_eq!(url(&over(file, &own)).unwrap(), "http://whole:3/x");
    let general = over("metrics_endpoint = \"http://file/m\"", &environment[..1]);
    assert_eq!(url(&general).unwrap(), "http://all:2/base/v1/metrics", "the environment, though it is the base");
}

#[test]
fn an_empty_variable_is_none_and_one_that_cannot_be_used_is_noted_and_passed_over() {
    let file = "endpoint = \"http://file:1\"\ntimeout = \"3s\"";
    let mut expected = config(file);
    let names = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_METRICS_EXPORTER"];
    assert!(over(file, &names.map(|name| (name, " "))) == expected);
    let broken = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization: Basic secret=="),
        ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "10s"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "br"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/none"),
        ("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/none"),
        ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
        ("OTEL_METRICS_EXPORTER", "otlp,console"),
    ];
    let mut config = over(file, &broken);
    let notes = std::mem::take(&mut config.notes);
    assert_eq!(notes.len(), broken.len(), "{notes:#?}");
    for ((name, _), _) in broken.iter().zip(&notes) {
        assert!(notes.iter().any(|note| note.starts_with(name)), "{name} in {notes:#?}");
    }
    assert!(!notes.concat().contains("secret"), "{notes:#?}");
    expected.notes = Vec::new();
    assert!(config == expected);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, "no certificate").unwrap();
    for path in [&path, &folder.path().to_owned()] {
        let mut config = over(file, &[("OTEL_EXPORTER_OTLP_CERTIFICATE", path.to_str().unwrap())]);
        assert_eq!(std::mem::take(&mut config.notes).len(), 1, "{}", path.display());
        assert!(config == expected, "{}", path.display());
    }
}

#[test]
fn pushing_is_switched_by_the_standard_variables() {
    let file = "endpoint = \"http://file:1\"";
    let pushed = |text, name, value| url(&over(text, &[(name, value)]));
    assert_eq!(pushed("", "OTEL_METRICS_EXPORTER", "otlp").unwrap(), "http://localhost:4318/v1/metrics");
    assert_eq!(pushed(file, "OTEL_METRICS_EXPORTER", "prometheus, otlp").unwrap(), "http://file:1/v1/metrics");
    for off in ["none", "prometheus"] {
        assert_eq!(pushed(file, "OTEL_METRICS_EXPORTER", off), None);
    }
    assert_eq!(pushed(file, "OTEL_SDK_DISABLED", "True"), None);
    for on in ["1", "yes", "false"] {
        assert!(pushed(file, "OTEL_SDK_DISABLED", on).is_some(), "only the word switches it off: {on}");
    }
}

#[test]
fn what_is_pushed_is_named_as_a_scrape_would_name_it() {
    let attributes = config("").attributes(&["[::1]:0".parse().unwrap(), "0.0.0.0:10484".parse().unwrap()]);
    let name = rustix::system::uname().nodename().to_str().unwrap().to_owned();
    assert_eq!(attributes["service.name"], "agenthost");
    assert_eq!(attributes["service.instance.id"], format!("{name}:10484"));
    assert_eq!(attributes["host.name"], name);
    assert_eq!(config("").attributes(&["[::1]:0".parse().unwrap()])["service.instance.id"], name, "no port is known");
}

/// What an endpoint got, which answers so.
fn pushed(text: &str, answer: &'static str) -> (Result<Bytes, Failed>, Vec<u8>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, told) = mpsc::channel();
    let serving = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut got = Vec::new();
        let mut some = [0; 4096];
        while !is_whole(&got) {
            let length = socket.read(&mut some).unwrap();
            got.extend_from_slice(&some[..length]);
        }
        tell.send(got).unwrap();
        socket.write_all(answer.as_bytes()).unwrap();
    });
    let config = config(&format!("metrics_endpoint = \"http://{address}/m?k=v\"\n{text}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let sent = runtime.block_on(config.target().unwrap().unwrap().send(&Bytes::from_static(b"some facts")));
    serving.join().unwrap();
    (sent, told.recv().unwrap())
}

fn is_whole(got: &[u8]) -> bool {
    let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&got[..end]).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).unwrap().split('\r').next().unwrap();
    got.len() == end + 4 + length.parse::<usize>().unwrap()
}

#[test]
fn a_push_is_a_post_of_protobuf_with_the_headers() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (sent, got) = pushed("compression = \"none\"\nheaders = {x-key = \"secret\"}", answer);
    assert_eq!(sent.unwrap(), "ok");
    let got = String::from_utf8(got).unwrap();
    assert!(got.starts_with("POST /m?k=v HTTP/1.1\r\n"), "{got}");
    assert!(got.contains("content-type: application/x-protobuf\r\n") && got.contains("x-key: secret\r\n"), "{got}");
    assert!(!got.contains("content-encoding") && got.ends_with("\r\n\r\nsome facts"), "{got}");

    let (_, got) = pushed("", answer);
    let end = got.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert!(String::from_utf8_lossy(&got[..end]).contains("content-encoding: gzip\r\n"));
    let mut plain = String::new();
    flate2::read::GzDecoder::new(&got[end..]).read_to_string(&mut plain).unwrap();
    assert_eq!(plain, "some facts");
}

#[test]
fn what_is_not_taken_has_a_reason_and_quotes_nothing() {
    let failed = |answer| pushed("", answer).0.unwrap_err();
    for (answer, reason) in [
        ("HTTP/1.1 401 No\r\nContent-Length: 6\r\n\r\nsecret", Reason::Denied),
        ("HTTP/1.1 400 No\r\nContent-Length: 6\r\n\r\nsecret", Reason::Refused),
        ("HTTP/1.1 302 No\r\nLocation: /secret\r\nContent-Length: 0\r\n\r\n", Reason::Refused),
        ("HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n", Reason::Unavailable),
        ("secret\r\n\r\n", Reason::Broken),
    ] {
        let failed = failed(answer);
        assert_eq!(failed.reason, reason, "{answer}");
        assert!(!failed.text.contains("secret"), "{failed:?}");
    }
    let later = failed("HTTP/1.1 429 Later\r\nRetry-After: 120\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((later.reason, later.retry_after), (Reason::Unavailable, Some(Duration::from_secs(120))));
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let target = config(&format!("endpoint = \"http://{nobody}\"")).target().unwrap().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(target.send(&Bytes::new())).unwrap_err().reason, Reason::Unreachable);
}

#[test]
fn the_tally_goes_on_over_another_endpoint_and_tells_news_once() {
    let pushes = Pushes::default();
    pushes.to(Some("http://one"));
    let failed = Failed { reason: Reason::Timeout, text: "timed out".into(), retry_after: None };
    assert!(pushes.failed(&failed) && !pushes.failed(&failed), "the same is no news");
    assert!(pushes.failed(&Failed { text: "refused".into(), reason: Reason::Unreachable, ..failed.clone() }));
    assert_eq!(pushes.told().last_sent_at, None);
    assert!(pushes.sent(3) && !pushes.sent(0), "the first that is taken ends the failure");
    pushes.to(Some("http://two"));
    let told = pushes.told();
    assert_eq!((told.endpoint.as_deref(), told.sent, told.rejected_points), (Some("http://two"), 2, 3));
    assert_eq!(told.failed, BTreeMap::from([(Reason::Timeout, 2), (Reason::Unreachable, 1)]));
    assert!(told.last_sent_at.is_some() && told.error.is_none());
}
