//! The client of one Proxmox VE endpoint. It reads: there is no method that could change anything.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::{Cause, EndpointError, PveError};
use super::tls::{self, Pin};
use crate::lease::LONGEST_CHANGE;
use crate::limits::{Cut, ReadLimits};
use crate::secret::Secret;

/// Longest wait for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Root of the API.
const ROOT: &str = "/api2/json";
/// Longest message of PVE that is passed on; it may quote whole commands.
const LONGEST_MESSAGE: usize = 400;

/// Where and how to reach a PVE host or cluster.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Name for the reports; empty takes the name of the PVE cluster.
    pub name: String,
    /// `https://HOST:8006`, with or without `/api2/json`.
    pub url: String,
    /// API token: `USER@REALM!ID=SECRET`.
    pub token: Secret,
    /// Whose certificate is accepted.
    pub trust: Trust,
    /// Bounds on what is read.
    pub limits: ReadLimits,
}

/// Whose certificate is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Certificates that the system trusts.
    System,
    /// Certificates signed by one in this PEM file, and no others.
    CaFile(PathBuf),
    /// The one certificate with this SHA-256 fingerprint: `AA:BB:…` or plain hexadecimal digits.
    Fingerprint(String),
    /// The one certificate with this fingerprint, which a certificate of this file must have signed.
    Both {
        /// SHA-256 fingerprint.
        fingerprint: String,
        /// PEM file.
        ca_file: PathBuf,
    },
}

/// A client that reads, and has no method that changes anything.
#[derive(Debug)]
pub struct Reader {
    name: String,
    base: String,
    token: Secret,
    /// The part of the token after `=`, which alone is as good as the whole.
    key: Secret,
    client: Client,
    pin: Option<Arc<Pin>>,
    limits: ReadLimits,
    /// When the reading that this is part of has to be over.
    deadline: Option<Instant>,
}

impl Reader {
    /// Prepares the client; nothing is sent yet.
    ///
    /// # Errors
    /// [`EndpointError`] if URL, token, fingerprint or file of certificates cannot be used.
    pub fn new(endpoint: Endpoint) -> Result<Self, EndpointError> {
        let Endpoint { name, url, token, trust, limits } = endpoint;
        let base = base(&url)?;
        let header = authorization(&token).ok_or_else(|| EndpointError::Token { url: url.clone() })?;
        let key = Secret::new(token.expose().rsplit('=').next().unwrap_or_default());
        let mut builder = Client::builder()
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            // PVE never redirects; a redirect would carry the token elsewhere.
            .redirect(Policy::none())
            .user_agent(concat!("capplan/", env!("CARGO_PKG_VERSION")))
            .default_headers(HeaderMap::from_iter([(AUTHORIZATION, header)]));
        if base.starts_with("http://") {
            // A proxy would see the token.
            builder = builder.no_proxy();
        }
        let mut pin = None;
        builder = match trust {
            Trust::System => {
                // The system's trust is reqwest's default path, which takes the provider of the process.
                drop(rustls::crypto::ring::default_provider().install_default());
                builder
            }
            Trust::CaFile(path) => builder.tls_backend_preconfigured(tls::with_roots(&path)?),
            Trust::Fingerprint(text) => {
                let (config, pinned) = tls::pinned(&url, &text, None)?;
                pin = Some(pinned);
                builder.tls_backend_preconfigured(config)
            }
            Trust::Both { fingerprint, ca_file } => {
                let (config, pinned) = tls::pinned(&url, &fingerprint, Some(&ca_file))?;
                pin = Some(pinned);
                builder.tls_backend_preconfigured(config)
            }
        };
        let client = builder.build().map_err(|error| EndpointError::Client { url: url.clone(), source: chain(&error).into() })?;
        Ok(Self { name, base, token, key, client, pin, limits, deadline: None })
    }

