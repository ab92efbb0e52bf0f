//! From a cluster to a puzzle: kinds of pods, rooms of nodes, rules between pods.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::kube::Pod;
use capplan_model::units::signed;

use super::{Bin, BinState, Kind, Rule};
use crate::attach::Plugs;
use crate::scheduler::{NodeId, PodId, Reason, Scheduler};

/// Pods to place, as counts.
#[derive(Clone, Debug, Default)]
pub struct Puzzle {
    /// What is counted: `memory`, `volumes of …`.
    pub dimensions: Vec<String>,
    /// Nodes.
    pub bins: Vec<Bin>,
    /// Pods.
    pub kinds: Vec<Kind>,
    /// Who keeps away from whom.
    pub rules: Vec<Rule>,
    /// Unit of each dimension for the solver, which dislikes large numbers.
    pub scale: Vec<i64>,
    /// The largest room of each dimension.
    pub most_room: Vec<f64>,
    /// A dimension of which no bin may hold more than its room even if it does now.
    pub strict: Option<usize>,
    /// What the bins that stay open must have together: the amount of each bin, and the least sum.
    pub keep: Option<(Vec<i64>, i64)>,
}

/// A puzzle and what its numbers stand for.
#[derive(Clone, Debug)]
pub struct Sketch {
    /// The puzzle.
    pub puzzle: Puzzle,
    /// Node of each bin.
    pub nodes: Vec<NodeId>,
    /// Pods of each kind by the bin they are in.
    pub pods: Vec<BTreeMap<usize, Vec<PodId>>>,
}

/// Domains of a topology up to which spread is part of the program: each pair of them is a row.
const MOST_DOMAINS: usize = 12;
/// Slots of the VMs, which the storage plugin counts.
pub(crate) const SLOTS: &str = "volume slots";

/// What makes two pods the same here: what they take, where they may go, and their class, if others or
/// they mind.
type Likeness<'m> = (Vec<(usize, i64)>, &'m [usize], Option<usize>);

/// What a class of pods is in the puzzle.
struct Member {
    class: usize,
    example: PodId,
    demand: BTreeMap<String, i64>,
    eligible: Vec<usize>,
    stateful: bool,
}

impl Sketch {
    /// Draws the puzzle of a cluster: pods that `moves` says may move are its pieces, the others stay and
    /// take room. `state` says what is to become of a node, `most_attached` how many volumes a node may have
    /// attached beyond what its slots allow. The cluster is as before afterwards.
    pub(crate) fn of(
        scheduler: &mut Scheduler<'_>,
        plugs: &Plugs,
        state: &dyn Fn(NodeId) -> BinState,
        moves: &dyn Fn(&Pod, NodeId) -> bool,
        most_attached: Option<u64>,
    ) -> Self {
        let nodes: Vec<NodeId> = scheduler.cluster.nodes().collect();
        let mut movers: Vec<(usize, PodId)> = Vec::new();
        for (bin, node) in nodes.iter().enumerate() {
            let pods = scheduler.cluster.pods_on(*node).iter();
            movers.extend(pods.filter(|pod| moves(scheduler.cluster.pod(**pod), *node)).map(|pod| (bin, *pod)));
        }
        movers.sort_unstable();
        let mark = scheduler.cluster.mark();
        let mut slots = plugs.clone();
        let volumes: BTreeMap<PodId, u64> =
            movers.iter().map(|(_, pod)| (*pod, plugs.volumes_of(scheduler.cluster.pod(*pod)).count() as u64)).collect();
        for (_, pod) in &movers {
            slots.lift(&mut scheduler.cluster, *pod);
        }
        let members = members(scheduler, &slots, &movers, &volumes, &nodes);
        let mut sketch = Self::sort(scheduler, &members, &movers, nodes);
        sketch.puzzle.bins = sketch.nodes.iter().map(|node| Bin { room: Vec::new(), state: state(*node) }).collect();
        sketch.measure(scheduler, &slots, most_attached);
        sketch.rules(scheduler);
        scheduler.cluster.roll_back(mark);
        sketch
    }

