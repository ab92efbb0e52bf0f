//! Which workers can go: chosen, proven, and held against the rules that would bring them back.

use std::collections::BTreeMap;

use capplan_model::Reading;
use capplan_model::disposal::{Moment, objections};
use capplan_model::ids::NodeName;
use capplan_model::plan::{Action, BlockCode, Blocker, Feasibility, Optimality, OptimalityStatus, Plan, Rejected};
use capplan_model::policy::{Direction, Measure};
use capplan_model::pve::{Guest, Pve};
use capplan_model::slots::VolumeSlots;
use capplan_model::units::{Bytes, signed};
use jiff::SignedDuration;

use super::blockers::{self, Findings};
use super::board::{Board, Choice};
use super::cost::in_order;
use super::drain::{self, Costs, Emptied, How};
use super::{Count, PlanError, Removal, Scene, after, reshuffle, steps};
use crate::capacity::node_uses;
use crate::place::{Answer, BinState};
use crate::rules::{Facts, Verdict, judge_all};
use crate::scheduler::NodeId;

/// Candidates whose removal is played one by one: one that can go is enough.
const MOST_TRIED: usize = 20;

/// A set of workers whose removal was played.
struct Tried {
    nodes: Vec<NodeId>,
    found: Findings,
    emptied: Emptied,
    costs: Costs,
}

/// Plans the removal of workers.
///
/// # Errors
/// [`PlanError::NoNode`] if the worker that is named does not exist.
pub(crate) fn plan(scene: &Scene<'_>, mut board: Board<'_>, removal: &Removal, mut plan: Plan) -> Result<Plan, PlanError> {
    let cluster = &board.scheduler.cluster;
    let only = removal.node.as_ref().map(|name| drain::find(cluster, name)).transpose()?;
    let mut workers: Vec<NodeId> = cluster.nodes().filter(|node| !cluster.node(*node).runs_control_plane()).collect();
    drain::by_cost(scene, cluster, &mut workers);
    gates(scene, removal.anyway.as_deref(), &mut plan);
    let asked = only.map_or_else(|| workers.clone(), |node| vec![node]);
    let mut candidates = candidates(scene, &board, &asked, &mut plan);
    if removal.destroy {
        candidates.retain(|node| is_disposable(scene, &board, *node, removal, &mut plan));
    }
    match choose(scene, &mut board, &workers, &candidates, removal.count, &mut plan) {
        Some(tried) => {
            let cluster = &board.scheduler.cluster;
            plan.target = Some(drain::named(&board, &tried.nodes));
            plan.order = drain::orders(scene, cluster, &tried.nodes, &tried.emptied.landings, &tried.costs);
            if plan.optimality.objective.is_none() {
                plan.optimality = drain::optimality(&tried.emptied);
            }
            let mut found = tried.found;
            // The others must be well.
            blockers::look_around(scene, &tried.nodes.iter().map(|node| &cluster.node(*node).name).collect(), &mut found);
            found.blockers.extend(plan.blockers.clone());
            drain::conclude(scene, &board, &tried.nodes, tried.emptied, found, &mut plan);
            plan.steps = steps::of_removal(scene, &board.scheduler.cluster, &plan, removal);
            if removal.destroy && plan.feasibility == Feasibility::Feasible {
                let lost = tried.nodes.iter().filter_map(|node| scene.ground.guest(&board.scheduler.cluster.node(*node).name));
                plan.warnings.splice(0..0, lost.flat_map(|guest| what_goes_with(scene, guest)));
                plan.warnings.insert(0, "the VMs are destroyed with their own disks: there is no way back".to_owned());
            }
        }
        None => {
            plan.feasibility = if plan.undecided.is_empty() { Feasibility::Blocked } else { Feasibility::Undecided };
            let why = if plan.undecided.is_empty() { "no worker can go" } else { "whether a worker can go is not certain" };
            plan.because.insert(0, why.to_owned());
            plan.blockers.sort();
            plan.blockers.dedup();
        }
    }
    Ok(plan)
}

/// Whether the VM of a worker may be destroyed once it is empty; what speaks against it blocks.
fn is_disposable(scene: &Scene<'_>, board: &Board<'_>, node: NodeId, removal: &Removal, plan: &mut Plan) -> bool {
    let name = &board.scheduler.cluster.node(node).name;
    let objections: Vec<String> = match scene.ground.guest(name) {
        None => vec!["which VM it is, is not certain".to_owned()],
        Some(guest) => {
            let agreed = removal.agreed_snapshots(guest);
            let all = objections(scene.ground.snapshot, guest, &agreed, Moment::OnceEmpty);
            all.iter().map(|one| format!("VM {} must not be destroyed: {one}", guest.vmid)).collect()
        }
    };
    for detail in &objections {
        let (node, subject, detail) = (name.clone(), name.to_string(), detail.clone());
        plan.blockers.push(Blocker { node, code: BlockCode::GateFailed, subject, detail });
    }
    if !objections.is_empty() {
        plan.rejected.push(Rejected::of(Action::ScaleDown, name, objections.join("; ")));
    }
    objections.is_empty()
}

