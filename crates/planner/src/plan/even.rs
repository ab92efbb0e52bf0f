//! Volumes are spread so that no worker has more attached than a bound: the fewest pods move for it.

use std::collections::BTreeMap;

use super::Scene;
use super::board::{Board, Landing};
use super::reshuffle::{self, NoWay};
use crate::place::{BinState, SLOTS};
use crate::scheduler::NodeId;

/// Landings after which no worker has more than `most` volumes attached, and the least number of moves;
/// the board is as after them. `Err` says why there is none.
pub(crate) fn even_out(scene: &Scene<'_>, board: &mut Board<'_>, most: u64) -> Result<(Vec<Landing>, u64), String> {
    let state = |_: NodeId| BinState::Open;
    let mut sketch = reshuffle::sketch(scene, board, &state, &Default::default(), Some(most));
    sketch.puzzle.strict = sketch.puzzle.dimensions.iter().position(|name| name == SLOTS);
    reshuffle::arrange(scene, board, &sketch, &[], &BTreeMap::new()).map_err(|why| match why {
        NoWay::Impossible => format!("no arrangement of the pods that may move has at most {most} volumes on each worker"),
        NoWay::OutOfTime => "nothing was found in time".to_owned(),
        NoWay::Undecided(why) => why.to_owned(),
    })
}
