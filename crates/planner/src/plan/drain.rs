//! Nodes are emptied: in which order, where their pods land, and what forbids it.

use std::collections::{BTreeMap, BTreeSet};

use capplan_model::ids::{HostName, NodeName};
use capplan_model::join::Join;
use capplan_model::plan::{
    Action, BlockCode, Blocker, Cost, Feasibility, NodeOrder, Optimality, OptimalityStatus, Plan, PodMove,
};
use capplan_model::units::Bytes;

use super::blockers::{self, Findings};
use super::board::{Board, Choice, Landing};
use super::cost::{Turn, cost, in_order, leaving, serves_volumes, turn};
use super::inventory::Inventory;
use super::reshuffle::{self, Reshuffled};
use super::{PlanError, Scene, steps};
use crate::scheduler::{Cluster, NodeId, PodId};

/// Nodes up to which the scheduler's ties are broken in several ways.
const SMALL: usize = 200;
/// Ways to break ties that must all lead to a place for everything.
const WAYS: u64 = 8;
/// Seconds without service while a volume moves from one VM to another.
///
/// # Source
/// Runbook: singleton blips of 30 s to 2 min for the reattachment of a volume.
const REATTACH_SECONDS: (u64, u64) = (30, 120);
/// Least seconds between two storage controllers.
///
/// # Source
/// Volume-stall review: one per 30 s; six at once took every consumer's session down.
const CONTROLLER_SECONDS: u64 = 30;
/// Names listed before the rest is only counted.
const MOST_NAMED: usize = 12;

/// What came of emptying nodes.
pub(crate) struct Emptied {
    /// Landings in their order.
    pub landings: Vec<Landing>,
    /// Pods that found no place.
    pub left: Vec<PodId>,
    /// Least number of moves.
    pub bound: u64,
    /// How the landings were found.
    pub how: How,
    /// What decides that there is no way.
    pub why: Vec<String>,
}

/// How a way was found, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// The scheduler finds it, however it breaks ties.
    Scheduler,
    /// The scheduler has to be led to some of the places.
    Led,
    /// Other pods have to make room.
    Reshuffled,
    /// There is none: proven.
    Impossible,
    /// None was found, none ruled out.
    Unknown(String),
}

pub(crate) fn find(cluster: &Cluster<'_>, name: &NodeName) -> Result<NodeId, PlanError> {
    cluster.node_named(name).ok_or_else(|| PlanError::NoNode {
        name: name.to_string(),
        known: cluster.nodes().map(|node| cluster.node(node).name.to_string()).collect::<Vec<_>>().join(", "),
    })
}

/// Nodes in the order in which they are emptied: those that serve volumes last, then by cost, then by name.
pub(crate) fn by_cost(scene: &Scene<'_>, cluster: &Cluster<'_>, nodes: &mut [NodeId]) {
    // Costs are positive sums of a few digits: thousandths tell them apart.
    let thousandths = |node: NodeId| (cost(scene, cluster, node).total * 1000.0).round() as u64;
    nodes.sort_by_cached_key(|node| (serves_volumes(cluster, *node), thousandths(*node), cluster.node(*node).name.clone()));
}

