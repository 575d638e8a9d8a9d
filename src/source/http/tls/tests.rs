use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, Stream};

use super::super::{Http, Limits};
use super::*;

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn trusting(authority: &Authority) -> Http {
    Http::default().trusting(Trust::only(authority.pem().as_bytes()).unwrap())
}

/// Answers one request over TLS with a certificate for this name; the URL has the loopback address.
fn serve(authority: &Authority, name: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new([name.to_owned()]).unwrap();
    change(&mut params);
    let certificate = params.signed_by(&key, authority).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/x", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
        let mut stream = Stream::new(&mut connection, &mut socket);
        let mut head = [0; 1000];
        if std::io::Read::read(&mut stream, &mut head).is_ok_and(|length| length > 0) {
            let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n7";
            std::io::Write::write_all(&mut stream, answer).unwrap();
        }
    });
    url
}

fn get(http: &Http, url: &str) -> Result<u32, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let answer = runtime.block_on(http.get(url, &[], Limits::within(Duration::from_secs(20))))?;
    Ok(answer.json().unwrap())
}

fn tls(text: &str) -> Result<u32, Error> {
    Err(Error::Tls(text.to_owned()))
}

#[test]
fn an_authority_that_we_were_told_of_counts_and_no_other() {
    let (ours, other) = (authority(), authority());
    assert_eq!(get(&trusting(&ours), &serve(&ours, "127.0.0.1", |_| ())), Ok(7));
    let unknown = tls("its certificate is of no authority that we know");
    assert_eq!(get(&trusting(&other), &serve(&ours, "127.0.0.1", |_| ())), unknown);
    assert_eq!(get(&Http::default(), &serve(&ours, "127.0.0.1", |_| ())), unknown);
}

#[test]
fn each_fault_of_a_certificate_has_its_name() {
    let ours = authority();
    let http = trusting(&ours);
    let other_name = serve(&ours, "secret.example", |_| ());
    assert_eq!(get(&http, &other_name), tls("its certificate is of another name"));
    let expired = serve(&ours, "127.0.0.1", |params| params.not_after = date_time_ymd(2001, 1, 1));
    assert_eq!(get(&http, &expired), tls("its certificate has expired"));
    let early = serve(&ours, "127.0.0.1", |params| params.not_before = date_time_ymd(4000, 1, 1));
    assert_eq!(get(&http, &early), tls("its certificate is not valid yet"));
}

#[test]
fn whoever_speaks_no_tls_is_told_from_whoever_says_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut plain, _) = listener.accept().unwrap();
        let _ = plain.read(&mut [0; 1000]);
        plain.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").unwrap();
        drop(plain);
        drop(listener.accept());
        let silent = listener.accept();
        std::thread::sleep(Duration::from_secs(60));
        drop(silent);
    });
    assert_eq!(get(&Http::default(), &url), tls("answers, but not with TLS"));
    assert_eq!(get(&Http::default(), &url), tls("the connection broke off in the handshake"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let silent = runtime.block_on(Http::default().probe(&url, Duration::from_millis(200)));
    assert_eq!(silent.unwrap_err(), Error::TimedOut { connected: true });
}

#[test]
fn what_is_no_authority_is_refused_unquoted() {
    for (pem, says) in [
        ("", "there is no certificate in it"),
        ("secret", "there is no certificate in it"),
        ("-----BEGIN CERTIFICATE-----\nsecret!\n-----END CERTIFICATE-----\n", "it is not PEM"),
        ("-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n", "cannot be an authority"),
    ] {
        let error = Trust::only(pem.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(says) && !error.contains("secret"), "{error}");
    }
}
