//! The parts of a rig, in a folder of their own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use capplan_model::Snapshot;
use kube::config::Kubeconfig;
use serde_json::{Value, json};

use crate::components::{self, Programs};
use crate::control_plane::{Component, ControlPlane};
use crate::double::Double;
use crate::gate::Gate;
use crate::kube::{Api, Call};
use crate::machines::Machines;
use crate::plant::{MissingOwners, paths, plant, uproot};
use crate::process::run;
use crate::prometheus::{OpenMetrics, Prometheus};
use crate::{Failure, failure};

/// Variable that names a kubeconfig of the developer's own cluster, to be used instead of ours.
pub const KUBECONFIG_VARIABLE: &str = "CAPPLAN_TEST_KUBECONFIG";

/// Variable that keeps the folder of a rig, with all logs, until the next rig starts.
const KEEP_VARIABLE: &str = "CAPPLAN_RIG_KEEP";

/// Folder of one run below `target/rig/runs`; removed with the value, unless the test panics.
#[derive(Debug)]
struct Run {
    folder: PathBuf,
    /// Held as long as the run lives: who finds it free may sweep the folder.
    _lock: File,
}

impl Run {
    fn new() -> Result<Self, Failure> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let runs = components::folder()?.join("runs");
        // A folder whose lock is not taken yet would look like one that was left behind.
        let alone = File::create(components::folder()?.join("runs.lock")).map_err(failure("cannot make a lock file"))?;
        alone.lock().map_err(failure("cannot take a lock"))?;
        sweep(&runs);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = runs.join(format!("{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).map_err(failure(format!("cannot make {}", folder.display())))?;
        let lock = File::create(folder.join("lock")).map_err(failure("cannot make a lock file"))?;
        lock.try_lock().map_err(|_| Failure::new(format!("{} is in use", folder.display())))?;
        Ok(Self { folder, _lock: lock })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os(KEEP_VARIABLE).is_some() {
            eprintln!("rig: the logs stay in {} until the next rig starts", self.folder.display());
        } else {
            drop(std::fs::remove_dir_all(&self.folder));
        }
    }
}

/// Removes what crashed runs left; their processes died with them.
fn sweep(runs: &Path) {
    for folder in std::fs::read_dir(runs).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let free = File::open(folder.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
        if free {
            drop(std::fs::remove_dir_all(folder));
        }
    }
}

/// A Kubernetes control plane, a Proxmox VE double and what else was asked for.
///
/// Everything listens on free ports of 127.0.0.1; dropping the rig, or killing the process that
/// holds it, ends everything.
#[derive(Debug)]
pub struct Rig {
    // Dropped in this order: who talks before who answers.
    machines: Option<Machines>,
    gate: Option<Gate>,
    prometheus: Option<Prometheus>,
    double: Option<Double>,
    plane: Option<ControlPlane>,
    api: Api,
    programs: Programs,
    kubeconfig: PathBuf,
    /// What a developer's own cluster had before: the rest is taken out again.
    before: Vec<String>,
    /// Held while that cluster is ours: the tests take turns there.
    _turn: Option<File>,
    run: Run,
}

impl Drop for Rig {
    fn drop(&mut self) {
        if self.plane.is_none() {
            // The machines would go on working at what is taken out.
            self.machines = None;
            uproot(&self.api, &self.before);
        }
    }
}

impl Rig {
    /// An empty cluster: etcd and the API server run, nothing changes the world by itself.
    ///
    /// # Errors
    /// A part cannot be built or does not come up.
    pub fn start() -> Result<Self, Failure> {
        // kube-controller-manager's own default, Kubernetes 1.32 and later.
        Self::start_with_grace(Duration::from_secs(50))
    }

