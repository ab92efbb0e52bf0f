//! Who uses how much of which limit.

use capplan_model::capacity::{Dimension, Usage};
use capplan_model::history::Sample;
use capplan_model::ids::NodeName;
use capplan_model::kube::{Node, Phase, Pod, Resources};
use capplan_model::policy::{Policy, Scope};
use capplan_model::pve::{Guest, Host, Power};
use capplan_model::slots::VolumeSlots;
use capplan_model::units::Bytes;
use capplan_model::{Reading, Snapshot};
use hashbrown::HashMap;
use rustc_hash::FxBuildHasher;

/// What the pods of one node ask for.
#[derive(Clone, Debug)]
pub struct NodeUse<'a> {
    /// The node.
    pub node: &'a Node,
    /// Requests of the pods that hold capacity (not Succeeded, not Failed).
    pub requests: Resources,
    /// Their limits.
    pub limits: Resources,
    /// Requests of DaemonSet and mirror pods among them: they stay when the node is drained.
    pub fixed: Resources,
    /// Number of pods that hold capacity.
    pub pods: u64,
    /// Memory requests of terminal pods, which do not count.
    pub phantom: Bytes,
    /// Number of terminal pods.
    pub terminal: u64,
}

impl NodeUse<'_> {
    /// Memory that no pod has requested.
    pub fn free_memory(&self) -> Bytes {
        self.node.allocatable.memory.minus(self.requests.memory)
    }

    /// Memory requests of the pods that move when the node goes.
    pub fn movable_memory(&self) -> Bytes {
        self.requests.memory.minus(self.fixed.memory)
    }

    /// Whether the node belongs to `scope`.
    pub fn is_in(&self, scope: Scope) -> bool {
        match scope {
            Scope::AllNodes => true,
            Scope::Workers => !self.node.is_control_plane(),
            Scope::General => self.node.takes_general_pods(),
        }
    }
}

/// What the pods of every node ask for, in the order of the nodes.
pub fn node_uses(snapshot: &Snapshot) -> Reading<Vec<NodeUse<'_>>> {
    let (nodes, pods) = match (&snapshot.kube.nodes, &snapshot.kube.pods) {
        (Reading::Known(nodes), Reading::Known(pods)) => (nodes, pods),
        (nodes, pods) => return Reading::unknown(nodes.why().or(pods.why()).unwrap_or("not read")),
    };
    let index: HashMap<&NodeName, usize, FxBuildHasher> =
        nodes.iter().enumerate().map(|(place, node)| (&node.name, place)).collect();
    let mut uses: Vec<NodeUse<'_>> = nodes
        .iter()
        .map(|node| NodeUse {
            node,
            requests: Resources::default(),
            limits: Resources::default(),
            fixed: Resources::default(),
            pods: 0,
            phantom: Bytes(0),
            terminal: 0,
        })
        .collect();
    for pod in pods {
        let Some(one) = pod.node.as_ref().and_then(|node| index.get(node)).map(|place| &mut uses[*place]) else { continue };
        if pod.is_terminal() {
            one.terminal += 1;
            one.phantom += pod.requests.memory;
            continue;
        }
        one.pods += 1;
        one.requests.add(&pod.requests);
        one.limits.add(&pod.limits);
        if pod.belongs_to_node() {
            one.fixed.add(&pod.requests);
        }
    }
    Reading::Known(uses)
}

/// Memory requests and limits of a scope, and what is allocatable there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct MemoryShare {
    /// Sum of requests.
    pub requests: Bytes,
    /// Sum of limits.
    pub limits: Bytes,
    /// Sum of allocatable memory.
    pub allocatable: Bytes,
    /// Nodes of the scope.
    pub nodes: usize,
}

impl MemoryShare {
    /// Requests as a share of allocatable; `None` for an empty scope.
    pub fn requested(&self) -> Option<f64> {
        (self.allocatable.0 > 0).then(|| self.requests.0 as f64 / self.allocatable.0 as f64)
    }

    /// Limits as a share of allocatable; `None` for an empty scope.
    pub fn limited(&self) -> Option<f64> {
        (self.allocatable.0 > 0).then(|| self.limits.0 as f64 / self.allocatable.0 as f64)
    }
}

