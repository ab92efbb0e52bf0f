//! Whether an assignment exists at all: one is found, or none can be.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::kube::Pod;
use capplan_model::units::{Bytes, MilliCpu};

use super::play::Player;
use super::result::Verdict;
use crate::attach::Plugs;
use crate::scheduler::{NodeId, PodId, Reason, Rejection, Scheduler};

/// Pods that a reason names before the rest is only counted.
const MOST_NAMED: usize = 8;
/// Most pods for which an assignment is sought at all.
const MOST_SOUGHT: usize = 2_000;
/// Orders in which an assignment is sought before it is given up.
const ORDERS: usize = 24;
/// Steps of the exhaustive search.
const STEPS: usize = 300_000;
/// Most seekers for which the exhaustive search is tried.
const MOST_SEEKERS: usize = 64;

/// What a pod takes, by dimension.
#[derive(Clone, Debug, Default, PartialEq)]
struct Demand(BTreeMap<String, u64>);

impl Demand {
    fn of(pod: &Pod) -> Self {
        let requests = &pod.requests;
        let named =
            [("cpu", requests.cpu.0), ("memory", requests.memory.0), ("ephemeral storage", requests.ephemeral.0), ("pods", 1)];
        let mut amounts: BTreeMap<String, u64> = named.into_iter().map(|(name, amount)| (name.to_owned(), amount)).collect();
        amounts.extend(requests.extended.iter().map(|(name, amount)| (name.clone(), *amount)));
        amounts.retain(|_, amount| *amount > 0);
        Self(amounts)
    }
}

/// An amount of a dimension in words.
pub(crate) fn shown_amount(dimension: &str, amount: u64) -> String {
    match dimension {
        "cpu" => MilliCpu(amount).to_string(),
        "memory" => format!("{} memory", Bytes(amount)),
        "ephemeral storage" => format!("{} ephemeral storage", Bytes(amount)),
        name => format!("{amount} {name}"),
    }
}

/// A seeker with the nodes it may use, whatever the other seekers do.
struct Seeker {
    pod: PodId,
    demand: Demand,
    volumes: u64,
    eligible: BTreeSet<NodeId>,
}

/// What is left on the nodes for the seekers.
struct Free(BTreeMap<NodeId, BTreeMap<String, u64>>);

/// Looks for an assignment of everything that had to find a place, or for a proof that there is none.
pub(super) fn search(player: &mut Player<'_>) -> (Verdict, Vec<String>) {
    let no_room = player.workers.iter().filter_map(|worker| Some(format!("{}: {}", worker.node.name, worker.no_room()?)));
    let no_room: Vec<String> = no_room.collect();
    if !no_room.is_empty() {
        return (Verdict::CannotFit, no_room);
    }
    let undecided = |why: String| (Verdict::Undecided, vec![why]);
    if player.worker_unknown() {
        return undecided("a new worker might take them: whether a host has room for it is unknown".to_owned());
    }
    if player.closed_late {
        return undecided("pods might have gone to a node before it was closed: that was not sought".to_owned());
    }
    let (mut scheduler, mut plugs) = player.cleared();
    let mut pods = player.seekers();
    let too_many = |what: &str| format!("more than {MOST_SOUGHT} pods {what}: no other way was sought");
    if pods.len() > MOST_SOUGHT {
        return undecided(too_many("have to find a place"));
    }
    if scheduler.cluster.node_count() == 0 {
        return undecided("no node is listed".to_owned());
    }
    let mut puzzle = Puzzle::of(&mut scheduler, &plugs, &pods, &BTreeMap::new(), player);
    if !puzzle.strangers.is_empty() {
        puzzle.strangers.truncate(MOST_NAMED);
        return (Verdict::Undecided, puzzle.strangers);
    }
    if puzzle.refutations.is_empty()
        && let Some(assignment) = find(&mut scheduler, &plugs, &puzzle.seekers)
    {
        return (Verdict::FitsIfPlaced, vec![format!("an assignment exists: {}", first_few(&assignment))]);
    }
    // What is less important may be pushed aside: for a proof all of it looks for a place.
    let mark = scheduler.cluster.mark();
    let less = lift_less_important(&mut scheduler, &mut plugs, &pods, &player.down);
    let pushing = scheduler.cluster.mark() > mark;
    if pushing {
        pods.extend(less.keys());
        if pods.len() > MOST_SOUGHT {
            return undecided(too_many("have to find a place or could be pushed aside"));
        }
        puzzle = Puzzle::of(&mut scheduler, &plugs, &pods, &less, player);
    }
    let mut refutations = std::mem::take(&mut puzzle.refutations);
    if refutations.is_empty() && exhaust(&puzzle.seekers, &puzzle.free) == Some(false) {
        refutations.push(format!("no assignment exists: every way to place the {} pods was ruled out", pods.len()));
    }
    if refutations.is_empty() {
        return undecided("no assignment was found, and none was ruled out within the search's limits".to_owned());
    }
    refutations.extend(pushing.then(|| "counted with every pod that a more important one could push aside".to_owned()));
    (Verdict::CannotFit, refutations)
}

