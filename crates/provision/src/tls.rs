//! Trust in the certificates of a file: as authorities, or as the server's own.
//!
//! People put a server's self-signed certificate into a "CA file". OpenSSL and Go accept it there;
//! webpki does not, as a certificate that is marked as an authority may not serve. It is accepted
//! here if it is byte for byte the one presented, names the server and is in force: that is a pin.

use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Why certificates cannot be trusted.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

#[derive(Debug)]
struct Trusted {
    certificates: Vec<CertificateDer<'static>>,
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for Trusted {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let by_chain = self.chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        if by_chain.is_err() && self.certificates.iter().any(|one| one.as_ref() == end_entity.as_ref()) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            in_force(end_entity, now)?;
            return Ok(ServerCertVerified::assertion());
        }
        by_chain
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Whether a certificate is in force: the chain's own check did not come that far.
fn in_force(certificate: &CertificateDer<'_>, now: UnixTime) -> Result<(), rustls::Error> {
    let refused = |error| Err(rustls::Error::InvalidCertificate(error));
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return refused(CertificateError::BadEncoding);
    };
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = parsed.validity();
    if now < validity.not_before.timestamp() {
        return refused(CertificateError::NotValidYet);
    }
    if now > validity.not_after.timestamp() {
        return refused(CertificateError::Expired);
    }
    Ok(())
}

/// A verifier that trusts `certificates` and no others.
pub(crate) fn verifier(certificates: Vec<CertificateDer<'static>>) -> Result<Arc<dyn ServerCertVerifier>, Cause> {
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone())?;
    }
    let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
    Ok(Arc::new(Trusted { certificates, chain }))
}

/// A verifier that trusts the certificates of a PEM file and no others.
pub(crate) fn verifier_of(path: &Path) -> Result<Arc<dyn ServerCertVerifier>, Cause> {
    let certificates = CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>()?;
    if certificates.is_empty() {
        return Err("it holds no certificate in PEM form".into());
    }
    verifier(certificates)
}

/// A TLS configuration that trusts the certificates of a PEM file and no others.
pub(crate) fn with_file(path: &Path) -> Result<ClientConfig, Cause> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(verifier_of(path)?)
        .with_no_client_auth())
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
