//! What keeps a node from being emptied, whatever room there is elsewhere.

use std::collections::BTreeSet;

use capplan_model::ids::NodeName;
use capplan_model::kube::{LocalData, Node, Pdb, Phase, Pod, Taint, Workload};
use capplan_model::plan::{BlockCode, Blocker};
use jiff::tz::TimeZone;

use super::Scene;
use super::inventory::Inventory;
use crate::scheduler::{Cluster, NodeId, PodId};

/// Images a kubelet lists by default; a longer list is cut.
///
/// # Source
/// `nodeStatusMaxImages`, KubeletConfiguration: 50.
const MOST_IMAGES: usize = 50;
/// Registries that serve no images any more, each with its successor.
///
/// # Source
/// gcr.io/kubebuilder: unavailable since 2025-03-18 (kubebuilder discussion 3907); `registry.k8s.io/kubebuilder`
/// stands in. docker.io/bitnami moved to bitnamilegacy on 2025-08-28 and is not listed: some of it is left.
const DEAD_REGISTRIES: [(&str, &str); 1] = [("gcr.io/kubebuilder/", "registry.k8s.io/kubebuilder/")];

/// What forbids a drain, and what there is to know before it.
#[derive(Default)]
pub(crate) struct Findings {
    pub blockers: BTreeSet<Blocker>,
    pub warnings: Vec<String>,
    pub undecided: BTreeSet<String>,
}

struct Look<'s, 'a> {
    scene: &'s Scene<'a>,
    cluster: &'s Cluster<'a>,
    node: &'s Node,
    receivers: &'s [NodeId],
    found: &'s mut Findings,
}

/// Looks at a node and the pods that would have to leave it. `receivers` are the nodes that stay open.
pub(crate) fn look(scene: &Scene<'_>, cluster: &Cluster<'_>, node: NodeId, receivers: &[NodeId], found: &mut Findings) {
    let written = cluster.node(node);
    let mut look = Look { scene, cluster, node: written, receivers, found };
    look.the_node();
    look.slots();
    look.tied_volumes();
    look.pinned_jobs();
    for pod in cluster.pods_on(node).iter().copied().filter(|pod| !cluster.pod(*pod).belongs_to_node()) {
        look.pod(pod);
    }
    look.local_data(node);
}

/// Looks at the state of the cluster around the nodes that are to be emptied.
pub(crate) fn look_around(scene: &Scene<'_>, targets: &BTreeSet<&NodeName>, found: &mut Findings) {
    let Some(first) = targets.first() else { return };
    let taken = scene.ground.snapshot.taken;
    for node in scene.ground.snapshot.kube.nodes.items().iter().filter(|node| !targets.contains(&node.name)) {
        let Some(why) = node.unrest(taken) else { continue };
        found.blockers.insert(Blocker {
            node: (*first).clone(),
            code: BlockCode::GateFailed,
            subject: node.name.to_string(),
            detail: format!("{} {why}", node.name),
        });
    }
    let nodes = scene.ground.snapshot.kube.nodes.items();
    for claim in &scene.claims {
        if let Some(name) =
            claim.subject.strip_prefix("node:").filter(|name| nodes.iter().all(|node| node.name.as_str() != *name))
        {
            found.undecided.insert(format!("what the claim of {} is about: there is no node {name}", claim.by));
        }
    }
    for (what, why) in [
        ("poddisruptionbudgets", scene.ground.snapshot.kube.pdbs.why()),
        ("persistentvolumes", scene.ground.snapshot.kube.persistent_volumes.why()),
        ("persistentvolumeclaims", scene.ground.snapshot.kube.claims.why()),
    ] {
        found.undecided.extend(why.map(|why| format!("what blocks a drain: {what} could not be read: {why}")));
    }
}

impl Look<'_, '_> {
    fn block(&mut self, code: BlockCode, subject: impl Into<String>, detail: impl Into<String>) {
        let blocker = Blocker { node: self.node.name.clone(), code, subject: subject.into(), detail: detail.into() };
        self.found.blockers.insert(blocker);
    }