/// Pods that look for a place, what is left for them, and why they cannot all find one.
struct Puzzle {
    /// Pods whose placing is not ours to say.
    strangers: Vec<String>,
    seekers: Vec<Seeker>,
    free: Free,
    refutations: Vec<String>,
}

impl Puzzle {
    /// `homes` are places that some of the pods have and need not leave.
    fn of(
        scheduler: &mut Scheduler<'_>,
        plugs: &Plugs,
        pods: &[PodId],
        homes: &BTreeMap<PodId, NodeId>,
        player: &Player<'_>,
    ) -> Self {
        let attached = plugs.all();
        let (mut seekers, mut strangers) = (Vec::new(), Vec::new());
        let mut alone: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for pod in pods {
            let judgement = scheduler.judge(*pod);
            let mut eligible: BTreeSet<NodeId> = judgement.feasible.iter().copied().collect();
            // Where other seekers go may change these two.
            let open = judgement
                .refused
                .iter()
                .filter(|(_, reasons)| reasons.iter().all(|reason| matches!(reason, Reason::Affinity | Reason::Spread)));
            eligible.extend(open.map(|(node, _)| *node));
            eligible.retain(|node| !player.down.contains(node));
            if let Some(rejection) = &judgement.rejection {
                eligible.clear();
                if matches!(rejection, Rejection::Gated | Rejection::OtherScheduler(_)) {
                    strangers.push(format!("{}: {rejection}", scheduler.cluster.pod(*pod).object_name()));
                }
            }
            eligible.extend(homes.get(pod));
            if eligible.is_empty() {
                let rejection = judgement.rejection.iter().map(ToString::to_string);
                let counts = judgement.counts();
                let reasons: Vec<String> =
                    rejection.chain(counts.iter().map(|(reason, count)| format!("{count} {reason}"))).collect();
                alone.entry(reasons.join(", ")).or_default().push(scheduler.cluster.pod(*pod).object_name().0);
            }
            let written = scheduler.cluster.pod(*pod);
            let volumes =
                plugs.volumes_of(written).filter(|volume| !attached.contains(volume)).collect::<BTreeSet<_>>().len() as u64;
            seekers.push(Seeker { pod: *pod, demand: Demand::of(written), volumes, eligible });
        }
        let mut free = Free::of(scheduler, plugs, &player.ground.policy.attacher, &seekers);
        free.hold(&seekers, homes);
        let mut refutations: Vec<String> = alone.into_iter().map(|(reasons, pods)| nowhere(&pods, &reasons)).collect();
        if refutations.is_empty() {
            refutations = bounds(&seekers, &free, scheduler);
        }
        Self { strangers, seekers, free, refutations }
    }
}

fn nowhere(pods: &[String], reasons: &str) -> String {
    let verb = if pods.len() == 1 { "fits nowhere even if it were" } else { "fit nowhere even if each were" };
    format!("{} {verb} alone: {reasons}", first_few(pods))
}

