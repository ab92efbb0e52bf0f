//! Prometheus range queries: history at once instead of in thirty days.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use capplan_model::capacity::Dimension;
use capplan_model::history::Sample;
use jiff::{SignedDuration, Timestamp};
use reqwest::Client;
use reqwest::redirect::Policy;
use serde::Deserialize;

use crate::limits::{Cut, ReadLimits};
use crate::observe::causes;
use crate::pve::is_loopback;
use crate::secret::Secret;

/// Points of one series that are asked for at once.
///
/// # Source
/// Prometheus refuses range queries of more than 11,000 points a series (`web/api/v1/api.go`).
const MOST_POINTS: i64 = 10_000;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why Prometheus did not answer a query.
#[derive(Debug, thiserror::Error)]
pub enum PrometheusError {
    /// The address, token or certificate authority cannot be used.
    #[error("cannot use Prometheus at {url}: {why}")]
    Endpoint {
        /// Its address.
        url: String,
        /// Why.
        why: String,
    },
    /// No answer.
    #[error("cannot reach Prometheus at {url}: {why}")]
    Connect {
        /// Its address.
        url: String,
        /// Why.
        why: String,
    },
    /// The answer did not come in time, or not to its end.
    #[error("Prometheus at {url}: no whole answer within {seconds} s")]
    Timeout {
        /// Its address.
        url: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The answer is larger than anything that is expected.
    #[error("Prometheus at {url}: the answer is larger than {bytes} bytes")]
    TooLarge {
        /// Its address.
        url: String,
        /// How much is read at most.
        bytes: usize,
    },
    /// It refused the query.
    #[error("Prometheus answered {status}: {message}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        message: String,
    },
    /// The certificate authority's file cannot be used.
    #[error("cannot use {path} as a file of trusted certificates")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: crate::tls::Cause,
    },
}

/// The queries, so that a site with other metric names can change them. `$attacher` is replaced.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queries {
    /// VolumeAttachments by node.
    ///
    /// A node without one has no series. It is called zero only while the metric exists at all: an
    /// absent metric (dropped by a keep-list, say) stays unknown.
    pub volume_attachments: String,
    /// Memory requests by node, pods that hold capacity only.
    pub memory_requests: String,
    /// Memory limits by node, pods that hold capacity only.
    pub memory_limits: String,
    /// Allocatable memory by node.
    pub memory_allocatable: String,
    /// Evicted pods that exist.
    pub evicted_pods: String,
    /// Bytes in use on the nodes' root file systems, by node; empty to leave out.
    pub node_filesystem_used: String,
    /// Size of the nodes' root file systems, by node; empty to leave out.
    pub node_filesystem_size: String,
}

impl Default for Queries {
    fn default() -> Self {
        let of_pods = |metric: &str| {
            format!(
                "sum by (node) ({metric}{{resource=\"memory\",unit=\"byte\"}} * on(namespace,pod) group_left() \
                 max by (namespace,pod) (kube_pod_status_phase{{phase=~\"Running|Pending\"}} == 1))"
            )
        };
        Self {
            volume_attachments: "count by (node) (kube_volumeattachment_info{attacher=\"$attacher\"}) \
                                 or on (node) (0 * kube_node_info and on () count(kube_volumeattachment_info))"
                .to_owned(),
            memory_requests: of_pods("kube_pod_container_resource_requests"),
            memory_limits: of_pods("kube_pod_container_resource_limits"),
            memory_allocatable: "kube_node_status_allocatable{resource=\"memory\",unit=\"byte\"}".to_owned(),
            evicted_pods: "sum(kube_pod_status_reason{reason=\"Evicted\"})".to_owned(),
            node_filesystem_used: String::new(),
            node_filesystem_size: String::new(),
        }
    }
}

/// A Prometheus server. Sends GET only.
#[derive(Clone, Debug)]
pub struct Prometheus {
    client: Client,
    url: String,
    token: Option<Secret>,
    limits: ReadLimits,
}

/// One series of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeSeries {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Points, oldest first; values that are no numbers are left out: a gap.
    pub points: Vec<(Timestamp, f64)>,
}

/// What an import brought, and what it did not.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// Samples.
    pub samples: Vec<Sample>,
    /// Queries without an answer, and why.
    pub failed: Vec<(String, String)>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    status: String,
    error_type: String,
    error: String,
    data: Data,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Data {
    result: Vec<Matrix>,
}

#[derive(Deserialize)]
struct Matrix {
    metric: BTreeMap<String, String>,
    values: Vec<(f64, String)>,
}

