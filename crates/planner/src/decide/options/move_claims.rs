//! Move claims: small volumes that hold no database move to a storage that takes no slots of the VMs.

use capplan_model::kube::Pod;
use capplan_model::plan::{Action, Feasibility, Plan};
use capplan_model::policy::Measure;
use capplan_model::units::Bytes;

use super::{ABOUT_ATTACHMENTS, Applies, Choice};
use crate::decide::{Case, Tried};
use crate::plan::scale_down;
use crate::plan::steps::Steps;

pub(super) const OPTION: Choice = Choice { action: Action::MoveClaims, applies: Applies::Due, moves_disks: false, attempt };
/// Largest claim that is small.
const SMALL_CLAIM: Bytes = Bytes(5 << 30);
/// Words in the name or the image of a pod whose files are a database's.
///
/// # Source
/// Field notes: embedded databases do not survive on NFS; these are the ones met there, and their kin.
const DATABASES: [&str; 14] = [
    "postgres",
    "pg-",
    "mysql",
    "maria",
    "mongo",
    "redis",
    "valkey",
    "clickhouse",
    "sqlite",
    "etcd",
    "elastic",
    "influx",
    "dolt",
    "vault",
];

/// Names the smallest claims of each worker that has more volumes attached than the rules allow.
fn attempt(case: &Case<'_, '_>) -> Tried {
    let Some(most) = scale_down::most_attached(case.scene).filter(|_| case.standing.rule(Measure::VolumeAttachments).is_some())
    else {
        return Tried::No("attachments are not what is short".to_owned());
    };
    if let Some(other) = case.standing.met_beside(&ABOUT_ATTACHMENTS) {
        return Tried::No(format!("`{}` would still be met", other.id));
    }
    let is_database = |pod: &Pod| {
        let names = std::iter::once(&pod.name).chain(&pod.images).map(|name| name.to_lowercase());
        names.into_iter().any(|name| DATABASES.iter().any(|word| name.contains(word)))
    };
    let mut list = Steps::default();
    let mut moved = Vec::new();
    for one in case.facts.slots.known().into_iter().flatten() {
        let attached = one.attached.known().map_or(0, Vec::len) as u64;
        let excess = usize::try_from(attached.saturating_sub(most)).unwrap_or(0);
        if excess == 0 {
            continue;
        }
        let here = case
            .scene
            .ground
            .snapshot
            .kube
            .pods
            .items()
            .iter()
            .filter(|pod| pod.node.as_ref() == Some(&one.node) && !pod.is_terminal());
        let mut small: Vec<(Bytes, String)> = here
            .filter(|pod| !is_database(pod))
            .flat_map(|pod| case.scene.inventory.volumes(pod).map(move |volume| (pod, volume)))
            .filter(|(_, volume)| volume.driver == case.scene.ground.policy.attacher && volume.capacity <= SMALL_CLAIM)
            .filter_map(|(_, volume)| Some((volume.capacity, volume.claim.as_ref()?.0.clone())))
            .collect();
        small.sort();
        small.dedup();
        if small.len() < excess {
            return Tried::No(format!(
                "{} has {} small claims that are no database's, {excess} would have to go",
                one.node,
                small.len()
            ));
        }
        for (size, claim) in small.into_iter().take(excess) {
            list.add_manual(
                format!(
                    "move claim {claim} ({size}) of {} to a storage without slots, after a look for an embedded database",
                    one.node
                ),
                format!("kubectl get pvc {claim}"),
            );
            moved.push(claim);
        }
    }
    if moved.is_empty() {
        return Tried::No("no worker has more volumes than it may".to_owned());
    }
    Tried::Works(Box::new(Plan {
        action: OPTION.action,
        target: Some(moved.join(", ")),
        feasibility: Feasibility::Feasible,
        because: vec![format!("{} small claims on another storage bring every worker to {most} volumes or fewer", moved.len())],
        steps: list.done(),
        ..case.empty.clone()
    }))
}
