//! Nothing: no option is due, none helps, or that cannot be said.

use capplan_model::plan::{Action, Feasibility, Plan};

use super::{Applies, Choice};
use crate::decide::{Case, Tried, insufficient};

pub(super) const OPTION: Choice = Choice { action: Action::None, applies: Applies::Always, moves_disks: false, attempt };

/// Says why nothing is done; always works.
fn attempt(case: &Case<'_, '_>) -> Tried {
    let (action, feasibility, because) = if !case.is_due() {
        if let Some(why) = case.unread_endpoint() {
            return Tried::Works(Box::new(insufficient(vec![why], case.empty.clone())));
        }
        (Action::None, Feasibility::Feasible, "no rule for another worker holds".to_owned())
    } else if case.busy_disks().is_some() {
        (Action::IoVeto, Feasibility::Blocked, "nothing here helps: the shared disk is the bottleneck".to_owned())
    } else {
        (Action::None, Feasibility::Blocked, case.none_clears())
    };
    Tried::Works(Box::new(Plan { action, feasibility, because: vec![because], ..case.empty.clone() }))
}
