//! Other pods make room: the integer program's answer as moves, each possible when its turn comes.

use std::collections::{BTreeMap, BTreeSet};

use super::Scene;
use super::blockers::may_be_asked_to_move;
use super::board::{Board, Choice, Landing};
use super::cost::turn;
use crate::place::{Answer, Assignment, BinState, Sketch};
use crate::scheduler::{NodeId, PodId};

/// What came of it.
pub(crate) enum Reshuffled {
    /// A way, each move possible after those before it; no way moves fewer pods than `bound`.
    Way { landings: Vec<Landing>, bound: u64 },
    /// There is none, and what decides that.
    Impossible { why: Vec<String> },
    /// None was found, none ruled out.
    Unknown { why: String },
}

/// Seconds of the solver for each dimension that might be what is missing.
const EXPLAIN_SECONDS: f64 = 1.0;

/// The puzzle of emptying `closed`. Pods of `excluded` stay out of it: something else forbids their move.
pub(crate) fn sketch(
    scene: &Scene<'_>,
    board: &mut Board<'_>,
    state: &dyn Fn(NodeId) -> BinState,
    excluded: &BTreeSet<(String, String)>,
    most_attached: Option<u64>,
) -> Sketch {
    let inventory = &scene.inventory;
    let moves = |pod: &capplan_model::kube::Pod, node: NodeId| {
        if pod.belongs_to_node() || pod.deleting.is_some() || excluded.contains(&(pod.namespace.clone(), pod.name.clone())) {
            return false;
        }
        match state(node) {
            BinState::Closed | BinState::MayClose => pod.owner.is_some(),
            BinState::Open => {
                let shares = inventory.volumes(pod).any(|volume| inventory.other_users(&volume.name, pod).next().is_some());
                may_be_asked_to_move(scene, pod) && !shares
            }
        }
    };
    Sketch::of(&mut board.scheduler, &board.plugs, state, &moves, most_attached)
}

/// Looks for a way to empty `closed`, which the board has cordoned, with the fewest moves.
pub(crate) fn make_room(
    scene: &Scene<'_>,
    board: &mut Board<'_>,
    closed: &[NodeId],
    excluded: &BTreeSet<(String, String)>,
    groups: &BTreeMap<PodId, Vec<PodId>>,
) -> Reshuffled {
    let state = |node: NodeId| if closed.contains(&node) { BinState::Closed } else { BinState::Open };
    let sketch = sketch(scene, board, &state, excluded, None);
    match arrange(scene, board, &sketch, closed, groups) {
        Ok((landings, bound)) => Reshuffled::Way { landings, bound },
        Err(NoWay::Impossible) => Reshuffled::Impossible { why: explain(board, &sketch, scene.seconds.get()) },
        Err(NoWay::OutOfTime) => Reshuffled::Unknown { why: format!("no way was found in {} s", scene.seconds.get()) },
        Err(NoWay::Undecided(why)) => Reshuffled::Unknown { why: why.to_owned() },
    }
}

