//! TLS of our own doors, as a web configuration has it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio_rustls::rustls;

use super::web_config::Tls;

/// TLS with the certificate that the files hold now.
pub struct Doors {
    pub config: Arc<ServerConfig>,
    /// Nobody comes in without a certificate of an authority of ours.
    pub knows_clients: bool,
    /// Another one where other clients may come in.
    pub policy: Vec<u8>,
}

impl Doors {
    /// # Errors
    /// A file cannot be read or is none, or something is wanted that cannot be done: the message names the key.
    pub fn new(tls: &Tls, http2: bool) -> Result<Doors> {
        let provider = Arc::new(provider(tls)?);
        let clients = Clients::of(tls)?;
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions(tls)?);
        let builder = builder.map_err(|_| anyhow!("cipher_suites: none of them is for the versions that are left"))?;
        let builder = builder.with_client_cert_verifier(clients.verifier(tls, &provider)?);
        let chain = certificates("cert", tls.cert.as_deref(), tls.cert_file.as_deref())?;
        let mut config = builder.with_single_cert(chain, key(tls)?).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => anyhow!("the key is not that of the certificate"),
            _ => anyhow!("the certificate or its key cannot be used: only X.509 version 3, and RSA, ECDSA or Ed25519"),
        })?;
        config.ignore_client_order = tls.prefer_server_cipher_suites.unwrap_or(true);
        let protocols: &[&str] = if http2 { &["h2", "http/1.1"] } else { &["http/1.1"] };
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let knows_clients = clients == Clients::Known { mandatory: true };
        Ok(Doors { config: Arc::new(config), knows_clients, policy: clients.policy(tls)? })
    }
}

/// The ciphers and curves that are asked for, of those that there are.
fn provider(tls: &Tls) -> Result<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    if let Some(names) = tls.cipher_suites.as_deref().filter(|names| !names.is_empty()) {
        provider.cipher_suites = ciphers(names, &provider)?;
    }
    if let Some(names) = tls.curve_preferences.as_deref().filter(|names| !names.is_empty()) {
        let group = |name: &String| match name.as_str() {
            "CurveP256" => Ok(rustls::crypto::ring::kx_group::SECP256R1),
            "CurveP384" => Ok(rustls::crypto::ring::kx_group::SECP384R1),
            "X25519" => Ok(rustls::crypto::ring::kx_group::X25519),
            other => bail!("curve_preferences: `{other}` cannot be had: CurveP256, CurveP384 and X25519 can"),
        };
        provider.kx_groups = names.iter().map(group).collect::<Result<_>>()?;
    }
    Ok(provider)
}

/// Those of TLS 1.3 are always there, as in Go.
fn ciphers(names: &[String], provider: &CryptoProvider) -> Result<Vec<rustls::SupportedCipherSuite>> {
    let called = |suite: &rustls::SupportedCipherSuite| {
        suite.suite().as_str().map(|name| name.replacen("TLS13_", "TLS_", 1)).unwrap_or_default()
    };
    let all = &provider.cipher_suites;
    let mut chosen: Vec<_> = all.iter().filter(|suite| suite.tls13().is_some()).copied().collect();
    for name in names {
        let Some(suite) = all.iter().find(|suite| called(suite) == *name) else {
            let can: Vec<_> = all.iter().map(called).collect();
            bail!("cipher_suites: `{name}` cannot be had; those that can: {}", can.join(", "));
        };
        if suite.tls13().is_none() {
            chosen.push(*suite);
        }
    }
    Ok(chosen)
}

fn versions(tls: &Tls) -> Result<Vec<&'static SupportedProtocolVersion>> {
    let rank = |key: &str, name: &Option<String>, default: u8| match name.as_deref() {
        None => Ok(default),
        Some("TLS12") => Ok(12),
        Some("TLS13") => Ok(13),
        Some(old @ ("TLS10" | "TLS11")) => bail!("{key}: `{old}` cannot be had: TLS12 and TLS13 can"),
        Some(other) => bail!("{key}: `{other}` is no version of TLS: TLS12 and TLS13 are"),
    };
    let (min, max) = (rank("min_version", &tls.min_version, 12)?, rank("max_version", &tls.max_version, 13)?);
    ensure!(min <= max, "min_version is above max_version");
    let all = [(12, &rustls::version::TLS12), (13, &rustls::version::TLS13)];
    Ok(all.into_iter().filter(|(rank, _)| (min..=max).contains(rank)).map(|(_, version)| version).collect())
}

/// The text in the file itself, or that of the file it names.
fn pem(what: &str, inline: Option<&str>, file: Option<&Path>) -> Result<Option<Vec<u8>>> {
    match (inline.filter(|text| !text.is_empty()), file) {
        (Some(_), Some(_)) => bail!("`{what}` and `{what}_file` are both there: one of them"),
        (Some(text), None) => Ok(Some(text.as_bytes().to_vec())),
        (None, Some(path)) => {
            Ok(Some(std::fs::read(path).with_context(|| format!("{what}_file: read {}", path.display()))?))
        }
        (None, None) => Ok(None),
    }
}

fn certificates(what: &str, inline: Option<&str>, file: Option<&Path>) -> Result<Vec<CertificateDer<'static>>> {
    let text = pem(what, inline, file)?.with_context(|| format!("`{what}_file` is missing"))?;
    let read = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let chain = read.map_err(|_| anyhow!("{what}: it is not PEM"))?;
    ensure!(!chain.is_empty(), "{what}: there is no certificate in it");
    Ok(chain)
}

