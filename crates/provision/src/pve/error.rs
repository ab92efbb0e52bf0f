//! What can go wrong between us and a Proxmox VE host, and the way out of it.

use std::path::PathBuf;
use std::time::Duration;

use crate::lease::Lost;

/// Cause of an error as text, with the token already taken out.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Pauses before the second and the third attempt of a request.
const PAUSES: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(1)];

/// Why an endpoint cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// The URL is no URL of a PVE host.
    #[error("`{url}` is not a URL of a Proxmox VE host: {why}")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The URL would send the token unencrypted.
    #[error("`{url}` would send the token readable over the network")]
    Plain {
        /// As configured.
        url: String,
    },
    /// The token does not have the form of an API token.
    #[error("the token of {url} is not of the form USER@REALM!ID=SECRET")]
    Token {
        /// The endpoint it is for.
        url: String,
    },
    /// The fingerprint is not a SHA-256 hash.
    #[error("`{text}` is not a SHA-256 fingerprint: 64 hexadecimal digits are expected")]
    Fingerprint {
        /// As configured.
        text: String,
    },
    /// The file of trusted certificates cannot be used.
    #[error("cannot use {path} as a file of trusted certificates")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Cause,
    },
    /// The TLS library refused the settings.
    #[error("cannot set up a connection to {url}")]
    Client {
        /// The endpoint.
        url: String,
        /// Its answer.
        source: Cause,
    },
}

impl EndpointError {
    /// The way out, for the user.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Url { .. } => Some("write the URL as `https://HOST:8006`".to_owned()),
            Self::Plain { .. } => Some("use `https://`; `http://` is accepted for loopback addresses only".to_owned()),
            Self::Token { .. } => {
                Some("`pveum user token list USER@REALM` lists tokens; the secret is shown once, when it is made".to_owned())
            }
            Self::Fingerprint { .. } => Some(FINGERPRINT_HINT.to_owned()),
            Self::CaFile { .. } => Some("the CA of a PVE cluster is /etc/pve/pve-root-ca.pem on any of its hosts".to_owned()),
            Self::Client { .. } => None,
        }
    }
}

const FINGERPRINT_HINT: &str = "on the host, `openssl x509 -in /etc/pve/local/pve-ssl.pem -noout -fingerprint -sha256` or \
    `pvesh get /nodes` shows the fingerprint (with a custom certificate, of /etc/pve/local/pveproxy-ssl.pem)";