/// Sums the memory of one scope.
pub fn memory_share(uses: &[NodeUse<'_>], scope: Scope) -> MemoryShare {
    let mut share = MemoryShare::default();
    for one in uses.iter().filter(|one| one.is_in(scope)) {
        share.requests += one.requests.memory;
        share.limits += one.limits.memory;
        share.allocatable += one.node.allocatable.memory;
        share.nodes += 1;
    }
    share
}

/// Memory of a host's guests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Commitment {
    /// Memory of the running guests.
    pub running: Bytes,
    /// Memory of all guests but templates and placeholders, if every one started.
    pub all: Bytes,
    /// Virtual CPUs of the running guests.
    pub cpus: u64,
}

/// What the guests of `host` take, unknown if any guest's state is.
pub fn commitment(snapshot: &Snapshot, host: &Host) -> Reading<Commitment> {
    snapshot.guests_of(&host.name).and_then(|guests| {
        let mut sum = Commitment::default();
        for guest in guests.into_iter().filter(|guest| counts(guest)) {
            match guest.power {
                Power::Running => {
                    sum.running += guest.memory();
                    sum.cpus = sum.cpus.saturating_add(guest.cpus);
                }
                Power::Stopped => {}
                Power::Unknown => return Reading::unknown(format!("state of guest {} on {} is unknown", guest.vmid, host.name)),
            }
            if guest.memory() == Bytes(0) {
                return Reading::unknown(format!("memory of guest {} on {} is unknown", guest.vmid, host.name));
            }
            sum.all += guest.memory();
        }
        Reading::Known(sum)
    })
}

fn counts(guest: &Guest) -> bool {
    !guest.template && !guest.is_placeholder()
}