impl Prometheus {
    /// A client for the server at `url`, which may have a path.
    ///
    /// # Errors
    /// [`PrometheusError`] if the address, the token or the certificate authority cannot be used.
    pub fn new(url: &str, token: Option<Secret>, ca_file: Option<&Path>, limits: ReadLimits) -> Result<Self, PrometheusError> {
        let host = reqwest::Url::parse(url).ok().and_then(|parsed| parsed.host_str().map(str::to_owned));
        // The host alone is named: an address with a password in it must not be repeated.
        let endpoint =
            |why: String| PrometheusError::Endpoint { url: host.clone().unwrap_or_else(|| "its address".to_owned()), why };
        let parsed = reqwest::Url::parse(url).map_err(|error| endpoint(error.to_string()))?;
        if !["http", "https"].contains(&parsed.scheme()) || !parsed.username().is_empty() || parsed.password().is_some() {
            return Err(endpoint("it has to be http:// or https:// without a password in it".to_owned()));
        }
        let is_plain = parsed.scheme() == "http";
        if is_plain && token.is_some() && !parsed.host_str().is_some_and(is_loopback) {
            return Err(endpoint(
                "`http://` would send the token readable over the network: use `https://`, or leave the token out".to_owned(),
            ));
        }
        // Another part of the program may have installed it already; it is the same one.
        drop(rustls::crypto::ring::default_provider().install_default());
        // The API never redirects; a redirect would carry the token elsewhere.
        let mut builder = Client::builder().connect_timeout(CONNECT_TIMEOUT).redirect(Policy::none());
        if is_plain {
            // A proxy would see the token.
            builder = builder.no_proxy();
        }
        if let Some(path) = ca_file {
            let tls = crate::tls::with_file(path).map_err(|source| PrometheusError::CaFile { path: path.to_owned(), source })?;
            builder = builder.tls_backend_preconfigured(tls);
        }
        let client = builder.build().map_err(|error| endpoint(causes(&error)))?;
        Ok(Self { client, url: url.trim_end_matches('/').to_owned(), token, limits })
    }

    /// Runs a range query, in pieces if it is long.
    ///
    /// # Errors
    /// [`PrometheusError`] if the server does not answer or refuses the query.
    pub async fn query_range(
        &self,
        query: &str,
        start: Timestamp,
        end: Timestamp,
        step: SignedDuration,
    ) -> Result<Vec<RangeSeries>, PrometheusError> {
        let mut series: BTreeMap<BTreeMap<String, String>, Vec<(Timestamp, f64)>> = BTreeMap::new();
        for (from, to) in pieces(start, end, step) {
            for one in self.piece(query, from, to, step).await? {
                series.entry(one.labels).or_default().extend(one.points);
            }
        }
        Ok(series.into_iter().map(|(labels, points)| RangeSeries { labels, points }).collect())
    }

    /// Alerts that fire at the end of a time and did not before it, in words.
    ///
    /// # Errors
    /// [`PrometheusError`] if the server does not answer or refuses the query.
    pub async fn new_alerts(&self, start: Timestamp, end: Timestamp) -> Result<Vec<String>, PrometheusError> {
        // Rules are evaluated every minute or less; two before the start are enough to know what fired then.
        let step = SignedDuration::from_secs(15);
        let before = start - SignedDuration::from_mins(2);
        let series = self.query_range("ALERTS{alertstate=\"firing\"}", before, end, step).await?;
        let name = |labels: &BTreeMap<String, String>| {
            let rest: Vec<String> = labels
                .iter()
                .filter(|(key, _)| !["__name__", "alertname", "alertstate", "severity"].contains(&key.as_str()))
                .map(|(key, value)| format!("{key}={value}"))
                .collect();
            format!("{} {}", labels.get("alertname").map_or("an alert", String::as_str), rest.join(", "))
        };
        let is_new = |one: &&RangeSeries| {
            one.points.iter().all(|(at, _)| *at > start)
                && one.points.iter().any(|(at, _)| *at > end - SignedDuration::from_mins(1))
        };
        Ok(series.iter().filter(is_new).map(|one| name(&one.labels).trim().to_owned()).collect())
    }

