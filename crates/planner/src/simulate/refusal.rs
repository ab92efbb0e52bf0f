//! How many more fit until the first is refused, and by what.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::change::{AddPvcs, Change};
use capplan_model::ids::NodeName;
use capplan_model::kube::{Claim, Pod};
use capplan_model::policy::Policy;
use capplan_model::{Reading, Snapshot};

use super::SimulateError;
use super::arrivals;
use super::play::Player;
use super::result::{UntilRefusal, VolumeSpread};
use crate::attach::{Attached, Plugs};
use crate::scheduler::{NodeId, PodId, Reason, Scheduler};

/// Copies that are tried one by one where each changes what the next one may do; beyond that the
/// number is a lower bound.
const MOST_TRIED: u64 = 20_000;
/// Looks at nodes that these may take.
const MOST_LOOKS: u64 = 20_000_000;

/// What is added, one of it.
enum Sample {
    Pod(Box<Pod>),
    Volume(AddPvcs),
}

/// The last addition among the changes.
fn sample(snapshot: &Snapshot, changes: &[Change]) -> Option<Sample> {
    changes.iter().rev().find_map(|change| match change {
        Change::AddPvcs(add) => Some(Sample::Volume(AddPvcs { count: 1, ..add.clone() })),
        Change::AddPods(add) => {
            let one = capplan_model::change::AddPods { count: 1, ..add.clone() };
            arrivals::plain(&one, 0).pop().map(|pod| Sample::Pod(Box::new(pod)))
        }
        Change::Submit(manifest) => {
            manifest.pods.first().map(|pod| Sample::Pod(Box::new(arrivals::admitted(pod, &snapshot.kube))))
        }
        Change::AddWorker(_)
        | Change::RemoveNode(_)
        | Change::FailNode(_)
        | Change::FailHost(_)
        | Change::Cordon(_)
        | Change::Taint(_)
        | Change::ColdBoot
        | Change::RebootEach
        | Change::WakeParked => None,
    })
}

/// The cluster after the changes, but without what they add. It is as before once this is dropped.
struct Room<'r, 'a> {
    scheduler: &'r mut Scheduler<'a>,
    plugs: Plugs,
    mark: usize,
    /// Nodes that do not run.
    down: &'r BTreeSet<NodeId>,
}

impl Drop for Room<'_, '_> {
    fn drop(&mut self) {
        self.scheduler.cluster.roll_back(self.mark);
    }
}

impl<'r, 'a> Room<'r, 'a> {
    fn of(player: &'r mut Player<'a>) -> Self {
        let (mark, plugs) = (player.scheduler.cluster.mark(), player.plugs.clone());
        let mut room = Self { scheduler: &mut player.scheduler, plugs, mark, down: &player.down };
        for pod in &player.additions {
            room.plugs.lift(&mut room.scheduler.cluster, *pod);
        }
        room
    }

    /// Wakes what is parked and holds on to volumes.
    fn wake(&mut self, snapshot: &Snapshot, policy: &Policy) {
        let latent = arrivals::latent(snapshot, &policy.attacher);
        for pod in arrivals::parked(&snapshot.kube) {
            if !pod.claims.iter().any(|claim| latent.contains(&format!("{}/{claim}", pod.namespace))) {
                continue;
            }
            let id = self.scheduler.cluster.add_pod(pod);
            if let Some(node) = self.scheduler.best(id).first().copied() {
                self.put(id, node);
            }
        }
    }

    fn put(&mut self, pod: PodId, node: NodeId) -> Attached {
        self.plugs.put(&mut self.scheduler.cluster, pod, node)
    }

    fn count(mut self, snapshot: &Snapshot, policy: &Policy, sample: &Sample) -> Result<Reading<Count>, SimulateError> {
        let (pod, claim) = match sample {
            Sample::Pod(pod) => (pod.as_ref().clone(), None),
            Sample::Volume(add) => {
                let Some((mut pod, claim)) = arrivals::with_claims(snapshot, policy, add, 0)?.pop() else {
                    return Ok(Reading::Known(Count::default()));
                };
                pod.name = "one-more".into();
                (pod, Some(claim))
            }
        };
        let id = self.add_copy(&pod, claim.as_ref(), None);
        let takes_slots = self.plugs.volumes_of(self.scheduler.cluster.pod(id)).next().is_some();
        let mut room = None;
        if self.scheduler.cluster.is_independent(id) {
            match self.sum(id, takes_slots) {
                Reading::Known((count, false)) => return Ok(Reading::Known(count)),
                // The scheduler runs into such a node before the others are full.
                Reading::Known((count, true)) => room = Some(count.room),
                Reading::Unknown { why } => return Ok(Reading::Unknown { why }),
            }
        }
        let count = self.one_by_one(&pod, claim.as_ref());
        Ok(count.map(|count| Count { room: room.unwrap_or_else(|| count.by_node.clone()), ..count }))
    }