fn key(tls: &Tls) -> Result<PrivateKeyDer<'static>> {
    let text = pem("key", tls.key.as_deref(), tls.key_file.as_deref())?.context("`key_file` is missing")?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| anyhow!("key: there is no private key in it"))
}

/// Which certificates clients show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Clients {
    /// None is asked for.
    Nobody,
    /// Of any authority.
    Anyone { mandatory: bool },
    /// Of an authority of `client_ca_file`.
    Known { mandatory: bool },
}

impl Clients {
    fn of(tls: &Tls) -> Result<Clients> {
        let has_authority =
            [tls.client_ca.as_deref().is_some_and(|text| !text.is_empty()), tls.client_ca_file.is_some()];
        let has_authority = has_authority.contains(&true);
        let clients = match tls.client_auth_type.as_deref().unwrap_or_default() {
            "" | "NoClientCert" => Clients::Nobody,
            "RequestClientCert" => Clients::Anyone { mandatory: false },
            "RequireAnyClientCert" | "RequireClientCert" => Clients::Anyone { mandatory: true },
            "VerifyClientCertIfGiven" => Clients::Known { mandatory: false },
            "RequireAndVerifyClientCert" => Clients::Known { mandatory: true },
            other => bail!("client_auth_type: `{other}` is not known"),
        };
        match clients {
            Clients::Known { .. } => ensure!(has_authority, "client_auth_type verifies: `client_ca_file` is missing"),
            Clients::Nobody => {
                ensure!(!has_authority, "client_ca_file is there, and no `client_auth_type` that uses it")
            }
            Clients::Anyone { .. } => {}
        }
        let names = tls.client_allowed_sans.iter().flatten().count();
        ensure!(
            names == 0 || clients == Clients::Known { mandatory: true },
            "client_allowed_sans: only with the client_auth_type RequireAndVerifyClientCert"
        );
        Ok(clients)
    }

    fn policy(self, tls: &Tls) -> Result<Vec<u8>> {
        let authority = pem("client_ca", tls.client_ca.as_deref(), tls.client_ca_file.as_deref())?.unwrap_or_default();
        let names = tls.client_allowed_sans.clone().unwrap_or_default().join(" ");
        Ok([format!("{self:?} {names} ").into_bytes(), authority].concat())
    }

    fn verifier(self, tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>> {
        let mandatory = match self {
            Clients::Nobody => return Ok(WebPkiClientVerifier::no_client_auth()),
            Clients::Anyone { mandatory } => return Ok(Arc::new(Anyone { mandatory, provider: provider.clone() })),
            Clients::Known { mandatory } => mandatory,
        };
        let mut roots = RootCertStore::empty();
        for authority in certificates("client_ca", tls.client_ca.as_deref(), tls.client_ca_file.as_deref())? {
            roots.add(authority).map_err(|_| anyhow!("client_ca: one of its certificates cannot be an authority"))?;
        }
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone());
        let builder = if mandatory { builder } else { builder.allow_unauthenticated() };
        let known = builder.build().map_err(|_| anyhow!("client_ca: it cannot be used"))?;
        match tls.client_allowed_sans.as_deref() {
            None | Some([]) => Ok(known),
            Some(names) => {
                Ok(Arc::new(Named { known, names: names.iter().map(|name| San::of(name)).collect::<Result<_>>()? }))
            }
        }
    }
}

/// Any certificate will do, if its owner shows it.
#[derive(Debug)]
struct Anyone {
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Anyone {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A name that a client's certificate may have.
#[derive(Debug)]
enum San {
    /// A DNS name or an address.
    Host(ServerName<'static>),
    Uri(String),
}

impl San {
    fn of(text: &str) -> Result<San> {
        ensure!(
            !text.contains('@'),
            "client_allowed_sans: `{text}` is a mail address: DNS names, addresses and URIs can be had"
        );
        if text.contains("://") {
            return Ok(San::Uri(text.to_owned()));
        }
        let host = ServerName::try_from(text.to_owned());
        host.map(San::Host).map_err(|_| anyhow!("client_allowed_sans: `{text}` is no name of a certificate"))
    }

    fn is_of(&self, certificate: &webpki::EndEntityCert<'_>) -> bool {
        match self {
            // A wildcard in a certificate names nobody: exactly this name.
            San::Host(ServerName::DnsName(name)) => {
                certificate.valid_dns_names().any(|own| own.eq_ignore_ascii_case(name.as_ref()))
            }
            San::Host(address) => certificate.verify_is_valid_for_subject_name(address).is_ok(),
            San::Uri(uri) => certificate.valid_uri_names().any(|own| own == uri),
        }
    }
}

/// Of a known authority, and with one of these names.
#[derive(Debug)]
struct Named {
    known: Arc<dyn ClientCertVerifier>,
    names: Vec<San>,
}

impl ClientCertVerifier for Named {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.known.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.known.verify_client_cert(end_entity, intermediates, now)?;
        let certificate = webpki::EndEntityCert::try_from(end_entity);
        let certificate = certificate.map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
        match self.names.iter().any(|name| name.is_of(&certificate)) {
            true => Ok(verified),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.known.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.known.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.known.supported_verify_schemes()
    }
}
