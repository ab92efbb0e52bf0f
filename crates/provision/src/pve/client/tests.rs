//! The client against servers of our own on loopback.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::pve::tls::Fingerprint;

const TOKEN: &str = "capplan@pve!ci=0b1c2d3e-very-secret";
const KEY: &str = "0b1c2d3e-very-secret";

/// Answers one request per connection with the given texts in turn, the last one for ever; the
/// requests' heads come out of the channel.
fn serve(answers: Vec<String>) -> (String, Receiver<String>) {
    serve_with(answers, "http", Some)
}

fn serve_with<S: Read + Write>(
    answers: Vec<String>,
    scheme: &str,
    wrap: impl Fn(std::net::TcpStream) -> Option<S> + Send + 'static,
) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("{scheme}://{}", listener.local_addr().expect("bound"));
    let (sender, requests) = channel();
    std::thread::spawn(move || {
        let mut answers = answers.into_iter();
        let mut answer = answers.next().expect("one answer at least");
        for stream in listener.incoming() {
            let Some(stream) = stream.ok().and_then(&wrap) else { continue };
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            // A client that refuses the certificate goes away here.
            while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).is_ok_and(|read| read > 0) {}
            if !head.ends_with("\r\n\r\n") {
                continue;
            }
            let sent = stream.get_mut().write_all(answer.as_bytes()).and_then(|()| stream.get_mut().flush());
            if sent.is_err() || sender.send(head).is_err() {
                return;
            }
            answer = answers.next().unwrap_or(answer);
        }
    });
    (url, requests)
}

fn answer(status: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        name: String::new(),
        url: url.to_owned(),
        token: Secret::new(TOKEN),
        trust: Trust::System,
        limits: ReadLimits::default(),
    }
}

fn reader(url: &str) -> Reader {
    Reader::new(endpoint(url)).expect("a valid endpoint")
}

fn shown(error: &PveError) -> String {
    let display: Vec<String> = causes(error).map(ToString::to_string).collect();
    format!("{} {error:?} {:?}", display.join(": "), error.hint())
}

