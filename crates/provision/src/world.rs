//! Both planes to write to, and a fresh reading of them.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::ids::HostName;
use capplan_model::plan::{GuestRef, Plan, Step, StepAction, WorkerSpec};
use capplan_model::policy::{Distribution, Seed};
use capplan_model::pve::Pve;
use capplan_model::{Reading, Snapshot};
use jiff::Timestamp;

use crate::kube::{self, Connection};
use crate::lease::{Guard, Lease, LeaseError};
use crate::observe::{ObserveError, observe, qualify};
use crate::pve::{self, Endpoint, PveError};

/// Both planes, with the right to change them.
pub struct World {
    connection: Connection,
    endpoints: Vec<Endpoint>,
    /// The cluster.
    pub kube: kube::Writer,
    /// Asked by both writers before each change.
    guard: Guard,
    lease: Option<Lease>,
    pve: Vec<Plane>,
}

/// A Proxmox VE endpoint, and the hosts it speaks for.
struct Plane {
    name: String,
    hosts: Vec<String>,
    writer: pve::Writer,
}

/// Why a change cannot be sent to a host.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// No endpoint speaks for it.
    #[error("no Proxmox VE endpoint of the configuration speaks for host {host}")]
    Nobody {
        /// The host.
        host: HostName,
    },
    /// Several do.
    #[error("several Proxmox VE endpoints have a host {host}: give each a `name` in the configuration")]
    Several {
        /// The host.
        host: HostName,
    },
}

impl World {
    /// Connects to both planes.
    ///
    /// # Errors
    /// [`ObserveError`] if one of them does not answer: nothing can be changed then.
    pub async fn connect(connection: &Connection, endpoints: &[Endpoint]) -> Result<Self, ObserveError> {
        let reader = kube::Reader::connect(connection).await?;
        let guard = Guard::default();
        let mut planes = Vec::new();
        for endpoint in endpoints {
            let writer = pve::Writer::new(pve::Reader::new(endpoint.clone())?, guard.clone());
            let refused = |source: PveError| ObserveError::Pve { url: endpoint.url.clone(), source };
            let hosts = writer.hosts().await.map_err(refused)?;
            planes.push(Plane { name: endpoint.name.clone(), hosts, writer });
        }
        Ok(Self {
            connection: connection.clone(),
            endpoints: endpoints.to_vec(),
            kube: kube::Writer::new(reader, guard.clone()),
            guard,
            lease: None,
            pve: planes,
        })
    }

    /// Reads both planes now.
    ///
    /// # Errors
    /// [`ObserveError`] if nothing can be read.
    pub async fn observe(&self) -> Result<Snapshot, ObserveError> {
        observe(&self.connection, &self.endpoints, Timestamp::now(), &|_| {}).await
    }

    /// A reading for the moment before a change that cannot be taken back: what a step is about, read again by itself.
    ///
    /// The lists of Kubernetes come first; where a guest is destroyed, all guests of its Proxmox VE cluster, each of
    /// which may name its disks; the guest's own status and configuration come last, right before the change. So
    /// nothing that takes long stands between the check of a guest and the change.
    ///
    /// # Errors
    /// [`ObserveError`] if the guest cannot be read; a list that cannot be read is unknown.
    pub async fn refresh(&self, seen: &Snapshot, step: &Step) -> Result<Snapshot, ObserveError> {
        let reader = self.kube.reader();
        let mut fresh = Snapshot { taken: Timestamp::now(), ..seen.clone() };
        kube::observe::refresh(reader, &mut fresh.kube).await;
        let Some(meant) = step.guest() else { return Ok(fresh) };
        let Ok((writer, _)) = self.pve(&meant.host) else { return Ok(fresh) };
        let is_there = |pve: &Pve| pve.guests.items().iter().any(|one| one.host == meant.host);
        let Some(pve) = fresh.pve.iter_mut().find(|pve| is_there(pve)) else { return Ok(fresh) };
        if matches!(step.change, StepAction::DestroyGuest { .. }) {
            *pve = again(writer.reader(), pve).await;
        }
        if let Reading::Known(guests) = &mut pve.guests
            && let Some(one) = guests.iter_mut().find(|one| (&one.host, one.vmid) == (&meant.host, meant.vmid))
        {
            let failed = |source| ObserveError::Pve { url: meant.host.to_string(), source };
            *one = pve::observe_guest(writer.reader(), one).await.map_err(failed)?;
        }
        if matches!(step.change, StepAction::UnplugGhost { .. }) {
            // An attach that finds the disk plugged already changes nothing in the VM: only its object tells. The digest
            // of the configuration guards what was read before.
            let after = kube::observe::volume_attachments(reader, &|_| {}).await;
            fresh.kube.volume_attachments = kube::observe::merge(fresh.kube.volume_attachments, after);
        }
        Ok(fresh)
    }