    /// Sorts pods into kinds.
    fn sort(scheduler: &Scheduler<'_>, members: &BTreeMap<usize, Member>, movers: &[(usize, PodId)], nodes: Vec<NodeId>) -> Self {
        let special = special(scheduler, members);
        let mut puzzle = Puzzle::default();
        let mut dimensions: BTreeSet<&String> = BTreeSet::new();
        members.values().for_each(|member| dimensions.extend(member.demand.keys()));
        puzzle.dimensions = dimensions.into_iter().cloned().collect();
        let number: BTreeMap<&String, usize> = puzzle.dimensions.iter().enumerate().map(|(place, name)| (name, place)).collect();
        let mut kinds: BTreeMap<Likeness<'_>, usize> = BTreeMap::new();
        let mut list: Vec<Kind> = Vec::new();
        let mut pods: Vec<BTreeMap<usize, Vec<PodId>>> = Vec::new();
        for (bin, pod) in movers {
            let member = &members[&scheduler.cluster.class(*pod)];
            let demand: Vec<(usize, i64)> = member.demand.iter().map(|(name, amount)| (number[name], *amount)).collect();
            let own = special.contains(&member.class).then_some(member.class);
            let kind = *kinds.entry((demand.clone(), &member.eligible, own)).or_insert_with(|| {
                list.push(Kind { demand, home: BTreeMap::new(), may_go: member.eligible.clone(), stateful: member.stateful });
                pods.push(BTreeMap::new());
                list.len() - 1
            });
            *list[kind].home.entry(*bin).or_default() += 1;
            pods[kind].entry(*bin).or_default().push(*pod);
        }
        puzzle.kinds = list;
        Self { puzzle, nodes, pods }
    }

    /// What is left on each node for those that were lifted.
    fn measure(&mut self, scheduler: &Scheduler<'_>, slots: &Plugs, most_attached: Option<u64>) {
        let puzzle = &mut self.puzzle;
        for (bin, node) in puzzle.bins.iter_mut().zip(&self.nodes) {
            let room = |name: &String| -> Option<i64> {
                if name == SLOTS {
                    let name = &scheduler.cluster.node(*node).name;
                    let allowed = most_attached.zip(slots.attachments(name)).map(|(most, there)| most.saturating_sub(there));
                    return slots.free(name).into_iter().chain(allowed).min().map(signed);
                }
                match name.strip_prefix(VOLUMES_OF) {
                    Some(driver) => scheduler.cluster.free_volumes(*node, driver).map(signed),
                    None => Some(signed(scheduler.cluster.free(*node, name))),
                }
            };
            bin.room = puzzle.dimensions.iter().map(room).collect();
        }
        for dimension in 0..puzzle.dimensions.len() {
            let demands = puzzle.kinds.iter().flat_map(|kind| &kind.demand);
            let amounts = demands.filter(|(one, _)| *one == dimension).map(|(_, amount)| *amount);
            puzzle.scale.push(amounts.fold(0, gcd).max(1));
            let rooms = puzzle.bins.iter().filter_map(|bin| bin.room[dimension]);
            puzzle.most_room.push(rooms.max().unwrap_or(1).max(1) as f64);
        }
    }

