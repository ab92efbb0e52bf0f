//! Both planes into one snapshot: errors are recorded, not raised.
//!
//! Raised are only errors that the user has to mend before anything can be trusted: no
//! configuration, a refused credential, a wrong certificate. A plane that does not answer leaves
//! unknowns; if neither answers, there is nothing to report.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use capplan_model::Reading;
use capplan_model::ids::HostName;
use capplan_model::kube::Kube;
use capplan_model::pve::Pve;
use capplan_model::snapshot::{Snapshot, Source};
use futures::future::join_all;
use jiff::Timestamp;

use crate::kube::{self, Connection, KubeError};
use crate::pve::{self, Endpoint, EndpointError, PveError};

/// Why nothing could be observed.
#[derive(Debug, thiserror::Error)]
pub enum ObserveError {
    /// The Kubernetes plane needs mending.
    #[error(transparent)]
    Kube(#[from] KubeError),
    /// The configuration of a Proxmox VE endpoint needs mending.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A Proxmox VE endpoint needs mending.
    #[error("cannot use the Proxmox VE endpoint {url}")]
    Pve {
        /// Its address.
        url: String,
        /// Why.
        source: PveError,
    },
    /// Neither plane answers.
    #[error("neither plane answers: {kube}; {pve}")]
    Silence {
        /// What the Kubernetes plane said.
        kube: String,
        /// What the Proxmox VE plane said.
        pve: String,
    },
}

impl ObserveError {
    /// The way out.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Kube(error) => error.hint().map(str::to_owned),
            Self::Endpoint(error) => error.hint(),
            Self::Pve { source, .. } => source.hint(),
            Self::Silence { .. } => Some("`capplan doctor` tries each connection on its own".to_owned()),
        }
    }
}

/// An error with all its causes on one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Reads both planes; `taken` becomes the snapshot's instant.
///
/// VolumeAttachments are read before and after the VM configs, so that an attach or detach under
/// way is not mistaken for a ghost.
///
/// # Errors
/// [`ObserveError`] if a credential or certificate is refused or neither plane answers.
pub async fn observe(
    connection: &Connection,
    endpoints: &[Endpoint],
    taken: Timestamp,
    progress: &(dyn Fn(&str) + Sync),
) -> Result<Snapshot, ObserveError> {
    let deadline = connection.limits.deadline();
    let reader = kube::Reader::connect(connection).await?.until(deadline);
    let mut readers = Vec::new();
    for endpoint in endpoints {
        let reader = pve::Reader::new(endpoint.clone())?.until(deadline);
        readers.push((endpoint, reader));
    }
    let (kube_check, pve_checks) =
        futures::join!(kube::observe::check(&reader), join_all(readers.iter().map(|(_, reader)| pve::check(reader))));
    let kube_silent = match kube_check {
        Ok(()) => None,
        Err(error) if error.is_fatal() => return Err(error.into()),
        Err(error) => Some(causes(&error)),
    };
    let mut pve_silent: Vec<Option<String>> = Vec::new();
    for ((endpoint, _), check) in readers.iter().zip(pve_checks) {
        match check {
            Ok(()) => pve_silent.push(None),
            Err(error) if error.is_fatal() => return Err(ObserveError::Pve { url: endpoint.url.clone(), source: error }),
            Err(error) => pve_silent.push(Some(causes(&error))),
        }
    }
    if let Some(kube) = &kube_silent
        && pve_silent.iter().all(Option::is_some)
    {
        let pve = pve_silent.into_iter().flatten().collect::<Vec<_>>().join("; ");
        return Err(ObserveError::Silence { kube: kube.clone(), pve });
    }
    let before = match &kube_silent {
        Some(why) => Reading::unknown(why),
        None => kube::observe::volume_attachments(&reader, progress).await,
    };
    let kube = async {
        match &kube_silent {
            Some(why) => silent_kube(why),
            None => kube::observe::observe(&reader, progress).await,
        }
    };
    let pve = join_all(readers.iter().zip(&pve_silent).map(|((endpoint, reader), silent)| async move {
        match silent {
            Some(why) => silent_pve(endpoint, why),
            None => {
                let pve = pve::observe(reader, progress).await;
                // Neither configured nor told: the address names it.
                let name = if pve.name.is_empty() { endpoint.url.clone() } else { pve.name };
                Pve { name, ..pve }
            }
        }
    }));
    let (mut kube, pve) = futures::join!(kube, pve);
    let after = match &kube_silent {
        Some(why) => Reading::unknown(why),
        None => kube::observe::volume_attachments(&reader, progress).await,
    };
    kube.volume_attachments = kube::observe::merge(before, after);
    Ok(assemble(kube, pve, taken, Source::Live))
}

/// Builds a snapshot from saved lists: Kubernetes lists in `folder`, PVE answers in `folder/pve`.
pub fn from_lists(folder: &Path, taken: Timestamp) -> Snapshot {
    let start = Instant::now();
    let kube = kube::lists::read(folder);
    tracing::info!(seconds = start.elapsed().as_secs_f64(), "lists read");
    assemble(kube, vec![pve::from_files(&folder.join("pve"))], taken, Source::Lists)
}