fn first_few(names: &[String]) -> String {
    let shown = names.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(MOST_NAMED);
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// The seekers with the fewest places first, then the largest.
fn hardest_first(seekers: &[Seeker]) -> Vec<&Seeker> {
    let mut order: Vec<&Seeker> = seekers.iter().collect();
    let size = |seeker: &Seeker| seeker.demand.0.get("memory").copied().unwrap_or(0);
    order.sort_by_key(|seeker| (seeker.eligible.len(), std::cmp::Reverse(size(seeker)), seeker.pod));
    order
}

/// Takes every pod off its node that one of `pods` could push aside; answers those that want a place
/// again, with the one they have.
fn lift_less_important(
    scheduler: &mut Scheduler<'_>,
    plugs: &mut Plugs,
    pods: &[PodId],
    down: &BTreeSet<NodeId>,
) -> BTreeMap<PodId, NodeId> {
    let cluster = &scheduler.cluster;
    let Some(most) = pods.iter().map(|pod| cluster.pod(*pod).scheduling.priority).max() else { return BTreeMap::new() };
    let everywhere = cluster.nodes().filter(|node| !down.contains(node)).flat_map(|node| cluster.pods_on(node).iter().copied());
    let less = everywhere.filter(|pod| cluster.pod(*pod).scheduling.priority < most && !cluster.pod(*pod).is_mirror());
    let mut homes = BTreeMap::new();
    for pod in less.collect::<Vec<_>>() {
        let home = plugs.lift(&mut scheduler.cluster, pod);
        let written = scheduler.cluster.pod(pod);
        // Nothing makes a bare one again, one that is being deleted goes anyway, and where another scheduler
        // puts one is not known.
        let seeks = written.owner.is_some() && written.deleting.is_none() && written.scheduling.scheduler.is_empty();
        if let Some(home) = home.filter(|_| seeks) {
            homes.insert(pod, home);
        }
    }
    homes
}

impl Free {
    fn of(scheduler: &Scheduler<'_>, plugs: &Plugs, driver: &str, seekers: &[Seeker]) -> Self {
        let dimensions: BTreeSet<&String> = seekers.iter().flat_map(|seeker| seeker.demand.0.keys()).collect();
        let nodes = scheduler.cluster.nodes().map(|node| {
            let mut free: BTreeMap<String, u64> =
                dimensions.iter().map(|name| ((*name).clone(), scheduler.cluster.free(node, name))).collect();
            // Both ledgers must have room; where neither says anything there is no bound.
            let ledgers = [plugs.free(&scheduler.cluster.node(node).name), scheduler.cluster.free_volumes(node, driver)];
            if let Some(slots) = ledgers.into_iter().flatten().min() {
                free.insert(SLOTS.to_owned(), slots);
            }
            (node, free)
        });
        Self(nodes.collect())
    }

    /// A node that holds more than it allows keeps what it has: staying needs no room.
    fn hold(&mut self, seekers: &[Seeker], homes: &BTreeMap<PodId, NodeId>) {
        let mut held: BTreeMap<NodeId, BTreeMap<&str, u64>> = BTreeMap::new();
        for seeker in seekers {
            let Some(home) = homes.get(&seeker.pod) else { continue };
            let held = held.entry(*home).or_default();
            for (dimension, amount) in &seeker.demand.0 {
                *held.entry(dimension).or_default() += amount;
            }
            *held.entry(SLOTS).or_default() += seeker.volumes;
        }
        for (node, amounts) in held {
            for (dimension, free) in self.0.entry(node).or_default() {
                *free = (*free).max(amounts.get(dimension.as_str()).copied().unwrap_or(0));
            }
        }
    }

    fn sum(&self, nodes: &BTreeSet<NodeId>, dimension: &str) -> u64 {
        let amounts = nodes.iter().filter_map(|node| self.0.get(node)?.get(dimension));
        amounts.fold(0, |sum, amount| sum.saturating_add(*amount))
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Dimension of the disk slots of the VMs.
const SLOTS: &str = "volume slots";

/// Dimensions of which the seekers need more than the nodes open to them have.
///
/// For each set of nodes that some seeker is bound to, all seekers bound to it or a part of it are
/// held against what it has.
fn bounds(seekers: &[Seeker], free: &Free, scheduler: &Scheduler<'_>) -> Vec<String> {
    let sets: BTreeSet<&BTreeSet<NodeId>> = seekers.iter().map(|seeker| &seeker.eligible).collect();
    let mut everything: BTreeSet<NodeId> = BTreeSet::new();
    seekers.iter().for_each(|seeker| everything.extend(&seeker.eligible));
    let mut list = Vec::new();
    for set in sets.into_iter().chain([&everything]) {
        let bound: Vec<&Seeker> = seekers.iter().filter(|seeker| seeker.eligible.is_subset(set)).collect();
        let mut needed: BTreeMap<&str, u64> = BTreeMap::new();
        for seeker in &bound {
            for (dimension, amount) in &seeker.demand.0 {
                *needed.entry(dimension).or_default() += amount;
            }
            // Volumes of several pods may be the same; only those of single pods add up for certain.
            if seeker.volumes > 0 {
                let shared = scheduler.cluster.pod(seeker.pod).claims.iter().any(|claim| {
                    let pod = scheduler.cluster.pod(seeker.pod);
                    bound.iter().any(|other| {
                        let other_pod = scheduler.cluster.pod(other.pod);
                        other.pod != seeker.pod && other_pod.namespace == pod.namespace && other_pod.claims.contains(claim)
                    })
                });
                *needed.entry(SLOTS).or_default() += if shared { 0 } else { seeker.volumes };
            }
        }
        for (dimension, amount) in needed {
            // Where a node's slots are unknown there is no bound.
            if dimension == SLOTS && set.iter().any(|node| free.0.get(node).is_none_or(|free| !free.contains_key(SLOTS))) {
                continue;
            }
            let there = free.sum(set, dimension);
            if amount > there {
                let text = format!(
                    "{} need {}, the {} open to them {} {} left",
                    counted(bound.len(), "pod"),
                    shown_amount(dimension, amount),
                    counted(set.len(), "node"),
                    if set.len() == 1 { "has" } else { "have" },
                    shown_amount(dimension, there)
                );
                if !list.contains(&text) {
                    list.push(text);
                }
            }
        }
    }
    list
}

/// Tries some orders, the hardest pods first; answers where each pod goes.
fn find(scheduler: &mut Scheduler<'_>, plugs: &Plugs, seekers: &[Seeker]) -> Option<Vec<String>> {
    let mut rng = fastrand::Rng::with_seed(seekers.len() as u64);
    let mut order = hardest_first(seekers);
    for _ in 0..ORDERS {
        let mark = scheduler.cluster.mark();
        let mut slots = plugs.clone();
        let mut places = Vec::new();
        let mut waiting: Vec<&Seeker> = order.clone();
        loop {
            let before = waiting.len();
            waiting.retain(|seeker| {
                let mut feasible = scheduler.feasible(seeker.pod);
                // The fullest node that still has room keeps the others open.
                feasible.sort_by_key(|node| (scheduler.cluster.free(*node, "memory"), *node));
                let chosen = feasible.into_iter().filter(|node| seeker.eligible.contains(node)).find(|node| {
                    let name = &scheduler.cluster.node(*node).name;
                    slots.can_attach(scheduler.cluster.pod(seeker.pod), name) == Some(true)
                });
                let Some(node) = chosen else { return true };
                let name = scheduler.cluster.node(node).name.clone();
                slots.put(&mut scheduler.cluster, seeker.pod, node);
                places.push(format!("{} on {name}", scheduler.cluster.pod(seeker.pod).object_name()));
                false
            });
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        scheduler.cluster.roll_back(mark);
        if waiting.is_empty() {
            return Some(places);
        }
        // The next order tries those first that were left over.
        let left: BTreeSet<PodId> = waiting.iter().map(|seeker| seeker.pod).collect();
        rng.shuffle(&mut order);
        order.sort_by_key(|seeker| !left.contains(&seeker.pod));
    }
    None
}

/// Whether the amounts alone allow an assignment: `Some(false)` is a proof that none exists, `None` means
/// that the search was cut off.
fn exhaust(seekers: &[Seeker], free: &Free) -> Option<bool> {
    if seekers.len() > MOST_SEEKERS {
        return None;
    }
    let order = hardest_first(seekers);
    let mut left = free.0.clone();
    let mut steps = 0;
    descend(&order, &mut left, &mut steps, 0)
}

fn descend(
    order: &[&Seeker],
    left: &mut BTreeMap<NodeId, BTreeMap<String, u64>>,
    steps: &mut usize,
    least: NodeId,
) -> Option<bool> {
    let Some((seeker, rest)) = order.split_first() else { return Some(true) };
    // Equal pods need not change places among each other.
    let same = rest.first().is_some_and(|next| next.demand == seeker.demand && next.eligible == seeker.eligible);
    for node in seeker.eligible.range(least..) {
        *steps += 1;
        if *steps > STEPS {
            return None;
        }
        let Some(amounts) = left.get_mut(node) else { continue };
        if seeker.demand.0.iter().any(|(name, wanted)| amounts.get(name).is_some_and(|free| free < wanted)) {
            continue;
        }
        let before = amounts.clone();
        for (name, wanted) in &seeker.demand.0 {
            if let Some(free) = amounts.get_mut(name) {
                *free -= wanted;
            }
        }
        let found = descend(rest, left, steps, if same { *node } else { 0 });
        left.insert(*node, before);
        match found {
            Some(false) => {}
            found => return found,
        }
    }
    Some(false)
}
