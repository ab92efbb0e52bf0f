//! What `doctor` asks of an endpoint, and what an import takes from its archives.

use capplan_model::capacity::Dimension;
use capplan_model::history::Sample;
use capplan_model::ids::HostName;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

use super::client::{Reader, segment};
use super::error::PveError;
use super::history::{Consolidation, Timeframe, rrd, rrd_storage};
use super::observe::observe_hosts;
use super::wire::{NodeRow, Permissions, Version};
use crate::observe::causes;

/// What a report reads, and the path and privilege that show it.
///
/// # Source
/// The API's own permission rules, measured by dropping one at a time (PVE 9.2).
const NEEDED: [(&str, &str); 5] = [
    ("/", "Sys.Audit"),
    ("/nodes", "Sys.Audit"),
    ("/vms", "VM.Audit"),
    ("/storage", "Datastore.Audit"),
    ("/mapping/pci", "Mapping.Audit"),
];

impl PveError {
    /// Whether the user has to mend something before this endpoint can be trusted at all.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Unauthorized { .. } | Self::Fingerprint { .. } | Self::Tls { .. })
    }
}

/// Checks that the endpoint answers and accepts the token.
///
/// # Errors
/// [`PveError`] if there is no answer or the token or certificate is refused. A version that cannot
/// be told is no error here: it becomes an unknown.
pub async fn check(reader: &Reader) -> Result<(), PveError> {
    match reader.get::<Version>("/version", &[]).await {
        Ok(_) | Err(PveError::Forbidden { .. } | PveError::Api { .. } | PveError::Decode { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What a plan for a new worker reads beyond a report: without it, the pool of a VM is left out without a word.
const PLANNED: [(&str, &str); 1] = [("/pool", "Pool.Audit")];

/// Privileges that the token lacks, each `(path, privilege)`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lacking {
    /// Without these a report lacks something.
    pub report: Vec<(&'static str, &'static str)>,
    /// Without these a plan for a new worker does.
    pub plan: Vec<(&'static str, &'static str)>,
}

/// Privileges that the token lacks.
///
/// # Errors
/// [`PveError`] if the permissions cannot be read.
pub async fn missing_privileges(reader: &Reader) -> Result<Lacking, PveError> {
    let permissions: Permissions = reader.get("/access/permissions", &[]).await?;
    let holds = |path: &str, privilege: &str| permissions.0.get(path).is_some_and(|held| held.contains_key(privilege));
    // A privilege on a path above holds below it, too.
    let inherits = |path: &str, privilege: &str| {
        let above = path.match_indices('/').map(|(at, _)| if at == 0 { "/" } else { &path[..at] });
        above.chain([path]).any(|one| holds(one, privilege))
    };
    let lacking = |needed: &[(&'static str, &'static str)]| {
        needed.iter().copied().filter(|(path, privilege)| !inherits(path, privilege)).collect()
    };
    Ok(Lacking { report: lacking(&NEEDED), plan: lacking(&PLANNED) })
}

/// The clocks of the hosts that tell theirs.
pub async fn clocks(reader: &Reader) -> Vec<(String, Timestamp)> {
    #[derive(Deserialize)]
    struct Time {
        time: i64,
    }
    let mut clocks = Vec::new();
    let hosts: Vec<NodeRow> = reader.get("/nodes", &[]).await.unwrap_or_default();
    for host in hosts.iter().filter_map(|row| row.node.as_deref()) {
        let told: Result<Time, PveError> = reader.get(&format!("/nodes/{}/time", segment(host)), &[]).await;
        if let Some(at) = told.ok().and_then(|told| Timestamp::from_second(told.time).ok()) {
            clocks.push((host.to_owned(), at));
        }
    }
    clocks
}

/// Samples of the last `days` from the archives of hosts and of storages that are a thin pool of
/// their own, and what could not be read.
///
/// PVE keeps a month in steps of 30 minutes (PVE 8: 12 hours) and a year in coarser ones.
pub async fn samples(reader: &Reader, now: Timestamp, days: u32) -> (Vec<Sample>, Vec<(String, String)>) {
    let start = now - SignedDuration::from_hours(24 * i64::from(days));
    let timeframe = if days <= 31 { Timeframe::Month } else { Timeframe::Year };
    let (mut samples, mut failed) = (Vec::new(), Vec::new());
    let hosts = observe_hosts(reader).await;
    if let Some(why) = hosts.why() {
        failed.push(("hosts".to_owned(), why.to_owned()));
    }
    for host in hosts.items() {
        let name: &HostName = &host.name;
        match rrd(reader, name, timeframe, Consolidation::Maximum).await {
            Ok(points) => {
                samples.extend(points.into_iter().filter(|point| point.at > start && point.at <= now).filter_map(|point| {
                    let total = point.memory_total?;
                    let used = point.memory_available.map(|available| total - available).or(point.memory_used)?;
                    Some(Sample {
                        at: point.at,
                        dimension: Dimension::HostMemoryUsed,
                        subject: name.to_string(),
                        used,
                        limit: Some(total),
                    })
                }))
            }
            Err(error) => failed.push((format!("memory of {name}"), causes(&error))),
        }
        for storage in host.storages.items() {
            // The archive knows storages, the report pools.
            let Some(pool) = host.pool_of(storage) else { continue };
            match rrd_storage(reader, name, &storage.name, timeframe, Consolidation::Maximum).await {
                Ok(points) => {
                    samples.extend(points.into_iter().filter(|point| point.at > start && point.at <= now).filter_map(|point| {
                        let subject = format!("{name}/{}", pool.name);
                        Some(Sample {
                            at: point.at,
                            dimension: Dimension::PoolData,
                            subject,
                            used: point.used?,
                            limit: point.total,
                        })
                    }))
                }
                Err(error) => failed.push((format!("storage {} of {name}", storage.name), causes(&error))),
            }
        }
    }
    (samples, failed)
}
