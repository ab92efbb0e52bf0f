//! Whom to trust: the certificates of the system, those of a file, or one pinned certificate.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use sha2::{Digest, Sha256};

use super::error::EndpointError;

/// SHA-256 of a certificate in DER form, as PVE shows it: `AA:BB:…`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Reads `AA:BB:…` or plain hexadecimal digits, in any case.
    pub(super) fn parse(text: &str) -> Result<Self, EndpointError> {
        let refused = || EndpointError::Fingerprint { text: text.to_owned() };
        let trimmed = text.trim();
        let digits: String = match trimmed.contains(':') {
            true if trimmed.split(':').all(|pair| pair.len() == 2) => trimmed.replace(':', ""),
            true => return Err(refused()),
            false => trimmed.to_owned(),
        };
        if digits.len() != 64 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(refused());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&digits[2 * index..2 * index + 2], 16).map_err(|_| refused())?;
        }
        Ok(Self(bytes))
    }

    /// The fingerprint of a certificate.
    pub(super) fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str(":")?;
            }
            write!(f, "{byte:02X}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The pinned certificate, and the one that was found instead.
#[derive(Debug)]
pub(super) struct Pin {
    expected: Fingerprint,
    found: Mutex<Option<Fingerprint>>,
    /// Where certificates of a file are trusted as well: both must hold.
    roots: Option<Arc<dyn ServerCertVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Pin {
    /// Expected and found fingerprint, once a wrong one was seen.
    pub(super) fn mismatch(&self) -> Option<(String, String)> {
        let found = *self.found.lock().unwrap_or_else(PoisonError::into_inner);
        found.map(|found| (self.expected.to_string(), found.to_string()))
    }
}

impl ServerCertVerifier for Pin {
    /// The pin alone stands for name, chain and dates: only this very certificate is accepted.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let found = Fingerprint::of(end_entity);
        let right = found == self.expected;
        *self.found.lock().unwrap_or_else(PoisonError::into_inner) = (!right).then_some(found);
        if !right {
            return Err(rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure));
        }
        match &self.roots {
            Some(roots) => roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now),
            None => Ok(ServerCertVerified::assertion()),
        }
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

/// A configuration that accepts one certificate only, and the place where a wrong one is noted; with `ca_file`, that
/// certificate must be trusted by the file as well.
pub(super) fn pinned(url: &str, fingerprint: &str, ca_file: Option<&Path>) -> Result<(ClientConfig, Arc<Pin>), EndpointError> {
    let refused = |path: &Path, source| EndpointError::CaFile { path: path.to_owned(), source };
    let roots = ca_file.map(|path| crate::tls::verifier_of(path).map_err(|source| refused(path, source))).transpose()?;
    let provider = Arc::new(ring::default_provider());
    let expected = Fingerprint::parse(fingerprint)?;
    let pin = Arc::new(Pin { expected, found: Mutex::new(None), roots, provider: Arc::clone(&provider) });
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| EndpointError::Client { url: url.to_owned(), source: source.into() })?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Pin>::clone(&pin))
        .with_no_client_auth();
    Ok((config, pin))
}

/// A configuration that trusts the certificates of a PEM file and no others.
pub(super) fn with_roots(path: &Path) -> Result<ClientConfig, EndpointError> {
    crate::tls::with_file(path).map_err(|source| EndpointError::CaFile { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_in_both_forms_and_shown_as_pve_shows_it() {
        let shown = Fingerprint::of(b"x").to_string();
        assert_eq!(shown.len(), 95);
        for text in [shown.clone(), shown.to_lowercase(), shown.replace(':', ""), format!(" {shown}\n")] {
            assert_eq!(Fingerprint::parse(&text).expect("valid").to_string(), shown);
        }
    }

    #[test]
    fn a_malformed_fingerprint_is_refused_by_its_text() {
        let shown = Fingerprint::of(b"x").to_string();
        let odd = format!("{}:A", &shown[..93]);
        for text in ["", "AA:BB", "not hex", "é", &shown[..94], &shown.replace("0", "g").replace("1", "g"), &odd, &"é".repeat(32)]
        {
            let error = Fingerprint::parse(text).expect_err(text);
            assert!(error.to_string().contains("64 hexadecimal digits"), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("pvesh get /nodes")));
        }
    }
}
