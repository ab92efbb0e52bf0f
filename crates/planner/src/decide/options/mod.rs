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

use capplan_model::plan::Action;
use capplan_model::policy::Measure;

use super::{Case, Tried};

/// One thing that can be done next.
pub(super) struct Choice {
    /// What it does.
    pub action: Action,
    /// When the question arises.
    pub applies: Applies,
    /// Whether it makes disks busier: where they are busy already, it is not tried.
    pub moves_disks: bool,
    /// Tries it on a copy of the cluster.
    pub attempt: fn(&Case<'_, '_>) -> Tried,
}

/// When an option is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applies {
    /// Where the rules ask for another worker.
    Due,
    /// Where they do not.
    Calm,
    /// In both cases: it says itself what it does in which.
    Always,
}

/// Measures that attached volumes decide.
const ABOUT_ATTACHMENTS: [Measure; 3] = [Measure::VolumeAttachments, Measure::PlannedVolumes, Measure::AttachFailures];

/// The options, the cheapest and least risky first.
pub(super) const OPTIONS: [Choice; 9] = [
    // Costs nothing and moves nothing.
    reclaim::OPTION,
    // Moves pods, and needs no machine.
    rebalance::OPTION,
    // A machine that exists is quicker and safer than a new one.
    wake_spare::OPTION,
    scale_up::OPTION,
    // Only where no rule for another worker is met and no slot is lost.
    scale_down::OPTION,
    raise_volume_label::OPTION,
    // What only a human does comes after what is carried out.
    right_size::OPTION,
    move_claims::OPTION,
    resize_guest::OPTION,
];

/// What is left where no option works: what comes next needs a place, and what is lost is worth having. The last one
/// always works.
pub(super) const LAST_RESORTS: [Choice; 3] = [scale_up::RELIEF, reclaim::ANYWAY, nothing::OPTION];