    /// Volumes that are in the way of an empty VM: they would never leave it.
    fn slots(&mut self) {
        let Some(slots) = self.scene.slots.known() else { return };
        let Some(mine) = slots.iter().find(|one| one.node == self.node.name) else { return };
        for (slot, volume) in mine.ghosts.known().into_iter().flatten() {
            let detail = format!("it is on scsi{slot} without an attachment, and would stay there: see capplan plan");
            self.block(BlockCode::GateFailed, volume, detail);
        }
        for one in mine.attached.known().into_iter().flatten().filter(|one| one.detaching) {
            let detail = "its detaching is not done: wait for it, or find out why it hangs".to_owned();
            self.block(BlockCode::GateFailed, one.volume.to_string(), detail);
        }
    }

    fn the_node(&mut self) {
        let name = self.node.name.to_string();
        if !self.node.is_ready() {
            let detail = format!("{name} is not ready: what is evicted there never ends; mend it, or power it off first");
            self.block(BlockCode::GateFailed, &name, detail);
        }
        if self.node.runs_control_plane() {
            let others = self.scene.ground.snapshot.kube.nodes.items().iter().filter(|node| node.runs_control_plane());
            let voters = others.clone().count();
            let healthy = others.filter(|node| node.is_ready()).count();
            self.block(BlockCode::ControlPlane, &name, format!("{name} runs the control plane: it is no worker to be emptied"));
            let (left, quorum) = (healthy.saturating_sub(usize::from(self.node.is_ready())), voters / 2 + 1);
            if left < quorum {
                let detail = format!("without {name} {left} of {voters} control-plane nodes answer, a majority is {quorum}");
                self.block(BlockCode::Quorum, &name, detail);
            }
        }
        for claim in &self.scene.claims {
            let mine = match claim.subject.split_once(':') {
                Some(("node", node)) => node == name,
                Some(("host", host)) => self.scene.ground.guest(&self.node.name).is_some_and(|guest| guest.host.as_str() == host),
                Some(("pvc" | "service" | "db", _)) => false,
                Some(_) | None => {
                    let text =
                        format!("whether {} is about {name}: claims are node:, host:, pvc:, service: or db:", claim.subject);
                    self.found.undecided.insert(text);
                    false
                }
            };
            if mine {
                self.block(BlockCode::Claim, &claim.subject, format!("{} is claimed by {}", claim.subject, claim.by));
            }
        }
    }

    fn pod(&mut self, id: PodId) {
        let pod = self.cluster.pod(id);
        let name = pod.object_name().0;
        if pod.deleting.is_some() {
            return;
        }
        if pod.owner.is_none() {
            self.block(BlockCode::Unmanaged, &name, "no controller makes it again: delete it yourself, or give it one");
        }
        let owner = pod.owner.as_ref().map_or("", |owner| owner.kind.as_str());
        if owner == "Job" {
            self.found.warnings.push(format!("{name} runs a Job: it starts again from the beginning"));
        }
        let cordon = Taint::unschedulable();
        if pod.scheduling.tolerations.iter().any(|one| one.covers(&cordon)) {
            let text = format!("{name} tolerates a cordon: its successor may come back to {}", self.node.name);
            self.found.warnings.push(text);
        }
        self.device(pod, &name);
        self.budgets(pod, &name);
        self.images(pod, &name);
        for feature in &pod.scheduling.unmodelled {
            self.found.undecided.insert(format!("where {name} fits: it uses {feature}, which is not simulated"));
        }
        if !pod.scheduling.scheduler.is_empty() {
            let text = format!("where {name} fits: {} places it, which is not simulated", pod.scheduling.scheduler);
            self.found.undecided.insert(text);
        }
        for claim in &self.scene.claims {
            let owner = pod.owner.as_ref().map_or("", |owner| owner.name.as_str());
            let mine = match claim.subject.split_once(':') {
                Some(("pvc", subject)) => {
                    pod.claims.iter().any(|one| subject == one || subject == format!("{}/{one}", pod.namespace))
                }
                Some(("service" | "db", subject)) => {
                    let subject = subject.strip_prefix(&format!("{}/", pod.namespace)).unwrap_or(subject);
                    owner == subject || owner.strip_prefix(subject).is_some_and(|rest| rest.starts_with('-'))
                }
                Some(_) | None => false,
            };
            if mine {
                self.block(
                    BlockCode::Claim,
                    &claim.subject,
                    format!("{} is claimed by {}; {name} is part of it", claim.subject, claim.by),
                );
            }
        }
        if let Some(window) = self.scene.ground.policy.drain.window
            && self.scene.inventory.is_single(pod)
            && self.scene.inventory.has_rwo(pod)
        {
            let now = self.scene.ground.snapshot.taken.to_zoned(TimeZone::UTC);
            let minute = u16::try_from(i32::from(now.hour()) * 60 + i32::from(now.minute())).unwrap_or(0);
            if !window.contains(minute) {
                self.block(BlockCode::Window, &name, format!("there is only one of it, and the window is {window} UTC"));
            }
        }
    }

