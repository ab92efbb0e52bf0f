//! Is a plan allowed at all: checked by arithmetic of its own, without the scheduler that made it.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::Snapshot;
use capplan_model::ids::{HostName, NodeName, PvName, VmId};
use capplan_model::kube::{MAX_VOLUMES_LABEL, Pdb, PersistentVolume, Pod};
use capplan_model::plan::{Action, Condition, Feasibility, GuestRef, Plan, PodMove, Step, StepAction, WorkerSpec};
use capplan_model::policy::Policy;
use capplan_model::pve::Power;
use capplan_model::slots::{PLUGIN_SLOTS, VolumeSlots};
use capplan_model::units::signed;

use super::blockers::may_go_unhealthy;
use super::inventory::Inventory;
use crate::ground::Ground;

/// What is wrong with a plan: a bug of ours, whatever the cluster is like.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[error("step {step}: {what}")]
pub struct Violation {
    /// The step, from 1; zero is the plan as a whole.
    pub step: u64,
    /// What.
    pub what: String,
}

/// What is on a node, as the steps go.
#[derive(Clone, Debug, Default)]
struct Load {
    memory: i64,
    cpu: i64,
    pods: i64,
    most_memory: i64,
    most_cpu: i64,
    most_pods: i64,
    /// Volumes of the plugin's in use there, with the number of pods that use each.
    volumes: BTreeMap<String, usize>,
    /// Disks on the plugin's slots that are no volume in use; `None` is unknown.
    others: Option<u64>,
    /// Volumes that the scheduler allows.
    advertised: Option<u64>,
}

struct Audit<'a> {
    snapshot: &'a Snapshot,
    policy: &'a Policy,
    ground: Ground<'a>,
    inventory: Inventory<'a>,
    pods: BTreeMap<String, &'a Pod>,
    at: BTreeMap<String, NodeName>,
    loads: BTreeMap<NodeName, Load>,
    /// Nodes that are closed, by a step or from the start.
    closed: BTreeSet<NodeName>,
    empty: BTreeSet<NodeName>,
    deleted: BTreeSet<NodeName>,
    moved: BTreeSet<String>,
    /// VMs that are made.
    made: BTreeSet<(HostName, VmId)>,
    found: BTreeSet<Violation>,
    step: u64,
}

/// Checks a plan against the snapshot it rests on; empty if it is allowed.
pub fn audit(snapshot: &Snapshot, policy: &Policy, plan: &Plan) -> Vec<Violation> {
    let ground = Ground::of(snapshot, policy);
    let live = snapshot.kube.pods.items().iter().filter(|pod| !pod.is_terminal());
    let mut audit = Audit {
        snapshot,
        policy,
        ground,
        inventory: Inventory::of(snapshot),
        pods: live.map(|pod| (pod.object_name().0, pod)).collect(),
        at: BTreeMap::new(),
        loads: BTreeMap::new(),
        closed: BTreeSet::new(),
        empty: BTreeSet::new(),
        deleted: BTreeSet::new(),
        moved: BTreeSet::new(),
        made: BTreeSet::new(),
        found: BTreeSet::new(),
        step: 0,
    };
    audit.whole(plan);
    if !plan.steps.is_empty() {
        audit.load();
        let mut moves = plan.moves();
        for step in &plan.steps {
            audit.step = step.number;
            audit.check(step, plan, &mut moves);
        }
    }
    audit.found.into_iter().collect()
}