/// Why a request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum PveError {
    /// No connection, or it broke.
    #[error("cannot reach {url}")]
    Connect {
        /// The endpoint.
        url: String,
        /// What the network said.
        source: Cause,
    },
    /// No answer in time.
    #[error("{request}: no answer within {seconds} s")]
    Timeout {
        /// What was asked for: method and path.
        request: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The answer is larger than anything that is expected.
    #[error("{request}: the answer is larger than {bytes} bytes")]
    TooLarge {
        /// What was asked for: method and path.
        request: String,
        /// How much is read at most.
        bytes: usize,
    },
    /// The host presents another certificate than the pinned one.
    #[error("{url} has the certificate fingerprint {found}, expected is {expected}")]
    Fingerprint {
        /// The endpoint.
        url: String,
        /// Pinned fingerprint.
        expected: String,
        /// Fingerprint of the certificate it presented.
        found: String,
    },
    /// The certificate is not trusted, or TLS failed otherwise.
    #[error("no secure connection to {url}")]
    Tls {
        /// The endpoint.
        url: String,
        /// What the TLS library said.
        source: Cause,
    },
    /// The token is not accepted (401, after 3 s and without a body).
    #[error("{url} does not accept the token: {reason}")]
    Unauthorized {
        /// The endpoint.
        url: String,
        /// Reason phrase, such as `No ticket`.
        reason: String,
    },
    /// The token may not do this (403).
    #[error("{request}: {message}")]
    Forbidden {
        /// What was asked for: method and path.
        request: String,
        /// Names path and privilege, mostly.
        message: String,
    },
    /// Any other answer that is not a success.
    #[error("{request}: {message} (status {status})")]
    Api {
        /// What was asked for: method and path.
        request: String,
        /// HTTP status.
        status: u16,
        /// Message of the body, or the reason phrase.
        message: String,
    },
    /// The answer is not what the API documents.
    #[error("{request}: unexpected answer")]
    Decode {
        /// What was asked for: method and path.
        request: String,
        /// Where it differs.
        source: Cause,
    },
    /// Nothing may be changed any more.
    #[error(transparent)]
    Lost(#[from] Lost),
}

impl PveError {
    /// The way out, for the user.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Connect { .. } => Some("is the address right, pveproxy running there, and port 8006 open?".to_owned()),
            Self::Timeout { .. } => Some(
                "a storage or host that hangs is a common cause; CAPPLAN_READ_TIMEOUT sets the seconds for one request, \
                 CAPPLAN_OBSERVE_TIMEOUT those for a whole reading"
                    .to_owned(),
            ),
            Self::TooLarge { .. } => {
                Some("is that a Proxmox VE host? CAPPLAN_READ_BYTES sets how much of one answer is read".to_owned())
            }
            Self::Fingerprint { .. } => Some(format!("if the certificate was renewed, pin the new one; {FINGERPRINT_HINT}")),
            Self::Tls { .. } => Some(format!(
                "PVE signs its certificates itself: trust its CA (/etc/pve/pve-root-ca.pem) or pin the fingerprint; {FINGERPRINT_HINT}"
            )),
            Self::Unauthorized { .. } => Some(
                "the token is wrong, expired, or its user is disabled: see `pveum user token list USER@REALM` and `pveum user list`"
                    .to_owned(),
            ),
            Self::Forbidden { .. } => Some(
                "the role PVEAuditor on `/` lets a token read everything: `pveum acl modify / --tokens 'USER@REALM!ID' --roles PVEAuditor` \
                 (and the same with `--users` if privileges of the token are separated)"
                    .to_owned(),
            ),
            Self::Api { status: 595..=599, .. } => {
                Some("pveproxy could not reach the host that has to answer: see its state with `pvecm status`".to_owned())
            }
            Self::Api { .. } | Self::Decode { .. } | Self::Lost(_) => None,
        }
    }

    /// Whether the same request may well succeed a moment later. Sound for reads only.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            // 595 to 599: pveproxy could not reach pvedaemon or the other host (AnyEvent::HTTP).
            Self::Api { status: 429 | 502..=504 | 595..=597 | 599, .. } => true,
            // 501 is "no such method" and 400 "wrong parameter": both stay so.
            Self::Api { status: 400 | 501, .. } => false,
            Self::Api { message, .. } => message.contains("got timeout") || message.contains("VM is locked"),
            Self::Timeout { .. }
            | Self::TooLarge { .. }
            | Self::Fingerprint { .. }
            | Self::Tls { .. }
            | Self::Unauthorized { .. }
            | Self::Forbidden { .. }
            | Self::Decode { .. }
            | Self::Lost(_) => false,
        }
    }

    /// Pause before the next attempt after `attempts` failed ones; `None` is giving up.
    pub(crate) fn pause_after(&self, attempts: usize) -> Option<Duration> {
        PAUSES.get(attempts.checked_sub(1)?).copied().filter(|_| self.is_passing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(status: u16, message: &str) -> PveError {
        PveError::Api { request: "GET /x".into(), status, message: message.into() }
    }

    #[test]
    fn passing_faults_are_retried_twice() {
        let connect = PveError::Connect { url: "u".into(), source: "refused".into() };
        for error in [429, 502, 503, 504, 595, 596, 597, 599].map(|status| api(status, "x")).iter().chain([
            &connect,
            &api(500, "can't lock file '/var/lock/qemu-server/lock-101.conf' - got timeout"),
            &api(500, "VM is locked (backup)"),
        ]) {
            assert_eq!(error.pause_after(1), Some(Duration::from_millis(300)), "{error}");
            assert_eq!(error.pause_after(2), Some(Duration::from_secs(1)), "{error}");
            assert_eq!(error.pause_after(3), None, "{error}");
        }
    }

    #[test]
    fn what_stays_so_is_not_asked_again() {
        let url = || "u".to_owned();
        for error in [
            api(400, "Parameter verification failed."),
            api(400, "got timeout"),
            api(501, "Method 'GET /x' not implemented"),
            api(500, "Configuration file 'nodes/pve1/qemu-server/777.conf' does not exist"),
            PveError::Unauthorized { url: url(), reason: "No ticket".into() },
            PveError::Forbidden { request: "GET /x".into(), message: "got timeout".into() },
            PveError::Fingerprint { url: url(), expected: "A".into(), found: "B".into() },
            PveError::Tls { url: url(), source: "unknown issuer".into() },
            PveError::Timeout { request: "GET /x".into(), seconds: 40 },
            PveError::Decode { request: "GET /x".into(), source: "eof".into() },
        ] {
            assert_eq!(error.pause_after(1), None, "{error}");
        }
    }
}