    /// Needs a device that no node has that stays open.
    fn device(&mut self, pod: &Pod, name: &str) {
        let devices = pod.requests.extended.iter().filter(|(resource, amount)| resource.contains('/') && **amount > 0);
        for (resource, amount) in devices {
            let offered = self
                .receivers
                .iter()
                .any(|node| self.cluster.node(*node).allocatable.extended.get(resource).is_some_and(|most| most >= amount));
            if !offered {
                let detail = format!("needs {amount} {resource}, which no other node has: scale it to zero, or leave the node");
                self.block(BlockCode::Gpu, name, detail);
                return;
            }
        }
    }

    fn budgets(&mut self, pod: &Pod, name: &str) {
        let budgets = self.scene.inventory.budgets(pod);
        if budgets.len() > 1 {
            let names: Vec<&str> = budgets.iter().map(|pdb| pdb.name.as_str()).collect();
            let detail = format!("{} budgets select it ({}): the eviction API never allows that", names.len(), names.join(", "));
            self.block(BlockCode::PdbMultiple, name, detail);
            return;
        }
        let Some(pdb) = budgets.first() else { return };
        if may_go_unhealthy(pod, pdb) {
            return;
        }
        let why = if !pdb.observed {
            "its status speaks of an older spec".to_owned()
        } else if pdb.disruptions_allowed > 0 {
            return;
        } else if self.scene.inventory.is_switched_over(pod) {
            let text =
                format!("{name}: its operator makes another instance the primary when the node is cordoned; wait for that");
            self.found.warnings.push(text);
            return;
        } else if never(pdb) {
            format!("it can never allow one: {}; give it another replica or a budget that allows one", terms(pdb))
        } else {
            format!("{} of {} pods are healthy, {} are needed", pdb.current_healthy, pdb.expected_pods, pdb.desired_healthy)
        };
        self.block(BlockCode::PdbZero, name, format!("PDB {}/{} allows no disruption: {why}", pdb.namespace, pdb.name));
    }

    fn images(&mut self, pod: &Pod, name: &str) {
        for image in &pod.images {
            let dead = DEAD_REGISTRIES.iter().find(|(registry, _)| image.starts_with(registry));
            let why = match dead {
                Some((registry, instead)) => format!("{registry} serves no images any more: use {instead}"),
                None if pod.never_pulled.contains(image) => "its pull policy is Never".to_owned(),
                None if self.scene.inventory.is_unpullable(image) => "another pod cannot pull it right now".to_owned(),
                None => continue,
            };
            let lists: Vec<&Node> = self.receivers.iter().map(|node| self.cluster.node(*node)).collect();
            let has = |node: &&Node| node.images.iter().any(|one| one.names.iter().any(|known| is_image(known, image)));
            if lists.iter().all(&has) {
                continue;
            }
            if lists.iter().all(|node| has(node) || node.images.len() >= MOST_IMAGES) {
                self.found.undecided.insert(format!("whether other nodes have image {image} of {name}: their lists are cut"));
                continue;
            }
            self.block(BlockCode::ImageUnportable, name, format!("image {image} is not on every other node, and {why}"));
        }
    }

