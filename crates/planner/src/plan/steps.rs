//! Plans as steps: each says what must hold before, what it does, and what shows that it is done.

use std::collections::BTreeMap;

use capplan_model::ids::NodeName;
use capplan_model::kube::MAX_VOLUMES_LABEL;
use capplan_model::plan::{Condition, Feasibility, GuestRef, Plan, PodMove, Step, StepAction, WorkerSpec};
use capplan_model::policy::Seed;

use super::spec::seed_slot;
use super::{Removal, Scene, newcomer};
use crate::scheduler::Cluster;

/// Seconds until a change that the API server makes at once shows.
pub(crate) const AT_ONCE: u64 = 30;
/// Seconds for a pod to leave and its successor to be ready: its grace period, the reattachment of its
/// volume, its start.
///
/// # Source
/// Runbook: a budget of 15 minutes for one drained pod.
const POD: u64 = 900;

/// Seconds for a guest to shut down before it is a matter for a human.
///
/// # Source
/// Runbook: `shutdown --timeout 300`.
const SHUTDOWN: u64 = 330;

/// Seconds for a guest's disks to be freed: thin volumes go at once, files on a busy pool do not.
const DESTROY: u64 = 600;

/// What becomes of nodes once they are empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// They stay closed.
    StaysClosed,
    /// Each is worked on and opened again.
    ComesBack,
}

/// Numbers steps as they come.
#[derive(Default)]
pub(crate) struct Steps(Vec<Step>);

impl Steps {
    pub(crate) fn add(&mut self, change: StepAction, requires: Vec<Condition>, ensures: Vec<Condition>, deadline_seconds: u64) {
        let number = self.0.len() as u64 + 1;
        let step = Step { number, title: String::new(), change, requires, ensures, deadline_seconds };
        self.0.push(Step { title: step.words(), ..step });
    }

    /// A step that only a human makes.
    pub(crate) fn add_manual(&mut self, what: String, command: String) {
        self.add(StepAction::Manual { what, command }, Vec::new(), Vec::new(), 0);
    }

    /// Tells the scheduler how many volumes a worker takes.
    pub(crate) fn add_volume_label(&mut self, node: &NodeName, slots: u64) {
        let (node, labels) = (node.clone(), BTreeMap::from([(MAX_VOLUMES_LABEL.to_owned(), slots.to_string())]));
        self.add(
            StepAction::Label { node: node.clone(), labels: labels.clone() },
            Vec::new(),
            vec![Condition::Labelled { node: node.clone(), labels }],
            AT_ONCE,
        );
        self.add(
            StepAction::Manual {
                what: format!("restart the storage plugin's pod on {node}: it reads the label when it registers"),
                command: format!("kubectl delete pod -n csi-proxmox --field-selector spec.nodeName={node}"),
            },
            Vec::new(),
            vec![Condition::WorkerReady { node, slots: Some(slots) }],
            300,
        );
    }

    pub(crate) fn done(self) -> Vec<Step> {
        self.0
    }
}

/// Steps that empty the nodes of a plan's order; none if it cannot be carried out.
pub(crate) fn of_drain(scene: &Scene<'_>, cluster: &Cluster<'_>, plan: &Plan, afterwards: Afterwards) -> Vec<Step> {
    let mut steps = Steps::default();
    if plan.feasibility == Feasibility::Feasible {
        emptied(scene, cluster, plan, afterwards, &mut steps, &mut |_, _| {});
    }
    steps.done()
}

/// Steps that empty the nodes of a plan's order and take each out: its object, then its VM.
pub(crate) fn of_removal(scene: &Scene<'_>, cluster: &Cluster<'_>, plan: &Plan, removal: &Removal) -> Vec<Step> {
    let mut steps = Steps::default();
    if plan.feasibility == Feasibility::Feasible {
        emptied(scene, cluster, plan, Afterwards::StaysClosed, &mut steps, &mut |node, steps| {
            take_out(scene, cluster, node, removal, steps);
        });
    }
    steps.done()
}

