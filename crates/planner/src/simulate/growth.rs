//! What new volumes and the disks of new workers may take of the storages they are on.
//!
//! Thin pools commonly promise more than they have. But new disks that what is free now could not hold,
//! once they are written full, are no yes.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Reading;
use capplan_model::ids::{HostName, NodeName};
use capplan_model::kube::{Claim, StorageClass};
use capplan_model::pve::Host;
use capplan_model::units::Bytes;

use super::play::Player;
use super::result::PoolGrowth;

/// The storages that grow, and why it is not certain that they can.
#[derive(Debug, Default)]
pub(super) struct Growth {
    pub pools: BTreeMap<String, PoolGrowth>,
    pub doubts: BTreeSet<String>,
}

impl Growth {
    /// Growth by everything that the changes added and that found a place.
    pub(super) fn of(player: &Player<'_>) -> Self {
        let mut growth = Self::default();
        growth.add_volumes(player);
        for worker in player.workers.iter().filter(|worker| worker.refused.is_none()) {
            match &worker.guest.config {
                Reading::Known(config) => {
                    for disk in config.disks.values().filter(|disk| !disk.cdrom) {
                        let storage = disk.volume.split_once(':').map_or("", |(storage, _)| storage);
                        match disk.size {
                            Some(size) => growth.add(player, &worker.guest.host, storage, size, |pool| &mut pool.disks),
                            None => drop(growth.doubts.insert(format!("how large a disk {} needs", worker.node.name))),
                        }
                    }
                }
                Reading::Unknown { why } => {
                    growth.doubts.insert(format!("whether a pool holds the disk of {}: {why}", worker.node.name));
                }
            }
        }
        for pool in growth.pools.values().filter(|pool| pool.used_after > pool.size) {
            growth.doubts.insert(format!(
                "whether {} holds the new disks: {} are free, they take up to {} once written full",
                pool.name,
                pool.size.minus(pool.used),
                pool.used_after.minus(pool.used)
            ));
        }
        growth
    }

    fn add_volumes(&mut self, player: &Player<'_>) {
        if player.claims.is_empty() {
            return;
        }
        let (snapshot, cluster) = (player.ground.snapshot, &player.scheduler.cluster);
        let mut claims: BTreeMap<(&str, &str), &Claim> =
            player.claims.iter().map(|claim| ((claim.namespace.as_str(), claim.name.as_str()), claim)).collect();
        let classes: BTreeMap<&str, &StorageClass> = snapshot
            .kube
            .storage_classes
            .items()
            .iter()
            .filter(|class| class.provisioner == player.ground.policy.attacher)
            .map(|class| (class.name.as_str(), class))
            .collect();
        let host_of = |node: &NodeName| -> Option<&HostName> {
            let new = player.workers.iter().find(|worker| worker.node.name == *node).map(|worker| &worker.guest.host);
            new.or_else(|| Some(&player.ground.guest(node)?.host))
        };
        for pod in &player.placed {
            let Some(node) = cluster.node_of(*pod).map(|node| &cluster.node(node).name) else { continue };
            let pod = cluster.pod(*pod);
            for claim in
                pod.claims.iter().filter_map(|claim| claims.remove(&(pod.namespace.as_str(), claim.as_str()))).collect::<Vec<_>>()
            {
                let Some(class) = classes.get(claim.storage_class.as_str()) else { continue };
                match host_of(node) {
                    Some(host) => self.add(player, host, &class.storage, claim.requested, |pool| &mut pool.volumes),
                    None => {
                        let why = || format!("no VM is known to be {node}");
                        let why = player.ground.joins.why().map_or_else(why, str::to_owned);
                        self.doubts.insert(format!("whether a pool holds the new volumes: {why}"));
                    }
                }
            }
        }
    }

    fn add(&mut self, player: &Player<'_>, host: &HostName, storage: &str, size: Bytes, part: fn(&mut PoolGrowth) -> &mut Bytes) {
        let known = player.ground.snapshot.hosts().find(|one| one.name == *host);
        // Every real host has a storage: this one is of a scenario that leaves them out.
        if known.is_some_and(|host| host.storages.known().is_some_and(Vec::is_empty)) {
            return;
        }
        match known.map_or_else(|| Err(format!("host {host} is not known")), |host| pool(host, storage)) {
            Ok(pool) => {
                let pool = self.pools.entry(pool.name.clone()).or_insert(pool);
                *part(pool) += size;
                pool.used_after += size;
            }
            Err(why) => {
                self.doubts.insert(format!("whether a pool holds the new disks: {why}"));
            }
        }
    }
}

/// The storage as it is now: storages on one thin pool are that pool.
fn pool(host: &Host, name: &str) -> Result<PoolGrowth, String> {
    let storages = match &host.storages {
        Reading::Known(storages) => storages,
        Reading::Unknown { why } => return Err(format!("storages of {}: {why}", host.name)),
    };
    let storage =
        storages.iter().find(|storage| storage.name == name).ok_or_else(|| format!("{} has no storage `{name}`", host.name))?;
    let name = match host.pool_of(storage) {
        Some(pool) => format!("{}/{}", host.name, pool.name),
        None if storage.shared => storage.name.clone(),
        None => format!("{}/{}", host.name, storage.name),
    };
    Ok(PoolGrowth { name, used: storage.used, volumes: Bytes(0), disks: Bytes(0), used_after: storage.used, size: storage.total })
}
