//! Which guest is which node.

use std::collections::BTreeMap;

use crate::ids::NodeName;
use crate::kube::Node;
use crate::pve::{Guest, GuestKind};
use crate::reading::Reading;
use crate::snapshot::Snapshot;

/// What joins a node and its VM.
#[derive(Clone, Debug, PartialEq)]
pub enum Join<'a> {
    /// This VM and no other.
    Guest(&'a Guest),
    /// No VM matches.
    Missing,
    /// Several VMs match, or the evidence contradicts itself: refuse to guess.
    Ambiguous {
        /// The VMs, lowest VMID first.
        candidates: Vec<&'a Guest>,
        /// What does not agree.
        why: String,
    },
}

/// Joins every node with its VM by SMBIOS UUID, provider id and name.
///
/// All evidence must point to the same single VM. Two VMs that carry a node's name are ambiguous
/// even if other evidence would decide: one of them is a stale copy, and which one is for a human
/// to say.
pub fn join(snapshot: &Snapshot) -> Reading<BTreeMap<&NodeName, Join<'_>>> {
    if let Reading::Unknown { why } = snapshot.guests_known() {
        return Reading::Unknown { why };
    }
    snapshot.kube.nodes.as_ref().map(|nodes| {
        let guests: Vec<&Guest> = snapshot.guests().filter(|guest| guest.kind == GuestKind::Qemu && !guest.template).collect();
        nodes.iter().map(|node| (&node.name, join_one(node, &guests))).collect()
    })
}

fn join_one<'a>(node: &Node, guests: &[&'a Guest]) -> Join<'a> {
    let matching = |test: &dyn Fn(&Guest) -> bool| guests.iter().copied().filter(|guest| test(guest)).collect::<Vec<_>>();
    let by_name = matching(&|guest| guest.name == node.name.as_str());
    if by_name.len() > 1 {
        return ambiguous(by_name, format!("several VMs are named {}", node.name));
    }
    let by_uuid = node.system_uuid.as_deref().map_or_else(Vec::new, |uuid| {
        matching(&|guest| {
            guest.config.known().and_then(|config| config.uuid.as_deref()).is_some_and(|own| own.eq_ignore_ascii_case(uuid))
        })
    });
    if by_uuid.len() > 1 {
        return ambiguous(by_uuid, format!("several VMs have the SMBIOS UUID of {}", node.name));
    }
    let vmid = node.provider_id.as_deref().and_then(provider_vmid);
    let by_id = vmid.map_or_else(Vec::new, |vmid| matching(&|guest| guest.vmid.0 == vmid));
    // A VMID alone says nothing when several PVE clusters are read: it only confirms.
    let by_id = if by_id.len() > 1 { Vec::new() } else { by_id };
    let mut found: Vec<&Guest> = Vec::new();
    for guest in by_uuid.iter().chain(&by_name).chain(&by_id) {
        if !found.iter().any(|one| one.vmid == guest.vmid && one.host == guest.host) {
            found.push(guest);
        }
    }
    match found.as_slice() {
        [] => Join::Missing,
        [guest] => Join::Guest(guest),
        [first, ..] if by_uuid.len() == 1 && by_name.is_empty() => Join::Guest(first),
        _ => ambiguous(found, format!("name, UUID and provider id of {} point to different VMs", node.name)),
    }
}

fn ambiguous(mut candidates: Vec<&Guest>, why: String) -> Join<'_> {
    candidates.sort_by_key(|guest| guest.vmid);
    Join::Ambiguous { candidates, why }
}

/// VMID of a provider id such as `proxmox://region/201`.
fn provider_vmid(id: &str) -> Option<u32> {
    id.strip_prefix("proxmox://")?.rsplit('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::VmId;
    use crate::pve::{GuestConfig, Pve};

    fn guest(vmid: u32, name: &str, uuid: &str) -> Guest {
        let config = GuestConfig { uuid: Some(uuid.into()), ..Default::default() };
        Guest { vmid: VmId(vmid), name: name.into(), config: Reading::Known(config), ..Default::default() }
    }

    fn joined(node: Node, guests: Vec<Guest>) -> String {
        let mut snapshot = Snapshot::default();
        snapshot.kube.nodes = Reading::Known(vec![node]);
        snapshot.pve = vec![Pve { guests: Reading::Known(guests), ..Default::default() }];
        let joins = join(&snapshot).into_known().expect("both planes known");
        match joins.into_values().next().expect("one node") {
            Join::Guest(guest) => guest.vmid.to_string(),
            Join::Missing => "missing".into(),
            Join::Ambiguous { .. } => "ambiguous".into(),
        }
    }

    fn node() -> Node {
        Node {
            name: "w1".into(),
            system_uuid: Some("AA".into()),
            provider_id: Some("proxmox://r/201".into()),
            ..Default::default()
        }
    }

    #[test]
    fn agreeing_evidence_joins_and_two_of_a_name_are_refused() {
        assert_eq!(joined(node(), vec![guest(201, "w1", "aa"), guest(202, "w2", "bb")]), "201");
        assert_eq!(joined(node(), vec![guest(201, "w1", "aa"), guest(206, "w1", "cc")]), "ambiguous");
        assert_eq!(joined(node(), vec![guest(201, "w1", "aa"), guest(206, "x", "aa")]), "ambiguous");
        assert_eq!(joined(node(), vec![guest(202, "w2", "bb")]), "missing");
    }

    #[test]
    fn contradicting_evidence_is_refused() {
        assert_eq!(joined(node(), vec![guest(201, "old", "bb"), guest(206, "w1", "aa")]), "ambiguous");
    }

    #[test]
    fn a_template_is_never_a_node() {
        let template = Guest { template: true, ..guest(201, "w1", "aa") };
        assert_eq!(joined(node(), vec![template]), "missing");
    }
}
