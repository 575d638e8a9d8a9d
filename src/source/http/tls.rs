//! TLS: whose certificates count, and what a failed handshake is called.

use std::fmt;
use std::sync::{Arc, OnceLock};

use anyhow::{Result, anyhow, ensure};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, ConfigBuilder, RootCertStore, WantsVerifier};

use super::Error;

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
        BUILT_IN.get_or_init(|| Trust::of(builtin_authorities())).clone()
    }

    /// The authorities of a PEM file, and no others.
    ///
    /// # Errors
    /// It has none, or what it has is no certificate.
    pub fn only(pem: &[u8]) -> Result<Trust> {
        Ok(Trust::of(authorities(pem)?))
    }

    /// As `only`, or as the authorities that are built in; we show a certificate of our own, which with its key is PEM.
    ///
    /// # Errors
    /// As `only`; there is no certificate or no key, or one is not of the other.
    pub fn showing(authority: Option<&[u8]>, certificate: &[u8], key: &[u8]) -> Result<Trust> {
        let roots = authority.map(authorities).transpose()?.unwrap_or_else(builtin_authorities);
        let own: Vec<_> = CertificateDer::pem_slice_iter(certificate)
            .collect::<Result<_, _>>()
            .map_err(|_| anyhow!("the client certificate is not PEM"))?;
        ensure!(!own.is_empty(), "there is no client certificate in its file");
        let key =
            PrivateKeyDer::from_pem_slice(key).map_err(|_| anyhow!("there is no key in the file of the client's"))?;
        let config = builder().with_root_certificates(roots).with_client_auth_cert(own, key);
        Ok(Trust::with(config.map_err(|_| anyhow!("the client certificate is not of its key"))?))
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

fn builtin_authorities() -> RootCertStore {
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

fn builder() -> ConfigBuilder<ClientConfig, WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    builder.expect("ring has what TLS 1.2 and 1.3 need")
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