    /// Rules between pods: who keeps away from whom, who shares a port or a volume.
    fn rules(&mut self, scheduler: &Scheduler<'_>) {
        let cluster = &scheduler.cluster;
        let example = |kind: usize| self.pods[kind].values().flatten().next().copied();
        let examples: Vec<(usize, PodId)> = (0..self.pods.len()).filter_map(|kind| Some((kind, example(kind)?))).collect();
        let mut rules = Vec::new();
        for (kind, pod) in &examples {
            for (key, speaks_of) in cluster.keeps_away(*pod) {
                let others: Vec<usize> = examples
                    .iter()
                    .filter(|(other, one)| other != kind && speaks_of(cluster.pod(*one)))
                    .map(|(other, _)| *other)
                    .collect();
                let itself = speaks_of(cluster.pod(*pod));
                for bins in self.domains(scheduler, &key) {
                    let home = |kind: usize| -> i64 {
                        bins.iter().map(|bin| self.puzzle.kinds[kind].home.get(bin).copied().unwrap_or(0)).sum()
                    };
                    if itself {
                        // Where more are together already they may stay.
                        let most = home(*kind).max(1);
                        rules.push(Rule {
                            kinds: vec![(*kind, 1)],
                            bins: bins.clone(),
                            minus: Vec::new(),
                            most,
                            stricter: false,
                        });
                    }
                    for other in &others {
                        if home(*kind) > 0 && home(*other) > 0 {
                            continue;
                        }
                        // At most one of the first: each leaves no room for any of the second. Of several that
                        // do not mind each other this asks more than it must.
                        let most = self.puzzle.kinds[*other].count().max(1);
                        let kinds = vec![(*kind, most), (*other, 1)];
                        // Where two are together already this would part them.
                        let stricter = !itself || home(*kind) > 1;
                        rules.push(Rule { kinds, bins: bins.clone(), minus: Vec::new(), most, stricter });
                    }
                }
            }
            for (key, skew, speaks_of) in cluster.spreads(*pod) {
                let domains = self.domains(scheduler, &key);
                if domains.len() > MOST_DOMAINS {
                    continue;
                }
                let kinds: Vec<(usize, i64)> =
                    examples.iter().filter(|(_, one)| speaks_of(cluster.pod(*one))).map(|(kind, _)| (*kind, 1)).collect();
                let fixed = |bins: &[usize]| -> i64 {
                    let pods = bins.iter().flat_map(|bin| cluster.pods_on(self.nodes[*bin]));
                    pods.filter(|pod| speaks_of(cluster.pod(**pod))).count() as i64
                };
                let home = |bins: &[usize]| -> i64 {
                    let of = |kind: usize, bin: &usize| self.puzzle.kinds[kind].home.get(bin).copied().unwrap_or(0);
                    kinds.iter().flat_map(|(kind, _)| bins.iter().map(move |bin| of(*kind, bin))).sum::<i64>() + fixed(bins)
                };
                for (place, bins) in domains.iter().enumerate() {
                    for (_, minus) in domains.iter().enumerate().filter(|(other, _)| *other != place) {
                        // Where it is more uneven already it may stay so.
                        let most = skew.max(home(bins) - home(minus)) - fixed(bins) + fixed(minus);
                        let (bins, minus) = (bins.clone(), minus.clone());
                        rules.push(Rule { kinds: kinds.clone(), bins, minus, most, stricter: true });
                    }
                }
            }
            // Pairs: that two mind a third does not mean that they mind each other.
            for (other, _) in examples.iter().filter(|(other, one)| other >= kind && cluster.share_port(*pod, *one)) {
                for bin in 0..self.nodes.len() {
                    let kinds: Vec<(usize, i64)> = if other == kind { vec![(*kind, 1)] } else { vec![(*kind, 1), (*other, 1)] };
                    let there = kinds.iter().map(|(kind, _)| self.puzzle.kinds[*kind].home.get(&bin).copied().unwrap_or(0));
                    let most = there.sum::<i64>().max(1);
                    rules.push(Rule { kinds, bins: vec![bin], minus: Vec::new(), most, stricter: false });
                }
            }
        }
        self.puzzle.rules = rules;
    }

    /// Bins that have the same value of a topology label.
    fn domains(&self, scheduler: &Scheduler<'_>, key: &str) -> Vec<Vec<usize>> {
        let mut domains: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (bin, node) in self.nodes.iter().enumerate() {
            if let Some(value) = scheduler.cluster.node(*node).labels.get(key) {
                domains.entry(value).or_default().push(bin);
            }
        }
        domains.into_values().collect()
    }
}