/// Empties nodes that are all closed from the start.
pub(crate) fn together(scene: &Scene<'_>, mut board: Board<'_>, names: &[NodeName], mut plan: Plan) -> Result<Plan, PlanError> {
    let mut nodes = Vec::new();
    for name in names {
        let node = find(&board.scheduler.cluster, name)?;
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    by_cost(scene, &board.scheduler.cluster, &mut nodes);
    plan.target = Some(named(&board, &nodes));
    let mut found = Findings::default();
    blockers::look_around(scene, &names.iter().collect(), &mut found);
    let (emptied, costs) = try_to_empty(scene, &mut board, &nodes, &mut found);
    plan.optimality = optimality(&emptied);
    plan.order = orders(scene, &board.scheduler.cluster, &nodes, &emptied.landings, &costs);
    conclude(scene, &board, &nodes, emptied, found, &mut plan);
    plan.steps = steps::of_drain(scene, &board.scheduler.cluster, &plan, steps::Afterwards::StaysClosed);
    Ok(plan)
}

/// What emptying each of several nodes costs.
pub(crate) type Costs = BTreeMap<NodeId, Cost>;

/// Closes nodes and looks for a place for their pods; notes what blocks it. The board is as after it.
pub(crate) fn try_to_empty(scene: &Scene<'_>, board: &mut Board<'_>, nodes: &[NodeId], found: &mut Findings) -> (Emptied, Costs) {
    let receivers = receivers(&board.scheduler.cluster, nodes);
    for node in nodes {
        blockers::look(scene, &board.scheduler.cluster, *node, &receivers, found);
    }
    let costs = nodes.iter().map(|node| (*node, cost(scene, &board.scheduler.cluster, *node))).collect();
    for node in nodes {
        board.cordon(*node);
    }
    let excluded = excluded(scene, &board.scheduler.cluster, nodes, found);
    let emptied = empty(scene, board, nodes, &excluded);
    note_left(scene, board, nodes, &emptied, found);
    (emptied, costs)
}

/// Empties nodes one after the other; each is back, and empty, before the next goes.
pub(crate) fn in_turn(scene: &Scene<'_>, mut board: Board<'_>, names: &[NodeName], mut plan: Plan) -> Result<Plan, PlanError> {
    let cluster = &board.scheduler.cluster;
    let mut nodes: Vec<NodeId> = if names.is_empty() {
        cluster.nodes().filter(|node| !cluster.node(*node).runs_control_plane()).collect()
    } else {
        names.iter().map(|name| find(cluster, name)).collect::<Result<BTreeSet<_>, _>>()?.into_iter().collect()
    };
    by_cost(scene, cluster, &mut nodes);
    plan.target = Some(named(&board, &nodes));
    let mut found = Findings::default();
    for node in &nodes {
        let name = board.scheduler.cluster.node(*node).name.clone();
        blockers::look_around(scene, &BTreeSet::from([&name]), &mut found);
    }
    let seconds = scene.seconds.get();
    scene.seconds.set(seconds / nodes.len().max(1) as f64);
    // Each pod of theirs moves once at least; how often more depends on where it lands.
    let bound = nodes.iter().map(|node| leaving(&board.scheduler.cluster, *node).len() as u64).sum();
    let mut whole = Emptied { landings: Vec::new(), left: Vec::new(), bound, how: How::Scheduler, why: Vec::new() };
    for node in &nodes {
        let was_open = !board.scheduler.cluster.node(*node).unschedulable;
        let (emptied, costs) = try_to_empty(scene, &mut board, &[*node], &mut found);
        if was_open {
            board.uncordon(*node);
        }
        plan.order.extend(orders(scene, &board.scheduler.cluster, &[*node], &emptied.landings, &costs));
        whole.landings.extend(emptied.landings);
        whole.left.extend(emptied.left);
        whole.why.extend(emptied.why.into_iter().map(|why| format!("{}: {why}", board.scheduler.cluster.node(*node).name)));
        whole.how = worse(whole.how, emptied.how);
    }
    scene.seconds.set(seconds);
    plan.optimality = optimality(&whole);
    conclude(scene, &board, &nodes, whole, found, &mut plan);
    plan.steps = steps::of_drain(scene, &board.scheduler.cluster, &plan, steps::Afterwards::ComesBack);
    Ok(plan)
}

/// Empties every node of a host.
pub(crate) fn host(scene: &Scene<'_>, board: Board<'_>, host: &HostName, plan: Plan) -> Result<Plan, PlanError> {
    let snapshot = scene.ground.snapshot;
    if !snapshot.hosts().any(|one| one.name == *host) {
        let known = snapshot.hosts().map(|one| one.name.to_string()).collect::<Vec<_>>().join(", ");
        return Err(PlanError::NoHost { name: host.to_string(), known });
    }
    let nodes = match scene.ground.nodes_on(host) {
        capplan_model::Reading::Known(nodes) => nodes,
        capplan_model::Reading::Unknown { why } => {
            return Err(PlanError::Unknown { what: format!("which nodes are on {host}"), why });
        }
    };
    let unclear = |(name, join): (&&NodeName, &Join<'_>)| {
        let somewhere = match join {
            Join::Guest(_) => false,
            Join::Missing => true,
            Join::Ambiguous { candidates, .. } => candidates.iter().any(|guest| guest.host == *host),
        };
        somewhere.then(|| format!("whether {name} is on {host}: which VM it is, is not known"))
    };
    let unclear: Vec<String> = scene.ground.joins.known().into_iter().flatten().filter_map(unclear).collect();
    let mut plan = together(scene, board, &nodes, plan)?;
    if !unclear.is_empty() {
        if plan.feasibility == Feasibility::Feasible {
            plan.feasibility = Feasibility::Undecided;
            plan.steps.clear();
        }
        plan.undecided.extend(unclear);
    }
    plan.target = Some(host.to_string());
    let vmids: BTreeSet<_> = nodes.iter().filter_map(|node| scene.ground.guest(node)).map(|guest| guest.vmid).collect();
    let others = snapshot.guests().filter(|guest| guest.host == *host && !guest.template && !guest.is_placeholder());
    let running = others.filter(|guest| guest.power == capplan_model::pve::Power::Running && !vmids.contains(&guest.vmid));
    let others: Vec<String> = running.map(|guest| format!("{} ({})", guest.name, guest.vmid)).collect();
    if !others.is_empty() {
        plan.warnings.push(format!("guests of {host} that are no nodes and stay: {}", some(&others)));
    }
    if nodes.is_empty() {
        plan.because.insert(0, format!("no node's VM is on {host}"));
    }
    Ok(plan)
}

/// Nodes that take pods from those that are emptied.
pub(crate) fn receivers(cluster: &Cluster<'_>, nodes: &[NodeId]) -> Vec<NodeId> {
    cluster.nodes().filter(|node| !nodes.contains(node) && !cluster.node(*node).unschedulable).collect()
}

pub(crate) fn named(board: &Board<'_>, nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| board.scheduler.cluster.node(*node).name.to_string()).collect::<Vec<_>>().join(", ")
}

/// The first names, and how many more there are.
pub(crate) fn some(names: &[String]) -> String {
    let more = names.len().saturating_sub(MOST_NAMED);
    let shown = names.iter().take(MOST_NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{shown} and {more} more") } else { shown }
}

/// Pods that are forbidden to move by something other than room: no place is sought for them.
fn excluded(scene: &Scene<'_>, cluster: &Cluster<'_>, nodes: &[NodeId], found: &Findings) -> BTreeSet<(String, String)> {
    let subjects: BTreeSet<(&str, BlockCode)> = found.blockers.iter().map(|one| (one.subject.as_str(), one.code)).collect();
    let mut excluded = BTreeSet::new();
    for pod in nodes.iter().flat_map(|node| cluster.pods_on(*node)).map(|pod| cluster.pod(*pod)) {
        let name = pod.object_name().0;
        let tied = |claim: &String| {
            subjects.contains(&(format!("{}/{claim}", pod.namespace).as_str(), BlockCode::LocalPath))
                || scene
                    .inventory
                    .claim(pod, claim)
                    .and_then(|claim| claim.volume.as_ref())
                    .is_some_and(|volume| subjects.contains(&(volume.as_str(), BlockCode::LocalPath)))
        };
        if subjects.contains(&(name.as_str(), BlockCode::Gpu))
            || subjects.contains(&(name.as_str(), BlockCode::Unmanaged))
            || pod.claims.iter().any(tied)
        {
            excluded.insert((pod.namespace.clone(), pod.name.clone()));
        }
    }
    excluded
}

/// Groups of pods that leave together, node by node.
fn groups(
    scene: &Scene<'_>,
    cluster: &Cluster<'_>,
    nodes: &[NodeId],
    excluded: &BTreeSet<(String, String)>,
    largest_first: bool,
) -> Vec<Vec<PodId>> {
    let mut groups: Vec<Vec<PodId>> = nodes.iter().flat_map(|node| in_order(scene, cluster, *node, largest_first)).collect();
    for group in &mut groups {
        group.retain(|pod| {
            let pod = cluster.pod(*pod);
            !excluded.contains(&(pod.namespace.clone(), pod.name.clone()))
        });
    }
    groups.retain(|group| !group.is_empty());
    groups
}

/// Looks for a place for every pod of the nodes, which are closed. The board is as after it.
pub(crate) fn empty(
    scene: &Scene<'_>,
    board: &mut Board<'_>,
    nodes: &[NodeId],
    excluded: &BTreeSet<(String, String)>,
) -> Emptied {
    let in_order = groups(scene, &board.scheduler.cluster, nodes, excluded, false);
    let forced = in_order.iter().map(Vec::len).sum::<usize>() as u64;
    let ways = if board.scheduler.cluster.node_count() <= SMALL { WAYS } else { 1 };
    let (mark, plugs) = (board.scheduler.cluster.mark(), board.plugs.clone());
    let back = |board: &mut Board<'_>| {
        board.scheduler.cluster.roll_back(mark);
        board.plugs = plugs.clone();
    };
    let whole = |landings, how| Emptied { landings, left: Vec::new(), bound: forced, how, why: Vec::new() };
    // As the scheduler does, ties broken in several ways.
    let mut first: Option<Vec<Landing>> = None;
    let mut always = true;
    for way in 0..ways {
        let mut rng = fastrand::Rng::with_seed(scene.limits.seed.wrapping_add(way));
        let (landings, left) = play(board, &in_order, &mut Choice::Scheduler(&mut rng));
        back(board);
        if left.is_empty() {
            first.get_or_insert(landings);
        } else {
            always = false;
        }
        if !always && first.is_some() {
            break;
        }
    }
    if let Some(landings) = first {
        let pinned = !always;
        let led = landings.iter().any(|one| !one.close.is_empty());
        let landings = replay(board, &landings, pinned);
        return whole(landings, if pinned || led { How::Led } else { How::Scheduler });
    }
    // Packed tightly, the scheduler led there.
    for largest_first in [false, true] {
        let order = groups(scene, &board.scheduler.cluster, nodes, excluded, largest_first);
        let (landings, left) = play(board, &order, &mut Choice::Fullest);
        if left.is_empty() {
            return whole(landings, How::Led);
        }
        back(board);
    }
    if scene.seconds.get() <= 0.0 {
        let mut rng = fastrand::Rng::with_seed(scene.limits.seed);
        let (landings, left) = play(board, &in_order, &mut Choice::Scheduler(&mut rng));
        return Emptied { landings, left, bound: forced, how: How::Unknown("it was not sought".to_owned()), why: Vec::new() };
    }
    // Other pods make room.
    let by_pod = in_order.iter().flat_map(|group| group.iter().map(move |pod| (*pod, group.clone()))).collect();
    let (how, why) = match reshuffle::make_room(scene, board, nodes, excluded, &by_pod) {
        Reshuffled::Way { landings, bound } => {
            return Emptied { landings, left: Vec::new(), bound: bound.max(forced), how: How::Reshuffled, why: Vec::new() };
        }
        Reshuffled::Impossible { why } => (How::Impossible, why),
        Reshuffled::Unknown { why } => (How::Unknown(why), Vec::new()),
    };
    let mut rng = fastrand::Rng::with_seed(scene.limits.seed);
    let (landings, left) = play(board, &in_order, &mut Choice::Scheduler(&mut rng));
    Emptied { landings, left, bound: forced, how, why }
}

/// Moves groups of pods one after the other; answers the landings and what found no place.
fn play(board: &mut Board<'_>, groups: &[Vec<PodId>], choice: &mut Choice<'_>) -> (Vec<Landing>, Vec<PodId>) {
    let (mut landings, mut left) = (Vec::new(), Vec::new());
    for group in groups {
        match board.relocate(group, choice) {
            Some(landed) => landings.extend(landed),
            None => left.extend(group),
        }
    }
    (landings, left)
}

/// Plays landings again; with `pinned`, every node that the scheduler might prefer or like as much is closed.
fn replay(board: &mut Board<'_>, landings: &[Landing], pinned: bool) -> Vec<Landing> {
    let mut again = Vec::new();
    for one in landings {
        let cluster = &mut board.scheduler.cluster;
        // Those that share a volume leave before the first of them lands.
        if one.together.first() == Some(&one.pod) {
            for pod in &one.together {
                board.plugs.lift(cluster, *pod);
            }
        }
        board.plugs.put(cluster, one.pod, one.to);
        let mut one = one.clone();
        if pinned {
            one.close.append(&mut one.or);
            one.close.sort_unstable();
        }
        again.push(one);
    }
    again
}

fn worse(a: How, b: How) -> How {
    let rank = |how: &How| match how {
        How::Scheduler => 0,
        How::Led => 1,
        How::Reshuffled => 2,
        How::Unknown(_) => 3,
        How::Impossible => 4,
    };
    if rank(&b) > rank(&a) { b } else { a }
}

/// Names the pods that found no place.
fn note_left(scene: &Scene<'_>, board: &mut Board<'_>, nodes: &[NodeId], emptied: &Emptied, found: &mut Findings) {
    let lists = &scene.ground.snapshot.kube;
    let unread =
        lists.claims.why().is_some() || lists.persistent_volumes.why().is_some() || lists.storage_classes.why().is_some();
    for pod in &emptied.left {
        // What its volumes are is not known: that it finds no place is no finding.
        if unread && !board.scheduler.cluster.pod(*pod).claims.is_empty() {
            let name = board.scheduler.cluster.pod(*pod).object_name();
            found.undecided.insert(format!("where {name} fits: claims, volumes or their classes could not be read"));
            continue;
        }
        let Some(home) = board.scheduler.cluster.node_of(*pod).filter(|node| nodes.contains(node)) else { continue };
        let mark = board.scheduler.cluster.mark();
        let plugs = board.plugs.clone();
        board.plugs.lift(&mut board.scheduler.cluster, *pod);
        let problem = board.scheduler.problem(*pod);
        let detail = if problem.reasons.is_empty() {
            let open = board.scheduler.feasible(*pod);
            format!("the scheduler would place it on {}, where its volume cannot be attached", named(board, &open))
        } else {
            format!("{} nodes: {}", problem.nodes, problem.reasons.join(", "))
        };
        let detail = if emptied.how == How::Impossible { detail } else { format!("no place was found: {detail}") };
        board.scheduler.cluster.roll_back(mark);
        board.plugs = plugs;
        let cluster = &board.scheduler.cluster;
        found.blockers.insert(Blocker {
            node: cluster.node(home).name.clone(),
            code: BlockCode::NoCapacity,
            subject: cluster.pod(*pod).object_name().0,
            detail,
        });
    }
    for node in &board.unknown {
        let name = &board.scheduler.cluster.node(*node).name;
        found.undecided.insert(format!("whether volumes can be attached on {name}: the slots of its VM are unknown"));
    }
    let kube = &scene.ground.snapshot.kube;
    for (what, why) in [("volumeattachments", kube.volume_attachments.why()), ("csinodes", kube.csi_nodes.why())] {
        found.undecided.extend(why.map(|why| format!("where pods with volumes fit: {what} could not be read: {why}")));
    }
}

pub(crate) fn optimality(emptied: &Emptied) -> Optimality {
    let moves = emptied.landings.len() as u64;
    match &emptied.how {
        How::Scheduler => Optimality::of(moves, emptied.bound, "only pods that have to leave move"),
        How::Led => {
            let note = "only pods that have to leave move; the scheduler is led to some places";
            Optimality::of(moves, emptied.bound, note)
        }
        How::Reshuffled => {
            let note = format!("fewest moves, by {}; other pods make room", crate::place::SOLVER);
            Optimality::of(moves, emptied.bound, note)
        }
        How::Impossible => Optimality {
            status: OptimalityStatus::Infeasible,
            note: format!("no arrangement of the pods that may move exists, by {}", crate::place::SOLVER),
            ..Optimality::default()
        },
        How::Unknown(why) => Optimality { status: OptimalityStatus::Unknown, note: why.clone(), ..Optimality::default() },
    }
}

/// Landings as orders. Their sequence is kept: where it comes back to a node, that node has another entry.
pub(crate) fn orders(
    scene: &Scene<'_>,
    cluster: &Cluster<'_>,
    nodes: &[NodeId],
    landings: &[Landing],
    costs: &Costs,
) -> Vec<NodeOrder> {
    let name = |node: NodeId| cluster.node(node).name.clone();
    let mut orders: Vec<NodeOrder> = Vec::new();
    let mut told: BTreeSet<NodeId> = BTreeSet::new();
    let mut begin = |node: NodeId, orders: &mut Vec<NodeOrder>| {
        let cost = if told.insert(node) { costs.get(&node).copied().unwrap_or_default() } else { Cost::default() };
        orders.push(NodeOrder { node: name(node), cost, pods: Vec::new() });
    };
    for (place, one) in landings.iter().enumerate() {
        // Pods of other nodes make room for the node whose pods come next.
        let heading = landings[place..].iter().map(|next| next.from).find(|from| nodes.contains(from)).unwrap_or(one.from);
        if orders.last().is_none_or(|last| last.node != name(heading)) {
            begin(heading, &mut orders);
        }
        if let Some(order) = orders.last_mut() {
            let first = order.pods.is_empty() && place == 0;
            order.pods.push(moved(scene, cluster, one, first));
        }
    }
    // A node that is empty already is part of the order all the same.
    for node in nodes {
        if orders.iter().all(|order| order.node != name(*node)) {
            begin(*node, &mut orders);
        }
    }
    orders
}

/// A landing as the plan tells it.
fn moved(scene: &Scene<'_>, cluster: &Cluster<'_>, one: &Landing, first: bool) -> PodMove {
    let name = |node: NodeId| cluster.node(node).name.clone();
    let names = |list: &[NodeId]| list.iter().map(|node| name(*node)).collect::<Vec<_>>();
    let pod = cluster.pod(one.pod);
    let inventory = &scene.inventory;
    let volumes = inventory.attachable(pod, &scene.ground.policy.attacher);
    let alone = inventory.is_single(pod) && inventory.has_rwo(pod);
    let usual = scene.ground.policy.drain.stagger_seconds;
    let stagger = match turn(scene, pod) {
        Turn::StorageController => usual.max(CONTROLLER_SECONDS),
        Turn::Primary | Turn::Stateful if inventory.has_rwo(pod) => usual,
        Turn::Primary | Turn::Stateful | Turn::Stateless => 0,
    };
    // Once it has moved it is another pod, which nobody has seen yet.
    let is_listed = pod.node.as_ref() == Some(&name(one.from));
    let with = one.together.iter().filter(|other| **other != one.pod).map(|other| cluster.pod(*other).object_name().0);
    PodMove {
        pod: pod.object_name().0,
        uid: if is_listed { pod.uid.clone() } else { String::new() },
        owner: pod.owner_name().unwrap_or_default(),
        from: name(one.from),
        to: Some(name(one.to)),
        or: names(&one.or),
        close: names(&one.close),
        with: with.collect(),
        stagger_seconds: if first { 0 } else { stagger },
        volumes: volumes.into_iter().map(ToString::to_string).collect(),
        downtime_seconds: alone.then_some(REATTACH_SECONDS),
    }
}

/// What there is to say about it.
pub(crate) fn conclude(
    scene: &Scene<'_>,
    board: &Board<'_>,
    nodes: &[NodeId],
    emptied: Emptied,
    found: Findings,
    plan: &mut Plan,
) {
    let cluster = &board.scheduler.cluster;
    let blocked = !found.blockers.is_empty();
    plan.undecided.extend(found.undecided);
    plan.blockers = found.blockers.into_iter().collect();
    plan.warnings.extend(found.warnings);
    let unknown = matches!(emptied.how, How::Unknown(_));
    plan.feasibility = if plan.blockers.iter().any(|one| one.code != BlockCode::NoCapacity) || (blocked && !unknown) {
        Feasibility::Blocked
    } else if unknown || !plan.undecided.is_empty() {
        Feasibility::Undecided
    } else {
        Feasibility::Feasible
    };
    // What rests on something unread proves nothing.
    if plan.feasibility == Feasibility::Undecided && plan.optimality.status == OptimalityStatus::Infeasible {
        let note = "what was not read might change it".to_owned();
        plan.optimality = Optimality { status: OptimalityStatus::Unknown, note, ..Optimality::default() };
        plan.explanation.clear();
    }
    let memory: Bytes = emptied.landings.iter().map(|one| cluster.pod(one.pod).requests.memory).sum();
    let (pods, volumes) = (emptied.landings.len(), plan.moves().map(|one| one.volumes.len()).sum::<usize>());
    match plan.feasibility {
        Feasibility::Feasible => {
            let how = match emptied.how {
                How::Scheduler => "the scheduler finds a place for each, in every way of breaking ties that was tried",
                How::Led => "the scheduler finds a place for each while some nodes are closed",
                How::Reshuffled => "pods of other nodes make room first",
                How::Impossible | How::Unknown(_) => "some stay",
            };
            let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
            let (moving, with) = (plural(pods, "pod"), plural(volumes, "volume"));
            let verb = if pods == 1 { "moves" } else { "move" };
            plan.because.push(format!("{moving} with {memory} of requests and {with} {verb}: {how}"));
            if pods > 0 {
                plan.because
                    .push("every state on the way was tried: requests, affinity, spread and slots hold in each".to_owned());
            }
        }
        Feasibility::Blocked => {
            let mut codes: BTreeMap<BlockCode, usize> = BTreeMap::new();
            plan.blockers.iter().for_each(|one| *codes.entry(one.code).or_default() += 1);
            let codes: Vec<String> = codes.iter().map(|(code, count)| format!("{count} × {}", code.name())).collect();
            plan.because.push(format!("blocked: {}", codes.join(", ")));
        }
        Feasibility::Undecided => plan.because.push("whether it can be done is not certain: see what is undecided".to_owned()),
    }
    if let How::Unknown(why) = &emptied.how {
        plan.undecided.push(format!("whether {} pods find a place: {why}", emptied.left.len()));
    }
    plan.explanation.extend(emptied.why);
    if emptied.left.is_empty() {
        plan.explanation.extend(fullest(scene, board, nodes));
    }
    outages(scene, cluster, nodes, plan);
    // A plan that cannot be carried out has no order of pods.
    if plan.feasibility == Feasibility::Blocked {
        if plan.optimality.status != OptimalityStatus::Infeasible {
            plan.optimality = Optimality::default();
        }
        plan.order.iter_mut().for_each(|order| order.pods.clear());
    }
}

/// The receiver that is fullest afterwards: it decides how much more there could be.
fn fullest(scene: &Scene<'_>, board: &Board<'_>, nodes: &[NodeId]) -> Option<String> {
    let cluster = &board.scheduler.cluster;
    let open = cluster.nodes().filter(|node| !nodes.contains(node) && cluster.node(*node).takes_general_pods());
    let most = open.filter(|node| cluster.node(*node).allocatable.memory.0 > 0).map(|node| {
        let all = cluster.node(node).allocatable.memory.0;
        let free = cluster.free(node, "memory");
        (node, (all - free.min(all)) as f64 / all as f64, free)
    });
    let (node, share, free) = most.max_by(|a, b| a.1.total_cmp(&b.1))?;
    let name = &cluster.node(node).name;
    let slots = cluster.free_volumes(node, &scene.ground.policy.attacher).into_iter().chain(board.plugs.free(name)).min();
    let slots = slots.map_or_else(String::new, |slots| format!(" and {slots} volume slots"));
    Some(format!(
        "the fullest receiver is {name}: {:.1}% of its memory is requested then, {} free{slots}",
        share * 100.0,
        Bytes(free)
    ))
}

/// What is away for a while.
fn outages(scene: &Scene<'_>, cluster: &Cluster<'_>, nodes: &[NodeId], plan: &mut Plan) {
    let single: Vec<String> = plan.moves().filter(|one| one.downtime_seconds.is_some()).map(|one| one.pod.clone()).collect();
    if !single.is_empty() {
        let (least, most) = REATTACH_SECONDS;
        plan.warnings
            .push(format!("away for {least} to {most} s each while their volume moves, there is only one: {}", some(&single)));
    }
    for pod in nodes.iter().flat_map(|node| leaving(cluster, *node)).map(|pod| cluster.pod(pod)) {
        if !Inventory::is_storage_controller(pod) {
            continue;
        }
        let users: Vec<String> = scene.inventory.consumers(pod).iter().map(|user| user.object_name().0).collect();
        if !users.is_empty() {
            let text = format!(
                "{} serves a volume to {}: stop these first, their session ends after 120 s",
                pod.object_name(),
                some(&users)
            );
            plan.warnings.push(text);
        }
    }
    let waits = |pod: &&capplan_model::kube::Pod| pod.node.is_none() && !pod.is_terminal() && !pod.scheduling.gated;
    let waiting = scene.ground.snapshot.kube.pods.items().iter().filter(waits).count();
    if waiting > 0 && plan.moves().next().is_some() {
        plan.warnings.push(format!("{waiting} pods wait for a place already: they may take room that this plan counts on"));
    }
    if plan.action == Action::Evacuate && scene.ground.snapshot.hosts().count() == 1 {
        plan.warnings.push("it is the only host: its nodes have nowhere to go but each other".to_owned());
    }
}
