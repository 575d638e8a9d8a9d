//! TLS of our own doors, as a web configuration has it.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
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
        let mut config = builder.with_cert_resolver(Arc::new(own(chain, key(tls)?, &provider)?));
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

/// What we show to clients. The library's own way would refuse a certificate of X.509 version 1.
fn own(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Result<SingleCertAndKey> {
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|_| anyhow!("the key cannot be used: only RSA, ECDSA and Ed25519"))?;
    let certificate = chain.first().and_then(|first| webpki::anchor_from_trusted_cert(first).ok());
    let certificate = certificate.context("the certificate cannot be used: only X.509 versions 1 and 3")?;
    let public = key.public_key();
    let is_its = |public: &SubjectPublicKeyInfoDer<'_>| {
        within(SEQUENCE, &mut public.as_ref()) == Some(certificate.subject_public_key_info.as_ref())
    };
    ensure!(public.is_none_or(|public| is_its(&public)), "the key is not that of the certificate");
    Ok(CertifiedKey::new(chain, key).into())
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
        let (mandatory, authority) = match self {
            Clients::Nobody => return Ok(WebPkiClientVerifier::no_client_auth()),
            Clients::Anyone { mandatory } => (mandatory, None),
            Clients::Known { mandatory } => (mandatory, Some(Authority::of(tls, provider)?)),
        };
        Ok(Arc::new(Verifier { mandatory, authority, algorithms: provider.signature_verification_algorithms }))
    }
}

/// Looks at what clients show.
#[derive(Debug)]
struct Verifier {
    mandatory: bool,
    /// `None`: any certificate will do, if its owner shows it.
    authority: Option<Authority>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authority.as_ref().map_or(&[], |authority| authority.chains.root_hint_subjects())
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match &self.authority {
            Some(authority) => authority.verify(shown, between, now),
            None => Ok(ClientCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, shown, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, shown, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The certificates of `client_ca_file`.
#[derive(Debug)]
struct Authority {
    /// Follows the chains that lead to one of them.
    chains: Arc<dyn ClientCertVerifier>,
    own: Vec<CertificateDer<'static>>,
    /// One of these a certificate must have; empty: it needs none.
    names: Vec<San>,
}

impl Authority {
    fn of(tls: &Tls, provider: &Arc<CryptoProvider>) -> Result<Authority> {
        let own = certificates("client_ca", tls.client_ca.as_deref(), tls.client_ca_file.as_deref())?;
        let mut roots = RootCertStore::empty();
        for one in &own {
            roots.add(one.clone()).map_err(|_| anyhow!("client_ca: one of its certificates cannot be an authority"))?;
        }
        let chains = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let chains = chains.map_err(|_| anyhow!("client_ca: it cannot be used"))?;
        let names = tls.client_allowed_sans.iter().flatten();
        Ok(Authority { chains, own, names: names.map(|name| San::of(name)).collect::<Result<_>>()? })
    }

    fn verify(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = match self.chains.verify_client_cert(shown, between, now) {
            Err(_) if self.has_itself(shown, now) => ClientCertVerified::assertion(),
            verified => verified?,
        };
        let certificate = webpki::EndEntityCert::try_from(shown);
        let certificate = certificate.map_err(|_| rustls::Error::from(CertificateError::BadEncoding))?;
        match self.names.is_empty() || self.names.iter().any(|name| name.is_of(&certificate)) {
            true => Ok(verified),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    /// Whether the file has this very certificate, and it holds now and for a client: then it needs nobody above it, as
    /// in Go. That it may be an authority itself, as self-signed ones mostly say, is no fault.
    fn has_itself(&self, shown: &CertificateDer<'_>, now: UnixTime) -> bool {
        let Some(own) = self.own.iter().find(|own| *own == shown) else { return false };
        let Ok(certificate) = webpki::EndEntityCert::try_from(own) else { return false };
        // Where nobody is trusted, the fault that is found last: everything that was looked at before is good.
        let alone = certificate.verify_for_usage(&[], &[], &[], now, webpki::KeyUsage::client_auth(), None, None);
        match alone.err() {
            Some(webpki::Error::UnknownIssuer) => true,
            Some(webpki::Error::CaUsedAsEndEntity) => is_for_clients(own).unwrap_or(false), // not looked at yet
            _ => false,
        }
    }
}

/// A name that a client's certificate may have.
#[derive(Debug)]
enum San {
    /// A DNS name or an address.
    Host(ServerName<'static>),
    /// `*.` and a DNS name: of a certificate that has just this.
    Wildcard(String),
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
        let host = ServerName::try_from(text.trim_start_matches("*.").to_owned());
        let san = |host| if text.starts_with("*.") { San::Wildcard(text.to_owned()) } else { San::Host(host) };
        host.map(san).map_err(|_| anyhow!("client_allowed_sans: `{text}` is no name of a certificate"))
    }

    fn is_of(&self, certificate: &webpki::EndEntityCert<'_>) -> bool {
        match self {
            // A wildcard in a certificate names nobody: exactly this name.
            San::Host(ServerName::DnsName(name)) => has(certificate, name.as_ref()),
            San::Wildcard(name) => has(certificate, name),
            San::Host(address) => certificate.verify_is_valid_for_subject_name(address).is_ok(),
            San::Uri(uri) => certificate.valid_uri_names().any(|own| own == uri),
        }
    }
}

fn has(certificate: &webpki::EndEntityCert<'_>, name: &str) -> bool {
    certificate.valid_dns_names().any(|own| own.eq_ignore_ascii_case(name))
}

/// Whether a certificate names no uses, or a client's or any among them; `None` if it cannot be read.
fn is_for_clients(mut certificate: &[u8]) -> Option<bool> {
    const EXTENSIONS: u8 = 0xa3;
    const USES: [u8; 3] = [0x55, 0x1d, 0x25];
    const CLIENT: [u8; 8] = [0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x02];
    const ANY: [u8; 4] = [0x55, 0x1d, 0x25, 0x00];
    let mut signed = within(SEQUENCE, &mut certificate)?;
    let mut body = within(SEQUENCE, &mut signed)?;
    while !body.is_empty() {
        let (EXTENSIONS, mut tagged) = element(&mut body)? else { continue };
        let mut extensions = within(SEQUENCE, &mut tagged)?;
        while !extensions.is_empty() {
            let mut extension = within(SEQUENCE, &mut extensions)?;
            if element(&mut extension)?.1 != USES {
                continue;
            }
            let mut value = &[][..];
            while !extension.is_empty() {
                value = element(&mut extension)?.1; // the last one; before it may stand whether it is critical
            }
            let mut uses = within(SEQUENCE, &mut value)?;
            let mut fits = false;
            while !uses.is_empty() {
                let name = element(&mut uses)?.1;
                fits |= name == CLIENT || name == ANY;
            }
            return Some(fits);
        }
    }
    Some(true)
}

const SEQUENCE: u8 = 0x30;

/// The content of the next element of DER, if it is of this kind.
fn within<'a>(kind: u8, rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    element(rest).filter(|(own, _)| *own == kind).map(|(_, content)| content)
}

/// Kind and content of the next element of DER.
fn element<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let (&[kind, length], mut after) = rest.split_first_chunk()?;
    let mut length = usize::from(length);
    if length >= 0x80 {
        let (digits, behind) = after.split_at_checked(length - 0x80).filter(|(digits, _)| digits.len() <= 4)?;
        length = digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit));
        after = behind;
    }
    let (content, behind) = after.split_at_checked(length)?;
    *rest = behind;
    Some((kind, content))
}
