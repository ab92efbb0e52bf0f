//! The options of a decision, one file each, and the order in which they are tried.

mod move_claims;
mod nothing;
mod raise_volume_label;
mod rebalance;
mod reclaim;
mod resize_guest;
mod right_size;
mod scale_down;
mod scale_up;
mod wake_spare;

pub(super) use reclaim::lost_slots;

use super::{Case, Tried};
use crate::plan::PlanError;

/// One thing that can be done next: it tries itself on a copy of the cluster.
pub(super) type Attempt = fn(&Case<'_, '_>) -> Result<Tried, PlanError>;

/// The options, the cheapest and least risky first.
pub(super) const OPTIONS: [Attempt; 9] = [
    // Costs nothing and moves nothing.
    |case| Ok(reclaim::attempt(case)),
    // Moves pods, and needs no machine.
    |case| Ok(rebalance::attempt(case)),
    // A machine that exists is quicker and safer than a new one.
    |case| Ok(wake_spare::attempt(case)),
    scale_up::attempt,
    // Only where no rule for another worker is met and no slot is lost.
    scale_down::attempt,
    |case| Ok(raise_volume_label::attempt(case)),
    // What only a human does comes after what is carried out.
    |case| Ok(right_size::attempt(case)),
    |case| Ok(move_claims::attempt(case)),
    |case| Ok(resize_guest::attempt(case)),
];

/// What is left where no option works: what comes next needs a place, and what is lost is worth having. The last one
/// always works.
pub(super) const LAST_RESORTS: [Attempt; 3] =
    [scale_up::attempt_relief, |case| Ok(reclaim::attempt_anyway(case)), |case| Ok(nothing::attempt(case))];