/// What is lost with a VM that is destroyed, beside its disks, in words.
fn what_goes_with(scene: &Scene<'_>, guest: &Guest) -> Vec<String> {
    let mut lost = Vec::new();
    for one in guest.snapshots.items() {
        let disks: Vec<&str> = one.disks.values().map(String::as_str).collect();
        lost.push(format!("snapshot {} of VM {} is lost with it: {}", one.name, guest.vmid, disks.join(", ")));
    }
    let mine = |pve: &&Pve| pve.guests.items().iter().any(|one| (&one.host, one.vmid) == (&guest.host, guest.vmid));
    match scene.ground.snapshot.pve.iter().find(mine).map(|pve| &pve.backup_jobs) {
        Some(Reading::Known(jobs)) => {
            let named = jobs.iter().filter(|job| job.vmids.contains(&guest.vmid));
            lost.extend(named.map(|job| format!("backup job {} names VM {}: it is taken out of the job", job.id, guest.vmid)));
        }
        Some(Reading::Unknown { why }) => lost.push(format!("which backup jobs name VM {} is not known: {why}", guest.vmid)),
        None => {}
    }
    lost
}

/// Why the VM of a worker must not be shut down by us: the HA manager does that in a way of its own, and starts it
/// again. `Err` is what could not be read.
pub(crate) fn ha_forbids(guest: &Guest) -> Result<Option<String>, String> {
    match &guest.ha {
        Reading::Known(false) => Ok(None),
        Reading::Known(true) => Ok(Some(format!(
            "the HA manager manages VM {}: `ha-manager remove vm:{}` takes it out first",
            guest.vmid, guest.vmid
        ))),
        Reading::Unknown { why } => Err(format!("whether the HA manager manages VM {}: {why}", guest.vmid)),
    }
}

/// What the policy's rules for a removal say. Those that do not hold block it, unless it is done anyway.
fn gates(scene: &Scene<'_>, anyway: Option<&str>, plan: &mut Plan) {
    let (snapshot, policy) = (scene.ground.snapshot, scene.ground.policy);
    let uses = node_uses(snapshot);
    let slots = VolumeSlots::of_workers(snapshot, &policy.attacher);
    let facts = Facts { snapshot, history: scene.history, policy, uses: &uses, slots: &slots };
    let mut contrary: Vec<(String, String)> = Vec::new();
    for one in judge_all(&facts).iter().filter(|one| one.direction == Direction::Down) {
        let needs = format!("`{}` needs {}", one.rule.id, one.rule.when);
        match one.sustained {
            Verdict::Met => {}
            Verdict::NotMet => {
                let value = one.evidence.value.unwrap_or_default();
                let shown = one.rule.when.show(value);
                let days = one.rule.window.as_hours() / 24;
                contrary.push((one.rule.id.clone(), format!("{needs} for {days} days; it is {shown} now")));
            }
            Verdict::InsufficientData => {
                let why = one
                    .evidence
                    .note
                    .clone()
                    .unwrap_or_else(|| format!("only {:.0}% of its window are sampled", one.evidence.coverage * 100.0));
                contrary.push((one.rule.id.clone(), format!("{needs}, which cannot be judged: {why}")));
            }
        }
    }
    contrary.extend(settling(&facts).map(|why| ("worker-set".to_owned(), why)));
    for (id, why) in contrary {
        match anyway {
            Some(reason) => plan.warnings.push(format!("done anyway ({reason}): {why}")),
            None => plan.blockers.push(Blocker {
                node: NodeName::default(),
                code: BlockCode::GateFailed,
                subject: id,
                detail: format!("{why}; --override REASON plans it anyway"),
            }),
        }
    }
}

