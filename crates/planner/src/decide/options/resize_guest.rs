//! Resize a guest: a control-plane VM that uses little of its memory gives some back, so that a worker fits.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::ids::NodeName;
use capplan_model::kube::CONTROL_PLANE_LABEL;
use capplan_model::plan::{Action, Feasibility, Plan};
use capplan_model::units::Bytes;

use super::{Applies, Choice};
use crate::decide::{Case, Tried};
use crate::host_fit::{HostRoom, host_rooms};
use crate::plan::steps::Steps;

pub(super) const OPTION: Choice = Choice { action: Action::ResizeGuest, applies: Applies::Due, moves_disks: false, attempt };
/// Least part of a guest's memory that must be unused before it is called oversized.
const UNUSED: f64 = 0.5;

/// Shrinks the first control-plane VM that makes room for a worker of the usual size.
fn attempt(case: &Case<'_, '_>) -> Tried {
    if host_rooms(case.facts).iter().any(HostRoom::fits) {
        return Tried::No("the memory of a host is not what keeps a worker away".to_owned());
    }
    let snapshot = case.scene.ground.snapshot;
    let needed = case.scene.ground.policy.worker.memory + case.scene.ground.policy.worker.host_reserve;
    let masters = snapshot.kube.nodes.items().iter().filter(|node| node.labels.contains_key(CONTROL_PLANE_LABEL));
    let masters: BTreeSet<_> = masters.filter_map(|node| case.scene.ground.guest(&node.name)).map(|guest| guest.vmid).collect();
    let metrics: BTreeMap<&NodeName, Bytes> =
        snapshot.kube.node_metrics.items().iter().map(|one| (&one.name, one.memory)).collect();
    for node in snapshot.kube.nodes.items() {
        let Some(guest) = case.scene.ground.guest(&node.name).filter(|guest| masters.contains(&guest.vmid)) else { continue };
        // What runs inside; PVE's own figure for a guest counts what was ever touched.
        let Some(used) = metrics.get(&node.name).copied().or(guest.memory_used) else { continue };
        let smaller = Bytes((used.0 * 2).next_multiple_of(1 << 30)).max(Bytes(4 << 30));
        let freed = guest.memory().minus(smaller);
        let host = snapshot.hosts().find(|host| host.name == guest.host);
        let Some(available) = host.and_then(|host| host.memory.known()).map(|memory| memory.available()) else { continue };
        if (used.0 as f64) > guest.memory().0 as f64 * UNUSED || available + freed < needed {
            continue;
        }
        let mut list = Steps::default();
        list.add_manual(
            format!(
                "shrink VM {} ({}) from {} to {smaller}, in a quiet hour: it restarts",
                guest.vmid,
                guest.name,
                guest.memory()
            ),
            format!("qm set {} --memory {}", guest.vmid, smaller.0 >> 20),
        );
        list.add_manual("then plan again: a worker fits".to_owned(), "capplan plan scale-up".to_owned());
        return Tried::Works(Box::new(Plan {
            action: OPTION.action,
            target: Some(format!("{} ({})", guest.name, guest.vmid)),
            feasibility: Feasibility::Feasible,
            because: vec![format!(
                "{} uses {used} of its {}: {freed} more on {} make room for a worker of {}",
                guest.name,
                guest.memory(),
                guest.host,
                case.scene.ground.policy.worker.memory
            )],
            steps: list.done(),
            ..case.empty.clone()
        }));
    }
    Tried::No("no control plane has so much memory unused that a worker would fit".to_owned())
}