    /// Volumes that can be used from this node only, used by a pod or not.
    fn tied_volumes(&mut self) {
        let snapshot = self.scene.ground.snapshot;
        for volume in snapshot.kube.persistent_volumes.items().iter().filter(|volume| volume.phase == "Bound") {
            let elsewhere =
                |node: &NodeId| volume.node_affinity.as_ref().is_none_or(|rule| rule.matches(self.cluster.node(*node)));
            // Without an affinity the pods that use it say where it is.
            let on_disk = matches!(volume.kind.as_str(), "hostPath" | "local") && volume.node_affinity.is_none();
            let used = || self.scene.inventory.users(&volume.name).iter().any(|pod| pod.node.as_ref() == Some(&self.node.name));
            let here = volume.node_affinity.as_ref().is_some_and(|rule| rule.matches(self.node)) || (on_disk && used());
            // Of several nodes that could use it the one whose pod does is told; of none, each.
            let users = self.scene.inventory.users(&volume.name);
            let elsewhere_used = match users {
                [] => {
                    let rule = volume.node_affinity.as_ref();
                    let mut able = self.cluster.nodes().map(|node| self.cluster.node(node));
                    able.find(|node| rule.is_some_and(|rule| rule.matches(node))).is_some_and(|node| node.name != self.node.name)
                }
                users => users.iter().any(|pod| pod.node.as_ref().is_some_and(|node| *node != self.node.name)),
            };
            if !here || elsewhere_used || (!on_disk && self.receivers.iter().any(elsewhere)) {
                continue;
            }
            let claim = volume.claim.as_ref().map_or_else(String::new, |claim| format!(" of claim {claim}"));
            let what = if volume.kind.is_empty() { "volume" } else { volume.kind.as_str() };
            let detail = format!("{what} {}{claim} can be used from no node that stays: move its data first", volume.name);
            self.block(
                BlockCode::LocalPath,
                volume.claim.as_ref().map_or_else(|| volume.name.to_string(), |claim| claim.0.clone()),
                detail,
            );
        }
    }

    /// CronJobs and parked workloads that may run on this node only: no pod shows them now.
    fn pinned_jobs(&mut self) {
        let kube = &self.scene.ground.snapshot.kube;
        let pinned = |workload: &&Workload| {
            let Some(rules) = workload.template.as_ref().map(|pod| &pod.scheduling) else { return false };
            let selects = |node: &Node| rules.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
            let required = rules.affinity.as_ref().and_then(|one| one.node_affinity.as_ref()?.required.as_ref());
            let may = |node: &Node| selects(node) && required.is_none_or(|rule| rule.matches(node));
            may(self.node) && !self.receivers.iter().any(|node| may(self.cluster.node(*node)))
        };
        let names = |list: &[Workload]| -> Vec<String> {
            list.iter().filter(pinned).map(|one| format!("{}/{}", one.namespace, one.name)).collect()
        };
        let jobs = names(kube.cron_jobs.items());
        if !jobs.is_empty() {
            self.found.warnings.push(format!("CronJobs that run on {} only: {}", self.node.name, jobs.join(", ")));
        }
        let is_parked = |one: &&Workload| one.replicas == 0;
        let parked = kube.deployments.items().iter().chain(kube.stateful_sets.items()).filter(is_parked);
        let parked: Vec<String> = parked.filter(pinned).map(|one| format!("{}/{}", one.namespace, one.name)).collect();
        if !parked.is_empty() {
            self.found.warnings.push(format!("parked workloads that run on {} only: {}", self.node.name, parked.join(", ")));
        }
    }

    fn local_data(&mut self, node: NodeId) {
        let pods = self.cluster.pods_on(node).iter().map(|pod| self.cluster.pod(*pod)).filter(|pod| !pod.belongs_to_node());
        let (mut lost, mut left) = (Vec::new(), Vec::new());
        for pod in pods {
            if pod.local.empty_dir {
                lost.push(pod.object_name().0);
            }
            if pod.local.host_path {
                left.push(pod.object_name().0);
            }
        }
        if !lost.is_empty() {
            self.found.warnings.push(format!("emptyDir data that is lost: {}", lost.join(", ")));
        }
        if !left.is_empty() {
            let text = format!("hostPath data that stays on {}: {}", self.node.name, left.join(", "));
            self.found.warnings.push(text);
        }
    }
}

/// Whether a budget lets a pod go because it is not healthy anyway.
///
/// # Source
/// `canIgnorePDB` and `checkAndDecrement`, `pkg/registry/core/pod/storage/eviction.go` (v1.36): a pending pod is
/// never protected; one that is not ready goes with `AlwaysAllow`, and with `IfHealthyBudget` if as many are
/// healthy as are needed.
pub(crate) fn may_go_unhealthy(pod: &Pod, pdb: &Pdb) -> bool {
    let broken = pod.conditions.iter().any(|condition| condition.kind == "Ready");
    let enough = pdb.desired_healthy > 0 && pdb.current_healthy >= pdb.desired_healthy;
    pod.phase == Phase::Pending || broken && (pdb.unhealthy_policy == "AlwaysAllow" || enough)
}