    /// The same with another `--node-monitor-grace-period`.
    ///
    /// # Errors
    /// As [`Rig::start`].
    pub fn start_with_grace(node_grace: Duration) -> Result<Self, Failure> {
        let programs = Programs::build()?;
        let run = Run::new()?;
        let foreign = std::env::var_os(KUBECONFIG_VARIABLE).map(PathBuf::from);
        let turn = foreign.as_ref().map(|_| take_turn()).transpose()?;
        let plane = match &foreign {
            Some(_) => None,
            None => Some(start_plane(&programs, &run.folder, node_grace)?),
        };
        let kubeconfig = foreign.or_else(|| plane.as_ref().map(ControlPlane::admin)).unwrap_or_default();
        let api = Api::new(&kubeconfig)?;
        let before = if plane.is_none() { paths(&api) } else { Vec::new() };
        Ok(Self {
            machines: None,
            gate: None,
            prometheus: None,
            double: None,
            plane,
            api,
            programs,
            kubeconfig,
            before,
            _turn: turn,
            run,
        })
    }

    /// Folder of this run.
    pub fn folder(&self) -> &Path {
        &self.run.folder
    }

    /// Programs built for the rig.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The API server, as administrator.
    pub fn api(&self) -> &Api {
        &self.api
    }

    /// Kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn cluster(&self) -> Result<kube::config::Cluster, Failure> {
        let config = Kubeconfig::read_from(&self.kubeconfig).map_err(failure("cannot read the kubeconfig"))?;
        let current = config.current_context.unwrap_or_default();
        let context = config.contexts.into_iter().find(|one| one.name == current).and_then(|one| one.context);
        let name = context.map(|one| one.cluster).unwrap_or_default();
        let cluster = config.clusters.into_iter().find(|one| one.name == name).and_then(|one| one.cluster);
        cluster.ok_or_else(|| Failure::new("the kubeconfig has no current cluster"))
    }

    /// Address of the API server, such as `https://127.0.0.1:6443`.
    ///
    /// # Errors
    /// The kubeconfig names none.
    pub fn server(&self) -> Result<String, Failure> {
        self.cluster()?.server.ok_or_else(|| Failure::new("the kubeconfig names no server"))
    }

    /// File with the certificate of the cluster's authority.
    ///
    /// # Errors
    /// The kubeconfig has none.
    pub fn authority(&self) -> Result<PathBuf, Failure> {
        let cluster = self.cluster()?;
        if let Some(file) = cluster.certificate_authority {
            return Ok(PathBuf::from(file));
        }
        let encoded = cluster.certificate_authority_data.unwrap_or_default();
        let path = self.run.folder.join("authority.pem");
        let decoded = run(Command::new("sh").args(["-c", "printf %s \"$0\" | base64 -d"]).arg(encoded))?;
        std::fs::write(&path, decoded).map_err(failure("cannot write the authority's certificate"))?;
        Ok(path)
    }

    /// The control plane.
    ///
    /// # Errors
    /// It is the developer's own.
    pub fn plane(&mut self) -> Result<&mut ControlPlane, Failure> {
        self.plane
            .as_mut()
            .ok_or_else(|| Failure::new(format!("{KUBECONFIG_VARIABLE} names the cluster: its parts are not ours")))
    }

    /// Puts objects into the API server and answers how many.
    ///
    /// # Errors
    /// The server refuses one.
    pub fn plant(&self, objects: Vec<Value>, missing: MissingOwners) -> Result<usize, Failure> {
        plant(&self.api, objects, missing)
    }

