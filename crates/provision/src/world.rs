//! Both planes to write to, and a fresh reading of them.

use std::collections::BTreeSet;

use capplan_model::Snapshot;
use capplan_model::ids::HostName;
use capplan_model::plan::{GuestRef, Plan, StepAction};
use jiff::Timestamp;

use crate::kube::{self, Connection};
use crate::observe::{ObserveError, observe};
use crate::pve::{self, Endpoint, PveError};

/// Both planes, with the right to change them.
pub struct World {
    connection: Connection,
    endpoints: Vec<Endpoint>,
    /// The cluster.
    pub kube: kube::Writer,
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
        let mut planes = Vec::new();
        for endpoint in endpoints {
            let writer = pve::Writer::new(pve::Reader::new(endpoint.clone())?);
            let refused = |source: PveError| ObserveError::Pve { url: endpoint.url.clone(), source };
            let hosts = writer.hosts().await.map_err(refused)?;
            planes.push(Plane { name: endpoint.name.clone(), hosts, writer });
        }
        Ok(Self { connection: connection.clone(), endpoints: endpoints.to_vec(), kube: kube::Writer::new(reader), pve: planes })
    }

    /// Reads both planes now.
    ///
    /// # Errors
    /// [`ObserveError`] if nothing can be read.
    pub async fn observe(&self) -> Result<Snapshot, ObserveError> {
        observe(&self.connection, &self.endpoints, Timestamp::now(), &|_| {}).await
    }

    /// Privileges that the steps of a plan need and that one of the two accounts lacks, in words.
    ///
    /// # Errors
    /// [`ObserveError`] if that cannot be asked.
    pub async fn missing(&self, plan: &Plan) -> Result<Vec<String>, ObserveError> {
        let (mut kube, mut pve) = (BTreeSet::new(), BTreeSet::new());
        for step in &plan.steps {
            let on = |guest: &GuestRef, privilege| ((guest.host.clone(), guest.vmid), privilege);
            match &step.change {
                StepAction::Cordon { .. } | StepAction::Uncordon { .. } | StepAction::Label { .. } => {
                    kube.insert(("patch", "", "nodes"));
                }
                StepAction::Evict { close, .. } => {
                    kube.insert(("create", "", "pods/eviction"));
                    kube.extend((!close.is_empty()).then_some(("patch", "", "nodes")));
                }
                StepAction::DeleteNode { .. } => drop(kube.insert(("delete", "", "nodes"))),
                StepAction::StartGuest { guest } | StepAction::ShutDownGuest { guest } => {
                    pve.insert(on(guest, "VM.PowerMgmt"));
                }
                StepAction::DestroyGuest { guest } => drop(pve.insert(on(guest, "VM.Allocate"))),
                StepAction::KeepGuestOff { guest } => drop(pve.insert(on(guest, "VM.Config.Options"))),
                StepAction::UnplugGhost { guest, .. } => drop(pve.insert(on(guest, "VM.Config.Disk"))),
                StepAction::AddWorker(_) | StepAction::Wait | StepAction::Manual { .. } => {}
            }
        }
        let mut missing = Vec::new();
        for (verb, group, resource) in kube {
            if !self.kube.reader().may(verb, group, resource).await? {
                missing.push(format!("Kubernetes: {verb} {resource}"));
            }
        }
        for ((host, vmid), privilege) in pve {
            // A host that nobody speaks for is refused by the step itself.
            let Ok((writer, _)) = self.pve(&host) else { continue };
            let path = format!("/vms/{vmid}");
            let refused = |source| ObserveError::Pve { url: host.to_string(), source };
            if !writer.privileges(&path).await.map_err(refused)?.contains(privilege) {
                missing.push(format!("Proxmox VE: {privilege} on {path}"));
            }
        }
        Ok(missing)
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