    /// Privileges that the steps of a plan need and that one of the two accounts lacks, in words.
    ///
    /// # Errors
    /// [`ObserveError`] if that cannot be asked.
    pub async fn missing(&self, plan: &Plan, seen: &Snapshot) -> Result<Vec<String>, ObserveError> {
        let mut needed = Needed::default();
        plan.steps.iter().for_each(|step| needed.by(&step.change, plan, seen));
        for verb in ["get", "create", "update"] {
            needed.kube_in(verb, LEASES, "kube-system");
        }
        let mut missing = Vec::new();
        for (verb, resource, namespace) in needed.kube {
            let group = if resource == LEASES { "coordination.k8s.io" } else { "" };
            if !self.kube.reader().may(verb, group, resource, namespace.as_deref()).await? {
                let within = namespace.map(|namespace| format!(" in {namespace}")).unwrap_or_default();
                missing.push(format!("Kubernetes: {verb} {resource}{within}"));
            }
        }
        // Where the new machine's privileges are held depends on its pool: one that is not shown is not none.
        let hidden = |path: &str| {
            plan.workers.iter().find(|spec| {
                let pve = seen.pve.iter().find(|pve| pve.hosts.items().iter().any(|host| host.name == spec.host));
                spec.pool.is_none() && machine(spec) == path && pve.is_some_and(|pve| pve.pools_shown.why().is_some())
            })
        };
        for ((host, path), privileges) in needed.pve {
            // A host that nobody speaks for is refused by the step itself.
            let Ok((writer, _)) = self.pve(&host) else { continue };
            let refused = |source| ObserveError::Pve { url: host.to_string(), source };
            let held = writer.privileges(&path).await.map_err(refused)?;
            let lacks: Vec<&str> = privileges.into_iter().filter(|privilege| !held.contains(*privilege)).collect();
            if let Some(spec) = hidden(&path).filter(|_| !lacks.is_empty()) {
                let like = &spec.like;
                missing
                    .push(format!("Proxmox VE: Pool.Audit on /pool or on the pool of {like}: whether it is in one is not shown"));
            }
            missing.extend(lacks.into_iter().map(|privilege| format!("Proxmox VE: {privilege} on {path}")));
        }
        Ok(missing)
    }

    /// Keeps capplans of other machines from the cluster. From then on every change is refused once the lease is lost.
    ///
    /// # Errors
    /// [`LeaseError`] if another has it, or it cannot be written.
    pub async fn take_lease(&mut self, holder: &str) -> Result<(), LeaseError> {
        // The lease itself is written whether it is held or not.
        let unguarded = kube::Writer::new(self.kube.reader().clone(), Guard::default());
        self.lease = Some(Lease::take(&unguarded, holder, &self.guard).await?);
        Ok(())
    }

