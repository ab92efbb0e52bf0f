//! A real control plane on loopback: etcd, kube-apiserver, kube-controller-manager, kube-scheduler.
//!
//! kubeadm makes its certificates, kubeconfigs, bootstrap roles and `cluster-info`, so that what a
//! joining machine meets is what kubeadm makes anywhere.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::components::Programs;
use crate::kube::Api;
use crate::process::{Spec, free_port, run};
use crate::supervisor::Supervisor;
use crate::{Failure, failure};

/// Address that the certificates name as the server's own: kubeadm refuses loopback there, and no
/// one is ever asked at it (TEST-NET-1, RFC 5737).
const NOMINAL_ADDRESS: &str = "192.0.2.10";
const PATIENCE: Duration = Duration::from_secs(60);
/// All that run by default and the two that kubeadm adds for bootstrap tokens.
const ALL_CONTROLLERS: &str = "*,bootstrapsigner,tokencleaner";

/// A program of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// The datastore.
    Etcd,
    /// The API server.
    ApiServer,
    /// The controllers.
    ControllerManager,
    /// The scheduler.
    Scheduler,
}

impl Component {
    /// In the order in which they start.
    pub const ALL: [Self; 4] = [Self::Etcd, Self::ApiServer, Self::ControllerManager, Self::Scheduler];

    fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::ApiServer => "kube-apiserver",
            Self::ControllerManager => "kube-controller-manager",
            Self::Scheduler => "kube-scheduler",
        }
    }
}

/// Asks components how they are: over TLS with a certificate that each makes for itself at its start.
#[derive(Debug)]
struct Health {
    client: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Health {
    fn new() -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        drop(rustls::crypto::ring::default_provider().install_default());
        let client =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).tls_danger_accept_invalid_certs(true).build();
        Ok(Self {
            client: client.map_err(failure("cannot make a client"))?,
            runtime: runtime.map_err(failure("cannot start a runtime"))?,
        })
    }

    /// The text of a good answer.
    fn of(&self, port: u16, path: &str) -> Option<String> {
        let request = self.client.get(format!("https://127.0.0.1:{port}{path}"));
        self.runtime.block_on(async { request.send().await.ok()?.error_for_status().ok()?.text().await.ok() })
    }
}

/// A control plane of our own. Dropping it ends it.
#[derive(Debug)]
pub struct ControlPlane {
    programs: Programs,
    folder: PathBuf,
    etcd_port: u16,
    peer_port: u16,
    port: u16,
    node_grace: Duration,
    /// For `--controllers`; kept for a restart.
    controllers: String,
    /// More for the scheduler's command line; kept for a restart.
    scheduler_flags: Vec<String>,
    /// Ports on which the controller manager and the scheduler say how they are.
    health_ports: (u16, u16),
    health: Health,
    supervisor: Supervisor,
}