    /// Starts the Proxmox VE double with the PVE plane of a snapshot.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_double(&mut self, snapshot: &Snapshot) -> Result<&Double, Failure> {
        let double = Double::start(&self.run.folder.join("pve"), snapshot)?;
        Ok(self.double.insert(double))
    }

    /// The Proxmox VE double.
    ///
    /// # Errors
    /// It was not started.
    pub fn double(&mut self) -> Result<&mut Double, Failure> {
        self.double.as_mut().ok_or_else(|| Failure::new("the double was not started"))
    }

    /// Starts the controllers and the scheduler.
    ///
    /// # Errors
    /// They do not come up.
    pub fn start_controllers(&mut self) -> Result<(), Failure> {
        if let Some(plane) = &mut self.plane {
            plane.start(Component::ControllerManager)?;
            plane.start(Component::Scheduler)?;
        }
        Ok(())
    }

    /// Starts the scheduler and, of the controllers, only the one that binds volumes to claims: the
    /// world holds still but for the scheduler's choices, whatever the nodes do.
    ///
    /// # Errors
    /// They do not come up.
    pub fn start_scheduler(&mut self) -> Result<(), Failure> {
        let Some(plane) = &mut self.plane else { return Ok(()) };
        plane.limit_controllers(&["persistentvolume-binder-controller"]);
        plane.start(Component::ControllerManager)?;
        plane.start(Component::Scheduler)
    }

    /// Starts nodes, attacher and joiner on both planes.
    ///
    /// # Errors
    /// The double was not started, or the machines do not come up.
    pub fn start_machines(&mut self, more: &[&str]) -> Result<&mut Machines, Failure> {
        let double = self.double.as_ref().ok_or_else(|| Failure::new("the machines need the double"))?;
        let machines = Machines::start(&self.programs, &self.kubeconfig, double, &self.run.folder.join("machines"), more)?;
        Ok(self.machines.insert(machines))
    }

    /// The machines.
    ///
    /// # Errors
    /// They were not started.
    pub fn machines(&mut self) -> Result<&mut Machines, Failure> {
        self.machines.as_mut().ok_or_else(|| Failure::new("the machines were not started"))
    }

    /// Starts a Prometheus that has these samples.
    ///
    /// # Errors
    /// It is not installed or does not come up.
    pub fn start_prometheus(&mut self, samples: &OpenMetrics) -> Result<&Prometheus, Failure> {
        let prometheus = Prometheus::start(&self.run.folder.join("prometheus"), samples)?;
        Ok(self.prometheus.insert(prometheus))
    }

    /// A kubeconfig with a token of a service account in `kube-system`, and nothing else.
    ///
    /// # Errors
    /// There is no such account, or the control plane is not ours.
    pub fn account(&mut self, name: &str) -> Result<PathBuf, Failure> {
        let request =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 36000}});
        let path = format!("/api/v1/namespaces/kube-system/serviceaccounts/{name}/token");
        let answer = self.api.call(Call::post(path, request))?;
        let token = answer["status"]["token"].as_str().unwrap_or_default().to_owned();
        let path = self.run.folder.join(format!("{name}.kubeconfig"));
        let gate = self.gate.as_ref().map(|gate| gate.url.clone());
        write_kubeconfig(&path, &gate.unwrap_or(self.server()?), &self.authority()?, &token)?;
        Ok(path)
    }

    /// Puts a gate in front of the API server, for the accounts that are made from now on.
    ///
    /// # Errors
    /// It does not come up, or the control plane is not ours.
    pub fn start_gate(&mut self) -> Result<&Gate, Failure> {
        let (programs, folder) = (self.programs.clone(), self.run.folder.join("gate"));
        let gate = Gate::start(&programs, self.plane()?, &folder)?;
        Ok(self.gate.insert(gate))
    }

    /// The gate.
    ///
    /// # Errors
    /// It was not started.
    pub fn gate(&self) -> Result<&Gate, Failure> {
        self.gate.as_ref().ok_or_else(|| Failure::new("the gate was not started"))
    }
}

/// A control plane; once more if another program took a port between our look and the server's.
fn start_plane(programs: &Programs, folder: &Path, node_grace: Duration) -> Result<ControlPlane, Failure> {
    match ControlPlane::new(programs, &folder.join("kubernetes"), node_grace) {
        Err(failure) if failure.to_string().contains("address already in use") => {
            ControlPlane::new(programs, &folder.join("kubernetes-again"), node_grace)
        }
        plane => plane,
    }
}

/// Waits until no other test uses the developer's own cluster.
fn take_turn() -> Result<File, Failure> {
    let lock = File::create(components::folder()?.join("turn")).map_err(failure("cannot make a lock file"))?;
    lock.lock().map_err(failure("cannot take a lock"))?;
    Ok(lock)
}

/// A kubeconfig for a bearer token.
pub(crate) fn write_kubeconfig(path: &Path, server: &str, authority: &Path, token: &str) -> Result<(), Failure> {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "rig",
        "clusters": [{"name": "rig", "cluster": {"server": server, "certificate-authority": authority}}],
        "users": [{"name": "rig", "user": {"token": token}}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "rig"}}],
    });
    std::fs::write(path, config.to_string()).map_err(failure(format!("cannot write {}", path.display())))
}