/// Whether a name that a node lists is that of an image as a pod writes it: without a registry Docker's is
/// meant, without a tag the latest one.
fn is_image(known: &str, written: &str) -> bool {
    let (first, rest) = written.split_once('/').unwrap_or(("", written));
    let has_registry = first.contains(['.', ':']) || first == "localhost";
    let full = match (has_registry, first) {
        (true, _) => written.to_owned(),
        (false, "") => format!("docker.io/library/{rest}"),
        (false, _) => format!("docker.io/{written}"),
    };
    let tagged = |name: &str| name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    let full = if tagged(&full) { full } else { format!("{full}:latest") };
    known == written || known == full
}

/// Whether a budget allows no disruption even if every pod is healthy.
fn never(pdb: &Pdb) -> bool {
    let amount = |text: &Option<String>| {
        let text = text.as_ref()?;
        match text.strip_suffix('%') {
            // Percentages of both kinds are rounded up.
            Some(percent) => percent.parse::<i64>().ok().map(|percent| (pdb.expected_pods * percent + 99) / 100),
            None => text.parse().ok(),
        }
    };
    pdb.expected_pods > 0 && amount(&pdb.min_available).is_some_and(|least| least >= pdb.expected_pods)
        || amount(&pdb.max_unavailable) == Some(0)
}

fn terms(pdb: &Pdb) -> String {
    let written = [("minAvailable", &pdb.min_available), ("maxUnavailable", &pdb.max_unavailable)];
    let written: Vec<String> = written.iter().filter_map(|(name, value)| Some(format!("{name} {}", value.as_ref()?))).collect();
    format!("{} of {} pods", written.join(", "), pdb.expected_pods)
}

/// Whether a pod may be moved from a node that stays, to make room: nothing about it may block, nothing of it
/// may be lost.
pub(crate) fn may_be_asked_to_move(scene: &Scene<'_>, pod: &Pod) -> bool {
    let inventory = &scene.inventory;
    let budgets = inventory.budgets(pod);
    let dead = |image: &String| DEAD_REGISTRIES.iter().any(|(one, _)| image.starts_with(one));
    pod.owner.as_ref().is_some_and(|owner| owner.kind != "Job")
        && pod.deleting.is_none()
        && !pod.belongs_to_node()
        && pod.scheduling.scheduler.is_empty()
        && pod.scheduling.unmodelled.is_empty()
        && pod.local == LocalData::default()
        && !Inventory::is_storage_controller(pod)
        && budgets.len() <= 1
        && budgets.iter().all(|pdb| pdb.observed && pdb.disruptions_allowed > 0)
        && scene.ground.snapshot.kube.pdbs.known().is_some()
        && !pod.images.iter().any(|image| inventory.is_unpullable(image) || dead(image))
        // What others work on, and what may move in some hours only, stays where it is.
        && scene.claims.is_empty()
        && (scene.ground.policy.drain.window.is_none() || !inventory.is_single(pod))
}

/// What speaks against moving pods off nodes that stay: the rest of the cluster must be well, and known.
pub(crate) fn unsafe_to_move(scene: &Scene<'_>, board: &super::board::Board<'_>) -> Option<String> {
    let kube = &scene.ground.snapshot.kube;
    let sick = kube.nodes.items().iter().find(|node| node.unschedulable || !node.is_ready());
    if let Some(node) = sick {
        return Some(format!("{} is cordoned or not ready: nothing else moves meanwhile", node.name));
    }
    let lists = [kube.pdbs.why(), kube.claims.why(), kube.persistent_volumes.why(), kube.volume_attachments.why()];
    if let Some(why) = lists.into_iter().flatten().next() {
        return Some(format!("what protects or ties pods is not known: {why}"));
    }
    let node = board.unknown.first()?;
    Some(format!("the slots of {} are not known", board.scheduler.cluster.node(*node).name))
}
