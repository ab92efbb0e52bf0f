//! Builds the Kubernetes plane from saved lists (`kubectl get … -A -o json`).

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use capplan_model::Reading;
use capplan_model::kube::{Kube, Pod, Workload};
use serde::Deserialize;

use super::stream;
use super::wire::{self, Listed, NodeLease};
use crate::observe::causes;

/// The file of that name: `kubectl get -o json` lists lie in the folder itself, raw answers of the
/// API in `api`.
fn open(folder: &Path, name: &str) -> Reading<File> {
    let places = [folder.join(name), folder.join("api").join(name)];
    match places.iter().find(|path| path.exists()).map(File::open) {
        Some(Ok(file)) => Reading::Known(file),
        Some(Err(error)) => Reading::unknown(format!("cannot open {name}: {error}")),
        None => Reading::unknown(format!("{name} is not in the folder of saved lists")),
    }
}

fn list<T: Listed>(folder: &Path) -> Reading<Vec<T>> {
    let name = format!("{}.json", T::PLURAL);
    open(folder, &name).and_then(|file| match stream::read::<T>(&file, file.metadata().ok().map(|file| file.len())) {
        Ok(list) if list.next.is_some() => Reading::unknown(format!("{name} is one page of several: save the whole list")),
        Ok(list) => Reading::Known(list.items),
        Err(error) => Reading::unknown(format!("{name} {}", causes(&error))),
    })
}

fn workloads<T: Listed>(folder: &Path, inner: fn(T) -> Workload) -> Reading<Vec<Workload>> {
    list::<T>(folder).map(|items| items.into_iter().map(inner).collect())
}

/// Reads the lists of `folder`, one file a kind, named by its plural: `pods.json` …
///
/// A file that is missing or not a list becomes an unknown. No list of Secrets or ConfigMaps is
/// looked for.
pub fn read(folder: &Path) -> Kube {
    let version = open(folder, "version.json").and_then(|file| {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Version {
            git_version: Option<String>,
            server_version: Option<Box<Version>>,
        }
        // `kubectl version -o json` nests the server's answer.
        let parsed: Option<Version> = serde_json::from_reader(BufReader::new(file)).ok();
        let told = parsed.and_then(|one| one.git_version.or_else(|| one.server_version.and_then(|inner| inner.git_version)));
        told.map_or_else(|| Reading::unknown("version.json names no gitVersion"), Reading::Known)
    });
    // Pods are nearly all of the text: they are read beside the rest.
    let (pods, mut kube) = rayon::join(
        || list(folder),
        || Kube {
            nodes: list(folder),
            leases: list::<NodeLease>(folder)
                .map(|leases| leases.into_iter().map(|NodeLease(name, renewed)| (name.into(), renewed)).collect()),
            persistent_volumes: list(folder),
            claims: list(folder),
            storage_classes: list(folder),
            volume_attachments: list(folder),
            csi_nodes: list(folder),
            csi_drivers: list(folder),
            csi_storage_capacities: list(folder),
            pdbs: list(folder),
            deployments: workloads::<wire::Deployment>(folder, |one| one.0),
            stateful_sets: workloads::<wire::StatefulSet>(folder, |one| one.0),
            daemon_sets: workloads::<wire::DaemonSet>(folder, |one| one.0),
            replica_sets: workloads::<wire::ReplicaSet>(folder, |one| one.0),
            jobs: workloads::<wire::Job>(folder, |one| one.0),
            cron_jobs: workloads::<wire::CronJob>(folder, |one| one.0),
            priority_classes: list(folder),
            namespaces: list(folder),
            services: list(folder),
            quotas: list(folder),
            events: list(folder),
            node_metrics: list(folder),
            ipam_handles: list::<wire::IpamHandle>(folder).map(|handles| Some(handles.len() as u64)),
            ..Kube::default()
        },
    );
    kube.pods = pods;
    kube.version = version;
    kube
}

/// Reads the pods of one list.
///
/// # Errors
/// The text is not a list of pods.
pub fn pods(text: &[u8]) -> Result<Vec<Pod>, serde_json::Error> {
    wire::List::<Pod>::decode(text).map(|list| list.items)
}