impl ControlPlane {
    /// Makes certificates and starts etcd and the API server; the controllers and the scheduler are
    /// started by [`ControlPlane::start`], after a world was loaded that they would change.
    ///
    /// `node_grace` is how long a node may be silent before the node controller calls it NotReady.
    ///
    /// # Errors
    /// A component does not come up: the end of its log is in the text.
    pub fn new(programs: &Programs, folder: &Path, node_grace: Duration) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder).map_err(failure(format!("cannot make {}", folder.display())))?;
        let mut plane = Self {
            programs: programs.clone(),
            folder: folder.to_owned(),
            etcd_port: free_port()?,
            peer_port: free_port()?,
            port: free_port()?,
            node_grace,
            controllers: ALL_CONTROLLERS.to_owned(),
            scheduler_flags: Vec::new(),
            health_ports: (free_port()?, free_port()?),
            health: Health::new()?,
            supervisor: Supervisor::new(folder),
        };
        plane.write_config()?;
        plane.kubeadm(&["init", "phase", "certs", "all"], &[])?;
        let kubeconfigs = folder.display().to_string();
        plane.kubeadm(&["init", "phase", "kubeconfig", "all"], &["--kubeconfig-dir", &kubeconfigs])?;
        plane.point_to_loopback(&["controller-manager.conf", "scheduler.conf"])?;
        plane.start(Component::Etcd)?;
        plane.start(Component::ApiServer)?;
        let admin = plane.admin().display().to_string();
        for phase in [&["upload-config", "all"][..], &["bootstrap-token"]] {
            plane.kubeadm(&[&["init", "phase"], phase].concat(), &["--kubeconfig", &admin])?;
        }
        Ok(plane)
    }

    /// Address of the API server.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// Kubeconfig of an administrator.
    pub fn admin(&self) -> PathBuf {
        self.folder.join("super-admin.conf")
    }

    /// Certificate of the cluster's authority.
    pub fn authority(&self) -> PathBuf {
        self.pki("ca.crt")
    }

    /// A file of the cluster's certificates and keys.
    pub fn pki(&self, name: &str) -> PathBuf {
        self.folder.join("pki").join(name)
    }

    fn write_config(&self) -> Result<(), Failure> {
        let (version, pki) = (&self.programs.version, self.folder.join("pki"));
        let text = format!(
            "apiVersion: kubeadm.k8s.io/v1beta4\nkind: InitConfiguration\n\
             localAPIEndpoint: {{advertiseAddress: {NOMINAL_ADDRESS}, bindPort: {port}}}\n\
             nodeRegistration: {{name: control-plane}}\n---\n\
             apiVersion: kubeadm.k8s.io/v1beta4\nkind: ClusterConfiguration\n\
             kubernetesVersion: {version}\nclusterName: rig\ncertificatesDir: {pki}\n\
             controlPlaneEndpoint: 127.0.0.1:{port}\nencryptionAlgorithm: ECDSA-P256\n\
             apiServer: {{certSANs: [127.0.0.1, localhost]}}\n\
             etcd: {{external: {{endpoints: [\"http://127.0.0.1:{etcd}\"]}}}}\n",
            port = self.port,
            pki = pki.display(),
            etcd = self.etcd_port,
        );
        std::fs::write(self.folder.join("kubeadm.yaml"), text).map_err(failure("cannot write kubeadm.yaml"))
    }

    /// The control plane's own kubeconfigs name the nominal address, which is nobody's.
    fn point_to_loopback(&self, kubeconfigs: &[&str]) -> Result<(), Failure> {
        for name in kubeconfigs {
            let path = self.folder.join(name);
            let text = std::fs::read_to_string(&path).map_err(failure(format!("cannot read {name}")))?;
            let text = text.replace(&format!("https://{NOMINAL_ADDRESS}:{}", self.port), &self.url());
            std::fs::write(&path, text).map_err(failure(format!("cannot write {name}")))?;
        }
        Ok(())
    }

    fn kubeadm(&self, phase: &[&str], more: &[&str]) -> Result<(), Failure> {
        let mut command = Command::new(self.programs.program("kubeadm"));
        // kubeadm dials nothing but the API server: no proxy, no home.
        run(command
            .args(phase)
            .arg("--config")
            .arg(self.folder.join("kubeadm.yaml"))
            .args(more)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.folder)
            .current_dir(&self.folder))
        .map(drop)
    }

    /// Starts a component, or starts it again after [`ControlPlane::kill`], and waits until it and all others work.
    /// From then on it is started again whenever it ends.
    ///
    /// # Errors
    /// One of them does not come up.
    pub fn start(&mut self, component: Component) -> Result<(), Failure> {
        self.supervisor.start(Spec {
            name: component.name(),
            program: self.programs.program(component.name()),
            arguments: self.arguments(component),
            environment: Vec::new(),
            folder: self.folder.clone(),
            says_ready: false,
        })?;
        self.ready()
    }

    /// Waits until every component that should run works.
    ///
    /// # Errors
    /// One of them does not: the end of its log is in the text.
    pub fn ready(&self) -> Result<(), Failure> {
        let running = self.supervisor.names();
        for component in Component::ALL.into_iter().filter(|one| running.contains(&one.name())) {
            // Those that ask the API server can work only with it.
            if component > Component::ApiServer && !running.contains(&Component::ApiServer.name()) {
                continue;
            }
            self.supervisor.wait_until(component.name(), PATIENCE, || self.works(component))?;
        }
        Ok(())
    }

    fn works(&self, component: Component) -> bool {
        match component {
            Component::Etcd => std::net::TcpStream::connect(("127.0.0.1", self.etcd_port)).is_ok(),
            // `readyz` waits for the post-start hooks: RBAC roles, priority classes, system namespaces.
            Component::ApiServer => Api::new(&self.admin()).and_then(|api| api.text("/readyz")).is_ok_and(|text| text == "ok"),
            // The controllers add their checks once all of them are built.
            Component::ControllerManager => {
                let text = self.health.of(self.health_ports.0, "/healthz?verbose");
                text.is_some_and(|text| text.contains("-controller ok"))
            }
            Component::Scheduler => self.health.of(self.health_ports.1, "/healthz").is_some(),
        }
    }

    /// Names the only controllers that the controller manager runs when it is started next.
    pub fn limit_controllers(&mut self, names: &[&str]) {
        self.controllers = names.join(",");
    }

    /// Gives the scheduler more flags when it is started next.
    pub fn scheduler_flags(&mut self, flags: Vec<String>) {
        self.scheduler_flags = flags;
    }

    /// File with what a component writes.
    pub fn log(&self, component: Component) -> PathBuf {
        self.folder.join(format!("{}.log", component.name()))
    }

    /// Ends a component as a crash would; it stays away until it is started again.
    pub fn kill(&mut self, component: Component) {
        self.supervisor.stop(component.name());
    }

    fn arguments(&self, component: Component) -> Vec<String> {
        let pki = |name: &str| self.pki(name).display().to_string();
        let conf = |name: &str| self.folder.join(name).display().to_string();
        let etcd = format!("http://127.0.0.1:{}", self.etcd_port);
        match component {
            Component::Etcd => {
                let peer = format!("http://127.0.0.1:{}", self.peer_port);
                vec![
                    format!("--data-dir={}", conf("etcd")),
                    format!("--listen-client-urls={etcd}"),
                    format!("--advertise-client-urls={etcd}"),
                    format!("--listen-peer-urls={peer}"),
                    format!("--initial-advertise-peer-urls={peer}"),
                    format!("--initial-cluster=default={peer}"),
                    // A kill -9 of etcd loses nothing that the kernel has; only a power cut would.
                    "--unsafe-no-fsync".to_owned(),
                    "--log-level=warn".to_owned(),
                ]
            }
            Component::ApiServer => vec![
                format!("--etcd-servers={etcd}"),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", self.port),
                "--advertise-address=127.0.0.1".to_owned(),
                "--endpoint-reconciler-type=none".to_owned(),
                "--service-cluster-ip-range=10.96.0.0/12".to_owned(),
                format!("--tls-cert-file={}", pki("apiserver.crt")),
                format!("--tls-private-key-file={}", pki("apiserver.key")),
                format!("--client-ca-file={}", pki("ca.crt")),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local".to_owned(),
                format!("--service-account-key-file={}", pki("sa.pub")),
                format!("--service-account-signing-key-file={}", pki("sa.key")),
                "--authorization-mode=Node,RBAC".to_owned(),
                "--enable-admission-plugins=NodeRestriction".to_owned(),
                "--enable-bootstrap-token-auth=true".to_owned(),
                "--allow-privileged=true".to_owned(),
                "--profiling=false".to_owned(),
            ],
            Component::ControllerManager => vec![
                format!("--kubeconfig={}", conf("controller-manager.conf")),
                "--leader-elect=false".to_owned(),
                "--bind-address=127.0.0.1".to_owned(),
                format!("--secure-port={}", self.health_ports.0),
                format!("--controllers={}", self.controllers),
                "--use-service-account-credentials=true".to_owned(),
                format!("--root-ca-file={}", pki("ca.crt")),
                format!("--service-account-private-key-file={}", pki("sa.key")),
                format!("--cluster-signing-cert-file={}", pki("ca.crt")),
                format!("--cluster-signing-key-file={}", pki("ca.key")),
                format!("--node-monitor-grace-period={}s", self.node_grace.as_secs()),
                "--node-monitor-period=1s".to_owned(),
                "--profiling=false".to_owned(),
            ],
            Component::Scheduler => {
                let mut arguments = vec![
                    format!("--kubeconfig={}", conf("scheduler.conf")),
                    "--leader-elect=false".to_owned(),
                    "--bind-address=127.0.0.1".to_owned(),
                    format!("--secure-port={}", self.health_ports.1),
                    "--profiling=false".to_owned(),
                ];
                arguments.extend_from_slice(&self.scheduler_flags);
                arguments
            }
        }
    }
}