impl Audit<'_> {
    fn fail(&mut self, what: impl Into<String>) {
        self.found.insert(Violation { step: self.step, what: what.into() });
    }

    /// What holds for every plan.
    fn whole(&mut self, plan: &Plan) {
        let changes = |step: &Step| !matches!(step.change, StepAction::Manual { .. } | StepAction::Wait);
        if plan.feasibility != Feasibility::Feasible && plan.steps.iter().any(changes) {
            self.fail("it cannot be carried out, and yet it changes something");
        }
        if plan.feasibility == Feasibility::Feasible && !plan.blockers.is_empty() {
            self.fail("it has blockers, and yet it can be carried out");
        }
        if plan.feasibility == Feasibility::Undecided && plan.undecided.is_empty() {
            self.fail("it is undecided, and nothing says why");
        }
        if plan.feasibility == Feasibility::Blocked && plan.blockers.is_empty() && plan.because.is_empty() {
            self.fail("it is blocked, and nothing says why");
        }
        if plan.action != Action::None && plan.because.is_empty() {
            self.fail("nothing says why");
        }
        if plan.steps.iter().enumerate().any(|(place, step)| step.number != place as u64 + 1) {
            self.fail("its steps are not numbered in their order");
        }
        let evictions = plan.steps.iter().filter(|step| matches!(step.change, StepAction::Evict { .. })).count();
        if !plan.steps.is_empty() && evictions != plan.moves().count() {
            self.fail("its steps evict more or fewer pods than its order names");
        }
    }

    /// What is where before the first step.
    fn load(&mut self) {
        let snapshot = self.snapshot;
        let slots = VolumeSlots::of_workers(snapshot, &self.policy.attacher);
        for node in snapshot.kube.nodes.items() {
            let mine = slots.known().into_iter().flatten().find(|one| one.node == node.name);
            let occupied = mine.and_then(|one| one.config.known()).map(|config| config.occupied());
            let load = Load {
                most_memory: signed(node.allocatable.memory.0),
                most_cpu: signed(node.allocatable.cpu.0),
                most_pods: signed(node.max_pods),
                others: occupied,
                advertised: mine.and_then(|one| one.advertised.known().copied().flatten()),
                ..Load::default()
            };
            self.loads.insert(node.name.clone(), load);
            if node.unschedulable {
                self.closed.insert(node.name.clone());
            }
        }
        let pods: Vec<(String, &Pod)> = self.pods.iter().map(|(name, pod)| (name.clone(), *pod)).collect();
        for (name, pod) in pods {
            if let Some(node) = pod.node.clone() {
                self.shift(pod, &node, 1);
                self.at.insert(name, node);
            }
        }
        // Of the volumes in use those that are plugged are on slots already.
        let ours = snapshot.volumes_of(&self.policy.attacher);
        for one in slots.known().into_iter().flatten() {
            let Some((load, config)) = self.loads.get_mut(&one.node).zip(one.config.known()) else { continue };
            let plugged = |name: &String| {
                let volid = ours.iter().find(|(volume, _)| volume.as_str() == name).and_then(|(_, volid)| volid.as_ref());
                volid.is_some_and(|volid| config.plugged.values().any(|one| one == volid))
            };
            let in_use = load.volumes.keys().filter(|name| plugged(name)).count() as u64;
            load.others = load.others.map(|occupied| occupied.saturating_sub(in_use));
        }
    }

    fn shift(&mut self, pod: &Pod, node: &NodeName, sign: i64) {
        let volumes: Vec<String> =
            self.inventory.attachable(pod, &self.policy.attacher).into_iter().map(ToString::to_string).collect();
        let Some(load) = self.loads.get_mut(node) else { return };
        load.memory += sign * signed(pod.requests.memory.0);
        load.cpu += sign * signed(pod.requests.cpu.0);
        load.pods += sign;
        for volume in volumes {
            let users = load.volumes.entry(volume.clone()).or_default();
            *users = users.saturating_add_signed(if sign.is_positive() { 1 } else { -1 });
            if *users == 0 {
                load.volumes.remove(&volume);
            }
        }
    }

    fn check<'p>(&mut self, step: &Step, plan: &Plan, moves: &mut impl Iterator<Item = &'p PodMove>) {
        match &step.change {
            StepAction::Cordon { node } => {
                self.known(node);
                self.closed.insert(node.clone());
            }
            StepAction::Uncordon { node } => {
                self.known(node);
                self.closed.remove(node);
                self.empty.remove(node);
            }
            StepAction::Evict { pod, uid, node, to, .. } => {
                if moves.next().is_none_or(|one| one.pod != *pod || one.uid != *uid || one.to != *to || one.from != *node) {
                    self.fail(format!("{pod} is evicted otherwise than the order says"));
                }
                self.evict(pod, uid, node, to.as_ref());
            }
            StepAction::CloneGuest { template, worker } => {
                let Some(spec) = self.spec(plan, worker) else { return };
                if template.find(self.snapshot).is_none_or(|guest| !guest.template) || template.host != spec.host {
                    self.fail(format!("{template} is no template there"));
                }
                if self.snapshot.guests().any(|guest| guest.vmid == spec.vmid) {
                    self.fail(format!("VMID {} is taken", spec.vmid));
                }
                if self.loads.contains_key(&spec.name) || self.snapshot.guests().any(|guest| guest.name == spec.name.as_str()) {
                    self.fail(format!("the name {} is taken", spec.name));
                }
                self.made.insert((spec.host.clone(), spec.vmid));
            }
            StepAction::SetGuest { guest, worker } | StepAction::DropSeed { guest, worker } => {
                self.spec(plan, worker);
                self.off_or_made(guest, plan);
            }
            StepAction::GrowDisk { guest, .. } | StepAction::StartWithHost { guest } => self.off_or_made(guest, plan),
            StepAction::Probe { worker: node, .. } | StepAction::Register { node, .. } => self.known(node),
            StepAction::BootWorker { guest, worker } => {
                let Some(spec) = self.spec(plan, worker) else { return };
                self.off_or_made(guest, plan);
                let free = Condition::VolumesGone { node: worker.clone(), guest: Some(guest.clone()) };
                if !step.requires.contains(&free) {
                    self.fail(format!("nothing makes sure that {guest} holds no volume"));
                }
                let unlimited = Load {
                    most_memory: signed(spec.memory.0),
                    most_cpu: signed(spec.cores.saturating_mul(1000)),
                    most_pods: i64::MAX,
                    others: Some(0),
                    advertised: spec.labels.get(MAX_VOLUMES_LABEL).and_then(|text| text.parse().ok()),
                    ..Load::default()
                };
                self.loads.insert(spec.name.clone(), unlimited);
            }
            StepAction::DeleteNode { node, uid } => {
                self.known(node);
                let known = self.snapshot.kube.nodes.items().iter().find(|one| one.name == *node);
                if known.is_none_or(|one| one.uid != *uid) {
                    self.fail(format!("{node} is not the node that was seen"));
                }
                if !self.empty.contains(node) || !self.closed.contains(node) {
                    self.fail(format!("{node} is deleted before it is closed and empty"));
                }
                if known.is_some_and(|one| one.runs_control_plane()) {
                    self.fail(format!("{node} runs the control plane"));
                }
                self.deleted.insert(node.clone());
            }
            StepAction::ShutDownGuest { guest } | StepAction::KeepGuestOff { guest } | StepAction::DisarmGuest { guest, .. } => {
                self.stops(guest, step)
            }
            StepAction::DestroyGuest { guest, snapshots } => {
                self.stops(guest, step);
                let needed = [
                    Condition::GuestStopped { guest: guest.clone() },
                    Condition::Disposable { guest: guest.clone(), snapshots: snapshots.clone() },
                ];
                if guest.uuid.is_none() || !needed.iter().all(|one| step.requires.contains(one)) {
                    self.fail(format!("nothing makes sure that {guest} may be destroyed"));
                }
            }
            StepAction::Label { node, .. } => self.known(node),
            StepAction::UnplugGhost { guest, slot, volume } => self.unplugs(guest, slot, volume),
            StepAction::Wait | StepAction::Manual { .. } => {}
        }
        for condition in &step.ensures {
            if let Condition::NodeEmpty { node } = condition {
                self.is_empty(node);
                self.empty.insert(node.clone());
            }
        }
    }

    fn spec<'p>(&mut self, plan: &'p Plan, worker: &NodeName) -> Option<&'p WorkerSpec> {
        let spec = plan.worker(worker);
        if spec.is_none() {
            self.fail(format!("{worker} is none of its workers"));
        }
        spec
    }

    /// A guest that becomes a worker is one that this plan makes, or one that is off and is no node.
    fn off_or_made(&mut self, guest: &GuestRef, plan: &Plan) {
        let made = guest.uuid.is_none() && self.made.contains(&(guest.host.clone(), guest.vmid));
        let is_node = self.snapshot.kube.nodes.items().iter().any(|node| node.name.as_str() == guest.name);
        let off = guest.find(self.snapshot).is_some_and(|guest| guest.power == Power::Stopped && !guest.template);
        let ours = plan.workers.iter().any(|spec| (&spec.host, spec.vmid) == (&guest.host, guest.vmid));
        if !ours || !(made || guest.uuid.is_some() && off && !is_node) {
            self.fail(format!("{guest} is neither made by this plan nor a spare"));
        }
    }

    fn known(&mut self, node: &NodeName) {
        if !self.loads.contains_key(node) {
            self.fail(format!("there is no node {node}"));
        }
    }

    fn evict(&mut self, name: &str, uid: &str, from: &NodeName, to: Option<&NodeName>) {
        // One that moved before has a successor, whose UID nobody knows yet.
        let again = !self.moved.insert(name.to_owned());
        let Some(pod) = self.pods.get(name).copied().filter(|pod| if again { uid.is_empty() } else { pod.uid == uid }) else {
            return self.fail(format!("{name} is not the pod that was seen"));
        };
        if self.at.get(name) != Some(from) {
            self.fail(format!("{name} is not on {from} then"));
        }
        if pod.belongs_to_node() || pod.owner.is_none() {
            self.fail(format!("{name} must not be evicted: nothing makes it again elsewhere"));
        }
        let budgets = self.inventory.budgets(pod);
        let allowed = |one: &&Pdb| one.observed && one.disruptions_allowed > 0 || may_go_unhealthy(pod, one);
        if budgets.len() > 1 || (!budgets.iter().all(allowed) && !self.inventory.is_switched_over(pod)) {
            self.fail(format!("a budget forbids to evict {name}"));
        }
        let Some(to) = to else { return self.fail(format!("nothing says where {name} goes")) };
        if to == from {
            self.fail(format!("{name} goes where it is"));
        }
        if self.closed.contains(to) || self.deleted.contains(to) {
            self.fail(format!("{name} goes to {to}, which is closed"));
        }
        self.shift(pod, from, -1);
        self.shift(pod, to, 1);
        self.at.insert(name.to_owned(), to.clone());
        self.holds(to, name, pod);
        // Those that share a volume follow one after the other; a stranger that keeps it is a mistake.
        let attacher = &self.policy.attacher;
        let alone = |one: &&PersistentVolume| one.driver == *attacher && one.is_single_node();
        let single = self.inventory.volumes(pod).filter(alone);
        let users = single.flat_map(|volume| self.inventory.other_users(&volume.name, pod)).map(|other| other.object_name().0);
        let stranger = users.into_iter().find(|other| self.at.get(other).is_some_and(|node| node != to && node != from));
        if let Some(other) = stranger {
            self.fail(format!("{name} goes to {to}, but {other} uses its volume elsewhere"));
        }
    }

    /// Whether a node holds what is on it now, as far as the pod that came asks for it.
    fn holds(&mut self, node: &NodeName, name: &str, pod: &Pod) {
        let Some(load) = self.loads.get(node) else { return self.fail(format!("{name} goes to {node}, which does not exist")) };
        let brings = !self.inventory.attachable(pod, &self.policy.attacher).is_empty();
        let there = load.volumes.len() as u64;
        let short = if pod.requests.memory.0 > 0 && load.memory > load.most_memory {
            "memory"
        } else if pod.requests.cpu.0 > 0 && load.cpu > load.most_cpu {
            "cpu"
        } else if load.pods > load.most_pods {
            "pods"
        } else if brings && load.others.is_some_and(|others| others + there > PLUGIN_SLOTS) {
            "volume slots"
        } else if brings && load.advertised.is_some_and(|most| there > most) {
            "volumes allowed"
        } else {
            return;
        };
        self.fail(format!("{name} goes to {node}, which has too little {short} then"));
    }

    fn is_empty(&mut self, node: &NodeName) {
        let left: Vec<String> = self
            .at
            .iter()
            .filter(|(_, place)| *place == node)
            .filter(|(name, _)| self.pods.get(*name).is_some_and(|pod| !pod.belongs_to_node() && pod.deleting.is_none()))
            .map(|(name, _)| name.clone())
            .collect();
        if let Some(name) = left.first() {
            self.fail(format!("{name} is still on {node}"));
        }
    }

    /// A guest may be kept off only once its node is empty, be stopped only once that is deleted, and only the
    /// one that was meant.
    fn stops(&mut self, meant: &GuestRef, step: &Step) {
        let out = if matches!(step.change, StepAction::KeepGuestOff { .. }) { &self.empty } else { &self.deleted };
        let mine = out.iter().any(|node| self.ground.guest(node).is_some_and(|guest| GuestRef::of(guest) == *meant));
        // One that is off and no node harms nobody by staying off.
        let idle = matches!(step.change, StepAction::KeepGuestOff { .. })
            && meant.find(self.snapshot).is_some_and(|guest| guest.power == Power::Stopped)
            && step.requires.contains(&Condition::GuestStopped { guest: meant.clone() });
        if !mine && !idle {
            self.fail(format!("{meant} belongs to no node that this plan took out"));
        }
        if !step.requires.contains(&Condition::GuestIs { guest: meant.clone() }) {
            self.fail(format!("nothing makes sure that {meant} is the one that was meant"));
        }
        let unmanaged = Condition::HaUnmanaged { guest: meant.clone() };
        let powers = matches!(step.change, StepAction::ShutDownGuest { .. } | StepAction::DestroyGuest { .. });
        if powers && !step.requires.contains(&unmanaged) {
            self.fail(format!("nothing makes sure that the HA manager does not manage {meant}"));
        }
        let free = |one: &Condition| matches!(one, Condition::VolumesGone { guest: Some(guest), .. } if guest == meant);
        if matches!(step.change, StepAction::ShutDownGuest { .. }) && !step.requires.iter().any(free) {
            self.fail(format!("nothing makes sure that {meant} holds no volume"));
        }
    }

    /// Only a disk that nothing refers to may be unplugged, and only where it is. What refers to it is looked for in
    /// the objects themselves, by the name of the disk; no setting has a say.
    fn unplugs(&mut self, meant: &GuestRef, slot: &str, volume: &str) {
        let guest = meant.find(self.snapshot);
        let disk = guest.and_then(|guest| guest.config.known()).and_then(|config| config.disks.get(slot));
        if disk.is_none_or(|disk| disk.volume != volume || disk.cdrom) {
            return self.fail(format!("{volume} is no disk on {slot} of {meant}"));
        }
        let kube = &self.snapshot.kube;
        let lists = [kube.volume_attachments.why(), kube.persistent_volumes.why(), kube.claims.why(), kube.pods.why()];
        if lists.iter().any(Option::is_some) {
            return self.fail(format!("whether {volume} is in use was not read"));
        }
        let file = volume.rsplit(['/', ':']).next().unwrap_or(volume);
        let file = file.split_once('.').map_or(file, |(stem, _)| stem);
        // Its volumes: those whose handle ends with the disk, and those that the disk is called after.
        let ends_with_it = |one: &PersistentVolume| {
            let last = one.handle.as_ref().and_then(|handle| handle.as_str().rsplit(['/', ':']).next());
            last.is_some_and(|last| last.split('.').next() == Some(file))
        };
        let known: BTreeSet<&PvName> = kube.persistent_volumes.items().iter().map(|one| &one.name).collect();
        let on_it: BTreeSet<&PvName> =
            kube.persistent_volumes.items().iter().filter(|one| ends_with_it(one)).map(|one| &one.name).collect();
        let mine = |name: &PvName| {
            on_it.contains(name) || !known.contains(name) && !name.as_str().is_empty() && file.contains(name.as_str())
        };
        if file.starts_with(&format!("vm-{}-", meant.vmid)) || file.is_empty() {
            self.fail(format!("{volume} is a disk of {meant} itself"));
        }
        if kube.volume_attachments.items().iter().any(|one| one.volume.as_ref().is_some_and(mine)) {
            self.fail(format!("{volume} is attached: unplugging it takes it from a pod"));
        }
        let claims = kube.claims.items().iter().filter(|claim| claim.volume.as_ref().is_some_and(mine));
        let claims: BTreeSet<(&str, &str)> = claims.map(|claim| (claim.namespace.as_str(), claim.name.as_str())).collect();
        let live = kube.pods.items().iter().filter(|pod| pod.node.is_some() && !pod.is_terminal());
        let used = live
            .into_iter()
            .find(|pod| pod.claims.iter().any(|claim| claims.contains(&(pod.namespace.as_str(), claim.as_str()))));
        if let Some(pod) = used {
            self.fail(format!("{volume} is used by {}", pod.object_name()));
        }
    }
}

#[cfg(test)]
mod tests;