/// Whether the set of workers changed within the window of the rules for a removal: what was sampled before
/// says little about the set of today, and one removal must not follow another on the same samples.
pub(crate) fn settling(facts: &Facts<'_>) -> Option<String> {
    let snapshot = facts.snapshot;
    let window = facts.policy.scale_down.rules.iter().map(|rule| rule.window).max()?;
    let start = snapshot.taken - window;
    let days = window.as_hours() / 24;
    let nodes = snapshot.kube.nodes.items();
    // A node that is gone stops being sampled before the others do.
    let gone = facts.history.subjects(capplan_model::capacity::Dimension::MemoryRequests).filter_map(|(subject, series)| {
        let (last, _) = series.last_key_value()?;
        let known = nodes.iter().any(|node| node.name.as_str() == subject);
        (!known && *last >= start).then(|| (subject.to_owned(), snapshot.taken.duration_since(*last)))
    });
    let in_days = |age: SignedDuration| age.as_hours() / 24;
    if let Some((subject, age)) = gone.min_by_key(|(_, age)| *age) {
        return Some(format!("{subject} left {} days ago: wait until {days} days have passed", in_days(age)));
    }
    let created = nodes.iter().filter(|node| !node.is_control_plane()).filter_map(|node| Some((node, node.created?)));
    let newest = created.filter(|(_, created)| *created > start).max_by_key(|(_, created)| *created);
    newest.map(|(node, created)| {
        let age = in_days(snapshot.taken.duration_since(created));
        format!("{} came {age} days ago: wait until {days} days have passed", node.name)
    })
}

/// Workers that nothing but room may keep; the others are rejected with the reason.
fn candidates(scene: &Scene<'_>, board: &Board<'_>, workers: &[NodeId], plan: &mut Plan) -> Vec<NodeId> {
    let cluster = &board.scheduler.cluster;
    let mut candidates = Vec::new();
    for node in workers {
        let receivers: Vec<NodeId> =
            cluster.nodes().filter(|other| other != node && !cluster.node(*other).unschedulable).collect();
        let mut found = Findings::default();
        blockers::look(scene, cluster, *node, &receivers, &mut found);
        let name = &cluster.node(*node).name;
        // What is not known to be its VM cannot be shut down, and would come back.
        let uuid = scene.ground.guest(name).and_then(|guest| guest.config.known()?.uuid.as_ref());
        if uuid.is_none() && scene.ground.snapshot.pve.iter().any(|pve| pve.guests.known().is_some()) {
            let detail = format!("which VM {name} is, is not certain: it could not be shut down");
            let subject = name.to_string();
            found.blockers.insert(Blocker { node: name.clone(), code: BlockCode::GateFailed, subject, detail });
        } else if uuid.is_none() {
            plan.undecided.push(format!("which VM {name} is: Proxmox VE was not read"));
        }
        match scene.ground.guest(name).map(ha_forbids) {
            Some(Ok(Some(detail))) => {
                let subject = name.to_string();
                found.blockers.insert(Blocker { node: name.clone(), code: BlockCode::GateFailed, subject, detail });
            }
            Some(Err(why)) => plan.undecided.push(why),
            Some(Ok(None)) | None => {}
        }
        if found.blockers.is_empty() {
            candidates.push(*node);
        } else {
            reject(plan, &cluster.node(*node).name, &found);
        }
    }
    candidates
}

/// Notes why a worker cannot go.
fn reject(plan: &mut Plan, node: &NodeName, found: &Findings) {
    let mut codes: BTreeMap<BlockCode, Vec<&Blocker>> = BTreeMap::new();
    for one in &found.blockers {
        codes.entry(one.code).or_default().push(one);
    }
    let text = codes.values().map(|list| {
        let more = list.len() - 1;
        let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
        format!("{}: {}: {}{more}", list[0].code.name(), list[0].subject, list[0].detail)
    });
    let why = text.collect::<Vec<_>>().join("; ");
    plan.rejected.push(Rejected::of(Action::ScaleDown, node, why));
    plan.blockers.extend(found.blockers.iter().cloned());
}

/// Chooses the workers; the board is as after their removal.
fn choose(
    scene: &Scene<'_>,
    board: &mut Board<'_>,
    workers: &[NodeId],
    candidates: &[NodeId],
    count: Count,
    plan: &mut Plan,
) -> Option<Tried> {
    match count {
        Count::Exactly(0) => None,
        Count::Exactly(1) => one_of(scene, board, candidates, plan),
        Count::Exactly(_) | Count::Most => several(scene, board, workers, candidates, count, plan),
    }
}

