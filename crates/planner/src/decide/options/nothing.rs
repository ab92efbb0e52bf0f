//! Nothing: no option is due, none helps, or that cannot be said.

use capplan_model::plan::{Action, Feasibility, Plan};

use crate::decide::{Case, Tried};

/// Says why nothing is done; always works.
pub(super) fn attempt(case: &Case<'_, '_>) -> Tried {
    let (action, feasibility, because) = if !case.is_due() {
        match case.unread_endpoint() {
            Some(why) => (Action::InsufficientData, Feasibility::Undecided, why),
            None => (Action::None, Feasibility::Feasible, "no rule for another worker holds".to_owned()),
        }
    } else if case.busy_disks().is_some() {
        (Action::IoVeto, Feasibility::Blocked, "nothing here helps: the shared disk is the bottleneck".to_owned())
    } else {
        (Action::None, Feasibility::Blocked, case.none_clears())
    };
    let undecided = if action == Action::InsufficientData { vec![because.clone()] } else { Vec::new() };
    Tried::Works(Box::new(Plan { action, feasibility, because: vec![because], undecided, ..case.empty.clone() }))
}
