//! Who is let in: TLS, certificates, users, tokens and rates, as curl and a real Prometheus meet them.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use jiff::Timestamp;
use rcgen::{
    CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, PublicKeyData, SanType,
    SigningKey, date_time_ymd,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::binary::{Sidecar, exporter, within_a_second};
use crate::fixture::Root;

const PATIENCE: Duration = Duration::from_secs(30);

/// A host that does not answer fails soon.
const DOWN: &str = "[host]\nurl = \"http://127.0.0.1:1\"\n[checks.service_up]\nfail_for = \"1s\"\n";

/// What a client got.
struct Got {
    /// 0: no answer at all.
    code: u16,
    version: String,
    head: String,
    body: String,
}

/// Files of a test, and a host to look at.
struct Place {
    root: Root,
    folder: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Place {
    fn new() -> Place {
        let mut params = CertificateParams::new([]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // One of the same name as a certificate that it signs looks like that one's own.
        params.distinguished_name.push(DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let place =
            Place { root: Root::with_history(Timestamp::now()), folder: tempfile::tempdir().unwrap(), authority };
        place.write("ca.pem", &place.authority.pem());
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// `NAME.pem` and `NAME.key`, signed by the authority for `localhost`.
    fn certificate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        self.write(&format!("{name}.pem"), &params.signed_by(&key, &self.authority).unwrap().pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    /// The same, signed by itself, and an authority as far as it says.
    fn self_signed(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        change(&mut params);
        self.write(&format!("{name}.pem"), &params.self_signed(&key).unwrap().pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    /// One of X.509 version 1, which has no extensions, signed by itself for `localhost`.
    fn version_1(&self, name: &str) {
        let key = KeyPair::generate().unwrap();
        let by = der(0x30, &[der(0x06, &[&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02]])]); // ECDSA with SHA-256
        let common_name = [der(0x06, &[&[0x55, 0x04, 0x03]]), der(0x0c, &[b"localhost"])];
        let subject = der(0x30, &[der(0x31, &[der(0x30, &common_name)])]);
        let days = der(0x30, &[der(0x17, &[b"200101000000Z"]), der(0x17, &[b"490101000000Z"])]);
        let number = der(0x02, &[&[1]]);
        let signed =
            der(0x30, &[&number, &by, &subject, &days, &subject, &key.subject_public_key_info()].map(|part| &part[..]));
        let signature = der(0x03, &[&[0][..], &key.sign(&signed).unwrap()]);
        let whole = base64::prelude::BASE64_STANDARD.encode(der(0x30, &[signed, by, signature]));
        let lines: Vec<_> = whole.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        let pem = format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"));
        self.write(&format!("{name}.pem"), &pem);
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    /// A sidecar behind this web configuration.
    fn start(&self, web: &str) -> Sidecar {
        self.start_with(web, "", &[])
    }

    fn start_with(&self, web: &str, config: &str, flags: &[&str]) -> Sidecar {
        self.write("web.yml", web);
        let flags = flags.iter().map(|flag| (*flag).to_owned());
        let flags = flags.chain([format!("--web.config.file={}", self.path("web.yml").display())]);
        Sidecar::start_with(self.root.path(), config, &flags.collect::<Vec<_>>())
    }

    /// What curl gets, over TLS if the scheme says so; it trusts the authority of this place alone.
    fn curl(&self, sidecar: &Sidecar, path: &str, arguments: &[&str]) -> Got {
        let url = match path.strip_prefix("https://") {
            Some(path) => format!("https://localhost:{}/{path}", sidecar.address.port()),
            None => format!("http://127.0.0.1:{}{path}", sidecar.address.port()),
        };
        let output = Command::new("curl")
            .args(["-s", "-i", "--noproxy", "*", "--max-time", "30", "-w", "\n%{http_code} %{http_version}"])
            .args(["--cacert".as_ref(), self.path("ca.pem").as_os_str()])
            .args(arguments)
            .arg(url)
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        let (answer, trailer) = said.rsplit_once('\n').unwrap();
        let (code, version) = trailer.split_once(' ').unwrap();
        let answer = answer.replace('\r', "");
        let (head, body) = answer.split_once("\n\n").unwrap_or((&answer, ""));
        let (head, body) = (head.to_ascii_lowercase(), body.to_owned());
        Got { code: code.parse().unwrap(), version: version.to_owned(), head, body }
    }
}

/// An element of DER.
fn der(kind: u8, parts: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let content: Vec<u8> = parts.iter().flat_map(|part| part.as_ref()).copied().collect();
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    let head = match length {
        [0, short @ 0..0x80] => vec![kind, short],
        [0, long] => vec![kind, 0x81, long],
        [high, low] => vec![kind, 0x82, high, low],
    };
    [head, content].concat()
}

fn digest(password: &str) -> String {
    bcrypt::hash(password, 4).unwrap()
}

fn hang_up(sidecar: &Sidecar) {
    kill_process(Pid::from_child(&sidecar.child), Signal::HUP).unwrap();
}

/// Waits for what a reload does.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn users_come_in_and_probes_need_nothing() {
    let place = Place::new();
    let users = format!(
        "basic_auth_users: {{alice: {}, bob: {}, dora: {}}}\n",
        digest("one:two"),
        digest("bob's"),
        digest("new to it")
    );
    let sidecar = place.start_with(&users, DOWN, &["--web.enable-lifecycle"]);
    let paths = [
        ("/", 200),
        ("/metrics", 200),
        ("/status", 200),
        ("/status?section=health", 200),
        ("/status/tasks/task-1", 200),
        ("/nothing", 404),
        ("/debug/pprof/", 403),
        ("/debug/pprof/profile?seconds=1", 403),
        ("/livezz", 404),
    ];
    for (path, code) in paths {
        let got = place.curl(&sidecar, path, &[]);
        assert_eq!(got.code, 401, "{path}");
        assert!(got.head.contains("www-authenticate: basic realm="), "{}", got.head);
        assert_eq!(place.curl(&sidecar, path, &["-u", "alice:one"]).code, 401, "{path}");
        assert_eq!(place.curl(&sidecar, path, &["-u", "alice:one:two"]).code, code, "{path}");
    }
    for wrong in ["alice:bob's", "bob:", "carol:one:two", "Alice:one:two", ":"] {
        assert_eq!(place.curl(&sidecar, "/status", &["-u", wrong]).code, 401, "{wrong}");
    }
    assert_eq!(place.curl(&sidecar, "/-/reload", &["-X", "POST"]).code, 401);
    assert_eq!(place.curl(&sidecar, "/-/reload", &["-X", "POST", "-u", "bob:bob's"]).code, 200);

    until("a failure", || place.curl(&sidecar, "/readyz", &[]).body.contains("[-]service_up"));
    assert_eq!(place.curl(&sidecar, "/readyz", &[]).code, 503);
    for path in ["/livez", "/livez/loop", "/-/healthy", "/-/ready"] {
        assert_eq!(place.curl(&sidecar, path, &[]).code, 200, "{path}");
        assert_eq!(place.curl(&sidecar, path, &["-u", "alice:wrong"]).code, 200, "{path}");
    }
    let terse = place.curl(&sidecar, "/readyz?verbose", &[]).body;
    assert!(terse.contains("[-]service_up") && terse.contains("reason withheld"), "{terse}");
    assert!(!terse.contains("127.0.0.1"), "{terse}");
    for user in ["alice:one:two", "dora:new to it"] {
        let told = place.curl(&sidecar, "/readyz?verbose", &["-u", user]).body;
        assert!(told.contains("fail_for 1s") && !told.contains("withheld"), "{user}: {told}");
    }
    let wrong = place.curl(&sidecar, "/readyz?verbose", &["-u", "alice:wrong"]).body;
    assert!(wrong.contains("reason withheld"), "a wrong password opens nothing: {wrong}");
}

#[test]
fn a_web_configuration_that_cannot_be_meant_keeps_it_from_starting() {
    let place = Place::new();
    place.certificate("server", |_| {});
    place.certificate("other", |_| {});
    place.version_1("old");
    place.write("garbage.pem", "garbage");
    let tls = |more: &str| format!("tls_server_config: {{cert_file: server.pem, key_file: server.key{more}}}\n");
    let cases = [
        ("basic_auth_users: {alice: s3cret}\n".to_owned(), "`alice` has no bcrypt digest"),
        ("basic_auth_user: {}\n".to_owned(), "line 1: `basic_auth_user` is not known: is `basic_auth_users` meant?"),
        ("rate_limit: {interval: 1s}\n".to_owned(), "burst"),
        (tls(", min_version: TLS10"), "min_version: `TLS10` cannot be had"),
        (tls(", max_version: TLS11"), "max_version: `TLS11` cannot be had"),
        (tls(", min_version: TLS13, max_version: TLS12"), "min_version is above max_version"),
        (tls(", cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]"), "`TLS_RSA_WITH_AES_128_CBC_SHA` cannot be had"),
        (tls(", curve_preferences: [CurveP521]"), "`CurveP521` cannot be had"),
        (tls(", client_auth_type: RequireAndVerifyClientCert"), "`client_ca_file` is missing"),
        (tls(", client_ca_file: ca.pem"), "no `client_auth_type` that uses it"),
        (tls(", client_auth_type: Sometimes"), "`Sometimes` is not known"),
        (tls(", client_allowed_sans: [a]"), "only with the client_auth_type"),
        (tls(", key: x"), "`key` and `key_file` are both there"),
        ("tls_server_config: {cert_file: server.pem}\n".to_owned(), "`key_file` is missing"),
        ("tls_server_config: {cert_file: old.pem, key_file: other.key}\n".to_owned(), "not that of the certificate"),
        (
            tls(", client_auth_type: RequireAndVerifyClientCert, client_ca_file: ca.pem, client_allowed_sans: ['*.']"),
            "`*.` is no name",
        ),
        ("tls_server_config: {cert_file: none.pem, key_file: server.key}\n".to_owned(), "none.pem"),
        ("tls_server_config: {cert_file: garbage.pem, key_file: server.key}\n".to_owned(), "no certificate in it"),
        ("tls_server_config: {cert_file: server.pem, key_file: garbage.pem}\n".to_owned(), "no private key in it"),
        ("tls_server_config: {cert_file: server.pem, key_file: other.key}\n".to_owned(), "not that of the certificate"),
    ];
    for (web, why) in cases {
        place.write("web.yml", &web);
        for command in [&[][..], &["config", "check"]] {
            let output = exporter()
                .args(command)
                .arg(format!("--host.root={}", place.root.path().display()))
                .arg(format!("--web.config.file={}", place.path("web.yml").display()))
                .arg("--web.listen-address=127.0.0.1:0")
                .output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{web}: {said}");
            let last = said.lines().last().unwrap();
            assert!(last.contains(why) && last.contains("web.yml") && !said.contains("s3cret"), "{web}: {said}");
        }
    }
}

#[test]
fn over_tls_with_http_2_and_1_and_the_headers_that_are_wanted() {
    let place = Place::new();
    place.certificate("server", |_| {});
    let tls = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n";
    let headers =
        "http_server_config: {headers: {Strict-Transport-Security: max-age=9, X-Frame-Options: sameorigin}}\n";
    let sidecar = place.start_with(&format!("{tls}{headers}"), "", &["--web.enable-lifecycle"]);
    let got = place.curl(&sidecar, "https://metrics", &["--http2"]);
    assert_eq!((got.code, got.version.as_str()), (200, "2"));
    assert!(got.body.contains("agenthost_build_info{") && got.head.contains("strict-transport-security: max-age=9"));
    let got = place.curl(&sidecar, "https://", &["--http1.1"]);
    assert_eq!((got.code, got.version.as_str()), (200, "1.1"));
    assert!(got.head.contains("x-frame-options: sameorigin") && !got.head.contains("x-frame-options: deny"));
    assert!(got.head.contains("content-security-policy: default-src 'none'"), "{}", got.head);
    for version in ["1.2", "1.3"] {
        let got = place.curl(&sidecar, "https://livez", &["--tls-max", version]);
        assert_eq!(got.code, 200, "{version}");
    }
    assert_eq!(place.curl(&sidecar, "https://livez", &["--tls-max", "1.1"]).code, 0);
    assert_eq!(place.curl(&sidecar, "/livez", &[]).code, 0, "nothing in the clear");
    // A stranger's name, and a page's own wish: by both versions alike.
    for version in ["--http1.1", "--http2"] {
        assert_eq!(
            place.curl(&sidecar, "https://metrics", &[version, "-H", "Host: evil.example"]).code,
            421,
            "{version}"
        );
        let origin = format!("Origin: https://localhost:{}", sidecar.address.port());
        let reload =
            |origin: &str| place.curl(&sidecar, "https://-/reload", &[version, "-X", "POST", "-H", origin]).code;
        assert_eq!([reload(&origin), reload("Origin: https://evil.example")], [200, 403], "{version}");
    }
    // Who never shakes hands, or only begins to, keeps nobody waiting.
    let mut others = Vec::new();
    for number in 0..1500 {
        let mut stream = TcpStream::connect(sidecar.address).unwrap();
        if number % 2 == 0 {
            stream.write_all(b"\x16\x03\x01\x02").unwrap();
        }
        others.push(stream);
        if number % 300 == 0 {
            within_a_second(|| assert_eq!(place.curl(&sidecar, "https://livez", &[]).code, 200));
        }
    }
    drop(others);

    let one = "http_server_config: {http2: false}\n";
    let narrow = "tls_server_config: {cert_file: server.pem, key_file: server.key, min_version: TLS13}\n";
    let sidecar = place.start(&format!("{narrow}{one}"));
    assert_eq!(place.curl(&sidecar, "https://livez", &["--http2"]).version, "1.1");
    assert_eq!(place.curl(&sidecar, "https://livez", &["--tls-max", "1.2"]).code, 0);
}

#[test]
fn a_certificate_of_ours_opens_and_no_other() {
    let place = Place::new();
    let stranger = Place::new();
    for name in ["server", "client"] {
        place.certificate(name, |_| {});
    }
    place.certificate("expired", |params| params.not_after = date_time_ymd(2020, 1, 1));
    place.certificate("scraper", |params| {
        params.subject_alt_names = vec![
            SanType::DnsName("prometheus.example".try_into().unwrap()),
            SanType::URI("spiffe://example/prometheus".try_into().unwrap()),
            SanType::IpAddress("192.0.2.7".parse().unwrap()),
        ];
    });
    place.certificate("wild", |params| {
        params.subject_alt_names = vec![SanType::DnsName("*.wild.example".try_into().unwrap())];
    });
    place.version_1("old");
    stranger.certificate("stranger", |_| {});
    for file in ["stranger.pem", "stranger.key"] {
        std::fs::copy(stranger.path(file), place.path(file)).unwrap();
    }
    let web = |kind: &str, more: &str| {
        format!("tls_server_config: {{cert_file: server.pem, key_file: server.key, client_auth_type: {kind}{more}}}\n")
    };
    let known = ", client_ca_file: ca.pem";
    let named = |name: &str| format!("{known}, client_allowed_sans: ['{name}']");
    let cases = [
        (web("RequireAndVerifyClientCert", known), ["client", "scraper", "wild"].as_slice()),
        (web("VerifyClientCertIfGiven", known), &["", "client", "scraper", "wild"]),
        (web("RequireAnyClientCert", ""), &["client", "scraper", "wild", "expired", "stranger"]),
        (web("RequestClientCert", ""), &["", "client", "scraper", "wild", "expired", "stranger"]),
        (web("RequireAndVerifyClientCert", &named("prometheus.example")), &["scraper"]),
        (web("RequireAndVerifyClientCert", &named("spiffe://example/prometheus")), &["scraper"]),
        (web("RequireAndVerifyClientCert", &named("192.0.2.7")), &["scraper"]),
        (web("RequireAndVerifyClientCert", &named("example")), &[]),
        (web("RequireAndVerifyClientCert", &named("a.wild.example")), &[]), // a wildcard is no name of whoever shows it
        (web("RequireAndVerifyClientCert", &named("*.wild.example")), &["wild"]),
        (web("RequireAndVerifyClientCert", &named("*.example")), &[]),
    ];
    for (web, let_in) in cases {
        let sidecar = place.start(&web);
        for client in ["", "client", "scraper", "wild", "expired", "stranger", "old"] {
            let (cert, key) = (format!("{client}.pem"), format!("{client}.key"));
            let shown = ["--cert", cert.as_str(), "--key", key.as_str()];
            let got = place.curl(&sidecar, "https://metrics", if client.is_empty() { &[] } else { &shown });
            assert_eq!(got.code == 200, let_in.contains(&client), "{web}: {client}: {}", got.code);
        }
    }
}

/// Where the file has the very certificate of a client, that one needs no authority above it.
#[test]
fn a_client_may_be_its_own_authority() {
    let place = Place::new();
    for name in ["server", "leaf", "other"] {
        place.certificate(name, |_| {});
    }
    place.self_signed("itself", |_| {});
    place.self_signed("unlisted", |_| {});
    place.self_signed("plain", |params| params.is_ca = IsCa::NoCa);
    place.self_signed("lapsed", |params| params.not_after = date_time_ymd(2020, 1, 1));
    place.self_signed("future", |params| params.not_before = date_time_ymd(4000, 1, 1));
    let uses = |uses: &[ExtendedKeyUsagePurpose]| {
        let uses = uses.to_vec();
        move |params: &mut CertificateParams| params.extended_key_usages = uses
    };
    let (server, client) = (ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth);
    place.self_signed("serving", uses(std::slice::from_ref(&server)));
    place.self_signed("asking", uses(&[server, client]));
    place.self_signed("anything", uses(&[ExtendedKeyUsagePurpose::Any]));
    let listed = ["itself", "plain", "leaf", "lapsed", "future", "serving", "asking", "anything"];
    let read = |name: &&str| std::fs::read_to_string(place.path(&format!("{name}.pem"))).unwrap();
    place.write("clients.pem", &listed.iter().map(read).collect::<String>());
    let sidecar = place.start(
        "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: clients.pem, \
         client_auth_type: RequireAndVerifyClientCert}\n",
    );
    for (client, let_in) in listed.iter().zip([true, true, true, false, false, false, true, true]) {
        let got = place.curl(&sidecar, "https://metrics", &as_client(client).each_ref().map(String::as_str));
        assert_eq!(got.code == 200, let_in, "{client}: {}", got.code);
    }
    for client in ["unlisted", "other"] {
        let got = place.curl(&sidecar, "https://metrics", &as_client(client).each_ref().map(String::as_str));
        assert_eq!(got.code, 0, "{client}");
    }
}

fn as_client(name: &str) -> [String; 4] {
    ["--cert".to_owned(), format!("{name}.pem"), "--key".to_owned(), format!("{name}.key")]
}

#[test]
fn a_certificate_of_version_1_serves() {
    let place = Place::new();
    place.version_1("old");
    let sidecar = place.start("tls_server_config: {cert_file: old.pem, key_file: old.key}\n");
    for version in ["1.2", "1.3"] {
        let got = place.curl(&sidecar, "https://livez", &["--cacert", "old.pem", "--tls-max", version]);
        assert_eq!(got.code, 200, "{version}");
    }
}

#[test]
fn a_token_comes_as_a_header_or_is_exchanged_for_a_cookie() {
    let place = Place::new();
    place.write("token", "s3cret-t0ken\n");
    let config = format!("[web]\nbearer_token_file = \"{}\"\n", place.path("token").display());
    let sidecar = Sidecar::start(place.root.path(), &config);
    let bearer = |token: &str| place.curl(&sidecar, "/status", &["-H", &format!("Authorization: Bearer {token}")]).code;
    assert_eq!([bearer("s3cret-t0ken"), bearer("s3cret"), bearer("")], [200, 401, 401]);
    let got = place.curl(&sidecar, "/", &[]);
    assert!(got.code == 401 && got.head.contains("www-authenticate: bearer"), "{}", got.head);
    assert_eq!(place.curl(&sidecar, "/?token=wrong", &[]).code, 401);

    let got = place.curl(&sidecar, "/?token=s3cret-t0ken", &["-c", "jar"]);
    assert_eq!(got.code, 303);
    assert!(got.head.contains("\nlocation: /\n") && !got.head.contains("secure"), "{}", got.head);
    assert!(["httponly", "samesite=strict", "path=/"].iter().all(|word| got.head.contains(word)), "{}", got.head);
    let got = place.curl(&sidecar, "/?token=s3cret-t0ken", &["-L", "-c", "jar", "-b", "jar"]);
    assert_eq!(got.code, 200);
    assert_eq!(place.curl(&sidecar, "/status", &["-b", "jar"]).code, 200);
    assert!(!std::fs::read_to_string(place.path("jar")).unwrap().contains("s3cret"));
    let got = place.curl(&sidecar, "/status?a=b&token=s3cret-t0ken&section=health", &[]);
    assert!(got.head.contains("\nlocation: /status?a=b&section=health\n"), "{}", got.head);
    let got = place.curl(&sidecar, "///evil.example/?token=s3cret-t0ken", &["--path-as-is"]);
    assert!(got.head.contains("\nlocation: /evil.example/\n"), "{}", got.head);
    // A redirect would not carry the cookie where a link of another site began it.
    let got = place.curl(&sidecar, "/?token=s3cret-t0ken", &["-H", "Sec-Fetch-Site: cross-site"]);
    assert!(got.code == 200 && got.body.contains("url=/\"") && got.head.contains("set-cookie: "), "{}", got.head);

    // Another token: the old one and its cookies are worth nothing.
    place.write("token", "other\n");
    hang_up(&sidecar);
    until("the new token", || bearer("other") == 200);
    assert_eq!(bearer("s3cret-t0ken"), 401);
    assert_eq!(place.curl(&sidecar, "/status", &["-b", "jar"]).code, 401);
    assert_eq!(place.curl(&sidecar, "/livez", &[]).code, 200);
}

#[test]
fn beyond_the_rate_nobody_but_a_probe_is_answered() {
    let place = Place::new();
    let sidecar = place.start_with("rate_limit: {interval: 1h, burst: 3}\n", DOWN, &[]);
    until("a failure", || place.curl(&sidecar, "/readyz", &[]).body.contains("[-]service_up"));
    let codes: Vec<_> = (0..5).map(|_| place.curl(&sidecar, "/metrics", &[]).code).collect();
    assert_eq!(codes, [200, 200, 200, 429, 429]);
    assert!((0..5).all(|_| place.curl(&sidecar, "/livez", &[]).code == 200));
    assert!(place.curl(&sidecar, "/readyz?verbose", &[]).body.contains("fail_for 1s"));
    // A reload gives no tokens back, and guesses are within the rate.
    let users = format!("basic_auth_users: {{alice: {}}}\n", digest("x"));
    place.write("web.yml", &format!("rate_limit: {{interval: 1h, burst: 3}}\n{users}"));
    hang_up(&sidecar);
    until("a lock", || place.curl(&sidecar, "/readyz?verbose", &[]).body.contains("withheld"));
    assert_eq!(place.curl(&sidecar, "/metrics", &["-u", "alice:wrong"]).code, 429);
    assert_eq!(place.curl(&sidecar, "/metrics", &["-u", "alice:x"]).code, 429);
    let told = place.curl(&sidecar, "/readyz?verbose", &["-u", "alice:x"]).body;
    assert!(told.contains("withheld"), "no guess at a probe either: {told}");
}

fn last_reload(place: &Place, sidecar: &Sidecar, path: &str, arguments: &[&str]) -> Option<bool> {
    let text = place.curl(sidecar, path, arguments).body;
    let line = text.lines().find_map(|line| line.strip_prefix("agenthost_config_last_reload_successful "));
    line.map(|value| value == "1")
}

#[test]
fn what_was_locked_stays_locked_and_old_connections_do_not_slip_through() {
    let place = Place::new();
    let users = format!("basic_auth_users: {{alice: {}}}\n", digest("x"));
    let sidecar = place.start("");
    let mut kept = TcpStream::connect(sidecar.address).unwrap();
    kept.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut ask = move || {
        kept.write_all(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = [0; 4096];
        let length = std::io::Read::read(&mut kept, &mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert!(ask().starts_with("HTTP/1.1 200"));

    // Names a certificate that is still to come: refused, and taken once it is there, without a signal.
    let tls = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n";
    place.write("web.yml", &format!("{tls}{users}"));
    hang_up(&sidecar);
    until("a refusal", || last_reload(&place, &sidecar, "/metrics", &[]) == Some(false));
    assert!(ask().starts_with("HTTP/1.1 200"));
    place.certificate("server", |_| {});
    let metrics = || last_reload(&place, &sidecar, "https://metrics", &["-u", "alice:x"]);
    until("TLS", || metrics() == Some(true));
    let answer = ask().to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 421") && answer.contains("connection: close"), "{answer}");

    // Emptied, as a file is while it is written: nothing is opened.
    for less in ["", tls, &users] {
        place.write("web.yml", less);
        hang_up(&sidecar);
        until("a refusal", || metrics() == Some(false));
        assert_eq!(place.curl(&sidecar, "https://metrics", &[]).code, 401);
        place.write("web.yml", &format!("{tls}{users}"));
        hang_up(&sidecar);
        until("it is taken back", || metrics() == Some(true));
    }
}

#[test]
fn what_promtool_accepts_and_we_accept_agree() {
    let place = Place::new();
    place.certificate("server", |_| {});
    let tls = "tls_server_config: {cert_file: server.pem, key_file: server.key, client_ca_file: ca.pem, \
               client_auth_type: RequireAndVerifyClientCert, min_version: TLS12, max_version: TLS13, \
               cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256], \
               curve_preferences: [CurveP256, X25519], prefer_server_cipher_suites: true}\n";
    let http = "http_server_config: {http2: true, headers: {X-Frame-Options: deny, X-XSS-Protection: '0'}}\n";
    let whole = format!("{tls}{http}basic_auth_users: {{alice: {}}}\n", digest("x"));
    let accepts = |text: &str| {
        place.write("web.yml", text);
        let promtool = Command::new("promtool").args(["check", "web-config"]).arg(place.path("web.yml")).output();
        let ours = exporter()
            .args(["config", "check"])
            .arg(format!("--host.root={}", place.root.path().display()))
            .arg(format!("--web.config.file={}", place.path("web.yml").display()))
            .output()
            .unwrap();
        promtool.map(|promtool| (promtool.status.success(), ours.status.success()))
    };
    if accepts("").is_err() {
        return crate::skipped("promtool check web-config", "promtool is not installed");
    }
    place.version_1("old");
    let old = "tls_server_config: {cert_file: old.pem, key_file: old.key, client_ca_file: old.pem, \
               client_auth_type: RequireAndVerifyClientCert}\n";
    for good in ["", &whole, &whole.replace("deny", "sameorigin"), "basic_auth_users: {}\n", old] {
        assert_eq!(accepts(good).unwrap(), (true, true), "{good}");
    }
    for bad in [
        "nonsense: 1\n",
        "tls_server_config: {cert_file: server.pem}\n",
        "tls_server_config: {cert_file: server.pem, key_file: ca.pem}\n",
        &whole.replace("TLS13", "TLS14"),
        &whole.replace("CurveP256", "CurveP255"),
        &whole.replace("AES_128_GCM", "AES_129_GCM"),
        &whole.replace("RequireAndVerify", "Demand"),
        &whole.replace("deny", "perhaps"),
        &whole.replace("X-XSS-Protection", "X-Other"),
    ] {
        assert_eq!(accepts(bad).unwrap(), (false, false), "{bad}");
    }
}

/// Ended when this is dropped.
struct Prometheus {
    child: Child,
    url: String,
    _data: tempfile::TempDir,
}

impl Prometheus {
    /// `None` where there is none.
    fn start(place: &Place, jobs: &str) -> Option<Prometheus> {
        let data = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        place.write("prometheus.yml", &format!("global: {{scrape_interval: 1s}}\nscrape_configs:\n{jobs}"));
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", place.path("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", data.path().display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        Some(Prometheus { child, url: format!("http://127.0.0.1:{port}"), _data: data })
    }

    /// The values of a query by job; `None` until it answers.
    fn query(&self, query: &str) -> Option<Vec<(String, String)>> {
        let url = format!("{}/api/v1/query", self.url);
        let form = format!("query={query}");
        let output = Command::new("curl").args(["-s", "-G", "--data-urlencode", &form, &url]).output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
        let row = |row: &Value| Some((row["metric"]["job"].as_str()?.to_owned(), row["value"][1].as_str()?.to_owned()));
        let mut rows: Vec<_> = answer["data"]["result"].as_array()?.iter().filter_map(row).collect();
        rows.sort();
        Some(rows)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn job(name: &str, address: SocketAddr, more: &str) -> String {
    format!(
        "- {{job_name: {name}, scheme: https, static_configs: [{{targets: ['{address}']}}], \
         tls_config: {{ca_file: ca.pem, server_name: localhost{more}}}}}\n"
    )
}

#[test]
fn a_real_prometheus_scrapes_over_tls() {
    let place = Place::new();
    for name in ["server", "client"] {
        place.certificate(name, |_| {});
    }
    place.certificate("expired", |params| params.not_after = date_time_ymd(2020, 1, 1));
    let tls =
        |name: &str, more: &str| format!("tls_server_config: {{cert_file: {name}.pem, key_file: {name}.key{more}}}\n");
    let users = format!("basic_auth_users: {{prometheus: {}}}\n", digest("s3cret"));
    let basic = place.start(&format!("{}{users}", tls("server", "")));
    let mutual = place.start(&tls("server", ", client_ca_file: ca.pem, client_auth_type: RequireAndVerifyClientCert"));
    let expired = place.start(&tls("expired", ""));
    let password = |password: &str| format!("}}, basic_auth: {{username: prometheus, password: {password}");
    let jobs = [
        job("basic", basic.address, &password("s3cret")),
        job("wrong", basic.address, &password("wrong")),
        job("none", basic.address, ""),
        job("mutual", mutual.address, ", cert_file: client.pem, key_file: client.key"),
        job("nocert", mutual.address, ""),
        job("expired", expired.address, ""),
    ];
    let Some(prometheus) = Prometheus::start(&place, &jobs.concat()) else {
        return crate::skipped("a real Prometheus over TLS", "prometheus is not installed");
    };
    let wanted = [("basic", "1"), ("expired", "0"), ("mutual", "1"), ("nocert", "0"), ("none", "0"), ("wrong", "0")];
    let wanted = wanted.map(|(job, up)| (job.to_owned(), up.to_owned()));
    let begun = Instant::now();
    loop {
        let up = prometheus.query("up");
        if up.as_deref() == Some(&wanted) {
            break;
        }
        assert!(begun.elapsed() < PATIENCE, "{up:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let versions = prometheus.query("agenthost_build_info").unwrap();
    let jobs: Vec<_> = versions.iter().map(|(job, _)| job.as_str()).collect();
    assert_eq!(jobs, ["basic", "mutual"]);
}

/// Certificates, users and a collector's table are exchanged again and again while many scrape.
#[test]
fn renewals_and_reloads_under_load_fail_no_scrape() {
    let place = Place::new();
    for name in ["one", "two"] {
        place
            .certificate(name, |params| params.serial_number = Some(vec![name.len() as u8, name.as_bytes()[0]].into()));
        std::fs::create_dir(place.path(&format!("..{name}"))).unwrap();
        for kind in ["pem", "key"] {
            let to = place.path(&format!("..{name}")).join(format!("tls.{kind}"));
            std::fs::rename(place.path(&format!("{name}.{kind}")), to).unwrap();
        }
    }
    // As Kubernetes swaps a secret: a link that leads to another folder.
    let swap = |to: &str| {
        std::os::unix::fs::symlink(format!("..{to}"), place.path("..new")).unwrap();
        std::fs::rename(place.path("..new"), place.path("data")).unwrap();
    };
    swap("one");
    let web = |more: &str| {
        let tls = "tls_server_config: {cert_file: data/tls.pem, key_file: data/tls.key}\n";
        format!("{tls}basic_auth_users: {{stays: {}{more}}}\n", digest("x"))
    };
    let goes = format!(", goes: {}", digest("y"));
    let sidecar = place.start(&web(&goes));
    let as_user = |user: &str| place.curl(&sidecar, "https://status", &["-u", user]);
    let status = |user: &str| -> Value { serde_json::from_str(&as_user(user).body).unwrap() };
    until("a verdict", || status("stays:x")["collectors"]["messages"]["up"] == true);
    assert_eq!(as_user("goes:y").code, 200);

    let password = "}, basic_auth: {username: stays, password: x";
    let Some(prometheus) = Prometheus::start(&place, &job("kept", sidecar.address, password)) else {
        return crate::skipped("a real Prometheus while certificates are renewed", "prometheus is not installed");
    };
    until("a scrape", || prometheus.query("up").is_some_and(|up| up == [("kept".to_owned(), "1".to_owned())]));
    let observed = || {
        let status = status("stays:x");
        let checks = status["health"]["checks"].as_array().unwrap().clone();
        let one = checks.into_iter().find(|check| check["check"] == "service_up").unwrap();
        (one["observed"].as_u64().unwrap(), one["since"].clone())
    };
    let before = observed();
    let (over, asked, failed) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let failures = Arc::new(std::sync::Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for client in 0..3 {
            let (failures, over, asked, failed, place, sidecar) =
                (failures.clone(), &over, &asked, &failed, &place, &sidecar);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let path = ["https://metrics", "https://status", "https://livez"][client];
                    let got = place.curl(sidecar, path, &["-u", "stays:x"]);
                    asked.fetch_add(1, Ordering::Relaxed);
                    if got.code != 200 {
                        failed.fetch_add(1, Ordering::Relaxed);
                        failures.lock().unwrap().push(got.code);
                    }
                }
            });
        }
        // As many as it takes for some load to meet them.
        let is_enough = |round: usize| round >= 6 && round.is_multiple_of(2) && asked.load(Ordering::Relaxed) > 30;
        for round in (0..).take_while(|&round| !is_enough(round)) {
            swap(["two", "one"][round % 2]);
            place.write("web.yml", &web(if round % 2 == 0 { "" } else { &goes }));
            let table = ["\n[collect.usage]\ninterval = \"2s\"\n", ""][round % 2];
            let text = crate::binary::FAST.replace("[collect.usage]\ninterval = \"1s\"\n", "");
            std::fs::write(place.root.path().join("exporter.toml"), format!("{text}{table}")).unwrap();
            hang_up(&sidecar);
            until("the user that goes or comes", || (as_user("goes:y").code == 200) == (round % 2 == 1));
        }
        over.store(true, Ordering::Relaxed);
    });
    let (asked, failed) = (asked.into_inner(), failed.into_inner());
    assert!(failed == 0, "{failed} of {asked} failed: {:?}", failures.lock().unwrap());
    assert_eq!(status("stays:x")["messages"]["pending_deliveries"], 2);
    // The next look may be a second away.
    until("one observation more", || observed().0 > before.0);
    assert_eq!(observed().1, before.1, "no window was lost");
    let worst = prometheus.query("min_over_time(up[5m])").unwrap();
    assert_eq!(worst, [("kept".to_owned(), "1".to_owned())], "not one scrape failed");

    // Without a signal: the files are looked at.
    swap("two");
    let serial = || {
        let said = Command::new("openssl")
            .args(["s_client", "-connect", &sidecar.address.to_string(), "-servername", "localhost"])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let mut reading = Command::new("openssl")
            .args(["x509", "-noout", "-serial"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        reading.stdin.take().unwrap().write_all(&said.stdout).unwrap();
        String::from_utf8(reading.wait_with_output().unwrap().stdout).unwrap()
    };
    until("the renewed certificate", || serial().trim() == "serial=0374");

    // A broken file changes nothing and is said.
    place.write("web.yml", "basic_auth_users: {stays: s3cret}\n");
    let refused = || {
        let text = place.curl(&sidecar, "https://metrics", &["-u", "stays:x"]).body;
        text.contains("\nagenthost_config_last_reload_successful 0\n")
    };
    until("a refused reload", refused);
    assert_eq!([as_user("goes:y").code, as_user("stays:s3cret").code], [200, 401]);
    assert!(!status("stays:x").to_string().contains("s3cret"));
    place.write("web.yml", &web(""));
    until("mended", || !refused() && as_user("goes:y").code == 401);
}

/// The same digest, and the same time, for a user that there is not: a fraction of it would tell who there is.
#[test]
fn a_user_that_there_is_not_takes_as_long_as_one_that_there_is() {
    let place = Place::new();
    let dear = bcrypt::hash("x", 10).unwrap();
    let sidecar = place.start(&format!("basic_auth_users: {{alice: {dear}}}\n"));
    let time = |user: &str| {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(place.curl(&sidecar, "/status", &["-u", user]).code, 401);
            best = best.min(begun.elapsed());
        }
        best
    };
    let (there, not) = (time("alice:wrong"), time("bob:wrong"));
    let (less, more) = (there.min(not), there.max(not));
    assert!(more < less * 3, "{there:?} and {not:?}");
    assert!(there > time_of_nothing(&place, &sidecar) * 2, "a digest is dear: {there:?}");
}

fn time_of_nothing(place: &Place, sidecar: &Sidecar) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let begun = Instant::now();
        assert_eq!(place.curl(sidecar, "/livez", &[]).code, 200);
        best = best.min(begun.elapsed());
    }
    best
}

#[test]
fn an_open_door_beyond_this_machine_is_warned_of() {
    let place = Place::new();
    place.certificate("server", |_| {});
    let tls = "tls_server_config: {cert_file: server.pem, key_file: server.key}\n";
    let users = format!("basic_auth_users: {{alice: {}}}\n", digest("x"));
    let warned = |web: &str| {
        place.write("web.yml", web);
        let mut child = exporter()
            .args(["--web.listen-address=0.0.0.0:0", "--log.format=json"])
            .arg(format!("--host.root={}", place.root.path().display()))
            .arg(format!("--web.config.file={}", place.path("web.yml").display()))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = std::io::BufReader::new(child.stderr.take().unwrap());
        let lines = std::io::BufRead::lines(log).map_while(Result::ok);
        let said: Vec<String> = lines.take_while(|line| !line.contains("\"message\":\"listening\"")).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        let said = said.join("\n");
        (said.contains("without authentication"), said.contains("without TLS"))
    };
    assert_eq!(warned(""), (true, false));
    assert_eq!(warned(tls), (true, false));
    assert_eq!(warned(&users), (false, true));
    assert_eq!(warned(&format!("{tls}{users}")), (false, false));
}

/// Guesses are compared one at a time, and only so many wait; whoever is known already, and every probe, goes past them.
#[test]
fn too_many_guesses_at_once_are_told_to_come_again() {
    let place = Place::new();
    // So dear that none of the comparisons ends before the test does.
    let dear = digest("x").replace("$04$", "$16$");
    let sidecar = place.start_with(&format!("basic_auth_users: {{alice: {dear}, bob: {}}}\n", digest("y")), DOWN, &[]);
    assert_eq!(place.curl(&sidecar, "/status", &["-u", "bob:y"]).code, 200);
    let guess = |number: usize| {
        let shown = base64::prelude::BASE64_STANDARD.encode(format!("alice:{number}"));
        let mut stream = TcpStream::connect(sidecar.address).unwrap();
        write!(stream, "GET /status HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {shown}\r\n\r\n").unwrap();
        stream
    };
    let mut waiting: Vec<_> = (0..32).map(guess).collect();
    let told = (32..64).find_map(|number| {
        let mut stream = guess(number);
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut answer = [0; 4096];
        match std::io::Read::read(&mut stream, &mut answer) {
            Ok(length) => Some(String::from_utf8_lossy(&answer[..length]).to_ascii_lowercase()),
            Err(_) => {
                waiting.push(stream); // one of those before had not come yet
                None
            }
        }
    });
    let told = told.expect("somebody is told");
    assert!(told.starts_with("http/1.1 503 ") && told.contains("\nretry-after: 5\r"), "{told}");
    assert!(told.ends_with("too many passwords are being compared: come again\n"), "{told}");
    assert_eq!(place.curl(&sidecar, "/status", &["-u", "bob:y"]).code, 200);
    assert_eq!(place.curl(&sidecar, "/livez", &["-u", "alice:z"]).code, 200);
    let terse = place.curl(&sidecar, "/readyz?verbose", &["-u", "alice:z"]);
    assert!([200, 503].contains(&terse.code) && !terse.body.contains("too many"), "{}", terse.body);
}