    async fn piece(
        &self,
        query: &str,
        from: Timestamp,
        to: Timestamp,
        step: SignedDuration,
    ) -> Result<Vec<RangeSeries>, PrometheusError> {
        let (url, limit) = (self.url.clone(), self.limits.request);
        let connect = |error: reqwest::Error| {
            if error.is_timeout() && !error.is_connect() {
                PrometheusError::Timeout { url: url.clone(), seconds: limit.as_secs() }
            } else {
                PrometheusError::Connect { url: url.clone(), why: causes(&error.without_url()) }
            }
        };
        let query = [
            ("query", query.to_owned()),
            ("start", from.as_second().to_string()),
            ("end", to.as_second().to_string()),
            ("step", step.as_secs().to_string()),
        ];
        let mut request = self.client.get(format!("{}/api/v1/query_range", self.url)).query(&query);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose());
        }
        let mut response = request.timeout(limit).send().await.map_err(connect)?;
        let status = response.status();
        let body = self.limits.body(&mut response).await.map_err(|cut| match cut {
            Cut::Transport(error) => connect(error),
            Cut::TooLarge => PrometheusError::TooLarge { url: url.clone(), bytes: self.limits.bytes },
        })?;
        series(&body).map_err(|message| {
            let message = if message.is_empty() { status.to_string() } else { message };
            PrometheusError::Refused { status: status.as_u16(), message }
        })
    }
}

/// Reads the answer to a range query. Points that are no finite numbers are left out.
///
/// # Errors
/// What the server says instead, which may be nothing; or that it is no answer of the Prometheus API.
pub fn series(body: &[u8]) -> Result<Vec<RangeSeries>, String> {
    let answer: Answer = serde_json::from_slice(body).map_err(|error| format!("no answer of the Prometheus API: {error}"))?;
    if answer.status != "success" {
        let said = !answer.error.is_empty();
        return Err(if said { format!("{}: {}", answer.error_type, answer.error) } else { String::new() });
    }
    let point = |(second, value): (f64, String)| {
        let at = Timestamp::from_second(second.round() as i64).ok()?;
        let value: f64 = value.parse().ok()?;
        value.is_finite().then_some((at, value))
    };
    let of = |one: Matrix| RangeSeries { labels: one.metric, points: one.values.into_iter().filter_map(point).collect() };
    Ok(answer.data.result.into_iter().map(of).collect())
}

/// Cuts a range into pieces of at most [`MOST_POINTS`] steps; no point is asked for twice.
fn pieces(start: Timestamp, end: Timestamp, step: SignedDuration) -> Vec<(Timestamp, Timestamp)> {
    let step = step.as_secs().max(1);
    let length = step * (MOST_POINTS - 1);
    let mut pieces = Vec::new();
    let mut from = start.as_second();
    let end = end.as_second();
    while from <= end {
        let to = (from + length).min(end);
        pieces.extend(Timestamp::from_second(from).ok().zip(Timestamp::from_second(to).ok()));
        from = to + step;
    }
    pieces
}

/// Runs every query over `(start, end]` and turns the answers into samples.
///
/// A metric that does not exist is unknown, never zero: it is named in [`Import::failed`].
pub async fn import(
    prometheus: &Prometheus,
    queries: &Queries,
    attacher: &str,
    start: Timestamp,
    end: Timestamp,
    step: SignedDuration,
) -> Import {
    let mut import = Import::default();
    // Samples of every run fall on the same instants, so that two imports do not interleave.
    let aligned =
        |at: Timestamp| Timestamp::from_second(at.as_second().div_euclid(step.as_secs().max(1)) * step.as_secs().max(1));
    let (start, end) = (aligned(start).unwrap_or(start), aligned(end).unwrap_or(end));
    let mut ask = async |name: &str, query: &str| -> Vec<RangeSeries> {
        if query.trim().is_empty() {
            return Vec::new();
        }
        match prometheus.query_range(&query.replace("$attacher", attacher), start, end, step).await {
            Ok(series) if series.iter().all(|one| one.points.is_empty()) => {
                import.failed.push((name.to_owned(), "no series: the metric is absent".to_owned()));
                Vec::new()
            }
            Ok(series) => series,
            Err(error) => {
                import.failed.push((name.to_owned(), causes(&error)));
                Vec::new()
            }
        }
    };
    let attachments = ask("volume_attachments", &queries.volume_attachments).await;
    let allocatable = ask("memory_allocatable", &queries.memory_allocatable).await;
    let requests = ask("memory_requests", &queries.memory_requests).await;
    let limits = ask("memory_limits", &queries.memory_limits).await;
    let evicted = ask("evicted_pods", &queries.evicted_pods).await;
    let filesystem = ask("node_filesystem_used", &queries.node_filesystem_used).await;
    let filesystem_size = ask("node_filesystem_size", &queries.node_filesystem_size).await;
    let samples = &mut import.samples;
    push(samples, Dimension::VolumeAttachments, attachments, &[]);
    push(samples, Dimension::MemoryRequests, requests, &allocatable);
    push(samples, Dimension::MemoryLimits, limits, &allocatable);
    push(samples, Dimension::EvictedPods, evicted, &[]);
    push(samples, Dimension::NodeFilesystem, filesystem, &filesystem_size);
    import
}

