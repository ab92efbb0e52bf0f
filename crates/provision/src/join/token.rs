//! Bootstrap tokens, as kubeadm and k3s know them.

use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use capplan_model::ids::NodeName;
use capplan_model::policy::Distribution;

use crate::secret::Secret;

/// Letters of a token.
///
/// # Source
/// `BootstrapTokenPattern` of `k8s.io/cluster-bootstrap/token/api`: `[a-z0-9]{6}\.[a-z0-9]{16}`.
const LETTERS: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
const ID: usize = 6;
const SECRET: usize = 16;

/// A bootstrap token. Its id follows from the plan and the worker, so that it is found again after a crash;
/// its secret is random and known to this process alone.
#[derive(Clone, Debug)]
pub struct Token {
    /// The public half.
    pub id: String,
    /// `id.secret`.
    pub full: Secret,
    secret: Secret,
}

impl Token {
    /// The id of a worker's token in a plan.
    pub fn id(plan: &str, worker: &NodeName) -> String {
        let digest = Sha256::digest(format!("{plan}\0{worker}"));
        digest.iter().take(ID).map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()])).collect()
    }

    /// Makes one.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn make(plan: &str, worker: &NodeName) -> Result<Self, getrandom::Error> {
        let id = Self::id(plan, worker);
        let mut secret = String::new();
        while secret.len() < SECRET {
            let mut bytes = [0u8; SECRET];
            getrandom::fill(&mut bytes)?;
            // Each letter as likely as another: 252 is the largest multiple of 36 in a byte.
            let fair = bytes.iter().filter(|byte| **byte < 252).map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()]);
            secret.extend(fair.take(SECRET - secret.len()).map(char::from));
        }
        Ok(Self { full: Secret::new(&format!("{id}.{secret}")), secret: Secret::new(&secret), id })
    }

    /// Name of its Secret in `kube-system`.
    pub fn name(id: &str) -> String {
        format!("bootstrap-token-{id}")
    }

    /// The Secret that the API server takes it from.
    ///
    /// # Source
    /// Kubernetes documentation, "Authenticating with Bootstrap Tokens"; the group of k3s is the default one of
    /// its `k3s token create`.
    pub(crate) fn object(&self, worker: &NodeName, distribution: Distribution, until: Timestamp) -> Value {
        let group = if distribution == Distribution::K3s { "k3s" } else { "kubeadm" };
        json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "bootstrap.kubernetes.io/token",
            "metadata": { "name": Self::name(&self.id), "namespace": "kube-system" },
            "stringData": {
                "token-id": self.id,
                "token-secret": self.secret.expose(),
                "expiration": until.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "usage-bootstrap-authentication": "true",
                "usage-bootstrap-signing": "true",
                "auth-extra-groups": format!("system:bootstrappers:{group}:default-node-token"),
                "description": format!("made by capplan for {worker}"),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_form_that_kubeadm_takes_and_is_never_the_same() {
        let worker = NodeName::from("w9");
        let (one, other) = (Token::make("p", &worker).expect("random"), Token::make("p", &worker).expect("random"));
        assert_eq!(one.id, other.id);
        assert_ne!(one.full.expose(), other.full.expose());
        assert_ne!(Token::id("q", &worker), one.id);
        let (id, secret) = one.full.expose().split_once('.').expect("a dot");
        let good = |text: &str, length| text.len() == length && text.bytes().all(|byte| LETTERS.contains(&byte));
        assert!(good(id, 6) && good(secret, 16), "{id} {}", secret.len());
        assert!(!format!("{one:?}").contains(secret));
    }
}