    /// The same for one reading, all of which has to be over by then.
    #[must_use]
    pub(crate) fn until(self, deadline: Instant) -> Self {
        Self { deadline: Some(deadline), ..self }
    }

    /// Name given in the configuration; may be empty.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads `path` (such as `/nodes`, segments already encoded) and unwraps `{"data": …}`.
    ///
    /// Faults that pass, such as a lost connection or a lock, are tried up to three times in all.
    ///
    /// # Errors
    /// [`PveError`]; never with the token in it.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, PveError> {
        let mut attempts = 0;
        let body = loop {
            attempts += 1;
            match self.attempt(path, query).await {
                Ok(body) => break body,
                Err(error) => match error.pause_after(attempts).filter(|pause| self.limits.left(self.deadline) > *pause) {
                    Some(pause) => {
                        tracing::debug!(path, attempts, error = %error, "trying again");
                        tokio::time::sleep(pause).await;
                    }
                    None => return Err(error),
                },
            }
        };
        let envelope: Envelope<T> = serde_json::from_slice(&body)
            .map_err(|error| PveError::Decode { request: format!("GET {path}"), source: self.cause(&error.to_string()) })?;
        Ok(envelope.data)
    }

    async fn attempt(&self, path: &str, query: &[(&str, &str)]) -> Result<Vec<u8>, PveError> {
        let mut request = self.request(Method::GET, path);
        if !query.is_empty() {
            request = request.query(query);
        }
        self.answer(&format!("GET {path}"), request).await
    }

    /// Prepares a request.
    pub(super) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base))
    }

    /// Sends a request once; `what` is it in words.
    async fn answer(&self, what: &str, request: RequestBuilder) -> Result<Vec<u8>, PveError> {
        self.answer_within(what, request, self.limits.left(self.deadline)).await
    }

    /// Sends a change once: it is not waited for longer than the lease allows.
    pub(super) async fn change(&self, what: &str, request: RequestBuilder) -> Result<Vec<u8>, PveError> {
        self.answer_within(what, request, self.limits.request.min(Duration::from_secs(LONGEST_CHANGE))).await
    }

    /// `limit` is for the whole answer: its head and its body.
    async fn answer_within(&self, what: &str, request: RequestBuilder, limit: Duration) -> Result<Vec<u8>, PveError> {
        let failed = |error: reqwest::Error| self.transport(what, &error, limit);
        let mut response = request.timeout(limit).send().await.map_err(failed)?;
        let status = response.status().as_u16();
        let reason = reason(&response);
        let body = self.limits.body(&mut response).await.map_err(|cut| match cut {
            Cut::Transport(error) => failed(error),
            Cut::TooLarge => PveError::TooLarge { request: what.to_owned(), bytes: self.limits.bytes },
        });
        if status == 401 {
            return Err(PveError::Unauthorized { url: self.base.clone(), reason: self.line(&reason) });
        }
        if !(200..300).contains(&status) {
            // The message may have been lost with the connection: the reason phrase still says it.
            let message = self.line(&message(&body.unwrap_or_default(), &reason));
            let request = what.to_owned();
            return Err(match status {
                403 => PveError::Forbidden { request, message },
                _ => PveError::Api { request, status, message },
            });
        }
        body
    }

    fn transport(&self, what: &str, error: &reqwest::Error, limit: Duration) -> PveError {
        let url = self.base.clone();
        if let Some((expected, found)) = self.pin.as_ref().and_then(|pin| pin.mismatch()).filter(|_| error.is_connect()) {
            return PveError::Fingerprint { url, expected, found };
        }
        let source = self.cause(&chain(error));
        if is_tls(error) {
            PveError::Tls { url, source }
        } else if error.is_timeout() && !error.is_connect() {
            PveError::Timeout { request: what.to_owned(), seconds: limit.as_secs() }
        } else {
            PveError::Connect { url, source }
        }
    }

    fn cause(&self, text: &str) -> Cause {
        self.line(text).into()
    }

    /// One line without the token and without control characters.
    fn line(&self, text: &str) -> String {
        let text = self.key.redact(&self.token.redact(text));
        let line: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()).collect();
        let line = line.join(" ");
        match line.char_indices().nth(LONGEST_MESSAGE) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }
}