/// Every usage of every dimension that could be read, and what could not and why.
pub fn usages(
    snapshot: &Snapshot,
    policy: &Policy,
    uses: &Reading<Vec<NodeUse<'_>>>,
    slots: &Reading<Vec<VolumeSlots>>,
) -> (Vec<Usage>, Vec<(Dimension, String)>) {
    let mut found = Vec::new();
    let mut unknown: Vec<(Dimension, String)> = Vec::new();
    let mut push = |dimension, subject: String, used: f64, limit: Option<f64>, source| {
        found.push(Usage { dimension, subject, used, limit, source });
    };
    match slots {
        Reading::Unknown { why } => {
            unknown.extend([Dimension::VolumeSlots, Dimension::VolumeAttachments].map(|one| (one, why.clone())))
        }
        Reading::Known(slots) => {
            for one in slots {
                let subject = one.node.to_string();
                match (one.limit(), one.free()) {
                    (Some(limit), Some(free)) => {
                        let used = limit.saturating_sub(free) as f64;
                        push(
                            Dimension::VolumeSlots,
                            subject.clone(),
                            used,
                            Some(limit as f64),
                            "CSINode, VolumeAttachment, VM config",
                        );
                    }
                    _ => unknown.push((Dimension::VolumeSlots, format!("{}: {}", one.node, one.unknown().unwrap_or("not read")))),
                }
                match &one.attached {
                    Reading::Known(attached) => {
                        let limit = one.advertised.known().copied().flatten().map(|count| count as f64);
                        push(Dimension::VolumeAttachments, subject, attached.len() as f64, limit, "VolumeAttachment");
                    }
                    Reading::Unknown { why } => unknown.push((Dimension::VolumeAttachments, why.clone())),
                }
            }
        }
    }
    match uses {
        Reading::Unknown { why } => {
            let all = [
                Dimension::MemoryRequests,
                Dimension::MemoryLimits,
                Dimension::Cpu,
                Dimension::Pods,
                Dimension::ExtendedResource,
            ];
            unknown.extend(all.map(|one| (one, why.clone())));
        }
        Reading::Known(uses) => {
            for one in uses {
                let name = || one.node.name.to_string();
                let allocatable = &one.node.allocatable;
                let memory = Some(allocatable.memory.0 as f64);
                push(Dimension::MemoryRequests, name(), one.requests.memory.0 as f64, memory, "pods, Node allocatable");
                push(Dimension::MemoryLimits, name(), one.limits.memory.0 as f64, memory, "pods, Node allocatable");
                push(Dimension::Cpu, name(), one.requests.cpu.0 as f64, Some(allocatable.cpu.0 as f64), "pods, Node allocatable");
                push(Dimension::Pods, name(), one.pods as f64, Some(one.node.max_pods as f64), "pods, Node allocatable");
                for (resource, limit) in
                    allocatable.extended.iter().filter(|(resource, limit)| resource.contains('/') && **limit > 0)
                {
                    let used = one.requests.extended.get(resource).copied().unwrap_or_default();
                    let subject = format!("{}:{resource}", one.node.name);
                    push(Dimension::ExtendedResource, subject, used as f64, Some(*limit as f64), "pods, Node allocatable");
                }
            }
        }
    }
    for pve in &snapshot.pve {
        if let Some(why) = pve.hosts.why() {
            let all = [Dimension::HostMemoryCommitted, Dimension::HostMemoryIfAllStarted, Dimension::HostMemoryUsed];
            unknown
                .extend(all.into_iter().chain([Dimension::PoolData, Dimension::PoolMetadata]).map(|one| (one, why.to_owned())));
        }
    }
    for host in snapshot.hosts() {
        let total = match &host.memory {
            Reading::Known(memory) => {
                let used = memory.total.minus(memory.available());
                push(
                    Dimension::HostMemoryUsed,
                    host.name.to_string(),
                    used.0 as f64,
                    Some(memory.total.0 as f64),
                    "PVE node status",
                );
                Some(memory.total.0 as f64)
            }
            Reading::Unknown { why } => {
                unknown.push((Dimension::HostMemoryUsed, format!("{}: {why}", host.name)));
                None
            }
        };
        match commitment(snapshot, host) {
            Reading::Known(sum) => {
                push(Dimension::HostMemoryCommitted, host.name.to_string(), sum.running.0 as f64, total, "PVE guests running");
                push(Dimension::HostMemoryIfAllStarted, host.name.to_string(), sum.all.0 as f64, total, "PVE guests, all");
            }
            Reading::Unknown { why } => {
                unknown.extend([Dimension::HostMemoryCommitted, Dimension::HostMemoryIfAllStarted].map(|one| (one, why.clone())));
            }
        }
        match &host.pools {
            Reading::Known(pools) => {
                for pool in pools {
                    let subject = format!("{}/{}", host.name, pool.name);
                    push(Dimension::PoolData, subject.clone(), pool.used.0 as f64, Some(pool.size.0 as f64), "PVE disks/lvmthin");
                    let size = Some(pool.metadata_size.0 as f64);
                    push(Dimension::PoolMetadata, subject, pool.metadata_used.0 as f64, size, "PVE disks/lvmthin");
                }
            }
            Reading::Unknown { why } => {
                unknown.extend([Dimension::PoolData, Dimension::PoolMetadata].map(|one| (one, format!("{}: {why}", host.name))));
            }
        }
    }
    match &snapshot.kube.ipam_handles {
        Reading::Known(Some(count)) => {
            let limit = Some(policy.limits.control_plane_objects as f64);
            push(Dimension::ControlPlaneObjects, "ipamhandles".into(), *count as f64, limit, "IPAMHandle");
        }
        Reading::Known(None) => {}
        Reading::Unknown { why } => unknown.push((Dimension::ControlPlaneObjects, why.clone())),
    }
    match &snapshot.kube.quotas {
        Reading::Known(quotas) => {
            for quota in quotas {
                for (resource, (used, hard)) in quota.resources.iter().filter(|(_, (_, hard))| *hard > 0) {
                    let subject = format!("{}/{}:{resource}", quota.namespace, quota.name);
                    push(Dimension::Quota, subject, *used as f64, Some(*hard as f64), "ResourceQuota");
                }
            }
        }
        Reading::Unknown { why } => unknown.push((Dimension::Quota, why.clone())),
    }
    match &snapshot.kube.pods {
        Reading::Known(pods) => {
            let evicted = pods.iter().filter(|pod| is_evicted(pod)).count();
            push(Dimension::EvictedPods, String::new(), evicted as f64, None, "pods");
        }
        Reading::Unknown { why } => unknown.push((Dimension::EvictedPods, why.clone())),
    }
    let filesystem =
        "not readable over the two APIs: import it from Prometheus, or run `df -h / /var/lib/containerd` on the node";
    unknown.push((Dimension::NodeFilesystem, filesystem.into()));
    (found, unknown)
}

/// Whether a kubelet evicted the pod.
pub fn is_evicted(pod: &Pod) -> bool {
    pod.phase == Phase::Failed && pod.reason == "Evicted"
}

/// The samples of a snapshot that a history keeps.
pub fn samples(snapshot: &Snapshot, policy: &Policy) -> Vec<Sample> {
    let uses = node_uses(snapshot);
    let slots = VolumeSlots::of_workers(snapshot, &policy.attacher);
    let (found, _) = usages(snapshot, policy, &uses, &slots);
    found
        .into_iter()
        .map(|usage| Sample {
            at: snapshot.taken,
            dimension: usage.dimension,
            subject: usage.subject,
            used: usage.used,
            limit: usage.limit,
        })
        .collect()
}