/// Steps that add workers, and then move what makes room.
pub(crate) fn of_workers(scene: &Scene<'_>, plan: &Plan, specs: &[WorkerSpec]) -> Vec<Step> {
    let mut steps = Steps::default();
    if plan.feasibility != Feasibility::Feasible {
        return Vec::new();
    }
    let names: Vec<NodeName> = specs.iter().map(|spec| spec.name.clone()).collect();
    for spec in specs {
        newcomer::cloned(scene, spec, &names, &mut steps);
    }
    of_moves(plan, &mut steps);
    steps.done()
}

/// Evictions of a plan whose nodes stay open.
pub(crate) fn of_moves(plan: &Plan, steps: &mut Steps) {
    for order in &plan.order {
        evictions(&order.pods, &[], steps);
    }
}

fn uid(cluster: &Cluster<'_>, node: &NodeName) -> String {
    cluster.node_named(node).map_or_else(String::new, |id| cluster.node(id).uid.clone())
}

/// Takes an empty node out for good: its VM must not come back with its host, volumes are gone from it before
/// its object goes, and then it is shut down. One that comes back unasked is the worst of all.
fn take_out(scene: &Scene<'_>, cluster: &Cluster<'_>, node: &NodeName, removal: &Removal, steps: &mut Steps) {
    let Some(found) = scene.ground.guest(node) else { return };
    let guest = GuestRef::of(found);
    let is = Condition::GuestIs { guest: guest.clone() };
    let free = Condition::VolumesGone { node: node.clone(), guest: Some(guest.clone()) };
    let stays_off = Condition::GuestStaysOff { guest: guest.clone() };
    let gone = Condition::NodeGone { node: node.clone() };
    let unmanaged = Condition::HaUnmanaged { guest: guest.clone() };
    let uid = uid(cluster, node);
    steps.add(StepAction::KeepGuestOff { guest: guest.clone() }, vec![is.clone()], vec![stays_off.clone()], AT_ONCE);
    steps.add(
        StepAction::DeleteNode { node: node.clone(), uid: uid.clone() },
        vec![
            Condition::NodeEmpty { node: node.clone() },
            free.clone(),
            Condition::NodeIs { node: node.clone(), uid },
            stays_off.clone(),
        ],
        vec![gone.clone()],
        AT_ONCE,
    );
    steps.add(
        StepAction::ShutDownGuest { guest: guest.clone() },
        // A node that is there again may run pods.
        vec![is.clone(), free.clone(), gone.clone(), stays_off.clone(), unmanaged.clone()],
        vec![Condition::GuestStopped { guest: guest.clone() }, gone.clone()],
        SHUTDOWN,
    );
    let slot = found.config.known().and_then(seed_slot);
    let join = &scene.ground.policy.join;
    if let Some(slot) = slot.filter(|_| !removal.destroy && join.seed == Seed::Iso) {
        steps.add(
            StepAction::DisarmGuest { guest: guest.clone(), slot, join: join.clone() },
            vec![is.clone(), Condition::GuestStopped { guest: guest.clone() }, gone.clone()],
            vec![Condition::Disarmed { guest: guest.clone(), storage: join.storage.clone() }],
            SHUTDOWN,
        );
    }
    if removal.destroy {
        let snapshots = removal.agreed_snapshots(found);
        let disposable = Condition::Disposable { guest: guest.clone(), snapshots: snapshots.clone() };
        steps.add(
            StepAction::DestroyGuest { guest: guest.clone(), snapshots },
            vec![is, Condition::GuestStopped { guest: guest.clone() }, disposable, gone, unmanaged],
            vec![Condition::GuestGone { guest }],
            DESTROY,
        );
    }
}