fn push(samples: &mut Vec<Sample>, dimension: Dimension, used: Vec<RangeSeries>, limits: &[RangeSeries]) {
    let mut limit_at: BTreeMap<(&str, Timestamp), f64> = BTreeMap::new();
    for series in limits {
        let node = series.labels.get("node").map_or("", String::as_str);
        limit_at.extend(series.points.iter().map(|(at, value)| ((node, *at), *value)));
    }
    for series in used {
        // A series without a node is that of pods which are on none yet: it is nobody's use.
        let subject = match series.labels.get("node") {
            Some(node) => node.clone(),
            None if dimension == Dimension::EvictedPods => String::new(),
            None => continue,
        };
        samples.extend(series.points.into_iter().map(|(at, used)| Sample {
            at,
            dimension,
            used,
            limit: limit_at.get(&(subject.as_str(), at)).copied(),
            subject: subject.clone(),
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_range_is_cut_without_a_gap_or_an_overlap() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let cut = pieces(at(0), at(25_000), SignedDuration::from_secs(1));
        assert_eq!(cut, [(at(0), at(9_999)), (at(10_000), at(19_999)), (at(20_000), at(25_000))]);
        assert_eq!(pieces(at(7), at(7), SignedDuration::from_hours(1)), [(at(7), at(7))]);
    }

    #[test]
    fn a_password_in_the_address_is_refused_and_not_repeated() {
        let error =
            Prometheus::new("http://user:s3cret@127.0.0.1:9090", None, None, ReadLimits::default()).expect_err("has a password");
        assert!(!error.to_string().contains("s3cret"), "{error}");
        assert!(Prometheus::new("ftp://127.0.0.1", None, None, ReadLimits::default()).is_err());
    }

    #[test]
    fn a_token_is_sent_over_the_network_only_where_nobody_can_read_it() {
        let with_token = |url: &str| Prometheus::new(url, Some(Secret::new("s3cret")), None, ReadLimits::default());
        for readable in ["http://prometheus.lan:9090", "http://192.0.2.1", "http://127.0.0.1.example.com"] {
            let error = with_token(readable).expect_err(readable).to_string();
            assert!(error.contains("readable over the network") && !error.contains("s3cret"), "{error}");
            assert!(
                Prometheus::new(readable, None, None, ReadLimits::default()).is_ok(),
                "without a token nothing is given away"
            );
        }
        for safe in ["http://127.0.0.1:9090", "http://localhost", "http://[::1]:9090", "https://prometheus.lan"] {
            assert!(with_token(safe).is_ok(), "{safe}");
        }
    }

    #[test]
    fn pods_on_no_node_are_no_nodes_use() {
        let points = vec![(Timestamp::UNIX_EPOCH, 5.0)];
        let nowhere = || vec![RangeSeries { labels: BTreeMap::new(), points: points.clone() }];
        let mut samples = Vec::new();
        push(&mut samples, Dimension::MemoryRequests, nowhere(), &[]);
        assert_eq!(samples, []);
        push(&mut samples, Dimension::EvictedPods, nowhere(), &[]);
        assert_eq!(samples.len(), 1);
    }

    #[test]
    fn a_limit_belongs_to_the_same_node_and_instant() {
        let at = |second| Timestamp::from_second(second).expect("in range");
        let series = |node: &str, points: &[(i64, f64)]| RangeSeries {
            labels: [("node".to_owned(), node.to_owned())].into(),
            points: points.iter().map(|(second, value)| (at(*second), *value)).collect(),
        };
        let mut samples = Vec::new();
        push(
            &mut samples,
            Dimension::MemoryRequests,
            vec![series("a", &[(1, 5.0), (2, 6.0)])],
            &[series("a", &[(1, 10.0)]), series("b", &[(2, 9.0)])],
        );
        assert_eq!(samples.iter().map(|sample| sample.limit).collect::<Vec<_>>(), [Some(10.0), None]);
    }
}
