//! TLS: whose certificates count, and what a failed handshake is called.

use std::fmt;
use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow, ensure};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, CertificateError, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    WantsVerifier,
};

use super::Error;

/// Which authorities count.
#[derive(Debug, Clone, Copy)]
pub enum Roots<'a> {
    BuiltIn,
    /// Those of this PEM.
    Only(&'a [u8]),
    /// None: whoever answers is believed. For this machine alone, or for who asks for it.
    Any,
}

/// What we show of ourselves, in PEM.
#[derive(Clone, Copy)]
pub struct Own<'a> {
    /// Our certificate first.
    pub certificates: &'a [u8],
    pub key: &'a [u8],
}

/// Whose certificates count.
#[derive(Clone)]
pub struct Trust(Arc<ClientConfig>);

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("certificates")
    }
}

impl Trust {
    /// The authorities that are built in, made at the first use.
    pub(super) fn builtin() -> Trust {
        static BUILT_IN: OnceLock<Trust> = OnceLock::new();
        BUILT_IN.get_or_init(|| Trust::of(built_in())).clone()
    }

    /// The authorities of a PEM file, and no others.
    ///
    /// # Errors
    /// It has none, or what it has is no certificate.
    pub fn only(pem: &[u8]) -> Result<Trust> {
        Ok(Trust::of(authorities(pem)?))
    }

    /// The same for who shows a certificate of its own, in PEM, and may take whatever certificate it is shown.
    ///
    /// # Errors
    /// As `only`; or a certificate and its key are none, or do not fit.
    pub fn showing(roots: Roots<'_>, own: Option<Own<'_>>) -> Result<Trust> {
        let builder = match roots {
            Roots::BuiltIn => builder().with_root_certificates(built_in()),
            Roots::Only(pem) => builder().with_root_certificates(authorities(pem)?),
            Roots::Any => builder().dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider()))),
        };
        let config = match own {
            None => builder.with_no_client_auth(),
            Some(Own { certificates, key }) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(certificates).collect();
                let chain = chain.map_err(|_| anyhow!("the certificate is not PEM"))?;
                ensure!(!chain.is_empty(), "there is no certificate in it");
                let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| anyhow!("the key is none in PEM"))?;
                builder.with_client_auth_cert(chain, key).map_err(|_| anyhow!("the key is not of the certificate"))?
            }
        };
        Ok(Trust::with(config))
    }

    fn of(roots: RootCertStore) -> Trust {
        Trust::with(builder().with_root_certificates(roots).with_no_client_auth())
    }

    fn with(mut config: ClientConfig) -> Trust {
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Trust(Arc::new(config))
    }

    /// Shakes hands with this host.
    ///
    /// # Errors
    /// `Tls`, and why.
    pub(super) async fn connect(&self, host: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>, Error> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|_| Error::Tls("no certificate can be of such a name".to_owned()))?;
        let connected = TlsConnector::from(self.0.clone()).connect(name, stream).await;
        connected.map_err(|error| Error::Tls(reason(&error).to_owned()))
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    builder.expect("ring has what TLS 1.2 and 1.3 need")
}

fn built_in() -> RootCertStore {
    RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() }
}

fn authorities(pem: &[u8]) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|_| anyhow!("it is not PEM"))?;
        roots.add(certificate).map_err(|_| anyhow!("one of its certificates cannot be an authority"))?;
    }
    ensure!(!roots.is_empty(), "there is no certificate in it");
    Ok(roots)
}

/// Takes whoever holds the key of the certificate that it shows.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _above: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// In our words: those of the library quote the certificate.
fn reason(error: &std::io::Error) -> &'static str {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidCertificate(fault)) => certificate_fault(fault),
        Some(rustls::Error::InvalidMessage(_)) => "answers, but not with TLS",
        Some(rustls::Error::AlertReceived(_)) => "it refuses our handshake",
        Some(rustls::Error::PeerIncompatible(_)) => "it has no version or cipher that we have",
        Some(_) => "the handshake failed",
        None => "the connection broke off in the handshake",
    }
}

fn certificate_fault(fault: &CertificateError) -> &'static str {
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is of another name"
        }
        // The latter: another authority of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is of no authority that we know"
        }
        _ => "its certificate is not accepted",
    }
}

#[cfg(test)]
mod tests;
