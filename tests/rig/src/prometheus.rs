//! A real Prometheus on loopback, filled with samples of the past by promtool.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Process, Spec, free_port, run};
use crate::{Failure, components, failure};

const PATIENCE: Duration = Duration::from_secs(60);
const DRIVER: &str = "csi.proxmox.sinextra.dev";

/// Series of a family by their labels: instants in seconds, and values.
type Family = BTreeMap<String, Vec<(f64, f64)>>;

/// Samples in the text form that promtool takes: series by family, each with its points.
#[derive(Clone, Debug, Default)]
pub struct OpenMetrics {
    families: BTreeMap<&'static str, Family>,
}

impl OpenMetrics {
    /// Adds a point to a series; `labels` as in `a="b",c="d"`.
    pub fn point(&mut self, family: &'static str, labels: &str, at: f64, value: f64) {
        self.families.entry(family).or_default().entry(labels.to_owned()).or_default().push((at, value));
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (family, series) in &self.families {
            text.push_str(&format!("# TYPE {family} gauge\n"));
            for (labels, points) in series {
                let mut points = points.clone();
                // promtool takes the points of a series in their order only.
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                for (at, value) in points {
                    text.push_str(&format!("{family}{{{labels}}} {value} {at}\n"));
                }
            }
        }
        text.push_str("# EOF\n");
        text
    }

    /// The raw series of kube-state-metrics from which a recording's range queries give what was
    /// recorded: so many VolumeAttachments by node, a pod a node that asks for all of its memory.
    ///
    /// # Errors
    /// The recording's files cannot be read.
    pub fn recorded(folder: &Path) -> Result<Self, Failure> {
        let mut all = Self::default();
        for (node, at, value) in matrix(folder, "va_by_node")? {
            for number in 0..value as u64 {
                let labels = format!("attacher=\"{DRIVER}\",node=\"{node}\",volumeattachment=\"csi-{node}-{number}\"");
                all.point("kube_volumeattachment_info", &labels, at, 1.0);
            }
        }
        for (file, family) in [
            ("memory_requests_by_node", "kube_pod_container_resource_requests"),
            ("memory_limits_by_node", "kube_pod_container_resource_limits"),
        ] {
            for (node, at, value) in matrix(folder, file)? {
                let labels = format!(
                    "container=\"all\",namespace=\"rig\",node=\"{node}\",pod=\"all-{node}\",resource=\"memory\",unit=\"byte\""
                );
                all.point(family, &labels, at, value);
            }
        }
        for (node, at, value) in matrix(folder, "memory_allocatable_by_node")? {
            all.point("kube_node_status_allocatable", &format!("node=\"{node}\",resource=\"memory\",unit=\"byte\""), at, value);
            all.point("kube_node_info", &format!("node=\"{node}\""), at, 1.0);
            all.point("kube_pod_status_phase", &format!("namespace=\"rig\",phase=\"Running\",pod=\"all-{node}\""), at, 1.0);
        }
        for (_, at, value) in matrix(folder, "evicted_pods_present")? {
            all.point("kube_pod_status_reason", "namespace=\"rig\",pod=\"all\",reason=\"Evicted\"", at, value);
        }
        Ok(all)
    }
}

/// The points of a recorded range query: node (empty without one), seconds, value.
fn matrix(folder: &Path, name: &str) -> Result<Vec<(String, f64, f64)>, Failure> {
    let path = folder.join("prom").join(format!("{name}.json"));
    let text = std::fs::read(&path).map_err(failure(format!("cannot read {}", path.display())))?;
    let answer: Value = serde_json::from_slice(&text).map_err(failure(format!("{} is no JSON", path.display())))?;
    let mut points = Vec::new();
    for series in answer["data"]["result"].as_array().into_iter().flatten() {
        let node = series["metric"]["node"].as_str().unwrap_or_default();
        for point in series["values"].as_array().into_iter().flatten() {
            let value = point[1].as_str().and_then(|text| text.parse().ok());
            let (Some(at), Some(value)) = (point[0].as_f64(), value) else {
                return Err(Failure::new(format!("{} has a point that is no number", path.display())));
            };
            points.push((node.to_owned(), at, value));
        }
    }
    Ok(points)
}

/// A running Prometheus. Dropping it ends it.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    /// Its address.
    pub url: String,
}

impl Prometheus {
    /// Makes blocks of the samples and serves them.
    ///
    /// # Errors
    /// Debian's `prometheus` is not installed, or does not come up.
    pub fn start(folder: &Path, samples: &OpenMetrics) -> Result<Self, Failure> {
        let program = components::prometheus("prometheus")?;
        let promtool = components::prometheus("promtool")?;
        let (blocks, seed) = (folder.join("blocks"), folder.join("seed.om"));
        std::fs::create_dir_all(&blocks).map_err(failure(format!("cannot make {}", blocks.display())))?;
        std::fs::write(&seed, samples.text()).map_err(failure("cannot write the samples"))?;
        run(Command::new(promtool)
            .args(["tsdb", "create-blocks-from", "openmetrics", "--max-block-duration=744h"])
            .arg(&seed)
            .arg(&blocks))?;
        std::fs::write(folder.join("prometheus.yml"), "global: {}\n").map_err(failure("cannot write prometheus.yml"))?;
        let port = free_port()?;
        let spec = Spec {
            name: "prometheus",
            program,
            arguments: vec![
                format!("--config.file={}", folder.join("prometheus.yml").display()),
                format!("--storage.tsdb.path={}", blocks.display()),
                // The samples are of the past: without it they would be deleted at the start.
                "--storage.tsdb.retention.time=30y".to_owned(),
                format!("--web.listen-address=127.0.0.1:{port}"),
            ],
            environment: Vec::new(),
            folder: folder.to_owned(),
            says_ready: false,
        };
        let mut process = Process::start(&spec, PATIENCE)?;
        process.wait_until(PATIENCE, || TcpStream::connect(("127.0.0.1", port)).is_ok())?;
        let url = format!("http://127.0.0.1:{port}");
        let ready = crate::control::Control::new(&url)?;
        // It listens before its blocks are loaded, and says 503 until then.
        process.wait_until(PATIENCE, || ready.get("/api/v1/query?query=vector(1)").is_ok())?;
        Ok(Self { process, url })
    }

    /// Ends it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