    /// Lets others at the cluster again; nothing is changed any more.
    pub async fn give_back(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back().await;
        }
    }

    /// Seconds that this machine's clock is ahead of the API server's; `None` if the server does not tell.
    ///
    /// # Errors
    /// [`ObserveError`] if it does not answer.
    pub async fn ahead(&self) -> Result<Option<i64>, ObserveError> {
        let theirs = self.kube.reader().clock().await?;
        Ok(theirs.map(|theirs| Timestamp::now().duration_since(theirs).as_secs()))
    }

    /// The endpoint that speaks for a host, and the host's name there.
    ///
    /// # Errors
    /// [`RouteError`] if none does, or more than one might.
    pub fn pve(&self, host: &HostName) -> Result<(&pve::Writer, String), RouteError> {
        // A name that several endpoints have is prefixed by the endpoint's (`observe`).
        let (prefix, plain) = host.as_str().split_once('/').map_or((None, host.as_str()), |(one, rest)| (Some(one), rest));
        let mut found = self.pve.iter().filter(|plane| {
            plane.hosts.iter().any(|one| one == plain)
                && prefix.is_none_or(|prefix| plane.name.is_empty() || plane.name == prefix)
        });
        match (found.next(), found.next()) {
            (Some(plane), None) => Ok((&plane.writer, plain.to_owned())),
            (None, _) => Err(RouteError::Nobody { host: host.clone() }),
            (Some(_), Some(_)) => Err(RouteError::Several { host: host.clone() }),
        }
    }
}

const LEASES: &str = "leases";

/// Reads an endpoint again; hosts that several endpoints have keep the prefix that they got.
async fn again(reader: &pve::Reader, before: &Pve) -> Pve {
    let mut fresh = Pve { name: before.name.clone(), ..pve::observe(reader, &|_| {}).await };
    let prefix = format!("{}/", before.name);
    let hosts = before.hosts.items().iter();
    let shared: BTreeSet<String> = hosts.filter_map(|host| Some(host.name.as_str().strip_prefix(&prefix)?.to_owned())).collect();
    qualify(&mut fresh, &|name| shared.contains(name.as_str()));
    fresh
}

/// What a plan needs of both planes.
#[derive(Default)]
struct Needed {
    /// Verb, resource, namespace.
    kube: BTreeSet<(&'static str, &'static str, Option<String>)>,
    /// Privileges by host and path.
    pve: BTreeMap<(HostName, String), BTreeSet<&'static str>>,
}