/// The cheapest worker that can go.
fn one_of(scene: &Scene<'_>, board: &mut Board<'_>, candidates: &[NodeId], plan: &mut Plan) -> Option<Tried> {
    let before = board.clone();
    // The time is for all of them together.
    let seconds = scene.seconds.get();
    for node in candidates.iter().take(MOST_TRIED) {
        scene.seconds.set(seconds / candidates.len().min(MOST_TRIED) as f64);
        let tried = try_set(scene, board, &[*node], plan);
        scene.seconds.set(seconds);
        if tried.found.blockers.is_empty() {
            // What blocks the others is told as rejected only.
            plan.blockers.retain(|one| one.node.as_str().is_empty());
            return Some(tried);
        }
        reject(plan, &board.scheduler.cluster.node(*node).name, &tried.found);
        board.clone_from(&before);
    }
    let left = candidates.len().saturating_sub(MOST_TRIED);
    if left > 0 {
        plan.undecided.push(format!("whether one of {left} dearer workers can go: they were not tried"));
    }
    None
}

/// Plays the removal of a set of workers, and holds the state afterwards against the rules.
fn try_set(scene: &Scene<'_>, board: &mut Board<'_>, nodes: &[NodeId], plan: &Plan) -> Tried {
    let mut found = Findings::default();
    let (emptied, costs) = drain::try_to_empty(scene, board, nodes, &mut found);
    let names: Vec<NodeName> = nodes.iter().map(|node| board.scheduler.cluster.node(*node).name.clone()).collect();
    let mut block = |subject: String, detail: String| {
        found.blockers.insert(Blocker { node: names[0].clone(), code: BlockCode::NoCapacity, subject, detail });
    };
    if emptied.left.is_empty() && !matches!(emptied.how, How::Impossible | How::Unknown(_)) {
        let order = drain::orders(scene, &board.scheduler.cluster, nodes, &emptied.landings, &costs);
        let moved = Plan { order, ..plan.clone() };
        let state = after::snapshot(scene, &moved, &names);
        for (rule, why) in after::up_rules_met(scene, &state) {
            block(rule, why);
        }
        for (lost, why) in losses_not_survived(scene, board, nodes) {
            block(lost, why);
        }
    }
    Tried { nodes: nodes.to_vec(), found, emptied, costs }
}

/// Workers whose loss the cluster would not survive, if the policy asks for that: `(worker, why)`.
pub(crate) fn losses_not_survived(scene: &Scene<'_>, board: &mut Board<'_>, gone: &[NodeId]) -> Vec<(String, String)> {
    if !scene.ground.policy.safety.survive_worker_loss {
        return Vec::new();
    }
    let why = "without it as well pods would find no place, and the policy asks to survive that";
    not_survived(scene, board, gone).into_iter().map(|node| (node.to_string(), why.to_owned())).collect()
}

/// Workers whose loss the cluster would not survive: nobody leads the scheduler then.
fn not_survived(scene: &Scene<'_>, board: &mut Board<'_>, gone: &[NodeId]) -> Vec<NodeName> {
    let cluster = &board.scheduler.cluster;
    let left: Vec<NodeId> =
        cluster.nodes().filter(|node| !gone.contains(node) && !cluster.node(*node).runs_control_plane()).collect();
    let mut lost = Vec::new();
    for node in left {
        let (mark, plugs) = (board.scheduler.cluster.mark(), board.plugs.clone());
        board.cordon(node);
        let groups = in_order(scene, &board.scheduler.cluster, node, false);
        let mut rng = fastrand::Rng::with_seed(scene.limits.seed);
        let survives = groups.iter().all(|group| board.relocate(group, &mut Choice::Scheduler(&mut rng)).is_some());
        if !survives {
            lost.push(board.scheduler.cluster.node(node).name.clone());
        }
        board.scheduler.cluster.roll_back(mark);
        board.plugs = plugs;
    }
    lost
}