/// What every good answer is in.
#[derive(Deserialize)]
pub(super) struct Envelope<T> {
    pub(super) data: T,
}

/// Encodes one segment of a path: PVE's UPIDs and volumes hold `:`, `/`, `@` and `!`.
pub(super) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The root of the API, from a URL with or without it.
fn base(url: &str) -> Result<String, EndpointError> {
    let refused = |why: &str| EndpointError::Url { url: url.to_owned(), why: why.to_owned() };
    let parsed = Url::parse(url.trim()).map_err(|error| refused(&error.to_string()))?;
    let host = parsed.host_str().unwrap_or_default();
    if !parsed.username().is_empty() || parsed.password().is_some() {
        // Not quoted: it may be a password.
        return Err(EndpointError::Url { url: host.to_owned(), why: "it holds a user or password".to_owned() });
    }
    match parsed.scheme() {
        "https" => {}
        "http" if is_loopback(host) => {}
        "http" => return Err(EndpointError::Plain { url: url.to_owned() }),
        _ => return Err(refused("it does not start with https://")),
    }
    if !matches!(parsed.path().trim_end_matches('/'), "" | ROOT) || parsed.query().is_some() || parsed.fragment().is_some() {
        return Err(refused("nothing but /api2/json may follow the port"));
    }
    Ok(format!("{}{ROOT}", parsed.origin().ascii_serialization()))
}

/// Whether a host of a URL is this machine: what is sent there stays here.
pub(crate) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn authorization(token: &Secret) -> Option<HeaderValue> {
    let text = token.expose();
    let text = text.strip_prefix("PVEAPIToken=").unwrap_or(text);
    let (user, rest) = text.split_once('!')?;
    let (id, key) = rest.split_once('=')?;
    if !user.contains('@') || id.is_empty() || key.is_empty() {
        return None;
    }
    let mut header = HeaderValue::from_str(&format!("PVEAPIToken={text}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// The reason phrase, which is where PVE before 8.4 puts the whole message.
fn reason(response: &Response) -> String {
    match response.extensions().get::<hyper::ext::ReasonPhrase>() {
        Some(reason) => String::from_utf8_lossy(reason.as_bytes()).into_owned(),
        None => response.status().canonical_reason().unwrap_or("no reason given").to_owned(),
    }
}

/// The message of an error's body, else its reason phrase, and what is wrong with which parameter.
fn message(body: &[u8], reason: &str) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let mut message =
        body.get("message").and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty()).unwrap_or(reason).to_owned();
    if let Some(errors) = body.get("errors").and_then(Value::as_object) {
        for (parameter, error) in errors {
            message.push_str(&format!(" {parameter}: {}", error.as_str().unwrap_or("wrong").trim()));
        }
    }
    message
}

/// What is behind an error of the HTTP client, as one text: its own words only repeat the URL.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = String::new();
    for error in causes(error.source().unwrap_or(error)) {
        let next = error.to_string();
        // Some repeat their cause.
        if !text.contains(&next) {
            text = if text.is_empty() { next } else { format!("{text}: {next}") };
        }
    }
    text
}

fn causes<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn is_tls(error: &reqwest::Error) -> bool {
    causes(error).any(|cause| {
        // An `io::Error` stands for what it wraps, and names only the cause of that as its own.
        let mut inner = Some(cause);
        while let Some(one) = inner {
            if one.is::<rustls::Error>() {
                return true;
            }
            let io = one.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
            inner = io.map(|one| -> &(dyn std::error::Error + 'static) { one });
        }
        false
    })
}

#[cfg(test)]
mod tests;
