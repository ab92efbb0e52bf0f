//! Reads the Kubernetes plane: every list on its own, a failed one becomes an unknown.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Reading;
use capplan_model::kube::{Kube, VolumeAttachment, Workload};
use futures::future::join_all;

use super::client::{KubeError, Reader};
use super::wire::{self, Listed, NodeLease};
use crate::observe::causes;

/// What the reader tells while it works: one line a list.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

fn reading<T>(what: &str, answer: Result<T, KubeError>) -> Reading<T> {
    match answer {
        Ok(value) => Reading::Known(value),
        Err(error) => Reading::unknown(format!("{what}: {}", causes(&error))),
    }
}

async fn list<T: Listed>(reader: &Reader, progress: Progress<'_>) -> Reading<Vec<T>> {
    progress(T::PLURAL);
    reading(&format!("list {}", T::PLURAL), reader.list::<T>().await)
}

async fn workloads<T: Listed>(reader: &Reader, progress: Progress<'_>, inner: fn(T) -> Workload) -> Reading<Vec<Workload>> {
    list::<T>(reader, progress).await.map(|items| items.into_iter().map(inner).collect())
}

/// Checks that the server answers and accepts the credential.
///
/// # Errors
/// [`KubeError`] that the user has to mend: no answer, or the credential is refused. That a list
/// is forbidden is no error here: it becomes an unknown.
pub async fn check(reader: &Reader) -> Result<(), KubeError> {
    for answer in [reader.version().await.map(drop), reader.get("/api/v1/nodes?limit=1").await.map(drop)] {
        use KubeError::{Config, Connect, Timeout, TooLarge, Unauthorized};
        if let Err(error @ (Unauthorized { .. } | Connect { .. } | Timeout { .. } | TooLarge { .. } | Config(_))) = answer {
            return Err(error);
        }
    }
    Ok(())
}

/// The VolumeAttachments now.
pub async fn volume_attachments(reader: &Reader, progress: Progress<'_>) -> Reading<Vec<VolumeAttachment>> {
    list(reader, progress).await
}

/// Two readings of the VolumeAttachments, one before and one after the VM configs, as one list.
///
/// Attachments of the second reading stand; those that were only in the first are kept as
/// `vanished`, so that a disk whose detach was under way is not called a ghost.
pub fn merge(before: Reading<Vec<VolumeAttachment>>, after: Reading<Vec<VolumeAttachment>>) -> Reading<Vec<VolumeAttachment>> {
    before.and_then(|before| {
        after.map(|mut after| {
            let names: BTreeSet<String> = after.iter().map(|one| one.name.clone()).collect();
            after.extend(
                before.into_iter().filter(|one| !names.contains(&one.name)).map(|one| VolumeAttachment { vanished: true, ..one }),
            );
            after
        })
    })
}

/// Reads again what says whether a disk is in use and a node empty: nodes, pods, PersistentVolumes, claims and
/// VolumeAttachments.
pub async fn refresh(reader: &Reader, kube: &mut Kube) {
    let quiet = |_: &str| {};
    (kube.nodes, kube.pods, kube.persistent_volumes, kube.claims, kube.volume_attachments) = futures::join!(
        list(reader, &quiet),
        list(reader, &quiet),
        list(reader, &quiet),
        list(reader, &quiet),
        list(reader, &quiet),
    );
}

/// Reads everything but the VolumeAttachments, at most all lists at once.
pub async fn observe(reader: &Reader, progress: Progress<'_>) -> Kube {
    let mut kube = Kube::default();
    let version = async { reading("version", reader.version().await) };
    let leases = async {
        list::<NodeLease>(reader, progress)
            .await
            .map(|leases| leases.into_iter().map(|NodeLease(name, renewed)| (name.into(), renewed)).collect::<BTreeMap<_, _>>())
    };
    let handles = async {
        progress("ipamhandles");
        reading("count ipamhandles", reader.count::<wire::IpamHandle>().await)
    };
    let all_workloads = async {
        futures::join!(
            workloads::<wire::Deployment>(reader, progress, |one| one.0),
            workloads::<wire::StatefulSet>(reader, progress, |one| one.0),
            workloads::<wire::DaemonSet>(reader, progress, |one| one.0),
            workloads::<wire::ReplicaSet>(reader, progress, |one| one.0),
            workloads::<wire::Job>(reader, progress, |one| one.0),
            workloads::<wire::CronJob>(reader, progress, |one| one.0),
        )
    };
    let storage = async {
        futures::join!(
            list(reader, progress),
            list(reader, progress),
            list(reader, progress),
            list(reader, progress),
            list(reader, progress),
            list(reader, progress),
        )
    };
    let rest = async {
        futures::join!(
            list(reader, progress),
            list(reader, progress),
            list(reader, progress),
            list(reader, progress),
            list(reader, progress),
            list(reader, progress),
        )
    };
    let services = list(reader, progress);
    let pods = list(reader, progress);
    let nodes = list(reader, progress);
    let (version, leases, handles, workloads, storage, rest, services, pods, nodes) =
        futures::join!(version, leases, handles, all_workloads, storage, rest, services, pods, nodes);
    kube.version = version;
    kube.leases = leases;
    kube.ipam_handles = handles;
    (kube.deployments, kube.stateful_sets, kube.daemon_sets, kube.replica_sets, kube.jobs, kube.cron_jobs) = workloads;
    (kube.persistent_volumes, kube.claims, kube.storage_classes, kube.csi_nodes, kube.csi_drivers, kube.csi_storage_capacities) =
        storage;
    (kube.pdbs, kube.priority_classes, kube.namespaces, kube.quotas, kube.events, kube.node_metrics) = rest;
    kube.services = services;
    kube.pods = pods;
    kube.nodes = nodes;
    kube
}

/// A resource that a report reads: API group and plural name.
pub const RESOURCES: [(&str, &str); 24] = [
    ("", "nodes"),
    ("", "pods"),
    ("", "persistentvolumes"),
    ("", "persistentvolumeclaims"),
    ("", "namespaces"),
    ("", "resourcequotas"),
    ("", "services"),
    ("", "events"),
    ("storage.k8s.io", "storageclasses"),
    ("storage.k8s.io", "volumeattachments"),
    ("storage.k8s.io", "csinodes"),
    ("storage.k8s.io", "csidrivers"),
    ("storage.k8s.io", "csistoragecapacities"),
    ("policy", "poddisruptionbudgets"),
    ("apps", "deployments"),
    ("apps", "statefulsets"),
    ("apps", "daemonsets"),
    ("apps", "replicasets"),
    ("batch", "jobs"),
    ("batch", "cronjobs"),
    ("scheduling.k8s.io", "priorityclasses"),
    ("coordination.k8s.io", "leases"),
    ("metrics.k8s.io", "nodes"),
    ("crd.projectcalico.org", "ipamhandles"),
];

/// Asks for each resource of a report whether the account may list it.
pub async fn permissions(reader: &Reader) -> Vec<(&'static str, &'static str, Result<bool, KubeError>)> {
    join_all(
        RESOURCES
            .iter()
            .map(|(group, resource)| async move { (*group, *resource, reader.may("list", group, resource, None).await) }),
    )
    .await
}