/// Several workers at once, with the fewest moves.
fn several(
    scene: &Scene<'_>,
    board: &mut Board<'_>,
    workers: &[NodeId],
    candidates: &[NodeId],
    count: Count,
    plan: &mut Plan,
) -> Option<Tried> {
    let state = |node: NodeId| if candidates.contains(&node) { BinState::MayClose } else { BinState::Open };
    let mut sketch = reshuffle::sketch(scene, board, &state, &Default::default(), most_attached(scene));
    sketch.puzzle.keep = kept_memory(scene, board, workers, &sketch.nodes);
    // Half of the time for how many, half for which.
    let seconds = scene.seconds.get() / 2.0;
    let all = candidates.len() as u64;
    let (open, fewest) = match count {
        Count::Exactly(count) => (all.checked_sub(count), None),
        Count::Most => {
            let (open, bound) = sketch.puzzle.fewest_open(seconds)?;
            (u64::try_from(open).ok(), u64::try_from(bound).ok())
        }
    };
    let Some(open) = open else {
        plan.because.push(format!("only {all} workers may go at all"));
        return None;
    };
    let answer = sketch.puzzle.fewest_moves(i64::try_from(open).ok(), false, seconds);
    let (chosen, bound) = match answer {
        Answer::Found { assignment, bound, .. } => {
            let used = |bin: usize| assignment.iter().any(|now| now.get(&bin).is_some_and(|count| *count > 0));
            let empty = (0..sketch.nodes.len()).filter(|bin| state(sketch.nodes[*bin]) == BinState::MayClose && !used(*bin));
            let mut nodes: Vec<NodeId> = empty.map(|bin| sketch.nodes[bin]).collect();
            drain::by_cost(scene, &board.scheduler.cluster, &mut nodes);
            nodes.truncate(usize::try_from(all - open).unwrap_or(usize::MAX));
            (nodes, u64::try_from(bound).unwrap_or(0))
        }
        Answer::Impossible => {
            plan.optimality = Optimality {
                status: OptimalityStatus::Infeasible,
                note: format!("no arrangement of the pods leaves {} workers empty, by {}", all - open, crate::place::SOLVER),
                ..Optimality::default()
            };
            plan.because.push(format!("{} workers cannot go: no arrangement of the pods leaves so many empty", all - open));
            return None;
        }
        Answer::Unknown => {
            plan.undecided.push(format!("whether {} workers can go: nothing was found in time", all - open));
            return None;
        }
    };
    if chosen.is_empty() {
        plan.because.push("no worker can be emptied".to_owned());
        return None;
    }
    let mut closed = chosen;
    let before = board.clone();
    let mut tried = try_set(scene, board, &closed, plan);
    // What does not pass may do so with the dearest left out: one, then more at a time.
    let mut fewer = 1;
    while count == Count::Most && !tried.found.blockers.is_empty() && closed.len() > 1 {
        closed.truncate(closed.len().saturating_sub(fewer).max(1));
        fewer *= 2;
        board.clone_from(&before);
        tried = try_set(scene, board, &closed, plan);
    }
    let all_of_them = closed.len() as u64 == all - open;
    let moves = tried.emptied.landings.len() as u64;
    let so_many = match fewest {
        Some(fewest) if fewest < open || !all_of_them => format!("{} of {all} go, {} at most", closed.len(), all - fewest),
        Some(_) => format!("{} of {all} go, proven the most", closed.len()),
        None => format!("{} of {all} go", closed.len()),
    };
    plan.because.push(so_many);
    if tried.emptied.left.is_empty() && !all_of_them {
        let note = "fewest of these workers; other sets of as many were not compared".to_owned();
        let status = OptimalityStatus::Feasible;
        plan.optimality = Optimality { status, objective: Some(moves as f64), note, ..Optimality::default() };
    }
    if tried.emptied.left.is_empty() && all_of_them {
        let note = format!("fewest moves of any {} workers, by {}", closed.len(), crate::place::SOLVER);
        plan.optimality = Optimality::of(moves, bound, note);
    }
    plan.blockers.retain(|one| one.node.as_str().is_empty());
    Some(tried)
}

/// Most volumes that may be attached to one worker so that no rule for another worker holds.
pub(crate) fn most_attached(scene: &Scene<'_>) -> Option<u64> {
    let rules = scene.ground.policy.scale_up.rules.iter().filter(|rule| rule.measure == Measure::VolumeAttachments);
    let allowed = rules.filter_map(|rule| (0..=64_u64).rev().find(|count| !rule.when.holds(*count as f64)));
    allowed.min()
}

/// Memory that the workers which stay must have so that no rule about requests holds: by bin, and the sum.
fn kept_memory(scene: &Scene<'_>, board: &Board<'_>, workers: &[NodeId], bins: &[NodeId]) -> Option<(Vec<i64>, i64)> {
    let cluster = &board.scheduler.cluster;
    let rules = scene.ground.policy.scale_up.rules.iter().filter(|rule| rule.measure == Measure::MemoryRequests);
    let most = rules.map(|rule| rule.when.value).reduce(f64::min).filter(|share| *share > 0.0)?;
    let amount = |node: NodeId| if workers.contains(&node) { cluster.node(node).allocatable.memory.0 } else { 0 };
    let amounts: Vec<i64> = bins.iter().map(|node| signed(amount(*node))).collect();
    // DaemonSets' pods of those that go ask for nothing any more: at least what moves has to be kept.
    let moving = workers.iter().flat_map(|node| cluster.pods_on(*node)).map(|pod| cluster.pod(*pod));
    let asked = moving.filter(|pod| !pod.belongs_to_node()).map(|pod| pod.requests.memory).sum::<Bytes>().0;
    Some((amounts, (asked as f64 / most).ceil() as i64))
}
