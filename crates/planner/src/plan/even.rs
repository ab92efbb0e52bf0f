//! Volumes are spread so that no worker has more attached than a bound: the fewest pods move for it.

use std::collections::BTreeMap;

use super::Scene;
use super::board::{Board, Landing};
use super::reshuffle;
use crate::place::{Answer, BinState, SLOTS};
use crate::scheduler::NodeId;

/// Landings after which no worker has more than `most` volumes attached, and the least number of moves;
/// the board is as after them. `Err` says why there is none.
pub(super) fn even_out(scene: &Scene<'_>, board: &mut Board<'_>, most: u64) -> Result<(Vec<Landing>, u64), String> {
    let state = |_: NodeId| BinState::Open;
    let mut sketch = reshuffle::sketch(scene, board, &state, &Default::default(), Some(most));
    sketch.puzzle.strict = sketch.puzzle.dimensions.iter().position(|name| name == SLOTS);
    if !sketch.puzzle.is_solvable() {
        return Err("the cluster is too large for the solver".to_owned());
    }
    let mut bound = 0;
    for stricter in [false, true] {
        match sketch.puzzle.fewest_moves(None, stricter, scene.seconds.get()) {
            Answer::Found { assignment, bound: found, .. } => {
                if !stricter {
                    bound = u64::try_from(found).unwrap_or(0);
                }
                if let Some(landings) = reshuffle::in_sequence(scene, board, &sketch, &assignment, &[], &BTreeMap::new()) {
                    return Ok((landings, bound));
                }
            }
            Answer::Impossible if !stricter => {
                return Err(format!("no arrangement of the pods that may move has at most {most} volumes on each worker"));
            }
            Answer::Impossible => {}
            Answer::Unknown => return Err("nothing was found in time".to_owned()),
        }
    }
    Err("a result exists, but no order of moves that leads to it was found".to_owned())
}
