//! What a worker has to know of the cluster: its address, its authority, and how to be sure of both.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Address and authority of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterInfo {
    /// Address of the API server, such as `https://10.0.20.10:6443`.
    pub server: String,
    /// Certificates of its authority, in PEM.
    pub authority: String,
}

/// Why that is not known.
#[derive(Debug, thiserror::Error)]
pub enum ClusterInfoError {
    /// The ConfigMap holds something else.
    #[error("cluster-info in kube-public is not what kubeadm makes: {0}")]
    Content(String),
    /// No certificate.
    #[error("the cluster's authority is no certificate: {0}")]
    Certificate(String),
}

#[derive(Deserialize)]
struct Kubeconfig {
    clusters: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority_data: String,
}

impl ClusterInfo {
    /// Reads the `kubeconfig` of the ConfigMap `cluster-info`.
    ///
    /// # Errors
    /// It is not what kubeadm makes.
    pub fn read(kubeconfig: &str) -> Result<Self, ClusterInfoError> {
        let content = |why: &dyn std::fmt::Display| ClusterInfoError::Content(why.to_string());
        let found: Kubeconfig = serde_saphyr::from_str(kubeconfig).map_err(|error| content(&error))?;
        let one = found.clusters.into_iter().next().ok_or_else(|| content(&"it names no cluster"))?.cluster;
        let authority = STANDARD.decode(one.certificate_authority_data.trim()).map_err(|error| content(&error))?;
        let authority = String::from_utf8(authority).map_err(|error| content(&error))?;
        Ok(Self { server: one.server, authority })
    }

    /// Pins of its certificates: SHA-256 over the public key information, as `kubeadm join` takes them.
    ///
    /// # Errors
    /// The authority is no certificate.
    ///
    /// # Source
    /// `pubkeypin.Hash` of kubeadm: over `RawSubjectPublicKeyInfo`.
    pub fn pins(&self) -> Result<Vec<String>, ClusterInfoError> {
        let certificate = |why: &dyn std::fmt::Display| ClusterInfoError::Certificate(why.to_string());
        let mut pins = Vec::new();
        for pem in x509_parser::pem::Pem::iter_from_buffer(self.authority.as_bytes()) {
            let pem = pem.map_err(|error| certificate(&error))?;
            let parsed = pem.parse_x509().map_err(|error| certificate(&error))?;
            pins.push(format!("sha256:{}", hex(&Sha256::digest(parsed.public_key().raw))));
        }
        if pins.is_empty() { Err(certificate(&"there is none")) } else { Ok(pins) }
    }

    /// The full token of k3s, which pins the authority: by its PEM text, where kubeadm takes the key.
    ///
    /// # Source
    /// `clientaccess.FormatToken` of k3s: `K10` and SHA-256 of the bytes of `/cacerts`, for a self-signed authority.
    pub(crate) fn k3s_token(&self, token: &str) -> String {
        format!("K10{}::{token}", hex(&Sha256::digest(self.authority.as_bytes())))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::PublicKeyData;

    use super::*;

    #[test]
    fn kubeadm_pins_the_key_and_k3s_the_text() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let certificate = rcgen::CertificateParams::new(Vec::new()).expect("good").self_signed(&key).expect("signed");
        let pem = certificate.pem();
        let config = format!(
            "apiVersion: v1\nclusters:\n- cluster:\n    certificate-authority-data: {}\n    server: https://10.0.20.10:6443\n  name: \"\"\n",
            STANDARD.encode(&pem)
        );
        let info = ClusterInfo::read(&config).expect("what kubeadm makes");
        assert_eq!(info.server, "https://10.0.20.10:6443");
        let of_key = hex(&Sha256::digest(key.subject_public_key_info()));
        assert_eq!(info.pins().expect("a certificate"), [format!("sha256:{of_key}")]);
        let of_text = hex(&Sha256::digest(pem.as_bytes()));
        assert_eq!(info.k3s_token("abcdef.0123456789abcdef"), format!("K10{of_text}::abcdef.0123456789abcdef"));
        assert!(ClusterInfo::read("clusters: []").is_err());
        assert!(ClusterInfo { authority: "-----".into(), ..info }.pins().is_err());
    }
}