/// Why no moves solve a puzzle.
pub(crate) enum NoWay {
    /// There are none.
    Impossible,
    /// None were found in time.
    OutOfTime,
    /// None were found for another reason.
    Undecided(&'static str),
}

/// Solves a puzzle by moves that are possible one after the other: these, and the least number of moves;
/// the board is as after them.
pub(crate) fn arrange(
    scene: &Scene<'_>,
    board: &mut Board<'_>,
    sketch: &Sketch,
    closed: &[NodeId],
    groups: &BTreeMap<PodId, Vec<PodId>>,
) -> Result<(Vec<Landing>, u64), NoWay> {
    if !sketch.puzzle.is_solvable() {
        return Err(NoWay::Undecided("the cluster is too large for the solver"));
    }
    let mut bound = 0;
    for stricter in [false, true] {
        match sketch.puzzle.fewest_moves(None, stricter, scene.seconds.get()) {
            Answer::Found { assignment, bound: found, .. } => {
                // What is asked beyond the scheduler's rules makes no bound.
                if !stricter {
                    bound = u64::try_from(found).unwrap_or(0);
                }
                if let Some(landings) = in_sequence(scene, board, sketch, &assignment, closed, groups) {
                    return Ok((landings, bound));
                }
            }
            Answer::Impossible if !stricter => return Err(NoWay::Impossible),
            Answer::Impossible => {}
            Answer::Unknown => return Err(NoWay::OutOfTime),
        }
    }
    Err(NoWay::Undecided("a result exists, but no order of moves that leads to it was found"))
}

/// What decides that there is no way: for each dimension, how little more of it would be enough.
fn explain(board: &Board<'_>, sketch: &Sketch, seconds: f64) -> Vec<String> {
    let cluster = &board.scheduler.cluster;
    let puzzle = &sketch.puzzle;
    let lonely: Vec<String> = puzzle
        .kinds
        .iter()
        .zip(&sketch.pods)
        .filter(|(kind, _)| {
            let open = |bin: &usize| puzzle.bins[*bin].state != BinState::Closed;
            !kind.may_go.iter().any(open) && kind.home.keys().any(|bin| !open(bin))
        })
        .flat_map(|(_, pods)| pods.values().flatten())
        .map(|pod| cluster.pod(*pod).object_name().0)
        .collect();
    if !lonely.is_empty() {
        return vec![format!("no other node takes {} even if nothing else were there", super::drain::some(&lonely))];
    }
    let mut why = Vec::new();
    for (dimension, name) in puzzle.dimensions.iter().enumerate() {
        let Some(missing) = puzzle.missing(dimension, EXPLAIN_SECONDS.min(seconds / 10.0)) else { continue };
        let shown = |amount: i64| crate::simulate::shown_amount(name, u64::try_from(amount).unwrap_or(0));
        why.push(match missing.enough {
            Some(by_bin) => {
                let places: Vec<String> = by_bin.keys().map(|bin| cluster.node(sketch.nodes[*bin]).name.to_string()).collect();
                let enough: i64 = by_bin.values().sum();
                let least =
                    if missing.at_least < enough { format!("; at least {}", shown(missing.at_least)) } else { String::new() };
                format!("with {} less requested on {} it would fit{least}", shown(enough), places.join(", "))
            }
            None => format!("at least {} are missing", shown(missing.at_least)),
        });
    }
    if why.is_empty() {
        why.push("no single resource decides it: several are short at once, or rules between pods forbid it".to_owned());
    }
    why
}

/// Pods that have to leave a bin, and where theirs are wanted.
struct Pending {
    pod: PodId,
    kind: usize,
    from: usize,
}

/// Turns an assignment into moves that are possible one after the other. The board is as after them if
/// that works, and as before otherwise.
fn in_sequence(
    scene: &Scene<'_>,
    board: &mut Board<'_>,
    sketch: &Sketch,
    assignment: &Assignment,
    closed: &[NodeId],
    groups: &BTreeMap<PodId, Vec<PodId>>,
) -> Option<Vec<Landing>> {
    let (mark, plugs) = (board.scheduler.cluster.mark(), board.plugs.clone());
    let landings = sequence(scene, board, sketch, assignment, closed, groups);
    if landings.is_none() {
        board.scheduler.cluster.roll_back(mark);
        board.plugs = plugs;
    }
    landings
}

fn sequence(
    scene: &Scene<'_>,
    board: &mut Board<'_>,
    sketch: &Sketch,
    assignment: &Assignment,
    closed: &[NodeId],
    groups: &BTreeMap<PodId, Vec<PodId>>,
) -> Option<Vec<Landing>> {
    let puzzle = &sketch.puzzle;
    let mut wanted: Vec<BTreeMap<usize, i64>> = Vec::new();
    let mut pending: Vec<Pending> = Vec::new();
    for (kind, now) in assignment.iter().enumerate() {
        let home = &puzzle.kinds[kind].home;
        let arrivals = now.iter().map(|(bin, count)| (*bin, count - home.get(bin).copied().unwrap_or(0)));
        wanted.push(arrivals.filter(|(_, count)| *count > 0).collect());
        for (bin, count) in home {
            let leave = usize::try_from((count - now.get(bin).copied().unwrap_or(0)).max(0)).unwrap_or(0);
            let mut pods = sketch.pods[kind][bin].clone();
            let cluster = &board.scheduler.cluster;
            pods.sort_by_cached_key(|pod| (turn(scene, cluster.pod(*pod)), cluster.pod(*pod).object_name()));
            pending.extend(pods.into_iter().take(leave).map(|pod| Pending { pod, kind, from: *bin }));
        }
    }
    // Those that make room go first; then node by node, as the nodes are emptied.
    pending.sort_by_cached_key(|one| {
        let place = closed.iter().position(|node| *node == sketch.nodes[one.from]).map_or(0, |place| place + 1);
        let pod = board.scheduler.cluster.pod(one.pod);
        (place, turn(scene, pod), std::cmp::Reverse(pod.requests.memory), pod.object_name())
    });
    let mut landings = Vec::new();
    while !pending.is_empty() {
        let before = pending.len();
        let mut left = Vec::new();
        for one in pending {
            if let Some(group) = groups.get(&one.pod).filter(|group| group.len() > 1) {
                if group.first() == Some(&one.pod) {
                    landings.extend(board.relocate(group, &mut Choice::Fullest)?);
                }
                continue;
            }
            let targets: Vec<usize> = wanted[one.kind].keys().copied().collect();
            let landing = targets.into_iter().find_map(|bin| Some((bin, board.move_to(one.pod, sketch.nodes[bin])?)));
            match landing {
                Some((bin, landing)) => {
                    if let Some(count) = wanted[one.kind].get_mut(&bin) {
                        *count -= 1;
                    }
                    wanted[one.kind].retain(|_, count| *count > 0);
                    landings.push(landing);
                }
                None => left.push(one),
            }
        }
        pending = left;
        // Each waits for another one. None steps aside: a successor's name and UID are not known beforehand.
        if pending.len() == before {
            return None;
        }
    }
    Some(landings)
}