#[tokio::test]
async fn a_get_carries_the_token_and_nothing_but_gets_is_sent() {
    let (url, requests) = serve(vec![answer("200 OK", r#"{"data":{"version":"9.2.11"}}"#)]);
    let data: Value =
        reader(&format!("{url}/api2/json/")).get("/version", &[("current", "1"), ("x", "a b")]).await.expect("answered");
    assert_eq!(data["version"], "9.2.11");
    let head = requests.recv().expect("one request");
    assert!(head.starts_with("GET /api2/json/version?current=1&x=a+b HTTP/1.1\r\n"), "{head}");
    let head = head.to_lowercase();
    assert!(head.contains(&format!("authorization: pveapitoken={}\r\n", TOKEN.to_lowercase())), "{head}");
    assert!(head.contains(&format!("user-agent: capplan/{}\r\n", env!("CARGO_PKG_VERSION"))), "{head}");
}

#[tokio::test]
async fn null_is_an_answer() {
    let (url, _requests) = serve(vec![answer("200 OK", r#"{"data":null}"#)]);
    assert_eq!(reader(&url).get::<Option<u8>>("/x", &[]).await.expect("null"), None);
    reader(&url).get::<()>("/x", &[]).await.expect("null");
    let error = reader(&url).get::<Vec<u8>>("/x", &[]).await.expect_err("null is no list");
    assert!(matches!(error, PveError::Decode { .. }), "{error:?}");
}

#[tokio::test]
async fn an_empty_401_says_that_the_token_is_not_accepted() {
    let (url, requests) = serve(vec![answer("401 No ticket", "")]);
    let error = reader(&url).get::<Value>("/nodes", &[]).await.expect_err("401");
    assert!(matches!(&error, PveError::Unauthorized { reason, .. } if reason == "No ticket"), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("disabled")));
    assert_eq!(requests.iter().take(1).count() + requests.try_iter().count(), 1, "asked once only");
}

#[tokio::test]
async fn a_message_is_read_from_the_reason_phrase_where_the_body_has_none() {
    let (url, _requests) = serve(vec![answer("403 Permission check failed (/, Sys.Audit)", "")]);
    let error = reader(&url).get::<Value>("/cluster/status", &[]).await.expect_err("403");
    assert_eq!(error.to_string(), "GET /cluster/status: Permission check failed (/, Sys.Audit)");
    let body = r#"{"data":null,"message":"Parameter verification failed.\n","errors":{"timeframe":"property is missing\n"}}"#;
    let (url, _requests) = serve(vec![answer("400 Parameter verification failed.", body)]);
    let error = reader(&url).get::<Value>("/x", &[]).await.expect_err("400");
    assert_eq!(error.to_string(), "GET /x: Parameter verification failed. timeframe: property is missing (status 400)");
}

#[tokio::test]
async fn a_596_is_tried_again() {
    let (url, requests) = serve(vec![answer("596 Connection timed out", ""), answer("200 OK", r#"{"data":7}"#)]);
    assert_eq!(reader(&url).get::<u8>("/x", &[]).await.expect("the second answer"), 7);
    assert_eq!(requests.iter().take(2).count(), 2);
}

#[tokio::test]
async fn a_lock_that_stays_is_given_up_after_three_attempts() {
    let (url, requests) = serve(vec![answer("500 can't lock file 'x' - got timeout", "")]);
    let error = reader(&url).get::<Value>("/x", &[]).await.expect_err("locked");
    assert_eq!(error.to_string(), "GET /x: can't lock file 'x' - got timeout (status 500)");
    assert_eq!(requests.iter().take(3).count() + requests.try_iter().count(), 3);
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let moved = "HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned();
    let (url, _requests) = serve(vec![moved, answer("200 OK", r#"{"data":1}"#)]);
    let error = reader(&url).get::<Value>("/x", &[]).await.expect_err("not followed");
    assert!(matches!(error, PveError::Api { status: 302, .. }), "{error:?}");
}

#[tokio::test]
async fn no_error_shows_the_token() {
    let echo = format!(r#"{{"data":null,"message":"no {TOKEN} or {KEY}","errors":{{"a":"{KEY}"}}}}"#);
    let secret = format!(r#"{{"data":"{KEY}"}}"#);
    for (status, body) in [
        ("401 No ticket", ""),
        (format!("401 bad {TOKEN}").as_str(), ""),
        ("403 no", echo.as_str()),
        ("500 no", echo.as_str()),
        (format!("501 no {KEY}").as_str(), ""),
        ("200 OK", secret.as_str()),
        ("200 OK", "nonsense"),
    ] {
        let (url, _requests) = serve(vec![answer(status, body)]);
        let reader = reader(&url);
        let error = reader.get::<u8>("/x", &[]).await.expect_err(status);
        assert!(!shown(&error).contains(KEY), "{error:?}");
        assert!(!format!("{reader:?}").contains(KEY), "{reader:?}");
    }
    let port = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("bound");
    let error = reader(&format!("http://{port}")).get::<u8>("/x", &[]).await.expect_err("nobody listens");
    assert!(matches!(error, PveError::Connect { .. }), "{error:?}");
    assert!(shown(&error).to_lowercase().contains("refused") && !shown(&error).contains(KEY), "{error:?}");
}

#[test]
fn an_endpoint_that_cannot_be_right_is_refused() {
    for url in ["http://192.0.2.1:8006", "http://pve.example:8006", "http://127.0.0.1.example", "http://localhost.example"] {
        let error = Reader::new(endpoint(url)).expect_err(url);
        assert!(matches!(error, EndpointError::Plain { .. }), "{error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("loopback")));
    }
    for url in ["", "pve:8006", "ftp://pve", "https://pve:8006/elsewhere", "https://pve:8006/?a=b", "https://"] {
        assert!(matches!(Reader::new(endpoint(url)), Err(EndpointError::Url { .. })), "{url}");
    }
    let error = Reader::new(endpoint("https://root:hunter2@pve:8006")).expect_err("a password");
    assert!(!format!("{error} {error:?}").contains("hunter2"));
    for url in ["http://localhost:1", "http://127.0.0.2:1", "http://[::1]:1", "https://pve:8006", "https://pve:8006/api2/json/"] {
        Reader::new(endpoint(url)).expect(url);
    }
    for token in ["", "root@pam", "root@pam!x", "root!x=y", "root@pam!=y", "root@pam!x=", "a@b!c=d\u{7f}"] {
        let error = Reader::new(Endpoint { token: Secret::new(token), ..endpoint("https://pve") }).expect_err(token);
        assert!(matches!(error, EndpointError::Token { .. }), "{error}");
    }
    let trust = Trust::Fingerprint("AA:BB".into());
    let error = Reader::new(Endpoint { trust, ..endpoint("https://pve") }).expect_err("too short");
    assert!(matches!(error, EndpointError::Fingerprint { .. }), "{error}");
    let trust = Trust::CaFile("/nonexistent.pem".into());
    let error = Reader::new(Endpoint { trust, ..endpoint("https://pve") }).expect_err("no such file");
    assert!(error.to_string().contains("/nonexistent.pem"), "{error}");
}

#[test]
fn a_segment_is_encoded_as_pve_wants_it() {
    assert_eq!(segment("local:iso/a b@c!d.iso"), "local%3Aiso%2Fa%20b%40c%21d.iso");
    assert_eq!(segment("pve-1.x_y~"), "pve-1.x_y~");
}

/// A TLS server with a certificate of its own for `127.0.0.1`.
fn serve_tls(body: &str) -> (String, CertifiedKey<rcgen::KeyPair>) {
    serve_tls_with(body, generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate"))
}

fn serve_tls_with(body: &str, own: CertifiedKey<rcgen::KeyPair>) -> (String, CertifiedKey<rcgen::KeyPair>) {
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .expect("they fit");
    let config = Arc::new(config);
    let wrap = move |stream| Some(StreamOwned::new(ServerConnection::new(Arc::clone(&config)).ok()?, stream));
    let (url, _requests) = serve_with(vec![answer("200 OK", body)], "https", wrap);
    // Nobody looks at the requests: the server must not stop for that.
    std::mem::forget(_requests);
    (url, own)
}

#[tokio::test]
async fn a_pinned_certificate_is_accepted_and_another_one_is_named() {
    let (url, own) = serve_tls(r#"{"data":7}"#);
    let found = Fingerprint::of(own.cert.der()).to_string();
    for text in [found.clone(), found.to_lowercase().replace(':', "")] {
        let reader = Reader::new(Endpoint { trust: Trust::Fingerprint(text), ..endpoint(&url) }).expect("a valid endpoint");
        assert_eq!(reader.get::<u8>("/x", &[]).await.expect("trusted"), 7);
    }
    let other = Fingerprint::of(b"another").to_string();
    let reader = Reader::new(Endpoint { trust: Trust::Fingerprint(other.clone()), ..endpoint(&url) }).expect("a valid endpoint");
    let error = reader.get::<u8>("/x", &[]).await.expect_err("another certificate");
    assert!(
        matches!(&error, PveError::Fingerprint { expected, found: one, .. } if *expected == other && *one == found),
        "{error:?}"
    );
    assert!(error.to_string().contains(&other) && error.to_string().contains(&found), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("pvesh get /nodes")));
}

#[tokio::test]
async fn certificates_of_a_file_are_trusted_and_no_others() {
    let (url, own) = serve_tls(r#"{"data":7}"#);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, own.cert.pem()).expect("writable");
    let trusting =
        |url: &str| Reader::new(Endpoint { trust: Trust::CaFile(file.clone()), ..endpoint(url) }).expect("a valid endpoint");
    assert_eq!(trusting(&url).get::<u8>("/x", &[]).await.expect("trusted"), 7);
    let (stranger, _own) = serve_tls(r#"{"data":7}"#);
    for reader in [trusting(&stranger), reader(&stranger)] {
        let error = reader.get::<u8>("/x", &[]).await.expect_err("not trusted");
        assert!(matches!(error, PveError::Tls { .. }), "{error:?}");
    }
    std::fs::write(&file, "no certificate").expect("writable");
    let error = Reader::new(Endpoint { trust: Trust::CaFile(file.clone()), ..endpoint(&url) }).expect_err("empty");
    assert!(matches!(error, EndpointError::CaFile { .. }), "{error}");
}

#[tokio::test]
async fn a_certificate_of_its_own_is_refused_once_it_has_expired() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut wanted = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    wanted.not_before = rcgen::date_time_ymd(2020, 1, 1);
    wanted.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let cert = wanted.self_signed(&key).expect("signed");
    let (url, own) = serve_tls_with(r#"{"data":7}"#, CertifiedKey { cert, signing_key: key });
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, own.cert.pem()).expect("writable");
    let reader = Reader::new(Endpoint { trust: Trust::CaFile(file), ..endpoint(&url) }).expect("a valid endpoint");
    let error = reader.get::<u8>("/x", &[]).await.expect_err("expired");
    assert!(matches!(error, PveError::Tls { .. }), "{error:?}");
    assert!(crate::observe::causes(&error).to_lowercase().contains("expired"), "{}", crate::observe::causes(&error));
}

#[tokio::test]
async fn a_fingerprint_and_an_authority_must_both_hold() {
    let (url, own) = serve_tls(r#"{"data":7}"#);
    let (_other_url, other) = serve_tls(r#"{"data":7}"#);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, own: &CertifiedKey<rcgen::KeyPair>| {
        let path = folder.path().join(name);
        std::fs::write(&path, own.cert.pem()).expect("writable");
        path
    };
    let (right, wrong) = (file("right.pem", &own), file("wrong.pem", &other));
    let found = Fingerprint::of(own.cert.der()).to_string();
    let another = Fingerprint::of(other.cert.der()).to_string();
    for (fingerprint, ca_file, holds) in
        [(&found, &right, true), (&found, &wrong, false), (&another, &right, false), (&another, &wrong, false)]
    {
        let trust = Trust::Both { fingerprint: fingerprint.clone(), ca_file: ca_file.clone() };
        let reader = Reader::new(Endpoint { trust, ..endpoint(&url) }).expect("a valid endpoint");
        assert_eq!(reader.get::<u8>("/x", &[]).await.is_ok(), holds, "{fingerprint} {}", ca_file.display());
    }
}