    /// Each copy leaves the others as much: the nodes' own numbers add up. Also whether some VM has fewer
    /// slots than the scheduler thinks, or does not run.
    fn sum(&mut self, id: PodId, takes_slots: bool) -> Reading<(Count, bool)> {
        let mut feasible = self.scheduler.feasible(id);
        let (mut count, mut tighter) =
            (Count { exact: true, ..Count::default() }, feasible.iter().any(|node| self.down.contains(node)));
        feasible.retain(|node| !self.down.contains(node));
        let mut tightest: BTreeMap<&'static str, u64> = BTreeMap::new();
        for node in &feasible {
            let name = self.scheduler.cluster.node(*node).name.clone();
            let (mut most, mut dimension) = self.scheduler.cluster.copies(id, *node);
            if takes_slots {
                let Some(free) = self.plugs.free(&name) else { return slots_unknown(&name) };
                if free < most {
                    (most, dimension, tighter) = (free, "volume-slots", true);
                }
            }
            *tightest.entry(dimension).or_default() += most.max(1);
            if most > 0 {
                count.by_node.insert(name, most);
            }
            count.total += most;
        }
        let widest = tightest.into_iter().max_by_key(|(_, copies)| *copies).map(|(dimension, _)| dimension.to_owned());
        count.dimension = widest.unwrap_or_else(|| self.refusing(id));
        count.room.clone_from(&count.by_node);
        Reading::Known((count, tighter))
    }

    /// One more, with a claim of its own.
    fn add_copy(&mut self, pod: &Pod, claim: Option<&Claim>, number: Option<u64>) -> PodId {
        let mut copy = pod.clone();
        if let Some(claim) = claim {
            let name = number.map_or_else(|| "capplan-one-more".to_owned(), |number| format!("capplan-one-more-{number}"));
            let claim = Claim { name, ..claim.clone() };
            copy.claims = vec![claim.name.clone()];
            self.plugs.add_claim(&claim);
            self.scheduler.cluster.add_claim(claim);
        }
        self.scheduler.cluster.add_pod(copy)
    }

    fn one_by_one(&mut self, pod: &Pod, claim: Option<&Claim>) -> Reading<Count> {
        let most = MOST_TRIED.min(MOST_LOOKS / self.scheduler.cluster.node_count().max(1) as u64);
        let mut count = Count { exact: true, ..Count::default() };
        loop {
            if count.total >= most {
                count.exact = false;
                return Reading::Known(count);
            }
            let id = self.add_copy(pod, claim, Some(count.total));
            let best = self.scheduler.best(id);
            // Broken another way, the tie may lead to another number.
            count.exact &= best.len() < 2;
            let Some(node) = best.first().copied() else {
                count.dimension = self.refusing(id);
                return Reading::Known(count);
            };
            if self.down.contains(&node) {
                count.dimension = "node-down".to_owned();
                return Reading::Known(count);
            }
            let name = self.scheduler.cluster.node(node).name.clone();
            let attached = self.put(id, node);
            if attached.unknown {
                return slots_unknown(&name);
            }
            if !attached.refused.is_empty() {
                count.dimension = "volume-slots".to_owned();
                return Reading::Known(count);
            }
            *count.by_node.entry(name).or_default() += 1;
            count.total += 1;
        }
    }

    /// The dimension that most nodes refuse a pod by.
    fn refusing(&mut self, id: PodId) -> String {
        let judgement = self.scheduler.judge(id);
        if let Some(rejection) = &judgement.rejection {
            return rejection.to_string();
        }
        let counts = judgement.counts();
        // Amounts first: that some nodes are closed to the pod is no news.
        let amounts = counts.iter().filter(|(reason, _)| dimension(reason).is_some()).max_by_key(|(_, count)| **count);
        let any = || counts.iter().max_by_key(|(_, count)| **count);
        amounts.or_else(any).map_or_else(
            || "no node".to_owned(),
            |(reason, _)| dimension(reason).map_or_else(|| reason.to_string(), str::to_owned),
        )
    }
}

fn slots_unknown<T>(node: &NodeName) -> Reading<T> {
    Reading::unknown(format!("the volume slots of {node} are unknown"))
}

/// The report's name of the dimension that a reason is about.
fn dimension(reason: &Reason) -> Option<&'static str> {
    match reason {
        Reason::Pods => Some("pods"),
        Reason::Cpu => Some("cpu"),
        Reason::Memory => Some("memory-requests"),
        Reason::Ephemeral => Some("ephemeral-storage"),
        Reason::Extended(_) => Some("extended-resource"),
        Reason::VolumeLimit => Some("volume-slots"),
        Reason::NoCapacity => Some("storage-capacity"),
        Reason::NotNamed
        | Reason::Unschedulable
        | Reason::Taint
        | Reason::NodeAffinity
        | Reason::Ports
        | Reason::ClaimInUse
        | Reason::VolumeElsewhere
        | Reason::NoVolume
        | Reason::VolumeLost
        | Reason::VolumeZone
        | Reason::SpreadLabel
        | Reason::Spread
        | Reason::Affinity
        | Reason::AntiAffinity
        | Reason::ExistingAntiAffinity => None,
    }
}