fn assemble(kube: Kube, mut pve: Vec<Pve>, taken: Timestamp, source: Source) -> Snapshot {
    qualify_hosts(&mut pve);
    let cluster = kube.namespaces.items().iter().find(|namespace| namespace.name == "kube-system");
    let cluster = cluster.map(|namespace| namespace.uid.clone()).unwrap_or_default();
    let mut snapshot = Snapshot { taken, source, cluster, kube, pve };
    snapshot.sort();
    snapshot
}

/// Prefixes host names that several endpoints use (`pve` is the installer's default) by the
/// endpoint's name.
fn qualify_hosts(endpoints: &mut [Pve]) {
    let mut seen: BTreeMap<HostName, usize> = BTreeMap::new();
    for host in endpoints.iter().flat_map(|pve| pve.hosts.items()) {
        *seen.entry(host.name.clone()).or_default() += 1;
    }
    for pve in endpoints {
        qualify(pve, &|name| seen.get(name).is_some_and(|count| *count > 1));
    }
}

/// Prefixes the names of some hosts of an endpoint by the endpoint's.
pub(crate) fn qualify(pve: &mut Pve, is_shared: &dyn Fn(&HostName) -> bool) {
    let prefix = pve.name.clone();
    let qualify = |name: &mut HostName| {
        if is_shared(name) {
            name.0 = format!("{prefix}/{}", name.0);
        }
    };
    if let Reading::Known(hosts) = &mut pve.hosts {
        hosts.iter_mut().for_each(|host| qualify(&mut host.name));
    }
    if let Reading::Known(guests) = &mut pve.guests {
        guests.iter_mut().for_each(|guest| qualify(&mut guest.host));
    }
    if let Reading::Known(tasks) = &mut pve.failed_tasks {
        tasks.iter_mut().for_each(|task| qualify(&mut task.host));
    }
    if let Reading::Known(mappings) = &mut pve.pci_mappings {
        mappings.iter_mut().flat_map(|mapping| &mut mapping.hosts).for_each(qualify);
    }
}

fn silent_kube(why: &str) -> Kube {
    Kube {
        version: Reading::unknown(why),
        nodes: Reading::unknown(why),
        leases: Reading::unknown(why),
        pods: Reading::unknown(why),
        persistent_volumes: Reading::unknown(why),
        claims: Reading::unknown(why),
        storage_classes: Reading::unknown(why),
        volume_attachments: Reading::unknown(why),
        csi_nodes: Reading::unknown(why),
        csi_drivers: Reading::unknown(why),
        csi_storage_capacities: Reading::unknown(why),
        pdbs: Reading::unknown(why),
        deployments: Reading::unknown(why),
        stateful_sets: Reading::unknown(why),
        daemon_sets: Reading::unknown(why),
        replica_sets: Reading::unknown(why),
        jobs: Reading::unknown(why),
        cron_jobs: Reading::unknown(why),
        priority_classes: Reading::unknown(why),
        namespaces: Reading::unknown(why),
        services: Reading::unknown(why),
        quotas: Reading::unknown(why),
        events: Reading::unknown(why),
        node_metrics: Reading::unknown(why),
        ipam_handles: Reading::unknown(why),
    }
}

fn silent_pve(endpoint: &Endpoint, why: &str) -> Pve {
    Pve {
        name: if endpoint.name.is_empty() { endpoint.url.clone() } else { endpoint.name.clone() },
        version: Reading::unknown(why),
        quorate: Reading::unknown(why),
        hosts: Reading::unknown(why),
        guests: Reading::unknown(why),
        pci_mappings: Reading::unknown(why),
        failed_tasks: Reading::unknown(why),
        pools_shown: Reading::unknown(why),
        replication: Reading::unknown(why),
        backup_jobs: Reading::unknown(why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use capplan_model::ids::VmId;
    use capplan_model::pve::{Guest, Host};

    #[test]
    fn two_standalone_hosts_of_one_name_are_told_apart() {
        let endpoint = |name: &str, vmid| Pve {
            name: name.into(),
            hosts: Reading::Known(vec![Host { name: "pve".into(), ..Default::default() }]),
            guests: Reading::Known(vec![Guest { vmid: VmId(vmid), host: "pve".into(), ..Default::default() }]),
            ..Default::default()
        };
        let snapshot =
            assemble(Kube::default(), vec![endpoint("home", 1), endpoint("attic", 2)], Timestamp::UNIX_EPOCH, Source::Live);
        let hosts: Vec<&str> = snapshot.hosts().map(|host| host.name.as_str()).collect();
        assert_eq!(hosts, ["attic/pve", "home/pve"]);
        assert_eq!(snapshot.guests_of(&"home/pve".into()).known().map(Vec::len), Some(1));
    }
}