/// Before the name of a driver.
const VOLUMES_OF: &str = "volumes of ";

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Classes of the pods that may move, each with what it takes and where it may go if nothing else moves in.
fn members(
    scheduler: &mut Scheduler<'_>,
    slots: &Plugs,
    movers: &[(usize, PodId)],
    volumes: &BTreeMap<PodId, u64>,
    nodes: &[NodeId],
) -> BTreeMap<usize, Member> {
    let bins: BTreeMap<NodeId, usize> = nodes.iter().enumerate().map(|(bin, node)| (*node, bin)).collect();
    let mut claimed: BTreeMap<(&str, &str), Vec<PodId>> = BTreeMap::new();
    for (_, id) in movers {
        let pod = scheduler.cluster.pod(*id);
        pod.claims.iter().for_each(|claim| claimed.entry((&pod.namespace, claim)).or_default().push(*id));
    }
    let shares: BTreeSet<PodId> = claimed.into_values().filter(|users| users.len() > 1).flatten().collect();
    let mut members: BTreeMap<usize, Member> = BTreeMap::new();
    for (_, pod) in movers {
        let class = scheduler.cluster.class(*pod);
        if members.contains_key(&class) {
            continue;
        }
        let judgement = scheduler.judge(*pod);
        // Where others go decides these two.
        let open = |reasons: &[Reason]| reasons.iter().all(|reason| matches!(reason, Reason::Affinity | Reason::Spread));
        let refused = judgement.refused.iter().filter(|(_, reasons)| open(reasons)).map(|(node, _)| *node);
        let written = scheduler.cluster.pod(*pod);
        let attaches = |node: &NodeId| slots.is_used_elsewhere(written, &scheduler.cluster.node(*node).name).is_none();
        let mut eligible: Vec<usize> = judgement
            .feasible
            .iter()
            .copied()
            .chain(refused)
            .filter(attaches)
            .filter_map(|node| bins.get(&node).copied())
            .collect();
        eligible.sort_unstable();
        if judgement.rejection.is_some() {
            eligible.clear();
        }
        let requests = &written.requests;
        let mut demand: BTreeMap<String, i64> =
            [("cpu", requests.cpu.0), ("memory", requests.memory.0), ("ephemeral storage", requests.ephemeral.0), ("pods", 1)]
                .into_iter()
                .map(|(name, amount)| (name.to_owned(), signed(amount)))
                .collect();
        demand.extend(requests.extended.iter().map(|(name, amount)| (name.clone(), signed(*amount))));
        // A volume that several pods share counts once on a node: left out, what is proven stays proven.
        if !shares.contains(pod) {
            demand.insert(SLOTS.to_owned(), signed(volumes.get(pod).copied().unwrap_or(0)));
            for (driver, count) in scheduler.cluster.volumes_by_driver(*pod) {
                demand.insert(format!("{VOLUMES_OF}{driver}"), signed(count));
            }
        }
        demand.retain(|_, amount| *amount > 0);
        let stateful = !written.claims.is_empty();
        members.insert(class, Member { class, example: *pod, demand, eligible, stateful });
    }
    members
}

/// Classes that others keep away from, or that keep away from others, share ports or volumes.
fn special(scheduler: &Scheduler<'_>, members: &BTreeMap<usize, Member>) -> BTreeSet<usize> {
    let cluster = &scheduler.cluster;
    let mut special = BTreeSet::new();
    for member in members.values() {
        let terms = cluster.keeps_away(member.example);
        let minds = !terms.is_empty() || !cluster.is_independent(member.example);
        if minds {
            special.insert(member.class);
        }
        for (_, speaks_of) in terms {
            special.extend(members.values().filter(|other| speaks_of(cluster.pod(other.example))).map(|other| other.class));
        }
    }
    special
}