fn emptied(
    scene: &Scene<'_>,
    cluster: &Cluster<'_>,
    plan: &Plan,
    afterwards: Afterwards,
    steps: &mut Steps,
    then: &mut dyn FnMut(&NodeName, &mut Steps),
) {
    let mut targets: Vec<NodeName> = Vec::new();
    for order in &plan.order {
        if !targets.contains(&order.node) {
            targets.push(order.node.clone());
        }
    }
    if afterwards == Afterwards::StaysClosed {
        for node in &targets {
            cordon(cluster, node, &targets, steps);
        }
    }
    for (place, order) in plan.order.iter().enumerate() {
        let node = &order.node;
        let closed = match afterwards {
            Afterwards::StaysClosed => &targets[..],
            Afterwards::ComesBack => std::slice::from_ref(node),
        };
        if afterwards == Afterwards::ComesBack {
            cordon(cluster, node, closed, steps);
        }
        evictions(&order.pods, closed, steps);
        // The order may come back to a node.
        if plan.order[place + 1..].iter().any(|later| later.node == *node) {
            continue;
        }
        let guest = scene.ground.guest(node).map(GuestRef::of);
        let empty = Condition::NodeEmpty { node: node.clone() };
        steps.add(StepAction::Wait, Vec::new(), vec![empty.clone(), Condition::VolumesGone { node: node.clone(), guest }], POD);
        if afterwards == Afterwards::ComesBack {
            steps.add(
                StepAction::Manual {
                    what: format!("work on {node}, and say so when it is back"),
                    command: format!("reboot or upgrade {node}"),
                },
                vec![empty],
                vec![Condition::NodeReady { node: node.clone() }],
                0,
            );
            let was_open = cluster.node_named(node).is_none_or(|id| !cluster.node(id).unschedulable);
            if was_open {
                let uid = uid(cluster, node);
                steps.add(
                    StepAction::Uncordon { node: node.clone() },
                    vec![Condition::NodeIs { node: node.clone(), uid }, Condition::NodeReady { node: node.clone() }],
                    vec![Condition::Schedulable { node: node.clone() }],
                    AT_ONCE,
                );
            }
        }
        then(node, steps);
    }
}

/// Evictions in their order. Pods that share a volume are ready only once all of them have left; one of a Job
/// has no successor that gets ready.
fn evictions(pods: &[PodMove], closed: &[NodeName], steps: &mut Steps) {
    let mut waiting: Vec<Condition> = Vec::new();
    for (place, pod) in pods.iter().enumerate() {
        let is =
            Condition::PodIs { pod: pod.pod.clone(), uid: pod.uid.clone(), owner: pod.owner.clone(), node: pod.from.clone() };
        let mut requires = vec![is];
        requires.extend(closed.contains(&pod.from).then(|| Condition::Cordoned { node: pod.from.clone() }));
        let mut ensures = Vec::new();
        if !pod.uid.is_empty() {
            ensures.push(Condition::PodGone { pod: pod.pod.clone(), uid: pod.uid.clone() });
        }
        if !pod.owner.starts_with("Job/") {
            let on = pod.to.iter().chain(&pod.or).cloned().collect();
            waiting.push(Condition::SuccessorReady { owner: pod.owner.clone(), on });
        }
        let follows = pods[place + 1..].iter().any(|later| pod.with.contains(&later.pod));
        if !follows {
            ensures.append(&mut waiting);
        }
        steps.add(
            StepAction::Evict {
                pod: pod.pod.clone(),
                uid: pod.uid.clone(),
                owner: pod.owner.clone(),
                node: pod.from.clone(),
                to: pod.to.clone(),
                close: pod.close.clone(),
                wait_seconds: pod.stagger_seconds,
            },
            requires,
            ensures,
            POD,
        );
    }
}

fn cordon(cluster: &Cluster<'_>, node: &NodeName, except: &[NodeName], steps: &mut Steps) {
    let uid = uid(cluster, node);
    steps.add(
        StepAction::Cordon { node: node.clone() },
        vec![Condition::NodeIs { node: node.clone(), uid }, Condition::OthersHealthy { except: except.to_vec() }],
        vec![Condition::Cordoned { node: node.clone() }],
        AT_ONCE,
    );
}