#[derive(Default)]
struct Count {
    total: u64,
    dimension: String,
    exact: bool,
    by_node: BTreeMap<NodeName, u64>,
    /// Copies that each node has room for, whichever the scheduler takes first.
    room: BTreeMap<NodeName, u64>,
}

/// How much more fits.
#[derive(Default)]
pub(super) struct More {
    /// Of what is added last; `None` if nothing is added, or if it is unknown.
    pub until_refusal: Option<UntilRefusal>,
    /// Where new volumes go; `None` if none are added, or if it is unknown.
    pub spread: Option<VolumeSpread>,
    /// Why something is unknown.
    pub doubt: Option<String>,
}

/// Counts how much more fits than what the changes add.
pub(super) fn more(
    snapshot: &Snapshot,
    policy: &Policy,
    changes: &[Change],
    player: &mut Player<'_>,
) -> Result<More, SimulateError> {
    let Some(sample) = sample(snapshot, changes) else { return Ok(More::default()) };
    let parked = match Room::of(player).count(snapshot, policy, &sample)? {
        Reading::Known(count) => count,
        Reading::Unknown { why } => return Ok(More { doubt: Some(format!("how many more fit: {why}")), ..More::default() }),
    };
    let takes_slots = |add: &AddPvcs| arrivals::take_slots(snapshot, policy, add);
    let volumes = changes.iter().rev().find_map(|change| if let Change::AddPvcs(add) = change { Some(add) } else { None });
    let volumes = volumes.filter(|add| takes_slots(add));
    let spread = match (volumes, &sample) {
        (None, _) => None,
        (Some(add), Sample::Volume(_)) => spread(player, add, &parked.room),
        (Some(add), Sample::Pod(_)) => {
            let one = Sample::Volume(AddPvcs { count: 1, ..add.clone() });
            let count = Room::of(player).count(snapshot, policy, &one)?;
            count.known().and_then(|count| spread(player, add, &count.room))
        }
    };
    let latent = match &sample {
        Sample::Volume(add) if takes_slots(add) => arrivals::latent(snapshot, &policy.attacher).len() as u64,
        Sample::Volume(_) | Sample::Pod(_) => 0,
    };
    let while_parked = parked.total;
    let count = if latent == 0 || changes.contains(&Change::WakeParked) {
        parked
    } else {
        let mut room = Room::of(player);
        room.wake(snapshot, policy);
        match room.count(snapshot, policy, &sample)? {
            Reading::Known(count) => count,
            Reading::Unknown { why } => {
                return Ok(More { spread, doubt: Some(format!("how many more fit: {why}")), ..More::default() });
            }
        }
    };
    let until_refusal = UntilRefusal {
        count: count.total,
        dimension: count.dimension,
        while_parked,
        latent,
        exact: count.exact,
        by_node: count.by_node,
    };
    Ok(More { until_refusal: Some(until_refusal), spread, doubt: None })
}

/// Where new volumes go, at best and at worst, with this much room on the nodes.
fn spread(player: &mut Player<'_>, add: &AddPvcs, room: &BTreeMap<NodeName, u64>) -> Option<VolumeSpread> {
    let base = Room::of(player);
    let counted = room.keys().map(|node| Some((node.clone(), base.plugs.attachments(node)?)));
    let listed: BTreeMap<NodeName, u64> = counted.collect::<Option<_>>()?;
    drop(base);
    let attached = |node: &NodeName| listed.get(node).copied().unwrap_or(0);
    let mut best: BTreeMap<NodeName, u64> = room.keys().map(|node| (node.clone(), 0)).collect();
    let mut open: BTreeSet<(u64, &NodeName)> =
        room.iter().filter(|(_, free)| **free > 0).map(|(node, _)| (attached(node), node)).collect();
    for _ in 0..add.count {
        // The one with fewest attachments is next.
        let Some((has, node)) = open.pop_first() else { break };
        let count = best.entry(node.clone()).or_default();
        *count += 1;
        if *count < room[node] {
            open.insert((has + 1, node));
        }
    }
    let wanted = u64::from(add.count);
    let worst = room.iter().map(|(node, free)| (attached(node) + wanted.min(*free), wanted.min(*free), node)).max();
    Some(VolumeSpread {
        best_most: best.iter().map(|(node, count)| attached(node) + count).max().unwrap_or(0),
        best,
        worst_node: worst.map(|(_, _, node)| node.clone()),
        worst_most: worst.map_or(0, |(most, _, _)| most),
        worst_fits: worst.map_or(0, |(_, fits, _)| fits),
    })
}
