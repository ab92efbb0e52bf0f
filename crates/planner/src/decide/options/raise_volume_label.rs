//! Raise the volume label: the scheduler takes a worker for full whose VM has free slots.

use capplan_model::plan::{Action, Feasibility, Plan};
use capplan_model::slots::PLUGIN_SLOTS;

use super::{Applies, Choice};
use crate::decide::{Case, Tried};
use crate::plan::steps::Steps;

pub(super) const OPTION: Choice =
    Choice { action: Action::RaiseVolumeLabel, applies: Applies::Calm, moves_disks: false, attempt };

/// Sets the label of every worker that is full by its label only. It clears no rule about attached volumes.
fn attempt(case: &Case<'_, '_>) -> Tried {
    let mut list = Steps::default();
    let mut nodes = Vec::new();
    for one in case.facts.slots.known().into_iter().flatten() {
        let (Some(Some(advertised)), Some(counted), Some(config)) =
            (one.advertised.known(), one.counted.known(), one.config.known())
        else {
            continue;
        };
        let real = config.real();
        let full = counted.len() as u64 >= *advertised;
        if full && *advertised < real && config.occupied() < PLUGIN_SLOTS {
            nodes.push(one.node.to_string());
            list.add_volume_label(&one.node, real);
        }
    }
    if nodes.is_empty() {
        return Tried::NotApplicable;
    }
    Tried::Works(Box::new(Plan {
        action: OPTION.action,
        target: Some(nodes.join(", ")),
        feasibility: Feasibility::Feasible,
        because: vec![format!("the scheduler takes {} for full, its VM has free slots", nodes.join(", "))],
        steps: list.done(),
        ..case.empty.clone()
    }))
}