impl Needed {
    /// # Source
    /// The privileges that the API's schema names, tried by leaving out one at a time.
    fn by(&mut self, change: &StepAction, plan: &Plan, seen: &Snapshot) {
        match change {
            StepAction::Cordon { .. } | StepAction::Uncordon { .. } | StepAction::Label { .. } => self.kube("patch", "nodes"),
            StepAction::Evict { close, .. } => {
                self.kube("create", "pods/eviction");
                if !close.is_empty() {
                    self.kube("patch", "nodes");
                }
            }
            StepAction::DeleteNode { .. } => self.kube("delete", "nodes"),
            StepAction::ShutDownGuest { guest } => self.guest(guest, &["VM.PowerMgmt"]),
            StepAction::DisarmGuest { guest, join, .. } => {
                // The drive may hold the one that cloud-init has now.
                self.guest(guest, &["VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Config.Options"]);
                let storage = format!("/storage/{}", join.storage);
                self.pve(&guest.host, storage, &["Datastore.AllocateTemplate", "Datastore.Audit"]);
            }
            StepAction::DestroyGuest { guest, .. } => self.guest(guest, &["VM.Allocate"]),
            StepAction::KeepGuestOff { guest } => self.guest(guest, &["VM.Config.Options"]),
            // Checked with the rest of what is set of it.
            StepAction::StartWithHost { .. } => {}
            StepAction::UnplugGhost { guest, .. } => self.guest(guest, &["VM.Config.Disk"]),
            StepAction::CloneGuest { template, worker } => {
                self.guest(template, &["VM.Clone"]);
                let Some(spec) = plan.worker(worker) else { return };
                self.pve(&spec.host, machine(spec), &["VM.Allocate", "VM.Audit"]);
                if let Some(storage) = &spec.storage {
                    self.pve(&spec.host, format!("/storage/{storage}"), &["Datastore.AllocateSpace"]);
                }
                let source = template.find(seen).and_then(|guest| guest.config.known()?.net0.clone());
                self.bridge(spec, source.as_deref());
            }
            StepAction::SetGuest { worker, .. } => {
                let Some(spec) = plan.worker(worker) else { return };
                let privileges = ["VM.Config.CPU", "VM.Config.Memory", "VM.Config.Options", "VM.Config.Network"];
                self.pve(&spec.host, machine(spec), &privileges);
                self.bridge(spec, spec.network.as_deref());
                if spec.join.startup.is_some() {
                    self.pve(&spec.host, "/".to_owned(), &["Sys.Modify"]);
                }
            }
            StepAction::GrowDisk { guest, .. } => {
                if let Some(spec) = plan.workers.iter().find(|spec| (&spec.host, spec.vmid) == (&guest.host, guest.vmid)) {
                    self.pve(&spec.host, machine(spec), &["VM.Config.Disk"]);
                }
            }
            StepAction::BootWorker { worker, .. } => {
                let Some(spec) = plan.worker(worker) else { return };
                self.pve(
                    &spec.host,
                    machine(spec),
                    &["VM.PowerMgmt", "VM.Config.CDROM", "VM.Config.Cloudinit", "VM.Config.Options", "VM.Audit"],
                );
                if spec.join.seed == Seed::Vendor {
                    return;
                }
                let storage = format!("/storage/{}", spec.join.storage);
                self.pve(&spec.host, storage, &["Datastore.AllocateTemplate", "Datastore.Audit", "Datastore.Allocate"]);
                if spec.join.distribution.has_tokens() {
                    for verb in ["create", "delete"] {
                        self.kube_in(verb, "secrets", "kube-system");
                    }
                }
                if spec.join.distribution == Distribution::Kubeadm {
                    self.kube_in("get", "configmaps", "kube-public");
                }
            }
            StepAction::Probe { worker, .. } => {
                let Some(spec) = plan.worker(worker) else { return };
                for resource in ["pods", "persistentvolumeclaims"] {
                    for verb in ["create", "delete", "get"] {
                        self.kube_in(verb, resource, &spec.join.probe.namespace);
                    }
                }
            }
            StepAction::Register { .. } => self.kube("create", "pods/eviction"),
            // What it takes away it was allowed to make.
            StepAction::DropSeed { .. } | StepAction::Wait | StepAction::Manual { .. } => {}
        }
    }

    fn kube(&mut self, verb: &'static str, resource: &'static str) {
        self.kube.insert((verb, resource, None));
    }

    fn kube_in(&mut self, verb: &'static str, resource: &'static str, namespace: &str) {
        self.kube.insert((verb, resource, Some(namespace.to_owned())));
    }

    fn guest(&mut self, guest: &GuestRef, privileges: &[&'static str]) {
        self.pve(&guest.host, format!("/vms/{}", guest.vmid), privileges);
    }

    fn pve(&mut self, host: &HostName, path: String, privileges: &[&'static str]) {
        self.pve.entry((host.clone(), path)).or_default().extend(privileges);
    }

    /// A network device needs the right to use its bridge, with its VLAN.
    fn bridge(&mut self, spec: &WorkerSpec, net: Option<&str>) {
        let property = |key: &str| pve::property(net?, key);
        // A virtual network has a zone of its own, which no configuration names.
        let Some(bridge) = property("bridge").filter(|bridge| bridge.starts_with("vmbr")) else { return };
        let tag = property("tag").map(|tag| format!("/{tag}")).unwrap_or_default();
        self.pve(&spec.host, format!("/sdn/zones/localnetwork/{bridge}{tag}"), &["SDN.Use"]);
    }
}

/// Where the privileges on a machine are held that does not exist yet: on its pool, if it gets one.
fn machine(spec: &WorkerSpec) -> String {
    spec.pool.as_ref().map_or_else(|| format!("/vms/{}", spec.vmid), |pool| format!("/pool/{pool}"))
}
